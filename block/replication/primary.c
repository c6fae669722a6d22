/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the primary's half of the block driver.
 *
 * The node is the second child of the guest's disk, a quorum in fifo mode.
 * What the guest writes goes into the log (log.c) and is done;
 * the log's thread sends it to the child, as a rule an NBD client whose
 * server exports the disk of the secondary.
 *
 * The peer may be slow or dead at any time, and then nothing here may wait
 * for it: neither a drain (the VM stops, a device is reset, a child is taken
 * out of the quorum) nor whoever wants to change the graph.  A request that
 * goes through the block layer is counted, drained and holds the graph lock
 * until it ends.  So with a child "nbd" the log's thread calls the driver's
 * functions directly.  That is safe because
 *
 *  - we hold a reference to the child until the log is gone;
 *  - nothing writes to it but us, and nothing reads: no tracking of overlaps
 *    is missed, and the log has its own;
 *  - we keep to its limits: those of our node are at least as strict (the
 *    block layer splits what the guest asks for), the alignment is seen to
 *    here;
 *  - the NBD client sends and receives in the AioContext of the coroutine,
 *    under locks of its own, and has as many slots as the log has requests;
 *  - a change of its AioContext concerns only timers for reconnecting, which
 *    there are none of: "reconnect-delay" is refused, and after its first
 *    error the connection is shut for good and never used again.
 *
 * The NBD client is shut by way of yank: from any thread, at any time,
 * without waiting, and then all its requests end.
 *
 * With "batch" the child is a replication-sink, or has one behind it, and the
 * log's records go there many at a time: batch.h.
 *
 * With any other child (a local disk, in tests) the requests are ordinary
 * ones.  They stop while our node is drained, which it is whenever the child
 * is; they end as soon as the local disk allows.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-yank.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qnum.h"
#include "qobject/qstring.h"
#include "block/block-io.h"
#include "block/blockjob.h"
#include "block/graph-lock.h"
#include "generation.h"
#include "internal.h"
#include "peer-read.h"

/* The longest request that the log makes of several writes */
#define MAX_REQUEST MiB

/* How zeroes are written if the child cannot */
#define ZERO_CHUNK (256 * KiB)

/* The child as it is: its own functions.  Of a shared disk, too. */

static int coroutine_fn direct_read(BDRVReplicationState *s, int64_t offset,
                                    int64_t bytes, void *buf)
{
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, bytes);

    assume_graph_lock(); /* see above */
    return s->peer->drv->bdrv_co_preadv(s->peer, offset, bytes, &qiov, 0);
}

static int coroutine_fn direct_write(BDRVReplicationState *s, int64_t offset,
                                     int64_t bytes, QEMUIOVector *qiov)
{
    assume_graph_lock(); /* see above */
    return s->peer->drv->bdrv_co_pwritev(s->peer, offset, bytes, qiov, 0);
}

/*
 * Write what is not aligned: read the blocks at both ends first.  Nobody
 * writes to them meanwhile, as the log knows the alignment.
 */
static int coroutine_fn direct_write_unaligned(BDRVReplicationState *s,
                                               int64_t offset, int64_t bytes,
                                               QEMUIOVector *qiov)
{
    uint32_t align = s->peer->bl.request_alignment;
    int64_t begin = QEMU_ALIGN_DOWN(offset, align);
    int64_t end = ROUND_UP(offset + bytes, align);
    QEMU_AUTO_VFREE uint8_t *buf = qemu_try_memalign(align, end - begin);
    QEMUIOVector aligned;
    int ret = 0;

    if (!buf) {
        return -ENOMEM;
    }
    if (begin < offset) {
        ret = direct_read(s, begin, align, buf);
    }
    if (ret >= 0 && end > offset + bytes &&
        (end - begin > align || begin == offset)) {
        ret = direct_read(s, end - align, align, buf + (end - begin - align));
    }
    if (ret < 0) {
        return ret;
    }
    qemu_iovec_to_buf(qiov, 0, buf + (offset - begin), bytes);
    qemu_iovec_init_buf(&aligned, buf, end - begin);
    return direct_write(s, begin, end - begin, &aligned);
}

int coroutine_fn replication_direct_write(BDRVReplicationState *s,
                                          int64_t offset, int64_t bytes,
                                          QEMUIOVector *qiov)
{
    if (QEMU_IS_ALIGNED(offset | bytes, s->peer->bl.request_alignment)) {
        return direct_write(s, offset, bytes, qiov);
    }
    return direct_write_unaligned(s, offset, bytes, qiov);
}

static int coroutine_fn direct_zero_as_data(BDRVReplicationState *s,
                                            int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *zeroes = g_malloc0(MIN(bytes, ZERO_CHUNK));
    int ret = 0;

    while (bytes && ret >= 0) {
        int64_t n = MIN(bytes, ZERO_CHUNK);
        QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, zeroes, n);

        ret = replication_direct_write(s, offset, n, &qiov);
        offset += n;
        bytes -= n;
    }
    return ret;
}

int coroutine_fn replication_direct_zero(BDRVReplicationState *s,
                                         int64_t offset, int64_t bytes,
                                         BdrvRequestFlags flags)
{
    BlockDriverState *peer = s->peer;
    int ret = -ENOTSUP;

    assume_graph_lock(); /* see above */
    if (peer->drv->bdrv_co_pwrite_zeroes &&
        QEMU_IS_ALIGNED(offset | bytes, peer->bl.request_alignment)) {
        flags &= peer->supported_zero_flags;
        ret = peer->drv->bdrv_co_pwrite_zeroes(peer, offset, bytes, flags);
    }
    return ret == -ENOTSUP ? direct_zero_as_data(s, offset, bytes) : ret;
}

/* A discard is a hint: what cannot be done is left out */
static int coroutine_fn direct_discard(BDRVReplicationState *s, int64_t offset,
                                       int64_t bytes)
{
    BlockDriverState *peer = s->peer;
    int64_t begin = ROUND_UP(offset, peer->bl.request_alignment);
    int64_t end = QEMU_ALIGN_DOWN(offset + bytes, peer->bl.request_alignment);
    int ret;

    assume_graph_lock(); /* see above */
    if (begin >= end || !peer->drv->bdrv_co_pdiscard ||
        !(peer->open_flags & BDRV_O_UNMAP)) {
        return 0;
    }
    ret = peer->drv->bdrv_co_pdiscard(peer, begin, end - begin);
    return ret == -ENOTSUP ? 0 : ret;
}

static int coroutine_fn direct_flush(BDRVReplicationState *s)
{
    assume_graph_lock(); /* see above */
    return s->peer->drv->bdrv_co_flush_to_os(s->peer);
}

/* What the log calls */

static int coroutine_fn send_write(void *opaque, int64_t offset,
                                   int64_t bytes, QEMUIOVector *qiov)
{
    BDRVReplicationState *s = opaque;

    if (s->direct) {
        return replication_direct_write(s, offset, bytes, qiov);
    }
    GRAPH_RDLOCK_GUARD();
    return bdrv_co_pwritev(s->bs->file, offset, bytes, qiov, 0);
}

static int coroutine_fn send_zero(void *opaque, int64_t offset,
                                  int64_t bytes, bool may_unmap)
{
    BDRVReplicationState *s = opaque;
    BdrvRequestFlags flags = may_unmap ? BDRV_REQ_MAY_UNMAP : 0;

    if (s->direct) {
        return replication_direct_zero(s, offset, bytes, flags);
    }
    GRAPH_RDLOCK_GUARD();
    return bdrv_co_pwrite_zeroes(s->bs->file, offset, bytes, flags);
}

static int coroutine_fn send_discard(void *opaque, int64_t offset,
                                     int64_t bytes)
{
    BDRVReplicationState *s = opaque;

    if (s->direct) {
        return direct_discard(s, offset, bytes);
    }
    GRAPH_RDLOCK_GUARD();
    return bdrv_co_pdiscard(s->bs->file, offset, bytes);
}

static int coroutine_fn send_flush(void *opaque)
{
    BDRVReplicationState *s = opaque;

    if (s->direct) {
        return direct_flush(s);
    }
    GRAPH_RDLOCK_GUARD();
    return bdrv_co_flush(s->bs->file->bs);
}

/*
 * Many records at once, to a replication-sink.  The request is of any length
 * for the sink, but not for what is between us, maybe.
 */
static int coroutine_fn send_batch(void *opaque, const ReplicationBatch *batch,
                                   QEMUIOVector *data)
{
    static const uint8_t zeroes[BDRV_SECTOR_SIZE];
    BDRVReplicationState *s = opaque;
    size_t head = replication_batch_size(batch->n_entries);
    g_autofree uint8_t *buf = g_malloc(head);
    QEMUIOVector qiov;
    int64_t bytes;
    int ret;

    replication_batch_pack(batch, buf);
    qemu_iovec_init(&qiov, data->niov + 2);
    qemu_iovec_add(&qiov, buf, head);
    qemu_iovec_concat(&qiov, data, 0, data->size);
    bytes = ROUND_UP(qiov.size, sizeof(zeroes));
    qemu_iovec_add(&qiov, (void *)zeroes, bytes - qiov.size);
    if (s->direct) {
        ret = direct_write(s, s->sink_length, bytes, &qiov);
    } else {
        GRAPH_RDLOCK_GUARD();
        ret = bdrv_co_pwritev(s->bs->file, s->sink_length, bytes, &qiov, 0);
    }
    qemu_iovec_destroy(&qiov);
    return ret;
}

/* An ordinary request is one of our node's before it is one of its child's */
static void send_begin(void *opaque)
{
    BDRVReplicationState *s = opaque;

    if (!s->direct) {
        bdrv_inc_in_flight(s->bs);
    }
}

static void send_end(void *opaque)
{
    BDRVReplicationState *s = opaque;

    if (!s->direct) {
        bdrv_dec_in_flight(s->bs);
    }
}

bool replication_try_enter(BlockDriverState *bs)
{
    bdrv_inc_in_flight(bs);
    smp_mb__after_rmw();
    if (!qatomic_read(&bs->quiesce_counter)) {
        return true;
    }
    bdrv_dec_in_flight(bs);
    return false;
}

static bool GRAPH_RDLOCK is_drained_from_above(BlockDriverState *bs)
{
    BdrvChild *c;

    if (qatomic_read(&bs->quiesce_counter)) {
        return true;
    }
    QLIST_FOREACH(c, &bs->parents, next_parent) {
        if (c->klass->parent_is_bds && is_drained_from_above(c->opaque)) {
            return true;
        }
    }
    return false;
}

bool coroutine_fn replication_primary_must_admit(BDRVReplicationState *s)
{
    assume_graph_lock(); /* the request that asks holds it */
    return is_drained_from_above(s->bs);
}

static bool coroutine_fn primary_must_admit(void *opaque)
{
    return replication_primary_must_admit(opaque);
}

void replication_yank(BlockDriverState *nbd)
{
    YankInstance instance = {
        .type = YANK_INSTANCE_TYPE_BLOCK_NODE,
        .u.block_node.node_name = nbd->node_name,
    };
    YankInstanceList list = { .value = &instance };

    /* It fails when the NBD client is not connected any more */
    qmp_yank(&list, NULL);
}

static bool primary_in_session(void *opaque)
{
    return replication_stage(opaque) == COLO_DISK_STAGE_RUNNING;
}

static void primary_broken(void *opaque, int err)
{
    BDRVReplicationState *s = opaque;
    ColoDiskStage stage = replication_stage(s);
    g_autoptr(Error) error = NULL;

    if (s->direct) {
        replication_yank(s->peer);
    }
    if (err == ECANCELED || (stage != COLO_DISK_STAGE_RUNNING &&
                             stage != COLO_DISK_STAGE_IDLE)) {
        return; /* whoever did or will do this knows */
    }
    if (err == ENOLINK) {
        error_setg(&error, "what the guest writes does not reach node '%s' any "
                   "more", replication_name(s));
    } else {
        error_setg_errno(&error, err, "node '%s' could not write to the "
                         "secondary", replication_name(s));
    }
    replication_report_error(replication_name(s), error);
}

static const ReplicationLogOps primary_log_ops = {
    .write = send_write,
    .zero = send_zero,
    .discard = send_discard,
    .flush = send_flush,
    .begin = send_begin,
    .end = send_end,
    .must_admit = primary_must_admit,
    .stall_ms = REPLICATION_LOG_STALL_MS,
    .in_session = primary_in_session,
    .broken = primary_broken,
    .beside = true,
};

static const ReplicationLogOps primary_batch_ops = {
    .batch = send_batch,
    .begin = send_begin,
    .end = send_end,
    .must_admit = primary_must_admit,
    .stall_ms = REPLICATION_LOG_STALL_MS,
    .in_session = primary_in_session,
    .broken = primary_broken,
    .beside = true,
};

/* From open to close */

static bool is_nbd(BlockDriverState *bs)
{
    return bs->drv && !strcmp(bs->drv->format_name, "nbd");
}

static bool GRAPH_RDLOCK has_nbd_below(BlockDriverState *bs)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &bs->children, next) {
        if (is_nbd(c->bs) || has_nbd_below(c->bs)) {
            return true;
        }
    }
    return false;
}

/* Is there such an option, and is it not 0? */
static bool has_nonzero_option(BlockDriverState *bs, const char *name)
{
    QObject *value = qdict_get(bs->options, name);
    QString *string = qobject_to(QString, value);
    QNum *num = qobject_to(QNum, value);

    return (string && strcmp(qstring_get_str(string), "0")) ||
           (num && qnum_get_double(num) != 0);
}

int replication_check_peer(BlockDriverState *peer, bool *direct, Error **errp)
{
    *direct = is_nbd(peer);
    if (*direct && has_nonzero_option(peer, "reconnect-delay")) {
        error_setg(errp, "the NBD client '%s' has 'reconnect-delay', which "
                   "replication cannot allow: it has to be 0",
                   peer->node_name);
        return -EINVAL;
    }
    if (!*direct && has_nbd_below(peer)) {
        error_setg(errp, "there is '%s' (%s) between the NBD client and "
                   "replication, which cannot be", peer->node_name,
                   peer->drv->format_name);
        return -EINVAL;
    }
    return 0;
}

/*
 * Nobody drains only our child.  A node that is opened drained is told of each
 * drain there is, but only once of the end.
 */
static void primary_drain(BDRVReplicationState *s, bool begin)
{
    if (s->log && !s->direct && s->drained != begin) {
        s->drained = begin;
        replication_log_pause(s->log, begin);
    }
}

/* Whatever is written here, by a resync or the guest, would overwrite it */
static bool check_not_newer(BDRVReplicationState *s,
                            const ReplicationSinkInfo *info, Error **errp)
{
    const ColoDiskGeneration *peer = &info->generation;
    g_autofree char *ours = NULL;
    ColoDiskGeneration own;

    if (s->generation_file &&
        !replication_generation_load(s->generation_file, &own, errp)) {
        return false;
    }
    if (!info->has_generation ||
        !replication_generation_is_newer(peer, s->generation_file ? &own
                                                                  : NULL)) {
        return true;
    }
    if (s->generation_file) {
        ours = g_strdup_printf("generation %" PRIu64 " (%s)", own.number,
                               ColoDiskRole_str(own.role));
    }
    error_setg(errp, "the disk of the secondary is newer, of generation "
               "%" PRIu64 " (%s), than ours, of %s: start that one as the "
               "primary; or, to overwrite what is on it, remove the "
               "secondary's generation-file first", peer->number,
               ColoDiskRole_str(peer->role), ours ?: "none");
    return false;
}

/*
 * Is the child a sink?  Then we know how long the disk is, and from which
 * generation (@info)
 */
static int primary_open_sink(BDRVReplicationState *s,
                             ReplicationSinkInfo *info, Error **errp)
{
    ERRP_GUARD();
    BdrvChild *file = s->bs->file;
    int64_t length = bdrv_getlength(file->bs);
    uint8_t buf[REPLICATION_SINK_INFO_SIZE];
    int ret;

    if (length < 0) {
        error_setg_errno(errp, -length, "cannot tell the length of '%s'",
                         replication_user_name(file->bs));
        return length;
    }
    length -= REPLICATION_WINDOW;
    if (length > 0) {
        ret = bdrv_pread(file, length, sizeof(buf), buf, 0);
        if (ret < 0) {
            error_setg_errno(errp, -ret, "cannot read from '%s'",
                             replication_user_name(file->bs));
            return ret;
        }
    } else {
        memset(buf, 0, sizeof(buf));
    }
    if (!replication_sink_info_unpack(info, buf, length, errp)) {
        error_prepend(errp, "'batch' cannot be used with '%s': ",
                      replication_user_name(file->bs));
        return -EINVAL;
    }
    if (!check_not_newer(s, info, errp)) {
        return -EPERM;
    }
    s->sink_length = length;
    s->length = info->length;
    return 0;
}

/*
 * The secondary's disk was in a session, so it is an older one, until a resync
 * has seen to it; a copy has no generation.  The session asks the same.
 */
static void primary_expect_resync(BDRVReplicationState *s,
                                  const ReplicationSinkInfo *info)
{
    ColoDiskGeneration own;

    if (info->has_generation && info->generation.number &&
        s->generation_file &&
        replication_generation_load(s->generation_file, &own, NULL)) {
        replication_log_expect_resync(s->log, &own);
    }
}

static int primary_open(BDRVReplicationState *s, uint64_t log_size,
                        Error **errp)
{
    ReplicationSinkInfo info = { 0 };
    BlockDriverState *peer;
    int ret;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    peer = s->bs->file->bs;
    ret = replication_check_peer(peer, &s->direct, errp);
    if (ret < 0) {
        return ret;
    }
    if (s->batch) {
        ret = primary_open_sink(s, &info, errp);
        if (ret < 0) {
            return ret;
        }
    }
    s->log = replication_log_new(s->batch ? &primary_batch_ops
                                          : &primary_log_ops, s, log_size,
                                 peer->bl.request_alignment,
                                 MIN_NON_ZERO(peer->bl.max_transfer,
                                              MAX_REQUEST), errp);
    if (!s->log) {
        return -EIO;
    }
    primary_expect_resync(s, &info);
    s->watch = replication_watch_new();
    bdrv_ref(peer);
    s->peer = peer;
    return 0;
}

/* Nobody above us may find that what it reads is longer than we are */
static bool check_lengths(BDRVReplicationState *s, Error **errp)
{
    BdrvChild *c;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    QLIST_FOREACH(c, &s->bs->parents, next_parent) {
        BlockDriverState *parent = c->klass->parent_is_bds ? c->opaque : NULL;

        int64_t length = parent ? bdrv_getlength(parent) : 0;
        int64_t own = bdrv_getlength(s->bs);

        if (parent && length != own) {
            error_setg(errp, "node '%s' has %" PRId64 " bytes, but the disk "
                       "'%s' has %" PRId64, replication_name(s), own,
                       replication_user_name(parent), length);
            return false;
        }
    }
    return true;
}

/* Does the log have, or has it sent, all that was written? */
static bool check_log(BDRVReplicationState *s, Error **errp)
{
    ReplicationLogStats stats;

    if (s->misses) {
        error_setg(errp, "node '%s' was taken out of the guest's disk, and "
                   "does not have what was written meanwhile",
                   replication_name(s));
        return false;
    }
    replication_log_stats(s->log, &stats);
    if (stats.err) {
        error_setg_errno(errp, stats.err, "node '%s' does not replicate any "
                         "more", replication_name(s));
    }
    return !stats.err;
}

/* Does anything write to the node? */
static bool is_used(BDRVReplicationState *s)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return !QLIST_EMPTY(&s->bs->parents);
}

static void primary_check(BDRVReplicationState *s, Error **errp)
{
    if (s->resync) {
        error_setg(errp, "node '%s' cannot start before the resync, job "
                   "'%s', has ended", replication_name(s), s->resync->job.id);
        return;
    }
    if (s->differs) {
        error_setg(errp, "node '%s' cannot start, its last resync has not "
                   "completed", replication_name(s));
        return;
    }
    if (check_lengths(s, errp) && check_log(s, errp) && !is_used(s)) {
        error_setg(errp, "node '%s' is below no disk of the guest: add it to "
                   "one with x-blockdev-change", replication_name(s));
    }
}

/* What has ended the session; the log breaks after its end, too */
static void primary_get_error(BDRVReplicationState *s, Error **errp)
{
    if (s->stage == COLO_DISK_STAGE_RUNNING) {
        check_log(s, errp);
    }
}

static void primary_start(BDRVReplicationState *s, Error **errp)
{
    ERRP_GUARD();

    replication_set_stage(s, COLO_DISK_STAGE_RUNNING);
    /* From here on it would be reported */
    primary_get_error(s, errp);
    if (*errp) {
        replication_set_stage(s, COLO_DISK_STAGE_STOPPED);
    }
}

/* In a session */

/*
 * What is written while the node is not where the guest writes is missing in
 * the log, and on the other disk.
 */
static void primary_set_perm(BDRVReplicationState *s, uint64_t perm)
{
    if (perm & BLK_PERM_WRITE) {
        s->written = true;
    }
    /* A job may take all rights away for a moment in which nobody writes */
    if (s->written && QLIST_EMPTY(&s->bs->parents)) {
        s->misses = true;
    }
}

static void primary_bypassed(BDRVReplicationState *s)
{
    s->misses = true;
    replication_log_break(s->log, ENOLINK);
}

static void primary_cut(BDRVReplicationState *s)
{
    if (s->misses || !is_used(s)) {
        /* The guest's disk has lost it, and maybe got it again */
        replication_log_break(s->log, ENOLINK);
    }
}

static void primary_abandon(BDRVReplicationState *s)
{
    replication_log_break(s->log, ECANCELED);
}

static void primary_stop(BDRVReplicationState *s, bool failover, Error **errp)
{
    replication_set_stage(s, COLO_DISK_STAGE_STOPPED);
    primary_abandon(s);
}

/* The end */

static void primary_close(BDRVReplicationState *s)
{
    replication_sample_free(s);
    /* The log has broken, so they end */
    replication_peer_read_wait(s);
    replication_log_free(s->log);
    replication_watch_free(s->watch);
    bdrv_unref(s->peer);
}

/* What the guest does */

/* May the guest write now? */
static bool coroutine_fn GRAPH_RDLOCK may_write(BDRVReplicationState *s)
{
    return replication_stage(s) != COLO_DISK_STAGE_IDLE ||
           replication_has_node_above(s);
}

static int coroutine_fn GRAPH_RDLOCK
primary_preadv(BDRVReplicationState *s, int64_t offset, int64_t bytes,
               QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    return -EIO;
}

static int coroutine_fn GRAPH_RDLOCK
primary_pwritev(BDRVReplicationState *s, int64_t offset, int64_t bytes,
                QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    if (!may_write(s)) {
        return -EIO;
    }
    replication_watch_written(s->watch, offset, bytes);
    replication_log_write(s->log, offset, bytes, qiov, 0);
    if (flags & BDRV_REQ_FUA) {
        replication_log_flush(s->log);
    }
    return 0;
}

static int coroutine_fn GRAPH_RDLOCK
primary_pwrite_zeroes(BDRVReplicationState *s, int64_t offset, int64_t bytes,
                      BdrvRequestFlags flags)
{
    if (!may_write(s)) {
        return -EIO;
    }
    replication_watch_written(s->watch, offset, bytes);
    replication_log_zero(s->log, offset, bytes, flags & BDRV_REQ_MAY_UNMAP);
    if (flags & BDRV_REQ_FUA) {
        replication_log_flush(s->log);
    }
    return 0;
}

static int coroutine_fn GRAPH_RDLOCK
primary_pdiscard(BDRVReplicationState *s, int64_t offset, int64_t bytes)
{
    if (!may_write(s)) {
        return -EIO;
    }
    qatomic_set(&s->discarded, true);
    replication_watch_discarded(s->watch, offset, bytes);
    if (!s->session_discards) {
        return 0;
    }
    replication_log_discard(s->log, offset, bytes);
    return 0;
}

static int coroutine_fn GRAPH_RDLOCK
primary_flush(BDRVReplicationState *s)
{
    if (may_write(s)) {
        replication_log_flush(s->log);
    }
    return 0;
}

const ReplicationKind replication_primary = {
    /* The sender sees to the child's alignment */
    .takes_anything = true,
    .max_transfer = MAX_REQUEST,
    .open = primary_open,
    .check = primary_check,
    .start = primary_start,
    .bypassed = primary_bypassed,
    .cut = primary_cut,
    .checkpoint = primary_get_error,
    .stop = primary_stop,
    .get_error = primary_get_error,
    .abandon = primary_abandon,
    .preadv = primary_preadv,
    .pwritev = primary_pwritev,
    .pwrite_zeroes = primary_pwrite_zeroes,
    .pdiscard = primary_pdiscard,
    .flush = primary_flush,
    .truncate = replication_grow_truncate,
    .set_perm = primary_set_perm,
    .drain = primary_drain,
    .add_child = replication_add_no_child,
    .del_child = replication_del_no_child,
    .end = primary_abandon,
    .close = primary_close,
};
