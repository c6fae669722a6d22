/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: guest RAM.  Which pages changed, copying them out, putting them in.
 *
 * All functions need the BQL unless they say otherwise.
 */

#ifndef QEMU_MIGRATION_COLO_RAM_H
#define QEMU_MIGRATION_COLO_RAM_H

#include "frame.h"
#include "staging.h"

typedef struct ColoRam ColoRam;

/*
 * colo_ram_dirty_log_begin: the secondary starts to note what it writes
 *
 * Before the first migration loads anything.  Returns false with @errp set if
 * the accelerator cannot do it.  colo_ram_dirty_log_end() undoes it and may
 * be called at any time.
 */
bool colo_ram_dirty_log_begin(Error **errp);
void colo_ram_dirty_log_end(void);

/*
 * colo_ram_new: take the list of RAM blocks as it is now, and hold them
 *
 * Dirty logging is on: by the first migration on the primary, by
 * colo_ram_dirty_log_begin() on the secondary.
 */
ColoRam *colo_ram_new(void);
void colo_ram_free(ColoRam *ram);

/* Bytes of all blocks */
uint64_t colo_ram_total(ColoRam *ram);

/* True while the migrated blocks are those of colo_ram_new(), of their size */
bool colo_ram_unchanged(ColoRam *ram, Error **errp);

/* The secondary tells its blocks; their order numbers them in the protocol */
void colo_ram_describe(ColoRam *ram, ColoReady *r);

/* The primary takes over that order.  False with @errp set on a difference. */
bool colo_ram_adopt(ColoRam *ram, const ColoReady *r, Error **errp);

/*
 * Collect what was written since the last call into the dirty set.
 * @stopped: the VM stands still, so this is all there is
 */
void colo_ram_sync(ColoRam *ram, bool stopped);

/* Pages in the dirty set.  Needs no lock in the thread that syncs. */
uint64_t colo_ram_dirty_pages(ColoRam *ram);

/*
 * colo_ram_take_runs: the dirty set as the payload of 'checkpoint-reply'
 *
 * Empties the set.  Appends to @out.
 */
void colo_ram_take_runs(ColoRam *ram, GByteArray *out);

/* Add such a payload to the dirty set; it comes from the peer.  No lock. */
bool colo_ram_add_runs(ColoRam *ram, const uint8_t *buf, size_t len,
                       Error **errp);

/*
 * colo_ram_stage: move pages from the dirty set to @st, as many as it has
 * room for and at most @max, with several threads.  The VM stands still.
 *
 * The BQL, or an RCU critical section that began under it; without the BQL
 * somebody else may write to pages, which makes them dirty.
 *
 * @end_ns: give up then (QEMU_CLOCK_REALTIME)
 * Returns false if it did; what is staged is void then.
 */
bool colo_ram_stage(ColoRam *ram, ColoStaging *st, uint64_t max,
                    int64_t end_ns);

/* True if there is such a page: the peer has named it.  No lock. */
bool colo_ram_page_valid(ColoRam *ram, uint32_t block, uint64_t page);

/*
 * colo_ram_page: where the page is; colo_page_hash: hash of one page
 *
 * The page is valid and the VM stands still.  No lock: while a session is
 * under way RAM blocks stay.
 */
void *colo_ram_page(ColoRam *ram, uint32_t block, uint64_t page);
void colo_page_hash(const void *data, size_t size,
                    uint8_t hash[COLO_HASH_LEN]);

/*
 * colo_ram_copy_begin: pages of the dirty set may be copied while the VM runs
 *
 * After this whatever is written to them is found by the next sync, and what
 * was written before is there.  BQL, dropped meanwhile.
 */
void colo_ram_copy_begin(ColoRam *ram);

/* An index for a staging area that is empty.  BQL. */
void colo_ram_index_staging(ColoRam *ram, ColoStaging *st);

/*
 * colo_ram_apply: write staged pages to RAM; the VM stands still
 * colo_ram_apply_dirty: those of them that are in the dirty set
 *
 * All pages are valid, and RAM blocks stay.  No lock; without the BQL somebody
 * else may write to pages, which makes them dirty.
 */
void colo_ram_apply(ColoRam *ram, ColoStaging *st);
void colo_ram_apply_dirty(ColoRam *ram, ColoStaging *st);

/*
 * Hash over the contents of all blocks; the VM stands still, and the state of
 * its CPUs has been read or loaded.
 */
uint64_t colo_ram_hash(ColoRam *ram);

#endif
