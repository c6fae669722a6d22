/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: the disks of two QEMUs, with NBD between them.
 *
 * No guest runs, the monitor writes in its place; xen-set-replication starts
 * and stops.  Proves: what the primary writes is on the secondary's disk, but
 * the secondary's guest sees it only from the next checkpoint on; a failover
 * brings what the secondary's guest saw into the disk, shuts the primary out
 * first, and waits for no primary that has stopped in the middle; a secondary
 * that is gone or stands still costs the primary's guest nothing but time, and
 * keeps nobody from draining or removing; mistakes have clear errors.
 *
 * Each test is run twice: each write is a request of NBD, and in batches.
 */

#include "qemu/osdep.h"
#include <sys/socket.h>
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "libqos/libqos.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-nbd.h"

/* Of this test: is what the primary writes to a sink? */
static bool batch;

typedef struct Disks {
    char *dir;
    char *primary_raw;
    char *secondary_raw;
    char *active;
    char *hidden;
    char *spare_a;              /* overlays that are not in use */
    char *spare_b;
    char *primary_socket;
    char *secondary_socket;
    QTestState *primary;
    QTestState *secondary;
} Disks;

static QTestState *start_secondary(const char *raw, const char *active,
                                   const char *hidden, const char *server)
{
    QTestState *qts = qtest_initf(
        ">/dev/null -M none -nodefaults "
        "-blockdev driver=raw,node-name=disk,discard=unmap,"
        "file.driver=file,file.filename=%s,file.discard=unmap "
        "-blockdev driver=qcow2,node-name=active,file.driver=file,"
        "file.filename=%s,backing.driver=qcow2,backing.node-name=hidden,"
        "backing.file.driver=file,backing.file.filename=%s,"
        "backing.backing=disk "
        "-drive if=none,id=top,node-name=topnode,driver=quorum,"
        "read-pattern=fifo,vote-threshold=1,children.0.driver=replication,"
        "children.0.node-name=repl,children.0.mode=secondary,"
        "children.0.top-id=top,children.0.file=active",
        raw, active, hidden);

    disk_export_top(qts, server);
    if (batch) {
        qtest_qmp_assert_success(qts,
            "{'execute': 'blockdev-add', 'arguments': {'driver': "
            "'replication-sink', 'node-name': 'sink', 'file': 'disk'}}");
    }
    qtest_qmp_assert_success(qts,
        "{'execute': 'block-export-add', 'arguments': {'type': 'nbd', "
        "'id': 'e0', 'node-name': %s, 'name': 'd', 'writable': true}}",
        batch ? "sink" : "disk");
    return qts;
}

static Disks *disks_new(void)
{
    Disks *d = g_new0(Disks, 1);

    disk_deadline_begin();
    d->dir = g_dir_make_tmp("colo-disk-XXXXXX", NULL);
    g_assert_nonnull(d->dir);
    d->primary_raw = disk_new_file(d->dir, "primary", false);
    d->secondary_raw = disk_new_file(d->dir, "secondary", false);
    d->active = disk_new_file(d->dir, "active", true);
    d->hidden = disk_new_file(d->dir, "hidden", true);
    d->spare_a = disk_new_file(d->dir, "spare-a", true);
    d->spare_b = disk_new_file(d->dir, "spare-b", true);
    d->primary_socket = g_build_filename(d->dir, "nbd-primary", NULL);
    d->secondary_socket = g_build_filename(d->dir, "nbd-secondary", NULL);
    d->secondary = start_secondary(d->secondary_raw, d->active, d->hidden,
                                   d->secondary_socket);
    d->primary = qtest_initf(
        ">/dev/null -M none -nodefaults "
        "-drive if=none,id=top,node-name=topnode,driver=quorum,"
        "read-pattern=fifo,vote-threshold=1,discard=unmap,"
        "children.0.driver=raw,children.0.node-name=local,"
        "children.0.discard=unmap,children.0.file.driver=file,"
        "children.0.file.filename=%s", d->primary_raw);
    disk_export_top(d->primary, d->primary_socket);
    return d;
}

static void disks_free(Disks *d)
{
    char *paths[] = { d->primary_raw, d->secondary_raw, d->active, d->hidden,
                      d->spare_a, d->spare_b, d->primary_socket,
                      d->secondary_socket };

    if (d->primary) {
        colo_quit(&d->primary);
    }
    if (d->secondary) {
        colo_quit(&d->secondary);
    }
    for (int i = 0; i < ARRAY_SIZE(paths); i++) {
        unlink(paths[i]);
        g_free(paths[i]);
    }
    rmdir(d->dir);
    g_free(d->dir);
    g_free(d);
    disk_deadline_end();
}

/* Commands */

static void add_node_to(QTestState *qts, const char *name, const char *more,
                        const char *server)
{
    g_autofree char *json = g_strdup_printf(
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication', "
        "'node-name': %%s, 'mode': 'primary', 'batch': %%i%s, 'file': {"
        "'driver': 'nbd', 'export': 'd', 'server': {'type': 'unix', "
        "'path': %%s}}}}", more);

    qtest_qmp_assert_success(qts, json, name, batch, server);
}

static void add_node(Disks *d, const char *more)
{
    add_node_to(d->primary, "repl", more, d->secondary_socket);
}

static void del_node(QTestState *qts)
{
    disk_del_child(qts, "top", "children.1");
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-del', "
                             "'arguments': {'node-name': 'repl'}}");
}

/* Both sides replicate; the primary's node has @more options */
static void connect_disks(Disks *d, const char *more)
{
    add_node(d, more);
    disk_add_child(d->primary, "top", "repl");
    disk_replicate(d->secondary, true, false);
    disk_replicate(d->primary, true, true);
}

/* What the guest of @qts reads has to be this */
static void io_read(Disks *d, QTestState *qts, int byte, int64_t offset,
                    int64_t bytes)
{
    disk_read(qts == d->primary ? d->primary_socket : d->secondary_socket,
              byte, offset, bytes);
}

/* Is the disk still exported?  What only reads is. */
static bool has_exports(QTestState *qts)
{
    QDict *answer = qtest_qmp(qts, "{'execute': 'query-block-exports'}");
    size_t n = qlist_size(qdict_get_qlist(answer, "return"));

    qobject_unref(answer);
    g_assert_cmpint(n, >=, 1);
    return n > 1;
}

/* The tests */

static void test_checkpoint(void)
{
    Disks *d = disks_new();

    connect_disks(d, "");
    disk_write(d->primary, 0x11, 0, 256 * KiB);
    disk_wait_file(d->secondary_raw, 0x11, 0, 256 * KiB);
    io_read(d, d->primary, 0x11, 0, 256 * KiB);
    io_read(d, d->secondary, 0, 0, 256 * KiB);
    disk_write(d->secondary, 0x22, 64 * KiB, 64 * KiB);
    disk_write(d->secondary, 0x22, MiB, 64 * KiB);
    io_read(d, d->secondary, 0x22, MiB, 64 * KiB);
    g_assert_true(disk_file_has(d->secondary_raw, 0, MiB, 64 * KiB));
    disk_checkpoint(d->primary, d->secondary);
    io_read(d, d->secondary, 0x11, 0, 256 * KiB);
    io_read(d, d->secondary, 0, MiB, 64 * KiB);

    /* All over again: the same blocks are copied a second time */
    disk_write(d->primary, 0x33, 0, 64 * KiB);
    disk_wait_file(d->secondary_raw, 0x33, 0, 64 * KiB);
    io_read(d, d->secondary, 0x11, 0, 256 * KiB);
    disk_checkpoint(d->primary, d->secondary);
    io_read(d, d->secondary, 0x33, 0, 64 * KiB);
    g_assert_false(disk_has_error(d->primary));
    g_assert_false(disk_has_error(d->secondary));
    disk_wait_same(d->primary_raw, d->secondary_raw);
    disks_free(d);
}

/* What is written before replication starts arrives, too */
static void test_before_start(void)
{
    Disks *d = disks_new();

    add_node(d, "");
    disk_add_child(d->primary, "top", "repl");
    disk_write(d->primary, 0x44, 0, 64 * KiB);
    disk_wait_file(d->secondary_raw, 0x44, 0, 64 * KiB);
    disk_replicate(d->secondary, true, false);
    disk_replicate(d->primary, true, true);
    io_read(d, d->secondary, 0x44, 0, 64 * KiB);
    disks_free(d);
}

static void test_kinds(void)
{
    Disks *d = disks_new();

    connect_disks(d, ", 'discard': 'unmap'");
    disk_write(d->primary, 0x55, 0, 4 * MiB);
    disk_io(d->primary, "write -z 64k 1M");
    disk_io(d->primary, "discard 2M 1M");
    disk_io(d->primary, "write -P 0x66 -f 3500k 512");
    disk_wait_file(d->secondary_raw, 0x66, 3500 * KiB, 512);
    g_assert_true(disk_file_has(d->secondary_raw, 0, 64 * KiB, MiB));
    io_read(d, d->secondary, 0, 0, 4 * MiB);
    /* A sink discards after the checkpoint */
    disk_checkpoint(d->primary, d->secondary);
    disk_wait_same(d->primary_raw, d->secondary_raw);
    g_assert_true(disk_file_has(d->secondary_raw, 0, 2 * MiB, MiB));
    disks_free(d);
}

/* Whatever arrives while the secondary's guest reads, it reads what was */
static void test_reads(void)
{
    Disks *d = disks_new();

    connect_disks(d, "");
    for (int round = 1; round <= 4; round++) {
        disk_write(d->primary, round, 0, 4 * MiB);
        disk_wait_file(d->secondary_raw, round, 0, 4 * MiB);
        disk_checkpoint(d->primary, d->secondary);
        for (int i = 0; i < 64; i++) {
            int64_t offset = g_test_rand_int_range(0, 7000) * 512;

            disk_io(d->primary, "aio_write -P %d %" PRId64 " 256k", 100 + i,
               offset);
            io_read(d, d->secondary, round, offset, 256 * KiB);
            io_read(d, d->secondary, round, 0, 4 * MiB);
        }
        /* Writes in flight at the same time have no order */
        disk_io(d->primary, "aio_flush");
    }
    disks_free(d);
}

static void test_random(void)
{
    Disks *d = disks_new();

    connect_disks(d, ", 'log-size': 4194304");
    for (int i = 0; i < 300; i++) {
        int64_t offset = g_test_rand_int_range(0, DISK / 512 - 2048) * 512LL;

        disk_write(d->primary, g_test_rand_int_range(1, 256), offset,
                 g_test_rand_int_range(1, 2048) * 512LL);
        if (i % 50 == 49) {
            disk_write(d->primary, i % 256, DISK - 512, 512);
            disk_write(d->secondary, 1, offset, 512);
            disk_wait_file(d->secondary_raw, i % 256, DISK - 512, 512);
            disk_checkpoint(d->primary, d->secondary);
        }
    }
    disk_wait_same(d->primary_raw, d->secondary_raw);
    disks_free(d);
}

static void test_failover_secondary(void)
{
    Disks *d = disks_new();

    connect_disks(d, "");
    disk_write(d->primary, 0x11, 0, MiB);
    disk_wait_file(d->secondary_raw, 0x11, 0, MiB);
    disk_checkpoint(d->primary, d->secondary);
    disk_write(d->primary, 0x77, 0, 64 * KiB);        /* never committed */
    disk_write(d->secondary, 0x22, 512 * KiB, 64 * KiB);
    disk_wait_file(d->secondary_raw, 0x77, 0, 64 * KiB);
    disk_failover(d->secondary, false);
    g_assert_false(has_exports(d->secondary));
    disk_write(d->secondary, 0x23, 2 * MiB, 64 * KiB);
    disk_wait_no_job(d->secondary);
    disk_check_stage(d->secondary, "folded");
    g_assert_true(disk_file_has(d->secondary_raw, 0x11, 0, 512 * KiB));
    g_assert_true(disk_file_has(d->secondary_raw, 0x22, 512 * KiB, 64 * KiB));
    g_assert_true(disk_file_has(d->secondary_raw, 0x23, 2 * MiB, 64 * KiB));
    disk_write(d->secondary, 0x24, 2 * MiB, 64 * KiB);
    g_assert_true(disk_file_has(d->secondary_raw, 0x24, 2 * MiB, 64 * KiB));
    g_assert_false(disk_has_error(d->secondary));

    /* The primary's guest notices nothing, and the node can go */
    disk_write(d->primary, 0x78, 0, 64 * KiB);
    io_read(d, d->primary, 0x78, 0, 64 * KiB);
    while (!disk_has_error(d->primary)) {
        g_usleep(2000); /* until the alarm */
    }
    disk_check_stage(d->primary, "running");
    disk_failover(d->primary, true);
    disk_check_stage(d->primary, "stopped");
    del_node(d->primary);
    disks_free(d);
}

static void copy_file(const char *from, const char *to)
{
    g_autofree char *data = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(from, &data, &len, NULL));
    g_assert_true(g_file_set_contents(to, data, len, NULL));
}

/* The survivor becomes the primary of a new secondary, and that survives */
static void test_again(void)
{
    Disks *d = disks_new();
    g_autofree char *raw = disk_new_file(d->dir, "third", false);
    g_autofree char *server = g_build_filename(d->dir, "nbd-third", NULL);
    QTestState *third;

    connect_disks(d, "");
    disk_write(d->primary, 0x11, 0, MiB);
    disk_wait_file(d->secondary_raw, 0x11, 0, MiB);
    disk_checkpoint(d->primary, d->secondary);
    colo_kill(&d->primary);
    disk_failover(d->secondary, false);
    disk_wait_no_job(d->secondary);

    copy_file(d->secondary_raw, raw);
    third = start_secondary(raw, d->spare_a, d->spare_b, server);
    add_node_to(d->secondary, "repl2", "", server);
    disk_add_child(d->secondary, "top", "repl2");
    disk_replicate(third, true, false);
    disk_replicate(d->secondary, true, true);
    disk_write(d->secondary, 0x22, MiB, MiB);
    disk_wait_file(raw, 0x22, MiB, MiB);
    disk_write(third, 0x33, 2 * MiB, MiB);
    qtest_qmp_assert_success(d->secondary,
                             "{'execute': 'xen-colo-do-checkpoint'}");
    qtest_qmp_assert_success(third, "{'execute': 'xen-colo-do-checkpoint'}");
    disk_write(third, 0x44, 3 * MiB, MiB);
    g_assert_false(disk_has_error(d->secondary));
    g_assert_false(disk_has_error(third));
    colo_kill(&d->secondary);
    disk_failover(third, false);
    disk_wait_no_job(third);
    g_assert_true(disk_file_has(raw, 0x11, 0, MiB));
    g_assert_true(disk_file_has(raw, 0x22, MiB, MiB));
    g_assert_true(disk_file_has(raw, 0, 2 * MiB, MiB));
    g_assert_true(disk_file_has(raw, 0x44, 3 * MiB, MiB));
    colo_quit(&third);
    unlink(raw);
    unlink(server);
    disks_free(d);
}

static void test_failover_primary(void)
{
    Disks *d = disks_new();

    connect_disks(d, "");
    disk_write(d->primary, 0x11, 0, MiB);
    colo_kill(&d->secondary);
    for (int i = 0; i < 100; i++) {
        disk_write(d->primary, i, i * 64 * KiB, 64 * KiB);
    }
    while (!disk_has_error(d->primary)) {
        g_usleep(2000); /* until the alarm */
    }
    disk_failover(d->primary, true);
    g_assert_false(disk_has_error(d->primary));
    del_node(d->primary);
    disk_write(d->primary, 0x12, 0, MiB);
    io_read(d, d->primary, 0x12, 0, MiB);
    disks_free(d);
}

/*
 * The secondary stands still and the log is full.  First the disk alone is
 * drained (by the removal of the device), then all, then the node removed.
 */
static void test_secondary_stands(void)
{
    Disks *d = disks_new();
    int64_t begin;
    pid_t pid;

    connect_disks(d, ", 'log-size': 4194304");
    disk_write(d->primary, 1, 0, MiB);
    while (disk_log_number(d->primary, "sent-bytes") < MiB) {
        g_usleep(2000); /* the answer has to be here, not only the data there */
    }
    pid = qtest_pid(d->secondary);
    g_assert_cmpint(kill(pid, SIGSTOP), ==, 0);
    begin = g_get_monotonic_time();
    for (int i = 0; i < 10; i++) {
        disk_io(d->primary, "aio_write -P %d %dM 1M", i + 2, i);
    }
    disk_io(d->primary, "aio_flush");
    disk_check_time(begin);
    g_assert_cmpint(disk_log_number(d->primary, "limit"), ==, 4 * MiB);
    g_assert_cmpint(disk_log_number(d->primary, "peak"), >, 4 * MiB);
    g_assert_cmpint(disk_log_number(d->primary, "bytes"), >, 4 * MiB);
    g_assert_cmpint(disk_log_number(d->primary, "sent-bytes"), ==, MiB);
    g_assert_cmpint(disk_log_number(d->primary, "throttled-ns"), >, 0);

    for (int i = 0; i < 10; i++) {
        disk_io(d->primary, "aio_write -P %d %dM 1M", i + 20, i);
    }
    qtest_qmp_assert_success(d->primary, "{'execute': 'stop'}");
    disk_check_time(begin);
    for (int i = 0; i < 10; i++) {
        g_assert_true(disk_file_has(d->primary_raw, i + 20, i * MiB, MiB));
    }
    for (int i = 0; i < 5; i++) {
        disk_io(d->primary, "aio_write -P %d %dM 1M", i + 40, i);
    }
    del_node(d->primary);
    disk_check_time(begin);
    for (int i = 0; i < 5; i++) {
        g_assert_true(disk_file_has(d->primary_raw, i + 40, i * MiB, MiB));
    }
    colo_quit(&d->primary);
    disk_check_time(begin);
    g_assert_cmpint(kill(pid, SIGCONT), ==, 0);
    disks_free(d);
}

/* As above, and the primary is just ended */
static void test_quit(void)
{
    Disks *d = disks_new();
    int64_t begin;
    pid_t pid;

    connect_disks(d, ", 'log-size': 4194304");
    pid = qtest_pid(d->secondary);
    g_assert_cmpint(kill(pid, SIGSTOP), ==, 0);
    begin = g_get_monotonic_time();
    for (int i = 0; i < 10; i++) {
        disk_io(d->primary, "aio_write -P %d %dM 1M", i + 2, i);
    }
    colo_quit(&d->primary);
    disk_check_time(begin);
    g_assert_cmpint(kill(pid, SIGCONT), ==, 0);
    /* And a secondary that was never stopped */
    disks_free(d);
}

/* A primary stops in the middle of a write; later it goes on */
static void test_primary_stands(void)
{
    Disks *d = disks_new();
    g_autofree char *data = g_malloc(MiB);
    int64_t begin;
    int fd;

    memset(data, 0x88, MiB);
    disk_replicate(d->secondary, true, false);
    fd = colo_nbd_client(d->secondary_socket, 'd');
    colo_nbd_request(fd, 1, 0, 64 * KiB);
    colo_nbd_write(fd, data, 64 * KiB);
    disk_wait_file(d->secondary_raw, 0x88, 0, 64 * KiB);
    colo_nbd_request(fd, 1, 64 * KiB, MiB);
    colo_nbd_write(fd, data, 5000);

    begin = g_get_monotonic_time();
    disk_failover(d->secondary, false);
    disk_check_time(begin);
    g_assert_false(has_exports(d->secondary));
    g_assert_cmpint(send(fd, data, 5000, MSG_NOSIGNAL), <, 0);
    disk_wait_no_job(d->secondary);
    g_assert_true(disk_file_has(d->secondary_raw, 0, 0, 2 * MiB));
    io_read(d, d->secondary, 0, 0, 2 * MiB);
    close(fd);
    disks_free(d);
}

/* What has come in part is of the next epoch, and goes on then */
static void test_checkpoint_part(void)
{
    Disks *d = disks_new();
    g_autofree char *data = g_malloc(MiB);
    int fd;

    memset(data, 0x99, MiB);
    disk_replicate(d->secondary, true, false);
    fd = colo_nbd_client(d->secondary_socket, 'd');
    colo_nbd_request(fd, 1, 64 * KiB, MiB);
    colo_nbd_write(fd, data, 5000);
    colo_nbd_wait_taken(fd);
    qtest_qmp_assert_success(d->secondary,
                             "{'execute': 'xen-colo-do-checkpoint'}");
    g_assert_true(disk_file_has(d->secondary_raw, 0, 0, 2 * MiB));
    colo_nbd_write(fd, data + 5000, MiB - 5000);
    g_assert_cmpint(colo_nbd_answer(fd), ==, 0);
    g_assert_true(disk_file_has(d->secondary_raw, 0x99, 64 * KiB, MiB));
    io_read(d, d->secondary, 0, 0, 2 * MiB);
    g_assert_false(disk_has_error(d->secondary));
    close(fd);
    disks_free(d);
}

/* A request does not end: nobody reads the answer */
static void test_checkpoint_disturbed(void)
{
    Disks *d = disks_new();
    int64_t begin;
    int fd;

    disk_replicate(d->secondary, true, false);
    fd = colo_nbd_client(d->secondary_socket, 'd');
    colo_nbd_request(fd, 0, 0, 8 * MiB);
    colo_nbd_wait_taken(fd);
    begin = g_get_monotonic_time();
    colo_refused(d->secondary, "not ended within",
                 "{'execute': 'xen-colo-do-checkpoint'}");
    disk_check_time(begin);
    g_assert_true(disk_has_error(d->secondary));
    disk_failover(d->secondary, false);
    disk_wait_no_job(d->secondary);
    close(fd);
    disks_free(d);
}

/* An orderly stop throws the secondary's own writes away */
static void test_stop(void)
{
    Disks *d = disks_new();

    connect_disks(d, "");
    disk_write(d->primary, 0x11, 0, MiB);
    disk_wait_file(d->secondary_raw, 0x11, 0, MiB);
    disk_write(d->secondary, 0x22, 0, 64 * KiB);
    disk_replicate(d->primary, false, true);
    disk_replicate(d->secondary, false, false);
    io_read(d, d->secondary, 0x11, 0, MiB);
    disk_replicate(d->secondary, true, false);
    io_read(d, d->secondary, 0x11, 0, MiB);
    disk_replicate(d->secondary, false, false);
    colo_refused(d->primary, "is stopped and cannot start",
                 "{'execute': 'xen-set-replication', 'arguments': {"
                 "'enable': true, 'primary': true}}");
    disks_free(d);
}

/* Whatever is wrong is said before anything happens */
static void test_refused(void)
{
    static const char *const options[][2] = {
        { "'mode': 'primary', 'top-id': 'top'", "option of the secondary" },
        { "'mode': 'secondary'", "needs 'top-id'" },
        { "'mode': 'secondary', 'top-id': 'top', 'log-size': 4194304",
          "option of the primary" },
        { "'mode': 'primary', 'log-size': 4194303", "has to be from" },
        { "'mode': 'primary', 'log-size': 4294967297", "has to be from" },
    };
    Disks *d = disks_new();

    for (int i = 0; i < ARRAY_SIZE(options); i++) {
        g_autofree char *json = g_strdup_printf(
            "{'execute': 'blockdev-add', 'arguments': {"
            "'driver': 'replication', 'node-name': 'r', %s, "
            "'file': {'driver': 'null-co', 'read-zeroes': true}}}",
            options[i][0]);

        colo_refused(d->primary, options[i][1], json, NULL);
    }
    colo_refused(d->primary, "reconnect-delay",
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication', "
        "'node-name': 'repl', 'mode': 'primary', 'file': {'driver': 'nbd', "
        "'export': 'd', 'reconnect-delay': 5, "
        "'server': {'type': 'unix', 'path': %s}}}}", d->secondary_socket);
    colo_refused(d->primary, "between the NBD client and",
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication', "
        "'node-name': 'repl', 'mode': 'primary', 'file': {'driver': 'raw', "
        "'file': {'driver': 'nbd', 'export': 'd', "
        "'server': {'type': 'unix', 'path': %s}}}}}", d->secondary_socket);
    colo_refused(d->secondary, "cannot start as the primary",
                 "{'execute': 'xen-set-replication', 'arguments': {"
                 "'enable': true, 'primary': true}}");
    add_node(d, "");
    colo_refused(d->primary, "cannot start as the secondary",
                 "{'execute': 'xen-set-replication', 'arguments': {"
                 "'enable': true, 'primary': false}}");
    disks_free(d);
}

/* Chains that are wrong are refused at the start */
static void test_wrong_chain(void)
{
    Disks *d = disks_new();

    qtest_qmp_assert_success(d->primary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication', "
        "'node-name': 'repl', 'mode': 'primary', 'file': {"
        "'driver': 'null-co', 'size': 8388608}}}");
    colo_refused(d->primary, "'repl' has 8388608 bytes, but the children of "
                 "'top' have 16777216", "{'execute': 'x-blockdev-change', "
                 "'arguments': {'parent': 'top', 'node': 'repl'}}");
    qtest_qmp_assert_success(d->primary, "{'execute': 'blockdev-del', "
                             "'arguments': {'node-name': 'repl'}}");

    qtest_qmp_assert_success(d->primary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication', "
        "'node-name': 'repl', 'mode': 'secondary', 'top-id': 'top', 'file': {"
        "'driver': 'null-co', 'size': 16777216}}}");
    colo_refused(d->primary, "has to be an overlay over another one",
                 "{'execute': 'xen-set-replication', 'arguments': {"
                 "'enable': true, 'primary': false}}");
    disks_free(d);
}

/* The top has to be above the node */
static void test_wrong_top(void)
{
    Disks *d = disks_new();

    qtest_qmp_assert_success(d->primary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication', "
        "'node-name': 'repl', 'mode': 'secondary', 'top-id': 'top', 'file': {"
        "'driver': 'qcow2', 'file': {'driver': 'file', 'filename': %s}, "
        "'backing': {'driver': 'qcow2', 'file': {'driver': 'file', "
        "'filename': %s}, 'backing': {'driver': 'null-co', "
        "'size': 16777216, 'read-zeroes': true, 'read-only': false}}}}}",
        d->spare_a, d->spare_b);
    colo_refused(d->primary, "is not above the node",
                 "{'execute': 'xen-set-replication', 'arguments': {"
                 "'enable': true, 'primary': false}}");
    disks_free(d);
}

static void refuse_active(QTestState *qts, const char *node, bool active)
{
    colo_refused(qts, "says when it is active", "{'execute': "
                 "'blockdev-set-active', 'arguments': {'node-name': %s, "
                 "'active': %i}}", node, active);
    colo_refused(qts, "says when it is active", "{'execute': "
                 "'blockdev-set-active', 'arguments': {'active': %i}}", active);
}

static void refuse_resize(QTestState *qts, const char *node)
{
    colo_refused(qts, "both sides keep its length", "{'execute': "
                 "'block_resize', 'arguments': {'node-name': %s, "
                 "'size': %d}}", node, (int)(2 * DISK));
}

/* While a disk is being replicated its nodes stay what they are */
static void test_kept(void)
{
    Disks *d = disks_new();
    g_autofree char *snapshot = g_build_filename(d->dir, "snapshot", NULL);

    connect_disks(d, "");
    refuse_active(d->primary, "topnode", false);
    refuse_active(d->primary, "local", false);
    refuse_active(d->secondary, "active", true);
    refuse_active(d->secondary, batch ? "sink" : "disk", false);
    refuse_resize(d->primary, "local");
    refuse_resize(d->secondary, "active");
    colo_refused(d->primary, "no other image on this side", "{'execute': "
                 "'x-blockdev-change', 'arguments': {'parent': 'top', "
                 "'child': 'children.0'}}");
    if (batch) {
        refuse_resize(d->secondary, "sink");
        /* It would keep what the primary sends from the disk */
        colo_refused(d->secondary, "no snapshot or job", "{'execute': "
                     "'blockdev-snapshot-sync', 'arguments': {'node-name': "
                     "'sink', 'snapshot-file': %s, 'snapshot-node-name': "
                     "'snap'}}", snapshot);
    }
    disk_write(d->primary, 0x77, 0, 64 * KiB);
    disk_wait_file(d->secondary_raw, 0x77, 0, 64 * KiB);
    disk_checkpoint(d->primary, d->secondary);
    io_read(d, d->secondary, 0x77, 0, 64 * KiB);
    disk_replicate(d->primary, false, true);
    disk_replicate(d->secondary, false, false);
    del_node(d->primary);
    qtest_qmp_assert_success(d->primary, "{'execute': 'blockdev-set-active', "
                             "'arguments': {'node-name': 'local', "
                             "'active': true}}");
    disks_free(d);
}

/* What QEMU looks at before it writes to a file: one that shares no writes */
static int lock_file(const char *path)
{
    struct flock lock = {
        .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 201, .l_len = 1,
    };
    int fd = open(path, O_RDONLY);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(fcntl(fd, F_OFD_SETLK, &lock), ==, 0);
    return fd;
}

/* One of two disks cannot start: neither does */
static void test_partly(void)
{
    Disks *d = disks_new();
    int fd;

    qtest_qmp_assert_success(d->secondary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'null-co', "
        "'node-name': 'other', 'size': %d, 'read-zeroes': true}}", (int)DISK);
    qtest_qmp_assert_success(d->secondary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication', "
        "'node-name': 'second', 'mode': 'secondary', 'top-id': 'second', "
        "'file': {'driver': 'qcow2', 'file': {'driver': 'file', "
        "'filename': %s}, 'backing': {'driver': 'qcow2', 'file': {"
        "'driver': 'file', 'filename': %s}, 'backing': 'other'}}}}",
        d->spare_a, d->spare_b);
    fd = lock_file(d->hidden);
    disk_start_refused(d->secondary, false, "lock");
    close(fd);
    disk_replicate(d->secondary, true, false);
    disk_check_stage(d->secondary, "running");
    disks_free(d);
}

typedef struct Test {
    const char *name;
    void (*run)(void);
} Test;

static const Test tests[] = {
    { "checkpoint", test_checkpoint },
    { "before-start", test_before_start },
    { "kinds", test_kinds },
    { "reads", test_reads },
    { "random", test_random },
    { "failover/secondary", test_failover_secondary },
    { "failover/primary", test_failover_primary },
    { "failover/again", test_again },
    { "stands/secondary", test_secondary_stands },
    { "stands/quit", test_quit },
    { "stands/primary", test_primary_stands },
    { "stands/part", test_checkpoint_part },
    { "stands/checkpoint", test_checkpoint_disturbed },
    { "stop", test_stop },
    { "refused", test_refused },
    { "partly", test_partly },
    { "wrong-chain", test_wrong_chain },
    { "wrong-top", test_wrong_top },
    { "kept", test_kept },
};

static void run_plain(const void *opaque)
{
    const Test *test = opaque;

    batch = false;
    test->run();
}

static void run_batch(const void *opaque)
{
    const Test *test = opaque;

    batch = true;
    test->run();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    for (int i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *plain = g_strdup_printf("/colo/disk/plain/%s",
                                                 tests[i].name);
        g_autofree char *many = g_strdup_printf("/colo/disk/batch/%s",
                                                tests[i].name);

        qtest_add_data_func(plain, &tests[i], run_plain);
        qtest_add_data_func(many, &tests[i], run_batch);
    }
    return g_test_run();
}
