/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the network part is not compiled in.
 */

#include "qemu/osdep.h"
#include "colo-compare.h"
#include "net/colo.h"

bool colo_net_supported(void)
{
    return false;
}

void colo_net_set_session(const QemuUUID *id, ColoSyncMode mode)
{
}

bool colo_net_check(Error **errp)
{
    return true;
}

bool colo_netdev_del_refused(const NetClientState *netdev, Error **errp)
{
    return false;
}

void colo_net_problems(COLOMode side, ColoSyncMode mode,
                       ColoProblemFunc *found, void *opaque)
{
}

bool colo_net_drops(const NetClientState *sender,
                    const NetClientState *receiver, unsigned flags)
{
    return false;
}

ColoCompareStatisticsList *colo_net_compare_statistics(void)
{
    return NULL;
}

void colo_compare_cleanup(void)
{
}
