/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client side of the end-to-end tests: talks to colo-guest.c from another
 * host and checks every byte.
 *
 *   colo-client MODE [--host H] [--seconds S] [option]...
 *
 * It prints one JSON object a line: {"event":"connected"} once the guest has
 * answered, {"event":"progress",...} each half second, and as the last line
 * {"event":"end","intact":true|false,"why":"...",...}.  SIGTERM and SIGINT end
 * a run early and in order.  Exit status: 0 intact, 1 not, 2 wrong use.
 *
 * Times named *_ns are on CLOCK_MONOTONIC of this machine, so that the caller
 * can set them against what it did; *_us are lengths in microseconds.
 *
 * One thread does everything.  Latencies and throughput are as seen by a
 * process that does nothing else.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-client.h"
#include "colo-stream.h"

#define BUF_BYTES           262144
#define ECHO_BYTES          64
#define MAX_CONNECTIONS     256

/*
 * ticker: lines "SEQ NOW_NS BEFORE_NS", each number once and in order, and each
 * line the successor of the one before (see colo-guest.c)
 */

typedef struct Ticker {
    char line[128];
    size_t len;
    unsigned long long received, lost, repeated, garbled, forked, next;
    long long before;       /* the guest's clock in the last line */
} Ticker;

static void ticker_line(Ticker *t)
{
    unsigned long long seq;
    long long now, before;

    t->line[t->len] = 0;
    t->len = 0;
    if (sscanf(t->line, "%llu %lld %lld", &seq, &now, &before) != 3) {
        t->garbled++;
        return;
    }
    t->received++;
    if (seq < t->next) {
        t->repeated++;
        return;
    }
    t->lost += seq - t->next;
    t->forked += seq == t->next && before != t->before;
    t->before = now;
    t->next = seq + 1;
}

static void ticker_print(const Ticker *t)
{
    print(",\"received\":%llu,\"lost\":%llu,\"repeated\":%llu", t->received,
          t->lost, t->repeated);
    print(",\"garbled\":%llu,\"forked\":%llu", t->garbled, t->forked);
}

static int run_ticker(void)
{
    Ticker t = { };
    Gap gap;
    const char *why = "end of run";
    int64_t end, report;
    bool alive = true;
    int fd = connect_guest(7001);

    if (fd < 0) {
        return not_connected();
    }
    connected();
    gap_start(&gap);
    end = end_of_run();
    report = now_ns() + PROGRESS_NS;
    while (!stopped && now_ns() < end) {
        char buf[4096];
        ssize_t n;
        int64_t now;

        wait_for(fd, POLLIN, 100);
        n = recv(fd, buf, sizeof(buf), 0);
        now = now_ns();
        if (n == 0 || (n < 0 && !blocked())) {
            why = connection_lost(n);
            alive = false;
            break;
        }
        for (ssize_t i = 0; i < n; i++) {
            if (buf[i] == '\n') {
                ticker_line(&t);
                gap_progress(&gap, now);
            } else if (t.len + 1 < sizeof(t.line)) {
                t.line[t.len++] = buf[i];
            }
        }
        if (too_long_idle(&gap, now)) {
            why = "nothing for too long";
            alive = false;
            break;
        }
        if (now >= report) {
            report = now + PROGRESS_NS;
            print("{\"event\":\"progress\",\"at_ns\":%lld,\"idle_us\":%lld",
                  (long long)now, (long long)(now - gap.last) / 1000);
            ticker_print(&t);
            print_gap(&gap);
            print("}\n");
        }
    }
    /* A service that is silent at the end counts up to the end */
    gap_progress(&gap, now_ns());
    close(fd);
    print("{\"event\":\"end\"");
    ticker_print(&t);
    print_gap(&gap);
    return finish(alive && t.received && !t.lost && !t.repeated &&
                  !t.garbled && !t.forked, why);
}

/* bulk-out: the guest sends the stream, we check it */

static int run_bulk_out(void)
{
    static uint8_t buf[BUF_BYTES];
    char request[64];
    uint64_t count = 0, bad_at = 0;
    ColoStream stream;
    Gap gap;
    const char *why = "end of run";
    int64_t start, end, report;
    bool intact = true;
    int len, fd = connect_guest(7003);

    if (fd < 0) {
        return not_connected();
    }
    connected();
    colo_stream_init(&stream, opt.seed);
    len = snprintf(request, sizeof(request), "%llu 0\n", opt.seed);
    intact = send(fd, request, len, MSG_NOSIGNAL) == len;
    gap_start(&gap);
    start = now_ns();
    end = end_of_run();
    report = start + PROGRESS_NS;
    while (intact && !stopped && now_ns() < end) {
        size_t good, want = sizeof(buf);
        ssize_t n;
        int64_t now;

        if (opt.rate) {
            double due = (now_ns() - start) / 1e9 * opt.rate - count;

            if (due < 1448) {
                sleep_ns(NS_PER_MS);
                continue;
            }
            want = due < want ? due : want;
        }
        wait_for(fd, POLLIN, 100);
        n = recv(fd, buf, want, 0);
        now = now_ns();
        if (n == 0 || (n < 0 && !blocked())) {
            why = connection_lost(n);
            intact = false;
            break;
        }
        if (n > 0) {
            gap_progress(&gap, now);
            good = colo_stream_check(&stream, buf, n);
            count += good;
            if (good != (size_t)n) {
                bad_at = count;
                why = "wrong byte";
                intact = false;
                break;
            }
        }
        if (too_long_idle(&gap, now)) {
            why = "nothing for too long";
            intact = false;
        }
        if (now >= report) {
            report = now + PROGRESS_NS;
            print("{\"event\":\"progress\",\"at_ns\":%lld,\"bytes\":%llu",
                  (long long)now, (unsigned long long)count);
            print_gap(&gap);
            print("}\n");
        }
    }
    gap_progress(&gap, now_ns());
    close(fd);
    print("{\"event\":\"end\",\"bytes\":%llu,\"seconds\":%.3f,\"bad_at\":%llu",
          (unsigned long long)count, (now_ns() - start) / 1e9,
          (unsigned long long)bad_at);
    print_gap(&gap);
    return finish(intact && count, why);
}

/* bulk-in: we send the stream, the guest checks it and tells how far it got */

typedef struct BulkIn {
    char line[128];
    size_t len;
    unsigned long long acked;
    bool ended;
    bool bad;
} BulkIn;

static void bulk_in_answer(BulkIn *b, const char *buf, ssize_t n)
{
    for (ssize_t i = 0; i < n; i++) {
        unsigned long long count;

        if (buf[i] != '\n') {
            if (b->len + 1 < sizeof(b->line)) {
                b->line[b->len++] = buf[i];
            }
            continue;
        }
        b->line[b->len] = 0;
        b->len = 0;
        if (sscanf(b->line, "ack %llu", &count) == 1 && count > b->acked) {
            b->acked = count;
        } else if (sscanf(b->line, "end %llu", &count) == 1) {
            b->acked = count;
            b->ended = true;
        } else {
            b->bad = true;
        }
    }
}

static int run_bulk_in(void)
{
    static uint8_t buf[BUF_BYTES];
    size_t from = 0, to = 0;
    uint64_t sent = 0;
    BulkIn b = { };
    ColoStream stream;
    Gap gap;
    const char *why = "end of run";
    int64_t start, end, report, drain = 0;
    bool intact;
    int fd = connect_guest(7004);

    if (fd < 0) {
        return not_connected();
    }
    connected();
    colo_stream_init(&stream, opt.seed);
    to = snprintf((char *)buf, sizeof(buf), "%llu\n", opt.seed);
    intact = send(fd, buf, to, MSG_NOSIGNAL) == (ssize_t)to;
    to = 0;
    gap_start(&gap);
    start = now_ns();
    end = end_of_run();
    report = start + PROGRESS_NS;
    while (intact && !b.ended) {
        int64_t now = now_ns();
        bool may_send = !drain &&
                        (!opt.rate || sent < (now - start) / 1e9 * opt.rate);
        char answer[4096];
        ssize_t n;

        if (!drain && (stopped || now >= end)) {
            shutdown(fd, SHUT_WR);
            drain = now + 30 * NS_PER_S;
            may_send = false;
        }
        if (drain && now >= drain) {
            why = "no end from the guest";
            intact = false;
            break;
        }
        wait_for(fd, POLLIN | (may_send ? POLLOUT : 0),
                 opt.rate && !drain ? 1 : 100);
        n = recv(fd, answer, sizeof(answer), 0);
        now = now_ns();
        if (n > 0) {
            bulk_in_answer(&b, answer, n);
            gap_progress(&gap, now);
        } else if (n == 0 || !blocked()) {
            why = connection_lost(n);
            intact = false;
            break;
        }
        if (b.bad) {
            why = "the guest saw a wrong byte";
            intact = false;
            break;
        }
        if (may_send) {
            if (from == to) {
                from = 0;
                to = opt.rate && opt.rate < 10000000 ? 8192 : sizeof(buf);
                colo_stream_fill(&stream, buf, to);
            }
            n = send(fd, buf + from, to - from, MSG_NOSIGNAL);
            if (n > 0) {
                from += n;
                sent += n;
            } else if (!blocked()) {
                why = strerror(errno);
                intact = false;
                break;
            }
        }
        if (too_long_idle(&gap, now)) {
            why = "nothing for too long";
            intact = false;
        }
        if (now >= report) {
            report = now + PROGRESS_NS;
            print("{\"event\":\"progress\",\"at_ns\":%lld,\"bytes\":%llu",
                  (long long)now, b.acked);
            print_gap(&gap);
            print("}\n");
        }
    }
    if (intact && b.acked != sent) {
        why = "the guest got another number of bytes";
        intact = false;
    }
    close(fd);
    print("{\"event\":\"end\",\"bytes\":%llu,\"sent\":%llu,\"seconds\":%.3f",
          b.acked, (unsigned long long)sent, (now_ns() - start) / 1e9);
    print_gap(&gap);
    return finish(intact && sent, why);
}

/* echo: one request at a time, each answer must be its request */

static int run_echo(void)
{
    uint8_t request[ECHO_BYTES], answer[ECHO_BYTES];
    Samples samples = { };
    ColoStream stream;
    Gap gap;
    const char *why = "end of run";
    int64_t start, end, report;
    bool intact = true;
    int fd = connect_guest(7002);

    if (fd < 0) {
        return not_connected();
    }
    connected();
    colo_stream_init(&stream, opt.seed);
    gap_start(&gap);
    start = now_ns();
    end = end_of_run();
    report = start + PROGRESS_NS;
    while (intact && !stopped && now_ns() < end) {
        size_t got = 0;
        int64_t sent_at = now_ns();

        colo_stream_fill(&stream, request, sizeof(request));
        if (send(fd, request, sizeof(request), MSG_NOSIGNAL) !=
            sizeof(request)) {
            why = strerror(errno);
            intact = false;
            break;
        }
        while (got < sizeof(answer)) {
            ssize_t n;

            wait_for(fd, POLLIN, 100);
            n = recv(fd, answer + got, sizeof(answer) - got, 0);
            if (n > 0) {
                got += n;
            } else if (n == 0 || !blocked()) {
                why = connection_lost(n);
                intact = false;
                break;
            } else if (stopped || now_ns() >= end) {
                break;
            } else if (too_long_idle(&gap, now_ns())) {
                why = "nothing for too long";
                intact = false;
                break;
            }
        }
        if (got < sizeof(answer)) {
            break;
        }
        gap_progress(&gap, now_ns());
        samples_add(&samples, gap.last - sent_at);
        if (memcmp(request, answer, sizeof(answer))) {
            why = "wrong answer";
            intact = false;
        }
        if (gap.last >= report) {
            report = gap.last + PROGRESS_NS;
            print("{\"event\":\"progress\",\"at_ns\":%lld,\"count\":%zu",
                  (long long)gap.last, samples.count);
            print_gap(&gap);
            print("}\n");
        }
        if (opt.interval_ms) {
            sleep_ns(opt.interval_ms * NS_PER_MS);
        }
    }
    gap_progress(&gap, now_ns());
    close(fd);
    print("{\"event\":\"end\",\"count\":%zu,\"per_second\":%.1f",
          samples.count, samples.count / ((now_ns() - start) / 1e9));
    samples_print(&samples);
    print_gap(&gap);
    return finish(intact && samples.count, why);
}

/* http: some connections, each with one request under way, bodies checked */

typedef struct Http {
    int fd;
    int64_t sent_at;
    int sent;               /* requests on this connection */
    char head[1024];
    size_t head_len;        /* what we have of the head */
    size_t body_left;       /* 0 while the head is not complete */
    ColoStream stream;
} Http;

static char http_request[512];

/* By a new connection if there were enough on the old one, which counts */
static bool http_send(Http *h)
{
    size_t len = strlen(http_request);

    h->head_len = 0;
    h->body_left = 0;
    colo_stream_init(&h->stream, 64);
    h->sent_at = now_ns();
    if (opt.requests && h->sent == opt.requests) {
        close(h->fd);
        h->fd = connect_guest(80);
        h->sent = 0;
        if (h->fd < 0) {
            errno = ETIMEDOUT;
            return false;
        }
    }
    h->sent++;
    return send(h->fd, http_request, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool http_body_ok(Http *h, const uint8_t *body, size_t len)
{
    static const char small[] = "hello\n";

    if (!strcmp(opt.path, "/small")) {
        size_t at = sizeof(small) - 1 - h->body_left;

        return !memcmp(body, small + at, len);
    }
    return colo_stream_check(&h->stream, body, len) == len;
}

/* Take in @len bytes; NULL or what is wrong.  *@done says if it was the last */
static const char *http_bytes(Http *h, const uint8_t *p, size_t len, bool *done)
{
    *done = false;
    while (len) {
        if (!h->body_left) {
            char *length;

            if (h->head_len + 1 >= sizeof(h->head)) {
                return "long head";
            }
            h->head[h->head_len++] = *p++;
            len--;
            if (h->head_len < 4 ||
                memcmp(h->head + h->head_len - 4, "\r\n\r\n", 4)) {
                continue;
            }
            h->head[h->head_len] = 0;
            length = strcasestr(h->head, "\r\nContent-Length:");
            if (strncmp(h->head, "HTTP/1.1 200 ", 13) || !length) {
                return "wrong head";
            }
            h->body_left = strtoul(length + 17, NULL, 10);
            if (!h->body_left) {
                return "no body";
            }
        } else {
            size_t n = len < h->body_left ? len : h->body_left;

            if (!http_body_ok(h, p, n)) {
                return "wrong body";
            }
            p += n;
            len -= n;
            h->body_left -= n;
            if (!h->body_left) {
                *done = true;
                return len ? "bytes after the body" : NULL;
            }
        }
    }
    return NULL;
}

static int run_http(void)
{
    static uint8_t buf[BUF_BYTES];
    static Http http[MAX_CONNECTIONS];
    static struct pollfd pfd[MAX_CONNECTIONS];
    Samples samples = { };
    Gap gap;
    const char *why = NULL;
    int64_t start, end, report;
    int i;

    snprintf(http_request, sizeof(http_request),
             "GET %s HTTP/1.1\r\nHost: guest\r\n\r\n", opt.path);
    for (i = 0; i < opt.connections; i++) {
        http[i].fd = connect_guest(80);
        if (http[i].fd < 0) {
            return not_connected();
        }
        pfd[i] = (struct pollfd) { .fd = http[i].fd, .events = POLLIN };
    }
    connected();
    gap_start(&gap);
    start = now_ns();
    end = end_of_run();
    report = start + PROGRESS_NS;
    for (i = 0; i < opt.connections; i++) {
        if (!http_send(&http[i])) {
            why = strerror(errno);
        }
    }
    while (!why && !stopped && now_ns() < end) {
        int64_t now;

        poll(pfd, opt.connections, 100);
        for (i = 0; i < opt.connections && !why; i++) {
            bool done = false;
            ssize_t n;

            if (!pfd[i].revents) {
                continue;
            }
            n = recv(http[i].fd, buf, sizeof(buf), 0);
            if (n == 0 || (n < 0 && !blocked())) {
                why = connection_lost(n);
            } else if (n > 0) {
                why = http_bytes(&http[i], buf, n, &done);
            }
            if (done && !why) {
                now = now_ns();
                gap_progress(&gap, now);
                samples_add(&samples, now - http[i].sent_at);
                if (!http_send(&http[i])) {
                    why = strerror(errno);
                }
                pfd[i].fd = http[i].fd;
            }
        }
        now = now_ns();
        if (!why && too_long_idle(&gap, now)) {
            why = "nothing for too long";
        }
        if (now >= report) {
            report = now + PROGRESS_NS;
            print("{\"event\":\"progress\",\"at_ns\":%lld,\"count\":%zu",
                  (long long)now, samples.count);
            print_gap(&gap);
            print("}\n");
        }
    }
    gap_progress(&gap, now_ns());
    print("{\"event\":\"end\",\"count\":%zu,\"per_second\":%.1f",
          samples.count, samples.count / ((now_ns() - start) / 1e9));
    samples_print(&samples);
    print_gap(&gap);
    return finish(!why && samples.count, why ? why : "end of run");
}

/* control: one command, its answer as a JSON string */

static void print_json_string(const char *p, size_t len)
{
    putchar('"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = p[i];

        if (c == '"' || c == '\\') {
            printf("\\%c", c);
        } else if (c < 0x20 || c >= 0x7f) {
            printf("\\u%04x", c);
        } else {
            putchar(c);
        }
    }
    putchar('"');
}

static int run_control(void)
{
    static char buf[(1 << 20) + 256];
    size_t len = 0, want = 0;
    char line[1100];
    int64_t end;
    int status, n = snprintf(line, sizeof(line), "%s\n", opt.command);
    int fd = connect_guest(7005);

    if (fd < 0) {
        return not_connected();
    }
    end = now_ns() + (opt.seconds ? opt.seconds : 10) * NS_PER_S;
    if (n >= (int)sizeof(line) || send(fd, line, n, MSG_NOSIGNAL) != n) {
        return not_connected();
    }
    while (!stopped && now_ns() < end) {
        char *eol = memchr(buf, '\n', len);
        ssize_t got;

        if (eol && !want) {
            size_t more = 0;

            want = eol + 1 - buf;
            if (!strncmp(opt.command, "sh ", 3) &&
                sscanf(buf, "ok %d %zu", &status, &more) == 2) {
                want += more;
            }
        }
        if ((want && len >= want) || len == sizeof(buf)) {
            break;
        }
        wait_for(fd, POLLIN, 100);
        got = recv(fd, buf + len, sizeof(buf) - len, 0);
        if (got > 0) {
            len += got;
        } else if (got == 0 || !blocked()) {
            break;
        }
    }
    print("{\"event\":\"end\",\"answer\":");
    print_json_string(buf, len);
    return finish(len >= 2 && !strncmp(buf, "ok", 2) && len >= want, "");
}

static const struct {
    const char *name;
    int (*run)(void);
    const char *help;
} modes[] = {
    { "ticker", run_ticker, "read the 5 ms ticker" },
    { "bulk-out", run_bulk_out, "read the stream (--seed, --rate)" },
    { "bulk-in", run_bulk_in, "send the stream (--seed, --rate)" },
    { "echo", run_echo, "64-byte requests (--interval MS)" },
    { "http", run_http, "GET (--path, --connections, --requests)" },
    { "udp", run_udp, "numbered datagrams (--interval MS)" },
    { "ping6", run_ping6, "ICMPv6 echo requests (--interval MS)" },
    { "control", run_control, "one command (--command)" },
    { "disk", run_disk, "blocks (--device, --slots, --seed, --interval MS)" },
    { "call", run_call, "calls of the guest (--seed)" },
    { "last", run_last, "last words (--connections, --seed, --interval MS)" },
};

static int usage(void)
{
    fprintf(stderr, "usage: colo-client MODE [--host H] [--port P] "
            "[--seconds S] [--connect-seconds S]\n"
            "       [--idle-seconds S] [--seed N] [--rate BYTES_PER_S] "
            "[--interval MS]\n"
            "       [--connections N] [--requests N] [--path P] [--command C] "
            "[--device D]\n"
            "       [--slots N]\n");
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        fprintf(stderr, "  %-10s %s\n", modes[i].name, modes[i].help);
    }
    return 2;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "host", required_argument, NULL, 'h' },
        { "port", required_argument, NULL, 'p' },
        { "seconds", required_argument, NULL, 's' },
        { "connect-seconds", required_argument, NULL, 'c' },
        { "idle-seconds", required_argument, NULL, 'i' },
        { "seed", required_argument, NULL, 'S' },
        { "rate", required_argument, NULL, 'r' },
        { "interval", required_argument, NULL, 'I' },
        { "connections", required_argument, NULL, 'n' },
        { "requests", required_argument, NULL, 'R' },
        { "path", required_argument, NULL, 'P' },
        { "command", required_argument, NULL, 'C' },
        { "device", required_argument, NULL, 'd' },
        { "slots", required_argument, NULL, 'N' },
        { }
    };
    struct sigaction action = { .sa_handler = on_signal };
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'h':
            opt.host = optarg;
            break;
        case 'p':
            opt.port = atoi(optarg);
            break;
        case 's':
            opt.seconds = atof(optarg);
            break;
        case 'c':
            opt.connect_seconds = atof(optarg);
            break;
        case 'i':
            opt.idle_seconds = atof(optarg);
            break;
        case 'S':
            opt.seed = strtoull(optarg, NULL, 0);
            break;
        case 'r':
            opt.rate = strtoull(optarg, NULL, 0);
            break;
        case 'I':
            opt.interval_ms = atof(optarg);
            break;
        case 'n':
            opt.connections = atoi(optarg);
            break;
        case 'R':
            opt.requests = atoi(optarg);
            break;
        case 'P':
            opt.path = optarg;
            break;
        case 'C':
            opt.command = optarg;
            break;
        case 'd':
            opt.device = optarg;
            break;
        case 'N':
            opt.slots = atoi(optarg);
            break;
        default:
            return usage();
        }
    }
    if (optind + 1 != argc || opt.connections < 1 ||
        opt.connections > MAX_CONNECTIONS) {
        return usage();
    }
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (!strcmp(argv[optind], modes[i].name)) {
            return modes[i].run();
        }
    }
    return usage();
}
