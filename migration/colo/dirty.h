/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: a set of pages of one RAM block, and its runs.
 *
 * A bitmap with a summary: a bit for each COLO_DIRTY_PART pages tells where to
 * look, so that a few pages of a large block are found without reading all of
 * the bitmap.  Not thread-safe.
 */

#ifndef QEMU_MIGRATION_COLO_DIRTY_H
#define QEMU_MIGRATION_COLO_DIRTY_H

#define COLO_DIRTY_PART 4096

typedef struct ColoDirty {
    unsigned long *bits;        /* not owned; others may clear bits */
    unsigned long *parts;       /* clear: so are the bits of this part */
    uint64_t npages;
} ColoDirty;

/*
 * colo_dirty_init: @bits may hold something already; returns how many pages
 * colo_dirty_destroy: @bits stays
 */
uint64_t colo_dirty_init(ColoDirty *d, unsigned long *bits, uint64_t npages);
void colo_dirty_destroy(ColoDirty *d);

/* Bits of these pages may have been set */
void colo_dirty_note(ColoDirty *d, uint64_t first, uint64_t npages);

/* Add pages.  Returns how many of them are new. */
uint64_t colo_dirty_add(ColoDirty *d, uint64_t first, uint64_t npages);

/* The first page of the set from @from on; d->npages if there is none */
uint64_t colo_dirty_next(ColoDirty *d, uint64_t from);

/* Empty the set */
void colo_dirty_clear(ColoDirty *d);

/*
 * colo_dirty_runs: append the runs of the sets of all blocks to @out, encoded
 * for 'checkpoint-reply'; the block of a run is its index in @sets
 *
 * At most COLO_RUNS_MAX.  Where there are more, runs of a block with the
 * shortest gaps between them count as one, and no more of them than it takes.
 */
void colo_dirty_runs(ColoDirty *sets, uint32_t nblocks, GByteArray *out);

#endif
