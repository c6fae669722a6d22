/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: block drivers that follow the checkpoints of a VM.
 *
 * A driver registers itself once a device; the checkpointing code (COLO, or
 * Xen through the monitor) then speaks to all of them at once.
 *
 * What happens to the disks around one checkpoint, in this order:
 *
 *   primary                            secondary
 *   replication_cut_all()
 *   replication_settle_all()           (its disk takes what arrives)
 *                                      replication_prepare_all()
 *                                      replication_begin_checkpoint_all()
 *                                      replication_emptied_all()
 *   replication_allow_all()
 *
 * Unless a function says otherwise it is called under the BQL.
 */

#ifndef QEMU_BLOCK_REPLICATION_H
#define QEMU_BLOCK_REPLICATION_H

#include "block/block-common.h"
#include "block/graph-lock.h"
#include "qapi/qapi-types-block-core.h"
#include "qapi/qapi-types-colo.h"
#include "qemu/queue.h"
#include "qemu/typedefs.h"

typedef struct ReplicationState ReplicationState;

/* One callback each; they get what replication_new() returned */
typedef void ReplicationCall(ReplicationState *drv, Error **errp);
typedef void ReplicationStart(ReplicationState *drv, ReplicationMode role,
                              Error **errp);
typedef void ReplicationStop(ReplicationState *drv, bool failover,
                             Error **errp);
typedef void ReplicationSay(ReplicationState *drv, bool is);
typedef void ReplicationEpoch(ReplicationState *drv, uint64_t epoch);
typedef bool ReplicationSettle(ReplicationState *drv, uint64_t timeout_ms,
                               Error **errp);
typedef void ReplicationAbandon(ReplicationState *drv);
typedef bool ReplicationGeneration(ReplicationState *drv, bool *kept,
                                   uint64_t *number, Error **errp);
typedef bool ReplicationIs(ReplicationState *drv);
typedef bool ReplicationRecord(ReplicationState *drv, uint64_t number,
                               ColoDiskRole role, Error **errp);
typedef ColoDiskStatistics *ReplicationQuery(ReplicationState *drv);
/* Returns a name for what is wrong; the driver's, valid under the BQL */
typedef const char *ReplicationProblem(ReplicationState *drv,
                                       ReplicationMode role, Error **errp);

/* What a driver does; it leaves out what it has no use for */
typedef struct ReplicationOps {
    /* Has anything failed since the last checkpoint? */
    ReplicationCall *get_error;
    /* Both sides reached a checkpoint: the secondary forgets its own writes */
    ReplicationCall *checkpoint;
    /* The same in two: as replication_begin_checkpoint_all()... */
    ReplicationCall *begin_checkpoint;
    /* ...or replication_begin_stop_all()... */
    ReplicationCall *begin_stop;
    /* ...and replication_emptied_all(): any thread, without the BQL */
    ReplicationSettle *emptied;
    /* Could it begin?  Nothing changes. */
    ReplicationStart *check;
    /* Set @errp if it has failed, or does not run and could not begin */
    ReplicationProblem *problem;
    /* Set @errp if it runs and nobody knows that the disks are equal */
    ReplicationProblem *assumed;
    /* As replication_guest_stands_all() */
    ReplicationSay *guest_stands;
    /* Begin to replicate as primary or secondary */
    ReplicationStart *start;
    /* End; after a failover this side goes on with what it has */
    ReplicationStop *stop;
    /* As replication_cut_all() */
    ReplicationEpoch *cut;
    /* As replication_settle_all(): any thread, without the BQL */
    ReplicationSettle *settle;
    /* As replication_sampled_all(): any thread, without the BQL */
    ReplicationSettle *sampled;
    /* As replication_compare_all(): any thread, without the BQL */
    ReplicationSettle *compare;
    /* As replication_allow_all(): any thread */
    ReplicationEpoch *allow;
    /* As replication_prepare_all() */
    ReplicationCall *prepare;
    /* As replication_abandon_all() */
    ReplicationAbandon *abandon;
    /* The number of its generation, with @kept set, if it has any */
    ReplicationGeneration *generation;
    /* As replication_resynced_all() */
    ReplicationIs *is_resynced;
    /* As replication_complete_all() */
    ReplicationIs *is_complete;
    /* It is of a new generation, which has to survive a crash */
    ReplicationRecord *record;
    /* As replication_take_over_all() */
    ReplicationCall *take_over;
    /* One element for replication_query_all() */
    ReplicationQuery *query;
} ReplicationOps;

struct ReplicationState {
    QLIST_ENTRY(ReplicationState) next; /* the list: see replication.c */
    ReplicationOps *ops;
    void *opaque;                       /* the driver's */
    unsigned users;                     /* calls from other threads */
    bool going;                         /* being removed: no new users */
};

/*
 * Could replication_start_all() begin?  Nothing changes.  @errp is set if not.
 */
void replication_check_all(ReplicationMode role, Error **errp);

/*
 * Call @fn for each driver that has failed, or keeps replication_start_all()
 * from beginning.  One that just runs does not.
 */
typedef void ReplicationProblemFunc(void *opaque, const char *name,
                                    const char *message);
void replication_problems(ReplicationMode role, ReplicationProblemFunc *fn,
                          void *opaque);

/*
 * The same for each driver that takes it that the disks are equal and has only
 * compared a sample of them.
 */
void replication_assumptions(ReplicationMode role, ReplicationProblemFunc *fn,
                             void *opaque);

/*
 * Call every registered driver, in no particular order.  The first one that
 * fails ends the round and sets @errp.  None starts unless all can; all are
 * stopped.
 */
void replication_get_error_all(Error **errp);
void replication_do_checkpoint_all(Error **errp);
void replication_start_all(ReplicationMode role, Error **errp);
void replication_stop_all(bool after_failover, Error **errp);

/*
 * Primary, before replication_start_all(): may clients see what the guest sends
 * before the checkpoint after it has been committed?  Then a flush of the guest
 * means what it says in a session, too.  So it is until somebody says
 * otherwise.  The second: any thread.
 */
void replication_set_early_output(bool early);
bool replication_has_early_output(void);

/*
 * Secondary, before replication_start_all(): true if its guest does not run
 * before a failover, so that what the primary overwrites need not be kept for
 * it.  It holds for all sessions until it is said again; false in the
 * beginning.
 */
void replication_guest_stands_all(bool stands);

/*
 * Primary, while the VM stands still and its disks are drained: whatever is
 * written from now on belongs to @epoch and is held back until
 * replication_allow_all().  Never waits, cannot fail.
 */
void replication_cut_all(uint64_t epoch);

/*
 * Primary: wait until all that was written before the last cut has arrived.
 * Any thread, without the BQL.  False with @errp: an I/O error, or not
 * within @timeout_ms milliseconds for all drivers together.
 */
bool replication_settle_all(uint64_t timeout_ms, Error **errp);

/*
 * Primary, at cut 0 and while the VM stands: begin to take a sample of the disk
 * @blk, called @name in messages, if no resync has made that of the secondary
 * equal.  What has been read after @budget_ms milliseconds is the sample, if it
 * is enough to say something.  False with @errp set if there is none.
 */
bool replication_sample(BlockBackend *blk, const char *name,
                        uint64_t budget_ms, Error **errp);

/*
 * Primary, the VM stands: wait until the samples have been taken.  Any thread,
 * without the BQL.  False with @errp: not within @timeout_ms milliseconds for
 * all drivers together, or a disk cannot be read, which replication_on_error()
 * has told.
 */
bool replication_sampled_all(uint64_t timeout_ms, Error **errp);

/*
 * Primary, once all that was written before cut 0 has arrived: wait until the
 * samples have been compared with what the secondary has.  Any thread, without
 * the BQL.  False with @errp: not within @timeout_ms milliseconds for all
 * drivers together, or they differ.  Of the latter replication_on_error() has
 * told.
 */
bool replication_compare_all(uint64_t timeout_ms, Error **errp);

/*
 * Secondary: replication_do_checkpoint_all() in two.  The VM stands from the
 * first to the end of the second; if the first fails, the second has to be called
 * all the same.
 *
 * replication_emptied_all: wait until all have forgotten their own writes.  Any
 * thread, without the BQL.  False with @errp: not within @timeout_ms
 * milliseconds for all drivers together; then it is to be called again before
 * anything else is.  One that fails in this is told as all errors are.
 */
void replication_begin_checkpoint_all(Error **errp);

/*
 * Secondary: replication_stop_all() will follow, without a failover.  What may
 * take long is begun here; replication_emptied_all() ends it, also if this
 * fails.
 */
void replication_begin_stop_all(Error **errp);
bool replication_emptied_all(uint64_t timeout_ms, Error **errp);

/*
 * Primary: the secondary has loaded the checkpoint; writes of @epoch may be
 * sent.  Any thread.
 */
void replication_allow_all(uint64_t epoch);

/*
 * Secondary, before it says that it has all of a checkpoint: fail now
 * whatever could fail in replication_begin_checkpoint_all().
 */
void replication_prepare_all(Error **errp);

/*
 * Either side: the peer is lost.  Give up what is under way, so that no
 * drain, no removal and no main loop waits for the peer, and nothing that
 * the peer still sends reaches this side's disk.  Takes as long as the own
 * disk needs for what it has begun, at most a few seconds.
 */
void replication_abandon_all(void);

/*
 * The highest number of a generation; 0 if none is recorded or
 * @has_generations becomes false: no disk keeps any.  False with @errp set if
 * one cannot be read.
 */
bool replication_generation_all(bool *has_generations, uint64_t *number,
                                Error **errp);

/*
 * Primary: has a resync, and nothing less, seen to it that the secondary has
 * all that each disk has?  A disk that is shared always has.
 */
bool replication_resynced_all(void);

/*
 * Secondary: has each disk that runs, or can it make up, all that was
 * committed, whatever has failed?
 */
bool replication_complete_all(void);

/*
 * Record that the disks are of generation @number, in @role.  Tries all, and
 * returns false with @errp set if one failed.  Waits for the disk.
 */
bool replication_record_all(uint64_t number, ColoDiskRole role, Error **errp);

/*
 * Secondary, before it goes live: have what it needs for that and the primary
 * may still have, the right to write to a shared disk.  On failure it must
 * not, but may try again: as long as nothing is written to by replication
 * there is a way back.  Shuts the primary out as replication_abandon_all()
 * does.
 */
void replication_take_over_all(Error **errp);

/* What the disks are doing; the caller frees it */
ColoDiskStatisticsList *replication_query_all(void);

/*
 * Have @fn called when an I/O error ends replication of a node, at most once
 * per node and start.  @node is the node's name.  NULL: no more calls, and
 * none is under way on return.
 *
 * @fn runs in any thread; it must not take the BQL, wait, or call this.
 */
typedef void ReplicationErrorFunc(void *opaque, const char *node,
                                  const Error *err);
void replication_on_error(ReplicationErrorFunc *fn, void *opaque);

/*
 * Have @fn called when replication_problems() may say something else than
 * before, while a session runs.  NULL: no more calls, and none is under way on
 * return.  As for replication_on_error().
 */
typedef void ReplicationChangeFunc(void);
void replication_on_change(ReplicationChangeFunc *fn);

/*
 * Primary: have @fn called when a disk has become longer, which the secondary's
 * guest sees with the next checkpoint.  NULL and @fn as before.
 */
void replication_on_growth(ReplicationChangeFunc *fn);

/* For drivers: it has.  Any thread. */
void replication_disk_grown(void);

/* For drivers: it may.  Any thread. */
void replication_problems_changed(void);

/*
 * For drivers: tell whoever called replication_on_error(), or else the user, by
 * the event COLO_DISK_ERROR.  Any thread.
 */
void replication_report_error(const char *node, const Error *err);

/*
 * Unregister and free; NULL is none.  Waits for calls from other threads, so
 * a driver lets them fail first.
 */
void replication_remove(ReplicationState *drv);

/* Does a COLO session run, of which no driver may be made?  Any thread. */
bool replication_in_session(void);

/* Is any driver registered? */
bool replication_exists(void);

/*
 * Does all that is written to @bs reach a driver below it: for the primary, one
 * that forwards it; for the secondary, one that follows its checkpoints?  BQL,
 * main loop or migration thread.
 */
bool replication_covers(BlockDriverState *bs, ReplicationMode role);

/*
 * False with @errp set if there is such a driver, but a node above it keeps
 * what is written.  As replication_covers().
 */
bool replication_check_covered(BlockDriverState *bs, ReplicationMode role,
                               Error **errp);

/*
 * Primary, before replication_cut_all(@epoch), for each disk of the guest: what
 * is written to @bs from now on reaches some drivers.  If one was reached in an
 * epoch and is not in the next, replication ends with an error there.  As
 * replication_covers().
 */
void replication_reach(BlockDriverState *bs, uint64_t epoch);

/*
 * May @op not be done with @bs?  It would put a node in the place of one of a
 * disk that is being replicated, so that writes of the guest go past
 * replication or the image, or change its length.  As bdrv_op_is_blocked().
 */
bool GRAPH_RDLOCK replication_op_is_blocked(BlockDriverState *bs,
                                            BlockOpType op, Error **errp);

/*
 * A monitor is about to give the guest's disk @disk another @length, bytes: on
 * the primary of a pair the secondary's disk gets it, too.
 *
 * replication_co_grow_begin: false with @errp set if that cannot be.  Waits for
 * the secondary, for some seconds at most.
 * replication_co_grow_end: it has been done, or has failed.  After the first,
 * unless that has returned false.
 *
 * Coroutine, main loop, no lock of the graph; @disk is not drained.
 */
bool coroutine_fn replication_co_grow_begin(BlockDriverState *disk,
                                            int64_t length, Error **errp);
void coroutine_fn replication_co_grow_end(BlockDriverState *disk);

/*
 * May the node of that name, or one of all (NULL), be neither activated nor
 * inactivated, as its disk is being replicated, or any in a session?  Then true
 * with @errp set.
 * Main loop.
 */
bool GRAPH_RDLOCK replication_activation_is_blocked(const char *node_name,
                                                    Error **errp);

/*
 * Is @bs a node of a replicated disk which is below a driver, or goes past it
 * to the same data, so that no command writes to it?  Then true with @errp set.
 * Main loop.
 */
bool replication_write_is_blocked(BlockDriverState *bs, Error **errp);

/*
 * The block layer is about to write, or discard, by way of @child.  Zero, or a
 * negative errno with which that must fail.  May wait for the disk.  Any thread.
 */
int coroutine_fn GRAPH_RDLOCK replication_before_write(BdrvChild *child);

/*
 * Primary: is @bs, which is about to go, the only image of its disk here?  And
 * on the secondary: does its disk need @bs, which is about to go, or to be replaced by
 * @to?  It would be lost in a failover.  Then true with @errp set.  Main loop.
 */
bool GRAPH_RDLOCK replication_needs(BlockDriverState *bs, BlockDriverState *to,
                                    Error **errp);

/*
 * The same, if @bs, or NULL, is a child of @parent and blockdev-reopen does it.
 * What is below a driver that replicates stays as it is.
 */
bool GRAPH_RDLOCK replication_reopen_is_blocked(BlockDriverState *parent,
                                                BlockDriverState *bs,
                                                BlockDriverState *to,
                                                Error **errp);

/*
 * replication_forbids_reopen: is @bs a node into which a job folds overlays, or
 * may do so at any time (a secondary that replicates), or which it folds?  Then
 * true with @errp set.  Main loop.
 */
bool replication_forbids_reopen(BlockDriverState *bs, Error **errp);

/*
 * Primary: does all that the guest writes to its disk @bs reach the secondary
 * in the order of checkpoints, or not at all?  False with @errp set if not.
 * As replication_covers().
 */
bool replication_check_order(BlockDriverState *bs, Error **errp);

/*
 * colo_medium_refused: may a monitor not take the medium out of @blk, or put
 * one in, as its device belongs to a guest of a pair, on either side?  The other
 * side would keep what it has.  Then true with @errp set.  BQL.
 */
bool colo_medium_refused(BlockBackend *blk, Error **errp);

/*
 * Is @bs above a driver, of either side, that replicates now?  BQL, any thread
 * that may run the main loop.
 */
bool replication_runs(BlockDriverState *bs);

/* Register a driver.  Never fails. */
ReplicationState *replication_new(void *opaque, ReplicationOps *driver_ops);

#endif
