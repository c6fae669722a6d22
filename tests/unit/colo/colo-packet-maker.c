/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packets for tests of the COLO proxy.
 *
 * Layer by layer from the inside out, as a guest makes them; checksums are
 * computed over all they cover.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "colo-packet-maker.h"

static const uint8_t src6[16] = { 0xfd, 0, 0, 1, [15] = 0x11 };
static const uint8_t dst6[16] = { 0xfd, 0, 0, 2, [15] = 0x22 };
static const uint8_t src4[4] = { 10, 1, 2, 3 };
static const uint8_t dst4[4] = { 192, 168, 77, 88 };

uint32_t sum_words(const uint8_t *buf, size_t size)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < size; i++) {
        sum += i % 2 ? buf[i] : buf[i] << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

uint16_t sum_fold(uint32_t sum)
{
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

static uint8_t proto_of(const Make *m)
{
    return m->proto ? m->proto : MAKE_TCP;
}

static uint16_t pseudo_sum(const Make *m, uint32_t len)
{
    uint32_t sum = proto_of(m) + (len >> 16) + (len & 0xffff);

    sum += m->v6 ? sum_words(src6, 16) + sum_words(dst6, 16)
                 : sum_words(src4, 4) + sum_words(dst4, 4);
    return sum_fold(sum);
}

static void put16(GByteArray *b, uint16_t v)
{
    uint8_t buf[2];

    stw_be_p(buf, v);
    g_byte_array_append(b, buf, sizeof(buf));
}

static void put32(GByteArray *b, uint32_t v)
{
    put16(b, v >> 16);
    put16(b, v);
}

static void put8(GByteArray *b, uint8_t v)
{
    g_byte_array_append(b, &v, 1);
}

static void put_payload(GByteArray *b, const Make *m)
{
    for (unsigned i = 0; i < m->payload_len; i++) {
        put8(b, (i * 7 + i / 251 + m->payload_seed) & 0xff);
    }
}

/* Returns the length of the header; @csum: offset of its checksum, 0: none */
static unsigned put_transport_header(GByteArray *b, const Make *m,
                                     unsigned *csum)
{
    *csum = 0;
    switch (proto_of(m)) {
    case MAKE_TCP:
        put16(b, m->sport);
        put16(b, m->dport);
        put32(b, m->seq);
        put32(b, m->ack);
        put8(b, (20 + m->options_len) / 4 << 4);
        put8(b, m->flags);
        put16(b, m->window);
        put16(b, 0);
        put16(b, m->urgent);
        g_byte_array_append(b, m->options, m->options_len);
        *csum = 16;
        break;
    case MAKE_UDP:
        put16(b, m->sport);
        put16(b, m->dport);
        put16(b, 8 + m->payload_len);
        put16(b, 0);
        *csum = 6;
        break;
    case MAKE_ICMP:
    case MAKE_ICMPV6:
        if ((proto_of(m) == MAKE_ICMPV6) == m->v6) {
            put32(b, 0x80000000);
            put32(b, 0x12340001);
            *csum = 2;
        }
        break;
    }
    return b->len;
}

static GByteArray *make_transport(const Make *m, unsigned *header,
                                  unsigned *csum_off)
{
    GByteArray *b = g_byte_array_new();
    uint32_t sum = 0;

    *header = put_transport_header(b, m, csum_off);
    put_payload(b, m);
    if (*csum_off) {
        if (proto_of(m) != MAKE_ICMP) {
            sum = pseudo_sum(m, b->len);
        }
        if (!(m->vnet_flags & MAKE_NEEDS_CSUM)) {
            sum = ~sum_fold(sum + sum_words(b->data, b->len));
        }
        stw_be_p(b->data + *csum_off, sum);
    }
    return b;
}

static void put_ipv4(GByteArray *b, const Make *m, unsigned len)
{
    unsigned begin = b->len;
    unsigned header = 20 + m->ip_options;

    put8(b, 0x40 | header / 4);
    put8(b, m->tos);
    put16(b, m->zero_len ? 0 : header + len);
    put16(b, m->fragment ? m->frag_id : m->ip_id);
    put16(b, (m->df ? 0x4000 : 0) | (m->frag_more ? 0x2000 : 0) |
             (m->fragment ? m->frag_offset / 8 : 0));
    put8(b, m->ttl);
    put8(b, proto_of(m));
    put16(b, 0);
    g_byte_array_append(b, src4, 4);
    g_byte_array_append(b, dst4, 4);
    for (unsigned i = 0; i < m->ip_options; i++) {
        put8(b, 1);
    }
    stw_be_p(b->data + begin + 10,
             ~sum_fold(sum_words(b->data + begin, header)));
}

static void put_ipv6(GByteArray *b, const Make *m, unsigned len)
{
    unsigned before = m->fragment ? 8 : 0;

    for (unsigned i = 0; i < m->nexts; i++) {
        before += m->exts[i] == MAKE_DEST ? 24 : 8;
    }
    put32(b, 6u << 28 | m->tos << 20 | m->flow_label);
    put16(b, m->zero_len ? 0 : before + len);
    put8(b, m->nexts ? m->exts[0] : m->fragment ? 44 : proto_of(m));
    put8(b, m->ttl);
    g_byte_array_append(b, src6, 16);
    g_byte_array_append(b, dst6, 16);
    for (unsigned i = 0; i < m->nexts; i++) {
        unsigned words = m->exts[i] == MAKE_DEST ? 3 : 1;

        put8(b, i + 1 < m->nexts ? m->exts[i + 1]
                                 : m->fragment ? 44 : proto_of(m));
        put8(b, words - 1);
        for (unsigned j = 2; j < words * 8; j++) {
            put8(b, 0);
        }
    }
    if (m->fragment) {
        put8(b, proto_of(m));
        put8(b, 0);
        put16(b, m->frag_offset | m->frag_more);
        put32(b, m->frag_id);
    }
}

static void put_ethernet(GByteArray *b, const Make *m)
{
    static const uint8_t macs[12] = { 2, 0, 0, 0, 0, 0xd, 2, 0, 0, 0, 0, 0x5 };

    g_byte_array_append(b, macs, sizeof(macs));
    for (unsigned i = 0; i < m->ntags; i++) {
        put16(b, m->tpid[i]);
        put16(b, m->tci[i]);
    }
    put16(b, m->ethertype ? m->ethertype : m->v6 ? 0x86dd : 0x800);
}

static void put_vnet(Made *made, const Make *m, unsigned csum_off)
{
    if (m->vnet >= 10) {
        made->data[0] = m->vnet_flags;
        made->data[1] = m->gso_type;
        stw_he_p(made->data + 2, m->hdr_len);
        stw_he_p(made->data + 4, m->gso_size);
        if (m->vnet_flags & MAKE_NEEDS_CSUM) {
            stw_he_p(made->data + 6, made->l4 - made->eth);
            stw_he_p(made->data + 8, csum_off);
        }
    }
}

void make(const Make *m, Made *made)
{
    g_autoptr(GByteArray) inner = NULL;
    GByteArray *b = g_byte_array_new();
    unsigned header = 0, csum_off = 0;

    g_byte_array_set_size(b, m->vnet);
    if (m->vnet) {
        memset(b->data, 0, m->vnet);
    }
    made->eth = m->vnet;
    put_ethernet(b, m);
    made->l3 = b->len;
    if (m->ethertype) {
        made->l4 = b->len;
        put_payload(b, m);
    } else {
        unsigned from = m->fragment ? m->frag_offset : 0;
        unsigned len;

        inner = make_transport(m, &header, &csum_off);
        g_assert(from <= inner->len);
        len = m->fragment && m->frag_len ? m->frag_len : inner->len - from;
        g_assert(len <= inner->len - from);
        if (m->v6) {
            put_ipv6(b, m, len);
        } else {
            put_ipv4(b, m, len);
        }
        made->l4 = b->len;
        g_byte_array_append(b, inner->data + from, len);
    }
    made->payload = made->l4 + (m->fragment ? 0 : header);
    made->end = b->len;
    for (unsigned i = 0; i < m->padding; i++) {
        put8(b, 0xee);
    }
    made->size = b->len;
    made->data = g_byte_array_free(b, false);
    put_vnet(made, m, csum_off);
}

ColoPacket *make_packet(const Make *m)
{
    Made made;

    make(m, &made);
    return colo_packet_new(made.data, made.size, m->vnet);
}

uint16_t tcp_csum_error(const Make *m, const Made *made, const uint8_t *data,
                        uint32_t size)
{
    uint32_t len = size - made->l4;
    uint16_t is = lduw_be_p(data + made->l4 + 16);
    uint32_t sum = pseudo_sum(m, len);

    if (m->vnet_flags & MAKE_NEEDS_CSUM) {
        g_assert_cmphex(lduw_he_p(data + 6), ==, made->l4 - made->eth);
        g_assert_cmphex(lduw_he_p(data + 8), ==, 16);
        return sum_fold((uint16_t)~is + sum_fold(sum)) ^ 0xffff;
    }
    return sum_fold(sum + sum_words(data + made->l4, len)) ^ 0xffff;
}

void check_ip(const Make *m, uint32_t l3, const uint8_t *data, uint32_t size)
{
    const uint8_t *ip = data + l3;
    uint32_t len = size - l3 - (m->v6 ? 40 : 0);

    if (len > UINT16_MAX) {
        /* Only GSO can be so long, and says so */
        g_assert_cmphex(data[1] & ~MAKE_GSO_ECN, !=, 0);
        len = 0;
    }
    if (m->v6) {
        g_assert_cmpuint(lduw_be_p(ip + 4), ==, len);
    } else {
        g_assert_cmpuint(lduw_be_p(ip + 2), ==, len);
        g_assert_cmphex(sum_fold(sum_words(ip, 20 + m->ip_options)), ==,
                        0xffff);
    }
}

void check_lengths(const Make *m, const Made *made, const uint8_t *data,
                   uint32_t size)
{
    g_assert_cmpuint(size, >=, made->payload);
    check_ip(m, made->l3, data, size);
    g_assert_cmpuint(data[made->l4 + 12] >> 4, ==,
                     (made->payload - made->l4) / 4);
}
