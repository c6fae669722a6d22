/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: work is not silence.
 *
 * Proves: a side whose session's thread says nothing for several timeouts is
 * not taken for dead as long as its process runs; one that does not get on at
 * all is, in the end.  The fault point holds the thread in the middle of a
 * checkpoint.  Without fault points there is nothing to test.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "migration/colo/wire.h"
#include "colo-helpers.h"

#define TIMEOUT_MS      300
/* Longer than a timeout, much shorter than COLO_STALL_TIMEOUTS */
#define WORK_TIMEOUTS   4

/* One point of each side, between the cut and the load */
static const struct Place {
    const char *name;
    const char *point;
    bool primary;
} places[] = {
    { "primary", "primary-send-vmstate-size", true },
    { "secondary", "secondary-send-vmstate-received", false },
    { "load", "secondary-send-vmstate-loaded", false },
};

typedef struct Case {
    const struct Place *place;
    const char *mode;
} Case;

static ColoPair *hang(const Case *c)
{
    ColoPair *p = colo_pair_new(c->mode);

    colo_pair_migrate(p, "mig", "mig", 600000, TIMEOUT_MS);
    colo_wait_state(p->secondary, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
    colo_fault(c->place->primary ? p->primary : p->secondary, c->place->point,
               "hang");
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    return p;
}

static void test_work(const void *opaque)
{
    const Case *c = opaque;
    ColoPair *p = hang(c);
    int64_t end = g_get_monotonic_time() + WORK_TIMEOUTS * TIMEOUT_MS * 1000;

    while (g_get_monotonic_time() < end) {
        g_autofree char *primary = colo_state(p->primary);
        g_autofree char *secondary = colo_state(p->secondary);

        g_assert_cmpstr(primary, !=, "lost");
        g_assert_cmpstr(secondary, !=, "lost");
        g_usleep(10 * 1000);
    }
    /* Any other fault lets it go on */
    colo_fault(c->place->primary ? p->primary : p->secondary, "staging-alloc",
               "error");
    colo_wait_statistic(p->secondary, "checkpoints", 1);
    colo_wait_state(p->primary, "running");
    g_assert_cmpint(colo_statistic(p->secondary, "ram-mismatches"), ==, 0);
    colo_pair_free(p);
}

static void test_stall(const void *opaque)
{
    const Case *c = opaque;
    int64_t begin = g_get_monotonic_time();
    ColoPair *p = hang(c);
    QTestState *other = c->place->primary ? p->secondary : p->primary;
    QDict *lost;

    colo_wait_state(other, "lost");
    g_assert_cmpint(g_get_monotonic_time() - begin, >,
                    COLO_STALL_TIMEOUTS * TIMEOUT_MS * 1000);
    lost = colo_wait_event(other, "COLO_PEER_LOST");
    g_assert_nonnull(strstr(qdict_get_str(qdict_get_qdict(lost, "data"),
                                          "message"), "has not got on"));
    qobject_unref(lost);
    colo_fault(c->place->primary ? p->primary : p->secondary, "staging-alloc",
               "error");
    colo_pair_free(p);
}

int main(int argc, char **argv)
{
    static const char *const modes[] = { "periodic", "hybrid" };
    static Case cases[G_N_ELEMENTS(modes)][G_N_ELEMENTS(places)];

    g_test_init(&argc, &argv, NULL);
#ifndef CONFIG_COLO_FAULTS
    g_test_message("no fault points in this build");
    return g_test_run();
#endif
    for (int m = 0; m < G_N_ELEMENTS(modes); m++) {
        for (int i = 0; i < G_N_ELEMENTS(places); i++) {
            g_autofree char *work = g_strdup_printf("/colo/keepalive/%s/%s",
                                                    modes[m], places[i].name);
            g_autofree char *stall = g_strconcat(work, "/stall", NULL);

            cases[m][i] = (Case) { &places[i], modes[m] };
            qtest_add_data_func(work, &cases[m][i], test_work);
            if (m == 0 && i < 2) {
                qtest_add_data_func(stall, &cases[m][i], test_stall);
            }
        }
    }
    return g_test_run();
}
