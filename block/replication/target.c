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
 * Threads: coroutines of the sink, in any.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "block/thread-pool.h"
#include "trace.h"
#include "generation.h"
#include "internal.h"

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
    if (w->begins) {
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
    }
    return ret;
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
