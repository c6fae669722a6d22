/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO, and the guest's memory map.
 *
 * A load resets all devices, which takes the map apart, and loads them, which
 * makes it what it was on the primary.
 *
 * Proves: devices that read guest memory while they are loaded see it as it is
 * mapped in that checkpoint, not in the one before.  Under KVM, where the map is
 * memory slots, no slot is made anew in a load that changes nothing, for all
 * pages of a new one are dirty; and what the guest has moved is gone from where
 * it was.
 *
 * The guest is a firmware of some instructions: it copies what it reads at one
 * place of the map to RAM, and counts that.
 */

#include "qemu/osdep.h"
#include "colo-helpers.h"

#define ROM_BYTES       65536
#define SEEN            0x9000          /* what the guest reads at PLACE */
#define COUNTER         0x9004          /* how often it did */
#define PLACE           0xe0000000
#define OTHER_PLACE     0xe1000000
#define MAGIC           0x6d617063
#define NOBODY          0
#define ALIVE_COUNT     100
/* What such a guest writes in an epoch is a page, with devices a few */
#define IDLE_PAGES      16

#define CONFIG_ADDRESS  0xcf8
#define CONFIG_DATA     0xcfc
#define COMMAND         0x04
#define COMMAND_IO      0x1
#define COMMAND_MEMORY  0x2
#define COMMAND_MASTER  0x4
#define BAR0            0x10
#define BAR5            0x24
#define HOST_BRIDGE     0
#define VGA             (3 << 3)
#define AHCI            (4 << 3)
#define PAM             0x58
#define PAM_ALL_RAM     0x33333333
#define PAM_MEMORY      0xd0000
#define PAM_PAGES       64

/* Registers of the disk controller, and where its memory is */
#define AHCI_PLACE      0xe2000000
#define AHCI_CONTROL    (AHCI_PLACE + 0x04)
#define AHCI_ENABLE     0x80000000
#define AHCI_LIST       (AHCI_PLACE + 0x100)
#define AHCI_COMMAND    (AHCI_PLACE + 0x118)
#define AHCI_START      0x1
#define AHCI_RUNS       0x8000
#define AHCI_ISSUE      (AHCI_PLACE + 0x138)
#define LIST            0x100000
#define TABLE           0x101000
#define ANSWER          0x102000
#define ANSWER_BYTES    512

/* What the processor finds at the end of the ROM, at 0xffffff00 */
static const uint8_t real_mode[] = {
    0xfa,                                       /* cli */
    0x2e, 0x66, 0x0f, 0x01, 0x16, 0xc8, 0xff,   /* lgdtl %cs:0xffc8 */
    0x66, 0xb8, 0x01, 0x00, 0x00, 0x00,         /* movl $1, %eax */
    0x0f, 0x22, 0xc0,                           /* movl %eax, %cr0 */
    0x66, 0xea, 0x40, 0xff, 0xff, 0xff, 0x08, 0x00, /* ljmpl $8, $0xffffff40 */
};

/* At 0xffffff40 */
static const uint8_t protected_mode[] = {
    0xb8, 0x10, 0x00, 0x00, 0x00,               /* movl $16, %eax */
    0x8e, 0xd8,                                 /* movl %eax, %ds */
    0xa1, 0x00, 0x00, 0x00, 0xe0,           /* 1: movl PLACE, %eax */
    0xa3, 0x00, 0x90, 0x00, 0x00,               /* movl %eax, SEEN */
    0xff, 0x05, 0x04, 0x90, 0x00, 0x00,         /* incl COUNTER */
    0xeb, 0xee,                                 /* jmp 1b */
};

/* At 0xffffffb0: flat segments for code and data, and where they are */
static const uint8_t segments[] = {
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0xcf, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x93, 0xcf, 0x00,
    0x17, 0x00, 0xb0, 0xff, 0xff, 0xff,
};

/* At 0xfffffff0, where it begins */
static const uint8_t reset_vector[] = { 0xe9, 0x0d, 0xff };

static char *firmware;                  /* path of the guest */

typedef struct Case {
    const char *accel;
    const char *mode;
} Case;

static void write_firmware(void)
{
    g_autofree uint8_t *rom = g_malloc0(ROM_BYTES);
    uint8_t *code = rom + ROM_BYTES - 0x100;
    int fd = g_file_open_tmp("colo-map-XXXXXX", &firmware, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    memcpy(code, real_mode, sizeof(real_mode));
    memcpy(code + 0x40, protected_mode, sizeof(protected_mode));
    memcpy(code + 0xb0, segments, sizeof(segments));
    memcpy(code + 0xf0, reset_vector, sizeof(reset_vector));
    g_assert_true(g_file_set_contents(firmware, (char *)rom, ROM_BYTES, NULL));
}

/* Wait until the guest has looked some more times */
static void await_guest(QTestState *qts)
{
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;
    uint32_t begin = qtest_readl(qts, COUNTER);

    while (qtest_readl(qts, COUNTER) - begin < ALIVE_COUNT) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
}

static void set_config(QTestState *qts, int devfn, int reg, uint32_t value)
{
    qtest_outl(qts, CONFIG_ADDRESS, 0x80000000 | devfn << 8 | reg);
    qtest_outl(qts, CONFIG_DATA, value);
}

static uint32_t config(QTestState *qts, int devfn, int reg)
{
    qtest_outl(qts, CONFIG_ADDRESS, 0x80000000 | devfn << 8 | reg);
    return qtest_inl(qts, CONFIG_DATA);
}

static void map_display(QTestState *qts, uint32_t place)
{
    set_config(qts, VGA, COMMAND, 0);
    set_config(qts, VGA, BAR0, place);
    set_config(qts, VGA, COMMAND, COMMAND_IO | COMMAND_MEMORY);
}

/* A pair whose epochs end when the test asks for it; NULL if it is skipped */
static ColoPair *begin_session(const Case *c)
{
    g_autofree char *options = g_strdup_printf("-bios %s -device VGA,romfile= "
                                               "-device ich9-ahci,id=ahci0 "
                                               "-blockdev null-co,node-name=n,"
                                               "read-zeroes=on "
                                               "-device ide-hd,drive=n,"
                                               "bus=ahci0.0", firmware);
    const char *why = colo_why_no_accel(c->accel);
    ColoPair *p;

    if (why) {
        g_autofree char *text = g_strdup_printf("%s: %s", c->accel, why);

        g_test_skip(text);
        return NULL;
    }
    p = colo_pair_new_with(c->mode, c->accel, options);
    await_guest(p->primary);
    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(p->secondary, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
    return p;
}

static void checkpoint(ColoPair *p)
{
    int64_t done = colo_statistic(p->primary, "checkpoints");

    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    colo_wait_statistic(p->primary, "checkpoints", done + 1);
    colo_wait_state(p->primary, "running");
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
}

static void fail_over(ColoPair *p)
{
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_status(p->secondary, "running");
    await_guest(p->secondary);
}

static void check_pages(ColoPair *p, int64_t at_most)
{
    for (int i = 0; i < 3; i++) {
        int64_t before = colo_statistic(p->primary, "pages");

        await_guest(p->primary);
        checkpoint(p);
        g_assert_cmpint(colo_statistic(p->primary, "pages") - before, <=,
                        at_most);
    }
}

static void test_idle(const void *opaque)
{
    ColoPair *p = begin_session(opaque);

    if (!p) {
        return;
    }
    map_display(p->primary, PLACE);
    checkpoint(p);
    checkpoint(p);
    check_pages(p, IDLE_PAGES);
    fail_over(p);
    colo_pair_free(p);
}

/* What was ROM becomes RAM: one slot of low RAM instead of two */
static void test_pam(const void *opaque)
{
    ColoPair *p = begin_session(opaque);
    uint32_t first;

    if (!p) {
        return;
    }
    checkpoint(p);
    checkpoint(p);
    first = config(p->primary, HOST_BRIDGE, PAM) & 0xff;
    set_config(p->primary, HOST_BRIDGE, PAM, first | (PAM_ALL_RAM & ~0xff));
    set_config(p->primary, HOST_BRIDGE, PAM + 4, PAM_ALL_RAM);
    qtest_writel(p->primary, PAM_MEMORY, MAGIC);
    check_pages(p, IDLE_PAGES + PAM_PAGES);
    check_pages(p, IDLE_PAGES);
    fail_over(p);
    g_assert_cmphex(qtest_readl(p->secondary, PAM_MEMORY), ==, MAGIC);
    colo_pair_free(p);
}

static void test_moved(const void *opaque)
{
    ColoPair *p = begin_session(opaque);

    if (!p) {
        return;
    }
    map_display(p->primary, PLACE);
    qtest_writel(p->primary, PLACE, MAGIC);
    await_guest(p->primary);
    g_assert_cmphex(qtest_readl(p->primary, SEEN), ==, MAGIC);
    checkpoint(p);
    map_display(p->primary, OTHER_PLACE);
    checkpoint(p);
    fail_over(p);
    g_assert_cmphex(qtest_readl(p->secondary, SEEN), ==, NOBODY);
    g_assert_cmphex(qtest_readl(p->secondary, OTHER_PLACE), ==, MAGIC);
    map_display(p->secondary, PLACE);
    await_guest(p->secondary);
    g_assert_cmphex(qtest_readl(p->secondary, SEEN), ==, MAGIC);
    colo_pair_free(p);
}

/* The guest lets its disk controller read its list of commands */
static void start_controller(QTestState *qts)
{
    set_config(qts, AHCI, BAR5, AHCI_PLACE);
    set_config(qts, AHCI, COMMAND, COMMAND_MEMORY | COMMAND_MASTER);
    qtest_writel(qts, AHCI_CONTROL, AHCI_ENABLE);
    qtest_writel(qts, AHCI_LIST, LIST);
    qtest_writel(qts, AHCI_COMMAND, AHCI_START);
}

/* It finds the command there: IDENTIFY DEVICE */
static void check_controller(QTestState *qts)
{
    static const uint8_t identify[] = { 0x27, 0x80, 0xec };
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;

    g_assert_cmphex(qtest_readl(qts, AHCI_COMMAND) & AHCI_RUNS, ==, AHCI_RUNS);
    qtest_memwrite(qts, TABLE, identify, sizeof(identify));
    qtest_writel(qts, TABLE + 0x80, ANSWER);
    qtest_writel(qts, TABLE + 0x8c, ANSWER_BYTES - 1);
    qtest_writel(qts, LIST, 1 << 16 | 5);
    qtest_writel(qts, LIST + 8, TABLE);
    qtest_writel(qts, AHCI_ISSUE, 1);
    while (!qtest_readw(qts, ANSWER)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
}

static void test_bus_master(const void *opaque)
{
    ColoPair *p = begin_session(opaque);

    if (!p) {
        return;
    }
    checkpoint(p);
    start_controller(p->primary);
    checkpoint(p);
    colo_wait_state(p->secondary, colo_state_ready(p));
    fail_over(p);
    check_controller(p->secondary);
    colo_pair_free(p);
}

int main(int argc, char **argv)
{
    static const Case cases[] = {
        { "tcg", "hybrid" },
        { "tcg", "periodic" },
        { "kvm", "hybrid" },
        { "kvm", "periodic" },
    };
    static const struct {
        const char *name;
        void (*func)(const void *opaque);
    } tests[] = {
        { "idle", test_idle },
        { "pam", test_pam },
        { "moved", test_moved },
        { "bus-master", test_bus_master },
    };
    int ret;

    g_test_init(&argc, &argv, NULL);
    write_firmware();
    for (int c = 0; c < G_N_ELEMENTS(cases); c++) {
        for (int i = 0; i < G_N_ELEMENTS(tests); i++) {
            g_autofree char *path = g_strdup_printf("/colo/map/%s/%s/%s",
                cases[c].accel, cases[c].mode, tests[i].name);

            g_test_add_data_func(path, &cases[c], tests[i].func);
        }
    }
    ret = g_test_run();
    unlink(firmware);
    g_free(firmware);
    return ret;
}
