/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: may output leave?
 *
 * Proves: without a session it may; in one only for a timeout less a margin
 * from the time that the secondary has last heard of, whatever comes late or
 * twice; whoever was refused is told when it may again, once.
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "migration/colo/lease.h"

#define TIMEOUT_MS  10000
#define SHORT_MS    300

static unsigned told;

static void tell(void)
{
    told++;
}

static int64_t now_ns(void)
{
    return qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
}

static int64_t ago_ns(int64_t ms)
{
    return now_ns() - ms * SCALE_MS;
}

static void test_none(void)
{
    colo_lease_end();
    g_assert_true(colo_lease_holds());
    /* Nothing that comes late begins one */
    colo_lease_renew(ago_ns(2 * TIMEOUT_MS), TIMEOUT_MS);
    g_assert_true(colo_lease_holds());
}

static void test_margin(void)
{
    colo_lease_begin(ago_ns(TIMEOUT_MS * 8 / 10), TIMEOUT_MS);
    g_assert_true(colo_lease_holds());
    /* Still within the timeout */
    colo_lease_begin(ago_ns(TIMEOUT_MS * 95 / 100), TIMEOUT_MS);
    g_assert_false(colo_lease_holds());
    colo_lease_end();
}

static void test_renew(void)
{
    told = 0;
    colo_lease_begin(ago_ns(TIMEOUT_MS), TIMEOUT_MS);
    g_assert_false(colo_lease_holds());
    /* Not known, older than the last, or too old all the same */
    colo_lease_renew(0, TIMEOUT_MS);
    colo_lease_renew(ago_ns(2 * TIMEOUT_MS), TIMEOUT_MS);
    g_assert_cmpint(told, ==, 0);
    g_assert_false(colo_lease_holds());
    colo_lease_renew(now_ns(), TIMEOUT_MS);
    g_assert_cmpint(told, ==, 1);
    g_assert_true(colo_lease_holds());
    /* Nobody was refused since */
    colo_lease_renew(now_ns(), TIMEOUT_MS);
    g_assert_cmpint(told, ==, 1);
    colo_lease_end();
}

/* What the secondary takes does as well, if this process ran all the time */
static void test_progress(void)
{
    colo_lease_begin(ago_ns(TIMEOUT_MS), TIMEOUT_MS);
    g_assert_false(colo_lease_holds());
    colo_lease_progress();
    g_assert_true(colo_lease_holds());
    /* But it says nothing of a side that has lost the other one */
    colo_lease_suspend();
    g_assert_false(colo_lease_holds());
    colo_lease_end();
}

static void test_stall(void)
{
    colo_lease_begin(ago_ns(SHORT_MS), SHORT_MS);
    colo_lease_tick();
    colo_lease_progress();
    g_assert_true(colo_lease_holds());
    g_usleep(2 * SHORT_MS * 1000);
    /* Nothing has ticked meanwhile: it did not run */
    g_assert_false(colo_lease_holds());
    colo_lease_tick();
    colo_lease_progress();
    g_assert_false(colo_lease_holds());
    /* Until the secondary has heard it anew: then that it takes something does */
    colo_lease_renew(now_ns(), TIMEOUT_MS);
    colo_lease_suspend();
    colo_lease_progress();
    g_assert_true(colo_lease_holds());
    colo_lease_end();
}

/* A stop that is shorter than a lease is one, too */
static void test_short_stall(void)
{
    colo_lease_begin(ago_ns(SHORT_MS), SHORT_MS);
    colo_lease_progress();
    g_usleep(SHORT_MS * 1000 * 7 / 10);
    g_assert_false(colo_lease_holds());
    colo_lease_end();
}

/* In the middle of what was refused: who has to be told is */
static void test_end(void)
{
    told = 0;
    colo_lease_begin(ago_ns(TIMEOUT_MS), TIMEOUT_MS);
    g_assert_false(colo_lease_holds());
    colo_lease_end();
    g_assert_cmpint(told, ==, 1);
    g_assert_true(colo_lease_holds());
}

static void test_revoke(void)
{
    told = 0;
    colo_lease_begin(now_ns(), TIMEOUT_MS);
    g_assert_true(colo_lease_holds());
    colo_lease_revoke();
    g_assert_false(colo_lease_holds());
    /* What is still read from the peer changes nothing */
    colo_lease_renew(now_ns(), TIMEOUT_MS);
    g_assert_false(colo_lease_holds());
    g_assert_cmpint(told, ==, 0);
    colo_lease_begin(now_ns(), TIMEOUT_MS);
    g_assert_true(colo_lease_holds());
    colo_lease_end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    colo_lease_on_renewal(tell);
    g_test_add_func("/colo/lease/none", test_none);
    g_test_add_func("/colo/lease/margin", test_margin);
    g_test_add_func("/colo/lease/renew", test_renew);
    g_test_add_func("/colo/lease/progress", test_progress);
    g_test_add_func("/colo/lease/stall", test_stall);
    g_test_add_func("/colo/lease/stall/short", test_short_stall);
    g_test_add_func("/colo/lease/end", test_end);
    g_test_add_func("/colo/lease/revoke", test_revoke);
    return g_test_run();
}
