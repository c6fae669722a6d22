/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the model of what is around the two sides: time, faults, the operator.
 */

#define quiet (!(p_busy) && !(s_busy))

#define strikes (faults && !calm)

/*
 * What a side says has an end: its process has, or has closed the connection and
 * knows it.  A link that is cut has none, it is silent.
 */
#ifdef BUG_EOF_DECIDES
#define ended(side) (cut[side])
#else
#define ended(side) (cut[side] && (dead[side] || (side == P -> p_over : s_over)))
#endif

/*
 * Without an arbiter the operator does not tell one side to go on after he has
 * told the other, unless that one died before it did, or both can talk: then he
 * may take it for dead, as its 'takeover' is there when this side looks.
 */
#ifdef ARBITER
#define may_tell_p (p_state >= P_RUNNING && p_state <= P_LOADING)
#define may_tell_s (s_state >= S_STANDING && s_state <= S_LOADING)
#elif defined(BUG_TWO_WORDS)
#define may_tell_p (p_state >= P_RUNNING && p_state <= P_LOST)
#define may_tell_s (s_state >= S_STANDING && s_state <= S_LOST)
#else
#define may_tell_p (p_state >= P_RUNNING && p_state <= P_LOST && \
                    (s_state == S_LIVE && !cut[S] && !slow[S] && !dead[S] || \
                     s_state != S_LIVE && \
                     (dead[S] || !s_word && !s_asks)))
#define may_tell_s (s_state >= S_STANDING && s_state <= S_LOST && \
                    (p_state == P_ALONE && !cut[P] && !slow[P] && !dead[P] || \
                     p_state != P_ALONE && \
                     (dead[P] || !p_word && !p_told)))
#endif

/* In calm he waits whether they find each other again, then he sees to it */
#ifdef ARBITER
#define has_to_tell_p false
#define has_to_tell_s false
#else
#define has_to_tell_p (calm > PATIENCE && p_state == P_LOST && !dead[P] && \
                       !p_word && may_tell_p && s_state != S_LIVE)
#define has_to_tell_s (calm > PATIENCE && s_state == S_LOST && !dead[S] && \
                       !s_word && !s_asks && may_tell_s && p_state != P_ALONE)
#endif

#ifdef WHOLE_GATE
#define may_stop_p (!p_checked)
#else
#define may_stop_p true
#endif

#ifdef BUG_CLOCK_STOPS
#define p_ages (!p_gone && runs[P])
#else
#define p_ages (!p_gone)
#endif

#ifdef BUG_HEARD_WHEN_READ
#define s_talks true
#else
#define s_talks false
#endif

#define older(age, most) age = (age < most -> age + 1 : age)

inline p_tick()
{
    if
    :: p_ages ->
        older(p_heard, TAKE);
        older(p_lease, TAKE);
        p_age = (p_pinged && p_age < TAKE -> p_age + 1 : p_age)
    :: else
    fi
}

inline s_tick()
{
    if
    :: s_gone -> skip
    :: else ->
        older(s_heard, TAKE);
        s_alive = s_talks
    fi
}

/* What has arrived can still be read, what is under way is lost */
inline keep_arrived(channel, from)
{
    was = len(channel);
    do
    :: was > 0 ->
        was--;
        channel?m;
        if
        :: arrived[from] > 0 ->
            arrived[from]--;
            channel!m
        :: else
        fi
    :: else -> break
    od;
    m = 0
}

inline sever(from)
{
    cut[from] = 1;
    parted = 1;
    if
    :: from == P && slow[P] -> keep_arrived(to_s, P)
    :: from == S && slow[S] -> keep_arrived(to_p, S); s_said = 0
    :: else
    fi;
    slow[from] = 0
}

#define a_pair (!dead[P] && !dead[S] && !cut[P] && !cut[S] && \
                p_state >= P_RUNNING && p_state <= P_LOADING && \
                s_state >= S_STANDING && s_state <= S_LOADING)
/* Somebody goes on, or was to and died since */
#define decided (p_state == P_ALONE || s_state == S_LIVE || \
                 arbiter == P && dead[P] && p_state == P_LOST || \
                 arbiter == S && dead[S] && (s_state == S_LOST || s_goes) || \
                 p_told && dead[P])
/* There was no pair yet, or the user had ended it, when a host died */
#define unpaired (!s_started || s_state == S_ENDED && s_left)

inline judge()
{
    must(stuck, a_pair || decided || dead[P] && dead[S] ||
         dead[P] && unpaired || dead[S] && !p_started);
#ifdef ARBITER
    must(unended, a_pair || p_gone && s_gone);
#else
    must(unended, a_pair || p_gone && s_gone || cut[P] || cut[S]);
#endif
    must(unloaded, dead[S] || s_epoch == s_committed)
}

active proctype world()
{
    d_step {
        runs[P] = 1;
        runs[S] = 1;
        reachable = 1;
        p_set(P_STARTING)
    }
    do
    /* Time */
    :: d_step { quiet && calm <= CALM && !has_to_tell_p && !has_to_tell_s ->
        printf("tick\n");
        p_tick();
        s_tick();
        calm = (calm -> calm + 1 : 0);
        if
        :: calm == PATIENCE ->
            must(protection, parted || spoke || !s_started || a_pair)
        :: else
        fi;
        if
        :: calm == CALM + 1 -> judge()
        :: else
        fi
    }
    :: d_step { quiet && !calm && skew < SKEW ->
        printf("tick of S\n");
        skew++;
        s_tick()
    }
    :: d_step { quiet && !calm && skew > 0 ->
        printf("tick of P\n");
        skew--;
        p_tick()
    }
    :: d_step { quiet && !calm && p_state == P_RUNNING && !p_due &&
                p_epoch < CUTS && !dead[P] ->
        p_due = 1
    }

    /* Faults */
    :: d_step { strikes && !dead[P] ->
        printf("P dies\n");
        faults--;
        dead[P] = 1;
        runs[P] = 0;
        p_checked = 0;
        sever(P);
        sever(S);
        p_forget()
    }
    :: d_step { strikes && !dead[S] ->
        printf("S dies\n");
        faults--;
        dead[S] = 1;
        runs[S] = 0;
        sever(P);
        sever(S);
        s_forget()
    }
    :: d_step { strikes && !(cut[P] && cut[S]) ->
        printf("the link is cut\n");
        faults--;
        sever(P);
        sever(S)
    }
    :: d_step { strikes && !cut[P] ->
        printf("the link is cut from P to S\n");
        faults--;
        sever(P)
    }
    :: d_step { strikes && !cut[S] ->
        printf("the link is cut from S to P\n");
        faults--;
        sever(S)
    }
    :: d_step { strikes && !slow[P] && !cut[P] && !slow[S] && !cut[S] ->
        printf("the link is slow\n");
        faults--;
        slow[P] = 1;
        slow[S] = 1;
        arrived[P] = len(to_s);
        arrived[S] = len(to_p)
    }
    :: d_step { strikes && !slow[P] && !cut[P] ->
        printf("the link is slow from P to S\n");
        faults--;
        slow[P] = 1;
        arrived[P] = len(to_s)
    }
    :: d_step { strikes && !slow[S] && !cut[S] ->
        printf("the link is slow from S to P\n");
        faults--;
        slow[S] = 1;
        arrived[S] = len(to_p)
    }
    :: d_step { strikes && runs[P] && may_stop_p ->
        printf("P is stopped\n");
        faults--;
        runs[P] = 0
    }
    :: d_step { strikes && runs[S] ->
        printf("S is stopped\n");
        faults--;
        runs[S] = 0
    }
#ifdef ARBITER
    :: d_step { strikes && reachable ->
        printf("the arbiter is out of reach\n");
        faults--;
        reachable = 0
    }
#endif
    :: d_step { strikes && !s_quits && s_state >= S_STARTING &&
                s_state <= S_RECEIVING && !dead[S] ->
        faults--;
        s_quits = 1
    }

    /* What ends by itself, or is noticed */
    :: d_step { slow[P] ->
        printf("P to S arrives\n");
        slow[P] = 0;
        arrived[P] = 0
    }
    :: d_step { slow[S] ->
        printf("S to P arrives\n");
        slow[S] = 0;
        arrived[S] = 0
    }
    :: d_step { !runs[P] && !dead[P] ->
        printf("P goes on\n");
        runs[P] = 1
    }
    :: d_step { !runs[S] && !dead[S] ->
        printf("S goes on\n");
        runs[S] = 1
    }
    :: d_step { belated[P] ->
        belated[P] = 0;
        arbiter = (arbiter == NOBODY -> P : arbiter)
    }
    :: d_step { belated[S] ->
        belated[S] = 0;
        arbiter = (arbiter == NOBODY -> S : arbiter)
    }
    :: d_step { !reachable -> reachable = 1 }
    :: d_step { ended(S) && !eof[P] && !p_gone && len(to_p) == 0 -> eof[P] = 1 }
    :: d_step { ended(P) && !eof[S] && !s_gone && len(to_s) == 0 -> eof[S] = 1 }
#ifdef BUG_LEASE_EXPIRES
    :: d_step { quiet && arbiter != NOBODY -> arbiter = NOBODY }
#endif

    /* The operator */
    :: d_step { words && !calm && may_tell_p && !p_word && !dead[P] ->
        printf("P is told to go on\n");
        words--;
        spoke = 1;
        p_word = 1
    }
    :: d_step { words && !calm && may_tell_s && !s_word && !s_asks &&
                !dead[S] ->
        printf("S is told to go on\n");
        words--;
        spoke = 1;
        s_word = 1
    }
#ifndef ARBITER
    :: d_step { quiet && has_to_tell_p ->
        printf("P is told to go on\n");
        spoke = 1;
        p_word = 1
    }
    :: d_step { quiet && has_to_tell_s ->
        printf("S is told to go on\n");
        spoke = 1;
        s_word = 1
    }
#endif
    :: d_step { quiet && !calm ->
        printf("it is calm\n");
        calm = 1;
        faults = 0;
        words = 0;
        slow[P] = 0;
        slow[S] = 0;
        arrived[P] = 0;
        arrived[S] = 0;
        runs[P] = !dead[P];
        runs[S] = !dead[S];
        reachable = 1;
        skew = 0
    }
    :: calm > CALM -> break
    od
}
