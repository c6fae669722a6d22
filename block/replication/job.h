/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, primary side: what the jobs have in common that look at both
 * disks, resync.c and verify.c.
 *
 * A job runs in the AioContext of the nodes.  It must be in no request to the
 * other side when somebody drains, so coroutines of their own read there, and
 * the job looks again and again whether they have an answer.
 */

#ifndef BLOCK_REPLICATION_JOB_H
#define BLOCK_REPLICATION_JOB_H

#include "block/blockjob.h"
#include "hash.h"
#include "internal.h"

/* How often a job looks whether what it waits for has got on, ns */
#define REPLICATION_JOB_POLL_NS (2 * SCALE_MS)

/* Nodes.  Main thread, but for the first. */

/* The way from @parent to its child @bs, or NULL.  Any thread. */
BdrvChild *GRAPH_RDLOCK replication_job_child(BlockDriverState *parent,
                                              BlockDriverState *bs);

/*
 * The disk of the guest, a quorum that @node is a child of; NULL with @errp set
 * if there is none
 */
BlockDriverState *GRAPH_RDLOCK replication_job_top(BlockDriverState *node,
                                                   Error **errp);

/*
 * The local disk: a child of @top, the one with this @name if that is not
 * NULL.  NULL with @errp set if there is none.
 */
BlockDriverState *GRAPH_RDLOCK replication_job_source(BlockDriverState *top,
                                                      BlockDriverState *node,
                                                      const char *name,
                                                      Error **errp);

/* A way to read @bs that lets a drain wait for nothing but a read, or NULL */
BlockBackend *replication_job_reader(BlockDriverState *bs, Error **errp);

/*
 * Keep @node and @source as they are while the job lives.  False with @errp
 * set if that cannot be.  Main thread.
 */
bool replication_job_attach(BlockJob *job, BlockDriverState *node,
                            BlockDriverState *source, Error **errp);

/* Is @speed, bytes in a second, one that a job may have? */
bool replication_job_check_speed(uint64_t speed, Error **errp);

/* Hashes of the other side: see hash.c for the node that has them */

typedef struct ReplicationHashFetch {
    /* Set once */
    BlockBackend *blk;          /* NULL for none */
    bool direct;                /* past the block layer: see primary.c */

    /* The coroutine's while it is busy, else the job's */
    int64_t offset;
    int64_t bytes;
    int ret;
    uint8_t buf[REPLICATION_HASH_MAX_READ];

    bool busy;                  /* atomic */
} ReplicationHashFetch;

/*
 * Can hashes of @disk, which the node of @s replicates, be fetched from @bs?  In
 * a session maybe not of what that has got since.  *@direct: past the block
 * layer.  Main thread.
 */
bool replication_hash_check(BlockDriverState *bs, BlockDriverState *disk,
                            BDRVReplicationState *s, bool *direct,
                            Error **errp);

/*
 * replication_hash_begin: ask for @bytes of hashes from @offset on; the fetch
 * is not busy
 * replication_hash_busy: is there no answer yet?
 * replication_hash_end: nobody wants the answer any more.  If it does not come
 * soon the connection is shut.
 *
 * The job's coroutine.
 */
void replication_hash_begin(ReplicationHashFetch *f, int64_t offset,
                            int64_t bytes);
bool replication_hash_busy(ReplicationHashFetch *f);
void coroutine_fn replication_hash_end(ReplicationHashFetch *f);

/* The local disk */

/* Is the beginning zero?  How much of it is as the beginning: *@n */
bool coroutine_fn GRAPH_RDLOCK
replication_job_is_zero(BlockDriverState *source, int64_t offset,
                        int64_t bytes, int64_t *n);

/*
 * Hash the beginning of @bytes: how much that was, or a negative errno with
 * @errp set.  At most @max is read, into @buf; @offset and @max are multiples
 * of a chunk.
 */
int64_t coroutine_fn replication_job_hash(BlockJob *job, BlockBackend *source,
                                          int64_t offset, int64_t bytes,
                                          int64_t max, uint8_t *buf,
                                          uint8_t *hashes, Error **errp);

#endif
