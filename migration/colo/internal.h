/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what the files of the subsystem share.  Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_INTERNAL_H
#define QEMU_MIGRATION_COLO_INTERNAL_H

#include "qemu/notify.h"
#include "qemu/thread.h"
#include "migration/colo.h"
#include "migration/qemu-file-types.h"
#include "qapi/qapi-types-colo.h"
#include "qapi/qapi-types-migration.h"
#include "io/channel-buffer.h"
#include "ram.h"
#include "staging.h"
#include "state.h"
#include "stats.h"
#include "wire.h"
#include "keepalive.h"
#include "progress.h"

/* Pages that may be staged twice: written while the BQL was not held */
#define COLO_STAGING_SLACK_PAGES 65536

/* What somebody outside of the session's thread wants of it */
typedef enum ColoWish {
    COLO_WISH_NONE,
    COLO_WISH_END,          /* end in order, see ColoSession.end_reason */
    COLO_WISH_FAILOVER,     /* the operator's word: go on without the peer */
} ColoWish;

/* Why the session's thread stopped to serve the peer */
typedef enum ColoCause {
    COLO_CAUSE_LOST,        /* channel, protocol or deadline: who lives? */
    COLO_CAUSE_WISH,        /* ColoSession.wish */
    COLO_CAUSE_PEER_BYE,    /* the peer ended the session in order */
    COLO_CAUSE_PEER_ERROR,  /* the peer says that it cannot go on */
    COLO_CAUSE_LOCAL,       /* this side cannot go on with the session */
    COLO_CAUSE_PAUSE,       /* primary: its guest stood for max_pause_ms */
} ColoCause;

/* The primary's part of a session */
typedef struct ColoPrimary {
    /* BQL for writing; the session's thread reads it without */
    ColoPrimaryState state;

    /* BQL */
    RunState deferred_stop;             /* RUN_STATE__MAX: none */
    bool paused;                        /* the guest stands, not for a cut */
    VMChangeStateEntry *vm_state;       /* hybrid mode */
    Notifier wakeup;                    /* hybrid mode */

    /* The session's thread only, which is the migration thread */
    QEMUFile *device_file;              /* writes ColoSession.device_state */
    unsigned pings;                     /* of an epoch, no pong yet */
    int64_t last_cut_ns;
    int64_t not_before_ns;              /* for a checkpoint on demand */
    bool peer_may_be_ready;             /* 'start' has been sent */
} ColoPrimary;

/* The secondary's part of a session */
typedef struct ColoSecondary {
    /* BQL for writing; the session's thread reads it without */
    ColoSecondaryState state;

    /* BQL */
    ColoRunState run_state;             /* of the primary's guest at its cut */
    ShutdownCause deferred_shutdown;    /* hybrid mode */
    ShutdownCause deferred_reset;       /* hybrid mode */

    /* The session's thread only, as long as it runs */
    uint64_t generation;                /* of the disks; 0 for none */
    GArray *wanted;                     /* ColoPageEntry: pages asked for */
    size_t wanted_next;                 /* index of the next one to arrive */
    bool hashes_came;                   /* in this checkpoint */
    GByteArray *sections;               /* what device_state consists of */
} ColoSecondary;

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
    uint64_t epoch;                     /* number of the last cut */
    uint64_t committed;                 /* number of the last commit */
    bool was_ready;                     /* protection was complete once */
    ColoByeReason end_reason;

    /* BQL */
    QemuCond cond;                      /* wish or thread_done has changed */
    COLOExitReason exit_reason;
    bool thread_done;
    ColoCounts stats;

    /* Atomic; BQL for writing */
    ColoWish wish;

    /* The session's thread only */
    ColoCause cause;
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

/* Is there a session whose thread runs, on that side?  BQL. */
bool colo_session_active(COLOMode side);

/*
 * colo_session_over: the session's thread is about to end.  BQL.
 *
 * Frees what belongs to it; statistics stay.  Wakes colo_shutdown().
 */
void colo_session_over(ColoSession *s);

/* Is QEMU on its way out, without a main loop?  BQL. */
bool colo_exiting(void);

/*
 * colo_take_request: why a checkpoint is wanted, -1 if it is not.  Atomic.
 * colo_leave_request: put it back, for later
 */
int colo_take_request(void);

/* May a checkpoint on demand be put off, so that the guests get on? */
static inline bool colo_reason_can_wait(ColoCheckpointReason reason)
{
    return reason == COLO_CHECKPOINT_REASON_MISMATCH ||
           reason == COLO_CHECKPOINT_REASON_TIMEOUT;
}

/* The guest stands, @epoch begins: it answers what output has asked for */
void colo_requests_cut(uint64_t epoch);

void colo_leave_request(ColoCheckpointReason reason);

/* colo_request_checkpoint_*, for others than participants.  Any thread. */
void colo_request_checkpoint_monitor(void);
void colo_request_checkpoint_run_state(void);

/* Whom requests wake, or NULL: none is pending then, and none is taken. */
void colo_request_set_wire(ColoWire *wire);

/* A session begins: note why QEMU is asked to end.  BQL. */
void colo_shutdown_watch(void);

/*
 * colo_stop_guest: the guest stands for a checkpoint, its devices are quiet
 *
 * @end_ns: give up then (QEMU_CLOCK_REALTIME)
 * @stopped: becomes true if this stopped it, also on failure; if somebody else
 * did, or is about to, it stands in another run state
 *
 * False with @errp set if the disks were not quiet in time, or the main loop
 * did not come round.  Session's thread, BQL held (dropped meanwhile).
 */
bool colo_stop_guest(ColoSession *s, int64_t end_ns, bool *stopped,
                     Error **errp);

/*
 * colo_start_guest: let the guest go on
 *
 * Under KVM the handlers of that change may drop the BQL before the CPUs run;
 * no reset begins and no stop takes place until it is over.  Any thread, BQL
 * held (dropped meanwhile).
 */
void colo_start_guest(void);

/*
 * colo_end_cut: let the guest go on that colo_stop_guest() has stopped
 *
 * As colo_start_guest(), and as silently as that.
 */
void colo_end_cut(ColoSession *s);

/*
 * colo_guest_stands: true while no CPU runs and no change of the run state is
 * in progress.  The state of the guest can be saved then, as long as the BQL is
 * not dropped.  BQL.
 */
bool colo_guest_stands(void);

/* Call the participants, in the order they came.  BQL. */
void colo_participants_arm(uint64_t epoch);
void colo_participants_cut(uint64_t epoch);
void colo_participants_commit(uint64_t cut);
void colo_participants_load(uint64_t epoch);
void colo_participants_open(void);
void colo_participants_stand(bool standby);

/* Whether there is any, and whether none has something left to let out.  BQL. */
bool colo_participants_exist(void);
bool colo_participants_drained(void);

/*
 * colo_set_state: the only way to change the state of a side.  BQL.
 *
 * Asserts that the transition is legal, traces it with @why.
 */
void colo_set_primary(ColoSession *s, ColoPrimaryState to, const char *why);
void colo_set_secondary(ColoSession *s, ColoSecondaryState to,
                        const char *why);
const char *colo_state_str(ColoSession *s);

/*
 * colo_ask_failover, colo_ask_end: leave a wish and see that it is noticed
 *
 * BQL; they return at once.
 */
void colo_ask_failover(ColoSession *s);
void colo_ask_end(ColoSession *s, ColoByeReason reason);

/* The wish to fail over cannot be followed now; it may come again.  BQL. */
void colo_refuse_failover(ColoSession *s);

static inline ColoWish colo_wish(ColoSession *s)
{
    return qatomic_read(&s->wish);
}

/*
 * colo_read_end: a frame in place of the expected one.  Session's thread.
 *
 * For BYE and ERROR, which are acknowledged, the cause becomes
 * COLO_CAUSE_PEER_*; anything else is a fault of the peer.  Always sets
 * @errp.
 */
void colo_read_end(ColoSession *s, const ColoFrame *f, const char *stage,
                   Error **errp);

/*
 * colo_patience_end: when to give up, from now on (QEMU_CLOCK_REALTIME, ns)
 * colo_patience_over: is it time, with @errp set?  Session's thread.
 */
int64_t colo_patience_end(ColoSession *s);
bool colo_patience_over(ColoSession *s, int64_t end_ns, const char *stage,
                        Error **errp);

/*
 * colo_say_bye: tell the peer that this side ends the session, and wait for
 * its acknowledgement, passing over whatever it was about to say.
 *
 * Returns true if the peer knows.  Session's thread, no BQL.
 */
bool colo_say_bye(ColoSession *s, ColoByeReason reason, Error **errp);

/*
 * colo_finish_begin: this side ends the session in order, for the reason in
 * s->cause and @err, which query-colo-status shows from now on.  No BQL.
 */
void colo_finish_begin(ColoSession *s, const Error *err);

/* Did the peer say that it is out, and will not go live? */
static inline bool colo_peer_is_out(ColoSession *s)
{
    return s->cause == COLO_CAUSE_PEER_BYE ||
           s->cause == COLO_CAUSE_PEER_ERROR;
}

/* Tell the peer why this side cannot go on.  Session's thread, no BQL. */
void colo_say_error(ColoSession *s, const Error *err);

/*
 * colo_begin_alive: the peer reads frames from now on, tell it that we are here
 *
 * Session's thread, no BQL.
 */
void colo_begin_alive(ColoSession *s);

/*
 * colo_await_decision: the peer is lost
 *
 * Reports it, then waits for the operator's word or the end of QEMU.
 * Session's thread, BQL held (dropped meanwhile).
 */
void colo_await_decision(ColoSession *s, const Error *err);

/* Emits COLO_EXIT.  BQL. */
void colo_report_exit(ColoSession *s, COLOExitReason reason);

/*
 * colo_effective_checkpoint_delay: longest time between two checkpoints, ms
 *
 * The value 0 of x-checkpoint-delay is the default of the mode.  BQL for
 * writing it.
 */
uint32_t colo_effective_checkpoint_delay(void);

/* Parameters of migration, see qapi/migration.json.  BQL. */
ColoSyncMode migrate_colo_mode(void);
uint32_t migrate_colo_timeout(void);
uint32_t migrate_colo_max_pause(void);
uint64_t migrate_colo_staging_limit(void);

/* migration/colo/secondary.c: is a checkpoint being put into place?  BQL. */
bool colo_secondary_loading(void);

#endif
