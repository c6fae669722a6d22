/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: pages of guest RAM on their way from one staging area to the other.
 *
 * Both sides, in the session's thread; the BQL is not held.
 *
 * Theory of operation
 *
 * In periodic mode the secondary's RAM is as the last checkpoint left it, so
 * nearly all pages of the dirty set differ: they are sent straight away.
 *
 * In hybrid mode its guest did the same as the primary's and has written most
 * of these pages itself, with the same contents.  So the primary sends a hash
 * of each page (from the staged copy, its guest runs again already), the
 * secondary compares with its own RAM and asks for those that differ.  Up to
 * WINDOW frames of hashes are under way before the first answer is read: the
 * latency of the link is paid once, and what the secondary says meanwhile is
 * too little to fill a socket, so the two cannot wait for each other.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qapi/error.h"
#include "failover.h"
#include "pages.h"
#include "peer.h"

/* Frames of hashes sent ahead: 64 MiB of guest RAM */
#define WINDOW  64

static uint32_t batch_size(ColoSession *s, uint64_t first)
{
    return MIN(colo_staging_count(s->staging) - first, COLO_PAGES_PER_FRAME);
}

/* Describe staged page @i.  Returns whether it is zero. */
static bool encode_entry(ColoSession *s, uint64_t i, uint8_t *out)
{
    ColoStagedPage *p = colo_staging_page(s->staging, i);
    bool is_zero = p->slot == COLO_STAGED_ZERO;

    colo_page_entry_encode(&(ColoPageEntry) {
        .block = p->block,
        .page = p->page,
        .flags = is_zero ? COLO_PAGE_ZERO : 0,
    }, out);
    return is_zero;
}

/* One 'pages' frame with those of @n staged pages that @wanted names */
static bool send_batch(ColoSession *s, uint64_t cut, uint64_t first,
                       uint32_t n, const uint8_t *wanted, ColoPageCount *count,
                       Error **errp)
{
    size_t size = colo_staging_page_size(s->staging);
    uint8_t head[COLO_PAGES_HDR_LEN +
                 COLO_PAGES_PER_FRAME * COLO_PAGE_ENTRY_LEN] = { 0 };
    struct iovec iov[COLO_PAGES_PER_FRAME + 1];
    uint8_t *entry = head + COLO_PAGES_HDR_LEN;
    size_t niov = 1;
    uint32_t named = 0;

    for (uint32_t i = 0; i < n; i++) {
        void *data = colo_staging_data(s->staging, first + i);

        if (wanted && !(wanted[i / 8] & (1 << i % 8))) {
            continue;
        }
        named++;
        if (encode_entry(s, first + i, entry)) {
            count->zero++;
        } else if (niov > 1 && data == iov[niov - 1].iov_base +
                                       iov[niov - 1].iov_len) {
            count->sent++;
            iov[niov - 1].iov_len += size;
        } else {
            count->sent++;
            iov[niov++] = (struct iovec) { data, size };
        }
        entry += COLO_PAGE_ENTRY_LEN;
    }
    if (!named) {
        return true;
    }
    stl_be_p(head, named);
    iov[0] = (struct iovec) { head, entry - head };
    return colo_wire_send(s->wire, COLO_FRAME_PAGES, cut, iov, niov, errp);
}

bool colo_pages_send(ColoSession *s, uint64_t cut, ColoPageCount *count,
                     Error **errp)
{
    uint64_t total = colo_staging_count(s->staging);

    for (uint64_t first = 0; first < total; first += COLO_PAGES_PER_FRAME) {
        if (colo_has_to_end(s, errp) ||
            !send_batch(s, cut, first, batch_size(s, first), NULL, count,
                        errp)) {
            return false;
        }
    }
    colo_staging_reset(s->staging);
    return true;
}

static bool send_hashes(ColoSession *s, uint64_t cut, uint64_t first,
                        ColoPageCount *count, Error **errp)
{
    size_t size = colo_staging_page_size(s->staging);
    uint32_t n = batch_size(s, first);
    uint8_t buf[COLO_PAGES_HDR_LEN +
                COLO_PAGES_PER_FRAME * COLO_HASH_ENTRY_LEN] = { 0 };
    uint8_t *entry = buf + COLO_PAGES_HDR_LEN;

    stl_be_p(buf, n);
    for (uint32_t i = 0; i < n; i++) {
        if (encode_entry(s, first + i, entry)) {
            count->zero++;
        } else {
            colo_page_hash(colo_staging_data(s->staging, first + i), size,
                           entry + COLO_PAGE_ENTRY_LEN);
            count->equal++;
        }
        entry += COLO_HASH_ENTRY_LEN;
    }
    return colo_wire_send_buf(s->wire, COLO_FRAME_HASHES, cut, buf,
                              entry - buf, errp);
}

/* The answer to the hashes of the batch at @first, and what it asks for */
static bool answer_wanted(ColoSession *s, uint64_t cut, uint64_t first,
                          ColoPageCount *count, Error **errp)
{
    uint32_t n = batch_size(s, first);
    uint8_t wanted[COLO_WANTED_LEN];
    ColoPageCount c = { 0 };
    ColoFrame f;

    if (!colo_expect(s, COLO_FRAME_WANTED, cut, NULL, &f, errp)) {
        return false;
    }
    if (f.length != DIV_ROUND_UP(n, 8)) {
        error_setg(errp, "'wanted' of %" PRIu64 " bytes for %" PRIu32 " pages",
                   f.length, n);
        return false;
    }
    if (!colo_wire_recv_buf(s->wire, wanted, f.length, errp) ||
        !send_batch(s, cut, first, n, wanted, &c, errp)) {
        return false;
    }
    /* A zero page that is asked for in spite of it was counted before */
    count->sent += c.sent;
    count->equal -= c.sent;
    return true;
}

bool colo_pages_send_differing(ColoSession *s, uint64_t cut,
                               ColoPageCount *count, Error **errp)
{
    uint64_t total = colo_staging_count(s->staging);
    const uint64_t ahead = WINDOW * (uint64_t)COLO_PAGES_PER_FRAME;
    uint64_t answered = 0;

    for (uint64_t first = 0; first < total; first += COLO_PAGES_PER_FRAME) {
        if (first - answered >= ahead) {
            if (!answer_wanted(s, cut, answered, count, errp)) {
                return false;
            }
            answered += COLO_PAGES_PER_FRAME;
        }
        if (!send_hashes(s, cut, first, count, errp)) {
            return false;
        }
    }
    for (; answered < total; answered += COLO_PAGES_PER_FRAME) {
        if (!answer_wanted(s, cut, answered, count, errp)) {
            return false;
        }
    }
    colo_staging_reset(s->staging);
    return true;
}

/* Secondary: room for @n more pages, of which @nslots have data */
static bool make_room(ColoSession *s, uint32_t n, uint32_t nslots,
                      Error **errp)
{
    if (colo_staging_room_max(s->staging) < n) {
        s->cause = COLO_CAUSE_LOCAL;
        error_setg(errp, "a checkpoint of more than %" PRIu64 " pages is more "
                   "than the guest has", colo_staging_count(s->staging));
        return false;
    }
    if (!colo_staging_reserve(s->staging, n, nslots, errp)) {
        s->cause = COLO_CAUSE_LOCAL;
        return false;
    }
    return true;
}

/* Pages, and pages with data, that this entry adds */
static void count_new(ColoSession *s, const ColoPageEntry *e, uint32_t *n,
                      uint32_t *nslots)
{
    int64_t index = colo_staging_find(s->staging, e->block, e->page);

    *n += index < 0;
    if (!(e->flags & COLO_PAGE_ZERO)) {
        *nslots += index < 0 || !colo_staging_data(s->staging, index);
    }
}

static bool decode_entry(ColoSession *s, const char *frame, const uint8_t *in,
                         ColoPageEntry *e, Error **errp)
{
    if (!colo_page_entry_decode(in, e, errp)) {
        return false;
    }
    if (!colo_ram_page_valid(s->ram, e->block, e->page)) {
        error_setg(errp, "'%s' names page %" PRIu64 " of RAM block "
                   "%" PRIu32 ", out of range", frame, e->page, e->block);
        return false;
    }
    return true;
}

void colo_pages_begin(ColoSession *s)
{
    ColoSecondary *sec = &s->secondary;

    if (!sec->wanted) {
        sec->wanted = g_array_new(false, false, sizeof(ColoPageEntry));
    }
    g_array_set_size(sec->wanted, 0);
    sec->wanted_next = 0;
    sec->hashes_came = false;
}

bool colo_pages_complete(ColoSession *s, Error **errp)
{
    ColoSecondary *sec = &s->secondary;

    if (sec->wanted_next != sec->wanted->len) {
        error_setg(errp, "'vmstate-size' came, but not %zu of the pages that "
                   "this side asked for",
                   sec->wanted->len - sec->wanted_next);
        return false;
    }
    return true;
}

/* After the first hashes pages come only as this side has asked for them */
static bool is_expected(ColoSession *s, const ColoPageEntry *e, Error **errp)
{
    ColoSecondary *sec = &s->secondary;
    ColoPageEntry *next;

    if (!sec->hashes_came) {
        return true;
    }
    next = sec->wanted_next < sec->wanted->len
           ? &g_array_index(sec->wanted, ColoPageEntry, sec->wanted_next)
           : NULL;
    if (!next || e->block != next->block || e->page != next->page) {
        error_setg(errp, "'pages' names page %" PRIu64 " of RAM block "
                   "%" PRIu32 ", which this side did not ask for", e->page,
                   e->block);
        return false;
    }
    sec->wanted_next++;
    return true;
}

/*
 * The data of a frame have arrived: pages that it says are zero are, unless
 * data for them came later in it
 */
static void set_zero(ColoSession *s, const ColoPageEntry *entries, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        int64_t index = colo_staging_find(s->staging, entries[i].block,
                                          entries[i].page);
        bool later = false;

        if (!(entries[i].flags & COLO_PAGE_ZERO) ||
            !colo_staging_data(s->staging, index)) {
            continue;
        }
        for (uint32_t j = i + 1; j < n && !later; j++) {
            later = entries[j].block == entries[i].block &&
                    entries[j].page == entries[i].page &&
                    !(entries[j].flags & COLO_PAGE_ZERO);
        }
        if (!later) {
            colo_staging_set_zero(s->staging, index);
        }
    }
}

/* Entries, then data straight into the staging area */
bool colo_pages_receive(ColoSession *s, const ColoFrame *f,
                        ColoPageCount *count, Error **errp)
{
    size_t size = colo_staging_page_size(s->staging);
    uint8_t buf[COLO_PAGES_PER_FRAME * COLO_PAGE_ENTRY_LEN];
    ColoPageEntry entries[COLO_PAGES_PER_FRAME];
    struct iovec iov[COLO_PAGES_PER_FRAME];
    size_t niov = 0;
    uint32_t n, npages = 0, new_pages = 0, new_slots = 0;
    uint64_t data_len;

    if (f->length < COLO_PAGES_HDR_LEN) {
        error_setg(errp, "'pages' of %" PRIu64 " bytes is cut short",
                   f->length);
        return false;
    }
    if (!colo_wire_recv_buf(s->wire, buf, COLO_PAGES_HDR_LEN, errp)) {
        return false;
    }
    n = colo_pages_count(buf, f->length, errp);
    if (!n ||
        !colo_wire_recv_buf(s->wire, buf, n * COLO_PAGE_ENTRY_LEN, errp)) {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!decode_entry(s, "pages", buf + i * COLO_PAGE_ENTRY_LEN,
                          &entries[i], errp) ||
            !is_expected(s, &entries[i], errp)) {
            return false;
        }
        npages += !(entries[i].flags & COLO_PAGE_ZERO);
        count_new(s, &entries[i], &new_pages, &new_slots);
    }
    data_len = f->length - COLO_PAGES_HDR_LEN - n * COLO_PAGE_ENTRY_LEN;
    if (data_len != npages * (uint64_t)size) {
        error_setg(errp, "'pages' carries %" PRIu64 " bytes of data for "
                   "%" PRIu32 " pages", data_len, npages);
        return false;
    }
    if (!make_room(s, new_pages, new_slots, errp)) {
        return false;
    }

    for (uint32_t i = 0; i < n; i++) {
        uint64_t index = colo_staging_append(s->staging, entries[i].block,
                                             entries[i].page);

        if (entries[i].flags & COLO_PAGE_ZERO) {
            count->zero++;
            continue;
        }
        iov[niov++] = (struct iovec) {
            colo_staging_add_data(s->staging, index), size
        };
    }
    count->sent += niov;
    if (niov && !colo_wire_recv_iov(s->wire, iov, niov, errp)) {
        return false;
    }
    set_zero(s, entries, n);
    return true;
}

bool colo_pages_compare(ColoSession *s, const ColoFrame *f,
                        ColoPageCount *count, Error **errp)
{
    size_t size = colo_staging_page_size(s->staging);
    uint8_t buf[COLO_PAGES_HDR_LEN +
                COLO_PAGES_PER_FRAME * COLO_HASH_ENTRY_LEN];
    uint8_t wanted[COLO_WANTED_LEN] = { 0 };
    uint8_t hash[COLO_HASH_LEN];
    const uint8_t *entry = buf + COLO_PAGES_HDR_LEN;
    uint32_t n;

    if (f->length < COLO_PAGES_HDR_LEN) {
        error_setg(errp, "'hashes' of %" PRIu64 " bytes is cut short",
                   f->length);
        return false;
    }
    if (!colo_wire_recv_buf(s->wire, buf, f->length, errp)) {
        return false;
    }
    s->secondary.hashes_came = true;
    n = colo_hashes_count(buf, f->length, errp);
    if (!n || !make_room(s, n, 0, errp)) {
        return false;
    }

    for (uint32_t i = 0; i < n; i++, entry += COLO_HASH_ENTRY_LEN) {
        ColoPageEntry e;

        if (!decode_entry(s, "hashes", entry, &e, errp)) {
            return false;
        }
        if (e.flags & COLO_PAGE_ZERO) {
            colo_staging_set_zero(s->staging, colo_staging_append(
                s->staging, e.block, e.page));
            count->zero++;
            continue;
        }
        colo_page_hash(colo_ram_page(s->ram, e.block, e.page), size, hash);
        if (memcmp(hash, entry + COLO_PAGE_ENTRY_LEN, COLO_HASH_LEN)) {
            wanted[i / 8] |= 1 << i % 8;
            g_array_append_val(s->secondary.wanted, e);
        } else {
            count->equal++;
        }
    }
    return colo_wire_send_buf(s->wire, COLO_FRAME_WANTED, f->epoch, wanted,
                              DIV_ROUND_UP(n, 8), errp);
}
