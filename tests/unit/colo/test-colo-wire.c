/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO wire protocol, frames over a socket.
 *
 * Proves: frames arrive whole however they are cut up, silence ends in an error
 * after the timeout and not before, a peer that takes nothing or drips does
 * too, and another thread can wake and cancel every wait.  Whoever wants to goes
 * on waiting, until the two hear each other again.  An alarm rings in
 * time also in the middle of a frame; that frame gets complete, but no other.
 */

#include "qemu/osdep.h"
#include "qemu/module.h"
#include "qemu/sockets.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "io/channel-socket.h"
#include "migration/colo/keepalive.h"
#include "migration/colo/wire.h"

#define TIMEOUT_MS  1000

typedef struct Ends {
    QIOChannel *ioc;
    ColoWire *w;
    int peer;               /* file descriptor */
} Ends;

static void ends_open(Ends *e)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    e->ioc = QIO_CHANNEL(qio_channel_socket_new_fd(fds[0], &error_abort));
    e->w = colo_wire_new(e->ioc, COLO_MODE_PRIMARY, TIMEOUT_MS);
    e->peer = fds[1];
}

static void ends_close(Ends *e)
{
    colo_wire_free(e->w);
    object_unref(OBJECT(e->ioc));
    if (e->peer >= 0) {
        close(e->peer);
    }
}

static void peer_write(Ends *e, const void *buf, size_t len)
{
    g_assert_cmpint(write(e->peer, buf, len), ==, len);
}

static int64_t now_ms(void)
{
    return qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
}

static void test_send_recv(void)
{
    Ends a;
    ColoWire *b;
    QIOChannel *ioc;
    struct iovec iov[2] = { { (void *)"hel", 3 }, { (void *)"lo", 2 } };
    char buf[5];
    ColoFrame f;

    ends_open(&a);
    ioc = QIO_CHANNEL(qio_channel_socket_new_fd(a.peer, &error_abort));
    a.peer = -1;
    b = colo_wire_new(ioc, COLO_MODE_SECONDARY, TIMEOUT_MS);

    g_assert_true(colo_wire_send(a.w, COLO_FRAME_ERROR, 7, iov, 2,
                                 &error_abort));
    g_assert_true(colo_wire_send_buf(a.w, COLO_FRAME_PING, 8, NULL, 0,
                                     &error_abort));
    g_assert_true(colo_wire_recv(b, "a test", &f, &error_abort));
    g_assert_cmpint(f.type, ==, COLO_FRAME_ERROR);
    g_assert_cmpuint(f.epoch, ==, 7);
    g_assert_cmpuint(f.length, ==, 5);
    g_assert_true(colo_wire_recv_buf(b, buf, 5, &error_abort));
    g_assert_cmpint(memcmp(buf, "hello", 5), ==, 0);
    g_assert_true(colo_wire_recv(b, "a test", &f, &error_abort));
    g_assert_cmpint(f.type, ==, COLO_FRAME_PING);
    g_assert_cmpuint(colo_wire_bytes_sent(a.w), ==, 2 * 24 + 5);
    g_assert_cmpuint(colo_wire_bytes_received(b), ==, 2 * 24 + 5);

    colo_wire_free(b);
    object_unref(OBJECT(ioc));
    ends_close(&a);
}

static void expect_error(Error *err, const char *text)
{
    g_assert_nonnull(err);
    if (!strstr(error_get_pretty(err), text)) {
        g_error("'%s' does not contain '%s'", error_get_pretty(err), text);
    }
    error_free(err);
}

/* The peer's bytes come one by one */
typedef struct Drip {
    Ends e;
    int pause_us;               /* before each */
} Drip;

static void *drip(void *opaque)
{
    Drip *d = opaque;
    uint8_t hdr[COLO_FRAME_HDR_LEN];

    colo_frame_encode(&(ColoFrame) { COLO_FRAME_PONG, 3, 0 }, hdr);
    for (int i = 0; i < sizeof(hdr); i++) {
        g_usleep(d->pause_us);
        peer_write(&d->e, hdr + i, 1);
    }
    return NULL;
}

static void test_drip(void)
{
    Drip d = { .pause_us = 1000 };
    QemuThread thread;
    ColoFrame f;

    ends_open(&d.e);
    qemu_thread_create(&thread, "drip", drip, &d, QEMU_THREAD_JOINABLE);
    g_assert_true(colo_wire_recv(d.e.w, "a test", &f, &error_abort));
    g_assert_cmpint(f.type, ==, COLO_FRAME_PONG);
    qemu_thread_join(&thread);
    ends_close(&d.e);
}

/* No pause is as long as the timeout, all of them are */
static void test_slow_drip(void)
{
    Drip d = { .pause_us = TIMEOUT_MS * 1000 / 10 };
    QemuThread thread;
    Error *err = NULL;
    ColoFrame f;

    ends_open(&d.e);
    qemu_thread_create(&thread, "drip", drip, &d, QEMU_THREAD_JOINABLE);
    g_assert_false(colo_wire_recv(d.e.w, "a test", &f, &err));
    expect_error(err, "bytes went through in " stringify(TIMEOUT_MS) " ms");
    qemu_thread_join(&thread);
    ends_close(&d.e);
}

static void test_silence(void)
{
    int64_t begin_ms = now_ms();
    Error *err = NULL;
    ColoFrame f;
    Ends e;

    ends_open(&e);
    g_assert_false(colo_wire_recv(e.w, "the moon", &f, &err));
    g_assert_cmpint(now_ms() - begin_ms, >=, TIMEOUT_MS - 1);
    expect_error(err, "waiting for the moon: the peer was silent for "
                      stringify(TIMEOUT_MS) " ms");
    ends_close(&e);
}

static void test_deaf_peer(void)
{
    g_autofree char *big = g_malloc0(COLO_DEVICE_STATE_MAX);
    Error *err = NULL;
    Ends e;

    ends_open(&e);
    g_assert_false(colo_wire_send_buf(e.w, COLO_FRAME_VMSTATE_SIZE, 4, big,
                                      COLO_DEVICE_STATE_MAX, &err));
    expect_error(err, "sending 'vmstate-size' of checkpoint 4: ");
    ends_close(&e);
}

/* A peer that is slow, or deaf, and an alarm */
#define ALARM_MS    100
#define BIG         (2 * 1024 * 1024)

typedef struct Alarm {
    Ends e;
    char *big;
    int64_t set_ms;
    int64_t rang_ms;            /* after it was set */
    int rang;
    QemuSemaphore heard;
} Alarm;

static void alarm_rings(void *opaque)
{
    Alarm *a = opaque;

    a->rang++;
    a->rang_ms = now_ms() - a->set_ms;
    qemu_sem_post(&a->heard);
}

static void alarm_open(Alarm *a)
{
    *a = (Alarm) { .big = g_malloc0(BIG), .set_ms = now_ms() };
    qemu_sem_init(&a->heard, 0);
    ends_open(&a->e);
    colo_wire_set_alarm(a->e.w, qemu_clock_get_ns(QEMU_CLOCK_REALTIME) +
                        ALARM_MS * SCALE_MS, alarm_rings, a);
}

static bool alarm_send(Alarm *a, size_t len, Error **errp)
{
    return colo_wire_send_buf(a->e.w, COLO_FRAME_VMSTATE_SIZE, 4, a->big, len,
                              errp);
}

static void alarm_close(Alarm *a)
{
    ends_close(&a->e);
    qemu_sem_destroy(&a->heard);
    g_free(a->big);
}

/* Reads when the alarm has rung, not before: the whole frame, and one more */
static void *read_late(void *opaque)
{
    Alarm *a = opaque;
    g_autofree char *buf = g_malloc(BIG);
    size_t want = COLO_FRAME_HDR_LEN + BIG;

    qemu_sem_wait(&a->heard);
    while (want) {
        ssize_t n = read(a->e.peer, buf, MIN(want, BIG));

        g_assert_cmpint(n, >, 0);
        want -= n;
    }
    g_assert_cmpint(recv(a->e.peer, buf, COLO_FRAME_HDR_LEN, MSG_WAITALL), ==,
                    COLO_FRAME_HDR_LEN);
    g_assert_cmpint(buf[7], ==, COLO_FRAME_PING);
    return NULL;
}

static void test_alarm_slow_peer(void)
{
    QemuThread thread;
    Error *err = NULL;
    Alarm a;

    alarm_open(&a);
    qemu_thread_create(&thread, "late", read_late, &a, QEMU_THREAD_JOINABLE);
    g_assert_true(alarm_send(&a, BIG, &error_abort));
    g_assert_cmpint(a.rang, ==, 1);
    g_assert_cmpint(a.rang_ms, >=, ALARM_MS);
    g_assert_cmpint(a.rang_ms, <, TIMEOUT_MS);
    g_assert_true(colo_wire_is_whole(a.e.w));

    g_assert_false(alarm_send(&a, 1, &err));
    expect_error(err, "no time");
    g_assert_true(colo_wire_is_whole(a.e.w));
    colo_wire_clear_alarm(a.e.w);
    g_assert_true(colo_wire_send_buf(a.e.w, COLO_FRAME_PING, 5, NULL, 0,
                                     &error_abort));
    qemu_thread_join(&thread);
    g_assert_cmpint(a.rang, ==, 1);
    alarm_close(&a);
}

/* It reads enough to begin a new timeout again and again */
static void *read_slowly(void *opaque)
{
    Alarm *a = opaque;
    char buf[16384];

    qemu_sem_wait(&a->heard);
    while (read(a->e.peer, buf, sizeof(buf)) > 0) {
        g_usleep(TIMEOUT_MS * 1000 / 20);
    }
    return NULL;
}

static void test_alarm_slow_for_too_long(void)
{
    QemuThread thread;
    Error *err = NULL;
    int64_t ms;
    Alarm a;

    alarm_open(&a);
    qemu_thread_create(&thread, "slow", read_slowly, &a, QEMU_THREAD_JOINABLE);
    g_assert_false(alarm_send(&a, BIG, &err));
    ms = now_ms() - a.set_ms - a.rang_ms;
    expect_error(err, "sending 'vmstate-size' of checkpoint 4: ");
    g_assert_cmpint(ms, >=, TIMEOUT_MS);
    g_assert_cmpint(ms, <, 2 * TIMEOUT_MS);
    g_assert_false(colo_wire_is_whole(a.e.w));
    qio_channel_shutdown(a.e.ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    qemu_thread_join(&thread);
    alarm_close(&a);
}

static void test_eof(void)
{
    uint8_t hdr[COLO_FRAME_HDR_LEN];
    Error *err = NULL;
    ColoFrame f;
    char buf[4];
    Ends e;

    ends_open(&e);
    colo_frame_encode(&(ColoFrame) { COLO_FRAME_BYE, 5, 4 }, hdr);
    peer_write(&e, hdr, sizeof(hdr));
    peer_write(&e, "ab", 2);
    close(e.peer);
    e.peer = -1;
    g_assert_true(colo_wire_recv(e.w, "a test", &f, &error_abort));
    g_assert_false(colo_wire_recv_buf(e.w, buf, 4, &err));
    expect_error(err, "receiving 'bye' of checkpoint 5: the peer closed");
    err = NULL;
    g_assert_false(colo_wire_recv(e.w, "a test", &f, &err));
    expect_error(err, "the peer closed");
    ends_close(&e);
}

static void test_garbage(void)
{
    Error *err = NULL;
    ColoFrame f;
    Ends e;

    ends_open(&e);
    peer_write(&e, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27);
    g_assert_false(colo_wire_recv(e.w, "a test", &f, &err));
    expect_error(err, "waiting for a test: wrong magic");
    ends_close(&e);
}

static void test_skip(void)
{
    uint8_t hdr[COLO_FRAME_HDR_LEN];
    g_autofree char *junk = g_malloc0(10000);
    ColoFrame f;
    Ends e;

    ends_open(&e);
    colo_frame_encode(&(ColoFrame) { COLO_FRAME_PAGES, 1, 10000 }, hdr);
    peer_write(&e, hdr, sizeof(hdr));
    peer_write(&e, junk, 10000);
    colo_frame_encode(&(ColoFrame) { COLO_FRAME_PING, 1, 0 }, hdr);
    peer_write(&e, hdr, sizeof(hdr));
    g_assert_true(colo_wire_recv(e.w, "a test", &f, &error_abort));
    g_assert_true(colo_wire_skip(e.w, f.length, &error_abort));
    g_assert_true(colo_wire_recv(e.w, "a test", &f, &error_abort));
    g_assert_cmpint(f.type, ==, COLO_FRAME_PING);
    ends_close(&e);
}

static void test_wait(void)
{
    int64_t now_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    Ends e;

    ends_open(&e);
    g_assert_cmpint(colo_wire_wait(e.w, now_ns + 1000000), ==,
                    COLO_WAIT_DEADLINE);
    /* A wake-up that came early is not lost, and counts once */
    colo_wire_wake(e.w);
    g_assert_cmpint(colo_wire_wait(e.w, INT64_MAX), ==, COLO_WAIT_WOKEN);
    now_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    g_assert_cmpint(colo_wire_wait(e.w, now_ns + 1000000), ==,
                    COLO_WAIT_DEADLINE);
    peer_write(&e, "x", 1);
    g_assert_cmpint(colo_wire_wait(e.w, INT64_MAX), ==, COLO_WAIT_READABLE);
    ends_close(&e);
}

static void *cancel_later(void *opaque)
{
    Ends *e = opaque;

    g_usleep(20 * 1000);
    colo_wire_cancel(e->w);
    return NULL;
}

static void test_cancel(void)
{
    QemuThread thread;
    Error *err = NULL;
    ColoFrame f;
    Ends e;
    int64_t begin_ms = now_ms();

    ends_open(&e);
    colo_wire_set_timeout(e.w, 60000);
    qemu_thread_create(&thread, "cancel", cancel_later, &e,
                       QEMU_THREAD_JOINABLE);
    g_assert_false(colo_wire_recv(e.w, "a test", &f, &err));
    expect_error(err, "interrupted");
    g_assert_cmpint(now_ms() - begin_ms, <, 30000);
    qemu_thread_join(&thread);

    /* It stays so, for everything */
    g_assert_true(colo_wire_cancelled(e.w));
    err = NULL;
    g_assert_false(colo_wire_send_buf(e.w, COLO_FRAME_PING, 1, NULL, 0, &err));
    expect_error(err, "interrupted");
    g_assert_cmpint(colo_wire_wait(e.w, INT64_MAX), ==, COLO_WAIT_WOKEN);
    ends_close(&e);
}

static void peer_says_alive(Ends *e, const ColoAlive *a)
{
    uint8_t buf[COLO_FRAME_HDR_LEN + COLO_ALIVE_LEN];

    colo_frame_encode(&(ColoFrame) {
        COLO_FRAME_ALIVE, 0, COLO_ALIVE_LEN,
    }, buf);
    colo_alive_encode(a, buf + COLO_FRAME_HDR_LEN);
    peer_write(e, buf, sizeof(buf));
}

static void peer_alive(Ends *e, uint64_t progress)
{
    peer_says_alive(e, &(ColoAlive) { .progress = progress });
}

/* A peer that works, or hangs, and says so */
typedef struct Worker {
    Ends e;
    int beats;
    bool gets_on;
} Worker;

#define WORKER_TIMEOUT_MS   100

static void *work(void *opaque)
{
    Worker *w = opaque;
    uint8_t hdr[COLO_FRAME_HDR_LEN];

    for (int i = 0; i < w->beats; i++) {
        peer_alive(&w->e, w->gets_on ? i + 1 : 1);
        g_usleep(WORKER_TIMEOUT_MS * 1000 / 2);
    }
    colo_frame_encode(&(ColoFrame) { COLO_FRAME_PONG, 3, 0 }, hdr);
    peer_write(&w->e, hdr, sizeof(hdr));
    return NULL;
}

static void run_worker(bool gets_on, int stalls, ColoFrame *f, Error **errp)
{
    /* Twice a timeout */
    Worker w = { .beats = 2 * stalls * COLO_STALL_TIMEOUTS + 8,
                 .gets_on = gets_on };
    QemuThread thread;

    ends_open(&w.e);
    colo_wire_set_timeout(w.e.w, WORKER_TIMEOUT_MS);
    qemu_thread_create(&thread, "work", work, &w, QEMU_THREAD_JOINABLE);
    f->type = COLO_FRAME__MAX;
    colo_wire_recv(w.e.w, "a test", f, errp);
    qemu_thread_join(&thread);
    ends_close(&w.e);
}

/* Longer than any bound, but it gets on */
static void test_alive_works(void)
{
    ColoFrame f;

    run_worker(true, 2, &f, &error_abort);
    g_assert_cmpint(f.type, ==, COLO_FRAME_PONG);
}

/* Several timeouts without progress are a long piece of work */
static void test_alive_slow(void)
{
    ColoFrame f;

    run_worker(false, 0, &f, &error_abort);
    g_assert_cmpint(f.type, ==, COLO_FRAME_PONG);
}

static void test_alive_stall(void)
{
    Error *err = NULL;
    ColoFrame f;

    run_worker(false, 2, &f, &err);
    expect_error(err, "has not got on");
}

/* What was sent while this side did something else does not count against it */
static void test_alive_backlog(void)
{
    uint8_t hdr[COLO_FRAME_HDR_LEN];
    ColoFrame f;
    Ends e;

    ends_open(&e);
    colo_wire_set_timeout(e.w, 1);
    peer_alive(&e, 1);
    g_assert_true(colo_wire_next(e.w, "a test", &f, &error_abort));
    g_assert_cmpint(f.type, ==, COLO_FRAME_ALIVE);
    for (int i = 0; i < 10; i++) {
        peer_alive(&e, 1);
    }
    colo_frame_encode(&(ColoFrame) { COLO_FRAME_PONG, 3, 0 }, hdr);
    peer_write(&e, hdr, sizeof(hdr));
    g_usleep(2 * COLO_STALL_TIMEOUTS * 1000);
    g_assert_true(colo_wire_recv(e.w, "a test", &f, &error_abort));
    g_assert_cmpint(f.type, ==, COLO_FRAME_PONG);
    ends_close(&e);
}

/* Frames stay whole although two threads write, and the socket is full */
static void *send_frames(void *opaque)
{
    ColoWire *w = opaque;
    g_autofree uint8_t *text = g_malloc0(COLO_TEXT_MAX);

    for (int i = 0; i < 2000; i++) {
        g_assert_true(colo_wire_send_buf(w, COLO_FRAME_ERROR, i, text,
                                         i % COLO_TEXT_MAX, &error_abort));
    }
    return NULL;
}

static void test_alive_whole(void)
{
    QemuThread thread;
    QIOChannel *ioc;
    unsigned alive = 0;
    ColoWire *b;
    ColoFrame f;
    Ends a;

    ends_open(&a);
    ioc = QIO_CHANNEL(qio_channel_socket_new_fd(a.peer, &error_abort));
    a.peer = -1;
    b = colo_wire_new(ioc, COLO_MODE_SECONDARY, TIMEOUT_MS);
    qemu_thread_create(&thread, "send", send_frames, a.w,
                       QEMU_THREAD_JOINABLE);
    for (int i = 0; i < 2000; i++) {
        do {
            /* Where the socket is full some of it may have to wait */
            colo_wire_send_alive(a.w);
            g_assert_true(colo_wire_next(b, "a test", &f, &error_abort));
            alive += f.type == COLO_FRAME_ALIVE;
        } while (f.type == COLO_FRAME_ALIVE);
        g_assert_cmpint(f.type, ==, COLO_FRAME_ERROR);
        g_assert_cmpuint(f.epoch, ==, i);
        g_assert_cmpuint(f.length, ==, i % COLO_TEXT_MAX);
    }
    g_assert_cmpuint(alive, >, 0);
    qemu_thread_join(&thread);
    colo_wire_free(b);
    object_unref(OBJECT(ioc));
    ends_close(&a);
}

static void test_alive_thread(void)
{
    ColoKeepalive *k;
    ColoFrame f;
    ColoWire *b;
    QIOChannel *ioc;
    Ends a;

    ends_open(&a);
    ioc = QIO_CHANNEL(qio_channel_socket_new_fd(a.peer, &error_abort));
    a.peer = -1;
    b = colo_wire_new(ioc, COLO_MODE_SECONDARY, TIMEOUT_MS);
    colo_wire_set_timeout(a.w, WORKER_TIMEOUT_MS);
    k = colo_keepalive_start(a.w);
    for (int i = 0; i < 5; i++) {
        g_assert_true(colo_wire_next(b, "a test", &f, &error_abort));
        g_assert_cmpint(f.type, ==, COLO_FRAME_ALIVE);
    }
    colo_keepalive_stop(k);
    colo_wire_free(b);
    object_unref(OBJECT(ioc));
    ends_close(&a);
}

/* Silence that is not the end */

#define SILENCE_MS      100

typedef struct Watch {
    Ends e;
    unsigned lost;
    unsigned back;
    bool decided;               /* it does not go on */
    char *why;
    void (*then)(Ends *e);      /* what the peer does when it is lost */
} Watch;

static bool watch_lost(void *opaque, const char *why)
{
    Watch *w = opaque;

    w->lost++;
    g_free(w->why);
    w->why = g_strdup(why);
    if (w->then) {
        w->then(&w->e);
    }
    return w->then;
}

static bool watch_back(void *opaque)
{
    Watch *w = opaque;

    w->back++;
    return !w->decided;
}

static void watch_open(Watch *w, void (*then)(Ends *e))
{
    static const ColoSilenceOps ops = { watch_lost, watch_back };

    *w = (Watch) { .then = then };
    ends_open(&w->e);
    colo_wire_set_timeout(w->e.w, SILENCE_MS);
    colo_wire_on_silence(w->e.w, &ops, w);
}

static void watch_close(Watch *w)
{
    ends_close(&w->e);
    g_free(w->why);
}

static void peer_pong(Ends *e)
{
    uint8_t hdr[COLO_FRAME_HDR_LEN];

    colo_frame_encode(&(ColoFrame) { COLO_FRAME_PONG, 3, 0 }, hdr);
    peer_write(e, hdr, sizeof(hdr));
}

static int64_t now_ns(void)
{
    return qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
}

/* Nobody wants to wait: an error as always */
static void test_lost_refused(void)
{
    Error *err = NULL;
    ColoFrame f;
    Watch w;

    watch_open(&w, NULL);
    g_assert_false(colo_wire_recv(w.e.w, "a test", &f, &err));
    expect_error(err, "a test: the peer was silent");
    g_assert_cmpint(w.lost, ==, 1);
    g_assert_false(colo_wire_is_lost(w.e.w));
    watch_close(&w);
}

/* A frame that is not about life and death says enough */
static void test_lost_frame(void)
{
    ColoFrame f;
    Watch w;

    watch_open(&w, peer_pong);
    g_assert_true(colo_wire_recv(w.e.w, "a test", &f, &error_abort));
    g_assert_cmpint(f.type, ==, COLO_FRAME_PONG);
    g_assert_cmpint(w.lost, ==, 1);
    g_assert_cmpint(w.back, ==, 1);
    g_assert_cmpstr(w.why, ==, "waiting for a test: the peer was silent for "
                    "100 ms");
    watch_close(&w);
}

/* It has been decided at that moment: the frame is not handed out */
static void test_lost_decided(void)
{
    Error *err = NULL;
    ColoFrame f;
    Watch w;

    watch_open(&w, peer_pong);
    w.decided = true;
    g_assert_false(colo_wire_recv(w.e.w, "a test", &f, &err));
    expect_error(err, "interrupted");
    g_assert_cmpint(w.back, ==, 1);
    g_assert_true(colo_wire_is_lost(w.e.w));
    watch_close(&w);
}

static void say_stale(Ends *e)
{
    /* It has not heard of this side since before it was lost */
    peer_says_alive(e, &(ColoAlive) {
        .stamp = 1, .echo = now_ns() - 2 * SILENCE_MS * SCALE_MS,
    });
    peer_says_alive(e, &(ColoAlive) { .stamp = 2 });
}

static void say_fresh(Ends *e)
{
    say_stale(e);
    peer_says_alive(e, &(ColoAlive) {
        .stamp = 3, .echo = now_ns(), .flags = COLO_ALIVE_LOST,
    });
}

/* Both hear each other: the peer may still say that it has lost this side */
static void test_lost_back(void)
{
    ColoFrame f;
    Watch w;

    watch_open(&w, say_fresh);
    while (!w.lost || colo_wire_is_lost(w.e.w)) {
        g_assert_cmpint(w.back, ==, 0);
        g_assert_true(colo_wire_next(w.e.w, "a test", &f, &error_abort));
        g_assert_cmpint(f.type, ==, COLO_FRAME_ALIVE);
    }
    g_assert_cmpint(w.lost, ==, 1);
    g_assert_cmpint(w.back, ==, 1);
    watch_close(&w);
}

static void *cancel_when_lost(void *opaque)
{
    ColoWire *w = opaque;

    while (!colo_wire_is_lost(w)) {
        g_usleep(1000);
    }
    colo_wire_cancel(w);
    return NULL;
}

/* One way only: that is no return, however long it takes */
static void test_lost_one_way(void)
{
    Error *err = NULL;
    QemuThread thread;
    ColoFrame f;
    Watch w;

    watch_open(&w, say_stale);
    qemu_thread_create(&thread, "cancel", cancel_when_lost, w.e.w,
                       QEMU_THREAD_JOINABLE);
    g_assert_false(colo_wire_recv(w.e.w, "a test", &f, &err));
    expect_error(err, "interrupted");
    qemu_thread_join(&thread);
    g_assert_cmpint(w.lost, ==, 1);
    g_assert_cmpint(w.back, ==, 0);
    watch_close(&w);
}

/* It is there, and has lost this side: so it must not count as well */
static void test_lost_by_peer(void)
{
    int64_t begin_ns = now_ns();
    Error *err = NULL;
    ColoFrame f;
    Watch w;

    watch_open(&w, NULL);
    do {
        g_assert_cmpint(now_ns() - begin_ns, <, 30 * NANOSECONDS_PER_SECOND);
        peer_says_alive(&w.e, &(ColoAlive) {
            .progress = now_ns(), .flags = COLO_ALIVE_LOST,
        });
        g_usleep(SILENCE_MS * 1000 / 10);
    } while (colo_wire_next(w.e.w, "a test", &f, &err));
    expect_error(err, "has not heard this side");
    g_assert_cmpint(now_ns() - begin_ns, >=, SILENCE_MS * SCALE_MS);
    watch_close(&w);
}

static void listen_begin(Watch *w)
{
    watch_open(w, peer_pong);
    colo_wire_listen(w->e.w);
}

/* Who only listens hears the last word, whatever comes before it */
static void test_listen(void)
{
    uint8_t hdr[COLO_FRAME_HDR_LEN];
    ColoFrame f;
    Watch w;

    listen_begin(&w);
    g_usleep(2 * SILENCE_MS * 1000);
    for (int i = 0; i < 3; i++) {
        peer_says_alive(&w.e, &(ColoAlive) { .flags = COLO_ALIVE_LOST });
        g_assert_true(colo_wire_next(w.e.w, "a test", &f, &error_abort));
        g_assert_cmpint(f.type, ==, COLO_FRAME_ALIVE);
        g_usleep(SILENCE_MS * 1000);
    }
    colo_frame_encode(&(ColoFrame) { COLO_FRAME_TAKEOVER, 3, 0 }, hdr);
    peer_write(&w.e, hdr, sizeof(hdr));
    g_assert_true(colo_wire_next(w.e.w, "a test", &f, &error_abort));
    g_assert_cmpint(f.type, ==, COLO_FRAME_TAKEOVER);
    g_assert_cmpint(w.lost, ==, 0);
    watch_close(&w);
}

static void *pong_late(void *opaque)
{
    g_usleep(2 * SILENCE_MS * 1000);
    peer_pong(opaque);
    return NULL;
}

/* In the middle of a frame, too, for as long as it takes */
static void test_listen_silence(void)
{
    QemuThread thread;
    ColoFrame f;
    Watch w;

    listen_begin(&w);
    qemu_thread_create(&thread, "pong", pong_late, &w.e, QEMU_THREAD_JOINABLE);
    g_assert_true(colo_wire_next(w.e.w, "a test", &f, &error_abort));
    g_assert_cmpint(f.type, ==, COLO_FRAME_PONG);
    g_assert_cmpint(w.lost, ==, 0);
    qemu_thread_join(&thread);
    watch_close(&w);
}

/* A peer that is there and does not get on has a last word all the same */
static void test_listen_stall(void)
{
    int64_t end_ns = now_ns() +
                     2 * COLO_STALL_TIMEOUTS * SILENCE_MS / 4 * SCALE_MS;
    ColoFrame f;
    Watch w;

    listen_begin(&w);
    colo_wire_set_timeout(w.e.w, SILENCE_MS / 4);
    while (now_ns() < end_ns) {
        peer_says_alive(&w.e, &(ColoAlive) { .progress = 1 });
        g_assert_true(colo_wire_next(w.e.w, "a test", &f, &error_abort));
        g_usleep(1000);
    }
    watch_close(&w);
}

/* Nobody goes back to a place that was given up */
static void test_listen_lost(void)
{
    ColoFrame f;
    Watch w;

    listen_begin(&w);
    g_assert_true(colo_wire_lose(w.e.w, "a test", &error_abort));
    g_assert_true(colo_wire_next(w.e.w, "a test", &f, &error_abort));
    g_assert_cmpint(f.type, ==, COLO_FRAME_PONG);
    g_assert_cmpint(w.back, ==, 0);
    g_assert_true(colo_wire_is_lost(w.e.w));
    watch_close(&w);
}

/* What cannot be is an error */
static void test_lost_future(void)
{
    Error *err = NULL;
    ColoFrame f;
    Watch w;

    watch_open(&w, NULL);
    peer_says_alive(&w.e, &(ColoAlive) {
        .echo = now_ns() + 3600 * NANOSECONDS_PER_SECOND,
    });
    g_assert_false(colo_wire_next(w.e.w, "a test", &f, &err));
    expect_error(err, "yet to come");
    watch_close(&w);
}

/* Somebody waits: the timeout is not sat out */
static void test_hurry(void)
{
    int64_t begin_ms = now_ms();
    Error *err = NULL;
    ColoFrame f;
    Ends e;

    ends_open(&e);
    colo_wire_set_timeout(e.w, 60000);
    colo_wire_hurry(e.w);
    g_assert_false(colo_wire_recv(e.w, "a test", &f, &err));
    expect_error(err, "silent for 500 ms");
    g_assert_cmpint(now_ms() - begin_ms, >=, COLO_HURRY_MS);
    g_assert_cmpint(now_ms() - begin_ms, <, 30000);
    ends_close(&e);
}

/* It is said on a wire that was cancelled, and after the rest of an 'alive' */
static void test_last_word(void)
{
    uint8_t bye[COLO_BYE_LEN];
    ColoWire *b;
    QIOChannel *ioc;
    ColoFrame f;
    Ends a;

    ends_open(&a);
    ioc = QIO_CHANNEL(qio_channel_socket_new_fd(a.peer, &error_abort));
    a.peer = -1;
    b = colo_wire_new(ioc, COLO_MODE_SECONDARY, TIMEOUT_MS);
    colo_wire_send_alive(a.w);
    colo_wire_cancel(a.w);
    colo_bye_encode(COLO_BYE_FAILOVER, bye);
    g_assert_true(colo_wire_last_word(a.w, COLO_FRAME_BYE, 7, bye,
                                      sizeof(bye)));
    g_assert_true(colo_wire_recv(b, "a test", &f, &error_abort));
    g_assert_cmpint(f.type, ==, COLO_FRAME_BYE);
    g_assert_cmpuint(f.epoch, ==, 7);
    g_assert_cmpuint(f.length, ==, COLO_BYE_LEN);
    colo_wire_free(b);
    object_unref(OBJECT(ioc));
    ends_close(&a);
}

/* A socket that is full does not take it, and nobody waits for that */
static void test_last_word_full(void)
{
    g_autofree uint8_t *text = g_malloc0(COLO_TEXT_MAX);
    Error *err = NULL;
    Ends e;

    ends_open(&e);
    colo_wire_set_timeout(e.w, 1);
    while (colo_wire_send_buf(e.w, COLO_FRAME_ERROR, 1, text, COLO_TEXT_MAX,
                              &err)) {
        continue;
    }
    error_free(err);
    g_assert_false(colo_wire_last_word(e.w, COLO_FRAME_TAKEOVER, 1, NULL, 0));
    ends_close(&e);
}

int main(int argc, char **argv)
{
    module_call_init(MODULE_INIT_QOM);
    socket_init();
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/wire/send-recv", test_send_recv);
    g_test_add_func("/colo/wire/alive/works", test_alive_works);
    g_test_add_func("/colo/wire/alive/slow", test_alive_slow);
    g_test_add_func("/colo/wire/alive/stall", test_alive_stall);
    g_test_add_func("/colo/wire/alive/backlog", test_alive_backlog);
    g_test_add_func("/colo/wire/alive/whole", test_alive_whole);
    g_test_add_func("/colo/wire/alive/thread", test_alive_thread);
    g_test_add_func("/colo/wire/lost/refused", test_lost_refused);
    g_test_add_func("/colo/wire/lost/frame", test_lost_frame);
    g_test_add_func("/colo/wire/lost/back", test_lost_back);
    g_test_add_func("/colo/wire/lost/decided", test_lost_decided);
    g_test_add_func("/colo/wire/lost/one-way", test_lost_one_way);
    g_test_add_func("/colo/wire/lost/by-peer", test_lost_by_peer);
    g_test_add_func("/colo/wire/lost/future", test_lost_future);
    g_test_add_func("/colo/wire/listen/last-word", test_listen);
    g_test_add_func("/colo/wire/listen/silence", test_listen_silence);
    g_test_add_func("/colo/wire/listen/stall", test_listen_stall);
    g_test_add_func("/colo/wire/listen/lost", test_listen_lost);
    g_test_add_func("/colo/wire/hurry", test_hurry);
    g_test_add_func("/colo/wire/last-word", test_last_word);
    g_test_add_func("/colo/wire/last-word/full", test_last_word_full);
    g_test_add_func("/colo/wire/drip", test_drip);
    g_test_add_func("/colo/wire/slow-drip", test_slow_drip);
    g_test_add_func("/colo/wire/silence", test_silence);
    g_test_add_func("/colo/wire/deaf-peer", test_deaf_peer);
    g_test_add_func("/colo/wire/alarm/slow-peer", test_alarm_slow_peer);
    g_test_add_func("/colo/wire/alarm/slow-for-too-long",
                    test_alarm_slow_for_too_long);
    g_test_add_func("/colo/wire/eof", test_eof);
    g_test_add_func("/colo/wire/garbage", test_garbage);
    g_test_add_func("/colo/wire/skip", test_skip);
    g_test_add_func("/colo/wire/wait", test_wait);
    g_test_add_func("/colo/wire/cancel", test_cancel);
    return g_test_run();
}
