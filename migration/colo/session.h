/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the session as an object, which most files of the subsystem share.
 * Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_SESSION_H
#define QEMU_MIGRATION_COLO_SESSION_H

#include "qemu/main-loop.h"
#include "qemu/notify.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qemu/uuid.h"
#include "migration/colo.h"
#include "migration/qemu-file-types.h"
#include "qapi/qapi-types-colo.h"
#include "qapi/qapi-types-migration.h"
#include "io/channel-buffer.h"
#include "keepalive.h"
#include "ram.h"
#include "staging.h"
#include "stats.h"
#include "wire.h"

/* What somebody outside of the session's thread wants of it */
typedef enum ColoWish {
    COLO_WISH_NONE,
    COLO_WISH_SWITCHOVER,   /* secondary: go on, in order: ask the primary */
    COLO_WISH_END,          /* end in order, see ColoSession.end_reason */
    COLO_WISH_FAILOVER,     /* go on without the peer */
    COLO_WISH_OUT,          /* never go on: it is the other side that does */
} ColoWish;

/* Why the session's thread stopped to serve the peer */
typedef enum ColoCause {
    COLO_CAUSE_LOST,        /* channel, protocol or deadline: who lives? */
    COLO_CAUSE_WISH,        /* ColoSession.wish */
    COLO_CAUSE_PEER_BYE,    /* the peer ended the session in order */
    COLO_CAUSE_PEER_ERROR,  /* the peer says that it cannot go on */
    COLO_CAUSE_HANDOVER,    /* the secondary goes on, both know it */
    COLO_CAUSE_TAKEOVER,    /* primary: the secondary says that it goes on */
    COLO_CAUSE_LOCAL,       /* this side cannot go on with the session */
    COLO_CAUSE_SPENT,       /* nor can this secondary, but it is complete */
    COLO_CAUSE_PAUSE,       /* primary: its guest stood for max_pause_ms */
} ColoCause;

/* The primary's part of a session */
typedef struct ColoPrimary {
    /* BQL for writing; the session's thread reads it without */
    ColoPrimaryState state;

    /* BQL */
    RunState deferred_stop;             /* RUN_STATE__MAX: none */
    bool paused;                        /* the guest stands, not for a cut */
    bool starts;                        /* it runs for the first time, soon */
    bool switches_over;                 /* from the last cut on */
    bool stands;                        /* its guest, since that cut */
    ColoPrimaryState lost_in;           /* what it was doing, in 'lost' */
    VMChangeStateEntry *vm_state;       /* hybrid mode */
    Notifier wakeup;                    /* hybrid mode */

    /* The session's thread only, which is the migration thread */
    QEMUFile *device_file;              /* writes ColoSession.device_state */
    unsigned pings;                     /* of an epoch, no pong yet */
    int64_t last_cut_ns;
    int64_t not_before_ns;              /* for a checkpoint on demand */
    bool peer_may_be_ready;             /* 'start' has been sent */
    bool hand_over;                     /* the secondary has asked for it */
    bool handed_over;                   /* 'handover' has been sent */
} ColoPrimary;

/* The secondary's part of a session */
typedef struct ColoSecondary {
    /* BQL for writing; the session's thread reads it without */
    ColoSecondaryState state;

    /* BQL */
    bool started;                       /* 'start' has come */
    ColoRunState run_state;             /* of the primary's guest at its cut */
    ColoSecondaryState lost_in;         /* what it was doing, in 'lost' */
    ShutdownCause deferred_shutdown;    /* hybrid mode */
    ShutdownCause deferred_reset;       /* hybrid mode */

    /* The session's thread only, as long as it runs */
    bool has_asked;                     /* for a switchover */
    GArray *wanted;                     /* ColoPageEntry: pages asked for */
    size_t wanted_next;                 /* index of the next one to arrive */
    bool hashes_came;                   /* in this checkpoint */
    GByteArray *sections;               /* what device_state consists of */
} ColoSecondary;

/* What became of the pages of one checkpoint */
typedef struct ColoPageCount {
    uint64_t sent;              /* their data travelled */
    uint64_t zero;              /* a flag was enough */
    uint64_t equal;             /* the secondary had them already */
} ColoPageCount;

/* What query-colo-status counts */
typedef struct ColoCounts {
    ColoHistory pause;
    ColoHistory commit;
    ColoHistory load;
    uint64_t reasons[COLO_CHECKPOINT_REASON__MAX];
    uint64_t checkpoints;
    uint64_t pages;
    uint64_t zero_pages;
    uint64_t equal_pages;
    uint64_t bytes_sent;
    uint64_t bytes_received;
    uint64_t staging_bytes;
    uint64_t staging_peak;
    uint64_t staging_overflows;
    uint64_t verified;
    uint64_t mismatches;
    uint64_t disk_mismatches;
} ColoCounts;

/*
 * A session; the last one stays until the next begins, for query-colo-status.
 *
 * What belongs to "the session's thread only" may be set up before that thread
 * starts, and is read and freed after its end under the BQL.
 */
typedef struct ColoSession {
    /* Set once, before the thread starts */
    COLOMode side;
    uint32_t max_pause_ms;
    bool cut_events;            /* periodic mode: STOP and RESUME for a cut */

    /* BQL for writing; the session's thread reads these without */
    ColoSyncMode mode;                  /* secondary: from the handshake on */
    uint32_t timeout_ms;                /* the same */
    bool verify_ram;                    /* the same */
    ColoWire *wire;                     /* NULL when the session is over */
    ColoKeepalive *keepalive;           /* while the peer may hear of us */
    QemuUUID id;                        /* secondary: from the handshake on */
    uint64_t generation;                /* of the disks, 0: none; the same */
    uint64_t epoch;                     /* number of the last cut */
    uint64_t committed;                 /* number of the last commit */
    bool was_ready;                     /* protection was complete once */
    bool loss_is_told;                  /* to the user; not since the return */
    uint16_t round;                     /* of its questions to the arbiter */
    ColoByeReason end_reason;

    /* BQL */
    QemuCond cond;                      /* wish or thread_done has changed */
    const char *out_why;                /* with COLO_WISH_OUT */
    bool forced;                        /* COLO_WISH_FAILOVER: at once */
    bool beat_says_out;                 /* the peer is, by its heartbeat */
    COLOExitReason exit_reason;
    bool thread_done;
    ColoCounts stats;

    /* Atomic; BQL for writing */
    ColoWish wish;

    /* The session's thread only */
    ColoCause cause;
    ColoByeReason peer_reason;  /* of the peer's bye, with CAUSE_PEER_BYE */
    ColoRam *ram;
    ColoStaging *staging;
    QIOChannelBuffer *device_state;

    /* One of them is in use, as side says.  Each has rules of its own. */
    ColoPrimary primary;
    ColoSecondary secondary;
} ColoSession;

/*
 * colo_session_new: begin a session; what the last one left is forgotten
 *
 * BQL.  @ioc: the channel of the first migration
 */
ColoSession *colo_session_new(COLOMode side, QIOChannel *ioc);

/* The running or the last session, or NULL.  BQL. */
ColoSession *colo_session(void);

/* True while the thread of a session on that side runs.  BQL. */
bool colo_session_active(COLOMode side);

/*
 * colo_session_over: the session's thread is about to end, or has.  BQL.
 *
 * Frees what belongs to it; statistics stay.  Wakes colo_shutdown().
 */
void colo_session_over(ColoSession *s);

/*
 * colo_count_checkpoint: one more, of @npages pages, is done
 * colo_count_staging: the staging area may have grown
 *
 * BQL, session's thread.
 */
void colo_count_checkpoint(ColoSession *s, uint64_t npages,
                           const ColoPageCount *pages);
void colo_count_staging(ColoSession *s);

/*
 * colo_exiting: true once QEMU is on its way out and has no main loop
 * colo_set_exiting: it is from now on
 *
 * BQL.
 */
bool colo_exiting(void);
void colo_set_exiting(void);

/*
 * colo_set_primary, colo_set_secondary: the only way to change the state of a
 * side.  Any thread; they take the BQL if the caller does not hold it.
 *
 * They assert that the transition is legal, and trace it with @why.
 */
void colo_set_primary(ColoSession *s, ColoPrimaryState to, const char *why);
void colo_set_secondary(ColoSession *s, ColoSecondaryState to,
                        const char *why);
const char *colo_state_str(ColoSession *s);
/* Has this side lost the other one? */
bool colo_is_lost(ColoSession *s);

/*
 * colo_ask_failover, colo_ask_switchover, colo_ask_end, colo_ask_out: leave a
 * wish and see that it is noticed
 *
 * BQL; they return at once.  @why: for the user, a literal
 */
void colo_ask_failover(ColoSession *s);
void colo_ask_switchover(ColoSession *s);
void colo_ask_out(ColoSession *s, const char *why);
void colo_ask_end(ColoSession *s, ColoByeReason reason);

/* The wish to fail over cannot be followed now; it may come again.  BQL. */
void colo_refuse_failover(ColoSession *s);

static inline ColoWish colo_wish(ColoSession *s)
{
    return qatomic_read(&s->wish);
}

/*
 * True if somebody said that this side goes on, whether or not the other one is
 * told first: nothing but the peer's word is waited for.
 */
static inline bool colo_goes_on(ColoSession *s)
{
    return colo_wish(s) == COLO_WISH_FAILOVER ||
           (colo_wish(s) == COLO_WISH_END &&
            s->end_reason == COLO_BYE_FAILOVER);
}

/* True if the peer said that it is out, and will not go live */
static inline bool colo_peer_is_out(ColoSession *s)
{
    return s->cause == COLO_CAUSE_PEER_BYE ||
           s->cause == COLO_CAUSE_PEER_ERROR;
}

/* True if somebody, or the guest, wanted the end; not if a fault led to it */
static inline bool colo_end_was_requested(ColoSession *s)
{
    return s->cause == COLO_CAUSE_WISH ||
           (s->cause == COLO_CAUSE_PEER_BYE &&
            colo_bye_is_request(s->peer_reason));
}

/* The time after which a peer that is silent is lost, in nanoseconds */
static inline int64_t colo_timeout_ns(ColoSession *s)
{
    return s->timeout_ms * (int64_t)SCALE_MS;
}

/* QEMU_CLOCK_REALTIME, by which a session measures all times */
static inline int64_t colo_now_ns(void)
{
    return qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
}

#endif
