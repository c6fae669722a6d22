/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: does this side get on with what its peer waits for?
 */

#ifndef QEMU_MIGRATION_COLO_PROGRESS_H
#define QEMU_MIGRATION_COLO_PROGRESS_H

#include "qemu/atomic.h"

extern unsigned long colo_progress_count;

/*
 * colo_progress: one more piece of work is done, of at most some hundred
 * milliseconds.  Any thread.
 */
static inline void colo_progress(void)
{
    qatomic_inc(&colo_progress_count);
}

/* Grows with each piece.  Any thread. */
static inline uint64_t colo_progress_made(void)
{
    return qatomic_read(&colo_progress_count);
}

#endif
