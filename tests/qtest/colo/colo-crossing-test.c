/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what is said to one side while the other one is on its way out, or has
 * not begun.
 *
 * Proves: a primary that hands over is not told to go on as long as the
 * secondary may take over, nor to stop, reset or let go on the guest that it
 * hands over; when nobody answers and it has been told to go on, a secondary
 * that hears the handover later does not; nor do both that are told before
 * their session has begun, nor does a secondary that has not been told to
 * start; one that ends in place of taking over leaves the guest where it was.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "colo-relay.h"

#ifdef CONFIG_COLO_FAULTS

#define SHORT_TIMEOUT_MS    1000

/* A fault that never comes: whoever hangs goes on */
static void go_on(QTestState *qts)
{
    colo_fault(qts, "primary-state-none", "kill");
}

/*
 * The secondary has been told to go on, and has loaded the last checkpoint; the
 * primary is about to say 'handover', and hangs
 */
static void begin_handover(ColoPair *p)
{
    colo_fault(p->primary, "primary-send-handover", "hang");
    colo_failover(p->secondary);
    colo_wait_hang(p->primary, "primary-send-handover");
}

static ColoPair *pair_new(const char *mode, unsigned timeout_ms)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_migrate(p, "mig", "mig", 600000, timeout_ms);
    colo_wait_state(p->secondary, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
    return p;
}

static void test_refused(const void *mode)
{
    ColoPair *p = pair_new(mode, COLO_TIMEOUT_MS);
    static const char *const commands[] = {
        "stop", "cont", "system_reset", "system_powerdown", "migrate_cancel",
    };

    begin_handover(p);
    colo_refused(p->primary, "handing over",
                 "{'execute': 'x-colo-lost-heartbeat'}");
    for (int i = 0; i < G_N_ELEMENTS(commands); i++) {
        colo_refused(p->primary, "hands its guest over", "{'execute': %s}",
                     commands[i]);
    }
    go_on(p->primary);
    colo_check_live(p->secondary);
    colo_check_ended(p->primary);
    colo_pair_free(p);
}

/* A guest that is paused does not go on where it is not the service any more */
static void test_paused(const void *mode)
{
    ColoPair *p = pair_new(mode, COLO_TIMEOUT_MS);

    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    begin_handover(p);
    colo_refused(p->primary, "hands its guest over", "{'execute': 'cont'}");
    colo_refused(p->primary, "hands its guest over",
                 "{'execute': 'system_reset'}");
    go_on(p->primary);
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "paused");
    colo_check_ended(p->primary);
    colo_pair_free(p);
}

/* The primary has the guest again, and does what it is told */
static void check_has_guest(ColoPair *p)
{
    colo_check_alone(p->primary);
    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    colo_wait_status(p->primary, "paused");
    qtest_qmp_assert_success(p->primary, "{'execute': 'cont'}");
    colo_wait_status(p->primary, "running");
}

/* The secondary hears of it when the primary has long gone on */
static void test_late(const void *mode)
{
    ColoPair *p = pair_new(mode, SHORT_TIMEOUT_MS);

    begin_handover(p);
    colo_stop_process(p->secondary);
    go_on(p->primary);
    colo_wait_state(p->primary, "lost");
    colo_failover(p->primary);
    check_has_guest(p);
    colo_continue_process(p->secondary);
    colo_check_ended(p->secondary);
    check_has_guest(p);
    colo_pair_free(p);
}

/* Its bye is no answer to the handover, which comes to it later */
static void test_quit(const void *mode)
{
    ColoRelay *r;
    ColoPair *p = colo_relay_pair(mode, COLO_TIMEOUT_MS, &r);

    begin_handover(p);
    colo_relay_hold(r, COLO_RELAY_PRIMARY, true);
    go_on(p->primary);
    qtest_qmp_assert_success(p->secondary, "{'execute': 'quit'}");
    check_has_guest(p);
    colo_relay_hold(r, COLO_RELAY_PRIMARY, false);
    qtest_wait_qemu(p->secondary);
    colo_pair_free(p);
    colo_relay_free(r);
}

/* Both are told before 'start' */
static void test_starting(ColoPair *p, bool primary_first)
{
    colo_fault(p->primary, "primary-send-start", "hang");
    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_hang(p->primary, "primary-send-start");
    colo_wait_state(p->secondary, "starting");
    colo_failover(primary_first ? p->primary : p->secondary);
    colo_failover(primary_first ? p->secondary : p->primary);
    go_on(p->primary);
    colo_check_one(p);
    colo_pair_free(p);
}

static void test_starting_primary(const void *mode)
{
    test_starting(colo_pair_new(mode), true);
}

static void test_starting_secondary(const void *mode)
{
    test_starting(colo_pair_new(mode), false);
}

/* A primary that has not said 'start' goes on unasked: it may live */
static void test_unstarted(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_fault(p->primary, "primary-send-start", "hang");
    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_hang(p->primary, "primary-send-start");
    colo_wait_state(p->secondary, "starting");
    colo_failover(p->secondary);
    colo_cut(p);
    colo_wait_state(p->secondary, "lost");
    colo_refused(p->secondary, "before it said 'start'",
                 "{'execute': 'x-colo-lost-heartbeat'}");
    go_on(p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_kill(&p->primary);
    colo_force(p->secondary);
    colo_check_live(p->secondary);
    colo_pair_free(p);
}

static const struct {
    const char *name;
    void (*func)(const void *mode);
} tests[] = {
    { "refused", test_refused },
    { "paused", test_paused },
    { "late", test_late },
    { "quit", test_quit },
    { "unstarted", test_unstarted },
    { "starting/primary", test_starting_primary },
    { "starting/secondary", test_starting_secondary },
};

#endif

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#ifdef CONFIG_COLO_FAULTS
    for (int i = 0; i < G_N_ELEMENTS(tests); i++) {
        colo_add("/colo/crossing", tests[i].name, tests[i].func);
    }
#endif
    return g_test_run();
}
