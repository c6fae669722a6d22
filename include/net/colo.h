/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what the network code offers to migration.  BQL.
 */

#ifndef QEMU_NET_COLO_H
#define QEMU_NET_COLO_H

#include "migration/colo.h"
#include "qapi/qapi-types-colo.h"

/* Is the network part of COLO compiled in? */
bool colo_net_supported(void);

/*
 * colo_net_warn_unprotected: a session of @mode begins; report each NIC whose
 * output no filter holds back until it may be seen
 */
void colo_net_warn_unprotected(ColoSyncMode mode);

/*
 * colo_net_flush_standing: @netdev has just got a packet that may leave.  While
 * the VM stands still, queues keep packets; but the guest said it before.
 */
void colo_net_flush_standing(NetClientState *netdev);

/*
 * What each object that compares has done; the caller frees the list.  NULL if
 * there is none.
 */
ColoCompareStatisticsList *colo_net_compare_statistics(void);

#endif
