/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the block driver, both sides.
 *
 * Here is what is the same for all nodes: options, stages, generations.  What
 * differs is in a table (ReplicationKind) for each kind of node, and each has
 * its theory of operation: primary.c, shared.c for the
 * primary of a shared disk, and secondary.c.
 *
 * Requests come in any thread.  All else, but settle and allow, is called
 * under the BQL.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/util.h"
#include "qemu/module.h"
#include "qemu/lockable.h"
#include "qemu/option.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "block/block-io.h"
#include "block/blockjob.h"
#include "trace.h"
#include "generation.h"
#include "intent.h"
#include "internal.h"
#include "job.h"

#define OPT_MODE "mode"
#define OPT_TOP_ID "top-id"
#define OPT_LOG_SIZE "log-size"
#define OPT_BATCH "batch"
#define OPT_GENERATION_FILE "generation-file"
#define OPT_SHARED_DISK "shared-disk"
#define OPT_CACHE_COHERENT "cache-coherent"
#define OPT_FOLD_SPEED "fold-speed"

#define LOG_SIZE_DEFAULT (64 * MiB)
#define LOG_SIZE_MIN (4 * MiB)
#define LOG_SIZE_MAX (4 * GiB)

/* What may follow each stage, bits */
static const unsigned next_stages[COLO_DISK_STAGE__MAX] = {
    [COLO_DISK_STAGE_IDLE] = BIT(COLO_DISK_STAGE_RUNNING) |
                               BIT(COLO_DISK_STAGE_STOPPED),
    [COLO_DISK_STAGE_RUNNING] = BIT(COLO_DISK_STAGE_IDLE) |
                                  BIT(COLO_DISK_STAGE_STOPPED) |
                                  BIT(COLO_DISK_STAGE_FOLDING) |
                                  BIT(COLO_DISK_STAGE_FOLDED) |
                                  BIT(COLO_DISK_STAGE_UNFOLDED),
    [COLO_DISK_STAGE_FOLDING] = BIT(COLO_DISK_STAGE_FOLDED) |
                                  BIT(COLO_DISK_STAGE_UNFOLDED),
    [COLO_DISK_STAGE_UNFOLDED] = BIT(COLO_DISK_STAGE_FOLDING),
};

static BlockDriver bdrv_replication;

static void watch_disk(BDRVReplicationState *s)
{
    replication_target_watch(s, s->mode == REPLICATION_MODE_SECONDARY &&
                             s->generation_file &&
                             s->stage == COLO_DISK_STAGE_IDLE);
}

void replication_set_stage(BDRVReplicationState *s, ColoDiskStage stage)
{
    assert(next_stages[s->stage] & BIT(stage));
    trace_replication_stage(replication_name(s), ColoDiskStage_str(s->stage),
                            ColoDiskStage_str(stage));
    qatomic_set(&s->stage, stage);
    watch_disk(s);
}

void replication_own_disk(BDRVReplicationState *s)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    s->owns_disk = true;
    if (bdrv_child_refresh_perms(s->bs, s->bs->file, NULL) < 0) {
        s->owns_disk = false;
    }
}

BDRVReplicationState *replication_of(BlockDriverState *bs)
{
    return bs->drv == &bdrv_replication ? bs->opaque : NULL;
}

bool replication_is_folded(BlockDriverState *bs)
{
    BDRVReplicationState *s = replication_of(bs);

    return s && s->stage == COLO_DISK_STAGE_FOLDED;
}

bool GRAPH_RDLOCK replication_is_above(BlockDriverState *bs,
                                       BlockDriverState *below)
{
    BdrvChild *c;

    if (bs == below) {
        return true;
    }
    QLIST_FOREACH(c, &bs->children, next) {
        if (replication_is_above(c->bs, below)) {
            return true;
        }
    }
    return false;
}

/* What the registry calls */

static BDRVReplicationState *driver_state(ReplicationState *rs)
{
    BlockDriverState *bs = rs->opaque;

    return bs->opaque;
}

static bool ignores(BDRVReplicationState *s, ReplicationMode role)
{
    return s->kind->ignores && s->kind->ignores(s, role);
}

static bool load_generation(BDRVReplicationState *s, ColoDiskGeneration *g,
                            Error **errp)
{
    if (!replication_generation_load(s->generation_file, g, errp)) {
        error_prepend(errp, "node '%s': ", replication_name(s));
        return false;
    }
    return true;
}

/* Has the last resync into the disk completed?  *@g: its generation, or zero. */
static bool check_consistent(BDRVReplicationState *s, ColoDiskGeneration *g,
                             Error **errp)
{
    *g = (ColoDiskGeneration) { .number = 0, .role = COLO_DISK_ROLE_NEW };
    if (s->generation_file && !load_generation(s, g, errp)) {
        return false;
    }
    if (!qatomic_read(&s->inconsistent) &&
        (g->role != COLO_DISK_ROLE_INCONSISTENT ||
         qatomic_read(&s->overwritten))) {
        return true; /* the primary knows what it has overwritten */
    }
    error_setg(errp, "node '%s': a resync into its disk has not completed, so "
               "that is a mixture of two: it needs an x-colo-resync from the "
               "other side that gets to its end, or a new copy%s",
               replication_name(s), s->generation_file
               ? " without the generation-file beside it" : "");
    return false;
}

bool replication_check_source(BDRVReplicationState *s, ColoDiskGeneration *g,
                              Error **errp)
{
    return check_consistent(s, g, errp);
}

static void replication_check(ReplicationState *rs, ReplicationMode mode,
                              Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);
    ColoDiskGeneration generation;

    if (ignores(s, mode)) {
        return;
    }
    replication_learn_name(s);
    if (s->mode != mode) {
        error_setg(errp, "node '%s' is the %s, it cannot start as the %s",
                   replication_name(s), ReplicationMode_str(s->mode),
                   ReplicationMode_str(mode));
        return;
    }
    if (s->stage != COLO_DISK_STAGE_IDLE) {
        error_setg(errp, "node '%s' is %s and cannot start%s",
                   replication_name(s), ColoDiskStage_str(s->stage),
                   s->stage == COLO_DISK_STAGE_STOPPED
                   ? ": remove it and add a new one" : "");
        return;
    }
    if (check_consistent(s, &generation, errp) && s->kind->check) {
        s->kind->check(s, errp);
    }
}

static void replication_start(ReplicationState *rs, ReplicationMode mode,
                              Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);

    if (!ignores(s, mode)) {
        s->reached = 0;
        s->kind->start(s, errp);
    }
}

static void replication_guest_stands(ReplicationState *rs, bool stands)
{
    driver_state(rs)->guest_stands = stands;
}

static void replication_stop(ReplicationState *rs, bool failover, Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);

    if (s->stage == COLO_DISK_STAGE_RUNNING) {
        s->kind->stop(s, failover, errp);
    }
}

static void replication_get_error(ReplicationState *rs, Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);

    if (s->error) {
        error_setg(errp, "node '%s': %s", replication_name(s),
                   error_get_pretty(s->error));
    } else if (s->kind->get_error) {
        s->kind->get_error(s, errp);
    }
}

static const char *replication_problem(ReplicationState *rs,
                                       ReplicationMode mode, Error **errp)
{
    ERRP_GUARD();
    BDRVReplicationState *s = driver_state(rs);

    if (s->stage != COLO_DISK_STAGE_RUNNING) {
        replication_check(rs, mode, errp);
    } else {
        replication_get_error(rs, errp);
        if (!*errp) {
            replication_verify_problem(s, errp);
        }
    }
    return replication_name(s);
}

static const char *replication_assumed(ReplicationState *rs,
                                       ReplicationMode mode, Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);

    if (s->stage == COLO_DISK_STAGE_RUNNING && s->sample && !s->verified &&
        !s->resynced) {
        error_setg(errp, "node '%s': the disk of the secondary is assumed to be "
                   "equal, no resync of this node has seen to it and only a "
                   "sample of it was compared: x-colo-verify compares all of "
                   "it", replication_name(s));
    }
    return replication_name(s);
}

static void replication_checkpoint(ReplicationState *rs, Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);

    if (s->stage == COLO_DISK_STAGE_RUNNING) {
        s->kind->checkpoint(s, errp);
    }
}

static void replication_begin_checkpoint(ReplicationState *rs, Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);

    if (s->stage == COLO_DISK_STAGE_RUNNING) {
        (s->kind->begin_checkpoint ?: s->kind->checkpoint)(s, errp);
    }
}

static void replication_begin_stop(ReplicationState *rs, Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);

    if (s->stage == COLO_DISK_STAGE_RUNNING && s->kind->begin_stop) {
        s->kind->begin_stop(s, errp);
    }
}

static void replication_prepare(ReplicationState *rs, Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);

    if (s->stage == COLO_DISK_STAGE_RUNNING && s->kind->prepare) {
        s->kind->prepare(s, errp);
    }
}

static void replication_abandon(ReplicationState *rs)
{
    BDRVReplicationState *s = driver_state(rs);

    s->kind->abandon(s);
}

static void replication_take_over(ReplicationState *rs, Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);

    if (s->stage == COLO_DISK_STAGE_RUNNING && s->kind->take_over) {
        s->kind->take_over(s, errp);
    }
}

static void replication_cut(ReplicationState *rs, uint64_t epoch)
{
    BDRVReplicationState *s = driver_state(rs);
    ReplicationLogStats stats;

    if (s->stage == COLO_DISK_STAGE_RUNNING && s->log) {
        replication_log_stats(s->log, &stats);
        trace_replication_cut(epoch, replication_name(s), stats.bytes);
        replication_log_cut(s->log, epoch);
        if (s->reached && s->reached != epoch) {
            s->kind->bypassed(s);
        }
        if (s->kind->cut) {
            s->kind->cut(s);
        }
    }
}

/*
 * Which disk is newer
 *
 * The lock is for s->role, s->folded and what is written to the files: when the
 * overlays are in the disk, the guest may be the first to see to it that this
 * is recorded, in any thread.
 */
static QemuMutex record_lock;

static bool replication_generation(ReplicationState *rs, bool *kept,
                                   uint64_t *number, Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);
    ColoDiskGeneration g;

    if (!s->generation_file) {
        return true;
    }
    if (!load_generation(s, &g, errp)) {
        return false;
    }
    *kept = true;
    *number = g.number;
    return true;
}

static bool record(BDRVReplicationState *s, uint64_t number, ColoDiskRole role,
                   Error **errp)
{
    ColoDiskGeneration g = { .number = number, .role = role };

    if (!s->generation_file) {
        return true;
    }
    trace_replication_generation(replication_name(s), number,
                                 ColoDiskRole_str(role));
    if (!replication_generation_store(s->generation_file, &g, errp)) {
        error_prepend(errp, "node '%s': ", replication_name(s));
        return false;
    }
    return true;
}

static bool replication_record_role(ReplicationState *rs, uint64_t number,
                                    ColoDiskRole role, Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);

    replication_intent_record(s, number);
    QEMU_LOCK_GUARD(&record_lock);
    s->role = role;
    /*
     * A secondary that has failed over is only whole with its overlays, and
     * be it the primary of a new one
     */
    if (role != COLO_DISK_ROLE_SECONDARY && !s->folded &&
        s->kind->needs_overlays && s->kind->needs_overlays(s)) {
        role = COLO_DISK_ROLE_FOLDING;
    }
    return record(s, number, role, errp);
}

bool replication_folded(BDRVReplicationState *s, Error **errp)
{
    ColoDiskGeneration g;

    QEMU_LOCK_GUARD(&record_lock);
    if (s->generation_file && !s->folded) {
        s->folded = load_generation(s, &g, errp) &&
                    record(s, g.number, s->role == COLO_DISK_ROLE_PRIMARY
                                        ? s->role : COLO_DISK_ROLE_ALONE, errp);
    }
    return !s->generation_file || s->folded;
}

static void query_log(BDRVReplicationState *s, ColoDiskStatistics *stats)
{
    ReplicationLogStats log;

    replication_log_stats(s->log, &log);
    if (log.err && log.err != ECANCELED) {
        stats->error = g_strdup(strerror(log.err));
    }
    stats->log = g_new0(ColoDiskLog, 1);
    stats->log->bytes = log.bytes;
    stats->log->peak = log.max_bytes;
    stats->log->limit = log.limit;
    stats->log->sent_bytes = log.sent_bytes;
    stats->log->sent_requests = log.sent_requests;
    stats->log->throttled_ns = log.throttled_ns;
}

static ColoDiskStatistics *replication_query(ReplicationState *rs)
{
    BDRVReplicationState *s = driver_state(rs);
    ColoDiskStatistics *stats = g_new0(ColoDiskStatistics, 1);

    stats->node_name = g_strdup(s->bs->node_name);
    stats->disk = replication_disk_name(s);
    stats->mode = s->mode;
    stats->stage = s->stage;
    if (s->error) {
        stats->error = g_strdup(error_get_pretty(s->error));
    }
    if (s->generation_file) {
        stats->generation = g_new0(ColoDiskGeneration, 1);
        if (!replication_generation_load(s->generation_file,
                                         stats->generation, NULL)) {
            g_clear_pointer(&stats->generation, g_free);
        }
    }
    if (s->log) {
        query_log(s, stats);
    }
    if (s->kind->query) {
        s->kind->query(s, stats);
    }
    return stats;
}

static bool replication_settle(ReplicationState *rs, uint64_t timeout_ms,
                               Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);
    bool ok;

    if (replication_stage(s) != COLO_DISK_STAGE_RUNNING || !s->log) {
        return true;
    }
    ok = replication_log_settle(s->log, timeout_ms, errp);
    if (!ok) {
        error_prepend(errp, "node '%s': ", replication_name(s));
    }
    trace_replication_settle(replication_name(s), ok);
    return ok;
}

static bool replication_sampled(ReplicationState *rs, uint64_t timeout_ms,
                                Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);

    return replication_stage(s) != COLO_DISK_STAGE_RUNNING ||
           replication_sample_taken(s, timeout_ms, errp);
}

static bool replication_compare(ReplicationState *rs, uint64_t timeout_ms,
                                Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);

    return replication_stage(s) != COLO_DISK_STAGE_RUNNING ||
           replication_sample_settle(s, timeout_ms, errp);
}

static bool replication_emptied(ReplicationState *rs, uint64_t timeout_ms,
                                Error **errp)
{
    BDRVReplicationState *s = driver_state(rs);

    return replication_stage(s) != COLO_DISK_STAGE_RUNNING ||
           !s->kind->emptied || s->kind->emptied(s, timeout_ms, errp);
}

static void replication_allow(ReplicationState *rs, uint64_t epoch)
{
    BDRVReplicationState *s = driver_state(rs);

    if (replication_stage(s) == COLO_DISK_STAGE_RUNNING && s->log) {
        trace_replication_allow(epoch, replication_name(s));
        if (s->kind->allow) {
            s->kind->allow(s);
        }
        replication_log_allow(s->log, epoch);
    }
}

static bool replication_is_complete(ReplicationState *rs)
{
    BDRVReplicationState *s = driver_state(rs);

    return s->stage != COLO_DISK_STAGE_RUNNING || !s->kind->is_complete ||
           s->kind->is_complete(s);
}

/* Of the others the secondary has no image, or the guest here needs none */
static bool replication_is_resynced(ReplicationState *rs)
{
    BDRVReplicationState *s = driver_state(rs);

    return s->kind != &replication_primary || s->resynced;
}

static ReplicationOps replication_ops = {
    .check = replication_check,
    .problem = replication_problem,
    .assumed = replication_assumed,
    .guest_stands = replication_guest_stands,
    .start = replication_start,
    .cut = replication_cut,
    .settle = replication_settle,
    .sampled = replication_sampled,
    .compare = replication_compare,
    .prepare = replication_prepare,
    .checkpoint = replication_checkpoint,
    .begin_checkpoint = replication_begin_checkpoint,
    .begin_stop = replication_begin_stop,
    .emptied = replication_emptied,
    .allow = replication_allow,
    .get_error = replication_get_error,
    .query = replication_query,
    .generation = replication_generation,
    .is_resynced = replication_is_resynced,
    .is_complete = replication_is_complete,
    .record = replication_record_role,
    .abandon = replication_abandon,
    .take_over = replication_take_over,
    .stop = replication_stop,
};

/* What the block layer calls */

static QemuOptsList runtime_opts = {
    .name = "replication",
    .head = QTAILQ_HEAD_INITIALIZER(runtime_opts.head),
    .desc = {
        {
            .name = OPT_MODE,
            .type = QEMU_OPT_STRING,
            .help = "primary or secondary",
        },
        {
            .name = OPT_TOP_ID,
            .type = QEMU_OPT_STRING,
            .help = "secondary: node name or device ID of the guest's disk",
        },
        {
            .name = OPT_LOG_SIZE,
            .type = QEMU_OPT_SIZE,
            .help = "primary: bytes that may wait to be sent",
        },
        {
            .name = OPT_BATCH,
            .type = QEMU_OPT_BOOL,
            .help = "primary: many writes at once, to a replication-sink",
        },
        {
            .name = OPT_GENERATION_FILE,
            .type = QEMU_OPT_STRING,
            .help = "where to keep which of the two disks is newer",
        },
        {
            .name = OPT_SHARED_DISK,
            .type = QEMU_OPT_BOOL,
            .help = "both sides have the same image",
        },
        {
            .name = OPT_CACHE_COHERENT,
            .type = QEMU_OPT_BOOL,
            .help = "shared disk: the page caches of both hosts are the same",
        },
        {
            .name = OPT_FOLD_SPEED,
            .type = QEMU_OPT_SIZE,
            .help = "secondary: bytes a second, of the job after a failover",
        },
        { /* end of list */ }
    },
};

static bool take_options(BDRVReplicationState *s, QemuOpts *opts,
                         uint64_t *log_size, Error **errp)
{
    const char *mode = qemu_opt_get(opts, OPT_MODE);
    const char *top_id = qemu_opt_get(opts, OPT_TOP_ID);
    int value;

    if (!mode) {
        error_setg(errp, "option '" OPT_MODE "' is needed, 'primary' or "
                   "'secondary'");
        return false;
    }
    value = qapi_enum_parse(&ReplicationMode_lookup, mode, -1, errp);
    if (value < 0) {
        return false;
    }
    s->mode = value;
    *log_size = qemu_opt_get_size(opts, OPT_LOG_SIZE, LOG_SIZE_DEFAULT);
    if (s->mode == REPLICATION_MODE_PRIMARY && top_id) {
        error_setg(errp, "'" OPT_TOP_ID "' is an option of the secondary");
        return false;
    }
    if (s->mode == REPLICATION_MODE_SECONDARY && !top_id) {
        error_setg(errp, "the secondary needs '" OPT_TOP_ID "', the guest's "
                   "disk");
        return false;
    }
    if (s->mode == REPLICATION_MODE_SECONDARY &&
        qemu_opt_get(opts, OPT_LOG_SIZE)) {
        error_setg(errp, "'" OPT_LOG_SIZE "' is an option of the primary");
        return false;
    }
    if (*log_size < LOG_SIZE_MIN || *log_size > LOG_SIZE_MAX) {
        error_setg(errp, "'" OPT_LOG_SIZE "' is %" PRIu64 ", it has to be "
                   "from %" PRIu64 " to %" PRIu64, *log_size,
                   (uint64_t)LOG_SIZE_MIN, (uint64_t)LOG_SIZE_MAX);
        return false;
    }
    s->batch = qemu_opt_get_bool(opts, OPT_BATCH, false);
    s->shared_disk = qemu_opt_get_bool(opts, OPT_SHARED_DISK, false);
    s->cache_coherent = qemu_opt_get_bool(opts, OPT_CACHE_COHERENT, false);
    if (s->batch &&
        (s->mode != REPLICATION_MODE_PRIMARY || s->shared_disk)) {
        error_setg(errp, "'" OPT_BATCH "' is an option of the primary of a "
                   "disk that is not shared");
        return false;
    }
    if (s->mode == REPLICATION_MODE_PRIMARY &&
        qemu_opt_get(opts, OPT_FOLD_SPEED)) {
        error_setg(errp, "'" OPT_FOLD_SPEED "' is an option of the secondary");
        return false;
    }
    if (s->cache_coherent && !s->shared_disk) {
        error_setg(errp, "'" OPT_CACHE_COHERENT "' is an option of a shared "
                   "disk ('" OPT_SHARED_DISK "')");
        return false;
    }
    if (s->shared_disk && qemu_opt_get(opts, OPT_GENERATION_FILE)) {
        error_setg(errp, "'" OPT_GENERATION_FILE "' is no option of a shared "
                   "disk ('" OPT_SHARED_DISK "'): both sides have the same");
        return false;
    }
    s->kind = s->mode == REPLICATION_MODE_SECONDARY ? &replication_secondary
              : s->shared_disk ? &replication_shared_primary
              : &replication_primary;
    s->top_id = g_strdup(top_id);
    s->generation_file = g_strdup(qemu_opt_get(opts, OPT_GENERATION_FILE));
    s->fold_speed = qemu_opt_get_size(opts, OPT_FOLD_SPEED, 0);
    return replication_job_check_speed(s->fold_speed, errp);
}

static void take_flags(BlockDriverState *bs, BDRVReplicationState *s)
{
    BdrvRequestFlags write = BDRV_REQ_FUA;
    BdrvRequestFlags zero = BDRV_REQ_FUA | BDRV_REQ_MAY_UNMAP |
                            BDRV_REQ_NO_FALLBACK;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    if (!s->kind->takes_anything) {
        write &= bs->file->bs->supported_write_flags;
        zero &= bs->file->bs->supported_zero_flags;
    }
    bs->supported_write_flags = BDRV_REQ_WRITE_UNCHANGED | write;
    bs->supported_zero_flags = BDRV_REQ_WRITE_UNCHANGED | zero;
}

static int replication_open(BlockDriverState *bs, QDict *options, int flags,
                            Error **errp)
{
    BDRVReplicationState *s = bs->opaque;
    g_autoptr(QemuOpts) opts = NULL;
    ColoDiskGeneration generation;
    uint64_t log_size;
    int ret;

    s->bs = bs;
    if (replication_in_session()) {
        error_setg(errp, "no node for replication can be made while a COLO "
                   "session runs: its disk would not be as of any checkpoint");
        return -EBUSY;
    }
    opts = qemu_opts_create(&runtime_opts, NULL, 0, &error_abort);
    ret = -EINVAL;
    if (!qemu_opts_absorb_qdict(opts, options, errp) ||
        !take_options(s, opts, &log_size, errp)) {
        goto fail;
    }
    if (s->generation_file &&
        !replication_generation_load(s->generation_file, &generation, errp)) {
        goto fail;
    }
    ret = bdrv_open_file_child(NULL, options, "file", bs, errp);
    if (ret < 0) {
        goto fail;
    }
    take_flags(bs, s);
    /* All are seen, and it is for the kind to do something about them */
    s->session_discards = bs->open_flags & BDRV_O_UNMAP;
    bs->open_flags |= BDRV_O_UNMAP;
    ret = s->kind->open ? s->kind->open(s, log_size, errp) : 0;
    if (ret < 0) {
        goto fail;
    }
    s->rs = replication_new(bs, &replication_ops);
    watch_disk(s);
    return 0;

fail:
    g_free(s->generation_file);
    g_free(s->user_name);
    g_free(s->top_id);
    return ret;
}

/* A sink, in any thread, may look for the path as long as it has the lock */
static void free_generation_file(BDRVReplicationState *s)
{
    char *path;

    bdrv_graph_wrlock();
    path = g_steal_pointer(&s->generation_file);
    bdrv_graph_wrunlock();
    g_free(path);
}

static void replication_close(BlockDriverState *bs)
{
    BDRVReplicationState *s = bs->opaque;

    if (s->stage == COLO_DISK_STAGE_RUNNING && s->reached) {
        /* The guest's disk was all that had the node, and has it no more */
        s->kind->bypassed(s);
    }
    /* Lets settle fail, which replication_remove() waits for */
    s->kind->end(s);
    replication_remove(s->rs);
    if (s->kind->close) {
        s->kind->close(s);
    }
    error_free(s->error);
    replication_target_watch(s, false);
    free_generation_file(s);
    g_free(s->user_name);
    g_free(s->top_id);
}

static void replication_child_perm(BlockDriverState *bs, BdrvChild *c,
                                   BdrvChildRole role,
                                   BlockReopenQueue *reopen_queue,
                                   uint64_t perm, uint64_t shared,
                                   uint64_t *nperm, uint64_t *nshared)
{
    BDRVReplicationState *s = bs->opaque;

    if (!(role & BDRV_CHILD_PRIMARY)) {
        /* The way to the store: nobody else uses it */
        *nperm = bs->open_flags & BDRV_O_INACTIVE ? 0 : BLK_PERM_WRITE;
        *nshared = BLK_PERM_ALL;
        return;
    }
    /* A format that writes to its file does so whenever it can; so do we */
    bdrv_default_perms(bs, c, BDRV_CHILD_DATA | BDRV_CHILD_METADATA,
                       reopen_queue, perm, shared, nperm, nshared);
    if (!(perm & BLK_PERM_RESIZE) || s->kind == &replication_primary) {
        *nperm &= ~BLK_PERM_RESIZE;
    }
    if (s->kind->on_image || bs->open_flags & BDRV_O_INACTIVE) {
        /* On another host somebody may write then: it has been handed over */
        return;
    }
    /*
     * Below the overlays of a secondary others write: the NBD server, the
     * primary of a shared disk.  Once they are folded nobody does, but for a
     * guest that does not use this node any more.  Nobody but the primary
     * writes to what it sends to.
     */
    *nshared = BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE_UNCHANGED;
    if (s->mode == REPLICATION_MODE_SECONDARY &&
        (!s->owns_disk || QLIST_EMPTY(&bs->parents))) {
        *nshared |= BLK_PERM_WRITE;
    }
}

static int64_t coroutine_fn GRAPH_RDLOCK
replication_co_getlength(BlockDriverState *bs)
{
    BDRVReplicationState *s = bs->opaque;
    int64_t length = qatomic_read_i64(&s->length);

    return length ?: bdrv_co_getlength(replication_data(s)->bs);
}

static int coroutine_fn GRAPH_RDLOCK
replication_co_truncate(BlockDriverState *bs, int64_t length, bool exact,
                        PreallocMode prealloc, BdrvRequestFlags flags,
                        Error **errp)
{
    BDRVReplicationState *s = bs->opaque;

    return s->kind->truncate(s, length, errp);
}

static bool coroutine_fn GRAPH_RDLOCK
replication_co_is_inserted(BlockDriverState *bs)
{
    return bdrv_co_is_inserted(replication_data(bs->opaque)->bs);
}

static int coroutine_fn GRAPH_RDLOCK
replication_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    BDRVReplicationState *s = bs->opaque;

    return s->kind->preadv(s, offset, bytes, qiov, flags);
}

static int coroutine_fn GRAPH_RDLOCK
replication_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    BDRVReplicationState *s = bs->opaque;

    return s->kind->pwritev(s, offset, bytes, qiov, flags);
}

static int coroutine_fn GRAPH_RDLOCK
replication_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                             int64_t bytes, BdrvRequestFlags flags)
{
    BDRVReplicationState *s = bs->opaque;

    return s->kind->pwrite_zeroes(s, offset, bytes, flags);
}

static int coroutine_fn GRAPH_RDLOCK
replication_co_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    BDRVReplicationState *s = bs->opaque;

    return s->kind->pdiscard(s, offset, bytes);
}

static int coroutine_fn GRAPH_RDLOCK replication_co_flush(BlockDriverState *bs)
{
    BDRVReplicationState *s = bs->opaque;

    return s->kind->flush(s);
}

static int coroutine_fn GRAPH_RDLOCK
replication_co_block_status(BlockDriverState *bs, bool want_zero,
                            int64_t offset, int64_t bytes, int64_t *pnum,
                            int64_t *map, BlockDriverState **file)
{
    BDRVReplicationState *s = bs->opaque;

    *pnum = bytes;
    if (!s->kind->is_direct || !s->kind->is_direct(s)) {
        /* Not worth a question to the log, or to the other host */
        return BDRV_BLOCK_DATA;
    }
    *map = offset;
    *file = replication_data(s)->bs;
    return BDRV_BLOCK_RAW | BDRV_BLOCK_OFFSET_VALID;
}

static void replication_refresh_limits(BlockDriverState *bs, Error **errp)
{
    BDRVReplicationState *s = bs->opaque;
    BlockLimits *child = &bs->file->bs->bl;

    bs->bl.max_pwrite_zeroes = child->max_pwrite_zeroes;
    bs->bl.max_pdiscard = child->max_pdiscard;
    bs->bl.max_transfer = MIN_NON_ZERO(bs->bl.max_transfer,
                                       s->kind->max_transfer);
    bs->bl.max_pwrite_zeroes = MIN_NON_ZERO(bs->bl.max_pwrite_zeroes,
                                            s->kind->max_zeroes);
    if (s->kind->takes_anything) {
        bs->bl.request_alignment = 1;
    } else {
        bs->bl.request_alignment = child->request_alignment;
        bs->bl.pwrite_zeroes_alignment = child->pwrite_zeroes_alignment;
        bs->bl.pdiscard_alignment = child->pdiscard_alignment;
    }
}

static void GRAPH_RDLOCK replication_set_perm(BlockDriverState *bs,
                                              uint64_t perm, uint64_t shared)
{
    BDRVReplicationState *s = bs->opaque;

    if (s->kind->set_perm) {
        s->kind->set_perm(s, perm);
    }
}

static void drain(BlockDriverState *bs, bool begin)
{
    BDRVReplicationState *s = bs->opaque;

    if (s->kind->drain) {
        s->kind->drain(s, begin);
    }
}

static void replication_drain_begin(BlockDriverState *bs)
{
    drain(bs, true);
}

static void replication_drain_end(BlockDriverState *bs)
{
    drain(bs, false);
}

static void GRAPH_WRLOCK replication_add_child(BlockDriverState *bs,
                                               BlockDriverState *child_bs,
                                               Error **errp)
{
    BDRVReplicationState *s = bs->opaque;

    s->kind->add_child(s, child_bs, errp);
}

static void GRAPH_WRLOCK replication_del_child(BlockDriverState *bs,
                                               BdrvChild *child, Error **errp)
{
    BDRVReplicationState *s = bs->opaque;

    s->kind->del_child(s, child, errp);
}

static const char *const replication_strong_runtime_opts[] = {
    OPT_MODE,
    OPT_TOP_ID,
    OPT_SHARED_DISK,
    NULL
};

static BlockDriver bdrv_replication = {
    .format_name                = "replication",
    .instance_size              = sizeof(BDRVReplicationState),
    .is_filter                  = true,
    .strong_runtime_opts        = replication_strong_runtime_opts,

    .bdrv_open                  = replication_open,
    .bdrv_child_perm            = replication_child_perm,
    .bdrv_set_perm              = replication_set_perm,
    .bdrv_refresh_limits        = replication_refresh_limits,

    .bdrv_co_getlength          = replication_co_getlength,
    .bdrv_co_truncate           = replication_co_truncate,
    .bdrv_co_is_inserted        = replication_co_is_inserted,
    .bdrv_co_preadv             = replication_co_preadv,
    .bdrv_co_pwritev            = replication_co_pwritev,
    .bdrv_co_pwrite_zeroes      = replication_co_pwrite_zeroes,
    .bdrv_co_pdiscard           = replication_co_pdiscard,
    .bdrv_co_flush              = replication_co_flush,
    .bdrv_co_block_status       = replication_co_block_status,

    .bdrv_drain_begin           = replication_drain_begin,
    .bdrv_drain_end             = replication_drain_end,
    .bdrv_add_child             = replication_add_child,
    .bdrv_del_child             = replication_del_child,
    .bdrv_close                 = replication_close,
};

static void bdrv_replication_init(void)
{
    qemu_mutex_init(&record_lock);
    bdrv_register(&bdrv_replication);
}

block_init(bdrv_replication_init);
