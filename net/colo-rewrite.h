/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: TCP of a secondary guest, seen as if the primary had sent it.
 *
 * Secondary.  Pure: no I/O, no clocks, no threads of its own; all calls for one
 * ColoRewrite in one thread.  filter-rewriter owns one and feeds it.
 *
 * Theory of operation
 *
 * The secondary guest (S) runs beside the primary one (P) and gets the same
 * input, but picks other initial sequence numbers (ISN).  Clients know only
 * those of P.  So each connection that S opened by itself has an offset, ISN of
 * S minus ISN of P: it is taken off the seq of what S sends, and added to the
 * ack and to the SACK edges of what S gets.  ack and SACK in what S sends
 * refer to the numbers of the client: they are right as they are.
 *
 * S's ISN is in its SYN or SYN-ACK.  P's is in the client's answer: its first
 * ACK acknowledges P's ISN + 1.  Which segments may teach that:
 *   - guest sent SYN:      a SYN-ACK
 *   - guest sent SYN-ACK:  a segment with ACK, without SYN and RST, whose seq
 *                          is in the window that the SYN-ACK offered
 * A reset never does.  Limits: after data in a SYN (TCP Fast Open) it is open
 * what the answer acknowledges, and nothing is learned; from a server that
 * sends data before the handshake is over, a wrong offset may be learned.
 * Then the guests say different things, which leads to a checkpoint, and that
 * to the right offset:
 *
 * When S loads a checkpoint it has the connections of P, with P's numbers: all
 * offsets are zero from then on.  A connection that is not known here has
 * the offset zero as well.  But if P was a secondary once, its own guest's
 * numbers are not what clients know either, and its rewriter goes on: then its
 * offsets come with the checkpoint, and are those of S from the load on.
 *
 * A failover changes nothing: the connections that live on are rewritten until
 * they end.
 *
 * Timestamps (RFC 7323).  A guest begins each connection at a random value of
 * its own, the clock of S lags behind P's by the time a load takes, and clients
 * echo what P said.  So there is an offset for them as well, learned and used
 * like that of sequence numbers.  It is right to the few milliseconds between
 * the two SYNs, and two rules take care of these:
 *   - To the guest: a TSecr later than any TSval that S has sent on this
 *     connection becomes the latest that it sent.  The answer to a SYN must not
 *     be earlier than that SYN either: a guest that connects resets the
 *     connection in both cases.
 *   - From the guest: a TSval must not step back behind what the client has
 *     seen from P, or the client drops the segment (PAWS).  The highest TSecr
 *     that came from the client is the floor.  It survives loads and failover,
 *     so connections with timestamps are remembered even at offset zero.
 *
 * Life of a connection
 *
 *   HANDSHAKE  S sent SYN or SYN-ACK; gone after 180 s of silence, or at a load
 *   OPEN       the offset is known; gone after idle_ms of silence
 *   CLOSING    both FINs are acknowledged, or there was a reset: goes on being
 *              rewritten, gone after 60 s of silence.  Whether the receiver
 *              takes a reset is its own decision: if the guest talks on, the
 *              connection is OPEN (or in HANDSHAKE) again.
 *
 * From each of them a SYN or SYN-ACK of the guest with another ISN leads to
 * HANDSHAKE, with nothing known.  A full table forgets the one that was
 * silent for longest: among the CLOSING ones, if there are none among those in
 * HANDSHAKE, else among all.  So a flood of SYNs does not reach the others.
 */

#ifndef QEMU_NET_COLO_REWRITE_H
#define QEMU_NET_COLO_REWRITE_H

#include "net/colo-packet.h"

#define COLO_REWRITE_HANDSHAKE_MS   (180 * 1000)
#define COLO_REWRITE_CLOSING_MS     (60 * 1000)

/* colo_rewrite_wants() is exact if it sees so much of a packet */
#define COLO_REWRITE_HEAD           128

typedef struct ColoRewrite ColoRewrite;

/* Counters only grow, except flows and flows_open */
typedef struct ColoRewriteStats {
    uint64_t rewritten_packets; /* at least one field was changed */
    uint64_t rewritten_seqs;
    uint64_t rewritten_acks;    /* those with SACK edges count once */
    uint64_t rewritten_tsvals;
    uint64_t rewritten_tsecrs;
    uint64_t learned;           /* offsets, zero ones included */
    uint64_t loads;
    uint64_t evicted;           /* forgotten because the table was full */
    uint64_t expired;           /* forgotten after silence */
    uint64_t flows;             /* now */
    uint64_t flows_open;        /* now, of these in state OPEN */
} ColoRewriteStats;

/*
 * colo_rewrite_new:
 *
 * @max_flows: bound of the table, at least 1
 * @idle_ms: forget a connection that was silent for so long, in any state
 */
ColoRewrite *colo_rewrite_new(uint32_t max_flows, uint64_t idle_ms);
void colo_rewrite_free(ColoRewrite *r);

/*
 * colo_rewrite_wants: is a packet worth to be copied and parsed?
 *
 * @head: its first bytes, vnet header included
 * @len: how many; COLO_REWRITE_HEAD or all of a shorter packet
 * @from_guest: its direction
 *
 * False if the function for that direction would neither change the packet nor
 * learn from it.  Cheap, and changes nothing.
 */
bool colo_rewrite_wants(const ColoRewrite *r, const uint8_t *head, size_t len,
                        uint32_t vnet_hdr_len, bool from_guest);

/*
 * colo_rewrite_from_guest: @p is what S sends
 * colo_rewrite_to_guest: @p is what S is about to get
 *
 * @now_ms: any clock that does not go back
 *
 * Change @p in place, if necessary.  Return whether it was changed.  What is
 * not TCP is left alone.
 */
bool colo_rewrite_from_guest(ColoRewrite *r, ColoPacket *p, int64_t now_ms);
bool colo_rewrite_to_guest(ColoRewrite *r, ColoPacket *p, int64_t now_ms);

/* A checkpoint was loaded: S has the TCP state of P */
void colo_rewrite_load(ColoRewrite *r);

/*
 * colo_rewrite_export: the connections that are rewritten, to be sent along with
 * a checkpoint; empty if there are none
 * colo_rewrite_import: take them over from the primary, after
 * colo_rewrite_load().  Returns false, with none taken, if this is no export.
 */
#define COLO_REWRITE_EXPORT_LEN     72      /* bytes a connection */
#define COLO_REWRITE_EXPORT_MAX(flows) ((flows) * COLO_REWRITE_EXPORT_LEN)

GByteArray *colo_rewrite_export(const ColoRewrite *r);
bool colo_rewrite_import(ColoRewrite *r, const uint8_t *buf, size_t len,
                         int64_t now_ms);

/* Forget what was silent for too long; call it about once a second */
void colo_rewrite_tick(ColoRewrite *r, int64_t now_ms);

/* Belongs to @r and stays at its place until colo_rewrite_free() */
const ColoRewriteStats *colo_rewrite_stats(const ColoRewrite *r);

#endif
