/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO packets: segments made of other ones.
 *
 * Proves: what is cut in two has all bytes, sequence numbers and flags of
 * what it was, and each part is a segment that a receiver takes; so is an
 * acknowledgement without data.  A wrong checksum is not made right.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "colo-packet-maker.h"

#define TCP_FIELDS      .sport = 0x1234, .dport = 443, .seq = 0xfffffff0, \
                        .ack = 0x80000001, .window = 501, .ttl = 64, \
                        .ip_id = 0xfffe

#define OPTIONS         .options = { 1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8 }, \
                        .options_len = 12

#define ALL_FLAGS       0xff
#define FIN             0x01
#define SYN             0x02
#define PSH             0x08
#define ACK             0x10
#define URG             0x20
#define CWR             0x80

static const Make makes[] = {
    { TCP_FIELDS, .payload_len = 100, .flags = ACK | PSH | FIN },
    { TCP_FIELDS, .payload_len = 101, .flags = ACK, .padding = 5, OPTIONS },
    { TCP_FIELDS, .payload_len = 64, .flags = ACK, .ip_options = 12,
      .ntags = 2, .tpid = { 0x88a8, 0x8100 }, .tci = { 1, 0xe002 } },
    { TCP_FIELDS, .payload_len = 99, .flags = ACK, .v6 = true },
    { TCP_FIELDS, .payload_len = 98, .flags = ALL_FLAGS & ~SYN, .v6 = true,
      .urgent = 40, .exts = { MAKE_HOP_BY_HOP, MAKE_DEST }, .nexts = 2,
      OPTIONS, .vnet = 12, .hdr_len = 200 },
    { TCP_FIELDS, .payload_len = 90, .flags = ACK | URG | CWR, .urgent = 90,
      .vnet = 10, .vnet_flags = MAKE_NEEDS_CSUM, .hdr_len = 54 },
    { TCP_FIELDS, .payload_len = 90, .flags = ACK | SYN, .vnet = 12,
      .vnet_flags = MAKE_NEEDS_CSUM, .v6 = true, .hdr_len = 20 },
    { TCP_FIELDS, .payload_len = 500, .flags = ACK | PSH | CWR, .vnet = 12,
      .vnet_flags = MAKE_NEEDS_CSUM, .gso_size = 100, .hdr_len = 66,
      .gso_type = MAKE_GSO_TCPV4 | MAKE_GSO_ECN, OPTIONS },
    { TCP_FIELDS, .payload_len = 501, .flags = ACK, .vnet = 12,
      .gso_type = MAKE_GSO_TCPV4, .gso_size = 250, .zero_len = true },
    { TCP_FIELDS, .payload_len = 66000, .flags = ACK, .vnet = 12, .v6 = true,
      .gso_type = MAKE_GSO_TCPV6, .gso_size = 1400, .zero_len = true,
      .vnet_flags = MAKE_NEEDS_CSUM },
    /* No such things, but they may come */
    { TCP_FIELDS, .payload_len = 50, .flags = ACK, .vnet = 10,
      .gso_type = MAKE_GSO_TCPV4, .gso_size = 0 },
    { TCP_FIELDS, .payload_len = 66000, .flags = ACK, .vnet = 12,
      .gso_type = MAKE_GSO_TCPV4, .gso_size = 65535, .zero_len = true },
    { TCP_FIELDS, .payload_len = 66000, .flags = ACK, .vnet = 12, .v6 = true,
      .gso_type = MAKE_GSO_TCPV6, .gso_size = 65535, .zero_len = true,
      .vnet_flags = MAKE_NEEDS_CSUM },
};

static unsigned field8(const Made *made, const ColoPacket *p, unsigned off)
{
    return p->data[made->l4 + off];
}

static uint32_t field32(const Made *made, const ColoPacket *p, unsigned off)
{
    return ldl_be_p(p->data + made->l4 + off);
}

/* All that is the same for each segment that is made of @m */
static void check_segment(const Make *m, const Made *made, const ColoPacket *p,
                          uint16_t error)
{
    ColoPacket *again;

    check_lengths(m, made, p->data, p->size);
    g_assert_cmphex(tcp_csum_error(m, made, p->data, p->size), ==, error);

    /* Headers: only what has to change */
    g_assert_cmpmem(p->data + made->eth, made->l3 - made->eth,
                    made->data + made->eth, made->l3 - made->eth);
    if (m->v6) {
        g_assert_cmpmem(p->data + made->l3, 4, made->data + made->l3, 4);
        g_assert_cmpmem(p->data + made->l3 + 6, made->l4 - made->l3 - 6,
                        made->data + made->l3 + 6, made->l4 - made->l3 - 6);
    } else {
        g_assert_cmpmem(p->data + made->l3, 2, made->data + made->l3, 2);
        g_assert_cmpmem(p->data + made->l3 + 6, 4,
                        made->data + made->l3 + 6, 4);
        g_assert_cmpmem(p->data + made->l3 + 12, made->l4 - made->l3 - 12,
                        made->data + made->l3 + 12, made->l4 - made->l3 - 12);
    }
    g_assert_cmpmem(p->data + made->l4, 4, made->data + made->l4, 4);
    g_assert_cmpmem(p->data + made->l4 + 14, 2, made->data + made->l4 + 14, 2);
    g_assert_cmpmem(p->data + made->l4 + 20, made->payload - made->l4 - 20,
                    made->data + made->l4 + 20,
                    made->payload - made->l4 - 20);

    /* What it says about itself is what is in it, in memory of that size */
    again = colo_packet_copy(p);
    memset(&again->key, 0xff, sizeof(again->key));
    colo_packet_parse(again);
    g_assert_cmpuint(again->kind, ==, COLO_PACKET_TCP);
    g_assert(colo_flow_key_equal(&again->key, &p->key));
    g_assert_cmpuint(p->kind, ==, COLO_PACKET_TCP);
    g_assert_cmpuint(p->l4, ==, made->l4);
    g_assert_cmpuint(p->payload, ==, made->payload);
    g_assert_cmpuint(p->payload_len, ==, p->size - made->payload);
    g_assert_cmpuint(p->ts_off, ==, again->ts_off);
    g_assert_cmphex(p->seq, ==, field32(made, p, 4));
    g_assert_cmphex(p->ack, ==, field32(made, p, 8));
    g_assert_cmphex(p->tcp_flags, ==, field8(made, p, 13));
    g_assert_cmpuint(p->epoch, ==, 77);
    g_assert_cmpint(p->arrived_ms, ==, 88);
    colo_packet_free(again);
}

static void check_vnet(const Make *m, const Made *made, const ColoPacket *p)
{
    uint32_t ip_len = p->size - made->l3 - (m->v6 ? 40 : 0);
    bool gso = m->gso_type && p->payload_len &&
               (p->payload_len > m->gso_size || ip_len > UINT16_MAX);

    if (m->vnet == 0) {
        return;
    }
    g_assert_cmphex(p->data[0], ==, m->vnet_flags);
    g_assert_cmphex(p->data[1], ==, gso ? m->gso_type : 0);
    g_assert_cmpuint(lduw_he_p(p->data + 2), ==,
                     MIN(m->hdr_len, made->payload - made->eth));
    g_assert_cmpuint(lduw_he_p(p->data + 4), ==, gso ? m->gso_size : 0);
}

static void check_split(const Make *m, const Made *made, uint32_t bytes,
                        uint16_t error)
{
    ColoPacket *p = colo_packet_new(g_memdup2(made->data, made->size),
                                    made->size, m->vnet);
    ColoPacket *front;
    unsigned syn = !!(m->flags & SYN);
    unsigned flags = m->flags & ~(SYN | CWR);
    unsigned ids = m->gso_size ? DIV_ROUND_UP(bytes, m->gso_size) : 1;
    unsigned urgent = m->urgent;

    p->epoch = 77;
    p->arrived_ms = 88;
    front = colo_packet_split(p, bytes);

    check_segment(m, made, front, error);
    check_vnet(m, made, front);
    g_assert_cmpuint(front->payload_len, ==, bytes);
    g_assert_cmpmem(front->data + front->payload, bytes,
                    made->data + made->payload, bytes);
    g_assert_cmphex(front->seq, ==, m->seq);
    g_assert_cmphex(front->ack, ==, m->ack);
    g_assert_cmphex(front->tcp_flags, ==, m->flags & ~(FIN | PSH));
    g_assert_cmphex(lduw_be_p(front->data + made->l4 + 18), ==, m->urgent);

    check_segment(m, made, p, error);
    check_vnet(m, made, p);
    g_assert_cmpuint(p->payload_len, ==, m->payload_len - bytes);
    g_assert_cmpmem(p->data + p->payload, p->payload_len,
                    made->data + made->payload + bytes,
                    m->payload_len - bytes);
    g_assert_cmphex(p->seq, ==, m->seq + bytes + syn);
    g_assert_cmphex(p->ack, ==, m->ack);
    if (m->flags & URG) {
        urgent = m->urgent > bytes ? m->urgent - bytes : 0;
        flags &= urgent ? 0xff : ~URG;
    }
    g_assert_cmphex(p->tcp_flags, ==, flags);
    g_assert_cmphex(lduw_be_p(p->data + made->l4 + 18), ==, urgent);
    if (!m->v6) {
        const uint8_t *id = made->data + made->l3 + 4;

        g_assert_cmpmem(front->data + made->l3 + 4, 2, id, 2);
        g_assert_cmphex(lduw_be_p(p->data + made->l3 + 4), ==,
                        (m->ip_id + ids) & 0xffff);
    }
    g_assert_cmpuint(colo_packet_seq_len(front) + colo_packet_seq_len(p), ==,
                     m->payload_len + syn + !!(m->flags & FIN));
    colo_packet_free(front);
    colo_packet_free(p);
}

static void test_split(gconstpointer v)
{
    const Make *m = v;
    Made made;

    make(m, &made);
    for (uint32_t bytes = 1; bytes < m->payload_len; bytes++) {
        check_split(m, &made, bytes, 0);
        if (bytes > 600 && bytes < m->payload_len - 1500) {
            bytes += 1399;
        }
    }
    g_free(made.data);
}

/* Into many parts, at random: together they are what there was */
static void test_split_again(gconstpointer v)
{
    const Make *m = v;
    ColoPacket *p;
    uint32_t at = 0;
    Made made;

    make(m, &made);
    p = colo_packet_new(g_memdup2(made.data, made.size), made.size, m->vnet);
    p->epoch = 77;
    p->arrived_ms = 88;
    while (p->payload_len > 1) {
        uint32_t most = MIN(p->payload_len, m->payload_len / 8);
        uint32_t bytes = g_test_rand_int_range(1, MAX(most, 2));
        ColoPacket *front = colo_packet_split(p, bytes);

        check_segment(m, &made, front, 0);
        check_segment(m, &made, p, 0);
        g_assert_cmpmem(front->data + front->payload, bytes,
                        made.data + made.payload + at, bytes);
        at += bytes;
        colo_packet_free(front);
    }
    g_assert_cmpuint(at, ==, m->payload_len - 1);
    g_assert_cmphex(p->data[p->payload], ==, made.data[made.payload + at]);
    colo_packet_free(p);
    g_free(made.data);
}

static void test_bare_ack(gconstpointer v)
{
    const Make *m = v;
    ColoPacket *model, *p;
    Made made;

    make(m, &made);
    made.data[made.l4 + 12] |= 0x05;
    model = colo_packet_new(g_memdup2(made.data, made.size), made.size,
                            m->vnet);
    /* Its checksum is not right, after that: make it so */
    if (!(m->vnet_flags & MAKE_NEEDS_CSUM)) {
        uint8_t *csum = model->data + made.l4 + 16;

        stw_be_p(csum, ~sum_fold((uint16_t)~lduw_be_p(csum) + 0x0500));
        g_assert_cmphex(tcp_csum_error(m, &made, model->data, made.end), ==,
                        0);
    }
    model->epoch = 77;
    model->arrived_ms = 88;
    p = colo_packet_bare_ack(model, 0x11223344, 0xaabbccdd);
    check_segment(m, &made, p, 0);
    check_vnet(m, &made, p);
    g_assert_cmpuint(p->payload_len, ==, 0);
    g_assert_cmphex(p->seq, ==, 0x11223344);
    g_assert_cmphex(p->ack, ==, 0xaabbccdd);
    g_assert_cmphex(p->tcp_flags, ==, ACK);
    g_assert_cmphex(field8(&made, p, 12) & 0xf, ==, 0);
    g_assert_cmphex(lduw_be_p(p->data + made.l4 + 18), ==, 0);
    g_assert_cmpuint(colo_packet_seq_len(p), ==, 0);
    colo_packet_free(p);

    /* The model is as it was */
    g_assert_cmpuint(model->size, ==, made.size);
    stw_be_p(made.data + made.l4 + 16,
             lduw_be_p(model->data + made.l4 + 16));
    g_assert_cmpmem(model->data, model->size, made.data, made.size);
    colo_packet_free(model);
    g_free(made.data);
}

/* Damage on the way stays visible: by as much as before */
static void test_wrong_checksum(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(makes); i++) {
        const Make *m = &makes[i];
        uint16_t error;
        ColoPacket *model, *ack;
        Made made;

        make(m, &made);
        stw_be_p(made.data + made.l4 + 16,
                 lduw_be_p(made.data + made.l4 + 16) ^ 0x2100);
        model = colo_packet_new(g_memdup2(made.data, made.size), made.size,
                                m->vnet);
        error = tcp_csum_error(m, &made, made.data, made.end);
        g_assert_cmphex(error, !=, 0);
        check_split(m, &made, 1, error);
        check_split(m, &made, m->payload_len - 1, error);
        check_split(m, &made, m->payload_len / 2, error);
        ack = colo_packet_bare_ack(model, 1, 2);
        g_assert_cmphex(tcp_csum_error(m, &made, ack->data, ack->size), ==,
                        error);
        colo_packet_free(ack);
        colo_packet_free(model);
        g_free(made.data);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(makes); i++) {
        g_autofree char *split = g_strdup_printf("/colo/packet/split/%u", i);
        g_autofree char *again =
            g_strdup_printf("/colo/packet/split/again/%u", i);
        g_autofree char *ack = g_strdup_printf("/colo/packet/bare-ack/%u", i);

        g_test_add_data_func(split, &makes[i], test_split);
        g_test_add_data_func(again, &makes[i], test_split_again);
        g_test_add_data_func(ack, &makes[i], test_bare_ack);
    }
    g_test_add_func("/colo/packet/wrong-checksum", test_wrong_checksum);
    return g_test_run();
}
