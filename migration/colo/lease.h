/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: may the primary let out anything now?  Not for base code, but for
 * net/colo.
 */

#ifndef QEMU_MIGRATION_COLO_LEASE_H
#define QEMU_MIGRATION_COLO_LEASE_H

/*
 * colo_lease_renew: primary, the secondary has heard what this side said at
 * @said_ns (QEMU_CLOCK_REALTIME); earlier times than the last one, and 0, are
 * ignored
 *
 * The secondary does not go on by itself before it has heard nothing for
 * @timeout_ms, neither on the migration channel nor by a heartbeat.  Any
 * thread.
 */
void colo_lease_renew(int64_t said_ns, uint32_t timeout_ms);

/*
 * colo_lease_progress: the secondary takes what this side sends.  Session's
 * thread, which reads nothing meanwhile.
 * colo_lease_tick: this process runs.  Any one thread, several times in a
 * timeout.
 */
void colo_lease_progress(void);
void colo_lease_tick(void);

/*
 * colo_lease_begin: primary, a session begins: a lease is needed, and there is
 * one as with colo_lease_renew()
 * colo_lease_end: no lease is needed any more: nobody else goes on
 *
 * BQL.
 */
void colo_lease_begin(int64_t said_ns, uint32_t timeout_ms);
void colo_lease_end(void);

/* There is none until the secondary has heard this side anew.  Any thread. */
void colo_lease_suspend(void);

/* There is none, and there will be none: the other side is the service.  BQL. */
void colo_lease_revoke(void);

/*
 * colo_lease_holds: may output leave now?  To be asked right before it is
 * written.  If not, those of colo_lease_on_renewal() are told when it may.
 * Any thread.
 */
bool colo_lease_holds(void);

/* @fn is called in any thread.  Once, before there are sessions. */
void colo_lease_on_renewal(void (*fn)(void));

#endif
