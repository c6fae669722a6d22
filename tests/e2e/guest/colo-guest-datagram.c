/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's services for datagrams: port 7006 of UDP, and a bad answerer of
 * ICMPv6 echo requests for the tests of the clients.
 *
 * One thread serves one of them, and nobody else touches what it knows.
 */
#define _GNU_SOURCE
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-datagram.h"
#include "colo-guest.h"

#define CLIENTS         64

/*
 * A guest that gets its time late has to find all datagrams, those of seconds:
 * what one of a pair drops here and the other one does not makes them different.
 */
#define RCVBUF_BYTES    (8 << 20)

/* What was heard of a client */
typedef struct Heard {
    uint64_t client;
    uint64_t count;
    uint64_t before;
    uint64_t used;      /* when, on the count of all datagrams */
} Heard;

typedef struct Server {
    int fd;
    size_t head_bytes;  /* before the ColoDatagram */
    bool counts;
    uint64_t total;
    Heard heard[CLIENTS];
} Server;

/* Of a new client: in the place of the one that was silent for longest */
static Heard *find_heard(Server *s, uint64_t client)
{
    Heard *oldest = s->heard;

    for (Heard *h = s->heard; h < s->heard + CLIENTS; h++) {
        if (h->used && h->client == client) {
            return h;
        }
        if (h->used < oldest->used) {
            oldest = h;
        }
    }
    *oldest = (Heard) { .client = client };
    return oldest;
}

/* Make the request in @buf its answer; how often to send that */
static int answer(Server *s, uint8_t *buf, size_t size)
{
    uint8_t *at = buf + s->head_bytes;
    ColoDatagram d;
    Heard *h;
    int copies = 1;

    if (size < s->head_bytes + sizeof(d)) {
        return 0;
    }
    memcpy(&d, at, sizeof(d));
    if (d.magic != COLO_DATAGRAM_MAGIC) {
        return 0;
    }
    h = find_heard(s, d.client);
    h->used = ++s->total;
    h->count++;
    if (s->counts) {
        d.count = h->count;
        d.before = h->before;
        memcpy(at, &d, sizeof(d));
    }
    h->before = d.id;
    if (h->count == FAULT_TICK) {
        copies = fault == FAULT_LOSE ? 0 : fault == FAULT_REPEAT ? 2 : 1;
        buf[size - 1] ^= fault == FAULT_CHANGE;
        h->count -= fault == FAULT_REPLAY;
        h->before += fault == FAULT_FORK;
    }
    return copies;
}

static void *udp_thread(void *opaque)
{
    static uint8_t buf[65536];
    Server *s = opaque;

    while (true) {
        struct sockaddr_storage peer;
        socklen_t len = sizeof(peer);
        ssize_t n = recvfrom(s->fd, buf, sizeof(buf), 0,
                             (struct sockaddr *)&peer, &len);
        int copies = n > 0 ? answer(s, buf, n) : 0;

        while (copies-- > 0) {
            sendto(s->fd, buf, n, 0, (struct sockaddr *)&peer, len);
        }
    }
    return NULL;
}

bool start_udp(void)
{
    static Server server = { .counts = true };
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(COLO_DATAGRAM_PORT),
    };
    int bytes = RCVBUF_BYTES;
    pthread_t thread;

    server.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    /* Past net.core.rmem_max; with less it goes, too, but not in a guest */
    if (setsockopt(server.fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes,
                   sizeof(bytes))) {
        setsockopt(server.fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
    }
    return server.fd >= 0 &&
           !bind(server.fd, (struct sockaddr *)&address, sizeof(address)) &&
           !pthread_create(&thread, NULL, udp_thread, &server);
}

static void *ping6_thread(void *opaque)
{
    static uint8_t buf[65536];
    Server *s = opaque;

    while (true) {
        struct sockaddr_in6 peer;
        socklen_t len = sizeof(peer);
        ssize_t n = recvfrom(s->fd, buf, sizeof(buf), 0,
                             (struct sockaddr *)&peer, &len);
        int copies = n > 0 ? answer(s, buf, n) : 0;

        buf[0] = ICMP6_ECHO_REPLY;
        while (copies-- > 0) {
            sendto(s->fd, buf, n, 0, (struct sockaddr *)&peer, len);
        }
    }
    return NULL;
}

bool start_ping6(void)
{
    static Server server = { .head_bytes = sizeof(struct icmp6_hdr) };
    struct icmp6_filter filter;
    pthread_t thread;

    if (!fault) {
        return true;
    }
    server.fd = socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMPV6);
    if (server.fd < 0) {
        return true;
    }
    ICMP6_FILTER_SETBLOCKALL(&filter);
    ICMP6_FILTER_SETPASS(ICMP6_ECHO_REQUEST, &filter);
    return !setsockopt(server.fd, IPPROTO_ICMPV6, ICMP6_FILTER, &filter,
                       sizeof(filter)) &&
           !pthread_create(&thread, NULL, ping6_thread, &server);
}
