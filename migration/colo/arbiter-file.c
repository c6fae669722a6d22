/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: colo-arbiter-file, a record on storage that both hosts reach
 * (arbiter-record.c) decides.  Both sides.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "arbiter.h"
#include "arbiter-record.h"

#define TYPE_COLO_ARBITER_FILE "colo-arbiter-file"
OBJECT_DECLARE_SIMPLE_TYPE(ColoArbiterFile, COLO_ARBITER_FILE)

struct ColoArbiterFile {
    ColoDecider parent_obj;

    /* Set once */
    char *path;
};

static bool file_wait(void *opaque, int ms)
{
    return colo_ask_wait(opaque, ms);
}

static ColoVerdict file_answer(ColoDecider *d, ColoAsk *ask, Error **errp)
{
    return colo_record_ask(COLO_ARBITER_FILE(d)->path, colo_ask_request(ask),
                           colo_ask_question(ask), file_wait, ask, errp);
}

static bool file_check(ColoDecider *d, Error **errp)
{
    const char *path = COLO_ARBITER_FILE(d)->path;

    if (!path || !g_path_is_absolute(path)) {
        error_setg(errp, "Parameter 'path' is '%s', it has to be the absolute "
                   "path of a file", path ?: "");
        return false;
    }
    if (!qemu_has_ofd_lock()) {
        error_setg(errp, "this host has no locks of open files "
                   "(F_OFD_SETLK)");
        return false;
    }
    return true;
}

static char *file_get_path(Object *obj, Error **errp)
{
    return g_strdup(COLO_ARBITER_FILE(obj)->path);
}

static void file_set_path(Object *obj, const char *value, Error **errp)
{
    ColoArbiterFile *f = COLO_ARBITER_FILE(obj);

    if (COLO_DECIDER(obj)->id) {
        error_setg(errp, "Parameter 'path' cannot be changed any more");
        return;
    }
    g_free(f->path);
    f->path = g_strdup(value);
}

static void file_finalize(Object *obj)
{
    g_free(COLO_ARBITER_FILE(obj)->path);
}

static void file_class_init(ObjectClass *oc, void *data)
{
    ColoDeciderClass *dc = COLO_DECIDER_CLASS(oc);

    dc->check = file_check;
    dc->answer = file_answer;
    object_class_property_add_str(oc, "path", file_get_path, file_set_path);
}

static const TypeInfo file_info = {
    .name = TYPE_COLO_ARBITER_FILE,
    .parent = TYPE_COLO_ARBITER,
    .class_init = file_class_init,
    .instance_size = sizeof(ColoArbiterFile),
    .instance_finalize = file_finalize,
};

static void file_register_types(void)
{
    type_register_static(&file_info);
}

type_init(file_register_types);
