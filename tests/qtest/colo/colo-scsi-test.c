/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO and SCSI adapters with a request under way.
 *
 * The guest is a firmware that boots from a disk, and what it boots reads from
 * that disk without end.
 *
 * Proves, for every adapter: RAM is equal after each load, wherever in a
 * request the guest stood; no request fails on the survivor, whose guest reads
 * on.
 *
 * If the first read fails and stops the VM (rerror=stop) each checkpoint has a
 * request that was not completed, and the reset of each load cancels that of
 * the load before.  Proves: this writes nothing to the memory of the guest; the
 * request is tried again on the survivor when the user lets the guest go on.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "colo-device-rig.h"

#define LOADS           3
#define DISK_BYTES      (1024 * 1024)
#define READS           0x504           /* how many were good */
#define ERRORS          0x508           /* and were not */
#define BUSY_DELAY_MS   2
#define BUSY_LOADS      50
#define BUSY_READS      20

static const char *const modes[] = { "periodic", "hybrid" };

/* Those that the firmware can boot from; for am53c974 see colo-esp-test */
static const char *const adapters[] = {
    "lsi53c895a", "megasas", "megasas-gen2", "mptsas1068", "pvscsi",
    "virtio-scsi-pci",
};

/* Real mode, at 0x7c00 */
static const uint8_t boot_code[] = {
    0x31, 0xc0,                         /* xorw %ax, %ax */
    0x8e, 0xd8,                         /* movw %ax, %ds */
    0x8e, 0xc0,                         /* movw %ax, %es */
    0xfa,                               /* cli */
    0x8e, 0xd0,                         /* movw %ax, %ss */
    0xbc, 0x00, 0x70,                   /* movw $0x7000, %sp */
    0xfb,                               /* sti */
    0x66, 0x31, 0xc0,                   /* xorl %eax, %eax */
    0x66, 0xa3, 0x04, 0x05,             /* movl %eax, READS */
    0x66, 0xa3, 0x08, 0x05,             /* movl %eax, ERRORS */
    0xb8, 0x08, 0x02,                /* 1: movw $0x208, %ax: read 8 sectors */
    0xbb, 0x00, 0x80,                   /* movw $0x8000, %bx: to this address */
    0xb9, 0x02, 0x00,                   /* movw $2, %cx: from the second on */
    0xba, 0x80, 0x00,                   /* movw $0x80, %dx: first disk */
    0xcd, 0x13,                         /* int $0x13 */
    0x72, 0x07,                         /* jc 2f */
    0x66, 0xff, 0x06, 0x04, 0x05,       /* incl READS */
    0xeb, 0xe9,                         /* jmp 1b */
    0x66, 0xff, 0x06, 0x08, 0x05,    /* 2: incl ERRORS */
    0xeb, 0xe2,                         /* jmp 1b */
};

static char *disk;

typedef struct Case {
    const char *mode;
    const char *adapter;
} Case;

static void disk_begin(void)
{
    g_autofree uint8_t *bytes = g_malloc0(DISK_BYTES);
    int fd = g_file_open_tmp("colo-scsi-XXXXXX", &disk, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    memcpy(bytes, boot_code, sizeof(boot_code));
    bytes[510] = 0x55;
    bytes[511] = 0xaa;
    g_assert_true(g_file_set_contents(disk, (char *)bytes, DISK_BYTES, NULL));
}

static void disk_end(void)
{
    unlink(disk);
    g_free(disk);
}

/*
 * With a geometry, or QEMU would read from the disk to find one.  @failing: the
 * first read fails, on each side.
 */
static ColoPair *scsi_pair(const Case *c, bool failing)
{
    g_autofree char *extra = g_strdup_printf(
        "-device %s,id=hba "
        "-device scsi-hd,bus=hba.0,drive=d0,bootindex=0,"
        "cyls=2,heads=16,secs=63 "
        "-drive if=none,id=d0,rerror=stop,driver=raw,read-only=on,"
        "file.driver=blkdebug,file.image.driver=file,file.image.filename=%s%s",
        c->adapter, disk,
        failing ? ",file.inject-error.0.event=read_aio,"
                  "file.inject-error.0.once=on" : "");

    return colo_pair_new_with(c->mode, "tcg", extra);
}

/* It has read, and reads on; if it was stopped by a disk it goes on */
static void check_reads(QTestState *qts)
{
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;
    uint32_t begin = qtest_readl(qts, READS);

    while (qtest_readl(qts, READS) - begin < BUSY_READS) {
        QDict *status = qtest_qmp_assert_success_ref(
            qts, "{'execute': 'query-status'}");

        if (!qdict_get_bool(status, "running")) {
            qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
        }
        qobject_unref(status);
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(2000);
    }
    g_assert_cmpuint(qtest_readl(qts, ERRORS), ==, 0);
}

static void fail_over(ColoPair *p)
{
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
}

static void test_stopped(const void *opaque)
{
    ColoPair *p = scsi_pair(opaque, true);

    colo_wait_status(p->primary, "io-error");
    device_protect(p);
    device_checkpoints(p, LOADS);
    fail_over(p);
    check_reads(p->secondary);
    colo_quit(&p->secondary);
    colo_pair_free(p);
}

static void test_busy(const void *opaque)
{
    ColoPair *p = scsi_pair(opaque, false);

    check_reads(p->primary);
    colo_pair_migrate(p, "mig", "mig", BUSY_DELAY_MS, COLO_TIMEOUT_MS);
    colo_wait_statistic(p->secondary, "checkpoints-verified", BUSY_LOADS);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    check_reads(p->primary);
    fail_over(p);
    check_reads(p->secondary);
    colo_quit(&p->secondary);
    colo_pair_free(p);
}

static void add(const char *name, void (*test)(const void *),
                const char *adapter, const char *mode)
{
    g_autofree char *path = g_strdup_printf("/colo/scsi/%s/%s-%s", name,
                                            adapter, mode);
    Case *c = g_new(Case, 1);

    c->mode = mode;
    c->adapter = adapter;
    g_test_add_data_func_full(path, c, test, g_free);
}

int main(int argc, char **argv)
{
    int result;

    g_test_init(&argc, &argv, NULL);
    disk_begin();
    for (int i = 0; i < ARRAY_SIZE(adapters); i++) {
        if (!qtest_has_device(adapters[i])) {
            continue;
        }
        add("busy", test_busy, adapters[i], "periodic");
        for (int j = 0; j < ARRAY_SIZE(modes); j++) {
            add("stopped", test_stopped, adapters[i], modes[j]);
        }
    }
    result = g_test_run();
    disk_end();
    return result;
}
