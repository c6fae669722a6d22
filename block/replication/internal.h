/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: what the halves of the block driver share, both sides.
 */

#ifndef BLOCK_REPLICATION_INT_H
#define BLOCK_REPLICATION_INT_H

#include "block/block_int.h"
#include "block/replication.h"
#include "log.h"
#include "watch.h"

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
 *  FOLDING     failover, or     never               all; the overlays go into
 *              x-colo-fold                          the disk
 *  FOLDED      the end of that  never               all, on the disk
 *  UNFOLDED    failure of that  never               all, in the overlays
 *
 * STOPPED and FOLDED are final.  The primary of a shared disk does all
 * in each; after a session it is IDLE, or STOPPED if QEMU ends.
 */

typedef struct BDRVReplicationState BDRVReplicationState;

/*
 * What a node does by its kind, which it has from its options on.  All else is
 * the same for each: replication.c.
 *
 * An operation that is left out does nothing and returns 0: success, or false.
 * None leaves out start, checkpoint, stop, abandon, a request, truncate,
 * add_child, del_child or end.
 *
 * BQL, no coroutine, unless it says otherwise.
 */
typedef struct ReplicationKind {
    /* It takes requests that do not suit its child: those of any alignment */
    bool takes_anything;
    /*
     * Its child is the image, which nobody else writes to, here or elsewhere;
     * or another node, of a secondary that has become such a disk
     */
    bool on_image;
    /* The longest requests, 0 for those of the child */
    uint32_t max_transfer;
    int64_t max_zeroes;

    /* The child is there; on failure nothing is left behind */
    int (*open)(BDRVReplicationState *s, uint64_t log_size, Error **errp);

    /* A session of this @role: is it none of its business? */
    bool (*ignores)(BDRVReplicationState *s, ReplicationMode role);
    /* It is IDLE, and has the role; could it start? */
    void (*check)(BDRVReplicationState *s, Error **errp);
    /* Likewise, and check has said so */
    void (*start)(BDRVReplicationState *s, Error **errp);
    /* While RUNNING: what ReplicationOps says */
    void (*prepare)(BDRVReplicationState *s, Error **errp);
    void (*take_over)(BDRVReplicationState *s, Error **errp);
    void (*checkpoint)(BDRVReplicationState *s, Error **errp);
    /* The same in two; the second in any thread, without the BQL */
    void (*begin_checkpoint)(BDRVReplicationState *s, Error **errp);
    /* What goes before stop() without a failover; emptied() follows */
    void (*begin_stop)(BDRVReplicationState *s, Error **errp);
    bool (*emptied)(BDRVReplicationState *s, uint64_t timeout_ms,
                    Error **errp);
    /* True if what was committed can be read, whatever has failed */
    bool (*is_complete)(BDRVReplicationState *s);
    void (*stop)(BDRVReplicationState *s, bool failover, Error **errp);
    /* While RUNNING, of a primary: the guest's writes went past the node */
    void (*bypassed)(BDRVReplicationState *s);
    /* While RUNNING: the log has been cut; will be allowed, in any thread */
    void (*cut)(BDRVReplicationState *s);
    void (*allow)(BDRVReplicationState *s);
    /* At any time: what ReplicationOps says */
    void (*get_error)(BDRVReplicationState *s, Error **errp);
    void (*query)(BDRVReplicationState *s, ColoDiskStatistics *stats);
    void (*abandon)(BDRVReplicationState *s);
    /* Is what the guest has only whole with overlays? */
    bool (*needs_overlays)(BDRVReplicationState *s);

    /* Requests, in any thread; with the graph lock, for reading */
    int coroutine_fn (*preadv)(BDRVReplicationState *s, int64_t offset,
                               int64_t bytes, QEMUIOVector *qiov,
                               BdrvRequestFlags flags);
    int coroutine_fn (*pwritev)(BDRVReplicationState *s, int64_t offset,
                                int64_t bytes, QEMUIOVector *qiov,
                                BdrvRequestFlags flags);
    int coroutine_fn (*pwrite_zeroes)(BDRVReplicationState *s, int64_t offset,
                                      int64_t bytes, BdrvRequestFlags flags);
    int coroutine_fn (*pdiscard)(BDRVReplicationState *s, int64_t offset,
                                 int64_t bytes);
    int coroutine_fn (*flush)(BDRVReplicationState *s);
    /* The disk gets this @length, in bytes; negative errno with @errp set */
    int coroutine_fn (*truncate)(BDRVReplicationState *s, int64_t length,
                                 Error **errp);
    /* Is what is read what the child has?  Any thread. */
    bool (*is_direct)(BDRVReplicationState *s);

    /* What those above may do is @perm now; with the graph lock */
    void (*set_perm)(BDRVReplicationState *s, uint64_t perm);
    /* Maybe before open has been called */
    void (*drain)(BDRVReplicationState *s, bool begin);
    /*
     * With the graph lock, for writing.  replication_add_no_child() and so on
     * if it has one, and keeps it.
     */
    void (*add_child)(BDRVReplicationState *s, BlockDriverState *peer,
                      Error **errp);
    void (*del_child)(BDRVReplicationState *s, BdrvChild *child,
                      Error **errp);

    /* First, so that other threads let go; then the rest */
    void (*end)(BDRVReplicationState *s);
    void (*close)(BDRVReplicationState *s);
} ReplicationKind;

/* See primary.c, shared.c, secondary.c */
extern const ReplicationKind replication_primary;
extern const ReplicationKind replication_shared_primary;
extern const ReplicationKind replication_secondary;

/*
 * How a secondary keeps apart what is committed and what is not.  BQL, no
 * coroutine, unless it says otherwise.
 */
typedef struct ReplicationEpochStore {
    ColoEpochStoreKind kind;
    /*
     * A session begins; @top is above all of the guest's disk.  False with
     * @errp set, and nothing is left behind, if it cannot.
     */
    bool (*start)(BDRVReplicationState *s, BlockDriverState *top,
                  Error **errp);
    /* What has arrived is committed; emptied() follows, and ends it */
    bool (*begin_commit)(BDRVReplicationState *s, Error **errp);
    /* The same at once */
    bool (*commit)(BDRVReplicationState *s, Error **errp);
    /* What goes before stop(), and may take long; emptied() follows */
    void (*begin_stop)(BDRVReplicationState *s, Error **errp);
    /* What goes before fail_over(), if anything; likewise */
    void (*take_over)(BDRVReplicationState *s);
    /*
     * Any thread, no BQL: wait for one of these.  False with @errp set if that
     * is not over after @timeout_ms milliseconds.
     */
    bool (*emptied)(BDRVReplicationState *s, uint64_t timeout_ms,
                    Error **errp);
    /* The session ends, and the guest does not go on here */
    void (*stop)(BDRVReplicationState *s, Error **errp);
    /* It does; the primary is shut out.  This sets the stage. */
    void (*fail_over)(BDRVReplicationState *s, Error **errp);
    void (*query)(BDRVReplicationState *s, ColoDiskStatistics *stats);
} ReplicationEpochStore;

/* See epoch-undo.c, epoch-redo.c */
extern const ReplicationEpochStore replication_undo;
extern const ReplicationEpochStore replication_redo;

/* What was in some places of the guest's disk at cut 0: see sample.c */
typedef struct ReplicationSample ReplicationSample;

/* The overlays of the secondary's disk are being emptied: see overlays.c */
typedef struct ReplicationEmptying ReplicationEmptying;

/* What the primary of a shared disk has besides: see shared.c */
typedef struct ReplicationShared ReplicationShared;

struct BDRVReplicationState {
    /* Set once */
    BlockDriverState *bs;
    const ReplicationKind *kind;
    ReplicationMode mode;
    ReplicationState *rs;
    char *generation_file;      /* NULL for none */
    bool shared_disk;
    bool cache_coherent;
    bool batch;                 /* the primary's child is a sink */
    int64_t sink_length;        /* where its window begins, if so */

    /* Written under the BQL, read anywhere: atomic */
    int64_t length;             /* of the guest's disk; 0: that of the child */
    ColoDiskStage stage;
    bool session_discards;      /* they are to be carried out; set once */
    char *user_name;            /* NULL: not known yet; then it stays */

    /* Primary; set once.  See primary.c. */
    ReplicationLog *log;
    BlockDriverState *peer;     /* the child at open, referenced */
    bool direct;                /* requests go past the block layer */
    bool drained;               /* the log is paused; BQL */
    BlockJob *resync;           /* that is under way; BQL */
    bool differs;               /* the last one did not get to its end; BQL */
    bool resynced;              /* the last one did; BQL */
    bool by_log;                /* by intent logs, see resync.c; BQL */
    bool written;               /* somebody could write to the node; BQL */
    bool discarded;             /* something, ever; atomic */
    bool misses;                /* the guest may have written past it; BQL */
    ReplicationWatch *watch;    /* set once; NULL for a shared disk */
    unsigned n_peer_reads;      /* see peer-read.c; atomic */
    int64_t grows_to;           /* see grow.c, or 0; BQL */
    uint64_t n_questions;       /* likewise */
    uint64_t grew_at;           /* likewise: the last record of that */
    BlockJob *verify;           /* that is under way; BQL */
    bool verified;              /* the last one found no difference; BQL */
    uint64_t different_bytes;   /* that one has found; atomic */
    int64_t different_at;       /* the first of them; set before the former */
    ReplicationSample *sample;  /* or NULL; set under the BQL, atomic */
    uint64_t reached;           /* last epoch by replication_reach(), 0: none */
    ColoDiskRole role;          /* the last one that was asked for; BQL */
    ReplicationShared *shared;  /* or NULL; peer then comes and goes: BQL */

    /* Secondary; BQL.  See secondary.c. */
    char *top_id;               /* set once */
    uint64_t fold_speed;        /* likewise: bytes a second, 0: no limit */
    const ReplicationEpochStore *store; /* of the last session, or NULL */
    bool guest_stands;          /* in the session: periodic mode */
    BlockBackend *hidden;       /* while RUNNING */
    ReplicationEmptying *emptying;  /* or NULL; who began it */
    bool ended;                 /* all that begin_stop() has begun is done */
    BlockJob *backup;           /* while RUNNING; undo, not a shared disk */
    int64_t copies_to;          /* the length that it knows */
    bool restarts;              /* it is begun anew; BQL */
    bool grew;                  /* the disk, in this session: length.c */
    BlockDriverState *held_by;  /* redo: a sink, or NULL; BQL, graph lock */
    QEMUBH *held_bh;            /* likewise: what it holds is on the disk */
    bool ending;                /* likewise: begin_stop() has been called */
    int64_t live_by_ms;         /* likewise: how long a failover waits */
    BlockBackend *claim;        /* to write to the disk, until it is folded */
    BlockDriverState *folds_to; /* the disk, since a job began; graph lock */
    BlockJob *fold;             /* while FOLDING, ... */
    QEMUBH *fold_bh;            /* ...or what is about to start it */
    Error *error;               /* what ended it */
    bool spent;                 /* nobody looks into the overlays; atomic */
    bool folded;                /* its generation says so: replication.c */
    bool inconsistent;          /* a resync writes to the disk; atomic */
    bool watched;               /* see replication_target_watch() */
    bool overwritten;           /* while it is: without a sink; atomic */
    bool was_exported;          /* for the primary, at the start */
    bool flush_failed;          /* which has been said; atomic */
    bool disk_flushed;          /* since the failover; atomic */
    bool owns_disk;             /* nobody else may write to it; BQL */
};

/* BQL */
void replication_set_stage(BDRVReplicationState *s, ColoDiskStage stage);

/*
 * The guest writes to the disk of a survivor, so nobody else is to; who does
 * already goes on, as the guest must.  BQL.
 */
void replication_own_disk(BDRVReplicationState *s);

static inline ColoDiskStage replication_stage(BDRVReplicationState *s)
{
    return qatomic_read(&s->stage);
}

/* Is @bs @below, or anywhere above it? */
bool GRAPH_RDLOCK replication_is_above(BlockDriverState *bs,
                                       BlockDriverState *below);

/*
 * Primary: what generation the local disk is of, if any is kept; BQL.  False
 * with @errp set if it is inconsistent, and so nothing to begin with.
 */
bool replication_check_source(BDRVReplicationState *s, ColoDiskGeneration *g,
                              Error **errp);

/* The overlays are in the disk: record that, if it has not been.  Any thread */
bool replication_folded(BDRVReplicationState *s, Error **errp);

/* Is @bs a node of a secondary that has become a disk like any other? */
bool replication_is_folded(BlockDriverState *bs);

/*
 * replication_user_name: a name of @bs that the user knows, for messages: that
 * of the node or its disk, of its file, or of what is above it.  It is valid as
 * long as the graph stays as it is.  BQL.
 *
 * replication_learn_name: the node has its place, find such a name for it.
 * BQL.
 *
 * replication_name: that name, once it is known.  Any thread.
 *
 * replication_disk_name: the disk of the guest that it is a part of, NULL if
 * there is none; the caller frees it.  BQL.
 */
const char *replication_user_name(BlockDriverState *bs);
/* The same, in a coroutine as well */
const char *GRAPH_RDLOCK replication_user_name_locked(BlockDriverState *bs);
void replication_learn_name(BDRVReplicationState *s);
char *replication_disk_name(BDRVReplicationState *s);

static inline const char *replication_name(BDRVReplicationState *s)
{
    const char *name = qatomic_read(&s->user_name);

    return name ?: s->bs->node_name;
}

/* Does the node have another one as its parent, and not only a device? */
bool GRAPH_RDLOCK replication_has_node_above(BDRVReplicationState *s);

/* For kinds with just one child */
void GRAPH_WRLOCK replication_add_no_child(BDRVReplicationState *s,
                                           BlockDriverState *peer,
                                           Error **errp);
void GRAPH_WRLOCK replication_del_no_child(BDRVReplicationState *s,
                                           BdrvChild *child, Error **errp);

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
 * Primary: does @quorum forward what is written, and have no child, @but aside,
 * to read it from?  BQL.
 */
bool GRAPH_RDLOCK replication_lacks_image(BlockDriverState *quorum,
                                          BlockDriverState *but);

/*
 * Requests for s->peer, an NBD client, past the block layer: see
 * primary.c.  The log's thread.
 */
int coroutine_fn replication_direct_write(BDRVReplicationState *s,
                                          int64_t offset, int64_t bytes,
                                          QEMUIOVector *qiov);
int coroutine_fn replication_direct_zero(BDRVReplicationState *s,
                                         int64_t offset, int64_t bytes,
                                         BdrvRequestFlags flags);
/*
 * A disk becomes longer in a session.
 *
 * replication_grow_truncate: see grow.c, what a node of the primary does when
 * the disk above it does.
 *
 * replication_find_senders: add the nodes at or below @disk that send all that
 * is written to it to the secondary
 *
 * replication_check_bitmaps: can all nodes that are @bs, or below it, get another
 * length?  False with @errp set if a dirty bitmap is in use.
 *
 * The secondary's, see length.c.  BQL but for the coroutines:
 *
 * replication_length_begin: a session is about to begin; the node is as long as
 * its disk.  False with @errp set on failure.
 * replication_length_commit: a checkpoint is committed; the guest stands
 * replication_length_overlays: which are empty and drained, have that length, or
 * negative errno with @errp set
 * replication_length_fail_over: the guest goes on here, nobody else writes
 * replication_length_truncate: a survivor's user wants another one
 *
 * replication_sink_grown: the longest that a sink above @disk has heard of since
 * the last commit, in bytes, or 0
 */
int coroutine_fn GRAPH_RDLOCK
replication_grow_truncate(BDRVReplicationState *s, int64_t length,
                          Error **errp);
void GRAPH_RDLOCK replication_find_senders(BlockDriverState *disk,
                                           GPtrArray *nodes);
bool GRAPH_RDLOCK replication_check_bitmaps(BlockDriverState *bs, Error **errp);
bool replication_length_begin(BDRVReplicationState *s, Error **errp);
void replication_length_commit(BDRVReplicationState *s);
int coroutine_fn GRAPH_RDLOCK
replication_length_overlays(BDRVReplicationState *s, BlockDriverState *active,
                            BlockDriverState *hidden, Error **errp);
void replication_length_fail_over(BDRVReplicationState *s);
int coroutine_fn GRAPH_RDLOCK
replication_length_truncate(BDRVReplicationState *s, int64_t length,
                            Error **errp);
int64_t GRAPH_RDLOCK replication_sink_grown(BlockDriverState *disk);

/*
 * Begin a request of @bs that comes from no parent: it is in flight then.  False
 * if the node is being drained.  Any thread.
 */
bool replication_try_enter(BlockDriverState *bs);
/* Does somebody wait for the requests of the node to end? */
bool coroutine_fn replication_primary_must_admit(BDRVReplicationState *s);

/*
 * Sinks, @bs or below it: the session is over, what has come of it but is not
 * on the disk is dropped.  BQL, no coroutine.
 */
void GRAPH_RDLOCK replication_sink_give_up(BlockDriverState *bs);

/* Where what the guest reads comes from.  Any thread. */
BdrvChild *GRAPH_RDLOCK replication_data(BDRVReplicationState *s);

/* The nodes of a secondary; NULL unless all three are there */
BlockDriverState *GRAPH_RDLOCK replication_active(BDRVReplicationState *s);
BlockDriverState *GRAPH_RDLOCK replication_hidden(BDRVReplicationState *s);
BlockDriverState *GRAPH_RDLOCK replication_disk(BDRVReplicationState *s);

/*
 * The overlays: see overlays.c.
 *
 * replication_open_hidden, _close_hidden: a way to write to the hidden overlay,
 * s->hidden, which is only a backing file otherwise.  BQL.
 *
 * replication_empty_begin: begin to empty both.  BQL, no coroutine.
 * @committed: the guest is to see the disk as it is even if they cannot be
 * emptied; then they are spent, which is no error here but one of the disk.
 * replication_empty_wait: until they are.  False with @errp set if that takes
 * more than @timeout_ms; true if they were not about to.  Any thread, without
 * the BQL.
 * replication_empty_end: they are, and all is due to be copied anew, or could not
 * be: false with @errp set.  Any thread, for QEMU may exit, with the BQL held.
 *
 * replication_empty: all of that at once, however long it takes.  BQL.
 *
 * replication_empty_begin_end: the session is about to end.  When nothing is under
 * way, however long that takes, the overlays are emptied, if there is no error
 * yet, and then replication_undo_end() is called.  As far as it can be: what fails
 * is nobody's business any more.  The calls above wait for it.  BQL.
 * replication_empty_is_done, _is_end: is what is under way over, is it that?
 */
bool replication_open_hidden(BDRVReplicationState *s, Error **errp);
void replication_close_hidden(BDRVReplicationState *s);
bool replication_empty_begin(BDRVReplicationState *s, bool committed,
                             Error **errp);
void replication_empty_begin_end(BDRVReplicationState *s);
bool replication_empty_wait(BDRVReplicationState *s, uint64_t timeout_ms,
                            Error **errp);
bool replication_empty_is_done(BDRVReplicationState *s);
bool replication_empty_is_end(BDRVReplicationState *s);
bool replication_empty_end(BDRVReplicationState *s, Error **errp);
bool replication_empty(BDRVReplicationState *s, bool committed, Error **errp);

/*
 * Undo: the disk has another length, and all is to be copied anew.  If it cannot
 * be the disk has failed.  BQL.
 */
void replication_undo_restart(BDRVReplicationState *s);

/*
 * Undo: nothing is copied any more, and the hidden overlay is only a backing file.
 * Changes the graph, thus waits for all that is under way.  BQL.
 */
void replication_undo_end(BDRVReplicationState *s);

/*
 * Its disk has failed: the first error is kept, and said.  Takes @err.  BQL.
 *
 * replication_report: say it only.
 */
void replication_fail(BDRVReplicationState *s, Error *err);
void replication_report(BDRVReplicationState *s, const Error *err);

/*
 * A sink above @disk that holds what is written, for a session of the
 * secondary: see sink-redo.c.  BQL, no coroutine, unless it says otherwise.
 *
 * replication_sink_hold: begin to do so.  @folder is for a file, if it has none
 * yet; @settled is scheduled whenever all that is committed is on the disk, or
 * cannot be.  The sink, with a reference of the caller's; NULL with @errp set
 * if there is none, or somebody else may write to the disk.
 *
 * replication_sink_commit_held: what is held is committed
 *
 * replication_sink_hold_no_more: the session is over; what is not committed is
 * kept as if it was, or dropped
 *
 * replication_sink_is_settled: 1 if all that is committed is on the disk, 0 if
 * it is not yet, negative errno if it cannot be
 *
 * replication_sink_await_settled: until it is not 0.  False if it is after
 * @timeout_ms.  Any thread, no BQL.
 *
 * replication_sink_settle_sync: the same, in a drained section as well, however
 * long it takes; true if it is 1
 *
 * replication_sink_settle_again: after a failure
 *
 * replication_sink_unwatch: @settled is not scheduled any more
 *
 * replication_sink_release: what is held is dropped, nothing more will be;
 * takes the reference.  Nobody makes anything on the disk any more.
 *
 * replication_sink_settle: until it is not 0, in a coroutine, any thread; 0, or
 * negative errno
 *
 * replication_sink_read_committed: read what was committed; @disk is a child
 * that has the disk.  Coroutine, any thread.
 *
 * replication_sink_held: what is held, in bytes
 */
BlockDriverState *replication_sink_hold(BlockDriverState *disk,
                                        const char *folder, QEMUBH *settled,
                                        Error **errp);
void replication_sink_commit_held(BlockDriverState *sink);
void replication_sink_hold_no_more(BlockDriverState *sink, bool keep);
int replication_sink_is_settled(BlockDriverState *sink);
bool replication_sink_await_settled(BlockDriverState *sink,
                                    uint64_t timeout_ms);
bool replication_sink_settle_sync(BlockDriverState *sink);
void replication_sink_settle_again(BlockDriverState *sink);
void replication_sink_unwatch(BlockDriverState *sink);
void replication_sink_release(BlockDriverState *sink);
int coroutine_fn GRAPH_RDLOCK replication_sink_settle(BlockDriverState *sink);
int coroutine_fn GRAPH_RDLOCK
replication_sink_read_committed(BlockDriverState *sink, BdrvChild *disk,
                                int64_t offset, int64_t bytes,
                                QEMUIOVector *qiov);
void replication_sink_held(BlockDriverState *sink, uint64_t *held,
                           uint64_t *in_file);

/*
 * replication_redo_fold: after a failover, or again: the guest gets the disk
 * itself, and what was committed is made there.  BQL.
 *
 * replication_redo_end: the node goes, and with it what is held
 */
void replication_redo_fold(BDRVReplicationState *s, Error **errp);
void replication_redo_end(BDRVReplicationState *s);

/*
 * After a failover: see fold.c.  BQL, but for what the guest does.
 *
 * replication_fold_record: the guest wants that what it has written is there
 * for good.
 *
 * replication_fold_skip: the overlays are spent, so the disk takes their place
 * at once, and is flushed.  Drains the disk.  If it cannot, @errp is set, and
 * the guest cannot write.
 *
 * replication_fold_replace: the first half of that: the disk takes their place
 * replication_fold_done: the second one: it is all that is needed
 *
 * replication_fold_end: the node goes.
 */
void replication_fold_begin(BDRVReplicationState *s);
void replication_fold_skip(BDRVReplicationState *s, Error **errp);
bool replication_fold_replace(BDRVReplicationState *s, Error **errp);
void replication_fold_done(BDRVReplicationState *s);
void replication_fold_query(BDRVReplicationState *s, ColoDiskStatistics *stats);
void replication_fold_end(BDRVReplicationState *s);
int coroutine_fn GRAPH_RDLOCK replication_fold_flush(BDRVReplicationState *s);
void coroutine_fn GRAPH_RDLOCK replication_fold_record(BDRVReplicationState *s);

/*
 * Secondary, see target.c: a resync into @disk, which a sink is above, begins or
 * has completed.  Negative errno; -EPERM: it must not, the disk is newer.
 */
int coroutine_fn GRAPH_RDLOCK
replication_target_mark(BlockDriverState *disk, const ReplicationEntry *entry);
/*
 * Secondary: from now on it is recorded when others than a sink write to the
 * disk, or no longer.  BQL.
 */
void replication_target_watch(BDRVReplicationState *s, bool watch);
/*
 * The node that keeps the intent log of the secondary's disk @disk, or NULL; the
 * primary says that both disks are at the point @name.  Any thread.
 */
BlockDriverState *GRAPH_RDLOCK
replication_target_intent(BlockDriverState *disk);
void GRAPH_RDLOCK replication_target_name(BlockDriverState *disk,
                                          uint64_t name);
/*
 * What the window of a sink has of that log, @bytes from @at on, goes to @qiov at
 * @skip; @marked is the last REPLICATION_ENTRY_MARK.  Any thread.
 */
void GRAPH_RDLOCK
replication_target_window(BlockDriverState *disk, uint64_t marked, int64_t at,
                          int64_t bytes, QEMUIOVector *qiov, size_t skip);
/* What generation @disk is of, into @info */
int coroutine_fn GRAPH_RDLOCK
replication_target_generation(BlockDriverState *disk,
                              ReplicationSinkInfo *info);

/*
 * Primary, see sample.c: is the disk of the secondary as that of this guest?
 *
 * replication_sample_take: at cut 0, the VM stands; @disk is a name for messages.
 * The node is below another one.  Begins to read; after @budget_ms milliseconds
 * a part of it will do.  BQL.
 *
 * replication_sample_taken: wait until enough of this disk has been read; the VM
 * stands until then.  False with @errp set if it cannot be, or not within
 * @timeout_ms.  As replication_sample_settle() otherwise, which comes after it.
 *
 * replication_sample_settle: wait until they have been compared, which begins
 * with the first call, once all from before cut 0 has arrived.  False with @errp
 * set if they differ, or it cannot be known, or not within @timeout_ms.  Any
 * thread without the BQL.  True if no sample has been taken.
 *
 * replication_sample_free: nobody waits any more; the child ends what is under
 * way.  BQL.
 */
bool replication_sample_take(BDRVReplicationState *s, const char *disk,
                             uint64_t budget_ms, Error **errp);
bool replication_sample_taken(BDRVReplicationState *s, uint64_t timeout_ms,
                              Error **errp);
bool replication_sample_settle(BDRVReplicationState *s, uint64_t timeout_ms,
                               Error **errp);
void replication_sample_free(BDRVReplicationState *s);

/* Is @bs one that takes what a primary writes?  Any thread. */
bool replication_is_sink(BlockDriverState *bs);

/*
 * Primary, RUNNING, see verify.c: a difference of the disks is known.  @errp is
 * set if so.  BQL.
 */
void replication_verify_problem(BDRVReplicationState *s, Error **errp);

/*
 * Sinks above @disk, of a secondary: a session begins, or there is a
 * checkpoint.  Nobody needs what has been discarded until now, so it may be.
 * BQL, no coroutine.
 */
void replication_sink_commit(BlockDriverState *disk);

/*
 * The session is over: nothing that is still to be discarded is, and no
 * discard is under way when this returns.  BQL, no coroutine.
 */
void replication_sink_end_session(BlockDriverState *disk);

/* The image of a shared disk, on both sides: see claim.c.  BQL. */

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

#endif
