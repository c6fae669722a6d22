/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the secondary's half of the block driver, after a failover.
 *
 * The guest runs and sees the disk through both overlays.  A job commits them
 * into the disk meanwhile, which takes their place when it has been flushed
 * after that.  If the job fails, or is cancelled, the guest goes on in the
 * overlays, which have everything still, and x-colo-fold begins another one.
 *
 * What the guest flushes has to outlive this host.  Until the overlays are
 * folded it consists of all three files.  The disk has what the primary wrote,
 * which may not have been flushed, as in a session nobody needs that; the
 * hidden overlay has what was there before; the active one, what the guest
 * wrote.  So a flush is one of all three.  The disk's is for what was there at
 * the failover, and once is enough: what the job writes there is in the
 * overlays as well.  Nor does the guest wait for the job's writes then.
 *
 * A node flushes a child only if it may write to it, so until the overlays are
 * folded we keep the right to write to the disk: s->claim.
 *
 * The job ends in the main loop.  Then the guest may write to the disk already,
 * in an iothread, while the generation still asks for the overlays, which have
 * what was there before.  So what has to be there for good records first that
 * they are folded: replication_fold_record().
 *
 * All is under the BQL, but what the guest does.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-colo.h"
#include "qemu/error-report.h"
#include "block/block_int.h"
#include "block/blockjob_int.h"
#include "block/thread-pool.h"
#include "system/block-backend.h"
#include "trace.h"
#include "internal.h"
#include "job.h"

/* All is in the disk, and we write to that ourselves now */
static void folded(BDRVReplicationState *s)
{
    Error *err = NULL;

    if (!replication_folded(s, &err)) {
        error_prepend(&err, "after a crash it is not known that the overlays "
                      "are in the disk: ");
        error_report("%s", error_get_pretty(err));
        replication_fail(s, err);
    }
    replication_set_stage(s, COLO_DISK_STAGE_FOLDED);
    replication_unclaim(s);
    replication_own_disk(s);
}

static void fold_done(void *opaque, int ret)
{
    BDRVReplicationState *s = opaque;
    Error *err = NULL;

    trace_replication_folded(replication_name(s), ret);
    s->fold = NULL;
    if (ret < 0) {
        error_setg_errno(&err, -ret, "the overlays are not in the disk, and "
                         "are needed until x-colo-fold has succeeded");
        if (ret == -ECANCELED && !s->error) {
            s->error = err; /* as the user wanted it */
        } else {
            replication_fail(s, err);
        }
        replication_set_stage(s, COLO_DISK_STAGE_UNFOLDED);
        return;
    }
    folded(s);
}

/* Has the job put the disk in the place of the overlays? */
static bool GRAPH_RDLOCK is_replaced(BDRVReplicationState *s)
{
    return replication_stage(s) == COLO_DISK_STAGE_FOLDING &&
           replication_active(s) == s->folds_to;
}

static int record_work(void *opaque)
{
    /* fold_done() says if it fails */
    return replication_folded(opaque, NULL) ? 0 : -EIO;
}

void coroutine_fn GRAPH_RDLOCK replication_fold_record(BDRVReplicationState *s)
{
    if (is_replaced(s)) {
        thread_pool_submit_co(record_work, s);
    }
}

/* The disk as the primary has left it */
static int coroutine_fn GRAPH_RDLOCK flush_disk(BDRVReplicationState *s,
                                                BlockDriverState *hidden)
{
    BlockDriverState *disk = hidden ? bdrv_cow_bs(hidden) : NULL;
    int ret;

    if (!disk || qatomic_read(&s->disk_flushed)) {
        return 0;
    }
    ret = s->claim ? bdrv_co_flush(disk) : -EPERM;
    if (ret >= 0) {
        qatomic_set(&s->disk_flushed, true);
    }
    return ret;
}

/* The guest is told as well; this is for who can do something about it */
static void report_flush(BDRVReplicationState *s, const char *what, int ret)
{
    g_autoptr(Error) err = NULL;

    if (ret >= 0 || qatomic_xchg(&s->flush_failed, true)) {
        return;
    }
    error_setg_errno(&err, -ret, "node '%s': the %s cannot be flushed, and the "
                     "disk may not be whole after a crash",
                     replication_name(s), what);
    warn_report("%s", error_get_pretty(err));
    replication_report(s, err);
}

int coroutine_fn GRAPH_RDLOCK replication_fold_flush(BDRVReplicationState *s)
{
    BlockDriverState *active, *hidden;
    int of_disk, of_hidden, of_active;

    if (is_replaced(s)) {
        replication_fold_record(s);
        return bdrv_co_flush(replication_active(s));
    }
    /* The job's filter may be above the active overlay */
    active = bdrv_skip_filters(replication_active(s));
    hidden = bdrv_cow_bs(active);
    of_disk = flush_disk(s, hidden);
    of_hidden = hidden ? bdrv_co_flush(hidden) : 0;
    of_active = bdrv_co_flush(replication_active(s));

    report_flush(s, "disk", of_disk);
    report_flush(s, "hidden overlay", of_hidden);
    report_flush(s, "active overlay", of_active);
    return of_disk < 0 ? of_disk : of_hidden < 0 ? of_hidden : of_active;
}

static void coroutine_fn flush_entry(void *opaque)
{
    BDRVReplicationState *s = opaque;
    int ret;

    WITH_GRAPH_RDLOCK_GUARD() {
        if (replication_stage(s) == COLO_DISK_STAGE_FOLDED) {
            ret = bdrv_co_flush(replication_active(s));
            report_flush(s, "disk", ret);
        } else {
            ret = replication_fold_flush(s);
        }
    }
    trace_replication_flushed(replication_name(s), ret);
    bdrv_dec_in_flight(s->bs);
}

/* Nothing has flushed them: until now they were of no use without this QEMU */
static void flush_all(BDRVReplicationState *s)
{
    bdrv_inc_in_flight(s->bs);
    qemu_coroutine_enter(qemu_coroutine_create(flush_entry, s));
}

/* Keep the right to write to the disk; of a shared one the failover has it */
static bool claim_disk(BDRVReplicationState *s, Error **errp)
{
    BlockDriverState *disk;

    if (s->claim) {
        return true;
    }
    bdrv_graph_rdlock_main_loop();
    disk = replication_disk(s);
    bdrv_graph_rdunlock_main_loop();

    s->claim = blk_new(bdrv_get_aio_context(disk), BLK_PERM_WRITE,
                       BLK_PERM_ALL);
    blk_set_allow_aio_context_change(s->claim, true);
    if (blk_insert_bs(s->claim, disk, errp) < 0) {
        replication_unclaim(s);
        return false;
    }
    return true;
}

/* @speed: bytes a second, 0 for no limit */
static bool start_job(BDRVReplicationState *s, uint64_t speed, Error **errp)
{
    const char *name = s->bs->node_name;
    /* A name that QEMU has made up begins with what no job ID may have */
    g_autofree char *id = g_strdup_printf("replication-%s",
                                          name + (*name == '#'));
    BlockDriverState *active, *disk;

    if (!claim_disk(s, errp)) {
        return false;
    }
    bdrv_graph_rdlock_main_loop();
    active = replication_active(s);
    disk = replication_disk(s);
    bdrv_graph_rdunlock_main_loop();
    s->folds_to = disk;

    s->fold = commit_active_start(id, active, disk, JOB_DEFAULT, speed,
                                  BLOCKDEV_ON_ERROR_REPORT, NULL, fold_done,
                                  s, true, errp);
    if (s->fold) {
        /* The job's filter would drop what the guest discards meanwhile */
        bdrv_graph_rdlock_main_loop();
        replication_active(s)->open_flags |= BDRV_O_UNMAP;
        bdrv_graph_rdunlock_main_loop();
    }
    return s->fold;
}

/*
 * The guest is about to start, which may move its disk to another AioContext,
 * and a job that is just done cannot follow.  So the job is begun when the main
 * loop has finished with that.
 */
static void start_fold_bh(void *opaque)
{
    BDRVReplicationState *s = opaque;
    Error *err = NULL;

    g_clear_pointer(&s->fold_bh, qemu_bh_delete);
    if (!start_job(s, s->fold_speed, &err)) {
        error_report("node '%s': the overlays are not in the disk, and are "
                     "needed still: %s", replication_name(s),
                     error_get_pretty(err));
        replication_fail(s, err);
        replication_set_stage(s, COLO_DISK_STAGE_UNFOLDED);
    }
    flush_all(s);
}

void replication_fold_begin(BDRVReplicationState *s)
{
    replication_length_fail_over(s);
    /* The guest may flush before the job begins; if this fails, that says so */
    claim_disk(s, NULL);
    replication_set_stage(s, COLO_DISK_STAGE_FOLDING);
    s->fold_bh = qemu_bh_new(start_fold_bh, s);
    qemu_bh_schedule(s->fold_bh);
}

bool replication_fold_replace(BDRVReplicationState *s, Error **errp)
{
    BlockDriverState *active, *disk;
    int ret;

    if (!claim_disk(s, errp)) {
        return false;
    }
    bdrv_graph_rdlock_main_loop();
    active = replication_active(s);
    disk = replication_disk(s);
    bdrv_graph_rdunlock_main_loop();
    s->folds_to = disk;

    bdrv_ref(active);
    bdrv_ref(disk);
    bdrv_drained_begin(active);
    bdrv_drained_begin(disk);
    bdrv_graph_wrlock();
    ret = bdrv_replace_node(active, disk, errp);
    if (ret >= 0) {
        /* Whoever may look at the graph finds no overlays any more */
        qatomic_set(&s->spent, false);
    }
    bdrv_graph_wrunlock();
    bdrv_drained_end(disk);
    bdrv_drained_end(active);
    bdrv_unref(disk);
    bdrv_unref(active);
    trace_replication_folded(replication_name(s), ret);
    return ret >= 0;
}

void replication_fold_done(BDRVReplicationState *s)
{
    folded(s);
    flush_all(s);
}

void replication_fold_skip(BDRVReplicationState *s, Error **errp)
{
    if (replication_fold_replace(s, errp)) {
        replication_fold_done(s);
    } else {
        replication_set_stage(s, COLO_DISK_STAGE_UNFOLDED);
    }
}

void replication_fold_query(BDRVReplicationState *s, ColoDiskStatistics *stats)
{
    if (s->fold) {
        stats->has_fold_bytes = true;
        stats->has_fold_total = true;
        progress_get_snapshot(&s->fold->job.progress, &stats->fold_bytes,
                              &stats->fold_total);
    }
}

void replication_fold_end(BDRVReplicationState *s)
{
    g_clear_pointer(&s->fold_bh, qemu_bh_delete);
    if (s->fold) {
        job_cancel_sync(&s->fold->job, true);
    }
}

/* The secondary's node that is @bs, or below it: the one to fold, if any is */
static BDRVReplicationState *GRAPH_RDLOCK find_below(BlockDriverState *bs)
{
    BDRVReplicationState *found = NULL;
    BlockDriverState *node = NULL;

    while ((node = bdrv_next_all_states(node))) {
        BDRVReplicationState *s = replication_of(node);

        if (s && s->kind == &replication_secondary &&
            replication_is_above(bs, node) &&
            (!found || s->stage == COLO_DISK_STAGE_UNFOLDED)) {
            found = s;
        }
    }
    return found;
}

static BDRVReplicationState *find_unfolded(const char *disk, Error **errp)
{
    BlockDriverState *bs;
    BDRVReplicationState *s;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    bs = bdrv_lookup_bs(disk, disk, errp);
    if (!bs) {
        return NULL;
    }
    s = find_below(bs);
    if (!s) {
        error_setg(errp, "there is no replication node of a secondary at or "
                   "below '%s'", disk);
        return NULL;
    }
    if (s->stage != COLO_DISK_STAGE_UNFOLDED) {
        error_setg(errp, "node '%s' is %s, there is nothing to be folded "
                   "again", replication_name(s), ColoDiskStage_str(s->stage));
        return NULL;
    }
    if (!s->held_by && !replication_disk(s)) {
        error_setg(errp, "below node '%s' there are no two overlays any more",
                   replication_name(s));
        return NULL;
    }
    return s;
}

/* Nothing is to be folded, but the disk could not take the overlays' place */
static void skip_again(BDRVReplicationState *s, Error **errp)
{
    Error *error = g_steal_pointer(&s->error); /* what fails now is news */

    replication_fold_skip(s, errp);
    if (replication_stage(s) == COLO_DISK_STAGE_FOLDED) {
        error_free(error);
    } else {
        s->error = error;
    }
}

void qmp_x_colo_fold(const char *disk, bool has_speed, uint64_t speed,
                     Error **errp)
{
    BDRVReplicationState *s = find_unfolded(disk, errp);

    if (!s || !replication_job_check_speed(has_speed ? speed : 0, errp)) {
        return;
    }
    if (has_speed && (s->held_by || s->spent)) {
        error_setg(errp, "'speed' is of a job, and disk '%s' needs none: its "
                   "overlays are not used", disk);
        return;
    }
    if (s->held_by) {
        replication_redo_fold(s, errp);
        return;
    }
    replication_set_stage(s, COLO_DISK_STAGE_FOLDING);
    if (s->spent) {
        skip_again(s, errp);
        return;
    }
    if (!start_job(s, has_speed ? speed : s->fold_speed, errp)) {
        replication_set_stage(s, COLO_DISK_STAGE_UNFOLDED);
        return;
    }
    /* What fails from now on is news */
    g_clear_pointer(&s->error, error_free);
    qatomic_set(&s->flush_failed, false);
}
