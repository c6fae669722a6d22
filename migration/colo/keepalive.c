/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: signs of life beside the session's thread.
 *
 * Both sides; a thread of its own, which takes neither the BQL nor any lock
 * that is held for long.
 *
 * Theory of operation
 *
 * The session's thread is silent while it works: it populates memory, copies,
 * hashes, resets, loads.  The peer must neither take that for death nor wait
 * for a side that hangs.  So liveness is told apart from work: this thread
 * sends 'alive' frames as long as the process runs, whatever the session's
 * thread does, and each says how far the work has got (progress.h).  The
 * receiver (wire.c) takes the peer for lost if nothing at all arrives for a
 * timeout, or if frames arrive but the number stays the same for
 * COLO_STALL_TIMEOUTS of them while it waits.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "keepalive.h"
#include "lease.h"

#define BEATS_PER_TIMEOUT   4
#define INTERVAL_MIN_MS     10
/* Several within COLO_HURRY_MS */
#define INTERVAL_MAX_MS     100

struct ColoKeepalive {
    ColoWire *wire;
    QemuThread thread;

    QemuMutex lock;
    QemuCond cond;
    bool stop;              /* lock */
};

static void *keepalive_thread(void *opaque)
{
    ColoKeepalive *k = opaque;

    QEMU_LOCK_GUARD(&k->lock);
    while (!k->stop) {
        colo_lease_tick();
        colo_wire_send_alive(k->wire);
        qemu_cond_timedwait(&k->cond, &k->lock,
                            MIN(MAX(colo_wire_beat_timeout(k->wire) /
                                    BEATS_PER_TIMEOUT, INTERVAL_MIN_MS),
                                INTERVAL_MAX_MS));
    }
    return NULL;
}

ColoKeepalive *colo_keepalive_start(ColoWire *w)
{
    ColoKeepalive *k = g_new0(ColoKeepalive, 1);

    k->wire = w;
    qemu_mutex_init(&k->lock);
    qemu_cond_init(&k->cond);
    qemu_thread_create(&k->thread, "colo/alive", keepalive_thread, k,
                       QEMU_THREAD_JOINABLE);
    return k;
}

void colo_keepalive_stop(ColoKeepalive *k)
{
    if (!k) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&k->lock) {
        k->stop = true;
        qemu_cond_signal(&k->cond);
    }
    qemu_thread_join(&k->thread);
    qemu_cond_destroy(&k->cond);
    qemu_mutex_destroy(&k->lock);
    g_free(k);
}
