/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the replicated disks of a session, both sides.
 *
 * Between the session's thread and block/replication*.c, which do the work.
 * Epochs are numbered from 1 there: what the guest writes after cut n belongs
 * to n + 1.
 *
 * A failure of a disk comes from any thread; it is noted, and the session's
 * thread, which may be asleep, is woken and ends the session.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/memalign.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qapi/qapi-events-colo.h"
#include <xxhash.h>
#include "block/block.h"
#include "block/replication.h"
#include "hw/block/flash.h"
#include "hw/qdev-core.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "system/block-backend.h"
#include "disks.h"
#include "peer.h"
#include "progress.h"
#include "requests.h"

/* While waiting for disks, speak this often within the timeout */
#define SLICES_PER_TIMEOUT  3

/* The log of the primary may be long, and the other disk slow */
#define SETTLE_TIMEOUTS     12
/* How often a wish of the user is looked for meanwhile */
#define SETTLE_LOOK_MS      20

/* The guest stands so long for samples of its disks, if that is enough */
#define SAMPLE_MS           100

/* What is read at a time to compare disks, bytes */
#define HASH_CHUNK          MiB

static QemuMutex lock;
/* lock */
static ColoWire *wire;              /* of the session, or NULL */
static char *failure;               /* what failed first, or NULL */

/* BQL */
static bool started;
static bool joined;                 /* the disks are of its generation */

static void __attribute__((constructor)) disks_init(void)
{
    qemu_mutex_init(&lock);
}

static bool is_flash(Object *dev)
{
    return object_dynamic_cast(dev, TYPE_PFLASH_CFI01) ||
           object_dynamic_cast(dev, TYPE_PFLASH_CFI02);
}

static bool is_guest_disk(BlockBackend *blk)
{
    DeviceState *dev = blk_get_attached_dev(blk);

    return dev && blk_bs(blk) && blk_supports_write_perm(blk) &&
           !is_flash(OBJECT(dev));
}

BlockBackend *colo_disk_next(BlockBackend *blk)
{
    /* Not only those with a name: -blockdev disks have none */
    do {
        blk = blk_all_next(blk);
    } while (blk && !is_guest_disk(blk));
    return blk;
}

char *colo_disk_name(BlockBackend *blk)
{
    if (*blk_name(blk)) {
        return g_strdup(blk_name(blk));
    }
    /* The ID may be that of the device around this one, as with virtio */
    for (Object *o = OBJECT(blk_get_attached_dev(blk)); o; o = o->parent) {
        DeviceState *dev = (DeviceState *)object_dynamic_cast(o, TYPE_DEVICE);

        if (dev && dev->id) {
            return g_strdup(dev->id);
        }
    }
    /* A name that QEMU has made up tells nobody anything */
    if (blk_bs(blk) && *bdrv_get_node_name(blk_bs(blk)) != '#') {
        return g_strdup(bdrv_get_node_name(blk_bs(blk)));
    }
    return blk_get_attached_dev_id(blk);
}

/* From the first migration on */
static bool pair_exists(void)
{
    MigrationIncomingState *mis = migration_incoming_get_current();

    return migration_in_colo_state() || migration_incoming_in_colo_state() ||
           (migrate_colo() && (migration_is_running() ||
                               mis->state == MIGRATION_STATUS_ACTIVE));
}

bool colo_medium_refused(BlockBackend *blk, Error **errp)
{
    g_autofree char *name = NULL;

    if (!blk_get_attached_dev(blk) || !pair_exists()) {
        return false;
    }
    name = colo_disk_name(blk);
    error_setg(errp, "the medium of '%s' cannot be changed while a COLO pair "
               "exists: the other side would keep its own", name);
    return true;
}

static void note_failure(const Error *err)
{
    QEMU_LOCK_GUARD(&lock);
    if (!failure) {
        failure = g_strdup(error_get_pretty(err));
    }
}

static void disk_failed(void *opaque, const char *node, const Error *err)
{
    note_failure(err);
    QEMU_LOCK_GUARD(&lock);
    if (wire) {
        colo_wire_wake(wire);
    }
}

bool colo_disks_exist(void)
{
    return replication_exists();
}

bool colo_disks_generation(uint64_t *number, Error **errp)
{
    bool kept;

    return replication_generation_all(&kept, number, errp);
}

/* False with @errp set if disks of generation @peer may not follow ours */
static bool check_generation(uint64_t peer, uint64_t number, Error **errp)
{
    if (peer > number) {
        error_setg(errp, "the disks of the secondary are newer, of "
                   "generation %" PRIu64 ", ours are of %" PRIu64
                   ": its guest went on without ours, start that one as the "
                   "primary", peer, number);
        return false;
    }
    /* With equal numbers, too, it lacks what was written in the end */
    if (peer && !replication_resynced_all()) {
        error_setg(errp, "the disks of the secondary are of generation "
                   "%" PRIu64 ", ours of %" PRIu64 ", and no resync has "
                   "brought them up to date: use x-colo-resync, or if they "
                   "have been copied in another way remove the secondary's "
                   "generation-file", peer, number);
        return false;
    }
    return true;
}

bool colo_disks_check_generation(uint64_t peer, Error **errp)
{
    ERRP_GUARD();
    uint64_t number;
    bool kept, ok;

    BQL_LOCK_GUARD();
    /* Also if no disk here keeps one: then it is 0, and theirs have been used */
    ok = replication_generation_all(&kept, &number, errp) &&
         check_generation(peer, number, errp);
    if (!ok) {
        note_failure(*errp);
    }
    return ok;
}

bool colo_disks_new_generation(uint64_t *number, Error **errp)
{
    ERRP_GUARD();
    bool kept, ok;

    BQL_LOCK_GUARD();
    ok = replication_generation_all(&kept, number, errp);
    if (ok && kept) {
        *number = *number + 1;
        ok = replication_record_all(*number, COLO_DISK_ROLE_PRIMARY, errp);
    }
    if (!ok) {
        note_failure(*errp);
    }
    joined = ok;
    return ok;
}

bool colo_disks_join_generation(uint64_t number, Error **errp)
{
    joined = !number || replication_record_all(number,
                                               COLO_DISK_ROLE_SECONDARY, errp);
    return joined;
}

/*
 * The guest is about to go on here, and only here.  Not after a session that
 * has not begun, or a stale disk would get newer with each attempt.
 */
static void record_alone(void)
{
    Error *err = NULL;
    uint64_t number;
    bool kept;

    if (!replication_generation_all(&kept, &number, &err) ||
        (kept && !replication_record_all(number + 1, COLO_DISK_ROLE_ALONE,
                                         &err))) {
        error_reportf_err(err, "COLO: after a crash it is not known that the "
                          "disks of this side are newer: ");
    }
}

static ReplicationMode replication_mode(COLOMode side)
{
    return side == COLO_MODE_PRIMARY ? REPLICATION_MODE_PRIMARY
                                     : REPLICATION_MODE_SECONDARY;
}

static bool check_disk(BlockBackend *blk, COLOMode side, Error **errp)
{
    g_autofree char *name = colo_disk_name(blk);

    if (!replication_check_covered(blk_bs(blk), replication_mode(side),
                                   errp)) {
        error_prepend(errp, "disk '%s' is not replicated: ", name);
        return false;
    }
    return side == COLO_MODE_SECONDARY ||
           replication_check_order(blk_bs(blk), errp);
}

bool colo_disks_can_begin(COLOMode side, Error **errp)
{
    ERRP_GUARD();

    replication_check_all(replication_mode(side), errp);
    for (BlockBackend *blk = colo_disk_next(NULL); blk && !*errp;
         blk = colo_disk_next(blk)) {
        check_disk(blk, side, errp);
    }
    return !*errp;
}

bool colo_disks_check(COLOMode side, Error **errp)
{
    ERRP_GUARD();

    if (!colo_disks_can_begin(side, errp)) {
        qapi_event_send_colo_disk_error(error_get_pretty(*errp));
    }
    return !*errp;
}

/*
 * The longest time for samples, ms.  It ends before the first ping is due: the
 * peer has not said yet that it is there.
 */
static int64_t sample_limit_ms(ColoSession *s)
{
    return MIN(s->max_pause_ms, s->timeout_ms / SLICES_PER_TIMEOUT);
}

/* Begin to read what the secondary's disks should have, too */
static bool begin_samples(ColoSession *s, Error **errp)
{
    ERRP_GUARD();
    int64_t budget_ms = MIN(SAMPLE_MS, sample_limit_ms(s) / 2);

    for (BlockBackend *blk = colo_disk_next(NULL); blk;
         blk = colo_disk_next(blk)) {
        g_autofree char *name = colo_disk_name(blk);

        if (!replication_sample(blk, name, budget_ms, errp)) {
            note_failure(*errp);
            return false;
        }
    }
    return true;
}

bool colo_disks_start(ColoSession *s, Error **errp)
{
    ERRP_GUARD();

    WITH_QEMU_LOCK_GUARD(&lock) {
        wire = s->wire;
        g_clear_pointer(&failure, g_free);
    }
    started = true;
    joined = false;
    replication_on_error(disk_failed, NULL);
    replication_set_early_output(s->mode == COLO_SYNC_MODE_HYBRID);
    replication_guest_stands_all(s->mode == COLO_SYNC_MODE_PERIODIC);
    replication_on_change(colo_problems_changed);
    replication_on_growth(colo_request_checkpoint_monitor);
    replication_start_all(replication_mode(s->side), errp);
    if (*errp) {
        /* Who ends the session stops what had started */
        note_failure(*errp);
        return false;
    }
    if (s->side == COLO_MODE_PRIMARY) {
        colo_disks_cut(0);
        return begin_samples(s, errp);
    }
    return true;
}

bool colo_disks_ok(ColoSession *s, Error **errp)
{
    QEMU_LOCK_GUARD(&lock);
    if (failure) {
        s->cause = COLO_CAUSE_LOCAL;
        error_setg(errp, "disk: %s", failure);
    }
    return !failure;
}

bool colo_disks_are_complete(void)
{
    BQL_LOCK_GUARD();
    return replication_complete_all();
}

void colo_disks_cut(uint64_t cut)
{
    for (BlockBackend *blk = colo_disk_next(NULL); blk;
         blk = colo_disk_next(blk)) {
        replication_reach(blk_bs(blk), cut + 1);
    }
    replication_cut_all(cut + 1);
}

void colo_disks_allow(uint64_t cut)
{
    replication_allow_all(cut + 1);
}

/* Something that is waited for in slices, ms; false with @errp: not yet */
typedef bool WaitFunc(uint64_t timeout_ms, Error **errp);

/*
 * Wait for @fn for @limit_ms at most, and tell the peer meanwhile that this side
 * is well
 */
static bool wait_for(WaitFunc *fn, ColoSession *s, uint64_t cut,
                     int64_t limit_ms, Error **errp)
{
    int64_t now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    int64_t end = now + limit_ms;
    int64_t slice = s->timeout_ms / SLICES_PER_TIMEOUT;
    int64_t next_ping = now + slice;

    while (true) {
        g_autoptr(Error) err = NULL;

        if (fn(MIN(slice, SETTLE_LOOK_MS), &err)) {
            return true;
        }
        if (!colo_disks_ok(s, errp)) {
            return false;
        }
        if (colo_goes_on(s)) {
            s->cause = COLO_CAUSE_WISH;
            error_setg(errp, "asked to end the session");
            return false;
        }
        now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
        if (now >= end) {
            s->cause = COLO_CAUSE_LOCAL;
            error_prepend(&err, "after %" PRId64 " ms ", limit_ms);
            note_failure(err);
            error_propagate_prepend(errp, g_steal_pointer(&err), "disk: ");
            return false;
        }
        if (now < next_ping) {
            continue;
        }
        next_ping = now + slice;
        if (!colo_wire_send_buf(s->wire, COLO_FRAME_PING, cut, NULL, 0,
                                errp)) {
            return false;
        }
    }
}

static int64_t settle_limit_ms(ColoSession *s)
{
    return (int64_t)s->timeout_ms * SETTLE_TIMEOUTS;
}

bool colo_disks_sample(ColoSession *s, Error **errp)
{
    return wait_for(replication_sampled_all, s, 0, sample_limit_ms(s), errp);
}

bool colo_disks_settle(ColoSession *s, uint64_t cut, Error **errp)
{
    return wait_for(replication_settle_all, s, cut, settle_limit_ms(s), errp);
}

bool colo_disks_compare(ColoSession *s, Error **errp)
{
    return wait_for(replication_compare_all, s, 0, settle_limit_ms(s), errp);
}

bool colo_disks_prepare(Error **errp)
{
    ERRP_GUARD();

    replication_prepare_all(errp);
    return !*errp;
}

/*
 * An overlay whose file hangs makes nobody wait: a primary that lives is told,
 * and goes on alone.  Without one this side has all that was let out, and waits.
 * No BQL.
 */
static bool await_emptied(ColoSession *s, Error **errp)
{
    int64_t end = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + s->timeout_ms;

    while (true) {
        g_autoptr(Error) err = NULL;

        if (replication_emptied_all(SETTLE_LOOK_MS, &err)) {
            return true;
        }
        if (colo_exiting() && colo_wire_cancelled(s->wire)) {
            /* QEMU exits, with the BQL held from now on */
            s->cause = COLO_CAUSE_LOCAL;
            error_propagate(errp, g_steal_pointer(&err));
            return false;
        }
        if (qemu_clock_get_ms(QEMU_CLOCK_REALTIME) < end) {
            continue;
        }
        if (colo_hears_peer(s, NULL)) {
            s->cause = COLO_CAUSE_LOCAL;
            error_prepend(&err, "after %" PRIu32 " ms ", s->timeout_ms);
            note_failure(err);
            error_propagate_prepend(errp, g_steal_pointer(&err), "disk: ");
            return false;
        }
        end += s->timeout_ms;
    }
}

bool colo_disks_load(ColoSession *s, Error **errp)
{
    ERRP_GUARD();
    bool ok;

    replication_begin_checkpoint_all(errp);
    bql_unlock();
    ok = await_emptied(s, *errp ? NULL : errp);
    bql_lock();
    return ok && !*errp;
}

void colo_disks_begin_end(void)
{
    BQL_LOCK_GUARD();
    if (started && !colo_exiting()) {
        replication_begin_stop_all(NULL);
    }
}

void colo_disks_await_load(void)
{
    while (!colo_exiting() && !replication_emptied_all(SETTLE_LOOK_MS, NULL)) {
        continue;
    }
}

/* @hash: what came before, and then that with this disk */
static bool hash_disk(BlockBackend *blk, uint64_t *hash, Error **errp)
{
    int64_t length = blk_getlength(blk);
    uint8_t *buf = blk_blockalign(blk, HASH_CHUNK);
    int ret = MIN(length, 0);

    for (int64_t offset = 0; ret >= 0 && offset < length;
         offset += HASH_CHUNK) {
        int64_t bytes = MIN(length - offset, HASH_CHUNK);

        ret = blk_pread(blk, offset, bytes, buf, 0);
        *hash = XXH3_64bits_withSeed(buf, bytes, *hash);
        colo_progress();
    }
    qemu_vfree(buf);
    if (ret < 0) {
        g_autofree char *name = colo_disk_name(blk);

        error_setg_errno(errp, -ret, "cannot read disk '%s'", name);
    }
    return ret >= 0;
}

uint32_t colo_disks_hash(void)
{
    uint64_t all = 0;

    for (BlockBackend *blk = colo_disk_next(NULL); blk;
         blk = colo_disk_next(blk)) {
        Error *err = NULL;
        uint64_t hash = 0;

        if (!replication_runs(blk_bs(blk))) {
            continue;
        }
        if (!hash_disk(blk, &hash, &err)) {
            error_reportf_err(err, "COLO: ");
            return 0;
        }
        all += hash; /* the other side may have them in another order */
    }
    return all ^ all >> 32;
}

void colo_disks_abandon(void)
{
    replication_abandon_all();
}

bool colo_disks_take_over(Error **errp)
{
    ERRP_GUARD();

    replication_take_over_all(errp);
    return !*errp;
}

void colo_disks_forget_failure(void)
{
    QEMU_LOCK_GUARD(&lock);
    g_clear_pointer(&failure, g_free);
}

/* Emit what failed, if anything did: the user has to mend it */
static void report_failure(void)
{
    QEMU_LOCK_GUARD(&lock);
    if (failure) {
        qapi_event_send_colo_disk_error(failure);
        g_clear_pointer(&failure, g_free);
    }
    wire = NULL;
}

void colo_disks_stop(bool failover)
{
    Error *err = NULL;

    if (!started) {
        return;
    }
    started = false;
    report_failure();
    replication_stop_all(failover, &err);
    /* What fails from here on is of no session */
    replication_on_error(NULL, NULL);
    replication_on_change(NULL);
    replication_on_growth(NULL);
    if (failover && joined) {
        record_alone();
    }
    if (err) {
        error_reportf_err(err, "COLO: disk: ");
    }
}
