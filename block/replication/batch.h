/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: batches, what goes from the primary to a replication-sink.
 *
 * A disk is written to by requests of NBD, each of which costs both hosts
 * several system calls and wakes threads up.  A guest that makes each of its
 * writes durable makes two of them for each write.  So there is a way to send
 * many records of the log at once, in their order, with flushes among them:
 * the secondary exports, in place of the disk, a node that is longer than the
 * disk by REPLICATION_WINDOW bytes.  What is read from this window says what
 * the node is (ReplicationSinkInfo) and what its intent log has (intent.h), and
 * one write to its beginning is a batch:
 *
 *   header, entries, padding, what the entries write in the same order, padding
 *
 * The window stays where it was when the sink was made, as a client of NBD never
 * hears of another length: a disk that has become longer goes on where it is in
 * batches, which can write there.
 *
 * What it has got since is read by way of the window as well: REPLICATION_VIEW_AT
 * bytes into it a client says which bytes it wants, and reads there which these
 * are, and then the bytes: ReplicationView.  Another client may have asked for
 * others in between, so it looks.
 *
 * REPLICATION_GROW_AT bytes into the window is where the secondary is asked to
 * make the disk longer, and says what has become of that: ReplicationGrow, see
 * grow.c.
 *
 * The data is aligned, so that it can be written past the host's page cache
 * from where NBD has put it.  All numbers are big-endian.  Here is how to make
 * these and how to check them; any thread.
 */

#ifndef BLOCK_REPLICATION_BATCH_H
#define BLOCK_REPLICATION_BATCH_H

#include "qapi/qapi-types-colo.h"
#include "qemu/units.h"

/* Bytes behind the end that the disk had when the sink was made */
#define REPLICATION_WINDOW (4 * MiB)

/* Bytes from the beginning of the window, behind the longest batch */
#define REPLICATION_GROW_AT (3 * MiB)
#define REPLICATION_VIEW_AT (REPLICATION_GROW_AT + 64 * KiB)

/* Entries of a batch, at most */
#define REPLICATION_BATCH_ENTRIES 256

/* What they write, in all, at most, but for a write that is alone */
#define REPLICATION_BATCH_DATA (2 * MiB)

/* What is enough not to wait for more */
#define REPLICATION_BATCH_FULL MiB

/* On the wire */
#define REPLICATION_SINK_INFO_SIZE 64
#define REPLICATION_GROW_SIZE 4096
#define REPLICATION_VIEW_SIZE 4096      /* of both, with the data */
#define REPLICATION_VIEW_HEAD 512
#define REPLICATION_VIEW_DATA (REPLICATION_VIEW_SIZE - REPLICATION_VIEW_HEAD)
#define REPLICATION_BATCH_HEAD_SIZE 32
#define REPLICATION_BATCH_ENTRY_SIZE 24
#define REPLICATION_BATCH_ALIGN 4096

/* The numbers are those on the wire */
typedef enum ReplicationEntryType {
    REPLICATION_ENTRY_WRITE = 1,
    REPLICATION_ENTRY_ZERO,
    REPLICATION_ENTRY_ZERO_UNMAP,
    REPLICATION_ENTRY_DISCARD,
    REPLICATION_ENTRY_FLUSH,    /* offset and bytes are 0 */
    /*
     * A resync begins, has completed: offset is the number of the primary's
     * generation, bytes its role from 1.  Both are 0 if it keeps none.
     */
    REPLICATION_ENTRY_RESYNC_BEGIN,
    REPLICATION_ENTRY_RESYNC_END,
    /*
     * The guest's disk is longer from here on: offset is its length, in bytes,
     * for which the other side has made room before.  bytes is 0.
     */
    REPLICATION_ENTRY_GROW,
    /*
     * From here on the disks are equal, but for what follows: offset is the name
     * of this point, from 1, bytes is 0.  See intent.c.
     */
    REPLICATION_ENTRY_COMMON,
    /*
     * When all before it is on the disk for good the window has the number that
     * is its offset; bytes is 0
     */
    REPLICATION_ENTRY_MARK,
} ReplicationEntryType;

/* Bytes of the disk, from 1, and all are there; or as the type says */
typedef struct ReplicationEntry {
    ReplicationEntryType type;
    int64_t offset;
    int64_t bytes;
} ReplicationEntry;

/*
 * Who sends, and which one of its batches this is, from 1.  They are sent
 * several at a time, and applied in the order of their numbers.
 */
typedef struct ReplicationBatch {
    uint64_t session;           /* random */
    uint64_t number;
    unsigned n_entries;
    ReplicationEntry entries[REPLICATION_BATCH_ENTRIES];
} ReplicationBatch;

/* What is in the window */
typedef struct ReplicationSinkInfo {
    int64_t window;             /* where that begins, bytes */
    int64_t length;             /* of the disk, bytes; not less */
    bool has_generation;        /* it keeps one, which is: */
    ColoDiskGeneration generation;
} ReplicationSinkInfo;

void replication_sink_info_pack(uint8_t *buf, const ReplicationSinkInfo *info);

/*
 * Is @buf from a window of a sink that begins there?  Then @info is what it
 * says; if not, @errp says what it is.
 */
bool replication_sink_info_unpack(ReplicationSinkInfo *info,
                                  const uint8_t *buf, int64_t window,
                                  Error **errp);

/* The numbers are those on the wire */
typedef enum ReplicationGrowState {
    REPLICATION_GROW_NONE,      /* nobody has asked */
    REPLICATION_GROW_ASKED,     /* what the primary writes, or: under way */
    REPLICATION_GROW_DONE,
    REPLICATION_GROW_FAILED,
    REPLICATION_GROW_LATER,     /* not before the next checkpoint: ask again */
} ReplicationGrowState;

/* The disk is to have @length bytes: a question, and the answer to it */
typedef struct ReplicationGrow {
    ReplicationGrowState state;
    uint64_t number;            /* which question that is, not 0 */
    int64_t length;
    char reason[512];           /* why it failed, a string */
} ReplicationGrow;

/* @buf: REPLICATION_GROW_SIZE bytes.  False if they are no such thing. */
void replication_grow_pack(uint8_t *buf, const ReplicationGrow *grow);
bool replication_grow_unpack(ReplicationGrow *grow, const uint8_t *buf);

/* Bytes of the disk that are looked at, or none: up to REPLICATION_VIEW_DATA */
typedef struct ReplicationView {
    int64_t offset;
    int64_t bytes;
} ReplicationView;

/* @buf: REPLICATION_VIEW_HEAD bytes.  False if they are no such thing. */
void replication_view_pack(uint8_t *buf, const ReplicationView *view);
bool replication_view_unpack(ReplicationView *view, const uint8_t *buf);

/*
 * The generation in an entry for a resync, and the other way round.  @g is NULL,
 * and false is returned, if the primary keeps none.
 */
void replication_entry_set_generation(ReplicationEntry *entry,
                                      const ColoDiskGeneration *g);
bool replication_entry_generation(const ReplicationEntry *entry,
                                  ColoDiskGeneration *g);

/* Where the data begins, in bytes: behind header, entries and padding */
size_t replication_batch_size(unsigned n_entries);

/* How many bytes the entries write, in all */
int64_t replication_batch_data(const ReplicationBatch *batch);

/* @buf: replication_batch_size() bytes */
void replication_batch_pack(const ReplicationBatch *batch, uint8_t *buf);

/*
 * Take a request of @bytes for a disk of @length bytes.  @buf has the beginning
 * of it, @size bytes: as much as a batch has without data, if it is that long.
 * False if anything is wrong with it.  What it writes begins at
 * replication_batch_size() and is there.
 */
bool replication_batch_unpack(ReplicationBatch *batch, const uint8_t *buf,
                              size_t size, size_t bytes, int64_t length);

#endif
