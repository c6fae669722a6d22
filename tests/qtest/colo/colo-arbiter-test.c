/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: the objects of the arbiter and the fence.
 *
 * Proves: they come and go as any object, but not while a session runs, on
 * either side; there is one of each; wrong options are refused by name; and
 * -sandbox is asked whether a program may run before one is needed.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qstring.h"
#include "colo-helpers.h"

#define FILE_OBJECT "{ 'execute': 'object-add', 'arguments': { " \
                    "'qom-type': 'colo-arbiter-file', 'id': 'arb0', "
#define EXEC_OBJECT "{ 'execute': 'object-add', 'arguments': { " \
                    "'qom-type': 'colo-arbiter-exec', 'id': 'arb1', "
#define FENCE_OBJECT "{ 'execute': 'object-add', 'arguments': { " \
                     "'qom-type': 'colo-fence', 'id': 'fence0', "
#define DEL_ARB0    "{ 'execute': 'object-del', 'arguments': { " \
                    "'id': 'arb0' } }"
#define DEL_FENCE0  "{ 'execute': 'object-del', 'arguments': { " \
                    "'id': 'fence0' } }"

/* Any will do */
#define PROGRAM     "'program': '/bin/true'"

static QTestState *start(const char *options)
{
    return qtest_initf("-machine none -nodefaults %s", options);
}

static void check_property(QTestState *qts, const char *id, const char *name,
                           const char *value)
{
    g_autofree char *path = g_strdup_printf("/objects/%s", id);
    QDict *got = qtest_qmp(qts, "{ 'execute': 'qom-get', 'arguments': { "
                           "'path': %s, 'property': %s } }", path, name);

    g_assert_cmpstr(qdict_get_str(got, "return"), ==, value);
    qobject_unref(got);
}

static void test_add_del(void)
{
    QTestState *qts = start("-object colo-arbiter-file,id=arb0,path=/a/b "
                            "-object colo-fence,id=fence0,program=/bin/true,"
                            "args=x,args=y,on-failure=go-on");
    QDict *args = qtest_qmp(qts, "{ 'execute': 'qom-get', 'arguments': { "
                            "'path': '/objects/fence0', 'property': 'args' } "
                            "}");
    QList *list = qdict_get_qlist(args, "return");

    check_property(qts, "arb0", "path", "/a/b");
    check_property(qts, "arb0", "verdict", "");
    check_property(qts, "fence0", "on-failure", "go-on");
    g_assert_cmpint(qlist_size(list), ==, 2);
    g_assert_cmpstr(qstring_get_str(qobject_to(QString, qlist_peek(list))), ==,
                    "x");
    qobject_unref(args);
    colo_refused(qts, "there is one arbiter already, 'arb0'",
                 EXEC_OBJECT PROGRAM " } }");
    colo_refused(qts, "there is one fence already, 'fence0'",
                 "{ 'execute': 'object-add', 'arguments': { "
                 "'qom-type': 'colo-fence', 'id': 'fence1', " PROGRAM " } }");
    qtest_qmp_assert_success(qts, DEL_ARB0);
    qtest_qmp_assert_success(qts, DEL_FENCE0);
    for (int i = 0; i < 2; i++) {
        qtest_qmp_assert_success(qts, EXEC_OBJECT PROGRAM ", 'args': [ 'a', "
                                 "'b c' ], 'timeout': 100 } }");
        qtest_qmp_assert_success(qts, FENCE_OBJECT PROGRAM " } }");
        check_property(qts, "arb1", "program", "/bin/true");
        check_property(qts, "fence0", "on-failure", "hold");
        qtest_qmp_assert_success(qts, DEL_FENCE0);
        qtest_qmp_assert_success(qts, "{ 'execute': 'object-del', "
                                 "'arguments': { 'id': 'arb1' } }");
    }
    qtest_quit(qts);
}

static void test_errors(void)
{
    QTestState *qts = start("");

    colo_refused(qts, "'path' is missing", FILE_OBJECT "'timeout': 100 } }");
    colo_refused(qts, "'path' is 'a/b', it has to be the absolute path",
                 FILE_OBJECT "'path': 'a/b' } }");
    colo_refused(qts, "'timeout' is 99, it has to be between 100 and 3600000",
                 FILE_OBJECT "'path': '/a', 'timeout': 99 } }");
    colo_refused(qts, "'program' is missing", EXEC_OBJECT "'args': [] } }");
    colo_refused(qts, "'program' is 'true', it has to be the absolute path",
                 EXEC_OBJECT "'program': 'true' } }");
    colo_refused(qts, "'/a/b', which cannot be run: No such file",
                 EXEC_OBJECT "'program': '/a/b' } }");
    colo_refused(qts, "'/etc/passwd', which cannot be run: Permission denied",
                 FENCE_OBJECT "'program': '/etc/passwd' } }");
    colo_refused(qts, "does not accept value 'die'",
                 FENCE_OBJECT PROGRAM ", 'on-failure': 'die' } }");
    colo_refused(qts, "does not accept value 'colo-arbiter'",
                 "{ 'execute': 'object-add', 'arguments': { "
                 "'qom-type': 'colo-arbiter', 'id': 'arb0' } }");

    /* Nothing of that is left */
    qtest_qmp_assert_success(qts, FILE_OBJECT "'path': '/a' } }");
    qtest_quit(qts);
}

static void check_stays(QTestState *qts)
{
    colo_refused(qts, "'arb0' is in use", DEL_ARB0);
    colo_refused(qts, "no fence can be added while a COLO session runs",
                 FENCE_OBJECT PROGRAM " } }");
}

static void check_goes(QTestState *qts)
{
    colo_wait_mode(qts, "none");
    qtest_qmp_assert_success(qts, FENCE_OBJECT PROGRAM " } }");
    qtest_qmp_assert_success(qts, DEL_ARB0);
}

static void test_session(const void *mode)
{
    g_autofree char *dir = g_dir_make_tmp("colo-arbiter-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "record", NULL);
    g_autofree char *away = g_build_filename(dir, "away", NULL);
    g_autofree char *object = g_strdup_printf("-object colo-arbiter-file,"
                                              "id=arb0,path=%s", path);
    ColoPair *p = colo_pair_new_with(mode, "qtest", object);

    colo_pair_protect(p);
    check_stays(p->primary);
    check_stays(p->secondary);

    /* Lost, it is needed most */
    g_assert_cmpint(rename(path, away), ==, 0);
    colo_cut(p);
    colo_wait_state(p->primary, "lost");
    colo_wait_state(p->secondary, "lost");
    check_stays(p->primary);
    check_stays(p->secondary);
    g_assert_cmpint(rename(away, path), ==, 0);
    check_goes(p->secondary);
    check_goes(p->primary);
    colo_pair_free(p);
    unlink(path);
    rmdir(dir);
}

#ifdef CONFIG_SECCOMP
static void check_sandbox(const char *options, const char *text)
{
    QTestState *qts = start(options);

    if (text) {
        colo_refused(qts, text, EXEC_OBJECT PROGRAM " } }");
        colo_refused(qts, text, FENCE_OBJECT PROGRAM " } }");
    } else {
        qtest_qmp_assert_success(qts, EXEC_OBJECT PROGRAM " } }");
        qtest_qmp_assert_success(qts, "{ 'execute': 'object-del', "
                                 "'arguments': { 'id': 'arb1' } }");
    }
    qtest_qmp_assert_success(qts, FILE_OBJECT "'path': '/a' } }");
    qtest_quit(qts);
}

static void test_sandbox(void)
{
#ifdef __SANITIZE_ADDRESS__
    g_test_skip("the search for leaks is a process, which spawn=deny forbids");
    return;
#endif
    check_sandbox("-sandbox off", NULL);
    check_sandbox("-sandbox on", NULL);
    check_sandbox("-sandbox on,resourcecontrol=deny", NULL);
    check_sandbox("-sandbox on,spawn=deny", "spawn=deny");
    check_sandbox("-sandbox on,elevateprivileges=deny",
                  "elevateprivileges=deny");
    check_sandbox("-sandbox on,elevateprivileges=children",
                  "elevateprivileges=children");
}
#endif

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/arbiter/add-del", test_add_del);
    qtest_add_func("/colo/arbiter/errors", test_errors);
    colo_add("/colo/arbiter", "session", test_session);
#ifdef CONFIG_SECCOMP
    qtest_add_func("/colo/arbiter/sandbox", test_sandbox);
#endif
    return g_test_run();
}
