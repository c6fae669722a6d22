/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: is a packet worth a copy to the rewriter?
 *
 * Secondary, pure.  See colo_rewrite_wants().
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "rewrite-int.h"

#define ETH_TYPE_OFFSET     12
#define ETH_TYPE_IPV4       0x0800
#define ETH_TYPE_IPV6       0x86dd
#define ETH_TYPE_8021Q      0x8100
#define ETH_TYPE_8021AD     0x88a8
#define TCP_HDR_MIN         20

typedef struct Head {
    const uint8_t *data;
    size_t len;
    size_t l3;
    size_t l4;
    ColoFlowKey key;
} Head;

typedef enum Glance {
    GLANCE_NOT_TCP,
    GLANCE_TCP,                 /* Head has all of its fields */
    GLANCE_UNCLEAR,
} Glance;

/* An ICMP error may be about a segment */
static Glance glance_icmp(const Head *h, size_t icmp, uint8_t proto)
{
    return icmp < h->len && colo_rewrite_icmp_is_error(proto, h->data[icmp])
           ? GLANCE_UNCLEAR : GLANCE_NOT_TCP;
}

static Glance glance_ipv4(Head *h)
{
    const uint8_t *ip = h->data + h->l3;
    size_t left = h->len - h->l3;

    /* Fragments have no connection */
    if (left < 20 || (lduw_be_p(ip + 6) & 0x3fff)) {
        return GLANCE_NOT_TCP;
    }
    if (ip[9] == COLO_REWRITE_PROTO_ICMP) {
        return glance_icmp(h, h->l3 + (ip[0] & 0xf) * 4, ip[9]);
    }
    if (ip[9] != COLO_REWRITE_PROTO_TCP) {
        return GLANCE_NOT_TCP;
    }
    memcpy(h->key.src, ip + 12, 4);
    memcpy(h->key.dst, ip + 16, 4);
    h->l4 = h->l3 + (ip[0] & 0xf) * 4;
    return GLANCE_TCP;
}

static Glance glance_ipv6(Head *h)
{
    const uint8_t *ip = h->data + h->l3;
    size_t left = h->len - h->l3;

    if (left < 40) {
        return GLANCE_NOT_TCP;
    }
    switch (ip[6]) {
    case COLO_REWRITE_PROTO_TCP:
        break;
    case 17:    /* UDP */
        return GLANCE_NOT_TCP;
    case COLO_REWRITE_PROTO_ICMPV6:
        return glance_icmp(h, h->l3 + 40, ip[6]);
    default:
        /* May be an extension header with TCP behind it */
        return GLANCE_UNCLEAR;
    }
    memcpy(h->key.src, ip + 8, 16);
    memcpy(h->key.dst, ip + 24, 16);
    h->l4 = h->l3 + 40;
    return GLANCE_TCP;
}

static Glance glance(Head *h, size_t vnet_hdr_len)
{
    size_t off = vnet_hdr_len + ETH_TYPE_OFFSET;
    Glance what = GLANCE_NOT_TCP;
    uint16_t type = 0;

    memset(h->key.vlan, 0xff, sizeof(h->key.vlan));     /* no such tag */
    for (int tag = 0; off + 2 <= h->len; tag++, off += 4) {
        type = lduw_be_p(h->data + off);
        if ((type != ETH_TYPE_8021Q && type != ETH_TYPE_8021AD) ||
            tag == COLO_PACKET_VLANS || off + 4 > h->len) {
            break;
        }
        h->key.vlan[tag] = lduw_be_p(h->data + off + 2) & 0xfff;
    }
    h->l3 = off + 2;
    if (h->l3 > h->len) {
        return GLANCE_NOT_TCP;
    }
    h->key.ethertype = type;
    if (type == ETH_TYPE_IPV4) {
        what = glance_ipv4(h);
    } else if (type == ETH_TYPE_IPV6) {
        what = glance_ipv6(h);
    }
    if (what != GLANCE_TCP) {
        return what;
    }
    if (h->l4 + TCP_HDR_MIN > h->len) {
        return GLANCE_NOT_TCP;
    }
    h->key.sport = lduw_be_p(h->data + h->l4);
    h->key.dport = lduw_be_p(h->data + h->l4 + 2);
    h->key.proto = COLO_REWRITE_PROTO_TCP;
    h->key.kind = COLO_PACKET_TCP;
    return GLANCE_TCP;
}

bool colo_rewrite_wants(const ColoRewrite *r, const uint8_t *head, size_t len,
                        uint32_t vnet_hdr_len, bool from_guest)
{
    Head h = { .data = head, .len = len };
    ColoFlowKey reverse;
    const uint8_t *tcp;

    if (!from_guest && r->stats.flows == 0) {
        return false;
    }
    switch (glance(&h, vnet_hdr_len)) {
    case GLANCE_NOT_TCP:
        return false;
    case GLANCE_UNCLEAR:
        return true;
    case GLANCE_TCP:
        break;
    }
    if (!from_guest) {
        colo_flow_key_reverse(&h.key, &reverse);
        return g_hash_table_contains(r->flows, &reverse) ||
               g_hash_table_contains(r->outers, &reverse);
    }
    tcp = head + h.l4;
    return (tcp[13] & COLO_TCP_SYN) ||
           g_hash_table_contains(r->flows, &h.key) ||
           g_hash_table_contains(r->outers, &h.key) ||
           /* Longer than the bare header: may have timestamps */
           ((tcp[12] >> 4) * 4 > TCP_HDR_MIN &&
            colo_rewrite_may_adopt(r, tcp[13]));
}
