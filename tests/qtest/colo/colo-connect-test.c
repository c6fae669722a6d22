/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: the sides of a pair find each other, or do not.
 *
 * Proves: who connects into nothing gives up within x-colo-timeout, and names
 * the address; after migrate_cancel no attempt is left, and the next one
 * succeeds; a busy port is named, and migrate-incoming can be repeated; while
 * the peer is lost migrate and migrate_cancel say what to type.  Why the first
 * migration failed is told on both sides; a secondary does not take one that
 * ends without a session.  Connections to the migration port that say nothing,
 * a part of what they are, or something else do not end the secondary, hold its
 * monitor or stay: with multifd, too.  Nor does a second main channel end QEMU:
 * not when it comes, and not at the failure that follows.  A channel of multifd
 * that does not get on holds no monitor, nor hides that the source has gone; one
 * with a number that there is not ends the migration only.  The same with TLS,
 * and a primary does not hang in a handshake with a secondary that does.
 */

#include "qemu/osdep.h"
#include "qemu/sockets.h"
#include "qemu/thread.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "colo-net.h"

/* Nobody may have to wait for it */
#define LONG_TIMEOUT_MS 600000
#define SHORT_TIMEOUT_MS 1000
#define FILLERS         3
/* More than may wait at a time */
#define STRAYS          70
/* What a further channel of multifd begins with, and its length in bytes */
#define CHANNEL_FIRST   0x11
#define CHANNEL_INIT    64
#define ANSWERS         100
#define AGAIN           50
#define KEY             "000102030405060708090a0b0c0d0e0f"
/* Bytes a second, for the first migration to take that long */
#define ABOUT_A_SECOND  (128 * KiB)

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

/* Also over TCP, where unread data resets a connection */
static char *listen_at(ColoPair *p, const char *kind)
{
    bool tcp = !strcmp(kind, "tcp");
    int port = 0, fd = tcp ? new_socket(&port, 1) : -1;
    char *uri = tcp ? g_strdup_printf("tcp:127.0.0.1:%d", port)
                    : g_strdup_printf("unix:%s/mig", p->dir);

    if (tcp) {
        close(fd);
    }
    qtest_qmp_assert_success(p->secondary,
        "{'execute': 'migrate-incoming', 'arguments': {'uri': %s,"
        "'exit-on-error': false}}", uri);
    return uri;
}

static void check_why(QTestState *qts, const char *text)
{
    QDict *status = colo_status(qts);
    QDict *migrate = qtest_qmp_assert_success_ref(qts,
        "{'execute': 'query-migrate'}");

    g_test_message("%s", qdict_get_str(status, "message"));
    g_assert_nonnull(strstr(qdict_get_str(status, "message"), text));
    g_assert_nonnull(strstr(qdict_get_str(migrate, "error-desc"), text));
    qobject_unref(status);
    qobject_unref(migrate);
}

/* The first migration of @p, which goes, fails: the primary hears that @text */
static void check_fails(ColoPair *p, const char *kind, const char *text)
{
    g_autofree char *uri = NULL;

    colo_pair_migrate(p, NULL, NULL, 10, COLO_TIMEOUT_MS);
    uri = listen_at(p, kind);
    begin_migrate(p, uri, COLO_TIMEOUT_MS);
    colo_wait_migrate(p->primary, "failed");
    colo_wait_migrate(p->secondary, "failed");
    check_why(p->primary, text);
    colo_wait_status(p->primary, "running");
    colo_pair_free(p);
}

static void set_multifd(ColoPair *p)
{
    QTestState *sides[] = { p->primary, p->secondary };

    for (int i = 0; i < G_N_ELEMENTS(sides); i++) {
        qtest_qmp_assert_success(sides[i],
            "{'execute': 'migrate-set-capabilities', 'arguments': {"
            "'capabilities': [{'capability': 'multifd', 'state': true}]}}");
    }
}

/* Somebody connects to the secondary's port, says @text, and stays or goes */
static int stray(ColoPair *p, const char *text)
{
    g_autofree char *path = g_build_filename(p->dir, "mig", NULL);
    int fd = unix_connect(path, &error_abort);

    g_assert_cmpint(write(fd, text, strlen(text)), ==, strlen(text));
    return fd;
}

static void check_closed(int fd)
{
    char byte;
    ssize_t got = RETRY_ON_EINTR(read(fd, &byte, 1));

    g_assert_true(got == 0 || (got < 0 && errno == ECONNRESET));
    close(fd);
}

/* They neither end the secondary nor hold it, nor take a place for good */
static void check_strays(ColoPair *p)
{
    g_autofree char *uri = NULL;
    int silent[STRAYS], part, channel, i;

    colo_pair_migrate(p, NULL, NULL, 10, SHORT_TIMEOUT_MS);
    uri = listen_at(p, "unix");
    close(stray(p, ""));
    close(stray(p, "QE"));
    check_closed(stray(p, "GET / HTTP/1.0\r\n\r\n"));
    part = stray(p, "QEV");
    channel = stray(p, "\x11\x22\x33\x44 a part of what a channel says");
    for (i = 0; i < STRAYS; i++) {
        silent[i] = stray(p, "");
        colo_wait_status(p->secondary, "inmigrate");
    }
    begin_migrate(p, uri, COLO_TIMEOUT_MS);
    colo_wait_statistic(p->primary, "checkpoints", 2);
    check_closed(part);
    check_closed(channel);
    for (i = 0; i < STRAYS; i++) {
        check_closed(silent[i]);
    }
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_status(p->secondary, "running");
    colo_pair_free(p);
}

static void test_stray(void)
{
    check_strays(colo_pair_new("periodic"));
}

static void test_stray_multifd(void)
{
    ColoPair *p = colo_pair_new("periodic");

    set_multifd(p);
    check_strays(p);
}

/* Both have the same key for the migration; false if this QEMU has no TLS */
static bool set_tls(ColoPair *p)
{
    g_autofree char *keys = g_build_filename(p->dir, "keys.psk", NULL);
    QTestState *sides[] = { p->primary, p->secondary };
    static const char *const ends[] = {
        "'endpoint': 'client', 'username': 'qemu'", "'endpoint': 'server'"
    };

    g_assert_true(g_file_set_contents(keys, "qemu:" KEY "\n", -1, NULL));
    for (int i = 0; i < G_N_ELEMENTS(sides); i++) {
        g_autofree char *command = g_strdup_printf("{'execute': 'object-add',"
            "'arguments': {'qom-type': 'tls-creds-psk', 'id': 'tls0', %s,"
            "'dir': %%s}}", ends[i]);
        QDict *rsp = qtest_qmp(sides[i], command, p->dir);
        bool ok = !qdict_haskey(rsp, "error");

        qobject_unref(rsp);
        if (!ok) {
            g_test_skip("no TLS");
            return false;
        }
        qtest_qmp_assert_success(sides[i],
            "{'execute': 'migrate-set-parameters', 'arguments': {"
            "'tls-creds': 'tls0'}}");
    }
    return true;
}

static void test_stray_tls(const void *multifd)
{
    ColoPair *p = colo_pair_new("periodic");

    if (!set_tls(p)) {
        colo_pair_free(p);
        return;
    }
    if (multifd) {
        set_multifd(p);
    }
    check_strays(p);
}

/* The secondary hangs: the primary does not, and gives up, or is told to */
static void test_silent_tls(const void *cancel)
{
    ColoPair *p = colo_pair_new("periodic");
    int port, fd = new_socket(&port, AGAIN + 1);
    g_autofree char *uri = g_strdup_printf("tcp:127.0.0.1:%d", port);

    if (set_tls(p)) {
        begin_migrate(p, uri, cancel ? LONG_TIMEOUT_MS : SHORT_TIMEOUT_MS);
        for (int i = 0; i < ANSWERS; i++) {
            colo_wait_status(p->primary, "running");
        }
        for (int i = 0; cancel && i < AGAIN; i++) {
            qtest_qmp_assert_success(p->primary,
                                     "{'execute': 'migrate_cancel'}");
            qtest_qmp_assert_success(p->primary,
                "{'execute': 'migrate', 'arguments': {'uri': %s}}", uri);
        }
        if (cancel) {
            qtest_qmp_assert_success(p->primary,
                                     "{'execute': 'migrate_cancel'}");
            colo_pair_protect(p);
        } else {
            colo_wait_migrate(p->primary, "failed");
            check_why(p->primary, "no TLS handshake within 1000 ms");
        }
        colo_wait_status(p->primary, "running");
    }
    close(fd);
    colo_pair_free(p);
}

/* There are channels 0 and 1 */
static void test_channel_number(void)
{
    uint8_t begin[CHANNEL_INIT] = {
        CHANNEL_FIRST, 0x22, 0x33, 0x44, 0, 0, 0, 1, [24] = 2
    };
    ColoPair *p = colo_pair_new("periodic");
    g_autofree char *uri = NULL;
    QDict *migrate;
    int fd;

    set_multifd(p);
    colo_pair_migrate(p, NULL, NULL, 10, COLO_TIMEOUT_MS);
    uri = listen_at(p, "unix");
    fd = stray(p, "");
    g_assert_cmpint(write(fd, begin, sizeof(begin)), ==, sizeof(begin));
    colo_wait_migrate(p->secondary, "failed");
    colo_wait_status(p->secondary, "inmigrate");
    migrate = qtest_qmp_assert_success_ref(p->secondary,
                                           "{'execute': 'query-migrate'}");
    g_assert_nonnull(strstr(qdict_get_str(migrate, "error-desc"),
                            "received channel id 2 is greater than"));
    qobject_unref(migrate);
    close(fd);
    colo_pair_free(p);
}

/* Who speaks after the migration has failed comes to nothing */
static void test_stray_late(void)
{
    ColoPair *p = colo_pair_new("periodic");
    g_autofree char *uri = NULL;
    int late, fd;

    colo_pair_migrate(p, NULL, NULL, 10, COLO_TIMEOUT_MS);
    uri = listen_at(p, "unix");
    late = stray(p, "");
    colo_wait_status(p->secondary, "inmigrate");
    fd = stray(p, "QEVM, and nothing that is right");
    colo_wait_migrate(p->secondary, "failed");
    g_assert_cmpint(write(late, "QEVM", 4), ==, 4);
    check_closed(late);
    close(fd);
    colo_wait_status(p->secondary, "inmigrate");
    colo_pair_free(p);
}

/* Of a socket that was handed over there is no other one */
static void test_fd(void)
{
    ColoPair *p = colo_pair_new("periodic");
    int fds[2];

    colo_pair_migrate(p, NULL, NULL, 10, COLO_TIMEOUT_MS);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    qtest_qmp_fds_assert_success(p->secondary, &fds[1], 1,
        "{'execute': 'getfd', 'arguments': {'fdname': 'peer'}}");
    qtest_qmp_assert_success(p->secondary,
        "{'execute': 'migrate-incoming', 'arguments': {'uri': 'fd:peer',"
        "'exit-on-error': false}}");
    close(fds[0]);
    close(fds[1]);
    colo_wait_migrate(p->secondary, "failed");
    colo_wait_status(p->secondary, "inmigrate");
    colo_pair_free(p);
}

/* What is left of a migrate that was given up */
static void test_main_channel(void)
{
    static const char begin[] = { 'Q', 'E', 'V', 'M', 0, 0, 0, 3 };
    ColoPair *p = colo_pair_new("periodic");
    g_autofree char *uri = NULL, *path = g_build_filename(p->dir, "mig", NULL);
    int fd;

    set_multifd(p);
    colo_pair_migrate(p, NULL, NULL, 10, COLO_TIMEOUT_MS);
    uri = listen_at(p, "unix");
    fd = unix_connect(path, &error_abort);
    g_assert_cmpint(write(fd, begin, sizeof(begin)), ==, sizeof(begin));
    begin_migrate(p, uri, COLO_TIMEOUT_MS);
    colo_wait_migrate(p->primary, "failed");
    close(fd);
    colo_wait_migrate(p->secondary, "failed");
    colo_wait_status(p->primary, "running");
    colo_wait_status(p->secondary, "inmigrate");
    colo_pair_free(p);
}

/* Between both sides: a channel of the migration stalls, and the others do not */
typedef struct Relay {
    char *from, *to;
    int listener;
    QemuThread thread;
    GPtrArray *pumps;
} Relay;

typedef struct Pump {
    int in, out;
    bool stalls;                /* all that goes beyond the introduction */
    QemuThread thread;
} Pump;

static void *pump(void *opaque)
{
    Pump *p = opaque;
    char data[4096];
    ssize_t got;
    size_t most = p->stalls ? CHANNEL_INIT : sizeof(data);

    while ((got = RETRY_ON_EINTR(read(p->in, data, most))) > 0) {
        if (qemu_write_full(p->out, data, got) != got) {
            break;
        }
        most -= p->stalls ? got : 0;
        if (!most) {
            return NULL;
        }
    }
    shutdown(p->out, SHUT_RDWR);
    return NULL;
}

static void relay_pump(Relay *r, int in, int out, bool stalls)
{
    Pump *p = g_new0(Pump, 1);

    p->in = in;
    p->out = out;
    p->stalls = stalls;
    g_ptr_array_add(r->pumps, p);
    qemu_thread_create(&p->thread, "pump", pump, p, QEMU_THREAD_JOINABLE);
}

static void *relay(void *opaque)
{
    Relay *r = opaque;
    int source;

    while ((source = RETRY_ON_EINTR(accept(r->listener, NULL, NULL))) >= 0) {
        int destination = unix_connect(r->to, &error_abort);
        unsigned char first = 0;

        g_assert_cmpint(RETRY_ON_EINTR(recv(source, &first, 1, MSG_PEEK)), ==,
                        1);
        relay_pump(r, source, destination, first == CHANNEL_FIRST);
        relay_pump(r, destination, source, false);
    }
    return NULL;
}

static void relay_begin(Relay *r, ColoPair *p)
{
    r->from = g_build_filename(p->dir, "relay", NULL);
    r->to = g_build_filename(p->dir, "mig", NULL);
    r->pumps = g_ptr_array_new_with_free_func(g_free);
    r->listener = unix_listen(r->from, &error_abort);
    qemu_thread_create(&r->thread, "relay", relay, r, QEMU_THREAD_JOINABLE);
}

/* Both sides have gone, or are to hear that the other one has */
static void relay_end(Relay *r)
{
    shutdown(r->listener, SHUT_RDWR);
    qemu_thread_join(&r->thread);
    close(r->listener);
    for (unsigned i = 0; i < r->pumps->len; i++) {
        Pump *p = g_ptr_array_index(r->pumps, i);

        shutdown(p->in, SHUT_RDWR);
        shutdown(p->out, SHUT_RDWR);
    }
    for (unsigned i = 0; i < r->pumps->len; i++) {
        Pump *p = g_ptr_array_index(r->pumps, i);

        qemu_thread_join(&p->thread);
        close(p->in);
    }
    g_ptr_array_unref(r->pumps);
    g_free(r->from);
    g_free(r->to);
}

/*
 * The destination waits for a channel that does not get on: it answers, and
 * knows that the source has gone.
 */
static void test_stalled_channel(void)
{
    /* With vapic the lack of one page would be seen later */
    ColoPair *p = colo_pair_new_with("periodic", "tcg",
                                     "-global apic.vapic=off");
    g_autofree char *to = NULL, *uri = NULL;
    Relay r;

    set_multifd(p);
    colo_pair_migrate(p, NULL, NULL, 10, COLO_TIMEOUT_MS);
    to = listen_at(p, "unix");
    relay_begin(&r, p);
    uri = g_strdup_printf("unix:%s", r.from);
    begin_migrate(p, uri, COLO_TIMEOUT_MS);
    colo_wait_migrate(p->secondary, "active");
    for (int i = 0; i < ANSWERS; i++) {
        colo_wait_status(p->secondary, "inmigrate");
    }
    colo_kill(&p->primary);
    colo_wait_migrate(p->secondary, "failed");
    colo_wait_status(p->secondary, "inmigrate");
    relay_end(&r);
    colo_pair_free(p);
}

/* The secondary has not the device that the primary has */
static void test_other_machine(const void *kind)
{
    ColoPair *p = colo_pair_new("periodic");

    qtest_qmp_device_add(p->primary, "e1000", "more",
                         "{'addr': '9', 'romfile': ''}");
    check_fails(p, kind, "0000:00:09.0/e1000");
}

/* It has less memory, and by several channels more is sent than it takes */
static void test_less_memory(const void *kind)
{
    ColoPair *p = colo_pair_new_with("periodic", "tcg",
                                     "-m 64,slots=1,maxmem=2G");

    qtest_qmp_assert_success(p->primary, "{'execute': 'object-add',"
        "'arguments': {'qom-type': 'memory-backend-ram', 'id': 'less',"
        "'size': %d}}", 1024 * 1024 * 1024);
    qtest_qmp_device_add(p->primary, "pc-dimm", "dimm", "{'memdev': 'less'}");
    set_multifd(p);
    check_fails(p, kind, "Unknown ramblock \"less\"");
}

/* Found before anything says that the source has x-colo */
static void test_other_type(const void *kind)
{
    ColoPair *p = colo_pair_new("periodic");

    colo_quit(&p->secondary);
    g_free(p->extra);
    p->extra = g_strdup("-machine q35");
    colo_pair_new_secondary(p);
    check_fails(p, kind, "local is 'pc-q35");
}

/* It has more: a device that would come out of nowhere, or a CPU */
static void test_more_devices(const void *kind)
{
    ColoPair *p = colo_pair_new("periodic");

    qtest_qmp_device_add(p->secondary, "e1000", "more",
                         "{'addr': '9', 'romfile': ''}");
    check_fails(p, kind, "'0000:00:09.0/e1000' (instance 0) is on the "
                "secondary only");
}

static void test_more_cpus(const void *kind)
{
    ColoPair *p = colo_pair_new_with("periodic", "tcg",
                                     "-smp 1,sockets=2,maxcpus=2");

    qtest_qmp_device_add(p->secondary, "qemu64-x86_64-cpu", "cpu1",
                         "{'socket-id': 1, 'core-id': 0, 'thread-id': 0}");
    check_fails(p, kind, "the primary has 1 CPUs, this side has 2: both need "
                "the same");
}

/* @there and @here: options of -smp */
static void check_smp(const char *kind, const char *there, const char *here,
                      const char *text)
{
    g_autofree char *extra = g_strdup_printf("-smp %s", there);
    ColoPair *p = colo_pair_new_with("periodic", "tcg", extra);

    colo_quit(&p->secondary);
    g_free(p->extra);
    p->extra = g_strdup_printf("-smp %s", here);
    colo_pair_new_secondary(p);
    check_fails(p, kind, text);
}

/* With other features, too: how many threads there are is one of them */
static void test_other_smp(const void *kind)
{
    check_smp(kind, "1", "2", "the primary has 1 CPUs, this side has 2");
    check_smp(kind, "2", "1", "Unknown savevm section or instance "
              "'cpu_common' 1");
}

/* Its CPU is another one: what the guest has found in it would be gone */
static void check_cpu(const char *kind, const char *cpu, const char *text)
{
    ColoPair *p = colo_pair_new_with("periodic", "tcg", "-cpu Nehalem");

    colo_quit(&p->secondary);
    g_free(p->extra);
    p->extra = g_strdup_printf("-cpu %s", cpu);
    colo_pair_new_secondary(p);
    check_fails(p, kind, text);
}

static void test_other_cpu(const void *kind)
{
    check_cpu(kind, "qemu64", "a CPU is of model 'Nehalem-x86_64-cpu' at the "
              "primary, and of 'qemu64-x86_64-cpu' here");
    check_cpu(kind, "Nehalem,-sse4.2", "a CPU of model 'Nehalem-x86_64-cpu' "
              "has other features at the primary");
    check_cpu(kind, "Nehalem,pmu=on", "has other features at the primary");
    check_cpu(kind, "Nehalem,hv-time=on", "has other features at the primary");
    check_cpu(kind, "Nehalem,phys-bits=39",
              "has other features at the primary");
}

/* x-colo was forgotten at the primary, whose guest runs on all the same */
static void test_no_colo(const void *kind)
{
    ColoPair *p = colo_pair_new("periodic");
    g_autofree char *uri = NULL;

    colo_pair_migrate(p, NULL, NULL, 10, COLO_TIMEOUT_MS);
    uri = listen_at(p, kind);
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'migrate-set-capabilities', 'arguments': {"
        "'capabilities': [{'capability': 'x-colo', 'state': false}]}}");
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'migrate-set-parameters', 'arguments': {"
        "'max-bandwidth': %d}}", (int)ABOUT_A_SECOND);
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'migrate', 'arguments': {'uri': %s}}", uri);
    colo_wait_migrate(p->primary, "failed");
    colo_wait_status(p->primary, "running");
    colo_wait_migrate(p->secondary, "failed");
    colo_wait_status(p->secondary, "inmigrate");
    colo_pair_free(p);
}

/* What a message says is of the last attempt; one that is refused is none */
static void test_message(void)
{
    ColoPair *p = colo_pair_new("periodic");
    int port, fd = new_socket(&port, 1);
    g_autofree char *uri = g_strdup_printf("tcp:127.0.0.1:%d", port);
    g_autofree char *path = g_strdup_printf("unix:%s/nobody", p->dir);

    close(fd);
    begin_migrate(p, uri, COLO_TIMEOUT_MS);
    colo_wait_migrate(p->primary, "failed");
    check_why(p->primary, uri);
    colo_refused(p->primary, "Cannot resume", "{'execute': 'migrate',"
                 "'arguments': {'uri': %s, 'resume': true}}", uri);
    check_why(p->primary, uri);
    begin_migrate(p, path, COLO_TIMEOUT_MS);
    colo_wait_migrate(p->primary, "failed");
    check_why(p->primary, "nobody");
    colo_pair_free(p);
}

static void test_hmp(void)
{
    ColoPair *p = colo_pair_new("periodic");
    static const char *const commands[] = { "stop", "system_reset" };
    g_autofree char *cancel = NULL;

    colo_pair_protect(p);
    for (int i = 0; i < G_N_ELEMENTS(commands); i++) {
        g_autofree char *answer = qtest_hmp(p->secondary, "%s", commands[i]);

        g_assert_true(g_str_has_prefix(answer, "Error: "));
    }
    colo_cut(p);
    colo_wait_state(p->primary, "lost");
    cancel = qtest_hmp(p->primary, "migrate_cancel");
    g_assert_nonnull(strstr(cancel, "lost-heartbeat"));
    colo_pair_free(p);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*func)(const void *kind);
    } tests[] = {
        { "machine", test_other_machine },
        { "no-colo", test_no_colo },
        { "type", test_other_type },
        { "devices", test_more_devices },
        { "cpus", test_more_cpus },
        { "smp", test_other_smp },
        { "cpu", test_other_cpu },
        { "memory", test_less_memory },
    };
    static const char *const kinds[] = { "unix", "tcp" };

    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/connect/cancelled", test_cancelled);
    qtest_add_func("/colo/connect/deadline", test_deadline);
    qtest_add_func("/colo/connect/closed", test_closed);
    qtest_add_func("/colo/connect/no-host", test_no_host);
    qtest_add_func("/colo/connect/tcp", test_tcp);
    qtest_add_func("/colo/connect/busy", test_busy);
    qtest_add_func("/colo/connect/lost", test_lost);
    qtest_add_func("/colo/connect/message", test_message);
    qtest_add_func("/colo/connect/stray", test_stray);
    qtest_add_func("/colo/connect/stray-multifd", test_stray_multifd);
    qtest_add_data_func("/colo/connect/stray-tls", NULL, test_stray_tls);
    qtest_add_data_func("/colo/connect/stray-tls-multifd", "", test_stray_tls);
    qtest_add_data_func("/colo/connect/silent-tls", NULL, test_silent_tls);
    qtest_add_data_func("/colo/connect/cancelled-tls", "", test_silent_tls);
    qtest_add_func("/colo/connect/channel-number", test_channel_number);
    qtest_add_func("/colo/connect/stray-late", test_stray_late);
    qtest_add_func("/colo/connect/fd", test_fd);
    qtest_add_func("/colo/connect/main-channel", test_main_channel);
    qtest_add_func("/colo/connect/stalled-channel", test_stalled_channel);
    qtest_add_func("/colo/connect/hmp", test_hmp);
    for (int i = 0; i < G_N_ELEMENTS(kinds); i++) {
        for (int k = 0; k < G_N_ELEMENTS(tests); k++) {
            g_autofree char *path = g_strdup_printf("/colo/connect/%s/%s",
                                                    tests[k].name, kinds[i]);

            qtest_add_data_func(path, kinds[i], tests[k].func);
        }
    }
    return g_test_run();
}
