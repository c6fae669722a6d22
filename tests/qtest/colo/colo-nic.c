/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: the driver of a virtio-net-pci that sends.
 */

#include "qemu/osdep.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "libqos/virtio.h"
#include "libqos/virtio-pci.h"
#include "standard-headers/linux/virtio_net.h"
#include "colo-nic.h"

#define TX_QUEUE    1

struct ColoNic {
    QTestState *qts;
    QGuestAllocator alloc;
    QPCIBus *bus;
    QVirtioPCIDevice *dev;
    QVirtQueue *tx;
};

ColoNic *colo_nic_new(QTestState *qts, int slot)
{
    ColoNic *nic = g_new0(ColoNic, 1);
    QPCIAddress addr = { .devfn = QPCI_DEVFN(slot, 0) };
    QVirtioDevice *vdev;

    nic->qts = qts;
    pc_alloc_init(&nic->alloc, qts, 0);
    nic->bus = qpci_new_pc(qts, &nic->alloc);
    nic->dev = virtio_pci_new(nic->bus, &addr);
    g_assert_nonnull(nic->dev);
    vdev = &nic->dev->vdev;
    qvirtio_pci_device_enable(nic->dev);
    qvirtio_start_device(vdev);
    qvirtio_set_features(vdev, qvirtio_get_features(vdev) &
                         ~(QVIRTIO_F_BAD_FEATURE |
                           (1ull << VIRTIO_RING_F_INDIRECT_DESC) |
                           (1ull << VIRTIO_RING_F_EVENT_IDX) |
                           (1ull << VIRTIO_NET_F_MQ)));
    nic->tx = qvirtqueue_setup(vdev, &nic->alloc, TX_QUEUE);
    qvirtio_set_driver_ok(vdev);
    return nic;
}

void colo_nic_free(ColoNic *nic)
{
    qvirtqueue_cleanup(nic->dev->vdev.bus, nic->tx, &nic->alloc);
    g_free(nic->dev->pdev);
    g_free(nic->dev);
    qpci_free_pc(nic->bus);
    alloc_destroy(&nic->alloc);
    g_free(nic);
}

void colo_nic_send(ColoNic *nic, size_t bytes, unsigned count)
{
    size_t size = sizeof(struct virtio_net_hdr_mrg_rxbuf) + bytes;
    uint64_t addr = guest_alloc(&nic->alloc, size);

    qtest_memset(nic->qts, addr, 0, size);
    for (unsigned i = 0; i < count; i++) {
        uint32_t head = qvirtqueue_add(nic->qts, nic->tx, addr, size, false,
                                       false);

        qvirtqueue_kick(nic->qts, &nic->dev->vdev, nic->tx, head);
    }
}

unsigned colo_nic_sent(ColoNic *nic)
{
    unsigned n = 0;

    while (qvirtqueue_get_buf(nic->qts, nic->tx, NULL, NULL)) {
        n++;
    }
    return n;
}

void colo_nic_reset(ColoNic *nic)
{
    qvirtio_reset(&nic->dev->vdev);
}
