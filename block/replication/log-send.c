/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, primary side: which records of the log are sent when, one by
 * one or in batches.  See log.c for the rules.
 *
 * All is in the log's thread, but for replication_log_has_more_locked().
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "block/aio-wait.h"
#include "log-int.h"

/* Buffers of one merged request */
#define MAX_MERGED 256

/*
 * How long records gather for a batch, if nobody waits for them, ms.  So often
 * it is looked whether more have come: a rest is seen after up to twice that.
 */
#define GATHER_MS 10

/* The same while more come all the time: a burst, which is not disturbed */
#define BURST_MS 100

/* Batches under way */
#define MAX_BATCHES 4

/* When to send */

/* Is a batch as long as it may be? */
static bool log_batch_is_full_locked(ReplicationLog *log)
{
    return log->n_waiting >= REPLICATION_BATCH_ENTRIES ||
           log->waiting_bytes >= REPLICATION_BATCH_FULL;
}

/* May the next batch begin? */
static bool log_may_begin_batch_locked(ReplicationLog *log)
{
    LogRecord *rec = QSIMPLEQ_FIRST(&log->waiting);

    if (!rec || rec->epoch > log->allowed || log->paused ||
        log->n_under_way >= MAX_BATCHES) {
        return false;
    }
    if (!log->gathered && !log->n_before && !log->n_writers &&
        !replication_log_is_filling_locked(log)) {
        return false;
    }
    return !log->n_under_way || log_batch_is_full_locked(log);
}

/* What waits may wait, but not for long */
static void log_gather_locked(ReplicationLog *log)
{
    if (log->n_waiting && !log->gathering && !log->gathered) {
        log->gathering = true;
        log->gather_position = log->position;
        log->gather_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
        timer_mod(log->gather_timer, log->gather_ms + GATHER_MS);
    }
}

/* Do more come all the time, and have not done so for long? */
static bool log_in_burst_locked(ReplicationLog *log, int64_t now_ms)
{
    bool more = log->position != log->gather_position;

    log->gather_position = log->position;
    return more && now_ms < log->gather_ms + BURST_MS;
}

void replication_log_has_more_locked(ReplicationLog *log)
{
    if (!log->ops->batch || log_may_begin_batch_locked(log)) {
        qemu_bh_schedule(log->send_bh);
    } else {
        log_gather_locked(log);
    }
}

void replication_log_gathered(void *opaque)
{
    ReplicationLog *log = opaque;
    int64_t now_ms;

    QEMU_LOCK_GUARD(&log->lock);
    now_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    if (log_in_burst_locked(log, now_ms)) {
        timer_mod(log->gather_timer, now_ms + GATHER_MS);
        return;
    }
    log->gathering = false;
    log->gathered = log->n_waiting;
    qemu_bh_schedule(log->send_bh);
}

/* Records go out */

static bool log_overlaps_locked(ReplicationLog *log, int64_t offset,
                                int64_t bytes)
{
    int64_t begin = QEMU_ALIGN_DOWN(offset, log->align);
    int64_t end = ROUND_UP(offset + bytes, log->align);
    LogRequest *req;

    QTAILQ_FOREACH(req, &log->under_way, next) {
        if (begin < ROUND_UP(req->offset + req->bytes, log->align) &&
            end > QEMU_ALIGN_DOWN(req->offset, log->align)) {
            return true;
        }
    }
    return false;
}

/* May @rec begin?  It is the first one that waits. */
static bool log_may_begin_locked(ReplicationLog *log, LogRecord *rec)
{
    if (log->paused || log->flushing || rec->epoch > log->allowed ||
        log->n_under_way >= REPLICATION_LOG_REQUESTS) {
        return false;
    }
    if (rec->type == LOG_FLUSH) {
        return !log->n_under_way;
    }
    return !log_overlaps_locked(log, rec->offset, rec->bytes);
}

/* Does the first record that waits go on where @req ends? */
static bool log_may_merge_locked(ReplicationLog *log, LogRequest *req,
                                 LogRecord *rec)
{
    return req->type == LOG_WRITE && rec && rec->type == LOG_WRITE &&
           rec->epoch <= log->allowed &&
           rec->offset == req->offset + req->bytes &&
           rec->bytes <= (int64_t)log->max_request - req->bytes &&
           req->qiov.niov < MAX_MERGED &&
           !log_overlaps_locked(log, rec->offset, rec->bytes);
}

static void log_take_locked(ReplicationLog *log, LogRequest *req,
                            LogRecord *rec)
{
    replication_log_remove_first_locked(log, rec);
    QSIMPLEQ_INSERT_TAIL(&req->records, rec, next);
    req->bytes += rec->bytes;
    if (rec->type == LOG_WRITE) {
        qemu_iovec_add(&req->qiov, rec->data, rec->bytes);
    }
}

static LogRequest *log_request_new(ReplicationLog *log, LogRecordType type)
{
    LogRequest *req = g_new0(LogRequest, 1);

    req->log = log;
    req->type = type;
    QSIMPLEQ_INIT(&req->records);
    qemu_iovec_init(&req->qiov, 1);
    return req;
}

static void log_begin_locked(ReplicationLog *log, LogRequest *req)
{
    QTAILQ_INSERT_TAIL(&log->under_way, req, next);
    log->n_under_way++;
    log->flushing = req->type == LOG_FLUSH;
    if (log->ops->begin) {
        log->ops->begin(log->opaque);
    }
}

static const ReplicationEntryType entry_types[] = {
    [LOG_WRITE] = REPLICATION_ENTRY_WRITE,
    [LOG_ZERO] = REPLICATION_ENTRY_ZERO,
    [LOG_ZERO_UNMAP] = REPLICATION_ENTRY_ZERO_UNMAP,
    [LOG_DISCARD] = REPLICATION_ENTRY_DISCARD,
    [LOG_FLUSH] = REPLICATION_ENTRY_FLUSH,
    [LOG_RESYNC_BEGIN] = REPLICATION_ENTRY_RESYNC_BEGIN,
    [LOG_RESYNC_END] = REPLICATION_ENTRY_RESYNC_END,
    [LOG_GROW] = REPLICATION_ENTRY_GROW,
    [LOG_COMMON] = REPLICATION_ENTRY_COMMON,
    [LOG_MARK] = REPLICATION_ENTRY_MARK,
};

/* A write that goes on where the last one ends is part of it */
static void log_batch_add(ReplicationBatch *batch, const LogRecord *rec)
{
    if (rec->type == LOG_WRITE && batch->n_entries) {
        ReplicationEntry *last = &batch->entries[batch->n_entries - 1];

        if (last->type == REPLICATION_ENTRY_WRITE &&
            rec->offset == last->offset + last->bytes) {
            last->bytes += rec->bytes;
            return;
        }
    }
    batch->entries[batch->n_entries++] = (ReplicationEntry) {
        .type = entry_types[rec->type],
        .offset = rec->offset,
        .bytes = rec->bytes,
    };
}

/* Does the first record that waits fit into @req, @n having been taken? */
static bool log_fits_locked(ReplicationLog *log, LogRequest *req, unsigned n)
{
    LogRecord *rec = QSIMPLEQ_FIRST(&log->waiting);

    return rec && rec->epoch <= log->allowed &&
           n < REPLICATION_BATCH_ENTRIES &&
           req->qiov.size + (rec->data ? rec->bytes : 0) <=
           REPLICATION_BATCH_DATA;
}

/* The next batch that may begin, or NULL */
static LogRequest *log_next_batch_locked(ReplicationLog *log)
{
    LogRequest *req;
    unsigned n = 0;

    if (!log_may_begin_batch_locked(log)) {
        /* It could when this was asked for; now nobody may come back to it */
        log_gather_locked(log);
        return NULL;
    }
    req = log_request_new(log, LOG_BATCH);
    req->batch = g_new(ReplicationBatch, 1);
    req->batch->session = log->session;
    req->batch->number = ++log->n_batches;
    req->batch->n_entries = 0;
    do {
        LogRecord *rec = QSIMPLEQ_FIRST(&log->waiting);

        log_batch_add(req->batch, rec);
        log_take_locked(log, req, rec);
    } while (log_fits_locked(log, req, ++n));
    log->gathered = log->gathered && log->n_waiting;
    log_gather_locked(log);
    log_begin_locked(log, req);
    return req;
}

/* The next request that may begin, or NULL */
static LogRequest *log_next_locked(ReplicationLog *log)
{
    LogRecord *rec = QSIMPLEQ_FIRST(&log->waiting);
    LogRequest *req;

    if (!rec || !log_may_begin_locked(log, rec)) {
        return NULL;
    }
    req = log_request_new(log, rec->type);
    req->offset = rec->offset;
    do {
        log_take_locked(log, req, rec);
        rec = QSIMPLEQ_FIRST(&log->waiting);
    } while (log_may_merge_locked(log, req, rec));
    log_begin_locked(log, req);
    return req;
}

static int coroutine_fn log_send(LogRequest *req)
{
    const ReplicationLogOps *ops = req->log->ops;
    void *opaque = req->log->opaque;

    switch (req->type) {
    case LOG_WRITE:
        return ops->write(opaque, req->offset, req->bytes, &req->qiov);
    case LOG_ZERO:
        return ops->zero(opaque, req->offset, req->bytes, false);
    case LOG_ZERO_UNMAP:
        return ops->zero(opaque, req->offset, req->bytes, true);
    case LOG_DISCARD:
        return ops->discard(opaque, req->offset, req->bytes);
    case LOG_FLUSH:
        return ops->flush(opaque);
    case LOG_BATCH:
        return ops->batch(opaque, req->batch, &req->qiov);
    case LOG_RESYNC_BEGIN:
    case LOG_RESYNC_END:
    case LOG_GROW:
    case LOG_COMMON:
    case LOG_MARK:
        break; /* they are in batches */
    }
    g_assert_not_reached();
}

static void log_request_gone_locked(ReplicationLog *log, LogRequest *req)
{
    LogRecord *rec;

    QTAILQ_REMOVE(&log->under_way, req, next);
    log->n_under_way--;
    log->flushing = false;
    while ((rec = QSIMPLEQ_FIRST(&req->records))) {
        QSIMPLEQ_REMOVE_HEAD(&req->records, next);
        replication_log_gone_locked(log, rec);
    }
    qemu_iovec_destroy(&req->qiov);
    g_free(req->batch);
    g_free(req);
}

static void coroutine_fn log_request_entry(void *opaque)
{
    LogRequest *req = opaque;
    ReplicationLog *log = req->log;
    int ret = log_send(req);

    if (ret < 0) {
        replication_log_break(log, -ret);
    }
    WITH_QEMU_LOCK_GUARD(&log->lock) {
        log->progress_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
        if (ret >= 0) {
            log->stats.sent_requests++;
            log->stats.sent_bytes += req->qiov.size;
        }
        log_request_gone_locked(log, req);
        if (log->ops->end) {
            log->ops->end(log->opaque);
        }
        replication_log_wake_locked(log);
        /*
         * Under the lock: the last request has to be through with the log
         * before replication_log_free() may see that it is.
         */
        if (!replication_log_is_broken_locked(log)) {
            qemu_bh_schedule(log->send_bh);
        }
    }
    aio_wait_kick();
}

static LogRequest *log_next(ReplicationLog *log)
{
    QEMU_LOCK_GUARD(&log->lock);
    return log->ops->batch ? log_next_batch_locked(log)
                           : log_next_locked(log);
}

void replication_log_send_bh(void *opaque)
{
    ReplicationLog *log = opaque;
    LogRequest *req;

    while ((req = log_next(log))) {
        qemu_coroutine_enter(qemu_coroutine_create(log_request_entry, req));
    }
}
