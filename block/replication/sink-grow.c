/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: what is in the window of a sink besides batches, secondary side:
 * what the node is, the question to make the disk longer, and what it has got.
 *
 * grow.c says what the primary asks, and why.  Here the disk gets the length
 * that it asks for, before anybody sees that.  To take the right to it is for
 * the main loop.  The request that asks does not wait for this: it holds the
 * graph lock, and a drain waits for it.  So it is answered at once, and the
 * primary reads again and again what has become of it.
 *
 * A disk can also get shorter again, but not than what has been committed or
 * told, if the primary's could not get longer.
 *
 * The entry of a batch that says that the guest's disk is longer only is a note
 * for the next commit.  Until then another question has to wait: at that commit
 * the disk has just the length that is committed.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "block/block-io.h"
#include "trace.h"
#include "sink-int.h"

/* What is looked at, and which bytes these are */
static int coroutine_fn GRAPH_RDLOCK read_view(BlockDriverState *bs,
                                               uint8_t *buf)
{
    SinkState *s = bs->opaque;
    QEMUIOVector data;
    ReplicationView view = { 0 };
    int64_t length = bdrv_co_getlength(bs->file->bs);

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        view = s->view;
    }
    if (length < 0 || view.offset + view.bytes > length) {
        return MIN(length, -EINVAL);
    }
    replication_view_pack(buf, &view);
    if (!view.bytes) {
        return 0;
    }
    qemu_iovec_init_buf(&data, buf + REPLICATION_VIEW_HEAD, view.bytes);
    return sink_read(bs, view.offset, view.bytes, &data);
}

int coroutine_fn sink_view_ask(BlockDriverState *bs, QEMUIOVector *qiov)
{
    SinkState *s = bs->opaque;
    uint8_t buf[REPLICATION_VIEW_HEAD];
    ReplicationView view;

    qemu_iovec_to_buf(qiov, 0, buf, sizeof(buf));
    if (!replication_view_unpack(&view, buf)) {
        return -EINVAL;
    }
    QEMU_LOCK_GUARD(&s->lock);
    s->view = view;
    return 0;
}

int coroutine_fn sink_read_window(BlockDriverState *bs, int64_t at,
                                  int64_t bytes, QEMUIOVector *qiov,
                                  size_t done)
{
    SinkState *s = bs->opaque;
    ReplicationSinkInfo info = { .window = s->window };
    g_autofree uint8_t *buf = g_malloc(REPLICATION_GROW_SIZE);
    int ret;

    qemu_iovec_memset(qiov, done, 0, bytes);
    if (at == 0) {
        info.length = bdrv_co_getlength(bs->file->bs);
        ret = info.length < 0
              ? info.length
              : replication_target_generation(bs->file->bs, &info);
        if (ret < 0) {
            return ret;
        }
        replication_sink_info_pack(buf, &info);
        qemu_iovec_from_buf(qiov, done, buf,
                            MIN(REPLICATION_SINK_INFO_SIZE, bytes));
    } else if (at == REPLICATION_GROW_AT) {
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            replication_grow_pack(buf, &s->grow);
        }
        qemu_iovec_from_buf(qiov, done, buf,
                            MIN(REPLICATION_GROW_SIZE, bytes));
    } else if (at == REPLICATION_VIEW_AT) {
        memset(buf, 0, REPLICATION_VIEW_SIZE);
        ret = read_view(bs, buf);
        if (ret < 0) {
            return ret;
        }
        qemu_iovec_from_buf(qiov, done, buf,
                            MIN(REPLICATION_VIEW_SIZE, bytes));
    }
    return 0;
}

/* The question has been answered.  Takes @err, NULL for success. */
static void answer(BlockDriverState *bs, Error *err)
{
    SinkState *s = bs->opaque;

    trace_replication_sink_grow(bdrv_get_node_name(bs), s->grow.length,
                                err ? error_get_pretty(err) : "done");
    QEMU_LOCK_GUARD(&s->lock);
    s->grow.state = err ? REPLICATION_GROW_FAILED : REPLICATION_GROW_DONE;
    pstrcpy(s->grow.reason, sizeof(s->grow.reason),
            err ? error_get_pretty(err) : "");
    error_free(err);
}

static bool set_right(BlockDriverState *bs, bool resizes, Error **errp)
{
    SinkState *s = bs->opaque;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    s->resizes = resizes;
    if (bdrv_child_refresh_perms(bs, bs->file, errp) < 0) {
        s->resizes = false;
        return false;
    }
    return true;
}

/* What became of it, for the main loop */
typedef struct SinkGrown {
    BlockDriverState *bs;
    Error *err;
} SinkGrown;

static void grown_bh(void *opaque)
{
    g_autofree SinkGrown *g = opaque;

    set_right(g->bs, false, NULL);
    answer(g->bs, g->err);
    bdrv_dec_in_flight(g->bs);
}

static void coroutine_fn grow_entry(void *opaque)
{
    BlockDriverState *bs = opaque;
    SinkState *s = bs->opaque;
    SinkGrown *g = g_new0(SinkGrown, 1);
    int64_t length = s->grow.length;

    g->bs = bs;
    WITH_GRAPH_RDLOCK_GUARD() {
        int ret = bdrv_co_truncate(bs->file, length, true, PREALLOC_MODE_OFF, 0,
                                   &g->err);

        if (ret >= 0 && bdrv_co_getlength(bs->file->bs) != length) {
            error_setg(&g->err, "it has got %" PRId64 " bytes",
                       bdrv_co_getlength(bs->file->bs));
        }
    }
    aio_bh_schedule_oneshot(qemu_get_aio_context(), grown_bh, g);
}

static bool check_bitmaps(BlockDriverState *bs, Error **errp)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return replication_check_bitmaps(bs->file->bs, errp);
}

/* The question is not changed as long as it has no answer */
static void grow_bh(void *opaque)
{
    BlockDriverState *bs = opaque;
    Error *err = NULL;

    if (check_bitmaps(bs, &err) && set_right(bs, true, &err)) {
        qemu_coroutine_enter(qemu_coroutine_create(grow_entry, bs));
        return;
    }
    answer(bs, err);
    bdrv_dec_in_flight(bs);
}

/* Can it be done?  If not, the answer is there. */
static bool may_grow_locked(SinkState *s, const ReplicationGrow *question)
{
    const char *reason = NULL;

    s->grow = *question;
    if (s->grown) {
        s->grow.state = REPLICATION_GROW_LATER;
        return false;
    }
    if (!s->committed) {
        reason = "it is not in a session";
    } else if (question->length < s->committed) {
        reason = "it cannot be made shorter in a session";
    }
    if (reason) {
        s->grow.state = REPLICATION_GROW_FAILED;
        pstrcpy(s->grow.reason, sizeof(s->grow.reason), reason);
    }
    return !reason;
}

int coroutine_fn sink_grow_ask(BlockDriverState *bs, QEMUIOVector *qiov)
{
    SinkState *s = bs->opaque;
    g_autofree uint8_t *buf = g_malloc(REPLICATION_GROW_SIZE);
    g_autofree ReplicationGrow *question = g_new(ReplicationGrow, 1);
    bool may = false;

    qemu_iovec_to_buf(qiov, 0, buf, REPLICATION_GROW_SIZE);
    if (!replication_grow_unpack(question, buf) || !question->number ||
        question->state != REPLICATION_GROW_ASKED ||
        !QEMU_IS_ALIGNED(question->length, BDRV_SECTOR_SIZE)) {
        return -EINVAL;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        if (s->grow.state == REPLICATION_GROW_ASKED) {
            return -EAGAIN;
        }
        may = may_grow_locked(s, question);
    }
    if (may) {
        bdrv_inc_in_flight(bs);
        aio_bh_schedule_oneshot(qemu_get_aio_context(), grow_bh, bs);
    }
    return 0;
}

int coroutine_fn sink_grow_entry(BlockDriverState *bs,
                                 const ReplicationEntry *entry)
{
    SinkState *s = bs->opaque;
    int64_t length = bdrv_co_getlength(bs->file->bs);

    QEMU_LOCK_GUARD(&s->lock);
    if (!s->committed || entry->offset < MAX(s->committed, s->grown) ||
        entry->offset > length) {
        return -EINVAL;
    }
    s->grown = entry->offset;
    return 0;
}

/* In a session of the secondary; BQL */

void sink_grow_commit_locked(SinkState *s, int64_t length)
{
    if (!s->committed) {
        s->committed = MAX(length, 0);
        s->grown = 0;
    } else if (s->grown) {
        s->committed = s->grown;
        s->grown = 0;
    }
}

int64_t replication_sink_grown(BlockDriverState *disk)
{
    int64_t grown = 0;
    BdrvChild *c;

    QLIST_FOREACH(c, &disk->parents, next_parent) {
        BlockDriverState *parent = c->klass->parent_is_bds ? c->opaque : NULL;

        if (parent && replication_is_sink(parent)) {
            SinkState *s = parent->opaque;

            QEMU_LOCK_GUARD(&s->lock);
            grown = MAX(grown, s->grown);
        } else if (parent && bdrv_filter_bs(parent) == disk) {
            grown = MAX(grown, replication_sink_grown(parent));
        }
    }
    return grown;
}
