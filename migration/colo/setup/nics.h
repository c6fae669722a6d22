/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO setup: the NICs of a side.  Main loop, BQL.
 */

#ifndef QEMU_MIGRATION_COLO_SETUP_NICS_H
#define QEMU_MIGRATION_COLO_SETUP_NICS_H

#include "setup.h"

/*
 * colo_setup_nics: the names of the netdevs of @wanted, or without @has_wanted
 * of all; sorted, so that both sides have the same order
 *
 * What is wrong with them is found.  The caller frees it, g_ptr_array_unref().
 */
GPtrArray *colo_setup_nics(ColoSetupSearch *search, bool has_wanted,
                           const strList *wanted);

/*
 * colo_setup_make_nics: the filters and streams of @nics, for the role and mode
 * of @s.  False with @errp set if one cannot be made.
 */
bool colo_setup_make_nics(ColoSetup *s, const GPtrArray *nics, Error **errp);

#endif
