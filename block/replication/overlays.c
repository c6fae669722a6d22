/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the overlays of a secondary, and how they are emptied.
 *
 * To empty a qcow2 file takes some writes and flushes, and a file may hang.  The
 * monitor has to answer all the same, so a coroutine of each disk does it, and
 * the session's thread waits for all of them without the BQL.  Nothing else is
 * under way meanwhile: the hidden overlay is drained, and with it all above.
 *
 * The main loop may then wait, with the BQL held, for a request that is held back
 * by that ("qemu-io" of the human monitor does).  So it is the main loop that ends
 * the drained section, in whatever it waits for, and not the session's thread,
 * which would need the BQL.
 *
 * At the end of a session what copies before a write has to go as well, and each
 * change of the graph waits for all requests that are under way, of any disk.  So
 * there the main loop looks from time to time: when the disks of the session are
 * quiet, and empty, all that is done at once, while nothing can begin.  A file
 * that hangs makes the end wait, and nobody else.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "block/aio-wait.h"
#include "block/block_backup.h"
#include "block/block_int.h"
#include "system/block-backend.h"
#include "trace.h"
#include "deadline.h"
#include "internal.h"

/* How often to look whether the requests of a session have ended, ms */
#define QUIET_LOOK_MS 5

struct ReplicationEmptying {
    /* Set once */
    BDRVReplicationState *s;
    BlockDriverState *active;
    BlockDriverState *hidden;
    int64_t begin_us;
    bool committed;
    bool ends;                  /* the session */

    /* BQL */
    QLIST_ENTRY(ReplicationEmptying) next;  /* in sessions that end */
    bool begun;                 /* they are being emptied, or are to stay */

    Error *err;                 /* of the coroutine, then of done_bh() */

    /* emptied_lock */
    bool done;
};

static QemuMutex emptied_lock;
static QemuCond emptied_cond;

/* Those of a session that ends, and who looks after them.  BQL. */
static QLIST_HEAD(, ReplicationEmptying) ending;
static QEMUTimer *ending_timer;

static void __attribute__((constructor)) overlays_init(void)
{
    qemu_mutex_init(&emptied_lock);
    qemu_cond_init(&emptied_cond);
}

/*
 * Nothing may begin any more in the hidden overlay or above it, and nothing
 * is under way: neither of the guest nor of the NBD server, which writes
 * through copy-before-write.  Other than bdrv_drained_begin() this gives up.
 * On failure nothing is drained.
 */
static bool drain_begin_bounded(BlockDriverState *bs, Error **errp)
{
    Deadline deadline;
    bool quiet;

    bdrv_do_drained_begin_quiesce(bs, NULL);
    deadline_begin(&deadline, QUIET_TIMEOUT_MS);
    AIO_WAIT_WHILE_UNLOCKED(NULL, !deadline.over &&
                                  bdrv_drain_poll(bs, NULL, false));
    deadline_end(&deadline);
    quiet = !bdrv_drain_poll(bs, NULL, false);
    if (!quiet) {
        bdrv_drained_end(bs);
        error_setg(errp, "requests for '%s' have not ended within %d ms",
                   replication_user_name(bs), QUIET_TIMEOUT_MS);
    }
    return quiet;
}

/* As bdrv_make_empty(), which is not for coroutines */
static bool coroutine_fn GRAPH_RDLOCK
make_empty(BlockDriverState *bs, const char *which, Error **errp)
{
    int ret = bs->drv ? bs->drv->bdrv_make_empty(bs) : -ENOMEDIUM;

    if (ret < 0) {
        error_setg_errno(errp, -ret, "the %s one", which);
    }
    return ret >= 0;
}

static void set_done(ReplicationEmptying *e)
{
    WITH_QEMU_LOCK_GUARD(&emptied_lock) {
        qatomic_set(&e->done, true);
        qemu_cond_broadcast(&emptied_cond);
    }
    aio_wait_kick();
}

static void coroutine_fn empty_co(void *opaque);

/* Nothing is under way */
static void start(ReplicationEmptying *e)
{
    e->begun = true;
    bdrv_inc_in_flight(e->hidden);
    aio_co_schedule(bdrv_get_aio_context(e->hidden),
                    qemu_coroutine_create(empty_co, e));
}

/* All that makes up the end of @e, while it is drained */
static void end_one(ReplicationEmptying *e)
{
    BlockDriverState *hidden = e->hidden;

    QLIST_REMOVE(e, next);
    replication_undo_end(e->s);
    bdrv_drained_end(hidden);
    bdrv_unref(hidden);
    set_done(e);
}

static void look_at_ending(void *opaque)
{
    ReplicationEmptying *e;
    bool waits = false;

    QLIST_FOREACH(e, &ending, next) {
        if (bdrv_drain_poll(e->hidden, NULL, false)) {
            waits = true;
        } else if (!e->begun && !e->s->error) {
            start(e);
            waits = true;
        }
    }
    if (waits) {
        timer_mod(ending_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                                QUIET_LOOK_MS);
        return;
    }
    while ((e = QLIST_FIRST(&ending))) {
        end_one(e);
    }
}

/* Main loop: see above why not in the session's thread */
static void done_bh(void *opaque)
{
    ReplicationEmptying *e = opaque;
    BDRVReplicationState *s = e->s;
    BlockDriverState *disk;

    if (e->ends) {
        bdrv_dec_in_flight(e->hidden);
        look_at_ending(NULL);
        return;
    }
    if (!e->err && s->backup && s->copies_to == s->length) {
        backup_do_checkpoint(s->backup, &e->err);
    }
    if (e->err && e->committed) {
        error_prepend(&e->err, "the overlays cannot be emptied: ");
        qatomic_set(&s->spent, true);
        replication_fail(s, error_copy(e->err));
    }
    bdrv_dec_in_flight(e->hidden);
    bdrv_drained_end(e->hidden);
    if (!e->err && s->backup && s->copies_to != s->length) {
        replication_undo_restart(s);
    }
    if (!e->err && e->committed) {
        bdrv_graph_rdlock_main_loop();
        disk = replication_disk(s);
        bdrv_graph_rdunlock_main_loop();
        replication_sink_commit(disk);
    }
    trace_replication_emptied(replication_name(s),
                              qemu_clock_get_us(QEMU_CLOCK_REALTIME) -
                              e->begin_us);
    set_done(e);
}

static void coroutine_fn empty_co(void *opaque)
{
    ReplicationEmptying *e = opaque;

    WITH_GRAPH_RDLOCK_GUARD() {
        if (make_empty(e->active, "active", &e->err) &&
            make_empty(e->hidden, "hidden", &e->err)) {
            replication_length_overlays(e->s, e->active, e->hidden, &e->err);
        }
    }
    aio_bh_schedule_oneshot(qemu_get_aio_context(), done_bh, e);
}

static ReplicationEmptying *emptying_new(BDRVReplicationState *s)
{
    ReplicationEmptying *e = g_new0(ReplicationEmptying, 1);

    bdrv_graph_rdlock_main_loop();
    e->active = replication_active(s);
    bdrv_graph_rdunlock_main_loop();
    e->s = s;
    e->hidden = blk_bs(s->hidden);
    s->emptying = e;
    return e;
}

bool replication_empty_begin(BDRVReplicationState *s, bool committed,
                             Error **errp)
{
    int64_t begin_us = qemu_clock_get_us(QEMU_CLOCK_REALTIME);
    ReplicationEmptying *e;

    assert(!s->emptying);
    if (!drain_begin_bounded(blk_bs(s->hidden), errp)) {
        return false;
    }
    e = emptying_new(s);
    e->begin_us = begin_us;
    e->committed = committed;
    start(e);
    return true;
}

void replication_empty_begin_end(BDRVReplicationState *s)
{
    ReplicationEmptying *e;

    assert(!s->emptying);
    e = emptying_new(s);
    e->ends = true;
    bdrv_ref(e->hidden);
    bdrv_do_drained_begin_quiesce(e->hidden, NULL);
    if (!ending_timer) {
        ending_timer = aio_timer_new(qemu_get_aio_context(),
                                     QEMU_CLOCK_REALTIME, SCALE_MS,
                                     look_at_ending, NULL);
    }
    QLIST_INSERT_HEAD(&ending, e, next);
    /* Not before all disks of the session are there */
    timer_mod(ending_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME));
}

bool replication_empty_wait(BDRVReplicationState *s, uint64_t timeout_ms,
                            Error **errp)
{
    ReplicationEmptying *e = s->emptying;
    int64_t end = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + timeout_ms;

    QEMU_LOCK_GUARD(&emptied_lock);
    while (e && !e->done) {
        int64_t left = end - qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

        if (left <= 0) {
            error_setg(errp, "its overlays are not empty yet");
            return false;
        }
        qemu_cond_timedwait(&emptied_cond, &emptied_lock, left);
    }
    return true;
}

bool replication_empty_is_done(BDRVReplicationState *s)
{
    return qatomic_read(&s->emptying->done);
}

bool replication_empty_is_end(BDRVReplicationState *s)
{
    return s->emptying->ends;
}

bool replication_empty_end(BDRVReplicationState *s, Error **errp)
{
    g_autofree ReplicationEmptying *e = s->emptying;

    s->emptying = NULL;
    if (e->err) {
        error_propagate(errp, e->err);
        return false;
    }
    return true;
}

bool replication_empty(BDRVReplicationState *s, bool committed, Error **errp)
{
    if (!replication_empty_begin(s, committed, errp)) {
        return false;
    }
    AIO_WAIT_WHILE_UNLOCKED(NULL, !qatomic_read(&s->emptying->done));
    return replication_empty_end(s, errp);
}

bool replication_open_hidden(BDRVReplicationState *s, Error **errp)
{
    BlockDriverState *hidden;

    bdrv_graph_rdlock_main_loop();
    hidden = replication_hidden(s);
    bdrv_graph_rdunlock_main_loop();

    if (bdrv_is_read_only(hidden) &&
        bdrv_reopen_set_read_only(hidden, false, errp) < 0) {
        return false;
    }
    s->hidden = blk_new(bdrv_get_aio_context(hidden), BLK_PERM_WRITE,
                        BLK_PERM_ALL);
    blk_set_allow_aio_context_change(s->hidden, true);
    return blk_insert_bs(s->hidden, hidden, errp) >= 0;
}

void replication_close_hidden(BDRVReplicationState *s)
{
    blk_unref(s->hidden);
    s->hidden = NULL;
}
