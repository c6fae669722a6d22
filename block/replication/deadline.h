/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: waiting with a limit, by AIO_WAIT_WHILE_UNLOCKED().  BQL.
 */

#ifndef BLOCK_REPLICATION_DEADLINE_H
#define BLOCK_REPLICATION_DEADLINE_H

#include "qemu/timer.h"
#include "block/aio.h"

/* How long requests may take to end, once no new ones can begin */
#define QUIET_TIMEOUT_MS 5000

typedef struct Deadline {
    QEMUTimer *timer;
    bool over;
} Deadline;

static inline void deadline_cb(void *opaque)
{
    Deadline *deadline = opaque;

    deadline->over = true;
}

static inline void deadline_begin(Deadline *deadline, int64_t ms)
{
    deadline->over = false;
    deadline->timer = aio_timer_new(qemu_get_aio_context(),
                                    QEMU_CLOCK_REALTIME, SCALE_MS,
                                    deadline_cb, deadline);
    timer_mod(deadline->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + ms);
}

static inline void deadline_end(Deadline *deadline)
{
    timer_free(deadline->timer);
}

#endif
