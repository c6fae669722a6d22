/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: the resync of a replicated disk, two QEMUs with NBD between.
 *
 * No guest runs, the monitor writes in its place.  Proves: what was on the
 * primary's disk before it got a secondary is on the other disk at the end of
 * the job, and so is what has been written, zeroed or discarded meanwhile, at
 * whatever moment; with a bitmap only what it names is sent, with hashes only
 * what differs; records from before the node was taken out undo nothing; a job
 * can be paused, limited and cancelled, ends when the peer is lost, keeps
 * nobody from draining and leaves the guest alone; a guest that waits for a peer
 * that stands still does not for ever; mistakes have clear errors.
 *
 * Below each disk is a node of blkdebug, by which requests are stopped.
 */

#include "qemu/osdep.h"
#define XXH_INLINE_ALL
#include <xxhash.h>
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-nbd.h"

#define CHUNK (64 * KiB)
/* The last chunk is shorter */
#define LENGTH (DISK + 67 * 512)
#define N_CHUNKS DIV_ROUND_UP(LENGTH, CHUNK)
/* What has data; the rest is a hole, but for the first chunk */
#define DATA_BEGIN (8 * MiB)
#define WRITE_ROUNDS 30
/* Of 1 MiB, more than the log takes */
#define N_WRITES 8
/* So long the log does without an answer, but for what is rounded off */
#define PATIENCE_NS (19999 * 1000000LL)

typedef struct Disks {
    char *dir;
    char *raw[2];
    char *socket;
    QTestState *primary;
    QTestState *secondary;
    int disk_errors;            /* events that the primary has emitted */
} Disks;

static void write_file(const char *path, const void *data, int64_t offset,
                       int64_t bytes)
{
    int fd = open(path, O_WRONLY);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pwrite(fd, data, bytes, offset), ==, bytes);
    close(fd);
}

/* Random data in the upper half */
static char *new_file(const char *dir, const char *name, uint8_t seed)
{
    g_autofree uint8_t *data = g_malloc(LENGTH - DATA_BEGIN);
    char *path = disk_new_file(dir, name, false);

    g_assert_cmpint(truncate(path, LENGTH), ==, 0);
    for (size_t i = 0; i < LENGTH - DATA_BEGIN; i++) {
        data[i] = g_test_rand_int_range(0, 256);
    }
    write_file(path, data, DATA_BEGIN, LENGTH - DATA_BEGIN);
    memset(data, seed, CHUNK);
    write_file(path, data, 0, CHUNK);
    return path;
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
    disk_serve(d->secondary, d->socket);
    disk_export(d->secondary, "disk", "d", true);
    disk_export(d->secondary, "hash", "h", false);
}

static void add_node(Disks *d, const char *name)
{
    qtest_qmp_assert_success(d->primary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication', "
        "'node-name': %s, 'mode': 'primary', 'log-size': 4194304, "
        "'discard': 'unmap', 'file': {'driver': 'nbd', 'export': 'd', "
        "'server': {'type': 'unix', 'path': %s}}}}", name, d->socket);
}

static void add_nodes(Disks *d)
{
    add_node(d, "repl");
    disk_add_client(d->primary, "hashes", d->socket, "h",
                    ", 'read-only': true");
}

/* They may come before or after those of the job */
static bool count_event(QTestState *qts, const char *name, QDict *event,
                        void *opaque)
{
    Disks *d = opaque;
    bool error = g_str_equal(name, "COLO_DISK_ERROR");

    if (error) {
        const char *text = qdict_get_str(qdict_get_qdict(event, "data"),
                                         "message");

        g_assert_nonnull(strstr(text, "'repl' could not write"));
        d->disk_errors++;
    }
    return error;
}

/* The device is on the disk as in life: so it is writable all the time */
static Disks *disks_new(bool iothread)
{
    Disks *d = g_new0(Disks, 1);

    disk_deadline_begin();
    d->dir = g_dir_make_tmp("colo-resync-XXXXXX", NULL);
    g_assert_nonnull(d->dir);
    d->socket = g_build_filename(d->dir, "nbd", NULL);
    d->raw[0] = new_file(d->dir, "primary", 1);
    d->raw[1] = new_file(d->dir, "secondary", 2);
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
        d->raw[0], iothread ? ",iothread=io0" : "");
    qtest_qmp_set_event_callback(d->primary, count_event, d);
    add_nodes(d);
    return d;
}

static void connect_disks(Disks *d)
{
    disk_add_child(d->primary, "top", "repl");
}

static void disconnect_disks(Disks *d)
{
    disk_del_child(d->primary, "top", "children.1");
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

#define NODES ", 'node': 'repl', 'source': 'local'"
#define HASH ", 'mode': 'hash', 'hashes': 'hashes'"

/* All of the command but the arguments */
static char *resync_json(const char *arguments)
{
    return g_strdup_printf("{'execute': 'x-colo-resync', 'arguments': {"
                           "'job-id': 'j'%s}}", arguments);
}

/* @more than the nodes */
static void resync(Disks *d, const char *more)
{
    g_autofree char *arguments = g_strconcat(NODES, more, NULL);
    g_autofree char *json = resync_json(arguments);

    qtest_qmp_assert_success(d->primary, json, NULL);
}

static void resync_refused(Disks *d, const char *text, const char *arguments)
{
    g_autofree char *json = resync_json(arguments);

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

static void wait_offset(Disks *d, int64_t least)
{
    while (has_job(d) && job_number(d, "offset") < least) {
        g_usleep(2000); /* until the alarm */
    }
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

/* Wait for the end; what kind of end has to be as said.  How much of it? */
static int64_t wait_end(Disks *d, const char *event, bool fails)
{
    QDict *answer = colo_wait_event(d->primary, event);
    QDict *data = qdict_get_qdict(answer, "data");
    int64_t len = qdict_get_int(data, "len");

    if (qdict_haskey(data, "error")) {
        g_test_message("%s", qdict_get_str(data, "error"));
    }
    g_assert_cmpint(qdict_haskey(data, "error"), ==, fails);
    qobject_unref(answer);
    g_assert_false(has_job(d));
    return len;
}

static void wait_completed(Disks *d)
{
    g_assert_cmpint(wait_end(d, "BLOCK_JOB_COMPLETED", false), ==, LENGTH);
}

/* How much data the log has ever sent */
static int64_t sent_bytes(Disks *d)
{
    return disk_log_number(d->primary, "sent-bytes");
}

static bool are_same(Disks *d)
{
    return disk_same(d->raw[0], d->raw[1]);
}

/* What has been written after the job's end is still on its way */
static void wait_same(Disks *d)
{
    disk_wait_same(d->raw[0], d->raw[1]);
}

/* The user is told that the secondary is lost, and only once */
static void wait_disk_error(Disks *d)
{
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;

    while (!d->disk_errors) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        disk_check_stage(d->primary, "idle"); /* events come along with that */
        g_usleep(2000);
    }
    disk_start_refused(d->primary, true, "node 'repl'");
    g_assert_cmpint(d->disk_errors, ==, 1);
}

/* How many writes of the guest have ended */
static int64_t n_writes(Disks *d)
{
    QDict *answer = qtest_qmp(d->primary, "{'execute': 'query-blockstats'}");
    int64_t n = -1;
    QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(answer, "return"), e) {
        QDict *disk = qobject_to(QDict, qlist_entry_obj(e));

        if (g_str_equal(qdict_get_str(disk, "device"), "top")) {
            n = qdict_get_int(qdict_get_qdict(disk, "stats"),
                              "wr_operations");
        }
    }
    qobject_unref(answer);
    g_assert_cmpint(n, >=, 0);
    return n;
}

static void wait_writes(Disks *d, int64_t n)
{
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;

    while (n_writes(d) < n) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(2000);
    }
}

/* Both are the same, then the child is taken out */
static void make_same(Disks *d)
{
    connect_disks(d);
    resync(d, "");
    wait_completed(d);
    g_assert_true(are_same(d));
    disconnect_disks(d);
}

/* The tests */

static void test_full(void)
{
    Disks *d = disks_new(false);

    connect_disks(d);
    g_assert_false(are_same(d));
    resync(d, "");
    wait_completed(d);
    g_assert_true(are_same(d));
    /* Holes stay at home */
    g_assert_cmpint(sent_bytes(d), <, LENGTH - DATA_BEGIN + 3 * MiB);
    disks_free(d);
}

/*
 * A write of the guest is in the log, and for long not on its own disk: what
 * the job finds there must not be sent after it.
 */
static void test_slow_write(void)
{
    const int64_t at = 12 * MiB;
    Disks *d = disks_new(false);

    connect_disks(d);
    resync(d, ", 'speed': 1");
    wait_offset(d, MiB);
    disk_io_at(d->primary, "dbg", "break write_aio A");
    disk_io(d->primary, "aio_write -P 171 %" PRId64 " 64k", at + CHUNK);
    disk_io_at(d->primary, "dbg", "wait_break A");
    set_speed(d, 0);
    wait_offset(d, at);
    disk_io_at(d->primary, "dbg", "resume A");
    wait_completed(d);
    wait_same(d);
    disks_free(d);
}

/*
 * The job has read a part of what it sends next; then the guest writes there.
 * @command: of qemu-io, does not wait.
 */
static void test_slow_read(gconstpointer command)
{
    Disks *d = disks_new(false);

    connect_disks(d);
    disk_io_at(d->primary, "dbg", "break read_aio A");
    resync(d, "");
    disk_io_at(d->primary, "dbg", "wait_break A");
    disk_io_at(d->primary, "dbg", "break read_aio B");
    disk_io_at(d->primary, "dbg", "resume A");
    disk_io_at(d->primary, "dbg", "wait_break B");
    disk_io(d->primary, "%s 0 64k", (const char *)command);
    disk_io_at(d->primary, "dbg", "resume B");
    wait_completed(d);
    disk_io(d->primary, "aio_flush");
    wait_same(d);
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

typedef struct Writes {
    const char *name;
    const char *options;
    bool iothread;
} Writes;

/* The guest writes all the time, to what is being copied */
static void test_writes(gconstpointer opaque)
{
    const Writes *w = opaque;
    Disks *d = disks_new(w->iothread);

    connect_disks(d);
    resync(d, w->options);
    for (int i = 0; i < WRITE_ROUNDS || has_job(d); i++) {
        random_writes(d);
        if (i == WRITE_ROUNDS && has_job(d)) {
            set_speed(d, 0);
        }
    }
    wait_completed(d);
    wait_same(d);
    disks_free(d);
}

static const Writes writes[] = {
    { "main", ", 'speed': 33554432", false },
    { "iothread", ", 'speed': 33554432", true },
    { "hash", HASH ", 'speed': 33554432", false },
    { "hash-iothread", HASH ", 'speed': 33554432", true },
};

static void test_bitmap(void)
{
    Disks *d = disks_new(false);

    make_same(d);
    qtest_qmp_assert_success(d->primary,
        "{'execute': 'block-dirty-bitmap-add', 'arguments': {"
        "'node': 'local', 'name': 'b', 'granularity': 65536}}");
    disk_io(d->primary, "write -P 1 1M 64k");
    disk_io(d->primary, "write -P 2 5M 1k");
    connect_disks(d);
    g_assert_false(are_same(d));
    resync(d, ", 'mode': 'bitmap', 'bitmap': 'b'");
    g_assert_cmpint(wait_end(d, "BLOCK_JOB_COMPLETED", false), ==, 128 * KiB);
    g_assert_true(are_same(d));
    disks_free(d);
}

/* Only what differs is sent, wherever it has been written to */
static void test_hash(void)
{
    g_autofree uint8_t *data = g_malloc(CHUNK);
    Disks *d = disks_new(false);
    int64_t before;

    make_same(d);
    disk_io(d->primary, "write -P 1 1M 64k");     /* was a hole */
    disk_io(d->primary, "write -P 2 9M 512");
    disk_io(d->primary, "write -P 3 %" PRId64 " 512", LENGTH - 512);
    disk_io(d->primary, "write -z 10M 64k");
    memset(data, 4, CHUNK);
    write_file(d->raw[1], data, 3 * MiB + 512, 512);    /* is a hole here */
    write_file(d->raw[1], data, 14 * MiB - 1024, 2048);
    connect_disks(d);
    g_assert_false(are_same(d));
    before = sent_bytes(d);
    resync(d, HASH);
    wait_completed(d);
    g_assert_true(are_same(d));
    /* Five chunks of data, one of them short; two became zero */
    g_assert_cmpint(sent_bytes(d) - before, ==, 4 * CHUNK + LENGTH % CHUNK);
    disks_free(d);
}

/* Nothing in common at all */
static void test_hash_all(void)
{
    Disks *d = disks_new(false);

    connect_disks(d);
    resync(d, HASH);
    wait_completed(d);
    g_assert_true(are_same(d));
    disks_free(d);
}

/*
 * A record from before the node was taken out is still under way when it is
 * back; meanwhile the guest has written what was there before.  If the job
 * looked at once it would find no difference.
 */
static void test_old_records(void)
{
    Disks *d = disks_new(false);

    disk_io(d->primary, "write -P 1 1M 64k");
    make_same(d);
    connect_disks(d);
    disk_io_at(d->secondary, "dbg", "break write_aio A");
    disk_io(d->primary, "write -P 2 1M 64k");
    disk_io_at(d->secondary, "dbg", "wait_break A");
    disconnect_disks(d);
    disk_io(d->primary, "write -P 1 1M 64k");
    connect_disks(d);
    g_assert_true(are_same(d));
    resync(d, HASH);
    for (int i = 0; i < 100; i++) {
        g_assert_cmpint(job_number(d, "offset"), ==, 0);
        g_usleep(2000);
    }
    disk_io_at(d->secondary, "dbg", "resume A");
    wait_completed(d);
    g_assert_true(are_same(d));
    disks_free(d);
}

/* What the node has, to the byte */
static void test_hash_node(void)
{
    g_autofree uint8_t *data = NULL;
    Disks *d = disks_new(false);
    uint8_t hashes[8192], want[16];
    uint8_t *p = hashes;
    int fd = colo_nbd_client(d->socket, 'h');

    memset(hashes, 1, sizeof(hashes));
    g_assert_cmpint(colo_nbd_pread(fd, hashes, 0, 4096), ==, 0);
    g_assert_cmpint(colo_nbd_pread(fd, p + 4096, 4096, 512), ==, 0);
    g_assert_true(g_file_get_contents(d->raw[1], (char **)&data, NULL, NULL));
    for (int64_t at = 0; at < LENGTH; at += CHUNK) {
        XXH128_canonicalFromHash((XXH128_canonical_t *)want,
                                 XXH3_128bits(data + at,
                                              MIN(CHUNK, LENGTH - at)));
        g_assert_cmpmem(p, 16, want, 16);
        p += 16;
    }
    g_assert_cmpint((p - hashes) / 16, ==, N_CHUNKS);
    for (; p < hashes + 4096 + 512; p++) {
        g_assert_cmpint(*p, ==, 0);
    }
    /* That would be too much work for one request; the next is as before */
    g_assert_cmpint(colo_nbd_pread(fd, hashes, 0, 4608), ==, EINVAL);
    g_assert_cmpint(colo_nbd_pread(fd, hashes, 512, 512), ==, 0);
    close(fd);
    disks_free(d);
}

static void test_cancel(gconstpointer options)
{
    g_autofree char *slow = g_strdup_printf("%s, 'speed': 65536",
                                            (const char *)options);
    Disks *d = disks_new(false);

    connect_disks(d);
    resync(d, slow);
    disk_start_refused(d->primary, true,
                       "cannot start before the resync, job 'j'");
    resync_refused(d, "is being resynced by job 'j'", NODES);
    job_command(d, "block-job-cancel");
    wait_end(d, "BLOCK_JOB_CANCELLED", false);
    g_assert_false(are_same(d));
    disk_start_refused(d->primary, true, "its last resync has not completed");
    resync(d, "");
    wait_completed(d);
    g_assert_true(are_same(d));
    disk_replicate(d->primary, true, true);
    disks_free(d);
}

/* That one disk cannot start leaves another one as it was */
static void test_other_refused(void)
{
    Disks *d = disks_new(false);

    connect_disks(d);
    resync(d, ", 'speed': 65536");
    job_command(d, "block-job-cancel");
    wait_end(d, "BLOCK_JOB_CANCELLED", false);
    disconnect_disks(d);
    add_node(d, "repl2");
    disk_add_child(d->primary, "top", "repl2");
    disk_start_refused(d->primary, true, "its last resync has not completed");
    qtest_qmp_assert_success(d->primary, "{'execute': 'blockdev-del', "
                             "'arguments': {'node-name': 'repl'}}");
    disk_replicate(d->primary, true, true);
    disks_free(d);
}

/* Where the node is not the guest may write: nothing less than a job helps */
static void test_taken_out(void)
{
    Disks *d = disks_new(false);

    connect_disks(d);
    resync(d, "");
    wait_completed(d);
    disconnect_disks(d);
    disk_write(d->primary, 0x11, 0, CHUNK);
    connect_disks(d);
    disk_start_refused(d->primary, true, "was taken out of the guest's disk");
    resync(d, "");
    wait_completed(d);
    g_assert_true(are_same(d));
    disk_replicate(d->primary, true, true);
    g_assert_false(disk_has_error(d->primary));
    disconnect_disks(d);
    disk_write(d->primary, 0x22, 0, CHUNK);
    connect_disks(d);
    g_assert_true(disk_has_error(d->primary));
    disks_free(d);
}

/* It takes as long as it has to, goes on when told to, and stands if paused */
static void test_speed(gconstpointer options)
{
    g_autofree char *slow = g_strdup_printf("%s, 'speed': 8388608",
                                            (const char *)options);
    Disks *d = disks_new(false);
    int64_t begin, offset;

    connect_disks(d);
    begin = g_get_monotonic_time();
    resync(d, slow);
    /* Of 8 MiB; what is read at once goes ahead of the time */
    wait_offset(d, DATA_BEGIN + 4 * MiB);
    g_assert_cmpint(g_get_monotonic_time() - begin, >, 200000);
    job_command(d, "block-job-pause");
    while (!job_number(d, "paused")) {
        g_usleep(2000); /* until the alarm */
    }
    set_speed(d, 0);
    /* A request that had begun may end after that */
    disk_io(d->primary, "aio_flush");
    offset = job_number(d, "offset");
    for (int i = 0; i < 50; i++) {
        g_assert_cmpint(job_number(d, "offset"), ==, offset);
        g_usleep(2000);
    }
    job_command(d, "block-job-resume");
    wait_completed(d);
    g_assert_true(are_same(d));
    disks_free(d);
}

static void test_peer_dies(gconstpointer options)
{
    g_autofree char *slow = g_strdup_printf("%s, 'speed': 1048576",
                                            (const char *)options);
    Disks *d = disks_new(false);

    connect_disks(d);
    resync(d, slow);
    colo_kill(&d->secondary);
    for (int i = 0; i < 5; i++) {
        random_writes(d);
    }
    wait_end(d, "BLOCK_JOB_COMPLETED", true);
    wait_disk_error(d);
    random_writes(d);
    disks_free(d);
}

/* The peer stands still: who drains, cancels, removes does not wait for it */
static void test_peer_stalls(gconstpointer options)
{
    Disks *d = disks_new(false);
    pid_t pid = qtest_pid(d->secondary);
    int64_t begin;

    connect_disks(d);
    g_assert_cmpint(kill(pid, SIGSTOP), ==, 0);
    resync(d, options);
    begin = g_get_monotonic_time();
    random_writes(d);           /* drains */
    qtest_qmp_assert_success(d->primary, "{'execute': 'stop'}");
    qtest_qmp_assert_success(d->primary, "{'execute': 'cont'}");
    job_command(d, "block-job-cancel");
    wait_end(d, "BLOCK_JOB_CANCELLED", false);
    disk_check_time(begin);
    resync(d, "");
    disconnect_disks(d);
    wait_end(d, "BLOCK_JOB_COMPLETED", true);
    disk_check_time(begin);
    random_writes(d);
    qtest_qmp_assert_success(d->primary, "{'execute': 'blockdev-del', "
                             "'arguments': {'node-name': 'repl'}}");
    g_assert_cmpint(d->disk_errors, ==, 0); /* the user knows */
    g_assert_cmpint(kill(pid, SIGCONT), ==, 0);
    disks_free(d);
}

/*
 * The same, and nobody drains: the guest fills the log and waits, but not for
 * ever.  With a job, and without.
 */
static void test_guest_waits(void)
{
    Disks *disks[2];

    for (int i = 0; i < 2; i++) {
        Disks *d = disks[i] = disks_new(i);

        connect_disks(d);
        g_assert_cmpint(kill(qtest_pid(d->secondary), SIGSTOP), ==, 0);
        if (i) {
            resync(d, "");
        }
        for (int k = 0; k < N_WRITES; k++) {
            disk_io(d->primary, "aio_write -P %d %dM 1M", k + 1, k);
        }
    }
    for (int i = 0; i < 2; i++) {
        Disks *d = disks[i];

        wait_writes(d, N_WRITES);
        g_assert_cmpint(disk_log_number(d->primary, "throttled-ns"), >=,
                        PATIENCE_NS);
        if (i) {
            wait_end(d, "BLOCK_JOB_COMPLETED", true);
        }
        wait_disk_error(d);
        for (int k = 0; k < N_WRITES; k++) {
            g_assert_true(disk_file_has(d->raw[0], k + 1, k * MiB, MiB));
        }
        g_assert_cmpint(kill(qtest_pid(d->secondary), SIGCONT), ==, 0);
        disks_free(d);
    }
}

static void test_refused(void)
{
    Disks *d = disks_new(false);

    resync_refused(d, "is no child of a quorum", NODES);
    connect_disks(d);
    resync_refused(d, "is no other child of",
                   ", 'node': 'repl', 'source': 'repl'");
    resync_refused(d, "is not for replication in primary mode",
                   ", 'node': 'local', 'source': 'local'");
    resync_refused(d, "'bitmap' is needed with mode 'bitmap'",
                   NODES ", 'mode': 'bitmap'");
    resync_refused(d, "has no bitmap 'b'",
                   NODES ", 'mode': 'bitmap', 'bitmap': 'b'");
    resync_refused(d, "'hashes' is needed with mode 'hash'",
                   NODES ", 'mode': 'hash'");
    resync_refused(d, "'hashes' is not allowed with mode 'full'",
                   NODES ", 'hashes': 'hashes'");
    resync_refused(d, "the hashes of 'local' have 4608",
                   NODES ", 'mode': 'hash', 'hashes': 'topnode'");
    colo_refused(d->primary, "it needs 'read-only'",
                 "{'execute': 'blockdev-add', 'arguments': {"
                 "'driver': 'colo-hash', 'node-name': 'x', "
                 "'file': 'local'}}");
    disk_add_client(d->primary, "delayed", d->socket, "h",
                    ", 'read-only': true, 'reconnect-delay': 5");
    resync_refused(d, "has 'reconnect-delay'",
                   NODES ", 'mode': 'hash', 'hashes': 'delayed'");
    /* None of this has left anything behind */
    qtest_qmp_assert_success(d->primary,
        "{'execute': 'x-colo-resync', 'arguments': {'job-id': 'j', "
        "'node': 'repl', 'mode': 'hash', 'hashes': 'hashes'}}");
    wait_completed(d);
    disks_free(d);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/resync/full", test_full);
    qtest_add_func("/colo/resync/hold/slow-write", test_slow_write);
    qtest_add_data_func("/colo/resync/hold/write", "aio_write -P 171",
                        test_slow_read);
    qtest_add_data_func("/colo/resync/hold/zeroes", "aio_write -z",
                        test_slow_read);
    qtest_add_data_func("/colo/resync/hold/unmap", "aio_write -z -u",
                        test_slow_read);
    qtest_add_data_func("/colo/resync/hold/discard", "aio_discard",
                        test_slow_read);
    for (int i = 0; i < ARRAY_SIZE(writes); i++) {
        g_autofree char *path = g_strdup_printf("/colo/resync/writes/%s",
                                                writes[i].name);

        qtest_add_data_func(path, &writes[i], test_writes);
    }
    qtest_add_func("/colo/resync/bitmap", test_bitmap);
    qtest_add_func("/colo/resync/hash/some", test_hash);
    qtest_add_func("/colo/resync/hash/all", test_hash_all);
    qtest_add_func("/colo/resync/hash/old-records", test_old_records);
    qtest_add_func("/colo/resync/hash/node", test_hash_node);
    qtest_add_data_func("/colo/resync/cancel/full", "", test_cancel);
    qtest_add_data_func("/colo/resync/cancel/hash", HASH, test_cancel);
    qtest_add_func("/colo/resync/other-refused", test_other_refused);
    qtest_add_func("/colo/resync/taken-out", test_taken_out);
    qtest_add_data_func("/colo/resync/speed/full", "", test_speed);
    qtest_add_data_func("/colo/resync/speed/hash", HASH, test_speed);
    qtest_add_data_func("/colo/resync/peer-dies/full", "", test_peer_dies);
    qtest_add_data_func("/colo/resync/peer-dies/hash", HASH, test_peer_dies);
    qtest_add_data_func("/colo/resync/peer-stalls/full", "",
                        test_peer_stalls);
    qtest_add_data_func("/colo/resync/peer-stalls/hash", HASH,
                        test_peer_stalls);
    qtest_add_func("/colo/resync/guest-waits", test_guest_waits);
    qtest_add_func("/colo/resync/refused", test_refused);
    return g_test_run();
}
