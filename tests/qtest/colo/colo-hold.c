/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: somebody between two QEMUs who makes one frame wait.
 *
 * All but the creation and the calls of the test runs in a thread of its own.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "qemu/bswap.h"
#include "qemu/sockets.h"
#include "qemu/units.h"
#include "qemu/thread.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "migration/colo/frame.h"
#include "colo-helpers.h"
#include "colo-hold.h"

struct ColoHold {
    int listener;
    char *to;                   /* path of the secondary's socket */
    QemuThread thread;
    int stop[2];                /* pipe: closed to end the thread */

    QemuMutex lock;
    QemuCond cond;
    /* lock */
    bool armed;
    bool next;                  /* let one go and hold the next */
    bool holds;
    bool over;
    bool last;                  /* nothing is said after 'vmstate-size' */
    bool deaf;                  /* that has been passed on */
    unsigned count;
};

/* Also to stop: whoever waits in there is let go */
static void set(ColoHold *h, bool armed, bool over)
{
    qemu_mutex_lock(&h->lock);
    h->armed = armed;
    h->over |= over;
    qemu_cond_broadcast(&h->cond);
    qemu_mutex_unlock(&h->lock);
}

static void hold(ColoHold *h)
{
    qemu_mutex_lock(&h->lock);
    h->count++;
    h->holds = h->armed;
    qemu_cond_broadcast(&h->cond);
    while (h->armed && !h->next && !h->over) {
        qemu_cond_wait(&h->cond, &h->lock);
    }
    h->next = false;
    h->holds = false;
    qemu_mutex_unlock(&h->lock);
}

/* Who is gone hears nothing, but what it had said is still passed on */
static void say(int to, const void *buf, size_t len)
{
    send(to, buf, len, MSG_NOSIGNAL);
}

static bool pass(int from, int to, void *buf, size_t len)
{
    if (len && recv(from, buf, len, MSG_WAITALL) != len) {
        return false;
    }
    say(to, buf, len);
    return true;
}

/* Has the last frame gone by that the secondary is to hear? */
static bool is_deaf(ColoHold *h, ColoFrameType passed)
{
    bool deaf;

    qemu_mutex_lock(&h->lock);
    deaf = h->deaf;
    h->deaf |= h->last && passed == COLO_FRAME_VMSTATE_SIZE;
    qemu_mutex_unlock(&h->lock);
    return deaf;
}

/* Pass one frame on.  False ends the thread. */
static bool pass_frame(ColoHold *h, int from, int to, bool of_primary)
{
    uint8_t hdr[COLO_FRAME_HDR_LEN];
    g_autofree uint8_t *payload = NULL;
    ColoFrameType type;

    if (recv(from, hdr, sizeof(hdr), MSG_WAITALL) != sizeof(hdr)) {
        return false;
    }
    type = lduw_be_p(hdr + 6);
    if (type == COLO_FRAME_PAGES) {
        hold(h);
    }
    payload = g_malloc(ldq_be_p(hdr + 16));
    if (of_primary && is_deaf(h, type)) {
        uint64_t len = ldq_be_p(hdr + 16);

        return !len || recv(from, payload, len, MSG_WAITALL) == len;
    }
    say(to, hdr, sizeof(hdr));
    return pass(from, to, payload, ldq_be_p(hdr + 16));
}

/* What comes before the frames is the first migration */
static bool pass_raw(int from, int to)
{
    uint8_t buf[65536];
    ssize_t n = recv(from, buf, sizeof(buf), 0);

    return n > 0 && send(to, buf, n, MSG_NOSIGNAL) == n;
}

static void *hold_thread(void *opaque)
{
    ColoHold *h = opaque;
    int primary = accept(h->listener, NULL, NULL);
    int secondary = unix_connect(h->to, &error_abort);
    bool framed = false, go_on = true;

    g_assert_cmpint(primary, >=, 0);
    while (go_on) {
        struct pollfd fds[] = {
            { h->stop[0], POLLIN }, { secondary, POLLIN }, { primary, POLLIN },
        };

        poll(fds, 3, -1);
        if (fds[0].revents) {
            break;
        }
        if (fds[1].revents) {
            /* It speaks first */
            framed = true;
            go_on = pass_frame(h, secondary, primary, false);
        } else if (fds[2].revents) {
            go_on = framed ? pass_frame(h, primary, secondary, true)
                           : pass_raw(primary, secondary);
        }
    }
    close(primary);
    close(secondary);
    return NULL;
}

ColoHold *colo_hold_new(const char *dir)
{
    ColoHold *h = g_new0(ColoHold, 1);
    g_autofree char *path = g_build_filename(dir, "hold", NULL);

    h->to = g_build_filename(dir, "mig", NULL);
    h->listener = unix_listen(path, &error_abort);
    g_assert_cmpint(pipe(h->stop), ==, 0);
    qemu_mutex_init(&h->lock);
    qemu_cond_init(&h->cond);
    qemu_thread_create(&h->thread, "hold", hold_thread, h,
                       QEMU_THREAD_JOINABLE);
    return h;
}

void colo_hold_arm(ColoHold *h)
{
    set(h, true, false);
}

void colo_hold_next(ColoHold *h)
{
    qemu_mutex_lock(&h->lock);
    h->next = true;
    h->holds = false;
    qemu_cond_broadcast(&h->cond);
    qemu_mutex_unlock(&h->lock);
    colo_hold_await(h);
}

void colo_hold_await(ColoHold *h)
{
    qemu_mutex_lock(&h->lock);
    while (!h->holds) {
        g_assert_true(qemu_cond_timedwait(&h->cond, &h->lock,
                                          COLO_DEADLINE_MS));
    }
    qemu_mutex_unlock(&h->lock);
}

static char *run_state(QTestState *qts)
{
    QDict *status = qtest_qmp_assert_success_ref(qts,
        "{'execute': 'query-status'}");
    char *name = g_strdup(qdict_get_str(status, "status"));

    qobject_unref(status);
    return name;
}

void colo_hold_cut(ColoHold *h, ColoPair *p)
{
    g_autofree char *before = run_state(p->primary);
    g_autofree char *now = NULL;

    qtest_memset(p->primary, 16 * MiB, 0x5a, 4 * MiB);
    colo_hold_arm(h);
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    colo_hold_await(h);
    qtest_memset(p->primary, 16 * MiB, 0xa5, 4 * MiB);
    for (;;) {
        now = run_state(p->primary);
        if (!g_str_equal(now, before)) {
            return;
        }
        g_clear_pointer(&now, g_free);
        colo_hold_next(h);
    }
}

void colo_hold_release(ColoHold *h)
{
    set(h, false, false);
}

void colo_hold_release_last(ColoHold *h)
{
    qemu_mutex_lock(&h->lock);
    h->last = true;
    qemu_mutex_unlock(&h->lock);
    colo_hold_release(h);
}

unsigned colo_hold_count(ColoHold *h)
{
    unsigned count;

    qemu_mutex_lock(&h->lock);
    count = h->count;
    qemu_mutex_unlock(&h->lock);
    return count;
}

void colo_hold_free(ColoHold *h)
{
    set(h, false, true);
    close(h->stop[1]);
    qemu_thread_join(&h->thread);
    close(h->stop[0]);
    close(h->listener);
    qemu_cond_destroy(&h->cond);
    qemu_mutex_destroy(&h->lock);
    g_free(h->to);
    g_free(h);
}

ColoHold *colo_hold_protect(ColoPair *p)
{
    ColoHold *h;

    qtest_qmp_assert_success(p->primary,
        "{'execute': 'migrate-set-parameters', 'arguments': {"
        "'x-colo-staging-limit': %u}}", COLO_HOLD_STAGING);
    colo_pair_migrate(p, "mig", NULL, 600000, COLO_DEADLINE_MS);
    h = colo_hold_new(p->dir);
    colo_pair_migrate(p, NULL, "hold", 600000, COLO_DEADLINE_MS);
    colo_wait_state(p->primary, "running");
    return h;
}
