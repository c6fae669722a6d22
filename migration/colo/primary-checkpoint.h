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
 * end, as it has to after one for a switchover, and with s->cause set if the
 * peer is not lost.  Session's thread, no BQL.
 */
bool colo_primary_checkpoint(ColoSession *s, ColoCheckpointReason reason,
                             Error **errp);

/*
 * colo_primary_resume: the guest that stands since a cut goes on; a stop that
 * came meanwhile is carried out.  Session's thread, BQL.
 */
void colo_primary_resume(ColoSession *s);

#endif
