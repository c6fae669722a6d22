/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO setup: the disks of a side.  Main loop, BQL.
 */

#ifndef QEMU_MIGRATION_COLO_SETUP_DISKS_H
#define QEMU_MIGRATION_COLO_SETUP_DISKS_H

#include "setup.h"

/* A disk to replicate */
typedef struct ColoSetupDisk {
    char *name;                 /* that the user knows */
    char *address;              /* of its device, the same on both sides */
    BlockDriverState *root;     /* a reference */
} ColoSetupDisk;

/*
 * colo_setup_disks: those of @wanted, or without @has_wanted all that need to be
 * replicated; sorted, so that both sides have the same order
 *
 * What is wrong with them, or with @folder of the secondary, is found.  The
 * caller frees the array of ColoSetupDisk, g_ptr_array_unref().
 */
GPtrArray *colo_setup_disks(ColoSetupSearch *search, bool has_wanted,
                            const strList *wanted, const char *folder);

/*
 * colo_setup_make_disks: the nodes, exports and connections of @disks, for the
 * role of @s, while the guest writes
 *
 * On the primary that asks for it a job for each brings the other side up to
 * date; s->jobs_left counts them, and s->bh is scheduled when one ends, with
 * s->job_error set if it has failed.  False with @errp set if something cannot
 * be made.
 */
bool colo_setup_make_disks(ColoSetup *s, const GPtrArray *disks, Error **errp);

/*
 * colo_setup_disks_settled: false with @errp set if what a failover has left in
 * overlays is not in the disks yet, which so have to stay as they are
 */
bool colo_setup_disks_settled(Error **errp);

/* colo_setup_free_jobs: none of them is there any more */
void colo_setup_free_jobs(ColoSetup *s);

#endif
