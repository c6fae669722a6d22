/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a replication-sink, and batches for it by NBD.
 *
 * The disk is "disk" for qemu-io, with a blkdebug between it and the file; the
 * sink is exported by the name "s".
 */

#ifndef TESTS_QTEST_COLO_SINK_RIG_H
#define TESTS_QTEST_COLO_SINK_RIG_H

#include "colo-disk-rig.h"
#include "libqtest.h"
#include "block/replication/batch.h"

#define BLOCK 4096
#define SESSION 0x1111
#define NBD_EIO 5

typedef struct Sink {
    char *dir;
    char *raw;
    char *socket;
    QTestState *qts;
    int fd;
} Sink;

/* @more: options of blkdebug, or "" */
Sink *sink_new(const char *more);
/* @image: options of what is below blkdebug, the last of which is the file */
Sink *sink_new_over(const char *image, const char *more);
void sink_free(Sink *k);

/* A batch, with a byte for each write that all of it consists of */
typedef struct Maker {
    ReplicationBatch batch;
    int bytes[REPLICATION_BATCH_ENTRIES];
} Maker;

void batch_begin(Maker *m, uint64_t session, uint64_t number);
void batch_add(Maker *m, ReplicationEntryType type, int64_t offset,
               int64_t bytes, int byte);
void batch_add_write(Maker *m, int64_t offset, int64_t bytes, int byte);
void batch_add_flush(Maker *m);

/* As it travels; to be freed */
GByteArray *batch_request(const Maker *m);
/* Send it, without waiting for the answer */
void batch_send(int fd, const Maker *m);
/* All that has been sent by this connection is in the sink */
void batch_wait_there(int fd);

/* Send it; the answer */
int sink_apply(Sink *k, const Maker *m);
/* One write in a batch; the answer */
int sink_write_one(Sink *k, uint64_t session, uint64_t number, int byte);

/* What is in the file has to be this */
void sink_check(Sink *k, int byte, int64_t offset, int64_t bytes);

#endif
