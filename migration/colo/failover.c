/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: changes of state, and the ways a session ends.
 *
 * Both sides.  Theory of operation
 *
 * A session is one thread on each side (the migration thread of the primary,
 * a thread of its own on the secondary) that follows the protocol.  It stops
 * for one of these causes (ColoCause):
 *
 * - the peer is lost: the channel failed, the peer was silent for the whole
 *   timeout, or it broke the protocol.  Nobody can tell from here whether the
 *   other side lives, so neither goes on by itself: the state is 'lost', the
 *   primary's guest runs but its output is held, the secondary stands, and
 *   x-colo-lost-heartbeat says who goes on.
 * - a wish: x-colo-lost-heartbeat cuts every wait short; the end of QEMU or
 *   migrate_cancel is followed between two checkpoints.  A secondary that may
 *   not write to a shared disk, since the primary's process has it locked,
 *   does not follow the first: it is 'lost' then, or still.
 * - the peer ended the session: by a bye, or by an error that it reports.
 *   Whoever says so never goes live, so the other side may go on at once;
 *   a secondary that got the primary's bye does not.
 * - a fault of this side: it tells the peer, in order.
 *
 * What holds in each state is written in qapi/colo.json and
 * docs/devel/colo.rst; state.c says how states follow each other.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "qapi/qapi-events-colo.h"
#include "qapi/qapi-events-migration.h"
#include "fault.h"
#include "internal.h"
#include "status.h"
#include "trace.h"

void colo_set_primary(ColoSession *s, ColoPrimaryState to, const char *why)
{
    assert(bql_locked() && s->side == COLO_MODE_PRIMARY);
    assert(colo_primary_transition_ok(s->primary.state, to));
    trace_colo_state(s->epoch, "primary",
                     ColoPrimaryState_str(s->primary.state),
                     ColoPrimaryState_str(to), why);
    s->primary.state = to;
    colo_status_update();
    colo_fault_state(COLO_MODE_PRIMARY, ColoPrimaryState_str(to));
}

void colo_set_secondary(ColoSession *s, ColoSecondaryState to,
                        const char *why)
{
    assert(bql_locked() && s->side == COLO_MODE_SECONDARY);
    assert(colo_secondary_transition_ok(s->secondary.state, to));
    trace_colo_state(s->epoch, "secondary",
                     ColoSecondaryState_str(s->secondary.state),
                     ColoSecondaryState_str(to), why);
    s->secondary.state = to;
    colo_status_update();
    colo_fault_state(COLO_MODE_SECONDARY, ColoSecondaryState_str(to));
}

const char *colo_state_str(ColoSession *s)
{
    return s->side == COLO_MODE_PRIMARY
           ? ColoPrimaryState_str(s->primary.state)
           : ColoSecondaryState_str(s->secondary.state);
}

void colo_ask_failover(ColoSession *s)
{
    trace_colo_wish(s->epoch, COLOMode_str(s->side), "failover");
    qatomic_set(&s->wish, COLO_WISH_FAILOVER);
    if (s->wire) {
        colo_wire_cancel(s->wire);
    }
    qemu_cond_broadcast(&s->cond);
}

void colo_refuse_failover(ColoSession *s)
{
    trace_colo_wish(s->epoch, COLOMode_str(s->side), "none");
    if (colo_exiting()) {
        s->end_reason = COLO_BYE_QUIT;
    }
    qatomic_set(&s->wish, colo_exiting() ? COLO_WISH_END : COLO_WISH_NONE);
}

void colo_ask_end(ColoSession *s, ColoByeReason reason)
{
    trace_colo_wish(s->epoch, COLOMode_str(s->side),
                    colo_bye_reason_str(reason));
    if (colo_wish(s) != COLO_WISH_FAILOVER) {
        /* The end of QEMU outweighs migrate_cancel */
        s->end_reason = reason;
        qatomic_set(&s->wish, COLO_WISH_END);
    }
    if (s->wire) {
        colo_wire_wake(s->wire);
    }
    qemu_cond_broadcast(&s->cond);
}

void colo_read_end(ColoSession *s, const ColoFrame *f, const char *stage,
                   Error **errp)
{
    uint8_t buf[COLO_TEXT_MAX + 1];
    ColoByeReason reason;

    QEMU_BUILD_BUG_ON(COLO_BYE_LEN > COLO_TEXT_MAX);

    switch (f->type) {
    case COLO_FRAME_BYE:
        if (!colo_wire_recv_buf(s->wire, buf, f->length, errp) ||
            !colo_bye_decode(buf, f->length, &reason, errp)) {
            return;
        }
        s->cause = COLO_CAUSE_PEER_BYE;
        /* If this gets lost the peer finds out by itself */
        colo_wire_send_buf(s->wire, COLO_FRAME_BYE_ACK, s->epoch, NULL, 0,
                           NULL);
        error_setg(errp, "the peer ended the session: %s",
                   colo_bye_reason_str(reason));
        return;
    case COLO_FRAME_ERROR:
        if (!colo_wire_recv_buf(s->wire, buf, f->length, errp)) {
            return;
        }
        buf[f->length] = '\0';
        for (uint64_t i = 0; i < f->length; i++) {
            buf[i] = g_ascii_isprint(buf[i]) ? buf[i] : '?';
        }
        s->cause = COLO_CAUSE_PEER_ERROR;
        colo_wire_send_buf(s->wire, COLO_FRAME_BYE_ACK, s->epoch, NULL, 0,
                           NULL);
        error_setg(errp, "the peer reports: %s", buf);
        return;
    default:
        error_setg(errp, "waiting for %s: unexpected '%s' of checkpoint "
                   "%" PRIu64, stage, colo_frame_name(f->type), f->epoch);
        return;
    }
}

int64_t colo_patience_end(ColoSession *s)
{
    return qemu_clock_get_ns(QEMU_CLOCK_REALTIME) +
           COLO_STALL_TIMEOUTS * (s->timeout_ms * (int64_t)SCALE_MS);
}

bool colo_patience_over(ColoSession *s, int64_t end_ns, const char *stage,
                        Error **errp)
{
    if (qemu_clock_get_ns(QEMU_CLOCK_REALTIME) < end_ns) {
        return false;
    }
    error_setg(errp, "waiting for %s: the peer spoke of something else for "
               "%u ms", stage, COLO_STALL_TIMEOUTS * s->timeout_ms);
    return true;
}

/*
 * Wait until the peer has understood, passing over whatever it was about to
 * say.  Without that, closing a socket with unread data would reset the
 * connection, and the peer might never see our last word.
 */
static bool await_bye_ack(ColoSession *s, Error **errp)
{
    int64_t end_ns = colo_patience_end(s);
    ColoFrame f;

    do {
        if (colo_patience_over(s, end_ns, "'bye-ack'", errp) ||
            !colo_wire_recv(s->wire, "'bye-ack'", &f, errp) ||
            !colo_wire_skip(s->wire, f.length, errp)) {
            return false;
        }
        /* BYE: both sides had the same idea */
    } while (f.type != COLO_FRAME_BYE_ACK && f.type != COLO_FRAME_BYE);
    return true;
}

bool colo_say_bye(ColoSession *s, ColoByeReason reason, Error **errp)
{
    uint8_t buf[COLO_BYE_LEN];

    colo_bye_encode(reason, buf);
    return colo_wire_send_buf(s->wire, COLO_FRAME_BYE, s->epoch, buf,
                              sizeof(buf), errp) &&
           await_bye_ack(s, errp);
}

void colo_finish_begin(ColoSession *s, const Error *err)
{
    BQL_LOCK_GUARD();
    if (s->cause == COLO_CAUSE_WISH) {
        colo_status_say("ended on this side: %s",
                        colo_bye_reason_str(s->end_reason));
    } else {
        colo_status_say("%s", error_get_pretty(err));
    }
}

void colo_say_error(ColoSession *s, const Error *err)
{
    const char *text = error_get_pretty(err);

    /* If the peer does not hear it, it finds out by itself */
    if (colo_wire_send_buf(s->wire, COLO_FRAME_ERROR, s->epoch, text,
                           MIN(strlen(text), COLO_TEXT_MAX), NULL)) {
        await_bye_ack(s, NULL);
    }
}

void colo_begin_alive(ColoSession *s)
{
    BQL_LOCK_GUARD();
    s->keepalive = colo_keepalive_start(s->wire);
}

void colo_await_decision(ColoSession *s, const Error *err)
{
    /* A peer that still hears this side has to lose it, too */
    g_clear_pointer(&s->keepalive, colo_keepalive_stop);
    error_report("COLO %s: peer lost: %s", COLOMode_str(s->side),
                 error_get_pretty(err));
    error_printf("The guest's output is held until x-colo-lost-heartbeat "
                 "tells this side to go on.\n");
    qapi_event_send_colo_peer_lost(COLOMode_str(s->side), s->committed,
                                   error_get_pretty(err));

    while (colo_wish(s) != COLO_WISH_FAILOVER &&
           !(colo_wish(s) == COLO_WISH_END &&
             s->end_reason != COLO_BYE_CANCEL)) {
        qemu_cond_wait_bql(&s->cond);
    }
}

void colo_report_exit(ColoSession *s, COLOExitReason reason)
{
    s->exit_reason = reason;
    trace_colo_exit(s->epoch, COLOMode_str(s->side),
                    COLOExitReason_str(reason));
    qapi_event_send_colo_exit(s->side, reason);
}
