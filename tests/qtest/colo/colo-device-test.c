/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO and devices that expect one load in the life of a QEMU.
 *
 * Proves: a secondary that has loaded such a device many times, with no run of
 * the guest in between, lives after a failover; and what the device has kept of
 * earlier loads is gone.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "libqos/libqos.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "libqos/virtio-pci.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_net.h"
#include "colo-device-rig.h"

#define FLASH_BYTES     0x10000
#define FLASH           0xffff0000      /* ends at 4 GiB */
#define FLASH_BYTE      0x1000          /* programmed here */
#define FLASH_BUFFER    0x2000          /* written as a buffer */
#define FLASH_BLOCK     0x3000          /* erased, a sector of 4 KiB */
#define LOADS           5

/* So many that what one load leaves is seen in the memory of QEMU */
#define NICS            8
#define FLAT_LOADS      100
#define FLAT_KIB        2500            /* what leaks takes twice that */

/* Registers and memory that a driver of vmxnet3 shares with it */
#define VMXNET3_BAR             1
#define VMXNET3_SHARED_LOW      0x10
#define VMXNET3_SHARED_HIGH     0x18
#define VMXNET3_COMMAND         0x20
#define VMXNET3_UPDATE_MAC      0xcafe0004
#define VMXNET3_SHARED          0x100000
#define VMXNET3_LIST_BYTES      124     /* of the shared memory */
#define VMXNET3_LIST_ADDRESS    128
#define VMXNET3_LIST            0x110000
#define VMXNET3_LIST_LEN        65532   /* the longest */

#define VSOCK_SLOT      6

#define RSS_SLOT        6
#define RSS_TABLE       128
#define RSS_KEY         40

#define UEFI_VARS               0xfef10000
#define UEFI_VARS_BUFFER_SIZE   (UEFI_VARS + 4)
#define UEFI_VARS_BUFFER        0x10000

static char *flash_image;

/* The flash holds the firmware.  Both sides write to one image. */
static ColoPair *flash_pair(const char *mode)
{
    g_autofree char *extra = NULL;
    g_autofree char *rom = NULL;
    size_t bytes;
    int fd = g_file_open_tmp("colo-flash-XXXXXX", &flash_image, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    g_assert_true(g_file_get_contents(device_rig_firmware(), &rom, &bytes,
                                      NULL));
    g_assert_cmpuint(bytes, ==, FLASH_BYTES);
    g_assert_true(g_file_set_contents(flash_image, rom, bytes, NULL));
    extra = g_strdup_printf("-drive if=pflash,format=raw,file.locking=off,"
                            "file.filename=%s", flash_image);
    return colo_pair_new_with(mode, "tcg", extra);
}

static void flash_pair_free(ColoPair *p)
{
    colo_pair_free(p);
    unlink(flash_image);
    g_clear_pointer(&flash_image, g_free);
}

static void flash_write(QTestState *qts)
{
    qtest_writeb(qts, FLASH + FLASH_BYTE, 0x40);
    qtest_writeb(qts, FLASH + FLASH_BYTE, 0x43);
    qtest_writeb(qts, FLASH + FLASH_BUFFER, 0xe8);
    qtest_writeb(qts, FLASH + FLASH_BUFFER, 1);
    qtest_writeb(qts, FLASH + FLASH_BUFFER, 0x4f);
    qtest_writeb(qts, FLASH + FLASH_BUFFER + 1, 0x4c);
    qtest_writeb(qts, FLASH + FLASH_BUFFER, 0xd0);
    qtest_writeb(qts, FLASH + FLASH_BLOCK, 0x20);
    qtest_writeb(qts, FLASH + FLASH_BLOCK, 0xd0);
    qtest_writeb(qts, FLASH, 0xff);
}

static void flash_check(QTestState *qts)
{
    g_assert_cmphex(qtest_readb(qts, FLASH + FLASH_BYTE), ==, 0x43);
    g_assert_cmphex(qtest_readb(qts, FLASH + FLASH_BUFFER), ==, 0x4f);
    g_assert_cmphex(qtest_readb(qts, FLASH + FLASH_BUFFER + 1), ==, 0x4c);
    g_assert_cmphex(qtest_readb(qts, FLASH + FLASH_BLOCK), ==, 0xff);
    g_assert_cmphex(qtest_readb(qts, FLASH + FLASH_BLOCK + 0xfff), ==, 0xff);
}

/* Nothing of what was written so far is in the image */
static void flash_clear_image(void)
{
    g_autofree char *zero = g_malloc0(FLASH_BYTES);
    int fd = open(flash_image, O_WRONLY);

    g_assert_cmpint(pwrite(fd, zero, FLASH_BYTES, 0), ==, FLASH_BYTES);
    close(fd);
}

static void flash_check_image(void)
{
    g_autofree char *is = NULL;
    size_t bytes;

    g_assert_true(g_file_get_contents(flash_image, &is, &bytes, NULL));
    g_assert_cmpuint(bytes, ==, FLASH_BYTES);
    g_assert_cmphex(is[FLASH_BYTE], ==, 0x43);
}

static void test_flash_loaded(const void *mode)
{
    ColoPair *p = flash_pair(mode);

    device_protect(p);
    device_checkpoints(p, LOADS);
    device_failover(p);
    colo_quit(&p->secondary);
    flash_pair_free(p);
}

/* The survivor has it, and its image gets it, or it is gone with QEMU */
static void test_flash_written(const void *mode)
{
    ColoPair *p = flash_pair(mode);

    device_protect(p);
    device_checkpoints(p, LOADS);
    flash_write(p->primary);
    flash_check(p->primary);
    flash_clear_image();
    device_checkpoints(p, LOADS);
    device_failover(p);
    flash_check(p->secondary);
    flash_check_image();
    colo_quit(&p->secondary);
    flash_pair_free(p);
}

/*
 * Each load leaves something to be done as soon as the guest runs.  Whether
 * that of the load before is freed only a leak checker sees.
 */
static void test_serial(const void *mode)
{
    ColoPair *p = device_pair(mode, "-device virtio-serial-pci "
                              "-device virtserialport,nr=1 "
                              "-device virtserialport,nr=2");

    device_protect(p);
    device_checkpoints(p, LOADS);
    device_failover(p);
    colo_quit(&p->secondary);
    colo_pair_free(p);
}

/* No driver has activated them */
static void test_vmxnet3_idle(const void *mode)
{
    GString *s = g_string_new(NULL);
    ColoPair *p;

    for (int i = 0; i < NICS; i++) {
        g_string_append(s, " -device vmxnet3,romfile=");
    }
    p = device_pair(mode, s->str);
    g_string_free(s, TRUE);
    device_protect(p);
    device_check_flat(p, FLAT_LOADS, FLAT_KIB);
    device_failover(p);
    colo_quit(&p->secondary);
    colo_pair_free(p);
}

static void vmxnet3_set_multicast(QTestState *qts)
{
    QPCIBus *bus = qpci_new_pc(qts, NULL);
    QPCIDevice *nic = qpci_device_find(bus, QPCI_DEVFN(6, 0));
    QPCIBar bar;

    g_assert_nonnull(nic);
    qpci_device_enable(nic);
    bar = qpci_iomap(nic, VMXNET3_BAR, NULL);
    qtest_writew(qts, VMXNET3_SHARED + VMXNET3_LIST_BYTES, VMXNET3_LIST_LEN);
    qtest_writeq(qts, VMXNET3_SHARED + VMXNET3_LIST_ADDRESS, VMXNET3_LIST);
    qtest_memset(qts, VMXNET3_LIST, 0x5a, VMXNET3_LIST_LEN);
    qpci_io_writel(nic, bar, VMXNET3_SHARED_LOW, VMXNET3_SHARED);
    qpci_io_writel(nic, bar, VMXNET3_SHARED_HIGH, 0);
    qpci_io_writel(nic, bar, VMXNET3_COMMAND, VMXNET3_UPDATE_MAC);
    g_free(nic);
    qpci_free_pc(bus);
}

static void test_vmxnet3_multicast(const void *mode)
{
    ColoPair *p = device_pair(mode, "-device vmxnet3,romfile=,addr=6");

    vmxnet3_set_multicast(p->primary);
    device_protect(p);
    device_check_flat(p, FLAT_LOADS, FLAT_KIB);
    device_failover(p);
    colo_quit(&p->secondary);
    colo_pair_free(p);
}

/*
 * A driver of a virtio device gives it queues 0 to 2; the last is for commands
 * or events.
 */
typedef struct Driver {
    QGuestAllocator alloc;
    QPCIBus *bus;
    QVirtioPCIDevice *dev;
    QVirtQueue *vq[3];
} Driver;

static void driver_begin(Driver *d, QTestState *qts, int slot,
                         uint64_t features)
{
    QPCIAddress at = { .devfn = QPCI_DEVFN(slot, 0) };

    pc_alloc_init(&d->alloc, qts, 0);
    d->bus = qpci_new_pc(qts, NULL);
    d->dev = virtio_pci_new(d->bus, &at);
    qvirtio_pci_device_enable(d->dev);
    qvirtio_start_device(&d->dev->vdev);
    qvirtio_set_features(&d->dev->vdev, features | 1ULL << VIRTIO_F_VERSION_1);
    for (int i = 0; i < ARRAY_SIZE(d->vq); i++) {
        d->vq[i] = qvirtqueue_setup(&d->dev->vdev, &d->alloc, i);
    }
    qvirtio_set_driver_ok(&d->dev->vdev);
}

/* The device keeps what it was given */
static void driver_end(Driver *d)
{
    for (int i = 0; i < ARRAY_SIZE(d->vq); i++) {
        qvirtqueue_cleanup(d->dev->vdev.bus, d->vq[i], &d->alloc);
    }
    qvirtio_pci_device_disable(d->dev);
    g_free(d->dev->pdev);
    g_free(d->dev);
    qpci_free_pc(d->bus);
    alloc_destroy(&d->alloc);
}

static void test_vsock(const void *mode)
{
    g_autofree char *extra = NULL;
    ColoPair *p;
    Driver d;
    int fd;

    if (device_rig_sanitized()) {
        g_test_skip("the vhost of this test is preloaded, as the sanitizer is");
        return;
    }
    fd = open("/dev/null", O_RDWR); /* for QEMU, so not O_CLOEXEC */
    g_assert_cmpint(fd, >=, 0);
    extra = g_strdup_printf("-device vhost-vsock-pci,guest-cid=3,addr=%d,"
                            "vhostfd=%d", VSOCK_SLOT, fd);
    g_setenv("LD_PRELOAD", COLO_FAKE_VHOST, true);
    p = device_pair(mode, extra);
    g_unsetenv("LD_PRELOAD");
    close(fd);
    driver_begin(&d, p->primary, VSOCK_SLOT, 0);
    driver_end(&d);
    device_protect(p);
    device_checkpoints(p, LOADS);
    device_failover(p);
    colo_quit(&p->secondary);
    colo_pair_free(p);
}

/* Its packets would pass QEMU by */
static void test_vhost_net(const void *mode)
{
    g_autofree char *extra = NULL;
    ColoPair *p;
    int fds[2], vhost;

    if (device_rig_sanitized()) {
        g_test_skip("the vhost of this test is preloaded, as the sanitizer is");
        return;
    }
    vhost = open("/dev/null", O_RDWR);
    g_assert_cmpint(vhost, >=, 0);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), ==, 0);
    extra = g_strdup_printf("-netdev tap,id=past,fd=%d,vhost=on,vhostfd=%d "
                            "-device virtio-net-pci,netdev=past,id=direct,"
                            "romfile=", fds[0], vhost);
    g_setenv("LD_PRELOAD", COLO_FAKE_VHOST, true);
    p = device_pair(mode, extra);
    g_unsetenv("LD_PRELOAD");
    close(vhost);
    close(fds[0]);
    close(fds[1]);
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'migrate-set-capabilities', 'arguments': {"
        "'capabilities': [{'capability': 'x-colo', 'state': true}]}}");
    colo_refused(p->primary, "network device 'direct': vhost of netdev 'past'",
                 "{'execute': 'migrate', 'arguments': {"
                 "'uri': 'unix:no-such-socket'}}");
    colo_pair_free(p);
}

/* Receive side scaling with the longest table, on the one queue there is */
static void rss_set(QTestState *qts, int slot)
{
    uint8_t command[2 + 8 + 2 * RSS_TABLE + 3 + RSS_KEY] = {
        VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_RSS_CONFIG,
        [2] = VIRTIO_NET_RSS_HASH_TYPE_IPv4,
        [6] = RSS_TABLE - 1,
        [2 + 8 + 2 * RSS_TABLE] = 1,    /* queue pairs */
        [2 + 8 + 2 * RSS_TABLE + 2] = RSS_KEY,
    };
    Driver d;
    uint64_t at;
    uint32_t head;

    driver_begin(&d, qts, slot,
                 1ULL << VIRTIO_NET_F_CTRL_VQ | 1ULL << VIRTIO_NET_F_RSS);
    at = guest_alloc(&d.alloc, sizeof(command) + 1);
    qtest_memwrite(qts, at, command, sizeof(command));
    qtest_writeb(qts, at + sizeof(command), VIRTIO_NET_ERR);
    head = qvirtqueue_add(qts, d.vq[2], at, 2, false, true);
    qvirtqueue_add(qts, d.vq[2], at + 2, sizeof(command) - 2, false, true);
    qvirtqueue_add(qts, d.vq[2], at + sizeof(command), 1, true, false);
    qvirtqueue_kick(qts, &d.dev->vdev, d.vq[2], head);
    qvirtio_wait_used_elem(qts, &d.dev->vdev, d.vq[2], head, NULL,
                           COLO_DEADLINE_MS * 1000);
    g_assert_cmpint(qtest_readb(qts, at + sizeof(command)), ==, VIRTIO_NET_OK);
    guest_free(&d.alloc, at);
    driver_end(&d);
}

/* Whether the table of each load is freed only a leak checker sees */
static void test_rss(const void *mode)
{
    g_autofree char *extra = g_strdup_printf(
        "-netdev hubport,id=r,hubid=1 "
        "-device virtio-net-pci,netdev=r,romfile=,rss=on,addr=%x", RSS_SLOT);
    ColoPair *p = device_pair(mode, extra);

    rss_set(p->primary, RSS_SLOT);
    device_protect(p);
    device_checkpoints(p, LOADS);
    device_failover(p);
    colo_quit(&p->secondary);
    colo_pair_free(p);
}

/* It has variables of its own, and the firmware has a buffer */
static void test_uefi_vars(const void *mode)
{
    ColoPair *p = device_pair(mode, "-device uefi-vars-x64");

    qtest_writel(p->primary, UEFI_VARS_BUFFER_SIZE, UEFI_VARS_BUFFER);
    device_protect(p);
    device_check_flat(p, FLAT_LOADS, FLAT_KIB);
    device_failover(p);
    g_assert_cmphex(qtest_readl(p->secondary, UEFI_VARS_BUFFER_SIZE), ==,
                    UEFI_VARS_BUFFER);
    colo_quit(&p->secondary);
    colo_pair_free(p);
}

/* In one mode: it is the same in both */
static void add_flat(const char *name, void (*test)(const void *))
{
    g_autofree char *path = g_strdup_printf("/colo/device/%s", name);

    qtest_add_data_func(path, "periodic", test);
}

int main(int argc, char **argv)
{
    int result;

    g_test_init(&argc, &argv, NULL);
    device_rig_begin();
    colo_add("/colo/device", "flash/loaded", test_flash_loaded);
    colo_add("/colo/device", "flash/written", test_flash_written);
    colo_add("/colo/device", "rss", test_rss);
    colo_add("/colo/device", "serial", test_serial);
    add_flat("uefi-vars", test_uefi_vars);
    colo_add("/colo/device", "vsock", test_vsock);
    add_flat("vhost-net", test_vhost_net);
    add_flat("vmxnet3/idle", test_vmxnet3_idle);
    add_flat("vmxnet3/multicast", test_vmxnet3_multicast);
    result = g_test_run();
    device_rig_end();
    return result;
}
