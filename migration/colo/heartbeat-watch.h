/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what messages of a heartbeat, and their absence, say about the peer.
 *
 * No clock, no locks: times are arguments (ns of QEMU_CLOCK_REALTIME, greater
 * than 0, never going back), and whoever calls has the watch for himself.
 */

#ifndef QEMU_MIGRATION_COLO_HEARTBEAT_WATCH_H
#define QEMU_MIGRATION_COLO_HEARTBEAT_WATCH_H

#include "heartbeat-msg.h"
#include "stats.h"

#define COLO_HEARTBEAT_LINKS_MAX    8

/* No timeout of a heartbeat is longer */
#define COLO_HEARTBEAT_TIMEOUT_MAX_MS   60000

/* A tick that is so much later than the one before: this process was stopped */
#define COLO_HEARTBEAT_LATE_NS      (250 * SCALE_MS)

/* Why a message does not count */
typedef enum ColoBeatUse {
    COLO_BEAT_COUNTS,
    COLO_BEAT_OWN,          /* it came back */
    COLO_BEAT_FOREIGN,      /* of another session, or of the same side */
    COLO_BEAT_OLD,          /* no newer than one that came that way */
} ColoBeatUse;

typedef struct ColoHeartbeatLink {
    bool open;
    int64_t heard_ns;       /* a message that counts, 0: none yet */
    uint64_t sender;        /* of the last message */
    uint64_t stamp_ns;      /* the same, of the peer's clock */
} ColoHeartbeatLink;

/* Something that grows while the peer gets on */
typedef struct ColoHeartbeatCount {
    uint64_t value;
    int64_t since_ns;       /* it has been the same for so long, as heard */
} ColoHeartbeatCount;

typedef struct ColoHeartbeatWatch {
    /* Set once */
    unsigned nlinks;
    uint32_t interval_ms;
    uint32_t timeout_ms;
    uint32_t stall_ms;
    uint64_t self;          /* ColoBeat.sender of this side */

    /* The session, see colo_watch_begin() */
    QemuUUID session;
    uint8_t role;
    int64_t base_ns;        /* silence counts from here at the earliest */
    int64_t tick_ns;        /* the last one */
    int64_t two_way_ns;     /* of then the peer has heard, 0: not yet */
    int64_t session_ns;     /* heard in this session, 0: not yet */
    ColoPeerHealth health;
    const char *stalled;    /* what does not get on, or NULL */
    ColoHeartbeatCount loop;
    ColoHeartbeatCount vcpus;
    uint64_t work;
    ColoBeat last;          /* the last message that counts */

    /* All sessions */
    ColoHeartbeatLink link[COLO_HEARTBEAT_LINKS_MAX];
    int64_t heard_ns;       /* on any link */
    uint64_t echo_ns;       /* the latest stamp of the peer, for the answer */
    int64_t echoed_ns;      /* own stamp that the peer has repeated, 0: none */
    ColoHistory rtt;
    uint64_t losses;        /* how often the health became silent or stalled */
    uint64_t unused;        /* messages that do not count */
} ColoHeartbeatWatch;

void colo_watch_init(ColoHeartbeatWatch *w, unsigned nlinks,
                     uint32_t interval_ms, uint32_t timeout_ms,
                     uint32_t stall_ms, uint64_t self, int64_t now_ns);

/*
 * colo_watch_begin: this side is @role (COLOMode) of @session from now on; a
 * null one: of none
 *
 * What was known of the peer is forgotten, if that is another session.
 */
void colo_watch_begin(ColoHeartbeatWatch *w, const QemuUUID *session,
                      uint8_t role, int64_t now_ns);

void colo_watch_open(ColoHeartbeatWatch *w, unsigned link, bool open);

/* A message has come */
ColoBeatUse colo_watch_heard(ColoHeartbeatWatch *w, unsigned link,
                             const ColoBeat *b, int64_t now_ns);

/*
 * colo_watch_tick: once an interval, after all that has come was read
 *
 * Returns the health of the peer.
 */
ColoPeerHealth colo_watch_tick(ColoHeartbeatWatch *w, int64_t now_ns);

/*
 * Is that link open, and has something come that way within the timeout?  How
 * many are so; is any open at all?
 */
bool colo_watch_link_up(const ColoHeartbeatWatch *w, unsigned link,
                        int64_t now_ns);
bool colo_watch_links_open(const ColoHeartbeatWatch *w);
unsigned colo_watch_links_up(const ColoHeartbeatWatch *w, int64_t now_ns);

/* Have both heard each other within the timeout, in this session? */
bool colo_watch_two_way(const ColoHeartbeatWatch *w, int64_t now_ns);

/*
 * colo_watch_gives_lease: secondary, may it let the primary send?
 *
 * Not if it does not know that the primary hears it: it may take it for dead
 * for that reason while it hears it.
 */
bool colo_watch_gives_lease(const ColoHeartbeatWatch *w, int64_t now_ns);

/*
 * colo_watch_timeout: the time in ms after which a silent peer is dead
 *
 * A primary gives itself leases by its own timeout, and says that: its
 * secondary waits no shorter.
 */
uint32_t colo_watch_timeout(const ColoHeartbeatWatch *w);

#endif
