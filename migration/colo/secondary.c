/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the secondary's side of a session, run by a thread of its own.
 *
 * Theory of operation
 *
 * In periodic mode the VM stands still in run state 'colo'.  In hybrid mode it
 * runs beside the primary's from the end of one load to the next request, and
 * stands in between.
 *
 * The thread waits for a checkpoint, takes it in (secondary-checkpoint.c) and
 * commits it, until the session has to end.
 *
 * When the primary is lost the thread waits for a decision.  Going live is
 * left to the main loop, where the rest of migration expects it.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qapi/error.h"
#include "net/announce.h"
#include "net/colo.h"
#include "system/runstate.h"
#include "migration/colo.h"
#include "migration/global_state.h"
#include "migration/misc.h"
#include "arbiter.h"
#include "decision.h"
#include "disks.h"
#include "failover.h"
#include "first.h"
#include "guest.h"
#include "heartbeat.h"
#include "incoming.h"
#include "params.h"
#include "participants.h"
#include "peer.h"
#include "secondary-checkpoint.h"
#include "status.h"
#include "migration/migration.h"
#include "migration/multifd.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "wire-lease.h"
#include "trace.h"

/* How often a lock is asked for that the primary is about to give up */
#define LOCK_LOOK_MS    5

/* With one that only one side asks both could go on */
static bool secondary_has_same_arbiter(uint32_t flags, Error **errp)
{
    bool here = colo_arbiter_exists(), there = flags & COLO_START_ARBITER;

    if (here != there) {
        error_setg(errp, "only the %s has an arbiter: both sides need one "
                   "(colo-arbiter-file, colo-arbiter-exec), or neither",
                   there ? "primary" : "secondary");
    }
    return here == there;
}

/*
 * Session start: say what RAM there is, take the primary's parameters.  The
 * primary's guest is held until this side has answered, so what could keep the
 * session from beginning is looked for before anything is waited for.
 */
static bool secondary_handshake(ColoSession *s, Error **errp)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    uint8_t start_buf[COLO_START_LEN];
    ColoReady ready = { 0 };
    ColoStart start;
    ColoFrame f;
    bool ok;

    bql_lock();
    ok = colo_disks_check(COLO_MODE_SECONDARY, errp) &&
         colo_disks_generation(&ready.generation, errp);
    colo_ram_describe(s->ram, &ready);
    bql_unlock();
    colo_ready_encode(&ready, buf);
    colo_ready_clear(&ready);
    if (!ok) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }

    if (!colo_wire_send_buf(s->wire, COLO_FRAME_CHECKPOINT_READY, 0,
                            buf->data, buf->len, errp) ||
        !colo_expect(s, COLO_FRAME_START, 0, "'start'", &f, errp) ||
        !colo_wire_recv_buf(s->wire, start_buf, MIN(f.length,
                                                    sizeof(start_buf)),
                            errp) ||
        !colo_start_decode(start_buf, f.length, &start, errp)) {
        return false;
    }
    if (start.mode >= COLO_SYNC_MODE__MAX) {
        s->cause = COLO_CAUSE_LOCAL;
        error_setg(errp, "the primary wants mode %" PRIu32 ", which this side "
                   "does not know", start.mode);
        return false;
    }
    if (!secondary_has_same_arbiter(start.flags, errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    bql_lock();
    s->secondary.started = true;
    s->mode = start.mode;
    s->timeout_ms = start.timeout_ms;
    s->verify_ram = start.flags & COLO_START_VERIFY_RAM;
    s->id = start.session;
    s->generation = start.generation;
    colo_net_set_session(&s->id, s->mode);
    colo_heartbeat_set_session(&s->id);
    bql_unlock();
    colo_wire_set_timeout(s->wire, s->timeout_ms);
    return colo_decision_check(s, errp);
}

/*
 * Hybrid mode: the guest goes on from what was loaded, beside the primary's.
 * Stops and resets that it asked for before the load are void.  BQL.
 */
static void secondary_run_guest(ColoSession *s)
{
    RunState stop;

    colo_participants_load(s->epoch);
    s->secondary.deferred_shutdown = SHUTDOWN_CAUSE_NONE;
    s->secondary.deferred_reset = SHUTDOWN_CAUSE_NONE;
    qemu_vmstop_requested(&stop);
    if (s->secondary.run_state == COLO_RUN_RUNNING) {
        colo_start_guest();
    }
}

/* For the first time: what only a secondary that is ready needs.  BQL. */
static bool secondary_prepare_disks(ColoSession *s, Error **errp)
{
    if (s->mode == COLO_SYNC_MODE_HYBRID && !migration_block_activate(errp)) {
        error_prepend(errp, "the guest of the secondary cannot run in hybrid "
                      "mode without disks of its own: ");
        return false;
    }
    return colo_disks_start(s, errp) &&
           colo_disks_join_generation(s->generation, errp);
}

/*
 * Ready to take over: the guest stands or, in hybrid mode, runs.  False with
 * @errp set if it could not be started.
 */
static bool secondary_ready(ColoSession *s, const char *why, Error **errp)
{
    BQL_LOCK_GUARD();

    if (!s->was_ready && !secondary_prepare_disks(s, errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    s->was_ready = true;
    if (s->mode == COLO_SYNC_MODE_PERIODIC) {
        colo_set_secondary(s, COLO_SECONDARY_STATE_STANDING, why);
        return true;
    }
    colo_set_secondary(s, COLO_SECONDARY_STATE_RUNNING, why);
    secondary_run_guest(s);
    return true;
}

/*
 * The primary said nothing by @end_ns.  Go on waiting, or not?  False with @errp
 * set: not.
 */
static bool secondary_hears_nothing(ColoSession *s, const char *stage,
                                    Error **errp)
{
    g_autofree char *why = NULL;

    if (colo_wire_take_stall(s->wire)) {
        return true;
    }
    why = g_strdup_printf("waiting for %s: the peer was silent for %u ms",
                          stage, s->timeout_ms);
    return colo_wire_lose(s->wire, why, errp);
}

/* When is a peer silent that says nothing from now on? */
static int64_t silence_end(ColoSession *s)
{
    return colo_wire_is_lost(s->wire)
           ? INT64_MAX : colo_now_ns() + colo_timeout_ns(s);
}

/*
 * The primary's guest stands, and this one is the same.  It may have waited for
 * the answer in vain and gone on, so this side waits for its last word.  Always
 * sets @errp.
 */
static void secondary_is_handed_over(ColoSession *s, Error **errp)
{
    const char *stage = "the primary to let go";
    ColoFrame f;

    if (!colo_decision_claim(s, errp)) {
        /* Then both ask, until one of them has won */
        if (errp && !*errp) {
            error_setg(errp, "the arbiter has decided for the other side");
        }
        return;
    }
    if (!colo_wire_send_buf(s->wire, COLO_FRAME_BYE_ACK, s->epoch, NULL, 0,
                            errp) ||
        !colo_recv(s, stage, &f, errp)) {
        return;
    }
    if (f.type != COLO_FRAME_BYE_ACK) {
        colo_read_end(s, &f, stage, errp);
        return;
    }
    s->cause = COLO_CAUSE_HANDOVER;
    error_setg(errp, "the primary has handed over");
}

/* Wait for the next checkpoint; answer pings.  @cut: its number */
static bool secondary_await_request(ColoSession *s, uint64_t cut, Error **errp)
{
    const char *stage = "a checkpoint";
    ColoFrame f;

    colo_wire_begin_wait(s->wire);
    for (;;) {
        if (colo_wish(s) == COLO_WISH_SWITCHOVER && !s->secondary.has_asked) {
            s->secondary.has_asked = true;
            if (!colo_wire_send_buf(s->wire, COLO_FRAME_HANDOVER_REQUEST,
                                    s->epoch, NULL, 0, errp)) {
                return false;
            }
        }
        if (colo_has_to_end(s, errp)) {
            if (s->cause == COLO_CAUSE_LOCAL && colo_disks_are_complete()) {
                s->cause = COLO_CAUSE_SPENT;
            }
            return false;
        }
        switch (colo_wire_wait(s->wire, silence_end(s))) {
        case COLO_WAIT_WOKEN:
            continue;
        case COLO_WAIT_DEADLINE:
            if (!secondary_hears_nothing(s, stage, errp)) {
                return false;
            }
            continue;
        case COLO_WAIT_READABLE:
            break;
        }
        if (!colo_wire_next(s->wire, stage, &f, errp)) {
            return false;
        }
        if (f.type == COLO_FRAME_CHECKPOINT_REQUEST && f.epoch == cut) {
            return true;
        }
        if (f.type == COLO_FRAME_ALIVE) {
            continue;
        }
        if (f.type == COLO_FRAME_HANDOVER && f.epoch == s->epoch) {
            secondary_is_handed_over(s, errp);
            return false;
        }
        if (f.type != COLO_FRAME_PING) {
            colo_read_end(s, &f, stage, errp);
            return false;
        }
        if (!colo_wire_send_buf(s->wire, COLO_FRAME_PONG, f.epoch, NULL, 0,
                                errp)) {
            return false;
        }
    }
}

static bool secondary_commit_and_load(ColoSession *s, ColoArrival *a,
                                      Error **errp)
{
    g_autoptr(Error) send_err = NULL;

    if (!colo_secondary_commit(s, a, errp)) {
        return false;
    }

    /* Whether or not the primary hears of it: this side has it */
    colo_wire_send_buf(s->wire, COLO_FRAME_VMSTATE_RECEIVED, a->cut, NULL, 0,
                       &send_err);
    if (!colo_secondary_load(s, a, errp)) {
        return false;
    }
    colo_staging_reset(s->staging);
    if (!colo_disks_ok(s, errp)) {
        /* It has what the primary let out.  If that is gone it can go on. */
        s->cause = COLO_CAUSE_SPENT;
        return false;
    }
    if (!secondary_ready(s, "loaded", errp)) {
        return false;
    }
    if (send_err) {
        error_propagate(errp, g_steal_pointer(&send_err));
        return false;
    }
    if (!colo_wire_send_buf(s->wire, COLO_FRAME_VMSTATE_LOADED, a->cut, NULL, 0,
                            errp)) {
        return false;
    }
    colo_staging_shrink(s->staging);
    return true;
}

static bool secondary_checkpoint(ColoSession *s, Error **errp)
{
    ColoArrival a = { .cut = s->epoch + 1 };

    if (!secondary_await_request(s, a.cut, errp)) {
        return false;
    }
    a.begin_ns = colo_now_ns();
    return colo_secondary_reply(s, a.cut, errp) &&
           colo_secondary_receive(s, &a, errp) &&
           secondary_commit_and_load(s, &a, errp);
}

static void secondary_follow(ColoSession *s, Error **errp)
{
    colo_begin_alive(s);
    if (!secondary_handshake(s, errp) ||
        !secondary_ready(s, "ready", errp)) {
        return;
    }
    colo_watch_silence(s);
    while (secondary_checkpoint(s, errp)) {
        continue;
    }
}

/* The guest goes on where it stood, or is reset if it was about to be.  BQL. */
static void secondary_resume(ColoSession *s)
{
    if (s->secondary.deferred_reset) {
        qemu_system_reset_request(s->secondary.deferred_reset);
        s->secondary.deferred_reset = SHUTDOWN_CAUSE_NONE;
    }
    colo_start_guest();
}

/* The peer is lost, as @err says.  BQL. */
static void secondary_lose(ColoSession *s, const Error *err)
{
    colo_set_secondary(s, COLO_SECONDARY_STATE_LOST, error_get_pretty(err));
    if (s->mode == COLO_SYNC_MODE_HYBRID && s->was_ready &&
        s->secondary.run_state == COLO_RUN_RUNNING &&
        s->cause != COLO_CAUSE_SPENT && !s->secondary.deferred_shutdown &&
        runstate_check(RUN_STATE_COLO)) {
        /* It stood for a checkpoint that will not come */
        secondary_resume(s);
    }
}

/*
 * A primary that has handed over gives up the lock of a shared disk as soon as its
 * guest's devices are quiet.  BQL held, dropped meanwhile.
 */
static bool secondary_take_over_disks(ColoSession *s, Error **errp)
{
    int64_t end_ns = s->cause == COLO_CAUSE_HANDOVER
                     ? colo_now_ns() + colo_timeout_ns(s) : 0;

    while (true) {
        g_autoptr(Error) err = NULL;

        if (colo_disks_take_over(&err)) {
            return true;
        }
        if (colo_now_ns() >= end_ns || colo_exiting()) {
            error_propagate(errp, g_steal_pointer(&err));
            return false;
        }
        qemu_cond_timedwait_bql(&s->cond, LOCK_LOOK_MS);
    }
}

/*
 * This side goes live, and nobody has said that the primary is dead: not before
 * that can let out nothing more, by the wire's leases or a heartbeat's.  False if
 * QEMU exits.  BQL, dropped meanwhile.
 */
static bool secondary_await_leases(ColoSession *s, const Error *err)
{
    int64_t beat_end_ns;

    if (s->cause == COLO_CAUSE_HANDOVER) {
        return true;
    }
    g_clear_pointer(&s->keepalive, colo_keepalive_stop);
    beat_end_ns = colo_heartbeat_stop_leases(colo_wire_heard_ns(s->wire));
    while (!s->forced && colo_wish(s) != COLO_WISH_OUT) {
        int64_t end_ns = colo_wire_lease_end(s->wire);
        int64_t left_ns;

        if (!end_ns && colo_heartbeat_is_closed()) {
            break;
        }
        left_ns = MAX(end_ns, beat_end_ns) - colo_now_ns();
        if (left_ns <= 0) {
            break;
        }
        if (colo_exiting()) {
            return false;
        }
        if (s->secondary.state != COLO_SECONDARY_STATE_LOST) {
            secondary_lose(s, err);
        }
        qemu_cond_timedwait_bql(&s->cond, DIV_ROUND_UP(left_ns, SCALE_MS));
    }
    return true;
}

/*
 * Wait until this side is told to go live, which @asked says it has been, and
 * may.  Returns false if QEMU exits, or the other side goes on.  BQL.
 */
static bool secondary_decide(ColoSession *s, const Error *err, bool asked)
{
    g_autoptr(Error) refused = NULL;

    while (true) {
        if (!asked) {
            if (s->secondary.state != COLO_SECONDARY_STATE_LOST) {
                secondary_lose(s, refused ? refused : err);
            }
            colo_await_decision(s, refused ? refused : err);
            if (colo_wish(s) != COLO_WISH_FAILOVER) {
                return false;
            }
        }
        g_clear_pointer(&refused, error_free);
        if (!secondary_await_leases(s, err)) {
            colo_refuse_failover(s);
            asked = false;
            continue;
        }
        if (colo_wish(s) == COLO_WISH_OUT) {
            return false;
        }
        if (secondary_take_over_disks(s, &refused)) {
            if (s->cause != COLO_CAUSE_HANDOVER) {
                colo_say_going_on(s);
            }
            colo_say_decided();
            return true;
        }
        colo_status_say("%s", error_get_pretty(refused));
        colo_refuse_failover(s);
        asked = false;
    }
}

/* It has been decided: the primary goes on.  BQL. */
static void secondary_is_out(ColoSession *s)
{
    info_report("COLO secondary: %s", s->out_why);
    colo_set_secondary(s, COLO_SECONDARY_STATE_ENDED, s->out_why);
}

/* Decide what comes after the session.  The new state is LIVE or ENDED. */
static void secondary_finish(ColoSession *s, Error *err)
{
    g_autoptr(Error) bye_err = NULL;
    bool failover;

    if (colo_wish(s) == COLO_WISH_SWITCHOVER &&
        s->cause == COLO_CAUSE_LOST) {
        BQL_LOCK_GUARD();
        if (colo_arbiter_exists() || !s->secondary.started) {
            qatomic_set(&s->wish, COLO_WISH_NONE);
        } else {
            /* Somebody wants this side to go on, and there is nobody to ask */
            colo_ask_failover(s);
        }
    }
    failover = colo_wish(s) == COLO_WISH_FAILOVER;
    if (s->cause == COLO_CAUSE_SPENT && !failover &&
        colo_hears_peer(s, NULL)) {
        /* It goes on alone as soon as it hears the error */
        s->cause = COLO_CAUSE_LOCAL;
    }
    if (s->cause == COLO_CAUSE_LOCAL) {
        /* Half a checkpoint may be in place: this side must not go live */
        colo_finish_begin(s, err);
        colo_set_secondary(s, COLO_SECONDARY_STATE_ENDING,
                           error_get_pretty(err));
        colo_say_error(s, err);
        colo_set_secondary(s, COLO_SECONDARY_STATE_ENDED, "cannot go on");
        return;
    }
    failover = colo_wish(s) == COLO_WISH_FAILOVER;
    if (!failover && s->cause == COLO_CAUSE_WISH) {
        colo_finish_begin(s, err);
        colo_set_secondary(s, COLO_SECONDARY_STATE_ENDING,
                  colo_bye_reason_str(s->end_reason));
        if (colo_say_bye(s, s->end_reason, &bye_err)) {
            colo_set_secondary(s, COLO_SECONDARY_STATE_ENDED,
                               "the peer agreed");
            return;
        }
        err = bye_err;
        failover = colo_wish(s) == COLO_WISH_FAILOVER;
    }

    BQL_LOCK_GUARD();
    if (colo_wish(s) == COLO_WISH_OUT) {
        secondary_is_out(s);
        return;
    }
    if (!failover || colo_peer_is_out(s)) {
        colo_status_say("%s", error_get_pretty(err));
    }
    if (colo_peer_is_out(s)) {
        error_report("COLO secondary: %s", error_get_pretty(err));
        colo_set_secondary(s, COLO_SECONDARY_STATE_ENDED,
                           "the primary is done");
        return;
    }
    if (!s->was_ready && colo_disks_exist()) {
        /* They lack what had not arrived, and take no writes */
        error_report("COLO secondary: the primary was lost before the disks "
                     "were ready, this side cannot take over: %s",
                     error_get_pretty(err));
        colo_set_secondary(s, COLO_SECONDARY_STATE_ENDED, "never ready");
        return;
    }
    failover = secondary_decide(s, err, failover ||
                                        s->cause == COLO_CAUSE_HANDOVER);
    if (!failover && colo_wish(s) == COLO_WISH_OUT) {
        secondary_is_out(s);
        return;
    }
    if (!failover && colo_peer_is_out(s)) {
        colo_set_secondary(s, COLO_SECONDARY_STATE_ENDED,
                           "the primary is done");
        return;
    }
    colo_set_secondary(s, failover ? COLO_SECONDARY_STATE_LIVE
                                   : COLO_SECONDARY_STATE_ENDED,
                       failover ? "failover" : "QEMU exits");
}

/* Whoever let this side go on has to know that it serves nobody yet */
static void say_if_guest_stands(void)
{
    RunState state = runstate_get();
    g_autofree char *text = NULL;

    if (runstate_is_live(state) || state == RUN_STATE_SHUTDOWN) {
        return;
    }
    text = g_strdup_printf("its guest is stopped (%s), 'cont' lets it run",
                           RunState_str(state));
    colo_status_add(text);
    warn_report("COLO secondary: this side goes on, but %s", text);
}

/* Main loop, after the session's thread: become the service */
static void secondary_go_live(ColoSession *s, MigrationIncomingState *mis)
{
    Error *err = NULL;

    if (s->secondary.deferred_shutdown) {
        /* If it asked just now it has not been stopped yet */
        if (runstate_check(RUN_STATE_COLO)) {
            runstate_set(RUN_STATE_SHUTDOWN);
        }
        qemu_system_shutdown_request(s->secondary.deferred_shutdown);
    } else if (!runstate_check(RUN_STATE_COLO)) {
        /* Hybrid mode: it runs, or stopped in a way of its own */
        qemu_announce_self(&mis->announce_timer, migrate_announce_params());
        say_if_guest_stands();
    } else if (s->secondary.run_state == COLO_RUN_SHUTDOWN) {
        runstate_set(RUN_STATE_SHUTDOWN);
    } else if (!migration_block_activate(&err)) {
        error_prepend(&err, "cannot take over the disks, and the guest is "
                      "paused: ");
        colo_status_add(error_get_pretty(err));
        error_reportf_err(err, "COLO secondary: ");
        runstate_set(RUN_STATE_PAUSED);
    } else if (s->secondary.run_state == COLO_RUN_RUNNING) {
        secondary_resume(s);
        qemu_announce_self(&mis->announce_timer, migrate_announce_params());
    } else {
        runstate_set(RUN_STATE_PAUSED);
        qemu_announce_self(&mis->announce_timer, migrate_announce_params());
        say_if_guest_stands();
    }
}

static void secondary_end_bh(void *opaque)
{
    ColoSession *s = opaque;
    MigrationIncomingState *mis = migration_incoming_get_current();
    bool live = s->secondary.state == COLO_SECONDARY_STATE_LIVE;
    bool in_order = s->cause == COLO_CAUSE_WISH ||
                    s->cause == COLO_CAUSE_PEER_BYE;
    /* Nobody goes live unasked */
    bool asked = colo_end_was_requested(s) || live;

    if (colo_exiting()) {
        return;
    }
    colo_ram_dirty_log_end();
    multifd_recv_shutdown();
    colo_disks_stop(live);
    colo_session_over(s);

    colo_participants_stand(false);
    if (live) {
        /* The next pair is to be as this one was, the user told the primary */
        migrate_colo_set_mode(s->mode);
        colo_participants_open();
        secondary_go_live(s, mis);
    }
    migrate_set_state(&mis->state, MIGRATION_STATUS_COLO,
                      live ? MIGRATION_STATUS_COMPLETED :
                      in_order ? MIGRATION_STATUS_CANCELLED
                               : MIGRATION_STATUS_FAILED);
    if (!live) {
        colo_retire_guest("this was a COLO secondary and has ended");
    }
    colo_report_exit(s, asked ? COLO_EXIT_REASON_REQUEST
                              : COLO_EXIT_REASON_ERROR);
    migration_incoming_disable_colo();
    migration_incoming_state_destroy();
}

static void *secondary_thread(void *opaque)
{
    ColoSession *s = opaque;
    g_autoptr(Error) err = NULL;

    rcu_register_thread();
    secondary_follow(s, &err);
    secondary_finish(s, err);
    /* The end is not for disks that are in the middle of something */
    colo_disks_await_load();
    if (s->secondary.state == COLO_SECONDARY_STATE_ENDED) {
        colo_disks_begin_end();
        colo_disks_await_load();
    }
    bql_lock();
    qemu_cond_broadcast(&s->cond);
    /* When QEMU ends there may be no migration object any more */
    if (!colo_exiting()) {
        migration_bh_schedule(secondary_end_bh, s);
    }
    bql_unlock();
    rcu_unregister_thread();
    return NULL;
}

void colo_incoming_start(void)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    ColoSession *s;
    QemuThread thread;

    assert(bql_locked());
    if (colo_exiting()) {
        /* The primary was never told that this side is there, and goes on */
        return;
    }
    colo_incoming_watch_end();
    colo_first_done();
    s = colo_session_new(COLO_MODE_SECONDARY,
                         qemu_file_get_ioc(mis->from_src_file));
    s->secondary.sections = g_byte_array_new();
    /* Without global state in the stream it is not known: assume it runs */
    s->secondary.run_state = !global_state_received() ||
                   runstate_is_live(global_state_get_runstate())
                   ? COLO_RUN_RUNNING : COLO_RUN_PAUSED;
    migrate_set_state(&mis->state, MIGRATION_STATUS_ACTIVE,
                      MIGRATION_STATUS_COLO);
    runstate_set(RUN_STATE_COLO);
    colo_participants_stand(true);
    colo_set_secondary(s, COLO_SECONDARY_STATE_STARTING,
                       "first migration loaded");
    qemu_thread_create(&thread, MIGRATION_THREAD_DST_COLO, secondary_thread,
                       s, QEMU_THREAD_DETACHED);
}
