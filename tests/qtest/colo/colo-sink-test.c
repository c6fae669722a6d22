/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: replication-sink, which takes batches of writes by NBD.
 *
 * Proves: what a batch says is done, in its order; batches are applied in the
 * order of their numbers, whatever that is in which they come; after a failure
 * nothing more of the session is; a batch that is wrong does nothing; nobody
 * who drains waits for a batch that does not come, or has come in part; up to
 * its end the node is the disk.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/units.h"
#include "colo-helpers.h"
#include "colo-nbd.h"
#include "colo-sink-rig.h"

/* The tests */

static void test_apply(void)
{
    Sink *k = sink_new("");
    Maker m;

    batch_begin(&m, SESSION, 1);
    batch_add_write(&m, 0, 8 * BLOCK, 1);
    batch_add_write(&m, 2 * BLOCK, 100, 2);         /* over the first one */
    batch_add(&m, REPLICATION_ENTRY_ZERO, 3 * BLOCK, BLOCK, 0);
    batch_add_flush(&m);
    batch_add_write(&m, 3 * BLOCK + 512, 512, 3);   /* alone with its flush */
    batch_add_flush(&m);
    batch_add_write(&m, DISK - 1, 1, 4);
    batch_add_write(&m, 5 * BLOCK, BLOCK, 5);
    batch_add(&m, REPLICATION_ENTRY_DISCARD, 6 * BLOCK, BLOCK, 0);
    batch_add(&m, REPLICATION_ENTRY_ZERO_UNMAP, 7 * BLOCK, BLOCK, 0);
    g_assert_cmpint(sink_apply(k, &m), ==, 0);
    sink_check(k, 1, 0, 2 * BLOCK);
    sink_check(k, 2, 2 * BLOCK, 100);
    sink_check(k, 1, 2 * BLOCK + 100, BLOCK - 100);
    sink_check(k, 0, 3 * BLOCK, 512);
    sink_check(k, 3, 3 * BLOCK + 512, 512);
    sink_check(k, 0, 3 * BLOCK + 1024, BLOCK - 1024);
    sink_check(k, 4, DISK - 1, 1);
    sink_check(k, 5, 5 * BLOCK, BLOCK);
    sink_check(k, 0, 6 * BLOCK, 2 * BLOCK);

    /* Nothing at all is a batch, too */
    batch_begin(&m, SESSION, 2);
    g_assert_cmpint(sink_apply(k, &m), ==, 0);
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
    batch_begin(&m, SESSION, 1);
    batch_add_write(&m, 0, BLOCK, 1);
    batch_send(k->fd, &m);
    batch_begin(&m, SESSION, 2);
    batch_add_write(&m, BLOCK, BLOCK, 2);
    batch_add_write(&m, BLOCK - 512, 1024, 3);
    batch_send(k->fd, &m);
    disk_io_at(k->qts, "disk", "wait_break A");
    disk_wait_file(k->raw, 2, BLOCK + 512, BLOCK - 512);
    sink_check(k, 0, 0, BLOCK);
    disk_io_at(k->qts, "disk", "resume A");
    g_assert_cmpint(colo_nbd_answer(k->fd), ==, 0);
    g_assert_cmpint(colo_nbd_answer(k->fd), ==, 0);
    sink_check(k, 1, 0, BLOCK - 512);
    sink_check(k, 3, BLOCK - 512, 1024);
    sink_check(k, 2, BLOCK + 512, BLOCK - 512);
    sink_free(k);
}

/* What follows a flush does not begin before that is done */
static void test_barrier(void)
{
    Sink *k = sink_new("");
    Maker m;

    disk_io_at(k->qts, "disk", "break pwritev A");
    batch_begin(&m, SESSION, 1);
    batch_add_write(&m, 0, BLOCK, 1);
    batch_add_flush(&m);
    batch_add_write(&m, BLOCK, BLOCK, 2);
    batch_send(k->fd, &m);
    disk_io_at(k->qts, "disk", "wait_break A");
    batch_begin(&m, SESSION, 2);
    batch_add_write(&m, 2 * BLOCK, BLOCK, 3);
    batch_send(k->fd, &m);                      /* nor another batch */
    qtest_qmp_assert_success(k->qts, "{'execute': 'query-block'}");
    sink_check(k, 0, 0, 3 * BLOCK);
    disk_io_at(k->qts, "disk", "resume A");
    g_assert_cmpint(colo_nbd_answer(k->fd), ==, 0);
    g_assert_cmpint(colo_nbd_answer(k->fd), ==, 0);
    for (int i = 0; i < 3; i++) {
        sink_check(k, i + 1, i * BLOCK, BLOCK);
    }
    sink_free(k);
}

/* A later one comes first, by another connection, and waits */
static void test_numbers(void)
{
    Sink *k = sink_new("");
    int other = colo_nbd_client(k->socket, 's');
    Maker m;

    batch_begin(&m, SESSION, 1);
    g_assert_cmpint(sink_apply(k, &m), ==, 0);
    batch_begin(&m, SESSION, 3);
    batch_add_write(&m, 0, BLOCK, 3);
    batch_send(other, &m);
    batch_wait_there(other);
    sink_check(k, 0, 0, BLOCK);
    g_assert_cmpint(sink_write_one(k, SESSION, 2, 2), ==, 0);
    g_assert_cmpint(colo_nbd_answer(other), ==, 0);
    sink_check(k, 3, 0, BLOCK);
    g_assert_cmpint(sink_write_one(k, SESSION, 3, 9), ==, NBD_EIO);
    sink_check(k, 3, 0, BLOCK);
    close(other);
    sink_free(k);
}

/* Another primary: the first one has no say any more */
static void test_session(void)
{
    Sink *k = sink_new("");

    g_assert_cmpint(sink_write_one(k, SESSION, 1, 1), ==, 0);
    g_assert_cmpint(sink_write_one(k, SESSION + 1, 2, 2), ==, NBD_EIO);
    g_assert_cmpint(sink_write_one(k, SESSION + 1, 1, 3), ==, 0);
    g_assert_cmpint(sink_write_one(k, SESSION, 2, 4), ==, NBD_EIO);
    g_assert_cmpint(sink_write_one(k, SESSION + 1, 2, 5), ==, 0);
    sink_check(k, 5, 0, BLOCK);
    sink_free(k);
}

/* What would wait for ever does not keep a drain from its end */
static void test_drain(void)
{
    Sink *k = sink_new("");
    int64_t start = g_get_monotonic_time();
    Maker m;

    g_assert_cmpint(sink_write_one(k, SESSION, 1, 1), ==, 0);
    batch_begin(&m, SESSION, 3);
    batch_add_write(&m, 0, BLOCK, 3);
    batch_send(k->fd, &m);
    qtest_qmp_assert_success(k->qts, "{'execute': 'stop'}");
    g_assert_cmpint(colo_nbd_answer(k->fd), !=, 0);
    disk_check_time(start);
    sink_check(k, 1, 0, BLOCK);
    g_assert_cmpint(sink_write_one(k, SESSION, 2, 2), ==, 0);
    sink_check(k, 2, 0, BLOCK);
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

        batch_begin(&m, SESSION, i + 1);
        batch_add_write(&m, 0, 9 * BLOCK, i + 1);
        sent = batch_request(&m);
        colo_nbd_write(k->fd, sent->data, parts[i]);
        colo_nbd_wait_taken(k->fd);
        qtest_qmp_assert_success(k->qts, "{'execute': 'stop'}");
        qtest_qmp_assert_success(k->qts, "{'execute': 'cont'}");
        colo_nbd_write(k->fd, sent->data + parts[i], sent->len - parts[i]);
        g_assert_cmpint(colo_nbd_answer(k->fd), ==, 0);
        sink_check(k, i + 1, 0, 9 * BLOCK);
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

    batch_begin(&m, SESSION, 1);
    batch_add_write(&m, 0, BLOCK, 1);
    sent = batch_request(&m);
    colo_nbd_write(k->fd, sent->data, sent->len - BLOCK);
    colo_nbd_wait_taken(k->fd);
    qtest_qmp_assert_success(k->qts, "{'execute': 'stop'}");
    qtest_qmp_assert_success(k->qts, "{'execute': 'nbd-server-stop'}");
    sink_check(k, 0, 0, BLOCK);
    sink_free(k);
}

/* The end of the export while a batch waits */
static void test_remove(void)
{
    Sink *k = sink_new("");
    Maker m;

    batch_begin(&m, SESSION, 1);
    g_assert_cmpint(sink_apply(k, &m), ==, 0);
    batch_begin(&m, SESSION, 3);
    batch_send(k->fd, &m);
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
    QDict *event;
    Maker m;

    batch_begin(&m, SESSION, 1);
    g_assert_cmpint(sink_apply(k, &m), ==, 0);
    batch_begin(&m, SESSION, 3);
    batch_add_write(&m, 4 * BLOCK, BLOCK, 4);
    batch_send(other, &m);
    batch_begin(&m, SESSION, 2);
    batch_add_write(&m, 0, BLOCK, 1);
    batch_add_flush(&m);
    batch_add_write(&m, 2 * BLOCK, BLOCK, 2);
    batch_add_flush(&m);
    batch_add_write(&m, 3 * BLOCK, BLOCK, 3);
    g_assert_cmpint(sink_apply(k, &m), ==, NBD_EIO);
    g_assert_cmpint(colo_nbd_answer(other), ==, NBD_EIO);
    event = colo_wait_event(k->qts, "COLO_DISK_ERROR");
    g_assert_nonnull(strstr(qdict_get_str(qdict_get_qdict(event, "data"),
                                          "message"), "disk 'image'"));
    qobject_unref(event);
    sink_check(k, 1, 0, BLOCK);
    sink_check(k, 0, 2 * BLOCK, 3 * BLOCK);
    g_assert_cmpint(sink_write_one(k, SESSION, 4, 5), ==, NBD_EIO);
    sink_check(k, 1, 0, BLOCK);
    g_assert_cmpint(sink_write_one(k, SESSION + 1, 1, 6), ==, 0);
    sink_check(k, 6, 0, BLOCK);
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

    batch_begin(&m, SESSION, 1);
    batch_add_write(&m, 0, BLOCK, 1);
    g_assert_cmpint(sink_apply(k, &m), ==, 0);
    batch_begin(&m, SESSION, 2);
    batch_add_flush(&m);
    g_assert_cmpint(sink_apply(k, &m), ==, NBD_EIO);
    sink_check(k, 1, 0, BLOCK);

    /* It is not the only write since */
    batch_begin(&m, SESSION + 1, 1);
    batch_add_write(&m, BLOCK, BLOCK, 2);
    batch_add_flush(&m);
    batch_add_write(&m, 2 * BLOCK, BLOCK, 3);
    g_assert_cmpint(sink_apply(k, &m), ==, NBD_EIO);
    sink_check(k, 2, BLOCK, BLOCK);
    sink_check(k, 0, 2 * BLOCK, BLOCK);
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

    batch_begin(&m, SESSION, 1);
    batch_add_write(&m, 0, BLOCK, 1);
    batch_add_write(&m, DISK - BLOCK, BLOCK + 1, 1);
    g_assert_cmpint(sink_apply(k, &m), !=, 0);
    sink_check(k, 0, 0, DISK);
    g_assert_cmpint(sink_write_one(k, SESSION, 1, 1), ==, 0);
    m.batch.number = 2;
    g_assert_cmpint(sink_apply(k, &m), !=, 0);
    g_assert_cmpint(sink_write_one(k, SESSION, 2, 2), ==, NBD_EIO);
    sink_check(k, 1, 0, BLOCK);
    sink_free(k);
}

/* Up to its end it is the disk */
static void test_through(void)
{
    Sink *k = sink_new("");
    uint8_t buf[2 * BLOCK], want[BLOCK];
    ReplicationSinkInfo info;

    memset(want, 7, sizeof(want));
    g_assert_cmpint(colo_nbd_pwrite(k->fd, want, DISK - BLOCK, BLOCK), ==, 0);
    sink_check(k, 7, DISK - BLOCK, BLOCK);
    g_assert_cmpint(colo_nbd_pread(k->fd, buf, DISK - BLOCK, 2 * BLOCK), ==,
                    0);
    g_assert_cmpmem(buf, BLOCK, want, BLOCK);
    g_assert_true(replication_sink_info_unpack(&info, buf + BLOCK, DISK,
                                               &error_abort));
    g_assert_false(info.has_generation);
    g_assert_cmpint(colo_nbd_pread(k->fd, buf, DISK + REPLICATION_WINDOW -
                                   BLOCK, BLOCK), ==, 0);
    sink_free(k);
}

static void test_refused(void)
{
    Sink *k = sink_new("");

    colo_refused(k->qts, "'batch' cannot be used with 'plain': it is no "
                 "'replication-sink'",
                 "{'execute': 'blockdev-add', 'arguments': {'driver': "
                 "'replication', 'node-name': 'r', 'mode': 'primary', "
                 "'batch': true, 'file': {'driver': 'null-co', "
                 "'node-name': 'plain', 'size': 1048576}}}");
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

    /* Nobody else may write to it */
    qtest_qmp_assert_success(k->qts, "{'execute': 'nbd-server-stop'}");
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
    sink_check(k, 1, 0, 3 * 512);
    sink_check(k, 19, 18 * 3 * 512, 3 * 512);
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
