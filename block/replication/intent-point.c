/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: what an intent log speaks of, and what others ask of it, both
 * sides.  See intent.c.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/bswap.h"
#include "qemu/host-utils.h"
#include "qemu/lockable.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "block/dirty-bitmap.h"
#include "block/thread-pool.h"
#include "intent-int.h"

/* The window, see intent.h */
#define WINDOW_MAGIC 0x434f4c4f494e5457ULL      /* COLOINTW */

/* Who asks */

void replication_intent_info(BlockDriverState *intent,
                             ReplicationIntentInfo *info)
{
    Intent *s = intent_of(intent);

    QEMU_LOCK_GUARD(&s->head_lock);
    QEMU_LOCK_GUARD(&s->lock);
    *info = (ReplicationIntentInfo) {
        .region = s->region,
        .number = s->head.number,
        .number_before = s->head.number_before,
        .why = g_strdup(s->why),
    };
    if (s->stage == INTENT_OFF || s->stage == INTENT_FAILED) {
        g_free(info->why);
        info->why = g_strdup("its file could not be written, or the disk has "
                             "got another length");
    } else if (!s->why) {
        info->common = s->head.common;
        info->common_next = s->head.common_next;
    }
}

void replication_intent_merge(BlockDriverState *intent,
                              BdrvDirtyBitmap *bitmap)
{
    Intent *s = intent_of(intent);
    int64_t length = bdrv_dirty_bitmap_size(bitmap);

    QEMU_LOCK_GUARD(&s->lock);
    for (uint64_t n = 0; n < s->n_regions; n++) {
        int64_t at = n * s->region;

        if (replication_intent_test(s->want, n) && at < length) {
            bdrv_set_dirty_bitmap(bitmap, at,
                                  MIN(s->region, length - at));
        }
    }
}

uint64_t replication_intent_bytes(BlockDriverState *intent)
{
    Intent *s = intent_of(intent);
    uint64_t n = 0;

    QEMU_LOCK_GUARD(&s->lock);
    for (uint64_t i = 0; i < s->n_words; i++) {
        n += ctpop64(s->want[i]);
    }
    return n * s->region;
}

/* The head */

/* The node with the log that the disk of @s has, or NULL */
static BlockDriverState *intent_of_node(BDRVReplicationState *s)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return replication_intent_above(s->bs);
}

void replication_intent_length(BDRVReplicationState *s)
{
    BlockDriverState *intent = replication_intent_above(s->bs);

    if (intent) {
        intent_set_length(intent_of(intent), bdrv_getlength(intent));
    }
}

/* Record it.  If that cannot be nobody may trust the file. */
static int store_head_locked(Intent *s)
{
    int ret = replication_intent_store_head(s->fd, &s->head);

    if (ret < 0) {
        QEMU_LOCK_GUARD(&s->lock);
        s->spoil = true;
    }
    return ret;
}

/* Is there a file that has what we know? */
static bool has_file(Intent *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    return (s->stage == INTENT_TRACKS || s->stage == INTENT_FOLLOWS) &&
           !s->spoil;
}

/* All anew, with what is wanted; nobody writes */
void intent_make(Intent *s)
{
    int ret;

    QEMU_LOCK_GUARD(&s->head_lock);
    QEMU_LOCK_GUARD(&s->lock);
    s->head.length = s->length;
    s->make = false;
    ret = replication_intent_make(s->fd, &s->head, s->want);
    if (ret < 0) {
        s->spoil = true;
        return;
    }
    memcpy(s->stable, s->want, s->n_words * sizeof(*s->want));
    bitmap_zero(s->dirty, s->n_sectors);
}

void replication_intent_record(BDRVReplicationState *of, uint64_t number)
{
    BlockDriverState *intent = intent_of_node(of);
    Intent *s;

    int ret = 0;

    if (!intent || !of->generation_file) {
        return;
    }
    s = intent_of(intent);
    WITH_QEMU_LOCK_GUARD(&s->head_lock) {
        if (s->head.number != number) {
            s->head.number_before = s->head.number;
            s->head.number = number;
            ret = has_file(s) ? store_head_locked(s) : 0;
        }
    }
    if (ret < 0) {
        bdrv_drained_begin(intent);
        intent_write_sync(s);   /* it is spoiled */
        bdrv_drained_end(intent);
    }
}

typedef struct PlanWork {
    Intent *s;
    uint64_t now;
    uint64_t next;
    uint64_t number;
} PlanWork;

static int plan_work(void *opaque)
{
    PlanWork *w = opaque;
    Intent *s = w->s;
    int ret;

    QEMU_LOCK_GUARD(&s->head_lock);
    s->head.common = w->now;
    s->head.common_next = w->next;
    if (s->head.number != w->number) {
        s->head.number_before = s->head.number = w->number;
    }
    ret = store_head_locked(s);
    if (ret >= 0) {
        QEMU_LOCK_GUARD(&s->lock);
        g_clear_pointer(&s->why, g_free);
        /* The resync has seen to what was discarded before */
        for (uint64_t i = 0; i < s->n_words; i++) {
            s->kept[i] &= s->hot[0][i] | s->hot[1][i];
        }
    }
    return ret;
}

int coroutine_fn replication_intent_plan(BlockDriverState *intent,
                                         uint64_t now, uint64_t next,
                                         uint64_t number)
{
    PlanWork w = { intent_of(intent), now, next, number };

    if (!has_file(w.s)) {
        return -EIO;
    }
    return thread_pool_submit_co(plan_work, &w);
}

/* The secondary */

void replication_intent_name(BlockDriverState *intent, uint64_t common)
{
    Intent *s = intent_of(intent);

    QEMU_LOCK_GUARD(&s->head_lock);
    s->named = common;
}

static void forget_all_locked(Intent *s)
{
    memset(s->want, 0, s->n_words * sizeof(*s->want));
    memset(s->stable, 0, s->n_words * sizeof(*s->want));
}

void replication_intent_start(BDRVReplicationState *of)
{
    BlockDriverState *intent = intent_of_node(of);
    Intent *s = intent ? intent_of(intent) : NULL;
    bool named = false;

    if (!s) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->head_lock) {
        QEMU_LOCK_GUARD(&s->lock);
        named = s->named && s->stage == INTENT_FOLLOWS;
        if (named) {
            s->head.common = s->named;
            s->head.common_next = 0;
            s->named = 0;
            forget_all_locked(s);
            g_clear_pointer(&s->why, g_free);
        }
    }
    if (named) {
        intent_make(s);
        intent_write_sync(s);
    }
}

/* What the overlay has will be on the disk */
static int note_overlay(Intent *s, BlockDriverState *bs)
{
    int64_t length = bdrv_getlength(bs);
    int64_t at = 0;

    while (at < length) {
        int64_t n;
        int ret = bdrv_is_allocated(bs, at, length - at, &n);

        if (ret < 0) {
            return ret;
        }
        if (n <= 0 || DIV_ROUND_UP(at + n, s->region) > s->n_regions) {
            return -EIO;
        }
        for (uint64_t i = at / s->region;
             ret && i < DIV_ROUND_UP(at + n, s->region); i++) {
            QEMU_LOCK_GUARD(&s->lock);
            intent_want_locked(s, i);
        }
        at += n;
    }
    return 0;
}

static int note_overlays(Intent *s, BDRVReplicationState *of)
{
    BlockDriverState *active, *hidden;
    int ret;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    active = replication_active(of);
    hidden = replication_hidden(of);
    if (!active || !hidden) {
        return -EIO;
    }
    ret = note_overlay(s, hidden);
    return ret < 0 ? ret : note_overlay(s, active);
}

void replication_intent_go_alone(BDRVReplicationState *of)
{
    BlockDriverState *intent = intent_of_node(of);
    Intent *s = intent ? intent_of(intent) : NULL;
    bool new;

    if (!s) {
        return;
    }
    bdrv_drained_begin(intent);
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        if (s->stage == INTENT_FOLLOWS) {
            s->stage = INTENT_TRACKS;
        }
        new = s->why != NULL;
    }
    /* From here on it writes to what this is about: nobody does yet */
    if (note_overlays(s, of) < 0) {
        QEMU_LOCK_GUARD(&s->lock);
        s->spoil = true;
    } else if (new) {
        intent_make(s);
    }
    intent_write_sync(s);
    bdrv_drained_end(intent);
}

/* The window of a sink */

void replication_intent_unpack(ReplicationIntentWindow *w, const uint8_t *buf)
{
    *w = (ReplicationIntentWindow) { 0 };
    if (ldq_be_p(buf) == WINDOW_MAGIC) {
        w->marked = ldq_be_p(buf + 8);
        w->common = ldq_be_p(buf + 16);
        w->region = ldq_be_p(buf + 24);
        w->bytes = ldq_be_p(buf + 32);
        w->common_next = ldq_be_p(buf + 40);
    }
}

/* How many regions of the log a bit of the window has: not to be too many */
static uint64_t regions_per_bit_locked(Intent *s)
{
    uint64_t n = 1;

    while (DIV_ROUND_UP(DIV_ROUND_UP(s->n_regions, n), 8) >
           REPLICATION_INTENT_BITS_MAX) {
        n *= 2;
    }
    return n;
}

static uint8_t window_byte_locked(Intent *s, uint64_t i, uint64_t n)
{
    uint8_t byte = 0;

    for (uint64_t bit = i * 8; bit < (i + 1) * 8; bit++) {
        for (uint64_t k = bit * n; k < (bit + 1) * n && k < s->n_regions;
             k++) {
            if (replication_intent_test(s->want, k)) {
                byte |= 1 << (bit % 8);
            }
        }
    }
    return byte;
}

void replication_intent_window(BlockDriverState *intent, uint64_t marked,
                               int64_t at, int64_t bytes, uint8_t *buf)
{
    Intent *s = intent ? intent_of(intent) : NULL;
    ReplicationIntentInfo info = { 0 };
    uint8_t head[REPLICATION_INTENT_HEAD] = { 0 };
    uint64_t n = 1, count = 0;

    if (s) {
        replication_intent_info(intent, &info);
        g_free(info.why);
        QEMU_LOCK_GUARD(&s->lock);
        n = regions_per_bit_locked(s);
        count = DIV_ROUND_UP(DIV_ROUND_UP(s->n_regions, n), 8);
    }
    stq_be_p(head, WINDOW_MAGIC);
    stq_be_p(head + 8, marked);
    stq_be_p(head + 16, info.common);
    stq_be_p(head + 24, s ? s->region * n : 0);
    stq_be_p(head + 32, count);
    stq_be_p(head + 40, info.common_next);
    for (int64_t i = 0; i < bytes; i++, at++) {
        uint64_t k = at - REPLICATION_INTENT_BITS_AT;

        if (at >= REPLICATION_INTENT_AT &&
            at < REPLICATION_INTENT_AT + sizeof(head)) {
            buf[i] = head[at - REPLICATION_INTENT_AT];
        } else if (at >= REPLICATION_INTENT_BITS_AT && k < count) {
            QEMU_LOCK_GUARD(&s->lock);
            buf[i] = window_byte_locked(s, k, n);
        }
    }
}
