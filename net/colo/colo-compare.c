/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * colo-compare: lets the primary's output go as soon as the secondary's guest
 * has said the same.
 *
 * Primary.  All work is done in the context of the iothread; the main loop
 * and the migration thread leave commands for it.
 *
 * Theory of operation
 *
 * Three streams (net/colo/stream.h) meet here:
 *
 *   primary_in     what the guest sends, with a record at each cut
 *   secondary_in   what the guest of the secondary sends, with a record at
 *                  each load
 *   outdev         what may leave
 *
 * The rules of what may leave are in net/colo/match.c; this file feeds them and
 * carries out what they decide.  Without a session everything passes.
 *
 * Order of commands and records: that a session begins is left as a command
 * before any filter writes its first record (ColoParticipant.prepare), and
 * commands are carried out before each record, so a record that comes without
 * one belongs to a session that is over.  A commit may overtake the record of
 * its cut; the rules allow for that.  An object that is made while a session
 * is under way holds from the start, whatever record the stream is behind.
 *
 * Back-pressure: while the rules are full, or outdev takes nothing, primary_in
 * is not read; its socket fills, then the queue of the filter-redirector, which
 * tells the NIC to wait.
 *
 * notify_dev is for Xen, whose toolstack takes the checkpoints itself: it is
 * asked for one by DO_CHECKPOINT and says COLO_CHECKPOINT after each, in the
 * framing of the streams.  It has no epochs, so they are counted here.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qapi/error.h"
#include "qapi/util.h"
#include "block/aio-wait.h"
#include "colo-compare.h"
#include "compare-object.h"
#include "qom/object_interfaces.h"
#include "migration/colo/lease.h"
#include "trace.h"

#define OUT_BYTES               (4 * MiB)
#define NOTIFY_BYTES            4096

/* BQL */
static QTAILQ_HEAD(, ColoCompare) compares = QTAILQ_HEAD_INITIALIZER(compares);

/* Output */

/* Returns false if outdev is full */
static bool compare_send(ColoCompare *c, ColoPacket *p)
{
    struct iovec iov = { p->data, p->size };

    switch (colo_stream_writer_packet(c->out, &iov, 1, p->vnet_hdr_len)) {
    case COLO_STREAM_FULL:
        return false;
    case COLO_STREAM_CLOSED:
        if (!c->out_closed++) {
            warn_report("colo-compare: nobody is connected to outdev '%s', "
                        "packets are lost", c->outdev);
        }
        break;
    case COLO_STREAM_BAD:
        /* Nothing that was read from a stream is */
    case COLO_STREAM_OK:
        break;
    }
    colo_packet_free(p);
    return true;
}

static void compare_release(void *opaque, ColoPacket *p)
{
    ColoCompare *c = opaque;

    if (!QSIMPLEQ_EMPTY(&c->pending) || !colo_lease_holds() ||
        !compare_send(c, p)) {
        QSIMPLEQ_INSERT_TAIL(&c->pending, p, next);
    }
}

static void compare_drained(void *opaque)
{
    ColoCompare *c = opaque;
    ColoPacket *p;

    while ((p = QSIMPLEQ_FIRST(&c->pending))) {
        QSIMPLEQ_REMOVE_HEAD(&c->pending, next);
        if (!colo_lease_holds() || !compare_send(c, p)) {
            QSIMPLEQ_INSERT_HEAD(&c->pending, p, next);
            return;
        }
    }
}

void colo_compare_say_to_xen(ColoCompare *c, const char *message)
{
    struct iovec iov = { (char *)message, strlen(message) };

    if (c->notify_out) {
        colo_stream_writer_packet(c->notify_out, &iov, 1, 0);
    }
}

static void compare_need(void *opaque, ColoMatchNeed why, uint64_t epoch)
{
    ColoCompare *c = opaque;

    trace_colo_compare_need(c->outdev, why);
    colo_compare_request(why, epoch);
    colo_compare_say_to_xen(c, COLO_COMPARE_XEN_REQUEST);
}

static const ColoMatchOps match_ops = {
    .release = compare_release,
    .need = compare_need,
    .withdraw = colo_compare_withdraw,
};

/* Commands */

/* A stream to @chr begins, unless it is known or over again */
static void compare_opened(ColoStreamWriter *w, CharBackend *chr)
{
    if (qemu_chr_fe_backend_open(chr) && !colo_stream_writer_connected(w)) {
        colo_stream_writer_opened(w);
    }
}

/* The rules have no lock: they belong to the iothread */
static void compare_secondary_opened(ColoCompare *c)
{
    assert(in_aio_context_home_thread(c->ctx));
    if (qemu_chr_fe_backend_open(&c->secondary.chr)) {
        colo_match_secondary_opened(c->match);
    }
}

static void compare_set_in_session(ColoCompare *c, bool on)
{
    colo_stream_end_session(&c->primary.end, on);
    colo_stream_end_session(&c->secondary.end, on);
    colo_stream_end_session(&c->out_end, on);
}

void colo_compare_obey(ColoCompare *c)
{
    QSIMPLEQ_HEAD(, Command) todo = QSIMPLEQ_HEAD_INITIALIZER(todo);
    Command *cmd;

    WITH_QEMU_LOCK_GUARD(&c->lock) {
        QSIMPLEQ_CONCAT(&todo, &c->commands);
    }
    while ((cmd = QSIMPLEQ_FIRST(&todo))) {
        QSIMPLEQ_REMOVE_HEAD(&todo, next);
        switch (cmd->what) {
        case COMPARE_ARM:
            colo_match_arm(c->match);
            if (!colo_stream_end_is_open(&c->secondary.end)) {
                colo_match_secondary_lost(c->match);
            }
            compare_set_in_session(c, true);
            break;
        case COMPARE_HOLD:
            colo_match_primary_cut(c->match, cmd->cut, colo_compare_now_ms());
            break;
        case COMPARE_COMMIT:
            colo_match_commit(c->match, cmd->cut, colo_compare_now_ms());
            break;
        case COMPARE_LEASE:
            compare_drained(c);
            break;
        case COMPARE_OPEN:
            colo_match_open(c->match);
            compare_set_in_session(c, false);
            break;
        case COMPARE_OUT_OPENED:
            compare_opened(c->out, &c->out_chr);
            break;
        case COMPARE_NOTIFY_OPENED:
            compare_opened(c->notify_out, &c->notify.chr);
            break;
        case COMPARE_SECONDARY_OPENED:
            compare_secondary_opened(c);
            break;
        }
        g_free(cmd);
    }
}

void colo_compare_publish(ColoCompare *c)
{
    QEMU_LOCK_GUARD(&c->lock);
    c->stats = *colo_match_stats(c->match);
    c->dropped_closed = c->out_closed;
}

/* What was fed may have changed when to look again */
void colo_compare_set_timer(ColoCompare *c)
{
    int64_t next = MIN(colo_compare_now_ms() + c->options.scan_ms,
                       colo_match_deadline_ms(c->match));

    if (!timer_pending(c->timer) || timer_expire_time_ns(c->timer) >
                                    next * SCALE_MS) {
        timer_mod(c->timer, next);
    }
}

static void compare_obey_bh(void *opaque)
{
    ColoCompare *c = opaque;

    if (!c->begun) {
        /* Too early; compare_begin() sees to it */
        return;
    }
    colo_stream_writer_cork(c->out);
    colo_compare_obey(c);
    colo_stream_writer_uncork(c->out);
    colo_compare_set_timer(c);
    colo_compare_publish(c);
}

static void compare_command(ColoCompare *c, CompareCommand what, uint64_t cut)
{
    Command *cmd = g_new(Command, 1);

    cmd->what = what;
    cmd->cut = cut;
    WITH_QEMU_LOCK_GUARD(&c->lock) {
        QSIMPLEQ_INSERT_TAIL(&c->commands, cmd, next);
    }
    qemu_bh_schedule(c->bh);
}

/*
 * A client that was connecting when the object was made says in the main loop
 * that it did, all others say so in the iothread.  Those that are open already
 * do while compare_begin() runs: a session needs all of them.
 */
void colo_compare_tell_opened(ColoCompare *c, CompareCommand what)
{
    compare_command(c, what, 0);
    if (in_aio_context_home_thread(c->ctx) && c->begun) {
        colo_compare_obey(c);
    }
}

static void compare_participant_prepare(ColoParticipant *p)
{
    compare_command(container_of(p, ColoCompare, participant), COMPARE_ARM, 0);
}

/*
 * To those who are there when the session begins the stream says it.  It may
 * have said it already to another object that is no more.
 */
static void compare_participant_arm(ColoParticipant *p, uint64_t epoch)
{
    ColoCompare *c = container_of(p, ColoCompare, participant);

    if (!c->attached) {
        compare_command(c, COMPARE_HOLD, epoch);
    }
}

static void compare_participant_commit(ColoParticipant *p, uint64_t cut)
{
    compare_command(container_of(p, ColoCompare, participant), COMPARE_COMMIT,
                    cut);
}

static void compare_participant_open(ColoParticipant *p)
{
    compare_command(container_of(p, ColoCompare, participant), COMPARE_OPEN, 0);
}

void colo_compare_go_on(void)
{
    ColoCompare *c;

    QTAILQ_FOREACH(c, &compares, next) {
        compare_command(c, COMPARE_LEASE, 0);
    }
}

typedef struct DrainedQuery {
    ColoCompare *c;
    bool drained;
} DrainedQuery;

/* In the iothread */
static void compare_look(void *opaque)
{
    DrainedQuery *q = opaque;
    ColoCompare *c = q->c;

    compare_obey_bh(c);
    q->drained = !c->moved && QSIMPLEQ_EMPTY(&c->pending) &&
                 !colo_stream_writer_queued_bytes(c->out);
    c->moved = false;
}

static bool compare_participant_drained(ColoParticipant *p)
{
    DrainedQuery q = { container_of(p, ColoCompare, participant) };

    aio_wait_bh_oneshot(q.c->ctx, compare_look, &q);
    return q.drained;
}

/* Output that comes and goes */

static int out_can_read(void *opaque)
{
    return COLO_COMPARE_READ_BYTES;
}

static void out_read(void *opaque, const uint8_t *buf, int size)
{
    /* Nobody has anything to say there */
}

static void out_event(void *opaque, QEMUChrEvent event)
{
    ColoCompare *c = opaque;

    if (event == CHR_EVENT_OPENED) {
        colo_compare_tell_opened(c, COMPARE_OUT_OPENED);
    } else if (event == CHR_EVENT_CLOSED) {
        colo_stream_writer_closed(c->out);
        compare_drained(c);
    }
    colo_stream_end_event(&c->out_end, event);
}

static void compare_tick(void *opaque)
{
    ColoCompare *c = opaque;

    colo_stream_writer_cork(c->out);
    colo_match_tick(c->match, colo_compare_now_ms());
    colo_stream_writer_uncork(c->out);
    timer_mod(c->timer, colo_compare_now_ms() + c->options.scan_ms);
    colo_compare_set_timer(c);
    colo_compare_publish(c);
}

/* Set-up */

/* In the iothread, which then owns it all */
static void compare_begin(void *opaque)
{
    ColoCompare *c = opaque;
    GMainContext *gctx = iothread_get_g_main_context(c->iothread);
    bool vnet_hdr = c->options.vnet_hdr;

    c->timer = aio_timer_new(c->ctx, QEMU_CLOCK_REALTIME, SCALE_MS,
                             compare_tick, c);
    c->out = colo_stream_writer_new(&c->out_chr, gctx, vnet_hdr, OUT_BYTES,
                                    compare_drained, c);
    colo_stream_end_init(&c->out_end, &c->out_chr, c->ctx);
    qemu_chr_fe_set_handlers(&c->out_chr, out_can_read, out_read, out_event,
                             NULL, c, gctx, true);
    if (c->notify_dev) {
        c->notify_out = colo_stream_writer_new(&c->notify.chr, gctx, false,
                                               NOTIFY_BYTES, NULL, NULL);
    }
    colo_compare_inputs_begin(c);
    timer_mod(c->timer, colo_compare_now_ms() + c->options.scan_ms);
    c->begun = true;
    /* What was said before is done now */
    compare_obey_bh(c);
}

/* In the iothread: nothing of it runs afterwards */
static void compare_end(void *opaque)
{
    ColoCompare *c = opaque;
    ColoPacket *p;

    colo_compare_inputs_end(c);
    if (c->notify_dev) {
        g_clear_pointer(&c->notify_out, colo_stream_writer_free);
    }
    colo_stream_end_cleanup(&c->out_end);
    qemu_chr_fe_set_handlers(&c->out_chr, NULL, NULL, NULL, NULL, NULL, NULL,
                             true);
    timer_free(c->timer);
    qemu_bh_delete(c->bh);
    g_clear_pointer(&c->match, colo_match_free);
    g_clear_pointer(&c->out, colo_stream_writer_free);
    while ((p = QSIMPLEQ_FIRST(&c->pending))) {
        QSIMPLEQ_REMOVE_HEAD(&c->pending, next);
        colo_packet_free(p);
    }
}

static bool take_chardev(CharBackend *be, const char *property, const char *id,
                         Error **errp)
{
    Chardev *chr = qemu_chr_find(id);

    if (!chr) {
        error_setg(errp, "colo-compare: Parameter '%s': there is no chardev "
                   "'%s'", property, id);
        return false;
    }
    if (!qemu_chr_has_feature(chr, QEMU_CHAR_FEATURE_GCONTEXT)) {
        error_setg(errp, "colo-compare: Parameter '%s': chardev '%s' cannot "
                   "work in an iothread, use one of type 'socket'", property,
                   id);
        return false;
    }
    if (!qemu_chr_fe_init(be, chr, errp)) {
        error_prepend(errp, "colo-compare: Parameter '%s': ", property);
        return false;
    }
    return true;
}

static bool check_properties(ColoCompare *c, Error **errp)
{
    const struct {
        const char *name;
        const char *value;
        bool optional;
    } chardevs[] = {
        { "primary_in", c->primary_in },
        { "secondary_in", c->secondary_in },
        { "outdev", c->outdev },
        { "notify_dev", c->notify_dev, true },
    };

    for (int i = 0; i < ARRAY_SIZE(chardevs); i++) {
        if (!chardevs[i].value && !chardevs[i].optional) {
            error_setg(errp, "colo-compare needs Parameter '%s'",
                       chardevs[i].name);
            return false;
        }
        for (int j = 0; j < i; j++) {
            if (!g_strcmp0(chardevs[i].value, chardevs[j].value)) {
                error_setg(errp, "colo-compare: Parameters '%s' and '%s' are "
                           "both '%s', they need a chardev each",
                           chardevs[j].name, chardevs[i].name,
                           chardevs[i].value);
                return false;
            }
        }
    }
    if (!c->iothread) {
        error_setg(errp, "colo-compare needs Parameter 'iothread'");
        return false;
    }
    return true;
}

static void compare_attach(ColoCompare *c)
{
    c->ctx = iothread_get_aio_context(c->iothread);
    c->match = colo_compare_options_match(&c->options, &match_ops, c);
    c->bh = aio_bh_new(c->ctx, compare_obey_bh, c);
    c->participant = (ColoParticipant) {
        .prepare = compare_participant_prepare,
        .arm = compare_participant_arm,
        .commit = compare_participant_commit,
        .open = compare_participant_open,
        .drained = compare_participant_drained,
    };
    colo_participant_register(&c->participant);
    c->attached = true;
    c->options.fixed = true;
    QTAILQ_INSERT_TAIL(&compares, c, next);
    /* The command to arm, if any, is there before the first record is read */
    aio_wait_bh_oneshot(c->ctx, compare_begin, c);
}

/* Idempotent: QEMU's exit comes before the end of objects.  BQL. */
static void compare_detach(ColoCompare *c)
{
    if (!c->attached) {
        return;
    }
    c->attached = false;
    colo_participant_unregister(&c->participant);
    QTAILQ_REMOVE(&compares, c, next);
    aio_wait_bh_oneshot(c->ctx, compare_end, c);
    qemu_chr_fe_deinit(&c->primary.chr, false);
    qemu_chr_fe_deinit(&c->secondary.chr, false);
    qemu_chr_fe_deinit(&c->notify.chr, false);
    qemu_chr_fe_deinit(&c->out_chr, false);
}

void colo_compare_cleanup(void)
{
    ColoCompare *c;

    while ((c = QTAILQ_FIRST(&compares))) {
        compare_detach(c);
    }
}

static void compare_complete(UserCreatable *uc, Error **errp)
{
    ColoCompare *c = COLO_COMPARE(uc);

    if (check_properties(c, errp) &&
        take_chardev(&c->primary.chr, "primary_in", c->primary_in, errp) &&
        take_chardev(&c->secondary.chr, "secondary_in", c->secondary_in,
                     errp) &&
        take_chardev(&c->out_chr, "outdev", c->outdev, errp) &&
        (!c->notify_dev || take_chardev(&c->notify.chr, "notify_dev",
                                        c->notify_dev, errp))) {
        compare_attach(c);
    }
}

static void compare_unparent(Object *obj)
{
    compare_detach(COLO_COMPARE(obj));
}

static void compare_finalize(Object *obj)
{
    ColoCompare *c = COLO_COMPARE(obj);
    Command *cmd;

    while ((cmd = QSIMPLEQ_FIRST(&c->commands))) {
        QSIMPLEQ_REMOVE_HEAD(&c->commands, next);
        g_free(cmd);
    }
    /* If it was never attached */
    qemu_chr_fe_deinit(&c->primary.chr, false);
    qemu_chr_fe_deinit(&c->secondary.chr, false);
    qemu_chr_fe_deinit(&c->notify.chr, false);
    qemu_chr_fe_deinit(&c->out_chr, false);
    qemu_mutex_destroy(&c->lock);
    g_free(c->primary_in);
    g_free(c->secondary_in);
    g_free(c->outdev);
    g_free(c->notify_dev);
}

/* Properties */

#define STRING_PROPERTY(field)                                              \
    static char *compare_get_##field(Object *obj, Error **errp)             \
    {                                                                       \
        return g_strdup(COLO_COMPARE(obj)->field);                          \
    }                                                                       \
    static void compare_set_##field(Object *obj, const char *value,         \
                                    Error **errp)                           \
    {                                                                       \
        ColoCompare *c = COLO_COMPARE(obj);                                 \
                                                                            \
        if (c->attached) {                                                  \
            error_setg(errp, "'" #field "' cannot be changed any more");    \
            return;                                                         \
        }                                                                   \
        g_free(c->field);                                                   \
        c->field = g_strdup(value);                                         \
    }

STRING_PROPERTY(primary_in)
STRING_PROPERTY(secondary_in)
STRING_PROPERTY(outdev)
STRING_PROPERTY(notify_dev)

static void compare_check_iothread(const Object *obj, const char *name,
                                   Object *value, Error **errp)
{
    if (COLO_COMPARE(obj)->attached) {
        error_setg(errp, "'%s' cannot be changed any more", name);
    }
}

static void compare_init(Object *obj)
{
    ColoCompare *c = COLO_COMPARE(obj);

    colo_compare_options_init(&c->options, obj, '_');
    qemu_mutex_init(&c->lock);
    QSIMPLEQ_INIT(&c->commands);
    QSIMPLEQ_INIT(&c->pending);
}

static void compare_class_init(ObjectClass *oc, void *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    ucc->complete = compare_complete;
    oc->unparent = compare_unparent;
    object_class_property_add_str(oc, "primary_in", compare_get_primary_in,
                                  compare_set_primary_in);
    object_class_property_add_str(oc, "secondary_in", compare_get_secondary_in,
                                  compare_set_secondary_in);
    object_class_property_add_str(oc, "outdev", compare_get_outdev,
                                  compare_set_outdev);
    object_class_property_add_str(oc, "notify_dev", compare_get_notify_dev,
                                  compare_set_notify_dev);
    object_class_property_add_link(oc, "iothread", TYPE_IOTHREAD,
                                   offsetof(ColoCompare, iothread),
                                   compare_check_iothread,
                                   OBJ_PROP_LINK_STRONG);
}

static const TypeInfo compare_info = {
    .name = TYPE_COLO_COMPARE,
    .parent = TYPE_OBJECT,
    .class_init = compare_class_init,
    .instance_init = compare_init,
    .instance_finalize = compare_finalize,
    .instance_size = sizeof(ColoCompare),
    .interfaces = (InterfaceInfo[]) {
        { TYPE_USER_CREATABLE },
        { }
    },
};

static void compare_register_types(void)
{
    type_register_static(&compare_info);
}

type_init(compare_register_types);

/* Statistics of all objects, for query-colo-status */

static ColoCompareStatistics *compare_statistics(ColoCompare *c)
{
    ColoCompareStatistics *st;

    QEMU_LOCK_GUARD(&c->lock);
    st = colo_compare_statistics_new(OBJECT(c), &c->stats);
    st->dropped_closed = c->dropped_closed;
    return st;
}

void colo_compare_append_statistics(ColoCompareStatisticsList ***tail)
{
    ColoCompare *c;

    QTAILQ_FOREACH(c, &compares, next) {
        QAPI_LIST_APPEND(*tail, compare_statistics(c));
    }
}
