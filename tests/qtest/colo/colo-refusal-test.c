/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a session that does not begin.
 *
 * Proves: what a side finds wrong with its disks ends the session before it has
 * begun, within a round trip and however long the timeout is; both sides say
 * why, with the name that the user gave; and the primary's guest is not held,
 * even if the other side does not listen.
 */

#include "qemu/osdep.h"
#include "qemu/sockets.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "colo-net.h"
#include "colo-nic.h"

/* Nobody may have to wait for it */
#define LONG_TIMEOUT_MS 600000
#define SLOT            5
#define PACKETS         10

/* A node of the wrong mode, which has no name but that of its disk */
static void add_wrong_node(QTestState *qts, const char *mode, const char *more)
{
    g_autofree char *answer = qtest_hmp(qts, "drive_add 0 if=none,id=wrong0,"
                                        "driver=replication,mode=%s%s,"
                                        "file.driver=null-co", mode, more);

    g_assert_cmpstr(answer, ==, "OK\r\n");
}

/* @text is in the message, and no name that nobody gave */
static void check_message(QTestState *qts, const char *text)
{
    QDict *status = colo_status(qts);
    const char *message = qdict_get_str(status, "message");

    g_test_message("%s", message);
    g_assert_nonnull(strstr(message, text));
    g_assert_nonnull(strstr(message, "'wrong0'"));
    g_assert_null(strchr(message, '#'));
    g_assert_false(qdict_get_bool(status, "protected"));
    g_assert_false(qdict_haskey(status, "since"));
    qobject_unref(status);
}

static void check_refused(ColoPair *p, const char *text)
{
    colo_wait_migrate(p->primary, "failed");
    colo_wait_migrate(p->secondary, "failed");
    colo_wait_mode(p->primary, "none");
    colo_wait_mode(p->secondary, "none");
    colo_wait_state(p->primary, "alone");
    colo_wait_state(p->secondary, "ended");
    colo_wait_status(p->primary, "running");
    check_message(p->primary, text);
    check_message(p->secondary, text);
}

static void test_primary(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    QDict *event;

    /* Before that the command is refused: see below */
    colo_pair_hold(p, "mig", "mig", 10, LONG_TIMEOUT_MS);
    add_wrong_node(p->primary, "secondary", ",top-id=none");
    colo_pair_release(p);
    check_refused(p, "is the secondary, it cannot start as the primary");
    event = colo_wait_event(p->primary, "COLO_DISK_ERROR");
    qobject_unref(event);
    colo_pair_free(p);
}

/* Started with -S it would run when protection begins, and does not */
static void test_not_started(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "qtest", "-S");

    add_wrong_node(p->secondary, "primary", "");
    colo_pair_migrate(p, "mig", "mig", 10, LONG_TIMEOUT_MS);
    colo_wait_migrate(p->primary, "failed");
    colo_wait_state(p->primary, "alone");
    colo_wait_status(p->primary, "prelaunch");
    colo_pair_free(p);
}

static void test_secondary(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    QDict *event;

    add_wrong_node(p->secondary, "primary", "");
    colo_pair_migrate(p, "mig", "mig", 10, LONG_TIMEOUT_MS);
    check_refused(p, "is the primary, it cannot start as the secondary");
    event = colo_wait_event(p->secondary, "COLO_DISK_ERROR");
    qobject_unref(event);
    colo_pair_free(p);
}

/* Somebody who takes the migration, and never answers */
static void *swallow(void *opaque)
{
    int fd = accept(*(int *)opaque, NULL, NULL);
    static char buf[65536];

    g_assert_cmpint(fd, >=, 0);
    while (RETRY_ON_EINTR(read(fd, buf, sizeof(buf))) > 0) {
        /* Nobody wants it */
    }
    close(fd);
    return NULL;
}

static bool has_message(QTestState *qts)
{
    QDict *status = colo_status(qts);
    bool has = qdict_haskey(status, "message");

    qobject_unref(status);
    return has;
}

static void test_deaf(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "qtest",
        "-netdev hubport,id=hn1,hubid=1 -netdev hubport,id=net1,hubid=1 "
        "-device virtio-net-pci,netdev=hn1,id=nic1,"
        "romfile=,addr=" stringify(SLOT) " "
        "-object filter-output-commit,id=oc1,netdev=hn1");
    ColoNic *nic = colo_nic_new(p->primary, SLOT);
    g_autofree char *path = g_build_filename(p->dir, "deaf", NULL);
    int listener = unix_listen(path, &error_abort);
    GThread *thread = g_thread_new("deaf", swallow, &listener);
    g_autofree char *state = NULL;
    unsigned sent = 0, n;

    colo_pair_hold(p, NULL, "deaf", 10, LONG_TIMEOUT_MS);
    add_wrong_node(p->primary, "secondary", ",top-id=none");
    colo_pair_release(p);
    wait_for(has_message(p->primary));
    colo_nic_send(nic, 100, PACKETS);
    while (sent < PACKETS) {
        wait_for((n = colo_nic_sent(nic)));
        sent += n;
    }
    g_assert_cmpint(counter(p->primary, "oc1", "held-packets"), ==, 0);
    check_message(p->primary, "it cannot start as the primary");

    /* It still waits for a chance to tell why */
    state = colo_state(p->primary);
    g_assert_cmpstr(state, ==, "ending");
    colo_cut(p);
    colo_wait_state(p->primary, "alone");
    g_thread_join(thread);
    close(listener);
    colo_nic_free(nic);
    colo_pair_free(p);
}

int main(int argc, char **argv)
{
    static const char *const modes[] = { "hybrid", "periodic" };

    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < G_N_ELEMENTS(modes); i++) {
        static const struct {
            const char *name;
            void (*fn)(const void *mode);
        } tests[] = {
            { "primary", test_primary },
            { "secondary", test_secondary },
            { "deaf", test_deaf },
            { "not-started", test_not_started },
        };

        for (int j = 0; j < G_N_ELEMENTS(tests); j++) {
            g_autofree char *path = g_strdup_printf("/colo/refusal/%s/%s",
                                                    tests[j].name, modes[i]);

            qtest_add_data_func(path, modes[i], tests[j].fn);
        }
    }
    return g_test_run();
}
