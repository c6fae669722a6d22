/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The log of the primary's disk writes, on a disk that is an array.
 *
 * Proves: what is written arrives, whatever the order in which requests end;
 * overlapping writes and flushes keep their order, large ones are copied beside
 * what goes on; epochs are held back and settle as they should; the limit
 * holds, and makes writers wait, unless somebody waits for them; what is in the
 * log can be read; an error or an end while requests hang lets everybody go.
 *
 * The guest is the main thread; requests are in the log's.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "block/replication/log.h"
#include "colo-log-guest.h"

#define DEADLINE_MS 20000
#define DISK (1 * MiB)
#define BLOCK 4096

/* A request at the disk */
typedef struct Call {
    char type;                  /* w, z, u (zero and unmap), d, f */
    int64_t offset;
    int64_t bytes;
    Coroutine *co;              /* waits to be let go */
    int ret;
    bool ended;
} Call;

typedef struct Fake {
    ReplicationLog *log;
    QemuMutex lock;
    QemuCond changed;
    /* lock */
    bool hold;                  /* new requests wait to be let go */
    bool yankable;              /* they end when the log breaks */
    int fail_call;              /* the one that fails, from 1 */
    GPtrArray *calls;
    int under_way;
    int max_under_way;
    int broken;                 /* times */
    int err;
    uint8_t disk[DISK];
    /* atomic */
    bool admit;
} Fake;

/* Let a request go that waits; false if it does not */
static bool let_go_locked(Call *call, int ret)
{
    Coroutine *co = call->co;

    if (!co) {
        return false;
    }
    call->co = NULL;
    call->ret = ret;
    aio_co_wake(co);
    return true;
}

static int coroutine_fn fake_call(Fake *f, char type, int64_t offset,
                                  int64_t bytes, QEMUIOVector *qiov)
{
    Call *call = g_new0(Call, 1);
    bool hold;

    call->type = type;
    call->offset = offset;
    call->bytes = bytes;
    WITH_QEMU_LOCK_GUARD(&f->lock) {
        g_ptr_array_add(f->calls, call);
        if (f->fail_call == f->calls->len) {
            call->ret = -ENOSPC;
        }
        f->max_under_way = MAX(f->max_under_way, ++f->under_way);
        hold = f->hold;
        call->co = hold ? qemu_coroutine_self() : NULL;
        qemu_cond_broadcast(&f->changed);
    }
    if (hold) {
        qemu_coroutine_yield();
    }
    QEMU_LOCK_GUARD(&f->lock);
    if (!call->ret && qiov) {
        g_assert_cmpuint(qiov->size, ==, bytes);
        qemu_iovec_to_buf(qiov, 0, f->disk + offset, bytes);
    } else if (!call->ret && (type == 'z' || type == 'u')) {
        memset(f->disk + offset, 0, bytes);
    }
    f->under_way--;
    call->ended = true;
    qemu_cond_broadcast(&f->changed);
    return call->ret;
}

static int coroutine_fn fake_write(void *opaque, int64_t offset, int64_t bytes,
                                   QEMUIOVector *qiov)
{
    return fake_call(opaque, 'w', offset, bytes, qiov);
}

static int coroutine_fn fake_zero(void *opaque, int64_t offset, int64_t bytes,
                                  bool may_unmap)
{
    return fake_call(opaque, may_unmap ? 'u' : 'z', offset, bytes, NULL);
}

static int coroutine_fn fake_discard(void *opaque, int64_t offset,
                                     int64_t bytes)
{
    return fake_call(opaque, 'd', offset, bytes, NULL);
}

static int coroutine_fn fake_flush(void *opaque)
{
    return fake_call(opaque, 'f', 0, 0, NULL);
}

static bool coroutine_fn fake_must_admit(void *opaque)
{
    Fake *f = opaque;

    return qatomic_read(&f->admit);
}

static void fake_broken(void *opaque, int err)
{
    Fake *f = opaque;

    QEMU_LOCK_GUARD(&f->lock);
    f->broken++;
    f->err = err;
    for (unsigned i = 0; f->yankable && i < f->calls->len; i++) {
        let_go_locked(g_ptr_array_index(f->calls, i), -EIO);
    }
    f->hold = false;
}

static const ReplicationLogOps fake_ops = {
    .write = fake_write,
    .zero = fake_zero,
    .discard = fake_discard,
    .flush = fake_flush,
    .must_admit = fake_must_admit,
    .broken = fake_broken,
    .beside = true,
};

static Fake *fake_new(uint64_t limit, uint32_t align)
{
    Fake *f = g_new0(Fake, 1);

    qemu_mutex_init(&f->lock);
    qemu_cond_init(&f->changed);
    f->calls = g_ptr_array_new_with_free_func(g_free);
    f->yankable = true;
    f->log = replication_log_new(&fake_ops, f, limit, align, MiB,
                                 &error_abort);
    return f;
}

static void fake_free(Fake *f)
{
    replication_log_free(f->log);
    g_assert_cmpint(f->broken, ==, 1);
    g_assert_cmpint(f->under_way, ==, 0);
    g_ptr_array_free(f->calls, true);
    qemu_cond_destroy(&f->changed);
    qemu_mutex_destroy(&f->lock);
    g_free(f);
}

static void hold(Fake *f, bool on)
{
    QEMU_LOCK_GUARD(&f->lock);
    f->hold = on;
}

static int n_calls(Fake *f)
{
    QEMU_LOCK_GUARD(&f->lock);
    return f->calls->len;
}

/* Wait until @n requests have come */
static void wait_calls(Fake *f, int n)
{
    QEMU_LOCK_GUARD(&f->lock);
    while (f->calls->len < n) {
        g_assert_true(qemu_cond_timedwait(&f->changed, &f->lock, DEADLINE_MS));
    }
}

/* The @n-th request, from 0, has to be this */
static void check_call(Fake *f, int n, char type, int64_t offset,
                       int64_t bytes)
{
    Call *call;

    wait_calls(f, n + 1);
    QEMU_LOCK_GUARD(&f->lock);
    call = g_ptr_array_index(f->calls, n);
    g_assert_cmpint(call->type, ==, type);
    g_assert_cmpint(call->offset, ==, offset);
    g_assert_cmpint(call->bytes, ==, bytes);
}

static void let_go(Fake *f, int n)
{
    Call *call;

    wait_calls(f, n + 1);
    QEMU_LOCK_GUARD(&f->lock);
    call = g_ptr_array_index(f->calls, n);
    g_assert_true(let_go_locked(call, 0));
    while (!call->ended) {
        g_assert_true(qemu_cond_timedwait(&f->changed, &f->lock, DEADLINE_MS));
    }
}

/* The guest */

static void guest(Fake *f, char type, int64_t offset, int64_t bytes, int byte)
{
    log_guest(f->log, type, offset, bytes, byte);
}

static void settle(Fake *f, uint64_t epoch)
{
    log_guest_settle(f->log, epoch, DEADLINE_MS);
}

/* It does not settle, and says so */
static void unsettled(Fake *f, uint64_t timeout_ms)
{
    Error *err = NULL;

    g_assert_false(replication_log_settle(f->log, timeout_ms, &err));
    g_assert_nonnull(err);
    error_free(err);
}

/* The tests */

static void test_order(void)
{
    Fake *f = fake_new(64 * MiB, 512);

    hold(f, true);
    guest(f, 'w', 0, BLOCK, 1);
    guest(f, 'w', 2 * BLOCK, BLOCK, 2);
    guest(f, 'd', 4 * BLOCK, BLOCK, 0);
    guest(f, 'z', 6 * BLOCK, BLOCK, 0);
    guest(f, 'u', 8 * BLOCK, BLOCK, 0);
    check_call(f, 0, 'w', 0, BLOCK);
    check_call(f, 1, 'w', 2 * BLOCK, BLOCK);
    check_call(f, 2, 'd', 4 * BLOCK, BLOCK);
    check_call(f, 3, 'z', 6 * BLOCK, BLOCK);
    check_call(f, 4, 'u', 8 * BLOCK, BLOCK);
    for (int i = 4; i >= 0; i--) {
        let_go(f, i);
    }
    settle(f, 1);
    g_assert_cmpint(f->disk[0], ==, 1);
    g_assert_cmpint(f->disk[2 * BLOCK], ==, 2);
    fake_free(f);
}

static void test_merge(void)
{
    Fake *f = fake_new(64 * MiB, 512);
    ReplicationLogStats stats;

    replication_log_cut(f->log, 1);
    for (int i = 0; i < 8; i++) {
        guest(f, 'w', i * BLOCK, BLOCK, i);
    }
    guest(f, 'w', 9 * BLOCK, BLOCK, 9); /* no neighbour */
    guest(f, 'w', 10 * BLOCK, MiB - 32 * BLOCK, 10);
    guest(f, 'z', MiB - 22 * BLOCK, BLOCK, 0);
    replication_log_allow(f->log, 1);
    check_call(f, 0, 'w', 0, 8 * BLOCK);
    check_call(f, 1, 'w', 9 * BLOCK, MiB - 31 * BLOCK);
    check_call(f, 2, 'z', MiB - 22 * BLOCK, BLOCK);
    settle(f, 2);
    for (int i = 0; i < 8; i++) {
        g_assert_cmpint(f->disk[i * BLOCK], ==, i);
        g_assert_cmpint(f->disk[(i + 1) * BLOCK - 1], ==, i);
    }
    replication_log_stats(f->log, &stats);
    g_assert_cmpuint(stats.sent_requests, ==, 3);
    g_assert_cmpuint(stats.sent_bytes, ==, MiB - 23 * BLOCK);
    g_assert_cmpuint(stats.bytes, ==, 0);
    fake_free(f);
}

static void test_merge_limit(void)
{
    Fake *f = fake_new(64 * MiB, 512);

    replication_log_cut(f->log, 1);
    guest(f, 'w', 0, MiB - BLOCK, 1);
    guest(f, 'w', MiB - BLOCK, BLOCK, 2);
    guest(f, 'w', 0, BLOCK, 3);
    for (int i = 0; i < 300; i++) {
        guest(f, 'w', BLOCK + i * 512, 512, 4);
    }
    replication_log_allow(f->log, 1);
    check_call(f, 0, 'w', 0, MiB);
    /* So many buffers, and no more */
    check_call(f, 1, 'w', 0, BLOCK + 255 * 512);
    check_call(f, 2, 'w', BLOCK + 255 * 512, 45 * 512);
    settle(f, 2);
    fake_free(f);
}

static void test_overlap(void)
{
    Fake *f = fake_new(64 * MiB, 512);

    hold(f, true);
    guest(f, 'w', 0, 2 * BLOCK, 1);
    wait_calls(f, 1);
    guest(f, 'w', BLOCK, 2 * BLOCK, 2);
    guest(f, 'w', 8 * BLOCK, BLOCK, 3);
    replication_log_cut(f->log, 1);
    unsettled(f, 50);
    /* What comes later does not overtake */
    g_assert_cmpint(n_calls(f), ==, 1);
    let_go(f, 0);
    check_call(f, 1, 'w', BLOCK, 2 * BLOCK);
    check_call(f, 2, 'w', 8 * BLOCK, BLOCK);
    let_go(f, 1);
    let_go(f, 2);
    settle(f, 2);
    g_assert_cmpint(f->disk[BLOCK - 1], ==, 1);
    g_assert_cmpint(f->disk[BLOCK], ==, 2);
    fake_free(f);
}

typedef struct LargeWrite {
    ReplicationLog *log;
    QEMUIOVector *qiov;
    size_t qiov_offset;
    int64_t bytes;
    bool done;
} LargeWrite;

static void coroutine_fn large_write(void *opaque)
{
    LargeWrite *w = opaque;

    replication_log_write(w->log, 0, w->bytes, w->qiov, w->qiov_offset);
    w->done = true;
}

/* A large write is copied beside what the guest goes on with */
static void test_large(void)
{
    Fake *f = fake_new(64 * MiB, 512);
    g_autofree uint8_t *buf = g_malloc(MiB);
    QEMUIOVector qiov;
    LargeWrite w = { f->log, &qiov, BLOCK + 1, REPLICATION_LOG_BESIDE };

    for (int i = 0; i < MiB; i++) {
        buf[i] = (i >> 8) ^ i;
    }
    qemu_iovec_init(&qiov, 2);
    qemu_iovec_add(&qiov, buf, MiB / 8);
    qemu_iovec_add(&qiov, buf + MiB / 8, MiB - MiB / 8);
    qemu_coroutine_enter(qemu_coroutine_create(large_write, &w));
    g_assert_false(w.done);
    g_assert_cmpuint(replication_log_position(f->log), ==, 0);
    guest(f, 'w', DISK - BLOCK, BLOCK, 1);
    check_call(f, 0, 'w', DISK - BLOCK, BLOCK);
    log_guest_wait_for(&w.done);
    check_call(f, 1, 'w', 0, w.bytes);
    settle(f, 1);
    g_assert_cmpmem(f->disk, w.bytes, buf + w.qiov_offset, w.bytes);
    g_assert_cmpint(f->disk[w.bytes], ==, 0);
    qemu_iovec_destroy(&qiov);
    fake_free(f);
}

/* The log breaks while a large write is copied; the next one is dropped */
static void test_large_broken(void)
{
    Fake *f = fake_new(64 * MiB, 512);
    LogGuest first = { f->log, 'w', 0, REPLICATION_LOG_BESIDE, 1 };
    LogGuest next = first;

    log_guest_begin(&first);
    g_assert_false(first.done);
    replication_log_break(f->log, EIO);
    log_guest_wait(&first);
    log_guest_begin(&next);
    g_assert_true(next.done);
    g_assert_cmpuint(replication_log_position(f->log), ==, 0);
    g_assert_cmpint(n_calls(f), ==, 0);
    fake_free(f);
}

/* Two writes in one block of the disk would each write the other's part */
static void test_overlap_align(void)
{
    Fake *f = fake_new(64 * MiB, BLOCK);

    hold(f, true);
    guest(f, 'w', 0, 512, 1);
    wait_calls(f, 1);
    guest(f, 'w', 1024, 512, 2);
    replication_log_cut(f->log, 1);
    unsettled(f, 50);
    g_assert_cmpint(n_calls(f), ==, 1);
    let_go(f, 0);
    let_go(f, 1);
    settle(f, 2);
    fake_free(f);
}

static void test_flush(void)
{
    Fake *f = fake_new(64 * MiB, 512);

    hold(f, true);
    guest(f, 'w', 0, BLOCK, 1);
    guest(f, 'w', 2 * BLOCK, BLOCK, 2);
    guest(f, 'f', 0, 0, 0);
    guest(f, 'f', 0, 0, 0); /* the same */
    guest(f, 'w', 4 * BLOCK, BLOCK, 3);
    wait_calls(f, 2);
    let_go(f, 0);
    replication_log_cut(f->log, 1);
    unsettled(f, 50);
    g_assert_cmpint(n_calls(f), ==, 2);
    let_go(f, 1);
    check_call(f, 2, 'f', 0, 0);
    unsettled(f, 50);
    g_assert_cmpint(n_calls(f), ==, 3);
    let_go(f, 2);
    check_call(f, 3, 'w', 4 * BLOCK, BLOCK);
    let_go(f, 3);
    settle(f, 2);
    g_assert_cmpint(n_calls(f), ==, 4);
    fake_free(f);
}

static void test_epoch(void)
{
    Fake *f = fake_new(64 * MiB, 512);

    hold(f, true);
    guest(f, 'w', 0, BLOCK, 1);
    wait_calls(f, 1);
    replication_log_cut(f->log, 7);
    guest(f, 'w', 2 * BLOCK, BLOCK, 2);
    unsettled(f, 50);
    let_go(f, 0);
    g_assert_true(replication_log_settle(f->log, DEADLINE_MS, &error_abort));

    /* Not allowed yet: neither by that nor by an earlier epoch */
    replication_log_allow(f->log, 6);
    g_assert_true(replication_log_settle(f->log, 50, &error_abort));
    g_assert_cmpint(n_calls(f), ==, 1);
    replication_log_allow(f->log, 7);
    check_call(f, 1, 'w', 2 * BLOCK, BLOCK);
    guest(f, 'w', 4 * BLOCK, BLOCK, 3);
    check_call(f, 2, 'w', 4 * BLOCK, BLOCK);
    replication_log_cut(f->log, 8);
    unsettled(f, 50);
    let_go(f, 1);
    unsettled(f, 50);
    let_go(f, 2);
    g_assert_true(replication_log_settle(f->log, DEADLINE_MS, &error_abort));
    fake_free(f);
}

static void test_push_back(void)
{
    const uint64_t limit = 64 * KiB;
    Fake *f = fake_new(limit, 512);
    LogGuest g = { .log = f->log, .type = 'w', .offset = 512 * KiB,
                   .bytes = 40 * KiB, .byte = 9 };
    ReplicationLogStats stats;

    hold(f, true);
    for (int i = 0; i < 12; i++) {
        guest(f, 'w', i * 2 * BLOCK, BLOCK, i);
    }
    wait_calls(f, 12);
    log_guest_begin(&g);
    g_assert_false(g.done);
    /* Not enough room yet */
    let_go(f, 0);
    let_go(f, 1);
    for (int i = 0; i < 20; i++) {
        aio_poll(qemu_get_aio_context(), false);
    }
    g_assert_false(g.done);
    for (int i = 2; i < 12; i++) {
        let_go(f, i);
    }
    log_guest_wait(&g);
    let_go(f, 12);
    settle(f, 1);
    replication_log_stats(f->log, &stats);
    g_assert_cmpuint(stats.max_bytes, <=, limit);
    g_assert_cmpuint(stats.throttled_ns, >, 0);
    g_assert_cmpuint(stats.limit, ==, limit);
    fake_free(f);
}

/* A write that is larger than the log is let in alone */
static void test_too_large(void)
{
    Fake *f = fake_new(64 * KiB, 512);

    guest(f, 'w', 0, 128 * KiB, 1);
    settle(f, 1);
    g_assert_cmpint(f->disk[128 * KiB - 1], ==, 1);
    fake_free(f);
}

static void test_admit(void)
{
    Fake *f = fake_new(64 * KiB, 512);
    LogGuest g = { .log = f->log, .type = 'w', .offset = 512 * KiB,
                   .bytes = BLOCK };
    ReplicationLogStats stats;

    replication_log_cut(f->log, 1);
    guest(f, 'w', 0, 63 * KiB, 1);
    log_guest_begin(&g);
    g_assert_false(g.done);
    guest(f, 'f', 0, 0, 0); /* never waits */
    guest(f, 'f', 0, 0, 0);
    qatomic_set(&f->admit, true);
    log_guest_wait(&g);
    g_assert_cmpint(n_calls(f), ==, 0);
    replication_log_stats(f->log, &stats);
    g_assert_cmpuint(stats.max_bytes, >, 64 * KiB);
    replication_log_allow(f->log, 1);
    settle(f, 2);
    fake_free(f);
}

/* Who copies does not wait for room, and can tell when it has arrived */
static void test_copy(void)
{
    Fake *f = fake_new(64 * KiB, 512);

    hold(f, true);
    g_assert_true(replication_log_is_through(f->log, 0));
    guest(f, 'w', 0, 63 * KiB, 1);
    guest(f, 'c', 128 * KiB, BLOCK, 2);
    guest(f, 'c', 0, BLOCK, 0);
    g_assert_cmpuint(replication_log_position(f->log), ==, 3);
    check_call(f, 0, 'w', 0, 63 * KiB);
    check_call(f, 1, 'w', 128 * KiB, BLOCK);
    g_assert_false(replication_log_is_through(f->log, 1));
    let_go(f, 1);
    g_assert_false(replication_log_is_through(f->log, 1));
    let_go(f, 0);
    check_call(f, 2, 'u', 0, BLOCK);
    g_assert_true(replication_log_is_through(f->log, 2));
    g_assert_false(replication_log_is_through(f->log, 3));
    let_go(f, 2);
    settle(f, 1);
    g_assert_true(replication_log_is_through(f->log, 3));
    g_assert_cmpint(f->disk[0], ==, 0);
    g_assert_cmpint(f->disk[BLOCK], ==, 1);
    g_assert_cmpint(f->disk[128 * KiB], ==, 2);
    fake_free(f);
}

static void test_at_a_time(void)
{
    Fake *f = fake_new(64 * MiB, 512);

    hold(f, true);
    for (int i = 0; i < 40; i++) {
        guest(f, 'w', i * 2 * BLOCK, BLOCK, i);
    }
    wait_calls(f, REPLICATION_LOG_REQUESTS);
    replication_log_cut(f->log, 1);
    unsettled(f, 50);
    g_assert_cmpint(n_calls(f), ==, REPLICATION_LOG_REQUESTS);
    for (int i = 0; i < 40; i++) {
        let_go(f, i);
    }
    settle(f, 2);
    g_assert_cmpint(f->max_under_way, ==, REPLICATION_LOG_REQUESTS);
    fake_free(f);
}

static void test_pause(void)
{
    Fake *f = fake_new(64 * MiB, 512);

    replication_log_pause(f->log, true);
    replication_log_pause(f->log, true);
    guest(f, 'w', 0, BLOCK, 1);
    replication_log_cut(f->log, 1);
    unsettled(f, 50);
    replication_log_pause(f->log, false);
    unsettled(f, 50);
    g_assert_cmpint(n_calls(f), ==, 0);
    replication_log_pause(f->log, false);
    settle(f, 2);
    g_assert_cmpint(n_calls(f), ==, 1);
    fake_free(f);
}

/* What a reader gets for @bytes at 0: @disk under what is in the log */
static void check_view(Fake *f, ReplicationLogView *view, const char *want,
                       int64_t bytes)
{
    g_autofree char *buf = g_malloc(bytes);
    QEMUIOVector qiov;

    memset(buf, '.', bytes);
    qemu_iovec_init_buf(&qiov, buf, bytes);
    replication_log_view_apply(view, &qiov);
    g_assert_cmpmem(buf, bytes, want, bytes);
}

static void test_view(void)
{
    Fake *f = fake_new(64 * MiB, 1);
    ReplicationLogView *early, *late;

    g_assert_null(replication_log_view(f->log, 0, 8));
    hold(f, true);
    guest(f, 'w', 1, 2, 'a');   /* under way */
    wait_calls(f, 1);
    guest(f, 'w', 2, 3, 'b');   /* waits for that */
    guest(f, 'd', 1, 8, 0);     /* changes nothing */
    early = replication_log_view(f->log, 0, 8);
    check_view(f, early, ".abbb...", 8);
    guest(f, 'z', 4, 100, 0);
    guest(f, 'w', 6, 100, 'c');
    late = replication_log_view(f->log, 3, 4);
    check_view(f, late, "b\0\0c", 4);

    /* What has arrived meanwhile is still there */
    for (int i = 0; i < 5; i++) {
        let_go(f, i);
    }
    settle(f, 1);
    check_view(f, early, ".abbb...", 8);
    replication_log_view_free(early);
    replication_log_view_free(late);
    g_assert_true(replication_log_is_empty(f->log));
    g_assert_null(replication_log_view(f->log, 0, 8));
    replication_log_view_free(NULL);
    fake_free(f);
}

static void test_empty(void)
{
    Fake *f = fake_new(64 * MiB, 512);
    LogGuest g = { .log = f->log, .type = 'e' };

    guest(f, 'e', 0, 0, 0);
    hold(f, true);
    guest(f, 'w', 0, BLOCK, 1);
    guest(f, 'w', 2 * BLOCK, BLOCK, 1);
    wait_calls(f, 2);
    g_assert_false(replication_log_is_empty(f->log));
    log_guest_begin(&g);
    let_go(f, 1);
    for (int i = 0; i < 20; i++) {
        aio_poll(qemu_get_aio_context(), false);
    }
    g_assert_false(g.done);
    let_go(f, 0);
    log_guest_wait(&g);
    g_assert_true(replication_log_is_empty(f->log));

    /* An error lets it go as well */
    hold(f, true);
    guest(f, 'w', 0, BLOCK, 1);
    wait_calls(f, 3);
    g.done = false;
    log_guest_begin(&g);
    g_assert_false(g.done);
    replication_log_break(f->log, EIO);
    log_guest_wait(&g);
    fake_free(f);
}

static void test_error(void)
{
    Fake *f = fake_new(64 * KiB, 512);
    LogGuest g = { .log = f->log, .type = 'w', .offset = 512 * KiB,
                   .bytes = 40 * KiB };
    ReplicationLogStats stats;

    f->fail_call = 2;
    hold(f, true);
    guest(f, 'w', 0, BLOCK, 1);
    wait_calls(f, 1);
    guest(f, 'w', 0, 40 * KiB, 2);
    log_guest_begin(&g);
    g_assert_false(g.done);
    replication_log_cut(f->log, 1);
    hold(f, false);
    let_go(f, 0);
    log_guest_wait(&g);
    unsettled(f, DEADLINE_MS);
    g_assert_cmpint(f->broken, ==, 1);
    g_assert_cmpint(f->err, ==, ENOSPC);

    /* All is taken, nothing sent */
    for (int i = 0; i < 10; i++) {
        guest(f, 'w', 0, 60 * KiB, 3);
        guest(f, 'f', 0, 0, 0);
    }
    unsettled(f, DEADLINE_MS);
    g_assert_cmpint(n_calls(f), ==, 2);
    g_assert_cmpint(f->disk[0], ==, 1);
    replication_log_stats(f->log, &stats);
    g_assert_cmpint(stats.err, ==, ENOSPC);
    replication_log_break(f->log, EIO);
    replication_log_stats(f->log, &stats);
    g_assert_cmpint(stats.err, ==, ENOSPC);
    fake_free(f);
}

static void *settle_thread(void *opaque)
{
    Fake *f = opaque;

    unsettled(f, DEADLINE_MS * 2);
    return NULL;
}

/* Somebody settles, a writer waits, requests hang: all are let go */
static void test_abandon(void)
{
    Fake *f = fake_new(64 * KiB, 512);
    LogGuest g = { .log = f->log, .type = 'w', .offset = 512 * KiB,
                   .bytes = 40 * KiB };
    int64_t begin = g_get_monotonic_time();
    QemuThread thread;

    hold(f, true);
    f->yankable = false;
    guest(f, 'w', 0, 60 * KiB, 1);
    log_guest_begin(&g);
    replication_log_cut(f->log, 1);
    wait_calls(f, 1);
    qemu_thread_create(&thread, "settle", settle_thread, f,
                       QEMU_THREAD_JOINABLE);
    g_assert_false(g.done);
    replication_log_break(f->log, ECANCELED);
    log_guest_wait(&g);
    qemu_thread_join(&thread);
    g_assert_cmpint(g_get_monotonic_time() - begin, <, DEADLINE_MS * 1000);
    g_assert_cmpint(f->err, ==, ECANCELED);
    guest(f, 'w', 0, 60 * KiB, 1);
    let_go(f, 0);
    fake_free(f);
}

/* A log with requests that hang is freed: it breaks, and so they end */
static void test_free(void)
{
    Fake *f = fake_new(64 * MiB, 512);

    hold(f, true);
    for (int i = 0; i < 40; i++) {
        guest(f, 'w', i * 2 * BLOCK, BLOCK, i);
    }
    wait_calls(f, REPLICATION_LOG_REQUESTS);
    fake_free(f);
}

/* Requests end in any order, and the disk is as the guest wrote it */
static void test_random(void)
{
    Fake *f = fake_new(256 * KiB, 512);
    g_autofree uint8_t *want = g_malloc0(DISK);
    int begun = 0;

    hold(f, true);
    for (int i = 0; i < 3000; i++) {
        int64_t offset = g_test_rand_int_range(0, 64) * 512;
        int64_t bytes = g_test_rand_int_range(1, 32) * 512;
        int byte = g_test_rand_int_range(1, 256);
        LogGuest g = { .log = f->log,
                       .type = "wwwzuf"[g_test_rand_int_range(0, 6)],
                       .offset = offset, .bytes = bytes, .byte = byte };

        if (g.type != 'f') {
            memset(want + offset, g.type == 'w' ? byte : 0, bytes);
        }
        log_guest_begin(&g);
        while (!g.done || g_test_rand_int_range(0, 3) == 0) {
            WITH_QEMU_LOCK_GUARD(&f->lock) {
                int n = f->calls->len;

                /* One of those that wait, the last ones rather */
                for (int k = 0; k < 8 && n > begun; k++) {
                    int which = g_test_rand_int_range(begun, n);

                    let_go_locked(g_ptr_array_index(f->calls, which), 0);
                }
                while (begun < n && ((Call *)g_ptr_array_index(f->calls,
                                                               begun))->ended) {
                    begun++;
                }
            }
            aio_poll(qemu_get_aio_context(), false);
        }
    }
    WITH_QEMU_LOCK_GUARD(&f->lock) {
        f->hold = false;
        for (unsigned i = begun; i < f->calls->len; i++) {
            let_go_locked(g_ptr_array_index(f->calls, i), 0);
        }
    }
    settle(f, 1);
    g_assert_cmpmem(want, DISK, f->disk, DISK);
    g_assert_cmpint(f->max_under_way, >, 1);
    fake_free(f);
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_fatal);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/disk/log/order", test_order);
    g_test_add_func("/colo/disk/log/merge", test_merge);
    g_test_add_func("/colo/disk/log/merge-limit", test_merge_limit);
    g_test_add_func("/colo/disk/log/overlap", test_overlap);
    g_test_add_func("/colo/disk/log/large", test_large);
    g_test_add_func("/colo/disk/log/large-broken", test_large_broken);
    g_test_add_func("/colo/disk/log/overlap-align", test_overlap_align);
    g_test_add_func("/colo/disk/log/flush", test_flush);
    g_test_add_func("/colo/disk/log/epoch", test_epoch);
    g_test_add_func("/colo/disk/log/push-back", test_push_back);
    g_test_add_func("/colo/disk/log/too-large", test_too_large);
    g_test_add_func("/colo/disk/log/admit", test_admit);
    g_test_add_func("/colo/disk/log/copy", test_copy);
    g_test_add_func("/colo/disk/log/at-a-time", test_at_a_time);
    g_test_add_func("/colo/disk/log/pause", test_pause);
    g_test_add_func("/colo/disk/log/view", test_view);
    g_test_add_func("/colo/disk/log/empty", test_empty);
    g_test_add_func("/colo/disk/log/error", test_error);
    g_test_add_func("/colo/disk/log/abandon", test_abandon);
    g_test_add_func("/colo/disk/log/free", test_free);
    g_test_add_func("/colo/disk/log/random", test_random);
    return g_test_run();
}
