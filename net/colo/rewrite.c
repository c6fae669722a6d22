/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: TCP of a secondary guest, seen as if the primary had sent it.
 *
 * Secondary, pure.  The theory of operation is in the header.
 */

#include "qemu/osdep.h"
#include "rewrite-int.h"

/* Of the sweep with each packet, and with each tick */
#define SWEEP_STEPS         2
#define SWEEP_STEPS_TICK    256

#define TCP_HDR_MIN         20

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
    for (ColoRewriteState s = 0; s < FLOW__MAX; s++) {
        QTAILQ_INIT(&r->lists[s]);
    }
    colo_rewrite_ports_init(r);
    return r;
}

void colo_rewrite_free(ColoRewrite *r)
{
    if (r) {
        colo_rewrite_ports_destroy(r);
        g_hash_table_unref(r->flows);
        g_free(r);
    }
}

const ColoRewriteStats *colo_rewrite_stats(const ColoRewrite *r)
{
    return &r->stats;
}

/* The table */

/* A load has ended it, and nobody has noticed yet */
static bool is_over(const ColoRewrite *r, const ColoRewriteFlow *f)
{
    return colo_rewrite_is_stale(r, f) && !f->floor_known;
}

static void flow_enlist(ColoRewrite *r, ColoRewriteFlow *f,
                        ColoRewriteState state)
{
    f->state = state;
    QTAILQ_INSERT_TAIL(&r->lists[state], f, next);
    r->stats.flows_open += state == FLOW_OPEN;
    r->lasting_open += state == FLOW_OPEN && f->floor_known;
}

static void flow_delist(ColoRewrite *r, ColoRewriteFlow *f)
{
    if (r->sweep == f) {
        r->sweep = QTAILQ_NEXT(f, next);
    }
    QTAILQ_REMOVE(&r->lists[f->state], f, next);
    r->stats.flows_open -= f->state == FLOW_OPEN && !is_over(r, f);
    r->lasting_open -= f->state == FLOW_OPEN && f->floor_known;
}

void colo_rewrite_set_floor_known(ColoRewrite *r, ColoRewriteFlow *f,
                                  bool known)
{
    int change = known - f->floor_known;

    f->floor_known = known;
    r->lasting += change;
    r->lasting_open += f->state == FLOW_OPEN ? change : 0;
}

static void flow_set_state(ColoRewrite *r, ColoRewriteFlow *f,
                           ColoRewriteState state)
{
    if (f->state != state) {
        flow_delist(r, f);
        flow_enlist(r, f, state);
    }
}

static void flow_touch(ColoRewrite *r, ColoRewriteFlow *f)
{
    f->last_ms = r->now_ms;
    flow_delist(r, f);
    flow_enlist(r, f, f->state);
}

void colo_rewrite_forget(ColoRewrite *r, ColoRewriteFlow *f)
{
    flow_delist(r, f);
    r->stats.flows -= !is_over(r, f);
    r->stale -= colo_rewrite_is_stale(r, f);
    r->lasting -= f->floor_known;
    colo_rewrite_set_outer(r, f, f->key.sport);
    g_hash_table_remove(r->flows, &f->key);
}

/*
 * What a load leaves of a connection: the floor alone, for at offset zero and
 * without a mapping there is nothing else to change.  A flow that is not there
 * counts as such a one.
 */
static void flow_load(ColoRewriteFlow *f)
{
    f->key = f->outer;
    f->guest_fin.end -= f->offset;
    f->offset = 0;
    f->ts_offset = 0;
    f->sent_syn = false;
    f->sent_syn_ack = false;
    f->tsval_known = false;
}

/*
 * @f is stale.  Its new key may be the old one of another, which then is stale
 * as well: who has a key now was looked for before, by either key.
 */
static void settle_flow(ColoRewrite *r, ColoRewriteFlow *f)
{
    g_hash_table_steal(r->flows, &f->key);
    while (f) {
        ColoRewriteFlow *other;

        r->stale--;
        if (colo_rewrite_is_mapped(f)) {
            g_hash_table_remove(r->outers, &f->outer);
        }
        if (!f->floor_known) {
            flow_delist(r, f);
            g_free(f);
            break;
        }
        flow_load(f);
        f->generation = r->generation;
        other = g_hash_table_lookup(r->flows, &f->key);
        if (other) {
            g_assert(colo_rewrite_is_stale(r, other));
            g_hash_table_steal(r->flows, &other->key);
        }
        g_hash_table_insert(r->flows, &f->key, f);
        f = other;
    }
}

static void settle_in(ColoRewrite *r, GHashTable *table,
                      const ColoFlowKey *key)
{
    ColoRewriteFlow *f = g_hash_table_lookup(table, key);

    if (f && colo_rewrite_is_stale(r, f)) {
        settle_flow(r, f);
    }
}

void colo_rewrite_settle(ColoRewrite *r, const ColoFlowKey *key)
{
    if (r->stale) {
        settle_in(r, r->flows, key);
        settle_in(r, r->outers, key);
    }
}

ColoRewriteFlow *colo_rewrite_find_inner(ColoRewrite *r,
                                         const ColoFlowKey *key)
{
    colo_rewrite_settle(r, key);
    return g_hash_table_lookup(r->flows, key);
}

/* Go on through the lists, as long as there is something stale */
static void sweep(ColoRewrite *r, unsigned steps)
{
    for (; steps && r->stale; steps--) {
        ColoRewriteFlow *f = r->sweep;

        if (!f) {
            r->sweep_list = (r->sweep_list + 1) % FLOW__MAX;
            r->sweep = QTAILQ_FIRST(&r->lists[r->sweep_list]);
            continue;
        }
        r->sweep = QTAILQ_NEXT(f, next);
        if (colo_rewrite_is_stale(r, f)) {
            settle_flow(r, f);
        }
    }
}

static bool table_is_full(const ColoRewrite *r)
{
    return r->stats.flows >= r->max_flows;
}

static void evict_one(ColoRewrite *r)
{
    static const ColoRewriteState order[] = {
        FLOW_CLOSING, FLOW_HANDSHAKE, FLOW_OPEN,
    };

    for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
        ColoRewriteFlow *f = QTAILQ_FIRST(&r->lists[order[i]]);

        if (f) {
            r->stats.evicted += !is_over(r, f);
            colo_rewrite_forget(r, f);
            return;
        }
    }
}

ColoRewriteFlow *colo_rewrite_add(ColoRewrite *r, const ColoFlowKey *key,
                                  uint16_t port, ColoRewriteState state)
{
    ColoRewriteFlow *f;

    while (g_hash_table_size(r->flows) >= r->max_flows) {
        if (table_is_full(r)) {
            evict_one(r);
        } else {
            sweep(r, SWEEP_STEPS);
        }
    }
    f = g_new0(ColoRewriteFlow, 1);
    f->key = *key;
    f->outer = *key;
    f->last_ms = r->now_ms;
    f->generation = r->generation;
    g_hash_table_insert(r->flows, &f->key, f);
    colo_rewrite_set_outer(r, f, port);
    flow_enlist(r, f, state);
    r->stats.flows++;
    return f;
}

uint32_t colo_rewrite_max_flows(const ColoRewrite *r)
{
    return r->max_flows;
}

void colo_rewrite_set_max_flows(ColoRewrite *r, uint32_t max_flows)
{
    r->max_flows = max_flows;
}

void colo_rewrite_set_live(ColoRewrite *r)
{
    r->live = true;
    /* What is in its handshake may learn an offset yet */
    r->maps |= !QTAILQ_EMPTY(&r->lists[FLOW_HANDSHAKE]);
}

void colo_rewrite_advance_clock(ColoRewrite *r, int64_t now_ms)
{
    r->now_ms = MAX(r->now_ms, now_ms);
}

bool colo_rewrite_needs_tick(const ColoRewrite *r)
{
    return g_hash_table_size(r->flows) || r->opens_count;
}

void colo_rewrite_tick(ColoRewrite *r, int64_t now_ms)
{
    colo_rewrite_advance_clock(r, now_ms);
    for (ColoRewriteState s = 0; s < FLOW__MAX; s++) {
        ColoRewriteFlow *f;

        while ((f = QTAILQ_FIRST(&r->lists[s])) &&
               r->now_ms - f->last_ms >= r->silence_ms[s]) {
            r->stats.expired += !is_over(r, f);
            colo_rewrite_forget(r, f);
        }
    }
    colo_rewrite_expire_opens(r);
    sweep(r, SWEEP_STEPS_TICK);
}

void colo_rewrite_load(ColoRewrite *r)
{
    r->generation++;
    r->stale = g_hash_table_size(r->flows);
    r->stats.flows = r->lasting;
    r->stats.flows_open = r->lasting_open;
    r->maps = false;
    colo_rewrite_forget_opens(r);
    r->stats.loads++;
}

/* Both directions */

static bool fins_are_over(const ColoRewriteFlow *f)
{
    return f->guest_fin.state == FIN_ACKED && f->peer_fin.state == FIN_ACKED;
}

/* @seq and @ack in the same numbers as the ends in @own and @other */
static void note_end(ColoRewrite *r, ColoRewriteFlow *f, const ColoPacket *p,
                     uint32_t seq, uint32_t ack, ColoRewriteFin *own,
                     ColoRewriteFin *other)
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

bool colo_rewrite_is_new_syn(const ColoRewriteFlow *f, const ColoPacket *p)
{
    if (!f->sent_syn && !f->sent_syn_ack) {
        return true;
    }
    return p->seq != f->isn ||
           ((p->tcp_flags & COLO_TCP_ACK) && f->sent_syn_ack &&
            p->ack != f->peer_next);
}

/* Forget the connection that had the same addresses and ports before */
static void flow_restart(ColoRewrite *r, ColoRewriteFlow *f)
{
    f->sent_syn = false;
    f->sent_syn_ack = false;
    f->offset_known = false;
    f->offset = 0;
    f->ts_offset = 0;
    f->tsval_known = false;
    colo_rewrite_set_floor_known(r, f, false);
    f->guest_fin.state = FIN_NONE;
    f->peer_fin.state = FIN_NONE;
    flow_set_state(r, f, FLOW_HANDSHAKE);
}

/* Returns NULL if there is no port for a connection that it begins */
static ColoRewriteFlow *note_syn(ColoRewrite *r, ColoRewriteFlow *f,
                                 const ColoPacket *p)
{
    if (!f || colo_rewrite_is_new_syn(f, p)) {
        /* Who answers is known by the port that was asked */
        uint16_t port = f ? f->outer.sport : p->key.sport;

        if (!(p->tcp_flags & COLO_TCP_ACK) &&
            !colo_rewrite_connect(r, f, &p->key, &port)) {
            return NULL;
        }
        if (f) {
            flow_restart(r, f);
            colo_rewrite_set_outer(r, f, port);
        } else {
            f = colo_rewrite_add(r, &p->key, port, FLOW_HANDSHAKE);
        }
        f->own = r->live;
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
bool colo_rewrite_may_adopt(const ColoRewrite *r, uint8_t tcp_flags)
{
    return (tcp_flags & COLO_TCP_ACK) &&
           !(tcp_flags & (COLO_TCP_SYN | COLO_TCP_RST)) && !table_is_full(r);
}

static ColoRewriteFlow *flow_adopt(ColoRewrite *r, const ColoPacket *p)
{
    ColoRewriteFlow *f;

    if (!p->ts_off || !colo_rewrite_may_adopt(r, p->tcp_flags)) {
        return NULL;
    }
    f = colo_rewrite_add(r, &p->key, p->key.sport, FLOW_OPEN);
    f->offset_known = true;
    return f;
}

/* The guest talks on: unless both FINs say so, this was not the end */
static void reopen(ColoRewrite *r, ColoRewriteFlow *f, const ColoPacket *p)
{
    if (f->state == FLOW_CLOSING && !(p->tcp_flags & COLO_TCP_RST)) {
        flow_set_state(r, f, f->offset_known ? FLOW_OPEN : FLOW_HANDSHAKE);
    }
}

static bool map_tsval(ColoRewrite *r, ColoRewriteFlow *f, ColoPacket *p)
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
    ColoRewriteFlow *f;

    colo_rewrite_advance_clock(r, now_ms);
    sweep(r, SWEEP_STEPS);
    if (p->kind == COLO_PACKET_DATAGRAM) {
        return colo_rewrite_icmp_from_guest(r, p);
    }
    if (p->kind != COLO_PACKET_TCP || p->bound == COLO_TCP_SIGNED ||
        colo_rewrite_must_drop(r, p)) {
        return false;
    }
    f = colo_rewrite_find_inner(r, &p->key);
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
    if (colo_rewrite_is_mapped(f)) {
        colo_packet_set_sport(p, f->outer.sport);
        r->stats.rewritten_ports++;
        changed = true;
    }
    r->stats.rewritten_packets += changed;
    return changed;
}

/* To the guest */

/* May @p, which has ACK and not RST, teach the ISN of P? */
static bool may_teach(const ColoRewriteFlow *f, const ColoPacket *p)
{
    if (p->tcp_flags & COLO_TCP_SYN) {
        return f->sent_syn && !f->syn_payload;
    }
    return f->sent_syn_ack && p->seq - f->peer_next <= f->syn_window;
}

static void learn(ColoRewrite *r, ColoRewriteFlow *f, const ColoPacket *p)
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
    r->maps |= f->offset || f->ts_offset;
    flow_set_state(r, f, FLOW_OPEN);
    r->stats.learned++;
}

static bool map_acks(ColoRewrite *r, ColoRewriteFlow *f, ColoPacket *p)
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
static bool map_refusal(ColoRewrite *r, ColoRewriteFlow *f, ColoPacket *p)
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

static bool map_tsecr(ColoRewrite *r, ColoRewriteFlow *f, ColoPacket *p)
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
        colo_rewrite_set_floor_known(r, f, true);
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

/*
 * May @tcp_flags be of the answer to a connect that S has by a load?  Its clock
 * is behind that of P then, by nobody knows how much until it speaks, and it
 * resets what it connects if the echo is of the future.
 */
static bool may_blank_echo(const ColoRewrite *r, uint8_t tcp_flags)
{
    return r->generation && (tcp_flags & COLO_TCP_SYN) &&
           (tcp_flags & COLO_TCP_ACK) && !(tcp_flags & COLO_TCP_RST);
}

static bool blank_echo(ColoRewrite *r, const ColoRewriteFlow *f, ColoPacket *p)
{
    if ((f && f->tsval_known) || !may_blank_echo(r, p->tcp_flags) ||
        !p->ts_off || colo_packet_tsecr(p) == 0) {
        return false;
    }
    colo_packet_set_tsecr(p, 0);
    r->stats.rewritten_tsecrs++;
    return true;
}

bool colo_rewrite_to_guest(ColoRewrite *r, ColoPacket *p, int64_t now_ms)
{
    bool changed = false;
    ColoFlowKey key;
    ColoRewriteFlow *f;

    colo_rewrite_advance_clock(r, now_ms);
    sweep(r, SWEEP_STEPS);
    if (p->kind == COLO_PACKET_DATAGRAM) {
        return colo_rewrite_icmp_to_guest(r, p);
    }
    if (p->kind != COLO_PACKET_TCP || p->bound == COLO_TCP_SIGNED) {
        return false;
    }
    colo_flow_key_reverse(&p->key, &key);
    f = colo_rewrite_find_outer(r, &key);
    if (!f) {
        changed = may_blank_echo(r, p->tcp_flags) &&
                  !colo_rewrite_must_drop_input(r, p) &&
                  blank_echo(r, NULL, p);
        r->stats.rewritten_packets += changed;
        return changed;
    }

    flow_touch(r, f);
    if (colo_rewrite_is_mapped(f)) {
        colo_packet_set_dport(p, f->key.sport);
        r->stats.rewritten_ports++;
        changed = true;
    }
    if (p->tcp_flags & COLO_TCP_ACK) {
        learn(r, f, p);
        changed |= map_acks(r, f, p);
        changed |= map_refusal(r, f, p);
        changed |= map_tsecr(r, f, p);
        changed |= blank_echo(r, f, p);
    }
    /* ack is in the numbers of S by now */
    note_end(r, f, p, p->seq, p->ack, &f->peer_fin, &f->guest_fin);
    r->stats.rewritten_packets += changed;
    return changed;
}

bool colo_rewrite_undo_to_guest(ColoRewrite *r, ColoPacket *p)
{
    const ColoRewriteFlow *f;
    ColoFlowKey key;
    bool changed = false;

    if (p->kind == COLO_PACKET_DATAGRAM) {
        return colo_rewrite_icmp_undo(r, p);
    }
    if (p->kind != COLO_PACKET_TCP || p->bound == COLO_TCP_SIGNED) {
        return false;
    }
    colo_flow_key_reverse(&p->key, &key);
    f = colo_rewrite_find_inner(r, &key);
    if (!f) {
        return false;
    }
    if (colo_rewrite_is_mapped(f)) {
        colo_packet_set_dport(p, f->outer.sport);
        changed = true;
    }
    if (!(p->tcp_flags & COLO_TCP_ACK)) {
        return changed;
    }
    if (f->offset) {
        colo_packet_set_ack(p, p->ack - f->offset);
        for (uint32_t i = 0; i < p->sack_edges; i++) {
            colo_packet_set_sack_edge(p, i, colo_packet_sack_edge(p, i) -
                                            f->offset);
        }
        changed = true;
    }
    if (f->ts_offset && p->ts_off && colo_packet_tsecr(p)) {
        colo_packet_set_tsecr(p, colo_packet_tsecr(p) - f->ts_offset);
        changed = true;
    }
    return changed;
}

/* Both directions: is it worth a copy? */

/* An ICMP error may be about a segment */
static bool may_quote(const ColoPacket *p)
{
    return p->kind == COLO_PACKET_DATAGRAM &&
           (p->key.proto == COLO_REWRITE_PROTO_ICMP ||
            p->key.proto == COLO_REWRITE_PROTO_ICMPV6) &&
           p->payload_len &&
           (p->l4 >= p->readable ||
            colo_rewrite_icmp_is_error(p->key.proto, p->data[p->l4]));
}

static bool knows_flow(const ColoRewrite *r, const ColoFlowKey *key)
{
    return g_hash_table_contains(r->flows, key) ||
           g_hash_table_contains(r->outers, key);
}

bool colo_rewrite_wants(const ColoRewrite *r, const uint8_t *head,
                        uint32_t len, uint32_t size, uint32_t vnet_hdr_len,
                        bool from_guest)
{
    ColoFlowKey reverse;
    ColoPacket p;

    if (!from_guest && r->stats.flows == 0 && !r->generation) {
        return false;
    }
    if (!colo_packet_parse_head(&p, head, len, size, vnet_hdr_len)) {
        return true;
    }
    if (p.kind != COLO_PACKET_TCP) {
        return may_quote(&p);
    }
    if (!from_guest) {
        colo_flow_key_reverse(&p.key, &reverse);
        return knows_flow(r, &reverse) ||
               may_blank_echo(r, p.tcp_flags);
    }
    return (p.tcp_flags & COLO_TCP_SYN) || knows_flow(r, &p.key) ||
           /* Longer than the bare header: may have timestamps */
           (p.payload - p.l4 > TCP_HDR_MIN &&
            colo_rewrite_may_adopt(r, p.tcp_flags));
}
