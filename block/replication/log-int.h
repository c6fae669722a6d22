/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication, primary side: what the two halves of the log share,
 * log.c and log-send.c.
 */

#ifndef BLOCK_REPLICATION_LOG_INT_H
#define BLOCK_REPLICATION_LOG_INT_H

#include "qemu/coroutine.h"
#include "qemu/queue.h"
#include "qemu/thread.h"
#include "log.h"

typedef enum LogRecordType {
    LOG_WRITE,
    LOG_ZERO,
    LOG_ZERO_UNMAP,
    LOG_DISCARD,
    LOG_FLUSH,
    LOG_RESYNC_BEGIN,           /* from here on only with batches */
    LOG_RESYNC_END,
    LOG_GROW,                   /* offset: the length */
    LOG_COMMON,
    LOG_MARK,
    LOG_BATCH,                  /* only of a LogRequest */
} LogRecordType;

typedef struct LogRecord {
    QSIMPLEQ_ENTRY(LogRecord) next;
    LogRecordType type;
    int64_t offset;
    int64_t bytes;
    uint64_t epoch;
    uint64_t cut;               /* how many cuts came before it */
    uint64_t position;          /* its number, from 1 */
    uint64_t cost;              /* what it takes of the limit */
    uint8_t *data;              /* of LOG_WRITE */
    unsigned refs;              /* the log's lock: the log, and views */
} LogRecord;

typedef QSIMPLEQ_HEAD(, LogRecord) LogRecords;

/*
 * Records under way, one after the other on the disk if they are several; if
 * it is a batch they are any
 */
typedef struct LogRequest {
    QTAILQ_ENTRY(LogRequest) next;
    ReplicationLog *log;
    LogRecords records;
    LogRecordType type;
    int64_t offset;
    int64_t bytes;
    QEMUIOVector qiov;          /* of LOG_WRITE, or all data of a batch */
    ReplicationBatch *batch;    /* of LOG_BATCH */
} LogRequest;

struct ReplicationLog {
    /* Set once */
    const ReplicationLogOps *ops;
    void *opaque;
    uint64_t limit;
    uint32_t align;
    uint32_t max_request;
    AioContext *ctx;
    QemuThread thread;
    QEMUBH *send_bh;            /* may be scheduled by any thread */
    QEMUTimer *admit_timer;
    QEMUTimer *gather_timer;
    QEMUTimer *stall_timer;
    uint64_t session;           /* of batches */

    /* Only the log's thread */
    bool stopping;

    QemuMutex lock;
    /* All below: lock */
    LogRecord *first;           /* comes before the first write, or NULL */
    LogRecords waiting;
    unsigned n_waiting;
    uint64_t waiting_bytes;     /* of data */
    bool gathering;             /* the timer runs */
    int64_t gather_ms;          /* since then */
    uint64_t gather_position;   /* the last record when it was last set */
    bool gathered;              /* what waits need not wait any longer */
    uint64_t n_batches;         /* that have ever begun */
    QTAILQ_HEAD(, LogRequest) under_way;
    unsigned n_under_way;
    bool flushing;              /* the one under way is a flush */
    unsigned paused;
    uint64_t epoch;             /* of new records */
    uint64_t cut;               /* of new records */
    uint64_t allowed;           /* the last epoch that may be sent */
    uint64_t position;          /* of the last record */
    uint64_t n_records;         /* waiting or under way */
    uint64_t n_before;          /* of these, from before the last cut */
    QemuCond settled;           /* n_before is 0, or the log has broken */
    CoQueue room;               /* who waits for that, or for emptiness */
    unsigned n_writers;         /* in room */
    unsigned hurries;           /* nobody waits for records to arrive */
    bool watching;              /* the stall timer runs */
    int64_t progress_ms;        /* when something last got on, then */
    ReplicationLogStats stats;
};

static inline bool replication_log_is_broken_locked(ReplicationLog *log)
{
    return log->stats.err != 0;
}

/* Is the log so full that a burst may find no room? */
static inline bool replication_log_is_filling_locked(ReplicationLog *log)
{
    return log->stats.bytes >= log->limit / 4 * 3;
}

/* @rec, the first one that waits, does so no longer */
static inline void replication_log_remove_first_locked(ReplicationLog *log,
                                                       LogRecord *rec)
{
    QSIMPLEQ_REMOVE_HEAD(&log->waiting, next);
    log->n_waiting--;
    log->waiting_bytes -= rec->data ? rec->bytes : 0;
}

/* The record is done with: sent, or dropped */
void replication_log_gone_locked(ReplicationLog *log, LogRecord *rec);

/* Let as many writers look again as there are now; drops the lock for each */
void replication_log_wake_locked(ReplicationLog *log);

/* One more record waits */
void replication_log_has_more_locked(ReplicationLog *log);

/* Begin what may begin; the log's thread */
void replication_log_send_bh(void *opaque);

/* What waits for a batch has done so for long enough; the log's thread */
void replication_log_gathered(void *opaque);

#endif
