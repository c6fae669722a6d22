/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO setup: filters and streams of NICs that may be in use.
 *
 * Main loop, BQL.  In periodic mode each NIC gets a gate, on either side.  In
 * hybrid mode it gets what docs/system/qemu-colo.rst shows, but the secondary
 * listens for both streams.
 *
 * Without a session all these filters let everything pass, so on a primary the
 * guest notices nothing of them, and on a secondary it does not run yet.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qjson.h"
#include "net/filter.h"
#include "net/net.h"
#include "nics.h"

/* Of a pair, here before this one is set up; they would be in the way */
static const char *const pair_filters[] = {
    "filter-output-commit", "filter-mirror", "filter-redirector",
    "filter-compare", "filter-rewriter",
};

typedef struct NicSearch {
    ColoSetupSearch *search;
    GPtrArray *nics;
} NicSearch;

static bool is_in_the_way(ColoSetupSearch *search, NetFilterState *nf)
{
    /* A survivor's goes on with the connections that it knows */
    if (search->role == REPLICATION_MODE_PRIMARY &&
        object_dynamic_cast(OBJECT(nf), "filter-rewriter")) {
        return false;
    }
    for (int i = 0; i < ARRAY_SIZE(pair_filters); i++) {
        if (object_dynamic_cast(OBJECT(nf), pair_filters[i])) {
            return true;
        }
    }
    return false;
}

static void look_at_filters(ColoSetupSearch *search, NetClientState *netdev)
{
    NetFilterState *nf;

    QTAILQ_FOREACH(nf, &netdev->filters, next) {
        const char *id = object_get_canonical_path_component(OBJECT(nf));

        if (!is_in_the_way(search, nf) ||
            colo_setup_has_made(COLO_SETUP_STEP_KIND_FILTER, id)) {
            continue;
        }
        colo_setup_find(search, COLO_SETUP_SUBJECT_NIC, netdev->name,
                        g_strdup_printf("netdev '%s' has %s '%s' already",
                                        netdev->name,
                                        object_get_typename(OBJECT(nf)), id),
                        g_strdup_printf("remove it by object-del, or leave "
                                        "'%s' out of 'nics'", netdev->name));
    }
}

static void take_nic(NICState *nic, void *opaque)
{
    NicSearch *s = opaque;
    NetClientState *nc = qemu_get_queue(nic);

    if (nc->peer && !nic->peer_deleted) {
        g_ptr_array_add(s->nics, g_strdup(nc->peer->name));
    }
    if (nc->peer && !nic->peer_deleted && nic->conf->peers.queues > 1) {
        colo_setup_find(s->search, COLO_SETUP_SUBJECT_NIC, nc->peer->name,
                        g_strdup_printf("netdev '%s' has several queues",
                                        nc->peer->name),
                        g_strdup("start the guest with queues=1"));
    }
}

static gint by_name(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_among(const GPtrArray *names, const char *name)
{
    return g_ptr_array_find_with_equal_func((GPtrArray *)names, name,
                                            g_str_equal, NULL);
}

static GPtrArray *choose(ColoSetupSearch *search, const GPtrArray *all,
                         const strList *wanted)
{
    GPtrArray *nics = g_ptr_array_new_with_free_func(g_free);

    for (const strList *w = wanted; w; w = w->next) {
        if (!is_among(all, w->value)) {
            colo_setup_find(search, COLO_SETUP_SUBJECT_NIC, w->value,
                            g_strdup_printf("no NIC has a netdev '%s'",
                                            w->value),
                            g_strdup("info network has their names"));
        } else if (!is_among(nics, w->value)) {
            g_ptr_array_add(nics, g_strdup(w->value));
        }
    }
    return nics;
}

GPtrArray *colo_setup_nics(ColoSetupSearch *search, bool has_wanted,
                           const strList *wanted)
{
    NicSearch s = {
        .search = search,
        .nics = g_ptr_array_new_with_free_func(g_free),
    };

    qemu_foreach_nic(take_nic, &s);
    if (has_wanted) {
        GPtrArray *all = s.nics;

        s.nics = choose(search, all, wanted);
        g_ptr_array_unref(all);
    }
    g_ptr_array_sort(s.nics, by_name);
    for (unsigned i = 0; i < s.nics->len; i++) {
        NetClientState *netdev = qemu_find_netdev(s.nics->pdata[i]);

        if (netdev) {
            look_at_filters(search, netdev);
        }
    }
    return s.nics;
}

static bool make_filter(ColoSetup *s, const char *what, unsigned n,
                        QDict *options, Error **errp)
{
    g_autofree char *id = g_strdup_printf("colo-%s%u", what, n);

    return colo_step_filter(&s->steps, id, options, errp);
}

static bool make_stream(ColoSetup *s, const char *id, uint16_t port,
                        Error **errp)
{
    return colo_step_chardev(&s->steps, id, s->host, port,
                             s->role == REPLICATION_MODE_SECONDARY, errp);
}

/* Each is put before all others, so the last one is next to the network */
static bool make_primary(ColoSetup *s, unsigned n, const char *netdev,
                         const char *in, const char *out, Error **errp)
{
    return make_filter(s, "compare", n, qdict_from_jsonf_nofail(
                           "{'qom-type': 'filter-compare', 'netdev': %s,"
                           "'queue': 'rx', 'secondary-in': %s,"
                           "'vnet-hdr-support': true, 'position': 'head'}",
                           netdev, out), errp) &&
           make_filter(s, "mirror", n, qdict_from_jsonf_nofail(
                           "{'qom-type': 'filter-mirror', 'netdev': %s,"
                           "'queue': 'tx', 'outdev': %s,"
                           "'vnet_hdr_support': true, 'position': 'head'}",
                           netdev, in), errp);
}

static bool make_secondary(ColoSetup *s, unsigned n, const char *netdev,
                           const char *in, const char *out, Error **errp)
{
    return make_filter(s, "input", n, qdict_from_jsonf_nofail(
                           "{'qom-type': 'filter-redirector', 'netdev': %s,"
                           "'queue': 'tx', 'indev': %s,"
                           "'vnet_hdr_support': true}", netdev, in), errp) &&
           make_filter(s, "output", n, qdict_from_jsonf_nofail(
                           "{'qom-type': 'filter-redirector', 'netdev': %s,"
                           "'queue': 'rx', 'outdev': %s,"
                           "'vnet_hdr_support': true}", netdev, out), errp) &&
           make_filter(s, "rewriter", n, qdict_from_jsonf_nofail(
                           "{'qom-type': 'filter-rewriter', 'netdev': %s,"
                           "'queue': 'all', 'vnet_hdr_support': true}",
                           netdev), errp);
}

static bool make_hybrid(ColoSetup *s, unsigned n, const char *netdev,
                        Error **errp)
{
    /* One that is removed while it connects is there until that has ended */
    g_autofree char *in = g_strdup_printf("colo-in%u-%u", n, s->attempt);
    g_autofree char *out = g_strdup_printf("colo-out%u-%u", n, s->attempt);
    uint16_t port = s->first_port + COLO_SETUP_PORT_NICS + 2 * n;

    if (!make_stream(s, in, port, errp) ||
        !make_stream(s, out, port + 1, errp)) {
        return false;
    }
    return s->role == REPLICATION_MODE_PRIMARY
           ? make_primary(s, n, netdev, in, out, errp)
           : make_secondary(s, n, netdev, in, out, errp);
}

bool colo_setup_make_nics(ColoSetup *s, const GPtrArray *nics, Error **errp)
{
    for (unsigned i = 0; i < nics->len; i++) {
        const char *netdev = nics->pdata[i];

        if (s->mode == COLO_SYNC_MODE_HYBRID
            ? !make_hybrid(s, i, netdev, errp)
            : !make_filter(s, "gate", i, qdict_from_jsonf_nofail(
                               "{'qom-type': 'filter-output-commit',"
                               "'netdev': %s}", netdev), errp)) {
            return false;
        }
    }
    return true;
}
