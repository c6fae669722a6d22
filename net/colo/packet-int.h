/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: what the parts of packet.h share.  Pure, any thread.
 */

#ifndef QEMU_NET_COLO_PACKET_INT_H
#define QEMU_NET_COLO_PACKET_INT_H

#include "net/checksum.h"
#include "packet.h"
#include "net/eth.h"
#include "standard-headers/linux/virtio_net.h"

#define IP6_HDR_LEN         (sizeof(struct ip6_header))
#define IP6_PLEN            4
#define IP6_NEXT            6
#define IP6_HOP_LIMIT       7
#define IP6_TCLASS_MASK     0x0ff00000
/* Fragment header: 13 bits of offset, 2 reserved, more fragments */
#define IP6_FRAG_LEN        8
#define IP6_FRAG_OFF        2
#define IP6_FRAG_ID         4
#define IP6_FRAG_MORE       1

/*
 * colo_packet_hash: a hash for tables whose keys come from the network
 *
 * It is keyed with a number that nobody outside of this process knows: who
 * sends packets cannot choose them so that their hashes are the same.
 */
guint colo_packet_hash(const void *data, size_t len);

/* Ones' complement sum in 16 bits */
static inline uint16_t colo_csum_fold(uint32_t sum)
{
    return ~net_checksum_finish(sum);
}

/*
 * colo_csum_add: the folded sum of @size bytes at @buf
 *
 * @pos: where they begin in what is summed; only its lowest bit matters
 */
uint16_t colo_csum_add(const uint8_t *buf, uint32_t size, uint32_t pos);

/* The vnet header if @p has one that is long enough, NULL otherwise */
static inline uint8_t *colo_packet_vnet(const ColoPacket *p)
{
    return p->vnet_hdr_len >= sizeof(struct virtio_net_hdr) &&
           p->size >= p->vnet_hdr_len ? p->data : NULL;
}

/* Type without the ECN bit; VIRTIO_NET_HDR_GSO_NONE if there is no header */
uint8_t colo_packet_gso_type(const ColoPacket *p);
uint16_t colo_packet_gso_size(const ColoPacket *p);

/* Has the checksum of a TCP segment the sum of the pseudo header alone? */
bool colo_packet_partial(const ColoPacket *p);

/*
 * colo_packet_mend: bring the TCP checksum from what it covered to what it
 * covers now, both as sums.  The field itself may be in both or in none.
 */
void colo_packet_mend(ColoPacket *p, uint16_t before, uint16_t after);

/* TOS, TTL and the reserved bit, or what IPv6 has of them; next header */
bool colo_packet_same_hops(const ColoPacket *a, const ColoPacket *b);

/* Are [@from, @to) of @a and as many bytes from @at of @b the same? */
static inline bool colo_packet_same_bytes(const ColoPacket *a, uint32_t from,
                                          uint32_t to, const ColoPacket *b,
                                          uint32_t at)
{
    return from == to ||
           memcmp(a->data + from, b->data + at, to - from) == 0;
}

#endif
