/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the bits of an intent log, and how they come into its file, both
 * sides.  See intent.c.
 *
 * A write that finds its bits set in the file, for good, goes on at once.  Of
 * those that do not one writes to the file what is wanted by all, the others
 * wait.  A bit that is cleared is not stable any more at that moment, so who
 * needs it again has it written again.
 */

#include "qemu/osdep.h"
#include "qapi/qapi-events-colo.h"
#include "qemu/bitmap.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "block/thread-pool.h"
#include "trace.h"
#include "intent-int.h"

/* Regions that are set ahead of a guest that writes on */
#define AHEAD 16

/* Sectors of the file that are written at once */
#define SECTORS_MAX 64
#define SECTOR 512

/* The file is written */

typedef struct IntentWork {
    Intent *s;
    bool spoil;
    int64_t length;             /* of the disk, as of now */
    uint64_t *words;            /* all, to make the file anew, or NULL */
    unsigned n;
    uint64_t sectors[SECTORS_MAX];
    uint8_t buf[SECTORS_MAX][SECTOR];
} IntentWork;

/* Work for a thread of the pool, or the main thread */
static int intent_work(void *opaque)
{
    IntentWork *w = opaque;
    int fd = w->s->fd;
    int ret = 0;

    if (w->spoil) {
        return replication_intent_spoil(fd);
    }
    if (w->words) {
        QEMU_LOCK_GUARD(&w->s->head_lock);
        w->s->head.length = w->length;
        return replication_intent_make(fd, &w->s->head, w->words);
    }
    for (unsigned i = 0; i < w->n && ret >= 0; i++) {
        ret = replication_intent_store(fd, w->sectors[i], w->buf[i]);
    }
    return ret < 0 ? ret : replication_intent_sync(fd);
}

bool intent_is_dirty_locked(Intent *s)
{
    return s->spoil || s->make ||
           find_first_bit(s->dirty, s->n_sectors) < s->n_sectors;
}

static void intent_take_locked(Intent *s, IntentWork *w)
{
    uint64_t i = find_first_bit(s->dirty, s->n_sectors);

    w->s = s;
    w->spoil = s->spoil;
    w->length = s->length;
    if (s->make && !w->spoil) {
        w->words = g_memdup2(s->want, s->n_words * sizeof(*s->want));
        bitmap_zero(s->dirty, s->n_sectors);
        s->make = false;
        return;
    }
    while (!w->spoil && i < s->n_sectors && w->n < SECTORS_MAX) {
        uint64_t at = i * REPLICATION_INTENT_WORDS;

        /* Its instance does not change as long as requests are under way */
        replication_intent_pack(w->buf[w->n], &s->head, i, s->want + at);
        w->sectors[w->n++] = i;
        clear_bit(i, s->dirty);
        i = find_next_bit(s->dirty, s->n_sectors, i + 1);
    }
}

static void intent_wrote_locked(Intent *s, IntentWork *w, int ret)
{
    if (w->spoil) {
        s->stage = ret < 0 ? INTENT_FAILED : INTENT_OFF;
        s->spoil = false;
        return;
    }
    s->spoil |= ret < 0;
    if (w->length != s->length) {
        return; /* it will be made anew */
    }
    for (uint64_t i = 0; w->words && ret >= 0 && i < s->n_words; i++) {
        s->stable[i] |= w->words[i] & s->want[i];
    }
    for (unsigned i = 0; i < w->n; i++) {
        uint64_t at = w->sectors[i] * REPLICATION_INTENT_WORDS;

        if (ret < 0) {
            set_bit(w->sectors[i], s->dirty);
            continue;
        }
        /* What has been cleared meanwhile is not stable, and dirty again */
        for (int k = 0; k < REPLICATION_INTENT_WORDS; k++) {
            s->stable[at + k] |= ldq_be_p(w->buf[i] + k * 8) &
                                 s->want[at + k];
        }
    }
}

/* It is given up; the lock is not held */
static void intent_report(Intent *s, bool failed)
{
    g_autofree char *text = g_strdup_printf(
        "the intent log of disk '%s' cannot be used any more%s",
        bdrv_get_node_name(s->bs), failed ? ", nor the disk be written to: "
        "nobody could tell from its file" : "");

    error_report("%s", text);
    qapi_event_send_colo_disk_error(text);
}

void coroutine_fn intent_write_locked(Intent *s)
{
    g_autofree IntentWork *w = g_new0(IntentWork, 1);
    g_autofree uint64_t *words = NULL;
    int ret;

    assert(!s->writing);
    s->writing = true;
    intent_take_locked(s, w);
    words = w->words;
    qemu_mutex_unlock(&s->lock);
    ret = thread_pool_submit_co(intent_work, w);
    trace_replication_intent_write(bdrv_get_node_name(s->bs), w->n, w->spoil,
                                   ret);
    if (w->spoil) {
        intent_report(s, ret < 0);
    }
    qemu_mutex_lock(&s->lock);
    intent_wrote_locked(s, w, ret);
    s->writing = false;
    qemu_co_queue_restart_all(&s->written);
}

/* The same, while nobody else does; in the main thread */
void intent_write_sync(Intent *s)
{
    g_autofree IntentWork *w = g_new(IntentWork, 1);

    QEMU_LOCK_GUARD(&s->lock);
    while ((s->stage == INTENT_TRACKS || s->stage == INTENT_FOLLOWS) &&
           intent_is_dirty_locked(s)) {
        int ret;

        memset(w, 0, sizeof(*w));
        intent_take_locked(s, w);
        ret = intent_work(w);
        if (w->spoil) {
            intent_report(s, ret < 0);
        }
        intent_wrote_locked(s, w, ret);
        g_free(w->words);
    }
}

void coroutine_fn intent_write_all(Intent *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    while ((s->stage == INTENT_TRACKS || s->stage == INTENT_FOLLOWS) &&
           intent_is_dirty_locked(s)) {
        if (s->writing) {
            qemu_co_queue_wait(&s->written, &s->lock);
        } else {
            intent_write_locked(s);
        }
    }
}

/* Bits */

/* So many words, the new ones 0 */
static void lengthen(uint64_t **words, uint64_t before, uint64_t after)
{
    *words = g_renew(uint64_t, *words, after);
    memset(*words + before, 0, (after - before) * sizeof(**words));
}

void intent_set_length(Intent *s, int64_t length)
{
    uint64_t first, words;

    QEMU_LOCK_GUARD(&s->lock);
    if (length == s->length) {
        return;
    }
    if (length < s->length) {
        s->spoil = s->stage == INTENT_TRACKS || s->stage == INTENT_FOLLOWS;
        return;
    }
    first = s->length / s->region;
    words = replication_intent_words(length, s->region);
    lengthen(&s->want, s->n_words, words);
    lengthen(&s->stable, s->n_words, words);
    lengthen(&s->kept, s->n_words, words);
    lengthen(&s->hot[0], s->n_words, words);
    lengthen(&s->hot[1], s->n_words, words);
    lengthen(&s->candidates, s->n_words, words);
    s->length = length;
    s->n_regions = DIV_ROUND_UP(length, s->region);
    s->n_words = words;
    s->n_sectors = replication_intent_sectors(length, s->region);
    g_free(s->dirty);
    s->dirty = bitmap_new(s->n_sectors);
    for (uint64_t n = first; s->stage == INTENT_TRACKS && n < s->n_regions;
         n++) {
        replication_intent_set(s->want, n);
        replication_intent_set(s->kept, n);
    }
    /* What has no log yet gets one when a session begins, see intent.c */
    s->make = s->stage == INTENT_TRACKS || !s->why;
}

void intent_want_locked(Intent *s, uint64_t n)
{
    if (!replication_intent_test(s->want, n)) {
        replication_intent_set(s->want, n);
        set_bit(n / 64 / REPLICATION_INTENT_WORDS, s->dirty);
    }
}

/* The regions from @first to @last are about to be written to, or @discarded */
static void note_locked(Intent *s, uint64_t first, uint64_t last,
                        bool discarded)
{
    bool new = false;

    for (uint64_t n = first; n <= last; n++) {
        new |= !replication_intent_test(s->want, n);
        replication_intent_set(s->hot[s->now], n);
        if (discarded) {
            replication_intent_set(s->kept, n);
        }
        intent_want_locked(s, n);
    }
    if (new && first && replication_intent_test(s->want, first - 1)) {
        for (uint64_t n = last + 1;
             n < s->n_regions && n <= last + AHEAD; n++) {
            intent_want_locked(s, n);
        }
    }
}

static bool is_stable_locked(Intent *s, uint64_t first, uint64_t last)
{
    for (uint64_t n = first; n <= last; n++) {
        if (!replication_intent_test(s->stable, n)) {
            return false;
        }
    }
    return true;
}

void intent_clear_locked(Intent *s, const uint64_t *words)
{
    for (uint64_t i = 0; i < s->n_words; i++) {
        uint64_t gone = words[i] & s->want[i] & ~s->kept[i] &
                        ~s->hot[0][i] & ~s->hot[1][i];

        if (gone) {
            s->want[i] &= ~gone;
            s->stable[i] &= ~gone;
            set_bit(i / REPLICATION_INTENT_WORDS, s->dirty);
        }
    }
}

/*
 * A write begins: wait until it may.  *@window: for intent_end(), if this is not
 * negative.
 */
int coroutine_fn intent_begin(Intent *s, int64_t offset, int64_t bytes,
                                     bool discards, int *window)
{
    uint64_t first = offset / s->region;
    uint64_t last = (offset + MAX(bytes, 1) - 1) / s->region;

    *window = -1;
    QEMU_LOCK_GUARD(&s->lock);
    if (s->stage == INTENT_TRACKS && last >= s->n_regions) {
        s->spoil = true;        /* the disk has grown */
        first = last = 0;
    }
    if (s->stage == INTENT_TRACKS && bytes) {
        *window = s->now;
        s->in_flight[*window]++;
        note_locked(s, first, last, discards);
    }
    while (*window >= 0 && s->stage == INTENT_TRACKS &&
           (s->spoil || s->make || !is_stable_locked(s, first, last))) {
        if (s->writing) {
            qemu_co_queue_wait(&s->written, &s->lock);
        } else {
            intent_write_locked(s);
        }
    }
    if (s->stage != INTENT_FAILED) {
        return 0;
    }
    if (*window >= 0) {
        s->in_flight[*window]--;
    }
    return -EIO;
}

void intent_end(Intent *s, int window)
{
    if (window >= 0) {
        QEMU_LOCK_GUARD(&s->lock);
        s->in_flight[window]--;
    }
}
