/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: why a session believes that two disks are equal.
 *
 * Pairs without a guest, and a disk of which the secondary's image is exported
 * as it is.  Proves: without a resync an image that is empty, or that of another
 * guest, is no secondary's disk, and the guest goes on as if nothing had been
 * asked for; a copy is one, and two empty images are, with a problem that says
 * that nobody knows; what was written to both before a session is no difference;
 * after a resync there is no such problem; no resync and no node for replication
 * begins in a session; a secondary whose disk is newer is none, whatever the
 * primary knows; a disk that is slow makes the sample smaller, and one that
 * hangs, here or there, holds no monitor and ends the attempt.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-pair-disk.h"

#define CHUNK (64 * KiB)
#define DIFFER "and that of the secondary differ"
#define ASSUMED "is assumed to be equal"

typedef struct Equal {
    ColoPair *pair;
    char *raw[2];
    char *active;
    char *hidden;
    char *socket;
    int iops[2];                /* how fast an image is read, or 0 */
} Equal;

static Equal *equal_new_with(const void *mode, const char *accel)
{
    Equal *e = g_new0(Equal, 1);
    ColoPair *p = colo_pair_new_with(mode, accel, "");

    e->pair = p;
    colo_pair_unplug_net(p);
    e->raw[0] = disk_new_file(p->dir, "image-0", false);
    e->raw[1] = disk_new_file(p->dir, "image-1", false);
    e->active = disk_new_file(p->dir, "active", true);
    e->hidden = disk_new_file(p->dir, "hidden", true);
    e->socket = g_build_filename(p->dir, "nbd", NULL);
    return e;
}

static Equal *equal_new(const void *mode)
{
    return equal_new_with(mode, "qtest");
}

/*
 * Node "slow0" is node @below, but not read as fast.  0: no limit.  Without a
 * guest the clock of that stands: what is over the limit is never read.
 */
static void add_slow(QTestState *qts, const char *below, int iops)
{
    qtest_qmp_assert_success(qts, "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'throttle-group', 'id': 'group0',"
        "'limits': {'iops-read': %d}}}", iops);
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-add', 'arguments': {"
        "'driver': 'throttle', 'node-name': 'slow0', 'discard': 'unmap',"
        "'throttle-group': 'group0', 'file': %s}}", below);
}

static void add_local(Equal *e)
{
    QTestState *qts = e->pair->primary;

    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-add', 'arguments': {"
        "'driver': 'raw', 'node-name': 'local0', 'discard': 'unmap', 'file': {"
        "'driver': 'file', 'discard': 'unmap', 'filename': %s}}}", e->raw[0]);
    add_slow(qts, "local0", e->iops[0]);
}

/* From here on both QEMUs have the images open */
static void connect_disks(Equal *e)
{
    ColoPair *p = e->pair;

    pair_disk_add_secondary(p->secondary, e->raw[1], e->active, e->hidden);
    add_slow(p->secondary, "image0", e->iops[1]);
    add_local(e);
    pair_disk_replicate(p, "slow0", "slow0", e->socket);
}

static void equal_free(Equal *e)
{
    colo_pair_free(e->pair);
    g_free(e->raw[0]);
    g_free(e->raw[1]);
    g_free(e->active);
    g_free(e->hidden);
    g_free(e->socket);
    g_free(e);
}

/* @bytes of @byte in the image of a side */
static void fill(Equal *e, int side, int byte, int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *data = g_malloc(bytes);
    int fd = open(e->raw[side], O_WRONLY);

    memset(data, byte, bytes);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pwrite(fd, data, bytes, offset), ==, bytes);
    close(fd);
}

static int n_assumed(QTestState *qts)
{
    QDict *status = colo_status(qts);
    QListEntry *entry;
    int n = 0;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(status, "problems"), entry) {
        QDict *p = qobject_to(QDict, qlist_entry_obj(entry));

        n += !strcmp(qdict_get_str(p, "kind"), "disk") &&
             strstr(qdict_get_str(p, "message"), ASSUMED);
    }
    qobject_unref(status);
    return n;
}

/* What the session did is none, and the guest of the primary goes on */
static void check_refused(Equal *e)
{
    ColoPair *p = e->pair;
    QDict *event;
    const char *said;

    colo_pair_migrate(p, "mig", "mig", 10, COLO_TIMEOUT_MS);
    event = colo_wait_event(p->primary, "COLO_DISK_ERROR");
    said = qdict_get_str(qdict_get_qdict(event, "data"), "message");
    g_test_message("%s", said);
    g_assert_nonnull(strstr(said, DIFFER));
    qobject_unref(event);
    colo_wait_state(p->primary, "alone");
    colo_wait_migrate(p->primary, "failed");
    colo_wait_status(p->primary, "running");
    colo_wait_state(p->secondary, "ended");
}

static void check_begins(Equal *e, int problems)
{
    QDict *status;

    colo_pair_protect(e->pair);
    status = colo_status(e->pair->primary);
    g_assert_true(qdict_get_bool(status, "protected"));
    qobject_unref(status);
    g_assert_cmpint(n_assumed(e->pair->primary), ==, problems);
    g_assert_cmpint(n_assumed(e->pair->secondary), ==, 0);
}

/* Of the primary's disk one chunk has data, anywhere */
static void test_forgotten(const void *mode)
{
    Equal *e = equal_new(mode);
    int64_t place = g_test_rand_int_range(8, (DISK - MiB) / CHUNK);

    fill(e, 0, 0x4f, place * CHUNK, CHUNK);
    connect_disks(e);
    check_refused(e);
    equal_free(e);
}

/* What the secondary has is that of an old pair */
static void test_other(const void *mode)
{
    Equal *e = equal_new(mode);

    fill(e, 1, 0x4e, DISK / 2, DISK / 4);
    connect_disks(e);
    check_refused(e);
    equal_free(e);
}

/* A table at the very end, which not many write to */
static void test_end(const void *mode)
{
    Equal *e = equal_new(mode);

    fill(e, 0, 1, 0, DISK);
    fill(e, 1, 1, 0, DISK - 512);
    connect_disks(e);
    check_refused(e);
    equal_free(e);
}

static void test_copied(const void *mode)
{
    Equal *e = equal_new(mode);

    for (int i = 0; i < 2; i++) {
        fill(e, i, 0x4f, MiB, 3 * MiB);
        fill(e, i, 0x50, DISK - CHUNK, CHUNK);
    }
    connect_disks(e);
    check_begins(e, 1);
    equal_free(e);
}

static void test_empty(const void *mode)
{
    Equal *e = equal_new(mode);

    connect_disks(e);
    check_begins(e, 1);
    equal_free(e);
}

/* Both get what is written before the session, and so they are equal */
static void test_written(const void *mode)
{
    Equal *e = equal_new(mode);

    connect_disks(e);
    disk_io_at(e->pair->primary, "-d /machine/peripheral/disk9/virtio-backend",
               "write -P 7 0 1M");
    check_begins(e, 1);
    g_assert_true(disk_file_has(e->raw[1], 7, 0, MiB));
    equal_free(e);
}

/* Before the session: one image has thrown it away, and the other has not */
static void test_discarded(const void *mode)
{
    Equal *e = equal_new(mode);

    for (int i = 0; i < 2; i++) {
        fill(e, i, 0x4f, 0, DISK / 2);
    }
    connect_disks(e);
    disk_io_at(e->pair->primary, "-d /machine/peripheral/disk9/virtio-backend",
               "discard 0 4M");
    g_assert_true(disk_file_has(e->raw[0], 0, 0, 4 * MiB));
    g_assert_true(disk_file_has(e->raw[1], 0x4f, 0, 4 * MiB));
    check_begins(e, 1);
    equal_free(e);
}

static void resync(QTestState *qts)
{
    QDict *event;

    qtest_qmp_assert_success(qts, "{'execute': 'x-colo-resync', 'arguments': {"
                             "'job-id': 'j', 'node': 'repl'}}");
    event = colo_wait_event(qts, "BLOCK_JOB_COMPLETED");
    g_assert_false(qdict_haskey(qdict_get_qdict(event, "data"), "error"));
    qobject_unref(event);
}

static void test_resynced(const void *mode)
{
    Equal *e = equal_new(mode);
    QTestState *qts = e->pair->primary;

    fill(e, 0, 0x4f, MiB, MiB);
    fill(e, 1, 0x4e, 2 * MiB, MiB);
    connect_disks(e);
    resync(qts);
    check_begins(e, 0);

    /* In a session it is too late for either */
    colo_refused(qts, "cannot be resynced", "{'execute': 'x-colo-resync',"
                 "'arguments': {'job-id': 'j', 'node': 'repl'}}");
    colo_refused(qts, "while a COLO session", PAIR_DISK_ADD_NODE, "repl2", e->socket);
    equal_free(e);
}

/*
 * The secondary's disk has gone on alone, and the primary has no node that would
 * know of generations
 */
static void test_newer(const void *mode)
{
    Equal *e = equal_new(mode);
    ColoPair *p = e->pair;
    g_autofree char *file = g_build_filename(p->dir, "generation", NULL);
    QDict *status;

    g_assert_true(g_file_set_contents(file, "colo-disk-generation 4 alone\n",
                                      -1, NULL));
    pair_disk_add_used(p->secondary, e->raw[1], e->active, e->hidden, file);
    add_local(e);
    pair_disk_add_local(p->primary, "slow0");
    colo_pair_migrate(p, "mig", "mig", 10, COLO_TIMEOUT_MS);
    colo_wait_state(p->primary, "alone");
    colo_wait_status(p->primary, "running");
    status = colo_status(p->primary);
    g_assert_nonnull(strstr(qdict_get_str(status, "message"),
                            "the disks of the secondary are newer"));
    qobject_unref(status);
    colo_wait_state(p->secondary, "ended");
    equal_free(e);
}

/* Fewer chunks are read in time; what the guest stands for is bounded */
static void test_slow(const void *mode)
{
    Equal *e = equal_new_with(mode, "tcg");

    e->iops[0] = 300;
    connect_disks(e);
    check_begins(e, 1);
    equal_free(e);
}

/*
 * Wait until QEMU has ended its attempt.  Meanwhile it answers.  A drained
 * section of the secondary may have let all be read, so that there is a session:
 * then it is asked to go on.
 */
static void await_end(QTestState *qts)
{
    int64_t begin = g_get_monotonic_time();
    g_autofree char *state = NULL;
    bool asked = false;

    do {
        QDict *status = colo_status(qts);

        g_free(state);
        state = g_strdup(qdict_get_str(status, "state"));
        qobject_unref(status);
        if (!strcmp(state, "lost") && !asked) {
            colo_failover(qts);
            asked = true;
        }
        disk_check_time(begin);
    } while (strcmp(state, "alone"));
}

/* The disk of the primary */
static void test_hung(const void *mode)
{
    Equal *e = equal_new(mode);
    ColoPair *p = e->pair;
    QDict *status;

    e->iops[0] = 1;
    connect_disks(e);
    colo_pair_migrate(p, "mig", "mig", 10, COLO_TIMEOUT_MS);
    colo_wait_state(p->primary, "starting");
    await_end(p->primary);
    status = colo_status(p->primary);
    g_test_message("%s", qdict_get_str(status, "message"));
    g_assert_nonnull(strstr(qdict_get_str(status, "message"),
                            "disk 'disk9' is slow"));
    qobject_unref(status);
    colo_wait_migrate(p->primary, "failed");
    colo_wait_status(p->primary, "running");
    equal_free(e);
}

/* Eight chunks at two a second; with those that are needed it would be 12 s */
#define RESET_MS 8000
#define RESET_TIMEOUT_MS 30000

/*
 * A reset drains the disk while it is read: it waits for what is in flight, not
 * for all there is to be read
 */
static void test_reset(const void *mode)
{
    Equal *e = equal_new_with(mode, "tcg");
    ColoPair *p = e->pair;
    int64_t begin, took;

    e->iops[0] = 2;
    connect_disks(e);
    colo_pair_migrate(p, "mig", "mig", 10, RESET_TIMEOUT_MS);
    colo_wait_state(p->primary, "starting");
    begin = g_get_monotonic_time();
    qtest_qmp_assert_success(p->primary, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(p->primary, "RESET");
    took = g_get_monotonic_time() - begin;
    g_test_message("reset after %" PRId64 " ms", took / 1000);
    g_assert_cmpint(took, <, RESET_MS * 1000);
    equal_free(e);
}

/* Stopped while the disk is read, which the guest stands for anyway */
static void test_stop(const void *mode)
{
    Equal *e = equal_new(mode);
    ColoPair *p = e->pair;

    e->iops[0] = 1;
    connect_disks(e);
    colo_pair_migrate(p, "mig", "mig", 10, COLO_TIMEOUT_MS);
    colo_wait_state(p->primary, "starting");
    colo_wait_status(p->primary, "finish-migrate");
    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    await_end(p->primary);
    colo_wait_status(p->primary, "paused");
    equal_free(e);
}

/* All has arrived, so both disks are compared */
static void wait_settled(const char *log)
{
    int64_t begin = g_get_monotonic_time();
    g_autofree char *text = NULL;

    do {
        disk_check_time(begin);
        g_free(text);
        g_assert_true(g_file_get_contents(log, &text, NULL, NULL));
    } while (!strstr(text, "replication_settle"));
}

/* The peer goes, or hangs, while its disk is compared, which it never is */
static void peer_goes(const void *mode, int sig)
{
    Equal *e = equal_new(mode);
    ColoPair *p = e->pair;
    g_autofree char *log = g_build_filename(p->dir, "log", NULL);
    int64_t begin;

    e->iops[1] = 1;
    connect_disks(e);
    g_free(qtest_hmp(p->primary, "logfile %s", log));
    g_free(qtest_hmp(p->primary, "trace-event replication_settle on"));
    colo_pair_migrate(p, "mig", "mig", 10, COLO_TIMEOUT_MS);
    colo_wait_status(p->primary, "running");
    wait_settled(log);
    g_assert_cmpint(kill(qtest_pid(p->secondary), sig), ==, 0);
    begin = g_get_monotonic_time();
    if (sig == SIGSTOP) {
        colo_failover(p->primary);
    }
    await_end(p->primary);
    disk_del_child(p->primary, "disk0", "children.1");
    qtest_qmp_assert_success(p->primary, "{'execute': 'blockdev-del',"
                             "'arguments': {'node-name': 'repl'}}");
    disk_check_time(begin);
    colo_kill(&p->secondary);
    equal_free(e);
}

static void test_killed(const void *mode)
{
    peer_goes(mode, SIGKILL);
}

static void test_stopped(const void *mode)
{
    peer_goes(mode, SIGSTOP);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    colo_add("/colo/equal", "forgotten", test_forgotten);
    colo_add("/colo/equal", "other", test_other);
    colo_add("/colo/equal", "end", test_end);
    colo_add("/colo/equal", "copied", test_copied);
    colo_add("/colo/equal", "empty", test_empty);
    colo_add("/colo/equal", "written", test_written);
    colo_add("/colo/equal", "discarded", test_discarded);
    colo_add("/colo/equal", "resynced", test_resynced);
    colo_add("/colo/equal", "newer", test_newer);
    colo_add("/colo/equal", "slow", test_slow);
    colo_add("/colo/equal", "hung", test_hung);
    colo_add("/colo/equal", "reset", test_reset);
    colo_add("/colo/equal", "stop", test_stop);
    colo_add("/colo/equal", "killed", test_killed);
    colo_add("/colo/equal", "stopped", test_stopped);
    return g_test_run();
}
