/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: by which rules datagrams of the primary may leave, and whatever
 * else is no TCP.
 *
 * Primary, one thread.
 *
 * A datagram leaves when the secondary has said an equal one in the same flow.
 * Within the flow datagrams leave in order.  If the two guests say different
 * ones, these may just be swapped, because a guest has several CPUs: that is a
 * doubt, which becomes a difference after a while.
 *
 * Reports of group membership (IGMP, MLD) are made at random times, and a
 * router does not wait for them: there is no doubt, and more patience.
 */

#include "qemu/osdep.h"
#include "match-int.h"

/* Guests with several queues may swap datagrams; look so far for a match */
#define COLO_MATCH_REORDER      64

/* By how much the one that was overtaken may be later */
#define COLO_MATCH_SWAP_MS      10

/* Doubts */

void colo_match_end_doubt(ColoMatch *m, ColoFlow *f)
{
    if (f->doubted) {
        f->doubted = false;
        QTAILQ_REMOVE(&m->doubted, f, next_doubted);
    }
}

static void match_doubt(ColoMatch *m, ColoFlow *f)
{
    if (!f->doubted) {
        f->doubted = true;
        f->doubted_since_ms = m->now_ms;
        QTAILQ_INSERT_TAIL(&m->doubted, f, next_doubted);
    }
}

/* Comparing */

static ColoHeld *datagram_find(ColoHeldList *queue, const ColoPacket *p)
{
    unsigned looked = 0;
    ColoHeld *h;

    QTAILQ_FOREACH(h, queue, in_queue) {
        if (looked++ == COLO_MATCH_REORDER) {
            break;
        }
        if (colo_packet_same_datagram(h->p, p)) {
            return h;
        }
    }
    return NULL;
}

/* Did the secondary say anything that the primary does not wait with? */
static bool datagram_differs(ColoFlow *f, ColoHeld *newest)
{
    unsigned looked = 0;
    ColoHeld *s;

    if (newest) {
        return !datagram_find(&f->primary, newest->p);
    }
    QTAILQ_FOREACH(s, &f->secondary, in_queue) {
        if (looked++ == COLO_MATCH_REORDER) {
            break;
        }
        if (!datagram_find(&f->primary, s->p)) {
            return true;
        }
    }
    return false;
}

/*
 * Has the secondary said nothing in @f, but something to the same server from a
 * port from which the primary has said nothing?  Then each kernel picked a port
 * of its own.  Returns that flow, or NULL.
 */
static const ColoFlow *datagram_sibling(ColoMatch *m, const ColoFlow *f)
{
    const ColoFlow *s = QTAILQ_EMPTY(&f->secondary)
                        ? colo_match_find_alone(m, m->secondary_alone, f)
                        : NULL;

    return s && s->generation == m->generation && QTAILQ_EMPTY(&s->primary) &&
           !QTAILQ_EMPTY(&s->secondary) ? s : NULL;
}

/*
 * There may be a doubt about the head of the primary's queue in @f, of which the
 * secondary has said nothing.  True: there is, or none is possible any more.
 *
 * Where they have agreed before it may be a matter of order.  Of two flows that
 * are new on both sides neither will ever be said by the other.
 */
static bool datagram_is_doubtful(ColoMatch *m, ColoFlow *f, ColoHeld *newest)
{
    const ColoFlow *sibling;

    if (!QTAILQ_EMPTY(&f->secondary)) {
        if (!datagram_differs(f, newest)) {
            return false;
        }
    } else {
        sibling = datagram_sibling(m, f);
        if (!sibling) {
            return false;
        }
        if (!f->agreed && !sibling->agreed) {
            colo_match_diverge(m, f);
            return true;
        }
    }
    match_doubt(m, f);
    return true;
}

/*
 * Let go what the secondary said, too.  @newest: the one it said just now; of
 * earlier ones it is known that the primary waits with them, unless there is a
 * doubt.  NULL: not known.
 *
 * If each has said something that the other has not, that may be a matter of
 * order: a CPU of a guest was overtaken by another one.  So it is doubted at
 * first, and believed when the head of the queue has not left for a while.
 */
static void datagram_advance(ColoMatch *m, ColoFlow *f, ColoHeld *newest)
{
    ColoHeld *h, *s;

    if (f->doubted) {
        newest = NULL;
    }
    while ((h = QTAILQ_FIRST(&f->primary)) != NULL &&
           colo_match_comparable(m, h->p->epoch) && !f->diverged) {
        s = datagram_find(&f->secondary, h->p);
        if (!s) {
            if (!h->is_patient && datagram_is_doubtful(m, f, newest)) {
                return;
            }
            break;
        }
        colo_match_end_doubt(m, f);
        f->agreed = true;
        if (s == newest) {
            newest = NULL;
        }
        QTAILQ_REMOVE(&f->secondary, s, in_queue);
        f->secondary_count--;
        m->stats.bytes_compared += h->p->size;
        colo_match_drop(m, s);
        colo_match_leave(m, f, h, COLO_RELEASE_EQUAL);
    }
    colo_match_end_doubt(m, f);
}

void colo_match_datagram_advance(ColoMatch *m, ColoFlow *f)
{
    datagram_advance(m, f, NULL);
}

void colo_match_end_doubts(ColoMatch *m)
{
    ColoFlow *f;

    while ((f = QTAILQ_FIRST(&m->doubted)) != NULL &&
           m->now_ms - f->doubted_since_ms >= COLO_MATCH_SWAP_MS) {
        if (QTAILQ_EMPTY(&f->secondary) && !datagram_sibling(m, f)) {
            /* The primary has said what the secondary said from there */
            colo_match_end_doubt(m, f);
        } else {
            colo_match_diverge(m, f);
        }
    }
}

int64_t colo_match_doubts_deadline_ms(const ColoMatch *m)
{
    const ColoFlow *f = QTAILQ_FIRST(&m->doubted);

    return f ? f->doubted_since_ms + COLO_MATCH_SWAP_MS : INT64_MAX;
}

/* What the guests say */

void colo_match_datagram_primary(ColoMatch *m, ColoFlow *f, ColoPacket *p,
                                 GPtrArray *fragments)
{
    ColoHeld *h = colo_match_hold(m, f, p, fragments);

    if (QTAILQ_EMPTY(&f->secondary)) {
        colo_match_note_alone(m, m->primary_alone, f);
    }
    if (h == QTAILQ_FIRST(&f->primary) || f->doubted) {
        datagram_advance(m, f, NULL);
    }
}

void colo_match_datagram_secondary(ColoMatch *m, ColoFlow *f, ColoPacket *p)
{
    ColoFlow *other;
    ColoHeld *s;

    if (f->diverged) {
        colo_packet_free(p);
        return;
    }
    s = colo_match_keep(m, f, p);
    if (s) {
        QTAILQ_INSERT_TAIL(&f->secondary, s, in_queue);
        f->secondary_count++;
        datagram_advance(m, f, s);
    }
    if (QTAILQ_EMPTY(&f->primary) && !QTAILQ_EMPTY(&f->secondary)) {
        colo_match_note_alone(m, m->secondary_alone, f);
        other = colo_match_find_alone(m, m->primary_alone, f);
        if (other) {
            colo_match_sync_flow(m, other);
            datagram_advance(m, other, NULL);
        }
    }
}

/* Commit and the end of a session */

void colo_match_datagram_release(ColoMatch *m, ColoFlow *f, uint64_t cut,
                                 ColoRelease why)
{
    ColoHeld *h;

    while ((h = QTAILQ_FIRST(&f->primary)) != NULL && h->p->epoch < cut) {
        colo_match_leave(m, f, h, why);
    }
}
