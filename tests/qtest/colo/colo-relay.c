/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a relay between the two sides of a pair.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <sys/un.h>
#include "qemu/atomic.h"
#include "colo-relay.h"

struct ColoRelay {
    GThread *thread;
    int listen;
    char *to;
    int ends[2];
    bool holds[2];              /* atomic: what end i says waits */
    bool quit;                  /* atomic */
};

static void relay_once(ColoRelay *r)
{
    struct pollfd p[2];

    for (int i = 0; i < 2; i++) {
        bool held = qatomic_read(&r->holds[i]);

        p[i] = (struct pollfd) { r->ends[i], held ? 0 : POLLIN };
    }
    poll(p, 2, 10);
    for (int i = 0; i < 2; i++) {
        char buf[65536];
        ssize_t n;

        if (!(p[i].revents & (POLLIN | POLLHUP)) ||
            qatomic_read(&r->holds[i])) {
            continue;
        }
        n = read(r->ends[i], buf, sizeof(buf));
        for (ssize_t done = 0, w; done < n; done += w) {
            w = send(r->ends[!i], buf + done, n - done, MSG_NOSIGNAL);
            if (w < 0) {
                break;
            }
        }
        if (n <= 0) {
            shutdown(r->ends[!i], SHUT_WR);
            qatomic_set(&r->holds[i], true);
        }
    }
}

static void *relay_thread(void *opaque)
{
    ColoRelay *r = opaque;
    struct sockaddr_un to = { .sun_family = AF_UNIX };

    r->ends[0] = accept(r->listen, NULL, NULL);
    r->ends[1] = socket(AF_UNIX, SOCK_STREAM, 0);
    strcpy(to.sun_path, r->to);
    g_assert_cmpint(connect(r->ends[1], (void *)&to, sizeof(to)), ==, 0);
    while (!qatomic_read(&r->quit)) {
        relay_once(r);
    }
    close(r->ends[0]);
    close(r->ends[1]);
    return NULL;
}

static ColoRelay *relay_new(ColoPair *p, const char *from, const char *to)
{
    ColoRelay *r = g_new0(ColoRelay, 1);
    struct sockaddr_un at = { .sun_family = AF_UNIX };

    r->to = g_strdup_printf("%s/%s", p->dir, to);
    snprintf(at.sun_path, sizeof(at.sun_path), "%s/%s", p->dir, from);
    r->listen = socket(AF_UNIX, SOCK_STREAM, 0);
    g_assert_cmpint(bind(r->listen, (void *)&at, sizeof(at)), ==, 0);
    g_assert_cmpint(listen(r->listen, 1), ==, 0);
    r->thread = g_thread_new("relay", relay_thread, r);
    return r;
}

void colo_relay_free(ColoRelay *r)
{
    qatomic_set(&r->quit, true);
    g_thread_join(r->thread);
    close(r->listen);
    g_free(r->to);
    g_free(r);
}

void colo_relay_hold(ColoRelay *r, int who, bool hold)
{
    qatomic_set(&r->holds[who], hold);
}

ColoPair *colo_relay_pair(const char *mode, unsigned timeout_ms, ColoRelay **r)
{
    ColoPair *p = colo_pair_new(mode);

    *r = relay_new(p, "relay", "mig");
    colo_pair_migrate(p, "mig", "relay", 600000, timeout_ms);
    colo_wait_state(p->secondary, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
    return p;
}
