/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: what a session does not cover, and disks without a name.
 *
 * Proves: each writable disk that is not replicated is a problem on both sides,
 * also those of -blockdev; so is a NIC without filters, or with those of the
 * other mode, in each mode, and a stream that nobody is connected to, for as
 * long as that lasts; and, before a session, a device that none begins with.
 * With a problem the guest is not said to be protected.  The comparison of disks
 * finds those of -blockdev.  An NBD client beside the local disk, without
 * replication, is refused.  Overlays of another length than their disk are a
 * problem that names each; a replicated disk has the name of the guest's.  When
 * the secondary's disk is not exported any more that is a problem, and the next
 * checkpoint ends the session; a secondary whose primary is dead takes over all
 * the same.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "libqos/libqos.h"
#include "colo-disk-rig.h"
#include "colo-net.h"
#include "colo-pair-disk.h"

/* How many problems of that @kind (or ""), with @name and @text in them */
static int count_problems(QTestState *qts, const char *kind, const char *name,
                          const char *text)
{
    QDict *status = colo_status(qts);
    const QListEntry *e;
    int n = 0;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(status, "problems"), e) {
        QDict *p = qobject_to(QDict, qlist_entry_obj(e));

        g_test_message("%s", qdict_get_str(p, "message"));
        n += strstr(qdict_get_str(p, "kind"), kind) &&
             strstr(qdict_get_str(p, "name"), name) &&
             strstr(qdict_get_str(p, "message"), text);
    }
    qobject_unref(status);
    return n;
}

static bool is_protected(QTestState *qts)
{
    QDict *status = colo_status(qts);
    bool yes = qdict_get_bool(status, "protected");

    /* There is a session: nothing else says no.  What is assumed does not. */
    g_assert_cmpint(yes, ==, count_problems(qts, "", "", "") ==
                    count_problems(qts, "disk", "", "assumed to be equal"));
    qobject_unref(status);
    return yes;
}

static void expect_event(QTestState *qts, bool yes)
{
    QDict *event = colo_wait_event(qts, "COLO_PROTECTION");

    g_assert_cmpint(qdict_get_bool(qdict_get_qdict(event, "data"),
                                   "protected"), ==, yes);
    qobject_unref(event);
}

static void begin_session(ColoPair *p)
{
    colo_pair_migrate(p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(p->secondary, colo_state_ready(p));
    colo_wait_state(p->primary, "running");
}

static void test_disks(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "tcg",
        "-blockdev null-co,node-name=rw,size=1048576 "
        "-blockdev null-co,node-name=ro,size=1048576,read-only=on "
        "-blockdev null-co,node-name=flash,size=1048576 "
        "-drive if=none,id=named,driver=null-co,size=1048576 "
        "-machine pflash0=flash "
        "-device virtio-blk-pci,drive=rw,id=first "
        "-device virtio-blk-pci,drive=ro,id=second "
        "-device virtio-blk-pci,drive=named,id=third");
    QTestState *sides[] = { p->primary, p->secondary };

    colo_pair_unplug_net(p);
    begin_session(p);
    for (int i = 0; i < G_N_ELEMENTS(sides); i++) {
        g_autofree char *info = qtest_hmp(sides[i], "info colo");

        g_assert_cmpint(count_problems(sides[i], "disk", "", ""), ==, 2);
        g_assert_cmpint(count_problems(sides[i], "disk", "first",
                                       "disk 'first' is"), ==, 1);
        g_assert_cmpint(count_problems(sides[i], "disk", "named",
                                       "not replicated"), ==, 1);
        g_assert_false(is_protected(sides[i]));
        g_assert_nonnull(strstr(info, "problem: disk 'named' is writable"));
    }
    colo_pair_free(p);
}

static void test_devices(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "qtest",
                                     "-audiodev none,id=a0 "
                                     "-device adlib,audiodev=a0,id=tune");
    QTestState *sides[] = { p->primary, p->secondary };

    for (int i = 0; i < G_N_ELEMENTS(sides); i++) {
        qtest_qmp_assert_success(sides[i],
            "{'execute': 'migrate-set-capabilities', 'arguments': {"
            "'capabilities': [{'capability': 'x-colo', 'state': true}]}}");
        g_assert_cmpint(count_problems(sides[i], "device", "tune",
                                       "its registers are not migrated"),
                        ==, 1);
        g_assert_cmpint(count_problems(sides[i], "device", "", ""), ==, 1);
    }
    colo_pair_free(p);
}

static void test_nics(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    bool hybrid = colo_is_hybrid(p);

    del_object(p->primary, "oc0");
    del_object(p->secondary, "oc0");
    begin_session(p);
    g_assert_cmpint(count_problems(p->primary, "nic", "virtio-net-pci", hybrid
                                   ? "filter-compare" : "filter-output-commit"),
                    ==, 1);
    g_assert_cmpint(count_problems(p->primary, "nic", "virtio-net-pci",
                                   "filter-mirror"), ==, hybrid);
    g_assert_cmpint(count_problems(p->secondary, "nic", "virtio-net-pci",
                                   "with indev"), ==, hybrid);
    g_assert_cmpint(count_problems(p->secondary, "nic", "virtio-net-pci",
                                   "with outdev"), ==, hybrid);
    g_assert_cmpint(count_problems(p->secondary, "nic", "virtio-net-pci",
                                   "filter-rewriter"), ==, hybrid);
    g_assert_false(is_protected(p->primary));
    g_assert_cmpint(count_problems(p->secondary, "nic", "virtio-net-pci",
                                   "add -object filter-output-commit"), ==,
                    !hybrid);
    g_assert_false(is_protected(p->secondary));
    colo_pair_free(p);
}

/* Filters of the other mode */
static void test_gate_in_hybrid(void)
{
    ColoPair *p = colo_pair_new("hybrid");

    begin_session(p);
    g_assert_cmpint(count_problems(p->primary, "nic", "virtio-net-pci",
                                   "filter-output-commit 'oc0' holds the "
                                   "output of 'virtio-net-pci.0' until the next "
                                   "checkpoint"), ==, 1);
    g_assert_cmpint(count_problems(p->primary, "", "", "x-colo-mode"), ==, 1);
    g_assert_cmpint(count_problems(p->secondary, "nic", "virtio-net-pci",
                                   "filter-output-commit 'oc0' lets nothing"),
                    ==, 1);
    g_assert_false(is_protected(p->primary));
    g_assert_false(is_protected(p->secondary));
    colo_pair_free(p);
}

/* Before the primary has said what mode it is */
static void test_waiting(void)
{
    ColoPair *p = colo_pair_new("hybrid");
    Net sec = { .qts = p->secondary, .dir = p->dir };

    qtest_qmp_assert_success(p->secondary,
        "{'execute': 'migrate-set-capabilities', 'arguments': {"
        "'capabilities': [{'capability': 'x-colo', 'state': true}]}}");
    g_assert_cmpint(count_problems(p->secondary, "nic", "", ""), ==, 0);
    del_object(p->secondary, "oc0");
    g_assert_cmpint(count_problems(p->secondary, "nic", "virtio-net-pci",
                                   "'virtio-net-pci.0' has no filters"), ==, 1);
    add_chardev(&sec, "c0");
    qtest_qmp_assert_success(p->secondary, "{'execute': 'object-add',"
        "'arguments': {'qom-type': 'filter-redirector', 'id': 'f2',"
        "'netdev': 'hn0', 'queue': 'rx', 'outdev': 'c0'}}");
    g_assert_cmpint(count_problems(p->secondary, "nic", "", ""), ==, 0);
    colo_pair_free(p);
}

static void add_filter(Net *n, const char *type, const char *id,
                       const char *queue, const char *end)
{
    if (end) {
        g_autofree char *chr = g_strdup_printf("chr-%s", id);

        add_chardev(n, chr);
        qtest_qmp_assert_success(n->qts, "{'execute': 'object-add',"
            "'arguments': {'qom-type': %s, 'id': %s, 'netdev': 'hn0',"
            "'queue': %s, %s: %s}}", type, id, queue, end, chr);
        return;
    }
    qtest_qmp_assert_success(n->qts, "{'execute': 'object-add',"
        "'arguments': {'qom-type': %s, 'id': %s, 'netdev': 'hn0',"
        "'queue': %s}}", type, id, queue);
}

static bool has_nic_problem(QTestState *qts, const char *text)
{
    return count_problems(qts, "nic", "", text);
}

/* The published set-up, one object after the other, and mistakes in it */
static void test_published(void)
{
    ColoPair *p = colo_pair_new("hybrid");
    Net pri = { .qts = p->primary, .dir = p->dir };
    Net sec = { .qts = p->secondary, .dir = p->dir };

    del_object(p->primary, "oc0");
    del_object(p->secondary, "oc0");
    begin_session(p);
    add_filter(&pri, "filter-mirror", "m0", "rx", "outdev");
    g_assert_true(has_nic_problem(p->primary, "filter-mirror with queue=tx"));
    del_object(p->primary, "m0");
    qtest_qmp_assert_success(p->primary, "{'execute': 'chardev-remove',"
                             "'arguments': {'id': 'chr-m0'}}");
    add_filter(&pri, "filter-mirror", "m0", "tx", "outdev");
    g_assert_false(has_nic_problem(p->primary, "filter-mirror"));
    add_filter(&pri, "filter-redirector", "redire0", "rx", "indev");
    g_assert_true(has_nic_problem(p->primary, "does not go to colo-compare"));
    add_filter(&pri, "filter-redirector", "redire1", "rx", "outdev");
    g_assert_true(has_nic_problem(p->primary, "colo-compare is missing"));
    del_object(p->primary, "redire0");
    g_assert_true(has_nic_problem(p->primary, "does not come back"));

    add_filter(&sec, "filter-redirector", "f2", "rx", "outdev");
    add_filter(&sec, "filter-rewriter", "rew0", "all", NULL);
    add_filter(&sec, "filter-redirector", "f1", "tx", "indev");
    g_assert_true(has_nic_problem(p->secondary,
                                  "'rew0' is before filter-redirector 'f1'"));
    del_object(p->secondary, "rew0");
    add_filter(&sec, "filter-rewriter", "rew0", "all", NULL);
    g_assert_false(has_nic_problem(p->secondary, ""));
    /* Of f1 and f2, and of nothing that was not asked for */
    g_assert_cmpint(count_problems(p->secondary, "stream", "", ""), ==, 2);
    colo_pair_free(p);
}

/* The secondary of a hybrid pair takes over, and is to be a primary */
static void test_survivor(void)
{
    ColoPair *p = colo_pair_new("hybrid");
    Net sec = { .qts = p->secondary, .dir = p->dir };

    del_object(p->secondary, "oc0");
    add_filter(&sec, "filter-redirector", "f1", "tx", "indev");
    add_filter(&sec, "filter-redirector", "f2", "rx", "outdev");
    add_filter(&sec, "filter-rewriter", "rew0", "all", NULL);
    begin_session(p);
    colo_kill(&p->primary);
    colo_wait_state(p->secondary, "lost");
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    g_assert_cmpint(count_problems(p->secondary, "nic", "", "'f1', 'f2': remove "
                                   "them with object-del, and add "
                                   "filter-compare and filter-mirror"), ==, 1);
    g_assert_cmpint(count_problems(p->secondary, "nic", "", ""), ==, 1);
    del_object(p->secondary, "f2");
    g_assert_true(has_nic_problem(p->secondary, "was, 'f1': remove"));
    del_object(p->secondary, "f1");
    g_assert_true(has_nic_problem(p->secondary, "needs filter-compare"));
    g_assert_true(has_nic_problem(p->secondary, "needs filter-mirror"));
    add_filter(&sec, "filter-mirror", "m0", "tx", "outdev");
    add_filter(&sec, "filter-compare", "comp0", "rx", "secondary-in");
    g_assert_false(has_nic_problem(p->secondary, ""));
    colo_pair_free(p);
}

/* A NIC without a network has nothing to lose */
static void test_netdev_gone(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);

    colo_pair_unplug_net(p);
    begin_session(p);
    g_assert_true(is_protected(p->primary));
    g_assert_true(is_protected(p->secondary));
    colo_pair_free(p);
}

static void test_streams(void)
{
    ColoPair *p = colo_pair_new("hybrid");
    Net n = { .qts = p->primary, .dir = p->dir };
    int mirror, compare;

    del_object(p->primary, "oc0");
    add_chardev(&n, "c0");
    add_chardev(&n, "c1");
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'object-add', 'arguments': {'qom-type': 'filter-mirror',"
        "'id': 'm0', 'netdev': 'hn0', 'queue': 'tx', 'outdev': 'c0'}}");
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'filter-compare', 'id': 'comp0', 'netdev': 'hn0',"
        "'queue': 'rx', 'secondary-in': 'c1'}}");
    begin_session(p);
    g_assert_cmpint(count_problems(p->primary, "stream", "c0",
                                   "outdev of filter-mirror 'm0'"), ==, 1);
    g_assert_cmpint(count_problems(p->primary, "stream", "c1",
                                   "secondary-in of filter-compare 'comp0'"),
                    ==, 1);
    g_assert_cmpint(count_problems(p->primary, "nic", "", ""), ==, 0);
    g_assert_false(is_protected(p->primary));

    mirror = open_chardev(&n, "c0");
    g_assert_false(is_protected(p->primary));
    compare = open_chardev(&n, "c1");
    g_assert_true(is_protected(p->primary));
    expect_event(p->primary, true);
    close_chardev(&n, "c0", mirror);
    g_assert_false(is_protected(p->primary));
    expect_event(p->primary, false);
    close(compare);
    colo_pair_free(p);
}

/* @equal: the disks of both sides are, else a byte is not */
static void compare_disks(const void *mode, bool equal)
{
    ColoPair *p = colo_pair_new_with(mode, "qtest", "");
    char *image = disk_new_file(p->dir, "image", false);
    char *active = disk_new_file(p->dir, "active", true);
    char *hidden = disk_new_file(p->dir, "hidden", true);

    if (!equal) {
        int fd = open(image, O_RDWR);

        g_assert_cmpint(pwrite(fd, "x", 1, DISK / 2), ==, 1);
        close(fd);
    }
    pair_disk_add_primary(p->primary);
    pair_disk_add_secondary(p->secondary, image, active, hidden);
    colo_pair_unplug_net(p);
    colo_pair_protect(p);
    colo_wait_statistic(p->secondary, "checkpoints-verified", 3);
    if (equal) {
        g_assert_cmpint(colo_statistic(p->secondary, "disk-mismatches"), ==,
                        0);
    } else {
        colo_wait_statistic(p->secondary, "disk-mismatches", 3);
    }
    g_assert_true(is_protected(p->primary));
    g_assert_true(is_protected(p->secondary));
    colo_pair_free(p);
    g_free(image);
    g_free(active);
    g_free(hidden);
}

static void test_equal(const void *mode)
{
    compare_disks(mode, true);
}

static void test_different(const void *mode)
{
    compare_disks(mode, false);
}

/* What is said about a migration to that socket; the caller frees it */
static char *migrate_refusal(ColoPair *p, const char *connect)
{
    g_autofree char *uri = g_strdup_printf("unix:%s/%s", p->dir, connect);
    QDict *answer = qtest_qmp(p->primary, "{'execute': 'migrate',"
                              "'arguments': {'uri': %s}}", uri);
    QDict *error = qdict_get_qdict(answer, "error");
    char *message;

    g_assert_nonnull(error);
    message = g_strdup(qdict_get_str(error, "desc"));
    qobject_unref(answer);
    return message;
}

static void test_nbd(const void *mode)
{
    ColoPair *p = colo_pair_new(mode);
    g_autofree char *path = g_build_filename(p->dir, "nbd", NULL);
    g_autofree char *message = NULL;

    qtest_qmp_assert_success(p->secondary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'null-co',"
        "'node-name': 'disk0', 'size': %d, 'read-zeroes': true}}", (int)DISK);
    disk_serve(p->secondary, path);
    disk_export(p->secondary, "disk0", "t", true);
    pair_disk_plug(p->secondary);
    disk_add_client(p->primary, "client0", path, "t", "");
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'quorum',"
        "'node-name': 'disk0', 'read-pattern': 'fifo', 'vote-threshold': 1,"
        "'children': [{'driver': 'null-co', 'size': %d, 'read-zeroes': true},"
        "{'driver': 'raw', 'node-name': 'peer0', 'file': 'client0'}]}}",
        (int)DISK);
    pair_disk_plug(p->primary);

    colo_pair_migrate(p, "mig", NULL, 10, COLO_TIMEOUT_MS);
    message = migrate_refusal(p, "mig");
    g_test_message("%s", message);
    g_assert_nonnull(strstr(message, "'disk0'"));
    g_assert_nonnull(strstr(message, "'client0'"));
    g_assert_nonnull(strstr(message, "driver 'replication'"));
    g_assert_nonnull(strstr(message, "x-blockdev-change"));

    /* It is what the message says, and the secondary waits as before */
    disk_del_child(p->primary, "disk0", "children.1");
    qtest_qmp_assert_success(p->secondary, "{'execute': 'nbd-server-stop'}");
    colo_pair_migrate(p, NULL, "mig", 10, COLO_TIMEOUT_MS);
    colo_wait_statistic(p->primary, "checkpoints", 3);
    g_assert_cmpint(count_problems(p->primary, "disk", "disk9",
                                   "disk 'disk9' is"), ==, 1);
    colo_pair_free(p);
}

static void test_lengths(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "qtest", "");
    g_autofree char *image = disk_new_file(p->dir, "image", false);
    g_autofree char *active = g_build_filename(p->dir, "active", NULL);
    g_autofree char *hidden = g_build_filename(p->dir, "hidden", NULL);
    g_autofree char *of_active = g_strdup_printf("'%s' has %d", active,
                                                 (int)DISK / 2);
    g_autofree char *of_hidden = g_strdup_printf("'%s' has %d", hidden,
                                                 (int)DISK / 2);

    mkqcow2(active, DISK_MB / 2);
    mkqcow2(hidden, DISK_MB / 2);
    pair_disk_add_secondary(p->secondary, image, active, hidden);
    qtest_qmp_assert_success(p->secondary,
        "{'execute': 'migrate-set-capabilities', 'arguments': {"
        "'capabilities': [{'capability': 'x-colo', 'state': true}]}}");
    g_assert_cmpint(count_problems(p->secondary, "disk", "", "the disk "
                                   "'image0' has 16777216 bytes"), ==, 1);
    g_assert_cmpint(count_problems(p->secondary, "disk", "", of_active), ==, 1);
    g_assert_cmpint(count_problems(p->secondary, "disk", "", of_hidden), ==, 1);
    colo_pair_free(p);
}

/* A pair with a disk; the secondary's image is exported */
static ColoPair *new_exported(const void *mode)
{
    ColoPair *p = colo_pair_new_with(mode, "qtest", "");
    g_autofree char *image = disk_new_file(p->dir, "image", false);
    g_autofree char *active = disk_new_file(p->dir, "active", true);
    g_autofree char *hidden = disk_new_file(p->dir, "hidden", true);
    g_autofree char *path = g_build_filename(p->dir, "nbd", NULL);

    pair_disk_add_primary(p->primary);
    pair_disk_add_secondary(p->secondary, image, active, hidden);
    disk_serve(p->secondary, path);
    disk_export(p->secondary, "image0", "t", true);
    colo_pair_unplug_net(p);
    return p;
}

static void test_names(const void *mode)
{
    ColoPair *p = new_exported(mode);
    QTestState *sides[] = { p->primary, p->secondary };

    for (int i = 0; i < G_N_ELEMENTS(sides); i++) {
        g_autofree char *info = qtest_hmp(sides[i], "info colo");
        QDict *status = colo_status(sides[i]);
        QList *disks = qdict_get_qlist(status, "disks");
        QDict *disk = qobject_to(QDict, qlist_peek(disks));

        g_assert_cmpint(qlist_size(disks), ==, 1);
        g_assert_cmpstr(qdict_get_try_str(disk, "disk"), ==, "disk9");
        g_assert_nonnull(strstr(info, "disk 'disk9': "));
        g_assert_null(strchr(info, '#'));
        qobject_unref(status);
    }
    colo_pair_free(p);
}

static void stop_server(ColoPair *p)
{
    begin_session(p);
    g_assert_true(is_protected(p->secondary));
    expect_event(p->secondary, true);
    qtest_qmp_assert_success(p->secondary, "{'execute': 'nbd-server-stop'}");
    g_assert_cmpint(count_problems(p->secondary, "disk", "",
                                   "is not exported any more"), ==, 1);
    g_assert_false(is_protected(p->secondary));
    expect_event(p->secondary, false);
}

static void test_export(const void *mode)
{
    ColoPair *p = new_exported(mode);
    QDict *event;

    stop_server(p);
    qtest_qmp_assert_success(p->primary, "{'execute': 'x-colo-checkpoint'}");
    event = colo_wait_event(p->secondary, "COLO_DISK_ERROR");
    qobject_unref(event);
    colo_wait_state(p->secondary, "ended");
    colo_wait_state(p->primary, "alone");
    colo_wait_status(p->primary, "running");
    colo_pair_free(p);
}

/* The published sequence stops the server before it says who goes on */
static void test_takes_over(const void *mode)
{
    ColoPair *p = new_exported(mode);

    stop_server(p);
    colo_kill(&p->primary);
    colo_failover(p->secondary);
    colo_wait_state(p->secondary, "live");
    colo_wait_status(p->secondary, "running");
    colo_pair_free(p);
}

int main(int argc, char **argv)
{
    static const char *const modes[] = { "hybrid", "periodic" };

    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < G_N_ELEMENTS(modes); i++) {
        static const struct {
            const char *name;
            void (*fn)(const void *mode);
        } tests[] = {
            { "disks", test_disks },
            { "devices", test_devices },
            { "nics", test_nics },
            { "equal", test_equal },
            { "different", test_different },
            { "nbd", test_nbd },
            { "lengths", test_lengths },
            { "names", test_names },
            { "export", test_export },
            { "takes-over", test_takes_over },
            { "netdev-gone", test_netdev_gone },
        };

        for (int j = 0; j < G_N_ELEMENTS(tests); j++) {
            g_autofree char *path = g_strdup_printf("/colo/problems/%s/%s",
                                                    tests[j].name, modes[i]);

            qtest_add_data_func(path, modes[i], tests[j].fn);
        }
    }
    qtest_add_func("/colo/problems/gate/hybrid", test_gate_in_hybrid);
    qtest_add_func("/colo/problems/waiting", test_waiting);
    qtest_add_func("/colo/problems/streams/hybrid", test_streams);
    qtest_add_func("/colo/problems/published/hybrid", test_published);
    qtest_add_func("/colo/problems/survivor/hybrid", test_survivor);
    return g_test_run();
}
