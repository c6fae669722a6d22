/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the secondary takes in a checkpoint.  Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_SECONDARY_CHECKPOINT_H
#define QEMU_MIGRATION_COLO_SECONDARY_CHECKPOINT_H

#include "session.h"

/* A checkpoint on its way from the request to the load */
typedef struct ColoArrival {
    uint64_t cut;
    ColoTail tail;
    ColoPageCount pages;
    int64_t begin_ns;           /* when it was requested */
} ColoArrival;

/*
 * The steps of a checkpoint, in order.  Session's thread, no BQL.
 *
 * Each returns false with @errp set if the session has to end, and with
 * s->cause set if the peer is not lost.
 *
 * colo_secondary_reply: the guest stands; the primary learns which pages this
 *     side has written since the last cut
 * colo_secondary_receive: stage all of it; on failure nothing has changed
 * colo_secondary_commit: it is complete and can be loaded
 * colo_secondary_load: put it into place and count it; after a failure half of
 *     it may be there, and this side must not go live
 */
bool colo_secondary_reply(ColoSession *s, uint64_t cut, Error **errp);
bool colo_secondary_receive(ColoSession *s, ColoArrival *a, Error **errp);
bool colo_secondary_commit(ColoSession *s, ColoArrival *a, Error **errp);
bool colo_secondary_load(ColoSession *s, ColoArrival *a, Error **errp);

#endif
