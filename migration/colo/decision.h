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
 * colo_decision_demand: and somebody has said that this side is to go on
 *
 * If there is an arbiter it is asked until it has answered; then the session is
 * told.  They do not wait, and may be repeated.  The first asks nobody if the
 * heartbeat is told to wait for the second (on-loss=event), and not yet on a
 * secondary that hears the primary.  BQL.
 */
void colo_decision_ask(ColoSession *s);
void colo_decision_demand(ColoSession *s);

/* Will it be decided without somebody's word?  BQL. */
bool colo_decision_comes(void);

/* What the heartbeat hears has changed.  BQL. */
void colo_decision_look(void);

/*
 * colo_decision_withdraw: the peer is back: what was asked does not count, and
 * nobody wants to know any more.  BQL.  False if that cannot be.
 */
bool colo_decision_withdraw(ColoSession *s);

/* The session is over: nobody wants to know any more.  BQL. */
void colo_decision_forget(void);

#endif
