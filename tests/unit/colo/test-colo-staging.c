/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO staging area.
 *
 * Proves: what is staged comes out as it went in, pages do not overlap, the
 * limit holds, pages that are zero take no memory but for the list, several
 * threads find room for all pages there is room for, and what a thread does not
 * need is there for others, memory is kept over a reset and given back after a
 * while, and an allocation that fails is an error that changes nothing.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-colo.h"
#include "qemu/thread.h"
#include "migration/colo/staging.h"

#define PAGE 4096

static void check(ColoStaging *st, uint64_t i)
{
    uint8_t *data = colo_staging_data(st, i);

    for (int k = 0; k < PAGE; k++) {
        g_assert_cmpuint(data[k], ==, i % 251);
    }
}

static ColoStaging *staging_new(uint64_t limit)
{
    return colo_staging_new(PAGE, limit, limit);
}

static void reserve(ColoStaging *st, uint64_t npages, uint64_t nslots)
{
    g_assert_true(colo_staging_reserve(st, npages, nslots, &error_abort));
}

/* Stage pages with data */
static void stage(ColoStaging *st, uint64_t n)
{
    reserve(st, n, n);
    for (uint64_t i = 0; i < n; i++) {
        colo_staging_add_data(st, colo_staging_append(st, 0, i));
    }
}

static void test_contents(void)
{
    ColoStaging *st = staging_new(5000);

    for (uint64_t i = 0; i < 5000; i++) {
        reserve(st, 1, i % 5 != 0);
        g_assert_cmpuint(colo_staging_append(st, i % 3, i * 7), ==, i);
        if (i % 5) {
            memset(colo_staging_add_data(st, i), (int)(i % 251), PAGE);
        }
    }
    g_assert_cmpuint(colo_staging_count(st), ==, 5000);
    for (uint64_t i = 0; i < 5000; i++) {
        ColoStagedPage *p = colo_staging_page(st, i);

        g_assert_cmpuint(p->block, ==, i % 3);
        g_assert_cmpuint(p->page, ==, i * 7);
        if (i % 5) {
            check(st, i);
        } else {
            g_assert_null(colo_staging_data(st, i));
        }
    }
    colo_staging_free(st);
}

static void test_limit(void)
{
    ColoStaging *st = staging_new(700);

    g_assert_cmpuint(colo_staging_room(st), ==, 0);
    g_assert_cmpuint(colo_staging_room_max(st), ==, 700);
    reserve(st, 100000, 100000);
    g_assert_cmpuint(colo_staging_room(st), ==, 700);
    stage(st, 300);
    g_assert_cmpuint(colo_staging_room(st), ==, 400);
    g_assert_cmpuint(colo_staging_room_max(st), ==, 400);
    g_assert_cmpuint(colo_staging_bytes(st), <=,
                     4 * MiB + 700 * sizeof(ColoStagedPage));
    colo_staging_free(st);
}

/* As many as the guest has; they are in the list, and nowhere else */
static void test_zero(void)
{
    ColoStaging *st = colo_staging_new(PAGE, 1000000, 10);

    reserve(st, 900000, 0);
    for (uint64_t i = 0; i < 900000; i++) {
        colo_staging_append(st, 0, i);
    }
    g_assert_cmpuint(colo_staging_bytes(st), <=,
                     1000000 * sizeof(ColoStagedPage));
    reserve(st, 10, 10);
    g_assert_cmpuint(colo_staging_room(st), ==, 10);
    stage(st, 10);
    g_assert_cmpuint(colo_staging_count(st), ==, 900010);
    g_assert_cmpuint(colo_staging_room_max(st), ==, 0);
    colo_staging_free(st);
}

#define THREADS     4
#define PER_THREAD  1000

typedef struct Part {
    ColoStaging *st;
    uint64_t begin;
    uint64_t end;
    int every;                  /* so many pages apart are those with data */
} Part;

static void *add_part(void *opaque)
{
    Part *part = opaque;
    ColoStagingSlots own = { 0 };

    for (uint64_t i = part->begin; i < part->end; i++) {
        if (i % part->every == 0) {
            memset(colo_staging_add_own_data(part->st, i, &own, part->end - i),
                   (int)(i % 251), PAGE);
        }
    }
    colo_staging_put_back(part->st, &own);
    return NULL;
}

/* Each thread @per_thread pages, of which one out of @every has data */
static void add_by_threads(ColoStaging *st, uint64_t per_thread, int every)
{
    QemuThread threads[THREADS];
    Part parts[THREADS];
    uint64_t begin = colo_staging_count(st);

    for (uint64_t i = 0; i < THREADS * per_thread; i++) {
        colo_staging_append(st, 0, begin + i);
    }
    for (int i = 0; i < THREADS; i++) {
        parts[i] = (Part) {
            st, begin + i * per_thread, begin + (i + 1) * per_thread, every,
        };
        qemu_thread_create(&threads[i], "part", add_part, &parts[i],
                           QEMU_THREAD_JOINABLE);
    }
    for (int i = 0; i < THREADS; i++) {
        qemu_thread_join(&threads[i]);
    }
    for (uint64_t i = begin; i < colo_staging_count(st); i++) {
        if (i % every == 0) {
            check(st, i);
        } else {
            g_assert_null(colo_staging_data(st, i));
        }
    }
}

/* There is room for all pages, and not for one more */
static void test_threads_full(void)
{
    ColoStaging *st = staging_new(THREADS * PER_THREAD);

    for (int round = 0; round < 20; round++) {
        reserve(st, THREADS * PER_THREAD, THREADS * PER_THREAD);
        add_by_threads(st, PER_THREAD, 1);
        g_assert_cmpuint(colo_staging_room(st), ==, 0);
        colo_staging_reset(st);
        g_assert_cmpuint(colo_staging_room(st), ==, THREADS * PER_THREAD);
    }
    colo_staging_free(st);
}

/* Pages without data leave their room to others, down to the last slot */
static void test_threads_sparse(void)
{
    uint64_t left = THREADS * PER_THREAD;
    ColoStaging *st = colo_staging_new(PAGE, 100 * left, left);

    reserve(st, 100 * left, left);
    while (left) {
        uint64_t n = MIN(left / THREADS, PER_THREAD);
        uint64_t begin = colo_staging_count(st);
        uint64_t data = DIV_ROUND_UP(begin + n * THREADS, 7) -
                        DIV_ROUND_UP(begin, 7);

        if (n < 7) {
            stage(st, left);
            data = left;
        } else {
            add_by_threads(st, n, 7);
        }
        left -= data;
        g_assert_cmpuint(colo_staging_room(st), ==, left);
    }
    g_assert_cmpuint(colo_staging_room_max(st), ==, 0);
    colo_staging_free(st);
}

static void test_reset(void)
{
    ColoStaging *st = staging_new(10000);
    uint64_t bytes;

    reserve(st, 1000, 1000);
    bytes = colo_staging_bytes(st);
    g_assert_cmpuint(bytes, >=, 1000 * PAGE);
    for (int round = 0; round < 10; round++) {
        stage(st, 1000);
        colo_staging_reset(st);
        g_assert_cmpuint(colo_staging_count(st), ==, 0);
        colo_staging_shrink(st);
        reserve(st, 1000, 1000);
        g_assert_cmpuint(colo_staging_bytes(st), ==, bytes);
    }
    colo_staging_free(st);
}

static uint64_t bytes_after(ColoStaging *st, uint64_t npages)
{
    stage(st, npages);
    colo_staging_reset(st);
    colo_staging_shrink(st);
    return colo_staging_bytes(st);
}

/* What one large checkpoint took is given back, but not for the next one */
static void test_shrink(void)
{
    ColoStaging *st = staging_new(1000000);
    uint64_t small = bytes_after(st, 100), large = bytes_after(st, 100000);
    uint64_t last = large;

    g_assert_cmpuint(large, >=, 100000 * PAGE);
    g_assert_cmpuint(bytes_after(st, 100), >=, large / 2);
    for (int i = 0; i < 5; i++) {
        /* A large one now and then: it finds nearly all of it */
        bytes_after(st, 100);
        g_assert_cmpuint(colo_staging_bytes(st), >=, large / 2);
        g_assert_cmpuint(bytes_after(st, 100000), ==, large);
    }
    for (int i = 0; i < 100; i++) {
        g_assert_cmpuint(bytes_after(st, 100), <=, last);
        last = colo_staging_bytes(st);
    }
    g_assert_cmpuint(last, <=, small + 2 * MiB);
    colo_staging_free(st);
}

#ifdef CONFIG_COLO_FAULTS
static void test_no_memory(void)
{
    ColoStaging *st = staging_new(10000);
    Error *err = NULL;

    qmp_x_colo_fault_inject("staging-alloc", COLO_FAULT_ACTION_ERROR, true, 2,
                            &error_abort);
    g_assert_false(colo_staging_reserve(st, 5000, 5000, &err));
    error_free_or_abort(&err);
    g_assert_cmpuint(colo_staging_room(st), ==, 2 * (2 * MiB / PAGE));
    /* The fault is over: the same call goes on where it failed */
    reserve(st, 5000, 5000);
    g_assert_cmpuint(colo_staging_room(st), >=, 5000);
    colo_staging_free(st);
}
#endif

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/staging/contents", test_contents);
    g_test_add_func("/colo/staging/limit", test_limit);
    g_test_add_func("/colo/staging/zero", test_zero);
    g_test_add_func("/colo/staging/threads/full", test_threads_full);
    g_test_add_func("/colo/staging/threads/sparse", test_threads_sparse);
    g_test_add_func("/colo/staging/reset", test_reset);
    g_test_add_func("/colo/staging/shrink", test_shrink);
#ifdef CONFIG_COLO_FAULTS
    g_test_add_func("/colo/staging/no-memory", test_no_memory);
#endif
    return g_test_run();
}
