/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packets for tests and fuzz targets of the COLO proxy.
 */

#ifndef TESTS_UNIT_COLO_TEST_PACKET_H
#define TESTS_UNIT_COLO_TEST_PACKET_H

#include "net/colo/packet.h"

/* Flows from here on are to one server, from a port that a kernel has picked */
#define COLO_TEST_PICKED    20000

#define COLO_TEST_UDP_LEN   8

/* One of TCP, over IPv4; @flow tells the connections apart */
typedef struct ColoTestTcp {
    uint16_t flow;
    uint32_t seq;
    uint32_t ack;
    uint8_t flags;
    uint16_t window;
    uint32_t tsval;             /* 0: without timestamps, unless... */
    bool ts;                    /* ...it has them whatever they are */
    uint32_t tsecr;
    bool sack_ok;
    unsigned sacks;             /* blocks of SACK, up to 3 */
    const uint32_t *sack;       /* two edges each */
    uint8_t option;             /* 0: no other one; else this, 18 bytes */
    /* Not 0: these, whatever @flow says */
    uint16_t guest_port;
    uint16_t peer_port;
    bool to_guest;              /* the other direction */
    const void *data;
    uint16_t len;
} ColoTestTcp;

ColoPacket *colo_test_tcp(const ColoTestTcp *t);

/* Which flow was the packet made with?  Of colo_test_tcp() and _udp(). */
uint16_t colo_test_flow(const ColoPacket *p);

/* Is the TCP checksum of an IPv4 packet right? */
bool colo_test_tcp_checksum_ok(const ColoPacket *p);

ColoPacket *colo_test_udp(uint16_t flow, const void *data, uint16_t len);

/*
 * Fragment @i of @n of the datagram colo_test_udp() would make; @len has to be
 * a multiple of 8 times @n.
 */
ColoPacket *colo_test_fragment(uint16_t flow, const void *data, uint16_t len,
                               uint16_t id, unsigned i, unsigned n);

/* The same with another protocol: IGMP begins with the header of UDP */
ColoPacket *colo_test_igmp(const void *data, uint16_t len);

/* Of an EtherType that nobody knows */
ColoPacket *colo_test_raw(const void *data, uint16_t len);

#endif
