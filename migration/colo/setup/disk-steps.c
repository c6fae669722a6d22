/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO setup: steps of disks.  Main loop, BQL; see steps.h.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-block-core.h"
#include "qapi/qapi-commands-block-export.h"
#include "qapi/qapi-commands-colo.h"
#include "qapi/qapi-visit-block-core.h"
#include "qapi/qapi-visit-block-export.h"
#include "qapi/qapi-visit-sockets.h"
#include "qapi/qobject-input-visitor.h"
#include "qemu/job.h"
#include "qobject/qjson.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "block/aio-wait.h"
#include "block/export.h"
#include "block/nbd.h"
#include "system/runstate.h"
#include "steps.h"

static bool undo_node(ColoStep *step, Error **errp)
{
    ERRP_GUARD();

    if (bdrv_find_node(step->name)) {
        qmp_blockdev_del(step->name, errp);
    }
    return !*errp;
}

bool colo_step_node(ColoSteps *steps, const char *id, QDict *options,
                    Error **errp)
{
    ERRP_GUARD();
    g_autoptr(BlockdevOptions) node = NULL;
    Visitor *v;

    if (!colo_step_may_begin(errp)) {
        qobject_unref(options);
        return false;
    }
    qdict_put_str(options, "node-name", id);
    v = qobject_input_visitor_new(QOBJECT(options));
    visit_type_BlockdevOptions(v, NULL, &node, errp);
    visit_free(v);
    qobject_unref(options);
    if (!node) {
        return false;
    }
    qmp_blockdev_add(node, errp);
    if (*errp) {
        return false;
    }
    colo_step_done(steps, COLO_SETUP_STEP_KIND_NODE, id, undo_node);
    return true;
}

/*
 * An export that is written to has made the node active, and nothing of the
 * secondary is before its guest comes.
 */
static bool inactivate(BlockDriverState *bs, Error **errp)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    return bs->open_flags & BDRV_O_INACTIVE || !bdrv_inactivate(bs, errp);
}

/* What uses the node uses again what is below it, and nobody uses the node */
static bool undo_insertion(ColoStep *step, Error **errp)
{
    BlockDriverState *node = bdrv_find_node(step->name);
    BlockDriverState *below = bdrv_find_node(step->other);
    int ret;

    if (!node) {
        return true;
    }
    if (!below) {
        error_setg(errp, "node '%s', which was below '%s', is gone",
                   step->other, step->name);
        return false;
    }
    bdrv_ref(node);
    bdrv_drained_begin(below);
    bdrv_drained_begin(node);
    bdrv_graph_wrlock();
    ret = bdrv_replace_node(node, below, errp);
    bdrv_graph_wrunlock();
    bdrv_drained_end(node);
    bdrv_drained_end(below);
    bdrv_unref(node);
    return !ret && (!step->was || !runstate_check(RUN_STATE_INMIGRATE) ||
                    inactivate(below, errp));
}

bool colo_step_insert(ColoSteps *steps, BlockDriverState *below,
                      QDict *options, Error **errp)
{
    g_autofree char *id = g_strdup(qdict_get_str(options, "node-name"));
    int flags = BDRV_O_RDWR | BDRV_O_UNMAP;
    bool was_inactive = below->open_flags & BDRV_O_INACTIVE;
    BlockDriverState *node;
    ColoStep *step;

    if (!colo_step_may_begin(errp)) {
        qobject_unref(options);
        return false;
    }
    if (runstate_check(RUN_STATE_INMIGRATE)) {
        flags |= BDRV_O_INACTIVE;
    }
    node = bdrv_insert_node(below, options, flags, errp);
    if (!node) {
        return false;
    }
    step = colo_step_done(steps, COLO_SETUP_STEP_KIND_INSERTION, id,
                          undo_insertion);
    step->other = g_strdup(bdrv_get_node_name(below));
    step->was = was_inactive;
    /* Those that use it have it from now on */
    bdrv_unref(node);
    return true;
}

/* The name that @parent has for its child @node; NULL if it has none */
static char *child_name(const char *parent, const char *node)
{
    BlockDriverState *bs = bdrv_find_node(parent);
    BdrvChild *c;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    if (!bs) {
        return NULL;
    }
    QLIST_FOREACH(c, &bs->children, next) {
        if (g_str_equal(bdrv_get_node_name(c->bs), node)) {
            return g_strdup(c->name);
        }
    }
    return NULL;
}

static bool undo_child(ColoStep *step, Error **errp)
{
    ERRP_GUARD();
    g_autofree char *child = child_name(step->other, step->name);

    if (child) {
        qmp_x_blockdev_change(step->other, child, NULL, errp);
    }
    return !*errp;
}

bool colo_step_child(ColoSteps *steps, const char *parent, const char *child,
                     Error **errp)
{
    ERRP_GUARD();

    if (!colo_step_may_begin(errp)) {
        return false;
    }
    qmp_x_blockdev_change(parent, NULL, child, errp);
    if (*errp) {
        return false;
    }
    colo_step_done(steps, COLO_SETUP_STEP_KIND_CHILD, child,
                   undo_child)->other = g_strdup(parent);
    return true;
}

static bool undo_nbd_server(ColoStep *step, Error **errp)
{
    ERRP_GUARD();

    if (nbd_server_is_running()) {
        qmp_nbd_server_stop(errp);
    }
    return !*errp;
}

bool colo_step_nbd_server(ColoSteps *steps, const char *host, uint16_t port,
                          Error **errp)
{
    ERRP_GUARD();
    g_autofree char *service = g_strdup_printf("%u", port);
    QDict *options = qdict_from_jsonf_nofail(
        "{'type': 'inet', 'data': {'host': %s, 'port': %s}}", host, service);
    g_autoptr(SocketAddressLegacy) addr = NULL;
    Visitor *v = qobject_input_visitor_new(QOBJECT(options));

    visit_type_SocketAddressLegacy(v, NULL, &addr, &error_abort);
    visit_free(v);
    qobject_unref(options);
    if (!colo_step_may_begin(errp)) {
        return false;
    }
    qmp_nbd_server_start(false, 0, NULL, NULL, false, 0, addr, errp);
    if (*errp) {
        return false;
    }
    colo_step_done(steps, COLO_SETUP_STEP_KIND_NBD_SERVER, service,
                   undo_nbd_server);
    return true;
}

static bool undo_export(ColoStep *step, Error **errp)
{
    ERRP_GUARD();

    if (!blk_exp_find(step->name)) {
        return true;
    }
    qmp_block_export_del(step->name, true, BLOCK_EXPORT_REMOVE_MODE_HARD,
                         errp);
    if (*errp) {
        return false;
    }
    /* Its clients have been shut out, so none is waited for */
    AIO_WAIT_WHILE_UNLOCKED(NULL, blk_exp_find(step->name));
    return true;
}

bool colo_step_export(ColoSteps *steps, const char *node, const char *name,
                      bool writable, Error **errp)
{
    ERRP_GUARD();
    QDict *options = qdict_from_jsonf_nofail(
        "{'type': 'nbd', 'id': %s, 'node-name': %s, 'name': %s,"
        "'writable': %i}", node, node, name, writable);
    g_autoptr(BlockExportOptions) export = NULL;
    Visitor *v = qobject_input_visitor_new(QOBJECT(options));

    visit_type_BlockExportOptions(v, NULL, &export, &error_abort);
    visit_free(v);
    qobject_unref(options);
    if (!colo_step_may_begin(errp)) {
        return false;
    }
    qmp_block_export_add(export, errp);
    if (*errp) {
        return false;
    }
    colo_step_done(steps, COLO_SETUP_STEP_KIND_EXPORT, node, undo_export);
    return true;
}

static bool undo_overlay(ColoStep *step, Error **errp)
{
    if (unlink(step->name) && errno != ENOENT) {
        error_setg_errno(errp, errno, "cannot remove '%s'", step->name);
        return false;
    }
    return true;
}

bool colo_step_overlay(ColoSteps *steps, const char *path, int64_t length,
                       bool subclusters, Error **errp)
{
    ERRP_GUARD();
    char options[] = "extended_l2=on,cluster_size=128k";

    if (!colo_step_may_begin(errp)) {
        return false;
    }
    bdrv_img_create(path, "qcow2", NULL, NULL, subclusters ? options : NULL,
                    length, 0, true, errp);
    if (*errp) {
        error_prepend(errp, "cannot make '%s': ", path);
        return false;
    }
    colo_step_done(steps, COLO_SETUP_STEP_KIND_FILE, path, undo_overlay);
    return true;
}

static bool undo_resync(ColoStep *step, Error **errp)
{
    JOB_LOCK_GUARD();
    Job *job = job_get_locked(step->name);

    if (job) {
        job_cancel_sync_locked(job, true);
    }
    return true;
}

bool colo_step_resync(ColoSteps *steps, const char *id,
                      const char *replication, const char *hashes,
                      Error **errp)
{
    ERRP_GUARD();

    if (!colo_step_may_begin(errp)) {
        return false;
    }
    qmp_x_colo_resync(id, replication, NULL, true,
                      hashes ? COLO_RESYNC_MODE_HASH : COLO_RESYNC_MODE_FULL,
                      NULL, hashes, false, 0, errp);
    if (*errp) {
        return false;
    }
    colo_step_done(steps, COLO_SETUP_STEP_KIND_JOB, id, undo_resync);
    return true;
}
