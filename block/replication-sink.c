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
 * (replication-batch.h).  What is behind the disk's end is the window that
 * takes them; up to there the node is the disk, so that whoever does not know
 * of batches may use it as well.
 *
 * Batches are applied one at a time, in the order of their numbers; the primary
 * sends the next ones meanwhile.  In a batch the writes up to a flush run
 * together, but for those that overlap: what follows a flush is on the disk
 * only if what came before it is there for good, just as if each had been a
 * request of its own.  A write that has a flush all for itself is made with
 * FUA.
 *
 * A batch that fails is answered so, and no later one of the same session is
 * applied.  The primary then ends the session.  When this side takes over, what
 * is left of the batches is given up: the next checkpoint would have had it.
 *
 * A batch whose predecessor is missing waits for it.  Requests reach us in
 * their order but for a moment at the end of a drain, so it will come, or
 * something is wrong: after MISSING_MS the session has failed.  Who drains is
 * not kept waiting, then such a batch fails at once.
 *
 * Threads: requests in any, the rest under the BQL.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/coroutine.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "qemu/module.h"
#include "qemu/range.h"
#include "qemu/timer.h"
#include "block/aio_task.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "trace.h"
#include "replication-batch.h"
#include "replication-int.h"

/* Writes of a batch that are under way at a time */
#define MAX_TASKS 16

/* How long a batch waits for one that has not come, ms */
#define MISSING_MS 1000

typedef struct SinkState {
    QEMUTimer *missing;         /* set once */
    QemuMutex lock;
    /* All below: lock */
    uint64_t session;           /* of the batches that are applied now */
    uint64_t next;              /* the number of the next one */
    bool failed;                /* the session: no more is applied */
    bool applying;
    CoQueue turn;               /* batches that cannot be applied yet */
    unsigned n_waiting;         /* in turn */

    bool dirty;                 /* maybe there is what to flush; atomic */
} SinkState;

typedef struct SinkTask {
    AioTask task;
    BdrvChild *file;
    ReplicationEntry entry;
    QEMUIOVector *qiov;         /* of the whole request */
    size_t at;                  /* where the data is in it */
} SinkTask;

/* Where the window begins */
static int64_t coroutine_fn GRAPH_RDLOCK disk_length(BlockDriverState *bs)
{
    return bdrv_co_getlength(bs->file->bs);
}

/* A batch is applied */

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
        return bdrv_co_pwrite_zeroes(file, entry->offset, entry->bytes,
                                     BDRV_REQ_MAY_UNMAP);
    case REPLICATION_ENTRY_DISCARD:
        /* It is a hint */
        ret = bdrv_co_pdiscard(file, entry->offset, entry->bytes);
        return ret == -ENOTSUP ? 0 : ret;
    case REPLICATION_ENTRY_FLUSH:
        break;
    }
    g_assert_not_reached();
}

/* sink_apply() has the graph lock until this has ended */
static int coroutine_fn GRAPH_RDLOCK sink_task_entry(AioTask *task)
{
    SinkTask *t = container_of(task, SinkTask, task);

    return sink_entry(t->file, &t->entry, t->qiov, t->at, 0);
}

/* Does entry @i overlap with one from @first on? */
static bool overlaps(const ReplicationBatch *batch, unsigned first, unsigned i)
{
    const ReplicationEntry *entry = &batch->entries[i];

    for (unsigned k = first; k < i; k++) {
        const ReplicationEntry *other = &batch->entries[k];

        if (ranges_overlap(entry->offset, entry->bytes, other->offset,
                           other->bytes)) {
            return true;
        }
    }
    return false;
}

/* Has the write @i the next flush all for itself? */
static bool is_lone(SinkState *s, const ReplicationBatch *batch,
                    unsigned first, unsigned i)
{
    return i == first && !qatomic_read(&s->dirty) &&
           batch->entries[i].type == REPLICATION_ENTRY_WRITE &&
           i + 1 < batch->n_entries &&
           batch->entries[i + 1].type == REPLICATION_ENTRY_FLUSH;
}

static void coroutine_fn start_task(AioTaskPool *pool, BlockDriverState *bs,
                                    const ReplicationEntry *entry,
                                    QEMUIOVector *qiov, size_t at)
{
    SinkTask *t = g_new0(SinkTask, 1);

    t->task.func = sink_task_entry;
    t->file = bs->file;
    t->entry = *entry;
    t->qiov = qiov;
    t->at = at;
    aio_task_pool_start_task(pool, &t->task);
}

/* Has somebody given the session up meanwhile? */
static bool sink_has_failed(SinkState *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    return s->failed;
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

static int coroutine_fn GRAPH_RDLOCK
sink_apply_entries(BlockDriverState *bs, const ReplicationBatch *batch,
                   QEMUIOVector *qiov, AioTaskPool *pool)
{
    SinkState *s = bs->opaque;
    size_t at = replication_batch_size(batch->n_entries);
    unsigned first = 0;     /* nothing before it is under way */
    int ret = 0;

    for (unsigned i = 0; i < batch->n_entries && ret >= 0; i++) {
        const ReplicationEntry *entry = &batch->entries[i];

        if (entry->type == REPLICATION_ENTRY_FLUSH ||
            overlaps(batch, first, i)) {
            aio_task_pool_wait_all(pool);
            ret = aio_task_pool_status(pool);
            first = i;
        }
        if (ret >= 0 && sink_has_failed(s)) {
            ret = -ECANCELED;
        }
        if (ret < 0) {
            break;
        }
        if (entry->type == REPLICATION_ENTRY_FLUSH) {
            ret = sink_flush(bs);
            first = i + 1;
        } else if (is_lone(s, batch, first, i)) {
            ret = sink_write_lone(bs, entry, qiov, at);
        } else {
            qatomic_set(&s->dirty, true);
            start_task(pool, bs, entry, qiov, at);
        }
        if (entry->type == REPLICATION_ENTRY_WRITE) {
            at += entry->bytes;
        }
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
sink_apply(BlockDriverState *bs, const ReplicationBatch *batch,
           QEMUIOVector *qiov)
{
    AioTaskPool *pool = aio_task_pool_new(MAX_TASKS);
    int ret = sink_apply_entries(bs, batch, qiov, pool);

    aio_task_pool_wait_all(pool);
    if (ret >= 0) {
        ret = aio_task_pool_status(pool);
    }
    aio_task_pool_free(pool);
    trace_replication_sink_batch(bdrv_get_node_name(bs), batch->number,
                                 batch->n_entries, ret);
    return ret;
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

/* Is the batch one that will never be applied? */
static bool is_stale_locked(SinkState *s, const ReplicationBatch *batch)
{
    return batch->session != s->session || batch->number < s->next ||
           s->failed;
}

/* Wait until @batch may be applied.  Negative errno if it may not. */
static int coroutine_fn sink_begin(BlockDriverState *bs,
                                   const ReplicationBatch *batch)
{
    SinkState *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->lock);
    if (batch->number == 1 && batch->session != s->session) {
        /* Another primary, or the same with another node */
        s->session = batch->session;
        s->next = 1;
        s->failed = false;
        /* Nobody knows what others have written since */
        qatomic_set(&s->dirty, true);
        qemu_co_queue_restart_all(&s->turn);
    }
    while (!is_stale_locked(s, batch) &&
           (s->applying || batch->number != s->next)) {
        if (!s->applying && qatomic_read(&bs->quiesce_counter)) {
            return -ECANCELED;
        }
        if (!s->applying && !timer_pending(s->missing)) {
            timer_mod(s->missing, MISSING_MS +
                      qemu_clock_get_ms(QEMU_CLOCK_REALTIME));
        }
        s->n_waiting++;
        qemu_co_queue_wait(&s->turn, &s->lock);
        s->n_waiting--;
    }
    if (is_stale_locked(s, batch)) {
        return -EIO;
    }
    timer_del(s->missing);
    s->applying = true;
    return 0;
}

static void coroutine_fn sink_end(SinkState *s, const ReplicationBatch *batch,
                                  int ret)
{
    QEMU_LOCK_GUARD(&s->lock);
    s->applying = false;
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

static void sink_give_up(SinkState *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    s->failed = true;
    sink_wake_locked(s);
}

static void sink_missing(void *opaque)
{
    sink_give_up(opaque);
}

static int coroutine_fn GRAPH_RDLOCK
sink_batch(BlockDriverState *bs, int64_t bytes, QEMUIOVector *qiov)
{
    size_t size = MIN(bytes, replication_batch_size(REPLICATION_BATCH_ENTRIES));
    g_autofree ReplicationBatch *batch = g_new(ReplicationBatch, 1);
    g_autofree uint8_t *buf = g_malloc(size);
    int64_t length = disk_length(bs);
    int ret;

    if (length < 0) {
        sink_fail(bs->opaque);
        return length;
    }
    qemu_iovec_to_buf(qiov, 0, buf, size);
    if (!replication_batch_unpack(batch, buf, size, bytes, length)) {
        sink_fail(bs->opaque);
        return -EINVAL;
    }
    ret = sink_begin(bs, batch);
    if (ret >= 0) {
        ret = sink_apply(bs, batch, qiov);
        sink_end(bs->opaque, batch, ret);
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

static int coroutine_fn GRAPH_RDLOCK
sink_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    int64_t length = disk_length(bs);
    int ret;

    if (length < 0) {
        return length;
    }
    if (offset == length) {
        ret = sink_batch(bs, bytes, qiov);
        return ret >= 0 && (flags & BDRV_REQ_FUA) ? sink_flush(bs) : ret;
    }
    if (offset + bytes > length) {
        return -EINVAL;
    }
    ret = bdrv_co_pwritev(bs->file, offset, bytes, qiov, flags);
    sink_is_dirty(bs);
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
sink_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      BdrvRequestFlags flags)
{
    int64_t length = disk_length(bs);
    int ret;

    if (length < 0) {
        return length;
    }
    if (offset + bytes > length) {
        return -EINVAL;
    }
    ret = bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);
    sink_is_dirty(bs);
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
sink_co_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    int64_t length = disk_length(bs);
    int ret;

    if (length < 0) {
        return length;
    }
    if (offset + bytes > length) {
        return -EINVAL;
    }
    ret = bdrv_co_pdiscard(bs->file, offset, bytes);
    sink_is_dirty(bs);
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
sink_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
               QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    int64_t length = disk_length(bs);
    uint8_t info[REPLICATION_SINK_INFO_SIZE];
    int64_t of_disk;

    if (length < 0) {
        return length;
    }
    of_disk = MIN(MAX(length - offset, 0), bytes);
    if (of_disk < bytes) {
        qemu_iovec_memset(qiov, of_disk, 0, bytes - of_disk);
    }
    if (offset <= length && offset + bytes > length) {
        replication_sink_info_pack(info, length);
        qemu_iovec_from_buf(qiov, of_disk, info,
                            MIN(sizeof(info), bytes - of_disk));
    }
    return of_disk ? bdrv_co_preadv_part(bs->file, offset, of_disk, qiov, 0, 0)
                   : 0;
}

static int64_t coroutine_fn GRAPH_RDLOCK
sink_co_getlength(BlockDriverState *bs)
{
    int64_t length = disk_length(bs);

    return length < 0 ? length : length + REPLICATION_WINDOW;
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
    /* Just what an export of the disk itself would have */
    *nperm = perm & ~BLK_PERM_RESIZE;
    *nshared = shared;
}

/* Maybe while the node is being opened */
static void sink_drain_begin(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->lock);
    if (!s->applying) {
        /* Or they are woken, in their order, when that is done */
        sink_wake_locked(s);
    }
}

static void sink_close(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

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
    s->missing = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                               SCALE_MS, sink_missing, s);
    ret = bdrv_open_file_child(NULL, options, "file", bs, errp);
    if (ret < 0) {
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
    .bdrv_child_perm            = sink_child_perm,
    .bdrv_refresh_limits        = sink_refresh_limits,

    .bdrv_co_getlength          = sink_co_getlength,
    .bdrv_co_preadv             = sink_co_preadv,
    .bdrv_co_pwritev            = sink_co_pwritev,
    .bdrv_co_pwrite_zeroes      = sink_co_pwrite_zeroes,
    .bdrv_co_pdiscard           = sink_co_pdiscard,

    .bdrv_drain_begin           = sink_drain_begin,
};

void GRAPH_RDLOCK replication_sink_give_up(BlockDriverState *bs)
{
    BdrvChild *c;

    if (bs->drv == &bdrv_replication_sink) {
        sink_give_up(bs->opaque);
        return;
    }
    QLIST_FOREACH(c, &bs->children, next) {
        replication_sink_give_up(c->bs);
    }
}

static void bdrv_replication_sink_init(void)
{
    bdrv_register(&bdrv_replication_sink);
}

block_init(bdrv_replication_sink_init);
