/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO packets: what is in them, and fields that change.
 *
 * Proves: each kind of packet is known for what it is, with its parts where
 * they are; cut short anywhere or malformed it is bytes, and nothing outside
 * of it is read; a changed field leaves the checksum right, a partial one as
 * it is, a wrong one wrong.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "colo-packet-maker.h"

#define NO_TAG 0xffff

typedef struct Case {
    const char *name;
    Make make;
    ColoPacketKind kind;
    uint16_t ethertype;         /* of the key; 0: that of IP */
    bool shrinks;               /* cut short it is still one of its kind */
    uint32_t meant;             /* of a RAW packet with padding: its length */
} Case;

#define TAG(vid, pcp)   (uint16_t)((pcp) << 13 | (vid))
#define TCP_FIELDS      .sport = 0x1234, .dport = 443, .seq = 0xfffffff0, \
                        .ack = 0x80000001, .window = 501, .ttl = 64

static const Case cases[] = {
    { "tcp4", { TCP_FIELDS, .flags = 0x10, .payload_len = 33 },
      COLO_PACKET_TCP },
    { "tcp4-empty", { TCP_FIELDS, .flags = 0x12 }, COLO_PACKET_TCP },
    { "tcp4-padded", { TCP_FIELDS, .flags = 0x11, .padding = 6 },
      COLO_PACKET_TCP },
    { "tcp4-ip-options", { TCP_FIELDS, .ip_options = 40, .payload_len = 7 },
      COLO_PACKET_TCP },
    { "tcp4-vlan", { TCP_FIELDS, .ntags = 1, .tpid = { 0x8100 },
                     .tci = { TAG(100, 5) }, .payload_len = 1 },
      COLO_PACKET_TCP },
    { "tcp4-vlan-0", { TCP_FIELDS, .ntags = 1, .tpid = { 0x8100 } },
      COLO_PACKET_TCP },
    { "tcp4-qinq", { TCP_FIELDS, .ntags = 2, .tpid = { 0x88a8, 0x8100 },
                     .tci = { 0xfff, TAG(7, 1) }, .payload_len = 9,
                     .padding = 3 },
      COLO_PACKET_TCP },
    { "tcp4-two-vlans", { TCP_FIELDS, .ntags = 2, .tpid = { 0x8100, 0x8100 },
                          .tci = { 1, 2 } },
      COLO_PACKET_TCP },
    { "tcp4-three-vlans", { TCP_FIELDS, .ntags = 3,
                            .tpid = { 0x88a8, 0x8100, 0x8100 },
                            .tci = { 1, 2, 3 } },
      COLO_PACKET_RAW, 0x8100 },
    { "tcp4-vnet", { TCP_FIELDS, .vnet = 10, .payload_len = 20 },
      COLO_PACKET_TCP },
    { "tcp4-partial", { TCP_FIELDS, .vnet = 12, .vnet_flags = MAKE_NEEDS_CSUM,
                        .payload_len = 20, .padding = 2 },
      COLO_PACKET_TCP },
    { "tcp4-gso", { TCP_FIELDS, .vnet = 12, .vnet_flags = MAKE_NEEDS_CSUM,
                    .gso_type = MAKE_GSO_TCPV4, .gso_size = 100,
                    .payload_len = 512 },
      COLO_PACKET_TCP },
    { "tcp4-gso-no-length", { TCP_FIELDS, .vnet = 10, .zero_len = true,
                              .vnet_flags = MAKE_NEEDS_CSUM,
                              .gso_type = MAKE_GSO_TCPV4 | MAKE_GSO_ECN,
                              .gso_size = 100, .payload_len = 300 },
      COLO_PACKET_TCP, .shrinks = true },
    { "tcp6-gso-no-length", { TCP_FIELDS, .v6 = true, .vnet = 12,
                              .vnet_flags = MAKE_NEEDS_CSUM, .zero_len = true,
                              .gso_type = MAKE_GSO_TCPV6, .gso_size = 100,
                              .payload_len = 70000 },
      COLO_PACKET_TCP, .shrinks = true },
    { "tcp4-no-length", { TCP_FIELDS, .zero_len = true, .payload_len = 30 },
      COLO_PACKET_RAW },
    { "tcp6-no-length", { TCP_FIELDS, .v6 = true, .vnet = 10,
                          .zero_len = true, .payload_len = 30 },
      COLO_PACKET_RAW },
    { "tcp6", { TCP_FIELDS, .v6 = true, .payload_len = 33 },
      COLO_PACKET_TCP },
    { "tcp6-hop-by-hop", { TCP_FIELDS, .v6 = true, .padding = 1,
                           .exts = { MAKE_HOP_BY_HOP }, .nexts = 1 },
      COLO_PACKET_TCP },
    { "tcp6-headers", { TCP_FIELDS, .v6 = true, .payload_len = 12,
                        .exts = { MAKE_HOP_BY_HOP, MAKE_DEST, MAKE_ROUTING,
                                  MAKE_DEST },
                        .nexts = 4, .ntags = 1, .tpid = { 0x88a8 },
                        .tci = { 9 } },
      COLO_PACKET_TCP },
    { "tcp6-late-hop-by-hop", { TCP_FIELDS, .v6 = true,
                                .exts = { MAKE_DEST, MAKE_HOP_BY_HOP },
                                .nexts = 2 },
      COLO_PACKET_RAW },
    { "udp4", { .proto = MAKE_UDP, .sport = 53, .dport = 0xfffe,
                .payload_len = 40, .padding = 4 },
      COLO_PACKET_DATAGRAM },
    { "udp4-empty", { .proto = MAKE_UDP, .sport = 53 },
      COLO_PACKET_DATAGRAM },
    { "udp4-partial", { .proto = MAKE_UDP, .sport = 53, .vnet = 10,
                        .vnet_flags = MAKE_NEEDS_CSUM, .payload_len = 3 },
      COLO_PACKET_DATAGRAM },
    { "udp6", { .proto = MAKE_UDP, .v6 = true, .sport = 1, .dport = 2,
                .payload_len = 5, .exts = { MAKE_ROUTING }, .nexts = 1 },
      COLO_PACKET_DATAGRAM },
    { "icmp", { .proto = MAKE_ICMP, .payload_len = 56 },
      COLO_PACKET_DATAGRAM },
    { "icmpv6", { .proto = MAKE_ICMPV6, .v6 = true, .payload_len = 24,
                  .ntags = 1, .tpid = { 0x8100 }, .tci = { 4094 } },
      COLO_PACKET_DATAGRAM },
    { "icmpv6-mld", { .proto = MAKE_ICMPV6, .v6 = true, .payload_len = 20,
                      .exts = { MAKE_HOP_BY_HOP }, .nexts = 1 },
      COLO_PACKET_DATAGRAM },
    { "icmpv6-over-4", { .proto = MAKE_ICMPV6, .payload_len = 3 },
      COLO_PACKET_DATAGRAM },
    { "icmp-over-6", { .proto = MAKE_ICMP, .v6 = true, .payload_len = 3 },
      COLO_PACKET_DATAGRAM },
    { "sctp4", { .proto = MAKE_SCTP, .payload_len = 44, .padding = 2 },
      COLO_PACKET_DATAGRAM },
    { "ah6", { .proto = MAKE_AH, .v6 = true, .payload_len = 44 },
      COLO_PACKET_DATAGRAM },
    { "other6-empty", { .proto = 59, .v6 = true }, COLO_PACKET_DATAGRAM },
    { "tcp4-first-fragment", { TCP_FIELDS, .payload_len = 100,
                               .fragment = true, .frag_id = 0xabcd,
                               .frag_len = 64, .frag_more = true },
      COLO_PACKET_FRAGMENT },
    { "udp4-fragment", { .proto = MAKE_UDP, .sport = 1, .payload_len = 100,
                         .fragment = true, .frag_id = 7, .frag_offset = 40,
                         .frag_len = 24, .frag_more = true, .ip_options = 4 },
      COLO_PACKET_FRAGMENT },
    { "icmp-last-fragment", { .proto = MAKE_ICMP, .payload_len = 101,
                              .fragment = true, .frag_offset = 64,
                              .padding = 10 },
      COLO_PACKET_FRAGMENT },
    { "udp6-fragment", { .proto = MAKE_UDP, .v6 = true, .payload_len = 100,
                         .fragment = true, .frag_id = 0x89abcdef,
                         .frag_offset = 8, .frag_len = 16, .frag_more = true,
                         .exts = { MAKE_HOP_BY_HOP, MAKE_ROUTING },
                         .nexts = 2 },
      COLO_PACKET_FRAGMENT },
    { "tcp6-atomic-fragment", { TCP_FIELDS, .v6 = true, .fragment = true,
                                .payload_len = 13, .frag_id = 1,
                                .padding = 1 },
      COLO_PACKET_FRAGMENT },
    { "udp4-odd-fragment", { .proto = MAKE_UDP, .payload_len = 100,
                             .fragment = true, .frag_offset = 8,
                             .frag_len = 63, .frag_more = true },
      COLO_PACKET_RAW },
    { "udp4-empty-fragment", { .proto = MAKE_UDP, .payload_len = 8,
                               .fragment = true, .frag_offset = 16 },
      COLO_PACKET_RAW },
    { "unknown", { .ethertype = 0x88cc, .payload_len = 50, .ntags = 1,
                   .tpid = { 0x8100 }, .tci = { 3 } },
      COLO_PACKET_RAW, 0x88cc },
    { "llc", { .ethertype = 38, .payload_len = 38, .padding = 8 },
      COLO_PACKET_RAW, 38, .meant = 38 },
    { "bytes-like-ip", { .ethertype = 0x800, .payload_len = 60 },
      COLO_PACKET_RAW, 0x800 },
    { "bytes-like-ip6", { .ethertype = 0x86dd, .payload_len = 60,
                          .vnet = 10 },
      COLO_PACKET_RAW, 0x86dd },
};

/* What the parser says about @p, whatever it is, lies inside of it */
static void check_inside(const ColoPacket *p)
{
    g_assert_cmpuint(p->kind, <, COLO_PACKET__MAX);
    g_assert_cmpuint(p->l3, <=, p->l4);
    g_assert_cmpuint(p->l4, <=, p->payload);
    g_assert_cmpuint(p->payload, <=, p->size);
    g_assert_cmpuint(p->payload_len, <=, p->size - p->payload);
    g_assert_cmpuint(p->key.kind, ==, p->kind == COLO_PACKET_FRAGMENT
                                      ? COLO_PACKET_DATAGRAM : p->kind);
    if (p->ts_off) {
        g_assert_cmpuint(p->kind, ==, COLO_PACKET_TCP);
        g_assert_cmpuint(p->ts_off, >=, p->l4 + 22);
        g_assert_cmpuint(p->ts_off + 8, <=, p->payload);
    }
    if (p->sack_off) {
        g_assert_cmpuint(p->kind, ==, COLO_PACKET_TCP);
        g_assert_cmpuint(p->sack_edges, >=, 2);
        g_assert_cmpuint(p->sack_edges % 2, ==, 0);
        g_assert_cmpuint(p->sack_off, >=, p->l4 + 22);
        g_assert_cmpuint(p->sack_off + p->sack_edges * 4, <=, p->payload);
    } else {
        g_assert_cmpuint(p->sack_edges, ==, 0);
    }
}

/* Memory of just that size, so that a read beyond it is found */
static ColoPacket *packet_of(const uint8_t *data, uint32_t size,
                             uint32_t vnet)
{
    ColoPacket *p = colo_packet_new(g_memdup2(data, size), size, vnet);

    check_inside(p);
    return p;
}

static void check_key(const Case *c, const Made *made, const ColoPacket *p)
{
    const uint8_t *ip = made->data + made->l3;
    unsigned len = c->make.v6 ? 16 : 4;
    ColoFlowKey key = { .kind = p->key.kind };
    const Make *m = &c->make;
    bool ports;

    for (unsigned i = 0; i < COLO_PACKET_VLANS; i++) {
        key.vlan[i] = i < m->ntags ? m->tci[i] & 0xfff : NO_TAG;
    }
    key.ethertype = c->ethertype ? c->ethertype : m->v6 ? 0x86dd : 0x800;
    if (p->kind == COLO_PACKET_RAW) {
        memcpy(key.dst, made->data + made->eth, 6);
        memcpy(key.src, made->data + made->eth + 6, 6);
    } else {
        memcpy(key.src, ip + (m->v6 ? 8 : 12), len);
        memcpy(key.dst, ip + (m->v6 ? 24 : 16), len);
        key.proto = m->proto ? m->proto : MAKE_TCP;
        ports = p->kind == COLO_PACKET_TCP ||
                (p->kind == COLO_PACKET_DATAGRAM && key.proto == MAKE_UDP);
        key.sport = ports ? m->sport : 0;
        key.dport = ports ? m->dport : 0;
    }
    g_assert_cmpmem(&p->key, sizeof(p->key), &key, sizeof(key));
}

static void test_kind(gconstpointer v)
{
    const Case *c = v;
    const Make *m = &c->make;
    ColoPacket *p;
    Made made;

    make(m, &made);
    p = packet_of(made.data, made.size, m->vnet);
    g_assert_cmpuint(p->kind, ==, c->kind);
    check_key(c, &made, p);
    g_assert_cmpuint(p->epoch, ==, 0);
    g_assert_cmpint(p->arrived_ms, ==, 0);
    if (c->kind == COLO_PACKET_RAW) {
        uint32_t l3 = made.eth + 14 + 4 * MIN(m->ntags, COLO_PACKET_VLANS);

        g_assert_cmpuint(p->l3, ==, l3);
        g_assert_cmpuint(p->l4, ==, l3);
        g_assert_cmpuint(p->payload, ==, l3);
        g_assert_cmpuint(p->payload_len, ==,
                         c->meant ? c->meant : made.size - l3);
    } else {
        g_assert_cmpuint(p->l3, ==, made.l3);
        g_assert_cmpuint(p->l4, ==, made.l4);
        g_assert_cmpuint(p->payload, ==, made.payload);
        g_assert_cmpuint(p->payload_len, ==, made.end - made.payload);
    }
    if (c->kind == COLO_PACKET_TCP) {
        g_assert_cmphex(p->seq, ==, m->seq);
        g_assert_cmphex(p->ack, ==, m->ack);
        g_assert_cmphex(p->window, ==, m->window);
        g_assert_cmphex(p->tcp_flags, ==, m->flags);
        g_assert_cmpuint(colo_packet_seq_len(p), ==,
                         m->payload_len + !!(m->flags & 2) + (m->flags & 1));
    }
    if (c->kind == COLO_PACKET_FRAGMENT) {
        g_assert_cmphex(p->frag_id, ==, m->frag_id);
        g_assert_cmpuint(p->frag_offset, ==, m->frag_offset);
        g_assert_cmpuint(p->frag_more, ==, m->frag_more);
    }
    colo_packet_free(p);
    g_free(made.data);
}

/* @len bytes of it say nothing, or what all of it does.  True: they do. */
static bool check_head(const Case *c, const ColoPacket *p, uint32_t len)
{
    g_autofree uint8_t *data = g_memdup2(p->data, len);
    ColoPacket head;

    if (!colo_packet_parse_head(&head, data, len, p->size, c->make.vnet)) {
        return false;
    }
    g_assert_cmpuint(head.kind, ==, p->kind);
    g_assert_cmpmem(&head.key, sizeof(head.key), &p->key, sizeof(p->key));
    g_assert_cmpuint(head.l3, ==, p->l3);
    g_assert_cmpuint(head.l4, ==, p->l4);
    g_assert_cmpuint(head.payload, ==, p->payload);
    g_assert_cmpuint(head.payload_len, ==, p->payload_len);
    g_assert_cmphex(head.seq, ==, p->seq);
    g_assert_cmphex(head.tcp_flags, ==, p->tcp_flags);
    g_assert_cmpuint(head.ts_off, ==, p->ts_off);
    g_assert_cmpuint(head.sack_edges, ==, p->sack_edges);
    g_assert_cmpuint(head.frag_id, ==, p->frag_id);
    return true;
}

static void test_head(gconstpointer v)
{
    const Case *c = v;
    bool known = false;
    ColoPacket *p;
    Made made;

    make(&c->make, &made);
    p = packet_of(made.data, made.size, c->make.vnet);
    for (uint32_t len = 0; len <= MIN(made.size, 300); len++) {
        bool now_known = check_head(c, p, len);

        g_assert_true(now_known || !known);
        g_assert_true(now_known || len < p->payload ||
                      p->kind == COLO_PACKET_RAW);
        known = now_known;
    }
    g_assert_true(known);
    colo_packet_free(p);
    g_free(made.data);
}

static void check_short(const Case *c, const Made *made, uint32_t size)
{
    ColoPacket *p = packet_of(made->data, size, c->make.vnet);
    uint32_t least = c->shrinks ? made->payload : made->end;
    static const uint8_t no_address[16];

    if (size < made->eth + 14) {
        g_assert_cmpmem(p->key.src, 16, no_address, 16);
        g_assert_cmpuint(p->key.ethertype, ==, 0);
        g_assert_cmpuint(p->payload + p->payload_len, ==, size);
    }
    g_assert_cmpuint(p->kind, ==, size < least ? COLO_PACKET_RAW : c->kind);
    if (p->kind == COLO_PACKET_RAW) {
        g_assert_cmpuint(p->seq | p->ack | p->tcp_flags | p->frag_id, ==, 0);
        g_assert(colo_packet_same_datagram(p, p));
    }
    colo_packet_free(p);
}

static void test_short(gconstpointer v)
{
    const Case *c = v;
    Made made;

    make(&c->make, &made);
    for (uint32_t size = 0; size <= made.size; size++) {
        if (size < 1000 || size > made.size - 3) {
            check_short(c, &made, size);
        }
    }
    g_free(made.data);
}

/* Nothing that a bit says leads outside */
static void test_noise(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(cases) * 500; i++) {
        const Case *c = &cases[i % ARRAY_SIZE(cases)];
        uint32_t vnet = i % 7 ? c->make.vnet : g_test_rand_int_range(0, 99);
        Made made;

        if (c->make.payload_len > 1000) {
            continue;
        }
        make(&c->make, &made);
        for (unsigned n = g_test_rand_int_range(1, 6); n; n--) {
            uint32_t at = g_test_rand_int_range(0, made.size);

            made.data[at] = g_test_rand_int_range(0, 256);
        }
        colo_packet_free(packet_of(made.data, made.size, vnet));
        g_free(made.data);
    }
}

static void test_arp(void)
{
    static const uint8_t arp[] = { 0, 1, 8, 0, 6, 4, 0, 1 };
    Make m = { .ethertype = 0x806, .payload_len = 28, .padding = 18 };
    ColoPacket *p;
    Made made;

    make(&m, &made);
    memcpy(made.data + made.l3, arp, sizeof(arp));
    p = packet_of(made.data, made.size, 0);
    g_assert_cmpuint(p->kind, ==, COLO_PACKET_RAW);
    g_assert_cmpuint(p->key.ethertype, ==, 0x806);
    g_assert_cmpuint(p->payload_len, ==, 28);
    colo_packet_free(p);

    /* Sizes of addresses that do not fit: all of it counts */
    made.data[made.l3 + 4] = 255;
    p = packet_of(made.data, made.size, 0);
    g_assert_cmpuint(p->payload_len, ==, 46);
    colo_packet_free(p);
    for (uint32_t size = made.l3; size < made.end; size++) {
        p = packet_of(made.data, size, 0);
        g_assert_cmpuint(p->payload_len, ==, size - made.l3);
        colo_packet_free(p);
    }
    g_free(made.data);
}

/* Make it, put @value at @off behind @base ('3': l3, '4': l4), look at it */
static ColoPacketKind kind_with(const Make *m, char base, uint32_t off,
                                unsigned bytes, uint16_t value)
{
    ColoPacketKind kind;
    ColoPacket *p;
    Made made;

    make(m, &made);
    off += base == '3' ? made.l3 : made.l4;
    if (bytes == 2) {
        stw_be_p(made.data + off, value);
    } else {
        made.data[off] = value;
    }
    p = packet_of(made.data, made.size, m->vnet);
    kind = p->kind;
    if (kind != COLO_PACKET_RAW) {
        g_assert_cmpuint(p->payload + p->payload_len, <=, made.size);
    }
    colo_packet_free(p);
    g_free(made.data);
    return kind;
}

static void test_malformed_ip(void)
{
    Make m = { TCP_FIELDS, .payload_len = 5, .padding = 10 };
    Make m6 = m;
    Make ext = m;

    m6.v6 = true;
    ext.v6 = true;
    ext.exts[0] = MAKE_ROUTING;
    ext.nexts = 1;
    for (unsigned i = 0; i < 16; i++) {
        ColoPacketKind kind = kind_with(&m, '3', 0, 1, 0x40 | i);

        /* With 24 bytes or more, what is at the data offset is another byte */
        g_assert(kind == COLO_PACKET_RAW || i == 5 || i > 5);
        g_assert(i != 5 || kind == COLO_PACKET_TCP);
        g_assert_cmpuint(kind_with(&m, '3', 0, 1, i << 4 | 5), ==,
                         i == 4 ? COLO_PACKET_TCP : COLO_PACKET_RAW);
        g_assert_cmpuint(kind_with(&m6, '3', 0, 1, i << 4), ==,
                         i == 6 ? COLO_PACKET_TCP : COLO_PACKET_RAW);
    }
    /* 20 + 20 + 5 bytes, and 10 of padding */
    for (uint32_t len = 0; len <= 80; len++) {
        g_assert_cmpuint(kind_with(&m, '3', 2, 2, len), ==,
                         len >= 40 && len <= 55 ? COLO_PACKET_TCP
                                                : COLO_PACKET_RAW);
        g_assert_cmpuint(kind_with(&m6, '3', 4, 2, len), ==,
                         len >= 20 && len <= 35 ? COLO_PACKET_TCP
                                                : COLO_PACKET_RAW);
    }
    /* The routing header is at 40, what it says is its length, at 41 */
    for (unsigned i = 0; i < 256; i++) {
        ColoPacketKind kind = kind_with(&ext, '3', 41, 1, i);

        g_assert(i ? kind == COLO_PACKET_RAW || i <= 3
                   : kind == COLO_PACKET_TCP);
    }
}

static void test_malformed_transport(void)
{
    Make m = { TCP_FIELDS, .payload_len = 12, .padding = 40 };
    Make udp = { .proto = MAKE_UDP, .payload_len = 4, .padding = 4 };
    Make gso = udp;

    for (unsigned i = 0; i < 16; i++) {
        g_assert_cmpuint(kind_with(&m, '4', 12, 1, i << 4), ==,
                         i >= 5 && i <= 8 ? COLO_PACKET_TCP
                                          : COLO_PACKET_RAW);
    }
    gso.vnet = 10;
    gso.gso_type = MAKE_GSO_UDP_L4;
    for (unsigned i = 0; i < 20; i++) {
        g_assert_cmpuint(kind_with(&udp, '4', 4, 2, i), ==,
                         i >= 8 && i <= 12 ? COLO_PACKET_DATAGRAM
                                           : COLO_PACKET_RAW);
    }
    g_assert_cmpuint(kind_with(&gso, '4', 4, 2, 0), ==, COLO_PACKET_DATAGRAM);
    g_assert_cmpuint(kind_with(&gso, '4', 4, 2, 7), ==, COLO_PACKET_RAW);
}

static void test_malformed_fragment(void)
{
    Make m = { .proto = MAKE_UDP, .payload_len = 1008, .fragment = true,
               .frag_offset = 8, .frag_len = 504, .frag_more = true };
    Make m6 = m;

    m6.v6 = true;
    /* Offsets, in eights: 20 bytes of header and 504 of payload have to fit */
    for (uint32_t off = 8120; off < 8192; off++) {
        g_assert_cmpuint(kind_with(&m, '3', 6, 2, 0x2000 | off), ==,
                         20 + off * 8 + 504 <= 65535 ? COLO_PACKET_FRAGMENT
                                                     : COLO_PACKET_RAW);
        /* The last two bytes of offset and bits in the fragment header */
        g_assert_cmpuint(kind_with(&m6, '3', 42, 2, off << 3 | 1), ==,
                         off * 8 + 504 <= 65535 ? COLO_PACKET_FRAGMENT
                                                : COLO_PACKET_RAW);
    }
    /* Reserved bits are no offset */
    g_assert_cmpuint(kind_with(&m6, '3', 42, 2, 8191 << 3 | 6), ==,
                     COLO_PACKET_RAW);
    g_assert_cmpuint(kind_with(&m6, '3', 42, 2, 8 | 7), ==,
                     COLO_PACKET_FRAGMENT);
}

/* TCP options: bytes, and where timestamps and SACK blocks have to be found */
static const struct {
    uint8_t bytes[40];
    unsigned len;
    unsigned ts;                /* offset in the options; 0: none */
    unsigned sack;
    unsigned edges;
} options[] = {
    { { 1, 1, 8, 10 }, 12, 4 },
    { { 8, 10 }, 12, 2 },
    { { 1, 8, 10 }, 12, 3 },
    { { 2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 7 }, 20,
      8 },
    { { 1, 1, 5, 10 }, 12, 0, 4, 2 },
    { { 5, 10 }, 12, 0, 2, 2 },
    { { 1, 1, 8, 10, [12] = 1, 1, 5, 26 }, 40, 4, 16, 6 },
    { { 1, 5, 34 }, 36, 0, 3, 8 },
    { { 5, 18, [18] = 8, 10 }, 28, 20, 2, 4 },
    /* Behind the end of the list */
    { { 0, 8, 10 }, 12 },
    { { 1, 1, 0, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 5, 10 }, 24 },
    /* Lengths that are none, or lead out of the header */
    { { 8, 0 }, 12 },
    { { 8, 1 }, 12 },
    { { 8, 9 }, 12 },
    { { 8, 11 }, 12 },
    { { 1, 1, 1, 8, 10 }, 12 },
    { { 1, 1, 1, 8 }, 4 },
    { { 30, 255, 8, 10 }, 12 },
    { { 30, 1, 8, 10 }, 16 },
    { { 30, 2, 8, 10 }, 12, 4 },
    { { 5, 2, 8, 10 }, 12, 4 },
    { { 5, 9, 0, 0, 0, 0, 0, 0, 0, 8, 10 }, 20, 11 },
    { { 1, 1, 5, 18 }, 12 },
    { { 5, 12 }, 12 },
    /* What was found before holds */
    { { 8, 10, [10] = 5, 3 }, 12, 2 },
    { { 8, 10, [10] = 5, 10 }, 12, 2 },
};

static void test_options(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
        Make m = { TCP_FIELDS, .options_len = options[i].len,
                   .payload_len = 30 };
        unsigned begin;
        ColoPacket *p;

        memcpy(m.options, options[i].bytes, sizeof(m.options));
        p = make_packet(&m);
        check_inside(p);
        g_assert_cmpuint(p->kind, ==, COLO_PACKET_TCP);
        g_assert_cmpuint(p->payload_len, ==, 30);
        begin = p->l4 + 20;
        g_assert_cmpuint(p->ts_off, ==,
                         options[i].ts ? begin + options[i].ts : 0);
        g_assert_cmpuint(p->sack_off, ==,
                         options[i].sack ? begin + options[i].sack : 0);
        g_assert_cmpuint(p->sack_edges, ==, options[i].edges);
        colo_packet_free(p);
    }
}

/* Setters */

typedef struct Setter {
    const char *name;
    void (*set)(ColoPacket *p, uint32_t value);
    uint32_t (*get)(const ColoPacket *p);
    uint32_t (*off)(const ColoPacket *p);
} Setter;

/* Both as one, the source port first */
static void set_ports(ColoPacket *p, uint32_t value)
{
    colo_packet_set_sport(p, value >> 16);
    colo_packet_set_dport(p, value);
}

static uint32_t get_ports(const ColoPacket *p)
{
    return (uint32_t)p->key.sport << 16 | p->key.dport;
}

static uint32_t off_ports(const ColoPacket *p)
{
    return p->l4;
}

static uint32_t get_seq(const ColoPacket *p)
{
    return p->seq;
}

static uint32_t get_ack(const ColoPacket *p)
{
    return p->ack;
}

static uint32_t off_seq(const ColoPacket *p)
{
    return p->l4 + 4;
}

static uint32_t off_ack(const ColoPacket *p)
{
    return p->l4 + 8;
}

static uint32_t off_tsval(const ColoPacket *p)
{
    return p->ts_off;
}

static uint32_t off_tsecr(const ColoPacket *p)
{
    return p->ts_off + 4;
}

#define EDGE(n)                                                 \
    static void set_edge_##n(ColoPacket *p, uint32_t value)     \
    {                                                           \
        colo_packet_set_sack_edge(p, n, value);                 \
    }                                                           \
    static uint32_t get_edge_##n(const ColoPacket *p)           \
    {                                                           \
        return colo_packet_sack_edge(p, n);                     \
    }                                                           \
    static uint32_t off_edge_##n(const ColoPacket *p)           \
    {                                                           \
        return p->sack_off + n * 4;                             \
    }

EDGE(0)
EDGE(1)
EDGE(5)

static const Setter setters[] = {
    { "ports", set_ports, get_ports, off_ports },
    { "seq", colo_packet_set_seq, get_seq, off_seq },
    { "ack", colo_packet_set_ack, get_ack, off_ack },
    { "tsval", colo_packet_set_tsval, colo_packet_tsval, off_tsval },
    { "tsecr", colo_packet_set_tsecr, colo_packet_tsecr, off_tsecr },
    { "edge-0", set_edge_0, get_edge_0, off_edge_0 },
    { "edge-1", set_edge_1, get_edge_1, off_edge_1 },
    { "edge-5", set_edge_5, get_edge_5, off_edge_5 },
};

/* Aligned as Linux does it, and not aligned at all */
static const uint8_t aligned[40] = { 1, 1, 8, 10, [12] = 1, 1, 5, 26 };
static const uint8_t odd[40] = { 1, 8, 10, [11] = 5, 26, [37] = 1, 1, 1 };

/* One value: on the wire, in the packet, and nothing else but the checksum */
static void set_and_check(const Make *m, const Made *made, ColoPacket *p,
                          const Setter *s, uint32_t value)
{
    g_autofree uint8_t *before = g_memdup2(p->data, p->size);
    uint16_t error = tcp_csum_error(m, made, p->data, made->end);

    s->set(p, value);
    g_assert_cmphex(s->get(p), ==, value);
    g_assert_cmphex((uint32_t)ldl_be_p(p->data + s->off(p)), ==, value);
    g_assert_cmphex(tcp_csum_error(m, made, p->data, made->end), ==, error);

    stl_be_p(before + s->off(p), value);
    if (!(m->vnet_flags & MAKE_NEEDS_CSUM)) {
        memcpy(before + made->l4 + 16, p->data + made->l4 + 16, 2);
    }
    g_assert_cmpmem(before, made->size, p->data, p->size);
}

static void check_setters(const Make *m, uint16_t error)
{
    static const uint32_t edges[] = { 0, 1, 0xffff, 0x10000, 0xffff0000,
                                      0x7fffffff, 0x80000000, UINT32_MAX };
    ColoPacket *p, *again;
    uint8_t *csum;
    Made made;

    make(m, &made);
    csum = made.data + made.l4 + 16;
    stw_be_p(csum, lduw_be_p(csum) ^ error);
    p = colo_packet_new(made.data, made.size, m->vnet);
    g_assert_cmpuint(p->kind, ==, COLO_PACKET_TCP);
    g_assert_cmphex(!tcp_csum_error(m, &made, p->data, made.end), ==, !error);

    for (unsigned i = 0; i < ARRAY_SIZE(setters) * 100; i++) {
        unsigned n = i / ARRAY_SIZE(setters);

        set_and_check(m, &made, p, &setters[i % ARRAY_SIZE(setters)],
                      n < ARRAY_SIZE(edges) ? edges[n]
                      : g_test_rand_int());
    }
    /* What the packet remembers is what a look at its data would tell */
    again = colo_packet_copy(p);
    colo_packet_parse(again);
    g_assert_cmphex(again->seq, ==, p->seq);
    g_assert_cmphex(again->ack, ==, p->ack);
    g_assert(colo_flow_key_equal(&again->key, &p->key));
    colo_packet_free(again);
    colo_packet_free(p);
}

static void test_setters(void)
{
    Make makes[] = {
        { TCP_FIELDS, .payload_len = 33, .padding = 4 },
        { TCP_FIELDS, .payload_len = 0, .ip_options = 8, .ntags = 2,
          .tpid = { 0x88a8, 0x8100 }, .tci = { 1, 2 } },
        { TCP_FIELDS, .payload_len = 1460, .v6 = true },
        { TCP_FIELDS, .payload_len = 70000, .v6 = true, .vnet = 10,
          .gso_type = MAKE_GSO_TCPV6, .gso_size = 1400, .zero_len = true },
        { TCP_FIELDS, .payload_len = 7, .v6 = true, .vnet = 12,
          .exts = { MAKE_HOP_BY_HOP, MAKE_DEST }, .nexts = 2 },
        { TCP_FIELDS, .payload_len = 2000, .vnet = 12,
          .vnet_flags = MAKE_NEEDS_CSUM, .gso_type = MAKE_GSO_TCPV4,
          .gso_size = 700 },
        { TCP_FIELDS, .payload_len = 1, .v6 = true, .vnet = 10,
          .vnet_flags = MAKE_NEEDS_CSUM },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(makes); i++) {
        makes[i].options_len = 40;
        memcpy(makes[i].options, aligned, 40);
        check_setters(&makes[i], 0);
        check_setters(&makes[i], 0x0101);
        memcpy(makes[i].options, odd, 40);
        check_setters(&makes[i], 0);
    }
}

/* NEEDS_CSUM for something else than this header: the checksum is whole */
static void test_setters_other_csum(void)
{
    Make m = { TCP_FIELDS, .vnet = 10, .payload_len = 100 };

    for (unsigned i = 0; i < 3; i++) {
        ColoPacket *p;
        Made made;

        make(&m, &made);
        made.data[0] = MAKE_NEEDS_CSUM;
        stw_he_p(made.data + 6, made.l4 - made.eth + (i == 0));
        stw_he_p(made.data + 8, i == 1 ? 6 : 16);
        p = colo_packet_new(made.data, made.size, m.vnet);
        colo_packet_set_seq(p, 0x12345678);
        if (i < 2) {
            g_assert_cmphex(tcp_csum_error(&m, &made, p->data, p->size), ==,
                            0);
        } else {
            g_assert_cmphex(tcp_csum_error(&m, &made, p->data, p->size), !=,
                            0);
        }
        colo_packet_free(p);
    }
}

/* Life and keys */

static void test_copy(void)
{
    Make m = { TCP_FIELDS, .vnet = 12, .payload_len = 10 };
    ColoPacket *p = make_packet(&m);
    ColoPacket *copy;

    p->epoch = 5;
    p->arrived_ms = 6;
    copy = colo_packet_copy(p);
    g_assert(copy->data != p->data);
    g_assert_cmpmem(copy->data, copy->size, p->data, p->size);
    g_assert(colo_flow_key_equal(&copy->key, &p->key));
    g_assert_cmpuint(copy->epoch, ==, 5);
    g_assert_cmpint(copy->arrived_ms, ==, 6);
    copy->data[20] = 0xff;
    colo_packet_parse(copy);
    g_assert_cmpuint(copy->epoch, ==, 5);
    g_assert_cmpint(copy->arrived_ms, ==, 6);
    g_assert_cmpuint(copy->vnet_hdr_len, ==, 12);
    colo_packet_free(p);
    colo_packet_free(copy);
    colo_packet_free(NULL);
}

/* A packet with its data behind it is like any other, and so are its copies */
static void test_behind(void)
{
    Make m = { TCP_FIELDS, .vnet = 12, .payload_len = 10 };
    ColoPacket *p = make_packet(&m);
    ColoPacket *made[2], *copy;
    uint8_t *room = g_malloc(COLO_PACKET_ROOM + p->size);

    memset(room, 0xee, COLO_PACKET_ROOM);
    memcpy(room + COLO_PACKET_ROOM, p->data, p->size);
    made[0] = colo_packet_new_behind(room + COLO_PACKET_ROOM, p->size,
                                     p->vnet_hdr_len);
    made[1] = colo_packet_alloc(p->size, p->vnet_hdr_len);
    memcpy(made[1]->data, p->data, p->size);
    colo_packet_parse(made[1]);
    for (int i = 0; i < ARRAY_SIZE(made); i++) {
        g_assert_cmpmem(made[i]->data, made[i]->size, p->data, p->size);
        g_assert(colo_flow_key_equal(&made[i]->key, &p->key));
        g_assert_cmpuint(made[i]->payload, ==, p->payload);
        g_assert_cmpuint(made[i]->vnet_hdr_len, ==, p->vnet_hdr_len);
        g_assert_cmpuint(made[i]->epoch, ==, 0);
        g_assert_cmpint(made[i]->arrived_ms, ==, 0);
        copy = colo_packet_copy(made[i]);
        colo_packet_free(made[i]);
        g_assert_cmpmem(copy->data, copy->size, p->data, p->size);
        colo_packet_free(copy);
    }
    colo_packet_free(p);
}

static void test_key_reverse(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        ColoPacket *p = make_packet(&cases[i].make);
        ColoFlowKey r, rr;

        colo_flow_key_reverse(&p->key, &r);
        g_assert_cmpmem(r.src, 16, p->key.dst, 16);
        g_assert_cmpmem(r.dst, 16, p->key.src, 16);
        g_assert_cmpuint(r.sport, ==, p->key.dport);
        g_assert_cmpuint(r.dport, ==, p->key.sport);
        g_assert(!colo_flow_key_equal(&p->key, &r));
        colo_flow_key_reverse(&r, &rr);
        g_assert(colo_flow_key_equal(&p->key, &rr));
        g_assert_cmpuint(colo_flow_key_hash(&p->key), ==,
                         colo_flow_key_hash(&rr));
        /* In place */
        colo_flow_key_reverse(&r, &r);
        g_assert(colo_flow_key_equal(&p->key, &r));
        colo_packet_free(p);
    }
}

static void test_key_hash(void)
{
    enum { N = 1 << 14, BUCKETS = 1 << 10 };
    g_autofree unsigned *fill = g_new0(unsigned, BUCKETS);
    Make m = { TCP_FIELDS };
    ColoPacket *p = make_packet(&m);
    ColoFlowKey key = p->key;
    uint32_t hash = colo_flow_key_hash(&key);
    unsigned max = 0;

    for (size_t i = 0; i < sizeof(key); i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            ((uint8_t *)&key)[i] ^= 1 << bit;
            g_assert(!colo_flow_key_equal(&key, &p->key));
            g_assert_cmphex(colo_flow_key_hash(&key), !=, hash);
            ((uint8_t *)&key)[i] ^= 1 << bit;
        }
    }
    g_assert(colo_flow_key_equal(&key, &p->key));
    g_assert_cmphex(colo_flow_key_hash(&key), ==, hash);

    /* Clients that differ little: 16 in a bucket, if it were perfect */
    for (unsigned i = 0; i < N; i++) {
        key.sport = 1024 + i % 4096;
        key.src[3] = i / 4096;
        max = MAX(max, ++fill[colo_flow_key_hash(&key) % BUCKETS]);
    }
    g_assert_cmpuint(max, <, 64);
    colo_packet_free(p);
}

static void test_seq(void)
{
    static const uint32_t base[] = { 0, 1, 0x7fffffff, 0x80000000, UINT32_MAX };

    for (unsigned i = 0; i < ARRAY_SIZE(base); i++) {
        uint32_t a = base[i];

        g_assert(!colo_seq_lt(a, a));
        g_assert(colo_seq_le(a, a));
        g_assert(colo_seq_lt(a, a + 1));
        g_assert(colo_seq_lt(a, a + 0x7fffffff));
        g_assert(!colo_seq_lt(a, a - 1));
        g_assert(!colo_seq_le(a, a - 1));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autofree char *kind = g_strdup_printf("/colo/packet/kind/%s",
                                                cases[i].name);
        g_autofree char *cut = g_strdup_printf("/colo/packet/short/%s",
                                               cases[i].name);
        g_autofree char *head = g_strdup_printf("/colo/packet/head/%s",
                                               cases[i].name);

        g_test_add_data_func(kind, &cases[i], test_kind);
        g_test_add_data_func(cut, &cases[i], test_short);
        g_test_add_data_func(head, &cases[i], test_head);
    }
    g_test_add_func("/colo/packet/arp", test_arp);
    g_test_add_func("/colo/packet/noise", test_noise);
    g_test_add_func("/colo/packet/malformed/ip", test_malformed_ip);
    g_test_add_func("/colo/packet/malformed/transport",
                    test_malformed_transport);
    g_test_add_func("/colo/packet/malformed/fragment",
                    test_malformed_fragment);
    g_test_add_func("/colo/packet/options", test_options);
    g_test_add_func("/colo/packet/set", test_setters);
    g_test_add_func("/colo/packet/set/other-csum", test_setters_other_csum);
    g_test_add_func("/colo/packet/copy", test_copy);
    g_test_add_func("/colo/packet/behind", test_behind);
    g_test_add_func("/colo/packet/key/reverse", test_key_reverse);
    g_test_add_func("/colo/packet/key/hash", test_key_hash);
    g_test_add_func("/colo/packet/seq", test_seq);
    return g_test_run();
}
