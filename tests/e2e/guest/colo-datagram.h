/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The datagrams of the end-to-end tests: what the client sends to port 7006 or
 * as an ICMPv6 echo request, and what comes back.
 *
 * Bytes that the client checks follow.  The guest fills in what it knows of
 * that client and leaves the rest; both are little-endian.  cases/inputs.py
 * reads it, too.
 */
#ifndef COLO_DATAGRAM_H
#define COLO_DATAGRAM_H

#include <stdint.h>

#define COLO_DATAGRAM_PORT      7006
#define COLO_DATAGRAM_MAGIC     0x7064752d6f6c6f63ULL   /* "colo-udp" */

typedef struct ColoDatagram {
    uint64_t magic;
    uint64_t client;
    uint64_t id;        /* of the request, counted from 1 */
    uint64_t count;     /* of requests that the guest got, with this one */
    uint64_t before;    /* id of the one before, 0 = there was none */
} ColoDatagram;

#endif /* COLO_DATAGRAM_H */
