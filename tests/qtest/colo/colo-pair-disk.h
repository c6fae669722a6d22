/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a replicated disk of a pair, which is all zero.
 *
 * Of both guests it is node "disk0", device "disk9".  The primary's has no data,
 * and the way to the secondary, node "repl", leads nowhere.
 */

#ifndef TESTS_QTEST_COLO_PAIR_DISK_H
#define TESTS_QTEST_COLO_PAIR_DISK_H

#include "libqtest.h"

/* A slot that both sides know */
#define PAIR_DISK_SLOT    "6"

/* The guest gets the node "disk0" as its disk */
void pair_disk_plug(QTestState *qts);

void pair_disk_add_primary(QTestState *qts);
/* @image: raw, of DISK bytes; the others are overlays of the same length */
void pair_disk_add_secondary(QTestState *qts, const char *image,
                             const char *active, const char *hidden);

#endif
