/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO setup: nodes for replication above the root of disks that are in use.
 *
 * Main loop, BQL.  What a disk was made of, its format and file, stays; the
 * device gets a node above it while requests are held off::
 *
 *    primary                          secondary
 *
 *    device                           device
 *      |                                |
 *    colo-topN: quorum                colo-topN: quorum
 *      |       |                        |
 *    root    colo-replicationN        colo-secondaryN: replication
 *              |                        |
 *            NBD client               colo-activeN: qcow2
 *                                       |
 *                                     colo-hiddenN: qcow2
 *                                       |
 *    colo-hashN: NBD client           root <-- colo-sinkN, colo-hashN: exports
 *
 * Exports have the name of the disk's address, so no disk meets another one,
 * whatever the order in which each side was given them.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/job.h"
#include "qobject/qjson.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "block/nbd.h"
#include "block/replication.h"
#include "hw/qdev-core.h"
#include "system/block-backend.h"
#include "../disks.h"
#include "disks.h"

/* The guest and the monitor stand while a host does not answer that is gone */
#define OPEN_TIMEOUT_S 2

typedef struct ColoSetupJob {
    ColoSetup *setup;
    Notifier completed;
    Notifier cancelled;
} ColoSetupJob;

static void free_disk(gpointer opaque)
{
    ColoSetupDisk *d = opaque;

    bdrv_unref(d->root);
    g_free(d->address);
    g_free(d->name);
    g_free(d);
}

/* Where the guest finds it; a device without an address is alone of its kind */
static char *address_of(BlockBackend *blk, const char *name)
{
    DeviceState *dev = blk_get_attached_dev(blk);
    char *path = qdev_get_dev_path(dev);

    return path ?: g_strdup(name);
}

static bool is_wanted(const strList *wanted, const char *name)
{
    for (; wanted; wanted = wanted->next) {
        if (g_str_equal(wanted->value, name)) {
            return true;
        }
    }
    return false;
}

static bool takes_away(const BlockDriverState *root)
{
    return colo_setup_has_made(COLO_SETUP_STEP_KIND_INSERTION,
                               bdrv_get_node_name(root));
}

static void take_disk(ColoSetupSearch *search, GPtrArray *disks,
                      BlockBackend *blk, const char *name)
{
    BlockDriverState *root = blk_bs(blk);
    ColoSetupDisk *d;

    if (!takes_away(root) && replication_covers(root, search->role)) {
        /* The published way; it is complete */
        return;
    }
    d = g_new0(ColoSetupDisk, 1);
    d->name = g_strdup(name);
    d->address = address_of(blk, name);
    d->root = root;
    bdrv_ref(root);
    g_ptr_array_add(disks, d);
}

static gint by_address(gconstpointer a, gconstpointer b)
{
    const ColoSetupDisk *const *one = a, *const *other = b;

    return strcmp((*one)->address, (*other)->address);
}

static void look_at_folder(ColoSetupSearch *search, const char *folder)
{
    if (!folder) {
        colo_setup_find(search, COLO_SETUP_SUBJECT_ARGUMENT, "folder",
                        g_strdup("the disks of a secondary need a folder for "
                                 "overlays"),
                        g_strdup("name one with 'folder'"));
    } else if (access(folder, W_OK | X_OK)) {
        colo_setup_find(search, COLO_SETUP_SUBJECT_FILE, folder,
                        g_strdup_printf("nothing can be made in folder '%s': "
                                        "%s", folder, strerror(errno)),
                        g_strdup("make it, and give it to QEMU's user"));
    }
    if (nbd_server_is_running() &&
        !colo_setup_has_made(COLO_SETUP_STEP_KIND_NBD_SERVER, NULL)) {
        colo_setup_find(search, COLO_SETUP_SUBJECT_STATE, "",
                        g_strdup("the NBD server runs already"),
                        g_strdup("give nbd-server-stop, or no disks by "
                                 "'disks'"));
    }
}

/* What is not there, or not a disk that a guest can write to */
static void look_at_wanted(ColoSetupSearch *search, const strList *wanted)
{
    for (; wanted; wanted = wanted->next) {
        bool found = false;

        for (BlockBackend *blk = colo_disk_next(NULL); blk && !found;
             blk = colo_disk_next(blk)) {
            g_autofree char *name = colo_disk_name(blk);

            found = g_str_equal(name, wanted->value);
        }
        if (!found) {
            colo_setup_find(search, COLO_SETUP_SUBJECT_DISK, wanted->value,
                            g_strdup_printf("the guest has no writable disk "
                                            "'%s'", wanted->value),
                            g_strdup("query-block has the names of devices"));
        }
    }
}

GPtrArray *colo_setup_disks(ColoSetupSearch *search, bool has_wanted,
                            const strList *wanted, const char *folder)
{
    GPtrArray *disks = g_ptr_array_new_with_free_func(free_disk);

    look_at_wanted(search, wanted);
    for (BlockBackend *blk = colo_disk_next(NULL); blk;
         blk = colo_disk_next(blk)) {
        g_autofree char *name = colo_disk_name(blk);

        if (!has_wanted || is_wanted(wanted, name)) {
            take_disk(search, disks, blk, name);
        }
    }
    g_ptr_array_sort(disks, by_address);
    if (disks->len && search->role == REPLICATION_MODE_SECONDARY) {
        look_at_folder(search, folder);
    }
    return disks;
}

static bool make_node(ColoSetup *s, const char *what, unsigned n,
                      QDict *options, Error **errp)
{
    g_autofree char *id = g_strdup_printf("colo-%s%u", what, n);

    return colo_step_node(&s->steps, id, options, errp);
}

/* The quorum above @below, which has one child */
static bool insert_top(ColoSetup *s, unsigned n, BlockDriverState *below,
                       Error **errp)
{
    g_autofree char *id = g_strdup_printf("colo-top%u", n);
    QDict *options = qdict_from_jsonf_nofail(
        "{'driver': 'quorum', 'node-name': %s, 'read-pattern': 'fifo',"
        "'vote-threshold': '1', 'children.0': %s}", id,
        bdrv_get_node_name(below));

    return colo_step_insert(&s->steps, below, options, errp);
}

static QDict *connection_to(ColoSetup *s, const char *export)
{
    g_autofree char *port = g_strdup_printf("%u", s->first_port +
                                            COLO_SETUP_PORT_DISKS);

    return qdict_from_jsonf_nofail(
        "{'driver': 'nbd', 'export': %s, 'open-timeout': %d,"
        "'server': {'type': 'inet', 'host': %s, 'port': %s}}", export,
        OPEN_TIMEOUT_S, s->host, port);
}

static char *sink_export(const ColoSetupDisk *d)
{
    return g_strdup_printf("disk %s", d->address);
}

static char *hash_export(const ColoSetupDisk *d)
{
    return g_strdup_printf("hashes %s", d->address);
}

static bool make_hash_client(ColoSetup *s, unsigned n, const ColoSetupDisk *d,
                             Error **errp)
{
    g_autofree char *export = hash_export(d);
    QDict *options = connection_to(s, export);

    qdict_put_bool(options, "read-only", true);
    return make_node(s, "hash", n, options, errp);
}

static bool make_replication(ColoSetup *s, unsigned n, const ColoSetupDisk *d,
                             Error **errp)
{
    g_autofree char *export = sink_export(d);
    g_autofree char *top = g_strdup_printf("colo-top%u", n);
    g_autofree char *id = g_strdup_printf("colo-replication%u", n);

    return make_node(s, "replication", n, qdict_from_jsonf_nofail(
                         "{'driver': 'replication', 'mode': 'primary',"
                         "'batch': true, 'discard': 'unmap', 'file': %p}",
                         connection_to(s, export)), errp) &&
           colo_step_child(&s->steps, top, id, errp);
}

/* Under the lock of jobs */
static void job_ended(ColoSetupJob *j, const char *error)
{
    if (error && !j->setup->job_error) {
        j->setup->job_error = g_strdup(error);
    }
    j->setup->jobs_left--;
    if (j->setup->bh) {
        qemu_bh_schedule(j->setup->bh);
    }
}

static void job_completed(Notifier *notifier, void *opaque)
{
    Job *job = opaque;

    job_ended(container_of(notifier, ColoSetupJob, completed),
              !job->ret ? NULL : job->err ? error_get_pretty(job->err)
                                          : strerror(-job->ret));
}

static void job_cancelled(Notifier *notifier, void *opaque)
{
    job_ended(container_of(notifier, ColoSetupJob, cancelled),
              "it was cancelled");
}

static void watch_job(ColoSetup *s, const char *id)
{
    ColoSetupJob *j = g_new0(ColoSetupJob, 1);
    JOB_LOCK_GUARD();
    Job *job = job_get_locked(id);

    j->setup = s;
    j->completed.notify = job_completed;
    j->cancelled.notify = job_cancelled;
    s->jobs = g_slist_prepend(s->jobs, j);
    s->jobs_left++;
    notifier_list_add(&job->on_finalize_completed, &j->completed);
    notifier_list_add(&job->on_finalize_cancelled, &j->cancelled);
}

void colo_setup_free_jobs(ColoSetup *s)
{
    g_slist_free_full(g_steal_pointer(&s->jobs), g_free);
    g_clear_pointer(&s->job_error, g_free);
}

static bool start_resync(ColoSetup *s, unsigned n, Error **errp)
{
    g_autofree char *job = g_strdup_printf("colo-resync%u", n);
    g_autofree char *node = g_strdup_printf("colo-replication%u", n);
    g_autofree char *hashes = g_strdup_printf("colo-hash%u", n);

    if (!colo_step_resync(&s->steps, job, node,
                          s->resync == COLO_RESYNC_MODE_HASH ? hashes : NULL,
                          errp)) {
        return false;
    }
    watch_job(s, job);
    return true;
}

static bool make_primary(ColoSetup *s, unsigned n, const ColoSetupDisk *d,
                         Error **errp)
{
    return insert_top(s, n, d->root, errp) &&
           make_hash_client(s, n, d, errp) &&
           make_replication(s, n, d, errp);
}

static bool make_overlay(ColoSetup *s, const char *what, unsigned n,
                         int64_t length, const char *backing, Error **errp)
{
    g_autofree char *path = g_strdup_printf("%s/colo-%s%u.qcow2", s->folder,
                                            what, n);
    bool active = g_str_equal(what, "active");

    return colo_step_overlay(&s->steps, path, length, active, errp) &&
           make_node(s, what, n, qdict_from_jsonf_nofail(
                         "{'driver': 'qcow2', 'backing': %s, 'discard':"
                         "'unmap', 'file': {'driver': 'file', 'discard':"
                         "'unmap', 'filename': %s}}", backing, path), errp);
}

static bool insert_secondary(ColoSetup *s, unsigned n, BlockDriverState *root,
                             Error **errp)
{
    g_autofree char *id = g_strdup_printf("colo-secondary%u", n);
    g_autofree char *top = g_strdup_printf("colo-top%u", n);
    g_autofree char *active = g_strdup_printf("colo-active%u", n);

    return colo_step_insert(&s->steps, root, qdict_from_jsonf_nofail(
                                "{'driver': 'replication', 'node-name': %s,"
                                "'mode': 'secondary', 'top-id': %s,"
                                "'file': %s}", id, top, active), errp) &&
           insert_top(s, n, bdrv_find_node(id), errp);
}

static bool make_export(ColoSetup *s, const char *driver, const char *what,
                        unsigned n, BlockDriverState *root, const char *name,
                        bool writable, Error **errp)
{
    g_autofree char *id = g_strdup_printf("colo-%s%u", what, n);

    return make_node(s, what, n, qdict_from_jsonf_nofail(
                         "{'driver': %s, 'file': %s, 'read-only': %i}",
                         driver, bdrv_get_node_name(root), !writable),
                     errp) &&
           colo_step_export(&s->steps, id, name, writable, errp);
}

static bool make_secondary(ColoSetup *s, unsigned n, const ColoSetupDisk *d,
                           Error **errp)
{
    g_autofree char *hidden = g_strdup_printf("colo-hidden%u", n);
    g_autofree char *sink = sink_export(d);
    g_autofree char *hashes = hash_export(d);
    int64_t length = bdrv_getlength(d->root);

    if (length < 0) {
        error_setg_errno(errp, -length, "the length of disk '%s' is not known",
                         d->name);
        return false;
    }
    return make_overlay(s, "hidden", n, length, bdrv_get_node_name(d->root),
                        errp) &&
           make_overlay(s, "active", n, length, hidden, errp) &&
           insert_secondary(s, n, d->root, errp) &&
           make_export(s, "replication-sink", "sink", n, d->root, sink, true,
                       errp) &&
           make_export(s, "colo-hash", "hash", n, d->root, hashes, false,
                       errp);
}

static bool make_disk(ColoSetup *s, unsigned n, const ColoSetupDisk *d,
                      Error **errp)
{
    bool ok = s->role == REPLICATION_MODE_PRIMARY
              ? make_primary(s, n, d, errp)
              : make_secondary(s, n, d, errp);

    if (!ok) {
        error_prepend(errp, "disk '%s': ", d->name);
    }
    return ok;
}

bool colo_setup_make_disks(ColoSetup *s, const GPtrArray *disks, Error **errp)
{
    ERRP_GUARD();

    if (disks->len && s->role == REPLICATION_MODE_SECONDARY &&
        !colo_step_nbd_server(&s->steps, s->host,
                              s->first_port + COLO_SETUP_PORT_DISKS, errp)) {
        return false;
    }
    for (unsigned i = 0; i < disks->len; i++) {
        if (!make_disk(s, i, disks->pdata[i], errp)) {
            return false;
        }
    }
    /* No job before all are there: one that ends does not see half of them */
    for (unsigned i = 0; s->resyncs && i < disks->len; i++) {
        if (!start_resync(s, i, errp)) {
            return false;
        }
    }
    return true;
}

bool colo_setup_disks_settled(Error **errp)
{
    g_autoptr(ColoDiskStatisticsList) disks = replication_query_all();

    for (ColoDiskStatisticsList *l = disks; l; l = l->next) {
        const ColoDiskStatistics *d = l->value;

        if (d->mode == REPLICATION_MODE_SECONDARY &&
            (d->stage == COLO_DISK_STAGE_FOLDING ||
             d->stage == COLO_DISK_STAGE_UNFOLDED ||
             d->stage == COLO_DISK_STAGE_RUNNING)) {
            error_setg(errp, "disk '%s' is %s: its overlays have to be put "
                       "into the image first, which a job does (query-jobs), "
                       "or x-colo-fold begins anew", d->node_name,
                       ColoDiskStage_str(d->stage));
            return false;
        }
    }
    return true;
}
