/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: a model of a session, for SPIN.  run.py has the configurations.
 *
 * Theory of operation
 *
 * Two sides take checkpoints over a channel, lose each other and find out who
 * goes on (primary.pml, secondary.pml).  The world (world.pml) makes up to
 * FAULTS faults, each at any step: a host dies; the link is cut, in one or both
 * directions; it delays what is sent; a process is stopped and goes on later;
 * the arbiter cannot be reached, or its answer is lost; the secondary ends the
 * session.  It speaks the operator's words, at most WORDS while faults happen.
 *
 * Time is a number of ticks.  It passes only when neither side has anything to
 * do: a side that is slow is one that is stopped.  The clocks of the sides
 * differ by at most SKEW ticks over a session.
 *
 * The guest's output is counted in batches, those of an epoch after each other.
 * 'needed' is the epoch that the survivor must have reached, since something
 * was released that follows from it.  An acknowledgement is output, too.
 *
 * At some instant the world grows calm: what was stopped, delayed or out of
 * reach is so no longer, and the operator tells somebody to go on, if there is
 * no arbiter.  CALM ticks later all must be settled.  So that each state has a
 * way out is an assertion, and so is how long that takes.
 *
 * What must hold
 *
 *  two_live    never do both sides go on, not even one after the other: the
 *              second would lack what the first has let out
 *  late_write  of what the primary writes after the secondary has gone on
 *              there is at most the one batch that it had already checked,
 *              and none if it was fenced or was not stopped between the check
 *              and the write
 *  behind      the side that goes on has reached 'needed'
 *  half        and its state is complete
 *  unloaded    what it has committed is loaded
 *  healthy     without a fault neither side is lost
 *  unexpected  no frame comes to a state that does not expect it
 *  stuck       after CALM ticks of calm there is a pair, or one side goes on,
 *              unless who was to go on died or was ended by its user
 *  unended     and with an arbiter, or if they can talk, the other one is out
 *  protection  and before the operator loses patience there is a pair, if no
 *              link was cut, no host died, nobody was asked and nobody has said
 *              a word
 *
 *  overrun     and frames have room
 *
 * Left out: disks, a guest that the user pauses, a load that fails, a new
 * session after the end of this one, how the arbiter tells sessions apart, a
 * fence that fails.
 *
 * -DBUG_... puts a fault back in; run.py has the list.
 */

/* Sizes */
#ifndef CUTS
#define CUTS 1          /* checkpoints, without the last one of a handover */
#endif
#ifndef FAULTS
#define FAULTS 1
#endif
#ifndef WORDS
#define WORDS 1
#endif
#ifndef BATCHES
#define BATCHES 2       /* of output that an epoch has */
#endif
#ifndef SKEW
#define SKEW 1
#endif
#ifndef ROOM
#define ROOM 6          /* frames on their way in one direction */
#endif
#ifndef TIMEOUT
#define TIMEOUT 2       /* ticks without a word, then the peer is lost */
#endif
#ifndef MARGIN
#define MARGIN 1
#endif

/*
 * The primary writes while what it goes by is younger than GATE: the margin is on
 * its side, as waiting for one would make each failover later
 */
#define GATE (TIMEOUT - MARGIN)
/* Whoever cannot know that the other one holds its output waits for so long */
#define TAKE TIMEOUT

/* So long the operator waits for them to find each other again */
#define PATIENCE (TAKE + 1)
#ifndef CALM
#ifdef ARBITER
#define CALM (TAKE + 1)
#else
#define CALM (PATIENCE + 1)
#endif
#endif

/* As ColoPrimaryState in qapi/colo.json */
#define P_NONE          0
#define P_STARTING      1
#define P_RUNNING       2
#define P_REQUESTING    3
#define P_CUTTING       4
#define P_SENDING       5
#define P_COMMITTING    6
#define P_LOADING       7
#define P_LOST          8
#define P_ENDING        9
#define P_ALONE         10
#define P_ENDED         11

/* As ColoSecondaryState */
#define S_NONE          0
#define S_STARTING      1
#define S_STANDING      2
#define S_RUNNING       3
#define S_REPLIED       4
#define S_RECEIVING     5
#define S_COMMITTED     6
#define S_LOADING       7
#define S_LOST          8
#define S_ENDING        9
#define S_LIVE          10
#define S_ENDED         11

#ifdef HYBRID
#define S_READY S_RUNNING
#else
#define S_READY S_STANDING
#endif

/*
 * Frames.  'ready' is checkpoint-ready; 'pages' stands for vmstate-send and all
 * that follows before vmstate-size, 'tail' for that one; 'bye' is an error as
 * well.  'pong' says which ping it answers: one is under way at a time.
 */
mtype = {
    ready, start, request, reply, pages, tail, received, loaded, ping, pong,
    alive, bye, bye_ack, takeover, handover_request, handover
};

/* The sides; as index of an array: what is on its way from there */
#define P 0
#define S 1
#define NOBODY 2

#define UNKNOWN 0
#define WON 1
#define LOST 2

chan to_s = [ROOM] of { mtype };
chan to_p = [ROOM] of { mtype };

/* The world */
bool cut[2];            /* nothing that is sent arrives any more */
bool slow[2];           /* what is sent does not arrive yet */
byte arrived[2];        /* frames that had, when it became slow */
bool runs[2];           /* the process takes steps */
bool dead[2];
bool eof[2];            /* the side has seen the end of what it reads */
byte faults = FAULTS;   /* still to come */
byte words = WORDS;
byte skew;              /* ticks by which the primary's clock is behind */
byte calm;              /* 0: not yet; otherwise ticks since then, and 1 */
bool parted;            /* a host died, a link was cut, the user ended it */
bool spoke;             /* somebody was told to go on, or asked the arbiter */
byte arbiter = NOBODY;  /* who has won */
bool reachable;         /* the arbiter is */
bool belated[2];        /* a question will get there that nobody waits for */
byte needed;
byte late;

/* The primary */
byte p_state;
byte p_place;           /* where it goes back to from P_LOST */
byte p_epoch;           /* that its guest executes */
byte p_committed;       /* the latest cut that the secondary has said it has */
byte p_written;         /* batches of output */
byte p_checked;         /* what has passed the gate: 1 a batch, 2 a match */
byte p_heard;           /* ticks since a frame was read */
byte p_lease;           /* ticks since the ping was sent that was answered */
bool p_pinged;          /* there is a ping without an answer */
byte p_age;             /* ticks since it was sent */
bool p_started;         /* start was sent: the secondary may be ready */
bool p_due;             /* a checkpoint */
bool p_sent;            /* the pages of the checkpoint */
bool p_hands;           /* it has been asked to hand over */
bool p_stands;          /* its guest stands for good, unless p goes on */
bool p_asked;           /* the arbiter; it may have decided */
byte p_verdict;
bool p_word;            /* of the operator, not followed yet */
bool p_told;            /* the bye that was said was the operator's word */
byte p_said;            /* hybrid: epoch, and 1, of what the secondary said */

/* The secondary */
byte s_state;
byte s_place;
byte s_epoch;           /* that it has loaded */
byte s_committed;
byte s_parts;           /* of the checkpoint that are there */
bool s_half;            /* a load is under way */
byte s_heard;
bool s_started;         /* it has got start */
bool s_asks;            /* it has sent handover-request */
bool s_goes;            /* it has got handover */
bool s_asked;
byte s_verdict;
bool s_word;
bool s_quits;           /* its user wants to end the session */
bool s_left;            /* and has done so */
bool s_alive;           /* it is time to say so, without being asked */
bool s_wrote;           /* hybrid: its guest ran since it replied */
bool s_spoke;           /* hybrid: its guest said something in this epoch */
byte s_said;            /* hybrid: on its way to the primary: epoch, and 1 */

/* Between the lines of a step; 0 otherwise */
mtype m;
byte was;
bool two_live, late_write, behind, half, unloaded, healthy, unexpected, stuck,
     unended, protection, overrun;

inline must(rule, holds)
{
    rule = !(holds);
    assert(!rule);
}

c_decl {
    \#include <stdlib.h>
    void model_note(int side, int from, int to);
}

c_code {
    static unsigned char noted[2][12][12];

    /* For run.py: which side went from where to where, in any run */
    static void model_tell(void)
    {
        int i, j, k;

        for (i = 0; i < 2; i++) {
            for (j = 0; j < 12; j++) {
                for (k = 0; k < 12; k++) {
                    if (noted[i][j][k]) {
                        printf("transition %d %d %d\n", i, j, k);
                    }
                }
            }
        }
    }

    void model_note(int side, int from, int to)
    {
        static int begun;

        if (!begun) {
            begun = 1;
            atexit(model_tell);
        }
        noted[side][from][to] = 1;
    }
}

inline p_set(to)
{
    was = p_state;
    p_state = to;
    printf("P %d %d\n", was, p_state);
    c_code { model_note(0, now.was, now.p_state); };
    was = 0
}

inline s_set(to)
{
    was = s_state;
    s_state = to;
    printf("S %d %d\n", was, s_state);
    c_code { model_note(1, now.was, now.s_state); };
    was = 0
}

#define p_over (p_state == P_ALONE || p_state == P_ENDED)
#define s_over (s_state == S_LIVE || s_state == S_ENDED)
#define p_gone (dead[P] || p_over)
#define s_gone (dead[S] || s_over)

/* A frame; the caller has seen to it that there is room */
inline p_send(frame)
{
    if
    :: cut[P] || s_gone -> skip
    :: else ->
        must(overrun, len(to_s) < ROOM);
        to_s!frame
    fi;
    printf("P sends %d\n", frame)
}

inline s_send(frame)
{
    if
    :: cut[S] || p_gone -> skip
    :: else ->
        must(overrun, len(to_p) < ROOM);
        to_p!frame
    fi;
    printf("S sends %d\n", frame)
}

inline empty_to_s()
{
    do
    :: len(to_s) > 0 -> to_s?_
    :: else -> break
    od;
    arrived[P] = 0
}

inline empty_to_p()
{
    do
    :: len(to_p) > 0 -> to_p?_
    :: else -> break
    od;
    arrived[S] = 0
}

/* What cannot matter any more is the same in all states */
inline p_forget()
{
    empty_to_p();
    p_place = P_NONE;
    p_heard = 0;
    p_lease = 0;
    p_pinged = 0;
    p_age = 0;
    p_due = 0;
    p_sent = 0;
    p_hands = 0;
    p_stands = 0;
    p_asked = 0;
    p_word = 0;
    p_said = 0;
    s_said = 0
}

inline s_forget()
{
    empty_to_s();
    s_place = S_NONE;
    s_parts = 0;
    s_heard = 0;
    s_asks = 0;
    s_asked = 0;
    s_word = 0;
    s_quits = 0;
    s_wrote = 0;
    s_spoke = 0;
    s_alive = 0
}

#include "primary.pml"
#include "secondary.pml"
#include "world.pml"
