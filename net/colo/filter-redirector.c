/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * filter-redirector: turns packets aside to a character device (outdev), and
 * puts in what comes from one (indev).
 *
 * Both sides, under the BQL: packets come from the main loop or a vCPU, cuts
 * from the migration thread.
 *
 * Theory of operation
 *
 * Without a COLO session that is all.  In a session in hybrid mode:
 *
 * - Primary, outdev (queue=rx: what the guest sends, on its way to
 *   colo-compare): the stream gets a record at each cut.  When it is full the
 *   NIC is told to wait; one that cannot wait may overfill it, up to a limit,
 *   and then loses packets, which are counted.  The SYNs of the guest are told
 *   to the secondary (net/colo-begin.h).
 * - Primary, indev (queue=rx): what colo-compare lets go.  Nothing special.
 * - Secondary, outdev (queue=rx): what its guest says, on its way to
 *   colo-compare.  The stream gets a record at each load.
 * - Secondary, indev (queue=tx): the primary's input, from filter-mirror.  Its
 *   records say in which epoch the primary's guest has consumed what follows,
 *   and this guest consumes it in the same one:
 *
 *     older than the checkpoint that is loaded   dropped, it is in there
 *     of the epoch that runs                     put in, while the guest runs
 *     newer                                      kept until that is loaded
 *
 *   What the NIC has queued at a load is of an older epoch and dropped with it.
 *   From its own network the guest gets nothing.  Before the first load, that
 *   of epoch 0, this side is not known to be a secondary, but its guest waits
 *   for one: what comes without a record is the network's past, what belongs to
 *   epoch 0 is kept.
 *
 * When the session is over and this side lives on, what was kept is put in, the
 * streams are out of use, and packets pass on both ways.  What the network sends
 * then is newer than what was kept, so the netdev waits until that is taken.
 *
 * What comes in is read no faster than it is taken: the queue here and that of
 * whom it is for are bounded, and the stream waits when they are full.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "migration/colo.h"
#include "net/colo.h"
#include "net/colo-begin.h"
#include "filter-redirector.h"
#include "held-output.h"
#include "stream.h"
#include "stream-end.h"
#include "net/filter.h"
#include "net/net.h"
#include "net/queue.h"
#include "qom/object.h"
#include "qom/object_interfaces.h"
#include "system/runstate.h"
#include "trace.h"

#define TYPE_FILTER_REDIRECTOR "filter-redirector"
OBJECT_DECLARE_SIMPLE_TYPE(FilterRedirector, FILTER_REDIRECTOR)

/* Of the stream out; the NIC waits when there is more, or may add so often */
#define OUT_BYTES           (4 * MiB)
#define HARD_LIMIT_FACTOR   4
/* Of input that is kept; the stream is not read when there is more */
#define KEPT_BYTES          (16 * MiB)

typedef enum RedirectorState {
    REDIRECTOR_PLAIN,           /* no session (yet), or the primary of one */
    REDIRECTOR_SECONDARY,
    REDIRECTOR_LIVE,            /* was a secondary and took over; the last */
} RedirectorState;

/* ColoPacket.tag: no input, but a SYN of the primary's guest */
#define TAG_BEGINS          1

struct FilterRedirector {
    NetFilterState parent_obj;

    /* Set once */
    char *indev;
    char *outdev;
    bool vnet_hdr;
    CharBackend in_chr;
    CharBackend out_chr;
    ColoParticipant participant;
    VMChangeStateEntry *vmstate;

    /* BQL */
    RedirectorState state;
    bool armed;                 /* primary: a session is under way */
    bool off_when_live;         /* secondary: switched off by a failover */
    uint64_t loaded;            /* secondary: epoch that its guest executes */

    ColoHeldOutput kept;        /* BQL: input; NIC that waits for outdev */
    NetPacketSent *netdev_cb;   /* BQL: the netdev waits behind what is kept */

    /* BQL: indev */
    ColoStreamReader *in;
    ColoStreamEnd in_end;
    bool in_stopped;            /* it was told not to read */
    bool in_epoch_known;
    uint64_t in_epoch;          /* of what comes from there */
    bool in_moved;              /* since drained() was asked */

    /* BQL: outdev */
    ColoStreamWriter *out;
    ColoStreamEnd out_end;

    /* BQL: counters */
    uint64_t out_packets;
    uint64_t in_packets;
    uint64_t dropped_full;
    uint64_t dropped_closed;
    uint64_t dropped_stale;
    uint64_t dropped_network;
    uint64_t dropped_bad;
};

/* Stream in */

/* Is what comes from indev the guest's input? */
static bool feeds_guest(FilterRedirector *r)
{
    return r->in && NETFILTER(r)->direction != NET_FILTER_DIRECTION_RX;
}

/*
 * Does the packet suit those who would get it?  Headers of all lengths can be
 * made fit (the guest may have reset its NIC meanwhile), but not one that
 * nobody knows of, or that is there on one side only.
 */
static bool is_sound(FilterRedirector *r, uint32_t size, uint32_t vnet_hdr_len)
{
    uint32_t expected = NETFILTER(r)->netdev->vnet_hdr_len;

    if (r->vnet_hdr ? !vnet_hdr_len == !expected && size >= vnet_hdr_len
                    : size >= expected) {
        return true;
    }
    warn_report_once("filter-redirector: indev '%s' delivers packets that the "
                     "netdev cannot take (%" PRIu32 " bytes with a vnet header "
                     "of %" PRIu32 ", not %" PRIu32 "), they are dropped",
                     r->indev, size, vnet_hdr_len, expected);
    return false;
}

/* Put a packet into the chain behind this filter */
static void inject(FilterRedirector *r, uint8_t *data, uint32_t size,
                   uint32_t vnet_hdr_len)
{
    NetFilterState *nf = NETFILTER(r);
    struct iovec iov[COLO_NET_PARTS];
    int parts;

    if (!is_sound(r, size, vnet_hdr_len)) {
        r->dropped_bad++;
        return;
    }
    parts = colo_net_fit_header(nf->netdev, r->vnet_hdr ? vnet_hdr_len
                                            : nf->netdev->vnet_hdr_len,
                                data, size, iov);
    r->in_packets++;
    if (nf->direction != NET_FILTER_DIRECTION_RX) {
        qemu_netfilter_pass_to_next(nf->netdev, QEMU_NET_PACKET_FLAG_PRIMARY,
                                    iov, parts, nf);
    }
    /* The primary's input is not for the network of the secondary */
    if (nf->direction != NET_FILTER_DIRECTION_TX &&
        (r->state == REDIRECTOR_PLAIN || !feeds_guest(r))) {
        qemu_netfilter_pass_to_next(nf->netdev->peer, 0, iov, parts, nf);
        colo_net_flush_standing(nf->netdev);
    }
}

static void kept_drop_before(FilterRedirector *r, uint64_t epoch)
{
    ColoPacket *p;

    while ((p = colo_held_output_first(&r->kept)) && p->epoch < epoch) {
        r->dropped_stale++;
        colo_held_output_pop(&r->kept);
    }
}

static void in_accept(FilterRedirector *r)
{
    if (r->in_stopped) {
        r->in_stopped = false;
        qemu_chr_fe_accept_input(&r->in_chr);
    }
}

/* Secondary, or live: may the guest have @p now? */
static bool may_have(FilterRedirector *r, const ColoPacket *p)
{
    /* The guest that goes on has what was kept, even if that is switched off */
    return runstate_is_running() &&
           (r->state == REDIRECTOR_LIVE ||
            (r->state == REDIRECTOR_SECONDARY && NETFILTER(r)->on &&
             p->epoch == r->loaded));
}

static bool redirector_pass(NetFilterState *nf, ColoPacket *p)
{
    FilterRedirector *r = FILTER_REDIRECTOR(nf);

    /*
     * While a packet waits in its queue the NIC gets no more.  As soon as its
     * ring has room for one the whole queue is delivered, and some NICs lose
     * what the ring has no room for.  So they get as much as from a tap device,
     * which waits likewise.
     */
    if (!may_have(r, p) ||
        !colo_held_output_has_room(&r->kept, nf->netdev->peer, nf->netdev,
                                   1)) {
        return false;
    }
    if (p->tag == TAG_BEGINS) {
        colo_begin_told(nf->netdev, p->data, p->size, p->vnet_hdr_len);
    } else {
        inject(r, p->data, p->size, p->vnet_hdr_len);
    }
    return true;
}

static void netdev_wake(FilterRedirector *r)
{
    NetPacketSent *cb = r->netdev_cb;

    r->netdev_cb = NULL;
    if (cb) {
        cb(NETFILTER(r)->netdev, 1);
    }
}

static void redirector_feed(void *opaque)
{
    FilterRedirector *r = opaque;

    if (r->kept.draining) {
        return;
    }
    if (r->state == REDIRECTOR_SECONDARY) {
        kept_drop_before(r, r->loaded);
    }
    colo_held_output_drain(&r->kept);
    if (r->state == REDIRECTOR_LIVE && !colo_held_output_first(&r->kept)) {
        netdev_wake(r);
        if (r->off_when_live) {
            r->off_when_live = false;
            NETFILTER(r)->on = false;
        }
    }
    in_accept(r);
}

static const ColoHeldOutputOps kept_ops = {
    .pass = redirector_pass,
    .room = redirector_feed,
};

static void keep(FilterRedirector *r, uint8_t *data, uint32_t size,
                 uint32_t vnet_hdr_len, unsigned tag)
{
    ColoPacket *p = colo_packet_wrap(data, size, vnet_hdr_len);

    p->epoch = r->in_epoch;
    p->tag = tag;
    colo_held_output_add(&r->kept, p);
}

/* No session yet: does the guest stand there to become a secondary? */
static bool awaits_load(FilterRedirector *r)
{
    return r->state == REDIRECTOR_PLAIN && !r->armed && feeds_guest(r) &&
           (runstate_check(RUN_STATE_INMIGRATE) ||
            runstate_check(RUN_STATE_COLO));
}

static bool may_be_of_use(FilterRedirector *r)
{
    if (!r->in_epoch_known || r->state == REDIRECTOR_LIVE) {
        return false;
    }
    /* A session that never loads, that of periodic mode, has no use for it */
    return r->state == REDIRECTOR_SECONDARY ? r->in_epoch >= r->loaded
           : r->in_epoch == 0 &&
             colo_held_output_memory(&r->kept) < KEPT_BYTES;
}

static void in_packet(void *opaque, uint8_t *data, uint32_t size,
                      uint32_t vnet_hdr_len)
{
    FilterRedirector *r = opaque;

    if (!feeds_guest(r) ||
        (r->state == REDIRECTOR_PLAIN && !awaits_load(r))) {
        inject(r, data, size, vnet_hdr_len);
        g_free(data);
        return;
    }
    if (!may_be_of_use(r)) {
        r->dropped_stale++;
        g_free(data);
        return;
    }
    keep(r, data, size, vnet_hdr_len, 0);
    redirector_feed(r);
}

/* Takes its turn among the input */
static void in_begin(void *opaque, uint8_t *data, uint32_t size,
                     uint32_t vnet_hdr_len)
{
    FilterRedirector *r = opaque;

    if (!feeds_guest(r) || r->state == REDIRECTOR_LIVE) {
        g_free(data);
    } else if (!data) {
        colo_begin_told(NETFILTER(r)->netdev, NULL, 0, 0);
    } else if ((r->state == REDIRECTOR_PLAIN && !awaits_load(r)) ||
               !may_be_of_use(r)) {
        g_free(data);
    } else {
        keep(r, data, size, vnet_hdr_len, TAG_BEGINS);
        redirector_feed(r);
    }
}

static void in_cut(void *opaque, uint64_t epoch)
{
    FilterRedirector *r = opaque;

    trace_colo_stream_cut(epoch, r->indev);
    colo_stream_end_sound(&r->in_end);
    r->in_epoch_known = true;
    r->in_epoch = epoch;
    if (r->state == REDIRECTOR_PLAIN) {
        kept_drop_before(r, epoch);
    } else if (r->state == REDIRECTOR_SECONDARY && feeds_guest(r) &&
               epoch > r->loaded && epoch - r->loaded > 1) {
        /* A cut follows the load of the one before */
        warn_report_once("filter-redirector: indev '%s' says it is in epoch %"
                         PRIu64 ", the guest in %" PRIu64 ": what it delivers "
                         "is dropped", r->indev, epoch, r->loaded);
        r->in_epoch_known = false;
    }
}

static bool in_hello(void *opaque, const ColoStreamHello *hello)
{
    FilterRedirector *r = opaque;
    const ColoStreamExpected expected = {
        .kind = feeds_guest(r) ? COLO_STREAM_INPUT : COLO_STREAM_UNKNOWN,
        .vnet_hdr = r->vnet_hdr,
        .netdev = NETFILTER(r)->netdev,
        .mac = colo_net_mac(NETFILTER(r)->netdev),
    };
    Error *err = NULL;
    bool fatal, fits;

    if (!colo_stream_end_belongs(&r->in_end, hello)) {
        return false;
    }
    fits = colo_stream_hello_check(hello, &expected, &fatal, &err);
    if (!fits) {
        error_prepend(&err, "filter-redirector: indev '%s': ", r->indev);
    }
    colo_stream_end_told(&r->in_end, err, !fits && fatal);
    return fits || !fatal;
}

static const ColoStreamReaderOps in_ops = {
    .packet = in_packet,
    .cut = in_cut,
    .begin = in_begin,
    .hello = in_hello,
};

/* The main loop asks again each time it goes round */
static int in_can_read(void *opaque)
{
    FilterRedirector *r = opaque;
    NetFilterState *nf = NETFILTER(r);
    bool stop = !nf->on;

    if (!feeds_guest(r)) {
        stop |= colo_held_output_is_long(nf->netdev);
    } else if (r->state == REDIRECTOR_SECONDARY) {
        stop |= colo_held_output_memory(&r->kept) >= KEPT_BYTES;
    } else if (r->state == REDIRECTOR_PLAIN && !awaits_load(r)) {
        stop |= colo_held_output_is_long(nf->netdev->peer);
    }
    r->in_stopped = stop;
    return stop ? 0 : NET_BUFSIZE;
}

static void in_read(void *opaque, const uint8_t *buf, int size)
{
    FilterRedirector *r = opaque;
    Error *err = NULL;

    r->in_moved = true;
    if (!r->in_end.broken &&
        !colo_stream_reader_feed(r->in, buf, size, &err)) {
        error_prepend(&err, "filter-redirector: indev '%s': ", r->indev);
        colo_stream_end_broken(&r->in_end, err);
    }
}

static void in_event(void *opaque, QEMUChrEvent event)
{
    FilterRedirector *r = opaque;

    trace_colo_stream_event(r->indev, event);
    if (event == CHR_EVENT_OPENED || event == CHR_EVENT_CLOSED) {
        colo_stream_reader_reset(r->in);
        r->in_epoch_known = false;
        if (feeds_guest(r)) {
            colo_begin_untold(NETFILTER(r)->netdev);
        }
    }
    colo_stream_end_event(&r->in_end, event);
}

/* Stream out */

static void redirector_release_sender(NetFilterState *nf)
{
    colo_held_output_release_sender(&FILTER_REDIRECTOR(nf)->kept);
}

static void out_drained(void *opaque)
{
    FilterRedirector *r = opaque;

    colo_held_output_wake(&r->kept);
}

static int out_can_read(void *opaque)
{
    return NET_BUFSIZE;
}

static void out_read(void *opaque, const uint8_t *buf, int size)
{
    FilterRedirector *r = opaque;

    /* A comparison has nothing to say there, unless this is the wrong port */
    colo_stream_end_heard(&r->out_end, buf, size);
}

static void out_event(void *opaque, QEMUChrEvent event)
{
    FilterRedirector *r = opaque;

    trace_colo_stream_event(r->outdev, event);
    if (event == CHR_EVENT_OPENED) {
        colo_stream_writer_opened(r->out);
    } else if (event == CHR_EVENT_CLOSED) {
        colo_stream_writer_closed(r->out);
    }
    colo_stream_end_event(&r->out_end, event);
}

static ssize_t redirect(FilterRedirector *r, NetClientState *sender,
                        unsigned flags, const struct iovec *iov, int iovcnt,
                        NetPacketSent *sent_cb)
{
    size_t size = iov_size(iov, iovcnt);

    if (r->armed && sender != NETFILTER(r)->netdev) {
        colo_begin_look(NETFILTER(r)->netdev, flags, iov, iovcnt);
    }
    switch (colo_stream_writer_netfilter(r->out, NETFILTER(r)->netdev, flags,
                                         iov, iovcnt)) {
    case COLO_STREAM_OK:
        r->out_packets++;
        break;
    case COLO_STREAM_FULL:
        r->dropped_full++;
        warn_report_once("filter-redirector: outdev '%s' is full and the NIC "
                         "cannot wait, packets are dropped", r->outdev);
        break;
    case COLO_STREAM_BAD:
        r->dropped_bad++;
        return size;
    case COLO_STREAM_CLOSED:
        r->dropped_closed++;
        if (r->armed) {
            warn_report_once("filter-redirector: nobody is connected to outdev "
                             "'%s', packets are dropped", r->outdev);
        }
        return size;
    }
    if (!colo_stream_writer_full(r->out)) {
        return size;
    }
    if (r->armed) {
        colo_request_checkpoint_queue_full();
    }
    return colo_held_output_push_back(&r->kept, sender, sent_cb)
           ? NET_FILTER_QUEUED : size;
}

/* Live: a packet of the network takes its turn behind what was kept */
static ssize_t queue_behind_kept(FilterRedirector *r, const struct iovec *iov,
                                 int iovcnt, NetPacketSent *sent_cb)
{
    size_t size = iov_size(iov, iovcnt);
    uint8_t *data = g_malloc(size);

    iov_to_buf(iov, iovcnt, 0, data, size);
    keep(r, data, size, NETFILTER(r)->netdev->vnet_hdr_len, 0);
    r->netdev_cb = sent_cb;
    return NET_FILTER_QUEUED;
}

static ssize_t redirector_receive_iov(NetFilterState *nf,
                                      NetClientState *sender, unsigned flags,
                                      const struct iovec *iov, int iovcnt,
                                      NetPacketSent *sent_cb)
{
    FilterRedirector *r = FILTER_REDIRECTOR(nf);

    if (!r->vmstate) {
        /* It is being deleted, and the NIC that waited goes on */
        return 0;
    }
    if (r->state == REDIRECTOR_SECONDARY && feeds_guest(r) &&
        sender == nf->netdev) {
        r->dropped_network++;
        return iov_size(iov, iovcnt);
    }
    if (!iov_size(iov, iovcnt)) {
        return 0;
    }
    /* Who cannot wait may overtake */
    if (r->state == REDIRECTOR_LIVE && sender == nf->netdev && sent_cb &&
        colo_held_output_first(&r->kept)) {
        return queue_behind_kept(r, iov, iovcnt, sent_cb);
    }
    if (!r->out || r->state == REDIRECTOR_LIVE) {
        return 0;
    }
    return redirect(r, sender, flags, iov, iovcnt, sent_cb);
}

/* Sessions */

static FilterRedirector *from_participant(ColoParticipant *p)
{
    return container_of(p, FilterRedirector, participant);
}

static void set_in_session(FilterRedirector *r, bool on)
{
    colo_stream_end_session(&r->in_end, on);
    colo_stream_end_session(&r->out_end, on);
}

static void redirector_arm(ColoParticipant *p, uint64_t epoch)
{
    FilterRedirector *r = from_participant(p);

    /* The filters of a secondary that took over have no part in the next one */
    if (r->state == REDIRECTOR_LIVE) {
        return;
    }
    r->armed = true;
    set_in_session(r, true);
    if (r->out) {
        colo_stream_introduce(r->out, COLO_STREAM_PRIMARY_OUTPUT,
                              NETFILTER(r)->netdev);
        colo_stream_writer_cut(r->out, epoch);
    }
}

static void redirector_load(ColoParticipant *p, uint64_t epoch)
{
    FilterRedirector *r = from_participant(p);

    r->state = REDIRECTOR_SECONDARY;
    r->loaded = epoch;
    set_in_session(r, true);
    if (feeds_guest(r)) {
        /* What another session's primary said is not the guest's input */
        kept_drop_before(r, r->in_end.broken ? UINT64_MAX : epoch);
        qemu_purge_queued_packets(NETFILTER(r)->netdev);
    }
    if (r->out) {
        colo_stream_introduce(r->out, COLO_STREAM_SECONDARY_OUTPUT,
                              NETFILTER(r)->netdev);
        colo_stream_writer_cut(r->out, epoch);
    }
}

static void redirector_open(ColoParticipant *p)
{
    FilterRedirector *r = from_participant(p);

    set_in_session(r, false);
    if (r->out) {
        colo_stream_writer_forget_epoch(r->out);
    }
    if (r->armed) {
        r->armed = false;
        return;
    }
    /* In periodic mode nothing was loaded, and nothing is of use */
    if (r->state == REDIRECTOR_PLAIN) {
        kept_drop_before(r, UINT64_MAX);
    }
    r->state = REDIRECTOR_LIVE;
    colo_held_output_wake(&r->kept);
    redirector_feed(r);
}

/* The guest's input is of no interest, nor is what a secondary says */
static bool redirector_drained(ColoParticipant *p)
{
    FilterRedirector *r = from_participant(p);
    bool moved = r->in_moved;

    r->in_moved = false;
    if (r->state != REDIRECTOR_PLAIN) {
        return true;
    }
    if (r->out && colo_stream_writer_queued_bytes(r->out)) {
        return false;
    }
    return !r->in || feeds_guest(r) ||
           (!moved &&
            !qemu_net_queue_len(NETFILTER(r)->netdev->incoming_queue));
}

bool colo_redirector_is_spent(NetFilterState *nf)
{
    FilterRedirector *r = (FilterRedirector *)
        object_dynamic_cast(OBJECT(nf), TYPE_FILTER_REDIRECTOR);

    return r && r->state == REDIRECTOR_LIVE;
}

static void redirector_vm_state(void *opaque, bool running, RunState state)
{
    FilterRedirector *r = opaque;

    if (!running) {
        colo_held_output_wake(&r->kept);
        return;
    }
    /* It did not become a secondary */
    if (r->state == REDIRECTOR_PLAIN) {
        kept_drop_before(r, UINT64_MAX);
    }
    redirector_feed(r);
}

/*
 * A manager switches the secondary's filters off and then lets it take over.  In
 * between its guest would be seen, so they stay on until it has.
 */
static void redirector_status_changed(NetFilterState *nf, Error **errp)
{
    FilterRedirector *r = FILTER_REDIRECTOR(nf);

    colo_problems_changed();
    if (nf->on) {
        redirector_feed(r);
    } else if (r->state == REDIRECTOR_SECONDARY && colo_secondary_follows()) {
        nf->on = true;
        r->off_when_live = true;
    } else {
        colo_held_output_wake(&r->kept);
    }
}

/* Set-up */

static bool redirector_take_chardevs(FilterRedirector *r, Error **errp)
{
    if (!r->indev && !r->outdev) {
        error_setg(errp, "filter-redirector needs Parameter 'indev' or "
                   "'outdev', or both");
        return false;
    }
    if (r->indev && r->outdev && !strcmp(r->indev, r->outdev)) {
        error_setg(errp, "filter-redirector: Parameters 'indev' and 'outdev' "
                   "are both '%s', they need a chardev each", r->indev);
        return false;
    }
    return (!r->indev ||
            colo_stream_take_chardev(&r->in_chr, "filter-redirector", "indev",
                                     r->indev, errp)) &&
           (!r->outdev ||
            colo_stream_take_chardev(&r->out_chr, "filter-redirector",
                                     "outdev", r->outdev, errp));
}

static void redirector_setup(NetFilterState *nf, Error **errp)
{
    FilterRedirector *r = FILTER_REDIRECTOR(nf);

    if (!redirector_take_chardevs(r, errp)) {
        return;
    }
    colo_held_output_init(&r->kept, nf, &kept_ops);
    if (r->outdev) {
        r->out = colo_stream_writer_new(&r->out_chr, NULL, r->vnet_hdr,
                                        OUT_BYTES, out_drained, r);
        colo_stream_writer_set_hard_limit(r->out,
                                          OUT_BYTES * HARD_LIMIT_FACTOR);
        colo_stream_writer_gather(r->out, qemu_get_aio_context());
        colo_stream_end_init_writer(&r->out_end, &r->out_chr,
                                    qemu_get_aio_context(), r->vnet_hdr,
                                    "the primary's comparison");
        qemu_chr_fe_set_handlers(&r->out_chr, out_can_read, out_read,
                                 out_event, NULL, r, NULL, true);
    }
    if (r->indev) {
        r->in = colo_stream_reader_new(r->vnet_hdr, &in_ops, r);
        colo_stream_end_init(&r->in_end, &r->in_chr, qemu_get_aio_context());
        if (feeds_guest(r)) {
            colo_stream_end_expect_records(&r->in_end, qemu_get_aio_context());
        }
        qemu_chr_fe_set_handlers(&r->in_chr, in_can_read, in_read, in_event,
                                 NULL, r, NULL, true);
    }
    r->participant = (ColoParticipant) {
        .arm = redirector_arm,
        .cut = redirector_arm,
        .load = redirector_load,
        .open = redirector_open,
        .drained = redirector_drained,
    };
    r->vmstate = qemu_add_vm_change_state_handler(redirector_vm_state, r);
    colo_participant_register(&r->participant);
}

static void redirector_cleanup(NetFilterState *nf)
{
    FilterRedirector *r = FILTER_REDIRECTOR(nf);

    if (r->vmstate) {
        colo_participant_unregister(&r->participant);
        qemu_del_vm_change_state_handler(r->vmstate);
        r->vmstate = NULL;
        colo_held_output_release_sender(&r->kept);
    }
    if (r->out) {
        colo_stream_writer_end_burst(r->out);
    }
    netdev_wake(r);
    colo_stream_end_cleanup(&r->in_end);
    colo_stream_end_cleanup(&r->out_end);
    qemu_chr_fe_deinit(&r->in_chr, false);
    qemu_chr_fe_deinit(&r->out_chr, false);
    g_clear_pointer(&r->in, colo_stream_reader_free);
    g_clear_pointer(&r->out, colo_stream_writer_free);
    colo_held_output_cleanup(&r->kept);
}

/* The secondary's guest would be seen, and see what it must not */
static bool redirector_can_be_deleted(UserCreatable *uc)
{
    return FILTER_REDIRECTOR(uc)->state != REDIRECTOR_SECONDARY ||
           !colo_secondary_follows();
}

static char *redirector_get_indev(Object *obj, Error **errp)
{
    return g_strdup(FILTER_REDIRECTOR(obj)->indev);
}

static void set_name(FilterRedirector *r, char **field, const char *name,
                     const char *value, Error **errp)
{
    if (r->vmstate) {
        error_setg(errp, "'%s' cannot be changed any more", name);
        return;
    }
    g_free(*field);
    *field = g_strdup(value);
}

static void redirector_set_indev(Object *obj, const char *value, Error **errp)
{
    FilterRedirector *r = FILTER_REDIRECTOR(obj);

    set_name(r, &r->indev, "indev", value, errp);
}

static char *redirector_get_outdev(Object *obj, Error **errp)
{
    return g_strdup(FILTER_REDIRECTOR(obj)->outdev);
}

static void redirector_set_outdev(Object *obj, const char *value, Error **errp)
{
    FilterRedirector *r = FILTER_REDIRECTOR(obj);

    set_name(r, &r->outdev, "outdev", value, errp);
}

static bool redirector_get_vnet_hdr(Object *obj, Error **errp)
{
    return FILTER_REDIRECTOR(obj)->vnet_hdr;
}

static void redirector_set_vnet_hdr(Object *obj, bool value, Error **errp)
{
    FilterRedirector *r = FILTER_REDIRECTOR(obj);

    if (r->vmstate) {
        error_setg(errp, "'vnet_hdr_support' cannot be changed any more");
        return;
    }
    r->vnet_hdr = value;
}

static void redirector_init(Object *obj)
{
    FilterRedirector *r = FILTER_REDIRECTOR(obj);
    const struct {
        const char *name;
        uint64_t *value;
    } counters[] = {
        { "out-packets", &r->out_packets },
        { "in-packets", &r->in_packets },
        { "dropped-packets-full", &r->dropped_full },
        { "dropped-packets-closed", &r->dropped_closed },
        { "dropped-packets-stale", &r->dropped_stale },
        { "dropped-packets-network", &r->dropped_network },
        { "dropped-packets-bad", &r->dropped_bad },
        { "kept-bytes", &r->kept.bytes },
    };

    for (int i = 0; i < ARRAY_SIZE(counters); i++) {
        object_property_add_uint64_ptr(obj, counters[i].name,
                                       counters[i].value, OBJ_PROP_FLAG_READ);
    }
}

static void redirector_finalize(Object *obj)
{
    FilterRedirector *r = FILTER_REDIRECTOR(obj);

    g_free(r->indev);
    g_free(r->outdev);
}

static void redirector_class_init(ObjectClass *oc, void *data)
{
    NetFilterClass *nfc = NETFILTER_CLASS(oc);

    USER_CREATABLE_CLASS(oc)->can_be_deleted = redirector_can_be_deleted;
    nfc->setup = redirector_setup;
    nfc->cleanup = redirector_cleanup;
    nfc->status_changed = redirector_status_changed;
    nfc->release_sender = redirector_release_sender;
    nfc->receive_iov = redirector_receive_iov;
    object_class_property_add_str(oc, "indev", redirector_get_indev,
                                  redirector_set_indev);
    object_class_property_add_str(oc, "outdev", redirector_get_outdev,
                                  redirector_set_outdev);
    object_class_property_add_bool(oc, "vnet_hdr_support",
                                   redirector_get_vnet_hdr,
                                   redirector_set_vnet_hdr);
}

static const TypeInfo redirector_info = {
    .name = TYPE_FILTER_REDIRECTOR,
    .parent = TYPE_NETFILTER,
    .class_init = redirector_class_init,
    .instance_init = redirector_init,
    .instance_finalize = redirector_finalize,
    .instance_size = sizeof(FilterRedirector),
};

static void redirector_register_types(void)
{
    type_register_static(&redirector_info);
}

type_init(redirector_register_types);
