/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO setup: what was made, one step after the other, and how each is taken
 * back.
 *
 * Each function here that makes something notes it in a list, and may fail;
 * then nothing has changed, and the caller takes back the list.  All is done
 * with what the monitor's commands do, so the same is checked and refused.
 * Main loop, BQL.
 */

#ifndef QEMU_MIGRATION_COLO_SETUP_STEPS_H
#define QEMU_MIGRATION_COLO_SETUP_STEPS_H

#include "qapi/qapi-types-colo.h"
#include "qobject/qdict.h"
#include "block/block-common.h"
#include "qemu/queue.h"

typedef struct ColoStep ColoStep;

/*
 * Returns false with @errp set if @step cannot be taken back; it may be tried
 * again.  What somebody else has taken away meanwhile counts as taken back.
 */
typedef bool ColoStepUndo(ColoStep *step, Error **errp);

struct ColoStep {
    ColoSetupStepKind kind;
    char *name;
    ColoStepUndo *undo;
    /* As the kind needs them */
    char *other;                /* another name */
    bool was;                   /* a value that was there before */
    int64_t value;
    QTAILQ_ENTRY(ColoStep) next;
};

typedef QTAILQ_HEAD(ColoSteps, ColoStep) ColoSteps;

/*
 * colo_steps_undo: take back all of @steps, the last one first
 *
 * Returns false with @errp set, of the first one that fails, if some cannot be
 * taken back: these stay in @steps.
 */
bool colo_steps_undo(ColoSteps *steps, Error **errp);

/* colo_steps_move: append all of @from to @to */
void colo_steps_move(ColoSteps *to, ColoSteps *from);

/* colo_steps_query: what was made; the caller frees the list */
ColoSetupStepList *colo_steps_query(const ColoSteps *steps);

/* For other files that make something: a step is about to begin, and was done */
bool colo_step_may_begin(Error **errp);
ColoStep *colo_step_done(ColoSteps *steps, ColoSetupStepKind kind,
                         const char *name, ColoStepUndo *undo);

/*
 * colo_step_chardev: the character device @id, a socket at port @port of @host
 *
 * @listen: it is the end that listens, and nobody waits for the other one.
 * Otherwise it connects in the background, once a second, as long as it lives.
 */
bool colo_step_chardev(ColoSteps *steps, const char *id, const char *host,
                       uint16_t port, bool listen, Error **errp);

/*
 * colo_step_filter: the filter @id; @options: as of object-add, taken over
 *
 * One that rewrites connections is not taken back while there are any.
 */
bool colo_step_filter(ColoSteps *steps, const char *id, QDict *options,
                      Error **errp);

/* colo_step_node: the node @id; @options: as of blockdev-add, taken over */
bool colo_step_node(ColoSteps *steps, const char *id, QDict *options,
                    Error **errp);

/*
 * colo_step_insert: put a node above @below, so that all that used that uses
 * the new one, while the guest writes
 *
 * @options: flat, with "driver" and "node-name"; taken over.  One of them has
 * to make @below a descendant of the node.
 */
bool colo_step_insert(ColoSteps *steps, BlockDriverState *below,
                      QDict *options, Error **errp);

/* colo_step_child: add the node @child to @parent, as x-blockdev-change does */
bool colo_step_child(ColoSteps *steps, const char *parent, const char *child,
                     Error **errp);

/* colo_step_nbd_server: start it at port @port of @host */
bool colo_step_nbd_server(ColoSteps *steps, const char *host, uint16_t port,
                          Error **errp);

/* colo_step_export: export the node @node, by that ID, under the name @name */
bool colo_step_export(ColoSteps *steps, const char *node, const char *name,
                      bool writable, Error **errp);

/*
 * colo_step_overlay: make a qcow2 image of @length bytes at @path
 *
 * What is there is replaced: overlays hold nothing that outlives a session.
 */
bool colo_step_overlay(ColoSteps *steps, const char *path, int64_t length,
                       bool subclusters, Error **errp);

/* colo_step_capability: set x-colo */
bool colo_step_capability(ColoSteps *steps, Error **errp);

/* colo_step_mode: set x-colo-mode */
bool colo_step_mode(ColoSteps *steps, ColoSyncMode mode, Error **errp);

/*
 * colo_step_resync: start the job @id, which makes the other side's disk equal
 *
 * @replication: the node; @hashes: a node with the hashes of that disk, or NULL
 * to send all.
 */
bool colo_step_resync(ColoSteps *steps, const char *id,
                      const char *replication, const char *hashes,
                      Error **errp);

#endif
