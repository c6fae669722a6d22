/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO and devices that write to memory through a pointer of their own.
 *
 * AHCI has the command list and the area for received FISes of each port mapped
 * for as long as the guest uses them.  ERST copies records between a window in
 * its BAR and a memory backend.
 *
 * Proves: what they write is on the secondary at the next checkpoint, although
 * the guest's CPU writes nothing to these pages.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "libqos/libqos.h"
#include "libqos/pci-pc.h"
#include "colo-device-rig.h"

#define LOADS           2
#define SLOT            6

/* In memory, each on a page of its own */
#define LIST            0x100000
#define RECEIVED        0x101000
#define TABLE           0x102000
#define DATA            0x103000
#define DATA_BYTES      512
#define LIST_BYTE_COUNT (LIST + 4)
#define RECEIVED_D2H    (RECEIVED + 0x40)

/* Registers of the first port */
#define PORT            0x100
#define PORT_LIST       (PORT + 0x00)
#define PORT_RECEIVED   (PORT + 0x08)
#define PORT_COMMAND    (PORT + 0x18)
#define PORT_ISSUE      (PORT + 0x38)
#define COMMAND_START   0x0001
#define COMMAND_RECEIVE 0x0010

#define FIS_H2D         0x27
#define FIS_D2H         0x34
#define FIS_IS_COMMAND  0x80
#define ATA_IDENTIFY    0xa1            /* of a CD drive */
#define TABLE_PRD       0x80            /* where the list of data begins */

/* Registers of ERST, and what is written to them */
#define ERST_ACTION     0
#define ERST_VALUE      8
#define ERST_WRITE      0x0
#define ERST_READ       0x1
#define ERST_EXECUTE    0x5
#define ERST_STATUS     0x7
#define ERST_SET_ID     0x9
#define ERST_MAGIC      0x9c
#define RECORD_BYTES    4096
#define RECORD_LENGTH   20              /* in a record */
#define RECORD_ID       96
#define RECORD_NAME     0x1234567
#define RECORD_TEXT     1000

typedef struct Device {
    QPCIBus *bus;
    QPCIDevice *dev;
    QPCIBar bar;
    QPCIBar window;
} Device;

static void device_open(Device *d, QTestState *qts, int bar)
{
    d->bus = qpci_new_pc(qts, NULL);
    d->dev = qpci_device_find(d->bus, QPCI_DEVFN(SLOT, 0));
    g_assert_nonnull(d->dev);
    /* At the same addresses on both sides */
    qpci_device_enable(d->dev);
    d->bar = qpci_iomap(d->dev, bar, NULL);
}

static void device_close(Device *d)
{
    g_free(d->dev);
    qpci_free_pc(d->bus);
}

static void port_write(Device *d, int reg, uint32_t value)
{
    qpci_io_writel(d->dev, d->bar, reg, value);
}

/* Everything is there to identify the disk, but it has not been told to */
static void prepare(QTestState *qts, Device *d)
{
    uint32_t header[] = {
        cpu_to_le32(5 | 1 << 16), 0, cpu_to_le32(TABLE), 0,
    };
    uint32_t prd[] = { cpu_to_le32(DATA), 0, 0, cpu_to_le32(DATA_BYTES - 1) };
    uint8_t fis[20] = { FIS_H2D, FIS_IS_COMMAND, ATA_IDENTIFY };

    qtest_memwrite(qts, LIST, header, sizeof(header));
    qtest_memwrite(qts, TABLE, fis, sizeof(fis));
    qtest_memwrite(qts, TABLE + TABLE_PRD, prd, sizeof(prd));
    port_write(d, PORT_LIST, LIST);
    port_write(d, PORT_RECEIVED, RECEIVED);
    port_write(d, PORT_COMMAND, COMMAND_RECEIVE);
    port_write(d, PORT_COMMAND, COMMAND_RECEIVE | COMMAND_START);
}

static void identify(Device *d)
{
    port_write(d, PORT_ISSUE, 1);
    while (qpci_io_readl(d->dev, d->bar, PORT_ISSUE) & 1) {
        g_usleep(1000);
    }
}

static void check(QTestState *qts)
{
    g_assert_cmphex(qtest_readb(qts, RECEIVED_D2H), ==, FIS_D2H);
    g_assert_cmpuint(qtest_readl(qts, LIST_BYTE_COUNT), ==, DATA_BYTES);
}

static void test_ahci(const void *mode)
{
    g_autofree char *extra = g_strdup_printf(
        "-device ich9-ahci,id=hba,addr=%d -device ide-cd,bus=hba.0,drive=d "
        "-drive if=none,id=d,format=raw,file.driver=null-co,read-only=on",
        SLOT);
    ColoPair *p = device_pair(mode, extra);
    Device d;

    device_protect(p);
    device_checkpoints(p, LOADS);
    device_open(&d, p->primary, 5);
    prepare(p->primary, &d);
    /* Another load would give back the mapping that this one makes: dirty */
    device_checkpoints(p, 1);
    identify(&d);
    check(p->primary);
    device_close(&d);
    device_checkpoints(p, LOADS);
    device_failover(p);
    check(p->secondary);
    colo_quit(&p->secondary);
    colo_pair_free(p);
}

static void erst_set(Device *d, int action, uint64_t value)
{
    qpci_io_writeq(d->dev, d->bar, ERST_VALUE, value);
    qpci_io_writel(d->dev, d->bar, ERST_ACTION, action);
}

static void erst_do(Device *d, int operation)
{
    erst_set(d, operation, 0);
    erst_set(d, ERST_EXECUTE, ERST_MAGIC);
    erst_set(d, ERST_STATUS, 0);
    g_assert_cmphex(qpci_io_readq(d->dev, d->bar, ERST_VALUE), ==, 0);
}

static void erst_open(Device *d, QTestState *qts)
{
    device_open(d, qts, 0);
    d->window = qpci_iomap(d->dev, 1, NULL);
}

static void test_erst(const void *mode)
{
    g_autofree char *extra = g_strdup_printf(
        "-object memory-backend-ram,id=store,size=64K "
        "-device acpi-erst,memdev=store,addr=%d", SLOT);
    ColoPair *p = device_pair(mode, extra);
    g_autofree uint8_t *record = g_malloc0(RECORD_BYTES);
    g_autofree uint8_t *found = g_malloc0(RECORD_BYTES);
    Device d;

    stl_le_p(record + RECORD_LENGTH, RECORD_BYTES);
    stq_le_p(record + RECORD_ID, RECORD_NAME);
    strcpy((char *)record + RECORD_TEXT, "it crashed");
    erst_open(&d, p->primary);
    qpci_memwrite(d.dev, d.window, 0, record, RECORD_BYTES);
    device_protect(p);
    device_checkpoints(p, LOADS);
    erst_do(&d, ERST_WRITE);
    device_checkpoints(p, LOADS);
    qpci_memwrite(d.dev, d.window, 0, found, RECORD_BYTES);
    erst_set(&d, ERST_SET_ID, RECORD_NAME);
    device_checkpoints(p, LOADS);
    erst_do(&d, ERST_READ);
    device_close(&d);
    device_checkpoints(p, LOADS);
    device_failover(p);
    erst_open(&d, p->secondary);
    qpci_memread(d.dev, d.window, 0, found, RECORD_BYTES);
    g_assert_cmpmem(found, RECORD_BYTES, record, RECORD_BYTES);
    device_close(&d);
    colo_quit(&p->secondary);
    colo_pair_free(p);
}

int main(int argc, char **argv)
{
    int result;

    g_test_init(&argc, &argv, NULL);
    device_rig_begin();
    colo_add("/colo/mapped", "ahci", test_ahci);
    colo_add("/colo/mapped", "erst", test_erst);
    result = g_test_run();
    device_rig_end();
    return result;
}
