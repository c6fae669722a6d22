/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: entry points.  Monitor commands, hooks for base code, the session.
 *
 * Both sides; everything here runs under the BQL, mostly in the main loop,
 * and nothing here waits for the peer, but for colo_shutdown(), which has
 * deadlines.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-colo.h"
#include "qapi/qapi-commands-migration.h"
#include "qapi/util.h"
#include "block/aio.h"
#include "block/block.h"
#include "block/replication.h"
#include "hw/core/cpu.h"
#include "system/cpus.h"
#include "system/hw_accel.h"
#include "system/runstate.h"
#include "migration/colo.h"
#include "net/colo.h"
#include "internal.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "trace.h"

/*
 * Longest time between two checkpoints if the user does not say, in ms.
 *
 * Hybrid mode: as published.  Periodic mode: every packet waits for the next
 * checkpoint, so this is what a client sees as latency; 25 ms is Remus'
 * classic choice, a compromise between that and the guest's loss of speed.
 */
#define DELAY_HYBRID_MS     20000
#define DELAY_PERIODIC_MS   25

/* How long QEMU's exit waits for an orderly end, in times of the timeout */
#define SHUTDOWN_TIMEOUTS   3

/* How often it looks meanwhile what the primary wants from our disks */
#define SHUTDOWN_LOOK_MS    1

/* How long it waits for output to leave, and between two looks if it does not */
#define DRAIN_MS            1000
#define DRAIN_LOOK_MS       5
/*
 * So many rounds of the main loop without a packet: one that was under way in a
 * socket is read in the first, or in the second if the reader had no room.
 */
#define DRAIN_ROUNDS        3

/* BQL */
static ColoSession *current;
static QTAILQ_HEAD(, ColoParticipant) participants =
    QTAILQ_HEAD_INITIALIZER(participants);
static Notifier shutdown_notifier;
static ShutdownCause shutdown_cause;
static bool exiting;
static bool resetting;      /* the main loop is about it */
static bool letting_go;     /* the session's thread, or cont: in vm_start() */
static __thread bool lets_go;   /* this is that thread */

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

static void request_set_wire(ColoWire *wire)
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

void colo_request_checkpoint_run_state(void)
{
    request_checkpoint(COLO_CHECKPOINT_REASON_RUN_STATE);
}

static void note_shutdown_cause(Notifier *n, void *opaque)
{
    shutdown_cause = *(ShutdownCause *)opaque;
}

ColoSession *colo_session(void)
{
    return current;
}

bool colo_session_active(COLOMode side)
{
    return current && current->side == side && !current->thread_done;
}

static void session_free(ColoSession *s)
{
    if (!s) {
        return;
    }
    qemu_cond_destroy(&s->cond);
    g_free(s);
}

ColoSession *colo_session_new(COLOMode side, QIOChannel *ioc)
{
    ColoSession *s = g_new0(ColoSession, 1);

    assert(!current || current->thread_done);
    session_free(current);
    current = s;

    s->side = side;
    s->timeout_ms = migrate_colo_timeout();
    s->verify_ram = migrate_get_current()->colo_verify_ram;
    s->device_state = qio_channel_buffer_new(1024 * 1024);
    qio_channel_set_name(QIO_CHANNEL(s->device_state), "colo-device-state");
    s->wire = colo_wire_new(ioc, side, s->timeout_ms);
    s->mode = migrate_colo_mode();
    s->deferred_stop = RUN_STATE__MAX;
    qemu_cond_init(&s->cond);
    if (side == COLO_MODE_PRIMARY) {
        request_set_wire(s->wire);
    }

    if (!shutdown_notifier.notify) {
        shutdown_notifier.notify = note_shutdown_cause;
        qemu_register_shutdown_notifier(&shutdown_notifier);
    }
    return s;
}

void colo_session_over(ColoSession *s)
{
    request_set_wire(NULL);
    g_clear_pointer(&s->vm_state, qemu_del_vm_change_state_handler);
    g_clear_pointer(&s->wire, colo_wire_free);
    g_clear_pointer(&s->ram, colo_ram_free);
    g_clear_pointer(&s->staging, colo_staging_free);
    g_clear_pointer(&s->wanted, g_array_unref);
    object_unref(OBJECT(s->device_state));
    s->device_state = NULL;
    s->thread_done = true;
    qemu_cond_broadcast(&s->cond);
}

/* Participants */

void colo_participant_register(ColoParticipant *p)
{
    QTAILQ_INSERT_TAIL(&participants, p, next);
    if (colo_session_active(COLO_MODE_PRIMARY) &&
        current->primary != COLO_PRIMARY_STATE_ALONE) {
        if (p->prepare) {
            p->prepare(p);
        }
        if (p->arm) {
            p->arm(p, current->epoch);
        }
    }
    if (colo_session_active(COLO_MODE_SECONDARY)) {
        if (p->stand) {
            p->stand(p, true);
        }
        if (p->load && current->mode == COLO_SYNC_MODE_HYBRID &&
            current->was_ready) {
            p->load(p, current->epoch);
        }
    }
}

void colo_participant_unregister(ColoParticipant *p)
{
    QTAILQ_REMOVE(&participants, p, next);
}

void colo_participants_arm(uint64_t epoch)
{
    ColoParticipant *p;

    QTAILQ_FOREACH(p, &participants, next) {
        if (p->prepare) {
            p->prepare(p);
        }
    }
    QTAILQ_FOREACH(p, &participants, next) {
        if (p->arm) {
            p->arm(p, epoch);
        }
    }
}

void colo_participants_cut(uint64_t epoch)
{
    ColoParticipant *p;

    QTAILQ_FOREACH(p, &participants, next) {
        if (p->cut) {
            p->cut(p, epoch);
        }
    }
}

void colo_participants_commit(uint64_t cut)
{
    ColoParticipant *p;

    QTAILQ_FOREACH(p, &participants, next) {
        if (p->commit) {
            p->commit(p, cut);
        }
    }
}

void colo_participants_load(uint64_t epoch)
{
    ColoParticipant *p;

    QTAILQ_FOREACH(p, &participants, next) {
        if (p->load) {
            p->load(p, epoch);
        }
    }
}

void colo_participants_open(void)
{
    ColoParticipant *p;

    QTAILQ_FOREACH(p, &participants, next) {
        if (p->open) {
            p->open(p);
        }
    }
}

void colo_participants_stand(bool standby)
{
    ColoParticipant *p;

    QTAILQ_FOREACH(p, &participants, next) {
        if (p->stand) {
            p->stand(p, standby);
        }
    }
}

/* The guest stands still */

typedef struct Meeting {
    ColoSession *s;
    bool over;
} Meeting;

static void meet(void *opaque)
{
    Meeting *m = opaque;

    m->over = true;
    qemu_cond_broadcast(&m->s->cond);
}

/*
 * The main loop may be in the middle of something for which it drops the BQL,
 * stopping the VM above all: let it come to an end of that.  BQL.
 */
static void meet_main_loop(ColoSession *s)
{
    Meeting m = { s };

    aio_bh_schedule_oneshot(qemu_get_aio_context(), meet, &m);
    while (!m.over) {
        qemu_cond_wait_bql(&s->cond);
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
    return !resetting && !runstate_is_live(runstate_get());
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
        while (resetting) {
            qemu_cond_wait_bql(&s->cond);
        }
        if (!stopped || s->side == COLO_MODE_SECONDARY) {
            /*
             * It is being stopped, perhaps, and its CPUs still run.  On the
             * secondary what its devices want of the main loop (a reset, say)
             * has to be over, too, before a checkpoint comes in between.
             */
            meet_main_loop(s);
            bdrv_drain_all();
        }
        /* Drops the BQL; after that nobody has to who saves their state */
        cpu_synchronize_all_states();
        /* It may have been suspended in the last moment, or let go on */
    } while (!colo_guest_stands());
    return stopped;
}

/* Hooks of base code */

bool colo_supported(void)
{
    return colo_net_supported();
}

/*
 * Postcopy and snapshots need the guest to be in one place, return-path and
 * switchover-ack occupy the channel that the session uses afterwards,
 * release-ram gives away what the primary goes on with, and mapped-ram is for
 * files.
 */
static const MigrationCapability incompatible_caps[] = {
    MIGRATION_CAPABILITY_POSTCOPY_RAM,
    MIGRATION_CAPABILITY_BACKGROUND_SNAPSHOT,
    MIGRATION_CAPABILITY_RETURN_PATH,
    MIGRATION_CAPABILITY_SWITCHOVER_ACK,
    MIGRATION_CAPABILITY_RELEASE_RAM,
    MIGRATION_CAPABILITY_MAPPED_RAM,
};

bool colo_caps_check(const bool *caps, Error **errp)
{
    if (!colo_supported()) {
        error_setg(errp, "this QEMU was built without --enable-colo-proxy, "
                   "which x-colo needs");
        return false;
    }
    for (int i = 0; i < ARRAY_SIZE(incompatible_caps); i++) {
        if (caps[incompatible_caps[i]]) {
            error_setg(errp, "x-colo is not compatible with %s",
                       MigrationCapability_str(incompatible_caps[i]));
            return false;
        }
    }
    return true;
}

bool migration_in_colo_state(void)
{
    return migrate_get_current()->state == MIGRATION_STATUS_COLO;
}

bool migration_incoming_in_colo_state(void)
{
    MigrationIncomingState *mis = migration_incoming_get_current();

    return mis && mis->state == MIGRATION_STATUS_COLO;
}

bool colo_loading(void)
{
    return colo_secondary_loading();
}

ColoSyncMode migrate_colo_mode(void)
{
    return migrate_get_current()->parameters.x_colo_mode;
}

uint32_t migrate_colo_timeout(void)
{
    return migrate_get_current()->parameters.x_colo_timeout;
}

uint64_t migrate_colo_staging_limit(void)
{
    return migrate_get_current()->parameters.x_colo_staging_limit;
}

uint32_t colo_effective_checkpoint_delay(void)
{
    uint32_t delay = migrate_checkpoint_delay();
    ColoSyncMode mode = colo_session_active(COLO_MODE_PRIMARY)
                        ? current->mode : migrate_colo_mode();

    if (delay) {
        return delay;
    }
    return mode == COLO_SYNC_MODE_PERIODIC ? DELAY_PERIODIC_MS
                                                          : DELAY_HYBRID_MS;
}

void colo_checkpoint_delay_set(void)
{
    if (colo_session_active(COLO_MODE_PRIMARY) && current->wire) {
        colo_wire_wake(current->wire);
    }
}

bool colo_secondary_follows(void)
{
    return colo_session_active(COLO_MODE_SECONDARY) &&
           colo_wish(current) != COLO_WISH_FAILOVER;
}

bool colo_command_refused(const char *command, Error **errp)
{
    if (!colo_session_active(COLO_MODE_SECONDARY)) {
        return false;
    }
    error_setg(errp, "'%s' is not possible on the secondary of a COLO pair: "
               "it follows the primary", command);
    return true;
}

bool colo_cont(Error **errp)
{
    if (colo_command_refused("cont", errp)) {
        return true;
    }
    if (colo_session_active(COLO_MODE_PRIMARY) &&
        runstate_check(RUN_STATE_COLO)) {
        /* The guest goes on anyway once the cut is done */
        current->deferred_stop = RUN_STATE__MAX;
        return true;
    }
    return false;
}

void colo_vm_stop_deferred(RunState state)
{
    if (colo_session_active(COLO_MODE_PRIMARY) && state != RUN_STATE_COLO) {
        current->deferred_stop = state;
    }
}

bool colo_guest_shutdown_deferred(ShutdownCause cause)
{
    if (!colo_session_active(COLO_MODE_SECONDARY) ||
        !shutdown_caused_by_guest(cause)) {
        return false;
    }
    current->deferred_shutdown = cause;
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
    current->deferred_reset = cause;
    return true;
}

static void let_go(void)
{
    letting_go = lets_go = true;
    vm_start();
    letting_go = lets_go = false;
    qemu_cond_broadcast(&current->cond);
}

void colo_start_guest(ColoSession *s)
{
    while (resetting || letting_go) {
        qemu_cond_wait_bql(&s->cond);
    }
    let_go();
}

static void await_let_go(void)
{
    while (letting_go && !lets_go) {
        qemu_cond_wait_bql(&current->cond);
    }
}

void colo_vm_start(void)
{
    if (!colo_session_active(COLO_MODE_PRIMARY)) {
        vm_start();
        return;
    }
    await_let_go();
    let_go();
}

void colo_vm_stop_begin(void)
{
    await_let_go();
}

void colo_reset_begin(void)
{
    await_let_go();
    resetting = true;
}

void colo_reset_end(void)
{
    resetting = false;
    if (current) {
        qemu_cond_broadcast(&current->cond);
    }
}

bool colo_migration_cancel(void)
{
    if (colo_session_active(COLO_MODE_SECONDARY)) {
        return true;
    }
    if (!colo_session_active(COLO_MODE_PRIMARY)) {
        return false;
    }
    colo_ask_end(current, COLO_BYE_CANCEL);
    return true;
}

bool colo_exiting(void)
{
    return exiting;
}

/*
 * Has the session's thread said its last word?  On the secondary the main
 * loop would do the rest, but there is none any more when QEMU exits.
 */
static bool session_settled(ColoSession *s)
{
    return s->thread_done ||
           (s->side == COLO_MODE_SECONDARY &&
            (s->secondary == COLO_SECONDARY_STATE_LIVE ||
             s->secondary == COLO_SECONDARY_STATE_ENDED));
}

static void end_session(void)
{
    int64_t deadline_ms;

    if (!current || current->thread_done) {
        return;
    }
    colo_ask_end(current, shutdown_caused_by_guest(shutdown_cause)
                          ? COLO_BYE_GUEST_SHUTDOWN : COLO_BYE_QUIT);

    deadline_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                  SHUTDOWN_TIMEOUTS * (int64_t)current->timeout_ms;
    while (!session_settled(current)) {
        int64_t left_ms = deadline_ms - qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

        if (left_ms <= 0) {
            if (!current->wire || colo_wire_cancelled(current->wire)) {
                break;
            }
            /* The peer does not let us go: leave without its word */
            colo_wire_cancel(current->wire);
            deadline_ms += current->timeout_ms;
            continue;
        }
        /*
         * The primary may wait for our NBD server before it comes to a place
         * where it lets us go, and the main loop has ended.
         */
        aio_poll(qemu_get_aio_context(), false);
        qemu_cond_timedwait_bql(&current->cond, MIN(left_ms, SHUTDOWN_LOOK_MS));
    }
}

static bool participants_drained(void)
{
    bool drained = true;
    ColoParticipant *p;

    QTAILQ_FOREACH(p, &participants, next) {
        drained &= !p->drained || p->drained(p);
    }
    return drained;
}

static void drain_look(void *opaque)
{
    /* Only ends a round of the main loop */
}

/*
 * What the guest said last may be on a way that leads through the main loop,
 * which has ended, or the network may take no more at once.  So the main loop
 * goes round until all has left.  The guest stands meanwhile, its devices work.
 */
static void drain_output(void)
{
    int64_t deadline_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + DRAIN_MS;
    QEMUTimer *look;

    if (QTAILQ_EMPTY(&participants) ||
        colo_session_active(COLO_MODE_SECONDARY)) {
        return;
    }
    pause_all_vcpus();
    look = timer_new_ms(QEMU_CLOCK_REALTIME, drain_look, NULL);
    for (int quiet = 0; quiet < DRAIN_ROUNDS; ) {
        int64_t now_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

        if (now_ms >= deadline_ms) {
            warn_report("COLO: QEMU exits, and some of the guest's output has "
                        "not left within %d ms", DRAIN_MS);
            break;
        }
        quiet = participants_drained() ? quiet + 1 : 0;
        timer_mod(look, now_ms + DRAIN_LOOK_MS);
        main_loop_wait(quiet > 0);
    }
    timer_free(look);
}

void colo_shutdown(void)
{
    exiting = true;
    end_session();
    drain_output();
}

/* Monitor commands */

void qmp_x_colo_lost_heartbeat(Error **errp)
{
    if (!current || current->thread_done) {
        error_setg(errp, "there is no COLO session, so there is nothing to "
                   "fail over");
        return;
    }
    colo_ask_failover(current);
}

void qmp_x_colo_checkpoint(Error **errp)
{
    if (!colo_session_active(COLO_MODE_PRIMARY) || !current->wire ||
        current->primary < COLO_PRIMARY_STATE_RUNNING ||
        current->primary > COLO_PRIMARY_STATE_LOADING) {
        error_setg(errp, "this is not the primary of a running COLO pair");
        return;
    }
    request_checkpoint(COLO_CHECKPOINT_REASON_REQUEST);
}

static ColoStatistics *session_statistics(ColoSession *s)
{
    ColoStatistics *st = g_new0(ColoStatistics, 1);
    ColoReasonCountList **tail = &st->reasons;

    st->sync_mode = s->mode;
    st->checkpoints = s->checkpoints;
    for (int i = 0; i < COLO_CHECKPOINT_REASON__MAX; i++) {
        ColoReasonCount *r = g_new0(ColoReasonCount, 1);

        r->reason = i;
        r->count = s->reasons[i];
        QAPI_LIST_APPEND(tail, r);
    }
    st->pause = colo_history_summary(&s->pause);
    st->commit = colo_history_summary(&s->commit);
    st->load = colo_history_summary(&s->load);
    st->pages = s->pages;
    st->zero_pages = s->zero_pages;
    st->equal_pages = s->equal_pages;
    st->bytes_sent = s->bytes_sent;
    st->bytes_received = s->bytes_received;
    st->staging_bytes = s->thread_done ? 0 : s->staging_bytes;
    st->staging_peak = s->staging_bytes;
    st->staging_overflows = s->staging_overflows;
    st->checkpoints_verified = s->verified;
    st->ram_mismatches = s->mismatches;
    st->disk_mismatches = s->disk_mismatches;
    return st;
}

COLOStatus *qmp_query_colo_status(Error **errp)
{
    COLOStatus *status = g_new0(COLOStatus, 1);
    ColoSession *s = current;

    status->mode = s && !s->thread_done ? s->side : COLO_MODE_NONE;
    status->last_mode = s ? s->side : COLO_MODE_NONE;
    status->reason = s ? s->exit_reason : COLO_EXIT_REASON_NONE;
    if (s && !s->thread_done && colo_wish(s) == COLO_WISH_FAILOVER) {
        status->reason = COLO_EXIT_REASON_PROCESSING;
    }
    if (s) {
        status->state = g_strdup(colo_state_str(s));
        status->has_epoch = true;
        status->epoch = s->epoch;
        status->statistics = session_statistics(s);
    }
    status->compare = colo_net_compare_statistics();
    status->has_compare = status->compare != NULL;
    status->disks = replication_query_all();
    status->has_disks = status->disks != NULL;
    return status;
}

/* Xen drives replication itself and only needs to be passed through */

void qmp_xen_set_replication(bool enable, bool primary, bool has_failover,
                             bool failover, Error **errp)
{
    if (enable && has_failover) {
        error_setg(errp, "'failover' says how to disable replication, it "
                   "makes no sense with 'enable'");
        return;
    }
    if (enable) {
        replication_start_all(primary ? REPLICATION_MODE_PRIMARY
                                      : REPLICATION_MODE_SECONDARY, errp);
    } else {
        replication_stop_all(has_failover && failover, errp);
    }
}

ReplicationStatus *qmp_query_xen_replication_status(Error **errp)
{
    ReplicationStatus *status = g_new0(ReplicationStatus, 1);
    g_autoptr(Error) err = NULL;

    replication_get_error_all(&err);
    status->error = err != NULL;
    status->desc = err ? g_strdup(error_get_pretty(err)) : NULL;
    return status;
}

void qmp_xen_colo_do_checkpoint(Error **errp)
{
    replication_do_checkpoint_all(errp);
}
