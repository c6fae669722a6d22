/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: what the tests of replicated and of shared disks have in
 * common.
 *
 * In each QEMU the guest's disk is "top", which is exported by NBD as "t", and
 * the node that is looked at is "repl".  xen-set-replication starts and stops.
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

/* An image of DISK bytes, raw or qcow2.  Its path; the caller frees it. */
char *disk_new_file(const char *dir, const char *name, bool qcow2);

/* Have an NBD server, which shows what the guest sees */
void disk_export_top(QTestState *qts, const char *path);

/* What the guest behind this server reads has to be this */
void disk_read(const char *path, int byte, int64_t offset, int64_t bytes);

/* Commands of Xen's */
void disk_replicate(QTestState *qts, bool enable, bool primary);
void disk_failover(QTestState *qts, bool primary);
bool disk_has_error(QTestState *qts);

/*
 * What the guest does, in the words of qemu-io.  What that says goes to QEMU's
 * standard output, so see what it did.
 */
void disk_io(QTestState *qts, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
void disk_write(QTestState *qts, int byte, int64_t offset, int64_t bytes);

/* What is in a file */
bool disk_file_has(const char *path, int byte, int64_t offset, int64_t bytes);
void disk_wait_file(const char *path, int byte, int64_t offset, int64_t bytes);
/* All that has been written is on its way, in no order */
void disk_wait_same(const char *a, const char *b);

/* Wait for the job that folds the overlays into the disk */
void disk_wait_no_job(QTestState *qts);

/* "repl" in query-colo-status; the caller unrefs it */
QDict *disk_query(QTestState *qts);
void disk_check_stage(QTestState *qts, const char *stage);
int64_t disk_log_number(QTestState *qts, const char *key);

#endif
