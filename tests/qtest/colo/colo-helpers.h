/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: pairs of QEMUs.
 *
 * Two QEMUs, each with a NIC behind a gate (object oc0), in a directory of
 * their own for sockets.  They run their firmware under TCG if nothing else is
 * asked for.
 */

#ifndef TESTS_QTEST_COLO_HELPERS_H
#define TESTS_QTEST_COLO_HELPERS_H

#include "libqtest.h"

/*
 * Every wait for a condition ends after COLO_DEADLINE_MS.  A pair has
 * COLO_PAIR_DEADLINE_S seconds; over it the test is aborted.  COLO_TIMEOUT_MS is
 * an x-colo-timeout that only a silent peer exceeds, also on a slow machine with
 * other work, or under the sanitizers.
 */
#define COLO_DEADLINE_MS 60000
#define COLO_PAIR_DEADLINE_S 240
#define COLO_TIMEOUT_MS 15000

/* x-colo-max-pause where the pause is not the subject: no machine is so slow */
#define COLO_MAX_PAUSE_MS 600000

/* For LD_PRELOAD, where the host has no vhost: see there */
#define COLO_FAKE_VHOST "tests/qtest/colo/libcolo-fake-vhost.so"

typedef struct ColoPair {
    QTestState *primary;        /* NULL when it is gone */
    QTestState *secondary;
    char *dir;                  /* for sockets */
    const char *mode;           /* x-colo-mode */
    const char *accel;
    char *extra;                /* more options of both */
    unsigned primary_max_pause_ms;      /* 0: COLO_MAX_PAUSE_MS */
    unsigned secondary_max_pause_ms;
} ColoPair;

/* Start both; nothing is protected yet */
ColoPair *colo_pair_new(const char *mode);
ColoPair *colo_pair_new_with(const char *mode, const char *accel,
                             const char *extra);

/* Is it in hybrid mode?  Then the secondary's guest runs, too. */
bool colo_is_hybrid(ColoPair *p);

/* The state of a secondary that could take over */
const char *colo_state_ready(ColoPair *p);

/* Before a session: the NIC is connected to nothing, and needs no filters */
void colo_side_unplug_net(QTestState *qts);
void colo_pair_unplug_net(ColoPair *p);

/* End what is left of both */
void colo_pair_free(ColoPair *p);

/* Start a secondary for a pair that has none any more */
void colo_pair_new_secondary(ColoPair *p);

/*
 * Enter COLO.  @listen and @connect: file names of the sockets on which the
 * secondary listens and to which the primary connects.
 */
void colo_pair_migrate(ColoPair *p, const char *listen, const char *connect,
                       unsigned delay_ms, unsigned timeout_ms);

/*
 * The same, but the first migration is under way and does not get to its end
 * before colo_pair_release()
 */
void colo_pair_hold(ColoPair *p, const char *listen, const char *connect,
                    unsigned delay_ms, unsigned timeout_ms);
void colo_pair_release(ColoPair *p);

/* As colo_pair_migrate() over one socket, and wait for a few checkpoints */
void colo_pair_protect(ColoPair *p);

/* Shut the connection down, as if the network had: each loses the other */
void colo_cut(ColoPair *p);

/* SIGKILL; @qts, a member of a pair, becomes NULL */
void colo_kill(QTestState **qts);

/* The QMP command quit, and wait for the end; @qts becomes NULL */
void colo_quit(QTestState **qts);

/* SIGSTOP and SIGCONT */
void colo_stop_process(QTestState *qts);
void colo_continue_process(QTestState *qts);

/* x-colo-lost-heartbeat, which has to be accepted; the same with force */
void colo_failover(QTestState *qts);
void colo_force(QTestState *qts);

/* A property of the accelerator KVM, its value follows */
#define COLO_DIRTY_RING     "dirty-ring-size="

/*
 * Why no QEMU can be started with @accel on this host; NULL if one can.  It may
 * have properties.
 */
const char *colo_why_no_accel(const char *accel);

/* The answer of query-colo-status; the caller unrefs it */
QDict *colo_status(QTestState *qts);

/* One value of query-colo-status; the caller frees it, NULL if not there */
char *colo_state(QTestState *qts);
int64_t colo_statistic(QTestState *qts, const char *name);

/* Wait until it is @state, or @status in query-status; fail when late */
void colo_wait_state(QTestState *qts, const char *state);
void colo_wait_mode(QTestState *qts, const char *mode);
void colo_wait_status(QTestState *qts, const char *status);
void colo_wait_migrate(QTestState *qts, const char *status);
void colo_wait_statistic(QTestState *qts, const char *name, int64_t at_least);

/*
 * Wait until the secondary has gone on, or the primary, and its guest runs; until
 * a side is out, and nothing brings its guest back; until one of a pair has gone
 * on, whichever it is, and the other is out.
 */
void colo_check_live(QTestState *qts);
void colo_check_alone(QTestState *qts);
void colo_check_ended(QTestState *qts);
void colo_check_one(ColoPair *p);

/* Wait for an event; the caller unrefs it */
QDict *colo_wait_event(QTestState *qts, const char *name);

/*
 * Arm a fault point, see query-colo-fault-points.  A thread that hangs at the
 * last one goes on.
 */
void colo_fault(QTestState *qts, const char *point, const char *action);

/* Wait until a thread hangs at that point */
void colo_wait_hang(QTestState *qts, const char *point);

/* Add the test @prefix/@name for each mode, which is what @test gets */
void colo_add(const char *prefix, const char *name,
              void (*test)(const void *));

/* Run a command that has to be refused with a text that contains @text */
void colo_refused(QTestState *qts, const char *text, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

#endif
