/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO staging area: copies of pages between a cut and their use.
 *
 * Memory comes in chunks that are mapped and populated before they are needed,
 * so that neither the cut nor the receipt of a checkpoint meets a page fault,
 * and running out of memory is an error, not a signal.  Chunks are kept from
 * one checkpoint to the next: a guest dirties about as much in this epoch as in
 * the last one.  Those that were not needed for a while are given back.  A page
 * that is zero is in the list only.
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "qemu/lockable.h"
#include "qemu/madvise.h"
#include "qemu/thread.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "fault.h"
#include "headroom.h"
#include "progress.h"
#include "staging.h"

#define CHUNK_SIZE  (2 * MiB)

/* So many chunks are populated between two looks at the limits of cgroups */
#define LOOK_CHUNKS 16

/* What the rest of QEMU may need meanwhile, and lists */
#define SPARE_BYTES (16 * MiB)

/*
 * A thread that adds data takes so many slots at a time.  A locked instruction
 * for each page would wait until the page before is written to memory, which
 * costs a fifth of what copying does.
 */
#define TAKE_SLOTS  64

/* In each checkpoint that needs less, this part of the rest is given back */
#define SHRINK_PART 8

struct ColoStaging {
    /* Set once */
    size_t page_size;
    uint64_t chunk_pages;
    unsigned chunk_shift;       /* the logarithm of that to base 2 */
    uint64_t max_pages;
    uint64_t max_slots;

    GPtrArray *chunks;          /* of CHUNK_SIZE bytes each */
    ColoStagedPage *pages;      /* room for capacity */
    uint64_t capacity;          /* pages */
    uint64_t count;
    GPtrArray *blocks;          /* of uint32_t *: index of each page, plus 1 */

    /* Under the lock while several threads add data */
    QemuMutex lock;
    uint64_t slots_used;        /* by pages, or taken by a thread */
    uint64_t slots_end;         /* those from here on were not taken so far */
    GArray *put_back;           /* of ColoStagingSlots, below slots_end */

    uint64_t slots_peak;        /* since the last shrink */
    uint64_t slots_kept;        /* worth to be kept */
};

ColoStaging *colo_staging_new(size_t page_size, uint64_t max_pages,
                              uint64_t max_slots)
{
    ColoStaging *st = g_new0(ColoStaging, 1);

    assert(is_power_of_2(page_size) && page_size <= CHUNK_SIZE && max_pages &&
           max_slots);
    st->page_size = page_size;
    st->chunk_pages = CHUNK_SIZE / page_size;
    st->chunk_shift = ctz64(st->chunk_pages);
    st->max_pages = max_pages;
    st->max_slots = MIN(max_slots, COLO_STAGED_ZERO);
    st->chunks = g_ptr_array_new();
    st->blocks = g_ptr_array_new_with_free_func(g_free);
    st->put_back = g_array_new(false, false, sizeof(ColoStagingSlots));
    qemu_mutex_init(&st->lock);
    return st;
}

void colo_staging_index_block(ColoStaging *st, uint64_t npages)
{
    assert(!st->count && st->max_pages < UINT32_MAX);
    g_ptr_array_add(st->blocks, g_new0(uint32_t, npages));
}

static void free_chunks(ColoStaging *st, guint from)
{
    for (guint i = from; i < st->chunks->len; i++) {
        munmap(g_ptr_array_index(st->chunks, i), CHUNK_SIZE);
        colo_progress();
    }
    g_ptr_array_set_size(st->chunks, MIN(from, st->chunks->len));
}

void colo_staging_free(ColoStaging *st)
{
    if (!st) {
        return;
    }
    free_chunks(st, 0);
    g_ptr_array_free(st->chunks, true);
    g_ptr_array_free(st->blocks, true);
    g_array_free(st->put_back, true);
    qemu_mutex_destroy(&st->lock);
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

static uint64_t slots_there(ColoStaging *st)
{
    return MIN(st->chunks->len * st->chunk_pages, st->max_slots);
}

static bool reserve_list(ColoStaging *st, uint64_t npages, Error **errp)
{
    uint64_t want = MIN(npages, st->max_pages), capacity;
    ColoStagedPage *pages;

    if (want <= st->capacity) {
        return true;
    }
    /* It grows by half at least, or it would be copied again and again */
    capacity = MIN(MAX(want, st->capacity + st->capacity / 2), st->max_pages);
    pages = g_try_renew(ColoStagedPage, st->pages, capacity);
    if (!pages) {
        error_setg(errp, "no memory to list %" PRIu64 " pages", capacity);
        return false;
    }
    st->pages = pages;
    st->capacity = capacity;
    return true;
}

/* Over the limit of a cgroup the kernel kills: look before that */
static bool limits_allow(ColoStaging *st, uint64_t chunks, Error **errp)
{
    uint64_t bytes = MIN(chunks, LOOK_CHUNKS) * CHUNK_SIZE;
    uint64_t headroom = colo_headroom();

    if (headroom < bytes + SPARE_BYTES) {
        error_setg(errp, "the memory cgroup leaves %" PRIu64 " MiB, too little "
                   "to stage more than %" PRIu64 " pages", headroom / MiB,
                   slots_there(st));
        return false;
    }
    return true;
}

static bool add_chunk(ColoStaging *st, Error **errp)
{
    void *chunk;

    if (!colo_fault_alloc(errp)) {
        return false;
    }
    chunk = mmap(NULL, CHUNK_SIZE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (chunk == MAP_FAILED || !populate(chunk)) {
        error_setg_errno(errp, errno, "no memory to stage more than "
                         "%" PRIu64 " pages", slots_there(st));
        if (chunk != MAP_FAILED) {
            munmap(chunk, CHUNK_SIZE);
        }
        return false;
    }
    g_ptr_array_add(st->chunks, chunk);
    colo_progress();
    return true;
}

bool colo_staging_reserve(ColoStaging *st, uint64_t npages, uint64_t nslots,
                          Error **errp)
{
    uint64_t want = DIV_ROUND_UP(MIN(st->slots_used + nslots, st->max_slots),
                                 st->chunk_pages);
    uint64_t begin = st->chunks->len;

    if (!reserve_list(st, st->count + npages, errp)) {
        return false;
    }
    for (uint64_t i = begin; i < want; i++) {
        if (((i - begin) % LOOK_CHUNKS == 0 &&
             !limits_allow(st, want - i, errp)) ||
            !add_chunk(st, errp)) {
            return false;
        }
    }
    return true;
}

/* Where the index of the page is, plus 1; NULL if it is not kept */
static uint32_t *entry_of(ColoStaging *st, uint32_t block, uint64_t page)
{
    return st->blocks->len
           ? (uint32_t *)g_ptr_array_index(st->blocks, block) + page : NULL;
}

int64_t colo_staging_find(ColoStaging *st, uint32_t block, uint64_t page)
{
    uint32_t *entry = entry_of(st, block, page);

    return entry ? (int64_t)*entry - 1 : -1;
}

uint64_t colo_staging_append(ColoStaging *st, uint32_t block, uint64_t page)
{
    uint32_t *entry = entry_of(st, block, page);

    if (entry) {
        if (*entry) {
            return *entry - 1;
        }
        *entry = st->count + 1;
    }
    assert(st->count < st->capacity);
    st->pages[st->count] = (ColoStagedPage) {
        .page = page,
        .block = block,
        .slot = COLO_STAGED_ZERO,
    };
    return st->count++;
}

/* Up to @max slots, one at least.  Those that were put back come first. */
static void take_slots(ColoStaging *st, ColoStagingSlots *own, uint64_t max)
{
    QEMU_LOCK_GUARD(&st->lock);

    if (st->put_back->len) {
        ColoStagingSlots *last = &g_array_index(st->put_back, ColoStagingSlots,
                                                st->put_back->len - 1);

        own->next = last->next;
        own->end = MIN(own->next + max, last->end);
        last->next = own->end;
        if (last->next == last->end) {
            g_array_set_size(st->put_back, st->put_back->len - 1);
        }
    } else {
        own->next = st->slots_end;
        own->end = MIN(own->next + max, slots_there(st));
        st->slots_end = own->end;
    }
    assert(own->next < own->end);
    st->slots_used += own->end - own->next;
}

void *colo_staging_add_own_data(ColoStaging *st, uint64_t index,
                                ColoStagingSlots *own, uint64_t more)
{
    void *data = colo_staging_data(st, index);

    if (data) {
        return data;
    }
    if (own->next == own->end) {
        take_slots(st, own, MIN(more, TAKE_SLOTS));
    }
    colo_staging_page(st, index)->slot = own->next++;
    return colo_staging_data(st, index);
}

void colo_staging_put_back(ColoStaging *st, ColoStagingSlots *own)
{
    QEMU_LOCK_GUARD(&st->lock);

    if (own->next < own->end) {
        g_array_append_val(st->put_back, *own);
        st->slots_used -= own->end - own->next;
        own->next = own->end;
    }
}

void *colo_staging_add_data(ColoStaging *st, uint64_t index)
{
    ColoStagingSlots own = { 0 };

    return colo_staging_add_own_data(st, index, &own, 1);
}

void colo_staging_set_zero(ColoStaging *st, uint64_t index)
{
    void *data = colo_staging_data(st, index);

    /* It keeps its place, or a peer that changes its mind would use up all */
    if (data) {
        memset(data, 0, st->page_size);
    }
}

ColoStagedPage *colo_staging_page(ColoStaging *st, uint64_t index)
{
    assert(index < st->count);
    return &st->pages[index];
}

void *colo_staging_data(ColoStaging *st, uint64_t index)
{
    uint32_t slot = colo_staging_page(st, index)->slot;
    uint8_t *chunk;

    if (slot == COLO_STAGED_ZERO) {
        return NULL;
    }
    chunk = g_ptr_array_index(st->chunks, slot >> st->chunk_shift);
    return chunk + (slot & (st->chunk_pages - 1)) * st->page_size;
}

uint64_t colo_staging_count(ColoStaging *st)
{
    return st->count;
}

uint64_t colo_staging_room(ColoStaging *st)
{
    return MIN(st->capacity - st->count, slots_there(st) - st->slots_used);
}

uint64_t colo_staging_room_max(ColoStaging *st)
{
    return MIN(st->max_pages - st->count, st->max_slots - st->slots_used);
}

size_t colo_staging_page_size(ColoStaging *st)
{
    return st->page_size;
}

void colo_staging_reset(ColoStaging *st)
{
    for (uint64_t i = 0; st->blocks->len && i < st->count; i++) {
        *entry_of(st, st->pages[i].block, st->pages[i].page) = 0;
    }
    st->slots_peak = MAX(st->slots_peak, st->slots_end);
    st->slots_used = 0;
    st->slots_end = 0;
    g_array_set_size(st->put_back, 0);
    st->count = 0;
}

void colo_staging_shrink(ColoStaging *st)
{
    assert(!st->count);
    if (st->slots_peak >= st->slots_kept) {
        st->slots_kept = st->slots_peak;
    } else {
        st->slots_kept -= DIV_ROUND_UP(st->slots_kept - st->slots_peak,
                                       SHRINK_PART);
    }
    st->slots_peak = 0;
    free_chunks(st, DIV_ROUND_UP(st->slots_kept, st->chunk_pages));
    if (st->capacity > 2 * st->slots_kept + st->chunk_pages) {
        /* It is filled again as it is needed */
        g_clear_pointer(&st->pages, g_free);
        st->capacity = 0;
    }
}

uint64_t colo_staging_bytes(ColoStaging *st)
{
    return st->chunks->len * CHUNK_SIZE + st->capacity * sizeof(*st->pages);
}
