/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: what a TCP segment is to the rules.  Pure, any thread.
 */

#ifndef QEMU_NET_COLO_MATCH_SEGMENT_H
#define QEMU_NET_COLO_MATCH_SEGMENT_H

#include "packet.h"

/* No rule for it but the commit */
static inline bool tcp_is_odd(const ColoPacket *p)
{
    unsigned flags = p->tcp_flags;

    return (flags & COLO_TCP_URG) || p->bound != COLO_TCP_FREE ||
           !(flags & (COLO_TCP_SYN | COLO_TCP_RST | COLO_TCP_ACK)) ||
           ((flags & COLO_TCP_SYN) &&
            (flags & (COLO_TCP_FIN | COLO_TCP_RST)));
}

static inline bool tcp_is_pure_ack(const ColoPacket *p)
{
    return !tcp_is_odd(p) && !colo_packet_seq_len(p) &&
           !(p->tcp_flags & COLO_TCP_RST);
}

/* Data or FIN */
static inline bool tcp_is_stream(const ColoPacket *p)
{
    return !tcp_is_odd(p) && colo_packet_seq_len(p) &&
           !(p->tcp_flags & (COLO_TCP_RST | COLO_TCP_SYN));
}

static inline bool tcp_has_ack(const ColoPacket *p)
{
    return (p->tcp_flags & COLO_TCP_ACK) && !(p->tcp_flags & COLO_TCP_RST) &&
           !tcp_is_odd(p);
}

static inline uint32_t tcp_end(const ColoPacket *p)
{
    return p->seq + colo_packet_seq_len(p);
}

#endif
