/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO between two QEMUs, as documents and managers of other versions set it up.
 *
 * Proves: what they do word by word works: -S without cont, return-path and other
 * capabilities in any order, parameters that are written back as they were read,
 * events of the run state as they expect them, the yank of a peer that hangs, and
 * a watchdog that ends QEMU.
 */

#include "qemu/osdep.h"
#include "qemu/sockets.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "libqmp.h"
#include "colo-helpers.h"

#define NEVER_MS 600000

/* An I/O port of ib700, and a value for it: the time is over at once */
#define WATCHDOG_PORT   0x443
#define WATCHDOG_NOW    0xf

static void set_cap(QTestState *qts, const char *name)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'migrate-set-capabilities', 'arguments': {"
        "'capabilities': [{'capability': %s, 'state': true}]}}", name);
}

static void checkpoint(ColoPair *p)
{
    int64_t done = colo_statistic(p->primary, "checkpoints");

    colo_wait_state(p->primary, "running");
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    colo_wait_statistic(p->primary, "checkpoints", done + 1);
    colo_wait_state(p->primary, "running");
}

/* Enter COLO and take no checkpoint */
static void protect(ColoPair *p)
{
    colo_pair_migrate(p, "mig", "mig", NEVER_MS, COLO_TIMEOUT_MS);
    colo_wait_state(p->secondary, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
}

/* -S */

static void test_never_told(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "tcg", "-S");

    colo_wait_status(p->primary, "prelaunch");
    protect(p);
    colo_wait_status(p->primary, "running");
    qobject_unref(colo_wait_event(p->primary, "RESUME"));
    checkpoint(p);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_pair_free(p);
}

/* The secondary knows it before a checkpoint says so */
static void test_never_told_failover(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "tcg", "-S");

    protect(p);
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "running");
    colo_pair_free(p);
}

/* A first migration that fails starts nothing */
static void test_never_told_failed(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "tcg", "-S");

    colo_pair_migrate(p, NULL, NULL, NEVER_MS, COLO_TIMEOUT_MS);
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'migrate', 'arguments': {'uri': 'unix:/nowhere'}}");
    colo_wait_migrate(p->primary, "failed");
    colo_wait_status(p->primary, "prelaunch");
    colo_pair_free(p);
}

static void check_still(ColoPair *p, const char *status)
{
    colo_wait_status(p->primary, status);
    protect(p);
    checkpoint(p);
    colo_wait_status(p->primary, status);
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_status(p->secondary, "paused");
    colo_pair_free(p);
}

static void test_paused(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "tcg", "-S");

    qtest_qmp_assert_success(p->primary, "{'execute': 'cont'}");
    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    check_still(p, "paused");
}

/* It looks like a new one, but somebody has paused it */
static void test_paused_reset(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "tcg", "");

    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    qtest_qmp_assert_success(p->primary, "{'execute': 'system_reset'}");
    check_still(p, "prelaunch");
}

/* Capabilities and parameters */

/* @caps: one after the other, on both sides */
static void with_caps(const char *mode, const char *const *caps)
{
    ColoPair *p = colo_pair_new(mode);

    for (; *caps; caps++) {
        set_cap(p->primary, *caps);
        set_cap(p->secondary, *caps);
    }
    colo_pair_protect(p);
    colo_wait_statistic(p->secondary, "checkpoints-verified", 5);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_status(p->secondary, "running");
    colo_pair_free(p);
}

static void test_caps(const void *mode)
{
    static const char *const orders[][5] = {
        { "return-path", "x-colo", NULL },
        { "x-colo", "return-path", NULL },
        { "events", "return-path", "x-colo", "multifd", NULL },
    };

    for (int i = 0; i < G_N_ELEMENTS(orders); i++) {
        with_caps(mode, orders[i]);
    }
}

/* One side has it and the other does not */
static void test_return_path_one_side(const void *mode)
{
    for (int side = 0; side < 2; side++) {
        ColoPair *p = colo_pair_new(mode);

        set_cap(side ? p->secondary : p->primary, "return-path");
        colo_pair_protect(p);
        colo_pair_free(p);
    }
}

static void test_multifd(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    QTestState *both[] = { p->primary, p->secondary };

    for (int i = 0; i < G_N_ELEMENTS(both); i++) {
        set_cap(both[i], "multifd");
        set_cap(both[i], "return-path");
        qtest_qmp_assert_success(both[i],
            "{'execute': 'migrate-set-parameters', 'arguments': {"
            "'multifd-channels': 4}}");
    }
    colo_pair_protect(p);
    colo_wait_statistic(p->secondary, "checkpoints-verified", 5);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_pair_free(p);
}

static QDict *parameters(QTestState *qts)
{
    return qtest_qmp_assert_success_ref(qts,
        "{'execute': 'query-migrate-parameters'}");
}

static void check_delay(QTestState *qts, int64_t ms)
{
    QDict *params = parameters(qts);

    g_assert_cmpint(qdict_get_int(params, "x-checkpoint-delay"), ==, ms);
    qobject_unref(params);
}

static void test_written_back(const void *mode)
{
    static const int delays[] = { 0, 25, 20000, 1 };
    ColoPair *p = colo_pair_new(mode);
    QDict *before, *after;

    check_delay(p->primary, 0);
    for (int i = 0; i < G_N_ELEMENTS(delays); i++) {
        qtest_qmp_assert_success(p->primary,
            "{'execute': 'migrate-set-parameters', 'arguments': {"
            "'x-checkpoint-delay': %d, 'x-colo-mode': %s}}", delays[i],
            (const char *)mode);
        check_delay(p->primary, delays[i]);
        before = parameters(p->primary);
        qtest_qmp_assert_success(p->primary,
            "{'execute': 'migrate-set-parameters', 'arguments': %p}",
            qobject_ref(before));
        after = parameters(p->primary);
        g_assert_true(qobject_is_equal(QOBJECT(before), QOBJECT(after)));
        qobject_unref(before);
        qobject_unref(after);
    }
    colo_pair_free(p);
}

/* -snapshot: writes go to files that are gone afterwards */
static void test_snapshot(const void *mode)
{
    g_autofree char *image = g_strdup_printf("%s/colo-published-%d",
                                             g_get_tmp_dir(), getpid());
    g_autofree char *extra = g_strdup_printf(
        "-snapshot -drive if=virtio,format=raw,file=%s", image);
    int fd = open(image, O_RDWR | O_CREAT | O_EXCL, 0600);
    ColoPair *p;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, 1024 * 1024), ==, 0);
    close(fd);
    p = colo_pair_new_with(mode, "tcg", extra);
    unlink(image);
    colo_pair_protect(p);
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_status(p->secondary, "running");
    colo_pair_free(p);
}

/* Events of the run state */

static struct RunEvents {
    QTestState *qts;
    unsigned stops;
    unsigned resumes;
} run_events[2];

static bool count_event(QTestState *qts, const char *name, QDict *event,
                        void *opaque)
{
    struct RunEvents *e = opaque;

    e->stops += g_str_equal(name, "STOP");
    e->resumes += g_str_equal(name, "RESUME");
    return true;
}

/* Those that have arrived since it was called last */
static unsigned take_events(QTestState *qts, const char *name)
{
    struct RunEvents *e = &run_events[qts == run_events[0].qts ? 0 : 1];
    unsigned *n = g_str_equal(name, "STOP") ? &e->stops : &e->resumes;
    unsigned taken;

    g_assert_true(e->qts == qts);
    /* They arrive along with answers */
    qtest_qmp_assert_success(qts, "{'execute': 'query-name'}");
    taken = *n;
    *n = 0;
    return taken;
}

/* Those of the start of QEMU are over */
static ColoPair *quiet_pair(const char *mode)
{
    ColoPair *p = colo_pair_new(mode);
    QTestState *both[] = { p->primary, p->secondary };

    for (int i = 0; i < G_N_ELEMENTS(both); i++) {
        run_events[i] = (struct RunEvents) { .qts = both[i] };
        qtest_qmp_set_event_callback(both[i], count_event, &run_events[i]);
    }
    colo_wait_status(p->primary, "running");
    take_events(p->primary, "RESUME");
    return p;
}

/* As a manager of hybrid mode counts them */
static void test_events_hybrid(void)
{
    ColoPair *p = quiet_pair("hybrid");

    protect(p);
    g_assert_cmpuint(take_events(p->secondary, "RESUME"), ==, 1);
    g_assert_cmpuint(take_events(p->secondary, "STOP"), ==, 0);
    /* The first migration stopped it, as always */
    g_assert_cmpuint(take_events(p->primary, "STOP"), ==, 1);
    g_assert_cmpuint(take_events(p->primary, "RESUME"), ==, 1);
    for (int i = 0; i < 3; i++) {
        checkpoint(p);
        g_assert_cmpuint(take_events(p->secondary, "STOP"), ==, 1);
        g_assert_cmpuint(take_events(p->secondary, "RESUME"), ==, 1);
        g_assert_cmpuint(take_events(p->primary, "STOP"), ==, 1);
        g_assert_cmpuint(take_events(p->primary, "RESUME"), ==, 1);
    }
    colo_pair_free(p);
}

static void test_events_periodic(void)
{
    ColoPair *p = quiet_pair("periodic");

    protect(p);
    g_assert_cmpuint(take_events(p->primary, "STOP"), ==, 1);
    g_assert_cmpuint(take_events(p->primary, "RESUME"), ==, 1);
    for (int i = 0; i < 3; i++) {
        checkpoint(p);
    }
    g_assert_cmpuint(take_events(p->primary, "STOP"), ==, 0);
    g_assert_cmpuint(take_events(p->primary, "RESUME"), ==, 0);

    /* What the user does is told, checkpoints or not */
    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    checkpoint(p);
    g_assert_cmpuint(take_events(p->primary, "STOP"), ==, 1);
    qtest_qmp_assert_success(p->primary, "{'execute': 'cont'}");
    checkpoint(p);
    g_assert_cmpuint(take_events(p->primary, "RESUME"), ==, 1);
    g_assert_cmpuint(take_events(p->primary, "STOP"), ==, 0);

    colo_kill(&p->primary);
    g_assert_cmpuint(take_events(p->secondary, "STOP"), ==, 0);
    g_assert_cmpuint(take_events(p->secondary, "RESUME"), ==, 0);
    colo_failover(p->secondary);
    colo_wait_status(p->secondary, "running");
    g_assert_cmpuint(take_events(p->secondary, "RESUME"), ==, 1);
    colo_pair_free(p);
}

static void test_events_wanted(void)
{
    ColoPair *p = quiet_pair("periodic");

    qtest_qmp_assert_success(p->primary,
        "{'execute': 'migrate-set-parameters', 'arguments': {"
        "'x-colo-cut-events': true}}");
    protect(p);
    take_events(p->primary, "STOP");
    take_events(p->primary, "RESUME");
    for (int i = 0; i < 3; i++) {
        checkpoint(p);
        g_assert_cmpuint(take_events(p->primary, "STOP"), ==, 1);
        g_assert_cmpuint(take_events(p->primary, "RESUME"), ==, 1);
    }
    colo_pair_free(p);
}

/* yank */

static const char oob_monitor[] =
    "-chardev socket,id=oob,host=127.0.0.1,port=0,server=on,wait=off "
    "-mon chardev=oob,mode=control";

/* Connect to a monitor that takes commands out of band */
static int oob_connect(QTestState *qts)
{
    g_autofree char *info = qtest_hmp(qts, "info chardev");
    const char *line = strstr(info, "oob: ");
    SocketAddress addr = { .type = SOCKET_ADDRESS_TYPE_INET };
    int port, fd;

    g_assert_nonnull(line);
    g_assert_cmpint(sscanf(line, "oob: filename=disconnected:tcp:127.0.0.1:%d",
                           &port), ==, 1);
    addr.u.inet.host = (char *)"127.0.0.1";
    addr.u.inet.port = g_strdup_printf("%d", port);
    fd = socket_connect(&addr, &error_abort);
    g_free(addr.u.inet.port);
    qobject_unref(qmp_fd_receive(fd));
    qmp_fd_send(fd, "{'execute': 'qmp_capabilities', 'arguments': {"
                    "'enable': ['oob']}}");
    qobject_unref(qmp_fd_receive(fd));
    return fd;
}

/*
 * The peer hangs: what a manager does is to yank the channel, which no command
 * in band may delay, and to say who goes on.
 */
static void yank_and_fail_over(QTestState *qts)
{
    int fd = oob_connect(qts);
    QDict *answer;

    qmp_fd_send(fd, "{'exec-oob': 'yank', 'id': 1, 'arguments': {"
                    "'instances': [{'type': 'migration'}]}}");
    for (;;) {
        answer = qmp_fd_receive(fd);
        if (qdict_haskey(answer, "id")) {
            break;
        }
        qobject_unref(answer);
    }
    g_assert_true(qdict_haskey(answer, "return"));
    qobject_unref(answer);
    close(fd);
    colo_failover(qts);
}

static void test_yank(const void *mode)
{
    for (int side = 0; side < 2; side++) {
        ColoPair *p = colo_pair_new_with(mode, "tcg", oob_monitor);
        QTestState **survivor = side ? &p->secondary : &p->primary;
        QTestState **frozen = side ? &p->primary : &p->secondary;

        colo_pair_protect(p);
        g_assert_cmpint(kill(qtest_pid(*frozen), SIGSTOP), ==, 0);
        yank_and_fail_over(*survivor);
        colo_wait_state(*survivor, side ? "live" : "alone");
        colo_wait_status(*survivor, "running");
        colo_kill(frozen);
        colo_pair_free(p);
    }
}

/* -action watchdog=poweroff */

static const char watchdog[] = "-device ib700 -action watchdog=poweroff";

static void test_watchdog_primary(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "tcg", watchdog);

    colo_pair_protect(p);
    qtest_outb(p->primary, WATCHDOG_PORT, WATCHDOG_NOW);
    qtest_wait_qemu(p->primary);
    qtest_quit(g_steal_pointer(&p->primary));
    colo_wait_state(p->secondary, "ended");
    colo_pair_free(p);
}

/* Whether it fires is what the primary's guest says */
static void test_watchdog_secondary(void)
{
    ColoPair *p = colo_pair_new_with("hybrid", "tcg", watchdog);

    protect(p);
    qtest_outb(p->secondary, WATCHDOG_PORT, WATCHDOG_NOW);
    qobject_unref(colo_wait_event(p->secondary, "WATCHDOG"));
    colo_wait_status(p->secondary, "colo");
    checkpoint(p);
    colo_wait_status(p->secondary, "running");
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_pair_free(p);
}

static void add(const char *name, const char *mode,
                void (*test)(const void *mode))
{
    g_autofree char *path = g_strdup_printf("/colo/published/%s/%s", name,
                                            mode);

    qtest_add_data_func(path, mode, test);
}

int main(int argc, char **argv)
{
    static const char *const modes[] = { "periodic", "hybrid" };

    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < G_N_ELEMENTS(modes); i++) {
        add("S/never-told", modes[i], test_never_told);
        add("S/never-told-failover", modes[i], test_never_told_failover);
        add("S/never-told-failed", modes[i], test_never_told_failed);
        add("S/paused", modes[i], test_paused);
        add("S/paused-reset", modes[i], test_paused_reset);
        add("caps", modes[i], test_caps);
        add("return-path-one-side", modes[i], test_return_path_one_side);
        add("multifd", modes[i], test_multifd);
        add("written-back", modes[i], test_written_back);
        add("snapshot", modes[i], test_snapshot);
        add("yank", modes[i], test_yank);
        add("watchdog/primary", modes[i], test_watchdog_primary);
    }
    qtest_add_func("/colo/published/watchdog/secondary",
                   test_watchdog_secondary);
    qtest_add_func("/colo/published/events/hybrid", test_events_hybrid);
    qtest_add_func("/colo/published/events/periodic", test_events_periodic);
    qtest_add_func("/colo/published/events/wanted", test_events_wanted);
    return g_test_run();
}
