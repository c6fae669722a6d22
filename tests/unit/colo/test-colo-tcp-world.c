/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TCP through the rules and the rewriter, in a model of the world around them.
 *
 * What has to hold is in colo-tcp-world.h.  Each world follows from its seed,
 * which is in the message if something does not hold.
 */

#include "qemu/osdep.h"
#include "colo-tcp-world.h"

#define WORLDS      300
#define WORLDS_LONG 100000

static void test_worlds(void)
{
    const char *from = g_getenv("COLO_TCP_SEED");
    uint64_t first = from ? g_ascii_strtoull(from, NULL, 10) : 1;
    uint64_t n = from ? 1 : g_getenv("CHECK_LONG") ? WORLDS_LONG : WORLDS;
    uint64_t checkpoints = 0, failovers = 0, compared = 0;

    for (uint64_t seed = first; seed < first + n; seed++) {
        TcpWorldResult r;
        g_autofree char *fault = tcp_world_check(seed, NULL, 0, &r);

        if (fault) {
            g_error("seed %" PRIu64 ": %s", seed, fault);
        }
        checkpoints += r.checkpoints;
        failovers += r.failovers;
        compared += r.compared;
    }
    g_test_message("%" PRIu64 " checkpoints, %" PRIu64 " failures of hosts, %"
                   PRIu64 " packets of secondaries", checkpoints, failovers,
                   compared);
    g_assert_true(from || (checkpoints > n && failovers > n / 4 &&
                           compared > n));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/tcp-world/seeds", test_worlds);
    return g_test_run();
}
