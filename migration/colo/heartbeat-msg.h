/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what a heartbeat says, as bytes.
 *
 * No state, no threads: whoever calls has the parser for himself.
 */

#ifndef QEMU_MIGRATION_COLO_HEARTBEAT_MSG_H
#define QEMU_MIGRATION_COLO_HEARTBEAT_MSG_H

#include "qemu/uuid.h"

#define COLO_BEAT_VERSION   1
#define COLO_BEAT_LEN       112

/*
 * So many bytes that are no message may come in a row.  More than a message:
 * the connection may begin in the middle of one.
 */
#define COLO_BEAT_GARBAGE   4096

/* Of ColoBeat.flags; others are unknown, and ignored */
enum {
    /* The sender has lost its peer, and nobody has decided yet */
    COLO_BEAT_LOST      = 1 << 0,
    /* The sender goes on in this session: nobody else may */
    COLO_BEAT_SERVICE   = 1 << 1,
    /* The sender will never be the service of this session again */
    COLO_BEAT_OUT       = 1 << 2,
    /* Its guest stands on purpose: vcpus says nothing */
    COLO_BEAT_STANDS    = 1 << 3,
    /* It would go on alone if its peer says that it is out */
    COLO_BEAT_CLAIM     = 1 << 4,
    /* A secondary: it lets the primary send, from the stamp that it repeats */
    COLO_BEAT_LEASE     = 1 << 5,
};

typedef struct ColoBeat {
    uint64_t sender;        /* a random number of the sending object */
    QemuUUID session;       /* null: none */
    uint8_t role;           /* COLOMode: that of the session, or none */
    uint8_t state;          /* ColoPrimaryState or ColoSecondaryState */
    uint16_t flags;
    uint32_t timeout_ms;    /* by which the sender takes its peer for dead */
    uint64_t epoch;         /* last checkpoint that is complete */
    uint64_t term;          /* grows each time that a side goes on */
    uint64_t stamp_ns;      /* the sender's clock; grows with each message */
    uint64_t echo_ns;       /* latest stamp of the peer that it has, 0: none */
    uint64_t echo_age_ns;   /* how long it has had that */
    uint64_t loop;          /* grows while its main loop runs */
    uint64_t vcpus;         /* grows while all of its vCPUs run */
    uint64_t work;          /* grows with what is done for the session */
} ColoBeat;

void colo_beat_encode(const ColoBeat *b, uint8_t buf[COLO_BEAT_LEN]);

/* False if @buf is no message of this version */
bool colo_beat_decode(const uint8_t buf[COLO_BEAT_LEN], ColoBeat *b);

/* A stream of messages, of which parts may be missing, or something else */
typedef struct ColoBeatParser {
    uint8_t buf[COLO_BEAT_LEN];
    size_t len;
    size_t garbage;         /* bytes since the last message */
    uint64_t bad;           /* runs of garbage, since the parser was made */
} ColoBeatParser;

/* A new connection */
void colo_beat_parser_reset(ColoBeatParser *p);

/*
 * colo_beat_parse: call @got for each message that is complete with @buf
 *
 * False if more than COLO_BEAT_GARBAGE came in a row that are no message: the
 * rest of @buf is not looked at, and the connection should be closed.
 */
bool colo_beat_parse(ColoBeatParser *p, const uint8_t *buf, size_t len,
                     void (*got)(void *opaque, const ColoBeat *b),
                     void *opaque);

#endif
