/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: the rewriter.
 *
 * The input is a list of operations: segments of a few connections either way,
 * connects of the primary that are told, packets of bytes without meaning, loads,
 * connections handed on, and time that goes by.  Whatever comes, a packet keeps
 * its size, its payload and its checksum's being right, nothing changes but what
 * the rewriter is for, what is to be dropped changes nothing, and the table stays
 * bounded.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "net/colo/rewrite.h"
#include "colo-fuzz.h"

enum {
    MAX_FLOWS = 4,
    IDLE_MS = 300 * 1000,
    VNET_LEN = 12,
    ETH_LEN = 14,
    IP_LEN = 20,
    TCP_LEN = 20,
    TS_LEN = 12,
    SACK_LEN = 12,
    L4 = ETH_LEN + IP_LEN,
    /* A segment in the input: ports, flags, seq, ack, window, TSval, TSecr */
    SEGMENT_LEN = 17,
};

typedef enum FuzzOp {
    FUZZ_SEGMENT,
    FUZZ_SEGMENT_TS,
    FUZZ_SEGMENT_SACK,
    FUZZ_SEGMENT_BOTH,
    FUZZ_BYTES,
    FUZZ_BYTES_VNET,
    FUZZ_LOAD,
    FUZZ_TIME,
    FUZZ__MAX,
    /* With one of these: from the guest; what is said at each */
    FUZZ_FROM_GUEST = 0x80,
    FUZZ_OTHER = 0x40,
} FuzzOp;

typedef struct Fuzz {
    const uint8_t *data;
    size_t size;
    ColoRewrite *r;
    bool told;
    int64_t now_ms;
} Fuzz;

static const uint8_t *take(Fuzz *f, size_t size)
{
    const uint8_t *at = f->data;

    if (size > f->size) {
        return NULL;
    }
    f->data += size;
    f->size -= size;
    return at;
}

static uint16_t fold(const uint8_t *data, size_t len, uint32_t sum)
{
    for (size_t i = 0; i < len; i++) {
        sum += i & 1 ? data[i] : data[i] << 8;
    }
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

/* Of the segment at L4, pseudo header included; 0xffff if it is right */
static uint16_t tcp_sum(const uint8_t *frame, size_t size)
{
    return fold(frame + L4, size - L4,
                fold(frame + ETH_LEN + 12, 8, 6 + size - L4));
}

/* A fuzzed number near to a few fixed ones, so that numbers meet */
static uint32_t near(uint16_t value)
{
    return ((uint32_t)(value >> 14) << 30) - 8 + (value & 0x3fff);
}

static uint8_t *build(const uint8_t *in, bool from_guest, FuzzOp op,
                      size_t *size)
{
    bool ts = op == FUZZ_SEGMENT_TS || op == FUZZ_SEGMENT_BOTH;
    bool sack = op == FUZZ_SEGMENT_SACK || op == FUZZ_SEGMENT_BOTH;
    size_t hlen = TCP_LEN + (ts ? TS_LEN : 0) + (sack ? SACK_LEN : 0);
    size_t payload = in[16] & 7;
    uint8_t *frame = g_malloc0(L4 + hlen + payload);
    uint8_t *ip = frame + ETH_LEN, *tcp = frame + L4, *opt = tcp + TCP_LEN;
    uint16_t guest_port = 80 + (in[0] >> 3 & 7), port = in[0] & 7;

    *size = L4 + hlen + payload;
    stw_be_p(frame + 12, 0x0800);
    ip[0] = 0x45;
    stw_be_p(ip + 2, *size - ETH_LEN);
    ip[8] = 64;
    ip[9] = 6;
    stl_be_p(ip + 12, from_guest ? 1 : 2);
    stl_be_p(ip + 16, from_guest ? 2 : 1);
    stw_be_p(tcp, from_guest ? guest_port : port);
    stw_be_p(tcp + 2, from_guest ? port : guest_port);
    stl_be_p(tcp + 4, near(lduw_be_p(in + 2)));
    stl_be_p(tcp + 8, near(lduw_be_p(in + 4)));
    tcp[12] = hlen / 4 << 4;
    tcp[13] = in[1];
    stw_be_p(tcp + 14, lduw_be_p(in + 6));
    if (ts) {
        stl_be_p(opt, 0x0101080a);
        stl_be_p(opt + 4, near(lduw_be_p(in + 8)));
        stl_be_p(opt + 8, near(lduw_be_p(in + 10)));
        opt += TS_LEN;
    }
    if (sack) {
        stl_be_p(opt, 0x0101050a);
        stl_be_p(opt + 4, near(lduw_be_p(in + 12)));
        stl_be_p(opt + 8, near(lduw_be_p(in + 14)));
    }
    memset(tcp + hlen, 0x5a, payload);
    stw_be_p(tcp + 16, ~tcp_sum(frame, *size));
    return frame;
}

/* Set to 0 what the rewriter may change */
static void blank(uint8_t *data, const ColoPacket *p, bool from_guest)
{
    memset(data + p->l4 + (from_guest ? 0 : 2), 0, 2);
    memset(data + p->l4 + 4, 0, 8);
    memset(data + p->l4 + 16, 0, 2);
    if (p->ts_off) {
        memset(data + p->ts_off, 0, 8);
    }
    memset(data + p->sack_off, 0, p->sack_edges * 4);
}

static void check_changed(const uint8_t *before, const ColoPacket *p,
                          bool from_guest)
{
    g_autofree uint8_t *a = g_memdup2(before, p->size);
    g_autofree uint8_t *b = g_memdup2(p->data, p->size);

    if (p->kind != COLO_PACKET_TCP) {
        abort();
    }
    blank(a, p, from_guest);
    blank(b, p, from_guest);
    if (memcmp(a, b, p->size)) {
        abort();
    }
}

/* Takes over @data; returns whether it was changed */
static void feed(Fuzz *f, uint8_t *data, size_t size, uint32_t vnet_len,
                 bool from_guest, bool sum_is_right)
{
    g_autofree uint8_t *before = g_memdup2(data, size);
    uint64_t flows = colo_rewrite_stats(f->r)->flows;
    bool wanted = colo_rewrite_wants(f->r, data,
                                     MIN(size, COLO_REWRITE_HEAD), size,
                                     vnet_len, from_guest);
    ColoPacket *p = colo_packet_new(data, size, vnet_len);
    bool drop = from_guest ? colo_rewrite_must_drop(f->r, p)
                           : colo_rewrite_must_drop_input(f->r, p);
    bool waits = from_guest && colo_rewrite_awaits(f->r, p);
    bool changed;

    if (((drop || waits) && !wanted) ||
        (waits && !(f->told && (p->tcp_flags & COLO_TCP_SYN)))) {
        abort();
    }
    changed = from_guest ? colo_rewrite_from_guest(f->r, p, f->now_ms)
                         : colo_rewrite_to_guest(f->r, p, f->now_ms);
    if (p->size != size || (changed && (drop || !wanted)) ||
        ((drop || !wanted) && colo_rewrite_stats(f->r)->flows != flows)) {
        abort();
    }
    if (changed) {
        check_changed(before, p, from_guest);
    } else if (size && memcmp(before, p->data, size)) {
        abort();
    }
    if (sum_is_right && tcp_sum(p->data, size) != 0xffff) {
        abort();
    }
    colo_packet_free(p);
}

/* FUZZ_OTHER: the primary says it, and that is told */
static bool feed_segment(Fuzz *f, uint8_t op)
{
    const uint8_t *in = take(f, SEGMENT_LEN);
    bool from_guest = op & FUZZ_FROM_GUEST;
    ColoPacket *p;
    uint8_t *frame;
    size_t size;

    if (!in) {
        return false;
    }
    if (op & FUZZ_OTHER) {
        frame = build(in, true, op % FUZZ__MAX, &size);
        p = colo_packet_new(frame, size, 0);
        colo_rewrite_opened(f->r, p, f->now_ms);
        colo_packet_free(p);
    } else {
        frame = build(in, from_guest, op % FUZZ__MAX, &size);
        feed(f, frame, size, 0, from_guest, true);
    }
    return true;
}

/* FUZZ_OTHER: they are taken for connections that are handed on */
static bool feed_bytes(Fuzz *f, uint8_t op)
{
    bool vnet = op % FUZZ__MAX == FUZZ_BYTES_VNET;
    const uint8_t *len = take(f, 1);
    const uint8_t *in = len ? take(f, *len) : NULL;

    if (!in) {
        return false;
    }
    if (op & FUZZ_OTHER) {
        colo_rewrite_import(f->r, in, *len, f->now_ms);
    } else {
        feed(f, g_memdup2(in, *len), *len, vnet ? VNET_LEN : 0,
             op & FUZZ_FROM_GUEST, false);
    }
    return true;
}

/* FUZZ_OTHER: what was known before goes on after it */
static void load(Fuzz *f, uint8_t op)
{
    g_autoptr(GByteArray) state = colo_rewrite_export(f->r);

    colo_rewrite_load(f->r);
    if ((op & FUZZ_OTHER) &&
        !colo_rewrite_import(f->r, state->data, state->len, f->now_ms)) {
        abort();
    }
}

static bool step(Fuzz *f)
{
    const uint8_t *op = take(f, 1);
    const uint8_t *seconds;

    if (!op) {
        return false;
    }
    switch ((FuzzOp)(*op % FUZZ__MAX)) {
    case FUZZ_LOAD:
        load(f, *op);
        return true;
    case FUZZ_TIME:
        if (*op & FUZZ_OTHER) {
            f->told = !f->told;
            colo_rewrite_set_told(f->r, f->told);
            return true;
        }
        seconds = take(f, 1);
        f->now_ms += seconds ? *seconds * 1000 : 0;
        colo_rewrite_tick(f->r, f->now_ms);
        return true;
    case FUZZ_BYTES:
    case FUZZ_BYTES_VNET:
        return feed_bytes(f, *op);
    default:
        return feed_segment(f, *op);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Fuzz f = {
        .data = data,
        .size = size,
        .r = colo_rewrite_new(MAX_FLOWS, IDLE_MS),
    };
    const ColoRewriteStats *s = colo_rewrite_stats(f.r);

    while (step(&f)) {
        if (s->flows > MAX_FLOWS || s->flows_open > s->flows) {
            abort();
        }
    }
    /* Silence ends everything */
    colo_rewrite_tick(f.r, f.now_ms + IDLE_MS);
    if (s->flows || s->flows_open) {
        abort();
    }
    colo_rewrite_free(f.r);
    return 0;
}
