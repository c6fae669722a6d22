/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a TPM whose commands are under way at a checkpoint.
 *
 * The interface of a TPM may have its answers in RAM (tpm-crb) and the emulator
 * writes them whenever it is ready.  A checkpoint in that moment has to have
 * the answer: a guest that finds the command done and no answer fails.  Nor
 * does the guest stand while the TPM works: a checkpoint that is due is put off.
 */

#include "qemu/osdep.h"
#include "hw/acpi/tpm.h"
#include "qobject/qdict.h"
#include "colo-device-rig.h"
#include "colo-fake-tpm.h"

#define DATA            (TPM_CRB_ADDR_BASE + A_CRB_DATA_BUFFER)
#define DELAY_MS        100     /* of an answer, in the first try */
#define TRIES           6       /* each twice as late */
#define LONG_DELAY_MS   3000    /* no pause is so long for another reason */

static const uint8_t command[] = {
    0x80, 0x01, 0, 0, 0, 0x0c, 0, 0, 0x01, 0x7b, 0, 0x10,
};

/* The guest gives the TPM a command; returns when the emulator has it */
static void begin_command(QTestState *qts, FakeTpm *t)
{
    unsigned before = fake_tpm_commands(t);
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;

    qtest_writeb(qts, TPM_CRB_ADDR_BASE + A_CRB_LOC_CTRL, 1);
    qtest_memset(qts, DATA, 0, 2 * FAKE_TPM_BYTES);
    qtest_memwrite(qts, DATA, command, sizeof(command));
    qtest_writel(qts, TPM_CRB_ADDR_BASE + A_CRB_CTRL_START, 1);
    while (fake_tpm_commands(t) == before) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
}

/* The longest pause of a checkpoint, us */
static int64_t longest_pause(QTestState *qts)
{
    QDict *status = qtest_qmp_assert_success_ref(qts,
        "{'execute': 'query-colo-status'}");
    QDict *statistics = qdict_get_qdict(status, "statistics");
    int64_t us = qdict_get_int(qdict_get_qdict(statistics, "pause"), "max");

    qobject_unref(status);
    return us;
}

typedef struct Rig {
    char *dir;
    char *path;                 /* of the emulator's socket */
    FakeTpm *t;
    ColoPair *p;
} Rig;

static void rig_begin(Rig *r, const char *mode)
{
    g_autofree char *extra = NULL;

    r->dir = g_dir_make_tmp("colo-tpm-XXXXXX", NULL);
    r->path = g_build_filename(r->dir, "tpm", NULL);
    r->t = fake_tpm_new(r->path);
    extra = g_strdup_printf("-chardev socket,id=tpm0,path=%s "
                            "-tpmdev emulator,id=tpm0,chardev=tpm0 "
                            "-device tpm-crb,tpmdev=tpm0", r->path);
    r->p = device_pair(mode, extra);
    device_protect(r->p);
    device_checkpoints(r->p, 1);
}

/* The primary dies; the secondary has the answer to the command */
static void rig_end(Rig *r)
{
    char answer[FAKE_TPM_BYTES];

    device_failover(r->p);
    g_assert_cmpint(qtest_readl(r->p->secondary, TPM_CRB_ADDR_BASE +
                                A_CRB_CTRL_START), ==, 0);
    qtest_memread(r->p->secondary, DATA, answer, sizeof(answer));
    g_assert_cmpmem(answer, sizeof(answer), FAKE_TPM_ANSWER, FAKE_TPM_BYTES);
    colo_quit(&r->p->secondary);
    colo_pair_free(r->p);
    fake_tpm_free(r->t);
    unlink(r->path);
    rmdir(r->dir);
    g_free(r->path);
    g_free(r->dir);
}

/* A checkpoint is under way when the guest gives the command */
static void test_in_flight(const void *mode)
{
    bool met = false;
    Rig r;

    rig_begin(&r, mode);
    for (int i = 0; i < TRIES && !met; i++) {
        int64_t done = colo_statistic(r.p->secondary, "checkpoints");

        fake_tpm_delay(r.t, DELAY_MS << i);
        colo_fault(r.p->primary, "primary-recv-checkpoint-reply", "hang");
        qtest_qmp_assert_success(r.p->primary,
                                 "{'execute': 'x-colo-checkpoint'}");
        colo_wait_hang(r.p->primary, "primary-recv-checkpoint-reply");
        begin_command(r.p->primary, r.t);
        /* Go on; there is no such point in what follows */
        colo_fault(r.p->primary, "primary-send-start", "hang");
        colo_wait_statistic(r.p->secondary, "checkpoints", done + 1);
        colo_wait_state(r.p->primary, "running");
        /* If not, the command was over before the guest was stopped */
        met = longest_pause(r.p->primary) > (DELAY_MS << i) * 1000LL / 4;
    }
    g_assert_true(met);
    rig_end(&r);
}

/* It is due while the TPM works */
static void test_put_off(const void *mode)
{
    Rig r;

    rig_begin(&r, mode);
    fake_tpm_delay(r.t, LONG_DELAY_MS);
    begin_command(r.p->primary, r.t);
    device_checkpoints(r.p, 1);
    g_assert_cmpint(qtest_readl(r.p->primary, TPM_CRB_ADDR_BASE +
                                A_CRB_CTRL_START), ==, 0);
    g_assert_cmpint(longest_pause(r.p->primary), <, LONG_DELAY_MS * 1000 / 2);
    rig_end(&r);
}

int main(int argc, char **argv)
{
    int result;

    g_test_init(&argc, &argv, NULL);
    device_rig_begin();
    colo_add("/colo/tpm", "in-flight", test_in_flight);
    colo_add("/colo/tpm", "put-off", test_put_off);
    result = g_test_run();
    device_rig_end();
    return result;
}
