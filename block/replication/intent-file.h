/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the file of an intent log, both sides.
 *
 * It has a bit for each region of the disk: set if the image may differ there
 * from that of the other side.  See intent.c for what that is good for.
 *
 *   two heads, 4 KiB each; the one with the higher count is valid
 *   sectors of 512 bytes: REPLICATION_INTENT_WORDS * 64 bits, and what tells
 *   that the sector is one of this log
 *
 * A disk writes a sector of 512 bytes as a whole or not at all, so after a
 * crash each is as it was or as it was to be, and either is right: a write of
 * the guest waits for its bits, and bits that are cleared need not be.
 *
 * All wait for the disk; any thread, one at a time for a file.
 */

#ifndef BLOCK_REPLICATION_INTENT_FILE_H
#define BLOCK_REPLICATION_INTENT_FILE_H

/* Of 64 bits, in a sector */
#define REPLICATION_INTENT_WORDS 61

/* Bytes of a disk that a bit may stand for: powers of 2 */
#define REPLICATION_INTENT_REGION_MIN (64 * KiB)
#define REPLICATION_INTENT_REGION_MAX (64 * MiB)

/* Says which image it is: see replication_intent_image() */
#define REPLICATION_INTENT_IMAGE 16

typedef struct ReplicationIntentHead {
    uint64_t count;             /* of heads that were written */
    uint64_t instance;          /* of the sectors; random */
    int64_t length;             /* of the disk, bytes */
    uint64_t region;            /* bytes */
    uint8_t image[REPLICATION_INTENT_IMAGE];
    /*
     * The generations of the disk that it belongs to: a crash may have come
     * before the file of the generation had the first one
     */
    uint64_t number;
    uint64_t number_before;
    /*
     * Names of the point since when the bits are set, 0 for none.  At the
     * first one the other side is sure to be, or was; at the second it is if
     * it says so.
     */
    uint64_t common;
    uint64_t common_next;
} ReplicationIntentHead;

/* How many words of 64 bits, and how many sectors, a disk has */
uint64_t replication_intent_words(int64_t length, uint64_t region);
uint64_t replication_intent_sectors(int64_t length, uint64_t region);

static inline bool replication_intent_test(const uint64_t *words, uint64_t n)
{
    return words[n / 64] & (1ULL << (n % 64));
}

static inline void replication_intent_set(uint64_t *words, uint64_t n)
{
    words[n / 64] |= 1ULL << (n % 64);
}

/*
 * Read all: @head and, of whole sectors, *@words, which the caller frees.  False
 * with @errp set if there is no log that was written to the end, or anything is
 * wrong with it.
 */
bool replication_intent_load(int fd, ReplicationIntentHead *head,
                             uint64_t **words, Error **errp);

/*
 * Make a new log of what there is, with @words; @head gets an instance and a
 * count.  When it returns 0 that is there for good, whatever was; before, and
 * after a negative errno, nothing is that can be loaded, or the log from
 * before.
 */
int replication_intent_make(int fd, ReplicationIntentHead *head,
                            const uint64_t *words);

/* A new head, for good; 0 or negative errno */
int replication_intent_store_head(int fd, ReplicationIntentHead *head);

/* The sector @i, at @buf, of @words that begin with its own; 512 bytes */
void replication_intent_pack(uint8_t *buf, const ReplicationIntentHead *head,
                             uint64_t i, const uint64_t *words);

/* Write it.  It is for good when replication_intent_sync() has returned 0. */
int replication_intent_store(int fd, uint64_t i, const uint8_t *buf);
int replication_intent_sync(int fd);

/* See to it that nothing can be loaded any more; 0 or negative errno */
int replication_intent_spoil(int fd);

#endif
