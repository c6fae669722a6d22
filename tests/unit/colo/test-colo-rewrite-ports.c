/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: ports of a secondary guest that connects, mapped to the primary's.
 *
 * Proves: a connect of the secondary (S) leaves with the port of one of the
 * primary (P), whoever was first, and what belongs to it goes to and comes from
 * that port, with all else that is mapped; no two connections have the same
 * outer port, whatever comes; what would be taken for another one's is dropped;
 * loads and hand-ons leave the ports that S has then; what waits is bounded.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "colo-rewrite-util.h"

static const ColoRewriteStats *stats(Test *t)
{
    return colo_rewrite_stats(t->r);
}

static void set_ports(Test *t, uint16_t inner, uint16_t outer)
{
    t->inner = inner;
    t->outer = outer;
}

static ColoPacket *build_from(const Test *t, bool from_guest, uint16_t port,
                              Seg in)
{
    in.guest_port = port;
    return build(t, from_guest, &in);
}

/* P connects from @port */
static void opens(Test *t, uint16_t port)
{
    ColoPacket *p = build_from(t, true, port, seg(SYN, t->p, 0, 0));

    colo_rewrite_opened(t->r, p, t->now);
    colo_packet_free(p);
}

static bool awaits(Test *t, uint16_t port, Seg in)
{
    ColoPacket *p = build_from(t, true, port, in);
    bool ret = colo_rewrite_awaits(t->r, p);

    colo_packet_free(p);
    return ret;
}

/* Both as the filter asks; what is dropped changes nothing, see feed() */
static bool must_drop(Test *t, bool from_guest, uint16_t port, Seg in)
{
    ColoPacket *p = build_from(t, from_guest, port, in);
    bool ret = from_guest ? colo_rewrite_must_drop(t->r, p)
                          : colo_rewrite_must_drop_input(t->r, p);

    if (ret) {
        g_assert_false(feed(t, from_guest, p));
    }
    colo_packet_free(p);
    return ret;
}

/* Scripts: which port it is, and whether there is one */

typedef enum Op {
    END,
    P_OPENS,                    /* from @outer */
    S_WAITS,                    /* the SYN from @inner has to */
    S_SYN,                      /* leaves without waiting, from @outer */
    S_GIVES_UP,                 /* would have to wait, leaves from @outer */
    S_SAYS,                     /* a bare ACK from @inner leaves from @outer */
    S_ENDS,                     /* so does a reset */
    S_LOST,                     /* an ACK from @inner must not leave */
    IN,                         /* for @outer reaches @inner */
    IN_LOST,                    /* for @outer must not reach S */
    TOLD,
    NOT_TOLD,
    LOAD,
} Op;

typedef struct Step {
    Op op;
    uint16_t inner, outer;
    uint32_t isn;               /* of a SYN, another one for each connection */
} Step;

typedef struct Script {
    const char *name;
    Step steps[20];
    uint64_t paired, moved, unused;
} Script;

static const Script scripts[] = {
    { "told-first", {
        { P_OPENS, .outer = 500 }, { S_SYN, 100, 500 }, { S_SAYS, 100, 500 },
        { IN, 100, 500 }, { IN_LOST, .outer = 100 }, { S_LOST, 500 },
        { S_ENDS, 100, 500 }, { S_SAYS, 100, 500 },
      }, .paired = 1 },
    { "told-later", {
        { S_WAITS, 100 }, { S_WAITS, 100 }, { P_OPENS, .outer = 500 },
        { S_SYN, 100, 500 }, { IN, 100, 500 }, { S_WAITS, 101 },
      }, .paired = 1 },
    { "order", {
        { P_OPENS, .outer = 500 }, { P_OPENS, .outer = 501 },
        { S_SYN, 100, 500 }, { S_SYN, 101, 501 }, { S_WAITS, 102 },
        { IN, 101, 501 }, { IN, 100, 500 },
      }, .paired = 2 },
    /* Two wait for the same: the first gets it */
    { "one-for-two", {
        { S_WAITS, 100 }, { S_WAITS, 101 }, { P_OPENS, .outer = 500 },
        { S_SYN, 100, 500 }, { S_WAITS, 101 }, { P_OPENS, .outer = 501 },
        { S_SYN, 101, 501 },
      }, .paired = 2 },
    { "same-port", {
        { P_OPENS, .outer = 500 }, { P_OPENS, .outer = 100 },
        { S_SYN, 100, 100 }, { S_SAYS, 100, 100 }, { IN, 100, 100 },
        { S_SYN, 101, 500 },
      }, .paired = 1 },
    { "crossed", {
        { P_OPENS, .outer = 500 }, { S_SYN, 100, 500 },
        { P_OPENS, .outer = 100 }, { S_SYN, 500, 100 },
        { S_SAYS, 100, 500 }, { S_SAYS, 500, 100 },
        { IN, 100, 500 }, { IN, 500, 100 },
      }, .paired = 2 },
    { "repeated", {
        { P_OPENS, .outer = 500 }, { S_SYN, 100, 500 },
        { P_OPENS, .outer = 501 }, { S_SYN, 100, 500 }, { S_SYN, 100, 500 },
        /* but this one is another connection */
        { S_SYN, 100, 501, .isn = 1 }, { IN, 100, 501 }, { S_LOST, 501 },
        { S_SAYS, 500, 500 },
      }, .paired = 2 },
    { "gives-up", {
        { S_GIVES_UP, 100, 100 }, { P_OPENS, .outer = 500 },
        { S_SYN, 100, 100 }, { IN, 100, 100 }, { S_SYN, 101, 500 },
      }, .paired = 1 },
    /* What S picks is taken: it gets another port */
    { "conflict", {
        { P_OPENS, .outer = 500 }, { S_SYN, 100, 500 },
        { S_GIVES_UP, 500, 501 }, { S_SAYS, 500, 501 }, { IN, 500, 501 },
        { IN, 100, 500 },
      }, .paired = 1, .moved = 1 },
    { "conflict-top", {
        { P_OPENS, .outer = 65535 }, { S_SYN, 100, 65535 },
        { S_GIVES_UP, 65535, 65534 },
      }, .paired = 1, .moved = 1 },
    { "conflict-near", {
        { P_OPENS, .outer = 500 }, { S_SYN, 100, 500 },
        { S_GIVES_UP, 501, 501 }, { S_GIVES_UP, 502, 502 },
        { P_OPENS, .outer = 502 }, { S_GIVES_UP, 500, 503 },
      }, .paired = 1, .moved = 1 },
    /* P connects from a port that another connection of S has */
    { "taken", {
        { S_GIVES_UP, 500, 500 }, { P_OPENS, .outer = 500 },
        { S_WAITS, 100 }, { P_OPENS, .outer = 501 }, { S_SYN, 100, 501 },
        { S_WAITS, 101 }, { S_ENDS, 500, 500 },
        /* It gives way once it has ended */
        { S_SYN, 101, 500 }, { S_LOST, 500 }, { IN, 101, 500 },
      }, .paired = 2 },
    { "gives-way-mapped", {
        { P_OPENS, .outer = 500 }, { S_SYN, 100, 500 }, { S_ENDS, 100, 500 },
        { P_OPENS, .outer = 500 }, { S_SYN, 101, 500 }, { IN, 101, 500 },
        { S_SAYS, 100, 100 }, { IN, 100, 100 },
      }, .paired = 2 },
    { "gives-way-same", {
        { P_OPENS, .outer = 500 }, { S_SYN, 100, 500 }, { S_ENDS, 100, 500 },
        { P_OPENS, .outer = 500 }, { S_SYN, 500, 500 }, { IN, 500, 500 },
        { S_SAYS, 500, 500 }, { S_SAYS, 100, 100 },
      }, .paired = 1 },
    /* The same socket again, and the same port */
    { "again", {
        { P_OPENS, .outer = 500 }, { S_SYN, 100, 500 },
        { P_OPENS, .outer = 500 }, { S_SYN, 100, 500, .isn = 1 },
        { IN, 100, 500 }, { S_SYN, 100, 500, .isn = 1 },
        { S_WAITS, 100, .isn = 2 }, { S_GIVES_UP, 100, 100, .isn = 2 },
        { IN, 100, 100 }, { IN, 500, 500 },
      }, .paired = 2 },
    { "not-told", {
        { NOT_TOLD }, { P_OPENS, .outer = 500 }, { S_SYN, 100, 100 },
        { TOLD }, { S_WAITS, 101 }, { P_OPENS, .outer = 500 },
        { S_SYN, 101, 500 }, { P_OPENS, .outer = 502 },
        { NOT_TOLD }, { S_SYN, 102, 102 }, { S_SAYS, 101, 500 },
        { IN, 101, 500 }, { TOLD }, { S_WAITS, 103 },
      }, .paired = 1, .unused = 1 },
    { "load", {
        { P_OPENS, .outer = 500 }, { S_SYN, 100, 500 },
        { P_OPENS, .outer = 501 }, { LOAD },
        { S_SAYS, 500, 500 }, { IN, 500, 500 }, { S_SAYS, 100, 100 },
        { IN, 100, 100 }, { S_WAITS, 101 },
      }, .paired = 1, .unused = 1 },
};

static Seg step_seg(const Step *s)
{
    switch (s->op) {
    case S_WAITS:
    case S_SYN:
    case S_GIVES_UP:
        return seg(SYN, 0x10000000 + s->inner + (s->isn << 20), 0, 0);
    case S_ENDS:
        return seg(RST, 0x20000000, 0, 0);
    case IN:
        /* Teaches nothing */
        return seg(ACK, 0x30000000, 0x40000000, 0);
    default:
        return seg(ACK, 0x20000000, 0x30000000, 0);
    }
}

static void run_step(Test *t, const Step *s)
{
    Seg in = step_seg(s);

    set_ports(t, s->inner, s->outer);
    switch (s->op) {
    case P_OPENS:
        opens(t, s->outer);
        break;
    case S_WAITS:
    case S_GIVES_UP:
        g_assert_true(awaits(t, s->inner, in));
        break;
    case S_LOST:
        g_assert_true(must_drop(t, true, s->inner, in));
        break;
    case IN_LOST:
        g_assert_true(must_drop(t, false, s->outer, in));
        break;
    case TOLD:
    case NOT_TOLD:
        colo_rewrite_set_told(t->r, s->op == TOLD);
        break;
    case LOAD:
        colo_rewrite_load(t->r);
        break;
    default:
        g_assert_false(awaits(t, s->inner, in));
        break;
    }
    if (s->op == S_SYN || s->op == S_GIVES_UP || s->op == S_SAYS ||
        s->op == S_ENDS) {
        g_assert_false(must_drop(t, true, s->inner, in));
        pass(t, true, in, in);
    } else if (s->op == IN) {
        g_assert_false(must_drop(t, false, s->outer, in));
        pass(t, false, in, in);
    }
}

static void test_script(gconstpointer opaque)
{
    const Script *script = opaque;
    Test *t = test_new(20);

    colo_rewrite_set_told(t->r, true);
    for (const Step *s = script->steps; s->op != END; s++) {
        g_test_message("step %d", (int)(s - script->steps));
        run_step(t, s);
    }
    g_assert_cmpuint(stats(t)->paired, ==, script->paired);
    g_assert_cmpuint(stats(t)->moved, ==, script->moved);
    g_assert_cmpuint(stats(t)->opened_unused, ==, script->unused);
    g_assert_cmpuint(stats(t)->evicted, ==, 0);
    test_free(t);
}

/* Ports, numbers and timestamps at once */

static void talk_mapped(Test *t)
{
    colo_rewrite_set_told(t->r, true);
    opens(t, t->outer);
    connect_server(t);
    talk(t);
    close_both(t);
}

static void test_forms(void)
{
    Test *t = test_new(100);

    for (int form = 0; form < 12; form++) {
        t->ipv6 = form & 1;
        t->vnet = form & 2;
        t->vlans = form / 4;
        set_ports(t, 0xc001 + form, 0xfedc - form);
        talk_mapped(t);
        g_assert_cmpuint(stats(t)->paired, ==, form + 1);
        g_assert_cmpuint(stats(t)->learned, ==, form + 1);
    }
    g_assert_cmpuint(stats(t)->rewritten_ports, ==, 12 * 10);
    g_assert_cmpuint(stats(t)->rewritten_packets, ==, 12 * 10);
    test_free(t);
}

/* Only what says that somebody begins is told, only the same server fits */
static void test_told_what(void)
{
    static const uint8_t no_open[] = {
        0, ACK, SYN | ACK, RST, SYN | RST, FIN, FIN | ACK, SYN | RST | ACK,
    };
    Test *t = test_new(10);
    Seg syn = seg(SYN, t->s, 0, 0);

    colo_rewrite_set_told(t->r, true);
    for (size_t i = 0; i < ARRAY_SIZE(no_open); i++) {
        ColoPacket *p = build_from(t, true, 500, seg(no_open[i], 1, 2, 0));

        colo_rewrite_opened(t->r, p, t->now);
        colo_packet_free(p);
        if (no_open[i]) {
            g_assert_false(awaits(t, 100, seg(no_open[i], 1, 2, 0)));
        }
    }
    g_assert_cmpuint(stats(t)->opened, ==, 0);
    g_assert_true(awaits(t, 100, syn));

    opens(t, 500);
    g_assert_cmpuint(stats(t)->opened, ==, 1);
    t->port++;
    g_assert_true(awaits(t, 100, syn));
    t->port--;
    t->ipv6 = true;
    g_assert_true(awaits(t, 100, syn));
    t->ipv6 = false;
    t->vlans = 1;
    g_assert_true(awaits(t, 100, syn));
    t->vlans = 0;
    g_assert_false(awaits(t, 100, syn));
    test_free(t);
}

static Seg with_sack(Seg in, uint32_t edge)
{
    in.sacks = 2;
    in.sack[0] = edge;
    in.sack[1] = edge + 100;
    return in;
}

/* The clock of P is 40 ahead of S's */
static void connect_ts(Test *t, uint32_t clock)
{
    Seg in = seg_ts(SYN, t->s, 0, clock, 0), out;

    colo_rewrite_set_told(t->r, true);
    opens(t, t->outer);
    pass(t, true, in, in);
    in = seg_ts(SYN | ACK, t->c, t->p + 1, 7777, clock + 40);
    out = in;
    out.ack = t->s + 1;
    out.tsecr = clock;
    pass(t, false, in, out);
    in = seg_ts(ACK, t->s + 1, t->c + 1, clock + 10, 7777);
    out = in;
    out.seq = t->p + 1;
    out.tsval = clock + 50;
    pass(t, true, in, out);
    in = with_sack(seg_ts(ACK, t->c + 1, t->p + 1, 7780, clock + 50),
                   t->p + 300);
    out = with_sack(in, t->s + 300);
    out.ack = t->s + 1;
    out.tsecr = clock + 10;
    pass(t, false, in, out);
}

static void test_timestamps(void)
{
    Test *t = test_new(10);

    set_ports(t, 100, 500);
    connect_ts(t, 1000);
    /* Not to be taken for a connection that was there before */
    g_assert_true(must_drop(t, true, 500, seg_ts(ACK, 1, 2, 3, 4)));
    t->vnet = true;
    t->ipv6 = true;
    connect_ts(t, 5000);
    g_assert_cmpuint(stats(t)->paired, ==, 2);
    test_free(t);
}

static void test_refused(void)
{
    Test *t = test_new(10);

    colo_rewrite_set_told(t->r, true);
    set_ports(t, 100, 500);
    opens(t, 500);
    says(t, seg(SYN, t->s, 0, 0), t->s);
    gets(t, seg(RST | ACK, 0, t->p + 1, 0), t->s + 1);
    g_assert_cmpuint(stats(t)->flows_open, ==, 0);
    /* P connects once more, from another port */
    t->s++;
    opens(t, 501);
    set_ports(t, 100, 501);
    connect_server(t);
    talk(t);
    g_assert_cmpuint(flows(t), ==, 1);
    test_free(t);
}

/* A SYN in both directions at once, then SYN-ACKs */
static void test_simultaneous(void)
{
    Test *t = test_new(10);

    colo_rewrite_set_told(t->r, true);
    set_ports(t, 100, 500);
    opens(t, 500);
    says(t, seg(SYN, t->s, 0, 0), t->s);
    gets(t, seg(SYN, t->c, 0, 0), 0);
    says(t, seg(SYN | ACK, t->s, t->c + 1, 0), t->s);
    gets(t, seg(SYN | ACK, t->c, t->p + 1, 0), t->s + 1);
    talk(t);
    /* The other one connects to the same port later: it is still this one */
    t->s += 0x100000;
    t->p += 0x200000;
    t->c += 0x300000;
    accept_client(t);
    talk(t);
    test_free(t);
}

/* Who accepts is not concerned, be it told or not */
static void test_server(void)
{
    Test *t = test_new(10);

    colo_rewrite_set_told(t->r, true);
    accept_client(t);
    talk(t);
    close_both(t);
    g_assert_cmpuint(stats(t)->rewritten_ports, ==, 0);
    test_free(t);
}

/* Neither its own port nor one near it is free */
static void test_no_port(void)
{
    Test *t = test_new(1000);
    uint16_t port;

    colo_rewrite_set_told(t->r, true);
    for (port = 500; port <= 500 + 64; port++) {
        set_ports(t, port + 1000, port);
        opens(t, port);
        says(t, seg(SYN, t->s, 0, 0), t->s);
    }
    g_assert_true(awaits(t, 500, seg(SYN, t->s, 0, 0)));
    g_assert_true(must_drop(t, true, 500, seg(SYN, t->s, 0, 0)));
    /* It waits on, and gets one in the end */
    opens(t, 77);
    set_ports(t, 500, 77);
    says(t, seg(SYN, t->s, 0, 0), t->s);
    g_assert_cmpuint(stats(t)->moved, ==, 0);
    g_assert_cmpuint(stats(t)->paired, ==, 66);

    /* The last one that is near enough */
    set_ports(t, 501, 565);
    says(t, seg(SYN, t->s, 0, 0), t->s);
    g_assert_cmpuint(stats(t)->moved, ==, 1);
    test_free(t);
}

/* Loads */

/* An ACK of @seq with @tsval from S leaves with @expected */
static void says_ts(Test *t, uint32_t seq, uint32_t tsval, uint32_t expected)
{
    Seg in = seg_ts(ACK, seq, t->c + 1, tsval, 7790);
    Seg out = in;

    out.tsval = expected;
    pass(t, true, in, out);
}

/* Two that have changed their ports: both are known by the outer one then */
static void test_load_floor(void)
{
    Test *t = test_new(10);

    set_ports(t, 100, 500);
    connect_ts(t, 1000);
    set_ports(t, 500, 100);
    connect_ts(t, 90000);
    set_ports(t, 300, 301);
    opens(t, 301);
    says(t, seg(SYN, t->s, 0, 0), t->s);
    g_assert_cmpuint(flows(t), ==, 3);

    colo_rewrite_load(t->r);
    g_assert_cmpuint(flows(t), ==, 2);
    set_ports(t, 500, 500);
    says_ts(t, t->p + 1, 1020, 1050);
    gets(t, seg(ACK, t->c + 1, t->p + 1, 0), t->p + 1);
    set_ports(t, 100, 100);
    says_ts(t, t->p + 1, 90020, 90050);
    gets(t, seg(ACK, t->c + 1, t->p + 1, 0), t->p + 1);
    set_ports(t, 301, 301);
    says(t, seg(ACK, t->p + 1, t->c + 1, 0), t->p + 1);
    g_assert_cmpuint(flows(t), ==, 2);

    /* The ports are free for others */
    set_ports(t, 100, 600);
    t->s += 0x1000;
    connect_ts(t, 200);

    t->now += IDLE_MS;
    colo_rewrite_tick(t->r, t->now);
    g_assert_cmpuint(flows(t), ==, 0);
    for (uint16_t port = 100; port <= 600; port += 100) {
        g_assert_false(must_drop(t, true, port, seg(ACK, 1, 2, 0)));
        g_assert_false(must_drop(t, false, port, seg(ACK, 1, 2, 0)));
    }
    test_free(t);
}

/* P uses a port again: what S has from P under that one is over */
static void test_load_stale(void)
{
    Test *t = test_new(10);

    set_ports(t, 100, 500);
    connect_ts(t, 1000);
    colo_rewrite_load(t->r);
    g_assert_cmpuint(stats(t)->flows_open, ==, 1);
    t->s += 0x1000;
    set_ports(t, 101, 500);
    connect_ts(t, 2000);
    g_assert_true(must_drop(t, true, 500, seg_ts(ACK, 1, 2, 3, 4)));
    g_assert_cmpuint(flows(t), ==, 1);

    /* What S began itself has to end here */
    opens(t, 500);
    g_assert_true(awaits(t, 102, seg(SYN, t->s, 0, 0)));
    test_free(t);
}

/* Handing it on */

static Test *test_like(const Test *t)
{
    Test *copy = test_new(10);
    ColoRewrite *r = copy->r;

    *copy = *t;
    copy->r = r;
    return copy;
}

static void test_handed_on(void)
{
    g_autoptr(GByteArray) state = NULL;
    Test *t = test_new(10), *next;

    /* One with nothing but a mapping, two that are crossed */
    t->p = t->s;
    set_ports(t, 300, 301);
    colo_rewrite_set_told(t->r, true);
    opens(t, 301);
    connect_server(t);
    t->p += 0x1234567;
    set_ports(t, 100, 500);
    connect_ts(t, 1000);
    set_ports(t, 500, 100);
    connect_ts(t, 90000);
    state = colo_rewrite_export(t->r);
    g_assert_cmpuint(state->len, ==, 3 * COLO_REWRITE_EXPORT_LEN);

    /* What the next one knows of these is out of date */
    next = test_like(t);
    set_ports(next, 500, 500);
    says_ts(next, 1, 2000000000, 2000000000);
    set_ports(next, 100, 100);
    says_ts(next, 1, 2000000000, 2000000000);
    set_ports(next, 301, 301);
    says_ts(next, 1, 2000000000, 2000000000);
    g_assert_cmpuint(flows(next), ==, 3);
    for (int twice = 0; twice < 2; twice++) {
        g_assert_true(colo_rewrite_import(next->r, state->data, state->len,
                                          0));
        g_assert_cmpuint(flows(next), ==, 3);
    }
    set_ports(next, 100, 500);
    talk(next);
    set_ports(next, 500, 100);
    talk(next);
    set_ports(next, 300, 301);
    next->p = next->s;
    talk(next);
    g_assert_true(must_drop(next, true, 301, seg(ACK, 1, 2, 0)));
    g_assert_true(must_drop(next, false, 300, seg(ACK, 1, 2, 0)));

    /* Once more, now that it is over */
    colo_rewrite_load(next->r);
    set_ports(next, 301, 301);
    talk(next);
    test_free(next);
    test_free(t);
}

static void test_bad_import(void)
{
    enum { INNER = 38, OUTER = 72, LEN = COLO_REWRITE_EXPORT_LEN };
    g_autoptr(GByteArray) state = NULL;
    Test *t = test_new(10);
    Test *next = test_like(t);

    set_ports(t, 100, 500);
    talk_mapped(t);
    set_ports(t, 101, 501);
    talk_mapped(t);
    state = colo_rewrite_export(t->r);
    g_assert_cmpuint(state->len, ==, 2 * LEN);
    g_assert_cmpuint(lduw_be_p(state->data + INNER), ==, 100);
    g_assert_cmpuint(lduw_be_p(state->data + OUTER), ==, 500);

    /* Two of the same socket, two of the same connection, one unmapped */
    stw_be_p(state->data + INNER, 101);
    g_assert_false(colo_rewrite_import(next->r, state->data, 2 * LEN, 0));
    stw_be_p(state->data + INNER, 100);
    stw_be_p(state->data + OUTER, 501);
    g_assert_false(colo_rewrite_import(next->r, state->data, 2 * LEN, 0));
    stw_be_p(state->data + INNER, 501);
    g_assert_false(colo_rewrite_import(next->r, state->data, 2 * LEN, 0));
    for (guint len = 1; len < 2 * LEN; len++) {
        if (len != LEN) {
            g_assert_false(colo_rewrite_import(next->r, state->data, len, 0));
        }
    }
    g_assert_cmpuint(flows(next), ==, 0);

    /* One's inner port may be the other one's outer one */
    stw_be_p(state->data + OUTER, 101);
    g_assert_true(colo_rewrite_import(next->r, state->data, 2 * LEN, 0));
    g_assert_cmpuint(flows(next), ==, 2);
    set_ports(next, 501, 101);
    talk(next);
    set_ports(next, 101, 501);
    talk(next);
    test_free(next);
    test_free(t);
}

/* Bounds */

static void test_bounds(void)
{
    Test *t = test_new(10);
    Seg syn = seg(SYN, t->s, 0, 0);

    colo_rewrite_set_told(t->r, true);
    for (int i = 0; i < COLO_REWRITE_OPENS; i++) {
        opens(t, 1000 + i);
    }
    g_assert_cmpuint(stats(t)->opened_unused, ==, 0);
    opens(t, 10000);
    g_assert_cmpuint(stats(t)->opened_unused, ==, 1);
    g_assert_cmpuint(stats(t)->opened, ==, COLO_REWRITE_OPENS + 1);
    /* It was the oldest that went */
    set_ports(t, 1, 1001);
    pass(t, true, syn, syn);

    /* They do not stay for ever */
    t->now += COLO_REWRITE_HANDSHAKE_MS - 1;
    opens(t, 10001);
    colo_rewrite_tick(t->r, t->now);
    g_assert_cmpuint(stats(t)->opened_unused, ==, 1);
    t->now++;
    colo_rewrite_tick(t->r, t->now);
    g_assert_cmpuint(stats(t)->opened_unused, ==, COLO_REWRITE_OPENS);
    set_ports(t, 2, 10001);
    pass(t, true, syn, syn);
    g_assert_true(awaits(t, 3, syn));
    test_free(t);
}

/* What is forgotten leaves its outer port to others */
static void test_forgotten(void)
{
    Test *t = test_new(2);
    Seg syn = seg(SYN, t->s, 0, 0);

    colo_rewrite_set_told(t->r, true);
    for (uint16_t port = 500; port < 505; port++) {
        opens(t, port);
        set_ports(t, port - 400, port);
        pass(t, true, syn, syn);
    }
    g_assert_cmpuint(flows(t), ==, 2);
    g_assert_cmpuint(stats(t)->evicted, ==, 3);
    /* 100 is not known any more, and nobody has 500 */
    g_assert_false(must_drop(t, true, 500, seg(ACK, 1, 2, 0)));
    g_assert_false(must_drop(t, false, 100, seg(ACK, 1, 2, 0)));
    g_assert_true(must_drop(t, true, 504, seg(ACK, 1, 2, 0)));
    g_assert_true(must_drop(t, false, 104, seg(ACK, 1, 2, 0)));
    set_ports(t, 100, 500);
    opens(t, 500);
    syn.seq++;
    pass(t, true, syn, syn);

    t->now += COLO_REWRITE_HANDSHAKE_MS;
    colo_rewrite_tick(t->r, t->now);
    g_assert_cmpuint(flows(t), ==, 0);
    g_assert_false(must_drop(t, true, 500, seg(ACK, 1, 2, 0)));
    set_ports(t, 500, 500);
    gets(t, seg(ACK, 1, 2, 0), 2);
    test_free(t);
}

/* Anything in any order, beside a model that knows who has which port */

enum {
    MODEL_BASE = 200,           /* ports from here on, for both sides */
    MODEL_PORTS = 40,
    MODEL_STEPS = 100000,
};

typedef struct Model {
    Test *t;
    uint16_t outer[MODEL_BASE + MODEL_PORTS + 65];  /* by inner, 0: none */
    bool ended[MODEL_BASE + MODEL_PORTS + 65];
    uint32_t isn;
    uint64_t dropped, waited;
} Model;

/* Whose outer port is it?  0: nobody's. */
static uint16_t model_owner(const Model *m, uint16_t outer)
{
    for (uint16_t i = MODEL_BASE; i < MODEL_BASE + MODEL_PORTS; i++) {
        if (m->outer[i] == outer) {
            return i;
        }
    }
    return 0;
}

static void model_connect(Model *m, uint16_t inner)
{
    Test *t = m->t;
    Seg syn = seg(SYN, m->isn++, 0, 0);
    uint16_t owner;
    ColoPacket *p;

    if (awaits(t, inner, syn)) {
        m->waited++;
        if (g_test_rand_bit()) {
            return;
        }
    }
    g_assert_false(must_drop(t, true, inner, syn));
    p = build_from(t, true, inner, syn);
    g_assert_cmpint(feed(t, true, p), ==, p->key.sport != inner);
    owner = model_owner(m, p->key.sport);
    if (owner && owner != inner) {
        /* It has given way */
        g_assert_true(m->ended[owner]);
        m->outer[owner] = 0;
    }
    m->outer[inner] = p->key.sport;
    m->ended[inner] = false;
    colo_packet_free(p);
}

static void model_says(Model *m, uint16_t inner, bool end)
{
    Test *t = m->t;
    Seg in = end ? seg(RST, 1, 0, 0) : seg(ACK, 1, 2, 0);

    if (!m->outer[inner] && model_owner(m, inner)) {
        g_assert_true(must_drop(t, true, inner, in));
        m->dropped++;
        return;
    }
    g_assert_false(must_drop(t, true, inner, in));
    set_ports(t, inner, m->outer[inner] ?: inner);
    pass(t, true, in, in);
    m->ended[inner] = end;
}

static void model_input(Model *m, uint16_t outer)
{
    Test *t = m->t;
    Seg in = seg(ACK, 1, 2, 0);
    uint16_t owner = model_owner(m, outer);

    if (!owner && m->outer[outer]) {
        g_assert_true(must_drop(t, false, outer, in));
        m->dropped++;
        return;
    }
    g_assert_false(must_drop(t, false, outer, in));
    set_ports(t, owner ?: outer, outer);
    pass(t, false, in, in);
}

static void test_model(void)
{
    g_autofree Model *m = g_new0(Model, 1);
    Test *t = m->t = test_new(1000);

    colo_rewrite_set_told(t->r, true);
    for (int i = 0; i < MODEL_STEPS; i++) {
        uint16_t port = MODEL_BASE + g_test_rand_int_range(0, MODEL_PORTS);
        int what = g_test_rand_int_range(0, 1000);

        if (what < 200) {
            opens(t, port);
        } else if (what < 450) {
            model_connect(m, port);
        } else if (what < 600) {
            model_says(m, port, true);
        } else if (what < 750) {
            model_says(m, port, false);
        } else if (what < 999) {
            model_input(m, port);
        } else {
            colo_rewrite_load(t->r);
            memset(m->outer, 0, sizeof(m->outer));
            g_assert_cmpuint(flows(t), ==, 0);
        }
    }
    g_assert_cmpuint(stats(t)->paired, >, 1000);
    g_assert_cmpuint(stats(t)->moved, >, 100);
    g_assert_cmpuint(m->dropped, >, 1000);
    g_assert_cmpuint(m->waited, >, 100);
    test_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
        g_autofree char *path = g_strdup_printf("/colo/rewrite/ports/script/%s",
                                                scripts[i].name);

        g_test_add_data_func(path, &scripts[i], test_script);
    }
    g_test_add_func("/colo/rewrite/ports/forms", test_forms);
    g_test_add_func("/colo/rewrite/ports/told-what", test_told_what);
    g_test_add_func("/colo/rewrite/ports/timestamps", test_timestamps);
    g_test_add_func("/colo/rewrite/ports/refused", test_refused);
    g_test_add_func("/colo/rewrite/ports/simultaneous", test_simultaneous);
    g_test_add_func("/colo/rewrite/ports/server", test_server);
    g_test_add_func("/colo/rewrite/ports/no-port", test_no_port);
    g_test_add_func("/colo/rewrite/ports/load-floor", test_load_floor);
    g_test_add_func("/colo/rewrite/ports/load-stale", test_load_stale);
    g_test_add_func("/colo/rewrite/ports/handed-on", test_handed_on);
    g_test_add_func("/colo/rewrite/ports/bad-import", test_bad_import);
    g_test_add_func("/colo/rewrite/ports/bounds", test_bounds);
    g_test_add_func("/colo/rewrite/ports/forgotten", test_forgotten);
    g_test_add_func("/colo/rewrite/ports/model", test_model);
    return g_test_run();
}
