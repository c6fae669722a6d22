/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * filter-rewriter: TCP of a secondary guest, as if the primary had sent it.
 *
 * Secondary, all of it under the BQL.
 *
 * What is done to the packets, and when a connection is forgotten, is said in
 * net/colo/rewrite.h.  Here are the two ends of it: packets come from the
 * netfilter chain and go on in it, and a checkpoint that was loaded sets all
 * offsets back.  Packets that are of no interest pass without a copy.
 *
 * When the guest begins a connection, its SYN may have to wait here until the
 * primary has told the one of its own, which decides on the port.  It waits no
 * longer than MAX_WAIT_MS, and not beyond the next load, which makes it void, or
 * the end of the session.
 *
 * After a failover the filter goes on, because clients know connections that
 * it began to rewrite by the primary's numbers.  What takes the place of
 * "switch yourself off" is that offsets run out with their connections.
 * Deleting it, or switching it off, breaks those that are left: open-flows
 * says how many are known.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "hw/vmstate-if.h"
#include "migration/colo.h"
#include "migration/vmstate.h"
#include "net/colo-begin.h"
#include "filter-rewriter.h"
#include "rewrite.h"
#include "net/filter.h"
#include "net/net.h"
#include "net/queue.h"
#include "qom/object.h"

#define TYPE_FILTER_REWRITER "filter-rewriter"
OBJECT_DECLARE_SIMPLE_TYPE(FilterRewriter, FILTER_REWRITER)

#define DEFAULT_FLOWS   65536
#define MAX_FLOWS       (1 << 24)
/* Clients that keep a connection alive do so every two hours by default */
#define IDLE_MS         (24 * 3600 * 1000)
#define TICK_MS         1000
/* SYNs of the guest that wait for the primary's */
#define MAX_WAITING     1024
#define MAX_WAIT_MS     1000

typedef struct WaitingSyn WaitingSyn;
typedef QTAILQ_HEAD(WaitingList, WaitingSyn) WaitingList;

/* Those to the same server from the same address; there is at least one */
typedef struct WaitingServer {
    ColoFlowKey key;            /* without a source port */
    WaitingList syns;           /* oldest first */
} WaitingServer;

struct WaitingSyn {
    QTAILQ_ENTRY(WaitingSyn) next;
    QTAILQ_ENTRY(WaitingSyn) of_server;
    WaitingServer *server;
    int64_t since_ms;
    unsigned flags;
    ColoPacket *p;
};

struct FilterRewriter {
    NetFilterState parent_obj;

    /* Set once */
    bool vnet_hdr_support;
    ColoParticipant participant;
    ColoRewrite *rewrite;

    /* BQL */
    QEMUTimer *tick;
    WaitingList waiting;        /* oldest first */
    GHashTable *servers;        /* WaitingServer by key, owned */
    unsigned n_waiting;
    uint8_t *buffer;            /* for a packet; NULL while in use */
    uint64_t dropped_foreign;
    uint32_t state_len;         /* what a checkpoint carries */
    uint8_t *state;
};

/*
 * Connections that are rewritten go with the checkpoint: the clients of a
 * primary that was a secondary once know other numbers than its guest.  If
 * there are none nothing is sent, so that only a pair needs the filter on both
 * sides.
 */
static int rewriter_pre_save(void *opaque)
{
    FilterRewriter *fr = opaque;
    GByteArray *out = colo_rewrite_export(fr->rewrite);

    g_free(fr->state);
    fr->state_len = out->len;
    fr->state = g_byte_array_free(out, false);
    return 0;
}

static bool rewriter_needed(void *opaque)
{
    FilterRewriter *fr = opaque;
    g_autoptr(GByteArray) out = colo_rewrite_export(fr->rewrite);

    return out->len > 0;
}

/* What an earlier load left, if it was not followed by a start */
static int rewriter_pre_load(void *opaque)
{
    FilterRewriter *fr = opaque;

    g_clear_pointer(&fr->state, g_free);
    fr->state_len = 0;
    return 0;
}

static bool rewriter_state_is_bounded(void *opaque, int version_id)
{
    FilterRewriter *fr = opaque;

    return fr->state_len <= COLO_REWRITE_EXPORT_MAX(MAX_FLOWS);
}

static const VMStateDescription vmstate_rewriter = {
    .name = "filter-rewriter",
    .version_id = 3,            /* handshakes */
    .minimum_version_id = 3,
    .pre_save = rewriter_pre_save,
    .pre_load = rewriter_pre_load,
    .needed = rewriter_needed,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(state_len, FilterRewriter),
        VMSTATE_VALIDATE("state_len is bounded", rewriter_state_is_bounded),
        VMSTATE_VBUFFER_ALLOC_UINT32(state, FilterRewriter, 1, NULL,
                                     state_len),
        VMSTATE_END_OF_LIST()
    },
};

static char *rewriter_vmstate_id(VMStateIf *obj)
{
    return g_strdup(NETFILTER(obj)->netdev_id);
}

static int64_t now_ms(void)
{
    return qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
}

static void rewriter_start_tick(FilterRewriter *fr)
{
    if ((colo_rewrite_needs_tick(fr->rewrite) || fr->n_waiting) &&
        !timer_pending(fr->tick)) {
        timer_mod(fr->tick, now_ms() + TICK_MS);
    }
}

/* SYNs that wait */

static WaitingServer *waiting_for(FilterRewriter *fr, const ColoPacket *p)
{
    ColoFlowKey key = p->key;

    key.sport = 0;
    return g_hash_table_lookup(fr->servers, &key);
}

static void waiting_take(FilterRewriter *fr, WaitingSyn *w)
{
    QTAILQ_REMOVE(&w->server->syns, w, of_server);
    if (QTAILQ_EMPTY(&w->server->syns)) {
        g_hash_table_remove(fr->servers, &w->server->key);
    }
    QTAILQ_REMOVE(&fr->waiting, w, next);
    fr->n_waiting--;
}

static void waiting_free(WaitingSyn *w)
{
    colo_packet_free(w->p);
    g_free(w);
}

static void waiting_drop_all(FilterRewriter *fr)
{
    WaitingSyn *w;

    while ((w = QTAILQ_FIRST(&fr->waiting))) {
        waiting_take(fr, w);
        waiting_free(w);
    }
}

/* It goes on, told of or not */
static void waiting_pass(FilterRewriter *fr, WaitingSyn *w)
{
    NetFilterState *nf = NETFILTER(fr);
    struct iovec iov;

    waiting_take(fr, w);
    if (colo_rewrite_must_drop(fr->rewrite, w->p)) {
        fr->dropped_foreign++;
    } else {
        colo_rewrite_from_guest(fr->rewrite, w->p, now_ms());
        iov = (struct iovec) { w->p->data, w->p->size };
        if (nf->netdev->peer) {
            qemu_netfilter_pass_to_next(nf->netdev->peer, w->flags, &iov, 1,
                                        nf);
        }
    }
    waiting_free(w);
}

/* Those that have no reason to wait any more, or came before @before_ms */
static void waiting_look(FilterRewriter *fr, int64_t before_ms)
{
    WaitingSyn *w, *tmp;

    QTAILQ_FOREACH_SAFE(w, &fr->waiting, next, tmp) {
        if (w->since_ms < before_ms ||
            !colo_rewrite_awaits(fr->rewrite, w->p)) {
            waiting_pass(fr, w);
        }
    }
}

/*
 * P has told the SYN @p: one of those to the same server need not wait any
 * more, nor need what is the same SYN once more.  However many wait, this is quick.
 */
static void waiting_told(FilterRewriter *fr, const ColoPacket *p)
{
    WaitingServer *server;

    while ((server = waiting_for(fr, p))) {
        WaitingSyn *w = QTAILQ_FIRST(&server->syns);

        if (colo_rewrite_awaits(fr->rewrite, w->p)) {
            break;
        }
        waiting_pass(fr, w);
    }
}

static void waiting_add(FilterRewriter *fr, ColoPacket *p, unsigned flags)
{
    WaitingSyn *w = g_new(WaitingSyn, 1);

    if (fr->n_waiting == MAX_WAITING) {
        waiting_pass(fr, QTAILQ_FIRST(&fr->waiting));
    }
    *w = (WaitingSyn) { .since_ms = now_ms(), .flags = flags, .p = p };
    w->server = waiting_for(fr, p);
    if (!w->server) {
        w->server = g_new0(WaitingServer, 1);
        w->server->key = p->key;
        w->server->key.sport = 0;
        QTAILQ_INIT(&w->server->syns);
        g_hash_table_insert(fr->servers, &w->server->key, w->server);
    }
    QTAILQ_INSERT_TAIL(&w->server->syns, w, of_server);
    QTAILQ_INSERT_TAIL(&fr->waiting, w, next);
    fr->n_waiting++;
}

void colo_begin_told(NetClientState *netdev, const uint8_t *data,
                     uint32_t size, uint32_t vnet_hdr_len)
{
    NetFilterState *nf;

    QTAILQ_FOREACH(nf, &netdev->filters, next) {
        FilterRewriter *fr = (FilterRewriter *)
            object_dynamic_cast(OBJECT(nf), TYPE_FILTER_REWRITER);

        if (!fr) {
            continue;
        }
        if (data) {
            ColoPacket *p = colo_packet_new(g_memdup2(data, size), size,
                                            vnet_hdr_len);

            colo_rewrite_opened(fr->rewrite, p, now_ms());
            waiting_told(fr, p);
            colo_packet_free(p);
            rewriter_start_tick(fr);
        } else {
            colo_rewrite_set_told(fr->rewrite, true);
        }
    }
}

static void rewriter_untold(FilterRewriter *fr)
{
    colo_rewrite_set_told(fr->rewrite, false);
    waiting_look(fr, INT64_MAX);
}

void colo_begin_untold(NetClientState *netdev)
{
    NetFilterState *nf;

    QTAILQ_FOREACH(nf, &netdev->filters, next) {
        FilterRewriter *fr = (FilterRewriter *)
            object_dynamic_cast(OBJECT(nf), TYPE_FILTER_REWRITER);

        if (fr) {
            rewriter_untold(fr);
        }
    }
}

/*
 * Do what would have been done with the packet that @data replaces.  In
 * contrast to qemu_netfilter_pass_to_next(), the sender is told to wait when
 * the receiver is not ready: nothing is dropped for a full queue.
 */
static ssize_t rewriter_pass_on(NetFilterState *nf, NetClientState *sender,
                                unsigned flags, const struct iovec *iov,
                                NetPacketSent *sent_cb)
{
    bool to_guest = sender == nf->netdev;
    NetFilterDirection direction = to_guest ? NET_FILTER_DIRECTION_TX
                                            : NET_FILTER_DIRECTION_RX;
    NetFilterState *next = nf;
    ssize_t ret;

    while ((next = to_guest ? QTAILQ_NEXT(next, next)
                            : QTAILQ_PREV(next, next))) {
        ret = qemu_netfilter_receive(next, direction, sender, flags, iov, 1,
                                     sent_cb);
        if (ret) {
            return ret;
        }
    }
    if (!sender->peer) {
        return iov->iov_len;
    }
    ret = qemu_net_queue_send_iov(sender->peer->incoming_queue, sender, flags,
                                  iov, 1, sent_cb);
    if (ret == 0 && sent_cb) {
        return NET_FILTER_QUEUED;
    }
    return iov->iov_len;
}

/*
 * Room for a packet.  One buffer is kept; while a packet is passed on, another
 * one may come here.
 */
static uint8_t *buffer_take(FilterRewriter *fr, size_t size)
{
    if (fr->buffer && size <= NET_BUFSIZE) {
        return g_steal_pointer(&fr->buffer);
    }
    return g_malloc(MAX(size, NET_BUFSIZE));
}

static void buffer_give(FilterRewriter *fr, uint8_t *buffer)
{
    g_free(fr->buffer);
    fr->buffer = buffer;
}

/* The packet is rewritten where it is, and passed on if it has changed */
static ssize_t rewriter_map(FilterRewriter *fr, NetClientState *sender,
                            unsigned flags, ColoPacket *p,
                            NetPacketSent *sent_cb)
{
    bool from_guest = sender != NETFILTER(fr)->netdev;
    struct iovec iov;
    int64_t now = now_ms();

    if (from_guest && colo_rewrite_awaits(fr->rewrite, p)) {
        waiting_add(fr, colo_packet_copy(p), flags);
        return p->size;
    }
    if (from_guest ? colo_rewrite_must_drop(fr->rewrite, p)
                   : colo_rewrite_must_drop_input(fr->rewrite, p)) {
        fr->dropped_foreign++;
        return p->size;
    }
    if (from_guest ? !colo_rewrite_from_guest(fr->rewrite, p, now)
                   : !colo_rewrite_to_guest(fr->rewrite, p, now)) {
        return 0;
    }
    iov = (struct iovec) { .iov_base = p->data, .iov_len = p->size };
    return rewriter_pass_on(NETFILTER(fr), sender, flags, &iov, sent_cb);
}

static ssize_t rewriter_receive_iov(NetFilterState *nf,
                                    NetClientState *sender,
                                    unsigned flags,
                                    const struct iovec *iov, int iovcnt,
                                    NetPacketSent *sent_cb)
{
    FilterRewriter *fr = FILTER_REWRITER(nf);
    bool from_guest = sender != nf->netdev;
    uint32_t vnet_hdr_len = fr->vnet_hdr_support ? nf->netdev->vnet_hdr_len
                                                 : 0;
    uint8_t head[COLO_REWRITE_HEAD];
    size_t size, head_len;
    ssize_t ret;
    ColoPacket p = { .vnet_hdr_len = vnet_hdr_len };

    size = iov_size(iov, iovcnt);
    head_len = iov_to_buf(iov, iovcnt, 0, head, sizeof(head));
    if (!colo_rewrite_wants(fr->rewrite, head, head_len, size, vnet_hdr_len,
                            from_guest)) {
        return 0;
    }

    p.size = size;
    p.data = buffer_take(fr, size);
    iov_to_buf(iov, iovcnt, 0, p.data, size);
    colo_packet_parse(&p);
    ret = rewriter_map(fr, sender, flags, &p, sent_cb);
    rewriter_start_tick(fr);
    buffer_give(fr, p.data);
    return ret;
}

ColoPacket *colo_rewriter_undo(NetFilterState *above, const uint8_t *data,
                               size_t size)
{
    ColoPacket *undone = NULL;
    NetFilterState *nf = above;

    while ((nf = QTAILQ_NEXT(nf, next))) {
        FilterRewriter *fr = (FilterRewriter *)
            object_dynamic_cast(OBJECT(nf), TYPE_FILTER_REWRITER);
        ColoPacket *p;

        if (!fr || !nf->on) {
            continue;
        }
        p = colo_packet_new(g_memdup2(data, size), size,
                            fr->vnet_hdr_support ? nf->netdev->vnet_hdr_len
                                                 : 0);
        if (colo_rewrite_undo_to_guest(fr->rewrite, p)) {
            /* There is one on a netdev, or each has its own connections */
            colo_packet_free(undone);
            undone = p;
        } else {
            colo_packet_free(p);
        }
    }
    return undone;
}

/* Time, checkpoints, the end of the session */

static void rewriter_tick(void *opaque)
{
    FilterRewriter *fr = opaque;

    waiting_look(fr, now_ms() - MAX_WAIT_MS);
    colo_rewrite_tick(fr->rewrite, now_ms());
    rewriter_start_tick(fr);
}

static void rewriter_load(ColoParticipant *p, uint64_t epoch)
{
    FilterRewriter *fr = container_of(p, FilterRewriter, participant);

    waiting_drop_all(fr);
    colo_rewrite_load(fr->rewrite);
    if (fr->state &&
        !colo_rewrite_import(fr->rewrite, fr->state, fr->state_len,
                             now_ms())) {
        warn_report("filter-rewriter: the checkpoint has connections in a form "
                    "that is not known here");
    }
    g_clear_pointer(&fr->state, g_free);
    fr->state_len = 0;
    rewriter_start_tick(fr);
}

static void rewriter_open(ColoParticipant *p)
{
    FilterRewriter *fr = container_of(p, FilterRewriter, participant);

    rewriter_untold(fr);
    colo_rewrite_set_live(fr->rewrite);
}

static void rewriter_setup(NetFilterState *nf, Error **errp)
{
    FilterRewriter *fr = FILTER_REWRITER(nf);

    if (nf->direction != NET_FILTER_DIRECTION_ALL) {
        error_setg(errp, "Parameter 'queue' is '%s': filter-rewriter needs "
                   "'all' (the default), it learns from one direction what "
                   "to change in the other",
                   NetFilterDirection_str(nf->direction));
        return;
    }
    fr->tick = timer_new_ms(QEMU_CLOCK_REALTIME, rewriter_tick, fr);
    fr->servers = g_hash_table_new_full(colo_flow_key_hash,
                                        colo_flow_key_equal, NULL, g_free);
    fr->participant.load = rewriter_load;
    fr->participant.open = rewriter_open;
    colo_participant_register(&fr->participant);
    vmstate_register_any(VMSTATE_IF(nf), &vmstate_rewriter, fr);
}

static void rewriter_cleanup(NetFilterState *nf)
{
    FilterRewriter *fr = FILTER_REWRITER(nf);

    if (fr->tick) {
        vmstate_unregister(VMSTATE_IF(nf), &vmstate_rewriter, fr);
        colo_participant_unregister(&fr->participant);
        timer_free(fr->tick);
        waiting_drop_all(fr);
        g_clear_pointer(&fr->servers, g_hash_table_unref);
        g_clear_pointer(&fr->state, g_free);
        g_clear_pointer(&fr->buffer, g_free);
        fr->tick = NULL;
        colo_problems_changed();
    }
}

static void rewriter_status_changed(NetFilterState *nf, Error **errp)
{
    colo_problems_changed();
}

static bool rewriter_get_vnet_hdr(Object *obj, Error **errp)
{
    return FILTER_REWRITER(obj)->vnet_hdr_support;
}

static void rewriter_set_vnet_hdr(Object *obj, bool value, Error **errp)
{
    if (NETFILTER(obj)->netdev) {
        error_setg(errp, "Parameter 'vnet_hdr_support' cannot be changed "
                   "while the filter is in use");
        return;
    }
    FILTER_REWRITER(obj)->vnet_hdr_support = value;
}

static void rewriter_get_max_flows(Object *obj, Visitor *v, const char *name,
                                   void *opaque, Error **errp)
{
    uint32_t value = colo_rewrite_max_flows(FILTER_REWRITER(obj)->rewrite);

    visit_type_uint32(v, name, &value, errp);
}

static void rewriter_set_max_flows(Object *obj, Visitor *v, const char *name,
                                   void *opaque, Error **errp)
{
    uint32_t value;

    if (!visit_type_uint32(v, name, &value, errp)) {
        return;
    }
    if (NETFILTER(obj)->netdev) {
        error_setg(errp, "Parameter '%s' cannot be changed while the filter is "
                   "in use", name);
        return;
    }
    if (value < 1 || value > MAX_FLOWS) {
        error_setg(errp, "Parameter '%s' is %" PRIu32 ", it has to be between "
                   "1 and %d", name, value, MAX_FLOWS);
        return;
    }
    colo_rewrite_set_max_flows(FILTER_REWRITER(obj)->rewrite, value);
}

static void rewriter_add_counters(Object *obj, const ColoRewriteStats *s)
{
    const struct {
        const char *name;
        const uint64_t *value;
    } counters[] = {
        { "flows", &s->flows },
        { "open-flows", &s->flows_open },
        { "rewritten-packets", &s->rewritten_packets },
        { "rewritten-seqs", &s->rewritten_seqs },
        { "rewritten-acks", &s->rewritten_acks },
        { "rewritten-tsvals", &s->rewritten_tsvals },
        { "rewritten-tsecrs", &s->rewritten_tsecrs },
        { "rewritten-ports", &s->rewritten_ports },
        { "rewritten-quotes", &s->rewritten_quotes },
        { "learned-offsets", &s->learned },
        { "told-connects", &s->opened },
        { "unused-connects", &s->opened_unused },
        { "paired-connects", &s->paired },
        { "moved-connects", &s->moved },
        { "loads", &s->loads },
        { "evicted-flows", &s->evicted },
        { "expired-flows", &s->expired },
    };

    for (size_t i = 0; i < ARRAY_SIZE(counters); i++) {
        object_property_add_uint64_ptr(obj, counters[i].name,
                                       counters[i].value, OBJ_PROP_FLAG_READ);
    }
}

static void rewriter_init(Object *obj)
{
    FilterRewriter *fr = FILTER_REWRITER(obj);

    QTAILQ_INIT(&fr->waiting);
    fr->rewrite = colo_rewrite_new(DEFAULT_FLOWS, IDLE_MS);
    rewriter_add_counters(obj, colo_rewrite_stats(fr->rewrite));
    object_property_add_uint64_ptr(obj, "dropped-packets-foreign",
                                   &fr->dropped_foreign, OBJ_PROP_FLAG_READ);
}

/* Runs before the parent's, which calls cleanup: that does not need it */
static void rewriter_finalize(Object *obj)
{
    colo_rewrite_free(FILTER_REWRITER(obj)->rewrite);
}

static void rewriter_class_init(ObjectClass *oc, void *data)
{
    NetFilterClass *nfc = NETFILTER_CLASS(oc);

    VMSTATE_IF_CLASS(oc)->get_id = rewriter_vmstate_id;
    nfc->setup = rewriter_setup;
    nfc->cleanup = rewriter_cleanup;
    nfc->status_changed = rewriter_status_changed;
    nfc->receive_iov = rewriter_receive_iov;
    object_class_property_add(oc, "max_connections", "uint32",
                              rewriter_get_max_flows, rewriter_set_max_flows,
                              NULL, NULL);
    object_class_property_add_bool(oc, "vnet_hdr_support",
                                   rewriter_get_vnet_hdr,
                                   rewriter_set_vnet_hdr);
}

static const TypeInfo rewriter_info = {
    .name = TYPE_FILTER_REWRITER,
    .parent = TYPE_NETFILTER,
    .class_init = rewriter_class_init,
    .instance_init = rewriter_init,
    .instance_finalize = rewriter_finalize,
    .instance_size = sizeof(FilterRewriter),
    .interfaces = (InterfaceInfo[]) {
        { TYPE_VMSTATE_IF },
        { }
    },
};

static void rewriter_register_types(void)
{
    type_register_static(&rewriter_info);
}

type_init(rewriter_register_types);
