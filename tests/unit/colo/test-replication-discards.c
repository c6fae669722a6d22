/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which parts of a disk are to be discarded, beside a bitmap that says so.
 *
 * Proves: what is due is just what was added before a checkpoint and not
 * removed since; those that are not due can be found; nothing is due twice;
 * there are no more parts than allowed, and then only too little is discarded,
 * and it is known that some was forgotten.
 */

#include "qemu/osdep.h"
#include "block/replication/discards.h"

#define BYTES 256
#define STEPS 20000

enum { NONE, PENDING = 1, DUE = 2 };

static void model_take(ReplicationDiscards *d, uint8_t *model, int64_t max)
{
    int64_t offset, bytes;

    if (!replication_discards_take(d, max, &offset, &bytes)) {
        for (int i = 0; i < BYTES; i++) {
            g_assert_false(model[i] & DUE);
        }
        return;
    }
    g_assert_cmpint(bytes, >, 0);
    g_assert_cmpint(bytes, <=, max);
    for (int i = offset; i < offset + bytes; i++) {
        g_assert_true(model[i] & DUE);
        model[i] &= ~DUE;
    }
}

/* What is pending in a part: all that there is, from the beginning on */
static void model_find(ReplicationDiscards *d, uint8_t *model, int offset,
                       int bytes)
{
    int64_t at = offset, n;
    int i = offset;

    while (replication_discards_find(d, at, offset + bytes - at, &at, &n)) {
        for (; i < at; i++) {
            g_assert_false(model[i] & PENDING);
        }
        g_assert_cmpint(n, >, 0);
        g_assert_cmpint(at + n, <=, offset + bytes);
        for (; i < at + n; i++) {
            g_assert_true(model[i] & PENDING);
        }
        at += n;
        if (at == offset + bytes) {
            break;
        }
    }
    for (; i < offset + bytes; i++) {
        g_assert_false(model[i] & PENDING);
    }
}

static void model_step(ReplicationDiscards *d, uint8_t *model)
{
    int offset = g_test_rand_int_range(0, BYTES);
    int bytes = g_test_rand_int_range(1, BYTES - offset + 1);
    int i;

    bytes = MIN(bytes, g_test_rand_int_range(1, 40));
    model_find(d, model, offset, bytes);
    switch (g_test_rand_int_range(0, 8)) {
    case 0: case 1: case 2:
        replication_discards_add(d, offset, bytes);
        for (i = offset; i < offset + bytes; i++) {
            model[i] |= PENDING;
        }
        break;
    case 3: case 4: case 5:
        replication_discards_remove(d, offset, bytes);
        memset(model + offset, NONE, bytes);
        break;
    case 6:
        model_take(d, model, bytes);
        break;
    case 7:
        replication_discards_commit(d);
        for (i = 0; i < BYTES; i++) {
            model[i] = model[i] ? DUE : NONE;
        }
        break;
    }
}

static void test_model(void)
{
    ReplicationDiscards d = { };
    uint8_t model[BYTES] = { };

    for (int i = 0; i < STEPS; i++) {
        model_step(&d, model);
    }
    while (replication_discards_has_due(&d)) {
        model_take(&d, model, BYTES);
    }
    model_take(&d, model, BYTES);
    replication_discards_clear(&d);
    g_assert_cmpuint(d.n_parts, ==, 0);
}

/* One that is split finds no room for a second half */
static void test_full(void)
{
    ReplicationDiscards d = { };
    int64_t offset, bytes;

    replication_discards_add(&d, 0, 100);
    for (int64_t i = 1; d.n_parts < REPLICATION_DISCARDS_MAX; i++) {
        replication_discards_add(&d, i * 1000, 100);
    }
    g_assert_false(d.forgot);
    replication_discards_add(&d, 500, 1);
    g_assert_true(d.forgot);
    g_assert_cmpuint(d.n_parts, ==, REPLICATION_DISCARDS_MAX);
    d.forgot = false;
    replication_discards_remove(&d, 50, 1);
    g_assert_true(d.forgot);
    g_assert_cmpuint(d.n_parts, ==, REPLICATION_DISCARDS_MAX);
    replication_discards_commit(&d);
    g_assert_true(replication_discards_take(&d, 1000, &offset, &bytes));
    g_assert_cmpint(offset, ==, 0);
    g_assert_cmpint(bytes, ==, 50);
    g_assert_true(replication_discards_take(&d, 1000, &offset, &bytes));
    g_assert_cmpint(offset, ==, 1000);
    replication_discards_clear(&d);
    g_assert_cmpuint(d.n_parts, ==, 0);
    g_assert_false(replication_discards_has_due(&d));
    g_assert_false(d.forgot);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/replication/discards/model", test_model);
    g_test_add_func("/colo/replication/discards/full", test_full);
    return g_test_run();
}
