/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the first migration of a secondary, and who connects to it.
 *
 * Whoever looks whether the migration port is open, or takes it for another one,
 * is no source of a migration, and must neither end the secondary nor have its
 * main loop wait for what never comes.  So a connection counts once it has sent
 * the magic number of a channel; until then it is kept here.
 *
 * Main loop, BQL.
 */

#include "qemu/osdep.h"
#include <netinet/tcp.h>
#include <poll.h>
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "block/aio.h"
#include "io/channel-socket.h"
#include "migration/colo.h"
#include "system/runstate.h"
#include "incoming.h"
#include "params.h"
#include "ram.h"
#include "wire.h"
#include "migration/channel.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "migration/savevm.h"
#include "migration/tls.h"

/* That often a silent host is asked */
#define SILENCE_PROBES 3
/*
 * Of those that have not said what they are, besides the channels of multifd;
 * then the oldest has to go
 */
#define CALLERS_MAX 64
/* A part of the number has come, which poll() does not tell from all of it */
#define PART_MS 10
/*
 * What a further channel begins with, and how long that is, which is read at
 * once: see migration/multifd.c
 */
#define CHANNEL_MAGIC 0x11223344U
#define CHANNEL_BYTES 64
/* The type of the first record of TLS */
#define TLS_HANDSHAKE 22

/* The main loop waits for that long for another channel, then looks around */
#define WAIT_MS 1

typedef struct ColoCaller {
    QIOChannel *ioc;            /* a socket, or TLS */
    void *port;                 /* where it came, and only there it counts */
    guint source;               /* what it waits by; 0 while that runs */
    guint deadline;
    bool heard;                 /* something, by TLS */
} ColoCaller;

typedef enum {
    CALLER_SILENT,
    CALLER_PART,                /* of the number has come */
    CALLER_CHANNEL,
    CALLER_STRANGE,
} CallerKind;

static GQueue callers = G_QUEUE_INIT;   /* of ColoCaller, the oldest first */

/* Is there TCP below @ioc?  NULL if not. */
static QIOChannelSocket *tcp_socket(QIOChannel *ioc)
{
    QIOChannelSocket *socket = colo_channel_socket(ioc);

    return socket && (socket->localAddr.ss_family == AF_INET ||
                      socket->localAddr.ss_family == AF_INET6) ? socket : NULL;
}

/* That of the first migration */
static QIOChannel *main_channel(void)
{
    MigrationIncomingState *mis = migration_incoming_get_current();

    return qemu_file_get_ioc(mis->from_src_file);
}

/*
 * During the first migration: a host that is cut off or has lost its power says
 * nothing, and who receives would wait for it without end.  Half of the timeout
 * may pass without a word, then half of it without an answer.
 */
static void watch_for_silence(QIOChannel *ioc, uint32_t timeout_ms)
{
    const int on = 1, idle = DIV_ROUND_UP(timeout_ms, 2000);
    const int interval = DIV_ROUND_UP(idle, SILENCE_PROBES);
    const int probes = SILENCE_PROBES;
    QIOChannelSocket *socket = tcp_socket(ioc);

    if (socket &&
        (setsockopt(socket->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) ||
         setsockopt(socket->fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle,
                    sizeof(idle)) ||
         setsockopt(socket->fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval,
                    sizeof(interval)) ||
         setsockopt(socket->fd, IPPROTO_TCP, TCP_KEEPCNT, &probes,
                    sizeof(probes)))) {
        warn_report("COLO secondary: a primary that falls silent in the first "
                    "migration is not noticed: %s", strerror(errno));
    }
}

void colo_incoming_watch_end(void)
{
    const int off = 0;
    QIOChannelSocket *socket = tcp_socket(main_channel());

    if (socket) {
        setsockopt(socket->fd, SOL_SOCKET, SO_KEEPALIVE, &off, sizeof(off));
    }
}

static bool is_socket(QIOChannel *ioc)
{
    return object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_SOCKET);
}

static CallerKind socket_kind(QIOChannel *ioc)
{
    uint8_t bytes[CHANNEL_BYTES];
    ssize_t got = RETRY_ON_EINTR(recv(QIO_CHANNEL_SOCKET(ioc)->fd, bytes,
                                      sizeof(bytes), MSG_PEEK | MSG_DONTWAIT));
    uint32_t magic;

    if (got <= 0) {
        return got && errno == EAGAIN ? CALLER_SILENT : CALLER_STRANGE;
    }
    if (migrate_channel_requires_tls_upgrade(ioc)) {
        return bytes[0] == TLS_HANDSHAKE ? CALLER_CHANNEL : CALLER_STRANGE;
    }
    if (got < sizeof(magic)) {
        return CALLER_PART;
    }
    magic = ldl_be_p(bytes);
    if (migrate_multifd() && magic == CHANNEL_MAGIC) {
        return got < sizeof(bytes) ? CALLER_PART : CALLER_CHANNEL;
    }
    return magic == QEMU_VM_FILE_MAGIC ? CALLER_CHANNEL : CALLER_STRANGE;
}

/* By TLS nothing can be looked at; who is there has shown who it is */
static CallerKind caller_kind(const ColoCaller *caller)
{
    if (is_socket(caller->ioc)) {
        return socket_kind(caller->ioc);
    }
    return caller->heard ? CALLER_CHANNEL : CALLER_SILENT;
}

static void caller_free(ColoCaller *caller)
{
    g_queue_remove(&callers, caller);
    if (caller->source) {
        g_source_remove(caller->source);
    }
    if (caller->deadline) {
        g_source_remove(caller->deadline);
    }
    object_unref(caller->ioc);
    g_free(caller);
}

/* The last reference closes it */
static void caller_drop(ColoCaller *caller)
{
    warn_report_once("COLO secondary: a connection to the migration port is "
                     "no migration: closed, as any like it will be");
    caller_free(caller);
}

/* That is being processed */
static QIOChannel *let_in;
/* The port at which the last one came that speaks TLS; NULL: none, or no port */
static void *handshakes_at;

static void caller_wait(ColoCaller *caller, CallerKind kind);
static gboolean caller_late(gpointer opaque);

/* Where connections come to; NULL: there is no port, or not any more */
static void *open_port(void)
{
    return migration_incoming_get_current()->transport_data;
}

/* The migration gets on, and the main channel says nothing until all are there */
static void callers_have_time(void)
{
    for (GList *l = callers.head; l; l = l->next) {
        ColoCaller *caller = l->data;

        g_clear_handle_id(&caller->deadline, g_source_remove);
        caller->deadline = g_timeout_add(migrate_colo_timeout(), caller_late,
                                         caller);
    }
}

static void caller_look(ColoCaller *caller)
{
    CallerKind kind = caller_kind(caller);
    QIOChannel *ioc;

    if (caller->port != open_port() || !runstate_check(RUN_STATE_INMIGRATE) ||
        migration_has_all_channels() || kind == CALLER_STRANGE) {
        caller_drop(caller);
        return;
    }
    if (kind != CALLER_CHANNEL) {
        caller_wait(caller, kind);
        return;
    }
    ioc = caller->ioc;
    object_ref(ioc);
    caller_free(caller);
    let_in = ioc;
    migration_channel_process_incoming(ioc);
    let_in = NULL;
    object_unref(ioc);
}

static gboolean caller_again(gpointer opaque)
{
    ColoCaller *caller = opaque;

    caller->source = 0;
    caller_look(caller);
    return G_SOURCE_REMOVE;
}

static gboolean caller_readable(QIOChannel *ioc, GIOCondition condition,
                                gpointer opaque)
{
    ColoCaller *caller = opaque;

    caller->heard = true;
    return caller_again(caller);
}

static gboolean caller_late(gpointer opaque)
{
    ColoCaller *caller = opaque;

    caller->deadline = 0;
    /* This process may have stood, and not the caller */
    if (caller_kind(caller) == CALLER_CHANNEL) {
        caller_look(caller);
    } else {
        caller_drop(caller);
    }
    return G_SOURCE_REMOVE;
}

static void caller_wait(ColoCaller *caller, CallerKind kind)
{
    if (kind == CALLER_PART) {
        caller->source = g_timeout_add(PART_MS, caller_again, caller);
    } else {
        caller->source = qio_channel_add_watch(caller->ioc,
                                               G_IO_IN | G_IO_HUP | G_IO_ERR,
                                               caller_readable, caller, NULL);
    }
}

static void caller_new(QIOChannel *ioc, CallerKind kind)
{
    unsigned most = CALLERS_MAX +
                    (migrate_multifd() ? migrate_multifd_channels() : 0);
    ColoCaller *caller = g_new0(ColoCaller, 1);

    caller->ioc = ioc;
    object_ref(ioc);
    caller->port = open_port();
    g_queue_push_tail(&callers, caller);
    if (kind == CALLER_STRANGE) {
        caller_drop(caller);
        return;
    }
    caller->deadline = g_timeout_add(migrate_colo_timeout(), caller_late,
                                     caller);
    caller_wait(caller, kind);
    if (g_queue_get_length(&callers) > most) {
        caller_drop(g_queue_peek_head(&callers));
    }
}

/* A socket, and TLS is due: its handshake does not block the main loop */
static void begin_handshake(QIOChannel *ioc)
{
    qio_channel_set_blocking(ioc, false, NULL);
    handshakes_at = open_port();
}

/* A handshake is over.  True: it is to be seen later whether it says something. */
static bool defer_tls(QIOChannel *ioc)
{
    if (handshakes_at && handshakes_at != open_port()) {
        return true;            /* the migration is over, too */
    }
    if (!handshakes_at || !migrate_multifd() ||
        !migration_incoming_get_current()->from_src_file) {
        return false;
    }
    caller_new(ioc, CALLER_SILENT);
    return true;
}

bool colo_incoming_defer(QIOChannel *ioc)
{
    CallerKind kind = CALLER_CHANNEL;

    if (!migrate_colo()) {
        return false;
    }
    if (!is_socket(ioc)) {
        return ioc != let_in && defer_tls(ioc);
    }
    /* Of a descriptor that was handed over there is no other one */
    if (ioc != let_in) {
        watch_for_silence(ioc, migrate_colo_timeout());
    }
    if (ioc != let_in && open_port()) {
        kind = socket_kind(ioc);
    }
    if (kind != CALLER_CHANNEL) {
        caller_new(ioc, kind);
        return true;
    }
    callers_have_time();
    if (migrate_channel_requires_tls_upgrade(ioc)) {
        begin_handshake(ioc);
    }
    return false;
}

/* The source keeps it for the session; so it has gone, or its host has */
static bool main_channel_ended(void)
{
    QIOChannelSocket *socket = colo_channel_socket(main_channel());
    struct pollfd fd = { .events = POLLRDHUP };

    if (!socket) {
        return false;
    }
    fd.fd = socket->fd;
    return RETRY_ON_EINTR(poll(&fd, 1, 0)) > 0;
}

/* What it lacks then never comes: what is loaded further must fail */
static void fail_load(const char *why)
{
    MigrationState *s = migrate_get_current();
    g_autofree char *known = NULL;

    WITH_QEMU_LOCK_GUARD(&s->error_mutex) {
        known = s->error ? g_strdup(error_get_pretty(s->error)) : NULL;
    }
    error_report("COLO secondary: RAM is missing: %s", known ?: why);
    qemu_file_set_error(migration_incoming_get_current()->from_src_file, -EIO);
}

bool colo_incoming_wait(QemuSemaphore *sem, int *exiting)
{
    if (!migrate_colo() || !qemu_in_coroutine()) {
        qemu_sem_wait(sem);
        return true;
    }
    while (qemu_sem_timedwait(sem, WAIT_MS) < 0) {
        if (qatomic_read(exiting)) {
            fail_load("a channel has failed");
            return false;
        }
        if (main_channel_ended()) {
            fail_load("the source has gone before all had arrived");
            return false;
        }
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, WAIT_MS * SCALE_MS);
    }
    return true;
}

/* Runs before the first migration loads anything.  BQL. */
int colo_incoming_prepare(void)
{
    Error *err = NULL;

    if (!colo_ram_dirty_log_begin(&err)) {
        error_reportf_err(err, "COLO secondary: ");
        return -EINVAL;
    }
    return 0;
}
