/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: hashes of the chunks of a disk, both sides.
 *
 * The secondary shows them to the primary by way of the block driver
 * colo-hash: what that node contains is, for each chunk of the disk in order,
 * XXH128 of it, big endian, and zeroes up to a multiple of 512 bytes.  The
 * last chunk may be shorter.
 */

#ifndef BLOCK_REPLICATION_HASH_H
#define BLOCK_REPLICATION_HASH_H

#include "qemu/units.h"

/* Bytes of the disk, and of its hash */
#define REPLICATION_HASH_CHUNK (64 * KiB)
#define REPLICATION_HASH_SIZE 16

/*
 * The most that one request may ask for, bytes of hashes: 16 MiB of the disk
 * are read for it, and nobody who drains the node waits for more.
 */
#define REPLICATION_HASH_MAX_READ (4 * KiB)

/* How long is a node colo-hash for a disk of @len bytes? */
int64_t replication_hash_length(int64_t len);

/* Where in the disk is what the hash at @offset is for? */
static inline int64_t replication_hash_place(int64_t offset)
{
    return offset / REPLICATION_HASH_SIZE * REPLICATION_HASH_CHUNK;
}

/*
 * The hashes of @bytes that begin with a chunk and end with one, or where the
 * disk ends.  NULL for @buf: zeroes.  Any thread.
 */
void replication_hash(const uint8_t *buf, int64_t bytes, uint8_t *hashes);

#endif
