/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: both disks are compared while the guest writes, two QEMUs with
 * NBD between.
 *
 * No guest runs, the monitor writes in its place, and Xen's command begins
 * replication.  Proves: equal disks are equal; what differs is found, to the
 * byte, also beside bytes that are written all the time; what is on its way at
 * whatever place, or has been discarded, is no difference; a job can be
 * limited, paused and cancelled, and costs the session nothing when it is; it
 * ends when the peer is lost, or the node is taken out, and keeps nobody from
 * draining; mistakes have clear errors.
 *
 * Below each disk is a node of blkdebug, by which requests are stopped.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"

#define CHUNK (64 * KiB)
/* The last chunk is shorter, and so is the last group of chunks */
#define LENGTH (DISK + 67 * 512)
/* What has data; the rest is a hole, but for the first chunk */
#define DATA_BEGIN (8 * MiB)
#define WRITE_ROUNDS 30

typedef struct Way {
    const char *name;
    const char *hashes;         /* more arguments of the command */
    bool batch;
    bool unmap;                 /* discards are for the secondary, too */
    bool iothread;
} Way;

#define HASH ", 'hashes': 'hashes'"

static const Way ways[] = {
    { "hash", HASH },
    { "hash-batch", HASH, .batch = true, .unmap = true },
    { "hash-iothread", HASH, .batch = true, .iothread = true },
    { "data", "" },
    { "data-batch", "", .batch = true },
    { "data-iothread", "", .iothread = true, .unmap = true },
};

typedef struct Disks {
    const Way *way;
    char *dir;
    char *raw[2];
    char *socket;
    QTestState *primary;
    QTestState *secondary;
} Disks;

static void write_file(const char *path, const void *data, int64_t offset,
                       int64_t bytes)
{
    int fd = open(path, O_WRONLY);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pwrite(fd, data, bytes, offset), ==, bytes);
    close(fd);
}

static uint8_t byte_of(const char *path, int64_t offset)
{
    int fd = open(path, O_RDONLY);
    uint8_t byte;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pread(fd, &byte, 1, offset), ==, 1);
    close(fd);
    return byte;
}

/* Behind QEMU's back, and back again */
static void flip(Disks *d, int64_t offset)
{
    uint8_t byte = byte_of(d->raw[1], offset) ^ 0x55;

    write_file(d->raw[1], &byte, offset, 1);
}

/* Both have the same random data, and holes */
static void make_files(Disks *d)
{
    g_autofree uint8_t *data = g_malloc(LENGTH - DATA_BEGIN);

    for (size_t i = 0; i < LENGTH - DATA_BEGIN; i++) {
        data[i] = g_test_rand_int_range(0, 256);
    }
    for (int i = 0; i < 2; i++) {
        d->raw[i] = disk_new_file(d->dir, i ? "secondary" : "primary", false);
        g_assert_cmpint(truncate(d->raw[i], LENGTH), ==, 0);
        write_file(d->raw[i], data, DATA_BEGIN, LENGTH - DATA_BEGIN);
        write_file(d->raw[i], data, 0, CHUNK);
    }
}

static void start_secondary(Disks *d)
{
    d->secondary = qtest_initf(
        ">/dev/null -M none -nodefaults "
        "-drive if=none,id=dbg,node-name=disk,driver=raw,discard=unmap,"
        "file.driver=blkdebug,file.discard=unmap,file.image.driver=file,"
        "file.image.filename=%s,file.image.discard=unmap", d->raw[1]);
    qtest_qmp_assert_success(d->secondary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'colo-hash', "
        "'node-name': 'hash', 'read-only': true, 'file': 'disk'}}");
    qtest_qmp_assert_success(d->secondary,
        "{'execute': 'blockdev-add', 'arguments': {"
        "'driver': 'replication-sink', 'node-name': 'sink', "
        "'discard': 'unmap', 'file': 'disk'}}");
    disk_serve(d->secondary, d->socket);
    disk_export(d->secondary, d->way->batch ? "sink" : "disk", "d", true);
    disk_export(d->secondary, "hash", "h", false);
}

static void add_nodes(Disks *d)
{
    qtest_qmp_assert_success(d->primary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication', "
        "'node-name': 'repl', 'mode': 'primary', 'log-size': 4194304, "
        "'batch': %i, 'discard': %s, 'file': {'driver': 'nbd', "
        "'discard': 'unmap', 'export': 'd', "
        "'server': {'type': 'unix', 'path': %s}}}}", d->way->batch,
        d->way->unmap ? "unmap" : "ignore", d->socket);
    disk_add_client(d->primary, "hashes", d->socket, "h",
                    ", 'read-only': true");
}

/* Before the session */
static Disks *disks_new_idle(const Way *way)
{
    Disks *d = g_new0(Disks, 1);

    disk_deadline_begin();
    d->way = way;
    d->dir = g_dir_make_tmp("colo-verify-XXXXXX", NULL);
    g_assert_nonnull(d->dir);
    d->socket = g_build_filename(d->dir, "nbd", NULL);
    make_files(d);
    start_secondary(d);
    d->primary = qtest_initf(
        ">/dev/null -M pc -nodefaults "
        "-drive if=none,id=dbg,driver=blkdebug,max-transfer=65536,"
        "discard=unmap,image.driver=file,image.filename=%s,"
        "image.discard=unmap "
        "-drive if=none,id=top,node-name=topnode,driver=quorum,"
        "read-pattern=fifo,vote-threshold=1,discard=unmap,"
        "children.0.driver=raw,children.0.node-name=local,"
        "children.0.discard=unmap,children.0.file=dbg "
        "-object iothread,id=io0 -device virtio-blk-pci,drive=top%s",
        d->raw[0], way->iothread ? ",iothread=io0" : "");
    add_nodes(d);
    disk_add_child(d->primary, "top", "repl");
    return d;
}

static Disks *disks_new(const Way *way)
{
    Disks *d = disks_new_idle(way);

    disk_replicate(d->primary, true, true);
    return d;
}

static void disks_free(Disks *d)
{
    if (d->primary) {
        colo_quit(&d->primary);
    }
    if (d->secondary) {
        colo_quit(&d->secondary);
    }
    disk_free_file(d->raw[0]);
    disk_free_file(d->raw[1]);
    disk_free_file(d->socket);
    rmdir(d->dir);
    g_free(d->dir);
    g_free(d);
    disk_deadline_end();
}

/* The job */

static char *verify_json(const char *node, const char *more)
{
    return g_strdup_printf("{'execute': 'x-colo-verify', 'arguments': {"
                           "'job-id': 'j', 'node': '%s'%s}}", node, more);
}

/* @more than the node and the hashes */
static void verify(Disks *d, const char *more)
{
    g_autofree char *arguments = g_strconcat(d->way->hashes, more, NULL);
    g_autofree char *json = verify_json("repl", arguments);

    qtest_qmp_assert_success(d->primary, json, NULL);
}

static void verify_refused(Disks *d, const char *text, const char *node,
                           const char *more)
{
    g_autofree char *json = verify_json(node, more);

    colo_refused(d->primary, text, json, NULL);
}

/* A number that the job says of itself, or -1 if there is none any more */
static int64_t job_number(Disks *d, const char *key)
{
    QDict *answer = qtest_qmp(d->primary, "{'execute': 'query-block-jobs'}");
    QList *jobs = qdict_get_qlist(answer, "return");
    int64_t number = -1;

    if (!qlist_empty(jobs)) {
        QDict *job = qobject_to(QDict, qlist_peek(jobs));

        g_assert_cmpstr(qdict_get_str(job, "type"), ==, "colo-verify");
        number = !strcmp(key, "paused") ? qdict_get_bool(job, key)
                                        : qdict_get_int(job, key);
    }
    qobject_unref(answer);
    return number;
}

static bool has_job(Disks *d)
{
    return job_number(d, "offset") >= 0;
}

static void wait_number(Disks *d, const char *key, int64_t least)
{
    int64_t number;

    do {
        number = job_number(d, key);
        g_usleep(2000); /* until the alarm */
    } while (number >= 0 && number < least);
}

static void set_speed(Disks *d, int64_t speed)
{
    qtest_qmp_assert_success(d->primary, "{'execute': 'block-job-set-speed', "
                             "'arguments': {'device': 'j', 'speed': %" PRId64
                             "}}", speed);
}

static void job_command(Disks *d, const char *command)
{
    qtest_qmp_assert_success(d->primary, "{'execute': %s, "
                             "'arguments': {'device': 'j'}}", command);
}

/* Wait for the end: what it says of an error, to be freed; NULL for none */
static char *wait_end(Disks *d, const char *event)
{
    QDict *answer = colo_wait_event(d->primary, event);
    char *text = g_strdup(qdict_get_try_str(qdict_get_qdict(answer, "data"),
                                            "error"));

    if (text) {
        g_test_message("%s", text);
    }
    qobject_unref(answer);
    g_assert_false(has_job(d));
    return text;
}

static void wait_equal(Disks *d)
{
    g_autofree char *text = wait_end(d, "BLOCK_JOB_COMPLETED");

    g_assert_null(text);
}

static void wait_error(Disks *d, const char *text)
{
    g_autofree char *said = wait_end(d, "BLOCK_JOB_COMPLETED");

    g_assert_nonnull(said);
    g_assert_nonnull(strstr(said, text));
}

static void wait_differ(Disks *d, int64_t bytes, int64_t first)
{
    g_autofree char *text = g_strdup_printf("differ in %" PRId64 " bytes, the "
                                            "first at offset %" PRId64, bytes,
                                            first);

    wait_error(d, text);
}

/* The tests */

static void test_equal(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);

    verify(d, "");
    wait_equal(d);
    disks_free(d);
}

/* Bytes at any place, in data and in holes of either side */
static void test_differ(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);
    int64_t places[] = {
        g_test_rand_int_range(0, CHUNK), 3 * MiB + 777, DATA_BEGIN - 1,
        DATA_BEGIN + g_test_rand_int_range(0, DATA_BEGIN), LENGTH - 1,
    };

    for (int i = 0; i < G_N_ELEMENTS(places); i++) {
        flip(d, places[i]);
        verify(d, "");
        wait_differ(d, 1, places[i]);
        flip(d, places[i]);
    }
    verify(d, "");
    wait_equal(d);
    for (int i = 0; i < G_N_ELEMENTS(places); i++) {
        flip(d, places[i]);
    }
    flip(d, places[0] ^ 1);
    verify(d, "");
    wait_differ(d, G_N_ELEMENTS(places) + 1,
                MIN(places[0], places[0] ^ 1));

    /* What the guest overwrites is equal after that */
    disk_write(d->primary, 0x11, 0, DISK);
    flip(d, LENGTH - 1);
    verify(d, "");
    wait_equal(d);
    disks_free(d);
}

/* All of it */
static void test_other(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);
    g_autofree uint8_t *data = g_malloc(LENGTH);

    memset(data, 0, LENGTH);
    write_file(d->raw[0], data, 0, LENGTH);
    memset(data, 1, LENGTH);
    write_file(d->raw[1], data, 0, LENGTH);
    verify(d, "");
    wait_differ(d, LENGTH, 0);
    disks_free(d);
}

/* Several writes at a time, which do not overlap, around the job's place */
static void random_writes(Disks *d)
{
    static const char *const commands[] = {
        "aio_write -P 1", "aio_write -P 2", "aio_write -P 3", "aio_write -z",
        "aio_write -z -u", "aio_discard",
    };
    const int64_t lane = 640 * KiB;     /* some are copied beside */
    int64_t begin = MAX(job_number(d, "offset"), 0);

    begin = MIN(begin + g_test_rand_int_range(-512, 512) * 512LL,
                LENGTH - 8 * lane);
    begin = MAX(begin, 0);
    for (int i = 0; i < 8; i++) {
        int sectors = g_test_rand_int_range(1, lane / 512);
        int skip = g_test_rand_int_range(0, lane / 512 - sectors + 1);
        int what = g_test_rand_int_range(0, ARRAY_SIZE(commands));

        disk_io(d->primary, "%s %" PRId64 " %d", commands[what],
                begin + i * lane + skip * 512, sectors * 512);
    }
    disk_io(d->primary, "aio_flush");
}

/* The guest writes all the time, to what is being compared */
static void test_writes(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);

    verify(d, ", 'speed': 33554432");
    for (int i = 0; i < WRITE_ROUNDS || has_job(d); i++) {
        random_writes(d);
        if (i == WRITE_ROUNDS && has_job(d)) {
            set_speed(d, 0);
        }
    }
    wait_equal(d);
    verify(d, "");
    wait_equal(d);
    disks_free(d);
}

/* The same chunk all the time, but for one byte of it */
static void test_beside(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);
    const int64_t at = 10 * MiB + 30 * KiB;

    flip(d, at + 511);
    verify(d, ", 'speed': 33554432");
    for (int i = 0; i < WRITE_ROUNDS || has_job(d); i++) {
        disk_io(d->primary, "aio_write -P %d %" PRId64 " 30k", i & 0xff,
                at - 30 * KiB);
        disk_io(d->primary, "aio_write -P %d %" PRId64 " 33k", i & 0xff,
                at + 512);
        disk_io(d->primary, "aio_flush");
    }
    wait_differ(d, 1, at + 511);
    disks_free(d);
}

/* On the secondary's disk, and for long not on the local one */
static void test_slow_local(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);
    int64_t at = 12 * MiB;

    /* To begin it drains */
    verify(d, ", 'speed': 1048576");
    wait_number(d, "offset", MiB);
    disk_io_at(d->primary, "dbg", "break write_aio A");
    disk_io(d->primary, "aio_write -P 171 %" PRId64 " 64k", at);
    disk_io_at(d->primary, "dbg", "wait_break A");
    disk_wait_file(d->raw[1], 171, at, CHUNK);
    set_speed(d, 0);
    /* It comes to that chunk, and does not get past it */
    wait_number(d, "offset", at + CHUNK);
    for (int i = 0; i < 100; i++) {
        g_assert_cmpint(job_number(d, "offset"), <, at + 3 * MiB);
        g_usleep(2000);
    }
    disk_io_at(d->primary, "dbg", "resume A");
    wait_equal(d);
    disk_io(d->primary, "aio_flush");
    disks_free(d);
}

/* On the local disk, and for long not on the secondary's */
static void test_slow_peer(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);
    int64_t at = 12 * MiB;

    /* It has begun, so this is not what it waits for at the beginning */
    verify(d, ", 'speed': 1048576");
    wait_number(d, "offset", MiB);
    disk_io_at(d->secondary, "dbg", "break write_aio A");
    disk_io(d->primary, "write -P 171 %" PRId64 " 64k", at);
    disk_io_at(d->secondary, "dbg", "wait_break A");
    set_speed(d, 0);
    if (*d->way->hashes) {
        /* Or it reads nothing: the NBD client is in the midst of the write */
        wait_number(d, "offset", LENGTH);
    }
    for (int i = 0; i < 100; i++) {
        g_assert_true(has_job(d));
        g_usleep(2000);
    }
    disk_io_at(d->secondary, "dbg", "resume A");
    wait_equal(d);
    disks_free(d);
}

/*
 * The chunk has been read here, and not yet there, when the guest writes to it:
 * only the byte that has been changed differs.
 */
static void test_written_between(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);
    const int64_t at = 40000;
    /* To hash the first chunk: all at once, or in parts that come here */
    int n_reads = *d->way->hashes ? 1 : CHUNK / (4 * KiB);

    flip(d, at);
    disk_io_at(d->secondary, "dbg", "break read_aio A0");
    verify(d, "");
    disk_io_at(d->secondary, "dbg", "wait_break A0");
    /* What follows is a hole, which the server does not read */
    for (int i = 1; i < n_reads; i++) {
        disk_io_at(d->secondary, "dbg", "break read_aio A%d", i);
        disk_io_at(d->secondary, "dbg", "resume A%d", i - 1);
        disk_io_at(d->secondary, "dbg", "wait_break A%d", i);
    }
    disk_io_at(d->secondary, "dbg", "break read_aio B");
    disk_io_at(d->secondary, "dbg", "resume A%d", n_reads - 1);
    disk_io_at(d->secondary, "dbg", "wait_break B");
    disk_write(d->primary, 0x77, 0, 4 * KiB);
    disk_wait_file(d->raw[1], 0x77, 0, 4 * KiB);
    disk_io_at(d->secondary, "dbg", "resume B");
    wait_differ(d, 1, at);
    disks_free(d);
}

/* What has been discarded has no contents; what is written there has */
static void test_discarded(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);
    const int64_t at = 9 * MiB + 5 * KiB;
    const int64_t bytes = 3 * MiB;

    disk_io(d->primary, "discard %" PRId64 " %" PRId64, at, bytes);
    /* Whatever was done about it, there is something else now */
    flip(d, at);
    flip(d, at + MiB);
    flip(d, at + bytes - 1);
    verify(d, "");
    wait_equal(d);
    flip(d, at - 1);
    flip(d, at + bytes);
    verify(d, "");
    wait_differ(d, 2, at - 1);
    flip(d, at - 1);
    flip(d, at + bytes);

    disk_io(d->primary, "write -P 7 %" PRId64 " 1k", at + MiB);
    disk_io(d->primary, "write -z %" PRId64 " 1k", at + 2 * MiB);
    verify(d, "");
    wait_equal(d);
    flip(d, at + MiB + 1023);
    flip(d, at + MiB + 1024); /* discarded */
    flip(d, at + 2 * MiB);
    verify(d, "");
    wait_differ(d, 2, at + MiB + 1023);
    disks_free(d);
}

static void test_cancel(gconstpointer opaque)
{
    g_autofree char *text = NULL;
    Disks *d = disks_new(opaque);

    verify(d, ", 'speed': 65536");
    verify_refused(d, "is being compared by job 'j'", "repl", "");
    job_command(d, "block-job-cancel");
    text = wait_end(d, "BLOCK_JOB_CANCELLED");
    g_assert_null(text);
    /* Neither the session nor the way to the hashes has suffered */
    disk_write(d->primary, 0x12, MiB, CHUNK);
    disk_wait_file(d->raw[1], 0x12, MiB, CHUNK);
    verify(d, "");
    wait_equal(d);
    g_assert_false(disk_has_error(d->primary));
    disks_free(d);
}

/* It takes as long as it has to, goes on when told to, and stands if paused */
static void test_speed(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);
    int64_t begin, offset;

    begin = g_get_monotonic_time();
    verify(d, ", 'speed': 8388608");
    /* Of 8 MiB; what is read at once goes ahead of the time */
    wait_number(d, "offset", DATA_BEGIN + 4 * MiB);
    g_assert_cmpint(g_get_monotonic_time() - begin, >, 200000);
    job_command(d, "block-job-pause");
    while (!job_number(d, "paused")) {
        g_usleep(2000); /* until the alarm */
    }
    set_speed(d, 0);
    disk_io(d->primary, "aio_flush");
    offset = job_number(d, "offset");
    for (int i = 0; i < 50; i++) {
        g_assert_cmpint(job_number(d, "offset"), ==, offset);
        g_usleep(2000);
    }
    job_command(d, "block-job-resume");
    wait_equal(d);
    disks_free(d);
}

static void test_peer_dies(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);
    g_autofree char *text = NULL;

    verify(d, ", 'speed': 1048576");
    wait_number(d, "offset", MiB);
    colo_kill(&d->secondary);
    text = wait_end(d, "BLOCK_JOB_COMPLETED");
    g_assert_nonnull(text);
    random_writes(d);
    disks_free(d);
}

/*
 * The peer stands still: who drains and cancels does not wait for it, and it
 * has not been shut out by that
 */
static void test_peer_stalls(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);
    pid_t pid = qtest_pid(d->secondary);
    int64_t begin = g_get_monotonic_time();
    g_autofree char *text = NULL;

    g_assert_cmpint(kill(pid, SIGSTOP), ==, 0);
    verify(d, "");
    for (int i = 0; i < 20; i++) {
        g_assert_cmpint(job_number(d, "offset"), ==, 0);
        g_usleep(2000);
    }
    random_writes(d);           /* drains */
    qtest_qmp_assert_success(d->primary, "{'execute': 'stop'}");
    qtest_qmp_assert_success(d->primary, "{'execute': 'cont'}");
    job_command(d, "block-job-cancel");
    text = wait_end(d, "BLOCK_JOB_CANCELLED");
    g_assert_null(text);
    disk_check_time(begin);
    g_assert_cmpint(kill(pid, SIGCONT), ==, 0);
    disk_write(d->primary, 0x12, MiB, CHUNK);
    disk_wait_file(d->raw[1], 0x12, MiB, CHUNK);
    g_assert_false(disk_has_error(d->primary));
    disks_free(d);
}

/* The same, and QEMU exits */
static void test_quit(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);
    pid_t pid = qtest_pid(d->secondary);
    int64_t begin = g_get_monotonic_time();

    g_assert_cmpint(kill(pid, SIGSTOP), ==, 0);
    verify(d, "");
    colo_quit(&d->primary);
    disk_check_time(begin);
    g_assert_cmpint(kill(pid, SIGCONT), ==, 0);
    disks_free(d);
}

static void test_session_ends(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);

    verify(d, ", 'speed': 65536");
    disk_replicate(d->primary, false, true);
    wait_error(d, "has ended before all of disk");
    verify_refused(d, "the session of node 'repl' is over", "repl", "");
    disk_del_child(d->primary, "top", "children.1");
    qtest_qmp_assert_success(d->primary, "{'execute': 'blockdev-del', "
                             "'arguments': {'node-name': 'repl'}}");
    disks_free(d);
}

static void test_taken_out(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);

    verify(d, ", 'speed': 65536");
    disk_del_child(d->primary, "top", "children.1");
    wait_error(d, "has lost a child");
    disks_free(d);
}

/* The guest discards in more places than are remembered */
static void test_forgot(gconstpointer opaque)
{
    Disks *d = disks_new(opaque);

    for (int64_t at = 0; at < LENGTH; at += 512) {
        disk_io(d->primary, "discard %" PRId64 " 256", at);
    }
    verify(d, "");
    wait_error(d, "it cannot be told");
    disks_free(d);
}

static void test_refused(void)
{
    Disks *d = disks_new_idle(&ways[0]);

    verify_refused(d, "is in no session yet: x-colo-resync", "repl", "");
    disk_replicate(d->primary, true, true);
    verify_refused(d, "is not for replication in primary mode", "local", "");
    verify_refused(d, "Cannot find device", "none", "");
    verify_refused(d, "is no other child of", "repl", ", 'source': 'repl'");
    verify_refused(d, "the hashes of 'local' have 4608", "repl",
                   ", 'hashes': 'topnode'");
    verify_refused(d, "'speed' is", "repl", ", 'speed': 9223372036854775808");
    disk_add_client(d->primary, "delayed", d->socket, "h",
                    ", 'read-only': true, 'reconnect-delay': 5");
    verify_refused(d, "has 'reconnect-delay'", "repl",
                   ", 'hashes': 'delayed'");
    /* None of this has left anything behind */
    verify(d, "");
    wait_equal(d);
    disks_free(d);
}

/* In each @step-th way */
static void add_some(const char *name, void (*test)(gconstpointer), int step)
{
    for (int i = 0; i < ARRAY_SIZE(ways); i += step) {
        g_autofree char *path = g_strdup_printf("/colo/verify/%s/%s", name,
                                                ways[i].name);

        qtest_add_data_func(path, &ways[i], test);
    }
}

static void add(const char *name, void (*test)(gconstpointer))
{
    add_some(name, test, 1);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("equal", test_equal);
    add("differ", test_differ);
    add_some("other", test_other, 4);
    add("writes", test_writes);
    add("beside", test_beside);
    add("slow-local", test_slow_local);
    add("slow-peer", test_slow_peer);
    add("written-between", test_written_between);
    add("discarded", test_discarded);
    add("cancel", test_cancel);
    add_some("speed", test_speed, 4);
    add_some("peer-dies", test_peer_dies, 4);
    add("peer-stalls", test_peer_stalls);
    add_some("quit", test_quit, 4);
    add_some("session-ends", test_session_ends, 4);
    add_some("taken-out", test_taken_out, 4);
    qtest_add_data_func("/colo/verify/forgot", &ways[0], test_forgot);
    qtest_add_func("/colo/verify/refused", test_refused);
    return g_test_run();
}
