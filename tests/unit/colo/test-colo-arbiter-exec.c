/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: programs that are asked: colo-arbiter-exec and colo-fence.
 *
 * Proves: what an exit status, a signal or the end of the time means; what the
 * program is told and how; that it has nothing else of QEMU, file descriptors,
 * signals and zombies; and that nothing of its process group is left after the
 * timeout, or a cancel.
 */

#include "qemu/osdep.h"
#include <sys/resource.h>
#include <sys/wait.h>
#include "qemu/thread.h"
#include "qapi/error.h"
#include "qom/object_interfaces.h"
#include "migration/colo/fence.h"
#include "colo-arbiter-util.h"

#define TYPE "colo-arbiter-exec"

#define SHORT_MS    400
#define SOON_US     (10 * G_USEC_PER_SEC)

#define P COLO_MODE_PRIMARY
#define S COLO_MODE_SECONDARY

/* A script, of @text */
static char *script(const char *text)
{
    char *path = util_path("program");
    g_autofree char *all = g_strdup_printf("#!/bin/sh\n%s\n", text);

    unlink(path);
    g_assert_true(g_file_set_contents_full(path, all, -1, 0, 0700, NULL));
    return path;
}

static void add_script(const char *type, const char *text, const char *timeout)
{
    g_autofree char *path = script(text);

    util_add(type, "program", path, "timeout", timeout, NULL);
}

/* No child is left, not even as a zombie */
static void check_no_child(void)
{
    g_assert_cmpint(waitpid(-1, NULL, WNOHANG), ==, -1);
    g_assert_cmpint(errno, ==, ECHILD);
}

static void del(void)
{
    check_no_child();
    util_wait(util_del());
}

static void test_status(void)
{
    ColoQuestion s = util_question(1, S);

    add_script(TYPE, "exit 0", "60000");
    util_begin(&s, NULL);
    util_check(&s, NULL);
    util_decide(&s, COLO_VERDICT_WON, NULL);
    del();
    add_script(TYPE, "echo $1 >&2; exit 3", "60000");
    util_begin(&s, "3: begin");
    util_check(&s, "3: check");
    util_decide(&s, COLO_VERDICT_NOT_KNOWN, "3: decide");
    del();
    add_script(TYPE, "echo no >&2; exit 1", "60000");
    util_begin(&s, "exited with status 1: no");
    util_check(&s, "exited with status 1: no");
    util_decide(&s, COLO_VERDICT_LOST, NULL);
    del();
    for (int i = 2; i < 256; i += i < 10 ? 1 : 49) {
        g_autofree char *text = g_strdup_printf("exit %d", i);
        g_autofree char *why = g_strdup_printf("exited with status %d", i);

        add_script(TYPE, text, "60000");
        util_decide(&s, COLO_VERDICT_NOT_KNOWN, why);
        del();
    }
    add_script(TYPE, "kill -SEGV $$", "60000");
    util_decide(&s, COLO_VERDICT_NOT_KNOWN, "signal 11 (Segmentation fault)");
    del();
}

/* What it wrote to stderr last */
static void test_reason(void)
{
    static const struct {
        const char *text;
        const char *why;
    } tests[] = {
        { "exit 2", "exited with status 2" },
        { "echo >&2; exit 2", "exited with status 2" },
        { "echo out; echo one >&2; echo two >&2; exit 2", "status 2: two" },
        { "echo one >&2; printf two >&2; exit 2", "status 2: two" },
        { "echo two >&2; echo >&2; exit 2", "status 2: two" },
        { "printf 'a\\033[1m\\tb\\377c\\n' >&2; exit 2",
          "status 2: a [1m b\xef\xbf\xbd""c" },
        /* More than a pipe holds */
        { "yes 0123456789 | head -c 1100000 >&2; echo end >&2; exit 2",
          "status 2: end" },
        /* A line that is too long: its end */
        { "yes x | head -c 100000 | tr -d '\\n' >&2; echo end >&2; exit 2",
          "xxxxend" },
        /* Others that are left behind do not count */
        { "(sleep 30; echo late >&2) & echo now >&2; exit 2",
          "status 2: now" },
    };
    ColoQuestion s = util_question(1, S);

    for (int i = 0; i < ARRAY_SIZE(tests); i++) {
        gint64 begin = g_get_monotonic_time();

        add_script(TYPE, tests[i].text, "60000");
        util_decide(&s, COLO_VERDICT_NOT_KNOWN, tests[i].why);
        g_assert_cmpint(g_get_monotonic_time() - begin, <, SOON_US);
        del();
    }
}

static void test_not_run(void)
{
    g_autofree char *path = util_path("program");
    ColoQuestion s = util_question(1, S);

    unlink(path);
    util_not_added("'program' is ''", TYPE, NULL);
    util_not_added("absolute", TYPE, "program", "sh", NULL);
    util_not_added("No such file", TYPE, "program", path, NULL);
    g_assert_true(g_file_set_contents_full(path, "x\n", -1, 0, 0600, NULL));
    util_not_added("Permission denied", TYPE, "program", path, NULL);

    chmod(path, 0700);
    util_add(TYPE, "program", path, NULL);
    util_decide(&s, COLO_VERDICT_NOT_KNOWN, "Exec format error");
    unlink(path);
    util_decide(&s, COLO_VERDICT_NOT_KNOWN, "No such file");
    del();
}

/*
 * The program in the tests below: this one.  It says in the file that it is
 * given first what it finds.
 */
static int be_program(int argc, char **argv)
{
    FILE *f = fopen(argv[2], "w");
    sigset_t mask;

    for (int i = 3; i < argc; i++) {
        fprintf(f, "arg %s\n", argv[i]);
    }
    fprintf(f, "%s %s %s %s\n", getenv("COLO_SESSION"), getenv("COLO_SIDE"),
            getenv("COLO_GENERATION"), getenv("COLO_EPOCH"));
    fprintf(f, "home %s\n", getenv("HOME") ? "is set" : "is not set");
    fprintf(f, "group %s\n", getpgrp() == getpid() ? "own" : "other");
    sigprocmask(SIG_BLOCK, NULL, &mask);
    for (int i = 1; i < NSIG; i++) {
        struct sigaction act;

        /* The sanitizers handle some, in this program too */
        if (i != SIGBUS && i != SIGFPE && i != SIGSEGV &&
            !sigaction(i, NULL, &act) && act.sa_handler != SIG_DFL) {
            fprintf(f, "signal %d is handled\n", i);
        }
        if (sigismember(&mask, i) == 1) {
            fprintf(f, "signal %d is blocked\n", i);
        }
    }
    for (int i = 0; i < 4096; i++) {
        if (i != fileno(f) && fcntl(i, F_GETFD) >= 0) {
            fprintf(f, "fd %d\n", i);
        }
    }
    fprintf(f, "in %zd\n", read(0, &mask, 1));
    fclose(f);
    return 0;
}

/* File descriptors that a program would inherit, and their limit */
static void open_many(int *fds, int n)
{
    struct rlimit limit;

    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    limit.rlim_cur = MIN(limit.rlim_max, 4096);
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &limit), ==, 0);
    for (int i = 0; i < n; i++) {
        fds[i] = open("/dev/null", O_RDWR);
        g_assert_cmpint(fds[i], >=, 0);
        g_assert_cmpint(fcntl(fds[i], F_GETFD), ==, 0);
    }
}

static void on_signal(int sig)
{
}

static void set_handler(int sig, void (*handler)(int))
{
    struct sigaction act = { .sa_handler = handler };

    g_assert_cmpint(sigaction(sig, &act, NULL), ==, 0);
}

static void test_environment(void)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *out = util_path("out");
    g_autofree char *said = NULL;
    g_autofree char *session = NULL;
    g_autofree char *expected = NULL;
    ColoQuestion s = util_question(11, S);
    int fds[700];
    sigset_t mask, before;
    g_autofree char *options = g_strdup_printf(
        TYPE ",id=obj0,program=%s,args.0=--be-program,args.1=%s,"
        "args.2=two words", self, out);

    open_many(fds, ARRAY_SIZE(fds));
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGALRM);
    sigprocmask(SIG_BLOCK, &mask, &before);
    set_handler(SIGPIPE, SIG_IGN);
    set_handler(SIGHUP, SIG_IGN);
    set_handler(SIGUSR2, on_signal);

    user_creatable_add_from_str(options, &error_abort);
    util_decide(&s, COLO_VERDICT_WON, NULL);
    g_assert_true(g_file_get_contents(out, &said, NULL, NULL));
    session = qemu_uuid_unparse_strdup(&s.session);
    expected = g_strdup_printf("arg two words\narg decide\n"
                               "%s secondary 11 7\nhome %s\ngroup own\n"
                               "fd 0\nfd 1\nfd 2\nin 0\n", session,
                               getenv("HOME") ? "is set" : "is not set");
    g_assert_cmpstr(said, ==, expected);
    del();

    set_handler(SIGPIPE, SIG_DFL);
    set_handler(SIGHUP, SIG_DFL);
    set_handler(SIGUSR2, SIG_DFL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    for (int i = 0; i < ARRAY_SIZE(fds); i++) {
        close(fds[i]);
    }
}

/* A pipe with a name, which is at its end when no process has it any more */
static int open_fifo(const char *path)
{
    unlink(path);
    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    return open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
}

static bool has_byte(int fd)
{
    char c;

    return read(fd, &c, 1) == 1;
}

static bool is_at_end(int fd)
{
    char c;

    return read(fd, &c, 1) == 0;
}

/*
 * A program with a child and a grandchild, of which all have the fifo open, and
 * that do not end when they are asked to.  It says so by a byte.
 */
static char *stubborn_script(const char *fifo)
{
    return g_strdup_printf("exec 3>'%s'\ntrap '' TERM HUP INT\n"
                           "(sleep 1000 & sleep 1000) &\n"
                           "echo waits >&2\nprintf x >&3\nwait\nsleep 1000",
                           fifo);
}

static void test_timeout(void)
{
    g_autofree char *fifo = util_path("fifo");
    g_autofree char *text = stubborn_script(fifo);
    ColoQuestion s = util_question(1, S);
    int fd = open_fifo(fifo);
    gint64 begin = g_get_monotonic_time();

    add_script(TYPE, text, stringify(SHORT_MS));
    util_decide(&s, COLO_VERDICT_NOT_KNOWN, "did not end in time");
    g_assert_cmpint(g_get_monotonic_time() - begin, >=, SHORT_MS * 1000);
    g_assert_cmpint(g_get_monotonic_time() - begin, <, SOON_US);
    del();
    util_wait(is_at_end(fd));
    close(fd);
}

static void *run_cancel(void *opaque)
{
    int *fd = opaque;

    util_wait(has_byte(*fd));
    colo_arbiter_cancel();
    return NULL;
}

static void test_cancel(void)
{
    g_autofree char *fifo = util_path("fifo");
    g_autofree char *text = stubborn_script(fifo);
    ColoQuestion s = util_question(1, S);
    int fd = open_fifo(fifo);
    gint64 begin = g_get_monotonic_time();
    QemuThread thread;

    add_script(TYPE, text, "60000");
    qemu_thread_create(&thread, "cancel", run_cancel, &fd,
                       QEMU_THREAD_JOINABLE);
    util_decide(&s, COLO_VERDICT_NOT_KNOWN, "cancelled");
    qemu_thread_join(&thread);
    g_assert_cmpint(g_get_monotonic_time() - begin, <, SOON_US);
    util_wait(is_at_end(fd));
    close(fd);
    /* The thread kills the program, and then waits for it */
    util_wait(util_del());
    check_no_child();
}

/* One that closes all it has and goes on is no less ended */
static void test_deaf(void)
{
    ColoQuestion s = util_question(1, S);

    add_script(TYPE, "exec >&- 2>&- <&-; sleep 1000", stringify(SHORT_MS));
    util_decide(&s, COLO_VERDICT_NOT_KNOWN, "did not end in time");
    del();
}

static void check_fence(ColoFenceResult result, const char *text)
{
    ColoQuestion p = util_question(1, P);
    g_autoptr(Error) err = NULL;
    ColoFenceResult got = colo_fence_run(&p, &err);

    g_assert_cmpint(got, ==, result);
    g_assert_true(!err == !text);
    if (text && !strstr(error_get_pretty(err), text)) {
        g_error("'%s' instead of '%s'", error_get_pretty(err), text);
    }
}

static void test_fence(void)
{
    g_autofree char *path = NULL;
    g_autoptr(ColoArbiterStatus) st = NULL;

    g_assert_false(colo_fence_exists());
    check_fence(COLO_FENCE_HOLD, "there is no fence");
    add_script("colo-fence", "test $# = 0 && test $COLO_SIDE = primary",
               "60000");
    g_assert_true(colo_fence_exists());
    g_assert_false(colo_arbiter_exists());
    check_fence(COLO_FENCE_DONE, NULL);
    st = colo_fence_status();
    g_assert_cmpint(st->verdict, ==, COLO_VERDICT_WON);
    g_assert_null(st->error);
    del();

    add_script("colo-fence", "echo the switch is off >&2; exit 1", "60000");
    check_fence(COLO_FENCE_HOLD, "status 1: the switch is off");
    del();
    add_script("colo-fence", "sleep 1000", stringify(SHORT_MS));
    check_fence(COLO_FENCE_HOLD, "did not end in time");
    del();

    path = script("exit 1");
    util_not_added("does not accept value", "colo-fence", "program", path,
                   "on-failure", "die", NULL);
    util_add("colo-fence", "program", path, "on-failure", "go-on", NULL);
    check_fence(COLO_FENCE_GO_ON, "status 1");
    /* Who cancels does not want to go on by that */
    colo_arbiter_arm();
    colo_arbiter_cancel();
    check_fence(COLO_FENCE_HOLD, "cancelled");
    check_fence(COLO_FENCE_GO_ON, "status 1");
    del();
}

/* Both, and one of each */
static void test_both(void)
{
    g_autofree char *path = script("exit 0");
    ColoQuestion s = util_question(1, S);

    util_add(TYPE, "program", path, NULL);
    object_new_with_props("colo-fence", object_get_objects_root(), "fence0",
                          &error_abort, "program", path, NULL);
    g_assert_null(object_new_with_props("colo-fence",
                                        object_get_objects_root(), "fence1",
                                        NULL, "program", path, NULL));
    util_decide(&s, COLO_VERDICT_WON, NULL);
    check_fence(COLO_FENCE_DONE, NULL);
    g_assert_true(user_creatable_del("fence0", &error_abort));
    del();
}

int main(int argc, char **argv)
{
    int ret;

    if (argc > 2 && !strcmp(argv[1], "--be-program")) {
        return be_program(argc, argv);
    }
    g_test_init(&argc, &argv, NULL);
    util_init();
    g_test_add_func("/colo/arbiter/exec/status", test_status);
    g_test_add_func("/colo/arbiter/exec/reason", test_reason);
    g_test_add_func("/colo/arbiter/exec/not-run", test_not_run);
    g_test_add_func("/colo/arbiter/exec/environment", test_environment);
    g_test_add_func("/colo/arbiter/exec/timeout", test_timeout);
    g_test_add_func("/colo/arbiter/exec/cancel", test_cancel);
    g_test_add_func("/colo/arbiter/exec/deaf", test_deaf);
    g_test_add_func("/colo/arbiter/exec/both", test_both);
    g_test_add_func("/colo/fence", test_fence);
    ret = g_test_run();
    util_exit();
    return ret;
}
