/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a secondary takes over while its replication-sink has batches.
 *
 * Proves: what has not begun is given up.  It is never written, and the
 * failover does not wait for it.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "colo-helpers.h"
#include "colo-nbd.h"
#include "colo-sink-rig.h"

/*
 * A secondary.  Its disk is by NBD in another QEMU, @store, where requests can
 * be held while the secondary has no time for its monitor.  All that gets to
 * the file there is in a log.
 */
typedef struct Secondary {
    char *dir;
    char *raw;
    char *log;
    char *active;
    char *hidden;
    char *store_socket;
    char *socket;
    QTestState *store;
    QTestState *qts;
    int fd;
} Secondary;

static void start_store(Secondary *s)
{
    s->store = qtest_initf(
        ">/dev/null -M none -nodefaults "
        "-drive if=none,id=disk,node-name=image,driver=raw,"
        "file.driver=blkdebug,file.image.driver=blklogwrites,"
        "file.image.file.driver=file,file.image.file.filename=%s,"
        "file.image.log.driver=file,file.image.log.filename=%s",
        s->raw, s->log);
    disk_serve(s->store, s->store_socket);
    disk_export(s->store, "image", "b", true);
}

static void start_secondary(Secondary *s)
{
    s->qts = qtest_initf(
        ">/dev/null -M none -nodefaults "
        "-blockdev driver=raw,node-name=disk,file.driver=nbd,file.export=b,"
        "file.server.type=unix,file.server.path=%s "
        "-blockdev driver=replication-sink,node-name=sink,file=disk "
        "-blockdev driver=qcow2,node-name=active,file.driver=file,"
        "file.filename=%s,backing.driver=qcow2,backing.node-name=hidden,"
        "backing.file.driver=file,backing.file.filename=%s,"
        "backing.backing=disk "
        "-drive if=none,id=top,node-name=topnode,driver=quorum,"
        "read-pattern=fifo,vote-threshold=1,children.0.driver=replication,"
        "children.0.node-name=repl,children.0.mode=secondary,"
        "children.0.top-id=top,children.0.file=active",
        s->store_socket, s->active, s->hidden);
    disk_serve(s->qts, s->socket);
    disk_export(s->qts, "sink", "s", true);
    s->fd = colo_nbd_client(s->socket, 's');
    disk_replicate(s->qts, true, false);
}

static Secondary *secondary_new(void)
{
    Secondary *s = g_new0(Secondary, 1);

    disk_deadline_begin();
    s->dir = g_dir_make_tmp("colo-sink-XXXXXX", NULL);
    g_assert_nonnull(s->dir);
    s->raw = disk_new_file(s->dir, "disk", false);
    s->log = disk_new_file(s->dir, "log", false);
    s->active = disk_new_file(s->dir, "active", true);
    s->hidden = disk_new_file(s->dir, "hidden", true);
    s->store_socket = g_build_filename(s->dir, "nbd-store", NULL);
    s->socket = g_build_filename(s->dir, "nbd", NULL);
    start_store(s);
    start_secondary(s);
    return s;
}

static void secondary_free(Secondary *s)
{
    close(s->fd);
    colo_quit(&s->qts);
    colo_quit(&s->store);
    disk_free_file(s->raw);
    disk_free_file(s->log);
    disk_free_file(s->active);
    disk_free_file(s->hidden);
    disk_free_file(s->store_socket);
    disk_free_file(s->socket);
    rmdir(s->dir);
    g_free(s->dir);
    g_free(s);
    disk_deadline_end();
}

/* The log as blklogwrites makes it: sectors of 512 bytes, from the second on */
typedef struct QEMU_PACKED LogEntry {
    uint64_t sector;
    uint64_t n_sectors;
    uint64_t flags;
    uint64_t len;
} LogEntry;

enum {
    LOG_FLUSH = 1,
    LOG_DISCARD = 4,
};

/* What the log has, in the order in which it was done */
static GArray *read_log(Secondary *s)
{
    GArray *entries = g_array_new(false, false, sizeof(LogEntry));
    int fd = open(s->log, O_RDONLY);
    off_t at = 512;
    LogEntry e;

    g_assert_cmpint(fd, >=, 0);
    while (pread(fd, &e, sizeof(e), at) == sizeof(e) &&
           (e.flags || e.n_sectors)) {
        e.sector = le64_to_cpu(e.sector);
        e.n_sectors = le64_to_cpu(e.n_sectors);
        e.flags = le64_to_cpu(e.flags);
        g_array_append_val(entries, e);
        at += 512 + (e.flags & LOG_DISCARD ? 0 : e.n_sectors * 512);
    }
    close(fd);
    return entries;
}

/* The entries that have to do with the block at @offset */
static int n_logged(GArray *log, int64_t offset)
{
    int n = 0;

    for (int i = 0; i < log->len; i++) {
        const LogEntry *e = &g_array_index(log, LogEntry, i);

        n += e->sector <= offset / 512 &&
             offset / 512 < e->sector + e->n_sectors;
    }
    return n;
}

static int n_flushes(GArray *log)
{
    int n = 0;

    for (int i = 0; i < log->len; i++) {
        n += g_array_index(log, LogEntry, i).flags == LOG_FLUSH;
    }
    return n;
}

/* Begin a failover, and wait until the primary is shut out */
static void begin_failover(Secondary *s, int other)
{
    char c;

    qtest_qmp_send(s->qts, "{'execute': 'xen-set-replication', 'arguments': {"
                   "'enable': false, 'primary': false, 'failover': true}}");
    g_assert_cmpint(read(s->fd, &c, 1), <=, 0);
    g_assert_cmpint(read(other, &c, 1), <=, 0);
}

static void end_failover(Secondary *s)
{
    QDict *answer = qtest_qmp_receive(s->qts);

    g_assert_true(qdict_haskey(answer, "return"));
    qobject_unref(answer);
}

/*
 * Of the first batch a write has begun, or the flush after it, which @held is
 * blkdebug's name for.  All else is never done: not what is behind that in the
 * batch, nor the next batch, nor one whose predecessor is missing.
 */
static void test_give_up(const void *opaque)
{
    const char *held = opaque;
    bool by_flush = g_str_equal(held, "flush_to_disk");
    Secondary *s = secondary_new();
    int other = colo_nbd_client(s->socket, 's');
    g_autoptr(GArray) log = NULL;
    Maker m;

    disk_io_at(s->store, "disk", "break %s A", held);
    batch_begin(&m, SESSION, 1);
    batch_add_write(&m, 0, BLOCK, 1);
    batch_add_write(&m, BLOCK, BLOCK, 1);
    batch_add_flush(&m);
    batch_add_write(&m, MiB, BLOCK, 2);
    batch_send(s->fd, &m);
    batch_begin(&m, SESSION, 2);
    batch_add_write(&m, 2 * MiB, BLOCK, 3);
    batch_send(s->fd, &m);
    batch_wait_there(s->fd);
    batch_begin(&m, SESSION, 4);
    batch_add_write(&m, 3 * MiB, BLOCK, 4);
    batch_send(other, &m);
    batch_wait_there(other);
    disk_io_at(s->store, "disk", "wait_break A");

    begin_failover(s, other);
    disk_io_at(s->store, "disk", "resume A");
    end_failover(s);
    disk_wait_no_job(s->qts);
    disk_check_stage(s->qts, "folded");
    g_assert_false(disk_has_error(s->qts));

    /* The two writes are, first of all, and then they are undone */
    log = read_log(s);
    g_assert_cmpint(n_logged(log, 0), >, 1);
    g_assert_cmpint(n_logged(log, BLOCK), >, 1);
    for (int i = 1; i <= 3; i++) {
        g_assert_cmpint(n_logged(log, i * MiB), ==, 0);
    }
    g_assert_cmpint(log->len, >, 2);
    if (by_flush) {
        g_assert_cmpint(g_array_index(log, LogEntry, 2).flags, ==, LOG_FLUSH);
    } else {
        /* Those of the fold, which begins with one or with what it undoes */
        g_assert_cmpint(n_flushes(log), <=, 2);
    }
    g_assert_true(disk_file_has(s->raw, 0, 0, DISK));

    /* Now it is the guest's here */
    disk_write(s->qts, 5, MiB, BLOCK);
    g_assert_true(disk_file_has(s->raw, 5, MiB, BLOCK));
    close(other);
    secondary_free(s);
}

/* How long a batch waits for the one before it, us; see sink.c */
#define MISSING_US 1000000

/* How long a failover takes if a batch waits, from when it comes on, us */
static int64_t failover_with_waiting(void)
{
    Secondary *s = secondary_new();
    int64_t begin, took;
    Maker m;

    batch_begin(&m, SESSION, 1);
    batch_add_write(&m, 0, BLOCK, 1);
    batch_send(s->fd, &m);
    g_assert_cmpint(colo_nbd_answer(s->fd), ==, 0);
    batch_begin(&m, SESSION, 3);
    batch_add_write(&m, MiB, BLOCK, 3);
    begin = g_get_monotonic_time();
    batch_send(s->fd, &m);
    batch_wait_there(s->fd);
    disk_failover(s->qts, false);
    took = g_get_monotonic_time() - begin;
    disk_wait_no_job(s->qts);
    g_assert_true(disk_file_has(s->raw, 0, 0, DISK));
    secondary_free(s);
    return took;
}

/* A failover does not wait for a batch that nothing comes before any more */
static void test_give_up_missing(void)
{
    int64_t least = INT64_MAX;

    /* If it did that would take MISSING_US each time, a slow host not so */
    for (int i = 0; i < 5 && least >= MISSING_US; i++) {
        least = MIN(least, failover_with_waiting());
    }
    g_assert_cmpint(least, <, MISSING_US);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    qtest_add_data_func("/colo/sink/give-up/write", "pwritev", test_give_up);
    qtest_add_data_func("/colo/sink/give-up/flush", "flush_to_disk",
                        test_give_up);
    qtest_add_func("/colo/sink/give-up/missing", test_give_up_missing);
    return g_test_run();
}
