/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: somebody between two QEMUs who makes one frame wait.
 *
 * A thread passes on what both sides of a pair say.  Told to, it keeps the next
 * 'pages' frame of the primary, and all behind it, until it is let go.
 */

#ifndef TESTS_QTEST_COLO_HOLD_H
#define TESTS_QTEST_COLO_HOLD_H

#include "colo-helpers.h"

/* Staging limit of the primary, if it is to stream */
#define COLO_HOLD_STAGING   1048576

typedef struct ColoHold ColoHold;

/*
 * Listen on the socket "hold" in @dir; who connects is connected to "mig" there,
 * where the secondary listens.
 */
ColoHold *colo_hold_new(const char *dir);

/* Protect a pair that streams, with one in between */
ColoHold *colo_hold_protect(ColoPair *p);

/* The next frame shall wait; wait until it does; let it go */
void colo_hold_arm(ColoHold *h);
void colo_hold_await(ColoHold *h);
void colo_hold_release(ColoHold *h);

/* The same; but behind that checkpoint the secondary hears nothing any more */
void colo_hold_release_last(ColoHold *h);

/* Let it go and wait until the next frame waits */
void colo_hold_next(ColoHold *h);

/* How many 'pages' frames have arrived here so far */
unsigned colo_hold_count(ColoHold *h);

/*
 * Take a checkpoint of a guest that runs or sleeps, and hold it in the middle of
 * the cut: as much as is sent while the guest runs is dirty again.  16 MiB to 20
 * MiB of its RAM are 0xa5 then.
 */
void colo_hold_cut(ColoHold *h, ColoPair *p);

void colo_hold_free(ColoHold *h);

#endif
