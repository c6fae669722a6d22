/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO between two QEMUs.
 *
 * Proves: the monitor's part of the product does what the documentation says,
 * from entering COLO to each way out of it.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "colo-helpers.h"

#define RESET_PORT  0xcf9
#define RESET_VALUE 6

static void test_enter(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_protect(p);
    colo_wait_migrate(p->primary, "colo");
    colo_wait_migrate(p->secondary, "colo");
    colo_wait_status(p->secondary, colo_is_hybrid(p) ? "running" : "colo");
    colo_wait_statistic(p->secondary, "checkpoints-verified", 10);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_pair_free(p);
}

static void test_no_session(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    g_autofree char *state = colo_state(p->primary);
    g_autofree char *info = NULL;

    g_assert_null(state);
    colo_refused(p->primary, "no COLO session",
                 "{'execute': 'x-colo-lost-heartbeat'}");
    colo_refused(p->primary, "not the primary",
                 "{'execute': 'x-colo-checkpoint'}");
    info = qtest_hmp(p->primary, "info colo");
    g_assert_nonnull(strstr(info, "mode: none"));
    colo_pair_free(p);
}

static int64_t reason_count(QTestState *qts, const char *reason)
{
    QDict *status = qtest_qmp_assert_success_ref(qts,
        "{'execute': 'query-colo-status'}");
    QList *reasons = qdict_get_qlist(qdict_get_qdict(status, "statistics"),
                                     "reasons");
    const QListEntry *e;
    int64_t count = -1;

    QLIST_FOREACH_ENTRY(reasons, e) {
        QDict *r = qobject_to(QDict, qlist_entry_obj(e));

        if (!strcmp(qdict_get_str(r, "reason"), reason)) {
            count = qdict_get_int(r, "count");
        }
    }
    qobject_unref(status);
    return count;
}

static void test_on_request(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    for (int n = 1; n <= 5; n++) {
        colo_wait_state(p->primary, "running");
        qtest_qmp_assert_success(p->primary,
                                 "{'execute': 'x-colo-checkpoint'}");
        colo_wait_statistic(p->primary, "checkpoints", n);
    }
    g_assert_cmpint(reason_count(p->primary, "request"), ==, 5);
    g_assert_cmpint(reason_count(p->primary, "timer"), ==, 0);
    colo_refused(p->secondary, "not the primary",
                 "{'execute': 'x-colo-checkpoint'}");
    colo_pair_free(p);
}

static void test_parameters(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    QDict *params;

    qtest_qmp_assert_success(p->primary,
        "{'execute': 'migrate-set-parameters', 'arguments': {"
        "'x-colo-mode': %s}}", p->mode);
    params = qtest_qmp_assert_success_ref(p->primary,
        "{'execute': 'query-migrate-parameters'}");
    g_assert_cmpint(qdict_get_int(params, "x-checkpoint-delay"), ==, 0);
    g_assert_cmpint(qdict_get_int(params, "x-colo-timeout"), ==, 5000);
    g_assert_cmpint(qdict_get_int(params, "x-colo-staging-limit"), ==, 0);
    g_assert_cmpstr(qdict_get_str(params, "x-colo-mode"), ==, mode);
    qobject_unref(params);

    colo_refused(p->primary, "does not accept value 'continuous'",
                 "{'execute': 'migrate-set-parameters', 'arguments': {"
                 "'x-colo-mode': 'continuous'}}");
    for (unsigned ms = 99; ms <= 600001; ms += 600001 - 99) {
        colo_refused(p->primary, "between 100 and 600000 ms",
                     "{'execute': 'migrate-set-parameters', 'arguments': {"
                     "'x-colo-timeout': %u}}", ms);
    }
    colo_pair_free(p);
}

/* The survivor's next pair is as the last one was, whatever it had been told */
static void test_mode_stays(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    QDict *params;

    colo_pair_protect(p);
    qtest_qmp_assert_success(p->secondary,
        "{'execute': 'migrate-set-parameters', 'arguments': {"
        "'x-colo-mode': %s}}", colo_is_hybrid(p) ? "periodic" : "hybrid");
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_migrate(p->secondary, "completed");
    params = qtest_qmp_assert_success_ref(p->secondary,
        "{'execute': 'query-migrate-parameters'}");
    g_assert_cmpstr(qdict_get_str(params, "x-colo-mode"), ==, mode);
    qobject_unref(params);
    colo_pair_free(p);
}

static void test_capabilities(const void *mode)
{
    static const char *const others[] = {
        "switchover-ack", "postcopy-ram", "release-ram",
        "background-snapshot", "mapped-ram", "x-ignore-shared", "dirty-limit",
    };
    ColoPair *p = colo_pair_new(mode);

    for (int i = 0; i < G_N_ELEMENTS(others); i++) {
        colo_refused(p->primary, "x-colo is not compatible with",
                     "{'execute': 'migrate-set-capabilities', 'arguments': {"
                     "'capabilities': ["
                     "{'capability': 'x-colo', 'state': true},"
                     "{'capability': %s, 'state': true}]}}", others[i]);
    }
    colo_pair_free(p);
}

/* The message of an event COLO_PEER_LOST that has to be there */
static void check_peer_lost(QTestState *qts, const char *mode)
{
    QDict *event = colo_wait_event(qts, "COLO_PEER_LOST");
    QDict *data = qdict_get_qdict(event, "data");

    g_assert_cmpstr(qdict_get_str(data, "mode"), ==, mode);
    g_assert_cmpint(qdict_get_int(data, "epoch"), >, 0);
    g_assert_cmpstr(qdict_get_str(data, "message"), !=, "");
    qobject_unref(event);
}

static void check_exit(QTestState *qts, const char *mode, const char *reason)
{
    QDict *event = colo_wait_event(qts, "COLO_EXIT");
    QDict *data = qdict_get_qdict(event, "data");

    g_assert_cmpstr(qdict_get_str(data, "mode"), ==, mode);
    g_assert_cmpstr(qdict_get_str(data, "reason"), ==, reason);
    qobject_unref(event);
}

static void test_failover_primary(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_protect(p);
    colo_cut(p);
    colo_wait_state(p->primary, "lost");
    check_peer_lost(p->primary, "primary");
    colo_wait_status(p->primary, "running");
    colo_failover(p->primary);
    colo_wait_state(p->primary, "alone");
    check_exit(p->primary, "primary", "request");
    colo_wait_migrate(p->primary, "completed");
    colo_wait_status(p->primary, "running");
    colo_pair_free(p);
}

static void test_failover_secondary(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_protect(p);
    colo_cut(p);
    colo_wait_state(p->secondary, "lost");
    check_peer_lost(p->secondary, "secondary");
    colo_wait_status(p->secondary, colo_is_hybrid(p) ? "running" : "colo");
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    check_exit(p->secondary, "secondary", "request");
    colo_wait_status(p->secondary, "running");
    colo_wait_migrate(p->secondary, "completed");
    colo_pair_free(p);
}

static void test_killed_primary(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_protect(p);
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    check_peer_lost(p->secondary, "secondary");
    colo_wait_status(p->secondary, colo_is_hybrid(p) ? "running" : "colo");
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "running");
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_pair_free(p);
}

static void test_killed_secondary(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_protect(p);
    colo_kill(&p->secondary);
    colo_wait_state(p->primary, "lost");
    check_peer_lost(p->primary, "primary");
    colo_wait_status(p->primary, "running");
    colo_failover(p->primary);
    colo_wait_state(p->primary, "alone");
    colo_wait_status(p->primary, "running");
    colo_wait_migrate(p->primary, "completed");
    colo_pair_free(p);
}

/* The operator may decide although nothing is wrong */
static void test_planned_primary(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_protect(p);
    colo_failover(p->primary);
    colo_wait_state(p->primary, "alone");
    check_exit(p->primary, "primary", "request");
    colo_wait_status(p->primary, "running");
    colo_wait_state(p->secondary, "ended");
    colo_wait_status(p->secondary, "shutdown");
    colo_refused(p->primary, "no COLO session",
                 "{'execute': 'x-colo-lost-heartbeat'}");
    colo_pair_free(p);
}

static void test_planned_secondary(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_protect(p);
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "running");
    colo_wait_state(p->primary, "ended");
    check_exit(p->primary, "primary", "request");
    colo_wait_status(p->primary, "shutdown");
    colo_pair_free(p);
}

/* While the peer is lost it is too late to cancel */
static void test_cancel_lost(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_protect(p);
    colo_cut(p);
    colo_wait_state(p->primary, "lost");
    colo_refused(p->primary, "x-colo-lost-heartbeat",
                 "{'execute': 'migrate_cancel'}");
    colo_refused(p->primary, "not the primary",
                 "{'execute': 'x-colo-checkpoint'}");
    colo_wait_state(p->primary, "lost");
    colo_wait_migrate(p->primary, "colo");
    colo_failover(p->primary);
    colo_wait_state(p->primary, "alone");
    colo_wait_migrate(p->primary, "completed");
    colo_pair_free(p);
}

/* The survivor is an ordinary guest and gets a new secondary */
static void test_again_primary(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_protect(p);
    colo_kill(&p->secondary);
    colo_wait_state(p->primary, "lost");
    colo_failover(p->primary);
    colo_wait_migrate(p->primary, "completed");
    colo_pair_new_secondary(p);
    colo_pair_protect(p);
    colo_wait_statistic(p->secondary, "checkpoints-verified", 5);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_pair_free(p);
}

static void test_again_secondary(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_protect(p);
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_status(p->secondary, "running");
    colo_wait_migrate(p->secondary, "completed");
    p->primary = g_steal_pointer(&p->secondary);
    colo_pair_new_secondary(p);
    colo_pair_protect(p);
    colo_wait_statistic(p->secondary, "checkpoints-verified", 5);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_pair_free(p);
}

static void test_again_cancelled(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_protect(p);
    qtest_qmp_assert_success(p->primary, "{'execute': 'migrate_cancel'}");
    colo_wait_migrate(p->primary, "cancelled");
    colo_wait_state(p->secondary, "ended");
    colo_quit(&p->secondary);
    colo_pair_new_secondary(p);
    colo_pair_protect(p);
    colo_pair_free(p);
}

/* A new delay is for the epoch that runs, too */
static void test_delay_changed(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(p->primary, "running");
    g_assert_cmpint(colo_statistic(p->primary, "checkpoints"), ==, 0);
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'migrate-set-parameters', 'arguments': {"
        "'x-checkpoint-delay': 10}}");
    colo_wait_statistic(p->primary, "checkpoints", 5);
    g_assert_cmpint(reason_count(p->primary, "timer"), >=, 5);
    g_assert_cmpint(reason_count(p->primary, "request"), ==, 0);
    colo_pair_free(p);
}

/* Idle for several times the timeout: pings keep the session alive */
static void test_idle(const void *mode)
{
    const int timeout_ms = COLO_TIMEOUT_MS / 6;
    ColoPair *p = colo_pair_new(mode);
    int64_t end;

    colo_pair_migrate(p, "mig", "mig", 600000, timeout_ms);
    colo_wait_state(p->secondary, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
    end = g_get_monotonic_time() + 3 * timeout_ms * 1000;
    while (g_get_monotonic_time() < end) {
        g_autofree char *primary = colo_state(p->primary);
        g_autofree char *secondary = colo_state(p->secondary);

        g_assert_cmpstr(primary, ==, "running");
        g_assert_cmpstr(secondary, ==, colo_state_ready(p));
        g_usleep(10 * 1000);
    }
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    colo_wait_statistic(p->primary, "checkpoints", 1);
    colo_pair_free(p);
}

static void test_paused(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_protect(p);
    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    colo_wait_statistic(p->primary, "checkpoints",
                        colo_statistic(p->primary, "checkpoints") + 5);
    colo_wait_status(p->primary, "paused");
    qtest_qmp_assert_success(p->primary, "{'execute': 'cont'}");
    colo_wait_status(p->primary, "running");
    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    colo_wait_statistic(p->primary, "checkpoints",
                        colo_statistic(p->primary, "checkpoints") + 2);
    colo_cut(p);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_status(p->secondary, "paused");
    qtest_qmp_assert_success(p->secondary, "{'execute': 'cont'}");
    colo_wait_status(p->secondary, "running");
    colo_pair_free(p);
}

static void test_refused(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    QTestState *both[2];

    colo_pair_protect(p);
    colo_refused(p->secondary, "follows the primary", "{'execute': 'stop'}");
    colo_refused(p->secondary, "follows the primary", "{'execute': 'cont'}");
    colo_refused(p->secondary, "follows the primary",
                 "{'execute': 'system_reset'}");
    both[0] = p->primary;
    both[1] = p->secondary;
    for (int i = 0; i < 2; i++) {
        colo_refused(both[i], "in a COLO session",
                     "{'execute': 'blockdev-set-active', 'arguments': {"
                     "'active': false}}");
        colo_refused(both[i], "while migrating",
                     "{'execute': 'device_add', 'arguments': {"
                     "'driver': 'virtio-rng-pci'}}");
        colo_refused(both[i], i ? "follows the primary" : "in progress",
                     "{'execute': 'migrate', 'arguments': {"
                     "'uri': 'unix:/nowhere'}}");
    }
    qtest_qmp_assert_success(p->primary, "{'execute': 'system_reset'}");
    colo_wait_statistic(p->secondary, "checkpoints-verified",
        colo_statistic(p->secondary, "checkpoints-verified") + 10);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_pair_free(p);
}

static void test_gate(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_refused(p->primary, "needs 'all'",
                 "{'execute': 'object-add', 'arguments': {"
                 "'qom-type': 'filter-output-commit', 'id': 'oc1',"
                 "'netdev': 'hn0', 'queue': 'tx'}}");
    colo_refused(p->primary, "status=off",
                 "{'execute': 'object-add', 'arguments': {"
                 "'qom-type': 'filter-output-commit', 'id': 'oc1',"
                 "'netdev': 'hn0', 'status': 'off'}}");
    colo_refused(p->primary, "max-queue-bytes",
                 "{'execute': 'object-add', 'arguments': {"
                 "'qom-type': 'filter-output-commit', 'id': 'oc1',"
                 "'netdev': 'hn0', 'max-queue-bytes': 69631}}");
    colo_refused(p->primary, "max-queue-bytes",
                 "{'execute': 'object-add', 'arguments': {"
                 "'qom-type': 'filter-output-commit', 'id': 'oc1',"
                 "'netdev': 'hn0', 'max-queue-bytes': 4294967296}}");
    colo_refused(p->primary, "netdev",
                 "{'execute': 'object-add', 'arguments': {"
                 "'qom-type': 'filter-output-commit', 'id': 'oc1',"
                 "'netdev': 'none'}}");
    colo_pair_protect(p);
    colo_refused(p->primary, "in use",
                 "{'execute': 'object-del', 'arguments': {'id': 'oc0'}}");
    colo_refused(p->primary, "cannot be switched off",
                 "{'execute': 'qom-set', 'arguments': {'path': '/objects/oc0',"
                 "'property': 'status', 'value': 'off'}}");
    colo_cut(p);
    colo_wait_state(p->primary, "lost");
    colo_failover(p->primary);
    colo_wait_state(p->primary, "alone");
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'object-del', 'arguments': {'id': 'oc0'}}");
    colo_pair_free(p);
}

static void test_cancel(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_protect(p);
    qtest_qmp_assert_success(p->primary, "{'execute': 'migrate_cancel'}");
    colo_wait_migrate(p->primary, "cancelled");
    colo_wait_state(p->primary, "alone");
    colo_wait_status(p->primary, "running");
    check_exit(p->primary, "primary", "request");
    colo_wait_status(p->secondary, "shutdown");
    colo_wait_state(p->secondary, "ended");
    check_exit(p->secondary, "secondary", "request");
    colo_refused(p->secondary, "no COLO session",
                 "{'execute': 'x-colo-lost-heartbeat'}");
    colo_pair_free(p);
}

static void test_quit_secondary(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    g_autofree char *info = NULL;

    colo_pair_protect(p);
    colo_quit(&p->secondary);
    colo_wait_state(p->primary, "alone");
    colo_wait_status(p->primary, "running");
    info = qtest_hmp(p->primary, "info colo");
    g_assert_nonnull(strstr(info, "state: alone"));
    colo_pair_free(p);
}

static void test_quit_primary(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_protect(p);
    colo_quit(&p->primary);
    colo_wait_state(p->secondary, "ended");
    colo_wait_status(p->secondary, "shutdown");
    colo_pair_free(p);
}

/* The guest asks for a reset, by the chipset's register */
static void guest_resets(QTestState *qts)
{
    qtest_outb(qts, RESET_PORT, RESET_VALUE);
}

/*
 * A secondary's guest that reboots, where that means the end of QEMU: whether
 * it does is what the primary's says.
 */
static void test_reboot_is_end(void)
{
    ColoPair *p = colo_pair_new_with("hybrid", "tcg", "-no-reboot");

    colo_pair_protect(p);
    guest_resets(p->secondary);
    colo_wait_statistic(p->primary, "checkpoints",
                        colo_statistic(p->primary, "checkpoints") + 5);
    colo_wait_state(p->secondary, "running");
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_pair_free(p);
}

/* The same, and no checkpoint comes: it is carried out when this side lives */
static void test_reboot_is_end_failover(void)
{
    ColoPair *p = colo_pair_new_with("hybrid", "tcg",
                                     "-no-reboot -no-shutdown");

    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(p->secondary, "running");
    colo_wait_state(p->primary, "running");
    guest_resets(p->secondary);
    colo_wait_status(p->secondary, "colo");
    colo_cut(p);
    colo_wait_state(p->secondary, "lost");
    colo_wait_status(p->secondary, "colo");
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "shutdown");
    colo_refused(p->secondary, "Resetting the Virtual Machine is required",
                 "{'execute': 'cont'}");
    colo_pair_free(p);
}

/* What a guest asked for that stands is void when a checkpoint comes */
static void test_reset_standing(void)
{
    ColoPair *p = colo_pair_new("hybrid");

    colo_pair_protect(p);
    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    colo_wait_statistic(p->primary, "checkpoints",
                        colo_statistic(p->primary, "checkpoints") + 2);
    colo_wait_status(p->secondary, "colo");
    for (int i = 0; i < 5; i++) {
        guest_resets(p->secondary);
        colo_wait_status(p->secondary, "colo");
        colo_wait_statistic(p->primary, "checkpoints",
                            colo_statistic(p->primary, "checkpoints") + 2);
    }
    qtest_qmp_assert_success(p->primary, "{'execute': 'cont'}");
    colo_wait_status(p->secondary, "running");
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_pair_free(p);
}

/* Each runs in both modes */
static const struct {
    const char *name;
    void (*func)(const void *mode);
} tests[] = {
    { "enter", test_enter },
    { "no-session", test_no_session },
    { "on-request", test_on_request },
    { "parameters", test_parameters },
    { "mode-stays", test_mode_stays },
    { "capabilities", test_capabilities },
    { "failover/primary", test_failover_primary },
    { "failover/secondary", test_failover_secondary },
    { "killed/primary", test_killed_primary },
    { "killed/secondary", test_killed_secondary },
    { "planned/primary", test_planned_primary },
    { "planned/secondary", test_planned_secondary },
    { "again/primary", test_again_primary },
    { "again/secondary", test_again_secondary },
    { "again/cancelled", test_again_cancelled },
    { "delay-changed", test_delay_changed },
    { "idle", test_idle },
    { "paused", test_paused },
    { "refused", test_refused },
    { "gate", test_gate },
    { "cancel/running", test_cancel },
    { "cancel/lost", test_cancel_lost },
    { "quit/secondary", test_quit_secondary },
    { "quit/primary", test_quit_primary },
};

int main(int argc, char **argv)
{
    static const char *const modes[] = { "hybrid", "periodic" };

    g_test_init(&argc, &argv, NULL);
    for (int m = 0; m < G_N_ELEMENTS(modes); m++) {
        for (int i = 0; i < G_N_ELEMENTS(tests); i++) {
            g_autofree char *path = g_strdup_printf("/colo/migration/%s/%s",
                                                    modes[m], tests[i].name);

            g_test_add_data_func(path, modes[m], tests[i].func);
        }
    }
    /* In periodic mode the secondary's guest asks for nothing */
    qtest_add_func("/colo/migration/hybrid/reboot-is-end/secondary",
                   test_reboot_is_end);
    qtest_add_func("/colo/migration/hybrid/reboot-is-end/failover",
                   test_reboot_is_end_failover);
    qtest_add_func("/colo/migration/hybrid/reset-standing",
                   test_reset_standing);
    return g_test_run();
}
