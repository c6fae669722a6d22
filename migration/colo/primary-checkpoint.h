/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the primary takes a checkpoint.  Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_PRIMARY_CHECKPOINT_H
#define QEMU_MIGRATION_COLO_PRIMARY_CHECKPOINT_H

#include "session.h"

/*
 * colo_primary_checkpoint: take one, from the request to the other side's load
 *
 * State running, before and after.  False with @errp set if the session has to
 * end, and with s->cause set if the peer is not lost.  Session's thread, no
 * BQL.
 */
bool colo_primary_checkpoint(ColoSession *s, ColoCheckpointReason reason,
                             Error **errp);

#endif
