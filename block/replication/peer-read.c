/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, primary side: reads of the disk that a node writes to, while a
 * session runs, and short writes to what is no part of it.
 *
 * They go by way of the node's child, among the writes of the log, and in the
 * log's thread, so that an NBD client has to do with one thread only.  Like
 * those they go past the block layer if the child is an NBD client (primary.c),
 * and are requests of the node otherwise.
 *
 * A long one is made of short requests, one after the other.  An answer of
 * PIECE bytes is taken by any socket at once.  So the NBD server of the
 * secondary, which whoever drains there waits for, does not wait for us.
 *
 * What the disk has got since the node was made is beyond the length that the
 * client knows, and read by way of the window of the sink: batch.h.  That takes
 * two requests for each piece.
 *
 * A peer that stands still answers no read, and nothing but the end of the
 * session ends it.  So whoever waits may leave: a read that nobody waits for
 * frees itself when it ends, which it does when the log has broken and the
 * client is shut.  The node does not close before that.
 */

#include "qemu/osdep.h"
#include "qemu/memalign.h"
#include "qemu/timer.h"
#include "block/aio-wait.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "internal.h"
#include "peer-read.h"

#define PIECE (4 * KiB)

/* How often to look whether our node is drained no more, ns */
#define POLL_NS (2 * SCALE_MS)

struct ReplicationPeerRead {
    /* Set once */
    BDRVReplicationState *s;
    int64_t offset;
    int64_t bytes;
    bool is_write;
    bool in_window;             /* and not in the disk */
    uint8_t *buf;               /* with room for whole pieces */

    /* The coroutine's until it is done */
    int ret;

    /* Atomic */
    unsigned refs;              /* who waits, and the coroutine */
    bool dropped;
    bool done;
};

static void peer_read_unref(ReplicationPeerRead *r)
{
    if (qatomic_fetch_dec(&r->refs) == 1) {
        qemu_vfree(r->buf);
        g_free(r);
    }
}

/* Begin a request of the node's; false if nobody waits for it any more */
static bool coroutine_fn peer_read_enter(ReplicationPeerRead *r)
{
    while (!qatomic_read(&r->dropped)) {
        if (replication_try_enter(r->s->bs)) {
            return true;
        }
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, POLL_NS);
    }
    return false;
}

/* One request at @offset of the child */
static int coroutine_fn peer_request(ReplicationPeerRead *r, bool is_write,
                                     int64_t offset, uint8_t *buf,
                                     int64_t bytes)
{
    BDRVReplicationState *s = r->s;
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, bytes);
    int ret;

    if (s->direct) {
        assume_graph_lock(); /* see primary.c */
        return is_write
               ? s->peer->drv->bdrv_co_pwritev(s->peer, offset, bytes, &qiov, 0)
               : s->peer->drv->bdrv_co_preadv(s->peer, offset, bytes, &qiov, 0);
    }
    if (!peer_read_enter(r)) {
        return -ECANCELED;
    }
    WITH_GRAPH_RDLOCK_GUARD() {
        ret = is_write
              ? bdrv_co_pwritev(s->bs->file, offset, bytes, &qiov, 0)
              : bdrv_co_preadv(s->bs->file, offset, bytes, &qiov, 0);
    }
    bdrv_dec_in_flight(s->bs);
    return ret;
}

/* @bytes at @offset of the disk, by way of the window */
static int coroutine_fn peer_view(ReplicationPeerRead *r, int64_t offset,
                                  uint8_t *buf, int64_t bytes)
{
    BDRVReplicationState *s = r->s;
    QEMU_AUTO_VFREE uint8_t *page = qemu_memalign(
        MAX(s->peer->bl.opt_mem_alignment, REPLICATION_VIEW_SIZE),
        REPLICATION_VIEW_SIZE);
    int64_t at = s->sink_length + REPLICATION_VIEW_AT;
    ReplicationView want = { offset, bytes }, got;
    int ret;

    do {
        if (qatomic_read(&r->dropped)) {
            return -ECANCELED;
        }
        memset(page, 0, REPLICATION_VIEW_SIZE);
        replication_view_pack(page, &want);
        ret = peer_request(r, true, at, page, REPLICATION_VIEW_SIZE);
        if (ret >= 0) {
            ret = peer_request(r, false, at, page, REPLICATION_VIEW_SIZE);
        }
        if (ret >= 0 && !replication_view_unpack(&got, page)) {
            ret = -EINVAL;
        }
    } while (ret >= 0 && (got.offset != want.offset || got.bytes != bytes));
    if (ret >= 0) {
        memcpy(buf, page + REPLICATION_VIEW_HEAD, bytes);
    }
    return ret;
}

/* How much of @bytes at @offset is transferred at once; *@beyond: by peer_view() */
static int64_t piece_of(ReplicationPeerRead *r, int64_t offset, int64_t bytes,
                        bool *beyond)
{
    BDRVReplicationState *s = r->s;
    int64_t end = s->batch && !r->in_window ? s->sink_length : INT64_MAX;

    *beyond = offset >= end;
    return *beyond ? MIN(bytes, REPLICATION_VIEW_DATA)
                   : MIN(MIN(bytes, PIECE), end - offset);
}

static int coroutine_fn peer_read(ReplicationPeerRead *r)
{
    uint32_t align = r->s->peer->bl.request_alignment;
    int64_t n;
    int ret = 0;

    for (int64_t at = 0; ret >= 0 && at < r->bytes; at += n) {
        bool beyond;

        if (qatomic_read(&r->dropped)) {
            return -ECANCELED;
        }
        n = piece_of(r, r->offset + at, r->bytes - at, &beyond);
        ret = beyond ? peer_view(r, r->offset + at, r->buf + at, n)
                     : peer_request(r, r->is_write, r->offset + at,
                                    r->buf + at, ROUND_UP(n, align));
    }
    return ret;
}

static void coroutine_fn peer_read_entry(void *opaque)
{
    ReplicationPeerRead *r = opaque;
    BDRVReplicationState *s = r->s;

    r->ret = peer_read(r);
    qatomic_store_release(&r->done, true);
    peer_read_unref(r);
    /* From here on the node may close; the log's thread ends after us */
    qatomic_dec(&s->n_peer_reads);
    aio_wait_kick();
}

static ReplicationPeerRead *peer_read_new(BDRVReplicationState *s,
                                          int64_t offset, int64_t bytes)
{
    ReplicationPeerRead *r = g_new0(ReplicationPeerRead, 1);

    QEMU_BUILD_BUG_ON(PIECE % REPLICATION_PEER_READ_ALIGN);
    assert(QEMU_IS_ALIGNED(offset, s->peer->bl.request_alignment));
    r->s = s;
    r->offset = offset;
    r->bytes = bytes;
    r->buf = qemu_memalign(MAX(s->peer->bl.opt_mem_alignment, PIECE),
                           ROUND_UP(bytes, PIECE));
    r->refs = 2;
    return r;
}

static void peer_read_begin(ReplicationPeerRead *r)
{
    qatomic_inc(&r->s->n_peer_reads);
    aio_co_schedule(replication_log_context(r->s->log),
                    qemu_coroutine_create(peer_read_entry, r));
}

ReplicationPeerRead *replication_peer_read(BDRVReplicationState *s,
                                           int64_t offset, int64_t bytes)
{
    ReplicationPeerRead *r = peer_read_new(s, offset, bytes);

    peer_read_begin(r);
    return r;
}

ReplicationPeerRead *replication_peer_read_window(BDRVReplicationState *s,
                                                  int64_t at, int64_t bytes)
{
    ReplicationPeerRead *r = peer_read_new(s, s->sink_length + at, bytes);

    r->in_window = true;
    peer_read_begin(r);
    return r;
}

ReplicationPeerRead *replication_peer_write_window(BDRVReplicationState *s,
                                                   int64_t at, int64_t bytes,
                                                   const uint8_t *buf)
{
    ReplicationPeerRead *r = peer_read_new(s, s->sink_length + at, bytes);

    assert(s->batch && bytes == PIECE);
    r->in_window = true;
    r->is_write = true;
    memcpy(r->buf, buf, bytes);
    peer_read_begin(r);
    return r;
}

bool replication_peer_read_done(const ReplicationPeerRead *r)
{
    return qatomic_load_acquire(&r->done);
}

int replication_peer_read_result(const ReplicationPeerRead *r,
                                 const uint8_t **buf)
{
    assert(replication_peer_read_done(r));
    *buf = r->buf;
    return r->ret;
}

void replication_peer_read_drop(ReplicationPeerRead *r)
{
    if (r) {
        qatomic_set(&r->dropped, true);
        peer_read_unref(r);
    }
}

void replication_peer_read_wait(BDRVReplicationState *s)
{
    AIO_WAIT_WHILE_UNLOCKED(NULL, qatomic_read(&s->n_peer_reads));
}
