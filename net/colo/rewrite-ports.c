/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: source ports of a secondary guest's connections.
 *
 * Secondary, pure.  Inner and outer ports, and what P opens, are explained in
 * net/colo/rewrite.h.
 */

#include "qemu/osdep.h"
#include "rewrite-int.h"

/* How far from its own a free port is searched for */
#define NEAR_PORTS      64

void colo_rewrite_ports_init(ColoRewrite *r)
{
    r->outers = g_hash_table_new(colo_flow_key_hash, colo_flow_key_equal);
    QTAILQ_INIT(&r->opens);
    r->opens_by_key = g_hash_table_new(colo_flow_key_hash,
                                       colo_flow_key_equal);
    r->servers = g_hash_table_new_full(colo_flow_key_hash, colo_flow_key_equal,
                                       NULL, g_free);
}

void colo_rewrite_ports_destroy(ColoRewrite *r)
{
    colo_rewrite_forget_opens(r);
    g_hash_table_unref(r->opens_by_key);
    g_hash_table_unref(r->servers);
    g_hash_table_unref(r->outers);
}

/* Outer keys */

ColoRewriteFlow *colo_rewrite_find_outer(ColoRewrite *r,
                                         const ColoFlowKey *outer)
{
    ColoRewriteFlow *f;

    colo_rewrite_settle(r, outer);
    f = g_hash_table_lookup(r->outers, outer);
    if (!f) {
        f = g_hash_table_lookup(r->flows, outer);
        if (f && colo_rewrite_is_mapped(f)) {
            return NULL;
        }
    }
    return f;
}

void colo_rewrite_set_outer(ColoRewrite *r, ColoRewriteFlow *f,
                            uint16_t port)
{
    if (colo_rewrite_is_mapped(f)) {
        g_hash_table_remove(r->outers, &f->outer);
    }
    f->outer.sport = port;
    if (colo_rewrite_is_mapped(f)) {
        r->maps = true;
        g_hash_table_insert(r->outers, &f->outer, f);
    }
}

/* What P opens */

static ColoFlowKey server_key(const ColoFlowKey *key)
{
    ColoFlowKey server = *key;

    server.sport = 0;
    return server;
}

static ColoRewriteServer *find_server(ColoRewrite *r, const ColoFlowKey *key)
{
    ColoFlowKey server = server_key(key);

    return g_hash_table_lookup(r->servers, &server);
}

static void open_add(ColoRewrite *r, const ColoFlowKey *key)
{
    ColoRewriteOpen *o = g_new0(ColoRewriteOpen, 1);

    o->key = *key;
    o->told_ms = r->now_ms;
    o->server = find_server(r, key);
    if (!o->server) {
        o->server = g_new0(ColoRewriteServer, 1);
        o->server->key = server_key(key);
        QTAILQ_INIT(&o->server->opens);
        g_hash_table_insert(r->servers, &o->server->key, o->server);
    }
    QTAILQ_INSERT_TAIL(&o->server->opens, o, of_server);
    QTAILQ_INSERT_TAIL(&r->opens, o, next);
    r->opens_count++;
    if (!g_hash_table_contains(r->opens_by_key, &o->key)) {
        g_hash_table_insert(r->opens_by_key, &o->key, o);
    }
}

static void open_remove(ColoRewrite *r, ColoRewriteOpen *o)
{
    if (g_hash_table_lookup(r->opens_by_key, &o->key) == o) {
        g_hash_table_remove(r->opens_by_key, &o->key);
    }
    QTAILQ_REMOVE(&o->server->opens, o, of_server);
    if (QTAILQ_EMPTY(&o->server->opens)) {
        g_hash_table_remove(r->servers, &o->server->key);
    }
    QTAILQ_REMOVE(&r->opens, o, next);
    r->opens_count--;
    g_free(o);
}

static void open_forget_oldest(ColoRewrite *r)
{
    open_remove(r, QTAILQ_FIRST(&r->opens));
    r->stats.opened_unused++;
}

void colo_rewrite_forget_opens(ColoRewrite *r)
{
    while (r->opens_count) {
        open_forget_oldest(r);
    }
}

void colo_rewrite_expire_opens(ColoRewrite *r)
{
    while (r->opens_count && r->now_ms - QTAILQ_FIRST(&r->opens)->told_ms >=
                             COLO_REWRITE_HANDSHAKE_MS) {
        open_forget_oldest(r);
    }
}

void colo_rewrite_set_told(ColoRewrite *r, bool told)
{
    r->told = told;
    if (!told) {
        colo_rewrite_forget_opens(r);
    }
}

/* A first segment of who connects */
static bool is_connect(const ColoPacket *p)
{
    return p->kind == COLO_PACKET_TCP &&
           (p->tcp_flags & (COLO_TCP_SYN | COLO_TCP_ACK | COLO_TCP_RST)) ==
           COLO_TCP_SYN;
}

void colo_rewrite_opened(ColoRewrite *r, const ColoPacket *p, int64_t now_ms)
{
    colo_rewrite_advance_clock(r, now_ms);
    if (!r->told || !is_connect(p)) {
        return;
    }
    if (r->opens_count == COLO_REWRITE_OPENS) {
        open_forget_oldest(r);
    }
    open_add(r, &p->key);
    r->stats.opened++;
}

/* Which port a connect gets */

/*
 * P would not use a port again if the connection was not over.  Of one that S
 * began itself the end is seen here; one that it has from P may have ended in a
 * load.
 */
static bool gives_way(const ColoRewriteFlow *f)
{
    return f->state == FLOW_CLOSING || (!f->sent_syn && !f->sent_syn_ack);
}

/* Would its outer key be that of @f alone? */
static bool open_fits(ColoRewrite *r, const ColoRewriteFlow *f,
                      const ColoRewriteOpen *o)
{
    const ColoRewriteFlow *user = colo_rewrite_find_outer(r, &o->key);

    return !user || user == f || gives_way(user);
}

static ColoRewriteOpen *find_open(ColoRewrite *r, const ColoRewriteFlow *f,
                                  const ColoFlowKey *key)
{
    ColoRewriteServer *server = find_server(r, key);
    ColoRewriteOpen *o;

    if (!server) {
        return NULL;
    }
    o = g_hash_table_lookup(r->opens_by_key, key);
    if (o && open_fits(r, f, o)) {
        return o;
    }
    QTAILQ_FOREACH(o, &server->opens, of_server) {
        if (open_fits(r, f, o)) {
            return o;
        }
    }
    return NULL;
}

static bool port_is_free(ColoRewrite *r, const ColoRewriteFlow *f,
                         const ColoFlowKey *outer)
{
    const ColoRewriteFlow *user = colo_rewrite_find_outer(r, outer);

    return !user || user == f;
}

/*
 * No open fits: its own port or, if that is taken, one near it.  What is free
 * is not that of an open, or that would fit.
 */
static bool find_port(ColoRewrite *r, const ColoRewriteFlow *f,
                      const ColoFlowKey *key, uint16_t *port)
{
    /* Not across either end of the numbers */
    int step = key->sport < 0x8000 ? 1 : -1;
    ColoFlowKey outer = *key;

    *port = key->sport;
    if (port_is_free(r, f, key)) {
        return true;
    }
    for (int i = 0; i < NEAR_PORTS; i++) {
        outer.sport += step;
        if (port_is_free(r, f, &outer)) {
            *port = outer.sport;
            return true;
        }
    }
    return false;
}

bool colo_rewrite_connect(ColoRewrite *r, const ColoRewriteFlow *f,
                          const ColoFlowKey *key, uint16_t *port)
{
    ColoRewriteOpen *o = find_open(r, f, key);
    ColoRewriteFlow *user;

    if (!o) {
        if (!find_port(r, f, key, port)) {
            return false;
        }
        r->stats.moved += *port != key->sport;
        return true;
    }
    *port = o->key.sport;
    user = colo_rewrite_find_outer(r, &o->key);
    if (user && user != f) {
        colo_rewrite_forget(r, user);
    }
    open_remove(r, o);
    r->stats.paired += *port != key->sport;
    return true;
}

/* What the filter asks */

/* Does it begin a connection other than @f? */
static bool begins(const ColoRewriteFlow *f, const ColoPacket *p)
{
    return is_connect(p) && (!f || colo_rewrite_is_new_syn(f, p));
}

bool colo_rewrite_awaits(ColoRewrite *r, const ColoPacket *p)
{
    const ColoRewriteFlow *f = colo_rewrite_find_inner(r, &p->key);

    return r->told && begins(f, p) && !find_open(r, f, &p->key);
}

bool colo_rewrite_must_drop(ColoRewrite *r, const ColoPacket *p)
{
    const ColoRewriteFlow *f;
    uint16_t port;

    if (p->kind != COLO_PACKET_TCP) {
        return false;
    }
    f = colo_rewrite_find_inner(r, &p->key);
    if (begins(f, p)) {
        return !find_open(r, f, &p->key) && !find_port(r, f, &p->key, &port);
    }
    return !f && g_hash_table_contains(r->outers, &p->key);
}

bool colo_rewrite_must_drop_input(ColoRewrite *r, const ColoPacket *p)
{
    ColoFlowKey key;

    if (p->kind != COLO_PACKET_TCP) {
        return false;
    }
    colo_flow_key_reverse(&p->key, &key);
    return !colo_rewrite_find_outer(r, &key) &&
           g_hash_table_contains(r->flows, &key);
}
