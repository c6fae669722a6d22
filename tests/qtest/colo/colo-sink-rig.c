/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a replication-sink, see colo-sink-rig.h.
 */

#include "qemu/osdep.h"
#include "colo-helpers.h"
#include "colo-nbd.h"
#include "colo-sink-rig.h"

Sink *sink_new_over(const char *image, const char *more)
{
    Sink *k = g_new0(Sink, 1);

    disk_deadline_begin();
    k->dir = g_dir_make_tmp("colo-sink-XXXXXX", NULL);
    g_assert_nonnull(k->dir);
    k->raw = disk_new_file(k->dir, "disk", false);
    k->socket = g_build_filename(k->dir, "nbd", NULL);
    /* With a device, as qemu-io would have to change the graph for a node */
    k->qts = qtest_initf(
        ">/dev/null -M none -nodefaults "
        "-drive if=none,id=disk,node-name=image,driver=raw,discard=unmap,"
        "file.driver=blkdebug,%s=%s%s", image, k->raw, more);
    qtest_qmp_assert_success(k->qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': "
        "'replication-sink', 'node-name': 'sink', 'discard': 'unmap', "
        "'file': 'disk'}}");
    disk_serve(k->qts, k->socket);
    disk_export(k->qts, "sink", "s", true);
    k->fd = colo_nbd_client(k->socket, 's');
    return k;
}

Sink *sink_new(const char *more)
{
    return sink_new_over("file.image.driver=file,file.image.filename", more);
}

void sink_free(Sink *k)
{
    close(k->fd);
    colo_quit(&k->qts);
    disk_free_file(k->socket);
    disk_free_file(k->raw);
    rmdir(k->dir);
    g_free(k->dir);
    g_free(k);
    disk_deadline_end();
}

void batch_begin(Maker *m, uint64_t session, uint64_t number)
{
    m->batch.session = session;
    m->batch.number = number;
    m->batch.n_entries = 0;
}

void batch_add(Maker *m, ReplicationEntryType type, int64_t offset,
               int64_t bytes, int byte)
{
    m->bytes[m->batch.n_entries] = byte;
    m->batch.entries[m->batch.n_entries++] = (ReplicationEntry) {
        .type = type, .offset = offset, .bytes = bytes,
    };
}

void batch_add_write(Maker *m, int64_t offset, int64_t bytes, int byte)
{
    batch_add(m, REPLICATION_ENTRY_WRITE, offset, bytes, byte);
}

void batch_add_flush(Maker *m)
{
    batch_add(m, REPLICATION_ENTRY_FLUSH, 0, 0, 0);
}

GByteArray *batch_request(const Maker *m)
{
    GByteArray *request = g_byte_array_new();
    size_t at = replication_batch_size(m->batch.n_entries);
    size_t size = at + replication_batch_data(&m->batch);
    g_autofree uint8_t *buf = g_malloc(size);

    replication_batch_pack(&m->batch, buf);
    for (unsigned i = 0; i < m->batch.n_entries; i++) {
        if (m->batch.entries[i].type == REPLICATION_ENTRY_WRITE) {
            memset(buf + at, m->bytes[i], m->batch.entries[i].bytes);
            at += m->batch.entries[i].bytes;
        }
    }
    colo_nbd_pack(request, 1, DISK, size);
    return g_byte_array_append(request, buf, size);
}

void batch_send(int fd, const Maker *m)
{
    g_autoptr(GByteArray) request = batch_request(m);

    colo_nbd_write(fd, request->data, request->len);
}

void batch_wait_there(int fd)
{
    uint8_t info[REPLICATION_SINK_INFO_SIZE];

    /* They are when the next request of the connection is done */
    g_assert_cmpint(colo_nbd_pread(fd, info, DISK, sizeof(info)), ==, 0);
}

int sink_apply(Sink *k, const Maker *m)
{
    batch_send(k->fd, m);
    return colo_nbd_answer(k->fd);
}

int sink_write_one(Sink *k, uint64_t session, uint64_t number, int byte)
{
    Maker m;

    batch_begin(&m, session, number);
    batch_add_write(&m, 0, BLOCK, byte);
    return sink_apply(k, &m);
}

void sink_check(Sink *k, int byte, int64_t offset, int64_t bytes)
{
    g_assert_true(disk_file_has(k->raw, byte, offset, bytes));
}
