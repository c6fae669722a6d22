/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: one session after the other.
 *
 * The primary has a replicated disk and a NIC, and gets a new secondary each
 * time that one has died, or that protection has been ended.
 *
 * Proves: what a session leaves behind is nothing, be it memory, descriptors,
 * threads or nodes.  It takes a lot of them to see memory, as in
 * make check-long.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-pair-disk.h"

#define WARM_UP         6
#define SESSIONS        8
#define SESSIONS_LONG   400
#define SLACK_KIB       2048        /* beside what each may leave */
#define SLACK_BYTES     2048        /* that is, for the allocator's sake */

typedef struct Files {
    char *image, *active, *hidden;
} Files;

typedef struct Size {
    int fds, threads, nodes;
    long kib;
} Size;

static int count_in(QTestState *qts, const char *what)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s",
                                            (int)qtest_pid(qts), what);
    GDir *dir = g_dir_open(path, 0, NULL);
    int n = 0;

    g_assert_nonnull(dir);
    while (g_dir_read_name(dir)) {
        n++;
    }
    g_dir_close(dir);
    return n;
}

/* What there is that no file is behind */
static long anonymous_kib(QTestState *qts)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status",
                                            (int)qtest_pid(qts));
    g_autofree char *text = NULL;
    const char *line;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    line = strstr(text, "RssAnon:");
    g_assert_nonnull(line);
    return atol(line + strlen("RssAnon:"));
}

static int count_nodes(QTestState *qts)
{
    QDict *answer = qtest_qmp(qts, "{'execute': 'query-named-block-nodes'}");
    int n = qlist_size(qdict_get_qlist(answer, "return"));

    qobject_unref(answer);
    return n;
}

static Size measure(QTestState *qts)
{
    return (Size) {
        .fds = count_in(qts, "fd"),
        .threads = count_in(qts, "task"),
        .nodes = count_nodes(qts),
        .kib = anonymous_kib(qts),
    };
}

static void add_replication(ColoPair *p)
{
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication',"
        "'node-name': 'repl', 'mode': 'primary',"
        "'file': {'driver': 'null-co', 'size': %d, "
        "'read-zeroes': true}}}", (int)DISK);
    disk_add_child(p->primary, "disk0", "repl");
}

static void remove_replication(ColoPair *p)
{
    disk_del_child(p->primary, "disk0", "children.1");
    qtest_qmp_assert_success(p->primary, "{'execute': 'blockdev-del', "
                             "'arguments': {'node-name': 'repl'}}");
}

static void add_disk(QTestState *qts)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'quorum',"
        "'node-name': 'disk0', 'read-pattern': 'fifo', 'vote-threshold': 1,"
        "'children': [{'driver': 'null-co', 'size': %d, 'read-zeroes': true}]"
        "}}", (int)DISK);
    pair_disk_plug(qts);
}

/* One session; @lost: the secondary dies, else the user ends it */
static void session(ColoPair *p, const Files *f, bool lost)
{
    pair_disk_add_secondary(p->secondary, f->image, f->active, f->hidden);
    add_replication(p);
    colo_pair_protect(p);
    if (lost) {
        colo_kill(&p->secondary);
        colo_wait_state(p->primary, "lost");
        colo_failover(p->primary);
        colo_wait_mode(p->primary, "none");
    } else {
        qtest_qmp_assert_success(p->primary, "{'execute': 'migrate_cancel'}");
        colo_wait_mode(p->primary, "none");
        colo_kill(&p->secondary);
    }
    colo_wait_status(p->primary, "running");
    remove_replication(p);
    colo_pair_new_secondary(p);
}

static void test_sessions(const void *opaque)
{
    bool is_long = getenv("CHECK_LONG");
    int n = is_long ? SESSIONS_LONG : SESSIONS;
    ColoPair *p = colo_pair_new(opaque);
    Size before = { 0 }, after;
    Files f = {
        disk_new_file(p->dir, "image", false),
        disk_new_file(p->dir, "active", true),
        disk_new_file(p->dir, "hidden", true),
    };

    if (is_long) {
        alarm(0);
    }
    add_disk(p->primary);
    for (int i = 0; i < WARM_UP + n; i++) {
        if (i == WARM_UP) {
            before = measure(p->primary);
        }
        session(p, &f, i % 2);
    }
    after = measure(p->primary);
    g_test_message("%d sessions: %ld -> %ld KiB, %d -> %d descriptors, "
                   "%d -> %d threads", n, before.kib, after.kib, before.fds,
                   after.fds, before.threads, after.threads);
    g_assert_cmpint(after.nodes, ==, before.nodes);
    g_assert_cmpint(after.fds, <=, before.fds + 2);
    g_assert_cmpint(after.threads, <=, before.threads + 2);
#ifndef __SANITIZE_ADDRESS__    /* it keeps what is freed */
    /* The heap comes to rest after some dozens */
    if (is_long) {
        g_assert_cmpint(after.kib, <=,
                        before.kib + SLACK_KIB + n * SLACK_BYTES / 1024);
    }
#endif
    disk_free_file(f.image);
    disk_free_file(f.active);
    disk_free_file(f.hidden);
    colo_pair_free(p);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    colo_add("/colo/sessions", "primary", test_sessions);
    return g_test_run();
}
