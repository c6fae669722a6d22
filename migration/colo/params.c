/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: parameters of migration, see qapi/migration.json.
 *
 * Both sides, under the BQL for writing.
 */

#include "qemu/osdep.h"
#include "params.h"
#include "migration/migration.h"
#include "migration/options.h"

/*
 * Longest time between two checkpoints if the user does not say, in ms.
 *
 * Hybrid mode: as published.  Periodic mode: every packet waits for the next
 * checkpoint, so this is what a client sees as latency; 25 ms is Remus'
 * classic choice, a compromise between that and the guest's loss of speed.
 */
#define DELAY_HYBRID_MS     20000
#define DELAY_PERIODIC_MS   25

ColoSyncMode migrate_colo_mode(void)
{
    return migrate_get_current()->parameters.x_colo_mode;
}

void migrate_colo_set_mode(ColoSyncMode mode)
{
    migrate_get_current()->parameters.x_colo_mode = mode;
}

uint32_t migrate_colo_timeout(void)
{
    return migrate_get_current()->parameters.x_colo_timeout;
}

uint32_t migrate_colo_max_pause(void)
{
    return migrate_get_current()->parameters.x_colo_max_pause;
}

uint64_t migrate_colo_staging_limit(void)
{
    return migrate_get_current()->parameters.x_colo_staging_limit;
}

uint32_t colo_effective_checkpoint_delay(ColoSyncMode mode)
{
    uint32_t delay = migrate_checkpoint_delay();

    if (delay) {
        return delay;
    }
    return mode == COLO_SYNC_MODE_PERIODIC ? DELAY_PERIODIC_MS
                                           : DELAY_HYBRID_MS;
}
