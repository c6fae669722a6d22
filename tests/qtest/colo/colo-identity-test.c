/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO and devices that tell a guest who it is, or that it was moved.
 *
 * Proves: the survivor of a pair is the same guest.  No checkpoint gives it
 * another generation ID, not even when the sides were started with different
 * ones, nor an interrupt that says so; firmware that runs on the survivor reads
 * the same ID.  Its clock is disrupted once, by the failover.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qobject/qdict.h"
#include "libqos/libqos.h"
#include "libqos/fw_cfg.h"
#include "libqos/malloc-pc.h"
#include "colo-device-rig.h"

#define LOADS           3
#define GUID_FILE       "etc/vmgenid_guid"
#define GUID_FILE_BYTES 4096
#define GUID_OFFSET     40
#define GUID_BYTES      16
#define ADDRESS_FILE    "etc/vmgenid_addr"
#define GUID            0x200000        /* in the guest's memory */
#define GPE_STATUS      0xafe0
#define GPE_VMGENID     0x20

#define CLOCK           0xfeffb000
#define CLOCK_MARKER    (CLOCK + 16)

static void read_guid_file(QTestState *qts, uint8_t *guid)
{
    g_autofree uint8_t *file = g_malloc(GUID_FILE_BYTES);
    QFWCFG *fw_cfg = pc_fw_cfg_init(qts);

    g_assert_cmpuint(qfw_cfg_get_file(fw_cfg, GUID_FILE, file, GUID_FILE_BYTES),
                     ==, GUID_FILE_BYTES);
    memcpy(guid, file + GUID_OFFSET, GUID_BYTES);
    pc_fw_cfg_uninit(fw_cfg);
}

/* What firmware does: put the ID into memory, and tell the device where */
static void boot(QTestState *qts, uint8_t *guid)
{
    QOSState qs = { .qts = qts };
    uint64_t address = cpu_to_le64(GUID);
    QFWCFG *fw_cfg = pc_fw_cfg_init(qts);

    read_guid_file(qts, guid);
    qtest_memwrite(qts, GUID, guid, GUID_BYTES);
    pc_alloc_init(&qs.alloc, qts, 0);
    g_assert_cmpuint(qfw_cfg_write_file(fw_cfg, &qs, ADDRESS_FILE, &address,
                                        sizeof(address)), ==, sizeof(address));
    alloc_destroy(&qs.alloc);
    pc_fw_cfg_uninit(fw_cfg);
}

static void check_memory(QTestState *qts, const uint8_t *guid)
{
    uint8_t is[GUID_BYTES];

    qtest_memread(qts, GUID, is, sizeof(is));
    g_assert_cmpmem(is, sizeof(is), guid, GUID_BYTES);
}

static char *monitor_guid(QTestState *qts)
{
    QDict *answer = qtest_qmp_assert_success_ref(
        qts, "{'execute': 'query-vm-generation-id'}");
    char *guid = g_strdup(qdict_get_str(answer, "guid"));

    qobject_unref(answer);
    return guid;
}

static void check_vmgenid(ColoPair *p)
{
    uint8_t guid[GUID_BYTES], file[GUID_BYTES];
    g_autofree char *was = NULL;
    g_autofree char *is = NULL;

    boot(p->primary, guid);
    was = monitor_guid(p->primary);
    device_protect(p);
    device_checkpoints(p, LOADS);
    check_memory(p->primary, guid);
    check_memory(p->secondary, guid);
    device_failover(p);
    g_assert_cmphex(qtest_inb(p->secondary, GPE_STATUS) & GPE_VMGENID, ==, 0);
    check_memory(p->secondary, guid);
    is = monitor_guid(p->secondary);
    g_assert_cmpstr(is, ==, was);
    read_guid_file(p->secondary, file);
    g_assert_cmpmem(file, sizeof(file), guid, sizeof(guid));
    colo_quit(&p->secondary);
    colo_pair_free(p);
}

static void test_vmgenid_auto(const void *mode)
{
    check_vmgenid(device_pair(mode, "-device vmgenid,guid=auto"));
}

static void test_vmgenid_same(const void *mode)
{
    check_vmgenid(device_pair(mode, "-device vmgenid,guid="
                              "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87"));
}

/* A plain migration makes another guest of it, and says so */
static void test_vmgenid_migration(void)
{
    ColoPair *p = device_pair("periodic", "-device vmgenid,guid=auto");
    g_autofree char *uri = g_strdup_printf("unix:%s/mig", p->dir);
    uint8_t guid[GUID_BYTES], own[GUID_BYTES];

    boot(p->primary, guid);
    read_guid_file(p->secondary, own);
    qtest_qmp_assert_success(p->secondary,
        "{'execute': 'migrate-incoming', 'arguments': {'uri': %s}}", uri);
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'migrate', 'arguments': {'uri': %s}}", uri);
    colo_wait_status(p->secondary, "running");
    check_memory(p->secondary, own);
    g_assert_cmphex(qtest_inb(p->secondary, GPE_STATUS) & GPE_VMGENID, !=, 0);
    colo_pair_free(p);
}

static void test_vmclock(const void *mode)
{
    ColoPair *p = device_pair(mode, "-device vmclock");
    uint64_t marker = qtest_readq(p->primary, CLOCK_MARKER);

    device_protect(p);
    device_checkpoints(p, LOADS);
    g_assert_cmpuint(qtest_readq(p->secondary, CLOCK_MARKER), ==, marker);
    device_failover(p);
    g_assert_cmpuint(qtest_readq(p->secondary, CLOCK_MARKER), ==, marker + 1);
    colo_quit(&p->secondary);
    colo_pair_free(p);
}

int main(int argc, char **argv)
{
    int result;

    g_test_init(&argc, &argv, NULL);
    device_rig_begin();
    colo_add("/colo/identity", "vmgenid/auto", test_vmgenid_auto);
    colo_add("/colo/identity", "vmgenid/same", test_vmgenid_same);
    qtest_add_func("/colo/identity/vmgenid/migration", test_vmgenid_migration);
    colo_add("/colo/identity", "vmclock", test_vmclock);
    result = g_test_run();
    device_rig_end();
    return result;
}
