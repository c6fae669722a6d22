/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what cannot be part of a session is refused by its name.
 *
 * Proves: a channel that goes one way, a device that cannot be loaded again and
 * again, or one with a stream of its own, is found before anything is migrated,
 * on either side, and a session is possible afterwards over a channel that can
 * have one.  A file descriptor is one if it is a socket.  And so is, while
 * there is a pair, what would change a disk of one side alone.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "colo-helpers.h"

#define CHANNEL "tcp:, unix:, vsock:, or fd: with a socket"

static void enable(QTestState *qts, const char *capability, bool on)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'migrate-set-capabilities', 'arguments': {"
        "'capabilities': [{'capability': %s, 'state': %i}]}}", capability, on);
}

/* Both sides refuse it, whichever way it is named */
static void refuse(ColoPair *p, const char *uri, const char *why)
{
    colo_refused(p->primary, why, "{'execute': 'migrate', 'arguments': {"
                 "'uri': %s}}", uri);
    colo_refused(p->secondary, why, "{'execute': 'migrate-incoming',"
                 "'arguments': {'uri': %s}}", uri);
}

static ColoPair *pair_new(const char *mode, const char *options)
{
    ColoPair *p = colo_pair_new_with(mode, "tcg", options);

    enable(p->primary, "x-colo", true);
    enable(p->secondary, "x-colo", true);
    return p;
}

static void give_fd(QTestState *qts, int fd)
{
    qtest_qmp_fds_assert_success(qts, &fd, 1,
        "{'execute': 'getfd', 'arguments': {'fdname': 'way'}}");
    close(fd);
}

static void test_channel(const void *mode)
{
    ColoPair *p = pair_new(mode, "");
    g_autofree char *file = g_strdup_printf("file:%s/mig", p->dir);

    refuse(p, file, CHANNEL);
    refuse(p, "exec:cat", CHANNEL);
    refuse(p, "rdma:localhost:4444", CHANNEL);
    colo_pair_protect(p);
    colo_pair_free(p);
}

static void test_pipe(const void *mode)
{
    ColoPair *p = pair_new(mode, "");
    int fds[2];

    g_assert_true(g_unix_open_pipe(fds, FD_CLOEXEC, NULL));
    give_fd(p->primary, fds[1]);
    give_fd(p->secondary, fds[0]);
    refuse(p, "fd:way", CHANNEL);
    colo_pair_free(p);
}

static void test_socketpair(const void *mode)
{
    ColoPair *p = pair_new(mode, "");
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    give_fd(p->primary, fds[0]);
    give_fd(p->secondary, fds[1]);
    colo_pair_migrate(p, NULL, NULL, 10, COLO_TIMEOUT_MS);
    qtest_qmp_assert_success(p->secondary, "{'execute': 'migrate-incoming',"
                             "'arguments': {'uri': 'fd:way'}}");
    qtest_qmp_assert_success(p->primary, "{'execute': 'migrate',"
                             "'arguments': {'uri': 'fd:way'}}");
    colo_wait_statistic(p->primary, "checkpoints", 3);
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_status(p->secondary, "running");
    colo_pair_free(p);
}

static void test_virtio_mem(const void *mode)
{
    ColoPair *p = pair_new(mode, "-m 32,maxmem=1G "
                           "-object memory-backend-ram,id=mem1,size=128M "
                           "-device virtio-mem-pci,id=more,memdev=mem1,"
                           "requested-size=64M");

    g_autofree char *uri = g_strdup_printf("unix:%s/mig", p->dir);

    refuse(p, uri, "virtio-mem device 'more'");
    /* An ordinary migration is possible */
    enable(p->primary, "x-colo", false);
    enable(p->secondary, "x-colo", false);
    qtest_qmp_assert_success(p->secondary, "{'execute': 'migrate-incoming',"
                             "'arguments': {'uri': %s}}", uri);
    qtest_qmp_assert_success(p->primary, "{'execute': 'migrate',"
                             "'arguments': {'uri': %s}}", uri);
    colo_wait_migrate(p->primary, "completed");
    colo_wait_migrate(p->secondary, "completed");
    colo_pair_free(p);
}

/* Bitmaps of disks stand for all that is migrated like that */
static void test_own_stream(const void *mode)
{
    ColoPair *p = pair_new(mode, "");

    enable(p->primary, "dirty-bitmaps", true);
    enable(p->secondary, "dirty-bitmaps", true);
    refuse(p, "unix:no-such-socket", "'dirty-bitmap'");
    enable(p->primary, "dirty-bitmaps", false);
    enable(p->secondary, "dirty-bitmaps", false);
    colo_pair_protect(p);
    colo_pair_free(p);
}

/* Replication has one who drives it */
static void test_xen(const void *mode)
{
    static const char why[] = "a COLO session drives replication";
    ColoPair *p = pair_new(mode, "");
    QTestState *sides[] = { p->primary, p->secondary };

    colo_pair_protect(p);
    for (int i = 0; i < G_N_ELEMENTS(sides); i++) {
        colo_refused(sides[i], why, "{'execute': 'xen-set-replication', "
                     "'arguments': {'enable': false, 'primary': true}}");
        colo_refused(sides[i], why, "{'execute': 'xen-colo-do-checkpoint'}");
    }
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_migrate(p->secondary, "completed");
    colo_wait_status(p->secondary, "running");
    /* Nobody does any more */
    qtest_qmp_assert_success(p->secondary,
                             "{'execute': 'xen-colo-do-checkpoint'}");
    colo_pair_free(p);
}

static void insert(QTestState *qts, const char *file)
{
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-change-medium',"
                             "'arguments': {'id': 'cd', 'format': 'raw',"
                             "'filename': %s}}", file);
}

static void check_hmp(QTestState *qts, const char *command, const char *text)
{
    g_autofree char *out = qtest_hmp(qts, "%s", command);

    g_assert_nonnull(strstr(out, text));
}

/* The other side would have the old one after a failover */
static void test_medium(const void *mode)
{
    static const char why[] = "the medium of 'cd0' cannot be changed";
    ColoPair *p = pair_new(mode, "-drive if=none,id=cd0,media=cdrom "
                           "-device ide-cd,id=cd,drive=cd0 "
                           "-drive if=none,id=fd0 "
                           "-device floppy,id=fd,drive=fd0");
    QTestState *sides[] = { p->primary, p->secondary };
    g_autofree char *file = g_strdup_printf("%s/cd.iso", p->dir);
    g_autofree char *content = g_strnfill(4096, 'm');

    g_assert_true(g_file_set_contents(file, content, 4096, NULL));
    insert(p->primary, file);
    insert(p->secondary, file);
    colo_pair_protect(p);
    for (int i = 0; i < G_N_ELEMENTS(sides); i++) {
        colo_refused(sides[i], why, "{'execute': 'eject', 'arguments': {"
                     "'id': 'cd', 'force': true}}");
        colo_refused(sides[i], why, "{'execute': 'blockdev-open-tray',"
                     "'arguments': {'id': 'cd', 'force': true}}");
        colo_refused(sides[i], why, "{'execute': 'blockdev-change-medium',"
                     "'arguments': {'id': 'cd', 'filename': %s}}", file);
        colo_refused(sides[i], "the medium of 'fd0'",
                     "{'execute': 'blockdev-change-medium', 'arguments': {"
                     "'id': 'fd', 'format': 'raw', 'filename': %s}}", file);
        check_hmp(sides[i], "eject -f cd0", why);
        check_hmp(sides[i], "drive_del cd0", why);
    }
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    /* In hybrid mode the guest runs before that */
    colo_wait_migrate(p->secondary, "completed");
    insert(p->secondary, file);
    colo_pair_free(p);
}

int main(int argc, char **argv)
{
    static const char *const modes[] = { "hybrid", "periodic" };
    static const struct {
        const char *name;
        void (*func)(const void *mode);
    } tests[] = {
        { "channel", test_channel },
        { "pipe", test_pipe },
        { "socketpair", test_socketpair },
        { "virtio-mem", test_virtio_mem },
        { "own-stream", test_own_stream },
        { "xen", test_xen },
        { "medium", test_medium },
    };

    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < G_N_ELEMENTS(tests); i++) {
        /* The mode does not matter to what is refused */
        const char *mode = modes[i % G_N_ELEMENTS(modes)];
        g_autofree char *path = g_strdup_printf("/colo/refuse/%s",
                                                tests[i].name);

        g_test_add_data_func(path, mode, tests[i].func);
    }
    return g_test_run();
}
