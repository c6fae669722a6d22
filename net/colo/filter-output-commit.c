/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * filter-output-commit: hold what the guest sends until it is committed.
 *
 * Both sides, all of it under the BQL: the NIC's code (vCPUs, main loop) hands
 * packets in, the migration thread announces cuts and commits.
 *
 * Theory of operation
 *
 * While a COLO session holds the filter armed, each packet from the guest is
 * queued with the number of the epoch in which it was sent.  The commit of
 * cut n lets all packets of epochs before n go, in order; what came later
 * waits for its own commit.  The idea is Remus' output commit.
 *
 *   off        no session: packets pass
 *   armed      packets are queued
 *   draining   the session is over: the queue empties, packets that come
 *              meanwhile go behind it
 *   standing   on a secondary whose guest stands still: nothing passes.  What
 *              arrives is read and dropped, so that after a failover the
 *              guest does not get input that it has consumed before, on the
 *              primary.  This needs queue=all, the default.
 *
 * The queue is bounded.  Past the bound a NIC that can be told to wait (it
 * gave a sent callback; virtio-net does) gets 0 as answer: its packet is
 * queued, and it sends no other one until the callback.  That never happens
 * while the VM stands still or the NIC is reset, because it must not have a
 * packet under way then: it may send what its ring holds, past the bound.  A
 * NIC that cannot wait goes on filling the queue.  So there is a hard limit:
 * four times the bound, and room for some rings if the NIC can wait.  Past it
 * packets are dropped, and counted.
 *
 * A full queue asks for a checkpoint.  A NIC that cannot wait asks at half the
 * bound already: until the commit there is room for seven times as much again.
 *
 * Released packets are handed to the backend one at a time: the next one
 * follows when the last one was taken, so that nothing piles up in a
 * NetQueue, which is purged when the VM stops.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "migration/colo.h"
#include "held-output.h"
#include "net/colo.h"
#include "net/filter.h"
#include "net/net.h"
#include "net/queue.h"
#include "qom/object.h"
#include "qom/object_interfaces.h"
#include "system/runstate.h"
#include "trace.h"

#define TYPE_FILTER_OUTPUT_COMMIT "filter-output-commit"
OBJECT_DECLARE_SIMPLE_TYPE(OutputCommit, FILTER_OUTPUT_COMMIT)

#define DEFAULT_MAX_BYTES   (16 * MiB)
/* NICs that cannot wait may fill the queue this many times over */
#define HARD_LIMIT_FACTOR   4
/* More than those that can wait send at the stops until a commit, or a reset */
#define RINGS_BYTES         (4ULL * 256 * NET_BUFSIZE)

typedef enum OutputCommitState {
    OUTPUT_COMMIT_OFF,
    OUTPUT_COMMIT_ARMED,
    OUTPUT_COMMIT_DRAINING,
    OUTPUT_COMMIT_STANDING,
} OutputCommitState;

struct OutputCommit {
    NetFilterState parent_obj;

    /* Set once */
    uint64_t max_bytes;
    ColoParticipant participant;
    VMChangeStateEntry *vmstate;

    /* BQL */
    OutputCommitState state;
    uint64_t epoch;                     /* what the guest executes */
    uint64_t committed;                 /* epochs before this one may go */
    ColoHeldOutput out;
    bool backend_busy;                  /* it has the first one */

    /* BQL: counters */
    uint64_t held;
    uint64_t released;
    uint64_t dropped;
    uint64_t ignored;                   /* while standing */
    uint64_t max_queued_bytes;
};

static void output_commit_feed(OutputCommit *oc);

static OutputCommit *from_participant(ColoParticipant *p)
{
    return container_of(p, OutputCommit, participant);
}

static bool head_may_go(OutputCommit *oc)
{
    ColoPacket *p = colo_held_output_first(&oc->out);

    return p && (oc->state != OUTPUT_COMMIT_ARMED ||
                 p->epoch < oc->committed);
}

static void trace_wake(OutputCommit *oc)
{
    if (oc->out.waiting) {
        trace_filter_output_commit_wake(oc->epoch, oc->out.bytes);
    }
}

/* A NIC that was told to wait may send again */
static void wake_sender(OutputCommit *oc)
{
    trace_wake(oc);
    colo_held_output_wake(&oc->out);
}

static void output_commit_release_sender(NetFilterState *nf)
{
    OutputCommit *oc = FILTER_OUTPUT_COMMIT(nf);

    trace_wake(oc);
    colo_held_output_release_sender(&oc->out);
}

/* Does a packet from the guest go from here straight to the backend? */
static bool is_last_filter(NetFilterState *nf)
{
    return !QTAILQ_PREV(nf, next);
}

static OutputCommit *find_by_netdev(NetClientState *netdev)
{
    NetFilterState *nf;

    QTAILQ_FOREACH(nf, &netdev->filters, next) {
        if (object_dynamic_cast(OBJECT(nf), TYPE_FILTER_OUTPUT_COMMIT) &&
            FILTER_OUTPUT_COMMIT(nf)->backend_busy) {
            return FILTER_OUTPUT_COMMIT(nf);
        }
    }
    return NULL;
}

/* The backend took the packet that it had to queue, or purged it (@len 0) */
static void backend_sent(NetClientState *netdev, ssize_t len)
{
    OutputCommit *oc = find_by_netdev(netdev);

    if (!oc) {
        return;
    }
    oc->backend_busy = false;
    if (len) {
        colo_held_output_pop(&oc->out);
        oc->released++;
    }
    /* A purge comes with a stop of the VM: try again, nothing is lost */
    if (len || runstate_is_running()) {
        output_commit_feed(oc);
    }
}

/*
 * As if the backend's own: who sends by the queue is asked whether it can
 * receive, and of the NIC that is of no interest.
 */
static bool backend_takes(NetClientState *netdev, const struct iovec *iov,
                          int parts)
{
    size_t size = iov_size(iov, parts);
    g_autofree uint8_t *joined = NULL;

    if (parts > 1) {
        joined = g_malloc(size);
        iov_to_buf(iov, parts, 0, joined, size);
    }
    return qemu_net_queue_receive(netdev->incoming_queue,
                                  joined ?: iov->iov_base, size);
}

/*
 * False if the packet may not go, or the backend wants a pause.
 *
 * The NIC may be gone.  In the queue of the backend the packet is one of the
 * backend's own, since only that outlives it.
 */
static bool output_commit_pass(NetFilterState *nf, ColoPacket *p)
{
    OutputCommit *oc = FILTER_OUTPUT_COMMIT(nf);
    struct iovec iov[COLO_NET_PARTS];
    int parts;

    if (oc->backend_busy || !head_may_go(oc)) {
        return false;
    }
    parts = colo_net_fit_header(nf->netdev, p->vnet_hdr_len, p->data, p->size,
                                iov);
    if (!is_last_filter(nf)) {
        qemu_netfilter_pass_to_next(nf->netdev->peer, 0, iov, parts, nf);
        colo_net_flush_standing(nf->netdev);
    } else if (!backend_takes(nf->netdev, iov, parts)) {
        oc->backend_busy = true;
        qemu_net_queue_append_iov(nf->netdev->incoming_queue, nf->netdev, 0,
                                  iov, parts, backend_sent);
        return false;
    }
    oc->released++;
    return true;
}

static void output_commit_room(void *opaque);

static const ColoHeldOutputOps out_ops = {
    .pass = output_commit_pass,
    .room = output_commit_room,
    .leaves = true,
};

/* Let go what may go */
static void output_commit_feed(OutputCommit *oc)
{
    if (!colo_held_output_drain(&oc->out)) {
        return;
    }
    if (oc->state == OUTPUT_COMMIT_DRAINING &&
        !colo_held_output_first(&oc->out)) {
        oc->state = OUTPUT_COMMIT_OFF;
    }
    if (oc->out.bytes < oc->max_bytes) {
        wake_sender(oc);
    }
}

static void output_commit_room(void *opaque)
{
    output_commit_feed(opaque);
}

static void output_commit_arm(ColoParticipant *p, uint64_t epoch)
{
    OutputCommit *oc = from_participant(p);

    oc->epoch = epoch;
    oc->committed = epoch;
    oc->state = OUTPUT_COMMIT_ARMED;
    trace_filter_output_commit_arm(epoch);
}

static void output_commit_cut(ColoParticipant *p, uint64_t epoch)
{
    from_participant(p)->epoch = epoch;
}

static void output_commit_commit(ColoParticipant *p, uint64_t cut)
{
    OutputCommit *oc = from_participant(p);

    if (oc->state != OUTPUT_COMMIT_ARMED) {
        return;
    }
    oc->committed = cut;
    trace_filter_output_commit_commit(cut, oc->out.packets,
                                      oc->out.bytes);
    output_commit_feed(oc);
}

static void output_commit_open(ColoParticipant *p)
{
    OutputCommit *oc = from_participant(p);

    if (oc->state != OUTPUT_COMMIT_ARMED) {
        return;
    }
    oc->state = OUTPUT_COMMIT_DRAINING;
    trace_filter_output_commit_open(oc->epoch, oc->out.packets);
    output_commit_feed(oc);
}

static bool output_commit_drained(ColoParticipant *p)
{
    OutputCommit *oc = from_participant(p);

    return !oc->backend_busy && !head_may_go(oc);
}

static void output_commit_stand(ColoParticipant *p, bool standing)
{
    OutputCommit *oc = from_participant(p);

    oc->state = standing ? OUTPUT_COMMIT_STANDING : OUTPUT_COMMIT_OFF;
    if (standing) {
        /*
         * What came before waits for the guest to run.  Until it is gone the
         * backend reads nothing, and what follows is not here to be dropped.
         */
        qemu_purge_queued_packets(NETFILTER(oc)->netdev);
    }
}

/*
 * A NIC must not wait for us while its state is saved: complete its packet,
 * which is safe in the queue, before the VM stands still.
 */
static void output_commit_vm_state(void *opaque, bool running, RunState state)
{
    OutputCommit *oc = opaque;

    if (running) {
        output_commit_feed(oc);
    } else {
        wake_sender(oc);
    }
}

static uint64_t hard_limit(const OutputCommit *oc, bool can_wait)
{
    return oc->max_bytes * HARD_LIMIT_FACTOR + (can_wait ? RINGS_BYTES : 0);
}

static ssize_t output_commit_receive_iov(NetFilterState *nf,
                                         NetClientState *sender,
                                         unsigned flags,
                                         const struct iovec *iov, int iovcnt,
                                         NetPacketSent *sent_cb)
{
    OutputCommit *oc = FILTER_OUTPUT_COMMIT(nf);
    size_t size = iov_size(iov, iovcnt);
    ColoPacket *p;
    uint8_t *data;

    if (oc->state == OUTPUT_COMMIT_STANDING) {
        oc->ignored++;
        return size;
    }
    if (oc->state == OUTPUT_COMMIT_OFF || sender == nf->netdev) {
        return 0;
    }
    if (oc->out.bytes >= hard_limit(oc, sent_cb)) {
        oc->dropped++;
        warn_report_once("filter-output-commit: queue of '%s' is full and its "
                         "NIC does not wait, packets are dropped",
                         nf->netdev_id);
        return size;
    }

    data = g_malloc(size);
    iov_to_buf(iov, iovcnt, 0, data, size);
    /* Without a header it gets one when it leaves */
    p = colo_packet_wrap(data, size, flags & QEMU_NET_PACKET_FLAG_RAW ? 0
                                     : MIN(nf->netdev->vnet_hdr_len, size));
    p->epoch = oc->epoch;
    colo_held_output_add(&oc->out, p);
    oc->held++;
    oc->max_queued_bytes = MAX(oc->max_queued_bytes, oc->out.bytes);

    if (oc->state == OUTPUT_COMMIT_DRAINING) {
        output_commit_feed(oc);
    }
    if (oc->out.bytes < (sent_cb ? oc->max_bytes : oc->max_bytes / 2)) {
        return size;
    }
    colo_request_checkpoint_queue_full();
    if (!colo_held_output_push_back(&oc->out, sender, sent_cb)) {
        return size;
    }
    trace_filter_output_commit_full(oc->epoch, oc->out.bytes);
    return NET_FILTER_QUEUED;
}

static void output_commit_setup(NetFilterState *nf, Error **errp)
{
    OutputCommit *oc = FILTER_OUTPUT_COMMIT(nf);

    if (nf->direction == NET_FILTER_DIRECTION_TX) {
        error_setg(errp, "Parameter 'queue' is 'tx', what the guest receives: "
                   "filter-output-commit needs 'all' (the default) or 'rx', "
                   "what the guest sends");
        return;
    }
    if (!nf->on) {
        error_setg(errp, "filter-output-commit cannot be created with "
                   "status=off");
        return;
    }
    colo_held_output_init(&oc->out, nf, &out_ops);
    oc->vmstate = qemu_add_vm_change_state_handler(output_commit_vm_state, oc);
    colo_participant_register(&oc->participant);
}

static void output_commit_cleanup(NetFilterState *nf)
{
    OutputCommit *oc = FILTER_OUTPUT_COMMIT(nf);

    if (!oc->vmstate) {
        return;
    }
    colo_participant_unregister(&oc->participant);
    qemu_del_vm_change_state_handler(oc->vmstate);
    oc->vmstate = NULL;
    /*
     * can_be_deleted: no session, unless the netdev goes with it, or QEMU.  Then
     * nothing may pass any more, nor may the NIC wait for ever.
     */
    oc->state = OUTPUT_COMMIT_STANDING;
    trace_wake(oc);
    colo_held_output_cleanup(&oc->out);
}

static void output_commit_status_changed(NetFilterState *nf, Error **errp)
{
    OutputCommit *oc = FILTER_OUTPUT_COMMIT(nf);

    if (!nf->on && oc->state != OUTPUT_COMMIT_OFF) {
        nf->on = true;
        error_setg(errp, "filter-output-commit holds the output of a protected "
                   "guest and cannot be switched off now");
    }
}

static bool output_commit_can_be_deleted(UserCreatable *uc)
{
    return FILTER_OUTPUT_COMMIT(uc)->state == OUTPUT_COMMIT_OFF;
}

static void output_commit_get_max_bytes(Object *obj, Visitor *v,
                                        const char *name, void *opaque,
                                        Error **errp)
{
    visit_type_size(v, name, &FILTER_OUTPUT_COMMIT(obj)->max_bytes, errp);
}

static void output_commit_set_max_bytes(Object *obj, Visitor *v,
                                        const char *name, void *opaque,
                                        Error **errp)
{
    uint64_t value;

    if (!visit_type_size(v, name, &value, errp)) {
        return;
    }
    if (value < NET_BUFSIZE || value > UINT32_MAX) {
        error_setg(errp, "Parameter 'max-queue-bytes' is %" PRIu64 ", it has "
                   "to be between %d and %" PRIu32, value, NET_BUFSIZE,
                   UINT32_MAX);
        return;
    }
    FILTER_OUTPUT_COMMIT(obj)->max_bytes = value;
}

static void output_commit_init(Object *obj)
{
    OutputCommit *oc = FILTER_OUTPUT_COMMIT(obj);

    oc->max_bytes = DEFAULT_MAX_BYTES;
    oc->participant = (ColoParticipant) {
        .arm = output_commit_arm,
        .cut = output_commit_cut,
        .commit = output_commit_commit,
        .open = output_commit_open,
        .stand = output_commit_stand,
        .drained = output_commit_drained,
    };
    object_property_add_uint64_ptr(obj, "held-packets", &oc->held,
                                   OBJ_PROP_FLAG_READ);
    object_property_add_uint64_ptr(obj, "released-packets", &oc->released,
                                   OBJ_PROP_FLAG_READ);
    object_property_add_uint64_ptr(obj, "dropped-packets", &oc->dropped,
                                   OBJ_PROP_FLAG_READ);
    object_property_add_uint64_ptr(obj, "ignored-packets", &oc->ignored,
                                   OBJ_PROP_FLAG_READ);
    object_property_add_uint64_ptr(obj, "queued-packets", &oc->out.packets,
                                   OBJ_PROP_FLAG_READ);
    object_property_add_uint64_ptr(obj, "queued-bytes", &oc->out.bytes,
                                   OBJ_PROP_FLAG_READ);
    object_property_add_uint64_ptr(obj, "queued-bytes-max",
                                   &oc->max_queued_bytes, OBJ_PROP_FLAG_READ);
}

static void output_commit_class_init(ObjectClass *oc, void *data)
{
    NetFilterClass *nfc = NETFILTER_CLASS(oc);
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    nfc->setup = output_commit_setup;
    nfc->cleanup = output_commit_cleanup;
    nfc->release_sender = output_commit_release_sender;
    nfc->status_changed = output_commit_status_changed;
    nfc->receive_iov = output_commit_receive_iov;
    ucc->can_be_deleted = output_commit_can_be_deleted;
    object_class_property_add(oc, "max-queue-bytes", "size",
                              output_commit_get_max_bytes,
                              output_commit_set_max_bytes, NULL, NULL);
}

static const TypeInfo output_commit_info = {
    .name = TYPE_FILTER_OUTPUT_COMMIT,
    .parent = TYPE_NETFILTER,
    .class_init = output_commit_class_init,
    .instance_init = output_commit_init,
    .instance_size = sizeof(OutputCommit),
};

static void output_commit_register_types(void)
{
    type_register_static(&output_commit_info);
}

type_init(output_commit_register_types);
