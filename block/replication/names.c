/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: names of nodes, for messages.
 *
 * Both sides, under the BQL.  A node that was given no name has one that QEMU
 * has made up, such as #block606, which tells the user nothing.
 */

#include "qemu/osdep.h"
#include "block/block-io.h"
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

const char *replication_user_name(BlockDriverState *bs)
{
    const char *name;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    name = own_name(bs);
    if (!*name) {
        /* One in JSON lists everything below, and is no name */
        name = *bs->exact_filename && !g_str_has_prefix(bs->exact_filename,
                                                        "json:")
               ? bs->exact_filename : name_above(bs);
    }
    return *name ? name : bs->node_name;
}

void replication_learn_name(BDRVReplicationState *s)
{
    if (!s->user_name) {
        qatomic_set(&s->user_name, g_strdup(replication_user_name(s->bs)));
    }
}
