/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: two that can talk never both go on, and silence is not the end.
 *
 * Proves: x-colo-lost-heartbeat on a side of a pair that is well makes that
 * side the service and ends the other one for good, whatever that is told
 * later; a side that was stopped meanwhile finds out as soon as it goes on.  A
 * peer that was silent for longer than the timeout and is heard again before
 * anything is decided is taken back, and the pair goes on protected.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "colo-relay.h"

/* Longer than it takes to look around while a side is stopped */
#define SHORT_TIMEOUT_MS    1000

/* Several times that in which a side that lives is heard */
#define EARLY_TIMEOUT_MS    4000

static ColoPair *pair_new(const char *mode, unsigned timeout_ms)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_migrate(p, "mig", "mig", 600000, timeout_ms);
    colo_wait_state(p->secondary, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
    return p;
}

static int64_t switchovers(QTestState *qts)
{
    QDict *status = colo_status(qts);
    QList *reasons = qdict_get_qlist(qdict_get_qdict(status, "statistics"),
                                     "reasons");
    const QListEntry *e;
    int64_t n = -1;

    QLIST_FOREACH_ENTRY(reasons, e) {
        QDict *r = qobject_to(QDict, qlist_entry_obj(e));

        if (!strcmp(qdict_get_str(r, "reason"), "switchover")) {
            n = qdict_get_int(r, "count");
        }
    }
    qobject_unref(status);
    return n;
}

/* The secondary goes on from where the primary's guest was stopped */
static void test_secondary(const void *mode)
{
    ColoPair *p = pair_new(mode, COLO_TIMEOUT_MS);

    colo_failover(p->secondary);
    colo_check_live(p->secondary);
    colo_check_ended(p->primary);
    g_assert_cmpint(switchovers(p->primary), ==, 1);
    g_assert_cmpint(colo_statistic(p->secondary, "checkpoints"), ==, 1);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_pair_free(p);
}

/* A guest that is paused is so on the other side, too */
static void test_paused(const void *mode)
{
    ColoPair *p = pair_new(mode, COLO_TIMEOUT_MS);

    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "paused");
    colo_check_ended(p->primary);
    qtest_qmp_assert_success(p->secondary, "{'execute': 'cont'}");
    colo_pair_free(p);
}

static void test_primary(const void *mode)
{
    ColoPair *p = pair_new(mode, COLO_TIMEOUT_MS);

    colo_failover(p->primary);
    colo_check_alone(p->primary);
    colo_check_ended(p->secondary);
    colo_pair_free(p);
}

static void test_force_secondary(const void *mode)
{
    ColoPair *p = pair_new(mode, COLO_TIMEOUT_MS);

    colo_force(p->secondary);
    colo_check_live(p->secondary);
    colo_check_ended(p->primary);
    g_assert_cmpint(switchovers(p->primary), ==, 0);
    colo_pair_free(p);
}

static void test_force_primary(const void *mode)
{
    ColoPair *p = pair_new(mode, COLO_TIMEOUT_MS);

    colo_force(p->primary);
    colo_check_alone(p->primary);
    colo_check_ended(p->secondary);
    colo_pair_free(p);
}

/* Both are told at once: whoever it is, it is one */
static void test_both(const void *mode)
{
    ColoPair *p = pair_new(mode, COLO_TIMEOUT_MS);

    qtest_qmp_send(p->primary, "{'execute': 'x-colo-lost-heartbeat'}");
    qtest_qmp_send(p->secondary, "{'execute': 'x-colo-lost-heartbeat'}");
    qobject_unref(qtest_qmp_receive(p->primary));
    qobject_unref(qtest_qmp_receive(p->secondary));
    colo_check_one(p);
    colo_pair_free(p);
}

/*
 * A process is stopped.  The other side is told to go on, before it has lost that
 * one or later; then that one goes on.
 */
static void goes_on_without(ColoPair *p, QTestState *stopped, bool when_lost)
{
    bool primary = stopped == p->primary;
    QTestState *other = primary ? p->secondary : p->primary;

    colo_stop_process(stopped);
    if (when_lost) {
        colo_wait_state(other, "lost");
    }
    colo_failover(other);
    if (primary) {
        colo_check_live(other);
    } else {
        colo_check_alone(other);
    }
    colo_continue_process(stopped);
    colo_check_ended(stopped);
    colo_pair_free(p);
}

static void test_stopped_primary(const void *mode)
{
    ColoPair *p = pair_new(mode, SHORT_TIMEOUT_MS);

    goes_on_without(p, p->primary, false);
}

/*
 * It may live, and let out what it has: an early word waits for the end of that.
 * The secondary has heard it last some time before the stop.
 */
static void test_early_word(const void *mode)
{
    ColoPair *p = pair_new(mode, EARLY_TIMEOUT_MS);
    int64_t begin;

    begin = g_get_monotonic_time();
    colo_stop_process(p->primary);
    colo_failover(p->secondary);
    colo_check_live(p->secondary);
    g_assert_cmpint(g_get_monotonic_time() - begin, >,
                    EARLY_TIMEOUT_MS / 2 * 1000LL);
    colo_continue_process(p->primary);
    colo_check_ended(p->primary);
    colo_pair_free(p);
}

static void test_lost_primary(const void *mode)
{
    ColoPair *p = pair_new(mode, SHORT_TIMEOUT_MS);

    goes_on_without(p, p->primary, true);
}

static void test_stopped_secondary(const void *mode)
{
    ColoPair *p = pair_new(mode, COLO_TIMEOUT_MS);

    goes_on_without(p, p->secondary, false);
}

static void test_lost_secondary(const void *mode)
{
    ColoPair *p = pair_new(mode, SHORT_TIMEOUT_MS);

    goes_on_without(p, p->secondary, true);
}

/* Protected as before: checkpoints are taken, and the secondary can go on */
static void check_goes_on(ColoPair *p)
{
    int64_t before;

    colo_wait_state(p->secondary, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
    before = colo_statistic(p->secondary, "checkpoints");
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    colo_wait_statistic(p->secondary, "checkpoints", before + 1);
    colo_wait_state(p->primary, "running");
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_failover(p->secondary);
    colo_check_live(p->secondary);
    colo_check_ended(p->primary);
}

/* A process is stopped until the other side has lost it, and goes on */
static void returns(ColoPair *p, QTestState *stopped)
{
    QTestState *other = stopped == p->primary ? p->secondary : p->primary;

    colo_stop_process(stopped);
    colo_wait_state(other, "lost");
    colo_continue_process(stopped);
    qobject_unref(colo_wait_event(other, "COLO_PEER_BACK"));
    check_goes_on(p);
    colo_pair_free(p);
}

static void test_return_primary(const void *mode)
{
    ColoPair *p = pair_new(mode, SHORT_TIMEOUT_MS);

    returns(p, p->primary);
}

static void test_return_secondary(const void *mode)
{
    ColoPair *p = pair_new(mode, SHORT_TIMEOUT_MS);

    returns(p, p->secondary);
}

/* The link is down for longer than the timeout: both lose the other */
static void test_return_link(const void *mode)
{
    ColoRelay *r;
    ColoPair *p = colo_relay_pair(mode, SHORT_TIMEOUT_MS, &r);

    colo_relay_hold(r, 0, true);
    colo_relay_hold(r, 1, true);
    colo_wait_state(p->primary, "lost");
    colo_wait_state(p->secondary, "lost");
    colo_relay_hold(r, 0, false);
    colo_relay_hold(r, 1, false);
    check_goes_on(p);
    colo_pair_free(p);
    colo_relay_free(r);
}

/* One way only: the other side must not believe that all is well */
static void test_one_way(const void *mode, int held)
{
    ColoRelay *r;
    ColoPair *p = colo_relay_pair(mode, SHORT_TIMEOUT_MS, &r);
    g_autofree char *primary = NULL;
    g_autofree char *secondary = NULL;

    colo_relay_hold(r, held, true);
    colo_wait_state(p->primary, "lost");
    colo_wait_state(p->secondary, "lost");
    g_usleep(2 * SHORT_TIMEOUT_MS * 1000);
    primary = colo_state(p->primary);
    secondary = colo_state(p->secondary);
    g_assert_cmpstr(primary, ==, "lost");
    g_assert_cmpstr(secondary, ==, "lost");
    colo_relay_hold(r, held, false);
    check_goes_on(p);
    colo_pair_free(p);
    colo_relay_free(r);
}

static void test_deaf_secondary(const void *mode)
{
    test_one_way(mode, 0);
}

static void test_deaf_primary(const void *mode)
{
    test_one_way(mode, 1);
}

/* The link is down, one side is told to go on; then it is up again */
static void test_link_decided(const void *mode)
{
    ColoRelay *r;
    ColoPair *p = colo_relay_pair(mode, SHORT_TIMEOUT_MS, &r);

    colo_relay_hold(r, 0, true);
    colo_relay_hold(r, 1, true);
    colo_wait_state(p->primary, "lost");
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_check_live(p->secondary);
    colo_wait_state(p->primary, "lost");
    colo_relay_hold(r, 0, false);
    colo_relay_hold(r, 1, false);
    colo_check_ended(p->primary);
    colo_pair_free(p);
    colo_relay_free(r);
}

/* A side that is lost ends at once: there is nobody to wait for */
static void test_quit_lost(const void *mode)
{
    ColoPair *p = pair_new(mode, COLO_TIMEOUT_MS / 2);
    int64_t begin;

    colo_stop_process(p->secondary);
    colo_wait_state(p->primary, "lost");
    begin = g_get_monotonic_time();
    colo_quit(&p->primary);
    g_assert_cmpint(g_get_monotonic_time() - begin, <,
                    COLO_TIMEOUT_MS / 2 * 1000LL);
    colo_continue_process(p->secondary);
    colo_pair_free(p);
}

static const struct {
    const char *name;
    void (*func)(const void *mode);
} tests[] = {
    { "secondary", test_secondary },
    { "paused", test_paused },
    { "primary", test_primary },
    { "force-secondary", test_force_secondary },
    { "force-primary", test_force_primary },
    { "both", test_both },
    { "stopped-primary", test_stopped_primary },
    { "early-word", test_early_word },
    { "lost-primary", test_lost_primary },
    { "stopped-secondary", test_stopped_secondary },
    { "lost-secondary", test_lost_secondary },
    { "return-primary", test_return_primary },
    { "return-secondary", test_return_secondary },
    { "return-link", test_return_link },
    { "deaf-secondary", test_deaf_secondary },
    { "deaf-primary", test_deaf_primary },
    { "link-decided", test_link_decided },
    { "quit-lost", test_quit_lost },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < G_N_ELEMENTS(tests); i++) {
        colo_add("/colo/switchover", tests[i].name, tests[i].func);
    }
    return g_test_run();
}
