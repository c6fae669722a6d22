/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: for tests of arbiters and fences.
 */

#include "qemu/osdep.h"
#include "qemu/module.h"
#include "qapi/error.h"
#include "qom/object_interfaces.h"
#include "migration/colo/session.h"
#include "colo-arbiter-util.h"

bool util_session_runs;
static char *folder;

bool colo_session_active(COLOMode side)
{
    return util_session_runs;
}

ColoQuestion util_question(unsigned n, COLOMode side)
{
    ColoQuestion q = { .side = side, .generation = n, .epoch = 7 };

    stl_be_p(&q.session.data[12], n);
    q.session.data[0] = 0xc0;
    return q;
}

/* In memory if that is possible, as some tests flush it thousands of times */
const char *util_folder(void)
{
    if (!folder) {
        const char *top = access("/dev/shm", W_OK) ? g_get_tmp_dir()
                                                   : "/dev/shm";
        g_autofree char *template = g_build_filename(top, "colo-arbiter-XXXXXX",
                                                     NULL);

        g_assert_nonnull(g_mkdtemp(template));
        folder = g_strdup_printf("%s/", template);
    }
    return folder;
}

char *util_path(const char *name)
{
    return g_strdup_printf("%s%s", util_folder(), name);
}

void util_exit(void)
{
    GDir *dir = folder ? g_dir_open(folder, 0, NULL) : NULL;
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = util_path(name);

        unlink(path);
    }
    if (dir) {
        g_dir_close(dir);
        rmdir(folder);
    }
    g_clear_pointer(&folder, g_free);
}

void util_init(void)
{
    module_call_init(MODULE_INIT_QOM);
}

static bool add(const char *type, va_list args, Error **errp)
{
    Object *obj = object_new_with_propv(type, object_get_objects_root(),
                                        "obj0", errp, args);

    return obj;
}

void util_add(const char *type, ...)
{
    va_list args;

    va_start(args, type);
    g_assert_true(add(type, args, &error_abort));
    va_end(args);
}

void util_not_added(const char *text, const char *type, ...)
{
    g_autoptr(Error) err = NULL;
    va_list args;

    va_start(args, type);
    g_assert_false(add(type, args, &err));
    va_end(args);
    g_test_message("%s", error_get_pretty(err));
    g_assert_nonnull(strstr(error_get_pretty(err), text));
}

bool util_del(void)
{
    return user_creatable_del("obj0", NULL);
}

static void check_error(const Error *err, const char *text)
{
    if (!text) {
        g_assert_null(err);
        return;
    }
    g_assert_nonnull(err);
    g_test_message("%s", error_get_pretty(err));
    g_assert_nonnull(strstr(error_get_pretty(err), text));
}

void util_decide(const ColoQuestion *q, ColoVerdict verdict, const char *text)
{
    g_autoptr(Error) err = NULL;
    ColoVerdict got = colo_arbiter_decide(q, &err);

    check_error(err, text);
    g_assert_cmpstr(ColoVerdict_str(got), ==, ColoVerdict_str(verdict));
    g_assert_true((verdict == COLO_VERDICT_NOT_KNOWN) == (text != NULL));
}

void util_begin(const ColoQuestion *q, const char *text)
{
    g_autoptr(Error) err = NULL;
    bool ok = colo_arbiter_begin(q, &err);

    check_error(err, text);
    g_assert_true(ok == (text == NULL));
}

void util_check(const ColoQuestion *q, const char *text)
{
    g_autoptr(Error) err = NULL;
    bool ok = colo_arbiter_check(q, &err);

    check_error(err, text);
    g_assert_true(ok == (text == NULL));
}
