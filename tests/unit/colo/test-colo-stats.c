/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO statistics.
 *
 * Proves: percentiles agree with a plain count over the latest samples, the
 * maximum and the number are those of all samples.
 */

#include "qemu/osdep.h"
#include "migration/colo/stats.h"

/* Smallest sample with at least @percent of all at or below it */
static uint64_t oracle(const uint64_t *us, size_t n, unsigned percent)
{
    uint64_t best = UINT64_MAX;

    for (size_t i = 0; i < n; i++) {
        size_t below = 0;

        for (size_t j = 0; j < n; j++) {
            below += us[j] <= us[i];
        }
        if (below * 100 >= n * percent && us[i] < best) {
            best = us[i];
        }
    }
    return best;
}

static void test_empty(void)
{
    g_autofree ColoHistory *h = g_new0(ColoHistory, 1);
    g_autoptr(ColoDurations) d = colo_history_summary(h);

    g_assert_cmpuint(d->count, ==, 0);
    g_assert_cmpuint(d->p50, ==, 0);
    g_assert_cmpuint(d->p99, ==, 0);
    g_assert_cmpuint(d->max, ==, 0);
}

static void test_random(void)
{
    g_autofree ColoHistory *h = g_new0(ColoHistory, 1);
    g_autofree uint64_t *us = g_new(uint64_t, 3000);
    uint64_t max = 0;

    for (size_t n = 1; n <= 3000; n++) {
        size_t kept = MIN(n, COLO_HISTORY);

        us[n - 1] = g_test_rand_int_range(0, n % 7 ? 1000 : 1000000);
        max = MAX(max, us[n - 1]);
        colo_history_add(h, us[n - 1] * 1000 + 999);
        if (n > 20 && n % 333) {
            continue;
        }
        for (unsigned p = 1; p <= 100; p += 7) {
            g_assert_cmpuint(colo_history_percentile(h, p), ==,
                             oracle(us + n - kept, kept, p));
        }
        g_assert_cmpuint(h->count, ==, n);
        g_assert_cmpuint(h->max_us, ==, max);
    }
}

static void test_extremes(void)
{
    g_autofree ColoHistory *h = g_new0(ColoHistory, 1);

    colo_history_add(h, -5);
    g_assert_cmpuint(colo_history_percentile(h, 100), ==, 0);
    colo_history_add(h, INT64_MAX);
    g_assert_cmpuint(colo_history_percentile(h, 100), ==, UINT32_MAX);
    g_assert_cmpuint(h->max_us, ==, INT64_MAX / 1000);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/stats/empty", test_empty);
    g_test_add_func("/colo/stats/random", test_random);
    g_test_add_func("/colo/stats/extremes", test_extremes);
    return g_test_run();
}
