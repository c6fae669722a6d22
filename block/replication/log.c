/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, primary side: a bounded log of what the guest has written, and
 * the thread that sends it.
 *
 * Goal: a write of the guest completes when it has been copied into the log;
 * the way to the secondary is not in its path.  The secondary gets the writes
 * of an epoch only when it may, and all of them before the next checkpoint.
 *
 * Records stand in the order in which they came.  The thread begins them in
 * just this order, several at a time: the first record waits as long as
 *
 *  - REPLICATION_LOG_REQUESTS are under way,
 *  - it belongs to an epoch that is not allowed yet,
 *  - it overlaps with a request under way,
 *  - it is a flush and anything is under way, or a flush is under way.
 *
 * So whatever the order in which requests end, the disk is as if each record
 * had been applied by itself, and what follows a flush is on the disk only if
 * what came before it is there for good.  Neighbouring writes of the same
 * epoch are merged.
 *
 * Batches: if the other side takes many records in one request, and sees to
 * all of the above itself, the thread sends what has gathered.  A request
 * costs both hosts far more than the copying of a small write, and the guest
 * has to do without the CPU it takes.  So nothing is sent while the guest is in
 * the middle of a burst: until no record has come for GATHER_MS, or they have
 * come for BURST_MS, or somebody waits for the log, a checkpoint or writers for
 * room, or will soon, as it is three quarters full.  Then batches begin, up to
 * MAX_BATCHES if they are as long as may be, until all has been sent; one that
 * is not waits for those that are under way.
 *
 * Copying: if the local disk gets a write at the same time, this is as a rule
 * from a thread of a pool that has yet to be scheduled.  Copying a large write
 * here first would be time for which the local disk has nothing to do.  So that
 * is left to the pool, too, and begins after the local write.  It is ordered
 * when it has been copied: writes in flight at the same time have no order, and
 * who has to know what is in flight holds the range above.
 *
 * Limit: a write that finds the log full waits, which slows the guest down
 * to what the secondary takes.  A waiting write is in flight for the block
 * layer, and whoever drains the disk waits for it, maybe with the BQL, which
 * maybe is what it takes to get on; so does who writes in the main loop.  Thus
 * must_admit() and is_polled_for(): asked every ADMIT_INTERVAL_MS, and then the
 * log takes more than its limit; a drained disk gets no new requests, so what
 * is too much is bounded by those that had begun.  Flushes never wait: the
 * monitor flushes disks that are not drained, and as several in a row are one,
 * there are no more than writes.  Nor does replication_log_copy(): who copies
 * has seen to it that there is room.
 *
 * Stall: the other side may stand still and keep the connection.  In a session
 * others notice and decide.  Outside of one nobody would, and the guest would
 * wait for its disk for ever: so if writes wait for stall_ms, and no request
 * that is under way ends in that time, the log breaks with ETIMEDOUT.  Each end
 * of a request begins the time anew, so only a side that needs as long for one
 * request, a flush maybe, is taken for a dead one.  The time begins with the
 * first write that waits, as nobody has missed anything before, and anew when a
 * pause ends.
 *
 * Failure: the first request that fails, or replication_log_break(), breaks
 * the log for good.  It then takes everything and drops it: the guest never
 * notices, whoever made the log is told.
 *
 * Reads: what is in the log is newer than what it is sent to.  Whoever reads
 * there as well takes a view of the log first, then reads, and then puts the
 * view over what was read.  Records that arrive meanwhile are still in the
 * view, and those that are added were not complete when the read began.
 *
 * Threads: writers anywhere, the sender in a thread and an AioContext of its
 * own; it needs neither the BQL nor the main loop.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/coroutine.h"
#include "qemu/guest-random.h"
#include "qemu/lockable.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "block/aio-wait.h"
#include "block/thread-pool.h"
#include "trace.h"
#include "log-int.h"

/* How often waiting writes ask whether they must be admitted, ms */
#define ADMIT_INTERVAL_MS 20

typedef struct LogCopy {
    LogRecord *rec;
    QEMUIOVector *qiov;
    size_t qiov_offset;
} LogCopy;

struct ReplicationLogView {
    ReplicationLog *log;
    int64_t offset;
    int64_t bytes;
    GPtrArray *records;         /* in their order */
};

/* Threads that use the log: a short life */

static void *log_thread(void *opaque)
{
    ReplicationLog *log = opaque;

    rcu_register_thread();
    qemu_set_current_aio_context(log->ctx);
    while (!log->stopping) {
        aio_poll(log->ctx, true);
    }
    rcu_unregister_thread();
    return NULL;
}

static void log_stop_bh(void *opaque)
{
    ReplicationLog *log = opaque;

    log->stopping = true;
}

static void log_record_unref(LogRecord *rec);
static void log_admit_timer(void *opaque);
static void log_stall_timer(void *opaque);

ReplicationLog *replication_log_new(const ReplicationLogOps *ops, void *opaque,
                                    uint64_t limit, uint32_t align,
                                    uint32_t max_request, Error **errp)
{
    ReplicationLog *log;
    AioContext *ctx = aio_context_new(errp);

    if (!ctx) {
        return NULL;
    }
    log = g_new0(ReplicationLog, 1);
    log->ops = ops;
    log->opaque = opaque;
    log->limit = limit;
    log->stats.limit = limit;
    log->align = MAX(align, 1);
    log->max_request = max_request;
    log->ctx = ctx;
    log->allowed = UINT64_MAX;
    QSIMPLEQ_INIT(&log->waiting);
    QTAILQ_INIT(&log->under_way);
    qemu_co_queue_init(&log->room);
    qemu_mutex_init(&log->lock);
    qemu_cond_init(&log->settled);
    log->send_bh = aio_bh_new(ctx, replication_log_send_bh, log);
    log->admit_timer = aio_timer_new(ctx, QEMU_CLOCK_REALTIME, SCALE_MS,
                                     log_admit_timer, log);
    log->gather_timer = aio_timer_new(ctx, QEMU_CLOCK_REALTIME, SCALE_MS,
                                      replication_log_gathered, log);
    log->stall_timer = aio_timer_new(ctx, QEMU_CLOCK_REALTIME, SCALE_MS,
                                     log_stall_timer, log);
    qemu_guest_getrandom_nofail(&log->session, sizeof(log->session));
    qemu_thread_create(&log->thread, "repl-log", log_thread, log,
                       QEMU_THREAD_JOINABLE);
    return log;
}

static bool log_is_busy(ReplicationLog *log)
{
    QEMU_LOCK_GUARD(&log->lock);
    return log->n_under_way || log->n_writers;
}

void replication_log_free(ReplicationLog *log)
{
    if (!log) {
        return;
    }
    replication_log_break(log, ECANCELED);
    AIO_WAIT_WHILE_UNLOCKED(NULL, log_is_busy(log));

    /*
     * Nothing is under way, so nothing schedules the BH or a timer, and the
     * thread can be the last one that knows the log.
     */
    aio_bh_schedule_oneshot(log->ctx, log_stop_bh, log);
    qemu_thread_join(&log->thread);
    timer_free(log->admit_timer);
    timer_free(log->gather_timer);
    timer_free(log->stall_timer);
    qemu_bh_delete(log->send_bh);
    if (log->first) {
        log_record_unref(log->first);
    }
    aio_context_unref(log->ctx);
    qemu_cond_destroy(&log->settled);
    qemu_mutex_destroy(&log->lock);
    g_free(log);
}

/* Records come in */

void replication_log_wake_locked(ReplicationLog *log)
{
    unsigned n = log->n_writers;

    while (n-- && qemu_co_enter_next(&log->room, &log->lock)) {
        ;
    }
}

static void log_admit_timer(void *opaque)
{
    ReplicationLog *log = opaque;

    QEMU_LOCK_GUARD(&log->lock);
    replication_log_wake_locked(log);
}

/* One more write waits */
static void log_watch_locked(ReplicationLog *log)
{
    if (!log->ops->stall_ms) {
        return;
    }
    if (log->n_writers == 1 || !log->watching) {
        log->progress_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    }
    if (!log->watching) {
        log->watching = true;
        timer_mod(log->stall_timer, log->progress_ms + log->ops->stall_ms);
    }
}

/* Had nothing got on for too long at @now_ms?  Else look again later. */
static bool log_has_stalled_locked(ReplicationLog *log, int64_t now_ms,
                                   bool in_session)
{
    int64_t end_ms;

    log->watching = false;
    if (!log->n_writers || replication_log_is_broken_locked(log)) {
        return false;
    }
    if (in_session || log->paused || !log->n_under_way) {
        log->progress_ms = now_ms; /* not because of the other side */
    }
    end_ms = log->progress_ms + log->ops->stall_ms;
    if (now_ms >= end_ms) {
        return true;
    }
    log->watching = true;
    timer_mod(log->stall_timer, end_ms);
    return false;
}

static void log_stall_timer(void *opaque)
{
    ReplicationLog *log = opaque;
    int64_t now_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    bool in_session = log->ops->in_session &&
                      log->ops->in_session(log->opaque);
    bool stalled = false;

    WITH_QEMU_LOCK_GUARD(&log->lock) {
        stalled = log_has_stalled_locked(log, now_ms, in_session);
    }
    if (stalled) {
        replication_log_break(log, ETIMEDOUT);
    }
}

static void log_record_unref(LogRecord *rec)
{
    assert(rec->refs);
    if (!--rec->refs) {
        g_free(rec->data);
        g_free(rec);
    }
}

void replication_log_gone_locked(ReplicationLog *log, LogRecord *rec)
{
    log->stats.bytes -= rec->cost;
    log->n_records--;
    if (rec->cut < log->cut && !--log->n_before) {
        qemu_cond_broadcast(&log->settled);
    }
    log_record_unref(rec);
}

/* Does a write of this @cost find the log full?  A broken one never is. */
static bool log_must_wait_locked(ReplicationLog *log, uint64_t cost)
{
    return !replication_log_is_broken_locked(log) && log->stats.bytes &&
           log->stats.bytes + cost > log->limit;
}

/*
 * Does this request run in the main loop while that waits for some request?
 * Maybe for just this one, with the BQL, as in blk_pwrite(); and nobody makes
 * room without the BQL.
 */
static bool coroutine_fn is_polled_for(void)
{
    return qatomic_read(&global_aio_wait.num_waiters) &&
           qemu_get_current_aio_context() == qemu_get_aio_context();
}

/* Wait for room, maybe in vain */
static void coroutine_fn log_wait_locked(ReplicationLog *log, uint64_t cost)
{
    int64_t begin = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);

    trace_replication_log_full(log->epoch, log->stats.bytes);
    log->n_writers++;
    log_watch_locked(log);
    qemu_bh_schedule(log->send_bh);
    while (log_must_wait_locked(log, cost)) {
        bool admit;

        qemu_mutex_unlock(&log->lock);
        admit = is_polled_for() ||
                (log->ops->must_admit && log->ops->must_admit(log->opaque));
        qemu_mutex_lock(&log->lock);
        if (admit) {
            break;
        }
        if (log->ops->must_admit) {
            timer_mod_anticipate(log->admit_timer,
                                 qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                                 ADMIT_INTERVAL_MS);
        }
        if (log_must_wait_locked(log, cost)) {
            qemu_co_queue_wait(&log->room, &log->lock);
        }
    }
    log->n_writers--;
    log->stats.throttled_ns += qemu_clock_get_ns(QEMU_CLOCK_REALTIME) - begin;
}

/* Two flushes in a row are one */
static bool log_is_superfluous_locked(ReplicationLog *log, LogRecord *rec)
{
    LogRecord *last = QSIMPLEQ_LAST(&log->waiting, LogRecord, next);

    return rec->type == LOG_FLUSH && last && last->type == LOG_FLUSH &&
           last->cut == log->cut;
}

static void log_add_locked(ReplicationLog *log, LogRecord *rec)
{
    rec->epoch = log->epoch;
    rec->cut = log->cut;
    rec->position = ++log->position;
    QSIMPLEQ_INSERT_TAIL(&log->waiting, rec, next);
    log->n_waiting++;
    log->waiting_bytes += rec->data ? rec->bytes : 0;
    log->n_records++;
    log->stats.bytes += rec->cost;
    log->stats.max_bytes = MAX(log->stats.max_bytes, log->stats.bytes);
}

static void coroutine_fn log_append(ReplicationLog *log, LogRecord *rec,
                                    bool may_wait)
{
    bool waited = false, dropped = false;

    rec->cost = sizeof(*rec) + (rec->data ? rec->bytes : 0);
    WITH_QEMU_LOCK_GUARD(&log->lock) {
        if (may_wait && log_must_wait_locked(log, rec->cost)) {
            waited = true;
            log_wait_locked(log, rec->cost);
        }
        dropped = replication_log_is_broken_locked(log) ||
                  log_is_superfluous_locked(log, rec);
        if (!dropped) {
            if (log->first && rec->type != LOG_FLUSH) {
                log_add_locked(log, g_steal_pointer(&log->first));
            }
            log_add_locked(log, rec);
            replication_log_has_more_locked(log);
        }
    }
    if (dropped) {
        log_record_unref(rec);
    }
    if (waited) {
        aio_wait_kick();        /* replication_log_free() may wait for us */
    }
}

static LogRecord *log_record_new(LogRecordType type, int64_t offset,
                                 int64_t bytes)
{
    LogRecord *rec = g_new0(LogRecord, 1);

    rec->type = type;
    rec->offset = offset;
    rec->bytes = bytes;
    rec->refs = 1;
    return rec;
}

/* A write; NULL if there is no memory for it, and the log has broken */
static LogRecord *log_record_write(ReplicationLog *log, int64_t offset,
                                   int64_t bytes)
{
    LogRecord *rec = log_record_new(LOG_WRITE, offset, bytes);

    rec->data = g_try_malloc(bytes);
    if (!rec->data) {
        log_record_unref(rec);
        replication_log_break(log, ENOMEM);
        return NULL;
    }
    return rec;
}

static bool log_is_broken(ReplicationLog *log)
{
    QEMU_LOCK_GUARD(&log->lock);
    return replication_log_is_broken_locked(log);
}

/* In any thread */
static int log_copy_in(void *opaque)
{
    LogCopy *c = opaque;

    qemu_iovec_to_buf(c->qiov, c->qiov_offset, c->rec->data, c->rec->bytes);
    return 0;
}

void coroutine_fn replication_log_write(ReplicationLog *log, int64_t offset,
                                        int64_t bytes, QEMUIOVector *qiov,
                                        size_t qiov_offset)
{
    LogRecord *rec;

    /* A guest may write nothing, and no memory is none for it */
    if (!bytes || log_is_broken(log)) {
        return;
    }
    rec = log_record_write(log, offset, bytes);
    if (rec) {
        LogCopy c = { rec, qiov, qiov_offset };

        if (log->ops->beside && bytes >= REPLICATION_LOG_BESIDE) {
            thread_pool_submit_co(log_copy_in, &c);
        } else {
            log_copy_in(&c);
        }
        log_append(log, rec, true);
    }
}

void coroutine_fn replication_log_zero(ReplicationLog *log, int64_t offset,
                                       int64_t bytes, bool may_unmap)
{
    log_append(log, log_record_new(may_unmap ? LOG_ZERO_UNMAP : LOG_ZERO,
                                   offset, bytes), true);
}

void coroutine_fn replication_log_discard(ReplicationLog *log, int64_t offset,
                                          int64_t bytes)
{
    log_append(log, log_record_new(LOG_DISCARD, offset, bytes), true);
}

void coroutine_fn replication_log_flush(ReplicationLog *log)
{
    log_append(log, log_record_new(LOG_FLUSH, 0, 0), false);
}

void coroutine_fn replication_log_copy(ReplicationLog *log, int64_t offset,
                                       int64_t bytes, const void *buf)
{
    LogRecord *rec = buf ? log_record_write(log, offset, bytes)
                         : log_record_new(LOG_ZERO_UNMAP, offset, bytes);

    if (rec) {
        if (buf) {
            memcpy(rec->data, buf, bytes);
        }
        log_append(log, rec, false);
    }
}

static LogRecord *log_record_resync(bool begins, const ColoDiskGeneration *g)
{
    ReplicationEntry entry;

    replication_entry_set_generation(&entry, g);
    return log_record_new(begins ? LOG_RESYNC_BEGIN : LOG_RESYNC_END,
                          entry.offset, entry.bytes);
}

void coroutine_fn replication_log_resync(ReplicationLog *log, bool begins,
                                         const ColoDiskGeneration *g)
{
    if (log->ops->batch) {
        log_append(log, log_record_resync(begins, g), false);
    }
}

void coroutine_fn replication_log_grow(ReplicationLog *log, int64_t length)
{
    assert(log->ops->batch);
    log_append(log, log_record_new(LOG_GROW, length, 0), false);
}

void coroutine_fn replication_log_common(ReplicationLog *log, uint64_t name)
{
    if (log->ops->batch) {
        log_append(log, log_record_new(LOG_COMMON, name, 0), false);
    }
}

void coroutine_fn replication_log_mark(ReplicationLog *log, uint64_t number)
{
    if (log->ops->batch) {
        log_append(log, log_record_new(LOG_MARK, number, 0), false);
    }
}

void replication_log_expect_resync(ReplicationLog *log,
                                   const ColoDiskGeneration *g)
{
    assert(log->ops->batch);
    QEMU_LOCK_GUARD(&log->lock);
    log->first = log_record_resync(true, g);
    log->first->cost = sizeof(*log->first);
}

bool replication_log_is_empty(ReplicationLog *log)
{
    QEMU_LOCK_GUARD(&log->lock);
    return !log->n_records;
}

/* Has nothing of the first @position records to be sent any more? */
static bool log_is_through_locked(ReplicationLog *log, uint64_t position)
{
    LogRecord *rec = QSIMPLEQ_FIRST(&log->waiting);
    LogRequest *req;

    if (rec && rec->position <= position) {
        return false;
    }
    QTAILQ_FOREACH(req, &log->under_way, next) {
        if (QSIMPLEQ_FIRST(&req->records)->position <= position) {
            return false;
        }
    }
    return true;
}

void coroutine_fn replication_log_wait_empty(ReplicationLog *log)
{
    WITH_QEMU_LOCK_GUARD(&log->lock) {
        log->n_writers++;
        qemu_bh_schedule(log->send_bh);
        while (log->n_records && !replication_log_is_broken_locked(log)) {
            qemu_co_queue_wait(&log->room, &log->lock);
        }
        log->n_writers--;
    }
    aio_wait_kick();            /* as in log_append() */
}

void coroutine_fn replication_log_wait(ReplicationLog *log, uint64_t position)
{
    WITH_QEMU_LOCK_GUARD(&log->lock) {
        log->n_writers++;
        qemu_bh_schedule(log->send_bh);
        while (!log->hurries && !log_is_through_locked(log, position)) {
            bool admit;

            qemu_mutex_unlock(&log->lock);
            admit = log->ops->must_admit && log->ops->must_admit(log->opaque);
            qemu_mutex_lock(&log->lock);
            if (admit) {
                break;
            }
            timer_mod_anticipate(log->admit_timer,
                                 qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                                 ADMIT_INTERVAL_MS);
            if (!log->hurries && !log_is_through_locked(log, position)) {
                qemu_co_queue_wait(&log->room, &log->lock);
            }
        }
        log->n_writers--;
    }
    aio_wait_kick();            /* as in log_append() */
}

void replication_log_hurry(ReplicationLog *log, bool hurry)
{
    QEMU_LOCK_GUARD(&log->lock);
    if (hurry) {
        log->hurries++;
        /* Its thread wakes them, so nothing of them runs in here */
        timer_mod_anticipate(log->admit_timer, 0);
    } else {
        assert(log->hurries);
        log->hurries--;
    }
}

/* What is in the log is looked at */

static void log_view_add_locked(ReplicationLogView *view, LogRecord *rec)
{
    /* What reads as it likes after a discard may read what was */
    if (rec->type == LOG_FLUSH || rec->type == LOG_DISCARD ||
        rec->type == LOG_RESYNC_BEGIN || rec->type == LOG_RESYNC_END ||
        rec->type == LOG_GROW ||
        rec->type == LOG_COMMON || rec->type == LOG_MARK ||
        rec->offset >= view->offset + view->bytes ||
        rec->offset + rec->bytes <= view->offset) {
        return;
    }
    rec->refs++;
    g_ptr_array_add(view->records, rec);
}

ReplicationLogView *replication_log_view(ReplicationLog *log, int64_t offset,
                                         int64_t bytes)
{
    ReplicationLogView *view;
    LogRequest *req;
    LogRecord *rec;

    QEMU_LOCK_GUARD(&log->lock);
    if (!log->n_records) {
        return NULL;
    }
    view = g_new0(ReplicationLogView, 1);
    view->log = log;
    view->offset = offset;
    view->bytes = bytes;
    view->records = g_ptr_array_new();
    /* Requests under way are in their order, and came before all that wait */
    QTAILQ_FOREACH(req, &log->under_way, next) {
        QSIMPLEQ_FOREACH(rec, &req->records, next) {
            log_view_add_locked(view, rec);
        }
    }
    QSIMPLEQ_FOREACH(rec, &log->waiting, next) {
        log_view_add_locked(view, rec);
    }
    return view;
}

void replication_log_view_apply(ReplicationLogView *view, QEMUIOVector *qiov)
{
    for (unsigned i = 0; i < view->records->len; i++) {
        LogRecord *rec = g_ptr_array_index(view->records, i);
        int64_t begin = MAX(rec->offset, view->offset);
        int64_t end = MIN(rec->offset + rec->bytes,
                          view->offset + view->bytes);

        if (rec->type == LOG_WRITE) {
            qemu_iovec_from_buf(qiov, begin - view->offset,
                                rec->data + (begin - rec->offset),
                                end - begin);
        } else {
            qemu_iovec_memset(qiov, begin - view->offset, 0, end - begin);
        }
    }
}

void replication_log_view_free(ReplicationLogView *view)
{
    if (!view) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&view->log->lock) {
        for (unsigned i = 0; i < view->records->len; i++) {
            log_record_unref(g_ptr_array_index(view->records, i));
        }
    }
    g_ptr_array_free(view->records, true);
    g_free(view);
}

/* Epochs */

void replication_log_restart(ReplicationLog *log)
{
    QEMU_LOCK_GUARD(&log->lock);
    log->epoch = 0;
    log->allowed = UINT64_MAX;
}

void replication_log_cut(ReplicationLog *log, uint64_t epoch)
{
    QEMU_LOCK_GUARD(&log->lock);
    log->epoch = epoch;
    log->cut++;
    log->allowed = epoch - 1;
    log->n_before = log->n_records;
    if (log->n_before) {
        qemu_bh_schedule(log->send_bh);
    }
}

void replication_log_allow(ReplicationLog *log, uint64_t epoch)
{
    QEMU_LOCK_GUARD(&log->lock);
    log->allowed = MAX(log->allowed, epoch);
    log->gathered = log->n_waiting;
    qemu_bh_schedule(log->send_bh);
}

bool replication_log_settle(ReplicationLog *log, uint64_t timeout_ms,
                            Error **errp)
{
    int64_t end = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                  MIN(timeout_ms, INT_MAX);

    QEMU_LOCK_GUARD(&log->lock);
    while (log->n_before && !replication_log_is_broken_locked(log)) {
        int64_t left = end - qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

        if (left <= 0) {
            error_setg(errp, "%" PRIu64 " writes have not arrived",
                       log->n_before);
            return false;
        }
        qemu_cond_timedwait(&log->settled, &log->lock, left);
    }
    if (replication_log_is_broken_locked(log)) {
        error_setg_errno(errp, log->stats.err, "writes could not be sent");
        return false;
    }
    return true;
}

uint64_t replication_log_position(ReplicationLog *log)
{
    QEMU_LOCK_GUARD(&log->lock);
    return log->position;
}

bool replication_log_is_through(ReplicationLog *log, uint64_t position)
{
    QEMU_LOCK_GUARD(&log->lock);
    return log_is_through_locked(log, position);
}

bool replication_log_is_urgent(ReplicationLog *log)
{
    QEMU_LOCK_GUARD(&log->lock);
    return log->n_before || log->n_writers ||
           replication_log_is_filling_locked(log);
}

AioContext *replication_log_context(ReplicationLog *log)
{
    return log->ctx;
}

void replication_log_pause(ReplicationLog *log, bool paused)
{
    QEMU_LOCK_GUARD(&log->lock);
    if (paused) {
        log->paused++;
    } else {
        assert(log->paused);
        log->paused--;
        log->progress_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
        qemu_bh_schedule(log->send_bh);
    }
}

void replication_log_break(ReplicationLog *log, int err)
{
    LogRecord *rec;

    WITH_QEMU_LOCK_GUARD(&log->lock) {
        if (replication_log_is_broken_locked(log)) {
            return;
        }
        log->stats.err = err ? err : EIO;
        trace_replication_log_broken(log->epoch, log->stats.err);
        while ((rec = QSIMPLEQ_FIRST(&log->waiting))) {
            replication_log_remove_first_locked(log, rec);
            replication_log_gone_locked(log, rec);
        }
        qemu_cond_broadcast(&log->settled);
        replication_log_wake_locked(log);
    }
    log->ops->broken(log->opaque, err ? err : EIO);
}

void replication_log_stats(ReplicationLog *log, ReplicationLogStats *stats)
{
    QEMU_LOCK_GUARD(&log->lock);
    *stats = log->stats;
}
