/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, primary side: which bytes of two replicated disks need not be
 * equal although nothing is wrong.
 *
 * Who compares the disks while the guest runs has to leave out
 *
 *  - what the guest has written since the comparison began: the one disk may
 *    have it already, and the other not.  Both get it, in the same order, so
 *    these bytes will be equal;
 *  - what the guest has discarded and not written since: that has no contents.
 *    One image may have kept what the other has not.
 *
 * Both are known to the byte, so nothing else has to be left out, and however
 * often the guest writes to a part of the disk, the rest of it can be compared.
 *
 * The first is watched for some ranges at a time.  The second is known from the
 * time on at which the node is made; if the guest discards in more places than
 * REPLICATION_DISCARDS_MAX, some are not known, and that is.
 *
 * Threads: any, but one at a time adds and removes ranges.
 */

#ifndef BLOCK_REPLICATION_WATCH_H
#define BLOCK_REPLICATION_WATCH_H

#include "qemu/units.h"

typedef struct ReplicationWatch ReplicationWatch;

/*
 * The longest range, bytes: a bit for each of them is kept meanwhile.  Each
 * write of the guest looks at all ranges, so there should not be many hundreds.
 */
#define REPLICATION_WATCH_MAX (64 * KiB)

ReplicationWatch *replication_watch_new(void);
/* NULL is none */
void replication_watch_free(ReplicationWatch *w);

/*
 * The guest writes, data or zeroes, or discards: to be called at any time
 * between the beginning and the end of such a request to the disk.  What a
 * resync copies counts as written.  Nothing happens if @bytes is 0.
 */
void replication_watch_written(ReplicationWatch *w, int64_t offset,
                               int64_t bytes);
void replication_watch_discarded(ReplicationWatch *w, int64_t offset,
                                 int64_t bytes);

/*
 * replication_watch_add: from here on writes to a range are noted; 0 < @bytes
 * <= the longest
 * replication_watch_remove: of the range that begins there no longer
 */
void replication_watch_add(ReplicationWatch *w, int64_t offset, int64_t bytes);
void replication_watch_remove(ReplicationWatch *w, int64_t offset);

/*
 * Which bytes of the range that begins there need not be equal?  Those of which
 * the bit is set in @mask, as long as the range, 0 being its first byte.
 */
void replication_watch_mask(ReplicationWatch *w, int64_t offset,
                            unsigned long *mask);

/* Has all of this been discarded? */
bool replication_watch_is_void(ReplicationWatch *w, int64_t offset,
                               int64_t bytes);

/* May some more have been discarded, of which it is not known where? */
bool replication_watch_forgot(ReplicationWatch *w);

#endif
