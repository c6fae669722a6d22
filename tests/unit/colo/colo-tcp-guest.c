/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A model of a guest, or of its clients, for tests of the COLO proxy.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "colo-tcp-guest.h"

/* What may be written and not acknowledged */
#define SEND_BUF    (32 * 1024)
/* A client that hears nothing asks */
#define PROBE_MS    2000

uint32_t tcp_chance_below(TcpChance *c, uint32_t n)
{
    uint64_t z;

    if (n <= 1) {
        return 0;
    }
    if (c->size >= 2) {
        z = lduw_be_p(c->data);
        c->data += n > 256 ? 2 : 1;
        c->size -= n > 256 ? 2 : 1;
        return n > 256 ? z * n >> 16 : (z >> 8) % n;
    }
    /* splitmix64 */
    z = c->state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    z ^= z >> 31;
    return z % n;
}

static uint32_t random_number(TcpChance *c)
{
    return tcp_chance_below(c, 65536) << 16 | tcp_chance_below(c, 65536);
}

void tcp_app_vary(TcpApp *a, const TcpSpeaker *s)
{
    a->end.segs = s->is_guest ? 1 + tcp_chance_below(s->chance,
                                                     TCP_END_MAX_SEGS) : 1;
    a->end.delack_ms = 1 + tcp_chance_below(s->chance, 40);
}

/* What a kernel picks when a connection begins */
static void app_begin(TcpApp *a, const TcpSpeaker *s)
{
    a->end.iss = random_number(s->chance);
    if (tcp_chance_one_in(s->chance, 3)) {
        /* It wraps */
        a->end.iss = -tcp_chance_below(s->chance, 20000);
    }
    a->end.ts_offset = random_number(s->chance);
    a->end.cwnd = (2 + tcp_chance_below(s->chance, 9)) * TCP_END_MSS;
}

void tcp_app_init(TcpApp *a, const TcpSpeaker *s)
{
    const TcpPlan *plan = s->plan;

    tcp_end_init(&a->end);
    a->end.stream = s->is_guest ? 0x11 : 0x66;
    a->end.ts = plan->ts;
    a->end.sack = plan->sack;
    a->end.rcv_buf = s->is_guest ? plan->guest_buf : plan->client_buf;
    a->tick_at = INT64_MAX;
    tcp_app_vary(a, s);
    if (s->is_guest == plan->guest_connects) {
        a->tick_at = plan->start_ms;
        if (s->is_guest) {
            a->tick_at += tcp_chance_below(s->chance, 8);
        }
    } else {
        a->end.state = TCP_END_LISTEN;
    }
    if (!plan->guest_connects) {
        a->port = TCP_GUEST_PORT;
    }
}

static void app_connect(TcpApp *a, const TcpSpeaker *s, int64_t now_ms)
{
    a->began = true;
    a->tick_at = INT64_MAX;
    if (s->is_guest) {
        a->port = 20000 + tcp_chance_below(s->chance, 30000);
    }
    app_begin(a, s);
    tcp_end_connect(&a->end, now_ms);
}

/* Where what has been read of the peer's data ends */
static uint32_t data_end(const TcpEnd *e)
{
    return e->fin_at ? MIN(e->rcv_nxt, e->fin_at) : e->rcv_nxt;
}

static void app_read(TcpApp *a, const TcpSpeaker *s, int64_t now_ms)
{
    uint32_t end = data_end(&a->end);
    uint32_t most = UINT32_MAX;

    if (s->is_guest && s->plan->pace_ms) {
        if (now_ms < a->tick_at && a->tick_at != INT64_MAX) {
            return;
        }
        most = s->plan->chunk;
        a->tick_at = INT64_MAX;
    }
    if (end > a->end.read) {
        tcp_end_read(&a->end, a->end.read + MIN(end - a->end.read, most));
        if (end > a->end.read) {
            a->tick_at = now_ms + s->plan->pace_ms +
                         tcp_chance_below(s->chance, 3);
        }
    }
}

static void app_write(TcpApp *a, const TcpSpeaker *s)
{
    const TcpPlan *plan = s->plan;
    TcpEnd *e = &a->end;
    uint32_t read = e->read - 1;
    uint32_t total = s->is_guest ? plan->to_client : plan->to_guest;
    uint64_t may = total;
    bool peer_closed = e->fin_at && e->rcv_nxt > e->fin_at;

    if (s->is_guest && plan->answers && read < plan->to_guest) {
        may = (uint64_t)total * read / plan->to_guest;
    }
    may = MIN(1 + may, e->una + SEND_BUF);
    e->written = MAX(e->written, may);
    if (e->written == 1 + total &&
        (s->is_guest != plan->closes_last || peer_closed)) {
        e->closing = true;
    }
}

static bool app_aborts(const TcpApp *a, const TcpSpeaker *s)
{
    TcpAbort who = s->is_guest ? TCP_ABORT_GUEST : TCP_ABORT_CLIENT;

    return s->plan->abort == who && a->end.read - 1 >= s->plan->abort_at &&
           a->end.state == TCP_END_OPEN;
}

void tcp_app_run(TcpApp *a, const TcpSpeaker *s, int64_t now_ms)
{
    TcpEnd *e = &a->end;

    if (!a->began && e->state == TCP_END_NONE && a->tick_at <= now_ms) {
        app_connect(a, s, now_ms);
    }
    if (e->state == TCP_END_OPEN) {
        app_read(a, s, now_ms);
        if (app_aborts(a, s)) {
            tcp_end_abort(e, now_ms, s->emit, s->opaque);
            return;
        }
        app_write(a, s);
    }
    tcp_end_output(e, now_ms, s->emit, s->opaque);
    if (!s->is_guest && e->state == TCP_END_OPEN) {
        if (a->tick_at <= now_ms) {
            tcp_end_probe(e, now_ms, s->emit, s->opaque);
        }
        if (a->tick_at <= now_ms || a->tick_at == INT64_MAX) {
            a->tick_at = now_ms + PROBE_MS;
        }
    }
    if (e->state == TCP_END_CLOSED || e->state == TCP_END_RESET) {
        a->tick_at = INT64_MAX;
    }
}

void tcp_app_input(TcpApp *a, const TcpSpeaker *s, const TcpSeg *in,
                   int64_t now_ms)
{
    if (!s->is_guest && a->end.state == TCP_END_OPEN) {
        a->tick_at = INT64_MAX;
    }
    if (a->end.state == TCP_END_LISTEN && in->flags == COLO_TCP_SYN) {
        app_begin(a, s);
    }
    tcp_end_input(&a->end, in, now_ms, s->emit, s->opaque);
    tcp_app_run(a, s, now_ms);
}

int64_t tcp_app_deadline(const TcpApp *a)
{
    return MIN(a->tick_at, tcp_end_deadline(&a->end));
}

bool tcp_app_is_over(const TcpApp *a)
{
    return a->end.state == TCP_END_CLOSED || a->end.state == TCP_END_RESET;
}

bool tcp_app_change(TcpApp *a, uint8_t with)
{
    TcpEnd *e = &a->end;

    if (e->n_changes == TCP_END_CHANGES) {
        return false;
    }
    e->changes[e->n_changes++] = (TcpChange) { e->written, with };
    return true;
}

TcpSeg tcp_seg_parse(const ColoPacket *p)
{
    TcpSeg s = {
        .flags = p->tcp_flags & ~COLO_TCP_PSH,
        .seq = p->seq,
        .ack = p->ack,
        .window = p->window,
        .ts = p->ts_off,
        .sacks = p->sack_edges / 2,
        .data = p->data + p->payload,
        .len = p->payload_len,
    };

    if (s.ts) {
        s.tsval = colo_packet_tsval(p);
        s.tsecr = colo_packet_tsecr(p);
    }
    for (unsigned i = 0; i < 2 * s.sacks; i++) {
        s.sack[i] = colo_packet_sack_edge(p, i);
    }
    /* The options of a SYN: 12 bytes of timestamps, then this */
    if ((s.flags & COLO_TCP_SYN) && p->payload - p->l4 >= 24) {
        const uint8_t *at = p->data + p->l4 + 20 + (s.ts ? 12 : 0);

        s.sack_ok = p->payload - p->l4 >= 24 + (s.ts ? 12 : 0) && at[2] == 4;
    }
    return s;
}
