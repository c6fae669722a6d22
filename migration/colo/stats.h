/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO statistics: durations with percentiles.
 *
 * Not thread-safe; the session's are protected by the BQL.
 */

#ifndef QEMU_MIGRATION_COLO_STATS_H
#define QEMU_MIGRATION_COLO_STATS_H

#include "qapi/qapi-types-colo.h"

/* Percentiles are those of the latest samples */
#define COLO_HISTORY 1024

typedef struct ColoHistory {
    uint64_t count;
    uint64_t max_us;
    uint32_t us[COLO_HISTORY];
} ColoHistory;

/* Add a duration, in nanoseconds */
void colo_history_add(ColoHistory *h, int64_t ns);

/*
 * colo_history_percentile: of the latest samples, microseconds
 *
 * @percent: 1 to 100.  The smallest sample that is not less than that share
 * of all samples (nearest rank); 0 if there are none.
 */
uint64_t colo_history_percentile(const ColoHistory *h, unsigned percent);

/* The caller frees it with qapi_free_ColoDurations() */
ColoDurations *colo_history_summary(const ColoHistory *h);

#endif
