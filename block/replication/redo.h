/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, secondary side: writes to a disk that are kept aside until the
 * checkpoint that has them is committed, and are then to be made on the disk.
 *
 * A guest that stands needs nothing of what the primary overwrites, so the disk
 * itself can have what it is to see, and the new writes wait here.  They come
 * in groups, each the entries of a request and what they write, and leave in
 * the same order, flushes among them.  A commit is the end of an epoch; those
 * before the last one may be made on the disk.  Who reads the disk reads what
 * is here first.
 *
 * What is written is held in memory, up to REDO_MEMORY_MAX bytes, and beyond
 * that in a file that has no name.  Each write is once in one of the two.  The
 * file is as long as what is in it, and begins anew when nothing is; it has no
 * metadata.
 *
 * Who has more to hold waits, while there is no room in memory and something
 * that is committed can leave it, or while that is late by REDO_LATE_MS: after
 * a failover the guest's writes have to wait for it.
 *
 * Any thread; there is a lock inside.
 */

#ifndef BLOCK_REPLICATION_REDO_H
#define BLOCK_REPLICATION_REDO_H

#include "block/block_int.h"
#include "batch.h"

/* What is held in memory of one disk, bytes: what is written, and to keep it */
#define REDO_MEMORY_MAX (64 * MiB)

/* What is committed is to be on the disk after this time, ms */
#define REDO_LATE_MS 1000

typedef struct RedoStore RedoStore;
typedef struct RedoGroup RedoGroup;

/*
 * redo_scratch: a new file without a name in @folder, for redo_new(), which
 * takes it.  -1 with @errp set on failure.
 */
int redo_scratch(const char *folder, Error **errp);
RedoStore *redo_new(int scratch);
/* Nobody uses it any more */
void redo_free(RedoStore *r);

/*
 * redo_begin: a session begins, the store is empty
 * redo_close: no more is held from now on, whoever waits fails with -ECANCELED
 * redo_drop: what is not committed never will be; it has been closed
 * redo_clear: nothing is held any more; likewise, and nobody has a group
 * redo_fail: the disk does not take what is committed, negative errno @err: no
 * more is held.  0: it can be tried again.
 */
void redo_begin(RedoStore *r);
void redo_close(RedoStore *r);
void redo_drop(RedoStore *r);
void redo_clear(RedoStore *r);
void redo_fail(RedoStore *r, int err);

/*
 * redo_hold: take a copy of @entries, in this order.  What they write begins at
 * @at in @qiov.  Waits for room, but not while @bs is drained.  Negative errno,
 * and nothing is held, on failure.
 *
 * redo_wake: @bs is being drained.  No coroutine.
 */
int coroutine_fn redo_hold(RedoStore *r, BlockDriverState *bs,
                           const ReplicationEntry *entries, unsigned n_entries,
                           QEMUIOVector *qiov, size_t at);
void redo_wake(RedoStore *r);

/* All that is held is committed.  Takes no time. */
void redo_commit(RedoStore *r);

/*
 * redo_next: the oldest @max groups that are committed, or as many as there
 * are, in their order.  They may be made on the disk.  There is one caller, who
 * has them until redo_done() of each, in the same order, or redo_fail() if one
 * could not be made.
 *
 * redo_entries: what it consists of
 *
 * redo_load: what these write, one after the other, into @buf, which the caller
 * frees by qemu_vfree() if *@own becomes true.  Negative errno on failure.
 *
 * redo_done: it is on the disk
 */
unsigned redo_next(RedoStore *r, RedoGroup **groups, unsigned max);
const ReplicationEntry *redo_entries(const RedoGroup *g, unsigned *n_entries);
int coroutine_fn redo_load(RedoStore *r, RedoGroup *g, uint8_t **buf,
                           size_t *bytes, bool *own);
void coroutine_fn redo_done(RedoStore *r, RedoGroup *g);

/* Is anything held that is committed? */
bool redo_has_due(RedoStore *r);

/*
 * Read a part of the disk @disk below what is held: of all, or of what is
 * @committed only.  @at: where in @qiov.
 */
int coroutine_fn GRAPH_RDLOCK
redo_read(RedoStore *r, bool committed, BdrvChild *disk, int64_t offset,
          int64_t bytes, QEMUIOVector *qiov, size_t at);

/* What is held, bytes: all, and what of it is in the file */
void redo_stats(RedoStore *r, uint64_t *held, uint64_t *in_file);

#endif
