/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: both disks are compared in a session with checkpoints.
 *
 * Pairs without a guest; the secondary exports its image as a sink, and hashes
 * of it.  Proves: disks that are assumed to be equal are not when they have
 * been compared; a difference makes a guest unprotected at once, until it is
 * gone; what the guest writes all the time, before cuts and after, is none; the
 * job ends with the session, whoever ends it, and when the secondary is lost,
 * with a reason, and is in nobody's way; hashes can be exported during a
 * session, and are no way for the primary to write.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-pair-disk.h"

#define CHUNK (64 * KiB)
#define ASSUMED "is assumed to be equal"
#define DEVICE "-d /machine/peripheral/disk9/virtio-backend"
#define HASH ", 'hashes': 'hashes'"
/* How often the disk is compared while the guest writes */
#define ROUNDS 3
#define FULL_ROUNDS 10

typedef struct Verify {
    ColoPair *pair;
    char *raw[2];
    char *active;
    char *hidden;
    char *socket;
    bool told;                  /* the primary's guest is protected */
} Verify;

/* Both have the same data in the middle */
static void fill(const char *path)
{
    g_autofree uint8_t *data = g_malloc(4 * MiB);
    int fd = open(path, O_WRONLY);

    for (int i = 0; i < 4 * MiB; i++) {
        data[i] = i * 7 + i / CHUNK;
    }
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pwrite(fd, data, 4 * MiB, 6 * MiB), ==, 4 * MiB);
    close(fd);
}

/* Of the secondary's image, behind QEMU's back, and back again */
static void flip(Verify *v, int64_t offset)
{
    int fd = open(v->raw[1], O_RDWR);
    uint8_t byte;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pread(fd, &byte, 1, offset), ==, 1);
    byte ^= 0x55;
    g_assert_cmpint(pwrite(fd, &byte, 1, offset), ==, 1);
    close(fd);
}

/* It may come before or after events of the job */
static bool note_protection(QTestState *qts, const char *name, QDict *event,
                            void *opaque)
{
    Verify *v = opaque;

    if (!g_str_equal(name, "COLO_PROTECTION")) {
        return false;
    }
    v->told = qdict_get_bool(qdict_get_qdict(event, "data"), "protected");
    return true;
}

/* Before the session */
static Verify *verify_new(const void *mode)
{
    Verify *v = g_new0(Verify, 1);
    ColoPair *p = colo_pair_new_with(mode, "qtest", "");

    v->pair = p;
    qtest_qmp_set_event_callback(p->primary, note_protection, v);
    colo_pair_unplug_net(p);
    v->raw[0] = disk_new_file(p->dir, "image-0", false);
    v->raw[1] = disk_new_file(p->dir, "image-1", false);
    v->active = disk_new_file(p->dir, "active", true);
    v->hidden = disk_new_file(p->dir, "hidden", true);
    v->socket = g_build_filename(p->dir, "nbd", NULL);
    fill(v->raw[0]);
    fill(v->raw[1]);
    pair_disk_add_secondary(p->secondary, v->raw[1], v->active, v->hidden);
    qtest_qmp_assert_success(p->secondary,
        "{'execute': 'blockdev-add', 'arguments': {"
        "'driver': 'replication-sink', 'node-name': 'sink0', "
        "'file': 'image0'}}");
    disk_serve(p->secondary, v->socket);
    disk_export(p->secondary, "sink0", "d", true);
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'raw', "
        "'node-name': 'local0', 'file': {'driver': 'file', "
        "'filename': %s}}}", v->raw[0]);
    pair_disk_add_local(p->primary, "local0");
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication', "
        "'node-name': 'repl', 'mode': 'primary', 'batch': true, "
        "'log-size': 4194304, 'file': {'driver': 'nbd', 'export': 'd', "
        "'server': {'type': 'unix', 'path': %s}}}}", v->socket);
    disk_add_child(p->primary, "disk0", "repl");
    return v;
}

/* In a session, as anybody may who thinks of it late */
static void add_hashes(Verify *v)
{
    qtest_qmp_assert_success(v->pair->secondary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'colo-hash', "
        "'node-name': 'hash0', 'read-only': true, 'file': 'image0'}}");
    disk_export(v->pair->secondary, "hash0", "h", false);
    disk_add_client(v->pair->primary, "hashes", v->socket, "h",
                    ", 'read-only': true");
}

/* A session, with hashes */
static Verify *verify_new_running(const void *mode)
{
    Verify *v = verify_new(mode);

    colo_pair_protect(v->pair);
    add_hashes(v);
    return v;
}

static void verify_free(Verify *v)
{
    colo_pair_free(v->pair);
    g_free(v->raw[0]);
    g_free(v->raw[1]);
    g_free(v->active);
    g_free(v->hidden);
    g_free(v->socket);
    g_free(v);
}

/* The job */

static void verify(Verify *v, const char *more)
{
    g_autofree char *json = g_strdup_printf(
        "{'execute': 'x-colo-verify', 'arguments': {'job-id': 'j', "
        "'node': 'repl'%s}}", more);

    qtest_qmp_assert_success(v->pair->primary, json, NULL);
}

/* How it has ended: an error, to be freed; NULL for none */
static char *wait_end(Verify *v, const char *name)
{
    QDict *event = colo_wait_event(v->pair->primary, name);
    char *text = g_strdup(qdict_get_try_str(qdict_get_qdict(event, "data"),
                                            "error"));

    g_test_message("%s", text ?: "no error");
    qobject_unref(event);
    return text;
}

static void wait_equal(Verify *v)
{
    g_autofree char *text = wait_end(v, "BLOCK_JOB_COMPLETED");

    g_assert_null(text);
}

static void wait_error(Verify *v, const char *text)
{
    g_autofree char *said = wait_end(v, "BLOCK_JOB_COMPLETED");

    g_assert_nonnull(said);
    g_assert_nonnull(strstr(said, text));
}

static bool has_job(Verify *v)
{
    QDict *answer = qtest_qmp(v->pair->primary,
                              "{'execute': 'query-block-jobs'}");
    bool has = !qlist_empty(qdict_get_qlist(answer, "return"));

    qobject_unref(answer);
    return has;
}

/* What is said */

static int count_problems(QTestState *qts, const char *text)
{
    QDict *status = colo_status(qts);
    QListEntry *entry;
    int n = 0;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(status, "problems"), entry) {
        QDict *p = qobject_to(QDict, qlist_entry_obj(entry));

        n += !strcmp(qdict_get_str(p, "kind"), "disk") &&
             strstr(qdict_get_str(p, "message"), text);
    }
    qobject_unref(status);
    return n;
}

static bool is_protected(QTestState *qts)
{
    QDict *status = colo_status(qts);
    bool yes = qdict_get_bool(status, "protected");

    qobject_unref(status);
    return yes;
}

/* Without a query of the status, which would look for it */
static void wait_told(Verify *v, bool yes)
{
    int64_t begin = g_get_monotonic_time();

    while (v->told != yes) {
        disk_check_time(begin);
        has_job(v);             /* events come along with that */
        g_usleep(2000);
    }
}

/* The tests */

static void test_equal(const void *mode)
{
    static const char *const ways[] = { HASH, "" };

    for (int i = 0; i < G_N_ELEMENTS(ways); i++) {
        Verify *v = verify_new_running(mode);
        QTestState *qts = v->pair->primary;

        g_assert_cmpint(count_problems(qts, ASSUMED), ==, 1);
        verify(v, ways[i]);
        wait_equal(v);
        g_assert_cmpint(count_problems(qts, ASSUMED), ==, 0);
        g_assert_cmpint(count_problems(qts, ""), ==, 0);
        g_assert_true(is_protected(qts));
        verify_free(v);
    }
}

static void test_differ(const void *mode)
{
    const int64_t at = 7 * MiB + 1234;
    Verify *v = verify_new_running(mode);
    QTestState *qts = v->pair->primary;

    wait_told(v, true);
    flip(v, at);
    verify(v, HASH ", 'speed': 1048576");
    /* As soon as it is found */
    wait_told(v, false);
    g_assert_true(has_job(v));
    g_assert_cmpint(count_problems(qts, "disk 'disk9' and that of the "
                                   "secondary differ in 1 bytes, the first at "
                                   "offset 7341266"), ==, 1);
    qtest_qmp_assert_success(qts, "{'execute': 'block-job-set-speed', "
                             "'arguments': {'device': 'j', 'speed': 0}}");
    wait_error(v, "differ in 1 bytes, the first at offset 7341266");
    g_assert_false(is_protected(qts));
    g_assert_cmpint(count_problems(qts, "differ in 1 bytes"), ==, 1);
    g_assert_cmpint(count_problems(qts, ASSUMED), ==, 1);

    /* The guest overwrites it */
    disk_io_at(qts, DEVICE, "write -P 9 7M 64k");
    verify(v, HASH);
    wait_equal(v);
    wait_told(v, true);
    g_assert_cmpint(count_problems(qts, ""), ==, 0);
    g_assert_true(is_protected(qts));
    verify_free(v);
}

/* The session goes on meanwhile, with checkpoints in the middle of all */
static void writes(const void *mode, const char *hashes)
{
    Verify *v = verify_new_running(mode);
    QTestState *qts = v->pair->primary;
    int64_t before = colo_statistic(qts, "checkpoints");
    int round = 0, n = 0;

    while (round < ROUNDS) {
        verify(v, hashes);
        while (has_job(v)) {
            for (int i = 0; i < 4; i++) {
                disk_io_at(qts, DEVICE, "aio_write -P %d %dk 300k", n & 0xff,
                           (n * 1733) % (15 * 1024));
                n++;
            }
            disk_io_at(qts, DEVICE, "aio_flush");
        }
        wait_equal(v);
        round++;
    }
    g_test_message("%d writes", n);
    g_assert_cmpint(n, >, 0);
    colo_wait_statistic(qts, "checkpoints", before + 3);
    g_assert_true(is_protected(qts));

    /* A difference is found in the midst of that */
    flip(v, 15 * MiB + 900 * KiB);
    verify(v, hashes);
    while (has_job(v)) {
        disk_io_at(qts, DEVICE, "write -P %d 15M 900k", n++ & 0xff);
        disk_io_at(qts, DEVICE, "write -P %d 16650752 64k", n++ & 0xff);
    }
    wait_error(v, "differ in 1 bytes, the first at offset 16650240");
    verify_free(v);
}

/*
 * The monitor writes more than the log takes, with the big lock, which the
 * session needs to make room
 */
static void test_full_log(const void *mode)
{
    Verify *v = verify_new_running(mode);
    QTestState *qts = v->pair->primary;

    for (int i = 0; i < FULL_ROUNDS; i++) {
        disk_io_at(qts, DEVICE, "write -P %d 0 15M", i + 1);
    }
    colo_wait_statistic(qts, "checkpoints",
                        colo_statistic(qts, "checkpoints") + 3);
    g_assert_true(is_protected(qts));
    verify_free(v);
}

static void test_writes_hash(const void *mode)
{
    writes(mode, HASH);
}

static void test_writes_data(const void *mode)
{
    writes(mode, "");
}

static void test_end(const void *mode)
{
    Verify *v = verify_new_running(mode);
    QTestState *qts = v->pair->primary;

    verify(v, HASH ", 'speed': 65536");
    qtest_qmp_assert_success(qts, "{'execute': 'migrate_cancel'}");
    wait_error(v, "compared");
    colo_wait_state(qts, "alone");
    colo_refused(qts, "the session of node 'repl' is over",
                 "{'execute': 'x-colo-verify', 'arguments': {'job-id': 'j', "
                 "'node': 'repl'}}");
    disk_del_child(qts, "disk0", "children.1");
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-del', 'arguments': {"
                             "'node-name': 'repl'}}");
    colo_wait_status(qts, "running");
    verify_free(v);
}

/* The secondary dies, or hangs, in the middle */
static void lost(const void *mode, int sig, const char *hashes)
{
    g_autofree char *more = g_strconcat(hashes, ", 'speed': 4194304", NULL);
    Verify *v = verify_new_running(mode);
    QTestState *qts = v->pair->primary;
    int64_t begin = g_get_monotonic_time();

    verify(v, more);
    g_assert_cmpint(kill(qtest_pid(v->pair->secondary), sig), ==, 0);
    if (sig == SIGSTOP) {
        colo_failover(qts);
    }
    wait_error(v, "");
    if (sig == SIGKILL) {
        colo_wait_state(qts, "lost");
        colo_failover(qts);
    }
    colo_wait_state(qts, "alone");
    colo_wait_status(qts, "running");
    disk_check_time(begin);
    disk_io_at(qts, DEVICE, "write -P 3 0 64k");
    g_assert_true(disk_file_has(v->raw[0], 3, 0, CHUNK));
    colo_kill(&v->pair->secondary);
    verify_free(v);
}

static void test_killed(const void *mode)
{
    lost(mode, SIGKILL, HASH);
    lost(mode, SIGKILL, "");
}

static void test_stopped(const void *mode)
{
    lost(mode, SIGSTOP, HASH);
    lost(mode, SIGSTOP, "");
}

static void check_folded(QTestState *qts)
{
    QDict *status = colo_status(qts);
    QDict *disk = qobject_to(QDict, qlist_peek(qdict_get_qlist(status,
                                                               "disks")));

    g_assert_cmpstr(qdict_get_str(disk, "stage"), ==, "folded");
    qobject_unref(status);
}

/* The primary dies in the middle: the survivor is as after any failover */
static void test_primary_killed(const void *mode)
{
    Verify *v = verify_new_running(mode);

    verify(v, ", 'speed': 4194304");
    colo_kill(&v->pair->primary);
    colo_wait_state(v->pair->secondary, "lost");
    colo_failover(v->pair->secondary);
    colo_wait_state(v->pair->secondary, "live");
    colo_wait_status(v->pair->secondary, "running");
    /* The node that had the hashes is no hindrance */
    disk_wait_no_job(v->pair->secondary);
    check_folded(v->pair->secondary);
    qtest_qmp_assert_success(v->pair->secondary, "{'execute': 'blockdev-del', "
                             "'arguments': {'node-name': 'hash0'}}");
    verify_free(v);
}

static void test_quit(const void *mode)
{
    Verify *v = verify_new_running(mode);
    int64_t begin = g_get_monotonic_time();

    verify(v, HASH ", 'speed': 65536");
    colo_quit(&v->pair->primary);
    disk_check_time(begin);
    verify_free(v);
}

/* By an export that is only read the primary does not reach the disk */
static void test_export(const void *mode)
{
    Verify *v = verify_new_running(mode);
    QTestState *qts = v->pair->secondary;

    g_assert_cmpint(count_problems(qts, "is not exported any more"), ==, 0);
    qtest_qmp_assert_success(qts, "{'execute': 'nbd-server-remove', "
                             "'arguments': {'name': 'd', 'mode': 'hard'}}");
    /* At once, or the session has ended for it */
    if (!count_problems(qts, "is not exported any more")) {
        colo_wait_state(qts, "ended");
    }
    colo_wait_state(v->pair->primary, "alone");
    verify_free(v);
}

static void test_secondary(const void *mode)
{
    Verify *v = verify_new_running(mode);
    QDict *answer = qtest_qmp(v->pair->secondary,
                              "{'execute': 'query-colo-status'}");
    QDict *disk = qobject_to(QDict, qlist_peek(qdict_get_qlist(
                      qdict_get_qdict(answer, "return"), "disks")));

    colo_refused(v->pair->secondary, "disks are compared on the primary",
                 "{'execute': 'x-colo-verify', 'arguments': {'job-id': 'j', "
                 "'node': %s}}", qdict_get_str(disk, "node-name"));
    qobject_unref(answer);
    verify_free(v);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    colo_add("/colo/verify/pair", "equal", test_equal);
    colo_add("/colo/verify/pair", "differ", test_differ);
    colo_add("/colo/verify/pair", "full-log", test_full_log);
    colo_add("/colo/verify/pair", "writes-hash", test_writes_hash);
    colo_add("/colo/verify/pair", "writes-data", test_writes_data);
    colo_add("/colo/verify/pair", "end", test_end);
    colo_add("/colo/verify/pair", "killed", test_killed);
    colo_add("/colo/verify/pair", "stopped", test_stopped);
    colo_add("/colo/verify/pair", "primary-killed", test_primary_killed);
    colo_add("/colo/verify/pair", "quit", test_quit);
    colo_add("/colo/verify/pair", "export", test_export);
    colo_add("/colo/verify/pair", "secondary", test_secondary);
    return g_test_run();
}
