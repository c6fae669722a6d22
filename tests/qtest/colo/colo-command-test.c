/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO between two QEMUs: commands that do not suit a side of a pair.
 *
 * Proves: each of them is refused with a reason, QEMU and its session go on, and
 * a secondary that has ended never starts its guest, which is out of date.
 */

#include "qemu/osdep.h"
#include "colo-helpers.h"

#define IMAGE_SIZE (1024 * 1024)

/* A pair with a disk, that both open for themselves */
typedef struct Rig {
    ColoPair *pair;
    char *image;
} Rig;

static void rig_begin(Rig *r, const char *mode)
{
    g_autofree char *extra = NULL;
    int fd = g_file_open_tmp("colo-command-XXXXXX", &r->image, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, IMAGE_SIZE), ==, 0);
    close(fd);
    extra = g_strdup_printf("-drive if=virtio,id=disk0,format=raw,"
                            "file.locking=off,file=%s", r->image);
    r->pair = colo_pair_new_with(mode, "tcg", extra);
    colo_pair_protect(r->pair);
}

static void rig_end(Rig *r)
{
    colo_pair_free(r->pair);
    unlink(r->image);
    g_free(r->image);
}

/* The session is there and gets on */
static void check_protected(ColoPair *p)
{
    colo_wait_statistic(p->secondary, "checkpoints-verified",
        colo_statistic(p->secondary, "checkpoints-verified") + 3);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
}

/* Commands of Xen's toolstack, which uses them without a migration of ours */
static void xen_refused(QTestState *qts, const char *dir, const char *text)
{
    g_autofree char *path = g_build_filename(dir, "state", NULL);

    colo_refused(qts, text,
                 "{'execute': 'xen-save-devices-state', 'arguments': {"
                 "'filename': %s}}", path);
    colo_refused(qts, text,
                 "{'execute': 'xen-save-devices-state', 'arguments': {"
                 "'filename': %s, 'live': true}}", path);
    colo_refused(qts, text,
                 "{'execute': 'xen-load-devices-state', 'arguments': {"
                 "'filename': %s}}", path);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
}

static void test_xen(const void *mode)
{
    Rig r;
    ColoPair *p;

    rig_begin(&r, mode);
    p = r.pair;
    xen_refused(p->primary, p->dir, "in progress");
    xen_refused(p->secondary, p->dir, "in progress");
    /* With the guest paused: 'load' minds one that runs */
    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    check_protected(p);
    xen_refused(p->primary, p->dir, "in progress");
    xen_refused(p->secondary, p->dir, "in progress");
    qtest_qmp_assert_success(p->primary, "{'execute': 'cont'}");
    check_protected(p);

    colo_cut(p);
    colo_wait_state(p->primary, "lost");
    colo_wait_state(p->secondary, "lost");
    xen_refused(p->primary, p->dir, "in progress");
    xen_refused(p->secondary, p->dir, "in progress");
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "running");
    rig_end(&r);
}

/* HMP: written with the drive's name, and with that of a device */
static void io_refused(QTestState *qts, const char *text)
{
    g_autofree char *answer = qtest_hmp(qts, "qemu-io disk0 \"write 0 512\"");
    g_autofree char *read = qtest_hmp(qts, "qemu-io disk0 \"read 0 512\"");

    g_assert_nonnull(strstr(answer, text));
    g_assert_nonnull(strstr(read, text));
}

static void test_qemu_io(const void *mode)
{
    Rig r;
    ColoPair *p;

    rig_begin(&r, mode);
    p = r.pair;
    io_refused(p->secondary, "follows the primary");
    check_protected(p);
    colo_cut(p);
    colo_wait_state(p->secondary, "lost");
    io_refused(p->secondary, "x-colo-lost-heartbeat");
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "running");
    rig_end(&r);
}

/* Base code: any guest that waits for a migration has inactive disks */
static void test_qemu_io_inactive(const void *mode)
{
    Rig r;

    rig_begin(&r, mode);
    colo_quit(&r.pair->secondary);
    colo_pair_new_secondary(r.pair);
    io_refused(r.pair->secondary, "is inactive");
    rig_end(&r);
}

/* What would end the guest or the session here goes to the primary */
static void test_ends(const void *mode)
{
    static const char *const commands[] = {
        "system_powerdown", "migrate_cancel"
    };
    Rig r;
    QTestState *qts;

    rig_begin(&r, mode);
    qts = r.pair->secondary;
    for (int i = 0; i < G_N_ELEMENTS(commands); i++) {
        g_autofree char *answer = qtest_hmp(qts, "%s", commands[i]);

        g_assert_nonnull(strstr(answer, "follows the primary"));
        colo_refused(qts, "follows the primary", "{'execute': %s}",
                     commands[i]);
    }
    g_assert_null(qtest_qmp_event_ref(qts, "POWERDOWN"));
    check_protected(r.pair);
    qtest_qmp_assert_success(r.pair->primary,
                             "{'execute': 'system_powerdown'}");
    qtest_qmp_eventwait(r.pair->primary, "POWERDOWN");
    check_protected(r.pair);
    rig_end(&r);
}

static void test_ended(const void *mode)
{
    static const char *const commands[] = {
        "system_reset", "stop", "system_powerdown"
    };
    Rig r;
    QTestState *qts;

    rig_begin(&r, mode);
    qts = r.pair->secondary;
    qtest_qmp_assert_success(r.pair->primary, "{'execute': 'migrate_cancel'}");
    colo_wait_state(qts, "ended");
    colo_wait_status(qts, "shutdown");
    for (int i = 0; i < G_N_ELEMENTS(commands); i++) {
        colo_refused(qts, "out of date", "{'execute': %s}", commands[i]);
    }
    colo_refused(qts, "out of date", "{'execute': 'cont'}");
    colo_refused(qts, "out of date", "{'execute': 'migrate', 'arguments': {"
                 "'uri': 'unix:/nowhere'}}");
    io_refused(qts, "out of date");
    colo_wait_status(qts, "shutdown");
    rig_end(&r);
}

/* The survivor is a guest like any other */
static void test_live(const void *mode)
{
    Rig r;
    QTestState *qts;
    g_autofree char *answer = NULL;

    rig_begin(&r, mode);
    qts = r.pair->secondary;
    colo_kill(&r.pair->primary);
    colo_wait_state(qts, "lost");
    colo_failover(qts);
    colo_wait_state(qts, "live");
    colo_wait_status(qts, "running");
    answer = qtest_hmp(qts, "qemu-io disk0 \"write 0 512\"");
    g_assert_cmpstr(answer, ==, "");
    qtest_qmp_assert_success(qts, "{'execute': 'stop'}");
    qtest_qmp_assert_success(qts, "{'execute': 'system_reset'}");
    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
    colo_wait_status(qts, "running");
    rig_end(&r);
}

static void add(const char *name, const char *mode,
                void (*test)(const void *mode))
{
    g_autofree char *path = g_strdup_printf("/colo/command/%s/%s", name, mode);

    qtest_add_data_func(path, mode, test);
}

int main(int argc, char **argv)
{
    static const char *const modes[] = { "periodic", "hybrid" };

    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < G_N_ELEMENTS(modes); i++) {
        add("xen", modes[i], test_xen);
        add("qemu-io", modes[i], test_qemu_io);
        add("qemu-io-inactive", modes[i], test_qemu_io_inactive);
        add("ends", modes[i], test_ends);
        add("ended", modes[i], test_ended);
        add("live", modes[i], test_live);
    }
    return g_test_run();
}
