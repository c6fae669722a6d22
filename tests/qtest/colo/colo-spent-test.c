/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: overlays of the secondary that cannot be emptied.
 *
 * Pairs without a guest.  The emptying comes after the commit, so what the
 * primary's guest said until then is out.  Proves: with a primary that lives it
 * goes on, and the secondary ends; if it has died meanwhile, the secondary takes
 * over all the same, with what was written up to the checkpoint, and what its
 * guest writes then is in the disk, without a fold.  If it may not write to the
 * disk at that time, x-colo-fold lets it do so later, and still folds nothing.  In
 * no case does the generation ask for the overlays.  If the primary is only not
 * to be heard it does not go on by itself: whoever is told to does.  Who takes
 * over flushes the disk, without being asked.  If the file of an overlay hangs, or
 * the image in the middle of a write, the secondary answers, also if the session
 * ends; a primary that lives goes on after a timeout, and without one nothing is
 * given up.  A QEMU that is to end meanwhile does so with the file, and uses no CPU
 * time until then.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-hold.h"
#include "colo-pair-disk.h"

#define GUEST_DISK "-d /machine/peripheral/disk9/virtio-backend"
/* Some of it, or all, is waited for */
#define SHORT_TIMEOUT_MS 3000
#define WHY "the overlays cannot be emptied: "

typedef struct Spent {
    ColoPair *pair;
    char *raw[2];
    char *active;
    char *hidden;
    char *generation;
    char *socket;
} Spent;

/* The hidden overlay, which can be emptied once, when the session begins */
static QDict *fails_later(const char *file)
{
    return qdict_from_jsonf_nofail(
        "{'driver': 'blkdebug', 'image': %p,"
        "'set-state': [{'event': 'empty_image_prepare', 'state': 1,"
        "'new_state': 2}],"
        "'inject-error': [{'event': 'empty_image_prepare', 'state': 2,"
        "'errno': 5}]}", pair_disk_file(file));
}

/* The image: the first flush after a write fails */
static QDict *tells_flush(const char *file)
{
    return qdict_from_jsonf_nofail(
        "{'driver': 'blkdebug', 'image': %p,"
        "'set-state': [{'event': 'pwritev', 'state': 1, 'new_state': 2}],"
        "'inject-error': [{'event': 'flush_to_disk', 'state': 2,"
        "'iotype': 'flush', 'errno': 5, 'once': true}]}",
        pair_disk_file(file));
}

/* It has the file of the hidden overlay, which hangs when it stands */
static QTestState *store;

static QDict *hangs_later(const char *file)
{
    g_autofree char *path = g_strdup_printf("%s.nbd", file);

    /* A disk does not grow */
    g_assert_cmpint(truncate(file, 16 * MiB), ==, 0);
    store = qtest_init("-machine none");
    qtest_qmp_assert_success(store, "{'execute': 'blockdev-add',"
        "'arguments': {'driver': 'raw', 'node-name': 'file', 'file': {"
        "'driver': 'file', 'filename': %s}}}", file);
    disk_serve(store, path);
    disk_export(store, "file", "f", true);
    return qdict_from_jsonf_nofail(
        "{'driver': 'nbd', 'export': 'f', 'server': {'type': 'unix',"
        "'path': %s}}", path);
}

static Spent *spent_new_on(const void *mode, QDict *(*image)(const char *),
                           QDict *(*hidden)(const char *))
{
    Spent *t = g_new0(Spent, 1);
    ColoPair *p = colo_pair_new_with(mode, "qtest", "");

    t->pair = p;
    colo_pair_unplug_net(p);
    t->raw[0] = disk_new_file(p->dir, "image-0", false);
    t->raw[1] = disk_new_file(p->dir, "image-1", false);
    t->active = disk_new_file(p->dir, "active", true);
    t->hidden = disk_new_file(p->dir, "hidden", true);
    t->generation = g_build_filename(p->dir, "generation", NULL);
    t->socket = g_build_filename(p->dir, "nbd", NULL);
    pair_disk_add_secondary_on(p->secondary, image(t->raw[1]), t->active,
                               hidden(t->hidden), t->generation);
    qtest_qmp_assert_success(p->primary, "{'execute': 'blockdev-add',"
        "'arguments': {'driver': 'raw', 'node-name': 'local0', 'file': {"
        "'driver': 'file', 'filename': %s}}}", t->raw[0]);
    pair_disk_replicate(p, "local0", "image0", t->socket);
    return t;
}

static Spent *spent_new(const void *mode)
{
    return spent_new_on(mode, tells_flush, fails_later);
}

static void spent_free(Spent *t)
{
    colo_pair_free(t->pair);
    g_free(t->raw[0]);
    g_free(t->raw[1]);
    g_free(t->active);
    g_free(t->hidden);
    g_free(t->generation);
    g_free(t->socket);
    g_free(t);
}

static void check_said(QTestState *qts)
{
    QDict *status = colo_status(qts);
    const char *said = qdict_get_str(status, "message");

    g_test_message("%s", said);
    g_assert_nonnull(strstr(said, WHY));
    qobject_unref(status);
}

static void test_alive(const void *mode)
{
    Spent *t = spent_new(mode);
    ColoPair *p = t->pair;

    colo_pair_migrate(p, "mig", "mig", 10, SHORT_TIMEOUT_MS);
    colo_wait_state(p->primary, "alone");
    colo_wait_status(p->primary, "running");
    check_said(p->primary);
    disk_io_at(p->primary, GUEST_DISK, "write -P 5 4M 1M");
    g_assert_true(disk_file_has(t->raw[0], 5, 4 * MiB, MiB));
    colo_wait_state(p->secondary, "ended");
    check_said(p->secondary);
    colo_refused(p->secondary, "", "{'execute': 'x-colo-lost-heartbeat'}");
    spent_free(t);
}

/* The primary has sent a checkpoint, and none of it has arrived */
static ColoHold *hold_checkpoint(ColoPair *p, unsigned timeout_ms)
{
    ColoHold *h;

    colo_pair_migrate(p, "mig", NULL, 600000, timeout_ms);
    h = colo_hold_new(p->dir);
    colo_pair_migrate(p, NULL, "hold", 600000, timeout_ms);
    colo_wait_state(p->primary, "running");
    disk_io_at(p->primary, GUEST_DISK, "write -P 7 0 1M");
    qtest_memset(p->primary, 16 * MiB, 0x5a, 4096);
    colo_hold_arm(h);
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    colo_hold_await(h);
    colo_wait_state(p->primary, "committing");
    return h;
}

/* What was acknowledged before must not depend on this host any longer */
static void await_flush(QTestState *qts)
{
    bool told;

    do {
        QDict *event = qtest_qmp_eventwait_ref(qts, "COLO_DISK_ERROR");
        QDict *data = qdict_get_qdict(event, "data");

        told = strstr(qdict_get_str(data, "message"),
                      "the disk cannot be flushed");
        qobject_unref(event);
    } while (!told);
}

/* The guest's writes are in the disk, and nothing is to be folded */
static void check_disk(Spent *t)
{
    QTestState *qts = t->pair->secondary;

    disk_io_at(qts, GUEST_DISK, "write -P 9 2M 1M");
    disk_io_at(qts, GUEST_DISK, "flush");
    g_assert_true(disk_file_has(t->raw[1], 7, 0, MiB));
    g_assert_true(disk_file_has(t->raw[1], 9, 2 * MiB, MiB));
    colo_refused(qts, "nothing to be folded",
                 "{'execute': 'x-colo-fold', 'arguments': {'disk': 'disk0'}}");
}

/* Whoever starts again after a crash is not told to use the overlays */
static void check_generation(Spent *t)
{
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(t->generation, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "colo-disk-generation 1 alone\n");
}

static void check_live(Spent *t)
{
    QTestState *qts = t->pair->secondary;

    await_flush(qts);
    colo_wait_migrate(qts, "completed");
    colo_wait_status(qts, "running");
    check_generation(t);
    check_disk(t);
}

/* The primary has sent a checkpoint and dies before any of it has arrived */
static void lose_primary(Spent *t)
{
    ColoPair *p = t->pair;
    ColoHold *h = hold_checkpoint(p, COLO_TIMEOUT_MS);

    colo_kill(&p->primary);
    colo_hold_release(h);
    colo_wait_state(p->secondary, "lost");
    check_said(p->secondary);
    g_assert_cmpint(qtest_readb(p->secondary, 16 * MiB), ==, 0x5a);
    colo_hold_free(h);
}

static void test_dead(const void *mode)
{
    Spent *t = spent_new(mode);

    lose_primary(t);
    colo_failover(t->pair->secondary);
    check_live(t);
    spent_free(t);
}

/* As a QEMU does that lets nobody write to the file: its byte for that right */
static int forbid_writing(const char *path)
{
    struct flock fl = {
        .l_type = F_RDLCK,
        .l_whence = SEEK_SET,
        .l_start = 201,
        .l_len = 1,
    };
    int fd = open(path, O_RDONLY);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(fcntl(fd, F_OFD_SETLK, &fl), ==, 0);
    return fd;
}

static void test_locked(const void *mode)
{
    Spent *t = spent_new(mode);
    QTestState *qts = t->pair->secondary;
    int fd;

    lose_primary(t);
    qtest_qmp_assert_success(qts, "{'execute': 'nbd-server-stop'}");
    fd = forbid_writing(t->raw[1]);
    colo_failover(qts);
    colo_wait_migrate(qts, "completed");
    colo_wait_status(qts, "running");
    check_generation(t);
    colo_refused(qts, "lock",
                 "{'execute': 'x-colo-fold', 'arguments': {'disk': 'disk0'}}");
    close(fd);
    qtest_qmp_assert_success(qts, "{'execute': 'x-colo-fold',"
                             "'arguments': {'disk': 'disk0'}}");
    await_flush(qts);
    check_disk(t);
    spent_free(t);
}

/* What the secondary says arrives, but it hears nothing any more */
static void test_deaf(const void *mode)
{
    Spent *t = spent_new(mode);
    ColoPair *p = t->pair;
    ColoHold *h = hold_checkpoint(p, SHORT_TIMEOUT_MS);

    colo_hold_release_last(h);
    colo_wait_state(p->secondary, "lost");
    check_said(p->secondary);
    colo_wait_state(p->primary, "lost");
    colo_failover(p->secondary);
    check_live(t);
    colo_hold_free(h);
    spent_free(t);
}

/* QEMU answers until it is in @state, for @at_least microseconds */
static void answers_until(QTestState *qts, const char *state, int64_t at_least)
{
    int64_t begin = g_get_monotonic_time();
    bool there;

    do {
        int64_t asked = g_get_monotonic_time();
        QDict *status = colo_status(qts);

        there = !strcmp(qdict_get_str(status, "state"), state);
        qobject_unref(status);
        disk_check_time(asked);
    } while (!there || g_get_monotonic_time() - begin < at_least);
}

/* It does not fail, and does not end: the primary does not wait for that */
static void test_hung(const void *mode)
{
    Spent *t = spent_new_on(mode, pair_disk_file, hangs_later);
    ColoPair *p = t->pair;
    QDict *status;

    colo_pair_migrate(p, "mig", "mig", 10, SHORT_TIMEOUT_MS);
    colo_wait_statistic(p->primary, "checkpoints", 2);
    g_assert_cmpint(kill(qtest_pid(store), SIGSTOP), ==, 0);
    answers_until(p->secondary, "ended", 0);
    colo_wait_state(p->primary, "alone");
    colo_wait_status(p->primary, "running");
    status = colo_status(p->primary);
    g_test_message("%s", qdict_get_str(status, "message"));
    g_assert_nonnull(strstr(qdict_get_str(status, "message"),
                            "its overlays are not empty yet"));
    qobject_unref(status);
    colo_refused(p->secondary, "no COLO session",
                 "{'execute': 'x-colo-lost-heartbeat'}");

    /* Only now it has come to its end */
    g_assert_cmpint(kill(qtest_pid(store), SIGCONT), ==, 0);
    colo_wait_migrate(p->secondary, "failed");
    spent_free(t);
    qtest_quit(store);
}

/* Nobody else has what was let out, so this side waits for as long as it takes */
static void test_hung_dead(const void *mode)
{
    Spent *t = spent_new_on(mode, pair_disk_file, hangs_later);
    ColoPair *p = t->pair;
    QTestState *qts = p->secondary;

    colo_pair_migrate(p, "mig", "mig", 600000, SHORT_TIMEOUT_MS);
    colo_wait_state(p->primary, "running");
    disk_io_at(p->primary, GUEST_DISK, "write -P 7 0 1M");
    /* What is under way to the image would be waited for at the cut */
    while (!disk_file_has(t->raw[1], 7, 0, MiB)) {
        g_usleep(1000);
    }
    g_assert_cmpint(kill(qtest_pid(store), SIGSTOP), ==, 0);
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    answers_until(qts, "loading", 0);
    colo_kill(&p->primary);
    answers_until(qts, "loading", 2 * SHORT_TIMEOUT_MS * 1000LL);
    colo_failover(qts);
    answers_until(qts, "loading", SHORT_TIMEOUT_MS * 1000LL);

    g_assert_cmpint(kill(qtest_pid(store), SIGCONT), ==, 0);
    colo_wait_migrate(qts, "completed");
    colo_wait_status(qts, "running");
    disk_io_at(qts, GUEST_DISK, "read -P 7 0 1M");
    disk_io_at(qts, GUEST_DISK, "write -P 9 2M 1M");
    disk_io_at(qts, GUEST_DISK, "read -P 9 2M 1M");
    spent_free(t);
    qtest_quit(store);
}

/* The session ends in order, and nobody waits for that */
static void test_hung_end(const void *mode)
{
    Spent *t = spent_new_on(mode, pair_disk_file, hangs_later);
    ColoPair *p = t->pair;

    colo_pair_migrate(p, "mig", "mig", 600000, SHORT_TIMEOUT_MS);
    colo_wait_state(p->secondary, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
    g_assert_cmpint(kill(qtest_pid(store), SIGSTOP), ==, 0);
    qtest_qmp_assert_success(p->primary, "{'execute': 'migrate_cancel'}");
    answers_until(p->secondary, "ended", SHORT_TIMEOUT_MS * 1000LL);
    g_assert_cmpint(kill(qtest_pid(store), SIGCONT), ==, 0);
    colo_wait_migrate(p->secondary, "cancelled");
    spent_free(t);
    qtest_quit(store);
}

/* Nor if it is the image that hangs, in the middle of what the primary writes */
static void test_hung_image(const void *mode)
{
    Spent *t = spent_new_on(mode, hangs_later, pair_disk_file);
    ColoPair *p = t->pair;

    colo_pair_migrate(p, "mig", "mig", 600000, SHORT_TIMEOUT_MS);
    colo_wait_state(p->secondary, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
    disk_io_at(p->primary, GUEST_DISK, "write -P 7 0 1M");
    while (!disk_file_has(t->raw[1], 7, 0, MiB)) {
        g_usleep(1000);
    }
    g_assert_cmpint(kill(qtest_pid(store), SIGSTOP), ==, 0);
    disk_io_at(p->primary, GUEST_DISK, "write -P 8 0 1M");
    answers_until(p->secondary, colo_state_ready(p), 0);
    qtest_qmp_assert_success(p->primary, "{'execute': 'migrate_cancel'}");
    answers_until(p->secondary, "ended", 2 * SHORT_TIMEOUT_MS * 1000LL);
    g_assert_cmpint(kill(qtest_pid(store), SIGCONT), ==, 0);
    colo_wait_migrate(p->secondary, "cancelled");
    spent_free(t);
    qtest_quit(store);
}

/* CPU time of it, in clock ticks */
static unsigned long ticks(QTestState *qts)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", qtest_pid(qts));
    g_autofree char *text = NULL;
    unsigned long user, system;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpint(sscanf(strrchr(text, ')'), ") %*c %*d %*d %*d %*d %*d %*u "
                           "%*u %*u %*u %*u %lu %lu", &user, &system), ==, 2);
    return user + system;
}

/* QEMU is told to end meanwhile: it waits for the file and does nothing else */
static void test_hung_quit(const void *mode)
{
    Spent *t = spent_new_on(mode, pair_disk_file, hangs_later);
    ColoPair *p = t->pair;
    QTestState *qts = p->secondary;
    unsigned long before;

    colo_pair_migrate(p, "mig", "mig", 600000, SHORT_TIMEOUT_MS);
    colo_wait_state(qts, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
    g_assert_cmpint(kill(qtest_pid(store), SIGSTOP), ==, 0);
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    answers_until(qts, "loading", 0);
    colo_kill(&p->primary);
    qtest_qmp_send(qts, "{'execute': 'quit'}");
    /* It gives its session up after three timeouts */
    g_usleep(4 * SHORT_TIMEOUT_MS * 1000);
    before = ticks(qts);
    g_usleep(SHORT_TIMEOUT_MS * 1000);
    g_assert_cmpuint(ticks(qts) - before, <,
                     sysconf(_SC_CLK_TCK) * SHORT_TIMEOUT_MS / 1000 / 10);

    g_assert_cmpint(kill(qtest_pid(store), SIGCONT), ==, 0);
    qtest_wait_qemu(qts);
    qtest_quit(qts);
    p->secondary = NULL;
    spent_free(t);
    qtest_quit(store);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    colo_add("/colo/spent", "alive", test_alive);
    colo_add("/colo/spent", "dead", test_dead);
    colo_add("/colo/spent", "locked", test_locked);
    colo_add("/colo/spent", "deaf", test_deaf);
    colo_add("/colo/spent", "hung", test_hung);
    colo_add("/colo/spent", "hung-dead", test_hung_dead);
    colo_add("/colo/spent", "hung-end", test_hung_end);
    colo_add("/colo/spent", "hung-image", test_hung_image);
    colo_add("/colo/spent", "hung-quit", test_hung_quit);
    return g_test_run();
}
