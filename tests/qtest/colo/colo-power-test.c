/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: replicated disks when the power is cut.
 *
 * Proves: after a failover a guest's flush says yes when all that the guest was
 * told is written will outlive a power cut of the survivor: what the dead
 * primary wrote and never flushed, what was there before, and what the guest
 * wrote itself; be it that the overlays are folded into the disk, cannot be, or
 * have been.  If any of these files cannot be flushed, it says no.  What was
 * flushed on the primary is on both images.
 *
 * Each file is on a device that loses what was not flushed: colo-power-rig.h.
 * No guest runs, the monitor writes in its place, and the test in that of the
 * primary.
 */

#include "qemu/osdep.h"
#include "libqos/libqos.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-nbd.h"
#include "colo-power-rig.h"

#define WAS 0x11                /* all of the disk, in the beginning */
#define NBD_FLUSH 3
#define ROUNDS 2                /* power cuts for each way to lose something */

typedef struct Power {
    char *dir;
    char *socket;
    PowerFile *disk;
    PowerFile *hidden;
    PowerFile *active;
    QTestState *qts;
    int primary;                /* a client of the disk... */
    int guest;                  /* ...and of what the guest sees */
    uint8_t *view;              /* what the guest has to see */
} Power;

static char *new_raw(const char *dir, const char *name)
{
    char *path = g_build_filename(dir, name, NULL);
    g_autofree char *data = g_malloc(DISK);

    memset(data, WAS, DISK);
    g_assert_true(g_file_set_contents(path, data, DISK, NULL));
    return path;
}

/* @disk, @hidden, @active: what is put before the node of each file */
static Power *power_new_with(const char *disk, const char *hidden,
                             const char *active)
{
    Power *p = g_new0(Power, 1);
    g_autofree char *disk_option = NULL;
    g_autofree char *hidden_option = NULL;
    g_autofree char *active_option = NULL;

    disk_deadline_begin();
    p->dir = g_dir_make_tmp("colo-power-XXXXXX", NULL);
    g_assert_nonnull(p->dir);
    p->socket = g_build_filename(p->dir, "nbd", NULL);
    p->disk = power_file_new(new_raw(p->dir, "disk"), "disk-file");
    p->hidden = power_file_new(disk_new_file(p->dir, "hidden", true),
                               "hidden-file");
    p->active = power_file_new(disk_new_file(p->dir, "active", true),
                               "active-file");
    p->view = (uint8_t *)g_memdup2(p->disk->was, DISK);

    disk_option = power_file_option(p->disk);
    hidden_option = power_file_option(p->hidden);
    active_option = power_file_option(p->active);
    p->qts = qtest_initf(
        ">/dev/null -M none -nodefaults -object throttle-group,id=slow "
        "%s %s %s "
        "-blockdev driver=raw,node-name=disk,file.driver=throttle,"
        "file.throttle-group=slow,%s=disk-file "
        "-blockdev driver=qcow2,node-name=hidden,backing=disk,%s=hidden-file "
        "-blockdev driver=qcow2,node-name=active,backing=hidden,"
        "%s=active-file "
        "-drive if=none,id=top,node-name=topnode,driver=quorum,"
        "read-pattern=fifo,vote-threshold=1,children.0.driver=replication,"
        "children.0.node-name=repl,children.0.mode=secondary,"
        "children.0.top-id=top,children.0.file=active",
        disk_option, hidden_option, active_option, disk, hidden, active);
    disk_export_top(p->qts, p->socket);
    disk_export(p->qts, "disk", "d", true);
    qtest_qmp_assert_success(p->qts, "{'execute': 'blockdev-add', 'arguments': "
                             "{'driver': 'replication-sink', 'node-name': "
                             "'sink', 'file': 'disk'}}");
    disk_export(p->qts, "sink", "s", true);
    disk_replicate(p->qts, true, false);
    p->primary = colo_nbd_client(p->socket, 'd');
    p->guest = colo_nbd_client(p->socket, 't');
    return p;
}

static Power *power_new(void)
{
    return power_new_with("file.file", "file", "file");
}

static void power_free(Power *p)
{
    close(p->primary);
    close(p->guest);
    if (p->qts) {
        colo_quit(&p->qts);
    }
    power_file_free(p->disk);
    power_file_free(p->hidden);
    power_file_free(p->active);
    disk_free_file(p->socket);
    rmdir(p->dir);
    g_free(p->dir);
    g_free(p->view);
    g_free(p);
    disk_deadline_end();
}

static void primary_writes(Power *p, int byte, int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    memset(buf, byte, bytes);
    g_assert_cmpint(colo_nbd_pwrite(p->primary, buf, offset, bytes), ==, 0);
}

static void guest_writes(Power *p, int byte, int64_t offset, int64_t bytes)
{
    memset(p->view + offset, byte, bytes);
    disk_write(p->qts, byte, offset, bytes);
}

static int guest_flushes(Power *p)
{
    colo_nbd_request(p->guest, NBD_FLUSH, 0, 0);
    return colo_nbd_answer(p->guest);
}

/*
 * The primary writes in two epochs, and flushes nothing; the guest here has
 * writes of its own, and has flushed some.
 */
static void session(Power *p)
{
    primary_writes(p, 0x21, 0, 4 * MiB);
    memset(p->view, 0x21, 4 * MiB);
    qtest_qmp_assert_success(p->qts, "{'execute': 'xen-colo-do-checkpoint'}");
    guest_writes(p, 0x31, MiB, MiB);
    g_assert_cmpint(guest_flushes(p), ==, 0);
    guest_writes(p, 0x32, 6 * MiB, 64 * KiB);
    primary_writes(p, 0x22, 3 * MiB, 5 * MiB);
}

/* There are no two writes to the disk within the time of this test */
static void slow_down(Power *p)
{
    qtest_qmp_assert_success(p->qts, "{'execute': 'qom-set', 'arguments': {"
        "'path': '/objects/slow', 'property': 'limits',"
        "'value': {'bps-write': 1}}}");
}

/* No job can fold the overlays: there is one of that name */
static void take_name(Power *p)
{
    const char *names[] = { "from", "to" };

    for (int i = 0; i < ARRAY_SIZE(names); i++) {
        qtest_qmp_assert_success(p->qts, "{'execute': 'blockdev-add', "
                                 "'arguments': {'driver': 'null-co', "
                                 "'node-name': %s, 'size': 65536, "
                                 "'read-zeroes': true}}", names[i]);
    }
    qtest_qmp_assert_success(p->qts, "{'execute': 'blockdev-mirror', "
                             "'arguments': {'job-id': 'replication-repl', "
                             "'device': 'from', 'target': 'to', "
                             "'sync': 'full'}}");
}

/* Fail over, and let it come to this stage of folding */
static void fail_over(Power *p, const char *stage)
{
    if (g_str_equal(stage, "folding")) {
        slow_down(p);
    } else if (g_str_equal(stage, "unfolded")) {
        take_name(p);
    }
    disk_failover(p->qts, false);
    if (g_str_equal(stage, "folded")) {
        disk_wait_no_job(p->qts);
    } else if (g_str_equal(stage, "unfolded")) {
        qobject_unref(colo_wait_event(p->qts, "COLO_DISK_ERROR"));
    }
    disk_check_stage(p->qts, stage);
}

/* What a guest would have after the power cut */
static char *left_view(Power *p, const char *stage)
{
    g_autofree char *path = g_build_filename(p->dir, "left", NULL);
    g_autofree char *line = NULL;
    char *data;
    gsize length;

    if (g_str_equal(stage, "folded")) {
        g_assert_true(g_file_get_contents(p->disk->cut, &data, &length, NULL));
        g_assert_cmpint(length, ==, DISK);
        return data;
    }
    line = g_strdup_printf(
        "%s convert -O raw --image-opts driver=qcow2,file.filename=%s,"
        "backing.driver=qcow2,backing.file.filename=%s,"
        "backing.backing.driver=raw,backing.backing.file.filename=%s %s",
        getenv("QTEST_QEMU_IMG"), p->active->cut, p->hidden->cut,
        p->disk->cut, path);
    g_assert_cmpint(system(line), ==, 0);
    g_assert_true(g_file_get_contents(path, &data, &length, NULL));
    g_assert_cmpint(length, ==, DISK);
    unlink(path);
    return data;
}

static void cut(Power *p, PowerLoss loss)
{
    power_cut(p->disk, loss);
    power_cut(p->hidden, loss);
    power_cut(p->active, loss);
}

/* All is there, but what is from @begin to @end may be there, or @old */
static void check_left(Power *p, const char *stage, int64_t begin, int64_t end,
                       int old)
{
    g_autofree char *data = left_view(p, stage);

    for (int64_t i = 0; i < DISK; i++) {
        uint8_t byte = data[i];

        if (byte != p->view[i] && !(i >= begin && i < end && byte == old)) {
            g_error("%s: at %" PRId64 " there is 0x%x, and not 0x%x", stage, i,
                    byte, p->view[i]);
        }
    }
}

/* The tests */

static void test_survivor(const void *opaque)
{
    const char *stage = opaque;
    Power *p = power_new();

    session(p);
    fail_over(p, stage);
    guest_writes(p, 0x33, 7 * MiB, 2 * MiB);
    g_assert_cmpint(guest_flushes(p), ==, 0);
    guest_writes(p, 0x34, 12 * MiB, MiB);
    disk_check_stage(p->qts, stage);
    colo_kill(&p->qts);
    for (int i = 0; i < POWER_LOSS__MAX * ROUNDS; i++) {
        cut(p, i % POWER_LOSS__MAX);
        check_left(p, stage, 12 * MiB, 13 * MiB, WAS);
    }
    power_free(p);
}

/* What is not flushed is not there: so the other tests can fail */
static void test_lost(void)
{
    Power *p = power_new();

    session(p);
    colo_kill(&p->qts);
    cut(p, POWER_LOSS_ALL);
    g_assert_true(disk_file_has(p->disk->path, 0x21, 0, 3 * MiB));
    g_assert_true(disk_file_has(p->disk->cut, WAS, 0, DISK));
    power_free(p);
}

/* One of the files cannot be flushed any more; an overlay once it has data */
static void test_error(const void *opaque)
{
    const char *which = opaque;
    const char *prefix[] = { "file.file", "file", "file" };
    const char *names[] = { "disk", "hidden", "active" };
    g_autofree char *failing = NULL;
    Power *p;

    for (int i = 0; i < ARRAY_SIZE(names); i++) {
        if (g_str_equal(names[i], which)) {
            failing = g_strdup_printf(
                "%s.driver=blkdebug,%s.inject-error.0.event=%s,"
                "%s.inject-error.0.iotype=flush,"
                "%s.inject-error.0.once=off,%s.image",
                prefix[i], prefix[i], i ? "write_aio" : "none", prefix[i],
                prefix[i], prefix[i]);
            prefix[i] = failing;
        }
    }
    p = power_new_with(prefix[0], prefix[1], prefix[2]);
    primary_writes(p, 0x21, 0, 4 * MiB);
    guest_writes(p, 0x31, MiB, MiB);
    fail_over(p, "unfolded");
    g_assert_cmpint(guest_flushes(p), !=, 0);
    g_assert_cmpint(guest_flushes(p), !=, 0);
    disk_check_stage(p->qts, "unfolded");
    power_free(p);
}

static QTestState *start_primary(Power *p, PowerFile *image, bool batch)
{
    g_autofree char *option = power_file_option(image);
    QTestState *qts = qtest_initf(
        ">/dev/null -M none -nodefaults %s "
        "-drive if=none,id=top,node-name=topnode,driver=quorum,"
        "read-pattern=fifo,vote-threshold=1,children.0.driver=raw,"
        "children.0.file=image-file", option);

    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication', "
        "'node-name': 'repl', 'mode': 'primary', 'batch': %i, 'file': {"
        "'driver': 'nbd', 'export': %s, 'server': {'type': 'unix', "
        "'path': %s}}}}", batch, batch ? "s" : "d", p->socket);
    disk_add_child(qts, "topnode", "repl");
    disk_replicate(qts, true, true);
    return qts;
}

/* What the primary's guest has flushed is on both images */
static void test_primary(const void *batch)
{
    Power *p = power_new();
    PowerFile *image = power_file_new(new_raw(p->dir, "image"), "image-file");
    QTestState *primary = start_primary(p, image, batch);

    disk_write(primary, 0x21, 0, 4 * MiB);
    disk_io(primary, "flush");
    disk_write(primary, 0x22, 8 * MiB, 4 * MiB);
    /* What was flushed has arrived then; Xen's command does not wait for it */
    while (disk_log_number(primary, "bytes")) {
        g_usleep(1000);
    }
    disk_checkpoint(primary, p->qts);
    disk_write(primary, 0x23, 3 * MiB, 2 * MiB);
    disk_io(primary, "flush");
    colo_kill(&primary);
    colo_kill(&p->qts);
    for (int i = 0; i < POWER_LOSS__MAX * ROUNDS; i++) {
        power_cut(image, i % POWER_LOSS__MAX);
        g_assert_true(disk_file_has(image->cut, 0x21, 0, 3 * MiB));
        g_assert_true(disk_file_has(image->cut, 0x23, 3 * MiB, 2 * MiB));
        g_assert_true(disk_file_has(image->cut, WAS, 5 * MiB, 3 * MiB));
        power_cut(p->disk, i % POWER_LOSS__MAX);
        g_assert_true(disk_file_has(p->disk->cut, 0x21, 0, 3 * MiB));
    }
    power_file_free(image);
    power_free(p);
}

int main(int argc, char **argv)
{
    const char *const stages[] = { "folding", "unfolded", "folded" };
    const char *const files[] = { "disk", "hidden", "active" };

    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    qtest_add_func("/colo/power/lost", test_lost);
    qtest_add_data_func("/colo/power/primary/plain", NULL, test_primary);
    qtest_add_data_func("/colo/power/primary/batch", "batch", test_primary);
    for (int i = 0; i < ARRAY_SIZE(stages); i++) {
        g_autofree char *name = g_strdup_printf("/colo/power/survivor/%s",
                                                stages[i]);

        qtest_add_data_func(name, stages[i], test_survivor);
    }
    for (int i = 0; i < ARRAY_SIZE(files); i++) {
        g_autofree char *name = g_strdup_printf("/colo/power/error/%s",
                                                files[i]);

        qtest_add_data_func(name, files[i], test_error);
    }
    return g_test_run();
}
