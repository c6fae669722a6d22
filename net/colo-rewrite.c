/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: TCP of a secondary guest, seen as if the primary had sent it.
 *
 * Secondary, pure.  The theory of operation is in the header.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "net/colo-rewrite.h"

#define ETH_TYPE_OFFSET     12
#define ETH_TYPE_IPV4       0x0800
#define ETH_TYPE_IPV6       0x86dd
#define ETH_TYPE_8021Q      0x8100
#define ETH_TYPE_8021AD     0x88a8
#define IP_PROTO_TCP        6
#define TCP_HDR_MIN         20

typedef enum FlowState {
    FLOW_HANDSHAKE,
    FLOW_OPEN,
    FLOW_CLOSING,
    FLOW__MAX,
} FlowState;

typedef enum FinState {
    FIN_NONE,
    FIN_SENT,
    FIN_ACKED,
} FinState;

/* One direction's end; @end is the sequence number behind the FIN */
typedef struct FlowFin {
    FinState state;
    uint32_t end;
} FlowFin;

typedef struct Flow {
    ColoFlowKey key;            /* direction: from the guest */
    FlowState state;
    int64_t last_ms;
    QTAILQ_ENTRY(Flow) next;

    /* What the guest sent to open it: facts, both in a simultaneous open */
    bool sent_syn;
    bool sent_syn_ack;
    uint32_t isn;               /* of S, if either was sent */
    uint32_t syn_payload;       /* bytes in that segment */
    uint32_t peer_next;         /* ack of the SYN-ACK */
    uint16_t syn_window;        /* which it offered, never scaled */

    /* S minus P, 0 while it is not known */
    bool offset_known;
    uint32_t offset;
    uint32_t ts_offset;         /* the same of the timestamps */

    /* What S sent, its own clock */
    bool tsval_known;
    uint32_t tsval_first;       /* of the SYN, or since the load */
    uint32_t tsval_latest;
    /* Highest TSecr of the client, P's clock; only if offset_known */
    bool floor_known;
    uint32_t floor;

    FlowFin guest_fin;          /* in the numbers of S */
    FlowFin peer_fin;
} Flow;

typedef QTAILQ_HEAD(FlowList, Flow) FlowList;

struct ColoRewrite {
    uint32_t max_flows;
    int64_t silence_ms[FLOW__MAX];
    GHashTable *flows;          /* Flow.key -> Flow, owned */
    FlowList lists[FLOW__MAX];  /* the one silent for longest is first */
    int64_t now_ms;
    ColoRewriteStats stats;
};

ColoRewrite *colo_rewrite_new(uint32_t max_flows, uint64_t idle_ms)
{
    ColoRewrite *r = g_new0(ColoRewrite, 1);

    idle_ms = MIN(idle_ms, INT64_MAX);
    r->max_flows = MAX(max_flows, 1);
    r->silence_ms[FLOW_HANDSHAKE] = MIN(idle_ms, COLO_REWRITE_HANDSHAKE_MS);
    r->silence_ms[FLOW_OPEN] = idle_ms;
    r->silence_ms[FLOW_CLOSING] = MIN(idle_ms, COLO_REWRITE_CLOSING_MS);
    r->flows = g_hash_table_new_full(colo_flow_key_hash, colo_flow_key_equal,
                                     NULL, g_free);
    for (FlowState s = 0; s < FLOW__MAX; s++) {
        QTAILQ_INIT(&r->lists[s]);
    }
    return r;
}

void colo_rewrite_free(ColoRewrite *r)
{
    if (r) {
        g_hash_table_unref(r->flows);
        g_free(r);
    }
}

const ColoRewriteStats *colo_rewrite_stats(const ColoRewrite *r)
{
    return &r->stats;
}

/* The table */

static void flow_enlist(ColoRewrite *r, Flow *f, FlowState state)
{
    f->state = state;
    QTAILQ_INSERT_TAIL(&r->lists[state], f, next);
    r->stats.flows_open += state == FLOW_OPEN;
}

static void flow_delist(ColoRewrite *r, Flow *f)
{
    QTAILQ_REMOVE(&r->lists[f->state], f, next);
    r->stats.flows_open -= f->state == FLOW_OPEN;
}

static void flow_set_state(ColoRewrite *r, Flow *f, FlowState state)
{
    if (f->state != state) {
        flow_delist(r, f);
        flow_enlist(r, f, state);
    }
}

static void flow_touch(ColoRewrite *r, Flow *f)
{
    f->last_ms = r->now_ms;
    flow_delist(r, f);
    flow_enlist(r, f, f->state);
}

static void flow_forget(ColoRewrite *r, Flow *f)
{
    flow_delist(r, f);
    r->stats.flows--;
    g_hash_table_remove(r->flows, &f->key);
}

static bool table_is_full(const ColoRewrite *r)
{
    return r->stats.flows >= r->max_flows;
}

static void evict_one(ColoRewrite *r)
{
    static const FlowState order[] = {
        FLOW_CLOSING, FLOW_HANDSHAKE, FLOW_OPEN,
    };

    for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
        Flow *f = QTAILQ_FIRST(&r->lists[order[i]]);

        if (f) {
            flow_forget(r, f);
            r->stats.evicted++;
            return;
        }
    }
}

static Flow *flow_add(ColoRewrite *r, const ColoFlowKey *key, FlowState state)
{
    Flow *f;

    if (table_is_full(r)) {
        evict_one(r);
    }
    f = g_new0(Flow, 1);
    f->key = *key;
    f->last_ms = r->now_ms;
    g_hash_table_insert(r->flows, &f->key, f);
    flow_enlist(r, f, state);
    r->stats.flows++;
    return f;
}

static void advance_clock(ColoRewrite *r, int64_t now_ms)
{
    r->now_ms = MAX(r->now_ms, now_ms);
}

void colo_rewrite_tick(ColoRewrite *r, int64_t now_ms)
{
    advance_clock(r, now_ms);
    for (FlowState s = 0; s < FLOW__MAX; s++) {
        Flow *f;

        while ((f = QTAILQ_FIRST(&r->lists[s])) &&
               r->now_ms - f->last_ms >= r->silence_ms[s]) {
            flow_forget(r, f);
            r->stats.expired++;
        }
    }
}

/*
 * What is of use after a load is the floor alone: at offset zero there is
 * nothing else to change.  A flow that is not there counts as offset zero.
 */
static void flow_load(ColoRewrite *r, Flow *f)
{
    if (!f->floor_known) {
        flow_forget(r, f);
        return;
    }
    f->guest_fin.end -= f->offset;
    f->offset = 0;
    f->ts_offset = 0;
    f->sent_syn = false;
    f->sent_syn_ack = false;
    f->tsval_known = false;
}

void colo_rewrite_load(ColoRewrite *r)
{
    for (FlowState s = 0; s < FLOW__MAX; s++) {
        Flow *f, *tmp;

        QTAILQ_FOREACH_SAFE(f, &r->lists[s], next, tmp) {
            flow_load(r, f);
        }
    }
    r->stats.loads++;
}

/* Handing it on, see colo_rewrite_export() */

#define EXPORT_FLOOR    1

static void encode_fin(const FlowFin *fin, uint8_t *out)
{
    stl_be_p(out, fin->state);
    stl_be_p(out + 4, fin->end);
}

static bool decode_fin(const uint8_t *in, FlowFin *fin)
{
    uint32_t state = ldl_be_p(in);

    fin->state = state;
    fin->end = ldl_be_p(in + 4);
    return state <= FIN_ACKED;
}

static void encode_flow(const Flow *f, uint8_t out[COLO_REWRITE_EXPORT_LEN])
{
    memcpy(out, f->key.src, 16);
    memcpy(out + 16, f->key.dst, 16);
    stw_be_p(out + 32, f->key.vlan[0]);
    stw_be_p(out + 34, f->key.vlan[1]);
    stw_be_p(out + 36, f->key.ethertype);
    stw_be_p(out + 38, f->key.sport);
    stw_be_p(out + 40, f->key.dport);
    out[42] = f->floor_known ? EXPORT_FLOOR : 0;
    out[43] = f->state;
    stl_be_p(out + 44, f->offset);
    stl_be_p(out + 48, f->ts_offset);
    stl_be_p(out + 52, f->floor);
    encode_fin(&f->guest_fin, out + 56);
    encode_fin(&f->peer_fin, out + 64);
}

static bool decode_flow(const uint8_t in[COLO_REWRITE_EXPORT_LEN], Flow *f)
{
    memcpy(f->key.src, in, 16);
    memcpy(f->key.dst, in + 16, 16);
    f->key.vlan[0] = lduw_be_p(in + 32);
    f->key.vlan[1] = lduw_be_p(in + 34);
    f->key.ethertype = lduw_be_p(in + 36);
    f->key.sport = lduw_be_p(in + 38);
    f->key.dport = lduw_be_p(in + 40);
    f->key.proto = IP_PROTO_TCP;
    f->key.kind = COLO_PACKET_TCP;
    f->floor_known = in[42] & EXPORT_FLOOR;
    f->state = in[43];
    f->offset = ldl_be_p(in + 44);
    f->ts_offset = ldl_be_p(in + 48);
    f->floor = ldl_be_p(in + 52);
    return !(in[42] & ~EXPORT_FLOOR) &&
           (f->state == FLOW_OPEN || f->state == FLOW_CLOSING) &&
           decode_fin(in + 56, &f->guest_fin) &&
           decode_fin(in + 64, &f->peer_fin);
}

GByteArray *colo_rewrite_export(const ColoRewrite *r)
{
    GByteArray *out = g_byte_array_new();
    uint8_t buf[COLO_REWRITE_EXPORT_LEN];
    Flow *f;

    for (FlowState s = FLOW_OPEN; s <= FLOW_CLOSING; s++) {
        QTAILQ_FOREACH(f, &r->lists[s], next) {
            if (f->offset_known && (f->offset || f->ts_offset)) {
                encode_flow(f, buf);
                g_byte_array_append(out, buf, sizeof(buf));
            }
        }
    }
    return out;
}

bool colo_rewrite_import(ColoRewrite *r, const uint8_t *buf, size_t len,
                         int64_t now_ms)
{
    if (len % COLO_REWRITE_EXPORT_LEN) {
        return false;
    }
    for (size_t pos = 0; pos < len; pos += COLO_REWRITE_EXPORT_LEN) {
        Flow check = { 0 };

        if (!decode_flow(buf + pos, &check)) {
            return false;
        }
    }
    advance_clock(r, now_ms);
    for (size_t pos = 0; pos < len; pos += COLO_REWRITE_EXPORT_LEN) {
        Flow in = { 0 };
        Flow *f;

        decode_flow(buf + pos, &in);
        f = g_hash_table_lookup(r->flows, &in.key);
        if (f) {
            flow_forget(r, f);
        }
        f = flow_add(r, &in.key, in.state);
        f->offset_known = true;
        f->offset = in.offset;
        f->ts_offset = in.ts_offset;
        f->floor_known = in.floor_known;
        f->floor = in.floor;
        f->guest_fin = in.guest_fin;
        f->peer_fin = in.peer_fin;
    }
    return true;
}

/* Both directions */

static bool fins_are_over(const Flow *f)
{
    return f->guest_fin.state == FIN_ACKED && f->peer_fin.state == FIN_ACKED;
}

/* @seq and @ack in the same numbers as the ends in @own and @other */
static void note_end(ColoRewrite *r, Flow *f, const ColoPacket *p,
                     uint32_t seq, uint32_t ack, FlowFin *own, FlowFin *other)
{
    if (p->tcp_flags & COLO_TCP_RST) {
        flow_set_state(r, f, FLOW_CLOSING);
        return;
    }
    if ((p->tcp_flags & COLO_TCP_FIN) && own->state != FIN_ACKED) {
        own->state = FIN_SENT;
        own->end = seq + colo_packet_seq_len(p);
    }
    /* Nothing follows a FIN: what acknowledges it cannot be later */
    if ((p->tcp_flags & COLO_TCP_ACK) && other->state == FIN_SENT &&
        ack == other->end) {
        other->state = FIN_ACKED;
    }
    if (fins_are_over(f)) {
        flow_set_state(r, f, FLOW_CLOSING);
    }
}

/* From the guest */

static bool is_new_syn(const Flow *f, const ColoPacket *p)
{
    if (!f->sent_syn && !f->sent_syn_ack) {
        return true;
    }
    return p->seq != f->isn ||
           ((p->tcp_flags & COLO_TCP_ACK) && f->sent_syn_ack &&
            p->ack != f->peer_next);
}

/* Forget the connection that had the same addresses and ports before */
static void flow_restart(ColoRewrite *r, Flow *f)
{
    f->sent_syn = false;
    f->sent_syn_ack = false;
    f->offset_known = false;
    f->offset = 0;
    f->ts_offset = 0;
    f->tsval_known = false;
    f->floor_known = false;
    f->guest_fin.state = FIN_NONE;
    f->peer_fin.state = FIN_NONE;
    flow_set_state(r, f, FLOW_HANDSHAKE);
}

static Flow *note_syn(ColoRewrite *r, Flow *f, const ColoPacket *p)
{
    if (!f) {
        f = flow_add(r, &p->key, FLOW_HANDSHAKE);
    } else if (is_new_syn(f, p)) {
        flow_restart(r, f);
    }
    f->isn = p->seq;
    f->syn_payload = p->payload_len;
    if (p->tcp_flags & COLO_TCP_ACK) {
        f->sent_syn_ack = true;
        f->peer_next = p->ack;
        f->syn_window = p->window;
    } else {
        f->sent_syn = true;
    }
    return f;
}

/*
 * A connection that S did not open by itself is at offset zero, but its clock
 * has to be looked after.  None that is known makes room for it.
 */
static bool worth_adopting(const ColoRewrite *r, uint8_t tcp_flags)
{
    return (tcp_flags & COLO_TCP_ACK) &&
           !(tcp_flags & (COLO_TCP_SYN | COLO_TCP_RST)) && !table_is_full(r);
}

static Flow *flow_adopt(ColoRewrite *r, const ColoPacket *p)
{
    Flow *f;

    if (!p->ts_off || !worth_adopting(r, p->tcp_flags)) {
        return NULL;
    }
    f = flow_add(r, &p->key, FLOW_OPEN);
    f->offset_known = true;
    return f;
}

/* The guest talks on: unless both FINs say so, this was not the end */
static void reopen(ColoRewrite *r, Flow *f, const ColoPacket *p)
{
    if (f->state == FLOW_CLOSING && !(p->tcp_flags & COLO_TCP_RST)) {
        flow_set_state(r, f, f->offset_known ? FLOW_OPEN : FLOW_HANDSHAKE);
    }
}

static bool map_tsval(ColoRewrite *r, Flow *f, ColoPacket *p)
{
    uint32_t tsval, mapped;

    if (!p->ts_off) {
        return false;
    }
    tsval = colo_packet_tsval(p);
    if (!f->tsval_known) {
        f->tsval_known = true;
        f->tsval_first = tsval;
        f->tsval_latest = tsval;
    } else if (colo_seq_lt(f->tsval_latest, tsval)) {
        f->tsval_latest = tsval;
    }
    mapped = tsval - f->ts_offset;
    if (f->floor_known && colo_seq_lt(mapped, f->floor)) {
        mapped = f->floor;
    }
    if (mapped == tsval) {
        return false;
    }
    colo_packet_set_tsval(p, mapped);
    r->stats.rewritten_tsvals++;
    return true;
}

/*
 * A reset that answers a segment without ACK has seq 0, which belongs to
 * nobody's numbers.
 */
static bool seq_is_void(const ColoPacket *p)
{
    return (p->tcp_flags & COLO_TCP_RST) && (p->tcp_flags & COLO_TCP_ACK) &&
           p->seq == 0;
}

bool colo_rewrite_from_guest(ColoRewrite *r, ColoPacket *p, int64_t now_ms)
{
    bool changed;
    Flow *f;

    advance_clock(r, now_ms);
    if (p->kind != COLO_PACKET_TCP) {
        return false;
    }
    f = g_hash_table_lookup(r->flows, &p->key);
    if ((p->tcp_flags & COLO_TCP_SYN) && !(p->tcp_flags & COLO_TCP_RST)) {
        f = note_syn(r, f, p);
    } else if (!f) {
        f = flow_adopt(r, p);
    }
    if (!f) {
        return false;
    }

    flow_touch(r, f);
    reopen(r, f, p);
    note_end(r, f, p, p->seq, p->ack, &f->guest_fin, &f->peer_fin);
    changed = map_tsval(r, f, p);
    if (f->offset && !seq_is_void(p)) {
        colo_packet_set_seq(p, p->seq - f->offset);
        r->stats.rewritten_seqs++;
        changed = true;
    }
    r->stats.rewritten_packets += changed;
    return changed;
}

/* To the guest */

/* May @p, which has ACK and not RST, teach the ISN of P? */
static bool may_teach(const Flow *f, const ColoPacket *p)
{
    if (p->tcp_flags & COLO_TCP_SYN) {
        return f->sent_syn && !f->syn_payload;
    }
    return f->sent_syn_ack && p->seq - f->peer_next <= f->syn_window;
}

static void learn(ColoRewrite *r, Flow *f, const ColoPacket *p)
{
    if (f->offset_known || (p->tcp_flags & COLO_TCP_RST) ||
        !may_teach(f, p)) {
        return;
    }
    f->offset = f->isn + 1 - p->ack;
    f->offset_known = true;
    if (p->ts_off && f->tsval_known && colo_packet_tsecr(p)) {
        f->ts_offset = f->tsval_first - colo_packet_tsecr(p);
    }
    flow_set_state(r, f, FLOW_OPEN);
    r->stats.learned++;
}

static bool map_acks(ColoRewrite *r, Flow *f, ColoPacket *p)
{
    if (!f->offset) {
        return false;
    }
    colo_packet_set_ack(p, p->ack + f->offset);
    for (uint32_t i = 0; i < p->sack_edges; i++) {
        colo_packet_set_sack_edge(p, i, colo_packet_sack_edge(p, i) +
                                        f->offset);
    }
    r->stats.rewritten_acks++;
    return true;
}

/*
 * The guest's connect is refused: it believes that only if its own SYN is
 * acknowledged.
 */
static bool map_refusal(ColoRewrite *r, Flow *f, ColoPacket *p)
{
    uint32_t ack = f->isn + f->syn_payload + 1;

    if (f->offset_known || !f->sent_syn || !(p->tcp_flags & COLO_TCP_RST) ||
        p->ack == ack) {
        return false;
    }
    colo_packet_set_ack(p, ack);
    r->stats.rewritten_acks++;
    return true;
}

static bool map_tsecr(ColoRewrite *r, Flow *f, ColoPacket *p)
{
    uint32_t tsecr, mapped;

    if (!p->ts_off) {
        return false;
    }
    tsecr = colo_packet_tsecr(p);
    if (tsecr == 0) {
        /* Nothing to echo */
        return false;
    }
    if (f->offset_known && !(p->tcp_flags & COLO_TCP_RST) &&
        (!f->floor_known || colo_seq_lt(f->floor, tsecr))) {
        f->floor_known = true;
        f->floor = tsecr;
    }
    mapped = tsecr + f->ts_offset;
    if (!f->tsval_known) {
        /* Nothing to hold it against */
    } else if (colo_seq_lt(f->tsval_latest, mapped)) {
        mapped = f->tsval_latest;
    } else if ((p->tcp_flags & COLO_TCP_SYN) && f->sent_syn &&
               colo_seq_lt(mapped, f->tsval_first)) {
        mapped = f->tsval_first;
    }
    if (mapped == tsecr) {
        return false;
    }
    colo_packet_set_tsecr(p, mapped);
    r->stats.rewritten_tsecrs++;
    return true;
}

bool colo_rewrite_to_guest(ColoRewrite *r, ColoPacket *p, int64_t now_ms)
{
    bool changed = false;
    ColoFlowKey key;
    Flow *f;

    advance_clock(r, now_ms);
    if (p->kind != COLO_PACKET_TCP) {
        return false;
    }
    colo_flow_key_reverse(&p->key, &key);
    f = g_hash_table_lookup(r->flows, &key);
    if (!f) {
        return false;
    }

    flow_touch(r, f);
    if (p->tcp_flags & COLO_TCP_ACK) {
        learn(r, f, p);
        changed |= map_acks(r, f, p);
        changed |= map_refusal(r, f, p);
        changed |= map_tsecr(r, f, p);
    }
    /* ack is in the numbers of S by now */
    note_end(r, f, p, p->seq, p->ack, &f->peer_fin, &f->guest_fin);
    r->stats.rewritten_packets += changed;
    return changed;
}

/* Is it worth a copy? */

typedef struct Head {
    const uint8_t *data;
    size_t len;
    size_t l3;
    size_t l4;
    ColoFlowKey key;
} Head;

typedef enum Glance {
    GLANCE_NOT_TCP,
    GLANCE_TCP,                 /* Head has all of its fields */
    GLANCE_UNCLEAR,
} Glance;

static Glance glance_ipv4(Head *h)
{
    const uint8_t *ip = h->data + h->l3;
    size_t left = h->len - h->l3;

    /* Fragments have no connection */
    if (left < 20 || ip[9] != IP_PROTO_TCP ||
        (lduw_be_p(ip + 6) & 0x3fff)) {
        return GLANCE_NOT_TCP;
    }
    memcpy(h->key.src, ip + 12, 4);
    memcpy(h->key.dst, ip + 16, 4);
    h->l4 = h->l3 + (ip[0] & 0xf) * 4;
    return GLANCE_TCP;
}

static Glance glance_ipv6(Head *h)
{
    const uint8_t *ip = h->data + h->l3;
    size_t left = h->len - h->l3;

    if (left < 40) {
        return GLANCE_NOT_TCP;
    }
    switch (ip[6]) {
    case IP_PROTO_TCP:
        break;
    case 17:    /* UDP */
    case 58:    /* ICMPv6 */
        return GLANCE_NOT_TCP;
    default:
        /* May be an extension header with TCP behind it */
        return GLANCE_UNCLEAR;
    }
    memcpy(h->key.src, ip + 8, 16);
    memcpy(h->key.dst, ip + 24, 16);
    h->l4 = h->l3 + 40;
    return GLANCE_TCP;
}

static Glance glance(Head *h, size_t vnet_hdr_len)
{
    size_t off = vnet_hdr_len + ETH_TYPE_OFFSET;
    Glance what = GLANCE_NOT_TCP;
    uint16_t type = 0;

    memset(h->key.vlan, 0xff, sizeof(h->key.vlan));     /* no such tag */
    for (int tag = 0; off + 2 <= h->len; tag++, off += 4) {
        type = lduw_be_p(h->data + off);
        if ((type != ETH_TYPE_8021Q && type != ETH_TYPE_8021AD) ||
            tag == COLO_PACKET_VLANS || off + 4 > h->len) {
            break;
        }
        h->key.vlan[tag] = lduw_be_p(h->data + off + 2) & 0xfff;
    }
    h->l3 = off + 2;
    if (h->l3 > h->len) {
        return GLANCE_NOT_TCP;
    }
    h->key.ethertype = type;
    if (type == ETH_TYPE_IPV4) {
        what = glance_ipv4(h);
    } else if (type == ETH_TYPE_IPV6) {
        what = glance_ipv6(h);
    }
    if (what != GLANCE_TCP) {
        return what;
    }
    if (h->l4 + TCP_HDR_MIN > h->len) {
        return GLANCE_NOT_TCP;
    }
    h->key.sport = lduw_be_p(h->data + h->l4);
    h->key.dport = lduw_be_p(h->data + h->l4 + 2);
    h->key.proto = IP_PROTO_TCP;
    h->key.kind = COLO_PACKET_TCP;
    return GLANCE_TCP;
}

bool colo_rewrite_wants(const ColoRewrite *r, const uint8_t *head, size_t len,
                        uint32_t vnet_hdr_len, bool from_guest)
{
    Head h = { .data = head, .len = len };
    ColoFlowKey reverse;
    const uint8_t *tcp;

    if (!from_guest && r->stats.flows == 0) {
        return false;
    }
    switch (glance(&h, vnet_hdr_len)) {
    case GLANCE_NOT_TCP:
        return false;
    case GLANCE_UNCLEAR:
        return true;
    case GLANCE_TCP:
        break;
    }
    if (!from_guest) {
        colo_flow_key_reverse(&h.key, &reverse);
        return g_hash_table_contains(r->flows, &reverse);
    }
    tcp = head + h.l4;
    return (tcp[13] & COLO_TCP_SYN) ||
           g_hash_table_contains(r->flows, &h.key) ||
           /* Longer than the bare header: may have timestamps */
           ((tcp[12] >> 4) * 4 > TCP_HDR_MIN &&
            worth_adopting(r, tcp[13]));
}
