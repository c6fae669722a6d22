/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: requests for checkpoints, from any thread to the primary's session.
 *
 * At most one request is pending; the session's thread takes it when it looks
 * whether a checkpoint is due.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "internal.h"

/*
 * Requests for checkpoints come from any thread.  The lock keeps the wire
 * alive meanwhile; it is taken last.
 */
static QemuMutex request_lock;
static ColoWire *request_wire;          /* of the primary; or NULL */
static int requested = -1;              /* ColoCheckpointReason, or -1 */

static void __attribute__((constructor)) request_lock_init(void)
{
    qemu_mutex_init(&request_lock);
}

void colo_request_set_wire(ColoWire *wire)
{
    QEMU_LOCK_GUARD(&request_lock);
    request_wire = wire;
    requested = -1;
}

int colo_take_request(void)
{
    QEMU_LOCK_GUARD(&request_lock);
    int reason = requested;

    requested = -1;
    return reason;
}

void colo_leave_request(ColoCheckpointReason reason)
{
    QEMU_LOCK_GUARD(&request_lock);
    if (requested < 0) {
        requested = reason;
    }
}

/*
 * The first reason to ask is the one that counts, but one that cannot wait is
 * more than one that can, and the monitor's word is most.
 */
static void request_checkpoint(ColoCheckpointReason reason)
{
    QEMU_LOCK_GUARD(&request_lock);
    if (!request_wire) {
        return;
    }
    if (requested < 0 || reason == COLO_CHECKPOINT_REASON_REQUEST ||
        (colo_reason_can_wait(requested) && !colo_reason_can_wait(reason))) {
        requested = reason;
        colo_wire_wake(request_wire);
    }
}

void colo_request_checkpoint_queue_full(void)
{
    request_checkpoint(COLO_CHECKPOINT_REASON_QUEUE_FULL);
}

void colo_request_checkpoint_mismatch(void)
{
    request_checkpoint(COLO_CHECKPOINT_REASON_MISMATCH);
}

void colo_request_checkpoint_timeout(void)
{
    request_checkpoint(COLO_CHECKPOINT_REASON_TIMEOUT);
}

void colo_request_checkpoint_monitor(void)
{
    request_checkpoint(COLO_CHECKPOINT_REASON_REQUEST);
}

void colo_request_checkpoint_run_state(void)
{
    request_checkpoint(COLO_CHECKPOINT_REASON_RUN_STATE);
}
