/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the model of the primary.
 *
 * Each pc_... says when a step is possible; p_busy, that one is.  Output is
 * checked and written by another thread than the protocol, so its two steps
 * come between any others.  The network may not take it for a while.
 */

#define p_sees (slow[S] -> arrived[S] > 0 : len(to_p) > 0)
#define p_session (p_state >= P_STARTING && p_state <= P_LOADING || \
                   p_state == P_ENDING)
#define p_room (len(to_s) < ROOM || cut[P] || s_gone)

/* A frame in the middle of which another one would come has to end first */
#define pc_read     (p_sees && !p_over && p_state != P_CUTTING && \
                     p_state != P_SENDING && p_room)
#define pc_due      (p_state == P_RUNNING && !p_word && !p_stands && p_room && \
                     (p_hands || p_due && p_epoch < CUTS))
#define pc_cut      (p_state == P_CUTTING)
#define pc_send     (p_state == P_SENDING && p_room)
#define pc_hand     (p_state == P_RUNNING && !p_word && p_stands && p_room && \
                     p_written == BATCHES * p_committed && !p_checked)
#define pc_bye      (p_state == P_RUNNING && p_word && p_room)
#define pc_silent   (!p_sees && (p_heard >= TIMEOUT || eof[P]))
#define pc_lost     (p_session && pc_silent)
#define pc_waited   (p_state == P_LOST && !p_sees && \
                     (p_heard >= TAKE || eof[P]))

#ifdef ARBITER
#define pc_ask      (pc_waited && p_verdict == UNKNOWN && \
                     (reachable || !p_asked))
#define pc_go_on    (p_state == P_LOST && !p_sees && p_verdict == WON)
#define pc_give_up  (p_state == P_LOST && !p_sees && p_verdict == LOST)
#else
#define pc_ask      false
#ifdef BUG_TIME_ALONE
#define pc_go_on    (pc_waited)
#else
#define pc_go_on    (p_state == P_LOST && !p_sees && p_word)
#endif
#define pc_give_up  false
#endif

#ifdef BUG_NO_GATE
#define p_gate      true
#elif defined(BUG_HEARD_WHEN_READ)
#define p_gate      (p_heard < GATE && !p_sees)
#else
#define p_gate      (p_lease < GATE)
#endif
#ifdef BUG_RELEASE_EARLY
#define p_releases  p_epoch
#else
#define p_releases  p_committed
#endif
#define p_batch     (p_written < BATCHES * p_releases)
#ifdef BUG_OLD_WORDS
#define p_match     (p_said != 0)
#else
#define p_match     (p_said > p_committed)
#endif
/* Once handover is sent the other side may go live */
#ifdef BUG_HANDOVER_OPEN
#define p_holds     false
#else
#define p_holds     (p_state == P_ENDING && p_stands)
#endif
#define pc_check    (p_session && !p_holds && p_started && !p_checked && \
                     p_gate && (p_batch || p_match))
#define pc_write    (p_checked != 0)
#define pc_hear     (s_said != 0 && !slow[S])
#ifdef BUG_LOST_SILENT
#define p_talks     p_session
#else
#define p_talks     (p_session || p_state == P_LOST && !p_asked)
#endif
#ifdef BUG_NO_PINGS
#define pc_ping     false
#else
#define pc_ping     (p_started && !p_pinged && p_lease >= 1 && \
                     len(to_s) < ROOM && p_talks && !cut[P] && !s_gone)
#endif

#define p_busy      (runs[P] && (pc_read || pc_due || pc_cut || pc_send || \
                     pc_hand || pc_bye || pc_lost || pc_ask || pc_go_on || \
                     pc_give_up || calm && pc_check || pc_write || pc_hear || \
                     pc_ping))

/* It goes on.  Before anything else the peer is told, if it can be. */
inline p_go_on()
{
    spoke = 1;
    must(two_live, s_state != S_LIVE);
#ifdef FENCE
    dead[S] = 1;
    runs[S] = 0;
    cut[S] = 1;
    s_forget();
#endif
#ifndef BUG_NO_TAKEOVER
    if
    :: len(to_s) < ROOM || cut[P] || s_gone ->
        p_send(takeover)
    :: p_state == P_LOST && p_place == P_SENDING || len(to_s) == ROOM ->
        /* In the middle of a frame, or there is no room: close it */
        printf("P closes the channel\n");
        cut[P] = 1;
        parted = 1
    fi;
#endif
    p_set(P_ALONE);
    p_forget()
}

inline p_end()
{
    p_set(P_ENDED);
    p_forget()
}

inline p_take(frame)
{
    if
    :: frame == takeover ->
        must(two_live, p_state != P_ALONE);
        p_end()
    :: frame == bye ->
        /* Whoever says so is out for good */
        p_send(bye_ack);
        must(two_live, s_state != S_LIVE);
        p_set(P_ALONE);
        p_forget()
#ifdef BUG_BACK_AFTER_ASK
    :: frame != takeover && frame != bye ->
#else
    :: frame != takeover && frame != bye && p_asked ->
        /* It may have been decided that the other side is out */
        skip
    :: frame != takeover && frame != bye && !p_asked ->
#endif
        p_heard = 0;
        if
        :: p_state == P_LOST ->
            p_set(p_place);
            p_place = P_NONE
        :: else
        fi;
        if
        :: frame == ready ->
            must(unexpected, p_state == P_STARTING && !p_started);
            p_started = 1;
            p_lease = TAKE;
            p_send(start)
        :: frame == pong ->
            p_lease = p_age;
            p_pinged = 0;
            p_age = 0;
            if
            :: p_state == P_STARTING -> p_set(P_RUNNING)
            :: else
            fi
        :: frame == reply ->
            must(unexpected, p_state == P_REQUESTING);
            p_set(P_CUTTING)
        :: frame == received ->
            must(unexpected, p_state == P_COMMITTING);
            p_committed = p_epoch;
            p_set(P_LOADING)
        :: frame == loaded ->
            must(unexpected, p_state == P_LOADING);
            p_set(P_RUNNING)
        :: frame == alive -> skip
        :: frame == handover_request ->
            p_hands = (p_state != P_ENDING)
        :: frame == bye_ack ->
            must(unexpected, p_state == P_ENDING && !p_stands);
            must(two_live, s_state != S_LIVE);
            p_set(P_ALONE);
            p_forget()
        :: else ->
            must(unexpected, false)
        fi
    fi
}

inline p_lose()
{
    must(healthy, faults < FAULTS || s_gone);
    if
    :: !p_started ->
        /* The other side was never told to start */
        must(two_live, s_state != S_LIVE);
        p_set(P_ALONE);
        p_forget()
#ifdef BUG_BYE_GOES_ON
    :: p_started && p_state == P_ENDING && p_told ->
        p_go_on()
#elif !defined(ARBITER)
    :: p_started && p_state == P_ENDING && p_told ->
        /* It has the operator's word */
        p_go_on()
#endif
    :: else ->
        p_place = p_state;
        p_set(P_LOST)
    fi
}

active proctype primary()
{
end:
    do
    :: d_step { runs[P] && pc_read ->
        to_p?m;
        arrived[S] = (arrived[S] -> arrived[S] - 1 : 0);
        printf("P reads %d\n", m);
        p_take(m);
        m = 0
    }
    :: d_step { runs[P] && pc_due ->
        p_due = 0;
        p_send(request);
        p_set(P_REQUESTING)
    }
    :: d_step { runs[P] && pc_cut ->
        p_epoch++;
        p_stands = p_hands;
        p_sent = 0;
        p_set(P_SENDING)
    }
    :: d_step { runs[P] && pc_send ->
        if
        :: !p_sent ->
            p_send(pages);
            p_sent = 1
        :: else ->
            p_send(tail);
            p_sent = 0;
            p_set(P_COMMITTING)
        fi
    }
    :: d_step { runs[P] && pc_hand ->
        p_send(handover);
#ifdef BUG_HANDOVER_ENDS
        p_end()
#else
        p_set(P_ENDING)
#endif
    }
    :: d_step { runs[P] && pc_bye ->
        p_word = 0;
        p_told = 1;
        p_hands = 0;
#ifndef BUG_BYE_STANDS
        p_stands = 0;
#endif
        p_send(bye);
        p_set(P_ENDING)
    }
    :: atomic { runs[P] && pc_lost -> p_lose() }
#ifdef ARBITER
    :: atomic { runs[P] && pc_ask ->
        p_asked = 1;
        spoke = 1;
        if
        :: reachable && arbiter == NOBODY -> arbiter = P
        :: else
        fi;
        if
        :: reachable -> p_verdict = (arbiter == P -> WON : LOST)
        :: reachable && faults && !calm -> faults--
        :: !reachable -> belated[P] = 1
        fi
    }
#endif
    :: atomic { runs[P] && pc_go_on -> p_go_on() }
#ifdef ARBITER
    :: d_step { runs[P] && pc_give_up -> p_end() }
#endif
    :: d_step { runs[P] && pc_check ->
        if
        :: p_batch -> p_checked = 1
        :: else -> p_checked = 2
        fi
    }
    :: d_step { runs[P] && pc_write ->
        if
        :: p_checked == 1 ->
            needed = (p_written / BATCHES + 1 > needed ->
                      p_written / BATCHES + 1 : needed);
            p_written++
        :: p_checked == 2 && p_said ->
#ifdef BUG_OLD_WORDS
            needed = (p_epoch > needed -> p_epoch : needed);
#else
            needed = (p_said - 1 > needed -> p_said - 1 : needed);
#endif
            p_said = 0
        :: else
        fi;
        p_checked = 0;
        if
        :: s_state == S_LIVE ->
            late++;
            must(behind, s_epoch >= needed);
#if defined(FENCE) || defined(WHOLE_GATE)
            must(late_write, false)
#else
            must(late_write, late <= 1)
#endif
        :: else
        fi
    }
#ifdef HYBRID
    :: d_step { runs[P] && pc_hear ->
        p_said = s_said;
        s_said = 0
    }
#endif
    :: d_step { runs[P] && pc_ping ->
        p_pinged = 1;
        p_age = 0;
        p_send(ping)
    }
    od
}
