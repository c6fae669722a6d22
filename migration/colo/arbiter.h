/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: which side goes on when they have lost each other.  Not for base code.
 *
 * Theory of operation
 *
 * Neither side can tell a dead peer from a broken link.  So somebody whom both
 * reach decides, once a session: the side that asks first has won, and every
 * later question about that session, from whomever, gets the same answer.  That
 * is a compare-and-swap of one value, from "nobody" to the side that asks.
 * Nothing expires: a side that was asleep for a year has lost, if the other one
 * asked meanwhile.
 *
 * The primary says which session is the one that will be decided before it
 * begins (colo_arbiter_begin()).  A session before that is lost for whoever
 * asks for it later: its survivor has gone on to the new one.
 *
 * Who has won goes on.  Who has lost stops its guest for good.  Who does not
 * know does neither, and asks again: a question may be asked any number of
 * times.  Who has been told does not ask any more.
 */

#ifndef QEMU_MIGRATION_COLO_ARBITER_H
#define QEMU_MIGRATION_COLO_ARBITER_H

#include "decider.h"

#define TYPE_COLO_ARBITER "colo-arbiter"

/* Is there an arbiter?  None comes or goes in a session.  Any thread. */
bool colo_arbiter_exists(void);

/*
 * colo_arbiter_begin: the session of @q is the one that will be decided
 *
 * The primary, before the session begins.  False with @errp set if that is not
 * certain; then the session must not begin, as an arbiter that does not know it
 * lets neither side go on.  Without the BQL; time as for colo_arbiter_decide().
 */
bool colo_arbiter_begin(const ColoQuestion *q, Error **errp);

/*
 * colo_arbiter_check: is that so?
 *
 * The secondary, when the primary has said that a session begins.  False with
 * @errp set if this side's arbiter does not know of that: then it is another
 * one, or not to be reached, and the session must not begin.  Changes nothing.
 * Without the BQL; time as for colo_arbiter_decide().
 */
bool colo_arbiter_check(const ColoQuestion *q, Error **errp);

/*
 * colo_arbiter_decide: does this side go on?
 *
 * Either side, when it has lost the other.  Returns COLO_VERDICT_NOT_KNOWN with
 * @errp set after the object's timeout, and a fifth of a second, at the latest.
 * Without the BQL.
 */
ColoVerdict colo_arbiter_decide(const ColoQuestion *q, Error **errp);

/*
 * colo_arbiter_cancel: a question that is under way is soon not known; so is a
 * fence (fence.h)
 * colo_arbiter_arm: from now on, and until the next question has its answer, a
 * cancel is not lost if it comes before that question
 *
 * Who looks whether a question is still wanted, and then asks, arms before it
 * looks.  Any thread; they return at once.
 */
void colo_arbiter_arm(void);
void colo_arbiter_cancel(void);

/* For the user; NULL if there is no arbiter.  Any thread. */
ColoArbiterStatus *colo_arbiter_status(void);

#endif
