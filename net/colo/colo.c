/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what migration asks of the network.
 *
 * Both sides, under the BQL.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "net/colo.h"
#include "migration/colo/lease.h"
#include "qemu/main-loop.h"
#include "block/aio.h"
#include "colo-compare.h"
#include "held-output.h"
#include "net/net.h"
#include "net/queue.h"
#include "standard-headers/linux/virtio_net.h"
#include "system/runstate.h"

static void go_on(void *opaque)
{
    colo_held_output_go_on();
    colo_compare_go_on();
}

/* Any thread */
static void lease_renewed(void)
{
    aio_bh_schedule_oneshot(qemu_get_aio_context(), go_on, NULL);
}

static void __attribute__((constructor)) colo_net_init(void)
{
    colo_lease_on_renewal(lease_renewed);
}

bool colo_net_supported(void)
{
    return true;
}

bool colo_net_drops(const NetClientState *sender,
                    const NetClientState *receiver, unsigned flags)
{
    bool to_guest, from_guest;

    /* Without a sender a NIC talks to itself */
    if (!sender) {
        return false;
    }
    if (!colo_lease_holds()) {
        /*
         * What was let go before, and has waited in a queue since.  A hub is no
         * way out: behind it there may be a filter that holds it.
         */
        return receiver->info->type != NET_CLIENT_DRIVER_NIC &&
               receiver->info->type != NET_CLIENT_DRIVER_HUBPORT;
    }
    if (!colo_secondary_follows()) {
        return false;
    }
    from_guest = sender->info->type == NET_CLIENT_DRIVER_NIC;
    to_guest = receiver->info->type == NET_CLIENT_DRIVER_NIC &&
               !(flags & QEMU_NET_PACKET_FLAG_PRIMARY);
    if (from_guest) {
        warn_report_once("COLO: the guest of a secondary sends, and no "
                         "filter-redirector on netdev '%s' takes that to the "
                         "primary: it is dropped", receiver->name);
    } else if (to_guest) {
        warn_report_once("COLO: the network sends to the guest of a secondary, "
                         "and no filter-redirector on netdev '%s' has the "
                         "primary's input instead: it is dropped",
                         sender->name);
    }
    return from_guest || to_guest;
}

int colo_net_fit_header(const NetClientState *netdev, uint32_t had,
                        uint8_t *data, size_t size,
                        struct iovec iov[COLO_NET_PARTS])
{
    static uint8_t zeroes[sizeof(struct virtio_net_hdr_v1_hash)];
    uint32_t wanted = netdev->vnet_hdr_len;

    if (had == wanted) {
        iov[0] = (struct iovec) { data, size };
        return 1;
    }
    /* All of them begin alike; what is behind says nothing of output */
    assert(wanted <= sizeof(zeroes));
    had = MIN(had, size);
    iov[0] = (struct iovec) { data, MIN(had, wanted) };
    iov[1] = (struct iovec) { zeroes, wanted - MIN(had, wanted) };
    iov[2] = (struct iovec) { data + had, size - had };
    return COLO_NET_PARTS;
}

const MACAddr *colo_net_mac(const NetClientState *netdev)
{
    NetClientState *nc = netdev->peer;

    return nc && nc->info->type == NET_CLIENT_DRIVER_NIC
           ? &qemu_get_nic(nc)->conf->macaddr : NULL;
}

void colo_net_flush_standing(NetClientState *netdev)
{
    if (!runstate_is_running()) {
        qemu_net_queue_flush(netdev->incoming_queue);
    }
}

ColoCompareStatisticsList *colo_net_compare_statistics(void)
{
    ColoCompareStatisticsList *list = NULL;
    ColoCompareStatisticsList **tail = &list;

    colo_compare_append_statistics(&tail);
    filter_compare_append_statistics(&tail);
    return list;
}
