/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what messages of a heartbeat, and their absence, say about the peer.
 *
 * Theory of operation
 *
 * A peer is silent if no link has brought a message of this session for the
 * timeout.  It is as good as silent if it hears nothing: each message repeats
 * the latest stamp of the other side, whichever link that came by, so a side
 * that finds an old one of its own in it talks to nobody.  That takes twice
 * the timeout: a secondary stops to give leases after the first.  Both then
 * lose each other.  Neither does so before the two have heard each other in
 * this session: a peer without a heartbeat, or with one that cannot connect,
 * is left to the migration channel.
 *
 * This process may have been stopped, too.  Ticks that come late tell that;
 * then silence counts from that tick.  What had come meanwhile is read before
 * the next one.
 *
 * A peer that answers can still be stuck: its main loop hangs in a device,
 * say, or its vCPUs in the kernel of its host.  Counters in its messages tell
 * that. They are compared by the time over which messages came, not by that in
 * which none did.  The main loop may have to wait for a checkpoint; so what is
 * done for the session counts for both.
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "qapi/qapi-types-migration.h"
#include "heartbeat-watch.h"

void colo_watch_init(ColoHeartbeatWatch *w, unsigned nlinks,
                     uint32_t interval_ms, uint32_t timeout_ms,
                     uint32_t stall_ms, uint64_t self, int64_t now_ns)
{
    assert(nlinks <= COLO_HEARTBEAT_LINKS_MAX);
    memset(w, 0, sizeof(*w));
    w->nlinks = nlinks;
    w->interval_ms = interval_ms;
    w->timeout_ms = timeout_ms;
    w->stall_ms = stall_ms;
    w->self = self;
    w->tick_ns = now_ns;
}

void colo_watch_begin(ColoHeartbeatWatch *w, const QemuUUID *session,
                      uint8_t role, int64_t now_ns)
{
    if (qemu_uuid_is_equal(&w->session, session) && w->role == role) {
        return;
    }
    w->session = *session;
    w->role = role;
    w->base_ns = now_ns;
    w->two_way_ns = 0;
    w->session_ns = 0;
    w->health = COLO_PEER_HEALTH_UNKNOWN;
    w->stalled = NULL;
    memset(&w->last, 0, sizeof(w->last));
}

void colo_watch_open(ColoHeartbeatWatch *w, unsigned link, bool open)
{
    w->link[link].open = open;
}

static int64_t ms(uint32_t n)
{
    return n * (int64_t)SCALE_MS;
}

uint32_t colo_watch_timeout(const ColoHeartbeatWatch *w)
{
    return w->role == COLO_MODE_SECONDARY && w->session_ns
           ? MAX(w->timeout_ms, MIN(w->last.timeout_ms,
                                    COLO_HEARTBEAT_TIMEOUT_MAX_MS))
           : w->timeout_ms;
}

/* Of the session that is on here, and of the other side of it */
static bool is_of_session(const ColoHeartbeatWatch *w, const ColoBeat *b)
{
    return !qemu_uuid_is_null(&w->session) &&
           qemu_uuid_is_equal(&w->session, &b->session) &&
           b->role == (w->role == COLO_MODE_PRIMARY ? COLO_MODE_SECONDARY
                                                    : COLO_MODE_PRIMARY);
}

/* Both know of one, and it is not the same */
static bool is_foreign(const ColoHeartbeatWatch *w, const ColoBeat *b)
{
    return !qemu_uuid_is_null(&w->session) &&
           !qemu_uuid_is_null(&b->session) && !is_of_session(w, b);
}

static ColoBeatUse use_of(ColoHeartbeatWatch *w, ColoHeartbeatLink *l,
                          const ColoBeat *b)
{
    if (b->sender == w->self) {
        return COLO_BEAT_OWN;
    }
    if (is_foreign(w, b)) {
        return COLO_BEAT_FOREIGN;
    }
    if (b->sender == l->sender && b->stamp_ns <= l->stamp_ns) {
        return COLO_BEAT_OLD;
    }
    return COLO_BEAT_COUNTS;
}

/* What the peer repeats of this side; a time that is yet to come is a lie */
static void take_echo(ColoHeartbeatWatch *w, const ColoBeat *b, int64_t now_ns)
{
    int64_t way_ns;

    if (!b->echo_ns || b->echo_ns > now_ns ||
        b->echo_age_ns > now_ns - b->echo_ns) {
        return;
    }
    if ((int64_t)b->echo_ns > w->echoed_ns) {
        way_ns = now_ns - b->echo_ns - b->echo_age_ns;
        w->echoed_ns = b->echo_ns;
        colo_history_add(&w->rtt, way_ns);
    }
    if (is_of_session(w, b) &&
        (w->two_way_ns ||
         now_ns - b->echo_ns <= ms(colo_watch_timeout(w)))) {
        w->two_way_ns = MAX(w->two_way_ns, (int64_t)b->echo_ns);
    }
}

/* @known: it is not the first one of the session */
static void take_count(ColoHeartbeatCount *c, uint64_t value, bool gets_on,
                       bool known, int64_t now_ns)
{
    if (!known || gets_on || c->value != value) {
        c->value = value;
        c->since_ns = now_ns;
    }
}

static bool stands_still(const ColoHeartbeatCount *c, uint32_t limit_ms,
                         int64_t now_ns)
{
    return now_ns - c->since_ns > ms(limit_ms);
}

static void take_progress(ColoHeartbeatWatch *w, const ColoBeat *b, bool known,
                          int64_t now_ns)
{
    bool works = b->work != w->work;

    take_count(&w->loop, b->loop, works, known, now_ns);
    take_count(&w->vcpus, b->vcpus, works || b->flags & COLO_BEAT_STANDS,
               known, now_ns);
    w->work = b->work;
    w->stalled = NULL;
    if (stands_still(&w->loop, w->stall_ms, now_ns)) {
        w->stalled = "main loop";
    } else if (stands_still(&w->vcpus, w->stall_ms, now_ns) &&
               !stands_still(&w->loop, w->stall_ms / 2, now_ns)) {
        /* It is the main loop that asks them: if it hangs it is to blame */
        w->stalled = "vCPUs";
    }
}

ColoBeatUse colo_watch_heard(ColoHeartbeatWatch *w, unsigned link,
                             const ColoBeat *b, int64_t now_ns)
{
    ColoHeartbeatLink *l = &w->link[link];
    ColoBeatUse use = use_of(w, l, b);

    if (use != COLO_BEAT_COUNTS) {
        w->unused++;
        return use;
    }
    if (b->sender != l->sender) {
        w->echo_ns = 0;
    }
    l->sender = b->sender;
    l->stamp_ns = b->stamp_ns;
    l->heard_ns = now_ns;
    if (b->stamp_ns > w->echo_ns) {
        w->echo_ns = b->stamp_ns;
        w->heard_ns = now_ns;
    }
    if (is_of_session(w, b)) {
        bool known = w->session_ns &&
                     now_ns - w->session_ns <= ms(w->timeout_ms);

        take_progress(w, b, known, now_ns);
        w->session_ns = now_ns;
        w->last = *b;
    }
    take_echo(w, b, now_ns);
    return COLO_BEAT_COUNTS;
}

bool colo_watch_link_up(const ColoHeartbeatWatch *w, unsigned link,
                        int64_t now_ns)
{
    const ColoHeartbeatLink *l = &w->link[link];

    return l->open && l->heard_ns && now_ns - l->heard_ns <= ms(w->timeout_ms);
}

bool colo_watch_links_open(const ColoHeartbeatWatch *w)
{
    for (unsigned i = 0; i < w->nlinks; i++) {
        if (w->link[i].open) {
            return true;
        }
    }
    return false;
}

unsigned colo_watch_links_up(const ColoHeartbeatWatch *w, int64_t now_ns)
{
    unsigned n = 0;

    for (unsigned i = 0; i < w->nlinks; i++) {
        n += colo_watch_link_up(w, i, now_ns);
    }
    return n;
}

bool colo_watch_two_way(const ColoHeartbeatWatch *w, int64_t now_ns)
{
    int64_t timeout_ns = ms(colo_watch_timeout(w));

    return w->two_way_ns && now_ns - w->session_ns <= timeout_ns &&
           now_ns - w->two_way_ns <= timeout_ns;
}

bool colo_watch_gives_lease(const ColoHeartbeatWatch *w, int64_t now_ns)
{
    return (w->health == COLO_PEER_HEALTH_WELL ||
            w->health == COLO_PEER_HEALTH_STALLED) &&
           now_ns - w->two_way_ns <= ms(colo_watch_timeout(w));
}

static ColoPeerHealth health_now(const ColoHeartbeatWatch *w, int64_t now_ns)
{
    int64_t timeout_ns = ms(colo_watch_timeout(w));

    if (!w->two_way_ns) {
        return COLO_PEER_HEALTH_UNKNOWN;
    }
    if (colo_watch_two_way(w, now_ns)) {
        return w->stalled ? COLO_PEER_HEALTH_STALLED : COLO_PEER_HEALTH_WELL;
    }
    if (w->health != COLO_PEER_HEALTH_SILENT &&
        now_ns - MAX(w->session_ns, w->base_ns) <= timeout_ns &&
        now_ns - MAX(w->two_way_ns, w->base_ns) <= 2 * timeout_ns) {
        return w->health;
    }
    return COLO_PEER_HEALTH_SILENT;
}

ColoPeerHealth colo_watch_tick(ColoHeartbeatWatch *w, int64_t now_ns)
{
    ColoPeerHealth now;

    if (now_ns - w->tick_ns > ms(w->interval_ms) + COLO_HEARTBEAT_LATE_NS) {
        w->base_ns = now_ns;
    }
    w->tick_ns = now_ns;
    now = health_now(w, now_ns);
    if (now > COLO_PEER_HEALTH_WELL && w->health <= COLO_PEER_HEALTH_WELL) {
        w->losses++;
    }
    w->health = now;
    return now;
}
