/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: filter-mirror, filter-redirector, and what NICs that cannot wait
 * do to filter-output-commit.
 *
 * Proves: options that make no sense are refused with what was given, a peer
 * that leaves, stalls or says nonsense does no harm and shows in the counters,
 * a NIC waits for a full stream and for nothing else, and in a session each
 * side writes its epochs and the secondary's guest gets input in its own one.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "libqos/pci-pc.h"
#include "colo-net.h"
#include "colo-nic.h"

#define BIG             60000
#define TX_PACKETS      COLO_NIC_RING
#define TX_BYTES        32000
#define NIC_SLOT        4

static void test_options(void)
{
    static const struct {
        const char *options, *message;
    } bad[] = {
        { "'qom-type': 'filter-mirror'",
          "Parameter 'outdev' is missing" },
        { "'qom-type': 'filter-mirror', 'outdev': 'nosuch'",
          "filter-mirror: Parameter 'outdev': there is no chardev 'nosuch'" },
        { "'qom-type': 'filter-mirror', 'outdev': 'taken'",
          "filter-mirror: Parameter 'outdev': chardev 'taken' is already in" },
        { "'qom-type': 'filter-redirector'",
          "filter-redirector needs Parameter 'indev' or 'outdev'" },
        { "'qom-type': 'filter-redirector', 'indev': 'c1', 'outdev': 'c1'",
          "Parameters 'indev' and 'outdev' are both 'c1'" },
        { "'qom-type': 'filter-redirector', 'indev': 'nosuch'",
          "filter-redirector: Parameter 'indev': there is no chardev" },
        { "'qom-type': 'filter-redirector', 'indev': 'c1', 'outdev': 'no'",
          "filter-redirector: Parameter 'outdev': there is no chardev 'no'" },
        { "'qom-type': 'filter-redirector', 'indev': 'taken'",
          "Parameter 'indev': chardev 'taken' is already in use" },
        { "'qom-type': 'filter-redirector', 'outdev': 'taken'",
          "Parameter 'outdev': chardev 'taken' is already in use" },
    };
    Net *n = net_new();

    add_redirector(n, "other", "rx", "outdev", "taken");
    add_chardev(n, "c1");
    for (int i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autofree char *args = g_strdup_printf(
            "{'id': 'f0', 'netdev': 'n0', %s}", bad[i].options);

        colo_refused(n->qts, bad[i].message,
                     "{'execute': 'object-add', 'arguments': %p}",
                     qobject_from_json(args, &error_abort));
    }
    /* Each gave back what it had taken */
    qtest_qmp_assert_success(n->qts,
        "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'filter-redirector', 'id': 'f0', 'netdev': 'n0',"
        "'indev': 'c1'}}");
    net_free(n);
}

static void test_info_network(void)
{
    Net *n = net_new();
    g_autofree char *info = NULL;

    add_mirror(n, "m0", "tx");
    add_redirector(n, "r0", "rx", "indev", "c1");
    set_status(n->qts, "/objects/r0", "off");
    info = qtest_hmp(n->qts, "info network");
    g_assert_nonnull(strstr(info, "m0: type=filter-mirror"));
    g_assert_nonnull(strstr(info, "outdev=c0"));
    g_assert_nonnull(strstr(info, "status=on"));
    g_assert_nonnull(strstr(info, "r0: type=filter-redirector"));
    g_assert_nonnull(strstr(info, "indev=c1"));
    g_assert_nonnull(strstr(info, "status=off"));
    net_free(n);
}

static void test_mirror_reconnect(void)
{
    Net *n = net_new();
    int c;

    add_mirror(n, "m0", "tx");
    write_str(n->net, "nobody");
    expect_str(n->guest, "nobody");
    g_assert_cmpuint(counter(n->qts, "m0", "dropped-packets-closed"), ==, 1);
    for (int i = 0; i < 3; i++) {
        c = open_chardev(n, "c0");
        write_str(n->net, "copied");
        expect_str(n->guest, "copied");
        expect_str(c, "copied");
        /* What the guest sends goes on, and is not copied */
        write_str(n->guest, "back");
        expect_str(n->net, "back");
        g_assert_true(nothing_to_read(c));
        close_chardev(n, "c0", c);
    }
    g_assert_cmpuint(counter(n->qts, "m0", "mirrored-packets"), ==, 3);
    net_free(n);
}

/* Send packets that carry their number, until @id counts one as dropped */
static unsigned overfill(Net *n, int from, int to, const char *id)
{
    g_autofree uint8_t *data = g_malloc0(BIG);
    unsigned sent = 0;

    do {
        for (int i = 0; i < 16; i++) {
            stl_be_p(data, sent++);
            write_packet(from, data, BIG);
            if (to >= 0) {
                g_free(read_packet(to, NULL));
            }
        }
        g_assert_cmpuint(sent, <, 2000);
    } while (!counter(n->qts, id, "dropped-packets-full"));
    return sent;
}

/* All that was accepted comes, in order and whole */
static void expect_numbers(int fd, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint32_t size;
        g_autofree char *data = read_packet(fd, &size);

        g_assert_cmpuint(size, ==, BIG);
        g_assert_cmpuint(ldl_be_p(data), ==, i);
    }
}

static void test_mirror_stalled(void)
{
    Net *n = net_new();
    unsigned sent, dropped;
    int c;

    add_mirror(n, "m0", "tx");
    c = open_chardev(n, "c0");
    /* Each packet arrives meanwhile: the guest is not held up */
    sent = overfill(n, n->net, n->guest, "m0");
    dropped = counter(n->qts, "m0", "dropped-packets-full");
    g_assert_cmpuint(counter(n->qts, "m0", "mirrored-packets"), ==,
                     sent - dropped);
    expect_numbers(c, sent - dropped);
    write_str(n->net, "after");
    expect_str(c, "after");
    close(c);
    net_free(n);
}

/* The hub cannot be told to wait: its packets are lost, but not at once */
static void test_redirector_stalled(void)
{
    Net *n = net_new();
    unsigned sent, dropped;
    int c;

    add_redirector(n, "r0", "rx", "outdev", "c0");
    c = open_chardev(n, "c0");
    sent = overfill(n, n->guest, -1, "r0");
    wait_for(counter(n->qts, "r0", "out-packets") +
             counter(n->qts, "r0", "dropped-packets-full") == sent);
    dropped = counter(n->qts, "r0", "dropped-packets-full");
    g_assert_cmpuint((sent - dropped) * BIG, >, 16 * 1000 * 1000);
    expect_numbers(c, sent - dropped);
    write_str(n->guest, "after");
    expect_str(c, "after");
    g_assert_true(nothing_to_read(n->net));
    close(c);
    net_free(n);
}

static void test_redirector_out(void)
{
    Net *n = net_new();
    int c;

    add_redirector(n, "r0", "rx", "outdev", "c0");
    write_str(n->guest, "lost");
    wait_for(counter(n->qts, "r0", "dropped-packets-closed") == 1);
    for (int i = 0; i < 3; i++) {
        c = open_chardev(n, "c0");
        write_str(n->guest, "turned aside");
        expect_str(c, "turned aside");
        write_str(n->net, "not me");
        expect_str(n->guest, "not me");
        close_chardev(n, "c0", c);
    }
    g_assert_true(nothing_to_read(n->net));
    g_assert_cmpuint(counter(n->qts, "r0", "out-packets"), ==, 3);
    net_free(n);
}

static void test_redirector_in(const void *opaque)
{
    const char *queue = opaque;
    bool to_guest = strcmp(queue, "rx");
    bool to_net = strcmp(queue, "tx");
    Net *n = net_new();
    int c;

    add_redirector(n, "r0", queue, "indev", "c0");
    for (int i = 0; i < 3; i++) {
        c = open_chardev(n, "c0");
        write_str(c, "put in");
        if (to_guest) {
            expect_str(n->guest, "put in");
        }
        if (to_net) {
            expect_str(n->net, "put in");
        }
        /* Half a packet goes with its connection */
        write_word(c, 100);
        write_all(c, "half", 4);
        close_chardev(n, "c0", c);
    }
    g_assert_true(nothing_to_read(n->guest));
    g_assert_true(nothing_to_read(n->net));
    net_free(n);
}

/* It ends what is read of this connection, and nothing else */
static void test_nonsense(void)
{
    static const uint32_t words[] = {
        0, MAX_FRAME + 1, 0x7fffffff, 0x80000000, 0x80000002, 0xffffffff,
    };
    Net *n = net_new();

    add_redirector(n, "r0", "tx", "indev", "c0");
    for (int i = 0; i < ARRAY_SIZE(words); i++) {
        int c = open_chardev(n, "c0");

        write_str(c, "before");
        write_word(c, words[i]);
        write_str(c, "after");
        expect_str(n->guest, "before");
        close_chardev(n, "c0", c);
    }
    g_assert_true(nothing_to_read(n->guest));
    g_assert_cmpuint(counter(n->qts, "r0", "in-packets"), ==,
                     ARRAY_SIZE(words));
    net_free(n);
}

/* A header that the netdev does not have would be taken for the packet */
static void test_vnet_hdr(void)
{
    Net *n = net_new();
    int c, d;

    add_chardev(n, "c0");
    add_chardev(n, "c1");
    qtest_qmp_assert_success(n->qts,
        "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'filter-redirector', 'id': 'r0', 'netdev': 'n0',"
        "'queue': 'tx', 'vnet_hdr_support': true, 'indev': 'c0'}}");
    qtest_qmp_assert_success(n->qts,
        "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'filter-mirror', 'id': 'm0', 'netdev': 'n0',"
        "'queue': 'tx', 'vnet_hdr_support': true, 'outdev': 'c1'}}");
    c = open_chardev(n, "c0");
    d = open_chardev(n, "c1");
    write_word(c, 14);
    write_word(c, 10);
    write_all(c, "0123456789head", 14);
    write_word(c, 4);
    write_word(c, 0);
    write_all(c, "good", 4);
    expect_str(n->guest, "good");
    g_assert_cmpuint(counter(n->qts, "r0", "dropped-packets-bad"), ==, 1);
    g_assert_cmpuint(read_word(d), ==, 4);
    g_assert_cmpuint(read_word(d), ==, 0);
    close(c);
    close(d);
    net_free(n);
}

static void test_status(void)
{
    Net *n = net_new();
    int c, d;

    add_redirector(n, "out", "rx", "outdev", "c0");
    add_redirector(n, "in", "tx", "indev", "c1");
    c = open_chardev(n, "c0");
    d = open_chardev(n, "c1");
    for (int i = 0; i < 3; i++) {
        set_status(n->qts, "/objects/out", "off");
        write_str(n->guest, "passes");
        expect_str(n->net, "passes");
        set_status(n->qts, "/objects/out", "on");
        write_str(n->guest, "turned aside");
        expect_str(c, "turned aside");

        set_status(n->qts, "/objects/in", "off");
        write_str(d, "waits");
        write_str(n->net, "first");
        expect_str(n->guest, "first");
        set_status(n->qts, "/objects/in", "on");
        expect_str(n->guest, "waits");
    }
    g_assert_cmpuint(counter(n->qts, "out", "out-packets"), ==, 3);
    close(c);
    close(d);
    net_free(n);
}

/*
 * Write what goes of a few hundred packets; the rest of one that does not go
 * stays for next time
 */
static size_t pour(int fd, const uint8_t *stream, size_t size, size_t from)
{
    ssize_t n;

    for (int i = 0; i < 300; i++) {
        n = send(fd, stream + from, size - from, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n <= 0) {
            break;
        }
        from = (from + n) % size;
    }
    return from;
}

static void test_del_under_traffic(void)
{
    uint8_t packet[4 + 1000] = { 0 };
    Net *n = net_new();
    size_t at = 0, back = 0, in = 0;

    stl_be_p(packet, 1000);
    for (int i = 0; i < 20; i++) {
        int c, d, e;

        add_mirror(n, "m0", "all");
        add_redirector(n, "out", "rx", "outdev", "c1");
        add_redirector(n, "in", "tx", "indev", "c2");
        c = open_chardev(n, "c0");
        d = open_chardev(n, "c1");
        e = open_chardev(n, "c2");
        in = 0;
        for (int k = 0; k < 5; k++) {
            at = pour(n->net, packet, sizeof(packet), at);
            back = pour(n->guest, packet, sizeof(packet), back);
            in = pour(e, packet, sizeof(packet), in);
            counter(n->qts, "m0", "mirrored-packets");
        }
        /* Connected, with queues that nobody reads */
        del_object(n->qts, "in");
        del_object(n->qts, "m0");
        del_object(n->qts, "out");
        for (int k = 0; k < 3; k++) {
            const char *id[] = { "c0", "c1", "c2" };

            qtest_qmp_assert_success(n->qts, "{'execute': 'chardev-remove',"
                                     "'arguments': {'id': %s}}", id[k]);
        }
        close(c);
        close(d);
        close(e);
    }
    net_free(n);

    /*
     * With the netdev they hang on.  Nothing is under way: in the base a socket
     * that is deleted leaves what it sent in the hub's queue, and the pointer
     * to itself with it.
     */
    n = net_new();
    add_mirror(n, "m0", "all");
    close(open_chardev(n, "c0"));
    qtest_qmp_assert_success(n->qts, "{'execute': 'netdev_del', 'arguments': {"
                             "'id': 'n0'}}");
    add_chardev(n, "c9");
    net_free(n);
}

/* A guest that sends by virtio-net, whose packets filter r0 turns aside */
typedef struct Nic {
    Net net;
    ColoNic *nic;
    int c;                      /* the other end of outdev */
} Nic;

static Nic *nic_new(void)
{
    Nic *g = g_new0(Nic, 1);
    int other;

    g->net.dir = g_dir_make_tmp("colo-filter-XXXXXX", NULL);
    g->net.net = socket_pair(&other);
    g->net.qts = qtest_initf("-machine pc -nodefaults "
                             "-netdev socket,id=n0,fd=%d "
                             "-device virtio-net-pci,netdev=n0,id=nic0,"
                             "addr=0x%x,romfile=", other, NIC_SLOT);
    close(other);
    add_redirector(&g->net, "r0", "rx", "outdev", "c0");
    g->c = open_chardev(&g->net, "c0");
    g->nic = colo_nic_new(g->net.qts, NIC_SLOT);
    return g;
}

static void nic_free(Nic *g)
{
    close(g->c);
    colo_nic_free(g->nic);
    qtest_quit(g->net.qts);
    close(g->net.net);
    remove_dir(g->net.dir);
    g_free(g);
}

/* Give the NIC a full ring.  It has to stop where the stream is full. */
static void nic_send_until_it_waits(Nic *g)
{
    QTestState *qts = g->net.qts;
    uint64_t sent;

    colo_nic_send(g->nic, TX_BYTES, TX_PACKETS);
    wait_for((sent = counter(qts, "r0", "out-packets")) * TX_BYTES >
             4 * MiB);
    /* As many as the queue holds, and 200 KiB or so are in the socket */
    g_assert_cmpuint(sent, <, TX_PACKETS * 3 / 4);
    g_assert_cmpuint(counter(qts, "r0", "dropped-packets-full"), ==, 0);
}

static void expect_tx(int fd, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint32_t size;

        g_free(read_packet(fd, &size));
        g_assert_cmpuint(size, ==, TX_BYTES);
    }
}

static void test_nic_waits(void)
{
    Nic *g = nic_new();
    unsigned done;

    nic_send_until_it_waits(g);
    done = colo_nic_sent(g->nic);
    g_assert_cmpuint(done, <, TX_PACKETS * 3 / 4);
    /* Room again: the rest goes, nothing is missing */
    expect_tx(g->c, TX_PACKETS);
    wait_for((done += colo_nic_sent(g->nic)) == TX_PACKETS);
    g_assert_cmpuint(counter(g->net.qts, "r0", "out-packets"), ==, TX_PACKETS);
    g_assert_cmpuint(counter(g->net.qts, "r0", "dropped-packets-full"), ==, 0);
    nic_free(g);
}

/* A NIC may have nothing under way while the VM stands still */
static void test_nic_stop(void)
{
    Nic *g = nic_new();
    unsigned done;

    nic_send_until_it_waits(g);
    done = colo_nic_sent(g->nic);
    qtest_qmp_assert_success(g->net.qts, "{'execute': 'stop'}");
    g_assert_cmpuint(colo_nic_sent(g->nic), >, 0);
    qtest_qmp_assert_success(g->net.qts, "{'execute': 'cont'}");
    expect_tx(g->c, TX_PACKETS);
    g_assert_cmpuint(done, <, TX_PACKETS);
    g_assert_cmpuint(counter(g->net.qts, "r0", "dropped-packets-full"), ==, 0);
    nic_free(g);
}

/* The guest resets its NIC meanwhile */
static void test_nic_reset(void)
{
    Nic *g = nic_new();
    uint64_t sent;

    nic_send_until_it_waits(g);
    colo_nic_reset(g->nic);
    sent = counter(g->net.qts, "r0", "out-packets");
    expect_tx(g->c, sent);
    g_assert_true(nothing_to_read(g->c));
    nic_free(g);
}

static void test_nic_unplug(void)
{
    Nic *g = nic_new();
    uint64_t sent;

    nic_send_until_it_waits(g);
    qpci_unplug_acpi_device_test(g->net.qts, "nic0", NIC_SLOT);
    sent = counter(g->net.qts, "r0", "out-packets");
    expect_tx(g->c, sent);
    counter(g->net.qts, "r0", "out-packets");
    nic_free(g);
}

static void test_nic_object_del(void)
{
    Nic *g = nic_new();
    uint64_t sent;
    unsigned done = 0;

    nic_send_until_it_waits(g);
    sent = counter(g->net.qts, "r0", "out-packets");
    del_object(g->net.qts, "r0");
    /* Nothing turns them aside any more; what was queued is gone */
    expect_tx(g->net.net, 1);
    g_assert_cmpuint(sent, <, TX_PACKETS);
    wait_for((done += colo_nic_sent(g->nic),
              nothing_to_read(g->net.net) ||
              (g_free(read_packet(g->net.net, NULL)), true),
              done == TX_PACKETS));
    nic_free(g);
}

static void test_nic_peer_leaves(void)
{
    Nic *g = nic_new();
    unsigned done = 0;

    nic_send_until_it_waits(g);
    close_chardev(&g->net, "c0", g->c);
    wait_for((done += colo_nic_sent(g->nic)) == TX_PACKETS);
    g->c = open_chardev(&g->net, "c0");
    g_assert_cmpuint(counter(g->net.qts, "r0", "dropped-packets-closed"), >,
                     0);
    nic_free(g);
}

/* Sessions whose epochs end when the test asks for it */

static void begin_session(ColoPair *p)
{
    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(p->secondary, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
}

static void ask_for_checkpoint(ColoPair *p)
{
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
}

static void test_session_primary(void)
{
    ColoPair *p = colo_pair_new("hybrid");
    Net *n = net_on(p->primary);
    int c, d;

    add_mirror(n, "m0", "tx");
    add_redirector(n, "r0", "rx", "outdev", "c1");
    c = open_chardev(n, "c0");
    d = open_chardev(n, "c1");
    write_str(n->net, "before");
    expect_str(c, "before");
    begin_session(p);
    expect_cut(c, 0);
    expect_begin(c, NULL, 0);
    expect_cut(d, 0);
    write_str(n->net, "epoch 0");
    expect_str(c, "epoch 0");
    write_str(n->guest, "answer 0");
    expect_str(d, "answer 0");
    ask_for_checkpoint(p);
    expect_cut(c, 1);
    expect_cut(d, 1);
    write_str(n->net, "epoch 1");
    expect_str(c, "epoch 1");

    /* A new connection says where it begins */
    close_chardev(n, "c0", c);
    c = open_chardev(n, "c0");
    expect_cut(c, 1);
    g_assert_true(nothing_to_read(c));

    /* No session, no records */
    colo_kill(&p->secondary);
    colo_failover(p->primary);
    qobject_unref(colo_wait_event(p->primary, "COLO_EXIT"));
    close_chardev(n, "c0", c);
    c = open_chardev(n, "c0");
    write_str(n->net, "alone");
    expect_str(c, "alone");
    close(c);
    close(d);
    colo_pair_free(p);
    net_gone(n);
}

static void expect_status(QTestState *qts, const char *path,
                          const char *status)
{
    QDict *answer = qtest_qmp(qts, "{'execute': 'qom-get', 'arguments': {"
                              "'path': %s, 'property': 'status'}}", path);

    g_assert_cmpstr(qdict_get_str(answer, "return"), ==, status);
    qobject_unref(answer);
}

static uint64_t stale(Net *n)
{
    return counter(n->qts, "in", "dropped-packets-stale");
}

static uint64_t kept(Net *n)
{
    return counter(n->qts, "in", "kept-bytes");
}

/* Whatever comes, the guest gets it in its epoch or not at all */
static void secondary_epochs(ColoPair *p, Net *n, int c, int d)
{
    write_str(c, "now");
    expect_str(n->guest, "now");
    write_str(n->guest, "answer 0");
    expect_str(d, "answer 0");
    write_str(n->net, "outside");
    wait_for(counter(n->qts, "in", "dropped-packets-network") == 1);

    write_cut(c, 1);
    write_str(c, "next");
    wait_for(kept(n) == strlen("next"));
    g_assert_true(nothing_to_read(n->guest));
    ask_for_checkpoint(p);
    expect_cut(d, 1);
    expect_str(n->guest, "next");

    write_cut(c, 0);
    write_str(c, "old");
    wait_for(stale(n) == 2);
    write_cut(c, 3);
    write_str(c, "impossible");
    wait_for(stale(n) == 3);
    write_cut(c, 2);
    write_str(c, "kept");
    wait_for(kept(n) == strlen("kept"));
    g_assert_true(nothing_to_read(n->guest));
}

static void test_session_secondary(void)
{
    ColoPair *p = colo_pair_new("hybrid");
    Net *n = net_on(p->secondary);
    int c, d;

    add_redirector(n, "in", "tx", "indev", "c0");
    add_redirector(n, "out", "rx", "outdev", "c1");
    c = open_chardev(n, "c0");
    d = open_chardev(n, "c1");
    write_str(c, "before the session");
    wait_for(stale(n) == 1);
    write_cut(c, 0);
    write_str(c, "early");
    wait_for(kept(n) == strlen("early"));
    begin_session(p);
    expect_cut(d, 0);
    expect_str(n->guest, "early");
    secondary_epochs(p, n, c, d);

    close_chardev(n, "c0", c);
    c = open_chardev(n, "c0");
    write_str(c, "of no epoch");
    wait_for(stale(n) == 4);

    colo_kill(&p->primary);
    colo_failover(p->secondary);
    expect_str(n->guest, "kept");
    write_str(n->net, "outside");
    expect_str(n->guest, "outside");
    write_str(n->guest, "to all");
    expect_str(n->net, "to all");
    write_str(c, "ignored");
    wait_for(stale(n) == 5);
    g_assert_true(nothing_to_read(d));
    g_assert_true(nothing_to_read(n->guest));
    close(c);
    close(d);
    colo_pair_free(p);
    net_gone(n);
}

/*
 * A manager switches the filters of the secondary off and then tells it to go
 * on: what its guest says in between is not seen.
 */
static void test_session_switched_off(void)
{
    ColoPair *p = colo_pair_new("hybrid");
    Net *n = net_on(p->secondary);
    int c, d;

    add_redirector(n, "in", "tx", "indev", "c0");
    add_redirector(n, "out", "rx", "outdev", "c1");
    c = open_chardev(n, "c0");
    d = open_chardev(n, "c1");
    begin_session(p);
    write_cut(c, 0);
    expect_cut(d, 0);
    set_status(n->qts, "/objects/out", "off");
    set_status(n->qts, "/objects/in", "off");
    write_str(n->guest, "a secret");
    expect_str(d, "a secret");
    write_str(n->net, "outside");
    wait_for(counter(n->qts, "in", "dropped-packets-network") == 1);
    write_str(c, "input");
    expect_str(n->guest, "input");
    write_cut(c, 1);
    write_str(c, "kept");
    wait_for(kept(n) == strlen("kept"));

    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    write_str(n->guest, "a secret still");
    expect_str(d, "a secret still");
    g_assert_true(nothing_to_read(n->net));
    colo_failover(p->secondary);
    expect_str(n->guest, "kept");
    write_str(n->guest, "to all");
    expect_str(n->net, "to all");
    write_str(n->net, "outside");
    expect_str(n->guest, "outside");
    expect_status(n->qts, "/objects/in", "off");
    expect_status(n->qts, "/objects/out", "off");
    close(c);
    close(d);
    colo_pair_free(p);
    net_gone(n);
}

/* The secondary stands still, nothing is loaded into the filters */
static void test_session_periodic(void)
{
    ColoPair *p = colo_pair_new("periodic");
    Net *n = net_on(p->secondary);
    int c, d;

    add_redirector(n, "in", "tx", "indev", "c0");
    add_redirector(n, "out", "rx", "outdev", "c1");
    c = open_chardev(n, "c0");
    d = open_chardev(n, "c1");
    begin_session(p);
    write_cut(c, 0);
    write_str(c, "consumed");
    wait_for(kept(n) == strlen("consumed"));
    write_cut(c, 1);
    write_str(c, "consumed, too");
    wait_for(stale(n) == 2);

    colo_kill(&p->primary);
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    write_str(n->net, "outside");
    expect_str(n->guest, "outside");
    write_str(n->guest, "to all");
    expect_str(n->net, "to all");
    g_assert_true(nothing_to_read(d));
    close(c);
    close(d);
    colo_pair_free(p);
    net_gone(n);
}

/* A filter in front of a NIC without a driver, which takes nothing */
static int add_before_nic(Net *n, const char *type, const char *id,
                          const char *dev, const char *chardev)
{
    add_chardev(n, chardev);
    qtest_qmp_assert_success(n->qts,
        "{'execute': 'object-add', 'arguments': {'qom-type': %s, 'id': %s,"
        "'netdev': 'hn0', 'queue': 'tx', %s: %s}}", type, id, dev, chardev);
    return open_chardev(n, chardev);
}

/*
 * What the NIC has not taken at a cut is input after it: it stays in the queue,
 * and is mirrored behind the record.
 */
static void test_session_nic_queue(void)
{
    ColoPair *p = colo_pair_new("hybrid");
    Net *n = net_on(p->primary);
    int src = add_before_nic(n, "filter-redirector", "src", "indev", "c1");
    int c = add_before_nic(n, "filter-mirror", "m0", "outdev", "c0");

    begin_session(p);
    expect_cut(c, 0);
    write_str(src, "first");
    expect_str(c, "first");
    write_str(src, "second");
    expect_str(c, "second");
    for (int epoch = 1; epoch <= 3; epoch++) {
        ask_for_checkpoint(p);
        expect_cut(c, epoch);
        expect_str(c, "first");
        expect_str(c, "second");
    }
    g_assert_cmpuint(counter(n->qts, "m0", "mirrored-packets"), ==, 2);
    g_assert_cmpuint(counter(n->qts, "m0", "mirrored-again-packets"), ==, 6);
    close(src);
    close(c);
    colo_pair_free(p);
    net_gone(n);
}

/*
 * A NIC that takes nothing gets one packet into its queue, what is behind waits
 * for it; and a load empties both.
 */
static void test_session_nic_behind(void)
{
    const unsigned sent = 1000, queue = 1;
    ColoPair *p = colo_pair_new("hybrid");
    Net *n = net_on(p->secondary);
    int c = add_before_nic(n, "filter-redirector", "in", "indev", "c0");

    begin_session(p);
    for (uint64_t epoch = 0; epoch < 3; epoch++) {
        write_cut(c, epoch);
        for (unsigned i = 0; i < sent; i++) {
            write_str(c, "x");
        }
        wait_for(kept(n) == sent - queue);
        g_assert_cmpuint(counter(n->qts, "in", "in-packets"), ==,
                         (epoch + 1) * queue);
        ask_for_checkpoint(p);
        wait_for(kept(n) == 0);
        g_assert_cmpuint(stale(n), ==, (epoch + 1) * (sent - queue));
    }
    g_assert_cmpuint(counter(n->qts, "in", "dropped-packets-full"), ==, 0);
    close(c);
    colo_pair_free(p);
    net_gone(n);
}

/* The stream waits when as much is kept as may be, and nothing is lost */
static void test_session_kept_full(void)
{
    g_autofree uint8_t *packet = g_malloc0(4 + BIG);
    ColoPair *p = colo_pair_new("hybrid");
    Net *n = net_on(p->secondary);
    int c = add_before_nic(n, "filter-redirector", "in", "indev", "c0");
    size_t at = 0;
    unsigned sent = 0;

    begin_session(p);
    write_cut(c, 1);
    /* The bound is in bytes of memory, a little more than these */
    while (kept(n) < 14 * MiB) {
        write_packet(c, packet + 4, BIG);
        sent++;
    }
    /* What fits into the socket, and no more */
    stl_be_p(packet, BIG);
    for (int i = 0; i < 100; i++) {
        at = pour(c, packet, 4 + BIG, at);
        g_assert_cmpuint(kept(n), <, 16 * MiB + 3 * MAX_FRAME);
    }
    g_assert_cmpuint(stale(n), ==, 0);
    g_assert_cmpuint(counter(n->qts, "in", "in-packets"), ==, 0);

    ask_for_checkpoint(p);
    wait_for(counter(n->qts, "in", "in-packets") == 1);
    g_assert_cmpuint(kept(n), >=, (sent - 1) * BIG);
    g_assert_cmpuint(stale(n), ==, 0);
    close(c);
    colo_pair_free(p);
    net_gone(n);
}

static uint64_t queued(Net *n)
{
    return counter(n->qts, "oc1", "queued-bytes");
}

static void expect_size(int fd, uint32_t expected)
{
    uint32_t size;

    g_free(read_packet(fd, &size));
    g_assert_cmpuint(size, ==, expected);
}

/*
 * A hub cannot wait, as most NICs: at half the bound of the gate a checkpoint
 * is asked for.  When there is nobody to have it, four times the bound is the
 * end, and what was held until then leaves after the failover.
 */
static void test_session_gate(void)
{
    const uint32_t bound = MAX_FRAME, half = bound / 2;
    g_autofree uint8_t *packet = g_malloc0(bound);
    ColoPair *p = colo_pair_new("periodic");
    Net *n = net_on(p->primary);

    qtest_qmp_assert_success(n->qts,
        "{'execute': 'object-add', 'arguments': {'id': 'oc1',"
        "'qom-type': 'filter-output-commit', 'netdev': 'n0',"
        "'max-queue-bytes': %u}}", bound);
    begin_session(p);
    write_packet(n->guest, packet, half - 1);
    wait_for(queued(n) == half - 1);
    g_assert_true(nothing_to_read(n->net));
    write_packet(n->guest, packet, 1);
    expect_size(n->net, half - 1);
    expect_size(n->net, 1);
    g_assert_cmpint(colo_statistic(p->primary, "checkpoints"), ==, 1);

    colo_kill(&p->secondary);
    colo_wait_state(p->primary, "lost");
    for (int i = 0; i < 10; i++) {
        write_packet(n->guest, packet, half);
    }
    wait_for(counter(n->qts, "oc1", "dropped-packets") == 2);
    g_assert_cmpuint(queued(n), ==, 4 * bound);
    g_assert_true(nothing_to_read(n->net));
    colo_failover(p->primary);
    for (int i = 0; i < 8; i++) {
        expect_size(n->net, half);
    }
    colo_wait_state(p->primary, "alone");
    write_packet(n->guest, packet, 2);
    expect_size(n->net, 2);
    colo_pair_free(p);
    net_gone(n);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/filter/options", test_options);
    qtest_add_func("/colo/filter/info-network", test_info_network);
    qtest_add_func("/colo/filter/mirror/reconnect", test_mirror_reconnect);
    qtest_add_func("/colo/filter/mirror/stalled", test_mirror_stalled);
    qtest_add_func("/colo/filter/redirector/out", test_redirector_out);
    qtest_add_func("/colo/filter/redirector/stalled", test_redirector_stalled);
    qtest_add_data_func("/colo/filter/redirector/in-tx", "tx",
                        test_redirector_in);
    qtest_add_data_func("/colo/filter/redirector/in-rx", "rx",
                        test_redirector_in);
    qtest_add_data_func("/colo/filter/redirector/in-all", "all",
                        test_redirector_in);
    qtest_add_func("/colo/filter/redirector/nonsense", test_nonsense);
    qtest_add_func("/colo/filter/redirector/vnet-hdr", test_vnet_hdr);
    qtest_add_func("/colo/filter/status", test_status);
    qtest_add_func("/colo/filter/del-under-traffic", test_del_under_traffic);
    qtest_add_func("/colo/filter/nic/waits", test_nic_waits);
    qtest_add_func("/colo/filter/nic/stop", test_nic_stop);
    qtest_add_func("/colo/filter/nic/reset", test_nic_reset);
    qtest_add_func("/colo/filter/nic/unplug", test_nic_unplug);
    qtest_add_func("/colo/filter/nic/object-del", test_nic_object_del);
    qtest_add_func("/colo/filter/nic/peer-leaves", test_nic_peer_leaves);
    if (!qtest_has_accel("tcg")) {
        g_test_message("sessions are not tested: there is no TCG");
        return g_test_run();
    }
    qtest_add_func("/colo/filter/session/primary", test_session_primary);
    qtest_add_func("/colo/filter/session/secondary", test_session_secondary);
    qtest_add_func("/colo/filter/session/switched-off",
                   test_session_switched_off);
    qtest_add_func("/colo/filter/session/periodic", test_session_periodic);
    qtest_add_func("/colo/filter/session/nic-queue", test_session_nic_queue);
    qtest_add_func("/colo/filter/session/nic-behind", test_session_nic_behind);
    qtest_add_func("/colo/filter/session/kept-full", test_session_kept_full);
    qtest_add_func("/colo/filter/session/gate", test_session_gate);
    return g_test_run();
}
