/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, primary side: a bounded log of what the guest has written, and
 * the thread that sends it.  See log.c for how it works.
 *
 * It knows no block devices: whoever makes a log says in ReplicationLogOps
 * how to send.
 */

#ifndef BLOCK_REPLICATION_LOG_H
#define BLOCK_REPLICATION_LOG_H

#include "block/aio.h"
#include "qemu/iov.h"
#include "qemu/units.h"
#include "batch.h"

typedef struct ReplicationLog ReplicationLog;

/* Requests that are sent at a time; a client of NBD has as many slots */
#define REPLICATION_LOG_REQUESTS 16

/* For a peer on another host: see ReplicationLogOps.stall_ms */
#define REPLICATION_LOG_STALL_MS 20000

/* See ReplicationLogOps.beside */
#define REPLICATION_LOG_BESIDE (256 * KiB)

/*
 * How to send.  The first five run in coroutines in the log's thread, up to
 * REPLICATION_LOG_REQUESTS at a time, and return 0 or a negative errno.
 */
typedef struct ReplicationLogOps {
    int coroutine_fn (*write)(void *opaque, int64_t offset, int64_t bytes,
                              QEMUIOVector *qiov);
    int coroutine_fn (*zero)(void *opaque, int64_t offset, int64_t bytes,
                             bool may_unmap);
    int coroutine_fn (*discard)(void *opaque, int64_t offset, int64_t bytes);
    int coroutine_fn (*flush)(void *opaque);

    /*
     * Optional, and then it is used in place of the four: @batch, and the data
     * of its writes.  It must be as if all entries had been sent one after the
     * other, and after those of the batches before.
     */
    int coroutine_fn (*batch)(void *opaque, const ReplicationBatch *batch,
                              QEMUIOVector *data);

    /*
     * A request begins, has ended.  Optional; the log's thread, with the
     * log's lock held: neither may call the log.
     */
    void (*begin)(void *opaque);
    void (*end)(void *opaque);

    /*
     * A write waits for room: must it be let in nevertheless, because
     * somebody waits for it to complete?  Optional; asked again and again in
     * the coroutine of the write.
     */
    bool coroutine_fn (*must_admit)(void *opaque);

    /*
     * If writes wait for room for so long, ms, and no request under way has
     * ended meanwhile, the log breaks with ETIMEDOUT.  0: they wait for ever.
     */
    unsigned stall_ms;

    /*
     * Does a session decide how long they wait?  Then the log does not.
     * Optional; the log's thread, asked when the time is over.
     */
    bool (*in_session)(void *opaque);

    /*
     * The log has broken with the errno @err: nothing more is sent.  Once;
     * in the thread that broke it, before its requests have ended.
     */
    void (*broken)(void *opaque, int err);

    /*
     * Writes go to a local disk at the same time: those of
     * REPLICATION_LOG_BESIDE bytes or more are copied by a thread of the pool
     * while the coroutine yields.
     */
    bool beside;
} ReplicationLogOps;

typedef struct ReplicationLogStats {
    uint64_t bytes;             /* in the log */
    uint64_t max_bytes;         /* the most there ever were */
    uint64_t limit;             /* from here on writes wait */
    uint64_t sent_bytes;        /* of writes, that have arrived */
    uint64_t sent_requests;     /* of any kind, that have arrived */
    uint64_t throttled_ns;      /* time that writes waited, added up */
    int err;                    /* errno that broke the log, 0 for none */
} ReplicationLogStats;

/*
 * @limit: bytes that may wait, with what the log needs for itself
 * @align: bytes; two writes within such a block count as overlapping
 * @max_request: bytes; neighbours are merged up to this
 *
 * Main thread.
 */
ReplicationLog *replication_log_new(const ReplicationLogOps *ops, void *opaque,
                                    uint64_t limit, uint32_t align,
                                    uint32_t max_request, Error **errp);

/*
 * Drop what is left, wait for requests that have begun (the caller sees to it
 * that they end), end the thread.  Main thread; nobody else uses the log any
 * more.  NULL is none.
 */
void replication_log_free(ReplicationLog *log);

/*
 * What the guest does, in its coroutine, any thread.  All but a flush may wait
 * for room; all succeed: a log that is broken takes anything and drops it.
 */
void coroutine_fn replication_log_write(ReplicationLog *log, int64_t offset,
                                        int64_t bytes, QEMUIOVector *qiov,
                                        size_t qiov_offset);
void coroutine_fn replication_log_zero(ReplicationLog *log, int64_t offset,
                                       int64_t bytes, bool may_unmap);
void coroutine_fn replication_log_discard(ReplicationLog *log, int64_t offset,
                                          int64_t bytes);
void coroutine_fn replication_log_flush(ReplicationLog *log);

/* Is nothing waiting or under way?  Any thread. */
bool replication_log_is_empty(ReplicationLog *log);

/*
 * Wait until that is so, or the log is broken.  In a coroutine, any thread;
 * the caller sees to it that it will be.
 */
void coroutine_fn replication_log_wait_empty(ReplicationLog *log);

/*
 * Wait until the first @position records have arrived, or the log is broken.
 * May return before, if must_admit() says so or while somebody is in a hurry.
 * In a coroutine, any thread.
 */
void coroutine_fn replication_log_wait(ReplicationLog *log, uint64_t position);

/*
 * As long as anybody has set @hurry and not yet cleared it nobody waits in
 * replication_log_wait().  Any thread.
 */
void replication_log_hurry(ReplicationLog *log, bool hurry);

/*
 * What is in the log for these bytes, in any thread: NULL if it is empty.
 * Applied to what was read of the bytes later on, it brings it up to date.
 */
typedef struct ReplicationLogView ReplicationLogView;
ReplicationLogView *replication_log_view(ReplicationLog *log, int64_t offset,
                                         int64_t bytes);
void replication_log_view_apply(ReplicationLogView *view, QEMUIOVector *qiov);
/* Before the log is freed.  NULL is none. */
void replication_log_view_free(ReplicationLogView *view);

/*
 * A write that does not come from the guest; zeroes, which may be unmapped, if
 * @buf is NULL.  Does not wait: the caller looks before whether there is room.
 * Otherwise as the others.
 */
void coroutine_fn replication_log_copy(ReplicationLog *log, int64_t offset,
                                       int64_t bytes, const void *buf);

/*
 * A resync begins, or all of it is in the log: so the secondary hears, if it is
 * sent batches.  @g: the generation of this side's disk, NULL if it keeps none.
 * Does not wait, otherwise as a flush.
 */
void coroutine_fn replication_log_resync(ReplicationLog *log, bool begins,
                                         const ColoDiskGeneration *g);

/*
 * The guest's disk has @length bytes from now on, so the secondary hears, which
 * is sent batches.  Does not wait, otherwise as a flush.
 */
void coroutine_fn replication_log_grow(ReplicationLog *log, int64_t length);

/*
 * As replication_log_resync(), for REPLICATION_ENTRY_COMMON and
 * REPLICATION_ENTRY_MARK; numbers up to INT64_MAX
 */
void coroutine_fn replication_log_common(ReplicationLog *log, uint64_t name);
void coroutine_fn replication_log_mark(ReplicationLog *log, uint64_t number);

/*
 * The secondary's disk is not as ours, so the first write, of whomever, makes a
 * mixture of it: say before it that a resync begins.  Before the first record.
 */
void replication_log_expect_resync(ReplicationLog *log,
                                   const ColoDiskGeneration *g);

/*
 * Another session counts its epochs from the beginning: nothing is held back,
 * and belongs to none, until the first cut.  Any thread.
 */
void replication_log_restart(ReplicationLog *log);

/*
 * What comes from now on belongs to @epoch, from 1, and is held back.  Any
 * thread.
 */
void replication_log_cut(ReplicationLog *log, uint64_t epoch);

/* What belongs to @epoch or an earlier one may be sent.  Any thread. */
void replication_log_allow(ReplicationLog *log, uint64_t epoch);

/*
 * Wait until all that came before the last cut has arrived.  Any thread, but
 * no coroutine and not the log's.  False with @errp if the log is broken, or
 * after @timeout_ms milliseconds.
 */
bool replication_log_settle(ReplicationLog *log, uint64_t timeout_ms,
                            Error **errp);

/* How many records have ever come.  Any thread. */
uint64_t replication_log_position(ReplicationLog *log);

/*
 * Have all of the first @position records arrived, or been dropped because the
 * log is broken?  Any thread.
 */
bool replication_log_is_through(ReplicationLog *log, uint64_t position);

/*
 * Does a checkpoint wait for the log, or do writes, or will they soon?  Then who
 * uses the link for something else should leave it to the log.  Any thread.
 */
bool replication_log_is_urgent(ReplicationLog *log);

/* That of the log's thread, for coroutines that end before the log is freed */
AioContext *replication_log_context(ReplicationLog *log);

/* Begin no requests while @paused; those that have begun go on.  Any thread. */
void replication_log_pause(ReplicationLog *log, bool paused);

/*
 * Send nothing any more, drop all, let all waiters go.  Any thread, as often
 * as one likes; the first one's errno counts.
 */
void replication_log_break(ReplicationLog *log, int err);

/* Any thread */
void replication_log_stats(ReplicationLog *log, ReplicationLogStats *stats);

#endif
