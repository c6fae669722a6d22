/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, primary side: the guest's disk becomes longer in a session.
 *
 * Goal: block_resize of the guest's disk makes both images longer or none, the
 * guest of a survivor sees the length that the disk had at the checkpoint from
 * which it goes on, and nobody waits for the secondary but the command.
 *
 *   primary                                  secondary
 *
 *   block_resize
 *   question -------------------------------> its disk gets longer, unseen
 *   read again and again <------------------- done, or why not
 *   the image gets longer, the guest sees it
 *   entry in the log, in its epoch ---------> noted
 *                                             commit: its guest's disk is longer
 *
 * The question goes past the log, for the log may be held back until a
 * checkpoint has been loaded.  It asks for room, and that there is more of it
 * than the guest has does no harm: the secondary's node says another length,
 * see length.c, and a failover cuts the rest off.  What the epochs decide is
 * when the guest there sees it, and for that there is the entry: it comes before
 * any write to the new part, and belongs to the epoch in which the disk became
 * longer.  The next question waits until the secondary has heard of it, and the
 * secondary lets it wait until that is committed.  If the image here cannot be
 * made longer after all the secondary is asked to take its back.
 *
 * The command waits in its coroutine, before anything is drained, and
 * GROW_TIMEOUT_MS at most; a peer that is lost ends that sooner.
 *
 * It takes batches, and a sink of the same QEMU.  A disk does not become shorter
 * this way: the guest of the secondary may still use what goes.
 *
 * All in the main loop, under the BQL, but what the disk becoming longer calls:
 * that is in the AioContext of the disk, which is drained.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/timer.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "block/blockjob.h"
#include "trace.h"
#include "internal.h"
#include "peer-read.h"

/* For the secondary's answer, ms */
#define GROW_TIMEOUT_MS 20000

/* How often it is looked for, ns */
#define GROW_POLL_NS (10 * SCALE_MS)

static int64_t now_ms(void)
{
    return qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
}

/*
 * Write to the place in the window, if @buf is given, or else read it into
 * @result
 */
static bool coroutine_fn transfer(BDRVReplicationState *s, const uint8_t *buf,
                                  ReplicationGrow *result, int64_t end_ms,
                                  Error **errp)
{
    ReplicationPeerRead *r;
    const uint8_t *got = NULL;
    int ret = -ETIMEDOUT;

    r = buf ? replication_peer_write_window(s, REPLICATION_GROW_AT,
                                            REPLICATION_GROW_SIZE, buf)
            : replication_peer_read_window(s, REPLICATION_GROW_AT,
                                           REPLICATION_GROW_SIZE);
    while (!replication_peer_read_done(r) && now_ms() < end_ms) {
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, GROW_POLL_NS / 5);
    }
    if (replication_peer_read_done(r)) {
        ret = replication_peer_read_result(r, &got);
    }
    if (ret >= 0 && result && !replication_grow_unpack(result, got)) {
        ret = -EPROTO;
    }
    replication_peer_read_drop(r);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "the secondary cannot be asked");
    }
    return ret >= 0;
}

/* The secondary has to have heard of the last time, or it may not wait */
static bool coroutine_fn await_last(BDRVReplicationState *s, int64_t end_ms,
                                    Error **errp)
{
    while (!replication_log_is_through(s->log, s->grew_at)) {
        if (now_ms() >= end_ms ||
            replication_stage(s) != COLO_DISK_STAGE_RUNNING) {
            error_setg(errp, "the secondary has not heard yet that the disk is "
                       "longer already");
            return false;
        }
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, GROW_POLL_NS);
    }
    return true;
}

/* Have the secondary's disk that @length, within @timeout_ms */
static bool coroutine_fn ask(BDRVReplicationState *s, int64_t length,
                             int64_t timeout_ms, Error **errp)
{
    int64_t end_ms = now_ms() + timeout_ms;
    g_autofree uint8_t *buf = g_malloc(REPLICATION_GROW_SIZE);
    g_autofree ReplicationGrow *answer = g_new0(ReplicationGrow, 1);
    g_autofree ReplicationGrow *question = g_new0(ReplicationGrow, 1);

    question->state = REPLICATION_GROW_ASKED;
    question->length = length;
    if (!await_last(s, end_ms, errp)) {
        return false;
    }
    while (true) {
        if (answer->state != REPLICATION_GROW_ASKED) {
            question->number = ++s->n_questions;
            replication_grow_pack(buf, question);
            if (!transfer(s, buf, NULL, end_ms, errp)) {
                return false;
            }
        }
        if (!transfer(s, NULL, answer, end_ms, errp)) {
            return false;
        }
        if (answer->number != question->number) {
            error_setg(errp, "somebody else asks the secondary as well");
            return false;
        }
        switch (answer->state) {
        case REPLICATION_GROW_DONE:
            return true;
        case REPLICATION_GROW_FAILED:
            error_setg(errp, "the disk of the secondary cannot be made longer: "
                       "%s", answer->reason);
            return false;
        default:
            break;
        }
        if (now_ms() >= end_ms ||
            replication_stage(s) != COLO_DISK_STAGE_RUNNING) {
            error_setg(errp, "the secondary is not ready for that: its disk "
                       "is not longer yet, or a checkpoint has to come first");
            return false;
        }
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, GROW_POLL_NS);
    }
}

/* Can the node of @disk take that length? */
static bool GRAPH_RDLOCK check(BDRVReplicationState *s, BlockDriverState *disk,
                               int64_t length, Error **errp)
{
    const char *name = replication_user_name_locked(disk);
    int64_t before = bdrv_getlength(s->bs);

    if (s->stage == COLO_DISK_STAGE_STOPPED) {
        return true; /* it only has to follow */
    }
    if (s->stage != COLO_DISK_STAGE_RUNNING) {
        error_setg(errp, "disk '%s' can be made longer in a COLO session, or "
                   "without node '%s', but not in between", name,
                   replication_name(s));
        return false;
    }
    if (length < before) {
        error_setg(errp, "disk '%s' cannot be made shorter: it is being "
                   "replicated", name);
        return false;
    }
    if (!s->batch) {
        error_setg(errp, "disk '%s' cannot be made longer: that takes a "
                   "'replication-sink' on the secondary, and 'batch' of node "
                   "'%s'", name, replication_name(s));
        return false;
    }
    if (bdrv_getlength(disk) != before) {
        error_setg(errp, "disk '%s' cannot be made longer: node '%s' has another "
                   "length", name, replication_name(s));
        return false;
    }
    if (s->verify) {
        error_setg(errp, "disk '%s' is being compared with the secondary's, by "
                   "job '%s'", name, s->verify->job.id);
        return false;
    }
    if (s->grows_to) {
        error_setg(errp, "disk '%s' is just being made longer", name);
        return false;
    }
    return true;
}

static bool coroutine_fn check_all(BlockDriverState *disk, GPtrArray *nodes,
                                   int64_t length, Error **errp)
{
    GRAPH_RDLOCK_GUARD();

    for (unsigned i = 0; i < nodes->len; i++) {
        if (!check(g_ptr_array_index(nodes, i), disk, length, errp)) {
            return false;
        }
    }
    return !nodes->len || replication_check_bitmaps(disk, errp);
}

/*
 * Ask the other sides; nodes that do not run are left alone.  Then s->grows_to is
 * set.
 */
static bool coroutine_fn ask_all(GPtrArray *nodes, int64_t length, Error **errp)
{
    for (unsigned i = 0; i < nodes->len; i++) {
        BDRVReplicationState *s = g_ptr_array_index(nodes, i);

        if (s->stage != COLO_DISK_STAGE_RUNNING || s->length == length) {
            continue;
        }
        s->grows_to = length;
        if (!ask(s, length, GROW_TIMEOUT_MS, errp)) {
            error_prepend(errp, "node '%s': ", replication_name(s));
            return false;
        }
    }
    return true;
}

/* What was asked for has come, or is taken back, if it can be */
static void coroutine_fn settle(GPtrArray *nodes)
{
    bool grown = false;

    for (unsigned i = 0; i < nodes->len; i++) {
        BDRVReplicationState *s = g_ptr_array_index(nodes, i);

        if (s->grows_to && s->grows_to != s->length &&
            s->stage == COLO_DISK_STAGE_RUNNING) {
            ask(s, s->length, GROW_TIMEOUT_MS, NULL);
        }
        grown |= s->grows_to && s->grows_to == s->length;
        trace_replication_grow(replication_name(s), s->length, s->grows_to);
        s->grows_to = 0;
    }
    if (grown) {
        replication_disk_grown();
    }
}

/* The nodes that send what is written to @disk: put_nodes() */
static GPtrArray *coroutine_fn get_nodes(BlockDriverState *disk)
{
    GPtrArray *nodes = g_ptr_array_new();

    WITH_GRAPH_RDLOCK_GUARD() {
        replication_find_senders(disk, nodes);
    }
    for (unsigned i = 0; i < nodes->len; i++) {
        BDRVReplicationState *s = g_ptr_array_index(nodes, i);

        bdrv_ref(s->bs);
    }
    return nodes;
}

static void coroutine_fn put_nodes(GPtrArray *nodes)
{
    for (unsigned i = 0; i < nodes->len; i++) {
        BDRVReplicationState *s = g_ptr_array_index(nodes, i);

        bdrv_co_unref(s->bs);
    }
    g_ptr_array_free(nodes, true);
}

bool coroutine_fn replication_co_grow_begin(BlockDriverState *disk,
                                            int64_t length, Error **errp)
{
    GPtrArray *nodes = get_nodes(disk);
    bool ok;

    /* The others round up as well */
    length = ROUND_UP(length, BDRV_SECTOR_SIZE);
    bdrv_ref(disk);
    ok = check_all(disk, nodes, length, errp);
    if (ok && !ask_all(nodes, length, errp)) {
        settle(nodes);
        ok = false;
    }
    put_nodes(nodes);
    if (!ok) {
        bdrv_co_unref(disk);
    }
    return ok;
}

void coroutine_fn replication_co_grow_end(BlockDriverState *disk)
{
    GPtrArray *nodes = get_nodes(disk);

    settle(nodes);
    put_nodes(nodes);
    bdrv_co_unref(disk);
}

int coroutine_fn replication_grow_truncate(BDRVReplicationState *s,
                                           int64_t length, Error **errp)
{
    ColoDiskStage stage = replication_stage(s);
    int64_t before = bdrv_co_getlength(s->bs);

    length = ROUND_UP(length, BDRV_SECTOR_SIZE);
    if (length == before) {
        return 0;
    }
    if (stage == COLO_DISK_STAGE_RUNNING && length < before) {
        /* Another child of the quorum could not follow */
        replication_log_break(s->log, EFBIG);
    } else if (stage == COLO_DISK_STAGE_RUNNING && length == s->grows_to) {
        replication_log_grow(s->log, length);
        s->grew_at = replication_log_position(s->log);
    } else if (stage != COLO_DISK_STAGE_STOPPED) {
        error_setg(errp, "Node '%s' is busy: its disk is replicated, and the "
                   "secondary has not been asked", replication_name(s));
        return -EBUSY;
    }
    qatomic_set_i64(&s->length, length);
    return 0;
}
