/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: guest RAM.  Which pages changed, copying them out, putting them in.
 *
 * Both sides; run by the session's thread with the BQL held, copying also by
 * a few workers that need no lock because the VM stands still.
 *
 * The dirty set is RAMBlock.bmap, as in migration: a page that is set there
 * differs, or may differ, from what the peer has.  Only the bits matter here,
 * the counters that migration/ram.c keeps beside them do not.
 *
 * While the VM runs, colo_ram_sync() may be called early to learn how much
 * there will be to copy.  A vCPU may go on writing to a page whose dirty bit
 * was just collected: the page is in the set already, and is copied when the
 * VM stands still.  Under TCG it may do so with a TLB entry that says "dirty"
 * although the bit is clear: it set the bit, we collected it and reset the
 * TLB, then it made the entry.  Such an entry must not live on into the next
 * epoch, so the sync at the cut resets the TLB for each block in which there
 * was something to collect.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "exec/cputlb.h"
#include "exec/exec-all.h"
#include "exec/memory.h"
#include "exec/ram_addr.h"
#include "exec/ramblock.h"
#include "exec/target_page.h"
#include "block/thread-pool.h"
#include "migration/misc.h"
#include "system/tcg.h"
#include "migration/ram.h"
#include "progress.h"
#include "ram.h"
#include "trace.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Copying less than this is not worth waking another thread: 1 MiB */
#define PAGES_PER_WORKER_MIN    256
#define WORKERS_MAX             4

/* Between two looks at the clock, and two signs of progress: 1 MiB */
#define PAGES_PER_LOOK          256
/* What is hashed at a time to verify RAM, bytes */
#define HASH_CHUNK              (64 * MiB)

typedef struct ColoBlock {
    RAMBlock *rb;
    uint64_t npages;
} ColoBlock;

struct ColoRam {
    /* Set once, but for the order of blocks, which colo_ram_adopt() sets */
    ColoBlock *blocks;
    uint32_t nblocks;
    int nworkers;
    ThreadPool *pool;

    uint64_t dirty_pages;
};

typedef struct CopyJob {
    ColoRam *ram;
    ColoStaging *st;
    uint64_t begin;
    uint64_t end;
    int64_t end_ns;
    bool late;
} CopyJob;

/* Is the dirty log of the secondary on?  BQL. */
static bool dirty_log_on;

void colo_ram_dirty_log_end(void)
{
    RAMBlock *rb;

    if (!dirty_log_on) {
        return;
    }
    memory_global_dirty_log_stop(GLOBAL_DIRTY_MIGRATION);
    WITH_RCU_READ_LOCK_GUARD() {
        RAMBLOCK_FOREACH_NOT_IGNORED(rb) {
            g_clear_pointer(&rb->bmap, g_free);
        }
    }
    dirty_log_on = false;
}

bool colo_ram_dirty_log_begin(Error **errp)
{
    RAMBlock *rb;

    colo_ram_dirty_log_end();
    if (!memory_global_dirty_log_start(GLOBAL_DIRTY_MIGRATION, errp)) {
        return false;
    }
    dirty_log_on = true;

    /* All of RAM counts as dirty since it was made: begin with nothing */
    memory_global_dirty_log_sync(false);
    WITH_RCU_READ_LOCK_GUARD() {
        RAMBLOCK_FOREACH_NOT_IGNORED(rb) {
            uint64_t max_pages = rb->max_length >> qemu_target_page_bits();

            rb->bmap = bitmap_new(max_pages);
            cpu_physical_memory_sync_dirty_bitmap(rb, 0, rb->used_length);
            bitmap_zero(rb->bmap, max_pages);
        }
    }
    return true;
}

ColoRam *colo_ram_new(void)
{
    ColoRam *ram = g_new0(ColoRam, 1);
    g_autoptr(GArray) blocks = g_array_new(false, true, sizeof(ColoBlock));
    RAMBlock *rb;

    WITH_RCU_READ_LOCK_GUARD() {
        RAMBLOCK_FOREACH_NOT_IGNORED(rb) {
            ColoBlock b = {
                .rb = rb,
                .npages = rb->used_length >> qemu_target_page_bits(),
            };

            /*
             * The primary's migration puts the clearing of KVM's log off
             * until a page is sent.  A cut cannot: clear with every sync.
             */
            if (rb->clear_bmap) {
                g_clear_pointer(&rb->clear_bmap, g_free);
                memory_region_clear_dirty_bitmap(rb->mr, 0, rb->used_length);
            }
            /* A block that the guest gives up stays until the session ends */
            memory_region_ref(rb->mr);
            g_array_append_val(blocks, b);
        }
    }

    ram->nblocks = blocks->len;
    ram->blocks = (ColoBlock *)g_array_free(g_steal_pointer(&blocks), false);
    ram->nworkers = MIN(WORKERS_MAX, g_get_num_processors());
    ram->pool = thread_pool_new();
    thread_pool_set_max_threads(ram->pool, ram->nworkers);
    return ram;
}

void colo_ram_free(ColoRam *ram)
{
    if (!ram) {
        return;
    }
    thread_pool_free(ram->pool);
    for (uint32_t i = 0; i < ram->nblocks; i++) {
        RAMBlock *rb = ram->blocks[i].rb;

        if (migrate_ram_is_ignored(rb)) {
            /* It is no longer migrated, so nobody else frees its bitmap */
            g_clear_pointer(&rb->bmap, g_free);
        }
        memory_region_unref(rb->mr);
    }
    g_free(ram->blocks);
    g_free(ram);
}

uint64_t colo_ram_total(ColoRam *ram)
{
    uint64_t npages = 0;

    for (uint32_t i = 0; i < ram->nblocks; i++) {
        npages += ram->blocks[i].npages;
    }
    return npages << qemu_target_page_bits();
}

/*
 * RAM that is not migrated may come and go: a backend, say, that no device uses
 * yet.
 */
static uint32_t count_migrated_blocks(void)
{
    uint32_t count = 0;
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH_NOT_IGNORED(rb) {
        count++;
    }
    return count;
}

bool colo_ram_unchanged(ColoRam *ram, Error **errp)
{
    if (count_migrated_blocks() > ram->nblocks) {
        error_setg(errp, "RAM was added to the guest");
        return false;
    }
    for (uint32_t i = 0; i < ram->nblocks; i++) {
        ColoBlock *b = &ram->blocks[i];

        if (migrate_ram_is_ignored(b->rb)) {
            error_setg(errp, "RAM '%s' was taken from the guest",
                       memory_region_name(b->rb->mr));
            return false;
        }
        if (b->npages != b->rb->used_length >> qemu_target_page_bits()) {
            error_setg(errp, "RAM block '%s' was resized", b->rb->idstr);
            return false;
        }
    }
    return true;
}

void colo_ram_describe(ColoRam *ram, ColoReady *r)
{
    r->page_size = qemu_target_page_size();
    r->nblocks = ram->nblocks;
    r->blocks = g_new0(ColoBlockInfo, ram->nblocks);
    for (uint32_t i = 0; i < ram->nblocks; i++) {
        pstrcpy(r->blocks[i].id, sizeof(r->blocks[i].id),
                ram->blocks[i].rb->idstr);
        r->blocks[i].used_length = ram->blocks[i].rb->used_length;
    }
}

static ColoBlock *find_block(ColoRam *ram, const char *id, uint32_t from)
{
    for (uint32_t i = from; i < ram->nblocks; i++) {
        if (!strcmp(ram->blocks[i].rb->idstr, id)) {
            return &ram->blocks[i];
        }
    }
    return NULL;
}

bool colo_ram_adopt(ColoRam *ram, const ColoReady *r, Error **errp)
{
    if (r->page_size != qemu_target_page_size()) {
        error_setg(errp, "the secondary has pages of %" PRIu32 " bytes, the "
                   "primary of %zu", r->page_size, qemu_target_page_size());
        return false;
    }
    if (r->nblocks != ram->nblocks) {
        error_setg(errp, "the secondary has %" PRIu32 " RAM blocks, the "
                   "primary %" PRIu32, r->nblocks, ram->nblocks);
        return false;
    }
    for (uint32_t i = 0; i < ram->nblocks; i++) {
        ColoBlock *b = find_block(ram, r->blocks[i].id, i);
        ColoBlock tmp = ram->blocks[i];

        if (!b || b->rb->used_length != r->blocks[i].used_length) {
            error_setg(errp, "RAM block '%s' of the secondary (%" PRIu64
                       " bytes) is not the same on the primary",
                       r->blocks[i].id, r->blocks[i].used_length);
            return false;
        }
        ram->blocks[i] = *b;
        *b = tmp;
    }
    return true;
}

static void count_dirty_pages(ColoRam *ram)
{
    ram->dirty_pages = 0;
    for (uint32_t i = 0; i < ram->nblocks; i++) {
        ram->dirty_pages += bitmap_count_one(ram->blocks[i].rb->bmap,
                                             ram->blocks[i].npages);
    }
}

void colo_ram_sync(ColoRam *ram, bool stopped)
{
    memory_global_dirty_log_sync(stopped);
    ram->dirty_pages = 0;

    RCU_READ_LOCK_GUARD();
    for (uint32_t i = 0; i < ram->nblocks; i++) {
        ColoBlock *b = &ram->blocks[i];
        uint64_t dirty;

        cpu_physical_memory_sync_dirty_bitmap(b->rb, 0, b->rb->used_length);
        dirty = bitmap_count_one(b->rb->bmap, b->npages);
        if (dirty && stopped && tcg_enabled()) {
            tlb_reset_dirty_range_all(b->rb->offset, b->rb->used_length);
        }
        ram->dirty_pages += dirty;
    }
}

uint64_t colo_ram_dirty_pages(ColoRam *ram)
{
    return ram->dirty_pages;
}

void colo_ram_take_runs(ColoRam *ram, GByteArray *out)
{
    uint64_t gap = colo_runs_gap(colo_ram_total(ram) >>
                                 qemu_target_page_bits());

    for (uint32_t i = 0; i < ram->nblocks; i++) {
        ColoBlock *b = &ram->blocks[i];

        colo_runs_encode(i, b->rb->bmap, b->npages, gap, out);
        bitmap_zero(b->rb->bmap, b->npages);
    }
    ram->dirty_pages = 0;
}

bool colo_ram_add_runs(ColoRam *ram, const uint8_t *buf, size_t len,
                       Error **errp)
{
    if (len % COLO_RUN_LEN) {
        error_setg(errp, "'checkpoint-reply' of %zu bytes is cut short", len);
        return false;
    }
    for (size_t pos = 0; pos < len; pos += COLO_RUN_LEN) {
        ColoRun run;

        colo_run_decode(buf + pos, &run);
        if (run.block >= ram->nblocks || run.npages == 0 ||
            run.page >= ram->blocks[run.block].npages ||
            run.npages > ram->blocks[run.block].npages - run.page) {
            error_setg(errp, "'checkpoint-reply' names %" PRIu32 " pages from "
                       "%" PRIu64 " of RAM block %" PRIu32 ", out of range",
                       run.npages, run.page, run.block);
            return false;
        }
        bitmap_set(ram->blocks[run.block].rb->bmap, run.page, run.npages);
    }
    count_dirty_pages(ram);
    return true;
}

/* Page @i of many is done */
static void tell_progress(uint64_t i)
{
    if (i % PAGES_PER_LOOK == 0) {
        colo_progress();
    }
}

static int copy_worker(void *opaque)
{
    CopyJob *job = opaque;
    size_t size = colo_staging_page_size(job->st);

    for (uint64_t i = job->begin; i < job->end; i++) {
        ColoStagedPage *p = colo_staging_page(job->st, i);
        uint8_t *host = job->ram->blocks[p->block].rb->host;

        if ((i - job->begin) % PAGES_PER_LOOK == 0) {
            colo_progress();
            job->late = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) >= job->end_ns;
            if (job->late) {
                break;
            }
        }
        memcpy(colo_staging_data(job->st, i), host + p->page * size, size);
    }
    return 0;
}

static bool copy_pages(ColoRam *ram, ColoStaging *st, uint64_t begin,
                       uint64_t end, int64_t end_ns)
{
    bool late = false;
    uint64_t n = end - begin;
    int workers = MAX(1, MIN(ram->nworkers, n / PAGES_PER_WORKER_MIN));
    g_autofree CopyJob *jobs = g_new(CopyJob, workers);

    for (int i = 0; i < workers; i++) {
        jobs[i] = (CopyJob) {
            .ram = ram,
            .st = st,
            .begin = begin + n * i / workers,
            .end = begin + n * (i + 1) / workers,
            .end_ns = end_ns,
        };
        if (i > 0) {
            thread_pool_submit(ram->pool, copy_worker, &jobs[i], NULL);
        }
    }
    copy_worker(&jobs[0]);
    if (workers > 1) {
        thread_pool_wait(ram->pool);
    }
    for (int i = 0; i < workers; i++) {
        late |= jobs[i].late;
    }
    return !late;
}

bool colo_ram_stage(ColoRam *ram, ColoStaging *st, uint64_t max,
                    int64_t end_ns)
{
    uint64_t begin = colo_staging_count(st);
    uint64_t end = begin + MIN(max, colo_staging_room(st));

    for (uint32_t i = 0; i < ram->nblocks &&
                         colo_staging_count(st) < end; i++) {
        ColoBlock *b = &ram->blocks[i];
        unsigned long page = find_first_bit(b->rb->bmap, b->npages);

        while (page < b->npages && colo_staging_count(st) < end) {
            colo_staging_append(st, i, page, false);
            clear_bit(page, b->rb->bmap);
            page = find_next_bit(b->rb->bmap, b->npages, page + 1);
        }
    }

    ram->dirty_pages -= colo_staging_count(st) - begin;
    return copy_pages(ram, st, begin, colo_staging_count(st), end_ns);
}

bool colo_ram_page_valid(ColoRam *ram, uint32_t block, uint64_t page)
{
    return block < ram->nblocks && page < ram->blocks[block].npages;
}

void *colo_ram_page(ColoRam *ram, uint32_t block, uint64_t page)
{
    return ram->blocks[block].rb->host + (page << qemu_target_page_bits());
}

/* XXH128: much faster than memory, and collisions do not happen by chance */
void colo_page_hash(const void *data, size_t size,
                    uint8_t hash[COLO_HASH_LEN])
{
    XXH128_canonical_t out;

    QEMU_BUILD_BUG_ON(sizeof(out) != COLO_HASH_LEN);
    XXH128_canonicalFromHash(&out, XXH3_128bits(data, size));
    memcpy(hash, &out, sizeof(out));
}

void colo_ram_apply(ColoRam *ram, ColoStaging *st)
{
    size_t size = colo_staging_page_size(st);

    for (uint64_t i = 0; i < colo_staging_count(st); i++) {
        ColoStagedPage *p = colo_staging_page(st, i);
        uint8_t *host = ram->blocks[p->block].rb->host + p->page * size;

        if (p->zero) {
            ram_handle_zero(host, size);
        } else {
            memcpy(host, colo_staging_data(st, i), size);
        }
        if (tcg_enabled()) {
            /* Instead of a flush of all code, see cpu_common_post_load() */
            ram_addr_t addr = ram->blocks[p->block].rb->offset +
                              p->page * size;

            tb_invalidate_phys_range(addr, addr + size - 1);
        }
        tell_progress(i);
    }
}

uint64_t colo_ram_hash(ColoRam *ram)
{
    uint64_t hash = 0;

    for (uint32_t i = 0; i < ram->nblocks; i++) {
        RAMBlock *rb = ram->blocks[i].rb;

        for (uint64_t pos = 0; pos < rb->used_length; pos += HASH_CHUNK) {
            hash = XXH3_64bits_withSeed(rb->host + pos,
                                        MIN(HASH_CHUNK, rb->used_length - pos),
                                        hash);
            colo_progress();
        }
        trace_colo_ram_hash(rb->idstr, hash);
    }
    return hash;
}
