/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO, at the time when the first migration hands over to the session.
 *
 * Proves: when QEMU ends just then there is no session of which nobody sees to
 * the end.  The primary's guest does not run any more, a secondary that ends
 * does not make the primary wait for a decision.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "colo-net.h"

/* The first migration waits, with the guest stopped, to be continued */
static void begin_migration(ColoPair *p)
{
    colo_pair_migrate(p, "mig", NULL, 600000, COLO_TIMEOUT_MS);
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'migrate-set-capabilities', 'arguments': {"
        "'capabilities': [{'capability': 'pause-before-switchover',"
        "'state': true}]}}");
    colo_pair_migrate(p, NULL, "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_migrate(p->primary, "pre-switchover");
}

#define CONTINUE "{'execute': 'migrate-continue', 'arguments': {"           \
                 "'state': 'pre-switchover'}}"

/*
 * QEMU exits, but not before a while is over, since keep_busy() has left
 * packets under way.  Its monitor still works.
 */
static void exit_slowly(QTestState *qts)
{
    qtest_qmp_assert_success(qts, "{'execute': 'quit'}");
    qtest_qmp_eventwait(qts, "SHUTDOWN");
}

static void gone(QTestState **qts)
{
    qtest_wait_qemu(*qts);
    qtest_quit(g_steal_pointer(qts));
}

/* The guest's VM stands: what it is sent waits, and so does the end of QEMU */
static void keep_busy(Net *n)
{
    add_chardev(n, "sec");
    qtest_qmp_assert_success(n->qts,
        "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'filter-compare', 'id': 'comp0', 'netdev': 'p1',"
        "'secondary-in': 'sec'}}");
    write_str(n->guest, "x");
}

/* Its guest does not run again, in a session that nobody ends */
static void test_quit_primary(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    Net *n = net_on(p->primary);
    char byte;

    begin_migration(p);
    keep_busy(n);
    exit_slowly(p->primary);
    qtest_qmp_assert_success(p->primary, CONTINUE);
    gone(&p->primary);
    g_assert_cmpint(recv(n->net, &byte, 1, 0), ==, 0);
    colo_wait_state(p->secondary, "lost");
    colo_wait_status(p->secondary, "colo");
    colo_pair_free(p);
    net_gone(n);
}

static void test_quit_secondary(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    Net *n = net_on(p->secondary);

    begin_migration(p);
    keep_busy(n);
    exit_slowly(p->secondary);
    qtest_qmp_assert_success(p->primary, CONTINUE);
    gone(&p->secondary);
    colo_wait_migrate(p->primary, "failed");
    colo_wait_status(p->primary, "running");
    colo_pair_free(p);
    net_gone(n);
}

static const struct {
    const char *name;
    void (*func)(const void *mode);
} tests[] = {
    { "quit/primary", test_quit_primary },
    { "quit/secondary", test_quit_secondary },
};

int main(int argc, char **argv)
{
    static const char *const modes[] = { "hybrid", "periodic" };

    g_test_init(&argc, &argv, NULL);
    for (int m = 0; m < G_N_ELEMENTS(modes); m++) {
        for (int i = 0; i < G_N_ELEMENTS(tests); i++) {
            g_autofree char *path = g_strdup_printf("/colo/handover/%s/%s",
                                                    modes[m], tests[i].name);

            g_test_add_data_func(path, modes[m], tests[i].func);
        }
    }
    return g_test_run();
}
