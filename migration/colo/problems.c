/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what keeps the guest from being protected as a whole: devices that no
 * session can have; disks, NICs and streams that a session does not cover.
 *
 * Both sides, under the BQL.  Whatever is found is found anew each time: all of
 * it can be plugged and unplugged.  Streams tell when they change.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/util.h"
#include "block/replication.h"
#include "net/colo.h"
#include "system/block-backend.h"
#include "disks.h"
#include "heartbeat.h"
#include "problems.h"

static void append(void *opaque, ColoProblemKind kind, const char *name,
                   const char *message)
{
    ColoProblemList ***tail = opaque;
    ColoProblem *problem = g_new0(ColoProblem, 1);

    problem->kind = kind;
    problem->name = g_strdup(name);
    problem->message = g_strdup(message);
    QAPI_LIST_APPEND(*tail, problem);
}

static void append_disk(void *opaque, const char *name, const char *message)
{
    append(opaque, COLO_PROBLEM_KIND_DISK, name, message);
}

static void look_at_disk(BlockBackend *blk, ReplicationMode role,
                         ColoProblemList ***tail)
{
    g_autofree char *name = NULL;
    g_autofree char *message = NULL;
    g_autoptr(Error) err = NULL;

    if (replication_covers(blk_bs(blk), role)) {
        return;
    }
    name = colo_disk_name(blk);
    replication_check_covered(blk_bs(blk), role, &err);
    message = g_strdup_printf("disk '%s' is writable and not replicated%s%s: "
                              "after a failover it may lack writes that the "
                              "guest was told are done", name,
                              err ? ", " : "",
                              err ? error_get_pretty(err) : "");
    append_disk(tail, name, message);
}

/* A secondary that belongs to no pair any more, nor ever will */
static bool has_ended(void)
{
    ColoSession *s = colo_session();

    return s && s->side == COLO_MODE_SECONDARY &&
           s->secondary.state == COLO_SECONDARY_STATE_ENDED;
}

static ReplicationMode role_of(COLOMode side)
{
    return side == COLO_MODE_PRIMARY ? REPLICATION_MODE_PRIMARY
                                     : REPLICATION_MODE_SECONDARY;
}

void colo_add_assumptions(COLOMode side, ColoProblemList **list)
{
    while (*list) {
        list = &(*list)->next;
    }
    replication_assumptions(role_of(side), append_disk, &list);
    colo_heartbeat_look(false, append, &list);
}

ColoProblemList *colo_problems(COLOMode side, ColoSyncMode mode)
{
    ReplicationMode role = role_of(side);
    ColoProblemList *list = NULL;
    ColoProblemList **tail = &list;

    if (has_ended()) {
        /* There is nothing to mend: the message says what has happened */
        return NULL;
    }
    if (!colo_session_active(side)) {
        /* No session begins with one, and none can be plugged meanwhile */
        colo_device_problems(append, &tail);
    }
    for (BlockBackend *blk = colo_disk_next(NULL); blk;
         blk = colo_disk_next(blk)) {
        look_at_disk(blk, role, &tail);
    }
    replication_problems(role, append_disk, &tail);
    colo_net_problems(side, mode, append, &tail);
    colo_heartbeat_look(true, append, &tail);
    return list;
}
