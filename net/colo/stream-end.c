/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: ends of streams: kept connected in a session, faults told.
 *
 * Both sides, in the thread of the chardev.  See stream-end.h.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "chardev/char.h"
#include "chardev/char-socket.h"
#include "migration/colo.h"
#include "net/colo.h"
#include "stream-end.h"

/* Between attempts to connect, if the user has not said how long */
#define RECONNECT_MS    1000
/* A peer may do wrong as often as it likes: so many faults are reported... */
#define REPORTS_MAX     10
/* ...in so long a time.  The status has the latest one in any case. */
#define REPORTS_MS      60000

static QemuMutex lock;
static ColoStreamSession session;
static QTAILQ_HEAD(, ColoStreamEnd) ends = QTAILQ_HEAD_INITIALIZER(ends);

static void __attribute__((constructor)) stream_end_init_lock(void)
{
    qemu_mutex_init(&lock);
}

void colo_net_set_session(const QemuUUID *id, ColoSyncMode mode)
{
    QEMU_LOCK_GUARD(&lock);
    session.known = id;
    session.mode = mode;
    if (id) {
        session.id = *id;
    } else {
        session.ended++;
    }
}

ColoStreamSession colo_stream_session(void)
{
    QEMU_LOCK_GUARD(&lock);
    return session;
}

void colo_stream_introduce(ColoStreamWriter *w, ColoStreamKind kind,
                           const NetClientState *netdev)
{
    const ColoStreamSession now = colo_stream_session();

    colo_stream_writer_introduce(w, kind, netdev, colo_net_mac(netdev),
                                 now.known ? &now.id : NULL);
}

static void disconnect(void *opaque)
{
    ColoStreamEnd *e = opaque;

    if (e->broken && e->in_session) {
        qemu_chr_fe_disconnect(e->be);
    }
}

void colo_stream_end_init(ColoStreamEnd *e, CharBackend *be, AioContext *ctx)
{
    e->be = be;
    e->disconnect_bh = aio_bh_new(ctx, disconnect, e);
    WITH_QEMU_LOCK_GUARD(&lock) {
        QTAILQ_INSERT_TAIL(&ends, e, next);
    }
}

/* Wait for a record from now on, if one has to come */
static void await_record(ColoStreamEnd *e)
{
    if (!e->silence) {
        return;
    }
    if (e->in_session && !e->heard_record && e->be->chr->be_open &&
        colo_stream_session().mode == COLO_SYNC_MODE_HYBRID) {
        timer_mod(e->silence, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                              COLO_STREAM_SILENCE_MS);
    } else {
        timer_del(e->silence);
    }
}

/*
 * A probe of the port, or something that was connected by mistake.  What this
 * side did not read does not count.
 */
static void silent(void *opaque)
{
    ColoStreamEnd *e = opaque;
    Error *err = NULL;

    if (e->broken || qemu_chr_be_can_write(e->be->chr) <= 0) {
        await_record(e);
        return;
    }
    error_setg(&err, "chardev '%s' is connected to something that has said "
               "nothing for %d s: is that the other side?", e->be->chr->label,
               COLO_STREAM_SILENCE_MS / 1000);
    colo_stream_end_broken(e, err);
}

void colo_stream_end_expect_records(ColoStreamEnd *e, AioContext *ctx)
{
    e->silence = aio_timer_new(ctx, QEMU_CLOCK_REALTIME, SCALE_MS, silent, e);
}

static void back_packet(void *opaque, uint8_t *data, uint32_t size,
                        uint32_t vnet_hdr_len)
{
    g_free(data);
}

static void back_cut(void *opaque, uint64_t epoch)
{
}

/* Two ends that write wait for two that read, and nobody hears anything */
static bool back_hello(void *opaque, const ColoStreamHello *hello)
{
    static const char *const writers[COLO_STREAM__MAX] = {
        [COLO_STREAM_UNKNOWN] = "something that writes",
        [COLO_STREAM_INPUT] = "the mirror of the primary",
        [COLO_STREAM_PRIMARY_OUTPUT] = "the output of the primary",
        [COLO_STREAM_SECONDARY_OUTPUT] = "the output of the secondary",
    };
    ColoStreamEnd *e = opaque;
    Error *err = NULL;

    error_setg(&err, "chardev '%s' is connected to %s, of netdev '%s', and "
               "should be connected to %s: are the ports swapped?",
               e->be->chr->label, writers[hello->kind], hello->netdev,
               e->partner);
    colo_stream_end_told(e, err, false);
    return true;
}

static const ColoStreamReaderOps back_ops = {
    .packet = back_packet,
    .cut = back_cut,
    .begin = back_packet,
    .hello = back_hello,
};

void colo_stream_end_init_writer(ColoStreamEnd *e, CharBackend *be,
                                 AioContext *ctx, bool vnet_hdr,
                                 const char *partner)
{
    colo_stream_end_init(e, be, ctx);
    e->partner = partner;
    e->back = colo_stream_reader_new(vnet_hdr, &back_ops, e);
}

void colo_stream_end_heard(ColoStreamEnd *e, const uint8_t *buf, size_t size)
{
    /* What is no stream stays unread until the next connection */
    colo_stream_reader_feed(e->back, buf, size, NULL);
}

void colo_stream_end_cleanup(ColoStreamEnd *e)
{
    if (!e->be) {
        return;
    }
    colo_stream_end_session(e, false);
    g_clear_pointer(&e->silence, timer_free);
    g_clear_pointer(&e->disconnect_bh, qemu_bh_delete);
    g_clear_pointer(&e->back, colo_stream_reader_free);
    WITH_QEMU_LOCK_GUARD(&lock) {
        QTAILQ_REMOVE(&ends, e, next);
        g_clear_pointer(&e->fault, g_free);
    }
    e->be = NULL;
    /* Its object goes, which may be missed */
    colo_problems_changed();
}

/* A socket that can be connected to its peer once more; or NULL */
static SocketChardev *client_of(ColoStreamEnd *e)
{
    Object *obj = object_dynamic_cast(OBJECT(e->be->chr), TYPE_CHARDEV_SOCKET);
    SocketChardev *s = obj ? SOCKET_CHARDEV(obj) : NULL;

    return s && !s->is_listen && s->addr &&
           s->addr->type != SOCKET_ADDRESS_TYPE_FD ? s : NULL;
}

static void set_reconnect(ColoStreamEnd *e, bool on)
{
    SocketChardev *s = client_of(e);

    if (!s || on == e->made_to_reconnect || (on && s->reconnect_time_ms)) {
        return;
    }
    e->made_to_reconnect = on;
    qemu_chr_socket_set_reconnect(CHARDEV(s), on ? RECONNECT_MS : 0);
}

static bool check_session(ColoStreamEnd *e)
{
    const ColoStreamSession now = colo_stream_session();
    Error *err = NULL;

    if (!e->heard_session || !now.known) {
        return true;
    }
    if (e->sessions_ended != now.ended) {
        /* A secondary has one session.  Others say soon which one this is. */
        if (e->heard_kind != COLO_STREAM_SECONDARY_OUTPUT) {
            return true;
        }
        error_setg(&err, "chardev '%s' is connected to the secondary of a "
                   "session that is over", e->be->chr->label);
    } else if (!qemu_uuid_is_equal(&e->session, &now.id)) {
        error_setg(&err, "chardev '%s' is connected to a QEMU that is in "
                   "another session: is its address that of another pair?",
                   e->be->chr->label);
    } else {
        return true;
    }
    colo_stream_end_broken(e, err);
    return false;
}

bool colo_stream_end_belongs(ColoStreamEnd *e, const ColoStreamHello *hello)
{
    e->heard_session = hello->has_session;
    e->heard_kind = hello->kind;
    e->session = hello->session;
    e->sessions_ended = colo_stream_session().ended;
    return check_session(e);
}

void colo_stream_end_session(ColoStreamEnd *e, bool on)
{
    if (!e->be || e->in_session == on) {
        return;
    }
    e->in_session = on;
    if (on) {
        check_session(e);
    }
    set_reconnect(e, on);
    if (on && e->broken) {
        qemu_bh_schedule(e->disconnect_bh);
    }
    await_record(e);
}

static bool may_report(ColoStreamEnd *e)
{
    int64_t now_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

    if (!e->reports || now_ms - e->reports_since_ms >= REPORTS_MS) {
        e->reports = 0;
        e->reports_since_ms = now_ms;
    }
    if (e->reports == REPORTS_MAX) {
        return false;
    }
    e->reports++;
    return true;
}

/* Takes @err over; it is told if it is new */
static void set_fault(ColoStreamEnd *e, Error *err, bool ends_with_record)
{
    g_autofree char *before = NULL;
    bool same = false;

    WITH_QEMU_LOCK_GUARD(&lock) {
        before = g_steal_pointer(&e->fault);
        e->fault = err ? g_strdup(error_get_pretty(err)) : NULL;
        e->fault_ends_with_record = ends_with_record;
        same = !g_strcmp0(before, e->fault);
    }
    if (err && !same && may_report(e)) {
        error_report_err(err);
    } else {
        error_free(err);
    }
    if (!same) {
        colo_problems_changed();
    }
}

void colo_stream_end_event(ColoStreamEnd *e, QEMUChrEvent event)
{
    if (event != CHR_EVENT_OPENED && event != CHR_EVENT_CLOSED) {
        return;
    }
    e->broken = false;
    e->heard_session = false;
    e->heard_record = false;
    await_record(e);
    if (e->back) {
        colo_stream_reader_reset(e->back);
        set_fault(e, NULL, false);
    }
    colo_problems_changed();
}

bool colo_stream_end_is_open(ColoStreamEnd *e)
{
    Chardev *chr = e->be ? qemu_chr_fe_get_driver(e->be) : NULL;

    return chr && chr->be_open && !e->broken;
}

void colo_stream_end_broken(ColoStreamEnd *e, Error *err)
{
    e->broken = true;
    set_fault(e, err, true);
    if (e->in_session) {
        qemu_bh_schedule(e->disconnect_bh);
    }
}

void colo_stream_end_wrong_epoch(ColoStreamEnd *e, uint64_t epoch)
{
    Error *err = NULL;

    error_setg(&err, "chardev '%s' is connected to something that says it is "
               "in epoch %" PRIu64 ", and cannot be", e->be->chr->label, epoch);
    colo_stream_end_broken(e, err);
}

void colo_stream_end_told(ColoStreamEnd *e, Error *err, bool fatal)
{
    e->broken |= fatal;
    set_fault(e, err, false);
}

void colo_stream_end_sound(ColoStreamEnd *e)
{
    if (!e->heard_record) {
        e->heard_record = true;
        await_record(e);
    }
    if (e->fault && e->fault_ends_with_record) {
        set_fault(e, NULL, false);
    }
}

char *colo_stream_end_fault(const char *chardev)
{
    ColoStreamEnd *e;

    QEMU_LOCK_GUARD(&lock);
    QTAILQ_FOREACH(e, &ends, next) {
        if (e->fault && !strcmp(e->be->chr->label, chardev)) {
            return g_strdup(e->fault);
        }
    }
    return NULL;
}
