/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what the network code offers to migration.  BQL.
 */

#ifndef QEMU_NET_COLO_H
#define QEMU_NET_COLO_H

#include "migration/colo.h"
#include "net/net.h"
#include "qemu/uuid.h"
#include "qapi/qapi-types-colo.h"
#include "qapi/qapi-types-migration.h"

/* Is the network part of COLO compiled in? */
bool colo_net_supported(void);

/*
 * colo_net_set_session: @id is that of the session which begins; NULL: it is
 * over
 *
 * @mode: in hybrid mode something has to come by each stream
 *
 * Streams say it from then on, and those of another session are closed.
 */
void colo_net_set_session(const QemuUUID *id, ColoSyncMode mode);

/*
 * colo_net_check: is there a NIC whose packets do not pass through QEMU?
 *
 * No filter sees them, and nothing keeps the guest of a secondary from sending.
 * Returns false with @errp set.
 */
bool colo_net_check(Error **errp);

/*
 * colo_net_problems: call @found for each NIC and each stream that a session of
 * @side in @mode does not cover; @message says what is wrong with @name
 *
 * A secondary that does not know the mode yet says it is periodic.
 */
typedef void ColoProblemFunc(void *opaque, ColoProblemKind kind,
                             const char *name, const char *message);
void colo_net_problems(COLOMode side, ColoSyncMode mode,
                       ColoProblemFunc *found, void *opaque);

/*
 * colo_netdev_del_refused: does a NIC of a COLO pair, of either side, need
 * @netdev?
 *
 * Returns true with @errp set.  BQL.
 */
bool colo_netdev_del_refused(const NetClientState *netdev, Error **errp);

/*
 * colo_net_drops: may a packet with @flags not get from @sender to @receiver?
 *
 * Asked below all filters.  True on the secondary of a pair until it is live,
 * for all that its guest sends and for all that it gets but the primary's input
 * (QEMU_NET_PACKET_FLAG_PRIMARY): whichever filters are missing there, nobody
 * sees two guests.  Reported once.  BQL.
 */
bool colo_net_drops(const NetClientState *sender,
                    const NetClientState *receiver, unsigned flags);

/*
 * colo_net_mac: MAC address with which the NIC on @netdev was made, NULL if
 * there is no NIC
 *
 * This is what a NIC announces after a failover, whatever the guest has set
 * meanwhile.
 */
const MACAddr *colo_net_mac(const NetClientState *netdev);

/*
 * colo_net_flush_standing: @netdev has just got a packet that may leave.  While
 * the VM stands still, queues keep packets; but the guest said it before.
 */
void colo_net_flush_standing(NetClientState *netdev);

/*
 * colo_net_fit_header: @iov gets the packet in @data with a vnet header of the
 * length that @netdev has now.  Returns how many parts it has.
 *
 * The length belongs to the driver in the guest, which may have reset its NIC
 * since the packet was held: @had is what it was then.
 */
#define COLO_NET_PARTS 3
int colo_net_fit_header(const NetClientState *netdev, uint32_t had,
                        uint8_t *data, size_t size,
                        struct iovec iov[COLO_NET_PARTS]);

/*
 * What each object that compares has done; the caller frees the list.  NULL if
 * there is none.
 */
ColoCompareStatisticsList *colo_net_compare_statistics(void);

/*
 * colo_compare_cleanup: QEMU exits, all colo-compare objects stop to work
 *
 * Before the character devices go: an iothread works with them.
 */
void colo_compare_cleanup(void);

#endif
