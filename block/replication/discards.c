/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: which parts of a disk are to be discarded, see discards.h.
 */

#include "qemu/osdep.h"
#include "discards.h"

static void insert(ReplicationDiscards *d, IntervalTreeRoot *tree,
                   uint64_t start, uint64_t last)
{
    IntervalTreeNode *part = g_new0(IntervalTreeNode, 1);

    part->start = start;
    part->last = last;
    interval_tree_insert(part, tree);
    d->n_parts++;
}

static void take_out(ReplicationDiscards *d, IntervalTreeRoot *tree,
                     IntervalTreeNode *part)
{
    interval_tree_remove(part, tree);
    g_free(part);
    d->n_parts--;
}

/* With those that it overlaps with, or that end or begin beside it */
static void add_to(ReplicationDiscards *d, IntervalTreeRoot *tree,
                   uint64_t start, uint64_t last)
{
    IntervalTreeNode *part;

    while ((part = interval_tree_iter_first(tree, start - !!start,
                                            last + 1))) {
        start = MIN(start, part->start);
        last = MAX(last, part->last);
        take_out(d, tree, part);
    }
    insert(d, tree, start, last);
}

static void remove_from(ReplicationDiscards *d, IntervalTreeRoot *tree,
                        uint64_t start, uint64_t last)
{
    IntervalTreeNode *part;

    while ((part = interval_tree_iter_first(tree, start, last))) {
        uint64_t part_start = part->start;
        uint64_t part_last = part->last;

        take_out(d, tree, part);
        if (part_start < start) {
            insert(d, tree, part_start, start - 1);
        }
        /* Without room for both the larger offset is forgotten */
        if (part_last > last) {
            if (d->n_parts < REPLICATION_DISCARDS_MAX) {
                insert(d, tree, last + 1, part_last);
            } else {
                d->forgot = true;
            }
        }
    }
}

static void clear(ReplicationDiscards *d, IntervalTreeRoot *tree)
{
    IntervalTreeNode *part;

    while ((part = interval_tree_iter_first(tree, 0, UINT64_MAX))) {
        take_out(d, tree, part);
    }
}

void replication_discards_add(ReplicationDiscards *d, int64_t offset,
                              int64_t bytes)
{
    if (d->n_parts < REPLICATION_DISCARDS_MAX) {
        add_to(d, &d->pending, offset, offset + bytes - 1);
    } else {
        d->forgot = true;
    }
}

void replication_discards_remove(ReplicationDiscards *d, int64_t offset,
                                 int64_t bytes)
{
    remove_from(d, &d->pending, offset, offset + bytes - 1);
    remove_from(d, &d->due, offset, offset + bytes - 1);
}

void replication_discards_commit(ReplicationDiscards *d)
{
    IntervalTreeNode *part;

    if (interval_tree_is_empty(&d->due)) {
        d->due = d->pending;
        d->pending = (IntervalTreeRoot) { };
        return;
    }
    while ((part = interval_tree_iter_first(&d->pending, 0, UINT64_MAX))) {
        uint64_t start = part->start;
        uint64_t last = part->last;

        take_out(d, &d->pending, part);
        add_to(d, &d->due, start, last);
    }
}

bool replication_discards_has_due(ReplicationDiscards *d)
{
    return !interval_tree_is_empty(&d->due);
}

bool replication_discards_take(ReplicationDiscards *d, int64_t max,
                               int64_t *offset, int64_t *bytes)
{
    IntervalTreeNode *part = interval_tree_iter_first(&d->due, 0, UINT64_MAX);

    if (!part) {
        return false;
    }
    *offset = part->start;
    *bytes = MIN(max, (int64_t)(part->last - part->start + 1));
    remove_from(d, &d->due, *offset, *offset + *bytes - 1);
    return true;
}

bool replication_discards_find(const ReplicationDiscards *d, int64_t offset,
                               int64_t bytes, int64_t *at, int64_t *n)
{
    uint64_t last = offset + bytes - 1;
    IntervalTreeNode *part =
        interval_tree_iter_first((IntervalTreeRoot *)&d->pending, offset,
                                 last);

    if (!part) {
        return false;
    }
    *at = MAX((uint64_t)offset, part->start);
    *n = MIN(last, part->last) - *at + 1;
    return true;
}

void replication_discards_clear(ReplicationDiscards *d)
{
    clear(d, &d->pending);
    clear(d, &d->due);
    d->forgot = false;
}
