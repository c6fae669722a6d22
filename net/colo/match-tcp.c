/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: by which rules TCP segments of the primary may leave.
 *
 * Primary, one thread.
 *
 * A connection is compared as a stream of bytes, whatever the segmentation:
 * what the secondary said is kept sorted by sequence number, the primary's
 * segments are held against it one after the other.  SYN and FIN are bytes of
 * that stream, so to speak; a SYN has to be the same in its options as well.
 *
 *   repeated   A segment that ends at or before the mark said nothing new, and
 *              leaves at once.
 *   front      If the secondary said just the front of a long segment, that
 *              leaves alone: its congestion window may be smaller than the
 *              primary's, and it would not go on before that is acknowledged.
 *   gap        A segment ahead of the mark waits for the one that fills the
 *              gap, which may overtake it.
 *   RST        Needs one of the secondary.  Urgent data and combinations of
 *              flags that make no sense wait for the commit, and so does what
 *              has a digest or belongs to Multipath TCP: both are bound to
 *              numbers that the other guest does not have, and nothing may be
 *              changed in them.
 *
 * Acknowledgements are output, too: what is acknowledged to a client it will
 * not send again, so the survivor has to have it.  In epoch e the survivor has
 * what the secondary acknowledged in e, and what the primary acknowledged
 * before cut e (the base).  A segment with a later ack leaves with the latest
 * one that is allowed, and the difference is owed: as soon as more is allowed
 * a segment without data says it.  A segment without data that says too much
 * is not queued, it becomes what is owed; one that does not leaves at once,
 * before data that waits.  As sequence number both get the mark, since what
 * follows it has not been said.
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
 */

#include "qemu/osdep.h"
#include "match-int.h"
#include "match-segment.h"

/* Sequence numbers further apart do not belong together */
#define TCP_REACH       (1u << 30)

/* A front of one MSS may leave alone; this is what is believed to be one */
#define TCP_MSS_MIN     536
#define TCP_MSS_MAX     1000

/* How many segments to look at for the one that fills a gap */
#define TCP_GAP_LOOK    64

/* How many segments to look at for one with a timestamp */
#define TCP_CLOCK_LOOK  8

typedef enum TcpCompared {
    TCP_ALL_EQUAL,
    TCP_NOT_ALL_THERE,
    TCP_DIFFERENT,
} TcpCompared;

/* Nothing in it that was not released before */
static bool tcp_is_repeated(const ColoTcp *t, const ColoPacket *p)
{
    if (tcp_is_odd(p) || !colo_packet_seq_len(p) || !t->mark.known ||
        (p->tcp_flags & COLO_TCP_RST) ||
        !colo_seq_le(tcp_end(p), t->mark.at)) {
        return false;
    }
    if (p->tcp_flags & COLO_TCP_SYN) {
        return colo_seq_is(&t->isn, p->seq);
    }
    return colo_seq_le(t->low, p->seq);
}

/* The secondary's words */

void colo_match_tcp_forget_secondary(ColoFlow *f)
{
    ColoTcp *t = &f->tcp;

    t->s_ack.known = false;
    t->s_window_known = false;
    t->s_isn.known = false;
    t->s_rsts = 0;
    t->cmp = t->mark.at;
}

static void tcp_drop(ColoMatch *m, ColoFlow *f, ColoHeld *s)
{
    QTAILQ_REMOVE(&f->secondary, s, in_queue);
    f->secondary_count--;
    colo_match_drop(m, s);
}

static void tcp_drop_all(ColoMatch *m, ColoFlow *f)
{
    ColoHeld *s;

    while ((s = QTAILQ_FIRST(&f->secondary)) != NULL) {
        tcp_drop(m, f, s);
    }
}

static void tcp_drop_syn(ColoMatch *m, ColoFlow *f)
{
    if (f->tcp.s_syn) {
        colo_match_drop(m, f->tcp.s_syn);
        f->tcp.s_syn = NULL;
    }
}

/* Drop what is behind cmp, and what got out of reach */
static void tcp_trim(ColoMatch *m, ColoFlow *f)
{
    uint32_t cmp = f->tcp.cmp;
    ColoHeld *s;

    while ((s = QTAILQ_FIRST(&f->secondary)) != NULL &&
           colo_seq_le(s->to, cmp)) {
        tcp_drop(m, f, s);
    }
    if (s && colo_seq_lt(s->from, cmp)) {
        s->from = cmp;
    }
    while ((s = QTAILQ_LAST(&f->secondary)) != NULL &&
           s->from - cmp >= TCP_REACH) {
        tcp_drop(m, f, s);
    }
}

/* Is the segment near enough to be compared with the others? */
static bool tcp_in_reach(const ColoFlow *f, const ColoPacket *p)
{
    ColoHeld *first = QTAILQ_FIRST(&f->secondary);
    uint32_t anchor;

    if (f->tcp.mark.known) {
        anchor = f->tcp.cmp;
    } else if (first) {
        anchor = first->from;
    } else {
        return true;
    }
    return p->seq - anchor + TCP_REACH / 2 < TCP_REACH;
}

/* Keep what of @p was not there yet, in its place */
static void tcp_insert(ColoMatch *m, ColoFlow *f, ColoPacket *p)
{
    ColoTcp *t = &f->tcp;
    uint32_t from = p->seq, to = tcp_end(p);
    ColoHeld *before = QTAILQ_LAST(&f->secondary);
    ColoHeld *after, *s;

    if (!tcp_in_reach(f, p)) {
        m->stats.secondary_dropped++;
        colo_packet_free(p);
        return;
    }
    if (t->mark.known && colo_seq_lt(from, t->cmp)) {
        from = t->cmp;
    }
    while (before && colo_seq_lt(from, before->from)) {
        before = QTAILQ_PREV(before, in_queue);
    }
    if (before && colo_seq_lt(from, before->to)) {
        from = before->to;
    }
    after = before ? QTAILQ_NEXT(before, in_queue) :
                     QTAILQ_FIRST(&f->secondary);
    while (after && colo_seq_le(after->to, to)) {
        s = after;
        after = QTAILQ_NEXT(after, in_queue);
        tcp_drop(m, f, s);
    }
    if (after && colo_seq_lt(after->from, to)) {
        to = after->from;
    }
    if (!colo_seq_lt(from, to)) {
        colo_packet_free(p);
        return;
    }
    s = colo_match_keep(m, f, p);
    if (!s) {
        return;
    }
    s->from = from;
    s->to = to;
    f->secondary_count++;
    if (before) {
        QTAILQ_INSERT_AFTER(&f->secondary, before, s, in_queue);
    } else {
        QTAILQ_INSERT_HEAD(&f->secondary, s, in_queue);
    }
}

/* A SYN: new, or said before? */
static void tcp_secondary_syn(ColoMatch *m, ColoFlow *f, ColoPacket *p)
{
    ColoTcp *t = &f->tcp;

    if (colo_seq_is(&t->s_isn, p->seq) || colo_seq_is(&t->isn, p->seq)) {
        if (!t->s_syn && tcp_has_ack(p)) {
            colo_seq_raise(&t->s_ack, p->ack);
        }
        colo_packet_free(p);
        return;
    }
    if (f->diverged || (t->s_syn && t->s_syn->p->seq == p->seq)) {
        colo_packet_free(p);
        return;
    }
    /* What it acknowledged so far was of an earlier connection */
    t->s_ack.known = false;
    tcp_drop_syn(m, f);
    t->s_syn = colo_match_keep(m, f, p);
}

/* What may be acknowledged */

static ColoSeq tcp_allowed(const ColoMatch *m, const ColoFlow *f,
                           uint64_t epoch, const ColoSeq *base)
{
    bool here = colo_match_comparable(m, epoch);
    ColoSeq allowed = { 0 };

    if (here && f->tcp.s_ack.known) {
        allowed = f->tcp.s_ack;
    }
    if (base->known && (here || epoch <= m->committed)) {
        colo_seq_raise(&allowed, base->at);
    }
    return allowed;
}

/* The latest ack that a segment may leave with, if any may */
static ColoSeq tcp_limit(const ColoMatch *m, const ColoFlow *f,
                         uint64_t epoch, const ColoSeq *base)
{
    ColoSeq limit = tcp_allowed(m, f, epoch, base);

    if (f->tcp.acked.known) {
        colo_seq_raise(&limit, f->tcp.acked.at);
    }
    return limit;
}

static ColoFlowList *tcp_owing_list(ColoMatch *m, const ColoPacket *model)
{
    return &m->owing[colo_match_age(m, model->epoch)];
}

/* From now on @model is owed */
static void tcp_owe_since(ColoMatch *m, ColoFlow *f, ColoPacket *model,
                          int64_t since_ms)
{
    ColoFlowList *list = tcp_owing_list(m, model);
    ColoFlow *g, *before = NULL;

    f->tcp.owed = model;
    f->tcp.owed_since_ms = since_ms;
    QTAILQ_FOREACH_REVERSE(g, list, next_owed) {
        if (g->tcp.owed_since_ms <= since_ms) {
            before = g;
            break;
        }
    }
    if (before) {
        QTAILQ_INSERT_AFTER(list, before, f, next_owed);
    } else {
        QTAILQ_INSERT_HEAD(list, f, next_owed);
    }
}

/* Take the model out */
static ColoPacket *tcp_owed_take(ColoMatch *m, ColoFlow *f)
{
    ColoPacket *model = f->tcp.owed;

    if (model) {
        QTAILQ_REMOVE(tcp_owing_list(m, model), f, next_owed);
        f->tcp.owed = NULL;
    }
    return model;
}

void colo_match_tcp_unowe(ColoMatch *m, ColoFlow *f)
{
    ColoPacket *model = tcp_owed_take(m, f);

    if (model) {
        colo_packet_free(model);
    }
}

/* @p leaves, maybe before others that wait: it may not look newer than they */
static void tcp_set_clock_back(const ColoFlow *f, ColoPacket *p)
{
    const ColoHeld *h = QTAILQ_FIRST(&f->primary);
    uint32_t oldest;

    if (!p->ts_off) {
        return;
    }
    for (unsigned i = 0; h && i < TCP_CLOCK_LOOK; i++) {
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

/* @model has an ack that may not leave now */
static void tcp_owe(ColoMatch *m, ColoFlow *f, ColoPacket *model,
                    const ColoSeq *base)
{
    ColoTcp *t = &f->tcp;

    if (t->owed && colo_seq_lt(model->ack, t->owed->ack)) {
        colo_packet_free(model);
        return;
    }
    if (t->owed && t->owed->epoch == model->epoch) {
        colo_packet_free(t->owed);
        t->owed = model;
    } else {
        colo_match_tcp_unowe(m, f);
        tcp_owe_since(m, f, model, model->arrived_ms);
    }
    t->owed_base = *base;
}

/*
 * Receivers offer no window rather than a silly one (RFC 9293, 3.8.6.2.2), so
 * whatever is not 0 keeps the client going
 */
static void tcp_set_shut(ColoMatch *m, ColoFlow *f, bool shut)
{
    ColoTcp *t = &f->tcp;

    if (t->shut == shut) {
        return;
    }
    t->shut = shut;
    if (shut) {
        t->shut_since_ms = m->now_ms;
        QTAILQ_INSERT_TAIL(&m->shut, f, next_shut);
    } else {
        QTAILQ_REMOVE(&m->shut, f, next_shut);
    }
}

static void tcp_drop_narrowed(ColoMatch *m, ColoFlow *f)
{
    if (f->tcp.narrowed) {
        colo_packet_free(f->tcp.narrowed);
        f->tcp.narrowed = NULL;
    }
    tcp_set_shut(m, f, false);
}

/*
 * @p, with an ack, is about to leave: with no more window than the secondary
 * has to offer
 */
static void tcp_narrow(ColoMatch *m, ColoFlow *f, ColoPacket *p)
{
    ColoTcp *t = &f->tcp;

    if (t->s_window_known && p->window > t->s_window &&
        colo_match_comparable(m, p->epoch)) {
        ColoPacket *model = colo_packet_bare_ack(p, tcp_end(p), p->ack);

        model->epoch = p->epoch;
        colo_packet_free(t->narrowed);
        t->narrowed = model;
        tcp_set_shut(m, f, !t->s_window);
        colo_packet_set_window(p, t->s_window);
        m->stats.windows_clamped++;
    } else {
        tcp_drop_narrowed(m, f);
    }
    t->window = p->window;
}

/* An ack left: is anything still owed? */
static void tcp_acked(ColoMatch *m, ColoFlow *f, uint32_t ack)
{
    ColoTcp *t = &f->tcp;

    colo_seq_raise(&t->acked, ack);
    if (t->owed && colo_seq_le(t->owed->ack, t->acked.at)) {
        colo_match_tcp_unowe(m, f);
    }
}

/* The segment @p without data leaves.  Others look old to the client. */
static void tcp_release_owed(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                             uint64_t *counter)
{
    if (f->tcp.mark.known) {
        colo_packet_set_seq(p, f->tcp.mark.at);
    }
    tcp_set_clock_back(f, p);
    tcp_narrow(m, f, p);
    tcp_acked(m, f, p->ack);
    colo_match_release(m, p, counter);
}

/* Pay what may be paid now */
static void tcp_pay(ColoMatch *m, ColoFlow *f)
{
    ColoTcp *t = &f->tcp;
    ColoPacket *p;
    ColoSeq allowed;

    if (!t->owed) {
        return;
    }
    allowed = tcp_allowed(m, f, t->owed->epoch, &t->owed_base);
    if (!allowed.known ||
        (t->acked.known && colo_seq_le(allowed.at, t->acked.at))) {
        return;
    }
    if (colo_seq_le(t->owed->ack, allowed.at)) {
        p = tcp_owed_take(m, f);
    } else {
        p = colo_packet_bare_ack(t->owed, t->owed->seq, allowed.at);
        p->epoch = t->owed->epoch;
        m->stats.acks_clamped++;
        tcp_owe_since(m, f, tcp_owed_take(m, f), m->now_ms);
    }
    tcp_release_owed(m, f, p, &m->stats.released_equal);
}

static void tcp_pure_ack(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                         const ColoSeq *base)
{
    ColoSeq limit = tcp_limit(m, f, p->epoch, base);

    if (!limit.known || colo_seq_lt(limit.at, p->ack)) {
        tcp_owe(m, f, p, base);
        return;
    }
    /* It must not tell how far the primary is; a keep-alive stays behind */
    if (f->tcp.mark.known && colo_seq_lt(f->tcp.mark.at, p->seq)) {
        colo_packet_set_seq(p, f->tcp.mark.at);
    }
    tcp_set_clock_back(f, p);
    tcp_narrow(m, f, p);
    tcp_acked(m, f, p->ack);
    colo_match_release(m, p, &m->stats.released_equal);
}

/* Releasing */

/* The part of the stream in @p left (or leaves now) */
static void tcp_advance_mark(ColoTcp *t, const ColoPacket *p)
{
    uint32_t end = tcp_end(p);

    if (!t->mark.known || colo_seq_lt(t->mark.at, p->seq)) {
        /* What is before it was not seen: not to be taken for a repetition */
        t->low = p->seq;
        t->cmp = t->mark.known ? t->cmp : end;
        colo_seq_raise(&t->mark, end);
    } else if (colo_seq_le(t->low, end)) {
        t->low = colo_seq_lt(p->seq, t->low) ? p->seq : t->low;
        colo_seq_raise(&t->mark, end);
    } else if (t->low - end > TCP_REACH / 2) {
        /* One of the two made no sense; believe the latter */
        t->mark.at = t->cmp = end;
        t->low = p->seq;
    }
    if (t->mark.at - t->low > TCP_REACH) {
        t->low = t->mark.at - TCP_REACH;
    }
    if (colo_seq_lt(t->cmp, t->mark.at)) {
        t->cmp = t->mark.at;
    }
    t->ended = t->ended || (p->tcp_flags & COLO_TCP_FIN);
}

/* A connection begins with the SYN @p, which leaves now */
static void tcp_begin(ColoMatch *m, ColoFlow *f, const ColoPacket *p)
{
    ColoTcp *t = &f->tcp;

    colo_match_tcp_unowe(m, f);
    tcp_drop_narrowed(m, f);
    t->s_window_known = false;
    t->isn = (ColoSeq) { .at = p->seq, .known = true };
    t->mark = (ColoSeq) { .at = tcp_end(p), .known = true };
    t->low = p->seq;
    t->cmp = t->mark.at;
    t->acked.known = false;
    t->ended = false;
    t->s_mss = 0;
    if (t->s_syn && t->s_syn->p->seq == p->seq) {
        tcp_drop_syn(m, f);
    }
}

static ColoPacket *tcp_unhold(ColoMatch *m, ColoFlow *f, ColoHeld *h)
{
    f->tcp.syns -= !!(h->p->tcp_flags & COLO_TCP_SYN);
    return colo_match_unhold(m, f, h);
}

/* @p may leave, with an ack up to @limit */
static void tcp_release(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                        const ColoSeq *base, uint32_t limit)
{
    tcp_advance_mark(&f->tcp, p);
    tcp_trim(m, f);
    tcp_set_clock_back(f, p);
    if (tcp_has_ack(p)) {
        if (colo_seq_lt(limit, p->ack)) {
            ColoPacket *model = colo_packet_bare_ack(p, tcp_end(p), p->ack);

            model->epoch = p->epoch;
            model->arrived_ms = p->arrived_ms;
            tcp_owe(m, f, model, base);
            colo_packet_set_ack(p, limit);
            m->stats.acks_clamped++;
        }
        tcp_narrow(m, f, p);
        tcp_acked(m, f, p->ack);
    }
    colo_match_release(m, p, &m->stats.released_equal);
}

/* @h may leave, if any ack may */
static bool tcp_release_held(ColoMatch *m, ColoFlow *f, ColoHeld *h)
{
    ColoSeq limit = tcp_limit(m, f, h->p->epoch, &h->base);
    ColoSeq base = h->base;

    if (!limit.known && tcp_has_ack(h->p)) {
        return false;
    }
    tcp_release(m, f, tcp_unhold(m, f, h), &base, limit.at);
    return true;
}

/* @p leaves as it is: the survivor will have said it */
static void tcp_release_as_is(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                              uint64_t *counter)
{
    ColoTcp *t = &f->tcp;

    if (tcp_is_odd(p)) {
        /* Whatever it means, its bytes are out */
        if (colo_packet_seq_len(p) && !(p->tcp_flags & COLO_TCP_SYN)) {
            tcp_advance_mark(t, p);
        }
    } else if (p->tcp_flags & COLO_TCP_RST) {
        t->ended = true;
    } else if (p->tcp_flags & COLO_TCP_SYN) {
        if (!colo_seq_is(&t->isn, p->seq)) {
            tcp_begin(m, f, p);
        }
    } else if (colo_packet_seq_len(p)) {
        tcp_advance_mark(t, p);
    }
    if (t->mark.known) {
        tcp_trim(m, f);
    }
    if (tcp_has_ack(p)) {
        tcp_drop_narrowed(m, f);
        t->window = p->window;
        tcp_acked(m, f, p->ack);
    }
    colo_match_release(m, p, counter);
}

/* Comparing */

/*
 * Go on from cmp to the end of @p.  What was compared is dropped: it is known
 * to be what the primary waits with.
 */
static TcpCompared tcp_compare(ColoMatch *m, ColoFlow *f, const ColoPacket *p)
{
    ColoTcp *t = &f->tcp;
    uint32_t data_end = p->seq + p->payload_len;
    uint32_t end = tcp_end(p);

    while (colo_seq_lt(t->cmp, end)) {
        ColoHeld *s;
        uint32_t s_data_end, n;

        tcp_trim(m, f);
        s = QTAILQ_FIRST(&f->secondary);
        if (!s || colo_seq_lt(t->cmp, s->from)) {
            return TCP_NOT_ALL_THERE;
        }
        s_data_end = s->p->seq + s->p->payload_len;
        if ((t->cmp == data_end) != (t->cmp == s_data_end)) {
            return TCP_DIFFERENT;   /* FIN of one, data of the other */
        }
        if (t->cmp == data_end) {
            t->cmp++;               /* FIN of both */
            continue;
        }
        n = MIN(data_end - t->cmp, MIN(s_data_end, s->to) - t->cmp);
        if (memcmp(p->data + p->payload + (t->cmp - p->seq),
                   s->p->data + s->p->payload + (t->cmp - s->p->seq), n)) {
            return TCP_DIFFERENT;
        }
        t->cmp += n;
        m->stats.bytes_compared += n;
    }
    tcp_trim(m, f);
    return TCP_ALL_EQUAL;
}

/* The front of @h that is equal, if it is long enough to leave alone */
static bool tcp_release_front(ColoMatch *m, ColoFlow *f, ColoHeld *h)
{
    ColoTcp *t = &f->tcp;
    ColoPacket *p = h->p, *front;
    uint32_t bytes = t->cmp - p->seq;
    uint32_t news = t->cmp - t->mark.at;
    uint32_t mss = MAX(TCP_MSS_MIN, MIN(t->s_mss, TCP_MSS_MAX));
    ColoSeq limit = tcp_limit(m, f, p->epoch, &h->base);

    if (news < mss || bytes >= p->payload_len ||
        (!limit.known && tcp_has_ack(p))) {
        return false;
    }
    front = colo_packet_split(p, bytes);
    front->epoch = p->epoch;
    front->arrived_ms = p->arrived_ms;
    tcp_release(m, f, front, &h->base, limit.at);
    return true;
}

/* A connection is seen first in its middle: where does the stream begin? */
static void tcp_note_begin(ColoTcp *t, const ColoPacket *p)
{
    bool earlier = t->mark.known && t->cmp == t->low &&
                   t->low - p->seq < TCP_REACH / 2;

    if (tcp_is_stream(p) && (!t->mark.known || earlier)) {
        t->mark = (ColoSeq) { .at = p->seq, .known = true };
        t->low = t->cmp = p->seq;
    }
}

static bool tcp_step_stream(ColoMatch *m, ColoFlow *f, ColoHeld *h)
{
    if (!f->tcp.mark.known) {
        tcp_note_begin(&f->tcp, h->p);
    }
    /* Before what was seen first, or behind a gap */
    if (colo_seq_lt(h->p->seq, f->tcp.low) ||
        colo_seq_lt(f->tcp.mark.at, h->p->seq)) {
        return false;
    }
    switch (tcp_compare(m, f, h->p)) {
    case TCP_ALL_EQUAL:
        return tcp_release_held(m, f, h);
    case TCP_NOT_ALL_THERE:
        return tcp_release_front(m, f, h);
    case TCP_DIFFERENT:
        colo_match_diverge(m, f);
        return false;
    }
    return false;
}

static bool tcp_step_syn(ColoMatch *m, ColoFlow *f, ColoHeld *h)
{
    ColoTcp *t = &f->tcp;
    ColoPacket *p;

    if (!t->s_syn) {
        return false;
    }
    if (!colo_packet_same_syn(h->p, t->s_syn->p)) {
        colo_match_diverge(m, f);
        return false;
    }
    t->s_isn = (ColoSeq) { .at = t->s_syn->p->seq, .known = true };
    tcp_drop_syn(m, f);
    tcp_drop_all(m, f);
    t->s_rsts = 0;
    t->s_ack.known = false;
    p = tcp_unhold(m, f, h);
    tcp_begin(m, f, p);
    if (tcp_has_ack(p)) {
        colo_seq_raise(&t->s_ack, p->ack);
        tcp_acked(m, f, p->ack);
    }
    colo_match_release(m, p, &m->stats.released_equal);
    return true;
}

/* Let @h go if it may, or its front.  False: it waits. */
static bool tcp_step(ColoMatch *m, ColoFlow *f, ColoHeld *h)
{
    ColoTcp *t = &f->tcp;
    ColoPacket *p = h->p;

    if (tcp_is_odd(p)) {
        return false;
    }
    if (tcp_is_pure_ack(p)) {
        ColoSeq base = h->base;

        /* It was in the queue because a new connection begins before it */
        tcp_pure_ack(m, f, tcp_unhold(m, f, h), &base);
        return true;
    }
    if (tcp_is_repeated(t, p)) {
        return tcp_release_held(m, f, h);
    }
    if (!colo_match_comparable(m, p->epoch) || f->diverged) {
        return false;
    }
    if (p->tcp_flags & COLO_TCP_RST) {
        if (!t->s_rsts) {
            return false;
        }
        t->s_rsts--;
        t->ended = true;
        colo_match_release(m, tcp_unhold(m, f, h), &m->stats.released_equal);
        return true;
    }
    if (p->tcp_flags & COLO_TCP_SYN) {
        return tcp_step_syn(m, f, h);
    }
    return tcp_step_stream(m, f, h);
}

/* Whose turn is it?  The head's, or of what fills the gap before it. */
static ColoHeld *tcp_next(const ColoFlow *f)
{
    const ColoTcp *t = &f->tcp;
    ColoHeld *head = QTAILQ_FIRST(&f->primary), *h = head;

    if (!head || !tcp_is_stream(head->p) || !t->mark.known ||
        !colo_seq_lt(t->mark.at, head->p->seq)) {
        return head;
    }
    for (unsigned i = 0; i < TCP_GAP_LOOK; i++) {
        h = QTAILQ_NEXT(h, in_queue);
        if (!h || !tcp_is_stream(h->p) || h->p->epoch != head->p->epoch) {
            break;
        }
        if (colo_seq_le(h->p->seq, t->mark.at) &&
            colo_seq_lt(t->mark.at, tcp_end(h->p))) {
            return h;
        }
    }
    return head;
}

void colo_match_tcp_advance(ColoMatch *m, ColoFlow *f)
{
    ColoHeld *h;

    do {
        h = tcp_next(f);
    } while (h && tcp_step(m, f, h));
    tcp_pay(m, f);
}

/* The secondary's stream */

/* The window that goes with the latest ack */
static void tcp_note_window(ColoTcp *t, const ColoPacket *p)
{
    if (!t->s_ack.known || colo_seq_le(t->s_ack.at, p->ack)) {
        t->s_window = p->window;
        t->s_window_known = true;
    }
}

/*
 * More window may be told than was.  Small steps go with what the primary says
 * next; a client that has to wait must hear of large ones.
 */
void colo_match_tcp_widen(ColoMatch *m, ColoFlow *f)
{
    ColoTcp *t = &f->tcp;
    ColoPacket *p;
    uint16_t window;

    if (!t->narrowed || !t->acked.known) {
        return;
    }
    window = t->narrowed->window;
    if (t->s_window_known) {
        window = MIN(window, t->s_window);
    }
    if (window <= t->window + t->window / 2) {
        return;
    }
    p = colo_packet_bare_ack(t->narrowed, t->mark.known ? t->mark.at
                                                        : t->narrowed->seq,
                             t->acked.at);
    p->epoch = t->narrowed->epoch;
    colo_packet_set_window(p, window);
    tcp_set_clock_back(f, p);
    if (window == t->narrowed->window) {
        tcp_drop_narrowed(m, f);
    } else {
        tcp_set_shut(m, f, false);
    }
    t->window = window;
    colo_match_release(m, p, &m->stats.released_equal);
}

/*
 * @p of the secondary repeats an ack, and says that it has got what follows a
 * gap.  The primary has got all that, too, and waits to acknowledge more.
 */
static void tcp_send_gap_on(ColoMatch *m, ColoFlow *f, ColoPacket *p)
{
    ColoTcp *t = &f->tcp;
    ColoPacket *out;

    if (t->owed && t->mark.known && colo_seq_is(&t->acked, p->ack) &&
        colo_seq_lt(p->ack, t->owed->ack)) {
        out = colo_packet_bare_ack(p, t->mark.at, p->ack);
        out->epoch = t->owed->epoch;
        colo_packet_set_window(out, MIN(out->window, t->window));
        if (out->ts_off && t->owed->ts_off) {
            /* As the client knows it: no clock steps back */
            colo_packet_set_tsval(out, colo_packet_tsval(t->owed));
            tcp_set_clock_back(f, out);
        }
        colo_match_release(m, out, &m->stats.acks_of_secondary);
    }
    colo_packet_free(p);
}

void colo_match_tcp_secondary(ColoMatch *m, ColoFlow *f, ColoPacket *p)
{
    ColoTcp *t = &f->tcp;
    ColoPacket *gap = NULL;

    if (tcp_is_odd(p)) {
        colo_packet_free(p);
        return;
    }
    if (p->tcp_flags & COLO_TCP_RST) {
        t->s_rsts += t->s_rsts < UINT32_MAX;
        colo_packet_free(p);
    } else if (p->tcp_flags & COLO_TCP_SYN) {
        tcp_secondary_syn(m, f, p);
    } else if (t->s_syn) {
        /* Of a connection that the primary has not begun: not mapped yet */
        colo_packet_free(p);
    } else {
        bool repeated = colo_seq_is(&t->s_ack, p->ack);

        tcp_note_window(t, p);
        colo_seq_raise(&t->s_ack, p->ack);
        t->s_mss = MAX(t->s_mss, p->payload_len);
        if (tcp_is_stream(p) && !f->diverged) {
            tcp_insert(m, f, p);
        } else if (repeated && tcp_is_pure_ack(p) && p->sack_off) {
            gap = p;
        } else {
            colo_packet_free(p);
        }
    }
    colo_match_tcp_advance(m, f);
    colo_match_tcp_widen(m, f);
    if (gap) {
        tcp_send_gap_on(m, f, gap);
    }
}

/* The primary's stream */

/* Note what it acknowledges, for the base of later epochs */
static void tcp_note_said(ColoMatch *m, ColoTcp *t, const ColoPacket *p)
{
    if (!tcp_is_odd(p) && (p->tcp_flags & COLO_TCP_SYN) &&
        !colo_seq_is(&t->said_isn, p->seq)) {
        if (m->ops.begin && !(p->tcp_flags & COLO_TCP_ACK)) {
            m->ops.begin(m->opaque, p);
        }
        t->said_isn = (ColoSeq) { .at = p->seq, .known = true };
        t->said_ack.known = false;
        t->base.known = false;
        t->said_epoch = p->epoch;
    }
    if (p->epoch != t->said_epoch) {
        t->base = t->said_ack;
        t->said_epoch = p->epoch;
    }
    if (tcp_has_ack(p)) {
        colo_seq_raise(&t->said_ack, p->ack);
    }
}

void colo_match_tcp_primary(ColoMatch *m, ColoFlow *f, ColoPacket *p)
{
    ColoTcp *t = &f->tcp;
    ColoSeq limit;
    ColoHeld *h;

    tcp_note_said(m, t, p);
    if (p->epoch < m->committed) {
        tcp_release_as_is(m, f, p, &m->stats.released_commit);
        return;
    }
    limit = tcp_limit(m, f, p->epoch, &t->base);
    if (!t->syns && tcp_is_pure_ack(p)) {
        tcp_pure_ack(m, f, p, &t->base);
        tcp_pay(m, f);
        return;
    }
    if (!t->syns && tcp_is_repeated(t, p) &&
        (limit.known || !tcp_has_ack(p))) {
        tcp_release(m, f, p, &t->base, limit.at);
        return;
    }
    if (!t->syns) {
        tcp_note_begin(t, p);
    }
    h = colo_match_hold(m, f, p, NULL);
    h->base = t->base;
    t->syns += !!(p->tcp_flags & COLO_TCP_SYN);
    if (h == tcp_next(f)) {
        colo_match_tcp_advance(m, f);
    }
}

/* Commit and the end of a session */

/* Let go what is of epochs before @cut */
static void tcp_release_before(ColoMatch *m, ColoFlow *f, uint64_t cut,
                               uint64_t *counter)
{
    ColoTcp *t = &f->tcp;
    ColoHeld *h;

    while ((h = QTAILQ_FIRST(&f->primary)) != NULL && h->p->epoch < cut) {
        tcp_release_as_is(m, f, tcp_unhold(m, f, h), counter);
    }
    if (t->owed && t->owed->epoch < cut) {
        tcp_release_owed(m, f, tcp_owed_take(m, f), counter);
    }
}

void colo_match_tcp_commit(ColoMatch *m, ColoFlow *f)
{
    tcp_release_before(m, f, m->committed, &m->stats.released_commit);
    colo_match_tcp_advance(m, f);
}

void colo_match_tcp_flush(ColoMatch *m, ColoFlow *f, uint64_t *counter)
{
    tcp_release_before(m, f, UINT64_MAX, counter);
}
