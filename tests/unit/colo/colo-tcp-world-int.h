/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A model of a client, a network and two hosts: what its files share.
 */

#ifndef TESTS_UNIT_COLO_TCP_WORLD_INT_H
#define TESTS_UNIT_COLO_TCP_WORLD_INT_H

#include "colo-tcp-world.h"
#include "colo-test-packet.h"
#include "net/colo/match.h"
#include "net/colo/rewrite.h"

#define TCP_COMPARE_MS      200         /* compare_timeout */
#define TCP_SYN_WAIT_MS     1000        /* as filter-rewriter has it */
#define TCP_DETECT_MS       200         /* until the secondary is live */
/* Between two packets that the network loses of a connection */
#define TCP_LOSS_GAP_MS     3000
/* By then all connections have to be over */
#define TCP_WORLD_END_MS    (240 * 1000)

typedef enum TcpItemKind {
    TCP_ITEM_PACKET,
    TCP_ITEM_CUT,
    TCP_ITEM_BEGIN,             /* no packet: each of them will be told */
} TcpItemKind;

/* One thing in a pipe or a queue */
typedef struct TcpItem {
    TcpItemKind kind;
    ColoPacket *p;
    uint64_t epoch;
    int64_t due;
} TcpItem;

typedef struct TcpPipe {
    GQueue items;               /* by due */
    bool reorders;
    int64_t last_due;
} TcpPipe;

typedef struct TcpWorld TcpWorld;
typedef struct TcpHost TcpHost;

typedef struct TcpEmit {
    TcpWorld *w;
    TcpHost *h;                 /* NULL: the client */
    unsigned conn;
} TcpEmit;

struct TcpHost {
    TcpApp conns[TCP_CONNS];
    TcpEmit emits[TCP_CONNS];
    bool running;
    int64_t stopped_ms;         /* valid if it is not running */
    int64_t lag_ms;             /* of the guest's clock */
    ColoRewrite *rewriter;      /* or NULL */
    GQueue waiting;             /* secondary: SYNs, with the end of the wait */
    GQueue kept;                /* input that cannot be put in yet */
};

typedef enum TcpCheckpoint {
    TCP_CP_NONE,                /* cp_due: the next one; INT64_MAX: none */
    TCP_CP_STOP,                /* the primary's guest stands still */
    TCP_CP_TRANSFER,            /* it runs, the state is on its way */
    TCP_CP_LOAD,                /* the secondary has it, and loads it */
} TcpCheckpoint;

typedef struct TcpProgress {
    uint64_t at;
    int64_t since_ms;
    bool over;
} TcpProgress;

struct TcpWorld {
    const TcpWorldPlan *plan;
    TcpWorldResult *result;
    TcpChance chance;
    int64_t now;
    bool traces;

    TcpApp client[TCP_CONNS];
    TcpEmit emits[TCP_CONNS];
    uint16_t client_ports[TCP_CONNS];   /* of the guest, as it knows them */
    uint32_t client_isn[TCP_CONNS];     /* of the guest, as it left */
    TcpProgress progress[TCP_CONNS];

    TcpHost hosts[2];
    TcpHost *p;                 /* NULL: it has failed, and s is not live */
    TcpHost *s;                 /* or NULL */
    bool s_live;

    TcpPipe net_in, net_out, to_secondary, from_primary, from_secondary;
    int64_t net_good_until[TCP_CONNS];  /* nothing is lost before that */
    int64_t nic_good_until[TCP_CONNS];

    /* The session */
    ColoMatch *match;           /* or NULL */
    bool holding;
    uint64_t cut, committed, loaded, input_epoch;
    bool s_known;               /* it has loaded something */
    unsigned needed;
    /* What of the secondary's words has reached the rules, since its record */
    bool said_known;
    uint64_t said_epoch;
    bool said[TCP_CONNS];
    uint16_t said_window[TCP_CONNS];    /* the largest */
    TcpCheckpoint cp;
    int64_t cp_due, commit_due;
    TcpApp snapshot[TCP_CONNS];
    int64_t snapshot_lag, snapshot_ms;
    GByteArray *export;         /* the rewriter's; or NULL */

    int64_t session_due, fail_due, live_due, err_due;
};

static inline uint32_t below(TcpWorld *w, uint32_t n)
{
    return tcp_chance_below(&w->chance, n);
}

static inline bool one_in(TcpWorld *w, uint32_t n)
{
    return tcp_chance_one_in(&w->chance, n);
}

/* In colo-tcp-net.c */

void tcp_world_client_says(void *opaque, const TcpSeg *s);
void tcp_world_host_says(void *opaque, const TcpSeg *s);
void tw_fault(TcpWorld *w, const char *format, ...)
    G_GNUC_PRINTF(2, 3);
void tw_trace(const TcpWorld *w, const char *what, const ColoPacket *p,
                     uint64_t n);
void tw_pipe_put(TcpPipe *pipe, TcpItemKind kind, ColoPacket *p,
                        uint64_t epoch, int64_t due);
TcpItem *tw_pipe_get(TcpPipe *pipe, int64_t now);
int64_t tw_pipe_due(const TcpPipe *pipe);
void tw_item_free(TcpItem *item);
void tw_pipe_clear(TcpPipe *pipe);
int64_t tw_stream_due(TcpWorld *w);
int64_t tw_vm_now(const TcpWorld *w, const TcpHost *h);
void tw_host_stop(TcpWorld *w, TcpHost *h);
void tw_host_start(TcpWorld *w, TcpHost *h);
TcpSpeaker tw_host_speaker(TcpWorld *w, TcpHost *h, unsigned conn);
TcpSpeaker tw_client_speaker(TcpWorld *w, unsigned conn);
void tw_host_init(TcpWorld *w, TcpHost *h);
void tw_queue_clear(GQueue *q);
void tw_host_cleanup(TcpHost *h);
unsigned tw_packet_conn(const ColoPacket *p);
void tw_client_gets(TcpWorld *w, ColoPacket *p);
void tw_leaves(TcpWorld *w, ColoPacket *p);
void tw_waiting_look(TcpWorld *w, TcpHost *h, bool all);
void tw_mirror(TcpWorld *w, TcpItemKind kind, ColoPacket *p,
                      uint64_t epoch);
void tw_primary_gets(TcpWorld *w, ColoPacket *p);
void tw_secondary_gets(TcpWorld *w, TcpItem *item);
void tw_secondary_takes_kept(TcpWorld *w, bool all);

/* In colo-tcp-session.c */

/* The state that the survivor goes on from, or would */
const TcpApp *tw_survivor(const TcpWorld *w);
void tw_engine_gets(TcpWorld *w);
void tw_session_begin(TcpWorld *w);
void tw_checkpoint_step(TcpWorld *w);
bool tw_checkpoint_may_begin(const TcpWorld *w);
void tw_err(TcpWorld *w);
void tw_session_drop(TcpWorld *w);
void tw_secondary_goes_live(TcpWorld *w);
void tw_fail(TcpWorld *w);

#endif
