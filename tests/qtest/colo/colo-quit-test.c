/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: managers that poll while QEMU ends.
 *
 * Proves: commands that arrive in the monitors' thread while QEMU ends do not
 * end it by a signal.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "libqtest.h"

#define MONITORS    30
#define COMMANDS    7           /* each; at 8 that wait it reads no more */
#define SPREAD_US   30
#define ROUNDS      25          /* the window is small */

/* The other end of a monitor that QEMU inherits */
static int monitor_new(GString *args, int *theirs)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    qemu_set_cloexec(fds[0]);
    g_string_append_printf(args, " -chardev socket,id=m%d,fd=%d "
                           "-mon chardev=m%d,mode=control", fds[1], fds[1],
                           fds[1]);
    *theirs = fds[1];
    return fds[0];
}

static void monitor_begin(int fd)
{
    g_autoptr(QDict) greeting = qmp_fd_receive(fd);
    g_autoptr(QDict) answer = NULL;

    g_assert_true(qdict_haskey(greeting, "QMP"));
    answer = qmp_fd(fd, "{'execute': 'qmp_capabilities',"
                    "'arguments': {'enable': ['oob']}}");
    g_assert_true(qdict_haskey(answer, "return"));
}

static bool is_there(int fd)
{
    GPollFD p = { .fd = fd };

    return g_poll(&p, 1, 0) == 0;
}

static void quit_once(void)
{
    static const char command[] = "{\"execute\": \"query-colo-status\"}\n";
    g_autoptr(GString) args = g_string_new("-machine none");
    int ours[MONITORS], theirs[MONITORS];
    QTestState *qts;

    for (int i = 0; i < MONITORS; i++) {
        ours[i] = monitor_new(args, &theirs[i]);
    }
    qts = qtest_init(args->str);
    for (int i = 0; i < MONITORS; i++) {
        close(theirs[i]);
        monitor_begin(ours[i]);
    }
    qtest_qmp_send(qts, "{'execute': 'quit'}");
    /* Spread over the time that it takes */
    for (int n = 0; n < COMMANDS && is_there(ours[0]); n++) {
        for (int i = 0; i < MONITORS; i++) {
            send(ours[i], command, strlen(command), MSG_NOSIGNAL);
            g_usleep(SPREAD_US);
        }
    }
    qtest_wait_qemu(qts);
    qtest_quit(qts);
    for (int i = 0; i < MONITORS; i++) {
        close(ours[i]);
    }
}

static void test_commands(void)
{
    for (int i = 0; i < ROUNDS; i++) {
        quit_once();
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/quit/commands", test_commands);
    return g_test_run();
}
