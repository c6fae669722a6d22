/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: the table of flows.
 *
 * Primary, one thread.  Everything is O(1) but for flows that are forgotten,
 * each of which is looked at once.
 */

#include "qemu/osdep.h"
#include "conn.h"

static void flow_free(void *opaque)
{
    ColoFlow *f = opaque;

    assert(QTAILQ_EMPTY(&f->primary) && QTAILQ_EMPTY(&f->secondary));
    assert(!f->tcp.secondary_syn && !f->doubted && !f->front_due);
    assert(f->ack.ack_state == COLO_ACK_TOLD &&
           f->ack.window_state != COLO_WINDOW_SHUT);
    colo_packet_free(f->ack.pending_window);
    g_free(f);
}

void colo_flow_table_init(ColoFlowTable *t, uint32_t max_flows)
{
    t->flows = g_hash_table_new_full(colo_flow_key_hash, colo_flow_key_equal,
                                     NULL, flow_free);
    t->max_flows = max_flows;
    for (int i = 0; i < COLO_FLOW__MAX; i++) {
        QTAILQ_INIT(&t->lists[i]);
    }
}

void colo_flow_table_destroy(ColoFlowTable *t)
{
    g_clear_pointer(&t->flows, g_hash_table_destroy);
}

void colo_flow_table_clear(ColoFlowTable *t)
{
    g_hash_table_remove_all(t->flows);
    for (int i = 0; i < COLO_FLOW__MAX; i++) {
        QTAILQ_INIT(&t->lists[i]);
    }
}

uint32_t colo_flow_table_size(const ColoFlowTable *t)
{
    return g_hash_table_size(t->flows);
}

ColoFlow *colo_flow_find(ColoFlowTable *t, const ColoFlowKey *key)
{
    return g_hash_table_lookup(t->flows, key);
}

static void flow_forget(ColoFlowTable *t, ColoFlow *f)
{
    QTAILQ_REMOVE(&t->lists[f->state], f, next);
    g_hash_table_remove(t->flows, &f->key);
}

static bool flow_table_make_place(ColoFlowTable *t)
{
    ColoFlow *f;

    if (colo_flow_table_size(t) < t->max_flows) {
        return true;
    }
    f = QTAILQ_FIRST(&t->lists[COLO_FLOW_ENDED]);
    if (!f) {
        f = QTAILQ_FIRST(&t->lists[COLO_FLOW_IDLE]);
    }
    if (!f) {
        return false;
    }
    flow_forget(t, f);
    return true;
}

ColoFlow *colo_flow_add(ColoFlowTable *t, const ColoFlowKey *key,
                        int64_t now_ms)
{
    ColoFlow *f;

    if (!flow_table_make_place(t)) {
        return NULL;
    }
    f = g_new0(ColoFlow, 1);
    f->key = *key;
    f->state = COLO_FLOW_IDLE;
    f->last_ms = now_ms;
    QTAILQ_INIT(&f->primary);
    QTAILQ_INIT(&f->secondary);
    QTAILQ_INSERT_TAIL(&t->lists[f->state], f, next);
    g_hash_table_insert(t->flows, &f->key, f);
    return f;
}

void colo_flow_touch(ColoFlowTable *t, ColoFlow *f, ColoFlowState state,
                     int64_t now_ms)
{
    f->last_ms = now_ms;
    if (state == COLO_FLOW_BUSY && f->state == COLO_FLOW_BUSY) {
        return;
    }
    QTAILQ_REMOVE(&t->lists[f->state], f, next);
    f->state = state;
    QTAILQ_INSERT_TAIL(&t->lists[state], f, next);
}

static void flow_list_expire(ColoFlowTable *t, ColoFlowState state,
                             int64_t now_ms, uint64_t after_ms)
{
    ColoFlow *f;

    while ((f = QTAILQ_FIRST(&t->lists[state])) != NULL) {
        if (now_ms < f->last_ms || now_ms - f->last_ms < after_ms) {
            break;
        }
        flow_forget(t, f);
    }
}

void colo_flow_expire(ColoFlowTable *t, int64_t now_ms, uint64_t idle_ms,
                      uint64_t linger_ms)
{
    flow_list_expire(t, COLO_FLOW_IDLE, now_ms, idle_ms);
    flow_list_expire(t, COLO_FLOW_ENDED, now_ms, MIN(idle_ms, linger_ms));
}
