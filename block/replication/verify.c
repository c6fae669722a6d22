/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, primary side: are the disks of a session equal?
 *
 * Goal: tell while the guest writes on, and the session goes on, whether what
 * the secondary has is what a failover takes it for.  Whoever is told "equal"
 * can rely on it, and a difference is a difference.
 *
 * How: group by group the job compares hashes of chunks, ours with those that
 * the secondary's node "colo-hash" has (hash.c), or without such a node with
 * hashes of what it reads from the secondary's disk.  Nothing is held for that,
 * and the two are of no common instant, but nevertheless
 *
 *    equal hashes mean that the chunks are equal once the log is through.
 *
 * That is why a resync by hash is right, and what it takes is the same: the
 * head of resync.c says why.
 *
 * Different hashes are a doubt.  The chunk has to be looked at, byte by byte:
 *
 *  1. From here on it is noted what the guest writes there (watch.h).
 *  2. All requests to the chunk that had begun have ended (a barrier: such
 *     requests are held off, for no longer than that takes).  So what they have
 *     written is on the local disk and in the log.
 *  3. The log has sent all of that.  It may have to wait for the next
 *     checkpoint, like all writes of an epoch that has been cut.
 *  4. The chunk is read here and there.
 *  5. Another barrier: what was written while it was read, here or there, has
 *     been noted.
 *
 * Step 3 may take long if the guest writes all the time, so the job goes on
 * with other groups meanwhile, as long as there are at most MAX_DOUBTS.
 *
 * What was not noted was stable on both sides in step 4, so a byte of it that
 * differs does; and it would be found whatever the guest does to the bytes
 * beside it.  What was noted is on its way to both disks, so it will be equal.
 * Nothing is tried again, and a guest that writes all the time keeps the job
 * from nothing.  What the guest has discarded and not written since has no
 * contents that could differ.  Should some of that not be known (watch.h), and
 * there be a difference, the job fails without having found one.
 *
 * A difference keeps the session's guest from being protected: the node has a
 * problem from then on (replication_verify_problem()) until a later job finds
 * none, and the job fails in the end, when it has counted all of them.  Without
 * any, the disk is not assumed to be equal any more.
 *
 * Who has priority: the guest.  The job reads little at a time, leaves the link
 * to the log if anybody waits for that, for YIELD_NS before each group at most,
 * and has a limit of bytes in a second.  The secondary's disk is read
 * for a group at a time: whoever drains there waits for no more.
 *
 * Failure: a disk or a hash cannot be read, the session is over or the
 * secondary lost, the node was taken out of the guest's disk.  As in a resync
 * the job is in no request to the peer when somebody drains.  While a barrier
 * waits for writes of the guest, these may wait for room in the log.
 *
 * Permissions, attaching: as a resync.
 *
 * Threads: made and ended in the main thread; runs in the AioContext of the
 * nodes; hashes are fetched in the main loop, the secondary's disk is read in
 * the log's thread.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-colo.h"
#include "qemu/bitmap.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "block/blockjob_int.h"
#include "system/block-backend.h"
#include "trace.h"
#include "job.h"
#include "peer-read.h"

#define CHUNK REPLICATION_HASH_CHUNK

/* Chunks that are compared together: those of the shortest read of hashes */
#define GROUP_CHUNKS (BDRV_SECTOR_SIZE / REPLICATION_HASH_SIZE)
#define GROUP ((int64_t)(GROUP_CHUNKS * CHUNK))

/* What is read of the local disk at a time to be hashed */
#define PIECE (256 * KiB)

/* Chunks that wait for the log; each takes an eighth of its size of memory */
#define MAX_DOUBTS 256

/* So long the job leaves the link to the log each time, ns */
#define YIELD_NS (50 * SCALE_MS)

/* A chunk with another hash than that of the secondary, after step 2 */
typedef struct VerifyDoubt {
    QSIMPLEQ_ENTRY(VerifyDoubt) next;
    int64_t offset;
    int64_t bytes;
    uint64_t position;          /* that the log has to get to, step 3 */
} VerifyDoubt;

typedef struct VerifyJob {
    BlockJob common;

    /* Set once */
    BDRVReplicationState *s;
    BlockDriverState *top;      /* the quorum */
    BlockDriverState *node;     /* for replication */
    BlockBackend *source;
    char *disk;                 /* its name */
    int64_t length;
    int64_t hashed;             /* of which the secondary's node has hashes */

    /* The job's coroutine */
    ReplicationHashFetch fetch; /* if there is a node for it */
    ReplicationPeerRead *read;  /* or NULL */
    uint8_t *buf;               /* of PIECE bytes */
    uint8_t ours[GROUP_CHUNKS * REPLICATION_HASH_SIZE];
    uint8_t theirs[GROUP_CHUNKS * REPLICATION_HASH_SIZE];
    QSIMPLEQ_HEAD(, VerifyDoubt) doubts;
    unsigned n_doubts;
    uint64_t n_looked_at;       /* chunks, byte by byte */
    bool undecided;             /* it may be that some bytes differ */
    int64_t undecided_at;       /* the first of these */
    int64_t first;              /* of those that do */

    /* Read anywhere: atomic */
    uint64_t different_bytes;
} VerifyJob;

/* Can the comparison go on?  0 or an errno with @errp. */
static int GRAPH_RDLOCK verify_check(VerifyJob *v, Error **errp)
{
    BDRVReplicationState *s = v->s;
    ReplicationLogStats stats;

    if (replication_stage(s) != COLO_DISK_STAGE_RUNNING) {
        error_setg(errp, "the session has ended before all of disk '%s' was "
                   "compared", v->disk);
        return -ECANCELED;
    }
    replication_log_stats(s->log, &stats);
    if (stats.err == ECANCELED) {
        error_setg(errp, "the secondary was lost before all of disk '%s' was "
                   "compared", v->disk);
        return -stats.err;
    }
    if (stats.err) {
        error_setg_errno(errp, stats.err, "node '%s' does not replicate any "
                         "more", replication_name(s));
        return -stats.err;
    }
    if (!replication_job_child(v->top, v->node) ||
        !replication_job_child(v->top, blk_bs(v->source))) {
        error_setg(errp, "disk '%s' has lost a child", v->disk);
        return -ENOLINK;
    }
    return 0;
}

/* Wait until @condition, or the job is cancelled, or cannot go on */
#define verify_wait(v, condition, errp) ({                              \
    int ret_;                                                           \
                                                                        \
    for (;;) {                                                          \
        WITH_GRAPH_RDLOCK_GUARD() {                                     \
            ret_ = verify_check(v, errp);                               \
        }                                                               \
        if (ret_ < 0 || job_is_cancelled(&(v)->common.job) ||           \
            (condition)) {                                              \
            break;                                                      \
        }                                                               \
        job_sleep_ns(&(v)->common.job, REPLICATION_JOB_POLL_NS);         \
    }                                                                   \
    ret_;                                                               \
})

static bool is_cancelled(VerifyJob *v)
{
    return job_is_cancelled(&v->common.job);
}

/* The limit, and the log comes first */
static int coroutine_fn verify_give_way(VerifyJob *v, Error **errp)
{
    int64_t end;

    block_job_ratelimit_sleep(&v->common);
    end = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + YIELD_NS;
    return verify_wait(v, !replication_log_is_urgent(v->s->log) ||
                          qemu_clock_get_ns(QEMU_CLOCK_REALTIME) >= end, errp);
}

/* All that is in the log now has arrived */
static int coroutine_fn verify_settle(VerifyJob *v, Error **errp)
{
    ReplicationLog *log = v->s->log;
    uint64_t position = replication_log_position(log);

    return verify_wait(v, replication_log_is_through(log, position), errp);
}

/* What the secondary has there, into @buf, unless the job is cancelled */
static int coroutine_fn verify_read_peer(VerifyJob *v, int64_t offset,
                                         int64_t bytes, uint8_t *buf,
                                         Error **errp)
{
    const uint8_t *answer;
    int ret;

    v->read = replication_peer_read(v->s, offset, bytes);
    ret = verify_wait(v, replication_peer_read_done(v->read), errp);
    if (ret >= 0 && !is_cancelled(v)) {
        ret = replication_peer_read_result(v->read, &answer);
        if (ret >= 0) {
            memcpy(buf, answer, bytes);
        } else {
            error_setg_errno(errp, -ret, "could not read the secondary's disk "
                             "at %" PRId64, offset);
        }
    }
    replication_peer_read_drop(g_steal_pointer(&v->read));
    return ret;
}

/* Chunks with different hashes, byte by byte */

/* When this returns no request that had begun is under way there */
static int coroutine_fn verify_barrier(VerifyJob *v, int64_t offset,
                                       int64_t bytes, Error **errp)
{
    BdrvTrackedRequest req;
    int ret;

    /* As in resync_piece() */
    GRAPH_RDLOCK_GUARD();
    bdrv_co_hold_range(&req, v->top, offset, bytes);
    ret = verify_check(v, errp);
    bdrv_co_release_range(&req);
    return ret;
}

static void verify_note_difference(VerifyJob *v, int64_t at, uint64_t bytes)
{
    uint64_t all = v->different_bytes + bytes;

    trace_replication_verify_differs(replication_name(v->s), at, bytes);
    if (!v->different_bytes) {
        v->first = at;
        qatomic_set(&v->s->different_at, at);
    }
    qatomic_set(&v->different_bytes, all);
    qatomic_store_release(&v->s->different_bytes, all);
    replication_problems_changed();
}

/* Those bytes of a chunk that may be compared: all whose bit is clear */
static void verify_bytes(VerifyJob *v, int64_t offset, int64_t bytes,
                         const uint8_t *ours, const uint8_t *theirs,
                         const unsigned long *mask)
{
    uint64_t n = 0;
    int64_t first = 0;

    for (int64_t i = find_next_zero_bit(mask, bytes, 0); i < bytes;
         i = find_next_zero_bit(mask, bytes, i + 1)) {
        if (ours[i] != theirs[i] && !n++) {
            first = offset + i;
        }
    }
    if (!n) {
        return;
    }
    if (!replication_watch_forgot(v->s->watch)) {
        verify_note_difference(v, first, n);
    } else if (!v->undecided) {
        v->undecided = true;
        v->undecided_at = first;
    }
}

/* Steps 4 and 5 of one chunk */
static int coroutine_fn verify_chunk(VerifyJob *v, int64_t offset,
                                     int64_t bytes, Error **errp)
{
    g_autofree uint8_t *theirs = g_malloc(bytes);
    g_autofree unsigned long *mask = bitmap_new(bytes);
    int ret;

    block_job_ratelimit_sleep(&v->common);
    if (is_cancelled(v)) {
        return 0;
    }
    ret = blk_co_pread(v->source, offset, bytes, v->buf, 0);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "could not read the local disk");
        return ret;
    }
    block_job_ratelimit_processed_bytes(&v->common, bytes);
    ret = verify_read_peer(v, offset, bytes, theirs, errp);
    if (ret < 0 || is_cancelled(v)) {
        return ret;
    }
    ret = verify_barrier(v, offset, bytes, errp);
    if (ret < 0) {
        return ret;
    }
    replication_watch_mask(v->s->watch, offset, mask);
    verify_bytes(v, offset, bytes, v->buf, theirs, mask);
    v->n_looked_at++;
    return 0;
}

static void verify_forget_doubt(VerifyJob *v)
{
    VerifyDoubt *d = QSIMPLEQ_FIRST(&v->doubts);

    QSIMPLEQ_REMOVE_HEAD(&v->doubts, next);
    v->n_doubts--;
    replication_watch_remove(v->s->watch, d->offset);
    g_free(d);
}

/* The oldest doubts have a verdict, as long as there are more than @keep */
static int coroutine_fn verify_resolve(VerifyJob *v, unsigned keep,
                                       Error **errp)
{
    ReplicationLog *log = v->s->log;

    while (v->n_doubts > keep) {
        VerifyDoubt *d = QSIMPLEQ_FIRST(&v->doubts);
        int ret = verify_wait(v, replication_log_is_through(log, d->position),
                              errp);

        if (ret >= 0 && !is_cancelled(v)) {
            ret = verify_chunk(v, d->offset, d->bytes, errp);
        }
        if (ret < 0 || is_cancelled(v)) {
            return ret;
        }
        verify_forget_doubt(v);
    }
    return 0;
}

/* The same with those that need not wait any more */
static int coroutine_fn verify_resolve_ready(VerifyJob *v, Error **errp)
{
    int ret = 0;

    while (ret >= 0 && !is_cancelled(v) && v->n_doubts &&
           replication_log_is_through(v->s->log,
                                      QSIMPLEQ_FIRST(&v->doubts)->position)) {
        ret = verify_resolve(v, v->n_doubts - 1, errp);
    }
    return ret;
}

/* Steps 1 and 2 */
static int coroutine_fn verify_doubt(VerifyJob *v, int64_t offset,
                                     int64_t bytes, Error **errp)
{
    VerifyDoubt *d;
    int ret = verify_resolve(v, MAX_DOUBTS - 1, errp);

    if (ret < 0 || is_cancelled(v)) {
        return ret;
    }
    d = g_new0(VerifyDoubt, 1);
    d->offset = offset;
    d->bytes = bytes;
    QSIMPLEQ_INSERT_TAIL(&v->doubts, d, next);
    v->n_doubts++;
    replication_watch_add(v->s->watch, offset, bytes);
    ret = verify_barrier(v, offset, bytes, errp);
    d->position = replication_log_position(v->s->log);
    return ret;
}

/* Groups */

/* How many bytes of hashes does the group at @offset have? */
static int64_t hash_bytes(VerifyJob *v, int64_t offset)
{
    return DIV_ROUND_UP(MIN(GROUP, v->length - offset), CHUNK) *
           REPLICATION_HASH_SIZE;
}

static void verify_begin_fetch(VerifyJob *v, int64_t offset)
{
    if (offset < v->hashed) {
        replication_hash_begin(&v->fetch, offset / CHUNK *
                                          REPLICATION_HASH_SIZE,
                               BDRV_SECTOR_SIZE);
    }
}

/* The secondary's hashes of the group, and those of the next are asked for */
static int coroutine_fn verify_fetch(VerifyJob *v, int64_t offset,
                                     Error **errp)
{
    int ret = verify_wait(v, !replication_hash_busy(&v->fetch), errp);

    if (ret < 0 || is_cancelled(v)) {
        return ret;
    }
    if (v->fetch.ret < 0) {
        error_setg_errno(errp, -v->fetch.ret, "could not read the hashes of "
                         "the secondary");
        return v->fetch.ret;
    }
    memcpy(v->theirs, v->fetch.buf, hash_bytes(v, offset));
    verify_begin_fetch(v, offset + GROUP);
    return 0;
}

/* The same without a node that has them, or past what that knows of */
static int coroutine_fn verify_hash_peer(VerifyJob *v, int64_t offset,
                                         Error **errp)
{
    int64_t bytes = MIN(GROUP, v->length - offset);
    g_autofree uint8_t *buf = g_malloc(bytes);
    int ret = verify_read_peer(v, offset, bytes, buf, errp);

    if (ret >= 0 && !is_cancelled(v)) {
        block_job_ratelimit_processed_bytes(&v->common, bytes);
        replication_hash(buf, bytes, v->theirs);
    }
    return ret;
}

static int coroutine_fn verify_hash_ours(VerifyJob *v, int64_t offset,
                                         Error **errp)
{
    int64_t end = MIN(offset + GROUP, v->length);
    uint8_t *hashes = v->ours;

    while (offset < end) {
        int64_t n;

        block_job_ratelimit_sleep(&v->common);
        if (is_cancelled(v)) {
            return 0;
        }
        n = replication_job_hash(&v->common, v->source, offset, end - offset,
                                 PIECE, v->buf, hashes, errp);
        if (n < 0) {
            return n;
        }
        job_progress_update(&v->common.job, n);
        offset += n;
        hashes += DIV_ROUND_UP(n, CHUNK) * REPLICATION_HASH_SIZE;
    }
    return 0;
}

static int coroutine_fn verify_group(VerifyJob *v, int64_t offset,
                                     Error **errp)
{
    int ret = verify_give_way(v, errp);

    if (ret < 0 || is_cancelled(v)) {
        return ret;
    }
    ret = offset < v->hashed ? verify_fetch(v, offset, errp)
                             : verify_hash_peer(v, offset, errp);
    if (ret < 0 || is_cancelled(v)) {
        return ret;
    }
    ret = verify_hash_ours(v, offset, errp);
    if (ret < 0 || is_cancelled(v)) {
        return ret;
    }
    for (unsigned i = 0; i < hash_bytes(v, offset) / REPLICATION_HASH_SIZE &&
         ret >= 0 && !is_cancelled(v); i++) {
        int64_t at = offset + i * CHUNK;
        int64_t bytes = MIN(CHUNK, v->length - at);

        if (memcmp(v->ours + i * REPLICATION_HASH_SIZE,
                   v->theirs + i * REPLICATION_HASH_SIZE,
                   REPLICATION_HASH_SIZE) &&
            !replication_watch_is_void(v->s->watch, at, bytes)) {
            ret = verify_doubt(v, at, bytes, errp);
        }
    }
    return ret < 0 ? ret : verify_resolve_ready(v, errp);
}

/* All of it was compared: what is the result? */
static int verify_judge(VerifyJob *v, Error **errp)
{
    if (v->different_bytes) {
        error_setg(errp, "disk '%s' and that of the secondary differ in %"
                   PRIu64 " bytes, the first at offset %" PRId64, v->disk,
                   v->different_bytes, v->first);
        return -EILSEQ;
    }
    if (v->undecided) {
        error_setg(errp, "it cannot be told whether disk '%s' and that of the "
                   "secondary are equal, the first doubt is at offset %" PRId64
                   ": the guest has discarded in so many places that it is "
                   "not known of all of them", v->disk, v->undecided_at);
        return -EOVERFLOW;
    }
    return 0;
}

static int coroutine_fn verify_all(VerifyJob *v, Error **errp)
{
    /* What came before could undo what is newer: see resync.c */
    int ret = verify_settle(v, errp);

    if (ret >= 0 && !is_cancelled(v)) {
        verify_begin_fetch(v, 0);
    }
    for (int64_t offset = 0; offset < v->length && ret >= 0 &&
         !is_cancelled(v); offset += GROUP) {
        ret = verify_group(v, offset, errp);
    }
    if (ret >= 0 && !is_cancelled(v)) {
        ret = verify_resolve(v, 0, errp);
    }
    while (v->n_doubts) {
        verify_forget_doubt(v);
    }
    return ret;
}

static int coroutine_fn verify_run(Job *job, Error **errp)
{
    VerifyJob *v = container_of(job, VerifyJob, common.job);
    int ret;

    trace_replication_verify_begin(replication_name(v->s), v->length);
    job_progress_set_remaining(job, v->length);
    v->buf = blk_try_blockalign(v->source, PIECE);
    if (!v->buf) {
        return -ENOMEM;
    }
    ret = verify_all(v, errp);
    replication_hash_end(&v->fetch);
    qemu_vfree(v->buf);
    trace_replication_verify_end(replication_name(v->s), ret, v->n_looked_at,
                                 v->different_bytes);
    if (ret < 0 || is_cancelled(v)) {
        return ret;
    }
    return verify_judge(v, errp);
}

/* Give back what was attached, while nothing is under way */
static void verify_detach(VerifyJob *v)
{
    BlockDriverState *top = v->top;

    bdrv_ref(top);
    bdrv_drained_begin(top);
    blk_unref(v->source);
    blk_unref(v->fetch.blk);
    block_job_remove_all_bdrv(&v->common);
    bdrv_drained_end(top);
    bdrv_unref(top);
    g_free(v->disk);
}

static void verify_clean(Job *job)
{
    VerifyJob *v = container_of(job, VerifyJob, common.job);
    BDRVReplicationState *s = v->s;

    s->verify = NULL;
    if (v->different_bytes) {
        s->verified = false;
    } else if (job->ret >= 0 && !job_is_cancelled(job)) {
        s->verified = true;
        qatomic_set(&s->different_bytes, 0);
    }
    replication_problems_changed();
    verify_detach(v);
}

static void verify_query(BlockJob *job, BlockJobInfo *info)
{
    VerifyJob *v = container_of(job, VerifyJob, common);

    info->u.colo_verify.different_bytes = qatomic_read(&v->different_bytes);
}

static const BlockJobDriver verify_driver = {
    .job_driver = {
        .instance_size = sizeof(VerifyJob),
        .job_type = JOB_TYPE_COLO_VERIFY,
        .free = block_job_free,
        .user_resume = block_job_user_resume,
        .run = verify_run,
        .clean = verify_clean,
    },
    .query = verify_query,
};

/* What is known */

void replication_verify_problem(BDRVReplicationState *s, Error **errp)
{
    uint64_t bytes = qatomic_load_acquire(&s->different_bytes);
    g_autofree char *disk = NULL;

    if (!bytes) {
        return;
    }
    disk = replication_disk_name(s);
    error_setg(errp, "node '%s': disk '%s' and that of the secondary differ in "
               "%" PRIu64 " bytes, the first at offset %" PRId64 ", so that "
               "the guest would read something else after a failover: end the "
               "session, and bring the secondary's up to date by x-colo-resync",
               replication_name(s), disk ?: replication_name(s), bytes,
               qatomic_read(&s->different_at));
}

/* The command, main thread */

typedef struct VerifyArguments {
    const char *job_id;
    BlockDriverState *top;
    BlockDriverState *node;
    BlockDriverState *source;
    BlockDriverState *hashes;   /* NULL for none */
    int64_t speed;
} VerifyArguments;

/* Is @node one that replicates now? */
static bool check_node(BlockDriverState *node, Error **errp)
{
    BDRVReplicationState *s = replication_of(node);

    if (!s || s->mode != REPLICATION_MODE_PRIMARY) {
        error_setg(errp, "node '%s' is not for replication in primary mode: "
                   "disks are compared on the primary",
                   bdrv_get_node_name(node));
        return false;
    }
    if (s->shared_disk) {
        error_setg(errp, "node '%s' is that of a shared disk: there is nothing "
                   "to compare, both sides have the same image",
                   replication_name(s));
        return false;
    }
    if (s->stage == COLO_DISK_STAGE_IDLE) {
        error_setg(errp, "node '%s' is in no session yet: x-colo-resync with "
                   "mode 'hash' compares the disks now, and sends what differs",
                   replication_name(s));
        return false;
    }
    if (s->stage != COLO_DISK_STAGE_RUNNING) {
        error_setg(errp, "the session of node '%s' is over: build the pair "
                   "again, by x-colo-resync with mode 'hash' say",
                   replication_name(s));
        return false;
    }
    if (s->verify) {
        error_setg(errp, "node '%s' is being compared by job '%s'",
                   replication_name(s), s->verify->job.id);
        return false;
    }
    if (s->peer->bl.request_alignment > REPLICATION_PEER_READ_ALIGN) {
        error_setg(errp, "node '%s' cannot be read in units of %" PRId64
                   " bytes", replication_user_name_locked(s->peer),
                   REPLICATION_PEER_READ_ALIGN);
        return false;
    }
    return true;
}

/* Find the nodes; whether all are there and as they should be */
static bool find_nodes(VerifyArguments *args, const char *node,
                       const char *source, const char *hashes, Error **errp)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    args->node = bdrv_lookup_bs(node, node, errp);
    if (!args->node || !check_node(args->node, errp)) {
        return false;
    }
    args->top = replication_job_top(args->node, errp);
    if (!args->top) {
        return false;
    }
    args->source = replication_job_source(args->top, args->node, source, errp);
    if (!args->source) {
        return false;
    }
    if (hashes) {
        args->hashes = bdrv_lookup_bs(hashes, hashes, errp);
        return args->hashes != NULL;
    }
    return true;
}

/* Attach the job to all that it uses */
static bool verify_attach(VerifyJob *v, VerifyArguments *args, Error **errp)
{
    v->source = replication_job_reader(args->source, errp);
    if (!v->source) {
        return false;
    }
    if (args->hashes) {
        v->fetch.blk = replication_job_reader(args->hashes, errp);
        if (!v->fetch.blk) {
            return false;
        }
    }
    return replication_job_attach(&v->common, v->node, args->source, errp);
}

/* The job, not started; NULL with @errp */
static VerifyJob *verify_new(VerifyArguments *args, Error **errp)
{
    VerifyJob *v;
    bool direct = false;

    if (args->hashes &&
        !replication_hash_check(args->hashes, args->source,
                                replication_of(args->node), &direct, errp)) {
        return NULL;
    }
    v = block_job_create(args->job_id, &verify_driver, NULL, args->top, 0,
                         BLK_PERM_ALL, args->speed, JOB_DEFAULT, NULL, NULL,
                         errp);
    if (!v) {
        return NULL;
    }
    v->s = replication_of(args->node);
    v->top = args->top;
    v->node = args->node;
    v->fetch.direct = direct;
    QSIMPLEQ_INIT(&v->doubts);
    v->length = bdrv_getlength(args->node);
    if (args->hashes) {
        /* Whole groups, or all of it */
        v->hashed = MIN(replication_hash_place(bdrv_getlength(args->hashes)),
                        v->length);
    }
    v->disk = replication_disk_name(v->s) ?: g_strdup(replication_name(v->s));
    if (verify_attach(v, args, errp)) {
        return v;
    }
    verify_detach(v);
    job_early_fail(&v->common.job);
    return NULL;
}

void qmp_x_colo_verify(const char *job_id, const char *node,
                       const char *source, const char *hashes, bool has_speed,
                       uint64_t speed, Error **errp)
{
    VerifyArguments args = {
        .job_id = job_id,
        .speed = has_speed ? speed : 0,
    };
    VerifyJob *v;

    if (!replication_job_check_speed(has_speed ? speed : 0, errp) ||
        !find_nodes(&args, node, source, hashes, errp)) {
        return;
    }
    bdrv_drained_begin(args.top);
    v = verify_new(&args, errp);
    bdrv_drained_end(args.top);
    if (v) {
        v->s->verify = &v->common;
        job_start(&v->common.job);
    }
}
