/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: the flows that the compare knows, and what it knows of each.
 *
 * Primary, one thread.  A table of bounded size: a flow is found by its key,
 * and is at any time on one of three lists:
 *
 *   busy    holds packets of either side, an acknowledgement is pending, or a
 *           client's window is shut; such a flow is never forgotten
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
    bool is_patient;                /* primary's: nobody waits for it */
    ColoSeq cut_ack;                /* primary's TCP: see ColoAckControl */
    uint32_t from;                  /* secondary's TCP: the part that is */
    uint32_t to;                    /* not said by another one, FIN included */
    QTAILQ_ENTRY(ColoHeld) in_queue;
    QTAILQ_ENTRY(ColoHeld) by_age;
};

typedef QTAILQ_HEAD(ColoHeldList, ColoHeld) ColoHeldList;

/*
 * ColoTcp: a TCP connection, output of the guest only
 *
 *   released_begin   released_end  compared_end
 *   ------+---------------+-----------+------------------> sequence numbers
 *         | was released  | waits,    | not compared yet
 *                         | S said it
 *
 * The secondary's numbers are mapped to the primary's before they come here,
 * all but that of its SYN.
 */
#define COLO_TCP_RSTS   8

typedef struct ColoTcp {
    ColoSeq released_end;
    uint32_t released_begin;        /* valid if released_end is */
    uint32_t compared_end;          /* valid if released_end is */
    ColoSeq released_isn;           /* of the SYN that was released */
    bool close_released;            /* FIN or RST */

    /* What the primary said, released or not */
    ColoSeq primary_isn;
    unsigned primary_syns_held;

    /* What the secondary said in its epoch; see ColoFlow.generation */
    ColoSeq secondary_isn;          /* of the SYN that matched */
    ColoHeld *secondary_syn;        /* SYN that did not match yet */
    uint8_t secondary_rsts;         /* none of the primary's matched yet */
    uint32_t secondary_rst_at[COLO_TCP_RSTS];   /* oldest first */
    uint32_t secondary_mss;         /* longest payload seen, of any epoch */
} ColoTcp;

/* Has the client been told what the primary's guest acknowledges? */
typedef enum ColoAckState {
    /*
     * As far as it will be.  Left when a segment has a later ack than may
     * leave.
     */
    COLO_ACK_TOLD,
    /*
     * pending_ack waits.  Left when the secondary has acknowledged as much,
     * when the epoch is committed, or when a connection begins.
     */
    COLO_ACK_PENDING,
} ColoAckState;

/* Has the client been told of the primary's window? */
typedef enum ColoWindowState {
    /* Of all.  Left when a segment leaves with less than it had. */
    COLO_WINDOW_TOLD,
    /*
     * It got less, pending_window has the rest.  Left when the secondary offers
     * as much or its words become void, or with the next segment that leaves.
     */
    COLO_WINDOW_NARROWED,
    /*
     * The same, and it got none: the client is silent until it hears of some,
     * which counts as waiting
     */
    COLO_WINDOW_SHUT,
} ColoWindowState;

/*
 * ColoAckControl: what the client of a TCP connection may hear of what the
 * guests have received; see match-ack.c, which alone changes it
 */
typedef struct ColoAckControl {
    ColoAckState ack_state;
    ColoPacket *pending_ack;        /* model for a segment without data */
    ColoSeq pending_cut_ack;        /* cut_ack of its epoch */
    int64_t pending_since_ms;

    ColoWindowState window_state;
    ColoPacket *pending_window;     /* the segment that left with less, bare */
    int64_t shut_since_ms;

    /* Released */
    ColoSeq released_ack;           /* the latest */
    uint16_t released_window;       /* the last one, as on the wire */

    /* What the primary said, released or not */
    ColoSeq primary_ack;            /* the latest */
    uint64_t primary_epoch;         /* in which it spoke last */
    ColoSeq cut_ack;                /* the latest before primary_epoch */

    /* What the secondary said in its epoch */
    ColoSeq secondary_ack;          /* the latest */
    bool secondary_window_known;
    uint16_t secondary_window;      /* that came with it */
} ColoAckControl;

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
    QTAILQ_ENTRY(ColoFlow) next_doubted;    /* valid if doubted */
    QTAILQ_ENTRY(ColoFlow) next_pending_ack;    /* valid if COLO_ACK_PENDING */
    QTAILQ_ENTRY(ColoFlow) next_window_shut;    /* valid if COLO_WINDOW_SHUT */
    QTAILQ_ENTRY(ColoFlow) next_front;  /* valid if front_due */

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
    bool agreed;                    /* datagrams: in one of them, ever */
    /* The two said different datagrams, which may just be swapped */
    bool doubted;
    int64_t doubted_since_ms;       /* valid if doubted */

    /* TCP: the front of a segment may leave when all was read */
    bool front_due;

    ColoTcp tcp;
    ColoAckControl ack;
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
