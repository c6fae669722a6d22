/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: packets that a netfilter holds until they may go on, and the NIC that
 * has to wait meanwhile.
 *
 * Both sides.  All under the BQL: packets come from the main loop or a vCPU,
 * what lets them go from the main loop or the migration thread.
 *
 * A queue, in order.  Who owns it says whether the first packet may go, and
 * passes it on; that may make others come, or wake somebody who asks for the
 * same, so it is not done within itself.
 *
 * A NetQueue past its length drops silently, and is purged when the VM stops,
 * so few packets are put there at a time.  It says when it has taken them, to
 * the client that sent them; that may come when the filter is no more.
 *
 * Push-back: a NIC that gave a sent callback is told to wait, and the callback
 * is called when there is room.
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "net/queue.h"
#include "system/runstate.h"
#include "held-output.h"
#include "migration/colo/lease.h"

/* BQL */
static QLIST_HEAD(, ColoHeldOutput) outputs = QLIST_HEAD_INITIALIZER(outputs);

void colo_held_output_init(ColoHeldOutput *o, NetFilterState *nf,
                           const ColoHeldOutputOps *ops)
{
    QSIMPLEQ_INIT(&o->queue);
    o->nf = nf;
    o->ops = ops;
    if (ops->room) {
        o->room_bh = qemu_bh_new(ops->room, nf);
    }
    QLIST_INSERT_HEAD(&outputs, o, next);
}

void colo_held_output_cleanup(ColoHeldOutput *o)
{
    if (!o->nf) {
        return;
    }
    colo_held_output_release_sender(o);
    QLIST_REMOVE(o, next);
    g_clear_pointer(&o->room_bh, qemu_bh_delete);
    while (colo_held_output_first(o)) {
        colo_held_output_pop(o);
    }
    o->nf = NULL;
}

/* The queue */

void colo_held_output_add(ColoHeldOutput *o, ColoPacket *p)
{
    QSIMPLEQ_INSERT_TAIL(&o->queue, p, next);
    o->packets++;
    o->bytes += p->size;
}

void colo_held_output_pop(ColoHeldOutput *o)
{
    ColoPacket *p = QSIMPLEQ_FIRST(&o->queue);

    QSIMPLEQ_REMOVE_HEAD(&o->queue, next);
    o->packets--;
    o->bytes -= p->size;
    colo_packet_free(p);
}

bool colo_held_output_drain(ColoHeldOutput *o)
{
    ColoPacket *p;

    if (o->draining) {
        return false;
    }
    o->draining = true;
    while ((p = colo_held_output_first(o)) &&
           (!o->ops->leaves || colo_lease_holds()) &&
           o->ops->pass(o->nf, p)) {
        colo_held_output_pop(o);
    }
    o->draining = false;
    return true;
}

void colo_held_output_go_on(void)
{
    ColoHeldOutput *o;

    QLIST_FOREACH(o, &outputs, next) {
        if (o->ops->leaves) {
            qemu_bh_schedule(o->room_bh);
        }
    }
}

bool colo_held_output_is_long(const NetClientState *to)
{
    return to && qemu_net_queue_len(to->incoming_queue) >= COLO_NET_QUEUE_PACKETS;
}

/* What @sender had in a queue was taken or purged.  It may be gone. */
static void held_output_taken(NetClientState *sender, ssize_t len)
{
    ColoHeldOutput *o;

    QLIST_FOREACH(o, &outputs, next) {
        if (o->behind == sender) {
            o->behind = NULL;
            qemu_bh_schedule(o->room_bh);
        }
    }
}

bool colo_held_output_has_room(ColoHeldOutput *o, NetClientState *to,
                               NetClientState *sender, uint32_t limit)
{
    if (!to || qemu_net_queue_len(to->incoming_queue) < limit) {
        return true;
    }
    if (!o->behind && sender &&
        qemu_net_queue_notify(to->incoming_queue, sender, held_output_taken)) {
        o->behind = sender;
    }
    return !o->behind;
}

/* Push-back */

bool colo_held_output_push_back(ColoHeldOutput *o, NetClientState *sender,
                                NetPacketSent *sent_cb)
{
    if (!sent_cb || sender == o->nf->netdev || o->waiting || o->releasing ||
        !runstate_is_running()) {
        return false;
    }
    o->waiting = sender;
    o->waiting_cb = sent_cb;
    return true;
}

void colo_held_output_wake(ColoHeldOutput *o)
{
    NetClientState *nic = o->waiting;
    NetPacketSent *cb = o->waiting_cb;

    o->waiting = NULL;
    o->waiting_cb = NULL;
    /* Not if it was unplugged */
    if (nic && o->nf->netdev->peer == nic) {
        cb(nic, 1);
    }
}

void colo_held_output_release_sender(ColoHeldOutput *o)
{
    o->releasing = true;
    colo_held_output_wake(o);
    o->releasing = false;
}
