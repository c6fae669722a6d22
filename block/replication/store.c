/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the store of a shared disk, secondary side.
 *
 *      guest            NBD server, for the primary
 *        |                     |
 *   replication        replication-store
 *        |                     |
 *      active                  |
 *        |                     |
 *      hidden  <---------------+
 *        |
 *      image, which the primary overwrites
 *
 * Before the primary overwrites something in the image it puts here what was
 * there.  This filter, above the hidden overlay, sees to two things:
 *
 *  - A put waits for reads of the guest that have found nothing in the hidden
 *    overlay and are on their way to the image, and holds up those that begin
 *    meanwhile (BDRV_REQ_SERIALISING).  When it is answered, and the primary
 *    goes on, nobody is between the overlay and the image.
 *  - What was put first stays: what is allocated already is left alone.
 *
 * A put never overlaps with another one that is under way: the primary sees
 * to that, and a peer that does not harms only its own secondary.
 *
 * Requests come in any thread.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/iov.h"
#include "qemu/module.h"
#include "block/block-io.h"
#include "block/block_int.h"

static int store_open(BlockDriverState *bs, QDict *options, int flags,
                      Error **errp)
{
    int ret = bdrv_open_file_child(NULL, options, "file", bs, errp);

    if (ret < 0) {
        return ret;
    }

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    bs->supported_write_flags = BDRV_REQ_WRITE_UNCHANGED |
        (BDRV_REQ_FUA & bs->file->bs->supported_write_flags);
    bs->supported_zero_flags = BDRV_REQ_WRITE_UNCHANGED |
        ((BDRV_REQ_FUA | BDRV_REQ_NO_FALLBACK) &
         bs->file->bs->supported_zero_flags);
    return 0;
}

static void store_child_perm(BlockDriverState *bs, BdrvChild *c,
                             BdrvChildRole role,
                             BlockReopenQueue *reopen_queue,
                             uint64_t perm, uint64_t shared,
                             uint64_t *nperm, uint64_t *nshared)
{
    bdrv_default_perms(bs, c, role, reopen_queue, perm, shared, nperm,
                       nshared);
    /* The overlay above reads and, at a checkpoint, all is thrown away */
    *nshared = BLK_PERM_ALL;
    /* Who puts does not read, and must not keep off the job that folds */
    *nperm &= ~BLK_PERM_CONSISTENT_READ;
}

static int64_t coroutine_fn GRAPH_RDLOCK
store_co_getlength(BlockDriverState *bs)
{
    return bdrv_co_getlength(bs->file->bs);
}

static int coroutine_fn GRAPH_RDLOCK
store_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    return bdrv_co_preadv(bs->file, offset, bytes, qiov, flags);
}

/*
 * How many bytes at @offset are of a kind: @absent or not.  Negative errno on
 * failure.
 */
static int64_t coroutine_fn GRAPH_RDLOCK
store_next(BlockDriverState *bs, int64_t offset, int64_t bytes, bool *absent)
{
    int64_t n;
    int ret = bdrv_co_is_allocated(bs->file->bs, offset, bytes, &n);

    if (ret < 0) {
        return ret;
    }
    *absent = !ret;
    /* No progress: beyond the end, which the block layer has refused */
    return n > 0 ? n : -EIO;
}

static int coroutine_fn GRAPH_RDLOCK
store_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    size_t done = 0;

    while (done < bytes) {
        bool absent;
        int64_t n = store_next(bs, offset + done, bytes - done, &absent);
        int ret = 0;

        if (n < 0) {
            return n;
        }
        if (absent) {
            ret = bdrv_co_pwritev_part(bs->file, offset + done, n, qiov, done,
                                       flags | BDRV_REQ_SERIALISING);
        }
        if (ret < 0) {
            return ret;
        }
        done += n;
    }
    return 0;
}

static int coroutine_fn GRAPH_RDLOCK
store_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       BdrvRequestFlags flags)
{
    while (bytes) {
        bool absent;
        int64_t n = store_next(bs, offset, bytes, &absent);
        int ret = 0;

        if (n < 0) {
            return n;
        }
        if (absent) {
            ret = bdrv_co_pwrite_zeroes(bs->file, offset, n,
                                        flags | BDRV_REQ_SERIALISING);
        }
        if (ret < 0) {
            return ret;
        }
        offset += n;
        bytes -= n;
    }
    return 0;
}

static BlockDriver bdrv_replication_store = {
    .format_name                = "replication-store",
    .is_filter                  = true,

    .bdrv_open                  = store_open,
    .bdrv_child_perm            = store_child_perm,

    .bdrv_co_getlength          = store_co_getlength,
    .bdrv_co_preadv             = store_co_preadv,
    .bdrv_co_pwritev            = store_co_pwritev,
    .bdrv_co_pwrite_zeroes      = store_co_pwrite_zeroes,
};

static void bdrv_replication_store_init(void)
{
    bdrv_register(&bdrv_replication_store);
}

block_init(bdrv_replication_store_init);
