/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, secondary side: writes that wait for their commit, see redo.h.
 *
 * Epochs are in a list; the last one is not committed.  Each has its groups in
 * the order in which they came, and a tree of which part of the disk which
 * group has, of which no two overlap: what is written again is taken out.  So a
 * commit only adds an epoch to the list, and who reads looks from the newest
 * tree to the oldest one.  A discard is in no tree: what is read there may be
 * what was there before.
 *
 * A group leaves the trees when it is on the disk.  It goes when nobody reads
 * it from the file any more, too.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/coroutine.h"
#include "qemu/error-report.h"
#include "qemu/interval-tree.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "qemu/memalign.h"
#include "qemu/queue.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "block/block-io.h"
#include "block/thread-pool.h"
#include "redo.h"

/* What is read from the file at a time, bytes */
#define READ_MAX MiB

/* For memory that can be written past the host's page cache */
#define ALIGNMENT 4096

typedef struct RedoEpoch RedoEpoch;

struct RedoGroup {
    /* Set once */
    RedoEpoch *epoch;
    ReplicationEntry *entries;
    unsigned n_entries;
    size_t bytes;               /* that the entries write */
    uint8_t *data;              /* NULL: they are in the file... */
    int64_t file_at;            /* ...from here on */
    size_t cost;                /* what it takes of the memory */

    /* lock */
    QSIMPLEQ_ENTRY(RedoGroup) next;
    unsigned users;             /* the store, and who reads from the file */
};

/* A part of the disk */
typedef struct RedoPart {
    IntervalTreeNode node;
    RedoGroup *group;
    int64_t at;                 /* in what it writes; -1: it is zero */
} RedoPart;

struct RedoEpoch {
    QSIMPLEQ_HEAD(, RedoGroup) groups;
    IntervalTreeRoot parts;
    int64_t due_ms;             /* when it was committed, or 0 */
    QTAILQ_ENTRY(RedoEpoch) next;
};

struct RedoStore {
    int scratch;                /* set once */

    QemuMutex lock;
    /* All below: lock */
    QTAILQ_HEAD(, RedoEpoch) epochs;
    uint64_t memory;            /* bytes */
    uint64_t file_bytes;        /* that groups have there */
    int64_t file_end;
    unsigned n_in_file;         /* groups; without any it begins anew */
    bool closed;
    int err;                    /* of the disk: negative errno */
    CoQueue room;               /* who has something to be held */
    unsigned n_waiting;         /* in room */
};

/* A file without a name */

int redo_scratch(const char *folder, Error **errp)
{
    g_autofree char *path = g_build_filename(folder, "colo-redo-XXXXXX", NULL);
    int fd = g_mkstemp_full(path, O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0) {
        error_setg_errno(errp, errno, "no file can be made in '%s'", folder);
        return -1;
    }
    unlink(path);
    return fd;
}

/* A transfer, for a thread of the pool */
typedef struct RedoTransfer {
    int fd;
    uint8_t *buf;
    size_t bytes;
    int64_t at;
} RedoTransfer;

static int do_write(void *opaque)
{
    RedoTransfer *t = opaque;

    while (t->bytes) {
        ssize_t n = RETRY_ON_EINTR(pwrite(t->fd, t->buf, t->bytes, t->at));

        if (n <= 0) {
            return n < 0 ? -errno : -ENOSPC;
        }
        t->buf += n;
        t->bytes -= n;
        t->at += n;
    }
    return 0;
}

static int do_read(void *opaque)
{
    RedoTransfer *t = opaque;

    while (t->bytes) {
        ssize_t n = RETRY_ON_EINTR(pread(t->fd, t->buf, t->bytes, t->at));

        if (n <= 0) {
            return n < 0 ? -errno : -EIO;
        }
        t->buf += n;
        t->bytes -= n;
        t->at += n;
    }
    return 0;
}

/* Give the space back; it does no harm if that cannot be */
static int do_punch(void *opaque)
{
#ifdef CONFIG_FALLOCATE_PUNCH_HOLE
    RedoTransfer *t = opaque;

    return RETRY_ON_EINTR(fallocate(t->fd, FALLOC_FL_PUNCH_HOLE |
                                    FALLOC_FL_KEEP_SIZE, t->at, t->bytes));
#else
    return -1;
#endif
}

/* Groups */

static void group_free(RedoGroup *g)
{
    if (g) {
        qemu_vfree(g->data);
        g_free(g->entries);
        g_free(g);
    }
}

/* With a copy of all.  NULL if there is no memory. */
static RedoGroup *group_new(const ReplicationEntry *entries, unsigned n_entries,
                            QEMUIOVector *qiov, size_t at)
{
    RedoGroup *g = g_new0(RedoGroup, 1);

    g->n_entries = n_entries;
    g->entries = g_memdup2(entries, n_entries * sizeof(*entries));
    g->users = 1;
    for (unsigned i = 0; i < n_entries; i++) {
        if (entries[i].type == REPLICATION_ENTRY_WRITE) {
            g->bytes += entries[i].bytes;
        }
    }
    g->cost = sizeof(*g) + n_entries * (sizeof(*entries) + sizeof(RedoPart));
    if (g->bytes) {
        g->data = qemu_try_memalign(ALIGNMENT, g->bytes);
        if (!g->data) {
            group_free(g);
            return NULL;
        }
        qemu_iovec_to_buf(qiov, at, g->data, g->bytes);
        g->cost += g->bytes;
    }
    return g;
}

/* It is not used any more by one of its users */
static void group_unuse_locked(RedoStore *r, RedoGroup *g)
{
    if (--g->users) {
        return;
    }
    r->memory -= g->cost;
    if (g->bytes && !g->data) {
        r->file_bytes -= g->bytes;
        if (!--r->n_in_file) {
            r->file_end = 0;
        }
    }
    group_free(g);
}

/* Which part of the disk is where */

static void part_add(RedoEpoch *e, uint64_t start, uint64_t last, RedoGroup *g,
                     int64_t at)
{
    RedoPart *part = g_new0(RedoPart, 1);

    part->node.start = start;
    part->node.last = last;
    part->group = g;
    part->at = at;
    interval_tree_insert(&part->node, &e->parts);
}

static void part_remove(RedoEpoch *e, RedoPart *part)
{
    interval_tree_remove(&part->node, &e->parts);
    g_free(part);
}

static RedoPart *part_find(RedoEpoch *e, uint64_t start, uint64_t last)
{
    IntervalTreeNode *node = interval_tree_iter_first(&e->parts, start, last);

    return node ? container_of(node, RedoPart, node) : NULL;
}

/* The rest of @part from @start on */
static int64_t part_at(const RedoPart *part, uint64_t start)
{
    return part->at < 0 ? -1 : part->at + (int64_t)(start - part->node.start);
}

/* What was there in this epoch is written again */
static void parts_cut_out(RedoEpoch *e, uint64_t start, uint64_t last)
{
    RedoPart *part;

    while ((part = part_find(e, start, last))) {
        if (part->node.start < start) {
            part_add(e, part->node.start, start - 1, part->group, part->at);
        }
        if (part->node.last > last) {
            part_add(e, last + 1, part->node.last, part->group,
                     part_at(part, last + 1));
        }
        part_remove(e, part);
    }
}

static void parts_add_group(RedoEpoch *e, RedoGroup *g)
{
    int64_t at = 0;

    for (unsigned i = 0; i < g->n_entries; i++) {
        const ReplicationEntry *entry = &g->entries[i];
        uint64_t start = entry->offset;
        uint64_t last = start + entry->bytes - 1;
        bool writes = entry->type == REPLICATION_ENTRY_WRITE;

        if (writes || entry->type == REPLICATION_ENTRY_ZERO ||
            entry->type == REPLICATION_ENTRY_ZERO_UNMAP) {
            parts_cut_out(e, start, last);
            part_add(e, start, last, g, writes ? at : -1);
        }
        if (writes) {
            at += entry->bytes;
        }
    }
}

/* What is on the disk is found there */
static void parts_remove_group(RedoEpoch *e, RedoGroup *g)
{
    for (unsigned i = 0; i < g->n_entries; i++) {
        uint64_t start = g->entries[i].offset;
        uint64_t last = start + g->entries[i].bytes - 1;
        IntervalTreeNode *node, *next;

        if (!g->entries[i].bytes) {
            continue;
        }
        for (node = interval_tree_iter_first(&e->parts, start, last); node;
             node = next) {
            RedoPart *part = container_of(node, RedoPart, node);

            next = interval_tree_iter_next(node, start, last);
            if (part->group == g) {
                part_remove(e, part);
            }
        }
    }
}

/* Epochs */

static RedoEpoch *epoch_begin_locked(RedoStore *r)
{
    RedoEpoch *e = g_new0(RedoEpoch, 1);

    QSIMPLEQ_INIT(&e->groups);
    QTAILQ_INSERT_TAIL(&r->epochs, e, next);
    return e;
}

static void epoch_free_locked(RedoStore *r, RedoEpoch *e)
{
    RedoGroup *g;
    RedoPart *part;

    while ((part = part_find(e, 0, UINT64_MAX))) {
        part_remove(e, part);
    }
    while ((g = QSIMPLEQ_FIRST(&e->groups))) {
        QSIMPLEQ_REMOVE_HEAD(&e->groups, next);
        group_unuse_locked(r, g);
    }
    QTAILQ_REMOVE(&r->epochs, e, next);
    g_free(e);
}

/* The one that is not committed */
static RedoEpoch *last_epoch_locked(RedoStore *r)
{
    return QTAILQ_LAST(&r->epochs);
}

static bool has_due_locked(RedoStore *r)
{
    return QTAILQ_FIRST(&r->epochs) != last_epoch_locked(r);
}

RedoStore *redo_new(int scratch)
{
    RedoStore *r = g_new0(RedoStore, 1);

    r->scratch = scratch;
    r->closed = true;
    qemu_mutex_init(&r->lock);
    QTAILQ_INIT(&r->epochs);
    qemu_co_queue_init(&r->room);
    epoch_begin_locked(r);
    return r;
}

static void clear_locked(RedoStore *r)
{
    RedoEpoch *e, *next;

    QTAILQ_FOREACH_SAFE(e, &r->epochs, next, next) {
        epoch_free_locked(r, e);
    }
}

void redo_free(RedoStore *r)
{
    if (!r) {
        return;
    }
    clear_locked(r);
    close(r->scratch);
    qemu_mutex_destroy(&r->lock);
    g_free(r);
}

void redo_begin(RedoStore *r)
{
    QEMU_LOCK_GUARD(&r->lock);
    assert(!has_due_locked(r));
    r->closed = false;
    r->err = 0;
}

/* Let those who wait for room look again.  No coroutine. */
static void wake_locked(RedoStore *r)
{
    /* Each drops the lock, and may wait again */
    unsigned n = r->n_waiting;

    while (n-- && qemu_co_enter_next(&r->room, &r->lock)) {
        ;
    }
}

void redo_wake(RedoStore *r)
{
    QEMU_LOCK_GUARD(&r->lock);
    wake_locked(r);
}

void redo_close(RedoStore *r)
{
    QEMU_LOCK_GUARD(&r->lock);
    r->closed = true;
    wake_locked(r);
}

/* What was dropped has no holes; it does no harm if the space stays */
static void empty_file_locked(RedoStore *r)
{
    if (!r->n_in_file && ftruncate(r->scratch, 0) < 0) {
        warn_report_once("replication: a temporary file stays as long as it "
                         "is: %s", strerror(errno));
    }
}

void redo_drop(RedoStore *r)
{
    QEMU_LOCK_GUARD(&r->lock);
    assert(r->closed);
    epoch_free_locked(r, last_epoch_locked(r));
    epoch_begin_locked(r);
    empty_file_locked(r);
}

void redo_clear(RedoStore *r)
{
    QEMU_LOCK_GUARD(&r->lock);
    assert(r->closed);
    clear_locked(r);
    epoch_begin_locked(r);
    empty_file_locked(r);
}

void redo_fail(RedoStore *r, int err)
{
    QEMU_LOCK_GUARD(&r->lock);
    r->err = err;
    if (qemu_in_coroutine()) {
        qemu_co_queue_restart_all(&r->room);
    } else {
        wake_locked(r);
    }
}

/* Hold */

static bool is_late_locked(RedoStore *r)
{
    return QTAILQ_FIRST(&r->epochs)->due_ms + REDO_LATE_MS <
           qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
}

static bool has_to_wait_locked(RedoStore *r, BlockDriverState *bs,
                               RedoGroup *g)
{
    return !r->closed && !r->err && has_due_locked(r) &&
           (r->memory + g->cost > REDO_MEMORY_MAX || is_late_locked(r)) &&
           !qatomic_read(&bs->quiesce_counter);
}

static int failure_locked(RedoStore *r)
{
    return r->closed ? -ECANCELED : r->err;
}

/*
 * Wait for room, and take it.  False in *@in_memory: it is in the file, and
 * g->file_at is set.
 */
static int coroutine_fn take_room(RedoStore *r, BlockDriverState *bs,
                                  RedoGroup *g, bool *in_memory)
{
    int ret;

    QEMU_LOCK_GUARD(&r->lock);
    while (has_to_wait_locked(r, bs, g)) {
        r->n_waiting++;
        qemu_co_queue_wait(&r->room, &r->lock);
        r->n_waiting--;
    }
    ret = failure_locked(r);
    if (ret < 0) {
        return ret;
    }
    *in_memory = !g->bytes || r->memory + g->cost <= REDO_MEMORY_MAX;
    if (!*in_memory) {
        g->file_at = r->file_end;
        /* Holes are of whole blocks */
        r->file_end += ROUND_UP(g->bytes, ALIGNMENT);
        r->file_bytes += g->bytes;
        r->n_in_file++;
        g->cost -= g->bytes;
    }
    r->memory += g->cost;
    return 0;
}

static int coroutine_fn write_file(RedoStore *r, RedoGroup *g)
{
    RedoTransfer t = {
        .fd = r->scratch,
        .buf = g->data,
        .bytes = g->bytes,
        .at = g->file_at,
    };
    int ret = thread_pool_submit_co(do_write, &t);

    qemu_vfree(g->data);
    g->data = NULL;
    return ret;
}

int coroutine_fn redo_hold(RedoStore *r, BlockDriverState *bs,
                           const ReplicationEntry *entries, unsigned n_entries,
                           QEMUIOVector *qiov, size_t at)
{
    RedoGroup *g = group_new(entries, n_entries, qiov, at);
    bool in_memory;
    int ret;

    if (!g) {
        return -ENOMEM;
    }
    ret = take_room(r, bs, g, &in_memory);
    if (ret < 0) {
        group_free(g);
        return ret;
    }
    if (!in_memory) {
        ret = write_file(r, g);
    }
    QEMU_LOCK_GUARD(&r->lock);
    ret = ret < 0 ? ret : failure_locked(r);
    if (ret < 0) {
        group_unuse_locked(r, g);
        return ret;
    }
    g->epoch = last_epoch_locked(r);
    parts_add_group(g->epoch, g);
    QSIMPLEQ_INSERT_TAIL(&g->epoch->groups, g, next);
    return 0;
}

void redo_commit(RedoStore *r)
{
    RedoEpoch *e;

    QEMU_LOCK_GUARD(&r->lock);
    e = last_epoch_locked(r);
    if (!QSIMPLEQ_EMPTY(&e->groups)) {
        e->due_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
        epoch_begin_locked(r);
    }
}

/* What is committed goes to the disk */

bool redo_has_due(RedoStore *r)
{
    QEMU_LOCK_GUARD(&r->lock);
    return has_due_locked(r);
}

unsigned redo_next(RedoStore *r, RedoGroup **groups, unsigned max)
{
    unsigned n = 0;
    RedoEpoch *e;
    RedoGroup *g;

    QEMU_LOCK_GUARD(&r->lock);
    QTAILQ_FOREACH(e, &r->epochs, next) {
        if (e == last_epoch_locked(r)) {
            break;
        }
        QSIMPLEQ_FOREACH(g, &e->groups, next) {
            if (n == max) {
                return n;
            }
            groups[n++] = g;
        }
    }
    return n;
}

const ReplicationEntry *redo_entries(const RedoGroup *g, unsigned *n_entries)
{
    *n_entries = g->n_entries;
    return g->entries;
}

int coroutine_fn redo_load(RedoStore *r, RedoGroup *g, uint8_t **buf,
                           size_t *bytes, bool *own)
{
    RedoTransfer t = {
        .fd = r->scratch,
        .bytes = g->bytes,
        .at = g->file_at,
    };

    *buf = g->data;
    *bytes = g->bytes;
    *own = g->bytes && !g->data;
    if (!*own) {
        return 0;
    }
    *buf = t.buf = qemu_try_memalign(ALIGNMENT, g->bytes);
    return t.buf ? thread_pool_submit_co(do_read, &t) : -ENOMEM;
}

void coroutine_fn redo_done(RedoStore *r, RedoGroup *g)
{
    RedoEpoch *e = g->epoch;
    RedoTransfer t = {
        .fd = r->scratch,
        .bytes = ROUND_UP(g->bytes, ALIGNMENT),
        .at = g->file_at,
    };
    bool punch = false;

    WITH_QEMU_LOCK_GUARD(&r->lock) {
        parts_remove_group(e, g);
        punch = g->bytes && !g->data && g->users == 1;
    }
    if (punch) {
        thread_pool_submit_co(do_punch, &t);
    }
    QEMU_LOCK_GUARD(&r->lock);
    assert(QSIMPLEQ_FIRST(&e->groups) == g);
    QSIMPLEQ_REMOVE_HEAD(&e->groups, next);
    group_unuse_locked(r, g);
    if (QSIMPLEQ_EMPTY(&e->groups)) {
        epoch_free_locked(r, e);
    }
    qemu_co_queue_restart_all(&r->room);
}

/* Who reads the disk */

/*
 * What has the newest data at @offset; NULL: the disk.  *@bytes becomes less if
 * it is of fewer bytes.
 */
static RedoPart *find_locked(RedoStore *r, bool committed, int64_t offset,
                             int64_t *bytes)
{
    RedoEpoch *e = last_epoch_locked(r);

    if (committed) {
        e = QTAILQ_PREV(e, next);
    }
    for (; e; e = QTAILQ_PREV(e, next)) {
        RedoPart *part = part_find(e, offset, offset + *bytes - 1);

        if (part && part->node.start > offset) {
            *bytes = part->node.start - offset;
        } else if (part) {
            *bytes = MIN(*bytes, part->node.last - offset + 1);
            return part;
        }
    }
    return NULL;
}

/* From the file; the caller has made itself a user of @g */
static int coroutine_fn read_file(RedoStore *r, RedoGroup *g, int64_t from,
                                  size_t bytes, QEMUIOVector *qiov, size_t at)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    RedoTransfer t = {
        .fd = r->scratch,
        .buf = buf,
        .bytes = bytes,
        .at = g->file_at + from,
    };
    int ret = thread_pool_submit_co(do_read, &t);

    if (ret >= 0) {
        qemu_iovec_from_buf(qiov, at, buf, bytes);
    }
    QEMU_LOCK_GUARD(&r->lock);
    group_unuse_locked(r, g);
    return ret;
}

/* What is done with a part */
typedef enum RedoRead {
    REDO_READ_DONE,
    REDO_READ_FILE,
    REDO_READ_DISK,
} RedoRead;

/* Read from memory what can be, up to *@bytes; what there is becomes these */
static RedoRead read_memory(RedoStore *r, bool committed, int64_t offset,
                            int64_t *bytes, QEMUIOVector *qiov, size_t at,
                            RedoGroup **g, int64_t *from)
{
    RedoPart *part;

    QEMU_LOCK_GUARD(&r->lock);
    part = find_locked(r, committed, offset, bytes);
    if (!part) {
        return REDO_READ_DISK;
    }
    *g = part->group;
    *from = part_at(part, offset);
    if (*from < 0) {
        qemu_iovec_memset(qiov, at, 0, *bytes);
        return REDO_READ_DONE;
    }
    if ((*g)->data) {
        qemu_iovec_from_buf(qiov, at, (*g)->data + *from, *bytes);
        return REDO_READ_DONE;
    }
    *bytes = MIN(*bytes, READ_MAX);
    (*g)->users++;
    return REDO_READ_FILE;
}

int coroutine_fn redo_read(RedoStore *r, bool committed, BdrvChild *disk,
                           int64_t offset, int64_t bytes, QEMUIOVector *qiov,
                           size_t at)
{
    while (bytes) {
        int64_t n = bytes;
        RedoGroup *g;
        int64_t from;
        int ret = 0;

        switch (read_memory(r, committed, offset, &n, qiov, at, &g, &from)) {
        case REDO_READ_DONE:
            break;
        case REDO_READ_FILE:
            ret = read_file(r, g, from, n, qiov, at);
            break;
        case REDO_READ_DISK:
            ret = bdrv_co_preadv_part(disk, offset, n, qiov, at, 0);
            break;
        }
        if (ret < 0) {
            return ret;
        }
        offset += n;
        bytes -= n;
        at += n;
    }
    return 0;
}

void redo_stats(RedoStore *r, uint64_t *held, uint64_t *in_file)
{
    QEMU_LOCK_GUARD(&r->lock);
    *held = r->memory + r->file_bytes;
    *in_file = r->file_bytes;
}
