/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO wire protocol: what somebody who listens elsewhere says about the peer.
 * For wire.c only.
 */

#ifndef QEMU_MIGRATION_COLO_WIRE_WORD_H
#define QEMU_MIGRATION_COLO_WIRE_WORD_H

#include "qemu/atomic.h"
#include "qemu/thread.h"

typedef enum ColoWord {
    COLO_WORD_NONE,
    COLO_WORD_SILENT,
    COLO_WORD_STALLED,
} ColoWord;

typedef struct ColoWireWord {
    QemuMutex lock;
    char *why;              /* lock */

    /* Atomic; lock for writing */
    ColoWord word;
    uint32_t after_ms;      /* with COLO_WORD_SILENT */
} ColoWireWord;

void colo_word_init(ColoWireWord *w);
void colo_word_destroy(ColoWireWord *w);

/* Any thread.  @why: in words, or NULL with COLO_WORD_NONE */
void colo_word_set(ColoWireWord *w, ColoWord word, const char *why,
                   uint32_t after_ms);

/* Any thread */
static inline ColoWord colo_word(ColoWireWord *w)
{
    return qatomic_read(&w->word);
}

/* NULL if nothing is said any more.  The caller frees it.  Any thread. */
char *colo_word_why(ColoWireWord *w);

/*
 * When the peer is lost of which bytes came last at @heard_ns; INT64_MAX: it is
 * not.  Any thread.
 */
int64_t colo_word_end(ColoWireWord *w, int64_t heard_ns);

#endif
