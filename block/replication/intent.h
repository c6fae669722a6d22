/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: an intent log, both sides.  See intent.c for how it works.
 *
 * @intent is a node of the driver replication-intent.
 */

#ifndef BLOCK_REPLICATION_INTENT_H
#define BLOCK_REPLICATION_INTENT_H

#include "internal.h"

/* The node above @bs that keeps an intent log, or NULL.  Any thread. */
BlockDriverState *GRAPH_RDLOCK replication_intent_above(BlockDriverState *bs);

/*
 * What becomes of the disk of @s: nothing is done if it has no intent log.  BQL,
 * no coroutine; they wait for the file.  If that cannot be written the log is
 * given up, which is no error of the disk.
 */

/* It is about to be of generation @number, if it keeps any */
void replication_intent_record(BDRVReplicationState *s, uint64_t number);

/*
 * Secondary: a session begins; what replication_intent_name() has said last is
 * recorded
 */
void replication_intent_start(BDRVReplicationState *s);

/*
 * Secondary: the guest goes on here, so what its overlays have will be another
 * thing than the other side has
 */
void replication_intent_go_alone(BDRVReplicationState *s);

/*
 * Secondary: the guest's disk has another length, which the nodes above @s know.
 * Does not wait for the file.
 */
void GRAPH_RDLOCK replication_intent_length(BDRVReplicationState *s);

/* The point in common.  Any thread. */

/* What the log of this side says, or that there is none that can be used */
typedef struct ReplicationIntentInfo {
    uint64_t common;            /* as in the head; 0: no log to be used */
    uint64_t common_next;
    uint64_t region;            /* bytes */
    uint64_t number;            /* of the generations that it belongs to */
    uint64_t number_before;
    char *why;                  /* why it cannot be used, or NULL; to be freed */
} ReplicationIntentInfo;

void replication_intent_info(BlockDriverState *intent,
                             ReplicationIntentInfo *info);

/*
 * Primary: a resync is about to be complete, and the other side will be told
 * @next as the name of this point.  @now: the name that the other side has as
 * yet and that is one of ours, or 0.  @number: the generation of this side's
 * disk.  Waits for the file in a coroutine; negative errno: there is no log to
 * be used.
 */
int coroutine_fn replication_intent_plan(BlockDriverState *intent,
                                         uint64_t now, uint64_t next,
                                         uint64_t number);

/* Secondary: the primary has said @common; the session begins later */
void replication_intent_name(BlockDriverState *intent, uint64_t common);

/* Set in @bitmap what the log has: bytes of the disk */
void replication_intent_merge(BlockDriverState *intent,
                              BdrvDirtyBitmap *bitmap);

/* How many bytes of the disk have a bit set, in whole regions */
uint64_t replication_intent_bytes(BlockDriverState *intent);

/*
 * What the other side reads of it: all that is behind the first 64 bytes of the
 * window of a sink.  Numbers are big-endian.
 */
#define REPLICATION_INTENT_AT 4096
#define REPLICATION_INTENT_HEAD 48
#define REPLICATION_INTENT_BITS_AT 8192
#define REPLICATION_INTENT_BITS_MAX (2 * MiB)

typedef struct ReplicationIntentWindow {
    uint64_t marked;            /* see REPLICATION_ENTRY_MARK */
    uint64_t common;            /* as in the head */
    uint64_t common_next;
    uint64_t region;            /* bytes; of the bits there */
    uint64_t bytes;             /* of bits, the first is 1 of byte 0 */
} ReplicationIntentWindow;

void replication_intent_unpack(ReplicationIntentWindow *w, const uint8_t *buf);

/* @intent may be NULL; @buf gets @bytes from @at on, in the window */
void replication_intent_window(BlockDriverState *intent, uint64_t marked,
                               int64_t at, int64_t bytes, uint8_t *buf);

#endif
