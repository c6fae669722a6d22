/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: is the network set up for a session?  What is refused, and which NICs
 * and streams are not covered.
 *
 * Both sides, under the BQL.  All that looks at how NICs, netdevs, filters and
 * streams are put together is here; what an end of a stream says of itself is
 * checked where it is read (stream.c).
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "chardev/char.h"
#include "net/colo.h"
#include "net/filter.h"
#include "net/net.h"
#include "net/vhost_net.h"
#include "qom/object.h"
#include "filter-redirector.h"
#include "stream-end.h"
#include "system/runstate.h"

/* Refused */

static void refuse_vhost(NICState *nic, void *opaque)
{
    NetClientState *nc = qemu_get_queue(nic);
    Error **errp = opaque;

    /* Other models leave the vhost of their netdev alone */
    if (g_str_has_prefix(nc->model, "virtio-net") &&
        nc->peer && get_vhost_net(nc->peer) && !*errp) {
        error_setg(errp, "x-colo cannot protect a guest with the network "
                   "device '%s': vhost of netdev '%s' carries its packets past "
                   "QEMU; use vhost=off", nc->name, nc->peer->name);
    }
}

bool colo_net_check(Error **errp)
{
    ERRP_GUARD();

    qemu_foreach_nic(refuse_vhost, errp);
    return !*errp;
}

bool colo_netdev_del_refused(const NetClientState *netdev, Error **errp)
{
    /* Who has no peer any more is of no use to the guest */
    if (!netdev->peer ||
        !(migration_in_colo_state() || migration_incoming_in_colo_state())) {
        return false;
    }
    error_setg(errp, "'netdev_del' is not possible while a COLO pair exists: "
               "'%s' is connected to netdev '%s'", netdev->peer->name,
               netdev->name);
    return true;
}

/* Not covered */

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

/* The chardev that @end of @obj names, NULL if it names none */
static char *chardev_of(Object *obj, const char *end)
{
    char *id = object_property_get_str(obj, end, NULL);

    /* What is not set reads as empty */
    if (id && !*id) {
        g_clear_pointer(&id, g_free);
    }
    return id;
}

/*
 * The first filter of that type that works on @netdev in @direction, with a
 * stream @end if not NULL; or NULL
 */
static NetFilterState *find_filter(NetClientState *netdev, const char *type,
                                   NetFilterDirection direction,
                                   const char *end)
{
    NetFilterState *nf;

    QTAILQ_FOREACH(nf, &netdev->filters, next) {
        g_autofree char *id = NULL;

        if (!nf->on || !object_dynamic_cast(OBJECT(nf), type) ||
            colo_redirector_is_spent(nf) ||
            (nf->direction != direction &&
             nf->direction != NET_FILTER_DIRECTION_ALL)) {
            continue;
        }
        id = end ? chardev_of(OBJECT(nf), end) : NULL;
        if (!end || id) {
            return nf;
        }
    }
    return NULL;
}

static bool precedes(NetFilterState *nf, NetFilterState *other)
{
    while (nf && nf != other) {
        nf = QTAILQ_NEXT(nf, next);
    }
    return nf;
}

static const char *id_of(NetFilterState *nf)
{
    return object_get_canonical_path_component(OBJECT(nf));
}

static int is_compare(Object *obj, void *opaque)
{
    return !!object_dynamic_cast(obj, "colo-compare");
}

static bool there_is_compare(void)
{
    return object_child_foreach(object_get_objects_root(), is_compare, NULL);
}

static void look_at_compare(Search *s, NetClientState *nc)
{
    NetClientState *netdev = nc->peer;
    bool out, in;

    if (find_filter(netdev, "filter-compare", NET_FILTER_DIRECTION_RX, NULL)) {
        return;
    }
    out = find_filter(netdev, "filter-redirector", NET_FILTER_DIRECTION_RX,
                      "outdev");
    in = find_filter(netdev, "filter-redirector", NET_FILTER_DIRECTION_RX,
                     "indev");
    if (!out && !in) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "nothing compares the output of '%s' with the secondary's: "
               "netdev '%s' needs filter-compare", nc->name, netdev->name);
    } else if (!out) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "the output of '%s' does not go to colo-compare: netdev '%s' "
               "needs a filter-redirector with queue=rx and outdev", nc->name,
               netdev->name);
    } else if (!in) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "the output of '%s' does not come back from colo-compare: "
               "netdev '%s' needs a filter-redirector with queue=rx and indev",
               nc->name, netdev->name);
    } else if (!there_is_compare()) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "nothing compares the output of '%s' with the secondary's: "
               "colo-compare is missing", nc->name);
    }
}

static NetFilterState *find_gate(NetClientState *netdev)
{
    return find_filter(netdev, "filter-output-commit",
                       NET_FILTER_DIRECTION_RX, NULL);
}

/* Filters of the secondary that this side was, like "'f2', 'f1'"; or NULL */
static char *names_of_spent(NetClientState *netdev)
{
    g_autoptr(GString) names = g_string_new(NULL);
    NetFilterState *nf;

    QTAILQ_FOREACH(nf, &netdev->filters, next) {
        if (colo_redirector_is_spent(nf)) {
            g_string_append_printf(names, "%s'%s'", names->len ? ", " : "",
                                   id_of(nf));
        }
    }
    return names->len ? g_strdup(names->str) : NULL;
}

static void look_at_compared_nic(Search *s, NetClientState *nc)
{
    NetClientState *netdev = nc->peer;
    g_autofree char *spent = names_of_spent(netdev);
    bool mirrored = find_filter(netdev, "filter-mirror",
                                NET_FILTER_DIRECTION_TX, NULL);

    if (spent && !mirrored) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "netdev '%s' has filters of the secondary that this side was, "
               "%s: remove them with object-del, and add filter-compare and "
               "filter-mirror with position=head, to protect '%s' again",
               netdev->name, spent, nc->name);
        return;
    }
    look_at_compare(s, nc);
    if (!mirrored) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "the secondary's guest gets no input of '%s': netdev '%s' "
               "needs filter-mirror with queue=tx", nc->name, netdev->name);
    }
}

static void look_at_primary_nic(Search *s, NetClientState *nc)
{
    NetClientState *netdev = nc->peer;
    NetFilterState *gate = find_gate(netdev);

    if (gate && s->mode == COLO_SYNC_MODE_PERIODIC) {
        return;
    }
    if (gate) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "filter-output-commit '%s' holds the output of '%s' until the "
               "next checkpoint, and in hybrid mode there are few: set "
               "x-colo-mode to periodic before migrate, or use filter-mirror "
               "and filter-compare instead", id_of(gate), nc->name);
        return;
    }
    if (s->mode == COLO_SYNC_MODE_PERIODIC) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "nothing holds the output of '%s' until it is committed: add "
               "-object filter-output-commit,netdev=%s", nc->name,
               netdev->name);
        return;
    }
    look_at_compared_nic(s, nc);
}

static void look_at_rewriter(Search *s, NetClientState *nc,
                             NetFilterState *f1, NetFilterState *f2)
{
    NetClientState *netdev = nc->peer;
    NetFilterState *rew = find_filter(netdev, "filter-rewriter",
                                      NET_FILTER_DIRECTION_RX, NULL);
    NetFilterState *behind = rew && f2 && precedes(rew, f2) ? f2 :
                             rew && f1 && precedes(rew, f1) ? f1 : NULL;

    if (!rew) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "connections of '%s' differ from the primary's: netdev '%s' "
               "needs filter-rewriter", nc->name, netdev->name);
    } else if (behind) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "connections of '%s' differ from the primary's: "
               "filter-rewriter '%s' is before filter-redirector '%s', and has "
               "to be behind it", nc->name, id_of(rew), id_of(behind));
    } else if (netdev->vnet_hdr_len &&
               !object_property_get_bool(OBJECT(rew), "vnet_hdr_support",
                                         NULL)) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "connections of '%s' differ from the primary's: packets of '%s' "
               "have a vnet header, filter-rewriter '%s' needs "
               "vnet_hdr_support=on", nc->name, netdev->name, id_of(rew));
    }
}

/*
 * While the guest stands its NIC takes nothing, and without a gate what the
 * network sends waits in queues, the oldest of it.
 */
static void look_at_standing_nic(Search *s, NetClientState *nc)
{
    if (!find_gate(nc->peer)) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "after a failover '%s' would get packets that the network sent "
               "long before: add -object filter-output-commit,netdev=%s",
               nc->name, nc->peer->name);
    }
}

static bool has_filters_of_secondary(NetClientState *netdev)
{
    return find_filter(netdev, "filter-redirector", NET_FILTER_DIRECTION_TX,
                       "indev") ||
           find_filter(netdev, "filter-redirector", NET_FILTER_DIRECTION_RX,
                       "outdev") ||
           find_filter(netdev, "filter-rewriter", NET_FILTER_DIRECTION_RX,
                       NULL);
}

/* The primary, which knows the mode, has not been heard yet */
static void look_at_waiting_nic(Search *s, NetClientState *nc)
{
    if (!find_gate(nc->peer) && !has_filters_of_secondary(nc->peer)) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "'%s' has no filters: netdev '%s' needs filter-output-commit in "
               "periodic mode, and in hybrid mode filter-redirector, twice, "
               "and filter-rewriter", nc->name, nc->peer->name);
    }
}

static void look_at_hybrid_nic(Search *s, NetClientState *nc)
{
    NetClientState *netdev = nc->peer;
    NetFilterState *gate = find_gate(netdev);
    NetFilterState *f1 = find_filter(netdev, "filter-redirector",
                                     NET_FILTER_DIRECTION_TX, "indev");
    NetFilterState *f2 = find_filter(netdev, "filter-redirector",
                                     NET_FILTER_DIRECTION_RX, "outdev");

    if (gate) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "filter-output-commit '%s' lets nothing of '%s' pass, and in "
               "hybrid mode the secondary's guest runs: set x-colo-mode of the "
               "primary to periodic, or use filter-redirector and "
               "filter-rewriter instead", id_of(gate), nc->name);
        return;
    }
    if (!f1) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "'%s' does not get the input of the primary's guest: netdev "
               "'%s' needs a filter-redirector with indev and queue=tx",
               nc->name, netdev->name);
    }
    if (!f2) {
        report(s, COLO_PROBLEM_KIND_NIC, nc->name,
               "the output of '%s' does not go to the primary: netdev '%s' "
               "needs a filter-redirector with outdev and queue=rx", nc->name,
               netdev->name);
    }
    look_at_rewriter(s, nc, f1, f2);
}

static void look_at_nic(NICState *nic, void *opaque)
{
    NetClientState *nc = qemu_get_queue(nic);
    Search *s = opaque;

    /* Of a netdev that was deleted the NIC has the rest, which does nothing */
    if (!nc->peer || nic->peer_deleted) {
        return;
    }
    if (s->side == COLO_MODE_PRIMARY) {
        look_at_primary_nic(s, nc);
    } else if (s->mode == COLO_SYNC_MODE_HYBRID) {
        look_at_hybrid_nic(s, nc);
    } else if (runstate_check(RUN_STATE_COLO)) {
        look_at_standing_nic(s, nc);
    } else {
        look_at_waiting_nic(s, nc);
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
        id = chardev_of(obj, streams[i].end);
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
