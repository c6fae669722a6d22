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

/* What each colo-compare object has done; the caller frees the list */
ColoCompareStatisticsList *colo_net_compare_statistics(void);

#endif
