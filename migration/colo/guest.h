/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: stopping the guest for a checkpoint, and letting it go on.  Not for
 * base code.
 */

#ifndef QEMU_MIGRATION_COLO_GUEST_H
#define QEMU_MIGRATION_COLO_GUEST_H

#include "session.h"

/*
 * colo_stop_guest: the guest stands for a checkpoint, its devices are quiet
 *
 * @end_ns: give up then (QEMU_CLOCK_REALTIME)
 * @stopped: becomes true if this stopped it, also on failure; if somebody else
 * did, or is about to, it stands in another run state
 *
 * False with @errp set if the disks were not quiet in time, or the main loop
 * did not come round.  Session's thread, BQL held (dropped meanwhile).
 */
bool colo_stop_guest(ColoSession *s, int64_t end_ns, bool *stopped,
                     Error **errp);

/*
 * colo_start_guest: let the guest go on
 *
 * Under KVM the handlers of that change may drop the BQL before the CPUs run;
 * no reset begins and no stop takes place until it is over.  Any thread, BQL
 * held (dropped meanwhile).
 */
void colo_start_guest(void);

/*
 * colo_end_cut: let the guest go on that colo_stop_guest() has stopped
 *
 * As colo_start_guest(), and as silently as that.
 */
void colo_end_cut(ColoSession *s);

/*
 * colo_guest_stands: true while no CPU runs and no change of the run state is
 * in progress.  The state of the guest can be saved then, as long as the BQL is
 * not dropped.  BQL.
 */
bool colo_guest_stands(void);

/*
 * colo_retire_guest: another host has the service.  This guest is left so that
 * nobody starts it, here or where it would be migrated to, for the reason
 * @why.  Main loop, after the session.
 */
void colo_retire_guest(const char *why);

/*
 * colo_forget_stop: the guest stands, and nobody asks why any more: it may have
 * stopped for an I/O error.  Its run state is that of a checkpoint.  BQL.
 */
void colo_forget_stop(void);

#endif
