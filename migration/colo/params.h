/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: parameters of migration, see qapi/migration.json.  Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_PARAMS_H
#define QEMU_MIGRATION_COLO_PARAMS_H

#include "qapi/qapi-types-migration.h"

/* BQL */
ColoSyncMode migrate_colo_mode(void);
void migrate_colo_set_mode(ColoSyncMode mode);
uint32_t migrate_colo_timeout(void);
uint32_t migrate_colo_max_pause(void);
uint64_t migrate_colo_staging_limit(void);

/*
 * colo_effective_checkpoint_delay: longest time between two checkpoints, ms
 *
 * The value 0 of x-checkpoint-delay is the default of @mode.  Any thread.
 */
uint32_t colo_effective_checkpoint_delay(ColoSyncMode mode);

#endif
