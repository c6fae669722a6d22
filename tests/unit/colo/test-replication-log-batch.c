/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The log of the primary's disk writes, sent in batches.
 *
 * Proves: records arrive in their order, with nobody asking for them; they
 * gather while a batch is under way, and a full one does not wait for that;
 * nothing is sent in the middle of a burst, but that is not for ever;
 * the bounds of a batch hold; epochs, pauses, errors and ends are as without
 * batches.
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
#define DISK (8 * MiB)
#define LIMIT (64 * MiB)
#define BLOCK 4096

/* A batch that has come */
typedef struct Call {
    ReplicationBatch batch;
    Coroutine *co;              /* waits to be let go */
    bool ended;
} Call;

typedef struct Fake {
    ReplicationLog *log;
    QemuMutex lock;
    QemuCond changed;
    /* lock */
    bool hold;                  /* new batches wait to be let go */
    bool stuck;                 /* the log's thread stands in one */
    bool fail;
    GPtrArray *calls;
    int under_way;
    int max_under_way;
    int broken;                 /* times */
    uint8_t *disk;
} Fake;

static void apply_locked(Fake *f, const ReplicationBatch *batch,
                         QEMUIOVector *data)
{
    size_t at = 0;

    for (unsigned i = 0; i < batch->n_entries; i++) {
        const ReplicationEntry *entry = &batch->entries[i];

        switch (entry->type) {
        case REPLICATION_ENTRY_WRITE:
            qemu_iovec_to_buf(data, at, f->disk + entry->offset, entry->bytes);
            at += entry->bytes;
            break;
        case REPLICATION_ENTRY_ZERO:
        case REPLICATION_ENTRY_ZERO_UNMAP:
            memset(f->disk + entry->offset, 0, entry->bytes);
            break;
        case REPLICATION_ENTRY_DISCARD:
        case REPLICATION_ENTRY_FLUSH:
        case REPLICATION_ENTRY_RESYNC_BEGIN:
        case REPLICATION_ENTRY_RESYNC_END:
        case REPLICATION_ENTRY_GROW:
        case REPLICATION_ENTRY_COMMON:
        case REPLICATION_ENTRY_MARK:
            break;
        }
    }
    g_assert_cmpuint(at, ==, data->size);
}

static void check_head_locked(Fake *f, const ReplicationBatch *batch)
{
    if (f->calls->len) {
        const Call *last = g_ptr_array_index(f->calls, f->calls->len - 1);

        g_assert_cmphex(batch->session, ==, last->batch.session);
        g_assert_cmpuint(batch->number, ==, last->batch.number + 1);
    } else {
        g_assert_cmpuint(batch->number, ==, 1);
    }
    g_assert_cmpuint(batch->n_entries, >, 0);
    g_assert_cmpuint(batch->n_entries, <=, REPLICATION_BATCH_ENTRIES);
}

/* As a sink: applies in the order in which they come */
static int coroutine_fn fake_batch(void *opaque, const ReplicationBatch *batch,
                                   QEMUIOVector *data)
{
    Fake *f = opaque;
    Call *call = g_new0(Call, 1);
    bool hold;
    int ret;

    call->batch = *batch;
    WITH_QEMU_LOCK_GUARD(&f->lock) {
        check_head_locked(f, batch);
        g_ptr_array_add(f->calls, call);
        apply_locked(f, batch, data);
        f->max_under_way = MAX(f->max_under_way, ++f->under_way);
        hold = f->hold;
        call->co = hold ? qemu_coroutine_self() : NULL;
        qemu_cond_broadcast(&f->changed);
        while (f->stuck) {
            qemu_cond_wait(&f->changed, &f->lock);
        }
    }
    if (hold) {
        qemu_coroutine_yield();
    }
    QEMU_LOCK_GUARD(&f->lock);
    f->under_way--;
    call->ended = true;
    ret = f->fail ? -ENOSPC : 0;
    qemu_cond_broadcast(&f->changed);
    return ret;
}

static bool let_go_locked(Call *call)
{
    Coroutine *co = call->co;

    call->co = NULL;
    if (co) {
        aio_co_wake(co);
    }
    return co;
}

static void let_all_go_locked(Fake *f)
{
    f->hold = false;
    for (unsigned i = 0; i < f->calls->len; i++) {
        let_go_locked(g_ptr_array_index(f->calls, i));
    }
}

/* As the yank of a connection */
static void fake_broken(void *opaque, int err)
{
    Fake *f = opaque;

    QEMU_LOCK_GUARD(&f->lock);
    f->broken++;
    let_all_go_locked(f);
}

static const ReplicationLogOps fake_ops = {
    .batch = fake_batch,
    .broken = fake_broken,
};

static Fake *fake_new_limited(bool hold, uint64_t limit)
{
    Fake *f = g_new0(Fake, 1);

    qemu_mutex_init(&f->lock);
    qemu_cond_init(&f->changed);
    f->calls = g_ptr_array_new_with_free_func(g_free);
    f->disk = g_malloc0(DISK);
    f->hold = hold;
    f->log = replication_log_new(&fake_ops, f, limit, 512, MiB, &error_abort);
    return f;
}

static Fake *fake_new(bool hold)
{
    return fake_new_limited(hold, LIMIT);
}

static void fake_free(Fake *f)
{
    replication_log_free(f->log);
    g_assert_cmpint(f->broken, ==, 1);
    g_assert_cmpint(f->under_way, ==, 0);
    g_ptr_array_free(f->calls, true);
    qemu_cond_destroy(&f->changed);
    qemu_mutex_destroy(&f->lock);
    g_free(f->disk);
    g_free(f);
}

static void wait_calls(Fake *f, int n)
{
    QEMU_LOCK_GUARD(&f->lock);
    while (f->calls->len < n) {
        g_assert_true(qemu_cond_timedwait(&f->changed, &f->lock, DEADLINE_MS));
    }
}

static int n_calls(Fake *f)
{
    QEMU_LOCK_GUARD(&f->lock);
    return f->calls->len;
}

/* Batch @n, from 0, which has to come */
static const ReplicationBatch *call(Fake *f, int n)
{
    wait_calls(f, n + 1);
    QEMU_LOCK_GUARD(&f->lock);
    return &((Call *)g_ptr_array_index(f->calls, n))->batch;
}

static void let_go(Fake *f, int n)
{
    Call *call;

    wait_calls(f, n + 1);
    QEMU_LOCK_GUARD(&f->lock);
    call = g_ptr_array_index(f->calls, n);
    g_assert_true(let_go_locked(call));
    while (!call->ended) {
        g_assert_true(qemu_cond_timedwait(&f->changed, &f->lock, DEADLINE_MS));
    }
}

static void wait_empty(Fake *f)
{
    int64_t end = g_get_monotonic_time() + DEADLINE_MS * 1000;

    while (!replication_log_is_empty(f->log)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(100);
    }
}

static void check_entry(const ReplicationBatch *batch, unsigned i,
                        ReplicationEntryType type, int64_t offset,
                        int64_t bytes)
{
    g_assert_cmpuint(i, <, batch->n_entries);
    g_assert_cmpint(batch->entries[i].type, ==, type);
    g_assert_cmpint(batch->entries[i].offset, ==, offset);
    g_assert_cmpint(batch->entries[i].bytes, ==, bytes);
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

/* The tests */

/* One batch of all that came together, and nobody has to ask for it */
static void test_gather(void)
{
    Fake *f = fake_new(true);
    const ReplicationBatch *batch;

    guest(f, 'd', 0, BLOCK, 0);             /* to have one under way */
    wait_calls(f, 1);
    guest(f, 'w', 3 * BLOCK, BLOCK, 1);
    guest(f, 'f', 0, 0, 0);
    guest(f, 'w', BLOCK, BLOCK, 2);
    guest(f, 'w', 2 * BLOCK, BLOCK, 3);     /* its neighbour */
    guest(f, 'w', 3 * BLOCK, 512, 4);       /* and over the first one */
    guest(f, 'u', 5 * BLOCK, BLOCK, 0);
    guest(f, 'z', 6 * BLOCK, BLOCK, 0);
    let_go(f, 0);
    batch = call(f, 1);
    g_assert_cmpuint(batch->n_entries, ==, 5);
    check_entry(batch, 0, REPLICATION_ENTRY_WRITE, 3 * BLOCK, BLOCK);
    check_entry(batch, 1, REPLICATION_ENTRY_FLUSH, 0, 0);
    check_entry(batch, 2, REPLICATION_ENTRY_WRITE, BLOCK, 2 * BLOCK + 512);
    check_entry(batch, 3, REPLICATION_ENTRY_ZERO_UNMAP, 5 * BLOCK, BLOCK);
    check_entry(batch, 4, REPLICATION_ENTRY_ZERO, 6 * BLOCK, BLOCK);
    let_go(f, 1);
    wait_empty(f);
    g_assert_cmpint(f->disk[BLOCK], ==, 2);
    g_assert_cmpint(f->disk[2 * BLOCK], ==, 3);
    g_assert_cmpint(f->disk[3 * BLOCK], ==, 4);
    g_assert_cmpint(f->disk[3 * BLOCK + 512], ==, 1);
    fake_free(f);
}

/* While a batch is under way the next one waits, but not if it is full */
static void test_full(void)
{
    Fake *f = fake_new(true);

    guest(f, 'w', 0, BLOCK, 1);
    wait_calls(f, 1);
    guest(f, 'w', BLOCK, BLOCK, 2);
    guest(f, 'w', 2 * MiB, REPLICATION_BATCH_FULL, 3);
    check_entry(call(f, 1), 0, REPLICATION_ENTRY_WRITE, BLOCK, BLOCK);
    check_entry(call(f, 1), 1, REPLICATION_ENTRY_WRITE, 2 * MiB,
                REPLICATION_BATCH_FULL);
    guest(f, 'w', 0, BLOCK, 4);
    let_go(f, 1);
    g_assert_cmpint(n_calls(f), ==, 2);     /* the first one has not ended */
    let_go(f, 0);
    let_go(f, 2);
    wait_empty(f);
    g_assert_cmpint(f->max_under_way, ==, 2);
    fake_free(f);
}

/* What did not fit is not forgotten */
static void test_rest(void)
{
    Fake *f = fake_new(true);

    guest(f, 'w', 0, BLOCK, 1);
    wait_calls(f, 1);
    replication_log_pause(f->log, true);
    guest(f, 'w', MiB, MiB, 1);
    guest(f, 'w', 2 * MiB, MiB, 2);
    guest(f, 'w', 4 * MiB, BLOCK, 3);
    replication_log_pause(f->log, false);
    g_assert_cmpint(replication_batch_data(call(f, 1)), ==,
                    REPLICATION_BATCH_DATA);
    let_go(f, 0);
    let_go(f, 1);
    check_entry(call(f, 2), 0, REPLICATION_ENTRY_WRITE, 4 * MiB, BLOCK);
    let_go(f, 2);
    wait_empty(f);
    fake_free(f);
}

static void get_unstuck(Fake *f)
{
    QEMU_LOCK_GUARD(&f->lock);
    f->stuck = false;
    qemu_cond_broadcast(&f->changed);
}

/* Nor what came while the log's thread was about another one */
static void test_rest_of_full(void)
{
    Fake *f = fake_new(false);

    f->stuck = true;
    guest(f, 'w', 0, MiB, 1);
    wait_calls(f, 1);
    guest(f, 'w', MiB, MiB, 1);
    guest(f, 'w', 2 * MiB, MiB, 2);
    guest(f, 'w', 4 * MiB, BLOCK, 3);
    get_unstuck(f);
    wait_empty(f);
    g_assert_cmpint(n_calls(f), ==, 3);
    g_assert_cmpint(f->disk[4 * MiB], ==, 3);
    fake_free(f);
}

static void test_entries(void)
{
    Fake *f = fake_new(false);

    replication_log_pause(f->log, true);
    for (int i = 0; i < REPLICATION_BATCH_ENTRIES + 1; i++) {
        guest(f, 'd', i * BLOCK, BLOCK, 0);
    }
    replication_log_pause(f->log, false);
    g_assert_cmpuint(call(f, 0)->n_entries, ==, REPLICATION_BATCH_ENTRIES);
    g_assert_cmpuint(call(f, 1)->n_entries, ==, 1);
    wait_empty(f);
    fake_free(f);
}

/* What came when the log was filling is sent, too, when it is not any more */
static void test_rest_of_filling(void)
{
    Fake *f = fake_new_limited(false, 4 * MiB);

    f->stuck = true;
    guest(f, 'w', 0, REPLICATION_BATCH_DATA, 1);
    wait_calls(f, 1);
    guest(f, 'w', 2 * MiB, REPLICATION_BATCH_FULL, 2);
    get_unstuck(f);
    wait_empty(f);
    g_assert_cmpint(n_calls(f), ==, 2);
    fake_free(f);
}

/* Is nothing sent in the first milliseconds of a burst?  -1: too slow to say */
static int in_a_burst(void)
{
    Fake *f = fake_new(false);
    int64_t now, begin = g_get_monotonic_time();
    int n;

    guest(f, 'w', 0, MiB, 1);
    guest(f, 'w', 2 * MiB, MiB, 2);
    do {
        n = n_calls(f);
        now = g_get_monotonic_time();
    } while (now < begin + 8000);
    wait_empty(f);
    fake_free(f);
    return now > begin + 9000 ? -1 : n;
}

/* As much as may be in a batch does not begin one while the guest goes on */
static void test_burst(void)
{
    int64_t end = g_get_monotonic_time() + DEADLINE_MS * 1000;
    int n;

    while ((n = in_a_burst()) < 0) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
    }
    g_assert_cmpint(n, ==, 0);
}

/*
 * Who never stops to write is not taken for a burst for good: within two
 * seconds in which this thread never had to stop, something is sent.
 */
static void test_no_rest(void)
{
    Fake *f = fake_new(false);
    int64_t last = g_get_monotonic_time(), begin = last;
    int n = 0;

    while (n < 3) {
        int64_t now = g_get_monotonic_time();

        if (n != n_calls(f) || now > last + 9000) {
            n = n_calls(f);
            begin = now;
        }
        g_assert_cmpint(now, <, begin + 2 * G_USEC_PER_SEC);
        guest(f, 'd', 0, 512, 0);
        for (last = now; now < last + 100; now = g_get_monotonic_time()) {
            ;       /* to sleep may take long enough to end a burst */
        }
    }
    wait_empty(f);
    fake_free(f);
}

static void test_epoch(void)
{
    Fake *f = fake_new(false);
    ReplicationLogStats stats;

    guest(f, 'w', 0, BLOCK, 1);
    settle(f, 1);
    guest(f, 'w', BLOCK, BLOCK, 2);
    guest(f, 'w', 2 * MiB, MiB, 2);         /* a full one is held, too */
    g_usleep(60000);                        /* longer than they gather */
    g_assert_cmpint(n_calls(f), ==, 1);
    replication_log_cut(f->log, 2);         /* allows the first one */
    guest(f, 'w', BLOCK, BLOCK, 4);
    g_assert_true(replication_log_settle(f->log, DEADLINE_MS, &error_abort));
    g_assert_cmpint(f->disk[BLOCK], ==, 2);

    replication_log_allow(f->log, 2);       /* nobody settles */
    wait_empty(f);
    g_assert_cmpint(f->disk[BLOCK], ==, 4);
    replication_log_stats(f->log, &stats);
    g_assert_cmpuint(stats.sent_bytes, ==, MiB + 3 * BLOCK);
    g_assert_cmpuint(stats.sent_requests, ==, n_calls(f));
    fake_free(f);
}

static void test_error(void)
{
    Fake *f = fake_new(true);
    ReplicationLogStats stats;

    guest(f, 'w', 0, BLOCK, 1);
    wait_calls(f, 1);
    guest(f, 'w', BLOCK, BLOCK, 2);
    WITH_QEMU_LOCK_GUARD(&f->lock) {
        f->fail = true;
    }
    let_go(f, 0);
    wait_empty(f);
    replication_log_stats(f->log, &stats);
    g_assert_cmpint(stats.err, ==, ENOSPC);
    g_assert_cmpuint(stats.bytes, ==, 0);
    g_assert_cmpint(n_calls(f), ==, 1);
    guest(f, 'w', 0, BLOCK, 3);             /* dropped */
    g_assert_true(replication_log_is_empty(f->log));
    fake_free(f);
}

/* The end while records gather, and while a batch is under way */
static void test_free(void)
{
    Fake *f = fake_new(true);

    guest(f, 'w', 0, BLOCK, 1);
    fake_free(f);

    f = fake_new(true);
    guest(f, 'w', 0, BLOCK, 1);
    wait_calls(f, 1);
    guest(f, 'w', 0, BLOCK, 1);
    fake_free(f);
}

/* One of those that wait */
static void let_any_go(Fake *f)
{
    QEMU_LOCK_GUARD(&f->lock);
    for (unsigned i = 0; i < f->calls->len; i++) {
        Call *call = g_ptr_array_index(f->calls, i);

        if (call->co && g_test_rand_bit()) {
            let_go_locked(call);
            return;
        }
    }
}

static void test_random(void)
{
    Fake *f = fake_new(true);
    g_autofree uint8_t *want = g_malloc0(DISK);
    uint64_t epoch = 0, allowed = 0;

    for (int i = 0; i < 3000; i++) {
        int64_t offset = g_test_rand_int_range(0, 64) * 512;
        int64_t bytes = g_test_rand_int_range(1, 32) * 512;
        int byte = g_test_rand_int_range(1, 256);
        char type = "wwwzufd"[g_test_rand_int_range(0, 7)];

        if (g_test_rand_int_range(0, 100) == 0) {
            offset = g_test_rand_int_range(0, 7) * MiB;
            bytes = MiB;
        }
        if (type == 'w' || type == 'z' || type == 'u') {
            memset(want + offset, type == 'w' ? byte : 0, bytes);
        }
        guest(f, type, offset, bytes, byte);
        if (g_test_rand_int_range(0, 50) == 0 && allowed == epoch) {
            replication_log_cut(f->log, ++epoch);
        } else if (g_test_rand_int_range(0, 20) == 0 && allowed < epoch) {
            replication_log_allow(f->log, ++allowed);
        }
        if (g_test_rand_int_range(0, 3) == 0) {
            let_any_go(f);
        }
        if (g_test_rand_int_range(0, 50) == 0) {
            g_usleep(1000);     /* or it would all be one batch */
        }
    }
    replication_log_allow(f->log, epoch);
    WITH_QEMU_LOCK_GUARD(&f->lock) {
        let_all_go_locked(f);
    }
    wait_empty(f);
    g_assert_cmpmem(want, DISK, f->disk, DISK);
    g_assert_cmpint(n_calls(f), >, 10);
    g_assert_cmpint(f->max_under_way, >, 1);
    fake_free(f);
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_fatal);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/disk/log-batch/gather", test_gather);
    g_test_add_func("/colo/disk/log-batch/full", test_full);
    g_test_add_func("/colo/disk/log-batch/rest", test_rest);
    g_test_add_func("/colo/disk/log-batch/rest-of-full", test_rest_of_full);
    g_test_add_func("/colo/disk/log-batch/entries", test_entries);
    g_test_add_func("/colo/disk/log-batch/rest-of-filling",
                    test_rest_of_filling);
    g_test_add_func("/colo/disk/log-batch/burst", test_burst);
    g_test_add_func("/colo/disk/log-batch/no-rest", test_no_rest);
    g_test_add_func("/colo/disk/log-batch/epoch", test_epoch);
    g_test_add_func("/colo/disk/log-batch/error", test_error);
    g_test_add_func("/colo/disk/log-batch/free", test_free);
    g_test_add_func("/colo/disk/log-batch/random", test_random);
    return g_test_run();
}
