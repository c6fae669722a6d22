/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which bytes of two disks need not be equal, beside a model of both disks.
 *
 * Proves: whatever the guest writes and discards, and in whichever order both
 * disks get it, a byte that may be compared is equal; one that may not has been
 * written since its range is watched, or discarded and not written since.  What
 * is forgotten is known.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "block/replication/discards.h"
#include "block/replication/watch.h"

#define BYTES 300
#define STEPS 20000

#define RANGES 4

/* One that is watched, if it has any bytes */
typedef struct Range {
    int begin, bytes;
    bool touched[BYTES];        /* since then */
} Range;

typedef struct Model {
    ReplicationWatch *watch;
    bool is_void[BYTES];
    Range ranges[RANGES];       /* no two begin at the same place */
} Model;

static void model_write(Model *m, int offset, int bytes, bool discards)
{
    if (discards) {
        replication_watch_discarded(m->watch, offset, bytes);
    } else {
        replication_watch_written(m->watch, offset, bytes);
    }
    for (int i = offset; i < offset + bytes; i++) {
        m->is_void[i] = discards;
        for (int k = 0; k < RANGES; k++) {
            m->ranges[k].touched[i] = true;
        }
    }
}

/* In place of what was there */
static void model_watch(Model *m, Range *r, int offset, int bytes)
{
    if (r->bytes) {
        replication_watch_remove(m->watch, r->begin);
        r->bytes = 0;
    }
    for (int k = 0; k < RANGES; k++) {
        if (m->ranges[k].bytes && m->ranges[k].begin == offset) {
            return;
        }
    }
    if (bytes) {
        replication_watch_add(m->watch, offset, bytes);
        memset(r->touched, 0, sizeof(r->touched));
        r->begin = offset;
        r->bytes = bytes;
    }
}

static void model_mask(Model *m, Range *r)
{
    unsigned long *mask = bitmap_new(BYTES);

    bitmap_set(mask, 0, BYTES); /* all of it is written */
    replication_watch_mask(m->watch, r->begin, mask);
    for (int i = 0; i < r->bytes; i++) {
        g_assert_cmpint(test_bit(i, mask), ==, r->touched[r->begin + i] ||
                                               m->is_void[r->begin + i]);
    }
    g_free(mask);
}

static void model_void(Model *m, int offset, int bytes)
{
    bool all = true;

    for (int i = offset; i < offset + bytes; i++) {
        all &= m->is_void[i];
    }
    g_assert_cmpint(replication_watch_is_void(m->watch, offset, bytes), ==,
                    all);
}

static void test_model(void)
{
    Model m = { .watch = replication_watch_new() };

    for (int i = 0; i < STEPS; i++) {
        int offset = g_test_rand_int_range(0, BYTES);
        int bytes = g_test_rand_int_range(0, BYTES - offset + 1);
        Range *r = &m.ranges[g_test_rand_int_range(0, RANGES)];

        switch (g_test_rand_int_range(0, 8)) {
        case 0: case 1:
            model_write(&m, offset, MIN(bytes, 30), false);
            break;
        case 2: case 3:
            model_write(&m, offset, MIN(bytes, 30), true);
            break;
        case 4:
            model_watch(&m, r, offset, bytes);
            break;
        default:
            if (r->bytes) {
                model_mask(&m, r);
            }
            if (bytes) {
                model_void(&m, offset, MIN(bytes, 20));
            }
            break;
        }
    }
    for (int k = 0; k < RANGES; k++) {
        model_watch(&m, &m.ranges[k], 0, 0);
    }
    replication_watch_free(m.watch);
}

/* The range at its longest, and its ends */
static void test_long(void)
{
    ReplicationWatch *w = replication_watch_new();
    unsigned long *mask = bitmap_new(REPLICATION_WATCH_MAX);
    const int64_t at = 5 * (int64_t)TiB;
    const int64_t bytes = REPLICATION_WATCH_MAX;

    replication_watch_written(w, at + 7, 1); /* before: does not count */
    replication_watch_add(w, at, bytes);
    replication_watch_written(w, at - 10, 11);
    replication_watch_written(w, at + bytes - 1, 100);
    replication_watch_discarded(w, at + 100, 3);
    replication_watch_mask(w, at, mask);
    g_assert_true(test_bit(0, mask));
    g_assert_false(test_bit(7, mask));
    g_assert_true(test_bit(bytes - 1, mask));
    g_assert_cmpint(bitmap_count_one(mask, bytes), ==, 1 + 1 + 3);
    replication_watch_remove(w, at);

    replication_watch_add(w, at, bytes);
    replication_watch_mask(w, at, mask);
    g_assert_cmpint(bitmap_count_one(mask, bytes), ==, 3);
    replication_watch_remove(w, at);
    g_free(mask);
    replication_watch_free(w);
}

static void test_forgot(void)
{
    ReplicationWatch *w = replication_watch_new();

    for (int64_t i = 0; i < REPLICATION_DISCARDS_MAX; i++) {
        replication_watch_discarded(w, i * 1000, 100);
    }
    g_assert_false(replication_watch_forgot(w));
    replication_watch_discarded(w, 500, 1);
    g_assert_true(replication_watch_forgot(w));
    g_assert_false(replication_watch_is_void(w, 500, 1));
    /* What was forgotten does not come back when there is room */
    replication_watch_written(w, 0, 100);
    g_assert_true(replication_watch_forgot(w));
    replication_watch_free(w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/replication/watch/model", test_model);
    g_test_add_func("/colo/replication/watch/long", test_long);
    g_test_add_func("/colo/replication/watch/forgot", test_forgot);
    return g_test_run();
}
