/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: which state may follow which.  Any thread.
 */

#ifndef QEMU_MIGRATION_COLO_STATE_H
#define QEMU_MIGRATION_COLO_STATE_H

#include "qapi/qapi-types-colo.h"

/* True if the primary or the secondary may go from @from to @to */
bool colo_primary_transition_ok(ColoPrimaryState from, ColoPrimaryState to);
bool colo_secondary_transition_ok(ColoSecondaryState from,
                                  ColoSecondaryState to);

#endif
