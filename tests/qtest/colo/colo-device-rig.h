/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: pairs with one more device, which is loaded again and again.
 *
 * The CPU is halted and nothing asks for a checkpoint but the test.  What the
 * guest's driver would do is done by qtest, on the primary.
 */

#ifndef TESTS_QTEST_COLO_DEVICE_RIG_H
#define TESTS_QTEST_COLO_DEVICE_RIG_H

#include "colo-helpers.h"

/* Write the firmware that halts; device_rig_end() removes it */
void device_rig_begin(void);
void device_rig_end(void);
const char *device_rig_firmware(void);

/*
 * Start a pair with that firmware and @extra options; device_protect() puts it,
 * or one of colo_pair_new_with(), under COLO.
 */
ColoPair *device_pair(const char *mode, const char *extra);
void device_protect(ColoPair *p);

/* Make @count checkpoints, and see that RAM was equal after each load */
void device_checkpoints(ColoPair *p, int count);

/* The primary dies; wait until the secondary runs alone */
void device_failover(ColoPair *p);

/* AddressSanitizer is there: it keeps what is freed, and takes no preloading */
bool device_rig_sanitized(void);

/*
 * Make @count checkpoints, and again some times, until the memory of the
 * secondary grows by less than @kib in one go.  With AddressSanitizer it says
 * aloud that it does not look.
 */
void device_check_flat(ColoPair *p, int count, long kib);

#endif
