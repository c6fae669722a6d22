/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: does this side get on with what its peer waits for?
 */

#ifndef QEMU_MIGRATION_COLO_PROGRESS_H
#define QEMU_MIGRATION_COLO_PROGRESS_H

#include "qemu/atomic.h"

extern unsigned long colo_progress_count;
extern unsigned long colo_idle_count;

/*
 * colo_progress: one more piece of work is done, of at most some hundred
 * milliseconds.  Any thread.
 */
static inline void colo_progress(void)
{
    qatomic_inc(&colo_progress_count);
}

/* There is nothing to do, and the session's thread is there.  Any thread. */
static inline void colo_progress_idle(void)
{
    qatomic_inc(&colo_idle_count);
}

/* Grows with each piece, and while there is none.  Any thread. */
static inline uint64_t colo_progress_made(void)
{
    return qatomic_read(&colo_progress_count) +
           qatomic_read(&colo_idle_count);
}

/* Grows with each piece.  Any thread. */
static inline uint64_t colo_work_done(void)
{
    return qatomic_read(&colo_progress_count);
}

#endif
