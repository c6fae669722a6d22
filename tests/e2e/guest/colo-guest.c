/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What runs inside the guest of the end-to-end tests.
 *
 * As process 1 it is the whole user space: it mounts /proc, /sys and /dev,
 * loads the modules listed in /lib/modules/boot, gives eth0 the addresses in
 * colo.ip=ADDRESS/PREFIX and colo.ip6=... of the kernel command line (eth1
 * those in colo.ip1 and colo.ip6-1, and so on), and serves.  With
 * --serve it only serves, so that the clients can be tested without a VM; with
 * --serve=FAULT it does so badly (see the table of faults), to show that the
 * clients notice.
 *
 *   port  service
 *   7001  ticker     a line "SEQ NOW_NS BEFORE_NS" every 5 ms, numbered from 0
 *                    on each connection; BEFORE_NS repeats the clock of the
 *                    line before.  No two executions read the same clock, so
 *                    the chain breaks if a line had left that the survivor of
 *                    a failover did not send.  Ticks that the guest slept
 *                    through are left out, not made up for
 *   7002  echo       64 bytes in, the same 64 bytes out
 *   7003  bulk out   "SEED LIMIT\n" in, the stream of that seed out (LIMIT
 *                    bytes, 0 = endless)
 *   7004  bulk in    "SEED\n" and then the stream in; out "ack COUNT\n" each
 *                    MiB, "end COUNT\n" at the end, "bad OFFSET\n" when a byte
 *                    is wrong
 *   7005  control    one command a line, the answer is "ok ..." or "error ...";
 *                    see the table of commands below
 *   7006  udp        a datagram in, the same out with what the guest knows of
 *                    its client filled in (colo-datagram.h)
 *   7007  disk       numbered blocks on a disk (colo-guest-disk.c)
 *   7008  last       what is sent right before the end (colo-guest-last.c)
 *   7009  call       the guest calls back (colo-guest-call.c)
 *   80    HTTP/1.1   /small 6 bytes, /64k 65536 bytes of the stream of seed 64
 *
 * One thread serves one connection with blocking calls; nothing is shared
 * between them but the dirty thread's size, which is atomic.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "colo-call.h"
#include "colo-guest.h"
#include "colo-stream.h"

#define DIRTY_PERIOD_NS     100000000LL
#define ECHO_BYTES          64
#define BULK_BYTES          65536
#define ACK_BYTES           (1ULL << 20)
#define STACK_BYTES         (256 * 1024)
#define USER_TIMEOUT_MS     180000  /* a client that is gone for so long */

typedef struct Service {
    const char *name;
    uint16_t port;
    void (*serve)(int fd);
    int listener;
} Service;

typedef struct Connection {
    const Service *service;
    int fd;
} Connection;

static pthread_attr_t thread_attr;
static bool is_init;

static const char *const fault_names[] = {
    [FAULT_NONE] = "none",
    [FAULT_LOSE] = "lose",
    [FAULT_REPEAT] = "repeat",
    [FAULT_CHANGE] = "change",
    [FAULT_REPLAY] = "replay",
    [FAULT_FORK] = "fork",
};

Fault fault;

#define FAULT_BYTE          100000

int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

void sleep_until(int64_t ns)
{
    struct timespec ts = { ns / 1000000000LL, ns % 1000000000LL };

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) ==
           EINTR) {
        /* Go on to the same instant */
    }
}

void say(const char *fmt, ...)
{
    char line[256];
    va_list ap;
    int len;

    va_start(ap, fmt);
    len = vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    dprintf(STDOUT_FILENO, "colo-guest: %.*s\n", len, line);
}

static bool send_all(int fd, const void *data, size_t len)
{
    const char *p = data;

    while (len) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        p += n;
        len -= n;
    }
    return true;
}

bool send_line(int fd, const char *fmt, ...)
{
    char line[512];
    va_list ap;
    int len;

    va_start(ap, fmt);
    len = vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    if (len < 0 || len >= (int)sizeof(line)) {
        return false;
    }
    return send_all(fd, line, len);
}

static ssize_t recv_some(int fd, void *data, size_t len)
{
    ssize_t n;

    do {
        n = recv(fd, data, len, 0);
    } while (n < 0 && errno == EINTR);
    return n;
}

static bool recv_all(int fd, void *data, size_t len)
{
    char *p = data;

    while (len) {
        ssize_t n = recv_some(fd, p, len);

        if (n <= 0) {
            return false;
        }
        p += n;
        len -= n;
    }
    return true;
}

bool recv_line(int fd, char *line, size_t size)
{
    size_t len = 0;

    while (len + 1 < size) {
        if (!recv_all(fd, line + len, 1)) {
            return false;
        }
        if (line[len] == '\n') {
            line[len] = 0;
            return true;
        }
        len++;
    }
    return false;
}

/* Services */

static void serve_ticker(int fd)
{
    int64_t next = now_ns(), before = 0;
    bool done = false;
    uint64_t seq;

    for (seq = 0; ; seq++) {
        int64_t now = now_ns();

        if (!send_line(fd, "%llu %lld %lld\n", (unsigned long long)seq,
                       (long long)now, (long long)before)) {
            return;
        }
        before = now;
        if (seq == FAULT_TICK && fault && !done) {
            done = true;
            seq += fault == FAULT_LOSE ? 1 : fault == FAULT_REPEAT ? -1 : 0;
            before += fault == FAULT_CHANGE;
        }
        next += TICK_NS;
        now = now_ns();
        if (next < now) {
            next = now;
        }
        sleep_until(next);
    }
}

/* Do the fault to @len bytes that begin at @offset of a stream */
static void damage(uint8_t *buf, size_t len, uint64_t offset)
{
    if (!fault || offset > FAULT_BYTE || offset + len <= FAULT_BYTE + 1) {
        return;
    }
    buf += FAULT_BYTE - offset;
    len -= FAULT_BYTE - offset;
    switch (fault) {
    case FAULT_LOSE:
        memmove(buf, buf + 1, len - 1);
        break;
    case FAULT_REPEAT:
        memmove(buf + 1, buf, len - 1);
        break;
    default:
        buf[0] ^= 1;
    }
}

static void serve_echo(int fd)
{
    uint8_t request[ECHO_BYTES];
    uint64_t offset = 0;

    while (recv_all(fd, request, sizeof(request))) {
        damage(request, sizeof(request), offset);
        offset += sizeof(request);
        if (!send_all(fd, request, sizeof(request))) {
            break;
        }
    }
}

static void serve_bulk_out(int fd)
{
    unsigned long long seed, limit;
    uint8_t *buf;
    char line[128];
    ColoStream stream;
    uint64_t sent = 0;

    if (!recv_line(fd, line, sizeof(line)) ||
        sscanf(line, "%llu %llu", &seed, &limit) != 2) {
        return;
    }
    buf = malloc(BULK_BYTES);
    if (!buf) {
        return;
    }
    colo_stream_init(&stream, seed);
    while (!limit || sent < limit) {
        size_t len = BULK_BYTES;

        if (limit && limit - sent < len) {
            len = limit - sent;
        }
        colo_stream_fill(&stream, buf, len);
        damage(buf, len, sent);
        if (!send_all(fd, buf, len)) {
            break;
        }
        sent += len;
    }
    free(buf);
}

static void serve_bulk_in(int fd)
{
    unsigned long long seed;
    uint64_t count = 0, acked = 0;
    char line[128];
    ColoStream stream;
    uint8_t *buf;

    if (!recv_line(fd, line, sizeof(line)) ||
        sscanf(line, "%llu", &seed) != 1) {
        return;
    }
    buf = malloc(BULK_BYTES);
    if (!buf) {
        return;
    }
    colo_stream_init(&stream, seed);
    while (true) {
        ssize_t n = recv_some(fd, buf, BULK_BYTES);
        size_t good;

        if (n <= 0) {
            if (!n) {
                send_line(fd, "end %llu\n", (unsigned long long)count);
            }
            break;
        }
        damage(buf, n, count);
        good = colo_stream_check(&stream, buf, n);
        count += good;
        if (good != (size_t)n) {
            send_line(fd, "bad %llu\n", (unsigned long long)count);
            break;
        }
        /* At fixed counts: two guests in lock-step say the same */
        while (acked < count / ACK_BYTES) {
            acked++;
            if (!send_line(fd, "ack %llu\n",
                           (unsigned long long)(acked * ACK_BYTES))) {
                goto out;
            }
        }
    }
out:
    free(buf);
}

/* Request number @number of HTTP; false ends the connection */
static bool http_answer(int fd, char *request, unsigned number)
{
    static const char small[] = "hello\n";
    static const size_t large = 65536;
    bool close_it = strcasestr(request, "\r\nconnection: close") ||
                    strstr(request, " HTTP/1.0\r\n");
    const char *status = "200 OK";
    const char *body = small;
    size_t body_len = sizeof(small) - 1;
    char *reply;
    int head;
    bool ok;

    reply = malloc(large + 512);
    if (!reply) {
        return false;
    }
    if (!strncmp(request, "GET /64k ", 9)) {
        body_len = large;
        body = NULL;
    } else if (strncmp(request, "GET /small ", 11)) {
        status = "404 Not Found";
        body_len = 0;
    }
    head = snprintf(reply, 512,
                    "HTTP/1.1 %s\r\nContent-Type: application/octet-stream\r\n"
                    "Content-Length: %zu\r\nConnection: %s\r\n\r\n",
                    status, body_len, close_it ? "close" : "keep-alive");
    if (body) {
        memcpy(reply + head, body, body_len);
    } else {
        ColoStream stream;

        colo_stream_init(&stream, 64);
        colo_stream_fill(&stream, (uint8_t *)reply + head, body_len);
    }
    if (number == FAULT_TICK && fault) {
        reply[head + body_len - 1] ^= 1;
    }
    ok = send_all(fd, reply, head + body_len);
    free(reply);
    return ok && !close_it;
}

static void serve_http(int fd)
{
    char buf[4096];
    size_t len = 0;
    unsigned number = 0;

    while (true) {
        char *end;
        ssize_t n;

        buf[len] = 0;
        end = strstr(buf, "\r\n\r\n");
        if (end) {
            char after = end[4];

            end[4] = 0;
            if (!http_answer(fd, buf, number++)) {
                return;
            }
            end[4] = after;
            len -= end + 4 - buf;
            memmove(buf, end + 4, len);
            continue;
        }
        if (len + 1 >= sizeof(buf)) {
            return;
        }
        n = recv_some(fd, buf + len, sizeof(buf) - 1 - len);
        if (n <= 0) {
            return;
        }
        len += n;
    }
}

/* Memory load */

static atomic_size_t dirty_mib;         /* wanted; 0 = none */
static atomic_size_t dirty_per_page = 4096;
static atomic_ullong dirty_rounds;

static void *dirty_thread(void *opaque)
{
    uint8_t *area = NULL;
    size_t area_mib = 0;
    uint64_t round = 0;

    setpriority(PRIO_PROCESS, syscall(SYS_gettid), 10);
    while (true) {
        int64_t start = now_ns();
        size_t mib = atomic_load(&dirty_mib);
        size_t per_page = atomic_load(&dirty_per_page);

        if (mib != area_mib) {
            if (area) {
                munmap(area, area_mib << 20);
            }
            area = NULL;
            area_mib = mib;
            if (mib) {
                area = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                if (area == MAP_FAILED) {
                    say("no memory for %zu MiB", mib);
                    area = NULL;
                    area_mib = 0;
                    atomic_store(&dirty_mib, 0);
                }
            }
        }
        if (area) {
            round++;
            for (size_t page = 0; page < area_mib << 20; page += 4096) {
                volatile uint64_t *p = (volatile uint64_t *)(area + page);
                uint64_t value = (round << 32) ^ page ^ (round * 0x9e3779b9);

                for (size_t i = 0; i < per_page / 8; i++) {
                    p[i] = value + i;
                }
            }
            atomic_fetch_add(&dirty_rounds, 1);
        }
        sleep_until(start + DIRTY_PERIOD_NS);
    }
    return NULL;
}

/* Control */

static void control_dirty(int fd, const char *args)
{
    unsigned long mib = 0, per_page = 4096;

    if (sscanf(args, "%lu %lu", &mib, &per_page) < 1 || mib > 65536 ||
        per_page < 8 || per_page > 4096) {
        send_line(fd, "error dirty MIB [BYTES_PER_PAGE: 8 to 4096]\n");
        return;
    }
    atomic_store(&dirty_per_page, per_page);
    atomic_store(&dirty_mib, mib);
    send_line(fd, "ok %llu\n", atomic_load(&dirty_rounds));
}

static void end_guest(int fd, int how)
{
    if (!is_init) {
        send_line(fd, "error not a guest\n");
        return;
    }
    send_line(fd, "ok\n");
    sync();
    reboot(how);
}

static void control_reboot(int fd, const char *args)
{
    end_guest(fd, RB_AUTOBOOT);
}

static void control_poweroff(int fd, const char *args)
{
    end_guest(fd, RB_POWER_OFF);
}

static void control_mem(int fd, const char *args)
{
    char line[128], reply[400] = "ok";
    FILE *f = fopen("/proc/meminfo", "r");
    int n = 0;

    while (f && n++ < 3 && fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = 0;
        strcat(strcat(reply, " "), line);
    }
    if (f) {
        fclose(f);
    }
    send_line(fd, "%s\n", reply);
}

static void control_uptime(int fd, const char *args)
{
    send_line(fd, "ok %lld\n", (long long)now_ns());
}

static void control_load(int fd, const char *args)
{
    bool ok = is_init && *args && !strchr(args, '/') && load_modules(args);

    send_line(fd, ok ? "ok\n" : "error no such set, or see the console\n");
}

/* Runs a command of busybox; the output follows a line "ok STATUS BYTES" */
static void control_sh(int fd, const char *args)
{
    size_t len = 0, size = 1 << 20;
    char *out;
    FILE *f;
    int status;

    if (!is_init) {
        send_line(fd, "error not a guest\n");
        return;
    }
    out = malloc(size);
    f = out ? popen(args, "r") : NULL;
    if (!f) {
        free(out);
        send_line(fd, "error %s\n", strerror(errno));
        return;
    }
    len = fread(out, 1, size, f);
    status = pclose(f);
    send_line(fd, "ok %d %zu\n",
              WIFEXITED(status) ? WEXITSTATUS(status) : 255, len);
    send_all(fd, out, len);
    free(out);
}

static void control_ping(int fd, const char *args)
{
    send_line(fd, "ok\n");
}

static const struct {
    const char *name;
    void (*run)(int fd, const char *args);
} commands[] = {
    { "ask", control_ask },         /* PORT MS: datagrams, answered */
    { "dirty", control_dirty },     /* MIB [BYTES]: rewritten each 100 ms */
    { "diskload", control_diskload },   /* ...: see colo-guest-diskload.c */
    { "last", control_last },       /* last words, and power off */
    { "load", control_load },       /* SET: insert a set of modules */
    { "mem", control_mem },         /* total and free memory */
    { "parts", control_parts },     /* [start]: see colo-guest-parts.c */
    { "ping", control_ping },
    { "poweroff", control_poweroff },
    { "reboot", control_reboot },
    { "sh", control_sh },           /* COMMAND: by busybox */
    { "uptime", control_uptime },   /* nanoseconds on the guest's clock */
    { "verify", control_verify },   /* DEVICE: read what was written there */
};

static void serve_control(int fd)
{
    char line[1024];

    while (recv_line(fd, line, sizeof(line))) {
        size_t word = strcspn(line, " ");
        const char *args = line + word + (line[word] == ' ');
        size_t i;

        for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
            if (strlen(commands[i].name) == word &&
                !strncmp(commands[i].name, line, word)) {
                commands[i].run(fd, args);
                break;
            }
        }
        if (i == sizeof(commands) / sizeof(commands[0])) {
            send_line(fd, "error unknown command\n");
        }
    }
}

static Service services[] = {
    { .name = "ticker", .port = 7001, .serve = serve_ticker },
    { .name = "echo", .port = 7002, .serve = serve_echo },
    { .name = "bulk-out", .port = 7003, .serve = serve_bulk_out },
    { .name = "bulk-in", .port = 7004, .serve = serve_bulk_in },
    { .name = "control", .port = 7005, .serve = serve_control },
    { .name = "disk", .port = 7007, .serve = serve_disk },
    { .name = "last", .port = 7008, .serve = serve_last },
    { .name = "call", .port = CALL_PORT, .serve = serve_call },
    { .name = "http", .port = 80, .serve = serve_http },
};

static void *connection_thread(void *opaque)
{
    Connection *connection = opaque;

    connection->service->serve(connection->fd);
    close(connection->fd);
    free(connection);
    return NULL;
}

static void *accept_thread(void *opaque)
{
    Service *service = opaque;

    while (true) {
        int on = 1, timeout = USER_TIMEOUT_MS;
        int fd = accept4(service->listener, NULL, NULL, SOCK_CLOEXEC);
        Connection *connection;
        pthread_t thread;

        if (fd < 0) {
            sleep_until(now_ns() + TICK_NS);    /* out of something */
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout,
                   sizeof(timeout));
        connection = malloc(sizeof(*connection));
        if (connection) {
            *connection = (Connection) { service, fd };
            if (!pthread_create(&thread, &thread_attr, connection_thread,
                                connection)) {
                continue;
            }
        }
        free(connection);
        close(fd);
    }
    return NULL;
}

static bool start_service(Service *service)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(service->port),
    };
    pthread_t thread;
    int on = 1;

    service->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(service->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    return service->listener >= 0 &&
           !bind(service->listener, (struct sockaddr *)&address,
                 sizeof(address)) &&
           !listen(service->listener, 256) &&
           !pthread_create(&thread, &thread_attr, accept_thread, service);
}

static bool parse_arguments(int argc, char **argv)
{
    static const char serve[] = "--serve";
    size_t len = sizeof(serve) - 1;

    if (argc != 2 || strncmp(argv[1], serve, len)) {
        return false;
    }
    if (!argv[1][len]) {
        return true;
    }
    for (size_t i = 0; i < sizeof(fault_names) / sizeof(fault_names[0]); i++) {
        if (argv[1][len] == '=' && !strcmp(argv[1] + len + 1, fault_names[i])) {
            fault = i;
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    pthread_t thread;

    is_init = getpid() == 1;
    if (!is_init && !parse_arguments(argc, argv)) {
        fprintf(stderr, "usage: %s --serve[=none|lose|repeat|change|replay|"
                "fork] (or be process 1)\n", argv[0]);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    pthread_attr_init(&thread_attr);
    pthread_attr_setdetachstate(&thread_attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&thread_attr, STACK_BYTES);
    if (is_init) {
        set_up_guest();
    }
    for (size_t i = 0; i < sizeof(services) / sizeof(services[0]); i++) {
        if (!start_service(&services[i])) {
            say("port %d: %s", services[i].port, strerror(errno));
            return 1;
        }
    }
    if (!start_udp() || !start_ping6()) {
        say("datagrams: %s", strerror(errno));
        return 1;
    }
    if (pthread_create(&thread, &thread_attr, dirty_thread, NULL)) {
        say("no thread");
        return 1;
    }
    say("ready");
    while (true) {
        pause();
    }
}
