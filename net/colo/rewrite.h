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
 * they end, and one in its handshake still learns from the client's answer what
 * P has said.  What S begins from then on is what clients see.
 *
 * Timestamps (RFC 7323).  A guest begins each connection at a random value of
 * its own, the clock of S lags behind P's by the time a load takes, and clients
 * echo what P said.  So there is an offset for them as well, learned and used
 * like that of sequence numbers.  It is right to the few milliseconds between
 * the two SYNs, and two rules take care of these:
 *   - To the guest: a TSecr later than any TSval that S has sent on this
 *     connection becomes the latest that it sent.  The answer to a SYN must not
 *     be earlier than that SYN either: a guest that connects resets the
 *     connection in both cases.  If it connects since before a load, its clock
 *     is not known: then the answer has the TSecr 0, which is none.
 *   - From the guest: a TSval must not step back behind what the client has
 *     seen from P, or the client drops the segment (PAWS).  The highest TSecr
 *     that came from the client is the floor.  It survives loads and failover,
 *     so connections with timestamps are remembered even at offset zero.
 *
 * Ports.  When the guests connect to the same server each kernel picks a source
 * port at random.  So a connection has an *inner* port, that of S's socket, and
 * an *outer* one, by which the network, the compare and P know it: the source
 * port is mapped from inner to outer in what S sends, the destination port from
 * outer to inner in what it gets.  P tells each SYN with which it begins a
 * connection (an *open*), in order with the input of S.  A SYN of S that begins
 * a connection gets its outer port for as long as that lasts:
 *   1. If there is an open with the same port, that is taken: no mapping.
 *   2. Else the oldest open to the same server from the same address is taken,
 *      and its port.
 *   3. Else it is best to wait for one, see colo_rewrite_awaits().  Without
 *      that it gets its own port, or a free one near it if that is another
 *      connection's outer port.
 * Which connect of S gets which of P does not matter: S goes on consistently,
 * and what it says is compared.  But no two connections have the same outer
 * port to the same server:
 *   - An open whose port another connection has is not taken.  But one in
 *     CLOSING gives way, and one that S has from P: P would not use the port
 *     again if it was not over.  What its socket still says is as below.
 *   - What S sends from a port that is not an inner one, but the outer one of a
 *     connection of another inner port, must not leave: it would be taken for
 *     that one's.  So must not a SYN that finds no free port.
 *   - What comes for a port that is not an outer one, but the inner one of a
 *     connection of another outer port, must not reach S: that socket of S is
 *     not meant.
 * At a load S gets the sockets of P: outer ports are inner ones then.  All
 * mappings end, but for those of a P that was a secondary once, see above, and
 * the opens so far are of no use: S has these sockets.  Limit: a SYN that S
 * repeats for such a socket waits like a first one.
 *
 * An ICMP error quotes a segment, with its ports and numbers: they are mapped
 * like those of the segment, or the guest would take "packet too big" for
 * something of another connection.
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
 * HANDSHAKE, with nothing known but its outer port, which only a SYN changes.
 * A full table forgets the one that was silent for longest: among the CLOSING
 * ones, if there are none among those in HANDSHAKE, else among all.  So a flood
 * of SYNs does not reach the others.
 */

#ifndef QEMU_NET_COLO_REWRITE_H
#define QEMU_NET_COLO_REWRITE_H

#include "packet.h"

#define COLO_REWRITE_HANDSHAKE_MS   (180 * 1000)
#define COLO_REWRITE_CLOSING_MS     (60 * 1000)

/* Opens that wait for a connect of S; the oldest goes when there are more */
#define COLO_REWRITE_OPENS          1024

/* colo_rewrite_wants() needs no more of almost any packet */
#define COLO_REWRITE_HEAD           128

typedef struct ColoRewrite ColoRewrite;

/* Counters only grow, except flows and flows_open */
typedef struct ColoRewriteStats {
    uint64_t rewritten_packets; /* at least one field was changed */
    uint64_t rewritten_seqs;
    uint64_t rewritten_acks;    /* those with SACK edges count once */
    uint64_t rewritten_tsvals;
    uint64_t rewritten_tsecrs;
    uint64_t rewritten_ports;   /* packets, both directions */
    uint64_t rewritten_quotes;  /* ICMP errors, both directions */
    uint64_t opened;            /* connects of P that were told */
    uint64_t opened_unused;     /* of these, forgotten without a connect of S */
    uint64_t paired;            /* connects that got another port, one of P's */
    uint64_t moved;             /* connects that got another port, a free one */
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
/* To be set before the first packet */
uint32_t colo_rewrite_max_flows(const ColoRewrite *r);
void colo_rewrite_set_max_flows(ColoRewrite *r, uint32_t max_flows);
void colo_rewrite_free(ColoRewrite *r);

/*
 * colo_rewrite_wants: is a packet worth to be copied and parsed?
 *
 * @head: its first bytes, vnet header included
 * @len: how many; COLO_REWRITE_HEAD or all of a shorter packet
 * @size: of the packet
 * @from_guest: its direction
 *
 * False if the function for that direction would neither change the packet nor
 * learn from it, and the packet need neither wait nor be dropped.  Cheap, and
 * changes nothing.
 */
bool colo_rewrite_wants(const ColoRewrite *r, const uint8_t *head,
                        uint32_t len, uint32_t size, uint32_t vnet_hdr_len,
                        bool from_guest);

/*
 * colo_rewrite_from_guest: @p is what S sends
 * colo_rewrite_to_guest: @p is what S is about to get
 *
 * @now_ms: any clock that does not go back
 *
 * Change @p in place, if necessary, its key included.  Return whether it was
 * changed.  What is neither TCP nor an error about it is left alone, and so is
 * what must be dropped.
 */
bool colo_rewrite_from_guest(ColoRewrite *r, ColoPacket *p, int64_t now_ms);
bool colo_rewrite_to_guest(ColoRewrite *r, ColoPacket *p, int64_t now_ms);

/*
 * colo_rewrite_undo_to_guest: @p is what colo_rewrite_to_guest() made, and
 * becomes what it was made of.  Returns whether it was changed.
 *
 * An echo that was brought into the guest's range becomes one that is mapped to
 * the same again.
 */
bool colo_rewrite_undo_to_guest(ColoRewrite *r, ColoPacket *p);

/*
 * colo_rewrite_must_drop: must @p, which S sends, not leave?
 * colo_rewrite_must_drop_input: must @p not reach S?
 *
 * To be asked right before colo_rewrite_from_guest() or _to_guest(), which is
 * not needed then; for a SYN after colo_rewrite_awaits() or whoever gives up
 * waiting.  See "Ports" above.
 */
bool colo_rewrite_must_drop(ColoRewrite *r, const ColoPacket *p);
bool colo_rewrite_must_drop_input(ColoRewrite *r, const ColoPacket *p);

/*
 * colo_rewrite_set_told: does P tell which connections it begins?
 *
 * Off at first; while off nothing is paired and nothing waits.  Switching off
 * forgets what was told and not used; what is mapped stays so.
 */
void colo_rewrite_set_told(ColoRewrite *r, bool told);

/*
 * colo_rewrite_opened: P begins a connection
 *
 * @p: its SYN, as the network sees it; ignored if this is no SYN without ACK
 *
 * In order with the input of S.  Forgotten after COLO_REWRITE_HANDSHAKE_MS.
 */
void colo_rewrite_opened(ColoRewrite *r, const ColoPacket *p, int64_t now_ms);

/*
 * colo_rewrite_awaits: does @p, which S sends, have to wait for P?
 *
 * True only for a SYN without ACK that begins a connection for which no outer
 * port is decided, and none that was told fits.  Never true while told is off.
 *
 * The answer may change with any other call.  If several wait one open may fit
 * them all, and colo_rewrite_from_guest() of the first takes it: ask for each
 * of them right before.  A SYN that is repeated while it waits awaits too,
 * until the first has gone.
 */
bool colo_rewrite_awaits(ColoRewrite *r, const ColoPacket *p);

/* A checkpoint was loaded: S has the TCP state of P; told stays as it is */
void colo_rewrite_load(ColoRewrite *r);

/* S is no secondary any more: clients see what it begins from now on */
void colo_rewrite_set_live(ColoRewrite *r);

/*
 * colo_rewrite_export: the connections that are rewritten or may have to be, to
 * be sent along with a checkpoint; empty if there are none
 * colo_rewrite_import: take them over from the primary, after
 * colo_rewrite_load().  Returns false, with none taken, if this is no export;
 * two connections with the same inner or outer port are none.
 */
#define COLO_REWRITE_EXPORT_LEN     96      /* bytes a connection */
#define COLO_REWRITE_EXPORT_MAX(flows) ((flows) * COLO_REWRITE_EXPORT_LEN)

GByteArray *colo_rewrite_export(const ColoRewrite *r);
bool colo_rewrite_import(ColoRewrite *r, const uint8_t *buf, size_t len,
                         int64_t now_ms);

/* Is there something that goes with time? */
bool colo_rewrite_needs_tick(const ColoRewrite *r);

/* Forget what was silent for too long; call it about once a second */
void colo_rewrite_tick(ColoRewrite *r, int64_t now_ms);

/* Belongs to @r and stays at its place until colo_rewrite_free() */
const ColoRewriteStats *colo_rewrite_stats(const ColoRewrite *r);

#endif
