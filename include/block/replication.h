/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: block drivers that follow the checkpoints of a VM.
 *
 * A driver registers itself once a device; the checkpointing code (COLO, or
 * Xen through the monitor) then speaks to all of them at once.  BQL.
 */

#ifndef QEMU_BLOCK_REPLICATION_H
#define QEMU_BLOCK_REPLICATION_H

#include "qapi/qapi-types-block-core.h"
#include "qemu/queue.h"

typedef struct ReplicationState ReplicationState;

/*
 * What a driver does.  Each callback gets the state that replication_new()
 * returned and reports failure through @errp.
 */
typedef struct ReplicationOps {
    /* Begin to replicate in the role @mode */
    void (*start)(ReplicationState *rs, ReplicationMode mode, Error **errp);
    /* Both sides reached a checkpoint: the secondary forgets its own writes */
    void (*checkpoint)(ReplicationState *rs, Error **errp);
    /* Has anything failed since the last checkpoint? */
    void (*get_error)(ReplicationState *rs, Error **errp);
    /* End; with @failover this side goes on with what it has */
    void (*stop)(ReplicationState *rs, bool failover, Error **errp);
} ReplicationOps;

struct ReplicationState {
    void *opaque;
    ReplicationOps *ops;
    QLIST_ENTRY(ReplicationState) node;
};

/* replication_new: register; @opaque is the driver's.  Never fails. */
ReplicationState *replication_new(void *opaque, ReplicationOps *ops);

/* replication_remove: unregister and free */
void replication_remove(ReplicationState *rs);

/*
 * Call every registered driver, in no particular order.  The first one that
 * fails ends the round and sets @errp.
 */
void replication_start_all(ReplicationMode mode, Error **errp);
void replication_do_checkpoint_all(Error **errp);
void replication_get_error_all(Error **errp);
void replication_stop_all(bool failover, Error **errp);

#endif
