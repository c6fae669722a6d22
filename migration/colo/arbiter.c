/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the arbiter, as the session sees it; arbiter-file.c and arbiter-exec.c
 * are its kinds.  Both sides.
 */

#include "qemu/osdep.h"
#include "arbiter.h"

#define DEFAULT_TIMEOUT_MS 5000

bool colo_arbiter_exists(void)
{
    return colo_decider_exists(COLO_DECIDER_ARBITER);
}

bool colo_arbiter_begin(const ColoQuestion *q, Error **errp)
{
    return colo_decider_ask(COLO_DECIDER_ARBITER, COLO_REQUEST_BEGIN, q,
                            NULL, errp) == COLO_VERDICT_WON;
}

bool colo_arbiter_check(const ColoQuestion *q, Error **errp)
{
    return colo_decider_ask(COLO_DECIDER_ARBITER, COLO_REQUEST_CHECK, q,
                            NULL, errp) == COLO_VERDICT_WON;
}

ColoVerdict colo_arbiter_decide(const ColoQuestion *q, Error **errp)
{
    return colo_decider_ask(COLO_DECIDER_ARBITER, COLO_REQUEST_DECIDE, q,
                            NULL, errp);
}

void colo_arbiter_arm(void)
{
    colo_decider_arm();
}

void colo_arbiter_cancel(void)
{
    colo_decider_cancel();
}

ColoArbiterStatus *colo_arbiter_status(void)
{
    return colo_decider_status(COLO_DECIDER_ARBITER);
}

static void arbiter_class_init(ObjectClass *oc, void *data)
{
    ColoDeciderClass *dc = COLO_DECIDER_CLASS(oc);

    dc->kind = COLO_DECIDER_ARBITER;
    dc->name = "arbiter";
    dc->default_timeout_ms = DEFAULT_TIMEOUT_MS;
}

static const TypeInfo arbiter_info = {
    .name = TYPE_COLO_ARBITER,
    .parent = TYPE_COLO_DECIDER,
    .abstract = true,
    .class_init = arbiter_class_init,
};

static void arbiter_register_types(void)
{
    type_register_static(&arbiter_info);
}

type_init(arbiter_register_types);
