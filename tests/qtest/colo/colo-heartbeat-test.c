/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: a heartbeat over two sockets beside the migration channel.
 *
 * Proves: a process that is killed is lost, one that is stopped after the
 * heartbeat's timeout, which is far shorter than x-colo-timeout, and all goes
 * on when that goes on, too.  A link that is down is told and changes nothing,
 * and the migration channel is one more link.  If that breaks the two still
 * tell each other who goes on: the operator's word reaches the other side, and
 * with on-loss=decide they agree without one, or the primary asks the arbiter,
 * and the secondary only when it does not hear it.  With on-loss=event nobody
 * asks before somebody says so.  What is no heartbeat is closed.
 * A connection that says nothing does not stay, and with TLS gets nothing.  A
 * peer whose main loop hangs is stalled, one whose guest runs or is paused is
 * not.
 */

#include "qemu/osdep.h"
#include <sys/un.h>
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "migration/colo/heartbeat-msg.h"
#include "colo-helpers.h"

#define INTERVAL_MS     50
/* A busy machine may keep a process from running for some time */
#define TIMEOUT_MS      2000
#define STALL_MS        4000
/* No test takes that long: nothing is lost by x-colo-timeout */
#define CHANNEL_MS      300000

#define LINKS           2
#define KEY             "000102030405060708090a0b0c0d0e0f"

static void add_link(ColoPair *p, QTestState *qts, int i, bool server)
{
    g_autofree char *id = g_strdup_printf("hb-%d", i);
    g_autofree char *path = g_strdup_printf("%s/%s", p->dir, id);

    if (server) {
        qtest_qmp_assert_success(qts, "{'execute': 'chardev-add', 'arguments':"
            "{'id': %s, 'backend': {'type': 'socket', 'data': {"
            "'addr': {'type': 'unix', 'data': {'path': %s}},"
            "'server': true, 'wait': false}}}}", id, path);
    } else {
        qtest_qmp_assert_success(qts, "{'execute': 'chardev-add', 'arguments':"
            "{'id': %s, 'backend': {'type': 'socket', 'data': {"
            "'addr': {'type': 'unix', 'data': {'path': %s}},"
            "'server': false, 'reconnect-ms': 100}}}}", id, path);
    }
}

static void add_heartbeat(QTestState *qts, const char *on_loss)
{
    qtest_qmp_assert_success(qts, "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'colo-heartbeat', 'id': 'hb0',"
        "'chardevs': ['hb-0', 'hb-1'], 'interval': %d, 'timeout': %d,"
        "'stall-limit': %d, 'on-loss': %s}}", INTERVAL_MS, TIMEOUT_MS,
        STALL_MS, on_loss);
}

static int64_t heartbeat_number(QTestState *qts, const char *name)
{
    QDict *status = colo_status(qts);
    int64_t n = qdict_get_int(qdict_get_qdict(status, "heartbeat"), name);

    qobject_unref(status);
    return n;
}

static char *heartbeat_health(QTestState *qts)
{
    QDict *status = colo_status(qts);
    char *text = g_strdup(qdict_get_str(qdict_get_qdict(status, "heartbeat"),
                                        "health"));

    qobject_unref(status);
    return text;
}

static bool is_protected(QTestState *qts)
{
    QDict *status = colo_status(qts);
    bool is = qdict_get_bool(status, "protected");

    qobject_unref(status);
    return is;
}

/* How many problems of the kind heartbeat there are */
static int problems(QTestState *qts)
{
    QDict *status = colo_status(qts);
    const QListEntry *e;
    int n = 0;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(status, "problems"), e) {
        n += g_str_equal(qdict_get_str(qobject_to(QDict, qlist_entry_obj(e)),
                                       "kind"), "heartbeat");
    }
    qobject_unref(status);
    return n;
}

static void check_late(int64_t end)
{
    g_assert_cmpint(g_get_monotonic_time(), <, end);
    g_usleep(2000);
}

static int64_t deadline(void)
{
    return g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;
}

static void wait_links(QTestState *qts, int up)
{
    int64_t end = deadline();

    while (heartbeat_number(qts, "links-up") != up) {
        check_late(end);
    }
}

static void wait_health(QTestState *qts, const char *health)
{
    int64_t end = deadline();

    for (;;) {
        g_autofree char *is = heartbeat_health(qts);

        if (g_str_equal(is, health)) {
            return;
        }
        check_late(end);
    }
}

static void wait_protected(QTestState *qts, bool wanted)
{
    int64_t end = deadline();

    while (is_protected(qts) != wanted) {
        check_late(end);
    }
}

static void add_heartbeats(ColoPair *p, const char *on_loss)
{
    colo_pair_unplug_net(p);
    for (int i = 0; i < LINKS; i++) {
        add_link(p, p->secondary, i, true);
        add_link(p, p->primary, i, false);
    }
    add_heartbeat(p->secondary, on_loss);
    add_heartbeat(p->primary, on_loss);
    wait_links(p->primary, LINKS);
    wait_links(p->secondary, LINKS);
}

/* @delay_ms: checkpoints; at most one in the time of a test, or many */
static void begin(ColoPair *p, unsigned delay_ms)
{
    colo_pair_migrate(p, "mig", "mig", delay_ms, CHANNEL_MS);
    colo_wait_state(p->primary, "running");
    wait_health(p->primary, "well");
    wait_health(p->secondary, "well");
    wait_protected(p->primary, true);
    wait_protected(p->secondary, true);
}

static ColoPair *pair_new_with(const char *mode, const char *on_loss,
                               unsigned delay_ms)
{
    ColoPair *p = colo_pair_new(mode);

    add_heartbeats(p, on_loss);
    begin(p, delay_ms);
    return p;
}

static ColoPair *pair_new(const char *mode, const char *on_loss)
{
    return pair_new_with(mode, on_loss, 200);
}

/* The migration channel is still there, and so are checkpoints */
static void check_goes_on(ColoPair *p)
{
    int64_t n = colo_statistic(p->primary, "checkpoints");

    colo_wait_statistic(p->primary, "checkpoints", n + 3);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
}

static char *lost_message(QTestState *qts)
{
    QDict *event = colo_wait_event(qts, "COLO_PEER_LOST");
    char *text = g_strdup(qdict_get_str(qdict_get_qdict(event, "data"),
                                        "message"));

    qobject_unref(event);
    return text;
}

static void test_status(const void *mode)
{
    ColoPair *p = pair_new(mode, "event");
    QDict *status = colo_status(p->primary);
    QDict *hb = qdict_get_qdict(status, "heartbeat");
    QDict *event = colo_wait_event(p->primary, "COLO_HEARTBEAT_LINK");
    g_autofree char *info = NULL;

    g_assert_true(qdict_get_bool(qdict_get_qdict(event, "data"), "up"));
    qobject_unref(event);
    g_assert_cmpint(qdict_get_int(hb, "links-total"), ==, LINKS);
    g_assert_cmpint(qdict_get_int(hb, "age"), <, TIMEOUT_MS);
    g_assert_cmpint(qdict_get_int(qdict_get_qdict(hb, "round-trip"), "count"),
                    >, 0);
    g_assert_nonnull(qdict_get_try_str(hb, "peer-state"));
    qobject_unref(status);
    info = qtest_hmp(p->primary, "info colo");
    g_assert_nonnull(strstr(info, "heartbeat: peer well, links up 2 of 2"));

    /* It belongs to the session, which has given leases by its timeout */
    colo_refused(p->primary, "", "{'execute': 'object-del',"
                 "'arguments': {'id': 'hb0'}}");
    colo_refused(p->primary, "already", "{'execute': 'object-add',"
                 "'arguments': {'qom-type': 'colo-heartbeat', 'id': 'hb1',"
                 "'chardevs': ['hb-0']}}");
    g_assert_cmpint(heartbeat_number(p->primary, "losses"), ==, 0);
    colo_pair_free(p);
}

static void test_kill(const void *mode)
{
    ColoPair *p = pair_new(mode, "event");
    int64_t begin = g_get_monotonic_time();

    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    g_test_message("lost after %" PRId64 " ms",
                   (g_get_monotonic_time() - begin) / 1000);
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "running");
    colo_pair_free(p);
}

/* @stopped goes on before anybody has decided */
static void stop_and_continue(ColoPair *p, QTestState *stopped,
                              QTestState *other)
{
    g_autofree char *message = NULL;
    int64_t begin = g_get_monotonic_time();

    g_assert_cmpint(kill(qtest_pid(stopped), SIGSTOP), ==, 0);
    message = lost_message(other);
    g_test_message("lost after %" PRId64 " ms: %s",
                   (g_get_monotonic_time() - begin) / 1000, message);
    g_assert_nonnull(strstr(message, "heartbeat"));
    colo_wait_state(other, "lost");
    wait_protected(other, false);
    g_assert_cmpint(kill(qtest_pid(stopped), SIGCONT), ==, 0);
    qobject_unref(colo_wait_event(other, "COLO_PEER_BACK"));
    wait_health(other, "well");
    wait_health(stopped, "well");
    check_goes_on(p);
    wait_protected(p->primary, true);
    wait_protected(p->secondary, true);
}

static void test_stop(const void *mode)
{
    ColoPair *p = pair_new(mode, "event");

    stop_and_continue(p, p->secondary, p->primary);
    stop_and_continue(p, p->primary, p->secondary);
    colo_pair_free(p);
}

/* Nobody can connect to it any more */
static void link_down(ColoPair *p, int i)
{
    g_autofree char *id = g_strdup_printf("hb-%d", i);
    g_autofree char *path = g_strdup_printf("%s/%s", p->dir, id);
    g_autofree char *away = g_strdup_printf("%s/%s.away", p->dir, id);

    g_assert_cmpint(rename(path, away), ==, 0);
    qtest_qmp_assert_success(p->primary, "{'execute': 'yank', 'arguments': {"
        "'instances': [{'type': 'chardev', 'id': %s}]}}", id);
}

static void link_up(ColoPair *p, int i)
{
    g_autofree char *path = g_strdup_printf("%s/hb-%d", p->dir, i);
    g_autofree char *away = g_strdup_printf("%s/hb-%d.away", p->dir, i);

    g_assert_cmpint(rename(away, path), ==, 0);
}

static void test_links(const void *mode)
{
    ColoPair *p = pair_new(mode, "event");

    link_down(p, 0);
    wait_links(p->primary, 1);
    wait_links(p->secondary, 1);
    check_goes_on(p);
    g_assert_cmpint(problems(p->primary), ==, 1);
    g_assert_true(is_protected(p->primary));
    g_assert_cmpint(heartbeat_number(p->primary, "losses"), ==, 0);

    /* The migration channel is the last one */
    link_down(p, 1);
    wait_links(p->primary, 0);
    wait_health(p->primary, "silent");
    wait_health(p->secondary, "silent");
    wait_protected(p->primary, false);
    check_goes_on(p);
    g_assert_cmpint(problems(p->primary), ==, 1);

    link_up(p, 0);
    link_up(p, 1);
    wait_links(p->primary, 2);
    wait_links(p->secondary, 2);
    wait_health(p->primary, "well");
    wait_protected(p->primary, true);
    check_goes_on(p);
    g_assert_cmpint(problems(p->primary), ==, 0);
    colo_pair_free(p);
}

/* Only the migration channel breaks, and nobody decides */
static ColoPair *cut_channel(const char *mode)
{
    ColoPair *p = pair_new(mode, "event");

    colo_cut(p);
    colo_wait_state(p->primary, "lost");
    colo_wait_state(p->secondary, "lost");
    wait_health(p->primary, "well");
    wait_health(p->secondary, "well");
    return p;
}

static void test_cut_primary(const void *mode)
{
    ColoPair *p = cut_channel(mode);

    colo_failover(p->primary);
    colo_wait_state(p->primary, "alone");
    colo_wait_status(p->primary, "running");
    colo_wait_state(p->secondary, "ended");
    colo_refused(p->secondary, "", "{'execute': 'x-colo-lost-heartbeat',"
                 "'arguments': {'force': true}}");
    colo_pair_free(p);
}

static void test_cut_secondary(const void *mode)
{
    ColoPair *p = cut_channel(mode);

    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "running");
    colo_wait_state(p->primary, "ended");
    colo_wait_status(p->primary, "shutdown");
    colo_refused(p->primary, "out of date", "{'execute': 'cont'}");
    colo_pair_free(p);
}

/* One that was stopped hears it as soon as it goes on */
static void test_cut_stopped(const void *mode)
{
    ColoPair *p = pair_new(mode, "event");
    g_autofree char *message = NULL;

    g_assert_cmpint(kill(qtest_pid(p->primary), SIGSTOP), ==, 0);
    message = lost_message(p->secondary);
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    g_assert_cmpint(kill(qtest_pid(p->primary), SIGCONT), ==, 0);
    colo_wait_state(p->primary, "ended");
    colo_wait_status(p->primary, "shutdown");
    colo_pair_free(p);
}

/* Of a pair that is well: nobody is asked, and the other one hears of it */
static void test_force(const void *mode)
{
    ColoPair *p = pair_new(mode, "event");

    qtest_qmp_assert_success(p->secondary, "{'execute':"
                             "'x-colo-lost-heartbeat',"
                             "'arguments': {'force': true}}");
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "running");
    colo_wait_state(p->primary, "ended");
    colo_wait_status(p->primary, "shutdown");
    colo_pair_free(p);
}

static void test_decide(const void *mode)
{
    ColoPair *p = pair_new(mode, "decide");

    colo_cut(p);
    colo_wait_state(p->primary, "alone");
    colo_wait_status(p->primary, "running");
    colo_wait_state(p->secondary, "ended");
    colo_pair_free(p);
}

/* With nobody to agree with it waits, as with on-loss=event */
static void test_decide_kill(const void *mode)
{
    ColoPair *p = pair_new(mode, "decide");

    colo_kill(&p->secondary);
    colo_wait_state(p->primary, "lost");
    wait_links(p->primary, 0);
    colo_wait_state(p->primary, "lost");
    colo_failover(p->primary);
    colo_wait_state(p->primary, "alone");
    colo_pair_free(p);
}

static void add_arbiter(ColoPair *p, QTestState *qts, const char *name)
{
    g_autofree char *path = g_strdup_printf("%s/%s", p->dir, name);

    qtest_qmp_assert_success(qts, "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'colo-arbiter-file', 'id': 'arb0', 'path': %s}}", path);
}

static ColoPair *pair_with_arbiter(const char *mode, const char *on_loss)
{
    ColoPair *p = colo_pair_new(mode);

    add_arbiter(p, p->primary, "arbiter");
    add_arbiter(p, p->secondary, "arbiter");
    add_heartbeats(p, on_loss);
    begin(p, 200);
    return p;
}

static int64_t asked(QTestState *qts)
{
    QDict *status = colo_status(qts);
    int64_t n = qdict_get_int(qdict_get_qdict(status, "arbiter"), "asked");

    qobject_unref(status);
    return n;
}

/* Only the migration channel breaks: it is the primary that goes on */
static void test_arbiter_cut(const void *mode)
{
    ColoPair *p = pair_with_arbiter(mode, "decide");
    int64_t n = asked(p->secondary);

    colo_cut(p);
    colo_wait_state(p->primary, "alone");
    colo_wait_status(p->primary, "running");
    colo_wait_state(p->secondary, "ended");
    /* It was never for the secondary to ask */
    g_assert_cmpint(asked(p->secondary), ==, n);
    colo_pair_free(p);
}

/* The primary cannot ask: the secondary does so when it does not hear it */
static void test_arbiter_stop(const void *mode)
{
    ColoPair *p = pair_with_arbiter(mode, "decide");

    g_assert_cmpint(kill(qtest_pid(p->primary), SIGSTOP), ==, 0);
    qtest_qmp_assert_success(p->secondary, "{'execute': 'yank', 'arguments': {"
                             "'instances': [{'type': 'migration'}]}}");
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "running");
    g_assert_cmpint(kill(qtest_pid(p->primary), SIGCONT), ==, 0);
    colo_wait_state(p->primary, "ended");
    colo_wait_status(p->primary, "shutdown");
    colo_pair_free(p);
}

/* All connections are closed: nobody waits for the timeout, or for a lease */
static void test_arbiter_kill(const void *mode)
{
    ColoPair *p = pair_with_arbiter(mode, "decide");
    int64_t since_us = g_get_monotonic_time(), took_ms;

    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "live");
    took_ms = (g_get_monotonic_time() - since_us) / 1000;
    g_test_message("live after %" PRId64 " ms", took_ms);
    g_assert_cmpint(took_ms, <, TIMEOUT_MS);
    colo_wait_status(p->secondary, "running");
    colo_pair_free(p);
}

/* It is there, and not asked before somebody has said so */
static void test_arbiter_event(const void *mode)
{
    ColoPair *p = pair_with_arbiter(mode, "event");
    int64_t n = asked(p->secondary);

    colo_cut(p);
    colo_wait_state(p->primary, "lost");
    colo_wait_state(p->secondary, "lost");
    wait_health(p->secondary, "well");
    g_assert_cmpint(asked(p->secondary), ==, n);

    /* Nor does the secondary leave it to a primary that it hears then */
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    g_assert_cmpint(asked(p->secondary), >, n);
    colo_wait_state(p->primary, "ended");
    colo_wait_status(p->primary, "shutdown");
    colo_pair_free(p);
}

/* How many messages have come by the first link */
static int64_t received(QTestState *qts)
{
    QDict *status = colo_status(qts);
    QList *links = qdict_get_qlist(qdict_get_qdict(status, "heartbeat"),
                                   "links");
    int64_t n = qdict_get_int(qobject_to(QDict, qlist_peek(links)),
                              "received");

    qobject_unref(status);
    return n;
}

/* All that time, and longer than the stall limit, each is well to the other */
static void check_no_stall(ColoPair *p)
{
    int64_t n = received(p->primary) + 2 * STALL_MS / INTERVAL_MS;
    int64_t end = deadline();

    while (received(p->primary) < n) {
        check_late(end);
    }
    wait_health(p->primary, "well");
    wait_health(p->secondary, "well");
    g_assert_cmpint(heartbeat_number(p->primary, "losses"), ==, 0);
    g_assert_cmpint(heartbeat_number(p->secondary, "losses"), ==, 0);
}

static void test_no_stall(const void *mode)
{
    /* Nothing but the counters of main loop and vCPUs tells that they get on */
    ColoPair *p = pair_new_with(mode, "decide", 3600000);

    check_no_stall(p);
    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    check_no_stall(p);
    qtest_qmp_assert_success(p->primary, "{'execute': 'cont'}");
    check_no_stall(p);
    colo_pair_free(p);
}

static int connect_to(ColoPair *p, const char *name)
{
    struct sockaddr_un sun = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    g_assert_cmpint(fd, >=, 0);
    snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/%s", p->dir, name);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), ==, 0);
    return fd;
}

/*
 * The main loop of @qts waits until somebody connects to a socket, with the big
 * lock held
 */
static void stall(ColoPair *p, QTestState *qts)
{
    g_autofree char *path = g_strdup_printf("%s/stall", p->dir);

    qtest_qmp_send(qts, "{'execute': 'chardev-add', 'arguments':"
        "{'id': 'stall', 'backend': {'type': 'socket', 'data': {"
        "'addr': {'type': 'unix', 'data': {'path': %s}},"
        "'server': true, 'wait': true}}}}", path);
}

static void end_stall(ColoPair *p, QTestState *qts)
{
    int fd = connect_to(p, "stall");

    qobject_unref(qtest_qmp_receive(qts));
    close(fd);
}

static void wait_stall_is_told(QTestState *qts)
{
    bool is = false;

    while (!is) {
        QDict *event = colo_wait_event(qts, "COLO_HEARTBEAT_HEALTH");
        QDict *data = qdict_get_qdict(event, "data");

        if (g_str_equal(qdict_get_str(data, "health"), "stalled")) {
            g_assert_cmpstr(qdict_get_str(data, "stalled"), ==, "main loop");
            is = true;
        }
        qobject_unref(event);
    }
}

static void stall_and_go_on(ColoPair *p, QTestState *stalled,
                            QTestState *other)
{
    g_autofree char *state = NULL;

    stall(p, stalled);
    wait_stall_is_told(other);
    wait_protected(other, false);
    g_assert_cmpint(problems(other), ==, 1);
    state = colo_state(other);
    g_assert_cmpstr(state, !=, "lost");
    end_stall(p, stalled);
    wait_health(other, "well");
    wait_protected(other, true);
}

static void test_stall(const void *mode)
{
    ColoPair *p = pair_new(mode, "event");

    stall_and_go_on(p, p->secondary, p->primary);
    check_goes_on(p);
    colo_pair_free(p);
}

/* A primary that has nothing to do goes on with its pings meanwhile */
static void test_stall_primary(const void *mode)
{
    ColoPair *p = pair_new_with(mode, "event", 3600000);

    stall_and_go_on(p, p->primary, p->secondary);
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    colo_wait_statistic(p->secondary, "checkpoints", 1);
    colo_pair_free(p);
}

static void test_decide_stall(const void *mode)
{
    ColoPair *p = pair_new(mode, "decide");
    g_autofree char *message = NULL;

    stall(p, p->secondary);
    message = lost_message(p->primary);
    g_assert_nonnull(strstr(message, "without progress of its main loop"));
    colo_wait_state(p->primary, "lost");
    end_stall(p, p->secondary);
    qobject_unref(colo_wait_event(p->primary, "COLO_PEER_BACK"));
    wait_protected(p->primary, true);
    check_goes_on(p);
    colo_pair_free(p);
}

/* A key, and a chardev "hb-0" with TLS; false if this QEMU has no TLS */
static bool add_tls_link(ColoPair *p, QTestState *qts, bool server, int port)
{
    g_autofree char *keys = g_build_filename(p->dir, "keys.psk", NULL);
    g_autofree char *service = g_strdup_printf("%d", port);
    QDict *rsp;
    bool ok;

    g_assert_true(g_file_set_contents(keys, "qemu:" KEY "\n", -1, NULL));
    rsp = qtest_qmp(qts, "{'execute': 'object-add', 'arguments': {"
                    "'qom-type': 'tls-creds-psk', 'id': 'tls0',"
                    "'endpoint': %s, 'dir': %s}}",
                    server ? "server" : "client", p->dir);
    ok = !qdict_haskey(rsp, "error");
    qobject_unref(rsp);
    if (!ok) {
        g_test_skip("no TLS");
        return false;
    }
    if (server) {
        qtest_qmp_assert_success(qts, "{'execute': 'chardev-add', 'arguments':"
            "{'id': 'hb-0', 'backend': {'type': 'socket', 'data': {"
            "'addr': {'type': 'inet', 'data': {'host': '127.0.0.1',"
            "'port': %s}}, 'server': true, 'wait': false,"
            "'tls-creds': 'tls0'}}}}", service);
    } else {
        qtest_qmp_assert_success(qts, "{'execute': 'chardev-add', 'arguments':"
            "{'id': 'hb-0', 'backend': {'type': 'socket', 'data': {"
            "'addr': {'type': 'inet', 'data': {'host': '127.0.0.1',"
            "'port': %s}}, 'server': false, 'reconnect-ms': 100,"
            "'tls-creds': 'tls0'}}}}", service);
    }
    return true;
}

/* Of the chardev "hb-0" */
static int port_of(QTestState *qts)
{
    QDict *rsp = qtest_qmp(qts, "{'execute': 'query-chardev'}");
    const QListEntry *e;
    int port = 0;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), e) {
        QDict *chr = qobject_to(QDict, qlist_entry_obj(e));

        if (g_str_equal(qdict_get_str(chr, "label"), "hb-0")) {
            sscanf(strstr(qdict_get_str(chr, "filename"), "127.0.0.1:"),
                   "127.0.0.1:%d", &port);
        }
    }
    qobject_unref(rsp);
    g_assert_cmpint(port, >, 0);
    return port;
}

static int connect_to_port(int port)
{
    struct sockaddr_in sin = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&sin, sizeof(sin)), ==, 0);
    return fd;
}

/* Whoever has no credentials gets nothing, and keeps the peer out for a while */
static void test_tls(void)
{
    ColoPair *p = colo_pair_new("periodic");
    struct timeval patience = { .tv_sec = COLO_DEADLINE_MS / 1000 };
    uint8_t buf[COLO_BEAT_LEN];
    int silent, wrong;
    ssize_t n;

    if (!add_tls_link(p, p->secondary, true, 0)) {
        colo_pair_free(p);
        return;
    }
    add_link(p, p->secondary, 1, true);
    add_link(p, p->primary, 1, false);
    silent = connect_to_port(port_of(p->secondary));
    wrong = connect_to_port(port_of(p->secondary));
    setsockopt(silent, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    memset(buf, 'C', sizeof(buf));
    g_assert_cmpint(send(wrong, buf, sizeof(buf), MSG_NOSIGNAL), >, 0);
    add_tls_link(p, p->primary, false, port_of(p->secondary));
    add_heartbeat(p->secondary, "event");
    add_heartbeat(p->primary, "event");
    wait_links(p->primary, LINKS);
    wait_links(p->secondary, LINKS);
    n = recv(silent, buf, sizeof(buf), 0);
    g_assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
    close(silent);
    close(wrong);
    colo_pair_free(p);
}

/* It takes garbage up to a limit, and then closes the connection */
static void test_garbage(void)
{
    ColoPair *p = colo_pair_new("periodic");
    g_autofree uint8_t *junk = g_malloc0(COLO_BEAT_GARBAGE * 2);
    struct timeval patience = { .tv_sec = COLO_DEADLINE_MS / 1000 };
    uint8_t buf[COLO_BEAT_LEN];

    add_link(p, p->secondary, 0, true);
    add_link(p, p->secondary, 1, true);
    add_heartbeat(p->secondary, "event");
    for (int i = 0; i < 3; i++) {
        int fd = connect_to(p, "hb-0");
        ssize_t n;

        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        memset(junk, i ? 'C' : 0, COLO_BEAT_GARBAGE * 2);
        g_assert_cmpint(send(fd, junk, COLO_BEAT_GARBAGE * 2, MSG_NOSIGNAL),
                        >, 0);
        do {
            n = recv(fd, buf, sizeof(buf), 0);
        } while (n > 0);
        /* Closed, with something unread or not; no timeout */
        g_assert_true(n == 0 || errno == ECONNRESET);
        close(fd);
    }
    g_assert_cmpint(heartbeat_number(p->secondary, "links-up"), ==, 0);
    colo_pair_free(p);
}

/* One that says nothing does not keep the peer out */
static void test_silent(void)
{
    ColoPair *p = colo_pair_new("periodic");
    int silent;

    for (int i = 0; i < LINKS; i++) {
        add_link(p, p->secondary, i, true);
    }
    silent = connect_to(p, "hb-0");
    add_heartbeat(p->secondary, "event");
    for (int i = 0; i < LINKS; i++) {
        add_link(p, p->primary, i, false);
    }
    add_heartbeat(p->primary, "event");
    wait_links(p->primary, LINKS);
    wait_links(p->secondary, LINKS);
    close(silent);
    colo_pair_free(p);
}

/* A message of this side that comes back is nobody's sign of life */
static void test_loop(void)
{
    ColoPair *p = colo_pair_new("periodic");
    int64_t end = deadline();
    uint8_t buf[COLO_BEAT_LEN];
    int fd;

    add_link(p, p->secondary, 0, true);
    add_link(p, p->secondary, 1, true);
    add_heartbeat(p->secondary, "event");
    fd = connect_to(p, "hb-0");
    while (heartbeat_number(p->secondary, "ignored") < 5) {
        ssize_t n = recv(fd, buf, sizeof(buf), 0);

        g_assert_cmpint(n, >, 0);
        g_assert_cmpint(send(fd, buf, n, MSG_NOSIGNAL), ==, n);
        check_late(end);
    }
    g_assert_cmpint(heartbeat_number(p->secondary, "links-up"), ==, 0);
    close(fd);
    colo_pair_free(p);
}

static void test_options(void)
{
    ColoPair *p = colo_pair_new("periodic");

    add_link(p, p->secondary, 0, true);
    colo_refused(p->secondary, "there is no chardev 'x'",
                 "{'execute': 'object-add', 'arguments': {"
                 "'qom-type': 'colo-heartbeat', 'id': 'h',"
                 "'chardevs': ['hb-0', 'x']}}");
    colo_refused(p->secondary, "needs Parameter 'chardevs'",
                 "{'execute': 'object-add', 'arguments': {"
                 "'qom-type': 'colo-heartbeat', 'id': 'h', 'chardevs': []}}");
    colo_refused(p->secondary, "100 to 60000",
                 "{'execute': 'object-add', 'arguments': {"
                 "'qom-type': 'colo-heartbeat', 'id': 'h',"
                 "'chardevs': ['hb-0'], 'timeout': 99}}");
    colo_refused(p->secondary, "twice 'interval'",
                 "{'execute': 'object-add', 'arguments': {"
                 "'qom-type': 'colo-heartbeat', 'id': 'h',"
                 "'chardevs': ['hb-0'], 'timeout': 100, 'interval': 60}}");
    colo_refused(p->secondary, "stall-limit",
                 "{'execute': 'object-add', 'arguments': {"
                 "'qom-type': 'colo-heartbeat', 'id': 'h',"
                 "'chardevs': ['hb-0'], 'timeout': 5000,"
                 "'stall-limit': 4000}}");
    /* The chardev is free after each of these, and the object comes and goes */
    for (int i = 0; i < 3; i++) {
        qtest_qmp_assert_success(p->secondary,
            "{'execute': 'object-add', 'arguments': {"
            "'qom-type': 'colo-heartbeat', 'id': 'h',"
            "'chardevs': ['hb-0']}}");
        qtest_qmp_assert_success(p->secondary,
            "{'execute': 'object-del', 'arguments': {'id': 'h'}}");
    }
    colo_pair_free(p);
}

/* In both modes, below @name's directory itself, which can be run on its own */
static void add(const char *name, void (*test)(const void *))
{
    static const char *const modes[] = { "hybrid", "periodic" };

    for (int i = 0; i < G_N_ELEMENTS(modes); i++) {
        g_autofree char *path = g_strdup_printf("/colo/heartbeat/%s-%s", name,
                                                modes[i]);

        qtest_add_data_func(path, modes[i], test);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/heartbeat/link/options", test_options);
    qtest_add_func("/colo/heartbeat/link/garbage", test_garbage);
    qtest_add_func("/colo/heartbeat/link/loop", test_loop);
    qtest_add_func("/colo/heartbeat/link/silent", test_silent);
    qtest_add_func("/colo/heartbeat/link/tls", test_tls);
    add("link/status", test_status);
    add("link/kill", test_kill);
    add("link/stop", test_stop);
    add("link/down", test_links);
    add("end/cut-primary", test_cut_primary);
    add("end/cut-secondary", test_cut_secondary);
    add("end/cut-stopped", test_cut_stopped);
    add("end/force", test_force);
    add("end/decide", test_decide);
    add("end/decide-kill", test_decide_kill);
    add("arbiter/cut", test_arbiter_cut);
    add("arbiter/stop", test_arbiter_stop);
    add("arbiter/kill", test_arbiter_kill);
    add("arbiter/event", test_arbiter_event);
    add("stall/event", test_stall);
    add("stall/decide", test_decide_stall);
    add("stall/primary", test_stall_primary);
    add("stall/none", test_no_stall);
    return g_test_run();
}
