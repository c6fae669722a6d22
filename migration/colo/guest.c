/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: stopping the guest for a checkpoint, and letting it go on.
 *
 * Both sides, under the BQL.
 *
 * Theory of operation
 *
 * The session's thread stops and starts the guest, and so do the main loop (a
 * reset, "stop") and the monitor ("cont").  Under KVM, and while CPUs are being
 * stopped, each of them drops the BQL half-way.  So a change of the run state
 * is a critical section of its own, longer than one stay under the BQL: 'change'
 * says which is in progress and 'change_is_mine' which thread makes it.  Who
 * begins another one waits until it is over.  The wait is short: what it waits
 * for does not depend on the peer.
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "block/aio.h"
#include "block/block.h"
#include "hw/core/cpu.h"
#include "system/cpus.h"
#include "system/hw_accel.h"
#include "system/kvm.h"
#include "system/runstate.h"
#include "internal.h"

typedef enum RunStateChange {
    RUN_STATE_CHANGE_NONE,
    RUN_STATE_CHANGE_START,     /* in vm_start() */
    RUN_STATE_CHANGE_RESET,     /* the main loop resets the VM */
} RunStateChange;

/* BQL */
static RunStateChange change;
static QemuCond change_cond;            /* it ended, or the main loop was met */

/* This thread makes the change */
static __thread bool change_is_mine;

static void __attribute__((constructor)) guest_init(void)
{
    qemu_cond_init(&change_cond);
}

/* Wait until no other thread changes the run state.  BQL, dropped meanwhile. */
static void change_wait(void)
{
    while (change != RUN_STATE_CHANGE_NONE && !change_is_mine) {
        qemu_cond_wait_bql(&change_cond);
    }
}

static void change_begin(RunStateChange what)
{
    change_wait();
    change = what;
    change_is_mine = true;
}

static void change_end(void)
{
    change = RUN_STATE_CHANGE_NONE;
    change_is_mine = false;
    qemu_cond_broadcast(&change_cond);
}

static void main_loop_met(void *opaque)
{
    *(bool *)opaque = true;
    qemu_cond_broadcast(&change_cond);
}

/*
 * Wait for one round of the main loop: if it is stopping the VM, for which it
 * drops the BQL, it has stopped it afterwards.  BQL, dropped meanwhile.
 */
static void meet_main_loop(void)
{
    bool met = false;

    aio_bh_schedule_oneshot(qemu_get_aio_context(), main_loop_met, &met);
    while (!met) {
        qemu_cond_wait_bql(&change_cond);
    }
}

bool colo_guest_stands(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        if (!cpu->stopped || (kvm_enabled() && !cpu->vcpu_dirty)) {
            return false;
        }
    }
    return change == RUN_STATE_CHANGE_NONE && !runstate_is_live(runstate_get());
}

bool colo_stop_guest(ColoSession *s)
{
    bool stopped = false;

    do {
        if (runstate_is_live(runstate_get())) {
            /* That may wait for a cont, and then the user's stop came first */
            vm_stop(RUN_STATE_COLO);
            stopped |= runstate_check(RUN_STATE_COLO);
        }
        change_wait();
        if (!stopped || s->side == COLO_MODE_SECONDARY) {
            /*
             * It is being stopped, perhaps, and its CPUs still run.  On the
             * secondary what its devices want of the main loop (a reset, say)
             * has to be over, too, before a checkpoint comes in between.
             */
            meet_main_loop();
            bdrv_drain_all();
        }
        /* Drops the BQL; after that nobody has to who saves their state */
        cpu_synchronize_all_states();
        /* It may have been suspended in the last moment, or let go on */
    } while (!colo_guest_stands());
    return stopped;
}

static void start(void)
{
    change_begin(RUN_STATE_CHANGE_START);
    vm_start();
    change_end();
}

void colo_start_guest(void)
{
    start();
}

void colo_vm_start(void)
{
    if (colo_session_active(COLO_MODE_PRIMARY)) {
        start();
    } else {
        vm_start();
    }
}

void colo_vm_stop_begin(void)
{
    change_wait();
}

void colo_reset_begin(void)
{
    change_begin(RUN_STATE_CHANGE_RESET);
}

void colo_reset_end(void)
{
    change_end();
}

/* What somebody asks for at a time when it cannot be done, and is done later */

bool colo_cont(Error **errp)
{
    if (colo_command_refused("cont", errp)) {
        return true;
    }
    if (colo_session_active(COLO_MODE_PRIMARY) &&
        runstate_check(RUN_STATE_COLO)) {
        /* The guest goes on anyway once the cut is done */
        colo_session()->deferred_stop = RUN_STATE__MAX;
        return true;
    }
    return false;
}

void colo_vm_stop_deferred(RunState state)
{
    if (colo_session_active(COLO_MODE_PRIMARY) && state != RUN_STATE_COLO) {
        colo_session()->deferred_stop = state;
    }
}

bool colo_guest_shutdown_deferred(ShutdownCause cause)
{
    if (!colo_session_active(COLO_MODE_SECONDARY) ||
        !shutdown_caused_by_guest(cause)) {
        return false;
    }
    colo_session()->deferred_shutdown = cause;
    qemu_system_vmstop_request_prepare();
    qemu_system_vmstop_request(RUN_STATE_COLO);
    return true;
}

bool colo_guest_reset_deferred(ShutdownCause cause)
{
    if (!colo_session_active(COLO_MODE_SECONDARY) ||
        runstate_is_live(runstate_get())) {
        return false;
    }
    colo_session()->deferred_reset = cause;
    return true;
}
