/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: colo-arbiter-exec, a program of the user's decides: a cluster or
 * a key-value store, say.  Both sides; Linux.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "arbiter.h"
#include "program.h"

#define TYPE_COLO_ARBITER_EXEC "colo-arbiter-exec"
OBJECT_DECLARE_SIMPLE_TYPE(ColoArbiterExec, COLO_ARBITER_EXEC)

/* What the program exits with; anything else is not known */
#define STATUS_WON  0
#define STATUS_LOST 1

struct ColoArbiterExec {
    ColoDecider parent_obj;

    /* Set once */
    ColoProgram program;
};

static ColoVerdict exec_answer(ColoDecider *d, ColoAsk *ask, Error **errp)
{
    ColoProgram *p = &COLO_ARBITER_EXEC(d)->program;
    ColoRequest request = colo_ask_request(ask);
    g_autofree char *line = NULL;
    int status = colo_program_run(p, colo_request_str(request), ask, &line,
                                  errp);

    if (status == STATUS_WON) {
        return COLO_VERDICT_WON;
    }
    if (status == STATUS_LOST && request == COLO_REQUEST_DECIDE) {
        return COLO_VERDICT_LOST;
    }
    if (status >= 0) {
        colo_program_failed(p, status, line, errp);
    }
    return COLO_VERDICT_NOT_KNOWN;
}

static bool exec_check(ColoDecider *d, Error **errp)
{
    return colo_program_check(&COLO_ARBITER_EXEC(d)->program, errp);
}

static ColoProgram *exec_program(Object *obj)
{
    return &COLO_ARBITER_EXEC(obj)->program;
}

static void exec_finalize(Object *obj)
{
    colo_program_clear(exec_program(obj));
}

static void exec_class_init(ObjectClass *oc, void *data)
{
    ColoDeciderClass *dc = COLO_DECIDER_CLASS(oc);

    dc->check = exec_check;
    dc->answer = exec_answer;
    colo_program_class_init(oc, exec_program);
}

static const TypeInfo exec_info = {
    .name = TYPE_COLO_ARBITER_EXEC,
    .parent = TYPE_COLO_ARBITER,
    .class_init = exec_class_init,
    .instance_size = sizeof(ColoArbiterExec),
    .instance_finalize = exec_finalize,
};

static void exec_register_types(void)
{
    type_register_static(&exec_info);
}

type_init(exec_register_types);
