/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the secondary's side of a session, run by a thread of its own.
 *
 * Theory of operation
 *
 * In periodic mode the VM stands still in run state 'colo'.  In hybrid mode it
 * runs beside the primary's from the end of one load to the next request, and
 * stands in between.
 *
 * A checkpoint arrives in pieces that are staged; nothing is applied until all
 * of it is here and confirmed (the commit).  Then, under the BQL: reset the
 * devices, write the pages, load the devices.  A failure before the commit
 * drops what is staged and leaves the VM as it was; a failure after it does
 * not keep the load from being finished.
 *
 * When the primary is lost the thread waits for a decision.  Going live is
 * left to the main loop, where the rest of migration expects it.
 */

#include "qemu/osdep.h"
#include <netinet/tcp.h>
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "exec/memory.h"
#include "io/channel-socket.h"
#include "io/channel-tls.h"
#include "net/announce.h"
#include "system/cpus.h"
#include "system/hw_accel.h"
#include "system/runstate.h"
#include "migration/colo.h"
#include "migration/global_state.h"
#include "migration/blocker.h"
#include "migration/misc.h"
#include "disks.h"
#include "failover.h"
#include "guest.h"
#include "pages.h"
#include "params.h"
#include "participants.h"
#include "peer.h"
#include "sections.h"
#include "status.h"
#include "migration/migration.h"
#include "migration/multifd.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "migration/savevm.h"
#include "trace.h"

/*
 * What a load replaces, the views of guest memory above all, the RCU thread
 * frees.  Where checkpoints follow each other closely, or the machine is busy,
 * it falls behind; by no more than these loads.
 */
#define LOADS_UNFREED_MAX 2

/* In the first migration: that often a silent host is asked */
#define SILENCE_PROBES 3

/* BQL: guest RAM and devices are between two checkpoints */
static bool loading;

/* BQL: loads whose leavings have not been freed, of all sessions */
static unsigned loads_unfreed;
static QemuCond load_freed_cond;

typedef struct LoadMark {
    struct rcu_head rcu;
} LoadMark;

bool colo_loading(void)
{
    return loading;
}

static void __attribute__((constructor)) secondary_init(void)
{
    qemu_cond_init(&load_freed_cond);
}

/* The TCP socket below the first migration, or NULL */
static QIOChannelSocket *incoming_socket(void)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    QIOChannel *ioc = qemu_file_get_ioc(mis->from_src_file);
    QIOChannelSocket *socket;

    if (object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_TLS)) {
        ioc = QIO_CHANNEL_TLS(ioc)->master;
    }
    socket = (QIOChannelSocket *)object_dynamic_cast(OBJECT(ioc),
                                                     TYPE_QIO_CHANNEL_SOCKET);
    return socket && (socket->localAddr.ss_family == AF_INET ||
                      socket->localAddr.ss_family == AF_INET6) ? socket : NULL;
}

/*
 * During the first migration: a host that is cut off or has lost its power says
 * nothing, and who receives would wait for it without end.  Half of the timeout
 * may pass without a word, then half of it without an answer.
 */
static void watch_for_silence(uint32_t timeout_ms)
{
    const int on = 1, idle = DIV_ROUND_UP(timeout_ms, 2000);
    const int interval = DIV_ROUND_UP(idle, SILENCE_PROBES);
    const int probes = SILENCE_PROBES;
    QIOChannelSocket *socket = incoming_socket();

    if (socket &&
        (setsockopt(socket->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) ||
         setsockopt(socket->fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle,
                    sizeof(idle)) ||
         setsockopt(socket->fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval,
                    sizeof(interval)) ||
         setsockopt(socket->fd, IPPROTO_TCP, TCP_KEEPCNT, &probes,
                    sizeof(probes)))) {
        warn_report("COLO secondary: a primary that falls silent in the first "
                    "migration is not noticed: %s", strerror(errno));
    }
}

/* A session has deadlines of its own, which may be longer */
static void watch_no_more(void)
{
    const int off = 0;
    QIOChannelSocket *socket = incoming_socket();

    if (socket) {
        setsockopt(socket->fd, SOL_SOCKET, SO_KEEPALIVE, &off, sizeof(off));
    }
}

/* Runs before the first migration loads anything.  BQL. */
int colo_incoming_prepare(void)
{
    Error *err = NULL;

    if (!colo_ram_dirty_log_begin(&err)) {
        error_reportf_err(err, "COLO secondary: ");
        return -EINVAL;
    }
    watch_for_silence(migrate_colo_timeout());
    return 0;
}

/* A primary that waits for the disks says meanwhile that it is well */
static bool secondary_recv(ColoSession *s, const char *stage, ColoFrame *f,
                           Error **errp)
{
    int64_t end_ns = colo_patience_end(s);

    do {
        if (colo_patience_over(s, end_ns, stage, errp) ||
            !colo_wire_recv(s->wire, stage, f, errp)) {
            return false;
        }
    } while (f->type == COLO_FRAME_PING);
    return true;
}

static bool secondary_expect(ColoSession *s, ColoFrameType type, uint64_t cut,
                             const char *stage, ColoFrame *f, Error **errp)
{
    if (!secondary_recv(s, stage, f, errp)) {
        return false;
    }
    if (f->type != type || f->epoch != cut) {
        colo_read_end(s, f, stage, errp);
        return false;
    }
    return true;
}

/*
 * Session start: say what RAM there is, take the primary's parameters.  The
 * primary's guest is held until this side has answered, so what could keep the
 * session from beginning is looked for before anything is waited for.
 */
static bool secondary_handshake(ColoSession *s, Error **errp)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    uint8_t start_buf[COLO_START_LEN];
    ColoReady ready = { 0 };
    ColoStart start;
    ColoFrame f;
    bool ok;

    bql_lock();
    ok = colo_disks_check(COLO_MODE_SECONDARY, errp) &&
         colo_disks_generation(&ready.generation, errp);
    colo_ram_describe(s->ram, &ready);
    bql_unlock();
    colo_ready_encode(&ready, buf);
    colo_ready_clear(&ready);
    if (!ok) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }

    if (!colo_wire_send_buf(s->wire, COLO_FRAME_CHECKPOINT_READY, 0,
                            buf->data, buf->len, errp) ||
        !secondary_expect(s, COLO_FRAME_START, 0, "'start'", &f, errp) ||
        !colo_wire_recv_buf(s->wire, start_buf, MIN(f.length,
                                                    sizeof(start_buf)),
                            errp) ||
        !colo_start_decode(start_buf, f.length, &start, errp)) {
        return false;
    }
    if (start.mode >= COLO_SYNC_MODE__MAX) {
        s->cause = COLO_CAUSE_LOCAL;
        error_setg(errp, "the primary wants mode %" PRIu32 ", which this side "
                   "does not know", start.mode);
        return false;
    }
    bql_lock();
    s->mode = start.mode;
    s->timeout_ms = start.timeout_ms;
    s->verify_ram = start.flags & COLO_START_VERIFY_RAM;
    bql_unlock();
    s->secondary.generation = start.generation;
    colo_wire_set_timeout(s->wire, s->timeout_ms);
    return true;
}

/*
 * Hybrid mode: the guest goes on from what was loaded, beside the primary's.
 * Stops and resets that it asked for before the load are void.  BQL.
 */
static void secondary_run_guest(ColoSession *s)
{
    RunState stop;

    colo_participants_load(s->epoch);
    s->secondary.deferred_shutdown = SHUTDOWN_CAUSE_NONE;
    s->secondary.deferred_reset = SHUTDOWN_CAUSE_NONE;
    qemu_vmstop_requested(&stop);
    if (s->secondary.run_state == COLO_RUN_RUNNING) {
        colo_start_guest();
    }
}

/* The guest stands; maybe it stopped by itself: for an I/O error, say.  BQL. */
static void secondary_forget_stop(void)
{
    if (!runstate_check(RUN_STATE_COLO)) {
        runstate_set(RUN_STATE_COLO);
    }
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
    secondary_forget_stop();
    return true;
}

/* For the first time: what only a secondary that is ready needs.  BQL. */
static bool secondary_prepare_disks(ColoSession *s, Error **errp)
{
    if (s->mode == COLO_SYNC_MODE_HYBRID && !migration_block_activate(errp)) {
        error_prepend(errp, "the guest of the secondary cannot run in hybrid "
                      "mode without disks of its own: ");
        return false;
    }
    return colo_disks_start(s, errp) &&
           colo_disks_join_generation(s->secondary.generation, errp);
}

/*
 * Ready to take over: the guest stands or, in hybrid mode, runs.  False with
 * @errp set if it could not be started.
 */
static bool secondary_ready(ColoSession *s, const char *why, Error **errp)
{
    BQL_LOCK_GUARD();

    if (!s->was_ready && !secondary_prepare_disks(s, errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    s->was_ready = true;
    if (s->mode == COLO_SYNC_MODE_PERIODIC) {
        colo_set_secondary(s, COLO_SECONDARY_STATE_STANDING, why);
        return true;
    }
    colo_set_secondary(s, COLO_SECONDARY_STATE_RUNNING, why);
    secondary_run_guest(s);
    return true;
}

/* Wait for the next checkpoint; answer pings.  @cut: its number */
static bool secondary_await_request(ColoSession *s, uint64_t cut, Error **errp)
{
    const char *stage = "a checkpoint";
    ColoFrame f;

    colo_wire_begin_wait(s->wire);
    for (;;) {
        if (colo_wish(s) != COLO_WISH_NONE) {
            s->cause = COLO_CAUSE_WISH;
            error_setg(errp, "asked to end the session");
            return false;
        }
        if (!colo_disks_ok(s, errp)) {
            return false;
        }
        switch (colo_wire_wait(s->wire, colo_now_ns() +
                               colo_timeout_ns(s))) {
        case COLO_WAIT_WOKEN:
            continue;
        case COLO_WAIT_DEADLINE:
            error_setg(errp, "waiting for %s: the peer was silent for %u ms",
                       stage, s->timeout_ms);
            return false;
        case COLO_WAIT_READABLE:
            break;
        }
        if (!colo_wire_next(s->wire, stage, &f, errp)) {
            return false;
        }
        if (f.type == COLO_FRAME_CHECKPOINT_REQUEST && f.epoch == cut) {
            return true;
        }
        if (f.type == COLO_FRAME_ALIVE) {
            continue;
        }
        if (f.type != COLO_FRAME_PING) {
            colo_read_end(s, &f, stage, errp);
            return false;
        }
        if (!colo_wire_send_buf(s->wire, COLO_FRAME_PONG, f.epoch, NULL, 0,
                                errp)) {
            return false;
        }
    }
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

/* Tell the primary */
static bool secondary_reply(ColoSession *s, uint64_t cut, Error **errp)
{
    g_autoptr(GByteArray) runs = g_byte_array_new();

    return secondary_collect(s, runs, errp) &&
           colo_wire_send_buf(s->wire, COLO_FRAME_CHECKPOINT_REPLY, cut,
                              runs->data, runs->len, errp);
}

/* The last frame of a checkpoint */
static bool secondary_receive_tail(ColoSession *s, const ColoFrame *f,
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
    if (tail->npages != colo_staging_count(s->staging)) {
        error_setg(errp, "'vmstate-size' announces %" PRIu64 " pages, "
                   "%" PRIu64 " have arrived", tail->npages,
                   colo_staging_count(s->staging));
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

/* Everything up to the commit.  On failure nothing has changed. */
static bool secondary_receive(ColoSession *s, uint64_t cut, ColoTail *tail,
                              ColoPageCount *count, Error **errp)
{
    g_autofree char *stage = g_strdup_printf("checkpoint %" PRIu64, cut);
    ColoFrame f;

    if (!secondary_expect(s, COLO_FRAME_VMSTATE_SEND, cut, stage, &f, errp)) {
        return false;
    }
    colo_set_secondary(s, COLO_SECONDARY_STATE_RECEIVING, "the primary sends");
    colo_pages_begin(s);
    g_byte_array_set_size(s->secondary.sections, 0);
    for (;;) {
        if (!secondary_recv(s, stage, &f, errp)) {
            return false;
        }
        if (f.epoch == cut && f.type == COLO_FRAME_PAGES) {
            if (!colo_pages_receive(s, &f, count, errp)) {
                return false;
            }
        } else if (f.epoch == cut && f.type == COLO_FRAME_HASHES &&
                   s->mode == COLO_SYNC_MODE_HYBRID) {
            if (!colo_pages_compare(s, &f, count, errp)) {
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
            return secondary_receive_tail(s, &f, tail, errp);
        } else {
            colo_read_end(s, &f, stage, errp);
            return false;
        }
    }
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

/* What the primary's guest saw at the cut, this one has to see now.  BQL. */
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

/* Reset, pages, devices: between two checkpoints.  BQL. */
static bool secondary_replace_guest(ColoSession *s, Error **errp)
{
    QEMUFile *f;
    int ret;

    /* One new view of memory for the reset as a whole, not one a device. */
    memory_region_transaction_begin();
    qemu_system_reset(SHUTDOWN_CAUSE_SNAPSHOT_LOAD);
    memory_region_transaction_commit();
    if (!colo_disks_load(errp)) {
        return false;
    }
    colo_ram_apply(s->ram, s->staging);

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

/* Put the staged checkpoint into place.  BQL. */
static bool secondary_load(ColoSession *s, const ColoTail *tail, Error **errp)
{
    bool ok;

    loading = true;
    ok = secondary_replace_guest(s, errp);
    loading = false;

    /* To listeners of the memory map this was one change, of nothing as a rule */
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

/* The RCU thread is here, so it has freed what that load left.  BQL. */
static void load_freed(LoadMark *mark)
{
    loads_unfreed--;
    qemu_cond_broadcast(&load_freed_cond);
    g_free(mark);
}

/*
 * Let the RCU thread keep up with the loads.  BQL (dropped meanwhile).
 *
 * While the guest stands: it waits for CPUs that run, and those may run on
 * without end.  If it waits for something else for a timeout the session goes
 * on: then a timeout leaves what one load does, which takes a while to fill
 * memory.
 */
static void secondary_reclaim(ColoSession *s)
{
    LoadMark *mark = g_new(LoadMark, 1);
    int64_t end_ns = colo_now_ns() + colo_timeout_ns(s);
    int64_t left_ns;

    loads_unfreed++;
    call_rcu(mark, load_freed, rcu);
    while (loads_unfreed > LOADS_UNFREED_MAX &&
           (left_ns = end_ns - colo_now_ns()) > 0) {
        qemu_cond_timedwait_bql(&load_freed_cond,
                                DIV_ROUND_UP(left_ns, SCALE_MS));
    }
}

/* A checkpoint on its way from the request to the load */
typedef struct Arrival {
    uint64_t cut;
    ColoTail tail;
    ColoPageCount pages;
    int64_t begin_ns;
} Arrival;

/* The commit has been sent: load, and take the figures down */
static bool secondary_load_and_count(ColoSession *s, Arrival *a, Error **errp)
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
    s->stats.checkpoints++;
    s->stats.pages += a->tail.npages;
    s->stats.zero_pages += a->pages.zero;
    s->stats.equal_pages += a->pages.equal;
    s->stats.bytes_sent = colo_wire_bytes_sent(s->wire);
    s->stats.bytes_received = colo_wire_bytes_received(s->wire);
    s->stats.staging_bytes = colo_staging_bytes(s->staging);
    s->stats.staging_peak = MAX(s->stats.staging_peak, s->stats.staging_bytes);
    trace_colo_loaded(a->cut, a->tail.npages, a->pages.zero, a->pages.equal,
                      a->tail.device_len, load_ns / SCALE_US);
    secondary_reclaim(s);
    return true;
}

/* All of it is here.  False with @errp set if it could not be loaded. */
static bool secondary_commit(ColoSession *s, uint64_t cut, Error **errp)
{
    BQL_LOCK_GUARD();

    if (!colo_sections_fit(s->secondary.sections->data,
                           s->secondary.sections->len,
                           s->device_state->data, s->device_state->usage,
                           errp) ||
        !colo_disks_prepare(errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    s->committed = cut;
    colo_set_secondary(s, COLO_SECONDARY_STATE_COMMITTED, "complete");
    return true;
}

static bool secondary_commit_and_load(ColoSession *s, Arrival *a,
                                      Error **errp)
{
    g_autoptr(Error) send_err = NULL;

    if (!secondary_commit(s, a->cut, errp)) {
        return false;
    }

    /* Whether or not the primary hears of it: this side has it */
    colo_wire_send_buf(s->wire, COLO_FRAME_VMSTATE_RECEIVED, a->cut, NULL, 0,
                       &send_err);
    if (!secondary_load_and_count(s, a, errp)) {
        return false;
    }
    colo_staging_reset(s->staging);
    if (!secondary_ready(s, "loaded", errp)) {
        return false;
    }
    if (send_err) {
        error_propagate(errp, g_steal_pointer(&send_err));
        return false;
    }
    if (!colo_wire_send_buf(s->wire, COLO_FRAME_VMSTATE_LOADED, a->cut, NULL, 0,
                            errp)) {
        return false;
    }
    colo_staging_shrink(s->staging);
    return true;
}

static bool secondary_checkpoint(ColoSession *s, Error **errp)
{
    Arrival a = { .cut = s->epoch + 1 };

    if (!secondary_await_request(s, a.cut, errp)) {
        return false;
    }
    a.begin_ns = colo_now_ns();
    if (!secondary_reply(s, a.cut, errp) ||
        !secondary_receive(s, a.cut, &a.tail, &a.pages, errp) ||
        !secondary_commit_and_load(s, &a, errp)) {
        return false;
    }
    return true;
}

static void secondary_follow(ColoSession *s, Error **errp)
{
    colo_begin_alive(s);
    if (!secondary_handshake(s, errp) ||
        !secondary_ready(s, "ready", errp)) {
        return;
    }
    while (secondary_checkpoint(s, errp)) {
        continue;
    }
}

/* The guest goes on where it stood; maybe it was about to be reset.  BQL. */
static void secondary_resume(ColoSession *s)
{
    if (s->secondary.deferred_reset) {
        qemu_system_reset_request(s->secondary.deferred_reset);
        s->secondary.deferred_reset = SHUTDOWN_CAUSE_NONE;
    }
    colo_start_guest();
}

/* The peer is lost, as @err says.  BQL. */
static void secondary_lose(ColoSession *s, const Error *err)
{
    colo_set_secondary(s, COLO_SECONDARY_STATE_LOST, error_get_pretty(err));
    if (s->mode == COLO_SYNC_MODE_HYBRID && s->was_ready &&
        s->secondary.run_state == COLO_RUN_RUNNING &&
        !s->secondary.deferred_shutdown &&
        runstate_check(RUN_STATE_COLO)) {
        /* It stood for a checkpoint that will not come */
        secondary_resume(s);
    }
}

/*
 * Wait until this side is told to go live, which @asked says it has been, and
 * may.  Returns false if QEMU exits.  BQL.
 */
static bool secondary_decide(ColoSession *s, const Error *err, bool asked)
{
    g_autoptr(Error) refused = NULL;

    while (true) {
        if (!asked) {
            if (s->secondary.state != COLO_SECONDARY_STATE_LOST) {
                secondary_lose(s, refused ? refused : err);
            }
            colo_await_decision(s, refused ? refused : err);
            if (colo_wish(s) != COLO_WISH_FAILOVER) {
                return false;
            }
        }
        g_clear_pointer(&refused, error_free);
        if (colo_disks_take_over(&refused)) {
            colo_status_add("x-colo-lost-heartbeat: this side goes on");
            return true;
        }
        colo_status_say("%s", error_get_pretty(refused));
        colo_refuse_failover(s);
        asked = false;
    }
}

/* Decide what comes after the session.  The new state is LIVE or ENDED. */
static void secondary_finish(ColoSession *s, Error *err)
{
    g_autoptr(Error) bye_err = NULL;
    bool failover = colo_wish(s) == COLO_WISH_FAILOVER;

    if (s->cause == COLO_CAUSE_LOCAL) {
        /* Half a checkpoint may be in place: this side must not go live */
        error_report("COLO secondary: %s", error_get_pretty(err));
        colo_finish_begin(s, err);
        colo_set_secondary(s, COLO_SECONDARY_STATE_ENDING,
                           error_get_pretty(err));
        colo_say_error(s, err);
        colo_set_secondary(s, COLO_SECONDARY_STATE_ENDED, "cannot go on");
        return;
    }
    if (!failover && s->cause == COLO_CAUSE_WISH) {
        colo_finish_begin(s, err);
        colo_set_secondary(s, COLO_SECONDARY_STATE_ENDING,
                  colo_bye_reason_str(s->end_reason));
        if (colo_say_bye(s, s->end_reason, &bye_err)) {
            colo_set_secondary(s, COLO_SECONDARY_STATE_ENDED,
                               "the peer agreed");
            return;
        }
        err = bye_err;
        failover = colo_wish(s) == COLO_WISH_FAILOVER;
    }

    BQL_LOCK_GUARD();
    if (!failover || colo_peer_is_out(s)) {
        colo_status_say("%s", error_get_pretty(err));
    }
    if (colo_peer_is_out(s)) {
        error_report("COLO secondary: %s", error_get_pretty(err));
        colo_set_secondary(s, COLO_SECONDARY_STATE_ENDED,
                           "the primary is done");
        return;
    }
    if (!s->was_ready && colo_disks_exist()) {
        /* They lack what had not arrived, and take no writes */
        error_report("COLO secondary: the primary was lost before the disks "
                     "were ready, this side cannot take over: %s",
                     error_get_pretty(err));
        colo_set_secondary(s, COLO_SECONDARY_STATE_ENDED, "never ready");
        return;
    }
    failover = secondary_decide(s, err, failover);
    colo_set_secondary(s, failover ? COLO_SECONDARY_STATE_LIVE
                                   : COLO_SECONDARY_STATE_ENDED,
                       failover ? "failover" : "QEMU exits");
}

/*
 * Main loop, after the session's thread: the service was never here.  Leave the
 * guest so that nobody starts it, here or where it would be migrated to.
 */
static void secondary_retire(void)
{
    Error *reason = NULL;

    if (runstate_is_live(runstate_get())) {
        vm_stop(RUN_STATE_COLO);
    }
    secondary_forget_stop();
    runstate_set(RUN_STATE_SHUTDOWN);
    error_setg(&reason, "this was a COLO secondary and has ended: its guest "
               "is out of date");
    migrate_add_blocker_internal(&reason, &error_abort);
}

/* Main loop, after the session's thread: become the service */
static void secondary_go_live(ColoSession *s, MigrationIncomingState *mis)
{
    Error *err = NULL;

    if (s->secondary.deferred_shutdown) {
        /* Maybe just now: then it is about to be stopped */
        if (runstate_check(RUN_STATE_COLO)) {
            runstate_set(RUN_STATE_SHUTDOWN);
        }
        qemu_system_shutdown_request(s->secondary.deferred_shutdown);
    } else if (!runstate_check(RUN_STATE_COLO)) {
        /* Hybrid mode: it runs, or stopped in a way of its own */
        qemu_announce_self(&mis->announce_timer, migrate_announce_params());
    } else if (s->secondary.run_state == COLO_RUN_SHUTDOWN) {
        runstate_set(RUN_STATE_SHUTDOWN);
    } else if (!migration_block_activate(&err)) {
        error_reportf_err(err, "COLO secondary: cannot take over the disks: ");
        runstate_set(RUN_STATE_PAUSED);
    } else if (s->secondary.run_state == COLO_RUN_RUNNING) {
        secondary_resume(s);
        qemu_announce_self(&mis->announce_timer, migrate_announce_params());
    } else {
        runstate_set(RUN_STATE_PAUSED);
        qemu_announce_self(&mis->announce_timer, migrate_announce_params());
    }
}

static void secondary_end_bh(void *opaque)
{
    ColoSession *s = opaque;
    MigrationIncomingState *mis = migration_incoming_get_current();
    bool live = s->secondary.state == COLO_SECONDARY_STATE_LIVE;
    bool in_order = s->cause == COLO_CAUSE_WISH ||
                    s->cause == COLO_CAUSE_PEER_BYE;
    bool asked = in_order || live; /* nobody goes live unasked */

    if (colo_exiting()) {
        return;
    }
    colo_ram_dirty_log_end();
    multifd_recv_shutdown();
    colo_disks_stop(live);
    colo_session_over(s);

    colo_participants_stand(false);
    if (live) {
        colo_participants_open();
        secondary_go_live(s, mis);
    }
    migrate_set_state(&mis->state, MIGRATION_STATUS_COLO,
                      live ? MIGRATION_STATUS_COMPLETED :
                      in_order ? MIGRATION_STATUS_CANCELLED
                               : MIGRATION_STATUS_FAILED);
    if (!live) {
        secondary_retire();
    }
    colo_report_exit(s, asked ? COLO_EXIT_REASON_REQUEST
                              : COLO_EXIT_REASON_ERROR);
    migration_incoming_disable_colo();
    migration_incoming_state_destroy();
}

static void *secondary_thread(void *opaque)
{
    ColoSession *s = opaque;
    g_autoptr(Error) err = NULL;

    rcu_register_thread();
    secondary_follow(s, &err);
    secondary_finish(s, err);
    bql_lock();
    qemu_cond_broadcast(&s->cond);
    /* When QEMU ends there may be no migration object any more */
    if (!colo_exiting()) {
        migration_bh_schedule(secondary_end_bh, s);
    }
    bql_unlock();
    rcu_unregister_thread();
    return NULL;
}

void colo_incoming_start(void)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    ColoSession *s;
    QemuThread thread;

    assert(bql_locked());
    if (colo_exiting()) {
        /* The primary was never told that this side is there, and goes on */
        return;
    }
    watch_no_more();
    s = colo_session_new(COLO_MODE_SECONDARY,
                         qemu_file_get_ioc(mis->from_src_file));
    s->secondary.sections = g_byte_array_new();
    /* Without global state in the stream it is not known: assume it runs */
    s->secondary.run_state = !global_state_received() ||
                   runstate_is_live(global_state_get_runstate())
                   ? COLO_RUN_RUNNING : COLO_RUN_PAUSED;
    migrate_set_state(&mis->state, MIGRATION_STATUS_ACTIVE,
                      MIGRATION_STATUS_COLO);
    runstate_set(RUN_STATE_COLO);
    colo_participants_stand(true);
    colo_set_secondary(s, COLO_SECONDARY_STATE_STARTING,
                       "first migration loaded");
    qemu_thread_create(&thread, MIGRATION_THREAD_DST_COLO, secondary_thread,
                       s, QEMU_THREAD_DETACHED);
}
