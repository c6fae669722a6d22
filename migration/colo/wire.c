/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO wire protocol: frames over a channel, with deadlines.
 *
 * Theory of operation
 *
 * The channel is the one of the first migration, used in both directions.
 * It is switched to non-blocking mode; whenever it would block, the owner
 * iterates a GMainContext of its own that holds the channel's watch and a
 * timer.  This works for every kind of channel (socket, TLS, pipe), and
 * g_main_context_wakeup() from another thread ends the wait: that is how the
 * operator's word gets through to a thread that waits for a dead peer.
 *
 * A peer that says, or takes, a byte now and then is as silent as one that does
 * not: only so much as WIRE_STEP_BYTES, or the end of what is sent or read as a
 * whole, begins a new timeout.
 *
 * 'alive' frames come from a thread of their own (keepalive.c), so whoever writes
 * holds a lock for the length of a frame.  That thread does not wait: if it finds
 * the lock taken, a frame is on its way anyway.  What the channel does not take
 * of an 'alive' is kept and goes ahead of the next frame, unchanged, since TLS
 * wants to be called again with what it was called with.
 *
 * While a guest waits for what is sent there is an alarm: it rings in the
 * middle of a frame, too, since that may take a peer that reads slowly very
 * long.
 *
 * A cancelled wire stays cancelled.  A wake-up is a hint to look around and
 * is remembered by GLib until the owner waits.
 */

#include "qemu/osdep.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "io/channel-tls.h"
#include "wire.h"
#include "fault.h"
#include "progress.h"
#include "trace.h"

#define WIRE_STEP_BYTES (16 * KiB)

typedef enum WireAlarm {
    WIRE_ALARM_OFF,
    WIRE_ALARM_SET,
    WIRE_ALARM_RANG,
} WireAlarm;

/* How far the timeout that runs has got */
typedef struct WireStep {
    int64_t deadline_ns;
    size_t bytes;               /* since it began */
} WireStep;

struct ColoWire {
    /* Set once */
    QIOChannel *ioc;
    COLOMode side;
    GMainContext *ctx;
    GSource *timer;             /* attached to ctx */

    /* Owner only */
    uint64_t bytes_received;
    ColoFrame receiving;        /* whose payload is being read */
    uint64_t unread;            /* bytes of it */
    uint64_t peer_progress;     /* of its last 'alive' */
    int64_t stall_begin_ns;     /* nothing has got on since then */
    WireAlarm alarm;
    int64_t alarm_ns;           /* while it is set */
    void (*ring)(void *opaque);
    void *ring_opaque;
    int64_t end_ns;             /* of all that is said; INT64_MAX: none */
    bool torn;                  /* a frame was left half written */

    /* send_lock, held while a frame is written */
    QemuMutex send_lock;
    uint64_t bytes_sent;
    uint8_t rest[COLO_FRAME_HDR_LEN + COLO_ALIVE_LEN];
    size_t rest_len;            /* of an 'alive', not written yet */

    /* Atomic */
    uint32_t timeout_ms;        /* the owner writes it */
    bool woken;
    bool cancelled;
};

static gboolean wire_timer_dispatch(GSource *source, GSourceFunc cb,
                                    gpointer opaque)
{
    g_source_set_ready_time(source, -1);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs wire_timer_funcs = {
    .dispatch = wire_timer_dispatch,
};

ColoWire *colo_wire_new(QIOChannel *ioc, COLOMode side, uint32_t timeout_ms)
{
    ColoWire *w = g_new0(ColoWire, 1);

    w->ioc = ioc;
    object_ref(OBJECT(ioc));
    w->side = side;
    w->timeout_ms = timeout_ms;
    w->end_ns = INT64_MAX;
    w->stall_begin_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    w->ctx = g_main_context_new();
    w->timer = g_source_new(&wire_timer_funcs, sizeof(GSource));
    g_source_attach(w->timer, w->ctx);
    qemu_mutex_init(&w->send_lock);

    colo_wire_begin_wait(w);

    /* Not every kind of channel knows these; then they do not matter */
    qio_channel_set_blocking(ioc, false, NULL);
    qio_channel_set_delay(ioc, false);
    return w;
}

void colo_wire_free(ColoWire *w)
{
    if (!w) {
        return;
    }
    g_source_destroy(w->timer);
    g_source_unref(w->timer);
    g_main_context_unref(w->ctx);
    object_unref(OBJECT(w->ioc));
    qemu_mutex_destroy(&w->send_lock);
    g_free(w);
}

void colo_wire_set_timeout(ColoWire *w, uint32_t timeout_ms)
{
    qatomic_set(&w->timeout_ms, timeout_ms);
}

uint32_t colo_wire_timeout(ColoWire *w)
{
    return qatomic_read(&w->timeout_ms);
}

void colo_wire_wake(ColoWire *w)
{
    qatomic_set_mb(&w->woken, true);
    g_main_context_wakeup(w->ctx);
}

void colo_wire_cancel(ColoWire *w)
{
    qatomic_set_mb(&w->cancelled, true);
    g_main_context_wakeup(w->ctx);
}

bool colo_wire_cancelled(ColoWire *w)
{
    return qatomic_read(&w->cancelled);
}

uint64_t colo_wire_bytes_sent(ColoWire *w)
{
    QEMU_LOCK_GUARD(&w->send_lock);
    return w->bytes_sent;
}

uint64_t colo_wire_bytes_received(ColoWire *w)
{
    return w->bytes_received;
}

static gboolean wire_channel_ready(QIOChannel *ioc, GIOCondition cond,
                                   gpointer opaque)
{
    *(bool *)opaque = true;
    return G_SOURCE_REMOVE;
}

/*
 * Wait for @cond on the channel.  With @wakeable a wake-up ends the wait,
 * cancelling always does.
 */
static ColoWaitResult wire_wait(ColoWire *w, GIOCondition cond,
                                int64_t deadline_ns, bool wakeable)
{
    bool ready = false;
    ColoWaitResult ret = COLO_WAIT_READABLE;
    GSource *watch = qio_channel_create_watch(w->ioc, cond);

    g_source_set_callback(watch, (GSourceFunc)wire_channel_ready, &ready,
                          NULL);
    g_source_attach(watch, w->ctx);

    while (!ready) {
        int64_t left_ns = deadline_ns - qemu_clock_get_ns(QEMU_CLOCK_REALTIME);

        if (qatomic_read(&w->cancelled) ||
            (wakeable && qatomic_xchg(&w->woken, false))) {
            ret = COLO_WAIT_WOKEN;
            break;
        }
        if (left_ns <= 0) {
            ret = COLO_WAIT_DEADLINE;
            break;
        }
        g_source_set_ready_time(w->timer, g_get_monotonic_time() +
                                DIV_ROUND_UP(left_ns, SCALE_US));
        g_main_context_iteration(w->ctx, true);
    }

    g_source_destroy(watch);
    g_source_unref(watch);
    return ret;
}

ColoWaitResult colo_wire_wait(ColoWire *w, int64_t deadline_ns)
{
    return wire_wait(w, G_IO_IN | G_IO_HUP | G_IO_ERR, deadline_ns, true);
}

static void step_begin(ColoWire *w, WireStep *step)
{
    step->deadline_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) +
                        w->timeout_ms * (int64_t)SCALE_MS;
    step->deadline_ns = MIN(step->deadline_ns, w->end_ns);
    step->bytes = 0;
}

static void step_on(ColoWire *w, WireStep *step, size_t bytes)
{
    step->bytes += bytes;
    if (step->bytes >= WIRE_STEP_BYTES) {
        step_begin(w, step);
    }
}

void colo_wire_set_alarm(ColoWire *w, int64_t at_ns,
                         void (*ring)(void *opaque), void *opaque)
{
    w->alarm = WIRE_ALARM_SET;
    w->alarm_ns = at_ns;
    w->ring = ring;
    w->ring_opaque = opaque;
}

void colo_wire_clear_alarm(ColoWire *w)
{
    w->alarm = WIRE_ALARM_OFF;
}

bool colo_wire_is_whole(ColoWire *w)
{
    return !w->torn;
}

/* True if it rings now; then @step ends with the rest of the frame */
static bool wire_ring(ColoWire *w, WireStep *step)
{
    int64_t now_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);

    if (w->alarm != WIRE_ALARM_SET || now_ns < w->alarm_ns) {
        return false;
    }
    w->alarm = WIRE_ALARM_RANG;
    w->end_ns = now_ns + w->timeout_ms * (int64_t)SCALE_MS;
    step->deadline_ns = MIN(step->deadline_ns, w->end_ns);
    w->ring(w->ring_opaque);
    return true;
}

/* The channel would block: wait for it, or say why that is over */
static bool wire_wait_progress(ColoWire *w, GIOCondition cond,
                               WireStep *step, Error **errp)
{
    int64_t deadline_ns = step->deadline_ns;

    if (w->alarm == WIRE_ALARM_SET) {
        deadline_ns = MIN(deadline_ns, w->alarm_ns);
    }
    switch (wire_wait(w, cond, deadline_ns, false)) {
    case COLO_WAIT_READABLE:
        return true;
    case COLO_WAIT_DEADLINE:
        if (wire_ring(w, step)) {
            return true;
        }
        if (step->bytes) {
            error_setg(errp, "no more than %zu bytes went through in %u ms",
                       step->bytes, w->timeout_ms);
        } else {
            error_setg(errp, "the peer was silent for %u ms", w->timeout_ms);
        }
        return false;
    case COLO_WAIT_WOKEN:
    default:
        error_setg(errp, "interrupted by a request to end the session");
        return false;
    }
}

static bool wire_has_time(ColoWire *w, Error **errp)
{
    if (w->alarm == WIRE_ALARM_RANG) {
        error_setg(errp, "no time is left for it");
        return false;
    }
    return true;
}

/* send_lock held.  w->torn: is a part of @iov written already? */
static bool wire_write_all(ColoWire *w, struct iovec *iov, unsigned niov,
                           Error **errp)
{
    WireStep step;

    step_begin(w, &step);
    while (niov) {
        ssize_t n;

        if (qatomic_read(&w->cancelled)) {
            error_setg(errp, "interrupted by a request to end the session");
            return false;
        }
        wire_ring(w, &step);
        if (!w->torn && !wire_has_time(w, errp)) {
            return false;
        }
        n = qio_channel_writev(w->ioc, iov, MIN(niov, IOV_MAX), errp);
        if (n == QIO_CHANNEL_ERR_BLOCK) {
            if (!wire_wait_progress(w, G_IO_OUT | G_IO_HUP | G_IO_ERR, &step,
                                    errp)) {
                return false;
            }
            continue;
        }
        if (n < 0) {
            return false;
        }
        w->bytes_sent += n;
        w->torn = true;
        step_on(w, &step, n);
        iov_discard_front(&iov, &niov, n);
    }
    w->torn = false;
    return true;
}

static bool wire_read_all(ColoWire *w, struct iovec *iov, unsigned niov,
                          Error **errp)
{
    WireStep step;

    step_begin(w, &step);
    while (niov) {
        ssize_t n;

        if (qatomic_read(&w->cancelled)) {
            error_setg(errp, "interrupted by a request to end the session");
            return false;
        }
        n = qio_channel_readv(w->ioc, iov, MIN(niov, IOV_MAX), errp);
        if (n == QIO_CHANNEL_ERR_BLOCK) {
            if (!wire_wait_progress(w, G_IO_IN | G_IO_HUP | G_IO_ERR, &step,
                                    errp)) {
                return false;
            }
            continue;
        }
        if (n < 0) {
            return false;
        }
        if (n == 0) {
            error_setg(errp, "the peer closed the connection");
            return false;
        }
        w->bytes_received += n;
        step_on(w, &step, n);
        iov_discard_front(&iov, &niov, n);
    }
    return true;
}

bool colo_wire_send(ColoWire *w, ColoFrameType type, uint64_t epoch,
                    const struct iovec *iov, size_t niov, Error **errp)
{
    ERRP_GUARD();
    uint8_t hdr[COLO_FRAME_HDR_LEN];
    ColoFrame f = {
        .type = type,
        .epoch = epoch,
        .length = iov_size(iov, niov),
    };
    g_autofree struct iovec *all = g_new(struct iovec, niov + 2);
    uint8_t rest[sizeof(w->rest)];

    trace_colo_wire_send(epoch, COLOMode_str(w->side), colo_frame_name(type),
                         f.length);
    if (!colo_fault_frame(w->side, true, type, errp)) {
        error_prepend(errp, "sending '%s' of checkpoint %" PRIu64 ": ",
                      colo_frame_name(type), epoch);
        return false;
    }

    QEMU_LOCK_GUARD(&w->send_lock);
    memcpy(rest, w->rest, w->rest_len);
    w->torn |= w->rest_len;
    all[0] = (struct iovec) { rest, w->rest_len };
    w->rest_len = 0;
    colo_frame_encode(&f, hdr);
    all[1] = (struct iovec) { .iov_base = hdr, .iov_len = sizeof(hdr) };
    if (niov) {
        memcpy(all + 2, iov, niov * sizeof(*iov));
    }
    if (!wire_write_all(w, all[0].iov_len ? all : all + 1,
                        all[0].iov_len ? niov + 2 : niov + 1, errp)) {
        error_prepend(errp, "sending '%s' of checkpoint %" PRIu64 ": ",
                      colo_frame_name(type), epoch);
        return false;
    }
    return true;
}

bool colo_wire_send_buf(ColoWire *w, ColoFrameType type, uint64_t epoch,
                        const void *buf, size_t len, Error **errp)
{
    struct iovec iov = { .iov_base = (void *)buf, .iov_len = len };

    return colo_wire_send(w, type, epoch, &iov, len ? 1 : 0, errp);
}

static bool wire_read_buf(ColoWire *w, void *buf, size_t len, Error **errp)
{
    struct iovec iov = { .iov_base = buf, .iov_len = len };

    return wire_read_all(w, &iov, 1, errp);
}

void colo_wire_send_alive(ColoWire *w)
{
    uint64_t progress = colo_progress_made();
    ColoFrame f = { .type = COLO_FRAME_ALIVE, .length = COLO_ALIVE_LEN };
    ssize_t n;

    if (qatomic_read(&w->cancelled) || qemu_mutex_trylock(&w->send_lock)) {
        return;
    }
    if (!w->rest_len) {
        colo_frame_encode(&f, w->rest);
        colo_alive_encode(progress, w->rest + COLO_FRAME_HDR_LEN);
        w->rest_len = sizeof(w->rest);
    }
    n = qio_channel_write(w->ioc, (char *)w->rest, w->rest_len, NULL);
    if (n > 0) {
        w->bytes_sent += n;
        w->rest_len -= n;
        memmove(w->rest, w->rest + n, w->rest_len);
    }
    qemu_mutex_unlock(&w->send_lock);
}

void colo_wire_begin_wait(ColoWire *w)
{
    w->stall_begin_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
}

/* The payload of an 'alive'.  Does the peer get on? */
static bool wire_recv_alive(ColoWire *w, Error **errp)
{
    uint8_t buf[COLO_ALIVE_LEN];
    size_t len = w->unread;
    uint64_t progress;
    int64_t stalled_ms;

    if (!colo_wire_recv_buf(w, buf, len, errp) ||
        !colo_alive_decode(buf, len, &progress, errp)) {
        return false;
    }
    if (progress != w->peer_progress) {
        w->peer_progress = progress;
        colo_wire_begin_wait(w);
        return true;
    }
    stalled_ms = (qemu_clock_get_ns(QEMU_CLOCK_REALTIME) -
                  w->stall_begin_ns) / SCALE_MS;
    if (stalled_ms > COLO_STALL_TIMEOUTS * (int64_t)w->timeout_ms) {
        error_setg(errp, "the peer is there, but has not got on for %" PRId64
                   " ms", stalled_ms);
        return false;
    }
    return true;
}

bool colo_wire_next(ColoWire *w, const char *stage, ColoFrame *f,
                    Error **errp)
{
    ERRP_GUARD();
    uint8_t hdr[COLO_FRAME_HDR_LEN];

    if (!colo_wire_skip(w, w->unread, errp) ||
        !wire_read_buf(w, hdr, sizeof(hdr), errp) ||
        !colo_frame_decode(hdr, f, errp)) {
        error_prepend(errp, "waiting for %s: ", stage);
        return false;
    }
    w->receiving = *f;
    w->unread = f->length;
    if (f->type == COLO_FRAME_ALIVE) {
        if (!wire_recv_alive(w, errp)) {
            error_prepend(errp, "waiting for %s: ", stage);
            return false;
        }
        return true;
    }
    colo_wire_begin_wait(w);
    if (!colo_fault_frame(w->side, false, f->type, errp)) {
        error_prepend(errp, "waiting for %s: ", stage);
        return false;
    }
    trace_colo_wire_recv(f->epoch, COLOMode_str(w->side),
                         colo_frame_name(f->type), f->length);
    return true;
}

bool colo_wire_recv(ColoWire *w, const char *stage, ColoFrame *f,
                    Error **errp)
{
    colo_wire_begin_wait(w);
    do {
        if (!colo_wire_next(w, stage, f, errp)) {
            return false;
        }
    } while (f->type == COLO_FRAME_ALIVE);
    return true;
}

bool colo_wire_recv_iov(ColoWire *w, const struct iovec *iov, size_t niov,
                        Error **errp)
{
    ERRP_GUARD();
    g_autofree struct iovec *copy = g_memdup2(iov, niov * sizeof(*iov));
    size_t len = iov_size(iov, niov);

    assert(len <= w->unread);
    w->unread -= len;
    if (!wire_read_all(w, copy, niov, errp)) {
        error_prepend(errp, "receiving '%s' of checkpoint %" PRIu64 ": ",
                      colo_frame_name(w->receiving.type),
                      w->receiving.epoch);
        return false;
    }
    return true;
}

bool colo_wire_recv_buf(ColoWire *w, void *buf, size_t len, Error **errp)
{
    struct iovec iov = { .iov_base = buf, .iov_len = len };

    return len == 0 || colo_wire_recv_iov(w, &iov, 1, errp);
}

bool colo_wire_skip(ColoWire *w, uint64_t len, Error **errp)
{
    uint8_t buf[4096];

    while (len) {
        size_t n = MIN(len, sizeof(buf));

        if (!colo_wire_recv_buf(w, buf, n, errp)) {
            return false;
        }
        len -= n;
    }
    return true;
}

QIOChannelSocket *colo_channel_socket(QIOChannel *ioc)
{
    if (object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_TLS)) {
        ioc = QIO_CHANNEL_TLS(ioc)->master;
    }
    return (QIOChannelSocket *)object_dynamic_cast(OBJECT(ioc),
                                                   TYPE_QIO_CHANNEL_SOCKET);
}
