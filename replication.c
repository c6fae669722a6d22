/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the registry of drivers that follow checkpoints.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/replication.h"

static QLIST_HEAD(, ReplicationState) drivers =
    QLIST_HEAD_INITIALIZER(drivers);

ReplicationState *replication_new(void *opaque, ReplicationOps *ops)
{
    ReplicationState *rs = g_new0(ReplicationState, 1);

    assert(ops);
    rs->opaque = opaque;
    rs->ops = ops;
    QLIST_INSERT_HEAD(&drivers, rs, next);
    return rs;
}

void replication_remove(ReplicationState *rs)
{
    if (rs) {
        QLIST_REMOVE(rs, next);
        g_free(rs);
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

void replication_start_all(ReplicationMode mode, Error **errp)
{
    CALL_ALL(errp, start, mode);
}

void replication_do_checkpoint_all(Error **errp)
{
    CALL_ALL(errp, checkpoint);
}

void replication_get_error_all(Error **errp)
{
    CALL_ALL(errp, get_error);
}

void replication_stop_all(bool failover, Error **errp)
{
    CALL_ALL(errp, stop, failover);
}
