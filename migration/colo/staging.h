/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO staging area: copies of pages between a cut and their use.
 *
 * On the primary it holds what the cut copied until it is sent; on the
 * secondary what arrived until the checkpoint is committed and applied.
 * Knows nothing of RAM blocks; not thread-safe, but the data of different
 * pages may be written by different threads.
 */

#ifndef QEMU_MIGRATION_COLO_STAGING_H
#define QEMU_MIGRATION_COLO_STAGING_H

typedef struct ColoStaging ColoStaging;

typedef struct ColoStagedPage {
    uint64_t page;              /* index within the block */
    uint32_t block;             /* index of the block */
    uint32_t slot;              /* where its data are, or COLO_STAGED_ZERO */
} ColoStagedPage;

/* Places for data, of which one thread disposes */
typedef struct ColoStagingSlots {
    uint64_t next;
    uint64_t end;
} ColoStagingSlots;

/* The data are not there, they are all zeroes */
#define COLO_STAGED_ZERO UINT32_MAX

/*
 * colo_staging_new: an empty area
 *
 * @page_size: bytes, a power of 2
 * @max_pages: how many pages it may list at most
 * @max_slots: how many of them may have data
 */
ColoStaging *colo_staging_new(size_t page_size, uint64_t max_pages,
                              uint64_t max_slots);
void colo_staging_free(ColoStaging *st);

/*
 * colo_staging_index_block: there is one more block, of @npages pages
 *
 * For an area that takes the same page in more than once: what comes later
 * replaces what came before.  Call it for all blocks, while it is empty.  Costs
 * 4 bytes for each page of a part that is used.
 */
void colo_staging_index_block(ColoStaging *st, uint64_t npages);

/*
 * colo_staging_reserve: have memory for @npages more pages, of which @nslots
 * have data; it is touched already
 *
 * More than the limits is not an error: then they are what is reserved.
 * Returns false with @errp set when memory runs out, or would by a limit of a
 * cgroup.
 */
bool colo_staging_reserve(ColoStaging *st, uint64_t npages, uint64_t nslots,
                          Error **errp);

/*
 * colo_staging_find: the index of a page, -1 if it is not there or if there is
 * no index of blocks
 */
int64_t colo_staging_find(ColoStaging *st, uint32_t block, uint64_t page);

/*
 * colo_staging_append: take one more page in, zero so far
 *
 * Returns its index.  There must be room: colo_staging_room() > 0.  One that is
 * there already is as it was.
 */
uint64_t colo_staging_append(ColoStaging *st, uint32_t block, uint64_t page);

/*
 * colo_staging_add_data: where to put the data of page @index
 * colo_staging_set_zero: it has none
 *
 * There must be room for data.  No other thread may add data meanwhile.
 */
void *colo_staging_add_data(ColoStaging *st, uint64_t index);
void colo_staging_set_zero(ColoStaging *st, uint64_t index);

/*
 * colo_staging_add_own_data: as colo_staging_add_data(), by one of several
 * threads that add data of different pages
 * colo_staging_put_back: the thread adds no more data
 *
 * @own: places that this thread has taken, none at first: { 0 }
 * @more: so many pages are left to this thread, this one included, and there
 *        was room for those of all threads
 */
void *colo_staging_add_own_data(ColoStaging *st, uint64_t index,
                                ColoStagingSlots *own, uint64_t more);
void colo_staging_put_back(ColoStaging *st, ColoStagingSlots *own);

ColoStagedPage *colo_staging_page(ColoStaging *st, uint64_t index);
/* NULL: zero */
void *colo_staging_data(ColoStaging *st, uint64_t index);

uint64_t colo_staging_count(ColoStaging *st);
/* Pages that fit in without another reserve, whatever is in them */
uint64_t colo_staging_room(ColoStaging *st);
/* The same after as much has been reserved as the limits allow */
uint64_t colo_staging_room_max(ColoStaging *st);
size_t colo_staging_page_size(ColoStaging *st);

/* Forget the pages, keep the memory */
void colo_staging_reset(ColoStaging *st);

/*
 * colo_staging_shrink: give memory back that was not used for a while
 *
 * Once a checkpoint, with nothing staged, where time does not matter.  What is
 * kept is the most that was used of late; that counts less with each call, so
 * that a checkpoint now and then that is large does not get its memory anew
 * each time.
 */
void colo_staging_shrink(ColoStaging *st);

/* Bytes of memory held, lists included */
uint64_t colo_staging_bytes(ColoStaging *st);

#endif
