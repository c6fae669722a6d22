/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: the flushes in the batches of a replication-sink.
 *
 * Proves: a flush gets to the file if there may be what it has to flush, be
 * that of the batches, of requests that are none, or of others before the
 * session, and else does not; a write that has a flush for itself is made with
 * FUA, and durable before anything else begins.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "colo-helpers.h"
#include "colo-nbd.h"
#include "colo-sink-rig.h"

/*
 * Options of blkdebug: of the flushes that get to the file and have what to
 * flush there the first one succeeds, and all others fail.  So it is seen if
 * one is missing, and also if one is too many.
 */
#define FLUSHES_FAIL \
    ",file.inject-error.0.event=none,file.inject-error.0.iotype=flush," \
    "file.inject-error.0.errno=0,file.inject-error.0.once=on," \
    "file.inject-error.1.event=none,file.inject-error.1.iotype=flush," \
    "file.inject-error.1.errno=5"

/* quorum has no FUA, so the block layer makes it of a write and a flush */
#define IMAGE_WITHOUT_FUA \
    "file.image.driver=quorum,file.image.vote-threshold=1," \
    "file.image.children.0.driver=file,file.image.children.0.filename"

/* Of NBD */
enum {
    NBD_WRITE = 1,
    NBD_FLUSH = 3,
    NBD_TRIM = 4,
    NBD_WRITE_ZEROES = 6,
};

/* What is unflushed */

/* A flush that is a batch of its own; the answer */
static int flush_one(Sink *k, uint64_t session, uint64_t number)
{
    Maker m;

    batch_begin(&m, session, number);
    batch_add_flush(&m);
    return sink_apply(k, &m);
}

/* The session begins, and all of it is flushed: the flush that succeeds */
static void begin_flushed(Sink *k)
{
    Maker m;

    batch_begin(&m, SESSION, 1);
    batch_add_write(&m, 0, BLOCK, 1);
    batch_add_write(&m, BLOCK, BLOCK, 1);
    batch_add_flush(&m);
    g_assert_cmpint(sink_apply(k, &m), ==, 0);
}

/*
 * Somebody else writes to the disk, not by the sink.  So the block layer, too,
 * has what to flush, whatever the sink thinks.
 */
static void others_write(Sink *k, int byte)
{
    disk_io_at(k->qts, "disk", "write -P %d 1M 4k", byte);
    sink_check(k, byte, MiB, BLOCK);
}

/* A flush is made once, and is not repeated for what others write */
static void test_dirty_once(void)
{
    Sink *k = sink_new(FLUSHES_FAIL);
    Maker m;

    begin_flushed(k);
    for (int i = 2; i < 5; i++) {
        others_write(k, i);
        g_assert_cmpint(flush_one(k, SESSION, i), ==, 0);
    }
    /* This one gets to the file */
    batch_begin(&m, SESSION, 5);
    batch_add_write(&m, 0, BLOCK, 2);
    batch_add_write(&m, BLOCK, BLOCK, 2);
    batch_add_flush(&m);
    g_assert_cmpint(sink_apply(k, &m), ==, NBD_EIO);
    sink_free(k);
}

/* What a batch before has done, whatever that is, has to be flushed */
static void test_dirty_batch(void)
{
    static const ReplicationEntryType types[] = {
        REPLICATION_ENTRY_WRITE, REPLICATION_ENTRY_ZERO,
        REPLICATION_ENTRY_ZERO_UNMAP, REPLICATION_ENTRY_DISCARD,
    };

    for (int i = 0; i < ARRAY_SIZE(types); i++) {
        Sink *k = sink_new(FLUSHES_FAIL);
        Maker m;

        begin_flushed(k);
        batch_begin(&m, SESSION, 2);
        batch_add(&m, types[i], 0, BLOCK, 2);
        g_assert_cmpint(sink_apply(k, &m), ==, 0);
        g_assert_cmpint(flush_one(k, SESSION, 3), ==, NBD_EIO);
        sink_free(k);
    }
}

/* So has what came by a request that is no batch */
static void test_dirty_request(void)
{
    static const int types[] = { NBD_WRITE, NBD_TRIM, NBD_WRITE_ZEROES };
    uint8_t data[BLOCK] = { 3 };

    for (int i = 0; i < ARRAY_SIZE(types); i++) {
        Sink *k = sink_new(FLUSHES_FAIL);

        begin_flushed(k);
        colo_nbd_request(k->fd, types[i], 0, BLOCK);
        if (types[i] == NBD_WRITE) {
            colo_nbd_write(k->fd, data, BLOCK);
        }
        g_assert_cmpint(colo_nbd_answer(k->fd), ==, 0);
        g_assert_cmpint(flush_one(k, SESSION, 2), ==, NBD_EIO);
        sink_free(k);
    }
}

/* Also if it was under way during a flush, which cannot be for it */
static void test_dirty_during(void)
{
    Sink *k = sink_new(FLUSHES_FAIL);
    int other = colo_nbd_client(k->socket, 's');
    uint8_t data[BLOCK] = { 3 };

    begin_flushed(k);
    disk_io_at(k->qts, "disk", "break pwritev A");
    colo_nbd_request(other, NBD_WRITE, 0, BLOCK);
    colo_nbd_write(other, data, BLOCK);
    disk_io_at(k->qts, "disk", "wait_break A");
    g_assert_cmpint(flush_one(k, SESSION, 2), ==, 0);
    disk_io_at(k->qts, "disk", "resume A");
    g_assert_cmpint(colo_nbd_answer(other), ==, 0);
    g_assert_cmpint(flush_one(k, SESSION, 3), ==, NBD_EIO);
    close(other);
    sink_free(k);
}

/* Nobody knows what was written before a session, not even if by another */
static void test_dirty_session(void)
{
    Sink *k = sink_new(FLUSHES_FAIL);

    begin_flushed(k);
    others_write(k, 2);
    g_assert_cmpint(flush_one(k, SESSION + 1, 1), ==, NBD_EIO);
    sink_free(k);
}

/* A flush of the node is for all that is on the disk, also of others */
static void test_dirty_node(void)
{
    Sink *k = sink_new(FLUSHES_FAIL);

    begin_flushed(k);
    others_write(k, 2);
    colo_nbd_request(k->fd, NBD_FLUSH, 0, 0);
    g_assert_cmpint(colo_nbd_answer(k->fd), ==, NBD_EIO);
    sink_free(k);
}

/* FUA */

/* The request that @m is, with the flag FUA of NBD; the answer */
static int apply_fua(Sink *k, const Maker *m)
{
    g_autoptr(GByteArray) request = batch_request(m);

    stw_be_p(request->data + 4, 1);
    colo_nbd_write(k->fd, request->data, request->len);
    return colo_nbd_answer(k->fd);
}

/* The flag of a request is for all that the batch does */
static void test_fua_request(void)
{
    Sink *k = sink_new(FLUSHES_FAIL);
    Maker m;

    begin_flushed(k);
    batch_begin(&m, SESSION, 2);
    batch_add_write(&m, 0, BLOCK, 2);
    batch_add_write(&m, BLOCK, BLOCK, 2);
    g_assert_cmpint(apply_fua(k, &m), ==, NBD_EIO);
    sink_free(k);
}

/* A write and its flush are one write with FUA, and the file is not flushed */
static void test_fua_lone(void)
{
    Sink *k = sink_new(FLUSHES_FAIL);
    Maker m;

    begin_flushed(k);
    batch_begin(&m, SESSION, 2);
    batch_add_write(&m, 0, BLOCK, 2);
    batch_add_flush(&m);
    batch_add_write(&m, 512, 512, 3);
    batch_add_flush(&m);
    batch_add_flush(&m);
    g_assert_cmpint(sink_apply(k, &m), ==, 0);
    sink_check(k, 2, 0, 512);
    sink_check(k, 3, 512, 512);
    sink_check(k, 2, 1024, BLOCK - 1024);

    /* Others begin again with what they have to flush */
    batch_begin(&m, SESSION, 3);
    batch_add_write(&m, 0, BLOCK, 4);
    batch_add_write(&m, BLOCK, BLOCK, 5);
    batch_add_flush(&m);
    g_assert_cmpint(sink_apply(k, &m), ==, NBD_EIO);
    sink_check(k, 4, 0, BLOCK);
    sink_check(k, 5, BLOCK, BLOCK);
    sink_free(k);
}

/* That is so of nothing but writes */
static void test_fua_other(void)
{
    static const ReplicationEntryType types[] = {
        REPLICATION_ENTRY_ZERO, REPLICATION_ENTRY_ZERO_UNMAP,
        REPLICATION_ENTRY_DISCARD,
    };

    for (int i = 0; i < ARRAY_SIZE(types); i++) {
        Sink *k = sink_new(FLUSHES_FAIL);
        Maker m;

        begin_flushed(k);
        batch_begin(&m, SESSION, 2);
        batch_add(&m, types[i], 0, BLOCK, 0);
        batch_add_flush(&m);
        g_assert_cmpint(sink_apply(k, &m), ==, NBD_EIO);
        sink_free(k);
    }
}

/* Nor is it if there is more to flush, from before the batch */
static void test_fua_dirty(void)
{
    Sink *k = sink_new(FLUSHES_FAIL);
    uint8_t data[BLOCK] = { 3 };
    Maker m;

    begin_flushed(k);
    g_assert_cmpint(colo_nbd_pwrite(k->fd, data, BLOCK, BLOCK), ==, 0);
    batch_begin(&m, SESSION, 2);
    batch_add_write(&m, 0, BLOCK, 2);
    batch_add_flush(&m);
    g_assert_cmpint(sink_apply(k, &m), ==, NBD_EIO);
    sink_free(k);
}

/* It has that flag: it fails where the flush does that is made of the flag */
static void test_fua_flag(void)
{
    Sink *k = sink_new_over(IMAGE_WITHOUT_FUA, FLUSHES_FAIL);
    Maker m;

    begin_flushed(k);
    g_assert_cmpint(sink_write_one(k, SESSION, 2, 2), ==, 0);
    sink_free(k);

    k = sink_new_over(IMAGE_WITHOUT_FUA, FLUSHES_FAIL);
    begin_flushed(k);
    batch_begin(&m, SESSION, 2);
    batch_add_write(&m, 0, BLOCK, 2);
    batch_add_flush(&m);
    batch_add_write(&m, 2 * BLOCK, BLOCK, 3);
    g_assert_cmpint(sink_apply(k, &m), ==, NBD_EIO);
    sink_check(k, 2, 0, BLOCK);
    sink_check(k, 0, 2 * BLOCK, BLOCK);
    g_assert_cmpint(sink_write_one(k, SESSION, 3, 4), ==, NBD_EIO);
    sink_check(k, 2, 0, BLOCK);
    sink_free(k);
}

/* What follows it, in the batch or in the next one, begins when it is done */
static void test_fua_barrier(void)
{
    Sink *k = sink_new("");
    Maker m;

    begin_flushed(k);
    disk_io_at(k->qts, "disk", "break pwritev A");
    batch_begin(&m, SESSION, 2);
    batch_add_write(&m, 0, BLOCK, 2);
    batch_add_flush(&m);
    batch_add_write(&m, 2 * BLOCK, BLOCK, 3);
    batch_send(k->fd, &m);
    batch_begin(&m, SESSION, 3);
    batch_add_write(&m, 3 * BLOCK, BLOCK, 4);
    batch_send(k->fd, &m);
    colo_nbd_wait_taken(k->fd);
    disk_io_at(k->qts, "disk", "wait_break A");
    others_write(k, 5);
    sink_check(k, 1, 0, 2 * BLOCK);
    sink_check(k, 0, 2 * BLOCK, 2 * BLOCK);
    disk_io_at(k->qts, "disk", "resume A");
    g_assert_cmpint(colo_nbd_answer(k->fd), ==, 0);
    g_assert_cmpint(colo_nbd_answer(k->fd), ==, 0);
    sink_check(k, 2, 0, BLOCK);
    sink_check(k, 3, 2 * BLOCK, BLOCK);
    sink_check(k, 4, 3 * BLOCK, BLOCK);
    sink_free(k);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    qtest_add_func("/colo/sink/dirty/once", test_dirty_once);
    qtest_add_func("/colo/sink/dirty/batch", test_dirty_batch);
    qtest_add_func("/colo/sink/dirty/request", test_dirty_request);
    qtest_add_func("/colo/sink/dirty/during", test_dirty_during);
    qtest_add_func("/colo/sink/dirty/session", test_dirty_session);
    qtest_add_func("/colo/sink/dirty/node", test_dirty_node);
    qtest_add_func("/colo/sink/fua/request", test_fua_request);
    qtest_add_func("/colo/sink/fua/lone", test_fua_lone);
    qtest_add_func("/colo/sink/fua/other", test_fua_other);
    qtest_add_func("/colo/sink/fua/dirty", test_fua_dirty);
    qtest_add_func("/colo/sink/fua/flag", test_fua_flag);
    qtest_add_func("/colo/sink/fua/barrier", test_fua_barrier);
    return g_test_run();
}
