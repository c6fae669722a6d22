/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A model of a client, a network and two hosts: pipes, guests, and what
 * comes to them and to the client.
 */

#include "qemu/osdep.h"
#include "colo-tcp-world-int.h"

void tw_fault(TcpWorld *w, const char *format, ...)
{
    va_list ap;

    if (!w->result->fault) {
        g_autofree char *text = NULL;

        va_start(ap, format);
        text = g_strdup_vprintf(format, ap);
        va_end(ap);
        w->result->fault = g_strdup_printf("at %" PRId64 " ms: %s", w->now,
                                           text);
    }
}

/* With COLO_TCP_TRACE set: what happens */

void tw_trace(const TcpWorld *w, const char *what, const ColoPacket *p,
                     uint64_t n)
{
    g_autoptr(GString) text = NULL;

    if (!w->traces) {
        return;
    }
    text = g_string_new(NULL);
    g_string_append_printf(text, "%6" PRId64 " %-20s", w->now, what);
    if (!p) {
        g_string_append_printf(text, " %" PRIu64, n);
    } else {
        g_string_append_printf(text, " %u-%u %s%s%s%s %u+%u a%u w%u",
                               p->key.sport, p->key.dport,
                               p->tcp_flags & COLO_TCP_SYN ? "S" : "",
                               p->tcp_flags & COLO_TCP_FIN ? "F" : "",
                               p->tcp_flags & COLO_TCP_RST ? "R" : "",
                               p->tcp_flags & COLO_TCP_ACK ? "." : "",
                               p->seq, p->payload_len, p->ack, p->window);
        if (p->ts_off) {
            g_string_append_printf(text, " ts %u %u", colo_packet_tsval(p),
                                   colo_packet_tsecr(p));
        }
        for (uint32_t i = 0; i < p->sack_edges; i += 2) {
            g_string_append_printf(text, " [%u %u]",
                                   colo_packet_sack_edge(p, i),
                                   colo_packet_sack_edge(p, i + 1));
        }
    }
    puts(text->str);
}

/* Pipes */

static int by_due(gconstpointer a, gconstpointer b, gpointer opaque)
{
    const TcpItem *x = a, *y = b;

    return x->due > y->due ? 1 : x->due < y->due ? -1 : 0;
}

void tw_pipe_put(TcpPipe *pipe, TcpItemKind kind, ColoPacket *p,
                        uint64_t epoch, int64_t due)
{
    TcpItem *item = g_new(TcpItem, 1);
    GList *at = g_queue_peek_tail_link(&pipe->items);

    *item = (TcpItem) { .kind = kind, .p = p, .epoch = epoch, .due = due };
    if (!pipe->reorders) {
        item->due = MAX(due, pipe->last_due);
        pipe->last_due = item->due;
    }
    while (at && by_due(at->data, item, NULL) > 0) {
        at = at->prev;
    }
    g_queue_insert_after(&pipe->items, at, item);
}

TcpItem *tw_pipe_get(TcpPipe *pipe, int64_t now)
{
    TcpItem *item = g_queue_peek_head(&pipe->items);

    return item && item->due <= now ? g_queue_pop_head(&pipe->items) : NULL;
}

int64_t tw_pipe_due(const TcpPipe *pipe)
{
    const TcpItem *item = pipe->items.head ? pipe->items.head->data : NULL;

    return item ? item->due : INT64_MAX;
}

void tw_item_free(TcpItem *item)
{
    colo_packet_free(item->p);
    g_free(item);
}

void tw_pipe_clear(TcpPipe *pipe)
{
    TcpItem *item;

    while ((item = g_queue_pop_head(&pipe->items))) {
        tw_item_free(item);
    }
    pipe->last_due = 0;
}

int64_t tw_stream_due(TcpWorld *w)
{
    int64_t due = w->now + below(w, w->plan->lag_ms + 1);

    return one_in(w, 200) ? due + below(w, w->plan->hiccup_ms + 1) : due;
}

/* Hosts */

int64_t tw_vm_now(const TcpWorld *w, const TcpHost *h)
{
    return (h->running ? w->now : h->stopped_ms) - h->lag_ms;
}

void tw_host_stop(TcpWorld *w, TcpHost *h)
{
    if (h->running) {
        h->running = false;
        h->stopped_ms = w->now;
    }
}

void tw_host_start(TcpWorld *w, TcpHost *h)
{
    if (!h->running) {
        h->lag_ms += w->now - h->stopped_ms;
        h->running = true;
    }
}

TcpSpeaker tw_host_speaker(TcpWorld *w, TcpHost *h, unsigned conn)
{
    h->emits[conn] = (TcpEmit) { w, h, conn };
    return (TcpSpeaker) {
        .plan = &w->plan->conns[conn],
        .is_guest = true,
        .chance = &w->chance,
        .emit = tcp_world_host_says,
        .opaque = &h->emits[conn],
    };
}

TcpSpeaker tw_client_speaker(TcpWorld *w, unsigned conn)
{
    w->emits[conn] = (TcpEmit) { w, NULL, conn };
    return (TcpSpeaker) {
        .plan = &w->plan->conns[conn],
        .chance = &w->chance,
        .emit = tcp_world_client_says,
        .opaque = &w->emits[conn],
    };
}

void tw_host_init(TcpWorld *w, TcpHost *h)
{
    *h = (TcpHost) { .stopped_ms = w->now, .lag_ms = 0 };
    for (unsigned i = 0; i < TCP_CONNS; i++) {
        TcpSpeaker s = tw_host_speaker(w, h, i);

        tcp_app_init(&h->conns[i], &s);
    }
}

void tw_queue_clear(GQueue *q)
{
    TcpItem *item;

    while ((item = g_queue_pop_head(q))) {
        tw_item_free(item);
    }
}

void tw_host_cleanup(TcpHost *h)
{
    tw_queue_clear(&h->kept);
    tw_queue_clear(&h->waiting);
    colo_rewrite_free(h->rewriter);
    h->rewriter = NULL;
}

static ColoPacket *packet_new(const TcpSeg *s, uint16_t guest_port,
                              unsigned conn, bool to_guest)
{
    ColoTestTcp t = {
        .seq = s->seq, .ack = s->ack, .flags = s->flags, .window = s->window,
        .ts = s->ts, .tsval = s->tsval, .tsecr = s->tsecr,
        .sack_ok = s->sack_ok, .sacks = s->sacks, .sack = s->sack,
        .guest_port = guest_port, .peer_port = TCP_CLIENT_PORT + conn,
        .to_guest = to_guest, .data = s->data, .len = s->len,
    };

    return colo_test_tcp(&t);
}

unsigned tw_packet_conn(const ColoPacket *p)
{
    uint16_t port = p->key.sport >= TCP_CLIENT_PORT &&
                    p->key.sport < TCP_CLIENT_PORT + TCP_CONNS
                    ? p->key.sport : p->key.dport;

    return port - TCP_CLIENT_PORT;
}

/* The network */

static void net_send(TcpWorld *w, ColoPacket *p, TcpPipe *net)
{
    unsigned conn = tw_packet_conn(p);
    int64_t *good_until = &w->net_good_until[conn];
    int64_t due = w->now + w->plan->delay_ms + below(w,
                                                     w->plan->jitter_ms + 1);

    if (one_in(w, w->plan->repeats)) {
        tw_pipe_put(net, TCP_ITEM_PACKET, colo_packet_copy(p), 0,
                    due + below(w, 20));
    }
    /* One at a time: what follows of it is over before the next */
    if (w->now >= *good_until &&
        w->progress[conn].since_ms > *good_until - TCP_LOSS_GAP_MS &&
        !(p->tcp_flags & COLO_TCP_RST) &&
        one_in(w, w->plan->loses)) {
        *good_until = w->now + TCP_LOSS_GAP_MS;
        tw_trace(w, "lost", p, 0);
        colo_packet_free(p);
        return;
    }
    tw_pipe_put(net, TCP_ITEM_PACKET, p, 0, due);
}

/* The client */

void tcp_world_client_says(void *opaque, const TcpSeg *s)
{
    TcpEmit *e = opaque;
    TcpWorld *w = e->w;

    ColoPacket *p = packet_new(s, w->client_ports[e->conn], e->conn, true);

    tw_trace(w, "client says", p, 0);
    net_send(w, p, &w->net_in);
}

/* Whose words are right: those of the guest that the client talks to */
static const TcpEnd *authority(const TcpWorld *w, unsigned conn)
{
    const TcpApp *conns = w->p ? w->p->conns : tw_survivor(w);

    return &conns[conn].end;
}

static void client_check(TcpWorld *w, unsigned conn, const TcpSeg *in)
{
    const TcpEnd *c = &w->client[conn].end;
    const TcpEnd *g = authority(w, conn);
    uint32_t pos = in->seq - c->irs;

    if (c->state < TCP_END_SYN_RCVD || (in->flags & COLO_TCP_SYN)) {
        return;
    }
    for (uint32_t i = 0; i < in->len; i++) {
        if (in->data[i] != tcp_end_byte(g, pos + i)) {
            tw_fault(w, "connection %u: byte %u is not what the guest said",
                     conn, pos + i);
            return;
        }
    }
    if ((in->flags & COLO_TCP_FIN) &&
        pos + in->len != 1 + w->plan->conns[conn].to_client) {
        tw_fault(w, "connection %u: it ends after %u bytes", conn,
                 pos + in->len - 1);
    }
}

void tw_client_gets(TcpWorld *w, ColoPacket *p)
{
    unsigned conn = tw_packet_conn(p);
    TcpApp *a = &w->client[conn];
    TcpSpeaker s = tw_client_speaker(w, conn);
    TcpSeg in = tcp_seg_parse(p);

    tw_trace(w, "client gets", p, 0);
    if (!colo_test_tcp_checksum_ok(p)) {
        tw_fault(w, "connection %u: a bad checksum", conn);
    }
    if (a->end.state == TCP_END_LISTEN && in.flags == COLO_TCP_SYN) {
        w->client_ports[conn] = p->key.sport;
    } else if (w->client_ports[conn] != p->key.sport) {
        tw_fault(w, "connection %u: from port %u, not %u", conn, p->key.sport,
                 w->client_ports[conn]);
    }
    client_check(w, conn, &in);
    tcp_app_input(a, &s, &in, w->now);
    if (a->end.fault) {
        tw_fault(w, "connection %u: the client gets %s", conn, a->end.fault);
    }
    /*
     * In a network that keeps the order of all that it does not lose.  The
     * survivor of a host that was lost a moment ago does not know yet what
     * clients have seen of its clock, if none has echoed that.
     */
    if (a->end.paws_news && !w->plan->jitter_ms && !w->plan->repeats &&
        !w->result->failovers) {
        tw_fault(w, "connection %u: the client's clock has passed what it gets",
                 conn);
    }
    colo_packet_free(p);
}

/* A guest gets something */

static void host_gets(TcpWorld *w, TcpHost *h, ColoPacket *p)
{
    unsigned conn = tw_packet_conn(p);
    TcpApp *a = &h->conns[conn];
    const TcpEnd *c = &w->client[conn].end;
    TcpSpeaker s = tw_host_speaker(w, h, conn);
    bool drop = false;
    TcpSeg in;

    if (h->rewriter) {
        drop = colo_rewrite_must_drop_input(h->rewriter, p);
    }
    if (h->rewriter && !drop) {
        colo_rewrite_to_guest(h->rewriter, p, w->now);
    }
    tw_trace(w, drop ? "dropped" : h == w->p ? "P gets" : "S gets", p, 0);
    in = tcp_seg_parse(p);
    if (!colo_test_tcp_checksum_ok(p)) {
        tw_fault(w, "connection %u: a bad checksum for the guest", conn);
    }
    for (uint32_t i = 0; i < in.len; i++) {
        if (in.data[i] != tcp_end_byte(c, in.seq - c->iss + i)) {
            tw_fault(w, "connection %u: the guest gets other bytes", conn);
            break;
        }
    }
    if (p->key.dport == a->port && !drop) {
        tcp_app_input(a, &s, &in, tw_vm_now(w, h));
    }
    if (a->end.fault) {
        tw_fault(w, "connection %u: the %s's guest gets %s", conn,
                 h == w->p ? "primary" : "secondary", a->end.fault);
    }
    colo_packet_free(p);
}

static void keep(GQueue *q, TcpItemKind kind, ColoPacket *p, uint64_t epoch,
                 int64_t due)
{
    TcpItem *item = g_new(TcpItem, 1);

    *item = (TcpItem) { .kind = kind, .p = p, .epoch = epoch, .due = due };
    g_queue_push_tail(q, item);
}

void tw_leaves(TcpWorld *w, ColoPacket *p)
{
    if (p->tcp_flags & COLO_TCP_SYN) {
        w->client_isn[tw_packet_conn(p)] = p->seq;
    }
    net_send(w, p, &w->net_out);
}

/* Secondary: SYNs that wait for the primary's */

static void says_out(TcpWorld *w, TcpHost *h, ColoPacket *p)
{
    tw_trace(w, h == w->p ? "P says" : "S says", p, 0);
    if (h == w->s && w->p) {
        tw_pipe_put(&w->from_secondary, TCP_ITEM_PACKET, p, 0,
                    tw_stream_due(w));
    } else if (w->match && h == w->p) {
        tw_pipe_put(&w->from_primary, TCP_ITEM_PACKET, p, 0,
                    w->now + below(w, w->plan->lag_ms / 4 + 1));
    } else if (h == w->s && !w->s_live) {
        colo_packet_free(p);
    } else {
        tw_leaves(w, p);
    }
}

static void rewrite_out(TcpWorld *w, TcpHost *h, ColoPacket *p)
{
    if (h->rewriter && colo_rewrite_must_drop(h->rewriter, p)) {
        colo_packet_free(p);
        return;
    }
    if (h->rewriter) {
        colo_rewrite_from_guest(h->rewriter, p, w->now);
    }
    says_out(w, h, p);
}

void tw_waiting_look(TcpWorld *w, TcpHost *h, bool all)
{
    GQueue look = h->waiting;
    TcpItem *item;

    g_queue_init(&h->waiting);
    while ((item = g_queue_pop_head(&look))) {
        if (!all && w->now < item->due &&
            colo_rewrite_awaits(h->rewriter, item->p)) {
            g_queue_push_tail(&h->waiting, item);
        } else {
            rewrite_out(w, h, g_steal_pointer(&item->p));
            g_free(item);
        }
    }
}

void tcp_world_host_says(void *opaque, const TcpSeg *s)
{
    TcpEmit *e = opaque;
    TcpWorld *w = e->w;
    TcpHost *h = e->h;
    ColoPacket *p = packet_new(s, h->conns[e->conn].port, e->conn, false);

    if (h->rewriter && colo_rewrite_awaits(h->rewriter, p)) {
        keep(&h->waiting, TCP_ITEM_PACKET, p, 0, w->now + TCP_SYN_WAIT_MS);
        return;
    }
    rewrite_out(w, h, p);
}

/* Input: of the primary, and by a stream of the secondary */

void tw_mirror(TcpWorld *w, TcpItemKind kind, ColoPacket *p,
                      uint64_t epoch)
{
    if (w->s) {
        tw_pipe_put(&w->to_secondary, kind, p, epoch, tw_stream_due(w));
    } else {
        colo_packet_free(p);
    }
}

void tw_primary_gets(TcpWorld *w, ColoPacket *p)
{
    if (!w->p->running) {
        keep(&w->p->kept, TCP_ITEM_PACKET, p, 0, 0);
        return;
    }
    tw_mirror(w, TCP_ITEM_PACKET, colo_packet_copy(p), 0);
    host_gets(w, w->p, p);
}

static void secondary_takes(TcpWorld *w, TcpItem *item)
{
    unsigned conn;

    if (item->kind == TCP_ITEM_BEGIN) {
        if (!item->p) {
            colo_rewrite_set_told(w->s->rewriter, true);
        } else {
            colo_rewrite_opened(w->s->rewriter, item->p, w->now);
        }
        tw_waiting_look(w, w->s, false);
    } else {
        conn = tw_packet_conn(item->p);
        if (w->p && w->now >= w->nic_good_until[conn] &&
            !(item->p->tcp_flags & COLO_TCP_RST) &&
            one_in(w, w->plan->nic_loses)) {
            w->nic_good_until[conn] = w->now + TCP_LOSS_GAP_MS;
            tw_trace(w, "S loses", item->p, 0);
        } else {
            host_gets(w, w->s, g_steal_pointer(&item->p));
        }
    }
    tw_item_free(item);
}

void tw_secondary_gets(TcpWorld *w, TcpItem *item)
{
    if (item->kind == TCP_ITEM_CUT) {
        w->input_epoch = item->epoch;
        tw_item_free(item);
        return;
    }
    item->epoch = w->input_epoch;
    if (w->s->running && item->epoch == w->loaded &&
        g_queue_is_empty(&w->s->kept)) {
        secondary_takes(w, item);
    } else if (w->s_known && item->epoch < w->loaded) {
        tw_item_free(item);
    } else {
        g_queue_push_tail(&w->s->kept, item);
    }
}

/* After a load, or (@all) after the session */
void tw_secondary_takes_kept(TcpWorld *w, bool all)
{
    TcpItem *item;

    while ((item = g_queue_peek_head(&w->s->kept)) &&
           (all || item->epoch <= w->loaded)) {
        g_queue_pop_head(&w->s->kept);
        if (item->epoch < w->loaded) {
            tw_item_free(item);
        } else {
            secondary_takes(w, item);
        }
    }
}
