/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: what the files of the rewriter share.
 *
 * Secondary, pure, one thread.  rewrite.c has the table, numbers and
 * timestamps, rewrite-ports.c has ports and what P opens,
 * rewrite-export.c hands the table on, rewrite-icmp.c has what errors quote.
 */

#ifndef QEMU_NET_COLO_REWRITE_INT_H
#define QEMU_NET_COLO_REWRITE_INT_H

#include "rewrite.h"

#define COLO_REWRITE_PROTO_ICMP     1
#define COLO_REWRITE_PROTO_TCP      6
#define COLO_REWRITE_PROTO_ICMPV6   58

typedef enum ColoRewriteState {
    FLOW_HANDSHAKE,
    FLOW_OPEN,
    FLOW_CLOSING,
    FLOW__MAX,
} ColoRewriteState;

typedef enum ColoRewriteFinState {
    FIN_NONE,
    FIN_SENT,
    FIN_ACKED,
} ColoRewriteFinState;

/* One direction's end; @end is the sequence number behind the FIN */
typedef struct ColoRewriteFin {
    ColoRewriteFinState state;
    uint32_t end;
} ColoRewriteFin;

typedef struct ColoRewriteFlow ColoRewriteFlow;
struct ColoRewriteFlow {
    /* Both in the direction from the guest; they differ in sport if at all */
    ColoFlowKey key;            /* with the inner port */
    ColoFlowKey outer;
    ColoRewriteState state;
    uint64_t generation;        /* loads when it was as it is here */
    int64_t last_ms;
    QTAILQ_ENTRY(ColoRewriteFlow) next;

    bool own;                   /* begun while S was live: offset zero */

    /* What the guest sent to open it: facts, both in a simultaneous open */
    bool sent_syn;
    bool sent_syn_ack;
    uint32_t isn;               /* of S, if either was sent */
    uint32_t syn_payload;       /* bytes in that segment */
    uint32_t peer_next;         /* ack of the SYN-ACK */
    uint16_t syn_window;        /* which it offered, never scaled */

    /* S minus P, 0 while it is not known */
    bool offset_known;
    uint32_t offset;
    uint32_t ts_offset;         /* the same of the timestamps */

    /* What S sent, its own clock */
    bool tsval_known;
    uint32_t tsval_first;       /* of the SYN, or since the load */
    uint32_t tsval_latest;
    /* Highest TSecr of the client, P's clock; only if offset_known */
    bool floor_known;
    uint32_t floor;

    ColoRewriteFin guest_fin;   /* in the numbers of S */
    ColoRewriteFin peer_fin;
};

typedef QTAILQ_HEAD(ColoRewriteList, ColoRewriteFlow) ColoRewriteList;

typedef struct ColoRewriteOpen ColoRewriteOpen;
typedef QTAILQ_HEAD(ColoRewriteOpenList, ColoRewriteOpen) ColoRewriteOpenList;

/* Whom P connects to, and from which address; there is at least one open */
typedef struct ColoRewriteServer {
    ColoFlowKey key;            /* of all of them, without a source port */
    ColoRewriteOpenList opens;  /* oldest first */
} ColoRewriteServer;

/* A connect of P that no connect of S has got yet */
struct ColoRewriteOpen {
    ColoFlowKey key;
    int64_t told_ms;
    ColoRewriteServer *server;
    QTAILQ_ENTRY(ColoRewriteOpen) next;
    QTAILQ_ENTRY(ColoRewriteOpen) of_server;
};

/*
 * Invariant: no two flows have the same key, and no two the same outer key
 *
 * A load changes all flows, and the guest stands meanwhile, so it just counts
 * up the generation.  A flow of an older one is stale: it is in the tables as
 * it was, and becomes what the load has made of it, or goes, before it is used
 * (colo_rewrite_find_inner(), _find_outer()), and by and by (the sweep).  Stale
 * flows that a load ends count neither in the statistics nor as a reason to
 * forget others.
 */
struct ColoRewrite {
    uint32_t max_flows;
    int64_t silence_ms[FLOW__MAX];
    GHashTable *flows;          /* by key, owned */
    GHashTable *outers;         /* by outer key, those that are mapped only */
    ColoRewriteList lists[FLOW__MAX];   /* silent for longest is first */
    uint64_t generation;
    uint32_t stale;             /* flows of an older one */
    uint32_t lasting;           /* flows with a floor: a load leaves them */
    uint32_t lasting_open;      /* of these in state OPEN */
    ColoRewriteFlow *sweep;     /* where it goes on; NULL: at the next list */
    ColoRewriteState sweep_list;
    bool maps;                  /* something to export since the load */
    bool live;                  /* clients see what S begins */
    bool told;
    ColoRewriteOpenList opens;  /* oldest first, none unless told */
    GHashTable *opens_by_key;   /* the oldest with that key */
    GHashTable *servers;        /* by key, owned */
    uint32_t opens_count;
    int64_t now_ms;
    ColoRewriteStats stats;
};

static inline bool colo_rewrite_is_mapped(const ColoRewriteFlow *f)
{
    return f->outer.sport != f->key.sport;
}

/* In rewrite.c */

void colo_rewrite_advance_clock(ColoRewrite *r, int64_t now_ms);

/* There is no flow with that key, and none with the outer key of @port */
ColoRewriteFlow *colo_rewrite_add(ColoRewrite *r, const ColoFlowKey *key,
                                  uint16_t port, ColoRewriteState state);
void colo_rewrite_forget(ColoRewrite *r, ColoRewriteFlow *f);
void colo_rewrite_set_floor_known(ColoRewrite *r, ColoRewriteFlow *f,
                                  bool known);

static inline bool colo_rewrite_is_stale(const ColoRewrite *r,
                                         const ColoRewriteFlow *f)
{
    return f->generation != r->generation;
}

/* What is stale at that key, inner or outer, is no longer */
void colo_rewrite_settle(ColoRewrite *r, const ColoFlowKey *key);

/* The flow with that key */
ColoRewriteFlow *colo_rewrite_find_inner(ColoRewrite *r,
                                         const ColoFlowKey *key);

/* Does @p, with SYN and without RST, begin another connection than @f? */
bool colo_rewrite_is_new_syn(const ColoRewriteFlow *f, const ColoPacket *p);

/* Is a packet of no known connection worth being remembered as one? */
bool colo_rewrite_may_adopt(const ColoRewrite *r, uint8_t tcp_flags);

/* In rewrite-ports.c */

void colo_rewrite_ports_init(ColoRewrite *r);
void colo_rewrite_ports_destroy(ColoRewrite *r);

/* The flow with that outer key, be it mapped or not */
ColoRewriteFlow *colo_rewrite_find_outer(ColoRewrite *r,
                                         const ColoFlowKey *outer);

/* No other flow has the outer key that this leads to */
void colo_rewrite_set_outer(ColoRewrite *r, ColoRewriteFlow *f,
                            uint16_t port);

/*
 * colo_rewrite_connect: S begins a connection, with a SYN with @key
 *
 * @f: the flow with that key, NULL if there is none
 * @port: set to the outer port for it
 *
 * Takes an open if one fits, and forgets a flow that has to give way, which is
 * not @f.  Returns false if there is no port.
 */
bool colo_rewrite_connect(ColoRewrite *r, const ColoRewriteFlow *f,
                          const ColoFlowKey *key, uint16_t *port);

void colo_rewrite_forget_opens(ColoRewrite *r);
void colo_rewrite_expire_opens(ColoRewrite *r);

/* In rewrite-icmp.c.  Each returns whether it changed @p. */

bool colo_rewrite_icmp_is_error(uint8_t proto, uint8_t type);
bool colo_rewrite_icmp_to_guest(ColoRewrite *r, ColoPacket *p);
bool colo_rewrite_icmp_from_guest(ColoRewrite *r, ColoPacket *p);
/* What to_guest made becomes what it was made of */
bool colo_rewrite_icmp_undo(ColoRewrite *r, ColoPacket *p);

#endif
