/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the first migration of a secondary.  Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_INCOMING_H
#define QEMU_MIGRATION_COLO_INCOMING_H

/*
 * colo_incoming_watch_end: the first migration is over, and the session begins,
 * which has deadlines of its own; they may be longer.  BQL.
 */
void colo_incoming_watch_end(void);

#endif
