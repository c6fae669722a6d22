/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: a heartbeat on links of its own, object colo-heartbeat.
 *
 * Both sides.  A thread of its own (an iothread) reads and writes the links and
 * watches the peer; the main loop makes and ends the object, and the session
 * tells what there is to say.
 *
 * Theory of operation
 *
 * Every interval a message of fixed size goes out on each link.  It is written
 * without waiting: what a link does not take at once is kept, whole or in
 * part, and ahead of the next message, unchanged since TLS wants to be called
 * again with what it was called with; meanwhile no other is made for that
 * link.  So a link that is full is silent, and no more than one old message
 * comes late.  Its stamp says that it is old.
 *
 * What is heard is judged by heartbeat-watch.c.  If all links are silent the
 * session is told by its wire, which counts as one more link.  That can be
 * taken back.  The session's thread need not answer anything: whether it
 * works, or waits, this thread says that the process lives, and how far work,
 * main loop and vCPUs have got.
 *
 * A link that brings garbage is closed, and a connection that brings nothing that
 * counts: a server takes one at a time.  Whoever connects does so again.  By then
 * no lease is left that the peer could have got this way.
 *
 * Leases (lease.c): a secondary that is well, and not about to go on, lets the
 * primary send for the primary's timeout, from the time that it repeats.  It
 * takes the primary for dead no earlier than that timeout after it has heard
 * it last, on a link or the wire, whatever its own timeout is; and if told to
 * go on earlier it first waits for what it has given to end.
 *
 * Whoever has become the service says so in each message as long as the object
 * lives, with the session: its peer is out for good, however late it reads
 * that. Two that both say so have both let out something; neither stops then.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "block/aio-wait.h"
#include "chardev/char-fe.h"
#include "chardev/char-socket.h"
#include "io/channel-socket.h"
#include "migration/colo.h"
#include "qapi/error.h"
#include "qapi/qapi-builtin-visit.h"
#include "qapi/qapi-events-colo.h"
#include "qapi/qapi-types-qom.h"
#include "qapi/util.h"
#include "qapi/visitor.h"
#include "qom/object_interfaces.h"
#include "system/iothread.h"
#include "heartbeat.h"
#include "heartbeat-local.h"
#include "heartbeat-watch.h"
#include "lease.h"
#include "progress.h"
#include "trace.h"

#define INTERVAL_MS         50
#define INTERVAL_MIN_MS     10
#define INTERVAL_MAX_MS     10000
#define TIMEOUT_MS          500
#define TIMEOUT_MIN_MS      100
#define TIMEOUT_MAX_MS      COLO_HEARTBEAT_TIMEOUT_MAX_MS
#define STALL_MS            20000
#define STALL_MIN_MS        2000
#define STALL_MAX_MS        3600000

/* So long, or two timeouts, a connection may bring nothing */
#define STRANGER_MS         10000

#define READ_BYTES          (16 * COLO_BEAT_LEN)

OBJECT_DECLARE_SIMPLE_TYPE(ColoHeartbeat, COLO_HEARTBEAT)

typedef struct HeartbeatLink {
    ColoHeartbeat *h;
    CharBackend chr;
    const char *id;             /* of the chardev */

    /* The heartbeat's thread only */
    ColoBeatParser parser;
    uint8_t rest[COLO_BEAT_LEN];
    size_t rest_len;            /* of a message, not written yet */
    bool broken;                /* to be closed at the next tick */
    int64_t opened_ns;
    bool told_up;

    /* lock */
    uint64_t sent;
    uint64_t received;
    uint64_t dropped;           /* the link was full */
    uint64_t garbage;
} HeartbeatLink;

struct ColoHeartbeat {
    Object parent;

    /* BQL, fixed once 'attached' */
    strList *chardevs;
    uint32_t interval_ms;
    uint32_t timeout_ms;
    uint32_t stall_ms;
    ColoHeartbeatOnLoss on_loss;
    bool attached;

    /* Set once */
    uint64_t self;
    IOThread *iothread;
    AioContext *ctx;
    unsigned nlinks;

    /* The heartbeat's thread only */
    QEMUTimer *timer;
    ColoHeartbeatWatch watch;
    bool told_conflict;

    HeartbeatLink link[COLO_HEARTBEAT_LINKS_MAX];

    /* lock */
    ColoHeartbeatWatch seen;    /* a copy for others */
};

/* What the session has told */
typedef struct Facts {
    ColoWire *wire;             /* NULL: no session */
    COLOMode side;
    QemuUUID session;
    uint8_t state;
    uint16_t flags;
    uint64_t epoch;
    uint64_t term;
    bool claims;
    bool gives_no_lease;
    int64_t lease_end_ns;       /* of what has been given */
    ColoPeerHealth told;        /* to the wire */
} Facts;

/* BQL */
static ColoHeartbeat *heartbeat;

/* Once, before there are sessions */
static void (*on_news)(void);

static QemuMutex lock;
/* lock */
static Facts facts;

static void __attribute__((constructor)) heartbeat_init_lock(void)
{
    qemu_mutex_init(&lock);
}

static int64_t now_ns(void)
{
    return qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
}

/* What this side says */

/* lock held */
static bool gives_lease(ColoHeartbeat *h)
{
    return facts.side == COLO_MODE_SECONDARY && facts.wire &&
           !facts.gives_no_lease && !(facts.flags & COLO_BEAT_LOST) &&
           !colo_wire_is_lost(facts.wire) &&
           colo_watch_gives_lease(&h->watch, now_ns());
}

/* lock held */
static uint16_t flags_now(ColoHeartbeat *h, const ColoLocalProgress *p)
{
    uint16_t flags = facts.flags;

    if (facts.wire && colo_wire_is_lost(facts.wire)) {
        flags |= COLO_BEAT_LOST;
    }
    return flags | (gives_lease(h) ? COLO_BEAT_LEASE : 0) |
           (p->stands ? COLO_BEAT_STANDS : 0) |
           (facts.claims ? COLO_BEAT_CLAIM : 0);
}

/* lock held.  A secondary's message that is said with @b gives a lease */
static void note_lease(ColoHeartbeat *h, const ColoBeat *b)
{
    if (b->flags & COLO_BEAT_LEASE) {
        facts.lease_end_ns = h->watch.heard_ns +
                             colo_watch_timeout(&h->watch) * (int64_t)SCALE_MS;
    }
}

static void make_beat(ColoHeartbeat *h, ColoBeat *b)
{
    ColoLocalProgress p = colo_local_progress();

    QEMU_LOCK_GUARD(&lock);
    *b = (ColoBeat) {
        .sender = h->self,
        .session = facts.session,
        .role = facts.side,
        .state = facts.state,
        .flags = flags_now(h, &p),
        .timeout_ms = h->timeout_ms,
        .epoch = facts.epoch,
        .term = facts.term,
        .stamp_ns = now_ns(),
        .echo_ns = h->watch.echo_ns,
        .loop = p.loop,
        .vcpus = p.vcpus,
        .work = colo_work_done(),
    };
    if (b->echo_ns) {
        b->echo_age_ns = b->stamp_ns - h->watch.heard_ns;
    }
    note_lease(h, b);
}

static void link_send(HeartbeatLink *l, const ColoBeat *b)
{
    bool dropped = l->rest_len;
    int n;

    if (!l->h->watch.link[l - l->h->link].open) {
        return;
    }
    if (!l->rest_len) {
        colo_beat_encode(b, l->rest);
        l->rest_len = sizeof(l->rest);
    }
    n = qemu_chr_fe_write(&l->chr, l->rest, l->rest_len);
    if (n > 0) {
        l->rest_len -= MIN(n, l->rest_len);
        memmove(l->rest, l->rest + n, l->rest_len);
    }
    QEMU_LOCK_GUARD(&lock);
    l->dropped += dropped;
    l->sent += n > 0 && !l->rest_len;
}

/* What it hears */

/* Has the session changed since? */
static void sync_session(ColoHeartbeat *h)
{
    Facts f;

    qemu_mutex_lock(&lock);
    f = facts;
    qemu_mutex_unlock(&lock);
    colo_watch_begin(&h->watch, &f.session, f.side, now_ns());
}

/* Before anybody is told: he looks there */
static void publish(ColoHeartbeat *h)
{
    QEMU_LOCK_GUARD(&lock);
    h->seen = h->watch;
}

static void tell_news(void)
{
    if (on_news) {
        on_news();
    }
}

/* A message of this session's peer: what follows from it at once */
static void act_on_beat(ColoHeartbeat *h, const ColoBeat *b)
{
    bool lease, word = false, conflict = false;

    WITH_QEMU_LOCK_GUARD(&lock) {
        facts.term = MAX(facts.term, b->term);
        lease = facts.wire && facts.side == COLO_MODE_PRIMARY &&
                b->flags & COLO_BEAT_LEASE &&
                b->echo_ns <= now_ns() &&
                !colo_wire_is_lost(facts.wire);
        if (lease) {
            colo_lease_renew(b->echo_ns, colo_wire_beat_timeout(facts.wire));
        }
        word = facts.wire && b->flags & (COLO_BEAT_SERVICE | COLO_BEAT_OUT |
                                         COLO_BEAT_CLAIM);
        conflict = facts.flags & b->flags & COLO_BEAT_SERVICE;
    }
    if (word) {
        publish(h);
        tell_news();
    }
    if (conflict && !h->told_conflict) {
        h->told_conflict = true;
        error_report("COLO: the other side of the pair goes on, too, as the "
                     "heartbeat says: end one of them");
    }
}

static void got_beat(void *opaque, const ColoBeat *b)
{
    HeartbeatLink *l = opaque;
    ColoHeartbeat *h = l->h;
    ColoBeatUse use;

    sync_session(h);
    use = colo_watch_heard(&h->watch, l - h->link, b, now_ns());
    trace_colo_beat(l->id, use, b->flags, b->epoch);
    WITH_QEMU_LOCK_GUARD(&lock) {
        l->received++;
    }
    if (use == COLO_BEAT_COUNTS &&
        !qemu_uuid_is_null(&h->watch.session) &&
        qemu_uuid_is_equal(&h->watch.session, &b->session)) {
        act_on_beat(h, b);
    }
}

static int link_can_read(void *opaque)
{
    return READ_BYTES;
}

static void link_read(void *opaque, const uint8_t *buf, int size)
{
    HeartbeatLink *l = opaque;

    if (l->broken) {
        return;
    }
    if (!colo_beat_parse(&l->parser, buf, size, got_beat, l)) {
        warn_report("COLO heartbeat: what comes on chardev '%s' is no "
                    "heartbeat, it is closed", l->id);
        l->broken = true;
    }
    QEMU_LOCK_GUARD(&lock);
    l->garbage = l->parser.bad;
}

/* Nagle would keep a message until the one before is acknowledged */
static void set_no_delay(HeartbeatLink *l)
{
    Chardev *chr = qemu_chr_fe_get_driver(&l->chr);

    if (object_dynamic_cast(OBJECT(chr), TYPE_CHARDEV_SOCKET) &&
        SOCKET_CHARDEV(chr)->ioc) {
        qio_channel_set_delay(SOCKET_CHARDEV(chr)->ioc, false);
    }
}

static void link_event(void *opaque, QEMUChrEvent event)
{
    HeartbeatLink *l = opaque;
    unsigned n = l - l->h->link;

    if (event == CHR_EVENT_OPENED) {
        colo_beat_parser_reset(&l->parser);
        l->rest_len = 0;
        l->broken = false;
        l->opened_ns = now_ns();
        set_no_delay(l);
        colo_watch_open(&l->h->watch, n, true);
    } else if (event == CHR_EVENT_CLOSED) {
        colo_watch_open(&l->h->watch, n, false);
        publish(l->h);
        tell_news();
    }
}

/* What follows */

static const char *silence_text(const ColoHeartbeatWatch *w, int64_t now,
                                char *buf, size_t size)
{
    uint32_t timeout_ms = colo_watch_timeout(w);

    snprintf(buf, size, now - w->session_ns <= timeout_ms * (int64_t)SCALE_MS
             ? "heartbeat: the peer has not heard this side for %u ms"
             : "heartbeat: no link has brought a sign of life for %u ms",
             timeout_ms);
    return buf;
}

/* Tell the session's wire what the health of the peer means to it */
static void tell_wire(ColoHeartbeat *h, ColoPeerHealth health, int64_t now)
{
    char why[128];

    if (health == COLO_PEER_HEALTH_STALLED &&
        h->on_loss != COLO_HEARTBEAT_ON_LOSS_DECIDE) {
        health = COLO_PEER_HEALTH_WELL;
    }
    QEMU_LOCK_GUARD(&lock);
    if (!facts.wire || facts.told == health ||
        !qemu_uuid_is_equal(&facts.session, &h->watch.session)) {
        return;
    }
    switch (health) {
    case COLO_PEER_HEALTH_SILENT:
        colo_wire_declare_silent(facts.wire,
                                 silence_text(&h->watch, now, why, sizeof(why)),
                                 colo_watch_timeout(&h->watch));
        break;
    case COLO_PEER_HEALTH_STALLED:
        snprintf(why, sizeof(why), "heartbeat: the peer answers, but without "
                 "progress of its %s for %u ms", h->watch.stalled, h->stall_ms);
        colo_wire_declare_silent(facts.wire, why, 0);
        break;
    default:
        colo_wire_declare_heard(facts.wire);
        break;
    }
    facts.told = health;
}

static void tell_health(ColoHeartbeat *h, ColoPeerHealth was,
                        ColoPeerHealth is)
{
    if (was == is) {
        return;
    }
    trace_colo_beat_health(ColoPeerHealth_str(was), ColoPeerHealth_str(is));
    qapi_event_send_colo_heartbeat_health(is, h->watch.stalled);
    colo_problems_changed();
    tell_news();
}

static bool is_stranger(HeartbeatLink *l, int64_t now)
{
    const ColoHeartbeatLink *heard = &l->h->watch.link[l - l->h->link];

    return heard->open && heard->heard_ns < l->opened_ns &&
           now - l->opened_ns > MAX(STRANGER_MS, 2 * l->h->timeout_ms) *
                                (int64_t)SCALE_MS;
}

/* Links that have come, or gone, since the last tick */
static void look_at_links(ColoHeartbeat *h, int64_t now)
{
    for (unsigned i = 0; i < h->nlinks; i++) {
        HeartbeatLink *l = &h->link[i];
        bool up = colo_watch_link_up(&h->watch, i, now);

        if (l->broken || is_stranger(l, now)) {
            qemu_chr_fe_disconnect(&l->chr);
            l->broken = false;
        }
        if (up != l->told_up) {
            l->told_up = up;
            trace_colo_beat_link(l->id, up);
            qapi_event_send_colo_heartbeat_link(l->id, up);
            colo_problems_changed();
        }
    }
}

static void tick(void *opaque)
{
    ColoHeartbeat *h = opaque;
    ColoPeerHealth was = h->watch.health, health;
    int64_t now = now_ns();
    ColoBeat b;

    timer_mod(h->timer, now + h->interval_ms * (int64_t)SCALE_MS);
    sync_session(h);
    health = colo_watch_tick(&h->watch, now);
    publish(h);
    tell_wire(h, health, now);
    tell_health(h, was, health);
    look_at_links(h, now);
    make_beat(h, &b);
    for (unsigned i = 0; i < h->nlinks; i++) {
        link_send(&h->link[i], &b);
    }
    publish(h);
}

/* What the session tells */

void colo_heartbeat_begin(ColoWire *w, COLOMode side)
{
    if (heartbeat) {
        colo_wire_set_heartbeat(w, heartbeat->timeout_ms);
    }
    QEMU_LOCK_GUARD(&lock);
    facts = (Facts) { .wire = w, .side = side, .term = facts.term };
}

void colo_heartbeat_set_session(const QemuUUID *id)
{
    QEMU_LOCK_GUARD(&lock);
    facts.session = *id;
}

void colo_heartbeat_tell(uint8_t state, uint16_t flags, uint64_t epoch)
{
    QEMU_LOCK_GUARD(&lock);
    facts.term += flags & ~facts.flags & COLO_BEAT_SERVICE ? 1 : 0;
    facts.state = state;
    facts.flags = flags;
    facts.epoch = epoch;
}

void colo_heartbeat_claim(bool on)
{
    QEMU_LOCK_GUARD(&lock);
    facts.claims = on;
}

void colo_heartbeat_end(void)
{
    QEMU_LOCK_GUARD(&lock);
    facts.wire = NULL;
    facts.claims = false;
}

void colo_heartbeat_on_news(void (*fn)(void))
{
    on_news = fn;
}

uint16_t colo_heartbeat_peer_flags(const QemuUUID *id)
{
    ColoHeartbeat *h = heartbeat;

    QEMU_LOCK_GUARD(&lock);
    return h && qemu_uuid_is_equal(&h->seen.last.session, id)
           ? h->seen.last.flags : 0;
}

bool colo_heartbeat_decides(void)
{
    return heartbeat && heartbeat->on_loss == COLO_HEARTBEAT_ON_LOSS_DECIDE;
}

bool colo_heartbeat_awaits_word(void)
{
    return heartbeat && heartbeat->on_loss == COLO_HEARTBEAT_ON_LOSS_EVENT;
}

bool colo_heartbeat_is_well(void)
{
    ColoHeartbeat *h = heartbeat;

    QEMU_LOCK_GUARD(&lock);
    return h && h->seen.health == COLO_PEER_HEALTH_WELL &&
           colo_watch_links_open(&h->seen) && colo_watch_two_way(&h->seen, now_ns());
}

bool colo_heartbeat_is_closed(void)
{
    ColoHeartbeat *h = heartbeat;

    QEMU_LOCK_GUARD(&lock);
    return h && h->seen.session_ns && !colo_watch_links_open(&h->seen);
}

int64_t colo_heartbeat_stop_leases(int64_t heard_ns)
{
    QEMU_LOCK_GUARD(&lock);
    facts.gives_no_lease = true;
    if (!heartbeat || !heartbeat->seen.session_ns) {
        return 0;
    }
    return MAX(facts.lease_end_ns,
               heard_ns + colo_watch_timeout(&heartbeat->seen) *
                          (int64_t)SCALE_MS);
}

/* Set-up */

static bool take_chardev(HeartbeatLink *l, const char *id, Error **errp)
{
    Chardev *chr = qemu_chr_find(id);

    if (!chr) {
        error_setg(errp, "colo-heartbeat: Parameter 'chardevs': there is no "
                   "chardev '%s'", id);
        return false;
    }
    if (!qemu_chr_has_feature(chr, QEMU_CHAR_FEATURE_GCONTEXT)) {
        error_setg(errp, "colo-heartbeat: Parameter 'chardevs': chardev '%s' "
                   "cannot work in a thread of its own, use one of type "
                   "'socket'", id);
        return false;
    }
    if (!qemu_chr_fe_init(&l->chr, chr, errp)) {
        error_prepend(errp, "colo-heartbeat: Parameter 'chardevs': ");
        return false;
    }
    l->id = id;
    return true;
}

static bool take_chardevs(ColoHeartbeat *h, Error **errp)
{
    unsigned n = 0;

    for (strList *e = h->chardevs; e; e = e->next) {
        if (n == COLO_HEARTBEAT_LINKS_MAX) {
            error_setg(errp, "colo-heartbeat: Parameter 'chardevs': more than "
                       "%d links", COLO_HEARTBEAT_LINKS_MAX);
            return false;
        }
        h->link[n].h = h;
        if (!take_chardev(&h->link[n], e->value, errp)) {
            return false;
        }
        n++;
    }
    if (!n) {
        error_setg(errp, "colo-heartbeat needs Parameter 'chardevs'");
        return false;
    }
    h->nlinks = n;
    return true;
}

static bool check_numbers(ColoHeartbeat *h, Error **errp)
{
    if (h->timeout_ms < 2 * h->interval_ms) {
        error_setg(errp, "colo-heartbeat: Parameter 'timeout' is %u, and has "
                   "to be twice 'interval' (%u) at least", h->timeout_ms,
                   h->interval_ms);
        return false;
    }
    if (h->stall_ms < h->timeout_ms) {
        error_setg(errp, "colo-heartbeat: Parameter 'stall-limit' is %u, less "
                   "than 'timeout' (%u)", h->stall_ms, h->timeout_ms);
        return false;
    }
    return true;
}

/* In the heartbeat's thread */
static void begin(void *opaque)
{
    ColoHeartbeat *h = opaque;
    GMainContext *gctx = iothread_get_g_main_context(h->iothread);

    h->timer = aio_timer_new(h->ctx, QEMU_CLOCK_REALTIME, SCALE_NS, tick, h);
    for (unsigned i = 0; i < h->nlinks; i++) {
        qemu_chr_fe_set_handlers(&h->link[i].chr, link_can_read, link_read,
                                 link_event, NULL, &h->link[i], gctx, true);
    }
    tick(h);
}

/* In the heartbeat's thread: nothing of it runs afterwards */
static void end(void *opaque)
{
    ColoHeartbeat *h = opaque;

    for (unsigned i = 0; i < h->nlinks; i++) {
        qemu_chr_fe_set_handlers(&h->link[i].chr, NULL, NULL, NULL, NULL, NULL,
                                 NULL, true);
    }
    timer_free(h->timer);
}

static void attach(ColoHeartbeat *h, Error **errp)
{
    QemuUUID random;

    h->iothread = iothread_create("colo-heartbeat", errp);
    if (!h->iothread) {
        return;
    }
    qemu_uuid_generate(&random);
    memcpy(&h->self, random.data, sizeof(h->self));
    h->ctx = iothread_get_aio_context(h->iothread);
    colo_watch_init(&h->watch, h->nlinks, h->interval_ms, h->timeout_ms,
                    h->stall_ms, h->self, now_ns());
    h->seen = h->watch;
    h->attached = true;
    heartbeat = h;
    colo_local_progress_start();
    aio_wait_bh_oneshot(h->ctx, begin, h);
}

static void let_chardevs_go(ColoHeartbeat *h)
{
    for (unsigned i = 0; i < COLO_HEARTBEAT_LINKS_MAX; i++) {
        qemu_chr_fe_deinit(&h->link[i].chr, false);
    }
}

/* Idempotent: QEMU's exit comes before the end of objects.  BQL. */
static void detach(ColoHeartbeat *h)
{
    if (!h->attached) {
        return;
    }
    h->attached = false;
    aio_wait_bh_oneshot(h->ctx, end, h);
    heartbeat = NULL;
    colo_local_progress_stop();
    let_chardevs_go(h);
    iothread_destroy(h->iothread);
}

void colo_heartbeat_shutdown(void)
{
    if (heartbeat) {
        detach(heartbeat);
    }
}

static bool session_is_on(void)
{
    QEMU_LOCK_GUARD(&lock);
    return facts.wire;
}

static void heartbeat_complete(UserCreatable *uc, Error **errp)
{
    ColoHeartbeat *h = COLO_HEARTBEAT(uc);

    if (heartbeat) {
        error_setg(errp, "there is a colo-heartbeat already, which can have "
                   "more than one link");
        return;
    }
    if (session_is_on()) {
        error_setg(errp, "a colo-heartbeat cannot be made while there is a "
                   "COLO session: leases have been given by another timeout");
        return;
    }
    if (check_numbers(h, errp) && take_chardevs(h, errp)) {
        attach(h, errp);
    }
}

static bool heartbeat_can_be_deleted(UserCreatable *uc)
{
    return !COLO_HEARTBEAT(uc)->attached || !session_is_on();
}

static void heartbeat_unparent(Object *obj)
{
    detach(COLO_HEARTBEAT(obj));
}

static void heartbeat_finalize(Object *obj)
{
    ColoHeartbeat *h = COLO_HEARTBEAT(obj);

    /* If it was never attached */
    let_chardevs_go(h);
    qapi_free_strList(h->chardevs);
}

/* Properties */

static bool is_fixed(Object *obj, const char *name, Error **errp)
{
    if (COLO_HEARTBEAT(obj)->attached) {
        error_setg(errp, "'%s' cannot be changed any more", name);
        return true;
    }
    return false;
}

static void get_chardevs(Object *obj, Visitor *v, const char *name,
                         void *opaque, Error **errp)
{
    visit_type_strList(v, name, &COLO_HEARTBEAT(obj)->chardevs, errp);
}

static void set_chardevs(Object *obj, Visitor *v, const char *name,
                         void *opaque, Error **errp)
{
    ColoHeartbeat *h = COLO_HEARTBEAT(obj);
    strList *list = NULL;

    if (is_fixed(obj, name, errp) ||
        !visit_type_strList(v, name, &list, errp)) {
        return;
    }
    qapi_free_strList(h->chardevs);
    h->chardevs = list;
}

typedef struct Number {
    const char *name;
    size_t offset;
    uint32_t min, max;
} Number;

static const Number numbers[] = {
    { "interval", offsetof(ColoHeartbeat, interval_ms), INTERVAL_MIN_MS,
      INTERVAL_MAX_MS },
    { "timeout", offsetof(ColoHeartbeat, timeout_ms), TIMEOUT_MIN_MS,
      TIMEOUT_MAX_MS },
    { "stall-limit", offsetof(ColoHeartbeat, stall_ms), STALL_MIN_MS,
      STALL_MAX_MS },
};

static uint32_t *number_of(Object *obj, const Number *n)
{
    return (uint32_t *)((char *)COLO_HEARTBEAT(obj) + n->offset);
}

static void get_number(Object *obj, Visitor *v, const char *name,
                       void *opaque, Error **errp)
{
    visit_type_uint32(v, name, number_of(obj, opaque), errp);
}

static void set_number(Object *obj, Visitor *v, const char *name,
                       void *opaque, Error **errp)
{
    const Number *n = opaque;
    uint32_t value;

    if (is_fixed(obj, name, errp) ||
        !visit_type_uint32(v, name, &value, errp)) {
        return;
    }
    if (value < n->min || value > n->max) {
        error_setg(errp, "colo-heartbeat: Parameter '%s' is %u, and has to be "
                   "%u to %u milliseconds", name, value, n->min, n->max);
        return;
    }
    *number_of(obj, n) = value;
}

static int get_on_loss(Object *obj, Error **errp)
{
    return COLO_HEARTBEAT(obj)->on_loss;
}

static void set_on_loss(Object *obj, int value, Error **errp)
{
    if (!is_fixed(obj, "on-loss", errp)) {
        COLO_HEARTBEAT(obj)->on_loss = value;
    }
}

static void heartbeat_init(Object *obj)
{
    ColoHeartbeat *h = COLO_HEARTBEAT(obj);

    h->interval_ms = INTERVAL_MS;
    h->timeout_ms = TIMEOUT_MS;
    h->stall_ms = STALL_MS;
    h->on_loss = COLO_HEARTBEAT_ON_LOSS_DECIDE;
}

static void heartbeat_class_init(ObjectClass *oc, void *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    ucc->complete = heartbeat_complete;
    ucc->can_be_deleted = heartbeat_can_be_deleted;
    oc->unparent = heartbeat_unparent;
    object_class_property_add(oc, "chardevs", "strList", get_chardevs,
                              set_chardevs, NULL, NULL);
    for (int i = 0; i < ARRAY_SIZE(numbers); i++) {
        object_class_property_add(oc, numbers[i].name, "uint32", get_number,
                                  set_number, NULL, (void *)&numbers[i]);
    }
    object_class_property_add_enum(oc, "on-loss", "ColoHeartbeatOnLoss",
                                   &ColoHeartbeatOnLoss_lookup, get_on_loss,
                                   set_on_loss);
}

static const TypeInfo heartbeat_info = {
    .name = TYPE_COLO_HEARTBEAT,
    .parent = TYPE_OBJECT,
    .class_init = heartbeat_class_init,
    .instance_init = heartbeat_init,
    .instance_finalize = heartbeat_finalize,
    .instance_size = sizeof(ColoHeartbeat),
    .interfaces = (InterfaceInfo[]) {
        { TYPE_USER_CREATABLE },
        { }
    },
};

static void heartbeat_register_types(void)
{
    type_register_static(&heartbeat_info);
}

type_init(heartbeat_register_types);

/* What can be seen.  BQL */

/* lock held */
static ColoHeartbeatLinkStatus *link_status(const HeartbeatLink *l, unsigned n,
                                            int64_t now)
{
    const ColoHeartbeatWatch *w = &l->h->seen;
    ColoHeartbeatLinkStatus *st = g_new0(ColoHeartbeatLinkStatus, 1);

    st->chardev = g_strdup(l->id);
    st->up = colo_watch_link_up(w, n, now);
    st->has_age = w->link[n].heard_ns;
    st->age = MAX(now - w->link[n].heard_ns, 0) / SCALE_MS;
    st->sent = l->sent;
    st->received = l->received;
    st->dropped = l->dropped;
    st->garbage = l->garbage;
    return st;
}

static const char *state_str(const ColoBeat *b)
{
    if (b->role == COLO_MODE_PRIMARY && b->state < COLO_PRIMARY_STATE__MAX) {
        return ColoPrimaryState_str(b->state);
    }
    if (b->role == COLO_MODE_SECONDARY &&
        b->state < COLO_SECONDARY_STATE__MAX) {
        return ColoSecondaryState_str(b->state);
    }
    return NULL;
}

ColoHeartbeatStatus *colo_heartbeat_status(void)
{
    ColoHeartbeat *h = heartbeat;
    ColoHeartbeatLinkStatusList **tail;
    ColoHeartbeatStatus *st;
    int64_t now = now_ns();

    if (!h) {
        return NULL;
    }
    st = g_new0(ColoHeartbeatStatus, 1);
    tail = &st->links;
    QEMU_LOCK_GUARD(&lock);
    for (unsigned i = 0; i < h->nlinks; i++) {
        QAPI_LIST_APPEND(tail, link_status(&h->link[i], i, now));
    }
    st->health = h->seen.health;
    st->has_age = h->seen.heard_ns;
    st->age = MAX(now - h->seen.heard_ns, 0) / SCALE_MS;
    st->round_trip = colo_history_summary(&h->seen.rtt);
    st->links_up = colo_watch_links_up(&h->seen, now);
    st->links_total = h->nlinks;
    st->peer_state = g_strdup(state_str(&h->seen.last));
    st->has_peer_epoch = st->peer_state;
    st->peer_epoch = h->seen.last.epoch;
    st->losses = h->seen.losses;
    st->ignored = h->seen.unused;
    return st;
}

void colo_heartbeat_look(bool fatal,
                         void (*found)(void *opaque, ColoProblemKind kind,
                                       const char *name, const char *message),
                         void *opaque)
{
    ColoHeartbeat *h = heartbeat;
    int64_t now = now_ns();
    ColoHeartbeatWatch w;
    g_autofree char *text = NULL;

    if (!h) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&lock) {
        w = h->seen;
    }
    if (fatal && w.health == COLO_PEER_HEALTH_STALLED) {
        text = g_strdup_printf("the peer answers, but without progress of its "
                               "%s", w.stalled);
        found(opaque, COLO_PROBLEM_KIND_HEARTBEAT,
              object_get_canonical_path_component(OBJECT(h)), text);
    }
    if (fatal && !colo_watch_links_up(&w, now)) {
        found(opaque, COLO_PROBLEM_KIND_HEARTBEAT,
              object_get_canonical_path_component(OBJECT(h)),
              "no link of the heartbeat is up: the death of the peer is seen "
              "late");
    }
    if (fatal || !colo_watch_links_up(&w, now)) {
        return;
    }
    for (unsigned i = 0; i < h->nlinks; i++) {
        g_autofree char *link = NULL;

        if (!colo_watch_link_up(&w, i, now)) {
            link = g_strdup_printf("the heartbeat's link '%s' is down",
                                   h->link[i].id);
            found(opaque, COLO_PROBLEM_KIND_HEARTBEAT, h->link[i].id, link);
        }
    }
}
