/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * filter-compare: lets the primary's output go as soon as the secondary's
 * guest has said the same.
 *
 * Primary.  All under the BQL: packets come from the main loop or a vCPU, what
 * the secondary says from the main loop, cuts and commits from the migration
 * thread.
 *
 * Theory of operation
 *
 * It does what colo-compare does with two filter-redirectors, four character
 * devices and an iothread around it: takes what the guest sends, feeds it and
 * what comes from secondary-in to the rules (net/colo/match.c), and passes on
 * what they release.  A packet crosses no socket and no thread here, which is
 * most of what colo-compare costs one that is waited for: the main loop, which
 * has to send it anyway, is woken by the secondary's word itself.
 *
 *   off        no session: packets pass
 *   armed      packets are fed to the rules
 *   draining   the session is over: what was released leaves, packets that
 *              come meanwhile go behind it
 *
 * The rules may not be called back, so they only append to a queue (out); who
 * called them empties it.  What the backend does not take at once stays there.
 *
 * Back-pressure: while the rules or that queue are full the NIC is told to
 * wait, unless the VM stands still, because a NIC must not have a packet under
 * way when its state is saved.  One that cannot wait goes on up to a hard
 * limit; from there on packets are dropped, and counted.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qapi/util.h"
#include "chardev/char-fe.h"
#include "migration/colo.h"
#include "net/colo.h"
#include "net/colo-begin.h"
#include "colo-compare.h"
#include "compare-options.h"
#include "held-output.h"
#include "match.h"
#include "stream.h"
#include "stream-end.h"
#include "net/filter.h"
#include "net/net.h"
#include "net/queue.h"
#include "qom/object.h"
#include "qom/object_interfaces.h"
#include "system/runstate.h"
#include "trace.h"

#define TYPE_FILTER_COMPARE "filter-compare"
OBJECT_DECLARE_SIMPLE_TYPE(FilterCompare, FILTER_COMPARE)

#define READ_BYTES          (256 * KiB)
/* Released packets that the backend did not take; the NIC waits for it */
#define OUT_BYTES           (4 * MiB)
/* Of packets of a NIC that cannot wait */
#define HARD_LIMIT_BYTES    (128 * MiB)

typedef enum FilterCompareState {
    FILTER_COMPARE_OFF,
    FILTER_COMPARE_ARMED,
    FILTER_COMPARE_DRAINING,
} FilterCompareState;

struct FilterCompare {
    NetFilterState parent_obj;

    /* Set once */
    char *secondary_in;
    ColoCompareOptions options;
    CharBackend chr;
    ColoParticipant participant;
    VMChangeStateEntry *vmstate;
    QTAILQ_ENTRY(FilterCompare) next;   /* BQL */

    /* BQL */
    FilterCompareState state;
    ColoMatch *match;
    QEMUTimer *timer;

    /* BQL: secondary-in */
    ColoStreamReader *reader;
    ColoStreamEnd in_end;
    bool in_stopped;            /* it was told not to read */

    ColoHeldOutput out;         /* BQL: released */

    /* BQL: counters */
    uint64_t dropped_full;
    uint64_t dropped_bad;
};

/* BQL */
static QTAILQ_HEAD(, FilterCompare) compares = QTAILQ_HEAD_INITIALIZER(compares);

static int64_t now_ms(void)
{
    return qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
}

static void compare_begin(void *opaque, const ColoPacket *p)
{
    FilterCompare *fc = opaque;

    colo_begin_tell(NETFILTER(fc)->netdev, p);
}

/* Output */

static void compare_release(void *opaque, ColoPacket *p)
{
    FilterCompare *fc = opaque;

    colo_held_output_add(&fc->out, p);
}

static void compare_need(void *opaque, ColoMatchNeed why, uint64_t epoch)
{
    FilterCompare *fc = opaque;

    trace_colo_compare_need(NETFILTER(fc)->netdev_id, why);
    colo_compare_request(why, epoch);
}

static const ColoMatchOps match_ops = {
    .release = compare_release,
    .need = compare_need,
    .withdraw = colo_compare_withdraw,
    .begin = compare_begin,
};

static bool compare_full(FilterCompare *fc)
{
    return colo_held_output_memory(&fc->out) >= OUT_BYTES ||
           colo_match_full(fc->match);
}

static bool compare_pass(NetFilterState *nf, ColoPacket *p)
{
    FilterCompare *fc = FILTER_COMPARE(nf);
    struct iovec iov[COLO_NET_PARTS];
    int parts;

    if (!colo_held_output_has_room(&fc->out, nf->netdev, nf->netdev->peer,
                                   COLO_NET_QUEUE_PACKETS)) {
        return false;
    }
    parts = colo_net_fit_header(nf->netdev, p->vnet_hdr_len, p->data, p->size,
                                iov);
    if (nf->netdev->peer) {
        qemu_netfilter_pass_to_next(nf->netdev->peer, 0, iov, parts, nf);
        colo_net_flush_standing(nf->netdev);
    }
    return true;
}

/* Pass on what was released, and what follows from that there is room again */
static void compare_send(void *opaque)
{
    FilterCompare *fc = opaque;

    if (!colo_held_output_drain(&fc->out)) {
        return;
    }
    if (fc->state == FILTER_COMPARE_DRAINING &&
        !colo_held_output_first(&fc->out)) {
        fc->state = FILTER_COMPARE_OFF;
    }
    if (fc->out.waiting && !compare_full(fc)) {
        colo_held_output_wake(&fc->out);
    }
    if (fc->in_stopped && colo_held_output_memory(&fc->out) < OUT_BYTES) {
        fc->in_stopped = false;
        qemu_chr_fe_accept_input(&fc->chr);
    }
}

static const ColoHeldOutputOps out_ops = {
    .pass = compare_pass,
    .room = compare_send,
    .leaves = true,
};

/* The rules were fed: when is there something to do next? */
static void compare_fed(FilterCompare *fc)
{
    int64_t next = MIN(now_ms() + fc->options.scan_ms,
                       colo_match_deadline_ms(fc->match));

    if (!timer_pending(fc->timer) ||
        timer_expire_time_ns(fc->timer) > next * SCALE_MS) {
        timer_mod(fc->timer, next);
    }
    compare_send(fc);
}

static void compare_tick(void *opaque)
{
    FilterCompare *fc = opaque;

    colo_match_tick(fc->match, now_ms());
    timer_mod(fc->timer, now_ms() + fc->options.scan_ms);
    compare_fed(fc);
}

/* Sessions */

static FilterCompare *from_participant(ColoParticipant *p)
{
    return container_of(p, FilterCompare, participant);
}

static void compare_prepare(ColoParticipant *p)
{
    FilterCompare *fc = from_participant(p);

    colo_match_arm(fc->match);
    if (!colo_stream_end_is_open(&fc->in_end)) {
        colo_match_secondary_lost(fc->match);
    }
}

static void compare_arm(ColoParticipant *p, uint64_t epoch)
{
    FilterCompare *fc = from_participant(p);

    trace_colo_compare_cut(epoch, "primary");
    fc->state = FILTER_COMPARE_ARMED;
    colo_stream_end_session(&fc->in_end, true);
    colo_match_primary_cut(fc->match, epoch, now_ms());
    compare_fed(fc);
}

static void compare_commit(ColoParticipant *p, uint64_t cut)
{
    FilterCompare *fc = from_participant(p);

    colo_match_commit(fc->match, cut, now_ms());
    compare_fed(fc);
}

static void compare_open(ColoParticipant *p)
{
    FilterCompare *fc = from_participant(p);

    colo_stream_end_session(&fc->in_end, false);
    if (fc->state == FILTER_COMPARE_ARMED) {
        fc->state = FILTER_COMPARE_DRAINING;
        colo_match_open(fc->match);
        compare_fed(fc);
    }
}

static bool compare_drained(ColoParticipant *p)
{
    FilterCompare *fc = from_participant(p);

    return !colo_held_output_first(&fc->out) &&
           !qemu_net_queue_len(NETFILTER(fc)->netdev->incoming_queue);
}

static void compare_vm_state(void *opaque, bool running, RunState state)
{
    FilterCompare *fc = opaque;

    if (running) {
        compare_send(fc);
    } else {
        colo_held_output_wake(&fc->out);
    }
}

/* The primary's guest */

/* With the vnet header that the backend expects, be it an empty one */
static ColoPacket *packet_of(FilterCompare *fc, unsigned flags,
                             const struct iovec *iov, int iovcnt)
{
    uint32_t header = NETFILTER(fc)->netdev->vnet_hdr_len;
    uint32_t missing = flags & QEMU_NET_PACKET_FLAG_RAW ? header : 0;
    uint32_t size = iov_size(iov, iovcnt);
    ColoPacket *p = colo_packet_alloc(missing + size, header);

    memset(p->data, 0, missing);
    iov_to_buf(iov, iovcnt, 0, p->data + missing, size);
    colo_packet_parse(p);
    p->arrived_ms = now_ms();
    return p;
}

static void compare_packet(FilterCompare *fc, ColoPacket *p)
{
    if (fc->state == FILTER_COMPARE_ARMED) {
        colo_match_primary(fc->match, p);
        compare_fed(fc);
    } else {
        compare_release(fc, p);
        compare_send(fc);
    }
}

static ssize_t compare_receive_iov(NetFilterState *nf, NetClientState *sender,
                                   unsigned flags, const struct iovec *iov,
                                   int iovcnt, NetPacketSent *sent_cb)
{
    FilterCompare *fc = FILTER_COMPARE(nf);
    ssize_t size = iov_size(iov, iovcnt);

    if (!fc->vmstate) {
        /* The netdev goes with it, and the NIC that waited goes on */
        return size;
    }
    if (fc->state == FILTER_COMPARE_OFF || sender == nf->netdev || !size) {
        return 0;
    }
    if (!colo_stream_takes(nf->netdev, flags, size)) {
        /* Nor does the secondary's filter-redirector say it */
        fc->dropped_bad++;
        return size;
    }
    if (colo_held_output_memory(&fc->out) +
        colo_match_stats(fc->match)->queued_bytes >= HARD_LIMIT_BYTES) {
        fc->dropped_full++;
        warn_report_once("filter-compare: queue of '%s' is full and its NIC "
                         "cannot wait, packets are dropped", nf->netdev_id);
        return size;
    }
    compare_packet(fc, packet_of(fc, flags, iov, iovcnt));
    return compare_full(fc) &&
           colo_held_output_push_back(&fc->out, sender, sent_cb)
           ? NET_FILTER_QUEUED : size;
}

static void compare_release_sender(NetFilterState *nf)
{
    colo_held_output_release_sender(&FILTER_COMPARE(nf)->out);
}

/* The secondary's guest */

static void secondary_packet(void *opaque, uint8_t *data, uint32_t size,
                             uint32_t vnet_hdr_len)
{
    FilterCompare *fc = opaque;
    ColoPacket *p = colo_packet_new_behind(data, size, vnet_hdr_len);

    p->arrived_ms = now_ms();
    colo_match_secondary(fc->match, p);
}

static void secondary_cut(void *opaque, uint64_t epoch)
{
    FilterCompare *fc = opaque;

    trace_colo_compare_cut(epoch, "secondary-in");
    if (colo_match_secondary_cut(fc->match, epoch, now_ms())) {
        colo_stream_end_sound(&fc->in_end);
        return;
    }
    colo_stream_end_wrong_epoch(&fc->in_end, epoch);
    colo_match_secondary_lost(fc->match);
    colo_stream_reader_reset(fc->reader);
}

static bool secondary_hello(void *opaque, const ColoStreamHello *hello)
{
    FilterCompare *fc = opaque;
    const ColoStreamExpected expected = {
        .kind = COLO_STREAM_SECONDARY_OUTPUT,
        .vnet_hdr = fc->options.vnet_hdr,
        .parsed = true,
        .netdev = NETFILTER(fc)->netdev,
        .mac = colo_net_mac(NETFILTER(fc)->netdev),
    };
    Error *err = NULL;
    bool fatal, fits;

    if (!colo_stream_end_belongs(&fc->in_end, hello)) {
        return false;
    }
    fits = colo_stream_hello_check(hello, &expected, &fatal, &err);
    if (!fits) {
        error_prepend(&err, "filter-compare: secondary-in '%s': ",
                      fc->secondary_in);
    }
    colo_stream_end_told(&fc->in_end, err, !fits && fatal);
    return fits || !fatal;
}

static const ColoStreamReaderOps secondary_ops = {
    .room = COLO_PACKET_ROOM,
    .packet = secondary_packet,
    .cut = secondary_cut,
    .hello = secondary_hello,
};

static int secondary_can_read(void *opaque)
{
    FilterCompare *fc = opaque;

    fc->in_stopped = colo_held_output_memory(&fc->out) >= OUT_BYTES;
    return fc->in_stopped ? 0 : READ_BYTES;
}

static void secondary_read(void *opaque, const uint8_t *buf, int size)
{
    FilterCompare *fc = opaque;
    Error *err = NULL;
    bool sound;

    if (fc->in_end.broken) {
        return;
    }
    colo_match_begin_read(fc->match);
    sound = colo_stream_reader_feed(fc->reader, buf, size, &err);
    colo_match_end_read(fc->match);
    if (!sound) {
        error_prepend(&err, "filter-compare: secondary-in '%s': ",
                      fc->secondary_in);
        colo_stream_end_broken(&fc->in_end, err);
        colo_match_secondary_lost(fc->match);
    }
    compare_fed(fc);
}

static void secondary_event(void *opaque, QEMUChrEvent event)
{
    FilterCompare *fc = opaque;

    trace_colo_stream_event(fc->secondary_in, event);
    if (event == CHR_EVENT_CLOSED) {
        colo_stream_reader_reset(fc->reader);
        colo_match_secondary_lost(fc->match);
        compare_fed(fc);
    } else if (event == CHR_EVENT_OPENED) {
        colo_match_secondary_opened(fc->match);
        compare_fed(fc);
    }
    colo_stream_end_event(&fc->in_end, event);
}

/* Set-up */

static void compare_setup(NetFilterState *nf, Error **errp)
{
    FilterCompare *fc = FILTER_COMPARE(nf);

    if (!fc->secondary_in) {
        error_setg(errp, "filter-compare needs Parameter 'secondary-in'");
        return;
    }
    if (nf->direction == NET_FILTER_DIRECTION_TX) {
        error_setg(errp, "Parameter 'queue' is 'tx', what the guest receives: "
                   "filter-compare needs 'all' (the default) or 'rx', what "
                   "the guest sends");
        return;
    }
    if (!nf->on) {
        error_setg(errp, "filter-compare cannot be created with status=off");
        return;
    }
    if (!colo_stream_take_chardev(&fc->chr, "filter-compare", "secondary-in",
                                  fc->secondary_in, errp)) {
        return;
    }
    fc->options.fixed = true;
    fc->match = colo_compare_options_match(&fc->options, &match_ops, fc);
    fc->timer = timer_new_ms(QEMU_CLOCK_REALTIME, compare_tick, fc);
    colo_held_output_init(&fc->out, nf, &out_ops);
    fc->reader = colo_stream_reader_new(fc->options.vnet_hdr, &secondary_ops,
                                        fc);
    colo_stream_end_init(&fc->in_end, &fc->chr, qemu_get_aio_context());
    colo_stream_end_expect_records(&fc->in_end, qemu_get_aio_context());
    fc->participant = (ColoParticipant) {
        .prepare = compare_prepare,
        .arm = compare_arm,
        .cut = compare_arm,
        .commit = compare_commit,
        .open = compare_open,
        .drained = compare_drained,
    };
    fc->vmstate = qemu_add_vm_change_state_handler(compare_vm_state, fc);
    QTAILQ_INSERT_TAIL(&compares, fc, next);
    colo_participant_register(&fc->participant);
    qemu_chr_fe_set_handlers(&fc->chr, secondary_can_read, secondary_read,
                             secondary_event, NULL, fc, NULL, true);
}

static void compare_cleanup(NetFilterState *nf)
{
    FilterCompare *fc = FILTER_COMPARE(nf);

    colo_stream_end_cleanup(&fc->in_end);
    qemu_chr_fe_deinit(&fc->chr, false);
    if (!fc->vmstate) {
        return;
    }
    colo_participant_unregister(&fc->participant);
    qemu_del_vm_change_state_handler(fc->vmstate);
    fc->vmstate = NULL;
    QTAILQ_REMOVE(&compares, fc, next);
    /* can_be_deleted: no session, and QEMU's exit has no use for the rest */
    fc->state = FILTER_COMPARE_OFF;
    colo_held_output_cleanup(&fc->out);
    timer_free(fc->timer);
    g_clear_pointer(&fc->match, colo_match_free);
    g_clear_pointer(&fc->reader, colo_stream_reader_free);
}

static void compare_status_changed(NetFilterState *nf, Error **errp)
{
    if (!nf->on && FILTER_COMPARE(nf)->state != FILTER_COMPARE_OFF) {
        nf->on = true;
        error_setg(errp, "filter-compare holds the output of a protected guest "
                   "and cannot be switched off now");
    }
}

static bool compare_can_be_deleted(UserCreatable *uc)
{
    return FILTER_COMPARE(uc)->state == FILTER_COMPARE_OFF;
}

static char *compare_get_secondary_in(Object *obj, Error **errp)
{
    return g_strdup(FILTER_COMPARE(obj)->secondary_in);
}

static void compare_set_secondary_in(Object *obj, const char *value,
                                     Error **errp)
{
    FilterCompare *fc = FILTER_COMPARE(obj);

    if (fc->options.fixed) {
        error_setg(errp, "'secondary-in' cannot be changed any more");
        return;
    }
    g_free(fc->secondary_in);
    fc->secondary_in = g_strdup(value);
}

static void compare_init(Object *obj)
{
    FilterCompare *fc = FILTER_COMPARE(obj);

    colo_compare_options_init(&fc->options, obj, '-');
    object_property_add_uint64_ptr(obj, "dropped-packets-full",
                                   &fc->dropped_full, OBJ_PROP_FLAG_READ);
    object_property_add_uint64_ptr(obj, "dropped-packets-bad",
                                   &fc->dropped_bad, OBJ_PROP_FLAG_READ);
}

static void compare_finalize(Object *obj)
{
    g_free(FILTER_COMPARE(obj)->secondary_in);
}

static void compare_class_init(ObjectClass *oc, void *data)
{
    NetFilterClass *nfc = NETFILTER_CLASS(oc);

    USER_CREATABLE_CLASS(oc)->can_be_deleted = compare_can_be_deleted;
    nfc->setup = compare_setup;
    nfc->cleanup = compare_cleanup;
    nfc->status_changed = compare_status_changed;
    nfc->release_sender = compare_release_sender;
    nfc->receive_iov = compare_receive_iov;
    object_class_property_add_str(oc, "secondary-in", compare_get_secondary_in,
                                  compare_set_secondary_in);
}

static const TypeInfo compare_info = {
    .name = TYPE_FILTER_COMPARE,
    .parent = TYPE_NETFILTER,
    .class_init = compare_class_init,
    .instance_init = compare_init,
    .instance_finalize = compare_finalize,
    .instance_size = sizeof(FilterCompare),
};

static void compare_register_types(void)
{
    type_register_static(&compare_info);
}

type_init(compare_register_types);

/* Statistics */

void filter_compare_append_statistics(ColoCompareStatisticsList ***tail)
{
    FilterCompare *fc;

    QTAILQ_FOREACH(fc, &compares, next) {
        ColoCompareStatistics *st =
            colo_compare_statistics_new(OBJECT(fc),
                                        colo_match_stats(fc->match));

        st->dropped_full = fc->dropped_full;
        QAPI_LIST_APPEND(*tail, st);
    }
}
