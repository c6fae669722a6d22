/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: requests for checkpoints, as the session sees them.  Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_REQUESTS_H
#define QEMU_MIGRATION_COLO_REQUESTS_H

#include "qapi/qapi-types-colo.h"
#include "wire.h"

/* True if a checkpoint for @reason may be put off, so that the guests get on */
static inline bool colo_reason_can_wait(ColoCheckpointReason reason)
{
    return reason == COLO_CHECKPOINT_REASON_MISMATCH ||
           reason == COLO_CHECKPOINT_REASON_TIMEOUT;
}

/* colo_request_checkpoint_*, for others than participants.  Any thread. */
void colo_request_checkpoint_monitor(void);
void colo_request_checkpoint_run_state(void);

/* Whom requests wake, or NULL: none is pending then, and none is taken. */
void colo_request_set_wire(ColoWire *wire);

/*
 * colo_take_request: the ColoCheckpointReason why a checkpoint is wanted, or -1
 * colo_leave_request: put it back, for later
 *
 * Any thread.
 */
int colo_take_request(void);
void colo_leave_request(ColoCheckpointReason reason);

/*
 * The guest stands and @epoch begins: what output has requested is answered.
 * Any thread.
 */
void colo_requests_cut(uint64_t epoch);

#endif
