/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: how long the disk of the secondary's guest is.
 *
 * The primary's disk may become longer in a session, see grow.c.  The disk here
 * has got its new length before, and the batches write there at once; but the
 * node says what the guest may see: the length as of the last checkpoint
 * (s->length).  It changes when a checkpoint is committed that has a longer disk,
 * before devices are reset and loaded, as some of them keep the length.  The
 * nodes above are told, and the devices, as if the user had done it here.
 *
 * With undo the overlays are as long as that.  They get longer when they have
 * been emptied, so none of their clusters has anything beyond the old end; and
 * without the zeroes that are written otherwise, as the disk is below.  The job
 * that copies begins anew.  If any of this fails the overlays are spent, like
 * those that cannot be emptied.
 *
 * After a failover the disk is cut off where the guest's ends.  If it cannot be
 * the rest stays there, unseen as long as the node lives.
 *
 * A cut may come after the primary's disk has got longer and before its guest
 * has heard of it, by an interrupt say.  So a survivor's devices tell once more.
 *
 * All is under the BQL, but the coroutine.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "block/block_int.h"
#include "block/dirty-bitmap.h"
#include "system/block-backend.h"
#include "trace.h"
#include "intent.h"
#include "internal.h"

bool replication_check_bitmaps(BlockDriverState *bs, Error **errp)
{
    BdrvDirtyBitmap *bitmap;
    BdrvChild *c;

    FOR_EACH_DIRTY_BITMAP(bs, bitmap) {
        if (bdrv_dirty_bitmap_check(bitmap, BDRV_BITMAP_BUSY, NULL)) {
            error_setg(errp, "dirty bitmap '%s' of node '%s' is in use",
                       bdrv_dirty_bitmap_name(bitmap) ?: "",
                       replication_user_name_locked(bs));
            return false;
        }
    }
    QLIST_FOREACH(c, &bs->children, next) {
        if (!replication_check_bitmaps(c->bs, errp)) {
            return false;
        }
    }
    return true;
}

/* It has another length than before; nothing is under way */
static void GRAPH_RDLOCK refresh(BlockDriverState *bs)
{
    int64_t before = bs->total_sectors;
    BdrvChild *c;

    bdrv_refresh_total_sectors(bs, before);
    if (bs->total_sectors != before &&
        replication_check_bitmaps(bs, NULL)) {
        bdrv_dirty_bitmap_truncate(bs, bs->total_sectors << BDRV_SECTOR_BITS);
    }
    QLIST_FOREACH(c, &bs->parents, next_parent) {
        if (c->klass->parent_is_bds) {
            refresh(c->opaque);
        }
    }
}

/* The devices that have the disk tell their guest */
static void GRAPH_RDLOCK tell_devices(BlockDriverState *bs)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &bs->parents, next_parent) {
        if (c->klass->parent_is_bds) {
            tell_devices(c->opaque);
        } else if (c->klass->resize) {
            c->klass->resize(c);
        }
    }
}

static void show(BDRVReplicationState *s, int64_t length)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    trace_replication_length(replication_name(s), s->length, length);
    qatomic_set_i64(&s->length, length);
    refresh(s->bs);
    replication_intent_length(s);
    tell_devices(s->bs);
}

bool replication_length_begin(BDRVReplicationState *s, Error **errp)
{
    int64_t length, before;

    bdrv_graph_rdlock_main_loop();
    length = bdrv_getlength(replication_disk(s));
    before = bdrv_getlength(s->bs);
    bdrv_graph_rdunlock_main_loop();
    if (length < 0) {
        error_setg_errno(errp, -length, "cannot tell the length of the disk");
        return false;
    }
    s->grew = false;
    if (length != before) {
        show(s, length);
    } else {
        qatomic_set_i64(&s->length, length);
    }
    return true;
}

void replication_length_commit(BDRVReplicationState *s)
{
    int64_t length;

    bdrv_graph_rdlock_main_loop();
    length = replication_sink_grown(replication_disk(s));
    bdrv_graph_rdunlock_main_loop();
    if (length > s->length) {
        s->grew = true;
        show(s, length);
    }
}

/* @bs is an overlay, empty, and drained */
static int coroutine_fn GRAPH_RDLOCK grow_overlay(BlockDriverState *bs,
                                                  int64_t length, Error **errp)
{
    ERRP_GUARD();
    int ret;

    if (bs->total_sectors << BDRV_SECTOR_BITS >= length) {
        return 0;
    }
    if (!bs->drv->bdrv_co_truncate) {
        error_setg(errp, "it is of a format of fixed length");
        return -ENOTSUP;
    }
    ret = bs->drv->bdrv_co_truncate(bs, length, true, PREALLOC_MODE_OFF, 0,
                                    errp);
    if (ret >= 0) {
        ret = bdrv_co_refresh_total_sectors(bs, length >> BDRV_SECTOR_BITS);
    }
    if (ret < 0 && !*errp) {
        error_setg_errno(errp, -ret, "it cannot be made longer");
    }
    if (ret >= 0) {
        bdrv_dirty_bitmap_truncate(bs, bs->total_sectors << BDRV_SECTOR_BITS);
    }
    return ret;
}

int coroutine_fn replication_length_overlays(BDRVReplicationState *s,
                                             BlockDriverState *active,
                                             BlockDriverState *hidden,
                                             Error **errp)
{
    int ret = grow_overlay(hidden, s->length, errp);

    return ret < 0 ? ret : grow_overlay(active, s->length, errp);
}

/* What was not committed goes */
static void cut_off(BDRVReplicationState *s, BlockDriverState *disk)
{
    BlockBackend *blk = blk_new(bdrv_get_aio_context(disk), BLK_PERM_RESIZE,
                                BLK_PERM_ALL);
    Error *err = NULL;

    blk_set_allow_aio_context_change(blk, true);
    if (blk_insert_bs(blk, disk, &err) >= 0) {
        blk_truncate(blk, s->length, true, PREALLOC_MODE_OFF, 0, &err);
    }
    blk_unref(blk);
    trace_replication_cut_off(replication_name(s), s->length,
                              err ? error_get_pretty(err) : "");
    if (err) {
        error_prepend(&err, "node '%s': the disk stays longer than the "
                      "guest's, of %" PRId64 " bytes: ", replication_name(s),
                      s->length);
        warn_report_err(err);
    }
}

void replication_length_fail_over(BDRVReplicationState *s)
{
    BlockDriverState *disk;
    int64_t length;

    bdrv_graph_rdlock_main_loop();
    disk = replication_disk(s);
    length = bdrv_getlength(disk);
    if (s->grew) {
        tell_devices(s->bs);
    }
    bdrv_graph_rdunlock_main_loop();
    if (!s->shared_disk && length > s->length) {
        cut_off(s, disk);
    }
}

int coroutine_fn replication_length_truncate(BDRVReplicationState *s,
                                             int64_t length, Error **errp)
{
    BdrvChild *file = s->bs->file;
    int ret = 0;

    if (replication_stage(s) != COLO_DISK_STAGE_FOLDED) {
        error_setg(errp, "Node '%s' is busy: it is %s", replication_name(s),
                   ColoDiskStage_str(replication_stage(s)));
        return -EBUSY;
    }
    /* What is there that the guest has not seen it is not to see either */
    if (s->length && s->length < bdrv_co_getlength(file->bs)) {
        ret = bdrv_co_truncate(file, s->length, true, PREALLOC_MODE_OFF, 0,
                               errp);
    }
    if (ret >= 0) {
        ret = bdrv_co_truncate(file, length, true, PREALLOC_MODE_OFF, 0, errp);
    }
    if (ret >= 0) {
        qatomic_set_i64(&s->length, bdrv_co_getlength(file->bs));
    }
    return ret;
}
