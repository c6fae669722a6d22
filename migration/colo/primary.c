/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the primary's side of a session, run by the migration thread.
 *
 * Theory of operation
 *
 * The thread sleeps until a checkpoint is due (timer, request, full queue)
 * and takes it:
 *
 *   ask the secondary what it dirtied (S)       state requesting, VM runs
 *   stop, collect P, copy P u S, save devices   state cutting,    VM stands
 *   send the copy                               state sending,    VM runs
 *   wait for the commit, release output         state committing
 *   wait until the secondary has loaded         state loading
 *
 * The VM stands still only while memory is copied.  If more is dirty than the
 * staging area may hold, the rest is streamed while the VM stands still.
 * Neither is done with the BQL held, as the monitor has to answer.  So the cut
 * is the end of that: device state is saved and the last pages are copied in
 * one go under the BQL, after whatever wrote to RAM meanwhile (a reset from the
 * monitor, say) was collected too.
 *
 * A guest does not stand for longer than max_pause_ms: its clients would give
 * up.  It goes on without the checkpoint then, and the session ends in order.
 *
 * A failure before the commit costs nothing: P is lost with the session, and
 * output stays held until it is known who goes on.
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "system/runstate.h"
#include "migration/colo.h"
#include "net/colo.h"
#include "disks.h"
#include "failover.h"
#include "guest.h"
#include "pages.h"
#include "params.h"
#include "participants.h"
#include "peer.h"
#include "problems.h"
#include "progress.h"
#include "requests.h"
#include "sections.h"
#include "status.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "migration/savevm.h"
#include "trace.h"

/* While idle, speak this often within the timeout */
#define PINGS_PER_TIMEOUT   3

/*
 * Guests that keep on saying different things must not live in checkpoints: a
 * checkpoint for that reason waits until this many times the duration of the
 * last one have passed since its end.  So at most a third of the time goes into
 * them, whatever a checkpoint costs on these hosts, with this guest.
 */
#define REST_FACTOR         2

/* Is it a pong that nobody asked for?  Then the session ends. */
static bool primary_take_pong(ColoSession *s, const char *stage,
                              const ColoFrame *f, Error **errp)
{
    if (f->type == COLO_FRAME_PONG) {
        if (!s->primary.pings) {
            colo_read_end(s, f, stage, errp);
            return false;
        }
        s->primary.pings--;
    }
    return true;
}

/*
 * Receive the header of a frame that has to be @type, of checkpoint @cut.
 * Pongs may come in between.
 */
static bool primary_expect(ColoSession *s, ColoFrameType type, uint64_t cut,
                           ColoFrame *f, Error **errp)
{
    g_autofree char *stage = g_strdup_printf("'%s' of checkpoint %" PRIu64,
                                             colo_frame_name(type), cut);

    do {
        if (!colo_wire_recv(s->wire, stage, f, errp) ||
            !primary_take_pong(s, stage, f, errp)) {
            return false;
        }
    } while (f->type == COLO_FRAME_PONG);

    if (f->type != type || f->epoch != cut) {
        colo_read_end(s, f, stage, errp);
        return false;
    }
    return true;
}

/*
 * With its first answer after the handshake the secondary is ready, its disks
 * too; until then it can refuse.
 */
static bool primary_await_ready(ColoSession *s, Error **errp)
{
    const char *stage = "the secondary to be ready";
    ColoFrame f;

    if (!colo_wire_send_buf(s->wire, COLO_FRAME_PING, 0, NULL, 0, errp) ||
        !colo_wire_recv(s->wire, stage, &f, errp)) {
        return false;
    }
    if (f.type != COLO_FRAME_PONG) {
        colo_read_end(s, &f, stage, errp);
        return false;
    }
    colo_disks_allow(0);
    return true;
}

/* Session start: the secondary speaks first */
static bool primary_handshake(ColoSession *s, Error **errp)
{
    g_autofree uint8_t *buf = NULL;
    uint8_t start[COLO_START_LEN];
    uint64_t generation;
    ColoReady ready;
    ColoFrame f;
    bool ok;

    if (!primary_expect(s, COLO_FRAME_CHECKPOINT_READY, 0, &f, errp)) {
        return false;
    }
    colo_begin_alive(s);
    buf = g_malloc(f.length);
    if (!colo_wire_recv_buf(s->wire, buf, f.length, errp) ||
        !colo_ready_decode(buf, f.length, &ready, errp)) {
        return false;
    }
    ok = colo_ram_adopt(s->ram, &ready, errp) &&
         colo_disks_new_generation(ready.generation, &generation, errp);
    colo_ready_clear(&ready);
    if (!ok) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }

    /* Its guest must not see a disk without what was written so far */
    if (!colo_disks_settle(s, 0, errp)) {
        return false;
    }
    colo_start_encode(&(ColoStart) {
        .mode = s->mode,
        .timeout_ms = s->timeout_ms,
        .flags = s->verify_ram ? COLO_START_VERIFY_RAM : 0,
        .generation = generation,
    }, start);
    /* Whether or not it arrives: it can make the secondary ready */
    s->primary.peer_may_be_ready = true;
    return colo_wire_send_buf(s->wire, COLO_FRAME_START, 0, start,
                              sizeof(start), errp) &&
           primary_await_ready(s, errp);
}

/*
 * Is a checkpoint due?  Returns the time until which there is nothing to do, 0
 * if it is due now (@reason says why).
 */
static int64_t primary_next_due(ColoSession *s, ColoCheckpointReason *reason)
{
    uint32_t delay_ms = colo_effective_checkpoint_delay(s->mode);
    int64_t due_ns = s->primary.last_cut_ns + delay_ms * (int64_t)SCALE_MS;
    int64_t now = colo_now_ns();
    int asked = colo_take_request();
    bool can_wait = asked >= 0 &&
                    (colo_reason_can_wait(asked) ||
                     (asked == COLO_CHECKPOINT_REASON_QUEUE_FULL &&
                      s->mode == COLO_SYNC_MODE_HYBRID));

    if (asked >= 0) {
        if (!can_wait || now >= s->primary.not_before_ns) {
            *reason = asked;
            return 0;
        }
        colo_leave_request(asked);
        due_ns = MIN(due_ns, s->primary.not_before_ns);
    }
    if (now >= due_ns) {
        *reason = asked >= 0 ? asked : COLO_CHECKPOINT_REASON_TIMER;
        if (asked >= 0) {
            colo_take_request();
        }
        return 0;
    }
    return due_ns;
}

/*
 * The epoch runs.  Returns true when a checkpoint is due (@reason says why),
 * false with @errp set when the session has to end.
 */
static bool primary_run_epoch(ColoSession *s, ColoCheckpointReason *reason,
                              Error **errp)
{
    const char *stage = "the next checkpoint";
    int64_t ping_ns = colo_timeout_ns(s) / PINGS_PER_TIMEOUT;
    int64_t heard_ns = colo_now_ns();
    int64_t next_ping_ns = heard_ns + ping_ns;

    colo_wire_begin_wait(s->wire);
    for (;;) {
        int64_t due_ns;
        ColoFrame f;

        if (colo_wish(s) != COLO_WISH_NONE) {
            s->cause = COLO_CAUSE_WISH;
            error_setg(errp, "asked to end the session");
            return false;
        }
        if (!colo_disks_ok(s, errp)) {
            return false;
        }
        due_ns = primary_next_due(s, reason);
        if (!due_ns) {
            return true;
        }

        switch (colo_wire_wait(s->wire, MIN(due_ns, next_ping_ns))) {
        case COLO_WAIT_READABLE:
            if (!colo_wire_next(s->wire, stage, &f, errp) ||
                !primary_take_pong(s, stage, &f, errp)) {
                return false;
            }
            if (f.type == COLO_FRAME_PONG) {
                heard_ns = colo_now_ns();
            } else if (f.type != COLO_FRAME_ALIVE) {
                colo_read_end(s, &f, stage, errp);
                return false;
            }
            break;
        case COLO_WAIT_DEADLINE:
            if (colo_now_ns() < next_ping_ns) {
                break;
            }
            if (colo_now_ns() - heard_ns > colo_timeout_ns(s)) {
                error_setg(errp, "waiting for 'pong': the peer was silent for "
                           "%u ms", s->timeout_ms);
                return false;
            }
            if (!colo_wire_send_buf(s->wire, COLO_FRAME_PING, s->epoch, NULL,
                                    0, errp)) {
                return false;
            }
            s->primary.pings++;
            colo_progress();
            next_ping_ns = colo_now_ns() + ping_ns;
            break;
        case COLO_WAIT_WOKEN:
            break;
        }
    }
}

/* Ask for S and add it to the dirty set */
static bool primary_request(ColoSession *s, uint64_t cut, Error **errp)
{
    g_autofree uint8_t *buf = NULL;
    ColoFrame f;

    colo_set_primary(s, COLO_PRIMARY_STATE_REQUESTING, "checkpoint due");
    if (!colo_wire_send_buf(s->wire, COLO_FRAME_CHECKPOINT_REQUEST, cut, NULL,
                            0, errp) ||
        !primary_expect(s, COLO_FRAME_CHECKPOINT_REPLY, cut, &f, errp)) {
        return false;
    }
    buf = g_malloc(f.length);
    return colo_wire_recv_buf(s->wire, buf, f.length, errp) &&
           colo_ram_add_runs(s->ram, buf, f.length, errp);
}

static ColoRunState guest_run_state(bool live)
{
    if (live) {
        return COLO_RUN_RUNNING;
    }
    return runstate_check(RUN_STATE_SHUTDOWN) ? COLO_RUN_SHUTDOWN
                                              : COLO_RUN_PAUSED;
}

/*
 * End of the cut: the guest goes on.  A stop that came during the cut, from
 * the monitor or from a device, is carried out now, by the main loop like all
 * others: while it is the monitor may let the guest go on.
 */
static void primary_resume(ColoSession *s)
{
    RunState stop;

    if (!qemu_vmstop_requested(&stop)) {
        stop = s->primary.deferred_stop;
    }
    s->primary.deferred_stop = RUN_STATE__MAX;
    colo_end_cut(s);
    if (stop != RUN_STATE__MAX) {
        qemu_system_vmstop_request_prepare();
        qemu_system_vmstop_request(stop);
    }
}

static bool save_devices(ColoSession *s, Error **errp)
{
    int ret;

    s->device_state->offset = 0;
    s->device_state->usage = 0;
    colo_sections_begin(qemu_file_transferred(s->primary.device_file));
    ret = qemu_save_device_state(s->primary.device_file);
    if (ret == 0) {
        ret = qemu_fflush(s->primary.device_file);
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot save the state of devices");
        return false;
    }
    if (s->device_state->usage > COLO_DEVICE_STATE_MAX) {
        error_setg(errp, "%zu bytes of device state, at most %u can be sent",
                   s->device_state->usage, COLO_DEVICE_STATE_MAX);
        return false;
    }
    return true;
}

/*
 * Copying is done in rounds, so that the BQL is not held for long: 32 MiB, some
 * tens of milliseconds for one thread on a machine that is busy
 */
#define COPY_ROUND_PAGES    8192

typedef struct Cut {
    uint64_t number;
    ColoTail tail;
    ColoPageCount pages;
    int64_t asked_ns;
    int64_t begin_ns;
    int64_t end_ns;             /* the guest goes on, whatever there is left */
    int64_t pause_ns;
    bool live;                  /* the guest runs but for the cut */
    bool overflowed;
    bool repeated;              /* a page may have been copied twice */
} Cut;

/* The guest stands for the cut no longer.  BQL. */
static void primary_end_pause(ColoSession *s, Cut *c)
{
    if (!c->pause_ns) {
        c->pause_ns = colo_now_ns() - c->begin_ns;
        if (c->live) {
            primary_resume(s);
            colo_history_add(&s->stats.pause, c->pause_ns);
        }
    }
}

/* The guest has stood for too long.  Always false. */
static bool primary_too_long(ColoSession *s, Error **errp)
{
    ERRP_GUARD();
    g_autofree char *why = *errp ? g_strdup_printf(": %s",
                                                   error_get_pretty(*errp))
                                 : g_strdup("");

    g_clear_pointer(errp, error_free);
    error_setg(errp, "a checkpoint was not taken within %u ms "
               "(x-colo-max-pause), the guest goes on without it%s",
               s->max_pause_ms, why);
    s->cause = COLO_CAUSE_PAUSE;
    return false;
}

/*
 * The guest stands, and what it wrote is known.  BQL held, dropped meanwhile;
 * if it was paused the user may let it go on then.
 */
static bool primary_collect(ColoSession *s, Cut *c, Error **errp)
{
    do {
        bool stopped = false, ok;

        if (runstate_is_live(runstate_get())) {
            c->end_ns = MIN(c->end_ns, colo_now_ns() +
                            s->max_pause_ms * (int64_t)SCALE_MS);
        }
        ok = colo_stop_guest(s, c->end_ns, &stopped, errp);
        c->live |= stopped;
        if (!ok || colo_now_ns() >= c->end_ns) {
            return primary_too_long(s, errp);
        }
        if (!colo_ram_unchanged(s->ram, errp)) {
            s->cause = COLO_CAUSE_LOCAL;
            return false;
        }
        colo_ram_sync(s->ram, true);
    } while (!colo_guest_stands());

    /* Since the BQL was dropped somebody else has written to memory */
    c->repeated |= colo_staging_count(s->staging) &&
                   colo_ram_dirty_pages(s->ram);
    return true;
}

typedef struct Pause {
    ColoSession *s;
    Cut *c;
} Pause;

/* A frame is half written, and the guest must not wait for the rest of it */
static void primary_pause_over(void *opaque)
{
    Pause *p = opaque;

    BQL_LOCK_GUARD();
    primary_end_pause(p->s, p->c);
}

/*
 * The dirty set is larger than the staging area: stream what fits in.  BQL
 * held, dropped meanwhile.
 */
static bool primary_stream_excess(ColoSession *s, Cut *c, Error **errp)
{
    Pause pause = { s, c };
    bool ok;

    c->overflowed = true;
    bql_unlock();
    colo_wire_set_alarm(s->wire, c->end_ns, primary_pause_over, &pause);
    ok = colo_pages_send(s, c->number, &c->pages, errp);
    colo_wire_clear_alarm(s->wire);
    bql_lock();
    if (colo_now_ns() >= c->end_ns && colo_wire_is_whole(s->wire)) {
        return primary_too_long(s, errp);
    }
    return ok;
}

/* Memory for the pages that are known to be dirty.  No lock. */
static bool primary_reserve(ColoSession *s, Error **errp)
{
    uint64_t dirty = colo_ram_dirty_pages(s->ram);

    if (!colo_staging_reserve(s->staging, dirty, dirty, errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    return true;
}

/* The same while the guest stands.  BQL held, dropped meanwhile. */
static bool primary_reserve_more(ColoSession *s, Error **errp)
{
    bool ok;

    bql_unlock();
    ok = primary_reserve(s, errp);
    bql_lock();
    return ok;
}

/* Copy one round.  BQL held, dropped meanwhile. */
static bool primary_copy_round(ColoSession *s, Cut *c, Error **errp)
{
    bool ok;

    /* What is unplugged meanwhile stays until the end of the round */
    rcu_read_lock();
    bql_unlock();
    ok = colo_ram_stage(s->ram, s->staging, COPY_ROUND_PAGES, c->end_ns);
    rcu_read_unlock();
    bql_lock();
    if (!ok) {
        return primary_too_long(s, errp);
    }
    if (!colo_ram_unchanged(s->ram, errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    return true;
}

/*
 * Stop the guest and copy pages until what is left is little enough to be
 * copied with the BQL held.  BQL held, dropped meanwhile.
 */
static bool primary_copy_most(ColoSession *s, Cut *c, Error **errp)
{
    for (;;) {
        uint64_t room, dirty;

        if (!primary_collect(s, c, errp)) {
            return false;
        }
        room = colo_staging_room(s->staging);
        dirty = colo_ram_dirty_pages(s->ram);
        if (dirty > room && room < colo_staging_room_max(s->staging)) {
            if (!primary_reserve_more(s, errp)) {
                return false;
            }
            continue;
        }
        if (dirty <= MIN(room, COPY_ROUND_PAGES)) {
            return true;
        }
        while (colo_ram_dirty_pages(s->ram) &&
               colo_staging_room(s->staging)) {
            if (!primary_copy_round(s, c, errp)) {
                return false;
            }
        }
        if (colo_ram_dirty_pages(s->ram) &&
            !colo_staging_room_max(s->staging) &&
            !primary_stream_excess(s, c, errp)) {
            return false;
        }
    }
}

/*
 * Stop the guest and copy it.  BQL held; not dropped any more from the time that
 * the last pages are collected.
 */
static bool primary_copy_state(ColoSession *s, Cut *c, Error **errp)
{
    if (!primary_copy_most(s, c, errp)) {
        return false;
    }
    if (!colo_ram_stage(s->ram, s->staging, UINT64_MAX, c->end_ns)) {
        return primary_too_long(s, errp);
    }

    if (!save_devices(s, errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    c->tail.device_len = s->device_state->usage;
    if (s->verify_ram) {
        c->tail.flags |= COLO_TAIL_HASHES;
        c->tail.ram_hash = colo_ram_hash(s->ram);
        c->tail.disk_hash = colo_disks_hash();
    }
    return true;
}

/* The cut itself: stop, copy, go on */
static bool primary_cut(ColoSession *s, Cut *c, Error **errp)
{
    bool ok;

    /* How much will there be?  Have the memory before the VM stands still */
    bql_lock();
    colo_set_primary(s, COLO_PRIMARY_STATE_CUTTING, "secondary replied");
    colo_ram_sync(s->ram, false);
    bql_unlock();
    if (!primary_reserve(s, errp) ||
        !colo_wire_send_buf(s->wire, COLO_FRAME_VMSTATE_SEND, c->number, NULL,
                            0, errp)) {
        return false;
    }

    bql_lock();
    c->begin_ns = colo_now_ns();
    /* A guest that is paused waits for nothing */
    c->end_ns = colo_patience_end(s);
    ok = primary_copy_state(s, c, errp);
    if (ok) {
        c->tail.run_state = guest_run_state(c->live);
        c->tail.flags |= vm_get_suspended() ? COLO_TAIL_SUSPENDED : 0;
        s->epoch = c->number;
        colo_requests_cut(s->epoch);
        colo_participants_cut(s->epoch);
        colo_disks_cut(s->epoch);
        colo_set_primary(s, COLO_PRIMARY_STATE_SENDING, "copied");
    }
    primary_end_pause(s, c);
    s->primary.last_cut_ns = c->begin_ns;
    s->stats.staging_overflows += c->overflowed;
    s->stats.staging_bytes = colo_staging_bytes(s->staging);
    s->stats.staging_peak = MAX(s->stats.staging_peak, s->stats.staging_bytes);
    bql_unlock();
    return ok;
}

/*
 * The secondary compares hashes with its RAM, not with what was streamed or
 * copied before, and that may have changed once more.
 */
static bool primary_send_pages(ColoSession *s, Cut *c, Error **errp)
{
    if (s->mode == COLO_SYNC_MODE_HYBRID && !c->overflowed && !c->repeated) {
        return colo_pages_send_differing(s, c->number, &c->pages, errp);
    }
    return colo_pages_send(s, c->number, &c->pages, errp);
}

static bool primary_send_tail(ColoSession *s, Cut *c, Error **errp)
{
    g_autoptr(GByteArray) sections = g_byte_array_new();
    uint8_t buf[COLO_TAIL_LEN];
    struct iovec iov[2] = {
        { buf, sizeof(buf) },
        { s->device_state->data, s->device_state->usage },
    };

    colo_sections_encode(sections);
    if (!colo_wire_send_buf(s->wire, COLO_FRAME_SECTIONS, c->number,
                            sections->data, sections->len, errp)) {
        return false;
    }
    c->tail.npages = c->pages.sent + c->pages.zero;
    colo_tail_encode(&c->tail, buf);
    return colo_wire_send(s->wire, COLO_FRAME_VMSTATE_SIZE, c->number, iov, 2,
                          errp);
}

static void primary_committed(ColoSession *s, Cut *c,
                              ColoCheckpointReason reason)
{
    BQL_LOCK_GUARD();

    s->committed = c->number;
    colo_set_primary(s, COLO_PRIMARY_STATE_LOADING, "committed");
    colo_participants_commit(c->number);
    colo_history_add(&s->stats.commit, colo_now_ns() - c->begin_ns);
    s->stats.checkpoints++;
    s->stats.reasons[reason]++;
    s->stats.pages += c->tail.npages;
    s->stats.zero_pages += c->pages.zero;
    s->stats.equal_pages += c->pages.equal;
    s->stats.bytes_sent = colo_wire_bytes_sent(s->wire);
    s->stats.bytes_received = colo_wire_bytes_received(s->wire);
    trace_colo_checkpoint(c->number, ColoCheckpointReason_str(reason),
                          c->tail.npages, c->pages.zero, c->pages.equal,
                          c->tail.device_len, c->pause_ns / SCALE_US);
}

static bool primary_checkpoint(ColoSession *s, ColoCheckpointReason reason,
                               Error **errp)
{
    Cut c = { .number = s->epoch + 1, .asked_ns = colo_now_ns() };
    ColoFrame f;

    if (!primary_request(s, c.number, errp) || !primary_cut(s, &c, errp)) {
        return false;
    }
    if (!primary_send_pages(s, &c, errp) ||
        !colo_disks_settle(s, c.number, errp) ||
        !primary_send_tail(s, &c, errp)) {
        return false;
    }

    colo_set_primary(s, COLO_PRIMARY_STATE_COMMITTING, "sent");
    if (!primary_expect(s, COLO_FRAME_VMSTATE_RECEIVED, c.number, &f, errp)) {
        return false;
    }
    primary_committed(s, &c, reason);

    if (!primary_expect(s, COLO_FRAME_VMSTATE_LOADED, c.number, &f, errp)) {
        return false;
    }
    colo_disks_allow(c.number);
    colo_set_primary(s, COLO_PRIMARY_STATE_RUNNING, "loaded");
    colo_staging_shrink(s->staging);
    s->primary.not_before_ns = colo_now_ns() +
                               REST_FACTOR * (colo_now_ns() - c.asked_ns);
    return true;
}

/* The whole time under protection; returns with @errp set */
static void primary_protect(ColoSession *s, Error **errp)
{
    ColoCheckpointReason reason = COLO_CHECKPOINT_REASON_TIMER;

    if (!primary_handshake(s, errp)) {
        return;
    }
    bql_lock();
    s->was_ready = true;
    colo_set_primary(s, COLO_PRIMARY_STATE_RUNNING, "secondary is ready");
    bql_unlock();
    while (primary_run_epoch(s, &reason, errp) &&
           primary_checkpoint(s, reason, errp)) {
        continue;
    }
}

/* BQL.  From here on the guest is on its own. */
static void primary_alone(ColoSession *s, const char *why,
                          COLOExitReason reason)
{
    colo_set_primary(s, COLO_PRIMARY_STATE_ALONE, why);
    colo_disks_stop(true);
    colo_participants_open();
    colo_report_exit(s, reason);
}

/* This side ends the session.  Returns true if the peer agreed. */
static bool primary_end(ColoSession *s, ColoByeReason reason, Error **errp)
{
    bool ok;

    colo_set_primary(s, COLO_PRIMARY_STATE_ENDING, colo_bye_reason_str(reason));
    ok = colo_say_bye(s, reason, errp);
    if (ok) {
        BQL_LOCK_GUARD();
        primary_alone(s, "the peer agreed", s->cause == COLO_CAUSE_WISH
                                            ? COLO_EXIT_REASON_REQUEST
                                            : COLO_EXIT_REASON_ERROR);
    }
    return ok;
}

static ColoByeReason bye_reason(ColoSession *s)
{
    switch (s->cause) {
    case COLO_CAUSE_WISH:
        return s->end_reason;
    case COLO_CAUSE_PAUSE:
        return COLO_BYE_PAUSE;
    default:
        return colo_disks_ok(s, NULL) ? COLO_BYE_INCOMPATIBLE : COLO_BYE_DISK;
    }
}

/* The peer is out, or was never able to go live.  BQL. */
static void primary_go_on(ColoSession *s, const Error *err)
{
    error_report("COLO primary: going on without protection: %s",
                 error_get_pretty(err));
    primary_alone(s, "the peer is out", s->cause == COLO_CAUSE_PEER_BYE
                                        ? COLO_EXIT_REASON_REQUEST
                                        : COLO_EXIT_REASON_ERROR);
}

/*
 * The session does not begin, for a reason of this side.  The guest must not
 * wait for that: the secondary can never go live, it has not been told to
 * start.  So all is let out first, and then the secondary hears why; not before
 * it has spoken, or its migration would read that for its own.
 */
static void primary_refuse(ColoSession *s, const Error *err)
{
    ColoFrame f;

    bql_lock();
    colo_status_say("%s", error_get_pretty(err));
    error_reportf_err(error_copy(err),
                      "COLO primary: going on without protection: ");
    colo_set_primary(s, COLO_PRIMARY_STATE_ENDING, error_get_pretty(err));
    colo_disks_stop(true);
    colo_participants_open();
    bql_unlock();

    if (s->keepalive ||
        primary_expect(s, COLO_FRAME_CHECKPOINT_READY, 0, &f, NULL)) {
        colo_say_error(s, err);
    }
    BQL_LOCK_GUARD();
    primary_alone(s, "the session was refused", COLO_EXIT_REASON_ERROR);
}

/* Somebody has said which side goes on: this one.  BQL. */
static void primary_fail_over(ColoSession *s)
{
    colo_status_add("x-colo-lost-heartbeat: this side goes on");
    primary_alone(s, "failover", COLO_EXIT_REASON_REQUEST);
}

/*
 * The session is over for the reason in @err and s->cause; find out who goes
 * on and act on it.
 */
static void primary_finish(ColoSession *s, Error *err)
{
    g_autoptr(Error) bye_err = NULL;
    bool failover = colo_wish(s) == COLO_WISH_FAILOVER;

    if (!failover && s->cause == COLO_CAUSE_LOCAL &&
        !s->primary.peer_may_be_ready) {
        primary_refuse(s, err);
        return;
    }
    if (!failover && (s->cause == COLO_CAUSE_WISH ||
                      s->cause == COLO_CAUSE_LOCAL ||
                      s->cause == COLO_CAUSE_PAUSE)) {
        colo_finish_begin(s, err);
        if (s->cause != COLO_CAUSE_WISH) {
            error_report("COLO primary: %s", error_get_pretty(err));
        }
        if (primary_end(s, bye_reason(s), &bye_err)) {
            return;
        }
        err = bye_err;
        failover = colo_wish(s) == COLO_WISH_FAILOVER;
        colo_disks_forget_failure();
    }

    BQL_LOCK_GUARD();
    if (failover) {
        primary_fail_over(s);
        return;
    }
    colo_status_say("%s", error_get_pretty(err));
    if (colo_peer_is_out(s) || !s->primary.peer_may_be_ready) {
        primary_go_on(s, err);
        return;
    }
    colo_set_primary(s, COLO_PRIMARY_STATE_LOST, error_get_pretty(err));
    colo_disks_abandon();
    colo_await_decision(s, err);
    if (colo_wish(s) == COLO_WISH_FAILOVER) {
        primary_fail_over(s);
    }
}

/* What the migration looks like to the user from now on.  BQL. */
static void primary_close_migration(ColoSession *s, MigrationState *ms,
                                    const Error *err)
{
    MigrationStatus status = MIGRATION_STATUS_COMPLETED;

    if (s->cause == COLO_CAUSE_WISH && s->end_reason == COLO_BYE_CANCEL &&
        colo_wish(s) == COLO_WISH_END) {
        status = MIGRATION_STATUS_CANCELLING;
    } else if (!s->was_ready) {
        migrate_set_error(ms, err);
        status = MIGRATION_STATUS_FAILED;
    }
    migrate_set_state(&ms->state, MIGRATION_STATUS_COLO, status);
}

/*
 * Hybrid mode: the user, or a device, paused the guest, or it goes on.  The
 * other guest has to do the same, and learns it by a checkpoint.  BQL.
 */
static void primary_vm_state(void *opaque, bool running, RunState state)
{
    ColoSession *s = opaque;

    if (running == s->primary.paused && state != RUN_STATE_COLO) {
        s->primary.paused = !running;
        colo_request_checkpoint_run_state();
    }
}

/* Hybrid mode: the guest leaves S3, which is no change of 'running'.  BQL. */
static void primary_wakeup(Notifier *n, void *reason)
{
    colo_request_checkpoint_run_state();
}

/* What is not covered: say so instead of losing it in silence.  BQL. */
static void warn_of_problems(ColoSession *s)
{
    g_autoptr(ColoProblemList) list = colo_problems(s->side, s->mode);

    for (ColoProblemList *l = list; l; l = l->next) {
        warn_report("COLO: %s", l->value->message);
    }
}

void migrate_start_colo_process(MigrationState *ms)
{
    ColoSession *s;
    g_autoptr(Error) err = NULL;
    bool live = runstate_is_live(ms->vm_old_state) ||
                colo_starts_guest(ms->vm_old_state);
    bool ok;

    assert(bql_locked());
    if (colo_exiting()) {
        /* Nobody would end the session; the guest stays where it is */
        migrate_set_state(&ms->state, MIGRATION_STATUS_COLO,
                          MIGRATION_STATUS_CANCELLING);
        return;
    }
    s = colo_session_new(COLO_MODE_PRIMARY,
                         qemu_file_get_ioc(ms->to_dst_file));
    s->primary.device_file = qemu_file_new_output(QIO_CHANNEL(s->device_state));
    colo_set_primary(s, COLO_PRIMARY_STATE_STARTING, "first migration done");

    ok = colo_disks_check(s->side, &err);
    if (ok) {
        /* Cut 0: output waits from here on */
        warn_of_problems(s);
        colo_net_warn_slow(s->mode);
        colo_participants_arm(0);
        ok = colo_disks_start(s, &err);
    }
    s->primary.last_cut_ns = colo_now_ns();
    s->primary.paused = !live;
    if (s->mode == COLO_SYNC_MODE_HYBRID) {
        s->primary.vm_state =
            qemu_add_vm_change_state_handler(primary_vm_state, s);
        s->primary.wakeup.notify = primary_wakeup;
        qemu_register_wakeup_notifier(&s->primary.wakeup);
    }
    if (live) {
        colo_start_guest();
    } else if (runstate_check(RUN_STATE_FINISH_MIGRATE)) {
        runstate_set(ms->vm_old_state);
    }
    bql_unlock();

    if (ok) {
        primary_protect(s, &err);
    } else {
        s->cause = COLO_CAUSE_LOCAL;
    }
    primary_finish(s, err);

    bql_lock();
    if (s->mode == COLO_SYNC_MODE_HYBRID) {
        notifier_remove(&s->primary.wakeup);
        qemu_del_vm_change_state_handler(s->primary.vm_state);
    }
    primary_close_migration(s, ms, err);
    g_clear_pointer(&s->primary.device_file, qemu_fclose);
    colo_disks_stop(false);
    colo_session_over(s);
}
