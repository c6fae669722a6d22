/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: a program of the user's that is asked.  Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_PROGRAM_H
#define QEMU_MIGRATION_COLO_PROGRAM_H

#include "qapi/qapi-builtin-types.h"
#include "decider.h"

/* What to run: part of an object that has the properties of _class_init() */
typedef struct ColoProgram {
    char *path;             /* absolute */
    strList *args;
} ColoProgram;

/*
 * colo_program_class_init: the properties 'program' and 'args' for @oc, a class
 * of COLO_DECIDER
 *
 * @get: where the ColoProgram of an object is
 */
typedef ColoProgram *ColoProgramGet(Object *obj);
void colo_program_class_init(ObjectClass *oc, ColoProgramGet *get);
void colo_program_clear(ColoProgram *p);

/* Can it be run, as far as is known before?  BQL. */
bool colo_program_check(const ColoProgram *p, Error **errp);

/*
 * colo_program_run: run it, wait for its end
 *
 * @last_arg: comes after ColoProgram.args; or NULL
 * @ask: what it is about, which the program finds in its environment; and when
 *       to end it, with its process group
 * @line: the last line that it wrote to stderr; NULL if there was none; the
 *        caller frees it
 *
 * Returns its exit status, 0 to 255; or -1 with @errp set if it could not be
 * run, was ended by a signal, or did not end in time.  In a thread that may
 * wait.
 */
int colo_program_run(const ColoProgram *p, const char *last_arg, ColoAsk *ask,
                     char **line, Error **errp);

/* Says in @errp that it exited with @status, and the reason in @line */
void colo_program_failed(const ColoProgram *p, int status, const char *line,
                         Error **errp);

#endif
