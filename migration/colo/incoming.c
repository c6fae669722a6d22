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
/* Of those that have not said what they are; then the oldest has to go */
#define CALLERS_MAX 64
/* A part of the number has come, which poll() does not tell from all of it */
#define PART_MS 10
/* What a further channel begins with: see migration/multifd.c */
#define CHANNEL_MAGIC 0x11223344U

/* The main loop waits for that long for another channel, then looks around */
#define WAIT_MS 1

typedef struct ColoCaller {
    QIOChannelSocket *ioc;
    guint source;               /* what it waits by; 0 while that runs */
    guint deadline;
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

static CallerKind caller_kind(QIOChannelSocket *ioc)
{
    uint32_t magic;
    ssize_t got = RETRY_ON_EINTR(recv(ioc->fd, &magic, sizeof(magic),
                                      MSG_PEEK | MSG_DONTWAIT));

    if (got < 0) {
        return errno == EAGAIN ? CALLER_SILENT : CALLER_STRANGE;
    }
    if (got == sizeof(magic)) {
        magic = be32_to_cpu(magic);
        return magic == QEMU_VM_FILE_MAGIC ||
               (migrate_multifd() && magic == CHANNEL_MAGIC) ?
               CALLER_CHANNEL : CALLER_STRANGE;
    }
    return got ? CALLER_PART : CALLER_STRANGE;
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

static void caller_wait(ColoCaller *caller, CallerKind kind);

static void caller_look(ColoCaller *caller)
{
    CallerKind kind = caller_kind(caller->ioc);
    QIOChannelSocket *ioc;

    caller->source = 0;
    if (kind == CALLER_SILENT || kind == CALLER_PART) {
        caller_wait(caller, kind);
        return;
    }
    if (kind == CALLER_STRANGE || !runstate_check(RUN_STATE_INMIGRATE) ||
        migration_has_all_channels()) {
        caller_drop(caller);
        return;
    }
    ioc = caller->ioc;
    object_ref(ioc);
    caller_free(caller);
    migration_channel_process_incoming(QIO_CHANNEL(ioc));
    object_unref(ioc);
}

static gboolean caller_readable(QIOChannel *ioc, GIOCondition condition,
                                gpointer opaque)
{
    caller_look(opaque);
    return G_SOURCE_REMOVE;
}

static gboolean caller_again(gpointer opaque)
{
    caller_look(opaque);
    return G_SOURCE_REMOVE;
}

static gboolean caller_late(gpointer opaque)
{
    ColoCaller *caller = opaque;

    caller->deadline = 0;
    caller_drop(caller);
    return G_SOURCE_REMOVE;
}

static void caller_wait(ColoCaller *caller, CallerKind kind)
{
    if (kind == CALLER_PART) {
        caller->source = g_timeout_add(PART_MS, caller_again, caller);
    } else {
        caller->source = qio_channel_add_watch(QIO_CHANNEL(caller->ioc),
                                               G_IO_IN | G_IO_HUP | G_IO_ERR,
                                               caller_readable, caller, NULL);
    }
}

bool colo_incoming_defer(QIOChannel *ioc)
{
    CallerKind kind;
    ColoCaller *caller;

    if (!migrate_colo() || !object_dynamic_cast(OBJECT(ioc),
                                                TYPE_QIO_CHANNEL_SOCKET)) {
        return false;
    }
    watch_for_silence(ioc, migrate_colo_timeout());
    if (migrate_channel_requires_tls_upgrade(ioc)) {
        return false;
    }
    kind = caller_kind(QIO_CHANNEL_SOCKET(ioc));
    if (kind == CALLER_CHANNEL) {
        return false;
    }
    caller = g_new0(ColoCaller, 1);
    caller->ioc = QIO_CHANNEL_SOCKET(ioc);
    object_ref(ioc);
    g_queue_push_tail(&callers, caller);
    if (kind == CALLER_STRANGE) {
        caller_drop(caller);
        return true;
    }
    caller->deadline = g_timeout_add(migrate_colo_timeout(), caller_late,
                                     caller);
    caller_wait(caller, kind);
    if (g_queue_get_length(&callers) > CALLERS_MAX) {
        caller_drop(g_queue_peek_head(&callers));
    }
    return true;
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

bool colo_incoming_wait(QemuSemaphore *sem, int *exiting)
{
    if (!migrate_colo() || !qemu_in_coroutine()) {
        qemu_sem_wait(sem);
        return true;
    }
    while (qemu_sem_timedwait(sem, WAIT_MS) < 0) {
        if (qatomic_read(exiting) || main_channel_ended()) {
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
