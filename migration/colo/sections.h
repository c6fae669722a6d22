/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what the device state of a checkpoint consists of.  Both sides.
 */

#ifndef QEMU_MIGRATION_COLO_SECTIONS_H
#define QEMU_MIGRATION_COLO_SECTIONS_H

#include "frame.h"

/*
 * colo_sections_begin: device state is about to be saved; the list of the last
 * checkpoint is void
 *
 * @begin: what qemu_file_transferred() says now
 *
 * colo_sections_encode: append the payload of a SECTIONS frame
 *
 * In between the base calls colo_section_saved() for each section.  Primary,
 * session's thread; the list belongs to it.
 */
void colo_sections_begin(uint64_t begin);
void colo_sections_encode(GByteArray *out);

/*
 * colo_sections_fit: can this machine load that device state?
 *
 * @list: the payload of a SECTIONS frame
 * @state: what is to be loaded
 * Checks that each section begins and ends where @list says, that nothing is in
 * between, and that there is a device of that name and instance here which
 * knows the version.  What is in a section is not looked at.  Secondary, BQL.
 */
bool colo_sections_fit(const uint8_t *list, size_t list_len,
                       const uint8_t *state, size_t state_len, Error **errp);

#endif
