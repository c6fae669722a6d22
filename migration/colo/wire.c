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
 * Silence need not be the end: the owner may want to keep the channel, and his
 * place in the protocol, until the two hear each other again.  Bytes alone do not
 * tell that, they may have been under way.  'alive' frames do: each has the time
 * of its sender's clock, and repeats the latest of the other side.  Who finds his
 * own time in one, and that time is not long ago, hears and is heard.
 *
 * Somebody else may listen for the peer as well (heartbeat.c), and say sooner
 * than the timeout does that it is silent.  The wire counts as one more way to
 * hear it: only what was not heard here either is lost.  While the owner writes
 * nothing is read, so what lies in the socket tells whether more has come.
 *
 * This process may have been stopped, or starved.  So what has come is read
 * before the clock is believed, and a wait that ends much later than it should
 * begins again.
 *
 * A cancelled wire stays cancelled.  A wake-up is a hint to look around and
 * is remembered by GLib until the owner waits.
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "io/channel-tls.h"
#include "wire.h"
#include "wire-lease.h"
#include "wire-word.h"
#include "fault.h"
#include "lease.h"
#include "progress.h"
#include "trace.h"

#define WIRE_STEP_BYTES (16 * KiB)

/* A wait that is so late was one of a process that did not run */
#define WIRE_LATE_NS    (250 * SCALE_MS)

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
    const ColoSilenceOps *silence;
    void *silence_opaque;

    /* Owner only */
    uint64_t bytes_received;
    ColoFrame receiving;        /* whose payload is being read */
    uint64_t unread;            /* bytes of it */
    uint64_t peer_progress;     /* of its last 'alive' */
    int64_t stall_begin_ns;     /* nothing has got on since then */
    int64_t heard_ns;           /* bytes came */
    int64_t well_ns;            /* the peer spoke, and heard this side */
    bool stalled;               /* this process was */
    int64_t alive_ns;           /* an 'alive' was read */
    unsigned returns;           /* how often the peer came back */
    bool listens;               /* to the last word, and waits for no other */
    bool lost_by_word;          /* that is why it is lost */
    bool word_refused;          /* nobody wanted to wait; until it changes */
    int unread_bytes;           /* in the socket, when last looked at */
    const char *stage;          /* what is waited for, in messages; or NULL */
    const ColoFrame *sending;   /* or NULL */
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

    /* With a lock of its own */
    ColoWireWord word;

    /* Atomic */
    uint32_t beat_timeout_ms;   /* of who else listens; 0: nobody */
    uint32_t timeout_ms;        /* the owner writes it */
    ColoWireLease lease;
    int64_t peer_stamp;         /* the same */
    bool lost;                  /* the same */
    int64_t hurry_ns;           /* since then; 0: no hurry */
    bool alive_due;             /* one could not be sent for a frame */
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
    w->heard_ns = w->stall_begin_ns;
    colo_wire_note_lease(w);
    w->ctx = g_main_context_new();
    w->timer = g_source_new(&wire_timer_funcs, sizeof(GSource));
    g_source_attach(w->timer, w->ctx);
    qemu_mutex_init(&w->send_lock);
    colo_word_init(&w->word);

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
    colo_word_destroy(&w->word);
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

void colo_wire_set_heartbeat(ColoWire *w, uint32_t timeout_ms)
{
    qatomic_set(&w->beat_timeout_ms, timeout_ms);
}

uint32_t colo_wire_beat_timeout(ColoWire *w)
{
    uint32_t timeout_ms = colo_wire_timeout(w);
    uint32_t beat_ms = qatomic_read(&w->beat_timeout_ms);

    return beat_ms ? MIN(timeout_ms, beat_ms) : timeout_ms;
}

int64_t colo_wire_heard_ns(ColoWire *w)
{
    return w->heard_ns;
}

void colo_wire_declare_silent(ColoWire *w, const char *why, uint32_t after_ms)
{
    colo_word_set(&w->word, after_ms ? COLO_WORD_SILENT : COLO_WORD_STALLED,
                  why, after_ms);
    g_main_context_wakeup(w->ctx);
}

void colo_wire_declare_heard(ColoWire *w)
{
    colo_word_set(&w->word, COLO_WORD_NONE, NULL, 0);
    g_main_context_wakeup(w->ctx);
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

void colo_wire_hurry(ColoWire *w)
{
    qatomic_set(&w->hurry_ns, qemu_clock_get_ns(QEMU_CLOCK_REALTIME));
    g_main_context_wakeup(w->ctx);
}

void colo_wire_on_silence(ColoWire *w, const ColoSilenceOps *ops,
                          void *opaque)
{
    w->silence = ops;
    w->silence_opaque = opaque;
}

bool colo_wire_is_lost(ColoWire *w)
{
    return qatomic_read(&w->lost);
}

/* After these there is nothing to go back to */
static bool is_last_word(ColoFrameType type)
{
    return type == COLO_FRAME_BYE || type == COLO_FRAME_ERROR ||
           type == COLO_FRAME_TAKEOVER;
}

bool colo_wire_lose(ColoWire *w, const char *why, Error **errp)
{
    g_autofree char *in_words = NULL;

    if (w->lost) {
        return true;
    }
    in_words = w->sending
               ? g_strdup_printf("sending '%s' of checkpoint %" PRIu64 ": %s",
                                 colo_frame_name(w->sending->type),
                                 w->sending->epoch, why)
               : w->stage ? g_strdup_printf("waiting for %s: %s", w->stage, why)
                          : g_strdup(why);
    if (!w->silence || w->alarm != WIRE_ALARM_OFF || w->end_ns != INT64_MAX ||
        !w->silence->lost(w->silence_opaque, in_words)) {
        error_setg(errp, "%s", why);
        return false;
    }
    qatomic_set(&w->lost, true);
    return true;
}

bool colo_wire_find(ColoWire *w, Error **errp)
{
    if (!w->lost || w->listens) {
        return true;
    }
    if (!w->silence->back(w->silence_opaque)) {
        error_setg(errp, "interrupted by a request to end the session");
        return false;
    }
    qatomic_set(&w->lost, false);
    /* Found in spite of that word: it has to be another one */
    w->word_refused = w->lost_by_word &&
                      colo_word(&w->word) == COLO_WORD_STALLED;
    w->lost_by_word = false;
    w->returns++;
    colo_wire_begin_wait(w);
    return true;
}

void colo_wire_listen(ColoWire *w)
{
    w->listens = true;
    w->lost_by_word = false;
}

COLOMode colo_wire_side(ColoWire *w)
{
    return w->side;
}

ColoWireLease *colo_wire_lease(ColoWire *w)
{
    return &w->lease;
}

unsigned colo_wire_returns(ColoWire *w)
{
    return w->returns;
}

bool colo_wire_take_stall(ColoWire *w)
{
    bool stalled = w->stalled;

    w->stalled = false;
    return stalled;
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

/* When it is over; INT64_MAX: no hurry */
static int64_t hurry_end(ColoWire *w)
{
    int64_t since_ns = qatomic_read(&w->hurry_ns);

    return since_ns ? MAX(since_ns, w->heard_ns) + COLO_HURRY_MS * SCALE_MS
                    : INT64_MAX;
}

/* Nothing is read now.  Has more come? */
static void wire_look_at_socket(ColoWire *w)
{
    QIOChannelSocket *socket = colo_channel_socket(w->ioc);
    int bytes;

    if (socket && !ioctl(socket->fd, FIONREAD, &bytes) &&
        bytes != w->unread_bytes) {
        w->unread_bytes = bytes;
        w->heard_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    }
}

/* When the peer is lost, as somebody else says it is silent */
static int64_t wire_word_end(ColoWire *w)
{
    if (colo_word(&w->word) == COLO_WORD_NONE) {
        w->word_refused = false;
        return INT64_MAX;
    }
    if (w->lost || w->listens || w->word_refused || !w->silence ||
        w->alarm != WIRE_ALARM_OFF || w->end_ns != INT64_MAX) {
        return INT64_MAX;
    }
    return colo_word_end(&w->word, w->heard_ns);
}

/* It is over.  False: nobody wants to wait, so it does not count */
static bool wire_lose_by_word(ColoWire *w)
{
    g_autofree char *why = colo_word_why(&w->word);

    if (!why) {
        return false;
    }
    w->lost_by_word = colo_wire_lose(w, why, NULL);
    w->word_refused = !w->lost_by_word;
    return w->lost_by_word;
}

/*
 * Wait for @cond on the channel.  With @wakeable a wake-up ends the wait,
 * cancelling always does, and so does a peer that is lost, or found, by what
 * somebody else says: the caller has to look at w->lost.
 */
static ColoWaitResult wire_wait(ColoWire *w, GIOCondition cond,
                                int64_t deadline_ns, bool wakeable)
{
    bool ready = false, looked = false;
    ColoWaitResult ret = COLO_WAIT_READABLE;
    GSource *watch = qio_channel_create_watch(w->ioc, cond);

    g_source_set_callback(watch, (GSourceFunc)wire_channel_ready, &ready,
                          NULL);
    g_source_attach(watch, w->ctx);

    while (!ready) {
        int64_t end_ns = deadline_ns, now_ns, word_ns;

        if (cond & G_IO_IN && !wakeable) {
            end_ns = MIN(end_ns, hurry_end(w));
        } else if (!(cond & G_IO_IN)) {
            wire_look_at_socket(w);
        }
        word_ns = wire_word_end(w);
        now_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
        if (qatomic_read(&w->cancelled) ||
            (wakeable && qatomic_xchg(&w->woken, false))) {
            ret = COLO_WAIT_WOKEN;
            break;
        }
        if (w->lost_by_word && colo_word(&w->word) == COLO_WORD_NONE) {
            ret = !colo_wire_find(w, NULL) || wakeable ? COLO_WAIT_WOKEN
                                                       : COLO_WAIT_READABLE;
            break;
        }
        if (now_ns >= MIN(end_ns, word_ns)) {
            if (looked && now_ns < end_ns) {
                if (wire_lose_by_word(w)) {
                    ret = wakeable ? COLO_WAIT_WOKEN : COLO_WAIT_READABLE;
                    break;
                }
                looked = false;
                continue;
            }
            if (looked) {
                ret = COLO_WAIT_DEADLINE;
                break;
            }
            looked = true;
            w->stalled |= now_ns >= end_ns && now_ns - end_ns > WIRE_LATE_NS;
            g_main_context_iteration(w->ctx, false);
            continue;
        }
        end_ns = MIN(end_ns, word_ns);
        looked = false;
        g_source_set_ready_time(w->timer, end_ns == INT64_MAX ? -1 :
                                g_get_monotonic_time() +
                                DIV_ROUND_UP(end_ns - now_ns, SCALE_US));
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
    step->deadline_ns = w->lost || w->listens ? INT64_MAX :
                        qemu_clock_get_ns(QEMU_CLOCK_REALTIME) +
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

/* The deadline of @step has passed.  True: go on waiting */
static bool wire_is_silent(ColoWire *w, WireStep *step, Error **errp)
{
    g_autofree char *why = NULL;

    if (qatomic_read(&w->hurry_ns)) {
        why = g_strdup_printf("the peer was silent for %d ms", COLO_HURRY_MS);
    } else if (step->bytes) {
        why = g_strdup_printf("no more than %zu bytes went through in %u ms",
                              step->bytes, w->timeout_ms);
    } else {
        why = g_strdup_printf("the peer was silent for %u ms", w->timeout_ms);
    }
    if (!colo_wire_lose(w, why, errp)) {
        return false;
    }
    step->deadline_ns = INT64_MAX;
    return true;
}

/* The channel would block: wait for it, or say why that is over */
static bool wire_wait_progress(ColoWire *w, GIOCondition cond,
                               WireStep *step, Error **errp)
{
    int64_t deadline_ns = step->deadline_ns;
    bool was_lost = w->lost;

    if (w->alarm == WIRE_ALARM_SET) {
        deadline_ns = MIN(deadline_ns, w->alarm_ns);
    }
    switch (wire_wait(w, cond, deadline_ns, false)) {
    case COLO_WAIT_READABLE:
        if (w->lost != was_lost) {
            step_begin(w, step);
        }
        return true;
    case COLO_WAIT_DEADLINE:
        if (wire_ring(w, step)) {
            return true;
        }
        if (colo_wire_take_stall(w) && w->end_ns == INT64_MAX) {
            step_begin(w, step);
            return true;
        }
        return wire_is_silent(w, step, errp);
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
            if (w->side == COLO_MODE_PRIMARY && !w->lost) {
                /* It was full: so the other end has taken something */
                colo_lease_progress();
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
            qatomic_set(&w->lease.closed, true);
            error_setg(errp, "the peer closed the connection");
            return false;
        }
        w->bytes_received += n;
        w->heard_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
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
    bool was_lost = w->lost;

    bool ok;

    trace_colo_wire_send(epoch, COLOMode_str(w->side), colo_frame_name(type),
                         f.length);
    if (!colo_fault_frame(w->side, true, type, errp)) {
        error_prepend(errp, "sending '%s' of checkpoint %" PRIu64 ": ",
                      colo_frame_name(type), epoch);
        return false;
    }

    WITH_QEMU_LOCK_GUARD(&w->send_lock) {
        memcpy(rest, w->rest, w->rest_len);
        w->torn |= w->rest_len;
        all[0] = (struct iovec) { rest, w->rest_len };
        w->rest_len = 0;
        colo_frame_encode(&f, hdr);
        all[1] = (struct iovec) { .iov_base = hdr, .iov_len = sizeof(hdr) };
        if (niov) {
            memcpy(all + 2, iov, niov * sizeof(*iov));
        }
        w->sending = &f;
        ok = wire_write_all(w, all[0].iov_len ? all : all + 1,
                            all[0].iov_len ? niov + 2 : niov + 1, errp);
        w->sending = NULL;
        if (!ok) {
            error_prepend(errp, "sending '%s' of checkpoint %" PRIu64 ": ",
                          colo_frame_name(type), epoch);
            return false;
        }
    }
    if (qatomic_xchg(&w->alive_due, false)) {
        colo_wire_send_alive(w);
    }
    /* If it is lost now the peer has taken the frame after all */
    return was_lost || colo_wire_find(w, errp);
}

bool colo_wire_last_word(ColoWire *w, ColoFrameType type, uint64_t epoch,
                         const void *buf, size_t len)
{
    uint8_t all[sizeof(w->rest) + COLO_FRAME_HDR_LEN + COLO_BYE_LEN];
    ColoFrame f = { .type = type, .epoch = epoch, .length = len };
    size_t size;

    assert(len <= COLO_BYE_LEN);
    trace_colo_wire_send(epoch, COLOMode_str(w->side), colo_frame_name(type),
                         len);
    QEMU_LOCK_GUARD(&w->send_lock);
    if (w->torn) {
        return false;
    }
    memcpy(all, w->rest, w->rest_len);
    size = w->rest_len;
    w->rest_len = 0;
    colo_frame_encode(&f, all + size);
    size += COLO_FRAME_HDR_LEN;
    if (len) {
        memcpy(all + size, buf, len);
    }
    size += len;
    w->torn = true;
    return qio_channel_write(w->ioc, (char *)all, size, NULL) == size;
}

QIOChannel *colo_wire_channel(ColoWire *w)
{
    return w->ioc;
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
    ColoAlive a = {
        .progress = colo_progress_made(),
        .stamp = qemu_clock_get_ns(QEMU_CLOCK_REALTIME),
        .echo = colo_wire_gives_lease(w) ? qatomic_read(&w->peer_stamp) : 0,
        .flags = qatomic_read(&w->lost) ? COLO_ALIVE_LOST : 0,
        .round = qatomic_read(&w->lease.round),
    };
    ColoFrame f = { .type = COLO_FRAME_ALIVE, .length = COLO_ALIVE_LEN };
    ssize_t n;

    if (qatomic_read(&w->cancelled)) {
        return;
    }
    if (qemu_mutex_trylock(&w->send_lock)) {
        /* Whoever has it sends one when his frame is out */
        qatomic_set(&w->alive_due, true);
        return;
    }
    if (!w->rest_len) {
        colo_frame_encode(&f, w->rest);
        colo_alive_encode(&a, w->rest + COLO_FRAME_HDR_LEN);
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
    w->well_ns = w->stall_begin_ns;
}

/* @echo: what the peer has heard of this side.  Is that from lately? */
static bool wire_is_heard(ColoWire *w, int64_t echo, int64_t now_ns)
{
    return echo && now_ns - echo <= w->timeout_ms * (int64_t)SCALE_MS;
}

/* The peer is there.  Do the two hear each other?  False: that is over */
static bool wire_take_alive(ColoWire *w, const ColoAlive *a, Error **errp)
{
    int64_t now_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);

    if (w->listens) {
        return true;
    }
    if (a->echo > now_ns) {
        error_setg(errp, "'alive' repeats a time that is yet to come");
        return false;
    }
    if (colo_wire_gives_lease(w)) {
        qatomic_set(&w->peer_stamp, a->stamp);
        colo_wire_note_lease(w);
    }
    qatomic_set(&w->lease.peer_round, MAX(w->lease.peer_round, a->round));
    if (w->side == COLO_MODE_PRIMARY) {
        colo_lease_renew(a->echo, colo_wire_beat_timeout(w));
    }
    if (wire_is_heard(w, a->echo, now_ns)) {
        if (colo_word(&w->word) != COLO_WORD_STALLED &&
            !colo_wire_find(w, errp)) {
            return false;
        }
        w->well_ns = now_ns;
    } else if (!(a->flags & COLO_ALIVE_LOST)) {
        w->well_ns = now_ns;
    } else if (now_ns - w->well_ns > w->timeout_ms * (int64_t)SCALE_MS) {
        g_autofree char *why =
            g_strdup_printf("the peer has not heard this side for %u ms",
                            w->timeout_ms);

        return colo_wire_lose(w, why, errp);
    }
    return true;
}

/* The payload of an 'alive'.  Does the peer get on? */
static bool wire_recv_alive(ColoWire *w, Error **errp)
{
    uint8_t buf[COLO_ALIVE_LEN];
    size_t len = w->unread;
    int64_t stalled_ms, now_ns;
    ColoAlive a;

    if (!colo_wire_recv_buf(w, buf, len, errp) ||
        !colo_alive_decode(buf, len, &a, errp) ||
        !wire_take_alive(w, &a, errp)) {
        return false;
    }
    now_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    if (w->lost || w->listens || a.progress != w->peer_progress ||
        now_ns - w->alive_ns > w->timeout_ms * (int64_t)SCALE_MS) {
        /* It gets on, or nobody has looked for a while */
        w->alive_ns = now_ns;
        w->peer_progress = a.progress;
        w->stall_begin_ns = now_ns;
        return true;
    }
    w->alive_ns = now_ns;
    stalled_ms = (now_ns - w->stall_begin_ns) / SCALE_MS;
    if (stalled_ms > COLO_STALL_TIMEOUTS * (int64_t)w->timeout_ms) {
        error_setg(errp, "the peer is there, but has not got on for %" PRId64
                   " ms", stalled_ms);
        return false;
    }
    return true;
}

static bool wire_next(ColoWire *w, const char *stage, ColoFrame *f,
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
    if (!is_last_word(f->type) && !colo_wire_find(w, errp)) {
        error_prepend(errp, "waiting for %s: ", stage);
        return false;
    }
    colo_wire_begin_wait(w);
    colo_wire_note_lease(w);
    if (!colo_fault_frame(w->side, false, f->type, errp)) {
        error_prepend(errp, "waiting for %s: ", stage);
        return false;
    }
    trace_colo_wire_recv(f->epoch, COLOMode_str(w->side),
                         colo_frame_name(f->type), f->length);
    return true;
}

bool colo_wire_next(ColoWire *w, const char *stage, ColoFrame *f,
                    Error **errp)
{
    bool ok;

    w->stage = stage;
    ok = wire_next(w, stage, f, errp);
    w->stage = NULL;
    return ok;
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
    if (w->receiving.type == COLO_FRAME_ALIVE) {
        return true;
    }
    colo_wire_note_lease(w);
    return
           is_last_word(w->receiving.type) || colo_wire_find(w, errp);
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
