/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest that writes into the log of replication.
 */

#ifndef TESTS_UNIT_COLO_LOG_GUEST_H
#define TESTS_UNIT_COLO_LOG_GUEST_H

#include "block/replication/log.h"

/*
 * w write, z zero, u zero and unmap, d discard, f flush, c copy (zeroes if
 * @byte is 0), e wait until the log is empty
 */
typedef struct LogGuest {
    ReplicationLog *log;
    char type;
    int64_t offset;
    int64_t bytes;
    int byte;
    bool done;
} LogGuest;

/* Begin what @g says; it may be done on return, or not */
void log_guest_begin(LogGuest *g);

/* Wait until what has begun sets this, or @g is done */
void log_guest_wait_for(const bool *done);
void log_guest_wait(LogGuest *g);

/* The same, which has to be done at once, but for a large write */
void log_guest(ReplicationLog *log, char type, int64_t offset, int64_t bytes,
               int byte);

/* A cut, and all from before it arrives */
void log_guest_settle(ReplicationLog *log, uint64_t epoch, uint64_t timeout_ms);

#endif
