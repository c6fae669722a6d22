/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: a set of pages of one RAM block, and its runs.
 *
 * Both sides, the session's thread.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/bitops.h"
#include "dirty.h"
#include "frame.h"

static uint64_t count_parts(const ColoDirty *d)
{
    return DIV_ROUND_UP(d->npages, COLO_DIRTY_PART);
}

void colo_dirty_note(ColoDirty *d, uint64_t first, uint64_t npages)
{
    uint64_t part = first / COLO_DIRTY_PART;

    if (npages) {
        bitmap_set(d->parts, part,
                   (first + npages - 1) / COLO_DIRTY_PART - part + 1);
    }
}

uint64_t colo_dirty_init(ColoDirty *d, unsigned long *bits, uint64_t npages)
{
    d->bits = bits;
    d->npages = npages;
    d->parts = bitmap_new(count_parts(d));
    colo_dirty_note(d, 0, npages);
    return bitmap_count_one(bits, npages);
}

void colo_dirty_destroy(ColoDirty *d)
{
    g_clear_pointer(&d->parts, g_free);
}

uint64_t colo_dirty_add(ColoDirty *d, uint64_t first, uint64_t npages)
{
    uint64_t end = first + npages;
    uint64_t added = 0;

    colo_dirty_note(d, first, npages);
    while (first < end) {
        uint64_t n = MIN(end, ROUND_DOWN(first, BITS_PER_LONG) +
                              BITS_PER_LONG) - first;
        unsigned long mask = (~0UL >> (BITS_PER_LONG - n))
                             << first % BITS_PER_LONG;
        unsigned long *word = &d->bits[BIT_WORD(first)];

        added += ctpopl(mask & ~*word);
        *word |= mask;
        first += n;
    }
    return added;
}

uint64_t colo_dirty_next(ColoDirty *d, uint64_t from)
{
    while (from < d->npages) {
        uint64_t part = from / COLO_DIRTY_PART;
        uint64_t end, page;

        if (!test_bit(part, d->parts)) {
            part = find_next_bit(d->parts, count_parts(d), part);
            if (part == count_parts(d)) {
                break;
            }
            from = part * COLO_DIRTY_PART;
        }
        end = MIN((part + 1) * COLO_DIRTY_PART, d->npages);
        page = find_next_bit(d->bits, end, from);
        if (page < end) {
            return page;
        }
        if (from == part * COLO_DIRTY_PART) {
            clear_bit(part, d->parts);
        }
        from = end;
    }
    return d->npages;
}

void colo_dirty_clear(ColoDirty *d)
{
    uint64_t nparts = count_parts(d);
    uint64_t part = find_first_bit(d->parts, nparts);

    for (; part < nparts; part = find_next_bit(d->parts, nparts, part + 1)) {
        uint64_t first = part * COLO_DIRTY_PART;

        bitmap_clear(d->bits, first, MIN(COLO_DIRTY_PART, d->npages - first));
        clear_bit(part, d->parts);
    }
}

/*
 * Which gaps between runs are closed: those shorter than @length, and @more of
 * exactly that length
 */
typedef struct Gaps {
    uint64_t length;
    uint64_t more;
} Gaps;

static bool is_closed(Gaps *gaps, uint64_t length)
{
    if (length == gaps->length && gaps->more) {
        gaps->more--;
        return true;
    }
    return length < gaps->length;
}

/* The end of the run that begins at @page; @next: where the next one begins */
static uint64_t run_end(ColoDirty *d, uint64_t page, uint64_t *next)
{
    uint64_t end = find_next_zero_bit(d->bits, d->npages, page);

    *next = colo_dirty_next(d, end);
    return end;
}

/* Runs of a block, with @gaps closed.  False if they are too many. */
static bool encode(ColoDirty *d, uint32_t block, Gaps *gaps, GByteArray *out)
{
    uint64_t next, first = colo_dirty_next(d, 0);

    while (first < d->npages) {
        uint8_t buf[COLO_RUN_LEN];
        uint64_t end = run_end(d, first, &next);

        while (next < d->npages && is_closed(gaps, next - end)) {
            end = run_end(d, next, &next);
        }
        if (end - first > UINT32_MAX) {
            end = next = first + UINT32_MAX;
        }
        colo_run_encode(&(ColoRun) { block, end - first, first }, buf);
        if (out->len / COLO_RUN_LEN == COLO_RUNS_MAX) {
            return false;
        }
        g_byte_array_append(out, buf, sizeof(buf));
        first = next;
    }
    return true;
}

/*
 * With all gaps of this length and shorter ones closed runs are few enough: two
 * of a block are further apart, and each block begins one.
 */
static uint64_t longest_gap(uint64_t npages)
{
    return DIV_ROUND_UP(npages, COLO_RUNS_MAX - COLO_BLOCKS_MAX);
}

/* There are too many runs: which gaps to close */
static Gaps choose_gaps(ColoDirty *sets, uint32_t nblocks)
{
    g_autofree uint64_t *count = NULL;      /* of gaps, by length */
    uint64_t npages = 0, runs = 0, longest, length, max;

    for (uint32_t i = 0; i < nblocks; i++) {
        npages += sets[i].npages;
    }
    longest = longest_gap(npages);
    /* A run has a length of 32 bits */
    max = COLO_RUNS_MAX - npages / UINT32_MAX;
    count = g_new0(uint64_t, longest + 1);
    for (uint32_t i = 0; i < nblocks; i++) {
        ColoDirty *d = &sets[i];
        uint64_t next, first = colo_dirty_next(d, 0);

        for (; first < d->npages; first = next) {
            uint64_t end = run_end(d, first, &next);

            runs++;
            if (next < d->npages && next - end <= longest) {
                count[next - end]++;
            }
        }
    }
    for (length = 1; length < longest; length++) {
        if (runs <= max + count[length]) {
            break;
        }
        runs -= count[length];
    }
    return (Gaps) { length, MAX(runs, max) - max };
}

void colo_dirty_runs(ColoDirty *sets, uint32_t nblocks, GByteArray *out)
{
    guint begin = out->len;
    Gaps gaps = { 0 };

    for (uint32_t i = 0; i < nblocks; i++) {
        if (!encode(&sets[i], i, &gaps, out)) {
            g_byte_array_set_size(out, begin);
            gaps = choose_gaps(sets, nblocks);
            for (uint32_t j = 0; j < nblocks; j++) {
                bool fits = encode(&sets[j], j, &gaps, out);

                assert(fits);
            }
            return;
        }
    }
}
