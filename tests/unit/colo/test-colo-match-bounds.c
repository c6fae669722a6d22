/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rules by which output of the primary may leave: how long they wait, and
 * for how much there is room.  Scripts, see colo-match-script.h.
 */

#include "qemu/osdep.h"
#include "colo-match-script.h"
#include "colo-test-packet.h"

static const ColoMatchConfig few_packets = {
    .timeout_ms = 100,
    .max_packets = 3,
    .max_bytes = 1024 * 1024,
    .max_flows = 16,
    .idle_ms = 10000,
};

static const ColoMatchConfig few_bytes = {
    .timeout_ms = 100,
    .max_packets = 64,
    .max_bytes = 2800,
    .max_flows = 16,
    .idle_ms = 10000,
};

static const ColoMatchConfig few_flows = {
    .timeout_ms = 100,
    .max_packets = 64,
    .max_bytes = 1024 * 1024,
    .max_flows = 2,
    .idle_ms = 10000,
};

static const Script scripts[] = {
    /* Time */
    { "time/waits", NULL,
      BEGIN
      "p d1\n"
      "T 50\n"
      "p d2@1\n"
      "T 49\n"
      "T 1 > !T\n"
      "T 1000\n"
      "P 1\n"
      "p d3\n"
      "C 1 > d1 d2@1\n"
      "S 1\n"
      "T 99\n"
      "T 1 > !T\n"
      "s d3 > d3 -T\n" },
    { "time/late-load", NULL,
      /* The secondary loads: its clock begins with its record */
      BEGIN
      "P 1\n"
      "p d1\n"
      "T 100\n"
      "T 200\n"
      "C 1\n"
      "S 1\n"
      "T 5\n"
      "s d1 > d1\n"
      "p 1000+0a60\n"
      "t 300\n"
      "T 99\n"                             /* it lags as long */
      "T 1 > !T\n" },
    { "time/late-load-lost", NULL,
      /* Nobody can be waited for */
      BEGIN
      "P 1\n"
      "p d1\n"
      "T 100\n"
      "L > !T\n"
      "C 1\n"
      "P 2\n"
      "p d2@1 > !T\n" },
    { "time/late-record", NULL,
      /* It has loaded and runs, but its stream does not get on */
      BEGIN
      "P 1\n"
      "p d1\n"
      "T 300\n"
      "p d2@1\n"
      "C 1\n"
      "T 99\n"                             /* from the commit on */
      "T 1 > !T\n"
      "S 1 > -T\n"                         /* it lags as long */
      "T 99\n"
      "T 1 > !T\n"
      "P 2\n"
      "p d3\n"
      "C 2 > d1 d2@1\n"
      "p d4\n"
      "s d3\n"                             /* of an epoch that is over */
      "T 99\n"
      "T 1 > !T\n" },
    { "time/cut-under-way", NULL,
      /* What a cut has ended needs no other one */
      MIDDLE
      "p d1\n"
      "p 1000+0a60\n"
      "s d2@1\n"
      "P 1\n"
      "s d3\n"
      "T 200\n"
      "C 1 > d1 1000+0a60\n"
      "T 200\n" },
    { "time/asked-before-the-cut", NULL,
      BEGIN
      "p d1\n"
      "T 100 > !T\n"
      "P 1\n"
      "C 1 > d1\n"
      "S 1\n"
      "p d2\n"
      "T 99\n"
      "T 1 > !T\n" },
    { "time/ack-waits", NULL,
      MIDDLE
      "T 10\n"
      "p 1000+0a60\n"
      "T 50\n"
      "p 1000+0a61\n"
      "T 49\n"
      "T 1 > !T\n" },
    { "time/ack-advances", NULL,
      MIDDLE
      "p 1000+0a60\n"
      "T 60\n"
      "s 1000+0a55 > 1000+0a55\n"
      "T 99\n"
      "T 1 > !T\n" },
    { "time/secondary-alone", NULL,
      MIDDLE
      "s 1000+10a50\n"
      "T 999\n"
      "T 1 > !M\n"
      "T 500\n" },
    { "tcp/last-words", NULL,
      BEGIN "p 999+1a500\ns 999+1a500 > 999+1a500\n"
      "s 1000+14a500\n"
      "p 1000+14a400 > 1000+14a400\n"
      "s 1014+14a500\n"
      "s 1000+14a500\n"
      "s 1028+14a500\n"
      "p 1014+0a450 > 1014+0a450\n"
      "p 1014+14a500 > 1014+14a500\n"
      "p FP1028+14a500\n"
      "p 1000+14a500 > 1000+14a500\n"
      "s F1042+0a500 > FP1028+14a500\n" },
    { "time/membership", NULL,
      /* Made at random times: nobody waits for them, what differs is late */
      MIDDLE
      "p i1\n"
      "T 900\n"
      "p i2\n"
      "s i1 > i1\n"
      "T 50\n"
      "s i3\n"
      "T 49\n"
      "p i3\n"
      "T 1\n"
      "p d1\n"                             /* has its own time */
      "T 99\n"
      "T 1 > !T\n"
      "P 1\n"
      "p i4\n"
      "T 700\n"
      "C 1 > i2 i3 d1\n"
      "S 1\n"
      "T 299\n"
      "T 701 > !T\n"
      "O > i4\n" },
    { "time/secondary-first", NULL,
      MIDDLE
      "t 500\n"                             /* nothing was said for long */
      "s 1000+10a50\n"
      "T 999\n"
      "T 1 > !M\n" },
    { "time/forgotten", NULL,
      MIDDLE
      "p d1\n"
      "s d1 > d1\n"
      "T 10000\n"
      "p 999+1a50\n" },                     /* not known to be repeated */

    /* Bounds */
    { "room/packets", &few_packets,
      BEGIN
      "p d1\n"
      "p d2\n"
      "room\n"
      "T 50\n"
      "p d3\n"
      "full\n"
      "p d4\n"
      "T 49\n"
      "T 1 > !T\n"
      "T 49\n"
      "T 1 > !R\n"
      "s d1 > d1\n"
      "full\n"
      "s d2 > d2 -R\n"
      "room\n"
      "P 1\n"
      "C 1 > d3 d4\n" },
    { "room/late-load", &few_packets,
      /* While the secondary loads it is full, and that is all */
      BEGIN
      "P 1\n"
      "p d1\n"
      "p d2\n"
      "p d3\n"
      "full\n"
      "T 300\n"
      "C 1\n"
      "S 1\n"
      "T 50\n"
      "s d1 > d1\n"
      "room\n"
      "p d4\n"
      "full\n"
      "T 49\n"
      "T 1 > !T\n"
      "T 349\n"
      "T 1 > !R\n" },
    { "room/lost", &few_packets,
      BEGIN
      "L\n"
      "p d1 > !T\n"
      "p d2\n"
      "p d3 > !R\n"
      "S 0 > -T -R\n"
      "s d1 > d1\n" },
    { "room/secondary-packets", &few_packets,
      BEGIN
      "s d1\n"
      "s d2\n"
      "s d3\n"
      "s d4 > !R\n"                        /* what it said is lost */
      "p d1 > d1\n"
      "p d2 > d2\n"
      "p d3 > d3\n"
      "p d4\n" },
    { "room/bytes", &few_bytes,
      BEGIN
      "p 1000+1800a50\n"
      "room\n"
      "p 2800+500a50\n"
      "full\n"
      "s 1000+1800a50 > 1000+1800a50\n"
      "room\n"
      "s 5000+1800a50\n"
      "s 6800+500a50 > !R\n" },
    { "room/still-full", &few_packets,
      BEGIN
      "P 1\n"
      "p d1\n"
      "p d2\n"
      "p d3\n"
      "S 1\n"
      "T 100 > !T !R\n"
      "C 1\n" },
    { "room/flows", &few_flows,
      BEGIN
      "p d1@1\n"
      "p d2@2\n"
      "p d3@3 > !R\n"
      "p d4@4\n"
      "s d1@1 > d1@1\n"
      "s d3@3\n"
      "p d5@3\n"                            /* no flow: must not overtake */
      "P 1\n"
      "p d6@3\n"
      "C 1 > d2@2 d3@3 d4@4 d5@3\n"
      "S 1\n"
      "s d6@3 > d6@3\n" },
    { "room/flows-committed", &few_flows,
      "A\nP 0\nS 1\n"
      "s d1@1\n"
      "s d2@2\n"
      "C 1\n"
      "p 1000+10a50@3 > 1000+10a50@3\n" },
    { "room/flows-ended", &few_flows,
      BEGIN
      "p 999+1a50@1\n"
      "s 999+1a50@1 > 999+1a50@1\n"
      "p F999+1a50@2\n"
      "s F999+1a50@2 > F999+1a50@2\n"
      "p d1@3\n"                            /* in the place of @2 */
      "p 999+1a50@1 > 999+1a50@1\n" },
    { "room/flows-idle", &few_flows,
      BEGIN
      "p d1@1\n"
      "s d1@1 > d1@1\n"
      "p d2@2\n"
      "p d3@3\n"
      "s d3@3 > d3@3\n"
      "s d2@2 > d2@2\n" },
};

static const ColoMatchConfig many_flows = {
    .timeout_ms = 100000,
    .max_packets = 64,
    .max_bytes = 64 * 1024 * 1024,
    .max_flows = 65536,
    .idle_ms = 100000,
};

static void say(ColoMatch *m, bool primary, unsigned flow, uint32_t ack,
                int64_t now_ms)
{
    const ColoTestTcp t = {
        .seq = 1000, .ack = ack, .flags = COLO_TCP_ACK, .window = 500,
        .guest_port = 80, .peer_port = 1 + flow, .data = "data", .len = 4,
    };
    ColoPacket *p = colo_test_tcp(&t);

    p->arrived_ms = now_ms;
    (primary ? colo_match_primary : colo_match_secondary)(m, p);
}

/*
 * In each of many flows the primary acknowledges more than the secondary, which
 * says the same data later.  Returns how long that took, in us.
 */
static int64_t run_many(bool reversed)
{
    enum { FLOWS = 20000 };
    int64_t begin_us;
    Bench b;

    bench_init(&b, &many_flows);
    bench_line(&b, "many", 1, "A");
    bench_line(&b, "many", 2, "P 0");
    bench_line(&b, "many", 3, "S 0");
    for (unsigned i = 0; i < FLOWS; i++) {
        say(b.m, true, i, 50, i / 10);
    }
    begin_us = g_get_monotonic_time();
    for (unsigned i = 0; i < FLOWS; i++) {
        say(b.m, false, reversed ? FLOWS - 1 - i : i, 40, FLOWS);
    }
    begin_us = g_get_monotonic_time() - begin_us;
    g_assert_cmpuint(colo_match_stats(b.m)->acks_clamped, ==, FLOWS);
    bench_cleanup(&b);
    return begin_us;
}

/* In whatever order: clients choose it */
static void test_many_acks(void)
{
    int64_t in_order_us = run_many(false), reversed_us = run_many(true);

    g_test_message("%" PRId64 " us, reversed %" PRId64 " us", in_order_us,
                   reversed_us);
    g_assert_cmpint(reversed_us, <, 20 * in_order_us);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    bench_add_scripts(scripts, ARRAY_SIZE(scripts));
    g_test_add_func("/colo/match/room/many-acks", test_many_acks);
    return g_test_run();
}
