/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: requests for checkpoints, from any thread to the primary's session.
 *
 * At most one request is pending; the session's thread takes it when it looks
 * whether a checkpoint is due.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "migration/colo.h"
#include "requests.h"

/*
 * Requests for checkpoints come from any thread.  The lock keeps the wire
 * alive meanwhile; it is taken last.
 */
static QemuMutex request_lock;
static ColoWire *request_wire;          /* of the primary; or NULL */
static int requested = -1;              /* ColoCheckpointReason, or -1 */
static uint64_t requests_epoch;         /* later than what a cut answered */
static unsigned requests[COLO_CHECKPOINT_REASON__MAX];  /* in that epoch */

static void __attribute__((constructor)) request_lock_init(void)
{
    qemu_mutex_init(&request_lock);
}

void colo_request_set_wire(ColoWire *wire)
{
    QEMU_LOCK_GUARD(&request_lock);
    request_wire = wire;
    requested = -1;
    requests_epoch = 0;
    memset(requests, 0, sizeof(requests));
}

/* True if output waits for it, so that each cut answers it */
static bool is_of_output(int reason)
{
    return reason == COLO_CHECKPOINT_REASON_QUEUE_FULL ||
           reason == COLO_CHECKPOINT_REASON_MISMATCH ||
           reason == COLO_CHECKPOINT_REASON_TIMEOUT;
}

void colo_requests_cut(uint64_t epoch)
{
    QEMU_LOCK_GUARD(&request_lock);
    requests_epoch = epoch;
    memset(requests, 0, sizeof(requests));
    if (is_of_output(requested)) {
        requested = -1;
    }
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
    /* Unless it was withdrawn meanwhile */
    if (requested < 0 && (requests[reason] || !is_of_output(reason))) {
        requested = reason;
    }
}

/*
 * The first reason to ask is the one that counts, but one that cannot wait is
 * more than one that can, and the monitor's word is most.
 */
static void request_checkpoint_locked(ColoCheckpointReason reason)
{
    if (!request_wire) {
        return;
    }
    requests[reason]++;
    if (requested < 0 || reason == COLO_CHECKPOINT_REASON_REQUEST ||
        (colo_reason_can_wait(requested) && !colo_reason_can_wait(reason))) {
        requested = reason;
        colo_wire_wake(request_wire);
    }
}

static void request_checkpoint(ColoCheckpointReason reason)
{
    QEMU_LOCK_GUARD(&request_lock);
    request_checkpoint_locked(reason);
}

void colo_request_checkpoint(ColoCheckpointReason reason, uint64_t epoch)
{
    QEMU_LOCK_GUARD(&request_lock);
    if (epoch >= requests_epoch) {
        request_checkpoint_locked(reason);
    }
}

void colo_withdraw_checkpoint(ColoCheckpointReason reason, uint64_t epoch)
{
    QEMU_LOCK_GUARD(&request_lock);
    if (epoch < requests_epoch || !requests[reason]) {
        return;
    }
    requests[reason]--;
    if (requested != reason || requests[reason]) {
        return;
    }
    requested = -1;
    for (int i = 0; i < COLO_CHECKPOINT_REASON__MAX; i++) {
        if (requests[i] && is_of_output(i)) {
            requested = i;
        }
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
