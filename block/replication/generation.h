/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: which of two disks is newer.
 *
 * A generation is a number and a role, kept in a file beside the image.  The
 * number grows at the start of each session, on both sides, and when a side
 * goes on alone, on that side.  So after both hosts died
 *
 *  - the disk with the higher number is newer: its guest went on alone;
 *  - with equal numbers it is the one whose role is that of the primary.
 *
 * A disk that a resync is writing to has a role of its own, inconsistent, until
 * that has completed: it is a mixture of two disks meanwhile.  The number stays
 * that of the disk from before.
 */

#ifndef BLOCK_REPLICATION_GENERATION_H
#define BLOCK_REPLICATION_GENERATION_H

#include "qapi/qapi-types-colo.h"

/*
 * replication_generation_load: read the file @path
 *
 * A file that does not exist is generation 0, role new.  False with @errp set
 * if it cannot be read or has other contents.
 */
bool replication_generation_load(const char *path, ColoDiskGeneration *g,
                                 Error **errp);

/*
 * replication_generation_store: replace the file @path
 *
 * After a crash, of the host too, it has either the old or the new contents.
 * When this returns true it is the new ones.  Waits for the disk.
 */
bool replication_generation_store(const char *path,
                                  const ColoDiskGeneration *g, Error **errp);

/*
 * Is a disk of generation @a newer than one of @b?  Of an equal number the
 * primary's is newer than that of the secondary.  If nothing is known of @b,
 * NULL, it is if a guest has run on it alone, or as the primary.
 */
bool replication_generation_is_newer(const ColoDiskGeneration *a,
                                     const ColoDiskGeneration *b);

#endif
