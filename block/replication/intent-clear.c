/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, primary side: an intent log forgets what both disks have.
 *
 * A round, while a session runs:
 *
 *  1. A new window begins.  What was not written to in the last one is a
 *     candidate: each write there had begun in an earlier window, and so has
 *     ended (a window only begins when none of the one before the last is under
 *     way), thus is on the local disk, or in its cache, and in the log to the
 *     secondary.
 *  2. The disk is flushed, and a mark, a number, follows in that log.
 *  3. When the window of the secondary's sink says that it has got there, all
 *     before it is on that disk for good.  With a store of kind redo that is
 *     after the commit, later than what a flush says.
 *  4. The candidates that have not been written to since are cleared.  The file
 *     learns of that later: a bit that is set does no harm.
 *
 * What the secondary's image has for good may still be undone by a failover, if
 * the epoch was not committed: but then its own log has what the overlays have.
 *
 * The same window says which point in common the secondary has recorded.  Before
 * that is ours nothing is cleared.
 *
 * A guest that writes to the same regions all the time pays for them once: they
 * are cleared when it has let them be for a window and the one before.
 *
 * Threads: a timer of the main loop, which waits for nobody; what takes time is
 * in coroutines of the node.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/guest-random.h"
#include "qemu/lockable.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "block/thread-pool.h"
#include "trace.h"
#include "intent-int.h"

/* How often to look whether a step is over, ms */
#define STEP_MS 50

/* Until the secondary is asked again, ms */
#define ASK_MS 200

/* The node of the session below @bs, or NULL */
static BDRVReplicationState *GRAPH_RDLOCK find_session(BlockDriverState *bs)
{
    BDRVReplicationState *s = replication_of(bs);
    BdrvChild *c;

    if (s) {
        return s->kind == &replication_primary && s->batch &&
               replication_stage(s) == COLO_DISK_STAGE_RUNNING ? s : NULL;
    }
    QLIST_FOREACH(c, &bs->children, next) {
        s = find_session(c->bs);
        if (s) {
            return s;
        }
    }
    return NULL;
}

static void coroutine_fn end_work(Intent *s, int ret)
{
    BlockDriverState *bs = s->bs;

    s->ret = ret;
    qatomic_store_release(&s->busy, false);
    bdrv_dec_in_flight(bs);
}

/* A coroutine of the node; false if that is drained */
static bool begin_work(Intent *s, CoroutineEntry *entry)
{
    if (!replication_try_enter(s->bs)) {
        return false;
    }
    qatomic_set(&s->busy, true);
    aio_co_schedule(bdrv_get_aio_context(s->bs),
                    qemu_coroutine_create(entry, s));
    return true;
}

static bool is_busy(Intent *s)
{
    return qatomic_load_acquire(&s->busy);
}

/* 1. */
static bool begin_window(Intent *s)
{
    unsigned last, now;
    uint64_t any = 0;

    QEMU_LOCK_GUARD(&s->lock);
    last = s->now;
    now = !last;
    if (s->stage != INTENT_TRACKS || s->in_flight[now]) {
        return false;
    }
    memset(s->hot[now], 0, s->n_words * sizeof(uint64_t));
    s->now = now;
    for (uint64_t i = 0; i < s->n_words; i++) {
        s->candidates[i] = s->want[i] & ~s->hot[last][i];
        any |= s->candidates[i];
    }
    return any;
}

/* 2. */
static void coroutine_fn flush_entry(void *opaque)
{
    Intent *s = opaque;
    int ret;

    WITH_GRAPH_RDLOCK_GUARD() {
        BDRVReplicationState *of = find_session(s->bs->file->bs);

        ret = of ? bdrv_co_flush(s->bs->file->bs) : -ENOLINK;
        if (ret >= 0) {
            replication_log_mark(of->log, s->mark);
        }
    }
    end_work(s, ret);
}

/* The secondary has the point that was planned */
static int commit_point(void *opaque)
{
    Intent *s = opaque;

    QEMU_LOCK_GUARD(&s->head_lock);
    s->head.common = s->head.common_next;
    s->head.common_next = 0;
    return replication_intent_store_head(s->fd, &s->head);
}

static void coroutine_fn commit_entry(void *opaque)
{
    Intent *s = opaque;
    int ret = thread_pool_submit_co(commit_point, s);

    if (ret < 0) {
        QEMU_LOCK_GUARD(&s->lock);
        s->spoil = true;
    }
    end_work(s, ret);
}

/* The file learns of what has been cleared */
static void coroutine_fn write_entry(void *opaque)
{
    Intent *s = opaque;

    intent_write_all(s);
    end_work(s, 0);
}

/* A secondary's guest, which writes to overlays, does not see to the file */
static bool has_to_write(Intent *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    return s->stage == INTENT_FOLLOWS && intent_is_dirty_locked(s);
}

/* No more of this round */
static void end_round(Intent *s)
{
    replication_peer_read_drop(g_steal_pointer(&s->read));
    s->clear = CLEAR_IDLE;
    s->of = NULL;
    s->due_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + s->interval_ms;
}

/* 4. */
static void clear(Intent *s)
{
    uint64_t before = replication_intent_bytes(s->bs);

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        intent_clear_locked(s, s->candidates);
    }
    trace_replication_intent_clear(bdrv_get_node_name(s->bs), before,
                                   replication_intent_bytes(s->bs));
    end_round(s);
    begin_work(s, write_entry); /* or with the next write */
}

/* 3. What the secondary says.  False: ask again later. */
static bool take_answer(Intent *s)
{
    ReplicationIntentWindow w;
    const uint8_t *buf;
    uint64_t common, next;

    if (replication_peer_read_result(s->read, &buf) < 0) {
        end_round(s);
        return true;
    }
    replication_intent_unpack(&w, buf);
    trace_replication_intent_answer(bdrv_get_node_name(s->bs), w.marked,
                                    s->mark, w.common);
    replication_peer_read_drop(g_steal_pointer(&s->read));
    if (w.marked != s->mark) {
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&s->head_lock) {
        common = s->head.common;
        next = s->head.common_next;
    }
    if (w.common && w.common == common && !next) {
        clear(s);
    } else if (w.common && w.common == next) {
        s->clear = CLEAR_COMMITS;
        if (!begin_work(s, commit_entry)) {
            end_round(s);
        }
    } else {
        end_round(s);
    }
    return true;
}

/* How long until the next step, ms */
static int64_t step(Intent *s, BDRVReplicationState *of)
{
    int64_t left;

    if (is_busy(s)) {
        return STEP_MS;
    }
    if (s->clear != CLEAR_IDLE && s->of != of) {
        end_round(s);
    }
    if (has_to_write(s)) {
        begin_work(s, write_entry);
        return STEP_MS;
    }
    switch (s->clear) {
    case CLEAR_IDLE:
        left = s->due_ms - qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
        if (left > 0 || !of) {
            return MIN(MAX(left, STEP_MS), s->interval_ms);
        }
        if (!begin_window(s)) {
            end_round(s);
            break;
        }
        s->mark++;
        s->of = of;
        s->clear = begin_work(s, flush_entry) ? CLEAR_FLUSHES : CLEAR_IDLE;
        break;
    case CLEAR_FLUSHES:
        s->clear = CLEAR_ASKS;
        if (s->ret < 0) {
            end_round(s);
        }
        break;
    case CLEAR_ASKS:
        s->read = replication_peer_read_window(of, REPLICATION_INTENT_AT,
                                               REPLICATION_INTENT_HEAD);
        s->clear = CLEAR_READS;
        break;
    case CLEAR_READS:
        if (replication_peer_read_done(s->read) && !take_answer(s)) {
            s->clear = CLEAR_ASKS;
            return ASK_MS;
        }
        break;
    case CLEAR_COMMITS:
        if (s->ret >= 0) {
            clear(s);
        } else {
            end_round(s);
        }
        break;
    }
    return STEP_MS;
}

static void clear_timer(void *opaque)
{
    Intent *s = opaque;
    BDRVReplicationState *of;
    int64_t ms;

    bdrv_graph_rdlock_main_loop();
    of = find_session(s->bs->file->bs);
    bdrv_graph_rdunlock_main_loop();
    ms = step(s, of);
    timer_mod(s->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + ms);
}

void intent_clear_init(Intent *s)
{
    uint64_t mark;

    /* No number of an earlier one, that the sink may still have */
    qemu_guest_getrandom_nofail(&mark, sizeof(mark));
    s->mark = mark >> 2;
    s->timer = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                             SCALE_MS, clear_timer, s);
    timer_mod(s->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + STEP_MS);
}

void intent_clear_end(Intent *s)
{
    timer_free(s->timer);
    replication_peer_read_drop(s->read);
}
