/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: a side that has lost the other one asks who goes on.
 *
 * Both sides; a thread of its own while there is a question.
 *
 * Theory of operation
 *
 * With an arbiter (arbiter.h) nobody has to type anything: in 'lost' this thread
 * asks, and goes on asking until there is an answer.  It tells the session by a
 * wish, as a command of the monitor would.
 *
 * - Won: this side goes on; before that a fence, if there is one, sees to it that
 *   the other one does not.
 * - Lost: this side is out for good.
 * - Not known: the side stays as it is, and x-colo-lost-heartbeat still works.
 *
 * What was asked once may have been decided, whether or not the answer was heard.
 * So a side does not just forget its question when the peer comes back: if it died
 * some day the other one would have lost.  It withdraws it.  Questions are of a
 * round, a number of each side.  A side that begins a new one will never act on
 * an answer of an earlier one, and says so in each 'alive'; the other one tells
 * the arbiter what it has heard of that, and claims of earlier rounds are none
 * then.  If it has not heard it yet they count, and nobody is worse off than
 * before.  An arbiter that knows of no rounds goes by the first claim: no two
 * win, but a side that has withdrawn its question must not be the one that dies.
 *
 * If only the channel is broken, and the two hear each other by a heartbeat, the
 * primary asks: it lives, so there is no need to take over from it.  The
 * secondary asks when it does not hear that any more, or is told to.
 *
 * Nobody asks about a pair that is well.  A switchover is asked for when the
 * primary has handed over: before that the secondary may die, and the primary must
 * not have lost.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "arbiter.h"
#include "decision.h"
#include "fence.h"
#include "heartbeat.h"
#include "status.h"
#include "wire-lease.h"
#include "trace.h"

/* What is not known is asked again after so many milliseconds */
#define ASK_AGAIN_MS    300

/* BQL */
static struct {
    ColoSession *session;       /* whose question is open, or NULL */
    bool running;               /* there is a thread */
    bool demanded;              /* by a command */
    QemuUUID won;               /* this side goes on, in this session */
    QemuUUID fenced;            /* and the other one is off; the thread only */
    QemuCond cond;              /* the question is gone */
} decision;

static void __attribute__((constructor)) decision_init(void)
{
    qemu_cond_init(&decision.cond);
}

/* BQL, or before the session begins */
static ColoQuestion question_of(ColoSession *s)
{
    return (ColoQuestion) {
        .session = s->id,
        .side = s->side,
        .generation = s->generation,
        .epoch = s->committed,
        .round = s->round,
        .peer_round = colo_wire_peer_round(s->wire),
    };
}

bool colo_decision_register(ColoSession *s, Error **errp)
{
    ColoQuestion q = question_of(s);

    if (!colo_arbiter_exists() || colo_arbiter_begin(&q, errp)) {
        return true;
    }
    error_prepend(errp, "the arbiter does not know of this session: ");
    s->cause = COLO_CAUSE_LOCAL;
    return false;
}

bool colo_decision_claim(ColoSession *s, Error **errp)
{
    ColoQuestion q = question_of(s);

    return !colo_arbiter_exists() ||
           colo_arbiter_decide(&q, errp) == COLO_VERDICT_WON;
}

bool colo_decision_check(ColoSession *s, Error **errp)
{
    ColoQuestion q = question_of(s);

    if (!colo_arbiter_exists() || colo_arbiter_check(&q, errp)) {
        return true;
    }
    error_prepend(errp, "the secondary's arbiter does not know of this session: ");
    s->cause = COLO_CAUSE_LOCAL;
    return false;
}

/* BQL.  The question has an answer, which is not 'not known'. */
static void follow(ColoSession *s, ColoVerdict verdict)
{
    if (verdict == COLO_VERDICT_LOST) {
        if (colo_is_lost(s)) {
            colo_ask_out(s, "the arbiter has decided for the other side");
        }
    } else if (colo_is_lost(s)) {
        colo_ask_failover(s);
    } else if (s->side == COLO_MODE_PRIMARY) {
        colo_ask_end(s, COLO_BYE_FAILOVER);
    } else {
        colo_ask_switchover(s);
    }
}

/* No BQL.  Is the other side off, or does nobody see to that? */
static bool fence(const ColoQuestion *q, Error **errp)
{
    g_autoptr(Error) err = NULL;

    if (!colo_fence_exists()) {
        return true;
    }
    switch (colo_fence_run(q, &err)) {
    case COLO_FENCE_DONE:
        return true;
    case COLO_FENCE_GO_ON:
        warn_report_err(g_steal_pointer(&err));
        return true;
    case COLO_FENCE_HOLD:
    default:
        error_propagate(errp, g_steal_pointer(&err));
        return false;
    }
}

/*
 * BQL held, dropped meanwhile.  @s: of @q.  A peer that is well is not fenced: it
 * goes in order.
 */
static ColoVerdict ask(ColoSession *s, const ColoQuestion *q, Error **errp)
{
    ColoVerdict verdict = COLO_VERDICT_WON;

    bql_unlock();
    if (!qemu_uuid_is_equal(&decision.won, &q->session)) {
        verdict = colo_arbiter_decide(q, errp);
    }
    bql_lock();
    if (verdict != COLO_VERDICT_WON) {
        return verdict;
    }
    if (decision.session != s || q->round != s->round) {
        /* Too late: it was withdrawn */
        return COLO_VERDICT_NOT_KNOWN;
    }
    decision.won = q->session;
    if (!colo_is_lost(s) ||
        qemu_uuid_is_equal(&decision.fenced, &q->session)) {
        return verdict;
    }
    bql_unlock();
    if (fence(q, errp)) {
        decision.fenced = q->session;
    } else {
        verdict = COLO_VERDICT_NOT_KNOWN;
    }
    bql_lock();
    return verdict;
}

/*
 * A secondary does not ask while the primary may let out anything, or it would go
 * on too early.  BQL.
 */
static int64_t lease_left_ms(ColoSession *s)
{
    return s->side == COLO_MODE_PRIMARY
           ? 0 : DIV_ROUND_UP(MAX(0, colo_wire_lease_end(s->wire) -
                                     colo_now_ns()), SCALE_MS);
}

/* BQL */
static bool is_for_primary_to_ask(ColoSession *s)
{
    return s->side == COLO_MODE_SECONDARY && !decision.demanded &&
           colo_heartbeat_is_well();
}

static void *decision_thread(void *opaque)
{
    g_autofree char *told = NULL;   /* why it is not known */

    bql_lock();
    while (true) {
        ColoSession *s = decision.session;
        g_autoptr(Error) err = NULL;
        ColoVerdict verdict;
        ColoQuestion q;
        int64_t left_ms;

        colo_arbiter_arm();
        if (!s) {
            break;
        }
        if (is_for_primary_to_ask(s)) {
            qemu_cond_timedwait_bql(&decision.cond, ASK_AGAIN_MS);
            continue;
        }
        left_ms = lease_left_ms(s);
        if (left_ms > 0) {
            qemu_cond_timedwait_bql(&decision.cond, left_ms);
            continue;
        }
        q = question_of(s);
        if (qemu_uuid_is_equal(&decision.won, &q.session)) {
            /* It could not go on: a lock was not free, say */
            qemu_cond_timedwait_bql(&decision.cond, ASK_AGAIN_MS);
            if (decision.session != s) {
                continue;
            }
        }
        verdict = ask(s, &q, &err);
        trace_colo_decision(q.epoch, COLOMode_str(q.side),
                            ColoVerdict_str(verdict));
        if (decision.session != s || q.round != s->round) {
            continue;
        }
        if (verdict != COLO_VERDICT_NOT_KNOWN) {
            decision.session = NULL;
            colo_status_add(verdict == COLO_VERDICT_WON
                            ? "the arbiter has decided for this side"
                            : "the arbiter has decided for the other side");
            follow(s, verdict);
            continue;
        }
        if (!told || strcmp(told, error_get_pretty(err))) {
            g_free(told);
            told = g_strdup(error_get_pretty(err));
            colo_status_say("it is not decided which side goes on: %s", told);
            warn_report("COLO %s: it is not decided which side goes on, "
                        "asking again: %s", COLOMode_str(q.side), told);
        }
        qemu_cond_timedwait_bql(&decision.cond, ASK_AGAIN_MS);
    }
    decision.running = false;
    bql_unlock();
    return NULL;
}

static void open_question(ColoSession *s)
{
    QemuThread thread;

    if (!colo_arbiter_exists() || decision.session ||
        (s->side == COLO_MODE_SECONDARY && !s->was_ready)) {
        /* A secondary that was never ready does not know which session */
        return;
    }
    decision.session = s;
    colo_wire_set_asks(s->wire, true);
    if (!decision.running) {
        decision.running = true;
        qemu_thread_create(&thread, "colo/decide", decision_thread, NULL,
                           QEMU_THREAD_DETACHED);
    }
}

bool colo_decision_withdraw(ColoSession *s)
{
    if (s->round == UINT16_MAX) {
        return false;
    }
    if (decision.session || qemu_uuid_is_equal(&decision.won, &s->id)) {
        colo_wire_set_round(s->wire, ++s->round);
        trace_colo_decision_withdraw(s->epoch, COLOMode_str(s->side), s->round);
        colo_wire_set_asks(s->wire, false);
        decision.won = (QemuUUID) { };
        colo_decision_forget();
    }
    return true;
}

bool colo_decision_comes(void)
{
    return colo_arbiter_exists() && !colo_heartbeat_awaits_word();
}

void colo_decision_ask(ColoSession *s)
{
    if (colo_decision_comes()) {
        open_question(s);
    }
}

void colo_decision_demand(ColoSession *s)
{
    open_question(s);
    decision.demanded = true;
    colo_decision_look();
}

void colo_decision_look(void)
{
    qemu_cond_broadcast(&decision.cond);
}

void colo_decision_forget(void)
{
    decision.demanded = false;
    if (decision.session) {
        decision.session = NULL;
        colo_arbiter_cancel();
        qemu_cond_broadcast(&decision.cond);
    }
}
