/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: is the guest protected, and if not, why?
 *
 * Proves: query-colo-status, info colo and COLO_PROTECTION tell on both sides
 * when protection begins and ends, who the peer is, and why it ended; a
 * failover that was asked for is no error.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "colo-helpers.h"

static void check_protected(QTestState *qts, bool is_protected)
{
    QDict *status = colo_status(qts);

    g_assert_cmpint(qdict_get_bool(status, "protected"), ==, is_protected);
    qobject_unref(status);
}

/* The next COLO_PROTECTION; @text is in its message, NULL: it has none */
static void expect_event(QTestState *qts, bool is_protected, const char *side,
                         const char *text)
{
    QDict *event = colo_wait_event(qts, "COLO_PROTECTION");
    QDict *data = qdict_get_qdict(event, "data");
    const char *message = qdict_get_try_str(data, "message");

    g_assert_cmpint(qdict_get_bool(data, "protected"), ==, is_protected);
    g_assert_cmpstr(qdict_get_str(data, "mode"), ==, side);
    if (text) {
        g_assert_nonnull(message);
        g_assert_nonnull(strstr(message, text));
    } else {
        g_assert_null(message);
    }
    qobject_unref(event);
}

static void check_begun(ColoPair *p, QTestState *qts, const char *side,
                        int64_t begin_s)
{
    g_autofree char *peer = g_strdup_printf("unix:%s/mig", p->dir);
    QDict *status = colo_status(qts);

    expect_event(qts, true, side, NULL);
    g_assert_true(qdict_get_bool(status, "protected"));
    g_assert_cmpint(qdict_get_int(status, "since"), >=, begin_s);
    g_assert_cmpint(qdict_get_int(status, "since"), <=,
                    g_get_real_time() / G_USEC_PER_SEC);
    g_assert_cmpstr(qdict_get_str(status, "peer"), ==, peer);
    g_assert_false(qdict_haskey(status, "message"));
    qobject_unref(status);
}

/* Whether "info colo" tells people what to type */
static void check_advice(QTestState *qts, bool expected)
{
    g_autofree char *info = qtest_hmp(qts, "info colo");

    g_assert_cmpint(strstr(info, "x_colo_lost_heartbeat lets this side go on")
                    != NULL, ==, expected);
}

static ColoPair *begin(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    int64_t begin_s = g_get_real_time() / G_USEC_PER_SEC;

    check_protected(p->primary, false);
    check_protected(p->secondary, false);
    colo_pair_unplug_net(p);
    colo_pair_protect(p);
    check_begun(p, p->primary, "primary", begin_s);
    check_begun(p, p->secondary, "secondary", begin_s);
    check_advice(p->primary, false);
    check_advice(p->secondary, false);
    return p;
}

/* @words: both are in the message; and what people see is the same */
static void check_ended(QTestState *qts, const char *reason, const char *word,
                        const char *other)
{
    QDict *status = colo_status(qts);
    const char *message = qdict_get_str(status, "message");
    g_autofree char *info = qtest_hmp(qts, "info colo");

    g_assert_false(qdict_get_bool(status, "protected"));
    g_assert_cmpstr(qdict_get_str(status, "mode"), ==, "none");
    g_assert_cmpstr(qdict_get_str(status, "reason"), ==, reason);
    g_assert_false(qdict_haskey(status, "peer"));
    g_assert_nonnull(strstr(message, word));
    g_assert_nonnull(strstr(message, other));
    g_assert_nonnull(strstr(info, "protected: no since"));
    g_assert_nonnull(strstr(info, message));
    qobject_unref(status);
}

/* The link is cut, and somebody says that @survivor goes on */
static void fail_over(ColoPair *p, QTestState **survivor, const char *side)
{
    QTestState *qts = *survivor;

    colo_cut(p);
    colo_wait_state(qts, "lost");
    expect_event(qts, false, side, "checkpoint");
    check_protected(qts, false);
    check_advice(qts, true);
    if (g_str_equal(side, "secondary")) {
        colo_refused(qts, "x-colo-lost-heartbeat", "{'execute': 'cont'}");
    }
    colo_failover(qts);
    colo_wait_mode(qts, "none");
    check_ended(qts, "request", "checkpoint", "x-colo-lost-heartbeat");
    check_advice(qts, false);
}

static void test_primary(const void *mode)
{
    ColoPair *p = begin(mode);

    fail_over(p, &p->primary, "primary");
    colo_quit(&p->secondary);
    colo_pair_new_secondary(p);
    colo_side_unplug_net(p->secondary);
    colo_pair_protect(p);
    check_protected(p->primary, true);
    expect_event(p->primary, true, "primary", NULL);
    colo_pair_free(p);
}

static void test_secondary(const void *mode)
{
    ColoPair *p = begin(mode);

    colo_refused(p->secondary, "it follows the primary", "{'execute': 'cont'}");
    fail_over(p, &p->secondary, "secondary");
    colo_pair_free(p);
}

/* The survivor's guest stands as the primary's did: it says what to do */
static void test_paused(const void *mode)
{
    ColoPair *p = begin(mode);

    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    colo_wait_statistic(p->primary, "checkpoints",
                        colo_statistic(p->primary, "checkpoints") + 2);
    fail_over(p, &p->secondary, "secondary");
    colo_wait_status(p->secondary, "paused");
    check_ended(p->secondary, "request", "its guest is stopped (paused)",
                "'cont' lets it run");
    qtest_qmp_assert_success(p->secondary, "{'execute': 'cont'}");
    colo_wait_status(p->secondary, "running");
    colo_pair_free(p);
}

static void test_cancelled(const void *mode)
{
    ColoPair *p = begin(mode);

    qtest_qmp_assert_success(p->primary, "{'execute': 'migrate_cancel'}");
    colo_wait_mode(p->primary, "none");
    colo_wait_mode(p->secondary, "none");
    expect_event(p->primary, false, "primary", "ended on this side");
    expect_event(p->secondary, false, "secondary", "the peer ended");
    check_ended(p->primary, "request", "ended on this side", "cancelled");
    check_ended(p->secondary, "request", "the peer ended", "cancelled");
    colo_pair_free(p);
}

int main(int argc, char **argv)
{
    static const char *const modes[] = { "hybrid", "periodic" };

    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < G_N_ELEMENTS(modes); i++) {
        static const struct {
            const char *name;
            void (*fn)(const void *mode);
        } tests[] = {
            { "primary", test_primary },
            { "secondary", test_secondary },
            { "paused", test_paused },
            { "cancelled", test_cancelled },
        };

        for (int j = 0; j < G_N_ELEMENTS(tests); j++) {
            g_autofree char *path = g_strdup_printf("/colo/status/%s/%s",
                                                    tests[j].name, modes[i]);

            qtest_add_data_func(path, modes[i], tests[j].fn);
        }
    }
    return g_test_run();
}
