/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: flows of datagrams that differ in the source port alone.
 *
 * Primary, pure, one thread.  When a guest asks a server (DNS, NTP) its kernel
 * picks a port, so each guest asks from one of its own, and what the one has
 * said is never said by the other.  Two flows to the same server, one in which
 * only the primary has said something and one in which only the secondary has,
 * are taken for such a pair.
 *
 * Of each side the flow that spoke last alone is known, by its key: flows go.
 */

#include "qemu/osdep.h"
#include "match-int.h"

#define PROTO_UDP       17
/* Kernels pick no port below */
#define PICKED_PORTS    1024

typedef struct Alone {
    ColoFlowKey server;         /* the key without a source port */
    ColoFlowKey flow;
} Alone;

GHashTable *colo_match_alone_new(void)
{
    return g_hash_table_new_full(colo_flow_key_hash, colo_flow_key_equal,
                                 NULL, g_free);
}

static bool is_picked(const ColoFlowKey *key)
{
    return key->kind == COLO_PACKET_DATAGRAM && key->proto == PROTO_UDP &&
           key->sport >= PICKED_PORTS;
}

static ColoFlowKey server_of(const ColoFlowKey *flow)
{
    ColoFlowKey server = *flow;

    server.sport = 0;
    return server;
}

void colo_match_note_alone(ColoMatch *m, GHashTable *alone, const ColoFlow *f)
{
    Alone *a;

    if (!is_picked(&f->key) ||
        g_hash_table_size(alone) >= m->config.max_flows) {
        return;
    }
    a = g_new(Alone, 1);
    a->server = server_of(&f->key);
    a->flow = f->key;
    g_hash_table_replace(alone, &a->server, a);
}

ColoFlow *colo_match_find_alone(ColoMatch *m, GHashTable *alone,
                                const ColoFlow *f)
{
    ColoFlowKey server = server_of(&f->key);
    const Alone *a;

    if (!is_picked(&f->key)) {
        return NULL;
    }
    a = g_hash_table_lookup(alone, &server);
    return a && !colo_flow_key_equal(&a->flow, &f->key)
           ? colo_flow_find(&m->table, &a->flow) : NULL;
}
