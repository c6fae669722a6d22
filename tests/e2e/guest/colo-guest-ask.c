/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest asks, as a resolver does: the command "ask".
 *
 * "ask PORT MS": for so many milliseconds datagrams to whoever gave the command,
 * each from a socket, and so a port, of its own, not more than one in a tenth of a
 * second.  The answer is to be the same bytes.  Without one in five seconds the
 * question is lost.
 *
 * "ok COUNT LOST P50 P99 MAX", times in microseconds of those that were answered.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-guest.h"

#define MAX_QUESTIONS   10000
#define LOST_MS         5000
#define REST_NS         100000000LL

/* In nanoseconds; -1: no answer, or another one */
static int64_t ask(const struct sockaddr_in *to, unsigned number)
{
    char question[64], answer[sizeof(question) + 1];
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct pollfd pfd = { .fd = fd, .events = POLLIN };
    int len = snprintf(question, sizeof(question), "question %u", number);
    int64_t begin = now_ns();
    bool ok;

    ok = fd >= 0 && !connect(fd, (const struct sockaddr *)to, sizeof(*to)) &&
         send(fd, question, len, 0) == len && poll(&pfd, 1, LOST_MS) == 1 &&
         recv(fd, answer, sizeof(answer), 0) == len &&
         !memcmp(question, answer, len);
    begin = now_ns() - begin;
    if (fd >= 0) {
        close(fd);
    }
    return ok ? begin : -1;
}

static int by_value(const void *a, const void *b)
{
    uint32_t one = *(const uint32_t *)a, two = *(const uint32_t *)b;

    return (one > two) - (one < two);
}

void control_ask(int fd, const char *args)
{
    struct sockaddr_in to;
    socklen_t size = sizeof(to);
    unsigned port, ms, count = 0, n = 0;
    int64_t end;
    uint32_t *us;

    if (sscanf(args, "%u %u", &port, &ms) != 2 || port > 65535 ||
        getpeername(fd, (struct sockaddr *)&to, &size)) {
        send_line(fd, "error ask PORT MS\n");
        return;
    }
    us = calloc(MAX_QUESTIONS, sizeof(*us));
    if (!us) {
        send_line(fd, "error no memory\n");
        return;
    }
    to.sin_port = htons(port);
    end = now_ns() + ms * 1000000LL;
    while (count < MAX_QUESTIONS && now_ns() < end) {
        int64_t begin = now_ns(), ns = ask(&to, count++);

        if (ns >= 0) {
            us[n++] = ns / 1000;
        }
        sleep_until(begin + REST_NS);
    }
    qsort(us, n, sizeof(*us), by_value);
    send_line(fd, "ok %u %u %u %u %u\n", n, count - n, n ? us[n / 2] : 0,
              n ? us[n - 1 - n / 100] : 0, n ? us[n - 1] : 0);
    free(us);
}
