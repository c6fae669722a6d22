/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: pairs with one more device, which is loaded again and again.
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qobject/qdict.h"
#include "colo-device-rig.h"

#define ROM_BYTES 65536
#define NEVER_MS 600000         /* no checkpoint but those of the test */
#define WARM_UP 30              /* checkpoints until memory is settled */
#define LOOKS 2                 /* what leaks grows at each */

/* At the reset vector: cli, hlt, and again if something wakes it */
static const uint8_t halt[] = { 0xfa, 0xf4, 0xeb, 0xfd };

static char *firmware;

void device_rig_begin(void)
{
    g_autofree uint8_t *rom = g_malloc0(ROM_BYTES);
    int fd = g_file_open_tmp("colo-device-XXXXXX", &firmware, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    memcpy(rom + ROM_BYTES - 16, halt, sizeof(halt));
    g_assert_true(g_file_set_contents(firmware, (char *)rom, ROM_BYTES, NULL));
}

void device_rig_end(void)
{
    unlink(firmware);
    g_free(firmware);
}

const char *device_rig_firmware(void)
{
    return firmware;
}

ColoPair *device_pair(const char *mode, const char *extra)
{
    g_autofree char *all = g_strdup_printf("-bios %s %s", firmware, extra);

    return colo_pair_new_with(mode, "tcg", all);
}

void device_protect(ColoPair *p)
{
    colo_pair_migrate(p, "mig", "mig", NEVER_MS, COLO_TIMEOUT_MS);
    colo_wait_state(p->primary, "running");
    colo_wait_state(p->secondary, colo_state_ready(p));
}

static void make_checkpoints(ColoPair *p, int count)
{
    for (int i = 0; i < count; i++) {
        int64_t done = colo_statistic(p->secondary, "checkpoints");

        qtest_qmp_assert_success(p->primary,
                                 "{'execute': 'x-colo-checkpoint'}");
        colo_wait_statistic(p->secondary, "checkpoints", done + 1);
        colo_wait_state(p->secondary, colo_state_ready(p));
        colo_wait_state(p->primary, "running");
    }
}

void device_checkpoints(ColoPair *p, int count)
{
    make_checkpoints(p, count);
    g_assert_cmpint(colo_statistic(p->secondary, "checkpoints-verified"), >=,
                    count);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
}

void device_failover(ColoPair *p)
{
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "running");
}

bool device_rig_sanitized(void)
{
#ifdef __SANITIZE_ADDRESS__
    return true;
#else
    return false;
#endif
}

/* Resident memory that no file backs */
static long rss_kib(QTestState *qts)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status",
                                            (int)qtest_pid(qts));
    g_autofree char *text = NULL;
    const char *line;
    long kib;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    line = strstr(text, "RssAnon:");
    g_assert_nonnull(line);
    g_assert_cmpint(qemu_strtol(line + strlen("RssAnon:"), &line, 10, &kib),
                    ==, 0);
    return kib;
}

void device_check_flat(ColoPair *p, int count, long kib)
{
    long grown = LONG_MAX;

    if (device_rig_sanitized()) {
        g_test_message("memory is not measured: AddressSanitizer keeps what "
                       "is freed");
        make_checkpoints(p, count);
        return;
    }
    make_checkpoints(p, WARM_UP);
    for (int i = 0; i < LOOKS && grown >= kib; i++) {
        long begin = rss_kib(p->secondary);

        make_checkpoints(p, count);
        grown = rss_kib(p->secondary) - begin;
        g_test_message("%d loads took %ld KiB", count, grown);
    }
    g_assert_cmpint(grown, <, kib);
}
