/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client's modes that send datagrams: udp and ping6.
 *
 * A network may lose datagrams, and a failover may: so a request without an
 * answer is counted as lost and is no fault.  These are:
 *
 *   wrong     an answer to what was not asked, or with other bytes
 *   doubled   a second answer to the same request
 *   replayed  udp: the guest has counted another request with that number, so
 *             it went on from an earlier state
 *   forked    udp: the request that the guest says it got before is not the one
 *             to which it gave the number before
 *
 * Their order says nothing: networks swap datagrams, and in hybrid mode one
 * whose fragments are on both sides of a checkpoint is overtaken.
 * Each fifth request is longer than a frame, so it and its answer are
 * fragmented.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-client.h"
#include "colo-datagram.h"
#include "colo-stream.h"

#define WINDOW          65536   /* requests that are remembered */
#define DRAIN_NS        (1000 * NS_PER_MS)      /* at the end, at least */
#define DRAIN_MAX_NS    (2000 * NS_PER_MS)      /* if an answer is missing */
#define LONG_EACH       5
#define LONG_BYTES      3000
#define SHORT_BYTES     64
#define STEP_BYTES      100
#define MAX_BYTES       (LONG_BYTES + sizeof(struct icmp6_hdr))

typedef struct Datagrams Datagrams;

typedef struct Kind {
    double interval_ms;
    /* A connected socket that does not block */
    int (*open)(Datagrams *d);
    /* Bytes before the request, and how to fill them */
    size_t head_bytes;
    void (*fill)(Datagrams *d, uint8_t *head, uint64_t id);
    /* Is it for us?  Is the head right for an answer to @id? */
    bool (*ours)(const Datagrams *d, const uint8_t *buf, size_t size);
    bool (*check)(const Datagrams *d, const uint8_t *head, uint64_t id);
    /* Does the guest count? */
    bool counted;
} Kind;

struct Datagrams {
    const Kind *kind;
    int fd;
    uint64_t client;            /* no other run has it */
    uint64_t sent;              /* ids are 1 to this */
    uint64_t first;             /* up to this one nobody may have listened */
    uint64_t answered;
    uint64_t got;               /* the same after the first ones */
    uint64_t wrong, doubled, replayed, forked;
    bool done[WINDOW];          /* answered, by id */
    int64_t sent_at[WINDOW];
    ColoDatagram counted[WINDOW];   /* by count */
    Gap gap;
    Samples samples;
};

/* What is asked */

static size_t request_bytes(uint64_t id)
{
    return id % LONG_EACH == 0 ? LONG_BYTES
                               : SHORT_BYTES + id % LONG_EACH * STEP_BYTES;
}

static void request_body(const Datagrams *d, uint64_t id, uint8_t *body,
                         size_t len)
{
    ColoStream stream;

    colo_stream_init(&stream, d->client ^ id);
    colo_stream_fill(&stream, body, len);
}

/* An error is a loss: the guest is not there, or not yet */
static void ask(Datagrams *d)
{
    uint8_t buf[MAX_BYTES];
    uint64_t id = ++d->sent;
    size_t head = d->kind->head_bytes, len = request_bytes(id);
    ColoDatagram request = {
        .magic = COLO_DATAGRAM_MAGIC, .client = d->client, .id = id,
    };

    if (head) {
        d->kind->fill(d, buf, id);
    }
    memcpy(buf + head, &request, sizeof(request));
    request_body(d, id, buf + head + sizeof(request), len - sizeof(request));
    d->done[id % WINDOW] = false;
    d->sent_at[id % WINDOW] = now_ns();
    send(d->fd, buf, head + len, MSG_NOSIGNAL);
}

/* What is answered */

static void check_count(Datagrams *d, const ColoDatagram *answer)
{
    ColoDatagram *slot = &d->counted[answer->count % WINDOW];
    const ColoDatagram *before = &d->counted[(answer->count - 1) % WINDOW];
    const ColoDatagram *after = &d->counted[(answer->count + 1) % WINDOW];

    if (slot->count == answer->count) {
        d->replayed++;
        return;
    }
    *slot = *answer;
    d->forked += (before->count == answer->count - 1 && before->count &&
                  before->id != answer->before) ||
                 (after->count == answer->count + 1 &&
                  after->before != answer->id);
}

static void take(Datagrams *d, const uint8_t *buf, size_t size)
{
    uint8_t body[LONG_BYTES];
    size_t len, head = d->kind->head_bytes;
    ColoDatagram answer;

    if (head && !d->kind->ours(d, buf, size)) {
        return;
    }
    if (size < head + sizeof(answer)) {
        d->wrong++;
        return;
    }
    memcpy(&answer, buf + head, sizeof(answer));
    if (answer.magic != COLO_DATAGRAM_MAGIC || answer.client != d->client) {
        d->wrong++;
        return;
    }
    len = request_bytes(answer.id);
    if (answer.id < 1 || answer.id > d->sent ||
        d->sent - answer.id >= WINDOW || size != head + len ||
        (head && !d->kind->check(d, buf, answer.id)) ||
        (d->kind->counted ? !answer.count || answer.count > d->sent
                          : answer.count || answer.before)) {
        d->wrong++;
        return;
    }
    request_body(d, answer.id, body, len - sizeof(answer));
    if (memcmp(body, buf + head + sizeof(answer), len - sizeof(answer))) {
        d->wrong++;
        return;
    }
    if (d->done[answer.id % WINDOW]) {
        d->doubled++;
        return;
    }
    d->done[answer.id % WINDOW] = true;
    d->answered++;
    d->got += answer.id > d->first;
    gap_progress(&d->gap, now_ns());
    samples_add(&d->samples, d->gap.last - d->sent_at[answer.id % WINDOW]);
    if (d->kind->counted) {
        check_count(d, &answer);
    }
}

static bool good(const Datagrams *d)
{
    return !d->wrong && !d->doubled && !d->replayed && !d->forked;
}

/* Take in all that comes until @deadline */
static void listen_until(Datagrams *d, int64_t deadline)
{
    int64_t now;

    while ((now = now_ns()) < deadline && !stopped) {
        struct timespec left = {
            (deadline - now) / NS_PER_S, (deadline - now) % NS_PER_S
        };
        struct pollfd pfd = { .fd = d->fd, .events = POLLIN };
        uint8_t buf[65536];
        ssize_t n;

        if (ppoll(&pfd, 1, &left, NULL) != 1) {
            continue;
        }
        /* Errors are those of earlier requests */
        while ((n = recv(d->fd, buf, sizeof(buf), MSG_DONTWAIT)) >= 0) {
            take(d, buf, n);
        }
    }
}

static uint64_t lost(const Datagrams *d)
{
    return d->sent - d->first - d->got;
}

/* Late answers, and second ones */
static void drain(Datagrams *d)
{
    int64_t end = now_ns() + DRAIN_MAX_NS;

    stopped = 0;
    listen_until(d, now_ns() + DRAIN_NS);
    while (lost(d) && !stopped && now_ns() < end) {
        listen_until(d, now_ns() + DRAIN_NS / 10);
    }
}

static void print_counts(const Datagrams *d)
{
    print(",\"count\":%llu,\"sent\":%llu,\"lost\":%llu",
          (unsigned long long)d->answered, (unsigned long long)d->sent,
          (unsigned long long)lost(d));
    print(",\"wrong\":%llu,\"doubled\":%llu", (unsigned long long)d->wrong,
          (unsigned long long)d->doubled);
    print(",\"replayed\":%llu,\"forked\":%llu",
          (unsigned long long)d->replayed, (unsigned long long)d->forked);
    print_gap(&d->gap);
}

/* What was asked before the first answer is not counted as lost */
static bool first_answer(Datagrams *d, int64_t interval)
{
    int64_t deadline = now_ns() + opt.connect_seconds * NS_PER_S;

    while (!d->answered && !stopped && now_ns() < deadline) {
        ask(d);
        listen_until(d, now_ns() + (interval > 100 * NS_PER_MS ? interval :
                                    100 * NS_PER_MS));
    }
    d->first = d->sent;
    d->got = 0;
    return d->answered;
}

static int run(const Kind *kind)
{
    static Datagrams d;
    int64_t interval = (opt.interval_ms ? opt.interval_ms : kind->interval_ms) *
                       NS_PER_MS;
    int64_t end, report, next;
    const char *why = "end of run";
    bool alive = true;

    d.kind = kind;
    d.client = (uint64_t)now_ns() * 2654435761u ^ getpid();
    gap_start(&d.gap);
    d.fd = kind->open(&d);
    if (d.fd < 0 || !first_answer(&d, interval)) {
        return not_connected();
    }
    connected();
    gap_start(&d.gap);
    next = now_ns();
    end = end_of_run();
    report = next + PROGRESS_NS;
    while (good(&d) && alive && !stopped && next < end) {
        ask(&d);
        next += interval;
        listen_until(&d, next);
        if (now_ns() > next + NS_PER_S) {
            next = now_ns();    /* we slept ourselves: no flood after it */
        }
        if (too_long_idle(&d.gap, now_ns())) {
            why = "nothing for too long";
            alive = false;
        }
        if (now_ns() >= report) {
            report = now_ns() + PROGRESS_NS;
            print("{\"event\":\"progress\",\"at_ns\":%lld",
                  (long long)now_ns());
            print_counts(&d);
            print("}\n");
        }
    }
    /* A service that is silent at the end counts up to the end */
    gap_progress(&d.gap, now_ns());
    drain(&d);
    close(d.fd);
    print("{\"event\":\"end\"");
    print_counts(&d);
    samples_print(&d.samples);
    return finish(good(&d) && alive, why);
}

static int open_socket(int type, int protocol, const void *address,
                       socklen_t len)
{
    const struct sockaddr *sa = address;
    int bytes = 1 << 20;
    int fd = socket(sa->sa_family, type | SOCK_CLOEXEC, protocol);

    if (fd >= 0 && connect(fd, sa, len) < 0) {
        close(fd);
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
    return fd;
}

/* udp */

static int udp_open(Datagrams *d)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(opt.port ? opt.port : COLO_DATAGRAM_PORT),
    };

    if (inet_pton(AF_INET, opt.host ? opt.host : "10.77.0.10",
                  &address.sin_addr) != 1) {
        return -1;
    }
    return open_socket(SOCK_DGRAM, 0, &address, sizeof(address));
}

int run_udp(void)
{
    static const Kind kind = {
        .interval_ms = 5,
        .open = udp_open,
        .counted = true,
    };

    return run(&kind);
}

/* ping6: the kernel fills in the checksum, and checks it */

static int ping6_open(Datagrams *d)
{
    struct sockaddr_in6 address = { .sin6_family = AF_INET6 };
    struct icmp6_filter filter;
    int fd;

    if (inet_pton(AF_INET6, opt.host ? opt.host : "fd00:77:0:0::10",
                  &address.sin6_addr) != 1) {
        return -1;
    }
    fd = open_socket(SOCK_RAW, IPPROTO_ICMPV6, &address, sizeof(address));
    ICMP6_FILTER_SETBLOCKALL(&filter);
    ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter);
    if (fd >= 0 && setsockopt(fd, IPPROTO_ICMPV6, ICMP6_FILTER, &filter,
                              sizeof(filter)) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static struct icmp6_hdr ping6_head(const Datagrams *d, uint8_t type,
                                   uint64_t id)
{
    struct icmp6_hdr head = { .icmp6_type = type };

    head.icmp6_id = htons(d->client & 0xffff);
    head.icmp6_seq = htons(id & 0xffff);
    return head;
}

static void ping6_fill(Datagrams *d, uint8_t *buf, uint64_t id)
{
    struct icmp6_hdr head = ping6_head(d, ICMP6_ECHO_REQUEST, id);

    memcpy(buf, &head, sizeof(head));
}

/* A raw socket gets what other programs are answered as well */
static bool ping6_ours(const Datagrams *d, const uint8_t *buf, size_t size)
{
    struct icmp6_hdr head;

    if (size < sizeof(head)) {
        return true;
    }
    memcpy(&head, buf, sizeof(head));
    return head.icmp6_id == htons(d->client & 0xffff);
}

static bool ping6_check(const Datagrams *d, const uint8_t *buf, uint64_t id)
{
    struct icmp6_hdr want = ping6_head(d, ICMP6_ECHO_REPLY, id), head;

    memcpy(&head, buf, sizeof(head));
    head.icmp6_cksum = 0;
    return !memcmp(&head, &want, sizeof(head));
}

int run_ping6(void)
{
    static const Kind kind = {
        .interval_ms = 10,
        .open = ping6_open,
        .head_bytes = sizeof(struct icmp6_hdr),
        .fill = ping6_fill,
        .ours = ping6_ours,
        .check = ping6_check,
    };

    return run(&kind);
}
