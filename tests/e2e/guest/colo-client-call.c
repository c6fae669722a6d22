/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mode "call" of the client: the guest is the client here, this is who it
 * calls (see colo-guest-call.c).  Each call has to come once, in its turn, with
 * all its requests and none of them twice, and to end in an orderly way.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-call.h"
#include "colo-client.h"

/* The guest makes one call at a time: one is open, others may be ending */
#define MAX_CALLS           8

typedef struct Call {
    int fd;                     /* -1 = free */
    uint32_t number;
    unsigned round;             /* the next one */
    size_t got;                 /* bytes of its request */
    CallMessage request;
} Call;

typedef struct Caller {
    Call calls[MAX_CALLS];
    struct pollfd pfd[2 + MAX_CALLS];   /* listener, the guest's word, calls */
    uint32_t next;              /* call */
    unsigned ended;
    unsigned long long requests;
    Gap gap;
} Caller;

static int listen_for_calls(int *port)
{
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd >= 0 &&
        (bind(fd, (struct sockaddr *)&address, sizeof(address)) ||
         listen(fd, MAX_CALLS) ||
         getsockname(fd, (struct sockaddr *)&address, &len))) {
        close(fd);
        return -1;
    }
    *port = ntohs(address.sin_port);
    return fd;
}

static const char *take_call(Caller *c)
{
    int fd = accept4(c->pfd[0].fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int on = 1;

    if (fd < 0) {
        return blocked() ? NULL : strerror(errno);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    for (int i = 0; i < MAX_CALLS; i++) {
        if (c->calls[i].fd < 0) {
            c->calls[i] = (Call) { .fd = fd, .number = c->next++ };
            return NULL;
        }
    }
    close(fd);
    return "too many calls at a time";
}

static void end_call(Caller *c, Call *call)
{
    close(call->fd);
    call->fd = -1;
    c->ended++;
}

static const char *answer(Caller *c, Call *call)
{
    CallMessage want;

    call_request(&want, opt.seed, call->number, call->round);
    if (call->round == call_rounds(call->number)) {
        return "a request too many";
    }
    if (memcmp(&want, &call->request, sizeof(want))) {
        return ntohl(call->request.call) != call->number ? "another call" :
               ntohl(call->request.round) != call->round ? "another request" :
               "wrong byte";
    }
    call_answer(&want);
    if (send(call->fd, &want, sizeof(want), MSG_NOSIGNAL) != sizeof(want)) {
        return strerror(errno);
    }
    call->got = 0;
    call->round++;
    c->requests++;
    gap_progress(&c->gap, now_ns());
    if (call->round == call_rounds(call->number) &&
        !call_guest_closes(call->number)) {
        shutdown(call->fd, SHUT_WR);
    }
    return NULL;
}

static const char *read_call(Caller *c, Call *call)
{
    ssize_t n = recv(call->fd, (uint8_t *)&call->request + call->got,
                     sizeof(call->request) - call->got, 0);

    if (n < 0) {
        return blocked() ? NULL : strerror(errno);
    }
    if (n == 0) {
        if (call->got || call->round != call_rounds(call->number)) {
            return "a call that ended too early";
        }
        end_call(c, call);
        return NULL;
    }
    call->got += n;
    return call->got == sizeof(call->request) ? answer(c, call) : NULL;
}

/* The guest says something only if something is wrong */
static const char *read_word(int fd)
{
    static char word[128];
    ssize_t n = recv(fd, word, sizeof(word) - 1, 0);

    if (n < 0 && blocked()) {
        return NULL;
    }
    if (n <= 0) {
        return connection_lost(n);
    }
    for (ssize_t i = 0; i < n; i++) {
        if (word[i] < ' ' || word[i] > '~' || strchr("\"\\", word[i])) {
            word[i] = word[i] == '\n' ? '\0' : '?';
        }
    }
    return word;
}

static const char *serve_calls(Caller *c)
{
    const char *wrong = NULL;

    for (int i = 0; i < MAX_CALLS; i++) {
        c->pfd[2 + i] = (struct pollfd) { c->calls[i].fd, POLLIN };
    }
    if (poll(c->pfd, 2 + MAX_CALLS, 100) <= 0) {
        return NULL;
    }
    for (int i = 0; !wrong && i < MAX_CALLS; i++) {
        if (c->pfd[2 + i].revents) {
            wrong = read_call(c, &c->calls[i]);
        }
    }
    if (!wrong && c->pfd[1].revents) {
        wrong = read_word(c->pfd[1].fd);
    }
    if (!wrong && c->pfd[0].revents) {
        wrong = take_call(c);
    }
    return wrong;
}

static void print_calls(const Caller *c, const char *event, int64_t now)
{
    print("{\"event\":\"%s\",\"at_ns\":%lld,\"count\":%llu,\"calls\":%u,"
          "\"ended\":%u", event, (long long)now, c->requests, c->next,
          c->ended);
    print_gap(&c->gap);
}

int run_call(void)
{
    Caller c = { };
    const char *wrong = NULL;
    int64_t end, report;
    int port, len, guest, listener = listen_for_calls(&port);
    char line[64];

    guest = listener < 0 ? -1 : connect_guest(CALL_PORT);
    if (guest < 0) {
        return not_connected();
    }
    c.pfd[0] = (struct pollfd) { listener, POLLIN };
    c.pfd[1] = (struct pollfd) { guest, POLLIN };
    for (int i = 0; i < MAX_CALLS; i++) {
        c.calls[i].fd = -1;
    }
    connected();
    gap_start(&c.gap);
    end = end_of_run();
    report = c.gap.last + PROGRESS_NS;
    len = snprintf(line, sizeof(line), "%d %llu\n", port, opt.seed);
    if (send(guest, line, len, MSG_NOSIGNAL) != len) {
        wrong = strerror(errno);
    }
    while (!wrong && !stopped && now_ns() < end) {
        int64_t now;

        wrong = serve_calls(&c);
        now = now_ns();
        if (!wrong && too_long_idle(&c.gap, now)) {
            wrong = "nothing for too long";
        }
        if (now >= report) {
            report = now + PROGRESS_NS;
            print_calls(&c, "progress", now);
            print("}\n");
        }
    }
    print_calls(&c, "end", now_ns());
    return finish(!wrong && c.requests, wrong ? wrong : "end of run");
}
