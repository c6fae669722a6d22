/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: what the halves of the block driver share, both sides.
 */

#ifndef BLOCK_REPLICATION_INT_H
#define BLOCK_REPLICATION_INT_H

#include "block/block_int.h"
#include "block/replication.h"
#include "replication-log.h"

/*
 * Where a node is: ColoDiskStage.  What the guest may do in each:
 *
 *              entered by       primary             secondary
 *  IDLE        open, an orderly reads fail, writes  read if another node is
 *              stop (secondary) are logged if       the parent, else all
 *                               another node is the fails
 *                               parent, else fail
 *  RUNNING     start            reads fail, writes  all, in the overlays
 *                               are logged
 *  STOPPED     stop (primary)   reads fail, writes  never
 *                               are dropped
 *  FOLDING     failover         never               all; the overlays go into
 *                                                   the disk
 *  FOLDED      the end of that  never               all, on the disk
 *  UNFOLDED    failure of that  never               all, in the overlays
 *
 * All but IDLE and RUNNING are final.  The primary of a shared disk does all
 * in each; after a session it is IDLE, or STOPPED if QEMU ends.
 */

/* What the primary of a shared disk has besides: see replication-shared.c */
typedef struct ReplicationShared ReplicationShared;

typedef struct BDRVReplicationState {
    /* Set once */
    BlockDriverState *bs;
    ReplicationMode mode;
    ReplicationState *rs;
    char *generation_file;      /* NULL for none */
    bool shared_disk;
    bool cache_coherent;

    /* Written under the BQL, read anywhere: atomic */
    ColoDiskStage stage;

    /* Primary; set once.  See replication-primary.c. */
    ReplicationLog *log;
    BlockDriverState *peer;     /* the child at open, referenced */
    bool direct;                /* requests go past the block layer */
    BlockJob *resync;           /* that is under way; BQL */
    bool differs;               /* the last one did not get to its end; BQL */
    ReplicationShared *shared;  /* or NULL; peer then comes and goes: BQL */

    /* Secondary; BQL.  See replication-secondary.c. */
    char *top_id;               /* set once */
    BlockBackend *hidden;       /* while RUNNING */
    BlockJob *backup;           /* while RUNNING, but not a shared disk */
    BlockBackend *claim;        /* of a shared disk, until it is folded */
    BlockJob *fold;             /* while FOLDING, ... */
    QEMUBH *fold_bh;            /* ...or what is about to start it */
    Error *error;               /* what ended it */
} BDRVReplicationState;

/* BQL */
void replication_set_stage(BDRVReplicationState *s, ColoDiskStage stage);

static inline ColoDiskStage replication_stage(BDRVReplicationState *s)
{
    return qatomic_read(&s->stage);
}

/* Is @bs @below, or anywhere above it? */
bool GRAPH_RDLOCK replication_is_above(BlockDriverState *bs,
                                       BlockDriverState *below);

/* The overlays are in the disk: record that; BQL */
bool replication_folded(BDRVReplicationState *s, Error **errp);

/* Is @bs a node of a secondary that has become a disk like any other? */
bool replication_is_folded(BlockDriverState *bs);

/* The node's name, for messages */
static inline const char *replication_name(BDRVReplicationState *s)
{
    return s->bs->node_name;
}

/* BQL, no coroutine */
int replication_primary_open(BDRVReplicationState *s, uint64_t log_size,
                             Error **errp);
void replication_primary_start(BDRVReplicationState *s, Error **errp);
void replication_primary_stop(BDRVReplicationState *s);
void replication_primary_abandon(BDRVReplicationState *s);
void replication_primary_close(BDRVReplicationState *s);
void replication_primary_query(BDRVReplicationState *s,
                               ColoDiskStatistics *stats);
void replication_primary_get_error(BDRVReplicationState *s, Error **errp);
/* Nobody drains only our child: see replication-primary.c */
void replication_primary_drain(BDRVReplicationState *s, bool begin);

/*
 * Can requests to @peer be sent past the block layer (*@direct: it is an NBD
 * client), or like any others?  -EINVAL if neither.  BQL.
 */
int GRAPH_RDLOCK replication_check_peer(BlockDriverState *peer, bool *direct,
                                        Error **errp);

/* Have all requests of an NBD client end at once, for good.  Any thread. */
void replication_yank(BlockDriverState *nbd);

/* The state of @bs if it is a node for replication, else NULL.  BQL. */
BDRVReplicationState *replication_of(BlockDriverState *bs);

/*
 * Requests for s->peer, an NBD client, past the block layer: see
 * replication-primary.c.  The log's thread.
 */
int coroutine_fn replication_direct_write(BDRVReplicationState *s,
                                          int64_t offset, int64_t bytes,
                                          QEMUIOVector *qiov);
int coroutine_fn replication_direct_zero(BDRVReplicationState *s,
                                         int64_t offset, int64_t bytes,
                                         BdrvRequestFlags flags);
/* Does somebody wait for the requests of the node to end? */
bool coroutine_fn replication_primary_must_admit(BDRVReplicationState *s);

/*
 * The primary's half of a shared disk: BQL, no coroutine, unless it says
 * otherwise.
 */
int replication_shared_open(BDRVReplicationState *s, uint64_t log_size,
                            Error **errp);
void GRAPH_WRLOCK replication_shared_add_child(BDRVReplicationState *s,
                                               BlockDriverState *peer,
                                               Error **errp);
void GRAPH_WRLOCK replication_shared_del_child(BDRVReplicationState *s,
                                               BdrvChild *child, Error **errp);
void replication_shared_start(BDRVReplicationState *s, Error **errp);
void replication_shared_checkpoint(BDRVReplicationState *s, Error **errp);
/* Any thread */
void replication_shared_allow(BDRVReplicationState *s);
void replication_shared_abandon(BDRVReplicationState *s);
/* @goes_on: it is known that this side does */
void replication_shared_stop(BDRVReplicationState *s, bool goes_on);
void replication_shared_get_error(BDRVReplicationState *s, Error **errp);
void replication_shared_query(BDRVReplicationState *s,
                              ColoDiskStatistics *stats);
void replication_shared_drain(BDRVReplicationState *s, bool begin);
/* First, so that other threads let go; then the rest */
void replication_shared_end(BDRVReplicationState *s);
void replication_shared_close(BDRVReplicationState *s);

/* Requests, in any thread */
int coroutine_fn GRAPH_RDLOCK
replication_shared_preadv(BDRVReplicationState *s, int64_t offset,
                          int64_t bytes, QEMUIOVector *qiov,
                          BdrvRequestFlags flags);
int coroutine_fn GRAPH_RDLOCK
replication_shared_pwritev(BDRVReplicationState *s, int64_t offset,
                           int64_t bytes, QEMUIOVector *qiov,
                           BdrvRequestFlags flags);
int coroutine_fn GRAPH_RDLOCK
replication_shared_pwrite_zeroes(BDRVReplicationState *s, int64_t offset,
                                 int64_t bytes, BdrvRequestFlags flags);
int coroutine_fn GRAPH_RDLOCK
replication_shared_pdiscard(BDRVReplicationState *s, int64_t offset,
                            int64_t bytes);
int coroutine_fn GRAPH_RDLOCK
replication_shared_flush(BDRVReplicationState *s);
/* Is the image all there is, nothing in the log?  Any thread. */
bool replication_shared_is_direct(BDRVReplicationState *s);

/* The image of a shared disk, on both sides: see replication-claim.c.  BQL. */

/* Is it one that two hosts can share? */
bool GRAPH_RDLOCK replication_check_image(BlockDriverState *image,
                                          bool coherent, Error **errp);
/*
 * Secondary: become the one that may write to it.  -EAGAIN: somebody else is.
 * Again is no harm.
 */
int replication_claim(BDRVReplicationState *s, BlockDriverState *image,
                      Error **errp);
void replication_unclaim(BDRVReplicationState *s);
/* Is somebody else?  If not, or it cannot be known, @errp says why. */
bool replication_claim_is_held(BDRVReplicationState *s,
                               BlockDriverState *image, Error **errp);

/* BQL, no coroutine */
void replication_secondary_start(BDRVReplicationState *s, Error **errp);
void replication_secondary_prepare(BDRVReplicationState *s, Error **errp);
void replication_secondary_checkpoint(BDRVReplicationState *s, Error **errp);
void replication_secondary_abandon(BDRVReplicationState *s);
void replication_secondary_take_over(BDRVReplicationState *s, Error **errp);
void replication_secondary_stop(BDRVReplicationState *s, bool failover,
                                Error **errp);
void replication_secondary_query(BDRVReplicationState *s,
                                 ColoDiskStatistics *stats);
void replication_secondary_close(BDRVReplicationState *s);

#endif
