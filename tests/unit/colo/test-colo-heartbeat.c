/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: heartbeats as bytes, and what they and their absence say.
 *
 * Proves: a message survives the way there however it is cut up, and is found
 * again behind garbage, of which only so much is read.  A peer is silent after
 * the timeout and not before, if no link brings anything, or if it hears
 * nothing; one link of two is enough, also one for each direction; what comes
 * back, or is of another session, or old, does not count.  A process that was
 * stopped does not take its own silence for that of the peer.  A peer that
 * answers and does not get on is stalled, one that works or stands is not.  No
 * secondary calls its primary silent before the lease that it gave has ended.
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "qapi/qapi-types-migration.h"
#include "migration/colo/heartbeat-watch.h"

#define INTERVAL_MS     50
#define TIMEOUT_MS      500
#define STALL_MS        2000
#define MS              ((int64_t)SCALE_MS)

/* As lease.c: so much of a timeout a lease lasts */
#define LEASE(ms)       ((ms) - (ms) / 10)

/* Messages */

static unsigned got;
static ColoBeat last;

static void note(void *opaque, const ColoBeat *b)
{
    got++;
    last = *b;
}

static const ColoBeat sample = {
    .sender = 0x1122334455667788,
    .session = { .data = { 1, 2, 3, 16 } },
    .role = COLO_MODE_SECONDARY,
    .state = 7,
    .flags = COLO_BEAT_LOST | COLO_BEAT_CLAIM,
    .timeout_ms = 500,
    .epoch = 1ULL << 40,
    .term = 3,
    .stamp_ns = 1ULL << 50,
    .echo_ns = (1ULL << 50) - 7,
    .echo_age_ns = 9,
    .loop = 11,
    .vcpus = 12,
    .work = 13,
};

static void test_message(void)
{
    uint8_t buf[COLO_BEAT_LEN], again[COLO_BEAT_LEN];
    ColoBeat b;

    colo_beat_encode(&sample, buf);
    g_assert_true(colo_beat_decode(buf, &b));
    g_assert_cmphex(b.sender, ==, sample.sender);
    g_assert_true(qemu_uuid_is_equal(&b.session, &sample.session));
    g_assert_cmpint(b.role, ==, sample.role);
    g_assert_cmpint(b.state, ==, sample.state);
    g_assert_cmphex(b.flags, ==, sample.flags);
    g_assert_cmpuint(b.timeout_ms, ==, sample.timeout_ms);
    g_assert_cmpuint(b.epoch, ==, sample.epoch);
    g_assert_cmpuint(b.term, ==, sample.term);
    g_assert_cmpuint(b.stamp_ns, ==, sample.stamp_ns);
    g_assert_cmpuint(b.echo_ns, ==, sample.echo_ns);
    g_assert_cmpuint(b.echo_age_ns, ==, sample.echo_age_ns);
    g_assert_cmpuint(b.loop, ==, sample.loop);
    g_assert_cmpuint(b.vcpus, ==, sample.vcpus);
    g_assert_cmpuint(b.work, ==, sample.work);
    colo_beat_encode(&b, again);
    g_assert_cmpmem(buf, sizeof(buf), again, sizeof(again));

    /* No bit of it may change */
    for (int i = 0; i < COLO_BEAT_LEN * 8; i++) {
        buf[i / 8] ^= 1 << i % 8;
        g_assert_false(colo_beat_decode(buf, &b));
        buf[i / 8] ^= 1 << i % 8;
    }
}

static void test_cut(void)
{
    uint8_t buf[3 * COLO_BEAT_LEN];

    for (int i = 0; i < 3; i++) {
        colo_beat_encode(&sample, buf + i * COLO_BEAT_LEN);
    }
    for (size_t piece = 1; piece <= sizeof(buf); piece++) {
        ColoBeatParser p = { 0 };

        got = 0;
        for (size_t at = 0; at < sizeof(buf); at += piece) {
            g_assert_true(colo_beat_parse(&p, buf + at,
                                          MIN(piece, sizeof(buf) - at), note,
                                          NULL));
        }
        g_assert_cmpuint(got, ==, 3);
        g_assert_cmpuint(p.bad, ==, 0);
    }
}

/* Garbage before a message, which begins as one does, or is a part of one */
static void test_resync(void)
{
    uint8_t msg[COLO_BEAT_LEN];
    uint8_t buf[4 * COLO_BEAT_LEN];

    colo_beat_encode(&sample, msg);
    for (size_t before = 1; before < COLO_BEAT_LEN; before++) {
        ColoBeatParser p = { 0 };

        memcpy(buf, msg, before);
        memcpy(buf + before, msg, sizeof(msg));
        memcpy(buf + before + sizeof(msg), msg, sizeof(msg));
        got = 0;
        g_assert_true(colo_beat_parse(&p, buf, before + 2 * sizeof(msg), note,
                                      NULL));
        g_assert_cmpuint(got, ==, 2);
        g_assert_cmpuint(p.bad, ==, 1);
        g_assert_cmpuint(last.epoch, ==, sample.epoch);
    }
}

static void test_garbage(void)
{
    ColoBeatParser p = { 0 };
    uint8_t byte = 'C';
    size_t n = 0;

    got = 0;
    while (colo_beat_parse(&p, &byte, 1, note, NULL)) {
        n++;
        g_assert_cmpuint(n, <=, COLO_BEAT_GARBAGE + 2 * COLO_BEAT_LEN);
    }
    g_assert_cmpuint(n, >=, COLO_BEAT_GARBAGE);
    g_assert_cmpuint(got, ==, 0);
}

/* Random bytes, and messages with random faults, in pieces of random length */
static void test_fuzz(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(4711);
    ColoBeatParser p = { 0 };
    ColoHeartbeatWatch w;
    int64_t now = MS;

    colo_watch_init(&w, 2, INTERVAL_MS, TIMEOUT_MS, STALL_MS, 1, now);
    for (int i = 0; i < 200000; i++) {
        uint8_t buf[2 * COLO_BEAT_LEN];
        size_t len = g_rand_int_range(rand, 1, sizeof(buf));

        for (size_t at = 0; at < len; at++) {
            buf[at] = g_rand_int(rand);
        }
        if (g_rand_int(rand) % 2 && len >= COLO_BEAT_LEN) {
            ColoBeat b;

            for (size_t at = 0; at < sizeof(b); at++) {
                ((uint8_t *)&b)[at] = g_rand_int(rand);
            }
            colo_beat_encode(&b, buf);
            if (g_rand_int(rand) % 2) {
                buf[g_rand_int(rand) % COLO_BEAT_LEN] ^= 1;
            }
        }
        if (!colo_beat_parse(&p, buf, len, note, NULL)) {
            colo_beat_parser_reset(&p);
        }
        g_assert_cmpuint(p.len, <, COLO_BEAT_LEN);
        now += g_rand_int_range(rand, 0, 100) * MS;
        colo_watch_heard(&w, i % 2, &last, now);
        colo_watch_tick(&w, now);
        if (i % 100 == 0) {
            w.session = last.session;
        }
    }
}

/* Two sides with a clock each, and links between them */

typedef struct World {
    ColoHeartbeatWatch w[2];    /* primary, secondary */
    int64_t offset_ns[2];       /* of their clocks */
    int64_t now_ns;
    bool cut[COLO_HEARTBEAT_LINKS_MAX][2];      /* from that side */
    bool stopped[2];
    uint64_t loop[2], vcpus[2], work[2];
    uint16_t flags[2];
    /* The first time, by the world's clock, since the last reset() */
    int64_t silent_ns[2];
    int64_t lease_ns;           /* when the primary's lease ends, likewise */
} World;

static int64_t clock_of(World *o, int side)
{
    return o->now_ns + o->offset_ns[side];
}

static const QemuUUID session = { .data = { 42 } };

static World *world_new(unsigned nlinks)
{
    World *o = g_new0(World, 1);

    o->now_ns = 1000 * MS;
    o->offset_ns[1] = 777777 * MS;
    for (int side = 0; side < 2; side++) {
        colo_watch_init(&o->w[side], nlinks, INTERVAL_MS, TIMEOUT_MS,
                        STALL_MS, side + 1, clock_of(o, side));
        for (unsigned i = 0; i < nlinks; i++) {
            colo_watch_open(&o->w[side], i, true);
        }
        colo_watch_begin(&o->w[side], &session, side ? COLO_MODE_SECONDARY
                                                     : COLO_MODE_PRIMARY,
                         clock_of(o, side));
    }
    return o;
}

static ColoBeat beat_of(World *o, int side)
{
    ColoHeartbeatWatch *w = &o->w[side];
    int64_t now = clock_of(o, side);

    return (ColoBeat) {
        .sender = side + 1,
        .session = w->session,
        .role = w->role,
        .flags = o->flags[side] |
                 (side && colo_watch_gives_lease(w, now) ? COLO_BEAT_LEASE : 0),
        .timeout_ms = w->timeout_ms,
        .stamp_ns = now,
        .echo_ns = w->echo_ns,
        .echo_age_ns = w->echo_ns ? now - w->heard_ns : 0,
        .loop = o->loop[side],
        .vcpus = o->vcpus[side],
        .work = o->work[side],
    };
}

/* One interval: both sides look, say something on each link, and hear it */
static void step(World *o)
{
    o->now_ns += INTERVAL_MS * MS;
    for (int side = 0; side < 2; side++) {
        ColoPeerHealth health;

        if (o->stopped[side]) {
            continue;
        }
        health = colo_watch_tick(&o->w[side], clock_of(o, side));
        if (health == COLO_PEER_HEALTH_SILENT && !o->silent_ns[side]) {
            o->silent_ns[side] = o->now_ns;
        }
    }
    for (int side = 0; side < 2; side++) {
        ColoBeat b = beat_of(o, side);
        int to = !side;

        if (o->stopped[side] || o->stopped[to]) {
            continue;
        }
        for (unsigned i = 0; i < o->w[side].nlinks; i++) {
            if (o->cut[i][side]) {
                continue;
            }
            colo_watch_heard(&o->w[to], i, &b, clock_of(o, to));
            if (b.flags & COLO_BEAT_LEASE) {
                o->lease_ns = MAX(o->lease_ns, (int64_t)b.echo_ns +
                                  LEASE(o->w[0].timeout_ms) * MS);
            }
        }
    }
}

static void run(World *o, unsigned ms)
{
    for (unsigned i = 0; i < ms / INTERVAL_MS; i++) {
        step(o);
    }
}

static void expect(World *o, ColoPeerHealth primary, ColoPeerHealth secondary)
{
    g_assert_cmpint(o->w[0].health, ==, primary);
    g_assert_cmpint(o->w[1].health, ==, secondary);
}

#define WELL    COLO_PEER_HEALTH_WELL
#define SILENT  COLO_PEER_HEALTH_SILENT
#define STALLED COLO_PEER_HEALTH_STALLED
#define UNKNOWN COLO_PEER_HEALTH_UNKNOWN

/* They get on, unless told otherwise */
static void run_well(World *o, unsigned ms)
{
    for (unsigned i = 0; i < ms / INTERVAL_MS; i++) {
        for (int side = 0; side < 2; side++) {
            o->loop[side]++;
            o->vcpus[side]++;
        }
        step(o);
    }
}

static void test_silence(void)
{
    g_autofree World *o = world_new(1);

    expect(o, UNKNOWN, UNKNOWN);
    run_well(o, 1000);
    expect(o, WELL, WELL);
    g_assert_true(colo_watch_two_way(&o->w[0], clock_of(o, 0)));
    g_assert_cmpuint(o->w[0].rtt.count, >, 0);
    /* Without the time for which the peer kept it nothing is left here */
    g_assert_cmpuint(o->w[0].rtt.max_us, ==, 0);
    o->cut[0][0] = o->cut[0][1] = true;
    run_well(o, TIMEOUT_MS);
    expect(o, WELL, WELL);
    g_assert_cmpuint(colo_watch_links_up(&o->w[0], clock_of(o, 0)), ==, 1);
    run_well(o, 2 * INTERVAL_MS);
    expect(o, SILENT, SILENT);
    g_assert_cmpuint(o->w[0].losses, ==, 1);
    g_assert_cmpuint(colo_watch_links_up(&o->w[0], clock_of(o, 0)), ==, 0);
    /* Back when both hear each other, and not when one does */
    o->cut[0][0] = false;
    run_well(o, 1000);
    expect(o, SILENT, SILENT);
    o->cut[0][1] = false;
    run_well(o, 4 * INTERVAL_MS);
    expect(o, WELL, WELL);
    g_assert_cmpuint(o->w[0].losses, ==, 1);
}

/* Who was never heard is not missed */
static void test_never(void)
{
    g_autofree World *o = world_new(1);

    o->cut[0][0] = true;
    run_well(o, 4 * TIMEOUT_MS);
    expect(o, UNKNOWN, UNKNOWN);
    o->cut[0][1] = true;
    run_well(o, 4 * TIMEOUT_MS);
    expect(o, UNKNOWN, UNKNOWN);
}

/* Only one direction fails: both lose each other, and the hearing one, too */
static void test_one_way(void)
{
    for (int from = 0; from < 2; from++) {
        g_autofree World *o = world_new(1);

        run_well(o, 1000);
        o->cut[0][from] = true;
        run_well(o, TIMEOUT_MS);
        expect(o, WELL, WELL);
        run_well(o, 2 * TIMEOUT_MS);
        expect(o, SILENT, SILENT);
    }
}

static void test_two_links(void)
{
    g_autofree World *o = world_new(2);

    run_well(o, 1000);
    o->cut[0][0] = o->cut[0][1] = true;
    run_well(o, 4 * TIMEOUT_MS);
    expect(o, WELL, WELL);
    g_assert_cmpuint(colo_watch_links_up(&o->w[0], clock_of(o, 0)), ==, 1);
    g_assert_false(colo_watch_link_up(&o->w[0], 0, clock_of(o, 0)));
    /* One for each direction */
    o->cut[0][0] = false;
    o->cut[1][0] = true;
    run_well(o, 4 * TIMEOUT_MS);
    expect(o, WELL, WELL);
    o->cut[1][1] = true;
    run_well(o, 3 * TIMEOUT_MS);
    expect(o, SILENT, SILENT);
}

static void test_own_stall(void)
{
    for (int side = 0; side < 2; side++) {
        g_autofree World *o = world_new(1);

        run_well(o, 1000);
        o->stopped[side] = true;
        run_well(o, 10000);
        g_assert_cmpint(o->w[!side].health, ==, SILENT);
        o->stopped[side] = false;
        for (int i = 0; i < 20; i++) {
            run_well(o, INTERVAL_MS);
            g_assert_cmpint(o->w[side].health, ==, WELL);
        }
        expect(o, WELL, WELL);
        g_assert_cmpint(o->silent_ns[side], ==, 0);
        /* Nor is a peer well for ever for that */
        o->stopped[!side] = true;
        run_well(o, TIMEOUT_MS + 2 * INTERVAL_MS);
        g_assert_cmpint(o->w[side].health, ==, SILENT);
    }
}

static void test_unused(void)
{
    g_autofree World *o = world_new(1);
    ColoHeartbeatWatch *w = &o->w[0];
    ColoBeat b;

    run_well(o, 1000);
    o->cut[0][0] = o->cut[0][1] = true;
    for (int i = 0; i < 2 * TIMEOUT_MS / INTERVAL_MS; i++) {
        step(o);
        b = beat_of(o, 0);
        g_assert_cmpint(colo_watch_heard(w, 0, &b, clock_of(o, 0)), ==,
                        COLO_BEAT_OWN);
        b = beat_of(o, 1);
        b.session.data[5] = 1;
        g_assert_cmpint(colo_watch_heard(w, 0, &b, clock_of(o, 0)), ==,
                        COLO_BEAT_FOREIGN);
        /* The same side of this session */
        b = beat_of(o, 0);
        b.sender = 99;
        g_assert_cmpint(colo_watch_heard(w, 0, &b, clock_of(o, 0)), ==,
                        COLO_BEAT_FOREIGN);
        b = beat_of(o, 1);
        b.stamp_ns = w->link[0].stamp_ns;
        g_assert_cmpint(colo_watch_heard(w, 0, &b, clock_of(o, 0)), ==,
                        COLO_BEAT_OLD);
    }
    g_assert_cmpint(w->health, ==, SILENT);
    g_assert_false(colo_watch_link_up(w, 0, clock_of(o, 0)));

    /* An echo from the future is none */
    b = beat_of(o, 1);
    b.echo_ns = clock_of(o, 0) + 1000 * MS;
    g_assert_cmpint(colo_watch_heard(w, 0, &b, clock_of(o, 0)), ==,
                    COLO_BEAT_COUNTS);
    g_assert_false(colo_watch_two_way(w, clock_of(o, 0)));
}

static void test_stall(void)
{
    g_autofree World *o = world_new(1);

    run_well(o, 1000);
    /* The main loop of the secondary hangs */
    for (int i = 0; i < STALL_MS / INTERVAL_MS; i++) {
        o->vcpus[1]++;
        o->loop[0]++;
        o->vcpus[0]++;
        step(o);
    }
    expect(o, WELL, WELL);
    run(o, 2 * INTERVAL_MS);
    expect(o, STALLED, WELL);
    g_assert_cmpstr(o->w[0].stalled, ==, "main loop");
    run_well(o, 2 * INTERVAL_MS);
    expect(o, WELL, WELL);
    g_assert_null(o->w[0].stalled);

    /* vCPUs are asked by the main loop, and were some time before it hung */
    for (int i = 0; i < 5; i++) {
        o->loop[1]++;
        o->loop[0]++;
        o->vcpus[0]++;
        step(o);
    }
    for (int i = 0; i < STALL_MS / INTERVAL_MS; i++) {
        o->loop[0]++;
        o->vcpus[0]++;
        step(o);
    }
    expect(o, WELL, WELL);
    run(o, 2 * INTERVAL_MS);
    expect(o, STALLED, WELL);
    g_assert_cmpstr(o->w[0].stalled, ==, "main loop");
    run_well(o, 2 * INTERVAL_MS);
    expect(o, WELL, WELL);

    /* Its vCPUs do */
    for (int i = 0; i < STALL_MS / INTERVAL_MS + 2; i++) {
        o->loop[1]++;
        o->loop[0]++;
        o->vcpus[0]++;
        step(o);
    }
    expect(o, STALLED, WELL);
    g_assert_cmpstr(o->w[0].stalled, ==, "vCPUs");
    run_well(o, 2 * INTERVAL_MS);
    expect(o, WELL, WELL);
}

/* None of these is a stall */
static void test_no_stall(void)
{
    g_autofree World *o = world_new(1);

    run_well(o, 1000);
    /* The guest stands on purpose */
    o->flags[1] = COLO_BEAT_STANDS;
    for (int i = 0; i < 3 * STALL_MS / INTERVAL_MS; i++) {
        o->loop[0]++;
        o->vcpus[0]++;
        o->loop[1]++;
        step(o);
    }
    expect(o, WELL, WELL);
    o->flags[1] = 0;
    /* A checkpoint has the big lock */
    for (int i = 0; i < 3 * STALL_MS / INTERVAL_MS; i++) {
        o->loop[0]++;
        o->vcpus[0]++;
        o->work[1]++;
        step(o);
    }
    expect(o, WELL, WELL);
    /* Nothing was heard meanwhile, so nothing is known */
    o->cut[0][0] = o->cut[0][1] = true;
    run(o, 3 * STALL_MS);
    expect(o, SILENT, SILENT);
    o->cut[0][0] = o->cut[0][1] = false;
    run(o, 4 * INTERVAL_MS);
    expect(o, WELL, WELL);
}

/*
 * Whatever fails, and whenever: a lease that the secondary gave has ended when
 * it calls the primary silent, with its own timeout shorter or longer
 */
static void test_lease(void)
{
    static const uint32_t timeouts[] = { 200, 500, 3000 };
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    unsigned silences = 0;

    for (int i = 0; i < 3000; i++) {
        g_autofree World *o = world_new(2);

        o->w[0].timeout_ms = timeouts[g_rand_int(rand) % 3];
        o->w[1].timeout_ms = timeouts[g_rand_int(rand) % 3];
        o->offset_ns[1] = g_rand_int(rand) * MS;
        o->w[1].tick_ns = o->w[1].base_ns = clock_of(o, 1);
        run_well(o, 500);
        for (int j = 0; j < 6; j++) {
            for (int k = 0; k < 4; k++) {
                o->cut[k / 2][k % 2] = g_rand_int(rand) % 4 != 0;
            }
            o->stopped[0] = g_rand_int(rand) % 4 == 0;
            o->stopped[1] = g_rand_int(rand) % 8 == 0;
            for (int k = g_rand_int_range(rand, 1, 80); k; k--) {
                o->silent_ns[1] = 0;
                run_well(o, INTERVAL_MS);
                if (o->silent_ns[1]) {
                    silences++;
                    g_assert_cmpint(o->lease_ns - o->offset_ns[0], <=,
                                    o->silent_ns[1]);
                    break;
                }
            }
            if (o->silent_ns[1]) {
                break;
            }
        }
    }
    g_assert_cmpuint(silences, >, 100);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/heartbeat/message", test_message);
    g_test_add_func("/colo/heartbeat/cut", test_cut);
    g_test_add_func("/colo/heartbeat/resync", test_resync);
    g_test_add_func("/colo/heartbeat/garbage", test_garbage);
    g_test_add_func("/colo/heartbeat/fuzz", test_fuzz);
    g_test_add_func("/colo/heartbeat/silence", test_silence);
    g_test_add_func("/colo/heartbeat/never", test_never);
    g_test_add_func("/colo/heartbeat/one-way", test_one_way);
    g_test_add_func("/colo/heartbeat/two-links", test_two_links);
    g_test_add_func("/colo/heartbeat/own-stall", test_own_stall);
    g_test_add_func("/colo/heartbeat/unused", test_unused);
    g_test_add_func("/colo/heartbeat/stall", test_stall);
    g_test_add_func("/colo/heartbeat/no-stall", test_no_stall);
    g_test_add_func("/colo/heartbeat/lease", test_lease);
    return g_test_run();
}
