/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: why the first migration failed.  Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_FIRST_H
#define QEMU_MIGRATION_COLO_FIRST_H

/* The first migration is loaded, and the session begins.  Main loop, BQL. */
void colo_first_done(void);

#endif
