/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: commands of the monitor, its own and what others mean for a pair.
 *
 * Main loop, BQL; none of them waits for the peer.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-colo.h"
#include "qapi/qapi-commands-migration.h"
#include "qapi/util.h"
#include "block/replication.h"
#include "net/colo.h"
#include "system/runstate.h"
#include "arbiter.h"
#include "decision.h"
#include "heartbeat.h"
#include "requests.h"
#include "session.h"
#include "status.h"

/* As far as this side knows; or it is about to be */
static bool pair_is_well(ColoSession *s)
{
    return s->side == COLO_MODE_PRIMARY
           ? s->primary.state <= COLO_PRIMARY_STATE_LOADING
           : s->secondary.state <= COLO_SECONDARY_STATE_LOADING;
}

/* True if the other side has the service, or had it all the time */
static bool has_ended(ColoSession *s)
{
    return s && (s->side == COLO_MODE_PRIMARY
                 ? s->primary.state == COLO_PRIMARY_STATE_ENDED
                 : s->secondary.state == COLO_SECONDARY_STATE_ENDED);
}

void qmp_x_colo_lost_heartbeat(bool has_force, bool force, Error **errp)
{
    ColoSession *s = colo_session();

    /* A secondary may have ended and still wait for a disk that hangs */
    if (!s || s->thread_done || has_ended(s)) {
        error_setg(errp, "there is no COLO session, so there is nothing to "
                   "fail over");
        return;
    }
    if (!force && s->side == COLO_MODE_SECONDARY && !s->secondary.started &&
        !pair_is_well(s)) {
        error_setg(errp, "the primary was lost before it said 'start', and "
                   "goes on unasked unless it is dead: 'force' says that it "
                   "is");
    } else if (!force && s->primary.handed_over &&
        s->primary.state == COLO_PRIMARY_STATE_ENDING) {
        error_setg(errp, "this side is handing over to the secondary");
    } else if (!force && !pair_is_well(s) && colo_arbiter_exists()) {
        colo_decision_demand(s);
    } else if (force || !pair_is_well(s)) {
        s->forced |= force;
        colo_ask_failover(s);
    } else if (s->side == COLO_MODE_PRIMARY) {
        colo_ask_end(s, COLO_BYE_FAILOVER);
    } else {
        colo_ask_switchover(s);
    }
}

void qmp_x_colo_checkpoint(Error **errp)
{
    ColoSession *s = colo_session();

    if (!colo_session_active(COLO_MODE_PRIMARY) || !s->wire ||
        s->primary.state < COLO_PRIMARY_STATE_RUNNING ||
        s->primary.state > COLO_PRIMARY_STATE_LOADING) {
        error_setg(errp, "this is not the primary of a running COLO pair");
        return;
    }
    colo_request_checkpoint_monitor();
}

static ColoStatistics *session_statistics(ColoSession *s)
{
    ColoStatistics *st = g_new0(ColoStatistics, 1);
    ColoReasonCountList **tail = &st->reasons;

    st->sync_mode = s->mode;
    st->checkpoints = s->stats.checkpoints;
    for (int i = 0; i < COLO_CHECKPOINT_REASON__MAX; i++) {
        ColoReasonCount *r = g_new0(ColoReasonCount, 1);

        r->reason = i;
        r->count = s->stats.reasons[i];
        QAPI_LIST_APPEND(tail, r);
    }
    st->pause = colo_history_summary(&s->stats.pause);
    st->commit = colo_history_summary(&s->stats.commit);
    st->load = colo_history_summary(&s->stats.load);
    st->pages = s->stats.pages;
    st->zero_pages = s->stats.zero_pages;
    st->equal_pages = s->stats.equal_pages;
    st->bytes_sent = s->stats.bytes_sent;
    st->bytes_received = s->stats.bytes_received;
    st->staging_bytes = s->thread_done ? 0 : s->stats.staging_bytes;
    st->staging_peak = s->stats.staging_peak;
    st->staging_overflows = s->stats.staging_overflows;
    st->checkpoints_verified = s->stats.verified;
    st->ram_mismatches = s->stats.mismatches;
    st->disk_mismatches = s->stats.disk_mismatches;
    return st;
}

/* A secondary's, which has been put into the disk: now this is a primary */
static bool is_stale(const ColoDiskStatistics *disk)
{
    return colo_session_active(COLO_MODE_PRIMARY) &&
           disk->mode == REPLICATION_MODE_SECONDARY &&
           disk->stage == COLO_DISK_STAGE_FOLDED;
}

static ColoDiskStatisticsList *query_disks(void)
{
    ColoDiskStatisticsList *list = replication_query_all();
    ColoDiskStatisticsList **at = &list;

    while (*at) {
        if (is_stale((*at)->value)) {
            ColoDiskStatisticsList *stale = *at;

            *at = g_steal_pointer(&stale->next);
            qapi_free_ColoDiskStatisticsList(stale);
        } else {
            at = &(*at)->next;
        }
    }
    return list;
}

COLOStatus *qmp_query_colo_status(Error **errp)
{
    COLOStatus *status = g_new0(COLOStatus, 1);
    ColoSession *s = colo_session();

    status->mode = s && !s->thread_done ? s->side : COLO_MODE_NONE;
    status->last_mode = s ? s->side : COLO_MODE_NONE;
    status->reason = s ? s->exit_reason : COLO_EXIT_REASON_NONE;
    if (s && !s->thread_done &&
        (colo_goes_on(s) || colo_wish(s) == COLO_WISH_SWITCHOVER)) {
        status->reason = COLO_EXIT_REASON_PROCESSING;
    }
    if (s) {
        status->state = g_strdup(colo_state_str(s));
        status->has_epoch = true;
        status->epoch = s->epoch;
        status->statistics = session_statistics(s);
    }
    colo_status_fill(s, status);
    status->heartbeat = colo_heartbeat_status();
    status->compare = colo_net_compare_statistics();
    status->has_compare = status->compare != NULL;
    status->disks = query_disks();
    status->has_disks = status->disks != NULL;
    return status;
}

/* What commands of the base mean for a pair */

bool colo_command_refused(const char *command, Error **errp)
{
    ColoSession *s = colo_session();

    if (has_ended(s)) {
        error_setg(errp, "'%s' is not possible on a COLO %s that has ended: "
                   "its guest is out of date", command, COLOMode_str(s->side));
        return true;
    }
    if (colo_session_active(COLO_MODE_PRIMARY) && s->primary.switches_over) {
        error_setg(errp, "'%s' is not possible while this side of a COLO pair "
                   "hands its guest over, which goes on on the other side",
                   command);
        return true;
    }
    if (colo_session_active(COLO_MODE_SECONDARY)) {
        if (colo_lost_refused(command, errp)) {
            return true;
        }
        error_setg(errp, "'%s' is not possible on the secondary of a COLO "
                   "pair: it follows the primary", command);
        return true;
    }
    return false;
}

bool colo_lost_refused(const char *command, Error **errp)
{
    ColoSession *s = colo_session();

    if (!s || s->thread_done ||
        (s->side == COLO_MODE_PRIMARY
         ? s->primary.state != COLO_PRIMARY_STATE_LOST
         : s->secondary.state != COLO_SECONDARY_STATE_LOST)) {
        return false;
    }
    error_setg(errp, "'%s' is not possible while the other side of the COLO "
               "pair is lost: x-colo-lost-heartbeat tells this side to go on",
               command);
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
        colo_session()->primary.deferred_stop = RUN_STATE__MAX;
        return true;
    }
    return false;
}

bool colo_migration_cancel(void)
{
    if (colo_session_active(COLO_MODE_SECONDARY)) {
        return true;
    }
    if (!colo_session_active(COLO_MODE_PRIMARY)) {
        return false;
    }
    colo_ask_end(colo_session(), COLO_BYE_CANCEL);
    return true;
}

void colo_checkpoint_delay_set(void)
{
    if (colo_session_active(COLO_MODE_PRIMARY) && colo_session()->wire) {
        colo_wire_wake(colo_session()->wire);
    }
}
