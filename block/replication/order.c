/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: writes that reach the secondary past it, or it alone.
 *
 * Primary, under the BQL.  Some set-ups have the NBD client of the secondary's
 * disk as a child of the guest's quorum, without a replication node between
 * them.  Such writes arrive when the guest makes them, before or after a
 * checkpoint, and the guest and each drain wait for the secondary.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "internal.h"

static bool is_driver(BlockDriverState *bs, const char *name)
{
    return bs->drv && bs->drv == bdrv_find_format(name);
}

/* Follow the children that have the data.  NULL: replication is in between. */
static BlockDriverState *GRAPH_RDLOCK find_end(BlockDriverState *bs)
{
    BlockDriverState *below;

    while (!replication_of(bs) && (below = bdrv_primary_bs(bs))) {
        bs = below;
    }
    return replication_of(bs) ? NULL : bs;
}

/* An NBD client below @quorum, if anything else is there as well */
static BlockDriverState *GRAPH_RDLOCK find_client(BlockDriverState *quorum)
{
    BlockDriverState *client = NULL;
    bool others = false;
    BdrvChild *c;

    QLIST_FOREACH(c, &quorum->children, next) {
        BlockDriverState *end = find_end(c->bs);

        if (end && is_driver(end, "nbd")) {
            client = end;
        } else {
            others = true;
        }
    }
    return others ? client : NULL;
}

static bool GRAPH_RDLOCK check_order(BlockDriverState *bs, Error **errp)
{
    BlockDriverState *client;
    BdrvChild *c;

    client = is_driver(bs, "quorum") ? find_client(bs) : NULL;
    if (client) {
        error_setg(errp, "what the guest writes to '%s' reaches the NBD "
                   "client '%s' with no regard to checkpoints: put a node of "
                   "driver 'replication', mode 'primary', between them, or "
                   "take the client out with x-blockdev-change",
                   replication_user_name(bs), replication_user_name(client));
        return false;
    }
    if (is_driver(bs, "quorum") && replication_lacks_image(bs, NULL)) {
        error_setg(errp, "disk '%s' has no image on this side: put one in with "
                   "x-blockdev-change", replication_user_name(bs));
        return false;
    }
    QLIST_FOREACH(c, &bs->children, next) {
        if (!check_order(c->bs, errp)) {
            return false;
        }
    }
    return true;
}

bool replication_check_order(BlockDriverState *bs, Error **errp)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return check_order(bs, errp);
}
