/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the block driver replication-intent, both sides.
 *
 *      guest
 *        |
 *   replication-intent --- a file
 *        |
 *      quorum
 *      |    \
 *   image   replication, on the primary; or that of a secondary alone
 *
 * Goal: after a crash it is known where the two images of a pair may differ, so
 * that a resync need not look at all of them.
 *
 * Each side has a log, a bit for each region of the disk (intent-file.h), and
 *
 *    outside of the regions that are set in either log the images are equal.
 *
 *  - Before a write of the guest is given to anybody, its regions are set in
 *    the file for good.  So the side that dies leaves a log that has all that
 *    it may have written and the other one has not, and the other way round.
 *  - On the primary they are cleared, in a session, when no write to them has
 *    been under way for a while and all that has been written is on both disks
 *    for good: intent-clear.c.  What has been discarded stays: a discard is a
 *    hint, which the other side may not have followed.
 *  - On a secondary none is set while the guest's writes go into overlays: what
 *    it has on its image comes from the primary, whose log has it.  When it
 *    takes over, what the overlays have is set before anything is made of them;
 *    then it is as on a primary without a session, and nothing is cleared.
 *
 * Two logs speak of each other if they begin at the same point, one at which
 * the images were equal, or were going to be by what was on its way.  That is
 * the end of a resync.  The primary gives it a name, a random number, and has it
 * recorded as the next one (replication_intent_plan()) before it tells the
 * secondary.  That one clears its log, and takes the name, when a session
 * begins; from when the primary has heard of it this is the name of its own log,
 * too, and bits may be cleared.  A crash in between leaves two logs of either
 * the old point or the new one, as the primary's log has everything since both.
 *
 * A log is used for a resync only if it is whole, says that it is of this image
 * (by path, inode and length), and of the generation that the disk has.  If it
 * is not, what is in it is dropped, and it begins anew without a name.
 *
 * A write to a region that is set already costs nothing.  Those that have to
 * wait do so together: one of them writes to the file, and flushes it, for all
 * that have come by then.  A guest that writes on has the next regions set
 * before it gets there.
 *
 * A disk that becomes longer has a longer log.  Nobody knows what is in the new
 * part on either side, so it is as if all of it had been discarded.  The file is
 * made anew for it: by the guest's next write at the latest, on a secondary soon
 * (intent-clear.c).  In between it is that of a disk of another length, which is
 * not used.  A disk that becomes shorter has no log any more.
 *
 * If the file cannot be written it is spoiled, so that nobody trusts it, and
 * the guest goes on.  If it cannot even be spoiled the guest's writes fail.
 *
 * Threads: requests in any; the rest under the BQL.
 */

#include "qemu/osdep.h"
#include <xxhash.h>
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/module.h"
#include "qemu/option.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "trace.h"
#include "generation.h"
#include "intent-int.h"

#define OPT_LOG "log"
#define OPT_REGION_SIZE "region-size"
#define OPT_CLEAR_INTERVAL "clear-interval"

#define REGION_DEFAULT MiB

/* ms */
#define INTERVAL_DEFAULT 10000
#define INTERVAL_MIN 100
#define INTERVAL_MAX 3600000

static BlockDriver bdrv_replication_intent;

Intent *intent_of(BlockDriverState *bs)
{
    assert(bs->drv == &bdrv_replication_intent);
    return bs->opaque;
}

BlockDriverState *replication_intent_above(BlockDriverState *bs)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &bs->parents, next_parent) {
        BlockDriverState *parent = c->klass->parent_is_bds ? c->opaque : NULL;
        BlockDriverState *found;

        if (!parent || c->klass != &child_of_bds) {
            continue;
        }
        if (parent->drv == &bdrv_replication_intent) {
            return parent;
        }
        found = replication_intent_above(parent);
        if (found) {
            return found;
        }
    }
    return NULL;
}

/* Requests */

static int64_t coroutine_fn GRAPH_RDLOCK
intent_co_getlength(BlockDriverState *bs)
{
    return bdrv_co_getlength(bs->file->bs);
}

static int coroutine_fn GRAPH_RDLOCK
intent_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    return bdrv_co_preadv(bs->file, offset, bytes, qiov, flags);
}

static int coroutine_fn GRAPH_RDLOCK
intent_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                  QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    Intent *s = bs->opaque;
    int window;
    int ret = intent_begin(s, offset, bytes, false, &window);

    if (ret >= 0) {
        ret = bdrv_co_pwritev(bs->file, offset, bytes, qiov, flags);
        intent_end(s, window);
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
intent_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                        BdrvRequestFlags flags)
{
    Intent *s = bs->opaque;
    int window;
    int ret = intent_begin(s, offset, bytes, false, &window);

    if (ret >= 0) {
        ret = bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);
        intent_end(s, window);
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
intent_co_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    Intent *s = bs->opaque;
    int window;
    int ret = intent_begin(s, offset, bytes, true, &window);

    if (ret >= 0) {
        ret = bdrv_co_pdiscard(bs->file, offset, bytes);
        intent_end(s, window);
    }
    return ret;
}

/* It is drained */
static int coroutine_fn GRAPH_RDLOCK
intent_co_truncate(BlockDriverState *bs, int64_t length, bool exact,
                   PreallocMode prealloc, BdrvRequestFlags flags, Error **errp)
{
    Intent *s = bs->opaque;
    int64_t now;
    int ret = bdrv_co_truncate(bs->file, length, exact, prealloc, flags, errp);

    if (ret >= 0) {
        now = bdrv_co_getlength(bs->file->bs);
        intent_set_length(s, MAX(now, 0));
        intent_write_all(s);
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK intent_co_flush(BlockDriverState *bs)
{
    return bdrv_co_flush(bs->file->bs);
}

/* The life of the node */

/*
 * The image of this side that is at or below @bs, down to its file; *@follows:
 * below overlays
 */
static BlockDriverState *GRAPH_RDLOCK find_image(BlockDriverState *bs,
                                                 bool *follows)
{
    while (bs) {
        BDRVReplicationState *s = replication_of(bs);
        BlockDriverState *next = bdrv_primary_bs(bs);

        if (s && s->mode == REPLICATION_MODE_SECONDARY) {
            *follows = true;
            next = replication_disk(s);
        } else if (!next && !QLIST_EMPTY(&bs->children)) {
            next = QLIST_FIRST(&bs->children)->bs;
        }
        if (!next) {
            return bs;
        }
        bs = next;
    }
    return NULL;
}

/*
 * What tells one image from another one on this host, over a reboot: a device
 * has another number then
 */
static void image_id(BlockDriverState *bs, uint8_t *id)
{
    g_autofree char *path = realpath(bs->exact_filename, NULL);
    g_autofree char *text = NULL;
    struct stat st = { 0 };

    if (path && (stat(path, &st) < 0 || !S_ISREG(st.st_mode))) {
        st.st_ino = 0;
    }
    text = g_strdup_printf("%s %s %" PRIu64, bs->drv->format_name,
                           path ?: bs->filename, (uint64_t)st.st_ino);
    XXH128_canonicalFromHash((XXH128_canonical_t *)id,
                             XXH3_128bits(text, strlen(text)));
}

/* Is a log that was loaded, @head, the one of this disk? */
static bool check_head(Intent *s, const ReplicationIntentHead *head,
                       const uint8_t *id, int64_t length, Error **errp)
{
    if (head->length != length || head->region != s->region) {
        error_setg(errp, "it is for a disk of %" PRId64 " bytes in regions of "
                   "%" PRIu64 " bytes", head->length, head->region);
    } else if (memcmp(head->image, id, sizeof(head->image))) {
        error_setg(errp, "it is of another image");
    } else {
        return true;
    }
    return false;
}

/* The generation of the secondary's disk, whose node is at or below @bs */
static bool GRAPH_RDLOCK
check_generation(BlockDriverState *bs, const ReplicationIntentHead *head,
                 Error **errp)
{
    BdrvChild *c;
    BDRVReplicationState *s = replication_of(bs);
    ColoDiskGeneration g;

    if (s && s->mode == REPLICATION_MODE_SECONDARY) {
        if (!s->generation_file) {
            error_setg(errp, "the disk has no generation-file");
            return false;
        }
        if (!replication_generation_load(s->generation_file, &g, errp)) {
            return false;
        }
        if (g.number != head->number && g.number != head->number_before) {
            error_setg(errp, "it is of generation %" PRIu64 ", the disk of "
                       "%" PRIu64, head->number, g.number);
            return false;
        }
        return true;
    }
    QLIST_FOREACH(c, &bs->children, next) {
        if (!check_generation(c->bs, head, errp)) {
            return false;
        }
    }
    return true;
}

/* What is in the file, if it is of any use; else all begins anew */
static void intent_load(Intent *s, BlockDriverState *image, int64_t length)
{
    g_autoptr(Error) err = NULL;
    ReplicationIntentHead head;
    uint64_t *words = NULL;
    uint8_t id[REPLICATION_INTENT_IMAGE];

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    image_id(image, id);
    if (replication_intent_load(s->fd, &head, &words, &err) &&
        check_head(s, &head, id, length, &err) &&
        check_generation(s->bs, &head, &err)) {
        s->head = head;
        s->want = words;
        s->stable = g_memdup2(words, s->n_words * sizeof(*words));
        if (!head.common && !head.common_next) {
            s->why = g_strdup("no resync has completed since it was made");
        }
        return;
    }
    g_free(words);
    s->why = g_strdup(error_get_pretty(err));
    s->head.length = length;
    s->head.region = s->region;
    memcpy(s->head.image, id, sizeof(id));
    s->want = g_new0(uint64_t, s->n_words);
    s->stable = g_new0(uint64_t, s->n_words);
}

static QemuOptsList runtime_opts = {
    .name = "replication-intent",
    .head = QTAILQ_HEAD_INITIALIZER(runtime_opts.head),
    .desc = {
        {
            .name = OPT_LOG,
            .type = QEMU_OPT_STRING,
            .help = "the file, which is made if there is none",
        },
        {
            .name = OPT_REGION_SIZE,
            .type = QEMU_OPT_SIZE,
            .help = "bytes of the disk that a bit of the log stands for",
        },
        {
            .name = OPT_CLEAR_INTERVAL,
            .type = QEMU_OPT_NUMBER,
            .help = "ms from one round of clearing to the next one",
        },
        { /* end of list */ }
    },
};

/* The path, or NULL with @errp set; the rest goes to @s */
static const char *intent_options(Intent *s, QemuOpts *opts, Error **errp)
{
    const char *path = qemu_opt_get(opts, OPT_LOG);

    s->region = qemu_opt_get_size(opts, OPT_REGION_SIZE, REGION_DEFAULT);
    s->interval_ms = qemu_opt_get_number(opts, OPT_CLEAR_INTERVAL,
                                         INTERVAL_DEFAULT);
    if (!path) {
        error_setg(errp, "option '" OPT_LOG "' is needed, the file for the "
                   "intent log");
        return NULL;
    }
    if (!is_power_of_2(s->region) ||
        s->region < REPLICATION_INTENT_REGION_MIN ||
        s->region > REPLICATION_INTENT_REGION_MAX) {
        error_setg(errp, "'" OPT_REGION_SIZE "' is %" PRIu64 ", it has to be a "
                   "power of 2 from %" PRIu64 " to %" PRIu64, s->region,
                   (uint64_t)REPLICATION_INTENT_REGION_MIN,
                   (uint64_t)REPLICATION_INTENT_REGION_MAX);
        return NULL;
    }
    if (s->interval_ms < INTERVAL_MIN || s->interval_ms > INTERVAL_MAX) {
        error_setg(errp, "'" OPT_CLEAR_INTERVAL "' is %" PRId64 ", it has to "
                   "be from %d to %d", s->interval_ms, INTERVAL_MIN,
                   INTERVAL_MAX);
        return NULL;
    }
    return path;
}

static bool intent_new(BlockDriverState *bs, Error **errp)
{
    Intent *s = bs->opaque;
    BlockDriverState *image;
    bool follows = false;
    int64_t length = bdrv_getlength(bs->file->bs);

    if (length <= 0) {
        error_setg(errp, "the disk has no length");
        return false;
    }
    bdrv_graph_rdlock_main_loop();
    image = find_image(bs->file->bs, &follows);
    bdrv_graph_rdunlock_main_loop();
    s->length = length;
    s->n_regions = DIV_ROUND_UP(length, s->region);
    s->n_words = replication_intent_words(length, s->region);
    s->n_sectors = replication_intent_sectors(length, s->region);
    s->stage = follows ? INTENT_FOLLOWS : INTENT_TRACKS;
    s->kept = g_new0(uint64_t, s->n_words);
    s->hot[0] = g_new0(uint64_t, s->n_words);
    s->hot[1] = g_new0(uint64_t, s->n_words);
    s->candidates = g_new0(uint64_t, s->n_words);
    s->dirty = bitmap_new(s->n_sectors);
    intent_load(s, image, length);
    trace_replication_intent_open(bdrv_get_node_name(bs), s->head.common,
                                  s->why ?: "");
    /* A secondary makes one when a session begins */
    if (s->why && s->stage == INTENT_TRACKS) {
        intent_make(s);
    }
    return true;
}

static void intent_free(Intent *s)
{
    g_free(s->want);
    g_free(s->stable);
    g_free(s->kept);
    g_free(s->hot[0]);
    g_free(s->hot[1]);
    g_free(s->candidates);
    g_free(s->dirty);
    g_free(s->why);
    qemu_mutex_destroy(&s->lock);
    qemu_mutex_destroy(&s->head_lock);
    close(s->fd);
}

static int intent_open(BlockDriverState *bs, QDict *options, int flags,
                       Error **errp)
{
    Intent *s = bs->opaque;
    g_autoptr(QemuOpts) opts = qemu_opts_create(&runtime_opts, NULL, 0,
                                                &error_abort);
    const char *path;
    int ret;

    if (!qemu_opts_absorb_qdict(opts, options, errp)) {
        return -EINVAL;
    }
    path = intent_options(s, opts, errp);
    if (!path) {
        return -EINVAL;
    }
    ret = bdrv_open_file_child(NULL, options, "file", bs, errp);
    if (ret < 0) {
        return ret;
    }
    s->bs = bs;
    s->fd = qemu_create(path, O_RDWR, 0644, errp);
    if (s->fd < 0) {
        return -EINVAL;
    }
    qemu_mutex_init(&s->head_lock);
    qemu_mutex_init(&s->lock);
    qemu_co_queue_init(&s->written);
    if (!intent_new(bs, errp)) {
        intent_free(s);
        return -EINVAL;
    }
    bdrv_graph_rdlock_main_loop();
    bs->supported_write_flags = BDRV_REQ_WRITE_UNCHANGED |
        (BDRV_REQ_FUA & bs->file->bs->supported_write_flags);
    bs->supported_zero_flags = BDRV_REQ_WRITE_UNCHANGED |
        ((BDRV_REQ_FUA | BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK) &
         bs->file->bs->supported_zero_flags);
    bdrv_graph_rdunlock_main_loop();
    intent_clear_init(s);
    return 0;
}

static void intent_close(BlockDriverState *bs)
{
    Intent *s = bs->opaque;

    intent_clear_end(s);
    intent_free(s);
}

static const char *const intent_strong_runtime_opts[] = {
    OPT_LOG,
    OPT_REGION_SIZE,
    OPT_CLEAR_INTERVAL,
    NULL
};

static BlockDriver bdrv_replication_intent = {
    .format_name                = "replication-intent",
    .instance_size              = sizeof(Intent),
    .is_filter                  = true,
    .strong_runtime_opts        = intent_strong_runtime_opts,

    .bdrv_open                  = intent_open,
    .bdrv_close                 = intent_close,
    .bdrv_child_perm            = bdrv_default_perms,

    .bdrv_co_getlength          = intent_co_getlength,
    .bdrv_co_preadv             = intent_co_preadv,
    .bdrv_co_pwritev            = intent_co_pwritev,
    .bdrv_co_pwrite_zeroes      = intent_co_pwrite_zeroes,
    .bdrv_co_pdiscard           = intent_co_pdiscard,
    .bdrv_co_truncate           = intent_co_truncate,
    .bdrv_co_flush              = intent_co_flush,
};

static void bdrv_replication_intent_init(void)
{
    bdrv_register(&bdrv_replication_intent);
}

block_init(bdrv_replication_intent_init);
