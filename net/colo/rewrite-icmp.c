/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: what ICMP errors quote of a secondary guest's connections.
 *
 * Secondary, pure.  An error ("packet too big", say) has the headers of the
 * packet that it is about, and at least the first 8 bytes of a TCP header:
 * ports and seq.  The receiver finds its socket by them and ignores what is not
 * in flight there.  So they are mapped like those of a segment: port and seq of
 * what S sent when the error comes to S, port and ack of what S got when it
 * comes from S.  The checksum of the error is mended, and that of the quoted
 * segment if it is there.
 *
 * Limits: timestamps and SACK edges in quotes stay as they are (nobody looks at
 * them); behind IPv6 extension headers nothing is mapped.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "packet-int.h"
#include "rewrite-int.h"

#define ICMP_ERROR_HDR      8
#define ICMP_SUM            2
#define IP4_FRAG_OFFSET     0x1fff
/* What every error quotes of a TCP header, and where the rest of it is */
#define TCP_QUOTED          8
#define TCP_SEQ             4
#define TCP_ACK             8
#define TCP_FLAGS           13
#define TCP_SUM             16

typedef struct Quote {
    uint32_t tcp;               /* offset */
    uint32_t end;
    ColoFlowKey key;            /* in the direction of the quoted segment */
} Quote;

bool colo_rewrite_icmp_is_error(uint8_t proto, uint8_t type)
{
    if (proto == COLO_REWRITE_PROTO_ICMPV6) {
        return type < 128;
    }
    /* Unreachable, source quench, redirect, time exceeded, parameter problem */
    return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

static bool find_quoted_ipv4(const ColoPacket *p, uint32_t at, Quote *q)
{
    const uint8_t *ip = p->data + at;

    if (q->end - at < sizeof(struct ip_header) ||
        ip[9] != COLO_REWRITE_PROTO_TCP ||
        (lduw_be_p(ip + 6) & IP4_FRAG_OFFSET)) {
        return false;
    }
    memcpy(q->key.src, ip + 12, 4);
    memcpy(q->key.dst, ip + 16, 4);
    q->tcp = at + (ip[0] & 0xf) * 4;
    return (ip[0] & 0xf) * 4 >= sizeof(struct ip_header);
}

static bool find_quoted_ipv6(const ColoPacket *p, uint32_t at, Quote *q)
{
    const uint8_t *ip = p->data + at;

    if (q->end - at < IP6_HDR_LEN ||
        ip[IP6_NEXT] != COLO_REWRITE_PROTO_TCP) {
        return false;
    }
    memcpy(q->key.src, ip + 8, 16);
    memcpy(q->key.dst, ip + 24, 16);
    q->tcp = at + IP6_HDR_LEN;
    return true;
}

/* Is @p an error that quotes a TCP segment? */
static bool find_quote(const ColoPacket *p, Quote *q)
{
    bool ipv4 = p->key.ethertype == ETH_P_IP;
    uint8_t proto = ipv4 ? COLO_REWRITE_PROTO_ICMP : COLO_REWRITE_PROTO_ICMPV6;

    if (p->kind != COLO_PACKET_DATAGRAM || p->key.proto != proto ||
        !colo_rewrite_icmp_is_error(proto, p->data[p->l4])) {
        return false;
    }
    *q = (Quote) { .end = p->payload + p->payload_len };
    if (ipv4 ? !find_quoted_ipv4(p, p->payload, q)
             : !find_quoted_ipv6(p, p->payload, q)) {
        return false;
    }
    if (q->tcp + TCP_QUOTED > q->end) {
        return false;
    }
    memcpy(q->key.vlan, p->key.vlan, sizeof(q->key.vlan));
    q->key.ethertype = p->key.ethertype;
    q->key.sport = lduw_be_p(p->data + q->tcp);
    q->key.dport = lduw_be_p(p->data + q->tcp + 2);
    q->key.proto = COLO_REWRITE_PROTO_TCP;
    q->key.kind = COLO_PACKET_TCP;
    return true;
}

/* Bring the checksum at @sum from what was at a field to what is there now */
static void mend(uint8_t *sum, uint16_t before, uint16_t after)
{
    uint32_t csum = (uint16_t)~lduw_be_p(sum);

    stw_be_p(sum, ~colo_csum_fold(csum + (uint16_t)~before + after));
}

/* All fields, and the quote, are at even offsets from the ICMP header */
static void set16(ColoPacket *p, const Quote *q, uint32_t off, uint16_t value)
{
    uint8_t *field = p->data + q->tcp + off;
    uint8_t *tcp_sum = p->data + q->tcp + TCP_SUM;
    uint8_t *icmp_sum = p->data + p->l4 + ICMP_SUM;
    uint16_t before = lduw_be_p(field), sum_before;

    stw_be_p(field, value);
    mend(icmp_sum, before, value);
    if (q->tcp + TCP_SUM + sizeof(uint16_t) <= q->end) {
        sum_before = lduw_be_p(tcp_sum);
        mend(tcp_sum, before, value);
        mend(icmp_sum, sum_before, lduw_be_p(tcp_sum));
    }
}

static void set32(ColoPacket *p, const Quote *q, uint32_t off, uint32_t value)
{
    set16(p, q, off, value >> 16);
    set16(p, q, off + 2, value);
}

static uint32_t get32(const ColoPacket *p, const Quote *q, uint32_t off)
{
    return ldl_be_p(p->data + q->tcp + off);
}

/* Before the answer to S's first segment only that can be in flight */
static uint32_t seq_of_s(const ColoRewriteFlow *f, uint32_t seq)
{
    return !f->offset_known && (f->sent_syn || f->sent_syn_ack)
           ? f->isn : seq + f->offset;
}

bool colo_rewrite_icmp_to_guest(ColoRewrite *r, ColoPacket *p)
{
    const ColoRewriteFlow *f;
    uint32_t seq;
    Quote q;

    if (!find_quote(p, &q)) {
        return false;
    }
    f = colo_rewrite_find_outer(r, &q.key);
    if (!f) {
        return false;
    }
    seq = get32(p, &q, TCP_SEQ);
    if (!colo_rewrite_is_mapped(f) && seq_of_s(f, seq) == seq) {
        return false;
    }
    set16(p, &q, 0, f->key.sport);
    set32(p, &q, TCP_SEQ, seq_of_s(f, seq));
    r->stats.rewritten_quotes++;
    r->stats.rewritten_packets++;
    return true;
}

bool colo_rewrite_icmp_undo(ColoRewrite *r, ColoPacket *p)
{
    const ColoRewriteFlow *f;
    Quote q;

    if (!find_quote(p, &q)) {
        return false;
    }
    f = colo_rewrite_find_inner(r, &q.key);
    if (!f || (!colo_rewrite_is_mapped(f) && !f->offset)) {
        return false;
    }
    set16(p, &q, 0, f->outer.sport);
    set32(p, &q, TCP_SEQ, get32(p, &q, TCP_SEQ) - f->offset);
    return true;
}

bool colo_rewrite_icmp_from_guest(ColoRewrite *r, ColoPacket *p)
{
    const ColoRewriteFlow *f;
    ColoFlowKey key;
    bool has_ack;
    Quote q;

    if (!find_quote(p, &q)) {
        return false;
    }
    colo_flow_key_reverse(&q.key, &key);
    f = colo_rewrite_find_inner(r, &key);
    has_ack = q.tcp + TCP_FLAGS < q.end &&
              (p->data[q.tcp + TCP_FLAGS] & COLO_TCP_ACK);
    if (!f || (!colo_rewrite_is_mapped(f) && !(has_ack && f->offset))) {
        return false;
    }
    set16(p, &q, 2, f->outer.sport);
    if (has_ack) {
        set32(p, &q, TCP_ACK, get32(p, &q, TCP_ACK) - f->offset);
    }
    r->stats.rewritten_quotes++;
    r->stats.rewritten_packets++;
    return true;
}
