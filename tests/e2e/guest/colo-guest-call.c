/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest as the client: it calls, again and again.
 *
 * A connection to the service says "PORT SEED\n".  From then on the guest
 * connects to that port of whoever said so: call 0, 1, 2 and so on, each a
 * connection of its own with one to four requests (colo-call.h), a moment apart.
 * Every answer has to be right.  If one is not, or a connection breaks, the
 * service says "error ..." on its own connection and ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-call.h"
#include "colo-guest.h"

#define USER_TIMEOUT_MS     60000

/* One request and its answer; NULL or what is wrong */
static const char *call_once(int fd, uint64_t seed, uint32_t call,
                             uint32_t round)
{
    CallMessage request, answer;
    ssize_t n;

    call_request(&request, seed, call, round);
    if (fault == FAULT_CHANGE && call == FAULT_TICK) {
        request.body[9] ^= 1;
    }
    if (send(fd, &request, sizeof(request), MSG_NOSIGNAL) != sizeof(request)) {
        return strerror(errno);
    }
    n = recv(fd, &answer, sizeof(answer), MSG_WAITALL);
    if (n != sizeof(answer)) {
        return n < 0 ? strerror(errno) : "an end too early";
    }
    call_answer(&answer);
    return memcmp(&request, &answer, sizeof(answer)) ? "a wrong answer" : NULL;
}

static const char *call_rounds_of(int fd, uint64_t seed, uint32_t call)
{
    const char *wrong = NULL;
    char rest;

    for (unsigned round = 0; !wrong && round < call_rounds(call); round++) {
        if (round) {
            sleep_until(now_ns() + TICK_NS);
        }
        wrong = call_once(fd, seed, call, round);
    }
    if (!wrong && !call_guest_closes(call) &&
        recv(fd, &rest, 1, MSG_WAITALL) != 0) {
        wrong = "no end";
    }
    return wrong;
}

static const char *call(const struct sockaddr_in *to, uint64_t seed,
                        uint32_t number)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1, timeout = USER_TIMEOUT_MS;
    const char *wrong;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
    if (fd < 0 || connect(fd, (const struct sockaddr *)to, sizeof(*to))) {
        wrong = strerror(errno);
    } else {
        wrong = call_rounds_of(fd, seed, number);
    }
    if (fd >= 0) {
        close(fd);
    }
    return wrong;
}

/* Is there still somebody who wants to be called? */
static bool is_wanted(int fd)
{
    char c;

    return recv(fd, &c, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

void serve_call(int fd)
{
    struct sockaddr_in to;
    socklen_t len = sizeof(to);
    unsigned long long seed;
    const char *wrong = NULL;
    uint32_t number = 0;
    char line[128];
    unsigned port;
    bool faulty = false;

    if (!recv_line(fd, line, sizeof(line)) ||
        sscanf(line, "%u %llu", &port, &seed) != 2 ||
        getpeername(fd, (struct sockaddr *)&to, &len)) {
        return;
    }
    to.sin_port = htons(port);
    while (!wrong && is_wanted(fd)) {
        wrong = call(&to, seed, number);
        if (wrong) {
            break;
        }
        if (number == FAULT_TICK && !faulty &&
            (fault == FAULT_LOSE || fault == FAULT_REPEAT)) {
            faulty = true;
            number += fault == FAULT_LOSE;
            number -= fault == FAULT_REPEAT;
        }
        number++;
    }
    if (wrong && is_wanted(fd)) {
        send_line(fd, "error call %u: %s\n", number, wrong);
    }
}
