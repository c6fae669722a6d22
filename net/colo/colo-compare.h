/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * colo-compare and filter-compare: what net/colo/colo.c calls.  BQL.
 */

#ifndef QEMU_NET_COLO_COMPARE_H
#define QEMU_NET_COLO_COMPARE_H

#include "qapi/qapi-types-colo.h"

/* For query-colo-status: append those of each object of the kind to @tail */
void colo_compare_append_statistics(ColoCompareStatisticsList ***tail);
void filter_compare_append_statistics(ColoCompareStatisticsList ***tail);

/* There is a lease again: see to it that what waits for it goes on */
void colo_compare_go_on(void);

#endif
