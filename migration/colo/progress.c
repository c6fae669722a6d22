/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: how much work this process has done for its sessions.
 *
 * Both sides.  Only whether the number grows means something: 'alive' frames
 * tell it to the peer, which so knows a side that works from one that hangs.
 */

#include "qemu/osdep.h"
#include "progress.h"

/* Atomic */
unsigned long colo_progress_count;
unsigned long colo_idle_count;
