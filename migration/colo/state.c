/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: which state may follow which.
 *
 * Both sides, any thread: constant data.
 */

#include "qemu/osdep.h"
#include "state.h"

#define P(x) (1u << COLO_PRIMARY_STATE_##x)

/* A side can lose its peer, end, or be told to go on alone, at every step */
#define P_OUT (P(LOST) | P(ENDING) | P(ALONE) | P(ENDED))

static const unsigned primary_next[] = {
    [COLO_PRIMARY_STATE_NONE]       = P(STARTING),
    [COLO_PRIMARY_STATE_STARTING]   = P(RUNNING) | P_OUT,
    [COLO_PRIMARY_STATE_RUNNING]    = P(REQUESTING) | P_OUT,
    [COLO_PRIMARY_STATE_REQUESTING] = P(CUTTING) | P_OUT,
    [COLO_PRIMARY_STATE_CUTTING]    = P(SENDING) | P_OUT,
    [COLO_PRIMARY_STATE_SENDING]    = P(COMMITTING) | P_OUT,
    [COLO_PRIMARY_STATE_COMMITTING] = P(LOADING) | P_OUT,
    [COLO_PRIMARY_STATE_LOADING]    = P(RUNNING) | P_OUT,
    /* Silence ends in the state that it began in */
    [COLO_PRIMARY_STATE_LOST]       = P(RUNNING) | P(REQUESTING) | P(CUTTING) |
                                      P(SENDING) | P(COMMITTING) | P(LOADING) |
                                      P(ALONE) | P(ENDED) | P(ENDING),
    [COLO_PRIMARY_STATE_ENDING]     = P(LOST) | P(ALONE) | P(ENDED),
    [COLO_PRIMARY_STATE_ALONE]      = 0,
    [COLO_PRIMARY_STATE_ENDED]      = 0,
};

QEMU_BUILD_BUG_ON(ARRAY_SIZE(primary_next) != COLO_PRIMARY_STATE__MAX);

#define S(x) (1u << COLO_SECONDARY_STATE_##x)
#define S_OUT (S(LOST) | S(ENDING) | S(LIVE) | S(ENDED))

static const unsigned secondary_next[] = {
    [COLO_SECONDARY_STATE_NONE]      = S(STARTING),
    [COLO_SECONDARY_STATE_STARTING]  = S(STANDING) | S(RUNNING) | S_OUT,
    [COLO_SECONDARY_STATE_STANDING]  = S(REPLIED) | S_OUT,
    [COLO_SECONDARY_STATE_RUNNING]   = S(REPLIED) | S_OUT,
    [COLO_SECONDARY_STATE_REPLIED]   = S(RECEIVING) | S_OUT,
    [COLO_SECONDARY_STATE_RECEIVING] = S(COMMITTED) | S_OUT,
    /* From here on the load comes first, whatever happens */
    [COLO_SECONDARY_STATE_COMMITTED] = S(LOADING),
    [COLO_SECONDARY_STATE_LOADING]   = S(STANDING) | S(RUNNING) | S_OUT,
    [COLO_SECONDARY_STATE_LOST]      = S(STANDING) | S(RUNNING) | S(REPLIED) |
                                       S(RECEIVING) | S(LIVE) | S(ENDED) |
                                       S(ENDING),
    [COLO_SECONDARY_STATE_ENDING]    = S(LOST) | S(LIVE) | S(ENDED),
    [COLO_SECONDARY_STATE_LIVE]      = 0,
    [COLO_SECONDARY_STATE_ENDED]     = 0,
};

QEMU_BUILD_BUG_ON(ARRAY_SIZE(secondary_next) != COLO_SECONDARY_STATE__MAX);

bool colo_primary_transition_ok(ColoPrimaryState from, ColoPrimaryState to)
{
    return primary_next[from] & (1u << to);
}

bool colo_secondary_transition_ok(ColoSecondaryState from,
                                  ColoSecondaryState to)
{
    return secondary_next[from] & (1u << to);
}
