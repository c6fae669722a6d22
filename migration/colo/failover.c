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
 *   x-colo-lost-heartbeat says who goes on.  Silence alone need not stop the
 *   thread: it stays where it is, in the middle of a frame even, and if the two
 *   hear each other again before anything is decided all goes on.
 * - a wish: x-colo-lost-heartbeat on a healthy pair tells the other side first.
 *   The primary says bye.  The secondary asks to be handed over to: the primary
 *   takes a last checkpoint, its guest stands from the cut on, and when that is
 *   loaded it says so and is out.  If the peer is lost, is silent meanwhile, or
 *   nobody is to be asked ('force'), the command cuts every wait short, and
 *   what is said is said without waiting for an answer.  The end of QEMU or
 *   migrate_cancel is followed between two checkpoints.  A secondary that may
 *   not write to a shared disk, since the primary's process has it locked,
 *   does not take over: it is 'lost' then, or still.
 * - the arbiter has decided, if there is one (decision.c).
 * - the secondary goes on and says so: the primary's guest never runs again.
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
#include "block/aio.h"
#include "arbiter.h"
#include "decision.h"
#include "disks.h"
#include "failover.h"
#include "heartbeat.h"
#include "lease.h"
#include "peer.h"
#include "status.h"
#include "trace.h"

bool colo_has_to_end(ColoSession *s, Error **errp)
{
    if (colo_wish(s) == COLO_WISH_OUT) {
        error_setg(errp, "the other side goes on");
        return true;
    }
    if (colo_wish(s) == COLO_WISH_END || colo_wish(s) == COLO_WISH_FAILOVER) {
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

/* BQL */
static void tell_loss(ColoSession *s, const char *why)
{
    if (s->loss_is_told) {
        return;
    }
    s->loss_is_told = true;
    error_report("COLO %s: peer lost: %s", COLOMode_str(s->side), why);
    if (colo_decision_comes()) {
        error_printf("The guest's output is held until the arbiter has decided "
                     "which side goes on.\n");
    } else {
        error_printf("The guest's output is held.  Make sure that the other "
                     "side is dead, then x-colo-lost-heartbeat tells this side "
                     "to go on.\n");
    }
    qapi_event_send_colo_peer_lost(COLOMode_str(s->side), s->committed, why);
}

/*
 * Can the two end the session in order, over a channel that is broken?  With an
 * arbiter the primary asks that.  BQL.
 */
static bool can_agree(void)
{
    return colo_heartbeat_decides() && !colo_arbiter_exists();
}

/*
 * May the thread wait for a peer that is silent?  Not a primary whose disks do:
 * what is on its way to the secondary's would keep drains, and the monitor with
 * them, waiting as long.  BQL.
 */
static bool can_come_back(ColoSession *s)
{
    return s->side == COLO_MODE_PRIMARY
           ? s->primary.state >= COLO_PRIMARY_STATE_RUNNING &&
             s->primary.state <= COLO_PRIMARY_STATE_LOADING &&
             !s->primary.stands && !colo_disks_exist()
           : s->secondary.state >= COLO_SECONDARY_STATE_STANDING &&
             s->secondary.state <= COLO_SECONDARY_STATE_RECEIVING;
}

static bool peer_is_silent(void *opaque, const char *why)
{
    ColoSession *s = opaque;

    BQL_LOCK_GUARD();
    if (colo_wish(s) != COLO_WISH_NONE || colo_exiting() ||
        !can_come_back(s) || (can_agree() && colo_heartbeat_is_well())) {
        return false;
    }
    colo_status_say("%s", why);
    if (s->side == COLO_MODE_PRIMARY) {
        s->primary.lost_in = s->primary.state;
        colo_lease_suspend();
        colo_set_primary(s, COLO_PRIMARY_STATE_LOST, why);
    } else {
        s->secondary.lost_in = s->secondary.state;
        colo_set_secondary(s, COLO_SECONDARY_STATE_LOST, why);
    }
    tell_loss(s, why);
    colo_decision_ask(s);
    return true;
}

static bool peer_is_back(void *opaque)
{
    ColoSession *s = opaque;
    const char *why = "the peer is back";

    BQL_LOCK_GUARD();
    if (colo_wish(s) == COLO_WISH_FAILOVER || colo_wish(s) == COLO_WISH_OUT ||
        colo_wire_cancelled(s->wire) || !colo_decision_withdraw(s)) {
        return false;
    }
    colo_status_forget();
    if (s->side == COLO_MODE_PRIMARY) {
        colo_set_primary(s, s->primary.lost_in, why);
    } else {
        colo_set_secondary(s, s->secondary.lost_in, why);
    }
    s->loss_is_told = false;
    info_report("COLO %s: %s", COLOMode_str(s->side), why);
    qapi_event_send_colo_peer_back(COLOMode_str(s->side), s->committed);
    return true;
}

static const ColoSilenceOps silence_ops = {
    .lost = peer_is_silent,
    .back = peer_is_back,
};

void colo_watch_silence(ColoSession *s)
{
    colo_wire_on_silence(s->wire, &silence_ops, s);
}

/*
 * A word to a pair that was well, said when the peer was lost and this side had
 * not come to say so.  BQL.
 */
static void take_late_word(ColoSession *s)
{
    if (colo_wish(s) == COLO_WISH_SWITCHOVER ||
        (colo_wish(s) == COLO_WISH_END && s->end_reason == COLO_BYE_FAILOVER)) {
        if (colo_arbiter_exists()) {
            qatomic_set(&s->wish, COLO_WISH_NONE);
            colo_decision_demand(s);
        } else if (s->side == COLO_MODE_SECONDARY && !s->secondary.started) {
            qatomic_set(&s->wish, COLO_WISH_NONE);
        } else {
            qatomic_set(&s->wish, COLO_WISH_FAILOVER);
        }
    }
}

/* BQL.  Has somebody on this side decided? */
static bool is_decided(ColoSession *s)
{
    ColoWish wish = colo_wish(s);

    return wish == COLO_WISH_FAILOVER || wish == COLO_WISH_OUT ||
           s->beat_says_out ||
           (wish == COLO_WISH_END && s->end_reason != COLO_BYE_CANCEL);
}

/*
 * What the peer still says, if it can: that it goes on, or is out.  True if it
 * has said so, and s->cause with it.  @open: becomes false when nothing will
 * come any more.  No BQL.
 */
static bool hear_last_word(ColoSession *s, bool *open)
{
    g_autoptr(Error) err = NULL;
    ColoFrame f;

    if (colo_wire_wait(s->wire, INT64_MAX) != COLO_WAIT_READABLE) {
        return false;
    }
    if (!colo_wire_next(s->wire, "a decision", &f, &err)) {
        *open = colo_wire_cancelled(s->wire);
        return false;
    }
    if (f.type == COLO_FRAME_BYE_ACK && s->side == COLO_MODE_PRIMARY &&
        s->primary.handed_over) {
        colo_let_go(s);
        s->cause = COLO_CAUSE_HANDOVER;
        return true;
    }
    if (f.type == COLO_FRAME_TAKEOVER || f.type == COLO_FRAME_BYE ||
        f.type == COLO_FRAME_ERROR) {
        colo_read_end(s, &f, "a decision", &err);
        return colo_peer_is_out(s) || s->cause == COLO_CAUSE_TAKEOVER;
    }
    return false;
}

void colo_await_decision(ColoSession *s, const Error *err)
{
    bool open = true, heard = false;

    /* A peer that still hears this side has to lose it, too */
    g_clear_pointer(&s->keepalive, colo_keepalive_stop);
    colo_wire_listen(s->wire);
    tell_loss(s, error_get_pretty(err));
    colo_decision_ask(s);
    colo_heartbeat_claim(s->side == COLO_MODE_PRIMARY && can_agree());

    for (take_late_word(s); !heard && !is_decided(s); take_late_word(s)) {
        if (open && !colo_wire_cancelled(s->wire)) {
            bql_unlock();
            heard = hear_last_word(s, &open);
            bql_lock();
        } else {
            qemu_cond_wait_bql(&s->cond);
        }
    }
    colo_heartbeat_claim(false);
    if (s->beat_says_out && !heard && colo_wish(s) == COLO_WISH_NONE) {
        s->cause = COLO_CAUSE_PEER_ERROR;
        colo_status_add("the heartbeat says that the other side is out");
    }
}

/* BQL */
static bool is_over(ColoSession *s)
{
    return s->thread_done ||
           (s->side == COLO_MODE_PRIMARY
            ? s->primary.state >= COLO_PRIMARY_STATE_ALONE
            : s->secondary.state >= COLO_SECONDARY_STATE_LIVE);
}

/* What the peer says by its heartbeat about who goes on.  BQL. */
static void take_beat(ColoSession *s, uint16_t flags)
{
    if (flags & COLO_BEAT_SERVICE) {
        colo_ask_out(s, "the other side goes on, as its heartbeat says");
        colo_status_add(s->out_why);
    } else if (!colo_is_lost(s)) {
        /* The session's thread hears it in order, and with the reason */
        return;
    } else if (s->side == COLO_MODE_PRIMARY && flags & COLO_BEAT_OUT) {
        s->beat_says_out = true;
        colo_wire_cancel(s->wire);
    } else if (s->side == COLO_MODE_SECONDARY && flags & COLO_BEAT_CLAIM &&
               can_agree() && colo_wish(s) == COLO_WISH_NONE) {
        /* The primary goes on when it hears that this side is out */
        colo_ask_out(s, "the primary lives, and goes on alone");
        colo_status_add(s->out_why);
    }
}

/* Atomic: hear_heartbeat() is scheduled */
static bool beat_is_told;

/* Main loop, BQL */
static void hear_heartbeat(void *opaque)
{
    ColoSession *s = colo_session();

    qatomic_set(&beat_is_told, false);
    colo_decision_look();
    if (s && !is_over(s) && colo_wish(s) != COLO_WISH_OUT) {
        take_beat(s, colo_heartbeat_peer_flags(&s->id));
        qemu_cond_broadcast(&s->cond);
    }
}

static void heartbeat_has_news(void)
{
    if (!qatomic_xchg(&beat_is_told, true)) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), hear_heartbeat, NULL);
    }
}

static void __attribute__((constructor)) failover_init(void)
{
    colo_heartbeat_on_news(heartbeat_has_news);
}

void colo_say_decided(void)
{
    colo_status_add(colo_arbiter_exists()
                    ? "this side goes on"
                    : "x-colo-lost-heartbeat: this side goes on");
}

void colo_report_exit(ColoSession *s, COLOExitReason reason)
{
    s->exit_reason = reason;
    trace_colo_exit(s->epoch, COLOMode_str(s->side),
                    COLOExitReason_str(reason));
    qapi_event_send_colo_exit(s->side, reason);
}
