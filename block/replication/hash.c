/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the block driver colo-hash, secondary side, and the hashes of
 * both sides.
 *
 * Goal: the primary learns which parts of the secondary's disk differ from
 * its own without reading them over the network.  So the secondary exports,
 * beside the disk, a node of this driver: reading it reads the disk, and what
 * is returned are hashes (hash.h).
 *
 * The disk may be written to meanwhile.  A hash is then one of something that
 * may be half old and half new; whoever compares has to know that
 * (resync.c does).
 *
 * Parts of the disk that are known to be zero are not read.
 *
 * Limits: read-only.  A request for more than REPLICATION_HASH_MAX_READ is
 * refused and not split: whoever drains the node waits for it.
 *
 * Threads: as any block driver, in all that send requests.
 */

#include "qemu/osdep.h"
#define XXH_INLINE_ALL
#include <xxhash.h>
#include "qapi/error.h"
#include "qemu/memalign.h"
#include "qemu/module.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "hash.h"

/* What is read of the disk at a time */
#define PIECE MiB

/* A chunk of zeroes */
static const uint8_t zeroes[REPLICATION_HASH_CHUNK];

int64_t replication_hash_length(int64_t len)
{
    return ROUND_UP(DIV_ROUND_UP(len, REPLICATION_HASH_CHUNK) *
                    REPLICATION_HASH_SIZE, BDRV_SECTOR_SIZE);
}

/* As in migration/colo/ram.c: collisions do not happen by chance */
static void hash_chunk(const uint8_t *buf, size_t bytes, uint8_t *hash)
{
    XXH128_canonical_t out;

    QEMU_BUILD_BUG_ON(sizeof(out) != REPLICATION_HASH_SIZE);
    XXH128_canonicalFromHash(&out, XXH3_128bits(buf, bytes));
    memcpy(hash, &out, sizeof(out));
}

void replication_hash(const uint8_t *buf, int64_t bytes, uint8_t *hashes)
{
    const uint8_t *first = hashes;

    for (int64_t at = 0; at < bytes; at += REPLICATION_HASH_CHUNK) {
        size_t n = MIN(bytes - at, REPLICATION_HASH_CHUNK);

        if (buf) {
            hash_chunk(buf + at, n, hashes);
        } else if (at && n == REPLICATION_HASH_CHUNK) {
            memcpy(hashes, first, REPLICATION_HASH_SIZE);
        } else {
            hash_chunk(zeroes, n, hashes);
        }
        hashes += REPLICATION_HASH_SIZE;
    }
}

/*
 * Hash the beginning of @bytes at @offset of the disk, both as for
 * replication_hash(): how much that was, or a negative errno.
 */
static int64_t coroutine_fn GRAPH_RDLOCK
hash_piece(BlockDriverState *bs, int64_t offset, int64_t bytes, uint8_t *buf,
           uint8_t *hashes)
{
    BlockDriverState *disk = bs->file->bs;
    int64_t n = 0;
    int ret = bdrv_co_block_status_above(disk, NULL, offset, bytes, &n, NULL,
                                         NULL);

    if (ret >= 0 && n < bytes) {
        /* Of a chunk that is not all in it nothing is known */
        n = QEMU_ALIGN_DOWN(n, REPLICATION_HASH_CHUNK);
    }
    if (ret >= 0 && (ret & BDRV_BLOCK_ZERO) && n > 0) {
        replication_hash(NULL, n, hashes);
        return n;
    }
    n = MIN(bytes, PIECE);
    ret = bdrv_co_pread(bs->file, offset, n, buf, 0);
    if (ret < 0) {
        return ret;
    }
    replication_hash(buf, n, hashes);
    return n;
}

static int coroutine_fn GRAPH_RDLOCK
colo_hash_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                    QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    int64_t len = bdrv_co_getlength(bs->file->bs);
    g_autofree uint8_t *hashes = NULL;
    QEMU_AUTO_VFREE uint8_t *buf = NULL;
    int64_t at = replication_hash_place(offset);
    int64_t end = MIN(len, replication_hash_place(offset + bytes));
    uint8_t *p;

    if (len < 0) {
        return len;
    }
    if (bytes > REPLICATION_HASH_MAX_READ) {
        return -EINVAL;
    }
    hashes = g_malloc0(bytes);
    buf = qemu_try_blockalign(bs->file->bs, PIECE);
    if (!buf) {
        return -ENOMEM;
    }
    for (p = hashes; at < end; ) {
        int64_t n = hash_piece(bs, at, end - at, buf, p);

        if (n < 0) {
            return n;
        }
        at += n;
        p += DIV_ROUND_UP(n, REPLICATION_HASH_CHUNK) * REPLICATION_HASH_SIZE;
    }
    qemu_iovec_from_buf(qiov, 0, hashes, bytes);
    return 0;
}

static int64_t coroutine_fn GRAPH_RDLOCK
colo_hash_co_getlength(BlockDriverState *bs)
{
    int64_t len = bdrv_co_getlength(bs->file->bs);

    return len < 0 ? len : replication_hash_length(len);
}

static void colo_hash_refresh_limits(BlockDriverState *bs, Error **errp)
{
    bs->bl.request_alignment = BDRV_SECTOR_SIZE;
    bs->bl.max_transfer = 0;    /* of the disk; nothing is split here */
}

/* Reads, and does not mind who else does what */
static void colo_hash_child_perm(BlockDriverState *bs, BdrvChild *c,
                                 BdrvChildRole role,
                                 BlockReopenQueue *reopen_queue,
                                 uint64_t perm, uint64_t shared,
                                 uint64_t *nperm, uint64_t *nshared)
{
    *nperm = BLK_PERM_CONSISTENT_READ;
    *nshared = BLK_PERM_ALL;
}

static int colo_hash_open(BlockDriverState *bs, QDict *options, int flags,
                          Error **errp)
{
    int ret;

    bdrv_graph_rdlock_main_loop();
    ret = bdrv_apply_auto_read_only(bs, "colo-hash is read-only: it needs "
                                    "'read-only'", errp);
    bdrv_graph_rdunlock_main_loop();
    if (ret < 0) {
        return ret;
    }
    return bdrv_open_file_child(NULL, options, "file", bs, errp);
}

static BlockDriver bdrv_colo_hash = {
    .format_name                = "colo-hash",

    .bdrv_open                  = colo_hash_open,
    .bdrv_child_perm            = colo_hash_child_perm,
    .bdrv_refresh_limits        = colo_hash_refresh_limits,

    .bdrv_co_getlength          = colo_hash_co_getlength,
    .bdrv_co_preadv             = colo_hash_co_preadv,
};

static void bdrv_colo_hash_init(void)
{
    bdrv_register(&bdrv_colo_hash);
}

block_init(bdrv_colo_hash_init);
