/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: loads of a secondary with many connections, and connects of a primary
 * with many.
 *
 * Proves: a load takes no longer for many connections, nor does the look for an
 * open; in whichever order connections are used after a load, each is what the
 * load has made of it, also if one's port was another's before; what a load has
 * ended counts no more and makes room before anything else does.
 */

#include "qemu/osdep.h"
#include <time.h>
#include "colo-rewrite-util.h"

#define MANY            60000
/* CPU time of what takes microseconds, and took ten times as much as this */
#define SHORT_NS        1500000
#define TRIES           5

static int64_t cpu_ns(void)
{
    struct timespec t;

    g_assert_cmpint(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t), ==, 0);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static const ColoRewriteStats *stats(Test *t)
{
    return colo_rewrite_stats(t->r);
}

/* Connection number @i of S, from @inner to a server of its own */
static Seg connection(Test *t, uint32_t i, bool ts)
{
    t->port = 1 + i % 50000;
    t->inner = t->outer = 60000 + i / 50000;
    return ts ? seg_ts(ACK, 1, 1, 1000, 2000) : seg(ACK, 1, 1, 0);
}

/* P opened it, S has it from a checkpoint; with a floor */
static void adopt(Test *t, uint32_t i)
{
    Seg in = connection(t, i, true);
    ColoPacket *p = build(t, true, &in);

    feed(t, true, p);
    colo_packet_free(p);
    p = build(t, false, &in);
    feed(t, false, p);
    colo_packet_free(p);
}

static void test_time(void)
{
    Test *t = test_new(65536);
    int64_t best = INT64_MAX;

    for (uint32_t i = 0; i < MANY; i++) {
        adopt(t, i);
    }
    g_assert_cmpuint(flows(t), ==, MANY);
    for (int try = 0; try < TRIES; try++) {
        int64_t begin = cpu_ns();

        colo_rewrite_load(t->r);
        best = MIN(best, cpu_ns() - begin);
    }
    g_test_message("a load: %" PRId64 " us", best / 1000);
    g_assert_cmpint(best, <, SHORT_NS);
    /* They have a floor, and are all there */
    g_assert_cmpuint(flows(t), ==, MANY);
    for (uint32_t i = 0; i < MANY; i++) {
        Seg in = connection(t, i, true), out;

        in.tsval = 1500;
        out = in;
        out.tsval = 2000;
        pass(t, true, in, out);
    }
    g_assert_cmpuint(flows(t), ==, MANY);
    test_free(t);
}

static void test_time_opens(void)
{
    Test *t = test_new(65536);
    int64_t best = INT64_MAX;
    Seg syn = seg(SYN, t->p, 0, 0);
    ColoPacket *p;

    colo_rewrite_set_told(t->r, true);
    for (uint32_t i = 0; i < COLO_REWRITE_OPENS; i++) {
        t->port = 1 + i;
        p = build(t, true, &syn);
        colo_rewrite_opened(t->r, p, t->now);
        colo_packet_free(p);
    }
    t->port = 50000;
    p = build(t, true, &syn);
    for (int try = 0; try < TRIES; try++) {
        int64_t begin = cpu_ns();

        for (int i = 0; i < 1000; i++) {
            g_assert_true(colo_rewrite_awaits(t->r, p));
        }
        best = MIN(best, cpu_ns() - begin);
    }
    g_test_message("1000 looks for an open: %" PRId64 " us", best / 1000);
    g_assert_cmpint(best, <, SHORT_NS);
    colo_packet_free(p);
    test_free(t);
}

/* S connects from @inner, known as @outer; it has a floor then */
static void connect_mapped(Test *t, uint16_t inner, uint16_t outer)
{
    Seg syn = seg_ts(SYN, t->p, 0, 100, 0);
    ColoPacket *p;

    t->inner = t->outer = outer;
    p = build(t, true, &syn);
    colo_rewrite_opened(t->r, p, t->now);
    colo_packet_free(p);
    t->inner = inner;
    syn.seq = t->s;
    p = build(t, true, &syn);
    feed(t, true, p);
    colo_packet_free(p);
    syn = seg_ts(SYN | ACK, t->c, t->p + 1, 7, 200);
    syn.guest_port = outer;
    p = build(t, false, &syn);
    g_assert_true(feed(t, false, p));
    colo_packet_free(p);
}

/* Which is used first, second, third; each with either direction first */
static void test_chain(void)
{
    static const int orders[][3] = {
        { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 },
        { 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 },
    };

    for (int n = 0; n < ARRAY_SIZE(orders) * 8; n++) {
        const int *order = orders[n / 8];
        Test *t = test_new(100);

        colo_rewrite_set_told(t->r, true);
        /* 101 -> 102 -> 103 -> 101 */
        for (int i = 0; i < 3; i++) {
            connect_mapped(t, 101 + i, 101 + (i + 1) % 3);
        }
        g_assert_cmpuint(stats(t)->paired, ==, 3);
        colo_rewrite_load(t->r);
        g_assert_cmpuint(flows(t), ==, 3);
        for (int i = 0; i < 3; i++) {
            Seg in = seg_ts(ACK, t->p + 1, t->c + 1, 150, 7);
            Seg out = in;

            t->inner = t->outer = 101 + order[i];
            out.tsval = 200;
            if (n >> i & 1) {
                gets(t, seg_ts(ACK, t->c + 1, t->p + 1, 7, 150), t->p + 1);
            }
            pass(t, true, in, out);
        }
        g_assert_cmpuint(flows(t), ==, 3);
        test_free(t);
    }
}

/* What the load has ended does not cost one that goes on its place */
static void test_room(void)
{
    Test *t = test_new(100);

    for (uint32_t i = 0; i < 100; i++) {
        Seg in = i % 2 ? connection(t, i, true) : seg(0, 0, 0, 0);
        ColoPacket *p;

        if (i % 2) {
            adopt(t, i);
            continue;
        }
        connection(t, i, false);
        in = seg(SYN, t->s, 0, 0);
        p = build(t, true, &in);
        feed(t, true, p);
        colo_packet_free(p);
    }
    g_assert_cmpuint(flows(t), ==, 100);
    colo_rewrite_load(t->r);
    g_assert_cmpuint(flows(t), ==, 50);
    g_assert_cmpuint(stats(t)->flows_open, ==, 50);
    for (uint32_t i = 100; i < 150; i++) {
        adopt(t, i);
        g_assert_cmpuint(flows(t), ==, i - 100 + 51);
    }
    g_assert_cmpuint(stats(t)->evicted, ==, 0);
    for (uint32_t i = 1; i < 150; i += i < 99 ? 2 : 1) {
        Seg in = connection(t, i, true), out;

        in.tsval = 1500;
        out = in;
        out.tsval = 2000;
        pass(t, true, in, out);
    }
    g_assert_cmpuint(flows(t), ==, 100);
    /* They go one by one with time, and twice ended is not counted twice */
    colo_rewrite_load(t->r);
    colo_rewrite_load(t->r);
    t->now += IDLE_MS;
    colo_rewrite_tick(t->r, t->now);
    g_assert_cmpuint(flows(t), ==, 0);
    g_assert_cmpuint(stats(t)->flows_open, ==, 0);
    g_assert_cmpuint(stats(t)->expired, ==, 100);
    test_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/rewrite/load/time", test_time);
    g_test_add_func("/colo/rewrite/load/time-opens", test_time_opens);
    g_test_add_func("/colo/rewrite/load/chain", test_chain);
    g_test_add_func("/colo/rewrite/load/room", test_room);
    return g_test_run();
}
