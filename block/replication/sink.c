/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the block driver replication-sink, secondary side.
 *
 *      guest            NBD server, for the primary
 *        |                     |
 *   replication         replication-sink
 *        |                     |
 *      active          copy-before-write
 *        |               |     |
 *      hidden  <---------'     |
 *        |                     |
 *       disk  <----------------'
 *
 * Goal: the primary sends many writes, and flushes among them, in one request
 * (batch.h).  What is behind the end that the disk had at first is the window
 * that takes them; up to there the node is the disk, so that whoever does not
 * know of batches may use it as well.
 *
 * The entries of the batches are begun in their order, and the batches in that
 * of their numbers.  Writes run together, also those of several batches, but a
 * write waits for those that it overlaps with, and a flush for all before it,
 * as all after it do for the flush.  So what follows a flush is on the disk
 * only if what came before it is there for good, just as if each had been a
 * request of its own.  A write that has a flush all for itself is made with
 * FUA.
 *
 * The beginning and the end of a resync are among the entries, and the same
 * holds for them as for a flush: see target.c.
 *
 * A batch that fails is answered so, and nothing more of the same session is
 * begun.  The primary then ends the session.  When this side takes over, what
 * is left of the batches is given up: the next checkpoint would have had it.
 *
 * A batch whose predecessor is missing waits for it.  Requests reach us in
 * their order but for a moment at the end of a drain, so it will come, or
 * something is wrong: after MISSING_MS the session has failed.  Who drains is
 * not kept waiting, then such a batch fails at once.
 *
 * Discards: in a session they are noted, and made after the next checkpoint:
 * sink-discard.c.
 *
 * Threads: requests in any, the rest under the BQL.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-events-colo.h"
#include "qemu/coroutine.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "qemu/module.h"
#include "qemu/range.h"
#include "qemu/timer.h"
#include "block/aio-wait.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "trace.h"
#include "batch.h"
#include "discards.h"
#include "internal.h"
#include "sink-int.h"

/* Writes that are under way at a time */
#define MAX_TASKS 16

/* How long a batch waits for one that has not come, ms */
#define MISSING_MS 1000

static int64_t coroutine_fn GRAPH_RDLOCK disk_length(BlockDriverState *bs)
{
    return bdrv_co_getlength(bs->file->bs);
}

/* A batch is applied */

/* Is the batch one that will never be applied? */
static bool is_stale_locked(SinkState *s, const SinkBatch *b)
{
    return !b->was_held &&
           (b->batch.session != s->session || b->batch.number < s->next ||
            s->failed);
}

/*
 * Zeroes that need no space.  If nothing may be discarded on this host they
 * would take some, so what is zero already is left alone: a hole stays one.
 */
static int coroutine_fn GRAPH_RDLOCK
sink_zero_unmap(BdrvChild *file, int64_t offset, int64_t bytes)
{
    int ret = 0;

    while (bytes && ret >= 0) {
        int64_t n = 0;
        int is = bdrv_co_block_status_above(file->bs, NULL, offset, bytes, &n,
                                            NULL, NULL);

        if (is < 0 || n <= 0) {
            is = 0;
            n = bytes;
        }
        if (!(is & BDRV_BLOCK_ZERO)) {
            ret = bdrv_co_pwrite_zeroes(file, offset, n, BDRV_REQ_MAY_UNMAP);
        }
        offset += n;
        bytes -= n;
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
sink_entry(BdrvChild *file, const ReplicationEntry *entry, QEMUIOVector *qiov,
           size_t at, BdrvRequestFlags flags)
{
    int ret = 0;

    switch (entry->type) {
    case REPLICATION_ENTRY_WRITE:
        return bdrv_co_pwritev_part(file, entry->offset, entry->bytes, qiov,
                                    at, flags);
    case REPLICATION_ENTRY_ZERO:
        return bdrv_co_pwrite_zeroes(file, entry->offset, entry->bytes, 0);
    case REPLICATION_ENTRY_ZERO_UNMAP:
        return sink_zero_unmap(file, entry->offset, entry->bytes);
    case REPLICATION_ENTRY_DISCARD:
        /* It is a hint */
        ret = bdrv_co_pdiscard(file, entry->offset, entry->bytes);
        return ret == -ENOTSUP ? 0 : ret;
    case REPLICATION_ENTRY_FLUSH:
    case REPLICATION_ENTRY_RESYNC_BEGIN:
    case REPLICATION_ENTRY_RESYNC_END:
    case REPLICATION_ENTRY_GROW:
    case REPLICATION_ENTRY_COMMON:
    case REPLICATION_ENTRY_MARK:
        break;
    }
    g_assert_not_reached();
}

/* The request of the batch has the graph lock until this has ended */
static int coroutine_fn GRAPH_RDLOCK task_run(SinkTask *t)
{
    return sink_entry(t->bs->file, &t->entry, t->qiov, t->at, 0);
}

static void coroutine_fn task_entry(void *opaque)
{
    SinkTask *t = opaque;
    SinkState *s = t->bs->opaque;
    int ret;

    assume_graph_lock(); /* see above */
    ret = task_run(t);
    QEMU_LOCK_GUARD(&s->lock);
    if (ret < 0) {
        s->failed |= t->of->was_held || t->of->batch.session == s->session;
        t->of->ret = t->of->ret ?: ret;
    }
    QLIST_REMOVE(t, next);
    s->n_tasks--;
    t->of->n_tasks--;
    qemu_co_queue_restart_all(&s->ended);
    g_free(t);
}

static bool overlaps_discard_locked(SinkState *s, int64_t offset,
                                    int64_t bytes)
{
    return s->discard_bytes && ranges_overlap(offset, bytes, s->discard_offset,
                                              s->discard_bytes);
}

static bool overlaps_locked(SinkState *s, const ReplicationEntry *entry)
{
    SinkTask *t;

    if (overlaps_discard_locked(s, entry->offset, entry->bytes)) {
        return true;
    }
    QLIST_FOREACH(t, &s->tasks, next) {
        if (ranges_overlap(entry->offset, entry->bytes, t->entry.offset,
                           t->entry.bytes)) {
            return true;
        }
    }
    return false;
}

/* Is it one that what is before and after it waits for? */
static bool is_barrier(const ReplicationEntry *entry)
{
    return entry->type == REPLICATION_ENTRY_FLUSH ||
           entry->type == REPLICATION_ENTRY_RESYNC_BEGIN ||
           entry->type == REPLICATION_ENTRY_RESYNC_END ||
           entry->type == REPLICATION_ENTRY_COMMON ||
           entry->type == REPLICATION_ENTRY_MARK;
}

/* Must @entry wait for others to end?  A barrier does for all of them. */
static bool must_wait_locked(SinkState *s, const ReplicationEntry *entry)
{
    if (is_barrier(entry)) {
        return s->n_tasks;
    }
    return s->n_tasks >= MAX_TASKS || overlaps_locked(s, entry);
}

/*
 * Wait until @entry of @b may begin.  False if nothing of it may any more.
 * *@lone: nothing else is under way.
 */
static bool coroutine_fn sink_wait(SinkState *s, const SinkBatch *b,
                                   const ReplicationEntry *entry, bool *lone)
{
    QEMU_LOCK_GUARD(&s->lock);
    while (!is_stale_locked(s, b) && must_wait_locked(s, entry)) {
        qemu_co_queue_wait(&s->ended, &s->lock);
    }
    *lone = !s->n_tasks;
    if (is_stale_locked(s, b)) {
        return false;
    }
    if (!is_barrier(entry) && entry->type != REPLICATION_ENTRY_DISCARD) {
        replication_discards_remove(&s->discards, entry->offset, entry->bytes);
    }
    return true;
}

/* Can a discard be made later? */
static bool sink_defer(SinkState *s, int64_t offset, int64_t bytes)
{
    QEMU_LOCK_GUARD(&s->lock);
    if (!s->disk || s->failed) {
        return false;
    }
    replication_discards_add(&s->discards, offset, bytes);
    return true;
}

/* A write that is in no batch: no discard may come after it */
static void coroutine_fn sink_keep(SinkState *s, int64_t offset, int64_t bytes)
{
    QEMU_LOCK_GUARD(&s->lock);
    if (bytes) {
        replication_discards_remove(&s->discards, offset, bytes);
    }
    while (overlaps_discard_locked(s, offset, bytes)) {
        qemu_co_queue_wait(&s->ended, &s->lock);
    }
}

/* Has the write @i the next flush all for itself? */
static bool has_own_flush(SinkState *s, const ReplicationBatch *batch,
                          unsigned i)
{
    return !qatomic_read(&s->dirty) &&
           batch->entries[i].type == REPLICATION_ENTRY_WRITE &&
           i + 1 < batch->n_entries &&
           batch->entries[i + 1].type == REPLICATION_ENTRY_FLUSH;
}

static void coroutine_fn start_task(BlockDriverState *bs, SinkBatch *of,
                                    const ReplicationEntry *entry,
                                    QEMUIOVector *qiov, size_t at)
{
    SinkState *s = bs->opaque;
    SinkTask *t = g_new0(SinkTask, 1);

    t->bs = bs;
    t->of = of;
    t->entry = *entry;
    t->qiov = qiov;
    t->at = at;
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        QLIST_INSERT_HEAD(&s->tasks, t, next);
        s->n_tasks++;
        of->n_tasks++;
    }
    qatomic_set(&s->dirty, true);
    qemu_coroutine_enter(qemu_coroutine_create(task_entry, t));
}

static int coroutine_fn GRAPH_RDLOCK sink_flush(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;
    int ret;

    if (!qatomic_xchg(&s->dirty, false)) {
        return 0;
    }
    ret = bdrv_co_flush(bs->file->bs);
    if (ret < 0) {
        qatomic_set(&s->dirty, true);
    }
    return ret;
}

/* A resync begins, say: what came before is on the disk for good by then */
static int coroutine_fn GRAPH_RDLOCK
sink_mark(BlockDriverState *bs, const ReplicationEntry *entry)
{
    SinkState *s = bs->opaque;
    int ret = sink_flush(bs);

    if (ret < 0) {
        return ret;
    }
    if (entry->type == REPLICATION_ENTRY_MARK) {
        QEMU_LOCK_GUARD(&s->lock);
        s->marked = entry->offset;
        return 0;
    }
    if (entry->type == REPLICATION_ENTRY_COMMON) {
        replication_target_name(bs->file->bs, entry->offset);
        return 0;
    }
    return replication_target_mark(bs->file->bs, entry);
}

/* A write that is flushed alone */
static int coroutine_fn GRAPH_RDLOCK
sink_write_lone(BlockDriverState *bs, const ReplicationEntry *entry,
                QEMUIOVector *qiov, size_t at)
{
    SinkState *s = bs->opaque;
    int ret = sink_entry(bs->file, entry, qiov, at, BDRV_REQ_FUA);

    if (ret < 0) {
        qatomic_set(&s->dirty, true);
    }
    return ret;
}

int coroutine_fn sink_begin_entries(BlockDriverState *bs, SinkBatch *b,
                                    QEMUIOVector *qiov, size_t at)
{
    SinkState *s = bs->opaque;
    int ret = 0;

    for (unsigned i = 0; i < b->batch.n_entries && ret >= 0; i++) {
        const ReplicationEntry *entry = &b->batch.entries[i];
        bool lone;

        if (entry->type == REPLICATION_ENTRY_GROW) {
            /* One that was held is known */
            ret = b->was_held ? 0 : sink_grow_entry(bs, entry);
            continue;
        }
        if (!sink_wait(s, b, entry, &lone)) {
            return -ECANCELED;
        }
        if (entry->type == REPLICATION_ENTRY_FLUSH) {
            ret = sink_flush(bs);
        } else if (is_barrier(entry)) {
            ret = sink_mark(bs, entry);
        } else if (entry->type == REPLICATION_ENTRY_DISCARD &&
                   sink_defer(s, entry->offset, entry->bytes)) {
            continue;
        } else if (lone && has_own_flush(s, &b->batch, i)) {
            ret = sink_write_lone(bs, entry, qiov, at);
        } else {
            start_task(bs, b, entry, qiov, at);
        }
        if (entry->type == REPLICATION_ENTRY_WRITE) {
            at += entry->bytes;
        }
    }
    return ret;
}

int coroutine_fn sink_wait_tasks(SinkState *s, SinkBatch *b, int ret)
{
    QEMU_LOCK_GUARD(&s->lock);
    while (b->n_tasks) {
        qemu_co_queue_wait(&s->ended, &s->lock);
    }
    return b->ret ?: ret;
}

/* Its turn */

/* Let those that wait look again.  BQL, no coroutine. */
static void sink_wake_locked(SinkState *s)
{
    /* Each drops the lock, and may wait again */
    unsigned n = s->n_waiting;

    while (n-- && qemu_co_enter_next(&s->turn, &s->lock)) {
        ;
    }
}

/* Wait until it is the turn of @b.  Negative errno if it will not be. */
static int coroutine_fn sink_begin(BlockDriverState *bs, const SinkBatch *b)
{
    const ReplicationBatch *batch = &b->batch;
    SinkState *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->lock);
    if (batch->number == 1 && batch->session != s->session) {
        /* Another primary, or the same with another node */
        s->session = batch->session;
        s->next = 1;
        s->failed = false;
        s->marked = 0;
        /* Nobody knows what others have written since */
        qatomic_set(&s->dirty, true);
        qemu_co_queue_restart_all(&s->turn);
    }
    while (!is_stale_locked(s, b) &&
           (s->beginning || batch->number != s->next)) {
        if (!s->beginning && qatomic_read(&bs->quiesce_counter)) {
            return -ECANCELED;
        }
        if (!s->beginning && !timer_pending(s->missing)) {
            timer_mod(s->missing, MISSING_MS +
                      qemu_clock_get_ms(QEMU_CLOCK_REALTIME));
        }
        s->n_waiting++;
        qemu_co_queue_wait(&s->turn, &s->lock);
        s->n_waiting--;
    }
    if (is_stale_locked(s, b)) {
        return -EIO;
    }
    timer_del(s->missing);
    s->beginning = true;
    return 0;
}

/* Its entries have begun: on to the next one */
static void coroutine_fn sink_end(SinkState *s, const ReplicationBatch *batch,
                                  int ret)
{
    QEMU_LOCK_GUARD(&s->lock);
    s->beginning = false;
    if (batch->session == s->session) {
        s->next = batch->number + 1;
        s->failed |= ret < 0;
    }
    qemu_co_queue_restart_all(&s->turn);
}

/* One cannot even begin: those that come after it need not wait */
static void coroutine_fn sink_fail(SinkState *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    s->failed = true;
    qemu_co_queue_restart_all(&s->turn);
}

/*
 * The session is over.  What begins from now on is discarded at once, what waits
 * for that never, and the disk gets no longer.
 */
static void sink_forget_locked(SinkState *s)
{
    s->disk = NULL;
    s->committed = s->grown = 0;
    replication_discards_clear(&s->discards);
}

static void sink_give_up(SinkState *s)
{
    RedoStore *redo = qatomic_read(&s->redo);

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->failed = true;
        sink_forget_locked(s);
        sink_wake_locked(s);
    }
    if (redo) {
        redo_close(redo);
    }
}

static void sink_missing(void *opaque)
{
    sink_give_up(opaque);
}

/*
 * The primary ends the session and says which node; who looks after this host
 * has to know which disk.  Once a session.
 */
static void coroutine_fn GRAPH_RDLOCK
report_failure(BlockDriverState *bs, const ReplicationBatch *batch, int ret)
{
    SinkState *s = bs->opaque;
    g_autofree char *text = NULL;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        if (s->reported == batch->session) {
            return;
        }
        s->reported = batch->session;
    }
    text = g_strdup_printf("disk '%s' does not take what the primary has "
                           "written: %s",
                           replication_user_name_locked(bs->file->bs),
                           strerror(-ret));
    error_report("%s", text);
    qapi_event_send_colo_disk_error(text);
}

/* What is still held after a session is older than what comes now */
static int coroutine_fn GRAPH_RDLOCK settle_first(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    return qatomic_read(&s->mode) == SINK_SETTLES ? replication_sink_settle(bs)
                                                  : 0;
}

static int coroutine_fn GRAPH_RDLOCK
sink_batch(BlockDriverState *bs, int64_t bytes, QEMUIOVector *qiov)
{
    size_t size = MIN(bytes, replication_batch_size(REPLICATION_BATCH_ENTRIES));
    g_autofree SinkBatch *b = g_new0(SinkBatch, 1);
    g_autofree uint8_t *buf = g_malloc(size);
    int64_t length = disk_length(bs);
    int ret;

    if (length < 0) {
        sink_fail(bs->opaque);
        return length;
    }
    qemu_iovec_to_buf(qiov, 0, buf, size);
    if (!replication_batch_unpack(&b->batch, buf, size, bytes, length)) {
        sink_fail(bs->opaque);
        return -EINVAL;
    }
    ret = sink_begin(bs, b);
    if (ret >= 0) {
        size = replication_batch_size(b->batch.n_entries);
        if (sink_holds(bs->opaque)) {
            ret = sink_hold(bs, b->batch.entries, b->batch.n_entries, qiov,
                            size);
        } else {
            ret = settle_first(bs);
            if (ret >= 0) {
                ret = sink_begin_entries(bs, b, qiov, size);
            }
        }
        sink_end(bs->opaque, &b->batch, ret);
        ret = sink_wait_tasks(bs->opaque, b, ret);
        if (ret < 0 && ret != -ECANCELED) {
            report_failure(bs, &b->batch, ret);
        }
        trace_replication_sink_batch(bdrv_get_node_name(bs), b->batch.number,
                                     b->batch.n_entries, ret);
    }
    return ret;
}

/* Requests */

/* A request that is no batch has ended */
static void sink_is_dirty(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    qatomic_set(&s->dirty, true);
}

static int coroutine_fn GRAPH_RDLOCK sink_co_flush(BlockDriverState *bs)
{
    int ret;

    if (sink_holds(bs->opaque)) {
        return sink_hold_one(bs, REPLICATION_ENTRY_FLUSH, 0, 0, NULL, false);
    }
    ret = settle_first(bs);
    return ret < 0 ? ret : bdrv_co_flush(bs->file->bs);
}

static int coroutine_fn GRAPH_RDLOCK
sink_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    SinkState *s = bs->opaque;
    int ret;

    if (offset == s->window) {
        ret = sink_batch(bs, bytes, qiov);
        if (ret >= 0 && (flags & BDRV_REQ_FUA)) {
            /* Others may write meanwhile: there is still what to flush */
            ret = sink_co_flush(bs);
        }
        return ret;
    }
    if (offset == s->window + REPLICATION_GROW_AT &&
        bytes == REPLICATION_GROW_SIZE) {
        return sink_grow_ask(bs, qiov);
    }
    if (offset == s->window + REPLICATION_VIEW_AT &&
        bytes == REPLICATION_VIEW_SIZE) {
        return sink_view_ask(bs, qiov);
    }
    if (offset + bytes > s->window) {
        return -EINVAL;
    }
    if (sink_holds(bs->opaque)) {
        return sink_hold_one(bs, REPLICATION_ENTRY_WRITE, offset, bytes, qiov,
                             flags & BDRV_REQ_FUA);
    }
    ret = settle_first(bs);
    if (ret < 0) {
        return ret;
    }
    sink_keep(bs->opaque, offset, bytes);
    ret = bdrv_co_pwritev(bs->file, offset, bytes, qiov, flags);
    sink_is_dirty(bs);
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
sink_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      BdrvRequestFlags flags)
{
    SinkState *s = bs->opaque;
    int ret;

    if (offset + bytes > s->window) {
        return -EINVAL;
    }
    if (sink_holds(bs->opaque)) {
        return sink_hold_one(bs, flags & BDRV_REQ_MAY_UNMAP
                             ? REPLICATION_ENTRY_ZERO_UNMAP
                             : REPLICATION_ENTRY_ZERO, offset, bytes, NULL,
                             flags & BDRV_REQ_FUA);
    }
    ret = settle_first(bs);
    if (ret < 0) {
        return ret;
    }
    sink_keep(bs->opaque, offset, bytes);
    ret = bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);
    sink_is_dirty(bs);
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
sink_co_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    SinkState *s = bs->opaque;
    int ret;

    if (offset + bytes > s->window) {
        return -EINVAL;
    }
    if (sink_holds(bs->opaque)) {
        return sink_hold_one(bs, REPLICATION_ENTRY_DISCARD, offset, bytes, NULL,
                             false);
    }
    ret = settle_first(bs);
    if (ret < 0) {
        return ret;
    }
    if (bytes && sink_defer(bs->opaque, offset, bytes)) {
        return 0;
    }
    ret = bdrv_co_pdiscard(bs->file, offset, bytes);
    sink_is_dirty(bs);
    return ret;
}

static uint64_t sink_marked(SinkState *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    return s->marked;
}

static int coroutine_fn GRAPH_RDLOCK
sink_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
               QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    SinkState *s = bs->opaque;
    int64_t of_disk = MIN(MAX(s->window - offset, 0), bytes);
    int64_t at = offset + of_disk - s->window;
    int ret = 0;

    if (of_disk < bytes) {
        ret = sink_read_window(bs, at, bytes - of_disk, qiov, of_disk);
    }
    if (of_disk < bytes && ret >= 0 && at < REPLICATION_GROW_AT) {
        replication_target_window(bs->file->bs, sink_marked(s), at,
                                  MIN(bytes - of_disk,
                                      REPLICATION_GROW_AT - at), qiov, of_disk);
    }
    return ret < 0 || !of_disk ? ret : sink_read(bs, offset, of_disk, qiov);
}

static int64_t coroutine_fn GRAPH_RDLOCK
sink_co_getlength(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    return s->window + REPLICATION_WINDOW;
}

static void sink_refresh_limits(BlockDriverState *bs, Error **errp)
{
    /* The disk's are seen to when a batch has been taken apart */
    bs->bl.request_alignment = 1;
    bs->bl.max_transfer = 0;
}

/* The life of the node */

static void sink_child_perm(BlockDriverState *bs, BdrvChild *c,
                            BdrvChildRole role, BlockReopenQueue *reopen_queue,
                            uint64_t perm, uint64_t shared,
                            uint64_t *nperm, uint64_t *nshared)
{
    SinkState *s = bs->opaque;

    /* Just what an export of the disk itself would have */
    *nperm = perm & ~BLK_PERM_RESIZE;
    *nshared = shared;
    if (s->resizes) {
        *nperm |= BLK_PERM_WRITE | BLK_PERM_CONSISTENT_READ | BLK_PERM_RESIZE;
    }
    if (qatomic_read(&s->mode) != SINK_DIRECT) {
        *nperm |= BLK_PERM_WRITE | BLK_PERM_CONSISTENT_READ;
    }
    if (sink_holds(s)) {
        /* What others wrote would be there before its commit */
        *nshared &= ~(BLK_PERM_WRITE | BLK_PERM_RESIZE);
    }
}

/* Who makes an image of another format in it would do so under the guest */
static int sink_check_perm(BlockDriverState *bs, uint64_t perm, uint64_t shared,
                           Error **errp)
{
    if (perm & BLK_PERM_RESIZE) {
        error_setg(errp, "Node '%s' is a replication-sink, which keeps its "
                   "length and format", bdrv_get_node_name(bs));
        return -EPERM;
    }
    return 0;
}

/* Maybe while the node is being opened */
static void sink_drain_begin(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    RedoStore *redo = qatomic_read(&s->redo);

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        if (!s->beginning) {
            /* Or they are woken, in their order, when that has ended */
            sink_wake_locked(s);
        }
    }
    if (redo) {
        redo_wake(redo);
    }
}

static void sink_drain_end(BlockDriverState *bs)
{
    sink_discard(bs);
    sink_settle_more(bs);
}

static void sink_close(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    redo_free(s->redo);
    qemu_cond_destroy(&s->settled_cond);
    replication_discards_clear(&s->discards);
    timer_free(s->missing);
    qemu_mutex_destroy(&s->lock);
}

static int sink_open(BlockDriverState *bs, QDict *options, int flags,
                     Error **errp)
{
    SinkState *s = bs->opaque;
    int ret;

    qemu_mutex_init(&s->lock);
    qemu_co_queue_init(&s->turn);
    qemu_co_queue_init(&s->ended);
    qemu_co_queue_init(&s->settled);
    qemu_cond_init(&s->settled_cond);
    QLIST_INIT(&s->tasks);
    s->missing = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                               SCALE_MS, sink_missing, s);
    ret = bdrv_open_file_child(NULL, options, "file", bs, errp);
    if (ret < 0) {
        sink_close(bs);
        return ret;
    }
    s->window = bdrv_getlength(bs->file->bs);
    if (s->window < 0) {
        error_setg_errno(errp, -s->window, "cannot tell the length of '%s'",
                         bdrv_get_node_name(bs->file->bs));
        ret = s->window;
        sink_close(bs);
        return ret;
    }
    s->dirty = true;
    bs->supported_write_flags = BDRV_REQ_FUA;
    bs->supported_zero_flags = BDRV_REQ_FUA | BDRV_REQ_MAY_UNMAP;
    return 0;
}

static BlockDriver bdrv_replication_sink = {
    .format_name                = "replication-sink",
    .instance_size              = sizeof(SinkState),

    .bdrv_open                  = sink_open,
    .bdrv_close                 = sink_close,
    .bdrv_check_perm            = sink_check_perm,
    .bdrv_child_perm            = sink_child_perm,
    .bdrv_refresh_limits        = sink_refresh_limits,

    .bdrv_co_getlength          = sink_co_getlength,
    .bdrv_co_preadv             = sink_co_preadv,
    .bdrv_co_pwritev            = sink_co_pwritev,
    .bdrv_co_pwrite_zeroes      = sink_co_pwrite_zeroes,
    .bdrv_co_pdiscard           = sink_co_pdiscard,
    .bdrv_co_flush              = sink_co_flush,

    .bdrv_drain_begin           = sink_drain_begin,
    .bdrv_drain_end             = sink_drain_end,
};

bool replication_is_sink(BlockDriverState *bs)
{
    return bs->drv == &bdrv_replication_sink;
}

void GRAPH_RDLOCK replication_sink_give_up(BlockDriverState *bs)
{
    BdrvChild *c;

    if (replication_is_sink(bs)) {
        sink_give_up(bs->opaque);
        return;
    }
    QLIST_FOREACH(c, &bs->children, next) {
        replication_sink_give_up(c->bs);
    }
}

/* In a session of the secondary; BQL, no coroutine */

typedef bool SinkFunc(BlockDriverState *sink, BlockDriverState *disk);

/* Call @func for each sink above @bs; does it return true for any? */
static bool GRAPH_RDLOCK for_sinks(BlockDriverState *bs, BlockDriverState *disk,
                                   SinkFunc *func)
{
    bool any = false;
    BdrvChild *c;

    QLIST_FOREACH(c, &bs->parents, next_parent) {
        BlockDriverState *parent = c->klass->parent_is_bds ? c->opaque : NULL;

        if (parent && replication_is_sink(parent)) {
            any |= func(parent, disk);
        } else if (parent && bdrv_filter_bs(parent) == bs) {
            any |= for_sinks(parent, disk, func);
        }
    }
    return any;
}

static bool sink_commit(BlockDriverState *bs, BlockDriverState *disk)
{
    SinkState *s = bs->opaque;
    int64_t length = bdrv_getlength(disk);

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        sink_grow_commit_locked(s, length);
        if (!s->failed) {
            s->disk = disk;
            replication_discards_commit(&s->discards);
        }
    }
    sink_discard(bs);
    return true;
}

static bool sink_forget(BlockDriverState *bs, BlockDriverState *disk)
{
    SinkState *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->lock);
    sink_forget_locked(s);
    return true;
}

static bool sink_is_discarding(BlockDriverState *bs, BlockDriverState *disk)
{
    SinkState *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->lock);
    return s->discarding;
}

static bool is_discarding(BlockDriverState *disk)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return for_sinks(disk, disk, sink_is_discarding);
}

void replication_sink_commit(BlockDriverState *disk)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    for_sinks(disk, disk, sink_commit);
}

void replication_sink_end_session(BlockDriverState *disk)
{
    bdrv_graph_rdlock_main_loop();
    for_sinks(disk, disk, sink_forget);
    bdrv_graph_rdunlock_main_loop();
    AIO_WAIT_WHILE_UNLOCKED(NULL, is_discarding(disk));
}

static void bdrv_replication_sink_init(void)
{
    bdrv_register(&bdrv_replication_sink);
}

block_init(bdrv_replication_sink_init);
