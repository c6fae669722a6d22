/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO, and a checkpoint that takes too long.
 *
 * Proves: more than the staging area holds is sent while the guest runs,
 * however long that takes.  Past x-colo-max-pause the primary's guest goes on,
 * whatever the checkpoint waits for: a peer that does not read what is
 * streamed, in the middle of a frame; a disk of this side that hangs; a copy
 * of much memory.  Protection ends in order: the secondary hears of it and
 * never goes live.  A disk of the secondary that hangs ends protection, too.
 * The monitor answers meanwhile, also that of a secondary that puts many pages
 * in place.  A guest that the user has paused waits for nothing, so nothing
 * ends.  While much is sent, both can leave in order.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "colo-helpers.h"
#include "colo-hold.h"

#define MAX_PAUSE_MS    500

/* An answer takes a fraction of that; who hangs does not answer at all */
#define ANSWER_MAX_MS   2000

static const char with_disk[] = "-drive if=none,id=disk,driver=raw,"
    "file.driver=blkdebug,file.image.driver=null-co,file.image.size=1048576,"
    "file.image.read-zeroes=on";

/* No checkpoint comes by itself */
static void begin_session(ColoPair *p)
{
    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(p->primary, "running");
    colo_wait_state(p->secondary, colo_state_ready(p));
}

static void ask_checkpoint(ColoPair *p)
{
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
}

/* Wait for the state, and see that each answer comes soon */
static void wait_state_and_answers(QTestState *qts, const char *state)
{
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;

    for (;;) {
        int64_t asked = g_get_monotonic_time();
        g_autofree char *now = colo_state(qts);

        g_assert_cmpint(g_get_monotonic_time() - asked, <,
                        ANSWER_MAX_MS * 1000LL);
        if (g_strcmp0(now, state) == 0) {
            return;
        }
        g_assert_cmpint(asked, <, end);
        g_usleep(2000);
    }
}

static void check_exit(QTestState *qts, const char *reason)
{
    QDict *event = colo_wait_event(qts, "COLO_EXIT");

    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(event, "data"), "reason"),
                    ==, reason);
    qobject_unref(event);
}

/* The primary's guest is on its own */
static void check_alone(ColoPair *p)
{
    wait_state_and_answers(p->primary, "alone");
    colo_wait_status(p->primary, "running");
    check_exit(p->primary, "error");
    colo_wait_state(p->secondary, "ended");
}

static bool is_running(QTestState *qts)
{
    QDict *answer = qtest_qmp(qts, "{'execute': 'query-status'}");
    QDict *status = qdict_get_qdict(answer, "return");
    bool running = g_str_equal(qdict_get_str(status, "status"), "running");

    qobject_unref(answer);
    return running;
}

/* The first frame of what the staging area does not hold is half written */
static ColoHold *begin_stream(ColoPair *p)
{
    ColoHold *h = colo_hold_protect(p);

    qtest_memset(p->primary, 16 * MiB, 0x5a, 4 * MiB);
    colo_hold_arm(h);
    ask_checkpoint(p);
    colo_hold_await(h);
    return h;
}

/* The guest runs while it is sent, and what it writes meanwhile is not lost */
static void test_stream(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    int64_t done;
    ColoHold *h;

    p->primary_max_pause_ms = MAX_PAUSE_MS;
    h = begin_stream(p);
    done = colo_statistic(p->secondary, "checkpoints");
    wait_state_and_answers(p->primary, "cutting");
    g_assert_true(is_running(p->primary));
    /* Longer than a guest may stand */
    g_usleep(2 * MAX_PAUSE_MS * 1000);
    g_assert_true(is_running(p->primary));
    qtest_writeb(p->primary, 16 * MiB, 0xa5);
    qtest_writeb(p->primary, 20 * MiB, 0xa5);
    colo_hold_release(h);
    colo_wait_statistic(p->secondary, "checkpoints", done + 1);
    g_assert_cmphex(qtest_readb(p->secondary, 16 * MiB), ==, 0xa5);
    g_assert_cmphex(qtest_readb(p->secondary, 16 * MiB + 1), ==, 0x5a);
    g_assert_cmphex(qtest_readb(p->secondary, 20 * MiB - 1), ==, 0x5a);
    g_assert_cmphex(qtest_readb(p->secondary, 20 * MiB), ==, 0xa5);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_pair_free(p);
    colo_hold_free(h);
}

static void test_excess(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    ColoHold *h;

    p->primary_max_pause_ms = MAX_PAUSE_MS;
    h = colo_hold_protect(p);
    colo_hold_cut(h, p);
    colo_wait_status(p->primary, "running");
    colo_hold_release(h);
    check_alone(p);
    check_exit(p->secondary, "error");
    colo_pair_free(p);
    colo_hold_free(h);
}

static void test_paused(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    int64_t done;
    ColoHold *h;

    p->primary_max_pause_ms = 10;
    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    h = begin_stream(p);
    done = colo_statistic(p->primary, "checkpoints");
    colo_wait_state(p->primary, "cutting");
    /* Longer than a guest may stand that is not paused */
    g_usleep(20000);
    colo_hold_release(h);
    colo_wait_statistic(p->primary, "checkpoints", done + 1);
    colo_wait_status(p->primary, "paused");
    colo_pair_free(p);
    colo_hold_free(h);
}

static void disk(QTestState *qts, const char *command)
{
    g_autofree char *answer = qtest_hmp(qts, "qemu-io disk \"%s\"", command);

    g_assert_null(strstr(answer, "rror"));
}

/* A request is under way and is not answered */
static void disk_hangs(QTestState *qts)
{
    disk(qts, "break read_aio hang");
    disk(qts, "aio_read 0 512");
    disk(qts, "wait_break hang");
}

static void test_disk_primary(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "tcg", with_disk);
    QTestState *qts = p->primary;

    p->primary_max_pause_ms = MAX_PAUSE_MS;
    begin_session(p);
    disk_hangs(qts);
    ask_checkpoint(p);
    wait_state_and_answers(qts, "alone");
    check_alone(p);
    disk(qts, "resume hang");
    colo_pair_free(p);
}

/* A backup that the user of a secondary makes reads from a disk that hangs */
static void test_disk_secondary(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "tcg",
        "-drive if=none,id=disk,driver=null-co,size=1048576,"
        "latency-ns=600000000000 "
        "-drive if=none,id=target,driver=null-co,size=1048576");

    p->secondary_max_pause_ms = MAX_PAUSE_MS;
    begin_session(p);
    qtest_qmp_assert_success(p->secondary,
        "{'execute': 'blockdev-backup', 'arguments': {'job-id': 'backup', "
        "'device': 'disk', 'target': 'target', 'sync': 'full'}}");
    ask_checkpoint(p);
    wait_state_and_answers(p->secondary, "ended");
    check_exit(p->secondary, "error");
    colo_wait_state(p->primary, "alone");
    colo_wait_status(p->primary, "running");
    check_exit(p->primary, "error");
    colo_kill(&p->secondary);
    colo_pair_free(p);
}

/* A disk that is slow, but answers in time, ends nothing */
static void test_disk_slow(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "tcg", with_disk);
    int64_t done;

    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(p->primary, "running");
    done = colo_statistic(p->primary, "checkpoints");
    disk_hangs(p->primary);
    ask_checkpoint(p);
    wait_state_and_answers(p->primary, "cutting");
    disk(p->primary, "resume hang");
    colo_wait_statistic(p->primary, "checkpoints", done + 1);
    colo_wait_status(p->primary, "running");
    colo_pair_free(p);
}

/*
 * Much is to be sent while the guest runs, when the user ends the session: both
 * sides leave in order, without the rest.
 */
static void test_leave(const void *mode)
{
    const uint64_t first = 16 * MiB, size = 64 * MiB;
    ColoPair *p = colo_pair_new_with(mode, "tcg", "-m 128");
    ColoHold *h = colo_hold_protect(p);
    unsigned before, frames = size / COLO_HOLD_STAGING;

    qtest_memset(p->primary, first, 0x5a, size);
    colo_hold_arm(h);
    ask_checkpoint(p);
    colo_hold_await(h);
    before = colo_hold_count(h);
    qtest_qmp_assert_success(p->primary, "{'execute': 'migrate_cancel'}");
    colo_hold_release(h);
    colo_wait_state(p->primary, "alone");
    colo_wait_state(p->secondary, "ended");
    check_exit(p->primary, "request");
    check_exit(p->secondary, "request");
    /* Those that were on their way, and one that was begun */
    g_test_message("%u frames of %u", colo_hold_count(h) - before, frames);
    g_assert_cmpint(colo_hold_count(h) - before, <, frames / 4);
    colo_hold_free(h);
    colo_pair_free(p);
}

#ifdef CONFIG_COLO_FAULTS
/*
 * What was copied first becomes zero while the rest is copied: the same pages
 * are in the checkpoint, and in one frame, twice
 */
static void test_copied_twice(const void *mode)
{
    const uint64_t first = 16 * MiB, size = 64 * MiB, again = 512 * KiB;
    /* The staging area may hold half of that */
    ColoPair *p = colo_pair_new_with(mode, "tcg", "-m 256");
    int64_t done;

    begin_session(p);
    done = colo_statistic(p->secondary, "checkpoints");
    qtest_memset(p->primary, first, 0x5a, size);
    colo_fault(p->primary, "copy-pages", "hang");
    ask_checkpoint(p);
    /* It copies in rounds of 32 MiB, lower addresses first */
    for (int i = 0; i < 2; i++) {
        colo_wait_hang(p->primary, "copy-pages");
        colo_fault(p->primary, "copy-pages", "hang");
    }
    colo_wait_hang(p->primary, "copy-pages");
    qtest_memset(p->primary, first + size - again, 0, again);
    colo_fault(p->primary, "staging-alloc", "error");
    colo_wait_statistic(p->secondary, "checkpoints", done + 1);
    g_assert_cmphex(qtest_readb(p->secondary, first + size - again), ==, 0);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_pair_free(p);
}

/*
 * The secondary waits in the middle of a load, in which somebody writes to two
 * pages: what came with the checkpoint is there in the end.
 */
static void test_apply(const void *mode)
{
    const uint64_t first = 16 * MiB, size = 64 * MiB, last = first + size - 1;
    ColoPair *p = colo_pair_new_with(mode, "tcg", "-m 128");
    int64_t done;

    begin_session(p);
    done = colo_statistic(p->secondary, "checkpoints");
    qtest_memset(p->primary, first, 0x5a, size);
    colo_fault(p->secondary, "apply-pages", "hang");
    ask_checkpoint(p);
    wait_state_and_answers(p->secondary, "loading");
    colo_wait_hang(p->secondary, "apply-pages");
    qtest_writeb(p->secondary, first, 0xa5);
    qtest_writeb(p->secondary, last, 0xa5);
    colo_fault(p->secondary, "staging-alloc", "error");
    colo_wait_statistic(p->secondary, "checkpoints", done + 1);
    g_assert_cmphex(qtest_readb(p->secondary, first), ==, 0x5a);
    g_assert_cmphex(qtest_readb(p->secondary, last), ==, 0x5a);
    colo_pair_free(p);
}

#endif

/* All of it fits into the staging area, but it is not copied in 10 ms */
static void test_copy(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "tcg", "-m 512");

    qtest_qmp_assert_success(p->primary,
        "{'execute': 'migrate-set-parameters', 'arguments': {"
        "'x-colo-staging-limit': 1073741824}}");
    p->primary_max_pause_ms = 10;
    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(p->primary, "running");
    qtest_memset(p->primary, 16 * MiB, 0x5a, 448 * MiB);
    ask_checkpoint(p);
    check_alone(p);
    colo_pair_free(p);
}

static void add(const char *name, const char *mode, void (*func)(const void *))
{
    g_autofree char *path = g_strdup_printf("/colo/pause/%s/%s", mode, name);

    g_test_add_data_func(path, mode, func);
}

int main(int argc, char **argv)
{
    static const char *const modes[] = { "hybrid", "periodic" };

    g_test_init(&argc, &argv, NULL);
    for (int m = 0; m < G_N_ELEMENTS(modes); m++) {
        add("stream", modes[m], test_stream);
        add("excess", modes[m], test_excess);
        add("leave", modes[m], test_leave);
        add("disk/primary", modes[m], test_disk_primary);
        add("disk/slow", modes[m], test_disk_slow);
#ifdef CONFIG_COLO_FAULTS
        add("apply", modes[m], test_apply);
        add("copied-twice", modes[m], test_copied_twice);
#endif
    }
    /* In periodic mode its guest stands anyway */
    add("disk/secondary", "hybrid", test_disk_secondary);
    add("paused", "periodic", test_paused);
    add("copy", "periodic", test_copy);
    return g_test_run();
}
