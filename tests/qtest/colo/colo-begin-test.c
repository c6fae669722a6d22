/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a primary tells the connections that its guest begins.
 *
 * A protected QEMU with filter-mirror and the filter-redirector of the published
 * set-up, and sockets in place of network, guest and secondary.  Proves: it is
 * said that SYNs are told, once for each connection of the mirror's stream; each
 * SYN that begins a connection is told, once, nothing else is, and nothing
 * without somebody who sees what the guest sends.
 */

#include "qemu/osdep.h"
#include "colo-net.h"
#include "colo-packet-maker.h"

typedef struct Session {
    ColoPair *pair;
    Net *n;
    int mirror;                 /* its stream */
    int redirected;
} Session;

static void session_begin(Session *s, const char *dev)
{
    s->pair = colo_pair_new("hybrid");
    s->n = net_on(s->pair->primary);
    add_mirror(s->n, "m0", "tx");
    add_redirector(s->n, "r0", "rx", dev, "c1");
    s->mirror = open_chardev(s->n, "c0");
    s->redirected = open_chardev(s->n, "c1");
    colo_pair_migrate(s->pair, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(s->pair->primary, "running");
    expect_cut(s->mirror, 0);
}

static void session_end(Session *s)
{
    close(s->mirror);
    close(s->redirected);
    colo_pair_free(s->pair);
    net_gone(s->n);
}

static void next_epoch(Session *s, uint64_t epoch)
{
    qtest_qmp_assert_success(s->pair->primary,
                             "{'execute': 'x-colo-checkpoint'}");
    expect_cut(s->mirror, epoch);
}

/* The guest sends @what, and it arrives at @fd */
static ColoPacket *guest_sends(Session *s, const Make *what, int fd)
{
    ColoPacket *p = make_packet(what);
    g_autofree char *seen = NULL;
    uint32_t size;

    write_packet(s->n->guest, p->data, p->size);
    seen = read_packet(fd, &size);
    g_assert_cmpmem(seen, size, p->data, p->size);
    return p;
}

static void sent_untold(Session *s, const Make *what)
{
    colo_packet_free(guest_sends(s, what, s->redirected));
}

static void sent_told(Session *s, const Make *what)
{
    ColoPacket *p = guest_sends(s, what, s->redirected);

    expect_begin(s->mirror, p->data, p->size);
    colo_packet_free(p);
}

static void test_told(void)
{
    static const Make others[] = {
        { .sport = 9, .dport = 80, .seq = 7,
          .flags = COLO_TCP_SYN | COLO_TCP_ACK },
        { .sport = 9, .dport = 80, .seq = 7,
          .flags = COLO_TCP_SYN | COLO_TCP_RST },
        { .sport = 9, .dport = 80, .seq = 7, .flags = COLO_TCP_ACK },
        { .sport = 9, .dport = 80, .proto = MAKE_UDP, .payload_len = 8 },
        { .ethertype = 0x0806, .payload_len = 28 },
        /* No SYN is that long */
        { .sport = 9, .dport = 80, .seq = 7, .flags = COLO_TCP_SYN,
          .payload_len = 1000 },
    };
    Make syn = { .sport = 1000, .dport = 80, .seq = 1, .flags = COLO_TCP_SYN };
    Session s;

    session_begin(&s, "outdev");
    expect_begin(s.mirror, NULL, 0);
    expect_cut(s.redirected, 0);
    for (int i = 0; i < ARRAY_SIZE(others); i++) {
        sent_untold(&s, &others[i]);
    }
    /* More of them than are remembered */
    for (int i = 0; i < 100; i++) {
        sent_told(&s, &syn);
        sent_untold(&s, &syn);
        syn.sport++;
    }
    /* The same port another time */
    syn.seq++;
    sent_told(&s, &syn);
    syn.v6 = true;
    sent_told(&s, &syn);
    next_epoch(&s, 1);
    expect_cut(s.redirected, 1);
    sent_untold(&s, &syn);
    g_assert_true(nothing_to_read(s.mirror));

    /* A new stream: not before it is said that they come */
    close_chardev(s.n, "c0", s.mirror);
    s.mirror = open_chardev(s.n, "c0");
    expect_cut(s.mirror, 1);
    sent_untold(&s, &syn);
    next_epoch(&s, 2);
    expect_cut(s.redirected, 2);
    expect_begin(s.mirror, NULL, 0);
    sent_told(&s, &syn);
    session_end(&s);
}

/* Nobody sees what the guest sends, so none are told */
static void test_untold(void)
{
    const Make syn = { .sport = 1000, .dport = 80, .seq = 1,
                       .flags = COLO_TCP_SYN };
    Session s;

    session_begin(&s, "indev");
    colo_packet_free(guest_sends(&s, &syn, s.n->net));
    next_epoch(&s, 1);
    g_assert_true(nothing_to_read(s.mirror));
    session_end(&s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/begin/told", test_told);
    qtest_add_func("/colo/begin/untold", test_untold);
    return g_test_run();
}
