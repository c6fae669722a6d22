/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A model of a guest, or of its clients, for tests of the COLO proxy: an end
 * of each connection and the application behind it.
 *
 * Plain data, like the ends: to copy it is to take a checkpoint.  What two
 * guests do by chance is no part of it.
 */

#ifndef TESTS_UNIT_COLO_TCP_GUEST_H
#define TESTS_UNIT_COLO_TCP_GUEST_H

#include "colo-tcp-end.h"

#define TCP_CONNS           4
#define TCP_GUEST_PORT      80
#define TCP_CLIENT_PORT     2000        /* and the connection */

/*
 * Chance: bytes of a fuzzer's input as long as there are some, then numbers
 * that follow from a seed.
 */
typedef struct TcpChance {
    const uint8_t *data;
    size_t size;
    uint64_t state;
} TcpChance;

/* 0 to @n - 1 */
uint32_t tcp_chance_below(TcpChance *c, uint32_t n);
static inline bool tcp_chance_one_in(TcpChance *c, uint32_t n)
{
    return n && tcp_chance_below(c, n) == 0;
}

typedef enum TcpAbort {
    TCP_ABORT_NONE,
    TCP_ABORT_CLIENT,
    TCP_ABORT_GUEST,
    TCP_ABORT__MAX,
} TcpAbort;

/* What both ends of a connection are going to do */
typedef struct TcpPlan {
    bool guest_connects;
    bool ts, sack;
    int64_t start_ms;
    uint32_t to_guest, to_client;       /* bytes */
    bool answers;               /* the guest says what it says as it reads */
    bool closes_last;           /* the guest, after the client did */
    TcpAbort abort;
    uint32_t abort_at;          /* having read so many bytes */
    uint32_t guest_buf, client_buf;
    uint32_t chunk;             /* bytes that the guest reads at once... */
    uint32_t pace_ms;           /* ...and then waits; 0: all there is */
} TcpPlan;

typedef struct TcpApp {
    TcpEnd end;
    uint16_t port;              /* of the guest, as it knows it; 0: none yet */
    bool began;
    int64_t tick_at;
} TcpApp;

/* Who says it */
typedef struct TcpSpeaker {
    const TcpPlan *plan;
    bool is_guest;
    TcpChance *chance;
    TcpEndEmit *emit;
    void *opaque;
} TcpSpeaker;

void tcp_app_init(TcpApp *a, const TcpSpeaker *s);

/* By chance: how it cuts up what it says, and when it acknowledges */
void tcp_app_vary(TcpApp *a, const TcpSpeaker *s);

/* Do all that may be done now */
void tcp_app_run(TcpApp *a, const TcpSpeaker *s, int64_t now_ms);
void tcp_app_input(TcpApp *a, const TcpSpeaker *s, const TcpSeg *in,
                   int64_t now_ms);
int64_t tcp_app_deadline(const TcpApp *a);

/* Nothing more is to be expected */
bool tcp_app_is_over(const TcpApp *a);

/* From what is written next on each byte is another one.  False: too often. */
bool tcp_app_change(TcpApp *a, uint8_t with);

/* @p as a segment; its payload stays @p's */
TcpSeg tcp_seg_parse(const ColoPacket *p);

#endif
