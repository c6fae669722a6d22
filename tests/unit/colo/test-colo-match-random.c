/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random streams of two guests, against what may leave at all.
 *
 * A world has a few TCP connections and flows of datagrams, the two streams of
 * packets as pipes with cut records in them, and commits in between, in each
 * order that can happen.  A model that knows nothing of the engine's rules
 * watches what is released:
 *
 *   - what leaves was said, leaves once, and at the end nothing is missing
 *   - before its commit, only what the secondary said in the same epoch, and
 *     no gap
 *   - no ack before its commit but what the survivor has got
 *
 * Where both guests say the same in one epoch all has to leave without a
 * checkpoint.  The seed of each round is in the message if it fails.
 */

#include "qemu/osdep.h"
#include <malloc.h>
#include "colo-test-packet.h"
#include "net/colo/match.h"

#define CONNS       3
#define STREAM      12000       /* positions: SYN, data, FIN */
#define FIN_POS     (STREAM - 1)
#define SAID_SYN    256
#define SAID_FIN    257
#define SAID_NOT    -1
#define OUTBOX      4
#define MAX_EPOCHS  64
#define DATAGRAMS   400
#define ROUNDS      60

/* One guest's end of a connection */
typedef struct Talker {
    uint32_t pos;               /* said all before */
    uint32_t ack;               /* counted from Conn.ack_isn */
    uint32_t wrong_from;        /* bytes from here on are changed */
    ColoPacket *outbox[OUTBOX];
    unsigned outbox_len;
} Talker;

typedef struct Conn {
    uint16_t flow;
    uint32_t isn, s_isn, ack_isn;
    uint8_t data[STREAM];
    Talker primary, secondary;
    Talker snapshot;            /* of the primary, at the last cut */

    /* The model */
    bool out[STREAM];
    uint32_t out_end;           /* all positions before left */
    uint64_t bytes_in, bytes_out;
    int16_t said[STREAM];       /* by the secondary in its epoch */
    uint32_t s_ack;
    uint32_t acked_out, said_ack;
    uint32_t base[MAX_EPOCHS];  /* said_ack at the cut */

    /* Datagrams of the flow: number n has n as its payload */
    uint32_t dgram, s_dgram, dgram_snapshot, dgram_out;
    unsigned dgram_said[DATAGRAMS];
} Conn;

/* What waits on its way to the engine */
typedef struct Piped {
    ColoPacket *p;              /* NULL: cut record */
    uint64_t epoch;
} Piped;

typedef struct World {
    GRand *rand;
    uint32_t seed;
    ColoMatch *m;
    Conn conns[CONNS];
    GQueue primary_pipe, secondary_pipe;
    uint64_t cut, committed, loaded;        /* as they happen */
    bool s_known;
    uint64_t s_epoch;                       /* as the engine knows it */
    bool reorder_primary;
    bool can_differ;
    unsigned needs;
} World;

#define check(w, cond) do {                                             \
        if (!(cond)) {                                                  \
            g_error("seed %u, line %d: %s", (w)->seed, __LINE__, #cond); \
        }                                                               \
    } while (0)

static uint32_t below(World *w, uint32_t n)
{
    return g_rand_int_range(w->rand, 0, n);
}

static bool one_in(World *w, uint32_t n)
{
    return below(w, n) == 0;
}

/* The model */

static void model_out_pos(World *w, Conn *c, const ColoPacket *p,
                          uint32_t pos, int value, bool as_is)
{
    check(w, pos < STREAM);
    check(w, pos == 0 ? value == SAID_SYN : pos == FIN_POS ?
             value == SAID_FIN : value == c->data[pos]);
    if (c->out[pos]) {
        return;
    }
    if (!as_is) {
        check(w, w->s_known && w->s_epoch == p->epoch);
        check(w, c->said[pos] == value);
        /* A gap may be left by a commit alone */
        check(w, pos == 0 || c->out[pos - 1]);
    }
    c->out[pos] = true;
    while (c->out_end < STREAM && c->out[c->out_end]) {
        c->out_end++;
    }
}

static void model_out_tcp(World *w, Conn *c, const ColoPacket *p)
{
    bool as_is = p->epoch < w->committed;
    uint32_t pos = p->seq - c->isn;
    uint32_t ack = p->ack - c->ack_isn;

    check(w, colo_test_tcp_checksum_ok(p));
    c->bytes_out += colo_packet_seq_len(p);
    if (p->tcp_flags & COLO_TCP_SYN) {
        model_out_pos(w, c, p, pos++, SAID_SYN, as_is);
    }
    for (uint32_t i = 0; i < p->payload_len; i++) {
        model_out_pos(w, c, p, pos++, p->data[p->payload + i], as_is);
    }
    if (p->tcp_flags & COLO_TCP_FIN) {
        model_out_pos(w, c, p, pos, SAID_FIN, as_is);
    }

    check(w, ack <= c->said_ack);
    if (!as_is && ack > c->acked_out) {
        bool here = w->s_known && w->s_epoch == p->epoch;

        check(w, (here && ack <= c->s_ack) ||
                 ((here || p->epoch <= w->committed) &&
                  ack <= c->base[p->epoch]));
    }
    c->acked_out = MAX(c->acked_out, ack);
}

static uint32_t dgram_number(const ColoPacket *p)
{
    uint32_t n;

    memcpy(&n, p->data + p->payload, sizeof(n));
    return n;
}

static void model_out_dgram(World *w, Conn *c, const ColoPacket *p)
{
    uint32_t n = dgram_number(p);

    check(w, n == c->dgram_out);
    c->dgram_out++;
    if (p->epoch >= w->committed) {
        check(w, w->s_known && w->s_epoch == p->epoch);
        check(w, c->dgram_said[n]);
        c->dgram_said[n]--;
    }
}

static void on_release(void *opaque, ColoPacket *p)
{
    World *w = opaque;
    Conn *c = &w->conns[colo_test_flow(p)];

    if (p->kind == COLO_PACKET_TCP) {
        model_out_tcp(w, c, p);
    } else {
        model_out_dgram(w, c, p);
    }
    colo_packet_free(p);
}

static void on_need(void *opaque, ColoMatchNeed why, uint64_t epoch)
{
    World *w = opaque;

    w->needs++;
}

/* What @p of the secondary means, as the engine gets it */
static void model_said(World *w, const ColoPacket *p)
{
    Conn *c = &w->conns[colo_test_flow(p)];
    uint32_t pos = p->seq - c->isn;
    unsigned flags = p->tcp_flags & ~COLO_TCP_PSH;

    if (!w->s_known) {
        return;
    }
    if (p->kind != COLO_PACKET_TCP) {
        if (dgram_number(p) < DATAGRAMS) {
            c->dgram_said[dgram_number(p)]++;
        }
        return;
    }
    if (flags == (COLO_TCP_SYN | COLO_TCP_ACK) && p->window == 100) {
        c->said[0] = SAID_SYN;
        c->s_ack = MAX(c->s_ack, p->ack - c->ack_isn);
    } else if (flags == COLO_TCP_ACK ||
               flags == (COLO_TCP_ACK | COLO_TCP_FIN)) {
        for (uint32_t i = 0; i < p->payload_len && pos < STREAM; i++) {
            c->said[pos++] = p->data[p->payload + i];
        }
        if ((flags & COLO_TCP_FIN) && pos < STREAM) {
            c->said[pos] = SAID_FIN;
        }
        c->s_ack = MAX(c->s_ack, p->ack - c->ack_isn);
    }
}

static void model_forget(World *w)
{
    for (int i = 0; i < CONNS; i++) {
        Conn *c = &w->conns[i];

        for (int pos = 0; pos < STREAM; pos++) {
            c->said[pos] = SAID_NOT;
        }
        c->s_ack = 0;
        memset(c->dgram_said, 0, sizeof(c->dgram_said));
    }
}

/* From the pipes to the engine */

static void pipe_put(GQueue *pipe, ColoPacket *p, uint64_t epoch)
{
    Piped *piped = g_new(Piped, 1);

    *piped = (Piped) { .p = p, .epoch = epoch };
    g_queue_push_tail(pipe, piped);
}

static void deliver_primary(World *w)
{
    g_autofree Piped *piped = g_queue_pop_head(&w->primary_pipe);
    Conn *c;

    if (!piped) {
        return;
    }
    if (!piped->p) {
        for (int i = 0; i < CONNS; i++) {
            w->conns[i].base[piped->epoch] = w->conns[i].said_ack;
        }
        colo_match_primary_cut(w->m, piped->epoch, 0);
        return;
    }
    c = &w->conns[colo_test_flow(piped->p)];
    if (piped->p->kind == COLO_PACKET_TCP) {
        c->bytes_in += colo_packet_seq_len(piped->p);
        c->said_ack = MAX(c->said_ack, piped->p->ack - c->ack_isn);
    }
    colo_match_primary(w->m, piped->p);
}

static void deliver_secondary(World *w)
{
    g_autofree Piped *piped = g_queue_pop_head(&w->secondary_pipe);

    if (!piped) {
        return;
    }
    if (piped->p) {
        model_said(w, piped->p);
        colo_match_secondary(w->m, piped->p);
    } else {
        model_forget(w);
        w->s_known = true;
        w->s_epoch = piped->epoch;
        colo_match_secondary_cut(w->m, piped->epoch, 0);
    }
}

/* One thing, or several that were read at once */
static void read_secondary(World *w)
{
    int n = one_in(w, 3) ? 8 : 1;

    colo_match_begin_read(w->m);
    while (n--) {
        deliver_secondary(w);
    }
    colo_match_end_read(w->m);
}

/* The guests */

static ColoPacket *segment(Conn *c, Talker *t, uint32_t pos, uint32_t len,
                           bool secondary)
{
    g_autofree uint8_t *data = g_memdup2(c->data + pos, len);
    ColoTestTcp tcp = {
        .flow = c->flow,
        .seq = (secondary && pos == 0 ? c->s_isn : c->isn) + pos,
        .ack = c->ack_isn + t->ack,
        .flags = COLO_TCP_ACK,
        .window = 100,
        .data = data,
        .len = len,
    };

    if (pos == 0) {
        tcp.flags |= COLO_TCP_SYN;
        tcp.len = 0;
        return colo_test_tcp(&tcp);
    }
    for (uint32_t i = 0; i < len; i++) {
        if (pos + i >= t->wrong_from) {
            data[i] ^= 1;
        }
    }
    if (pos + len > FIN_POS) {
        tcp.len = FIN_POS - pos;
        tcp.flags |= COLO_TCP_FIN;
    }
    return colo_test_tcp(&tcp);
}

static void outbox_send(World *w, Talker *t, GQueue *pipe)
{
    unsigned i = below(w, t->outbox_len);

    pipe_put(pipe, t->outbox[i], 0);
    t->outbox[i] = t->outbox[--t->outbox_len];
}

/* Say something new, something again, or just acknowledge */
static void talk_tcp(World *w, Conn *c, Talker *t, GQueue *pipe)
{
    bool secondary = t == &c->secondary;
    bool reorder = secondary || w->reorder_primary;
    uint32_t pos = t->pos, len;

    if (pos && c->out[0] && one_in(w, 3)) {
        t->ack += below(w, 500);
    }
    if (pos == 0) {
        pipe_put(pipe, segment(c, t, 0, 1, secondary), 0);
        t->pos = 1;
        return;
    }
    if (!c->out[0]) {
        /* No client answered yet */
        if (one_in(w, 8)) {
            pipe_put(pipe, segment(c, t, 0, 1, secondary), 0);
        }
        return;
    }
    if (pos == STREAM || one_in(w, 5)) {
        ColoTestTcp tcp = {
            .flow = c->flow, .seq = c->isn + pos, .window = 100,
            .ack = c->ack_isn + t->ack, .flags = COLO_TCP_ACK,
        };

        pipe_put(pipe, colo_test_tcp(&tcp), 0);
        return;
    }
    if (pos > 1 && one_in(w, 8)) {
        pos = 1 + below(w, pos - 1);
        len = 1 + below(w, t->pos - pos);
        len = MIN(len, 3000);
    } else {
        len = 1 + below(w, one_in(w, 4) ? 3000 : 300);
        len = MIN(len, STREAM - pos);
        t->pos += len;
    }
    t->outbox[t->outbox_len++] = segment(c, t, pos, len, secondary);
    while (t->outbox_len == (reorder ? OUTBOX : 1)) {
        outbox_send(w, t, pipe);
    }
}

static ColoPacket *dgram(Conn *c, uint32_t n)
{
    uint8_t data[100] = "";

    memcpy(data, &n, sizeof(n));
    return colo_test_udp(c->flow, data, sizeof(data));
}

static void talk_dgram(World *w, Conn *c, bool secondary)
{
    uint32_t *n = secondary ? &c->s_dgram : &c->dgram;
    GQueue *pipe = secondary ? &w->secondary_pipe : &w->primary_pipe;

    if (*n == DATAGRAMS || (secondary && *n == c->dgram)) {
        return;
    }
    if (secondary && w->can_differ && one_in(w, 40)) {
        pipe_put(pipe, dgram(c, DATAGRAMS + below(w, 5)), 0);
        *n += below(w, 2);
        return;
    }
    pipe_put(pipe, dgram(c, (*n)++), 0);
}

static void talk(World *w, bool secondary)
{
    Conn *c = &w->conns[below(w, CONNS)];
    Talker *t = secondary ? &c->secondary : &c->primary;

    if (one_in(w, 3)) {
        talk_dgram(w, c, secondary);
        return;
    }
    if (secondary && w->can_differ && one_in(w, 60)) {
        t->wrong_from = MIN(t->wrong_from, t->pos);
    }
    talk_tcp(w, c, t, secondary ? &w->secondary_pipe : &w->primary_pipe);
}

static void talker_clear(Talker *t)
{
    while (t->outbox_len) {
        colo_packet_free(t->outbox[--t->outbox_len]);
    }
}

/* Cut, commit and load */

static void cut(World *w)
{
    w->cut++;
    pipe_put(&w->primary_pipe, NULL, w->cut);
    for (int i = 0; i < CONNS; i++) {
        Conn *c = &w->conns[i];

        c->snapshot = c->primary;
        c->snapshot.outbox_len = 0;
        c->dgram_snapshot = c->dgram;
    }
}

static void commit(World *w)
{
    w->committed = w->cut;
    colo_match_commit(w->m, w->cut, 0);
}

static void load(World *w)
{
    w->loaded = w->cut;
    pipe_put(&w->secondary_pipe, NULL, w->cut);
    for (int i = 0; i < CONNS; i++) {
        Conn *c = &w->conns[i];

        talker_clear(&c->secondary);
        c->secondary = c->snapshot;
        c->secondary.wrong_from = UINT32_MAX;
        c->s_dgram = c->dgram_snapshot;
        c->s_isn = c->isn;
    }
}

static void checkpoint_step(World *w)
{
    if (w->loaded == w->cut) {
        if (w->cut + 1 < MAX_EPOCHS - 1) {
            cut(w);
        }
    } else if (w->committed < w->cut) {
        commit(w);
    } else {
        load(w);
    }
}

static void lose_secondary(World *w)
{
    w->s_known = false;
    model_forget(w);
    colo_match_secondary_lost(w->m);
    /* What was on its way is lost as well; a new stream says where it is */
    while (!g_queue_is_empty(&w->secondary_pipe)) {
        g_autofree Piped *piped = g_queue_pop_head(&w->secondary_pipe);

        if (piped->p) {
            colo_packet_free(piped->p);
        }
    }
    pipe_put(&w->secondary_pipe, NULL, w->loaded);
}

/* Life of a world */

static const ColoMatchConfig config = {
    .timeout_ms = 1000,
    .max_packets = 100000,
    .max_bytes = 64 * 1024 * 1024,
    .max_flows = 16,
    .idle_ms = 10000,
};

static const ColoMatchOps ops = {
    .release = on_release,
    .need = on_need,
};

static void world_init(World *w, uint32_t seed)
{
    memset(w, 0, sizeof(*w));
    w->seed = seed;
    w->rand = g_rand_new_with_seed(seed);
    w->m = colo_match_new(&config, &ops, w);
    g_queue_init(&w->primary_pipe);
    g_queue_init(&w->secondary_pipe);
    w->reorder_primary = one_in(w, 2);
    for (int i = 0; i < CONNS; i++) {
        Conn *c = &w->conns[i];

        c->flow = i;
        /* Half of them wrap */
        c->isn = one_in(w, 2) ? g_rand_int(w->rand) :
                                UINT32_MAX - below(w, STREAM);
        c->s_isn = g_rand_int(w->rand);
        c->ack_isn = one_in(w, 2) ? g_rand_int(w->rand) :
                                    UINT32_MAX - below(w, STREAM);
        c->primary.wrong_from = c->secondary.wrong_from = UINT32_MAX;
        for (int pos = 0; pos < STREAM; pos++) {
            c->data[pos] = g_rand_int(w->rand);
        }
    }
    model_forget(w);
    colo_match_arm(w->m);
    colo_match_primary_cut(w->m, 0, 0);
    pipe_put(&w->secondary_pipe, NULL, 0);
}

static void world_deliver_all(World *w)
{
    while (!g_queue_is_empty(&w->primary_pipe)) {
        deliver_primary(w);
    }
    while (!g_queue_is_empty(&w->secondary_pipe)) {
        deliver_secondary(w);
    }
}

static void world_cleanup(World *w)
{
    world_deliver_all(w);
    for (int i = 0; i < CONNS; i++) {
        talker_clear(&w->conns[i].primary);
        talker_clear(&w->conns[i].secondary);
    }
    colo_match_free(w->m);
    g_rand_free(w->rand);
    g_free(w);
}

/* All the primary said is out, once */
static void world_check_all_out(World *w)
{
    const ColoMatchStats *s = colo_match_stats(w->m);

    check(w, s->queued_packets == 0);
    check(w, s->queued_bytes == 0);
    for (int i = 0; i < CONNS; i++) {
        Conn *c = &w->conns[i];

        check(w, c->bytes_in == c->bytes_out);
        check(w, c->said_ack == c->acked_out);
        check(w, c->dgram_out == c->dgram);
    }
}

static bool world_done(const World *w, bool secondary)
{
    for (int i = 0; i < CONNS; i++) {
        const Conn *c = &w->conns[i];
        const Talker *t = secondary ? &c->secondary : &c->primary;

        if (t->pos < STREAM ||
            (secondary ? c->s_dgram : c->dgram) < DATAGRAMS) {
            return false;
        }
    }
    return true;
}

/* Everything that is in the outboxes, and the last ack of both */
static void world_last_words(World *w)
{
    for (int i = 0; i < CONNS; i++) {
        Conn *c = &w->conns[i];
        uint32_t ack = MAX(c->primary.ack, c->secondary.ack);
        ColoTestTcp last = {
            .flow = c->flow, .seq = c->isn + STREAM, .window = 100,
            .ack = c->ack_isn + ack, .flags = COLO_TCP_ACK,
        };

        while (c->primary.outbox_len) {
            outbox_send(w, &c->primary, &w->primary_pipe);
        }
        while (c->secondary.outbox_len) {
            outbox_send(w, &c->secondary, &w->secondary_pipe);
        }
        pipe_put(&w->primary_pipe, colo_test_tcp(&last), 0);
        pipe_put(&w->secondary_pipe, colo_test_tcp(&last), 0);
    }
}

/* Both say the same in one epoch: no checkpoint is asked for */
static void test_same(void)
{
    for (uint32_t seed = 1; seed <= ROUNDS; seed++) {
        World *w = g_new(World, 1);

        world_init(w, seed);
        for (int n = 0; !world_done(w, false) || !world_done(w, true); n++) {
            check(w, n < 1000000);
            talk(w, false);
            talk(w, true);
            for (uint32_t i = below(w, 6); i > 0; i--) {
                /* Datagrams the secondary said first could be different */
                if (!g_queue_is_empty(&w->primary_pipe)) {
                    deliver_primary(w);
                } else {
                    read_secondary(w);
                }
            }
        }
        world_last_words(w);
        world_deliver_all(w);
        check(w, w->needs == 0);
        check(w, colo_match_stats(w->m)->released[COLO_RELEASE_COMMIT] == 0);
        check(w, colo_match_stats(w->m)->secondary_queued_bytes == 0);
        world_check_all_out(w);
        for (int i = 0; i < CONNS; i++) {
            check(w, w->conns[i].out_end == STREAM);
        }
        world_cleanup(w);
    }
}

/* With cuts, commits and loads, a secondary that errs, streams that break */
static void test_epochs(void)
{
    for (uint32_t seed = 1; seed <= ROUNDS; seed++) {
        World *w = g_new(World, 1);
        uint64_t equal;

        world_init(w, seed);
        w->can_differ = seed % 4;
        for (int i = 0; i < 6000; i++) {
            switch (below(w, 8)) {
            case 0:
            case 1:
                talk(w, false);
                break;
            case 2:
            case 3:
                talk(w, true);
                break;
            case 4:
            case 5:
                deliver_primary(w);
                break;
            default:
                read_secondary(w);
                break;
            }
            if (one_in(w, 50)) {
                checkpoint_step(w);
            }
            if (one_in(w, 2000)) {
                lose_secondary(w);
            }
        }
        equal = colo_match_stats(w->m)->released[COLO_RELEASE_EQUAL];
        check(w, equal > 0);
        while (w->committed < w->cut || w->loaded < w->cut) {
            checkpoint_step(w);
        }
        /* One last cut lets all go, before its record or after it */
        world_last_words(w);
        cut(w);
        if (one_in(w, 2)) {
            commit(w);
        }
        world_deliver_all(w);
        commit(w);
        world_check_all_out(w);
        world_cleanup(w);
    }
}

/* The end of a session lets all go at once */
static void test_open(void)
{
    for (uint32_t seed = 1; seed <= ROUNDS; seed++) {
        World *w = g_new(World, 1);

        world_init(w, seed);
        for (int i = 0; i < 500; i++) {
            talk(w, false);
            deliver_primary(w);
            if (one_in(w, 3)) {
                talk(w, true);
                read_secondary(w);
            }
        }
        while (!g_queue_is_empty(&w->primary_pipe)) {
            deliver_primary(w);
        }
        w->committed = UINT64_MAX;          /* as far as the model goes */
        colo_match_open(w->m);
        world_check_all_out(w);
        world_cleanup(w);
    }
}

/* Anything of the secondary's that is changed */

typedef enum Change {
    CHANGE_BYTE,
    CHANGE_SEQ,
    CHANGE_SYN,
    CHANGE_FIN,
    CHANGE_RST,
    CHANGE_ACK,
    CHANGE_URG,
    CHANGE_WINDOW,
    CHANGE_LOST,
    CHANGE__MAX,
} Change;

/* False: this packet cannot be changed so that it means something else */
static bool change_packet(ColoPacket *p, Change change)
{
    static const uint8_t flags[] = {
        [CHANGE_SYN] = COLO_TCP_SYN,
        [CHANGE_FIN] = COLO_TCP_FIN,
        [CHANGE_RST] = COLO_TCP_RST,
        [CHANGE_ACK] = COLO_TCP_ACK,
        [CHANGE_URG] = COLO_TCP_URG,
    };

    switch (change) {
    case CHANGE_BYTE:
        if (!p->payload_len) {
            return false;
        }
        p->data[p->payload + p->payload_len / 2] ^= 0x20;
        break;
    case CHANGE_SEQ:
        if (p->tcp_flags & COLO_TCP_SYN) {
            return false;
        }
        colo_packet_set_seq(p, p->seq + 1);
        break;
    case CHANGE_WINDOW:
        if (!(p->tcp_flags & COLO_TCP_SYN)) {
            return false;
        }
        p->data[p->l4 + 15] ^= 1;
        break;
    case CHANGE_LOST:
        break;
    default:
        p->data[p->l4 + 13] ^= flags[change];
        break;
    }
    colo_packet_parse(p);
    return true;
}

/* One conversation; segment @which of the secondary's is changed */
static bool run_changed(unsigned which, Change change, unsigned *segments)
{
    World *w = g_new(World, 1);
    Conn *c = &w->conns[0];
    uint32_t pos = 0;
    bool changed = false;

    world_init(w, which * CHANGE__MAX + change + 1);
    deliver_secondary(w);
    for (*segments = 0; pos < STREAM; (*segments)++) {
        uint32_t len = pos ? MIN(1500, STREAM - pos) : 1;
        ColoPacket *p = segment(c, &c->secondary, pos, len, true);

        pipe_put(&w->primary_pipe,
                 segment(c, &c->primary, pos, len, false), 0);
        deliver_primary(w);
        if (*segments == which) {
            changed = change_packet(p, change);
        }
        if (*segments == which && changed && change == CHANGE_LOST) {
            colo_packet_free(p);
        } else {
            pipe_put(&w->secondary_pipe, p, 0);
        }
        deliver_secondary(w);
        pos += len;
    }
    if (changed) {
        check(w, colo_match_stats(w->m)->queued_packets > 0);
    }
    cut(w);
    commit(w);
    world_deliver_all(w);
    world_check_all_out(w);
    check(w, c->out_end == STREAM);
    world_cleanup(w);
    return changed;
}

static void test_changed(void)
{
    unsigned segments, runs = 0;

    run_changed(UINT_MAX / 100, CHANGE_LOST, &segments);
    for (unsigned which = 0; which < segments; which++) {
        for (int change = 0; change < CHANGE__MAX; change++) {
            runs += run_changed(which, change, &segments);
        }
    }
    /* Two changes are impossible in each segment, or three (SYN, FIN alone) */
    g_assert_cmpint(runs, >=, segments * (CHANGE__MAX - 3));
}

/* Many connections */

#define SCALE_LIVE      10000
#define SCALE_CHURN     1000
#define SCALE_SECONDS   60

typedef struct Scale {
    ColoMatch *m;
    uint64_t released, packets;
    uint32_t pos[UINT16_MAX];
} Scale;

static void scale_release(void *opaque, ColoPacket *p)
{
    Scale *s = opaque;

    s->released++;
    colo_packet_free(p);
}

static void scale_need(void *opaque, ColoMatchNeed why, uint64_t epoch)
{
    g_error("a checkpoint is needed: %d", why);
}

static void scale_say(Scale *s, uint16_t flow, uint8_t flags, int64_t now_ms)
{
    uint8_t data[64] = "";
    uint16_t len = flags & COLO_TCP_SYN ? 0 : sizeof(data);
    ColoTestTcp t = {
        .flow = flow, .seq = s->pos[flow], .ack = 1, .window = 100,
        .flags = flags | COLO_TCP_ACK, .data = data, .len = len,
    };
    ColoPacket *p = colo_test_tcp(&t), *q = colo_test_tcp(&t);

    p->arrived_ms = now_ms;
    s->pos[flow] = p->seq + colo_packet_seq_len(p);
    s->packets++;
    colo_match_primary(s->m, p);
    colo_match_secondary(s->m, q);
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
static size_t heap_in_use(void)
{
    struct mallinfo2 info = mallinfo2();

    return info.uordblks + info.hblkhd;
}
#else
static size_t heap_in_use(void)
{
    return 0;
}
#endif

static void test_scale(void)
{
    static const ColoMatchConfig many = {
        .timeout_ms = 1000, .max_packets = 1024,
        .max_bytes = 64 * 1024 * 1024, .max_flows = 20000, .idle_ms = 30000,
    };
    static const ColoMatchOps scale_ops = {
        .release = scale_release, .need = scale_need,
    };
    Scale *s = g_new0(Scale, 1);
    uint64_t most = 0;
    size_t before, busy = 0;
    const ColoMatchStats *stats;
    int64_t start, now_ms = 0;

    s->m = colo_match_new(&many, &scale_ops, s);
    stats = colo_match_stats(s->m);
    colo_match_arm(s->m);
    colo_match_primary_cut(s->m, 0, 0);
    colo_match_secondary_cut(s->m, 0, 0);
    before = heap_in_use();
    start = g_get_monotonic_time();
    for (int i = 0; i < SCALE_LIVE; i++) {
        scale_say(s, i, COLO_TCP_SYN, now_ms);
    }
    for (int second = 0; second < SCALE_SECONDS; second++) {
        uint16_t first = second * SCALE_CHURN % 50000;

        for (int i = 0; i < SCALE_LIVE; i++) {
            scale_say(s, (first + i) % 50000, 0, now_ms);
        }
        for (int i = 0; i < SCALE_CHURN; i++) {
            uint16_t born = (first + SCALE_LIVE + i) % 50000;

            scale_say(s, (first + i) % 50000, COLO_TCP_FIN, now_ms);
            s->pos[born] += 100000;
            scale_say(s, born, COLO_TCP_SYN, now_ms);
        }
        now_ms += 1000;
        colo_match_tick(s->m, now_ms);
        if (second == 10) {
            busy = heap_in_use();
        }
        most = MAX(most, stats->flows);
    }
    g_test_message("%.0f ns a packet of both sides, building included",
                   (g_get_monotonic_time() - start) * 1000.0 / s->packets);
    g_assert_cmpint(s->released, ==, s->packets);
    /* Those that live, and those that ended in the last seconds */
    g_assert_cmpint(most, <=, SCALE_LIVE + 3 * SCALE_CHURN);
    g_assert_cmpint(heap_in_use(), <=, busy + 1024 * 1024);

    colo_match_tick(s->m, now_ms + many.idle_ms);
    g_assert_cmpint(stats->flows, ==, 0);
    g_assert_cmpint(stats->queued_bytes, ==, 0);
    g_assert_cmpint(stats->secondary_queued_bytes, ==, 0);
    g_assert_cmpint(heap_in_use(), <=, before + 64 * 1024);
    colo_match_free(s->m);
    g_free(s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/match/random/same", test_same);
    g_test_add_func("/colo/match/random/epochs", test_epochs);
    g_test_add_func("/colo/match/random/open", test_open);
    g_test_add_func("/colo/match/random/changed", test_changed);
    g_test_add_func("/colo/match/scale", test_scale);
    return g_test_run();
}
