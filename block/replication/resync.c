/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, primary side: bring the secondary's disk up to date.
 *
 * Goal: the guest runs on a quorum of its local disk and a replication node,
 * and what it writes goes to both disks.  This job sends the rest, or what of
 * it may differ, so that both are the same from then on.
 *
 * How: piece by piece the job holds requests to the quorum off, reads the
 * local disk, and puts what it has read into the log like a write of the
 * guest.  While a piece is held
 *
 *  - no write to it is under way: each that came before is on the local disk,
 *    so the job reads it, and in the log, so what the job appends follows it;
 *  - none begins: each that comes later is in the log after the job's.
 *
 * The log keeps the order, so the newest data wins on the other side, and the
 * local disk alone would not be the place to hold them off: the quorum writes
 * to its children at the same time, and a write may be in the log long before
 * it is on the disk.  All that writes waits (bdrv_wait_serialising_requests):
 * data, zeroes, discards, copy-on-read.
 *
 * Holding costs the guest the time of a read of at most CHUNK.  The job waits
 * for room in the log before, and leaves half of it to the guest.
 *
 * Mode hash: a piece is sent only if its hash is not the one that the
 * secondary's node "colo-hash" has (hash.c).  Nothing is held for
 * that, and nothing says that both hashes are of the same instant, but
 *
 *    equal hashes, taken at any two times after all records that were in the
 *    log when the job began have arrived, mean that the pieces are equal once
 *    the log is through.
 *
 * Look at one byte.  If the guest has not written to it since the job began,
 * nor had such a write under way then, neither side changes it any more: the
 * local disk since then, the other one since those records have arrived.  So
 * as the contents were equal it is and stays equal.  If it has, both disks got
 * that write, and those that followed it in the same order; what the other
 * side had before does not matter, nor what either had when its hash was
 * taken.  That is why the node has to be a child of the quorum from the
 * beginning of the job to its end, and why the job waits for old records: one
 * from before the node was taken out and put back, arriving after the hash was
 * taken, would undo what the guest has written meanwhile.
 *
 * So different hashes mean little, and to copy what is the same does no harm;
 * a piece is copied as above.  (Writes to the same place that a guest has
 * under way at the same time have no order, with or without this, and what is
 * in the place of one that failed is not known.  And XXH128 is no
 * cryptographic hash: a guest that looks for two blocks with the same one can
 * have its own disk differ.)
 *
 * Mode auto: both sides keep an intent log (intent.c), and both logs begin at the
 * same point.  Then only what is set in either of them may differ, and that is
 * sent, or compared by hashes if there is a node that has them.  The log of the
 * other side is read from the window of its sink.  Our own one has what the guest
 * writes from then on.  If a log cannot be used the job is one of mode hash, or
 * full, and says why.
 *
 * Hashes come from the peer, so the job must not be in a request for them
 * when somebody drains.  A coroutine in the main loop asks, past the block
 * layer if that is an NBD client (see primary.c for why this is
 * safe), and the job looks again and again whether it has an answer.
 *
 * Marks: a replication-sink is told, by records in the log before the first and
 * after the last piece, that a resync writes to its disk (target.c).  If the
 * disk there is known to be an older one the guest's first write does that.
 *
 * End: when all is in the log, a flush follows, and the job waits until that
 * has arrived.  Before that a session cannot be started, and after a failure
 * not until another job has got to its end.  The job never changes a bitmap:
 * whoever made it clears it when the sides part in order.
 *
 * Failure: the local disk or a hash cannot be read, the log has broken, the
 * quorum has lost one of the two children (it cannot come back as long as the
 * job has it: a node that has a parent is not added).  The log stays as it is.
 * A peer that stands still makes the job wait where it can be drained, paused
 * and cancelled, unless the guest has filled the log: then a held piece waits
 * for its writes, which wait for the peer, for the end of the connection, for
 * whoever drains, or until the log takes the peer for dead.
 *
 * Permissions: the job only reads, so nodes stay as writable as they are.  It
 * is attached and detached while the quorum is drained.
 *
 * Threads: made and ended in the main thread; runs in the AioContext of the
 * nodes; hashes are fetched in the main loop.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-colo.h"
#include "qemu/cutils.h"
#include "qemu/guest-random.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "block/block_int.h"
#include "block/blockjob_int.h"
#include "block/dirty-bitmap.h"
#include "system/block-backend.h"
#include "trace.h"
#include "generation.h"
#include "intent.h"
#include "internal.h"
#include "job.h"
#include "peer-read.h"
#include "watch.h"

/* What is read at a time */
#define CHUNK MiB

/* The most that is taken as one if it is zero */
#define ZERO_CHUNK (32 * MiB)

typedef struct ResyncJob {
    BlockJob common;

    /* Set once */
    BDRVReplicationState *s;
    BlockDriverState *top;      /* the quorum */
    BlockDriverState *node;     /* for replication */
    BlockBackend *source;
    BdrvDirtyBitmap *dirty;     /* all of it, or NULL for everything */
    bool has_generation;        /* of the local disk, which is: */
    ColoDiskGeneration generation;

    /* The job's coroutine */
    uint64_t point;             /* that both logs begin at, or 0 */
    uint8_t *buf;
    uint8_t theirs[REPLICATION_HASH_MAX_READ];
    uint8_t ours[REPLICATION_HASH_MAX_READ];
    uint64_t chunks;            /* compared */
    uint64_t equal;
    ReplicationHashFetch fetch;

    /* Read anywhere: atomic */
    ColoResyncMode mode;        /* auto until it is known which */
    bool by_log;                /* it is auto, and by the logs */
    const char *why;            /* it is auto, and not by them; or NULL */
    uint64_t compared_bytes;
    uint64_t sent_bytes;
} ResyncJob;

/* Does what the guest writes still go to both?  0 or an errno with @errp. */
static int GRAPH_RDLOCK resync_check(ResyncJob *r, Error **errp)
{
    ReplicationLogStats stats;

    replication_log_stats(r->s->log, &stats);
    if (stats.err) {
        error_setg_errno(errp, stats.err, "node '%s' could not write to the "
                         "secondary%s", replication_name(r->s),
                         stats.err == EPERM && r->s->batch
                         ? ": its disk may be newer" : "");
        return -stats.err;
    }
    if (!replication_job_child(r->top, r->node) ||
        !replication_job_child(r->top, blk_bs(r->source))) {
        error_setg(errp, "the disk has lost a child");
        return -ENOLINK;
    }
    return 0;
}

/* The job's life, in its coroutine */

/* Wait until @condition, or the job is cancelled, or cannot go on */
#define resync_wait(r, condition, errp) ({                              \
    int ret_;                                                           \
                                                                        \
    for (;;) {                                                          \
        WITH_GRAPH_RDLOCK_GUARD() {                                     \
            ret_ = resync_check(r, errp);                               \
        }                                                               \
        if (ret_ < 0 || job_is_cancelled(&(r)->common.job) ||           \
            (condition)) {                                              \
            break;                                                      \
        }                                                               \
        job_sleep_ns(&(r)->common.job, REPLICATION_JOB_POLL_NS);         \
    }                                                                   \
    ret_;                                                               \
})

static bool resync_has_room(ResyncJob *r)
{
    ReplicationLogStats stats;

    replication_log_stats(r->s->log, &stats);
    return stats.bytes <= stats.limit / 2;
}

/* Send what is held; *@bytes is what there is, then what has been done */
static int coroutine_fn GRAPH_RDLOCK
resync_held(ResyncJob *r, int64_t offset, int64_t *bytes, Error **errp)
{
    int64_t n;
    int ret = resync_check(r, errp);

    if (ret < 0) {
        return ret;
    }
    if (replication_job_is_zero(blk_bs(r->source), offset, *bytes, &n)) {
        *bytes = n;
        replication_log_copy(r->s->log, offset, n, NULL);
        replication_watch_written(r->s->watch, offset, n);
        return 0;
    }
    *bytes = MIN(*bytes, CHUNK);
    ret = bdrv_co_pread(replication_job_child(r->top, blk_bs(r->source)),
                        offset, *bytes, r->buf, 0);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "could not read the local disk");
        return ret;
    }
    block_job_ratelimit_processed_bytes(&r->common, *bytes);
    replication_watch_written(r->s->watch, offset, *bytes);
    if (buffer_is_zero(r->buf, *bytes)) {
        replication_log_copy(r->s->log, offset, *bytes, NULL);
    } else {
        replication_log_copy(r->s->log, offset, *bytes, r->buf);
        qatomic_set(&r->sent_bytes, r->sent_bytes + *bytes);
    }
    return 0;
}

/* Send the beginning of a range; *@bytes becomes how much of it that was */
static int coroutine_fn resync_piece(ResyncJob *r, int64_t offset,
                                     int64_t *bytes, Error **errp)
{
    BdrvTrackedRequest req;
    int64_t n;
    int ret;

    /*
     * From here to the end: who waits for us has the graph lock, and then
     * whoever wants to change the graph may keep us from taking it.
     */
    GRAPH_RDLOCK_GUARD();

    /* Only a hint of how much to hold: here the guest may write */
    *bytes = MIN(*bytes, ZERO_CHUNK);
    *bytes = replication_job_is_zero(blk_bs(r->source), offset, *bytes, &n)
             ? n : MIN(*bytes, CHUNK);

    bdrv_co_hold_range(&req, r->top, offset, *bytes);
    ret = resync_held(r, offset, bytes, errp);
    bdrv_co_release_range(&req);
    return ret;
}

/* Send all of a range, unless the job is cancelled */
static int coroutine_fn resync_range(ResyncJob *r, int64_t offset,
                                     int64_t bytes, Error **errp)
{
    while (bytes > 0) {
        int64_t n = bytes;
        int ret;

        block_job_ratelimit_sleep(&r->common);
        ret = resync_wait(r, resync_has_room(r), errp);
        if (ret < 0 || job_is_cancelled(&r->common.job)) {
            return ret;
        }
        ret = resync_piece(r, offset, &n, errp);
        if (ret < 0) {
            return ret;
        }
        if (r->mode != COLO_RESYNC_MODE_HASH) {
            job_progress_update(&r->common.job, n);
        }
        offset += n;
        bytes -= n;
    }
    return 0;
}

static int coroutine_fn resync_dirty(ResyncJob *r, int64_t len, Error **errp)
{
    int64_t offset = 0, bytes;
    int ret = 0;

    while (ret >= 0 && !job_is_cancelled(&r->common.job) &&
           bdrv_dirty_bitmap_next_dirty_area(r->dirty, offset, len, ZERO_CHUNK,
                                             &offset, &bytes)) {
        ret = resync_range(r, offset, bytes, errp);
        offset += bytes;
    }
    return ret;
}

/* Mode hash */

/* Send those chunks of a piece that differ: r->ours and @theirs */
static int coroutine_fn resync_differing(ResyncJob *r, int64_t offset,
                                         int64_t bytes, const uint8_t *theirs,
                                         Error **errp)
{
    const uint8_t *ours = r->ours;
    int64_t run = 0;

    for (int64_t at = 0; at < bytes; at += REPLICATION_HASH_CHUNK) {
        int64_t end = MIN(at + REPLICATION_HASH_CHUNK, bytes);
        bool equal = !memcmp(ours, theirs, REPLICATION_HASH_SIZE);

        r->chunks++;
        r->equal += equal;
        run += equal ? 0 : end - at;
        if (run && (equal || end == bytes)) {
            int64_t begin = (equal ? at : end) - run;
            int ret = resync_range(r, offset + begin, run, errp);

            if (ret < 0) {
                return ret;
            }
            run = 0;
        }
        ours += REPLICATION_HASH_SIZE;
        theirs += REPLICATION_HASH_SIZE;
    }
    return 0;
}

/*
 * Past what is known to be equal, a part of the disk from *@offset to @end; false
 * if it is not.  *@theirs: the hashes from there on.
 */
static bool resync_skip(ResyncJob *r, int64_t *offset, int64_t end,
                        const uint8_t **theirs)
{
    int64_t next;

    if (!r->dirty) {
        return false;
    }
    next = bdrv_dirty_bitmap_next_dirty(r->dirty, *offset, end - *offset);
    next = next < 0 ? end : QEMU_ALIGN_DOWN(next, REPLICATION_HASH_CHUNK);
    if (next <= *offset) {
        return false;
    }
    *theirs += DIV_ROUND_UP(next - *offset, REPLICATION_HASH_CHUNK) *
               REPLICATION_HASH_SIZE;
    *offset = next;
    return true;
}

/* How much of the disk from @offset on, which is looked at, may be at once */
static int64_t resync_may_read(ResyncJob *r, int64_t offset)
{
    int64_t end = -1;

    if (r->dirty) {
        end = bdrv_dirty_bitmap_next_zero(r->dirty, offset, CHUNK);
    }
    return end < 0 ? CHUNK : MAX(end - offset, REPLICATION_HASH_CHUNK);
}

/* A part of the disk that r->theirs are the hashes of */
static int coroutine_fn resync_compare(ResyncJob *r, int64_t offset,
                                       int64_t end, Error **errp)
{
    const uint8_t *theirs = r->theirs;

    while (offset < end) {
        int64_t n;
        int ret;

        block_job_ratelimit_sleep(&r->common);
        if (job_is_cancelled(&r->common.job)) {
            return 0;
        }
        if (resync_skip(r, &offset, end, &theirs)) {
            continue;
        }
        n = replication_job_hash(&r->common, r->source, offset, end - offset,
                                 resync_may_read(r, offset), r->buf, r->ours,
                                 errp);
        if (n < 0) {
            return n;
        }
        ret = resync_differing(r, offset, n, theirs, errp);
        if (ret < 0) {
            return ret;
        }
        qatomic_set(&r->compared_bytes, r->compared_bytes + n);
        job_progress_update(&r->common.job, n);
        offset += n;
        theirs += DIV_ROUND_UP(n, REPLICATION_HASH_CHUNK) *
                  REPLICATION_HASH_SIZE;
    }
    return 0;
}

/* Ask for the hashes from @offset on, of @total bytes of them */
static void resync_fetch(ResyncJob *r, int64_t offset, int64_t total)
{
    replication_hash_begin(&r->fetch, offset,
                           MIN(total - offset, REPLICATION_HASH_MAX_READ));
}

/*
 * The next hashes that are of any use, from @offset on: where they begin, or
 * @total
 */
static int64_t resync_next_hashes(ResyncJob *r, int64_t offset, int64_t total)
{
    int64_t at;

    if (!r->dirty || offset >= total) {
        return MIN(offset, total);
    }
    at = bdrv_dirty_bitmap_next_dirty(r->dirty, replication_hash_place(offset),
                                      INT64_MAX);
    /* In units of a sector of hashes */
    return at < 0 ? total
                  : MAX(offset, QEMU_ALIGN_DOWN(at / REPLICATION_HASH_CHUNK *
                                                REPLICATION_HASH_SIZE,
                                                BDRV_SECTOR_SIZE));
}

static int coroutine_fn resync_hashes(ResyncJob *r, int64_t len, Error **errp)
{
    ReplicationLog *log = r->s->log;
    uint64_t position = replication_log_position(log);
    int64_t total = replication_hash_length(len);
    int64_t offset = resync_next_hashes(r, 0, total);
    int ret;

    /* What came before could undo what is newer: see above */
    ret = resync_wait(r, replication_log_is_through(log, position), errp);
    if (ret < 0 || job_is_cancelled(&r->common.job) || offset == total) {
        return ret;
    }
    resync_fetch(r, offset, total);
    do {
        int64_t n, next;

        ret = resync_wait(r, !replication_hash_busy(&r->fetch), errp);
        if (ret < 0 || job_is_cancelled(&r->common.job)) {
            return ret;
        }
        if (r->fetch.ret < 0) {
            error_setg_errno(errp, -r->fetch.ret, "could not read the hashes "
                             "of the secondary");
            return r->fetch.ret;
        }
        n = r->fetch.bytes;
        memcpy(r->theirs, r->fetch.buf, n);
        next = resync_next_hashes(r, offset + n, total);
        if (next < total) {
            resync_fetch(r, next, total);
        }
        ret = resync_compare(r, replication_hash_place(offset),
                             MIN(len, replication_hash_place(offset + n)),
                             errp);
        offset = next;
    } while (ret >= 0 && offset < total && !job_is_cancelled(&r->common.job));
    return ret;
}

static int coroutine_fn resync_all(ResyncJob *r, int64_t len, Error **errp)
{
    switch (qatomic_read(&r->mode)) {
    case COLO_RESYNC_MODE_FULL:
        return resync_range(r, 0, len, errp);
    case COLO_RESYNC_MODE_BITMAP:
        return resync_dirty(r, len, errp);
    case COLO_RESYNC_MODE_HASH:
        return resync_hashes(r, len, errp);
    default:
        g_assert_not_reached();
    }
}

/* Mode auto */

/* What a node above the disk keeps, or NULL */
static BlockDriverState *coroutine_fn resync_intent(ResyncJob *r)
{
    GRAPH_RDLOCK_GUARD();
    return replication_intent_above(r->top);
}

/*
 * @bytes from @at on in the window of the secondary's sink, to @buf.  False with
 * @errp set, or if the job has been cancelled.
 */
static bool coroutine_fn resync_read_window(ResyncJob *r, int64_t at,
                                            int64_t bytes, uint8_t *buf,
                                            Error **errp)
{
    ReplicationPeerRead *read = replication_peer_read_window(r->s, at, bytes);
    const uint8_t *got;
    int ret = resync_wait(r, replication_peer_read_done(read), errp);

    if (ret >= 0 && replication_peer_read_done(read)) {
        ret = replication_peer_read_result(read, &got);
        if (ret >= 0) {
            memcpy(buf, got, bytes);
        } else {
            error_setg_errno(errp, -ret, "could not read the intent log of the "
                             "secondary");
        }
    }
    replication_peer_read_drop(read);
    return ret >= 0 && !job_is_cancelled(&r->common.job);
}

/* Set in r->dirty what the log of the secondary has; as above */
static bool coroutine_fn resync_merge_theirs(ResyncJob *r, int64_t len,
                                             const ReplicationIntentWindow *w,
                                             Error **errp)
{
    for (uint64_t at = 0; at < w->bytes; at += CHUNK) {
        int64_t bytes = MIN(CHUNK, w->bytes - at);

        if (!resync_read_window(r, REPLICATION_INTENT_BITS_AT + at, bytes,
                                r->buf, errp)) {
            return false;
        }
        for (uint64_t bit = 0; bit < bytes * 8; bit++) {
            int64_t offset = (at * 8 + bit) * w->region;

            if (r->buf[bit / 8] & (1 << (bit % 8)) && offset < len) {
                bdrv_set_dirty_bitmap(r->dirty, offset,
                                      MIN(w->region, len - offset));
            }
        }
    }
    return true;
}

/* Do regions of that size make up the disk? */
static bool is_of_length(const ReplicationIntentWindow *w, int64_t len)
{
    return is_power_of_2(w->region) && w->region <= len * 2 + GiB &&
           w->bytes <= REPLICATION_INTENT_BITS_MAX &&
           w->bytes == DIV_ROUND_UP(DIV_ROUND_UP(len, w->region), 8);
}

/* Why this side's log cannot be used, or NULL; *@info is to be freed */
static const char *own_log_problem(ResyncJob *r, BlockDriverState *intent,
                                   ReplicationIntentInfo *info)
{
    replication_intent_info(intent, info);
    if (!r->has_generation) {
        return "the node has no generation-file";
    }
    if (info->why) {
        return g_intern_string(info->why);
    }
    if (r->generation.number != info->number &&
        r->generation.number != info->number_before) {
        return "the intent log of this side is of another generation";
    }
    return NULL;
}

/* @name if it is one of ours, else 0 */
static uint64_t common_point(const ReplicationIntentInfo *info, uint64_t name)
{
    return name == info->common || name == info->common_next ? name : 0;
}

/*
 * Have r->dirty be what may differ by both logs: NULL, or the reason why that
 * cannot be.  @errp is set if the job has failed.
 */
static const char *coroutine_fn resync_by_log(ResyncJob *r, int64_t len,
                                              Error **errp)
{
    BlockDriverState *intent = resync_intent(r);
    g_autofree char *why = NULL;
    ReplicationIntentInfo info = { 0 };
    ReplicationIntentWindow w;
    uint8_t buf[REPLICATION_INTENT_HEAD];
    const char *problem;

    if (!intent) {
        return "there is no replication-intent above the disk";
    }
    if (!r->s->batch) {
        return "the other side has no replication-sink";
    }
    problem = own_log_problem(r, intent, &info);
    why = info.why;
    if (problem) {
        return problem;
    }
    if (!resync_read_window(r, REPLICATION_INTENT_AT, sizeof(buf), buf, errp)) {
        return NULL;
    }
    replication_intent_unpack(&w, buf);
    if (!w.common && !w.common_next) {
        return "the other side has no intent log that can be used";
    }
    r->point = common_point(&info, w.common) ?:
               common_point(&info, w.common_next);
    if (!r->point) {
        return "the intent logs do not begin at the same point";
    }
    if (!is_of_length(&w, len)) {
        r->point = 0;
        return "the intent log of the other side is of another length";
    }
    if (resync_merge_theirs(r, len, &w, errp)) {
        replication_intent_merge(intent, r->dirty);
    }
    return NULL;
}

/* See which mode it is; negative errno with @errp if the job has failed */
static int coroutine_fn resync_choose(ResyncJob *r, int64_t len, Error **errp)
{
    ERRP_GUARD();
    ColoResyncMode mode = r->fetch.blk ? COLO_RESYNC_MODE_HASH
                                       : COLO_RESYNC_MODE_FULL;
    const char *why;

    if (r->mode != COLO_RESYNC_MODE_AUTO) {
        return 0;
    }
    why = resync_by_log(r, len, errp);
    if (*errp) {
        return -EIO;
    }
    if (why) {
        BdrvDirtyBitmap *unused = g_steal_pointer(&r->dirty);

        bdrv_release_dirty_bitmap(unused);
        qatomic_set(&r->why, why);
    } else {
        qatomic_set(&r->by_log, true);
        mode = r->fetch.blk ? mode : COLO_RESYNC_MODE_BITMAP;
    }
    qatomic_set(&r->mode, mode);
    trace_replication_resync_chosen(replication_name(r->s), why ?: "by logs");
    return 0;
}

/*
 * From here on both logs speak of this point, if there are two.  Nothing is to
 * be said if there are not.
 */
static void coroutine_fn resync_name_point(ResyncJob *r)
{
    BlockDriverState *intent = resync_intent(r);
    uint64_t name;

    if (!intent || !r->s->batch || !r->has_generation) {
        return;
    }
    qemu_guest_getrandom_nofail(&name, sizeof(name));
    name = name >> 1 ?: 1;
    if (replication_intent_plan(intent, r->point, name,
                                r->generation.number) >= 0) {
        replication_log_common(r->s->log, name);
    }
}

/* The secondary has to know of it, if it is one that can be told */
static void coroutine_fn resync_mark(ResyncJob *r, bool begins)
{
    replication_log_resync(r->s->log, begins,
                           r->has_generation ? &r->generation : NULL);
}

/* Wait until all has arrived for good */
static int coroutine_fn resync_settle(ResyncJob *r, Error **errp)
{
    ReplicationLog *log = r->s->log;
    uint64_t position;

    replication_log_flush(log);
    resync_mark(r, false);
    resync_name_point(r);
    position = replication_log_position(log);
    return resync_wait(r, replication_log_is_through(log, position), errp);
}

static int coroutine_fn resync_run(Job *job, Error **errp)
{
    ResyncJob *r = container_of(job, ResyncJob, common.job);
    int64_t len = blk_co_getlength(r->source);
    int64_t total;
    int ret;

    if (len < 0) {
        error_setg_errno(errp, -len, "could not get the length of the local "
                         "disk");
        return len;
    }
    r->buf = blk_try_blockalign(r->source, CHUNK);
    if (!r->buf) {
        return -ENOMEM;
    }
    ret = resync_choose(r, len, errp);
    total = r->dirty ? bdrv_get_dirty_count(r->dirty) : len;
    trace_replication_resync_begin(replication_name(r->s),
                                   ColoResyncMode_str(r->mode), total);
    job_progress_set_remaining(job, total);
    if (ret >= 0 && !job_is_cancelled(job)) {
        resync_mark(r, true);
        ret = resync_all(r, len, errp);
    }
    replication_hash_end(&r->fetch);
    if (ret >= 0 && !job_is_cancelled(job)) {
        ret = resync_settle(r, errp);
    }
    qemu_vfree(r->buf);
    trace_replication_resync_end(replication_name(r->s), ret, r->chunks,
                                 r->equal, r->sent_bytes);
    return ret;
}

/* Give back what resync_attach() has taken, while nothing is under way */
static void resync_detach(ResyncJob *r)
{
    BlockDriverState *top = r->top;

    bdrv_ref(top);
    bdrv_drained_begin(top);
    blk_unref(r->source);
    blk_unref(r->fetch.blk);
    block_job_remove_all_bdrv(&r->common);
    bdrv_drained_end(top);
    bdrv_unref(top);
}

static void resync_clean(Job *job)
{
    ResyncJob *r = container_of(job, ResyncJob, common.job);

    r->s->resync = NULL;
    r->s->differs = job->ret < 0 || job_is_cancelled(job);
    r->s->resynced = !r->s->differs;
    r->s->by_log = r->by_log;
    if (r->dirty) {
        bdrv_release_dirty_bitmap(r->dirty);
    }
    resync_detach(r);
}

static void resync_query(BlockJob *job, BlockJobInfo *info)
{
    ResyncJob *r = container_of(job, ResyncJob, common);

    const char *why = qatomic_read(&r->why);

    info->u.colo_resync.mode = g_strdup(ColoResyncMode_str(
                                          qatomic_read(&r->mode)));
    info->u.colo_resync.by_log = qatomic_read(&r->by_log);
    info->u.colo_resync.why = g_strdup(why);
    info->u.colo_resync.compared_bytes = qatomic_read(&r->compared_bytes);
    info->u.colo_resync.sent_bytes = qatomic_read(&r->sent_bytes);
}

static const BlockJobDriver resync_driver = {
    .job_driver = {
        .instance_size = sizeof(ResyncJob),
        .job_type = JOB_TYPE_COLO_RESYNC,
        .free = block_job_free,
        .user_resume = block_job_user_resume,
        .run = resync_run,
        .clean = resync_clean,
    },
    .query = resync_query,
};

/* The command, main thread */

/* Is @node one that can be brought up to date now? */
static bool check_node(BlockDriverState *node, Error **errp)
{
    BDRVReplicationState *s = replication_of(node);

    if (!s || s->mode != REPLICATION_MODE_PRIMARY) {
        error_setg(errp, "node '%s' is not for replication in primary mode",
                   bdrv_get_node_name(node));
        return false;
    }
    if (s->shared_disk) {
        error_setg(errp, "node '%s' is that of a shared disk: there is nothing "
                   "to resync, both sides have the same image",
                   replication_name(s));
        return false;
    }
    if (s->stage != COLO_DISK_STAGE_IDLE) {
        error_setg(errp, "node '%s' is %s and cannot be resynced",
                   replication_name(s), ColoDiskStage_str(s->stage));
        return false;
    }
    if (s->resync) {
        error_setg(errp, "node '%s' is being resynced by job '%s'",
                   replication_name(s), s->resync->job.id);
        return false;
    }
    return true;
}

/* A copy of the bitmap @name as it is now */
static BdrvDirtyBitmap *copy_bitmap(BlockDriverState *bs, const char *name,
                                    Error **errp)
{
    BdrvDirtyBitmap *bitmap = bdrv_find_dirty_bitmap(bs, name);
    BdrvDirtyBitmap *copy;

    if (!bitmap) {
        error_setg(errp, "node '%s' has no bitmap '%s'",
                   bdrv_get_node_name(bs), name);
        return NULL;
    }
    if (bdrv_dirty_bitmap_check(bitmap, BDRV_BITMAP_DEFAULT, errp)) {
        return NULL;
    }
    if (!bdrv_dirty_bitmap_enabled(bitmap)) {
        error_setg(errp, "bitmap '%s' is disabled: it does not know what has "
                   "been written since", name);
        return NULL;
    }
    copy = bdrv_create_dirty_bitmap(bs, bdrv_dirty_bitmap_granularity(bitmap),
                                    NULL, errp);
    if (!copy) {
        return NULL;
    }
    bdrv_disable_dirty_bitmap(copy);
    bdrv_dirty_bitmap_merge_internal(copy, bitmap, NULL, true);
    return copy;
}

/* An empty one, for what both logs have */
static BdrvDirtyBitmap *new_bitmap(BlockDriverState *bs, Error **errp)
{
    BdrvDirtyBitmap *bitmap = bdrv_create_dirty_bitmap(
        bs, REPLICATION_HASH_CHUNK, NULL, errp);

    if (bitmap) {
        bdrv_disable_dirty_bitmap(bitmap);
    }
    return bitmap;
}

/* What the command was given */
typedef struct ResyncArguments {
    const char *job_id;
    ColoResyncMode mode;
    BlockDriverState *top;
    BlockDriverState *node;
    BlockDriverState *source;
    const char *bitmap;         /* NULL for none */
    BlockDriverState *hashes;   /* NULL for none */
    int64_t speed;
} ResyncArguments;

/* Attach the job to all that it uses */
static bool resync_attach(ResyncJob *r, ResyncArguments *args, Error **errp)
{
    r->source = replication_job_reader(args->source, errp);
    if (!r->source) {
        return false;
    }
    if (args->hashes) {
        r->fetch.blk = replication_job_reader(args->hashes, errp);
        if (!r->fetch.blk) {
            return false;
        }
    }
    return replication_job_attach(&r->common, r->node, args->source, errp);
}

static bool check_arguments(ResyncArguments *args, const char *hashes,
                            uint64_t speed, Error **errp)
{
    const char *mode = ColoResyncMode_str(args->mode);

    if ((args->mode == COLO_RESYNC_MODE_BITMAP) != (args->bitmap != NULL)) {
        error_setg(errp, "'bitmap' is %s with mode '%s'",
                   args->bitmap ? "not allowed" : "needed", mode);
        return false;
    }
    if (args->mode != COLO_RESYNC_MODE_AUTO &&
        (args->mode == COLO_RESYNC_MODE_HASH) != (hashes != NULL)) {
        error_setg(errp, "'hashes' is %s with mode '%s'",
                   hashes ? "not allowed" : "needed", mode);
        return false;
    }
    return replication_job_check_speed(speed, errp);
}

/* The job, not started; NULL with @errp */
static ResyncJob *resync_new(ResyncArguments *args, Error **errp)
{
    ResyncJob *r;
    bool direct = false;

    if (args->hashes &&
        !replication_hash_check(args->hashes, args->source,
                                replication_of(args->node), &direct, errp)) {
        return NULL;
    }
    r = block_job_create(args->job_id, &resync_driver, NULL, args->top, 0,
                         BLK_PERM_ALL, args->speed, JOB_DEFAULT, NULL, NULL,
                         errp);
    if (!r) {
        return NULL;
    }
    r->s = replication_of(args->node);
    r->top = args->top;
    r->node = args->node;
    r->mode = args->mode;
    r->fetch.direct = direct;
    r->has_generation = r->s->generation_file != NULL;
    if (replication_check_source(r->s, &r->generation, errp) &&
        resync_attach(r, args, errp)) {
        if (!args->bitmap && args->mode != COLO_RESYNC_MODE_AUTO) {
            return r;
        }
        r->dirty = args->bitmap ? copy_bitmap(args->source, args->bitmap, errp)
                                : new_bitmap(args->source, errp);
        if (r->dirty) {
            return r;
        }
    }
    resync_detach(r);
    job_early_fail(&r->common.job);
    return NULL;
}

/* Find the nodes; whether all are there and as they should be */
static bool find_nodes(ResyncArguments *args, const char *node,
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

void qmp_x_colo_resync(const char *job_id, const char *node,
                       const char *source, bool has_mode, ColoResyncMode mode,
                       const char *bitmap, const char *hashes, bool has_speed,
                       uint64_t speed, Error **errp)
{
    ResyncArguments args = {
        .job_id = job_id,
        .mode = has_mode ? mode : COLO_RESYNC_MODE_FULL,
        .bitmap = bitmap,
        .speed = has_speed ? speed : 0,
    };
    ResyncJob *r;

    if (!check_arguments(&args, hashes, has_speed ? speed : 0, errp) ||
        !find_nodes(&args, node, source, hashes, errp)) {
        return;
    }
    bdrv_drained_begin(args.top);
    r = resync_new(&args, errp);
    bdrv_drained_end(args.top);
    if (r) {
        r->s->resync = &r->common;
        r->s->misses = false;   /* unless it is taken out again */
        job_start(&r->common.job);
    }
}
