/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: TCP through the rules and the rewriter.
 *
 * The input is a world of tests/unit/colo/colo-tcp-world.h: what its
 * connections, network and hosts are like, and what happens by chance, as far
 * as the input goes.  What has to hold is said there.
 */

#include "qemu/osdep.h"
#include "../unit/colo/colo-tcp-world.h"
#include "colo-fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    TcpWorldResult result;
    g_autofree char *fault = NULL;

    if (size < 1) {
        return 0;
    }
    fault = tcp_world_check(data[0], data + 1, size - 1, &result);
    if (fault) {
        fprintf(stderr, "%s\n", fault);
        abort();
    }
    return 0;
}
