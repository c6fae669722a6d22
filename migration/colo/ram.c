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
 * Nobody walks over the bitmaps of all memory: base code notes the parts of RAM
 * in which a page became dirty (ram_dirty_parts), those alone are collected,
 * cleared in the log of the accelerator, and searched later (dirty.h).  So the
 * cost follows what the guest wrote and not its size, but for what KVM itself
 * does to read its log.
 *
 * While the VM runs, colo_ram_sync() may be called early to learn how much
 * there will be to copy.  A vCPU may go on writing to a page whose dirty bit
 * was just collected: the page is in the set already, and is copied when the
 * VM stands still.  Under TCG it may do so with a TLB entry that says "dirty"
 * although the bit is clear: it set the bit, we collected it and reset the
 * TLB, then it made the entry.  Such an entry must not live on into the next
 * epoch, so the sync at the cut resets the TLB for each block in which there
 * was something to collect.  Nor must it be there when pages are copied while
 * the VM runs: see colo_ram_copy_begin().
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
#include "cpu.h"
#include "exec/address-spaces.h"
#include "exec/cputlb.h"
#include "exec/exec-all.h"
#include "exec/memory.h"
#include "exec/ram_addr.h"
#include "exec/ramblock.h"
#include "exec/target_page.h"
#include "block/thread-pool.h"
#include "migration/misc.h"
#include "system/kvm.h"
#include "system/tcg.h"
#include "migration/ram.h"
#include "dirty.h"
#include "progress.h"
#include "ram.h"
#include "trace.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Parts of RAM are collected as so many ranges at most, with clean ones */
#define RANGES_MAX              1024

/* Copying less than this is not worth waking another thread: 1 MiB */
#define PAGES_PER_WORKER_MIN    256
#define WORKERS_MAX             4

/* Between two looks at the clock, and two signs of progress: 1 MiB */
#define PAGES_PER_LOOK          256
/* What is hashed at a time to verify RAM, bytes */
#define HASH_CHUNK              (64 * MiB)

/* pvclock_wall_clock, pvclock_vcpu_time_info, kvm_steal_time of the kernel */
#define WALL_CLOCK_BYTES        12
#define SYSTEM_TIME_BYTES       32
#define STEAL_TIME_BYTES        64

typedef struct ColoBlock {
    RAMBlock *rb;
    ColoDirty dirty;
} ColoBlock;

struct ColoRam {
    /* Set once, but for the order of blocks, which colo_ram_adopt() sets */
    ColoBlock *blocks;
    uint32_t nblocks;
    int nworkers;
    ThreadPool *pool;
    uint64_t nparts;            /* of all of RAM, see ram_dirty_parts */

    uint64_t dirty_pages;
    unsigned long *parts;       /* while they are collected */
};

typedef struct CopyJob {
    ColoRam *ram;
    ColoStaging *st;
    uint64_t begin;
    uint64_t end;
    int64_t end_ns;
    bool late;
} CopyJob;

/* BQL: the dirty log of the secondary is on */
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

static uint64_t block_pages(RAMBlock *rb)
{
    return rb->used_length >> qemu_target_page_bits();
}

/* From now on parts that become dirty are noted; which are so far is unknown */
static void watch_parts(ColoRam *ram)
{
    DirtyParts *parts;

    ram->parts = bitmap_new(ram->nparts);
    parts = g_malloc0(sizeof(*parts) +
                      BITS_TO_LONGS(ram->nparts) * sizeof(unsigned long));
    parts->npages = ram->nparts * DIRTY_PART_PAGES;
    assert(!ram_dirty_parts);
    qatomic_rcu_set(&ram_dirty_parts, parts);
    bitmap_set_atomic(parts->bits, 0, ram->nparts);
}

static void unwatch_parts(ColoRam *ram)
{
    DirtyParts *parts = ram_dirty_parts;

    qatomic_rcu_set(&ram_dirty_parts, NULL);
    g_free_rcu(parts, rcu);
    g_free(ram->parts);
}

ColoRam *colo_ram_new(void)
{
    ColoRam *ram = g_new0(ColoRam, 1);
    g_autoptr(GArray) blocks = g_array_new(false, true, sizeof(ColoBlock));
    RAMBlock *rb;

    WITH_RCU_READ_LOCK_GUARD() {
        RAMBLOCK_FOREACH_NOT_IGNORED(rb) {
            ColoBlock b = { .rb = rb };
            uint64_t end = (rb->offset >> qemu_target_page_bits()) +
                           block_pages(rb);

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
            ram->dirty_pages += colo_dirty_init(&b.dirty, rb->bmap,
                                                block_pages(rb));
            ram->nparts = MAX(ram->nparts, DIV_ROUND_UP(end, DIRTY_PART_PAGES));
            g_array_append_val(blocks, b);
        }
    }

    ram->nblocks = blocks->len;
    ram->blocks = (ColoBlock *)g_array_free(g_steal_pointer(&blocks), false);
    ram->nworkers = MIN(WORKERS_MAX, g_get_num_processors());
    ram->pool = thread_pool_new();
    thread_pool_set_max_threads(ram->pool, ram->nworkers);
    watch_parts(ram);
    return ram;
}

void colo_ram_free(ColoRam *ram)
{
    if (!ram) {
        return;
    }
    unwatch_parts(ram);
    thread_pool_free(ram->pool);
    for (uint32_t i = 0; i < ram->nblocks; i++) {
        RAMBlock *rb = ram->blocks[i].rb;

        colo_dirty_destroy(&ram->blocks[i].dirty);
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
        npages += ram->blocks[i].dirty.npages;
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
        if (b->dirty.npages != block_pages(b->rb)) {
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

/* What was noted since the last time */
static void take_parts(ColoRam *ram)
{
    for (size_t i = 0; i < BITS_TO_LONGS(ram->nparts); i++) {
        unsigned long *word = &ram_dirty_parts->bits[i];

        ram->parts[i] = qatomic_read(word) ? qatomic_xchg(word, 0) : 0;
    }
}

/*
 * Move bits of @npages pages of the block, from @first on, from the dirty
 * memory to the dirty set.  Adds the new ones to @added.  Returns whether there
 * was any bit.  RCU critical section.
 */
static bool collect(ColoBlock *b, uint64_t first, uint64_t npages,
                    uint64_t *added)
{
    uint64_t page = (b->rb->offset >> qemu_target_page_bits()) + first;
    DirtyMemoryBlocks *memory =
        qatomic_rcu_read(&ram_list.dirty_memory[DIRTY_MEMORY_MIGRATION]);
    bool seen = false;

    /* RAM blocks begin with a word of the bitmap */
    assert(page % BITS_PER_LONG == 0 && first % BITS_PER_LONG == 0);
    for (uint64_t i = 0; i < npages; i += BITS_PER_LONG) {
        uint64_t word = BIT_WORD((page + i) % DIRTY_MEMORY_BLOCK_SIZE);
        unsigned long *src =
            &memory->blocks[(page + i) / DIRTY_MEMORY_BLOCK_SIZE][word];
        unsigned long *dest = &b->dirty.bits[BIT_WORD(first + i)];
        unsigned long bits;

        if (!qatomic_read(src)) {
            continue;
        }
        bits = qatomic_xchg(src, 0);
        if (npages - i < BITS_PER_LONG) {
            bits &= ~0UL >> (BITS_PER_LONG - (npages - i));
        }
        *added += ctpopl(bits & ~*dest);
        *dest |= bits;
        seen |= bits != 0;
    }
    if (seen) {
        colo_dirty_note(&b->dirty, first, npages);
    }
    memory_region_clear_dirty_bitmap(b->rb->mr,
                                     first << qemu_target_page_bits(),
                                     npages << qemu_target_page_bits());
    return seen;
}

/* The parts of a block that were noted, as ranges with up to @gap between */
static bool collect_block(ColoRam *ram, ColoBlock *b, uint64_t gap)
{
    uint64_t first = b->rb->offset >> qemu_target_page_bits();
    uint64_t end = first + b->dirty.npages;
    uint64_t part_end = DIV_ROUND_UP(end, DIRTY_PART_PAGES);
    uint64_t part = find_next_bit(ram->parts, part_end,
                                  first / DIRTY_PART_PAGES);
    bool seen = false;

    while (part < part_end) {
        uint64_t begin = MAX(part * DIRTY_PART_PAGES, first);
        uint64_t stop;

        do {
            stop = find_next_zero_bit(ram->parts, part_end, part);
            part = find_next_bit(ram->parts, part_end, stop);
        } while (part < part_end && part - stop <= gap);
        stop = MIN(stop * DIRTY_PART_PAGES, end);
        seen |= collect(b, begin - first, stop - begin, &ram->dirty_pages);
    }
    return seen;
}

void colo_ram_sync(ColoRam *ram, bool stopped)
{
    uint64_t gap = 0;

    memory_global_dirty_log_sync(stopped);
    take_parts(ram);
    if (bitmap_count_one(ram->parts, ram->nparts) > RANGES_MAX) {
        gap = ram->nparts / RANGES_MAX;
    }

    RCU_READ_LOCK_GUARD();
    for (uint32_t i = 0; i < ram->nblocks; i++) {
        ColoBlock *b = &ram->blocks[i];
        bool seen = collect_block(ram, b, gap);

        if (tcg_enabled() &&
            (seen || (stopped &&
                      colo_dirty_next(&b->dirty, 0) < b->dirty.npages))) {
            tlb_reset_dirty_range_all(b->rb->offset, b->rb->used_length);
        }
    }
}

uint64_t colo_ram_dirty_pages(ColoRam *ram)
{
    return ram->dirty_pages;
}

void colo_ram_take_runs(ColoRam *ram, GByteArray *out)
{
    g_autofree ColoDirty *sets = g_new(ColoDirty, ram->nblocks);

    for (uint32_t i = 0; i < ram->nblocks; i++) {
        sets[i] = ram->blocks[i].dirty;
    }
    colo_dirty_runs(sets, ram->nblocks, out);
    for (uint32_t i = 0; i < ram->nblocks; i++) {
        colo_dirty_clear(&ram->blocks[i].dirty);
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
            run.page >= ram->blocks[run.block].dirty.npages ||
            run.npages > ram->blocks[run.block].dirty.npages - run.page) {
            error_setg(errp, "'checkpoint-reply' names %" PRIu32 " pages from "
                       "%" PRIu64 " of RAM block %" PRIu32 ", out of range",
                       run.npages, run.page, run.block);
            return false;
        }
        ram->dirty_pages += colo_dirty_add(&ram->blocks[run.block].dirty,
                                           run.page, run.npages);
    }
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
    ColoStagingSlots own = { 0 };
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
        host += p->page * size;
        if (!buffer_is_zero(host, size)) {
            memcpy(colo_staging_add_own_data(job->st, i, &own, job->end - i),
                   host, size);
        }
    }
    colo_staging_put_back(job->st, &own);
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
    uint64_t left = MIN(max, colo_staging_room(st));

    for (uint32_t i = 0; i < ram->nblocks && left; i++) {
        ColoDirty *d = &ram->blocks[i].dirty;
        uint64_t page = colo_dirty_next(d, 0);

        while (page < d->npages && left) {
            /* Mostly the next one is dirty too, which needs no search */
            do {
                colo_staging_append(st, i, page);
                clear_bit(page, d->bits);
                page++;
                left--;
            } while (left && page < d->npages && test_bit(page, d->bits));
            page = colo_dirty_next(d, page);
        }
    }
    ram->dirty_pages -= colo_staging_count(st) - begin;
    if (left) {
        /* That was all */
        ram->dirty_pages = 0;
    }
    return copy_pages(ram, st, begin, colo_staging_count(st), end_ns);
}

bool colo_ram_page_valid(ColoRam *ram, uint32_t block, uint64_t page)
{
    return block < ram->nblocks && page < ram->blocks[block].dirty.npages;
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

/*
 * A CPU of TCG that writes to a clean page marks it dirty, and then its entry of
 * the TLB, so that it does so once.  If a sync comes in between it takes the
 * mark away while the entry says dirty afterwards.  So wait until no CPU is in
 * the middle of that, and make all entries of such pages clean once more.
 */
void colo_ram_copy_begin(ColoRam *ram)
{
    memory_global_after_dirty_log_sync();
    for (uint32_t i = 0; tcg_enabled() && i < ram->nblocks; i++) {
        ColoBlock *b = &ram->blocks[i];

        if (colo_dirty_next(&b->dirty, 0) < b->dirty.npages) {
            tlb_reset_dirty_range_all(b->rb->offset, b->rb->used_length);
        }
    }
}

void colo_ram_index_staging(ColoRam *ram, ColoStaging *st)
{
    for (uint32_t i = 0; i < ram->nblocks; i++) {
        colo_staging_index_block(st, ram->blocks[i].dirty.npages);
    }
}

static void apply_page(ColoRam *ram, const ColoStagedPage *p, const void *data,
                       size_t size)
{
    uint8_t *host = colo_ram_page(ram, p->block, p->page);

    if (data) {
        memcpy(host, data, size);
    } else {
        ram_handle_zero(host, size);
    }
    if (tcg_enabled()) {
        /* Instead of a flush of all code, see cpu_common_post_load() */
        ram_addr_t addr = ram->blocks[p->block].rb->offset + p->page * size;

        tb_invalidate_phys_range(addr, addr + size - 1);
    }
}

void colo_ram_apply(ColoRam *ram, ColoStaging *st)
{
    size_t size = colo_staging_page_size(st);

    for (uint64_t i = 0; i < colo_staging_count(st); i++) {
        apply_page(ram, colo_staging_page(st, i), colo_staging_data(st, i),
                   size);
        tell_progress(i);
    }
}

void colo_ram_apply_dirty(ColoRam *ram, ColoStaging *st)
{
    size_t size = colo_staging_page_size(st);

    for (uint64_t i = 0; i < colo_staging_count(st); i++) {
        ColoStagedPage *p = colo_staging_page(st, i);

        if (test_bit(p->page, ram->blocks[p->block].dirty.bits)) {
            apply_page(ram, p, colo_staging_data(st, i), size);
        }
        tell_progress(i);
    }
}

/*
 * What KVM writes into guest RAM when it is told where to: the clocks, and the
 * time that was stolen from each CPU.  So each load makes them different on the
 * secondary.  They are void as soon as a CPU runs, and the guest's own address
 * for the time of its start is told once more before it is read.
 */
typedef struct Hole {
    uint8_t *begin;
    uint8_t *end;
} Hole;

#ifdef TARGET_I386
static void add_hole(GArray *holes, hwaddr addr, hwaddr size)
{
    hwaddr len = size, xlat;
    MemoryRegion *mr;

    RCU_READ_LOCK_GUARD();
    mr = address_space_translate(&address_space_memory, addr, &xlat, &len,
                                 true, MEMTXATTRS_UNSPECIFIED);
    if (len == size && memory_region_is_ram(mr)) {
        uint8_t *host = memory_region_get_ram_ptr(mr);
        Hole hole = { host + xlat, host + xlat + size };

        g_array_append_val(holes, hole);
    }
}
#endif

static gint compare_holes(gconstpointer a, gconstpointer b)
{
    uint8_t *left = ((const Hole *)a)->begin, *right = ((const Hole *)b)->begin;

    return (left > right) - (left < right);
}

/* In the order in which they are in this process' memory */
static GArray *find_holes(void)
{
    GArray *holes = g_array_new(false, false, sizeof(Hole));

#ifdef TARGET_I386
    if (kvm_enabled()) {
        CPUState *cpu;

        CPU_FOREACH(cpu) {
            CPUX86State *env = &X86_CPU(cpu)->env;

            if (env->wall_clock_msr && cpu == first_cpu) {
                add_hole(holes, env->wall_clock_msr, WALL_CLOCK_BYTES);
            }
            if (env->system_time_msr & KVM_MSR_ENABLED) {
                add_hole(holes, env->system_time_msr & ~KVM_MSR_ENABLED,
                         SYSTEM_TIME_BYTES);
            }
            if (env->steal_time_msr & KVM_MSR_ENABLED) {
                add_hole(holes, env->steal_time_msr & ~KVM_MSR_ENABLED,
                         STEAL_TIME_BYTES);
            }
        }
    }
#endif
    g_array_sort(holes, compare_holes);
    return holes;
}

static void hash_more(XXH3_state_t *state, uint8_t *begin, uint8_t *end)
{
    while (begin < end) {
        size_t n = MIN(HASH_CHUNK, end - begin);

        XXH3_64bits_update(state, begin, n);
        colo_progress();
        begin += n;
    }
}

static uint64_t hash_block(XXH3_state_t *state, RAMBlock *rb, GArray *holes,
                           uint64_t seed)
{
    uint8_t *begin = rb->host, *end = rb->host + rb->used_length;

    XXH3_64bits_reset_withSeed(state, seed);
    for (guint i = 0; i < holes->len; i++) {
        Hole *hole = &g_array_index(holes, Hole, i);

        if (hole->begin >= begin && hole->end <= end) {
            hash_more(state, begin, hole->begin);
            begin = hole->end;
        }
    }
    hash_more(state, begin, end);
    return XXH3_64bits_digest(state);
}

uint64_t colo_ram_hash(ColoRam *ram)
{
    g_autoptr(GArray) holes = find_holes();
    XXH3_state_t *state = XXH3_createState();
    uint64_t hash = 0;

    for (uint32_t i = 0; i < ram->nblocks; i++) {
        RAMBlock *rb = ram->blocks[i].rb;

        hash = hash_block(state, rb, holes, hash);
        trace_colo_ram_hash(rb->idstr, hash);
    }
    XXH3_freeState(state);
    return hash;
}
