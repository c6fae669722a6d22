/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packets for tests of the COLO proxy, made without the code under test.
 */

#ifndef TESTS_UNIT_COLO_PACKET_MAKER_H
#define TESTS_UNIT_COLO_PACKET_MAKER_H

#include "net/colo/packet.h"

/* Protocols and headers of IPv6, written out: 0x3a reads as one in a string */
#define MAKE_HOP_BY_HOP     0
#define MAKE_ICMP           1
#define MAKE_TCP            6
#define MAKE_UDP            17
#define MAKE_ROUTING        43
#define MAKE_AH             51
#define MAKE_ICMPV6         58
#define MAKE_DEST           60
#define MAKE_SCTP           132

/* virtio-net */
#define MAKE_NEEDS_CSUM     1
#define MAKE_GSO_TCPV4      1
#define MAKE_GSO_TCPV6      4
#define MAKE_GSO_UDP_L4     5
#define MAKE_GSO_ECN        0x80

/* What to make; all 0: a TCP segment over IPv4 that has no flags */
typedef struct Make {
    uint32_t vnet;              /* length of the vnet header */
    uint8_t vnet_flags;         /* NEEDS_CSUM: the checksum is partial */
    uint8_t gso_type;
    uint16_t gso_size;
    uint16_t hdr_len;

    unsigned ntags;
    uint16_t tpid[3];
    uint16_t tci[3];
    uint16_t ethertype;         /* not 0: no IP, just bytes (payload_len) */

    bool v6;
    uint8_t tos;
    uint8_t ttl;
    uint16_t ip_id;
    bool df;
    unsigned ip_options;        /* bytes */
    uint8_t exts[4];            /* headers of IPv6, in their order */
    unsigned nexts;
    uint32_t flow_label;
    bool zero_len;              /* the IP length is not filled in */

    bool fragment;              /* a part of the datagram that the rest says */
    uint32_t frag_id;
    uint32_t frag_offset;
    uint32_t frag_len;          /* 0: up to the end */
    bool frag_more;

    uint8_t proto;              /* 0: TCP */
    uint16_t sport;
    uint16_t dport;
    uint32_t seq;
    uint32_t ack;
    uint16_t window;
    uint16_t urgent;
    uint8_t flags;
    uint8_t options[40];        /* of TCP */
    unsigned options_len;

    unsigned payload_len;
    uint8_t payload_seed;
    unsigned padding;
} Make;

typedef struct Made {
    uint8_t *data;
    uint32_t size;
    uint32_t eth;               /* where the frame begins */
    uint32_t l3;
    uint32_t l4;
    uint32_t payload;
    uint32_t end;               /* padding follows */
} Made;

void make(const Make *m, Made *made);
ColoPacket *make_packet(const Make *m);

/* Sum of 16-bit words, not folded */
uint32_t sum_words(const uint8_t *buf, size_t size);
uint16_t sum_fold(uint32_t sum);

/*
 * How far the TCP checksum of what was made like @made is from right: 0 if it
 * is right.  @data is @size bytes, without padding.
 */
uint16_t tcp_csum_error(const Make *m, const Made *made, const uint8_t *data,
                        uint32_t size);

/* Length and checksum of the IP header at @l3; what is behind @size is none */
void check_ip(const Make *m, uint32_t l3, const uint8_t *data, uint32_t size);

/* All that has to hold for a TCP segment, but for its TCP checksum */
void check_lengths(const Make *m, const Made *made, const uint8_t *data,
                   uint32_t size);

#endif
