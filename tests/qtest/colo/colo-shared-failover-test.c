/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: an image that both sides have, and one of them goes.
 *
 * Proves: once nothing can be preserved for the secondary nothing is
 * overwritten until the primary is told to go on, which keeps nobody from
 * draining or quitting; the secondary cannot take over while the primary's
 * process lives, and the disk is as its guest saw it afterwards; what one
 * session leaves does no harm to the next.
 */

#include "qemu/osdep.h"
#include <sys/resource.h>
#include "qobject/qdict.h"
#include "libqos/libqos.h"
#include "colo-helpers.h"
#include "colo-nbd.h"
#include "colo-shared-rig.h"

static void failover_refused(Side *secondary)
{
    colo_refused(secondary->qts, "\"write\" lock",
                 "{'execute': 'xen-set-replication', 'arguments': {"
                 "'enable': false, 'primary': false, 'failover': true}}");
}

static void side_wait_error(Side *side)
{
    while (!disk_has_error(side->qts)) {
        g_usleep(2000); /* until the alarm */
    }
}

static void test_failover_secondary(void)
{
    Shared *s = shared_new_started();

    disk_write(s->primary.qts, 0x11, 0, MiB);
    shared_checkpoint(&s->primary, &s->secondary);
    disk_write(s->primary.qts, 0x77, 0, 64 * KiB);      /* never committed */
    disk_write(s->secondary.qts, 0x22, 512 * KiB, 64 * KiB);
    disk_wait_file(s->image, 0x77, 0, 64 * KiB);

    /* Not while the primary is there, but this shuts it out */
    failover_refused(&s->secondary);
    disk_check_stage(s->secondary.qts, "running");
    side_read(&s->secondary, 0x11, 0, 512 * KiB);
    disk_write(s->primary.qts, 0x78, 2 * MiB, 64 * KiB);
    side_wait_error(&s->primary);
    g_assert_true(disk_file_has(s->image, 0, 2 * MiB, 64 * KiB));
    failover_refused(&s->secondary);
    colo_kill(&s->primary.qts);

    disk_failover(s->secondary.qts, false);
    side_read(&s->secondary, 0x11, 0, 512 * KiB);
    disk_write(s->secondary.qts, 0x23, 3 * MiB, 64 * KiB);
    disk_wait_no_job(s->secondary.qts);
    disk_check_stage(s->secondary.qts, "folded");
    g_assert_true(disk_file_has(s->image, 0x11, 0, 512 * KiB));
    g_assert_true(disk_file_has(s->image, 0x22, 512 * KiB, 64 * KiB));
    g_assert_true(disk_file_has(s->image, 0, 2 * MiB, MiB));
    g_assert_true(disk_file_has(s->image, 0x23, 3 * MiB, 64 * KiB));
    disk_write(s->secondary.qts, 0x24, 3 * MiB, 64 * KiB);
    g_assert_true(disk_file_has(s->image, 0x24, 3 * MiB, 64 * KiB));
    g_assert_false(disk_has_error(s->secondary.qts));
    shared_free(s);
}

/* The survivor becomes the primary of a new secondary, and that survives */
static void test_again(void)
{
    Shared *s = shared_new_started();

    disk_write(s->primary.qts, 0x11, 0, MiB);
    shared_checkpoint(&s->primary, &s->secondary);
    colo_kill(&s->primary.qts);
    disk_failover(s->secondary.qts, false);
    disk_wait_no_job(s->secondary.qts);

    shared_start_secondary(s, &s->third);
    shared_begin(&s->secondary, "front", &s->third);
    disk_write(s->secondary.qts, 0x22, MiB, MiB);
    disk_write(s->third.qts, 0x33, 2 * MiB, MiB);
    side_read(&s->third, 0, MiB, MiB);
    shared_checkpoint(&s->secondary, &s->third);
    side_read(&s->third, 0x22, MiB, MiB);
    disk_write(s->third.qts, 0x44, 3 * MiB, MiB);
    disk_write(s->secondary.qts, 0x55, 0, MiB);
    disk_wait_file(s->image, 0x55, 0, MiB);
    failover_refused(&s->third);
    colo_kill(&s->secondary.qts);
    disk_failover(s->third.qts, false);
    disk_wait_no_job(s->third.qts);
    g_assert_true(disk_file_has(s->image, 0x11, 0, MiB));
    g_assert_true(disk_file_has(s->image, 0x22, MiB, MiB));
    g_assert_true(disk_file_has(s->image, 0, 2 * MiB, MiB));
    g_assert_true(disk_file_has(s->image, 0x44, 3 * MiB, MiB));
    shared_free(s);
}

/*
 * The secondary dies: what is written stays in the primary's memory, where its
 * guest finds it, until it is told to go on.  Then a new secondary.
 */
static void test_failover_primary(void)
{
    Shared *s = shared_new_started();
    int64_t begin;

    disk_write(s->primary.qts, 0x11, 0, MiB);
    disk_wait_file(s->image, 0x11, 0, MiB);
    colo_kill(&s->secondary.qts);
    for (int i = 0; i < 32; i++) {
        disk_write(s->primary.qts, 0x20 + i, MiB + i * UNIT, UNIT);
    }
    side_wait_error(&s->primary);
    begin = g_get_monotonic_time();
    colo_refused(s->primary.qts, "the way to the secondary is gone",
                 "{'execute': 'xen-colo-do-checkpoint'}");
    disk_io(s->primary.qts, "flush");
    qtest_qmp_assert_success(s->primary.qts, "{'execute': 'stop'}");
    disk_check_time(begin);
    for (int i = 0; i < 32; i++) {
        side_read(&s->primary, 0x20 + i, MiB + i * UNIT, UNIT);
    }
    g_assert_true(disk_file_has(s->image, 0, MiB, 2 * MiB));
    shared_change_refused(&s->primary, "in a session", "child", "hidden");

    disk_failover(s->primary.qts, true);
    disk_io(s->primary.qts, "flush");
    for (int i = 0; i < 32; i++) {
        g_assert_true(disk_file_has(s->image, 0x20 + i, MiB + i * UNIT,
                                    UNIT));
    }
    g_assert_false(disk_has_error(s->primary.qts));
    disk_check_stage(s->primary.qts, "idle");
    disk_write(s->primary.qts, 0x12, 0, MiB);
    g_assert_true(disk_file_has(s->image, 0x12, 0, MiB));
    disk_start_refused(s->primary.qts, true, "in a session already");
    shared_del_peer(&s->primary, "repl");
    disk_start_refused(s->primary.qts, true, "no way to the secondary's store");

    shared_start_secondary(s, &s->third);
    shared_begin(&s->primary, "repl", &s->third);
    disk_write(s->primary.qts, 0x13, 0, MiB);
    disk_wait_file(s->image, 0x13, 0, MiB);
    side_read(&s->third, 0x12, 0, MiB);
    shared_checkpoint(&s->primary, &s->third);
    side_read(&s->third, 0x13, 0, MiB);
    shared_free(s);
}

/* The secondary stands still and the log is full; then all is drained */
static void test_secondary_stands(void)
{
    Shared *s = shared_new_started();
    int64_t begin;
    pid_t pid;

    disk_write(s->primary.qts, 1, 0, MiB);
    disk_wait_file(s->image, 1, 0, MiB);
    pid = qtest_pid(s->secondary.qts);
    g_assert_cmpint(kill(pid, SIGSTOP), ==, 0);
    begin = g_get_monotonic_time();
    for (int i = 0; i < 10; i++) {
        disk_io(s->primary.qts, "aio_write -P %d %dM 1M", i + 2, i + 1);
    }
    disk_io(s->primary.qts, "aio_flush");
    disk_check_time(begin);
    /* The main loop itself writes, and waits for that */
    disk_write(s->primary.qts, 0x66, 12 * MiB, MiB);
    disk_write(s->primary.qts, 0x67, 13 * MiB, MiB);
    disk_check_time(begin);
    side_read(&s->primary, 0x66, 12 * MiB, MiB);
    g_assert_cmpint(disk_log_number(s->primary.qts, "bytes"), >, 4 * MiB);
    qtest_qmp_assert_success(s->primary.qts, "{'execute': 'stop'}");
    disk_check_time(begin);
    for (int i = 0; i < 10; i++) {
        side_read(&s->primary, i + 2, (i + 1) * MiB, MiB);
    }
    g_assert_true(disk_file_has(s->image, 0, MiB, 15 * MiB));

    disk_failover(s->primary.qts, true);
    disk_io(s->primary.qts, "flush");
    for (int i = 0; i < 10; i++) {
        g_assert_true(disk_file_has(s->image, i + 2, (i + 1) * MiB, MiB));
    }
    colo_quit(&s->primary.qts);
    disk_check_time(begin);
    g_assert_cmpint(kill(pid, SIGCONT), ==, 0);
    shared_free(s);
}

/*
 * The primary is ended without a word about who goes on: what it has not
 * preserved it never writes, and the secondary can take over.
 */
static void test_quit(void)
{
    Shared *s = shared_new_started();
    int64_t begin;
    pid_t pid;

    disk_write(s->primary.qts, 0x11, 0, 4 * MiB);
    shared_checkpoint(&s->primary, &s->secondary);
    pid = qtest_pid(s->secondary.qts);
    g_assert_cmpint(kill(pid, SIGSTOP), ==, 0);
    begin = g_get_monotonic_time();
    for (int i = 0; i < 10; i++) {
        disk_io(s->primary.qts, "aio_write -P %d %dM 1M", i + 0x20, i);
    }
    colo_quit(&s->primary.qts);
    disk_check_time(begin);
    g_assert_true(disk_file_has(s->image, 0x11, 0, 4 * MiB));
    g_assert_true(disk_file_has(s->image, 0, 4 * MiB, 6 * MiB));
    g_assert_cmpint(kill(pid, SIGCONT), ==, 0);
    disk_failover(s->secondary.qts, false);
    disk_wait_no_job(s->secondary.qts);
    g_assert_true(disk_file_has(s->image, 0x11, 0, 4 * MiB));
    g_assert_true(disk_file_has(s->image, 0, 4 * MiB, 6 * MiB));
    shared_free(s);
}

/* An orderly stop: all is written, and the secondary's own writes are gone */
static void test_stop(void)
{
    Shared *s = shared_new_started();

    for (int i = 0; i < 16; i++) {
        disk_write(s->primary.qts, 0x11, i * MiB, MiB);
    }
    disk_write(s->secondary.qts, 0x22, 0, 64 * KiB);
    disk_replicate(s->primary.qts, false, true);
    disk_io(s->primary.qts, "flush");
    g_assert_true(disk_file_has(s->image, 0x11, 0, DISK));
    disk_replicate(s->secondary.qts, false, false);
    side_read(&s->secondary, 0x11, 0, DISK);
    disk_check_stage(s->primary.qts, "idle");
    disk_check_stage(s->secondary.qts, "idle");
    shared_free(s);
}

/*
 * What was written before the first checkpoint of another session is of no
 * epoch of the last one, which had more of them.  A checkpoint for which that
 * came too late can be made again.
 */
static void test_next_session(void)
{
    Shared *s = shared_new_started();

    disk_write(s->primary.qts, 0x10, 0, UNIT);
    for (int i = 0; i < 4; i++) {
        shared_checkpoint(&s->primary, &s->secondary);
    }
    disk_replicate(s->primary.qts, false, true);
    disk_replicate(s->secondary.qts, false, false);
    shared_del_peer(&s->primary, "repl");
    shared_begin(&s->primary, "repl", &s->secondary);

    side_add_inside(&s->secondary);
    disk_io_at(s->secondary.qts, "inside", "break write_aio A");
    disk_write(s->primary.qts, 0x11, 0, UNIT);
    disk_io_at(s->secondary.qts, "inside", "wait_break A");
    disk_write(s->primary.qts, 0x12, 0, UNIT);
    colo_refused(s->primary.qts, "have not arrived",
                 "{'execute': 'xen-colo-do-checkpoint'}");
    disk_io_at(s->secondary.qts, "inside", "resume A");
    shared_checkpoint(&s->primary, &s->secondary);
    side_read(&s->secondary, 0x12, 0, UNIT);
    g_assert_false(disk_has_error(s->primary.qts));
    shared_free(s);
}

/* The primary cannot write to its files from the byte @limit on */
static void limit_files(Side *primary, rlim_t limit)
{
    struct rlimit r = { limit, RLIM_INFINITY };

    g_assert_cmpint(prlimit(qtest_pid(primary->qts), RLIMIT_FSIZE, &r, NULL),
                    ==, 0);
}

static int nbd_flush(int fd)
{
    colo_nbd_request(fd, 3, 0, 0);
    return colo_nbd_answer(fd);
}

/*
 * The image cannot be written to, and what the log had is lost: the guest
 * learns it whatever it does from then on, also when it goes on alone.
 */
static void test_image_error(void)
{
    g_autofree uint8_t *data = g_malloc(UNIT);
    Shared *s;
    int fd, ret;

    signal(SIGXFSZ, SIG_IGN);   /* QEMU inherits it */
    s = shared_new_started();
    disk_export(s->primary.qts, "topnode", "w", true);
    fd = colo_nbd_client(s->primary.server, 'w');
    memset(data, 0x11, UNIT);
    g_assert_cmpint(colo_nbd_pwrite(fd, data, 0, UNIT), ==, 0);
    g_assert_cmpint(nbd_flush(fd), ==, 0);
    disk_wait_file(s->image, 0x11, 0, UNIT);

    limit_files(&s->primary, 8 * MiB);
    /* It is in the log, and by the time of the answer maybe lost already */
    ret = colo_nbd_pwrite(fd, data, 12 * MiB, UNIT);
    g_assert_true(!ret || ret == ENOSPC);
    side_wait_error(&s->primary);
    limit_files(&s->primary, RLIM_INFINITY);
    g_assert_cmpint(colo_nbd_pwrite(fd, data, MiB, UNIT), !=, 0);
    g_assert_cmpint(nbd_flush(fd), !=, 0);

    disk_failover(s->primary.qts, true);
    g_assert_cmpint(colo_nbd_pwrite(fd, data, MiB, UNIT), !=, 0);
    g_assert_cmpint(nbd_flush(fd), !=, 0);
    g_assert_true(disk_file_has(s->image, 0, MiB, UNIT));
    side_read(&s->primary, 0x11, 0, UNIT);
    close(fd);
    shared_free(s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    qtest_add_func("/colo/shared/failover/secondary", test_failover_secondary);
    qtest_add_func("/colo/shared/failover/primary", test_failover_primary);
    qtest_add_func("/colo/shared/failover/again", test_again);
    qtest_add_func("/colo/shared/stands/secondary", test_secondary_stands);
    qtest_add_func("/colo/shared/stands/quit", test_quit);
    qtest_add_func("/colo/shared/stop", test_stop);
    qtest_add_func("/colo/shared/next-session", test_next_session);
    qtest_add_func("/colo/shared/image-error", test_image_error);
    return g_test_run();
}
