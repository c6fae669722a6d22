/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the primary connects to the secondary, with a deadline.
 *
 * Main loop, BQL.
 *
 * Theory of operation
 *
 * A connect() in a thread of its own cannot be called off: it may succeed
 * minutes after migrate_cancel, when a link is there again, and then the
 * secondary gets a connection that nobody has asked for.  So here it is done
 * without blocking, for one address of the host after the other.  Whoever
 * cancels closes the socket, after which no packet is sent any more.  There is
 * at most one attempt at a time; it has x-colo-timeout for the name and all
 * addresses.
 *
 *   begin --> the name is resolved --> connect() to the first address
 *                  |                      | ^ fails: the next one
 *                  |                      v |
 *                  '---- deadline ----> the end: the callback gets a channel
 *                                       or an error; after a cancel, nothing
 *
 * A TLS handshake comes after that, by functions of the base.  It is given the
 * same time once more, and does not block either.
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/sockets.h"
#include "qemu/timer.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-sockets.h"
#include "io/channel-socket.h"
#include "io/channel-tls.h"
#include "io/dns-resolver.h"
#include "migration/colo.h"
#include "params.h"
#include "migration/options.h"

typedef struct Attempt {
    unsigned refs;              /* the list below, the resolver */
    SocketAddress *to;          /* what the user has named */
    QIOTaskFunc fn;
    void *opaque;
    GDestroyNotify free_opaque;
    QEMUTimer *deadline;
    uint32_t timeout_ms;
    size_t n_addrs;             /* numeric ones of the same host */
    SocketAddress **addrs;
    size_t next;
    int fd;                     /* connecting, or -1 */
    Error *err;                 /* of the address before */
} Attempt;

/* The one that is under way, or NULL */
static Attempt *current;

/* The handshake that follows it with TLS, or all NULL */
static struct {
    QIOChannel *ioc;            /* TLS; who began it has a reference */
    QEMUTimer *deadline;
    uint32_t timeout_ms;
    bool late;
} handshake;

/* Those that were cancelled, and have not heard of it yet */
static GSList *cancelled;

static void try_next(Attempt *a);

static void attempt_unref(Attempt *a)
{
    if (--a->refs) {
        return;
    }
    for (size_t i = 0; i < a->n_addrs; i++) {
        qapi_free_SocketAddress(a->addrs[i]);
    }
    g_free(a->addrs);
    qapi_free_SocketAddress(a->to);
    a->free_opaque(a->opaque);
    error_free(a->err);
    g_free(a);
}

static void close_fd(Attempt *a)
{
    if (a->fd >= 0) {
        qemu_set_fd_handler(a->fd, NULL, NULL, NULL);
        close(a->fd);
        a->fd = -1;
    }
}

/* From here on nothing of it happens any more.  The caller has a reference. */
static void attempt_stop(Attempt *a)
{
    assert(current == a);
    current = NULL;
    close_fd(a);
    timer_free(a->deadline);
}

/* The end: there is a channel, @sioc, or an error */
static void attempt_end(Attempt *a, QIOChannelSocket *sioc, Error *err)
{
    QIOTask *task;

    attempt_stop(a);
    if (!sioc) {
        g_autofree char *to = socket_uri(a->to);

        error_prepend(&err, "cannot connect to %s: ", to);
        sioc = qio_channel_socket_new();
    }
    qio_channel_set_name(QIO_CHANNEL(sioc), "migration-socket-outgoing");
    task = qio_task_new(OBJECT(sioc), a->fn, a->opaque, NULL);
    if (err) {
        qio_task_set_error(task, err);
    }
    /* The callback drops the first reference to the channel */
    qio_task_complete(task);
    qio_task_free(task);
    attempt_unref(a);
}

static void connected(void *opaque)
{
    Attempt *a = opaque;
    QIOChannelSocket *sioc;
    int err = 0;
    socklen_t len = sizeof(err);

    if (getsockopt(a->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0) {
        err = errno;
    }
    if (err) {
        error_free(a->err);
        a->err = NULL;
        error_setg_errno(&a->err, err, "connect");
        try_next(a);
        return;
    }
    qemu_set_fd_handler(a->fd, NULL, NULL, NULL);
    qemu_socket_set_block(a->fd);
    error_free(a->err);
    a->err = NULL;
    sioc = qio_channel_socket_new_fd(a->fd, &a->err);
    if (sioc) {
        a->fd = -1;
    }
    attempt_end(a, sioc, g_steal_pointer(&a->err));
}

/* False with @errp set if it has failed at once */
static bool begin_connect(Attempt *a, const InetSocketAddress *addr,
                          Error **errp)
{
    const struct addrinfo hints = {
        .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
        .ai_socktype = SOCK_STREAM,
    };
    const int on = a->to->u.inet.keep_alive;
    struct addrinfo *info;
    int ret = getaddrinfo(addr->host, addr->port, &hints, &info);

    if (ret) {
        error_setg(errp, "%s: %s", addr->host, gai_strerror(ret));
        return false;
    }
    a->fd = qemu_socket(info->ai_family, info->ai_socktype,
                        info->ai_protocol);
    if (a->fd >= 0) {
        qemu_socket_set_nonblock(a->fd);
        setsockopt(a->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    }
    if (a->fd < 0 || (connect(a->fd, info->ai_addr, info->ai_addrlen) < 0 &&
                      errno != EINPROGRESS)) {
        error_setg_errno(errp, errno, "connect");
    } else {
        qemu_set_fd_handler(a->fd, NULL, connected, a);
    }
    freeaddrinfo(info);
    return !*errp;
}

static void try_next(Attempt *a)
{
    while (a->next < a->n_addrs) {
        close_fd(a);
        error_free(a->err);
        a->err = NULL;
        if (begin_connect(a, &a->addrs[a->next++]->u.inet, &a->err)) {
            return;
        }
    }
    attempt_end(a, NULL, g_steal_pointer(&a->err));
}

/* The name is resolved, perhaps after all is over */
static void resolved(QIOTask *task, void *opaque)
{
    Attempt *a = opaque;
    Error *err = NULL;

    if (a == current && qio_task_propagate_error(task, &err)) {
        attempt_end(a, NULL, err);
    } else if (a == current) {
        qio_dns_resolver_lookup_result(qio_dns_resolver_get_instance(), task,
                                       &a->n_addrs, &a->addrs);
        try_next(a);
    }
    attempt_unref(a);
}

static void deadline_over(void *opaque)
{
    Attempt *a = opaque;
    Error *err = NULL;

    error_setg(&err, "no answer within %u ms", a->timeout_ms);
    attempt_end(a, NULL, err);
}

bool colo_connect(SocketAddress *to, QIOTaskFunc fn, void *opaque,
                  GDestroyNotify free_opaque)
{
    Attempt *a;

    if (!migrate_colo() || to->type != SOCKET_ADDRESS_TYPE_INET ||
        migrate_zero_copy_send() ||
        (to->u.inet.has_mptcp && to->u.inet.mptcp)) {
        return false;
    }
    assert(!current);
    a = g_new0(Attempt, 1);
    a->refs = 2;
    a->to = QAPI_CLONE(SocketAddress, to);
    a->fn = fn;
    a->opaque = opaque;
    a->free_opaque = free_opaque;
    a->fd = -1;
    a->timeout_ms = migrate_colo_timeout();
    a->deadline = timer_new_ms(QEMU_CLOCK_REALTIME, deadline_over, a);
    timer_mod(a->deadline, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                           a->timeout_ms);
    current = a;
    /* Each lookup drops a reference to the resolver that it has not taken */
    object_ref(OBJECT(qio_dns_resolver_get_instance()));
    qio_dns_resolver_lookup_async(qio_dns_resolver_get_instance(), a->to,
                                  resolved, a, NULL);
    return true;
}

/* The handshake fails, as soon as the main loop sees it */
static void handshake_stop(void)
{
    qio_channel_shutdown(QIO_CHANNEL_TLS(handshake.ioc)->master,
                         QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
}

static void handshake_late(void *opaque)
{
    handshake.late = true;
    handshake_stop();
}

static void handshake_forget(void)
{
    g_clear_pointer(&handshake.deadline, timer_free);
    handshake.ioc = NULL;
}

void colo_handshake_begin(QIOChannel *ioc)
{
    if (!migrate_colo()) {
        return;
    }
    assert(!handshake.ioc);
    qio_channel_set_blocking(ioc, false, NULL);
    handshake.ioc = ioc;
    handshake.timeout_ms = migrate_colo_timeout();
    handshake.late = false;
    handshake.deadline = timer_new_ms(QEMU_CLOCK_REALTIME, handshake_late,
                                      NULL);
    timer_mod(handshake.deadline, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                                  handshake.timeout_ms);
}

bool colo_handshake_end(QIOChannel *ioc, Error **err)
{
    GSList *gone = g_slist_find(cancelled, ioc);

    if (gone) {
        cancelled = g_slist_delete_link(cancelled, gone);
        return false;
    }
    if (handshake.ioc != ioc) {
        return true;
    }
    if (*err && handshake.late) {
        error_free(*err);
        *err = NULL;
        error_setg(err, "no TLS handshake within %u ms",
                   handshake.timeout_ms);
    }
    handshake_forget();
    return true;
}

bool colo_connect_cancel(void)
{
    Attempt *a = current;

    if (handshake.ioc) {
        handshake_stop();
        cancelled = g_slist_prepend(cancelled, handshake.ioc);
        handshake_forget();
        return true;
    }
    if (!a) {
        return false;
    }
    attempt_stop(a);
    attempt_unref(a);
    return true;
}
