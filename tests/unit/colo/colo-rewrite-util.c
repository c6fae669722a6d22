/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO tests of the rewriter: packets, and what is expected of them.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "colo-rewrite-util.h"

Test *test_new(uint32_t max_flows)
{
    Test *t = g_new0(Test, 1);

    t->r = colo_rewrite_new(max_flows, IDLE_MS);
    t->port = 40000;
    t->inner = 80;
    t->outer = 80;
    t->s = 0x10000000;
    t->p = 0x77000000;
    t->c = 0x33000000;
    return t;
}

void test_free(Test *t)
{
    colo_rewrite_free(t->r);
    g_free(t);
}

uint64_t flows(Test *t)
{
    return colo_rewrite_stats(t->r)->flows;
}

/* Packets */

static uint32_t sum_be(const uint8_t *data, size_t len, uint32_t sum)
{
    for (size_t i = 0; i < len; i++) {
        sum += i & 1 ? data[i] : data[i] << 8;
    }
    return sum;
}

static uint16_t fold(uint32_t sum)
{
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

static uint32_t pseudo_sum(const uint8_t *addrs, size_t addrs_len, size_t len)
{
    return sum_be(addrs, addrs_len, len + 6);
}

static void put16(GByteArray *b, uint16_t value)
{
    uint8_t be[2];

    stw_be_p(be, value);
    g_byte_array_append(b, be, 2);
}

static void put32(GByteArray *b, uint32_t value)
{
    put16(b, value >> 16);
    put16(b, value);
}

static void put_fill(GByteArray *b, uint8_t first, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        uint8_t byte = first + i;

        g_byte_array_append(b, &byte, 1);
    }
}

static void put_addr(const Test *t, GByteArray *b, bool guest)
{
    put_fill(b, guest ? 0x21 : 0x81, t->ipv6 ? 16 : 4);
}

/* Returns the length of what it wrote */
static size_t put_tcp(const Test *t, GByteArray *b, bool from_guest,
                      const Seg *seg)
{
    size_t start = b->len, hdr_len = 20;
    uint16_t guest_port = seg->guest_port ?: t->inner;

    if (seg->ts) {
        hdr_len += 12;
    }
    if (seg->sacks) {
        hdr_len += 4 + seg->sacks * 4;
    }
    put16(b, from_guest ? guest_port : t->port);
    put16(b, from_guest ? t->port : guest_port);
    put32(b, seg->seq);
    put32(b, seg->ack);
    put16(b, hdr_len / 4 << 12 | seg->flags);
    put16(b, 5000);     /* window */
    put32(b, 0);        /* checksum, urgent pointer */
    if (seg->ts) {
        put32(b, 0x0101080a);
        put32(b, seg->tsval);
        put32(b, seg->tsecr);
    }
    if (seg->sacks) {
        put32(b, 0x01010500 | (2 + seg->sacks * 4));
        for (uint32_t i = 0; i < seg->sacks; i++) {
            put32(b, seg->sack[i]);
        }
    }
    g_assert_cmpuint(b->len - start, ==, hdr_len);
    put_fill(b, seg->payload, seg->payload);
    return b->len - start;
}

static void put_eth(const Test *t, GByteArray *b)
{
    put_fill(b, 0x50, 12);
    for (int i = 0; i < t->vlans; i++) {
        put16(b, i + 1 < t->vlans ? 0x88a8 : 0x8100);
        put16(b, 0x2000 | (100 + i));
    }
    put16(b, t->ipv6 ? 0x86dd : 0x0800);
}

static void put_ip(const Test *t, GByteArray *b, bool from_guest,
                   size_t tcp_len)
{
    if (t->ipv6) {
        put32(b, 0x60000000);
        put16(b, tcp_len);
        put16(b, 6 << 8 | 64);
    } else {
        size_t start = b->len;
        uint8_t addrs[] = { 0x21, 0x22, 0x23, 0x24, 0x81, 0x82, 0x83, 0x84 };

        put16(b, 0x4500);
        put16(b, 20 + tcp_len);
        put32(b, 0x00004000);
        put16(b, 64 << 8 | 6);
        put16(b, ~fold(sum_be(b->data + start, 10,
                              sum_be(addrs, sizeof(addrs), 0))));
    }
    put_addr(t, b, from_guest);
    put_addr(t, b, !from_guest);
}

GByteArray *build_bytes(const Test *t, bool from_guest, const Seg *seg)
{
    g_autoptr(GByteArray) tcp = g_byte_array_new();
    GByteArray *b = g_byte_array_new();
    size_t addr_len = t->ipv6 ? 32 : 8;
    size_t tcp_len = put_tcp(t, tcp, from_guest, seg);
    uint32_t sum;

    if (t->vnet) {
        uint8_t vnet[VNET_LEN] = { 1 };     /* NEEDS_CSUM */

        stw_le_p(vnet + 6, 14 + t->vlans * 4 + (t->ipv6 ? 40 : 20));
        stw_le_p(vnet + 8, 16);
        g_byte_array_append(b, vnet, sizeof(vnet));
    }
    put_eth(t, b);
    put_ip(t, b, from_guest, tcp_len);
    sum = pseudo_sum(b->data + b->len - addr_len, addr_len, tcp_len);
    if (t->vnet) {
        stw_be_p(tcp->data + 16, fold(sum));
    } else {
        stw_be_p(tcp->data + 16, ~fold(sum_be(tcp->data, tcp_len, sum)));
    }
    g_byte_array_append(b, tcp->data, tcp_len);
    return b;
}

ColoPacket *build(const Test *t, bool from_guest, const Seg *seg)
{
    GByteArray *b = build_bytes(t, from_guest, seg);
    uint32_t size = b->len;
    ColoPacket *p;

    p = colo_packet_new(g_byte_array_free(b, FALSE), size,
                        t->vnet ? VNET_LEN : 0);
    g_assert_cmpint(p->kind, ==, COLO_PACKET_TCP);
    return p;
}

/* Feed a packet the way the filter does; was it changed? */
bool feed(Test *t, bool from_guest, ColoPacket *p)
{
    g_autofree uint8_t *before = g_memdup2(p->data, p->size);
    bool wanted = colo_rewrite_wants(t->r, p->data,
                                     MIN(p->size, COLO_REWRITE_HEAD), p->size,
                                     p->vnet_hdr_len, from_guest);
    uint64_t known = flows(t);
    bool drop, changed;

    if (from_guest) {
        drop = colo_rewrite_must_drop(t->r, p);
        g_assert_true(wanted || !colo_rewrite_awaits(t->r, p));
        changed = colo_rewrite_from_guest(t->r, p, t->now);
    } else {
        drop = colo_rewrite_must_drop_input(t->r, p);
        changed = colo_rewrite_to_guest(t->r, p, t->now);
    }
    g_assert_true(!drop || (wanted && !changed && flows(t) == known));
    g_assert_true(wanted || (!changed && flows(t) == known));
    g_assert_true(changed ? memcmp(before, p->data, p->size)
                          : !p->size || !memcmp(before, p->data, p->size));
    return changed;
}

void pass(Test *t, bool from_guest, Seg in, Seg out)
{
    g_autoptr(GByteArray) expected = NULL;
    ColoPacket *p, *again;

    in.guest_port = from_guest ? t->inner : t->outer;
    out.guest_port = from_guest ? t->outer : t->inner;
    p = build(t, from_guest, &in);
    expected = build_bytes(t, from_guest, &out);

    feed(t, from_guest, p);
    again = colo_packet_copy(p);
    colo_packet_parse(again);
    g_assert_true(colo_flow_key_equal(&p->key, &again->key));
    colo_packet_free(again);
    g_assert_cmphex(p->seq, ==, out.seq);
    g_assert_cmphex(p->ack, ==, out.ack);
    if (p->ts_off) {
        g_assert_cmphex(colo_packet_tsval(p), ==, out.tsval);
        g_assert_cmphex(colo_packet_tsecr(p), ==, out.tsecr);
    }
    for (uint32_t i = 0; i < p->sack_edges; i++) {
        g_assert_cmphex(colo_packet_sack_edge(p, i), ==, out.sack[i]);
    }
    /* All the rest, and the checksum that follows from it */
    g_assert_cmpmem(p->data, p->size, expected->data, expected->len);
    colo_packet_free(p);
}

/* S says @in, and it comes out with @seq */
void says(Test *t, Seg in, uint32_t seq)
{
    Seg out = in;

    out.seq = seq;
    pass(t, true, in, out);
}

/* Somebody says @in, S gets it with @ack, SACK edges moved along */
void gets(Test *t, Seg in, uint32_t ack)
{
    Seg out = in;

    out.ack = ack;
    for (uint32_t i = 0; i < in.sacks; i++) {
        out.sack[i] += ack - in.ack;
    }
    pass(t, false, in, out);
}

Seg seg(uint8_t flags, uint32_t seq, uint32_t ack, uint32_t payload)
{
    return (Seg) {
        .flags = flags, .seq = seq, .ack = ack, .payload = payload,
    };
}

Seg seg_ts(uint8_t flags, uint32_t seq, uint32_t ack, uint32_t tsval,
                  uint32_t tsecr)
{
    return (Seg) {
        .flags = flags, .seq = seq, .ack = ack,
        .ts = true, .tsval = tsval, .tsecr = tsecr,
    };
}

/* A client connects to S */
void accept_client(Test *t)
{
    gets(t, seg(SYN, t->c, 0, 0), 0);
    says(t, seg(SYN | ACK, t->s, t->c + 1, 0), t->s);
    gets(t, seg(ACK, t->c + 1, t->p + 1, 0), t->s + 1);
}

/* S connects to a server */
void connect_server(Test *t)
{
    says(t, seg(SYN, t->s, 0, 0), t->s);
    gets(t, seg(SYN | ACK, t->c, t->p + 1, 0), t->s + 1);
    says(t, seg(ACK, t->s + 1, t->c + 1, 0), t->p + 1);
}

void talk(Test *t)
{
    says(t, seg(ACK, t->s + 1, t->c + 1, 1000), t->p + 1);
    gets(t, seg(ACK, t->c + 1, t->p + 1001, 300), t->s + 1001);
    says(t, seg(ACK, t->s + 1001, t->c + 301, 0), t->p + 1001);
}

void close_both(Test *t)
{
    says(t, seg(FIN | ACK, t->s + 1001, t->c + 301, 0), t->p + 1001);
    gets(t, seg(ACK, t->c + 301, t->p + 1002, 0), t->s + 1002);
    gets(t, seg(FIN | ACK, t->c + 301, t->p + 1002, 0), t->s + 1002);
    says(t, seg(ACK, t->s + 1002, t->c + 302, 0), t->p + 1002);
}
