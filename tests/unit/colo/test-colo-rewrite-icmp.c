/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what ICMP errors quote of a secondary guest's connections.
 *
 * Proves: in an error that comes to the secondary (S) port and sequence number
 * are those that S has said, in one that it sends port and ack those that the
 * network has said, with all checksums as if it had been made so, however much
 * is quoted; the way back is exact; other errors and quotes that make no sense
 * pass as they are.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "colo-rewrite-util.h"

#define ETH             14
#define ALL             UINT32_MAX

static uint16_t checksum(const uint8_t *data, size_t len, uint32_t sum)
{
    for (size_t i = 0; i < len; i++) {
        sum += i & 1 ? data[i] : data[i] << 8;
    }
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return ~sum;
}

/*
 * An error about the first @bytes of the TCP header and payload of @quoted,
 * which the guest has sent (@by_guest) or has got; it goes the other way
 */
static ColoPacket *error_about(Test *t, bool by_guest, Seg quoted,
                               uint32_t bytes, uint8_t type)
{
    g_autoptr(GByteArray) seg = build_bytes(t, by_guest, &quoted);
    uint32_t l3 = ETH + 4 * t->vlans, ip_len = t->ipv6 ? 40 : 20;
    uint32_t inner = MIN(seg->len - l3, ip_len + (uint64_t)bytes);
    uint32_t size = l3 + ip_len + 8 + inner;
    uint8_t *data = g_malloc0(size), *ip = data + l3, *icmp = ip + ip_len;
    uint32_t sum = 0;
    ColoPacket *p;

    memcpy(data, seg->data, l3);
    memcpy(ip, seg->data + l3, ip_len);
    if (t->ipv6) {
        stw_be_p(ip + 4, 8 + inner);
        ip[6] = 58;
        memcpy(ip + 8, seg->data + l3 + 24, 16);
        memcpy(ip + 24, seg->data + l3 + 8, 16);
        sum = (uint16_t)~checksum(ip + 8, 32, 58 + 8 + inner);
    } else {
        stw_be_p(ip + 2, size - l3);
        ip[9] = 1;
        memcpy(ip + 12, seg->data + l3 + 16, 4);
        memcpy(ip + 16, seg->data + l3 + 12, 4);
        stw_be_p(ip + 10, 0);
        stw_be_p(ip + 10, checksum(ip, ip_len, 0));
    }
    icmp[0] = type;
    stl_be_p(icmp + 4, 1400);
    memcpy(icmp + 8, seg->data + l3, inner);
    stw_be_p(icmp + 2, checksum(icmp, 8 + inner, sum));
    p = colo_packet_new(data, size, 0);
    g_assert_cmpint(p->kind, ==, COLO_PACKET_DATAGRAM);
    return p;
}

static uint8_t too_big(Test *t)
{
    return t->ipv6 ? 2 : 3;
}

static void expect(const ColoPacket *p, const ColoPacket *want)
{
    g_assert_cmpmem(p->data, p->size, want->data, want->size);
}

/* About a segment that is known as @outside; S has to hear of @inside */
static void comes(Test *t, Seg outside, Seg inside, uint32_t bytes)
{
    bool same;
    ColoPacket *p, *want, *before;

    outside.guest_port = t->outer;
    inside.guest_port = t->inner;
    p = error_about(t, true, outside, bytes, too_big(t));
    want = error_about(t, true, inside, bytes, too_big(t));
    before = colo_packet_copy(p);
    same = p->size == want->size && !memcmp(p->data, want->data, p->size);
    g_assert_cmpint(feed(t, false, p), ==, !same);
    expect(p, want);
    g_assert_cmpint(colo_rewrite_undo_to_guest(t->r, p), ==, !same);
    expect(p, before);
    colo_packet_free(p);
    colo_packet_free(want);
    colo_packet_free(before);
}

/* S complains about a segment that it knows as @inside */
static void goes(Test *t, Seg inside, Seg outside, uint32_t bytes)
{
    ColoPacket *p, *want;

    outside.guest_port = t->outer;
    inside.guest_port = t->inner;
    p = error_about(t, false, inside, bytes, too_big(t));
    want = error_about(t, false, outside, bytes, too_big(t));
    feed(t, true, p);
    expect(p, want);
    colo_packet_free(p);
    colo_packet_free(want);
}

/* Not 17: half of a checksum cannot be mended */
static const uint32_t quoted[] = { 8, 11, 13, 14, 16, 18, 19, 20, 100, ALL };

static void all_quotes(Test *t)
{
    for (int i = 0; i < ARRAY_SIZE(quoted); i++) {
        /* The ack of such a short quote is not there, or not known as one */
        uint32_t ack = quoted[i] < 14 ? t->s : t->p;

        comes(t, seg(ACK, t->p + 1, t->c + 1, 200),
              seg(ACK, t->s + 1, t->c + 1, 200), quoted[i]);
        goes(t, seg(ACK, t->c + 1, t->s + 1, 300),
             seg(ACK, t->c + 1, ack + 1, 300), quoted[i]);
    }
}

static void test_server(const void *opaque)
{
    Test *t = test_new(10);

    t->ipv6 = GPOINTER_TO_INT(opaque) & 1;
    t->vlans = GPOINTER_TO_INT(opaque) >> 1;
    accept_client(t);
    all_quotes(t);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->rewritten_quotes, >, 0);
    /* S has P's numbers */
    colo_rewrite_load(t->r);
    t->s = t->p;
    all_quotes(t);
    test_free(t);
}

static void test_ports(const void *opaque)
{
    Test *t = test_new(10);
    Seg syn;
    ColoPacket *p;

    t->ipv6 = GPOINTER_TO_INT(opaque) & 1;
    t->inner = 50000;
    t->outer = 33000;
    colo_rewrite_set_told(t->r, true);
    syn = seg(SYN, t->p, 0, 0);
    syn.guest_port = t->outer;
    p = build(t, true, &syn);
    colo_rewrite_opened(t->r, p, t->now);
    colo_packet_free(p);
    says(t, seg(SYN, t->s, 0, 0), t->s);
    /* The SYN may be what is too big: S knows it by its own number */
    comes(t, seg(SYN, t->s, 0, 0), seg(SYN, t->s, 0, 0), ALL);
    gets(t, seg(SYN | ACK, t->c, t->p + 1, 0), t->s + 1);
    all_quotes(t);
    test_free(t);
}

/* Nothing that is not about a connection, or that is no error, is changed */
static void test_other(void)
{
    Test *t = test_new(10);
    Seg in = seg(ACK, t->p + 1, t->c + 1, 100);

    for (int v6 = 0; v6 < 2; v6++) {
        t->ipv6 = v6;
        accept_client(t);
        for (int type = 0; type < 256; type++) {
            bool error = v6 ? type < 128 : type == 3 || type == 4 ||
                              type == 5 || type == 11 || type == 12;
            ColoPacket *p = error_about(t, true, in, ALL, type);

            g_assert_cmpint(feed(t, false, p), ==, error);
            colo_packet_free(p);
        }
        for (uint32_t bytes = 0; bytes < 8; bytes++) {
            ColoPacket *p = error_about(t, true, in, bytes, too_big(t));

            g_assert_false(feed(t, false, p));
            colo_packet_free(p);
        }
        /* Whose segment it was is said by the quote: this is another one's */
        in.guest_port = 81;
        for (int by_guest = 0; by_guest < 2; by_guest++) {
            ColoPacket *p = error_about(t, by_guest, in, ALL, too_big(t));

            g_assert_false(feed(t, !by_guest, p));
            colo_packet_free(p);
        }
        in.guest_port = 0;
    }
    test_free(t);
}

/* Bytes of no meaning, and an end at every byte */
static void test_malformed(void)
{
    Test *t = test_new(10);

    for (int v6 = 0; v6 < 2; v6++) {
        t->ipv6 = v6;
        accept_client(t);
        for (int i = 0; i < 20000; i++) {
            bool by_guest = i & 1;
            ColoPacket *p = error_about(t, by_guest,
                                        seg(ACK, t->p + 1, t->c + 1, 9),
                                        i % 40, too_big(t));
            uint32_t size = i & 2 ? p->size
                                  : g_test_rand_int_range(1, p->size);
            uint8_t *data = g_memdup2(p->data, size);

            for (int n = i % 3; n; n--) {
                data[g_test_rand_int_range(0, size)] =
                    g_test_rand_int_range(0, 256);
            }
            colo_packet_free(p);
            p = colo_packet_new(data, size, 0);
            feed(t, !by_guest, p);
            colo_packet_free(p);
        }
    }
    test_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < 4; i++) {
        g_autofree char *server = g_strdup_printf("/colo/rewrite/icmp/server/"
                                                  "ipv%d/%d-tags",
                                                  i & 1 ? 6 : 4, i >> 1);
        g_test_add_data_func(server, GINT_TO_POINTER(i), test_server);
    }
    g_test_add_data_func("/colo/rewrite/icmp/ports/ipv4", GINT_TO_POINTER(0),
                         test_ports);
    g_test_add_data_func("/colo/rewrite/icmp/ports/ipv6", GINT_TO_POINTER(1),
                         test_ports);
    g_test_add_func("/colo/rewrite/icmp/other", test_other);
    g_test_add_func("/colo/rewrite/icmp/malformed", test_malformed);
    return g_test_run();
}
