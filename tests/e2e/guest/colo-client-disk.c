/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client of the guest's disk writer (colo-guest-disk.c).
 *
 * It remembers the last number that the guest has called durable, and each
 * group has to follow the one before.  On SIGUSR1, and at the end, it has the
 * guest read its disk: all has to be there, up to that number at least.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-client.h"

#define VERIFY_NS           (40 * NS_PER_S)

typedef struct Disk {
    char line[256];
    size_t len;
    unsigned long long acked;       /* the number after the last durable one */
    unsigned long long groups;
    unsigned long long first;       /* of this run */
    unsigned verified;
    char why[256];                  /* "" while all is well */
} Disk;

static volatile sig_atomic_t verify_asked;

static void on_usr1(int sig)
{
    verify_asked = 1;
}

static void complain(Disk *d, const char *what, const char *line)
{
    char clean[128];
    size_t n = 0;

    for (; *line && n + 1 < sizeof(clean); line++) {
        if (*line >= ' ' && *line < 0x7f && *line != '"' && *line != '\\') {
            clean[n++] = *line;
        }
    }
    clean[n] = 0;
    snprintf(d->why, sizeof(d->why), "%s (%llu durable): %s", what, d->acked,
             clean);
}

static void disk_line(Disk *d)
{
    unsigned long long first, last;

    d->line[d->len] = 0;
    d->len = 0;
    if (sscanf(d->line, "%llu %llu", &first, &last) != 2 || last < first) {
        complain(d, "the guest says", d->line);
    } else if (d->groups && first != d->acked) {
        complain(d, "not the next group", d->line);
    } else {
        if (!d->groups) {
            d->first = first;
        }
        d->groups++;
        d->acked = last + 1;
    }
}

/* The guest reads its disk; what it has told us before has to be there */
static void verify(Disk *d)
{
    unsigned long long acked = d->acked, next;
    int64_t end = now_ns() + VERIFY_NS;
    char line[512];
    size_t len = snprintf(line, sizeof(line), "verify %s\n", opt.device);
    int fd = connect_guest(7005);
    bool sent = fd >= 0 && send(fd, line, len, MSG_NOSIGNAL) == (ssize_t)len;

    for (len = 0; sent && now_ns() < end && len + 1 < sizeof(line); len++) {
        while (now_ns() < end && !(wait_for(fd, POLLIN, 100) & POLLIN)) {
            /* It has much to read */
        }
        if (recv(fd, line + len, 1, 0) <= 0 || line[len] == '\n') {
            break;
        }
    }
    line[len] = 0;
    if (fd >= 0) {
        close(fd);
    }
    if (sscanf(line, "ok %llu", &next) != 1) {
        complain(d, "verify", sent ? line : "no connection");
    } else if (next < acked) {
        complain(d, "what was durable is not there", line);
    } else {
        d->verified++;
    }
}

static void disk_print(const Disk *d, const Gap *gap)
{
    print(",\"count\":%llu,\"groups\":%llu,\"acked\":%llu,\"verified\":%u",
          d->groups ? d->acked - d->first : 0, d->groups, d->acked,
          d->verified);
    print_gap(gap);
}

static void disk_progress(const Disk *d, const Gap *gap)
{
    print("{\"event\":\"progress\",\"at_ns\":%lld", (long long)now_ns());
    disk_print(d, gap);
    print("}\n");
}

int run_disk(void)
{
    struct sigaction action = { .sa_handler = on_usr1 };
    char buf[4096];
    Disk d = { };
    Gap gap;
    int64_t end, report;
    int len, fd = connect_guest(7007);

    if (fd < 0) {
        return not_connected();
    }
    sigaction(SIGUSR1, &action, NULL);
    len = snprintf(buf, sizeof(buf), "%s %llu %d %.0f\n", opt.device, opt.seed,
                   opt.slots, opt.interval_ms * 1000);
    if (send(fd, buf, len, MSG_NOSIGNAL) != len) {
        return not_connected();
    }
    connected();
    gap_start(&gap);
    end = end_of_run();
    report = now_ns() + PROGRESS_NS;
    while (!stopped && !*d.why && now_ns() < end) {
        ssize_t n;

        wait_for(fd, POLLIN, 100);
        n = recv(fd, buf, sizeof(buf), 0);
        if (n == 0 || (n < 0 && !blocked())) {
            complain(&d, "the writer", connection_lost(n));
            break;
        }
        for (ssize_t i = 0; i < n && !*d.why; i++) {
            if (buf[i] == '\n') {
                disk_line(&d);
                gap_progress(&gap, now_ns());
            } else if (d.len + 1 < sizeof(d.line)) {
                d.line[d.len++] = buf[i];
            }
        }
        if (too_long_idle(&gap, now_ns())) {
            complain(&d, "the writer", "nothing for too long");
        }
        if (verify_asked && !*d.why) {
            verify_asked = 0;
            verify(&d);
            gap.last = now_ns();    /* the writer stood for this */
            report = gap.last;
        }
        if (now_ns() >= report) {
            report = now_ns() + PROGRESS_NS;
            disk_progress(&d, &gap);
        }
    }
    gap_progress(&gap, now_ns());
    stopped = 0;
    if (!*d.why) {
        verify(&d);
    }
    close(fd);
    print("{\"event\":\"end\"");
    disk_print(&d, &gap);
    return finish(!*d.why && d.groups, *d.why ? d.why : "end of run");
}
