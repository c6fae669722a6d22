/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Batches of the replication log on the wire.
 *
 * Proves: what is packed is what is unpacked; anything that would reach beyond
 * the disk or the request is refused, whatever the bytes are.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "block/replication/batch.h"

#define DISK (1 * MiB)
#define N 5

static const ReplicationBatch example = {
    .session = 0x123456789abcdef0,
    .number = 7,
    .n_entries = N,
    .entries = {
        { REPLICATION_ENTRY_WRITE, 512, 4096 },
        { REPLICATION_ENTRY_FLUSH },
        { REPLICATION_ENTRY_ZERO, 0, DISK },
        { REPLICATION_ENTRY_DISCARD, DISK - 1, 1 },
        { REPLICATION_ENTRY_WRITE, DISK - 3, 3 },
    },
};

#define DATA (4096 + 3)

typedef struct Packed {
    uint8_t buf[2 * REPLICATION_BATCH_ALIGN];
    size_t size;
} Packed;

static void pack(Packed *p, const ReplicationBatch *batch)
{
    p->size = replication_batch_size(batch->n_entries);
    g_assert_cmpuint(p->size, <=, sizeof(p->buf));
    replication_batch_pack(batch, p->buf);
}

static bool unpack(const Packed *p, ReplicationBatch *batch, size_t bytes)
{
    return replication_batch_unpack(batch, p->buf, MIN(p->size, bytes), bytes,
                                    DISK);
}

static void test_same(void)
{
    ReplicationBatch batch;
    Packed p;

    pack(&p, &example);
    g_assert_cmpint(replication_batch_data(&example), ==, DATA);
    g_assert_true(unpack(&p, &batch, p.size + DATA));
    g_assert_cmphex(batch.session, ==, example.session);
    g_assert_cmpuint(batch.number, ==, 7);
    g_assert_cmpuint(batch.n_entries, ==, N);
    for (int i = 0; i < N; i++) {
        g_assert_cmpint(batch.entries[i].type, ==, example.entries[i].type);
        g_assert_cmpint(batch.entries[i].offset, ==,
                        example.entries[i].offset);
        g_assert_cmpint(batch.entries[i].bytes, ==, example.entries[i].bytes);
    }
    /* With padding */
    g_assert_true(unpack(&p, &batch, p.size + DATA + 511));
}

/* Whatever is cut off, it is not a batch */
static void test_short(void)
{
    ReplicationBatch batch;
    Packed p;

    pack(&p, &example);
    for (size_t bytes = 0; bytes < p.size + DATA; bytes++) {
        g_assert_false(unpack(&p, &batch, bytes));
    }
}

static void test_most(void)
{
    ReplicationBatch batch = { .number = 1,
                               .n_entries = REPLICATION_BATCH_ENTRIES };
    Packed p;

    for (int i = 0; i < REPLICATION_BATCH_ENTRIES; i++) {
        batch.entries[i].type = REPLICATION_ENTRY_FLUSH;
    }
    pack(&p, &batch);
    g_assert_true(unpack(&p, &batch, p.size));
    stl_be_p(p.buf + 24, REPLICATION_BATCH_ENTRIES + 1);
    g_assert_false(unpack(&p, &batch, REPLICATION_WINDOW));
    stl_be_p(p.buf + 24, UINT32_MAX);
    g_assert_false(unpack(&p, &batch, REPLICATION_WINDOW));
}

static void test_wrong(void)
{
    static const struct {
        ReplicationEntry entry;
        bool good;
    } cases[] = {
        { { REPLICATION_ENTRY_ZERO_UNMAP, 0, DISK }, true },
        { { REPLICATION_ENTRY_ZERO_UNMAP, 0, DISK + 1 } },
        { { REPLICATION_ENTRY_ZERO_UNMAP, 1, DISK } },
        { { REPLICATION_ENTRY_ZERO, DISK, 1 } },
        { { REPLICATION_ENTRY_ZERO, DISK + 1, 1 } },
        { { REPLICATION_ENTRY_ZERO, 0, 0 } },
        { { REPLICATION_ENTRY_ZERO, -1, 1 } },
        { { REPLICATION_ENTRY_ZERO, -1, 2 } },
        { { REPLICATION_ENTRY_ZERO, 0, -1 } },
        { { REPLICATION_ENTRY_ZERO, INT64_MIN, INT64_MIN } },
        { { REPLICATION_ENTRY_ZERO, 1, INT64_MAX } },
        { { REPLICATION_ENTRY_DISCARD, INT64_MAX, 1 } },
        { { REPLICATION_ENTRY_WRITE, 0, DATA }, true },
        { { REPLICATION_ENTRY_WRITE, 0, DATA + 1 } },
        { { REPLICATION_ENTRY_FLUSH, 0, 0 }, true },
        { { REPLICATION_ENTRY_FLUSH, 1, 0 } },
        { { REPLICATION_ENTRY_FLUSH, 0, 1 } },
        { { 0, 0, 1 } },
        { { REPLICATION_ENTRY_RESYNC_BEGIN, INT64_MAX, 1 }, true },
        { { REPLICATION_ENTRY_RESYNC_BEGIN, 0, 0 }, true },
        { { REPLICATION_ENTRY_RESYNC_BEGIN, 1, 0 } },
        { { REPLICATION_ENTRY_COMMON, INT64_MAX, 0 }, true },
        { { REPLICATION_ENTRY_COMMON, 0, 0 } },
        { { REPLICATION_ENTRY_COMMON, -1, 0 } },
        { { REPLICATION_ENTRY_COMMON, 1, 1 } },
        { { REPLICATION_ENTRY_MARK, 0, 0 }, true },
        { { REPLICATION_ENTRY_MARK, INT64_MIN, 0 } },
        { { REPLICATION_ENTRY_MARK, 1, 1 } },
        { { REPLICATION_ENTRY_RESYNC_END, 1, -1 } },
        { { REPLICATION_ENTRY_MARK + 1, 0, 1 } },
    };

    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        ReplicationBatch batch = { .number = 1, .n_entries = 1 };
        Packed p;

        batch.entries[0] = cases[i].entry;
        pack(&p, &batch);
        g_test_message("case %d", i);
        g_assert_cmpint(unpack(&p, &batch, p.size + DATA), ==, cases[i].good);
    }
}

static void test_head(void)
{
    ReplicationBatch batch;
    Packed p;

    pack(&p, &example);
    p.buf[0] ^= 1;
    g_assert_false(unpack(&p, &batch, p.size + DATA));

    pack(&p, &example);
    stq_be_p(p.buf + 16, 0);    /* there is no such number */
    g_assert_false(unpack(&p, &batch, p.size + DATA));
}

/* What is taken is within the disk and the request */
static void check_bounds(const ReplicationBatch *batch, size_t bytes)
{
    int64_t data = 0;

    g_assert_cmpuint(batch->n_entries, <=, REPLICATION_BATCH_ENTRIES);
    for (unsigned i = 0; i < batch->n_entries; i++) {
        const ReplicationEntry *entry = &batch->entries[i];

        if (entry->type == REPLICATION_ENTRY_RESYNC_BEGIN ||
            entry->type == REPLICATION_ENTRY_RESYNC_END) {
            g_assert_cmpint(entry->bytes, >=, 0);
            g_assert_cmpint(entry->bytes, <=, COLO_DISK_ROLE__MAX);
            continue; /* no bytes of the disk */
        }
        g_assert_cmpint(entry->offset, >=, 0);
        g_assert_cmpint(entry->bytes, >=, 0);
        g_assert_cmpint(entry->offset, <=, DISK - entry->bytes);
        data += entry->type == REPLICATION_ENTRY_WRITE ? entry->bytes : 0;
    }
    g_assert_cmpint(data, ==, replication_batch_data(batch));
    g_assert_cmpuint(replication_batch_size(batch->n_entries) + data, <=,
                     bytes);
}

static void test_random(void)
{
    int taken = 0;

    for (int i = 0; i < 200000; i++) {
        ReplicationBatch batch;
        Packed p;

        pack(&p, &example);
        for (int k = g_test_rand_int_range(1, 4); k; k--) {
            p.buf[g_test_rand_int_range(0, p.size)] =
                g_test_rand_int_range(0, 256);
        }
        if (unpack(&p, &batch, p.size + DATA)) {
            check_bounds(&batch, p.size + DATA);
            taken++;
        }
    }
    /* Those in which the session was changed, or a byte into itself */
    g_assert_cmpint(taken, >, 0);
}

static void test_info(void)
{
    uint8_t good[REPLICATION_SINK_INFO_SIZE], buf[sizeof(good)];
    ReplicationSinkInfo info = { .window = DISK, .length = DISK + 512 };

    replication_sink_info_pack(good, &info);
    g_assert_true(replication_sink_info_unpack(&info, good, DISK,
                                               &error_abort));
    g_assert_false(info.has_generation);
    g_assert_cmpint(info.window, ==, DISK);
    g_assert_cmpint(info.length, ==, DISK + 512);
    for (int i = 0; i < 24; i++) {
        Error *err = NULL;

        memcpy(buf, good, sizeof(buf));
        buf[i] ^= 0x80;
        g_assert_false(replication_sink_info_unpack(&info, buf, DISK,
                                                    &err));
        g_assert_nonnull(strstr(error_get_pretty(err), "'replication-sink'"));
        error_free(err);
    }
    g_assert_false(replication_sink_info_unpack(&info, good, DISK + 1, NULL));
    info.window = DISK;
    info.length = DISK - 1;
    replication_sink_info_pack(good, &info);
    g_assert_false(replication_sink_info_unpack(&info, good, DISK, NULL));
}

/* What is asked and answered about a longer disk, whatever is in its place */
static void test_grow(void)
{
    uint8_t buf[REPLICATION_GROW_SIZE];
    ReplicationGrow grow = {
        .state = REPLICATION_GROW_FAILED,
        .number = 7,
        .length = INT64_MAX,
    };
    ReplicationGrow taken;
    ReplicationBatch batch = { .session = 1, .number = 1, .n_entries = 1 };
    ReplicationBatch got;
    Packed p;

    memset(grow.reason, 'x', sizeof(grow.reason) - 1);
    replication_grow_pack(buf, &grow);
    g_assert_true(replication_grow_unpack(&taken, buf));
    g_assert_cmpint(taken.state, ==, REPLICATION_GROW_FAILED);
    g_assert_cmpuint(taken.number, ==, 7);
    g_assert_cmpint(taken.length, ==, INT64_MAX);
    g_assert_cmpstr(taken.reason, ==, grow.reason);
    memset(buf + 32, 'y', sizeof(buf) - 32);
    g_assert_true(replication_grow_unpack(&taken, buf));
    g_assert_cmpint(strlen(taken.reason), ==, sizeof(taken.reason) - 1);
    buf[24] ^= 0x80;
    g_assert_false(replication_grow_unpack(&taken, buf));
    buf[24] ^= 0x80;
    buf[11] = REPLICATION_GROW_LATER + 1;
    g_assert_false(replication_grow_unpack(&taken, buf));
    memset(buf, 0, sizeof(buf));
    g_assert_false(replication_grow_unpack(&taken, buf));

    /* The entry: a length that there is room for */
    batch.entries[0].type = REPLICATION_ENTRY_GROW;
    batch.entries[0].offset = DISK;
    pack(&p, &batch);
    g_assert_true(unpack(&p, &got, p.size));
    batch.entries[0].offset = DISK + 1;
    pack(&p, &batch);
    g_assert_false(unpack(&p, &got, p.size));
    batch.entries[0].offset = 0;
    pack(&p, &batch);
    g_assert_false(unpack(&p, &got, p.size));
    batch.entries[0] = (ReplicationEntry) {
        REPLICATION_ENTRY_GROW, DISK / 2, 1
    };
    pack(&p, &batch);
    g_assert_false(unpack(&p, &got, p.size));
}

/* Generations, in the window and in entries for a resync */
static void test_generation(void)
{
    uint8_t buf[REPLICATION_SINK_INFO_SIZE];
    ReplicationBatch batch = { .session = 1, .number = 1, .n_entries = 2 };
    ReplicationBatch taken;
    ColoDiskGeneration g;
    ReplicationSinkInfo info;
    Packed p;

    for (int role = 0; role < COLO_DISK_ROLE__MAX; role++) {
        info = (ReplicationSinkInfo) {
            .window = DISK,
            .length = DISK,
            .has_generation = true,
            .generation = { .number = UINT64_MAX - role, .role = role },
        };
        replication_sink_info_pack(buf, &info);
        memset(&info, 0, sizeof(info));
        g_assert_true(replication_sink_info_unpack(&info, buf, DISK,
                                                   &error_abort));
        g_assert_true(info.has_generation);
        g_assert_cmpuint(info.generation.number, ==, UINT64_MAX - role);
        g_assert_cmpint(info.generation.role, ==, role);

        batch.entries[0].type = REPLICATION_ENTRY_RESYNC_BEGIN;
        replication_entry_set_generation(&batch.entries[0], &info.generation);
        batch.entries[1].type = REPLICATION_ENTRY_RESYNC_END;
        replication_entry_set_generation(&batch.entries[1], NULL);
        pack(&p, &batch);
        g_assert_true(unpack(&p, &taken, p.size));
        g_assert_true(replication_entry_generation(&taken.entries[0], &g));
        g_assert_cmpuint(g.number, ==, UINT64_MAX - role);
        g_assert_cmpint(g.role, ==, role);
        g_assert_false(replication_entry_generation(&taken.entries[1], &g));
    }
    /* Roles that nobody has */
    info.generation.role = COLO_DISK_ROLE__MAX;
    replication_sink_info_pack(buf, &info);
    g_assert_false(replication_sink_info_unpack(&info, buf, DISK, NULL));
    batch.entries[0].bytes = COLO_DISK_ROLE__MAX + 1;
    pack(&p, &batch);
    g_assert_false(unpack(&p, &taken, p.size));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/disk/batch/same", test_same);
    g_test_add_func("/colo/disk/batch/short", test_short);
    g_test_add_func("/colo/disk/batch/most", test_most);
    g_test_add_func("/colo/disk/batch/wrong", test_wrong);
    g_test_add_func("/colo/disk/batch/head", test_head);
    g_test_add_func("/colo/disk/batch/random", test_random);
    g_test_add_func("/colo/disk/batch/info", test_info);
    g_test_add_func("/colo/disk/batch/grow", test_grow);
    g_test_add_func("/colo/disk/batch/generation", test_generation);
    return g_test_run();
}
