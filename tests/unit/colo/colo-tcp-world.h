/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A model of a client, a network and two hosts with a guest each, around the
 * rules of the COLO proxy and the rewriter; in virtual time.
 *
 *     client <-> network <-> primary's guest -> rules -> network
 *                   |                            ^
 *                   +-> rewriter -> secondary's guest -> rewriter
 *
 * The network loses, repeats, delays and reorders.  The streams between the
 * hosts lag.  Checkpoints are taken now and then, and when the rules ask for
 * one; guests say other bytes than they should; hosts fail.  The whole follows
 * from a seed, or from the input of a fuzzer.
 *
 * What has to hold:
 *   - what leaves follows from the state that the survivor of a failure would
 *     go on from: its bytes, no acknowledgement of what it has not got, and no
 *     more window than the secondary has to offer
 *   - the client gets what one guest said, from the first byte to the FIN, and
 *     after a failover it goes on without a gap or a change
 *   - a guest gets what the client said, in its own numbers, ports and clock
 *   - all connections come to their end, and none stands still for much longer
 *     than in the same world without a proxy
 *   - hardly any checkpoint is asked for if the guests say the same
 */

#ifndef TESTS_UNIT_COLO_TCP_WORLD_H
#define TESTS_UNIT_COLO_TCP_WORLD_H

#include "colo-tcp-guest.h"

typedef struct TcpWorldPlan {
    TcpPlan conns[TCP_CONNS];

    /* Of the network; one packet in so many, 0: none */
    uint32_t delay_ms, jitter_ms;
    uint32_t loses, repeats;

    /* Of the streams, and of the secondary's NIC */
    uint32_t lag_ms, hiccup_ms;
    uint32_t nic_loses;

    /* 0: only when asked for */
    uint32_t checkpoint_ms;
    uint32_t stop_ms, transfer_ms, load_ms;

    uint32_t err_ms;            /* a guest errs about that often; 0: never */
    int64_t session_ms;         /* it begins */
    int64_t fail_ms;            /* a host fails; INT64_MAX: none does */
    bool primary_fails;
    unsigned sessions_again;    /* with a new secondary, afterwards */
} TcpWorldPlan;

typedef struct TcpWorldResult {
    char *fault;                /* what does not hold; or NULL; g_free() */
    int64_t stall_ms;           /* the longest */
    int64_t rto_ms;             /* the longest that anybody had to wait */
    int64_t end_ms;
    unsigned checkpoints, needs, failovers;
    unsigned released, compared;
} TcpWorldResult;

/* @size: of the fuzzer's input; 0: all follows from @seed */
void tcp_world_plan(TcpWorldPlan *plan, uint64_t seed, const uint8_t *data,
                    size_t size);

/* @proxy: with it, or the client and one guest alone */
void tcp_world_run(const TcpWorldPlan *plan, uint64_t seed,
                   const uint8_t *data, size_t size, bool proxy,
                   TcpWorldResult *result);

/* Both ways, held against each other.  NULL, or what does not hold; g_free() */
char *tcp_world_check(uint64_t seed, const uint8_t *data, size_t size,
                      TcpWorldResult *result);

#endif
