/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: what the files of the sink share, secondary side.
 */

#ifndef BLOCK_REPLICATION_SINK_INT_H
#define BLOCK_REPLICATION_SINK_INT_H

#include "qemu/coroutine.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "batch.h"
#include "discards.h"
#include "internal.h"
#include "redo.h"

/* A batch, from its turn on */
typedef struct SinkBatch {
    ReplicationBatch batch;
    bool was_held;              /* it is committed, so never given up */
    unsigned n_tasks;           /* of it that are under way */
    int ret;                    /* the first failure of one */
} SinkBatch;

/* An entry under way, with a coroutine of its own */
typedef struct SinkTask {
    QLIST_ENTRY(SinkTask) next;
    BlockDriverState *bs;
    SinkBatch *of;
    ReplicationEntry entry;
    QEMUIOVector *qiov;         /* of the whole request */
    size_t at;                  /* where the data is in it */
} SinkTask;

/* What becomes of writes, see sink-redo.c */
typedef enum SinkMode {
    SINK_DIRECT,                /* they are made at once */
    SINK_HOLDS,                 /* they are held until their commit */
    SINK_SETTLES,               /* at once; some are still held */
} SinkMode;

typedef struct SinkState {
    /* Set once */
    QEMUTimer *missing;
    int64_t window;             /* where it begins */

    QemuMutex lock;
    /* All below: lock */
    uint64_t session;           /* of the batches that are applied now */
    uint64_t next;              /* the number of the next one */
    bool failed;                /* the session: no more is applied */
    uint64_t marked;            /* REPLICATION_ENTRY_MARK, the last one */
    uint64_t reported;          /* the last session of which it was said why */
    bool beginning;             /* the entries of a batch are begun */
    CoQueue turn;               /* batches that have to wait with that */
    unsigned n_waiting;         /* in turn */
    QLIST_HEAD(, SinkTask) tasks;
    unsigned n_tasks;
    CoQueue ended;              /* who waits for one of them to end */
    BlockDriverState *disk;     /* in a session; only to be compared */
    ReplicationDiscards discards;       /* none if there is no disk */
    bool discarding;            /* a coroutine makes those that are due */
    int64_t discard_offset;     /* what is discarded now, if anything */
    int64_t discard_bytes;

    /* sink-grow.c */
    ReplicationGrow grow;       /* the last question, and the answer */
    int64_t committed;          /* the length of a session's disk, or 0 */
    int64_t grown;              /* that it may see after the commit, or 0 */
    ReplicationView view;       /* what is read by way of the window */
    bool resizes;               /* it has the right to; BQL */

    bool dirty;                 /* maybe there is what to flush; atomic */

    /* sink-redo.c */
    RedoStore *redo;            /* or NULL; stays; set under BQL, atomic */
    SinkMode mode;              /* set under BQL, atomic */
    /* lock */
    bool settling;              /* somebody makes groups on the disk */
    CoQueue settled;            /* who waits for that */
    QemuCond settled_cond;      /* the same, no coroutine */
    int settle_err;             /* negative errno of one: no more are made */
    bool settler_runs;          /* the coroutine that does so */
    bool settle_drained;        /* it does so in drained sections, too */
    QEMUBH *settled_bh;         /* all are, or one has failed; or NULL */
} SinkState;

/*
 * Begin all entries of @b, whose turn it is; those that run may go on.  What
 * they write begins at @at in @qiov.  Negative errno if one could not begin.
 */
int coroutine_fn GRAPH_RDLOCK
sink_begin_entries(BlockDriverState *bs, SinkBatch *b, QEMUIOVector *qiov,
                   size_t at);

/* Wait for what @b has under way; @ret is what has failed so far */
int coroutine_fn sink_wait_tasks(SinkState *s, SinkBatch *b, int ret);

/* See to it that what is due is discarded.  BQL, no coroutine. */
void sink_discard(BlockDriverState *bs);

/*
 * sink_hold: keep entries for later, as redo_hold() does
 * sink_hold_one: the same for one request of NBD; with @fua it is flushed
 * sink_read: what the primary has written, wherever it is now
 *
 * Coroutines, any thread.
 */
int coroutine_fn GRAPH_RDLOCK
sink_hold(BlockDriverState *bs, const ReplicationEntry *entries,
          unsigned n_entries, QEMUIOVector *qiov, size_t at);
int coroutine_fn GRAPH_RDLOCK
sink_hold_one(BlockDriverState *bs, ReplicationEntryType type, int64_t offset,
              int64_t bytes, QEMUIOVector *qiov, bool fua);
int coroutine_fn GRAPH_RDLOCK sink_read(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes, QEMUIOVector *qiov);

/* The sink is not drained any more: go on.  BQL, no coroutine. */
void sink_settle_more(BlockDriverState *bs);

/*
 * Longer disks, and the rest of the window, see sink-grow.c
 *
 * sink_read_window: read it, @at from its beginning, to @done in @qiov
 * sink_grow_ask: what the primary has written to its place there; negative errno
 * if it cannot be taken
 * sink_view_ask: the same for what is to be read of the disk
 * sink_grow_entry: the guest's disk is longer; negative errno if the one here is
 * not
 *
 * Coroutines, any thread.
 *
 * sink_grow_commit_locked: what the primary has told is committed; or, if no
 * session knows the sink yet, one begins with a disk of @length.  BQL.
 */
int coroutine_fn GRAPH_RDLOCK
sink_read_window(BlockDriverState *bs, int64_t at, int64_t bytes,
                 QEMUIOVector *qiov, size_t done);
int coroutine_fn sink_grow_ask(BlockDriverState *bs, QEMUIOVector *qiov);
int coroutine_fn sink_view_ask(BlockDriverState *bs, QEMUIOVector *qiov);
int coroutine_fn GRAPH_RDLOCK
sink_grow_entry(BlockDriverState *bs, const ReplicationEntry *entry);
void sink_grow_commit_locked(SinkState *s, int64_t length);

static inline bool sink_holds(SinkState *s)
{
    return qatomic_read(&s->mode) == SINK_HOLDS;
}

#endif
