/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: what a TCP client may hear of what the guests have received.
 *
 * Primary, one thread.
 *
 * Acknowledgements are output, too: what is acknowledged to a client it will
 * not send again, so the survivor has to have it.  In epoch e the survivor has
 * what the secondary acknowledged in e, and what the primary acknowledged
 * before cut e (cut_ack).  A segment with a later ack leaves with the latest
 * one that is allowed, and its own is pending: as soon as more is allowed a
 * segment without data says it.  A segment without data that says too much is
 * not queued, it becomes what is pending; one that does not leaves at once,
 * before data that waits.  As sequence number both get the end of what was
 * released, since what follows it has not been said.
 *
 * The slower guest sets the pace of the client as well.  The window that leaves
 * is never larger than the secondary's latest, or it would have to drop what
 * the client sends; when that grows a segment without data says so.  (No scale
 * is needed: it is the same for both, and no later ack than the secondary's
 * leaves, so its right edge is not passed.)  And when the secondary lacks a
 * segment that the primary has, its duplicate ACKs, with what they say of the
 * gap, are sent on: nothing else tells the client to repeat the segment soon.
 *
 * A client drops a segment whose timestamp is older than the latest that it has
 * seen in order (PAWS, RFC 7323).  So what leaves before others that wait has
 * no later timestamp than the oldest of those.
 *
 * Ack and window have a state each, see ColoAckState and ColoWindowState.  Each
 * has one function that changes it, with the list that the flow is in.
 *
 * Of the comparison (match-tcp.c) this file knows what was released and what
 * waits; the comparison asks it before anything leaves.
 */

#include "qemu/osdep.h"
#include "match-int.h"
#include "match-segment.h"

/* How many segments to look at for one with a timestamp */
#define ACK_CLOCK_LOOK  8

/* Lists */

void colo_ack_lists_init(ColoAckLists *lists)
{
    for (ColoMatchAge age = 0; age < COLO_MATCH_AGE__MAX; age++) {
        QTAILQ_INIT(&lists->pending[age]);
    }
    QTAILQ_INIT(&lists->shut);
}

void colo_ack_lists_cut(ColoAckLists *lists)
{
    COLO_TAILQ_CONCAT(&lists->pending[COLO_MATCH_CUT],
                      &lists->pending[COLO_MATCH_NOW], next_pending_ack);
}

int64_t colo_ack_lists_since_ms(const ColoAckLists *lists)
{
    const ColoFlow *pending = QTAILQ_FIRST(&lists->pending[COLO_MATCH_NOW]);
    const ColoFlow *shut = QTAILQ_FIRST(&lists->shut);
    int64_t since_ms = pending ? pending->ack.pending_since_ms : INT64_MAX;

    return shut ? MIN(since_ms, shut->ack.shut_since_ms) : since_ms;
}

/* States */

static void ack_check(const ColoAckControl *a)
{
    assert((a->ack_state == COLO_ACK_PENDING) == !!a->pending_ack);
    assert((a->window_state == COLO_WINDOW_TOLD) == !a->pending_window);
}

static ColoFlowList *ack_list(ColoMatch *m, const ColoPacket *model)
{
    return &m->acks.pending[colo_match_age(m, model->epoch)];
}

/*
 * COLO_ACK_TOLD to COLO_ACK_PENDING: @model has an ack that may not leave
 *
 * It waits from now on, however long the segment that it was in has waited: so
 * the list is in order without a search, which clients could make long.
 */
static void ack_set_pending(ColoMatch *m, ColoFlow *f, ColoPacket *model)
{
    f->ack.ack_state = COLO_ACK_PENDING;
    f->ack.pending_ack = model;
    f->ack.pending_since_ms = m->now_ms;
    QTAILQ_INSERT_TAIL(ack_list(m, model), f, next_pending_ack);
    ack_check(&f->ack);
}

/* To COLO_ACK_TOLD; returns the model if there was one */
static ColoPacket *ack_set_told(ColoMatch *m, ColoFlow *f)
{
    ColoPacket *model = f->ack.pending_ack;

    if (f->ack.ack_state == COLO_ACK_PENDING) {
        QTAILQ_REMOVE(ack_list(m, model), f, next_pending_ack);
        f->ack.ack_state = COLO_ACK_TOLD;
        f->ack.pending_ack = NULL;
    }
    ack_check(&f->ack);
    return model;
}

static void ack_drop_pending(ColoMatch *m, ColoFlow *f)
{
    colo_packet_free(ack_set_told(m, f));
}

/* @model is what the client has not been told, NULL with COLO_WINDOW_TOLD */
static void window_set_state(ColoMatch *m, ColoFlow *f, ColoWindowState state,
                             ColoPacket *model)
{
    ColoAckControl *a = &f->ack;

    if (a->pending_window != model) {
        colo_packet_free(a->pending_window);
        a->pending_window = model;
    }
    if (state == COLO_WINDOW_SHUT && a->window_state != COLO_WINDOW_SHUT) {
        a->shut_since_ms = m->now_ms;
        QTAILQ_INSERT_TAIL(&m->acks.shut, f, next_window_shut);
    } else if (state != COLO_WINDOW_SHUT &&
               a->window_state == COLO_WINDOW_SHUT) {
        QTAILQ_REMOVE(&m->acks.shut, f, next_window_shut);
    }
    a->window_state = state;
    ack_check(a);
}

/* What the guests say */

void colo_ack_primary_begins(ColoFlow *f, uint64_t epoch)
{
    f->ack.primary_ack.known = false;
    f->ack.cut_ack.known = false;
    f->ack.primary_epoch = epoch;
}

void colo_ack_primary_says(ColoFlow *f, const ColoPacket *p)
{
    ColoAckControl *a = &f->ack;

    if (p->epoch != a->primary_epoch) {
        a->cut_ack = a->primary_ack;
        a->primary_epoch = p->epoch;
    }
    if (tcp_has_ack(p)) {
        colo_seq_raise(&a->primary_ack, p->ack);
    }
}

void colo_ack_secondary_begins(ColoFlow *f)
{
    /* What it acknowledged so far was of an earlier connection */
    f->ack.secondary_ack.known = false;
}

bool colo_ack_secondary_says(ColoFlow *f, const ColoPacket *p)
{
    ColoAckControl *a = &f->ack;
    bool repeats = colo_seq_is(&a->secondary_ack, p->ack);

    /* The window that goes with the latest ack */
    if (!a->secondary_ack.known || colo_seq_le(a->secondary_ack.at, p->ack)) {
        a->secondary_window = p->window;
        a->secondary_window_known = true;
    }
    colo_seq_raise(&a->secondary_ack, p->ack);
    return repeats;
}

void colo_ack_secondary_repeats_syn(ColoFlow *f, const ColoPacket *p)
{
    if (tcp_has_ack(p)) {
        colo_seq_raise(&f->ack.secondary_ack, p->ack);
    }
}

void colo_ack_forget_secondary(ColoFlow *f)
{
    f->ack.secondary_ack.known = false;
    f->ack.secondary_window_known = false;
}

/* What may be acknowledged */

static ColoSeq ack_allowed(const ColoMatch *m, const ColoFlow *f,
                           uint64_t epoch, const ColoSeq *cut_ack)
{
    bool here = colo_match_comparable(m, epoch);
    ColoSeq allowed = { 0 };

    if (here && f->ack.secondary_ack.known) {
        allowed = f->ack.secondary_ack;
    }
    if (cut_ack->known && (here || epoch <= m->committed)) {
        colo_seq_raise(&allowed, cut_ack->at);
    }
    return allowed;
}

ColoSeq colo_ack_limit(const ColoMatch *m, const ColoFlow *f, uint64_t epoch,
                       const ColoSeq *cut_ack)
{
    ColoSeq limit = ack_allowed(m, f, epoch, cut_ack);

    if (f->ack.released_ack.known) {
        colo_seq_raise(&limit, f->ack.released_ack.at);
    }
    return limit;
}

/* @model has an ack that may not leave now */
static void ack_postpone(ColoMatch *m, ColoFlow *f, ColoPacket *model,
                         const ColoSeq *cut_ack)
{
    ColoAckControl *a = &f->ack;

    if (a->pending_ack && colo_seq_lt(model->ack, a->pending_ack->ack)) {
        colo_packet_free(model);
        return;
    }
    if (a->pending_ack && a->pending_ack->epoch == model->epoch) {
        colo_packet_free(a->pending_ack);
        a->pending_ack = model;
    } else {
        ack_drop_pending(m, f);
        ack_set_pending(m, f, model);
    }
    a->pending_cut_ack = *cut_ack;
}

/* What leaves */

/* @p leaves before others that may wait: it may not look newer than they */
static void clock_set_back(const ColoFlow *f, ColoPacket *p)
{
    const ColoHeld *h = QTAILQ_FIRST(&f->primary);
    uint32_t oldest;

    if (!p->ts_off) {
        return;
    }
    for (unsigned i = 0; h && i < ACK_CLOCK_LOOK; i++) {
        if (h->p->tcp_flags & COLO_TCP_SYN) {
            return;             /* another connection has another clock */
        }
        if (h->p->ts_off) {
            oldest = colo_packet_tsval(h->p);
            if (colo_seq_lt(oldest, colo_packet_tsval(p))) {
                colo_packet_set_tsval(p, oldest);
            }
            return;
        }
        h = QTAILQ_NEXT(h, in_queue);
    }
}

/*
 * @p, with an ack, is about to leave: with no more window than the secondary
 * has to offer
 *
 * Receivers offer no window rather than a silly one (RFC 9293, 3.8.6.2.2), so
 * whatever is not 0 keeps the client going.
 */
static void window_narrow(ColoMatch *m, ColoFlow *f, ColoPacket *p)
{
    ColoAckControl *a = &f->ack;

    if (a->secondary_window_known && p->window > a->secondary_window &&
        colo_match_comparable(m, p->epoch)) {
        ColoPacket *model = colo_packet_bare_ack(p, tcp_end(p), p->ack);

        model->epoch = p->epoch;
        window_set_state(m, f, a->secondary_window ? COLO_WINDOW_NARROWED
                                                   : COLO_WINDOW_SHUT, model);
        colo_packet_set_window(p, a->secondary_window);
        m->stats.windows_clamped++;
    } else {
        window_set_state(m, f, COLO_WINDOW_TOLD, NULL);
    }
    a->released_window = p->window;
}

/* An ack leaves: is another one still pending? */
static void ack_leaves(ColoMatch *m, ColoFlow *f, uint32_t ack)
{
    ColoAckControl *a = &f->ack;

    colo_seq_raise(&a->released_ack, ack);
    if (a->pending_ack &&
        colo_seq_le(a->pending_ack->ack, a->released_ack.at)) {
        ack_drop_pending(m, f);
    }
}

void colo_ack_begin(ColoMatch *m, ColoFlow *f)
{
    ack_drop_pending(m, f);
    window_set_state(m, f, COLO_WINDOW_TOLD, NULL);
    f->ack.secondary_window_known = false;
    f->ack.released_ack.known = false;
}

void colo_ack_both_said_syn(ColoMatch *m, ColoFlow *f, const ColoPacket *p)
{
    if (tcp_has_ack(p)) {
        colo_seq_raise(&f->ack.secondary_ack, p->ack);
        ack_leaves(m, f, p->ack);
    }
}

void colo_ack_fit(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                  const ColoSeq *cut_ack, uint32_t limit)
{
    ColoPacket *model;

    clock_set_back(f, p);
    if (!tcp_has_ack(p)) {
        return;
    }
    if (colo_seq_lt(limit, p->ack)) {
        model = colo_packet_bare_ack(p, tcp_end(p), p->ack);
        model->epoch = p->epoch;
        ack_postpone(m, f, model, cut_ack);
        colo_packet_set_ack(p, limit);
        m->stats.acks_clamped++;
    }
    window_narrow(m, f, p);
    ack_leaves(m, f, p->ack);
}

void colo_ack_leaves_as_is(ColoMatch *m, ColoFlow *f, const ColoPacket *p)
{
    if (tcp_has_ack(p)) {
        window_set_state(m, f, COLO_WINDOW_TOLD, NULL);
        f->ack.released_window = p->window;
        ack_leaves(m, f, p->ack);
    }
}

static void ack_release(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                        ColoRelease why)
{
    clock_set_back(f, p);
    window_narrow(m, f, p);
    ack_leaves(m, f, p->ack);
    colo_match_release(m, p, why);
}

/* The segment @p without data leaves.  Others look old to the client. */
static void ack_release_pending(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                                ColoRelease why)
{
    if (f->tcp.released_end.known) {
        colo_packet_set_seq(p, f->tcp.released_end.at);
    }
    ack_release(m, f, p, why);
}

void colo_ack_pure(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                   const ColoSeq *cut_ack)
{
    ColoSeq limit = colo_ack_limit(m, f, p->epoch, cut_ack);
    const ColoSeq *released_end = &f->tcp.released_end;

    if (!limit.known || colo_seq_lt(limit.at, p->ack)) {
        ack_postpone(m, f, p, cut_ack);
        return;
    }
    /* It must not tell how far the primary is; a keep-alive stays behind */
    if (released_end->known && colo_seq_lt(released_end->at, p->seq)) {
        colo_packet_set_seq(p, released_end->at);
    }
    ack_release(m, f, p, COLO_RELEASE_EQUAL);
}

void colo_ack_advance(ColoMatch *m, ColoFlow *f)
{
    ColoAckControl *a = &f->ack;
    ColoPacket *p;
    ColoSeq allowed;

    if (a->ack_state == COLO_ACK_TOLD) {
        return;
    }
    allowed = ack_allowed(m, f, a->pending_ack->epoch, &a->pending_cut_ack);
    if (!allowed.known || (a->released_ack.known &&
                           colo_seq_le(allowed.at, a->released_ack.at))) {
        return;
    }
    if (colo_seq_le(a->pending_ack->ack, allowed.at)) {
        p = ack_set_told(m, f);
    } else {
        p = colo_packet_bare_ack(a->pending_ack, a->pending_ack->seq,
                                 allowed.at);
        p->epoch = a->pending_ack->epoch;
        m->stats.acks_clamped++;
        ack_set_pending(m, f, ack_set_told(m, f));
    }
    ack_release_pending(m, f, p, COLO_RELEASE_EQUAL);
}

/*
 * More window may be told than was.  Small steps go with what the primary says
 * next; a client that has to wait must hear of large ones.
 */
void colo_ack_widen(ColoMatch *m, ColoFlow *f)
{
    ColoAckControl *a = &f->ack;
    ColoPacket *model = a->pending_window, *p;
    uint16_t window;

    if (a->window_state == COLO_WINDOW_TOLD || !a->released_ack.known) {
        return;
    }
    window = model->window;
    if (a->secondary_window_known) {
        window = MIN(window, a->secondary_window);
    }
    if (window <= a->released_window + a->released_window / 2) {
        return;
    }
    p = colo_packet_bare_ack(model, f->tcp.released_end.known
                                    ? f->tcp.released_end.at : model->seq,
                             a->released_ack.at);
    p->epoch = model->epoch;
    colo_packet_set_window(p, window);
    clock_set_back(f, p);
    if (window == model->window) {
        window_set_state(m, f, COLO_WINDOW_TOLD, NULL);
    } else {
        window_set_state(m, f, COLO_WINDOW_NARROWED, model);
    }
    a->released_window = window;
    colo_match_release(m, p, COLO_RELEASE_EQUAL);
}

/*
 * @p of the secondary repeats an ack, and says that it has got what follows a
 * gap.  The primary has got all that, too, and waits to acknowledge more.
 */
void colo_ack_send_gap_on(ColoMatch *m, ColoFlow *f, ColoPacket *p)
{
    ColoAckControl *a = &f->ack;
    ColoPacket *pending = a->pending_ack, *out;

    if (pending && f->tcp.released_end.known &&
        colo_seq_is(&a->released_ack, p->ack) &&
        colo_seq_lt(p->ack, pending->ack)) {
        out = colo_packet_bare_ack(p, f->tcp.released_end.at, p->ack);
        out->epoch = pending->epoch;
        colo_packet_set_window(out, MIN(out->window, a->released_window));
        if (out->ts_off && pending->ts_off) {
            /* As the client knows it: no clock steps back */
            colo_packet_set_tsval(out, colo_packet_tsval(pending));
            clock_set_back(f, out);
        }
        colo_match_release(m, out, COLO_RELEASE_SECONDARY_ACK);
    }
    colo_packet_free(p);
}

void colo_ack_release_before(ColoMatch *m, ColoFlow *f, uint64_t cut,
                             ColoRelease why)
{
    if (f->ack.pending_ack && f->ack.pending_ack->epoch < cut) {
        ack_release_pending(m, f, ack_set_told(m, f), why);
    }
}
