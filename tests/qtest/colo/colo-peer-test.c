/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO with a bad peer.
 *
 * A thread of the test sits between two QEMUs and passes on what they say,
 * but for one frame, which it alters: a wrong magic, version, type, number or
 * length, a frame that does not belong here, garbage, the same frame twice,
 * half a frame, a byte now and then, or silence or empty words from then on.
 *
 * Proves: for each frame of the protocol the side that reads it notices, says
 * in which stage, stays alive, and can be told to go on; neither goes live by
 * itself, and only one does.  A side that still waits for a silent peer can be
 * told to go on at once, however long its timeout is.  A secondary that cannot
 * load a checkpoint reports it and never goes live.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "qemu/bswap.h"
#include "qemu/sockets.h"
#include "qemu/thread.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "migration/colo/frame.h"
#include "colo-helpers.h"

/* Where a peer is silent, or has to say that it is well; ms */
#ifdef __SANITIZE_ADDRESS__
#define TIMEOUT_MS  3000
#else
#define TIMEOUT_MS  1500
#endif
/* Where nobody is: a machine that is slow is no fault */
#define PATIENT_TIMEOUT_MS 15000
/* Of a peer that drips, how often; of one that talks of nothing, how long */
#define DRIPS_PER_TIMEOUT  10
#define CHATTER_TIMEOUT_MS 1000
/* For those that must not have to wait for it */
#define LONG_TIMEOUT_MS 600000

typedef enum Fault {
    FAULT_MAGIC,
    FAULT_VERSION,
    FAULT_TYPE,
    FAULT_NUMBER,
    FAULT_LENGTH,
    FAULT_UNEXPECTED,
    FAULT_GARBAGE,
    FAULT_REPEAT,
    FAULT_TRUNCATE,
    FAULT_SILENCE,
    FAULT_IMPATIENCE,           /* silence, and nobody waits for its end */
    FAULT_DRIP,                 /* byte by byte, with pauses */
    FAULT_CHATTER,              /* pings or pongs without end */
    FAULT__MAX,
} Fault;

static const struct {
    const char *name;           /* "wrong/" or "slow/": parts in meson.build */
    const char *noticed;        /* the reader says so; NULL: it depends */
} faults[] = {
    [FAULT_MAGIC] = { "wrong/magic", "wrong magic" },
    [FAULT_VERSION] = { "wrong/version", "speaks version 5" },
    [FAULT_TYPE] = { "wrong/type", "unknown frame type" },
    [FAULT_NUMBER] = { "wrong/number", "unexpected" },
    [FAULT_LENGTH] = { "wrong/length", "allowed" },
    [FAULT_UNEXPECTED] = { "wrong/unexpected" },
    [FAULT_GARBAGE] = { "wrong/garbage" },
    [FAULT_REPEAT] = { "wrong/repeat" },
    [FAULT_TRUNCATE] = { "wrong/truncate" },
    [FAULT_SILENCE] = { "slow/silence",
                        "silent for " stringify(TIMEOUT_MS) " ms" },
    [FAULT_IMPATIENCE] = { "wrong/impatience" },
    [FAULT_DRIP] = { "slow/drip", "bytes went through in "
                     stringify(TIMEOUT_MS) " ms" },
    [FAULT_CHATTER] = { "slow/chatter" },
};

QEMU_BUILD_BUG_ON(G_N_ELEMENTS(faults) != FAULT__MAX);

typedef struct Case {
    Fault fault;
    ColoFrameType type;
} Case;

typedef struct Proxy {
    Case c;
    int listener;
    char *to;                   /* path of the secondary's socket */
    QemuThread thread;
    int stop[2];                /* pipe: closed to end the thread */
    int primary;                /* connections */
    int secondary;
    bool framed;                /* the secondary has spoken */
    unsigned left_alone;        /* so many of that type come before it */
    bool done;                  /* the fault was injected */
} Proxy;

static bool from_primary(ColoFrameType type)
{
    switch (type) {
    case COLO_FRAME_START:
    case COLO_FRAME_CHECKPOINT_REQUEST:
    case COLO_FRAME_VMSTATE_SEND:
    case COLO_FRAME_PAGES:
    case COLO_FRAME_VMSTATE_SIZE:
    case COLO_FRAME_SECTIONS:
    case COLO_FRAME_PING:
    case COLO_FRAME_BYE:
    case COLO_FRAME_HASHES:
        return true;
    default:
        return false;
    }
}

static bool is_ping(ColoFrameType type)
{
    return type == COLO_FRAME_PING || type == COLO_FRAME_PONG;
}

/* Wait for @fd, which may be -1; false if the thread is to end */
static bool wait_fd(Proxy *p, int fd, short events)
{
    struct pollfd fds[] = { { p->stop[0], POLLIN }, { fd, events } };

    poll(fds, 2, -1);
    return !fds[0].revents;
}

static bool read_full(Proxy *p, int fd, uint8_t *buf, size_t len)
{
    while (len) {
        ssize_t n;

        if (!wait_fd(p, fd, POLLIN)) {
            return false;
        }
        n = read(fd, buf, len);
        if (n <= 0) {
            return false;
        }
        buf += n;
        len -= n;
    }
    return true;
}

static bool write_full(Proxy *p, int fd, const uint8_t *buf, size_t len)
{
    while (len) {
        ssize_t n;

        if (!wait_fd(p, fd, POLLOUT)) {
            return false;
        }
        n = send(fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        buf += n;
        len -= n;
    }
    return true;
}

static void garble(uint8_t *from, const uint8_t *end)
{
    while (from < end) {
        *from++ ^= 0xa5;
    }
}

/* Alter one frame.  Returns how many of its bytes are to be passed on. */
static size_t alter(Proxy *p, uint8_t *frame, size_t len)
{
    switch (p->c.fault) {
    case FAULT_MAGIC:
        frame[0] ^= 0x20;
        break;
    case FAULT_VERSION:
        stw_be_p(frame + 4, COLO_FRAME_VERSION + 1);
        break;
    case FAULT_TYPE:
        stw_be_p(frame + 6, COLO_FRAME__MAX + 3);
        break;
    case FAULT_NUMBER:
        stq_be_p(frame + 8, ldq_be_p(frame + 8) + 5);
        break;
    case FAULT_LENGTH:
        stq_be_p(frame + 16, UINT64_MAX / 2);
        break;
    case FAULT_UNEXPECTED:
        stw_be_p(frame + 6, from_primary(p->c.type)
                            ? COLO_FRAME_VMSTATE_RECEIVED : COLO_FRAME_START);
        break;
    case FAULT_GARBAGE:
        garble(frame + COLO_FRAME_HDR_LEN, frame + len);
        break;
    case FAULT_TRUNCATE:
        return len / 2;
    default:
        break;
    }
    return len;
}

/* Let a part of a timeout pass.  False ends the thread. */
static bool wait_part(Proxy *p, int timeout_ms)
{
    struct pollfd fd = { p->stop[0], POLLIN };

    return poll(&fd, 1, timeout_ms / DRIPS_PER_TIMEOUT) == 0;
}

/* What nobody hears any more does not count: its other reader may be there */
static bool drip(Proxy *p, int to, const uint8_t *frame, size_t len)
{
    bool heard = true;

    for (size_t i = 0; i < len && wait_part(p, TIMEOUT_MS); i++) {
        heard = heard && write_full(p, to, frame + i, 1);
    }
    return wait_fd(p, -1, 0);
}

static bool chatter(Proxy *p, int to)
{
    uint8_t hdr[COLO_FRAME_HDR_LEN];
    bool heard = true;

    colo_frame_encode(&(ColoFrame) {
        from_primary(p->c.type) ? COLO_FRAME_PING : COLO_FRAME_PONG, 0, 0,
    }, hdr);
    while (wait_part(p, CHATTER_TIMEOUT_MS)) {
        heard = heard && write_full(p, to, hdr, sizeof(hdr));
    }
    return false;
}

/* Pass one frame on.  False ends the thread. */
static bool pass_frame(Proxy *p, int from, int to)
{
    uint8_t hdr[COLO_FRAME_HDR_LEN];
    g_autofree uint8_t *frame = NULL;
    size_t len;

    if (!read_full(p, from, hdr, sizeof(hdr))) {
        return false;
    }
    len = sizeof(hdr) + ldq_be_p(hdr + 16);
    frame = g_malloc(len);
    memcpy(frame, hdr, sizeof(hdr));
    if (!read_full(p, from, frame + sizeof(hdr), len - sizeof(hdr))) {
        return false;
    }
    if (p->c.type == COLO_FRAME_ERROR &&
        lduw_be_p(hdr + 6) == COLO_FRAME_VMSTATE_SIZE) {
        /* The secondary shall have an error to report */
        garble(frame + COLO_FRAME_HDR_LEN + COLO_TAIL_LEN, frame + len);
    }
    if (!p->done && lduw_be_p(hdr + 6) == p->c.type && !p->left_alone--) {
        size_t whole = len;

        qatomic_set(&p->done, true);
        if (p->c.fault == FAULT_SILENCE || p->c.fault == FAULT_IMPATIENCE) {
            /* Keep the connections, say nothing any more */
            return wait_fd(p, -1, 0);
        }
        if (p->c.fault == FAULT_DRIP) {
            return drip(p, to, frame, len);
        }
        if (p->c.fault == FAULT_CHATTER) {
            return chatter(p, to);
        }
        if (p->c.fault == FAULT_REPEAT && !write_full(p, to, frame, len)) {
            return false;
        }
        len = alter(p, frame, len);
        if (len < whole) {
            write_full(p, to, frame, len);
            return false;
        }
    }
    return write_full(p, to, frame, len);
}

static bool pass_raw(Proxy *p, int from, int to)
{
    uint8_t buf[65536];
    ssize_t n = read(from, buf, sizeof(buf));

    return n > 0 && write_full(p, to, buf, n);
}

static void *proxy_thread(void *opaque)
{
    Proxy *p = opaque;
    bool go_on = true;

    p->primary = accept(p->listener, NULL, NULL);
    g_assert_cmpint(p->primary, >=, 0);
    p->secondary = unix_connect(p->to, &error_abort);

    while (go_on) {
        struct pollfd fds[] = {
            { p->stop[0], POLLIN }, { p->secondary, POLLIN },
            { p->primary, POLLIN },
        };

        poll(fds, 3, -1);
        if (fds[0].revents) {
            break;
        }
        if (fds[1].revents) {
            p->framed = true;
            go_on = pass_frame(p, p->secondary, p->primary);
        } else if (fds[2].revents) {
            go_on = p->framed ? pass_frame(p, p->primary, p->secondary)
                              : pass_raw(p, p->primary, p->secondary);
        }
    }
    close(p->primary);
    close(p->secondary);
    return NULL;
}

static Proxy *proxy_start(const Case *c, const char *dir)
{
    Proxy *p = g_new0(Proxy, 1);
    g_autofree char *path = g_build_filename(dir, "proxy", NULL);

    p->c = *c;
    /* The first ones are a part of the start */
    p->left_alone = is_ping(c->type);
    p->to = g_build_filename(dir, "mig", NULL);
    p->listener = unix_listen(path, &error_abort);
    g_assert_cmpint(pipe(p->stop), ==, 0);
    qemu_thread_create(&p->thread, "proxy", proxy_thread, p,
                       QEMU_THREAD_JOINABLE);
    return p;
}

/* Close both connections */
static void proxy_hang_up(Proxy *p)
{
    if (p->stop[1] >= 0) {
        close(p->stop[1]);
        p->stop[1] = -1;
        qemu_thread_join(&p->thread);
    }
}

static void proxy_stop(Proxy *p)
{
    proxy_hang_up(p);
    close(p->stop[0]);
    close(p->listener);
    g_free(p->to);
    g_free(p);
}

static void wait_done(Proxy *p)
{
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;

    while (!qatomic_read(&p->done)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
}

/* The message of COLO_PEER_LOST names the stage, and the fault itself */
static void check_message(QTestState *qts, Fault fault)
{
    QDict *event = colo_wait_event(qts, "COLO_PEER_LOST");
    const char *message = qdict_get_str(qdict_get_qdict(event, "data"),
                                        "message");

    if (!g_str_has_prefix(message, "waiting for ") &&
        !g_str_has_prefix(message, "receiving '") &&
        !g_str_has_prefix(message, "sending '") &&
        !g_str_has_prefix(message, "'")) {
        g_error("the message names no stage: %s", message);
    }
    if (faults[fault].noticed && !strstr(message, faults[fault].noticed)) {
        g_error("the message does not contain '%s': %s",
                faults[fault].noticed, message);
    }
    qobject_unref(event);
}

/* In periodic mode nobody sends these */
static bool is_hybrid(ColoFrameType type)
{
    return type == COLO_FRAME_HASHES || type == COLO_FRAME_WANTED;
}

/* The reader is the secondary: it stands or runs, and can take over */
static void secondary_survives(ColoPair *p, Proxy *proxy, ColoFrameType type,
                               Fault fault)
{
    bool started = type != COLO_FRAME_START || fault == FAULT_REPEAT;

    if (fault != FAULT_IMPATIENCE) {
        colo_wait_state(p->secondary, "lost");
        check_message(p->secondary, fault);
        if (fault != FAULT_SILENCE && fault != FAULT_DRIP) {
            /* Otherwise a checkpoint may be under way, and go on */
            colo_wait_status(p->secondary,
                             colo_is_hybrid(p) ? "running" : "colo");
        }
        /* The primary hears nothing any more and holds its output */
        if (fault != FAULT_SILENCE && fault != FAULT_DRIP) {
            proxy_hang_up(proxy);
        }
        colo_wait_state(p->primary, "lost");
        colo_wait_status(p->primary, "running");
    }
    if (fault == FAULT_IMPATIENCE) {
        /* Without force it would wait for the primary's lease to end */
        colo_force(p->secondary);
    } else if (started) {
        colo_failover(p->secondary);
    } else {
        colo_refused(p->secondary, "before it said 'start'",
                     "{'execute': 'x-colo-lost-heartbeat'}");
        colo_force(p->secondary);
    }
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "running");
    colo_wait_migrate(p->secondary, "completed");
}

/* The secondary must not go live unless it is told to */
static void check_secondary_stands(ColoPair *p)
{
    g_autofree char *state = colo_state(p->secondary);
    QDict *status = qtest_qmp_assert_success_ref(p->secondary,
        "{'execute': 'query-status'}");

    g_assert_cmpstr(state, !=, "live");
    if (!colo_is_hybrid(p)) {
        g_assert_false(qdict_get_bool(status, "running"));
    }
    qobject_unref(status);
}

/* The reader is the primary: its guest runs, and can be let go */
static void primary_survives(ColoPair *p, bool protected, Fault fault,
                             const char *migrated)
{
    if (protected && fault != FAULT_IMPATIENCE) {
        colo_wait_state(p->primary, "lost");
        check_message(p->primary, fault);
        colo_wait_status(p->primary, "running");
    }
    if (protected || fault == FAULT_IMPATIENCE) {
        colo_failover(p->primary);
    }
    colo_wait_state(p->primary, "alone");
    colo_wait_migrate(p->primary, migrated);
    colo_wait_status(p->primary, "running");
    check_secondary_stands(p);
}

/* Frames that end a session, and their answer */
static bool is_end(ColoFrameType type)
{
    return type == COLO_FRAME_BYE || type == COLO_FRAME_BYE_ACK ||
           type == COLO_FRAME_ERROR;
}

static void end_in_order(ColoPair *p)
{
    colo_wait_statistic(p->primary, "checkpoints", 2);
    qtest_qmp_assert_success(p->primary, "{'execute': 'migrate_cancel'}");
}

static unsigned timeout_of(const Case *c)
{
    switch (c->fault) {
    case FAULT_IMPATIENCE:
        return LONG_TIMEOUT_MS;
    case FAULT_CHATTER:
        /* A pong that nobody asked for is noticed at once */
        return from_primary(c->type) || is_end(c->type) ? CHATTER_TIMEOUT_MS
                                                        : LONG_TIMEOUT_MS;
    case FAULT_SILENCE:
    case FAULT_DRIP:
        return TIMEOUT_MS;
    default:
        return is_ping(c->type) ? TIMEOUT_MS : PATIENT_TIMEOUT_MS;
    }
}

/* Set the pair up with a proxy in between, and wait for its deed */
static Proxy *start_case(ColoPair *p, const Case *c)
{
    unsigned timeout_ms = timeout_of(c);
    unsigned delay_ms = is_ping(c->type) ? 600000 : 10;
    Proxy *proxy;

    colo_pair_migrate(p, "mig", NULL, delay_ms, timeout_ms);
    proxy = proxy_start(c, p->dir);
    colo_pair_migrate(p, NULL, "proxy", delay_ms, timeout_ms);
    if (c->type == COLO_FRAME_BYE || c->type == COLO_FRAME_BYE_ACK) {
        end_in_order(p);
    }
    wait_done(proxy);
    return proxy;
}

static void test_case(const void *opaque)
{
    const Case *c = opaque;
    ColoPair *p = colo_pair_new(is_hybrid(c->type) ? "hybrid" : "periodic");
    Proxy *proxy = start_case(p, c);

    if (from_primary(c->type)) {
        secondary_survives(p, proxy, c->type, c->fault);
    } else {
        /*
         * Protection begins when checkpoint-ready and the first pong have come
         * as they should; between the two nobody knows whether it has.
         */
        bool ready = c->type != COLO_FRAME_CHECKPOINT_READY;

        primary_survives(p, ready || c->fault == FAULT_REPEAT, c->fault,
                         ready ? "completed" : "failed");
    }
    proxy_stop(proxy);
    colo_pair_free(p);
}

/*
 * The state of the devices is garbage: the secondary cannot load what it has
 * committed, says so, and is out for good; the primary goes on at once.
 */
static void test_devices(const void *mode)
{
    static const Case c = { FAULT__MAX, COLO_FRAME_ERROR };
    ColoPair *p = colo_pair_new(mode);
    Proxy *proxy = start_case(p, &c);

    colo_wait_state(p->primary, "alone");
    colo_wait_status(p->primary, "running");
    colo_wait_migrate(p->primary, "completed");
    colo_wait_state(p->secondary, "ended");
    colo_wait_status(p->secondary, "shutdown");
    colo_wait_migrate(p->secondary, "failed");
    colo_refused(p->secondary, "no COLO session",
                 "{'execute': 'x-colo-lost-heartbeat'}");
    check_secondary_stands(p);
    proxy_stop(proxy);
    colo_pair_free(p);
}

/* Does garbage in the payload of this frame have to be noticed? */
static bool has_checked_payload(ColoFrameType type)
{
    return type == COLO_FRAME_CHECKPOINT_READY || type == COLO_FRAME_START ||
           type == COLO_FRAME_PAGES || type == COLO_FRAME_VMSTATE_SIZE ||
           type == COLO_FRAME_BYE || type == COLO_FRAME_HASHES ||
           type == COLO_FRAME_WANTED;
}

/*
 * Leave out what is no fault, or never happens; and 'alive', of which none is
 * missed and which is said at any time: see test-colo-wire.  After what is said
 * in a switchover the secondary goes on, whatever is wrong with it.
 */
static bool makes_sense(Fault fault, ColoFrameType type)
{
    if (type == COLO_FRAME_ALIVE || type == COLO_FRAME_HANDOVER_REQUEST ||
        type == COLO_FRAME_HANDOVER || type == COLO_FRAME_TAKEOVER) {
        return false;
    }
    switch (fault) {
    case FAULT_NUMBER:
        /* These are about no checkpoint in particular */
        return !is_ping(type) && !is_end(type);
    case FAULT_GARBAGE:
        return has_checked_payload(type);
    case FAULT_REPEAT:
        /* A second ping gets a second pong; nobody reads after the end */
        return !is_ping(type) && !is_end(type);
    case FAULT_IMPATIENCE:
        /* With this timeout there is no ping */
        return !is_ping(type);
    case FAULT_CHATTER:
        /* Of each kind: those that somebody is patient with take their time */
        return type == COLO_FRAME_CHECKPOINT_READY ||
               type == COLO_FRAME_CHECKPOINT_REPLY ||
               type == COLO_FRAME_VMSTATE_LOADED ||
               type == COLO_FRAME_WANTED || type == COLO_FRAME_START ||
               type == COLO_FRAME_VMSTATE_SIZE || type == COLO_FRAME_BYE_ACK;
    default:
        return true;
    }
}

int main(int argc, char **argv)
{
    static Case cases[FAULT__MAX][COLO_FRAME__MAX];

    g_test_init(&argc, &argv, NULL);
    for (int f = 0; f < FAULT__MAX; f++) {
        g_assert_true(g_str_has_prefix(faults[f].name, "wrong/") ||
                      g_str_has_prefix(faults[f].name, "slow/"));
        for (int t = COLO_FRAME_CHECKPOINT_READY; t < COLO_FRAME__MAX; t++) {
            g_autofree char *path = g_strdup_printf(
                "/colo/peer/%s-%s", faults[f].name, colo_frame_name(t));

            if (makes_sense(f, t)) {
                cases[f][t] = (Case) { f, t };
                g_test_add_data_func(path, &cases[f][t], test_case);
            }
        }
    }
    g_test_add_data_func("/colo/peer/wrong/devices-hybrid", "hybrid",
                         test_devices);
    g_test_add_data_func("/colo/peer/wrong/devices-periodic", "periodic",
                         test_devices);
    return g_test_run();
}
