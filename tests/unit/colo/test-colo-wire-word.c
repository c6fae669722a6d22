/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO wire protocol: somebody else says that the peer is silent.
 *
 * Proves: the owner loses it then, long before his own timeout, whether he
 * reads or writes, in the middle of a frame, too; not while the channel brings
 * something, also if nobody reads it; and he finds it when that word is taken
 * back.  One that is stuck is lost while it is only alive.  Nothing happens
 * if nobody wants to wait.
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/module.h"
#include "qemu/sockets.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "io/channel-socket.h"
#include "migration/colo/wire.h"

/* No test takes so long */
#define TIMEOUT_MS  60000
#define AFTER_MS    200

typedef struct Ends {
    ColoWire *w;
    QIOChannel *ioc;
    int peer;
    bool waits;             /* what 'lost' answers */

    /* Atomic */
    unsigned lost;
    unsigned back;
    bool stop;              /* the peer's thread */
} Ends;

static bool note_lost(void *opaque, const char *why)
{
    Ends *e = opaque;

    g_assert_nonnull(strstr(why, "a test says so"));
    qatomic_inc(&e->lost);
    return e->waits;
}

static bool note_back(void *opaque)
{
    qatomic_inc(&((Ends *)opaque)->back);
    return true;
}

static void ends_open(Ends *e)
{
    static const ColoSilenceOps ops = { note_lost, note_back };
    int fds[2];

    *e = (Ends) { .waits = true };
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    e->ioc = QIO_CHANNEL(qio_channel_socket_new_fd(fds[0], &error_abort));
    e->w = colo_wire_new(e->ioc, COLO_MODE_SECONDARY, TIMEOUT_MS);
    e->peer = fds[1];
    colo_wire_on_silence(e->w, &ops, e);
}

static void ends_close(Ends *e)
{
    colo_wire_free(e->w);
    object_unref(OBJECT(e->ioc));
    close(e->peer);
}

static void say(Ends *e)
{
    colo_wire_declare_silent(e->w, "a test says so", AFTER_MS);
}

static void peer_pong(Ends *e)
{
    uint8_t hdr[COLO_FRAME_HDR_LEN];

    colo_frame_encode(&(ColoFrame) { COLO_FRAME_PONG, 3, 0 }, hdr);
    g_assert_cmpint(write(e->peer, hdr, sizeof(hdr)), ==, sizeof(hdr));
}

static void peer_alive(Ends *e)
{
    uint8_t buf[COLO_FRAME_HDR_LEN + COLO_ALIVE_LEN];
    ColoAlive a = {
        .progress = qemu_clock_get_ns(QEMU_CLOCK_REALTIME),
        .stamp = qemu_clock_get_ns(QEMU_CLOCK_REALTIME),
    };

    a.echo = a.stamp;
    colo_frame_encode(&(ColoFrame) {
        COLO_FRAME_ALIVE, 0, COLO_ALIVE_LEN,
    }, buf);
    colo_alive_encode(&a, buf + COLO_FRAME_HDR_LEN);
    g_assert_cmpint(write(e->peer, buf, sizeof(buf)), ==, sizeof(buf));
}

/* It is lost; then the word is taken back, and only later the peer speaks */
static void *heard_again(void *opaque)
{
    Ends *e = opaque;

    while (!qatomic_read(&e->lost)) {
        g_usleep(1000);
    }
    g_assert_true(colo_wire_is_lost(e->w));
    colo_wire_declare_heard(e->w);
    while (!qatomic_read(&e->back)) {
        g_usleep(1000);
    }
    peer_pong(e);
    return NULL;
}

static void test_read(void)
{
    QemuThread thread;
    ColoFrame f;
    Ends e;

    ends_open(&e);
    qemu_thread_create(&thread, "peer", heard_again, &e,
                       QEMU_THREAD_JOINABLE);
    say(&e);
    g_assert_true(colo_wire_recv(e.w, "a test", &f, &error_abort));
    g_assert_cmpint(f.type, ==, COLO_FRAME_PONG);
    qemu_thread_join(&thread);
    g_assert_cmpuint(e.lost, ==, 1);
    g_assert_cmpuint(e.back, ==, 1);
    ends_close(&e);
}

/* The owner's own wait tells him by a wake-up */
static void test_wait(void)
{
    Ends e;

    ends_open(&e);
    say(&e);
    g_assert_cmpint(colo_wire_wait(e.w, INT64_MAX), ==, COLO_WAIT_WOKEN);
    g_assert_true(colo_wire_is_lost(e.w));
    colo_wire_declare_heard(e.w);
    g_assert_cmpint(colo_wire_wait(e.w, INT64_MAX), ==, COLO_WAIT_WOKEN);
    g_assert_false(colo_wire_is_lost(e.w));
    g_assert_cmpuint(e.lost, ==, 1);
    g_assert_cmpuint(e.back, ==, 1);
    ends_close(&e);
}

/* The word comes while he waits already */
static void *say_later(void *opaque)
{
    g_usleep(20 * 1000);
    say(opaque);
    return NULL;
}

static void test_wait_begun(void)
{
    QemuThread thread;
    Ends e;

    ends_open(&e);
    qemu_thread_create(&thread, "word", say_later, &e, QEMU_THREAD_JOINABLE);
    g_assert_cmpint(colo_wire_wait(e.w, INT64_MAX), ==, COLO_WAIT_WOKEN);
    g_assert_true(colo_wire_is_lost(e.w));
    qemu_thread_join(&thread);
    ends_close(&e);
}

static void *peer_lives(void *opaque)
{
    Ends *e = opaque;

    while (!qatomic_read(&e->stop)) {
        peer_alive(e);
        g_usleep(AFTER_MS * 1000 / 20);
    }
    return NULL;
}

/* The channel is heard: the word does not count */
static void test_channel(void)
{
    int64_t end = g_get_monotonic_time() + 5 * AFTER_MS * 1000;
    QemuThread thread;
    ColoFrame f;
    Ends e;

    ends_open(&e);
    qemu_thread_create(&thread, "peer", peer_lives, &e, QEMU_THREAD_JOINABLE);
    say(&e);
    while (g_get_monotonic_time() < end) {
        g_assert_true(colo_wire_next(e.w, "a test", &f, &error_abort));
        g_assert_cmpint(f.type, ==, COLO_FRAME_ALIVE);
    }
    g_assert_cmpuint(e.lost, ==, 0);
    qatomic_set(&e.stop, true);
    qemu_thread_join(&thread);
    /* What has come is read, and then it is lost */
    while (!e.lost) {
        if (colo_wire_wait(e.w, INT64_MAX) == COLO_WAIT_READABLE) {
            g_assert_true(colo_wire_next(e.w, "a test", &f, &error_abort));
        }
    }
    ends_close(&e);
}

typedef struct Reader {
    Ends *e;
    size_t len;
    unsigned lost;          /* when it began to read */
} Reader;

/* The peer says for a while that it lives, then nothing, and at last reads */
static void *peer_reads_late(void *opaque)
{
    g_autofree char *buf = g_malloc(65536);
    Reader *r = opaque;
    size_t left = r->len;

    for (int i = 0; i < 40; i++) {
        peer_alive(r->e);
        g_usleep(AFTER_MS * 1000 / 10);
    }
    r->lost = qatomic_read(&r->e->lost);
    while (!qatomic_read(&r->e->lost)) {
        g_usleep(1000);
    }
    colo_wire_declare_heard(r->e->w);
    while (left) {
        ssize_t n = read(r->e->peer, buf, MIN(left, 65536));

        g_assert_cmpint(n, >, 0);
        left -= n;
    }
    return NULL;
}

/* Nobody reads while this side writes */
static void test_write(void)
{
    size_t len = 4 * 1024 * 1024;
    g_autofree char *buf = g_malloc0(len);
    QemuThread thread;
    Reader r;
    Ends e;

    ends_open(&e);
    r = (Reader) { &e, COLO_FRAME_HDR_LEN + len };
    qemu_thread_create(&thread, "peer", peer_reads_late, &r,
                       QEMU_THREAD_JOINABLE);
    say(&e);
    g_assert_true(colo_wire_send_buf(e.w, COLO_FRAME_PAGES, 1, buf, len,
                                     &error_abort));
    qemu_thread_join(&thread);
    g_assert_cmpuint(r.lost, ==, 0);
    g_assert_cmpuint(e.lost, ==, 1);
    g_assert_cmpuint(e.back, ==, 1);
    g_assert_false(colo_wire_is_lost(e.w));
    ends_close(&e);
}

static void test_stalled(void)
{
    ColoFrame f;
    Ends e;

    ends_open(&e);
    peer_alive(&e);
    colo_wire_declare_silent(e.w, "a test says so", 0);
    /* It is there, and says more */
    do {
        if (colo_wire_wait(e.w, INT64_MAX) == COLO_WAIT_READABLE) {
            g_assert_true(colo_wire_next(e.w, "a test", &f, &error_abort));
        }
    } while (!e.lost);
    for (int i = 0; i < 3; i++) {
        peer_alive(&e);
        g_assert_true(colo_wire_next(e.w, "a test", &f, &error_abort));
        g_assert_true(colo_wire_is_lost(e.w));
    }
    colo_wire_declare_heard(e.w);
    g_assert_cmpint(colo_wire_wait(e.w, INT64_MAX), ==, COLO_WAIT_WOKEN);
    g_assert_false(colo_wire_is_lost(e.w));
    g_assert_cmpuint(e.back, ==, 1);

    /* It gets on, and that is seen here first: it is not lost once more */
    colo_wire_declare_silent(e.w, "a test says so", 0);
    while (e.lost == 1) {
        colo_wire_wait(e.w, INT64_MAX);
    }
    peer_pong(&e);
    g_assert_true(colo_wire_next(e.w, "a test", &f, &error_abort));
    g_assert_false(colo_wire_is_lost(e.w));
    g_assert_cmpint(colo_wire_wait(e.w, qemu_clock_get_ns(QEMU_CLOCK_REALTIME) +
                                        10 * SCALE_MS), ==,
                    COLO_WAIT_DEADLINE);
    g_assert_cmpuint(e.lost, ==, 2);
    g_assert_cmpuint(e.back, ==, 2);
    ends_close(&e);
}

/* Nobody wants to wait: the wire's own timeout says when it is over */
static void test_refused(void)
{
    Error *err = NULL;
    ColoFrame f;
    Ends e;
    int64_t begin = g_get_monotonic_time();

    ends_open(&e);
    e.waits = false;
    colo_wire_set_timeout(e.w, 4 * AFTER_MS);
    colo_wire_declare_silent(e.w, "a test says so", AFTER_MS / 10);
    /* Asked, and refused, once; then there is an error without a question */
    while (!e.lost) {
        colo_wire_wait(e.w, qemu_clock_get_ns(QEMU_CLOCK_REALTIME) +
                            10 * SCALE_MS);
    }
    colo_wire_on_silence(e.w, NULL, NULL);
    g_assert_false(colo_wire_recv(e.w, "a test", &f, &err));
    error_free_or_abort(&err);
    g_assert_cmpuint(e.lost, ==, 1);
    g_assert_cmpint(g_get_monotonic_time() - begin, >=, 4 * AFTER_MS * 1000);
    ends_close(&e);
}

int main(int argc, char **argv)
{
    module_call_init(MODULE_INIT_QOM);
    g_assert_cmpint(socket_init(), ==, 0);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/wire-word/read", test_read);
    g_test_add_func("/colo/wire-word/wait", test_wait);
    g_test_add_func("/colo/wire-word/wait-begun", test_wait_begun);
    g_test_add_func("/colo/wire-word/channel", test_channel);
    g_test_add_func("/colo/wire-word/write", test_write);
    g_test_add_func("/colo/wire-word/stalled", test_stalled);
    g_test_add_func("/colo/wire-word/refused", test_refused);
    return g_test_run();
}
