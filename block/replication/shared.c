/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: a disk whose image both hosts reach, the primary's half.
 *
 *      guest                       the secondary's guest
 *        |                                   |
 *   replication, file  ----.            replication
 *        |             log |                 |
 *        | hidden          |              active
 *        v                 |                 |
 *   NBD client ------------+-- NBD -------> hidden
 *                          |   (puts)        |
 *                          '--> image <------'
 *
 * The node is a filter right above the image.  The image is at all times what
 * the primary's guest has written.  The secondary's guest is to see it as of
 * the last checkpoint.  So in a session, before something is overwritten, what
 * was there is put into the secondary's hidden overlay
 * (store.c), once for each unit and epoch.  The NBD client to there
 * is a child that comes and goes with the secondary (x-blockdev-change).
 *
 * What the guest writes in a session goes into the log (log.c),
 * and the log's thread puts and writes.  As with a replicated disk, records of
 * an epoch wait until the secondary has loaded the checkpoint before it, and a
 * checkpoint is not complete until all from before it is written.  So when the
 * hidden overlay is emptied nothing is on its way there, and all units have to
 * be put again.  What the guest reads is the image under a view of the log.
 *
 * A policy says what is done with records:
 *
 *  PASS  no session: they are written.  Once the log is empty requests go
 *        straight to the image, as with any filter.
 *  KEEP  a session: they are written when what was there has been put.
 *  HOLD  that cannot be done any more: the peer is lost, or an error.  The
 *        secondary can take over with what it has, and must not see a
 *        changed image.  Nothing is written until it is known that this side
 *        goes on.
 *  DROP  it is not, and QEMU ends: nothing is ever written.
 *
 * The guest runs on in HOLD until the log is full, or it waits for a flush.
 *
 * Draining, or writing in the main loop, waits neither for the peer nor for a
 * decision: what is in the log is not in flight.  The log's thread reads and
 * writes the image only while the node is not drained, and in flight.  With
 * PASS what is left is written in any case, and somebody always counts as in
 * flight for it.
 *
 * So a flush waits until the image has all that came before it, if what the
 * guest says next may leave before the next checkpoint is committed (hybrid
 * mode): whatever a client has seen, it is on the disk if both hosts fail at
 * once.  In periodic mode, where it cannot leave, the commit sees to that and a
 * flush is done when the log has it.  So it is if the node is drained: that is
 * mostly a cut, and then the commit comes before what the guest says, too.  If
 * it is another drain, or that of a guest whose peer is lost, and both hosts
 * fail while that record is on its way to the image, a flush has been answered
 * that the disk lacks.  The same goes for a flush that is under way while the main
 * loop waits for a request of any node.
 *
 * The price of the log: an error of the image comes late.  Whatever is written
 * or flushed from then on fails.
 *
 * Threads: requests come in any; the log has one; all else is under the BQL,
 * but for shared_allow().
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/coroutine.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "block/aio-wait.h"
#include "block/block-io.h"
#include "block/graph-lock.h"
#include "trace.h"
#include "internal.h"

/* What is put at a time: the usual cluster of qcow2 */
#define UNIT (64 * KiB)
/* So many at once, if they follow each other */
#define MAX_UNITS 16

/* Zeroes that come as one; each unit of them costs a put of what was there */
#define MAX_ZEROES (16 * MiB)

/* How long a checkpoint of Xen's may wait for what is under way, ms */
#define CHECKPOINT_TIMEOUT_MS 5000

typedef enum SharedPolicy {
    SHARED_PASS,
    SHARED_KEEP,
    SHARED_HOLD,
    SHARED_DROP,
    SHARED__MAX,
} SharedPolicy;

static const char *const policy_names[] = { "pass", "keep", "hold", "drop" };
QEMU_BUILD_BUG_ON(ARRAY_SIZE(policy_names) != SHARED__MAX);

/* What may follow each, bits */
static const unsigned next_policies[SHARED__MAX] = {
    [SHARED_PASS] = BIT(SHARED_KEEP) | BIT(SHARED_DROP),
    [SHARED_KEEP] = BIT(SHARED_PASS) | BIT(SHARED_HOLD) | BIT(SHARED_DROP),
    [SHARED_HOLD] = BIT(SHARED_PASS) | BIT(SHARED_DROP),
};

/* A unit that was touched in this epoch; it is NULL if it was not */
#define UNIT_PUTTING GINT_TO_POINTER(1)
#define UNIT_PUT     GINT_TO_POINTER(2)

struct ReplicationShared {
    /* Set once */
    BDRVReplicationState *s;

    /* BQL */
    BdrvChild *hidden;          /* or NULL */
    bool used;                  /* it was in a session */
    uint64_t epoch;             /* of Xen's checkpoints */

    QemuMutex lock;
    /* All below: lock */
    SharedPolicy policy;
    GHashTable *units;          /* number to UNIT_... */
    unsigned n_users;           /* of the peer, by other threads */
    unsigned drained;
    uint64_t put_bytes;
    CoQueue changed;            /* policy, units, drained */
    unsigned n_waiting;         /* in changed, at least */
};

/* Let all who wait look again; drops the lock for each */
static void wake_locked(ReplicationShared *sh)
{
    unsigned n = sh->n_waiting;

    while (n-- && qemu_co_enter_next(&sh->changed, &sh->lock)) {
        ;
    }
}

static void coroutine_fn wait_locked(ReplicationShared *sh)
{
    sh->n_waiting++;
    qemu_co_queue_wait(&sh->changed, &sh->lock);
    sh->n_waiting--;
}

static void set_policy_locked(ReplicationShared *sh, SharedPolicy policy)
{
    assert(next_policies[sh->policy] & BIT(policy));
    trace_replication_shared_policy(replication_name(sh->s),
                                    policy_names[sh->policy],
                                    policy_names[policy]);
    sh->policy = policy;
    wake_locked(sh);
}

static bool has_policy(ReplicationShared *sh, SharedPolicy policy)
{
    QEMU_LOCK_GUARD(&sh->lock);
    return sh->policy == policy;
}

/*
 * The errno with which the image could not be written to, or 0.  What the log
 * had is lost then, so all that follows fails.
 */
static int image_error(ReplicationShared *sh)
{
    ReplicationLogStats stats;

    replication_log_stats(sh->s->log, &stats);
    return stats.err == ECANCELED ? 0 : stats.err; /* QEMU ends */
}

/*
 * Do requests go straight to the image?  In PASS the log only gets shorter,
 * but for requests that found it not empty; they wait until it is.
 */
static bool is_direct(ReplicationShared *sh)
{
    return has_policy(sh, SHARED_PASS) &&
           replication_log_is_empty(sh->s->log) && !image_error(sh);
}

static void leave_peer_locked(ReplicationShared *sh)
{
    assert(sh->n_users);
    sh->n_users--;
    aio_wait_kick();            /* shared_stop() may wait */
}

static bool has_users(ReplicationShared *sh)
{
    QEMU_LOCK_GUARD(&sh->lock);
    return sh->n_users;
}

/*
 * Nothing can be put any more, for the reason @err: an errno, ECANCELED if
 * whoever calls knows.  Any thread.
 */
static void hold(ReplicationShared *sh, int err)
{
    g_autoptr(Error) error = NULL;

    WITH_QEMU_LOCK_GUARD(&sh->lock) {
        if (sh->policy != SHARED_KEEP) {
            return;
        }
        sh->n_users++;
        set_policy_locked(sh, SHARED_HOLD);
    }
    replication_yank(sh->s->peer);
    if (err != ECANCELED) {
        error_setg_errno(&error, err, "node '%s' could not preserve for the "
                         "secondary what the guest overwrites",
                         replication_name(sh->s));
        replication_report_error(replication_name(sh->s), error);
    }
    WITH_QEMU_LOCK_GUARD(&sh->lock) {
        leave_peer_locked(sh);
    }
}

/* The image, as the log's thread uses it */

/* False: never again.  Else image_end() follows soon, without a wait. */
static bool coroutine_fn image_begin(ReplicationShared *sh)
{
    QEMU_LOCK_GUARD(&sh->lock);
    while (sh->policy == SHARED_HOLD ||
           (sh->policy == SHARED_KEEP && sh->drained)) {
        wait_locked(sh);
    }
    if (sh->policy == SHARED_DROP) {
        return false;
    }
    bdrv_inc_in_flight(sh->s->bs);
    return true;
}

static void coroutine_fn image_end(ReplicationShared *sh)
{
    bdrv_dec_in_flight(sh->s->bs);
}

static int coroutine_fn image_read(ReplicationShared *sh, int64_t offset,
                                   int64_t bytes, void *buf)
{
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, bytes);
    int ret;

    if (!image_begin(sh)) {
        return -ECANCELED;
    }
    WITH_GRAPH_RDLOCK_GUARD() {
        ret = bdrv_co_preadv(sh->s->bs->file, offset, bytes, &qiov, 0);
    }
    image_end(sh);
    return ret;
}

/* What was there */

static int coroutine_fn put(ReplicationShared *sh, int64_t offset,
                            int64_t bytes)
{
    BDRVReplicationState *s = sh->s;
    QEMU_AUTO_VFREE uint8_t *buf = qemu_try_memalign(UNIT, bytes);
    QEMUIOVector qiov;
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    ret = image_read(sh, offset, bytes, buf);
    if (ret >= 0 && buffer_is_zero(buf, bytes)) {
        ret = replication_direct_zero(s, offset, bytes, 0);
    } else if (ret >= 0) {
        qemu_iovec_init_buf(&qiov, buf, bytes);
        ret = replication_direct_write(s, offset, bytes, &qiov);
    }
    trace_replication_shared_put(replication_name(s), offset, bytes, ret);
    return ret;
}

/* How many units from @first to @last nobody has touched in this epoch */
static int64_t untouched_locked(ReplicationShared *sh, int64_t first,
                                int64_t last)
{
    int64_t n = 0;

    last = MIN(last, first + MAX_UNITS - 1);
    while (first + n <= last &&
           !g_hash_table_lookup(sh->units, GSIZE_TO_POINTER(first + n))) {
        n++;
    }
    return n;
}

/* @state: NULL for untouched */
static void mark_locked(ReplicationShared *sh, int64_t first, int64_t n,
                        gpointer state)
{
    for (int64_t unit = first; unit < first + n; unit++) {
        if (state) {
            g_hash_table_insert(sh->units, GSIZE_TO_POINTER(unit), state);
        } else {
            g_hash_table_remove(sh->units, GSIZE_TO_POINTER(unit));
        }
    }
}

/* Put untouched units; the lock is dropped meanwhile */
static void coroutine_fn put_locked(ReplicationShared *sh, int64_t first,
                                    int64_t n)
{
    int64_t length = sh->s->bs->total_sectors * BDRV_SECTOR_SIZE;
    int64_t bytes = MIN(n * UNIT, length - first * UNIT);
    int ret;

    mark_locked(sh, first, n, UNIT_PUTTING);
    sh->n_users++;
    qemu_mutex_unlock(&sh->lock);

    ret = put(sh, first * UNIT, bytes);
    if (ret < 0) {
        hold(sh, -ret);
    }

    qemu_mutex_lock(&sh->lock);
    leave_peer_locked(sh);
    mark_locked(sh, first, n, ret < 0 ? NULL : UNIT_PUT);
    sh->put_bytes += ret < 0 ? 0 : bytes;
    wake_locked(sh);
}

/* Before these bytes are overwritten.  False: never do. */
static bool coroutine_fn preserve(ReplicationShared *sh, int64_t offset,
                                  int64_t bytes)
{
    int64_t unit = offset / UNIT;
    int64_t last = (offset + bytes - 1) / UNIT;

    QEMU_LOCK_GUARD(&sh->lock);
    while (unit <= last && sh->policy != SHARED_PASS) {
        gpointer state = g_hash_table_lookup(sh->units,
                                             GSIZE_TO_POINTER(unit));

        if (sh->policy == SHARED_DROP) {
            return false;
        }
        if (sh->policy == SHARED_HOLD || state == UNIT_PUTTING) {
            wait_locked(sh);
        } else if (state == UNIT_PUT) {
            unit++;
        } else {
            put_locked(sh, unit, untouched_locked(sh, unit, last));
        }
    }
    return true;
}

/* What the log calls */

static int coroutine_fn apply_write(void *opaque, int64_t offset,
                                    int64_t bytes, QEMUIOVector *qiov)
{
    BDRVReplicationState *s = opaque;
    int ret;

    if (!preserve(s->shared, offset, bytes) || !image_begin(s->shared)) {
        return -ECANCELED;
    }
    WITH_GRAPH_RDLOCK_GUARD() {
        ret = bdrv_co_pwritev(s->bs->file, offset, bytes, qiov, 0);
    }
    image_end(s->shared);
    return ret;
}

static int coroutine_fn apply_zero(void *opaque, int64_t offset,
                                   int64_t bytes, bool may_unmap)
{
    BDRVReplicationState *s = opaque;
    BdrvRequestFlags flags = may_unmap ? BDRV_REQ_MAY_UNMAP : 0;
    int ret;

    if (!preserve(s->shared, offset, bytes) || !image_begin(s->shared)) {
        return -ECANCELED;
    }
    WITH_GRAPH_RDLOCK_GUARD() {
        ret = bdrv_co_pwrite_zeroes(s->bs->file, offset, bytes, flags);
    }
    image_end(s->shared);
    return ret;
}

/* A hint, and not worth that its bytes are put */
static int coroutine_fn apply_discard(void *opaque, int64_t offset,
                                      int64_t bytes)
{
    return 0;
}

static int coroutine_fn apply_flush(void *opaque)
{
    BDRVReplicationState *s = opaque;
    int ret;

    if (!image_begin(s->shared)) {
        return -ECANCELED;
    }
    WITH_GRAPH_RDLOCK_GUARD() {
        ret = bdrv_co_flush(s->bs->file->bs);
    }
    image_end(s->shared);
    return ret;
}

/*
 * Whoever polls with the BQL may wait for just this write (blk_pwrite() does),
 * and would keep the word that this side goes on from being heard.
 */
static bool coroutine_fn shared_must_admit(void *opaque)
{
    return replication_primary_must_admit(opaque) ||
           qatomic_read(&global_aio_wait.num_waiters);
}

static void shared_broken(void *opaque, int err)
{
    BDRVReplicationState *s = opaque;
    g_autoptr(Error) error = NULL;

    if (err == ECANCELED) {
        return; /* QEMU ends */
    }
    hold(s->shared, ECANCELED);
    error_setg_errno(&error, err, "node '%s' could not write to the shared "
                     "image", replication_name(s));
    error_report("%s", error_get_pretty(error));
    replication_report_error(replication_name(s), error);
}

static const ReplicationLogOps shared_log_ops = {
    .write = apply_write,
    .zero = apply_zero,
    .discard = apply_discard,
    .flush = apply_flush,
    .must_admit = shared_must_admit,
    .broken = shared_broken,
};

/* What the guest does, in any thread */

static int coroutine_fn GRAPH_RDLOCK
shared_preadv(BDRVReplicationState *s, int64_t offset, int64_t bytes,
              QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    ReplicationLogView *view = replication_log_view(s->log, offset, bytes);
    int ret = bdrv_co_preadv(s->bs->file, offset, bytes, qiov, flags);

    if (view && ret >= 0) {
        replication_log_view_apply(view, qiov);
    }
    replication_log_view_free(view);
    return ret;
}

/* The log has the request: what does the guest hear? */
static int coroutine_fn logged(BDRVReplicationState *s)
{
    if (has_policy(s->shared, SHARED_PASS)) {
        replication_log_wait_empty(s->log);
    }
    return -image_error(s->shared);
}

/* The guest may say next that all it has written is there for good */
static int coroutine_fn log_flush(BDRVReplicationState *s)
{
    replication_log_flush(s->log);
    if (replication_has_early_output()) {
        replication_log_wait(s->log, replication_log_position(s->log));
    }
    return logged(s);
}

static int coroutine_fn GRAPH_RDLOCK
shared_pwritev(BDRVReplicationState *s, int64_t offset, int64_t bytes,
               QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    if (is_direct(s->shared)) {
        return bdrv_co_pwritev(s->bs->file, offset, bytes, qiov, flags);
    }
    replication_log_write(s->log, offset, bytes, qiov, 0);
    return flags & BDRV_REQ_FUA ? log_flush(s) : logged(s);
}

static int coroutine_fn GRAPH_RDLOCK
shared_pwrite_zeroes(BDRVReplicationState *s, int64_t offset, int64_t bytes,
                     BdrvRequestFlags flags)
{
    if (is_direct(s->shared)) {
        return bdrv_co_pwrite_zeroes(s->bs->file, offset, bytes, flags);
    }
    replication_log_zero(s->log, offset, bytes, flags & BDRV_REQ_MAY_UNMAP);
    return flags & BDRV_REQ_FUA ? log_flush(s) : logged(s);
}

static int coroutine_fn GRAPH_RDLOCK
shared_pdiscard(BDRVReplicationState *s, int64_t offset, int64_t bytes)
{
    if (s->session_discards && is_direct(s->shared)) {
        return bdrv_co_pdiscard(s->bs->file, offset, bytes);
    }
    return 0;
}

static int coroutine_fn GRAPH_RDLOCK shared_flush(BDRVReplicationState *s)
{
    if (is_direct(s->shared)) {
        return bdrv_co_flush(s->bs->file->bs);
    }
    return log_flush(s);
}

static bool shared_is_direct(BDRVReplicationState *s)
{
    return is_direct(s->shared);
}

/* From open to close */

static void shared_drain(BDRVReplicationState *s, bool begin)
{
    ReplicationShared *sh = s->shared;

    if (!sh) {
        return; /* shared_open() looks */
    }
    QEMU_LOCK_GUARD(&sh->lock);
    assert(begin || sh->drained);
    sh->drained += begin ? 1 : -1;
    replication_log_hurry(s->log, begin);
    if (!sh->drained) {
        wake_locked(sh);
    }
}

static int shared_open(BDRVReplicationState *s, uint64_t log_size,
                       Error **errp)
{
    ReplicationShared *sh;
    uint32_t align;

    bdrv_graph_rdlock_main_loop();
    align = s->bs->file->bs->bl.request_alignment;
    bdrv_graph_rdunlock_main_loop();

    s->log = replication_log_new(&shared_log_ops, s, log_size, align,
                                 MAX_UNITS * UNIT, errp);
    if (!s->log) {
        return -EIO;
    }
    sh = g_new0(ReplicationShared, 1);
    sh->s = s;
    sh->units = g_hash_table_new(NULL, NULL);
    qemu_mutex_init(&sh->lock);
    qemu_co_queue_init(&sh->changed);
    s->shared = sh;
    if (s->bs->quiesce_counter) {
        /* We have not been told, but shall be of the end */
        shared_drain(s, true);
    }
    return 0;
}

static void GRAPH_WRLOCK shared_add_child(BDRVReplicationState *s,
                                          BlockDriverState *peer,
                                          Error **errp)
{
    ReplicationShared *sh = s->shared;
    bool direct;

    if (sh->hidden) {
        error_setg(errp, "node '%s' has its peer, '%s'", replication_name(s),
                   s->peer->node_name);
        return;
    }
    if (replication_check_peer(peer, &direct, errp) < 0) {
        return;
    }
    if (!direct) {
        error_setg(errp, "'%s' is no NBD client", peer->node_name);
        return;
    }
    bdrv_ref(peer); /* the child's */
    sh->hidden = bdrv_attach_child(s->bs, peer, "hidden", &child_of_bds,
                                   BDRV_CHILD_DATA, errp);
    if (sh->hidden) {
        bdrv_ref(peer);
        s->peer = peer;
        sh->used = false;
    }
}

static void GRAPH_WRLOCK shared_del_child(BDRVReplicationState *s,
                                          BdrvChild *child, Error **errp)
{
    ReplicationShared *sh = s->shared;

    if (child != sh->hidden) {
        error_setg(errp, "only the child 'hidden' of node '%s' can be removed",
                   replication_name(s));
        return;
    }
    WITH_QEMU_LOCK_GUARD(&sh->lock) {
        if (sh->policy != SHARED_PASS || sh->n_users) {
            error_setg(errp, "node '%s' is in a session, or has not ended "
                       "it yet", replication_name(s));
            return;
        }
    }
    bdrv_unref_child(s->bs, child);
    sh->hidden = NULL;
    bdrv_schedule_unref(s->peer);
    s->peer = NULL;
}

/* What has to be right before a start */
static bool check_disk(BDRVReplicationState *s, Error **errp)
{
    int err = image_error(s->shared);
    int64_t of_peer, of_image;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    if (!replication_check_image(s->bs->file->bs, s->cache_coherent, errp)) {
        return false;
    }
    if (bdrv_is_read_only(s->bs)) {
        error_setg(errp, "the node is read-only");
        return false;
    }
    if (!s->peer) {
        error_setg(errp, "there is no way to the secondary's store: add it "
                   "with x-blockdev-change");
        return false;
    }
    if (s->shared->used) {
        error_setg(errp, "'%s' was in a session already: add another one in "
                   "its place", s->peer->node_name);
        return false;
    }
    of_peer = bdrv_getlength(s->peer);
    of_image = bdrv_getlength(s->bs);
    if (of_peer != of_image) {
        error_setg(errp, "the secondary's store '%s' has %" PRId64 " bytes, "
                   "but the image has %" PRId64, s->peer->node_name, of_peer,
                   of_image);
        return false;
    }
    if (err) {
        error_setg_errno(errp, err, "the shared image could not be written "
                         "to");
        return false;
    }
    return true;
}

static bool shared_ignores(BDRVReplicationState *s, ReplicationMode role)
{
    /* It is there for later, when this side is the primary */
    return role == REPLICATION_MODE_SECONDARY;
}

static void shared_check(BDRVReplicationState *s, Error **errp)
{
    ERRP_GUARD();

    if (!check_disk(s, errp)) {
        error_prepend(errp, "node '%s': ", replication_name(s));
    }
}

static void shared_start(BDRVReplicationState *s, Error **errp)
{
    ReplicationShared *sh = s->shared;

    /* What went straight to the image has ended, and the log is empty */
    bdrv_drained_begin(s->bs);
    WITH_QEMU_LOCK_GUARD(&sh->lock) {
        g_hash_table_remove_all(sh->units);
        set_policy_locked(sh, SHARED_KEEP);
    }
    replication_log_restart(s->log);
    sh->used = true;
    sh->epoch = 0;
    replication_set_stage(s, COLO_DISK_STAGE_RUNNING);
    bdrv_drained_end(s->bs);
}

static void shared_bypassed(BDRVReplicationState *s)
{
    g_autoptr(Error) error = NULL;

    hold(s->shared, ECANCELED);
    error_setg(&error, "what the guest writes does not reach node '%s' any "
               "more", replication_name(s));
    replication_report_error(replication_name(s), error);
}

static void shared_allow(BDRVReplicationState *s)
{
    QEMU_LOCK_GUARD(&s->shared->lock);
    g_hash_table_remove_all(s->shared->units);
}

static void shared_get_error(BDRVReplicationState *s, Error **errp)
{
    int err = image_error(s->shared);

    if (err) {
        error_setg_errno(errp, err, "node '%s' cannot write to the shared "
                         "image", replication_name(s));
    } else if (has_policy(s->shared, SHARED_HOLD)) {
        error_setg(errp, "node '%s' holds what the guest writes: the way to "
                   "the secondary is gone", replication_name(s));
    }
}

/* Xen's: the guest stands, and the secondary is told when we return */
static void shared_checkpoint(BDRVReplicationState *s, Error **errp)
{
    ERRP_GUARD();
    ReplicationShared *sh = s->shared;

    shared_get_error(s, errp);
    if (*errp) {
        return;
    }
    replication_log_cut(s->log, ++sh->epoch);
    if (!replication_log_settle(s->log, CHECKPOINT_TIMEOUT_MS, errp)) {
        return;
    }
    shared_allow(s);
    replication_log_allow(s->log, sh->epoch);
}

static void shared_abandon(BDRVReplicationState *s)
{
    hold(s->shared, ECANCELED);
}

/* Counts as in flight until the log is empty */
static void coroutine_fn empty_entry(void *opaque)
{
    BDRVReplicationState *s = opaque;

    replication_log_wait_empty(s->log);
    bdrv_dec_in_flight(s->bs);
}

/* After a failover it is known that this side goes on */
static void shared_stop(BDRVReplicationState *s, bool failover, Error **errp)
{
    ReplicationShared *sh = s->shared;
    bool pass = failover;

    WITH_QEMU_LOCK_GUARD(&sh->lock) {
        pass |= sh->policy == SHARED_KEEP;
        set_policy_locked(sh, pass ? SHARED_PASS : SHARED_DROP);
    }
    replication_yank(s->peer);
    if (!pass) {
        replication_set_stage(s, COLO_DISK_STAGE_STOPPED);
        return;
    }
    if (!replication_log_is_empty(s->log)) {
        bdrv_inc_in_flight(s->bs);
        aio_co_schedule(qemu_get_aio_context(),
                        qemu_coroutine_create(empty_entry, s));
    }
    replication_log_allow(s->log, UINT64_MAX);
    replication_set_stage(s, COLO_DISK_STAGE_IDLE);
    /* They end, or read the image once: then the peer may go */
    AIO_WAIT_WHILE_UNLOCKED(NULL, has_users(sh));
}

static void shared_query(BDRVReplicationState *s, ColoDiskStatistics *stats)
{
    QEMU_LOCK_GUARD(&s->shared->lock);
    stats->has_preserved_bytes = true;
    stats->preserved_bytes = s->shared->put_bytes;
}

/*
 * What is left is dropped: the session was not over, so the secondary may take
 * over.  (What was left after a session has been written, as the node was
 * drained.)
 */
static void shared_end(BDRVReplicationState *s)
{
    WITH_QEMU_LOCK_GUARD(&s->shared->lock) {
        if (s->shared->policy != SHARED_DROP) {
            set_policy_locked(s->shared, SHARED_DROP);
        }
    }
    if (s->peer) {
        replication_yank(s->peer);
    }
    replication_log_break(s->log, ECANCELED);
}

static void shared_close(BDRVReplicationState *s)
{
    replication_log_free(s->log);
    bdrv_unref(s->peer);
    g_hash_table_unref(s->shared->units);
    qemu_mutex_destroy(&s->shared->lock);
    g_free(s->shared);
}

/* The secondary has the same image, and does not hear of its length */
static int coroutine_fn GRAPH_RDLOCK
shared_truncate(BDRVReplicationState *s, int64_t length, Error **errp)
{
    if (replication_stage(s) == COLO_DISK_STAGE_RUNNING) {
        error_setg(errp, "Node '%s' is busy: its disk is shared with the "
                   "secondary, and keeps its length", replication_name(s));
        return -EBUSY;
    }
    return bdrv_co_truncate(s->bs->file, length, true, PREALLOC_MODE_OFF, 0,
                            errp);
}

const ReplicationKind replication_shared_primary = {
    .on_image = true,
    .max_transfer = MAX_UNITS * UNIT,
    .max_zeroes = MAX_ZEROES,
    .open = shared_open,
    .ignores = shared_ignores,
    .check = shared_check,
    .start = shared_start,
    .checkpoint = shared_checkpoint,
    .bypassed = shared_bypassed,
    .allow = shared_allow,
    .stop = shared_stop,
    .get_error = shared_get_error,
    .query = shared_query,
    .abandon = shared_abandon,
    .preadv = shared_preadv,
    .pwritev = shared_pwritev,
    .pwrite_zeroes = shared_pwrite_zeroes,
    .pdiscard = shared_pdiscard,
    .flush = shared_flush,
    .truncate = shared_truncate,
    .is_direct = shared_is_direct,
    .drain = shared_drain,
    .add_child = shared_add_child,
    .del_child = shared_del_child,
    .end = shared_end,
    .close = shared_close,
};
