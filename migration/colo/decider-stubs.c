/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: hosts that have no arbiter and no fence.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "arbiter.h"
#include "fence.h"

bool colo_arbiter_exists(void)
{
    return false;
}

bool colo_arbiter_begin(const ColoQuestion *q, Error **errp)
{
    error_setg(errp, "there is no arbiter");
    return false;
}

bool colo_arbiter_check(const ColoQuestion *q, Error **errp)
{
    error_setg(errp, "there is no arbiter");
    return false;
}

ColoVerdict colo_arbiter_decide(const ColoQuestion *q, Error **errp)
{
    error_setg(errp, "there is no arbiter");
    return COLO_VERDICT_NOT_KNOWN;
}

void colo_arbiter_arm(void)
{
}

void colo_arbiter_cancel(void)
{
}

ColoArbiterStatus *colo_arbiter_status(void)
{
    return NULL;
}

bool colo_fence_exists(void)
{
    return false;
}

ColoFenceResult colo_fence_run(const ColoQuestion *q, Error **errp)
{
    error_setg(errp, "there is no fence");
    return COLO_FENCE_HOLD;
}

ColoArbiterStatus *colo_fence_status(void)
{
    return NULL;
}
