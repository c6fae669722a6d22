/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO setup: steps, but for those of disks.  Main loop, BQL; see steps.h.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-char.h"
#include "qapi/qapi-commands-migration.h"
#include "qapi/qapi-commands-qom.h"
#include "qapi/qapi-visit-char.h"
#include "qapi/qapi-visit-qom.h"
#include "qapi/qobject-input-visitor.h"
#include "qapi/util.h"
#include "qobject/qjson.h"
#include "chardev/char.h"
#include "migration/options.h"
#include "qom/object.h"
#include "../fault.h"
#include "../params.h"
#include "../trace.h"
#include "steps.h"

/* Between attempts to connect a stream */
#define RECONNECT_MS 1000

bool colo_step_may_begin(Error **errp)
{
    return colo_fault_setup(errp);
}

ColoStep *colo_step_done(ColoSteps *steps, ColoSetupStepKind kind,
                         const char *name, ColoStepUndo *undo)
{
    ColoStep *step = g_new0(ColoStep, 1);

    step->kind = kind;
    step->name = g_strdup(name);
    step->undo = undo;
    QTAILQ_INSERT_TAIL(steps, step, next);
    trace_colo_setup_step(ColoSetupStepKind_str(kind), name);
    return step;
}

static void free_step(ColoStep *step)
{
    g_free(step->other);
    g_free(step->name);
    g_free(step);
}

bool colo_steps_undo(ColoSteps *steps, Error **errp)
{
    ColoStep *step, *before;
    bool ok = true;

    QTAILQ_FOREACH_REVERSE_SAFE(step, steps, next, before) {
        Error *err = NULL;

        if (step->undo(step, &err)) {
            trace_colo_setup_undo(ColoSetupStepKind_str(step->kind),
                                  step->name);
            QTAILQ_REMOVE(steps, step, next);
            free_step(step);
        } else if (ok) {
            ok = false;
            error_propagate(errp, err);
        } else {
            error_free(err);
        }
    }
    return ok;
}

void colo_steps_move(ColoSteps *to, ColoSteps *from)
{
    ColoStep *step;

    while ((step = QTAILQ_FIRST(from))) {
        QTAILQ_REMOVE(from, step, next);
        QTAILQ_INSERT_TAIL(to, step, next);
    }
}

ColoSetupStepList *colo_steps_query(const ColoSteps *steps)
{
    ColoSetupStepList *list = NULL, **tail = &list;
    ColoStep *step;

    QTAILQ_FOREACH(step, steps, next) {
        ColoSetupStep *s = g_new0(ColoSetupStep, 1);

        s->kind = step->kind;
        s->name = g_strdup(step->name);
        QAPI_LIST_APPEND(tail, s);
    }
    return list;
}

static bool undo_chardev(ColoStep *step, Error **errp)
{
    ERRP_GUARD();

    if (qemu_chr_find(step->name)) {
        qmp_chardev_remove(step->name, errp);
    }
    return !*errp;
}

bool colo_step_chardev(ColoSteps *steps, const char *id, const char *host,
                       uint16_t port, bool listen, Error **errp)
{
    g_autofree char *service = g_strdup_printf("%u", port);
    QDict *options = qdict_from_jsonf_nofail(
        "{'type': 'socket', 'data': {'addr': {'type': 'inet', 'data': {"
        "'host': %s, 'port': %s}}, 'server': %i, 'nodelay': true}}",
        host, service, listen);
    g_autoptr(ChardevBackend) backend = NULL;
    g_autoptr(ChardevReturn) ret = NULL;
    QDict *data = qdict_get_qdict(options, "data");
    Visitor *v;

    if (!colo_step_may_begin(errp)) {
        qobject_unref(options);
        return false;
    }
    if (listen) {
        qdict_put_bool(data, "wait", false);
    } else {
        qdict_put_int(data, "reconnect-ms", RECONNECT_MS);
    }
    v = qobject_input_visitor_new(QOBJECT(options));
    visit_type_ChardevBackend(v, NULL, &backend, &error_abort);
    visit_free(v);
    qobject_unref(options);
    ret = qmp_chardev_add(id, backend, errp);
    if (!ret) {
        return false;
    }
    colo_step_done(steps, COLO_SETUP_STEP_KIND_CHARDEV, id, undo_chardev);
    return true;
}

static bool undo_filter(ColoStep *step, Error **errp)
{
    ERRP_GUARD();
    Object *obj = object_resolve_path_component(object_get_objects_root(),
                                                step->name);
    uint64_t flows;

    if (!obj) {
        return true;
    }
    flows = object_dynamic_cast(obj, "filter-rewriter")
            ? object_property_get_uint(obj, "open-flows", NULL) : 0;
    if (flows) {
        error_setg(errp, "filter-rewriter '%s' has to stay: clients know %"
                   PRIu64 " connections by the numbers that it writes",
                   step->name, flows);
        return false;
    }
    qmp_object_del(step->name, errp);
    return !*errp;
}

bool colo_step_filter(ColoSteps *steps, const char *id, QDict *options,
                      Error **errp)
{
    ERRP_GUARD();
    g_autoptr(ObjectOptions) object = NULL;
    Visitor *v;

    if (!colo_step_may_begin(errp)) {
        qobject_unref(options);
        return false;
    }
    qdict_put_str(options, "id", id);
    v = qobject_input_visitor_new(QOBJECT(options));
    visit_type_ObjectOptions(v, NULL, &object, errp);
    visit_free(v);
    qobject_unref(options);
    if (!object) {
        return false;
    }
    qmp_object_add(object, errp);
    if (*errp) {
        return false;
    }
    colo_step_done(steps, COLO_SETUP_STEP_KIND_FILTER, id, undo_filter);
    return true;
}

static bool set_capability(bool on, Error **errp)
{
    ERRP_GUARD();
    MigrationCapabilityStatus status = {
        .capability = MIGRATION_CAPABILITY_X_COLO, .state = on,
    };
    MigrationCapabilityStatusList list = { .value = &status };

    qmp_migrate_set_capabilities(&list, errp);
    return !*errp;
}

static bool undo_capability(ColoStep *step, Error **errp)
{
    return set_capability(step->was, errp);
}

bool colo_step_capability(ColoSteps *steps, Error **errp)
{
    bool was = migrate_colo();

    if (!colo_step_may_begin(errp) || !set_capability(true, errp)) {
        return false;
    }
    colo_step_done(steps, COLO_SETUP_STEP_KIND_CAPABILITY, "x-colo",
                   undo_capability)->was = was;
    return true;
}

static bool set_mode(ColoSyncMode mode, Error **errp)
{
    ERRP_GUARD();
    MigrateSetParameters params = {
        .has_x_colo_mode = true, .x_colo_mode = mode,
    };

    qmp_migrate_set_parameters(&params, errp);
    return !*errp;
}

static bool undo_mode(ColoStep *step, Error **errp)
{
    return set_mode(step->value, errp);
}

bool colo_step_mode(ColoSteps *steps, ColoSyncMode mode, Error **errp)
{
    ColoSyncMode was = migrate_colo_mode();

    if (!colo_step_may_begin(errp) || !set_mode(mode, errp)) {
        return false;
    }
    colo_step_done(steps, COLO_SETUP_STEP_KIND_PARAMETER, "x-colo-mode",
                   undo_mode)->value = was;
    return true;
}
