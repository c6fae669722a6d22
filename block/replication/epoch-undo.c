/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the epoch store of a secondary whose guest runs: undo.
 *
 * The disk has what the primary writes at once; what it overwrites is copied to
 * the hidden overlay before, for the guest to see.  See the head of
 * secondary.c.
 *
 * A backup job with sync=none does that.  As
 * its target has the source for a backing file, it writes with
 * BDRV_REQ_SERIALISING, thus waits for reads of the guest that are on their
 * way through the hidden overlay to the disk, and these never see what is
 * newer than the checkpoint.
 *
 * In hybrid mode both guests write much the same.  What the active overlay has
 * the guest does not see below any more, until the overlay is emptied, and so
 * it need not be copied: see spare_copies().
 *
 * The job also keeps others from resizing, or taking snapshots of, any part
 * of this, up to the top.
 *
 * A commit empties both overlays and has all be copied again: overlays.c.
 *
 * All is under the BQL, but the copying.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/block-copy.h"
#include "block/block_backup.h"
#include "block/aio-wait.h"
#include "block/block_int.h"
#include "block/blockjob_int.h"
#include "block/copy-before-write.h"
#include "block/dirty-bitmap.h"
#include "system/block-backend.h"
#include "trace.h"
#include "internal.h"

static void backup_done(void *opaque, int ret)
{
    BlockDriverState *bs = opaque;
    BDRVReplicationState *s = bs->opaque;

    if (s->backup) {
        Error *err = NULL;

        s->backup = NULL;
        replication_close_hidden(s);
        error_setg_errno(&err, ret < 0 ? -ret : ECANCELED,
                         "nothing is copied any more before the primary "
                         "writes to the disk");
        replication_fail(s, err);
    }
    bdrv_unref(bs);
}

/* Wait for requests of the guest that may have looked below @active before */
static void coroutine_fn wait_for_guest(BlockDriverState *active,
                                        int64_t offset, int64_t bytes)
{
    BdrvTrackedRequest req;

    bdrv_co_hold_range(&req, active, offset, bytes);
    bdrv_co_release_range(&req);
}

/* As bdrv_co_is_allocated(), but data and zeroes are the same */
static int coroutine_fn GRAPH_RDLOCK is_allocated(BlockDriverState *bs,
                                                  int64_t offset,
                                                  int64_t bytes,
                                                  int64_t *count)
{
    int ret = bdrv_co_is_allocated(bs, offset, bytes, count);

    while (ret > 0 && *count < bytes) {
        int64_t more;
        int next = bdrv_co_is_allocated(bs, offset + *count, bytes - *count,
                                        &more);

        if (next <= 0 || !more) {
            break;
        }
        *count += more;
    }
    return ret;
}

/* Copy nothing that @active has in whole clusters */
static void coroutine_fn GRAPH_RDLOCK
spare_clusters(BDRVReplicationState *s, BlockDriverState *active,
               BlockCopyState *bcs, int64_t offset, int64_t bytes)
{
    BdrvDirtyBitmap *due = block_copy_dirty_bitmap(bcs);
    int64_t cluster = block_copy_cluster_size(bcs);
    int64_t length = bdrv_dirty_bitmap_size(due);
    int64_t end = MIN(offset + bytes, length);

    while (bdrv_dirty_bitmap_next_dirty_area(due, offset, end, INT64_MAX,
                                             &offset, &bytes)) {
        int ret = is_allocated(active, offset, bytes, &bytes);

        if (ret < 0) {
            return; /* copying is never wrong */
        }
        if (ret && offset + bytes < length) {
            bytes = QEMU_ALIGN_DOWN(bytes, cluster);
        }
        if (ret && bytes) {
            wait_for_guest(active, offset, bytes);
            block_copy_reset(bcs, offset, bytes);
            trace_replication_spared(replication_name(s), offset, bytes);
        }
        offset = QEMU_ALIGN_UP(offset + MAX(bytes, 1), cluster);
    }
}

/*
 * The filter is no parent of the active overlay, so that may be drained, to be
 * reopened say, while the filter is at work.
 */
static void coroutine_fn spare_copies(void *opaque, BlockCopyState *bcs,
                                      int64_t offset, int64_t bytes)
{
    BDRVReplicationState *s = opaque;
    BlockDriverState *active;

    assume_graph_lock(); /* the filter has it */
    active = replication_active(s);
    bdrv_inc_in_flight(active);
    smp_mb__after_rmw();
    if (!qatomic_read(&active->quiesce_counter)) {
        spare_clusters(s, active, bcs, offset, bytes);
    }
    bdrv_dec_in_flight(active);
}

/* The filter of the job */
static BlockDriverState *GRAPH_RDLOCK find_filter(BDRVReplicationState *s)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &blk_bs(s->hidden)->parents, next_parent) {
        BlockDriverState *parent = c->klass->parent_is_bds ? c->opaque : NULL;

        if (parent && parent->drv && !strcmp(c->name, "target") &&
            !strcmp(parent->drv->format_name, "copy-before-write")) {
            return parent;
        }
    }
    g_assert_not_reached();
}

/* End it.  Drains all: the NBD clients are shut out, or well-behaved. */
static void stop_backup(BDRVReplicationState *s)
{
    BlockJob *job = s->backup;

    s->backup = NULL;
    if (job) {
        job_cancel_sync(&job->job, true);
    }
}

static bool start_backup(BDRVReplicationState *s, BlockDriverState *top,
                         Error **errp)
{
    BackupPerf perf = { .max_workers = 1 };
    BlockDriverState *disk;
    int ret;

    bdrv_graph_rdlock_main_loop();
    disk = replication_disk(s);
    bdrv_graph_rdunlock_main_loop();

    s->backup = backup_job_create(NULL, disk, blk_bs(s->hidden), 0,
                                  MIRROR_SYNC_MODE_NONE, NULL, 0, false, false,
                                  NULL, &perf, BLOCKDEV_ON_ERROR_REPORT,
                                  BLOCKDEV_ON_ERROR_REPORT, JOB_INTERNAL,
                                  backup_done, s->bs, NULL, errp);
    if (!s->backup) {
        return false;
    }
    s->copies_to = bdrv_getlength(disk);
    bdrv_ref(s->bs); /* backup_done() */

    bdrv_graph_wrlock();
    ret = block_job_add_bdrv(s->backup, "top", top, 0, BLK_PERM_ALL, errp);
    bdrv_cbw_set_spare(find_filter(s), spare_copies, s);
    bdrv_graph_wrunlock();
    if (ret < 0) {
        BlockJob *job = s->backup;

        s->backup = NULL;
        job_cancel_sync(&job->job, true);
        return false;
    }
    job_start(&s->backup->job);
    return true;
}

void replication_undo_end(BDRVReplicationState *s)
{
    stop_backup(s);
    replication_close_hidden(s);
}

/* Nobody writes: the guest stands, and so does the primary */
void replication_undo_restart(BDRVReplicationState *s)
{
    Error *err = NULL;
    BlockDriverState *top = bdrv_lookup_bs(s->top_id, s->top_id, &err);
    bool ok;

    stop_backup(s);
    s->restarts = true;
    ok = top && start_backup(s, top, &err);
    s->restarts = false;
    if (ok) {
        return;
    }
    error_prepend(&err, "what the primary overwrites cannot be copied any "
                  "more: ");
    qatomic_set(&s->spent, true);
    replication_fail(s, err);
}

/* See to it that the guest here sees what the primary overwrites */
static bool start_preserving(BDRVReplicationState *s, BlockDriverState *top,
                             Error **errp)
{
    BlockDriverState *disk;

    if (s->shared_disk) {
        bdrv_graph_rdlock_main_loop();
        disk = replication_disk(s);
        bdrv_graph_rdunlock_main_loop();
        return replication_claim_is_held(s, disk, errp);
    }
    return start_backup(s, top, errp);
}

static bool undo_start(BDRVReplicationState *s, BlockDriverState *top,
                       Error **errp)
{
    if (!replication_open_hidden(s, errp) ||
        !replication_empty(s, false, errp) ||
        !start_preserving(s, top, errp)) {
        replication_close_hidden(s);
        return false;
    }
    return true;
}

static bool undo_begin_commit(BDRVReplicationState *s, Error **errp)
{
    return replication_empty_begin(s, true, errp);
}

static bool undo_commit(BDRVReplicationState *s, Error **errp)
{
    return replication_empty(s, true, errp);
}

static void undo_begin_stop(BDRVReplicationState *s, Error **errp)
{
    if (!s->emptying) {
        replication_empty_begin_end(s);
    }
}

static bool undo_emptied(BDRVReplicationState *s, uint64_t timeout_ms,
                         Error **errp)
{
    if (!s->emptying) {
        return true;
    }
    if (!replication_empty_wait(s, timeout_ms, errp)) {
        return false;
    }
    s->ended = replication_empty_is_end(s);
    replication_empty_end(s, NULL);
    return true;
}

static void undo_stop(BDRVReplicationState *s, Error **errp)
{
    /* Nobody has begun with it, or waited: Xen, or who could not start */
    while (!s->ended) {
        undo_begin_stop(s, NULL);
        AIO_WAIT_WHILE_UNLOCKED(NULL, !replication_empty_is_done(s));
        s->ended = replication_empty_is_end(s);
        replication_empty_end(s, s->ended ? errp : NULL);
    }
    s->ended = false;
    replication_unclaim(s);
}

static void undo_fail_over(BDRVReplicationState *s, Error **errp)
{
    stop_backup(s);
    replication_close_hidden(s);
    if (s->spent) {
        replication_length_fail_over(s);
        replication_fold_skip(s, errp);
    } else {
        replication_fold_begin(s);
    }
}

static void undo_query(BDRVReplicationState *s, ColoDiskStatistics *stats)
{
    int64_t active, hidden;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    active = bdrv_get_allocated_file_size(replication_active(s));
    hidden = bdrv_get_allocated_file_size(replication_hidden(s));
    stats->has_overlay_bytes = true;
    stats->overlay_bytes = MAX(active, 0) + MAX(hidden, 0);
}

const ReplicationEpochStore replication_undo = {
    .kind = COLO_EPOCH_STORE_KIND_UNDO,
    .start = undo_start,
    .begin_commit = undo_begin_commit,
    .commit = undo_commit,
    .begin_stop = undo_begin_stop,
    .emptied = undo_emptied,
    .stop = undo_stop,
    .fail_over = undo_fail_over,
    .query = undo_query,
};
