/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what a session does not cover.  Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_PROBLEMS_H
#define QEMU_MIGRATION_COLO_PROBLEMS_H

#include "qapi/qapi-types-colo.h"
#include "qapi/qapi-types-migration.h"
#include "net/colo.h"

/*
 * colo_device_problems: calls @found for each device of this machine that no
 * session can have, with @opaque.  BQL.
 */
void colo_device_problems(ColoProblemFunc *found, void *opaque);

/*
 * colo_problems: each disk, NIC, stream and device of this side that a session
 * in @mode would not cover, or does not
 *
 * The caller frees the list, NULL if there is nothing.  BQL.
 */
ColoProblemList *colo_problems(COLOMode side, ColoSyncMode mode);

/*
 * colo_add_assumptions: to @list, what a session of @side takes for granted.
 * That is for the user to know; the guest is protected if it is true.  BQL.
 */
void colo_add_assumptions(COLOMode side, ColoProblemList **list);

#endif
