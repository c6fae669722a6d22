/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: intent logs in a session of two QEMUs.
 *
 * No guest runs.  Proves: in periodic mode, where the secondary holds what has
 * arrived until its commit, and says that it has it, nothing of that is cleared
 * before the commit, as a secondary that dies has lost it; then it is.  When the
 * primary dies, and the secondary goes on, its log has the new generation.  When
 * the disk becomes longer in a session both logs do, that of the primary says that
 * all of the new part may differ, and both begin at the same point as before; a
 * survivor's has what its guest writes there.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "qemu/units.h"
#include "block/replication/intent-file.h"
#include "libqos/libqos.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-pair-disk.h"

#define GUEST_DISK "-d /machine/peripheral/disk9/virtio-backend"
#define NEVER_MS 600000         /* no checkpoint unless it is asked for */
#define REGION (64 * KiB)

/* For either side; a file of a log, and what is below the quorum */
#define ADD_DISK                                                            \
    "{'execute': 'blockdev-add', 'arguments': {"                            \
    "'driver': 'replication-intent', 'node-name': 'disk0', 'log': %s,"      \
    "'region-size': 65536, 'clear-interval': 100, 'file': {"                \
    "'driver': 'quorum', 'node-name': 'quorum0', 'read-pattern': 'fifo',"   \
    "'vote-threshold': 1, 'children': [%p]}}}"

typedef struct Intent {
    ColoPair *pair;
    char *image[2];
    char *log[2];
    char *generation[2];
    char *active;
    char *hidden;
    char *socket;
} Intent;

static void add_secondary(Intent *t, QTestState *qts)
{
    QDict *node = qdict_from_jsonf_nofail(
        "{'driver': 'replication', 'mode': 'secondary', 'top-id': 'disk0',"
        "'generation-file': %s, 'file': {'driver': 'qcow2', 'file': {"
        "'driver': 'file', 'filename': %s}, 'backing': {'driver': 'qcow2',"
        "'file': {'driver': 'file', 'filename': %s}, 'backing': 'image0'}}}",
        t->generation[1], t->active, t->hidden);

    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-add', 'arguments': {"
        "'driver': 'raw', 'node-name': 'image0', 'file': %p}}",
        pair_disk_file(t->image[1]));
    qtest_qmp_assert_success(qts, ADD_DISK, t->log[1], node);
    pair_disk_plug(qts);
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-add', 'arguments': {"
        "'driver': 'replication-sink', 'node-name': 'sink0',"
        "'file': 'image0'}}");
    disk_serve(qts, t->socket);
    disk_export(qts, "sink0", "d", true);
}

static void add_primary(Intent *t, QTestState *qts)
{
    QDict *node = qdict_from_jsonf_nofail(
        "{'driver': 'raw', 'node-name': 'local0', 'file': %p}",
        pair_disk_file(t->image[0]));

    qtest_qmp_assert_success(qts, ADD_DISK, t->log[0], node);
    pair_disk_plug(qts);
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-add', 'arguments': {"
        "'driver': 'replication', 'node-name': 'repl', 'mode': 'primary',"
        "'batch': true, 'generation-file': %s, 'file': {'driver': 'nbd',"
        "'export': 'd', 'server': {'type': 'unix', 'path': %s}}}}",
        t->generation[0], t->socket);
    disk_add_child(qts, "quorum0", "repl");
}

/* A pair in a session, whose logs begin */
static Intent *intent_new(const char *mode)
{
    Intent *t = g_new0(Intent, 1);
    ColoPair *p = colo_pair_new_with(mode, "qtest", "");

    t->pair = p;
    colo_pair_unplug_net(p);
    for (int i = 0; i < 2; i++) {
        g_autofree char *name = g_strdup_printf("image-%d", i);

        t->image[i] = disk_new_file(p->dir, name, false);
        t->log[i] = g_strdup_printf("%s/log-%d", p->dir, i);
        t->generation[i] = g_strdup_printf("%s/generation-%d", p->dir, i);
    }
    t->active = disk_new_file(p->dir, "active", true);
    t->hidden = disk_new_file(p->dir, "hidden", true);
    t->socket = g_build_filename(p->dir, "nbd", NULL);
    add_secondary(t, p->secondary);
    add_primary(t, p->primary);
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-resync',"
        "'arguments': {'job-id': 'j', 'node': 'repl', 'mode': 'auto'}}");
    qobject_unref(colo_wait_event(p->primary, "BLOCK_JOB_COMPLETED"));
    colo_pair_migrate(p, "mig", "mig", NEVER_MS, COLO_TIMEOUT_MS);
    colo_wait_state(p->primary, "running");
    return t;
}

static void intent_free(Intent *t)
{
    colo_pair_free(t->pair);
    for (int i = 0; i < 2; i++) {
        g_free(t->image[i]);
        g_free(t->log[i]);
        g_free(t->generation[i]);
    }
    g_free(t->active);
    g_free(t->hidden);
    g_free(t->socket);
    g_free(t);
}

/* What is in the file of the log; a sector may be being written */
static void load(const char *path, ReplicationIntentHead *head,
                 uint64_t **words)
{
    int fd = open(path, O_RDONLY);

    g_assert_cmpint(fd, >=, 0);
    while (!replication_intent_load(fd, head, words, NULL)) {
        g_usleep(1000); /* the pair has a deadline */
    }
    close(fd);
}

static bool log_has(const char *path, int64_t offset)
{
    ReplicationIntentHead head;
    uint64_t *words;
    bool has;

    load(path, &head, &words);
    has = replication_intent_test(words, offset / REGION);
    g_free(words);
    return has;
}

static int64_t log_bytes(QTestState *qts)
{
    QDict *answer = colo_status(qts);
    QList *disks = qdict_get_qlist(answer, "disks");
    QDict *disk = qobject_to(QDict, qlist_peek(disks));
    int64_t bytes = qdict_get_int(qdict_get_qdict(disk, "log"), "bytes");

    qobject_unref(answer);
    return bytes;
}

static void checkpoint(QTestState *qts)
{
    int64_t n = colo_statistic(qts, "checkpoints");

    qtest_qmp_assert_success(qts, "{'execute': 'x-colo-checkpoint'}");
    colo_wait_statistic(qts, "checkpoints", n + 1);
}

static void test_held(void)
{
    Intent *t = intent_new("periodic");
    QTestState *qts = t->pair->primary;
    int64_t begun;

    /* The first round, with the commit of which the logs agree */
    disk_io_at(qts, GUEST_DISK, "write -P 1 1M 64k");
    checkpoint(qts);
    disk_io_at(qts, GUEST_DISK, "write -P 2 3M 64k");
    while (log_bytes(qts)) {
        g_usleep(1000); /* the pair has a deadline */
    }
    begun = g_get_monotonic_time();
    while (g_get_monotonic_time() - begun < 1000000) {
        g_assert_true(log_has(t->log[0], 3 * MiB));
        g_usleep(20000);
    }
    /* The mark of a round may belong to the next epoch */
    while (log_has(t->log[0], 3 * MiB)) {
        checkpoint(qts); /* the pair has a deadline */
    }
    intent_free(t);
}

static void test_generation(const void *mode)
{
    Intent *t = intent_new(mode);
    QTestState *qts = t->pair->secondary;
    ReplicationIntentHead head;
    uint64_t *words;

    load(t->log[0], &head, &words);
    g_assert_cmpuint(head.number, ==, 1);
    g_free(words);
    load(t->log[1], &head, &words);
    g_assert_cmpuint(head.number, ==, 1);
    g_assert_cmpuint(head.common, !=, 0);
    g_free(words);
    disk_io_at(t->pair->primary, GUEST_DISK, "write -P 1 1M 64k");
    colo_kill(&t->pair->primary);
    colo_wait_state(qts, "lost");
    colo_failover(qts);
    colo_wait_migrate(qts, "completed");
    colo_wait_status(qts, "running");
    disk_wait_no_job(qts);
    disk_io_at(qts, GUEST_DISK, "write -P 3 5M 64k");
    load(t->log[1], &head, &words);
    g_assert_cmpuint(head.number, ==, 2);
    g_assert_cmpuint(head.number_before, ==, 1);
    g_assert_true(replication_intent_test(words, 5 * MiB / REGION));
    g_free(words);
    intent_free(t);
}

/* The log of a disk of @length bytes, which is soon there */
static void load_longer(const char *path, int64_t length,
                        ReplicationIntentHead *head, uint64_t **words)
{
    load(path, head, words);
    while (head->length != length) {
        g_free(*words);
        g_usleep(1000); /* the pair has a deadline */
        load(path, head, words);
    }
}

static void test_longer(const void *mode)
{
    Intent *t = intent_new(mode);
    QTestState *qts = t->pair->secondary;
    int64_t longer = DISK + 8 * MiB + 4096;
    ReplicationIntentHead head[2];
    uint64_t *words;
    int64_t n;

    disk_io_at(t->pair->primary, GUEST_DISK, "write -P 1 1M 64k");
    checkpoint(t->pair->primary);
    n = colo_statistic(t->pair->primary, "checkpoints");
    qtest_qmp_assert_success(t->pair->primary, "{'execute': 'block_resize',"
        "'arguments': {'node-name': 'disk0', 'size': %" PRId64 "}}", longer);

    /* It is there when the command returns */
    load(t->log[0], &head[0], &words);
    g_assert_cmpint(head[0].length, ==, longer);
    for (int64_t at = DISK; at < longer; at += REGION) {
        g_assert_true(replication_intent_test(words, at / REGION));
    }
    g_assert_false(replication_intent_test(words, DISK / REGION - 1));
    g_free(words);
    colo_wait_statistic(t->pair->primary, "checkpoints", n + 1);
    load_longer(t->log[1], longer, &head[1], &words);
    g_free(words);
    g_assert_cmpuint(head[1].common, !=, 0);
    g_assert_true(head[1].common == head[0].common ||
                  head[1].common == head[0].common_next);

    disk_io_at(t->pair->primary, GUEST_DISK, "write -P 2 20M 64k");
    checkpoint(t->pair->primary);
    colo_kill(&t->pair->primary);
    colo_wait_state(qts, "lost");
    colo_failover(qts);
    colo_wait_migrate(qts, "completed");
    colo_wait_status(qts, "running");
    disk_wait_no_job(qts);
    disk_io_at(qts, GUEST_DISK, "write -P 3 %" PRId64 " 4k", longer - 4096);
    load(t->log[1], &head[1], &words);
    g_assert_cmpint(head[1].length, ==, longer);
    g_assert_true(replication_intent_test(words, (longer - 4096) / REGION));
    g_free(words);
    intent_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    qtest_add_func("/colo/intent-pair/held", test_held);
    qtest_add_data_func("/colo/intent-pair/generation/periodic", "periodic",
                        test_generation);
    qtest_add_data_func("/colo/intent-pair/generation/hybrid", "hybrid",
                        test_generation);
    qtest_add_data_func("/colo/intent-pair/longer/periodic", "periodic",
                        test_longer);
    qtest_add_data_func("/colo/intent-pair/longer/hybrid", "hybrid",
                        test_longer);
    return g_test_run();
}
