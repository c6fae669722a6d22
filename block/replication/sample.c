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
 * The chunks of this disk are read and hashed at cut 0, while the guest stands,
 * 64 KiB each, several at a time.  A guest must not stand for long and a disk may
 * be slow or hang, so after a while what has been read is the sample, if that
 * is MIN_CHUNKS; those that are most likely to differ are read first.  The chunks
 * of the other disk are read by way of the node's child, so of just what the node
 * writes to, once all that was written before the cut has arrived.  What the
 * guest writes after it is held back until then, so neither side of the
 * comparison changes.
 *
 * What a guest has discarded has no contents, and one image may have kept what the
 * other has not.  So if that has happened before the session, a chunk counts only
 * if it has data here, all of it.
 *
 * Threads: begun under the BQL; coroutines in the main loop read from this disk,
 * and one from the child, past the block layer if that is an NBD client
 * (primary.c says why that is safe); the session's thread waits for them without
 * the BQL.  A read of this disk may outlast the session: it keeps the sample, and
 * is a request of the node's, which does not close before that has ended.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
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

/* A sample that is smaller says nothing */
#define MIN_CHUNKS 16

/* How many chunks of this disk are read at a time */
#define N_WORKERS 8

/* How often to look whether our node is drained no more, ns */
#define POLL_NS (2 * SCALE_MS)

/* What is to be found at this place */
#define ANY_DATA (-1)

typedef struct SampleChunk {
    int64_t offset;             /* or ANY_DATA */
    int64_t bytes;
    uint8_t hash[REPLICATION_HASH_SIZE];
} SampleChunk;

typedef enum SampleState {
    SAMPLE_TAKING,              /* of this disk */
    SAMPLE_TAKEN,
    SAMPLE_READING,             /* the other disk */
    SAMPLE_EQUAL,
    SAMPLE_DIFFERENT,
    SAMPLE_FAILED,
    SAMPLE_DROPPED,             /* nobody wants to know any more */
} SampleState;

struct ReplicationSample {
    /* Set once */
    BDRVReplicationState *s;
    char *disk;                 /* its name */
    int64_t length;
    int64_t begin_ms;           /* QEMU_CLOCK_REALTIME */
    int64_t enough_ms;          /* from here on MIN_CHUNKS will do */
    unsigned n_wanted;
    int64_t wanted[MAX_CHUNKS]; /* offsets, or ANY_DATA; the best ones first */

    QemuMutex lock;
    /* All below: lock */
    QemuCond changed;
    unsigned refs;              /* the node's and that of each worker */
    SampleState state;
    bool reading;               /* a coroutine reads from the other disk */
    unsigned next;              /* of 'wanted' */
    unsigned done;              /* of them, if there is something or not */
    unsigned n;                 /* have been read; not changed once taken */
    SampleChunk chunks[MAX_CHUNKS];
    int64_t at;                 /* of what differs, or cannot be read */
    int err;                    /* why it cannot */
    bool local;                 /* it is this disk that cannot */
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
static int64_t coroutine_fn GRAPH_RDLOCK find_data(BlockDriverState *bs,
                                                   int64_t length)
{
    int64_t at = random_place(length);

    for (int i = 0; i < MAX_PIECES; i++) {
        int64_t n = 0;
        int ret = bdrv_co_block_status_above(bs, NULL, at, length - at, &n,
                                             NULL, NULL);

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

static void want(ReplicationSample *m, int64_t offset)
{
    assert(m->n_wanted < MAX_CHUNKS);
    m->wanted[m->n_wanted++] = offset;
}

/* One at each end, and of each kind of the others, in turns */
static void choose_chunks(ReplicationSample *m)
{
    int64_t last = chunk_at(m->length - 1);

    for (int i = 0; i < MAX(N_DATA, MAX(N_ANYWHERE, N_AT_END)); i++) {
        if (i < N_AT_END) {
            want(m, MIN((int64_t)i * CHUNK, last));
            want(m, MAX(last - (int64_t)i * CHUNK, 0));
        }
        if (i < N_DATA) {
            want(m, ANY_DATA);
        }
        if (i < N_ANYWHERE) {
            want(m, random_place(m->length));
        }
    }
}

static int compare_offsets(const void *a, const void *b)
{
    const SampleChunk *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* This disk */

static ReplicationSample *sample_new(BDRVReplicationState *s, const char *disk,
                                     int64_t length)
{
    ReplicationSample *m = g_new0(ReplicationSample, 1);

    m->s = s;
    m->disk = g_strdup(disk);
    m->length = length;
    m->begin_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    m->refs = 1;
    qemu_mutex_init(&m->lock);
    qemu_cond_init(&m->changed);
    return m;
}

static void sample_unref(ReplicationSample *m)
{
    WITH_QEMU_LOCK_GUARD(&m->lock) {
        if (--m->refs) {
            return;
        }
    }
    qemu_cond_destroy(&m->changed);
    qemu_mutex_destroy(&m->lock);
    g_free(m->disk);
    g_free(m);
}

static bool is_dropped(ReplicationSample *m)
{
    QEMU_LOCK_GUARD(&m->lock);
    return m->state == SAMPLE_DROPPED;
}

/*
 * Begin a request of our node's, which may be drained.  False if nobody wants to
 * know any more; the node may be gone then.
 */
static bool coroutine_fn enter(ReplicationSample *m)
{
    while (!is_dropped(m)) {
        if (replication_try_enter(m->s->bs)) {
            return true;
        }
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, POLL_NS);
    }
    return false;
}

/*
 * A way to read from the node above ours, which has the same bytes: what the
 * device sees may have been encrypted in between
 */
static BdrvChild *GRAPH_RDLOCK way_to_disk(BlockDriverState *bs)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &bs->parents, next_parent) {
        if (c->klass->parent_is_bds) {
            BlockDriverState *above = c->opaque;

            return QLIST_FIRST(&above->parents);
        }
    }
    return NULL;
}

/* May it be that this has been discarded? */
static bool coroutine_fn GRAPH_RDLOCK may_be_void(BlockDriverState *bs,
                                                  const SampleChunk *c,
                                                  const uint8_t *buf)
{
    int64_t n = 0;
    int ret = bdrv_co_block_status_above(bs, NULL, c->offset, c->bytes, &n,
                                         NULL, NULL);

    return ret < 0 || !(ret & BDRV_BLOCK_DATA) || (ret & BDRV_BLOCK_ZERO) ||
           n < c->bytes || buffer_is_zero(buf, c->bytes);
}

/* What is at @c->offset.  1: read, 0: there is nothing to read, or -errno */
static int coroutine_fn GRAPH_RDLOCK read_chunk(ReplicationSample *m,
                                                SampleChunk *c, uint8_t *buf)
{
    BdrvChild *way = way_to_disk(m->s->bs);
    int ret;

    if (!way) {
        c->offset = 0;
        return -ENOENT;
    }
    if (c->offset == ANY_DATA) {
        c->offset = find_data(way->bs, m->length);
        if (c->offset < 0) {
            return 0;
        }
    }
    c->bytes = MIN(CHUNK, m->length - c->offset);
    ret = bdrv_co_pread(way, c->offset, c->bytes, buf, 0);
    if (ret < 0) {
        return ret;
    }
    if (qatomic_read(&m->s->discarded) && may_be_void(way->bs, c, buf)) {
        return 0;
    }
    replication_hash(buf, c->bytes, c->hash);
    return 1;
}

static bool take_next(ReplicationSample *m, int64_t *offset)
{
    QEMU_LOCK_GUARD(&m->lock);
    if (m->state != SAMPLE_TAKING || m->next == m->n_wanted) {
        return false;
    }
    *offset = m->wanted[m->next++];
    return true;
}

/* A chunk of which read_chunk() has said @ret.  It may be too late. */
static void note_chunk(ReplicationSample *m, const SampleChunk *c, int ret)
{
    QEMU_LOCK_GUARD(&m->lock);
    if (m->state != SAMPLE_TAKING) {
        return;
    }
    m->done++;
    if (ret > 0) {
        m->chunks[m->n++] = *c;
    } else if (ret < 0) {
        m->state = SAMPLE_FAILED;
        m->at = c->offset;
        m->err = -ret;
        m->local = true;
    }
    qemu_cond_broadcast(&m->changed);
}

/*
 * As enter(), for a request that comes to our node by way of one above: who
 * drains that waits for those in flight only.  Drains begin in this thread.
 */
static bool coroutine_fn enter_from_above(ReplicationSample *m)
{
    while (enter(m)) {
        bool drained;

        WITH_GRAPH_RDLOCK_GUARD() {
            drained = replication_primary_must_admit(m->s);
        }
        if (!drained) {
            return true;
        }
        bdrv_dec_in_flight(m->s->bs);
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, POLL_NS);
    }
    return false;
}

static void coroutine_fn worker_entry(void *opaque)
{
    ReplicationSample *m = opaque;
    QEMU_AUTO_VFREE uint8_t *buf = qemu_memalign(4096, CHUNK);
    SampleChunk c = {};

    while (take_next(m, &c.offset) && enter_from_above(m)) {
        int ret;

        WITH_GRAPH_RDLOCK_GUARD() {
            ret = read_chunk(m, &c, buf);
        }
        note_chunk(m, &c, ret);
        bdrv_dec_in_flight(m->s->bs);
    }
    sample_unref(m);
}

bool replication_sample_take(BDRVReplicationState *s, const char *disk,
                             uint64_t budget_ms, Error **errp)
{
    int64_t length = bdrv_getlength(s->bs);
    ReplicationSample *m;

    if (s->batch) {
        /* Beyond it nothing can be read there: grow.c */
        length = MIN(length, s->sink_length);
    }
    if (length < 0) {
        error_setg_errno(errp, -length, "cannot tell the length of disk '%s'",
                         disk);
        return false;
    }
    replication_sample_free(s);
    m = sample_new(s, disk, length);
    m->enough_ms = m->begin_ms + budget_ms;
    qatomic_set(&s->sample, m);
    if (!length) {
        return true;
    }
    choose_chunks(m);
    m->refs += N_WORKERS;
    for (int i = 0; i < N_WORKERS; i++) {
        aio_co_schedule(qemu_get_aio_context(),
                        qemu_coroutine_create(worker_entry, m));
    }
    return true;
}

/* The other disk */

static int coroutine_fn sample_read_peer(ReplicationSample *m,
                                         const SampleChunk *c, uint8_t *buf)
{
    BDRVReplicationState *s = m->s;
    int64_t bytes = ROUND_UP(c->bytes, s->peer->bl.request_alignment);
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, bytes);
    int ret;

    if (s->direct) {
        assume_graph_lock(); /* see primary.c */
        return s->peer->drv->bdrv_co_preadv(s->peer, c->offset, bytes, &qiov,
                                            0);
    }
    if (!enter(m)) {
        return -ECANCELED;
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
        int ret = is_dropped(m) ? -ECANCELED : sample_read_peer(m, c, buf);

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
        if (m->state != SAMPLE_DROPPED) {
            m->state = state;
        }
        m->at = at;
        m->err = err;
        m->reading = false;
        qemu_cond_broadcast(&m->changed);
    }
    aio_wait_kick();
}

static bool is_reading(ReplicationSample *m)
{
    QEMU_LOCK_GUARD(&m->lock);
    return m->reading;
}

/* What is wrong with it, and the user is told once */
static void sample_fail_locked(ReplicationSample *m, Error **errp)
{
    g_autoptr(Error) err = NULL;

    if (m->state == SAMPLE_FAILED && m->local) {
        error_setg_errno(&err, m->err, "cannot read disk '%s' at %" PRId64
                         " to compare it with that of the secondary", m->disk,
                         m->at);
    } else if (m->state == SAMPLE_FAILED) {
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

/* Has enough been read of this disk at @now_ms?  No more will be, then. */
static bool taken_locked(ReplicationSample *m, int64_t now_ms)
{
    if (m->done < m->n_wanted &&
        (m->n < MIN_CHUNKS || now_ms < m->enough_ms)) {
        return false;
    }
    qsort(m->chunks, m->n, sizeof(m->chunks[0]), compare_offsets);
    m->state = SAMPLE_TAKEN;
    trace_replication_sample_taken(replication_name(m->s), m->n,
                                   now_ms - m->begin_ms);
    return true;
}

bool replication_sample_taken(BDRVReplicationState *s, uint64_t timeout_ms,
                              Error **errp)
{
    ReplicationSample *m = qatomic_read(&s->sample);
    int64_t now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    int64_t end = now + MIN(timeout_ms, INT_MAX);

    if (!m) {
        return true;
    }
    QEMU_LOCK_GUARD(&m->lock);
    while (m->state == SAMPLE_TAKING && !taken_locked(m, now)) {
        int64_t left = end - now;

        if (left <= 0) {
            error_setg(errp, "disk '%s' is slow: %u of %u chunks of it have "
                       "been read to compare it with that of the secondary",
                       m->disk, m->n, m->n_wanted);
            return false;
        }
        if (now < m->enough_ms) {
            left = MIN(left, m->enough_ms - now);
        }
        qemu_cond_timedwait(&m->changed, &m->lock, left);
        now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    }
    if (m->state != SAMPLE_FAILED) {
        return true;
    }
    sample_fail_locked(m, errp);
    return false;
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
    assert(m->state != SAMPLE_TAKING);
    if (m->state == SAMPLE_TAKEN) {
        m->state = SAMPLE_READING;
        m->reading = true;
        aio_co_schedule(qemu_get_aio_context(),
                        qemu_coroutine_create(sample_entry, m));
    }
    while (m->state == SAMPLE_READING) {
        int64_t left = end - qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

        if (left <= 0) {
            error_setg(errp, "the disks have not been compared");
            return false;
        }
        qemu_cond_timedwait(&m->changed, &m->lock, left);
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

    if (!m) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&m->lock) {
        m->state = SAMPLE_DROPPED;
    }
    /* It has ended if the child is an NBD client: that has been shut */
    AIO_WAIT_WHILE_UNLOCKED(NULL, is_reading(m));
    qatomic_set(&s->sample, NULL);
    sample_unref(m);
}
