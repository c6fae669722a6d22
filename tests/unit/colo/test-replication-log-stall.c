/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The log of the primary's disk writes, and another side that stands still
 * without closing the connection.
 *
 * Proves: a write that waits for room gets on when nothing has got on for the
 * log's time, and the log says why; not before; not in a session, nor while
 * the log is paused, nor if the other side is slow; what was before a write
 * had to wait does not count.
 *
 * The guest is the main thread; requests are in the log's.  A request waits
 * until the test answers it.  When the time is over the log asks whether there
 * is a session: by that the tests see it look, and act just then.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "block/replication/log.h"
#include "colo-log-guest.h"

#define DEADLINE_MS 20000
#define BLOCK 4096
#define LIMIT (64 * KiB)
#define FULL (60 * KiB)         /* what leaves no room for LARGE */
#define LARGE (40 * KiB)

/* Enough to see that something happens again and again */
#define MANY_LOOKS 3

/* What happens when the log looks */
typedef enum Look {
    LOOK_ONLY,
    LOOK_ANSWER,                /* one request */
    LOOK_DRAIN,                 /* as if somebody had drained a moment ago */
} Look;

typedef struct Peer {
    ReplicationLog *log;
    ReplicationLogOps ops;
    QemuMutex lock;
    QemuCond changed;
    /* lock */
    GQueue requests;            /* coroutines that wait for an answer */
    Look look;
    bool in_session;
    unsigned looks;
    int broken;                 /* times */
    int err;
} Peer;

static bool answer_one(Peer *p)
{
    Coroutine *co;

    WITH_QEMU_LOCK_GUARD(&p->lock) {
        co = g_queue_pop_head(&p->requests);
    }
    if (co) {
        aio_co_wake(co);        /* in the log's thread it runs now */
    }
    return co;
}

static int coroutine_fn peer_write(void *opaque, int64_t offset, int64_t bytes,
                                   QEMUIOVector *qiov)
{
    Peer *p = opaque;

    WITH_QEMU_LOCK_GUARD(&p->lock) {
        g_queue_push_tail(&p->requests, qemu_coroutine_self());
        qemu_cond_broadcast(&p->changed);
    }
    qemu_coroutine_yield();
    QEMU_LOCK_GUARD(&p->lock);
    return p->broken ? -EIO : 0;
}

static bool peer_in_session(void *opaque)
{
    Peer *p = opaque;
    bool in_session;
    Look look;

    WITH_QEMU_LOCK_GUARD(&p->lock) {
        p->looks++;
        look = p->look;
        in_session = p->in_session;
        qemu_cond_broadcast(&p->changed);
    }
    if (look == LOOK_ANSWER) {
        answer_one(p);
    } else if (look == LOOK_DRAIN) {
        replication_log_pause(p->log, true);
        replication_log_pause(p->log, false);
    }
    return in_session;
}

/* As the yank of a connection */
static void peer_broken(void *opaque, int err)
{
    Peer *p = opaque;

    WITH_QEMU_LOCK_GUARD(&p->lock) {
        p->broken++;
        p->err = err;
    }
    while (answer_one(p)) {
        ;
    }
}

static Peer *peer_new(unsigned stall_ms)
{
    Peer *p = g_new0(Peer, 1);

    p->ops = (ReplicationLogOps) {
        .write = peer_write,
        .stall_ms = stall_ms,
        .in_session = peer_in_session,
        .broken = peer_broken,
    };
    qemu_mutex_init(&p->lock);
    qemu_cond_init(&p->changed);
    g_queue_init(&p->requests);
    p->log = replication_log_new(&p->ops, p, LIMIT, 512, MiB, &error_abort);
    return p;
}

static void peer_free(Peer *p)
{
    replication_log_free(p->log);
    g_assert_cmpint(p->broken, ==, 1);
    qemu_cond_destroy(&p->changed);
    qemu_mutex_destroy(&p->lock);
    g_free(p);
}

static void set_look(Peer *p, Look look)
{
    QEMU_LOCK_GUARD(&p->lock);
    p->look = look;
}

static void set_session(Peer *p, bool in_session)
{
    QEMU_LOCK_GUARD(&p->lock);
    p->in_session = in_session;
}

static unsigned n_looks(Peer *p)
{
    QEMU_LOCK_GUARD(&p->lock);
    return p->looks;
}

static int error_of(Peer *p)
{
    QEMU_LOCK_GUARD(&p->lock);
    return p->err;
}

static void wait_requests(Peer *p, unsigned n)
{
    QEMU_LOCK_GUARD(&p->lock);
    while (g_queue_get_length(&p->requests) < n) {
        g_assert_true(qemu_cond_timedwait(&p->changed, &p->lock, DEADLINE_MS));
    }
}

/* The guest fills the log, and the other side has it all */
static void fill(Peer *p)
{
    log_guest(p->log, 'w', 0, FULL, 1);
    wait_requests(p, 1);
}

/* One more write, which has to wait */
static void begin_to_wait(LogGuest *g)
{
    log_guest_begin(g);
    g_assert_false(g->done);
}

/* The log looks again and again, and the write goes on waiting */
static void goes_on_waiting(Peer *p, LogGuest *g)
{
    unsigned end = n_looks(p) + MANY_LOOKS;

    WITH_QEMU_LOCK_GUARD(&p->lock) {
        while (p->looks < end) {
            g_assert_true(qemu_cond_timedwait(&p->changed, &p->lock,
                                              DEADLINE_MS));
        }
    }
    for (int i = 0; i < 20; i++) {
        aio_poll(qemu_get_aio_context(), false);
    }
    g_assert_false(g->done);
    g_assert_cmpint(error_of(p), ==, 0);
}

/* It does not, but not before the time is over since @begin */
static void is_let_go(Peer *p, LogGuest *g, int64_t begin)
{
    ReplicationLogStats stats;

    log_guest_wait(g);
    g_assert_cmpint(g_get_monotonic_time() - begin, >=,
                    (p->ops.stall_ms - 1) * 1000LL);
    g_assert_cmpint(error_of(p), ==, ETIMEDOUT);
    replication_log_stats(p->log, &stats);
    g_assert_cmpint(stats.err, ==, ETIMEDOUT);
}

static void test_stands(void)
{
    Peer *p = peer_new(50);
    LogGuest g = { .log = p->log, .type = 'w', .bytes = LARGE };
    LogGuest other = g;
    int64_t begin;

    fill(p);
    begin = g_get_monotonic_time();
    begin_to_wait(&g);
    begin_to_wait(&other);
    is_let_go(p, &g, begin);
    log_guest_wait(&other);
    /* All is taken from here on */
    for (int i = 0; i < 3; i++) {
        log_guest(p->log, 'w', 0, FULL, 1);
    }
    peer_free(p);
}

/* Each time it ends a request in the last moment, and there is room at last */
static void test_slow(void)
{
    Peer *p = peer_new(20);
    LogGuest g = { .log = p->log, .type = 'w', .offset = MiB, .bytes = LARGE };

    for (int i = 0; i < FULL / BLOCK; i++) {
        log_guest(p->log, 'w', i * 2 * BLOCK, BLOCK, 1);
    }
    wait_requests(p, FULL / BLOCK);
    set_look(p, LOOK_ANSWER);
    begin_to_wait(&g);
    log_guest_wait(&g);
    g_assert_cmpint(error_of(p), ==, 0);
    g_assert_cmpuint(n_looks(p), >=, (LARGE - (LIMIT - FULL)) / BLOCK);
    peer_free(p);
}

/* That is for the session; what comes after it is not */
static void test_session(void)
{
    Peer *p = peer_new(20);
    LogGuest g = { .log = p->log, .type = 'w', .bytes = LARGE };

    set_session(p, true);
    fill(p);
    begin_to_wait(&g);
    goes_on_waiting(p, &g);
    set_session(p, false);
    log_guest_wait(&g);
    g_assert_cmpint(error_of(p), ==, ETIMEDOUT);
    peer_free(p);
}

/* Nothing may begin, or could begin only a moment ago */
static void test_pause(void)
{
    Peer *p = peer_new(20);
    LogGuest g = { .log = p->log, .type = 'w', .bytes = LARGE };

    fill(p);
    replication_log_pause(p->log, true);
    begin_to_wait(&g);
    goes_on_waiting(p, &g);
    set_look(p, LOOK_DRAIN);
    replication_log_pause(p->log, false);
    goes_on_waiting(p, &g);
    set_look(p, LOOK_ONLY);
    log_guest_wait(&g);
    g_assert_cmpint(error_of(p), ==, ETIMEDOUT);
    peer_free(p);
}

/* A write that waits later has all of the time, from when it waits */
static void test_later(void)
{
    Peer *p = peer_new(300);
    LogGuest first = { .log = p->log, .type = 'w', .bytes = LARGE };
    LogGuest later = first;
    int64_t begin = g_get_monotonic_time();

    set_session(p, true);       /* only the later one is to be let go */
    fill(p);
    begin_to_wait(&first);
    g_assert_true(answer_one(p));
    log_guest_wait(&first);
    wait_requests(p, 1);
    g_assert_true(answer_one(p));
    log_guest_settle(p->log, 1, DEADLINE_MS);
    replication_log_restart(p->log);
    set_session(p, false);
    while (g_get_monotonic_time() < begin + 200000) {
        aio_poll(qemu_get_aio_context(), false);
    }
    fill(p);
    begin = g_get_monotonic_time();
    begin_to_wait(&later);
    is_let_go(p, &later, begin);
    peer_free(p);
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_fatal);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/disk/log-stall/stands", test_stands);
    g_test_add_func("/colo/disk/log-stall/slow", test_slow);
    g_test_add_func("/colo/disk/log-stall/session", test_session);
    g_test_add_func("/colo/disk/log-stall/pause", test_pause);
    g_test_add_func("/colo/disk/log-stall/later", test_later);
    return g_test_run();
}
