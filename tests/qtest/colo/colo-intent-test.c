/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: intent logs, two QEMUs with NBD between.
 *
 * No guest runs, the monitor writes in its place.  Proves: when a side has been
 * killed, at whatever moment, and its log has lost what was not flushed, a
 * resync in mode auto reads and sends no more than what both logs have, and then
 * the images are equal byte by byte, whichever side goes on and whatever it has
 * written; a bit is not cleared before what it stands for is on both disks, and
 * is then; a log that is missing, cut short, damaged, of another image,
 * generation or point is not used, and the job says why; what a cut-short resync
 * has left is done by the logs again.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "block/replication/intent-file.h"
#include "libqos/libqos.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"

/* For LD_PRELOAD */
#define COLO_LOSSY "tests/qtest/colo/libcolo-lossy.so"

#define REGION (64 * KiB)
#define ROUNDS 6

typedef struct Host {
    char *image;
    char *log;
    char *generation;
    char *hidden;
    char *active;
    QTestState *qts;
} Host;

typedef struct Pair {
    char *dir;
    char *socket;
    Host hosts[2];
    Host *primary;
    Host *secondary;
} Pair;

static char *path_of(Pair *p, const char *name, int i)
{
    return g_strdup_printf("%s/%s%d", p->dir, name, i);
}

#define INTENT "driver=replication-intent,log=%s,region-size=65536," \
               "clear-interval=100,discard=unmap," \
               "file.driver=quorum,file.node-name=quorum,file.discard=unmap," \
               "file.read-pattern=fifo,file.vote-threshold=1,"
#define CHILD "file.children.0."

/* What is not flushed of a log may be lost: see there */
static QTestState *start(Pair *p, const char *args)
{
    QTestState *qts;

    g_assert_cmpint(access(COLO_LOSSY, R_OK), ==, 0);
    g_setenv("COLO_LOSSY_DIR", p->dir, true);
    g_setenv("LD_PRELOAD", COLO_LOSSY, true);
    qts = qtest_init(args);
    g_unsetenv("LD_PRELOAD");
    return qts;
}

static void start_primary(Pair *p, Host *h)
{
    g_autofree char *args = g_strdup_printf(
        ">/dev/null -M none -nodefaults "
        "-drive if=none,id=top,node-name=topnode," INTENT
        "file.children.0.driver=raw,file.children.0.node-name=local,"
        "file.children.0.discard=unmap,"
        "file.children.0.file.driver=file,file.children.0.file.discard=unmap,"
        "file.children.0.file.filename=%s", h->log, h->image);

    p->primary = h;
    h->qts = start(p, args);
}

static void start_secondary(Pair *p, Host *h)
{
    g_autofree char *args = g_strdup_printf(
        ">/dev/null -M none -nodefaults "
        "-drive if=none,id=dbg,node-name=disk,driver=raw,discard=unmap,"
        "file.driver=blkdebug,file.discard=unmap,file.image.driver=file,"
        "file.image.filename=%s,file.image.discard=unmap "
        "-drive if=none,id=top,node-name=topnode," INTENT
        CHILD "driver=replication," CHILD "node-name=childs,"
        CHILD "mode=secondary," CHILD "top-id=top," CHILD "generation-file=%s,"
        CHILD "file.driver=qcow2," CHILD "file.file.filename=%s,"
        CHILD "file.backing.driver=qcow2,"
        CHILD "file.backing.file.filename=%s,"
        CHILD "file.backing.backing=disk",
        h->image, h->log, h->generation, h->active, h->hidden);

    p->secondary = h;
    mkqcow2(h->hidden, DISK_MB);
    mkqcow2(h->active, DISK_MB);
    h->qts = start(p, args);
    disk_serve(h->qts, p->socket);
    qtest_qmp_assert_success(h->qts, "{'execute': 'blockdev-add', 'arguments': "
                             "{'driver': 'replication-sink', 'node-name': "
                             "'sink', 'file': 'disk'}}");
    disk_export(h->qts, "sink", "s", true);
    qtest_qmp_assert_success(h->qts, "{'execute': 'blockdev-add', 'arguments': "
                             "{'driver': 'colo-hash', 'node-name': 'hash', "
                             "'read-only': true, 'file': 'disk'}}");
    disk_export(h->qts, "hash", "h", false);
}

static Pair *pair_new(void)
{
    Pair *p = g_new0(Pair, 1);

    disk_deadline_begin();
    p->dir = g_dir_make_tmp("colo-intent-XXXXXX", NULL);
    g_assert_nonnull(p->dir);
    p->socket = g_build_filename(p->dir, "nbd", NULL);
    for (int i = 0; i < 2; i++) {
        Host *h = &p->hosts[i];
        g_autofree char *name = g_strdup_printf("image%d", i);

        h->image = disk_new_file(p->dir, name, false);
        h->log = path_of(p, "log", i);
        h->generation = path_of(p, "generation", i);
        h->hidden = path_of(p, "hidden", i);
        h->active = path_of(p, "active", i);
    }
    start_primary(p, &p->hosts[0]);
    start_secondary(p, &p->hosts[1]);
    return p;
}

static void pair_free(Pair *p)
{
    for (int i = 0; i < 2; i++) {
        Host *h = &p->hosts[i];
        g_autofree char *flushed = g_strconcat(h->log, "-flushed", NULL);

        if (h->qts) {
            colo_quit(&h->qts);
        }
        disk_free_file(h->image);
        disk_free_file(h->log);
        unlink(flushed);
        disk_free_file(h->generation);
        disk_free_file(h->hidden);
        disk_free_file(h->active);
    }
    disk_free_file(p->socket);
    rmdir(p->dir);
    g_free(p->dir);
    g_free(p);
    disk_deadline_end();
}

/* The host of @h loses its power: all of its log that was not flushed, too */
static void power_off(Host *h)
{
    g_autofree char *flushed = g_strconcat(h->log, "-flushed", NULL);

    colo_kill(&h->qts);
    if (g_file_test(flushed, G_FILE_TEST_EXISTS)) {
        g_assert_cmpint(rename(flushed, h->log), ==, 0);
    }
}

static bool are_equal(Pair *p)
{
    return disk_same(p->hosts[0].image, p->hosts[1].image);
}

/* The file of a log */

typedef struct Log {
    ReplicationIntentHead head;
    uint64_t *words;
} Log;

/* False if there is none that can be loaded */
static bool log_load(Host *h, Log *log)
{
    g_autoptr(Error) err = NULL;
    int fd = open(h->log, O_RDONLY);
    bool ok;

    g_assert_cmpint(fd, >=, 0);
    ok = replication_intent_load(fd, &log->head, &log->words, &err);
    close(fd);
    return ok;
}

/* A sector of it may be being written */
static void log_wait(Host *h, Log *log)
{
    while (!log_load(h, log)) {
        g_usleep(1000); /* until the alarm */
    }
}

static bool log_has(Host *h, int64_t offset)
{
    Log log;
    bool has;

    log_wait(h, &log);
    has = replication_intent_test(log.words, offset / REGION);
    g_free(log.words);
    return has;
}

static unsigned log_count(Host *h)
{
    Log log;
    unsigned n = 0;

    log_wait(h, &log);
    for (int64_t i = 0; i < DISK / REGION; i++) {
        n += replication_intent_test(log.words, i);
    }
    g_free(log.words);
    return n;
}

/* So many or fewer are left */
static void wait_count(Host *h, unsigned most)
{
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;

    while (log_count(h) > most) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(10000);
    }
}

/* The resync */

typedef struct Resync {
    char *mode;
    bool by_log;
    char *why;                  /* or NULL */
    int64_t len;
} Resync;

static void resync_clear(Resync *r)
{
    g_free(r->mode);
    g_free(r->why);
}

/* The disk of the guest on the primary, @p, gets the other one below it */
static void attach(Pair *p)
{
    qtest_qmp_assert_success(p->primary->qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication', "
        "'node-name': 'repl', 'mode': 'primary', 'batch': true, "
        "'discard': 'unmap', 'generation-file': %s, 'file': {"
        "'driver': 'nbd', 'export': 's', 'discard': 'unmap', 'server': {"
        "'type': 'unix', 'path': %s}}}}", p->primary->generation, p->socket);
    disk_add_child(p->primary->qts, "quorum", "repl");
}

static void detach(Pair *p)
{
    disk_del_child(p->primary->qts, "quorum", "children.1");
    qtest_qmp_assert_success(p->primary->qts, "{'execute': 'blockdev-del', "
                             "'arguments': {'node-name': 'repl'}}");
}

static void begin_resync(Pair *p, const char *more)
{
    g_autofree char *json = g_strdup_printf(
        "{'execute': 'x-colo-resync', 'arguments': {'job-id': 'j', "
        "'node': 'repl', 'mode': 'auto', 'speed': 1%s}}", more);

    qtest_qmp_assert_success(p->primary->qts, json, NULL);
}

/* How it is done, as soon as the job knows; it is slow as yet */
static void query_resync(Pair *p, Resync *r)
{
    memset(r, 0, sizeof(*r));
    while (true) {
        QDict *answer = qtest_qmp(p->primary->qts,
                                  "{'execute': 'query-block-jobs'}");
        QList *jobs = qdict_get_qlist(answer, "return");
        QDict *job = qobject_to(QDict, qlist_peek(jobs));

        if (!job) {
            qobject_unref(answer);
            return; /* there was nothing to do */
        }
        if (!g_str_equal(qdict_get_str(job, "mode"), "auto")) {
            g_free(r->mode);
            r->mode = g_strdup(qdict_get_str(job, "mode"));
            r->by_log = qdict_get_bool(job, "by-log");
            r->why = g_strdup(qdict_get_try_str(job, "why"));
            r->len = qdict_get_int(job, "len");
            qobject_unref(answer);
            return;
        }
        qobject_unref(answer);
        g_usleep(1000); /* until the alarm */
    }
}

static void end_resync(Pair *p, bool fails)
{
    QDict *event, *answer;

    answer = qtest_qmp(p->primary->qts, "{'execute': 'block-job-set-speed', "
                       "'arguments': {'device': 'j', 'speed': 0}}");
    qobject_unref(answer);      /* it may have ended */
    do {
        event = colo_wait_event(p->primary->qts, "BLOCK_JOB_COMPLETED");
        answer = qdict_get_qdict(event, "data");
        if (g_str_equal(qdict_get_str(answer, "device"), "j")) {
            break;
        }
        qobject_unref(event);
    } while (true);
    g_assert_cmpint(qdict_haskey(answer, "error"), ==, fails);
    qobject_unref(event);
}

/* All of it.  *@r is to be cleared. */
static void resync(Pair *p, const char *more, Resync *r)
{
    begin_resync(p, more);
    query_resync(p, r);
    end_resync(p, false);
}

static void start_session(Pair *p)
{
    disk_replicate(p->secondary->qts, true, false);
    disk_replicate(p->primary->qts, true, true);
}

/* A first pair, whose logs begin now: nothing is set on either side */
static void begin(Pair *p)
{
    Resync r;

    for (int i = 0; i < 16; i++) {
        disk_write(p->primary->qts, 0x10 + i, i * MiB, MiB);
    }
    attach(p);
    resync(p, "", &r);
    g_assert_false(r.by_log);
    g_assert_cmpstr(r.mode, ==, "full");
    g_assert_nonnull(r.why);
    resync_clear(&r);
    g_assert_true(are_equal(p));
    start_session(p);
    wait_count(p->primary, 0);
}

/* A write of the guest somewhere: where */
static int64_t write_somewhere(QTestState *qts)
{
    int64_t at = g_test_rand_int_range(0, DISK / 512 - 16) * 512LL;
    int bytes = g_test_rand_int_range(1, 16) * 512;

    disk_write(qts, g_test_rand_int_range(1, 256), at, bytes);
    return at;
}

/* By the logs, and no more than @most bytes: then both are equal */
static void check_by_log(Pair *p, const char *more, int64_t most)
{
    Resync r;

    attach(p);
    resync(p, more, &r);
    if (r.mode) {
        g_assert_true(r.by_log);
        g_assert_null(r.why);
        g_assert_cmpint(r.len, <=, most);
    }
    resync_clear(&r);
    g_assert_true(are_equal(p));
}

/* The primary has been killed, the secondary goes on: @writes of its guest */
static void take_over(Pair *p, int writes)
{
    Host *dead = p->primary;
    Host *h = p->secondary;

    disk_failover(h->qts, false);
    for (int i = 0; i < writes; i++) {
        write_somewhere(h->qts);
    }
    disk_wait_no_job(h->qts);
    qtest_qmp_assert_success(h->qts, "{'execute': 'nbd-server-stop'}");
    qtest_qmp_assert_success(h->qts, "{'execute': 'blockdev-del', "
                             "'arguments': {'node-name': 'hash'}}");
    qtest_qmp_assert_success(h->qts, "{'execute': 'blockdev-del', "
                             "'arguments': {'node-name': 'sink'}}");
    p->primary = h;
    start_secondary(p, dead);
}

/* The tests */

static void test_primary_dies(void)
{
    Pair *p = pair_new();

    begin(p);
    write_somewhere(p->primary->qts);
    disk_checkpoint(p->primary->qts, p->secondary->qts);
    /* Undone by the failover, and what the guest over there has written */
    disk_write(p->primary->qts, 0xa1, 5 * MiB, 4096);
    disk_write(p->secondary->qts, 0xa2, 9 * MiB, 4096);
    power_off(p->primary);
    take_over(p, 3);
    check_by_log(p, "", 30 * REGION);
    start_session(p);
    wait_count(p->primary, 0);
    pair_free(p);
}

static void test_secondary_dies(void)
{
    Pair *p = pair_new();
    Host *dead = p->secondary;

    begin(p);
    write_somewhere(p->primary->qts);
    power_off(dead);
    disk_failover(p->primary->qts, true);
    write_somewhere(p->primary->qts);
    detach(p);
    /* Without any node of the pair */
    disk_write(p->primary->qts, 0xb1, 3 * MiB, 4096);
    start_secondary(p, dead);
    g_assert_false(are_equal(p));
    check_by_log(p, "", 30 * REGION);
    pair_free(p);
}

/* With hashes only what differs in the regions is sent */
static void test_hashes(void)
{
    Pair *p = pair_new();
    Host *dead = p->secondary;

    begin(p);
    power_off(dead);
    disk_failover(p->primary->qts, true);
    detach(p);
    disk_write(p->primary->qts, 0x13, 3 * MiB, MiB);    /* as it was */
    disk_write(p->primary->qts, 0xb1, 7 * MiB, 4096);
    start_secondary(p, dead);
    attach(p);
    disk_add_client(p->primary->qts, "hashes", p->socket, "h",
                    ", 'read-only': true");
    {
        Resync r;
        int64_t before = disk_log_number(p->primary->qts, "sent-bytes");

        resync(p, ", 'hashes': 'hashes'", &r);
        if (r.mode) {
            g_assert_cmpstr(r.mode, ==, "hash");
            g_assert_true(r.by_log);
        }
        resync_clear(&r);
        g_assert_cmpint(disk_log_number(p->primary->qts, "sent-bytes") - before,
                        ==, REGION);
    }
    g_assert_true(are_equal(p));
    pair_free(p);
}

/*
 * What has not arrived on the other disk stays in the log, however often it is
 * looked at, and what is written meanwhile; then it goes.
 */
static void test_not_too_early(void)
{
    Pair *p = pair_new();
    int64_t begun;

    begin(p);
    disk_io_at(p->secondary->qts, "dbg", "break write_aio A");
    disk_write(p->primary->qts, 0xc1, 2 * MiB, 4096);
    disk_io_at(p->secondary->qts, "dbg", "wait_break A");
    g_assert_true(log_has(p->primary, 2 * MiB));
    begun = g_get_monotonic_time();
    /* Ten rounds of clearing */
    while (g_get_monotonic_time() - begun < 1000000) {
        disk_write(p->primary->qts, 0xc2, 4 * MiB, 4096);
        g_assert_true(log_has(p->primary, 2 * MiB));
        g_usleep(20000);
    }
    disk_io_at(p->secondary->qts, "dbg", "resume A");
    wait_count(p->primary, 0);
    pair_free(p);
}

/*
 * A region is a candidate; then the guest writes there again, which is in the log
 * to the other side behind the mark, and does not arrive.
 */
static void test_written_again(void)
{
    Pair *p = pair_new();
    int64_t begun;

    begin(p);
    disk_write(p->primary->qts, 0xc1, 2 * MiB, 4096);
    while (disk_log_number(p->primary->qts, "bytes")) {
        g_usleep(1000); /* until the alarm */
    }
    disk_io_at(p->secondary->qts, "dbg", "break write_aio A");
    disk_write(p->primary->qts, 0xc2, 4 * MiB, 4096);
    disk_io_at(p->secondary->qts, "dbg", "wait_break A");
    /* Several rounds, the last of which waits for its mark */
    g_usleep(500000);
    disk_io_at(p->secondary->qts, "dbg", "break write_aio B");
    disk_write(p->primary->qts, 0xc3, 2 * MiB, 4096);
    disk_io_at(p->secondary->qts, "dbg", "resume A");
    disk_io_at(p->secondary->qts, "dbg", "wait_break B");
    begun = g_get_monotonic_time();
    while (g_get_monotonic_time() - begun < 1000000) {
        g_assert_true(log_has(p->primary, 2 * MiB));
        g_usleep(20000);
    }
    disk_io_at(p->secondary->qts, "dbg", "resume B");
    wait_count(p->primary, 0);
    pair_free(p);
}

/* A region that is written to all the time stays as well, and costs nothing */
static void test_busy_region(void)
{
    Pair *p = pair_new();
    int64_t begun;
    Log before, after;

    begin(p);
    disk_write(p->primary->qts, 0xc1, 2 * MiB, 4096);
    g_assert_true(log_load(p->primary, &before));
    begun = g_get_monotonic_time();
    while (g_get_monotonic_time() - begun < 1000000) {
        disk_write(p->primary->qts, 0xc2, 2 * MiB, 4096);
        g_assert_true(log_has(p->primary, 2 * MiB));
    }
    g_assert_true(log_load(p->primary, &after));
    g_assert_cmpint(before.head.instance, ==, after.head.instance);
    g_free(before.words);
    g_free(after.words);
    wait_count(p->primary, 0);
    pair_free(p);
}

/* A discard is a hint, so nobody knows what is there afterwards */
static void test_discard(void)
{
    Pair *p = pair_new();
    Host *dead = p->secondary;

    begin(p);
    disk_io(p->primary->qts, "discard 3M 64k");
    disk_write(p->primary->qts, 0xc1, 8 * MiB, 4096);
    wait_count(p->primary, 1);
    g_assert_true(log_has(p->primary, 3 * MiB));
    power_off(dead);
    disk_failover(p->primary->qts, true);
    detach(p);
    start_secondary(p, dead);
    check_by_log(p, "", 20 * REGION);
    start_session(p);
    wait_count(p->primary, 0);
    pair_free(p);
}

/* Cut short, and begun again: by the logs, as nothing else was touched */
static void test_cut_short(void)
{
    Pair *p = pair_new();
    Host *dead = p->secondary;
    Resync r;

    begin(p);
    power_off(dead);
    disk_failover(p->primary->qts, true);
    detach(p);
    for (int i = 0; i < 16; i++) {
        disk_write(p->primary->qts, 0xd1, i * MiB, 4096);
    }
    start_secondary(p, dead);
    attach(p);
    begin_resync(p, "");
    query_resync(p, &r);
    g_assert_true(r.by_log);
    resync_clear(&r);
    power_off(dead);
    end_resync(p, true);
    detach(p);
    start_secondary(p, dead);
    g_assert_false(are_equal(p));
    check_by_log(p, "", 16 * 17 * REGION);
    pair_free(p);
}

/* Both sides die in turns, at any moment, for a while */
static void test_random(void)
{
    Pair *p = pair_new();

    begin(p);
    for (int round = 0; round < ROUNDS; round++) {
        Host *dead = g_test_rand_bit() ? p->primary : p->secondary;
        int writes = g_test_rand_int_range(0, 20);

        for (int i = 0; i < writes; i++) {
            write_somewhere(p->primary->qts);
            if (g_test_rand_int_range(0, 4) == 0) {
                write_somewhere(p->secondary->qts);
            }
            if (g_test_rand_int_range(0, 4) == 0) {
                disk_checkpoint(p->primary->qts, p->secondary->qts);
            }
        }
        g_usleep(g_test_rand_int_range(0, 300000));
        if (dead == p->primary) {
            power_off(dead);
            take_over(p, g_test_rand_int_range(0, 5));
        } else {
            power_off(dead);
            disk_failover(p->primary->qts, true);
            write_somewhere(p->primary->qts);
            detach(p);
            start_secondary(p, dead);
        }
        check_by_log(p, "", DISK);
        start_session(p);
    }
    pair_free(p);
}

/* Logs that are not to be trusted */

static void write_byte(const char *path, int64_t at)
{
    int fd = open(path, O_RDWR);
    uint8_t byte;

    g_assert_cmpint(pread(fd, &byte, 1, at), ==, 1);
    byte ^= 1;
    g_assert_cmpint(pwrite(fd, &byte, 1, at), ==, 1);
    close(fd);
}

static void break_missing(Host *h)
{
    g_assert_cmpint(unlink(h->log), ==, 0);
}

static void break_short(Host *h)
{
    g_assert_cmpint(truncate(h->log, 8192 + 100), ==, 0);
}

static void break_sector(Host *h)
{
    write_byte(h->log, 8192 + 17);
}

static void break_heads(Host *h)
{
    write_byte(h->log, 20);
    write_byte(h->log, 4096 + 20);
}

/* A copy in the place of the image */
static void break_image(Host *h)
{
    g_autofree char *copy = g_strconcat(h->image, "-copy", NULL);
    g_autofree char *data = NULL;
    gsize length;

    g_assert_true(g_file_get_contents(h->image, &data, &length, NULL));
    g_assert_true(g_file_set_contents(copy, data, length, NULL));
    g_assert_cmpint(rename(copy, h->image), ==, 0);
}

static void break_generation(Host *h)
{
    g_assert_true(g_file_set_contents(h->generation,
        "colo-disk-generation 7 secondary\n", -1, NULL));
}

/* That of an earlier time: @h has one that was whole */
static void break_point(Host *h)
{
    int fd = open(h->log, O_RDWR);
    Log log;

    g_assert_true(log_load(h, &log));
    log.head.common = 1234;
    log.head.common_next = 0;
    g_assert_cmpint(replication_intent_make(fd, &log.head, log.words), ==, 0);
    close(fd);
    g_free(log.words);
}

typedef struct Broken {
    const char *name;
    void (*fn)(Host *h);
    const char *why;
} Broken;

static const Broken broken[] = {
    { "missing", break_missing, "the other side has no intent log" },
    { "short", break_short, "the other side has no intent log" },
    { "sector", break_sector, "the other side has no intent log" },
    { "heads", break_heads, "the other side has no intent log" },
    { "image", break_image, "the other side has no intent log" },
    { "point", break_point, "do not begin at the same point" },
};

/* @b: what happens to that of the secondary, which is dead */
static void test_broken(gconstpointer opaque)
{
    const Broken *b = opaque;
    Pair *p = pair_new();
    Host *dead = p->secondary;
    Resync r;

    begin(p);
    disk_write(p->primary->qts, 0xe1, 2 * MiB, 4096);
    power_off(dead);
    disk_failover(p->primary->qts, true);
    detach(p);
    b->fn(dead);
    start_secondary(p, dead);
    attach(p);
    resync(p, "", &r);
    g_assert_false(r.by_log);
    g_assert_cmpstr(r.mode, ==, "full");
    g_assert_nonnull(strstr(r.why, b->why));
    g_assert_cmpint(r.len, ==, DISK);
    resync_clear(&r);
    g_assert_true(are_equal(p));
    /* From here on there are two that can be used */
    start_session(p);
    wait_count(p->primary, 0);
    pair_free(p);
}

static const Broken broken_own[] = {
    { "missing", break_missing, "it is new" },
    { "short", break_short, "it has been cut short" },
    { "sector", break_sector, "its sector 0 is damaged" },
    { "image", break_image, "it is of another image" },
    { "generation", break_generation, "of another generation" },
    { "point", break_point, "do not begin at the same point" },
};

/* Both have died; @b happens to the one of the primary */
static void test_broken_own(gconstpointer opaque)
{
    const Broken *b = opaque;
    Pair *p = pair_new();
    Host *dead = p->secondary;
    Resync r;

    begin(p);
    disk_write(p->primary->qts, 0xe1, 2 * MiB, 4096);
    power_off(p->primary);
    power_off(dead);
    b->fn(p->primary);
    start_primary(p, p->primary);
    start_secondary(p, dead);
    attach(p);
    resync(p, "", &r);
    g_assert_false(r.by_log);
    g_assert_nonnull(strstr(r.why, b->why));
    g_assert_cmpint(r.len, ==, DISK);
    resync_clear(&r);
    g_assert_true(are_equal(p));
    pair_free(p);
}

/* Both have died, and nothing is wrong */
static void test_both_die(void)
{
    Pair *p = pair_new();
    Host *dead = p->secondary;

    begin(p);
    write_somewhere(p->primary->qts);
    /* This does not arrive, so nothing but the log here has it */
    disk_io_at(p->secondary->qts, "dbg", "break write_aio A");
    disk_write(p->primary->qts, 0xf1, 11 * MiB, 4096);
    disk_io_at(p->secondary->qts, "dbg", "wait_break A");
    power_off(p->primary);
    power_off(dead);
    start_primary(p, p->primary);
    write_somewhere(p->primary->qts);
    start_secondary(p, dead);
    check_by_log(p, "", 20 * 3 * REGION);
    pair_free(p);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    qtest_add_func("/colo/intent/dies/primary", test_primary_dies);
    qtest_add_func("/colo/intent/dies/secondary", test_secondary_dies);
    qtest_add_func("/colo/intent/dies/both", test_both_die);
    qtest_add_func("/colo/intent/dies/random", test_random);
    qtest_add_func("/colo/intent/hashes", test_hashes);
    qtest_add_func("/colo/intent/not-too-early", test_not_too_early);
    qtest_add_func("/colo/intent/written-again", test_written_again);
    qtest_add_func("/colo/intent/busy-region", test_busy_region);
    qtest_add_func("/colo/intent/discard", test_discard);
    qtest_add_func("/colo/intent/cut-short", test_cut_short);
    for (int i = 0; i < ARRAY_SIZE(broken); i++) {
        g_autofree char *name = g_strdup_printf("/colo/intent/broken/theirs/%s",
                                                broken[i].name);

        qtest_add_data_func(name, &broken[i], test_broken);
    }
    for (int i = 0; i < ARRAY_SIZE(broken_own); i++) {
        g_autofree char *name = g_strdup_printf("/colo/intent/broken/ours/%s",
                                                broken_own[i].name);

        qtest_add_data_func(name, &broken_own[i], test_broken_own);
    }
    return g_test_run();
}
