/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: which parts of a disk are to be discarded, but not yet; and on
 * the primary, which of them have been (watch.h).
 *
 * What the primary's guest throws away this guest may read until the next
 * checkpoint.  Discarded at once it would have to be copied first, all of it.
 * So the parts are only noted.  At the checkpoint they become due, and nobody
 * needs a copy any more.  What is written meanwhile is a part no longer:
 * then it does not matter when, or in which order, the others are discarded.
 *
 * A discard is a hint.  If there are too many parts new ones are forgotten, and
 * that some were is not.
 *
 * No locks here: the caller sees to that.
 */

#ifndef BLOCK_REPLICATION_DISCARDS_H
#define BLOCK_REPLICATION_DISCARDS_H

#include "qemu/interval-tree.h"

/* How many parts there are at most */
#define REPLICATION_DISCARDS_MAX 32768

/* All zero: there are none */
typedef struct ReplicationDiscards {
    IntervalTreeRoot pending;   /* since the last checkpoint */
    IntervalTreeRoot due;       /* before it; no two of either overlap */
    unsigned n_parts;           /* of both */
    bool forgot;                /* some part, since there were none */
} ReplicationDiscards;

/* A part is to be discarded after the next checkpoint; @bytes > 0 */
void replication_discards_add(ReplicationDiscards *d, int64_t offset,
                              int64_t bytes);

/* A part is written: it is no longer to be discarded; @bytes > 0 */
void replication_discards_remove(ReplicationDiscards *d, int64_t offset,
                                 int64_t bytes);

/* A checkpoint: all become due */
void replication_discards_commit(ReplicationDiscards *d);

/* Is any part due? */
bool replication_discards_has_due(ReplicationDiscards *d);

/*
 * One of at most @max bytes that is due, which it then is no longer.  False if
 * there is none.
 */
bool replication_discards_take(ReplicationDiscards *d, int64_t max,
                               int64_t *offset, int64_t *bytes);

/*
 * The first part of these bytes that is to be discarded after the next
 * checkpoint, *@n bytes from *@at on; false if there is none
 */
bool replication_discards_find(const ReplicationDiscards *d, int64_t offset,
                               int64_t bytes, int64_t *at, int64_t *n);

/* There are none any more */
void replication_discards_clear(ReplicationDiscards *d);

#endif
