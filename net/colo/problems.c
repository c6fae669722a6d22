/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: which NICs and streams are not covered.
 *
 * Both sides, under the BQL.
 */

#include "qemu/osdep.h"
#include "chardev/char.h"
#include "net/colo.h"
#include "net/filter.h"
#include "net/net.h"
#include "qom/object.h"
#include "stream-end.h"

typedef struct Search {
    COLOMode side;
    ColoSyncMode mode;
    ColoProblemFunc *found;
    void *opaque;
} Search;

static void G_GNUC_PRINTF(4, 5) report(Search *s, ColoProblemKind kind,
                                       const char *name, const char *fmt, ...)
{
    g_autofree char *message = NULL;
    va_list ap;

    va_start(ap, fmt);
    message = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    s->found(s->opaque, kind, name, message);
}

/* A filter of that type works on @netdev, and has a stream @end if not NULL */
static bool has_filter(NetClientState *netdev, const char *type,
                       const char *end)
{
    NetFilterState *nf;

    QTAILQ_FOREACH(nf, &netdev->filters, next) {
        if (nf->on && object_dynamic_cast(OBJECT(nf), type)) {
            g_autofree char *id =
                end ? object_property_get_str(OBJECT(nf), end, NULL) : NULL;

            if (!end || id) {
                return true;
            }
        }
    }
    return false;
}

static void look_at_primary_nic(Search *s, NetClientState *nc)
{
    NetClientState *netdev = nc->peer;

    if (s->mode == COLO_SYNC_MODE_PERIODIC) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "nothing holds the output of '%s' until it is committed: add "
               "-object filter-output-commit,netdev=%s", nc->name,
               netdev->name);
        return;
    }
    if (!has_filter(netdev, "filter-compare", NULL) &&
        !has_filter(netdev, "filter-redirector", NULL)) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "nothing compares the output of '%s' with the secondary's: "
               "netdev '%s' needs filter-compare", nc->name, netdev->name);
    }
    if (!has_filter(netdev, "filter-mirror", NULL)) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "the secondary's guest gets no input of '%s': netdev '%s' "
               "needs filter-mirror", nc->name, netdev->name);
    }
}

/* In hybrid mode */
static void look_at_secondary_nic(Search *s, NetClientState *nc)
{
    NetClientState *netdev = nc->peer;

    if (!has_filter(netdev, "filter-redirector", "indev")) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "'%s' does not get the input of the primary's guest: netdev "
               "'%s' needs a filter-redirector with indev", nc->name,
               netdev->name);
    }
    if (!has_filter(netdev, "filter-redirector", "outdev")) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "the output of '%s' does not go to the primary: netdev '%s' "
               "needs a filter-redirector with outdev", nc->name,
               netdev->name);
    }
    if (!has_filter(netdev, "filter-rewriter", NULL)) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "connections of '%s' differ from the primary's: netdev '%s' "
               "needs filter-rewriter", nc->name, netdev->name);
    }
}

static void look_at_nic(NICState *nic, void *opaque)
{
    NetClientState *nc = qemu_get_queue(nic);
    Search *s = opaque;

    /* A gate is enough in either mode, and on either side */
    if (!nc->peer || has_filter(nc->peer, "filter-output-commit", NULL)) {
        return;
    }
    if (s->side == COLO_MODE_PRIMARY) {
        look_at_primary_nic(s, nc);
    } else if (s->mode == COLO_SYNC_MODE_HYBRID) {
        look_at_secondary_nic(s, nc);
    }
}

/* In hybrid mode: the streams of each side, by object and property */
static const struct {
    COLOMode side;
    const char *type;
    const char *end;
} streams[] = {
    { COLO_MODE_PRIMARY, "filter-mirror", "outdev" },
    { COLO_MODE_PRIMARY, "filter-compare", "secondary-in" },
    { COLO_MODE_PRIMARY, "colo-compare", "primary_in" },
    { COLO_MODE_PRIMARY, "colo-compare", "secondary_in" },
    { COLO_MODE_PRIMARY, "colo-compare", "outdev" },
    { COLO_MODE_SECONDARY, "filter-redirector", "indev" },
    { COLO_MODE_SECONDARY, "filter-redirector", "outdev" },
};

static int look_at_object(Object *obj, void *opaque)
{
    Search *s = opaque;

    for (int i = 0; i < ARRAY_SIZE(streams); i++) {
        g_autofree char *id = NULL;
        g_autofree char *fault = NULL;
        Chardev *chr;

        if (streams[i].side != s->side ||
            !object_dynamic_cast(obj, streams[i].type)) {
            continue;
        }
        id = object_property_get_str(obj, streams[i].end, NULL);
        if (!id) {
            continue;
        }
        chr = qemu_chr_find(id);
        fault = colo_stream_end_fault(id);
        if (fault) {
            report(s, COLO_PROBLEM_KIND_STREAM, id, "%s", fault);
        } else if (!(chr && chr->be_open)) {
            report(s, COLO_PROBLEM_KIND_STREAM, id,
                   "chardev '%s', %s of %s '%s', is not connected", id,
                   streams[i].end, streams[i].type,
                   object_get_canonical_path_component(obj));
        }
    }
    return 0;
}

void colo_net_problems(COLOMode side, ColoSyncMode mode,
                       ColoProblemFunc *found, void *opaque)
{
    Search s = {
        .side = side, .mode = mode, .found = found, .opaque = opaque,
    };

    qemu_foreach_nic(look_at_nic, &s);
    if (mode == COLO_SYNC_MODE_HYBRID) {
        object_child_foreach(object_get_objects_root(), look_at_object, &s);
    }
}
