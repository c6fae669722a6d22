/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the primary takes a checkpoint.  Run by the migration thread.
 *
 * Theory of operation
 *
 *   ask the secondary what it dirtied (S)       state requesting, VM runs
 *   stop, collect P, copy P u S, save devices   state cutting,    VM stands
 *   send the copy                               state sending,    VM runs
 *   wait for the commit, release output         state committing
 *   wait until the secondary has loaded         state loading
 *
 * The VM stands still only while memory is copied.  If more is dirty than the
 * staging area may hold, it is streamed while the VM runs, and what that dirties
 * again too fast while it stands still.  Neither is done with the BQL held, as
 * the monitor has to answer.  So the cut is the end of that: device state is
 * saved and the last pages are copied in one go under the BQL, after whatever
 * wrote to RAM meanwhile (a reset from the monitor, say) was collected too.
 *
 * A guest does not stand for longer than max_pause_ms: its clients would give
 * up.  It goes on without the checkpoint then, and the session ends in order.
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/rcu.h"
#include "qapi/error.h"
#include "system/runstate.h"
#include "disks.h"
#include "fault.h"
#include "guest.h"
#include "pages.h"
#include "participants.h"
#include "peer.h"
#include "primary-checkpoint.h"
#include "requests.h"
#include "sections.h"
#include "migration/qemu-file.h"
#include "migration/savevm.h"
#include "trace.h"

/*
 * Guests whose output keeps on differing must not spend their time in
 * checkpoints: one for that reason waits until this many times the duration of
 * the last one have passed since its end.  So checkpoints take at most a third
 * of the time, whatever one costs on these hosts, with this guest.
 */
#define REST_FACTOR         2

/* Ask the secondary for the pages it wrote, which are dirty too */
static bool primary_request(ColoSession *s, uint64_t cut, Error **errp)
{
    g_autofree uint8_t *buf = NULL;
    ColoFrame f;

    colo_set_primary(s, COLO_PRIMARY_STATE_REQUESTING, "checkpoint due");
    if (!colo_wire_send_buf(s->wire, COLO_FRAME_CHECKPOINT_REQUEST, cut, NULL,
                            0, errp) ||
        !colo_expect(s, COLO_FRAME_CHECKPOINT_REPLY, cut, NULL, &f, errp)) {
        return false;
    }
    buf = g_malloc(f.length);
    return colo_wire_recv_buf(s->wire, buf, f.length, errp) &&
           colo_ram_add_runs(s->ram, buf, f.length, errp);
}

static ColoRunState guest_run_state(bool live)
{
    if (live) {
        return COLO_RUN_RUNNING;
    }
    return runstate_check(RUN_STATE_SHUTDOWN) ? COLO_RUN_SHUTDOWN
                                              : COLO_RUN_PAUSED;
}

/*
 * End of the cut, or of a switchover: the guest goes on.  A stop that came during
 * that, from the monitor or from a device, is carried out now, by the main loop
 * like all others: while it is the monitor may let the guest go on.
 */
void colo_primary_resume(ColoSession *s)
{
    RunState stop;

    s->primary.switches_over = false;
    s->primary.stands = false;
    if (!qemu_vmstop_requested(&stop)) {
        stop = s->primary.deferred_stop;
    }
    s->primary.deferred_stop = RUN_STATE__MAX;
    colo_end_cut(s);
    if (stop != RUN_STATE__MAX) {
        qemu_system_vmstop_request_prepare();
        qemu_system_vmstop_request(stop);
    }
}

static bool save_devices(ColoSession *s, Error **errp)
{
    int ret;

    s->device_state->offset = 0;
    s->device_state->usage = 0;
    colo_sections_begin(qemu_file_transferred(s->primary.device_file));
    ret = qemu_save_device_state(s->primary.device_file);
    if (ret == 0) {
        ret = qemu_fflush(s->primary.device_file);
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot save the state of devices");
        return false;
    }
    if (s->device_state->usage > COLO_DEVICE_STATE_MAX) {
        error_setg(errp, "%zu bytes of device state, at most %u can be sent",
                   s->device_state->usage, COLO_DEVICE_STATE_MAX);
        return false;
    }
    return true;
}

/*
 * Copying is done in rounds, so that the BQL is not held for long: 32 MiB, some
 * tens of milliseconds for one thread on a machine that is busy
 */
#define COPY_ROUND_PAGES    8192

typedef struct Cut {
    uint64_t number;
    ColoTail tail;
    ColoPageCount pages;
    int64_t asked_ns;
    int64_t begin_ns;
    int64_t end_ns;             /* the guest goes on, whatever there is left */
    int64_t pause_ns;
    bool live;                  /* the guest runs but for the cut */
    bool overflowed;
    bool repeated;              /* a page may have been copied twice */
    bool is_last;               /* the secondary goes on from here */
} Cut;

/* The guest stands for the cut no longer.  @ok: the cut is complete.  BQL. */
static void primary_end_pause(ColoSession *s, Cut *c, bool ok)
{
    if (!c->pause_ns) {
        c->pause_ns = colo_now_ns() - c->begin_ns;
        if (c->live && ok && c->is_last) {
            /* It stands until the secondary goes on */
            s->primary.stands = true;
        } else if (c->live) {
            colo_primary_resume(s);
            colo_history_add(&s->stats.pause, c->pause_ns);
        }
    }
}

/* The guest has stood for too long, and the session has to end */
static void primary_too_long(ColoSession *s, Error **errp)
{
    ERRP_GUARD();
    g_autofree char *why = *errp ? g_strdup_printf(": %s",
                                                   error_get_pretty(*errp))
                                 : g_strdup("");

    g_clear_pointer(errp, error_free);
    error_setg(errp, "a checkpoint was not taken within %u ms "
               "(x-colo-max-pause), the guest goes on without it%s",
               s->max_pause_ms, why);
    s->cause = COLO_CAUSE_PAUSE;
}

/*
 * The guest stands, and what it wrote is known.  BQL held, dropped meanwhile;
 * if it was paused the user may let it go on then.
 */
static bool primary_collect(ColoSession *s, Cut *c, Error **errp)
{
    do {
        bool stopped = false, ok;

        if (runstate_is_live(runstate_get())) {
            c->end_ns = MIN(c->end_ns, colo_now_ns() +
                            s->max_pause_ms * (int64_t)SCALE_MS);
        }
        ok = colo_stop_guest(s, c->end_ns, &stopped, errp);
        c->live |= stopped;
        if (!ok || colo_now_ns() >= c->end_ns) {
            primary_too_long(s, errp);
            return false;
        }
        if (!colo_ram_unchanged(s->ram, errp)) {
            s->cause = COLO_CAUSE_LOCAL;
            return false;
        }
        colo_ram_sync(s->ram, true);
    } while (!colo_guest_stands());

    /* Since the BQL was dropped somebody else has written to memory */
    c->repeated |= colo_staging_count(s->staging) &&
                   colo_ram_dirty_pages(s->ram);
    return true;
}

typedef struct Pause {
    ColoSession *s;
    Cut *c;
} Pause;

/* A frame is half written, and the guest must not wait for the rest of it */
static void primary_pause_over(void *opaque)
{
    Pause *p = opaque;

    BQL_LOCK_GUARD();
    primary_end_pause(p->s, p->c, false);
}

/*
 * The dirty set is larger than the staging area: stream what fits in.  BQL
 * held, dropped meanwhile.
 */
static bool primary_stream_excess(ColoSession *s, Cut *c, Error **errp)
{
    Pause pause = { s, c };
    bool ok;

    c->overflowed = true;
    bql_unlock();
    colo_wire_set_alarm(s->wire, c->end_ns, primary_pause_over, &pause);
    ok = colo_pages_send(s, c->number, &c->pages, errp);
    colo_wire_clear_alarm(s->wire);
    bql_lock();
    if (colo_now_ns() >= c->end_ns && colo_wire_is_whole(s->wire)) {
        primary_too_long(s, errp);
        return false;
    }
    return ok;
}

/* Memory for the pages that are known to be dirty.  No lock. */
static bool primary_reserve(ColoSession *s, Error **errp)
{
    uint64_t dirty = colo_ram_dirty_pages(s->ram);

    if (!colo_staging_reserve(s->staging, dirty, dirty, errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    return true;
}

/* primary_reserve() while the guest stands.  BQL held, dropped meanwhile. */
static bool primary_reserve_more(ColoSession *s, Error **errp)
{
    bool ok;

    bql_unlock();
    ok = primary_reserve(s, errp);
    bql_lock();
    return ok;
}

/* Copy one round.  BQL held, dropped meanwhile. */
static bool primary_copy_round(ColoSession *s, Cut *c, Error **errp)
{
    bool ok;

    /* What is unplugged meanwhile stays until the end of the round */
    rcu_read_lock();
    bql_unlock();
    ok = colo_ram_stage(s->ram, s->staging, COPY_ROUND_PAGES, c->end_ns);
    rcu_read_unlock();
    colo_fault_pages(s->side);
    bql_lock();
    if (!ok) {
        primary_too_long(s, errp);
        return false;
    }
    if (!colo_ram_unchanged(s->ram, errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    return true;
}

/*
 * Stop the guest and copy pages until what is left is little enough to be
 * copied with the BQL held.  BQL held, dropped meanwhile.
 */
static bool primary_copy_most(ColoSession *s, Cut *c, Error **errp)
{
    for (;;) {
        uint64_t room, dirty;

        if (!primary_collect(s, c, errp)) {
            return false;
        }
        room = colo_staging_room(s->staging);
        dirty = colo_ram_dirty_pages(s->ram);
        if (dirty > room && room < colo_staging_room_max(s->staging)) {
            if (!primary_reserve_more(s, errp)) {
                return false;
            }
            continue;
        }
        if (dirty <= MIN(room, COPY_ROUND_PAGES)) {
            return true;
        }
        while (colo_ram_dirty_pages(s->ram) &&
               colo_staging_room(s->staging)) {
            if (!primary_copy_round(s, c, errp)) {
                return false;
            }
        }
        if (colo_ram_dirty_pages(s->ram) &&
            !colo_staging_room_max(s->staging) &&
            !primary_stream_excess(s, c, errp)) {
            return false;
        }
    }
}

/*
 * Stop the guest and copy it.  BQL held; not dropped any more from the time
 * that the last pages are collected.
 */
static bool primary_copy_state(ColoSession *s, Cut *c, Error **errp)
{
    if (!primary_copy_most(s, c, errp)) {
        return false;
    }
    if (!colo_ram_stage(s->ram, s->staging, UINT64_MAX, c->end_ns)) {
        primary_too_long(s, errp);
        return false;
    }

    if (!save_devices(s, errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    c->tail.device_len = s->device_state->usage;
    if (s->verify_ram) {
        c->tail.flags |= COLO_TAIL_HASHES;
        c->tail.ram_hash = colo_ram_hash(s->ram);
        c->tail.disk_hash = colo_disks_hash();
    }
    return true;
}

/* Copy up to @max pages while the VM runs.  No lock. */
static bool primary_copy_running(ColoSession *s, uint64_t max, Error **errp)
{
    bql_lock();
    if (!colo_ram_unchanged(s->ram, errp)) {
        bql_unlock();
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    /* What is unplugged meanwhile stays until then */
    rcu_read_lock();
    bql_unlock();
    colo_ram_stage(s->ram, s->staging, max, INT64_MAX);
    rcu_read_unlock();
    return true;
}

/* Copy what is in the dirty set while the VM runs, and send it.  No lock. */
static bool primary_stream_round(ColoSession *s, Cut *c, Error **errp)
{
    bql_lock();
    colo_ram_copy_begin(s->ram);
    bql_unlock();
    while (colo_ram_dirty_pages(s->ram)) {
        uint64_t max = MIN(colo_ram_dirty_pages(s->ram), COPY_ROUND_PAGES);

        if (!colo_staging_reserve(s->staging, max, max, errp)) {
            s->cause = COLO_CAUSE_LOCAL;
            return false;
        }
        if (!primary_copy_running(s, max, errp) ||
            !colo_pages_send(s, c->number, &c->pages, errp)) {
            return false;
        }
    }
    return true;
}

/*
 * The VM would stand for as long as it takes to send what the staging area does
 * not hold.  So pages are sent while it runs first, again and again as long as
 * each round leaves half at most: what it writes meanwhile is copied once more.
 */
static bool primary_stream_running(ColoSession *s, Cut *c, Error **errp)
{
    uint64_t dirty = colo_ram_dirty_pages(s->ram), before = UINT64_MAX;

    while (dirty > colo_staging_room_max(s->staging) && dirty <= before / 2) {
        c->overflowed = true;
        if (!primary_stream_round(s, c, errp)) {
            return false;
        }
        bql_lock();
        colo_ram_sync(s->ram, false);
        bql_unlock();
        before = dirty;
        dirty = colo_ram_dirty_pages(s->ram);
        trace_colo_streamed(c->number, before, dirty);
    }
    return true;
}

/* The cut itself: stop, copy, go on */
static bool primary_cut(ColoSession *s, Cut *c, Error **errp)
{
    bool ok;

    /* Have the memory for what is dirty by now before the VM stands still */
    bql_lock();
    colo_set_primary(s, COLO_PRIMARY_STATE_CUTTING, "secondary replied");
    colo_ram_sync(s->ram, false);
    bql_unlock();
    if (!colo_wire_send_buf(s->wire, COLO_FRAME_VMSTATE_SEND, c->number, NULL,
                            0, errp) ||
        !primary_stream_running(s, c, errp) ||
        !primary_reserve(s, errp)) {
        return false;
    }

    bql_lock();
    /* What is asked of this guest from now on would be lost */
    s->primary.switches_over = c->is_last;
    c->begin_ns = colo_now_ns();
    /* A guest that is paused waits for nothing */
    c->end_ns = colo_patience_end(s);
    ok = primary_copy_state(s, c, errp);
    if (ok) {
        c->tail.run_state = guest_run_state(c->live);
        c->tail.flags |= vm_get_suspended() ? COLO_TAIL_SUSPENDED : 0;
        s->epoch = c->number;
        colo_requests_cut(s->epoch);
        colo_participants_cut(s->epoch);
        colo_disks_cut(s->epoch);
        colo_set_primary(s, COLO_PRIMARY_STATE_SENDING, "copied");
    }
    primary_end_pause(s, c, ok);
    s->primary.last_cut_ns = c->begin_ns;
    s->stats.staging_overflows += c->overflowed;
    colo_count_staging(s);
    bql_unlock();
    return ok;
}

/*
 * The secondary compares hashes with its RAM, not with what was streamed or
 * copied before, and that may have changed once more.
 */
static bool primary_send_pages(ColoSession *s, Cut *c, Error **errp)
{
    if (s->mode == COLO_SYNC_MODE_HYBRID && !c->overflowed && !c->repeated) {
        return colo_pages_send_differing(s, c->number, &c->pages, errp);
    }
    return colo_pages_send(s, c->number, &c->pages, errp);
}

static bool primary_send_tail(ColoSession *s, Cut *c, Error **errp)
{
    g_autoptr(GByteArray) sections = g_byte_array_new();
    uint8_t buf[COLO_TAIL_LEN];
    struct iovec iov[2] = {
        { buf, sizeof(buf) },
        { s->device_state->data, s->device_state->usage },
    };

    colo_sections_encode(sections);
    if (!colo_wire_send_buf(s->wire, COLO_FRAME_SECTIONS, c->number,
                            sections->data, sections->len, errp)) {
        return false;
    }
    c->tail.npages = c->pages.sent + c->pages.zero;
    colo_tail_encode(&c->tail, buf);
    return colo_wire_send(s->wire, COLO_FRAME_VMSTATE_SIZE, c->number, iov, 2,
                          errp);
}

static void primary_committed(ColoSession *s, Cut *c,
                              ColoCheckpointReason reason)
{
    BQL_LOCK_GUARD();

    s->committed = c->number;
    colo_set_primary(s, COLO_PRIMARY_STATE_LOADING, "committed");
    colo_participants_commit(c->number);
    colo_history_add(&s->stats.commit, colo_now_ns() - c->begin_ns);
    s->stats.reasons[reason]++;
    colo_count_checkpoint(s, c->tail.npages, &c->pages);
    trace_colo_checkpoint(c->number, ColoCheckpointReason_str(reason),
                          c->tail.npages, c->pages.zero, c->pages.equal,
                          c->tail.device_len, c->pause_ns / SCALE_US);
}

/* The cut is taken.  Until the secondary has loaded it: */
static bool primary_bring_over(ColoSession *s, Cut *c,
                               ColoCheckpointReason reason, Error **errp)
{
    ColoFrame f;

    if (!primary_send_pages(s, c, errp) ||
        !colo_disks_settle(s, c->number, errp) ||
        !primary_send_tail(s, c, errp)) {
        return false;
    }

    colo_set_primary(s, COLO_PRIMARY_STATE_COMMITTING, "sent");
    if (!colo_expect(s, COLO_FRAME_VMSTATE_RECEIVED, c->number, NULL, &f,
                     errp)) {
        return false;
    }
    primary_committed(s, c, reason);

    if (!colo_expect(s, COLO_FRAME_VMSTATE_LOADED, c->number, NULL, &f,
                     errp)) {
        return false;
    }
    colo_disks_allow(c->number);
    return true;
}

/* The guest has stood for too long for a switchover: it goes on here */
static void primary_switch_over_is_late(void *opaque)
{
    ColoSession *s = opaque;

    BQL_LOCK_GUARD();
    colo_primary_resume(s);
}

/* The secondary has loaded what this guest was when it was stopped for good */
static bool primary_hand_over(ColoSession *s, Error **errp)
{
    bql_lock();
    s->primary.handed_over = true;
    colo_set_primary(s, COLO_PRIMARY_STATE_ENDING, "handing over");
    bql_unlock();
    if (colo_hand_over(s, errp)) {
        s->cause = COLO_CAUSE_HANDOVER;
        error_setg(errp, "handed over to the secondary");
    }
    return false;
}

/* The guest stands since its last cut */
static bool primary_switch_over(ColoSession *s, Cut *c, Error **errp)
{
    bool ok;

    if (s->primary.stands) {
        colo_wire_set_alarm(s->wire, c->end_ns, primary_switch_over_is_late, s);
    }
    ok = primary_bring_over(s, c, COLO_CHECKPOINT_REASON_SWITCHOVER, errp);
    colo_wire_clear_alarm(s->wire);
    if (c->live && !s->primary.stands && colo_wire_is_whole(s->wire)) {
        primary_too_long(s, errp);
        return false;
    }
    return ok && primary_hand_over(s, errp);
}

bool colo_primary_checkpoint(ColoSession *s, ColoCheckpointReason reason,
                             Error **errp)
{
    Cut c = {
        .number = s->epoch + 1,
        .asked_ns = colo_now_ns(),
        .is_last = reason == COLO_CHECKPOINT_REASON_SWITCHOVER,
    };

    if (!primary_request(s, c.number, errp) || !primary_cut(s, &c, errp)) {
        return false;
    }
    if (c.is_last) {
        return primary_switch_over(s, &c, errp);
    }
    if (!primary_bring_over(s, &c, reason, errp)) {
        return false;
    }
    colo_set_primary(s, COLO_PRIMARY_STATE_RUNNING, "loaded");
    colo_staging_shrink(s->staging);
    s->primary.not_before_ns = colo_now_ns() +
                               REST_FACTOR * (colo_now_ns() - c.asked_ns);
    return true;
}
