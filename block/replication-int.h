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
 * All but IDLE and RUNNING are final.
 */

typedef struct BDRVReplicationState {
    /* Set once */
    BlockDriverState *bs;
    ReplicationMode mode;
    ReplicationState *rs;
    char *generation_file;      /* NULL for none */

    /* Written under the BQL, read anywhere: atomic */
    ColoDiskStage stage;

    /* Primary; set once.  See replication-primary.c. */
    ReplicationLog *log;
    BlockDriverState *peer;     /* the child at open, referenced */
    bool direct;                /* requests go past the block layer */
    BlockJob *resync;           /* that is under way; BQL */
    bool differs;               /* the last one did not get to its end; BQL */

    /* Secondary; BQL.  See replication-secondary.c. */
    char *top_id;               /* set once */
    BlockBackend *hidden;       /* while RUNNING */
    BlockJob *backup;           /* while RUNNING */
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

/* BQL, no coroutine */
void replication_secondary_start(BDRVReplicationState *s, Error **errp);
void replication_secondary_prepare(BDRVReplicationState *s, Error **errp);
void replication_secondary_checkpoint(BDRVReplicationState *s, Error **errp);
void replication_secondary_abandon(BDRVReplicationState *s);
void replication_secondary_stop(BDRVReplicationState *s, bool failover,
                                Error **errp);
void replication_secondary_query(BDRVReplicationState *s,
                                 ColoDiskStatistics *stats);
void replication_secondary_close(BDRVReplicationState *s);

#endif
