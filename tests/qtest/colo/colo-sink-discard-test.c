/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: what the primary discards, at a secondary.
 *
 * Proves: nothing is copied because of a discard; the guest here reads what
 * there was until the next checkpoint, and then it is discarded on the disk;
 * whatever is written later stays, when and wherever that is; a discard that
 * no checkpoint has come after is never made, nor is any after the session.
 */

#include "qemu/osdep.h"
#include "colo-helpers.h"
#include "colo-nbd.h"
#include "colo-sink-rig.h"

#define LARGE (8 * MiB)
#define COPIED_BYTES (512 * KiB)        /* of an overlay, and more is a copy */
#define ROUNDS 200
#define PART (64 * KiB)                 /* of the test with random ones */
#define N_PARTS (DISK / PART)
#define N_ENTRIES 24
#define NBD_TRIM 4

typedef struct Secondary {
    Sink k;
    char *active;
    char *hidden;
    uint64_t number;            /* of the last batch */
} Secondary;

static Secondary *secondary_new(void)
{
    Secondary *s = g_new0(Secondary, 1);

    disk_deadline_begin();
    s->k.dir = g_dir_make_tmp("colo-sink-XXXXXX", NULL);
    g_assert_nonnull(s->k.dir);
    s->k.raw = disk_new_file(s->k.dir, "disk", false);
    s->active = disk_new_file(s->k.dir, "active", true);
    s->hidden = disk_new_file(s->k.dir, "hidden", true);
    s->k.socket = g_build_filename(s->k.dir, "nbd", NULL);
    s->k.qts = qtest_initf(
        ">/dev/null -M none -nodefaults "
        "-blockdev driver=raw,node-name=disk,discard=unmap,file.driver=file,"
        "file.discard=unmap,file.filename=%s "
        "-blockdev driver=replication-sink,node-name=sink,discard=unmap,"
        "file=disk "
        "-blockdev driver=qcow2,node-name=active,file.driver=file,"
        "file.filename=%s,backing.driver=qcow2,backing.node-name=hidden,"
        "backing.file.driver=file,backing.file.filename=%s,"
        "backing.backing=disk "
        "-drive if=none,id=top,node-name=topnode,driver=quorum,"
        "read-pattern=fifo,vote-threshold=1,children.0.driver=replication,"
        "children.0.node-name=repl,children.0.mode=secondary,"
        "children.0.top-id=top,children.0.file=active",
        s->k.raw, s->active, s->hidden);
    disk_serve(s->k.qts, s->k.socket);
    disk_export(s->k.qts, "sink", "s", true);
    disk_export(s->k.qts, "topnode", "t", false);
    s->k.fd = colo_nbd_client(s->k.socket, 's');
    return s;
}

static void secondary_free(Secondary *s)
{
    close(s->k.fd);
    colo_quit(&s->k.qts);
    disk_free_file(s->k.raw);
    disk_free_file(s->active);
    disk_free_file(s->hidden);
    disk_free_file(s->k.socket);
    rmdir(s->k.dir);
    g_free(s->k.dir);
    g_free(s);
    disk_deadline_end();
}

static void apply_one(Secondary *s, ReplicationEntryType type, int64_t offset,
                      int64_t bytes, int byte)
{
    Maker m;

    batch_begin(&m, SESSION, ++s->number);
    batch_add(&m, type, offset, bytes, byte);
    g_assert_cmpint(sink_apply(&s->k, &m), ==, 0);
}

static void write_one(Secondary *s, int64_t offset, int64_t bytes, int byte)
{
    apply_one(s, REPLICATION_ENTRY_WRITE, offset, bytes, byte);
}

static void discard_one(Secondary *s, int64_t offset, int64_t bytes)
{
    apply_one(s, REPLICATION_ENTRY_DISCARD, offset, bytes, 0);
}

/* A disk that is full of 1, and a session */
static Secondary *begin(void)
{
    Secondary *s = secondary_new();

    for (int64_t offset = 0; offset < DISK; offset += MiB) {
        write_one(s, offset, MiB, 1);
    }
    disk_replicate(s->k.qts, true, false);
    return s;
}

static void checkpoint(Secondary *s)
{
    qtest_qmp_assert_success(s->k.qts,
                             "{'execute': 'xen-colo-do-checkpoint'}");
}

static void check_nothing_copied(Secondary *s)
{
    struct stat st;

    g_assert_cmpint(stat(s->hidden, &st), ==, 0);
    g_assert_cmpint(st.st_blocks * 512, <, COPIED_BYTES);
}

static void test_later(void)
{
    Secondary *s = begin();

    discard_one(s, 0, LARGE);
    sink_check(&s->k, 1, 0, DISK);
    check_nothing_copied(s);
    disk_read(s->k.socket, 1, 0, MiB);
    checkpoint(s);
    disk_wait_file(s->k.raw, 0, 0, LARGE);
    sink_check(&s->k, 1, LARGE, DISK - LARGE);
    check_nothing_copied(s);
    secondary_free(s);
}

/* By a request that is no batch */
static void test_request(void)
{
    Secondary *s = begin();

    colo_nbd_request(s->k.fd, NBD_TRIM, 0, LARGE);
    g_assert_cmpint(colo_nbd_answer(s->k.fd), ==, 0);
    sink_check(&s->k, 1, 0, DISK);
    check_nothing_copied(s);
    checkpoint(s);
    disk_wait_file(s->k.raw, 0, 0, LARGE);
    secondary_free(s);
}

/* What is written after a discard, before the checkpoint */
static void test_written(void)
{
    Secondary *s = begin();
    uint8_t data[BLOCK];

    memset(data, 4, sizeof(data));
    discard_one(s, 0, LARGE);
    write_one(s, BLOCK, BLOCK, 2);
    write_one(s, LARGE - BLOCK, 2 * BLOCK, 3);
    g_assert_cmpint(colo_nbd_pwrite(s->k.fd, data, MiB, BLOCK), ==, 0);
    checkpoint(s);
    disk_wait_file(s->k.raw, 0, 2 * BLOCK, MiB - 2 * BLOCK);
    disk_wait_file(s->k.raw, 0, MiB + BLOCK, LARGE - MiB - 2 * BLOCK);
    disk_wait_file(s->k.raw, 0, 0, BLOCK);
    sink_check(&s->k, 2, BLOCK, BLOCK);
    sink_check(&s->k, 4, MiB, BLOCK);
    sink_check(&s->k, 3, LARGE - BLOCK, 2 * BLOCK);
    secondary_free(s);
}

/*
 * The discards of a checkpoint are under way while the writes of the next one
 * come.
 */
static void test_random(void)
{
    Secondary *s = begin();
    uint8_t want[N_PARTS];      /* 0: it was discarded, and may be anything */

    memset(want, 1, sizeof(want));
    for (int i = 0; i < ROUNDS; i++) {
        Maker m;

        batch_begin(&m, SESSION, ++s->number);
        for (int j = 0; j < N_ENTRIES; j++) {
            int part = g_test_rand_int_range(0, N_PARTS);
            int n = g_test_rand_int_range(1, 9);

            n = MIN(n, N_PARTS - part);
            if (g_test_rand_int_range(0, 2)) {
                batch_add(&m, REPLICATION_ENTRY_DISCARD, part * PART, n * PART,
                          0);
                memset(want + part, 0, n);
            } else {
                want[part] = 2 + i % 100;
                batch_add_write(&m, part * PART, PART, want[part]);
            }
        }
        g_assert_cmpint(sink_apply(&s->k, &m), ==, 0);
        checkpoint(s);
    }
    for (int part = 0; part < N_PARTS; part++) {
        if (want[part]) {
            sink_check(&s->k, want[part], part * PART, PART);
        }
    }
    secondary_free(s);
}

/*
 * The disk is no longer only the sink's after the session.  A later one makes
 * no discards of an earlier one either.
 */
static void test_end(void)
{
    Secondary *s = begin();

    discard_one(s, 0, LARGE);
    disk_replicate(s->k.qts, false, false);
    disk_replicate(s->k.qts, true, false);
    discard_one(s, LARGE, BLOCK);
    checkpoint(s);
    disk_wait_file(s->k.raw, 0, LARGE, BLOCK);
    sink_check(&s->k, 1, 0, LARGE);
    secondary_free(s);
}

static void test_failover(void)
{
    Secondary *s = begin();

    discard_one(s, 0, LARGE);
    disk_failover(s->k.qts, false);
    disk_wait_no_job(s->k.qts);
    sink_check(&s->k, 1, 0, DISK);
    secondary_free(s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    qtest_add_func("/colo/sink-discard/later", test_later);
    qtest_add_func("/colo/sink-discard/request", test_request);
    qtest_add_func("/colo/sink-discard/written", test_written);
    qtest_add_func("/colo/sink-discard/random", test_random);
    qtest_add_func("/colo/sink-discard/end", test_end);
    qtest_add_func("/colo/sink-discard/failover", test_failover);
    return g_test_run();
}
