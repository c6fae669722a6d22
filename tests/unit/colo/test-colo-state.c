/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO transition tables.
 *
 * Proves: each state can be reached from 'none', the end can be reached from
 * each state, nothing leads out of an end, and a few rules that the design
 * rests on.
 */

#include "qemu/osdep.h"
#include "migration/colo/state.h"

typedef bool TransitionFn(int from, int to);

static bool primary_ok(int from, int to)
{
    return colo_primary_transition_ok(from, to);
}

static bool secondary_ok(int from, int to)
{
    return colo_secondary_transition_ok(from, to);
}

/* States that can be reached from @from, itself included, as a bit mask */
static unsigned reachable(TransitionFn *ok, int n, int from)
{
    unsigned seen = 1u << from, before;

    do {
        before = seen;
        for (int i = 0; i < n; i++) {
            for (int j = 0; j < n; j++) {
                if ((seen & (1u << i)) && ok(i, j)) {
                    seen |= 1u << j;
                }
            }
        }
    } while (seen != before);
    return seen;
}

static void check_graph(TransitionFn *ok, int n, unsigned ends)
{
    g_assert_cmphex(reachable(ok, n, 0), ==, (1u << n) - 1);
    for (int i = 0; i < n; i++) {
        unsigned from_here = reachable(ok, n, i);

        g_assert_false(ok(i, i));
        g_assert_false(ok(i, 0));
        g_assert_cmphex(from_here & ends, !=, 0);
        if (ends & (1u << i)) {
            g_assert_cmphex(from_here, ==, 1u << i);
        }
    }
}

static void test_primary(void)
{
    check_graph(primary_ok, COLO_PRIMARY_STATE__MAX,
                1u << COLO_PRIMARY_STATE_ALONE |
                1u << COLO_PRIMARY_STATE_ENDED);
}

static void test_secondary(void)
{
    check_graph(secondary_ok, COLO_SECONDARY_STATE__MAX,
                1u << COLO_SECONDARY_STATE_LIVE |
                1u << COLO_SECONDARY_STATE_ENDED);
}

/* From the commit on the load comes first, whatever happens */
static void test_committed_loads(void)
{
    for (int i = 0; i < COLO_SECONDARY_STATE__MAX; i++) {
        g_assert_cmpint(secondary_ok(COLO_SECONDARY_STATE_COMMITTED, i), ==,
                        i == COLO_SECONDARY_STATE_LOADING);
    }
}

/*
 * Who has lost the other side goes back to where it was, or waits for a
 * decision: it begins nothing
 */
static void test_lost_waits(void)
{
    for (int i = 0; i < COLO_PRIMARY_STATE__MAX; i++) {
        bool back = i >= COLO_PRIMARY_STATE_RUNNING &&
                    i <= COLO_PRIMARY_STATE_LOADING;
        bool decided = i == COLO_PRIMARY_STATE_ALONE ||
                       i == COLO_PRIMARY_STATE_ENDED ||
                       i == COLO_PRIMARY_STATE_ENDING;

        g_assert_cmpint(primary_ok(COLO_PRIMARY_STATE_LOST, i), ==,
                        back || decided);
        if (back) {
            g_assert_true(primary_ok(i, COLO_PRIMARY_STATE_LOST));
        }
    }
    for (int i = 0; i < COLO_SECONDARY_STATE__MAX; i++) {
        bool back = i >= COLO_SECONDARY_STATE_STANDING &&
                    i <= COLO_SECONDARY_STATE_RECEIVING;
        bool decided = i == COLO_SECONDARY_STATE_LIVE ||
                       i == COLO_SECONDARY_STATE_ENDED ||
                       i == COLO_SECONDARY_STATE_ENDING;

        g_assert_cmpint(secondary_ok(COLO_SECONDARY_STATE_LOST, i), ==,
                        back || decided);
    }
}

/* The start, and every step of a checkpoint, can be interrupted */
static void test_ways_out(void)
{
    for (int i = COLO_PRIMARY_STATE_STARTING; i <= COLO_PRIMARY_STATE_LOADING;
         i++) {
        g_assert_true(primary_ok(i, COLO_PRIMARY_STATE_LOST));
        g_assert_true(primary_ok(i, COLO_PRIMARY_STATE_ALONE));
    }
    for (int i = COLO_SECONDARY_STATE_STARTING;
         i <= COLO_SECONDARY_STATE_RECEIVING; i++) {
        g_assert_true(secondary_ok(i, COLO_SECONDARY_STATE_LOST));
        g_assert_true(secondary_ok(i, COLO_SECONDARY_STATE_LIVE));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/state/primary", test_primary);
    g_test_add_func("/colo/state/secondary", test_secondary);
    g_test_add_func("/colo/state/committed-loads", test_committed_loads);
    g_test_add_func("/colo/state/lost-waits", test_lost_waits);
    g_test_add_func("/colo/state/ways-out", test_ways_out);
    return g_test_run();
}
