/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, primary side: which bytes of two replicated disks need not be
 * equal, see watch.h.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/lockable.h"
#include "qemu/queue.h"
#include "qemu/thread.h"
#include "qemu/units.h"
#include "discards.h"
#include "watch.h"

typedef struct WatchRange {
    QTAILQ_ENTRY(WatchRange) next;
    int64_t offset;
    int64_t bytes;
    unsigned long *touched;     /* a bit for each of them */
} WatchRange;

struct ReplicationWatch {
    QemuMutex lock;
    /* All below: lock */
    ReplicationDiscards voids;  /* "pending": discarded, and not written */
    QTAILQ_HEAD(, WatchRange) ranges;
};

ReplicationWatch *replication_watch_new(void)
{
    ReplicationWatch *w = g_new0(ReplicationWatch, 1);

    qemu_mutex_init(&w->lock);
    QTAILQ_INIT(&w->ranges);
    return w;
}

void replication_watch_free(ReplicationWatch *w)
{
    if (w) {
        assert(QTAILQ_EMPTY(&w->ranges));
        replication_discards_clear(&w->voids);
        qemu_mutex_destroy(&w->lock);
        g_free(w);
    }
}

static void touch_locked(ReplicationWatch *w, int64_t offset, int64_t bytes)
{
    WatchRange *r;

    QTAILQ_FOREACH(r, &w->ranges, next) {
        int64_t begin = MAX(offset, r->offset);
        int64_t end = MIN(offset + bytes, r->offset + r->bytes);

        if (begin < end) {
            bitmap_set(r->touched, begin - r->offset, end - begin);
        }
    }
}

void replication_watch_written(ReplicationWatch *w, int64_t offset,
                               int64_t bytes)
{
    QEMU_LOCK_GUARD(&w->lock);
    if (bytes) {
        touch_locked(w, offset, bytes);
        replication_discards_remove(&w->voids, offset, bytes);
    }
}

void replication_watch_discarded(ReplicationWatch *w, int64_t offset,
                                 int64_t bytes)
{
    QEMU_LOCK_GUARD(&w->lock);
    if (bytes) {
        touch_locked(w, offset, bytes);
        replication_discards_add(&w->voids, offset, bytes);
    }
}

void replication_watch_add(ReplicationWatch *w, int64_t offset, int64_t bytes)
{
    WatchRange *r = g_new0(WatchRange, 1);

    assert(bytes > 0 && bytes <= REPLICATION_WATCH_MAX);
    r->offset = offset;
    r->bytes = bytes;
    r->touched = bitmap_new(bytes);
    QEMU_LOCK_GUARD(&w->lock);
    QTAILQ_INSERT_TAIL(&w->ranges, r, next);
}

static WatchRange *find_locked(ReplicationWatch *w, int64_t offset)
{
    WatchRange *r;

    QTAILQ_FOREACH(r, &w->ranges, next) {
        if (r->offset == offset) {
            return r;
        }
    }
    g_assert_not_reached();
}

void replication_watch_remove(ReplicationWatch *w, int64_t offset)
{
    WatchRange *r;

    QEMU_LOCK_GUARD(&w->lock);
    r = find_locked(w, offset);
    QTAILQ_REMOVE(&w->ranges, r, next);
    g_free(r->touched);
    g_free(r);
}

void replication_watch_mask(ReplicationWatch *w, int64_t offset,
                            unsigned long *mask)
{
    int64_t at = offset, n, end;
    WatchRange *r;

    QEMU_LOCK_GUARD(&w->lock);
    r = find_locked(w, offset);
    end = offset + r->bytes;
    bitmap_copy(mask, r->touched, r->bytes);
    while (at < end &&
           replication_discards_find(&w->voids, at, end - at, &at, &n)) {
        bitmap_set(mask, at - offset, n);
        at += n;
    }
}

bool replication_watch_is_void(ReplicationWatch *w, int64_t offset,
                               int64_t bytes)
{
    int64_t at, n;

    /* Parts that touch are one */
    QEMU_LOCK_GUARD(&w->lock);
    return replication_discards_find(&w->voids, offset, bytes, &at, &n) &&
           n == bytes;
}

bool replication_watch_forgot(ReplicationWatch *w)
{
    QEMU_LOCK_GUARD(&w->lock);
    return w->voids.forgot;
}
