/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: the rules by which output of the primary may leave.
 *
 * Primary.  Pure: no I/O, no clocks, no threads of its own; all calls for one
 * ColoMatch in one thread.  colo-compare owns one and feeds it.
 */

#ifndef QEMU_NET_COLO_MATCH_H
#define QEMU_NET_COLO_MATCH_H

#include "packet.h"

typedef struct ColoMatch ColoMatch;

typedef enum ColoMatchNeed {
    COLO_MATCH_NEED_MISMATCH,   /* the guests said different things */
    COLO_MATCH_NEED_TIMEOUT,    /* a packet waits for longer than allowed */
    COLO_MATCH_NEED_ROOM,       /* a queue is full */
    COLO_MATCH_NEED__MAX,
} ColoMatchNeed;

/* The ops may not call the engine back */
typedef struct ColoMatchOps {
    /* @p may leave; it is the callee's from now on */
    void (*release)(void *opaque, ColoPacket *p);
    /*
     * Only a checkpoint lets go what waits: one whose cut is later than @epoch.
     * Called once for each need and epoch, unless it is withdrawn meanwhile.
     */
    void (*need)(void *opaque, ColoMatchNeed why, uint64_t epoch);
    /*
     * The cause is gone before @epoch was over.  The end of an epoch withdraws
     * all needs of it, without a call.  May be NULL.
     */
    void (*withdraw)(void *opaque, ColoMatchNeed why, uint64_t epoch);
    /*
     * The primary's guest begins a connection with the SYN @p, said for the
     * first time.  May be NULL.
     */
    void (*begin)(void *opaque, const ColoPacket *p);
} ColoMatchOps;

typedef struct ColoMatchConfig {
    /*
     * Longest wait before NEED_TIMEOUT, while the secondary can speak.  Ten
     * times that for what nobody waits for: group membership (IGMP, MLD), and
     * what the secondary alone has said (NEED_MISMATCH).
     */
    uint64_t timeout_ms;
    uint32_t max_packets;       /* per flow and side, before NEED_ROOM */
    uint64_t max_bytes;         /* of memory, in all flows, per side */
    uint32_t max_flows;
    uint64_t idle_ms;           /* forget a flow that was silent for so long */
} ColoMatchConfig;

/* Why a packet may leave */
typedef enum ColoRelease {
    /* The secondary said it, too; parts and bare acks are packets as well */
    COLO_RELEASE_EQUAL,
    COLO_RELEASE_COMMIT,            /* what it follows from is committed */
    COLO_RELEASE_OPEN,              /* no session holds it */
    COLO_RELEASE_SECONDARY_ACK,     /* sent on: the secondary lacks a segment */
    COLO_RELEASE__MAX,
} ColoRelease;

/* Counters only grow; the rest says how it is now */
typedef struct ColoMatchStats {
    uint64_t primary_packets;
    uint64_t secondary_packets;
    uint64_t released[COLO_RELEASE__MAX];   /* packets */
    uint64_t mismatches;
    uint64_t timeouts;
    uint64_t bytes_compared;
    uint64_t acks_clamped;          /* left with less than the primary said */
    uint64_t windows_clamped;       /* the same of the window */
    uint64_t secondary_discarded;   /* of an epoch that is over */
    uint64_t secondary_dropped;     /* bounds of the queue */
    uint64_t unplaced_packets;      /* of flows that had no place */
    uint64_t flows;                 /* now */
    uint64_t queued_packets;        /* now, of the primary */
    uint64_t queued_bytes;          /* now, of the primary: memory */
    uint64_t queued_bytes_max;
    uint64_t secondary_queued_bytes;    /* now */
} ColoMatchStats;

ColoMatch *colo_match_new(const ColoMatchConfig *config,
                          const ColoMatchOps *ops, void *opaque);

/* Packets that are held are freed, not released */
void colo_match_free(ColoMatch *m);

/*
 * The two streams, in their order.  Packets are taken over; arrived_ms has to be
 * set.  A cut record of the primary arms the rules: before
 * the first one and after colo_match_open() all packets are released at once.
 *
 * An epoch of the primary's that is not later than the one before is ignored (a
 * stream that reconnects says again where it is).  Each record of the
 * secondary's makes void what it said before.  False, and nothing has changed:
 * it cannot be in that epoch, which is not later than the one before on this
 * stream, or has not been given to it yet.
 */
void colo_match_primary(ColoMatch *m, ColoPacket *p);
void colo_match_primary_cut(ColoMatch *m, uint64_t epoch, int64_t now_ms);
void colo_match_secondary(ColoMatch *m, ColoPacket *p);
bool colo_match_secondary_cut(ColoMatch *m, uint64_t epoch, int64_t now_ms);

/*
 * All that was read from a stream at once is fed between these two.  If the
 * secondary says a long segment of the primary's in pieces, what it has said of
 * it leaves at the end, instead of each piece by itself.  They do not nest.
 */
void colo_match_begin_read(ColoMatch *m);
void colo_match_end_read(ColoMatch *m);

/*
 * The secondary's stream was closed: what it said is void.  Until it is opened
 * again, or says something, nobody is waited for: NEED_TIMEOUT comes at once.
 */
void colo_match_secondary_lost(ColoMatch *m);
void colo_match_secondary_opened(ColoMatch *m);

/*
 * colo_match_commit: the secondary has cut @cut.  Epochs before it may leave,
 * also what of them is still on its way here.  May come before the cut's
 * record.  If the secondary's record does not come NEED_TIMEOUT counts from here.
 */
void colo_match_commit(ColoMatch *m, uint64_t cut, int64_t now_ms);

/*
 * colo_match_open: the session is over.  Everything leaves.
 *
 * Packets that follow leave at once, until the first cut record of the primary
 * after colo_match_arm().
 */
void colo_match_open(ColoMatch *m);

/*
 * A session begins: cut records from now on count (late ones of an earlier
 * session did not).  If that one was not opened, it is now.
 */
void colo_match_arm(ColoMatch *m);

/* Call it regularly: finds what waits for too long and what can be forgotten */
void colo_match_tick(ColoMatch *m, int64_t now_ms);

/* When will the oldest packet have waited for too long?  INT64_MAX: never */
int64_t colo_match_deadline_ms(const ColoMatch *m);

/* No room for more of the primary's packets: read no more of them now */
bool colo_match_full(const ColoMatch *m);

const ColoMatchStats *colo_match_stats(const ColoMatch *m);

#endif
