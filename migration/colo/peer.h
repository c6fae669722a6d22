/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what the two sides say to each other beside the checkpoints.  Not for
 * base code.
 */

#ifndef QEMU_MIGRATION_COLO_PEER_H
#define QEMU_MIGRATION_COLO_PEER_H

#include "session.h"

/*
 * colo_read_end: a frame in place of the expected one.  Session's thread.
 *
 * For BYE and ERROR, which are acknowledged, the cause becomes
 * COLO_CAUSE_PEER_*; anything else is a fault of the peer.  Always sets
 * @errp.
 */
void colo_read_end(ColoSession *s, const ColoFrame *f, const char *stage,
                   Error **errp);

/*
 * colo_patience_end: when to give up, from now on (QEMU_CLOCK_REALTIME, ns)
 * colo_patience_over: is it time, with @errp set?  Session's thread.
 */
int64_t colo_patience_end(ColoSession *s);
bool colo_patience_over(ColoSession *s, int64_t end_ns, const char *stage,
                        Error **errp);

/*
 * colo_say_bye: tell the peer that this side ends the session, and wait for
 * its acknowledgement, passing over whatever it was about to say.
 *
 * Returns true if the peer knows.  Session's thread, no BQL.
 */
bool colo_say_bye(ColoSession *s, ColoByeReason reason, Error **errp);

/* Tell the peer why this side cannot go on.  Session's thread, no BQL. */
void colo_say_error(ColoSession *s, const Error *err);

/*
 * colo_begin_alive: the peer reads frames from now on, tell it that we are here
 *
 * Session's thread, no BQL.
 */
void colo_begin_alive(ColoSession *s);

#endif
