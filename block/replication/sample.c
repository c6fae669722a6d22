/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, primary side: are two disks equal of which nothing says so?
 *
 * A session takes it that both disks have the same contents.  A resync of the
 * node has seen to that.  Without one the user has copied the image, or both are
 * new, or somebody has forgotten it: then the guest that takes over has no
 * disk.  So a sample is compared: chunks at both ends, where tables and
 * superblocks are, chunks anywhere, and chunks where the disk here has data.
 * With these an empty disk on the other side is found whatever is on this one.
 * A sample proves no equality, so the disk stays among the problems.
 *
 * The chunks of this disk are read and hashed at cut 0, while the guest stands:
 * MAX_CHUNKS chunks of 64 KiB, in the order of their offsets.  Those of the
 * other disk are read by way of the node's child, so of just what the node
 * writes to, once all that was written before the cut has arrived.  What the
 * guest writes after it is held back until then, so neither side of the
 * comparison changes.
 *
 * Threads: taken under the BQL; a coroutine in the main loop reads from the
 * child, past the block layer if that is an NBD client (primary.c says why that
 * is safe); the session's thread waits for it.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/guest-random.h"
#include "qemu/lockable.h"
#include "qemu/memalign.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "block/aio-wait.h"
#include "block/block-io.h"
#include "trace.h"
#include "hash.h"
#include "internal.h"

#define CHUNK REPLICATION_HASH_CHUNK

/* How many chunks: at each end, anywhere, among what has data */
#define N_AT_END 4
#define N_ANYWHERE 56
#define N_DATA 64
#define MAX_CHUNKS (2 * N_AT_END + N_ANYWHERE + N_DATA)

/* How far to look for data from a place on: pieces that are all of one kind */
#define MAX_PIECES 8

/* How often to look whether our node is drained no more, ns */
#define POLL_NS (2 * SCALE_MS)

typedef struct SampleChunk {
    int64_t offset;
    int64_t bytes;
    uint8_t hash[REPLICATION_HASH_SIZE];
} SampleChunk;

typedef enum SampleState {
    SAMPLE_TAKEN,
    SAMPLE_READING,
    SAMPLE_EQUAL,
    SAMPLE_DIFFERENT,
    SAMPLE_FAILED,
} SampleState;

struct ReplicationSample {
    /* Set once */
    BDRVReplicationState *s;
    char *disk;                 /* its name */
    unsigned n;
    SampleChunk chunks[MAX_CHUNKS];

    QemuMutex lock;
    /* All below: lock */
    QemuCond ended;
    SampleState state;
    int64_t at;                 /* of what differs, or cannot be read */
    int err;                    /* why it cannot */
    bool reported;
};

/* Which chunks */

static int64_t chunk_at(int64_t offset)
{
    return QEMU_ALIGN_DOWN(offset, CHUNK);
}

/* A place in the disk, all of its chunks being as likely */
static int64_t random_place(int64_t length)
{
    uint64_t value;

    qemu_guest_getrandom_nofail(&value, sizeof(value));
    return chunk_at(value % length);
}

/* A chunk with data, from a random place on; negative if there seems to be none */
static int64_t find_data(BlockDriverState *bs, int64_t length)
{
    int64_t at = random_place(length);

    for (int i = 0; i < MAX_PIECES; i++) {
        int64_t n = 0;
        int ret = bdrv_block_status_above(bs, NULL, at, length - at, &n, NULL,
                                          NULL);

        if (ret < 0 || n <= 0) {
            return -1;
        }
        if ((ret & BDRV_BLOCK_DATA) && !(ret & BDRV_BLOCK_ZERO)) {
            return chunk_at(at + random_place(n));
        }
        at = at + n < length ? at + n : 0;
    }
    return -1;
}

static void add_chunk(ReplicationSample *m, int64_t offset, int64_t length)
{
    if (offset >= 0 && m->n < MAX_CHUNKS) {
        m->chunks[m->n++] = (SampleChunk) {
            .offset = offset, .bytes = MIN(CHUNK, length - offset),
        };
    }
}

static int compare_offsets(const void *a, const void *b)
{
    const SampleChunk *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static void choose_chunks(ReplicationSample *m, BlockDriverState *bs,
                          int64_t length)
{
    int64_t last = chunk_at(length - 1);

    for (int i = 0; i < N_AT_END; i++) {
        add_chunk(m, MIN((int64_t)i * CHUNK, last), length);
        add_chunk(m, MAX(last - (int64_t)i * CHUNK, 0), length);
    }
    for (int i = 0; i < N_ANYWHERE; i++) {
        add_chunk(m, random_place(length), length);
    }
    for (int i = 0; i < N_DATA; i++) {
        add_chunk(m, find_data(bs, length), length);
    }
    qsort(m->chunks, m->n, sizeof(m->chunks[0]), compare_offsets);
}

/* This disk.  BQL. */

static ReplicationSample *sample_new(BDRVReplicationState *s, const char *disk)
{
    ReplicationSample *m = g_new0(ReplicationSample, 1);

    m->s = s;
    m->disk = g_strdup(disk);
    qemu_mutex_init(&m->lock);
    qemu_cond_init(&m->ended);
    return m;
}

static void sample_delete(ReplicationSample *m)
{
    qemu_cond_destroy(&m->ended);
    qemu_mutex_destroy(&m->lock);
    g_free(m->disk);
    g_free(m);
}

/*
 * A way to read from the node above ours, which has the same bytes: what the
 * device sees may have been encrypted in between
 */
static BdrvChild *GRAPH_RDLOCK way_to_disk(BDRVReplicationState *s)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &s->bs->parents, next_parent) {
        if (c->klass->parent_is_bds) {
            BlockDriverState *above = c->opaque;

            return QLIST_FIRST(&above->parents);
        }
    }
    return NULL;
}

static bool sample_read(ReplicationSample *m, BdrvChild *way, Error **errp)
{
    QEMU_AUTO_VFREE uint8_t *buf = qemu_blockalign(way->bs, CHUNK);

    for (unsigned i = 0; i < m->n; i++) {
        SampleChunk *c = &m->chunks[i];
        int ret = bdrv_pread(way, c->offset, c->bytes, buf, 0);

        if (ret < 0) {
            error_setg_errno(errp, -ret, "cannot read disk '%s' at %" PRId64,
                             m->disk, c->offset);
            return false;
        }
        replication_hash(buf, c->bytes, c->hash);
    }
    return true;
}

bool replication_sample_take(BDRVReplicationState *s, const char *disk,
                             Error **errp)
{
    int64_t begin = qemu_clock_get_us(QEMU_CLOCK_REALTIME);
    int64_t length = bdrv_getlength(s->bs);
    ReplicationSample *m;
    BdrvChild *way;

    bdrv_graph_rdlock_main_loop();
    way = way_to_disk(s);
    bdrv_graph_rdunlock_main_loop();
    if (length < 0) {
        error_setg_errno(errp, -length, "cannot tell the length of disk '%s'",
                         disk);
        return false;
    }
    replication_sample_free(s);
    m = sample_new(s, disk);
    if (length) {
        choose_chunks(m, way->bs, length);
    }
    if (!sample_read(m, way, errp)) {
        sample_delete(m);
        return false;
    }
    trace_replication_sample_taken(replication_name(s), m->n,
                                   qemu_clock_get_us(QEMU_CLOCK_REALTIME) -
                                   begin);
    qatomic_set(&s->sample, m);
    return true;
}

/* The other disk */

static int coroutine_fn sample_read_peer(BDRVReplicationState *s,
                                         const SampleChunk *c, uint8_t *buf)
{
    int64_t bytes = ROUND_UP(c->bytes, s->peer->bl.request_alignment);
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, bytes);
    int ret;

    if (s->direct) {
        assume_graph_lock(); /* see primary.c */
        return s->peer->drv->bdrv_co_preadv(s->peer, c->offset, bytes, &qiov,
                                            0);
    }
    /* As with what is written: one of our node's, which may be drained */
    bdrv_inc_in_flight(s->bs);
    smp_mb__after_rmw();
    while (qatomic_read(&s->bs->quiesce_counter)) {
        bdrv_dec_in_flight(s->bs);
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, POLL_NS);
        bdrv_inc_in_flight(s->bs);
        smp_mb__after_rmw();
    }
    WITH_GRAPH_RDLOCK_GUARD() {
        ret = bdrv_co_preadv(s->bs->file, c->offset, bytes, &qiov, 0);
    }
    bdrv_dec_in_flight(s->bs);
    return ret;
}

static SampleState coroutine_fn sample_compare(ReplicationSample *m,
                                               int64_t *at, int *err)
{
    BDRVReplicationState *s = m->s;
    QEMU_AUTO_VFREE uint8_t *buf =
        qemu_memalign(MAX(s->peer->bl.opt_mem_alignment, 4096),
                      ROUND_UP(CHUNK, s->peer->bl.request_alignment));
    uint8_t hash[REPLICATION_HASH_SIZE];

    for (unsigned i = 0; i < m->n; i++) {
        const SampleChunk *c = &m->chunks[i];
        int ret = sample_read_peer(s, c, buf);

        *at = c->offset;
        if (ret < 0) {
            *err = -ret;
            return SAMPLE_FAILED;
        }
        replication_hash(buf, c->bytes, hash);
        if (memcmp(hash, c->hash, sizeof(hash))) {
            return SAMPLE_DIFFERENT;
        }
    }
    return SAMPLE_EQUAL;
}

static void coroutine_fn sample_entry(void *opaque)
{
    ReplicationSample *m = opaque;
    int64_t at = 0;
    int err = 0;
    SampleState state = sample_compare(m, &at, &err);

    trace_replication_sample_compared(replication_name(m->s),
                                      state == SAMPLE_EQUAL, at, err);
    WITH_QEMU_LOCK_GUARD(&m->lock) {
        m->state = state;
        m->at = at;
        m->err = err;
        qemu_cond_broadcast(&m->ended);
    }
    aio_wait_kick();
}

static bool is_reading(ReplicationSample *m)
{
    QEMU_LOCK_GUARD(&m->lock);
    return m->state == SAMPLE_READING;
}

/* What is wrong with it, and the user is told once */
static void sample_fail_locked(ReplicationSample *m, Error **errp)
{
    g_autoptr(Error) err = NULL;

    if (m->state == SAMPLE_FAILED) {
        error_setg_errno(&err, m->err, "node '%s': cannot read the "
                         "secondary's disk at %" PRId64 " to compare it with "
                         "'%s'", replication_name(m->s), m->at, m->disk);
    } else {
        error_setg(&err, "disk '%s' and that of the secondary differ, at "
                   "offset %" PRId64 " for one, and no resync of '%s' has "
                   "made them equal: use x-colo-resync, or copy the image "
                   "again", m->disk, m->at, replication_name(m->s));
    }
    if (!m->reported) {
        m->reported = true;
        replication_report_error(replication_name(m->s), err);
    }
    error_propagate(errp, g_steal_pointer(&err));
}

bool replication_sample_settle(BDRVReplicationState *s, uint64_t timeout_ms,
                               Error **errp)
{
    ReplicationSample *m = qatomic_read(&s->sample);
    int64_t end = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                  MIN(timeout_ms, INT_MAX);

    if (!m) {
        return true;
    }
    QEMU_LOCK_GUARD(&m->lock);
    if (m->state == SAMPLE_TAKEN) {
        m->state = SAMPLE_READING;
        aio_co_schedule(qemu_get_aio_context(),
                        qemu_coroutine_create(sample_entry, m));
    }
    while (m->state == SAMPLE_READING) {
        int64_t left = end - qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

        if (left <= 0) {
            error_setg(errp, "the disks have not been compared");
            return false;
        }
        qemu_cond_timedwait(&m->ended, &m->lock, left);
    }
    if (m->state == SAMPLE_EQUAL) {
        return true;
    }
    sample_fail_locked(m, errp);
    return false;
}

void replication_sample_free(BDRVReplicationState *s)
{
    ReplicationSample *m = s->sample;

    if (m) {
        AIO_WAIT_WHILE_UNLOCKED(NULL, is_reading(m));
        qatomic_set(&s->sample, NULL);
        sample_delete(m);
    }
}
