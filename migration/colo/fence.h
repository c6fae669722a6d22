/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: make sure that the other side does nothing any more.  Not for base
 * code.
 *
 * The side that has won runs the fence before it lets its guest's output go, or
 * goes live.  The arbiter sees to it that only one side goes on; a fence is for
 * a side that does not hear of that: one whose QEMU hangs, and may still write
 * to a shared disk some day.
 */

#ifndef QEMU_MIGRATION_COLO_FENCE_H
#define QEMU_MIGRATION_COLO_FENCE_H

#include "decider.h"

#define TYPE_COLO_FENCE "colo-fence"

typedef enum ColoFenceResult {
    COLO_FENCE_DONE,    /* the other side is off */
    COLO_FENCE_GO_ON,   /* that is not certain, and the user said go-on */
    COLO_FENCE_HOLD,    /* that is not certain: do not go on, try it again */
} ColoFenceResult;

/* Is there a fence?  None comes or goes in a session.  Any thread. */
bool colo_fence_exists(void);

/*
 * colo_fence_run: keep the other side off
 *
 * @q: this side, which has won
 *
 * @errp is set if the result is not COLO_FENCE_DONE.  After the object's
 * timeout, and a fifth of a second, at the latest; COLO_FENCE_HOLD soon after
 * colo_arbiter_cancel().  May be repeated.  Without the BQL.
 */
ColoFenceResult colo_fence_run(const ColoQuestion *q, Error **errp);

/* For the user; NULL if there is no fence.  Any thread. */
ColoArbiterStatus *colo_fence_status(void);

#endif
