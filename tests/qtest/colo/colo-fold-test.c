/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a disk in an iothread, while the main loop fails over or has
 * just folded the overlays into it.
 *
 * Pairs without a guest.  The secondary's disk is written and flushed by a
 * client of NBD, in an iothread, as a guest does.  Its generation-file is a
 * FIFO for a while, so the main loop waits for the test when it wants to know
 * the generation: right after the failover, and right after the overlays have
 * been replaced by the disk.  Proves: in the first case a flush does not fail;
 * in the second none says yes before the file does not ask for the overlays any
 * more, which would hide what has been flushed; and if that file cannot be
 * written the user is told.
 *
 * And: the job has the speed that the node or the command says, can be given
 * another one, and tells how far it is.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "libqos/libqos.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-nbd.h"

#define NBD_FLUSH 3
/* How long a flush may wait that need not wait at all */
#define EARLY_MS 1000
/* More than a job has under way at a time, MiB */
#define LARGE_MB 40
#define SPEED 65536

typedef struct Fold {
    ColoPair *pair;
    char *raw;
    char *active;
    char *hidden;
    char *generation[2];
    char *socket;
    int guest;
} Fold;

static void add_primary(Fold *f, int64_t size)
{
    qtest_qmp_assert_success(f->pair->primary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'quorum',"
        "'node-name': 'disk0', 'read-pattern': 'fifo', 'vote-threshold': 1,"
        "'children': [{'driver': 'null-co', 'size': %" PRId64 ","
        "'read-zeroes': true},"
        "{'driver': 'replication', 'node-name': 'repl', 'mode': 'primary',"
        "'generation-file': %s, 'file': {'driver': 'null-co',"
        "'size': %" PRId64 ", 'read-zeroes': true}}]}}", size,
        f->generation[0], size);
}

static void add_secondary(Fold *f, int speed)
{
    QTestState *qts = f->pair->secondary;

    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'raw',"
        "'node-name': 'image0', 'file': {'driver': 'file', 'filename': %s}}}",
        f->raw);
    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'quorum',"
        "'node-name': 'disk0', 'read-pattern': 'fifo', 'vote-threshold': 1,"
        "'children': [{'driver': 'replication', 'node-name': 'repl',"
        "'mode': 'secondary', 'top-id': 'disk0', 'generation-file': %s,"
        "'fold-speed': %d,"
        "'file': {'driver': 'qcow2',"
        "'file': {'driver': 'file', 'filename': %s}, 'backing': {"
        "'driver': 'qcow2', 'file': {'driver': 'file', 'filename': %s},"
        "'backing': 'image0'}}}]}}",
        f->generation[1], speed, f->active, f->hidden);
    disk_serve(qts, f->socket);
    qtest_qmp_assert_success(qts,
        "{'execute': 'block-export-add', 'arguments': {'type': 'nbd', "
        "'id': 't', 'node-name': 'disk0', 'name': 't', 'writable': true,"
        "'iothread': 'io0', 'fixed-iothread': true}}");
    f->guest = colo_nbd_client(f->socket, 't');
}

static Fold *fold_new_with(const void *mode, int speed, int mb)
{
    Fold *f = g_new0(Fold, 1);
    ColoPair *p = colo_pair_new_with(mode, "qtest", "-object iothread,id=io0");

    f->pair = p;
    colo_pair_unplug_net(p);
    f->raw = disk_new_file(p->dir, "image", false);
    f->active = disk_new_file(p->dir, "active", true);
    f->hidden = disk_new_file(p->dir, "hidden", true);
    g_assert_cmpint(truncate(f->raw, mb * MiB), ==, 0);
    mkqcow2(f->active, mb);
    mkqcow2(f->hidden, mb);
    f->generation[0] = g_build_filename(p->dir, "generation-0", NULL);
    f->generation[1] = g_build_filename(p->dir, "generation-1", NULL);
    f->socket = g_build_filename(p->dir, "nbd", NULL);
    add_primary(f, mb * MiB);
    add_secondary(f, speed);
    return f;
}

static Fold *fold_new(const void *mode)
{
    return fold_new_with(mode, 0, DISK_MB);
}

static void fold_free(Fold *f)
{
    close(f->guest);
    colo_pair_free(f->pair);
    g_free(f->raw);
    g_free(f->active);
    g_free(f->hidden);
    g_free(f->generation[0]);
    g_free(f->generation[1]);
    g_free(f->socket);
    g_free(f);
}

static char *generation(Fold *f)
{
    char *text;

    g_assert_true(g_file_get_contents(f->generation[1], &text, NULL, NULL));
    return text;
}

/* Who wants to read the generation has to wait; what it is */
static char *make_fifo(Fold *f)
{
    char *text = generation(f);

    g_assert_cmpint(unlink(f->generation[1]), ==, 0);
    g_assert_cmpint(mkfifo(f->generation[1], 0600), ==, 0);
    return text;
}

/* Somebody waits for it */
static int fifo_open(Fold *f)
{
    int fd = open(f->generation[1], O_WRONLY);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static void fifo_answer(int fd, const char *text)
{
    g_assert_cmpint(write(fd, text, strlen(text)), ==, strlen(text));
    close(fd);
}

/* The answer to a command for which the main loop had no time before */
static void get_answer(QTestState *qts)
{
    QDict *answer = qtest_qmp_receive(qts);

    g_assert_true(qdict_haskey(answer, "return"));
    qobject_unref(answer);
}

static void lose_primary(Fold *f)
{
    colo_pair_protect(f->pair);
    colo_kill(&f->pair->primary);
    colo_wait_state(f->pair->secondary, "lost");
}

static void test_failover(const void *mode)
{
    Fold *f = fold_new(mode);
    g_autofree char *text = NULL;
    int fd;

    lose_primary(f);
    text = make_fifo(f);
    qtest_qmp_send(f->pair->secondary, "{'execute': 'x-colo-lost-heartbeat'}");
    fd = fifo_open(f);
    colo_nbd_request(f->guest, NBD_FLUSH, 0, 0);
    g_assert_cmpint(colo_nbd_answer(f->guest), ==, 0);
    fifo_answer(fd, text);
    get_answer(f->pair->secondary);
    colo_wait_state(f->pair->secondary, "live");
    disk_wait_no_job(f->pair->secondary);
    disk_check_stage(f->pair->secondary, "folded");
    fold_free(f);
}

/* A job of that name: those of folding cannot begin */
static void take_name(QTestState *qts)
{
    const char *names[] = { "from", "to" };

    for (int i = 0; i < ARRAY_SIZE(names); i++) {
        qtest_qmp_assert_success(qts, "{'execute': 'blockdev-add', "
                                 "'arguments': {'driver': 'null-co', "
                                 "'node-name': %s, 'size': 65536, "
                                 "'read-zeroes': true}}", names[i]);
    }
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-mirror', "
                             "'arguments': {'job-id': 'replication-repl', "
                             "'device': 'from', 'target': 'to', "
                             "'sync': 'full'}}");
}

static void free_name(QTestState *qts)
{
    qtest_qmp_assert_success(qts, "{'execute': 'block-job-cancel', "
                             "'arguments': {'device': 'replication-repl', "
                             "'force': true}}");
    disk_wait_no_job(qts);
}

/* Fail over; the overlays stay what they are */
static void fail_over_unfolded(Fold *f)
{
    QTestState *qts = f->pair->secondary;

    lose_primary(f);
    take_name(qts);
    colo_failover(qts);
    colo_wait_state(qts, "live");
    qobject_unref(colo_wait_event(qts, "COLO_DISK_ERROR"));
    disk_check_stage(qts, "unfolded");
    free_name(qts);
}

static void fold(Fold *f)
{
    qtest_qmp_send(f->pair->secondary, "{'execute': 'x-colo-fold', "
                   "'arguments': {'disk': 'disk0'}}");
}

static void guest_writes(Fold *f, int byte, int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    memset(buf, byte, bytes);
    g_assert_cmpint(colo_nbd_pwrite(f->guest, buf, offset, bytes), ==, 0);
}

/*
 * The guest writes where the active overlay has something.  When it is told
 * that this is flushed a restart must not have that overlay above it.
 */
static void test_folded(const void *mode)
{
    Fold *f = fold_new(mode);
    struct pollfd answer = { .events = POLLIN };
    g_autofree char *before = NULL;
    g_autofree char *after = NULL;
    int fd;

    fail_over_unfolded(f);
    guest_writes(f, 0x31, 0, MiB);
    before = make_fifo(f);
    g_assert_nonnull(strstr(before, " folding\n"));
    fold(f);
    fd = fifo_open(f);
    guest_writes(f, 0x32, 0, MiB);
    colo_nbd_request(f->guest, NBD_FLUSH, 0, 0);
    answer.fd = f->guest;
    g_assert_cmpint(poll(&answer, 1, EARLY_MS), ==, 0);
    fifo_answer(fd, before);
    get_answer(f->pair->secondary);
    g_assert_cmpint(colo_nbd_answer(f->guest), ==, 0);
    after = generation(f);
    g_assert_nonnull(strstr(after, " alone\n"));
    g_assert_true(disk_file_has(f->raw, 0x32, 0, MiB));
    disk_wait_no_job(f->pair->secondary);
    disk_check_stage(f->pair->secondary, "folded");
    fold_free(f);
}

/* The file is no such file */
static void test_unrecorded(const void *mode)
{
    Fold *f = fold_new(mode);
    g_autofree char *before = NULL;
    QDict *event, *disk;

    fail_over_unfolded(f);
    before = make_fifo(f);
    fold(f);
    fifo_answer(fifo_open(f), "nothing\n");
    get_answer(f->pair->secondary);
    event = colo_wait_event(f->pair->secondary, "COLO_DISK_ERROR");
    qobject_unref(event);
    g_assert_cmpint(unlink(f->generation[1]), ==, 0);
    g_assert_true(g_file_set_contents(f->generation[1], before, -1, NULL));
    disk = disk_query(f->pair->secondary);
    g_assert_cmpstr(qdict_get_str(disk, "stage"), ==, "folded");
    g_assert_true(qdict_haskey(disk, "error"));
    qobject_unref(disk);
    fold_free(f);
}

/* What the job says; it is there */
static int64_t job_number(QTestState *qts, const char *key)
{
    QDict *answer = qtest_qmp(qts, "{'execute': 'query-block-jobs'}");
    QList *jobs = qdict_get_qlist(answer, "return");
    int64_t number;

    g_assert_cmpint(qlist_size(jobs), ==, 1);
    number = qdict_get_int(qobject_to(QDict, qlist_peek(jobs)), key);
    qobject_unref(answer);
    return number;
}

static void check_job(QTestState *qts, int64_t speed)
{
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;

    disk_check_stage(qts, "folding");
    g_assert_cmpint(job_number(qts, "speed"), ==, speed);
    /* It is known when the job runs */
    while (!job_number(qts, "len")) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
    g_assert_cmpint(job_number(qts, "offset"), <, job_number(qts, "len"));
}

static void set_speed(QTestState *qts, int64_t speed)
{
    qtest_qmp_assert_success(qts, "{'execute': 'block-job-set-speed', "
                             "'arguments': {'device': 'replication-repl', "
                             "'speed': %" PRId64 "}}", speed);
}

static void cancel(QTestState *qts)
{
    qtest_qmp_assert_success(qts, "{'execute': 'block-job-cancel', "
                             "'arguments': {'device': 'replication-repl', "
                             "'force': true}}");
    disk_wait_no_job(qts);
    disk_check_stage(qts, "unfolded");
}

static void test_speed(const void *mode)
{
    Fold *f = fold_new_with(mode, SPEED, LARGE_MB);
    QTestState *qts = f->pair->secondary;

    lose_primary(f);
    for (int i = 0; i < LARGE_MB; i++) {
        guest_writes(f, 0x51, i * MiB, MiB);
    }
    colo_failover(qts);
    colo_wait_state(qts, "live");
    qobject_unref(colo_wait_event(qts, "JOB_STATUS_CHANGE"));
    check_job(qts, SPEED);
    set_speed(qts, 2 * SPEED);
    check_job(qts, 2 * SPEED);
    cancel(qts);

    /* The node's, and another one */
    fold(f);
    get_answer(qts);
    check_job(qts, SPEED);
    cancel(qts);
    colo_refused(qts, "at most", "{'execute': 'x-colo-fold', 'arguments': {"
                 "'disk': 'disk0', 'speed': %" PRIu64 "}}",
                 (uint64_t)INT64_MAX + 1);
    qtest_qmp_assert_success(qts, "{'execute': 'x-colo-fold', 'arguments': {"
                             "'disk': 'disk0', 'speed': %d}}", 3 * SPEED);
    check_job(qts, 3 * SPEED);
    set_speed(qts, 0);
    disk_wait_no_job(qts);
    disk_check_stage(qts, "folded");
    g_assert_true(disk_file_has(f->raw, 0x51, 0, LARGE_MB * MiB));
    fold_free(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    colo_add("/colo/fold", "failover", test_failover);
    colo_add("/colo/fold", "folded", test_folded);
    colo_add("/colo/fold", "unrecorded", test_unrecorded);
    colo_add("/colo/fold", "speed", test_speed);
    return g_test_run();
}
