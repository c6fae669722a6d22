/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: the acknowledgement controller of the matching engine.
 *
 * Primary, pure, one thread.  The state is ColoAckControl in conn.h.
 */

#ifndef QEMU_NET_COLO_MATCH_ACK_H
#define QEMU_NET_COLO_MATCH_ACK_H

#include "conn.h"
#include "match.h"

/*
 * What the packets of the primary wait with is of its epoch now, or of one that
 * a cut has ended.  The commit of that is under way, and no more can be asked
 * for.
 */
typedef enum ColoMatchAge {
    COLO_MATCH_NOW,
    COLO_MATCH_CUT,
    COLO_MATCH_AGE__MAX,
} ColoMatchAge;

/* Flows for which a client waits, oldest first */
typedef struct ColoAckLists {
    ColoFlowList pending[COLO_MATCH_AGE__MAX];  /* COLO_ACK_PENDING */
    ColoFlowList shut;                          /* COLO_WINDOW_SHUT */
} ColoAckLists;

void colo_ack_lists_init(ColoAckLists *lists);

/* A new epoch of the primary's begins: what is pending is of an earlier one */
void colo_ack_lists_cut(ColoAckLists *lists);

/* Since when has a client waited?  INT64_MAX: none does. */
int64_t colo_ack_lists_since_ms(const ColoAckLists *lists);

/* Does the flow have to be kept for what its client has not been told? */
static inline bool colo_ack_is_busy(const ColoAckControl *a)
{
    return a->ack_state == COLO_ACK_PENDING ||
           a->window_state == COLO_WINDOW_SHUT;
}

/* What the guests say */

/* The primary begins a connection, in @epoch */
void colo_ack_primary_begins(ColoFlow *f, uint64_t epoch);
/* The primary says @p: note what it acknowledges */
void colo_ack_primary_says(ColoFlow *f, const ColoPacket *p);

/* The secondary begins a connection */
void colo_ack_secondary_begins(ColoFlow *f);
/* The secondary says @p, no SYN.  True: it repeats its latest ack. */
bool colo_ack_secondary_says(ColoFlow *f, const ColoPacket *p);
/* The secondary repeats the SYN @p */
void colo_ack_secondary_repeats_syn(ColoFlow *f, const ColoPacket *p);
/* What the secondary said is void */
void colo_ack_forget_secondary(ColoFlow *f);

/* What leaves */

/* A connection begins with a SYN that leaves now */
void colo_ack_begin(ColoMatch *m, ColoFlow *f);

/* The SYN @p of both guests leaves now, after colo_ack_begin() */
void colo_ack_both_said_syn(ColoMatch *m, ColoFlow *f, const ColoPacket *p);

/*
 * colo_ack_limit: the latest ack that a segment of @epoch may leave with, if
 * any may
 *
 * @cut_ack: the latest that the primary said before that epoch
 */
ColoSeq colo_ack_limit(const ColoMatch *m, const ColoFlow *f, uint64_t epoch,
                       const ColoSeq *cut_ack);

/*
 * colo_ack_fit: @p, which was compared, is about to leave
 *
 * It gets no later ack than @limit, no more window than the secondary has, no
 * later timestamp than what waits.  The rest is told when it may be.
 */
void colo_ack_fit(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                  const ColoSeq *cut_ack, uint32_t limit);

/* @p is about to leave as it is: the survivor will have said it */
void colo_ack_leaves_as_is(ColoMatch *m, ColoFlow *f, const ColoPacket *p);

/* The primary's segment @p without data leaves now or is pending; taken over */
void colo_ack_pure(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                   const ColoSeq *cut_ack);

/* Tell what is pending as far as it may be told now */
void colo_ack_advance(ColoMatch *m, ColoFlow *f);
/* The secondary may offer more window now, or what it offered is void */
void colo_ack_widen(ColoMatch *m, ColoFlow *f);
/* The secondary's @p says what it lacks.  Taken over. */
void colo_ack_send_gap_on(ColoMatch *m, ColoFlow *f, ColoPacket *p);
/* What is pending of epochs before @cut leaves */
void colo_ack_release_before(ColoMatch *m, ColoFlow *f, uint64_t cut,
                             ColoRelease why);

#endif
