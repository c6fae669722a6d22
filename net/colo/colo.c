/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what migration asks of the network.
 *
 * Both sides, under the BQL.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "net/colo.h"
#include "colo-compare.h"
#include "net/filter.h"
#include "net/net.h"
#include "net/queue.h"
#include "net/vhost_net.h"
#include "standard-headers/linux/virtio_net.h"
#include "qom/object.h"
#include "system/runstate.h"

bool colo_net_supported(void)
{
    return true;
}

static void refuse_vhost(NICState *nic, void *opaque)
{
    NetClientState *nc = qemu_get_queue(nic);
    Error **errp = opaque;

    /* Other models leave the vhost of their netdev alone */
    if (g_str_has_prefix(nc->model, "virtio-net") &&
        nc->peer && get_vhost_net(nc->peer) && !*errp) {
        error_setg(errp, "x-colo cannot protect a guest with the network "
                   "device '%s': vhost of netdev '%s' carries its packets past "
                   "QEMU; use vhost=off", nc->name, nc->peer->name);
    }
}

bool colo_net_check(Error **errp)
{
    ERRP_GUARD();

    qemu_foreach_nic(refuse_vhost, errp);
    return !*errp;
}

bool colo_net_has_filter(NetClientState *netdev, const char *type)
{
    NetFilterState *nf;

    QTAILQ_FOREACH(nf, &netdev->filters, next) {
        if (object_dynamic_cast(OBJECT(nf), type)) {
            return true;
        }
    }
    return false;
}

static void warn_if_held(NICState *nic, void *opaque)
{
    NetClientState *nc = qemu_get_queue(nic);

    if (nc->peer && colo_net_has_filter(nc->peer, "filter-output-commit")) {
        warn_report("COLO: in hybrid mode filter-output-commit still holds "
                    "the output of '%s' until the next checkpoint",
                    nc->name);
    }
}

void colo_net_warn_slow(ColoSyncMode mode)
{
    if (mode == COLO_SYNC_MODE_HYBRID) {
        qemu_foreach_nic(warn_if_held, NULL);
    }
}

bool colo_net_drops(const NetClientState *sender,
                    const NetClientState *receiver, unsigned flags)
{
    bool to_guest, from_guest;

    /* Without a sender a NIC talks to itself */
    if (!sender || !colo_secondary_follows()) {
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
