/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: the matching engine of the proxy.
 *
 * The input is a list of operations, one byte each with what it needs behind
 * it: packets of both sides (made of a few fields, so that they match now and
 * then, or any bytes), cuts, commits, time, and the begin and end of sessions.
 *
 * What has to hold: nothing of the primary is lost or leaves twice, nothing
 * leaves before its time without a word of the secondary, a need is told once
 * until it is withdrawn or a later epoch begins, bounds are bounds, and after
 * the end all is empty.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "../unit/colo/colo-test-packet.h"
#include "net/colo/match.h"
#include "colo-fuzz.h"

#define MAX_BYTES   (256 * 1024)
#define MAX_FLOWS   8
#define BASE_SEQ    0xffffff00u

/* In, minus out: has to be 0 in the end */
typedef struct Balance {
    int64_t seq;                    /* sequence space of TCP */
    int64_t others;                 /* packets that are not TCP */
} Balance;

typedef struct Fuzz {
    ColoMatch *m;
    const uint8_t *data;
    size_t size;
    Balance balance;
    bool holding, armed;
    bool reading;
    bool s_known;
    bool s_spoke;                   /* since its record */
    uint64_t epoch, s_epoch, committed;
    unsigned needed;
    int64_t now_ms;
} Fuzz;

#define CHECK(cond) do {        \
        if (!(cond)) {          \
            abort();            \
        }                       \
    } while (0)

static uint32_t take(Fuzz *f, unsigned bytes)
{
    uint32_t n = 0;

    while (bytes--) {
        n = n << 8 | (f->size ? *f->data : 0);
        f->data += !!f->size;
        f->size -= !!f->size;
    }
    return n;
}

static void count(Fuzz *f, const ColoPacket *p, int sign)
{
    if (p->kind == COLO_PACKET_TCP) {
        f->balance.seq += sign * (int64_t)colo_packet_seq_len(p);
    } else {
        f->balance.others += sign;
    }
}

static void on_release(void *opaque, ColoPacket *p)
{
    Fuzz *f = opaque;

    count(f, p, -1);
    if (f->holding && p->epoch >= f->committed &&
        p->kind != COLO_PACKET_TCP) {
        CHECK(f->s_known && f->s_epoch == p->epoch && f->s_spoke);
    }
    if (f->holding && p->epoch >= f->committed &&
        p->kind == COLO_PACKET_TCP && (p->tcp_flags & COLO_TCP_URG)) {
        abort();
    }
    colo_packet_free(p);
}

static void on_need(void *opaque, ColoMatchNeed why, uint64_t epoch)
{
    Fuzz *f = opaque;

    CHECK(epoch == f->epoch && epoch >= f->committed);
    CHECK(!(f->needed & (1u << why)));
    f->needed |= 1u << why;
}

static void on_withdraw(void *opaque, ColoMatchNeed why, uint64_t epoch)
{
    Fuzz *f = opaque;

    CHECK(epoch == f->epoch);
    CHECK(f->needed & (1u << why));
    f->needed &= ~(1u << why);
}

static ColoPacket *make_tcp(Fuzz *f)
{
    uint8_t data[4096];
    ColoTestTcp t = {
        .flow = take(f, 1) % (2 * MAX_FLOWS),
        .flags = take(f, 1),
        .seq = BASE_SEQ + take(f, 2),
        .ack = BASE_SEQ + take(f, 1),
        .len = take(f, 2) % sizeof(data),
        .data = data,
    };
    uint8_t change = take(f, 1);

    for (int i = 0; i < t.len; i++) {
        data[i] = t.seq + i;
    }
    if (change & 0x80 && t.len) {
        data[change % t.len] ^= 1;
    }
    return colo_test_tcp(&t);
}

static ColoPacket *make_any(Fuzz *f)
{
    uint32_t vnet = take(f, 1) & 1 ? 12 : 0;
    uint32_t size = MIN(take(f, 2), f->size);
    uint8_t *data = g_memdup2(f->data, size);

    f->data += size;
    f->size -= size;
    return colo_packet_new(data ?: g_malloc0(1), size, MIN(vnet, size));
}

static ColoPacket *make_packet(Fuzz *f)
{
    uint8_t data[64];
    uint8_t what = take(f, 1);
    uint8_t flow;

    switch (what & 7) {
    case 0:
    case 1:
    case 2:
    case 3:
        return make_tcp(f);
    case 4:
        return make_any(f);
    case 5:
        memset(data, take(f, 1), sizeof(data));
        return colo_test_raw(data, sizeof(data));
    case 6:
        flow = take(f, 1) % (2 * MAX_FLOWS);
        memset(data, take(f, 1), sizeof(data));
        return colo_test_fragment(flow, data, sizeof(data), take(f, 1),
                                  what >> 4 & 3, 4);
    default:
        flow = take(f, 1) % (2 * MAX_FLOWS);
        memset(data, take(f, 1), sizeof(data));
        return colo_test_udp(flow, data, sizeof(data));
    }
}

static void do_primary(Fuzz *f)
{
    ColoPacket *p = make_packet(f);

    p->arrived_ms = f->now_ms;
    count(f, p, 1);
    colo_match_primary(f->m, p);
}

static void do_secondary(Fuzz *f)
{
    ColoPacket *p = make_packet(f);

    f->s_spoke = true;
    colo_match_secondary(f->m, p);
}

/* Mostly the next one */
static uint64_t some_epoch(Fuzz *f, uint64_t last)
{
    uint8_t n = take(f, 1);

    return n == 255 ? (uint64_t)take(f, 4) << 32 | take(f, 4) : last + n % 3;
}

static void do_open(Fuzz *f)
{
    f->holding = f->armed = f->s_known = false;
    f->needed = 0;
    f->epoch = 0;
    f->committed = 0;
    colo_match_open(f->m);
    CHECK(f->balance.seq == 0 && f->balance.others == 0);
    CHECK(colo_match_stats(f->m)->queued_packets == 0);
    CHECK(colo_match_stats(f->m)->queued_bytes == 0);
    CHECK(colo_match_stats(f->m)->secondary_queued_bytes == 0);
    CHECK(colo_match_stats(f->m)->flows == 0);
}

static void do_cut(Fuzz *f, bool secondary)
{
    uint64_t epoch = some_epoch(f, secondary ? f->s_epoch : f->epoch);

    if (secondary) {
        /* A release may come within the call, and knows the record */
        Fuzz before = *f;

        if (f->holding || f->armed) {
            f->s_known = true;
            f->s_spoke = false;
        }
        f->s_epoch = epoch;
        if (!colo_match_secondary_cut(f->m, epoch, f->now_ms)) {
            f->s_known = before.s_known;
            f->s_spoke = before.s_spoke;
            f->s_epoch = before.s_epoch;
        }
        return;
    }
    epoch = MIN(epoch, UINT64_MAX - 1);
    if (f->armed || (f->holding && epoch > f->epoch)) {
        f->needed = 0;
        f->epoch = epoch;
    }
    f->holding = f->holding || f->armed;
    f->armed = false;
    colo_match_primary_cut(f->m, epoch, f->now_ms);
}

static void do_commit(Fuzz *f)
{
    uint64_t cut = some_epoch(f, f->committed);

    if ((f->holding || f->armed) && cut > f->committed) {
        f->committed = cut;
        if (f->epoch < cut) {
            f->needed = 0;
        }
    }
    colo_match_commit(f->m, cut, f->now_ms);
}

static void step(Fuzz *f)
{
    uint8_t op = take(f, 1);
    bool reading = op & 32;

    if (reading && !f->reading) {
        colo_match_begin_read(f->m);
    } else if (!reading && f->reading) {
        colo_match_end_read(f->m);
    }
    f->reading = reading;
    switch (op & 15) {
    case 0 ... 4:
        do_primary(f);
        break;
    case 5 ... 9:
        do_secondary(f);
        break;
    case 10:
        do_cut(f, false);
        break;
    case 11:
        do_cut(f, true);
        break;
    case 12:
        do_commit(f);
        break;
    case 13:
        f->now_ms += take(f, 1);
        colo_match_tick(f->m, f->now_ms);
        break;
    case 14:
        f->s_known = false;
        colo_match_secondary_lost(f->m);
        break;
    default:
        do_open(f);
        if (op & 16) {
            f->armed = true;
            colo_match_arm(f->m);
        }
        break;
    }
    CHECK(colo_match_stats(f->m)->secondary_queued_bytes <= MAX_BYTES);
    CHECK(colo_match_stats(f->m)->flows <= MAX_FLOWS);
    if (colo_match_full(f->m) && !f->s_known && f->committed <= f->epoch) {
        CHECK(f->needed & (1u << COLO_MATCH_NEED_ROOM));
    }
    colo_match_deadline_ms(f->m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const ColoMatchConfig config = {
        .timeout_ms = 200,
        .max_packets = 16,
        .max_bytes = MAX_BYTES,
        .max_flows = MAX_FLOWS,
        .idle_ms = 1000,
    };
    static const ColoMatchOps ops = {
        .release = on_release,
        .need = on_need,
        .withdraw = on_withdraw,
    };
    Fuzz f = { .data = data, .size = size };

    f.m = colo_match_new(&config, &ops, &f);
    while (f.size) {
        step(&f);
    }
    do_open(&f);
    colo_match_free(f.m);
    return 0;
}
