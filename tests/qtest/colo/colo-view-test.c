/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: what the guest of a secondary sees of its disk.
 *
 * Proves: its own writes, and what was there at the last checkpoint, whatever
 * both sides write, to the last byte of a disk that ends within a cluster, and
 * with several kinds of active overlays; so it is after a failover, too; and a
 * read that is on its way to the disk is not given what the primary writes
 * meanwhile.  What the guest has written itself is not copied to the hidden
 * overlay, if that is whole clusters of the copy, and all else is.  If QEMU
 * dies while the overlays are being folded in, what the guest saw can be put
 * together from them.
 *
 * No guest runs, the monitor writes in its place, and the test in that of the
 * primary.
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include <poll.h>
#include "libqos/libqos.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-nbd.h"

#define CLUSTER (64 * KiB)
#define TAIL 1536               /* what is in the last cluster */
#define LENGTH (DISK + TAIL)
#define CLUSTER_64K "cluster_size=64k"
#define SUBCLUSTERS "cluster_size=128k,extended_l2=on"
#define DISCARD (2 * MiB)       /* whole clusters of all kinds */
#define WAS 0x11                /* all of the disk, in the beginning */

typedef struct View {
    char *dir;
    char *raw;
    char *active;
    char *hidden;
    char *socket;
    QTestState *qts;
    int primary;                /* clients of the disk... */
    int other;
    int guest;                  /* ...and of what the guest sees */
    uint8_t *disk;              /* what has to be on it */
    uint8_t *view;              /* what the guest has to see */
} View;

/* @options: of qcow2, for qemu-img */
static char *new_overlay(const char *dir, const char *name,
                         const char *options)
{
    char *path = g_build_filename(dir, name, NULL);
    g_autofree char *line = g_strdup_printf(
        "%s create -q -f qcow2 -o %s %s %lld", getenv("QTEST_QEMU_IMG"),
        options, path, (long long)LENGTH);

    g_assert_cmpint(system(line), ==, 0);
    return path;
}

/*
 * @options: of the active overlay; @more: the beginning of the hidden one's, as
 * a -blockdev, or as a device with an ID, in which requests can be stopped
 */
static View *view_new_with(const char *options, const char *more)
{
    View *s = g_new0(View, 1);

    disk_deadline_begin();
    s->dir = g_dir_make_tmp("colo-view-XXXXXX", NULL);
    g_assert_nonnull(s->dir);
    s->raw = g_build_filename(s->dir, "disk", NULL);
    s->active = new_overlay(s->dir, "active", options);
    s->hidden = new_overlay(s->dir, "hidden", CLUSTER_64K);
    s->socket = g_build_filename(s->dir, "nbd", NULL);
    s->disk = g_malloc(LENGTH);
    memset(s->disk, WAS, LENGTH);
    s->view = g_memdup2(s->disk, LENGTH);
    g_assert_true(g_file_set_contents(s->raw, (char *)s->disk, LENGTH, NULL));

    s->qts = qtest_initf(
        ">/dev/null -M none -nodefaults "
        "-object throttle-group,id=slow "
        "-blockdev driver=raw,node-name=disk,file.driver=throttle,"
        "file.throttle-group=slow,file.file.driver=file,"
        "file.file.filename=%s %s,node-name=hidden,driver=qcow2,backing=disk,"
        "file.driver=blkdebug,file.image.driver=file,file.image.filename=%s "
        "-drive if=none,id=top,node-name=topnode,driver=quorum,"
        "read-pattern=fifo,vote-threshold=1,discard=unmap,"
        "children.0.driver=replication,children.0.node-name=repl,"
        "children.0.mode=secondary,children.0.top-id=top,"
        "children.0.discard=unmap,children.0.file.driver=qcow2,"
        "children.0.file.discard=unmap,"
        "children.0.file.file.driver=file,children.0.file.file.filename=%s,"
        "children.0.file.backing=hidden",
        s->raw, more, s->hidden, s->active);
    disk_export_top(s->qts, s->socket);
    disk_export(s->qts, "disk", "d", true);
    disk_replicate(s->qts, true, false);
    s->primary = colo_nbd_client(s->socket, 'd');
    s->other = colo_nbd_client(s->socket, 'd');
    s->guest = colo_nbd_client(s->socket, 't');
    return s;
}

static View *view_new(const char *options)
{
    return view_new_with(options, "-blockdev discard=ignore");
}

static void view_free(View *s)
{
    close(s->primary);
    close(s->other);
    close(s->guest);
    if (s->qts) {
        colo_quit(&s->qts);
    }
    disk_free_file(s->raw);
    disk_free_file(s->active);
    disk_free_file(s->hidden);
    disk_free_file(s->socket);
    rmdir(s->dir);
    g_free(s->dir);
    g_free(s->disk);
    g_free(s->view);
    g_free(s);
    disk_deadline_end();
}

static void primary_writes(View *s, int byte, int64_t offset, int64_t bytes)
{
    memset(s->disk + offset, byte, bytes);
    g_assert_cmpint(colo_nbd_pwrite(s->primary, s->disk + offset, offset,
                                    bytes), ==, 0);
}

static void guest_writes(View *s, int byte, int64_t offset, int64_t bytes)
{
    memset(s->view + offset, byte, bytes);
    disk_write(s->qts, byte, offset, bytes);
}

/* @how: an option of qemu-io's for zeroes that may be unmapped, or "" */
static void guest_zeroes(View *s, const char *how, int64_t offset,
                         int64_t bytes)
{
    memset(s->view + offset, 0, bytes);
    disk_io(s->qts, "write -z %s %" PRId64 " %" PRId64, how, offset, bytes);
}

/* Of whole clusters of the active overlay: they are zeroes then */
static void guest_discards(View *s, int64_t offset, int64_t bytes)
{
    memset(s->view + offset, 0, bytes);
    disk_io(s->qts, "discard %" PRId64 " %" PRId64, offset, bytes);
}

static void guest_flushes(View *s)
{
    colo_nbd_request(s->guest, 3, 0, 0);
    g_assert_cmpint(colo_nbd_answer(s->guest), ==, 0);
}

static void check_view(View *s, int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    g_assert_cmpint(colo_nbd_pread(s->guest, buf, offset, bytes), ==, 0);
    g_assert_cmpmem(buf, bytes, s->view + offset, bytes);
}

static void check_disk(View *s, const uint8_t *want)
{
    g_autofree char *data = NULL;
    gsize length;

    g_assert_true(g_file_get_contents(s->raw, &data, &length, NULL));
    g_assert_cmpint(length, ==, LENGTH);
    g_assert_true(!memcmp(data, want, LENGTH));
}

static void checkpoint(View *s)
{
    qtest_qmp_assert_success(s->qts, "{'execute': 'xen-colo-do-checkpoint'}");
    memcpy(s->view, s->disk, LENGTH);
}

/* The tests */

static void random_step(View *s, int i)
{
    bool small = g_test_rand_bit();
    int64_t bytes = g_test_rand_int_range(1, small ? 16 : 1024) * 512LL;
    int64_t offset = g_test_rand_int_range(0, (LENGTH - bytes) / 512 + 1) *
                     512LL;

    if (i % 8 == 0) {
        offset = LENGTH - bytes; /* the last cluster is no whole one */
    }
    if (i % 32 == 31) {
        guest_discards(s, QEMU_ALIGN_DOWN(offset, DISCARD), DISCARD);
        return;
    }
    switch (g_test_rand_int_range(0, 6)) {
    case 0:
    case 1:
        guest_writes(s, i % 256, offset, bytes);
        break;
    case 2:
        guest_zeroes(s, g_test_rand_bit() ? "-u" : "", offset, bytes);
        break;
    default:
        primary_writes(s, (i + 128) % 256, offset, bytes);
        break;
    }
    check_view(s, offset, bytes);
}

static void test_random(const void *options)
{
    View *s = view_new(options);

    for (int i = 0; i < 600; i++) {
        random_step(s, i);
        if (i % 100 == 99) {
            check_view(s, 0, LENGTH);
            check_disk(s, s->disk);
            checkpoint(s);
        }
    }
    for (int i = 0; i < 50; i++) {
        random_step(s, i);
    }
    /* What the guest has seen is what there is */
    disk_failover(s->qts, false);
    disk_wait_no_job(s->qts);
    disk_check_stage(s->qts, "folded");
    check_disk(s, s->view);
    view_free(s);
}

/* How far the hidden overlay has grown: all that is copied comes to its end */
static int64_t hidden_size(View *s)
{
    GStatBuf st;

    g_assert_cmpint(g_stat(s->hidden, &st), ==, 0);
    return st.st_size;
}

/* A cluster of the copy, in pieces that the overlay has in no order */
static void guest_writes_pieces(View *s, int byte, int64_t offset)
{
    const int64_t piece = 4 * KiB;

    for (int64_t at = CLUSTER - piece; at >= 0; at -= piece) {
        if (at == 3 * piece || at == 4 * piece) {
            guest_zeroes(s, "", offset + at, piece);
        } else {
            guest_writes(s, byte, offset + at, piece);
        }
    }
}

static void test_own(const void *options)
{
    View *s = view_new(options);

    for (int i = 0; i < 3; i++) {
        int64_t size = hidden_size(s);

        /* The last of it is not a whole cluster */
        guest_writes(s, 0x20 + i, MiB, 4 * MiB);
        guest_zeroes(s, "", 6 * MiB, MiB);
        guest_zeroes(s, "-u", 7 * MiB, MiB);
        guest_writes_pieces(s, 0x28 + i, 12 * MiB);
        guest_writes(s, 0x30 + i, DISK - CLUSTER, CLUSTER + TAIL);
        primary_writes(s, 0x40 + i, 2 * MiB, CLUSTER);
        primary_writes(s, 0x50 + i, MiB, 4 * MiB);
        primary_writes(s, 0x60 + i, 6 * MiB, 2 * MiB);
        primary_writes(s, 0x68 + i, 12 * MiB, CLUSTER);
        primary_writes(s, 0x70 + i, DISK - CLUSTER, CLUSTER + TAIL);
        g_assert_cmpint(hidden_size(s), ==, size);
        check_view(s, 0, LENGTH);

        primary_writes(s, 0x80 + i, 8 * MiB, 4 * MiB);
        g_assert_cmpint(hidden_size(s) - size, >=, 4 * MiB);
        check_view(s, 0, LENGTH);
        checkpoint(s);
    }
    view_free(s);
}

/* Of nine clusters the guest has two, and parts of two others */
static void test_part(void)
{
    View *s = view_new("cluster_size=4k");
    int64_t size;

    primary_writes(s, 0x30, MiB, CLUSTER); /* from here on: an L2 table */
    size = hidden_size(s);
    guest_writes(s, 0x21, 3 * CLUSTER, CLUSTER);
    guest_writes(s, 0x22, 7 * CLUSTER + 4 * KiB, 2 * CLUSTER);
    primary_writes(s, 0x31, CLUSTER + 512, 8 * CLUSTER);
    g_assert_cmpint(hidden_size(s) - size, ==, 7 * CLUSTER);
    check_view(s, 0, LENGTH);
    view_free(s);
}

/*
 * A read has found nothing in the overlays and is on its way to the disk; then
 * the guest, and the primary, overwrite the same.
 */
static void test_read(void)
{
    View *s = view_new_with(CLUSTER_64K, "-drive if=none,id=inside");
    g_autofree uint8_t *buf = g_malloc(CLUSTER);
    struct pollfd fd = { .fd = s->primary, .events = POLLIN };

    disk_io_at(s->qts, "inside", "break read_backing_aio X");
    colo_nbd_request(s->guest, 0, 0, CLUSTER);
    disk_io_at(s->qts, "inside", "wait_break X");
    guest_writes(s, 0x23, 0, CLUSTER);

    memset(s->disk, 0x33, CLUSTER);
    colo_nbd_request(s->primary, 1, 0, CLUSTER);
    colo_nbd_write(s->primary, s->disk, CLUSTER);
    colo_nbd_wait_taken(s->primary);
    /* One that is apart has an answer, and so would that have */
    for (int i = 0; i < 20; i++) {
        g_assert_cmpint(colo_nbd_pwrite(s->other, s->disk, MiB, CLUSTER), ==,
                        0);
    }
    g_assert_cmpint(poll(&fd, 1, 0), ==, 0);
    g_assert_true(disk_file_has(s->raw, WAS, 0, CLUSTER));

    disk_io_at(s->qts, "inside", "resume X");
    g_assert_cmpint(colo_nbd_answer(s->guest), ==, 0);
    colo_nbd_read(s->guest, buf, CLUSTER);
    memset(s->disk, WAS, CLUSTER);
    g_assert_cmpmem(buf, CLUSTER, s->disk, CLUSTER);
    g_assert_cmpint(colo_nbd_answer(s->primary), ==, 0);
    g_assert_true(disk_file_has(s->raw, 0x33, 0, CLUSTER));
    check_view(s, 0, LENGTH);
    view_free(s);
}

/* What is on the disk and in the overlays when nobody uses them */
static bool left_is_view(View *s)
{
    g_autofree char *path = g_build_filename(s->dir, "left", NULL);
    g_autofree char *data = NULL;
    g_autofree char *line = g_strdup_printf(
        "%s convert -U -O raw --image-opts driver=qcow2,file.locking=off,"
        "file.filename=%s,backing.driver=qcow2,backing.file.locking=off,"
        "backing.file.filename=%s,backing.backing.driver=raw,"
        "backing.backing.file.locking=off,backing.backing.file.filename=%s %s",
        getenv("QTEST_QEMU_IMG"), s->active, s->hidden, s->raw, path);
    gsize length;

    g_assert_cmpint(system(line), ==, 0);
    g_assert_true(g_file_get_contents(path, &data, &length, NULL));
    g_assert_cmpint(length, ==, LENGTH);
    unlink(path);
    return !memcmp(data, s->view, LENGTH);
}

/* @flush: the guest does, after the failover */
static void test_crash(const void *flush)
{
    View *s = view_new(CLUSTER_64K);

    for (int i = 0; i < 30; i++) {
        random_step(s, i);
    }
    /* There are no two writes to the disk within the time of this test */
    qtest_qmp_assert_success(s->qts, "{'execute': 'qom-set', 'arguments': {"
        "'path': '/objects/slow', 'property': 'limits',"
        "'value': {'bps-write': 1}}}");
    disk_failover(s->qts, false);
    if (flush) {
        guest_flushes(s);
    } else {
        while (!left_is_view(s)) {
            g_usleep(10 * 1000);
        }
    }
    disk_check_stage(s->qts, "folding");
    colo_refused(s->qts, "overlays are being folded into their disk",
        "{'execute': 'blockdev-reopen', 'arguments': {'options': [{"
        "'driver': 'qcow2', 'node-name': 'hidden', 'file': 'disk',"
        "'discard': 'unmap'}]}}");
    colo_kill(&s->qts);
    g_assert_true(left_is_view(s));
    view_free(s);
}

static void wait_disk_error(View *s, const char *text)
{
    QDict *event = colo_wait_event(s->qts, "COLO_DISK_ERROR");
    const char *said = qdict_get_str(qdict_get_qdict(event, "data"),
                                     "message");

    g_assert_nonnull(strstr(said, text));
    qobject_unref(event);
}

static void add_null(View *s, const char *name)
{
    qtest_qmp_assert_success(s->qts, "{'execute': 'blockdev-add', "
                             "'arguments': {'driver': 'null-co', "
                             "'node-name': %s, 'size': 65536, "
                             "'read-zeroes': true}}", name);
}

/* No job folds the overlays, as there is another one of that name */
static void test_unfolded(void)
{
    View *s = view_new(CLUSTER_64K);

    add_null(s, "from");
    add_null(s, "to");
    qtest_qmp_assert_success(s->qts, "{'execute': 'blockdev-mirror', "
                             "'arguments': {'job-id': 'replication-repl', "
                             "'device': 'from', 'target': 'to', "
                             "'sync': 'full'}}");
    guest_writes(s, 0x22, 0, MiB);
    primary_writes(s, 0x33, 0, 4 * MiB);
    disk_failover(s->qts, false);
    wait_disk_error(s, "'replication-repl' already in use");
    disk_check_stage(s->qts, "unfolded");
    check_view(s, 0, LENGTH);
    view_free(s);
}

/* The hidden overlay cannot be flushed: no harm once it is folded */
static void test_unflushed(void)
{
    View *s = view_new_with(CLUSTER_64K, "-blockdev "
                            "file.inject-error.0.event=write_aio,"
                            "file.inject-error.0.iotype=flush,"
                            "file.inject-error.0.once=off");

    guest_writes(s, 0x22, 0, MiB);
    primary_writes(s, 0x33, 0, 4 * MiB);
    disk_failover(s->qts, false);
    wait_disk_error(s, "hidden overlay cannot be flushed");
    disk_wait_no_job(s->qts);
    disk_check_stage(s->qts, "folded");
    guest_flushes(s);
    check_disk(s, s->view);
    view_free(s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    qtest_add_data_func("/colo/view/random/4k", "cluster_size=4k",
                        test_random);
    qtest_add_data_func("/colo/view/random/64k", CLUSTER_64K, test_random);
    qtest_add_data_func("/colo/view/random/2m", "cluster_size=2M",
                        test_random);
    qtest_add_data_func("/colo/view/random/subclusters", SUBCLUSTERS,
                        test_random);
    qtest_add_data_func("/colo/view/own/64k", CLUSTER_64K, test_own);
    qtest_add_data_func("/colo/view/own/subclusters", SUBCLUSTERS, test_own);
    qtest_add_func("/colo/view/part", test_part);
    qtest_add_func("/colo/view/read", test_read);
    qtest_add_data_func("/colo/view/crash", NULL, test_crash);
    qtest_add_data_func("/colo/view/crash/flush", "flush", test_crash);
    qtest_add_func("/colo/view/unfolded", test_unfolded);
    qtest_add_func("/colo/view/unflushed", test_unflushed);
    return g_test_run();
}
