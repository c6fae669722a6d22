/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the model of the secondary.
 *
 * Nothing is read between the commit and the end of the load, so whatever
 * happens to the primary the load comes first.
 */

#define s_sees (slow[P] -> arrived[P] > 0 : len(to_s) > 0)
#define s_loads (s_state == S_COMMITTED || s_state == S_LOADING)
#if defined(BUG_DROP_COMMITTED)
#define s_unsafe (s_state == S_COMMITTED)
#elif defined(BUG_LIVE_IN_LOAD)
#define s_unsafe (s_state == S_LOADING)
#else
#define s_unsafe false
#endif
#define s_session (s_state >= S_STARTING && s_state <= S_RECEIVING || \
                   s_state == S_ENDING || s_unsafe)
#define s_room (len(to_p) < ROOM || cut[S] || p_gone)
#define s_ready (s_state == S_STANDING || s_state == S_RUNNING)

/*
 * The primary holds its output for sure: by its clock, or as it has said so, or
 * as its kernel has closed the connection (world.pml)
 */
#define s_may       (s_goes || s_heard >= TAKE || eof[S])

#define sc_begin    (s_state == S_NONE)
#define sc_read     (s_sees && !s_over && !s_loads && s_room)
#define sc_commit   (s_state == S_COMMITTED && s_room)
#define sc_load     (s_state == S_LOADING && s_room)
#define sc_request  (s_word && s_state >= S_STANDING && \
                     s_state <= S_RECEIVING && s_room)
#define sc_quit     (s_quits && !s_asked && s_state >= S_STARTING && \
                     s_state <= S_RECEIVING && s_room)
#define sc_lost     (s_session && !s_sees && (s_heard >= TIMEOUT || eof[S]))
#ifdef BUG_READ_LAST
#define s_first     true
#else
#define s_first     (!s_sees)
#endif
#define sc_free     (s_first && s_may && \
                     (s_state == S_LOST || s_goes && s_ready))

#ifdef ARBITER
#define sc_ask      (sc_free && s_verdict == UNKNOWN && \
                     (reachable || !s_asked))
#ifdef BUG_HANDOVER_UNASKED
#define sc_go_on    (sc_free && (s_verdict == WON || s_goes))
#else
#define sc_go_on    (sc_free && s_verdict == WON)
#endif
#define sc_give_up  (sc_free && s_verdict == LOST)
#else
#define sc_ask      false
#ifdef BUG_TIME_ALONE
#define sc_go_on    (sc_free)
#else
#define sc_go_on    (sc_free && (s_word || s_asks || s_goes))
#endif
#define sc_give_up  false
#endif

#define ACKED 3
#ifdef BUG_ACK_EARLY
#define sc_early    (s_state == S_RECEIVING && s_parts == 1 && \
                     p_state == P_COMMITTING && s_room)
#else
#define sc_early    false
#endif
#ifdef BUG_HEARD_WHEN_READ
/* A word that is no answer */
#define sc_alive    (s_alive && s_started && \
                     (s_session || s_state == S_LOST) && len(to_p) < ROOM - 2)
#else
#define sc_alive    false
#endif
#define sc_speak    (!s_spoke && \
                     (s_state == S_RUNNING || \
                      s_state == S_LOST && s_place == S_RUNNING))

#define s_busy      (runs[S] && (sc_begin || sc_read || sc_commit || \
                     sc_load || sc_request || sc_quit || sc_lost || sc_ask || \
                     sc_go_on || sc_give_up || calm && sc_speak || \
                     sc_early || sc_alive))

inline s_go_on()
{
    spoke = 1;
    must(two_live, p_state != P_ALONE);
    must(half, !s_half);
    must(unloaded, s_epoch == s_committed);
    must(behind, s_epoch >= needed);
#ifdef FENCE
    dead[P] = 1;
    runs[P] = 0;
    cut[P] = 1;
    p_checked = 0;
    p_forget();
#endif
#ifndef BUG_NO_TAKEOVER
    if
    :: s_room -> s_send(takeover)
    :: else ->
        printf("S closes the channel\n");
        cut[S] = 1;
        parted = 1
    fi;
#endif
    s_set(S_LIVE);
    s_forget()
}

inline s_end()
{
    s_set(S_ENDED);
    s_forget()
}

inline s_be_ready()
{
    s_set(S_READY);
    s_wrote = 0;
    s_spoke = 0
}

inline s_take(frame)
{
    if
    :: frame == takeover ->
        must(two_live, s_verdict != WON);
        s_end()
    :: frame == bye && !s_asked ->
        s_send(bye_ack);
        s_end()
    :: frame == bye && s_asked ->
        /* It may have been decided that this side goes on */
        skip
#ifdef BUG_BACK_AFTER_ASK
    :: frame != takeover && frame != bye ->
#else
    :: frame != takeover && frame != bye && s_asked -> skip
    :: frame != takeover && frame != bye && !s_asked ->
#endif
        s_heard = 0;
        if
        :: s_state == S_LOST ->
            s_set(s_place);
            s_place = S_NONE
        :: else
        fi;
        if
        :: s_state == S_ENDING ->
            if
            :: frame == bye_ack -> s_end()
            :: else
            fi
        :: s_state != S_ENDING && frame == start ->
            must(unexpected, s_state == S_STARTING && !s_started);
            s_started = 1;
            s_be_ready()
        :: s_state != S_ENDING && frame == request ->
            must(unexpected, s_state == S_READY);
            s_send(reply);
            s_set(S_REPLIED)
        :: s_state != S_ENDING && frame == pages ->
            must(unexpected, s_state == S_REPLIED);
            s_parts = 1;
            s_set(S_RECEIVING)
        :: s_state != S_ENDING && frame == tail ->
            must(unexpected, s_state == S_RECEIVING);
            s_parts = (s_parts == 1 -> 2 : s_parts);
            s_committed = s_epoch + 1;
            s_set(S_COMMITTED)
        :: s_state != S_ENDING && frame == ping ->
            must(unexpected, s_started);
            s_send(pong)
        :: s_state != S_ENDING && frame == handover ->
            must(unexpected, s_state == S_READY && s_asks);
            s_goes = 1
        :: else ->
            must(unexpected, false)
        fi
    fi
}

inline s_lose()
{
    must(healthy, faults < FAULTS || p_gone);
    if
#ifdef BUG_LIVE_UNSTARTED
    :: s_state == S_ENDING ->
#elif defined(BUG_BYE_LIVE)
    :: !s_started ->
#else
    :: !s_started || s_state == S_ENDING ->
#endif
        /* The primary goes on unasked: it has not said start, or heard bye */
        s_end()
    :: else ->
        s_place = s_state;
        s_set(S_LOST);
#ifdef BUG_LOST_RUNS
        s_wrote = 1
#endif
    fi
}

active proctype secondary()
{
end:
    do
    :: d_step { runs[S] && sc_begin ->
        s_set(S_STARTING);
        s_send(ready)
    }
    :: d_step { runs[S] && sc_read ->
        to_s?m;
        arrived[P] = (arrived[P] -> arrived[P] - 1 : 0);
        printf("S reads %d\n", m);
        s_take(m);
        m = 0
    }
    :: d_step { runs[S] && sc_commit ->
        if
        :: s_parts == ACKED
        :: else -> s_send(received)
        fi;
        s_half = 1;
        s_set(S_LOADING)
    }
    :: d_step { runs[S] && sc_load ->
        must(half, s_parts >= 2);
        must(behind, !s_wrote);
        s_half = 0;
        s_parts = 0;
        s_epoch = s_committed;
        s_be_ready();
        s_send(loaded)
    }
    :: d_step { runs[S] && sc_request ->
        s_word = 0;
        s_asks = 1;
        s_send(handover_request)
    }
    :: d_step { runs[S] && sc_quit ->
        s_quits = 0;
        s_left = 1;
        parted = 1;
        s_send(bye);
        s_set(S_ENDING)
    }
    :: d_step { runs[S] && sc_lost -> s_lose() }
#ifdef ARBITER
    :: atomic { runs[S] && sc_ask ->
        s_asked = 1;
        spoke = 1;
        if
        :: reachable && arbiter == NOBODY -> arbiter = S
        :: else
        fi;
        if
        :: reachable -> s_verdict = (arbiter == S -> WON : LOST)
        :: reachable && faults && !calm -> faults--
        :: !reachable -> belated[S] = 1
        fi
    }
#endif
    :: d_step { runs[S] && sc_go_on -> s_go_on() }
#ifdef ARBITER
    :: d_step { runs[S] && sc_give_up -> s_end() }
#endif
#ifdef BUG_ACK_EARLY
    :: d_step { runs[S] && sc_early ->
        s_parts = ACKED;
        s_send(received)
    }
#endif
#ifdef BUG_HEARD_WHEN_READ
    :: d_step { runs[S] && sc_alive ->
        s_alive = 0;
        s_send(alive)
    }
#endif
#ifdef HYBRID
    :: d_step { runs[S] && sc_speak ->
        s_spoke = 1;
        s_said = (cut[S] || p_gone -> 0 : s_epoch + 1)
    }
#endif
    od
}
