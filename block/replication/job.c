/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, primary side: what the jobs have in common that look at both
 * disks, see job.h.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "block/blockjob_int.h"
#include "system/block-backend.h"
#include "job.h"

/* So long an answer is waited for that nobody wants, before its end, ns */
#define GRACE_NS (100 * SCALE_MS)

/* Nodes */

BdrvChild *replication_job_child(BlockDriverState *parent,
                                 BlockDriverState *bs)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &parent->children, next) {
        if (c->bs == bs) {
            return c;
        }
    }
    return NULL;
}

BlockDriverState *replication_job_top(BlockDriverState *node, Error **errp)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &node->parents, next_parent) {
        BlockDriverState *top = c->klass->parent_is_bds ? c->opaque : NULL;

        if (top && top->drv && !strcmp(top->drv->format_name, "quorum")) {
            return top;
        }
    }
    error_setg(errp, "node '%s' is no child of a quorum",
               bdrv_get_node_name(node));
    return NULL;
}

BlockDriverState *replication_job_source(BlockDriverState *top,
                                         BlockDriverState *node,
                                         const char *name, Error **errp)
{
    BlockDriverState *source = NULL;
    BdrvChild *c;

    if (name) {
        source = bdrv_lookup_bs(name, name, errp);
        if (!source) {
            return NULL;
        }
    } else {
        QLIST_FOREACH(c, &top->children, next) {
            if (c->bs != node && source) {
                error_setg(errp, "'%s' has several other children: which one "
                           "is the 'source'?",
                           bdrv_get_device_or_node_name(top));
                return NULL;
            }
            source = c->bs != node ? c->bs : source;
        }
    }
    if (!source) {
        error_setg(errp, "'%s' has no other child to read from",
                   bdrv_get_device_or_node_name(top));
        return NULL;
    }
    if (source == node || !replication_job_child(top, source)) {
        error_setg(errp, "node '%s' is no other child of '%s'",
                   bdrv_get_node_name(source),
                   bdrv_get_device_or_node_name(top));
        return NULL;
    }
    if (bdrv_getlength(top) != bdrv_getlength(node) ||
        bdrv_getlength(top) != bdrv_getlength(source)) {
        error_setg(errp, "nodes '%s' and '%s' have not the same length",
                   bdrv_get_node_name(node), bdrv_get_node_name(source));
        return NULL;
    }
    return source;
}

BlockBackend *replication_job_reader(BlockDriverState *bs, Error **errp)
{
    BlockBackend *blk = blk_new_with_bs(bs, BLK_PERM_CONSISTENT_READ,
                                        BLK_PERM_ALL, errp);

    if (blk) {
        /* Whoever drains waits for the job to pause, and that for its read */
        blk_set_disable_request_queuing(blk, true);
        blk_set_allow_aio_context_change(blk, true);
    }
    return blk;
}

bool replication_job_attach(BlockJob *job, BlockDriverState *node,
                            BlockDriverState *source, Error **errp)
{
    int ret;

    bdrv_graph_wrlock();
    ret = block_job_add_bdrv(job, "node", node, 0, BLK_PERM_ALL, errp);
    if (ret >= 0) {
        ret = block_job_add_bdrv(job, "source", source, 0, BLK_PERM_ALL, errp);
    }
    bdrv_graph_wrunlock();
    return ret >= 0;
}

bool replication_job_check_speed(uint64_t speed, Error **errp)
{
    if (speed > INT64_MAX) {
        error_setg(errp, "'speed' is %" PRIu64 ", it has to be at most %"
                   PRId64, speed, INT64_MAX);
        return false;
    }
    return true;
}

/* Hashes of the other side */

bool replication_hash_check(BlockDriverState *bs, BlockDriverState *disk,
                            BDRVReplicationState *s, bool *direct, Error **errp)
{
    int64_t len, want;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    len = bdrv_getlength(bs);
    want = replication_hash_length(bdrv_getlength(disk));
    /* Or since then the disk has become longer, which a client does not hear */
    if (len != want &&
        !(s->batch && len < want &&
          len == replication_hash_length(s->sink_length))) {
        error_setg(errp, "node '%s' has %" PRId64 " bytes, the hashes of '%s' "
                   "have %" PRId64, bdrv_get_node_name(bs), len,
                   bdrv_get_node_name(disk), want);
        return false;
    }
    if (bs->bl.request_alignment > BDRV_SECTOR_SIZE) {
        error_setg(errp, "node '%s' cannot be read in units of %llu bytes",
                   bdrv_get_node_name(bs), BDRV_SECTOR_SIZE);
        return false;
    }
    return replication_check_peer(bs, direct, errp) >= 0;
}

static void coroutine_fn fetch_entry(void *opaque)
{
    ReplicationHashFetch *f = opaque;
    BlockDriverState *bs = blk_bs(f->blk);
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, f->buf, f->bytes);

    if (f->direct) {
        assume_graph_lock(); /* see primary.c */
        f->ret = bs->drv->bdrv_co_preadv(bs, f->offset, f->bytes, &qiov, 0);
    } else {
        f->ret = blk_co_preadv(f->blk, f->offset, f->bytes, &qiov, 0);
    }
    qatomic_store_release(&f->busy, false);
}

bool replication_hash_busy(ReplicationHashFetch *f)
{
    return qatomic_load_acquire(&f->busy);
}

void replication_hash_begin(ReplicationHashFetch *f, int64_t offset,
                            int64_t bytes)
{
    assert(bytes <= REPLICATION_HASH_MAX_READ);
    f->offset = offset;
    f->bytes = bytes;
    qatomic_set(&f->busy, true);
    aio_co_schedule(qemu_get_aio_context(),
                    qemu_coroutine_create(fetch_entry, f));
}

void coroutine_fn replication_hash_end(ReplicationHashFetch *f)
{
    int64_t end = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + GRACE_NS;

    while (replication_hash_busy(f)) {
        if (f->direct && qemu_clock_get_ns(QEMU_CLOCK_REALTIME) >= end) {
            replication_yank(blk_bs(f->blk));
        }
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, REPLICATION_JOB_POLL_NS);
    }
}

/* The local disk */

bool coroutine_fn replication_job_is_zero(BlockDriverState *source,
                                          int64_t offset, int64_t bytes,
                                          int64_t *n)
{
    int ret = bdrv_co_block_status_above(source, NULL, offset, bytes, n, NULL,
                                         NULL);

    if (ret < 0 || *n <= 0) {
        *n = bytes;
        return false; /* reading tells what is wrong */
    }
    return ret & BDRV_BLOCK_ZERO;
}

int64_t coroutine_fn replication_job_hash(BlockJob *job, BlockBackend *source,
                                          int64_t offset, int64_t bytes,
                                          int64_t max, uint8_t *buf,
                                          uint8_t *hashes, Error **errp)
{
    int64_t n;
    bool zero;
    int ret;

    WITH_GRAPH_RDLOCK_GUARD() {
        zero = replication_job_is_zero(blk_bs(source), offset, bytes, &n);
    }
    if (n < bytes) {
        n = QEMU_ALIGN_DOWN(n, REPLICATION_HASH_CHUNK);
    }
    if (zero && n > 0) {
        replication_hash(NULL, n, hashes);
        return n;
    }
    n = MIN(bytes, max);
    ret = blk_co_pread(source, offset, n, buf, 0);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "could not read the local disk");
        return ret;
    }
    block_job_ratelimit_processed_bytes(job, n);
    replication_hash(buf, n, hashes);
    return n;
}
