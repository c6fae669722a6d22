/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO packets: fragments put together.
 *
 * Proves: fragments make the datagram that they were cut from, in whatever
 * order and of whatever size; what can be read in two ways, or says more than
 * the datagram would show, never does; no packet is lost or freed twice, and
 * the bounds hold.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "colo-packet-maker.h"

static const Make makes[] = {
    { .proto = MAKE_UDP, .sport = 1, .dport = 2, .payload_len = 1000,
      .ttl = 64, .ip_id = 7 },
    { .proto = MAKE_UDP, .sport = 1, .dport = 2, .payload_len = 1003,
      .v6 = true, .ttl = 1 },
    { .proto = MAKE_UDP, .payload_len = 992, .v6 = true, .vnet = 12,
      .exts = { MAKE_HOP_BY_HOP, MAKE_DEST, MAKE_ROUTING }, .nexts = 3,
      .ntags = 1, .tpid = { 0x8100 }, .tci = { 9 } },
    { .proto = MAKE_ICMP, .payload_len = 100, .vnet = 10, .padding = 4 },
    { .proto = MAKE_ICMPV6, .v6 = true, .payload_len = 1 },
    { .proto = MAKE_SCTP, .payload_len = 200, .ntags = 2,
      .tpid = { 0x88a8, 0x8100 }, .tci = { 1, 2 } },
    /* The whole is compared as bytes: the stream that it is of is not known */
    { .proto = MAKE_TCP, .sport = 5, .payload_len = 300 },
    { .proto = MAKE_TCP, .v6 = true, .sport = 5, .payload_len = 300 },
    { .proto = MAKE_UDP, .payload_len = 65535 - 28 },
    { .proto = MAKE_UDP, .v6 = true, .payload_len = 65535 - 8 },
};

static uint32_t total_of(const Make *m)
{
    Made made;

    make(m, &made);
    g_free(made.data);
    return made.end - made.l4;
}

static ColoPacket *fragment_at(const Make *m, uint32_t off, uint32_t len)
{
    uint32_t total = total_of(m);
    Make part = *m;
    ColoPacket *p;

    part.fragment = true;
    part.frag_id = 0x1234;
    part.frag_offset = off;
    part.frag_len = MIN(len, total - off);
    part.frag_more = off + part.frag_len < total;
    p = make_packet(&part);
    g_assert_cmpuint(p->kind, ==, COLO_PACKET_FRAGMENT);
    p->epoch = 5;
    p->arrived_ms = 100;
    return p;
}

/* All of them, each of @len bytes, in order */
static GPtrArray *fragments_of(const Make *m, uint32_t len)
{
    GPtrArray *a = g_ptr_array_new();

    for (uint32_t off = 0; off < total_of(m); off += len) {
        g_ptr_array_add(a, fragment_at(m, off, len));
    }
    return a;
}

static void free_packets(GPtrArray *a)
{
    g_ptr_array_set_free_func(a, (GDestroyNotify)colo_packet_free);
    g_ptr_array_unref(a);
}

/* @out has the datagram that @m says, of the fragments @in, in that order */
static void check_whole(const Make *m, const ColoDefragged *out,
                        const GPtrArray *in)
{
    ColoPacket *whole = make_packet(m);
    Made made;

    make(m, &made);
    g_assert_cmpuint(out->whole->kind, ==, COLO_PACKET_DATAGRAM);
    g_assert_cmpuint(out->whole->key.kind, ==, COLO_PACKET_DATAGRAM);
    g_assert_cmpuint(out->whole->vnet_hdr_len, ==, 0);
    g_assert_cmpuint(out->whole->payload + out->whole->payload_len, ==,
                     out->whole->size);
    if (m->proto != MAKE_TCP) {
        g_assert(colo_packet_same_datagram(out->whole, whole));
        g_assert(colo_flow_key_equal(&out->whole->key, &whole->key));
    } else {
        g_assert_cmpuint(out->whole->payload, ==, out->whole->l4);
        g_assert_cmpuint(out->whole->key.sport, ==, 0);
        g_assert_cmpuint(out->whole->tcp_flags | out->whole->seq, ==, 0);
    }
    g_assert_cmpmem(out->whole->data + out->whole->l4,
                    out->whole->size - out->whole->l4,
                    made.data + made.l4, made.end - made.l4);
    check_ip(m, made.l3 - made.eth, out->whole->data, out->whole->size);

    g_assert_cmpuint(out->fragments->len, ==, in->len);
    for (guint i = 0; i < in->len; i++) {
        g_assert(out->fragments->pdata[i] == in->pdata[i]);
    }
    g_free(made.data);
    colo_packet_free(whole);
}

static void drop(ColoDefragged *out)
{
    colo_packet_free(out->whole);
    free_packets(out->fragments);
    memset(out, 0, sizeof(*out));
}

static void check_empty(ColoDefrag *d)
{
    g_autoptr(GPtrArray) rest = g_ptr_array_new();

    colo_defrag_flush(d, rest);
    g_assert_cmpuint(rest->len, ==, 0);
}

/* Feed all of @in; only the last one may make it complete */
static void feed(ColoDefrag *d, const GPtrArray *in, bool complete,
                 ColoDefragged *out)
{
    for (guint i = 0; i < in->len; i++) {
        bool is = colo_defrag_add(d, in->pdata[i], out, NULL);

        g_assert_cmpint(is, ==, complete && i == in->len - 1);
    }
}

static void shuffle(GPtrArray *a)
{
    for (guint i = a->len; i > 1; i--) {
        guint j = g_test_rand_int_range(0, i);
        gpointer swap = a->pdata[i - 1];

        a->pdata[i - 1] = a->pdata[j];
        a->pdata[j] = swap;
    }
}

static void test_orders(gconstpointer v)
{
    const Make *m = v;
    static const uint32_t lens[] = { 8, 16, 64, 200, 1480, 65496 };
    ColoDefrag *d = colo_defrag_new(1, 4 * 1024 * 1024);
    ColoDefragged out;

    for (unsigned i = 0; i < ARRAY_SIZE(lens) * 3; i++) {
        uint32_t len = lens[i / 3];
        g_autoptr(GPtrArray) in = NULL;

        if (total_of(m) / len > 200 || (!m->v6 && total_of(m) <= len)) {
            continue;
        }
        in = fragments_of(m, len);
        if (i % 3 == 1) {
            for (guint j = 0; j < in->len / 2; j++) {
                gpointer swap = in->pdata[j];

                in->pdata[j] = in->pdata[in->len - 1 - j];
                in->pdata[in->len - 1 - j] = swap;
            }
        } else if (i % 3 == 2) {
            shuffle(in);
        }
        ((ColoPacket *)in->pdata[0])->arrived_ms = 50;
        ((ColoPacket *)in->pdata[in->len - 1])->epoch = 6;
        feed(d, in, true, &out);
        check_whole(m, &out, in);
        g_assert_cmpuint(out.whole->epoch, ==, 6);
        g_assert_cmpint(out.whole->arrived_ms, ==, 50);
        drop(&out);
        check_empty(d);
    }
    colo_defrag_free(d);
}

/* However the two guests cut it, it is the same */
static void test_sizes(void)
{
    ColoDefrag *d = colo_defrag_new(10, 100000);
    g_autoptr(GPtrArray) in_a = fragments_of(&makes[2], 64);
    g_autoptr(GPtrArray) in_b = fragments_of(&makes[2], 400);
    Make other = makes[2];
    ColoDefragged a, b, c;
    g_autoptr(GPtrArray) in_c = NULL;

    other.payload_seed = 1;
    in_c = fragments_of(&other, 400);
    feed(d, in_a, true, &a);
    feed(d, in_b, true, &b);
    feed(d, in_c, true, &c);
    g_assert(colo_packet_same_datagram(a.whole, b.whole));
    g_assert(!colo_packet_same_datagram(a.whole, c.whole));
    drop(&a);
    drop(&b);
    drop(&c);
    colo_defrag_free(d);
}

/* Many at once, their fragments mixed */
static void test_mixed(void)
{
    enum { N = 20 };
    ColoDefrag *d = colo_defrag_new(2 * N, 10 * 1024 * 1024);
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    unsigned complete = 0;

    for (unsigned i = 0; i < N; i++) {
        Make m = makes[i % 2];
        g_autoptr(GPtrArray) in = NULL;

        m.payload_seed = i;
        in = fragments_of(&m, 128);
        for (guint j = 0; j < in->len; j++) {
            ColoPacket *p = in->pdata[j];

            /* The identification, of IPv4 or in the fragment header */
            stw_be_p(p->data + (m.v6 ? p->l4 - 2 : p->l3 + 4), i);
            colo_packet_parse(p);
            g_ptr_array_add(all, p);
        }
    }
    shuffle(all);
    for (guint i = 0; i < all->len; i++) {
        ColoDefragged out;

        if (colo_defrag_add(d, all->pdata[i], &out, NULL)) {
            complete++;
            drop(&out);
        }
    }
    g_assert_cmpuint(complete, ==, N);
    check_empty(d);
    colo_defrag_free(d);
}

static void test_duplicates(void)
{
    for (unsigned i = 0; i < 2; i++) {
        ColoDefrag *d = colo_defrag_new(1, 100000);
        g_autoptr(GPtrArray) in = fragments_of(&makes[i], 200);
        ColoDefragged out;

        for (guint j = 0; j < 3; j++) {
            g_ptr_array_insert(in, 1, colo_packet_copy(in->pdata[j]));
        }
        feed(d, in, true, &out);
        check_whole(&makes[i], &out, in);
        drop(&out);
        check_empty(d);
        colo_defrag_free(d);
    }
}

static int compare_pointers(gconstpointer a, gconstpointer b)
{
    uintptr_t x = *(const uintptr_t *)a;
    uintptr_t y = *(const uintptr_t *)b;

    return x < y ? -1 : x > y;
}

/*
 * A set of fragments with something wrong about it: in no order they are ever
 * complete, and all of them come back.  @extra: without any one of so many
 * at the front the set is complete, so none of them may come last.
 */
static void check_never(GPtrArray *in, guint extra)
{
    for (unsigned i = 0; i < 20; i++) {
        ColoDefrag *d = colo_defrag_new(10, 1000000);
        g_autoptr(GPtrArray) copies = g_ptr_array_new();
        g_autoptr(GPtrArray) back = g_ptr_array_new();
        gpointer last;
        ColoDefragged out;

        for (guint j = 0; j < in->len; j++) {
            g_ptr_array_add(copies, colo_packet_copy(in->pdata[j]));
        }
        last = g_ptr_array_remove_index(
            copies, i ? g_test_rand_int_range(extra, in->len) : in->len - 1);
        if (i) {
            shuffle(copies);
        }
        g_ptr_array_add(copies, last);
        feed(d, copies, false, &out);

        colo_defrag_flush(d, back);
        g_assert_cmpuint(back->len, ==, copies->len);
        g_ptr_array_sort(back, compare_pointers);
        g_ptr_array_sort(copies, compare_pointers);
        for (guint j = 0; j < back->len; j++) {
            g_assert(back->pdata[j] == copies->pdata[j]);
            colo_packet_free(back->pdata[j]);
        }
        check_empty(d);
        colo_defrag_free(d);
    }
    free_packets(in);
}

static void test_overlaps(void)
{
    static const struct {
        uint32_t off;
        uint32_t len;
    } more[] = {
        { 0, 8 }, { 0, 208 }, { 8, 8 }, { 192, 16 }, { 192, 8 }, { 200, 408 },
        { 400, 192 }, { 992, 8 }, { 800, 8 }, { 8, 1000 }, { 992, 100 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(more) * 2; i++) {
        const Make *m = &makes[i % 2];
        GPtrArray *in = fragments_of(m, 200);

        g_ptr_array_insert(in, 0, fragment_at(m, more[i / 2].off,
                                              more[i / 2].len));
        check_never(in, 1);
    }
}

/* A twin that says something else: what the receiver takes, nobody knows */
static void test_other_twin(void)
{
    for (unsigned i = 0; i < 4; i++) {
        GPtrArray *in = fragments_of(&makes[i % 2], 200);
        ColoPacket *p = colo_packet_copy(in->pdata[i]);

        p->data[p->payload + p->payload_len - 1] ^= 1;
        g_ptr_array_insert(in, 0, p);
        g_ptr_array_insert(in, 0, g_ptr_array_remove_index(in, i + 1));
        check_never(in, 2);
    }
}

/* The sum is right, the pieces are not */
static void test_overlap_and_gap(void)
{
    const Make *m = &makes[0];
    GPtrArray *in = g_ptr_array_new();

    /* 0-400, 200-600, 800-1008: 1008 bytes, as many as the datagram has */
    g_ptr_array_add(in, fragment_at(m, 0, 400));
    g_ptr_array_add(in, fragment_at(m, 200, 400));
    g_ptr_array_add(in, fragment_at(m, 800, 208));
    check_never(in, 0);
}

static void test_two_ends(void)
{
    Make longer = makes[0];
    GPtrArray *in = fragments_of(&makes[0], 200);
    ColoPacket *p;

    longer.payload_len += 64;
    g_ptr_array_insert(in, 0, g_ptr_array_remove_index(in, in->len - 1));
    g_ptr_array_insert(in, 0, fragment_at(&longer, 1000, 200));
    check_never(in, 2);

    /* The same bytes are the end, and are not */
    in = fragments_of(&makes[0], 200);
    g_ptr_array_insert(in, 0, g_ptr_array_remove_index(in, in->len - 1));
    p = colo_packet_copy(in->pdata[0]);
    p->data[p->l3 + 6] |= 0x20;
    colo_packet_parse(p);
    g_assert(p->frag_more);
    g_ptr_array_insert(in, 1, p);
    check_never(in, 2);

    /* Beyond the other one */
    in = fragments_of(&makes[0], 504);
    g_ptr_array_insert(in, 0, fragment_at(&longer, 1008, 200));
    check_never(in, 1);
}

/* A gap, and no end */
static void test_incomplete(void)
{
    for (guint missing = 0; missing < 6; missing++) {
        GPtrArray *in = fragments_of(&makes[1], 200);

        g_assert_cmpuint(in->len, ==, 6);
        colo_packet_free(in->pdata[missing]);
        g_ptr_array_remove_index(in, missing);
        check_never(in, 0);
    }
}

/* One fragment that says something else, in the byte @off from its l3 */
static void check_odd_one(unsigned which, int off, uint8_t bits, bool never)
{
    for (guint i = 0; i < 5; i++) {
        GPtrArray *in = fragments_of(&makes[which], 200);
        ColoPacket *p = in->pdata[i];

        p->data[p->l3 + off] ^= bits;
        colo_packet_parse(p);
        g_assert_cmpuint(p->kind, ==, COLO_PACKET_FRAGMENT);
        if (never) {
            check_never(in, 0);
        } else {
            ColoDefrag *d = colo_defrag_new(1, 100000);
            ColoDefragged out;

            feed(d, in, true, &out);
            check_whole(&makes[which], &out, in);
            drop(&out);
            g_ptr_array_unref(in);
            colo_defrag_free(d);
        }
    }
}

static void test_disagree(void)
{
    /* MAC addresses, TOS, TTL, source, reserved bit; DF is no matter */
    check_odd_one(0, -14, 0x04, true);
    check_odd_one(0, -3, 0x01, true);
    check_odd_one(0, 1, 0x01, true);
    check_odd_one(0, 8, 0x80, true);
    check_odd_one(0, 12, 0x10, true);
    check_odd_one(0, 6, 0x80, true);
    check_odd_one(0, 6, 0x40, false);
    /* MAC addresses, traffic class, hop limit, identification; flow label */
    check_odd_one(1, -8, 0x04, true);
    check_odd_one(1, 1, 0x10, true);
    check_odd_one(1, 7, 0x80, true);
    check_odd_one(1, 45, 0x80, true);
    check_odd_one(1, 2, 0x80, false);
    /* Tag; headers before the fragment header: hop by hop, destination */
    check_odd_one(2, -3, 0x01, true);
    check_odd_one(2, 43, 0x01, true);
    check_odd_one(2, 70, 0x01, true);
}

/* The protocol is what the first fragment says; others make another datagram */
static void test_protocol(void)
{
    check_odd_one(0, 9, 0x80, true);
    check_odd_one(1, 40, 0x80, true);
}

static void test_extras(void)
{
    GPtrArray *in = fragments_of(&makes[3], 56);
    ColoPacket *p = in->pdata[1];
    Make m = makes[0];

    /* A fragment that would be cut further */
    p->data[1] = MAKE_GSO_UDP_L4;
    check_never(in, 0);

    /* Options in the first fragment are in the whole, in others nowhere */
    m.ip_options = 4;
    in = fragments_of(&makes[0], 200);
    colo_packet_free(in->pdata[2]);
    in->pdata[2] = fragment_at(&m, 400, 200);
    check_never(in, 0);
}

static void test_first_options(void)
{
    g_autoptr(GPtrArray) in = fragments_of(&makes[0], 200);
    ColoDefrag *d = colo_defrag_new(1, 100000);
    Make m = makes[0];
    ColoDefragged out;

    m.ip_options = 8;
    colo_packet_free(in->pdata[0]);
    in->pdata[0] = fragment_at(&m, 0, 200);
    feed(d, in, true, &out);
    check_whole(&m, &out, in);
    drop(&out);
    colo_defrag_free(d);
}

/* With the options of the first fragment it is longer than IP allows */
static void test_too_long(void)
{
    const Make *m = &makes[8];
    Make options = *m;
    GPtrArray *in = fragments_of(m, 32768);

    options.ip_options = 4;
    colo_packet_free(in->pdata[0]);
    in->pdata[0] = fragment_at(&options, 0, 32768);
    check_never(in, 0);
}

static ColoPacket *lone_fragment(uint16_t id, uint32_t payload_len)
{
    Make m = { .proto = MAKE_UDP, .payload_len = payload_len };
    ColoPacket *p = fragment_at(&m, 0, payload_len);

    stw_be_p(p->data + p->l3 + 4, id);
    colo_packet_parse(p);
    return p;
}

static void test_max_datagrams(void)
{
    ColoDefrag *d = colo_defrag_new(3, UINT64_MAX);
    g_autoptr(GPtrArray) given_up = g_ptr_array_new();
    ColoDefragged out;

    for (unsigned i = 0; i < 10; i++) {
        g_assert(!colo_defrag_add(d, lone_fragment(i, 64), &out, given_up));
        /* More of one that is there takes no room in this respect */
        g_assert(!colo_defrag_add(d, lone_fragment(i, 64), &out, given_up));
        g_assert_cmpuint(given_up->len, ==, i < 3 ? 0 : (i - 2) * 2);
    }
    for (guint i = 0; i < given_up->len; i++) {
        g_assert_cmpuint(((ColoPacket *)given_up->pdata[i])->frag_id, ==,
                         i / 2);
    }
    colo_defrag_flush(d, given_up);
    g_assert_cmpuint(given_up->len, ==, 20);
    g_assert_cmpuint(((ColoPacket *)given_up->pdata[19])->frag_id, ==, 9);
    free_packets(g_steal_pointer(&given_up));
    colo_defrag_free(d);
}

static void test_max_bytes(void)
{
    uint64_t size;
    ColoPacket *p = lone_fragment(0, 64);
    g_autoptr(GPtrArray) given_up = g_ptr_array_new();
    ColoDefragged out;
    ColoDefrag *d;

    size = colo_packet_memory(p);
    d = colo_defrag_new(100, 4 * size);
    g_assert(!colo_defrag_add(d, p, &out, given_up));
    for (unsigned i = 1; i < 8; i++) {
        g_assert(!colo_defrag_add(d, lone_fragment(i, 64), &out, given_up));
        g_assert_cmpuint(given_up->len, ==, i < 4 ? 0 : i - 3);
    }
    /* One that is too large by itself takes all others with it, oldest first */
    p = lone_fragment(50, 64 * 32);
    g_assert_cmpuint(colo_packet_memory(p), >, 4 * size);
    g_assert(!colo_defrag_add(d, p, &out, given_up));
    g_assert_cmpuint(given_up->len, ==, 9);
    g_assert(given_up->pdata[8] == p);
    /* Nothing is left, and the room is there again */
    check_empty(d);
    g_assert(!colo_defrag_add(d, lone_fragment(1, 64), &out, given_up));
    g_assert_cmpuint(given_up->len, ==, 9);
    free_packets(g_steal_pointer(&given_up));
    colo_defrag_free(d);
}

/* What is complete gives its room back; without a list, packets are freed */
static void test_room_again(void)
{
    ColoDefrag *d = colo_defrag_new(2, 3000);
    ColoDefragged out;

    for (unsigned i = 0; i < 50; i++) {
        g_autoptr(GPtrArray) in = fragments_of(&makes[i % 2], 400);

        feed(d, in, true, &out);
        drop(&out);
    }
    for (unsigned i = 0; i < 50; i++) {
        g_assert(!colo_defrag_add(d, lone_fragment(i, 640), &out, NULL));
    }
    colo_defrag_flush(d, NULL);
    check_empty(d);
    g_assert(!colo_defrag_add(d, lone_fragment(1, 64), &out, NULL));
    colo_defrag_free(d);
    colo_defrag_free(NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(makes); i++) {
        g_autofree char *name =
            g_strdup_printf("/colo/packet/defrag/orders/%u", i);

        g_test_add_data_func(name, &makes[i], test_orders);
    }
    g_test_add_func("/colo/packet/defrag/sizes", test_sizes);
    g_test_add_func("/colo/packet/defrag/mixed", test_mixed);
    g_test_add_func("/colo/packet/defrag/duplicates", test_duplicates);
    g_test_add_func("/colo/packet/defrag/overlaps", test_overlaps);
    g_test_add_func("/colo/packet/defrag/other-twin", test_other_twin);
    g_test_add_func("/colo/packet/defrag/overlap-and-gap",
                    test_overlap_and_gap);
    g_test_add_func("/colo/packet/defrag/two-ends", test_two_ends);
    g_test_add_func("/colo/packet/defrag/incomplete", test_incomplete);
    g_test_add_func("/colo/packet/defrag/disagree", test_disagree);
    g_test_add_func("/colo/packet/defrag/protocol", test_protocol);
    g_test_add_func("/colo/packet/defrag/extras", test_extras);
    g_test_add_func("/colo/packet/defrag/first-options", test_first_options);
    g_test_add_func("/colo/packet/defrag/too-long", test_too_long);
    g_test_add_func("/colo/packet/defrag/max-datagrams", test_max_datagrams);
    g_test_add_func("/colo/packet/defrag/max-bytes", test_max_bytes);
    g_test_add_func("/colo/packet/defrag/room-again", test_room_again);
    return g_test_run();
}
