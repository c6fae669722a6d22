/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the ways from a disk of the guest to nodes that replicate it.
 *
 * Both sides, under the BQL.  A disk is only replicated if all that the guest
 * writes reaches such a node.  A snapshot above it, say, keeps the writes for
 * itself: the node is still below the disk, and hears nothing.  Filters, quorum,
 * raw and luks pass on whatever they are given.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/block-io.h"
#include "system/block-backend.h"
#include "internal.h"

typedef bool NodeFunc(BDRVReplicationState *s, void *opaque);

/* True if @c gets all that is written to @bs, its parent */
static bool GRAPH_RDLOCK passes_writes(BlockDriverState *bs, BdrvChild *c)
{
    if (bs->drv == bdrv_find_format("quorum")) {
        return true;
    }
    /* Both keep nothing of it, and know nothing that changes */
    if (bs->drv == bdrv_find_format("raw") ||
        bs->drv == bdrv_find_format("luks")) {
        return c == bs->file;
    }
    return c == bdrv_filter_child(bs);
}

/*
 * Visit the nodes that are @bs or below it, with no other one above them, until
 * @fn returns true; that is returned.  The node of a shared disk, for when this
 * side is the primary, may be above the secondary's.
 *
 * @straight: only nodes that get all that is written to @bs
 */
static bool GRAPH_RDLOCK visit(BlockDriverState *bs, bool straight,
                               NodeFunc *fn, void *opaque)
{
    BDRVReplicationState *s = replication_of(bs);
    BdrvChild *c;

    if (s && fn(s, opaque)) {
        return true;
    }
    if (s && !s->kind->on_image) {
        return false;
    }
    QLIST_FOREACH(c, &bs->children, next) {
        if ((!straight || passes_writes(bs, c)) &&
            visit(c->bs, straight, fn, opaque)) {
            return true;
        }
    }
    return false;
}

static bool is_primary(BDRVReplicationState *s, void *opaque)
{
    return s->mode == REPLICATION_MODE_PRIMARY && s->peer;
}

static bool is_secondary(BDRVReplicationState *s, void *opaque)
{
    return s->mode == REPLICATION_MODE_SECONDARY;
}

static bool is_running(BDRVReplicationState *s, void *opaque)
{
    return s->stage == COLO_DISK_STAGE_RUNNING;
}

bool replication_has_node_above(BDRVReplicationState *s)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &s->bs->parents, next_parent) {
        if (c->klass->parent_is_bds) {
            return true;
        }
    }
    return false;
}

void replication_add_no_child(BDRVReplicationState *s, BlockDriverState *peer,
                              Error **errp)
{
    error_setg(errp, "node '%s' takes no children: it is not the primary of a "
               "shared disk", replication_name(s));
}

void replication_del_no_child(BDRVReplicationState *s, BdrvChild *child,
                              Error **errp)
{
    error_setg(errp, "the child of node '%s' cannot be removed",
               replication_name(s));
}

static NodeFunc *node_of_role(ReplicationMode role)
{
    return role == REPLICATION_MODE_PRIMARY ? is_primary : is_secondary;
}

bool replication_covers(BlockDriverState *bs, ReplicationMode role)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return visit(bs, true, node_of_role(role), NULL);
}

bool replication_runs(BlockDriverState *bs)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return visit(bs, false, is_running, NULL);
}

/* The node at or below @bs that does not pass on what the guest writes */
static BlockDriverState *GRAPH_RDLOCK find_keeper(BlockDriverState *bs,
                                                  NodeFunc *match)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &bs->children, next) {
        if (visit(c->bs, false, match, NULL)) {
            return passes_writes(bs, c) ? find_keeper(c->bs, match) : bs;
        }
    }
    return NULL;
}

bool replication_check_covered(BlockDriverState *bs, ReplicationMode role,
                               Error **errp)
{
    BlockDriverState *keeper;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    if (visit(bs, true, node_of_role(role), NULL)) {
        return true;
    }
    keeper = find_keeper(bs, node_of_role(role));
    if (keeper) {
        error_setg(errp, "node '%s' (%s) is above the one for replication and "
                   "keeps what the guest writes for itself",
                   replication_user_name(keeper), bdrv_get_format_name(keeper));
    }
    return !keeper;
}

static bool reach(BDRVReplicationState *s, void *opaque)
{
    uint64_t *epoch = opaque;

    if (is_primary(s, NULL)) {
        s->reached = *epoch;
    }
    return false;
}

void replication_reach(BlockDriverState *bs, uint64_t epoch)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    visit(bs, true, reach, &epoch);
}

static bool needs_sample(BDRVReplicationState *s, void *opaque)
{
    BDRVReplicationState **found = opaque;

    assume_graph_lock(); /* visit() has it */
    if (s->kind == &replication_primary && (!s->resynced || s->by_log) &&
        !s->sample &&
        replication_has_node_above(s)) {
        *found = s;
    }
    return *found != NULL;
}

bool replication_sample(BlockBackend *blk, const char *name,
                        uint64_t budget_ms, Error **errp)
{
    while (true) {
        BDRVReplicationState *s = NULL;

        bdrv_graph_rdlock_main_loop();
        visit(blk_bs(blk), true, needs_sample, &s);
        bdrv_graph_rdunlock_main_loop();
        if (!s) {
            return true;
        }
        if (!replication_sample_take(s, name, budget_ms, errp)) {
            return false;
        }
    }
}

/* True if @bs is where a node that matches has its data, or above that */
static bool GRAPH_RDLOCK is_below(BlockDriverState *bs, NodeFunc *match)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &bs->parents, next_parent) {
        BlockDriverState *parent = c->klass->parent_is_bds ? c->opaque : NULL;
        BDRVReplicationState *s = parent ? replication_of(parent) : NULL;

        if (parent && ((s && match(s, NULL)) || is_below(parent, match))) {
            return true;
        }
    }
    return false;
}

static bool is_running_secondary(BDRVReplicationState *s, void *opaque)
{
    return is_secondary(s, NULL) && is_running(s, NULL);
}

/*
 * Does the guest write by way of @to as by way of @bs?  Another node above the
 * same data will not do.  The nodes of a secondary may be inactive, so nobody
 * has asked yet whether both can be there, and the failover would fail.
 */
static bool GRAPH_RDLOCK is_as_good(BlockDriverState *bs, BlockDriverState *to)
{
    return visit(to, true, is_running_secondary, NULL) &&
           bdrv_skip_filters(to) == bdrv_skip_filters(bs);
}

static bool is_running_primary(BDRVReplicationState *s, void *opaque)
{
    return is_primary(s, NULL) && is_running(s, NULL);
}

/* It forwards what is written, and nothing can be read from it */
static bool is_sender(BDRVReplicationState *s, void *opaque)
{
    return is_primary(s, NULL) && !s->kind->on_image;
}

static bool add_sender(BDRVReplicationState *s, void *opaque)
{
    if (is_sender(s, NULL)) {
        g_ptr_array_add(opaque, s);
    }
    return false;
}

void replication_find_senders(BlockDriverState *disk, GPtrArray *nodes)
{
    visit(disk, true, add_sender, nodes);
}

bool replication_lacks_image(BlockDriverState *quorum, BlockDriverState *but)
{
    bool sends = false;
    BdrvChild *c;

    QLIST_FOREACH(c, &quorum->children, next) {
        if (visit(c->bs, false, is_sender, NULL)) {
            sends = true;
        } else if (c->bs != but) {
            return false;
        }
    }
    return sends;
}

/* Primary: is @bs all that a disk that is being replicated has on this side? */
static bool GRAPH_RDLOCK is_only_image(BlockDriverState *bs)
{
    BdrvChild *c;

    if (visit(bs, false, is_sender, NULL)) {
        return false;
    }
    QLIST_FOREACH(c, &bs->parents, next_parent) {
        BlockDriverState *parent = c->klass->parent_is_bds ? c->opaque : NULL;

        if (parent && parent->drv == bdrv_find_format("quorum") &&
            visit(parent, true, is_running_primary, NULL) &&
            replication_lacks_image(parent, bs)) {
            return true;
        }
    }
    return false;
}

bool replication_needs(BlockDriverState *bs, BlockDriverState *to,
                       Error **errp)
{
    if (!to && is_only_image(bs)) {
        error_setg(errp, "Node '%s' is busy: its disk is being replicated, and "
                   "has no other image on this side",
                   replication_user_name(bs));
        return true;
    }
    if (!visit(bs, true, is_running_secondary, NULL) ||
        (to && is_as_good(bs, to))) {
        return false;
    }
    error_setg(errp, "Node '%s' is busy: a disk is being replicated by way of "
               "it", replication_user_name(bs));
    return true;
}

bool replication_reopen_is_blocked(BlockDriverState *parent,
                                   BlockDriverState *bs, BlockDriverState *to,
                                   Error **errp)
{
    if (is_below(parent, is_running)) {
        error_setg(errp, "Node '%s' is busy: its disk is being replicated, and "
                   "the nodes below it have to stay",
                   replication_user_name(parent));
        return true;
    }
    return bs && replication_needs(bs, to, errp);
}

static bool is_folding(BDRVReplicationState *s, void *opaque)
{
    return s->stage == COLO_DISK_STAGE_FOLDING;
}

bool replication_forbids_reopen(BlockDriverState *bs, Error **errp)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    if (is_below(bs, is_folding)) {
        error_setg(errp, "Node '%s' is busy: overlays are being folded into "
                   "their disk", replication_user_name(bs));
        return true;
    }
    /* With another offset the primary's writes would go somewhere else */
    if (is_below(bs, is_running_secondary)) {
        error_setg(errp, "Node '%s' is busy: its disk is being replicated, and "
                   "it has to stay as it is", replication_user_name(bs));
        return true;
    }
    return false;
}

/* Is a node that matches at or below something above @bs? */
static bool GRAPH_RDLOCK is_beside(BlockDriverState *bs, NodeFunc *match)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &bs->parents, next_parent) {
        BlockDriverState *parent = c->klass->parent_is_bds ? c->opaque : NULL;

        if (parent && (visit(parent, false, match, NULL) ||
                       is_beside(parent, match))) {
            return true;
        }
    }
    return false;
}

/* Does @bs reach the data of a node that matches, past it, as a sink does? */
static bool GRAPH_RDLOCK shares_data(BlockDriverState *bs, NodeFunc *match)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &bs->children, next) {
        if (is_below(c->bs, match) || shares_data(c->bs, match)) {
            return true;
        }
    }
    return false;
}

/* Does @bs reach the data of a node that matches, and not by way of it? */
static bool GRAPH_RDLOCK goes_past(BlockDriverState *bs, NodeFunc *match)
{
    return !visit(bs, false, match, NULL) &&
           (is_below(bs, match) || shares_data(bs, match));
}

static bool is_started_secondary(BDRVReplicationState *s, void *opaque)
{
    return is_secondary(s, NULL) && s->stage != COLO_DISK_STAGE_IDLE &&
           !s->restarts; /* then the job is ours */
}

static bool is_unfolded_secondary(BDRVReplicationState *s, void *opaque)
{
    return is_secondary(s, NULL) && s->stage != COLO_DISK_STAGE_FOLDED;
}

/* A sink or the like: what the primary writes comes by way of @bs */
static bool GRAPH_RDLOCK is_way_in(BlockDriverState *bs)
{
    return !visit(bs, false, is_secondary, NULL) &&
           !is_below(bs, is_secondary) &&
           shares_data(bs, is_unfolded_secondary);
}

bool replication_write_is_blocked(BlockDriverState *bs, Error **errp)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    if (!goes_past(bs, is_secondary) && !is_below(bs, is_sender)) {
        return false;
    }
    error_setg(errp, "Node '%s' is busy: it is a part of a replicated disk, "
               "and only replication writes to it", replication_user_name(bs));
    return true;
}

/* Does @bs make up a disk that is being replicated, in whatever place? */
static bool GRAPH_RDLOCK is_part(BlockDriverState *bs)
{
    return visit(bs, false, is_running, NULL) || is_below(bs, is_running) ||
           is_beside(bs, is_running) || shares_data(bs, is_running);
}

bool replication_activation_is_blocked(const char *node_name, Error **errp)
{
    BlockDriverState *bs = NULL;

    while ((bs = bdrv_next_node(bs))) {
        if (node_name ? g_str_equal(bs->node_name, node_name) && is_part(bs)
                      : visit(bs, false, is_running, NULL)) {
            error_setg(errp, "Node '%s' is busy: its disk is being replicated, "
                       "and the COLO session says when it is active",
                       replication_user_name(bs));
            return true;
        }
    }
    /* Nothing else keeps that of a guest that stands, or is about to run */
    if (replication_in_session()) {
        error_setg(errp, "No node can be activated or inactivated in a COLO "
                   "session: the guest may need it");
        return true;
    }
    return false;
}

static bool is_running_sender(BDRVReplicationState *s, void *opaque)
{
    return is_sender(s, NULL) && is_running(s, NULL);
}

static bool is_running_other(BDRVReplicationState *s, void *opaque)
{
    return !is_sender(s, NULL) && is_running(s, NULL);
}

/* The guest's disk itself, which may become longer: see grow.c */
static bool GRAPH_RDLOCK is_disk_that_grows(BlockDriverState *bs)
{
    BdrvChild *c;

    QLIST_FOREACH(c, &bs->parents, next_parent) {
        if (c->klass->parent_is_bds) {
            return false;
        }
    }
    return !replication_of(bs) && visit(bs, true, is_running_sender, NULL) &&
           !visit(bs, false, is_running_other, NULL);
}

bool replication_op_is_blocked(BlockDriverState *bs, BlockOpType op,
                               Error **errp)
{
    switch (op) {
    case BLOCK_OP_TYPE_RESIZE:
        if (!is_part(bs) || is_disk_that_grows(bs)) {
            return false;
        }
        error_setg(errp, "Node '%s' is busy: its disk is being replicated, and "
                   "both sides keep its length",
                   replication_user_name_locked(bs));
        return true;
    case BLOCK_OP_TYPE_BACKUP_TARGET:
    case BLOCK_OP_TYPE_MIRROR_TARGET:
        if (!goes_past(bs, is_started_secondary)) {
            return false;
        }
        error_setg(errp, "Node '%s' is busy: its disk is replicated, or was, "
                   "and no job writes to a node below it",
                   replication_user_name(bs));
        return true;
    case BLOCK_OP_TYPE_EXTERNAL_SNAPSHOT:
    case BLOCK_OP_TYPE_MIRROR_SOURCE:
    case BLOCK_OP_TYPE_COMMIT_SOURCE:
    case BLOCK_OP_TYPE_COMMIT_TARGET:
    case BLOCK_OP_TYPE_STREAM:
    case BLOCK_OP_TYPE_REPLACE:
        break;
    default:
        return false;
    }
    if (!visit(bs, true, is_running, NULL) && !is_below(bs, is_running) &&
        !shares_data(bs, is_running) && !is_way_in(bs)) {
        return false;
    }
    error_setg(errp, "Node '%s' is busy: its disk is being replicated, and no "
               "snapshot or job may put another node in the place of one of "
               "its nodes", replication_user_name(bs));
    return true;
}
