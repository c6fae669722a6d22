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
 * colo_take_sign_of_life: true if the frame says only that the peer is there
 *
 * On the secondary that is a ping, since a primary that waits for its disks
 * sends some; on the primary the pong that answers one.  The wish to be handed
 * over to can come at any time, and is noted.  Session's thread.
 */
bool colo_take_sign_of_life(ColoSession *s, const ColoFrame *f);

/*
 * colo_recv: the header of the next frame that is no sign of life
 * colo_expect: the same; it has to be @type of checkpoint @cut
 *
 * @stage: what is waited for, in messages; with colo_expect() NULL for the name
 *     of the frame
 * False with @errp set, and s->cause too if the peer ended the session.
 * Session's thread, no BQL.
 */
bool colo_recv(ColoSession *s, const char *stage, ColoFrame *f, Error **errp);
bool colo_expect(ColoSession *s, ColoFrameType type, uint64_t cut,
                 const char *stage, ColoFrame *f, Error **errp);

/*
 * colo_patience_end: when to give up, from now on (QEMU_CLOCK_REALTIME, ns)
 */
int64_t colo_patience_end(ColoSession *s);

/*
 * colo_say_bye: tell the peer that this side ends the session, and wait for
 * its acknowledgement, passing over whatever it was about to say.
 *
 * Returns true if the peer knows.  Session's thread, no BQL.
 */
bool colo_say_bye(ColoSession *s, ColoByeReason reason, Error **errp);

/*
 * colo_hand_over: primary, the guest stands and the secondary has loaded it: it
 * goes on.  True if it knows.  Session's thread, no BQL.
 */
bool colo_hand_over(ColoSession *s, Error **errp);

/*
 * colo_let_go: primary, the secondary has answered to that: it may go on, this
 * side never will.  Session's thread, no BQL.
 */
void colo_let_go(ColoSession *s);

/*
 * colo_say_going_on: this side goes on, and a peer that reads it is out.  Does
 * not wait, and does not know whether it is heard.  Session's thread.
 */
void colo_say_going_on(ColoSession *s);

/* Tell the peer why this side cannot go on.  Session's thread, no BQL. */
void colo_say_error(ColoSession *s, const Error *err);

/*
 * colo_hears_peer: has the peer said that it is there since this was called?
 * Waits for one timeout.
 *
 * False with @errp set if it has not, if it has ended the session (see
 * colo_read_end()) or if this side has been told to go on.  Session's thread,
 * no BQL.
 */
bool colo_hears_peer(ColoSession *s, Error **errp);

/*
 * colo_begin_alive: the peer reads frames from now on, tell it that we are here
 *
 * Session's thread, no BQL.
 */
void colo_begin_alive(ColoSession *s);

#endif
