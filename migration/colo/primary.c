/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the primary's side of a session, run by the migration thread.
 *
 * Theory of operation
 *
 * The thread sleeps until a checkpoint is due (timer, request, full queue)
 * and takes it (primary-checkpoint.c), until the session has to end.  Then it
 * finds out which side goes on, as failover.c says.
 *
 * A failure before the commit costs nothing: the set of dirty pages is lost
 * with the session, and output stays held until it is known who goes on.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "system/runstate.h"
#include "system/tpm.h"
#include "migration/colo.h"
#include "net/colo.h"
#include "arbiter.h"
#include "decision.h"
#include "disks.h"
#include "failover.h"
#include "guest.h"
#include "lease.h"
#include "params.h"
#include "participants.h"
#include "peer.h"
#include "primary-checkpoint.h"
#include "problems.h"
#include "progress.h"
#include "requests.h"
#include "status.h"
#include "migration/migration.h"
#include "migration/qemu-file.h"

/* A checkpoint is put off for so long, and the TPM looked at so often */
#define TPM_PATIENCE_S      30
#define TPM_LOOK_NS         (1 * SCALE_MS)

/* While idle, speak this often within the timeout */
#define PINGS_PER_TIMEOUT   3

/*
 * With its first answer after the handshake the secondary is ready, its disks
 * too; until then it can refuse.
 */
static bool primary_await_ready(ColoSession *s, Error **errp)
{
    const char *stage = "the secondary to be ready";
    ColoFrame f;

    int64_t asked_ns = colo_now_ns();

    if (!colo_wire_send_buf(s->wire, COLO_FRAME_PING, 0, NULL, 0, errp) ||
        !colo_wire_recv(s->wire, stage, &f, errp)) {
        return false;
    }
    if (f.type != COLO_FRAME_PONG) {
        colo_read_end(s, &f, stage, errp);
        return false;
    }
    colo_lease_begin(asked_ns, colo_wire_beat_timeout(s->wire));
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

    if (!colo_expect(s, COLO_FRAME_CHECKPOINT_READY, 0, NULL, &f, errp)) {
        return false;
    }
    colo_begin_alive(s);
    buf = g_malloc(f.length);
    if (!colo_wire_recv_buf(s->wire, buf, f.length, errp) ||
        !colo_ready_decode(buf, f.length, &ready, errp)) {
        return false;
    }
    ok = colo_ram_adopt(s->ram, &ready, errp) &&
         colo_disks_check_generation(ready.generation, errp);
    colo_ready_clear(&ready);
    if (!ok) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }

    /*
     * Its guest must not see a disk without what was written so far, nor
     * another one
     */
    if (!colo_disks_settle(s, 0, errp) || !colo_disks_compare(s, errp)) {
        return false;
    }
    if (!colo_disks_new_generation(&generation, errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    s->generation = generation;
    if (!colo_decision_register(s, errp)) {
        return false;
    }
    colo_start_encode(&(ColoStart) {
        .mode = s->mode,
        .timeout_ms = s->timeout_ms,
        .flags = (s->verify_ram ? COLO_START_VERIFY_RAM : 0) |
                 (colo_arbiter_exists() ? COLO_START_ARBITER : 0),
        .generation = generation,
        .session = s->id,
    }, start);
    /* Whether or not it arrives: it can make the secondary ready */
    s->primary.peer_may_be_ready = true;
    return colo_wire_send_buf(s->wire, COLO_FRAME_START, 0, start,
                              sizeof(start), errp) &&
           primary_await_ready(s, errp);
}

/*
 * The time at which the next checkpoint is due if nobody asks for one, or 0 if
 * one is due now (@reason says why).
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
 * A checkpoint is due.  The time until which it is put off because stopping the
 * guest would have to wait for its TPM, 0 if it is not, -1 with @errp set if the
 * TPM takes too long.  @due_ns: since when
 */
static int64_t primary_await_tpm(ColoSession *s, int64_t due_ns, Error **errp)
{
    if (!tpm_is_busy()) {
        return 0;
    }
    if (colo_now_ns() - due_ns > TPM_PATIENCE_S * NANOSECONDS_PER_SECOND) {
        error_setg(errp, "the TPM has not answered for %d s, and without that "
                   "there is no checkpoint", TPM_PATIENCE_S);
        s->cause = COLO_CAUSE_LOCAL;
        return -1;
    }
    return colo_now_ns() + TPM_LOOK_NS;
}

/*
 * The peer is silent.  Wait until it is heard again; false with @errp set if the
 * session has to end.
 */
static bool primary_await_return(ColoSession *s, Error **errp)
{
    const char *stage = "the peer to come back";
    ColoFrame f;

    while (colo_wire_is_lost(s->wire)) {
        if (colo_has_to_end(s, errp)) {
            return false;
        }
        if (colo_wire_wait(s->wire, INT64_MAX) != COLO_WAIT_READABLE) {
            continue;
        }
        if (!colo_wire_next(s->wire, stage, &f, errp)) {
            return false;
        }
        if (f.type != COLO_FRAME_ALIVE && !colo_take_sign_of_life(s, &f)) {
            colo_read_end(s, &f, stage, errp);
            return false;
        }
    }
    return true;
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
    int64_t since_ns = 0;

    colo_wire_begin_wait(s->wire);
    for (;;) {
        int64_t due_ns;
        ColoFrame f;

        if (colo_has_to_end(s, errp)) {
            return false;
        }
        if (colo_wire_is_lost(s->wire)) {
            if (!primary_await_return(s, errp)) {
                return false;
            }
            heard_ns = colo_now_ns();
            next_ping_ns = heard_ns;
        }
        if (s->primary.hand_over) {
            *reason = COLO_CHECKPOINT_REASON_SWITCHOVER;
            return true;
        }
        due_ns = since_ns ? 0 : primary_next_due(s, reason);
        if (!due_ns) {
            since_ns = since_ns ?: colo_now_ns();
            due_ns = primary_await_tpm(s, since_ns, errp);
            if (due_ns <= 0) {
                return due_ns == 0;
            }
        }

        switch (colo_wire_wait(s->wire, MIN(due_ns, next_ping_ns))) {
        case COLO_WAIT_READABLE:
            if (!colo_wire_next(s->wire, stage, &f, errp)) {
                return false;
            }
            if (colo_take_sign_of_life(s, &f)) {
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
            if (colo_wire_take_stall(s->wire)) {
                heard_ns = colo_now_ns();
            }
            if (colo_now_ns() - heard_ns > colo_timeout_ns(s)) {
                g_autofree char *why =
                    g_strdup_printf("waiting for 'pong': the peer was silent "
                                    "for %u ms", s->timeout_ms);

                if (!colo_wire_lose(s->wire, why, errp)) {
                    return false;
                }
                break;
            }
            if (!colo_wire_send_buf(s->wire, COLO_FRAME_PING, s->epoch, NULL,
                                    0, errp)) {
                return false;
            }
            s->primary.pings++;
            colo_progress_idle();
            next_ping_ns = colo_now_ns() + ping_ns;
            break;
        case COLO_WAIT_WOKEN:
            break;
        }
    }
}

/* The whole time under protection; returns with @errp set */
static void primary_protect(ColoSession *s, Error **errp)
{
    ColoCheckpointReason reason = COLO_CHECKPOINT_REASON_TIMER;

    if (!primary_handshake(s, errp)) {
        return;
    }
    colo_watch_silence(s);
    bql_lock();
    s->was_ready = true;
    colo_set_primary(s, COLO_PRIMARY_STATE_RUNNING, "secondary is ready");
    if (s->primary.starts && colo_wish(s) == COLO_WISH_NONE) {
        s->primary.starts = false;
        colo_start_guest();
    }
    bql_unlock();
    while (primary_run_epoch(s, &reason, errp) &&
           colo_primary_checkpoint(s, reason, errp)) {
        continue;
    }
}

/* There is no switchover after all.  BQL. */
static void primary_keep_guest(ColoSession *s)
{
    s->primary.switches_over = false;
    if (s->primary.stands) {
        colo_primary_resume(s);
    }
}

/* BQL.  From here on the guest is on its own. */
static void primary_alone(ColoSession *s, const char *why,
                          COLOExitReason reason)
{
    colo_set_primary(s, COLO_PRIMARY_STATE_ALONE, why);
    colo_disks_stop(true);
    colo_lease_end();
    colo_participants_open();
    colo_report_exit(s, reason);
    /* If it was handed over, nobody has taken it */
    primary_keep_guest(s);
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
    primary_alone(s, "the peer is out", colo_end_was_requested(s)
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
    colo_lease_end();
    colo_participants_open();
    bql_unlock();

    if (s->keepalive ||
        colo_expect(s, COLO_FRAME_CHECKPOINT_READY, 0, NULL, &f, NULL)) {
        colo_say_error(s, err);
    }
    BQL_LOCK_GUARD();
    primary_alone(s, "the session was refused", COLO_EXIT_REASON_ERROR);
}

/* Somebody has said which side goes on: this one.  BQL. */
static void primary_fail_over(ColoSession *s)
{
    colo_say_going_on(s);
    colo_say_decided();
    primary_alone(s, "failover", COLO_EXIT_REASON_REQUEST);
}

static void primary_retire_bh(void *opaque)
{
    colo_retire_guest("the other side of the COLO pair has taken over from "
                      "this one");
    /* It may wait for the lock of a shared disk; and nobody writes here again */
    migration_block_inactivate();
}

/* The other side is the service.  BQL. */
static void primary_taken_over(ColoSession *s, const Error *err)
{
    const char *why = colo_wish(s) == COLO_WISH_OUT ? s->out_why
                                                    : error_get_pretty(err);

    colo_status_say("%s; the guest of this side stands for good", why);
    info_report("COLO primary: %s; the guest of this side stands for good",
                why);
    colo_set_primary(s, COLO_PRIMARY_STATE_ENDED, why);
    colo_lease_revoke();
    colo_disks_stop(false);
    colo_report_exit(s, COLO_EXIT_REASON_REQUEST);
}

/*
 * The session is over for the reason in @err and s->cause; find out who goes
 * on and act on it.
 */
static void primary_finish(ColoSession *s, Error *err)
{
    g_autoptr(Error) bye_err = NULL;
    bool failover = colo_wish(s) == COLO_WISH_FAILOVER;

    if (!s->primary.handed_over) {
        BQL_LOCK_GUARD();
        primary_keep_guest(s);
    }
    if (!failover && s->cause == COLO_CAUSE_LOCAL &&
        !s->primary.peer_may_be_ready) {
        primary_refuse(s, err);
        return;
    }
    if (!failover && (s->cause == COLO_CAUSE_WISH ||
                      s->cause == COLO_CAUSE_LOCAL ||
                      s->cause == COLO_CAUSE_PAUSE)) {
        colo_finish_begin(s, err);
        if (primary_end(s, bye_reason(s), &bye_err)) {
            return;
        }
        err = bye_err;
        failover = colo_wish(s) == COLO_WISH_FAILOVER;
        colo_disks_forget_failure();
    }

    BQL_LOCK_GUARD();
    if (s->cause == COLO_CAUSE_HANDOVER || s->cause == COLO_CAUSE_TAKEOVER ||
        colo_wish(s) == COLO_WISH_OUT) {
        primary_taken_over(s, err);
        return;
    }
    if (failover || (colo_goes_on(s) && !colo_peer_is_out(s) &&
                     !colo_arbiter_exists())) {
        primary_fail_over(s);
        return;
    }
    if (colo_goes_on(s)) {
        /* It is not for us to say so */
        qatomic_set(&s->wish, COLO_WISH_NONE);
    }
    colo_status_say("%s", error_get_pretty(err));
    if (colo_peer_is_out(s) || !s->primary.peer_may_be_ready) {
        primary_go_on(s, err);
        return;
    }
    if (s->primary.state != COLO_PRIMARY_STATE_LOST) {
        colo_set_primary(s, COLO_PRIMARY_STATE_LOST, error_get_pretty(err));
    }
    colo_lease_revoke();
    colo_disks_abandon();
    colo_await_decision(s, err);
    if (s->cause == COLO_CAUSE_HANDOVER || s->cause == COLO_CAUSE_TAKEOVER ||
        colo_wish(s) == COLO_WISH_OUT) {
        primary_taken_over(s, err);
    } else if (colo_wish(s) == COLO_WISH_FAILOVER) {
        primary_fail_over(s);
    } else if (colo_peer_is_out(s)) {
        primary_go_on(s, err);
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

/* Somebody has said "stop" while the guest stood for the samples */
static void primary_stop_if_asked(ColoSession *s)
{
    RunState stop = s->primary.deferred_stop;

    s->primary.deferred_stop = RUN_STATE__MAX;
    if (stop != RUN_STATE__MAX) {
        qemu_system_vmstop_request_prepare();
        qemu_system_vmstop_request(stop);
    }
}

void migrate_start_colo_process(MigrationState *ms)
{
    ColoSession *s;
    g_autoptr(Error) err = NULL;
    bool live = runstate_is_live(ms->vm_old_state);
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
        colo_participants_arm(0);
        ok = colo_disks_start(s, &err);
    }
    if (ok) {
        bql_unlock();
        ok = colo_disks_sample(s, &err);
        bql_lock();
    }
    s->primary.last_cut_ns = colo_now_ns();
    /* Nobody has let it run so far: not unless it is protected */
    s->primary.starts = s->primary.deferred_stop == RUN_STATE__MAX &&
                        colo_starts_guest(ms->vm_old_state);
    s->primary.paused = !live && !s->primary.starts;
    if (s->mode == COLO_SYNC_MODE_HYBRID) {
        s->primary.vm_state =
            qemu_add_vm_change_state_handler(primary_vm_state, s);
        s->primary.wakeup.notify = primary_wakeup;
        qemu_register_wakeup_notifier(&s->primary.wakeup);
    }
    if (live) {
        colo_start_guest();
        primary_stop_if_asked(s);
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
    if (s->primary.state == COLO_PRIMARY_STATE_ENDED && !colo_exiting()) {
        /* Not earlier: while there is a migration it cannot be blocked */
        migration_bh_schedule(primary_retire_bh, s);
    }
}
