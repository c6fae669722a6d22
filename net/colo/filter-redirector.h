/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: what others ask of the filter-redirector.
 *
 * Both sides.  BQL.
 */

#ifndef QEMU_NET_COLO_FILTER_REDIRECTOR_H
#define QEMU_NET_COLO_FILTER_REDIRECTOR_H

#include "net/filter.h"

/*
 * colo_redirector_is_spent: is this a filter-redirector of a secondary that has
 * become live?
 *
 * It passes everything on, and has no part in the next session.
 */
bool colo_redirector_is_spent(NetFilterState *nf);

#endif
