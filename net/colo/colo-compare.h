/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * colo-compare and filter-compare: what QEMU's exit and net/colo/colo.c call.  BQL.
 */

#ifndef QEMU_NET_COLO_COMPARE_H
#define QEMU_NET_COLO_COMPARE_H

#include "qapi/qapi-types-colo.h"

/*
 * colo_compare_cleanup: all colo-compare objects stop to work
 *
 * Before the character devices go: an iothread works with them.
 */
void colo_compare_cleanup(void);

/* For query-colo-status: append those of each object of the kind to @tail */
void colo_compare_append_statistics(ColoCompareStatisticsList ***tail);
void filter_compare_append_statistics(ColoCompareStatisticsList ***tail);

#endif
