/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO setup: commands of the human monitor.  Main loop, BQL.
 */

#include "qemu/osdep.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-colo.h"
#include "qapi/util.h"
#include "qobject/qdict.h"

static void print_findings(Monitor *mon, const ColoSetupFindingList *found)
{
    for (; found; found = found->next) {
        monitor_printf(mon, "%s %s: %s: %s\n",
                       ColoSetupSubject_str(found->value->subject),
                       found->value->name, found->value->message,
                       found->value->cure);
    }
}

void hmp_colo_protect(Monitor *mon, const QDict *qdict)
{
    const char *mode_name = qdict_get_try_str(qdict, "mode");
    int64_t port = qdict_get_try_int(qdict, "port", 0);
    bool check_only = qdict_get_try_bool(qdict, "check", false);
    g_autoptr(ColoSetupFindingList) found = NULL;
    Error *err = NULL;
    int role, mode;

    role = qapi_enum_parse(&ReplicationMode_lookup,
                           qdict_get_str(qdict, "role"), -1, &err);
    mode = err ? -1 : qapi_enum_parse(&ColoSyncMode_lookup, mode_name,
                                      COLO_SYNC_MODE_HYBRID, &err);
    if (!err && (port < 0 || port > UINT16_MAX)) {
        error_setg(&err, "there is no port %" PRId64, port);
    }
    if (!err) {
        found = qmp_x_colo_protect(role, qdict_get_str(qdict, "host"), port,
                                   port, true, mode, false, NULL, false, NULL,
                                   qdict_get_try_str(qdict, "folder"), false,
                                   0, false, false, true, check_only, &err);
    }
    print_findings(mon, found);
    hmp_handle_error(mon, err);
}

void hmp_colo_unprotect(Monitor *mon, const QDict *qdict)
{
    Error *err = NULL;

    qmp_x_colo_unprotect(&err);
    hmp_handle_error(mon, err);
}
