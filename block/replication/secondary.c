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
 * What is not committed has to be kept apart from what is, in an epoch store
 * (ReplicationEpochStore).  There are two: undo, which the picture shows, and
 * redo, of which epoch-redo.c tells, for a guest that stands.
 *
 * With undo the disk always has what the primary has written.  The guest here
 * is to see the disk as of the last checkpoint with its own writes: these go to
 * the active overlay, and before the primary overwrites something on the disk
 * it is copied to the hidden one: epoch-undo.c.
 *
 * A checkpoint empties both overlays and has all be copied again.  The guest
 * stands still, and the primary does not write: it waits to be told that the
 * checkpoint has been loaded.  If it writes all the same the checkpoint fails
 * instead of waiting for it.
 *
 * A checkpoint is committed before the overlays are emptied, so this must not
 * be what keeps the guest from going on.  If it fails the disk has just what
 * the guest is to see, and the primary does not write to it: the overlays are
 * spent, that is, nobody looks into them any more.  The session ends, since
 * this guest
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
#include "block/block_int.h"
#include "block/export.h"
#include "system/block-backend.h"
#include "trace.h"
#include "deadline.h"
#include "intent.h"
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

static bool GRAPH_RDLOCK check_lengths(BDRVReplicationState *s,
                                       BlockDriverState *active,
                                       BlockDriverState *hidden,
                                       BlockDriverState *disk, Error **errp)
{
    int64_t of_active = get_length(active, errp);
    int64_t of_hidden = of_active < 0 ? -1 : get_length(hidden, errp);
    int64_t of_disk = of_hidden < 0 ? -1 : get_length(disk, errp);

    if (of_disk < 0) {
        return false;
    }
    if (s->length && of_active <= of_disk && of_hidden <= of_disk) {
        return true; /* it became longer in a session: length.c */
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
    if (!check_lengths(s, active, hidden, disk, errp)) {
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

void replication_fail(BDRVReplicationState *s, Error *err)
{
    if (s->error) {
        error_free(err);
        return;
    }
    s->error = err;
    replication_report(s, err);
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

/* Can its client write?  One that only reads it, hashes say, is no primary. */
static bool is_writable(BlockExport *exp)
{
    uint64_t perm, shared;

    blk_get_perm(exp->blk, &perm, &shared);
    return perm & BLK_PERM_WRITE;
}

/* Can the primary reach the disk? */
static bool is_exported(BDRVReplicationState *s)
{
    g_autoptr(BlockExportInfoList) exports = qmp_query_block_exports(NULL);

    for (BlockExportInfoList *e = exports; e; e = e->next) {
        BlockExport *exp = blk_exp_find(e->value->id);

        if (exp && exports_disk(s, exp) && is_writable(exp)) {
            return true;
        }
    }
    return false;
}

static void secondary_check(BDRVReplicationState *s, Error **errp)
{
    ERRP_GUARD();

    if (!check_chain(s, errp)) {
        error_prepend(errp, "node '%s': ", replication_name(s));
    }
}

/* Redo if it can be: it costs much less */
static bool start_store(BDRVReplicationState *s, BlockDriverState *top,
                        Error **errp)
{
    g_autoptr(Error) why = NULL;

    if (s->guest_stands && !s->shared_disk &&
        replication_redo.start(s, top, &why)) {
        s->store = &replication_redo;
    } else if (replication_undo.start(s, top, errp)) {
        s->store = &replication_undo;
    } else {
        return false;
    }
    trace_replication_store(replication_name(s),
                            ColoEpochStoreKind_str(s->store->kind),
                            why ? error_get_pretty(why) : "");
    return true;
}

static void secondary_start(BDRVReplicationState *s, Error **errp)
{
    ERRP_GUARD();
    BlockDriverState *top;

    if (bdrv_activate(s->bs, errp) < 0) {
        goto fail;
    }
    top = check_chain(s, errp);
    if (!top || !replication_length_begin(s, errp)) {
        goto fail;
    }
    if (!start_store(s, top, errp)) {
        goto fail;
    }
    replication_intent_start(s);
    replication_sink_commit(disk_of(s));
    s->was_exported = is_exported(s);
    replication_set_stage(s, COLO_DISK_STAGE_RUNNING);
    return;

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
    if (!*errp || s->held_by) {
        replication_length_commit(s);
    }
    if (*errp && s->held_by) {
        /* It is committed, and what is held can be read */
        s->store->begin_commit(s, &error_abort);
        error_free(*errp);
        *errp = NULL;
    } else if (!*errp && !s->store->begin_commit(s, errp)) {
        error_prepend(errp, "node '%s': ", replication_name(s));
        replication_fail(s, error_copy(*errp));
    }
}

/* Before the end of a session, so that nobody waits with the BQL held then */
static void secondary_begin_stop(BDRVReplicationState *s, Error **errp)
{
    s->store->begin_stop(s, errp);
}

static bool secondary_emptied(BDRVReplicationState *s, uint64_t timeout_ms,
                              Error **errp)
{
    if (!s->store->emptied(s, timeout_ms, errp)) {
        error_prepend(errp, "node '%s': ", replication_name(s));
        return false;
    }
    return true;
}

static void secondary_checkpoint(BDRVReplicationState *s, Error **errp)
{
    ERRP_GUARD();

    secondary_prepare(s, errp);
    if (!*errp) {
        replication_length_commit(s);
    }
    if (!*errp && !s->store->commit(s, errp)) {
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
    if (s->store->take_over) {
        s->store->take_over(s);
    }
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
        replication_intent_go_alone(s);
        s->store->fail_over(s, errp);
    } else {
        s->store->stop(s, errp);
        replication_set_stage(s, COLO_DISK_STAGE_IDLE);
    }
    if (*errp) {
        error_prepend(errp, "node '%s': ", replication_name(s));
    }
}

static void secondary_query(BDRVReplicationState *s,
                            ColoDiskStatistics *stats)
{
    if (s->stage == COLO_DISK_STAGE_RUNNING || s->held_by) {
        stats->has_epoch_store = true;
        stats->epoch_store = s->store->kind;
        s->store->query(s, stats);
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
    replication_redo_end(s);
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

/*
 * Before the guest writes or flushes: what was committed in the session comes
 * first.  Negative errno if it cannot be on the disk.
 */
static int coroutine_fn GRAPH_RDLOCK settle_held(BDRVReplicationState *s)
{
    BlockDriverState *sink = qatomic_read(&s->held_by);

    return sink ? replication_sink_settle(sink) : 0;
}

static int coroutine_fn GRAPH_RDLOCK
secondary_preadv(BDRVReplicationState *s, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    BlockDriverState *sink = qatomic_read(&s->held_by);

    if (!may_request(s, false)) {
        return -EIO;
    }
    if (sink) {
        return replication_sink_read_committed(sink, replication_data(s),
                                               offset, bytes, qiov);
    }
    return bdrv_co_preadv(replication_data(s), offset, bytes, qiov, flags);
}

static int coroutine_fn GRAPH_RDLOCK
secondary_pwritev(BDRVReplicationState *s, int64_t offset, int64_t bytes,
                  QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    int ret = may_request(s, true) ? settle_held(s) : -EIO;

    if (ret < 0) {
        return ret;
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
    int ret = may_request(s, true) ? settle_held(s) : -EIO;

    if (ret < 0) {
        return ret;
    }
    if (flags & BDRV_REQ_FUA) {
        replication_fold_record(s);
    }
    return bdrv_co_pwrite_zeroes(s->bs->file, offset, bytes, flags);
}

static int coroutine_fn GRAPH_RDLOCK
secondary_pdiscard(BDRVReplicationState *s, int64_t offset, int64_t bytes)
{
    int ret;

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
    ret = settle_held(s);
    if (ret < 0) {
        return ret;
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
        int ret = settle_held(s);

        return ret < 0 ? ret : replication_fold_flush(s);
    }
    return bdrv_co_flush(replication_data(s)->bs);
}

static bool secondary_is_direct(BDRVReplicationState *s)
{
    return !qatomic_read(&s->held_by);
}

static bool secondary_is_complete(BDRVReplicationState *s)
{
    return !s->error || s->spent;
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
    .is_complete = secondary_is_complete,
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
    .truncate = replication_length_truncate,
    .is_direct = secondary_is_direct,
    .add_child = replication_add_no_child,
    .del_child = replication_del_no_child,
    .end = secondary_end,
};
