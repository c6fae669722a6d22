/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: who may write to the image of a shared disk, both sides.
 *
 * One of the two QEMUs at a time.  The image is a file, and the one that
 * writes has it locked, as any QEMU does with its images (block/file-posix.c).
 * The secondary has it open read-only.  When it takes over it claims the
 * image: it opens it for writing and takes that lock.  This fails while the
 * primary's process lives, or as long as the storage thinks so, and then the
 * secondary must not go live.
 *
 * So locks have to work between the hosts.  Whether they do is seen at the
 * start: a claim has to fail then, since the primary is there.
 *
 * The page cache of a host does not know what another host writes, so
 * cache.direct is needed, unless the user says that it does.
 *
 * All is under the BQL.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "block/block_int.h"
#include "system/block-backend.h"
#include "trace.h"
#include "internal.h"

/* Below nodes that have nothing to say (any more) about the content */
static BlockDriverState *GRAPH_RDLOCK skip_folded(BlockDriverState *bs)
{
    while (bs && replication_is_folded(bs)) {
        bs = bs->file ? bs->file->bs : NULL;
    }
    return bs;
}

static bool GRAPH_RDLOCK check_file(BlockDriverState *file, bool coherent,
                                    Error **errp)
{
    const char *locking = qdict_get_try_str(file->options, "locking");

    if (strcmp(file->drv->format_name, "file")) {
        error_setg(errp, "the shared image has to be a file, where locks tell "
                   "hosts from each other, and not '%s'",
                   file->drv->format_name);
        return false;
    }
    if ((locking && !strcmp(locking, "off")) ||
        (!qemu_has_ofd_lock() && (!locking || strcmp(locking, "on")))) {
        error_setg(errp, "the shared image '%s' is opened without locks, "
                   "which are what keeps the other side off: 'locking' must "
                   "not be 'off'", file->filename);
        return false;
    }
    if (!(file->open_flags & BDRV_O_NOCACHE) && !coherent) {
        error_setg(errp, "the shared image '%s' needs 'cache.direct=on': the "
                   "page cache does not know what another host writes "
                   "('cache-coherent=on' says that it does)",
                   file->filename);
        return false;
    }
    return true;
}

bool GRAPH_RDLOCK replication_check_image(BlockDriverState *image,
                                          bool coherent, Error **errp)
{
    image = skip_folded(image);
    if (!image || !image->drv) {
        error_setg(errp, "there is no shared image");
        return false;
    }
    if (!strcmp(image->drv->format_name, "raw")) {
        image = image->file->bs;
    } else if (image->drv->is_format || image->drv->is_filter) {
        error_setg(errp, "the shared image is '%s', it has to be raw: the "
                   "secondary would not see how its metadata changes",
                   image->drv->format_name);
        return false;
    }
    return check_file(image, coherent, errp);
}

/*
 * Open the image, and the file below it, this way.  A file that is a node in
 * its own right does not follow the image by itself; one that does must not be
 * queued a second time, or it would stay drained.
 */
static int reopen(BlockDriverState *image, bool read_only, Error **errp)
{
    BlockReopenQueue *queue = NULL;
    BlockDriverState *parent = NULL;

    bdrv_graph_rdlock_main_loop();
    while (image) {
        if (!parent || image->inherits_from != parent) {
            QDict *options = qdict_new();

            qdict_put_bool(options, BDRV_OPT_READ_ONLY, read_only);
            queue = bdrv_reopen_queue(queue, image, options, true);
        }
        parent = image;
        image = image->file ? image->file->bs : NULL;
    }
    bdrv_graph_rdunlock_main_loop();
    return bdrv_reopen_multiple(queue, errp);
}

int replication_claim(BDRVReplicationState *s, BlockDriverState *image,
                      Error **errp)
{
    int ret;

    if (s->claim) {
        return 0;
    }
    ret = reopen(image, false, errp);
    if (ret < 0) {
        goto fail;
    }
    s->claim = blk_new(bdrv_get_aio_context(image), 0, BLK_PERM_ALL);
    blk_set_allow_aio_context_change(s->claim, true);
    ret = blk_insert_bs(s->claim, image, errp);
    if (ret >= 0) {
        /* Alone; then the job that folds is let in */
        ret = blk_set_perm(s->claim, BLK_PERM_WRITE,
                           BLK_PERM_ALL & ~BLK_PERM_WRITE, errp);
    }
    if (ret < 0) {
        replication_unclaim(s);
        reopen(image, true, NULL);
        goto fail;
    }
    blk_set_perm(s->claim, BLK_PERM_WRITE, BLK_PERM_ALL, &error_abort);
fail:
    trace_replication_claim(replication_name(s), image->filename, ret);
    return ret;
}

void replication_unclaim(BDRVReplicationState *s)
{
    blk_unref(s->claim);
    s->claim = NULL;
}

bool replication_claim_is_held(BDRVReplicationState *s,
                               BlockDriverState *image, Error **errp)
{
    g_autoptr(Error) err = NULL;
    int ret = replication_claim(s, image, &err);

    if (ret == -EAGAIN) {
        return true;
    }
    if (ret < 0) {
        error_propagate_prepend(errp, g_steal_pointer(&err),
                                "the shared image could not be taken over: ");
        return false;
    }
    replication_unclaim(s);
    reopen(image, true, NULL);
    error_setg(errp, "nobody has a lock on the shared image '%s': the primary "
               "does not use this file, or locks do not work between the "
               "hosts", image->filename);
    return false;
}
