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
 * is a critical section of its own, longer than one stay under the BQL:
 * 'change' says which is in progress and 'change_is_mine' which thread makes
 * it.  Who begins another one waits until it is over.  The wait is short: what
 * it waits for does not depend on the peer.
 *
 * A cut needs the disks to be quiet, and a local disk may hang.  The monitor
 * has to answer all the same, so nobody polls for requests in flight with the
 * BQL held: the session's thread begins a drained section and sleeps, and a
 * timer in the main loop ends that section when the disks are quiet, or at the
 * deadline.  It has to be the main loop, for that may itself be waiting in the
 * block layer, with the BQL held, for a request that the section holds back.
 *
 * The disks are waited for twice: with only the CPUs paused, as some devices
 * drain their disks with the BQL held when they are told that the VM stops; and
 * for what they have begun since when it has.
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "block/aio.h"
#include "block/block.h"
#include "hw/core/cpu.h"
#include "system/cpus.h"
#include "system/hw_accel.h"
#include "system/kvm.h"
#include "system/replay.h"
#include "system/runstate.h"
#include "guest.h"
#include "migration/blocker.h"
#include "migration/options.h"

/* How often disks that are not quiet are looked at, and the most seldom */
#define DRAIN_LOOK_MIN_NS   (50 * SCALE_US)
#define DRAIN_LOOK_MAX_NS   (5 * SCALE_MS)

/* So long after the deadline the main loop is not there */
#define DRAIN_GRACE_NS      (100 * SCALE_MS)

/* So long it is worth polling before the main loop is woken */
#define DRAIN_POLL_NS       (200 * SCALE_US)

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

/* This thread stops or starts the guest, and no event tells that */
static __thread bool cut_is_silent;

/* BQL: it was asked for during a cut, and is done after it */
static WakeupReason deferred_wakeup = QEMU_WAKEUP_REASON_NONE;

/* BQL: the guest has run in this QEMU */
static bool has_run;

static void note_run(void *opaque, bool running, RunState state)
{
    has_run |= running;
}

static void __attribute__((constructor)) guest_init(void)
{
    qemu_cond_init(&change_cond);
    qemu_add_vm_change_state_handler(note_run, NULL);
}

bool colo_starts_guest(RunState state)
{
    return migrate_colo() && state == RUN_STATE_PRELAUNCH && !has_run;
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

/* Wait for change_cond.  False if @end_ns is over.  BQL, dropped meanwhile. */
static bool wait_until(int64_t end_ns)
{
    int64_t left_ns = end_ns - colo_now_ns();

    if (left_ns <= 0) {
        return false;
    }
    qemu_cond_timedwait_bql(&change_cond, DIV_ROUND_UP(left_ns, SCALE_MS));
    return true;
}

/*
 * Wait for one round of the main loop: if it is stopping the VM, for which it
 * drops the BQL, it has stopped it afterwards.  BQL, dropped meanwhile.
 */
static bool meet_main_loop(int64_t end_ns, Error **errp)
{
    bool met = false;
    QEMUBH *bh = aio_bh_new(qemu_get_aio_context(), main_loop_met, &met);

    qemu_bh_schedule(bh);
    while (!met && wait_until(end_ns)) {
        continue;
    }
    qemu_bh_delete(bh);
    if (!met) {
        error_setg(errp, "the main loop did not come round");
    }
    return met;
}

typedef enum DrainResult {
    DRAIN_UNDER_WAY,
    DRAIN_QUIET,
    DRAIN_LATE,
} DrainResult;

/* A drained section of all disks, BQL */
typedef struct Drain {
    QEMUTimer *timer;
    int64_t look_ns;            /* interval */
    int64_t end_ns;
    DrainResult result;
} Drain;

static void drain_end(Drain *d, DrainResult result)
{
    bdrv_drain_all_end();
    d->result = result;
    qemu_cond_broadcast(&change_cond);
}

/* Main loop, also where that waits in the block layer */
static void drain_look(void *opaque)
{
    Drain *d = opaque;

    if (!bdrv_drain_all_poll()) {
        drain_end(d, DRAIN_QUIET);
    } else if (colo_now_ns() >= d->end_ns) {
        drain_end(d, DRAIN_LATE);
    } else {
        d->look_ns = MIN(2 * d->look_ns, DRAIN_LOOK_MAX_NS);
        timer_mod(d->timer, colo_now_ns() + d->look_ns);
    }
}

/*
 * Wait until no disk has a request in flight.  False with @errp set if one has
 * at @end_ns.  BQL, dropped meanwhile unless all are quiet already.
 */
static bool drain_disks(int64_t end_ns, Error **errp)
{
    Drain d = { .look_ns = DRAIN_LOOK_MIN_NS, .end_ns = end_ns };
    AioContext *ctx = qemu_get_aio_context();
    int64_t poll_end_ns = colo_now_ns() + DRAIN_POLL_NS;

    if (replay_events_enabled()) {
        /* Nothing is drained then */
        return true;
    }
    bdrv_drain_all_begin_nopoll();
    while (bdrv_drain_all_poll()) {
        if (!aio_poll(ctx, false) || colo_now_ns() > poll_end_ns) {
            d.timer = aio_timer_new(ctx, QEMU_CLOCK_REALTIME, SCALE_NS,
                                    drain_look, &d);
            timer_mod(d.timer, colo_now_ns() + d.look_ns);
            break;
        }
    }
    if (!d.timer) {
        drain_end(&d, DRAIN_QUIET);
    }
    while (d.result == DRAIN_UNDER_WAY && wait_until(end_ns + DRAIN_GRACE_NS)) {
        continue;
    }
    if (d.result == DRAIN_UNDER_WAY) {
        /* The main loop did not come round */
        drain_end(&d, DRAIN_LATE);
    }
    timer_free(d.timer);
    if (d.result == DRAIN_LATE) {
        error_setg(errp, "disks of this side have not answered");
        return false;
    }
    return true;
}

static bool has_silent_cuts(ColoSession *s)
{
    return s->mode == COLO_SYNC_MODE_PERIODIC && !s->cut_events;
}

/* A guest that runs stops, unless its disks are not quiet in time */
static bool stop_live(ColoSession *s, int64_t end_ns, Error **errp)
{
    if (runstate_is_running()) {
        pause_all_vcpus();
    }
    if (!drain_disks(end_ns, errp)) {
        resume_all_vcpus();
        return false;
    }
    if (runstate_is_live(runstate_get())) {
        /* That may wait for a cont, and then the user's stop came first */
        cut_is_silent = has_silent_cuts(s);
        vm_stop(RUN_STATE_COLO);
        cut_is_silent = false;
    }
    return true;
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

bool colo_cut_is_silent(void)
{
    return cut_is_silent;
}

/*
 * True while the primary's guest has asked for a reset or for sleep, or was
 * woken up, and the main loop has not done it.  No device state tells of that,
 * so a cut has to come after it.  BQL.
 */
static bool request_is_pending(ColoSession *s)
{
    return s->side == COLO_MODE_PRIMARY && !colo_exiting() &&
           (qemu_reset_requested_get() != SHUTDOWN_CAUSE_NONE ||
            qemu_power_change_requested());
}

bool colo_stop_guest(ColoSession *s, int64_t end_ns, bool *stopped,
                     Error **errp)
{
    do {
        if (runstate_is_live(runstate_get())) {
            if (!stop_live(s, end_ns, errp)) {
                return false;
            }
            *stopped |= runstate_check(RUN_STATE_COLO);
        }
        change_wait();
        if ((!*stopped || s->side == COLO_MODE_SECONDARY ||
             request_is_pending(s)) &&
            /*
             * The main loop may be stopping it, and its CPUs still run.  On the
             * secondary whatever its devices have asked of the main loop (a
             * reset, say) has to be over, too, before a checkpoint comes.
             */
            !meet_main_loop(end_ns, errp)) {
            return false;
        }
        if (!drain_disks(end_ns, errp)) {
            return false;
        }
        /* Drops the BQL; after that nobody has to who saves their state */
        cpu_synchronize_all_states();
        /* It may have been suspended in the last moment, or let go on */
    } while (!colo_guest_stands() || request_is_pending(s));
    return true;
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

void colo_end_cut(ColoSession *s)
{
    WakeupReason reason;

    cut_is_silent = has_silent_cuts(s);
    start();
    cut_is_silent = false;
    reason = deferred_wakeup;
    deferred_wakeup = QEMU_WAKEUP_REASON_NONE;
    if (reason != QEMU_WAKEUP_REASON_NONE) {
        /* Refused if it has been paused meanwhile */
        qemu_system_wakeup_request(reason, NULL);
    }
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
    if (!colo_session_active(COLO_MODE_PRIMARY)) {
        return;
    }
    if (runstate_check(RUN_STATE_FINISH_MIGRATE)) {
        /* It stands for the samples of its disks, and starts after them */
        colo_session()->primary.deferred_stop = RUN_STATE_PAUSED;
    }
    if (colo_session()->primary.starts) {
        /* Whoever stops it does not want it to start */
        colo_session()->primary.starts = false;
        colo_session()->primary.paused = true;
    }
}

void colo_reset_begin(void)
{
    change_begin(RUN_STATE_CHANGE_RESET);
}

void colo_reset_end(void)
{
    change_end();
}

void colo_forget_stop(void)
{
    if (!runstate_check(RUN_STATE_COLO)) {
        runstate_set(RUN_STATE_COLO);
    }
}

void colo_retire_guest(const char *why)
{
    Error *reason = NULL;

    if (runstate_is_live(runstate_get())) {
        vm_stop(RUN_STATE_COLO);
    }
    colo_forget_stop();
    runstate_set(RUN_STATE_SHUTDOWN);
    error_setg(&reason, "%s: its guest is out of date", why);
    migrate_add_blocker_internal(&reason, &error_abort);
}

/* What somebody asks for at a time when it cannot be done, and is done later */

void colo_vm_stop_deferred(RunState state)
{
    if (colo_session_active(COLO_MODE_PRIMARY) && state != RUN_STATE_COLO) {
        colo_session()->primary.deferred_stop = state;
    }
}

bool colo_wakeup_deferred(WakeupReason reason)
{
    if (!colo_session_active(COLO_MODE_PRIMARY) ||
        !runstate_check(RUN_STATE_COLO) || !vm_get_suspended()) {
        return false;
    }
    deferred_wakeup = reason;
    return true;
}

bool colo_guest_shutdown_deferred(ShutdownCause cause)
{
    if (!colo_session_active(COLO_MODE_SECONDARY) ||
        !shutdown_caused_by_guest(cause)) {
        return false;
    }
    colo_session()->secondary.deferred_shutdown = cause;
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
    colo_session()->secondary.deferred_reset = cause;
    return true;
}
