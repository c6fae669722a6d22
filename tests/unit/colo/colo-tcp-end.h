/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A model of one end of a TCP connection, for tests of the COLO proxy.
 *
 * Pure, in virtual time, and plain data: to copy it is to take a checkpoint of
 * it.  It does what the proxy has to get along with: segmentation of its own,
 * congestion window, retransmission by timeout and by three duplicate ACKs,
 * delayed ACKs, SACK, timestamps with PAWS, windows that close, FIN and RST.
 *
 * Positions count from the SYN, which has position 0; data begins at 1.  A
 * sequence number is the initial one and a position.  Two ends that were
 * configured alike say the same at each position.
 */

#ifndef TESTS_UNIT_COLO_TCP_END_H
#define TESTS_UNIT_COLO_TCP_END_H

#include "net/colo/packet.h"

#define TCP_END_MSS         1000
#define TCP_END_MAX_SEGS    8           /* in one that is left to the NIC */
#define TCP_END_RANGES      16
#define TCP_END_SACKS       3
#define TCP_END_CHANGES     8
#define TCP_END_RTO_MIN_MS  200
#define TCP_END_RTO_SYN_MS  1000
#define TCP_END_RTO_MAX_MS  4000
/*
 * So much may an echo be off: after a load the clock is behind that of the
 * primary, and only for a SYN anybody cares
 */
#define TCP_END_ECHO_MS     5000

/* One on its way */
typedef struct TcpSeg {
    uint8_t flags;              /* COLO_TCP_* */
    uint32_t seq;
    uint32_t ack;
    uint16_t window;
    bool ts;
    uint32_t tsval;
    uint32_t tsecr;
    bool sack_ok;               /* with SYN */
    unsigned sacks;             /* blocks */
    uint32_t sack[2 * TCP_END_SACKS];
    const uint8_t *data;
    uint32_t len;
} TcpSeg;

typedef struct TcpRange {
    uint32_t from;
    uint32_t to;
} TcpRange;

/* Sorted, no two touch */
typedef struct TcpRanges {
    unsigned n;
    TcpRange r[TCP_END_RANGES];
} TcpRanges;

/* From a position on each byte is another one */
typedef struct TcpChange {
    uint32_t from;
    uint8_t with;
} TcpChange;

typedef enum TcpEndState {
    TCP_END_NONE,               /* answers with a reset */
    TCP_END_LISTEN,
    TCP_END_SYN_SENT,
    TCP_END_SYN_RCVD,
    TCP_END_OPEN,               /* until both FINs are acknowledged */
    TCP_END_CLOSED,
    TCP_END_RESET,              /* it was, or has, reset the connection */
} TcpEndState;

typedef struct TcpEnd {
    /* Set before it begins */
    uint8_t stream;             /* which bytes it says */
    uint32_t iss;
    uint32_t ts_offset;
    bool ts, sack;              /* offered; later: agreed */
    uint32_t rcv_buf;
    unsigned segs;              /* in one segment, 1 to TCP_END_MAX_SEGS */
    unsigned delack_ms;
    uint32_t cwnd;

    TcpEndState state;

    /* What it says */
    TcpChange changes[TCP_END_CHANGES];
    unsigned n_changes;
    uint32_t written;           /* end of what the application has written */
    bool closing;               /* a FIN follows that */
    uint32_t una, nxt, max;
    uint32_t wnd, wl_seq;
    uint32_t ssthresh, recover;
    unsigned dupacks;
    bool recovering;
    TcpRanges sacked;
    int64_t rto_ms, srtt_ms, rttvar_ms;
    unsigned backoff;
    int64_t rto_at;             /* INT64_MAX: nothing is in flight */
    int64_t timed_ms;           /* INT64_MAX: no segment is timed */
    uint32_t timed_end;
    uint32_t ts_first, ts_latest;
    bool ts_said;
    int64_t syn_ms;

    /* What it has got */
    uint32_t irs;
    uint32_t rcv_nxt, rcv_acked, rcv_edge;
    uint32_t read;              /* end of what the application has read */
    TcpRanges ahead;
    uint32_t fin_at;            /* 0: none came */
    uint32_t ts_recent;
    bool ack_now;
    uint32_t ack_bytes;
    int64_t ack_at;             /* INT64_MAX: no delayed ACK */

    unsigned paws_news;         /* news that PAWS has dropped */

    /* What should not happen; NULL or which of it did */
    const char *fault;
} TcpEnd;

typedef void TcpEndEmit(void *opaque, const TcpSeg *seg);

/* What it says at position @pos; not of SYN and FIN */
uint8_t tcp_end_byte(const TcpEnd *e, uint32_t pos);
/* Has it got position @pos, in order or ahead of what is missing? */
bool tcp_end_has_got(const TcpEnd *e, uint32_t pos);
/* Where its FIN is; 0: not said yet */
static inline uint32_t tcp_end_fin(const TcpEnd *e)
{
    return e->closing && e->max > e->written ? e->written : 0;
}

void tcp_end_init(TcpEnd *e);
void tcp_end_connect(TcpEnd *e, int64_t now_ms);
/* The application has read up to @pos */
void tcp_end_read(TcpEnd *e, uint32_t pos);
/* The application gives up */
void tcp_end_abort(TcpEnd *e, int64_t now_ms, TcpEndEmit *emit, void *opaque);
/* To find out whether the peer is there */
void tcp_end_probe(TcpEnd *e, int64_t now_ms, TcpEndEmit *emit, void *opaque);

void tcp_end_input(TcpEnd *e, const TcpSeg *in, int64_t now_ms,
                   TcpEndEmit *emit, void *opaque);
/* Say what may be said now, after anything has changed or time went by */
void tcp_end_output(TcpEnd *e, int64_t now_ms, TcpEndEmit *emit,
                    void *opaque);
int64_t tcp_end_deadline(const TcpEnd *e);

#endif
