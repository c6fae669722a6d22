/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A model of a client, a network and two hosts with a guest each, around the
 * rules of the COLO proxy and the rewriter.
 */

#include "qemu/osdep.h"
#include "colo-tcp-world-int.h"

/* Time */

static int64_t host_due(const TcpWorld *w, const TcpHost *h)
{
    int64_t due = INT64_MAX;

    for (unsigned i = 0; h && h->running && i < TCP_CONNS; i++) {
        due = MIN(due, tcp_app_deadline(&h->conns[i]));
    }
    return due == INT64_MAX ? due : due + h->lag_ms;
}

static int64_t waiting_due(const TcpHost *h)
{
    const TcpItem *item = h && h->waiting.head ? h->waiting.head->data : NULL;

    return item ? item->due : INT64_MAX;
}

static int64_t next_due(const TcpWorld *w)
{
    int64_t due = MIN(tw_pipe_due(&w->net_in), tw_pipe_due(&w->net_out));

    due = MIN(due, tw_pipe_due(&w->to_secondary));
    due = MIN(due, tw_pipe_due(&w->from_primary));
    due = MIN(due, tw_pipe_due(&w->from_secondary));
    due = MIN(due, MIN(host_due(w, w->p), host_due(w, w->s)));
    due = MIN(due, waiting_due(w->s));
    due = MIN(due, MIN(w->cp_due, w->commit_due));
    due = MIN(due, MIN(w->session_due, w->fail_due));
    due = MIN(due, MIN(w->live_due, w->err_due));
    for (unsigned i = 0; i < TCP_CONNS; i++) {
        due = MIN(due, tcp_app_deadline(&w->client[i]));
    }
    if (w->match) {
        due = MIN(due, colo_match_deadline_ms(w->match));
    }
    return due;
}

static void run_host(TcpWorld *w, TcpHost *h)
{
    for (unsigned i = 0; h && h->running && i < TCP_CONNS; i++) {
        if (tcp_app_deadline(&h->conns[i]) <= tw_vm_now(w, h)) {
            TcpSpeaker s = tw_host_speaker(w, h, i);

            tcp_app_run(&h->conns[i], &s, tw_vm_now(w, h));
        }
    }
}

static void run_network(TcpWorld *w)
{
    TcpItem *item;

    while ((item = tw_pipe_get(&w->net_in, w->now))) {
        if (w->p) {
            tw_primary_gets(w, g_steal_pointer(&item->p));
        }
        tw_item_free(item);
    }
    while (w->s && (item = tw_pipe_get(&w->to_secondary, w->now))) {
        tw_secondary_gets(w, item);
    }
    while ((item = tw_pipe_get(&w->net_out, w->now))) {
        tw_client_gets(w, g_steal_pointer(&item->p));
        tw_item_free(item);
    }
}

static void run_session(TcpWorld *w)
{
    if (w->session_due <= w->now) {
        w->session_due = INT64_MAX;
        tw_session_begin(w);
    }
    if (w->match) {
        tw_engine_gets(w);
        if (colo_match_deadline_ms(w->match) <= w->now) {
            colo_match_tick(w->match, w->now);
        }
    }
    if (w->commit_due <= w->now && w->match) {
        w->commit_due = INT64_MAX;
        w->committed = w->cut;
        tw_trace(w, "commit", NULL, w->cut);
        colo_match_commit(w->match, w->cut, w->now);
    }
    if (w->needed && tw_checkpoint_may_begin(w)) {
        w->cp_due = w->now;
    }
    if (w->cp_due <= w->now) {
        if (w->cp == TCP_CP_NONE && !tw_checkpoint_may_begin(w)) {
            w->cp_due = w->now + 1;
        } else {
            tw_checkpoint_step(w);
        }
    }
    if (w->err_due <= w->now) {
        tw_err(w);
        w->err_due = w->now + 1 + below(w, 2 * w->plan->err_ms);
    }
    if (w->fail_due <= w->now) {
        tw_fail(w);
    }
    if (w->live_due <= w->now) {
        tw_secondary_goes_live(w);
    }
}

/* How long has a connection stood still? */
static void note_progress(TcpWorld *w)
{
    for (unsigned i = 0; i < TCP_CONNS; i++) {
        const TcpEnd *e = &w->client[i].end;
        uint64_t progress = (uint64_t)e->state << 60 ^
                            (uint64_t)e->una << 30 ^ e->rcv_nxt;
        TcpProgress *p = &w->progress[i];

        w->result->rto_ms = MAX(w->result->rto_ms, e->rto_ms);
        if (p->over) {
            continue;
        }
        if (progress != p->at) {
            w->result->stall_ms = MAX(w->result->stall_ms,
                                      w->now - p->since_ms);
            p->at = progress;
            if (w->now - p->since_ms > 2000) {
                tw_trace(w, "stood still", NULL, i);
            }
            p->since_ms = w->now;
        }
        p->over = tcp_app_is_over(&w->client[i]);
    }
}

static bool is_over(const TcpWorld *w)
{
    for (unsigned i = 0; i < TCP_CONNS; i++) {
        if (!w->progress[i].over) {
            return false;
        }
    }
    return true;
}

static void world_init(TcpWorld *w)
{
    w->p = &w->hosts[0];
    tw_host_init(w, w->p);
    tw_host_start(w, w->p);
    w->net_in.reorders = w->net_out.reorders = true;
    w->session_due = w->fail_due = INT64_MAX;
    w->live_due = w->cp_due = w->commit_due = w->err_due = INT64_MAX;
    for (unsigned i = 0; i < TCP_CONNS; i++) {
        TcpSpeaker s = tw_client_speaker(w, i);

        tcp_app_init(&w->client[i], &s);
        w->client_ports[i] = w->plan->conns[i].guest_connects ? 0
                                                          : TCP_GUEST_PORT;
        w->progress[i].since_ms = w->plan->conns[i].start_ms;
        w->progress[i].at = (uint64_t)w->client[i].end.state << 60;
    }
}

static void check_end(TcpWorld *w)
{
    for (unsigned i = 0; i < TCP_CONNS; i++) {
        const TcpEnd *e = &w->client[i].end;
        const TcpPlan *plan = &w->plan->conns[i];

        if (!w->progress[i].over) {
            tw_fault(w, "connection %u does not come to its end: state %d, "
                     "sent %u of %u, got %u of %u", i, e->state, e->una,
                     plan->to_guest, e->rcv_nxt, plan->to_client);
        } else if (e->state == TCP_END_RESET &&
                   plan->abort == TCP_ABORT_NONE) {
            tw_fault(w, "connection %u was reset", i);
        } else if (e->state == TCP_END_CLOSED &&
                   (e->rcv_nxt != plan->to_client + 2 ||
                    e->una != plan->to_guest + 2)) {
            tw_fault(w, "connection %u ends, and bytes are missing", i);
        }
    }
}

void tcp_world_run(const TcpWorldPlan *plan, uint64_t seed,
                   const uint8_t *data, size_t size, bool proxy,
                   TcpWorldResult *result)
{
    g_autofree TcpWorld *w = g_new0(TcpWorld, 1);

    *result = (TcpWorldResult) { 0 };
    w->plan = plan;
    w->traces = g_getenv("COLO_TCP_TRACE");
    w->result = result;
    w->chance = (TcpChance) { data, size, seed };
    world_init(w);
    if (proxy) {
        w->session_due = plan->session_ms;
        w->fail_due = plan->fail_ms;
        w->err_due = plan->err_ms ? plan->session_ms + plan->err_ms
                                  : INT64_MAX;
    }
    while (!is_over(w) && !result->fault && w->now < TCP_WORLD_END_MS) {
        int64_t due = next_due(w);

        w->now = MAX(w->now, MIN(due, TCP_WORLD_END_MS));
        run_network(w);
        run_host(w, w->p);
        run_host(w, w->s);
        if (w->s && waiting_due(w->s) <= w->now) {
            tw_waiting_look(w, w->s, false);
        }
        for (unsigned i = 0; i < TCP_CONNS; i++) {
            if (tcp_app_deadline(&w->client[i]) <= w->now) {
                TcpSpeaker s = tw_client_speaker(w, i);

                tcp_app_run(&w->client[i], &s, w->now);
            }
        }
        run_session(w);
        note_progress(w);
    }
    check_end(w);
    result->end_ms = w->now;
    if (w->match) {
        tw_session_drop(w);
    }
    tw_pipe_clear(&w->net_in);
    tw_pipe_clear(&w->net_out);
    tw_pipe_clear(&w->to_secondary);
    tw_host_cleanup(&w->hosts[0]);
    tw_host_cleanup(&w->hosts[1]);
    g_clear_pointer(&w->export, g_byte_array_unref);
}
