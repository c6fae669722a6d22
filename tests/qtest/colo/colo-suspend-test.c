/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO, and a guest that goes to sleep (ACPI S3).
 *
 * Proves: the survivor sleeps if the guest did at the last checkpoint, and
 * wakes up when it is told to; it runs if the guest was woken in the session.
 * One that is woken while it stands for a checkpoint is awake afterwards.
 * A guest that was paused while it slept is paused, and sleeps after 'cont'.
 * Whether the stream has the global state, which is that of the first
 * migration, does not matter.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "colo-helpers.h"
#include "colo-hold.h"

/* PM1 control of the pc, where its firmware puts it */
#define PM1_CONTROL     0x604
#define PM1_NOT_YET     0xffff
#define PM1_SLEEP_S3    0x2400

typedef struct Case {
    const char *name;
    const char *mode;
    const char *options;
} Case;

static ColoPair *pair_new(const Case *c)
{
    ColoPair *p = colo_pair_new_with(c->mode, "tcg", c->options);
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;

    while (qtest_inw(p->primary, PM1_CONTROL) == PM1_NOT_YET) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
    return p;
}

/* A session whose epochs end when the test asks for it */
static void begin_session(ColoPair *p)
{
    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(p->secondary, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
}

static void checkpoint(ColoPair *p)
{
    int64_t done = colo_statistic(p->primary, "checkpoints");

    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    colo_wait_statistic(p->primary, "checkpoints", done + 1);
    colo_wait_state(p->primary, "running");
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
}

static void sleep_s3(ColoPair *p)
{
    qtest_outw(p->primary, PM1_CONTROL, PM1_SLEEP_S3);
    colo_wait_status(p->primary, "suspended");
}

static void wake_up(QTestState *qts)
{
    qtest_qmp_assert_success(qts, "{'execute': 'system_wakeup'}");
    colo_wait_status(qts, "running");
}

/* In hybrid mode it does what the primary's guest does */
static void check_secondary(ColoPair *p, const char *status)
{
    colo_wait_status(p->secondary, colo_is_hybrid(p) ? status : "colo");
}

static void fail_over(ColoPair *p)
{
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    colo_wait_migrate(p->secondary, "completed");
}

static void test_sleeps(const void *opaque)
{
    ColoPair *p = pair_new(opaque);

    begin_session(p);
    checkpoint(p);
    sleep_s3(p);
    checkpoint(p);
    checkpoint(p);
    colo_wait_status(p->primary, "suspended");
    check_secondary(p, "suspended");
    fail_over(p);
    colo_wait_status(p->secondary, "suspended");
    wake_up(p->secondary);
    colo_pair_free(p);
}

static void test_wakes(const void *opaque)
{
    ColoPair *p = pair_new(opaque);

    sleep_s3(p);
    begin_session(p);
    checkpoint(p);
    check_secondary(p, "suspended");
    wake_up(p->primary);
    if (!colo_is_hybrid(p)) {
        checkpoint(p);
    }
    /* In hybrid mode nobody has to ask for a checkpoint */
    check_secondary(p, "running");
    fail_over(p);
    colo_wait_status(p->secondary, "running");
    colo_pair_free(p);
}

/* The cut lasts until what is streamed has gone */
static void test_wakes_in_cut(const void *opaque)
{
    ColoPair *p = pair_new(opaque);
    ColoHold *h;

    sleep_s3(p);
    h = colo_hold_protect(p);
    colo_hold_cut(h, p);
    qtest_qmp_assert_success(p->primary, "{'execute': 'system_wakeup'}");
    colo_hold_release(h);
    colo_wait_status(p->primary, "running");
    colo_wait_state(p->primary, "running");
    checkpoint(p);
    check_secondary(p, "running");
    fail_over(p);
    colo_wait_status(p->secondary, "running");
    colo_pair_free(p);
    colo_hold_free(h);
}

static void test_paused(const void *opaque)
{
    ColoPair *p = pair_new(opaque);

    begin_session(p);
    sleep_s3(p);
    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    colo_wait_status(p->primary, "paused");
    checkpoint(p);
    fail_over(p);
    colo_wait_status(p->secondary, "paused");
    qtest_qmp_assert_success(p->secondary, "{'execute': 'cont'}");
    colo_wait_status(p->secondary, "suspended");
    wake_up(p->secondary);
    colo_pair_free(p);
}

int main(int argc, char **argv)
{
    static const Case cases[] = {
        { "hybrid", "hybrid", "" },
        { "periodic", "periodic", "" },
        { "no-global-state", "periodic",
          "-global migration.store-global-state=off" },
    };
    static const struct {
        const char *name;
        void (*func)(const void *opaque);
    } tests[] = {
        { "sleeps", test_sleeps },
        { "wakes", test_wakes },
        { "wakes-in-cut", test_wakes_in_cut },
        { "paused", test_paused },
    };

    g_test_init(&argc, &argv, NULL);
    for (int c = 0; c < G_N_ELEMENTS(cases); c++) {
        for (int i = 0; i < G_N_ELEMENTS(tests); i++) {
            g_autofree char *path = g_strdup_printf(
                "/colo/suspend/%s/%s", cases[c].name, tests[i].name);

            g_test_add_data_func(path, &cases[c], tests[i].func);
        }
    }
    return g_test_run();
}
