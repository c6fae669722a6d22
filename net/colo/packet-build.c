/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: TCP segments made of other ones.
 *
 * Both sides, any thread.
 *
 * A new segment keeps all of its model that is not said to change: MAC
 * addresses, tags, IP options and extension headers, TCP options.  The TCP
 * checksum is carried over by difference, like that of a field that changes:
 * what was damaged on its way here must not leave as if it were sound, and
 * the addresses in the pseudo header (not always those of the IP header, if
 * there is a routing header) need not be known.
 */

#include "qemu/osdep.h"
#include "packet-int.h"

/*
 * What the checksum covers that can change: the length in the pseudo header
 * and, unless it is partial, the segment
 */
static uint16_t covered(const ColoPacket *p)
{
    uint32_t len = p->payload + p->payload_len - p->l4;
    uint32_t sum = colo_csum_fold(len);

    if (!colo_packet_partial(p)) {
        sum += colo_csum_add(p->data + p->l4, len, 0);
    }
    return colo_csum_fold(sum);
}

/* What IP says its length is.  If that does not fit it is 0, with GSO. */
static uint16_t ip_length(const ColoPacket *p)
{
    uint32_t len = p->payload + p->payload_len - p->l3;

    if (p->key.ethertype == ETH_P_IPV6) {
        len -= IP6_HDR_LEN;
    }
    return len <= UINT16_MAX ? len : 0;
}

static void set_ip_length(ColoPacket *p)
{
    uint8_t *ip = p->data + p->l3;

    if (p->key.ethertype == ETH_P_IPV6) {
        stw_be_p(ip + offsetof(struct ip6_header, ip6_plen), ip_length(p));
        return;
    }
    stw_be_p(ip + offsetof(struct ip_header, ip_len), ip_length(p));
    stw_be_p(ip + offsetof(struct ip_header, ip_sum), 0);
    stw_be_p(ip + offsetof(struct ip_header, ip_sum),
             net_raw_checksum(ip, p->l4 - p->l3));
}

/*
 * No GSO for what one segment can take; no header beyond the headers.  A guest
 * may say that a segment can be longer than IP allows.
 */
static void set_vnet(ColoPacket *p)
{
    uint8_t *vnet = colo_packet_vnet(p);
    uint16_t hdr_len;

    if (!vnet) {
        return;
    }
    if (p->payload_len <= colo_packet_gso_size(p) && ip_length(p)) {
        vnet[offsetof(struct virtio_net_hdr, gso_type)] =
            VIRTIO_NET_HDR_GSO_NONE;
        stw_he_p(vnet + offsetof(struct virtio_net_hdr, gso_size), 0);
    }
    hdr_len = lduw_he_p(vnet + offsetof(struct virtio_net_hdr, hdr_len));
    stw_he_p(vnet + offsetof(struct virtio_net_hdr, hdr_len),
             MIN(hdr_len, p->payload - p->vnet_hdr_len));
}

/*
 * The segment has its new fields and payload, p->payload_len is right; all
 * that follows from them is not.  @before: what was covered() when the
 * checksum was right.
 */
static void finish(ColoPacket *p, uint16_t before)
{
    p->size = p->payload + p->payload_len;
    set_ip_length(p);
    colo_packet_mend(p, before, covered(p));
    set_vnet(p);
    colo_packet_parse(p);
}

/* Headers of @p and @bytes of its payload, in memory of its own */
static ColoPacket *front_of(const ColoPacket *p, uint32_t bytes)
{
    ColoPacket *front = colo_packet_dup(p, p->payload + bytes);

    front->payload_len = bytes;
    return front;
}

static void set_flags(ColoPacket *p, uint8_t flags)
{
    p->data[p->l4 + offsetof(struct tcp_header, th_offset_flags) + 1] = flags;
}

/* The segment begins @seq_len later now, urgent data does not */
static void move_urgent(ColoPacket *p, uint32_t seq_len)
{
    uint8_t *field = p->data + p->l4 + offsetof(struct tcp_header, th_urp);
    uint32_t urgent = lduw_be_p(field);

    if (!(p->tcp_flags & COLO_TCP_URG)) {
        return;
    }
    if (urgent > seq_len) {
        stw_be_p(field, urgent - seq_len);
    } else {
        stw_be_p(field, 0);
        p->tcp_flags &= ~COLO_TCP_URG;
    }
}

/*
 * How many segments the backend makes of the first @bytes: it counts up the
 * IPv4 identification with each of them
 */
static uint32_t segments(const ColoPacket *p, uint32_t bytes)
{
    uint32_t gso_size = colo_packet_gso_size(p);

    if (colo_packet_gso_type(p) == VIRTIO_NET_HDR_GSO_NONE || gso_size == 0) {
        return 1;
    }
    return DIV_ROUND_UP(bytes, gso_size);
}

static void cut_front(ColoPacket *p, uint32_t bytes, uint16_t before)
{
    uint32_t seq_len = bytes + !!(p->tcp_flags & COLO_TCP_SYN);

    if (p->key.ethertype == ETH_P_IP) {
        uint8_t *id = p->data + p->l3 + offsetof(struct ip_header, ip_id);

        stw_be_p(id, lduw_be_p(id) + segments(p, bytes));
    }
    stl_be_p(p->data + p->l4 + offsetof(struct tcp_header, th_seq),
             p->seq + seq_len);
    move_urgent(p, seq_len);
    /* CWR is said once */
    set_flags(p, p->tcp_flags & ~(COLO_TCP_SYN | TH_CWR));

    /* The headers are moved: they are short, and the payload may be long */
    memmove(p->data + bytes, p->data, p->payload);
    p->data += bytes;
    p->payload_len -= bytes;
    finish(p, before);
}

ColoPacket *colo_packet_split(ColoPacket *p, uint32_t bytes)
{
    ColoPacket *front;
    uint16_t before;

    g_assert(p->kind == COLO_PACKET_TCP);
    g_assert(bytes > 0 && bytes < p->payload_len);

    before = covered(p);
    front = front_of(p, bytes);
    set_flags(front, p->tcp_flags & ~(COLO_TCP_FIN | COLO_TCP_PSH));
    finish(front, before);

    cut_front(p, bytes, before);
    return front;
}

ColoPacket *colo_packet_bare_ack(const ColoPacket *model, uint32_t seq,
                                 uint32_t ack)
{
    ColoPacket *p;
    uint8_t *tcp;

    g_assert(model->kind == COLO_PACKET_TCP);

    p = front_of(model, 0);
    tcp = p->data + p->l4;
    stl_be_p(tcp + offsetof(struct tcp_header, th_seq), seq);
    stl_be_p(tcp + offsetof(struct tcp_header, th_ack), ack);
    stw_be_p(tcp + offsetof(struct tcp_header, th_urp), 0);
    /* Reserved bits are flags, too */
    tcp[offsetof(struct tcp_header, th_offset_flags)] &= 0xf0;
    set_flags(p, COLO_TCP_ACK);
    finish(p, covered(model));
    return p;
}
