/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO with a guest that has never run (-S), and a user who changes their mind.
 *
 * Such a guest starts when it is protected.  A thread of the test sits between
 * the two QEMUs and keeps what the secondary says, so that the session stays at
 * its beginning.
 *
 * Proves: a guest that is stopped meanwhile does not start, whether it was told
 * to run before or not, nor does the secondary's after a failover; it can be
 * told to run.  If the session is cancelled meanwhile, nothing starts either.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <glib-unix.h>
#include "qemu/sockets.h"
#include "qemu/thread.h"
#include "qapi/error.h"
#include "colo-helpers.h"

#define NEVER_MS 600000

typedef struct Between {
    ColoPair *pair;
    QemuThread thread;
    int listener;
    int primary;
    int secondary;
    int told[2];                /* pipe: its end is closed to let all through */
} Between;

/* Whatever is there goes on to the other one; false at the end */
static bool pass_on(int from, int to)
{
    char buf[4096];
    ssize_t n = read(from, buf, sizeof(buf));

    return n > 0 && qemu_write_full(to, buf, n) == n;
}

static void *between_run(void *opaque)
{
    Between *b = opaque;
    bool open = false;
    bool more = true;

    b->primary = accept(b->listener, NULL, NULL);
    g_assert_cmpint(b->primary, >=, 0);
    while (more) {
        struct pollfd fds[] = {
            { b->primary, POLLIN },
            { open ? b->secondary : b->told[0], POLLIN },
        };

        poll(fds, G_N_ELEMENTS(fds), -1);
        if (fds[0].revents) {
            more = pass_on(b->primary, b->secondary);
        } else if (!open) {
            open = true;
        } else {
            more = pass_on(b->secondary, b->primary);
        }
    }
    shutdown(b->primary, SHUT_RDWR);
    shutdown(b->secondary, SHUT_RDWR);
    return NULL;
}

static Between *between_new(const void *mode)
{
    Between *b = g_new0(Between, 1);
    ColoPair *p = colo_pair_new_with(mode, "tcg", "-S");
    g_autofree char *front = g_strdup_printf("%s/front", p->dir);
    g_autofree char *back = g_strdup_printf("%s/mig", p->dir);
    g_autofree char *uri = g_strdup_printf("unix:%s", front);

    b->pair = p;
    b->listener = unix_listen(front, &error_abort);
    g_assert_true(g_unix_open_pipe(b->told, FD_CLOEXEC, NULL));
    colo_pair_migrate(p, "mig", NULL, NEVER_MS, COLO_TIMEOUT_MS);
    b->secondary = unix_connect(back, &error_abort);
    qemu_thread_create(&b->thread, "between", between_run, b,
                       QEMU_THREAD_JOINABLE);
    qtest_qmp_assert_success(p->primary, "{'execute': 'migrate', 'arguments': {"
                             "'uri': %s}}", uri);
    colo_wait_state(p->primary, "starting");
    colo_wait_status(p->primary, "prelaunch");
    return b;
}

static void between_open(Between *b)
{
    close(b->told[1]);
    b->told[1] = -1;
}

static void between_free(Between *b)
{
    colo_pair_free(b->pair);
    qemu_thread_join(&b->thread);
    close(b->primary);
    close(b->secondary);
    close(b->listener);
    close(b->told[0]);
    g_free(b);
}

static void tell(QTestState *qts, const char *command)
{
    qtest_qmp_assert_success(qts, "{'execute': %s}", command);
}

static void check_still(Between *b, const char *status)
{
    ColoPair *p = b->pair;

    between_open(b);
    colo_wait_state(p->primary, "running");
    tell(p->primary, "x-colo-checkpoint");
    colo_wait_statistic(p->primary, "checkpoints", 1);
    colo_wait_status(p->primary, status);
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "paused");
    between_free(b);
}

static void test_paused(const void *mode)
{
    Between *b = between_new(mode);

    tell(b->pair->primary, "cont");
    colo_wait_status(b->pair->primary, "running");
    tell(b->pair->primary, "stop");
    check_still(b, "paused");
}

static void test_stopped(const void *mode)
{
    Between *b = between_new(mode);

    tell(b->pair->primary, "stop");
    check_still(b, "prelaunch");
}

static void test_told_again(const void *mode)
{
    Between *b = between_new(mode);

    tell(b->pair->primary, "stop");
    between_open(b);
    colo_wait_state(b->pair->primary, "running");
    colo_wait_status(b->pair->primary, "prelaunch");
    tell(b->pair->primary, "cont");
    colo_wait_status(b->pair->primary, "running");
    tell(b->pair->primary, "x-colo-checkpoint");
    colo_wait_statistic(b->pair->secondary, "checkpoints", 1);
    colo_kill(&b->pair->primary);
    colo_wait_state(b->pair->secondary, "lost");
    colo_failover(b->pair->secondary);
    colo_wait_status(b->pair->secondary, "running");
    between_free(b);
}

static void test_cancelled(const void *mode)
{
    Between *b = between_new(mode);

    tell(b->pair->primary, "migrate_cancel");
    between_open(b);
    colo_wait_state(b->pair->primary, "alone");
    colo_wait_status(b->pair->primary, "prelaunch");
    between_free(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    colo_add("/colo/start", "paused", test_paused);
    colo_add("/colo/start", "stopped", test_stopped);
    colo_add("/colo/start", "told-again", test_told_again);
    colo_add("/colo/start", "cancelled", test_cancelled);
    return g_test_run();
}
