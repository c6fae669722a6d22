/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the disk that a resync writes to, secondary side.
 *
 * From the first byte of a resync to its last the disk is a mixture of what it
 * was and what the primary's is.  If the primary is lost meanwhile, or the user
 * gives the job up, nobody here would know.  So the primary sends, in the order
 * of its writes, that a resync begins and that it has completed (batch.h), and
 * the sink comes here with both:
 *
 *  - Before anything of the resync is written, or of the guest to a disk that
 *    needs one, the file of the disk's generation says 'inconsistent', for good.
 *    If the disk here is newer than that of the primary the resync is refused
 *    instead.
 *  - When all of it is on the disk for good the file says 'secondary', and has
 *    the primary's number.
 *
 * The file is that of the node for replication above the disk.  If it keeps
 * none, the node itself remembers, as long as it lives.
 *
 * Who writes to the disk in another way, a job of the primary's or a resync by
 * an export of the disk itself, says nothing of all that.  So while there is no
 * session the first such write makes the file say 'inconsistent', if it says
 * anything, before it is done.  Nobody says when all of it is there.  The
 * primary knows whether a resync of its own has completed, and refuses a
 * session if not; after that the session's record counts.
 *
 * Threads: coroutines of who writes, in any.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "block/thread-pool.h"
#include "trace.h"
#include "generation.h"
#include "intent.h"
#include "internal.h"

/* Nodes whose disk is looked after: secondaries out of sessions.  Atomic. */
static unsigned n_watched;

/* The secondary's node, above @bs, or NULL */
static BDRVReplicationState *GRAPH_RDLOCK find_secondary(BlockDriverState *bs)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &bs->parents, next_parent) {
        BlockDriverState *parent = c->klass->parent_is_bds ? c->opaque : NULL;
        BDRVReplicationState *s = parent ? replication_of(parent) : NULL;

        if (parent && (!s || s->mode != REPLICATION_MODE_SECONDARY)) {
            s = find_secondary(parent);
        }
        if (s) {
            return s;
        }
    }
    return NULL;
}

/* The path of its file; NULL for none.  To be freed. */
static char *GRAPH_RDLOCK generation_file_of(BDRVReplicationState *s)
{
    return s ? g_strdup(s->generation_file) : NULL;
}

/* Work for a thread of the pool */
typedef struct TargetWork {
    const char *path;
    bool begins;
    bool by_others;             /* the disk is written to without a sink */
    bool has_primary;
    ColoDiskGeneration primary; /* of the primary's disk */
    ColoDiskGeneration own;     /* read, and written */
} TargetWork;

static int target_load(void *opaque)
{
    TargetWork *w = opaque;
    Error *err = NULL;

    if (!replication_generation_load(w->path, &w->own, &err)) {
        error_report_err(err);
        return -EIO;
    }
    return 0;
}

static int target_record(void *opaque)
{
    TargetWork *w = opaque;
    Error *err = NULL;
    int ret = target_load(w);

    if (ret < 0) {
        return ret;
    }
    if (w->by_others && (w->own.role == COLO_DISK_ROLE_NEW ||
                         w->own.role == COLO_DISK_ROLE_INCONSISTENT)) {
        return 0;
    }
    if (w->by_others) {
        warn_report("what is on the disk of '%s' is overwritten, and not by "
                    "way of a replication-sink: it is inconsistent now",
                    w->path);
        w->own.role = COLO_DISK_ROLE_INCONSISTENT;
    } else if (w->begins) {
        if (replication_generation_is_newer(&w->own, w->has_primary
                                                     ? &w->primary : NULL)) {
            error_report("a resync is refused: the disk of '%s' is newer than "
                         "that of the primary", w->path);
            return -EPERM;
        }
        w->own.role = COLO_DISK_ROLE_INCONSISTENT;
    } else {
        w->own.role = COLO_DISK_ROLE_SECONDARY;
        if (w->has_primary) {
            w->own.number = w->primary.number;
        }
    }
    if (!replication_generation_store(w->path, &w->own, &err)) {
        error_report_err(err);
        return -EIO;
    }
    return 0;
}

int coroutine_fn replication_target_mark(BlockDriverState *disk,
                                         const ReplicationEntry *entry)
{
    /* The graph lock keeps it from being freed while we wait */
    BDRVReplicationState *s = find_secondary(disk);
    g_autofree char *path = generation_file_of(s);
    TargetWork w = {
        .path = path,
        .begins = entry->type == REPLICATION_ENTRY_RESYNC_BEGIN,
    };
    int ret = 0;

    w.has_primary = replication_entry_generation(entry, &w.primary);
    if (path) {
        ret = thread_pool_submit_co(target_record, &w);
    }
    trace_replication_target_mark(path, w.begins, ret);
    if (ret >= 0 && s) {
        qatomic_set(&s->inconsistent, w.begins);
        /* The file says something else now */
        qatomic_set(&s->overwritten, false);
    }
    return ret;
}

void replication_target_watch(BDRVReplicationState *s, bool watch)
{
    if (watch && !s->watched) {
        qatomic_set(&s->overwritten, false);
        qatomic_inc(&n_watched);
    } else if (!watch && s->watched) {
        qatomic_dec(&n_watched);
    }
    s->watched = watch;
}

/* Does what comes by @child come from a sink, whatever filters are between? */
static bool GRAPH_RDLOCK is_of_sink(BdrvChild *child)
{
    BlockDriverState *parent = child->klass->parent_is_bds ? child->opaque
                                                           : NULL;
    BdrvChild *c;

    if (!parent || replication_is_sink(parent)) {
        return parent;
    }
    if (parent->drv && parent->drv->is_filter) {
        QLIST_FOREACH(c, &parent->parents, next_parent) {
            if (is_of_sink(c)) {
                return true;
            }
        }
    }
    return false;
}

int coroutine_fn replication_before_write(BdrvChild *child)
{
    BDRVReplicationState *s;
    g_autofree char *path = NULL;
    TargetWork w = { .by_others = true };
    int ret;

    if (!qatomic_read(&n_watched)) {
        return 0;
    }
    /* The graph lock keeps it, as above */
    s = find_secondary(child->bs);
    if (!s || replication_stage(s) != COLO_DISK_STAGE_IDLE ||
        child->bs != replication_disk(s) || qatomic_read(&s->overwritten) ||
        is_of_sink(child)) {
        return 0;
    }
    path = generation_file_of(s);
    if (!path) {
        return 0;
    }
    w.path = path;
    ret = thread_pool_submit_co(target_record, &w);
    trace_replication_target_mark(path, true, ret);
    if (ret >= 0) {
        qatomic_set(&s->overwritten, true);
    }
    return ret;
}

BlockDriverState *replication_target_intent(BlockDriverState *disk)
{
    BDRVReplicationState *s = find_secondary(disk);

    /* In a session there is a filter below the sink */
    while (!s && (disk = bdrv_filter_bs(disk))) {
        s = find_secondary(disk);
    }
    return s ? replication_intent_above(s->bs) : NULL;
}

void replication_target_name(BlockDriverState *disk, uint64_t name)
{
    BlockDriverState *intent = replication_target_intent(disk);

    if (intent) {
        replication_intent_name(intent, name);
    }
}

void replication_target_window(BlockDriverState *disk, uint64_t marked,
                               int64_t at, int64_t bytes, QEMUIOVector *qiov,
                               size_t skip)
{
    g_autofree uint8_t *buf = NULL;

    if (at < REPLICATION_INTENT_AT) {
        skip += REPLICATION_INTENT_AT - at;
        bytes -= REPLICATION_INTENT_AT - at;
        at = REPLICATION_INTENT_AT;
    }
    if (bytes > 0) {
        buf = g_malloc0(bytes);
        replication_intent_window(replication_target_intent(disk), marked, at,
                                  bytes, buf);
        qemu_iovec_from_buf(qiov, skip, buf, bytes);
    }
}

int coroutine_fn replication_target_generation(BlockDriverState *disk,
                                               ReplicationSinkInfo *info)
{
    g_autofree char *path = generation_file_of(find_secondary(disk));
    TargetWork w = { .path = path };
    int ret = 0;

    if (path) {
        ret = thread_pool_submit_co(target_load, &w);
    }
    info->has_generation = path != NULL;
    info->generation = w.own;
    return ret;
}
