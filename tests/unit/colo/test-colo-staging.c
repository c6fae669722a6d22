/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO staging area.
 *
 * Proves: what is staged comes out as it went in, pages do not overlap, the
 * limit holds, memory is kept over a reset, and an allocation that fails is
 * an error that changes nothing.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-colo.h"
#include "migration/colo/staging.h"

#define PAGE 4096

static void fill(ColoStaging *st, uint64_t i)
{
    memset(colo_staging_data(st, i), (int)(i % 251), PAGE);
}

static void check(ColoStaging *st, uint64_t i)
{
    uint8_t *data = colo_staging_data(st, i);

    for (int k = 0; k < PAGE; k++) {
        g_assert_cmpuint(data[k], ==, i % 251);
    }
}

static void test_contents(void)
{
    ColoStaging *st = colo_staging_new(PAGE, 5000);

    for (uint64_t i = 0; i < 5000; i++) {
        g_assert_true(colo_staging_reserve(st, i + 1, &error_abort));
        g_assert_cmpuint(colo_staging_append(st, i % 3, i * 7, i % 5 == 0),
                         ==, i);
        fill(st, i);
    }
    g_assert_cmpuint(colo_staging_count(st), ==, 5000);
    for (uint64_t i = 0; i < 5000; i++) {
        ColoStagedPage *p = colo_staging_page(st, i);

        g_assert_cmpuint(p->block, ==, i % 3);
        g_assert_cmpuint(p->page, ==, i * 7);
        g_assert_cmpint(p->zero, ==, i % 5 == 0);
        check(st, i);
    }
    colo_staging_free(st);
}

static void test_limit(void)
{
    ColoStaging *st = colo_staging_new(PAGE, 700);

    g_assert_cmpuint(colo_staging_room(st), ==, 0);
    g_assert_true(colo_staging_reserve(st, 100000, &error_abort));
    g_assert_cmpuint(colo_staging_room(st), ==, 700);
    g_assert_cmpuint(colo_staging_limit(st), ==, 700);
    g_assert_cmpuint(colo_staging_bytes(st), <=,
                     4 * MiB + 700 * sizeof(ColoStagedPage));
    colo_staging_free(st);
}

static void test_reset(void)
{
    ColoStaging *st = colo_staging_new(PAGE, 10000);
    uint64_t bytes;

    g_assert_true(colo_staging_reserve(st, 1000, &error_abort));
    bytes = colo_staging_bytes(st);
    g_assert_cmpuint(bytes, >=, 1000 * PAGE);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 1000; i++) {
            colo_staging_append(st, 0, i, false);
        }
        colo_staging_reset(st);
        g_assert_cmpuint(colo_staging_count(st), ==, 0);
        g_assert_true(colo_staging_reserve(st, 1000, &error_abort));
        g_assert_cmpuint(colo_staging_bytes(st), ==, bytes);
    }
    colo_staging_free(st);
}

#ifdef CONFIG_COLO_FAULTS
static void test_no_memory(void)
{
    ColoStaging *st = colo_staging_new(PAGE, 10000);
    Error *err = NULL;
    uint64_t room;

    qmp_x_colo_fault_inject("staging-alloc", COLO_FAULT_ACTION_ERROR, true, 2,
                            &error_abort);
    g_assert_false(colo_staging_reserve(st, 5000, &err));
    error_free_or_abort(&err);
    room = colo_staging_room(st);
    g_assert_cmpuint(room, ==, 2 * (2 * MiB / PAGE));
    /* The fault is over: the same call goes on where it failed */
    g_assert_true(colo_staging_reserve(st, 5000, &error_abort));
    g_assert_cmpuint(colo_staging_room(st), >=, 5000);
    colo_staging_free(st);
}
#endif

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/staging/contents", test_contents);
    g_test_add_func("/colo/staging/limit", test_limit);
    g_test_add_func("/colo/staging/reset", test_reset);
#ifdef CONFIG_COLO_FAULTS
    g_test_add_func("/colo/staging/no-memory", test_no_memory);
#endif
    return g_test_run();
}
