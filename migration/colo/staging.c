/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO staging area: copies of pages between a cut and their use.
 *
 * Memory comes in chunks that are mapped and populated before they are
 * needed, so that neither the cut nor the receipt of a checkpoint meets a
 * page fault, and running out of memory is an error, not a signal.  Chunks
 * are kept from one checkpoint to the next: a guest dirties about as much in
 * this epoch as in the last one.
 */

#include "qemu/osdep.h"
#include "qemu/madvise.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "fault.h"
#include "progress.h"
#include "staging.h"

#define CHUNK_SIZE  (2 * MiB)

struct ColoStaging {
    /* Set once */
    size_t page_size;
    uint64_t chunk_pages;
    uint64_t limit;

    GPtrArray *chunks;          /* of CHUNK_SIZE bytes each */
    ColoStagedPage *pages;      /* room for capacity */
    uint64_t capacity;          /* pages */
    uint64_t count;
};

ColoStaging *colo_staging_new(size_t page_size, uint64_t limit)
{
    ColoStaging *st = g_new0(ColoStaging, 1);

    assert(page_size && page_size <= CHUNK_SIZE && limit);
    st->page_size = page_size;
    st->chunk_pages = CHUNK_SIZE / page_size;
    st->limit = limit;
    st->chunks = g_ptr_array_new();
    return st;
}

void colo_staging_free(ColoStaging *st)
{
    if (!st) {
        return;
    }
    for (guint i = 0; i < st->chunks->len; i++) {
        munmap(g_ptr_array_index(st->chunks, i), CHUNK_SIZE);
    }
    g_ptr_array_free(st->chunks, true);
    g_free(st->pages);
    g_free(st);
}

/* Make the pages of a fresh mapping present, or say that there are none */
static bool populate(void *chunk)
{
    if (!qemu_madvise(chunk, CHUNK_SIZE, QEMU_MADV_POPULATE_WRITE)) {
        return true;
    }
    if (errno != EINVAL) {
        return false;
    }
    /* Linux before 5.14 does not know it */
    memset(chunk, 0, CHUNK_SIZE);
    return true;
}

bool colo_staging_reserve(ColoStaging *st, uint64_t npages, Error **errp)
{
    uint64_t want = MIN(npages, st->limit);

    while (st->capacity < want) {
        uint64_t capacity = MIN(st->capacity + st->chunk_pages, st->limit);
        ColoStagedPage *pages;
        void *chunk;

        if (!colo_fault_alloc(errp)) {
            return false;
        }
        pages = g_try_renew(ColoStagedPage, st->pages, capacity);
        if (!pages) {
            error_setg(errp, "no memory to list %" PRIu64 " pages", capacity);
            return false;
        }
        st->pages = pages;

        chunk = mmap(NULL, CHUNK_SIZE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (chunk == MAP_FAILED || !populate(chunk)) {
            error_setg_errno(errp, errno, "no memory to stage more than "
                             "%" PRIu64 " pages", st->capacity);
            if (chunk != MAP_FAILED) {
                munmap(chunk, CHUNK_SIZE);
            }
            return false;
        }
        g_ptr_array_add(st->chunks, chunk);
        colo_progress();
        st->capacity = capacity;
    }
    return true;
}

uint64_t colo_staging_append(ColoStaging *st, uint32_t block, uint64_t page,
                             bool zero)
{
    assert(st->count < st->capacity);
    st->pages[st->count] = (ColoStagedPage) {
        .page = page,
        .block = block,
        .zero = zero,
    };
    return st->count++;
}

ColoStagedPage *colo_staging_page(ColoStaging *st, uint64_t index)
{
    assert(index < st->count);
    return &st->pages[index];
}

void *colo_staging_data(ColoStaging *st, uint64_t index)
{
    uint8_t *chunk = g_ptr_array_index(st->chunks, index / st->chunk_pages);

    return chunk + index % st->chunk_pages * st->page_size;
}

uint64_t colo_staging_count(ColoStaging *st)
{
    return st->count;
}

uint64_t colo_staging_room(ColoStaging *st)
{
    return st->capacity - st->count;
}

uint64_t colo_staging_limit(ColoStaging *st)
{
    return st->limit;
}

size_t colo_staging_page_size(ColoStaging *st)
{
    return st->page_size;
}

void colo_staging_reset(ColoStaging *st)
{
    st->count = 0;
}

uint64_t colo_staging_bytes(ColoStaging *st)
{
    return st->chunks->len * CHUNK_SIZE + st->capacity * sizeof(*st->pages);
}
