/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A model of one end of a TCP connection, for tests of the COLO proxy.
 */

#include "qemu/osdep.h"
#include "colo-tcp-end.h"

#define SWS(e)      MIN(TCP_END_MSS, (e)->rcv_buf / 2)

uint8_t tcp_end_byte(const TcpEnd *e, uint32_t pos)
{
    uint8_t byte = (pos * 2654435761u >> 23) ^ pos ^ e->stream;

    for (unsigned i = 0; i < e->n_changes; i++) {
        if (pos >= e->changes[i].from) {
            byte ^= e->changes[i].with;
        }
    }
    return byte;
}

/* Ranges */

static void range_add(TcpRanges *l, uint32_t from, uint32_t to)
{
    unsigned i, n = 0;
    TcpRange add = { from, to };
    TcpRange r[TCP_END_RANGES + 1];
    bool added = false;

    for (i = 0; i < l->n; i++) {
        if (l->r[i].to >= add.from && l->r[i].from <= add.to) {
            add.from = MIN(add.from, l->r[i].from);
            add.to = MAX(add.to, l->r[i].to);
        } else {
            if (!added && l->r[i].from > add.to) {
                r[n++] = add;
                added = true;
            }
            r[n++] = l->r[i];
        }
    }
    if (!added) {
        r[n++] = add;
    }
    /* No place: what came last in the stream is forgotten */
    l->n = MIN(n, TCP_END_RANGES);
    memcpy(l->r, r, l->n * sizeof(*r));
}

static void range_cut_before(TcpRanges *l, uint32_t pos)
{
    unsigned n = 0;

    for (unsigned i = 0; i < l->n; i++) {
        if (l->r[i].to > pos) {
            l->r[n] = l->r[i];
            l->r[n].from = MAX(l->r[n].from, pos);
            n++;
        }
    }
    l->n = n;
}

static const TcpRange *range_find(const TcpRanges *l, uint32_t pos)
{
    for (unsigned i = 0; i < l->n; i++) {
        if (l->r[i].from <= pos && pos < l->r[i].to) {
            return &l->r[i];
        }
    }
    return NULL;
}

static uint32_t range_next_from(const TcpRanges *l, uint32_t pos)
{
    for (unsigned i = 0; i < l->n; i++) {
        if (l->r[i].from > pos) {
            return l->r[i].from;
        }
    }
    return UINT32_MAX;
}

bool tcp_end_has_got(const TcpEnd *e, uint32_t pos)
{
    return pos < e->rcv_nxt || range_find(&e->ahead, pos);
}

/* Life */

void tcp_end_init(TcpEnd *e)
{
    e->written = 1;
    e->read = 1;
    e->rto_ms = TCP_END_RTO_SYN_MS;
    e->ssthresh = UINT32_MAX;
    e->rto_at = e->timed_ms = e->ack_at = INT64_MAX;
}

void tcp_end_connect(TcpEnd *e, int64_t now_ms)
{
    e->state = TCP_END_SYN_SENT;
    e->syn_ms = now_ms;
}

static uint32_t window(const TcpEnd *e)
{
    uint32_t room = e->rcv_buf - MIN(e->rcv_buf, e->rcv_nxt - MIN(e->read,
                                                              e->rcv_nxt));

    if (room < SWS(e)) {
        room = 0;
    }
    /* The right edge does not go back */
    room = MAX((int32_t)room, (int32_t)(e->rcv_edge - e->rcv_nxt));
    return MIN(room, UINT16_MAX);
}

void tcp_end_read(TcpEnd *e, uint32_t pos)
{
    uint32_t before = e->rcv_edge - e->rcv_nxt;

    e->read = pos;
    if (e->state == TCP_END_OPEN && !e->fin_at &&
        window(e) >= before + MIN(2 * TCP_END_MSS, e->rcv_buf / 2)) {
        e->ack_now = true;
    }
}

/* Saying */

static void emit_seg(TcpEnd *e, TcpSeg *s, int64_t now_ms, TcpEndEmit *emit,
                     void *opaque)
{
    s->window = e->state == TCP_END_RESET ? 0 : window(e);
    if (!(s->flags & COLO_TCP_SYN) || (s->flags & COLO_TCP_ACK)) {
        s->flags |= COLO_TCP_ACK;
        s->ack = e->irs + e->rcv_nxt;
        e->rcv_acked = e->rcv_nxt;
        e->rcv_edge = MAX(e->rcv_edge, e->rcv_nxt + s->window);
        e->ack_now = false;
        e->ack_bytes = 0;
        e->ack_at = INT64_MAX;
    }
    s->ts = e->ts;
    s->tsval = e->ts_offset + now_ms;
    s->tsecr = s->flags & COLO_TCP_ACK ? e->ts_recent : 0;
    if (!e->ts_said) {
        e->ts_said = true;
        e->ts_first = e->ts_latest = s->tsval;
    }
    if (colo_seq_lt(e->ts_latest, s->tsval)) {
        e->ts_latest = s->tsval;
    }
    if (e->sack && !(s->flags & (COLO_TCP_SYN | COLO_TCP_RST))) {
        for (s->sacks = 0; s->sacks < MIN(e->ahead.n, TCP_END_SACKS);
             s->sacks++) {
            s->sack[2 * s->sacks] = e->irs + e->ahead.r[s->sacks].from;
            s->sack[2 * s->sacks + 1] = e->irs + e->ahead.r[s->sacks].to;
        }
    }
    emit(opaque, s);
}

static void emit_ack(TcpEnd *e, int64_t now_ms, TcpEndEmit *emit,
                     void *opaque)
{
    TcpSeg s = { .seq = e->iss + e->max };

    emit_seg(e, &s, now_ms, emit, opaque);
}

static void emit_syn(TcpEnd *e, int64_t now_ms, TcpEndEmit *emit, void *opaque)
{
    TcpSeg s = { .seq = e->iss, .flags = COLO_TCP_SYN, .sack_ok = e->sack };

    if (e->state == TCP_END_SYN_RCVD) {
        s.flags |= COLO_TCP_ACK;
    }
    e->max = e->nxt = 1;
    emit_seg(e, &s, now_ms, emit, opaque);
    e->rto_at = now_ms + MIN(e->rto_ms << e->backoff, TCP_END_RTO_MAX_MS);
}

static void set_timer(TcpEnd *e, int64_t now_ms)
{
    e->rto_at = now_ms + MIN(e->rto_ms << e->backoff, TCP_END_RTO_MAX_MS);
}

/* What begins at @from, up to @limit; returns its end */
static uint32_t emit_data(TcpEnd *e, uint32_t from, uint32_t limit,
                          int64_t now_ms, TcpEndEmit *emit, void *opaque)
{
    uint8_t data[TCP_END_MAX_SEGS * TCP_END_MSS];
    uint32_t to = MIN(limit, e->written);
    TcpSeg s = { .seq = e->iss + from, .data = data };

    to = MIN(to, from + e->segs * TCP_END_MSS);
    s.len = to > from ? to - from : 0;
    for (uint32_t i = 0; i < s.len; i++) {
        data[i] = tcp_end_byte(e, from + i);
    }
    to = from + s.len;
    if (e->closing && to == e->written) {
        s.flags |= COLO_TCP_FIN;
        to++;
    }
    if (to == from) {
        return to;
    }
    if (from >= e->max && e->timed_ms == INT64_MAX) {
        e->timed_ms = now_ms;
        e->timed_end = to;
    } else if (from < e->max) {
        e->timed_ms = INT64_MAX;
    }
    e->max = MAX(e->max, to);
    emit_seg(e, &s, now_ms, emit, opaque);
    return to;
}

static void emit_reset(const TcpSeg *in, TcpEndEmit *emit, void *opaque)
{
    TcpSeg s = { .flags = COLO_TCP_RST };

    if (in->flags & COLO_TCP_RST) {
        return;
    }
    if (in->flags & COLO_TCP_ACK) {
        s.seq = in->ack;
    } else {
        s.flags |= COLO_TCP_ACK;
        s.ack = in->seq + in->len + !!(in->flags & COLO_TCP_SYN);
    }
    emit(opaque, &s);
}

void tcp_end_abort(TcpEnd *e, int64_t now_ms, TcpEndEmit *emit, void *opaque)
{
    TcpSeg s = { .seq = e->iss + e->max, .flags = COLO_TCP_RST };

    e->state = TCP_END_RESET;
    e->rto_at = e->ack_at = INT64_MAX;
    emit_seg(e, &s, now_ms, emit, opaque);
}

void tcp_end_probe(TcpEnd *e, int64_t now_ms, TcpEndEmit *emit, void *opaque)
{
    TcpSeg s = { .seq = e->iss + e->una - 1 };

    emit_seg(e, &s, now_ms, emit, opaque);
}

/* Retransmit what is missing first */
static void retransmit_hole(TcpEnd *e, int64_t now_ms, TcpEndEmit *emit,
                            void *opaque)
{
    uint32_t to = MIN(e->una + TCP_END_MSS,
                      range_next_from(&e->sacked, e->una));
    unsigned segs = e->segs;

    e->segs = 1;
    emit_data(e, e->una, to, now_ms, emit, opaque);
    e->segs = segs;
    set_timer(e, now_ms);
}

static void time_out(TcpEnd *e, int64_t now_ms, TcpEndEmit *emit, void *opaque)
{
    e->backoff = MIN(e->backoff + 1, 6);
    e->timed_ms = INT64_MAX;
    if (e->state == TCP_END_SYN_SENT || e->state == TCP_END_SYN_RCVD) {
        emit_syn(e, now_ms, emit, opaque);
        return;
    }
    if (e->una == e->max) {
        /* The window is closed */
        tcp_end_probe(e, now_ms, emit, opaque);
        set_timer(e, now_ms);
        return;
    }
    e->ssthresh = MAX((e->max - e->una) / 2, 2 * TCP_END_MSS);
    e->cwnd = TCP_END_MSS;
    e->nxt = e->una;
    e->recovering = false;
    e->dupacks = 0;
    e->sacked.n = 0;
    e->rto_at = INT64_MAX;
    if (!e->wnd) {
        /* It was said before, so there was room once */
        retransmit_hole(e, now_ms, emit, opaque);
    }
}

static void send_new(TcpEnd *e, int64_t now_ms, TcpEndEmit *emit, void *opaque)
{
    uint32_t end = e->written + e->closing;
    uint32_t limit = e->una + MIN(e->wnd, e->cwnd);

    while (e->nxt < end) {
        const TcpRange *r = range_find(&e->sacked, e->nxt);
        uint32_t to = MIN(limit, range_next_from(&e->sacked, e->nxt));
        uint32_t rest = e->written - MIN(e->nxt, e->written);

        if (r) {
            e->nxt = r->to;
            continue;
        }
        /* No small segments for a small window */
        if (rest && (to <= e->nxt ||
                     (limit - e->nxt < MIN(rest, TCP_END_MSS) &&
                      e->nxt > e->una))) {
            break;
        }
        e->nxt = emit_data(e, e->nxt, to, now_ms, emit, opaque);
        if (e->rto_at == INT64_MAX) {
            set_timer(e, now_ms);
        }
    }
    if (e->rto_at == INT64_MAX && (e->una < e->max || e->nxt < end)) {
        set_timer(e, now_ms);
    }
}

void tcp_end_output(TcpEnd *e, int64_t now_ms, TcpEndEmit *emit, void *opaque)
{
    switch (e->state) {
    case TCP_END_SYN_SENT:
    case TCP_END_SYN_RCVD:
        if (e->max == 0) {
            emit_syn(e, now_ms, emit, opaque);
        } else if (e->rto_at <= now_ms) {
            time_out(e, now_ms, emit, opaque);
        }
        return;
    case TCP_END_OPEN:
        if (e->rto_at <= now_ms) {
            time_out(e, now_ms, emit, opaque);
        }
        send_new(e, now_ms, emit, opaque);
        /* fall through */
    case TCP_END_CLOSED:
        if (e->ack_at <= now_ms || e->ack_now) {
            emit_ack(e, now_ms, emit, opaque);
        }
        return;
    default:
        return;
    }
}

int64_t tcp_end_deadline(const TcpEnd *e)
{
    return MIN(e->rto_at, e->ack_at);
}

/* Hearing */

static void note_rtt(TcpEnd *e, int64_t rtt_ms)
{
    if (!e->srtt_ms) {
        e->srtt_ms = MAX(rtt_ms, 1);
        e->rttvar_ms = rtt_ms / 2;
    } else {
        e->rttvar_ms = (3 * e->rttvar_ms + ABS(e->srtt_ms - rtt_ms)) / 4;
        e->srtt_ms = MAX((7 * e->srtt_ms + rtt_ms) / 8, 1);
    }
    e->rto_ms = e->srtt_ms + MAX(4 * e->rttvar_ms, TCP_END_RTO_MIN_MS);
    e->rto_ms = MIN(e->rto_ms, TCP_END_RTO_MAX_MS);
}

static void note_sacks(TcpEnd *e, const TcpSeg *in)
{
    for (unsigned i = 0; i < in->sacks; i++) {
        uint32_t from = in->sack[2 * i] - e->iss;
        uint32_t to = in->sack[2 * i + 1] - e->iss;

        if (from >= to || to > e->max) {
            e->fault = "SACK of what was not said";
        } else if (to > e->una) {
            range_add(&e->sacked, MAX(from, e->una), to);
        }
    }
}

static void new_ack(TcpEnd *e, uint32_t pos, int64_t now_ms, TcpEndEmit *emit,
                    void *opaque)
{
    uint32_t acked = pos - e->una;

    if (e->timed_ms != INT64_MAX && e->timed_end <= pos) {
        note_rtt(e, now_ms - e->timed_ms);
        e->timed_ms = INT64_MAX;
    }
    e->una = pos;
    e->nxt = MAX(e->nxt, pos);
    e->backoff = 0;
    e->dupacks = 0;
    range_cut_before(&e->sacked, pos);
    e->rto_at = INT64_MAX;
    if (e->una < e->max) {
        set_timer(e, now_ms);
    }
    if (e->recovering && pos < e->recover) {
        retransmit_hole(e, now_ms, emit, opaque);
    } else if (e->recovering) {
        e->recovering = false;
        e->cwnd = MAX(e->ssthresh, 2 * TCP_END_MSS);
    } else if (e->cwnd < e->ssthresh) {
        e->cwnd += MIN(acked, 2 * TCP_END_MSS);
    } else {
        e->cwnd += MAX(TCP_END_MSS * TCP_END_MSS / e->cwnd, 1);
    }
}

static void same_ack(TcpEnd *e, int64_t now_ms, TcpEndEmit *emit, void *opaque)
{
    if (++e->dupacks == 3 && !e->recovering) {
        e->recovering = true;
        e->recover = e->max;
        e->ssthresh = MAX((e->max - e->una) / 2, 2 * TCP_END_MSS);
        e->cwnd = e->ssthresh + 3 * TCP_END_MSS;
        retransmit_hole(e, now_ms, emit, opaque);
    } else if (e->dupacks > 3) {
        e->cwnd += TCP_END_MSS;
    }
}

static bool input_ack(TcpEnd *e, const TcpSeg *in, int64_t now_ms,
                      TcpEndEmit *emit, void *opaque)
{
    uint32_t pos = in->ack - e->iss;
    bool moved = false;

    if (pos > e->max && e->state == TCP_END_SYN_RCVD) {
        /* Of another handshake */
        emit_reset(in, emit, opaque);
        return false;
    }
    if (pos > e->max) {
        e->fault = "ACK of what was not said";
        return false;
    }
    if ((int32_t)(pos - e->una) < 0) {
        return true;
    }
    note_sacks(e, in);
    if (e->state == TCP_END_SYN_RCVD && pos >= 1) {
        e->state = TCP_END_OPEN;
        e->rto_ms = TCP_END_RTO_MIN_MS;
    }
    if (pos > e->una || colo_seq_lt(e->wl_seq, in->seq) ||
        (e->wl_seq == in->seq && in->window > e->wnd)) {
        moved = e->wnd != in->window;
        if (!e->wnd && in->window && e->una == e->max) {
            e->backoff = 0;
            e->rto_at = INT64_MAX;
        }
        e->wnd = in->window;
        e->wl_seq = in->seq;
    }
    if (pos > e->una) {
        new_ack(e, pos, now_ms, emit, opaque);
    } else if (!in->len && !(in->flags & COLO_TCP_FIN) && !moved &&
               e->una < e->max) {
        same_ack(e, now_ms, emit, opaque);
    }
    return true;
}

static void input_data(TcpEnd *e, const TcpSeg *in, int64_t now_ms)
{
    uint32_t from = in->seq - e->irs, to = from + in->len;
    bool fin = in->flags & COLO_TCP_FIN;

    if (fin && to <= e->rcv_edge) {
        e->fin_at = to;
    }
    if (to > e->rcv_edge) {
        to = MAX(e->rcv_edge, from);
        fin = false;
    }
    if (!in->len && !(in->flags & COLO_TCP_FIN)) {
        /* Out of date: a probe, say */
        e->ack_now |= (int32_t)(from - e->rcv_acked) < 0;
        return;
    }
    to += fin;
    if ((int32_t)(to - e->rcv_nxt) <= 0 || from > e->rcv_nxt) {
        e->ack_now = true;
        if (from > e->rcv_nxt && to > from) {
            range_add(&e->ahead, from, to);
        }
        return;
    }
    e->ack_now |= e->ahead.n || fin || (in->flags & COLO_TCP_FIN);
    e->ack_bytes += to - e->rcv_nxt;
    e->rcv_nxt = to;
    while (e->ahead.n && e->ahead.r[0].from <= e->rcv_nxt) {
        e->rcv_nxt = MAX(e->rcv_nxt, e->ahead.r[0].to);
        range_cut_before(&e->ahead, e->rcv_nxt);
    }
    if (e->ack_bytes >= 2 * TCP_END_MSS) {
        e->ack_now = true;
    } else if (e->ack_at == INT64_MAX) {
        e->ack_at = now_ms + e->delack_ms;
    }
}

static void input_reset(TcpEnd *e, const TcpSeg *in)
{
    uint32_t pos = in->seq - e->irs;

    if (e->state == TCP_END_SYN_SENT) {
        if ((in->flags & COLO_TCP_ACK) && in->ack - e->iss == 1) {
            e->state = TCP_END_RESET;
        }
    } else if (pos == e->rcv_nxt) {
        e->state = TCP_END_RESET;
    } else if (pos - e->rcv_nxt < e->rcv_buf) {
        e->ack_now = true;
    }
    if (e->state == TCP_END_RESET) {
        e->rto_at = e->ack_at = INT64_MAX;
    }
}

/* A SYN opens it */
static void begin(TcpEnd *e, const TcpSeg *in)
{
    e->irs = in->seq;
    e->rcv_nxt = e->rcv_acked = 1;
    e->rcv_edge = 1;
    e->ts = e->ts && in->ts;
    e->sack = e->sack && in->sack_ok;
    e->ts_recent = in->tsval;
    e->wnd = in->window;
    e->wl_seq = in->seq;
}

static void input_syn_sent(TcpEnd *e, const TcpSeg *in, int64_t now_ms,
                           TcpEndEmit *emit, void *opaque)
{
    if (in->flags & COLO_TCP_RST) {
        input_reset(e, in);
        return;
    }
    if ((in->flags & (COLO_TCP_SYN | COLO_TCP_ACK)) !=
        (COLO_TCP_SYN | COLO_TCP_ACK)) {
        return;
    }
    if (in->ack - e->iss != 1) {
        e->fault = "SYN-ACK of another SYN";
        return;
    }
    if (in->ts && in->tsecr &&
        (colo_seq_lt(in->tsecr, e->ts_first) ||
         colo_seq_lt(e->ts_offset + (uint32_t)now_ms, in->tsecr))) {
        /* As Linux does, which goes on trying */
        emit_reset(in, emit, opaque);
        return;
    }
    begin(e, in);
    e->una = 1;
    if (!e->backoff) {
        note_rtt(e, now_ms - e->syn_ms);
    }
    e->backoff = 0;
    e->rto_at = INT64_MAX;
    e->state = TCP_END_OPEN;
    e->ack_now = true;
}

void tcp_end_input(TcpEnd *e, const TcpSeg *in, int64_t now_ms,
                   TcpEndEmit *emit, void *opaque)
{
    switch (e->state) {
    case TCP_END_LISTEN:
        if (in->flags == COLO_TCP_SYN) {
            e->state = TCP_END_SYN_RCVD;
            e->syn_ms = now_ms;
            begin(e, in);
            return;
        }
        /* fall through */
    case TCP_END_NONE:
    case TCP_END_RESET:
        emit_reset(in, emit, opaque);
        return;
    case TCP_END_SYN_SENT:
        input_syn_sent(e, in, now_ms, emit, opaque);
        return;
    default:
        break;
    }
    if (in->ts && in->tsecr && e->ts && (in->flags & COLO_TCP_ACK) &&
        e->ts_said &&
        !(in->flags & COLO_TCP_RST) && e->state != TCP_END_SYN_RCVD &&
        (colo_seq_lt(e->ts_latest + TCP_END_ECHO_MS, in->tsecr) ||
         colo_seq_lt(in->tsecr, e->ts_first - TCP_END_ECHO_MS))) {
        e->fault = "an echo of another clock";
    }
    if (in->flags & COLO_TCP_RST) {
        input_reset(e, in);
        return;
    }
    if (in->flags & COLO_TCP_SYN) {
        if (e->state == TCP_END_SYN_RCVD) {
            emit_syn(e, now_ms, emit, opaque);
        } else {
            e->ack_now = true;
        }
        return;
    }
    if (e->ts && in->ts && colo_seq_lt(in->tsval, e->ts_recent)) {
        /* PAWS */
        e->paws_news += in->len && (int32_t)(in->seq + in->len - e->irs -
                                             e->rcv_nxt) > 0;
        e->ack_now = true;
        return;
    }
    if (e->ts && in->ts && (int32_t)(in->seq - e->irs - e->rcv_acked) <= 0) {
        e->ts_recent = in->tsval;
    }
    if (!(in->flags & COLO_TCP_ACK) ||
        !input_ack(e, in, now_ms, emit, opaque)) {
        return;
    }
    input_data(e, in, now_ms);
    if (e->state == TCP_END_OPEN && e->fin_at && e->rcv_nxt > e->fin_at &&
        e->closing && e->una > e->written) {
        e->state = TCP_END_CLOSED;
        e->rto_at = INT64_MAX;
    }
}
