/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: an image that both sides have, in a session.
 *
 * Proves: the image is what the primary has written, and the secondary's guest
 * sees it as of the last checkpoint, with its own writes, whatever is
 * overwritten while it reads; the primary's guest reads what it wrote, wherever
 * that is, and what it has flushed is in the image; mistakes have clear errors.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "qobject/qdict.h"
#include "libqos/libqos.h"
#include "colo-helpers.h"
#include "colo-nbd.h"
#include "colo-shared-rig.h"

#define NBD_FLUSH 3

static int64_t side_preserved(Side *primary)
{
    QDict *disk = disk_query(primary->qts);
    int64_t bytes = qdict_get_int(disk, "preserved-bytes");

    qobject_unref(disk);
    return bytes;
}

static void test_checkpoint(void)
{
    Shared *s = shared_new_started();

    disk_write(s->primary.qts, 0x11, 0, 256 * KiB);
    side_read(&s->primary, 0x11, 0, 256 * KiB);
    disk_wait_file(s->image, 0x11, 0, 256 * KiB);
    side_read(&s->primary, 0x11, 0, 256 * KiB);
    side_read(&s->secondary, 0, 0, 256 * KiB);
    g_assert_cmpint(side_preserved(&s->primary), ==, 256 * KiB);
    disk_write(s->secondary.qts, 0x22, 64 * KiB, 64 * KiB);
    disk_write(s->secondary.qts, 0x22, MiB, 64 * KiB);
    side_read(&s->secondary, 0x22, MiB, 64 * KiB);
    g_assert_true(disk_file_has(s->image, 0, MiB, 64 * KiB));
    shared_checkpoint(&s->primary, &s->secondary);
    side_read(&s->secondary, 0x11, 0, 256 * KiB);
    side_read(&s->secondary, 0, MiB, 64 * KiB);

    /* All over again: the same is preserved a second time, but just once */
    disk_write(s->primary.qts, 0x33, 0, 4 * KiB);
    disk_write(s->primary.qts, 0x34, 4 * KiB, 4 * KiB);
    disk_write(s->primary.qts, 0x35, 0, 4 * KiB);
    disk_wait_file(s->image, 0x35, 0, 4 * KiB);
    disk_wait_file(s->image, 0x34, 4 * KiB, 4 * KiB);
    side_read(&s->secondary, 0x11, 0, 256 * KiB);
    g_assert_cmpint(side_preserved(&s->primary), ==, 256 * KiB + UNIT);
    shared_checkpoint(&s->primary, &s->secondary);
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
    g_assert_cmpint(side_preserved(&s->primary), ==, 0);
    shared_begin(&s->primary, "repl", &s->secondary);
    side_read(&s->secondary, 0x44, 0, 32 * KiB);
    shared_free(s);
}

static void test_kinds(void)
{
    Shared *s = shared_new();

    disk_write(s->primary.qts, 0x55, 0, 4 * MiB);
    shared_begin(&s->primary, "repl", &s->secondary);
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
    shared_checkpoint(&s->primary, &s->secondary);
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
        shared_checkpoint(&s->primary, &s->secondary);
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
            shared_checkpoint(&s->primary, &s->secondary);
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

    side_add_drive(&r->s->secondary, racer->gate, racer->options);
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
    side_add_inside(&r->s->secondary);
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

/* A flush of the guest at @fd while nothing can be put: so nothing arrives */
static void flush_of_stopped(Shared *s, int fd, int byte, int64_t offset)
{
    g_autofree uint8_t *data = g_malloc(UNIT);
    struct pollfd answer = { .fd = fd, .events = POLLIN };

    memset(data, byte, UNIT);
    disk_io_at(s->secondary.qts, "inside", "break write_aio X");
    g_assert_cmpint(colo_nbd_pwrite(fd, data, offset, UNIT), ==, 0);
    colo_nbd_request(fd, NBD_FLUSH, 0, 0);
    disk_io_at(s->secondary.qts, "inside", "wait_break X");
    /* Whatever it had been sent before this has been done */
    side_read(&s->primary, byte, offset, UNIT);
    g_assert_cmpint(poll(&answer, 1, 0), ==, 0);
    g_assert_true(disk_file_has(s->image, 0x10, offset, UNIT));
}

/*
 * A flush is answered when the image has what was written, and keeps QEMU from
 * ending no longer than others do.
 */
static void test_flush(void)
{
    Shared *s = shared_new();
    int fd;

    /* What is zero would be put in another way */
    disk_write(s->primary.qts, 0x10, 0, 2 * MiB);
    shared_begin(&s->primary, "repl", &s->secondary);
    disk_export(s->primary.qts, "topnode", "w", true);
    fd = colo_nbd_client(s->primary.server, 'w');
    side_add_inside(&s->secondary);
    flush_of_stopped(s, fd, 0x11, 0);
    disk_io_at(s->secondary.qts, "inside", "remove_break X");
    g_assert_cmpint(colo_nbd_answer(fd), ==, 0);
    g_assert_true(disk_file_has(s->image, 0x11, 0, UNIT));

    flush_of_stopped(s, fd, 0x12, MiB);
    colo_quit(&s->primary.qts);
    disk_io_at(s->secondary.qts, "inside", "remove_break X");
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
    shared_change_refused(&s->primary, "is no NBD client", "node", "null");
    shared_change_refused(&s->primary, "only the child 'hidden'", "child",
                          "file");
    disk_start_refused(s->primary.qts, true, "no way to the secondary's store");
    shared_add_peer(&s->primary, "repl", &s->secondary);
    disk_add_client(s->primary.qts, "peer2", s->secondary.server, "s", "");
    shared_change_refused(&s->primary, "has its peer", "node", "peer2");
    shared_del_peer(&s->primary, "repl");
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
          "has 16777216 bytes, but the image has 8388608" },
        { "driver=raw,file.driver=blkdebug,file.image.driver=file,"
          "file.image.filename", SHARED, "has to be a file" },
        { "driver=qcow2,file.driver=file,file.filename", SHARED,
          "has to be raw" },
    };

    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        Shared *s = shared_new();

        colo_quit(&s->primary.qts);
        shared_start_primary_as(s, cases[i].image,
                         strstr(cases[i].image, "qcow2") ? s->third.active
                                                         : s->image,
                         cases[i].shared);
        shared_add_peer(&s->primary, "repl", &s->secondary);
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
        shared_start_secondary_as(s, &s->third, cases[i].image, cases[i].shared,
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
    qtest_add_func("/colo/shared/flush", test_flush);
    qtest_add_func("/colo/shared/refused/command", test_refused);
    qtest_add_func("/colo/shared/refused/primary", test_refused_primary);
    qtest_add_func("/colo/shared/refused/secondary", test_refused_secondary);
    return g_test_run();
}
