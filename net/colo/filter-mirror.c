/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * filter-mirror: copies what passes to a character device.
 *
 * Primary, under the BQL: packets come from the main loop or a vCPU, cuts from
 * the migration thread.
 *
 * Of the primary's input (queue=tx) the copy goes to the secondary's
 * filter-redirector.  At each cut the stream gets a record, so that the
 * secondary's guest gets each packet in the epoch in which the primary's has
 * consumed it.  What still waits in the NIC at a cut, mirrored, not consumed,
 * is mirrored once more behind the record, as it was before a filter-rewriter
 * changed it.
 *
 * The SYNs with which the primary's guest begins connections are told in the
 * same stream, if a filter is there to see them (net/colo-begin.h).
 *
 * The guest never waits for the secondary: a packet for which the stream has no
 * room is not mirrored, and counted.  The secondary's guest then lacks it, like
 * a packet that the network lost, until the next checkpoint.
 */

#include "qemu/osdep.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "migration/colo.h"
#include "net/colo.h"
#include "net/colo-begin.h"
#include "filter-rewriter.h"
#include "stream.h"
#include "stream-end.h"
#include "net/filter.h"
#include "net/net.h"
#include "net/queue.h"
#include "qom/object.h"
#include "trace.h"

#define TYPE_FILTER_MIRROR "filter-mirror"
OBJECT_DECLARE_SIMPLE_TYPE(FilterMirror, FILTER_MIRROR)

#define QUEUE_BYTES (16 * MiB)
/* A SYN with its options is shorter, with the header of a NIC before it */
#define SYN_BYTES   256
/* SYNs that were told of late; a guest says each of them several times */
#define TOLD        64

typedef struct Told {
    ColoFlowKey key;
    uint32_t seq;
} Told;

struct FilterMirror {
    NetFilterState parent_obj;

    /* Set once */
    char *outdev;
    bool vnet_hdr;
    CharBackend chr;
    ColoParticipant participant;

    /* BQL */
    ColoStreamWriter *out;
    ColoStreamEnd out_end;
    bool tells;                 /* and has said so in this stream */
    Told told[TOLD];            /* a ring */
    unsigned told_count;
    uint64_t mirrored;
    uint64_t mirrored_again;
    uint64_t dropped_full;
    uint64_t dropped_closed;
    uint64_t dropped_bad;
};

static bool mirror_packet(FilterMirror *m, unsigned flags,
                          const struct iovec *iov, int iovcnt)
{
    switch (colo_stream_writer_netfilter(m->out, NETFILTER(m)->netdev, flags,
                                         iov, iovcnt)) {
    case COLO_STREAM_OK:
        return true;
    case COLO_STREAM_FULL:
        m->dropped_full++;
        colo_request_checkpoint_mismatch();
        return false;
    case COLO_STREAM_CLOSED:
        m->dropped_closed++;
        return false;
    case COLO_STREAM_BAD:
        m->dropped_bad++;
        return false;
    }
    g_assert_not_reached();
}

static ssize_t mirror_receive_iov(NetFilterState *nf, NetClientState *sender,
                                  unsigned flags, const struct iovec *iov,
                                  int iovcnt, NetPacketSent *sent_cb)
{
    FilterMirror *m = FILTER_MIRROR(nf);

    if (iov_size(iov, iovcnt) && mirror_packet(m, flags, iov, iovcnt)) {
        m->mirrored++;
    }
    return 0;
}

static void mirror_again(NetClientState *sender, const uint8_t *data,
                         size_t size, void *opaque)
{
    FilterMirror *m = opaque;
    struct iovec iov = { (void *)data, size };
    ColoPacket *undone;

    if (sender != NETFILTER(m)->netdev) {
        return;
    }
    undone = colo_rewriter_undo(NETFILTER(m), data, size);
    if (undone) {
        iov.iov_base = undone->data;
    }
    if (mirror_packet(m, 0, &iov, 1)) {
        m->mirrored_again++;
    }
    colo_packet_free(undone);
}

/* Is what the guest sends on @netdev seen by who looks for SYNs? */
static bool sees_begin(NetClientState *netdev)
{
    NetFilterState *nf;

    QTAILQ_FOREACH(nf, &netdev->filters, next) {
        Object *obj = OBJECT(nf);
        g_autofree char *outdev = NULL;

        if (object_dynamic_cast(obj, "filter-compare")) {
            return true;
        }
        if (nf->direction != NET_FILTER_DIRECTION_TX &&
            object_dynamic_cast(obj, "filter-redirector")) {
            outdev = object_property_get_str(obj, "outdev", NULL);
        }
        if (outdev && *outdev) {
            return true;
        }
    }
    return false;
}

static void mirror_arm(ColoParticipant *p, uint64_t epoch)
{
    FilterMirror *m = container_of(p, FilterMirror, participant);
    NetFilterState *nf = NETFILTER(m);

    colo_stream_end_session(&m->out_end, true);
    colo_stream_introduce(m->out, COLO_STREAM_INPUT, nf->netdev);
    colo_stream_writer_cork(m->out);
    colo_stream_writer_cut(m->out, epoch);
    if (nf->on && nf->direction != NET_FILTER_DIRECTION_RX &&
        nf->netdev->peer) {
        qemu_net_queue_foreach(nf->netdev->peer->incoming_queue, mirror_again,
                               m);
    }
    if (!m->tells && colo_stream_writer_connected(m->out) &&
        nf->direction != NET_FILTER_DIRECTION_RX &&
        sees_begin(nf->netdev)) {
        m->tells = true;
        m->told_count = 0;
        colo_stream_writer_begin(m->out, NULL, 0, 0);
    }
    colo_stream_writer_uncork(m->out);
}

/* False if it has been said before */
static bool note_told(FilterMirror *m, const ColoPacket *p)
{
    for (int i = 0; i < MIN(m->told_count, TOLD); i++) {
        if (m->told[i].seq == p->seq &&
            colo_flow_key_equal(&m->told[i].key, &p->key)) {
            return false;
        }
    }
    m->told[m->told_count++ % TOLD] = (Told) { .key = p->key, .seq = p->seq };
    return true;
}

/* The next filter from @nf on that is a mirror and tells; or NULL */
static FilterMirror *next_that_tells(NetFilterState *nf)
{
    for (; nf; nf = QTAILQ_NEXT(nf, next)) {
        FilterMirror *m = (FilterMirror *)
            object_dynamic_cast(OBJECT(nf), TYPE_FILTER_MIRROR);

        if (m && m->tells) {
            return m;
        }
    }
    return NULL;
}

void colo_begin_tell(NetClientState *netdev, const ColoPacket *p)
{
    FilterMirror *m = next_that_tells(QTAILQ_FIRST(&netdev->filters));

    while (m) {
        if (note_told(m, p)) {
            colo_stream_writer_begin(m->out, p->data, p->size,
                                     p->vnet_hdr_len);
        }
        m = next_that_tells(QTAILQ_NEXT(NETFILTER(m), next));
    }
}

void colo_begin_look(NetClientState *netdev, unsigned flags,
                     const struct iovec *iov, int iovcnt)
{
    uint8_t buf[SYN_BYTES];
    ColoPacket p = {
        .data = buf,
        .size = iov_size(iov, iovcnt),
        .vnet_hdr_len = flags & QEMU_NET_PACKET_FLAG_RAW
                        ? 0 : netdev->vnet_hdr_len,
    };

    if (p.size > sizeof(buf) ||
        !next_that_tells(QTAILQ_FIRST(&netdev->filters))) {
        return;
    }
    iov_to_buf(iov, iovcnt, 0, buf, p.size);
    colo_packet_parse(&p);
    if (p.kind == COLO_PACKET_TCP &&
        (p.tcp_flags & (COLO_TCP_SYN | COLO_TCP_ACK | COLO_TCP_RST)) ==
        COLO_TCP_SYN) {
        colo_begin_tell(netdev, &p);
    }
}

static void mirror_open(ColoParticipant *p)
{
    FilterMirror *m = container_of(p, FilterMirror, participant);

    colo_stream_writer_forget_epoch(m->out);
    colo_stream_end_session(&m->out_end, false);
    m->tells = false;
}

static int mirror_can_read(void *opaque)
{
    return NET_BUFSIZE;
}

static void mirror_read(void *opaque, const uint8_t *buf, int size)
{
    FilterMirror *m = opaque;

    /* The secondary has nothing to say there, unless this is the wrong port */
    colo_stream_end_heard(&m->out_end, buf, size);
}

static void mirror_event(void *opaque, QEMUChrEvent event)
{
    FilterMirror *m = opaque;

    trace_colo_stream_event(m->outdev, event);
    if (event == CHR_EVENT_OPENED || event == CHR_EVENT_CLOSED) {
        m->tells = false;
    }
    if (event == CHR_EVENT_OPENED) {
        colo_stream_writer_opened(m->out);
    } else if (event == CHR_EVENT_CLOSED) {
        colo_stream_writer_closed(m->out);
    }
    colo_stream_end_event(&m->out_end, event);
}

static void mirror_setup(NetFilterState *nf, Error **errp)
{
    FilterMirror *m = FILTER_MIRROR(nf);

    if (!m->outdev) {
        error_setg(errp, "filter-mirror needs Parameter 'outdev'");
        return;
    }
    if (!colo_stream_take_chardev(&m->chr, "filter-mirror", "outdev",
                                  m->outdev, errp)) {
        return;
    }
    m->out = colo_stream_writer_new(&m->chr, NULL, m->vnet_hdr, QUEUE_BYTES,
                                    NULL, NULL);
    colo_stream_writer_gather(m->out, qemu_get_aio_context());
    colo_stream_end_init_writer(&m->out_end, &m->chr, qemu_get_aio_context(),
                                m->vnet_hdr, "the secondary's input");
    qemu_chr_fe_set_handlers(&m->chr, mirror_can_read, mirror_read,
                             mirror_event, NULL, m, NULL, true);
    m->participant = (ColoParticipant) {
        .arm = mirror_arm,
        .cut = mirror_arm,
        .open = mirror_open,
    };
    colo_participant_register(&m->participant);
}

static void mirror_cleanup(NetFilterState *nf)
{
    FilterMirror *m = FILTER_MIRROR(nf);

    if (m->out) {
        colo_participant_unregister(&m->participant);
        colo_stream_writer_end_burst(m->out);
    }
    colo_stream_end_cleanup(&m->out_end);
    qemu_chr_fe_deinit(&m->chr, false);
    g_clear_pointer(&m->out, colo_stream_writer_free);
}

static void mirror_status_changed(NetFilterState *nf, Error **errp)
{
    colo_problems_changed();
}

static char *mirror_get_outdev(Object *obj, Error **errp)
{
    return g_strdup(FILTER_MIRROR(obj)->outdev);
}

static void mirror_set_outdev(Object *obj, const char *value, Error **errp)
{
    FilterMirror *m = FILTER_MIRROR(obj);

    if (m->out) {
        error_setg(errp, "'outdev' cannot be changed any more");
        return;
    }
    g_free(m->outdev);
    m->outdev = g_strdup(value);
}

static bool mirror_get_vnet_hdr(Object *obj, Error **errp)
{
    return FILTER_MIRROR(obj)->vnet_hdr;
}

static void mirror_set_vnet_hdr(Object *obj, bool value, Error **errp)
{
    FilterMirror *m = FILTER_MIRROR(obj);

    if (m->out) {
        error_setg(errp, "'vnet_hdr_support' cannot be changed any more");
        return;
    }
    m->vnet_hdr = value;
}

static void mirror_init(Object *obj)
{
    FilterMirror *m = FILTER_MIRROR(obj);

    object_property_add_uint64_ptr(obj, "mirrored-packets", &m->mirrored,
                                   OBJ_PROP_FLAG_READ);
    object_property_add_uint64_ptr(obj, "mirrored-again-packets",
                                   &m->mirrored_again, OBJ_PROP_FLAG_READ);
    object_property_add_uint64_ptr(obj, "dropped-packets-full",
                                   &m->dropped_full, OBJ_PROP_FLAG_READ);
    object_property_add_uint64_ptr(obj, "dropped-packets-closed",
                                   &m->dropped_closed, OBJ_PROP_FLAG_READ);
    object_property_add_uint64_ptr(obj, "dropped-packets-bad",
                                   &m->dropped_bad, OBJ_PROP_FLAG_READ);
}

static void mirror_finalize(Object *obj)
{
    g_free(FILTER_MIRROR(obj)->outdev);
}

static void mirror_class_init(ObjectClass *oc, void *data)
{
    NetFilterClass *nfc = NETFILTER_CLASS(oc);

    nfc->setup = mirror_setup;
    nfc->cleanup = mirror_cleanup;
    nfc->status_changed = mirror_status_changed;
    nfc->receive_iov = mirror_receive_iov;
    object_class_property_add_str(oc, "outdev", mirror_get_outdev,
                                  mirror_set_outdev);
    object_class_property_add_bool(oc, "vnet_hdr_support",
                                   mirror_get_vnet_hdr, mirror_set_vnet_hdr);
}

static const TypeInfo mirror_info = {
    .name = TYPE_FILTER_MIRROR,
    .parent = TYPE_NETFILTER,
    .class_init = mirror_class_init,
    .instance_init = mirror_init,
    .instance_finalize = mirror_finalize,
    .instance_size = sizeof(FilterMirror),
};

static void mirror_register_types(void)
{
    type_register_static(&mirror_info);
}

type_init(mirror_register_types);
