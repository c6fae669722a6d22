/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mode "last" of the client: connections that the guest closes with its
 * last words, when it powers off (see colo-guest-last.c).  Each has to bring
 * all bytes and the orderly end of the stream.  When all are connected there is
 * a pause (--interval) before the guest is told.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-client.h"
#include "colo-stream.h"

#define LAST_PORT           7008
#define CONTROL_PORT        7005
#define LAST_BYTES          10000
#define MAX_CONNECTIONS     64
#define WAITING             "waiting\n"
#define COMMAND             "last\n"

typedef struct Last {
    int fd;
    unsigned bytes;
    ColoStream stream;
} Last;

/* Connect, and wait until the guest has taken it in */
static bool last_open(Last *last, unsigned long long seed)
{
    char line[64];
    int len = snprintf(line, sizeof(line), "%d %llu\n", LAST_BYTES, seed);
    int64_t end = now_ns() + opt.connect_seconds * NS_PER_S;
    size_t got = 0;

    last->fd = connect_guest(LAST_PORT);
    if (last->fd < 0 || send(last->fd, line, len, MSG_NOSIGNAL) != len) {
        return false;
    }
    while (got < strlen(WAITING) && now_ns() < end) {
        ssize_t n;

        wait_for(last->fd, POLLIN, 100);
        n = recv(last->fd, line + got, strlen(WAITING) - got, 0);
        if (n == 0 || (n < 0 && !blocked())) {
            return false;
        }
        got += n > 0 ? n : 0;
    }
    colo_stream_init(&last->stream, seed);
    return got == strlen(WAITING) && !memcmp(line, WAITING, got);
}

/* Read to the end; NULL or what is wrong */
static const char *last_read(Last *last, int64_t end)
{
    uint8_t buf[LAST_BYTES];

    while (!stopped && now_ns() < end) {
        ssize_t n;

        wait_for(last->fd, POLLIN, 100);
        n = recv(last->fd, buf, sizeof(buf), 0);
        if (n == 0) {
            return last->bytes == LAST_BYTES ? NULL : "an end too early";
        }
        if (n < 0) {
            if (blocked()) {
                continue;
            }
            return connection_lost(n);
        }
        if (colo_stream_check(&last->stream, buf, n) != (size_t)n) {
            return "wrong byte";
        }
        last->bytes += n;
    }
    return last->bytes == LAST_BYTES ? "no end" : "bytes are missing";
}

int run_last(void)
{
    Last last[MAX_CONNECTIONS] = { };
    const char *why = NULL;
    unsigned bytes = 0, ended = 0;
    int n = opt.connections < MAX_CONNECTIONS ? opt.connections
                                              : MAX_CONNECTIONS;
    int64_t end;
    int control;

    for (int i = 0; i < n; i++) {
        if (!last_open(&last[i], opt.seed + i)) {
            return not_connected();
        }
    }
    control = connect_guest(CONTROL_PORT);
    if (control < 0) {
        return not_connected();
    }
    connected();
    sleep_ns(opt.interval_ms * NS_PER_MS);
    if (send(control, COMMAND, strlen(COMMAND), MSG_NOSIGNAL) !=
        strlen(COMMAND)) {
        why = "the command was not sent";
    }
    end = now_ns() + (opt.seconds ? opt.seconds : 20) * NS_PER_S;
    for (int i = 0; i < n; i++) {
        const char *wrong = last_read(&last[i], end);

        ended += !wrong;
        bytes += last[i].bytes;
        why = why ? why : wrong;
        close(last[i].fd);
    }
    close(control);
    print("{\"event\":\"end\",\"bytes\":%u,\"ended\":%u,\"connections\":%d",
          bytes, ended, n);
    return finish(!why, why ? why : "end of run");
}
