/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO is not compiled in: nothing is ever protected.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/replication.h"
#include "migration/colo.h"
#include "system/runstate.h"

bool colo_supported(void)
{
    return false;
}

bool colo_caps_check(const bool *caps, Error **errp)
{
    error_setg(errp, "this QEMU was built without COLO: it needs "
               "--enable-replication and --enable-colo-proxy");
    return false;
}

bool colo_migrate_check(const MigrationAddress *addr, Error **errp)
{
    return true;
}

bool colo_fd_check(QIOChannel *ioc, Error **errp)
{
    return true;
}

void colo_problems_changed(void)
{
}

void colo_participant_register(ColoParticipant *p)
{
}

void colo_participant_unregister(ColoParticipant *p)
{
}

void colo_request_checkpoint_queue_full(void)
{
}

void colo_request_checkpoint_mismatch(void)
{
}

void colo_request_checkpoint_timeout(void)
{
}

void colo_request_checkpoint(ColoCheckpointReason reason, uint64_t epoch)
{
}

void colo_withdraw_checkpoint(ColoCheckpointReason reason, uint64_t epoch)
{
}

bool colo_secondary_follows(void)
{
    return false;
}

bool colo_guest_shutdown_deferred(ShutdownCause cause)
{
    return false;
}

bool colo_guest_reset_deferred(ShutdownCause cause)
{
    return false;
}

bool colo_wakeup_deferred(WakeupReason reason)
{
    return false;
}

void migrate_start_colo_process(MigrationState *s)
{
    /* The capability cannot be set */
    g_assert_not_reached();
}

bool migration_in_colo_state(void)
{
    return false;
}

bool colo_incoming_defer(QIOChannel *ioc)
{
    return false;
}

bool colo_incoming_wait(QemuSemaphore *sem, int *exiting)
{
    qemu_sem_wait(sem);
    return true;
}

int colo_incoming_prepare(void)
{
    return -ENOTSUP;
}

void colo_first_listen(void)
{
}

void colo_first_begin(void)
{
}

bool colo_first_check(const char *name, uint32_t instance)
{
    return true;
}

bool colo_first_complete(void)
{
    return true;
}

void coroutine_fn colo_first_failed(QEMUFile *f)
{
}

bool colo_first_refused(QEMUFile *f, Error **errp)
{
    return false;
}

void colo_incoming_start(void)
{
    g_assert_not_reached();
}

bool migration_incoming_in_colo_state(void)
{
    return false;
}

void colo_checkpoint_delay_set(void)
{
}

void colo_shutdown(void)
{
}

void colo_reset_begin(void)
{
}

void colo_reset_end(void)
{
}

bool colo_migration_cancel(void)
{
    return false;
}

bool colo_connect(SocketAddress *to, QIOTaskFunc fn, void *opaque,
                  GDestroyNotify free_opaque)
{
    return false;
}

void colo_handshake_begin(QIOChannel *ioc)
{
}

bool colo_handshake_end(QIOChannel *ioc, Error **err)
{
    return true;
}

bool colo_connect_cancel(void)
{
    return false;
}

bool colo_lost_refused(const char *command, Error **errp)
{
    return false;
}

void colo_section_saved(const char *name, uint32_t instance, uint32_t version,
                        uint64_t end)
{
}

bool colo_vmstate_needed(void *opaque)
{
    return false;
}

bool colo_loading(void)
{
    return false;
}

bool colo_command_refused(const char *command, Error **errp)
{
    return false;
}

bool colo_starts_guest(RunState state)
{
    return false;
}

bool colo_cut_is_silent(void)
{
    return false;
}

bool colo_cont(Error **errp)
{
    return false;
}

void colo_vm_start(void)
{
    vm_start();
}

void colo_vm_stop_begin(void)
{
}

void colo_vm_stop_deferred(RunState state)
{
}

bool colo_medium_refused(BlockBackend *blk, Error **errp)
{
    return false;
}
