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
 *   repeated   A segment that ends at or before released_end said nothing new,
 *              and leaves at once.  But one that begins before all that was
 *              seen, as it was lost before the session, waits for the commit.
 *   front      If the secondary said just the front of a long segment, that
 *              leaves alone: its congestion window may be smaller than the
 *              primary's, and it would not go on before that is acknowledged.
 *              It leaves when all that was read at once has been looked at.
 *   gap        A segment ahead of released_end waits for the one that fills
 *              the gap, which may overtake it.
 *   RST        Needs one of the secondary, with its number: one that answers
 *              what did not suit the secondary then is not the end.  Urgent
 *              data and combinations of flags that make no sense wait for the
 *              commit, and so does what has a digest or belongs to Multipath
 *              TCP: both are bound to numbers that the other guest does not
 *              have, and nothing may be changed in them.
 *
 * What a segment may acknowledge, and with which window and timestamp it
 * leaves, is for match-ack.c to say.
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

typedef enum TcpCompared {
    TCP_ALL_EQUAL,
    TCP_NOT_ALL_THERE,
    TCP_DIFFERENT,
} TcpCompared;

/* Nothing in it that was not released before */
static bool tcp_is_repeated(const ColoTcp *t, const ColoPacket *p)
{
    if (tcp_is_odd(p) || !colo_packet_seq_len(p) || !t->released_end.known ||
        (p->tcp_flags & COLO_TCP_RST) ||
        !colo_seq_le(tcp_end(p), t->released_end.at)) {
        return false;
    }
    if (p->tcp_flags & COLO_TCP_SYN) {
        return colo_seq_is(&t->released_isn, p->seq);
    }
    return colo_seq_le(t->released_begin, p->seq);
}

/* The secondary's words */

void colo_match_tcp_forget_secondary(ColoFlow *f)
{
    ColoTcp *t = &f->tcp;

    t->secondary_isn.known = false;
    t->secondary_rsts = 0;
    t->compared_end = t->released_end.at;
    colo_ack_forget_secondary(f);
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
    if (f->tcp.secondary_syn) {
        colo_match_drop(m, f->tcp.secondary_syn);
        f->tcp.secondary_syn = NULL;
    }
}

/* Drop what was compared, and what got out of reach */
static void tcp_trim(ColoMatch *m, ColoFlow *f)
{
    uint32_t compared_end = f->tcp.compared_end;
    ColoHeld *s;

    while ((s = QTAILQ_FIRST(&f->secondary)) != NULL &&
           colo_seq_le(s->to, compared_end)) {
        tcp_drop(m, f, s);
    }
    if (s && colo_seq_lt(s->from, compared_end)) {
        s->from = compared_end;
    }
    while ((s = QTAILQ_LAST(&f->secondary)) != NULL &&
           s->from - compared_end >= TCP_REACH) {
        tcp_drop(m, f, s);
    }
}

/* Is the segment near enough to be compared with the others? */
static bool tcp_in_reach(const ColoFlow *f, const ColoPacket *p)
{
    ColoHeld *first = QTAILQ_FIRST(&f->secondary);
    uint32_t anchor;

    if (f->tcp.released_end.known) {
        anchor = f->tcp.compared_end;
    } else if (first) {
        anchor = first->from;
    } else {
        return true;
    }
    return p->seq - anchor + TCP_REACH / 2 < TCP_REACH;
}

/* The secondary said a reset at @seq */
static void tcp_note_rst(ColoTcp *t, uint32_t seq)
{
    if (t->secondary_rsts == COLO_TCP_RSTS) {
        t->secondary_rsts--;
        memmove(t->secondary_rst_at, t->secondary_rst_at + 1,
                t->secondary_rsts * sizeof(*t->secondary_rst_at));
    }
    t->secondary_rst_at[t->secondary_rsts++] = seq;
}

/* Did it, once for each of the primary? */
static bool tcp_take_rst(ColoTcp *t, uint32_t seq)
{
    for (unsigned i = 0; i < t->secondary_rsts; i++) {
        if (t->secondary_rst_at[i] == seq) {
            t->secondary_rsts--;
            memmove(t->secondary_rst_at + i, t->secondary_rst_at + i + 1,
                    (t->secondary_rsts - i) * sizeof(*t->secondary_rst_at));
            return true;
        }
    }
    return false;
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
    if (t->released_end.known && colo_seq_lt(from, t->compared_end)) {
        from = t->compared_end;
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

    if (colo_seq_is(&t->secondary_isn, p->seq) ||
        colo_seq_is(&t->released_isn, p->seq)) {
        if (!t->secondary_syn) {
            colo_ack_secondary_repeats_syn(f, p);
        }
        colo_packet_free(p);
        return;
    }
    if (f->diverged ||
        (t->secondary_syn && t->secondary_syn->p->seq == p->seq)) {
        colo_packet_free(p);
        return;
    }
    colo_ack_secondary_begins(f);
    tcp_drop_syn(m, f);
    t->secondary_syn = colo_match_keep(m, f, p);
}

/* Releasing */

/* The part of the stream in @p left (or leaves now) */
static void tcp_note_released(ColoTcp *t, const ColoPacket *p)
{
    uint32_t end = tcp_end(p);

    if (!t->released_end.known || colo_seq_lt(t->released_end.at, p->seq)) {
        /* What is before it was not seen: not to be taken for a repetition */
        t->released_begin = p->seq;
        t->compared_end = t->released_end.known ? t->compared_end : end;
        colo_seq_raise(&t->released_end, end);
    } else if (colo_seq_le(t->released_begin, end)) {
        if (colo_seq_lt(p->seq, t->released_begin)) {
            t->released_begin = p->seq;
        }
        colo_seq_raise(&t->released_end, end);
    } else if (t->released_begin - end > TCP_REACH / 2) {
        /* One of the two made no sense; believe the latter */
        t->released_end.at = t->compared_end = end;
        t->released_begin = p->seq;
    }
    if (t->released_end.at - t->released_begin > TCP_REACH) {
        t->released_begin = t->released_end.at - TCP_REACH;
    }
    if (colo_seq_lt(t->compared_end, t->released_end.at)) {
        t->compared_end = t->released_end.at;
    }
    t->close_released = t->close_released || (p->tcp_flags & COLO_TCP_FIN);
}

/* A connection begins with the SYN @p, which leaves now */
static void tcp_begin(ColoMatch *m, ColoFlow *f, const ColoPacket *p)
{
    ColoTcp *t = &f->tcp;

    colo_ack_begin(m, f);
    t->released_isn = (ColoSeq) { .at = p->seq, .known = true };
    t->released_end = (ColoSeq) { .at = tcp_end(p), .known = true };
    t->released_begin = p->seq;
    t->compared_end = t->released_end.at;
    t->close_released = false;
    t->secondary_mss = 0;
    if (t->secondary_syn && t->secondary_syn->p->seq == p->seq) {
        tcp_drop_syn(m, f);
    }
}

static ColoPacket *tcp_unhold(ColoMatch *m, ColoFlow *f, ColoHeld *h)
{
    f->tcp.primary_syns_held -= !!(h->p->tcp_flags & COLO_TCP_SYN);
    return colo_match_unhold(m, f, h);
}

/* @p may leave, with an ack up to @limit */
static void tcp_release(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                        const ColoSeq *cut_ack, uint32_t limit)
{
    tcp_note_released(&f->tcp, p);
    tcp_trim(m, f);
    colo_ack_fit(m, f, p, cut_ack, limit);
    colo_match_release(m, p, COLO_RELEASE_EQUAL);
}

/* @h may leave, if any ack may */
static bool tcp_release_held(ColoMatch *m, ColoFlow *f, ColoHeld *h)
{
    ColoSeq limit = colo_ack_limit(m, f, h->p->epoch, &h->cut_ack);
    ColoSeq cut_ack = h->cut_ack;

    if (!limit.known && tcp_has_ack(h->p)) {
        return false;
    }
    tcp_release(m, f, tcp_unhold(m, f, h), &cut_ack, limit.at);
    return true;
}

/* @p leaves as it is: the survivor will have said it */
static void tcp_release_as_is(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                              ColoRelease why)
{
    ColoTcp *t = &f->tcp;

    if (tcp_is_odd(p)) {
        /* Whatever it means, its bytes are out */
        if (colo_packet_seq_len(p) && !(p->tcp_flags & COLO_TCP_SYN)) {
            tcp_note_released(t, p);
        }
    } else if (p->tcp_flags & COLO_TCP_RST) {
        t->close_released = true;
    } else if (p->tcp_flags & COLO_TCP_SYN) {
        if (!colo_seq_is(&t->released_isn, p->seq)) {
            tcp_begin(m, f, p);
        }
    } else if (colo_packet_seq_len(p)) {
        tcp_note_released(t, p);
    }
    if (t->released_end.known) {
        tcp_trim(m, f);
    }
    colo_ack_leaves_as_is(m, f, p);
    colo_match_release(m, p, why);
}

/* Comparing */

/*
 * Go on from compared_end to the end of @p.  What was compared is dropped: it
 * is known to be what the primary waits with.
 */
static TcpCompared tcp_compare(ColoMatch *m, ColoFlow *f, const ColoPacket *p)
{
    uint32_t *at = &f->tcp.compared_end;
    uint32_t data_end = p->seq + p->payload_len;
    uint32_t end = tcp_end(p);

    while (colo_seq_lt(*at, end)) {
        ColoHeld *s;
        uint32_t s_data_end, n;

        tcp_trim(m, f);
        s = QTAILQ_FIRST(&f->secondary);
        if (!s || colo_seq_lt(*at, s->from)) {
            return TCP_NOT_ALL_THERE;
        }
        s_data_end = s->p->seq + s->p->payload_len;
        if ((*at == data_end) != (*at == s_data_end)) {
            return TCP_DIFFERENT;   /* FIN of one, data of the other */
        }
        if (*at == data_end) {
            (*at)++;                /* FIN of both */
            continue;
        }
        n = MIN(data_end - *at, MIN(s_data_end, s->to) - *at);
        if (memcmp(p->data + p->payload + (*at - p->seq),
                   s->p->data + s->p->payload + (*at - s->p->seq), n)) {
            return TCP_DIFFERENT;
        }
        *at += n;
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
    uint32_t bytes = t->compared_end - p->seq;
    uint32_t news = t->compared_end - t->released_end.at;
    uint32_t mss = MAX(TCP_MSS_MIN, MIN(t->secondary_mss, TCP_MSS_MAX));
    ColoSeq limit = colo_ack_limit(m, f, p->epoch, &h->cut_ack);

    if (news < mss || bytes >= p->payload_len ||
        (!limit.known && tcp_has_ack(p))) {
        return false;
    }
    if (m->reading) {
        if (!f->front_due) {
            f->front_due = true;
            QTAILQ_INSERT_TAIL(&m->fronts, f, next_front);
        }
        return false;
    }
    front = colo_packet_split(p, bytes);
    front->epoch = p->epoch;
    front->arrived_ms = p->arrived_ms;
    tcp_release(m, f, front, &h->cut_ack, limit.at);
    return true;
}

/* A connection is seen first in its middle: where does the stream begin? */
static void tcp_note_begin(ColoTcp *t, const ColoPacket *p)
{
    bool earlier = t->released_end.known &&
                   t->compared_end == t->released_begin &&
                   t->released_begin - p->seq < TCP_REACH / 2;

    if (tcp_is_stream(p) && (!t->released_end.known || earlier)) {
        t->released_end = (ColoSeq) { .at = p->seq, .known = true };
        t->released_begin = t->compared_end = p->seq;
    }
}

static bool tcp_step_stream(ColoMatch *m, ColoFlow *f, ColoHeld *h)
{
    if (!f->tcp.released_end.known) {
        tcp_note_begin(&f->tcp, h->p);
    }
    /* Before what was seen first, or behind a gap */
    if (colo_seq_lt(h->p->seq, f->tcp.released_begin) ||
        colo_seq_lt(f->tcp.released_end.at, h->p->seq)) {
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

    if (!t->secondary_syn) {
        return false;
    }
    if (!colo_packet_same_syn(h->p, t->secondary_syn->p)) {
        colo_match_diverge(m, f);
        return false;
    }
    t->secondary_isn = (ColoSeq) {
        .at = t->secondary_syn->p->seq,
        .known = true,
    };
    tcp_drop_syn(m, f);
    tcp_drop_all(m, f);
    t->secondary_rsts = 0;
    colo_ack_secondary_begins(f);
    p = tcp_unhold(m, f, h);
    tcp_begin(m, f, p);
    colo_ack_both_said_syn(m, f, p);
    colo_match_release(m, p, COLO_RELEASE_EQUAL);
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
        ColoSeq cut_ack = h->cut_ack;

        /* It was in the queue because a new connection begins before it */
        colo_ack_pure(m, f, tcp_unhold(m, f, h), &cut_ack);
        return true;
    }
    if (tcp_is_repeated(t, p)) {
        return tcp_release_held(m, f, h);
    }
    if (!colo_match_comparable(m, p->epoch) || f->diverged) {
        return false;
    }
    if (p->tcp_flags & COLO_TCP_RST) {
        if (!tcp_take_rst(t, p->seq)) {
            return false;
        }
        t->close_released = true;
        colo_match_release(m, tcp_unhold(m, f, h), COLO_RELEASE_EQUAL);
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

    if (!head || !tcp_is_stream(head->p) || !t->released_end.known ||
        !colo_seq_lt(t->released_end.at, head->p->seq)) {
        return head;
    }
    for (unsigned i = 0; i < TCP_GAP_LOOK; i++) {
        h = QTAILQ_NEXT(h, in_queue);
        if (!h || !tcp_is_stream(h->p) || h->p->epoch != head->p->epoch) {
            break;
        }
        if (colo_seq_le(h->p->seq, t->released_end.at) &&
            colo_seq_lt(t->released_end.at, tcp_end(h->p))) {
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
    colo_ack_advance(m, f);
}

/* The secondary's stream */

void colo_match_tcp_secondary(ColoMatch *m, ColoFlow *f, ColoPacket *p)
{
    ColoTcp *t = &f->tcp;
    ColoPacket *gap = NULL;

    if (tcp_is_odd(p)) {
        colo_packet_free(p);
        return;
    }
    if (p->tcp_flags & COLO_TCP_RST) {
        tcp_note_rst(t, p->seq);
        colo_packet_free(p);
    } else if (p->tcp_flags & COLO_TCP_SYN) {
        tcp_secondary_syn(m, f, p);
    } else if (t->secondary_syn) {
        /* Of a connection that the primary has not begun: not mapped yet */
        colo_packet_free(p);
    } else {
        bool repeated = colo_ack_secondary_says(f, p);

        t->secondary_mss = MAX(t->secondary_mss, p->payload_len);
        if (tcp_is_stream(p) && !f->diverged) {
            tcp_insert(m, f, p);
        } else if (repeated && tcp_is_pure_ack(p) && p->sack_off) {
            gap = p;
        } else {
            colo_packet_free(p);
        }
    }
    colo_match_tcp_advance(m, f);
    colo_ack_widen(m, f);
    if (gap) {
        colo_ack_send_gap_on(m, f, gap);
    }
}

/* The primary's stream */

/* Is it the SYN of a connection that the primary begins? */
static void tcp_note_syn(ColoMatch *m, ColoFlow *f, const ColoPacket *p)
{
    ColoTcp *t = &f->tcp;

    if (!tcp_is_odd(p) && (p->tcp_flags & COLO_TCP_SYN) &&
        !colo_seq_is(&t->primary_isn, p->seq)) {
        if (m->ops.begin && !(p->tcp_flags & COLO_TCP_ACK)) {
            m->ops.begin(m->opaque, p);
        }
        t->primary_isn = (ColoSeq) { .at = p->seq, .known = true };
        colo_ack_primary_begins(f, p->epoch);
    }
}

void colo_match_tcp_primary(ColoMatch *m, ColoFlow *f, ColoPacket *p)
{
    ColoTcp *t = &f->tcp;
    ColoSeq limit;
    ColoHeld *h;

    tcp_note_syn(m, f, p);
    colo_ack_primary_says(f, p);
    if (p->epoch < m->committed) {
        tcp_release_as_is(m, f, p, COLO_RELEASE_COMMIT);
        return;
    }
    limit = colo_ack_limit(m, f, p->epoch, &f->ack.cut_ack);
    if (!t->primary_syns_held && tcp_is_pure_ack(p)) {
        colo_ack_pure(m, f, p, &f->ack.cut_ack);
        colo_ack_advance(m, f);
        return;
    }
    if (!t->primary_syns_held && tcp_is_repeated(t, p) &&
        (limit.known || !tcp_has_ack(p))) {
        tcp_release(m, f, p, &f->ack.cut_ack, limit.at);
        return;
    }
    if (!t->primary_syns_held) {
        tcp_note_begin(t, p);
    }
    h = colo_match_hold(m, f, p, NULL);
    h->cut_ack = f->ack.cut_ack;
    t->primary_syns_held += !!(p->tcp_flags & COLO_TCP_SYN);
    if (h == tcp_next(f)) {
        colo_match_tcp_advance(m, f);
    }
}

/* Commit and the end of a session */

/* Let go what is of epochs before @cut */
static void tcp_release_before(ColoMatch *m, ColoFlow *f, uint64_t cut,
                               ColoRelease why)
{
    ColoHeld *h;

    while ((h = QTAILQ_FIRST(&f->primary)) != NULL && h->p->epoch < cut) {
        tcp_release_as_is(m, f, tcp_unhold(m, f, h), why);
    }
    colo_ack_release_before(m, f, cut, why);
}

void colo_match_tcp_commit(ColoMatch *m, ColoFlow *f)
{
    tcp_release_before(m, f, m->committed, COLO_RELEASE_COMMIT);
    colo_match_tcp_advance(m, f);
}

void colo_match_tcp_flush(ColoMatch *m, ColoFlow *f, ColoRelease why)
{
    tcp_release_before(m, f, UINT64_MAX, why);
}
