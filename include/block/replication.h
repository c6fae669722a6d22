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

/* One callback each; they get what replication_new() returned */
typedef void ReplicationCall(ReplicationState *drv, Error **errp);
typedef void ReplicationStart(ReplicationState *drv, ReplicationMode role,
                              Error **errp);
typedef void ReplicationStop(ReplicationState *drv, bool failover,
                             Error **errp);

/* What a driver does; it leaves out what it has no use for */
typedef struct ReplicationOps {
    /* Has anything failed since the last checkpoint? */
    ReplicationCall *get_error;
    /* Both sides reached a checkpoint: the secondary forgets its own writes */
    ReplicationCall *checkpoint;
    /* Begin to replicate as primary or secondary */
    ReplicationStart *start;
    /* End; after a failover this side goes on with what it has */
    ReplicationStop *stop;
} ReplicationOps;

struct ReplicationState {
    QLIST_ENTRY(ReplicationState) next;
    ReplicationOps *ops;
    void *opaque;                       /* the driver's */
};

/*
 * Call every registered driver, in no particular order.  The first one that
 * fails ends the round and sets @errp.
 */
void replication_get_error_all(Error **errp);
void replication_do_checkpoint_all(Error **errp);
void replication_start_all(ReplicationMode role, Error **errp);
void replication_stop_all(bool after_failover, Error **errp);

/* Unregister and free; NULL is none */
void replication_remove(ReplicationState *drv);

/* Register a driver.  Never fails. */
ReplicationState *replication_new(void *opaque, ReplicationOps *driver_ops);

#endif
