/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: the rules by which output of the primary may leave.
 *
 * Primary, one thread.
 *
 * Goal: no byte leaves that does not follow from the state that the survivor
 * of a failure goes on from.  The two streams of packets are cut into epochs by
 * the records in them.  A packet of the primary's epoch e leaves
 *
 *   - when the secondary said the same while it ran in epoch e, or
 *   - when the secondary has cut e+1 (the commit): then it will go on from a
 *     state that includes the packet, or
 *   - when the session is over.
 *
 * Nothing else lets a packet go, above all no timeout and no full queue: those
 * ask for a checkpoint.  The streams and the commit come on three ways and in
 * any order: the secondary may be in e before the primary's record of e was
 * read, and the commit of e may come before either.  That is why each packet
 * has its epoch with it, and the commit is a high-water mark.
 *
 * Packets are compared by flow.  Within a flow they leave in their order, from
 * the head of a queue.  What the secondary says is kept until the primary says
 * it too, or until the epoch is over.
 *
 * Limits: packets and flows are bounded, see ColoMatchConfig.  When there is
 * no place for a flow, its packets wait in one queue for the commit, and until
 * that queue is empty no flow is added, so that they cannot be overtaken.
 * A datagram whose fragments are on both sides of a cut waits for the commit.
 *
 * On failure of the secondary's stream what it said is void, and all waits for
 * a commit or for the end of the session.
 */

#include "qemu/osdep.h"
#include "match-int.h"

/* How long a TCP connection that ended is remembered */
#define COLO_MATCH_LINGER_MS    2000

/* What nobody waits for may wait for so many timeouts */
#define COLO_MATCH_PATIENCE     10

/* How long nothing may leave a full queue while the secondary speaks */
#define COLO_MATCH_FULL_MS      200

/* Bounds of putting fragments together, for each side */
#define COLO_MATCH_DEFRAG_MAX   256
#define COLO_MATCH_DEFRAG_BYTES (4 * 1024 * 1024)

/* Asking for a checkpoint */

bool colo_match_full(const ColoMatch *m)
{
    return m->stats.queued_bytes >= m->config.max_bytes || m->flows_full ||
           m->overflow_count >= m->config.max_packets;
}

/*
 * By how much does the secondary say things later than the primary?  False if
 * it cannot be expected to say anything: it does not run in this epoch yet.
 */
static bool match_lag(const ColoMatch *m, int64_t *lag_ms)
{
    *lag_ms = m->s_known ? m->lag_ms : 0;
    return m->committed <= m->epoch && (!m->s_known || m->s_epoch == m->epoch);
}

/*
 * The secondary runs in this epoch, but its stream does not say so: does it get
 * on at all?  What waits has a timeout from the commit on.
 */
static bool match_is_stuck(const ColoMatch *m, int64_t *lag_ms)
{
    *lag_ms = m->commit_lag_ms;
    return m->committed == m->epoch && m->s_known && m->s_epoch < m->epoch;
}

/* @since_ms and @wait_ms later, without an overflow */
static int64_t match_after(int64_t since_ms, uint64_t wait_ms)
{
    return wait_ms > INT64_MAX - MAX(since_ms, 0) ? INT64_MAX
                                                  : since_ms + (int64_t)wait_ms;
}

/* When has what nobody waits for waited for too long? */
static int64_t match_after_patience(const ColoMatch *m, int64_t since_ms)
{
    uint64_t timeout = MIN(m->config.timeout_ms, UINT32_MAX);

    return match_after(since_ms, timeout * COLO_MATCH_PATIENCE);
}

/* When does it become a need?  INT64_MAX: never as it is, INT64_MIN: now */
static int64_t match_due_ms(const ColoMatch *m, ColoMatchNeed why)
{
    const ColoHeld *p = QTAILQ_FIRST(&m->primary_by_age[COLO_MATCH_NOW]);
    const ColoHeld *patient = QTAILQ_FIRST(&m->patient_by_age[COLO_MATCH_NOW]);
    const ColoHeld *s = QTAILQ_FIRST(&m->secondary_by_age);
    uint64_t timeout = m->config.timeout_ms;
    int64_t due, lag;

    if (!match_lag(m, &lag) &&
        (why != COLO_MATCH_NEED_TIMEOUT || !match_is_stuck(m, &lag))) {
        return INT64_MAX;
    }
    switch (why) {
    case COLO_MATCH_NEED_MISMATCH:
        if (m->diverged) {
            return INT64_MIN;
        }
        /* Of what the primary does not say a client knows nothing */
        return s ? match_after_patience(m, s->since_ms) : INT64_MAX;
    case COLO_MATCH_NEED_TIMEOUT:
        due = colo_ack_lists_since_ms(&m->acks);
        if (p) {
            due = MIN(due, p->since_ms);
        }
        if (due != INT64_MAX) {
            /* While its stream is down the secondary says nothing */
            due = match_after(due + lag, m->s_lost ? 0 : timeout);
        }
        return patient ? MIN(due, match_after_patience(m, patient->since_ms +
                                                          lag)) : due;
    case COLO_MATCH_NEED_ROOM:
        if (m->s_dropped || !QTAILQ_EMPTY(&m->overflow)) {
            return INT64_MIN;
        }
        if (m->full_since_ms == INT64_MAX) {
            return INT64_MAX;
        }
        /* While it speaks a queue that is full is nothing but back-pressure */
        return m->s_known ? match_after(m->full_since_ms + lag,
                                        MIN(timeout, COLO_MATCH_FULL_MS))
                          : INT64_MIN;
    default:
        g_assert_not_reached();
    }
}

static void match_ask(ColoMatch *m, ColoMatchNeed why)
{
    m->needed |= 1u << why;
    if (why == COLO_MATCH_NEED_TIMEOUT) {
        m->stats.timeouts++;
    } else if (why == COLO_MATCH_NEED_MISMATCH && !m->diverged) {
        m->stats.mismatches++;
    }
    m->ops.need(m->opaque, why, m->epoch);
}

/* After anything has changed: ask for what is needed, and for nothing else */
static void match_review(ColoMatch *m)
{
    if (!colo_match_full(m)) {
        m->full_since_ms = INT64_MAX;
    } else if (m->full_since_ms == INT64_MAX) {
        m->full_since_ms = m->now_ms;
    }
    for (ColoMatchNeed why = 0; why < COLO_MATCH_NEED__MAX; why++) {
        bool is_needed = match_due_ms(m, why) <= m->now_ms;
        bool is_asked = m->needed & (1u << why);

        if (is_needed && !is_asked) {
            match_ask(m, why);
        } else if (!is_needed && is_asked) {
            m->needed &= ~(1u << why);
            if (m->ops.withdraw) {
                m->ops.withdraw(m->opaque, why, m->epoch);
            }
        }
    }
}

/* Packets of the primary: into the queues and out of them */

static uint64_t match_memory(const ColoPacket *p)
{
    return colo_packet_memory(p) + sizeof(ColoHeld) + COLO_HEAP_OVERHEAD;
}

static void match_count_in(ColoMatch *m, uint64_t packets, uint64_t bytes)
{
    m->stats.queued_packets += packets;
    m->stats.queued_bytes += bytes;
    m->stats.queued_bytes_max = MAX(m->stats.queued_bytes_max,
                                    m->stats.queued_bytes);
}

static void match_count_out(ColoMatch *m, uint64_t packets, uint64_t bytes)
{
    m->stats.queued_packets -= packets;
    m->stats.queued_bytes -= bytes;
}

void colo_match_release(ColoMatch *m, ColoPacket *p, ColoRelease why)
{
    m->stats.released[why]++;
    m->ops.release(m->opaque, p);
}

/* Almost always the end is the place; not for what was elsewhere before */
static void match_insert_by_age(ColoHeldList *list, ColoHeld *h)
{
    ColoHeld *before = QTAILQ_LAST(list);

    while (before && before->since_ms > h->since_ms) {
        before = QTAILQ_PREV(before, by_age);
    }
    if (before) {
        QTAILQ_INSERT_AFTER(list, before, h, by_age);
    } else {
        QTAILQ_INSERT_HEAD(list, h, by_age);
    }
}

static ColoHeldList *match_list_by_age(ColoMatch *m, const ColoHeld *h)
{
    ColoMatchAge age = colo_match_age(m, h->p->epoch);

    return h->is_patient ? &m->patient_by_age[age] : &m->primary_by_age[age];
}

static ColoHeld *match_queue(ColoMatch *m, ColoHeldList *queue, ColoPacket *p,
                             GPtrArray *fragments)
{
    ColoHeld *h = g_new0(ColoHeld, 1);

    h->p = p;
    h->fragments = fragments;
    h->since_ms = p->arrived_ms;
    h->is_patient = colo_packet_is_membership(p);
    h->bytes = match_memory(p);
    for (guint i = 0; fragments && i < fragments->len; i++) {
        h->bytes += match_memory(g_ptr_array_index(fragments, i));
    }
    QTAILQ_INSERT_TAIL(queue, h, in_queue);
    match_insert_by_age(match_list_by_age(m, h), h);
    match_count_in(m, fragments ? fragments->len : 1, h->bytes);
    return h;
}

static void match_unqueue(ColoMatch *m, ColoHeldList *queue, ColoHeld *h)
{
    QTAILQ_REMOVE(queue, h, in_queue);
    QTAILQ_REMOVE(match_list_by_age(m, h), h, by_age);
    match_count_out(m, h->fragments ? h->fragments->len : 1, h->bytes);
}

ColoHeld *colo_match_hold(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                          GPtrArray *fragments)
{
    ColoHeld *h = match_queue(m, &f->primary, p, fragments);

    if (++f->primary_count == m->config.max_packets) {
        m->flows_full++;
    }
    return h;
}

static void match_leave_flow(ColoMatch *m, ColoFlow *f, ColoHeld *h)
{
    match_unqueue(m, &f->primary, h);
    if (f->primary_count-- == m->config.max_packets) {
        m->flows_full--;
    }
}

ColoPacket *colo_match_unhold(ColoMatch *m, ColoFlow *f, ColoHeld *h)
{
    ColoPacket *p = h->p;

    assert(!h->fragments);
    match_leave_flow(m, f, h);
    g_free(h);
    return p;
}

/* Let go what is in no queue any more */
static void match_release_held(ColoMatch *m, ColoHeld *h, ColoRelease why)
{
    if (h->fragments) {
        for (guint i = 0; i < h->fragments->len; i++) {
            colo_match_release(m, g_ptr_array_index(h->fragments, i), why);
        }
        g_ptr_array_set_free_func(h->fragments, NULL);
        g_ptr_array_unref(h->fragments);
        colo_packet_free(h->p);
    } else {
        colo_match_release(m, h->p, why);
    }
    g_free(h);
}

void colo_match_leave(ColoMatch *m, ColoFlow *f, ColoHeld *h,
                      ColoRelease why)
{
    match_leave_flow(m, f, h);
    match_release_held(m, h, why);
}

/* Let go what is of epochs before @cut */
static void match_release_queue(ColoMatch *m, ColoHeldList *queue,
                                uint64_t cut, ColoRelease why)
{
    ColoHeld *h;

    while ((h = QTAILQ_FIRST(queue)) != NULL && h->p->epoch < cut) {
        match_unqueue(m, queue, h);
        match_release_held(m, h, why);
    }
}

/* Packets of the secondary */

ColoHeld *colo_match_keep(ColoMatch *m, ColoFlow *f, ColoPacket *p)
{
    ColoHeld *h;

    if (f->secondary_count >= m->config.max_packets ||
        m->stats.secondary_queued_bytes + match_memory(p) >
        m->config.max_bytes) {
        m->stats.secondary_dropped++;
        m->s_dropped = true;
        colo_packet_free(p);
        return NULL;
    }
    h = g_new0(ColoHeld, 1);
    h->p = p;
    h->bytes = match_memory(p);
    h->since_ms = m->now_ms;
    match_insert_by_age(&m->secondary_by_age, h);
    m->stats.secondary_queued_bytes += h->bytes;
    return h;
}

void colo_match_drop(ColoMatch *m, ColoHeld *h)
{
    QTAILQ_REMOVE(&m->secondary_by_age, h, by_age);
    m->stats.secondary_queued_bytes -= h->bytes;
    colo_packet_free(h->p);
    g_free(h);
}

static void match_drop_secondary(ColoMatch *m, ColoFlow *f)
{
    ColoHeld *h;

    colo_match_end_doubt(m, f);
    while ((h = QTAILQ_FIRST(&f->secondary)) != NULL) {
        QTAILQ_REMOVE(&f->secondary, h, in_queue);
        colo_match_drop(m, h);
    }
    f->secondary_count = 0;
    if (f->tcp.secondary_syn) {
        colo_match_drop(m, f->tcp.secondary_syn);
        f->tcp.secondary_syn = NULL;
    }
}

void colo_match_diverge(ColoMatch *m, ColoFlow *f)
{
    f->diverged = true;
    m->diverged++;
    m->stats.mismatches++;
    match_drop_secondary(m, f);
}

/* Flows */

void colo_match_sync_flow(ColoMatch *m, ColoFlow *f)
{
    if (f->generation == m->generation) {
        return;
    }
    m->stats.secondary_discarded += f->secondary_count + !!f->tcp.secondary_syn;
    match_drop_secondary(m, f);
    colo_match_tcp_forget_secondary(f);
    f->diverged = false;
    f->generation = m->generation;
    if (f->ack.window_state == COLO_WINDOW_SHUT) {
        colo_ack_widen(m, f);
    }
}

/* NULL: there is no place for it */
static ColoFlow *match_flow(ColoMatch *m, const ColoFlowKey *key)
{
    ColoFlow *f = colo_flow_find(&m->table, key);

    if (!f && QTAILQ_EMPTY(&m->overflow)) {
        f = colo_flow_add(&m->table, key, m->now_ms);
        m->stats.flows = colo_flow_table_size(&m->table);
    }
    if (f) {
        colo_match_sync_flow(m, f);
    }
    return f;
}

static void match_touch(ColoMatch *m, ColoFlow *f)
{
    ColoFlowState state = COLO_FLOW_IDLE;

    if (!QTAILQ_EMPTY(&f->primary) || !QTAILQ_EMPTY(&f->secondary) ||
        f->tcp.secondary_syn || f->front_due || colo_ack_is_busy(&f->ack)) {
        state = COLO_FLOW_BUSY;
    } else if (f->tcp.close_released) {
        state = COLO_FLOW_ENDED;
    }
    colo_flow_touch(&m->table, f, state, m->now_ms);
}

static bool flow_is_tcp(const ColoFlow *f)
{
    return f->key.kind == COLO_PACKET_TCP;
}

/* The primary's stream */

/* False: its flow has no place */
static bool match_take_primary(ColoMatch *m, ColoPacket *p,
                               GPtrArray *fragments)
{
    ColoFlow *f = match_flow(m, &p->key);

    if (!f && p->epoch < m->committed) {
        colo_match_release(m, p, COLO_RELEASE_COMMIT);
        return true;
    }
    if (!f) {
        match_queue(m, &m->overflow, p, fragments);
        m->overflow_count++;
        return false;
    }
    if (flow_is_tcp(f)) {
        colo_match_tcp_primary(m, f, p);
    } else {
        colo_match_datagram_primary(m, f, p, fragments);
    }
    match_touch(m, f);
    return true;
}

/* Fragments that were put together nowhere wait for the commit as they are */
static void match_give_up(ColoMatch *m, GPtrArray *fragments)
{
    for (guint i = 0; i < fragments->len; i++) {
        ColoPacket *p = g_ptr_array_index(fragments, i);

        m->fragments--;
        match_count_out(m, 1, match_memory(p));
        match_queue(m, &m->loose, p, NULL);
    }
    g_ptr_array_set_size(fragments, 0);
}

static void match_give_up_all(ColoMatch *m)
{
    g_autoptr(GPtrArray) fragments = g_ptr_array_new();

    if (m->fragments) {
        colo_defrag_flush(m->primary_defrag, fragments);
        match_give_up(m, fragments);
    }
}

static void match_primary_fragment(ColoMatch *m, ColoPacket *p)
{
    g_autoptr(GPtrArray) given_up = g_ptr_array_new();
    int64_t arrived_ms = p->arrived_ms;
    ColoDefragged whole;
    bool complete;

    if (!m->fragments++) {
        m->fragments_since_ms = arrived_ms;
    }
    match_count_in(m, 1, match_memory(p));
    complete = colo_defrag_add(m->primary_defrag, p, &whole, given_up);
    match_give_up(m, given_up);
    if (complete) {
        for (guint i = 0; i < whole.fragments->len; i++) {
            ColoPacket *fragment = g_ptr_array_index(whole.fragments, i);

            m->fragments--;
            match_count_out(m, 1, match_memory(fragment));
        }
        whole.whole->epoch = m->epoch;
        whole.whole->arrived_ms = arrived_ms;
        m->stats.unplaced_packets +=
            !match_take_primary(m, whole.whole, whole.fragments);
    }
}

void colo_match_primary(ColoMatch *m, ColoPacket *p)
{
    m->stats.primary_packets++;
    m->now_ms = MAX(m->now_ms, p->arrived_ms);
    if (m->mode != COLO_MATCH_HOLDING) {
        colo_match_release(m, p, COLO_RELEASE_OPEN);
        return;
    }
    p->epoch = m->epoch;
    if (p->epoch < m->committed && p->kind != COLO_PACKET_TCP) {
        colo_match_release(m, p, COLO_RELEASE_COMMIT);
    } else if (p->kind == COLO_PACKET_FRAGMENT) {
        match_primary_fragment(m, p);
    } else {
        m->stats.unplaced_packets += !match_take_primary(m, p, NULL);
    }
    match_review(m);
}

/* What was asked for in the epoch before, if anything, the cut is the answer */
static void match_begin_epoch(ColoMatch *m, uint64_t epoch)
{
    match_give_up_all(m);
    g_hash_table_remove_all(m->primary_alone);
    COLO_TAILQ_CONCAT(&m->primary_by_age[COLO_MATCH_CUT],
                      &m->primary_by_age[COLO_MATCH_NOW], by_age);
    COLO_TAILQ_CONCAT(&m->patient_by_age[COLO_MATCH_CUT],
                      &m->patient_by_age[COLO_MATCH_NOW], by_age);
    colo_ack_lists_cut(&m->acks);
    m->epoch = epoch;
    m->needed = 0;
    m->cut_ms = m->now_ms;
    m->lag_ms = 0;
    m->commit_lag_ms = 0;
    m->full_since_ms = INT64_MAX;
}

void colo_match_primary_cut(ColoMatch *m, uint64_t epoch, int64_t now_ms)
{
    m->now_ms = MAX(m->now_ms, now_ms);
    /* Each epoch needs a commit that is later */
    epoch = MIN(epoch, UINT64_MAX - 1);
    switch (m->mode) {
    case COLO_MATCH_OPEN:
        return;
    case COLO_MATCH_ARMED:
        m->mode = COLO_MATCH_HOLDING;
        match_begin_epoch(m, epoch);
        break;
    case COLO_MATCH_HOLDING:
        /* A stream that reconnects says again where it is */
        if (epoch > m->epoch) {
            match_begin_epoch(m, epoch);
        }
        break;
    }
    match_review(m);
}

/* The secondary's stream */

/* All it said is void; forget it where it takes memory */
static void match_forget_secondary(ColoMatch *m)
{
    g_autoptr(GPtrArray) fragments =
        g_ptr_array_new_with_free_func((GDestroyNotify)colo_packet_free);
    ColoFlow *f, *next;

    m->generation++;
    g_hash_table_remove_all(m->secondary_alone);
    m->diverged = 0;
    m->s_dropped = false;
    colo_defrag_flush(m->secondary_defrag, fragments);
    QTAILQ_FOREACH_SAFE(f, &m->table.lists[COLO_FLOW_BUSY], next, next) {
        colo_match_sync_flow(m, f);
        match_touch(m, f);
    }
}

/* The epochs changed: see what may leave */
static void match_advance_all(ColoMatch *m)
{
    ColoFlow *f, *next;

    QTAILQ_FOREACH_SAFE(f, &m->table.lists[COLO_FLOW_BUSY], next, next) {
        if (flow_is_tcp(f)) {
            colo_match_tcp_advance(m, f);
        } else {
            colo_match_datagram_advance(m, f);
        }
        match_touch(m, f);
    }
}

static void match_take_secondary(ColoMatch *m, ColoPacket *p)
{
    ColoFlow *f = match_flow(m, &p->key);

    if (!f) {
        m->stats.secondary_dropped++;
        m->s_dropped = true;
        colo_packet_free(p);
        return;
    }
    if (flow_is_tcp(f)) {
        colo_match_tcp_secondary(m, f, p);
    } else {
        colo_match_datagram_secondary(m, f, p);
    }
    match_touch(m, f);
}

static void match_secondary_fragment(ColoMatch *m, ColoPacket *p)
{
    ColoDefragged whole;

    if (colo_defrag_add(m->secondary_defrag, p, &whole, NULL)) {
        g_ptr_array_set_free_func(whole.fragments,
                                  (GDestroyNotify)colo_packet_free);
        g_ptr_array_unref(whole.fragments);
        whole.whole->epoch = m->s_epoch;
        match_take_secondary(m, whole.whole);
    }
}

void colo_match_secondary(ColoMatch *m, ColoPacket *p)
{
    m->stats.secondary_packets++;
    m->now_ms = MAX(m->now_ms, p->arrived_ms);
    if (m->mode == COLO_MATCH_OPEN || !m->s_known ||
        m->s_epoch < m->committed) {
        m->stats.secondary_discarded++;
        colo_packet_free(p);
        return;
    }
    p->epoch = m->s_epoch;
    if (p->kind == COLO_PACKET_FRAGMENT) {
        match_secondary_fragment(m, p);
    } else {
        match_take_secondary(m, p);
    }
    match_review(m);
}

/* What is equal in the front of segments was put off until now */
static void match_release_fronts(ColoMatch *m)
{
    ColoFlow *f;

    while ((f = QTAILQ_FIRST(&m->fronts)) != NULL) {
        QTAILQ_REMOVE(&m->fronts, f, next_front);
        f->front_due = false;
        colo_match_tcp_advance(m, f);
        match_touch(m, f);
    }
}

/* A record or the end of a session may come in the middle of a read */
static void match_interrupt_read(ColoMatch *m)
{
    bool reading = m->reading;

    m->reading = false;
    match_release_fronts(m);
    m->reading = reading;
}

/* It loads what it has committed, which may not have been heard here yet */
static bool match_may_be_in(const ColoMatch *m, uint64_t epoch)
{
    return (!m->s_known || epoch > m->s_epoch) &&
           (epoch <= m->epoch || epoch - 1 <= m->committed);
}

bool colo_match_secondary_cut(ColoMatch *m, uint64_t epoch, int64_t now_ms)
{
    bool void_before = !m->s_known || m->s_epoch < m->committed;

    if (m->mode == COLO_MATCH_OPEN) {
        return true;
    }
    m->now_ms = MAX(m->now_ms, now_ms);
    if (!match_may_be_in(m, epoch)) {
        return false;
    }
    match_interrupt_read(m);
    m->s_known = true;
    m->s_lost = false;
    m->s_epoch = epoch;
    m->lag_ms = epoch == m->epoch ? m->now_ms - m->cut_ms : 0;
    /* Of epochs that are over there may be many, and nothing was kept */
    if (!void_before || epoch >= m->committed) {
        match_forget_secondary(m);
        match_advance_all(m);
    }
    match_review(m);
    return true;
}

void colo_match_begin_read(ColoMatch *m)
{
    assert(!m->reading);
    m->reading = true;
}

void colo_match_end_read(ColoMatch *m)
{
    m->reading = false;
    match_release_fronts(m);
    match_review(m);
}

static void match_lose_secondary(ColoMatch *m)
{
    m->s_known = false;
    match_forget_secondary(m);
}

void colo_match_secondary_lost(ColoMatch *m)
{
    match_lose_secondary(m);
    m->s_lost = m->mode != COLO_MATCH_OPEN;
    match_review(m);
}

void colo_match_secondary_opened(ColoMatch *m)
{
    m->s_lost = false;
    match_review(m);
}

/* Commit and the end of a session */

/* Packets of flows that had no place: try again, in their order */
static void match_retry_overflow(ColoMatch *m)
{
    ColoHeldList again = QTAILQ_HEAD_INITIALIZER(again);
    ColoHeld *h;

    while ((h = QTAILQ_FIRST(&m->overflow)) != NULL) {
        match_unqueue(m, &m->overflow, h);
        QTAILQ_INSERT_TAIL(&again, h, in_queue);
    }
    m->overflow_count = 0;
    while ((h = QTAILQ_FIRST(&again)) != NULL) {
        QTAILQ_REMOVE(&again, h, in_queue);
        match_take_primary(m, h->p, h->fragments);
        g_free(h);
    }
}

static void match_commit_flows(ColoMatch *m)
{
    ColoFlow *f, *next;

    QTAILQ_FOREACH_SAFE(f, &m->table.lists[COLO_FLOW_BUSY], next, next) {
        if (flow_is_tcp(f)) {
            colo_match_tcp_commit(m, f);
        } else {
            colo_match_datagram_release(m, f, m->committed,
                                        COLO_RELEASE_COMMIT);
            colo_match_datagram_advance(m, f);
        }
        match_touch(m, f);
    }
}

void colo_match_commit(ColoMatch *m, uint64_t cut, int64_t now_ms)
{
    ColoRelease why = COLO_RELEASE_COMMIT;

    if (m->mode == COLO_MATCH_OPEN || cut <= m->committed) {
        return;
    }
    m->now_ms = MAX(m->now_ms, now_ms);
    m->committed = cut;
    m->commit_lag_ms = m->now_ms - m->cut_ms;
    if (m->epoch < cut) {
        m->needed = 0;
    }
    if (m->s_known && m->s_epoch < cut) {
        match_forget_secondary(m);
    }
    if (m->epoch < cut) {
        match_give_up_all(m);
    }
    match_release_queue(m, &m->loose, cut, why);
    match_commit_flows(m);
    match_release_queue(m, &m->overflow, cut, why);
    match_retry_overflow(m);
    match_review(m);
}

void colo_match_open(ColoMatch *m)
{
    ColoRelease why = COLO_RELEASE_OPEN;
    ColoFlow *f;

    match_interrupt_read(m);
    m->mode = COLO_MATCH_OPEN;
    match_lose_secondary(m);
    m->s_lost = false;
    match_give_up_all(m);
    match_release_queue(m, &m->loose, UINT64_MAX, why);
    QTAILQ_FOREACH(f, &m->table.lists[COLO_FLOW_BUSY], next) {
        if (flow_is_tcp(f)) {
            colo_match_tcp_flush(m, f, why);
        } else {
            colo_match_datagram_release(m, f, UINT64_MAX, why);
        }
    }
    match_release_queue(m, &m->overflow, UINT64_MAX, why);
    m->overflow_count = 0;
    colo_flow_table_clear(&m->table);
    m->stats.flows = 0;
    m->epoch = 0;
    m->committed = 0;
    m->needed = 0;
    m->full_since_ms = INT64_MAX;
}

void colo_match_arm(ColoMatch *m)
{
    /* Whatever an earlier session left is part of what this one begins with */
    colo_match_open(m);
    m->mode = COLO_MATCH_ARMED;
}

/* Time */

void colo_match_tick(ColoMatch *m, int64_t now_ms)
{
    m->now_ms = MAX(m->now_ms, now_ms);
    if (m->mode == COLO_MATCH_OPEN) {
        return;
    }
    if (m->fragments && match_after(m->fragments_since_ms,
                                    m->config.timeout_ms) <= m->now_ms) {
        match_give_up_all(m);
    }
    colo_match_end_doubts(m);
    match_review(m);
    colo_flow_expire(&m->table, m->now_ms, m->config.idle_ms,
                     COLO_MATCH_LINGER_MS);
    m->stats.flows = colo_flow_table_size(&m->table);
}

int64_t colo_match_deadline_ms(const ColoMatch *m)
{
    int64_t deadline = INT64_MAX;

    if (m->fragments) {
        deadline = match_after(m->fragments_since_ms, m->config.timeout_ms);
    }
    deadline = MIN(deadline, colo_match_doubts_deadline_ms(m));
    for (ColoMatchNeed why = 0; why < COLO_MATCH_NEED__MAX; why++) {
        if (!(m->needed & (1u << why))) {
            deadline = MIN(deadline, match_due_ms(m, why));
        }
    }
    return deadline;
}

const ColoMatchStats *colo_match_stats(const ColoMatch *m)
{
    return &m->stats;
}

/* Life */

ColoMatch *colo_match_new(const ColoMatchConfig *config,
                          const ColoMatchOps *ops, void *opaque)
{
    ColoMatch *m = g_new0(ColoMatch, 1);
    uint64_t defrag_bytes = MIN(config->max_bytes, COLO_MATCH_DEFRAG_BYTES);

    m->config = *config;
    m->ops = *ops;
    m->opaque = opaque;
    colo_flow_table_init(&m->table, config->max_flows);
    for (ColoMatchAge age = 0; age < COLO_MATCH_AGE__MAX; age++) {
        QTAILQ_INIT(&m->primary_by_age[age]);
        QTAILQ_INIT(&m->patient_by_age[age]);
    }
    colo_ack_lists_init(&m->acks);
    m->full_since_ms = INT64_MAX;
    m->primary_alone = colo_match_alone_new();
    m->secondary_alone = colo_match_alone_new();
    QTAILQ_INIT(&m->doubted);
    QTAILQ_INIT(&m->fronts);
    QTAILQ_INIT(&m->secondary_by_age);
    QTAILQ_INIT(&m->overflow);
    QTAILQ_INIT(&m->loose);
    m->primary_defrag = colo_defrag_new(COLO_MATCH_DEFRAG_MAX, defrag_bytes);
    m->secondary_defrag = colo_defrag_new(COLO_MATCH_DEFRAG_MAX, defrag_bytes);
    return m;
}

static void match_free_packet(void *opaque, ColoPacket *p)
{
    colo_packet_free(p);
}

void colo_match_free(ColoMatch *m)
{
    if (!m) {
        return;
    }
    m->ops.release = match_free_packet;
    colo_match_open(m);
    colo_flow_table_destroy(&m->table);
    g_hash_table_unref(m->primary_alone);
    g_hash_table_unref(m->secondary_alone);
    colo_defrag_free(m->primary_defrag);
    colo_defrag_free(m->secondary_defrag);
    g_free(m);
}
