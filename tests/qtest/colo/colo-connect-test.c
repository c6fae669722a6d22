/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: the sides of a pair find each other, or do not.
 *
 * Proves: who connects into nothing gives up within x-colo-timeout, and names
 * the address; after migrate_cancel no attempt is left, and the next one
 * succeeds; a busy port is named, and migrate-incoming can be repeated; while
 * the peer is lost migrate and migrate_cancel say what to type.
 */

#include "qemu/osdep.h"
#include "qemu/sockets.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "colo-net.h"

/* Nobody may have to wait for it */
#define LONG_TIMEOUT_MS 600000
#define SHORT_TIMEOUT_MS 1000
#define FILLERS         3

/* A port that takes no connection any more, nor refuses any */
typedef struct Nothing {
    int listener;
    int fillers[FILLERS];
    int port;
    char *uri;
} Nothing;

static int new_socket(int *port, int backlog)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, len), ==, 0);
    g_assert_cmpint(listen(fd, backlog), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&addr, &len), ==, 0);
    *port = ntohs(addr.sin_port);
    return fd;
}

static void nothing_new(Nothing *n)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };

    n->listener = new_socket(&n->port, 0);
    n->uri = g_strdup_printf("tcp:127.0.0.1:%d", n->port);
    addr.sin_port = htons(n->port);
    for (int i = 0; i < FILLERS; i++) {
        n->fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(n->fillers[i], (struct sockaddr *)&addr, sizeof(addr));
    }
}

/* No filler stands in the way of what still wants to connect */
static void nothing_close_fillers(Nothing *n)
{
    for (int i = 0; i < FILLERS; i++) {
        close(n->fillers[i]);
    }
}

static void nothing_free(Nothing *n)
{
    close(n->listener);
    g_free(n->uri);
}

/* Does somebody on this host try to connect to that port? */
static bool is_tried(int port)
{
    g_autofree char *table = NULL;
    g_autofree char *row = g_strdup_printf(" 0100007F:%04X 02 ", port);

    g_assert_true(g_file_get_contents("/proc/net/tcp", &table, NULL, NULL));
    return strstr(table, row);
}

static void begin_migrate(ColoPair *p, const char *uri, unsigned timeout_ms)
{
    colo_pair_migrate(p, NULL, NULL, 10, timeout_ms);
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'migrate', 'arguments': {'uri': %s}}", uri);
}

static void test_cancelled(void)
{
    ColoPair *p = colo_pair_new("periodic");
    Nothing n;

    nothing_new(&n);
    begin_migrate(p, n.uri, LONG_TIMEOUT_MS);
    wait_for(is_tried(n.port));
    qtest_qmp_assert_success(p->primary, "{'execute': 'migrate_cancel'}");
    colo_wait_migrate(p->primary, "cancelled");
    nothing_close_fillers(&n);
    wait_for(!is_tried(n.port));
    colo_pair_protect(p);
    nothing_free(&n);
    colo_pair_free(p);
}

/* Twice: a failed attempt leaves nothing behind either */
static void test_deadline(void)
{
    ColoPair *p = colo_pair_new("periodic");
    Nothing n;

    nothing_new(&n);
    for (int i = 0; i < 2; i++) {
        QDict *answer;

        begin_migrate(p, n.uri, SHORT_TIMEOUT_MS);
        colo_wait_migrate(p->primary, "failed");
        answer = qtest_qmp_assert_success_ref(p->primary,
                                              "{'execute': 'query-migrate'}");
        g_assert_nonnull(strstr(qdict_get_str(answer, "error-desc"), n.uri));
        g_assert_nonnull(strstr(qdict_get_str(answer, "error-desc"),
                                "no answer within 1000 ms"));
        qobject_unref(answer);
    }
    nothing_close_fillers(&n);
    wait_for(!is_tried(n.port));
    colo_pair_protect(p);
    nothing_free(&n);
    colo_pair_free(p);
}

/* A host that refuses is named as well */
static void test_closed(void)
{
    ColoPair *p = colo_pair_new("periodic");
    g_autofree char *uri = NULL;
    QDict *answer;
    int port;

    close(new_socket(&port, 1));
    uri = g_strdup_printf("tcp:127.0.0.1:%d", port);
    begin_migrate(p, uri, LONG_TIMEOUT_MS);
    colo_wait_migrate(p->primary, "failed");
    answer = qtest_qmp_assert_success_ref(p->primary,
                                          "{'execute': 'query-migrate'}");
    g_assert_nonnull(strstr(qdict_get_str(answer, "error-desc"), uri));
    qobject_unref(answer);
    colo_pair_free(p);
}

/* What is not there cannot be resolved, and the next attempt succeeds */
static void test_no_host(void)
{
    ColoPair *p = colo_pair_new("periodic");

    begin_migrate(p, "tcp:no-such-host.invalid:1", LONG_TIMEOUT_MS);
    colo_wait_migrate(p->primary, "failed");
    colo_pair_protect(p);
    colo_pair_free(p);
}

static char *listening_port(QTestState *qts)
{
    QDict *answer = qtest_qmp_assert_success_ref(qts,
                                                 "{'execute': 'query-migrate'}");
    QList *list = qdict_get_qlist(answer, "socket-address");
    QDict *addr = qobject_to(QDict, qlist_peek(list));
    char *port = g_strdup(qdict_get_str(addr, "port"));

    qobject_unref(answer);
    return port;
}

static void test_tcp(void)
{
    ColoPair *p = colo_pair_new("periodic");
    g_autofree char *port = NULL;
    g_autofree char *uri = NULL;
    g_autofree char *peer = NULL;
    QDict *status;

    colo_pair_migrate(p, NULL, NULL, 10, COLO_TIMEOUT_MS);
    qtest_qmp_assert_success(p->secondary,
        "{'execute': 'migrate-incoming', 'arguments': {"
        "'uri': 'tcp:127.0.0.1:0'}}");
    port = listening_port(p->secondary);
    /* The name may have an address besides, at which nobody listens */
    uri = g_strdup_printf("tcp:localhost:%s", port);
    peer = g_strdup_printf("tcp:127.0.0.1:%s", port);
    begin_migrate(p, uri, COLO_TIMEOUT_MS);
    colo_wait_statistic(p->primary, "checkpoints", 2);
    status = colo_status(p->primary);
    g_assert_cmpstr(qdict_get_str(status, "peer"), ==, peer);
    qobject_unref(status);
    colo_pair_free(p);
}

static void test_busy(void)
{
    ColoPair *p = colo_pair_new("periodic");
    g_autofree char *uri = NULL;
    int port, fd = new_socket(&port, 1);

    uri = g_strdup_printf("tcp:127.0.0.1:%d", port);
    for (int i = 0; i < 2; i++) {
        colo_refused(p->secondary, uri,
            "{'execute': 'migrate-incoming', 'arguments': {'uri': %s}}", uri);
    }
    close(fd);
    colo_pair_protect(p);
    colo_pair_free(p);
}

static void test_lost(void)
{
    ColoPair *p = colo_pair_new("periodic");
    QTestState *sides[] = { p->primary, p->secondary };

    colo_pair_protect(p);
    colo_cut(p);
    for (int i = 0; i < G_N_ELEMENTS(sides); i++) {
        colo_wait_state(sides[i], "lost");
        colo_refused(sides[i], "x-colo-lost-heartbeat",
                     "{'execute': 'migrate', 'arguments': {"
                     "'uri': 'unix:/nowhere'}}");
        colo_refused(sides[i], "x-colo-lost-heartbeat",
                     "{'execute': 'migrate_cancel'}");
        colo_wait_state(sides[i], "lost");
    }
    colo_pair_free(p);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/connect/cancelled", test_cancelled);
    qtest_add_func("/colo/connect/deadline", test_deadline);
    qtest_add_func("/colo/connect/closed", test_closed);
    qtest_add_func("/colo/connect/no-host", test_no_host);
    qtest_add_func("/colo/connect/tcp", test_tcp);
    qtest_add_func("/colo/connect/busy", test_busy);
    qtest_add_func("/colo/connect/lost", test_lost);
    return g_test_run();
}
