/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the session as an object, and what base code asks of it.
 *
 * Both sides, under the BQL.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/util.h"
#include "migration/colo.h"
#include "net/colo.h"
#include "internal.h"
#include "status.h"
#include "migration/migration.h"
#include "migration/options.h"

/*
 * Longest time between two checkpoints if the user does not say, in ms.
 *
 * Hybrid mode: as published.  Periodic mode: every packet waits for the next
 * checkpoint, so this is what a client sees as latency; 25 ms is Remus'
 * classic choice, a compromise between that and the guest's loss of speed.
 */
#define DELAY_HYBRID_MS     20000
#define DELAY_PERIODIC_MS   25

/* The running or the last session.  BQL. */
static ColoSession *current;

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
    colo_status_begin(ioc);

    s->side = side;
    s->timeout_ms = migrate_colo_timeout();
    s->max_pause_ms = migrate_colo_max_pause();
    s->cut_events = migrate_get_current()->parameters.x_colo_cut_events;
    s->verify_ram = migrate_get_current()->colo_verify_ram;
    s->device_state = qio_channel_buffer_new(1024 * 1024);
    qio_channel_set_name(QIO_CHANNEL(s->device_state), "colo-device-state");
    s->wire = colo_wire_new(ioc, side, s->timeout_ms);
    s->mode = migrate_colo_mode();
    s->primary.deferred_stop = RUN_STATE__MAX;
    qemu_cond_init(&s->cond);
    if (side == COLO_MODE_PRIMARY) {
        colo_request_set_wire(s->wire);
    }

    colo_shutdown_watch();
    return s;
}

void colo_session_over(ColoSession *s)
{
    colo_request_set_wire(NULL);
    g_clear_pointer(&s->primary.vm_state, qemu_del_vm_change_state_handler);
    g_clear_pointer(&s->keepalive, colo_keepalive_stop);
    g_clear_pointer(&s->wire, colo_wire_free);
    g_clear_pointer(&s->ram, colo_ram_free);
    g_clear_pointer(&s->staging, colo_staging_free);
    g_clear_pointer(&s->secondary.wanted, g_array_unref);
    g_clear_pointer(&s->secondary.sections, g_byte_array_unref);
    object_unref(OBJECT(s->device_state));
    s->device_state = NULL;
    s->thread_done = true;
    colo_status_update();
    qemu_cond_broadcast(&s->cond);
}

/* Hooks of base code */

bool colo_supported(void)
{
    return colo_net_supported();
}

/*
 * Postcopy and snapshots need the guest to be in one place, switchover-ack
 * occupies the channel that the session uses afterwards, release-ram gives away
 * what the primary goes on with, mapped-ram is for files, x-ignore-shared leaves
 * RAM out that a load needs, and dirty-limit would slow the guest down as long as
 * the session lasts.  return-path means nothing beside x-colo: the session opens
 * that direction itself.
 */
static const MigrationCapability incompatible_caps[] = {
    MIGRATION_CAPABILITY_POSTCOPY_RAM,
    MIGRATION_CAPABILITY_BACKGROUND_SNAPSHOT,
    MIGRATION_CAPABILITY_SWITCHOVER_ACK,
    MIGRATION_CAPABILITY_RELEASE_RAM,
    MIGRATION_CAPABILITY_MAPPED_RAM,
    MIGRATION_CAPABILITY_X_IGNORE_SHARED,
    MIGRATION_CAPABILITY_DIRTY_LIMIT,
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

uint32_t migrate_colo_max_pause(void)
{
    return migrate_get_current()->parameters.x_colo_max_pause;
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

/* Did this side end as a secondary that never went live?  For good then. */
static bool secondary_has_ended(void)
{
    return current && current->side == COLO_MODE_SECONDARY &&
           current->secondary.state == COLO_SECONDARY_STATE_ENDED;
}

bool colo_command_refused(const char *command, Error **errp)
{
    if (secondary_has_ended()) {
        error_setg(errp, "'%s' is not possible on a COLO secondary that has "
                   "ended: its guest is out of date", command);
        return true;
    }
    if (colo_session_active(COLO_MODE_SECONDARY)) {
        error_setg(errp, "'%s' is not possible on the secondary of a COLO "
                   "pair: it follows the primary", command);
        return true;
    }
    return false;
}

bool colo_lost_refused(const char *command, Error **errp)
{
    if (!current || current->thread_done ||
        (current->side == COLO_MODE_PRIMARY
         ? current->primary.state != COLO_PRIMARY_STATE_LOST
         : current->secondary.state != COLO_SECONDARY_STATE_LOST)) {
        return false;
    }
    error_setg(errp, "'%s' is not possible while the other side of the COLO "
               "pair is lost: x-colo-lost-heartbeat tells this side to go on",
               command);
    return true;
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
