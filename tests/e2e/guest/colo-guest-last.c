/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's last words: what it sends right before it powers off.
 *
 * A connection to the service says "BYTES SEED\n" and waits.  The command
 * "last" sends so many bytes of that stream on each of them, closes it, and
 * powers off at once.  So few bytes leave without any acknowledgement: all of
 * it has been given to the NIC by then, and the end of the stream as well.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-guest.h"
#include "colo-stream.h"

#define MAX_CONNECTIONS     64
#define MAX_BYTES           10000       /* the first window of TCP */

typedef struct Last {
    int fd;
    unsigned bytes;
    unsigned long long seed;
} Last;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Last waiting[MAX_CONNECTIONS];   /* lock */
static unsigned n_waiting;              /* lock */

void serve_last(int fd)
{
    char line[128];
    Last last;

    if (!recv_line(fd, line, sizeof(line)) ||
        sscanf(line, "%u %llu", &last.bytes, &last.seed) != 2 ||
        !last.bytes || last.bytes > MAX_BYTES) {
        return;
    }
    /* The caller closes its own */
    last.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    pthread_mutex_lock(&lock);
    if (last.fd >= 0 && n_waiting < MAX_CONNECTIONS) {
        waiting[n_waiting++] = last;
        send_line(fd, "waiting\n");
    } else if (last.fd >= 0) {
        close(last.fd);
    }
    pthread_mutex_unlock(&lock);
}

static void say_last(const Last *last)
{
    uint8_t buf[MAX_BYTES];
    unsigned bytes = last->bytes;
    ColoStream stream;

    colo_stream_init(&stream, last->seed);
    colo_stream_fill(&stream, buf, bytes);
    if (fault == FAULT_LOSE) {
        bytes--;
    } else if (fault) {
        buf[bytes / 2] ^= 1;
    }
    send(last->fd, buf, bytes, MSG_NOSIGNAL);
    close(last->fd);
}

void control_last(int fd, const char *args)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < n_waiting; i++) {
        say_last(&waiting[i]);
    }
    n_waiting = 0;
    if (getpid() == 1) {
        reboot(RB_POWER_OFF);
    }
    pthread_mutex_unlock(&lock);
    send_line(fd, "ok\n");
}
