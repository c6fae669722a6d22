/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: what other filters ask of the filter-rewriter.
 *
 * Both sides.  BQL.
 */

#ifndef QEMU_NET_COLO_FILTER_REWRITER_H
#define QEMU_NET_COLO_FILTER_REWRITER_H

#include "net/filter.h"
#include "packet.h"

/*
 * colo_rewriter_undo: a packet as it was when it passed the filter @above
 *
 * @data, @size: what waits in the queue of the NIC
 *
 * Returns NULL if no filter-rewriter between the two has changed it; the caller
 * frees it otherwise.
 */
ColoPacket *colo_rewriter_undo(NetFilterState *above, const uint8_t *data,
                               size_t size);

#endif
