/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: the guest's disk becomes longer in a session.
 *
 * Pairs without a guest, with a sink, in both modes, so with both epoch stores;
 * each checkpoint compares the disks.  Proves: block_resize of the primary's disk
 * makes the images of both sides longer; the secondary's guest sees the old length
 * until the commit, also when what was written to the new part has arrived, and
 * the new one from then on, with what is there; a survivor has the length of the
 * checkpoint that it goes on from, on its disk, for its device, and what is cut
 * off does not come back.  It can be done again, and by a survivor that is alone.
 * A comparison in the session looks at the new part as well, with hashes, which the
 * primary's client knows of the old part only, and without.
 * What cannot be done is refused with a reason, and then neither image has another
 * length.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-nbd.h"
#include "colo-pair-disk.h"

#define GUEST_DISK "-d /machine/peripheral/disk9/virtio-backend"
#define NEVER_MS 600000         /* no checkpoint unless it is asked for */
#define LONG (24 * MiB)
#define LONGER (40 * MiB)

/* Of the guest's virtio-blk-pci, which has a legacy BAR */
#define PCI_ADDRESS 0xcf8
#define PCI_DATA 0xcfc
#define PCI_SLOT 6
#define IO_BASE 0xc000
#define CAPACITY_AT 0x14        /* sectors */

typedef struct Grow {
    ColoPair *pair;
    char *raw[2];
    char *active;
    char *hidden;
    char *socket;
    unsigned n_views;
} Grow;

static QDict *fixed_file(const char *file)
{
    return qdict_from_jsonf_nofail("{'driver': 'raw', 'size': %d, 'file': %p}",
                                   (int)DISK, pair_disk_file(file));
}

static void add_primary(Grow *t, bool batch)
{
    QTestState *qts = t->pair->primary;

    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-add',"
        "'arguments': {'driver': 'replication', 'node-name': 'repl',"
        "'mode': 'primary', 'batch': %i, 'file': {'driver': 'nbd',"
        "'export': 'd', 'server': {'type': 'unix', 'path': %s}}}}",
        batch, t->socket);
    disk_add_child(qts, "disk0", "repl");
}

static Grow *grow_new(const void *mode, QDict *local,
                      QDict *(*image)(const char *), bool batch)
{
    Grow *t = g_new0(Grow, 1);
    ColoPair *p = colo_pair_new_with(mode, "qtest", "");

    t->pair = p;
    colo_pair_unplug_net(p);
    t->raw[0] = disk_new_file(p->dir, "image-0", false);
    t->raw[1] = disk_new_file(p->dir, "image-1", false);
    t->active = disk_new_file(p->dir, "active", true);
    t->hidden = disk_new_file(p->dir, "hidden", true);
    t->socket = g_build_filename(p->dir, "nbd", NULL);
    pair_disk_add_secondary_on(p->secondary, image(t->raw[1]), t->active,
                               pair_disk_file(t->hidden), NULL);
    qtest_qmp_assert_success(p->secondary, "{'execute': 'blockdev-add',"
        "'arguments': {'driver': 'replication-sink', 'node-name': 'sink0',"
        "'file': 'image0'}}");
    disk_serve(p->secondary, t->socket);
    disk_export(p->secondary, batch ? "sink0" : "image0", "d", true);
    qtest_qmp_assert_success(p->primary, "{'execute': 'blockdev-add',"
        "'arguments': {'driver': 'raw', 'node-name': 'local0', 'file': %p}}",
        local ?: pair_disk_file(t->raw[0]));
    pair_disk_add_local(p->primary, "local0");
    add_primary(t, batch);
    return t;
}

static void protect(Grow *t)
{
    colo_pair_migrate(t->pair, "mig", "mig", NEVER_MS, COLO_TIMEOUT_MS);
    colo_wait_state(t->pair->primary, "running");
}

static Grow *grow_protected(const void *mode)
{
    Grow *t = grow_new(mode, NULL, pair_disk_file, true);

    protect(t);
    return t;
}

static void grow_free(Grow *t)
{
    colo_pair_free(t->pair);
    g_free(t->raw[0]);
    g_free(t->raw[1]);
    g_free(t->active);
    g_free(t->hidden);
    g_free(t->socket);
    g_free(t);
}

static void resize(QTestState *qts, int64_t size)
{
    qtest_qmp_assert_success(qts, "{'execute': 'block_resize', 'arguments': {"
                             "'node-name': 'disk0', 'size': %" PRId64 "}}",
                             size);
}

static void refuse(QTestState *qts, int64_t size, const char *text)
{
    colo_refused(qts, text, "{'execute': 'block_resize', 'arguments': {"
                 "'node-name': 'disk0', 'size': %" PRId64 "}}", size);
}

static void guest_write(QTestState *qts, int byte, int64_t offset,
                        int64_t bytes)
{
    disk_io_at(qts, GUEST_DISK, "write -P %d %" PRId64 " %" PRId64, byte,
               offset, bytes);
}

/* All that was written has arrived at the secondary */
static void wait_arrived(Grow *t)
{
    while (disk_log_number(t->pair->primary, "bytes")) {
        g_usleep(2000); /* the pair has a deadline */
    }
}

/* How long the guest's disk is */
static int64_t length_of(QTestState *qts)
{
    QDict *answer = qtest_qmp(qts, "{'execute': 'query-named-block-nodes'}");
    int64_t length = -1;
    QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(answer, "return"), e) {
        QDict *node = qobject_to(QDict, qlist_entry_obj(e));

        if (g_str_equal(qdict_get_str(node, "node-name"), "disk0")) {
            length = qdict_get_int(qdict_get_qdict(node, "image"),
                                   "virtual-size");
        }
    }
    qobject_unref(answer);
    return length;
}

/* What its device says */
static int64_t capacity_of(QTestState *qts)
{
    uint32_t at = 0x80000000 | PCI_SLOT << 11;

    qtest_outl(qts, PCI_ADDRESS, at | 0x10);
    qtest_outl(qts, PCI_DATA, IO_BASE);
    qtest_outl(qts, PCI_ADDRESS, at | 0x04);
    qtest_outl(qts, PCI_DATA, 7);
    return (qtest_inl(qts, IO_BASE + CAPACITY_AT) |
            (uint64_t)qtest_inl(qts, IO_BASE + CAPACITY_AT + 4) << 32) * 512;
}

static int64_t file_length(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return st.st_size;
}

static void wait_checkpoints(Grow *t, int64_t n)
{
    colo_wait_statistic(t->pair->primary, "checkpoints", n);
    g_assert_cmpint(colo_statistic(t->pair->secondary, "disk-mismatches"), ==,
                    0);
}

static void checkpoint(Grow *t)
{
    int64_t n = colo_statistic(t->pair->primary, "checkpoints");

    qtest_qmp_assert_success(t->pair->primary,
                             "{'execute': 'x-colo-checkpoint'}");
    wait_checkpoints(t, n + 1);
}

/* The disk becomes longer, and the checkpoint that follows is there */
static void resize_committed(Grow *t, int64_t size)
{
    int64_t n = colo_statistic(t->pair->primary, "checkpoints");

    resize(t->pair->primary, size);
    g_assert_cmpint(length_of(t->pair->primary), ==, size);
    wait_checkpoints(t, n + 1);
    g_assert_cmpint(length_of(t->pair->secondary), ==, size);
}

/* What the guest would read is this */
static void check_data(Grow *t, QTestState *qts, int byte, int64_t offset,
                       int64_t bytes)
{
    char name[] = { 'A' + t->n_views++ % 26, '\0' };
    g_autofree uint8_t *buf = g_malloc(bytes);
    g_autofree uint8_t *want = g_malloc(bytes);
    int fd;

    disk_export(qts, "disk0", name, false);
    fd = colo_nbd_client(t->socket, name[0]);
    g_assert_cmpint(colo_nbd_pread(fd, buf, offset, bytes), ==, 0);
    close(fd);
    memset(want, byte, bytes);
    g_assert_cmpmem(buf, bytes, want, bytes);
    qtest_qmp_assert_success(qts, "{'execute': 'block-export-del', "
                             "'arguments': {'id': %s, 'mode': 'hard'}}", name);
    qobject_unref(colo_wait_event(qts, "BLOCK_EXPORT_DELETED"));
}

static void fail_over(Grow *t)
{
    if (t->pair->primary) {
        colo_kill(&t->pair->primary);
    }
    colo_wait_state(t->pair->secondary, "lost");
    colo_failover(t->pair->secondary);
    colo_wait_migrate(t->pair->secondary, "completed");
    colo_wait_status(t->pair->secondary, "running");
}

/* The survivor's disk has this length, also when nothing is left to be done */
static void check_survivor(Grow *t, int64_t length)
{
    QTestState *qts = t->pair->secondary;

    g_assert_cmpint(length_of(qts), ==, length);
    g_assert_cmpint(capacity_of(qts), ==, length);
    disk_wait_no_job(qts);
    while (true) {
        QDict *answer = colo_status(qts);
        QDict *disk = qobject_to(QDict, qlist_peek(qdict_get_qlist(answer,
                                                                   "disks")));
        bool folded = g_str_equal(qdict_get_str(disk, "stage"), "folded");

        qobject_unref(answer);
        if (folded) {
            break;
        }
        g_usleep(2000); /* the pair has a deadline */
    }
    g_assert_cmpint(file_length(t->raw[1]), ==, length);
    g_assert_cmpint(length_of(qts), ==, length);
    g_assert_cmpint(capacity_of(qts), ==, length);
}

/* A survivor of a longer disk has all of it; alone it can have more */
static void test_committed(const void *mode)
{
    Grow *t = grow_protected(mode);
    QTestState *survivor = t->pair->secondary;

    guest_write(t->pair->primary, 1, DISK - MiB, MiB);
    checkpoint(t);
    resize_committed(t, LONG);
    g_assert_cmpint(file_length(t->raw[0]), ==, LONG);
    g_assert_cmpint(file_length(t->raw[1]), ==, LONG);
    check_data(t, survivor, 1, DISK - MiB, MiB);
    check_data(t, survivor, 0, DISK, MiB);

    guest_write(t->pair->primary, 2, LONG - MiB, MiB);
    guest_write(t->pair->primary, 3, DISK - MiB, 2 * MiB);
    wait_arrived(t);
    check_data(t, survivor, 0, LONG - MiB, MiB);
    check_data(t, survivor, 1, DISK - MiB, MiB);
    checkpoint(t);
    check_data(t, survivor, 2, LONG - MiB, MiB);
    check_data(t, survivor, 3, DISK - MiB, 2 * MiB);

    /* Not committed, to the old and the new part */
    guest_write(t->pair->primary, 4, DISK - MiB, 4 * MiB);
    wait_arrived(t);
    fail_over(t);
    check_data(t, survivor, 3, DISK - MiB, 2 * MiB);
    check_data(t, survivor, 2, LONG - MiB, MiB);
    check_survivor(t, LONG);
    check_data(t, survivor, 3, DISK - MiB, 2 * MiB);
    check_data(t, survivor, 0, DISK + MiB, MiB);
    check_data(t, survivor, 2, LONG - MiB, MiB);

    resize(survivor, LONGER);
    g_assert_cmpint(capacity_of(survivor), ==, LONGER);
    guest_write(survivor, 5, LONGER - MiB, MiB);
    check_data(t, survivor, 5, LONGER - MiB, MiB);
    g_assert_cmpint(file_length(t->raw[1]), ==, LONGER);
    grow_free(t);
}

/* Written to the new part, arrived, and the primary dies before the commit */
static void test_uncommitted(const void *mode)
{
    Grow *t = grow_protected(mode);
    QTestState *primary = t->pair->primary;
    QTestState *survivor = t->pair->secondary;

    guest_write(primary, 1, DISK - MiB, MiB);
    checkpoint(t);
    colo_fault(primary, "primary-send-checkpoint-request", "hang");
    guest_write(primary, 2, 0, MiB);
    resize(primary, LONG);
    colo_wait_hang(primary, "primary-send-checkpoint-request");
    guest_write(primary, 3, DISK - MiB, 2 * MiB);
    guest_write(primary, 4, LONG - MiB, MiB);
    colo_fault(primary, "primary-send-vmstate-size", "hang");
    colo_wait_hang(primary, "primary-send-vmstate-size");
    g_assert_cmpint(length_of(primary), ==, LONG);
    g_assert_cmpint(capacity_of(primary), ==, LONG);
    g_assert_cmpint(file_length(t->raw[1]), ==, LONG);
    g_assert_cmpint(length_of(survivor), ==, DISK);
    g_assert_cmpint(capacity_of(survivor), ==, DISK);

    fail_over(t);
    check_data(t, survivor, 1, DISK - MiB, MiB);
    check_data(t, survivor, 0, 0, MiB);
    check_survivor(t, DISK);
    check_data(t, survivor, 1, DISK - MiB, MiB);
    resize(survivor, LONG);
    check_data(t, survivor, 0, DISK, LONG - DISK);
    grow_free(t);
}

/* The commit has been, and the primary dies before it hears of the load */
static void test_between(const void *mode)
{
    Grow *t = grow_protected(mode);
    QTestState *survivor = t->pair->secondary;

    colo_fault(t->pair->primary, "primary-recv-vmstate-received", "kill");
    guest_write(t->pair->primary, 1, DISK - MiB, MiB);
    resize(t->pair->primary, LONG);
    colo_wait_state(survivor, "lost");
    colo_kill(&t->pair->primary);
    fail_over(t);
    check_data(t, survivor, 1, DISK - MiB, MiB);
    check_data(t, survivor, 0, DISK, LONG - DISK);
    check_survivor(t, LONG);
    grow_free(t);
}

static void test_again(const void *mode)
{
    Grow *t = grow_protected(mode);
    QTestState *survivor = t->pair->secondary;
    int64_t size = DISK;

    for (int i = 1; i <= 8; i++) {
        size += i * MiB + 512;
        resize_committed(t, size);
        guest_write(t->pair->primary, i, size - 512, 512);
        guest_write(t->pair->primary, i, i * MiB, MiB);
    }
    checkpoint(t);
    fail_over(t);
    check_survivor(t, size);
    check_data(t, survivor, 8, size - 512, 512);
    check_data(t, survivor, 5, 5 * MiB, MiB);
    grow_free(t);
}

/* The next one waits until that before is committed */
static void test_at_once(const void *mode)
{
    Grow *t = grow_protected(mode);
    int64_t size = DISK;

    for (int i = 1; i <= 20; i++) {
        size += MiB;
        resize(t->pair->primary, size);
    }
    for (int i = 1; i <= 20; i++) {
        guest_write(t->pair->primary, i, DISK + (i - 1) * MiB, MiB);
    }
    /* The first may be the one that the last length has asked for */
    checkpoint(t);
    checkpoint(t);
    fail_over(t);
    check_survivor(t, size);
    for (int i = 1; i <= 20; i++) {
        check_data(t, t->pair->secondary, i, DISK + (i - 1) * MiB, MiB);
    }
    grow_free(t);
}

/* The disks are compared: the error, to be freed, or NULL */
static char *verify(Grow *t, const char *more)
{
    QTestState *qts = t->pair->primary;
    g_autofree char *json = g_strdup_printf(
        "{'execute': 'x-colo-verify', 'arguments': {'job-id': 'j', "
        "'node': 'repl'%s}}", more);
    QDict *event;
    char *text;

    qtest_qmp_assert_success(qts, json, NULL);
    event = colo_wait_event(qts, "BLOCK_JOB_COMPLETED");
    text = g_strdup(qdict_get_try_str(qdict_get_qdict(event, "data"), "error"));
    qobject_unref(event);
    return text;
}

static void test_verify(const void *mode)
{
    Grow *t = grow_new(mode, NULL, pair_disk_file, true);
    int64_t size = LONG + 3 * 512, at = size - 5;
    const char *ways[] = { "", ", 'hashes': 'hash0'" };
    int fd;

    qtest_qmp_assert_success(t->pair->secondary, "{'execute': 'blockdev-add',"
        "'arguments': {'driver': 'colo-hash', 'node-name': 'hash0',"
        "'read-only': true, 'file': 'image0'}}");
    disk_export(t->pair->secondary, "hash0", "h", false);
    disk_add_client(t->pair->primary, "hash0", t->socket, "h",
                    ", 'read-only': true");
    protect(t);
    guest_write(t->pair->primary, 1, DISK - MiB, MiB);
    resize_committed(t, size);
    guest_write(t->pair->primary, 2, DISK, MiB);
    checkpoint(t);
    /* Not committed */
    guest_write(t->pair->primary, 3, DISK + MiB, MiB);
    for (int i = 0; i < G_N_ELEMENTS(ways); i++) {
        g_assert_null(verify(t, ways[i]));
    }

    fd = open(t->raw[1], O_WRONLY);
    g_assert_cmpint(pwrite(fd, "x", 1, at), ==, 1);
    close(fd);
    for (int i = 0; i < G_N_ELEMENTS(ways); i++) {
        g_autofree char *text = verify(t, ways[i]);
        g_autofree char *want = g_strdup_printf("in 1 bytes, the first at "
                                                "offset %" PRId64, at);

        g_test_message("%s", text);
        g_assert_nonnull(text);
        g_assert_nonnull(strstr(text, want));
    }
    grow_free(t);
}

static void check_lengths(Grow *t)
{
    g_assert_cmpint(length_of(t->pair->primary), ==, DISK);
    g_assert_cmpint(length_of(t->pair->secondary), ==, DISK);
    g_assert_cmpint(file_length(t->raw[0]), ==, DISK);
    g_assert_cmpint(file_length(t->raw[1]), ==, DISK);
    /* The session goes on */
    checkpoint(t);
}

static void test_refused(const void *mode)
{
    Grow *t = grow_new(mode, NULL, pair_disk_file, true);

    refuse(t->pair->primary, LONG, "in a COLO session, or without");
    protect(t);
    refuse(t->pair->primary, DISK / 2, "cannot be made shorter");
    refuse(t->pair->secondary, LONG, "is busy");
    resize(t->pair->primary, DISK);
    check_lengths(t);
    grow_free(t);
}

/* The secondary's image cannot be made longer */
static void test_secondary_cannot(const void *mode)
{
    Grow *t = grow_new(mode, NULL, fixed_file, true);

    protect(t);
    refuse(t->pair->primary, LONG, "fixed-size raw disks");
    check_lengths(t);
    grow_free(t);
}

/* The primary's cannot: the secondary's is as before */
static void test_primary_cannot(const void *mode)
{
    Grow *t = grow_new(mode, qdict_from_jsonf_nofail(
        "{'driver': 'null-co', 'size': %d, 'read-zeroes': true}", (int)DISK),
        pair_disk_file, true);

    protect(t);
    refuse(t->pair->primary, LONG, "does not support resize");
    check_lengths(t);
    grow_free(t);
}

/* A way to the secondary that does not know of lengths */
static void test_plain(const void *mode)
{
    Grow *t = grow_new(mode, NULL, pair_disk_file, false);

    protect(t);
    refuse(t->pair->primary, LONG, "replication-sink");
    check_lengths(t);
    grow_free(t);
}

/* The secondary stands still: the command ends, and so does protection */
static void test_silent(const void *mode)
{
    Grow *t = grow_protected(mode);
    QTestState *primary = t->pair->primary;
    int pid = qtest_pid(t->pair->secondary);

    g_assert_cmpint(kill(pid, SIGSTOP), ==, 0);
    refuse(primary, LONG, "the secondary");
    colo_wait_state(primary, "lost");
    g_assert_cmpint(length_of(primary), ==, DISK);
    colo_kill(&t->pair->secondary);
    colo_failover(primary);
    colo_wait_state(primary, "alone");
    /* Alone it can */
    resize(primary, LONG);
    guest_write(primary, 9, LONG - MiB, MiB);
    g_assert_cmpint(file_length(t->raw[0]), ==, LONG);
    grow_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    colo_add("/colo/grow", "committed", test_committed);
    colo_add("/colo/grow", "uncommitted", test_uncommitted);
    colo_add("/colo/grow", "at-once", test_at_once);
    colo_add("/colo/grow", "between", test_between);
    colo_add("/colo/grow", "again", test_again);
    colo_add("/colo/grow", "verify", test_verify);
    colo_add("/colo/grow", "refused", test_refused);
    colo_add("/colo/grow", "secondary-cannot", test_secondary_cannot);
    colo_add("/colo/grow", "primary-cannot", test_primary_cannot);
    colo_add("/colo/grow", "plain", test_plain);
    colo_add("/colo/grow", "silent", test_silent);
    return g_test_run();
}
