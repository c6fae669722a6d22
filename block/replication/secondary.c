/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the secondary's half of the block driver.
 *
 *            guest                     NBD server, for the primary
 *              |                            |
 *         replication                 copy-before-write
 *              |                       |    |
 *           active                     |    |
 *              |                       |    |
 *            hidden  <-----------------+    |
 *              |                            |
 *            disk  <------------------------+
 *
 * The disk always has what the primary has written.  The guest here is to see
 * the disk as of the last checkpoint with its own writes: these go to the
 * active overlay, and before the primary overwrites something on the disk it
 * is copied to the hidden one.  A backup job with sync=none does that.  As
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
 * A checkpoint empties both overlays and has all be copied again.  The guest
 * stands still, and the primary does not write: it waits to be told that the
 * checkpoint has been loaded.  If it writes all the same the checkpoint fails
 * instead of waiting for it.
 *
 * A checkpoint is committed before the overlays are emptied, so this must not be
 * what keeps the guest from going on.  If it fails the disk has just what the
 * guest is to see, and the primary does not write to it: the overlays are spent,
 * that is, nobody looks into them any more.  The session ends, since this guest
 * could not write; and if the primary is gone, a failover has the disk take the
 * place of both.
 *
 * What the primary discards is copied by nobody.  The sink keeps it until the
 * checkpoint after which this guest has discarded it, too: discards.h.
 *
 * A failover first shuts the NBD clients out.  A primary that was only slow
 * may have writes in socket buffers, and these would be neither in the
 * checkpoint nor of this guest.  Then the job ends, and what is left to do is
 * in fold.c.
 *
 * Of a shared disk the disk is the primary's own, read-only here.  There is no
 * job: the primary itself puts into the hidden overlay what it is going to
 * overwrite, by way of store.c, and that is what it has an export
 * of.  A failover needs the right to write to the disk, see
 * claim.c; the rest is the same.
 *
 * All is under the BQL.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-builtin-types.h"
#include "qapi/qapi-commands-block-export.h"
#include "qapi/qapi-events-colo.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "block/aio-wait.h"
#include "block/block-copy.h"
#include "block/block_backup.h"
#include "block/block_int.h"
#include "block/blockjob_int.h"
#include "block/dirty-bitmap.h"
#include "block/export.h"
#include "system/block-backend.h"
#include "trace.h"
#include "block/copy-before-write.h"
#include "deadline.h"
#include "internal.h"

/*
 * The nodes.  NULL unless all three are there.  An overlay that has failed has
 * no driver any more, but it is still there.
 */

BlockDriverState *GRAPH_RDLOCK replication_active(BDRVReplicationState *s)
{
    return s->bs->file->bs;
}

BlockDriverState *GRAPH_RDLOCK replication_hidden(BDRVReplicationState *s)
{
    return child_bs(replication_active(s)->backing);
}

BlockDriverState *GRAPH_RDLOCK replication_disk(BDRVReplicationState *s)
{
    BlockDriverState *hidden = replication_hidden(s);

    return hidden ? child_bs(hidden->backing) : NULL;
}

BdrvChild *GRAPH_RDLOCK replication_data(BDRVReplicationState *s)
{
    return qatomic_read(&s->spent) ? replication_hidden(s)->backing
                                   : s->bs->file;
}

static bool GRAPH_RDLOCK check_overlay(BlockDriverState *bs, Error **errp)
{
    if (!bs->drv || !bs->drv->bdrv_make_empty) {
        error_setg(errp, "overlay '%s' (%s) cannot be emptied: it should be "
                   "qcow2", replication_user_name(bs), bdrv_get_format_name(bs));
        return false;
    }
    return true;
}

static int64_t GRAPH_RDLOCK get_length(BlockDriverState *bs, Error **errp)
{
    int64_t length = bdrv_getlength(bs);

    if (length < 0) {
        error_setg_errno(errp, -length, "cannot tell the length of '%s'",
                         replication_user_name(bs));
    }
    return length;
}

static bool GRAPH_RDLOCK check_lengths(BlockDriverState *active,
                                       BlockDriverState *hidden,
                                       BlockDriverState *disk, Error **errp)
{
    int64_t of_active = get_length(active, errp);
    int64_t of_hidden = of_active < 0 ? -1 : get_length(hidden, errp);
    int64_t of_disk = of_hidden < 0 ? -1 : get_length(disk, errp);

    if (of_disk < 0) {
        return false;
    }
    if (of_active != of_disk || of_hidden != of_disk) {
        error_setg(errp, "the disk '%s' has %" PRId64 " bytes, and so has each "
                   "overlay above it to have, but '%s' has %" PRId64 " and "
                   "'%s' has %" PRId64, replication_user_name(disk), of_disk,
                   replication_user_name(active), of_active,
                   replication_user_name(hidden), of_hidden);
        return false;
    }
    return true;
}

/* Can the primary reach the hidden overlay? */
static bool GRAPH_RDLOCK has_store(BlockDriverState *hidden)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &hidden->parents, next_parent) {
        BlockDriverState *parent = c->klass->parent_is_bds ? c->opaque : NULL;

        if (parent && parent->drv &&
            !strcmp(parent->drv->format_name, "replication-store")) {
            return true;
        }
    }
    return false;
}

/* What is special about the disk if it is shared, or if it is not */
static bool GRAPH_RDLOCK check_disk(BDRVReplicationState *s,
                                    BlockDriverState *disk, Error **errp)
{
    if (!s->shared_disk) {
        if (bdrv_is_read_only(disk)) {
            error_setg(errp, "the secondary's disk '%s' is read-only",
                       replication_user_name(disk));
            return false;
        }
        return true;
    }
    if (!bdrv_is_read_only(disk)) {
        error_setg(errp, "the shared image '%s' is the primary's to write: it "
                   "has to be read-only here", replication_user_name(disk));
        return false;
    }
    if (!has_store(replication_hidden(s))) {
        error_setg(errp, "there is no 'replication-store' above the hidden "
                   "overlay '%s', for the primary",
                   replication_user_name(replication_hidden(s)));
        return false;
    }
    return replication_check_image(disk, s->cache_coherent, errp);
}

/* What has to be right before a start.  Returns the top, or NULL. */
static BlockDriverState *check_chain(BDRVReplicationState *s, Error **errp)
{
    BlockDriverState *top, *active, *hidden, *disk;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    active = replication_active(s);
    hidden = replication_hidden(s);
    disk = replication_disk(s);
    if (!disk) {
        error_setg(errp, "'%s' has to be an overlay over another one over the "
                   "secondary's disk", replication_user_name(active));
        return NULL;
    }
    if (!check_overlay(active, errp) || !check_overlay(hidden, errp)) {
        return NULL;
    }
    if (!check_lengths(active, hidden, disk, errp)) {
        return NULL;
    }
    if (bdrv_is_read_only(s->bs)) {
        error_setg(errp, "the node is read-only");
        return NULL;
    }
    if (!check_disk(s, disk, errp)) {
        return NULL;
    }
    top = bdrv_lookup_bs(s->top_id, s->top_id, errp);
    if (top && !replication_is_above(top, s->bs)) {
        error_setg(errp, "'%s', of 'top-id', is not above the node",
                   s->top_id);
        return NULL;
    }
    return top;
}

/* After a failover that is no news for a session that has begun since */
void replication_report(BDRVReplicationState *s, const Error *err)
{
    if (replication_stage(s) == COLO_DISK_STAGE_RUNNING) {
        replication_report_error(replication_name(s), err);
    } else {
        qapi_event_send_colo_disk_error(error_get_pretty(err));
    }
}

/* The job that copies before the primary writes */

void replication_fail(BDRVReplicationState *s, Error *err)
{
    if (s->error) {
        error_free(err);
        return;
    }
    s->error = err;
    replication_report(s, err);
}

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

/* A session */

static bool secondary_ignores(BDRVReplicationState *s, ReplicationMode role)
{
    /* It has failed over: what is left is a disk like any other */
    return role == REPLICATION_MODE_PRIMARY &&
           s->stage != COLO_DISK_STAGE_IDLE &&
           s->stage != COLO_DISK_STAGE_RUNNING;
}

static BlockDriverState *disk_of(BDRVReplicationState *s)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return replication_disk(s);
}

/* May @exp change the disk behind the guest's back? */
static bool exports_disk(BDRVReplicationState *s, BlockExport *exp)
{
    BlockDriverState *bs = blk_bs(exp->blk);

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return bs && replication_disk(s) &&
           replication_is_above(bs, replication_disk(s)) &&
           !replication_is_above(bs, replication_active(s));
}

/* Can the primary reach the disk? */
static bool is_exported(BDRVReplicationState *s)
{
    g_autoptr(BlockExportInfoList) exports = qmp_query_block_exports(NULL);

    for (BlockExportInfoList *e = exports; e; e = e->next) {
        BlockExport *exp = blk_exp_find(e->value->id);

        if (exp && exports_disk(s, exp)) {
            return true;
        }
    }
    return false;
}

/* See to it that the guest here sees what the primary overwrites */
static bool start_preserving(BDRVReplicationState *s, BlockDriverState *top,
                             Error **errp)
{
    if (s->shared_disk) {
        return replication_claim_is_held(s, disk_of(s), errp);
    }
    return start_backup(s, top, errp);
}

static void secondary_check(BDRVReplicationState *s, Error **errp)
{
    ERRP_GUARD();

    if (!check_chain(s, errp)) {
        error_prepend(errp, "node '%s': ", replication_name(s));
    }
}

static void secondary_start(BDRVReplicationState *s, Error **errp)
{
    ERRP_GUARD();
    BlockDriverState *top;

    if (bdrv_activate(s->bs, errp) < 0) {
        goto fail;
    }
    top = check_chain(s, errp);
    if (!top) {
        goto fail;
    }
    if (!replication_open_hidden(s, errp) ||
        !replication_empty(s, false, errp) ||
        !start_preserving(s, top, errp)) {
        goto fail_hidden;
    }
    replication_sink_commit(disk_of(s));
    s->was_exported = is_exported(s);
    replication_set_stage(s, COLO_DISK_STAGE_RUNNING);
    return;

fail_hidden:
    replication_close_hidden(s);
fail:
    error_prepend(errp, "node '%s': ", replication_name(s));
}

static void secondary_get_error(BDRVReplicationState *s, Error **errp)
{
    if (s->error) {
        error_setg(errp, "node '%s': %s", replication_name(s),
                   error_get_pretty(s->error));
    } else if (s->stage == COLO_DISK_STAGE_RUNNING && s->was_exported &&
               !is_exported(s)) {
        error_setg(errp, "node '%s': the disk below it is not exported any "
                   "more, so it lacks what the primary writes",
                   replication_name(s));
    }
}

/* The primary has said something since, so it lives and can go on alone */
static void secondary_prepare(BDRVReplicationState *s, Error **errp)
{
    ERRP_GUARD();

    secondary_get_error(s, errp);
    if (*errp && !s->error) {
        replication_fail(s, error_copy(*errp));
    }
}

static void secondary_begin_checkpoint(BDRVReplicationState *s, Error **errp)
{
    ERRP_GUARD();

    secondary_prepare(s, errp);
    if (!*errp && !replication_empty_begin(s, true, errp)) {
        error_prepend(errp, "node '%s': ", replication_name(s));
        replication_fail(s, error_copy(*errp));
    }
}

/* Before the end of a session, so that nobody waits with the BQL held then */
static void secondary_begin_stop(BDRVReplicationState *s, Error **errp)
{
    if (!s->error && !s->emptying) {
        replication_empty_begin(s, false, errp);
    }
}

static bool secondary_emptied(BDRVReplicationState *s, uint64_t timeout_ms,
                              Error **errp)
{
    bool committed;

    if (!s->emptying) {
        return true;
    }
    if (!replication_empty_wait(s, timeout_ms, errp)) {
        error_prepend(errp, "node '%s': ", replication_name(s));
        return false;
    }
    committed = replication_empty_is_committed(s);
    s->cleared = replication_empty_end(s, NULL) && !committed;
    return true;
}

static void secondary_checkpoint(BDRVReplicationState *s, Error **errp)
{
    ERRP_GUARD();

    secondary_prepare(s, errp);
    if (!*errp && !replication_empty(s, true, errp)) {
        error_prepend(errp, "node '%s': ", replication_name(s));
        replication_fail(s, error_copy(*errp));
    }
}

/* What the primary has sent is not waited for */
static void give_up_sinks(BlockDriverState *bs)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    replication_sink_give_up(bs);
}

static void secondary_abandon(BDRVReplicationState *s)
{
    g_autoptr(BlockExportInfoList) exports = NULL;
    g_autoptr(strList) shut = NULL;
    BlockExportInfoList *e;
    strList *id;
    Deadline deadline;

    if (s->stage != COLO_DISK_STAGE_RUNNING) {
        return;
    }
    exports = qmp_query_block_exports(NULL);
    for (e = exports; e; e = e->next) {
        BlockExport *exp = blk_exp_find(e->value->id);

        if (exp && exports_disk(s, exp)) {
            QAPI_LIST_PREPEND(shut, g_strdup(e->value->id));
            blk_exp_request_shutdown(exp);
            give_up_sinks(blk_bs(exp->blk));
        }
    }
    deadline_begin(&deadline, QUIET_TIMEOUT_MS);
    for (id = shut; id; id = id->next) {
        AIO_WAIT_WHILE_UNLOCKED(NULL,
                                !deadline.over && blk_exp_find(id->value));
        trace_replication_shut_out(replication_name(s), id->value,
                                   !blk_exp_find(id->value));
    }
    deadline_end(&deadline);
}

static void secondary_take_over(BDRVReplicationState *s, Error **errp)
{
    secondary_abandon(s);
    if (s->shared_disk && replication_claim(s, disk_of(s), errp) < 0) {
        error_prepend(errp, "node '%s': the shared image cannot be taken "
                      "over, as long as the primary has it: ",
                      replication_name(s));
    }
}

static void secondary_stop(BDRVReplicationState *s, bool failover,
                           Error **errp)
{
    ERRP_GUARD();

    replication_sink_end_session(disk_of(s));
    if (failover) {
        secondary_take_over(s, errp);
        if (*errp) {
            return;
        }
        stop_backup(s);
        replication_close_hidden(s);
        if (s->spent) {
            replication_fold_skip(s, errp);
        } else {
            replication_fold_begin(s);
        }
    } else {
        if (!s->error && !s->cleared) {
            replication_empty(s, false, errp);
        }
        s->cleared = false;
        stop_backup(s);
        replication_close_hidden(s);
        replication_unclaim(s);
        replication_set_stage(s, COLO_DISK_STAGE_IDLE);
    }
    if (*errp) {
        error_prepend(errp, "node '%s': ", replication_name(s));
    }
}

static void secondary_query(BDRVReplicationState *s,
                            ColoDiskStatistics *stats)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    if (s->stage == COLO_DISK_STAGE_RUNNING) {
        int64_t active = bdrv_get_allocated_file_size(replication_active(s));
        int64_t hidden = bdrv_get_allocated_file_size(replication_hidden(s));

        stats->has_overlay_bytes = true;
        stats->overlay_bytes = MAX(active, 0) + MAX(hidden, 0);
    }
    replication_fold_query(s, stats);
}

static bool secondary_needs_overlays(BDRVReplicationState *s)
{
    return s->stage != COLO_DISK_STAGE_FOLDED && !s->spent;
}

static void secondary_end(BDRVReplicationState *s)
{
    /* The job that copies has a reference to us: it is no more */
    replication_fold_end(s);
    replication_close_hidden(s);
    replication_unclaim(s);
}

/* What the guest does */

/* A disk that is not in a session may be looked at as part of another one */
static bool coroutine_fn GRAPH_RDLOCK may_request(BDRVReplicationState *s,
                                                  bool is_write)
{
    if (is_write && qatomic_read(&s->spent)) {
        return false;
    }
    return replication_stage(s) != COLO_DISK_STAGE_IDLE ||
           (!is_write && replication_has_node_above(s));
}

static int coroutine_fn GRAPH_RDLOCK
secondary_preadv(BDRVReplicationState *s, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    if (!may_request(s, false)) {
        return -EIO;
    }
    return bdrv_co_preadv(replication_data(s), offset, bytes, qiov, flags);
}

static int coroutine_fn GRAPH_RDLOCK
secondary_pwritev(BDRVReplicationState *s, int64_t offset, int64_t bytes,
                  QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    if (!may_request(s, true)) {
        return -EIO;
    }
    if (flags & BDRV_REQ_FUA) {
        replication_fold_record(s);
    }
    return bdrv_co_pwritev(s->bs->file, offset, bytes, qiov, flags);
}

static int coroutine_fn GRAPH_RDLOCK
secondary_pwrite_zeroes(BDRVReplicationState *s, int64_t offset, int64_t bytes,
                        BdrvRequestFlags flags)
{
    if (!may_request(s, true)) {
        return -EIO;
    }
    if (flags & BDRV_REQ_FUA) {
        replication_fold_record(s);
    }
    return bdrv_co_pwrite_zeroes(s->bs->file, offset, bytes, flags);
}

static int coroutine_fn GRAPH_RDLOCK
secondary_pdiscard(BDRVReplicationState *s, int64_t offset, int64_t bytes)
{
    if (!may_request(s, true)) {
        return -EIO;
    }
    /*
     * After a failover the image decides what becomes of them.  In a session
     * they are of no use, and the user has to ask.
     */
    if (!s->session_discards &&
        replication_stage(s) == COLO_DISK_STAGE_RUNNING) {
        return 0;
    }
    return bdrv_co_pdiscard(s->bs->file, offset, bytes);
}

/*
 * In a session this is only for what the guest has written itself.  If this
 * host fails, the primary goes on with its own image, on which everything is
 * that was flushed; if both fail, nobody needs these overlays, see the
 * generations.  If only the primary fails, the failover flushes the rest.
 */
static int coroutine_fn GRAPH_RDLOCK secondary_flush(BDRVReplicationState *s)
{
    ColoDiskStage stage = replication_stage(s);

    if (stage == COLO_DISK_STAGE_FOLDING ||
        stage == COLO_DISK_STAGE_UNFOLDED) {
        return replication_fold_flush(s);
    }
    return bdrv_co_flush(replication_data(s)->bs);
}

static bool secondary_is_direct(BDRVReplicationState *s)
{
    return true;
}

const ReplicationKind replication_secondary = {
    .ignores = secondary_ignores,
    .check = secondary_check,
    .start = secondary_start,
    .prepare = secondary_prepare,
    .checkpoint = secondary_checkpoint,
    .begin_checkpoint = secondary_begin_checkpoint,
    .begin_stop = secondary_begin_stop,
    .emptied = secondary_emptied,
    .take_over = secondary_take_over,
    .stop = secondary_stop,
    .get_error = secondary_get_error,
    .query = secondary_query,
    .abandon = secondary_abandon,
    .needs_overlays = secondary_needs_overlays,
    .preadv = secondary_preadv,
    .pwritev = secondary_pwritev,
    .pwrite_zeroes = secondary_pwrite_zeroes,
    .pdiscard = secondary_pdiscard,
    .flush = secondary_flush,
    .is_direct = secondary_is_direct,
    .add_child = replication_add_no_child,
    .del_child = replication_del_no_child,
    .end = secondary_end,
};
