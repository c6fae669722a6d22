/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: two QEMUs and one image, with NBD between them.
 *
 * No guest runs, the monitor writes in its place; xen-set-replication starts
 * and stops.  Below the hidden overlay is a node of blkdebug, by which requests
 * are stopped.
 */

#ifndef TESTS_QTEST_COLO_SHARED_RIG_H
#define TESTS_QTEST_COLO_SHARED_RIG_H

#include "qemu/units.h"
#include "colo-disk-rig.h"

/* What is put at a time */
#define UNIT (64 * KiB)

/* A QEMU, and what it has for itself */
typedef struct Side {
    QTestState *qts;            /* NULL when it is gone */
    char *active;
    char *hidden;
    char *server;               /* its NBD server */
} Side;

typedef struct Shared {
    char *dir;
    char *image;
    Side primary;
    Side secondary;
    Side third;                 /* later */
} Shared;

/* Options of replication, and of a raw image */
#define SHARED "shared-disk=on,cache-coherent=on"
#define RAW_FILE "driver=raw,file.driver=file,file.filename"
#define RAW_FILE_RO "driver=raw,read-only=on,file.driver=file,file.filename"

/*
 * @image: options of the image, the last one is that for the name of @file
 * @shared: options of replication
 */
void shared_start_primary_as(Shared *s, const char *image, const char *file,
                             const char *shared);

/*
 * What a primary needs later on is there, too: the node "front".  @store: the
 * driver above the hidden overlay.
 */
void shared_start_secondary_as(Shared *s, Side *side, const char *image,
                               const char *shared, const char *store);
void shared_start_secondary(Shared *s, Side *side);

/* Primary and secondary have begun, and know nothing of each other */
Shared *shared_new(void);

/* As above, in a session */
Shared *shared_new_started(void);

void shared_free(Shared *s);

/* The way from @parent, a node of the primary, to the secondary's overlay */
void shared_add_peer(Side *primary, const char *parent, Side *secondary);
void shared_del_peer(Side *primary, const char *parent);

/* That, and both in a session */
void shared_begin(Side *primary, const char *parent, Side *secondary);

void shared_checkpoint(Side *primary, Side *secondary);

/* "repl" gets no child, nor loses one: @what, child or node, is @name */
void shared_change_refused(Side *primary, const char *text, const char *what,
                           const char *name);

/* Its guest reads @bytes times @byte at @offset */
void side_read(Side *side, int byte, int64_t offset, int64_t bytes);

/* Another disk of that QEMU: who stops requests needs one with an ID */
void side_add_drive(Side *side, const char *id, const char *options);

/* Have the disk "inside", to stop what comes to the hidden overlay */
void side_add_inside(Side *secondary);

#endif
