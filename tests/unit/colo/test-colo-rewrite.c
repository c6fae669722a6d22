/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: TCP of a secondary guest, mapped to the primary's numbers.
 *
 * Proves: what a secondary guest (S) says comes out with the numbers of the
 * primary (P), what it gets comes in with its own, in all states of a
 * connection and over loads; nothing but seq, ack, SACK edges, timestamps and
 * the checksum ever changes; the table stays bounded.
 */

#include "qemu/osdep.h"
#include "colo-rewrite-util.h"

/* Handshakes */

static void test_server(void)
{
    Test *t = test_new(10);

    accept_client(t);
    talk(t);
    /* The SYN-ACK once more: the client must not see another one */
    says(t, seg(SYN | ACK, t->s, t->c + 1, 0), t->p);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->learned, ==, 1);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->flows_open, ==, 1);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->rewritten_packets, ==, 5);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->rewritten_seqs, ==, 3);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->rewritten_acks, ==, 2);
    test_free(t);
}

static void test_client(void)
{
    Test *t = test_new(10);

    connect_server(t);
    talk(t);
    says(t, seg(SYN, t->s, 0, 0), t->p);
    gets(t, seg(SYN | ACK, t->c, t->p + 1, 0), t->s + 1);
    test_free(t);
}

/* Both send SYN at the same time */
static void test_simultaneous(void)
{
    Test *t = test_new(10);

    says(t, seg(SYN, t->s, 0, 0), t->s);
    gets(t, seg(SYN, t->c, 0, 0), 0);
    says(t, seg(SYN | ACK, t->s, t->c + 1, 0), t->s);
    gets(t, seg(SYN | ACK, t->c, t->p + 1, 0), t->s + 1);
    talk(t);
    test_free(t);
}

/* What must not teach an offset */
static void test_bad_teachers(void)
{
    Test *t = test_new(10);

    /* S connects: neither a bare ACK nor a reset is the answer */
    says(t, seg(SYN, t->s, 0, 0), t->s);
    gets(t, seg(ACK, t->c, 0x1234, 0), 0x1234);
    gets(t, seg(ACK, 0, 0x1234, 0), 0x1234);
    says(t, seg(RST, 0x1234, 0, 0), 0x1234);
    says(t, seg(SYN, t->s, 0, 0), t->s);
    gets(t, seg(RST, t->c, 0, 0), 0);
    gets(t, seg(SYN | ACK, t->c, t->p + 1, 0), t->s + 1);
    talk(t);

    /* A client connects: no SYN, no reset, nothing outside of the window */
    t->port++;
    gets(t, seg(SYN, t->c, 0, 0), 0);
    says(t, seg(SYN | ACK, t->s, t->c + 1, 0), t->s);
    gets(t, seg(SYN | ACK, t->c, 0x1234, 0), 0x1234);
    gets(t, seg(RST | ACK, t->c + 1, 0x1234, 0), 0x1234);
    gets(t, seg(ACK, t->c, 0x1234, 0), 0x1234);
    gets(t, seg(ACK, t->c + 1 + 5001, 0x1234, 0), 0x1234);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->learned, ==, 1);
    /* The bare ACK was lost, data is the first to come */
    gets(t, seg(ACK, t->c + 1, t->p + 1, 500), t->s + 1);
    talk(t);

    /* Data in the SYN: open what the answer acknowledges */
    t->port++;
    says(t, seg(SYN, t->s, 0, 50), t->s);
    gets(t, seg(SYN | ACK, t->c, t->p + 1, 0), t->p + 1);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->learned, ==, 2);
    test_free(t);
}

/* A refused connect has to be seen as refused */
static void test_refused(void)
{
    Test *t = test_new(10);

    says(t, seg(SYN, t->s, 0, 0), t->s);
    gets(t, seg(RST | ACK, 0, t->p + 1, 0), t->s + 1);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->learned, ==, 0);
    /* S refuses: seq 0 of that reset is a constant */
    t->port++;
    accept_client(t);
    says(t, seg(RST | ACK, 0, t->c + 1, 0), 0);
    test_free(t);
}

/* Established connections */

static void test_sack(void)
{
    Test *t = test_new(10);
    Seg in;

    accept_client(t);
    in = seg(ACK, t->c + 1, t->p + 1, 0);
    in.sacks = 4;
    in.sack[0] = t->p + 2001;
    in.sack[1] = t->p + 3001;
    in.sack[2] = t->p + 5001;
    in.sack[3] = t->p + 6001;
    gets(t, in, t->s + 1);
    in.ts = true;
    in.tsval = 7;
    in.tsecr = 1;
    in.sacks = 2;
    gets(t, in, t->s + 1);
    /* What S has got of the client's bytes is said in the client's numbers */
    in = seg(ACK, t->s + 1, t->c + 1, 0);
    in.sacks = 2;
    in.sack[0] = t->c + 101;
    in.sack[1] = t->c + 201;
    says(t, in, t->p + 1);
    test_free(t);
}

static void test_wrap(void)
{
    static const uint32_t isns[] = {
        0, 1, 0x7fffffff, 0x80000000, 0xfffffc00, 0xfffffffe, 0xffffffff,
    };
    Test *t = test_new(1000);

    for (size_t i = 0; i < ARRAY_SIZE(isns); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(isns); j++) {
            t->s = isns[i];
            t->p = isns[j];
            t->c = isns[(i + j) % ARRAY_SIZE(isns)];
            t->port++;
            accept_client(t);
            talk(t);
            close_both(t);
            t->port++;
            connect_server(t);
            talk(t);
            close_both(t);
        }
    }
    test_free(t);
}

/* Addresses and ports are used again */
static void test_incarnation(void)
{
    Test *t = test_new(10);

    for (int i = 0; i < 4; i++) {
        accept_client(t);
        talk(t);
        g_assert_cmpuint(colo_rewrite_stats(t->r)->flows_open, ==, 1);
        if (i & 1) {
            close_both(t);
        }
        /* A SYN that S only acknowledges, it is not dead for it */
        gets(t, seg(SYN, t->c + 0x5000000, 0, 0), 0);
        says(t, seg(ACK, t->s + 1001, t->c + 301, 0), t->p + 1001);
        t->s += 0x01234567;
        t->p += 0x07654321;
        t->c += 0x01111111;
    }
    connect_server(t);
    talk(t);
    g_assert_cmpuint(flows(t), ==, 1);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->learned, ==, 5);

    /* S happens to pick the same number again, for another SYN */
    t->port++;
    accept_client(t);
    talk(t);
    t->p += 0x07654321;
    t->c += 0x01111111;
    accept_client(t);
    talk(t);
    test_free(t);
}

static void test_ipv6(void)
{
    Test *t = test_new(10);

    t->ipv6 = true;
    accept_client(t);
    talk(t);
    close_both(t);
    g_assert_cmpuint(flows(t), ==, 1);
    test_free(t);
}

static void test_vlan(void)
{
    Test *t = test_new(10);

    for (t->vlans = 0; t->vlans <= COLO_PACKET_VLANS; t->vlans++) {
        for (int v6 = 0; v6 < 2; v6++) {
            t->ipv6 = v6;
            t->p += 0x1000;
            accept_client(t);
            talk(t);
        }
    }
    /* They are all different, though addresses and ports are equal */
    g_assert_cmpuint(flows(t), ==, 6);
    t->vlans = 1;
    t->p -= 0x3000 - 0x1000;
    talk(t);
    test_free(t);
}

/* A partial checksum stays as it is: pass() compares it */
static void test_vnet(void)
{
    Test *t = test_new(10);

    t->vnet = true;
    accept_client(t);
    talk(t);
    t->port++;
    t->vlans = 2;
    t->ipv6 = true;
    connect_server(t);
    talk(t);
    test_free(t);
}

/* Loads */

static void test_load(void)
{
    Test *t = test_new(10);
    uint32_t s = t->s;

    accept_client(t);
    talk(t);
    t->port++;
    connect_server(t);
    talk(t);
    colo_rewrite_load(t->r);

    /* S has the connections of P now */
    t->s = t->p;
    talk(t);
    close_both(t);
    t->port--;
    talk(t);
    close_both(t);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->loads, ==, 1);
    g_assert_cmpuint(flows(t), ==, 0);

    /* and opens its own next time */
    t->s = s;
    accept_client(t);
    talk(t);
    test_free(t);
}

/* A load in the middle of both handshakes */
static void test_load_handshake(void)
{
    Test *t = test_new(10);

    says(t, seg(SYN | ACK, t->s, t->c + 1, 0), t->s);
    colo_rewrite_load(t->r);
    gets(t, seg(ACK, t->c + 1, t->p + 1, 0), t->p + 1);
    says(t, seg(ACK, t->p + 1, t->c + 1, 9), t->p + 1);

    /* What came from nobody knows where is no reason to remember it */
    t->port++;
    says(t, seg_ts(SYN | ACK, t->s, t->c + 1, 5, 5), t->s);
    gets(t, seg_ts(ACK, t->c + 90000, 0x1234, 5, 5), 0x1234);
    colo_rewrite_load(t->r);
    g_assert_cmpuint(flows(t), ==, 0);

    t->port++;
    says(t, seg(SYN, t->s, 0, 0), t->s);
    colo_rewrite_load(t->r);
    /* S says it once more, now with P's number */
    says(t, seg(SYN, t->p, 0, 0), t->p);
    gets(t, seg(SYN | ACK, t->c, t->p + 1, 0), t->p + 1);
    says(t, seg(ACK, t->p + 1, t->c + 1, 9), t->p + 1);
    test_free(t);
}

/* Timestamps */

static void accept_client_ts(Test *t, uint32_t s_clock, uint32_t p_clock)
{
    Seg in, out;

    gets(t, seg_ts(SYN, t->c, 0, 500, 0), 0);
    says(t, seg_ts(SYN | ACK, t->s, t->c + 1, s_clock, 500), t->s);
    in = seg_ts(ACK, t->c + 1, t->p + 1, 510, p_clock);
    out = in;
    out.ack = t->s + 1;
    if (p_clock) {
        out.tsecr = s_clock;
    }
    pass(t, false, in, out);
}

/* S says @tsval at its byte @at, it comes out as @expected */
static void says_ts(Test *t, uint32_t at, uint32_t tsval, uint32_t expected)
{
    Seg in = seg_ts(ACK, t->s + at, t->c + 1, tsval, 510);
    Seg out = in;

    out.seq = t->p + at;
    out.tsval = expected;
    pass(t, true, in, out);
}

static void gets_ts(Test *t, uint32_t at, uint32_t tsecr, uint32_t expected)
{
    Seg in = seg_ts(ACK, t->c + 1, t->p + at, 520, tsecr);
    Seg out = in;

    out.ack = t->s + at;
    out.tsecr = expected;
    pass(t, false, in, out);
}

static void check_timestamps(uint32_t clock)
{
    Test *t = test_new(10);

    /* The clock of P is 40 ahead */
    accept_client_ts(t, clock, clock + 40);
    says_ts(t, 1, clock + 10, clock + 50);
    gets_ts(t, 101, clock + 50, clock + 10);
    says_ts(t, 101, clock + 20, clock + 60);
    /* An old echo is no reason to step back */
    gets_ts(t, 101, clock + 5, clock - 35);
    says_ts(t, 101, clock + 9, clock + 50);
    says_ts(t, 101, clock + 11, clock + 51);
    says_ts(t, 101, clock + 30, clock + 70);
    gets_ts(t, 101, clock + 60, clock + 20);
    gets_ts(t, 101, clock + 90, clock + 30);

    /* The floor survives, what S has said does not */
    colo_rewrite_load(t->r);
    t->s = t->p;
    g_assert_cmpuint(flows(t), ==, 1);
    gets_ts(t, 201, clock + 95, clock + 95);
    says_ts(t, 201, clock + 80, clock + 95);
    gets_ts(t, 201, clock + 96, clock + 80);
    says_ts(t, 201, clock + 100, clock + 100);
    test_free(t);
}

static void test_timestamps(void)
{
    check_timestamps(1000);
}

static void test_timestamps_wrap(void)
{
    /* No echo is 0 then, which would be none */
    static const uint32_t before[] = { 1, 7, 15, 33, 45, 55, 70, 85, 93, 99 };

    for (size_t i = 0; i < ARRAY_SIZE(before); i++) {
        check_timestamps(-before[i]);
        check_timestamps(0x80000000 - before[i]);
    }
}

static void undo_one(Test *t, const Seg *in)
{
    ColoPacket *p = build(t, false, in);
    ColoPacket *before = colo_packet_copy(p);

    g_assert_true(feed(t, false, p));
    g_assert_true(colo_rewrite_undo_to_guest(t->r, p));
    g_assert_cmpmem(p->data, p->size, before->data, before->size);
    g_assert_true(colo_flow_key_equal(&p->key, &before->key));
    colo_packet_free(before);
    colo_packet_free(p);
}

/* What has a digest of its numbers keeps them, and teaches nothing */
static void test_signed(void)
{
    Test *t = test_new(10);
    Seg in = seg_ts(ACK, t->c + 1, t->p + 1, 7, 1140);
    ColoPacket *p;

    accept_client_ts(t, 1000, 1040);
    p = build(t, false, &in);
    p->bound = COLO_TCP_SIGNED;
    g_assert_false(feed(t, false, p));
    g_assert_false(colo_rewrite_undo_to_guest(t->r, p));
    colo_packet_free(p);
    in = seg_ts(ACK, t->s + 1, t->c + 1, 1100, 7);
    p = build(t, true, &in);
    p->bound = COLO_TCP_SIGNED;
    g_assert_false(feed(t, true, p));
    colo_packet_free(p);
    t->port++;
    in = seg_ts(SYN, t->s, 0, 1000, 0);
    p = build(t, true, &in);
    p->bound = COLO_TCP_SIGNED;
    g_assert_false(feed(t, true, p));
    g_assert_cmpuint(flows(t), ==, 1);
    colo_packet_free(p);
    test_free(t);
}

/* What the guest got can be made what came */
static void test_undo(void)
{
    Test *t = test_new(10);
    ColoPacket *p;
    Seg in;

    accept_client_ts(t, 1000, 1040);
    says_ts(t, 1, 1100, 1140);
    in = seg_ts(ACK, t->c + 1, t->p + 1, 7, 1140);
    in.payload = 100;
    in.guest_port = t->outer;
    undo_one(t, &in);
    in.sacks = 1;
    in.sack[0] = t->p + 2001;
    in.sack[1] = t->p + 3001;
    undo_one(t, &in);

    /* After a load there is nothing to undo, nor for those who are not known */
    colo_rewrite_load(t->r);
    p = build(t, false, &in);
    feed(t, false, p);
    g_assert_false(colo_rewrite_undo_to_guest(t->r, p));
    colo_packet_free(p);
    t->port++;
    p = build(t, false, &in);
    g_assert_false(colo_rewrite_undo_to_guest(t->r, p));
    colo_packet_free(p);
    test_free(t);
}

/* S resets its own connect if the echo is not between SYN and now */
static void test_timestamps_connect(void)
{
    static const struct {
        uint32_t echo, expected;
    } answers[] = {
        { 900, 1000 }, { 1000, 1000 }, { 1007, 1000 }, { 1031, 1000 },
        { 2000, 1000 }, { 0x90000000, 1000 },
    };
    Test *t = test_new(10);

    for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
        Seg in, out;

        t->port++;
        says(t, seg_ts(SYN, t->s, 0, 1000, 0), t->s);
        says(t, seg_ts(SYN, t->s, 0, 1030, 0), t->s);
        in = seg_ts(SYN | ACK, t->c, t->p + 1, 7777, answers[i].echo);
        out = in;
        out.ack = t->s + 1;
        out.tsecr = answers[i].expected;
        pass(t, false, in, out);
        /* and its clock goes on where the server has seen P's */
        in = seg_ts(ACK, t->s + 1, t->c + 1, 1031, 7777);
        out = in;
        out.seq = t->p + 1;
        out.tsval = answers[i].echo + 31;
        pass(t, true, in, out);
    }
    test_free(t);
}

/* It connects since before a load: then its clock may be behind any echo */
static void test_timestamps_connect_load(void)
{
    Test *t = test_new(10);
    ColoPacket *p;
    Seg in, out;

    in = seg_ts(SYN | ACK, t->c, t->p + 1, 7777, 1000);
    pass(t, false, in, in);
    colo_rewrite_load(t->r);
    p = build(t, false, &in);
    g_assert_true(colo_rewrite_wants(t->r, p->data, p->size, p->size, 0, false));
    colo_packet_free(p);
    out = in;
    out.tsecr = 0;
    pass(t, false, in, out);
    /* Any other segment says nothing of it */
    in = seg_ts(ACK, t->c, t->p + 1, 7777, 1000);
    pass(t, false, in, in);

    /* A reset ends it, whatever it echoes */
    in = seg_ts(RST | SYN | ACK, t->c, t->p + 1, 7777, 1000);
    pass(t, false, in, in);
    test_free(t);
}

/* A connection that was there before, and is at offset zero */
static void test_timestamps_adopted(void)
{
    Test *t = test_new(2);
    uint32_t s = t->s;

    t->s = t->p;
    gets_ts(t, 1, 900, 900);
    g_assert_cmpuint(flows(t), ==, 0);
    says_ts(t, 1, 800, 800);
    g_assert_cmpuint(flows(t), ==, 1);
    gets_ts(t, 1, 900, 800);
    says_ts(t, 1, 850, 900);

    /* It does not drive out what S has opened, and is driven out by it */
    t->port++;
    t->s = s;
    accept_client(t);
    t->port++;
    t->s = t->p;
    says_ts(t, 1, 800, 800);
    g_assert_cmpuint(flows(t), ==, 2);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->evicted, ==, 0);
    t->port--;
    t->s = s;
    talk(t);
    test_free(t);
}

/* No echo is no reason for anything */
static void test_timestamps_no_echo(void)
{
    Test *t = test_new(10);

    accept_client_ts(t, 0xf0000000, 0);
    says_ts(t, 1, 0xf0000001, 0xf0000001);
    gets_ts(t, 1, 0, 0);
    says_ts(t, 1, 0xf0000002, 0xf0000002);
    gets_ts(t, 1, 0xf0000007, 0xf0000002);
    gets_ts(t, 1, 0, 0);
    says_ts(t, 1, 0xf0000003, 0xf0000007);
    test_free(t);
}

/* A connection ends across a load, then S has the same number once more */
static void test_load_end(void)
{
    Test *t = test_new(10);
    uint32_t s = t->s;

    accept_client_ts(t, 100, 100);
    says(t, seg(FIN | ACK, t->s + 1, t->c + 1, 0), t->p + 1);
    colo_rewrite_load(t->r);
    gets(t, seg(ACK, t->c + 1, t->p + 2, 0), t->p + 2);
    gets(t, seg(FIN | ACK, t->c + 1, t->p + 2, 0), t->p + 2);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->flows_open, ==, 1);
    says(t, seg(ACK, t->p + 2, t->c + 2, 0), t->p + 2);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->flows_open, ==, 0);
    g_assert_cmpuint(flows(t), ==, 1);

    t->s = s;
    t->p += 0x123;
    accept_client(t);
    talk(t);
    test_free(t);
}

/* The floor is not taken over to the next connection */
static void test_timestamps_incarnation(void)
{
    Test *t = test_new(10);

    accept_client_ts(t, 5000, 9000);
    says_ts(t, 1, 5001, 9001);
    t->s += 77;
    t->p += 99;
    t->c += 55;
    accept_client_ts(t, 200, 210);
    says_ts(t, 1, 201, 211);
    says_ts(t, 1, 211, 221);
    test_free(t);
}

/* A secondary took over and is a primary now: its secondary goes on with it */
static void test_handed_on(void)
{
    Test *t = test_new(10);
    ColoRewrite *first = t->r;
    g_autoptr(GByteArray) none = colo_rewrite_export(first);
    g_autoptr(GByteArray) state = NULL;

    g_assert_cmpuint(none->len, ==, 0);
    accept_client_ts(t, 5000, 9000);
    says_ts(t, 1, 5010, 9010);
    state = colo_rewrite_export(first);
    g_assert_cmpuint(state->len, >, 0);

    t->r = colo_rewrite_new(10, 1000000);
    colo_rewrite_load(t->r);
    for (guint len = 1; len < state->len; len++) {
        g_assert_false(colo_rewrite_import(t->r, state->data, len, 0));
    }
    g_assert_true(colo_rewrite_import(t->r, state->data, state->len, 0));
    g_assert_cmpuint(flows(t), ==, 1);
    says_ts(t, 1, 5020, 9020);
    gets_ts(t, 101, 9020, 5020);
    says_ts(t, 101, 5030, 9030);

    /* The next checkpoint says that it has ended meanwhile */
    colo_rewrite_load(t->r);
    t->s = t->p;
    says_ts(t, 101, 9040, 9040);
    colo_rewrite_free(first);
    test_free(t);
}

/* The same of a handshake that a checkpoint comes into, on either side's own */
static void hand_on(Test *t)
{
    ColoRewrite *first = t->r;
    g_autoptr(GByteArray) state = NULL;

    colo_rewrite_set_live(first);
    state = colo_rewrite_export(first);
    g_assert_cmpuint(state->len, >, 0);
    colo_rewrite_free(first);
    t->r = colo_rewrite_new(10, 1000000);
    colo_rewrite_load(t->r);
    g_assert_true(colo_rewrite_import(t->r, state->data, state->len, 0));
}

static void test_handed_on_handshake(void)
{
    Test *t = test_new(10);
    Seg in, out;

    /* The client has the SYN-ACK of the first primary, and answers it late */
    gets(t, seg_ts(SYN, t->c, 0, 500, 0), 0);
    says(t, seg_ts(SYN | ACK, t->s, t->c + 1, 5000, 500), t->s);
    hand_on(t);
    in = seg_ts(ACK, t->c + 1, t->p + 1, 510, 9000);
    out = in;
    out.ack = t->s + 1;
    out.tsecr = 5000;
    pass(t, false, in, out);
    says_ts(t, 1, 5010, 9010);
    /* The new guest may say it once more */
    in = seg_ts(SYN | ACK, t->s, t->c + 1, 5000, 500);
    out = in;
    out.seq = t->p;
    out.tsval = 9000;
    pass(t, true, in, out);

    /* Or the server has its SYN, from its port */
    t->port++;
    says(t, seg(SYN, t->s, 0, 0), t->s);
    hand_on(t);
    says(t, seg(SYN, t->s, 0, 0), t->s);
    gets(t, seg(SYN | ACK, t->c, t->p + 1, 0), t->s + 1);
    talk(t);
    test_free(t);
}

/* What it begins when it is live is what clients see: nothing to hand on */
static void test_handed_on_own(void)
{
    Test *t = test_new(10);
    g_autoptr(GByteArray) state = NULL;

    says(t, seg(SYN | ACK, t->s, t->c + 1, 0), t->s);
    colo_rewrite_set_live(t->r);
    t->port++;
    says(t, seg(SYN | ACK, t->s, t->c + 1, 0), t->s);
    t->port++;
    says(t, seg(SYN, t->s, 0, 0), t->s);
    state = colo_rewrite_export(t->r);
    g_assert_cmpuint(state->len, ==, COLO_REWRITE_EXPORT_LEN);

    /* Another connection from the same port is its own as well */
    t->port -= 2;
    says(t, seg(SYN | ACK, t->s + 5000, t->c + 70000, 0), t->s + 5000);
    g_byte_array_unref(state);
    state = colo_rewrite_export(t->r);
    g_assert_cmpuint(state->len, ==, 0);
    test_free(t);
}

/* The end of a connection */

static void advance(Test *t, int64_t ms)
{
    t->now += ms;
    colo_rewrite_tick(t->r, t->now);
}

static void test_close(void)
{
    Test *t = test_new(10);

    accept_client(t);
    talk(t);
    close_both(t);
    g_assert_cmpuint(flows(t), ==, 1);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->flows_open, ==, 0);
    advance(t, COLO_REWRITE_CLOSING_MS - 1);
    /* The last ACK was lost */
    gets(t, seg(FIN | ACK, t->c + 301, t->p + 1002, 0), t->s + 1002);
    says(t, seg(ACK, t->s + 1002, t->c + 302, 0), t->p + 1002);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->flows_open, ==, 0);
    advance(t, COLO_REWRITE_CLOSING_MS - 1);
    g_assert_cmpuint(flows(t), ==, 1);
    advance(t, 1);
    g_assert_cmpuint(flows(t), ==, 0);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->expired, ==, 1);
    test_free(t);
}

/* One FIN only, or one that was not acknowledged, is not the end */
static void test_half_closed(void)
{
    Test *t = test_new(10);

    accept_client(t);
    talk(t);
    gets(t, seg(FIN | ACK, t->c + 301, t->p + 1001, 0), t->s + 1001);
    says(t, seg(ACK, t->s + 1001, t->c + 302, 400), t->p + 1001);
    advance(t, COLO_REWRITE_CLOSING_MS * 2);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->flows_open, ==, 1);
    says(t, seg(FIN | ACK, t->s + 1401, t->c + 302, 0), t->p + 1401);
    gets(t, seg(ACK, t->c + 302, t->p + 1401, 0), t->s + 1401);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->flows_open, ==, 1);
    /* Somebody else's FIN: no ACK will ever be equal to that */
    gets(t, seg(FIN | ACK, 0x99, t->p + 1401, 0), t->s + 1401);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->flows_open, ==, 1);
    gets(t, seg(ACK, t->c + 302, t->p + 1402, 0), t->s + 1402);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->flows_open, ==, 0);
    test_free(t);
}

static void test_rst(void)
{
    Test *t = test_new(10);

    for (int from_guest = 0; from_guest < 2; from_guest++) {
        t->port++;
        accept_client(t);
        talk(t);
        if (from_guest) {
            says(t, seg(RST | ACK, t->s + 1001, t->c + 301, 0), t->p + 1001);
        } else {
            gets(t, seg(RST, t->c + 301, 0, 0), 0);
        }
        g_assert_cmpuint(colo_rewrite_stats(t->r)->flows_open, ==, 0);
    }
    advance(t, COLO_REWRITE_CLOSING_MS);
    g_assert_cmpuint(flows(t), ==, 0);

    /* A reset that S does not believe must not take its numbers away */
    accept_client(t);
    talk(t);
    gets(t, seg(RST, 0xdeadbeef, 0, 0), 0);
    says(t, seg(ACK, t->s + 1001, t->c + 301, 0), t->p + 1001);
    g_assert_cmpuint(colo_rewrite_stats(t->r)->flows_open, ==, 1);
    advance(t, COLO_REWRITE_CLOSING_MS * 2);
    talk(t);
    test_free(t);
}

static void test_idle(void)
{
    Test *t = test_new(10);

    accept_client(t);
    t->port++;
    accept_client(t);
    t->port++;
    says(t, seg(SYN, t->s, 0, 0), t->s);
    advance(t, COLO_REWRITE_HANDSHAKE_MS - 1);
    g_assert_cmpuint(flows(t), ==, 3);
    advance(t, 1);
    g_assert_cmpuint(flows(t), ==, 2);
    t->port--;
    talk(t);
    advance(t, IDLE_MS - 1);
    g_assert_cmpuint(flows(t), ==, 1);
    /* One direction is enough, either one */
    says(t, seg(ACK, t->s + 1001, t->c + 301, 0), t->p + 1001);
    advance(t, IDLE_MS - 1);
    gets(t, seg(ACK, t->c + 301, t->p + 1001, 0), t->s + 1001);
    advance(t, IDLE_MS - 1);
    g_assert_cmpuint(flows(t), ==, 1);
    /* A clock that goes back does no harm */
    colo_rewrite_tick(t->r, 0);
    t->now -= 1000;
    says(t, seg(ACK, t->s + 1001, t->c + 301, 0), t->p + 1001);
    t->now += 1000;
    advance(t, IDLE_MS - 1);
    g_assert_cmpuint(flows(t), ==, 1);
    advance(t, 1);
    g_assert_cmpuint(flows(t), ==, 0);
    test_free(t);
}

static bool wants(Test *t, const ColoPacket *p, bool from_guest)
{
    return colo_rewrite_wants(t->r, p->data, p->size, p->size, 0, from_guest);
}

/* Is the connection with port @port still known? */
static bool is_known(Test *t, uint16_t port)
{
    Seg in = seg(ACK, t->s + 1, t->c + 1, 0);
    Test with_port = *t;
    ColoPacket *p;
    bool wanted;

    with_port.port = port;
    p = build(&with_port, true, &in);
    wanted = wants(t, p, true);
    colo_packet_free(p);
    return wanted;
}

static void test_full(void)
{
    Test *t = test_new(4);

    for (t->port = 1; t->port <= 4; t->port++) {
        accept_client(t);
        talk(t);
    }
    t->port = 1;
    talk(t);
    /* All open: 2 was silent for longest */
    t->port = 5;
    accept_client(t);
    g_assert_cmpuint(flows(t), ==, 4);
    g_assert_false(is_known(t, 2));
    g_assert_true(is_known(t, 1) && is_known(t, 3));

    /* A flood of SYNs makes room for itself, once there is one */
    for (t->port = 100; t->port < 200; t->port++) {
        says(t, seg(SYN | ACK, t->s, t->c + 1, 0), t->s);
    }
    g_assert_cmpuint(flows(t), ==, 4);
    g_assert_false(is_known(t, 3));
    g_assert_true(is_known(t, 1) && is_known(t, 4) && is_known(t, 5));

    /* What is closed goes before that */
    t->port = 4;
    close_both(t);
    t->port = 6;
    says(t, seg(SYN, t->s, 0, 0), t->s);
    g_assert_false(is_known(t, 4));
    g_assert_true(is_known(t, 199));
    g_assert_cmpuint(colo_rewrite_stats(t->r)->evicted, ==, 102);
    test_free(t);
}

/* What is none of our business */

static void test_not_wanted(void)
{
    Test *t = test_new(10);
    ColoPacket *p;
    Seg in = seg(ACK, 5, 6, 7);

    /* Not known */
    p = build(t, true, &in);
    g_assert_false(wants(t, p, true));
    g_assert_false(wants(t, p, false));
    accept_client(t);
    g_assert_true(wants(t, p, true));
    /* The ports are in the wrong places for that direction */
    g_assert_false(wants(t, p, false));
    /* UDP, a fragment, ARP */
    p->data[23] = 17;
    g_assert_false(wants(t, p, true));
    p->data[23] = 6;
    p->data[20] = 0x20;
    g_assert_false(wants(t, p, true));
    p->data[20] = 0;
    p->data[13] = 6;
    g_assert_false(wants(t, p, true));
    colo_packet_free(p);
    test_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/rewrite/handshake/server", test_server);
    g_test_add_func("/colo/rewrite/handshake/client", test_client);
    g_test_add_func("/colo/rewrite/handshake/simultaneous", test_simultaneous);
    g_test_add_func("/colo/rewrite/handshake/bad-teachers", test_bad_teachers);
    g_test_add_func("/colo/rewrite/handshake/refused", test_refused);
    g_test_add_func("/colo/rewrite/sack", test_sack);
    g_test_add_func("/colo/rewrite/wrap", test_wrap);
    g_test_add_func("/colo/rewrite/incarnation", test_incarnation);
    g_test_add_func("/colo/rewrite/ipv6", test_ipv6);
    g_test_add_func("/colo/rewrite/vlan", test_vlan);
    g_test_add_func("/colo/rewrite/vnet", test_vnet);
    g_test_add_func("/colo/rewrite/load/established", test_load);
    g_test_add_func("/colo/rewrite/load/handshake", test_load_handshake);
    g_test_add_func("/colo/rewrite/load/handed-on", test_handed_on);
    g_test_add_func("/colo/rewrite/load/handed-on/handshake",
                    test_handed_on_handshake);
    g_test_add_func("/colo/rewrite/load/handed-on/own", test_handed_on_own);
    g_test_add_func("/colo/rewrite/timestamps/connect-load",
                    test_timestamps_connect_load);
    g_test_add_func("/colo/rewrite/timestamps/clamp", test_timestamps);
    g_test_add_func("/colo/rewrite/timestamps/wrap", test_timestamps_wrap);
    g_test_add_func("/colo/rewrite/undo", test_undo);
    g_test_add_func("/colo/rewrite/signed", test_signed);
    g_test_add_func("/colo/rewrite/timestamps/connect",
                    test_timestamps_connect);
    g_test_add_func("/colo/rewrite/timestamps/adopted",
                    test_timestamps_adopted);
    g_test_add_func("/colo/rewrite/timestamps/incarnation",
                    test_timestamps_incarnation);
    g_test_add_func("/colo/rewrite/timestamps/no-echo",
                    test_timestamps_no_echo);
    g_test_add_func("/colo/rewrite/end/load", test_load_end);
    g_test_add_func("/colo/rewrite/end/close", test_close);
    g_test_add_func("/colo/rewrite/end/half-closed", test_half_closed);
    g_test_add_func("/colo/rewrite/end/rst", test_rst);
    g_test_add_func("/colo/rewrite/end/idle", test_idle);
    g_test_add_func("/colo/rewrite/full", test_full);
    g_test_add_func("/colo/rewrite/not-wanted", test_not_wanted);
    return g_test_run();
}
