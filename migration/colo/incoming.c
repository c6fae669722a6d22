/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the first migration of a secondary.
 *
 * Main loop, BQL.
 */

#include "qemu/osdep.h"
#include <netinet/tcp.h>
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "io/channel-socket.h"
#include "migration/colo.h"
#include "incoming.h"
#include "params.h"
#include "ram.h"
#include "wire.h"
#include "migration/migration.h"
#include "migration/qemu-file.h"

/* That often a silent host is asked */
#define SILENCE_PROBES 3

/* The TCP socket below the first migration, or NULL */
static QIOChannelSocket *incoming_socket(void)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    QIOChannelSocket *socket =
        colo_channel_socket(qemu_file_get_ioc(mis->from_src_file));

    return socket && (socket->localAddr.ss_family == AF_INET ||
                      socket->localAddr.ss_family == AF_INET6) ? socket : NULL;
}

/*
 * During the first migration: a host that is cut off or has lost its power says
 * nothing, and who receives would wait for it without end.  Half of the timeout
 * may pass without a word, then half of it without an answer.
 */
static void watch_for_silence(uint32_t timeout_ms)
{
    const int on = 1, idle = DIV_ROUND_UP(timeout_ms, 2000);
    const int interval = DIV_ROUND_UP(idle, SILENCE_PROBES);
    const int probes = SILENCE_PROBES;
    QIOChannelSocket *socket = incoming_socket();

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
    QIOChannelSocket *socket = incoming_socket();

    if (socket) {
        setsockopt(socket->fd, SOL_SOCKET, SO_KEEPALIVE, &off, sizeof(off));
    }
}

/* Runs before the first migration loads anything.  BQL. */
int colo_incoming_prepare(void)
{
    Error *err = NULL;

    if (!colo_ram_dirty_log_begin(&err)) {
        error_reportf_err(err, "COLO secondary: ");
        return -EINVAL;
    }
    watch_for_silence(migrate_colo_timeout());
    return 0;
}
