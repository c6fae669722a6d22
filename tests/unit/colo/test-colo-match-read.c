/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rules by which output of the primary may leave, for what was read at
 * once: scripts, see colo-match-script.h.
 */

#include "qemu/osdep.h"
#include "colo-match-script.h"

static const Script scripts[] = {
    /* It lets one front go, not one for each piece */
    { "read/front", NULL,
      MIDDLE
      "p 1000+6000a50\n"
      "[\n"
      "s 1000+1000a50\n"
      "s 2000+1000a50\n"
      "s 3000+1000a50\n"
      "] > 1000+3000a50\n"
      "s 4000+1000a50 > 4000+1000a50\n"
      "[\n"
      "s 5000+1000a50\n"
      "s 6000+1000a50 > 5000+2000a50\n"
      "]\n" },
    { "read/front-flows", NULL,
      MIDDLE
      "p 999+1a50@1\ns 999+1a50@1 > 999+1a50@1\n"
      "p 999+1a50@2\ns 999+1a50@2 > 999+1a50@2\n"
      "p 1000+6000a50@1\n"
      "p 1000+6000a50@2\n"
      "[\n"
      "s 1000+1000a50@2\n"
      "s 1000+1000a50@1\n"
      "s 2000+1000a50@1\n"
      "] > 1000+1000a50@2 1000+2000a50@1\n" },
    /* The secondary's words of the old epoch count until its record */
    { "read/front-record", NULL,
      MIDDLE
      "p 1000+6000a50\n"
      "[\n"
      "s 1000+1000a50\n"
      "s 2000+1000a50\n"
      "S 1 > 1000+2000a50\n"
      "]\n"
      "P 1\n"
      "C 1 > 3000+4000a50\n" },
    { "read/front-commit", NULL,
      MIDDLE
      "p 1000+6000a50\n"
      "P 1\n"
      "[\n"
      "s 1000+1000a50\n"
      "C 1 > 1000+6000a50\n"
      "]\n" },
    { "read/front-open", NULL,
      MIDDLE
      "p 1000+6000a50\n"
      "[\n"
      "s 1000+1000a50\n"
      "O > 1000+1000a50 2000+5000a50\n"
      "]\n" },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    bench_add_scripts(scripts, ARRAY_SIZE(scripts));
    return g_test_run();
}
