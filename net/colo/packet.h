/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: what is in a packet, and how to change it.
 *
 * Both sides.  Pure functions on memory, for any thread; a packet object
 * belongs to one thread at a time.  All that they read comes from a guest or
 * from the network: nothing in it is trusted, nothing can make them read or
 * write outside of the packet.
 *
 * A packet is an Ethernet frame, preceded by a virtio-net header if
 * vnet_hdr_len is not 0.  A frame may be longer than the MTU (TSO, GRO), and
 * its checksum may be partial (VIRTIO_NET_HDR_F_NEEDS_CSUM, with csum_start and
 * csum_offset those of this header): then the TCP or UDP checksum field has
 * the sum of the pseudo header alone, which changes with the length and the
 * addresses but not with seq, ack or payload.
 */

#ifndef QEMU_NET_COLO_PACKET_H
#define QEMU_NET_COLO_PACKET_H

#include "qemu/queue.h"

/* Up to two VLAN tags (802.1Q, 802.1ad) are looked through */
#define COLO_PACKET_VLANS   2

/* Of the heap for an object and what it owns, roughly, in bytes */
#define COLO_HEAP_OVERHEAD  32

typedef enum ColoPacketKind {
    /* A whole TCP segment, both checks of lengths passed */
    COLO_PACKET_TCP,
    /* A whole datagram of UDP, ICMP, ICMPv6 or any other protocol over IP */
    COLO_PACKET_DATAGRAM,
    /* An IPv4 or IPv6 fragment; colo_defrag_*() makes datagrams of them */
    COLO_PACKET_FRAGMENT,
    /* Anything else (ARP, unknown, malformed): bytes from the EtherType on */
    COLO_PACKET_RAW,
    COLO_PACKET__MAX,
} ColoPacketKind;

/*
 * ColoFlowKey: which flow a packet belongs to, in the direction it travels
 *
 * Padding is always zero: keys are compared and hashed as memory.  IPv4
 * addresses are in the first 4 bytes.  Ports are 0 for what has none (a
 * fragment has none either).  A RAW packet has its MAC addresses in src and
 * dst.
 */
typedef struct ColoFlowKey {
    uint8_t src[16];
    uint8_t dst[16];
    uint16_t vlan[COLO_PACKET_VLANS];   /* VID; 0xffff: no such tag */
    /* Behind the tags, host order; or the length of an 802.3 frame */
    uint16_t ethertype;
    uint16_t sport;                     /* host order */
    uint16_t dport;
    uint8_t proto;                      /* of IP, 0 if RAW */
    /* ColoPacketKind, FRAGMENT excepted: those are DATAGRAM here */
    uint8_t kind;
} ColoFlowKey;

/* Bits of ColoPacket.tcp_flags, as on the wire */
#define COLO_TCP_FIN    0x01
#define COLO_TCP_SYN    0x02
#define COLO_TCP_RST    0x04
#define COLO_TCP_PSH    0x08
#define COLO_TCP_ACK    0x10
#define COLO_TCP_URG    0x20

/*
 * ColoTcpBound: is a segment bound to the numbers that it has?
 */
typedef enum ColoTcpBound {
    COLO_TCP_FREE,
    /*
     * By Multipath TCP (RFC 8684): part of a stream that has numbers of its
     * own, and said by a host whose keys are random
     */
    COLO_TCP_MULTIPATH,
    /* By a digest, TCP MD5 (RFC 2385) or TCP-AO (RFC 5925): never changed */
    COLO_TCP_SIGNED,
} ColoTcpBound;

typedef struct ColoPacket ColoPacket;
struct ColoPacket {
    QSIMPLEQ_ENTRY(ColoPacket) next;    /* for its owner */

    uint8_t *buffer;            /* owned, data is in there; NULL: behind this */
    uint8_t *data;              /* vnet header and frame */
    uint32_t size;              /* bytes of both */
    uint32_t readable;          /* of these; all but in a head */
    uint32_t vnet_hdr_len;      /* 0: none */

    /* Set by colo_packet_parse(); offsets count from data */
    bool cut_short;             /* headers go on behind what is readable */
    ColoPacketKind kind;
    ColoFlowKey key;
    uint32_t l3;                /* IP header, or what follows the EtherType */
    uint32_t l4;                /* transport header, IPv6 extensions skipped */
    /* Behind the transport header; a DATAGRAM of neither UDP nor ICMP: l4 */
    uint32_t payload;
    uint32_t payload_len;       /* padding of Ethernet does not count */

    /* kind == COLO_PACKET_TCP, host order */
    uint32_t seq;
    uint32_t ack;               /* valid if COLO_TCP_ACK */
    uint16_t window;            /* as on the wire, not scaled */
    uint8_t tcp_flags;          /* COLO_TCP_*, ECE, CWR */
    uint32_t ts_off;            /* offset of TSval, TSecr follows; 0: none */
    uint32_t sack_off;          /* offset of the first SACK edge; 0: none */
    uint32_t sack_edges;        /* 32-bit words, two a block */
    ColoTcpBound bound;

    /* kind == COLO_PACKET_FRAGMENT */
    uint32_t frag_id;
    uint32_t frag_offset;       /* bytes */
    bool frag_more;

    /* For the owner; colo_packet_new() sets them to 0 */
    uint64_t epoch;
    int64_t arrived_ms;
    unsigned tag;
};

/*
 * colo_packet_new: take a packet over and parse it
 *
 * @data: g_malloc()ed, belongs to the packet from now on
 * @vnet_hdr_len: 0, or at least sizeof(struct virtio_net_hdr) (10)
 *
 * Never fails: what cannot be parsed is RAW.  A @size shorter than the vnet
 * header and an Ethernet header together is RAW with an empty key (no
 * addresses, no tags, EtherType 0).
 */
ColoPacket *colo_packet_new(uint8_t *data, uint32_t size,
                            uint32_t vnet_hdr_len);

/*
 * colo_packet_alloc: a packet that has its data behind it, in one allocation
 *
 * The caller fills in the data and calls colo_packet_parse().
 */
ColoPacket *colo_packet_alloc(uint32_t size, uint32_t vnet_hdr_len);

/*
 * colo_packet_new_behind: as colo_packet_new(), for @data that has
 * COLO_PACKET_ROOM bytes before it in the same allocation
 */
#define COLO_PACKET_ROOM    sizeof(ColoPacket)
ColoPacket *colo_packet_new_behind(uint8_t *data, uint32_t size,
                                   uint32_t vnet_hdr_len);

/* A copy of the first @size bytes (up to p->size); else as @p is, not parsed */
ColoPacket *colo_packet_dup(const ColoPacket *p, uint32_t size);
ColoPacket *colo_packet_copy(const ColoPacket *p);

/* The same as colo_packet_new() without looking at it: nothing is parsed */
ColoPacket *colo_packet_wrap(uint8_t *data, uint32_t size,
                             uint32_t vnet_hdr_len);

/*
 * colo_packet_memory: what it takes of the heap, to be held against a bound.
 * With most packets that is more than their size.
 */
static inline uint64_t colo_packet_memory(const ColoPacket *p)
{
    return p->size + sizeof(*p) + COLO_HEAP_OVERHEAD;
}
void colo_packet_free(ColoPacket *p);

/* Look again at p->data, after it was changed from outside */
void colo_packet_parse(ColoPacket *p);

/*
 * colo_packet_parse_head: look at the first @len bytes of a packet of @size
 *
 * Sets @head, which the caller owns and colo_packet_free() must not get, to
 * what colo_packet_new() would find, without a copy.  False if the headers go
 * on behind @len: then nothing is known.
 */
bool colo_packet_parse_head(ColoPacket *head, const uint8_t *data,
                            uint32_t len, uint32_t size,
                            uint32_t vnet_hdr_len);

/* Hash and equality of keys, for GHashTable and the like */
guint colo_flow_key_hash(gconstpointer key);
gboolean colo_flow_key_equal(gconstpointer a, gconstpointer b);

/* The key of the other direction */
void colo_flow_key_reverse(const ColoFlowKey *key, ColoFlowKey *reverse);

/* Sequence space that a TCP segment takes: payload, SYN and FIN */
static inline uint32_t colo_packet_seq_len(const ColoPacket *p)
{
    return p->payload_len + !!(p->tcp_flags & COLO_TCP_SYN) +
           !!(p->tcp_flags & COLO_TCP_FIN);
}

/* Is a before b?  Wrap-safe comparison of sequence numbers. */
static inline bool colo_seq_lt(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) < 0;
}

static inline bool colo_seq_le(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) <= 0;
}

/*
 * Change a field of a TCP segment in the packet's data and here (ports in the
 * key); the checksum is mended by difference (RFC 1624) unless it is partial.
 * A checksum that was wrong stays wrong.
 */
void colo_packet_set_sport(ColoPacket *p, uint16_t port);
void colo_packet_set_dport(ColoPacket *p, uint16_t port);
void colo_packet_set_seq(ColoPacket *p, uint32_t seq);
void colo_packet_set_ack(ColoPacket *p, uint32_t ack);
void colo_packet_set_window(ColoPacket *p, uint16_t window);
/* @edge: index below sack_edges; the value in host order */
uint32_t colo_packet_sack_edge(const ColoPacket *p, uint32_t edge);
void colo_packet_set_sack_edge(ColoPacket *p, uint32_t edge, uint32_t value);
/* Only if ts_off is not 0 */
uint32_t colo_packet_tsval(const ColoPacket *p);
uint32_t colo_packet_tsecr(const ColoPacket *p);
void colo_packet_set_tsval(ColoPacket *p, uint32_t value);
void colo_packet_set_tsecr(ColoPacket *p, uint32_t value);

/*
 * colo_packet_split: cut the front off a TCP segment
 *
 * Returns a new packet with the first @bytes of @p's payload (0 < @bytes <
 * payload_len), without FIN and PSH; @p keeps the rest, with seq moved.  A SYN
 * stays in front.  Lengths, IP header checksum, TCP checksum and vnet header
 * (GSO type dropped where one segment remains) are right in both; a checksum
 * that was wrong stays wrong.  epoch and arrived_ms are the same in both.  What
 * @p keeps of its payload stays where it is, its data begins later.
 */
ColoPacket *colo_packet_split(ColoPacket *p, uint32_t bytes);

/*
 * colo_packet_bare_ack: an acknowledgement without data
 *
 * Returns a new packet with the headers and options of @model (a TCP segment
 * with COLO_TCP_ACK), without payload, flags just ACK, with @seq and @ack, and
 * without GSO.  epoch and arrived_ms are the model's.
 */
ColoPacket *colo_packet_bare_ack(const ColoPacket *model, uint32_t seq,
                                 uint32_t ack);

/*
 * colo_packet_same_datagram: do two DATAGRAM or RAW packets mean the same?
 *
 * Compared: key, MAC addresses, whole VLAN tags, IP TOS/traffic class and
 * TTL/hop limit, IPv4 options, IPv6 extension headers, all of transport header
 * and payload except a checksum of UDP, ICMP and ICMPv6 (it follows from the
 * rest, and may be partial in one of the two).  Not compared: vnet header
 * (but for GSO of UDP_L4, whose gso_size is the length of the datagrams), IPv4
 * identification and header checksum, DF of a packet that is not fragmented,
 * IPv6 flow label, Ethernet padding.
 *
 * A FRAGMENT or a TCP segment is never the same as anything.
 */
bool colo_packet_same_datagram(const ColoPacket *a, const ColoPacket *b);

/*
 * colo_packet_is_membership: a whole report or query of group membership, of
 * IGMP or MLD (RFC 3376, RFC 3810)?
 */
bool colo_packet_is_membership(const ColoPacket *p);

/*
 * colo_packet_same_syn: do two segments with SYN mean the same?
 *
 * Key, flags (reserved bits too), window, options (values of timestamps
 * excepted), payload, and ack if they have one.  seq may differ.
 */
bool colo_packet_same_syn(const ColoPacket *a, const ColoPacket *b);

/*
 * ColoDefrag: puts fragments of datagrams together, to compare them
 *
 * Bounded in the number of datagrams under way and in bytes; the oldest one is
 * given up when a bound is passed.  Overlapping fragments make a datagram
 * that is never complete, and so do fragments whose headers disagree (MAC
 * addresses, tags, TOS, TTL, extension headers), since only one of them is in
 * the datagram.  An exact duplicate does no harm.
 */
typedef struct ColoDefrag ColoDefrag;

typedef struct ColoDefragged {
    /*
     * DATAGRAM, without a vnet header; compare it, do not send it.  A TCP
     * segment or what is malformed is one of bytes.  Its epoch is that of the
     * latest fragment, its arrived_ms that of the oldest.
     */
    ColoPacket *whole;
    /* Of ColoPacket *, in order of arrival; the array does not free them */
    GPtrArray *fragments;
} ColoDefragged;

ColoDefrag *colo_defrag_new(uint32_t max_datagrams, uint64_t max_bytes);
void colo_defrag_free(ColoDefrag *d);

/*
 * colo_defrag_add: takes over @p, a FRAGMENT
 *
 * Returns true if it was the last one missing; @out is the caller's then.
 * Datagrams that had to be given up are appended to @given_up (of ColoPacket *,
 * their fragments), which may be NULL to free them.
 */
bool colo_defrag_add(ColoDefrag *d, ColoPacket *p, ColoDefragged *out,
                     GPtrArray *given_up);

/* Take out everything that is incomplete, oldest first */
void colo_defrag_flush(ColoDefrag *d, GPtrArray *given_up);

#endif
