/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: names of nodes, for messages.
 *
 * Both sides, under the BQL.  A node that was given no name has one that QEMU
 * has made up, such as #block606, which tells the user nothing.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
#include "hw/qdev-core.h"
#include "system/block-backend.h"
#include "internal.h"

static bool is_made_up(const char *node_name)
{
    return *node_name == '#';
}

/* The name that the user gave to the node, or to its disk, or "" */
static const char *GRAPH_RDLOCK own_name(BlockDriverState *bs)
{
    return is_made_up(bs->node_name) ? bdrv_get_device_name(bs)
                                     : bs->node_name;
}

/* The first one above that the user gave, or "" */
static const char *GRAPH_RDLOCK name_above(BlockDriverState *bs)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &bs->parents, next_parent) {
        BlockDriverState *parent = c->klass->parent_is_bds ? c->opaque : NULL;
        const char *name = parent ? own_name(parent) : "";

        if (parent && !*name) {
            name = name_above(parent);
        }
        if (*name) {
            return name;
        }
    }
    return "";
}

/* That of the file, or "" */
static const char *GRAPH_RDLOCK file_name(BlockDriverState *bs)
{
    const char *name = bs->exact_filename;

    if (!*name && bs->drv && bs->drv->is_format && bs->file) {
        /* With other options than usual, of a backing file say, it has none */
        name = bs->file->bs->exact_filename;
    }
    /* One in JSON lists everything below, and is no name */
    return g_str_has_prefix(name, "json:") ? "" : name;
}

const char *replication_user_name_locked(BlockDriverState *bs)
{
    const char *name = own_name(bs);

    if (!*name) {
        name = file_name(bs);
        name = *name ? name : name_above(bs);
    }
    return *name ? name : bs->node_name;
}

const char *replication_user_name(BlockDriverState *bs)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return replication_user_name_locked(bs);
}

void replication_learn_name(BDRVReplicationState *s)
{
    if (!s->user_name) {
        qatomic_set(&s->user_name, g_strdup(replication_user_name(s->bs)));
    }
}

/* The ID may be that of the device around this one, as with virtio */
static const char *device_id(DeviceState *dev)
{
    for (Object *o = OBJECT(dev); o; o = o->parent) {
        DeviceState *around = (DeviceState *)object_dynamic_cast(o,
                                                                 TYPE_DEVICE);

        if (around && around->id) {
            return around->id;
        }
    }
    return NULL;
}

char *replication_disk_name(BDRVReplicationState *s)
{
    BlockBackend *blk = NULL;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    while ((blk = blk_all_next(blk))) {
        DeviceState *dev = blk_get_attached_dev(blk);
        const char *id;

        if (dev && blk_bs(blk) && replication_is_above(blk_bs(blk), s->bs)) {
            id = *blk_name(blk) ? blk_name(blk) : device_id(dev);
            return id ? g_strdup(id) : blk_get_attached_dev_id(blk);
        }
    }
    return NULL;
}
