/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: packets that a netfilter holds until they may go on, and the NIC that
 * has to wait meanwhile.
 *
 * Both sides, BQL.
 */

#ifndef QEMU_NET_COLO_HELD_OUTPUT_H
#define QEMU_NET_COLO_HELD_OUTPUT_H

#include "net/filter.h"
#include "net/net.h"
#include "packet.h"

/* In the queue of whom the packets are for; more wait here */
#define COLO_NET_QUEUE_PACKETS  256

typedef struct ColoHeldOutput ColoHeldOutput;

typedef struct ColoHeldOutputOps {
    /*
     * Pass @p, the first one, on.  It stays the queue's, and is freed when this
     * returns true.  False: not now.
     */
    bool (*pass)(NetFilterState *nf, ColoPacket *p);
    /*
     * There is room where there was none, or a lease (lease.h).  Called in the
     * main loop.
     */
    void (*room)(void *nf);
    /* What passes leaves this host: only with a lease */
    bool leaves;
} ColoHeldOutputOps;

struct ColoHeldOutput {
    /* Set once */
    NetFilterState *nf;
    const ColoHeldOutputOps *ops;
    QEMUBH *room_bh;
    QLIST_ENTRY(ColoHeldOutput) next;

    QSIMPLEQ_HEAD(, ColoPacket) queue;
    uint64_t packets;
    uint64_t bytes;             /* of the packets alone */
    bool draining;              /* guards against recursion */
    NetClientState *behind;     /* whose packets have to be taken first */

    NetClientState *waiting;    /* NIC that was told to wait */
    NetPacketSent *waiting_cb;
    bool releasing;             /* nobody is told to wait */
};

/* In the filter's set-up; until then all is 0 */
void colo_held_output_init(ColoHeldOutput *o, NetFilterState *nf,
                           const ColoHeldOutputOps *ops);
/* What is held is freed, who waits goes on.  Idempotent. */
void colo_held_output_cleanup(ColoHeldOutput *o);

/* Take @p over, as the last one */
void colo_held_output_add(ColoHeldOutput *o, ColoPacket *p);
/* Free the first one */
void colo_held_output_pop(ColoHeldOutput *o);

/* NULL if nothing is held */
static inline ColoPacket *colo_held_output_first(const ColoHeldOutput *o)
{
    return o->nf ? QSIMPLEQ_FIRST(&o->queue) : NULL;
}

/* Of the heap */
static inline uint64_t colo_held_output_memory(const ColoHeldOutput *o)
{
    return o->bytes + o->packets * (sizeof(ColoPacket) + COLO_HEAP_OVERHEAD);
}

/* Pass on what may go.  False if that is under way already. */
bool colo_held_output_drain(ColoHeldOutput *o);

/* There is a lease again: see to it that what waits for it goes on */
void colo_held_output_go_on(void);

/* Is nothing more to be put into the queue of @to?  It may be NULL. */
bool colo_held_output_is_long(const NetClientState *to);

/*
 * Are there fewer than @limit packets in the queue of @to?  If not, ops->room()
 * is called when those of @sender there were taken, or purged.
 */
bool colo_held_output_has_room(ColoHeldOutput *o, NetClientState *to,
                               NetClientState *sender, uint32_t limit);

/*
 * colo_held_output_push_back: the NIC has to wait until there is room; false if
 * it cannot
 *
 * A NIC must not have a packet under way while its state is saved, so none
 * waits while the VM stands still.
 */
bool colo_held_output_push_back(ColoHeldOutput *o, NetClientState *sender,
                                NetPacketSent *sent_cb);
/* The NIC that was told to wait, if any, may send again */
void colo_held_output_wake(ColoHeldOutput *o);
/* The same, when the NIC is reset or leaves: its packet is safe here */
void colo_held_output_release_sender(ColoHeldOutput *o);

#endif
