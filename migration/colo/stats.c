/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO statistics: durations with percentiles.
 */

#include "qemu/osdep.h"
#include "stats.h"

void colo_history_add(ColoHistory *h, int64_t ns)
{
    uint64_t us = MAX(ns, 0) / 1000;

    h->us[h->count % COLO_HISTORY] = MIN(us, UINT32_MAX);
    h->count++;
    h->max_us = MAX(h->max_us, us);
}

static int compare_us(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

uint64_t colo_history_percentile(const ColoHistory *h, unsigned percent)
{
    size_t n = MIN(h->count, COLO_HISTORY);
    g_autofree uint32_t *sorted = g_memdup2(h->us, n * sizeof(h->us[0]));

    assert(percent >= 1 && percent <= 100);
    if (n == 0) {
        return 0;
    }
    qsort(sorted, n, sizeof(sorted[0]), compare_us);
    return sorted[DIV_ROUND_UP(n * percent, 100) - 1];
}

ColoDurations *colo_history_summary(const ColoHistory *h)
{
    ColoDurations *d = g_new0(ColoDurations, 1);

    d->count = h->count;
    d->p50 = colo_history_percentile(h, 50);
    d->p99 = colo_history_percentile(h, 99);
    d->max = h->max_us;
    return d;
}
