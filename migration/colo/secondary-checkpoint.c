/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the secondary takes in a checkpoint.  Run by the session's thread.
 *
 * Theory of operation
 *
 * A checkpoint arrives in pieces that are staged; nothing is applied until all
 * of it is here and confirmed (the commit).  Then, under the BQL: reset the
 * devices, write the pages, load the devices; many pages are written before
 * that, without the BQL.  A failure before the commit
 * drops what is staged and leaves the VM as it was; a failure after it does
 * not keep the load from being finished.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/rcu.h"
#include "qapi/error.h"
#include "exec/memory.h"
#include "system/cpus.h"
#include "system/hw_accel.h"
#include "system/runstate.h"
#include "disks.h"
#include "fault.h"
#include "guest.h"
#include "pages.h"
#include "peer.h"
#include "secondary-checkpoint.h"
#include "sections.h"
#include "migration/qemu-file.h"
#include "migration/savevm.h"
#include "trace.h"

/*
 * A load replaces the views of guest memory, and the RCU thread frees the old
 * ones.  It falls behind if checkpoints follow each other closely or the
 * machine is busy, but by no more than this number of loads.
 */
#define LOADS_UNFREED_MAX 2

/* So many pages are written to RAM with the BQL held */
#define APPLY_PAGES_MAX 8192

/* BQL: a load is in progress, guest RAM and devices do not fit each other */
static bool loading;

/* BQL: loads of all sessions of which the RCU thread has more to free */
static unsigned loads_unfreed;
static QemuCond load_freed_cond;

/* Queued behind what a load leaves to the RCU thread */
typedef struct LoadEnd {
    struct rcu_head rcu;
} LoadEnd;

bool colo_loading(void)
{
    return loading;
}

static void __attribute__((constructor)) secondary_init(void)
{
    qemu_cond_init(&load_freed_cond);
}

/* Hybrid mode: the guest stands, for the checkpoint that replaces it.  BQL. */
static bool secondary_stop_guest(ColoSession *s, Error **errp)
{
    bool stopped = false;

    if (!colo_stop_guest(s, colo_now_ns() + s->max_pause_ms * (int64_t)SCALE_MS,
                         &stopped, errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    colo_forget_stop();
    return true;
}

/* The guest stands; @runs: the pages that this side wrote since the last cut */
static bool secondary_collect(ColoSession *s, GByteArray *runs, Error **errp)
{
    BQL_LOCK_GUARD();

    colo_set_secondary(s, COLO_SECONDARY_STATE_REPLIED, "asked");
    if (s->mode == COLO_SYNC_MODE_HYBRID && !secondary_stop_guest(s, errp)) {
        return false;
    }
    /* A guest that ejects a DIMM by itself lacks what the primary sends */
    if (!colo_ram_unchanged(s->ram, errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    colo_ram_sync(s->ram, true);
    colo_ram_take_runs(s->ram, runs);
    return true;
}

bool colo_secondary_reply(ColoSession *s, uint64_t cut, Error **errp)
{
    g_autoptr(GByteArray) runs = g_byte_array_new();

    return secondary_collect(s, runs, errp) &&
           colo_wire_send_buf(s->wire, COLO_FRAME_CHECKPOINT_REPLY, cut,
                              runs->data, runs->len, errp);
}

/* The last frame of a checkpoint */
static bool secondary_receive_tail(ColoSession *s, const ColoFrame *f,
                                   const ColoPageCount *count,
                                   ColoTail *tail, Error **errp)
{
    uint8_t buf[COLO_TAIL_LEN];
    QIOChannelBuffer *dev = s->device_state;

    if (f->length < COLO_TAIL_LEN) {
        error_setg(errp, "'vmstate-size' of %" PRIu64 " bytes is cut short",
                   f->length);
        return false;
    }
    if (!colo_wire_recv_buf(s->wire, buf, sizeof(buf), errp) ||
        !colo_tail_decode(buf, f->length, tail, errp) ||
        !colo_pages_complete(s, errp)) {
        return false;
    }
    if (tail->npages != count->sent + count->zero) {
        error_setg(errp, "'vmstate-size' announces %" PRIu64 " pages, "
                   "%" PRIu64 " have arrived", tail->npages,
                   count->sent + count->zero);
        return false;
    }
    if (dev->capacity < tail->device_len) {
        uint8_t *data = g_try_realloc(dev->data, tail->device_len);

        if (!data) {
            s->cause = COLO_CAUSE_LOCAL;
            error_setg(errp, "no memory for %" PRIu32 " bytes of device state",
                       tail->device_len);
            return false;
        }
        dev->data = data;
        dev->capacity = tail->device_len;
    }
    dev->usage = tail->device_len;
    dev->offset = 0;
    return colo_wire_recv_buf(s->wire, dev->data, tail->device_len, errp);
}

bool colo_secondary_receive(ColoSession *s, ColoArrival *a, Error **errp)
{
    uint64_t cut = a->cut;
    g_autofree char *stage = g_strdup_printf("checkpoint %" PRIu64, cut);
    ColoFrame f;

    if (!colo_expect(s, COLO_FRAME_VMSTATE_SEND, cut, stage, &f, errp)) {
        return false;
    }
    colo_set_secondary(s, COLO_SECONDARY_STATE_RECEIVING, "the primary sends");
    colo_pages_begin(s);
    g_byte_array_set_size(s->secondary.sections, 0);
    for (;;) {
        if (!colo_recv(s, stage, &f, errp)) {
            return false;
        }
        if (f.epoch == cut && f.type == COLO_FRAME_PAGES) {
            if (!colo_pages_receive(s, &f, &a->pages, errp)) {
                return false;
            }
        } else if (f.epoch == cut && f.type == COLO_FRAME_HASHES &&
                   s->mode == COLO_SYNC_MODE_HYBRID) {
            if (!colo_pages_compare(s, &f, &a->pages, errp)) {
                return false;
            }
        } else if (f.epoch == cut && f.type == COLO_FRAME_SECTIONS &&
                   s->secondary.sections->len == 0) {
            g_byte_array_set_size(s->secondary.sections, f.length);
            if (!colo_wire_recv_buf(s->wire, s->secondary.sections->data,
                                    f.length, errp)) {
                return false;
            }
        } else if (f.epoch == cut && f.type == COLO_FRAME_VMSTATE_SIZE) {
            return secondary_receive_tail(s, &f, &a->pages, &a->tail, errp);
        } else {
            colo_read_end(s, &f, stage, errp);
            return false;
        }
    }
}

bool colo_secondary_commit(ColoSession *s, ColoArrival *a, Error **errp)
{
    BQL_LOCK_GUARD();

    if (!colo_sections_fit(s->secondary.sections->data,
                           s->secondary.sections->len,
                           s->device_state->data, s->device_state->usage,
                           errp)) {
        error_prepend(errp, "the machines of the two sides differ: ");
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    if (!colo_disks_prepare(errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    s->committed = a->cut;
    colo_set_secondary(s, COLO_SECONDARY_STATE_COMMITTED, "complete");
    return true;
}

static void verify_ram(ColoSession *s, uint64_t cut, const ColoTail *tail)
{
    uint64_t hash = colo_ram_hash(s->ram);

    s->stats.verified++;
    if (hash != tail->ram_hash) {
        s->stats.mismatches++;
        error_report("COLO secondary: RAM differs after checkpoint %" PRIu64
                     ": hash %016" PRIx64 ", the primary had %016" PRIx64,
                     cut, hash, tail->ram_hash);
    }
}

/* This guest has to see the disks that the primary's saw at the cut.  BQL. */
static void verify_disks(ColoSession *s, uint64_t cut, const ColoTail *tail)
{
    uint32_t hash = colo_disks_hash();

    if (hash != tail->disk_hash) {
        s->stats.disk_mismatches++;
        error_report("COLO secondary: disks differ after checkpoint %" PRIu64
                     ": hash %08" PRIx32 ", the primary had %08" PRIx32,
                     cut, hash, tail->disk_hash);
    }
}

/*
 * Many pages take a while, in which the monitor has to answer: write them to RAM
 * before the rest.  The guest stands, its devices are those of before.  BQL held,
 * dropped meanwhile.
 */
static bool secondary_apply_early(ColoSession *s, Error **errp)
{
    bql_unlock();
    colo_ram_apply(s->ram, s->staging);
    colo_fault_pages(s->side);
    bql_lock();
    return colo_ram_unchanged(s->ram, errp);
}

/*
 * Reset, pages, devices: between two checkpoints.  BQL.
 *
 * @early: pages are there, but for what somebody has written meanwhile
 */
static bool secondary_replace_guest(ColoSession *s, bool early, Error **errp)
{
    QEMUFile *f;
    int ret;

    /* One new view of memory for the reset as a whole, not one a device. */
    memory_region_transaction_begin();
    qemu_system_reset(SHUTDOWN_CAUSE_SNAPSHOT_LOAD);
    memory_region_transaction_commit();
    if (early) {
        colo_ram_sync(s->ram, true);
        colo_ram_apply_dirty(s->ram, s->staging);
    } else {
        colo_ram_apply(s->ram, s->staging);
    }

    f = qemu_file_new_input(QIO_CHANNEL(s->device_state));
    cpu_synchronize_all_pre_loadvm();
    ret = qemu_load_device_state(f);
    qemu_fclose(f);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot load the state of devices");
        return false;
    }
    return true;
}

/* Put the staged checkpoint into place.  BQL held, dropped meanwhile. */
static bool secondary_load(ColoSession *s, const ColoTail *tail, Error **errp)
{
    bool early = colo_staging_count(s->staging) > APPLY_PAGES_MAX;
    bool ok;

    if (!colo_disks_load(s, errp) ||
        (early && !secondary_apply_early(s, errp))) {
        return false;
    }
    loading = true;
    ok = secondary_replace_guest(s, early, errp);
    loading = false;

    /* To listeners of the memory map this was one change, mostly of nothing */
    memory_region_transaction_begin();
    memory_region_transaction_commit();
    if (!ok) {
        return false;
    }
    s->secondary.run_state = tail->run_state;
    /* The section of the global state says how it was at the first migration */
    vm_set_suspended(tail->flags & COLO_TAIL_SUSPENDED);
    return true;
}

/* Called by the RCU thread, which has freed what was queued before.  BQL. */
static void load_freed(LoadEnd *end)
{
    loads_unfreed--;
    qemu_cond_broadcast(&load_freed_cond);
    g_free(end);
}

/*
 * Let the RCU thread keep up with the loads.  BQL (dropped meanwhile).
 *
 * The guest has to stand meanwhile: the RCU thread waits for CPUs that run, and
 * those may run on without end.  If the RCU thread waits for something else the
 * session goes on after a timeout: what one load leaves in that time takes long
 * to fill memory.
 */
static void secondary_reclaim(ColoSession *s)
{
    LoadEnd *end = g_new(LoadEnd, 1);
    int64_t end_ns = colo_now_ns() + colo_timeout_ns(s);
    int64_t left_ns;

    loads_unfreed++;
    call_rcu(end, load_freed, rcu);
    while (loads_unfreed > LOADS_UNFREED_MAX &&
           (left_ns = end_ns - colo_now_ns()) > 0) {
        qemu_cond_timedwait_bql(&load_freed_cond,
                                DIV_ROUND_UP(left_ns, SCALE_MS));
    }
}

bool colo_secondary_load(ColoSession *s, ColoArrival *a, Error **errp)
{
    int64_t load_ns;

    BQL_LOCK_GUARD();
    load_ns = colo_now_ns();
    colo_history_add(&s->stats.commit, load_ns - a->begin_ns);
    colo_set_secondary(s, COLO_SECONDARY_STATE_LOADING, "committed");
    if (!secondary_load(s, &a->tail, errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    if (s->verify_ram && a->tail.flags & COLO_TAIL_HASHES) {
        verify_ram(s, a->cut, &a->tail);
        verify_disks(s, a->cut, &a->tail);
    }
    load_ns = colo_now_ns() - load_ns;
    colo_history_add(&s->stats.load, load_ns);
    s->epoch = a->cut;
    colo_count_checkpoint(s, a->tail.npages, &a->pages);
    colo_count_staging(s);
    trace_colo_loaded(a->cut, a->tail.npages, a->pages.zero, a->pages.equal,
                      a->tail.device_len, load_ns / SCALE_US);
    secondary_reclaim(s);
    return true;
}
