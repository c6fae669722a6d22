/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: packets of a guest.
 *
 * The input is a list of packets, each behind a byte with the length of its
 * vnet header and two with its size.  Everything that the proxy does with
 * packets is done with each of them, and what has to hold afterwards is looked
 * at: a change is seen and nothing else is changed, the parts of a split make
 * up the whole, and each packet that went in comes out of the defragmenter
 * once.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "net/colo/packet.h"
#include "colo-fuzz.h"

#define MAX_DATAGRAMS   4
#define MAX_BYTES       4096

static void check(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void check_inside(const ColoPacket *p)
{
    check(p->kind < COLO_PACKET__MAX);
    check(p->l3 <= p->l4 && p->l4 <= p->payload && p->payload <= p->size);
    check(p->payload_len <= p->size - p->payload);
    check(p->kind != COLO_PACKET_TCP || p->payload - p->l4 >= 20);
    check(!p->ts_off ||
          (p->ts_off >= p->l4 + 22 && p->ts_off + 8 <= p->payload));
    check(!p->sack_off ||
          (p->sack_off >= p->l4 + 22 &&
           p->sack_off + p->sack_edges * 4 <= p->payload));
}

/* A copy, in memory of just its size, that does not trust what @p says */
static ColoPacket *again(const ColoPacket *p)
{
    ColoPacket *q = colo_packet_new(g_memdup2(p->data, p->size), p->size,
                                    p->vnet_hdr_len);

    check_inside(q);
    check(q->kind == p->kind && q->payload == p->payload &&
          q->payload_len == p->payload_len && q->seq == p->seq &&
          q->ack == p->ack && q->tcp_flags == p->tcp_flags &&
          q->ts_off == p->ts_off && q->sack_off == p->sack_off &&
          colo_flow_key_equal(&p->key, &q->key));
    return q;
}

static void try_key(const ColoPacket *p)
{
    ColoFlowKey r, rr;

    colo_flow_key_reverse(&p->key, &r);
    colo_flow_key_reverse(&r, &rr);
    check(colo_flow_key_equal(&p->key, &rr));
    check(colo_flow_key_hash(&p->key) == colo_flow_key_hash(&rr));
}

/* The first bytes say nothing, or what the whole packet says */
static void try_head(const ColoPacket *p, uint32_t value)
{
    uint32_t len = value % (p->size + 1);
    g_autofree uint8_t *data = g_memdup2(p->data, len);
    ColoPacket head;

    if (colo_packet_parse_head(&head, data, len, p->size, p->vnet_hdr_len)) {
        check(head.kind == p->kind && head.l4 == p->l4);
        check(head.payload == p->payload && head.payload_len == p->payload_len);
        check(head.seq == p->seq && head.ts_off == p->ts_off);
        check(colo_flow_key_equal(&head.key, &p->key));
    } else {
        check(len < p->size);
    }
}

static void try_setters(const ColoPacket *p, uint32_t value)
{
    ColoPacket *q = colo_packet_copy(p);

    colo_packet_set_seq(q, value);
    colo_packet_set_ack(q, ~value);
    colo_packet_free(again(q));
    if (q->ts_off) {
        colo_packet_set_tsval(q, value + 1);
        colo_packet_set_tsecr(q, value + 2);
        check(colo_packet_tsval(q) == value + 1);
        check(colo_packet_tsecr(q) == value + 2);
    }
    for (uint32_t i = 0; i < q->sack_edges; i++) {
        colo_packet_set_sack_edge(q, i, value + i);
    }
    for (uint32_t i = 0; i < q->sack_edges; i++) {
        check(colo_packet_sack_edge(q, i) == value + i);
    }
    colo_packet_free(q);
}

static void try_split(const ColoPacket *p, uint32_t value)
{
    ColoPacket *rest = colo_packet_copy(p);
    ColoPacket *front = colo_packet_split(rest,
                                          1 + value % (p->payload_len - 1));

    check(front->payload_len + rest->payload_len == p->payload_len);
    check(!memcmp(front->data + front->payload, p->data + p->payload,
                  front->payload_len));
    check(!memcmp(rest->data + rest->payload,
                  p->data + p->payload + front->payload_len,
                  rest->payload_len));
    check(colo_packet_seq_len(front) + colo_packet_seq_len(rest) ==
          colo_packet_seq_len(p));
    check(front->seq + colo_packet_seq_len(front) == rest->seq);
    check(colo_flow_key_equal(&front->key, &p->key));
    colo_packet_free(again(front));
    colo_packet_free(again(rest));
    colo_packet_free(front);
    colo_packet_free(rest);
}

static void try_tcp(const ColoPacket *p)
{
    uint32_t value = p->seq ^ p->ack;
    ColoPacket *ack;

    try_setters(p, value);
    if (p->payload_len > 1) {
        try_split(p, value);
    }
    ack = colo_packet_bare_ack(p, value, ~value);
    check(ack->payload_len == 0 && ack->tcp_flags == COLO_TCP_ACK);
    check(colo_flow_key_equal(&ack->key, &p->key));
    colo_packet_free(again(ack));
    colo_packet_free(ack);
}

static void free_packets(GPtrArray *a, uint64_t *count)
{
    *count += a->len;
    g_ptr_array_set_free_func(a, (GDestroyNotify)colo_packet_free);
    g_ptr_array_set_size(a, 0);
    g_ptr_array_set_free_func(a, NULL);
}

/* @p is taken over; counts in @out what came out */
static void try_defrag(ColoDefrag *d, ColoPacket *p, uint64_t *out)
{
    g_autoptr(GPtrArray) given_up = g_ptr_array_new();
    ColoDefragged whole;

    if (colo_defrag_add(d, p, &whole, given_up)) {
        check(whole.whole->kind == COLO_PACKET_DATAGRAM);
        check(colo_packet_same_datagram(whole.whole, whole.whole));
        check_inside(whole.whole);
        colo_packet_free(whole.whole);
        free_packets(whole.fragments, out);
        g_ptr_array_unref(whole.fragments);
    }
    free_packets(given_up, out);
}

/* Next packet of the input, in memory of just its size */
static ColoPacket *next_packet(const uint8_t **data, size_t *left)
{
    uint32_t vnet, size;
    ColoPacket *p;

    if (*left < 3) {
        return NULL;
    }
    vnet = (*data)[0];
    size = MIN(lduw_be_p(*data + 1), *left - 3);
    *data += 3;
    *left -= 3;
    p = colo_packet_new(g_memdup2(*data, size), size, vnet);
    *data += size;
    *left -= size;
    return p;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ColoDefrag *d = colo_defrag_new(MAX_DATAGRAMS, MAX_BYTES);
    g_autoptr(GPtrArray) rest = g_ptr_array_new();
    uint64_t in = 0, out = 0;
    ColoPacket *last = NULL;
    ColoPacket *p;

    while ((p = next_packet(&data, &size))) {
        check_inside(p);
        try_key(p);
        try_head(p, p->size ? p->data[p->size - 1] : 0);
        check(colo_packet_same_datagram(p, p) ==
              (p->kind == COLO_PACKET_DATAGRAM || p->kind == COLO_PACKET_RAW));
        check(colo_packet_same_syn(p, p) ==
              (p->kind == COLO_PACKET_TCP && (p->tcp_flags & COLO_TCP_SYN)));
        if (last) {
            check(colo_packet_same_datagram(p, last) ==
                  colo_packet_same_datagram(last, p));
            check(colo_packet_same_syn(p, last) ==
                  colo_packet_same_syn(last, p));
            colo_packet_free(last);
        }
        if (p->kind == COLO_PACKET_TCP) {
            try_tcp(p);
        }
        last = colo_packet_copy(p);
        if (p->kind == COLO_PACKET_FRAGMENT) {
            in++;
            try_defrag(d, p, &out);
        } else {
            colo_packet_free(p);
        }
    }
    colo_packet_free(last);
    colo_defrag_flush(d, rest);
    free_packets(rest, &out);
    check(in == out);
    colo_defrag_free(d);
    return 0;
}
