/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: run a program, for colo-arbiter-exec and colo-fence.  Both sides;
 * Linux.
 *
 * Theory of operation
 *
 * The program gets nothing of QEMU but its user, working directory, limits and
 * environment: no file descriptor, signal mask or handler.  It is started as by
 * vfork(), so the size of QEMU's memory does not matter.
 *
 * It has a process group of its own, which is killed when the time is over.
 * That is before the program is waited for, so the number of the group is still
 * its own.  A program that has ended may leave others behind.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "qemu/config-file.h"
#include "qemu/option.h"
#include "qapi/error.h"
#include "qapi/qapi-builtin-visit.h"
#include "qapi/visitor.h"
#include "program.h"

/* How much of the end of stderr is kept, in bytes */
#define TAIL_BYTES 1024

/* How much of its last line is told */
#define LINE_BYTES 200

/* The end of what was written to stderr */
typedef struct Tail {
    char bytes[TAIL_BYTES];
    size_t n;
} Tail;

static void tail_add(Tail *t, const char *data, size_t n)
{
    size_t keep = MIN(t->n, TAIL_BYTES - n);

    memmove(t->bytes, t->bytes + t->n - keep, keep);
    memcpy(t->bytes + keep, data, n);
    t->n = keep + n;
}

/* The last line that is not empty, fit to be printed; or NULL */
static char *tail_line(const Tail *t)
{
    g_autofree char *text = g_strndup(t->bytes, t->n);
    char *line, *end;

    g_strchomp(text);
    end = strrchr(text, '\n');
    end = end ? end + 1 : text;
    line = g_utf8_make_valid(end + MAX(strlen(end), LINE_BYTES) - LINE_BYTES,
                             -1);
    for (char *c = line; *c; c++) {
        if (g_ascii_iscntrl(*c)) {
            *c = ' ';
        }
    }
    g_strstrip(line);
    if (!*line) {
        g_clear_pointer(&line, g_free);
    }
    return line;
}

/* Read what there is.  False at its end. */
static bool tail_read(Tail *t, int fd)
{
    char buf[TAIL_BYTES];
    ssize_t n;

    while ((n = RETRY_ON_EINTR(read(fd, buf, sizeof(buf)))) > 0) {
        tail_add(t, buf, n);
    }
    return n < 0 && errno == EAGAIN;
}

static char **program_env(const ColoQuestion *q)
{
    g_autofree char *session = qemu_uuid_unparse_strdup(&q->session);
    g_autofree char *generation = g_strdup_printf("%" PRIu64, q->generation);
    g_autofree char *epoch = g_strdup_printf("%" PRIu64, q->epoch);
    g_autofree char *round = g_strdup_printf("%u", q->round);
    g_autofree char *peer_round = g_strdup_printf("%u", q->peer_round);
    char **env = g_get_environ();

    env = g_environ_setenv(env, "COLO_SESSION", session, true);
    env = g_environ_setenv(env, "COLO_SIDE", COLOMode_str(q->side), true);
    env = g_environ_setenv(env, "COLO_GENERATION", generation, true);
    env = g_environ_setenv(env, "COLO_ROUND", round, true);
    env = g_environ_setenv(env, "COLO_PEER_ROUND", peer_round, true);
    return g_environ_setenv(env, "COLO_EPOCH", epoch, true);
}

static char **program_argv(const ColoProgram *p, const char *last_arg)
{
    GPtrArray *argv = g_ptr_array_new();

    g_ptr_array_add(argv, g_strdup(p->path));
    for (strList *a = p->args; a; a = a->next) {
        g_ptr_array_add(argv, g_strdup(a->value));
    }
    if (last_arg) {
        g_ptr_array_add(argv, g_strdup(last_arg));
    }
    g_ptr_array_add(argv, NULL);
    return (char **)g_ptr_array_free(argv, false);
}

/* @err_fd becomes its stderr, and it has no other of our file descriptors */
static int spawn(pid_t *pid, char **argv, char **env, int err_fd)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    int err;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP |
                             POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);

    posix_spawn_file_actions_init(&actions);
    err = posix_spawn_file_actions_adddup2(&actions, err_fd, STDERR_FILENO) ?:
          posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null",
                                           O_RDONLY, 0) ?:
          posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null",
                                           O_WRONLY, 0) ?:
          posix_spawn_file_actions_addclosefrom_np(&actions,
                                                   STDERR_FILENO + 1) ?:
          posix_spawn(pid, argv[0], &actions, &attr, argv, env);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    return err;
}

/*
 * Wait until the program has ended, but not for it.  False if it was ended
 * since nobody wants to wait any more; then all of its process group were.
 */
static bool await_end(pid_t pid, int pid_fd, int err_fd, Tail *tail,
                      ColoAsk *ask)
{
    struct pollfd fds[] = {
        { .fd = pid_fd, .events = POLLIN },
        { .fd = colo_ask_fd(ask), .events = POLLIN },
        { .fd = err_fd, .events = POLLIN },
    };

    for (;;) {
        int ms = colo_ask_left_ms(ask);
        int n = poll(fds, ARRAY_SIZE(fds), ms);

        if (n > 0 && fds[2].revents && !tail_read(tail, err_fd)) {
            fds[2].fd = -1;
        }
        if (n > 0 && fds[0].revents) {
            tail_read(tail, err_fd);
            return true;
        }
        if (!ms || (n > 0 && fds[1].revents)) {
            kill(-pid, SIGKILL);
            return false;
        }
    }
}

/* -1 with @errp set, or the exit status */
static int program_status(const ColoProgram *p, int status, bool in_time,
                          ColoAsk *ask, Error **errp)
{
    if (!in_time && !colo_ask_left_ms(ask)) {
        error_setg(errp, "'%s' did not end in time, and was killed", p->path);
    } else if (!in_time) {
        error_setg(errp, "'%s' was killed, since nobody waits for it", p->path);
    } else if (WIFSIGNALED(status)) {
        error_setg(errp, "'%s' was ended by signal %d (%s)", p->path,
                   WTERMSIG(status), strsignal(WTERMSIG(status)));
    } else {
        return WEXITSTATUS(status);
    }
    return -1;
}

int colo_program_run(const ColoProgram *p, const char *last_arg, ColoAsk *ask,
                     char **line, Error **errp)
{
    g_auto(GStrv) env = program_env(colo_ask_question(ask));
    g_auto(GStrv) argv = program_argv(p, last_arg);
    g_autofree Tail *tail = g_new0(Tail, 1);
    int pid_fd, fds[2], status, err;
    bool in_time;
    pid_t pid;

    *line = NULL;
    if (!g_unix_open_pipe(fds, FD_CLOEXEC, NULL)) {
        error_setg_errno(errp, errno, "no pipe for '%s'", p->path);
        return -1;
    }
    g_unix_set_fd_nonblocking(fds[0], true, NULL);
    err = spawn(&pid, argv, env, fds[1]);
    close(fds[1]);
    if (err) {
        error_setg_errno(errp, err, "could not run '%s'", p->path);
        close(fds[0]);
        return -1;
    }
    pid_fd = syscall(SYS_pidfd_open, pid, 0);
    if (pid_fd < 0) {
        error_setg_errno(errp, errno, "could not wait for '%s'", p->path);
        kill(-pid, SIGKILL);
    }
    in_time = pid_fd >= 0 && await_end(pid, pid_fd, fds[0], tail, ask);
    RETRY_ON_EINTR(waitpid(pid, &status, 0));
    close(fds[0]);
    if (pid_fd < 0) {
        return -1;
    }
    close(pid_fd);
    *line = tail_line(tail);
    return program_status(p, status, in_time, ask, errp);
}

void colo_program_failed(const ColoProgram *p, int status, const char *line,
                         Error **errp)
{
    error_setg(errp, "'%s' exited with status %d%s%s", p->path, status,
               line ? ": " : "", line ?: "");
}

/*
 * With -sandbox some of what is needed is refused; or, as setpgid() is by
 * elevateprivileges, kills the program.
 */
static bool sandbox_allows(Error **errp)
{
    QemuOptsList *list = qemu_find_opts_err("sandbox", NULL);
    QemuOpts *opts = list ? qemu_opts_find(list, NULL) : NULL;
    const char *spawns, *privileges;

    if (!opts || !qemu_opt_get_bool(opts, "enable", false)) {
        return true;
    }
    spawns = qemu_opt_get(opts, "spawn") ?: "allow";
    privileges = qemu_opt_get(opts, "elevateprivileges") ?: "allow";
    if (!strcmp(spawns, "allow") && !strcmp(privileges, "allow")) {
        return true;
    }
    error_setg(errp, "-sandbox spawn=%s,elevateprivileges=%s keeps QEMU from "
               "running programs: both have to be 'allow'", spawns, privileges);
    return false;
}

bool colo_program_check(const ColoProgram *p, Error **errp)
{
    if (!p->path || !g_path_is_absolute(p->path)) {
        error_setg(errp, "Parameter 'program' is '%s', it has to be the "
                   "absolute path of a program", p->path ?: "");
        return false;
    }
    if (access(p->path, X_OK) < 0) {
        error_setg_errno(errp, errno, "Parameter 'program' is '%s', which "
                         "cannot be run", p->path);
        return false;
    }
    return sandbox_allows(errp);
}

void colo_program_clear(ColoProgram *p)
{
    g_clear_pointer(&p->path, g_free);
    g_clear_pointer(&p->args, qapi_free_strList);
}

static ColoProgram *to_program(Object *obj, void *opaque)
{
    ColoProgramGet *get = opaque;

    return get(obj);
}

/* False with @errp set if the object is in use already */
static bool may_set(Object *obj, const char *name, Error **errp)
{
    if (COLO_DECIDER(obj)->id) {
        error_setg(errp, "Parameter '%s' cannot be changed any more", name);
        return false;
    }
    return true;
}

static void program_get_path(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    char *path = to_program(obj, opaque)->path ?: (char *)"";

    visit_type_str(v, name, &path, errp);
}

static void program_set_path(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    ColoProgram *p = to_program(obj, opaque);
    char *path;

    if (may_set(obj, name, errp) && visit_type_str(v, name, &path, errp)) {
        g_free(p->path);
        p->path = path;
    }
}

static void program_get_args(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    visit_type_strList(v, name, &to_program(obj, opaque)->args, errp);
}

static void program_set_args(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    ColoProgram *p = to_program(obj, opaque);
    strList *args;

    if (may_set(obj, name, errp) && visit_type_strList(v, name, &args, errp)) {
        qapi_free_strList(p->args);
        p->args = args;
    }
}

void colo_program_class_init(ObjectClass *oc, ColoProgramGet *get)
{
    object_class_property_add(oc, "program", "str", program_get_path,
                              program_set_path, NULL, get);
    object_class_property_add(oc, "args", "strList", program_get_args,
                              program_set_args, NULL, get);
}
