/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: the connections that the primary's guest begins, told to the
 * secondary's rewriter (see net/colo/rewrite.h for what that does with it).
 *
 *   filter-compare, or the filter-redirector before colo-compare, sees the SYN
 *   ->  filter-mirror  ->  the stream of its input
 *   ->  filter-redirector, in order with the input  ->  filter-rewriter
 *
 * So a SYN that is told belongs to the epoch that the secondary's guest
 * executes.  All of it under the BQL.
 */

#ifndef QEMU_NET_COLO_BEGIN_H
#define QEMU_NET_COLO_BEGIN_H

#include "net/colo/packet.h"
#include "net/net.h"

/*
 * Primary: with the SYN @p its guest begins a connection on @netdev.  One that
 * is said again is not told again.
 */
void colo_begin_tell(NetClientState *netdev, const ColoPacket *p);

/*
 * Primary: its guest sends the packet in @iov on @netdev; tell if it is a SYN
 *
 * @flags: of the packet (QEMU_NET_PACKET_FLAG_RAW: without a vnet header)
 */
void colo_begin_look(NetClientState *netdev, unsigned flags,
                     const struct iovec *iov, int iovcnt);

/*
 * colo_begin_told: secondary: what the primary tells of @netdev
 *
 * @data: a SYN of its guest, with a vnet header of @vnet_hdr_len; NULL: from
 *        now on each of them will be told
 */
void colo_begin_told(NetClientState *netdev, const uint8_t *data,
                     uint32_t size, uint32_t vnet_hdr_len);

/* Secondary: the primary tells no more */
void colo_begin_untold(NetClientState *netdev);

#endif
