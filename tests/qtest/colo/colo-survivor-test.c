/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: the disk of a secondary that has failed over.
 *
 * Proves: when its overlays could not be folded into it, as it was full say, or
 * the job was cancelled, x-colo-fold does it while the guest goes on, as often
 * as needed, and says why if there is nothing to do.  What the guest discards
 * is freed in the image, be it that it does so before that is folded.
 *
 * The nodes are those of the manual.  No guest runs, the monitor writes in its
 * place, and the test in that of the primary.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "libqos/libqos.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-nbd.h"

typedef struct Survivor {
    char *dir;
    char *raw;
    char *active;
    char *hidden;
    char *socket;
    QTestState *qts;
    int primary;                /* a client of the disk */
} Survivor;

/* @more: options of the blkdebug below the disk */
static Survivor *survivor_new(const char *more)
{
    Survivor *s = g_new0(Survivor, 1);

    disk_deadline_begin();
    s->dir = g_dir_make_tmp("colo-survivor-XXXXXX", NULL);
    g_assert_nonnull(s->dir);
    s->raw = disk_new_file(s->dir, "disk", false);
    s->active = disk_new_file(s->dir, "active", true);
    s->hidden = disk_new_file(s->dir, "hidden", true);
    s->socket = g_build_filename(s->dir, "nbd", NULL);
    s->qts = qtest_initf(
        ">/dev/null -M none -nodefaults "
        "-drive if=none,id=parent,driver=raw,discard=unmap,"
        "file.driver=blkdebug,file.discard=unmap,file.image.driver=file,"
        "file.image.discard=unmap,file.image.filename=%s%s "
        "-drive if=none,id=childs,node-name=repl,driver=replication,"
        "mode=secondary,top-id=top,file.driver=qcow2,file.file.filename=%s,"
        "file.backing.driver=qcow2,file.backing.file.filename=%s,"
        "file.backing.backing=parent "
        "-drive if=none,id=top,node-name=topnode,driver=quorum,discard=unmap,"
        "read-pattern=fifo,vote-threshold=1,children.0=childs",
        s->raw, more, s->active, s->hidden);
    disk_export_top(s->qts, s->socket);
    qtest_qmp_assert_success(s->qts, "{'execute': 'nbd-server-add', "
                             "'arguments': {'device': 'parent', 'name': 'd', "
                             "'writable': true}}");
    disk_replicate(s->qts, true, false);
    s->primary = colo_nbd_client(s->socket, 'd');
    return s;
}

static void survivor_free(Survivor *s)
{
    close(s->primary);
    colo_quit(&s->qts);
    disk_free_file(s->raw);
    disk_free_file(s->active);
    disk_free_file(s->hidden);
    disk_free_file(s->socket);
    rmdir(s->dir);
    g_free(s->dir);
    g_free(s);
    disk_deadline_end();
}

static void primary_writes(Survivor *s, int byte, int64_t offset,
                           int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    memset(buf, byte, bytes);
    g_assert_cmpint(colo_nbd_pwrite(s->primary, buf, offset, bytes), ==, 0);
}

/* What the guest sees after this is 0x21, 0x31 and 0x32, 1 MiB each */
static void session(Survivor *s)
{
    primary_writes(s, 0x21, 0, 2 * MiB);
    qtest_qmp_assert_success(s->qts, "{'execute': 'xen-colo-do-checkpoint'}");
    disk_write(s->qts, 0x31, MiB, MiB);
    disk_write(s->qts, 0x32, 8 * MiB, MiB);
    primary_writes(s, 0x22, 0, MiB);
}

static void check_view(Survivor *s)
{
    disk_read(s->socket, 0x21, 0, MiB);
    disk_read(s->socket, 0x31, MiB, MiB);
    disk_read(s->socket, 0x32, 8 * MiB, MiB);
}

static void check_folded(Survivor *s)
{
    disk_check_stage(s->qts, "folded");
    check_view(s);
    g_assert_true(disk_file_has(s->raw, 0x21, 0, MiB));
    g_assert_true(disk_file_has(s->raw, 0x31, MiB, MiB));
    g_assert_true(disk_file_has(s->raw, 0x32, 8 * MiB, MiB));
}

static void fold(Survivor *s, const char *disk)
{
    qtest_qmp_assert_success(s->qts, "{'execute': 'x-colo-fold', "
                             "'arguments': {'disk': %s}}", disk);
}

static void fold_refused(Survivor *s, const char *disk, const char *text)
{
    colo_refused(s->qts, text, "{'execute': 'x-colo-fold', "
                 "'arguments': {'disk': %s}}", disk);
}

static bool has_error(Survivor *s)
{
    QDict *disk = disk_query(s->qts);
    bool has = qdict_haskey(disk, "error");

    qobject_unref(disk);
    return has;
}

/* What to do is in the error */
static void check_error(Survivor *s)
{
    QDict *disk = disk_query(s->qts);

    g_assert_nonnull(strstr(qdict_get_str(disk, "error"), "x-colo-fold"));
    qobject_unref(disk);
}

static void wait_unfolded(Survivor *s)
{
    disk_wait_no_job(s->qts);
    disk_check_stage(s->qts, "unfolded");
    check_error(s);
    check_view(s);
}

/* The tests */

/* Two places that only the job writes to, and that fail once each */
static void test_full(void)
{
    Survivor *s = survivor_new(
        ",file.inject-error.0.event=none,file.inject-error.0.iotype=write,"
        "file.inject-error.0.errno=28,file.inject-error.0.once=on,"
        "file.inject-error.0.sector=16384,"
        "file.inject-error.1.event=none,file.inject-error.1.iotype=write,"
        "file.inject-error.1.errno=28,file.inject-error.1.once=on,"
        "file.inject-error.1.sector=17408");

    session(s);
    fold_refused(s, "top", "is running");
    disk_failover(s->qts, false);
    wait_unfolded(s);
    fold_refused(s, "parent", "no replication node of a secondary");
    fold_refused(s, "nobody", "nobody");
    fold(s, "top");
    wait_unfolded(s);
    disk_write(s->qts, 0x33, 12 * MiB, MiB);
    fold(s, "childs");
    disk_wait_no_job(s->qts);
    check_folded(s);
    g_assert_true(disk_file_has(s->raw, 0x33, 12 * MiB, MiB));
    g_assert_false(has_error(s));
    fold_refused(s, "top", "is folded");
    survivor_free(s);
}

static void hold_write(Survivor *s)
{
    disk_io_at(s->qts, "parent", "break write_aio X");
}

static void wait_held(Survivor *s)
{
    QDict *disk;

    disk_io_at(s->qts, "parent", "wait_break X");
    disk = disk_query(s->qts);
    g_assert_cmpstr(qdict_get_str(disk, "stage"), ==, "folding");
    g_assert_cmpint(qdict_get_int(disk, "fold-total"), >, 0);
    g_assert_false(qdict_haskey(disk, "error"));
    qobject_unref(disk);
}

/* The job is cancelled at its first write, and so is the next one */
static void test_cancel(void)
{
    Survivor *s = survivor_new("");

    session(s);
    hold_write(s);
    disk_failover(s->qts, false);
    for (int i = 0; i < 2; i++) {
        wait_held(s);
        fold_refused(s, "top", "is folding");
        qtest_qmp_assert_success(s->qts, "{'execute': 'block-job-cancel', "
                                 "'arguments': {'device': 'replication-repl', "
                                 "'force': true}}");
        disk_io_at(s->qts, "parent", "resume X");
        wait_unfolded(s);
        hold_write(s);
        fold(s, "top");
    }
    wait_held(s);
    disk_io_at(s->qts, "parent", "resume X");
    disk_wait_no_job(s->qts);
    check_folded(s);
    survivor_free(s);
}

static int64_t allocated(Survivor *s)
{
    struct stat st;

    g_assert_cmpint(stat(s->raw, &st), ==, 0);
    return st.st_blocks * 512LL;
}

/* While the overlays are folded, and when they are */
static void test_trim(void)
{
    Survivor *s = survivor_new("");
    int64_t before;

    primary_writes(s, 0x21, 0, 12 * MiB);
    qtest_qmp_assert_success(s->qts, "{'execute': 'xen-colo-do-checkpoint'}");
    disk_write(s->qts, 0x31, 11 * MiB, MiB);
    before = allocated(s);
    if (before < 12 * MiB) {
        g_test_skip("the file system tells no allocated size");
        survivor_free(s);
        return;
    }
    hold_write(s);
    disk_failover(s->qts, false);
    wait_held(s);
    disk_io(s->qts, "discard 0 4M");
    disk_check_stage(s->qts, "folding");
    disk_io_at(s->qts, "parent", "resume X");
    disk_wait_no_job(s->qts);
    disk_check_stage(s->qts, "folded");
    g_assert_cmpint(allocated(s), <=, before - 4 * MiB + 64 * KiB);
    disk_io(s->qts, "discard 4M 4M");
    g_assert_cmpint(allocated(s), <=, before - 8 * MiB + 64 * KiB);
    disk_read(s->socket, 0, 0, 8 * MiB);
    disk_read(s->socket, 0x21, 8 * MiB, 3 * MiB);
    disk_read(s->socket, 0x31, 11 * MiB, MiB);
    survivor_free(s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    qtest_add_func("/colo/survivor/full", test_full);
    qtest_add_func("/colo/survivor/cancel", test_cancel);
    qtest_add_func("/colo/survivor/trim", test_trim);
    return g_test_run();
}
