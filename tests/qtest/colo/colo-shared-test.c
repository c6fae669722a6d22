/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: two QEMUs and one image, with NBD between them.
 *
 * No guest runs, the monitor writes in its place; xen-set-replication starts
 * and stops.  Proves: the image is what the primary has written, and the
 * secondary's guest sees it as of the last checkpoint, with its own writes,
 * whatever is overwritten while it reads; the primary's guest reads what it
 * wrote, wherever that is; once nothing can be preserved for the secondary
 * nothing is overwritten until the primary is told to go on, which keeps
 * nobody from draining or quitting; the secondary cannot take over while the
 * primary's process lives, and the disk is as its guest saw it afterwards;
 * mistakes have clear errors.
 *
 * Below the hidden overlay is a node of blkdebug, by which requests are
 * stopped.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <sys/resource.h>
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "libqos/libqos.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-nbd.h"

/* What is put at a time */
#define UNIT (64 * KiB)

/* A QEMU, and what it has for itself */
typedef struct Side {
    QTestState *qts;            /* NULL when it is gone */
    char *active;
    char *hidden;
    char *server;               /* its NBD server */
} Side;

typedef struct Shared {
    char *dir;
    char *image;
    Side primary;
    Side secondary;
    Side third;                 /* later */
} Shared;

#define SHARED "shared-disk=on,cache-coherent=on"
#define RAW_FILE "driver=raw,file.driver=file,file.filename"
#define RAW_FILE_RO "driver=raw,read-only=on,file.driver=file,file.filename"
#define QUORUM "driver=quorum,read-pattern=fifo,vote-threshold=1"

/*
 * @image: options of the image, the last one is that for the name of @file
 * @shared: options of replication
 */
static void start_primary_as(Shared *s, const char *image, const char *file,
                             const char *shared)
{
    s->primary.qts = qtest_initf(
        ">/dev/null -M none -nodefaults "
        "-blockdev node-name=image,%s=%s "
        "-blockdev driver=replication,%s,node-name=repl,mode=primary,"
        "log-size=4194304,file=image "
        "-drive if=none,id=top,node-name=topnode," QUORUM ",discard=unmap,"
        "children.0=repl", image, file, shared);
    disk_export_top(s->primary.qts, s->primary.server);
}

static void start_primary(Shared *s)
{
    start_primary_as(s, RAW_FILE, s->image, SHARED);
}

/*
 * What a primary needs later on is there, too: the node "front".  @store: the
 * driver above the hidden overlay.
 */
static void start_secondary_as(Shared *s, Side *side, const char *image,
                               const char *shared, const char *store)
{
    side->qts = qtest_initf(
        ">/dev/null -M none -nodefaults "
        "-blockdev node-name=disk,%s=%s "
        "-blockdev driver=%s,node-name=store,"
        "file.driver=qcow2,file.node-name=hidden,file.backing=disk,"
        "file.file.driver=blkdebug,file.file.image.driver=file,"
        "file.file.image.filename=%s "
        "-blockdev driver=qcow2,node-name=active,file.driver=file,"
        "file.filename=%s,backing=hidden "
        "-blockdev driver=replication,%s,node-name=repl,mode=secondary,"
        "top-id=top,file=active "
        "-blockdev driver=replication," SHARED ",node-name=front,"
        "mode=primary,file=repl "
        "-drive if=none,id=top,node-name=topnode," QUORUM ",children.0=front",
        image, s->image, store, side->hidden, side->active, shared);
    disk_export_top(side->qts, side->server);
    disk_export(side->qts, "store", "s", true);
}

static void start_secondary(Shared *s, Side *side)
{
    start_secondary_as(s, side, RAW_FILE_RO, SHARED, "replication-store");
}

static void side_init(Shared *s, Side *side, const char *name)
{
    g_autofree char *active = g_strconcat("active-", name, NULL);
    g_autofree char *hidden = g_strconcat("hidden-", name, NULL);

    side->active = disk_new_file(s->dir, active, true);
    side->hidden = disk_new_file(s->dir, hidden, true);
    side->server = g_build_filename(s->dir, name, NULL);
}

static void side_end(Side *side)
{
    if (side->qts) {
        colo_quit(&side->qts);
    }
    disk_free_file(side->active);
    disk_free_file(side->hidden);
    disk_free_file(side->server);
}

static Shared *shared_new(void)
{
    Shared *s = g_new0(Shared, 1);

    disk_deadline_begin();
    s->dir = g_dir_make_tmp("colo-shared-XXXXXX", NULL);
    g_assert_nonnull(s->dir);
    s->image = disk_new_file(s->dir, "image", false);
    side_init(s, &s->primary, "primary");
    side_init(s, &s->secondary, "secondary");
    side_init(s, &s->third, "third");
    start_primary(s);
    start_secondary(s, &s->secondary);
    return s;
}

static void shared_free(Shared *s)
{
    side_end(&s->primary);
    side_end(&s->secondary);
    side_end(&s->third);
    disk_free_file(s->image);
    rmdir(s->dir);
    g_free(s->dir);
    g_free(s);
    disk_deadline_end();
}

/* Commands */

static void add_peer(Side *primary, const char *parent, Side *secondary)
{
    disk_add_client(primary->qts, "peer", secondary->server, "s", "");
    disk_add_child(primary->qts, parent, "peer");
}

static void del_peer(Side *primary, const char *parent)
{
    disk_del_child(primary->qts, parent, "hidden");
    qtest_qmp_assert_success(primary->qts,
        "{'execute': 'blockdev-del', 'arguments': {'node-name': 'peer'}}");
}

static void start_session(Side *primary, const char *parent, Side *secondary)
{
    add_peer(primary, parent, secondary);
    disk_replicate(secondary->qts, true, false);
    disk_replicate(primary->qts, true, true);
}

static Shared *shared_new_started(void)
{
    Shared *s = shared_new();

    start_session(&s->primary, "repl", &s->secondary);
    return s;
}

static void checkpoint(Side *primary, Side *secondary)
{
    qtest_qmp_assert_success(primary->qts,
                             "{'execute': 'xen-colo-do-checkpoint'}");
    qtest_qmp_assert_success(secondary->qts,
                             "{'execute': 'xen-colo-do-checkpoint'}");
}

/* "repl" gets no child, nor loses one: @what, child or node, is @name */
static void change_refused(Side *primary, const char *text, const char *what,
                           const char *name)
{
    g_autofree char *json = g_strdup_printf(
        "{'execute': 'x-blockdev-change', 'arguments': {'parent': 'repl', "
        "'%s': %%s}}", what);

    colo_refused(primary->qts, text, json, name);
}

static void failover_refused(Side *secondary)
{
    colo_refused(secondary->qts, "\"write\" lock",
                 "{'execute': 'xen-set-replication', 'arguments': {"
                 "'enable': false, 'primary': false, 'failover': true}}");
}

static void side_read(Side *side, int byte, int64_t offset, int64_t bytes)
{
    disk_read(side->server, byte, offset, bytes);
}

static int64_t preserved(Side *primary)
{
    QDict *disk = disk_query(primary->qts);
    int64_t bytes = qdict_get_int(disk, "preserved-bytes");

    qobject_unref(disk);
    return bytes;
}

static void wait_error(Side *side)
{
    while (!disk_has_error(side->qts)) {
        g_usleep(2000); /* until the alarm */
    }
}

/* Another disk of that QEMU: who stops requests needs one with an ID */
static void add_drive(Side *side, const char *id, const char *options)
{
    g_autofree char *answer = qtest_hmp(side->qts,
                                        "drive_add 0 if=none,id=%s,%s", id,
                                        options);

    g_assert_true(g_str_has_prefix(answer, "OK"));
}

/* Have the disk "inside", to stop what comes to the hidden overlay */
static void add_inside(Side *secondary)
{
    add_drive(secondary, "inside", "read-only=on,driver=raw,file.driver=raw,"
              "file.file=store");
}

/* The tests */

static void test_checkpoint(void)
{
    Shared *s = shared_new_started();

    disk_write(s->primary.qts, 0x11, 0, 256 * KiB);
    side_read(&s->primary, 0x11, 0, 256 * KiB);
    disk_wait_file(s->image, 0x11, 0, 256 * KiB);
    side_read(&s->primary, 0x11, 0, 256 * KiB);
    side_read(&s->secondary, 0, 0, 256 * KiB);
    g_assert_cmpint(preserved(&s->primary), ==, 256 * KiB);
    disk_write(s->secondary.qts, 0x22, 64 * KiB, 64 * KiB);
    disk_write(s->secondary.qts, 0x22, MiB, 64 * KiB);
    side_read(&s->secondary, 0x22, MiB, 64 * KiB);
    g_assert_true(disk_file_has(s->image, 0, MiB, 64 * KiB));
    checkpoint(&s->primary, &s->secondary);
    side_read(&s->secondary, 0x11, 0, 256 * KiB);
    side_read(&s->secondary, 0, MiB, 64 * KiB);

    /* All over again: the same is preserved a second time, but just once */
    disk_write(s->primary.qts, 0x33, 0, 4 * KiB);
    disk_write(s->primary.qts, 0x34, 4 * KiB, 4 * KiB);
    disk_write(s->primary.qts, 0x35, 0, 4 * KiB);
    disk_wait_file(s->image, 0x35, 0, 4 * KiB);
    disk_wait_file(s->image, 0x34, 4 * KiB, 4 * KiB);
    side_read(&s->secondary, 0x11, 0, 256 * KiB);
    g_assert_cmpint(preserved(&s->primary), ==, 256 * KiB + UNIT);
    checkpoint(&s->primary, &s->secondary);
    side_read(&s->secondary, 0x35, 0, 4 * KiB);
    side_read(&s->secondary, 0x11, 8 * KiB, 248 * KiB);
    g_assert_false(disk_has_error(s->primary.qts));
    g_assert_false(disk_has_error(s->secondary.qts));
    shared_free(s);
}

/* Without a session the node is not noticed */
static void test_before_start(void)
{
    Shared *s = shared_new();

    disk_write(s->primary.qts, 0x44, 0, 64 * KiB);
    g_assert_true(disk_file_has(s->image, 0x44, 0, 64 * KiB));
    disk_io(s->primary.qts, "write -z 32k 32k");
    g_assert_true(disk_file_has(s->image, 0, 32 * KiB, 32 * KiB));
    g_assert_cmpint(preserved(&s->primary), ==, 0);
    start_session(&s->primary, "repl", &s->secondary);
    side_read(&s->secondary, 0x44, 0, 32 * KiB);
    shared_free(s);
}

static void test_kinds(void)
{
    Shared *s = shared_new();

    disk_write(s->primary.qts, 0x55, 0, 4 * MiB);
    start_session(&s->primary, "repl", &s->secondary);
    disk_io(s->primary.qts, "write -z 100k 1M");
    disk_io(s->primary.qts, "discard 2M 1M");
    disk_io(s->primary.qts, "write -P 0x66 -f 3500k 512");
    disk_io(s->primary.qts, "write 0 0");
    disk_io(s->primary.qts, "flush");
    disk_wait_file(s->image, 0x66, 3500 * KiB, 512);
    disk_wait_file(s->image, 0, 100 * KiB, MiB);
    side_read(&s->primary, 0, 100 * KiB, MiB);
    side_read(&s->primary, 0x55, 0, 100 * KiB);
    side_read(&s->primary, 0x66, 3500 * KiB, 512);
    side_read(&s->secondary, 0x55, 0, 4 * MiB);
    checkpoint(&s->primary, &s->secondary);
    side_read(&s->secondary, 0, 100 * KiB, MiB);
    side_read(&s->secondary, 0x66, 3500 * KiB, 512);
    g_assert_false(disk_has_error(s->primary.qts));
    shared_free(s);
}

/* The secondary's guest reads what was, also while it is overwritten */
static void test_reads(void)
{
    Shared *s = shared_new_started();

    for (int round = 1; round <= 4; round++) {
        disk_write(s->primary.qts, round, 0, 4 * MiB);
        checkpoint(&s->primary, &s->secondary);
        for (int i = 0; i < 64; i++) {
            int64_t offset = g_test_rand_int_range(0, 7000) * 512;

            disk_io(s->primary.qts, "aio_write -P %d %" PRId64 " 256k",
                    100 + i, offset);
            side_read(&s->secondary, round, offset, 256 * KiB);
            side_read(&s->secondary, round, 0, 4 * MiB);
        }
    }
    shared_free(s);
}

/* What the guest behind @server sees has to be @want */
static void check_view(const char *server, const uint8_t *want)
{
    g_autofree uint8_t *buf = g_malloc(DISK);
    int fd = colo_nbd_client(server, 't');

    g_assert_cmpint(colo_nbd_pread(fd, buf, 0, DISK), ==, 0);
    close(fd);
    g_assert_cmpmem(buf, DISK, want, DISK);
}

/* Both guests see what they have to, whatever is still on its way */
static void test_random(void)
{
    Shared *s = shared_new_started();
    g_autofree uint8_t *now = g_malloc0(DISK);
    g_autofree uint8_t *then = g_malloc0(DISK);

    for (int i = 0; i < 240; i++) {
        int64_t offset = g_test_rand_int_range(0, DISK / 512 - 2048) * 512LL;
        int64_t bytes = g_test_rand_int_range(1, 2048) * 512LL;
        int byte = g_test_rand_int_range(1, 256);

        if (i % 7) {
            disk_io(s->primary.qts, "write -P %d %" PRId64 " %" PRId64, byte,
                    offset, bytes);
            memset(now + offset, byte, bytes);
        } else {
            disk_io(s->primary.qts, "write -z %" PRId64 " %" PRId64, offset,
                    bytes);
            memset(now + offset, 0, bytes);
        }
        if (i % 20 == 10) {
            check_view(s->primary.server, now);
            check_view(s->secondary.server, then);
        }
        if (i % 40 == 39) {
            disk_write(s->secondary.qts, byte, offset, bytes);
            checkpoint(&s->primary, &s->secondary);
            memcpy(then, now, DISK);
            check_view(s->secondary.server, then);
        }
    }
    shared_free(s);
}

/* What was put first stays, until a checkpoint */
static void test_store(void)
{
    Shared *s = shared_new();
    g_autofree uint8_t *data = g_malloc(2 * UNIT);
    int fd;

    disk_replicate(s->secondary.qts, true, false);
    fd = colo_nbd_client(s->secondary.server, 's');
    for (int i = 1; i <= 2; i++) {
        memset(data, i, 2 * UNIT);
        g_assert_cmpint(colo_nbd_pwrite(fd, data, (2 - i) * UNIT, i * UNIT),
                        ==, 0);
    }
    side_read(&s->secondary, 2, 0, UNIT);
    side_read(&s->secondary, 1, UNIT, UNIT);
    qtest_qmp_assert_success(s->secondary.qts,
                             "{'execute': 'xen-colo-do-checkpoint'}");
    side_read(&s->secondary, 0, 0, 2 * UNIT);
    close(fd);
    shared_free(s);
}

/*
 * A read of the secondary's guest and a put that meet in the hidden overlay.
 *
 * The first one is stopped in there.  The other one is stopped before it, and
 * let go by a command that runs it: when that is done it waits for the first
 * one, or it is stopped in there, too.  Both stops have the same name, and who
 * was stopped last is let go: the first request, if the other one waits.
 *
 * To see that this would be noticed: of a read and a put that are apart
 * neither waits.
 */

enum { META, PUT_AT, APART };   /* units */

typedef struct Racer {
    char export;                /* where it comes from */
    const char *node;           /* what that is of */
    const char *gate;           /* the ID of that */
    const char *options;        /* of that */
    const char *event;          /* what it does there... */
    const char *inside;         /* ...and in the overlay */
} Racer;

#define GATE "driver=raw,file.driver=blkdebug,node-name="

static const Racer getter = {
    'g', "gate-get", "get", GATE "gate-get,file.image=topnode,read-only=on",
    "read_aio", "read_backing_aio",
};
static const Racer putter = {
    'p', "gate-put", "put", GATE "gate-put,file.image=store",
    "write_aio", "write_aio",
};

typedef struct Race {
    Shared *s;
    QTestState *qts;
    int get;
    int put;
    uint8_t data[UNIT];
} Race;

static int race_client(Race *r, const Racer *racer)
{
    char name[] = { racer->export, 0 };

    add_drive(&r->s->secondary, racer->gate, racer->options);
    disk_export(r->qts, racer->node, name, racer == &putter);
    return colo_nbd_client(r->s->secondary.server, racer->export);
}

static Race *race_new(void)
{
    Race *r = g_new0(Race, 1);

    r->s = shared_new();
    r->qts = r->s->secondary.qts;
    disk_write(r->s->primary.qts, 0x11, 0, MiB);
    disk_replicate(r->qts, true, false);
    add_inside(&r->s->secondary);
    r->get = race_client(r, &getter);
    r->put = race_client(r, &putter);
    /* The overlay's metadata is in memory then, so nobody has to read it */
    memset(r->data, 0x22, UNIT);
    g_assert_cmpint(colo_nbd_pwrite(r->put, r->data, META * UNIT, UNIT), ==,
                    0);
    return r;
}

static void race_free(Race *r)
{
    close(r->get);
    close(r->put);
    shared_free(r->s);
    g_free(r);
}

static void race_request(Race *r, const Racer *racer, int unit)
{
    if (racer == &putter) {
        colo_nbd_request(r->put, 1, unit * UNIT, UNIT);
        colo_nbd_write(r->put, r->data, UNIT);
    } else {
        colo_nbd_request(r->get, 0, unit * UNIT, UNIT);
    }
}

/* Of both requests one is under way from here on */
static void race_begin(Race *r, const Racer *first, const Racer *other,
                       int get_unit)
{
    int first_unit = first == &putter ? PUT_AT : get_unit;
    int other_unit = other == &putter ? PUT_AT : get_unit;

    disk_io_at(r->qts, "inside", "break %s X", first->inside);
    race_request(r, first, first_unit);
    disk_io_at(r->qts, "inside", "wait_break X");

    disk_io_at(r->qts, other->gate, "break %s G", other->event);
    race_request(r, other, other_unit);
    disk_io_at(r->qts, other->gate, "wait_break G");
    disk_io_at(r->qts, "inside", "break %s X", other->inside);
    disk_io_at(r->qts, other->gate, "resume G");

    disk_io_at(r->qts, "inside", "resume X");
}

static bool race_put_is_answered(Race *r)
{
    struct pollfd fds[] = { { .fd = r->get, .events = POLLIN },
                            { .fd = r->put, .events = POLLIN } };

    g_assert_cmpint(poll(fds, 2, COLO_DEADLINE_MS), ==, 1);
    return fds[1].revents;
}

/* All may go on: only then is looked at what the read has brought */
static void race_end(Race *r, int byte)
{
    uint8_t buf[UNIT], want[UNIT];

    g_assert_cmpint(colo_nbd_answer(r->get), ==, 0);
    colo_nbd_read(r->get, buf, UNIT);
    disk_io_at(r->qts, "inside", "remove_break X");
    g_assert_cmpint(colo_nbd_answer(r->put), ==, 0);
    memset(want, byte, UNIT);
    g_assert_cmpmem(buf, UNIT, want, UNIT);
    race_free(r);
}

/* The read has found nothing in the overlay: a put waits until it is done */
static void test_put_waits(gconstpointer opaque)
{
    int get_unit = GPOINTER_TO_INT(opaque);
    Race *r = race_new();
    bool put_is_first;

    race_begin(r, &getter, &putter, get_unit);
    put_is_first = race_put_is_answered(r);
    disk_io_at(r->qts, "inside", "remove_break X");
    race_end(r, 0x11);
    g_assert_cmpint(put_is_first, ==, get_unit == APART);
}

/* A read that begins during a put waits, and finds what was put */
static void test_get_waits(gconstpointer opaque)
{
    int get_unit = GPOINTER_TO_INT(opaque);
    Race *r = race_new();

    race_begin(r, &putter, &getter, get_unit);
    race_end(r, get_unit == APART ? 0x11 : 0x22);
}

static void test_failover_secondary(void)
{
    Shared *s = shared_new_started();

    disk_write(s->primary.qts, 0x11, 0, MiB);
    checkpoint(&s->primary, &s->secondary);
    disk_write(s->primary.qts, 0x77, 0, 64 * KiB);      /* never committed */
    disk_write(s->secondary.qts, 0x22, 512 * KiB, 64 * KiB);
    disk_wait_file(s->image, 0x77, 0, 64 * KiB);

    /* Not while the primary is there, but this shuts it out */
    failover_refused(&s->secondary);
    disk_check_stage(s->secondary.qts, "running");
    side_read(&s->secondary, 0x11, 0, 512 * KiB);
    disk_write(s->primary.qts, 0x78, 2 * MiB, 64 * KiB);
    wait_error(&s->primary);
    g_assert_true(disk_file_has(s->image, 0, 2 * MiB, 64 * KiB));
    failover_refused(&s->secondary);
    colo_kill(&s->primary.qts);

    disk_failover(s->secondary.qts, false);
    side_read(&s->secondary, 0x11, 0, 512 * KiB);
    disk_write(s->secondary.qts, 0x23, 3 * MiB, 64 * KiB);
    disk_wait_no_job(s->secondary.qts);
    disk_check_stage(s->secondary.qts, "folded");
    g_assert_true(disk_file_has(s->image, 0x11, 0, 512 * KiB));
    g_assert_true(disk_file_has(s->image, 0x22, 512 * KiB, 64 * KiB));
    g_assert_true(disk_file_has(s->image, 0, 2 * MiB, MiB));
    g_assert_true(disk_file_has(s->image, 0x23, 3 * MiB, 64 * KiB));
    disk_write(s->secondary.qts, 0x24, 3 * MiB, 64 * KiB);
    g_assert_true(disk_file_has(s->image, 0x24, 3 * MiB, 64 * KiB));
    g_assert_false(disk_has_error(s->secondary.qts));
    shared_free(s);
}

/* The survivor becomes the primary of a new secondary, and that survives */
static void test_again(void)
{
    Shared *s = shared_new_started();

    disk_write(s->primary.qts, 0x11, 0, MiB);
    checkpoint(&s->primary, &s->secondary);
    colo_kill(&s->primary.qts);
    disk_failover(s->secondary.qts, false);
    disk_wait_no_job(s->secondary.qts);

    start_secondary(s, &s->third);
    start_session(&s->secondary, "front", &s->third);
    disk_write(s->secondary.qts, 0x22, MiB, MiB);
    disk_write(s->third.qts, 0x33, 2 * MiB, MiB);
    side_read(&s->third, 0, MiB, MiB);
    checkpoint(&s->secondary, &s->third);
    side_read(&s->third, 0x22, MiB, MiB);
    disk_write(s->third.qts, 0x44, 3 * MiB, MiB);
    disk_write(s->secondary.qts, 0x55, 0, MiB);
    disk_wait_file(s->image, 0x55, 0, MiB);
    failover_refused(&s->third);
    colo_kill(&s->secondary.qts);
    disk_failover(s->third.qts, false);
    disk_wait_no_job(s->third.qts);
    g_assert_true(disk_file_has(s->image, 0x11, 0, MiB));
    g_assert_true(disk_file_has(s->image, 0x22, MiB, MiB));
    g_assert_true(disk_file_has(s->image, 0, 2 * MiB, MiB));
    g_assert_true(disk_file_has(s->image, 0x44, 3 * MiB, MiB));
    shared_free(s);
}

/*
 * The secondary dies: what is written stays in the primary's memory, where its
 * guest finds it, until it is told to go on.  Then a new secondary.
 */
static void test_failover_primary(void)
{
    Shared *s = shared_new_started();
    int64_t begin;

    disk_write(s->primary.qts, 0x11, 0, MiB);
    disk_wait_file(s->image, 0x11, 0, MiB);
    colo_kill(&s->secondary.qts);
    for (int i = 0; i < 32; i++) {
        disk_write(s->primary.qts, 0x20 + i, MiB + i * UNIT, UNIT);
    }
    wait_error(&s->primary);
    begin = g_get_monotonic_time();
    colo_refused(s->primary.qts, "the way to the secondary is gone",
                 "{'execute': 'xen-colo-do-checkpoint'}");
    disk_io(s->primary.qts, "flush");
    qtest_qmp_assert_success(s->primary.qts, "{'execute': 'stop'}");
    disk_check_time(begin);
    for (int i = 0; i < 32; i++) {
        side_read(&s->primary, 0x20 + i, MiB + i * UNIT, UNIT);
    }
    g_assert_true(disk_file_has(s->image, 0, MiB, 2 * MiB));
    change_refused(&s->primary, "in a session", "child", "hidden");

    disk_failover(s->primary.qts, true);
    disk_io(s->primary.qts, "flush");
    for (int i = 0; i < 32; i++) {
        g_assert_true(disk_file_has(s->image, 0x20 + i, MiB + i * UNIT,
                                    UNIT));
    }
    g_assert_false(disk_has_error(s->primary.qts));
    disk_check_stage(s->primary.qts, "idle");
    disk_write(s->primary.qts, 0x12, 0, MiB);
    g_assert_true(disk_file_has(s->image, 0x12, 0, MiB));
    disk_start_refused(s->primary.qts, true, "in a session already");
    del_peer(&s->primary, "repl");
    disk_start_refused(s->primary.qts, true, "no way to the secondary's store");

    start_secondary(s, &s->third);
    start_session(&s->primary, "repl", &s->third);
    disk_write(s->primary.qts, 0x13, 0, MiB);
    disk_wait_file(s->image, 0x13, 0, MiB);
    side_read(&s->third, 0x12, 0, MiB);
    checkpoint(&s->primary, &s->third);
    side_read(&s->third, 0x13, 0, MiB);
    shared_free(s);
}

/* The secondary stands still and the log is full; then all is drained */
static void test_secondary_stands(void)
{
    Shared *s = shared_new_started();
    int64_t begin;
    pid_t pid;

    disk_write(s->primary.qts, 1, 0, MiB);
    disk_wait_file(s->image, 1, 0, MiB);
    pid = qtest_pid(s->secondary.qts);
    g_assert_cmpint(kill(pid, SIGSTOP), ==, 0);
    begin = g_get_monotonic_time();
    for (int i = 0; i < 10; i++) {
        disk_io(s->primary.qts, "aio_write -P %d %dM 1M", i + 2, i + 1);
    }
    disk_io(s->primary.qts, "aio_flush");
    disk_check_time(begin);
    /* The main loop itself writes, and waits for that */
    disk_write(s->primary.qts, 0x66, 12 * MiB, MiB);
    disk_write(s->primary.qts, 0x67, 13 * MiB, MiB);
    disk_check_time(begin);
    side_read(&s->primary, 0x66, 12 * MiB, MiB);
    g_assert_cmpint(disk_log_number(s->primary.qts, "bytes"), >, 4 * MiB);
    qtest_qmp_assert_success(s->primary.qts, "{'execute': 'stop'}");
    disk_check_time(begin);
    for (int i = 0; i < 10; i++) {
        side_read(&s->primary, i + 2, (i + 1) * MiB, MiB);
    }
    g_assert_true(disk_file_has(s->image, 0, MiB, 15 * MiB));

    disk_failover(s->primary.qts, true);
    disk_io(s->primary.qts, "flush");
    for (int i = 0; i < 10; i++) {
        g_assert_true(disk_file_has(s->image, i + 2, (i + 1) * MiB, MiB));
    }
    colo_quit(&s->primary.qts);
    disk_check_time(begin);
    g_assert_cmpint(kill(pid, SIGCONT), ==, 0);
    shared_free(s);
}

/*
 * The primary is ended without a word about who goes on: what it has not
 * preserved it never writes, and the secondary can take over.
 */
static void test_quit(void)
{
    Shared *s = shared_new_started();
    int64_t begin;
    pid_t pid;

    disk_write(s->primary.qts, 0x11, 0, 4 * MiB);
    checkpoint(&s->primary, &s->secondary);
    pid = qtest_pid(s->secondary.qts);
    g_assert_cmpint(kill(pid, SIGSTOP), ==, 0);
    begin = g_get_monotonic_time();
    for (int i = 0; i < 10; i++) {
        disk_io(s->primary.qts, "aio_write -P %d %dM 1M", i + 0x20, i);
    }
    colo_quit(&s->primary.qts);
    disk_check_time(begin);
    g_assert_true(disk_file_has(s->image, 0x11, 0, 4 * MiB));
    g_assert_true(disk_file_has(s->image, 0, 4 * MiB, 6 * MiB));
    g_assert_cmpint(kill(pid, SIGCONT), ==, 0);
    disk_failover(s->secondary.qts, false);
    disk_wait_no_job(s->secondary.qts);
    g_assert_true(disk_file_has(s->image, 0x11, 0, 4 * MiB));
    g_assert_true(disk_file_has(s->image, 0, 4 * MiB, 6 * MiB));
    shared_free(s);
}

/* An orderly stop: all is written, and the secondary's own writes are gone */
static void test_stop(void)
{
    Shared *s = shared_new_started();

    for (int i = 0; i < 16; i++) {
        disk_write(s->primary.qts, 0x11, i * MiB, MiB);
    }
    disk_write(s->secondary.qts, 0x22, 0, 64 * KiB);
    disk_replicate(s->primary.qts, false, true);
    disk_io(s->primary.qts, "flush");
    g_assert_true(disk_file_has(s->image, 0x11, 0, DISK));
    disk_replicate(s->secondary.qts, false, false);
    side_read(&s->secondary, 0x11, 0, DISK);
    disk_check_stage(s->primary.qts, "idle");
    disk_check_stage(s->secondary.qts, "idle");
    shared_free(s);
}

/*
 * What was written before the first checkpoint of another session is of no
 * epoch of the last one, which had more of them.  A checkpoint for which that
 * came too late can be made again.
 */
static void test_next_session(void)
{
    Shared *s = shared_new_started();

    disk_write(s->primary.qts, 0x10, 0, UNIT);
    for (int i = 0; i < 4; i++) {
        checkpoint(&s->primary, &s->secondary);
    }
    disk_replicate(s->primary.qts, false, true);
    disk_replicate(s->secondary.qts, false, false);
    del_peer(&s->primary, "repl");
    start_session(&s->primary, "repl", &s->secondary);

    add_inside(&s->secondary);
    disk_io_at(s->secondary.qts, "inside", "break write_aio A");
    disk_write(s->primary.qts, 0x11, 0, UNIT);
    disk_io_at(s->secondary.qts, "inside", "wait_break A");
    disk_write(s->primary.qts, 0x12, 0, UNIT);
    colo_refused(s->primary.qts, "have not arrived",
                 "{'execute': 'xen-colo-do-checkpoint'}");
    disk_io_at(s->secondary.qts, "inside", "resume A");
    checkpoint(&s->primary, &s->secondary);
    side_read(&s->secondary, 0x12, 0, UNIT);
    g_assert_false(disk_has_error(s->primary.qts));
    shared_free(s);
}

/* The primary cannot write to its files from the byte @limit on */
static void limit_files(Side *primary, rlim_t limit)
{
    struct rlimit r = { limit, RLIM_INFINITY };

    g_assert_cmpint(prlimit(qtest_pid(primary->qts), RLIMIT_FSIZE, &r, NULL),
                    ==, 0);
}

static int nbd_flush(int fd)
{
    colo_nbd_request(fd, 3, 0, 0);
    return colo_nbd_answer(fd);
}

/*
 * The image cannot be written to, and what the log had is lost: the guest
 * learns it whatever it does from then on, also when it goes on alone.
 */
static void test_image_error(void)
{
    g_autofree uint8_t *data = g_malloc(UNIT);
    Shared *s;
    int fd;

    signal(SIGXFSZ, SIG_IGN);   /* QEMU inherits it */
    s = shared_new_started();
    disk_export(s->primary.qts, "topnode", "w", true);
    fd = colo_nbd_client(s->primary.server, 'w');
    memset(data, 0x11, UNIT);
    g_assert_cmpint(colo_nbd_pwrite(fd, data, 0, UNIT), ==, 0);
    g_assert_cmpint(nbd_flush(fd), ==, 0);
    disk_wait_file(s->image, 0x11, 0, UNIT);

    limit_files(&s->primary, 8 * MiB);
    g_assert_cmpint(colo_nbd_pwrite(fd, data, 12 * MiB, UNIT), ==, 0);
    wait_error(&s->primary);
    limit_files(&s->primary, RLIM_INFINITY);
    g_assert_cmpint(colo_nbd_pwrite(fd, data, MiB, UNIT), !=, 0);
    g_assert_cmpint(nbd_flush(fd), !=, 0);

    disk_failover(s->primary.qts, true);
    g_assert_cmpint(colo_nbd_pwrite(fd, data, MiB, UNIT), !=, 0);
    g_assert_cmpint(nbd_flush(fd), !=, 0);
    g_assert_true(disk_file_has(s->image, 0, MiB, UNIT));
    side_read(&s->primary, 0x11, 0, UNIT);
    close(fd);
    shared_free(s);
}

static void add_refused(Side *side, const char *text, const char *options)
{
    g_autofree char *json = g_strdup_printf(
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication', "
        "'node-name': 'r', 'mode': 'primary', %s, "
        "'file': {'driver': 'null-co', 'read-zeroes': true}}}", options);

    colo_refused(side->qts, text, json, NULL);
}

/* Whatever is wrong is said before anything happens */
static void test_refused(void)
{
    Shared *s = shared_new();

    add_refused(&s->primary, "is an option of a shared disk",
                "'cache-coherent': true");
    add_refused(&s->primary, "is no option of a shared disk",
                "'shared-disk': true, 'generation-file': 'generation'");
    colo_refused(s->primary.qts, "there is nothing to resync",
        "{'execute': 'x-colo-resync', 'arguments': {'job-id': 'resync', "
        "'node': 'repl', 'mode': 'full'}}");
    qtest_qmp_assert_success(s->primary.qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'null-co', "
        "'node-name': 'null', 'read-zeroes': true}}");
    change_refused(&s->primary, "is no NBD client", "node", "null");
    change_refused(&s->primary, "only the child 'hidden'", "child", "file");
    disk_start_refused(s->primary.qts, true, "no way to the secondary's store");
    add_peer(&s->primary, "repl", &s->secondary);
    disk_add_client(s->primary.qts, "peer2", s->secondary.server, "s", "");
    change_refused(&s->primary, "has its peer", "node", "peer2");
    del_peer(&s->primary, "repl");
    shared_free(s);
}

/* Images that two hosts cannot share, as the primary opens them */
static void test_refused_primary(void)
{
    static const struct {
        const char *image;
        const char *shared;
        const char *text;
    } cases[] = {
        { RAW_FILE, "shared-disk=on", "needs 'cache.direct=on'" },
        { "driver=raw,file.driver=file,file.locking=off,file.filename",
          SHARED, "without locks" },
        { "driver=raw,size=8388608,file.driver=file,file.filename", SHARED,
          "has not the length" },
        { "driver=raw,file.driver=blkdebug,file.image.driver=file,"
          "file.image.filename", SHARED, "has to be a file" },
        { "driver=qcow2,file.driver=file,file.filename", SHARED,
          "has to be raw" },
    };

    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        Shared *s = shared_new();

        colo_quit(&s->primary.qts);
        start_primary_as(s, cases[i].image,
                         strstr(cases[i].image, "qcow2") ? s->third.active
                                                         : s->image,
                         cases[i].shared);
        add_peer(&s->primary, "repl", &s->secondary);
        disk_start_refused(s->primary.qts, true, cases[i].text);
        shared_free(s);
    }
}

/* The same of the secondary, and that nobody has locked what it shares */
static void test_refused_secondary(void)
{
    static const struct {
        const char *image;
        const char *shared;
        const char *store;
        const char *text;
    } cases[] = {
        { RAW_FILE_RO, "shared-disk=on", "replication-store",
          "needs 'cache.direct=on'" },
        { "driver=raw,read-only=on,file.driver=file,file.locking=off,"
          "file.filename", SHARED, "replication-store", "without locks" },
        { RAW_FILE, SHARED, "replication-store", "has to be read-only here" },
        { RAW_FILE_RO, SHARED, "copy-on-read", "no 'replication-store'" },
    };
    Shared *s = shared_new();

    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        start_secondary_as(s, &s->third, cases[i].image, cases[i].shared,
                           cases[i].store);
        disk_start_refused(s->third.qts, false, cases[i].text);
        colo_quit(&s->third.qts);
    }
    colo_kill(&s->primary.qts);
    disk_start_refused(s->secondary.qts, false, "nobody has a lock on");
    shared_free(s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    qtest_add_func("/colo/shared/checkpoint", test_checkpoint);
    qtest_add_func("/colo/shared/before-start", test_before_start);
    qtest_add_func("/colo/shared/kinds", test_kinds);
    qtest_add_func("/colo/shared/reads", test_reads);
    qtest_add_func("/colo/shared/random", test_random);
    qtest_add_func("/colo/shared/store", test_store);
    qtest_add_data_func("/colo/shared/meet/put-waits",
                        GINT_TO_POINTER(PUT_AT), test_put_waits);
    qtest_add_data_func("/colo/shared/meet/put-apart",
                        GINT_TO_POINTER(APART), test_put_waits);
    qtest_add_data_func("/colo/shared/meet/read-waits",
                        GINT_TO_POINTER(PUT_AT), test_get_waits);
    qtest_add_data_func("/colo/shared/meet/read-apart",
                        GINT_TO_POINTER(APART), test_get_waits);
    qtest_add_func("/colo/shared/failover/secondary", test_failover_secondary);
    qtest_add_func("/colo/shared/failover/primary", test_failover_primary);
    qtest_add_func("/colo/shared/failover/again", test_again);
    qtest_add_func("/colo/shared/stands/secondary", test_secondary_stands);
    qtest_add_func("/colo/shared/stands/quit", test_quit);
    qtest_add_func("/colo/shared/stop", test_stop);
    qtest_add_func("/colo/shared/next-session", test_next_session);
    qtest_add_func("/colo/shared/image-error", test_image_error);
    qtest_add_func("/colo/shared/refused/command", test_refused);
    qtest_add_func("/colo/shared/refused/primary", test_refused_primary);
    qtest_add_func("/colo/shared/refused/secondary", test_refused_secondary);
    return g_test_run();
}
