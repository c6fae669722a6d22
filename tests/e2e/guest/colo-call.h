/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the guest that calls and the client that answers agree on.
 */
#ifndef COLO_CALL_H
#define COLO_CALL_H

#include <arpa/inet.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "colo-stream.h"

#define CALL_PORT           7009
#define CALL_MAX_ROUNDS     4

/* A request; the answer is the same with the bytes of body inverted */
typedef struct CallMessage {
    uint32_t call;              /* big endian, from 0 */
    uint32_t round;             /* big endian, from 0 */
    uint8_t body[56];           /* of the stream that belongs to both */
} CallMessage;

_Static_assert(sizeof(CallMessage) == 64, "CallMessage");

static inline unsigned call_rounds(uint32_t call)
{
    return 1 + call % CALL_MAX_ROUNDS;
}

/* Who closes the connection first */
static inline bool call_guest_closes(uint32_t call)
{
    return call / CALL_MAX_ROUNDS % 2 == 0;
}

static inline void call_request(CallMessage *m, uint64_t seed, uint32_t call,
                                uint32_t round)
{
    ColoStream stream;

    m->call = htonl(call);
    m->round = htonl(round);
    colo_stream_init(&stream, seed + (uint64_t)call * CALL_MAX_ROUNDS + round);
    colo_stream_fill(&stream, m->body, sizeof(m->body));
}

static inline void call_answer(CallMessage *m)
{
    for (size_t i = 0; i < sizeof(m->body); i++) {
        m->body[i] ^= 0xff;
    }
}

#endif /* COLO_CALL_H */
