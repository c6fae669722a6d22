/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: named fault points for tests, set from QMP.
 *
 * Both sides, any thread.  One fault is armed at a time; it fires once, after
 * it was passed @skip times.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-colo.h"
#include "qapi/util.h"
#include "fault.h"
#include "trace.h"

/* Who sends which frame; the other side receives it */
static const struct {
    ColoFrameType type;
    bool from_primary;
} frame_senders[] = {
    { COLO_FRAME_CHECKPOINT_READY },
    { COLO_FRAME_START, .from_primary = true },
    { COLO_FRAME_CHECKPOINT_REQUEST, .from_primary = true },
    { COLO_FRAME_CHECKPOINT_REPLY },
    { COLO_FRAME_VMSTATE_SEND, .from_primary = true },
    { COLO_FRAME_PAGES, .from_primary = true },
    { COLO_FRAME_SECTIONS, .from_primary = true },
    { COLO_FRAME_VMSTATE_SIZE, .from_primary = true },
    { COLO_FRAME_VMSTATE_RECEIVED },
    { COLO_FRAME_VMSTATE_LOADED },
    { COLO_FRAME_HANDOVER, .from_primary = true },
};

/* Each many pages */
static const char *const pages_points[] = {
    [COLO_MODE_PRIMARY] = "copy-pages",
    [COLO_MODE_SECONDARY] = "apply-pages",
};

/* Each step of x-colo-protect */
static const char setup_point[] = "setup-step";

static struct {
    QemuMutex lock;
    QemuCond injected;          /* the next fault is asked for */
    /* Protected by lock */
    char *point;
    ColoFaultAction action;
    uint64_t skip;
    unsigned count;             /* of faults that were asked for */
    const char *hangs;          /* where a thread does, or NULL */
} fault;

static void __attribute__((constructor)) colo_fault_init(void)
{
    qemu_mutex_init(&fault.lock);
    qemu_cond_init(&fault.injected);
}

/* This thread stays here until the next fault is asked for */
static void fault_hang(const char *point)
{
    QEMU_LOCK_GUARD(&fault.lock);
    unsigned count = fault.count;

    fault.hangs = point;
    while (fault.count == count) {
        qemu_cond_wait(&fault.injected, &fault.lock);
    }
    fault.hangs = NULL;
}

static bool fault_hit(const char *point, ColoFaultAction *action)
{
    QEMU_LOCK_GUARD(&fault.lock);

    if (!fault.point || strcmp(fault.point, point)) {
        return false;
    }
    if (fault.skip) {
        fault.skip--;
        return false;
    }
    *action = fault.action;
    g_clear_pointer(&fault.point, g_free);
    return true;
}

static bool fault_pass(const char *point, Error **errp)
{
    ColoFaultAction action;

    if (!fault_hit(point, &action)) {
        return true;
    }
    trace_colo_fault(point, ColoFaultAction_str(action));
    switch (action) {
    case COLO_FAULT_ACTION_KILL:
        kill(getpid(), SIGKILL);
        break;
    case COLO_FAULT_ACTION_STALL:
        raise(SIGSTOP); /* this thread at once, and all others */
        break;
    case COLO_FAULT_ACTION_HANG:
        fault_hang(point);
        break;
    case COLO_FAULT_ACTION_ERROR:
        error_setg(errp, "injected fault at '%s'", point);
        return false;
    default:
        g_assert_not_reached();
    }
    return true;
}

static char *frame_point(COLOMode side, bool send, ColoFrameType type)
{
    return g_strdup_printf("%s-%s-%s", COLOMode_str(side),
                           send ? "send" : "recv", colo_frame_name(type));
}

bool colo_fault_frame(COLOMode side, bool send, ColoFrameType type,
                      Error **errp)
{
    g_autofree char *point = frame_point(side, send, type);

    return fault_pass(point, errp);
}

void colo_fault_state(COLOMode side, const char *state)
{
    g_autofree char *point = g_strdup_printf("%s-state-%s",
                                             COLOMode_str(side), state);

    fault_pass(point, NULL);
}

bool colo_fault_alloc(Error **errp)
{
    return fault_pass("staging-alloc", errp);
}

void colo_fault_pages(COLOMode side)
{
    fault_pass(pages_points[side], NULL);
}

bool colo_fault_setup(Error **errp)
{
    return fault_pass(setup_point, errp);
}

static ColoFaultPoint *new_point(char *name)
{
    ColoFaultPoint *p = g_new0(ColoFaultPoint, 1);

    p->name = name;
    WITH_QEMU_LOCK_GUARD(&fault.lock) {
        p->hangs = fault.hangs && g_str_equal(fault.hangs, name);
    }
    return p;
}

ColoFaultPointList *qmp_query_colo_fault_points(Error **errp)
{
    ColoFaultPointList *head = NULL, **tail = &head;

    for (int i = 0; i < ARRAY_SIZE(frame_senders); i++) {
        ColoFrameType t = frame_senders[i].type;
        bool p = frame_senders[i].from_primary;

        QAPI_LIST_APPEND(tail, new_point(frame_point(COLO_MODE_PRIMARY, p,
                                                     t)));
        QAPI_LIST_APPEND(tail, new_point(frame_point(COLO_MODE_SECONDARY, !p,
                                                     t)));
    }
    for (int i = 0; i < COLO_PRIMARY_STATE__MAX; i++) {
        QAPI_LIST_APPEND(tail, new_point(
            g_strdup_printf("primary-state-%s", ColoPrimaryState_str(i))));
    }
    for (int i = 0; i < COLO_SECONDARY_STATE__MAX; i++) {
        QAPI_LIST_APPEND(tail, new_point(
            g_strdup_printf("secondary-state-%s", ColoSecondaryState_str(i))));
    }
    QAPI_LIST_APPEND(tail, new_point(g_strdup("staging-alloc")));
    QAPI_LIST_APPEND(tail, new_point(g_strdup(setup_point)));
    QAPI_LIST_APPEND(tail, new_point(g_strdup(
        pages_points[COLO_MODE_PRIMARY])));
    QAPI_LIST_APPEND(tail, new_point(g_strdup(
        pages_points[COLO_MODE_SECONDARY])));
    return head;
}

void qmp_x_colo_fault_inject(const char *point, ColoFaultAction action,
                             bool has_skip, uint32_t skip, Error **errp)
{
    g_autoptr(ColoFaultPointList) points = qmp_query_colo_fault_points(NULL);
    ColoFaultPointList *p = points;

    while (p && strcmp(p->value->name, point)) {
        p = p->next;
    }
    if (!p) {
        error_setg(errp, "there is no fault point '%s', see "
                   "query-colo-fault-points", point);
        return;
    }
    if ((action == COLO_FAULT_ACTION_ERROR ||
         action == COLO_FAULT_ACTION_HANG) && strstr(point, "-state-")) {
        error_setg(errp, "fault point '%s' is a state: it can kill or stall, "
                   "not fail or hang", point);
        return;
    }

    if (action == COLO_FAULT_ACTION_ERROR &&
        (g_str_equal(point, pages_points[COLO_MODE_PRIMARY]) ||
         g_str_equal(point, pages_points[COLO_MODE_SECONDARY]))) {
        error_setg(errp, "fault point '%s' cannot fail", point);
        return;
    }

    QEMU_LOCK_GUARD(&fault.lock);
    g_free(fault.point);
    fault.point = g_strdup(point);
    fault.action = action;
    fault.skip = has_skip ? skip : 0;
    fault.count++;
    qemu_cond_broadcast(&fault.injected);
}
