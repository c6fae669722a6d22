/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: filter-compare.
 *
 * The test is the network, the primary's guest, and the secondary's word.
 *
 * Proves: options that make no sense are refused with what was given; without
 * a session everything passes; in one a packet leaves when the secondary says
 * the same in the same epoch, when a checkpoint makes it true, or when the
 * session is over, and for no other reason, whatever secondary-in delivers; the
 * filter can neither be switched off nor removed while it is needed.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "colo-net.h"

/* The other guest is never late, unless a test is about that */
#define PATIENCE    ", 'compare-timeout': 3600000"

static void add_compare(Net *n, const char *options)
{
    g_autofree char *args = g_strdup_printf(
        "{'qom-type': 'filter-compare', 'id': 'comp0', 'netdev': 'n0', "
        "'secondary-in': 'sec' %s}", options);

    qtest_qmp_assert_success(n->qts,
                             "{'execute': 'object-add', 'arguments': %p}",
                             qobject_from_json(args, &error_abort));
}

/* A counter of query-colo-status */
static int64_t compared(Net *n, const char *name)
{
    g_autoptr(QDict) status = qtest_qmp_assert_success_ref(n->qts,
        "{'execute': 'query-colo-status'}");
    QList *list = qdict_get_qlist(status, "compare");
    QDict *compare = qobject_to(QDict, qlist_peek(list));

    g_assert_cmpstr(qdict_get_str(compare, "id"), ==, "comp0");
    return qdict_get_int(compare, name);
}

static void test_options(void)
{
    static const struct {
        const char *options, *message;
    } bad[] = {
        { "", "Parameter 'secondary-in' is missing" },
        { ", 'secondary-in': 'no'",
          "filter-compare: Parameter 'secondary-in': there is no chardev 'no'" },
        { ", 'secondary-in': 'taken'",
          "Parameter 'secondary-in': chardev 'taken' is already in use" },
        { ", 'secondary-in': 'sec', 'queue': 'tx'",
          "Parameter 'queue' is 'tx', what the guest receives" },
        { ", 'secondary-in': 'sec', 'status': 'off'",
          "filter-compare cannot be created with status=off" },
        { ", 'secondary-in': 'sec', 'compare-timeout': 0",
          "Parameter 'compare-timeout' is 0, it has to be between 1 and" },
        { ", 'secondary-in': 'sec', 'expired-scan-cycle': 3600001",
          "Parameter 'expired-scan-cycle' is 3600001, it has to be" },
        { ", 'secondary-in': 'sec', 'max-queue-size': 0",
          "Parameter 'max-queue-size' is 0, it has to be between 1 and" },
        { ", 'secondary-in': 'sec', 'max-connections': 16777217",
          "Parameter 'max-connections' is 16777217, it has to be" },
    };
    Net *n = net_new();

    add_redirector(n, "other", "rx", "outdev", "taken");
    add_chardev(n, "sec");
    for (int i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autofree char *args = g_strdup_printf(
            "{'qom-type': 'filter-compare', 'id': 'comp0', 'netdev': 'n0'%s}",
            bad[i].options);

        colo_refused(n->qts, bad[i].message,
                     "{'execute': 'object-add', 'arguments': %p}",
                     qobject_from_json(args, &error_abort));
    }
    add_compare(n, ", 'compare-timeout': 5, 'expired-scan-cycle': 7, "
                "'max-queue-size': 9, 'max-connections': 11, "
                "'vnet-hdr-support': true");
    for (int i = 0; i < 4; i++) {
        static const char *const names[] = {
            "compare-timeout", "expired-scan-cycle", "max-queue-size",
            "max-connections",
        };

        g_assert_cmpuint(counter(n->qts, "comp0", names[i]), ==, 5 + 2 * i);
        colo_refused(n->qts, "cannot be changed any more",
                     "{'execute': 'qom-set', 'arguments': {'path': "
                     "'/objects/comp0', 'property': %s, 'value': 1}}",
                     names[i]);
    }
    colo_refused(n->qts, "'secondary-in' cannot be changed any more",
                 "{'execute': 'qom-set', 'arguments': {'path': "
                 "'/objects/comp0', 'property': 'secondary-in', "
                 "'value': 'x'}}");
    colo_refused(n->qts, "'vnet-hdr-support' cannot be changed any more",
                 "{'execute': 'qom-set', 'arguments': {'path': "
                 "'/objects/comp0', 'property': 'vnet-hdr-support', "
                 "'value': false}}");
    net_free(n);
}

static void test_alone(void)
{
    Net *n = net_new();
    g_autofree char *info = NULL;
    int s;

    add_chardev(n, "sec");
    add_compare(n, "");
    info = qtest_hmp(n->qts, "info network");
    g_assert_nonnull(strstr(info, "comp0: type=filter-compare"));
    s = open_chardev(n, "sec");
    write_str(s, "nobody asked");
    write_cut(s, 7);
    write_str(n->guest, "out");
    expect_str(n->net, "out");
    write_str(n->net, "in");
    expect_str(n->guest, "in");
    set_status(n->qts, "/objects/comp0", "off");
    write_str(n->guest, "out again");
    expect_str(n->net, "out again");
    del_object(n->qts, "comp0");
    close(s);
    net_free(n);
}

/* A session whose epochs end when the test asks for it */
typedef struct Session {
    ColoPair *pair;
    Net *net;
    int sec;
} Session;

static void session_begin_alone(Session *s, const char *options)
{
    s->pair = colo_pair_new("hybrid");
    s->net = net_on(s->pair->primary);
    add_chardev(s->net, "sec");
    add_compare(s->net, options);
    s->sec = -1;
}

static void session_protect(Session *s)
{
    colo_pair_migrate(s->pair, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(s->pair->secondary, colo_state_ready(s->pair));
    colo_wait_state(s->pair->primary, "running");
}

static void session_begin(Session *s, const char *options)
{
    session_begin_alone(s, options);
    s->sec = open_chardev(s->net, "sec");
    session_protect(s);
}

static void session_end(Session *s)
{
    close(s->sec);
    colo_pair_free(s->pair);
    net_gone(s->net);
}

static void checkpoint(Session *s)
{
    int64_t count = colo_statistic(s->pair->primary, "checkpoints");

    qtest_qmp_assert_success(s->pair->primary,
                             "{'execute': 'x-colo-checkpoint'}");
    colo_wait_statistic(s->pair->primary, "checkpoints", count + 1);
}

static void wait_held(Session *s, int64_t packets)
{
    wait_for(compared(s->net, "queued-packets") == packets);
    g_assert_true(nothing_to_read(s->net->net));
}

static void test_equal(void)
{
    Session s;

    session_begin(&s, PATIENCE);
    write_str(s.net->net, "in");
    expect_str(s.net->guest, "in");
    write_str(s.net->guest, "a");
    write_str(s.net->guest, "b");
    wait_held(&s, 2);

    /* It has not said yet what epoch this is */
    write_str(s.sec, "a");
    wait_for(compared(s.net, "secondary-discarded") == 1);
    wait_held(&s, 2);
    write_cut(s.sec, 0);
    write_str(s.sec, "a");
    expect_str(s.net->net, "a");
    wait_held(&s, 1);
    write_str(s.sec, "b");
    expect_str(s.net->net, "b");
    g_assert_cmpint(compared(s.net, "released-equal"), ==, 2);

    /* The secondary may be first */
    write_str(s.sec, "c");
    wait_for(compared(s.net, "secondary-packets") == 4);
    write_str(s.net->guest, "c");
    expect_str(s.net->net, "c");

    /* What it said before a checkpoint says nothing after it */
    write_str(s.sec, "d");
    wait_for(compared(s.net, "secondary-packets") == 5);
    checkpoint(&s);
    write_str(s.net->guest, "d");
    wait_held(&s, 1);
    write_cut(s.sec, 1);
    write_str(s.sec, "d");
    expect_str(s.net->net, "d");
    g_assert_cmpint(compared(s.net, "mismatches"), ==, 0);
    session_end(&s);
}

static void test_commit(void)
{
    Session s;

    session_begin(&s, PATIENCE);
    write_cut(s.sec, 0);
    write_str(s.net->guest, "a");
    write_str(s.sec, "not a");
    /* The difference asks for the checkpoint that lets it go */
    expect_str(s.net->net, "a");
    g_assert_cmpint(compared(s.net, "mismatches"), ==, 1);
    g_assert_cmpint(compared(s.net, "released-commit"), ==, 1);
    g_assert_cmpint(compared(s.net, "released-equal"), ==, 0);
    session_end(&s);
}

static void test_timeout(void)
{
    Session s;

    session_begin(&s, ", 'compare-timeout': 20");
    write_str(s.net->guest, "a");
    expect_str(s.net->net, "a");
    g_assert_cmpint(compared(s.net, "timeouts"), >=, 1);
    g_assert_cmpint(compared(s.net, "released-commit"), ==, 1);
    session_end(&s);
}

static void test_guarded(void)
{
    Session s;

    session_begin(&s, PATIENCE);
    colo_refused(s.pair->primary, "cannot be switched off now",
                 "{'execute': 'qom-set', 'arguments': {'path': "
                 "'/objects/comp0', 'property': 'status', 'value': 'off'}}");
    colo_refused(s.pair->primary, "in use, can not be deleted",
                 "{'execute': 'object-del', 'arguments': {'id': 'comp0'}}");
    write_str(s.net->guest, "a");
    wait_held(&s, 1);
    colo_kill(&s.pair->secondary);
    colo_wait_state(s.pair->primary, "lost");
    wait_held(&s, 1);
    colo_failover(s.pair->primary);
    expect_str(s.net->net, "a");
    write_str(s.net->guest, "b");
    expect_str(s.net->net, "b");
    g_assert_cmpint(compared(s.net, "queued-packets"), ==, 0);
    del_object(s.net->qts, "comp0");
    write_str(s.net->guest, "c");
    expect_str(s.net->net, "c");
    session_end(&s);
}

/* Whatever happens to the stream, nothing leaves by it */
static void test_stream(void)
{
    static const uint8_t unknown[] = { 0x90, 0, 0, 0, 0, 0, 0, 1, 'b' };
    /* A record of an epoch that never was */
    static const uint8_t never[] = {
        0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 'c',
    };
    Session s;

    session_begin(&s, PATIENCE);
    write_cut(s.sec, 0);
    write_str(s.sec, "a");
    wait_for(compared(s.net, "secondary-packets") == 1);
    close_chardev(s.net, "sec", s.sec);
    s.sec = open_chardev(s.net, "sec");
    write_str(s.net->guest, "a");
    wait_held(&s, 1);
    write_cut(s.sec, 0);
    write_str(s.sec, "a");
    expect_str(s.net->net, "a");

    write_str(s.net->guest, "b");
    /* In one go: it hangs up as soon as it has read the first word */
    write_all(s.sec, unknown, sizeof(unknown));
    close_chardev(s.net, "sec", s.sec);
    /* It is not waited for: a checkpoint is asked for */
    expect_str(s.net->net, "b");
    g_assert_cmpint(compared(s.net, "released-commit"), ==, 1);
    g_assert_cmpint(compared(s.net, "secondary-packets"), ==, 2);
    s.sec = open_chardev(s.net, "sec");
    write_str(s.net->guest, "c");
    write_all(s.sec, never, sizeof(never));
    close_chardev(s.net, "sec", s.sec);
    expect_str(s.net->net, "c");
    g_assert_cmpint(compared(s.net, "released-commit"), ==, 2);
    g_assert_cmpint(compared(s.net, "secondary-packets"), ==, 2);
    s.sec = open_chardev(s.net, "sec");
    session_end(&s);
}

/* While nobody is there a checkpoint is asked for at once, for each packet */
static void test_nobody(void)
{
    Session s;

    session_begin_alone(&s, PATIENCE);
    session_protect(&s);
    write_str(s.net->guest, "a");
    expect_str(s.net->net, "a");
    s.sec = open_chardev(s.net, "sec");
    write_str(s.net->guest, "b");
    wait_held(&s, 1);
    close_chardev(s.net, "sec", s.sec);
    s.sec = -1;
    expect_str(s.net->net, "b");
    g_assert_cmpint(compared(s.net, "timeouts"), ==, 2);
    g_assert_cmpint(compared(s.net, "released-commit"), ==, 2);
    session_end(&s);
}

/* It comes to a session that is under way, and QEMU ends in one */
static void test_late(void)
{
    Session s;
    Net *n;

    s.pair = colo_pair_new("hybrid");
    s.net = n = net_on(s.pair->primary);
    colo_pair_migrate(s.pair, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(s.pair->secondary, colo_state_ready(s.pair));
    add_chardev(n, "sec");
    s.sec = open_chardev(n, "sec");
    add_compare(n, PATIENCE);
    write_str(n->guest, "a");
    wait_held(&s, 1);
    colo_quit(&s.pair->primary);
    session_end(&s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/filter-compare/options", test_options);
    qtest_add_func("/colo/filter-compare/alone", test_alone);
    if (!qtest_has_accel("tcg")) {
        g_test_message("sessions are not tested: there is no TCG");
        return g_test_run();
    }
    qtest_add_func("/colo/filter-compare/session/equal", test_equal);
    qtest_add_func("/colo/filter-compare/session/commit", test_commit);
    qtest_add_func("/colo/filter-compare/session/timeout", test_timeout);
    qtest_add_func("/colo/filter-compare/session/guarded", test_guarded);
    qtest_add_func("/colo/filter-compare/session/stream", test_stream);
    qtest_add_func("/colo/filter-compare/session/late", test_late);
    qtest_add_func("/colo/filter-compare/session/nobody", test_nobody);
    return g_test_run();
}
