/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rules by which output of the primary may leave: what a script does not see.
 *
 * Proves: statistics, deadlines and the memory that is held are what they say,
 * all of it is freed, connections that the primary's guest begins are told once,
 * and the secondary is in no epoch in which it cannot be.
 */

#include "qemu/osdep.h"
#include <malloc.h>
#include "colo-match-script.h"
#include "colo-test-packet.h"

static void feed(Bench *b, const char *const *lines)
{
    for (unsigned i = 0; lines[i]; i++) {
        bench_line(b, "feed", i, lines[i]);
    }
}

static void test_stats(void)
{
    const ColoMatchStats *s;
    uint64_t one;
    Bench b;

    bench_init(&b, NULL);
    s = colo_match_stats(b.m);
    feed(&b, (const char *const []) {
        "p d1 > d1", "A", "P 0", "S 0",
        "p d1", "s d1 > d1", "p d2", "p d2@1", "s d3@1", "T 10 > !M",
        NULL });
    g_assert_cmpint(s->primary_packets, ==, 4);
    g_assert_cmpint(s->secondary_packets, ==, 2);
    g_assert_cmpint(s->released[COLO_RELEASE_OPEN], ==, 1);
    g_assert_cmpint(s->released[COLO_RELEASE_EQUAL], ==, 1);
    g_assert_cmpint(s->released[COLO_RELEASE_COMMIT], ==, 0);
    g_assert_cmpint(s->mismatches, ==, 1);
    g_assert_cmpint(s->flows, ==, 2);
    g_assert_cmpint(s->queued_packets, ==, 2);
    one = s->queued_bytes / 2;
    g_assert_cmpint(one, >, 42 + DATAGRAM_LEN + sizeof(ColoPacket));
    g_assert_cmpint(s->secondary_queued_bytes, ==, 0);

    feed(&b, (const char *const []) {
        "s d4@5", "C 1 > d2 d2@1", "s d4", NULL });
    g_assert_cmpint(s->released[COLO_RELEASE_COMMIT], ==, 2);
    g_assert_cmpint(s->queued_packets, ==, 0);
    g_assert_cmpint(s->queued_bytes, ==, 0);
    g_assert_cmpint(s->queued_bytes_max, ==, 2 * one);
    g_assert_cmpint(s->secondary_discarded, ==, 2);

    /* A front leaves: what is left is in the same memory */
    feed(&b, (const char *const []) {
        "P 1", "S 1", "p 0+3000a5", "s 0+1000a4 > 0+1000a4", NULL });
    g_assert_cmpint(s->queued_packets, ==, 1);
    g_assert_cmpint(s->queued_bytes, ==, one - 42 - DATAGRAM_LEN + 54 + 3000);
    g_assert_cmpint(s->acks_clamped, ==, 1);
    g_assert_cmpint(s->bytes_compared, ==, 42 + DATAGRAM_LEN + 1000);
    bench_cleanup(&b);
}

static void test_deadline(void)
{
    Bench b;

    bench_init(&b, NULL);
    g_assert_cmpint(colo_match_deadline_ms(b.m), ==, INT64_MAX);
    feed(&b, (const char *const []) {
        "A", "P 0", "S 0", "T 7", "p d1", "T 5", "p d2@1", NULL });
    g_assert_cmpint(colo_match_deadline_ms(b.m), ==, 107);
    feed(&b, (const char *const []) { "s d1 > d1", NULL });
    g_assert_cmpint(colo_match_deadline_ms(b.m), ==, 112);
    feed(&b, (const char *const []) { "T 100 > !T", NULL });
    g_assert_cmpint(colo_match_deadline_ms(b.m), ==, INT64_MAX);
    feed(&b, (const char *const []) { "s d3@2", NULL });
    g_assert_cmpint(colo_match_deadline_ms(b.m), ==, 1112);
    feed(&b, (const char *const []) { "p f1.0/2", "C 1 > f1.0 d2@1", NULL });
    g_assert_cmpint(colo_match_deadline_ms(b.m), ==, INT64_MAX);
    bench_cleanup(&b);
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
static size_t heap_in_use(void)
{
    struct mallinfo2 info = mallinfo2();

    return info.uordblks + info.hblkhd;
}
#else
static size_t heap_in_use(void)
{
    return 0;
}
#endif

/* The bound is one of memory, also for packets of one byte */
static void test_memory(void)
{
    static const ColoMatchConfig config = {
        .timeout_ms = 100, .max_packets = UINT32_MAX, .max_bytes = 4 << 20,
        .max_flows = 16, .idle_ms = 10000,
    };
    size_t before, primary, secondary;
    const ColoMatchStats *s;
    Bench b;

    bench_init(&b, &config);
    s = colo_match_stats(b.m);
    feed(&b, (const char *const []) { "A", "P 0", "S 0", NULL });
    before = heap_in_use();
    while (!colo_match_full(b.m)) {
        colo_match_primary(b.m, colo_test_udp(0, "p", 1));
    }
    primary = heap_in_use() - before;
    g_assert_cmpuint(primary, <, config.max_bytes * 5 / 4);
    while (!s->secondary_dropped) {
        colo_match_secondary(b.m, colo_test_udp(1, "s", 1));
    }
    secondary = heap_in_use() - before - primary;
    g_assert_cmpuint(secondary, <, config.max_bytes * 5 / 4);
    bench_cleanup(&b);
}

/* A packet that finds no place again after a commit counts once */
static void test_unplaced(void)
{
    static const ColoMatchConfig config = {
        .timeout_ms = 100, .max_packets = 64, .max_bytes = 1 << 20,
        .max_flows = 2, .idle_ms = 10000,
    };
    Bench b;

    bench_init(&b, &config);
    feed(&b, (const char *const []) {
        "A", "P 0", "S 0", "p d1@1", "p d1@2", "p d1@3 > !R", "P 1", "p d2@1",
        "p d2@2", "p d2@3", "C 1 > d1@1 d1@2 d1@3", "S 1 > !R", NULL });
    g_assert_cmpint(colo_match_stats(b.m)->unplaced_packets, ==, 2);
    g_assert_cmpint(colo_match_stats(b.m)->queued_packets, ==, 3);
    bench_cleanup(&b);
}

/* What is held when the engine goes is freed; leak checkers look at it */
static void test_free(void)
{
    static const ColoMatchConfig config = {
        .timeout_ms = 100, .max_packets = 64, .max_bytes = 1 << 20,
        .max_flows = 2, .idle_ms = 10000,
    };
    Bench b;

    bench_init(&b, &config);
    feed(&b, (const char *const []) {
        "A", "P 0", "S 0", "p 1000+10a5", "p 1000+0a6", "s S5+0a7",
        "p f1.0/2", "p f1.1/2@1", "p d1@3 > !R", "s f2.0/2", NULL });
    g_assert_cmpint(colo_match_stats(b.m)->flows, ==, 2);
    g_assert_cmpint(colo_match_stats(b.m)->unplaced_packets, ==, 1);
    bench_cleanup(&b);
    colo_match_free(NULL);
}

static void note_begin(void *opaque, const ColoPacket *p)
{
    g_string_append_printf(opaque, " %u", p->seq);
}

static void drop_released(void *opaque, ColoPacket *p)
{
    colo_packet_free(p);
}

static void ignore_need(void *opaque, ColoMatchNeed why, uint64_t epoch)
{
}

static const ColoMatchOps begin_ops = {
    .release = drop_released,
    .need = ignore_need,
    .begin = note_begin,
};

static void say(ColoMatch *m, uint8_t flags, uint32_t seq, uint32_t ack,
                unsigned flow)
{
    ColoTestTcp t = {
        .flags = flags, .seq = seq, .ack = ack, .flow = flow, .window = 100,
    };

    colo_match_primary(m, colo_test_tcp(&t));
}

/* Connections that the primary's guest begins are told once */
static void test_begin(void)
{
    g_autoptr(GString) told = g_string_new(NULL);
    ColoMatch *m = colo_match_new(&bench_default_config, &begin_ops, told);

    say(m, COLO_TCP_SYN, 1, 0, 1);              /* no session */
    colo_match_arm(m);
    colo_match_primary_cut(m, 0, 0);
    say(m, COLO_TCP_SYN, 2, 0, 1);
    say(m, COLO_TCP_SYN, 2, 0, 1);              /* again */
    say(m, COLO_TCP_SYN | COLO_TCP_ACK, 3, 9, 2);   /* begun by the client */
    say(m, COLO_TCP_SYN | COLO_TCP_RST, 4, 0, 3);
    say(m, COLO_TCP_ACK, 5, 9, 4);
    say(m, COLO_TCP_SYN, 6, 0, 5);
    g_assert_cmpstr(told->str, ==, " 2 6");
    colo_match_primary_cut(m, 1, 0);
    say(m, COLO_TCP_SYN, 2, 0, 1);              /* again, in another epoch */
    colo_match_commit(m, 1, 0);
    say(m, COLO_TCP_SYN, 2, 0, 1);
    g_assert_cmpstr(told->str, ==, " 2 6");
    say(m, COLO_TCP_SYN, 7, 0, 1);              /* another connection */
    g_assert_cmpstr(told->str, ==, " 2 6 7");
    colo_match_free(m);
}

/* In which epochs may the secondary say that it is? */
static void test_records(void)
{
    static const struct {
        uint64_t epoch;
        bool may_be;
    } records[] = {
        { 3, false }, { 0, true }, { 0, false }, { 2, true }, { 1, false },
        { 2, false }, { UINT64_MAX, false }, { 3, false },
    };
    Bench b;

    bench_init(&b, NULL);
    g_assert_true(colo_match_secondary_cut(b.m, 7, 0));
    feed(&b, (const char *const []) { "A", "P 0", "C 1", "P 1", "P 2", NULL });
    for (int i = 0; i < ARRAY_SIZE(records); i++) {
        g_assert_true(colo_match_secondary_cut(b.m, records[i].epoch, 0) ==
                      records[i].may_be);
    }
    /* The commit may be heard here later than the record of what follows it */
    feed(&b, (const char *const []) { "p d1", "s d1 > d1", "C 2", NULL });
    g_assert_true(colo_match_secondary_cut(b.m, 3, 0));
    feed(&b, (const char *const []) {
        "P 3", "p d2", "s d2 > d2", "L", NULL });
    g_assert_true(colo_match_secondary_cut(b.m, 3, 0));
    bench_cleanup(&b);
}

/* Records of epochs that are over, as many as there were, cost little */
static void test_old_records(void)
{
    enum { FLOWS = 5000, RECORDS = 5000 };
    int64_t begin_us;
    Bench b;

    bench_init(&b, &(const ColoMatchConfig) {
        .timeout_ms = 1000, .max_packets = 64, .max_bytes = 64 * 1024 * 1024,
        .max_flows = 65536, .idle_ms = 1000 });
    feed(&b, (const char *const []) { "A", "P 0", "C 6000", "P 6000", NULL });
    begin_us = g_get_monotonic_time();
    for (unsigned i = 0; i < FLOWS; i++) {
        const ColoTestTcp one = {
            .seq = 1000, .ack = 50, .flags = COLO_TCP_ACK, .window = 500,
            .guest_port = 80, .peer_port = 1 + i, .data = "data", .len = 4,
        };

        colo_match_primary(b.m, colo_test_tcp(&one));
    }
    begin_us = g_get_monotonic_time() - begin_us;
    g_test_message("%" PRId64 " us for %d packets", begin_us, FLOWS);
    begin_us = begin_us * 20 + g_get_monotonic_time();
    for (unsigned i = 0; i < RECORDS; i++) {
        g_assert_true(colo_match_secondary_cut(b.m, i, 0));
    }
    g_test_message("%" PRId64 " us left", begin_us - g_get_monotonic_time());
    g_assert_cmpint(g_get_monotonic_time(), <, begin_us);
    bench_cleanup(&b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/match/stats", test_stats);
    g_test_add_func("/colo/match/deadline", test_deadline);
    g_test_add_func("/colo/match/memory", test_memory);
    g_test_add_func("/colo/match/unplaced", test_unplaced);
    g_test_add_func("/colo/match/free", test_free);
    g_test_add_func("/colo/match/begin", test_begin);
    g_test_add_func("/colo/match/records", test_records);
    g_test_add_func("/colo/match/old-records", test_old_records);
    return g_test_run();
}
