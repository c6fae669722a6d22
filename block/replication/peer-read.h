/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, primary side: the secondary's disk is read while a session runs,
 * by way of the node's own child, so it is the one that the node writes to; and
 * its sink is asked something.
 * See peer-read.c.
 */

#ifndef BLOCK_REPLICATION_PEER_READ_H
#define BLOCK_REPLICATION_PEER_READ_H

#include "internal.h"

/* What the alignment of the child may be at most, bytes */
#define REPLICATION_PEER_READ_ALIGN (4 * KiB)

typedef struct ReplicationPeerRead ReplicationPeerRead;

/*
 * Begin to read @bytes at @offset, which are within the disk and begin with a
 * multiple of that.  Any thread; the node is not about to go.  What a disk has
 * got since the node was made is read as well, with two requests for each 3.5 KiB.
 */
ReplicationPeerRead *replication_peer_read(BDRVReplicationState *s,
                                           int64_t offset, int64_t bytes);
/*
 * The same in the window of a sink, @at from its beginning: read, or write @buf,
 * a piece of 4 KiB.  Who has dropped the latter does not know whether it was
 * written.
 */
ReplicationPeerRead *replication_peer_read_window(BDRVReplicationState *s,
                                                  int64_t at, int64_t bytes);
ReplicationPeerRead *replication_peer_write_window(BDRVReplicationState *s,
                                                   int64_t at, int64_t bytes,
                                                   const uint8_t *buf);
/* Is there an answer? */
bool replication_peer_read_done(const ReplicationPeerRead *r);
/* If so: 0 or a negative errno, and what has been read */
int replication_peer_read_result(const ReplicationPeerRead *r,
                                 const uint8_t **buf);
/* Not needed any more, done or not.  NULL is none. */
void replication_peer_read_drop(ReplicationPeerRead *r);
/* Wait until none is under way.  Main thread; the caller ends them. */
void replication_peer_read_wait(BDRVReplicationState *s);

#endif
