/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: what the files of the intent log share, intent.c and
 * intent-clear.c.
 */

#ifndef BLOCK_REPLICATION_INTENT_INT_H
#define BLOCK_REPLICATION_INTENT_INT_H

#include "qemu/coroutine.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "intent.h"
#include "intent-file.h"
#include "peer-read.h"

/*
 * What becomes of writes of the guest:
 *
 *             entered by               they
 *  FOLLOWS    open, on a secondary     go into overlays: nothing is noted
 *  TRACKS     open, a failover         wait until their bits are in the file
 *  OFF        the file cannot be       are not noted, and the file cannot be
 *             written, another length  loaded any more
 *  FAILED     nor be spoiled           fail, as it would be loaded
 *
 * The last two are final.
 */
typedef enum IntentStage {
    INTENT_FOLLOWS,
    INTENT_TRACKS,
    INTENT_OFF,
    INTENT_FAILED,
} IntentStage;

/* See intent-clear.c */
typedef enum ClearStage {
    CLEAR_IDLE,
    CLEAR_FLUSHES,
    CLEAR_ASKS,
    CLEAR_READS,
    CLEAR_COMMITS,
} ClearStage;

typedef struct Intent {
    /* Set once */
    BlockDriverState *bs;
    int fd;
    uint64_t region;            /* bytes */
    int64_t interval_ms;

    QemuMutex head_lock;        /* taken before the other one */
    ReplicationIntentHead head; /* head_lock */
    uint64_t named;             /* head_lock: by the primary, not stored yet */

    QemuMutex lock;
    /* All below: lock */
    IntentStage stage;
    int64_t length;             /* of the disk, bytes; never less */
    uint64_t n_regions;
    uint64_t n_words;
    uint64_t n_sectors;
    char *why;                  /* the log cannot be used for a resync, or NULL */
    uint64_t *want;             /* what the file is to have */
    uint64_t *stable;           /* what it has for good; part of want */
    uint64_t *kept;             /* discarded: not to be cleared */
    uint64_t *hot[2];           /* written to in this window and the last one */
    unsigned now;               /* which one is this */
    uint64_t in_flight[2];      /* writes that began in them */
    unsigned long *dirty;       /* sectors that the file has not as in want */
    bool spoil;                 /* the file has to be spoiled first */
    bool make;                  /* or made anew, for another length */
    bool writing;               /* somebody writes to the file */
    CoQueue written;            /* who waits for that */

    /* intent-clear.c; BQL, but for what is atomic */
    QEMUTimer *timer;
    ClearStage clear;
    int64_t due_ms;             /* when the next round begins */
    BDRVReplicationState *of;   /* the session's node; only to be compared */
    uint64_t *candidates;
    uint64_t mark;              /* of this round */
    ReplicationPeerRead *read;
    bool busy;                  /* a coroutine works for it; atomic */
    int ret;                    /* of that */
} Intent;

/* Write what is dirty; the lock is held, and dropped meanwhile */
void coroutine_fn intent_write_locked(Intent *s);

/* The same until nothing is dirty, whoever else does so; takes the lock */
void coroutine_fn intent_write_all(Intent *s);

/* The same while nobody else does, until nothing is dirty.  BQL. */
void intent_write_sync(Intent *s);

/* The file is made anew, with what is wanted; nobody writes to it.  BQL. */
void intent_make(Intent *s);

/*
 * The disk has @length bytes, and nothing is under way beyond.  If it is longer
 * the log has the new part, of which it says that all of it may differ; if it is
 * shorter the log is given up.  The file learns of it with the next write.  Any
 * thread.
 */
void intent_set_length(Intent *s, int64_t length);

/* Region @n may differ; the lock is held */
void intent_want_locked(Intent *s, uint64_t n);

/*
 * A write begins: wait until it may.  Negative errno if it never may.  @discards:
 * nobody knows what is there afterwards.  *@window is for intent_end().
 */
int coroutine_fn intent_begin(Intent *s, int64_t offset, int64_t bytes,
                              bool discards, int *window);
void intent_end(Intent *s, int window);

/* The state of a node of this driver */
Intent *intent_of(BlockDriverState *bs);

/* Is there anything to write? */
bool intent_is_dirty_locked(Intent *s);

/* @words are no longer wanted; some of them may have been written to again */
void intent_clear_locked(Intent *s, const uint64_t *words);

void intent_clear_init(Intent *s);
void intent_clear_end(Intent *s);

#endif
