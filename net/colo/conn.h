/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: the flows that the compare knows, and what it knows of each.
 *
 * Primary, one thread.  A table of bounded size: a flow is found by its key,
 * and is at any time on one of three lists:
 *
 *   busy    holds packets of either side, owes an acknowledgement, or keeps a
 *           client's window shut; such a flow is never forgotten
 *   idle    holds nothing; longest idle first.  Forgotten after a while, or
 *           when a new flow needs its place
 *   ended   a connection that said FIN or RST.  It lingers for what its peers
 *           may still repeat; the first ones to make place for others
 */

#ifndef QEMU_NET_COLO_CONN_H
#define QEMU_NET_COLO_CONN_H

#include "packet.h"

/* A sequence number, if there is one */
typedef struct ColoSeq {
    uint32_t at;
    bool known;
} ColoSeq;

/* The later of the two stays */
static inline void colo_seq_raise(ColoSeq *s, uint32_t at)
{
    if (!s->known || colo_seq_lt(s->at, at)) {
        s->at = at;
        s->known = true;
    }
}

static inline bool colo_seq_is(const ColoSeq *s, uint32_t at)
{
    return s->known && s->at == at;
}

/*
 * ColoHeld: a packet that waits
 *
 * One of the primary waits for a reason to leave, one of the secondary for the
 * primary to say the same.
 */
typedef struct ColoHeld ColoHeld;
struct ColoHeld {
    ColoPacket *p;
    GPtrArray *fragments;           /* what leaves instead of p; or NULL */
    uint64_t bytes;
    int64_t since_ms;
    ColoSeq base;                   /* primary's TCP: see ColoTcp.base */
    uint32_t from;                  /* secondary's TCP: the part that is */
    uint32_t to;                    /* not said by another one, FIN included */
    QTAILQ_ENTRY(ColoHeld) in_queue;
    QTAILQ_ENTRY(ColoHeld) by_age;
};

typedef QTAILQ_HEAD(ColoHeldList, ColoHeld) ColoHeldList;

/*
 * ColoTcp: a TCP connection, output of the guest only
 *
 *        low             mark        cmp
 *   ------+---------------+-----------+------------------> sequence numbers
 *         | was released  | waits,    | not compared yet
 *                         | S said it
 *
 * The secondary's numbers are mapped to the primary's before they come here,
 * all but that of its SYN.
 */
typedef struct ColoTcp {
    /* Released */
    ColoSeq mark;
    uint32_t low;                   /* valid if mark is */
    uint32_t cmp;                   /* valid if mark is */
    ColoSeq isn;                    /* of the SYN that was released */
    ColoSeq acked;                  /* latest ack that was released */
    uint16_t window;                /* released last, as on the wire */
    bool ended;                     /* FIN or RST was released */

    /* What the primary said, released or not */
    ColoSeq said_isn;
    ColoSeq said_ack;               /* latest ack */
    uint64_t said_epoch;            /* in which it spoke last */
    ColoSeq base;                   /* latest ack before said_epoch */
    unsigned syns;                  /* SYNs that wait in the queue */

    /* The latest ack that could not leave, as a model for a bare one */
    ColoPacket *owed;
    ColoSeq owed_base;
    int64_t owed_since_ms;

    /* The latest segment that left with less window than it had, bare */
    ColoPacket *narrowed;
    /* It left without any, so the client is silent until it hears of some */
    bool shut;
    int64_t shut_since_ms;          /* valid if shut */

    /* What the secondary said in its epoch; see ColoFlow.generation */
    ColoSeq s_ack;
    bool s_window_known;
    uint16_t s_window;              /* that came with s_ack */
    ColoSeq s_isn;                  /* of the SYN that matched */
    ColoHeld *s_syn;                /* SYN that did not match yet */
    uint32_t s_rsts;
    uint32_t s_mss;                 /* longest payload seen, of any epoch */
} ColoTcp;

typedef enum ColoFlowState {
    COLO_FLOW_BUSY,
    COLO_FLOW_IDLE,
    COLO_FLOW_ENDED,
    COLO_FLOW__MAX,
} ColoFlowState;

typedef struct ColoFlow ColoFlow;
struct ColoFlow {
    ColoFlowKey key;
    ColoFlowState state;
    int64_t last_ms;                /* when it was touched */
    QTAILQ_ENTRY(ColoFlow) next;    /* in the list of its state */
    QTAILQ_ENTRY(ColoFlow) next_owed;   /* valid if tcp.owed */
    QTAILQ_ENTRY(ColoFlow) next_doubted;    /* valid if doubted */
    QTAILQ_ENTRY(ColoFlow) next_shut;   /* valid if tcp.shut */

    ColoHeldList primary;           /* in order of arrival */
    uint32_t primary_count;
    ColoHeldList secondary;         /* TCP: by sequence number, no overlap */
    uint32_t secondary_count;

    /*
     * Which life of the secondary's stream its words and @diverged are of;
     * others are void
     */
    uint64_t generation;
    bool diverged;                  /* only the commit helps */
    /* The two said different datagrams, which may just be swapped */
    bool doubted;
    int64_t doubted_since_ms;       /* valid if doubted */

    ColoTcp tcp;
};

typedef QTAILQ_HEAD(ColoFlowList, ColoFlow) ColoFlowList;

typedef struct ColoFlowTable {
    GHashTable *flows;
    ColoFlowList lists[COLO_FLOW__MAX];
    uint32_t max_flows;
} ColoFlowTable;

void colo_flow_table_init(ColoFlowTable *t, uint32_t max_flows);

/* The flows have to hold nothing any more, in both functions */
void colo_flow_table_destroy(ColoFlowTable *t);
void colo_flow_table_clear(ColoFlowTable *t);

uint32_t colo_flow_table_size(const ColoFlowTable *t);

ColoFlow *colo_flow_find(ColoFlowTable *t, const ColoFlowKey *key);

/*
 * colo_flow_add: a new flow, idle, for a key that is not there
 *
 * May forget another one that holds nothing.  NULL if there is none.
 */
ColoFlow *colo_flow_add(ColoFlowTable *t, const ColoFlowKey *key,
                        int64_t now_ms);

/* Something happened in @f, which is in @state now */
void colo_flow_touch(ColoFlowTable *t, ColoFlow *f, ColoFlowState state,
                     int64_t now_ms);

/* Forget what was silent for long enough */
void colo_flow_expire(ColoFlowTable *t, int64_t now_ms, uint64_t idle_ms,
                      uint64_t linger_ms);

#endif
