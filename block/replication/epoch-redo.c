/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the epoch store of a secondary whose guest stands: redo.
 *
 *      guest            NBD server, for the primary
 *        |                     |
 *   replication         replication-sink
 *        |     \          |     |
 *      active   '- held --'     |
 *        |                     |
 *      hidden                  |
 *        |                     |
 *       disk  <----------------'  when it is committed
 *
 * The disk has what was committed, or will soon have it.  What the primary
 * writes is held by the sink until its commit, and made on the disk after it:
 * redo.h, sink-redo.c.  So nothing is copied, the overlays stay empty, and
 * nobody looks into them: they are spent from the beginning.  A commit is a
 * mark in memory.
 *
 * Who reads the disk for the guest reads what is held and committed first.
 *
 * An error of the disk comes after the commit, so the primary's guest has been
 * heard.  Then the rest is held still, the guest can read all of it, and
 * nothing more is taken from the primary.  The session ends, and if the primary
 * is gone, a failover tries it again.
 *
 * A failover drops what is not committed and has the disk take the place of the
 * overlays.  If the disk keeps up all is on it before the guest goes on, which
 * waits REDO_LATE_MS for that; else the guest goes on.  What it reads is right
 * at any time; its writes, discards and flushes wait until all that was
 * committed is on the disk, so that they are in their order after a loss of
 * power, too.  That is not long, as the primary was not let get far ahead.
 * Until then the disk is 'folding'.
 *
 * The end of a session makes all that has arrived on the disk, committed or
 * not, as it would be without a store.
 *
 * It takes a sink, by which alone the disk can be written to; a disk that is
 * not shared; and a place for a file.  Otherwise the secondary uses undo.
 *
 * All is under the BQL, but what the guest does.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "block/block_int.h"
#include "system/block-backend.h"
#include "trace.h"
#include "internal.h"
#include "redo.h"

/* The folder of the file that @bs is in at last; NULL if that is no file */
static char *GRAPH_RDLOCK folder_of(BlockDriverState *bs)
{
    BlockDriverState *below;

    while ((below = bdrv_primary_bs(bs))) {
        bs = below;
    }
    if (bs->drv != bdrv_find_format("file") || !*bs->exact_filename) {
        return NULL;
    }
    return g_path_get_dirname(bs->exact_filename);
}

/* Where QEMU has temporary images */
static const char *temporary_folder(void)
{
    const char *folder = g_get_tmp_dir();

    return g_str_equal(folder, "/tmp") ? "/var/tmp" : folder;
}

/* The hidden overlay is where the user has room for what a guest writes */
static BlockDriverState *hold(BDRVReplicationState *s, Error **errp)
{
    g_autofree char *folder = NULL;
    BlockDriverState *disk, *sink = NULL;

    bdrv_graph_rdlock_main_loop();
    folder = folder_of(replication_hidden(s));
    disk = replication_disk(s);
    bdrv_graph_rdunlock_main_loop();

    if (folder) {
        sink = replication_sink_hold(disk, folder, s->held_bh, NULL);
    }
    return sink ?: replication_sink_hold(disk, temporary_folder(), s->held_bh,
                                         errp);
}

/* The overlays are of no use, but who finds them after a crash may not know */
static bool empty_overlays(BDRVReplicationState *s, Error **errp)
{
    bool ok = replication_open_hidden(s, errp) &&
              replication_empty(s, false, errp);

    replication_close_hidden(s);
    return ok;
}

/* Nothing is held that anybody wants */
static void release(BDRVReplicationState *s)
{
    BlockDriverState *sink = s->held_by;

    /* What follows runs what has been scheduled */
    replication_sink_unwatch(sink);
    g_clear_pointer(&s->held_bh, qemu_bh_delete);
    /* Requests of the guest look for it with the lock */
    bdrv_graph_wrlock();
    qatomic_set(&s->held_by, NULL);
    bdrv_graph_wrunlock();
    replication_sink_release(sink);
    s->ending = false;
    s->live_by_ms = 0;
}

/* All that was committed is on the disk of a survivor */
static void finish(BDRVReplicationState *s)
{
    release(s);
    g_clear_pointer(&s->error, error_free);
    replication_fold_done(s);
}

/* All that is committed is on the disk, or cannot be */
static void held_bh(void *opaque)
{
    BDRVReplicationState *s = opaque;
    int ret = replication_sink_is_settled(s->held_by);
    Error *err = NULL;

    if (ret < 0) {
        error_setg_errno(&err, -ret, "what was committed cannot be written to "
                         "the disk");
        replication_fail(s, err);
        if (s->stage == COLO_DISK_STAGE_FOLDING) {
            replication_set_stage(s, COLO_DISK_STAGE_UNFOLDED);
        }
    } else if (ret && s->stage == COLO_DISK_STAGE_FOLDING) {
        finish(s);
    }
}

static bool redo_start(BDRVReplicationState *s, BlockDriverState *top,
                       Error **errp)
{
    BlockDriverState *sink;

    s->held_bh = qemu_bh_new(held_bh, s);
    sink = hold(s, errp);
    if (!sink) {
        g_clear_pointer(&s->held_bh, qemu_bh_delete);
        return false;
    }
    qatomic_set(&s->held_by, sink);
    if (!empty_overlays(s, errp)) {
        replication_sink_hold_no_more(sink, true);
        replication_sink_settle_sync(sink);
        release(s);
        return false;
    }
    qatomic_set(&s->spent, true);
    return true;
}

static bool redo_commit_epoch(BDRVReplicationState *s, Error **errp)
{
    int64_t begin_us = qemu_clock_get_us(QEMU_CLOCK_REALTIME);
    BlockDriverState *disk;

    bdrv_graph_rdlock_main_loop();
    disk = replication_disk(s);
    bdrv_graph_rdunlock_main_loop();
    replication_sink_commit_held(s->held_by);
    replication_sink_commit(disk);
    trace_replication_emptied(replication_name(s),
                              qemu_clock_get_us(QEMU_CLOCK_REALTIME) -
                              begin_us);
    return true;
}

static void redo_begin_stop(BDRVReplicationState *s, Error **errp)
{
    if (!s->ending) {
        s->ending = true;
        replication_sink_hold_no_more(s->held_by, true);
    }
}

static void redo_take_over(BDRVReplicationState *s)
{
    s->live_by_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + REDO_LATE_MS;
}

static bool redo_emptied(BDRVReplicationState *s, uint64_t timeout_ms,
                         Error **errp)
{
    bool waits = s->ending ||
                 qemu_clock_get_ms(QEMU_CLOCK_REALTIME) < s->live_by_ms;

    if (waits && !replication_sink_await_settled(s->held_by, timeout_ms)) {
        error_setg(errp, "what has arrived is not on its disk yet");
        return false;
    }
    return true;
}

static void redo_stop(BDRVReplicationState *s, Error **errp)
{
    redo_begin_stop(s, errp);
    if (!replication_sink_settle_sync(s->held_by) && !s->error) {
        error_setg(errp, "its disk lacks a part of what has arrived");
    }
    release(s);
    qatomic_set(&s->spent, false);
}

void replication_redo_fold(BDRVReplicationState *s, Error **errp)
{
    if (s->spent && !replication_fold_replace(s, errp)) {
        if (s->stage != COLO_DISK_STAGE_UNFOLDED) {
            replication_set_stage(s, COLO_DISK_STAGE_UNFOLDED);
        }
        return;
    }
    replication_set_stage(s, COLO_DISK_STAGE_FOLDING);
    if (replication_sink_is_settled(s->held_by) > 0) {
        finish(s);
        return;
    }
    /* What fails from now on is news */
    g_clear_pointer(&s->error, error_free);
    replication_sink_settle_again(s->held_by);
}

static void redo_fail_over(BDRVReplicationState *s, Error **errp)
{
    replication_sink_hold_no_more(s->held_by, false);
    replication_length_fail_over(s);
    replication_redo_fold(s, errp);
}

static void redo_query(BDRVReplicationState *s, ColoDiskStatistics *stats)
{
    stats->has_held_bytes = true;
    stats->has_held_in_file = true;
    replication_sink_held(s->held_by, &stats->held_bytes,
                          &stats->held_in_file);
}

void replication_redo_end(BDRVReplicationState *s)
{
    bool alone = s->stage != COLO_DISK_STAGE_RUNNING;
    Error *err = NULL;

    if (!s->held_by) {
        return;
    }
    if (!alone) {
        redo_begin_stop(s, NULL);
    }
    if (!replication_sink_settle_sync(s->held_by)) {
        error_report("node '%s': the disk lacks a part of what was committed",
                     replication_name(s));
    } else if (alone && !s->spent && !replication_folded(s, &err)) {
        error_report_err(err);
    }
    release(s);
}

const ReplicationEpochStore replication_redo = {
    .kind = COLO_EPOCH_STORE_KIND_REDO,
    .start = redo_start,
    .begin_commit = redo_commit_epoch,
    .commit = redo_commit_epoch,
    .begin_stop = redo_begin_stop,
    .take_over = redo_take_over,
    .emptied = redo_emptied,
    .stop = redo_stop,
    .fail_over = redo_fail_over,
    .query = redo_query,
};
