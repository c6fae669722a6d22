/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: a side that has lost the other one asks who goes on.  Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_DECISION_H
#define QEMU_MIGRATION_COLO_DECISION_H

#include "session.h"

/*
 * colo_decision_register: primary, before the session begins: it will be decided
 *
 * True, too, without an arbiter.  False with @errp set, and s->cause, if the
 * arbiter does not know of it for certain.  Session's thread, no BQL.
 */
bool colo_decision_register(ColoSession *s, Error **errp);

/*
 * colo_decision_check: secondary, before it is ready: does its arbiter know of
 * the session that the primary has registered?
 *
 * Otherwise as colo_decision_register().
 */
bool colo_decision_check(ColoSession *s, Error **errp);

/*
 * colo_decision_claim: secondary, the primary has handed over: does this side go
 * on?  Session's thread, no BQL.  False with @errp set, or not, if not.
 */
bool colo_decision_claim(ColoSession *s, Error **errp);

/*
 * colo_decision_ask: the peer is lost
 *
 * If there is an arbiter it is asked until it has answered; then the session is
 * told.  Does not wait; may be repeated.  BQL.
 */
void colo_decision_ask(ColoSession *s);

/* The session is over: nobody wants to know any more.  BQL. */
void colo_decision_forget(void);

#endif
