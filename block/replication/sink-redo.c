/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: a sink whose writes wait for their commit, secondary side.
 *
 * The guest of the secondary stands (periodic mode), so nobody needs what the
 * primary overwrites: the sink holds what comes (redo.h) and says that it is
 * done.  A commit lets it be made on the disk, in its order and with its
 * flushes: the groups go through what a batch goes through that is not held.
 *
 * A few groups at a time are made, by whoever comes first: a coroutine of the
 * sink, in the background, or requests of the guest after a failover, which
 * need what is committed to be on the disk.  These make it themselves, as a
 * drained section waits for them, and the coroutine pauses in that; and they
 * have the graph lock, for which the coroutine may have to wait until they are
 * done.
 *
 * From its first session on a sink has a store, until it is closed.  Modes
 * (SinkMode) change under the BQL; requests may see the one of before.  While
 * it holds what comes nobody else may write to the disk.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/memalign.h"
#include "block/aio-wait.h"
#include "block/block-io.h"
#include "trace.h"
#include "sink-int.h"

/* Groups that are made at a time, in the order of their entries */
#define GROUPS_MAX 8

/* Hold */

int coroutine_fn GRAPH_RDLOCK
sink_hold(BlockDriverState *bs, const ReplicationEntry *entries,
          unsigned n_entries, QEMUIOVector *qiov, size_t at)
{
    SinkState *s = bs->opaque;

    for (unsigned i = 0; i < n_entries; i++) {
        if (entries[i].type == REPLICATION_ENTRY_RESYNC_BEGIN ||
            entries[i].type == REPLICATION_ENTRY_RESYNC_END ||
            entries[i].type == REPLICATION_ENTRY_COMMON) {
            return -EBUSY; /* not in a session */
        }
        if (entries[i].type == REPLICATION_ENTRY_GROW) {
            int ret = sink_grow_entry(bs, &entries[i]);

            if (ret < 0) {
                return ret;
            }
        }
    }
    return redo_hold(s->redo, bs, entries, n_entries, qiov, at);
}

int coroutine_fn GRAPH_RDLOCK
sink_hold_one(BlockDriverState *bs, ReplicationEntryType type, int64_t offset,
              int64_t bytes, QEMUIOVector *qiov, bool fua)
{
    ReplicationEntry entries[] = {
        { .type = type, .offset = offset, .bytes = bytes },
        { .type = REPLICATION_ENTRY_FLUSH },
    };

    if (!bytes && type != REPLICATION_ENTRY_FLUSH) {
        return 0;
    }
    return sink_hold(bs, entries, fua ? 2 : 1, qiov, 0);
}

int coroutine_fn sink_read(BlockDriverState *bs, int64_t offset, int64_t bytes,
                           QEMUIOVector *qiov)
{
    SinkState *s = bs->opaque;
    RedoStore *redo = qatomic_read(&s->redo);

    if (redo) {
        return redo_read(redo, false, bs->file, offset, bytes, qiov, 0);
    }
    return bdrv_co_preadv_part(bs->file, offset, bytes, qiov, 0, 0);
}

/* Make on the disk what is committed */

static bool is_busy_locked(SinkState *s)
{
    return !s->settle_err && redo_has_due(s->redo);
}

/* One of them */
typedef struct SinkGroup {
    RedoGroup *group;
    SinkBatch batch;
    QEMUIOVector qiov;
    uint8_t *buf;
    bool own;                   /* the memory at buf */
} SinkGroup;

/* The next groups, or 0 if there are none; negative errno if one has failed */
static int coroutine_fn take_groups(SinkState *s, RedoGroup **groups)
{
    int n;

    QEMU_LOCK_GUARD(&s->lock);
    while (s->settling) {
        qemu_co_queue_wait(&s->settled, &s->lock);
    }
    if (s->settle_err) {
        return s->settle_err;
    }
    n = redo_next(s->redo, groups, GROUPS_MAX);
    s->settling = n;
    return n;
}

static int coroutine_fn GRAPH_RDLOCK begin_group(BlockDriverState *bs,
                                                 SinkGroup *g)
{
    SinkState *s = bs->opaque;
    ReplicationBatch *batch = &g->batch.batch;
    const ReplicationEntry *entries = redo_entries(g->group,
                                                   &batch->n_entries);
    size_t bytes;
    int ret = redo_load(s->redo, g->group, &g->buf, &bytes, &g->own);

    if (ret < 0) {
        return ret;
    }
    memcpy(batch->entries, entries, batch->n_entries * sizeof(*entries));
    g->batch.was_held = true;
    qemu_iovec_init_buf(&g->qiov, g->buf, bytes);
    return sink_begin_entries(bs, &g->batch, &g->qiov, 0);
}

/*
 * If one fails all of them stay: those that have been made are made again, in
 * the same order.
 */
static int coroutine_fn GRAPH_RDLOCK make_groups(BlockDriverState *bs,
                                                 RedoGroup **groups, int n)
{
    SinkState *s = bs->opaque;
    g_autofree SinkGroup *made = g_new0(SinkGroup, n);
    int begun = 0;
    int ret = 0;

    while (begun < n && ret >= 0) {
        made[begun].group = groups[begun];
        ret = begin_group(bs, &made[begun++]);
    }
    for (int i = 0; i < begun; i++) {
        ret = sink_wait_tasks(s, &made[i].batch, ret);
        if (made[i].own) {
            qemu_vfree(made[i].buf);
        }
    }
    return ret;
}

/* @ret: what has become of them */
static void coroutine_fn end_groups(BlockDriverState *bs, RedoGroup **groups,
                                    int n, int ret)
{
    SinkState *s = bs->opaque;

    if (ret < 0) {
        redo_fail(s->redo, ret);
        n = 0;
    }
    for (int i = 0; i < n; i++) {
        redo_done(s->redo, groups[i]);
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->settling = false;
        if (ret < 0) {
            s->settle_err = ret;
            s->failed = true;
        }
        qemu_co_queue_restart_all(&s->settled);
        qemu_cond_broadcast(&s->settled_cond);
        if (s->settled_bh && !is_busy_locked(s)) {
            qemu_bh_schedule(s->settled_bh);
        }
    }
    aio_wait_kick();
}

/* Some groups, if any are left: 1.  0 or negative errno: no more. */
static int coroutine_fn GRAPH_RDLOCK settle_some(BlockDriverState *bs)
{
    RedoGroup *groups[GROUPS_MAX];
    int n = take_groups(bs->opaque, groups);

    if (n > 0) {
        end_groups(bs, groups, n, make_groups(bs, groups, n));
    }
    return n;
}

int coroutine_fn replication_sink_settle(BlockDriverState *bs)
{
    int ret;

    do {
        ret = settle_some(bs);
    } while (ret > 0);
    return ret;
}

static bool may_settle_locked(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    return is_busy_locked(s) &&
           (s->settle_drained || !qatomic_read(&bs->quiesce_counter));
}

static bool settler_goes_on(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->lock);
    s->settler_runs = may_settle_locked(bs);
    return s->settler_runs;
}

static void coroutine_fn settler_entry(void *opaque)
{
    BlockDriverState *bs = opaque;

    while (settler_goes_on(bs)) {
        GRAPH_RDLOCK_GUARD();
        settle_some(bs);
    }
    bdrv_dec_in_flight(bs);
}

void sink_settle_more(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    if (!s->redo) {
        return;
    }
    QEMU_LOCK_GUARD(&s->lock);
    if (!s->settler_runs && may_settle_locked(bs)) {
        s->settler_runs = true;
        bdrv_inc_in_flight(bs);
        aio_co_schedule(bdrv_get_aio_context(bs),
                        qemu_coroutine_create(settler_entry, bs));
    }
}

/* For the session of the secondary */

/* The only sink above @bs, with nothing but filters between them, in *@sink */
static unsigned GRAPH_RDLOCK find_sinks(BlockDriverState *bs,
                                        BlockDriverState **sink)
{
    unsigned n = 0;
    BdrvChild *c;

    QLIST_FOREACH(c, &bs->parents, next_parent) {
        BlockDriverState *parent = c->klass->parent_is_bds ? c->opaque : NULL;

        if (parent && replication_is_sink(parent)) {
            *sink = parent;
            n++;
        } else if (parent && bdrv_filter_bs(parent) == bs) {
            n += find_sinks(parent, sink);
        }
    }
    return n;
}

static bool set_mode(BlockDriverState *bs, SinkMode mode, Error **errp)
{
    SinkState *s = bs->opaque;
    SinkMode before = s->mode;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    qatomic_set(&s->mode, mode);
    if (bdrv_child_refresh_perms(bs, bs->file, errp) < 0) {
        qatomic_set(&s->mode, before);
        return false;
    }
    return true;
}

/* It has a store, from now on */
static bool make_store(BlockDriverState *bs, const char *folder, Error **errp)
{
    SinkState *s = bs->opaque;
    int fd;

    if (s->redo) {
        return true;
    }
    fd = redo_scratch(folder, errp);
    if (fd < 0) {
        return false;
    }
    qatomic_set(&s->redo, redo_new(fd));
    return true;
}

BlockDriverState *replication_sink_hold(BlockDriverState *disk,
                                        const char *folder, QEMUBH *settled,
                                        Error **errp)
{
    BlockDriverState *bs = NULL;
    SinkState *s;
    unsigned n;

    bdrv_graph_rdlock_main_loop();
    n = find_sinks(disk, &bs);
    bdrv_graph_rdunlock_main_loop();
    if (n != 1 || bs->open_flags & BDRV_O_INACTIVE) {
        error_setg(errp, "there is no way to it but by one replication-sink");
        return NULL;
    }
    if (!make_store(bs, folder, errp)) {
        return NULL;
    }
    s = bs->opaque;
    redo_begin(s->redo);
    if (!set_mode(bs, SINK_HOLDS, errp)) {
        redo_close(s->redo);
        return NULL;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->settle_err = 0;
        s->settled_bh = settled;
    }
    bdrv_ref(bs);
    return bs;
}

void replication_sink_commit_held(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    redo_commit(s->redo);
    sink_settle_more(bs);
}

void replication_sink_hold_no_more(BlockDriverState *bs, bool keep)
{
    SinkState *s = bs->opaque;

    redo_close(s->redo);
    if (!keep) {
        redo_drop(s->redo);
    } else {
        redo_commit(s->redo);
    }
    /* Fewer rights: cannot fail */
    set_mode(bs, SINK_SETTLES, NULL);
    sink_settle_more(bs);
}

int replication_sink_is_settled(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->lock);
    if (s->settle_err) {
        return s->settle_err;
    }
    return !s->settling && !is_busy_locked(s);
}

bool replication_sink_await_settled(BlockDriverState *bs, uint64_t timeout_ms)
{
    SinkState *s = bs->opaque;
    int64_t end = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + timeout_ms;

    QEMU_LOCK_GUARD(&s->lock);
    while (s->settling || is_busy_locked(s)) {
        int64_t left = end - qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

        if (left <= 0) {
            return false;
        }
        qemu_cond_timedwait(&s->settled_cond, &s->lock, left);
    }
    return true;
}

void replication_sink_settle_again(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    redo_fail(s->redo, 0);
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->settle_err = 0;
        if (s->settled_bh && !is_busy_locked(s)) {
            qemu_bh_schedule(s->settled_bh);
        }
    }
    sink_settle_more(bs);
}

static bool is_settling(SinkState *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    return s->settling || s->settler_runs || is_busy_locked(s);
}

bool replication_sink_settle_sync(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->settle_drained = true;
    }
    sink_settle_more(bs);
    AIO_WAIT_WHILE_UNLOCKED(NULL, is_settling(s));
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->settle_drained = false;
    }
    return replication_sink_is_settled(bs) > 0;
}

void replication_sink_unwatch(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->lock);
    s->settled_bh = NULL;
}

void replication_sink_release(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    redo_clear(s->redo);
    set_mode(bs, SINK_DIRECT, NULL);
    bdrv_unref(bs);
}

int coroutine_fn replication_sink_read_committed(BlockDriverState *bs,
                                                 BdrvChild *disk,
                                                 int64_t offset, int64_t bytes,
                                                 QEMUIOVector *qiov)
{
    SinkState *s = bs->opaque;

    return redo_read(s->redo, true, disk, offset, bytes, qiov, 0);
}

void replication_sink_held(BlockDriverState *bs, uint64_t *held,
                           uint64_t *in_file)
{
    SinkState *s = bs->opaque;

    redo_stats(s->redo, held, in_file);
}
