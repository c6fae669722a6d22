/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO, and guest RAM that comes and goes in a session.
 *
 * Proves: a DIMM that either guest ejects ends the session in order, and the
 * primary goes on alone, also when the memory behind it is deleted before the
 * session has noticed.  Memory that no device uses is nothing to a session.
 * While the first migration begins the list of RAM may be changed, under TCG too.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "colo-helpers.h"

/* Memory hotplug of the pc: select a slot, then write what happens to it */
#define MEMHP_SELECT    0xa00
#define MEMHP_CONTROL   0xa14
#define MEMHP_EJECT     8
/* What is freed frees something else, not at once either */
#define FREES           4
/* For longer than it takes until the first migration sends RAM */
#define BEGIN_CHANGES   300

static const char dimm[] = "-m 32,slots=2,maxmem=1G "
    "-object memory-backend-ram,id=mem1,size=16M "
    "-device pc-dimm,id=dimm1,memdev=mem1";

/* A session whose epochs end when the test asks for it */
static ColoPair *begin_session(const char *mode, const char *options)
{
    ColoPair *p = colo_pair_new_with(mode, "tcg", options);

    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(p->secondary, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
    return p;
}

static void ask_for_checkpoint(ColoPair *p)
{
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
}

static void checkpoint(ColoPair *p)
{
    int64_t done = colo_statistic(p->primary, "checkpoints");

    ask_for_checkpoint(p);
    colo_wait_statistic(p->primary, "checkpoints", done + 1);
    colo_wait_state(p->primary, "running");
    colo_wait_state(p->secondary, colo_state_ready(p));
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
}

/* The guest gives its DIMM up */
static void eject(QTestState *qts)
{
    QDict *answer;

    qtest_outl(qts, MEMHP_SELECT, 0);
    qtest_outb(qts, MEMHP_CONTROL, MEMHP_EJECT);
    answer = qtest_qmp(qts, "{'execute': 'query-memory-devices'}");
    g_assert_true(qlist_empty(qdict_get_qlist(answer, "return")));
    qobject_unref(answer);
}

static void check_alone(ColoPair *p)
{
    colo_wait_state(p->primary, "alone");
    colo_wait_state(p->secondary, "ended");
    colo_wait_status(p->primary, "running");
}

static void test_eject(const void *mode)
{
    ColoPair *p = begin_session(mode, dimm);

    checkpoint(p);
    eject(p->primary);
    ask_for_checkpoint(p);
    check_alone(p);
    colo_pair_free(p);
}

static void test_eject_and_delete(const void *mode)
{
    ColoPair *p = begin_session(mode, dimm);

    checkpoint(p);
    eject(p->primary);
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'object-del', 'arguments': {'id': 'mem1'}}");
    for (int i = 0; i < FREES; i++) {
        /* When a device is refused QEMU has freed what it was about to free */
        colo_refused(p->primary, "device", "{'execute': 'device_add',"
                     "'arguments': {'driver': 'no-such-device'}}");
    }
    ask_for_checkpoint(p);
    check_alone(p);
    /* Only now it is gone, and another one can be there */
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'object-add', 'arguments': {'qom-type':"
        "'memory-backend-ram', 'id': 'mem1', 'size': 16777216}}");
    colo_pair_free(p);
}

/* What the primary sends would be lost on a guest without that DIMM */
static void test_eject_secondary(void)
{
    ColoPair *p = begin_session("hybrid", dimm);

    checkpoint(p);
    eject(p->secondary);
    ask_for_checkpoint(p);
    check_alone(p);
    colo_pair_free(p);
}

static void add_and_delete(ColoPair *p, QTestState *qts)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'object-add', 'arguments': {'qom-type':"
        "'memory-backend-ram', 'id': 'spare', 'size': 1048576}}");
    checkpoint(p);
    checkpoint(p);
    qtest_qmp_assert_success(qts,
        "{'execute': 'object-del', 'arguments': {'id': 'spare'}}");
    checkpoint(p);
}

/* The first migration looks for dirty pages, and lets CPUs do something */
static void test_begin(void)
{
    ColoPair *p = colo_pair_new_with("periodic", "tcg", "-smp 4");

    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    for (int i = 0; i < BEGIN_CHANGES; i++) {
        qtest_qmp_assert_success(p->primary,
            "{'execute': 'object-add', 'arguments': {'qom-type':"
            "'memory-backend-ram', 'id': 'spare', 'size': 1048576}}");
        qtest_qmp_assert_success(p->primary,
            "{'execute': 'object-del', 'arguments': {'id': 'spare'}}");
    }
    colo_wait_state(p->primary, "running");
    colo_pair_free(p);
}

static void test_unused(const void *mode)
{
    ColoPair *p = begin_session(mode, "");

    checkpoint(p);
    add_and_delete(p, p->primary);
    add_and_delete(p, p->secondary);
    colo_pair_free(p);
}

int main(int argc, char **argv)
{
    static const char *const modes[] = { "hybrid", "periodic" };
    static const struct {
        const char *name;
        void (*func)(const void *mode);
    } tests[] = {
        { "eject", test_eject },
        { "eject-and-delete", test_eject_and_delete },
        { "unused", test_unused },
    };

    /* What is freed is not to look as it did */
    g_setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:"
             "glibc.malloc.perturb=165", true);
    g_test_init(&argc, &argv, NULL);
    for (int m = 0; m < G_N_ELEMENTS(modes); m++) {
        for (int i = 0; i < G_N_ELEMENTS(tests); i++) {
            g_autofree char *path = g_strdup_printf(
                "/colo/memory/%s/%s", modes[m], tests[i].name);

            g_test_add_data_func(path, modes[m], tests[i].func);
        }
    }
    g_test_add_func("/colo/memory/hybrid/eject-secondary",
                    test_eject_secondary);
    g_test_add_func("/colo/memory/begin", test_begin);
    return g_test_run();
}
