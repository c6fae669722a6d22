/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: discards of a sink that are due, secondary side.
 *
 * In a session discards are noted (discards.h), and made after the next
 * checkpoint.  That is past the filter that copies before a write.  A part of
 * DISCARD_CHUNK bytes at a time is under way; who writes there waits for it.
 * Nothing is discarded that way after the session, when others than the sink
 * may write to the disk.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "trace.h"
#include "sink-int.h"

/* What is discarded at once, bytes */
#define DISCARD_CHUNK (64 * MiB)

/* What is next; false if nothing may be discarded, and the coroutine ends */
static bool coroutine_fn GRAPH_RDLOCK
sink_take_discard(BlockDriverState *bs, BdrvChild **disk, int64_t *offset,
                  int64_t *bytes)
{
    SinkState *s = bs->opaque;
    BdrvChild *c = bs->file;

    QEMU_LOCK_GUARD(&s->lock);
    while (c && c->bs != s->disk) {
        c = bdrv_filter_child(c->bs);
    }
    s->discard_bytes = 0;
    qemu_co_queue_restart_all(&s->ended);
    /* Who is exported no more has no right to change the disk either */
    if (!c || !(c->perm & BLK_PERM_WRITE) ||
        qatomic_read(&bs->quiesce_counter) ||
        !replication_discards_take(&s->discards, DISCARD_CHUNK, offset,
                                   bytes)) {
        s->discarding = false;
        return false;
    }
    *disk = c;
    s->discard_offset = *offset;
    s->discard_bytes = *bytes;
    return true;
}

static void coroutine_fn sink_discard_entry(void *opaque)
{
    BlockDriverState *bs = opaque;
    SinkState *s = bs->opaque;
    int64_t offset, bytes;
    BdrvChild *disk;

    WITH_GRAPH_RDLOCK_GUARD() {
        while (sink_take_discard(bs, &disk, &offset, &bytes)) {
            /* It is a hint, so may fail */
            int ret = bdrv_co_pdiscard(disk, offset, bytes);

            trace_replication_sink_discard(bdrv_get_node_name(bs), offset,
                                           bytes, ret);
            qatomic_set(&s->dirty, true);
        }
    }
    bdrv_dec_in_flight(bs);
}

void sink_discard(BlockDriverState *bs)
{
    SinkState *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->lock);
    if (!s->discarding && !qatomic_read(&bs->quiesce_counter) &&
        replication_discards_has_due(&s->discards)) {
        s->discarding = true;
        bdrv_inc_in_flight(bs);
        aio_co_schedule(bdrv_get_aio_context(bs),
                        qemu_coroutine_create(sink_discard_entry, bs));
    }
}
