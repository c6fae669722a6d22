/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: what the block layer asks, in a QEMU without it.
 */

#include "qemu/osdep.h"
#include "block/replication.h"

bool replication_op_is_blocked(BlockDriverState *bs, BlockOpType op,
                               Error **errp)
{
    return false;
}

bool replication_needs(BlockDriverState *bs, BlockDriverState *to,
                       Error **errp)
{
    return false;
}

bool replication_reopen_is_blocked(BlockDriverState *parent,
                                   BlockDriverState *bs, BlockDriverState *to,
                                   Error **errp)
{
    return false;
}

bool replication_forbids_reopen(BlockDriverState *bs, Error **errp)
{
    return false;
}

bool replication_activation_is_blocked(const char *node_name, Error **errp)
{
    return false;
}

int coroutine_fn replication_before_write(BdrvChild *child)
{
    return 0;
}

bool replication_write_is_blocked(BlockDriverState *bs, Error **errp)
{
    return false;
}

bool coroutine_fn replication_co_grow_begin(BlockDriverState *disk,
                                            int64_t length, Error **errp)
{
    return true;
}

void coroutine_fn replication_co_grow_end(BlockDriverState *disk)
{
}
