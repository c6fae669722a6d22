/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: pages of guest RAM on their way from one staging area to the other.
 *
 * The session's thread, without the BQL.
 */

#ifndef QEMU_MIGRATION_COLO_PAGES_H
#define QEMU_MIGRATION_COLO_PAGES_H

#include "session.h"

/*
 * colo_pages_send: primary, send all that is staged and empty the area
 *
 * Adds to @count.  False with @errp set if the peer is lost.
 */
bool colo_pages_send(ColoSession *s, uint64_t cut, ColoPageCount *count,
                     Error **errp);

/*
 * colo_pages_send_differing: the same, for a secondary whose guest ran: sends
 * hashes first and then what the secondary asks for
 */
bool colo_pages_send_differing(ColoSession *s, uint64_t cut,
                               ColoPageCount *count, Error **errp);

/*
 * colo_pages_receive: secondary, take in the payload of frame @f, PAGES
 * colo_pages_compare: the same for HASHES; answers it.  The guest stands.
 *
 * False with @errp set; s->cause says so if it is not the peer's fault.
 */
bool colo_pages_receive(ColoSession *s, const ColoFrame *f,
                        ColoPageCount *count, Error **errp);
bool colo_pages_compare(ColoSession *s, const ColoFrame *f,
                        ColoPageCount *count, Error **errp);

/* Secondary: did all come that was asked for?  False with @errp set if not. */
bool colo_pages_complete(ColoSession *s, Error **errp);

/* Secondary: nothing is asked for yet */
void colo_pages_begin(ColoSession *s);

#endif
