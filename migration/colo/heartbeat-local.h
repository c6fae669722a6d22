/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: does this QEMU itself get on?
 */

#ifndef QEMU_MIGRATION_COLO_HEARTBEAT_LOCAL_H
#define QEMU_MIGRATION_COLO_HEARTBEAT_LOCAL_H

typedef struct ColoLocalProgress {
    uint64_t loop;          /* grows while the main loop goes round */
    uint64_t vcpus;         /* grows while all vCPUs do what they are asked */
    bool stands;            /* the guest stands on purpose, so they are not */
} ColoLocalProgress;

/* Main thread, BQL; the second also if the first was not called */
void colo_local_progress_start(void);
void colo_local_progress_stop(void);

/* Any thread */
ColoLocalProgress colo_local_progress(void);

#endif
