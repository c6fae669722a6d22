/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: puts fragments of IPv4 and IPv6 datagrams together.
 *
 * Primary; one thread at a time.
 *
 * What comes out is compared and never sent, the fragments themselves are.  So
 * a datagram may only be complete if there is one way to read it, and if all
 * that its fragments say beside their part of the payload is the same in
 * each of them: what is compared stands for all of it then.  Everything else
 * (overlaps, two ends, headers that disagree) spoils the datagram.  It is kept
 * like one that is incomplete, and takes no harm but waiting.
 *
 * A datagram is complete when the bytes of its fragments add up to its length
 * and they follow each other from offset 0 to the end.  With an overlap there
 * is a gap somewhere as long as the sum is not too large, so that needs no
 * look of its own.
 */

#include "qemu/osdep.h"
#include "packet-int.h"

/* Compared and hashed as memory */
typedef struct DatagramId {
    ColoFlowKey key;
    uint32_t id;
} DatagramId;

QEMU_BUILD_BUG_ON(sizeof(DatagramId) != sizeof(ColoFlowKey) + 4);

typedef struct Datagram Datagram;
struct Datagram {
    DatagramId id;
    GPtrArray *fragments;       /* in order of arrival, owned */
    GHashTable *at;             /* offset -> fragment, without duplicates */
    uint64_t size;              /* of all fragments: memory */
    uint32_t have;              /* bytes of payload, duplicates not counted */
    uint32_t total;             /* 0: the end was not seen yet */
    bool spoiled;
    QTAILQ_ENTRY(Datagram) next;
};

struct ColoDefrag {
    GHashTable *datagrams;      /* DatagramId -> Datagram, owned */
    QTAILQ_HEAD(, Datagram) by_age;
    uint32_t max_datagrams;
    uint64_t max_bytes;
    uint64_t bytes;
};

static guint datagram_id_hash(gconstpointer v)
{
    return colo_packet_hash(v, sizeof(DatagramId));
}

static gboolean datagram_id_equal(gconstpointer a, gconstpointer b)
{
    return memcmp(a, b, sizeof(DatagramId)) == 0;
}

static void datagram_free(gpointer v)
{
    Datagram *g = v;

    if (g->fragments) {
        g_ptr_array_set_free_func(g->fragments,
                                  (GDestroyNotify)colo_packet_free);
        g_ptr_array_unref(g->fragments);
    }
    g_hash_table_unref(g->at);
    g_free(g);
}

ColoDefrag *colo_defrag_new(uint32_t max_datagrams, uint64_t max_bytes)
{
    ColoDefrag *d = g_new0(ColoDefrag, 1);

    d->datagrams = g_hash_table_new_full(datagram_id_hash, datagram_id_equal,
                                         NULL, datagram_free);
    QTAILQ_INIT(&d->by_age);
    d->max_datagrams = max_datagrams;
    d->max_bytes = max_bytes;
    return d;
}

void colo_defrag_free(ColoDefrag *d)
{
    if (d) {
        g_hash_table_unref(d->datagrams);
        g_free(d);
    }
}

static Datagram *find_or_begin(ColoDefrag *d, const ColoPacket *p)
{
    DatagramId id = { .key = p->key, .id = p->frag_id };
    Datagram *g = g_hash_table_lookup(d->datagrams, &id);

    if (!g) {
        g = g_new0(Datagram, 1);
        g->id = id;
        g->fragments = g_ptr_array_new();
        g->at = g_hash_table_new(NULL, NULL);
        g_hash_table_insert(d->datagrams, &g->id, g);
        QTAILQ_INSERT_TAIL(&d->by_age, g, next);
    }
    return g;
}

/* Take it out of @d and free it, with the fragments that it still has */
static void forget(ColoDefrag *d, Datagram *g)
{
    d->bytes -= g->size;
    QTAILQ_REMOVE(&d->by_age, g, next);
    g_hash_table_remove(d->datagrams, &g->id);
}

static void give_up_oldest(ColoDefrag *d, GPtrArray *given_up)
{
    Datagram *g = QTAILQ_FIRST(&d->by_age);

    if (given_up) {
        for (guint i = 0; i < g->fragments->len; i++) {
            g_ptr_array_add(given_up, g->fragments->pdata[i]);
        }
        g_ptr_array_unref(g->fragments);
        g->fragments = NULL;
    }
    forget(d, g);
}

/* Where the headers end that each fragment has, or would have if whole */
static uint32_t headers_end(const ColoPacket *p)
{
    return p->key.ethertype == ETH_P_IPV6 ? p->l4 - IP6_FRAG_LEN : p->l4;
}

/* Does @p say the same as @other, beside its part of the payload? */
static bool agree(const ColoPacket *p, const ColoPacket *other)
{
    uint32_t eth = p->l3 - p->vnet_hdr_len;

    if (eth != other->l3 - other->vnet_hdr_len ||
        !colo_packet_same_bytes(p, p->vnet_hdr_len, p->l3,
                                other, other->vnet_hdr_len) ||
        !colo_packet_same_hops(p, other)) {
        return false;
    }
    return p->key.ethertype == ETH_P_IP ||
           (headers_end(p) - p->l3 == headers_end(other) - other->l3 &&
            colo_packet_same_bytes(p, p->l3 + IP6_HDR_LEN, headers_end(p),
                                   other, other->l3 + IP6_HDR_LEN));
}

/* Does @p say what @twin, of the same offset, said before? */
static bool repeats(const ColoPacket *p, const ColoPacket *twin)
{
    return p->frag_more == twin->frag_more &&
           p->payload_len == twin->payload_len &&
           p->l4 - p->l3 == twin->l4 - twin->l3 &&
           /* Options of IPv4; the rest of the headers does agree */
           (p->key.ethertype == ETH_P_IPV6 ||
            colo_packet_same_bytes(p, p->l3 + sizeof(struct ip_header), p->l4,
                                   twin,
                                   twin->l3 + sizeof(struct ip_header))) &&
           colo_packet_same_bytes(p, p->payload, p->payload + p->payload_len,
                                  twin, twin->payload);
}

/* What would be sent and is seen nowhere in the whole datagram */
static bool has_extras(const ColoPacket *p)
{
    return colo_packet_gso_type(p) != VIRTIO_NET_HDR_GSO_NONE ||
           (p->key.ethertype == ETH_P_IP && p->frag_offset > 0 &&
            p->l4 - p->l3 > sizeof(struct ip_header));
}

static void add(Datagram *g, ColoPacket *p)
{
    ColoPacket *twin = g_hash_table_lookup(g->at,
                                           GUINT_TO_POINTER(p->frag_offset));
    uint32_t end = p->frag_offset + p->payload_len;

    if (has_extras(p) ||
        (g->fragments->len && !agree(p, g->fragments->pdata[0]))) {
        g->spoiled = true;
    }
    g_ptr_array_add(g->fragments, p);
    g->size += colo_packet_memory(p);

    if (twin) {
        g->spoiled |= !repeats(p, twin);
        return;
    }
    g_hash_table_insert(g->at, GUINT_TO_POINTER(p->frag_offset), p);
    g->have += p->payload_len;
    if (!p->frag_more) {
        g->spoiled |= g->total && g->total != end;
        g->total = end;
    }
}

/* Have the fragments in order, if they are all there and fit */
static bool in_order(const Datagram *g, GPtrArray *order)
{
    const ColoPacket *first;
    uint32_t off = 0, counted;

    while (off < g->total) {
        ColoPacket *p = g_hash_table_lookup(g->at, GUINT_TO_POINTER(off));

        if (!p) {
            return false;
        }
        g_ptr_array_add(order, p);
        off += p->payload_len;
    }
    first = order->pdata[0];
    /* In IPv6 the fixed header is no part of the length */
    counted = headers_end(first) - first->l3 -
              (first->key.ethertype == ETH_P_IPV6 ? IP6_HDR_LEN : 0);
    return off == g->total && counted + off <= ETH_MAX_IP_DGRAM_LEN;
}

/* Make the headers of a fragment those of a datagram */
static void mend_headers(uint8_t *ip, uint32_t headers, uint32_t total,
                         const ColoPacket *first)
{
    uint8_t *next = ip + IP6_NEXT;
    uint32_t off = IP6_HDR_LEN;

    if (first->key.ethertype == ETH_P_IP) {
        uint8_t *bits = ip + offsetof(struct ip_header, ip_off);

        stw_be_p(ip + offsetof(struct ip_header, ip_len), headers + total);
        stw_be_p(bits, lduw_be_p(bits) & (IP_RF | IP_DF));
        stw_be_p(ip + offsetof(struct ip_header, ip_sum), 0);
        stw_be_p(ip + offsetof(struct ip_header, ip_sum),
                 net_raw_checksum(ip, headers));
        return;
    }
    stw_be_p(ip + offsetof(struct ip6_header, ip6_plen),
             headers + total - IP6_HDR_LEN);
    /* The header before the fragment header is the one that names it */
    while (off < headers) {
        next = ip + off;
        off += (next[1] + 1) * IP6_EXT_GRANULARITY;
    }
    *next = first->key.proto;
}

/* Payload that is no DATAGRAM by itself is one here, of bytes */
static void make_datagram(ColoPacket *whole, const ColoPacket *first,
                          uint32_t headers)
{
    ColoPacket plain = {
        .buffer = whole->buffer,
        .data = whole->data,
        .size = whole->size,
        .readable = whole->readable,
        .kind = COLO_PACKET_DATAGRAM,
        .key = first->key,
        .l3 = first->l3 - first->vnet_hdr_len,
    };

    plain.l4 = plain.l3 + headers;
    plain.payload = plain.l4;
    plain.payload_len = plain.size - plain.l4;
    *whole = plain;
}

static ColoPacket *assemble(const Datagram *g, const GPtrArray *order)
{
    const ColoPacket *first = order->pdata[0];
    const ColoPacket *latest = g->fragments->pdata[g->fragments->len - 1];
    const ColoPacket *oldest = g->fragments->pdata[0];
    uint32_t l3 = first->l3 - first->vnet_hdr_len;
    uint32_t headers = headers_end(first) - first->l3;
    uint32_t size = l3 + headers;
    uint8_t *data = g_malloc(size + g->total);
    ColoPacket *whole;

    memcpy(data, first->data + first->vnet_hdr_len, size);
    for (guint i = 0; i < order->len; i++) {
        const ColoPacket *p = order->pdata[i];

        memcpy(data + size, p->data + p->payload, p->payload_len);
        size += p->payload_len;
    }
    mend_headers(data + l3, headers, g->total, first);
    whole = colo_packet_new(data, size, 0);
    if (whole->kind != COLO_PACKET_DATAGRAM) {
        make_datagram(whole, first, headers);
    }
    whole->epoch = latest->epoch;
    whole->arrived_ms = oldest->arrived_ms;
    return whole;
}

static bool complete(Datagram *g, ColoDefragged *out)
{
    g_autoptr(GPtrArray) order = NULL;

    if (g->spoiled || g->total == 0 || g->have != g->total) {
        return false;
    }
    order = g_ptr_array_new();
    if (!in_order(g, order)) {
        g->spoiled = true;
        return false;
    }
    out->whole = assemble(g, order);
    out->fragments = g_steal_pointer(&g->fragments);
    return true;
}

bool colo_defrag_add(ColoDefrag *d, ColoPacket *p, ColoDefragged *out,
                     GPtrArray *given_up)
{
    Datagram *g;

    g_assert(p->kind == COLO_PACKET_FRAGMENT);

    g = find_or_begin(d, p);
    d->bytes += colo_packet_memory(p);
    add(g, p);
    if (complete(g, out)) {
        forget(d, g);
        return true;
    }
    while (d->bytes > d->max_bytes ||
           g_hash_table_size(d->datagrams) > d->max_datagrams) {
        give_up_oldest(d, given_up);
    }
    return false;
}

void colo_defrag_flush(ColoDefrag *d, GPtrArray *given_up)
{
    while (!QTAILQ_EMPTY(&d->by_age)) {
        give_up_oldest(d, given_up);
    }
}
