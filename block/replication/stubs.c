/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, secondary side: programs that have no block exports.
 */

#include "qemu/osdep.h"
#include "qapi/qapi-commands-block-export.h"
#include "block/export.h"

BlockExportInfoList *qmp_query_block_exports(Error **errp)
{
    return NULL;
}

BlockExport *blk_exp_find(const char *id)
{
    return NULL;
}

void blk_exp_request_shutdown(BlockExport *exp)
{
    g_assert_not_reached();
}
