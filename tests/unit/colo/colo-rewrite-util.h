/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO tests of the rewriter: packets, and what is expected of them.
 *
 * Each packet of a test is described by a Seg.  It is built, goes through the
 * engine, and has to be equal, byte for byte, to a packet that is built from
 * the Seg that is expected.
 */

#ifndef TESTS_UNIT_COLO_REWRITE_UTIL_H
#define TESTS_UNIT_COLO_REWRITE_UTIL_H

#include "net/colo/rewrite.h"

#define SYN     COLO_TCP_SYN
#define ACK     COLO_TCP_ACK
#define FIN     COLO_TCP_FIN
#define RST     COLO_TCP_RST

#define IDLE_MS     (3600 * 1000)
#define VNET_LEN    12

typedef struct Seg {
    uint16_t guest_port;        /* 0: Test.inner; pass() sets it */
    uint8_t flags;
    uint32_t seq;
    uint32_t ack;
    uint32_t payload;
    bool ts;                    /* with timestamps */
    uint32_t tsval;
    uint32_t tsecr;
    uint32_t sacks;             /* edges */
    uint32_t sack[4];
} Seg;

/* One engine and one connection, or many by changing port */
typedef struct Test {
    ColoRewrite *r;
    int64_t now;
    uint16_t port;              /* of the other one, not the guest */
    uint16_t inner, outer;      /* of the guest: as S has it, as it is known */
    bool ipv6;
    int vlans;
    bool vnet;                  /* with a vnet header and a partial checksum */
    uint32_t s, p, c;           /* ISN of S, P and the client */
} Test;

Test *test_new(uint32_t max_flows);
void test_free(Test *t);

/* How many connections does the engine know? */
uint64_t flows(Test *t);

GByteArray *build_bytes(const Test *t, bool from_guest, const Seg *seg);
ColoPacket *build(const Test *t, bool from_guest, const Seg *seg);

/* Feed a packet the way the filter does; was it changed? */
bool feed(Test *t, bool from_guest, ColoPacket *p);

/* @in goes in and @out has to come out */
void pass(Test *t, bool from_guest, Seg in, Seg out);

/* S says @in, and it comes out with @seq */
void says(Test *t, Seg in, uint32_t seq);

/* Somebody says @in, S gets it with @ack, SACK edges moved along */
void gets(Test *t, Seg in, uint32_t ack);

Seg seg(uint8_t flags, uint32_t seq, uint32_t ack, uint32_t payload);
Seg seg_ts(uint8_t flags, uint32_t seq, uint32_t ack, uint32_t tsval,
           uint32_t tsecr);

/* Handshakes: a client connects to S; S connects to a server */
void accept_client(Test *t);
void connect_server(Test *t);

/* Then some data either way, and the end, with both FINs acknowledged */
void talk(Test *t);
void close_both(Test *t);

#endif
