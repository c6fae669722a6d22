/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: pairs with an arbiter, which nobody tells what to do.
 *
 * Proves: a side that loses the other one asks and does what it is told: of two
 * that live exactly one goes on and the other is ended for good, also if it was
 * stopped meanwhile; what is not known leaves both as they are, with their
 * monitors, and is asked again; a fence comes before anything is let go; a
 * session with an arbiter on one side only, or that the arbiter does not know of,
 * does not begin.
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include "qobject/qdict.h"
#include "colo-helpers.h"

#define SHORT_TIMEOUT_MS    1000

/* What the arbiters that are programs answer is in this file, in the pair's own */
#define VERDICT "verdict"

static void add_file(ColoPair *p, QTestState *qts)
{
    g_autofree char *path = g_strdup_printf("%s/arbiter", p->dir);

    qtest_qmp_assert_success(qts, "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'colo-arbiter-file', 'id': 'arb0', 'path': %s}}", path);
}

/* It exits with the number in the file, for what it is asked to decide */
static void add_program(ColoPair *p, QTestState *qts)
{
    g_autofree char *path = g_strdup_printf("%s/arbiter.sh", p->dir);
    g_autofree char *text = g_strdup_printf(
        "#!/bin/sh\nread -r answer < '%s/" VERDICT "'\n"
        "[ \"$1\" = decide ] || exit 0\n"
        "echo \"it says $answer\" >&2\nexit \"$answer\"\n", p->dir);

    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    g_assert_cmpint(g_chmod(path, 0755), ==, 0);
    qtest_qmp_assert_success(qts, "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'colo-arbiter-exec', 'id': 'arb0', 'program': %s}}",
        path);
}

static void answer(ColoPair *p, const char *status)
{
    g_autofree char *path = g_strdup_printf("%s/" VERDICT, p->dir);

    g_assert_true(g_file_set_contents(path, status, -1, NULL));
}

static void protect(ColoPair *p, unsigned timeout_ms)
{
    colo_pair_migrate(p, "mig", "mig", 600000, timeout_ms);
    colo_wait_state(p->secondary, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
}

static ColoPair *pair_with_file(const char *mode, unsigned timeout_ms)
{
    ColoPair *p = colo_pair_new(mode);

    add_file(p, p->primary);
    add_file(p, p->secondary);
    protect(p, timeout_ms);
    return p;
}

static ColoPair *pair_with_program_and(const char *mode, unsigned timeout_ms)
{
    ColoPair *p = colo_pair_new(mode);

    answer(p, "2\n");
    add_program(p, p->primary);
    add_program(p, p->secondary);
    protect(p, timeout_ms);
    return p;
}

static ColoPair *pair_with_program(const char *mode)
{
    return pair_with_program_and(mode, COLO_TIMEOUT_MS);
}

static void test_kill_primary(const void *mode)
{
    ColoPair *p = pair_with_file(mode, COLO_TIMEOUT_MS);

    colo_kill(&p->primary);
    colo_check_live(p->secondary);
    colo_pair_free(p);
}

static void test_kill_secondary(const void *mode)
{
    ColoPair *p = pair_with_file(mode, COLO_TIMEOUT_MS);

    colo_kill(&p->secondary);
    colo_check_alone(p->primary);
    colo_pair_free(p);
}

/* It has slept through all of it */
static void test_stop_primary(const void *mode)
{
    ColoPair *p = pair_with_file(mode, SHORT_TIMEOUT_MS);

    colo_stop_process(p->primary);
    colo_check_live(p->secondary);
    colo_continue_process(p->primary);
    colo_check_ended(p->primary);
    colo_pair_free(p);
}

static void test_stop_secondary(const void *mode)
{
    ColoPair *p = pair_with_file(mode, SHORT_TIMEOUT_MS);

    colo_stop_process(p->secondary);
    colo_check_alone(p->primary);
    colo_continue_process(p->secondary);
    colo_check_ended(p->secondary);
    colo_pair_free(p);
}

/* Both live, and lose each other at once */
static void test_cut(const void *mode)
{
    ColoPair *p = pair_with_file(mode, COLO_TIMEOUT_MS);

    colo_cut(p);
    colo_check_one(p);
    colo_pair_free(p);
}

/* The survivor's next session is another one to the arbiter */
static void test_again(const void *mode)
{
    ColoPair *p = pair_with_file(mode, COLO_TIMEOUT_MS);

    for (int i = 0; i < 3; i++) {
        colo_kill(&p->secondary);
        colo_check_alone(p->primary);
        colo_pair_new_secondary(p);
        add_file(p, p->secondary);
        protect(p, COLO_TIMEOUT_MS);
    }
    colo_kill(&p->primary);
    colo_check_live(p->secondary);
    colo_pair_free(p);
}

/* A word to a pair that is well goes through the arbiter, too */
static void test_switchover(const void *mode)
{
    ColoPair *p = pair_with_file(mode, COLO_TIMEOUT_MS);

    colo_failover(p->secondary);
    colo_check_live(p->secondary);
    colo_check_ended(p->primary);
    colo_pair_free(p);
}

static void test_primary_alone(const void *mode)
{
    ColoPair *p = pair_with_file(mode, COLO_TIMEOUT_MS);

    colo_failover(p->primary);
    colo_check_alone(p->primary);
    colo_check_ended(p->secondary);
    colo_pair_free(p);
}

static int64_t asked(QTestState *qts, const char *whom)
{
    QDict *status = colo_status(qts);
    int64_t n = qdict_get_int(qdict_get_qdict(status, whom), "asked");

    qobject_unref(status);
    return n;
}

static void wait_whom(QTestState *qts, const char *whom, int64_t at_least)
{
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;

    while (asked(qts, whom) < at_least) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(2000);
    }
}

static void wait_asked(QTestState *qts, int64_t at_least)
{
    wait_whom(qts, "arbiter", at_least);
}

/* Nobody knows: both wait, and ask again; then somebody does */
static void test_not_known(const void *mode)
{
    ColoPair *p = pair_with_program(mode);
    g_autofree char *message = NULL;
    QDict *status;

    colo_kill(&p->primary);
    wait_asked(p->secondary, 3);
    colo_wait_state(p->secondary, "lost");
    status = colo_status(p->secondary);
    message = g_strdup(qdict_get_str(status, "message"));
    qobject_unref(status);
    g_assert_nonnull(strstr(message, "it says 2"));
    answer(p, "0\n");
    colo_check_live(p->secondary);
    colo_pair_free(p);
}

/*
 * @stopped is back before somebody knows: nobody is asked any more, and the pair
 * goes on.  Later it is asked anew.
 */
static void withdrawn(ColoPair *p, QTestState **stopped, QTestState *other)
{
    int64_t end, n = 0;

    colo_stop_process(*stopped);
    /* Once at the begin of the session */
    wait_asked(other, 3);
    colo_continue_process(*stopped);
    qobject_unref(colo_wait_event(other, "COLO_PEER_BACK"));
    answer(p, "0\n");
    /* Much longer than until it would be asked again */
    end = g_get_monotonic_time() + 2 * SHORT_TIMEOUT_MS * 1000LL;
    while (g_get_monotonic_time() < end) {
        qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
        colo_wait_statistic(p->secondary, "checkpoints", ++n);
        colo_wait_state(p->primary, "running");
        colo_wait_state(p->secondary, colo_state_ready(p));
    }
    colo_kill(stopped);
}

static void test_withdrawn_secondary(const void *mode)
{
    ColoPair *p = pair_with_program_and(mode, SHORT_TIMEOUT_MS);

    withdrawn(p, &p->primary, p->secondary);
    colo_check_live(p->secondary);
    colo_pair_free(p);
}

static void test_withdrawn_primary(const void *mode)
{
    ColoPair *p = pair_with_program_and(mode, SHORT_TIMEOUT_MS);

    withdrawn(p, &p->secondary, p->primary);
    colo_check_alone(p->primary);
    colo_pair_free(p);
}

static void test_lost(const void *mode)
{
    ColoPair *p = pair_with_program(mode);

    answer(p, "1\n");
    colo_cut(p);
    colo_check_ended(p->primary);
    colo_check_ended(p->secondary);
    colo_pair_free(p);
}

/* A person may know more */
static void test_force(const void *mode)
{
    ColoPair *p = pair_with_program(mode);

    colo_kill(&p->secondary);
    wait_asked(p->primary, 2);
    /* That is what the arbiter is asked anyway */
    colo_failover(p->primary);
    colo_wait_state(p->primary, "lost");
    colo_force(p->primary);
    colo_check_alone(p->primary);
    colo_pair_free(p);
}

static void test_quit(const void *mode)
{
    ColoPair *p = pair_with_program(mode);

    colo_kill(&p->secondary);
    wait_asked(p->primary, 2);
    colo_quit(&p->primary);
    colo_pair_free(p);
}

/* It is held until the fence has said that the other side is off */
static void test_fence(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    g_autofree char *program = g_strdup_printf("%s/fence.sh", p->dir);
    g_autofree char *text = g_strdup_printf(
        "#!/bin/sh\nread -r answer < '%s/" VERDICT "'\nexit \"$answer\"\n",
        p->dir);

    answer(p, "1\n");
    g_assert_true(g_file_set_contents(program, text, -1, NULL));
    g_assert_cmpint(g_chmod(program, 0755), ==, 0);
    add_file(p, p->primary);
    add_file(p, p->secondary);
    qtest_qmp_assert_success(p->secondary, "{'execute': 'object-add',"
        "'arguments': {'qom-type': 'colo-fence', 'id': 'fence0',"
        "'program': %s}}", program);
    protect(p, COLO_TIMEOUT_MS);
    colo_kill(&p->primary);
    wait_whom(p->secondary, "fence", 3);
    colo_wait_state(p->secondary, "lost");
    answer(p, "0\n");
    colo_check_live(p->secondary);
    colo_pair_free(p);
}

/* A primary that is well is not shot for a switchover */
static void test_fence_well(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    add_file(p, p->primary);
    add_file(p, p->secondary);
    qtest_qmp_assert_success(p->secondary, "{'execute': 'object-add',"
        "'arguments': {'qom-type': 'colo-fence', 'id': 'fence0',"
        "'program': '/bin/true'}}");
    protect(p, COLO_TIMEOUT_MS);
    colo_failover(p->secondary);
    colo_check_live(p->secondary);
    colo_check_ended(p->primary);
    g_assert_cmpint(asked(p->secondary, "fence"), ==, 0);
    g_assert_cmpint(colo_statistic(p->secondary, "checkpoints"), ==, 1);
    colo_pair_free(p);
}

#ifdef CONFIG_COLO_FAULTS
/*
 * The secondary is told to take over, and dies before it is handed over to: the
 * primary has not lost
 */
static void test_switchover_killed(const void *mode)
{
    ColoPair *p = pair_with_file(mode, COLO_TIMEOUT_MS);

    colo_fault(p->secondary, "secondary-recv-checkpoint-request", "hang");
    colo_failover(p->secondary);
    colo_wait_hang(p->secondary, "secondary-recv-checkpoint-request");
    colo_kill(&p->secondary);
    colo_check_alone(p->primary);
    colo_pair_free(p);
}
#endif

/* Refused, and the guest goes on */
static void refused(ColoPair *p, const char *why)
{
    QDict *status;

    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(p->primary, "alone");
    colo_wait_status(p->primary, "running");
    status = colo_status(p->primary);
    g_assert_nonnull(strstr(qdict_get_str(status, "message"), why));
    qobject_unref(status);
    colo_wait_state(p->secondary, "ended");
}

static void test_one_sided(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    add_file(p, p->primary);
    refused(p, "only the primary has an arbiter");
    colo_pair_free(p);

    p = colo_pair_new(mode);
    add_file(p, p->secondary);
    refused(p, "only the secondary has an arbiter");
    colo_pair_free(p);
}

/* Two records of one name, on disks that each host has for itself */
static void test_other(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    g_autofree char *path = g_strdup_printf("%s/other", p->dir);

    add_file(p, p->primary);
    qtest_qmp_assert_success(p->secondary, "{'execute': 'object-add',"
        "'arguments': {'qom-type': 'colo-arbiter-file', 'id': 'arb0',"
        "'path': %s}}", path);
    refused(p, "the secondary's arbiter does not know of this session");
    colo_pair_free(p);
}

static void test_unreachable(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    add_file(p, p->secondary);
    qtest_qmp_assert_success(p->primary, "{'execute': 'object-add',"
        "'arguments': {'qom-type': 'colo-arbiter-exec', 'id': 'arb0',"
        "'program': '/bin/false'}}");
    refused(p, "the arbiter does not know of this session");
    colo_pair_free(p);
}

static const struct {
    const char *name;
    void (*func)(const void *mode);
} tests[] = {
    { "kill/primary", test_kill_primary },
    { "kill/secondary", test_kill_secondary },
    { "stop/primary", test_stop_primary },
    { "stop/secondary", test_stop_secondary },
    { "cut", test_cut },
    { "again", test_again },
    { "switchover", test_switchover },
    { "primary-alone", test_primary_alone },
    { "not-known", test_not_known },
    { "withdrawn/primary", test_withdrawn_primary },
    { "withdrawn/secondary", test_withdrawn_secondary },
    { "lost", test_lost },
    { "force", test_force },
    { "quit", test_quit },
    { "fence", test_fence },
    { "fence/well", test_fence_well },
#ifdef CONFIG_COLO_FAULTS
    { "switchover-killed", test_switchover_killed },
#endif
    { "one-sided", test_one_sided },
    { "other", test_other },
    { "unreachable", test_unreachable },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < G_N_ELEMENTS(tests); i++) {
        colo_add("/colo/decision", tests[i].name, tests[i].func);
    }
    return g_test_run();
}
