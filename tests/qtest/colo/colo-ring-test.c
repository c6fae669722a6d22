/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a secondary whose guest is slow to empty the ring of its NIC.
 *
 * Proves: it gets each packet that the primary's guest got, in order, however
 * many come at once and whenever it gives descriptors back.  What the ring has
 * no room for waits.  After a failover that comes before what the network sends
 * then.
 *
 * A firmware that halts is the guest, this is the driver of its NIC.  The ring
 * is set up on the primary and emptied on the secondary.
 */

#include "qemu/osdep.h"
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include "qemu/bswap.h"
#include "qemu/sockets.h"
#include "qapi/error.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "colo-device-rig.h"
#include "colo-net.h"

#define SLOT            5
#define RING            0x1000000       /* in the guest's RAM */
#define BUFFERS         0x1010000
#define BUFFER_BYTES    2048
#define DESCRIPTORS     8
#define DESCRIPTOR_BYTES 16
#define GIVEN_BACK      4               /* at once */
#define PACKETS         200
#define PACKET_BYTES    100
#define NUMBER_AT       14              /* in the packet */

/* rtl8139 in C+ mode */
#define RTL_COMMAND     0x37
#define RTL_RX_ENABLE   0x08
#define RTL_INTR_MASK   0x3c
#define RTL_RX_CONFIG   0x44
#define RTL_ACCEPT_ALL  0x0f
#define RTL_CP_COMMAND  0xe0
#define RTL_CP_RX       0x02
#define RTL_RING        0xe4
#define RTL_OWN         0x80000000U
#define RTL_END         0x40000000U

/* e1000 */
#define E1000_RCTL      0x100
#define E1000_RCTL_ON   0x801a          /* enabled, accept all */
#define E1000_RDBAL     0x2800
#define E1000_RDLEN     0x2808
#define E1000_RDH       0x2810
#define E1000_RDT       0x2818
#define E1000_STATUS_AT 12              /* in the descriptor */
#define E1000_DONE      0x01

typedef struct Model {
    const char *name;
    int bar;
    void (*begin)(QTestState *qts, uint64_t regs);
    bool (*received)(QTestState *qts, unsigned n);
    void (*give)(QTestState *qts, unsigned n);
    /* Those up to @n were given back; NULL: it does not say so */
    void (*gave)(QTestState *qts, uint64_t regs, unsigned n);
} Model;

static uint64_t descriptor(unsigned n)
{
    return RING + n % DESCRIPTORS * DESCRIPTOR_BYTES;
}

static uint64_t buffer(unsigned n)
{
    return BUFFERS + n % DESCRIPTORS * BUFFER_BYTES;
}

static void rtl_give(QTestState *qts, unsigned n)
{
    bool last = n % DESCRIPTORS == DESCRIPTORS - 1;

    qtest_writel(qts, descriptor(n) + 8, buffer(n));
    qtest_writel(qts, descriptor(n) + 12, 0);
    qtest_writel(qts, descriptor(n),
                 RTL_OWN | (last ? RTL_END : 0) | BUFFER_BYTES);
}

static void rtl_begin(QTestState *qts, uint64_t regs)
{
    for (unsigned n = 0; n < DESCRIPTORS; n++) {
        rtl_give(qts, n);
    }
    qtest_writew(qts, regs + RTL_CP_COMMAND, RTL_CP_RX);
    qtest_writel(qts, regs + RTL_RING, RING);
    qtest_writel(qts, regs + RTL_RING + 4, 0);
    qtest_writel(qts, regs + RTL_RX_CONFIG, RTL_ACCEPT_ALL);
    qtest_writeb(qts, regs + RTL_COMMAND, RTL_RX_ENABLE);
}

static bool rtl_received(QTestState *qts, unsigned n)
{
    return !(qtest_readl(qts, descriptor(n)) & RTL_OWN);
}

static void rtl_gave(QTestState *qts, uint64_t regs, unsigned n)
{
    qtest_writew(qts, regs + RTL_INTR_MASK, 0);
}

static void e1000_give(QTestState *qts, unsigned n)
{
    qtest_writeq(qts, descriptor(n), buffer(n));
    qtest_writeq(qts, descriptor(n) + 8, 0);
}

/* The NIC owns those from RDH up to RDT, all but one at most */
static void e1000_gave(QTestState *qts, uint64_t regs, unsigned n)
{
    qtest_writel(qts, regs + E1000_RDT, (n + DESCRIPTORS - 1) % DESCRIPTORS);
}

static void e1000_begin(QTestState *qts, uint64_t regs)
{
    for (unsigned n = 0; n < DESCRIPTORS; n++) {
        e1000_give(qts, n);
    }
    qtest_writel(qts, regs + E1000_RDBAL, RING);
    qtest_writel(qts, regs + E1000_RDBAL + 4, 0);
    qtest_writel(qts, regs + E1000_RDLEN, DESCRIPTORS * DESCRIPTOR_BYTES);
    qtest_writel(qts, regs + E1000_RDH, 0);
    e1000_gave(qts, regs, 0);
    qtest_writel(qts, regs + E1000_RCTL, E1000_RCTL_ON);
}

static bool e1000_received(QTestState *qts, unsigned n)
{
    return qtest_readb(qts, descriptor(n) + E1000_STATUS_AT) & E1000_DONE;
}

static const Model models[] = {
    { "rtl8139", 1, rtl_begin, rtl_received, rtl_give, rtl_gave },
    { "rtl8139", 1, rtl_begin, rtl_received, rtl_give, NULL },
    { "e1000", 0, e1000_begin, e1000_received, e1000_give, e1000_gave },
};

/* Where the registers are; the bus of the primary is set up for that */
static uint64_t begin_nic(QTestState *qts, const Model *model)
{
    QGuestAllocator alloc;
    QPCIBus *bus;
    QPCIDevice *dev;
    uint64_t regs;

    pc_alloc_init(&alloc, qts, 0);
    bus = qpci_new_pc(qts, &alloc);
    dev = qpci_device_find(bus, QPCI_DEVFN(SLOT, 0));
    g_assert_nonnull(dev);
    qpci_device_enable(dev);
    regs = qpci_iomap(dev, model->bar, NULL).addr;
    model->begin(qts, regs);
    g_free(dev);
    qpci_free_pc(bus);
    alloc_destroy(&alloc);
    return regs;
}

/* What the primary's guest gets; returns the stream */
static int add_input(Net *n)
{
    add_chardev(n, "red0");
    qtest_qmp_assert_success(n->qts,
        "{'execute': 'object-add', 'arguments': {'id': 'f1',"
        "'qom-type': 'filter-redirector', 'netdev': 'hn1', 'queue': 'tx',"
        "'indev': 'red0'}}");
    return open_chardev(n, "red0");
}

/* At once, so that they are read at once */
static void write_packets(int fd, int from, int to)
{
    g_autoptr(GByteArray) all = g_byte_array_new();
    const uint32_t size = cpu_to_be32(PACKET_BYTES);
    uint8_t packet[PACKET_BYTES] = { };

    memset(packet, 0xff, 6);
    for (int i = from; i < to; i++) {
        packet[NUMBER_AT] = i;
        g_byte_array_append(all, (const uint8_t *)&size, sizeof(size));
        g_byte_array_append(all, packet, sizeof(packet));
    }
    write_all(fd, all->data, all->len);
}

/* The guest goes through its ring, and gives back what it has had */
static void expect_packets(QTestState *qts, const Model *model, uint64_t regs,
                           unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        wait_for(model->received(qts, i));
        g_assert_cmpuint(qtest_readb(qts, buffer(i) + NUMBER_AT), ==, i);
        model->give(qts, i);
        if (model->gave && (i + 1) % GIVEN_BACK == 0) {
            model->gave(qts, regs, i + 1);
        }
    }
}

static void test_ring(const void *opaque)
{
    const Model *model = opaque;
    g_autofree char *extra = g_strdup_printf(
        "-netdev hubport,id=hn1,hubid=1 "
        "-device %s,netdev=hn1,addr=%d,romfile=", model->name, SLOT);
    ColoPair *p = device_pair("hybrid", extra);
    Net n = { .qts = p->secondary, .dir = p->dir };
    uint64_t regs = begin_nic(p->primary, model);
    int fd = add_input(&n);

    device_protect(p);
    write_cut(fd, 0);
    write_packets(fd, 0, PACKETS);
    expect_packets(n.qts, model, regs, PACKETS);
    g_assert_cmpuint(counter(n.qts, "f1", "in-packets"), ==, PACKETS);
    close(fd);
    colo_pair_free(p);
}

/* The network of each side is the socket that it opened */
static void accept_networks(int listener, ColoPair *p, int *primary,
                            int *secondary)
{
    for (int i = 0; i < 2; i++) {
        int fd = accept(listener, NULL, NULL);
        struct ucred peer;
        socklen_t len = sizeof(peer);

        g_assert_cmpint(fd, >=, 0);
        set_deadline(fd);
        g_assert_cmpint(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len),
                        ==, 0);
        *(peer.pid == qtest_pid(p->secondary) ? secondary : primary) = fd;
    }
}

static bool all_was_read(int fd)
{
    int unread;

    g_assert_cmpint(ioctl(fd, SIOCOUTQ, &unread), ==, 0);
    return !unread;
}

/* What the primary's guest has had is older than what the network sends now */
static void test_failover(const void *opaque)
{
    const Model *model = opaque;
    const int kept = PACKETS / 2;
    g_autofree char *dir = g_dir_make_tmp("colo-ring-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "net", NULL);
    g_autofree char *extra = g_strdup_printf(
        "-netdev stream,id=hn1,server=off,addr.type=unix,addr.path=%s "
        "-device %s,netdev=hn1,addr=%d,romfile=", path, model->name, SLOT);
    int listener = unix_listen(path, &error_abort);
    ColoPair *p = device_pair("hybrid", extra);
    Net n = { .qts = p->secondary, .dir = p->dir };
    uint64_t regs = begin_nic(p->primary, model);
    int fd = add_input(&n), primary, secondary;

    accept_networks(listener, p, &primary, &secondary);
    device_protect(p);
    write_cut(fd, 0);
    write_packets(fd, 0, kept);
    wait_for(counter(n.qts, "f1", "kept-bytes") > 0 && all_was_read(fd));
    set_status(n.qts, "/objects/f1", "off");
    device_failover(p);
    write_packets(secondary, kept, PACKETS);
    wait_for(all_was_read(secondary));
    expect_packets(n.qts, model, regs, PACKETS);
    wait_for(!counter(n.qts, "f1", "kept-bytes"));
    close(fd);
    close(primary);
    close(secondary);
    close(listener);
    colo_pair_free(p);
    remove_dir(g_steal_pointer(&dir));
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    device_rig_begin();
    for (int i = 0; i < G_N_ELEMENTS(models); i++) {
        g_autofree char *path = g_strdup_printf(
            "/colo/ring/%s/%s", models[i].name,
            models[i].gave ? "tells" : "silent");
        g_autofree char *failover = g_strdup_printf("%s/failover", path);

        g_test_add_data_func(path, &models[i], test_ring);
        g_test_add_data_func(failover, &models[i], test_failover);
    }
    ret = g_test_run();
    device_rig_end();
    return ret;
}
