/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: what the primary writes waits for its commit (periodic mode).
 *
 * Pairs without a guest, with a sink.  Proves: what is not committed is neither
 * on the secondary's disk nor seen by its guest, and is not in the survivor;
 * what is committed is, whatever was written over what, in memory or in the
 * file, also while several checkpoints are still on their way to a slow disk.
 * There the survivor reads at once, and its writes wait; a primary waits as
 * well before it is too far ahead.  The disk may fail after the commit: a
 * primary that lives goes on, and without one the survivor tries again, as
 * often as it takes, and can read all the time.  The end of a session puts all
 * that has arrived on the disk.  In hybrid mode, or with another way to the
 * disk, it is the other store that is used.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-hold.h"
#include "colo-nbd.h"
#include "colo-pair-disk.h"

#define GUEST_DISK "-d /machine/peripheral/disk9/virtio-backend"
#define NEVER_MS 600000         /* no checkpoint unless it is asked for */
#define MEMORY_MAX (64 * MiB)   /* of the store */
#define SLOW_WRITES 100         /* a second */
#define PIECES 128
#define PIECE (4 * KiB)
#define LATE_MS 1200            /* more than the store's */
#define SECTOR 512
#define STEPS 3000
#define STEPS_PER_CUT 100

typedef struct Redo {
    ColoPair *pair;
    char *raw[2];
    char *active;
    char *hidden;
    char *generation;
    char *socket;
    char *view;                 /* of the secondary's guest */
    uint8_t *disk;              /* what the primary's guest has written */
    uint8_t *committed;
} Redo;

static QDict *fails_after_flush(const char *file, const char *failures)
{
    g_autofree char *json = g_strdup_printf(
        "{'driver': 'blkdebug', 'image': %%p, 'set-state': [{"
        "'event': 'flush_to_disk', 'state': 1, 'new_state': 2}],"
        "'inject-error': [%s]}", failures);

    return qdict_from_jsonf_nofail(json, pair_disk_file(file));
}

#define FAILS_ONCE \
    "{'event': 'pwritev', 'iotype': 'write', 'state': 2, 'errno': 28," \
    "'once': true}"

static QDict *fails_once(const char *file)
{
    return fails_after_flush(file, FAILS_ONCE);
}

static QDict *fails_twice(const char *file)
{
    return fails_after_flush(file, FAILS_ONCE "," FAILS_ONCE);
}

static QDict *slow_file(const char *file)
{
    return qdict_from_jsonf_nofail(
        "{'driver': 'throttle', 'throttle-group': 'slow', 'file': %p}",
        pair_disk_file(file));
}

static Redo *redo_new_with(const void *mode, QDict *(*image)(const char *),
                           bool other_way)
{
    Redo *t = g_new0(Redo, 1);
    g_autofree char *slow = g_strdup_printf(
        "-object throttle-group,id=slow,x-iops-write=%d", SLOW_WRITES);
    ColoPair *p = colo_pair_new_with(mode, "qtest", slow);

    t->pair = p;
    colo_pair_unplug_net(p);
    t->raw[0] = disk_new_file(p->dir, "image-0", false);
    t->raw[1] = disk_new_file(p->dir, "image-1", false);
    t->active = disk_new_file(p->dir, "active", true);
    t->hidden = disk_new_file(p->dir, "hidden", true);
    t->generation = g_build_filename(p->dir, "generation", NULL);
    t->socket = g_build_filename(p->dir, "nbd", NULL);
    t->disk = g_malloc0(DISK);
    t->committed = g_malloc0(DISK);
    pair_disk_add_secondary_on(p->secondary, image(t->raw[1]), t->active,
                               pair_disk_file(t->hidden), t->generation);
    qtest_qmp_assert_success(p->secondary, "{'execute': 'blockdev-add',"
        "'arguments': {'driver': 'replication-sink', 'node-name': 'sink0',"
        "'discard': 'unmap', 'file': 'image0'}}");
    disk_serve(p->secondary, t->socket);
    disk_export(p->secondary, "sink0", "d", true);
    disk_export(p->secondary, "disk0", "t", false);
    if (other_way) {
        disk_export(p->secondary, "image0", "o", true);
    }
    qtest_qmp_assert_success(p->primary, "{'execute': 'blockdev-add',"
        "'arguments': {'driver': 'raw', 'node-name': 'local0', 'file': {"
        "'driver': 'file', 'filename': %s}}}", t->raw[0]);
    pair_disk_add_local(p->primary, "local0");
    qtest_qmp_assert_success(p->primary, "{'execute': 'blockdev-add',"
        "'arguments': {'driver': 'replication', 'node-name': 'repl',"
        "'mode': 'primary', 'batch': true, 'discard': 'unmap',"
        "'file': {'driver': 'nbd', 'export': 'd', 'discard': 'unmap',"
        "'server': {'type': 'unix', 'path': %s}}}}", t->socket);
    disk_add_child(p->primary, "disk0", "repl");
    return t;
}

static Redo *redo_new(QDict *(*image)(const char *))
{
    Redo *t = redo_new_with("periodic", image, false);
    ColoPair *p = t->pair;

    colo_pair_migrate(p, "mig", "mig", NEVER_MS, COLO_TIMEOUT_MS);
    colo_wait_state(p->primary, "running");
    return t;
}

static void redo_free(Redo *t)
{
    colo_pair_free(t->pair);
    g_free(t->raw[0]);
    g_free(t->raw[1]);
    g_free(t->active);
    g_free(t->hidden);
    g_free(t->generation);
    g_free(t->socket);
    g_free(t->disk);
    g_free(t->committed);
    g_free(t);
}

static QDict *query_disk(QTestState *qts)
{
    QDict *answer = colo_status(qts);
    QList *disks = qdict_get_qlist(answer, "disks");
    QDict *disk = qobject_to(QDict, qlist_peek(disks));

    qobject_ref(disk);
    qobject_unref(answer);
    return disk;
}

static int64_t disk_number(QTestState *qts, const char *key)
{
    QDict *disk = query_disk(qts);
    int64_t number = qdict_get_int(disk, key);

    qobject_unref(disk);
    return number;
}

static bool disk_is(QTestState *qts, const char *key, const char *value)
{
    QDict *disk = query_disk(qts);
    bool is = g_str_equal(qdict_get_try_str(disk, key) ?: "", value);

    qobject_unref(disk);
    return is;
}

static void wait_stage(QTestState *qts, const char *stage)
{
    while (!disk_is(qts, "stage", stage)) {
        g_usleep(2000); /* the pair has a deadline */
    }
}

/* What the primary's guest does */
static void guest_write(Redo *t, int byte, int64_t offset, int64_t bytes)
{
    disk_io_at(t->pair->primary, GUEST_DISK, "write -P %d %" PRId64 " %" PRId64,
               byte, offset, bytes);
    memset(t->disk + offset, byte, bytes);
}

static void guest_zero(Redo *t, bool unmap, int64_t offset, int64_t bytes)
{
    disk_io_at(t->pair->primary, GUEST_DISK, "write -z %s %" PRId64 " %" PRId64,
               unmap ? "-u" : "", offset, bytes);
    memset(t->disk + offset, 0, bytes);
}

static void checkpoint(Redo *t)
{
    QTestState *qts = t->pair->primary;
    int64_t n = colo_statistic(qts, "checkpoints");

    qtest_qmp_assert_success(qts, "{'execute': 'x-colo-checkpoint'}");
    colo_wait_statistic(qts, "checkpoints", n + 1);
    memcpy(t->committed, t->disk, DISK);
}

/* All that was written has arrived at the secondary */
static void wait_arrived(Redo *t)
{
    QTestState *qts = t->pair->primary;
    QDict *disk;
    bool empty;

    do {
        disk = query_disk(qts);
        empty = !qdict_get_int(qdict_get_qdict(disk, "log"), "bytes");
        qobject_unref(disk);
        g_usleep(empty ? 0 : 2000); /* the pair has a deadline */
    } while (!empty);
}

/* What the secondary's guest sees is what was committed */
static void check_view(Redo *t)
{
    g_autofree uint8_t *buf = g_malloc(DISK);
    int fd = colo_nbd_client(t->socket, 't');

    for (int64_t at = 0; at < DISK; at += MiB) {
        g_assert_cmpint(colo_nbd_pread(fd, buf + at, at, MiB), ==, 0);
    }
    close(fd);
    g_assert_true(!memcmp(buf, t->committed, DISK));
}

static bool file_has(Redo *t, const uint8_t *data)
{
    g_autofree char *buf = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(t->raw[1], &buf, &len, NULL));
    return len == DISK && !memcmp(buf, data, DISK);
}

static void fail_over(Redo *t)
{
    colo_kill(&t->pair->primary);
    colo_wait_state(t->pair->secondary, "lost");
    colo_failover(t->pair->secondary);
    colo_wait_migrate(t->pair->secondary, "completed");
    colo_wait_status(t->pair->secondary, "running");
}

static void check_generation(Redo *t, const char *text)
{
    g_autofree char *found = NULL;

    g_assert_true(g_file_get_contents(t->generation, &found, NULL, NULL));
    g_assert_cmpstr(found, ==, text);
}

/* Nothing is left to be done, and the survivor's guest can write */
static void check_survivor(Redo *t)
{
    QTestState *qts = t->pair->secondary;

    wait_stage(qts, "folded");
    g_assert_true(file_has(t, t->committed));
    disk_io_at(qts, GUEST_DISK, "write -P 99 8M 1M");
    disk_io_at(qts, GUEST_DISK, "flush");
    memset(t->committed + 8 * MiB, 99, MiB);
    g_assert_true(file_has(t, t->committed));
    check_generation(t, "colo-disk-generation 1 alone\n");
}

static void test_uncommitted(void)
{
    Redo *t = redo_new(pair_disk_file);
    QTestState *qts = t->pair->secondary;

    g_assert_true(disk_is(qts, "epoch-store", "redo"));
    guest_write(t, 1, 0, MiB);
    checkpoint(t);
    disk_wait_file(t->raw[1], 1, 0, MiB);

    guest_write(t, 2, MiB / 2, 2 * MiB);
    wait_arrived(t);
    g_assert_cmpint(disk_number(qts, "held-bytes"), >=, 2 * MiB);
    g_assert_cmpint(disk_number(qts, "held-in-file"), ==, 0);
    g_assert_true(file_has(t, t->committed));
    check_view(t);
    fail_over(t);
    check_survivor(t);
    redo_free(t);
}

/* What is written is on the disk soon after the checkpoint, if nobody asks */
static void test_soon(void)
{
    Redo *t = redo_new(pair_disk_file);

    for (int i = 1; i < 20; i++) {
        guest_write(t, i, i * 300 * KiB, 500 * KiB);
        checkpoint(t);
        check_view(t);
    }
    while (disk_number(t->pair->secondary, "held-bytes")) {
        g_usleep(2000);
    }
    g_assert_true(file_has(t, t->committed));
    redo_free(t);
}

static void step(Redo *t)
{
    int64_t sectors = DISK / SECTOR;
    int64_t offset = g_test_rand_int_range(0, sectors);
    /* Mostly small, and often in the same place */
    int64_t bytes = g_test_rand_int_range(1, g_test_rand_bit() ? 16 : 512);

    offset = g_test_rand_bit() ? offset % 256 : offset;
    bytes = MIN(bytes, sectors - offset) * SECTOR;
    offset *= SECTOR;
    switch (g_test_rand_int_range(0, 10)) {
    case 0:
        guest_zero(t, g_test_rand_bit(), offset, bytes);
        break;
    case 1:
        disk_io_at(t->pair->primary, GUEST_DISK, "flush");
        break;
    default:
        guest_write(t, g_test_rand_int_range(1, 256), offset, bytes);
    }
}

static void test_model(void)
{
    Redo *t = redo_new(pair_disk_file);

    for (int i = 1; i <= STEPS; i++) {
        step(t);
        if (i % STEPS_PER_CUT == 0) {
            wait_arrived(t);
            check_view(t);
            checkpoint(t);
            check_view(t);
        }
    }
    step(t);
    guest_write(t, 200, 0, MiB);
    wait_arrived(t);
    fail_over(t);
    check_view(t);
    check_survivor(t);
    redo_free(t);
}

/* More than memory is for, several times over the same disk */
static void fill(Redo *t, int first)
{
    for (int64_t written = 0; written < MEMORY_MAX + DISK; written += MiB) {
        guest_write(t, first + written / MiB, written % DISK, MiB);
    }
    wait_arrived(t);
}

static void test_file(void)
{
    Redo *t = redo_new(pair_disk_file);
    QTestState *qts = t->pair->secondary;

    fill(t, 1);
    g_assert_cmpint(disk_number(qts, "held-bytes"), >=, MEMORY_MAX + DISK);
    g_assert_cmpint(disk_number(qts, "held-in-file"), >=, DISK);
    g_assert_true(file_has(t, t->committed));
    check_view(t);
    checkpoint(t);
    check_view(t);
    while (disk_number(qts, "held-bytes")) {
        g_usleep(2000);
    }
    g_assert_true(file_has(t, t->committed));

    fill(t, 101);
    g_assert_cmpint(disk_number(qts, "held-in-file"), >=, DISK);
    fail_over(t);
    check_survivor(t);
    redo_free(t);
}

/*
 * Many groups for the secondary, from another client than the primary, which
 * would make batches of them.  A drained section lets some of them through,
 * however slow the disk is.
 */
static void write_pieces(Redo *t, int first)
{
    int fd = colo_nbd_client(t->socket, 'd');
    int64_t offset = first * PIECE;

    for (int i = 0; i < PIECES; i++, offset += PIECE) {
        memset(t->disk + offset, 1 + (first + i) % 255, PIECE);
        g_assert_cmpint(colo_nbd_pwrite(fd, t->disk + offset, offset, PIECE),
                        ==, 0);
    }
    close(fd);
}

/* The disk is so slow that checkpoints wait for it in a row */
static void test_slow(void)
{
    Redo *t = redo_new(slow_file);
    QTestState *qts = t->pair->secondary;
    int64_t begin;

    for (int i = 0; i < 4; i++) {
        write_pieces(t, i * PIECES / 2);
        checkpoint(t);
        check_view(t);
    }
    guest_write(t, 50, 4 * MiB, 256 * KiB);
    g_assert_cmpint(disk_number(qts, "held-bytes"), >=, MiB);
    fail_over(t);

    g_assert_true(disk_is(qts, "stage", "folding"));
    check_generation(t, "colo-disk-generation 1 folding\n");
    check_view(t);
    g_assert_true(disk_is(qts, "stage", "folding"));
    g_assert_false(file_has(t, t->committed));
    begin = g_get_monotonic_time();
    disk_io_at(qts, GUEST_DISK, "write -P 77 12M 64k");
    memset(t->committed + 12 * MiB, 77, 64 * KiB);
    g_test_message("the write took %" PRId64 " ms",
                   (g_get_monotonic_time() - begin) / 1000);
    g_assert_true(file_has(t, t->committed));
    check_survivor(t);
    redo_free(t);
}

/* The primary does not get further ahead than by an epoch and a second */
static void test_late(void)
{
    Redo *t = redo_new(slow_file);
    QTestState *qts = t->pair->secondary;
    int64_t begin;

    write_pieces(t, 0);
    write_pieces(t, PIECES);
    checkpoint(t);
    begin = g_get_monotonic_time();
    while (g_get_monotonic_time() - begin < LATE_MS * 1000) {
        g_usleep(2000);
    }
    g_assert_cmpint(disk_number(qts, "held-bytes"), >, 64 * KiB);
    guest_write(t, 20, MiB, 4 * KiB);
    wait_arrived(t);
    g_assert_cmpint(disk_number(qts, "held-bytes"), <, 8 * KiB);
    g_assert_true(file_has(t, t->committed));
    redo_free(t);
}

/*
 * A write of the survivor's guest waits for what was held.  Whoever waits for
 * that write, or wants the graph for itself, does not wait for ever.
 */
static void test_drain(void)
{
    Redo *t = redo_new(slow_file);
    QTestState *qts = t->pair->secondary;

    for (int i = 0; i < 4; i++) {
        write_pieces(t, i * PIECES);
    }
    checkpoint(t);
    fail_over(t);
    g_assert_true(disk_is(qts, "stage", "folding"));
    disk_io_at(qts, GUEST_DISK, "aio_write -P 77 12M 64k");
    memset(t->committed + 12 * MiB, 77, 64 * KiB);
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-add', 'arguments': {"
                             "'driver': 'null-co', 'node-name': 'null'}}");
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-del',"
                             "'arguments': {'node-name': 'null'}}");
    qtest_qmp_assert_success(qts, "{'execute': 'stop'}");
    g_assert_true(file_has(t, t->committed));
    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
    check_survivor(t);
    redo_free(t);
}

/* A client that knows of no batches, beside the primary */
static void test_plain(void)
{
    Redo *t = redo_new(pair_disk_file);
    g_autofree uint8_t *data = g_malloc(2 * MiB);
    g_autofree uint8_t *read = g_malloc(2 * MiB);
    int fd = colo_nbd_client(t->socket, 'd');

    guest_write(t, 1, MiB, MiB);
    wait_arrived(t);
    memset(data, 1, 2 * MiB);
    memset(data, 2, MiB + MiB / 2);
    g_assert_cmpint(colo_nbd_pwrite(fd, data, 0, MiB + MiB / 2), ==, 0);
    g_assert_cmpint(colo_nbd_pread(fd, read, 0, 2 * MiB), ==, 0);
    g_assert_true(!memcmp(read, data, 2 * MiB));
    g_assert_true(file_has(t, t->committed));
    check_view(t);
    checkpoint(t);
    memcpy(t->committed, data, 2 * MiB);
    check_view(t);
    disk_wait_file(t->raw[1], 2, 0, MiB + MiB / 2);
    close(fd);
    redo_free(t);
}

/* From now on the first write fails */
static void begin_to_fail(Redo *t)
{
    guest_write(t, 3, 0, MiB);
    /* One write alone would be flushed with it */
    guest_write(t, 3, 4 * MiB, MiB);
    disk_io_at(t->pair->primary, GUEST_DISK, "flush");
    checkpoint(t);
    while (disk_number(t->pair->secondary, "held-bytes")) {
        g_usleep(2000);
    }
}

static void check_said(QTestState *qts)
{
    QDict *status = colo_status(qts);
    const char *said = qdict_get_str(status, "message");

    g_test_message("%s", said);
    g_assert_nonnull(strstr(said, "No space left"));
    qobject_unref(status);
}

/* The primary lives, and is told */
static void test_error_alive(void)
{
    Redo *t = redo_new(fails_once);
    ColoPair *p = t->pair;

    begin_to_fail(t);
    guest_write(t, 5, MiB, MiB);
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    colo_wait_state(p->primary, "alone");
    colo_wait_status(p->primary, "running");
    colo_wait_state(p->secondary, "ended");
    check_said(p->secondary);
    colo_refused(p->secondary, "", "{'execute': 'x-colo-lost-heartbeat'}");
    redo_free(t);
}

/* It dies when the checkpoint has been committed and is not on the disk yet */
static Redo *lose_primary(QDict *(*image)(const char *))
{
    Redo *t = redo_new_with("periodic", image, false);
    ColoPair *p = t->pair;
    ColoHold *h;

    colo_pair_migrate(p, "mig", NULL, NEVER_MS, COLO_TIMEOUT_MS);
    h = colo_hold_new(p->dir);
    colo_pair_migrate(p, NULL, "hold", NEVER_MS, COLO_TIMEOUT_MS);
    colo_wait_state(p->primary, "running");
    begin_to_fail(t);
    guest_write(t, 7, MiB, MiB);
    memcpy(t->committed, t->disk, DISK);
    qtest_memset(p->primary, 16 * MiB, 0x5a, 4096);
    colo_hold_arm(h);
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    colo_hold_await(h);
    /* All of it has been sent */
    colo_wait_state(p->primary, "committing");
    colo_kill(&p->primary);
    colo_hold_release(h);
    colo_wait_state(p->secondary, "lost");
    g_assert_cmpint(qtest_readb(p->secondary, 16 * MiB), ==, 0x5a);
    colo_hold_free(h);
    return t;
}

static void test_error_dead(void)
{
    Redo *t = lose_primary(fails_once);
    QTestState *qts = t->pair->secondary;

    check_view(t);
    g_assert_false(file_has(t, t->committed));
    colo_failover(qts);
    colo_wait_migrate(qts, "completed");
    colo_wait_status(qts, "running");
    check_survivor(t);
    redo_free(t);
}

static void test_error_again(void)
{
    Redo *t = lose_primary(fails_twice);
    QTestState *qts = t->pair->secondary;

    colo_failover(qts);
    colo_wait_migrate(qts, "completed");
    colo_wait_status(qts, "running");
    wait_stage(qts, "unfolded");
    check_view(t);
    /* It would come before what the guest has written earlier */
    disk_io_at(qts, GUEST_DISK, "write -P 8 2M 1M");
    check_view(t);
    g_assert_false(file_has(t, t->committed));
    check_generation(t, "colo-disk-generation 1 folding\n");
    qtest_qmp_assert_success(qts, "{'execute': 'x-colo-fold',"
                             "'arguments': {'disk': 'disk0'}}");
    check_survivor(t);
    redo_free(t);
}

/* The session ends in order: the disk has all that has arrived */
static void test_end(void)
{
    Redo *t = redo_new(slow_file);
    ColoPair *p = t->pair;

    write_pieces(t, 0);
    checkpoint(t);
    guest_write(t, 2, PIECES / 2 * PIECE, MiB);
    wait_arrived(t);
    g_assert_false(file_has(t, t->disk));
    qtest_qmp_assert_success(p->primary, "{'execute': 'migrate_cancel'}");
    colo_wait_migrate(p->secondary, "cancelled");
    g_assert_true(file_has(t, t->disk));
    wait_stage(p->secondary, "idle");
    qtest_qmp_assert_success(p->secondary, "{'execute': 'nbd-server-stop'}");
    qtest_qmp_assert_success(p->secondary, "{'execute': 'blockdev-del',"
                             "'arguments': {'node-name': 'sink0'}}");
    redo_free(t);
}

/* The secondary is told to quit while there is something to be written */
static void test_quit(void)
{
    Redo *t = redo_new(slow_file);
    ColoPair *p = t->pair;

    guest_write(t, 1, 0, MiB);
    checkpoint(t);
    colo_quit(&p->secondary);
    g_assert_true(file_has(t, t->committed));
    redo_free(t);
}

/* The same after a failover: there is no other disk */
static void test_quit_survivor(void)
{
    Redo *t = redo_new(slow_file);
    ColoPair *p = t->pair;

    for (int i = 0; i < 4; i++) {
        write_pieces(t, i * PIECES);
    }
    checkpoint(t);
    fail_over(t);
    g_assert_true(disk_is(p->secondary, "stage", "folding"));
    colo_quit(&p->secondary);
    g_assert_true(file_has(t, t->committed));
    check_generation(t, "colo-disk-generation 1 alone\n");
    redo_free(t);
}

/* What else can write to the disk would not wait */
static void test_other_way(void)
{
    Redo *t = redo_new_with("periodic", pair_disk_file, true);
    ColoPair *p = t->pair;

    colo_pair_protect(p);
    g_assert_true(disk_is(p->secondary, "epoch-store", "undo"));
    redo_free(t);
}

/* Nor may it come later */
static void test_later_way(void)
{
    Redo *t = redo_new(pair_disk_file);

    colo_refused(t->pair->secondary, "write",
        "{'execute': 'block-export-add', 'arguments': {'type': 'nbd',"
        "'id': 'o', 'node-name': 'image0', 'writable': true}}");
    colo_refused(t->pair->secondary, "in use", "{'execute': 'blockdev-del',"
                 "'arguments': {'node-name': 'sink0'}}");
    redo_free(t);
}

static void test_hybrid(void)
{
    Redo *t = redo_new_with("hybrid", pair_disk_file, false);
    ColoPair *p = t->pair;

    colo_pair_protect(p);
    g_assert_true(disk_is(p->secondary, "epoch-store", "undo"));
    redo_free(t);
}

/*
 * What is written once the session is over is newer than what is still held of
 * it, and waits for that.
 */
static void test_late_write(void)
{
    Redo *t = redo_new(slow_file);
    ColoPair *p = t->pair;
    g_autofree uint8_t *data = g_malloc(PIECE);
    g_autofree char *buf = NULL;
    int64_t offset = (4 * PIECES - 1) * PIECE;
    gsize len;
    int fd;

    for (int i = 0; i < 4; i++) {
        write_pieces(t, i * PIECES);
    }
    checkpoint(t);
    qtest_qmp_assert_success(p->primary, "{'execute': 'migrate_cancel'}");
    colo_wait_migrate(p->primary, "cancelled");
    fd = colo_nbd_client(t->socket, 'd');
    memset(data, 0xe0, PIECE);
    g_assert_cmpint(colo_nbd_pwrite(fd, data, offset, PIECE), ==, 0);
    close(fd);
    wait_stage(p->secondary, "idle");
    g_assert_true(g_file_get_contents(t->raw[1], &buf, &len, NULL));
    g_assert_cmpmem(buf + offset, PIECE, data, PIECE);
    redo_free(t);
}

/* Bytes on the disk of the file in which it holds what memory has no room for */
static int64_t scratch_bytes(QTestState *qts)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", qtest_pid(qts));
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;
    int64_t bytes = -1;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *fd = g_build_filename(path, name, NULL);
        g_autofree char *to = g_file_read_link(fd, NULL);
        struct stat st;

        if (to && strstr(to, "colo-redo-")) {
            g_assert_cmpint(stat(fd, &st), ==, 0);
            bytes = st.st_blocks * 512LL;
        }
    }
    return bytes;
}

/* What a failover drops takes no space any more */
static void test_scratch(void)
{
    Redo *t = redo_new(pair_disk_file);
    QTestState *qts = t->pair->secondary;

    fill(t, 1);
    g_assert_cmpint(scratch_bytes(qts), >, 0);
    fail_over(t);
    g_assert_cmpint(scratch_bytes(qts), ==, 0);
    redo_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/redo/uncommitted", test_uncommitted);
    qtest_add_func("/colo/redo/soon", test_soon);
    qtest_add_func("/colo/redo/model", test_model);
    qtest_add_func("/colo/redo/file", test_file);
    qtest_add_func("/colo/redo/slow", test_slow);
    qtest_add_func("/colo/redo/late", test_late);
    qtest_add_func("/colo/redo/drain", test_drain);
    qtest_add_func("/colo/redo/plain", test_plain);
    qtest_add_func("/colo/redo/error/alive", test_error_alive);
    qtest_add_func("/colo/redo/error/dead", test_error_dead);
    qtest_add_func("/colo/redo/error/again", test_error_again);
    qtest_add_func("/colo/redo/end", test_end);
    qtest_add_func("/colo/redo/quit", test_quit);
    qtest_add_func("/colo/redo/quit-survivor", test_quit_survivor);
    qtest_add_func("/colo/redo/other-way", test_other_way);
    qtest_add_func("/colo/redo/later-way", test_later_way);
    qtest_add_func("/colo/redo/hybrid", test_hybrid);
    qtest_add_func("/colo/redo/late-write", test_late_write);
    qtest_add_func("/colo/redo/scratch", test_scratch);
    return g_test_run();
}
