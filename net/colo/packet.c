/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: what is in a packet, keys of flows, fields of TCP segments, and
 * when two packets mean the same.
 *
 * Both sides, any thread.
 *
 * A packet is looked at from the outside in.  Each layer finds out where it
 * ends before anything of it is read, and the next one has to lie inside of
 * it: Ethernet and tags inside of the frame, IP inside of the frame (what is
 * behind it is padding), the transport header inside of IP.  The first thing
 * that is not so makes the packet RAW: it is compared as bytes then, which
 * is right for whatever it is.
 *
 * The vnet header is in host order, as everywhere between a net filter and
 * its backend.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "crypto/random.h"
#include "packet-int.h"
#include "siphash.h"

#define NO_VLAN             0xffff
/* EtherTypes below this one are the length of an 802.3 frame */
#define ETHERTYPE_MIN       0x0600

/* Fixed part of an ARP packet, and where the sizes of addresses are in it */
#define ARP_FIXED_LEN       8
#define ARP_HLN             4
#define ARP_PLN             5

#define PROTO_ICMP          1
#define PROTO_IGMP          2
#define PROTO_ICMPV6        58
#define ICMP_HDR_LEN        8
#define ICMP_CSUM           2
#define MLD_QUERY           130
#define MLD_DONE            132
#define MLD2_REPORT         143

#define IP_HDR_LEN          (sizeof(struct ip_header))
#define IP6_SRC             8
#define IP6_DST             24
#define IP6_EXT_MIN         8

#define TCP_SPORT           (offsetof(struct tcp_header, th_sport))
#define TCP_DPORT           (offsetof(struct tcp_header, th_dport))
#define TCP_SEQ             (offsetof(struct tcp_header, th_seq))
#define TCP_ACK             (offsetof(struct tcp_header, th_ack))
#define TCP_WINDOW          (offsetof(struct tcp_header, th_win))
#define TCP_DOFF            (offsetof(struct tcp_header, th_offset_flags))
#define TCP_WIN             (offsetof(struct tcp_header, th_win))
#define TCP_CSUM            (offsetof(struct tcp_header, th_sum))
#define TCP_OPT_EOL         0
#define TCP_OPT_NOP         1
#define TCP_OPT_SACK        5
#define TCP_OPT_TS          8
#define TCP_OPT_TS_LEN      10
#define TCP_OPT_MD5         19
#define TCP_OPT_AO          29
#define TCP_OPT_MPTCP       30

QEMU_BUILD_BUG_ON(sizeof(ColoFlowKey) != 44);

/* The vnet header */

uint8_t colo_packet_gso_type(const ColoPacket *p)
{
    const uint8_t *vnet = colo_packet_vnet(p);

    return vnet ? vnet[offsetof(struct virtio_net_hdr, gso_type)] &
                  ~VIRTIO_NET_HDR_GSO_ECN : VIRTIO_NET_HDR_GSO_NONE;
}

uint16_t colo_packet_gso_size(const ColoPacket *p)
{
    const uint8_t *vnet = colo_packet_vnet(p);

    return vnet ? lduw_he_p(vnet + offsetof(struct virtio_net_hdr, gso_size))
                : 0;
}

bool colo_packet_partial(const ColoPacket *p)
{
    const uint8_t *vnet = colo_packet_vnet(p);
    uint32_t start, offset;

    if (!vnet || !(vnet[offsetof(struct virtio_net_hdr, flags)] &
                   VIRTIO_NET_HDR_F_NEEDS_CSUM)) {
        return false;
    }
    start = lduw_he_p(vnet + offsetof(struct virtio_net_hdr, csum_start));
    offset = lduw_he_p(vnet + offsetof(struct virtio_net_hdr, csum_offset));
    return start == p->l4 - p->vnet_hdr_len && offset == TCP_CSUM;
}

static bool is_gso(const ColoPacket *p)
{
    return colo_packet_gso_type(p) != VIRTIO_NET_HDR_GSO_NONE;
}

/* Parsing */

/* Can the headers be read up to @end?  @p->size has been looked at before. */
static bool can_read(ColoPacket *p, uint32_t end)
{
    p->cut_short |= end > p->readable;
    return !p->cut_short;
}

/* Parsing: transport */

static void parse_tcp_options(ColoPacket *p)
{
    uint32_t off = p->l4 + sizeof(struct tcp_header);

    while (off < p->payload && p->data[off] != TCP_OPT_EOL) {
        uint32_t room = p->payload - off;
        uint8_t len;

        if (p->data[off] == TCP_OPT_NOP) {
            off++;
            continue;
        }
        len = room < 2 ? 0 : p->data[off + 1];
        if (len < 2 || len > room) {
            /* What was found so far holds, for the guests as well */
            return;
        }
        if (p->data[off] == TCP_OPT_TS && len == TCP_OPT_TS_LEN) {
            p->ts_off = off + 2;
        } else if (p->data[off] == TCP_OPT_SACK && len > 2 &&
                   (len - 2) % 8 == 0) {
            p->sack_off = off + 2;
            p->sack_edges = (len - 2) / 4;
        } else if (p->data[off] == TCP_OPT_MD5 ||
                   p->data[off] == TCP_OPT_AO) {
            p->bound = COLO_TCP_SIGNED;
        } else if (p->data[off] == TCP_OPT_MPTCP) {
            p->bound = MAX(p->bound, COLO_TCP_MULTIPATH);
        }
        off += len;
    }
}

static bool parse_tcp(ColoPacket *p, uint32_t room)
{
    const uint8_t *tcp = p->data + p->l4;
    uint32_t hlen;

    if (room < sizeof(struct tcp_header) ||
        !can_read(p, p->l4 + sizeof(struct tcp_header))) {
        return false;
    }
    hlen = (tcp[TCP_DOFF] >> 4) * 4;
    if (hlen < sizeof(struct tcp_header) || hlen > room ||
        !can_read(p, p->l4 + hlen)) {
        return false;
    }
    p->kind = COLO_PACKET_TCP;
    p->key.sport = lduw_be_p(tcp);
    p->key.dport = lduw_be_p(tcp + 2);
    p->payload = p->l4 + hlen;
    p->payload_len = room - hlen;
    p->seq = ldl_be_p(tcp + TCP_SEQ);
    p->ack = ldl_be_p(tcp + TCP_ACK);
    p->tcp_flags = tcp[TCP_DOFF + 1];
    p->window = lduw_be_p(tcp + TCP_WIN);
    parse_tcp_options(p);
    return true;
}

static bool parse_udp(ColoPacket *p, uint32_t room)
{
    const uint8_t *udp = p->data + p->l4;
    uint32_t len;

    if (room < sizeof(struct udp_header) ||
        !can_read(p, p->l4 + sizeof(struct udp_header))) {
        return false;
    }
    len = lduw_be_p(udp + offsetof(struct udp_header, uh_ulen));
    if (len == 0 && is_gso(p)) {
        len = room;
    }
    if (len < sizeof(struct udp_header) || len > room) {
        return false;
    }
    p->key.sport = lduw_be_p(udp);
    p->key.dport = lduw_be_p(udp + 2);
    p->payload = p->l4 + sizeof(struct udp_header);
    /* What lies between the ends of UDP and IP is sent, so it counts */
    p->payload_len = room - sizeof(struct udp_header);
    return true;
}

/* @end: of the IP packet; p->l4, the addresses and the protocol are known */
static bool parse_transport(ColoPacket *p, uint32_t end)
{
    uint32_t room = end - p->l4;
    bool v4 = p->key.ethertype == ETH_P_IP;

    p->kind = COLO_PACKET_DATAGRAM;
    p->payload = p->l4;
    p->payload_len = room;
    if (p->key.proto == IP_PROTO_TCP) {
        return parse_tcp(p, room);
    }
    if (p->key.proto == IP_PROTO_UDP) {
        return parse_udp(p, room);
    }
    if (p->key.proto == (v4 ? PROTO_ICMP : PROTO_ICMPV6)) {
        if (room < ICMP_HDR_LEN) {
            return false;
        }
        p->payload += ICMP_HDR_LEN;
        p->payload_len -= ICMP_HDR_LEN;
    }
    return true;
}

/*
 * Something that no receiver would take as a fragment is none.  @before: what
 * of the datagram's IP length is taken by headers already.
 */
static bool parse_fragment(ColoPacket *p, uint32_t end, uint32_t before)
{
    uint32_t len = end - p->l4;

    if (len == 0 || (p->frag_more && len % IP_FRAG_UNIT_SIZE) ||
        before + p->frag_offset + len > ETH_MAX_IP_DGRAM_LEN) {
        return false;
    }
    p->kind = COLO_PACKET_FRAGMENT;
    p->payload = p->l4;
    p->payload_len = len;
    return true;
}

/* Parsing: IP */

static bool parse_ipv4(ColoPacket *p)
{
    const uint8_t *ip = p->data + p->l3;
    uint32_t room = p->size - p->l3;
    uint32_t hlen, len;
    uint16_t off;

    if (room < IP_HDR_LEN || !can_read(p, p->l3 + IP_HDR_LEN) ||
        ip[0] >> 4 != IP_HEADER_VERSION_4) {
        return false;
    }
    hlen = (ip[0] & 0xf) * 4;
    len = lduw_be_p(ip + offsetof(struct ip_header, ip_len));
    if (len == 0 && is_gso(p)) {
        len = room;
    }
    if (hlen < IP_HDR_LEN || len < hlen || len > room) {
        return false;
    }
    memcpy(p->key.src, ip + offsetof(struct ip_header, ip_src), 4);
    memcpy(p->key.dst, ip + offsetof(struct ip_header, ip_dst), 4);
    p->key.proto = ip[offsetof(struct ip_header, ip_p)];
    p->l4 = p->l3 + hlen;

    off = lduw_be_p(ip + offsetof(struct ip_header, ip_off));
    if (off & (IP_MF | IP_OFFMASK)) {
        p->frag_id = lduw_be_p(ip + offsetof(struct ip_header, ip_id));
        p->frag_offset = (off & IP_OFFMASK) * IP_FRAG_UNIT_SIZE;
        p->frag_more = off & IP_MF;
        return parse_fragment(p, p->l3 + len, hlen);
    }
    return parse_transport(p, p->l3 + len);
}

static bool parse_ipv6_fragment(ColoPacket *p, uint32_t end, uint32_t off)
{
    const uint8_t *frag = p->data + off;
    uint16_t bits;

    if (end - off < IP6_EXT_MIN || !can_read(p, off + IP6_EXT_MIN)) {
        return false;
    }
    bits = lduw_be_p(frag + IP6_FRAG_OFF);
    p->key.proto = frag[0];
    p->frag_id = ldl_be_p(frag + IP6_FRAG_ID);
    p->frag_offset = bits & ~(IP_FRAG_UNIT_SIZE - 1);
    p->frag_more = bits & IP6_FRAG_MORE;
    p->l4 = off + IP6_EXT_MIN;
    return parse_fragment(p, end, off - p->l3 - IP6_HDR_LEN);
}

/*
 * Headers that are about the packet's way are skipped.  What secures or wraps
 * the rest (AH, ESP, tunnels) is a protocol like any other: nothing behind it
 * may be changed.
 */
static bool parse_ipv6_headers(ColoPacket *p, uint32_t end)
{
    uint32_t off = p->l3 + IP6_HDR_LEN;
    uint8_t next = p->data[p->l3 + IP6_NEXT];

    for (;;) {
        uint32_t len;

        switch (next) {
        case IP6_HOP_BY_HOP:
            if (off != p->l3 + IP6_HDR_LEN) {
                return false;
            }
            /* fall through */
        case IP6_ROUTING:
        case IP6_DESTINATON:
            if (end - off < IP6_EXT_MIN || !can_read(p, off + IP6_EXT_MIN)) {
                return false;
            }
            len = (p->data[off + 1] + 1) * IP6_EXT_GRANULARITY;
            if (len > end - off) {
                return false;
            }
            next = p->data[off];
            off += len;
            break;
        case IP6_FRAGMENT:
            return parse_ipv6_fragment(p, end, off);
        default:
            p->key.proto = next;
            p->l4 = off;
            return parse_transport(p, end);
        }
    }
}

static bool parse_ipv6(ColoPacket *p)
{
    const uint8_t *ip = p->data + p->l3;
    uint32_t room = p->size - p->l3;
    uint32_t len;

    if (room < IP6_HDR_LEN || !can_read(p, p->l3 + IP6_HDR_LEN) ||
        ip[0] >> 4 != IP_HEADER_VERSION_6) {
        return false;
    }
    room -= IP6_HDR_LEN;
    len = lduw_be_p(ip + IP6_PLEN);
    if (len == 0 && is_gso(p)) {
        len = room;
    }
    if (len > room) {
        return false;
    }
    memcpy(p->key.src, ip + IP6_SRC, sizeof(p->key.src));
    memcpy(p->key.dst, ip + IP6_DST, sizeof(p->key.dst));
    return parse_ipv6_headers(p, p->l3 + IP6_HDR_LEN + len);
}

/* Parsing: Ethernet */

/* How much of a RAW packet is meant, where that can be told from padding */
static uint32_t raw_len(ColoPacket *p)
{
    const uint8_t *data = p->data + p->l3;
    uint32_t room = p->size - p->l3;
    uint32_t len = room;

    if (p->key.ethertype == ETH_P_ARP && room >= ARP_FIXED_LEN &&
        can_read(p, p->l3 + ARP_FIXED_LEN)) {
        len = ARP_FIXED_LEN + 2 * (data[ARP_HLN] + data[ARP_PLN]);
    } else if (p->key.ethertype < ETHERTYPE_MIN && p->key.ethertype > 0) {
        len = p->key.ethertype;
    }
    return MIN(len, room);
}

/* Sets p->l3, EtherType and tags of a frame that has a whole Ethernet header */
static void parse_ethernet(ColoPacket *p)
{
    uint32_t off = p->vnet_hdr_len + offsetof(struct eth_header, h_proto);

    for (unsigned tag = 0; ; tag++) {
        p->key.ethertype = lduw_be_p(p->data + off);
        p->l3 = off + 2;
        if ((p->key.ethertype != ETH_P_VLAN &&
             p->key.ethertype != ETH_P_DVLAN) ||
            tag == COLO_PACKET_VLANS ||
            p->size - p->l3 < sizeof(struct vlan_header) ||
            !can_read(p, p->l3 + sizeof(struct vlan_header))) {
            return;
        }
        p->key.vlan[tag] = lduw_be_p(p->data + p->l3) & VLAN_VID_MASK;
        off = p->l3 + 2;
    }
}

static void set_raw(ColoPacket *p)
{
    ColoFlowKey key = { .kind = COLO_PACKET_RAW,
                        .ethertype = p->key.ethertype };
    const uint8_t *eth = p->data + p->vnet_hdr_len;

    memcpy(key.vlan, p->key.vlan, sizeof(key.vlan));
    memcpy(key.src, eth + offsetof(struct eth_header, h_source), ETH_ALEN);
    memcpy(key.dst, eth + offsetof(struct eth_header, h_dest), ETH_ALEN);
    p->key = key;
    p->kind = COLO_PACKET_RAW;
    p->l4 = p->l3;
    p->payload = p->l3;
    p->payload_len = raw_len(p);
    p->frag_id = 0;
    p->frag_offset = 0;
    p->frag_more = false;
}

/* All but data, size and readable follows from these, or is the owner's */
static void parse(ColoPacket *p)
{
    ColoPacket fresh = {
        .next = p->next,
        .buffer = p->buffer,
        .data = p->data,
        .size = p->size,
        .readable = p->readable,
        .vnet_hdr_len = p->vnet_hdr_len,
        .kind = COLO_PACKET_RAW,
        .key.kind = COLO_PACKET_RAW,
        .key.vlan = { NO_VLAN, NO_VLAN },
        .epoch = p->epoch,
        .arrived_ms = p->arrived_ms,
        .tag = p->tag,
    };
    bool known = false;

    *p = fresh;
    if (p->size < p->vnet_hdr_len ||
        p->size - p->vnet_hdr_len < sizeof(struct eth_header)) {
        p->l3 = p->l4 = p->payload = MIN(p->vnet_hdr_len, p->size);
        p->payload_len = p->size - p->payload;
        return;
    }
    if (!can_read(p, p->vnet_hdr_len + sizeof(struct eth_header))) {
        return;
    }
    parse_ethernet(p);
    if (p->key.ethertype == ETH_P_IP) {
        known = parse_ipv4(p);
    } else if (p->key.ethertype == ETH_P_IPV6) {
        known = parse_ipv6(p);
    }
    if (!known && !p->cut_short) {
        set_raw(p);
        return;
    }
    p->key.kind = p->kind == COLO_PACKET_FRAGMENT ? COLO_PACKET_DATAGRAM
                                                  : p->kind;
}

void colo_packet_parse(ColoPacket *p)
{
    p->readable = p->size;
    parse(p);
}

bool colo_packet_parse_head(ColoPacket *head, const uint8_t *data,
                            uint32_t len, uint32_t size,
                            uint32_t vnet_hdr_len)
{
    *head = (ColoPacket) {
        .data = (uint8_t *)data,
        .size = size,
        .readable = MIN(len, size),
        .vnet_hdr_len = vnet_hdr_len,
    };
    parse(head);
    return !head->cut_short;
}

/* Life */

ColoPacket *colo_packet_wrap(uint8_t *data, uint32_t size,
                             uint32_t vnet_hdr_len)
{
    ColoPacket *p = g_new0(ColoPacket, 1);

    p->kind = COLO_PACKET_RAW;
    p->buffer = p->data = data;
    p->size = size;
    p->vnet_hdr_len = vnet_hdr_len;
    return p;
}

ColoPacket *colo_packet_new(uint8_t *data, uint32_t size,
                            uint32_t vnet_hdr_len)
{
    ColoPacket *p = colo_packet_wrap(data, size, vnet_hdr_len);

    colo_packet_parse(p);
    return p;
}

static ColoPacket *packet_before(uint8_t *data, uint32_t size,
                                 uint32_t vnet_hdr_len)
{
    ColoPacket *p = (ColoPacket *)(data - COLO_PACKET_ROOM);

    *p = (ColoPacket) {
        .data = data,
        .size = size,
        .vnet_hdr_len = vnet_hdr_len,
    };
    return p;
}

ColoPacket *colo_packet_alloc(uint32_t size, uint32_t vnet_hdr_len)
{
    uint8_t *room = g_malloc(COLO_PACKET_ROOM + size);

    return packet_before(room + COLO_PACKET_ROOM, size, vnet_hdr_len);
}

ColoPacket *colo_packet_new_behind(uint8_t *data, uint32_t size,
                                   uint32_t vnet_hdr_len)
{
    ColoPacket *p = packet_before(data, size, vnet_hdr_len);

    colo_packet_parse(p);
    return p;
}

ColoPacket *colo_packet_dup(const ColoPacket *p, uint32_t size)
{
    ColoPacket *dup = colo_packet_alloc(size, p->vnet_hdr_len);
    uint8_t *data = dup->data;

    *dup = *p;
    memset(&dup->next, 0, sizeof(dup->next));
    dup->buffer = NULL;
    dup->data = data;
    dup->size = size;
    if (size) {
        memcpy(data, p->data, size);
    }
    return dup;
}

ColoPacket *colo_packet_copy(const ColoPacket *p)
{
    return colo_packet_dup(p, p->size);
}

void colo_packet_free(ColoPacket *p)
{
    if (p) {
        g_free(p->buffer);
        g_free(p);
    }
}

/* Keys */

guint colo_packet_hash(const void *data, size_t len)
{
    static ColoSipKey key;
    static gsize has_key;

    if (g_once_init_enter(&has_key)) {
        qcrypto_random_bytes(&key, sizeof(key), &error_abort);
        g_once_init_leave(&has_key, 1);
    }
    return colo_siphash(&key, data, len);
}

guint colo_flow_key_hash(gconstpointer key)
{
    return colo_packet_hash(key, sizeof(ColoFlowKey));
}

gboolean colo_flow_key_equal(gconstpointer a, gconstpointer b)
{
    return memcmp(a, b, sizeof(ColoFlowKey)) == 0;
}

void colo_flow_key_reverse(const ColoFlowKey *key, ColoFlowKey *reverse)
{
    ColoFlowKey r = *key;

    memcpy(r.src, key->dst, sizeof(r.src));
    memcpy(r.dst, key->src, sizeof(r.dst));
    r.sport = key->dport;
    r.dport = key->sport;
    *reverse = r;
}

/* Fields of TCP segments */

uint16_t colo_csum_add(const uint8_t *buf, uint32_t size, uint32_t pos)
{
    uint32_t sum = 0;

    /* In pieces of even size that cannot overflow the sum */
    while (size) {
        uint32_t n = MIN(size, 0x8000);

        sum = colo_csum_fold(sum) +
              colo_csum_fold(net_checksum_add_cont(n, (uint8_t *)buf, pos));
        buf += n;
        size -= n;
    }
    return colo_csum_fold(sum);
}

void colo_packet_mend(ColoPacket *p, uint16_t before, uint16_t after)
{
    uint8_t *field = p->data + p->l4 + TCP_CSUM;
    uint16_t csum = lduw_be_p(field);

    if (colo_packet_partial(p)) {
        csum = colo_csum_fold(csum + (uint16_t)~before + after);
    } else {
        csum = ~colo_csum_fold((uint16_t)~csum + (uint16_t)~before + after);
    }
    stw_be_p(field, csum);
}

/* A 32-bit field of the TCP header or its options, not always aligned there */
static void set_field(ColoPacket *p, uint32_t off, uint32_t value)
{
    uint8_t *field = p->data + off;
    uint16_t before;

    g_assert(p->kind == COLO_PACKET_TCP);
    g_assert(off >= p->l4 && off + sizeof(value) <= p->payload);

    before = colo_csum_add(field, sizeof(value), off - p->l4);
    stl_be_p(field, value);
    if (!colo_packet_partial(p)) {
        colo_packet_mend(p, before, colo_csum_add(field, sizeof(value),
                                                  off - p->l4));
    }
}

/* A 16-bit field of the TCP header */
static void set_field16(ColoPacket *p, uint32_t off, uint16_t value)
{
    uint8_t *field = p->data + p->l4 + off;
    uint16_t before;

    g_assert(p->kind == COLO_PACKET_TCP);
    before = colo_csum_add(field, sizeof(value), 0);
    stw_be_p(field, value);
    if (!colo_packet_partial(p)) {
        colo_packet_mend(p, before, colo_csum_add(field, sizeof(value), 0));
    }
}

void colo_packet_set_sport(ColoPacket *p, uint16_t port)
{
    set_field16(p, TCP_SPORT, port);
    p->key.sport = port;
}

void colo_packet_set_dport(ColoPacket *p, uint16_t port)
{
    set_field16(p, TCP_DPORT, port);
    p->key.dport = port;
}

void colo_packet_set_seq(ColoPacket *p, uint32_t seq)
{
    set_field(p, p->l4 + TCP_SEQ, seq);
    p->seq = seq;
}

void colo_packet_set_ack(ColoPacket *p, uint32_t ack)
{
    set_field(p, p->l4 + TCP_ACK, ack);
    p->ack = ack;
}

void colo_packet_set_window(ColoPacket *p, uint16_t window)
{
    set_field16(p, TCP_WINDOW, window);
    p->window = window;
}

uint32_t colo_packet_sack_edge(const ColoPacket *p, uint32_t edge)
{
    g_assert(edge < p->sack_edges);
    return ldl_be_p(p->data + p->sack_off + edge * 4);
}

void colo_packet_set_sack_edge(ColoPacket *p, uint32_t edge, uint32_t value)
{
    g_assert(edge < p->sack_edges);
    set_field(p, p->sack_off + edge * 4, value);
}

uint32_t colo_packet_tsval(const ColoPacket *p)
{
    g_assert(p->ts_off);
    return ldl_be_p(p->data + p->ts_off);
}

uint32_t colo_packet_tsecr(const ColoPacket *p)
{
    g_assert(p->ts_off);
    return ldl_be_p(p->data + p->ts_off + 4);
}

void colo_packet_set_tsval(ColoPacket *p, uint32_t value)
{
    g_assert(p->ts_off);
    set_field(p, p->ts_off, value);
}

void colo_packet_set_tsecr(ColoPacket *p, uint32_t value)
{
    g_assert(p->ts_off);
    set_field(p, p->ts_off + 4, value);
}

/* Meaning */

/* MAC addresses, whole tags, EtherType */
static bool same_ethernet(const ColoPacket *a, const ColoPacket *b)
{
    uint32_t at_a = MIN(a->vnet_hdr_len, a->l3);
    uint32_t at_b = MIN(b->vnet_hdr_len, b->l3);

    return a->l3 - at_a == b->l3 - at_b &&
           colo_packet_same_bytes(a, at_a, a->l3, b, at_b);
}

bool colo_packet_same_hops(const ColoPacket *a, const ColoPacket *b)
{
    const uint8_t *x = a->data + a->l3;
    const uint8_t *y = b->data + b->l3;

    if (a->key.ethertype == ETH_P_IPV6) {
        return ((ldl_be_p(x) ^ ldl_be_p(y)) & IP6_TCLASS_MASK) == 0 &&
               x[IP6_NEXT] == y[IP6_NEXT] &&
               x[IP6_HOP_LIMIT] == y[IP6_HOP_LIMIT];
    }
    return x[offsetof(struct ip_header, ip_tos)] ==
               y[offsetof(struct ip_header, ip_tos)] &&
           x[offsetof(struct ip_header, ip_ttl)] ==
               y[offsetof(struct ip_header, ip_ttl)] &&
           ((lduw_be_p(x + offsetof(struct ip_header, ip_off)) ^
             lduw_be_p(y + offsetof(struct ip_header, ip_off))) &
            IP_RF) == 0;
}

/* What the key does not have; both have the same length */
static bool same_ip(const ColoPacket *a, const ColoPacket *b)
{
    uint32_t fixed = a->key.ethertype == ETH_P_IPV6 ? IP6_HDR_LEN
                                                    : IP_HDR_LEN;

    return colo_packet_same_hops(a, b) &&
           colo_packet_same_bytes(a, a->l3 + fixed, a->l4, b, b->l3 + fixed);
}

/* One frame is several datagrams then; its gso_size says how long they are */
static bool same_udp_gso(const ColoPacket *a, const ColoPacket *b)
{
    bool gso = colo_packet_gso_type(a) == VIRTIO_NET_HDR_GSO_UDP_L4;

    if (gso != (colo_packet_gso_type(b) == VIRTIO_NET_HDR_GSO_UDP_L4)) {
        return false;
    }
    return !gso || colo_packet_gso_size(a) == colo_packet_gso_size(b);
}

/* Both have the same lengths and the same protocol */
static bool same_transport(const ColoPacket *a, const ColoPacket *b)
{
    uint32_t end = a->payload + a->payload_len;
    uint32_t csum = a->l4 + ICMP_CSUM;

    if (a->payload == a->l4) {
        return colo_packet_same_bytes(a, a->l4, end, b, b->l4);
    }
    if (a->key.proto == IP_PROTO_UDP) {
        csum = a->l4 + offsetof(struct udp_header, uh_sum);
    }
    return colo_packet_same_bytes(a, a->l4, csum, b, b->l4) &&
           colo_packet_same_bytes(a, csum + 2, end,
                                  b, b->l4 + csum + 2 - a->l4);
}

bool colo_packet_same_datagram(const ColoPacket *a, const ColoPacket *b)
{
    if (a->kind != b->kind ||
        (a->kind != COLO_PACKET_DATAGRAM && a->kind != COLO_PACKET_RAW) ||
        !colo_flow_key_equal(&a->key, &b->key) ||
        a->l4 - a->l3 != b->l4 - b->l3 ||
        a->payload - a->l4 != b->payload - b->l4 ||
        a->payload_len != b->payload_len ||
        !same_ethernet(a, b)) {
        return false;
    }
    if (a->kind == COLO_PACKET_DATAGRAM &&
        (!same_udp_gso(a, b) || !same_ip(a, b))) {
        return false;
    }
    return same_transport(a, b);
}

bool colo_packet_is_membership(const ColoPacket *p)
{
    uint8_t type;

    if (p->kind != COLO_PACKET_DATAGRAM) {
        return false;
    }
    if (p->key.ethertype == ETH_P_IP) {
        return p->key.proto == PROTO_IGMP;
    }
    if (p->key.proto != PROTO_ICMPV6 || p->payload == p->l4) {
        return false;
    }
    type = p->data[p->l4];
    return (type >= MLD_QUERY && type <= MLD_DONE) || type == MLD2_REPORT;
}

/* The same options in the same places; what the clocks say may differ */
static bool same_tcp_options(const ColoPacket *a, const ColoPacket *b)
{
    uint32_t begin = a->l4 + sizeof(struct tcp_header);
    uint32_t shift = b->l4 - a->l4;

    if (!a->ts_off != !b->ts_off ||
        (a->ts_off && a->ts_off - a->l4 != b->ts_off - b->l4)) {
        return false;
    }
    if (a->ts_off) {
        if (!colo_packet_same_bytes(a, begin, a->ts_off, b, begin + shift)) {
            return false;
        }
        begin = a->ts_off + TCP_OPT_TS_LEN - 2;
    }
    return colo_packet_same_bytes(a, begin, a->payload, b, begin + shift);
}

bool colo_packet_same_syn(const ColoPacket *a, const ColoPacket *b)
{
    return a->kind == COLO_PACKET_TCP && b->kind == COLO_PACKET_TCP &&
           (a->tcp_flags & COLO_TCP_SYN) &&
           colo_flow_key_equal(&a->key, &b->key) &&
           /* Length of the header, and all flags, reserved ones too */
           colo_packet_same_bytes(a, a->l4 + TCP_DOFF, a->l4 + TCP_WIN,
                                  b, b->l4 + TCP_DOFF) &&
           a->window == b->window &&
           (!(a->tcp_flags & COLO_TCP_ACK) || a->ack == b->ack) &&
           same_tcp_options(a, b) &&
           a->payload_len == b->payload_len &&
           colo_packet_same_bytes(a, a->payload, a->payload + a->payload_len,
                                  b, b->payload);
}
