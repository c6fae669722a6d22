/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: is the guest protected?  What query-colo-status and COLO_PROTECTION
 * tell about it.  Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_STATUS_H
#define QEMU_MIGRATION_COLO_STATUS_H

#include "qapi/qapi-types-migration.h"
#include "io/channel.h"
#include "session.h"

/*
 * colo_status_begin: a session begins with the peer at the other end of @ioc
 *
 * The message of the session before is forgotten.  BQL.
 */
void colo_status_begin(QIOChannel *ioc);

/*
 * colo_status_say: why the session has ended, ends, or does not begin
 *
 * query-colo-status shows it until the next session begins.  BQL.
 */
void colo_status_say(const char *fmt, ...) G_GNUC_PRINTF(1, 2);

/* The same, unless something has been said in this attempt.  BQL. */
void colo_status_say_first(const char *fmt, ...) G_GNUC_PRINTF(1, 2);

/*
 * colo_status_try_again: a new attempt is asked for, and may be refused yet: what
 * is said first is said in place of the message of the one before
 * colo_status_forget_old: it begins: that message is forgotten
 *
 * BQL.
 */
void colo_status_try_again(void);
void colo_status_forget_old(void);

/* What was said is not true any more.  BQL. */
void colo_status_forget(void);

/* The same, after what has been said already.  BQL. */
void colo_status_add(const char *text);

/*
 * colo_status_update: the state of session @s has changed
 *
 * Emits COLO_PROTECTION if the guest is protected now and was not before, or
 * the other way round.  BQL.
 */
void colo_status_update(ColoSession *s);

/* The same after problems have come or gone.  BQL. */
void colo_status_look(ColoSession *s);

/*
 * Fill in what @status has about protection.
 *
 * @s: the running or the last session, or NULL.  BQL.
 */
void colo_status_fill(ColoSession *s, COLOStatus *status);

#endif
