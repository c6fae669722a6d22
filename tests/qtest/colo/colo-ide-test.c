/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: an IDE disk whose state is saved while its guest goes on, as
 * that of a primary at each checkpoint.
 *
 * Proves: a command whose DMA the guest had not begun when the state was saved
 * is done once, by the machine that goes on and by one that loads that state;
 * and not at all by one that loads a later one after it.  savevm and loadvm do
 * what a checkpoint does.
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

typedef struct Machine {
    char *dir;
    char *path;
    char *socket;
    QTestState *qts;
} Machine;

static void hmp(QTestState *qts, const char *command)
{
    g_autofree char *said = qtest_hmp(qts, "%s", command);

    g_assert_cmpstr(said, ==, "");
}

/* It has saved a command that waits for its DMA, and stands */
static void machine_begin(Machine *m)
{
    disk_deadline_begin();
    m->dir = g_dir_make_tmp("colo-ide-XXXXXX", NULL);
    g_assert_nonnull(m->dir);
    m->path = disk_new_file(m->dir, "disk", true);
    m->socket = g_build_filename(m->dir, "nbd", NULL);
    m->qts = qtest_initf(
        "-M pc -nodefaults -device ide-hd,bus=ide.0,drive=top "
        "-drive if=none,id=top,node-name=topnode,driver=qcow2,"
        "file.driver=file,file.filename=%s", m->path);
    give_command(m->qts);
    qtest_qmp_assert_success(m->qts, "{'execute': 'stop'}");
    hmp(m->qts, "savevm waits");
}

static void machine_end(Machine *m)
{
    colo_quit(&m->qts);
    disk_free_file(m->path);
    disk_free_file(m->socket);
    rmdir(m->dir);
    g_free(m->dir);
    disk_deadline_end();
}

static void do_dma(QTestState *qts)
{
    qtest_memset(qts, BUFFER, 0x11, BYTES);
    begin_dma(qts);
    while (qtest_inb(qts, BMDMA_STATUS) & BMDMA_ACTIVE) {
        g_usleep(1000);
    }
}

/* The guest goes on.  There is no command, so what it begins does nothing. */
static void check_done(Machine *m)
{
    qtest_memset(m->qts, BUFFER, 0x22, BYTES);
    qtest_qmp_assert_success(m->qts, "{'execute': 'cont'}");
    begin_dma(m->qts);
    qtest_qmp_assert_success(m->qts, "{'execute': 'stop'}");
    disk_export_top(m->qts, m->socket);
    disk_read(m->socket, 0x11, 0, BYTES);
}

static void test_saved(void)
{
    Machine m;

    machine_begin(&m);
    do_dma(m.qts);
    check_done(&m);
    machine_end(&m);
}

/* Two are loaded, and nothing ran in between, as on a secondary */
static void test_loaded(void)
{
    Machine m;

    machine_begin(&m);
    do_dma(m.qts);
    hmp(m.qts, "savevm done");
    hmp(m.qts, "loadvm waits");
    hmp(m.qts, "loadvm done");
    check_done(&m);
    machine_end(&m);
}

/* What is loaded waits, and is done once */
static void test_waits(void)
{
    Machine m;

    machine_begin(&m);
    hmp(m.qts, "loadvm waits");
    qtest_qmp_assert_success(m.qts, "{'execute': 'cont'}");
    do_dma(m.qts);
    check_done(&m);
    machine_end(&m);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    qtest_add_func("/colo/ide/saved", test_saved);
    qtest_add_func("/colo/ide/loaded", test_loaded);
    qtest_add_func("/colo/ide/waits", test_waits);
    return g_test_run();
}
