/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: what the tests of replicated and of shared disks have in
 * common.
 *
 * In each QEMU the guest's disk is "top", and the node that is looked at is
 * "repl".  xen-set-replication starts and stops.
 */

#ifndef TESTS_QTEST_COLO_DISK_RIG_H
#define TESTS_QTEST_COLO_DISK_RIG_H

#include "qemu/units.h"
#include "libqtest.h"

#define DISK_MB 16
#define DISK (DISK_MB * MiB)

/* From here on the test has a minute, or it is aborted */
void disk_deadline_begin(void);
void disk_deadline_end(void);

/* An image of DISK bytes, raw or qcow2.  Its path. */
char *disk_new_file(const char *dir, const char *name, bool qcow2);
/* Remove a file, if there is any, and free its path */
void disk_free_file(char *path);

/* Have an NBD server */
void disk_serve(QTestState *qts, const char *path);
/* Export a node; @name is also the ID */
void disk_export(QTestState *qts, const char *node, const char *name,
                 bool writable);
/* Have an NBD server, which shows what the guest sees by the name "t" */
void disk_export_top(QTestState *qts, const char *path);
/* A client of such a server; @more: options, or "" */
void disk_add_client(QTestState *qts, const char *node, const char *path,
                     const char *name, const char *more);

/* The children of a node come and go */
void disk_add_child(QTestState *qts, const char *parent, const char *node);
void disk_del_child(QTestState *qts, const char *parent, const char *child);

/* What the guest behind this server reads has to be this */
void disk_read(const char *path, int byte, int64_t offset, int64_t bytes);

/* Commands of Xen's */
void disk_replicate(QTestState *qts, bool enable, bool primary);
void disk_failover(QTestState *qts, bool primary);
void disk_checkpoint(QTestState *primary, QTestState *secondary);
bool disk_has_error(QTestState *qts);
/* The start has to be refused, and @text be in the reason */
void disk_start_refused(QTestState *qts, bool primary, const char *text);

/* No command takes long, whatever the peer does: @begin was not long ago */
void disk_check_time(int64_t begin);

/*
 * What the guest does, in the words of qemu-io.  What that says goes to QEMU's
 * standard output, so see what it did.
 */
void disk_io(QTestState *qts, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* The same with another disk, or another node, that has the ID @where */
void disk_io_at(QTestState *qts, const char *where, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);
void disk_write(QTestState *qts, int byte, int64_t offset, int64_t bytes);

/* What is in a file */
bool disk_file_has(const char *path, int byte, int64_t offset, int64_t bytes);
void disk_wait_file(const char *path, int byte, int64_t offset, int64_t bytes);
bool disk_same(const char *a, const char *b);
/* All that has been written is on its way, in no order */
void disk_wait_same(const char *a, const char *b);

/* Wait for the job that folds the overlays into the disk */
void disk_wait_no_job(QTestState *qts);

/* "repl" in query-colo-status; the caller unrefs it */
QDict *disk_query(QTestState *qts);
void disk_check_stage(QTestState *qts, const char *stage);
int64_t disk_log_number(QTestState *qts, const char *key);

#endif
