/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what the rest of QEMU calls, and what takes part in a checkpoint.
 *
 * Base code reaches the subsystem only through this header, include/net/colo.h
 * and include/block/replication.h.  Without CONFIG_REPLICATION the functions
 * come from migration/colo/stubs.c.
 *
 * Words (epoch, cut, commit, release) are those of docs/devel/colo.rst.
 */

#ifndef QEMU_MIGRATION_COLO_H
#define QEMU_MIGRATION_COLO_H

#include "qemu/queue.h"
#include "qemu/thread.h"
#include "qapi/qapi-types-colo.h"
#include "qapi/qapi-types-run-state.h"
#include "qapi/qapi-types-sockets.h"
#include "io/task.h"
#include "system/runstate.h"

typedef struct MigrationAddress MigrationAddress;
typedef struct MigrationState MigrationState;
typedef struct QIOChannel QIOChannel;

/*
 * ColoParticipant: something that takes part in checkpoints.
 *
 * Every callback is optional and runs under the BQL: on the primary in the
 * migration thread (but for drained), on the secondary in the main loop, and
 * arm and stand also in the thread that registers when a session is already
 * under way.  None of them may wait for the peer.
 */
typedef struct ColoParticipant ColoParticipant;
struct ColoParticipant {
    /*
     * A session is about to begin.  Called for all before the first arm();
     * a participant that comes late to a session gets both.
     */
    void (*prepare)(ColoParticipant *p);
    /*
     * A session begins, or the participant came late to one: @epoch is what
     * the primary executes from now on, and nothing that it produces may be
     * seen before the commit of the cut that ends the epoch.
     */
    void (*arm)(ColoParticipant *p, uint64_t epoch);
    /* The VM stands still: what it produces from now on belongs to @epoch */
    void (*cut)(ColoParticipant *p, uint64_t epoch);
    /* The secondary has all of cut @cut: epochs before @cut may be seen */
    void (*commit)(ColoParticipant *p, uint64_t cut);
    /*
     * Hybrid mode, secondary: the guest stands at the very beginning of @epoch
     * and is about to run.  A session begins (@epoch 0), or checkpoint @epoch
     * was put into place; what the guest said before is void.
     */
    void (*load)(ColoParticipant *p, uint64_t epoch);
    /* The session is over and this side lives on: hold nothing any more */
    void (*open)(ColoParticipant *p);
    /*
     * This side is a secondary (@standby) or is one no longer: meanwhile what
     * its guest sends, if it runs at all, may not be seen by anyone but the
     * primary, and its guest may see only what comes from there.  In periodic
     * mode the guest stands still.
     */
    void (*stand)(ColoParticipant *p, bool standby);
    /*
     * QEMU exits, and the main loop goes round for the last times: is all gone
     * that may leave?  Asked again and again; false as well if something has
     * come this way since it was asked last.  Main thread.
     */
    bool (*drained)(ColoParticipant *p);

    QTAILQ_ENTRY(ColoParticipant) next;
};

/*
 * colo_participant_register: join every session from now on
 * colo_participant_unregister: leave; nothing is called afterwards
 *
 * BQL held.  @p stays the caller's and has to live until it is unregistered.
 */
void colo_participant_register(ColoParticipant *p);
void colo_participant_unregister(ColoParticipant *p);

/*
 * colo_request_checkpoint_*: the primary needs a checkpoint soon.  Any thread;
 * returns at once, does nothing without a session on the primary.
 *
 * What is requested before a cut is answered by it.
 *
 * _queue_full: a bounded queue of output is full
 * _mismatch: the guests have said different things
 * _timeout: output has waited for too long for the other guest's
 */
void colo_request_checkpoint_queue_full(void);
void colo_request_checkpoint_mismatch(void);
void colo_request_checkpoint_timeout(void);

/*
 * colo_request_checkpoint: the same, and the cause may go away
 * colo_withdraw_checkpoint: what was requested is not needed any more
 *
 * @epoch: what the primary executed when the cause came up.  As soon as it
 *         executes a later one both do nothing: a cut has answered.
 */
void colo_request_checkpoint(ColoCheckpointReason reason, uint64_t epoch);
void colo_withdraw_checkpoint(ColoCheckpointReason reason, uint64_t epoch);

/* Is COLO compiled in, with all it needs?  Any thread. */
bool colo_supported(void);

/*
 * colo_caps_check: may x-colo be combined with these capabilities?
 *
 * @caps: indexed by MigrationCapability.  Returns false with @errp set when
 * it cannot, or when COLO is not compiled in.
 */
bool colo_caps_check(const bool *caps, Error **errp);

/*
 * colo_migrate_check: may a session begin over @addr, with the devices that
 * there are, and on the primary with the disks?
 * colo_fd_check: may it begin over @ioc, which was made of a file descriptor?
 *
 * Both sides, main loop, BQL.  They return false with @errp set when it may
 * not.  Without x-colo they return true; but while the peer of a pair is lost
 * colo_migrate_check() refuses every migration.
 */
bool colo_migrate_check(const MigrationAddress *addr, Error **errp);
bool colo_fd_check(QIOChannel *ioc, Error **errp);

/*
 * Sides.  migrate_start_colo_process() is the primary's whole session: called
 * by the migration thread with the BQL held and the VM stopped after a
 * complete first migration, returns (BQL held) when the session is over, with
 * the VM in the state the user expects.
 */
void migrate_start_colo_process(MigrationState *s);
bool migration_in_colo_state(void);

/*
 * The secondary: colo_incoming_prepare() runs before the first byte of guest
 * state arrives (returns 0 or -errno), colo_incoming_start() once it is
 * loaded; the latter takes over the incoming migration state and returns at
 * once.  BQL held.
 *
 * colo_incoming_defer: with x-colo, has the connection @ioc to the migration port
 * not said yet that it is a channel of a migration?  Then true, and it is closed,
 * or comes to migration_channel_process_incoming() once more when it has.  Main
 * loop, BQL.
 *
 * colo_incoming_wait: wait for @sem, which another channel posts.  With x-colo the
 * main loop goes on meanwhile; then false if it will not be posted, as @exiting
 * has become true or the main channel has ended.  Nothing more can be read from
 * that one then.  Destination, BQL.
 */
bool colo_incoming_defer(QIOChannel *ioc);
bool colo_incoming_wait(QemuSemaphore *sem, int *exiting);
int colo_incoming_prepare(void);
void colo_incoming_start(void);

/*
 * The first migration, and why it fails.  At the destination, in this order:
 *
 * colo_first_listen: the configuration of the source is about to be loaded
 *
 * colo_first_begin: the source says that it has x-colo
 *
 * colo_first_check: section @name, @instance is about to be loaded
 *
 * Returns false, and has reported it, if x-colo is set here and not there.
 *
 * colo_first_complete: all is loaded
 *
 * Returns false, and has reported it, if this side has a device that the source
 * has not: it would come out of nowhere after a failover.  Devices that do not
 * always have something to save are not looked at.
 *
 * colo_first_failed: the stream from @f could not be loaded: tell the source
 *
 * Waits for some seconds at most, in a coroutine of the main loop.
 *
 * At the source, in the migration thread without the BQL:
 *
 * colo_first_refused: has the destination told, against the stream, why it
 * cannot load what it gets?  Then true with @errp set.
 */
void colo_first_listen(void);
void colo_first_begin(void);
bool colo_first_check(const char *name, uint32_t instance);
bool colo_first_complete(void);
void coroutine_fn colo_first_failed(QEMUFile *f);
bool colo_first_refused(QEMUFile *f, Error **errp);
bool migration_incoming_in_colo_state(void);

/* Defined by the base (migration/migration.c) */
bool migration_incoming_colo_enabled(void);
int migration_incoming_enable_colo(void);
void migration_incoming_disable_colo(void);

/* x-checkpoint-delay was changed.  BQL held. */
void colo_checkpoint_delay_set(void);

/* QEMU exits: end the session in order, within a deadline.  BQL held. */
void colo_shutdown(void);

/*
 * colo_migration_cancel: migrate_cancel or an event that must end migration
 *
 * Returns true when a COLO session is what would be cancelled: the primary
 * then ends it in order (soon, not at once).  BQL held.
 */
bool colo_migration_cancel(void);

/*
 * colo_connect: the primary connects to the secondary, within x-colo-timeout
 *
 * Returns false if this is not a migration of COLO, or not to such an address:
 * the base connects then.  Else @fn is called later with a task whose source
 * is the channel, as by qio_channel_socket_connect_async(), unless it is
 * cancelled; @free_opaque in each case.  Main loop.
 *
 * colo_connect_cancel: the attempt is gone.  Returns false if there is none.
 */
bool colo_connect(SocketAddress *to, QIOTaskFunc fn, void *opaque,
                  GDestroyNotify free_opaque);
bool colo_connect_cancel(void);

/*
 * The source: a TLS handshake of @ioc begins, and has ended, perhaps with @err,
 * which may become another one.  With x-colo the main loop goes on meanwhile,
 * for x-colo-timeout at most.  The second is false if the migration has been
 * cancelled, and is no business of this channel any more.  Main loop, BQL.
 */
void colo_handshake_begin(QIOChannel *ioc);
bool colo_handshake_end(QIOChannel *ioc, Error **err);

/*
 * colo_lost_refused: a command about a migration, while the peer is lost
 *
 * Returns true, with @errp set to what to type instead.  BQL held.
 */
bool colo_lost_refused(const char *command, Error **errp);

/*
 * colo_guest_shutdown_deferred: the guest asks for the end of QEMU
 *
 * Returns true on a secondary whose guest runs beside the primary's: whether
 * this happens at all is what the primary's guest says.  The guest stands then
 * until the next checkpoint; after a failover the request is carried out.
 * BQL held.
 */
bool colo_guest_shutdown_deferred(ShutdownCause cause);

/*
 * colo_guest_reset_deferred: the guest has asked for a reset
 *
 * Returns true on a secondary whose guest stands for a checkpoint: that makes
 * the reset void, or the guest is reset when it goes on without one.  BQL held.
 */
bool colo_guest_reset_deferred(ShutdownCause cause);

/*
 * colo_wakeup_deferred: somebody wakes the guest up
 *
 * Returns true on a primary whose guest sleeps, and stands for a checkpoint: it
 * is woken when it goes on.  BQL held.
 */
bool colo_wakeup_deferred(WakeupReason reason);

/*
 * colo_reset_begin, colo_reset_end: the main loop resets the VM
 *
 * It drops the BQL meanwhile.  No checkpoint may stop the guest in the middle of
 * it, and let it go on.  BQL held.
 */
void colo_reset_begin(void);
void colo_reset_end(void);

/*
 * colo_vmstate_needed: does x-colo ask for all of a device's state?
 *
 * A VMStateDescription.needed for what a device needs that is loaded again and
 * again, and that QEMUs without COLO do not know: it must not be in the stream
 * of a migration to one of them.
 */
bool colo_vmstate_needed(void *opaque);

/*
 * colo_loading: is the secondary putting a checkpoint into place?
 *
 * True in between device reset and the end of the load, BQL held: reset must
 * not write to guest RAM then.
 */
bool colo_loading(void);

/*
 * colo_section_saved: qemu_save_device_state() has come to the end of a device
 *
 * @end: what qemu_file_transferred() says now; the same as after the device
 *     before if this one has saved nothing
 * BQL held.
 */
void colo_section_saved(const char *name, uint32_t instance, uint32_t version,
                        uint64_t end);

/*
 * colo_command_refused: may a monitor command that changes the run of the
 * guest be carried out now?
 *
 * Returns true, with @errp set, on a secondary that belongs to a pair, and on
 * one that did and has not become the service.
 */
bool colo_command_refused(const char *command, Error **errp);

/*
 * colo_secondary_follows: is this a secondary of which nobody has said that it
 * shall go on?  Then its guest is not to be seen.  BQL held.
 */
bool colo_secondary_follows(void);

/*
 * colo_cont: what "cont" means in the middle of a checkpoint
 *
 * Returns true when the wish was taken care of here: either noted, to be
 * followed at the end of the cut, or refused with @errp set.  BQL held.
 */
bool colo_cont(Error **errp);

/*
 * colo_starts_guest: does protection start a guest in that run state?
 *
 * True with x-colo for one that was started with -S and has never been told to
 * go on.  A guest that somebody stopped, and then maybe reset, stays so.  BQL
 * held.
 */
bool colo_starts_guest(RunState state);

/*
 * colo_cut_is_silent: true while this thread stops or starts the guest for a
 * checkpoint of which no events STOP and RESUME are sent.  Any thread.
 */
bool colo_cut_is_silent(void);

/*
 * colo_vm_start: vm_start(), and no cut begins in the middle of it
 *
 * Main loop, BQL held, dropped meanwhile.
 */
void colo_vm_start(void);

/*
 * colo_vm_stop_begin: somebody stops the VM
 *
 * Not while another thread lets the guest go on, for which it may drop the BQL.
 * BQL held, dropped meanwhile.
 */
void colo_vm_stop_begin(void);

/*
 * colo_vm_stop_deferred: somebody stops the VM while it stands for a cut
 *
 * The stop is carried out right after the cut.  BQL held.
 */
void colo_vm_stop_deferred(RunState state);

/*
 * colo_problems_changed: something that may be a problem has come or gone
 *
 * They are looked for in a moment, in the main loop.  Any thread.
 */
void colo_problems_changed(void);

#endif
