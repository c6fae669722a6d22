/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO and a SCSI adapter that waits for its guest in the middle of a request.
 *
 * The target has data for the guest, which has not begun its DMA, so each
 * checkpoint has that request, and each load cancels the one of the load
 * before.
 *
 * Proves: the secondary lives, and the survivor's guest gets the data.
 */

#include "qemu/osdep.h"
#include "libqos/libqos.h"
#include "libqos/pci-pc.h"
#include "colo-device-rig.h"

#define LOADS           3
#define SLOT            6
#define DATA            0x100000        /* in memory */
#define INQUIRY_BYTES   36
#define VENDOR          8               /* in the data */

/* Registers */
#define COUNT_LOW       0x00
#define COUNT_MID       0x04
#define FIFO            0x08
#define COMMAND         0x0c
#define STATUS          0x10            /* when read */
#define BUS_ID          0x10
#define DMA_COMMAND     0x40
#define DMA_COUNT       0x44
#define DMA_ADDRESS     0x48

#define SELECT          0x41
#define TRANSFER        0x90            /* by DMA */
#define PHASE           7
#define DATA_IN         1
#define STATUS_IN       3
#define DMA_READ        0x83            /* into memory, begin now */

static const char *const modes[] = { "periodic", "hybrid" };
static const char *const adapters[] = { "am53c974", "dc390" };

typedef struct Case {
    const char *mode;
    const char *adapter;
} Case;

typedef struct Adapter {
    QPCIBus *bus;
    QPCIDevice *dev;
    QPCIBar bar;
} Adapter;

static void adapter_open(Adapter *a, QTestState *qts)
{
    a->bus = qpci_new_pc(qts, NULL);
    a->dev = qpci_device_find(a->bus, QPCI_DEVFN(SLOT, 0));
    g_assert_nonnull(a->dev);
    /* At the same address on both sides */
    qpci_device_enable(a->dev);
    a->bar = qpci_iomap(a->dev, 0, NULL);
}

static void adapter_close(Adapter *a)
{
    g_free(a->dev);
    qpci_free_pc(a->bus);
}

static void check_phase(Adapter *a, int phase)
{
    g_assert_cmphex(qpci_io_readb(a->dev, a->bar, STATUS) & PHASE, ==, phase);
}

static void begin_inquiry(QTestState *qts)
{
    static const uint8_t cdb[] = { 0x12, 0, 0, 0, INQUIRY_BYTES, 0 };
    Adapter a;

    adapter_open(&a, qts);
    qpci_io_writel(a.dev, a.bar, BUS_ID, 0);
    for (int i = 0; i < ARRAY_SIZE(cdb); i++) {
        qpci_io_writel(a.dev, a.bar, FIFO, cdb[i]);
    }
    qpci_io_writel(a.dev, a.bar, COMMAND, SELECT);
    check_phase(&a, DATA_IN);
    adapter_close(&a);
}

static void end_inquiry(QTestState *qts)
{
    char vendor[5] = "";
    Adapter a;

    adapter_open(&a, qts);
    check_phase(&a, DATA_IN);
    qpci_io_writel(a.dev, a.bar, DMA_COUNT, INQUIRY_BYTES);
    qpci_io_writel(a.dev, a.bar, DMA_ADDRESS, DATA);
    qpci_io_writel(a.dev, a.bar, COUNT_LOW, INQUIRY_BYTES);
    qpci_io_writel(a.dev, a.bar, COUNT_MID, 0);
    qpci_io_writel(a.dev, a.bar, DMA_COMMAND, DMA_READ);
    qpci_io_writel(a.dev, a.bar, COMMAND, TRANSFER);
    check_phase(&a, STATUS_IN);
    qtest_memread(qts, DATA + VENDOR, vendor, sizeof(vendor) - 1);
    g_assert_cmpstr(vendor, ==, "QEMU");
    adapter_close(&a);
}

static void test_waits(const void *opaque)
{
    const Case *c = opaque;
    g_autofree char *extra = g_strdup_printf(
        "-device %s,id=hba,addr=%d -device scsi-hd,bus=hba.0,scsi-id=0,drive=d "
        "-drive if=none,id=d,format=raw,file.driver=null-co,read-only=on",
        c->adapter, SLOT);
    ColoPair *p = device_pair(c->mode, extra);

    begin_inquiry(p->primary);
    device_protect(p);
    device_checkpoints(p, LOADS);
    device_failover(p);
    end_inquiry(p->secondary);
    colo_quit(&p->secondary);
    colo_pair_free(p);
}

int main(int argc, char **argv)
{
    int result;

    g_test_init(&argc, &argv, NULL);
    device_rig_begin();
    for (int i = 0; i < ARRAY_SIZE(adapters); i++) {
        for (int j = 0; j < ARRAY_SIZE(modes); j++) {
            g_autofree char *path = g_strdup_printf("/colo/esp/waits/%s/%s",
                                                    adapters[i], modes[j]);
            Case *c = g_new(Case, 1);

            c->adapter = adapters[i];
            c->mode = modes[j];
            qtest_add_data_func_full(path, c, test_waits, g_free);
        }
    }
    result = g_test_run();
    device_rig_end();
    return result;
}
