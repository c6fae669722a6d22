/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a relay between the two sides of a pair, which can be told to pass
 * on nothing.
 */

#ifndef TESTS_QTEST_COLO_RELAY_H
#define TESTS_QTEST_COLO_RELAY_H

#include "colo-helpers.h"

typedef struct ColoRelay ColoRelay;

/*
 * A pair that is protected by way of a relay, @r, which is freed after the pair.
 * @timeout_ms: x-colo-timeout
 */
ColoPair *colo_relay_pair(const char *mode, unsigned timeout_ms,
                          ColoRelay **r);
void colo_relay_free(ColoRelay *r);

/* From now on what the primary says waits, or not; or the secondary */
enum { COLO_RELAY_PRIMARY, COLO_RELAY_SECONDARY };
void colo_relay_hold(ColoRelay *r, int who, bool hold);

#endif
