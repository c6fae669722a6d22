/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: what the files of the matching engine share.
 *
 * Primary, one thread.  match.c has the epochs and the queues,
 * match-datagram.c and match-tcp.c compare, match-ack.c has what clients hear
 * of what was received.
 */

#ifndef QEMU_NET_COLO_MATCH_INT_H
#define QEMU_NET_COLO_MATCH_INT_H

#include "conn.h"
#include "match.h"
#include "match-ack.h"

typedef enum ColoMatchMode {
    /*
     * No session: what comes leaves, nothing is held and no flow known.
     * Left by colo_match_arm().
     */
    COLO_MATCH_OPEN,
    /*
     * A session begins: packets of the primary still leave at once.  Left by
     * the primary's first cut record, or colo_match_open().
     */
    COLO_MATCH_ARMED,
    /* The rules hold.  Left by colo_match_open(). */
    COLO_MATCH_HOLDING,
} ColoMatchMode;

/* Move all of @from to the end of @to: QSIMPLEQ_CONCAT of a QTAILQ */
#define COLO_TAILQ_CONCAT(to, from, field) do {                             \
        if (!QTAILQ_EMPTY(from)) {                                          \
            (to)->tqh_circ.tql_prev->tql_next = (from)->tqh_first;          \
            (from)->tqh_first->field.tqe_circ.tql_prev =                    \
                (to)->tqh_circ.tql_prev;                                    \
            (to)->tqh_circ.tql_prev = (from)->tqh_circ.tql_prev;            \
            QTAILQ_INIT(from);                                              \
        }                                                                   \
    } while (0)

struct ColoMatch {
    /* Set once */
    ColoMatchConfig config;
    ColoMatchOps ops;
    void *opaque;

    ColoMatchMode mode;
    uint64_t epoch;                 /* what the primary says now is of it */
    uint64_t committed;             /* earlier epochs may leave */
    bool s_known;                   /* the secondary told its epoch */
    bool s_lost;                    /* its stream was closed in this session */
    uint64_t s_epoch;               /* valid if s_known */
    uint64_t generation;            /* changes when its words become void */
    uint64_t diverged;              /* flows that are, in this generation */
    bool s_dropped;                 /* some of its words, in this generation */
    unsigned needed;                /* bit for each ColoMatchNeed told */
    int64_t now_ms;                 /* latest time heard of */
    int64_t cut_ms;                 /* when epoch began */
    int64_t lag_ms;                 /* how much later s_epoch did */
    int64_t commit_lag_ms;          /* how much later epoch was committed */
    int64_t full_since_ms;          /* INT64_MAX: it is not */

    ColoFlowTable table;
    /* Oldest first */
    ColoAckLists acks;
    ColoHeldList primary_by_age[COLO_MATCH_AGE__MAX];
    ColoHeldList patient_by_age[COLO_MATCH_AGE__MAX];   /* is_patient */
    ColoHeldList secondary_by_age;
    ColoFlowList doubted;
    ColoFlowList fronts;            /* flows with front_due, in any order */
    bool reading;                   /* more of what was read follows */
    /* Flows in which one side alone has said something, see match-sibling.c */
    GHashTable *primary_alone;      /* since the cut */
    GHashTable *secondary_alone;    /* in this generation */
    uint32_t flows_full;            /* flows with max_packets or more */

    /* The primary's that wait for a commit and are in no flow */
    ColoHeldList overflow;          /* flows that have no place */
    uint32_t overflow_count;
    ColoHeldList loose;             /* fragments of incomplete datagrams */

    ColoDefrag *primary_defrag;
    uint64_t fragments;             /* in there */
    int64_t fragments_since_ms;     /* valid if there are any */
    ColoDefrag *secondary_defrag;

    ColoMatchStats stats;
};

/* Does the secondary run in @epoch, as far as its stream says? */
static inline bool colo_match_comparable(const ColoMatch *m, uint64_t epoch)
{
    return m->s_known && m->s_epoch == epoch && epoch >= m->committed;
}

static inline ColoMatchAge colo_match_age(const ColoMatch *m, uint64_t epoch)
{
    return epoch == m->epoch ? COLO_MATCH_NOW : COLO_MATCH_CUT;
}

/* In match.c */

/* Let @p go, which counts */
void colo_match_release(ColoMatch *m, ColoPacket *p, ColoRelease why);

/* The primary's packet @p waits, at the end of its flow's queue */
ColoHeld *colo_match_hold(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                          GPtrArray *fragments);
/* It waits no more; @h is freed.  Only for what has no fragments. */
ColoPacket *colo_match_unhold(ColoMatch *m, ColoFlow *f, ColoHeld *h);

/* It leaves, or its fragments do; @h is freed */
void colo_match_leave(ColoMatch *m, ColoFlow *f, ColoHeld *h,
                      ColoRelease why);

/*
 * Keep the secondary's packet @p, in no queue yet.  NULL if there is no room:
 * then it was dropped.
 */
ColoHeld *colo_match_keep(ColoMatch *m, ColoFlow *f, ColoPacket *p);
/* Throw it away; the caller took it out of its queue */
void colo_match_drop(ColoMatch *m, ColoHeld *h);

/* The two say different things in @f: only the next cut helps */
void colo_match_diverge(ColoMatch *m, ColoFlow *f);

/* What the secondary said in an earlier life of its stream is void */
void colo_match_sync_flow(ColoMatch *m, ColoFlow *f);

/* In match-sibling.c */

GHashTable *colo_match_alone_new(void);
/* In @f one side has said something, the other has not */
void colo_match_note_alone(ColoMatch *m, GHashTable *alone, const ColoFlow *f);
/* The flow to the same server, from another port, that was noted last */
ColoFlow *colo_match_find_alone(ColoMatch *m, GHashTable *alone,
                                const ColoFlow *f);

/* In match-datagram.c; each takes @p over */

void colo_match_datagram_primary(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                                 GPtrArray *fragments);
void colo_match_datagram_secondary(ColoMatch *m, ColoFlow *f, ColoPacket *p);

/* See what may leave, after the epochs changed */
void colo_match_datagram_advance(ColoMatch *m, ColoFlow *f);
/* Let go what is of epochs before @cut */
void colo_match_datagram_release(ColoMatch *m, ColoFlow *f, uint64_t cut,
                                 ColoRelease why);
/* The words that differed are void */
void colo_match_end_doubt(ColoMatch *m, ColoFlow *f);
/* What was doubted for long enough is so */
void colo_match_end_doubts(ColoMatch *m);
/* When will it have been?  INT64_MAX: never */
int64_t colo_match_doubts_deadline_ms(const ColoMatch *m);

/* In match-tcp.c; each takes @p over */

void colo_match_tcp_primary(ColoMatch *m, ColoFlow *f, ColoPacket *p);
void colo_match_tcp_secondary(ColoMatch *m, ColoFlow *f, ColoPacket *p);

/* Let go what m->committed lets go */
void colo_match_tcp_commit(ColoMatch *m, ColoFlow *f);
/* Let everything go */
void colo_match_tcp_flush(ColoMatch *m, ColoFlow *f, ColoRelease why);
/* See what may leave, after the epochs changed */
void colo_match_tcp_advance(ColoMatch *m, ColoFlow *f);
/* What the secondary said is void (its packets are gone already) */
void colo_match_tcp_forget_secondary(ColoFlow *f);

#endif
