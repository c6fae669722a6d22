/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's last words: what it sends right before it powers off.
 *
 * A connection to the service says "BYTES SEED\n" and waits.  The command
 * "last" sends so many bytes of that stream on each of them, ends it, and powers
 * off as soon as the NIC has it all.  So few bytes need no acknowledgement.
 * That the kernel has given all to the NIC is known; the NIC, which is reset
 * when the guest powers off, gets a moment to take it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-guest.h"
#include "colo-stream.h"

#define MAX_CONNECTIONS     64
#define MAX_BYTES           10000       /* the first window of TCP */
#define NIC_NS              20000000LL
#define UNSENT_NS           2000000000LL    /* the longest wait for the kernel */

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
    shutdown(last->fd, SHUT_WR);
}

static void await_sent(const Last *last)
{
    int64_t deadline = now_ns() + UNSENT_NS;
    int unsent;

    while (ioctl(last->fd, SIOCOUTQNSD, &unsent) == 0 && unsent &&
           now_ns() < deadline) {
        sleep_until(now_ns() + 1000000);
    }
    if (getpid() != 1) {
        close(last->fd);    /* in a guest that is about to end nobody notices */
    }
}

void control_last(int fd, const char *args)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < n_waiting; i++) {
        say_last(&waiting[i]);
    }
    for (unsigned i = 0; i < n_waiting; i++) {
        await_sent(&waiting[i]);
    }
    n_waiting = 0;
    if (getpid() == 1) {
        sleep_until(now_ns() + NIC_NS);
        reboot(RB_POWER_OFF);
    }
    pthread_mutex_unlock(&lock);
    send_line(fd, "ok\n");
}
