/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: filter-output-commit, and who goes while it holds packets.
 *
 * Proves: the NIC may leave when packets of it are held, since the guest had
 * been asked to let go of it before the session began; and a NIC that was told
 * to wait is let go when its netdev is deleted.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "colo-net.h"
#include "colo-nic.h"

#define SLOT            5
#define EJECT_PORT      0xae08          /* of the ACPI hotplug controller */
#define BYTES           1000
#define BIG             32000

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

static void test_netdev_deleted(void)
{
    ColoPair *p = pair_new();
    ColoNic *nic = colo_nic_new(p->primary, SLOT);

    begin_session(p);
    colo_nic_send(nic, BIG, COLO_NIC_RING);
    wait_for(counter(p->primary, "oc1", "queued-packets") > 0);
    g_assert_cmpuint(counter(p->primary, "oc1", "queued-packets"), <,
                     COLO_NIC_RING);
    qtest_qmp_assert_success(p->primary, "{'execute': 'netdev_del',"
                             "'arguments': {'id': 'hn1'}}");
    colo_nic_reset(nic);
    commit(p);
    colo_nic_free(nic);
    colo_pair_free(p);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/gate/nic-ejected", test_nic_ejected);
    qtest_add_func("/colo/gate/netdev-deleted", test_netdev_deleted);
    return g_test_run();
}
