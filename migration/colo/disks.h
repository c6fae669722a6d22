/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the replicated disks of a session.  Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_DISKS_H
#define QEMU_MIGRATION_COLO_DISKS_H

#include "session.h"

/*
 * colo_disk_next: the disk after @blk, or the first, that is a device of the
 * guest and writable; NULL if there is none.  BQL.
 *
 * Without flash: a checkpoint has it, and its device puts it into the file.
 */
BlockBackend *colo_disk_next(BlockBackend *blk);

/* A name that the user knows; the caller frees it.  BQL. */
char *colo_disk_name(BlockBackend *blk);

/*
 * colo_disks_can_begin: false with @errp set if no session of @side can begin
 * with these disks
 * colo_disks_check: the same, and the reason is an event for the user
 *
 * Nothing changes.  BQL.
 */
bool colo_disks_can_begin(COLOMode side, Error **errp);
bool colo_disks_check(COLOMode side, Error **errp);

/*
 * colo_disks_start: replication begins; on the primary what the guest writes
 * from now on is held back until colo_disks_allow()
 *
 * BQL, the VM stands still.  False with @errp set if a disk cannot be
 * replicated.
 */
bool colo_disks_start(ColoSession *s, Error **errp);

/*
 * The number of the generation of this side's disks; 0 if none is kept.  BQL.
 * False with @errp set if it cannot be read.
 */
bool colo_disks_generation(uint64_t *number, Error **errp);

/*
 * colo_disks_check_generation: primary, may disks follow ours that are of
 * generation @peer, 0 if the secondary keeps none?  False with @errp set if they
 * are newer, or on an I/O error.
 *
 * colo_disks_new_generation: then the session gets a generation of its own,
 * higher than those of both sides, and it is recorded here.  @number: that,
 * 0 if this side keeps none.  False with @errp set on an I/O error.
 *
 * Session's thread, no BQL.
 */
bool colo_disks_check_generation(uint64_t peer, Error **errp);
bool colo_disks_new_generation(uint64_t *number, Error **errp);

/* Secondary: record the session's generation; 0 is none.  BQL. */
bool colo_disks_join_generation(uint64_t number, Error **errp);

/* True if this QEMU has disks that are replicated.  BQL. */
bool colo_disks_exist(void);

/*
 * False, with @errp and s->cause set, if a disk of this side has failed since
 * the session began.  Session's thread.
 */
bool colo_disks_ok(ColoSession *s, Error **errp);

/*
 * Secondary: true if the disks can show all that was committed, whatever has
 * failed, so that this side could go on.  No BQL.
 */
bool colo_disks_are_complete(void);

/*
 * Primary, the VM stands still: what is written from now on belongs to the
 * epoch that cut @cut begins, and is held back.  BQL.
 */
void colo_disks_cut(uint64_t cut);

/*
 * Primary, the VM stands still since colo_disks_start(): wait until samples have
 * been taken of those disks that no resync has made equal.  Session's thread, no
 * BQL.  False with @errp set if a disk cannot be read, or is too slow.
 */
bool colo_disks_sample(ColoSession *s, Error **errp);

/*
 * Primary: wait until the secondary's disks have all that was written before
 * @cut.  Meanwhile the peer is told that this side is well.  Session's thread,
 * no BQL.  False with @errp set when a disk failed, or took too long.
 */
bool colo_disks_settle(ColoSession *s, uint64_t cut, Error **errp);

/*
 * Primary, after colo_disks_settle() of cut 0: wait until samples of those disks
 * that no resync has made equal have been compared with the secondary's.
 * Otherwise the same; false, too, if they differ.
 */
bool colo_disks_compare(ColoSession *s, Error **errp);

/* Primary: the secondary has loaded @cut.  Any thread. */
void colo_disks_allow(uint64_t cut);

/*
 * Secondary, before the commit: false with @errp set if colo_disks_load() would
 * fail.  BQL.
 */
bool colo_disks_prepare(Error **errp);

/*
 * Secondary: a checkpoint is being loaded, its guest has written nothing.  BQL,
 * dropped meanwhile.
 *
 * False with @errp and s->cause set if that cannot be, or takes more than a
 * timeout and the primary lives.  In that case it goes on.
 */
bool colo_disks_load(ColoSession *s, Error **errp);

/*
 * Secondary: the session has ended, without a failover.  Begin what
 * colo_disks_stop() would have to wait for.  No BQL.
 */
void colo_disks_begin_end(void);

/* Until one of these is over, or QEMU exits.  No BQL. */
void colo_disks_await_load(void);

/*
 * colo_disks_hash: of all replicated disks as the guest sees them
 *
 * Reads the whole of each, while the VM stands still.  0 if there are none, or
 * if one cannot be read, which is reported.  BQL.
 */
uint32_t colo_disks_hash(void);

/* The peer is lost: wait for it no longer.  BQL. */
void colo_disks_abandon(void);

/*
 * Secondary, before it goes live: false with @errp set if its disks do not
 * allow that now.  It may be tried again.  BQL.
 */
bool colo_disks_take_over(Error **errp);

/*
 * The peer is lost, so a disk of it that failed is no news.  Any thread.
 */
void colo_disks_forget_failure(void);

/*
 * colo_disks_stop: the session is over
 *
 * @failover: this side goes on with what it has, which is recorded before this
 * returns.  BQL; idempotent.
 */
void colo_disks_stop(bool failover);

#endif
