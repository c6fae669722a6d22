/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO wire protocol: what somebody who listens elsewhere says about the peer.
 *
 * Both sides.  The heartbeat's thread says it, the wire's owner looks.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "wire-word.h"

void colo_word_init(ColoWireWord *w)
{
    qemu_mutex_init(&w->lock);
}

void colo_word_destroy(ColoWireWord *w)
{
    qemu_mutex_destroy(&w->lock);
    g_free(w->why);
}

void colo_word_set(ColoWireWord *w, ColoWord word, const char *why,
                   uint32_t after_ms)
{
    QEMU_LOCK_GUARD(&w->lock);
    g_free(w->why);
    w->why = g_strdup(why);
    qatomic_set(&w->after_ms, after_ms);
    qatomic_set_mb(&w->word, word);
}

char *colo_word_why(ColoWireWord *w)
{
    QEMU_LOCK_GUARD(&w->lock);
    return g_strdup(w->why);
}

int64_t colo_word_end(ColoWireWord *w, int64_t heard_ns)
{
    switch (colo_word(w)) {
    case COLO_WORD_SILENT:
        return heard_ns + qatomic_read(&w->after_ms) * (int64_t)SCALE_MS;
    case COLO_WORD_STALLED:
        return 0;
    case COLO_WORD_NONE:
    default:
        return INT64_MAX;
    }
}
