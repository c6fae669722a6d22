/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the modes of the client share; see colo-client.h.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "colo-client.h"

#define CONNECT_TRY_NS      (2000 * NS_PER_MS)
#define DEFAULT_HOST        "10.77.0.10"

Options opt = {
    .connect_seconds = 30,
    .seed = 1,
    .connections = 4,
    .path = "/small",
    .command = "ping",
    .device = "/dev/vda",
    .slots = 512,
};
volatile sig_atomic_t stopped;

int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

void sleep_ns(int64_t ns)
{
    struct timespec ts = { ns / NS_PER_S, ns % NS_PER_S };

    nanosleep(&ts, NULL);
}

void on_signal(int sig)
{
    stopped = 1;
}

void print(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    fflush(stdout);
}

void gap_start(Gap *gap)
{
    gap->last = now_ns();
    gap->longest = 0;
    gap->longest_at = gap->last;
}

void gap_progress(Gap *gap, int64_t now)
{
    if (now - gap->last > gap->longest) {
        gap->longest = now - gap->last;
        gap->longest_at = gap->last;
    }
    gap->last = now;
}

void samples_add(Samples *samples, int64_t ns)
{
    if (samples->count == samples->size) {
        size_t size = samples->size ? samples->size * 2 : 65536;
        uint32_t *us = realloc(samples->us, size * sizeof(*us));

        if (!us) {
            return;
        }
        samples->us = us;
        samples->size = size;
    }
    samples->us[samples->count++] = ns / 1000;
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

void samples_print(Samples *samples)
{
    size_t n = samples->count;

    if (!n) {
        print(",\"p50_us\":null,\"p99_us\":null,\"max_us\":null");
        return;
    }
    qsort(samples->us, n, sizeof(*samples->us), compare_u32);
    print(",\"p50_us\":%u,\"p99_us\":%u,\"max_us\":%u", samples->us[n / 2],
          samples->us[n - 1 - n / 100], samples->us[n - 1]);
}

int connect_guest(int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(opt.port ? opt.port : port),
    };
    int64_t deadline = now_ns() + opt.connect_seconds * NS_PER_S;

    if (inet_pton(AF_INET, opt.host ? opt.host : DEFAULT_HOST,
                  &address.sin_addr) != 1) {
        return -1;
    }
    while (!stopped && now_ns() < deadline) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        int64_t try_until = now_ns() + CONNECT_TRY_NS;
        int error, on = 1;
        socklen_t len = sizeof(error);
        struct pollfd pfd = { .fd = fd, .events = POLLOUT };

        error = connect(fd, (struct sockaddr *)&address, sizeof(address)) ?
                errno : 0;
        if (error == EINPROGRESS &&
            poll(&pfd, 1, CONNECT_TRY_NS / NS_PER_MS) == 1) {
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
        }
        if (!error) {
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
            return fd;
        }
        close(fd);
        if (now_ns() < try_until) {
            sleep_ns(try_until - now_ns());
        }
    }
    return -1;
}

short wait_for(int fd, short events, int timeout_ms)
{
    struct pollfd pfd = { .fd = fd, .events = events };

    return poll(&pfd, 1, timeout_ms) == 1 ? pfd.revents : 0;
}

bool too_long_idle(const Gap *gap, int64_t now)
{
    return opt.idle_seconds && now - gap->last > opt.idle_seconds * NS_PER_S;
}

int64_t end_of_run(void)
{
    return opt.seconds ? now_ns() + opt.seconds * NS_PER_S : INT64_MAX;
}

bool blocked(void)
{
    return errno == EAGAIN || errno == EINTR;
}

const char *connection_lost(ssize_t n)
{
    return n ? strerror(errno) : "closed by the guest";
}

void print_gap(const Gap *gap)
{
    print(",\"longest_gap_us\":%lld,\"longest_gap_at_ns\":%lld",
          (long long)gap->longest / 1000, (long long)gap->longest_at);
}

int finish(bool intact, const char *why)
{
    print(",\"intact\":%s,\"why\":\"%s\"}\n", intact ? "true" : "false", why);
    return intact ? 0 : 1;
}

int not_connected(void)
{
    print("{\"event\":\"end\"");
    return finish(false, "no connection");
}

void connected(void)
{
    print("{\"event\":\"connected\",\"at_ns\":%lld}\n", (long long)now_ns());
}
