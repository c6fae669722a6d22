/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a TPM whose commands are under way at a checkpoint.
 *
 * The interface of a TPM may have its answers in RAM (tpm-crb) and the emulator
 * writes them whenever it is ready.  A checkpoint in that moment has to have
 * the answer: a guest that finds the command done and no answer fails.
 */

#include "qemu/osdep.h"
#include "hw/acpi/tpm.h"
#include "qobject/qdict.h"
#include "colo-device-rig.h"
#include "colo-fake-tpm.h"

#define DATA            (TPM_CRB_ADDR_BASE + A_CRB_DATA_BUFFER)
#define DELAY_MS        100     /* of an answer, in the first try */
#define TRIES           6       /* each twice as late */

static const char *const modes[] = { "periodic", "hybrid" };

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

static void test_in_flight(const void *opaque)
{
    g_autofree char *dir = g_dir_make_tmp("colo-tpm-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "tpm", NULL);
    g_autofree char *extra = g_strdup_printf(
        "-chardev socket,id=tpm0,path=%s -tpmdev emulator,id=tpm0,chardev=tpm0 "
        "-device tpm-crb,tpmdev=tpm0", path);
    FakeTpm *t = fake_tpm_new(path);
    ColoPair *p = device_pair(opaque, extra);
    char answer[FAKE_TPM_BYTES];
    bool met = false;

    device_protect(p);
    device_checkpoints(p, 1);
    for (int i = 0; i < TRIES && !met; i++) {
        fake_tpm_delay(t, DELAY_MS << i);
        begin_command(p->primary, t);
        device_checkpoints(p, 1);
        /* If not, the command was over before the guest was stopped */
        met = longest_pause(p->primary) > (DELAY_MS << i) * 1000LL / 4;
    }
    g_assert_true(met);
    device_failover(p);
    g_assert_cmpint(qtest_readl(p->secondary, TPM_CRB_ADDR_BASE +
                                A_CRB_CTRL_START), ==, 0);
    qtest_memread(p->secondary, DATA, answer, sizeof(answer));
    g_assert_cmpmem(answer, sizeof(answer), FAKE_TPM_ANSWER, FAKE_TPM_BYTES);
    colo_quit(&p->secondary);
    colo_pair_free(p);
    fake_tpm_free(t);
    unlink(path);
    rmdir(dir);
}

int main(int argc, char **argv)
{
    int result;

    g_test_init(&argc, &argv, NULL);
    device_rig_begin();
    for (int i = 0; i < ARRAY_SIZE(modes); i++) {
        g_autofree char *path = g_strdup_printf("/colo/tpm/in-flight/%s",
                                                modes[i]);

        qtest_add_data_func(path, modes[i], test_in_flight);
    }
    result = g_test_run();
    device_rig_end();
    return result;
}
