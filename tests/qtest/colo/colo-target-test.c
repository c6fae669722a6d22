/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: the disk that a resync writes to.
 *
 * Two QEMUs, NBD with a replication-sink between them; no guest runs.  Proves:
 * from its first byte on until it has completed a resync leaves a word beside
 * the secondary's image that says so, cancelled or broken, and neither side
 * begins with such a disk; one from a stale disk is refused before anything is
 * written; and so is one that cannot be recorded.  The same word is there when
 * others than the sink have written.  Holes stay holes.
 */

#include "qemu/osdep.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-nbd.h"

/* Bytes of both disks */
#define OURS 0x4f
#define THEIRS 0x4e

#define ADD_NODE                                                            \
    "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication', "   \
    "'node-name': 'repl', 'mode': 'primary', 'batch': true, "               \
    "'generation-file': %s, 'file': {'driver': 'nbd', 'export': 's', "      \
    "'server': {'type': 'unix', 'path': %s}}}}"

typedef struct Disks {
    char *dir;
    char *raw[2];
    char *generation[2];
    char *active;
    char *hidden;
    char *socket;
    QTestState *primary;
    QTestState *secondary;
} Disks;

static char *new_file(const char *dir, const char *name, int byte)
{
    g_autofree uint8_t *data = g_malloc(DISK);
    char *path = disk_new_file(dir, name, false);

    memset(data, byte, DISK);
    g_assert_true(g_file_set_contents(path, (char *)data, DISK, NULL));
    return path;
}

static void start_secondary(Disks *d, bool has_file)
{
    g_autofree char *option =
        has_file ? g_strdup_printf(",children.0.generation-file=%s",
                                   d->generation[1]) : g_strdup("");

    d->secondary = qtest_initf(
        ">/dev/null -M none -nodefaults "
        "-blockdev driver=raw,node-name=image,file.driver=file,"
        "file.filename=%s "
        "-blockdev driver=replication-sink,node-name=sink,file=image "
        "-blockdev driver=qcow2,node-name=active,file.driver=file,"
        "file.filename=%s,backing.driver=qcow2,backing.file.driver=file,"
        "backing.file.filename=%s,backing.backing=image "
        "-drive if=none,id=top,node-name=topnode,driver=quorum,"
        "read-pattern=fifo,vote-threshold=1,children.0.driver=replication,"
        "children.0.node-name=repl,children.0.mode=secondary,"
        "children.0.top-id=top,children.0.file=active%s",
        d->raw[1], d->active, d->hidden, option);
    disk_serve(d->secondary, d->socket);
    disk_export(d->secondary, "sink", "s", true);
}

static Disks *disks_new(bool has_file)
{
    Disks *d = g_new0(Disks, 1);

    disk_deadline_begin();
    d->dir = g_dir_make_tmp("colo-target-XXXXXX", NULL);
    g_assert_nonnull(d->dir);
    d->socket = g_build_filename(d->dir, "nbd", NULL);
    d->raw[0] = new_file(d->dir, "primary", OURS);
    d->raw[1] = new_file(d->dir, "secondary", THEIRS);
    d->generation[0] = g_build_filename(d->dir, "generation-0", NULL);
    d->generation[1] = g_build_filename(d->dir, "generation-1", NULL);
    d->active = disk_new_file(d->dir, "active", true);
    d->hidden = disk_new_file(d->dir, "hidden", true);
    start_secondary(d, has_file);
    d->primary = qtest_initf(
        ">/dev/null -M pc -nodefaults "
        "-drive if=none,id=top,node-name=topnode,driver=quorum,"
        "read-pattern=fifo,vote-threshold=1,"
        "children.0.driver=raw,children.0.node-name=local,"
        "children.0.file.driver=file,children.0.file.filename=%s "
        "-device virtio-blk-pci,drive=top", d->raw[0]);
    return d;
}

static void disks_free(Disks *d)
{
    colo_quit(&d->primary);
    colo_quit(&d->secondary);
    for (int i = 0; i < 2; i++) {
        disk_free_file(d->raw[i]);
        disk_free_file(d->generation[i]);
    }
    disk_free_file(d->active);
    disk_free_file(d->hidden);
    disk_free_file(d->socket);
    rmdir(d->dir);
    g_free(d->dir);
    g_free(d);
    disk_deadline_end();
}

static void write_generation(Disks *d, int side, const char *words)
{
    g_autofree char *text = g_strdup_printf("colo-disk-generation %s\n", words);

    g_assert_true(g_file_set_contents(d->generation[side], text, -1, NULL));
}

static bool has_generation(Disks *d, int side, const char *words)
{
    g_autofree char *want = g_strdup_printf("colo-disk-generation %s\n",
                                            words);
    g_autofree char *text = NULL;

    return g_file_get_contents(d->generation[side], &text, NULL, NULL) &&
           g_str_equal(text, want);
}

static void check_generation(Disks *d, int side, const char *words)
{
    g_assert_true(has_generation(d, side, words));
}

static void add_node(Disks *d)
{
    qtest_qmp_assert_success(d->primary, ADD_NODE, d->generation[0],
                             d->socket);
    disk_add_child(d->primary, "top", "repl");
}

static void remove_node(Disks *d)
{
    disk_del_child(d->primary, "top", "children.1");
    qtest_qmp_assert_success(d->primary, "{'execute': 'blockdev-del', "
                             "'arguments': {'node-name': 'repl'}}");
}

/* @speed: bytes in a second, 0 for all there is */
static void resync(Disks *d, int speed)
{
    qtest_qmp_assert_success(d->primary,
        "{'execute': 'x-colo-resync', 'arguments': {'job-id': 'j', "
        "'node': 'repl', 'speed': %d}}", speed);
}

/* The job ends, or fails */
static void wait_end(Disks *d, bool fails)
{
    QDict *answer = colo_wait_event(d->primary, "BLOCK_JOB_COMPLETED");

    g_assert_cmpint(qdict_haskey(qdict_get_qdict(answer, "data"), "error"),
                    ==, fails);
    qobject_unref(answer);
}

/* Something of the resync is on the disk, and it is cancelled */
static void cancel_amidst(Disks *d)
{
    resync(d, 4096);
    disk_wait_file(d->raw[1], OURS, 0, 512);
    qtest_qmp_assert_success(d->primary, "{'execute': 'block-job-cancel', "
                             "'arguments': {'device': 'j'}}");
    qobject_unref(colo_wait_event(d->primary, "BLOCK_JOB_CANCELLED"));
    g_assert_true(disk_file_has(d->raw[1], THEIRS, DISK - 512, 512));
}

/* A disk that is newer stays as it is, until the user says so */
static void test_stale(const void *opaque)
{
    const char *const *generations = opaque;
    Disks *d = disks_new(true);

    write_generation(d, 0, generations[0]);
    write_generation(d, 1, generations[1]);
    colo_refused(d->primary, "the disk of the secondary is newer", ADD_NODE,
                 d->generation[0], d->socket);
    check_generation(d, 0, generations[0]);
    check_generation(d, 1, generations[1]);
    g_assert_true(disk_file_has(d->raw[1], THEIRS, 0, DISK));

    unlink(d->generation[1]);
    add_node(d);
    resync(d, 0);
    wait_end(d, false);
    g_assert_true(disk_same(d->raw[0], d->raw[1]));
    disks_free(d);
}

/* It has become newer since the node was made: the sink itself refuses */
static void test_stale_later(void)
{
    Disks *d = disks_new(true);

    write_generation(d, 0, "3 alone");
    write_generation(d, 1, "2 secondary");
    add_node(d);
    write_generation(d, 1, "4 alone");
    resync(d, 0);
    wait_end(d, true);
    check_generation(d, 1, "4 alone");
    g_assert_true(disk_file_has(d->raw[1], THEIRS, 0, DISK));
    disks_free(d);
}

static void test_marked(void)
{
    Disks *d = disks_new(true);

    write_generation(d, 0, "3 alone");
    write_generation(d, 1, "2 secondary");
    add_node(d);
    check_generation(d, 1, "2 secondary");
    cancel_amidst(d);
    check_generation(d, 1, "2 inconsistent");
    disk_start_refused(d->secondary, false, "has not completed");

    /* Another node does not make it better, nor does another QEMU */
    remove_node(d);
    add_node(d);
    check_generation(d, 1, "2 inconsistent");
    colo_quit(&d->secondary);
    start_secondary(d, true);
    disk_start_refused(d->secondary, false, "has not completed");
    remove_node(d);
    add_node(d);

    resync(d, 0);
    wait_end(d, false);
    check_generation(d, 1, "3 secondary");
    g_assert_true(disk_same(d->raw[0], d->raw[1]));
    disk_replicate(d->secondary, true, false);
    disk_replicate(d->primary, true, true);
    disks_free(d);
}

/* Such a disk is nothing to begin with as the primary's either */
static void test_primary(void)
{
    Disks *d = disks_new(true);

    write_generation(d, 0, "3 inconsistent");
    add_node(d);
    disk_start_refused(d->primary, true, "has not completed");
    colo_refused(d->primary, "has not completed",
                 "{'execute': 'x-colo-resync', 'arguments': {'job-id': 'j', "
                 "'node': 'repl'}}");
    g_assert_true(disk_file_has(d->raw[1], THEIRS, 0, DISK));
    disks_free(d);
}

/* The secondary dies in the middle of it */
static void test_killed(void)
{
    Disks *d = disks_new(true);

    write_generation(d, 0, "3 alone");
    add_node(d);
    resync(d, 4096);
    disk_wait_file(d->raw[1], OURS, 0, 512);
    colo_kill(&d->secondary);
    check_generation(d, 1, "0 inconsistent");
    qtest_qmp_assert_success(d->primary, "{'execute': 'block-job-set-speed', "
                             "'arguments': {'device': 'j', 'speed': 0}}");
    wait_end(d, true);
    start_secondary(d, true);
    disk_start_refused(d->secondary, false, "has not completed");
    disks_free(d);
}

/* Without a file this QEMU remembers it */
static void test_no_file(void)
{
    Disks *d = disks_new(false);

    add_node(d);
    cancel_amidst(d);
    disk_start_refused(d->secondary, false, "has not completed");
    resync(d, 0);
    wait_end(d, false);
    disk_replicate(d->secondary, true, false);
    g_assert_false(g_file_test(d->generation[1], G_FILE_TEST_EXISTS));
    disks_free(d);
}

/* What cannot be recorded does not begin */
static void test_not_recorded(void)
{
    Disks *d = disks_new(true);

    write_generation(d, 1, "1 secondary");
    write_generation(d, 0, "1 primary");
    add_node(d);
    unlink(d->generation[1]);
    g_assert_cmpint(mkdir(d->generation[1], 0755), ==, 0);
    resync(d, 0);
    wait_end(d, true);
    g_assert_true(disk_file_has(d->raw[1], THEIRS, 0, DISK));
    rmdir(d->generation[1]);
    disks_free(d);
}

/* The guest writes to an older disk before the resync begins */
static void test_written(void)
{
    Disks *d = disks_new(true);

    write_generation(d, 0, "3 alone");
    write_generation(d, 1, "2 secondary");
    add_node(d);
    disk_io(d->primary, "flush");
    disk_write(d->primary, 0x31, MiB, MiB);
    disk_wait_file(d->raw[1], 0x31, MiB, MiB);
    check_generation(d, 1, "2 inconsistent");
    disk_start_refused(d->secondary, false, "has not completed");

    resync(d, 0);
    wait_end(d, false);
    check_generation(d, 1, "3 secondary");
    disk_write(d->primary, 0x32, MiB, MiB);
    disk_wait_file(d->raw[1], 0x32, MiB, MiB);
    check_generation(d, 1, "3 secondary");
    disk_replicate(d->secondary, true, false);
    disk_replicate(d->primary, true, true);
    disks_free(d);
}

/* Of a copy nobody knows that it is another disk */
static void test_written_copy(void)
{
    Disks *d = disks_new(true);

    write_generation(d, 0, "3 alone");
    add_node(d);
    disk_write(d->primary, 0x31, MiB, MiB);
    disk_wait_file(d->raw[1], 0x31, MiB, MiB);
    g_assert_false(g_file_test(d->generation[1], G_FILE_TEST_EXISTS));
    disk_replicate(d->secondary, true, false);
    disks_free(d);
}

/* The export of the image itself, and a node for what is sent there */
static void add_plain_node(Disks *d)
{
    qtest_qmp_assert_success(d->primary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication', "
        "'node-name': 'repl', 'mode': 'primary', 'generation-file': %s, "
        "'file': {'driver': 'nbd', 'export': 'd', "
        "'server': {'type': 'unix', 'path': %s}}}}", d->generation[0],
        d->socket);
    disk_add_child(d->primary, "top", "repl");
}

/*
 * Who writes to the image itself says nothing of what and why: so from the
 * first byte on it is a mixture.  That ends with a session, which a primary
 * begins that has brought the image up to date.
 */
static void test_plain(void)
{
    uint8_t data[512] = { OURS };
    Disks *d = disks_new(true);
    int fd;

    write_generation(d, 0, "3 secondary");
    write_generation(d, 1, "9 alone");
    disk_export(d->secondary, "image", "d", true);
    fd = colo_nbd_client(d->socket, 'd');
    g_assert_cmpint(colo_nbd_pread(fd, data, MiB, sizeof(data)), ==, 0);
    check_generation(d, 1, "9 alone");
    g_assert_cmpint(colo_nbd_pwrite(fd, data, 0, sizeof(data)), ==, 0);
    check_generation(d, 1, "9 inconsistent");
    close(fd);

    write_generation(d, 0, "9 alone");
    add_plain_node(d);
    resync(d, 0);
    wait_end(d, false);
    g_assert_true(disk_same(d->raw[0], d->raw[1]));
    check_generation(d, 1, "9 inconsistent");
    disk_replicate(d->secondary, true, false);
    disk_replicate(d->primary, true, true);
    disks_free(d);
}

/* A resync that completes ends it, and it begins anew */
static void test_plain_again(void)
{
    uint8_t data[512] = { OURS };
    Disks *d = disks_new(true);
    int fd;

    write_generation(d, 0, "3 alone");
    write_generation(d, 1, "2 secondary");
    disk_export(d->secondary, "image", "d", true);
    fd = colo_nbd_client(d->socket, 'd');
    g_assert_cmpint(colo_nbd_pwrite(fd, data, 0, sizeof(data)), ==, 0);
    check_generation(d, 1, "2 inconsistent");
    add_node(d);
    resync(d, 0);
    wait_end(d, false);
    check_generation(d, 1, "3 secondary");
    g_assert_cmpint(colo_nbd_pwrite(fd, data, 0, sizeof(data)), ==, 0);
    check_generation(d, 1, "3 inconsistent");
    close(fd);
    disks_free(d);
}

/* Without a word beside it the image is anything; a broken copy is a mixture */
static void test_plain_kept(void)
{
    Disks *d = disks_new(true);

    disk_export(d->secondary, "image", "d", true);
    add_plain_node(d);
    disk_write(d->primary, 0x31, MiB, MiB);
    disk_wait_file(d->raw[1], 0x31, MiB, MiB);
    g_assert_false(g_file_test(d->generation[1], G_FILE_TEST_EXISTS));
    remove_node(d);
    colo_quit(&d->secondary);

    write_generation(d, 1, "3 secondary");
    start_secondary(d, true);
    disk_export(d->secondary, "image", "d", true);
    add_plain_node(d);
    cancel_amidst(d);
    check_generation(d, 1, "3 inconsistent");
    colo_quit(&d->secondary);
    start_secondary(d, true);
    disk_start_refused(d->secondary, false, "has not completed");
    check_generation(d, 1, "3 inconsistent");
    disks_free(d);
}

static void punch(const char *path, int64_t offset, int64_t bytes)
{
    int fd = open(path, O_WRONLY);

    g_assert_cmpint(fd, >=, 0);
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                  bytes) < 0) {
        g_assert_cmpint(errno, ==, EOPNOTSUPP);
        g_test_message("no holes in files here");
    }
    close(fd);
}

static int64_t allocated(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return st.st_blocks * 512LL;
}

/*
 * A sparse image stays so, though it may not be discarded: holes come to
 * holes, and zeroes to what was there.
 */
static void test_sparse(void)
{
    Disks *d = disks_new(true);
    int64_t before;

    punch(d->raw[0], 0, DISK - MiB);
    punch(d->raw[1], MiB, DISK - MiB);
    before = allocated(d->raw[1]);
    add_node(d);
    resync(d, 0);
    wait_end(d, false);
    g_assert_true(disk_same(d->raw[0], d->raw[1]));
    g_assert_cmpint(allocated(d->raw[1]), <=, before + 2 * MiB);
    disks_free(d);
}

int main(int argc, char **argv)
{
    static const char *const higher[] = { "3 alone", "9 alone" };
    static const char *const equal[] = { "5 secondary", "5 primary" };

    g_test_init(&argc, &argv, NULL);
    qtest_add_data_func("/colo/target/stale/higher", higher, test_stale);
    qtest_add_data_func("/colo/target/stale/equal", equal, test_stale);
    qtest_add_func("/colo/target/stale/later", test_stale_later);
    qtest_add_func("/colo/target/marked", test_marked);
    qtest_add_func("/colo/target/written", test_written);
    qtest_add_func("/colo/target/written-copy", test_written_copy);
    qtest_add_func("/colo/target/sparse", test_sparse);
    qtest_add_func("/colo/target/plain", test_plain);
    qtest_add_func("/colo/target/plain-again", test_plain_again);
    qtest_add_func("/colo/target/plain-kept", test_plain_kept);
    qtest_add_func("/colo/target/primary", test_primary);
    qtest_add_func("/colo/target/killed", test_killed);
    qtest_add_func("/colo/target/no-file", test_no_file);
    qtest_add_func("/colo/target/not-recorded", test_not_recorded);
    return g_test_run();
}
