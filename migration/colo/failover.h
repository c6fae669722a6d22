/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the ways a session ends.  Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_FAILOVER_H
#define QEMU_MIGRATION_COLO_FAILOVER_H

#include "session.h"

/*
 * colo_has_to_end: true between two checkpoints if somebody on this side has
 * asked for the end of the session, or a disk failed
 *
 * Sets s->cause and @errp then.  Session's thread.
 */
bool colo_has_to_end(ColoSession *s, Error **errp);

/*
 * colo_finish_begin: this side ends the session in order, for the reason in
 * s->cause and @err, which query-colo-status shows from now on.  A fault is
 * reported to the user.  No BQL.
 */
void colo_finish_begin(ColoSession *s, const Error *err);

/*
 * colo_watch_silence: from now on a peer that is silent is 'lost', and comes back
 * if both hear each other again before anything is decided
 *
 * Session's thread, when the session is ready.
 */
void colo_watch_silence(ColoSession *s);

/*
 * colo_await_decision: the peer is lost
 *
 * Reports it, then waits for the word of the operator, of the arbiter, or of the
 * peer, or for the end of QEMU.
 * Session's thread, BQL held (dropped meanwhile).
 */
void colo_await_decision(ColoSession *s, const Error *err);

/* For the user: this side goes on, and who has said so.  BQL. */
void colo_say_decided(void);

/* Emits COLO_EXIT.  BQL. */
void colo_report_exit(ColoSession *s, COLOExitReason reason);

#endif
