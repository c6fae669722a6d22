/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO and a guest that writes to its memory without end.
 *
 * The guest is a firmware of some instructions: it adds to a word anywhere in
 * 8 MiB of RAM, counts that, and does it again.  It has KVM's clocks in RAM,
 * too.  So wherever it is looked at, it is in the middle of something.  It
 * needs no devices and runs under KVM where others do not.
 *
 * Proves: RAM is equal on both sides after each load, byte for byte, whatever
 * the user does to the guest at the time of the cut: stops it, lets it go on,
 * resets it; whatever the guest does to its memory map; also when a part is
 * streamed because it exceeds the staging area.
 * A guest that was stopped stands, and its NIC knows.  What the guest counts
 * goes on where it was after a failover, and in the pair that is made of the
 * survivor.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "colo-helpers.h"
#include "colo-hold.h"

#define ROM_BYTES       65536
#define COUNTER         0x9000          /* where the guest counts */
#define FRONT           0x8000          /* a page before those it writes */
#define PAGE            4096
#define DELAY_MS        5
#define CHECKPOINTS     60
#define STOPS           100
#define RESETS          60
#define REMAPS          200
#define CONTS           40
#define LOOKS           20
#define ALIVE_MS        10000
#define ALIVE_COUNT     200

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
    0x31, 0xd2,                                 /* xorl %edx, %edx */
    0xb9, 0x00, 0x4d, 0x56, 0x4b,               /* movl $WALL_CLOCK, %ecx */
    0xb8, 0x00, 0xa0, 0x00, 0x00,               /* movl $0xa000, %eax */
    0x0f, 0x30,                                 /* wrmsr */
    0x41,                                       /* incl %ecx: SYSTEM_TIME */
    0xb8, 0x01, 0xb0, 0x00, 0x00,               /* movl $0xb001, %eax */
    0x0f, 0x30,                                 /* wrmsr */
    0x31, 0xdb,                                 /* xorl %ebx, %ebx */
    0x69, 0xdb, 0x0d, 0x66, 0x19, 0x00,     /* 1: imull $1664525, %ebx, %ebx */
    0x81, 0xc3, 0x5f, 0xf3, 0x6e, 0x3c,         /* addl $1013904223, %ebx */
    0x89, 0xd8,                                 /* movl %ebx, %eax */
    0xc1, 0xe8, 0x08,                           /* shrl $8, %eax */
    0x25, 0xfc, 0xff, 0x7f, 0x00,               /* andl $0x7ffffc, %eax */
    0xff, 0x80, 0x00, 0x00, 0x10, 0x00,         /* incl 0x100000(%eax) */
    0xff, 0x05, 0x00, 0x90, 0x00, 0x00,         /* incl 0x9000 */
    0xb9, 0x14, 0x00, 0x00, 0x00,               /* movl $20, %ecx */
    0x49,                                       /* 2: decl %ecx */
    0x75, 0xfd,                                 /* jnz 2b */
    0xeb, 0xd4,                                 /* jmp 1b */
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

static const struct {
    const char *name;
    const char *option;
} accels[] = {
    { "tcg", "tcg" },
    { "kvm", "kvm" },
    { "kvm-ring", "kvm," COLO_DIRTY_RING "65536" },
};
static char *firmware;                  /* path of the guest */
static const char *why_not[G_N_ELEMENTS(accels)];   /* it cannot be tested */

typedef struct Case {
    int accel;
    const char *mode;
} Case;

static void write_firmware(void)
{
    g_autofree uint8_t *rom = g_malloc0(ROM_BYTES);
    uint8_t *code = rom + ROM_BYTES - 0x100;
    int fd = g_file_open_tmp("colo-guest-XXXXXX", &firmware, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    memcpy(code, real_mode, sizeof(real_mode));
    memcpy(code + 0x40, protected_mode, sizeof(protected_mode));
    memcpy(code + 0xb0, segments, sizeof(segments));
    memcpy(code + 0xf0, reset_vector, sizeof(reset_vector));
    g_assert_true(g_file_set_contents(firmware, (char *)rom, ROM_BYTES, NULL));
}

static uint32_t counted(QTestState *qts)
{
    return qtest_readl(qts, COUNTER);
}

/* Does the guest count on, within a while? */
static bool is_alive(QTestState *qts)
{
    int64_t end = g_get_monotonic_time() + ALIVE_MS * 1000LL;
    uint32_t begin = counted(qts);

    while (counted(qts) - begin < ALIVE_COUNT) {
        if (g_get_monotonic_time() > end) {
            return false;
        }
        g_usleep(1000);
    }
    return true;
}

/* It was told that the VM stands */
static void check_nic_stands(QTestState *qts)
{
    QDict *nic = qtest_qmp_assert_success_ref(qts,
        "{'execute': 'x-query-virtio-status', 'arguments': {'path':"
        "'/machine/peripheral-anon/device[0]/virtio-backend'}}");

    g_assert_false(qdict_get_bool(nic, "vm-running"));
    qobject_unref(nic);
}

/* It does not count while it is looked at some times, and its NIC knows */
static void check_stands(QTestState *qts)
{
    uint32_t begin = counted(qts);

    for (int i = 0; i < LOOKS; i++) {
        g_assert_cmpuint(counted(qts), ==, begin);
    }
    check_nic_stands(qts);
}

static const char *probe(const char *accel)
{
    const char *why = colo_why_no_accel(accel);
    QTestState *qts;

    if (why) {
        return why;
    }
    qts = qtest_initf("-accel %s -machine pc -m 32 -nodefaults -bios %s", accel,
                      firmware);
    if (!is_alive(qts)) {
        why = "no guest runs with it on this host";
    }
    qtest_quit(qts);
    return why;
}

/* A pair whose guest runs; NULL, and the test is skipped, if that cannot be */
static ColoPair *pair_of(const Case *c)
{
    g_autofree char *extra = g_strdup_printf("-bios %s", firmware);
    ColoPair *p;

    if (why_not[c->accel]) {
        g_autofree char *text = g_strdup_printf("%s: %s",
                                                accels[c->accel].option,
                                                why_not[c->accel]);

        g_test_skip(text);
        return NULL;
    }
    p = colo_pair_new_with(c->mode, accels[c->accel].option, extra);
    g_assert_true(is_alive(p->primary));
    return p;
}

static void set_delay(ColoPair *p, unsigned delay_ms)
{
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'migrate-set-parameters', 'arguments': {"
        "'x-checkpoint-delay': %u}}", delay_ms);
}

static void protect(ColoPair *p)
{
    colo_pair_protect(p);
    set_delay(p, DELAY_MS);
}

static void check_equal(ColoPair *p, int64_t at_least)
{
    colo_wait_statistic(p->secondary, "checkpoints-verified", at_least);
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
}

static void more_checkpoints(ColoPair *p, int64_t count)
{
    colo_wait_statistic(p->primary, "checkpoints",
                        colo_statistic(p->primary, "checkpoints") + count);
}

static void test_equal(const void *opaque)
{
    ColoPair *p = pair_of(opaque);
    uint32_t count;

    if (!p) {
        return;
    }
    for (int life = 0; life < 2; life++) {
        protect(p);
        check_equal(p, CHECKPOINTS);
        g_assert_cmpint(colo_statistic(p->primary, "pages"), >, CHECKPOINTS);
        count = counted(p->primary);
        more_checkpoints(p, 2);
        colo_kill(&p->primary);
        colo_wait_state(p->secondary, "lost");
        colo_failover(p->secondary);
        colo_wait_status(p->secondary, "running");
        colo_wait_migrate(p->secondary, "completed");
        g_assert_cmpuint(counted(p->secondary) - count, <, INT32_MAX);
        g_assert_true(is_alive(p->secondary));
        p->primary = g_steal_pointer(&p->secondary);
        colo_pair_new_secondary(p);
    }
    colo_pair_free(p);
}

/* The guest is stopped when a cut is due as well */
static void test_stop(const void *opaque)
{
    ColoPair *p = pair_of(opaque);

    if (!p) {
        return;
    }
    protect(p);
    set_delay(p, 1);
    for (int i = 0; i < STOPS; i++) {
        qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
        colo_wait_status(p->primary, "paused");
        check_stands(p->primary);
        qtest_qmp_assert_success(p->primary, "{'execute': 'cont'}");
        colo_wait_status(p->primary, "running");
        g_usleep(g_test_rand_int_range(0, 5000));
    }
    more_checkpoints(p, 2);
    check_equal(p, STOPS / 10);
    g_assert_true(is_alive(p->primary));
    colo_pair_free(p);
}

/* Low RAM becomes one piece, and two again, while the guest writes to it */
static void test_remap(const void *opaque)
{
    ColoPair *p = pair_of(opaque);

    if (!p) {
        return;
    }
    protect(p);
    for (int i = 0; i < REMAPS; i++) {
        uint32_t pam = i % 2 ? 0 : 0x33333333;

        /* The first byte is no PAM; it is 0 after a reset */
        qtest_outl(p->primary, 0xcf8, 0x80000058);
        qtest_outl(p->primary, 0xcfc, pam & ~0xff);
        qtest_outl(p->primary, 0xcf8, 0x8000005c);
        qtest_outl(p->primary, 0xcfc, pam);
        g_usleep(g_test_rand_int_range(0, 2000));
    }
    more_checkpoints(p, 2);
    check_equal(p, 10);
    g_assert_true(is_alive(p->primary));
    colo_pair_free(p);
}

/* The main loop pauses the guest for a reset, another thread for a cut */
static void test_reset(const void *opaque)
{
    ColoPair *p = pair_of(opaque);

    if (!p) {
        return;
    }
    protect(p);
    /* Nobody else ends a wait that one cut has made too long */
    set_delay(p, 600000);
    for (int i = 0; i < RESETS; i++) {
        int64_t done = colo_statistic(p->primary, "checkpoints");

        qtest_qmp_assert_success(p->primary,
                                 "{'execute': 'x-colo-checkpoint'}");
        g_usleep(g_test_rand_int_range(0, 2000));
        qtest_qmp_assert_success(p->primary, "{'execute': 'system_reset'}");
        colo_wait_statistic(p->primary, "checkpoints", done + 1);
        colo_wait_status(p->primary, "running");
    }
    check_equal(p, RESETS);
    g_assert_true(is_alive(p->primary));
    colo_pair_free(p);
}

static void checkpoint(ColoPair *p)
{
    int64_t done = colo_statistic(p->primary, "checkpoints");

    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    colo_wait_statistic(p->primary, "checkpoints", done + 1);
}

/* The guest is paused, and both sides know */
static void pause_guest(ColoPair *p)
{
    int64_t done = colo_statistic(p->primary, "checkpoints");

    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    if (colo_is_hybrid(p)) {
        /* That asks for a checkpoint, which is to be in the past */
        colo_wait_statistic(p->primary, "checkpoints", done + 1);
    } else {
        checkpoint(p);
    }
}

/* In the middle of a cut: a part has been streamed */
static void begin_cut(ColoPair *p, ColoHold *h)
{
    g_autofree char *state = NULL;

    colo_hold_arm(h);
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    colo_hold_await(h);
    state = colo_state(p->primary);
    g_assert_cmpstr(state, ==, "cutting");
}

static void end_cut(ColoPair *p, ColoHold *h)
{
    int64_t done = colo_statistic(p->primary, "checkpoints");

    colo_hold_release(h);
    colo_wait_statistic(p->primary, "checkpoints", done + 1);
    check_equal(p, done + 1);
    g_assert_cmpint(colo_statistic(p->primary, "staging-overflows"), >, 0);
}

/* A paused guest is let go on while its memory is streamed */
static void test_cont_in_cut(const void *opaque)
{
    ColoPair *p = pair_of(opaque);
    ColoHold *h;

    if (!p) {
        return;
    }
    h = colo_hold_protect(p);
    pause_guest(p);
    qtest_memset(p->primary, 16 * MiB, 0x5a, 4 * MiB);
    begin_cut(p, h);
    qtest_qmp_assert_success(p->primary, "{'execute': 'cont'}");
    g_assert_true(is_alive(p->primary));
    end_cut(p, h);
    g_assert_true(is_alive(p->primary));
    colo_wait_status(p->primary, "running");
    colo_pair_free(p);
    colo_hold_free(h);
}

/* A paused guest is let go on when a cut is due as well */
static void test_cont_at_cut(const void *opaque)
{
    ColoPair *p = pair_of(opaque);
    ColoHold *h;

    if (!p) {
        return;
    }
    h = colo_hold_protect(p);
    for (int i = 0; i < CONTS; i++) {
        QDict *status;

        pause_guest(p);
        /* Now: the cut that the last cont asked for may still be to come */
        colo_hold_arm(h);
        qtest_memset(p->primary, 16 * MiB, i + 1, 2 * MiB);
        qtest_qmp_assert_success(p->primary,
                                 "{'execute': 'x-colo-checkpoint'}");
        g_usleep(g_test_rand_int_range(0, 2000));
        qtest_qmp_assert_success(p->primary, "{'execute': 'cont'}");
        colo_hold_await(h);
        status = qtest_qmp_assert_success_ref(p->primary,
            "{'execute': 'query-status'}");
        if (!strcmp(qdict_get_str(status, "status"), "colo")) {
            check_nic_stands(p->primary);
        }
        qobject_unref(status);
        end_cut(p, h);
        colo_wait_status(p->primary, "running");
    }
    colo_pair_free(p);
    colo_hold_free(h);
}

/* A page is streamed, and becomes again what the secondary has */
static void test_back_in_cut(const void *opaque)
{
    ColoPair *p = pair_of(opaque);
    ColoHold *h;

    if (!p) {
        return;
    }
    h = colo_hold_protect(p);
    pause_guest(p);
    qtest_memset(p->primary, FRONT, 0xb, PAGE);
    checkpoint(p);
    /* So much that one round of streaming is enough */
    qtest_memset(p->primary, FRONT, 0xa, PAGE);
    qtest_memset(p->primary, 16 * MiB, 0x5a, COLO_HOLD_STAGING + 16 * PAGE);
    begin_cut(p, h);
    qtest_memset(p->primary, FRONT, 0xb, PAGE);
    end_cut(p, h);
    colo_pair_free(p);
    colo_hold_free(h);
}

/* The guest is reset while its memory is streamed, and goes on afterwards */
static void test_reset_in_cut(const void *opaque)
{
    ColoPair *p = pair_of(opaque);
    ColoHold *h;

    if (!p) {
        return;
    }
    h = colo_hold_protect(p);
    colo_hold_cut(h, p);
    qtest_qmp_assert_success(p->primary, "{'execute': 'system_reset'}");
    colo_wait_status(p->primary, "colo");
    /* Noted, and followed at the end of the cut */
    qtest_qmp_assert_success(p->primary, "{'execute': 'stop'}");
    qtest_qmp_assert_success(p->primary, "{'execute': 'cont'}");
    colo_wait_status(p->primary, "colo");
    end_cut(p, h);
    colo_wait_status(p->primary, "running");
    g_assert_true(is_alive(p->primary));
    colo_pair_free(p);
    colo_hold_free(h);
}

static const struct {
    const char *name;
    void (*func)(const void *opaque);
    const char *ring;           /* in that mode with a dirty ring, too */
} tests[] = {
    { "equal", test_equal, "hybrid" },
    { "stop", test_stop },
    { "remap", test_remap, "periodic" },
    { "reset", test_reset },
    { "in-cut/cont", test_cont_in_cut, "periodic" },
    { "at-cut/cont", test_cont_at_cut },
    { "in-cut/back", test_back_in_cut },
    { "in-cut/reset", test_reset_in_cut },
};

int main(int argc, char **argv)
{
    static const char *const modes[] = { "hybrid", "periodic" };
    static Case cases[G_N_ELEMENTS(accels)][G_N_ELEMENTS(modes)];
    int ret;

    g_test_init(&argc, &argv, NULL);
    write_firmware();
    for (int a = 0; a < G_N_ELEMENTS(accels); a++) {
        why_not[a] = probe(accels[a].option);
        for (int m = 0; m < G_N_ELEMENTS(modes); m++) {
            cases[a][m] = (Case) { a, modes[m] };
            for (int i = 0; i < G_N_ELEMENTS(tests); i++) {
                g_autofree char *path = g_strdup_printf(
                    "/colo/guest/%s/%s/%s", accels[a].name, modes[m],
                    tests[i].name);

                if (!strchr(accels[a].option, ',') ||
                    !g_strcmp0(tests[i].ring, modes[m])) {
                    g_test_add_data_func(path, &cases[a][m], tests[i].func);
                }
            }
        }
    }
    ret = g_test_run();
    unlink(firmware);
    g_free(firmware);
    return ret;
}
