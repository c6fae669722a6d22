/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the dirty set of a RAM block, and its runs.
 *
 * Proves: the set is what a plain bitmap is, for random additions, walks and
 * removals.  All pages of a set are named by its runs, and no others, unless
 * there are more than a frame may carry; then as few others as it takes,
 * however large the guest is.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "migration/colo/dirty.h"
#include "migration/colo/frame.h"

/* A part that is not complete at the end, too */
#define NPAGES  (5 * COLO_DIRTY_PART + 77)

static uint64_t random_page(uint64_t npages)
{
    return g_test_rand_int_range(0, npages);
}

static void check_same(ColoDirty *d, const unsigned long *plain)
{
    uint64_t page = colo_dirty_next(d, 0);

    for (uint64_t i = find_first_bit(plain, d->npages); i < d->npages;
         i = find_next_bit(plain, d->npages, i + 1)) {
        g_assert_cmpuint(page, ==, i);
        page = colo_dirty_next(d, page + 1);
    }
    g_assert_cmpuint(page, ==, d->npages);
    g_assert_true(bitmap_equal(d->bits, plain, d->npages));
}

static void test_set(void)
{
    g_autofree unsigned long *bits = bitmap_new(NPAGES);
    g_autofree unsigned long *plain = bitmap_new(NPAGES);
    ColoDirty d;

    set_bit(NPAGES - 1, bits);
    set_bit(NPAGES - 1, plain);
    g_assert_cmpuint(colo_dirty_init(&d, bits, NPAGES), ==, 1);
    check_same(&d, plain);
    for (int i = 0; i < 300; i++) {
        uint64_t first = random_page(NPAGES);
        uint64_t n = random_page(MIN(NPAGES - first, 1 << i % 15) + 1);
        uint64_t before = bitmap_count_one(plain, NPAGES);

        bitmap_set(plain, first, n);
        g_assert_cmpuint(colo_dirty_add(&d, first, n), ==,
                         bitmap_count_one(plain, NPAGES) - before);
        check_same(&d, plain);
        if (i % 7 == 0) {
            /* Pages are taken out of it one by one */
            for (uint64_t page = colo_dirty_next(&d, first);
                 page < NPAGES && page < first + 2 * COLO_DIRTY_PART;
                 page = colo_dirty_next(&d, page + 1)) {
                clear_bit(page, bits);
                clear_bit(page, plain);
            }
            check_same(&d, plain);
        }
        if (i % 50 == 49) {
            colo_dirty_clear(&d);
            bitmap_zero(plain, NPAGES);
            check_same(&d, plain);
        }
    }
    colo_dirty_destroy(&d);
}

/* Where nothing was added nobody looks */
static void test_looks_little(void)
{
    g_autofree unsigned long *bits = bitmap_new(NPAGES);
    ColoDirty d;

    colo_dirty_init(&d, bits, NPAGES);
    g_assert_cmpuint(colo_dirty_next(&d, 0), ==, NPAGES);
    set_bit(3 * COLO_DIRTY_PART, bits);
    g_assert_cmpuint(colo_dirty_next(&d, 0), ==, NPAGES);
    colo_dirty_note(&d, 3 * COLO_DIRTY_PART, 1);
    g_assert_cmpuint(colo_dirty_next(&d, 0), ==, 3 * COLO_DIRTY_PART);
    colo_dirty_destroy(&d);
}

typedef struct Named {
    uint64_t runs;
    uint64_t set;
    uint64_t named;
} Named;

/* The runs of the sets have to name all that is set, and no page twice */
static Named check_runs(ColoDirty *sets, uint32_t nblocks)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    uint64_t at = 0;
    uint32_t block = 0;
    Named n = { 0 };

    colo_dirty_runs(sets, nblocks, out);
    n.runs = out->len / COLO_RUN_LEN;
    g_assert_cmpuint(n.runs, <=, COLO_RUNS_MAX);
    for (guint pos = 0; pos < out->len; pos += COLO_RUN_LEN) {
        ColoRun run;

        colo_run_decode(out->data + pos, &run);
        g_assert_cmpuint(run.npages, >, 0);
        while (block < run.block) {
            g_assert_cmpuint(colo_dirty_next(&sets[block], at), ==,
                             sets[block].npages);
            block++;
            at = 0;
        }
        g_assert_cmpuint(run.block, ==, block);
        g_assert_cmpuint(run.page, ==, colo_dirty_next(&sets[block], at));
        at = run.page + run.npages;
        g_assert_cmpuint(at, <=, sets[block].npages);
        g_assert_true(test_bit(at - 1, sets[block].bits));
        n.named += run.npages;
    }
    for (uint32_t i = 0; i < nblocks; i++) {
        n.set += bitmap_count_one(sets[i].bits, sets[i].npages);
        g_assert_cmpuint(i < block ? sets[i].npages :
                         colo_dirty_next(&sets[i], i == block ? at : 0), ==,
                         sets[i].npages);
    }
    return n;
}

/* A block of @npages pages, of which each @step-th is set */
static void new_block(ColoDirty *d, uint64_t npages, uint64_t step)
{
    colo_dirty_init(d, bitmap_new(npages), npages);
    for (uint64_t i = 0; i < npages; i += step) {
        colo_dirty_add(d, i, 1);
    }
}

static void free_block(ColoDirty *d)
{
    g_free(d->bits);
    colo_dirty_destroy(d);
}

static Named regular_runs(uint64_t npages, uint64_t step)
{
    ColoDirty d;
    Named n;

    new_block(&d, npages, step);
    n = check_runs(&d, 1);
    free_block(&d);
    return n;
}

static void test_runs_regular(void)
{
    g_assert_cmpuint(regular_runs(1000, 1).runs, ==, 1);
    g_assert_cmpuint(regular_runs(1000, 2).runs, ==, 500);
    g_assert_cmpuint(regular_runs(1000, 1000).runs, ==, 1);
    for (uint64_t npages = COLO_RUNS_MAX; npages < 9 * COLO_RUNS_MAX;
         npages *= 2) {
        for (uint64_t step = 2; step < 13; step += 3) {
            Named n = regular_runs(npages, step);

            g_assert_cmpuint(n.runs, ==,
                             MIN(COLO_RUNS_MAX, DIV_ROUND_UP(npages, step)));
        }
    }
}

/* All of several blocks are named, the empty ones among them as well */
static void test_runs_blocks(void)
{
    ColoDirty sets[4];
    Named n;

    new_block(&sets[0], COLO_RUNS_MAX, 2);
    colo_dirty_init(&sets[1], bitmap_new(NPAGES), NPAGES);
    new_block(&sets[2], 2 * COLO_RUNS_MAX, 3);
    new_block(&sets[3], NPAGES, 7);
    n = check_runs(sets, 4);
    g_assert_cmpuint(n.runs, ==, COLO_RUNS_MAX);
    for (int i = 0; i < 4; i++) {
        free_block(&sets[i]);
    }
}

static Named random_runs(uint64_t npages, uint64_t dirty)
{
    ColoDirty d;
    Named n;

    colo_dirty_init(&d, bitmap_new(npages), npages);
    for (uint64_t i = 0; i < dirty; i++) {
        colo_dirty_add(&d, random_page(npages / 8) * 8 + i % 8, 1);
    }
    n = check_runs(&d, 1);
    free_block(&d);
    return n;
}

/* 512 GiB, of which less than a GiB is dirty, here and there */
static void test_runs_large(void)
{
    const uint64_t npages = 128 * 1024 * 1024ULL;
    Named n = random_runs(npages, 200000);

    g_assert_cmpuint(n.named, ==, n.set);

    /* More runs than may be: no more is added than it takes */
    n = random_runs(npages, COLO_RUNS_MAX + COLO_RUNS_MAX / 20);
    g_assert_cmpuint(n.runs, ==, COLO_RUNS_MAX);
    g_assert_cmpuint(n.named - n.set, <, n.set);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/dirty/set", test_set);
    g_test_add_func("/colo/dirty/looks-little", test_looks_little);
    g_test_add_func("/colo/dirty/runs/regular", test_runs_regular);
    g_test_add_func("/colo/dirty/runs/blocks", test_runs_blocks);
    g_test_add_func("/colo/dirty/runs/large", test_runs_large);
    return g_test_run();
}
