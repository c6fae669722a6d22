/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: QEMU exits.  End the session in order and let out what may leave.
 *
 * Both sides, main thread, BQL; the main loop has ended, so what needs it is
 * called from here.  All waits have deadlines.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "block/aio.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "heartbeat.h"
#include "lease.h"
#include "participants.h"
#include "session.h"

/* How long QEMU's exit waits for an orderly end, in times of the timeout */
#define SHUTDOWN_TIMEOUTS   3

/* How often it looks meanwhile what the primary wants from our disks */
#define SHUTDOWN_LOOK_MS    1

/* How long it waits for output to leave, and how often it looks meanwhile */
#define DRAIN_MS            1000
#define DRAIN_LOOK_MS       5
/*
 * So many rounds of the main loop without a packet: one that was under way in a
 * socket is read in the first, or in the second if the reader had no room.
 */
#define DRAIN_ROUNDS        3

/* BQL: why QEMU ends */
static ShutdownCause shutdown_cause;

static void note_shutdown_cause(Notifier *n, void *opaque)
{
    shutdown_cause = *(ShutdownCause *)opaque;
}

static Notifier shutdown_notifier = { .notify = note_shutdown_cause };

static void __attribute__((constructor)) shutdown_init(void)
{
    qemu_register_shutdown_notifier(&shutdown_notifier);
}

/*
 * Has the session's thread said its last word?  On the secondary the main
 * loop would do the rest, but there is none any more when QEMU exits.
 */
static bool session_settled(ColoSession *s)
{
    return s->thread_done ||
           (s->side == COLO_MODE_SECONDARY &&
            (s->secondary.state == COLO_SECONDARY_STATE_LIVE ||
             s->secondary.state == COLO_SECONDARY_STATE_ENDED));
}

static void end_session(void)
{
    ColoSession *s = colo_session();
    int64_t deadline_ms;

    if (!s || s->thread_done) {
        return;
    }
    colo_ask_end(s, shutdown_caused_by_guest(shutdown_cause)
                          ? COLO_BYE_GUEST_SHUTDOWN : COLO_BYE_QUIT);

    deadline_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                  SHUTDOWN_TIMEOUTS * (int64_t)s->timeout_ms;
    while (!session_settled(s)) {
        int64_t left_ms = deadline_ms - qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

        if (left_ms <= 0) {
            if (!s->wire || colo_wire_cancelled(s->wire)) {
                break;
            }
            /* The peer does not let us go: leave without its word */
            colo_wire_cancel(s->wire);
            deadline_ms += s->timeout_ms;
            continue;
        }
        /*
         * The primary may wait for our NBD server before it comes to a place
         * where it lets us go, and the main loop has ended.
         */
        aio_poll(qemu_get_aio_context(), false);
        qemu_cond_timedwait_bql(&s->cond, MIN(left_ms, SHUTDOWN_LOOK_MS));
    }
}

static void drain_look(void *opaque)
{
    /* Only ends a round of the main loop */
}

/*
 * What the guest said last may be on a way that leads through the main loop,
 * which has ended, or the network may take no more at once.  So the main loop
 * goes round until all has left.  The guest stands meanwhile, its devices work.
 */
static void drain_output(void)
{
    int64_t deadline_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + DRAIN_MS;
    QEMUTimer *look;

    if (!colo_participants_exist() || !colo_lease_holds() ||
        colo_session_active(COLO_MODE_SECONDARY)) {
        return;
    }
    pause_all_vcpus();
    look = timer_new_ms(QEMU_CLOCK_REALTIME, drain_look, NULL);
    for (int quiet = 0; quiet < DRAIN_ROUNDS; ) {
        int64_t now_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

        if (now_ms >= deadline_ms) {
            warn_report("COLO: QEMU exits, and some of the guest's output has "
                        "not left within %d ms", DRAIN_MS);
            break;
        }
        quiet = colo_participants_drained() ? quiet + 1 : 0;
        timer_mod(look, now_ms + DRAIN_LOOK_MS);
        main_loop_wait(quiet > 0);
    }
    timer_free(look);
}

void colo_shutdown(void)
{
    colo_set_exiting();
    end_session();
    drain_output();
    colo_heartbeat_shutdown();
}
