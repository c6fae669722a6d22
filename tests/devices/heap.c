/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Says how much of a program's heap is in use.  Loaded into QEMU by LD_PRELOAD;
 * a thread of its own answers each datagram that comes to the unix socket
 * COLO_HEAP_SOCKET with that number of bytes, in decimal.
 */
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int heap_socket;

static void *heap_answer(void *unused)
{
    struct sockaddr_un peer;
    char buf[32];

    for (;;) {
        socklen_t len = sizeof(peer);
        struct mallinfo2 info;

        if (recvfrom(heap_socket, buf, sizeof(buf), 0,
                     (struct sockaddr *)&peer, &len) < 0) {
            return unused;
        }
        info = mallinfo2();
        snprintf(buf, sizeof(buf), "%zu", info.uordblks + info.hblkhd);
        sendto(heap_socket, buf, strlen(buf), 0,
               (struct sockaddr *)&peer, len);
    }
}

static void __attribute__((constructor)) heap_start(void)
{
    struct sockaddr_un self = { .sun_family = AF_UNIX };
    const char *path = getenv("COLO_HEAP_SOCKET");
    sigset_t all, old;
    pthread_t thread;

    if (!path || strlen(path) >= sizeof(self.sun_path)) {
        return;
    }
    strcpy(self.sun_path, path);
    heap_socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (heap_socket < 0 ||
        bind(heap_socket, (struct sockaddr *)&self, sizeof(self)) < 0) {
        perror(path);
        abort();
    }
    /* QEMU's signals are for QEMU's threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (pthread_create(&thread, NULL, heap_answer, NULL)) {
        abort();
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    unsetenv("COLO_HEAP_SOCKET");
}
