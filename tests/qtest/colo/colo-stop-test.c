/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO, and a guest that somebody else stops than the user: its own panic, its
 * watchdog, a debugger.
 *
 * Proves: it is like 'stop'.  The session goes on, also if it happens in a
 * cut, and the survivor is paused.  What stops the secondary's guest is void
 * when the next checkpoint comes, and no debugger lets a guest go on that
 * stands for one.  A secondary whose guest had stopped is as dead as any other
 * when the session ends.
 */

#include "qemu/osdep.h"
#include "qemu/sockets.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "colo-helpers.h"
#include "colo-hold.h"

#define PANIC_PORT      0x505
#define WATCHDOG_PORT   0x443
#define AT_ONCE         0xf             /* the watchdog's shortest time */

static const char options[] = "-device pvpanic -device ib700 "
    "-action panic=pause,watchdog=pause";

/* Debugger: one that does not listen to answers */

static int gdb;                 /* connection */

/* Returns when it was heard */
static void gdb_say(const char *packet)
{
    char ack = 0;

    g_assert_cmpint(write(gdb, packet, strlen(packet)), ==, strlen(packet));
    while (ack != '+') {
        g_assert_cmpint(read(gdb, &ack, 1), ==, 1);
    }
}

/* That a debugger comes pauses a guest that runs */
static void gdb_attach(ColoPair *p, QTestState *qts)
{
    g_autofree char *path = g_build_filename(p->dir, "gdb", NULL);
    g_autofree char *answer = qtest_hmp(qts, "gdbserver unix:%s,server=on,"
                                        "wait=off", path);

    gdb = unix_connect(path, &error_abort);
    gdb_say("$?#3f");
}

static void gdb_continue(void)
{
    gdb_say("+$c#63");
}

static void gdb_step(void)
{
    gdb_say("+$s#73");
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

/* Ways to stop a guest that runs */

static void panic(ColoPair *p, QTestState *qts)
{
    qtest_outb(qts, PANIC_PORT, 1);
}

static void watchdog(ColoPair *p, QTestState *qts)
{
    qtest_outb(qts, WATCHDOG_PORT, AT_ONCE);
}

static void debugger(ColoPair *p, QTestState *qts)
{
    gdb_attach(p, qts);
    colo_wait_status(qts, "paused");
    gdb_step();
    if (qts == p->secondary) {
        /* It goes on with the next checkpoint only */
        checkpoint(p);
    }
}

static const struct Way {
    const char *name;
    void (*stop)(ColoPair *p, QTestState *qts);
    const char *status;
} ways[] = {
    { "panic", panic, "guest-panicked" },
    { "watchdog", watchdog, "watchdog" },
    { "debugger", debugger, "debug" },
};

typedef struct Case {
    const struct Way *way;
    const char *mode;
} Case;

static ColoPair *pair_new(const char *mode)
{
    return colo_pair_new_with(mode, "tcg", options);
}

static void end(ColoPair *p)
{
    if (gdb) {
        close(gdb);
        gdb = 0;
    }
    colo_pair_free(p);
}

/* The primary's guest stopped, and this side takes over */
static void check_survivor(ColoPair *p)
{
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "paused");
    qtest_qmp_assert_success(p->secondary, "{'execute': 'cont'}");
    colo_wait_status(p->secondary, "running");
}

static void test_primary(const void *opaque)
{
    const Case *c = opaque;
    ColoPair *p = pair_new(c->mode);

    begin_session(p);
    c->way->stop(p, p->primary);
    colo_wait_status(p->primary, c->way->status);
    checkpoint(p);
    checkpoint(p);
    colo_wait_status(p->primary, c->way->status);
    colo_wait_status(p->secondary, "colo");
    check_survivor(p);
    end(p);
}

/* It had been stopped when the session began */
static void test_before(const void *opaque)
{
    const Case *c = opaque;
    ColoPair *p = pair_new(c->mode);

    c->way->stop(p, p->primary);
    colo_wait_status(p->primary, c->way->status);
    begin_session(p);
    colo_wait_status(p->primary, c->way->status);
    checkpoint(p);
    check_survivor(p);
    end(p);
}

/* The other guest does not do the same */
static void test_secondary(const void *opaque)
{
    const Case *c = opaque;
    ColoPair *p = pair_new(c->mode);

    begin_session(p);
    c->way->stop(p, p->secondary);
    colo_wait_status(p->secondary, c->way->status);
    checkpoint(p);
    colo_wait_status(p->secondary, "running");
    checkpoint(p);
    end(p);
}

/* The primary ends the session while the other guest has stopped */
static void test_ended(const void *opaque)
{
    const Case *c = opaque;
    ColoPair *p = pair_new(c->mode);

    begin_session(p);
    c->way->stop(p, p->secondary);
    colo_wait_status(p->secondary, c->way->status);
    colo_quit(&p->primary);
    colo_wait_state(p->secondary, "ended");
    colo_wait_status(p->secondary, "shutdown");
    colo_refused(p->secondary, "its guest is out of date",
                 "{'execute': 'cont'}");
    end(p);
}

/* A pair in the middle of a cut: a part has been streamed */
static ColoHold *begin_cut(ColoPair *p)
{
    ColoHold *h = colo_hold_protect(p);

    colo_hold_cut(h, p);
    colo_wait_state(p->primary, "cutting");
    colo_wait_state(p->secondary, "receiving");
    return h;
}

static void end_cut(ColoPair *p, ColoHold *h)
{
    int64_t done = colo_statistic(p->primary, "checkpoints");

    colo_hold_release(h);
    colo_wait_statistic(p->primary, "checkpoints", done + 1);
    colo_wait_state(p->primary, "running");
    colo_wait_statistic(p->secondary, "checkpoints-verified", done + 1);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
}

/* The guest stands already.  It is followed at the end of the cut. */
static void test_in_cut(const void *mode)
{
    ColoPair *p = pair_new(mode);
    ColoHold *h = begin_cut(p);

    panic(p, p->primary);
    panic(p, p->secondary);
    colo_wait_status(p->primary, "colo");
    colo_wait_status(p->secondary, "colo");
    end_cut(p, h);
    colo_wait_status(p->primary, "guest-panicked");
    checkpoint(p);
    check_survivor(p);
    end(p);
    colo_hold_free(h);
}

static void check_stands(QTestState *qts)
{
    QDict *status = qtest_qmp_assert_success_ref(qts,
        "{'execute': 'query-status'}");

    g_assert_cmpstr(qdict_get_str(status, "status"), ==, "colo");
    qobject_unref(status);
}

/* It stands until the checkpoint is complete, whatever a debugger says */
static void test_continue(ColoPair *p, QTestState *qts)
{
    ColoHold *h = begin_cut(p);

    gdb_attach(p, qts);
    gdb_continue();
    check_stands(qts);
    end_cut(p, h);
    colo_wait_status(p->primary, "running");
    checkpoint(p);
    end(p);
    colo_hold_free(h);
}

static void test_continue_primary(const void *mode)
{
    ColoPair *p = pair_new(mode);

    test_continue(p, p->primary);
}

static void test_continue_secondary(const void *mode)
{
    ColoPair *p = pair_new(mode);

    test_continue(p, p->secondary);
}

static void add(const char *where, const Case *c,
                void (*func)(const void *opaque))
{
    g_autofree char *path = g_strdup_printf("/colo/stop/%s/%s/%s", c->mode,
                                            where, c->way->name);

    g_test_add_data_func(path, c, func);
}

static void add_cut(const char *where, const char *mode,
                    void (*func)(const void *mode))
{
    g_autofree char *path = g_strdup_printf("/colo/stop/%s/in-cut/%s", mode,
                                            where);

    g_test_add_data_func(path, mode, func);
}

int main(int argc, char **argv)
{
    static const char *const modes[] = { "hybrid", "periodic" };
    static Case cases[G_N_ELEMENTS(modes)][G_N_ELEMENTS(ways)];

    g_test_init(&argc, &argv, NULL);
    for (int m = 0; m < G_N_ELEMENTS(modes); m++) {
        for (int w = 0; w < G_N_ELEMENTS(ways); w++) {
            cases[m][w] = (Case) { &ways[w], modes[m] };
            add("primary", &cases[m][w], test_primary);
            add("before", &cases[m][w], test_before);
            if (m == 0) {
                /* In periodic mode the secondary's guest does nothing */
                add("secondary", &cases[m][w], test_secondary);
                add("ended", &cases[m][w], test_ended);
            }
        }
        add_cut("panic", modes[m], test_in_cut);
        add_cut("continue-primary", modes[m], test_continue_primary);
        add_cut("continue-secondary", modes[m], test_continue_secondary);
    }
    return g_test_run();
}
