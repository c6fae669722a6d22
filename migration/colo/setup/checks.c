/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO setup: is this QEMU one that can be a side of a pair?
 *
 * Main loop, BQL.  What is refused anyway when the session begins is looked for
 * here, before anything is made, with what to do about it.  NICs and disks are
 * looked at where they are set up.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/util.h"
#include "migration/colo.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "net/colo.h"
#include "system/runstate.h"
#include "../problems.h"
#include "../session.h"
#include "setup.h"

void colo_setup_find(ColoSetupSearch *search, ColoSetupSubject subject,
                     const char *name, char *message, char *cure)
{
    ColoSetupFinding *f = g_new0(ColoSetupFinding, 1);

    f->subject = subject;
    f->name = g_strdup(name);
    f->message = message;
    f->cure = cure;
    QAPI_LIST_APPEND(search->tail, f);
}

static void find_error(ColoSetupSearch *search, ColoSetupSubject subject,
                       Error *err, const char *cure)
{
    colo_setup_find(search, subject, "", g_strdup(error_get_pretty(err)),
                    g_strdup(cure));
    error_free(err);
}

static void look_at_state(ColoSetupSearch *search)
{
    bool waits = runstate_check(RUN_STATE_INMIGRATE);
    Error *err = NULL;

    if (waits && search->role == REPLICATION_MODE_PRIMARY) {
        colo_setup_find(search, COLO_SETUP_SUBJECT_STATE, "",
                        g_strdup("this QEMU waits for a guest, the primary "
                                 "has one"),
                        g_strdup("give this command to the QEMU that runs the "
                                 "guest, or take role secondary"));
    } else if (!waits && search->role == REPLICATION_MODE_SECONDARY) {
        colo_setup_find(search, COLO_SETUP_SUBJECT_STATE, "",
                        g_strdup("this QEMU has a guest, the secondary gets "
                                 "the primary's"),
                        g_strdup("start the secondary with -incoming defer"));
    }
    if (colo_session_active(COLO_MODE_PRIMARY) ||
        colo_session_active(COLO_MODE_SECONDARY)) {
        colo_setup_find(search, COLO_SETUP_SUBJECT_STATE, "",
                        g_strdup("there is a COLO session already"),
                        g_strdup("end it: migrate_cancel on the primary, or "
                                 "x-colo-lost-heartbeat if the peer is lost"));
    } else if (colo_command_refused("x-colo-protect", &err)) {
        find_error(search, COLO_SETUP_SUBJECT_STATE, err, "end this QEMU");
    } else if (migration_is_running()) {
        colo_setup_find(search, COLO_SETUP_SUBJECT_STATE, "",
                        g_strdup("a migration is under way"),
                        g_strdup("wait for its end, or give migrate_cancel"));
    }
}

static void look_at_capabilities(ColoSetupSearch *search)
{
    Error *err = NULL;

    if (!colo_caps_check(migrate_get_current()->capabilities, &err)) {
        find_error(search, COLO_SETUP_SUBJECT_MIGRATION, err,
                   "switch it off by migrate-set-capabilities");
    }
}

static void device_found(void *opaque, ColoProblemKind kind, const char *name,
                         const char *message)
{
    colo_setup_find(opaque, COLO_SETUP_SUBJECT_DEVICE, name,
                    g_strdup(message),
                    g_strdup_printf("remove '%s' by device_del, or start the "
                                    "guest without it", name));
}

void colo_setup_look(ColoSetupSearch *search)
{
    Error *err = NULL;

    look_at_state(search);
    look_at_capabilities(search);
    colo_device_problems(device_found, search);
    if (!colo_net_check(&err)) {
        find_error(search, COLO_SETUP_SUBJECT_NIC, err,
                   "start the guest with vhost=off");
    }
}
