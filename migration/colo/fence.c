/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: colo-fence, a program of the user's that keeps the other side off.
 * Both sides; Linux.
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qapi/error.h"
#include "qapi/qapi-types-qom.h"
#include "fence.h"
#include "program.h"

OBJECT_DECLARE_SIMPLE_TYPE(ColoFence, COLO_FENCE)

/* Power switches take their time */
#define DEFAULT_TIMEOUT_MS 60000

struct ColoFence {
    ColoDecider parent_obj;

    /* Set once */
    ColoProgram program;

    /* Atomic */
    int on_failure;             /* ColoFencePolicy */
};

bool colo_fence_exists(void)
{
    return colo_decider_exists(COLO_DECIDER_FENCE);
}

ColoFenceResult colo_fence_run(const ColoQuestion *q, Error **errp)
{
    ColoFenceResult result = COLO_FENCE_DONE;
    ColoDecider *d = colo_decider_get(COLO_DECIDER_FENCE);
    bool cancelled;

    if (!d) {
        error_setg(errp, "there is no fence");
        return COLO_FENCE_HOLD;
    }
    if (colo_decider_ask(COLO_DECIDER_FENCE, COLO_REQUEST_FENCE, q, &cancelled,
                         errp) != COLO_VERDICT_WON) {
        bool go_on = qatomic_read(&COLO_FENCE(d)->on_failure) ==
                     COLO_FENCE_POLICY_GO_ON;

        result = go_on && !cancelled ? COLO_FENCE_GO_ON : COLO_FENCE_HOLD;
    }
    object_unref(OBJECT(d));
    return result;
}

ColoArbiterStatus *colo_fence_status(void)
{
    return colo_decider_status(COLO_DECIDER_FENCE);
}

static ColoVerdict fence_answer(ColoDecider *d, ColoAsk *ask, Error **errp)
{
    ColoProgram *p = &COLO_FENCE(d)->program;
    g_autofree char *line = NULL;
    int status = colo_program_run(p, NULL, ask, &line, errp);

    if (status > 0) {
        colo_program_failed(p, status, line, errp);
    }
    return status ? COLO_VERDICT_NOT_KNOWN : COLO_VERDICT_WON;
}

static bool fence_check(ColoDecider *d, Error **errp)
{
    return colo_program_check(&COLO_FENCE(d)->program, errp);
}

static ColoProgram *fence_program(Object *obj)
{
    return &COLO_FENCE(obj)->program;
}

static int fence_get_on_failure(Object *obj, Error **errp)
{
    return qatomic_read(&COLO_FENCE(obj)->on_failure);
}

static void fence_set_on_failure(Object *obj, int value, Error **errp)
{
    qatomic_set(&COLO_FENCE(obj)->on_failure, value);
}

static void fence_finalize(Object *obj)
{
    colo_program_clear(fence_program(obj));
}

static void fence_class_init(ObjectClass *oc, void *data)
{
    ColoDeciderClass *dc = COLO_DECIDER_CLASS(oc);

    dc->kind = COLO_DECIDER_FENCE;
    dc->name = "fence";
    dc->default_timeout_ms = DEFAULT_TIMEOUT_MS;
    dc->check = fence_check;
    dc->answer = fence_answer;
    colo_program_class_init(oc, fence_program);
    object_class_property_add_enum(oc, "on-failure", "ColoFencePolicy",
                                   &ColoFencePolicy_lookup,
                                   fence_get_on_failure, fence_set_on_failure);
}

static const TypeInfo fence_info = {
    .name = TYPE_COLO_FENCE,
    .parent = TYPE_COLO_DECIDER,
    .class_init = fence_class_init,
    .instance_size = sizeof(ColoFence),
    .instance_finalize = fence_finalize,
};

static void fence_register_types(void)
{
    type_register_static(&fence_info);
}

type_init(fence_register_types);
