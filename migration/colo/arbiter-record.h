/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the record of colo-arbiter-file.  Its format is described in
 * docs/interop/colo-arbiter.rst.  Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_ARBITER_RECORD_H
#define QEMU_MIGRATION_COLO_ARBITER_RECORD_H

#include "decider.h"

/* Bytes of a block: at least what storage reads and writes at a time */
#define COLO_RECORD_BLOCK 4096

/* A block for the session, and one for each side's claim */
#define COLO_RECORD_BYTES (3 * COLO_RECORD_BLOCK)

/*
 * ColoRecordWait: wait for @ms milliseconds, which may be 0.  False when nobody
 * wants the answer any more.
 */
typedef bool ColoRecordWait(void *opaque, int ms);

/*
 * colo_record_ask: ask the record in the file @path, an absolute one
 *
 * @request: COLO_REQUEST_BEGIN, which makes the file if there is none,
 *           COLO_REQUEST_CHECK or COLO_REQUEST_DECIDE
 * @wait: called with @opaque while another process has the record locked, and
 *        before something is written
 *
 * For a begin or a check COLO_VERDICT_WON says that it was successful.  Any
 * thread; takes as long as the storage does.  Two threads must not ask the same
 * record at a time.  Returns COLO_VERDICT_NOT_KNOWN with @errp set.
 */
ColoVerdict colo_record_ask(const char *path, ColoRequest request,
                            const ColoQuestion *q, ColoRecordWait *wait,
                            void *opaque, Error **errp);

#endif
