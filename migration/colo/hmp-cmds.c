/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: commands of the human monitor.  Main loop, BQL.
 */

#include "qemu/osdep.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-migration.h"

static void print_durations(Monitor *mon, const char *what,
                            const ColoDurations *d)
{
    if (d->count) {
        monitor_printf(mon, "%s: p50 %" PRIu64 " us, p99 %" PRIu64 " us, "
                       "max %" PRIu64 " us\n", what, d->p50, d->p99, d->max);
    }
}

static void print_compare(Monitor *mon, const ColoCompareStatistics *c)
{
    monitor_printf(mon, "compare '%s': equal %" PRIu64 ", by commit %" PRIu64
                   ", mismatches %" PRIu64 ", timeouts %" PRIu64 "\n", c->id,
                   c->released_equal, c->released_commit, c->mismatches,
                   c->timeouts);
    monitor_printf(mon, "  flows: %" PRIu64 ", packets without a place: %"
                   PRIu64 ", lost: %" PRIu64 "\n", c->flows,
                   c->unplaced_packets, c->dropped_closed + c->dropped_full);
    monitor_printf(mon, "  queued: %" PRIu64 " packets, %" PRIu64
                   " bytes, at most %" PRIu64 "\n", c->queued_packets,
                   c->queued_bytes, c->queued_bytes_max);
    monitor_printf(mon, "  acks clamped: %" PRIu64 ", of the secondary: "
                   "discarded %" PRIu64 ", dropped %" PRIu64 "\n",
                   c->acks_clamped, c->secondary_discarded,
                   c->secondary_dropped);
}

static void print_decider(Monitor *mon, const char *what,
                          const ColoArbiterStatus *st)
{
    if (st) {
        monitor_printf(mon, "%s: %s '%s', asked %" PRIu64 ", said: %s%s%s\n",
                       what, st->type, st->id, st->asked,
                       st->has_verdict ? ColoVerdict_str(st->verdict)
                                       : "nothing",
                       st->error ? ": " : "", st->error ?: "");
    }
}

static void print_statistics(Monitor *mon, const ColoStatistics *st)
{
    monitor_printf(mon, "sync mode: %s\n", ColoSyncMode_str(st->sync_mode));
    monitor_printf(mon, "checkpoints: %" PRIu64, st->checkpoints);
    for (ColoReasonCountList *r = st->reasons; r; r = r->next) {
        if (r->value->count) {
            monitor_printf(mon, " %s %" PRIu64,
                           ColoCheckpointReason_str(r->value->reason),
                           r->value->count);
        }
    }
    monitor_printf(mon, "\n");
    print_durations(mon, "pause", st->pause);
    print_durations(mon, "commit", st->commit);
    print_durations(mon, "load", st->load);
    monitor_printf(mon, "pages: %" PRIu64 ", zero %" PRIu64 ", equal %" PRIu64
                   "\n", st->pages, st->zero_pages, st->equal_pages);
    monitor_printf(mon, "bytes: sent %" PRIu64 ", received %" PRIu64 "\n",
                   st->bytes_sent, st->bytes_received);
    monitor_printf(mon, "staging: %" PRIu64 " bytes, peak %" PRIu64
                   ", overflows %" PRIu64 "\n", st->staging_bytes,
                   st->staging_peak, st->staging_overflows);
    if (st->checkpoints_verified) {
        monitor_printf(mon, "verified: %" PRIu64 ", mismatches %" PRIu64
                       " of RAM, %" PRIu64 " of disks\n",
                       st->checkpoints_verified, st->ram_mismatches,
                       st->disk_mismatches);
    }
}

static void print_disk(Monitor *mon, const ColoDiskStatistics *d)
{
    monitor_printf(mon, "disk '%s': %s, %s", d->disk ?: d->node_name,
                   ReplicationMode_str(d->mode), ColoDiskStage_str(d->stage));
    if (d->generation) {
        monitor_printf(mon, ", generation %" PRIu64 " %s",
                       d->generation->number,
                       ColoDiskRole_str(d->generation->role));
    }
    if (d->error) {
        monitor_printf(mon, ", error: %s", d->error);
    }
    monitor_printf(mon, "\n");
    if (d->log) {
        monitor_printf(mon, "  log: %" PRIu64 " bytes, peak %" PRIu64
                       ", limit %" PRIu64 "; sent %" PRIu64 " bytes\n",
                       d->log->bytes, d->log->peak, d->log->limit,
                       d->log->sent_bytes);
    }
    if (d->has_overlay_bytes) {
        monitor_printf(mon, "  overlays: %" PRIu64 " bytes\n",
                       d->overlay_bytes);
    }
    if (d->has_held_bytes) {
        monitor_printf(mon, "  held: %" PRIu64 " bytes, %" PRIu64
                       " of them in a file\n", d->held_bytes,
                       d->held_in_file);
    }
    if (d->has_fold_total) {
        monitor_printf(mon, "  folded: %" PRIu64 " of %" PRIu64 " bytes\n",
                       d->fold_bytes, d->fold_total);
    }
}

static void print_protection(Monitor *mon, const COLOStatus *status)
{
    g_autoptr(GDateTime) since = NULL;
    g_autofree char *text = NULL;

    monitor_printf(mon, "protected: %s", status->q_protected ? "yes" : "no");
    if (status->has_since) {
        since = g_date_time_new_from_unix_local(status->since);
        text = g_date_time_format(since, "%F %T");
        monitor_printf(mon, " since %s", text);
    }
    monitor_printf(mon, "\n");
    if (status->message) {
        monitor_printf(mon, "message: %s\n", status->message);
    }
    if (status->peer) {
        monitor_printf(mon, "peer: %s\n", status->peer);
    }
    for (ColoProblemList *l = status->problems; l; l = l->next) {
        monitor_printf(mon, "problem: %s\n", l->value->message);
    }
}

static void print_heartbeat(Monitor *mon, const ColoHeartbeatStatus *h)
{
    monitor_printf(mon, "heartbeat: peer %s, links up %u of %u, losses %" PRIu64
                   "\n", ColoPeerHealth_str(h->health), h->links_up,
                   h->links_total, h->losses);
    print_durations(mon, "  round trip", h->round_trip);
    for (ColoHeartbeatLinkStatusList *l = h->links; l; l = l->next) {
        monitor_printf(mon, "  link '%s': %s", l->value->chardev,
                       l->value->up ? "up" : "down");
        if (l->value->has_age) {
            monitor_printf(mon, ", heard %" PRIu64 " ms ago", l->value->age);
        }
        monitor_printf(mon, "\n");
    }
}

/* The peer is lost and the operator has not said yet which side goes on */
static bool awaits_decision(const COLOStatus *status)
{
    const char *lost = status->mode == COLO_MODE_PRIMARY
        ? ColoPrimaryState_str(COLO_PRIMARY_STATE_LOST)
        : ColoSecondaryState_str(COLO_SECONDARY_STATE_LOST);

    return status->mode != COLO_MODE_NONE && g_str_equal(status->state, lost);
}

void hmp_info_colo(Monitor *mon, const QDict *qdict)
{
    g_autoptr(COLOStatus) status = qmp_query_colo_status(NULL);

    print_protection(mon, status);
    monitor_printf(mon, "mode: %s\n", COLOMode_str(status->mode));
    monitor_printf(mon, "last mode: %s\n", COLOMode_str(status->last_mode));
    monitor_printf(mon, "exit reason: %s\n",
                   COLOExitReason_str(status->reason));
    if (status->state) {
        monitor_printf(mon, "state: %s\n", status->state);
        monitor_printf(mon, "epoch: %" PRIu64 "\n", status->epoch);
    }
    if (awaits_decision(status)) {
        monitor_printf(mon, "to do: make sure that the other side is dead, "
                       "then x_colo_lost_heartbeat lets this side go on\n");
    }
    print_decider(mon, "arbiter", status->arbiter);
    print_decider(mon, "fence", status->fence);
    if (status->heartbeat) {
        print_heartbeat(mon, status->heartbeat);
    }
    if (status->statistics) {
        print_statistics(mon, status->statistics);
    }
    for (ColoCompareStatisticsList *l = status->compare; l; l = l->next) {
        print_compare(mon, l->value);
    }
    for (ColoDiskStatisticsList *l = status->disks; l; l = l->next) {
        print_disk(mon, l->value);
    }
}
