/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: filter-output-commit and filter-compare, and who goes while they
 * hold packets.
 *
 * Proves: the NIC may leave when packets of it are held, or the network has
 * not taken them; a netdev that the guest uses is not deleted while there is a
 * pair; a NIC that was told to wait is let go when its netdev is deleted after
 * that; and a guest that stands still gets nothing, then or later.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "libqos/pci-pc.h"
#include "qobject/qdict.h"
#include "colo-net.h"
#include "colo-nic.h"

#define SLOT            5
#define EJECT_PORT      0xae08          /* of the ACPI hotplug controller */
#define BYTES           1000
#define BIG             32000
#define MANY            600             /* more than a backend queues */
#define QUEUED          256
#define PERTURB         "165"           /* what was freed is full of this */

/* A second NIC, whose driver is the test; there is no processor */
static ColoPair *pair_new(void)
{
    return colo_pair_new_with("periodic", "qtest",
        "-netdev hubport,id=hn1,hubid=1 -device virtio-net-pci,netdev=hn1,"
        "id=nic1,romfile=,addr=" stringify(SLOT) " "
        "-object filter-output-commit,id=oc1,netdev=hn1,"
        "max-queue-bytes=69632");
}

static void begin_session(ColoPair *p)
{
    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(p->secondary, "standing");
    colo_wait_state(p->primary, "running");
}

/* A checkpoint that lets go what is held */
static void commit(ColoPair *p)
{
    int64_t done = colo_statistic(p->primary, "checkpoints");

    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    colo_wait_statistic(p->primary, "checkpoints", done + 1);
}

static void test_nic_ejected(void)
{
    ColoPair *p = pair_new();
    ColoNic *nic = colo_nic_new(p->primary, SLOT);

    qtest_qmp_assert_success(p->primary, "{'execute': 'device_del',"
                             "'arguments': {'id': 'nic1'}}");
    begin_session(p);
    colo_nic_send(nic, BYTES, 10);
    wait_for(counter(p->primary, "oc1", "queued-packets") == 10);
    qtest_outl(p->primary, EJECT_PORT, 1 << SLOT);
    qtest_qmp_eventwait(p->primary, "DEVICE_DELETED");
    commit(p);
    wait_for(counter(p->primary, "oc1", "queued-packets") == 0);
    commit(p);
    colo_nic_free(nic);
    colo_pair_free(p);
}

/* The netdev of NIC nic1 is a socket; this side of it is returned */
static int plug_nic(QTestState *qts, const char *driver)
{
    int other, fd = socket_pair(&other);

    qtest_qmp_fds_assert_success(qts, &other, 1,
        "{'execute': 'getfd', 'arguments': {'fdname': 'hn1'}}");
    close(other);
    qtest_qmp_assert_success(qts,
        "{'execute': 'netdev_add', 'arguments': {'type': 'socket',"
        "'id': 'hn1', 'fd': 'hn1'}}");
    qtest_qmp_assert_success(qts,
        "{'execute': 'device_add', 'arguments': {'driver': %s, 'id': 'nic1',"
        "'netdev': 'hn1', 'addr': %s}}", driver, stringify(SLOT));
    return fd;
}

/* A pair whose primary has a filter at a NIC that is to leave */
typedef struct Plugged {
    ColoPair *pair;
    Net net;                    /* .net: the other end of hn1 */
    int other;                  /* the same of the secondary */
} Plugged;

static Plugged *plugged_new(const char *mode, const char *driver)
{
    Plugged *g = g_new0(Plugged, 1);

    g->pair = colo_pair_new_with(mode, "qtest", "");
    g->net.qts = g->pair->primary;
    g->net.dir = g->pair->dir;
    g->net.net = plug_nic(g->pair->primary, driver);
    g->other = plug_nic(g->pair->secondary, driver);
    return g;
}

static void plugged_free(Plugged *g)
{
    close(g->net.net);
    close(g->other);
    colo_pair_free(g->pair);
    g_free(g);
}

static void add_compare(Plugged *g, unsigned max_packets)
{
    add_chardev(&g->net, "sec");
    qtest_qmp_assert_success(g->net.qts,
        "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'filter-compare', 'id': 'comp1', 'netdev': 'hn1',"
        "'secondary-in': 'sec', 'compare-timeout': 3600000,"
        "'max-queue-size': %u}}", max_packets);
}

static void add_gate(Plugged *g, unsigned max_bytes)
{
    qtest_qmp_assert_success(g->net.qts,
        "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'filter-output-commit', 'id': 'oc1', 'netdev': 'hn1',"
        "'max-queue-bytes': %u}}", max_bytes);
}

/* What the test writes there the NIC has sent */
static int add_source(Plugged *g)
{
    add_chardev(&g->net, "src");
    qtest_qmp_assert_success(g->net.qts,
        "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'filter-redirector', 'id': 'src1', 'netdev': 'hn1',"
        "'queue': 'rx', 'indev': 'src'}}");
    return open_chardev(&g->net, "src");
}

static void refuse_netdev_del(QTestState *qts)
{
    QDict *error = qtest_qmp_assert_failure_ref(qts,
        "{'execute': 'netdev_del', 'arguments': {'id': 'hn1'}}");

    g_assert_nonnull(strstr(qdict_get_str(error, "desc"),
                            "while a COLO pair exists: 'nic1' is connected to "
                            "netdev 'hn1'"));
    qobject_unref(error);
}

/* What the guest says is held, and nobody can commit it */
static void lose_secondary(Plugged *g)
{
    colo_pair_migrate(g->pair, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(g->pair->secondary, colo_state_ready(g->pair));
    colo_wait_state(g->pair->primary, "running");
    colo_kill(&g->pair->secondary);
    colo_wait_state(g->pair->primary, "lost");
}

/*
 * All is released, the network takes nothing, and the backend has as much of
 * the NIC's as it may have, when that leaves.
 */
static void nic_ejected_behind(Plugged *g, unsigned at_least)
{
    g_autofree uint8_t *packet = g_malloc0(BIG);
    int src = add_source(g);

    lose_secondary(g);
    for (int i = 0; i < MANY; i++) {
        write_packet(src, packet, BIG);
    }
    wait_for(counter(g->net.qts, "src1", "in-packets") == MANY);
    g_assert_true(nothing_to_read(g->net.net));
    colo_failover(g->pair->primary);
    colo_wait_migrate(g->pair->primary, "completed");
    qpci_unplug_acpi_device_test(g->net.qts, "nic1", SLOT);
    for (unsigned i = 0; i < at_least; i++) {
        uint32_t size;

        g_free(read_packet(g->net.net, &size));
        g_assert_cmpuint(size, ==, BIG);
    }
    counter(g->net.qts, "src1", "in-packets");
    close(src);
    plugged_free(g);
}

static void test_compare_nic_ejected(void)
{
    Plugged *g = plugged_new("hybrid", "e1000");

    add_compare(g, 16);
    nic_ejected_behind(g, QUEUED);
}

static void test_gate_nic_ejected(void)
{
    Plugged *g = plugged_new("periodic", "e1000");

    add_gate(g, 64 * MiB);
    nic_ejected_behind(g, MANY);
}

/* What is released leaves, although no driver has given the NIC buffers */
static void test_nic_takes_nothing(void)
{
    Plugged *g = plugged_new("periodic", "e1000");
    int src;

    add_gate(g, 64 * MiB);
    src = add_source(g);
    colo_pair_migrate(g->pair, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(g->pair->secondary, "standing");
    colo_wait_state(g->pair->primary, "running");
    write_str(src, "held");
    wait_for(counter(g->net.qts, "oc1", "queued-packets") == 1);
    commit(g->pair);
    expect_str(g->net.net, "held");
    g_assert_cmpuint(counter(g->net.qts, "oc1", "queued-packets"), ==, 0);
    close(src);
    plugged_free(g);
}

/* Only a netdev that the guest does not use may go while there is a pair */
static void test_netdev_refused(const void *mode)
{
    Plugged *g = plugged_new(mode, "virtio-net-pci");

    qtest_qmp_assert_success(g->net.qts, "{'execute': 'netdev_add',"
        "'arguments': {'type': 'socket', 'id': 'free', 'udp':"
        "'127.0.0.1:9', 'localaddr': '127.0.0.1:0'}}");
    colo_pair_migrate(g->pair, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(g->pair->secondary, colo_state_ready(g->pair));
    colo_wait_state(g->pair->primary, "running");
    refuse_netdev_del(g->pair->primary);
    refuse_netdev_del(g->pair->secondary);
    qtest_qmp_assert_success(g->net.qts, "{'execute': 'netdev_del',"
                             "'arguments': {'id': 'free'}}");
    plugged_free(g);
}

/*
 * The netdev goes when the session is over, the network has not taken what was
 * held, and the NIC waits for that.  It had so many @rings to send.
 */
static void netdev_deleted(Plugged *g, unsigned rings)
{
    ColoNic *nic = colo_nic_new(g->net.qts, SLOT);
    unsigned sent = 0;

    lose_secondary(g);
    for (unsigned i = 0; i < rings; i++) {
        wait_for((sent += colo_nic_sent(nic)) == i * COLO_NIC_RING);
        colo_nic_send(nic, BIG, COLO_NIC_RING);
    }
    refuse_netdev_del(g->net.qts);
    colo_failover(g->pair->primary);
    colo_wait_migrate(g->pair->primary, "completed");
    sent += colo_nic_sent(nic);
    g_assert_cmpuint(sent, <, rings * COLO_NIC_RING);
    qtest_qmp_assert_success(g->net.qts, "{'execute': 'netdev_del',"
                             "'arguments': {'id': 'hn1'}}");
    wait_for((sent += colo_nic_sent(nic)) == rings * COLO_NIC_RING);
    colo_nic_reset(nic);
    colo_nic_free(nic);
    plugged_free(g);
}

static void test_gate_netdev_deleted(void)
{
    Plugged *g = plugged_new("periodic", "virtio-net-pci");

    add_gate(g, 4 * MiB);
    netdev_deleted(g, 1);
}

static void test_compare_netdev_deleted(void)
{
    Plugged *g = plugged_new("hybrid", "virtio-net-pci");

    /* More than the backend queues and may be on the way to it */
    add_compare(g, 450);
    netdev_deleted(g, 2);
}

/* Nobody sees the guest of a secondary whose NIC has no filters */
static void test_secondary_unfiltered(void)
{
    Plugged *g = plugged_new("hybrid", "e1000");
    Net second = { .qts = g->pair->secondary, .dir = g->pair->dir };
    int src;

    add_chardev(&second, "says");
    qtest_qmp_assert_success(second.qts,
        "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'filter-redirector', 'id': 'src2', 'netdev': 'hn1',"
        "'queue': 'rx', 'indev': 'says'}}");
    src = open_chardev(&second, "says");
    colo_pair_migrate(g->pair, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(g->pair->secondary, "running");
    write_str(src, "seen by nobody");
    wait_for(counter(second.qts, "src2", "in-packets") == 1);
    g_assert_true(nothing_to_read(g->other));

    colo_kill(&g->pair->primary);
    colo_wait_state(second.qts, "lost");
    write_str(src, "nor is this");
    wait_for(counter(second.qts, "src2", "in-packets") == 2);
    g_assert_true(nothing_to_read(g->other));

    colo_failover(second.qts);
    colo_wait_state(second.qts, "live");
    write_str(src, "seen");
    for (bool seen = false; !seen; ) {
        uint32_t size;
        g_autofree char *packet = read_packet(g->other, &size);

        /* It announces itself, too */
        g_assert_cmpstr(packet, !=, "seen by nobody");
        g_assert_cmpstr(packet, !=, "nor is this");
        seen = g_str_equal(packet, "seen");
    }
    close(src);
    plugged_free(g);
}

/*
 * What the network sends to a guest that stands still is dropped, also if
 * something has come before the session, and waits for the guest.
 */
static void test_secondary_input(void)
{
    Plugged *g = plugged_new("periodic", "virtio-net-pci");

    g->net.qts = g->pair->secondary;
    add_gate(g, 64 * MiB);
    write_str(g->other, "before");
    colo_pair_migrate(g->pair, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(g->pair->secondary, "standing");
    write_str(g->other, "meanwhile");
    wait_for(counter(g->net.qts, "oc1", "ignored-packets") == 1);
    plugged_free(g);
}

int main(int argc, char **argv)
{
    g_setenv("MALLOC_PERTURB_", PERTURB, true);
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/gate/nic-ejected", test_nic_ejected);
    qtest_add_data_func("/colo/gate/netdev-refused/hybrid", "hybrid",
                        test_netdev_refused);
    qtest_add_data_func("/colo/gate/netdev-refused/periodic", "periodic",
                        test_netdev_refused);
    qtest_add_func("/colo/gate/netdev-deleted", test_gate_netdev_deleted);
    qtest_add_func("/colo/gate/nic-takes-nothing", test_nic_takes_nothing);
    qtest_add_func("/colo/gate/behind/nic-ejected", test_gate_nic_ejected);
    qtest_add_func("/colo/gate/compare/nic-ejected", test_compare_nic_ejected);
    qtest_add_func("/colo/gate/compare/netdev-deleted",
                   test_compare_netdev_deleted);
    qtest_add_func("/colo/gate/secondary-unfiltered",
                   test_secondary_unfiltered);
    qtest_add_func("/colo/gate/secondary-input", test_secondary_input);
    return g_test_run();
}
