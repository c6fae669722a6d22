/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: an IDE disk whose state is saved while its guest goes on, as
 * that of a primary at each checkpoint.
 *
 * Proves: a command whose DMA the guest had not begun when the state was saved
 * is done once.  savevm saves here; it is the same as for COLO.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "libqos/libqos.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"

#define PCI_ADDRESS 0xcf8
#define PCI_DATA 0xcfc
#define PCI_IDE 0x80000900      /* 00:01.1 */
#define PCI_COMMAND_REG 0x04
#define PCI_BAR4_REG 0x20
#define BMDMA 0xc000
#define BMDMA_COMMAND BMDMA
#define BMDMA_STATUS (BMDMA + 2)
#define BMDMA_TABLE (BMDMA + 4)
#define BMDMA_ACTIVE 1
#define ATA 0x1f0
#define ATA_WRITE_DMA 0xca
#define TABLE 0x10000           /* in memory */
#define BUFFER 0x20000
#define BYTES 512

static void pci_write(QTestState *qts, int reg, uint32_t value)
{
    qtest_outl(qts, PCI_ADDRESS, PCI_IDE | reg);
    qtest_outl(qts, PCI_DATA, value);
}

/* One sector, the first, is to be written; the DMA is not begun */
static void give_command(QTestState *qts)
{
    uint32_t entry[] = { cpu_to_le32(BUFFER), cpu_to_le32(BYTES | 1U << 31) };

    pci_write(qts, PCI_BAR4_REG, BMDMA | 1);
    pci_write(qts, PCI_COMMAND_REG, 5); /* ports, bus master */
    qtest_memwrite(qts, TABLE, entry, sizeof(entry));
    qtest_outl(qts, BMDMA_TABLE, TABLE);
    qtest_outb(qts, ATA + 2, 1);
    qtest_outb(qts, ATA + 3, 0);
    qtest_outb(qts, ATA + 4, 0);
    qtest_outb(qts, ATA + 5, 0);
    qtest_outb(qts, ATA + 6, 0xe0);
    qtest_outb(qts, ATA + 7, ATA_WRITE_DMA);
}

static void begin_dma(QTestState *qts)
{
    qtest_outb(qts, BMDMA_COMMAND, 0);
    qtest_outb(qts, BMDMA_COMMAND, 1);
}

static void test_saved(void)
{
    g_autofree char *dir = g_dir_make_tmp("colo-ide-XXXXXX", NULL);
    char *path, *socket;
    g_autofree char *said = NULL;
    QTestState *qts;

    g_assert_nonnull(dir);
    disk_deadline_begin();
    path = disk_new_file(dir, "disk", true);
    socket = g_build_filename(dir, "nbd", NULL);
    qts = qtest_initf("-M pc -nodefaults -device ide-hd,bus=ide.0,drive=top "
                      "-drive if=none,id=top,node-name=topnode,driver=qcow2,"
                      "file.driver=file,file.filename=%s", path);

    give_command(qts);
    qtest_qmp_assert_success(qts, "{'execute': 'stop'}");
    said = qtest_hmp(qts, "savevm here");
    g_assert_cmpstr(said, ==, "");
    qtest_memset(qts, BUFFER, 0x11, BYTES);
    begin_dma(qts);
    while (qtest_inb(qts, BMDMA_STATUS) & BMDMA_ACTIVE) {
        g_usleep(1000);
    }
    qtest_memset(qts, BUFFER, 0x22, BYTES);
    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
    /* There is no command */
    begin_dma(qts);
    qtest_qmp_assert_success(qts, "{'execute': 'stop'}");
    disk_export_top(qts, socket);
    disk_read(socket, 0x11, 0, BYTES);

    colo_quit(&qts);
    disk_free_file(path);
    disk_free_file(socket);
    rmdir(dir);
    disk_deadline_end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    qtest_add_func("/colo/ide/saved", test_saved);
    return g_test_run();
}
