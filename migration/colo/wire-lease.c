/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what a wire knows of the primary's lease, and of questions to the arbiter.
 *
 * Both sides; any thread, all is atomic.
 */

#include "qemu/osdep.h"
#include "qemu/sockets.h"
#include "qemu/timer.h"
#include "wire-lease.h"

void colo_wire_set_round(ColoWire *w, uint16_t round)
{
    qatomic_set(&colo_wire_lease(w)->round, round);
}

uint16_t colo_wire_peer_round(ColoWire *w)
{
    return qatomic_read(&colo_wire_lease(w)->peer_round);
}

void colo_wire_set_asks(ColoWire *w, bool asks)
{
    qatomic_set(&colo_wire_lease(w)->asks, asks);
}

bool colo_wire_gives_lease(ColoWire *w)
{
    return colo_wire_side(w) == COLO_MODE_PRIMARY ||
           !qatomic_read(&colo_wire_lease(w)->asks);
}

void colo_wire_note_lease(ColoWire *w)
{
    qatomic_set(&colo_wire_lease(w)->read_ns,
                qemu_clock_get_ns(QEMU_CLOCK_REALTIME));
}

/*
 * Has the peer's kernel closed it?  What is unread comes before that, and then it
 * looks like a peer that may be there.
 */
static bool is_closed(ColoWire *w)
{
    QIOChannelSocket *socket = colo_channel_socket(colo_wire_channel(w));
    ssize_t n;
    char c;

    if (qatomic_read(&colo_wire_lease(w)->closed) || !socket) {
        return qatomic_read(&colo_wire_lease(w)->closed);
    }
    n = RETRY_ON_EINTR(recv(socket->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT));
    return n == 0 || (n < 0 && errno == ECONNRESET);
}

int64_t colo_wire_lease_end(ColoWire *w)
{
    return is_closed(w) ? 0 : qatomic_read(&colo_wire_lease(w)->read_ns) +
                              colo_wire_beat_timeout(w) * (int64_t)SCALE_MS;
}
