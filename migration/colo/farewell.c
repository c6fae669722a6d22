/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: a connection that is over on this side and not on the other.
 *
 * Both sides; main loop.
 *
 * Whoever goes on says so, and may not wait for an answer: the other process
 * may be stopped.  It has to find that word when it goes on.  But a socket that
 * is closed while something in it is unread resets the connection, and takes
 * along what the peer has not read yet.  So a copy of it stays open, and what
 * comes is thrown away.
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/sockets.h"
#include "block/aio.h"
#include "farewell.h"
#include "wire.h"

static void read_away(void *opaque)
{
    int fd = GPOINTER_TO_INT(opaque);
    char buf[4096];
    ssize_t n;

    do {
        n = RETRY_ON_EINTR(recv(fd, buf, sizeof(buf), 0));
    } while (n > 0);
    if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) {
        qemu_set_fd_handler(fd, NULL, NULL, NULL);
        close(fd);
    }
}

static void begin(void *opaque)
{
    qemu_set_fd_handler(GPOINTER_TO_INT(opaque), read_away, NULL, opaque);
}

void colo_farewell(QIOChannel *ioc)
{
    QIOChannelSocket *socket = colo_channel_socket(ioc);
    int fd = socket ? qemu_dup(socket->fd) : -1;

    if (fd >= 0) {
        qemu_socket_set_nonblock(fd);
        aio_bh_schedule_oneshot(qemu_get_aio_context(), begin,
                                GINT_TO_POINTER(fd));
    }
}
