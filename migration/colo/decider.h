/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what is asked when the sides have lost each other: the object that
 * decides which of them goes on (arbiter.h), and the one that makes sure that
 * the other does not (fence.h).  Not for base code.
 *
 * This is what both have in common.  They are made and removed by the user, and
 * there is at most one of each.  A question is answered in a thread of its own,
 * so that whoever asks never waits for longer than the object's timeout,
 * whatever hangs.
 */

#ifndef QEMU_MIGRATION_COLO_DECIDER_H
#define QEMU_MIGRATION_COLO_DECIDER_H

#include "qemu/uuid.h"
#include "qapi/qapi-types-colo.h"
#include "qapi/qapi-types-migration.h"
#include "qom/object.h"

#define TYPE_COLO_DECIDER "colo-decider"
OBJECT_DECLARE_TYPE(ColoDecider, ColoDeciderClass, COLO_DECIDER)

/* There is at most one object of each kind */
typedef enum ColoDeciderKind {
    COLO_DECIDER_ARBITER,
    COLO_DECIDER_FENCE,
    COLO_DECIDER__MAX,
} ColoDeciderKind;

/* What somebody wants of it */
typedef enum ColoRequest {
    COLO_REQUEST_BEGIN,     /* this session is the one to be decided */
    COLO_REQUEST_CHECK,     /* is it? */
    COLO_REQUEST_DECIDE,    /* does this side go on? */
    COLO_REQUEST_FENCE,     /* keep the other side off */
} ColoRequest;

/* Its name, for messages and programs */
const char *colo_request_str(ColoRequest request);

/* Of what session, and who asks */
typedef struct ColoQuestion {
    QemuUUID session;
    COLOMode side;          /* COLO_MODE_PRIMARY or COLO_MODE_SECONDARY */
    uint64_t generation;    /* of the disks in this session; 0: none */
    uint64_t epoch;         /* number of the last commit */
    uint16_t round;         /* what @side asked in earlier ones is withdrawn */
    uint16_t peer_round;    /* the same of the other side, as far as is known */
} ColoQuestion;

/* A question that is under way */
typedef struct ColoAsk ColoAsk;

/* What the thread that answers knows of it; these are set once */
ColoRequest colo_ask_request(const ColoAsk *ask);
const ColoQuestion *colo_ask_question(const ColoAsk *ask);

/*
 * colo_ask_left_ms: the time that is left for an answer, in milliseconds; 0 if
 * it is over.  Any thread.
 */
int colo_ask_left_ms(const ColoAsk *ask);

/*
 * colo_ask_wait: the thread that answers waits for @ms milliseconds, at least 0
 *
 * False at once when nobody waits for the answer any more, or the time for it
 * is over.  What has not been done then should not be done.
 */
bool colo_ask_wait(ColoAsk *ask, int ms);

/* colo_ask_fd: readable from when nobody waits for the answer any more */
int colo_ask_fd(ColoAsk *ask);

struct ColoDecider {
    Object parent_obj;

    /* Set once, before the object is complete */
    uint32_t timeout_ms;
    char *id;

    /* The lock of decider.c */
    ColoAsk *ask;           /* a thread is answering this one */
    uint64_t asked;
    bool has_verdict;
    ColoVerdict verdict;    /* the last one; if has_verdict */
    char *error;            /* why that was not known; or NULL */
};

struct ColoDeciderClass {
    ObjectClass parent_class;

    ColoDeciderKind kind;
    const char *name;       /* of the kind, for messages */
    uint32_t default_timeout_ms;

    /* Are the properties all right?  BQL; optional. */
    bool (*check)(ColoDecider *d, Error **errp);
    /*
     * Answer @ask.  A thread of its own, one at a time, without the BQL; may
     * take as long as it takes.  COLO_VERDICT_WON also says that a begin, a
     * check or the fence was successful.  @errp is set if the answer is
     * COLO_VERDICT_NOT_KNOWN.
     */
    ColoVerdict (*answer)(ColoDecider *d, ColoAsk *ask, Error **errp);
};

/*
 * colo_decider_exists: is there an object of that kind?
 * colo_decider_get: a reference to it, which the caller gives back; or NULL
 *
 * Any thread.
 */
bool colo_decider_exists(ColoDeciderKind kind);
ColoDecider *colo_decider_get(ColoDeciderKind kind);

/*
 * colo_decider_ask: ask the object of that kind
 *
 * COLO_VERDICT_NOT_KNOWN with @errp set after the object's timeout, and a fifth
 * of a second, at the latest, and soon after colo_decider_cancel().  What an
 * earlier question still does is waited for first, in that time.
 * @was_cancelled may be NULL.  Any thread, without the BQL.
 */
ColoVerdict colo_decider_ask(ColoDeciderKind kind, ColoRequest request,
                             const ColoQuestion *q, bool *was_cancelled,
                             Error **errp);

/*
 * colo_decider_arm: from now on a cancel counts for the next question, even if
 * it comes before that
 * colo_decider_cancel: questions that are under way are not known
 *
 * Any thread; they return at once.
 */
void colo_decider_arm(void);
void colo_decider_cancel(void);

/* NULL if there is no object of that kind; the caller frees it.  Any thread. */
ColoArbiterStatus *colo_decider_status(ColoDeciderKind kind);

#endif
