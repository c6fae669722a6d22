/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: named fault points for tests.
 *
 * Compiled out unless Meson's colo_faults is set: then the functions are
 * empty and cost nothing.  The points are one a frame that a side sends or
 * receives and one a state that it enters; query-colo-fault-points lists
 * them.  Any thread.
 */

#ifndef QEMU_MIGRATION_COLO_FAULT_H
#define QEMU_MIGRATION_COLO_FAULT_H

#include "qapi/qapi-types-migration.h"
#include "frame.h"

#ifdef CONFIG_COLO_FAULTS

/*
 * colo_fault_frame: @side is about to send, or has just got the header of, a
 * frame of @type.  Returns false with @errp set if that shall fail; may kill
 * or stop the process.
 */
bool colo_fault_frame(COLOMode side, bool send, ColoFrameType type,
                      Error **errp);

/* The same for a state that @side enters; such a point cannot fail */
void colo_fault_state(COLOMode side, const char *state);

/* Shall the allocation of staging memory fail? */
bool colo_fault_alloc(Error **errp);

/*
 * Many pages were copied while the primary's guest stands, or were written to
 * the secondary's RAM, without the BQL; cannot fail
 */
void colo_fault_pages(COLOMode side);

/* x-colo-protect is about to make something; false with @errp set: it fails */
bool colo_fault_setup(Error **errp);

#else

static inline bool colo_fault_frame(COLOMode side, bool send,
                                    ColoFrameType type, Error **errp)
{
    return true;
}

static inline void colo_fault_state(COLOMode side, const char *state)
{
}

static inline bool colo_fault_alloc(Error **errp)
{
    return true;
}

static inline void colo_fault_pages(COLOMode side)
{
}

static inline bool colo_fault_setup(Error **errp)
{
    return true;
}

#endif

#endif
