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

static int coroutine_fn peer_read_piece(ReplicationPeerRead *r, int64_t at,
                                        int64_t bytes)
{
    BDRVReplicationState *s = r->s;
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, r->buf + at, bytes);
    int ret;

    if (s->direct) {
        assume_graph_lock(); /* see primary.c */
        return r->is_write
               ? s->peer->drv->bdrv_co_pwritev(s->peer, r->offset + at, bytes,
                                               &qiov, 0)
               : s->peer->drv->bdrv_co_preadv(s->peer, r->offset + at, bytes,
                                              &qiov, 0);
    }
    if (!peer_read_enter(r)) {
        return -ECANCELED;
    }
    WITH_GRAPH_RDLOCK_GUARD() {
        ret = r->is_write
              ? bdrv_co_pwritev(s->bs->file, r->offset + at, bytes, &qiov, 0)
              : bdrv_co_preadv(s->bs->file, r->offset + at, bytes, &qiov, 0);
    }
    bdrv_dec_in_flight(s->bs);
    return ret;
}

static int coroutine_fn peer_read(ReplicationPeerRead *r)
{
    BDRVReplicationState *s = r->s;
    uint32_t align = s->peer->bl.request_alignment;
    int ret = 0;

    if (s->batch && !r->in_window && r->offset + r->bytes > s->sink_length) {
        return -ENOTSUP; /* it has become longer */
    }
    for (int64_t at = 0; ret >= 0 && at < r->bytes; at += PIECE) {
        if (qatomic_read(&r->dropped)) {
            return -ECANCELED;
        }
        ret = peer_read_piece(r, at, ROUND_UP(MIN(r->bytes - at, PIECE),
                                              align));
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
