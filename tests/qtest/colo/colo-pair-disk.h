/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a replicated disk of a pair, which is all zero.
 *
 * Of both guests it is node "disk0", device "disk9".  If nothing else is said
 * the primary's has no data, and the way to the secondary, node "repl", leads
 * nowhere: to node "peer0".
 */

#ifndef TESTS_QTEST_COLO_PAIR_DISK_H
#define TESTS_QTEST_COLO_PAIR_DISK_H

#include "qobject/qdict.h"
#include "libqtest.h"
#include "colo-helpers.h"

/* A slot that both sides know */
#define PAIR_DISK_SLOT    "6"

/* A node for replication; its name, and the secondary's socket */
#define PAIR_DISK_ADD_NODE                                                  \
    "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication',"    \
    "'node-name': %s, 'mode': 'primary', 'file': {'driver': 'nbd',"         \
    "'export': 'd', 'server': {'type': 'unix', 'path': %s}}}}"

/* The guest gets the node "disk0" as its disk */
void pair_disk_plug(QTestState *qts);

void pair_disk_add_primary(QTestState *qts);
/* @image: raw, of DISK bytes; the others are overlays of the same length */
void pair_disk_add_secondary(QTestState *qts, const char *image,
                             const char *active, const char *hidden);
/* The same with a generation-file */
void pair_disk_add_used(QTestState *qts, const char *image, const char *active,
                        const char *hidden, const char *generation);
/* The same with what image and hidden overlay are in, which is taken */
void pair_disk_add_secondary_on(QTestState *qts, QDict *image,
                                const char *active, QDict *hidden,
                                const char *generation);

/* What is in a file */
QDict *pair_disk_file(const char *path);

/* The primary's is node @local, and is not replicated */
void pair_disk_add_local(QTestState *qts, const char *local);

/*
 * The primary's is node @local, with a way to node
 * @export of the secondary, whose NBD server is @socket
 */
void pair_disk_replicate(ColoPair *p, const char *local, const char *export,
                         const char *socket);

#endif
