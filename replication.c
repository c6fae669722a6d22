/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the registry of drivers that follow checkpoints, both sides.
 *
 * The list changes under the BQL and the lock; who has either may walk it.
 * A thread without the BQL counts itself as a user of the driver it calls,
 * without the lock held, and replication_remove() waits for users.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-migration.h"
#include "qapi/qapi-events-colo.h"
#include "qapi/util.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "block/replication.h"

static QLIST_HEAD(, ReplicationState) drivers =
    QLIST_HEAD_INITIALIZER(drivers);

/* Protects the list, users, going */
static QemuMutex drivers_lock;
static QemuCond drivers_unused;

/* Held while one of the functions below runs */
static QemuMutex error_lock;
static ReplicationErrorFunc *error_fn;
static void *error_opaque;
static ReplicationChangeFunc *change_fn;
static ReplicationChangeFunc *growth_fn;

/* See replication_set_early_output(); atomic */
static bool early_output = true;

static void __attribute__((__constructor__)) replication_init_locks(void)
{
    qemu_mutex_init(&drivers_lock);
    qemu_cond_init(&drivers_unused);
    qemu_mutex_init(&error_lock);
}

ReplicationState *replication_new(void *opaque, ReplicationOps *ops)
{
    ReplicationState *rs = g_new0(ReplicationState, 1);

    assert(ops);
    rs->opaque = opaque;
    rs->ops = ops;
    QEMU_LOCK_GUARD(&drivers_lock);
    QLIST_INSERT_HEAD(&drivers, rs, next);
    return rs;
}

void replication_remove(ReplicationState *rs)
{
    if (!rs) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&drivers_lock) {
        rs->going = true;
        while (rs->users) {
            qemu_cond_wait(&drivers_unused, &drivers_lock);
        }
        QLIST_REMOVE(rs, next);
    }
    g_free(rs);
}

/*
 * The driver after @rs, or the first; the caller becomes its user and is none
 * of @rs any more.  Any thread.
 */
static ReplicationState *next_in_use(ReplicationState *rs)
{
    ReplicationState *next;

    QEMU_LOCK_GUARD(&drivers_lock);
    next = rs ? QLIST_NEXT(rs, next) : QLIST_FIRST(&drivers);
    while (next && next->going) {
        next = QLIST_NEXT(next, next);
    }
    if (next) {
        next->users++;
    }
    if (rs && !--rs->users) {
        qemu_cond_broadcast(&drivers_unused);
    }
    return next;
}

static void end_use(ReplicationState *rs)
{
    QEMU_LOCK_GUARD(&drivers_lock);
    if (!--rs->users) {
        qemu_cond_broadcast(&drivers_unused);
    }
}

/* Calls drivers->ops->@op, if there is one, until one reports an error */
#define CALL_ALL(errp, op, ...)                             \
    do {                                                    \
        ERRP_GUARD();                                       \
        ReplicationState *rs_, *next_;                      \
                                                            \
        QLIST_FOREACH_SAFE(rs_, &drivers, next, next_) {    \
            if (rs_->ops->op) {                             \
                rs_->ops->op(rs_, ## __VA_ARGS__, errp);    \
            }                                               \
            if (*errp) {                                    \
                return;                                     \
            }                                               \
        }                                                   \
    } while (0)

void replication_check_all(ReplicationMode mode, Error **errp)
{
    CALL_ALL(errp, check, mode);
}

void replication_problems(ReplicationMode mode, ReplicationProblemFunc *fn,
                          void *opaque)
{
    ReplicationState *rs;

    QLIST_FOREACH(rs, &drivers, next) {
        g_autoptr(Error) err = NULL;
        const char *name = rs->ops->problem ? rs->ops->problem(rs, mode, &err)
                                            : NULL;

        if (err) {
            fn(opaque, name, error_get_pretty(err));
        }
    }
}

void replication_assumptions(ReplicationMode mode, ReplicationProblemFunc *fn,
                             void *opaque)
{
    ReplicationState *rs;

    QLIST_FOREACH(rs, &drivers, next) {
        g_autoptr(Error) err = NULL;
        const char *name = rs->ops->assumed ? rs->ops->assumed(rs, mode, &err)
                                            : NULL;

        if (err) {
            fn(opaque, name, error_get_pretty(err));
        }
    }
}

static void start_all(ReplicationMode mode, Error **errp)
{
    CALL_ALL(errp, start, mode);
}

void replication_guest_stands_all(bool stands)
{
    ReplicationState *rs;

    QLIST_FOREACH(rs, &drivers, next) {
        if (rs->ops->guest_stands) {
            rs->ops->guest_stands(rs, stands);
        }
    }
}

void replication_start_all(ReplicationMode mode, Error **errp)
{
    ERRP_GUARD();

    replication_check_all(mode, errp);
    if (!*errp) {
        start_all(mode, errp);
    }
}

void replication_set_early_output(bool early)
{
    qatomic_set(&early_output, early);
}

bool replication_has_early_output(void)
{
    return qatomic_read(&early_output);
}

void replication_do_checkpoint_all(Error **errp)
{
    CALL_ALL(errp, checkpoint);
}

void replication_begin_checkpoint_all(Error **errp)
{
    CALL_ALL(errp, begin_checkpoint);
}

void replication_begin_stop_all(Error **errp)
{
    CALL_ALL(errp, begin_stop);
}

void replication_get_error_all(Error **errp)
{
    CALL_ALL(errp, get_error);
}

void replication_stop_all(bool failover, Error **errp)
{
    ReplicationState *rs, *next;
    Error *first = NULL;

    QLIST_FOREACH_SAFE(rs, &drivers, next, next) {
        if (rs->ops->stop) {
            rs->ops->stop(rs, failover, first ? NULL : &first);
        }
    }
    error_propagate(errp, first);
}

void replication_cut_all(uint64_t epoch)
{
    ReplicationState *rs;

    QLIST_FOREACH(rs, &drivers, next) {
        if (rs->ops->cut) {
            rs->ops->cut(rs, epoch);
        }
    }
}

/* Wait for the call at @op of ReplicationOps of every driver, if it has that */
static bool wait_all(size_t op, uint64_t timeout_ms, Error **errp)
{
    int64_t begin = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    ReplicationState *rs = NULL;

    while ((rs = next_in_use(rs))) {
        ReplicationSettle *call = *(ReplicationSettle **)((char *)rs->ops + op);
        uint64_t gone = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) - begin;

        if (call && !call(rs, timeout_ms - MIN(gone, timeout_ms), errp)) {
            end_use(rs);
            return false;
        }
    }
    return true;
}

bool replication_settle_all(uint64_t timeout_ms, Error **errp)
{
    return wait_all(offsetof(ReplicationOps, settle), timeout_ms, errp);
}

bool replication_sampled_all(uint64_t timeout_ms, Error **errp)
{
    return wait_all(offsetof(ReplicationOps, sampled), timeout_ms, errp);
}

bool replication_emptied_all(uint64_t timeout_ms, Error **errp)
{
    return wait_all(offsetof(ReplicationOps, emptied), timeout_ms, errp);
}

bool replication_compare_all(uint64_t timeout_ms, Error **errp)
{
    return wait_all(offsetof(ReplicationOps, compare), timeout_ms, errp);
}

void replication_allow_all(uint64_t epoch)
{
    ReplicationState *rs = NULL;

    while ((rs = next_in_use(rs))) {
        if (rs->ops->allow) {
            rs->ops->allow(rs, epoch);
        }
    }
}

void replication_prepare_all(Error **errp)
{
    CALL_ALL(errp, prepare);
}

void replication_abandon_all(void)
{
    ReplicationState *rs, *next;

    QLIST_FOREACH_SAFE(rs, &drivers, next, next) {
        if (rs->ops->abandon) {
            rs->ops->abandon(rs);
        }
    }
}

bool replication_generation_all(bool *has_generations, uint64_t *number,
                                Error **errp)
{
    ReplicationState *rs;

    *has_generations = false;
    *number = 0;
    QLIST_FOREACH(rs, &drivers, next) {
        uint64_t own = 0;

        if (!rs->ops->generation) {
            continue;
        }
        if (!rs->ops->generation(rs, has_generations, &own, errp)) {
            return false;
        }
        *number = MAX(*number, own);
    }
    return true;
}

bool replication_complete_all(void)
{
    ReplicationState *rs;

    QLIST_FOREACH(rs, &drivers, next) {
        if (rs->ops->is_complete && !rs->ops->is_complete(rs)) {
            return false;
        }
    }
    return true;
}

bool replication_resynced_all(void)
{
    ReplicationState *rs;

    QLIST_FOREACH(rs, &drivers, next) {
        if (rs->ops->is_resynced && !rs->ops->is_resynced(rs)) {
            return false;
        }
    }
    return true;
}

bool replication_record_all(uint64_t number, ColoDiskRole role, Error **errp)
{
    ReplicationState *rs;
    Error *first = NULL;

    /*
     * Newest first: of two nodes with one file, that of an old secondary and
     * the one that replicates it, the first knows of overlays
     */
    QLIST_FOREACH(rs, &drivers, next) {
        if (rs->ops->record) {
            rs->ops->record(rs, number, role, first ? NULL : &first);
        }
    }
    if (first) {
        error_propagate(errp, first);
    }
    return !first;
}

void replication_take_over_all(Error **errp)
{
    CALL_ALL(errp, take_over);
}

ColoDiskStatisticsList *replication_query_all(void)
{
    ColoDiskStatisticsList *list = NULL;
    ReplicationState *rs;

    QLIST_FOREACH(rs, &drivers, next) {
        if (rs->ops->query) {
            QAPI_LIST_PREPEND(list, rs->ops->query(rs));
        }
    }
    return list;
}

void replication_on_error(ReplicationErrorFunc *fn, void *opaque)
{
    QEMU_LOCK_GUARD(&error_lock);
    error_fn = fn;
    error_opaque = opaque;
}

void replication_on_change(ReplicationChangeFunc *fn)
{
    QEMU_LOCK_GUARD(&error_lock);
    change_fn = fn;
}

void replication_on_growth(ReplicationChangeFunc *fn)
{
    QEMU_LOCK_GUARD(&error_lock);
    growth_fn = fn;
}

void replication_disk_grown(void)
{
    QEMU_LOCK_GUARD(&error_lock);
    if (growth_fn) {
        growth_fn();
    }
}

void replication_problems_changed(void)
{
    QEMU_LOCK_GUARD(&error_lock);
    if (change_fn) {
        change_fn();
    }
}

bool replication_in_session(void)
{
    /* It listens to errors from its beginning to its end */
    QEMU_LOCK_GUARD(&error_lock);
    return error_fn != NULL;
}

bool replication_exists(void)
{
    return !QLIST_EMPTY(&drivers);
}

void replication_report_error(const char *node, const Error *err)
{
    QEMU_LOCK_GUARD(&error_lock);
    if (error_fn) {
        error_fn(error_opaque, node, err);
    } else {
        qapi_event_send_colo_disk_error(error_get_pretty(err));
    }
}

/* Monitor: Xen's toolstack drives replication itself.  BQL. */

/* A COLO session does it */
static bool session_drives(const char *command, Error **errp)
{
    if (!replication_in_session()) {
        return false;
    }
    error_setg(errp, "'%s' is not possible: a COLO session drives "
               "replication", command);
    return true;
}

/* All of them or none; of a session, its end stops what had started */
static void enable_all(ReplicationMode mode, Error **errp)
{
    ERRP_GUARD();
    Error *err = NULL;

    replication_check_all(mode, errp);
    if (*errp) {
        return; /* some may run already */
    }
    replication_guest_stands_all(false);
    replication_start_all(mode, errp);
    if (*errp) {
        replication_stop_all(false, &err);
        error_free(err);
    }
}

void qmp_xen_set_replication(bool enable, bool primary, bool has_failover,
                             bool failover, Error **errp)
{
    if (session_drives("xen-set-replication", errp)) {
        return;
    }
    if (enable && has_failover) {
        error_setg(errp, "'failover' says how to disable replication, it "
                   "makes no sense with 'enable'");
        return;
    }
    if (enable) {
        enable_all(primary ? REPLICATION_MODE_PRIMARY
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
    if (!session_drives("xen-colo-do-checkpoint", errp)) {
        replication_do_checkpoint_all(errp);
    }
}
