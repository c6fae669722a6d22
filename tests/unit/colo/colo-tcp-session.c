/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A model of a client, a network and two hosts: what leaves, checkpoints
 * and failures.
 */

#include "qemu/osdep.h"
#include "colo-tcp-world-int.h"

/* What leaves */

const TcpApp *tw_survivor(const TcpWorld *w)
{
    return w->cp == TCP_CP_LOAD ? w->snapshot : w->s->conns;
}

static void check_release(TcpWorld *w, const ColoPacket *p)
{
    unsigned conn = tw_packet_conn(p);
    const TcpEnd *e = &tw_survivor(w)[conn].end;
    const TcpEnd *c = &w->client[conn].end;
    bool known = c->state >= TCP_END_SYN_RCVD;
    uint32_t isn = known ? c->irs : w->client_isn[conn];
    uint32_t from = p->seq - isn, len = p->payload_len;
    bool fin = p->tcp_flags & COLO_TCP_FIN;

    if (p->tcp_flags & COLO_TCP_RST) {
        if (e->state == TCP_END_OPEN || e->state == TCP_END_SYN_RCVD) {
            tw_fault(w, "connection %u: a reset that the survivor would not "
                     "say", conn);
        }
        return;
    }
    if (e->state < TCP_END_SYN_SENT) {
        tw_fault(w, "connection %u: the survivor does not know it", conn);
        return;
    }
    if ((p->tcp_flags & COLO_TCP_ACK) && p->ack - c->iss > e->rcv_nxt) {
        tw_fault(w, "connection %u: position %u is acknowledged, the survivor "
                 "has got %u", conn, p->ack - c->iss, e->rcv_nxt);
    }
    if (p->tcp_flags & COLO_TCP_SYN) {
        return;
    }
    /*
     * After a failover in a handshake the survivor goes on with a SYN of its
     * own, until the client's answer tells what that has got.  What
     * acknowledges then has numbers that mean nothing.
     */
    if (!len && !fin && isn != w->client_isn[conn]) {
        return;
    }
    if (from + len + fin > e->max) {
        tw_fault(w, "connection %u: position %u leaves, the survivor has said "
                 "%u", conn, from + len, e->max);
    }
    if (fin && from + len != tcp_end_fin(e)) {
        tw_fault(w, "connection %u: a FIN that the survivor has not said",
                 conn);
    }
    for (uint32_t i = 0; i < len; i++) {
        if (p->data[p->payload + i] != tcp_end_byte(e, from + i)) {
            tw_fault(w, "connection %u: byte %u leaves, and is not what the "
                     "survivor would say", conn, from + i);
            return;
        }
    }
}

/* Of a segment that leaves because the secondary has said the same */
static void check_window(TcpWorld *w, const ColoPacket *p)
{
    unsigned conn = tw_packet_conn(p);

    bool compared = p->epoch >= w->committed && w->said_known &&
                    w->said_epoch == p->epoch && w->said[conn];

    if (compared && !(p->tcp_flags & (COLO_TCP_SYN | COLO_TCP_RST)) &&
        p->window > w->said_window[conn]) {
        tw_fault(w, "connection %u: a window of %u, the secondary offers %u",
                 conn, p->window, w->said_window[conn]);
    }
}

/* What the secondary says reaches the rules */
static void note_said(TcpWorld *w, const ColoPacket *p)
{
    unsigned conn = tw_packet_conn(p);

    if (!(p->tcp_flags & (COLO_TCP_SYN | COLO_TCP_RST))) {
        w->said_window[conn] = w->said[conn] ? MAX(w->said_window[conn],
                                                   p->window) : p->window;
        w->said[conn] = true;
    }
}

static void on_release(void *opaque, ColoPacket *p)
{
    TcpWorld *w = opaque;

    w->result->released++;
    tw_trace(w, "leaves", p, 0);
    if (w->holding && w->s) {
        check_release(w, p);
        check_window(w, p);
    }
    tw_leaves(w, p);
}

static void on_need(void *opaque, ColoMatchNeed why, uint64_t epoch)
{
    TcpWorld *w = opaque;

    w->result->needs++;
    tw_trace(w, "asks", NULL, why);
    w->needed |= 1u << why;
}

static void on_withdraw(void *opaque, ColoMatchNeed why, uint64_t epoch)
{
    TcpWorld *w = opaque;

    w->needed &= ~(1u << why);
}

static void on_begin(void *opaque, const ColoPacket *p)
{
    TcpWorld *w = opaque;

    tw_mirror(w, TCP_ITEM_BEGIN, colo_packet_copy(p), 0);
}

void tw_engine_gets(TcpWorld *w)
{
    TcpItem *item;

    while ((item = tw_pipe_get(&w->from_primary, w->now))) {
        if (item->kind == TCP_ITEM_CUT) {
            w->needed = 0;
            w->holding = true;
            colo_match_primary_cut(w->match, item->epoch, w->now);
        } else {
            item->p->arrived_ms = w->now;
            colo_match_primary(w->match, g_steal_pointer(&item->p));
        }
        tw_item_free(item);
    }
    if (tw_pipe_due(&w->from_secondary) > w->now) {
        return;
    }
    colo_match_begin_read(w->match);
    while ((item = tw_pipe_get(&w->from_secondary, w->now))) {
        if (item->kind == TCP_ITEM_CUT) {
            memset(w->said, 0, sizeof(w->said));
            w->said_known = true;
            w->said_epoch = item->epoch;
            colo_match_secondary_cut(w->match, item->epoch, w->now);
        } else {
            item->p->arrived_ms = w->now;
            w->result->compared++;
            note_said(w, item->p);
            colo_match_secondary(w->match, g_steal_pointer(&item->p));
        }
        tw_item_free(item);
    }
    colo_match_end_read(w->match);
}

/* Sessions and checkpoints */

static const ColoMatchConfig match_config = {
    .timeout_ms = TCP_COMPARE_MS,
    .max_packets = 4096,
    .max_bytes = 64 * 1024 * 1024,
    .max_flows = 64,
    .idle_ms = 60 * 1000,
};

static const ColoMatchOps match_ops = {
    .release = on_release,
    .need = on_need,
    .withdraw = on_withdraw,
    .begin = on_begin,
};

static void checkpoint(TcpWorld *w)
{
    w->cut++;
    tw_trace(w, "cut", NULL, w->cut);
    w->cp = TCP_CP_STOP;
    w->cp_due = w->now + 1 + below(w, w->plan->stop_ms);
    w->result->checkpoints++;
    tw_host_stop(w, w->p);
    tw_pipe_put(&w->from_primary, TCP_ITEM_CUT, NULL, w->cut, w->now);
    tw_mirror(w, TCP_ITEM_CUT, NULL, w->cut);
    memcpy(w->snapshot, w->p->conns, sizeof(w->snapshot));
    w->snapshot_lag = w->now - tw_vm_now(w, w->p);
    w->snapshot_ms = w->now;
    if (w->p->rewriter) {
        w->export = colo_rewrite_export(w->p->rewriter);
    }
}

void tw_session_begin(TcpWorld *w)
{
    w->match = colo_match_new(&match_config, &match_ops, w);
    w->s = &w->hosts[w->p == &w->hosts[0]];
    tw_host_cleanup(w->s);
    tw_host_init(w, w->s);
    w->s->rewriter = colo_rewrite_new(64, 3600 * 1000);
    w->s_known = false;
    w->said_known = false;
    w->input_epoch = 0;
    w->loaded = UINT64_MAX;
    w->cut = UINT64_MAX;
    w->committed = 0;
    w->needed = 0;
    colo_match_arm(w->match);
    tw_mirror(w, TCP_ITEM_BEGIN, NULL, 0);
    checkpoint(w);
}

static void load(TcpWorld *w)
{
    TcpHost *s = w->s;

    memcpy(s->conns, w->snapshot, sizeof(s->conns));
    for (unsigned i = 0; i < TCP_CONNS; i++) {
        TcpSpeaker speaker = tw_host_speaker(w, s, i);

        tcp_app_vary(&s->conns[i], &speaker);
    }
    s->lag_ms = w->snapshot_lag + (w->now - w->snapshot_ms);
    s->running = true;
    tw_queue_clear(&s->waiting);
    colo_rewrite_load(s->rewriter);
    if (w->export) {
        if (!colo_rewrite_import(s->rewriter, w->export->data, w->export->len,
                                 w->now)) {
            tw_fault(w, "the rewriter's state is refused");
        }
        g_clear_pointer(&w->export, g_byte_array_unref);
    }
    w->loaded = w->cut;
    tw_trace(w, "load", NULL, w->cut);
    w->s_known = true;
    w->cp = TCP_CP_NONE;
    w->cp_due = w->plan->checkpoint_ms
                ? w->now + 1 + below(w, w->plan->checkpoint_ms * 2)
                : INT64_MAX;
    if (w->p) {
        tw_pipe_put(&w->from_secondary, TCP_ITEM_CUT, NULL, w->cut,
                    tw_stream_due(w));
    }
    tw_secondary_takes_kept(w, false);
}

void tw_checkpoint_step(TcpWorld *w)
{
    TcpItem *item;

    switch (w->cp) {
    case TCP_CP_NONE:
        checkpoint(w);
        break;
    case TCP_CP_STOP:
        w->cp = TCP_CP_TRANSFER;
        w->cp_due = w->now + below(w, w->plan->transfer_ms + 1);
        tw_host_start(w, w->p);
        while ((item = g_queue_pop_head(&w->p->kept))) {
            tw_primary_gets(w, g_steal_pointer(&item->p));
            tw_item_free(item);
        }
        break;
    case TCP_CP_TRANSFER:
        /* The secondary has it: that is the commit */
        w->cp = TCP_CP_LOAD;
        w->cp_due = w->now + 1 + below(w, w->plan->load_ms);
        w->commit_due = w->now + below(w, w->plan->lag_ms + 1);
        tw_host_stop(w, w->s);
        break;
    case TCP_CP_LOAD:
        load(w);
        break;
    }
}

bool tw_checkpoint_may_begin(const TcpWorld *w)
{
    return w->p && w->s && w->cp == TCP_CP_NONE && w->commit_due == INT64_MAX;
}

/* A guest errs: what it says from now on is something else */
void tw_err(TcpWorld *w)
{
    unsigned conn = below(w, TCP_CONNS);
    TcpHost *h = one_in(w, 4) ? w->p : w->s;

    if (h && h->running) {
        tcp_app_change(&h->conns[conn], 1 + below(w, 255));
    }
}

/* Failures */

void tw_session_drop(TcpWorld *w)
{
    colo_match_free(g_steal_pointer(&w->match));
    tw_pipe_clear(&w->from_primary);
    tw_pipe_clear(&w->from_secondary);
    w->holding = false;
    w->commit_due = INT64_MAX;
    w->needed = 0;
}

/* What the client has got must be what the survivor goes on with */
static void check_failover(TcpWorld *w)
{
    for (unsigned i = 0; i < TCP_CONNS; i++) {
        const TcpEnd *c = &w->client[i].end;
        const TcpEnd *e = &tw_survivor(w)[i].end;
        const TcpEnd *g = &w->p->conns[i].end;

        for (uint32_t pos = 1; c->state >= TCP_END_OPEN &&
             pos < 1 + w->plan->conns[i].to_client; pos++) {
            if (tcp_end_has_got(c, pos) &&
                tcp_end_byte(e, pos) != tcp_end_byte(g, pos)) {
                tw_fault(w, "connection %u: the client has byte %u, and the "
                         "survivor goes on with another one", i, pos);
                break;
            }
        }
    }
}

static void primary_fails(TcpWorld *w)
{
    unsigned keep_items = below(w, w->to_secondary.items.length + 1);
    TcpItem *item;

    tw_trace(w, "P fails", NULL, 0);
    check_failover(w);
    tw_session_drop(w);
    tw_host_cleanup(w->p);
    w->p = NULL;
    /* Some of it had come as far as the secondary's host */
    while (w->to_secondary.items.length > keep_items) {
        tw_item_free(g_queue_pop_tail(&w->to_secondary.items));
    }
    while ((item = g_queue_pop_head(&w->to_secondary.items))) {
        tw_secondary_gets(w, item);
    }
    if (w->cp != TCP_CP_LOAD) {
        w->cp = TCP_CP_NONE;
        w->cp_due = INT64_MAX;
        g_clear_pointer(&w->export, g_byte_array_unref);
    }
    w->live_due = w->now + 10 + below(w, TCP_DETECT_MS);
    w->result->failovers++;
}

void tw_secondary_goes_live(TcpWorld *w)
{
    if (w->cp == TCP_CP_LOAD) {
        load(w);
    }
    tw_trace(w, "S is live", NULL, 0);
    w->s_live = true;
    colo_rewrite_set_told(w->s->rewriter, false);
    tw_waiting_look(w, w->s, true);
    colo_rewrite_set_live(w->s->rewriter);
    tw_secondary_takes_kept(w, true);
    w->p = w->s;
    w->s = NULL;
    w->s_live = false;
    w->cp = TCP_CP_NONE;
    w->cp_due = INT64_MAX;
    w->live_due = INT64_MAX;
}

static void secondary_fails(TcpWorld *w)
{
    TcpItem *item;

    tw_engine_gets(w);
    w->holding = false;
    colo_match_open(w->match);
    tw_session_drop(w);
    tw_pipe_clear(&w->to_secondary);
    tw_host_cleanup(w->s);
    w->s = NULL;
    w->cp = TCP_CP_NONE;
    w->cp_due = INT64_MAX;
    g_clear_pointer(&w->export, g_byte_array_unref);
    if (!w->p->running) {
        tw_host_start(w, w->p);
        while ((item = g_queue_pop_head(&w->p->kept))) {
            tw_primary_gets(w, g_steal_pointer(&item->p));
            tw_item_free(item);
        }
    }
    w->result->failovers++;
}

void tw_fail(TcpWorld *w)
{
    if (!w->s || !w->p || !w->s_known) {
        /* There is no pair: later */
        w->fail_due = w->s || w->session_due != INT64_MAX ? w->now + 50
                                                          : INT64_MAX;
        return;
    }
    if (w->plan->primary_fails && !one_in(w, 8)) {
        primary_fails(w);
    } else {
        secondary_fails(w);
    }
    w->fail_due = INT64_MAX;
    if (w->result->failovers <= w->plan->sessions_again) {
        w->session_due = w->now + TCP_DETECT_MS + 50 + below(w, 500);
        w->fail_due = w->session_due + below(w, 4000);
    }
}
