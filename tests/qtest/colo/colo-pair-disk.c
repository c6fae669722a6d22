/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a replicated disk of a pair, which is all zero.
 */

#include "qemu/osdep.h"
#include "qobject/qjson.h"
#include "colo-disk-rig.h"
#include "colo-pair-disk.h"

void pair_disk_plug(QTestState *qts)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'device_add', 'arguments': {'driver': 'virtio-blk-pci',"
        "'id': 'disk9', 'drive': 'disk0', 'addr': '" PAIR_DISK_SLOT "'}}");
}

void pair_disk_add_primary(QTestState *qts)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'quorum',"
        "'node-name': 'disk0', 'read-pattern': 'fifo', 'vote-threshold': 1,"
        "'children': [{'driver': 'null-co', 'size': %d, 'read-zeroes': true,"
        "'node-name': 'local0'},"
        "{'driver': 'replication', 'node-name': 'repl', 'mode': 'primary',"
        "'file': {'driver': 'null-co', 'size': %d, 'read-zeroes': true,"
        "'node-name': 'peer0'}}]}}", (int)DISK, (int)DISK);
    pair_disk_plug(qts);
}

QDict *pair_disk_file(const char *path)
{
    return qdict_from_jsonf_nofail("{'driver': 'file', 'filename': %s}", path);
}

void pair_disk_add_secondary_on(QTestState *qts, QDict *image,
                                const char *active, QDict *hidden,
                                const char *generation)
{
    QDict *node = qdict_from_jsonf_nofail(
        "{'driver': 'replication', 'mode': 'secondary', 'top-id': 'disk0',"
        "'file': {'driver': 'qcow2', 'file': {'driver': 'file',"
        "'filename': %s}, 'backing': {'driver': 'qcow2', 'file': %p,"
        "'backing': 'image0'}}}", active, hidden);

    if (generation) {
        qdict_put_str(node, "generation-file", generation);
    }
    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'raw',"
        "'node-name': 'image0', 'file': %p}}", image);
    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'quorum',"
        "'node-name': 'disk0', 'read-pattern': 'fifo', 'vote-threshold': 1,"
        "'children': [%p]}}", node);
    pair_disk_plug(qts);
}

void pair_disk_add_secondary(QTestState *qts, const char *image,
                             const char *active, const char *hidden)
{
    pair_disk_add_secondary_on(qts, pair_disk_file(image), active,
                               pair_disk_file(hidden), NULL);
}

void pair_disk_add_used(QTestState *qts, const char *image, const char *active,
                        const char *hidden, const char *generation)
{
    pair_disk_add_secondary_on(qts, pair_disk_file(image), active,
                               pair_disk_file(hidden), generation);
}

void pair_disk_add_local(QTestState *qts, const char *local)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'quorum',"
        "'node-name': 'disk0', 'read-pattern': 'fifo', 'vote-threshold': 1,"
        "'discard': 'unmap', 'children': [%s]}}", local);
    pair_disk_plug(qts);
}

void pair_disk_replicate(ColoPair *p, const char *local, const char *export,
                         const char *socket)
{
    disk_serve(p->secondary, socket);
    disk_export(p->secondary, export, "d", true);
    pair_disk_add_local(p->primary, local);
    qtest_qmp_assert_success(p->primary, PAIR_DISK_ADD_NODE, "repl", socket);
    disk_add_child(p->primary, "disk0", "repl");
}
