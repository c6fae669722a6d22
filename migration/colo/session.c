/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the session as an object: its life, its state, and what others want of
 * it.
 *
 * Both sides, under the BQL.
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "block/aio.h"
#include "exec/target_page.h"
#include "migration/colo.h"
#include "net/colo.h"
#include "fault.h"
#include "params.h"
#include "arbiter.h"
#include "decision.h"
#include "heartbeat.h"
#include "requests.h"
#include "session.h"
#include "state.h"
#include "status.h"
#include "migration/migration.h"
#include "trace.h"

/* Pages that may be staged twice: written while the BQL was not held */
#define STAGING_SLACK_PAGES 65536

/* BQL */
static ColoSession *current;    /* the running or the last session */
static bool exiting;

/* Atomic: look_again() is scheduled */
static bool change_is_told;

ColoSession *colo_session(void)
{
    return current;
}

bool colo_session_active(COLOMode side)
{
    return current && current->side == side && !current->thread_done;
}

bool colo_exiting(void)
{
    return exiting;
}

void colo_set_exiting(void)
{
    exiting = true;
}

static void session_free(ColoSession *s)
{
    if (!s) {
        return;
    }
    qemu_cond_destroy(&s->cond);
    g_free(s);
}

/*
 * The secondary has to take in whatever comes.  The primary streams what is
 * more than its limit.
 */
static ColoStaging *new_staging(COLOMode side, ColoRam *ram)
{
    size_t page_size = qemu_target_page_size();
    uint64_t max_pages = colo_ram_total(ram) / page_size + STAGING_SLACK_PAGES;
    uint64_t limit = migrate_colo_staging_limit();

    if (side == COLO_MODE_SECONDARY) {
        ColoStaging *st = colo_staging_new(page_size, max_pages, max_pages);

        colo_ram_index_staging(ram, st);
        return st;
    }
    if (!limit) {
        limit = colo_ram_total(ram) / 2;
    }
    return colo_staging_new(page_size, max_pages,
                            MAX(limit / page_size, COLO_PAGES_PER_FRAME));
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
    colo_heartbeat_begin(s->wire, side);
    s->mode = migrate_colo_mode();
    s->ram = colo_ram_new();
    s->staging = new_staging(side, s->ram);
    s->primary.deferred_stop = RUN_STATE__MAX;
    qemu_cond_init(&s->cond);
    if (side == COLO_MODE_PRIMARY) {
        qemu_uuid_generate(&s->id);
        colo_net_set_session(&s->id, s->mode);
        colo_heartbeat_set_session(&s->id);
        colo_request_set_wire(s->wire);
    }
    return s;
}

void colo_session_over(ColoSession *s)
{
    colo_decision_forget();
    colo_net_set_session(NULL, s->mode);
    colo_request_set_wire(NULL);
    colo_heartbeat_end();
    g_clear_pointer(&s->keepalive, colo_keepalive_stop);
    g_clear_pointer(&s->wire, colo_wire_free);
    g_clear_pointer(&s->ram, colo_ram_free);
    g_clear_pointer(&s->staging, colo_staging_free);
    g_clear_pointer(&s->secondary.wanted, g_array_unref);
    g_clear_pointer(&s->secondary.sections, g_byte_array_unref);
    object_unref(OBJECT(s->device_state));
    s->device_state = NULL;
    s->thread_done = true;
    colo_status_update(s);
    qemu_cond_broadcast(&s->cond);
}

void colo_count_checkpoint(ColoSession *s, uint64_t npages,
                           const ColoPageCount *pages)
{
    s->stats.checkpoints++;
    s->stats.pages += npages;
    s->stats.zero_pages += pages->zero;
    s->stats.equal_pages += pages->equal;
    s->stats.bytes_sent = colo_wire_bytes_sent(s->wire);
    s->stats.bytes_received = colo_wire_bytes_received(s->wire);
}

void colo_count_staging(ColoSession *s)
{
    s->stats.staging_bytes = colo_staging_bytes(s->staging);
    s->stats.staging_peak = MAX(s->stats.staging_peak, s->stats.staging_bytes);
}

/* Who goes on, as heartbeats say it */
static uint16_t beat_flags(bool lost, bool service, bool out)
{
    return (lost ? COLO_BEAT_LOST : 0) | (service ? COLO_BEAT_SERVICE : 0) |
           (out ? COLO_BEAT_OUT : 0);
}

void colo_set_primary(ColoSession *s, ColoPrimaryState to, const char *why)
{
    BQL_LOCK_GUARD();

    assert(s->side == COLO_MODE_PRIMARY);
    assert(colo_primary_transition_ok(s->primary.state, to));
    trace_colo_state(s->epoch, "primary",
                     ColoPrimaryState_str(s->primary.state),
                     ColoPrimaryState_str(to), why);
    s->primary.state = to;
    colo_heartbeat_tell(to, beat_flags(to == COLO_PRIMARY_STATE_LOST,
                                       to == COLO_PRIMARY_STATE_ALONE,
                                       to == COLO_PRIMARY_STATE_ENDED),
                        s->committed);
    colo_status_update(s);
    colo_fault_state(COLO_MODE_PRIMARY, ColoPrimaryState_str(to));
}

void colo_set_secondary(ColoSession *s, ColoSecondaryState to,
                        const char *why)
{
    BQL_LOCK_GUARD();

    assert(s->side == COLO_MODE_SECONDARY);
    assert(colo_secondary_transition_ok(s->secondary.state, to));
    trace_colo_state(s->epoch, "secondary",
                     ColoSecondaryState_str(s->secondary.state),
                     ColoSecondaryState_str(to), why);
    s->secondary.state = to;
    colo_heartbeat_tell(to, beat_flags(to == COLO_SECONDARY_STATE_LOST,
                                       to == COLO_SECONDARY_STATE_LIVE,
                                       to == COLO_SECONDARY_STATE_ENDED),
                        s->committed);
    colo_status_update(s);
    colo_fault_state(COLO_MODE_SECONDARY, ColoSecondaryState_str(to));
}

bool colo_is_lost(ColoSession *s)
{
    return s->side == COLO_MODE_PRIMARY
           ? s->primary.state == COLO_PRIMARY_STATE_LOST
           : s->secondary.state == COLO_SECONDARY_STATE_LOST;
}

const char *colo_state_str(ColoSession *s)
{
    return s->side == COLO_MODE_PRIMARY
           ? ColoPrimaryState_str(s->primary.state)
           : ColoSecondaryState_str(s->secondary.state);
}

void colo_ask_failover(ColoSession *s)
{
    trace_colo_wish(s->epoch, COLOMode_str(s->side), "failover");
    qatomic_set(&s->wish, COLO_WISH_FAILOVER);
    if (s->wire) {
        colo_wire_cancel(s->wire);
    }
    qemu_cond_broadcast(&s->cond);
}

void colo_ask_out(ColoSession *s, const char *why)
{
    trace_colo_wish(s->epoch, COLOMode_str(s->side), "out");
    s->out_why = why;
    qatomic_set(&s->wish, COLO_WISH_OUT);
    if (s->wire) {
        colo_wire_cancel(s->wire);
    }
    qemu_cond_broadcast(&s->cond);
}

void colo_ask_switchover(ColoSession *s)
{
    if (colo_wish(s) != COLO_WISH_NONE) {
        return;
    }
    trace_colo_wish(s->epoch, COLOMode_str(s->side), "switchover");
    qatomic_set(&s->wish, COLO_WISH_SWITCHOVER);
    colo_wire_wake(s->wire);
    qemu_cond_broadcast(&s->cond);
}

void colo_refuse_failover(ColoSession *s)
{
    trace_colo_wish(s->epoch, COLOMode_str(s->side), "none");
    if (!colo_arbiter_exists()) {
        /* Otherwise it is tried again soon */
        s->loss_is_told = false;
    }
    if (colo_exiting()) {
        s->end_reason = COLO_BYE_QUIT;
    }
    qatomic_set(&s->wish, colo_exiting() ? COLO_WISH_END : COLO_WISH_NONE);
}

void colo_ask_end(ColoSession *s, ColoByeReason reason)
{
    trace_colo_wish(s->epoch, COLOMode_str(s->side),
                    colo_bye_reason_str(reason));
    if (colo_wish(s) != COLO_WISH_FAILOVER && colo_wish(s) != COLO_WISH_OUT) {
        /* The end of QEMU outweighs all that comes before */
        s->end_reason = reason;
        qatomic_set(&s->wish, COLO_WISH_END);
    }
    if (s->wire && colo_is_lost(s) && reason != COLO_BYE_CANCEL) {
        /* There is nobody to end it with */
        colo_wire_cancel(s->wire);
    } else if (s->wire) {
        if (reason == COLO_BYE_FAILOVER && !colo_arbiter_exists()) {
            colo_wire_hurry(s->wire);
        }
        colo_wire_wake(s->wire);
    }
    qemu_cond_broadcast(&s->cond);
}

/* Hooks of base code */

bool migration_in_colo_state(void)
{
    return migrate_get_current()->state == MIGRATION_STATUS_COLO;
}

bool migration_incoming_in_colo_state(void)
{
    MigrationIncomingState *mis = migration_incoming_get_current();

    return mis && mis->state == MIGRATION_STATUS_COLO;
}

bool colo_secondary_follows(void)
{
    return colo_session_active(COLO_MODE_SECONDARY) &&
           colo_wish(current) != COLO_WISH_FAILOVER;
}

static void look_again(void *opaque)
{
    qatomic_set(&change_is_told, false);
    colo_status_look(current);
}

void colo_problems_changed(void)
{
    if (!qatomic_xchg(&change_is_told, true)) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), look_again, NULL);
    }
}
