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
    bool zero;                  /* the data is not there, it is all zeroes */
} ColoStagedPage;

/*
 * colo_staging_new: an empty area
 *
 * @page_size: bytes
 * @limit: how many pages it may hold at most
 */
ColoStaging *colo_staging_new(size_t page_size, uint64_t limit);
void colo_staging_free(ColoStaging *st);

/*
 * colo_staging_reserve: have memory for @npages in all, touched already
 *
 * More than the limit is not an error: the limit is what is reserved then.
 * Returns false with @errp set when memory runs out.
 */
bool colo_staging_reserve(ColoStaging *st, uint64_t npages, Error **errp);

/*
 * colo_staging_append: take one more page in
 *
 * Returns its index.  There must be room: colo_staging_room() > 0.
 */
uint64_t colo_staging_append(ColoStaging *st, uint32_t block, uint64_t page,
                             bool zero);

ColoStagedPage *colo_staging_page(ColoStaging *st, uint64_t index);
void *colo_staging_data(ColoStaging *st, uint64_t index);

uint64_t colo_staging_count(ColoStaging *st);
/* Pages that fit in without another reserve */
uint64_t colo_staging_room(ColoStaging *st);
uint64_t colo_staging_limit(ColoStaging *st);
size_t colo_staging_page_size(ColoStaging *st);

/* Forget the pages, keep the memory */
void colo_staging_reset(ColoStaging *st);

/* Bytes of memory held, lists included.  It never shrinks. */
uint64_t colo_staging_bytes(ColoStaging *st);

#endif
