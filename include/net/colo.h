/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what the network code offers to migration.  BQL.
 */

#ifndef QEMU_NET_COLO_H
#define QEMU_NET_COLO_H

#include "migration/colo.h"

/* Is the network part of COLO compiled in? */
bool colo_net_supported(void);

/*
 * colo_net_warn_unprotected: a session begins; report each NIC whose output
 * no filter holds back until it is committed
 */
void colo_net_warn_unprotected(void);

#endif
