/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: an arbiter is asked, which is a file here.
 *
 * Proves: whoever asks waits no longer than the timeout, whatever hangs, and
 * not even that when it is cancelled; the late answer of what hung is not lost;
 * there is one arbiter, and it stays while somebody needs it.
 */

#include "qemu/osdep.h"
#include <sys/syscall.h>
#include <sys/wait.h>
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "qapi/error.h"
#include "colo-arbiter-util.h"

#define TYPE "colo-arbiter-file"

/* Of an arbiter that shall not answer, and of one that shall, in ms */
#define SHORT_MS    1500
#define LONG_MS     "60000"

/* An answer that is not waited for comes much sooner than LONG_MS */
#define SOON_US     (10 * G_USEC_PER_SEC)

#define P COLO_MODE_PRIMARY
#define S COLO_MODE_SECONDARY

/* Storage that hangs when something has been written */
static struct {
    QemuMutex lock;
    QemuCond changed;
    /* lock */
    bool on;
    unsigned hanging;           /* threads */
} hang;

/* In place of the C library's */
int fsync(int fd)
{
    WITH_QEMU_LOCK_GUARD(&hang.lock) {
        hang.hanging++;
        qemu_cond_broadcast(&hang.changed);
        while (hang.on) {
            qemu_cond_wait(&hang.changed, &hang.lock);
        }
        hang.hanging--;
        qemu_cond_broadcast(&hang.changed);
    }
    return syscall(SYS_fsync, fd);
}

static void set_hang(bool on)
{
    QEMU_LOCK_GUARD(&hang.lock);

    hang.on = on;
    qemu_cond_broadcast(&hang.changed);
}

static void wait_hanging(unsigned n)
{
    QEMU_LOCK_GUARD(&hang.lock);

    while (hang.hanging != n) {
        qemu_cond_wait(&hang.changed, &hang.lock);
    }
}

static char *new_path(void)
{
    char *path = util_path("record");

    unlink(path);
    return path;
}

/* What the object's property @name says */
static void check_property(const char *name, const char *text)
{
    Object *obj = object_resolve_path("/objects/obj0", NULL);
    g_autofree char *value = object_property_print(obj, name, false,
                                                   &error_abort);

    if (*text ? !strstr(value, text) : *value) {
        g_error("%s is %s, not %s", name, value, text);
    }
}

static void test_decide(void)
{
    g_autofree char *path = new_path();
    ColoQuestion p = util_question(1, P), s = util_question(1, S);
    g_autoptr(ColoArbiterStatus) st = NULL;

    g_assert_false(colo_arbiter_exists());
    g_assert_null(colo_arbiter_status());
    util_decide(&p, COLO_VERDICT_NOT_KNOWN, "nobody to ask");
    util_add(TYPE, "path", path, NULL);
    g_assert_true(colo_arbiter_exists());
    check_property("verdict", "");
    util_decide(&s, COLO_VERDICT_NOT_KNOWN, "No such file");
    check_property("error", "No such file");
    util_begin(&p, NULL);
    util_check(&s, NULL);
    check_property("verdict", "not-known");
    check_property("error", "");
    util_decide(&s, COLO_VERDICT_WON, NULL);
    util_decide(&p, COLO_VERDICT_LOST, NULL);
    util_begin(&p, "has been decided");

    st = colo_arbiter_status();
    g_assert_cmpstr(st->id, ==, "obj0");
    g_assert_cmpstr(st->type, ==, TYPE);
    g_assert_cmpuint(st->asked, ==, 6);
    g_assert_true(st->has_verdict);
    g_assert_cmpint(st->verdict, ==, COLO_VERDICT_LOST);
    g_assert_nonnull(strstr(st->error, "has been decided"));
    check_property("asked", "6");
    check_property("verdict", "lost");
    g_assert_true(util_del());
    g_assert_false(colo_arbiter_exists());
}

static void test_options(void)
{
    g_autofree char *path = new_path();

    util_not_added("'path' is ''", TYPE, NULL);
    util_not_added("absolute", TYPE, "path", "record", NULL);
    util_not_added("between 100 and 3600000", TYPE, "path", path, "timeout",
                   "99", NULL);
    util_not_added("between", TYPE, "path", path, "timeout", "3600001", NULL);
    util_add(TYPE, "path", path, "timeout", "100", NULL);
    check_property("timeout", "100");

    /* Not afterwards, and not a second one */
    {
        Object *obj = object_resolve_path("/objects/obj0", NULL);
        g_autoptr(Error) err = NULL;

        g_assert_false(object_property_set_str(obj, "path", "/x", &err));
        g_assert_nonnull(err);
        g_assert_false(object_property_set_int(obj, "timeout", 200, NULL));
        check_property("path", path);
        g_assert_null(object_new_with_props(TYPE, object_get_objects_root(),
                                            "obj1", NULL, "path", path, NULL));
    }
    g_assert_true(util_del());
    util_add(TYPE, "path", path, NULL);
    check_property("timeout", "5000");
    g_assert_true(util_del());
}

static void test_session(void)
{
    g_autofree char *path = new_path();

    util_session_runs = true;
    util_not_added("while a COLO session runs", TYPE, "path", path, NULL);
    util_session_runs = false;
    util_add(TYPE, "path", path, NULL);
    util_session_runs = true;
    g_assert_false(util_del());
    g_assert_true(colo_arbiter_exists());
    util_session_runs = false;
    g_assert_true(util_del());
}

/* A thread that is about to end has the old object still */
static void test_replace(void)
{
    g_autofree char *path = new_path();
    ColoDecider *old;

    util_add(TYPE, "path", path, NULL);
    old = colo_decider_get(COLO_DECIDER_ARBITER);
    g_assert_true(util_del());
    g_assert_false(colo_arbiter_exists());
    util_add(TYPE, "path", path, NULL);
    object_unref(OBJECT(old));
    g_assert_true(colo_arbiter_exists());
    g_assert_true(util_del());
}

/* Microseconds that the caller has waited since @begin */
static gint64 since(gint64 begin)
{
    return g_get_monotonic_time() - begin;
}

/* Storage hangs with the claim written: not known, and this side has won */
static void test_hang(void)
{
    g_autofree char *path = new_path();
    ColoQuestion p = util_question(1, P), s = util_question(1, S);
    gint64 begin;

    util_add(TYPE, "path", path, "timeout", stringify(SHORT_MS), NULL);
    util_begin(&p, NULL);
    set_hang(true);
    begin = g_get_monotonic_time();
    util_decide(&s, COLO_VERDICT_NOT_KNOWN, "no answer within 1500 ms");
    g_assert_cmpint(since(begin), >=, SHORT_MS * 1000);
    g_assert_cmpint(since(begin), <, SOON_US);
    wait_hanging(1);

    /* No second thread begins beside it, nor may the object go */
    begin = g_get_monotonic_time();
    util_decide(&s, COLO_VERDICT_NOT_KNOWN, "an earlier question");
    g_assert_cmpint(since(begin), <, SOON_US);
    wait_hanging(1);
    g_assert_false(util_del());

    set_hang(false);
    wait_hanging(0);
    util_decide(&p, COLO_VERDICT_LOST, NULL);
    util_decide(&s, COLO_VERDICT_WON, NULL);
    util_wait(util_del());
}

/* The same when a session begins: it has not, and can once more */
static void test_hang_begin(void)
{
    g_autofree char *path = new_path();
    ColoQuestion p = util_question(1, P), next = util_question(2, P);

    util_add(TYPE, "path", path, "timeout", stringify(SHORT_MS), NULL);
    util_begin(&p, NULL);
    set_hang(true);
    util_begin(&next, "no answer");
    wait_hanging(1);
    set_hang(false);
    wait_hanging(0);
    util_decide(&p, COLO_VERDICT_LOST, NULL);
    util_begin(&next, NULL);
    util_decide(&next, COLO_VERDICT_WON, NULL);
    util_wait(util_del());
}

typedef struct Asker {
    ColoQuestion question;
    const char *error;
    gint64 us;
} Asker;

static void *run_asker(void *opaque)
{
    Asker *a = opaque;
    gint64 begin = g_get_monotonic_time();

    util_decide(&a->question, COLO_VERDICT_NOT_KNOWN, a->error);
    a->us = since(begin);
    return NULL;
}

static void test_cancel(void)
{
    g_autofree char *path = new_path();
    Asker a = { util_question(1, S), "cancelled" };
    QemuThread thread;

    util_add(TYPE, "path", path, "timeout", LONG_MS, NULL);
    util_begin(&a.question, NULL);

    /* Nobody asks: it is not for those that come */
    colo_arbiter_cancel();

    for (int i = 0; i < 2; i++) {
        /* The second one waits for the first one's thread */
        set_hang(true);
        colo_arbiter_arm();
        qemu_thread_create(&thread, "asker", run_asker, &a,
                           QEMU_THREAD_JOINABLE);
        wait_hanging(1);
        colo_arbiter_cancel();
        qemu_thread_join(&thread);
        g_assert_cmpint(a.us, <, SOON_US);
        if (i) {
            set_hang(false);
            wait_hanging(0);
        }
    }
    util_decide(&a.question, COLO_VERDICT_WON, NULL);
    util_wait(util_del());
}

static void test_arm(void)
{
    g_autofree char *path = new_path();
    ColoQuestion s = util_question(1, S);

    util_add(TYPE, "path", path, "timeout", LONG_MS, NULL);
    util_begin(&s, NULL);
    colo_arbiter_arm();
    colo_arbiter_cancel();
    util_decide(&s, COLO_VERDICT_NOT_KNOWN, "cancelled");
    util_decide(&s, COLO_VERDICT_WON, NULL);
    colo_arbiter_arm();
    colo_arbiter_cancel();
    colo_arbiter_arm();
    util_decide(&s, COLO_VERDICT_WON, NULL);
    colo_arbiter_cancel();
    util_decide(&s, COLO_VERDICT_WON, NULL);
    util_wait(util_del());
}

/* Another process stands still, in the midst of its question */
static void test_stopped_peer(void)
{
    g_autofree char *path = new_path();
    ColoQuestion s = util_question(1, S);
    struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    gint64 begin;
    int status;
    pid_t pid;
    int fd;

    util_add(TYPE, "path", path, "timeout", stringify(SHORT_MS), NULL);
    util_begin(&s, NULL);
    fd = open(path, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(fcntl(fd, F_OFD_SETLK, &l), ==, 0);
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (!pid) {
        /* It has the lock by a copy of @fd */
        raise(SIGSTOP);
        _exit(0);
    }
    close(fd);
    g_assert_cmpint(waitpid(pid, &status, WUNTRACED), ==, pid);
    g_assert_true(WIFSTOPPED(status));

    begin = g_get_monotonic_time();
    util_decide(&s, COLO_VERDICT_NOT_KNOWN, "locked");
    g_assert_cmpint(since(begin), >=, SHORT_MS * 1000);
    g_assert_cmpint(since(begin), <, SOON_US);

    /* The thread has given up, and does not win when it is too late */
    kill(pid, SIGCONT);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    util_wait(util_del());
    util_add(TYPE, "path", path, NULL);
    s.side = P;
    util_decide(&s, COLO_VERDICT_WON, NULL);
    g_assert_true(util_del());
}

int main(int argc, char **argv)
{
    int ret;

    qemu_mutex_init(&hang.lock);
    qemu_cond_init(&hang.changed);
    g_test_init(&argc, &argv, NULL);
    util_init();
    g_test_add_func("/colo/arbiter/file/decide", test_decide);
    g_test_add_func("/colo/arbiter/file/options", test_options);
    g_test_add_func("/colo/arbiter/file/session", test_session);
    g_test_add_func("/colo/arbiter/file/replace", test_replace);
    g_test_add_func("/colo/arbiter/file/hang", test_hang);
    g_test_add_func("/colo/arbiter/file/hang-begin", test_hang_begin);
    g_test_add_func("/colo/arbiter/file/cancel", test_cancel);
    g_test_add_func("/colo/arbiter/file/arm", test_arm);
    g_test_add_func("/colo/arbiter/file/stopped-peer", test_stopped_peer);
    ret = g_test_run();
    util_exit();
    return ret;
}
