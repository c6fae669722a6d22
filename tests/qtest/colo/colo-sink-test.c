/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: replication-sink, which takes batches of writes by NBD.
 *
 * Proves: what a batch says is done, in its order; batches are applied in the
 * order of their numbers, whatever that is in which they come; after a failure
 * nothing more of the session is; a batch that is wrong does nothing; nobody
 * who drains waits for a batch that does not come; up to its end the node is
 * the disk.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/units.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-nbd.h"
#include "replication-batch.h"

#define BLOCK 4096
#define SESSION 0x1111
#define NBD_EIO 5

typedef struct Sink {
    char *dir;
    char *raw;
    char *socket;
    QTestState *qts;
    int fd;
} Sink;

/* @more: options of blkdebug, or "" */
static Sink *sink_new(const char *more)
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
        "file.driver=blkdebug,file.image.driver=file,"
        "file.image.filename=%s%s", k->raw, more);
    qtest_qmp_assert_success(k->qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': "
        "'replication-sink', 'node-name': 'sink', 'file': 'disk'}}");
    disk_serve(k->qts, k->socket);
    disk_export(k->qts, "sink", "s", true);
    k->fd = colo_nbd_client(k->socket, 's');
    return k;
}

static void sink_free(Sink *k)
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

/* A batch, with a byte for each write that all of it consists of */
typedef struct Maker {
    ReplicationBatch batch;
    int bytes[REPLICATION_BATCH_ENTRIES];
} Maker;

static void begin(Maker *m, uint64_t session, uint64_t number)
{
    m->batch.session = session;
    m->batch.number = number;
    m->batch.n_entries = 0;
}

static void add(Maker *m, ReplicationEntryType type, int64_t offset,
                int64_t bytes, int byte)
{
    m->bytes[m->batch.n_entries] = byte;
    m->batch.entries[m->batch.n_entries++] = (ReplicationEntry) {
        .type = type, .offset = offset, .bytes = bytes,
    };
}

static void add_write(Maker *m, int64_t offset, int64_t bytes, int byte)
{
    add(m, REPLICATION_ENTRY_WRITE, offset, bytes, byte);
}

/* As it travels; to be freed */
static GByteArray *make_request(const Maker *m)
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

/* Send it, without waiting for the answer */
static void send_batch(int fd, const Maker *m)
{
    g_autoptr(GByteArray) request = make_request(m);

    colo_nbd_write(fd, request->data, request->len);
}

static int apply(Sink *k, const Maker *m)
{
    send_batch(k->fd, m);
    return colo_nbd_answer(k->fd);
}

/* One write in a batch; the answer */
static int write_one(Sink *k, uint64_t session, uint64_t number, int byte)
{
    Maker m;

    begin(&m, session, number);
    add_write(&m, 0, BLOCK, byte);
    return apply(k, &m);
}

static void check_disk(Sink *k, int byte, int64_t offset, int64_t bytes)
{
    g_assert_true(disk_file_has(k->raw, byte, offset, bytes));
}

/* The tests */

static void test_apply(void)
{
    Sink *k = sink_new("");
    Maker m;

    begin(&m, SESSION, 1);
    add_write(&m, 0, 8 * BLOCK, 1);
    add_write(&m, 2 * BLOCK, 100, 2);               /* over the first one */
    add(&m, REPLICATION_ENTRY_ZERO, 3 * BLOCK, BLOCK, 0);
    add(&m, REPLICATION_ENTRY_FLUSH, 0, 0, 0);
    add_write(&m, 3 * BLOCK + 512, 512, 3);         /* alone with its flush */
    add(&m, REPLICATION_ENTRY_FLUSH, 0, 0, 0);
    add_write(&m, DISK - 1, 1, 4);
    add_write(&m, 5 * BLOCK, BLOCK, 5);
    add(&m, REPLICATION_ENTRY_DISCARD, 6 * BLOCK, BLOCK, 0);
    add(&m, REPLICATION_ENTRY_ZERO_UNMAP, 7 * BLOCK, BLOCK, 0);
    g_assert_cmpint(apply(k, &m), ==, 0);
    check_disk(k, 1, 0, 2 * BLOCK);
    check_disk(k, 2, 2 * BLOCK, 100);
    check_disk(k, 1, 2 * BLOCK + 100, BLOCK - 100);
    check_disk(k, 0, 3 * BLOCK, 512);
    check_disk(k, 3, 3 * BLOCK + 512, 512);
    check_disk(k, 0, 3 * BLOCK + 1024, BLOCK - 1024);
    check_disk(k, 4, DISK - 1, 1);
    check_disk(k, 5, 5 * BLOCK, BLOCK);
    check_disk(k, 0, 6 * BLOCK, 2 * BLOCK);

    /* Nothing at all is a batch, too */
    begin(&m, SESSION, 2);
    g_assert_cmpint(apply(k, &m), ==, 0);
    sink_free(k);
}

/*
 * A write over one of the batch before waits for that, which stands still; a
 * write beside it does not.
 */
static void test_overlap(void)
{
    Sink *k = sink_new("");
    Maker m;

    disk_io_at(k->qts, "disk", "break pwritev A");
    begin(&m, SESSION, 1);
    add_write(&m, 0, BLOCK, 1);
    send_batch(k->fd, &m);
    begin(&m, SESSION, 2);
    add_write(&m, BLOCK, BLOCK, 2);
    add_write(&m, BLOCK - 512, 1024, 3);
    send_batch(k->fd, &m);
    disk_io_at(k->qts, "disk", "wait_break A");
    disk_wait_file(k->raw, 2, BLOCK + 512, BLOCK - 512);
    check_disk(k, 0, 0, BLOCK);
    disk_io_at(k->qts, "disk", "resume A");
    g_assert_cmpint(colo_nbd_answer(k->fd), ==, 0);
    g_assert_cmpint(colo_nbd_answer(k->fd), ==, 0);
    check_disk(k, 1, 0, BLOCK - 512);
    check_disk(k, 3, BLOCK - 512, 1024);
    check_disk(k, 2, BLOCK + 512, BLOCK - 512);
    sink_free(k);
}

/* What follows a flush does not begin before that is done */
static void test_barrier(void)
{
    Sink *k = sink_new("");
    Maker m;

    disk_io_at(k->qts, "disk", "break pwritev A");
    begin(&m, SESSION, 1);
    add_write(&m, 0, BLOCK, 1);
    add(&m, REPLICATION_ENTRY_FLUSH, 0, 0, 0);
    add_write(&m, BLOCK, BLOCK, 2);
    send_batch(k->fd, &m);
    disk_io_at(k->qts, "disk", "wait_break A");
    begin(&m, SESSION, 2);
    add_write(&m, 2 * BLOCK, BLOCK, 3);
    send_batch(k->fd, &m);                      /* nor another batch */
    qtest_qmp_assert_success(k->qts, "{'execute': 'query-block'}");
    check_disk(k, 0, 0, 3 * BLOCK);
    disk_io_at(k->qts, "disk", "resume A");
    g_assert_cmpint(colo_nbd_answer(k->fd), ==, 0);
    g_assert_cmpint(colo_nbd_answer(k->fd), ==, 0);
    for (int i = 0; i < 3; i++) {
        check_disk(k, i + 1, i * BLOCK, BLOCK);
    }
    sink_free(k);
}

/* A later one comes first, by another connection, and waits */
static void test_numbers(void)
{
    Sink *k = sink_new("");
    int other = colo_nbd_client(k->socket, 's');
    Maker m;

    begin(&m, SESSION, 1);
    g_assert_cmpint(apply(k, &m), ==, 0);
    begin(&m, SESSION, 3);
    add_write(&m, 0, BLOCK, 3);
    send_batch(other, &m);
    /* It is in the sink when the next request of its connection is done */
    colo_nbd_request(other, 0, 0, 512);
    g_assert_cmpint(colo_nbd_answer(other), ==, 0);
    colo_nbd_read(other, &m, 512);
    check_disk(k, 0, 0, BLOCK);
    g_assert_cmpint(write_one(k, SESSION, 2, 2), ==, 0);
    g_assert_cmpint(colo_nbd_answer(other), ==, 0);
    check_disk(k, 3, 0, BLOCK);
    g_assert_cmpint(write_one(k, SESSION, 3, 9), ==, NBD_EIO);
    check_disk(k, 3, 0, BLOCK);
    close(other);
    sink_free(k);
}

/* Another primary: the first one has no say any more */
static void test_session(void)
{
    Sink *k = sink_new("");

    g_assert_cmpint(write_one(k, SESSION, 1, 1), ==, 0);
    g_assert_cmpint(write_one(k, SESSION + 1, 2, 2), ==, NBD_EIO);
    g_assert_cmpint(write_one(k, SESSION + 1, 1, 3), ==, 0);
    g_assert_cmpint(write_one(k, SESSION, 2, 4), ==, NBD_EIO);
    g_assert_cmpint(write_one(k, SESSION + 1, 2, 5), ==, 0);
    check_disk(k, 5, 0, BLOCK);
    sink_free(k);
}

/* What would wait for ever does not keep a drain from its end */
static void test_drain(void)
{
    Sink *k = sink_new("");
    int64_t start = g_get_monotonic_time();
    Maker m;

    g_assert_cmpint(write_one(k, SESSION, 1, 1), ==, 0);
    begin(&m, SESSION, 3);
    add_write(&m, 0, BLOCK, 3);
    send_batch(k->fd, &m);
    qtest_qmp_assert_success(k->qts, "{'execute': 'stop'}");
    g_assert_cmpint(colo_nbd_answer(k->fd), !=, 0);
    disk_check_time(start);
    check_disk(k, 1, 0, BLOCK);
    g_assert_cmpint(write_one(k, SESSION, 2, 2), ==, 0);
    check_disk(k, 2, 0, BLOCK);
    sink_free(k);
}

/* A batch that has come in part does not keep a drain from its end either */
static void test_part(void)
{
    /* Of the request's 28 bytes, and of what follows */
    static const size_t parts[] = { 1, 27, 28, 29, 28 + BLOCK, 28 + 9 * BLOCK };
    Sink *k = sink_new("");
    int64_t start = g_get_monotonic_time();

    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        g_autoptr(GByteArray) sent = NULL;
        Maker m;

        begin(&m, SESSION, i + 1);
        add_write(&m, 0, 9 * BLOCK, i + 1);
        sent = make_request(&m);
        colo_nbd_write(k->fd, sent->data, parts[i]);
        colo_nbd_wait_taken(k->fd);
        qtest_qmp_assert_success(k->qts, "{'execute': 'stop'}");
        qtest_qmp_assert_success(k->qts, "{'execute': 'cont'}");
        colo_nbd_write(k->fd, sent->data + parts[i], sent->len - parts[i]);
        g_assert_cmpint(colo_nbd_answer(k->fd), ==, 0);
        check_disk(k, i + 1, 0, 9 * BLOCK);
    }
    disk_check_time(start);
    sink_free(k);
}

/* The end of the export while a batch is on its way */
static void test_part_remove(void)
{
    Sink *k = sink_new("");
    g_autoptr(GByteArray) sent = NULL;
    Maker m;

    begin(&m, SESSION, 1);
    add_write(&m, 0, BLOCK, 1);
    sent = make_request(&m);
    colo_nbd_write(k->fd, sent->data, sent->len - BLOCK);
    colo_nbd_wait_taken(k->fd);
    qtest_qmp_assert_success(k->qts, "{'execute': 'stop'}");
    qtest_qmp_assert_success(k->qts, "{'execute': 'nbd-server-stop'}");
    check_disk(k, 0, 0, BLOCK);
    sink_free(k);
}

/* The end of the export while a batch waits */
static void test_remove(void)
{
    Sink *k = sink_new("");
    Maker m;

    begin(&m, SESSION, 1);
    g_assert_cmpint(apply(k, &m), ==, 0);
    begin(&m, SESSION, 3);
    send_batch(k->fd, &m);
    qtest_qmp_assert_success(k->qts, "{'execute': 'nbd-server-stop'}");
    qtest_qmp_assert_success(k->qts, "{'execute': 'stop'}");
    sink_free(k);
}

static void test_error(void)
{
    /* 16 is the sector of block 2 */
    Sink *k = sink_new(",file.inject-error.0.event=none,"
                       "file.inject-error.0.iotype=write,"
                       "file.inject-error.0.sector=16,"
                       "file.inject-error.0.errno=5");
    int other = colo_nbd_client(k->socket, 's');
    Maker m;

    begin(&m, SESSION, 1);
    g_assert_cmpint(apply(k, &m), ==, 0);
    begin(&m, SESSION, 3);
    add_write(&m, 4 * BLOCK, BLOCK, 4);
    send_batch(other, &m);
    begin(&m, SESSION, 2);
    add_write(&m, 0, BLOCK, 1);
    add(&m, REPLICATION_ENTRY_FLUSH, 0, 0, 0);
    add_write(&m, 2 * BLOCK, BLOCK, 2);
    add(&m, REPLICATION_ENTRY_FLUSH, 0, 0, 0);
    add_write(&m, 3 * BLOCK, BLOCK, 3);
    g_assert_cmpint(apply(k, &m), ==, NBD_EIO);
    g_assert_cmpint(colo_nbd_answer(other), ==, NBD_EIO);
    check_disk(k, 1, 0, BLOCK);
    check_disk(k, 0, 2 * BLOCK, 3 * BLOCK);
    g_assert_cmpint(write_one(k, SESSION, 4, 5), ==, NBD_EIO);
    check_disk(k, 1, 0, BLOCK);
    g_assert_cmpint(write_one(k, SESSION + 1, 1, 6), ==, 0);
    check_disk(k, 6, 0, BLOCK);
    close(other);
    sink_free(k);
}

/* A flush is one, be it that of several writes or of those before */
static void test_flush(void)
{
    Sink *k = sink_new(",file.inject-error.0.event=none,"
                       "file.inject-error.0.iotype=flush,"
                       "file.inject-error.0.errno=5");
    Maker m;

    begin(&m, SESSION, 1);
    add_write(&m, 0, BLOCK, 1);
    g_assert_cmpint(apply(k, &m), ==, 0);
    begin(&m, SESSION, 2);
    add(&m, REPLICATION_ENTRY_FLUSH, 0, 0, 0);
    g_assert_cmpint(apply(k, &m), ==, NBD_EIO);
    check_disk(k, 1, 0, BLOCK);

    /* It is not the only write since */
    begin(&m, SESSION + 1, 1);
    add_write(&m, BLOCK, BLOCK, 2);
    add(&m, REPLICATION_ENTRY_FLUSH, 0, 0, 0);
    add_write(&m, 2 * BLOCK, BLOCK, 3);
    g_assert_cmpint(apply(k, &m), ==, NBD_EIO);
    check_disk(k, 2, BLOCK, BLOCK);
    check_disk(k, 0, 2 * BLOCK, BLOCK);
    sink_free(k);
}

/* What is wrong does nothing, and ends the session */
static void test_wrong(void)
{
    Sink *k = sink_new("");
    g_autofree uint8_t *buf = g_malloc0(2 * BLOCK);
    Maker m;

    g_assert_cmpint(colo_nbd_pwrite(k->fd, buf, DISK, 2 * BLOCK), !=, 0);
    g_assert_cmpint(colo_nbd_pwrite(k->fd, buf, DISK, 1), !=, 0);
    g_assert_cmpint(colo_nbd_pwrite(k->fd, buf, DISK + 1, BLOCK), !=, 0);
    g_assert_cmpint(colo_nbd_pwrite(k->fd, buf, DISK - 1, BLOCK), !=, 0);

    begin(&m, SESSION, 1);
    add_write(&m, 0, BLOCK, 1);
    add_write(&m, DISK - BLOCK, BLOCK + 1, 1);
    g_assert_cmpint(apply(k, &m), !=, 0);
    check_disk(k, 0, 0, DISK);
    g_assert_cmpint(write_one(k, SESSION, 1, 1), ==, 0);
    m.batch.number = 2;
    g_assert_cmpint(apply(k, &m), !=, 0);
    g_assert_cmpint(write_one(k, SESSION, 2, 2), ==, NBD_EIO);
    check_disk(k, 1, 0, BLOCK);
    sink_free(k);
}

/* Up to its end it is the disk */
static void test_through(void)
{
    Sink *k = sink_new("");
    uint8_t buf[2 * BLOCK], want[BLOCK];

    memset(want, 7, sizeof(want));
    g_assert_cmpint(colo_nbd_pwrite(k->fd, want, DISK - BLOCK, BLOCK), ==, 0);
    check_disk(k, 7, DISK - BLOCK, BLOCK);
    g_assert_cmpint(colo_nbd_pread(k->fd, buf, DISK - BLOCK, 2 * BLOCK), ==,
                    0);
    g_assert_cmpmem(buf, BLOCK, want, BLOCK);
    g_assert_true(replication_sink_info_check(buf + BLOCK, DISK,
                                              &error_abort));
    g_assert_cmpint(colo_nbd_pread(k->fd, buf, DISK + REPLICATION_WINDOW -
                                   BLOCK, BLOCK), ==, 0);
    sink_free(k);
}

static void test_refused(void)
{
    Sink *k = sink_new("");

    colo_refused(k->qts, "'batch' cannot be used with 'image': it is no "
                 "'replication-sink'",
                 "{'execute': 'blockdev-add', 'arguments': {'driver': "
                 "'replication', 'node-name': 'r', 'mode': 'primary', "
                 "'batch': true, 'file': 'disk'}}");
    colo_refused(k->qts, "'batch' is an option of the primary",
                 "{'execute': 'blockdev-add', 'arguments': {'driver': "
                 "'replication', 'node-name': 'r', 'mode': 'secondary', "
                 "'top-id': 'x', 'batch': true, 'file': 'disk'}}");
    colo_refused(k->qts, "'batch' is an option of the primary",
                 "{'execute': 'blockdev-add', 'arguments': {'driver': "
                 "'replication', 'node-name': 'r', 'mode': 'primary', "
                 "'shared-disk': true, 'batch': true, 'file': 'disk'}}");
    sink_free(k);
}

/* Without NBD: a primary whose sink is in the same QEMU */
static void test_local(void)
{
    Sink *k = sink_new("");

    qtest_qmp_assert_success(k->qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'raw', "
        "'node-name': 'above', 'file': {'driver': 'replication', "
        "'node-name': 'repl', 'mode': 'primary', 'batch': true, "
        "'file': 'sink'}}}");
    for (int i = 0; i < 20; i++) {
        disk_io_at(k->qts, "above", "write -P %d %d %d", i + 1, i * 3 * 512,
                   4 * 512);
    }
    disk_wait_file(k->raw, 20, 19 * 3 * 512, 4 * 512);
    check_disk(k, 1, 0, 3 * 512);
    check_disk(k, 19, 18 * 3 * 512, 3 * 512);
    sink_free(k);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    qtest_add_func("/colo/sink/apply", test_apply);
    qtest_add_func("/colo/sink/overlap", test_overlap);
    qtest_add_func("/colo/sink/barrier", test_barrier);
    qtest_add_func("/colo/sink/numbers", test_numbers);
    qtest_add_func("/colo/sink/session", test_session);
    qtest_add_func("/colo/sink/drain", test_drain);
    qtest_add_func("/colo/sink/part", test_part);
    qtest_add_func("/colo/sink/part-remove", test_part_remove);
    qtest_add_func("/colo/sink/remove", test_remove);
    qtest_add_func("/colo/sink/error", test_error);
    qtest_add_func("/colo/sink/flush", test_flush);
    qtest_add_func("/colo/sink/wrong", test_wrong);
    qtest_add_func("/colo/sink/through", test_through);
    qtest_add_func("/colo/sink/refused", test_refused);
    qtest_add_func("/colo/sink/local", test_local);
    return g_test_run();
}
