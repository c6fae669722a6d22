/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: what colo-compare and filter-compare have in common for the
 * user: options, and how they are counted.
 *
 * Primary.  BQL.
 */

#ifndef QEMU_NET_COLO_COMPARE_OPTIONS_H
#define QEMU_NET_COLO_COMPARE_OPTIONS_H

#include "match.h"
#include "qapi/qapi-types-colo.h"
#include "qom/object.h"

typedef struct ColoCompareOptions {
    uint64_t timeout_ms;        /* compare_timeout */
    uint32_t scan_ms;           /* expired_scan_cycle */
    uint32_t max_packets;       /* max_queue_size */
    uint32_t max_flows;         /* max_connections */
    bool vnet_hdr;              /* vnet_hdr_support */
    bool fixed;                 /* in use, refuse changes */
} ColoCompareOptions;

/*
 * colo_compare_options_init: set the defaults and add the properties to @obj
 *
 * @o: part of @obj
 * @separator: of the words of a property's name; '_' is the published spelling,
 *             '-' is QEMU's since then
 */
void colo_compare_options_init(ColoCompareOptions *o, Object *obj,
                               char separator);

/* An engine that obeys @o, with bounds that are no options */
ColoMatch *colo_compare_options_match(const ColoCompareOptions *o,
                                      const ColoMatchOps *ops, void *opaque);

/* ColoMatchOps.need and .withdraw: of the checkpoint.  Any thread. */
void colo_compare_request(ColoMatchNeed why, uint64_t epoch);
void colo_compare_withdraw(void *opaque, ColoMatchNeed why, uint64_t epoch);

/* For query-colo-status; the caller frees it */
ColoCompareStatistics *colo_compare_statistics_new(Object *obj,
                                                   const ColoMatchStats *m);

#endif
