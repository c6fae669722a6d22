/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a disk in an iothread, while the main loop fails over.
 *
 * Pairs without a guest.  The secondary's disk is written and flushed by a
 * client of NBD, in an iothread, as a guest does.  Its generation-file is a FIFO
 * for a while, so the main loop waits for the test when it wants to know the
 * generation, right after the failover.  Proves: a flush does not fail then.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "libqos/libqos.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-nbd.h"

#define NBD_FLUSH 3

typedef struct Fold {
    ColoPair *pair;
    char *raw;
    char *active;
    char *hidden;
    char *generation[2];
    char *socket;
    int guest;
} Fold;

static void add_primary(Fold *f)
{
    qtest_qmp_assert_success(f->pair->primary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'quorum',"
        "'node-name': 'disk0', 'read-pattern': 'fifo', 'vote-threshold': 1,"
        "'children': [{'driver': 'null-co', 'size': %d, 'read-zeroes': true},"
        "{'driver': 'replication', 'node-name': 'repl', 'mode': 'primary',"
        "'generation-file': %s, 'file': {'driver': 'null-co', 'size': %d,"
        "'read-zeroes': true}}]}}", (int)DISK, f->generation[0], (int)DISK);
}

static void add_secondary(Fold *f)
{
    QTestState *qts = f->pair->secondary;

    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'raw',"
        "'node-name': 'image0', 'file': {'driver': 'file', 'filename': %s}}}",
        f->raw);
    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'quorum',"
        "'node-name': 'disk0', 'read-pattern': 'fifo', 'vote-threshold': 1,"
        "'children': [{'driver': 'replication', 'node-name': 'repl',"
        "'mode': 'secondary', 'top-id': 'disk0', 'generation-file': %s,"
        "'file': {'driver': 'qcow2',"
        "'file': {'driver': 'file', 'filename': %s}, 'backing': {"
        "'driver': 'qcow2', 'file': {'driver': 'file', 'filename': %s},"
        "'backing': 'image0'}}}]}}",
        f->generation[1], f->active, f->hidden);
    disk_serve(qts, f->socket);
    qtest_qmp_assert_success(qts,
        "{'execute': 'block-export-add', 'arguments': {'type': 'nbd', "
        "'id': 't', 'node-name': 'disk0', 'name': 't', 'writable': true,"
        "'iothread': 'io0', 'fixed-iothread': true}}");
    f->guest = colo_nbd_client(f->socket, 't');
}

static Fold *fold_new(const void *mode)
{
    Fold *f = g_new0(Fold, 1);
    ColoPair *p = colo_pair_new_with(mode, "qtest", "-object iothread,id=io0");

    f->pair = p;
    colo_pair_unplug_net(p);
    f->raw = disk_new_file(p->dir, "image", false);
    f->active = disk_new_file(p->dir, "active", true);
    f->hidden = disk_new_file(p->dir, "hidden", true);
    f->generation[0] = g_build_filename(p->dir, "generation-0", NULL);
    f->generation[1] = g_build_filename(p->dir, "generation-1", NULL);
    f->socket = g_build_filename(p->dir, "nbd", NULL);
    add_primary(f);
    add_secondary(f);
    return f;
}

static void fold_free(Fold *f)
{
    close(f->guest);
    colo_pair_free(f->pair);
    g_free(f->raw);
    g_free(f->active);
    g_free(f->hidden);
    g_free(f->generation[0]);
    g_free(f->generation[1]);
    g_free(f->socket);
    g_free(f);
}

static char *generation(Fold *f)
{
    char *text;

    g_assert_true(g_file_get_contents(f->generation[1], &text, NULL, NULL));
    return text;
}

/* Who wants to read the generation has to wait; what it is */
static char *make_fifo(Fold *f)
{
    char *text = generation(f);

    g_assert_cmpint(unlink(f->generation[1]), ==, 0);
    g_assert_cmpint(mkfifo(f->generation[1], 0600), ==, 0);
    return text;
}

/* Somebody waits for it */
static int fifo_open(Fold *f)
{
    int fd = open(f->generation[1], O_WRONLY);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static void fifo_answer(int fd, const char *text)
{
    g_assert_cmpint(write(fd, text, strlen(text)), ==, strlen(text));
    close(fd);
}

/* The answer to a command for which the main loop had no time before */
static void get_answer(QTestState *qts)
{
    QDict *answer = qtest_qmp_receive(qts);

    g_assert_true(qdict_haskey(answer, "return"));
    qobject_unref(answer);
}

static void lose_primary(Fold *f)
{
    colo_pair_protect(f->pair);
    colo_kill(&f->pair->primary);
    colo_wait_state(f->pair->secondary, "lost");
}

static void test_failover(const void *mode)
{
    Fold *f = fold_new(mode);
    g_autofree char *text = NULL;
    int fd;

    lose_primary(f);
    text = make_fifo(f);
    qtest_qmp_send(f->pair->secondary, "{'execute': 'x-colo-lost-heartbeat'}");
    fd = fifo_open(f);
    colo_nbd_request(f->guest, NBD_FLUSH, 0, 0);
    g_assert_cmpint(colo_nbd_answer(f->guest), ==, 0);
    fifo_answer(fd, text);
    get_answer(f->pair->secondary);
    colo_wait_state(f->pair->secondary, "live");
    disk_wait_no_job(f->pair->secondary);
    disk_check_stage(f->pair->secondary, "folded");
    fold_free(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    colo_add("/colo/fold", "failover", test_failover);
    return g_test_run();
}
