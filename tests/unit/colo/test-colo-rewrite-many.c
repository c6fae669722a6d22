/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the rewriter with many packets and connections.
 *
 * Proves: what is malformed passes untouched and does no harm; two guests that
 * say the same bytes with numbers of their own say the same behind the
 * rewriter, over loads; the table does not grow with connections that have
 * ended.
 */

#include "qemu/osdep.h"
#include "colo-rewrite-util.h"

/* Cut short at every byte, and with bytes of no meaning in it */
static void test_malformed(void)
{
    Test *t = test_new(10);
    uint64_t changed = 0;

    for (int v6 = 0; v6 < 2; v6++) {
        t->ipv6 = v6;
        t->vlans = v6;
        accept_client(t);
        talk(t);
        for (uint32_t i = 0; i < 40000; i++) {
            bool from_guest = i & 1;
            Seg in = seg_ts(ACK, 1, 2, 3, 4);
            GByteArray *b;
            ColoPacket *p;
            uint32_t size;

            in.sacks = 2;
            b = build_bytes(t, from_guest, &in);
            size = i < b->len ? i : b->len;
            for (uint32_t n = i % 4; n && size; n--) {
                b->data[g_test_rand_int_range(0, size)] =
                    g_test_rand_int_range(0, 256);
            }
            p = colo_packet_new(g_memdup2(b->data, size), size, 0);
            changed += feed(t, from_guest, p);
            g_assert_true(p->kind == COLO_PACKET_TCP || size < b->len ||
                          i % 4);
            colo_packet_free(p);
            g_byte_array_unref(b);
        }
    }
    /* Those that were whole did go through the engine */
    g_assert_cmpuint(changed, >, 1000);
    g_assert_cmpuint(flows(t), <=, 10);
    test_free(t);
}

/* A pair: both guests say the same stream, each with its own numbers */

typedef struct PairFlow {
    uint16_t port;
    bool opened;
    bool is_client;
    bool after_load;            /* S has P's numbers */
    uint32_t s, p, c;
    uint32_t sent, got;         /* bytes, both FINs not counted */
} PairFlow;

static void pair_open(Test *t, PairFlow *f)
{
    f->s = t->s = g_test_rand_int();
    f->p = t->p = g_test_rand_int();
    f->c = t->c = g_test_rand_int();
    f->is_client = g_test_rand_bit();
    f->after_load = false;
    f->opened = true;
    f->sent = 0;
    f->got = 0;
    if (f->is_client) {
        connect_server(t);
    } else {
        accept_client(t);
    }
}

/*
 * Anything between retransmitting the oldest byte and new data, either way.
 * says() and gets() compare with what P would say, and S would get, byte for
 * byte.
 */
static void pair_talk(Test *t, PairFlow *f)
{
    uint32_t len = g_test_rand_int_range(0, 1460);
    uint32_t back = g_test_rand_int_range(0, f->sent + 1);
    uint32_t s = f->after_load ? f->p : f->s;
    uint32_t seq = 1 + f->sent - back;
    Seg in;

    if (g_test_rand_bit()) {
        says(t, seg(ACK, s + seq, f->c + 1 + f->got, len), f->p + seq);
        f->sent = MAX(f->sent, f->sent - back + len);
        return;
    }
    in = seg(ACK, f->c + 1 + f->got, f->p + seq, len);
    if (back && g_test_rand_bit()) {
        in.sacks = 2;
        in.sack[0] = f->p + seq + 1;
        in.sack[1] = f->p + 1 + f->sent;
    }
    gets(t, in, s + seq);
    f->got += len;
}

static void test_pair(void)
{
    enum { FLOWS = 200, STEPS = 100000 };
    g_autofree PairFlow *pair = g_new0(PairFlow, FLOWS);
    Test *t = test_new(FLOWS);

    for (int i = 0; i < STEPS; i++) {
        PairFlow *f = &pair[g_test_rand_int_range(0, FLOWS)];

        t->port = 1000 + (f - pair);
        t->s = f->s;
        t->p = f->p;
        t->c = f->c;
        if (!f->opened || g_test_rand_int_range(0, 100) == 0) {
            pair_open(t, f);
        } else {
            pair_talk(t, f);
        }
        if (i % 10000 == 9999) {
            colo_rewrite_load(t->r);
            for (int n = 0; n < FLOWS; n++) {
                pair[n].after_load = true;
            }
        }
    }
    g_assert_cmpuint(colo_rewrite_stats(t->r)->evicted, ==, 0);
    test_free(t);
}

/* Many connections */

enum {
    MANY_OPEN = 10000,
    MANY_CHURN = 1000,          /* a second */
    MANY_SECONDS = 130,
    MANY_BATCH = 20000,
};

typedef struct Many {
    Test *t;
    ColoPacket *packets[MANY_BATCH];
    bool from_guest[MANY_BATCH];
    int n;
    uint64_t total;
    int64_t us;
} Many;

/* A connection of its own for each @id, and all of it follows from that */
static void many_select(Test *t, uint32_t id)
{
    t->port = id;
    t->vlans = id >> 16;
    t->s = id * 2654435761u;
    t->p = id * 40503u + 77;
    t->c = id * 69069u;
}

static void many_add(Many *m, bool from_guest, Seg in)
{
    in.ts = true;
    in.tsval = 1 + m->t->now;
    in.tsecr = in.flags == SYN ? 0 : 1 + m->t->now;
    g_assert_cmpint(m->n, <, MANY_BATCH);
    m->from_guest[m->n] = from_guest;
    m->packets[m->n++] = build(m->t, from_guest, &in);
}

static void many_open(Many *m, uint32_t id)
{
    Test *t = m->t;

    many_select(t, id);
    many_add(m, false, seg(SYN, t->c, 0, 0));
    many_add(m, true, seg(SYN | ACK, t->s, t->c + 1, 0));
    many_add(m, false, seg(ACK, t->c + 1, t->p + 1, 0));
    many_add(m, true, seg(ACK, t->s + 1, t->c + 1, 100));
}

static void many_close(Many *m, uint32_t id)
{
    Test *t = m->t;

    many_select(t, id);
    many_add(m, false, seg(FIN | ACK, t->c + 1, t->p + 101, 0));
    many_add(m, true, seg(FIN | ACK, t->s + 101, t->c + 2, 0));
    many_add(m, false, seg(ACK, t->c + 2, t->p + 102, 0));
}

/* Run what was added through the engine, as the filter would */
static void many_run(Many *m)
{
    ColoRewrite *r = m->t->r;
    int64_t start = g_get_monotonic_time();

    for (int i = 0; i < m->n; i++) {
        ColoPacket *p = m->packets[i];
        bool from_guest = m->from_guest[i];

        if (!colo_rewrite_wants(r, p->data, MIN(p->size, COLO_REWRITE_HEAD),
                                p->size, p->vnet_hdr_len, from_guest)) {
            continue;
        }
        if (from_guest) {
            colo_rewrite_from_guest(r, p, m->t->now);
        } else {
            colo_rewrite_to_guest(r, p, m->t->now);
        }
    }
    m->us += g_get_monotonic_time() - start;
    m->total += m->n;
    while (m->n) {
        colo_packet_free(m->packets[--m->n]);
    }
}

static void test_many(void)
{
    enum { CLOSING = MANY_CHURN * COLO_REWRITE_CLOSING_MS / 1000 };
    g_autofree Many *m = g_new0(Many, 1);
    Test *t = m->t = test_new(1000000);
    uint64_t expected = 3;

    for (uint32_t id = 0; id < MANY_OPEN; id++) {
        many_open(m, id);
        if (m->n > MANY_BATCH - 10) {
            many_run(m);
        }
    }
    many_run(m);
    for (uint32_t second = 0; second < MANY_SECONDS; second++) {
        for (uint32_t i = 0; i < MANY_CHURN; i++) {
            uint32_t id = MANY_OPEN + second * MANY_CHURN + i;

            many_open(m, id);
            many_close(m, id);
        }
        many_run(m);
        t->now += 1000;
        colo_rewrite_tick(t->r, t->now);
        expected = MANY_OPEN + MIN((second + 1) * MANY_CHURN,
                                   CLOSING - MANY_CHURN);
        g_assert_cmpuint(flows(t), ==, expected);
        g_assert_cmpuint(colo_rewrite_stats(t->r)->flows_open, ==, MANY_OPEN);
    }
    g_assert_cmpuint(colo_rewrite_stats(t->r)->evicted, ==, 0);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->learned, ==,
                     MANY_OPEN + MANY_SECONDS * MANY_CHURN);
    g_test_message("%" PRIu64 " packets, %" PRIu64 " changed, "
                   "%" PRIu64 " connections at once: %" PRIu64 " ns a packet",
                   m->total, colo_rewrite_stats(t->r)->rewritten_packets,
                   flows(t), m->us * 1000 / m->total);

    /* The first ones are still right */
    t->vlans = 0;
    many_select(t, 17);
    says(t, seg(ACK, t->s + 101, t->c + 1, 5), t->p + 101);
    test_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/rewrite/malformed", test_malformed);
    g_test_add_func("/colo/rewrite/pair", test_pair);
    g_test_add_func("/colo/rewrite/many", test_many);
    return g_test_run();
}
