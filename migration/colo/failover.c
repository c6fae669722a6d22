/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the ways a session ends.
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
#include "qapi/error.h"
#include "qapi/qapi-events-colo.h"
#include "qapi/qapi-events-migration.h"
#include "disks.h"
#include "failover.h"
#include "status.h"
#include "trace.h"

bool colo_has_to_end(ColoSession *s, Error **errp)
{
    if (colo_wish(s) != COLO_WISH_NONE) {
        s->cause = COLO_CAUSE_WISH;
        error_setg(errp, "asked to end the session");
        return true;
    }
    return !colo_disks_ok(s, errp);
}

void colo_finish_begin(ColoSession *s, const Error *err)
{
    BQL_LOCK_GUARD();
    if (s->cause == COLO_CAUSE_WISH) {
        colo_status_say("ended on this side: %s",
                        colo_bye_reason_str(s->end_reason));
    } else {
        error_report("COLO %s: %s", COLOMode_str(s->side),
                     error_get_pretty(err));
        colo_status_say("%s", error_get_pretty(err));
    }
}

void colo_await_decision(ColoSession *s, const Error *err)
{
    /* A peer that still hears this side has to lose it, too */
    g_clear_pointer(&s->keepalive, colo_keepalive_stop);
    error_report("COLO %s: peer lost: %s", COLOMode_str(s->side),
                 error_get_pretty(err));
    error_printf("The guest's output is held.  Make sure that the other side "
                 "is dead, then x-colo-lost-heartbeat tells this side to go "
                 "on.\n");
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
