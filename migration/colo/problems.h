/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what a session does not cover.  Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_PROBLEMS_H
#define QEMU_MIGRATION_COLO_PROBLEMS_H

#include "qapi/qapi-types-colo.h"
#include "qapi/qapi-types-migration.h"

/*
 * colo_problems: each disk, NIC and stream of this side that a session in
 * @mode would not cover, or does not
 *
 * The caller frees the list, NULL if there is nothing.  BQL.
 */
ColoProblemList *colo_problems(COLOMode side, ColoSyncMode mode);

#endif
