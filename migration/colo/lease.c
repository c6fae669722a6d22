/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the primary lets nothing out once the secondary may have gone on.
 *
 * Primary; any thread.
 *
 * Theory of operation
 *
 * A process can be stopped at any point, for any time: by a signal, by its
 * host, by a debugger.  When it goes on the other side may be the service, and
 * this one has yet to read that.  Meanwhile its devices and vCPUs would let out
 * what was about to leave.
 *
 * So whoever lets output out asks here, right before he does.  The secondary
 * goes on no earlier than a timeout after it heard the primary last, and each
 * 'alive' of it repeats the time, by the primary's clock, at which that was
 * said.  A lease lasts from that time for a timeout, less a margin for the way
 * from this question to the wire.  Two clocks are never compared, they only
 * have to run at about the same rate.
 *
 * A session's thread that sends for long reads no 'alive'.  That the secondary
 * takes what is sent does as well then, unless this process was stopped: what a
 * socket takes after that may be thrown away at its other end.
 *
 * What can still leave is what was asked for before the process was stopped:
 * one packet, and what the host's own queues have.
 *
 * Leases as a means of agreement without synchronous clocks: C. Gray, D.
 * Cheriton, "Leases: an efficient fault-tolerant mechanism for distributed file
 * cache consistency", SOSP 1989.
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/timer.h"
#include "lease.h"

/* Part of a timeout that is left between the end of a lease and a takeover */
#define MARGIN_PARTS    10

/* This process did not run for so long: then only an 'alive' will do */
#define STALL_PARTS     2

/* Atomic */
static int64_t length_ns;           /* of a lease */
static int64_t progress_ns;         /* the secondary took something */
static int64_t tick_ns;             /* this process ran */
static bool stalled;                /* and then it did not, for a while */
static int64_t end_ns = INT64_MAX;  /* that: no lease is needed; 0: revoked */
static bool refused;                /* somebody waits for a renewal */

static void (*renewed)(void);

static void tell_who_waits(void)
{
    if (qatomic_xchg(&refused, false) && renewed) {
        renewed();
    }
}

static int64_t lease_end(int64_t said_ns, uint32_t timeout_ms)
{
    int64_t length = (timeout_ms - timeout_ms / MARGIN_PARTS) *
                     (int64_t)SCALE_MS;

    qatomic_set(&length_ns, length);
    return said_ns + length;
}

static int64_t now(void)
{
    return qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
}

/* Did this process run all the time? */
static bool has_run(int64_t now_ns)
{
    if (now_ns - qatomic_read(&tick_ns) >
        qatomic_read(&length_ns) / STALL_PARTS) {
        qatomic_set(&stalled, true);
    }
    return !qatomic_read(&stalled);
}

void colo_lease_tick(void)
{
    int64_t now_ns = now();

    has_run(now_ns);
    qatomic_set(&tick_ns, now_ns);
}

void colo_lease_progress(void)
{
    int64_t now_ns = now();

    if (has_run(now_ns)) {
        qatomic_set(&progress_ns, now_ns);
    }
}

/* @until_ns: when the lease ends that the secondary's word has given */
static bool holds(int64_t until_ns)
{
    int64_t now_ns;

    if (until_ns == INT64_MAX) {
        return true;
    }
    now_ns = now();
    return now_ns < until_ns ||
           (until_ns && has_run(now_ns) &&
            now_ns - qatomic_read(&progress_ns) < qatomic_read(&length_ns));
}

void colo_lease_renew(int64_t said_ns, uint32_t timeout_ms)
{
    int64_t until_ns = lease_end(said_ns, timeout_ms);
    int64_t old_ns = qatomic_read(&end_ns);

    /* 0: revoked.  Others may renew it, or end it, meanwhile */
    while (said_ns && old_ns && old_ns != INT64_MAX && until_ns > old_ns) {
        int64_t seen_ns = qatomic_cmpxchg(&end_ns, old_ns, until_ns);

        if (seen_ns == old_ns) {
            if (now() < until_ns) {
                qatomic_set(&stalled, false);
            }
            tell_who_waits();
            return;
        }
        old_ns = seen_ns;
    }
}

void colo_lease_begin(int64_t said_ns, uint32_t timeout_ms)
{
    qatomic_set(&progress_ns, INT64_MIN / 2);
    qatomic_set(&tick_ns, now());
    qatomic_set(&stalled, false);
    qatomic_set(&end_ns, lease_end(said_ns, timeout_ms));
}

void colo_lease_end(void)
{
    qatomic_set(&end_ns, INT64_MAX);
    tell_who_waits();
}

void colo_lease_suspend(void)
{
    int64_t old_ns = qatomic_read(&end_ns);

    if (old_ns && old_ns != INT64_MAX) {
        /* Long ago; if it has just been ended, it has */
        qatomic_set(&progress_ns, INT64_MIN / 2);
        qatomic_cmpxchg(&end_ns, old_ns, 1);
    }
}

void colo_lease_revoke(void)
{
    qatomic_set(&end_ns, 0);
}

bool colo_lease_holds(void)
{
    if (holds(qatomic_read(&end_ns))) {
        return true;
    }
    /* A renewal between these two finds it set, or is found here */
    qatomic_set_mb(&refused, true);
    return holds(qatomic_read(&end_ns));
}

void colo_lease_on_renewal(void (*fn)(void))
{
    renewed = fn;
}
