/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO packets: when two of them mean the same.
 *
 * Proves, bit by bit: each one that a receiver would act on makes a
 * difference, and each one that two guests may choose differently for the
 * same meaning makes none.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "colo-packet-maker.h"

/* A mask a byte: these bits do not count */
typedef struct Free {
    uint8_t bits[400];
} Free;

static void set_free(Free *f, uint32_t from, uint32_t to, uint8_t bits)
{
    for (uint32_t i = from; i < to; i++) {
        f->bits[i] = bits;
    }
}

static void free_ip_ids(Free *f, const Make *m, const Made *made)
{
    if (m->v6) {
        /* Flow label */
        set_free(f, made->l3 + 1, made->l3 + 2, 0x0f);
        set_free(f, made->l3 + 2, made->l3 + 4, 0xff);
    } else {
        /* Identification, DF, checksum */
        set_free(f, made->l3 + 4, made->l3 + 6, 0xff);
        set_free(f, made->l3 + 6, made->l3 + 7, 0x40);
        set_free(f, made->l3 + 10, made->l3 + 12, 0xff);
    }
}

/* What does not count in a datagram */
static void free_in_datagram(Free *f, const Make *m, const Made *made)
{
    memset(f, 0, sizeof(*f));
    set_free(f, 0, made->eth, 0xff);
    if (!m->ethertype) {
        free_ip_ids(f, m, made);
        set_free(f, made->end, made->size, 0xff);
    }
    if (m->proto == MAKE_UDP) {
        set_free(f, made->l4 + 6, made->l4 + 8, 0xff);
    } else if (m->proto == (m->v6 ? MAKE_ICMPV6 : MAKE_ICMP)) {
        set_free(f, made->l4 + 2, made->l4 + 4, 0xff);
    }
}

/* What does not count in a segment with SYN, of no IP options or headers */
static void free_in_syn(Free *f, const Make *m, const Made *made)
{
    memset(f, 0, sizeof(*f));
    set_free(f, 0, made->eth + 12, 0xff);
    if (m->ntags) {
        set_free(f, made->eth + 14, made->eth + 15, 0xf0);
    }
    free_ip_ids(f, m, made);
    if (m->v6) {
        set_free(f, made->l3, made->l3 + 1, 0x0f);
        set_free(f, made->l3 + 1, made->l3 + 4, 0xff);
        set_free(f, made->l3 + 7, made->l3 + 8, 0xff);
    } else {
        set_free(f, made->l3 + 1, made->l3 + 2, 0xff);
        set_free(f, made->l3 + 6, made->l3 + 7, 0xc0);
        set_free(f, made->l3 + 8, made->l3 + 9, 0xff);
    }
    set_free(f, made->l4 + 4, made->l4 + 8, 0xff);
    if (!(m->flags & COLO_TCP_ACK)) {
        set_free(f, made->l4 + 8, made->l4 + 12, 0xff);
    }
    set_free(f, made->l4 + 16, made->l4 + 20, 0xff);
    for (unsigned i = 0; i < m->options_len; i++) {
        if (m->options[i] == 8 && m->options[i + 1] == 10) {
            set_free(f, made->l4 + 20 + i + 2, made->l4 + 20 + i + 10, 0xff);
            break;
        }
    }
    set_free(f, made->end, made->size, 0xff);
}

typedef bool Same(const ColoPacket *a, const ColoPacket *b);

static void check_bits(const Make *m, const Made *made, const Free *f,
                       Same *same)
{
    ColoPacket *a = colo_packet_new(g_memdup2(made->data, made->size),
                                    made->size, m->vnet);
    ColoPacket *b = colo_packet_copy(a);

    g_assert_cmpuint(made->size, <=, sizeof(f->bits));
    g_assert(same(a, b));
    for (uint32_t i = 0; i < made->size; i++) {
        for (unsigned bit = 1; bit <= 0x80; bit <<= 1) {
            bool expected = f->bits[i] & bit;

            b->data[i] ^= bit;
            colo_packet_parse(b);
            if (same(a, b) != expected || same(b, a) != expected) {
                g_test_message("byte %u (l3 %u, l4 %u), bit 0x%x: not %d", i,
                               made->l3, made->l4, bit, expected);
                g_test_fail();
            }
            b->data[i] ^= bit;
        }
    }
    colo_packet_parse(b);
    g_assert(same(a, b));
    colo_packet_free(a);
    colo_packet_free(b);
}

static const Make datagrams[] = {
    { .proto = MAKE_UDP, .sport = 53, .dport = 1024, .payload_len = 20,
      .padding = 3, .ttl = 64 },
    { .proto = MAKE_UDP, .sport = 53, .payload_len = 9, .ip_options = 8,
      .vnet = 12, .ntags = 1, .tpid = { 0x8100 }, .tci = { 5 } },
    { .proto = MAKE_UDP, .v6 = true, .payload_len = 9, .padding = 1,
      .exts = { MAKE_HOP_BY_HOP, MAKE_DEST }, .nexts = 2, .ttl = 255 },
    { .proto = MAKE_ICMP, .payload_len = 16, .tos = 0xc0 },
    { .proto = MAKE_ICMPV6, .v6 = true, .payload_len = 24, .vnet = 10,
      .ntags = 2, .tpid = { 0x88a8, 0x8100 }, .tci = { 5, 6 } },
    { .proto = MAKE_ICMPV6, .payload_len = 24 },
    { .proto = MAKE_SCTP, .payload_len = 30, .padding = 2 },
    { .proto = MAKE_AH, .v6 = true, .payload_len = 30, .padding = 2 },
    { .ethertype = 0x88cc, .payload_len = 46, .vnet = 10 },
};

static void test_datagram(gconstpointer v)
{
    const Make *m = v;
    Made made;
    Free f;

    make(m, &made);
    free_in_datagram(&f, m, &made);
    check_bits(m, &made, &f, colo_packet_same_datagram);
    g_free(made.data);
}

static bool same_datagram(const Make *a, const Make *b)
{
    ColoPacket *p = make_packet(a);
    ColoPacket *q = make_packet(b);
    bool same = colo_packet_same_datagram(p, q);

    g_assert_cmpint(same, ==, colo_packet_same_datagram(q, p));
    colo_packet_free(p);
    colo_packet_free(q);
    return same;
}

/* The same datagram as one guest or the other may hand it over */
static void test_datagram_dress(void)
{
    const Make plain = { .proto = MAKE_UDP, .payload_len = 20, .ttl = 9 };
    Make m = plain;

    m.vnet = 10;
    m.vnet_flags = MAKE_NEEDS_CSUM;
    g_assert(same_datagram(&plain, &m));
    m.vnet = 12;
    m.padding = 7;
    m.ip_id = 99;
    m.df = true;
    g_assert(same_datagram(&plain, &m));

    m = plain;
    m.payload_len++;
    g_assert(!same_datagram(&plain, &m));
    m = plain;
    m.ip_options = 4;
    g_assert(!same_datagram(&plain, &m));
    m = plain;
    m.proto = MAKE_ICMP;
    g_assert(!same_datagram(&plain, &m));
    m = plain;
    m.v6 = true;
    g_assert(!same_datagram(&plain, &m));
    m = plain;
    m.ntags = 1;
    m.tpid[0] = 0x8100;
    g_assert(!same_datagram(&plain, &m));
}

/* Headers of the same bytes, and only the one before names them */
static void test_datagram_headers(void)
{
    const Make a = { .proto = MAKE_UDP, .v6 = true, .payload_len = 5,
                     .exts = { MAKE_HOP_BY_HOP }, .nexts = 1 };
    Make b = a;

    g_assert(same_datagram(&a, &b));
    b.exts[0] = MAKE_ROUTING;
    g_assert(!same_datagram(&a, &b));
}

/* One frame, several datagrams: their length is in the vnet header */
static void test_datagram_gso(void)
{
    const Make whole = { .proto = MAKE_UDP, .payload_len = 200, .vnet = 10 };
    Make a = whole, b;

    a.gso_type = MAKE_GSO_UDP_L4;
    a.gso_size = 100;
    b = a;
    g_assert(same_datagram(&a, &b));
    b.vnet = 12;
    g_assert(same_datagram(&a, &b));
    b.gso_size = 50;
    g_assert(!same_datagram(&a, &b));
    g_assert(!same_datagram(&a, &whole));
    /* Fragments are put together before anybody looks */
    b = whole;
    b.gso_type = 3;
    g_assert(same_datagram(&whole, &b));
}

static void test_datagram_not(void)
{
    const Make tcp = { .payload_len = 5 };
    const Make fragment = { .proto = MAKE_UDP, .payload_len = 64,
                            .fragment = true, .frag_len = 32,
                            .frag_more = true };

    g_assert(!same_datagram(&tcp, &tcp));
    g_assert(!same_datagram(&fragment, &fragment));
}

/* Bytes that are not even a frame */
static void test_raw_short(void)
{
    for (uint32_t size = 0; size < 26; size++) {
        for (uint32_t other = 0; other < 26; other++) {
            ColoPacket *a = colo_packet_new(g_malloc0(size), size, 12);
            ColoPacket *b = colo_packet_new(g_malloc0(other), other, 12);
            uint32_t frame_a = size > 12 ? size - 12 : 0;
            uint32_t frame_b = other > 12 ? other - 12 : 0;

            g_assert_cmpint(colo_packet_same_datagram(a, b), ==,
                            frame_a == frame_b);
            if (size > 12 && size == other) {
                b->data[size - 1] ^= 1;
                colo_packet_parse(b);
                g_assert(!colo_packet_same_datagram(a, b));
            }
            colo_packet_free(a);
            colo_packet_free(b);
        }
    }
}

#define SYN_FIELDS  .sport = 40000, .dport = 80, .window = 64240, \
                    .seq = 12345, .ack = 0x0f0f0f0f, .ttl = 64

static const Make syns[] = {
    { SYN_FIELDS, .flags = COLO_TCP_SYN,
      .options = { 2, 4, 5, 180, 4, 2, 8, 10, [16] = 1, 3, 3, 7 },
      .options_len = 20, .padding = 2 },
    { SYN_FIELDS, .flags = COLO_TCP_SYN | COLO_TCP_ACK, .vnet = 10,
      .options = { 2, 4, 5, 180, 1, 1, 8, 10 }, .options_len = 16,
      .ntags = 1, .tpid = { 0x8100 }, .tci = { 5 } },
    { SYN_FIELDS, .flags = COLO_TCP_SYN | COLO_TCP_ACK, .v6 = true,
      .options = { 2, 4, 5, 180 }, .options_len = 4, .payload_len = 10 },
    { SYN_FIELDS, .flags = COLO_TCP_SYN | 0xc0, .v6 = true, .vnet = 12,
      .vnet_flags = MAKE_NEEDS_CSUM },
};

static void test_syn(gconstpointer v)
{
    const Make *m = v;
    Made made;
    Free f;

    make(m, &made);
    free_in_syn(&f, m, &made);
    check_bits(m, &made, &f, colo_packet_same_syn);
    g_free(made.data);
}

static bool same_syn(const Make *a, const Make *b)
{
    ColoPacket *p = make_packet(a);
    ColoPacket *q = make_packet(b);
    bool same = colo_packet_same_syn(p, q);

    g_assert_cmpint(same, ==, colo_packet_same_syn(q, p));
    colo_packet_free(p);
    colo_packet_free(q);
    return same;
}

static void test_syn_dress(void)
{
    const Make udp = { .proto = MAKE_UDP, .payload_len = 40 };
    const Make plain = syns[0];
    Make m = plain;

    m.vnet = 12;
    m.vnet_flags = MAKE_NEEDS_CSUM;
    m.ip_id = 5;
    m.seq = 6;
    m.ip_options = 4;
    g_assert(same_syn(&plain, &m));
    m.payload_len = 1;
    g_assert(!same_syn(&plain, &m));
    m = plain;
    m.options_len -= 4;
    g_assert(!same_syn(&plain, &m));
    /* No SYN, no segment */
    m = plain;
    m.flags = COLO_TCP_ACK;
    g_assert(!same_syn(&m, &m));
    g_assert(!same_syn(&udp, &udp));
}

static bool is_membership(const Make *m, int type)
{
    ColoPacket *p = make_packet(m);
    bool is;

    if (type) {
        p->data[p->l4] = type;
    }
    is = colo_packet_is_membership(p);
    colo_packet_free(p);
    return is;
}

static void test_membership(void)
{
    const Make mld = { .proto = MAKE_ICMPV6, .v6 = true, .payload_len = 20,
                       .exts = { MAKE_HOP_BY_HOP }, .nexts = 1 };
    const Make v4 = { .proto = MAKE_ICMPV6, .payload_len = 20 };
    const Make igmp = { .proto = 2, .payload_len = 8 };
    const Make not_v6 = { .proto = 2, .v6 = true, .payload_len = 8 };
    const Make udp = { .proto = MAKE_UDP, .payload_len = 20 };

    g_assert(is_membership(&igmp, 0));
    g_assert(!is_membership(&not_v6, 0));
    for (int type = 1; type < 256; type++) {
        g_assert_cmpint(is_membership(&mld, type), ==,
                        (type >= 130 && type <= 132) || type == 143);
        g_assert(!is_membership(&v4, type));
        g_assert(!is_membership(&udp, type));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(datagrams); i++) {
        g_autofree char *name =
            g_strdup_printf("/colo/packet/same-datagram/bits/%u", i);

        g_test_add_data_func(name, &datagrams[i], test_datagram);
    }
    g_test_add_func("/colo/packet/same-datagram/dress", test_datagram_dress);
    g_test_add_func("/colo/packet/same-datagram/headers",
                    test_datagram_headers);
    g_test_add_func("/colo/packet/same-datagram/gso", test_datagram_gso);
    g_test_add_func("/colo/packet/same-datagram/not", test_datagram_not);
    g_test_add_func("/colo/packet/same-datagram/short", test_raw_short);
    for (unsigned i = 0; i < ARRAY_SIZE(syns); i++) {
        g_autofree char *name =
            g_strdup_printf("/colo/packet/same-syn/bits/%u", i);

        g_test_add_data_func(name, &syns[i], test_syn);
    }
    g_test_add_func("/colo/packet/same-syn/dress", test_syn_dress);
    g_test_add_func("/colo/packet/membership", test_membership);
    return g_test_run();
}
