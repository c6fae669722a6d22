/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: what the guest writes may not go past replication.
 *
 * Proves: on the primary of a pair no snapshot is taken above a replicated
 * disk, and no job begins that could put another node in its place, in whatever
 * way it is asked for; the image below may have a snapshot.  If there is one
 * above the disk before, it is a problem with its name, and no session begins;
 * nor with a node that was in a session or is below no disk.  The command is
 * refused for that, and the secondary waits as before.  A job from before that
 * does it in a session ends the session at the next checkpoint, and so does the
 * loss of the node that replicates.  On the secondary the nodes of the disk stay
 * where they are, and its guest can go on with them.  No command writes to a node
 * below, or to the way to it from the primary.  An encrypted disk is a disk like
 * others.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qnull.h"
#include "qobject/qstring.h"
#include "libqos/libqos.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-pair-disk.h"

#define LONG_MS 600000
#define BUSY    "being replicated"

typedef struct Bypass {
    ColoPair *pair;
    char *image;
    char *active;
    char *hidden;
    char *snapshot;
} Bypass;

/*
 * As pair_disk_add_secondary(), but all nodes have names.  @drive: the image is
 * that of a -drive as well.
 */
static void add_secondary(Bypass *b, bool drive)
{
    QTestState *qts = b->pair->secondary;

    if (drive) {
        g_autofree char *said = qtest_hmp(qts, "drive_add 0 if=none,id=drive0,"
            "format=raw,node-name=image0,file=%s", b->image);

        g_assert_nonnull(strstr(said, "OK"));
    } else {
        qtest_qmp_assert_success(qts,
            "{'execute': 'blockdev-add', 'arguments': {'driver': 'raw',"
            "'node-name': 'image0', 'file': {'driver': 'file',"
            "'filename': %s}}}", b->image);
    }
    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2',"
        "'node-name': 'hidden0', 'backing': 'image0', 'file': {"
        "'driver': 'file', 'node-name': 'hidden-file0', 'filename': %s}}}",
        b->hidden);
    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2',"
        "'node-name': 'active0', 'backing': 'hidden0', 'file': {"
        "'driver': 'file', 'node-name': 'active-file0', 'filename': %s}}}",
        b->active);
    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'quorum',"
        "'node-name': 'disk0', 'read-pattern': 'fifo', 'vote-threshold': 1,"
        "'children': [{'driver': 'replication', 'mode': 'secondary',"
        "'node-name': 'follower0', 'top-id': 'disk0', 'file': 'active0'}]}}");
    pair_disk_plug(qts);
}

static Bypass *bypass_new_with(const void *mode, bool drive)
{
    Bypass *b = g_new0(Bypass, 1);
    ColoPair *p = colo_pair_new_with(mode, "qtest", "");

    b->pair = p;
    colo_pair_unplug_net(p);
    b->image = disk_new_file(p->dir, "image", false);
    b->active = disk_new_file(p->dir, "active", true);
    b->hidden = disk_new_file(p->dir, "hidden", true);
    b->snapshot = disk_new_file(p->dir, "snapshot", true);
    pair_disk_add_primary(p->primary);
    add_secondary(b, drive);
    return b;
}

static Bypass *bypass_new(const void *mode)
{
    return bypass_new_with(mode, false);
}

static void bypass_free(Bypass *b)
{
    colo_pair_free(b->pair);
    g_free(b->image);
    g_free(b->active);
    g_free(b->hidden);
    g_free(b->snapshot);
    g_free(b);
}

static void begin(Bypass *b)
{
    colo_pair_migrate(b->pair, "mig", "mig", LONG_MS, COLO_TIMEOUT_MS);
    colo_wait_state(b->pair->secondary, colo_state_ready(b->pair));
    colo_wait_state(b->pair->primary, "running");
}

static bool is_protected(QTestState *qts)
{
    QDict *status = colo_status(qts);
    bool yes = qdict_get_bool(status, "protected");

    qobject_unref(status);
    return yes;
}

static void add_target(QTestState *qts)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'null-co',"
        "'node-name': 'target', 'size': %d}}", (int)DISK);
}

static void add_overlay(Bypass *b)
{
    qtest_qmp_assert_success(b->pair->primary,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2',"
        "'node-name': 'over', 'file': {'driver': 'file', 'filename': %s},"
        "'backing': null}}", b->snapshot);
}

static void take_snapshot(Bypass *b)
{
    add_overlay(b);
    qtest_qmp_assert_success(b->pair->primary,
        "{'execute': 'blockdev-snapshot', 'arguments': {'node': 'disk0',"
        "'overlay': 'over'}}");
}

static void set_capability(QTestState *qts)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'migrate-set-capabilities', 'arguments': {"
        "'capabilities': [{'capability': 'x-colo', 'state': true}]}}");
}

/* The command is refused, and nothing has happened to the secondary */
static void check_migrate_refused(Bypass *b, const char *text)
{
    ColoPair *p = b->pair;
    g_autofree char *uri = g_strdup_printf("unix:%s/mig", p->dir);
    g_autofree char *state = NULL;

    set_capability(p->secondary);
    qtest_qmp_assert_success(p->secondary, "{'execute': 'migrate-incoming',"
                             "'arguments': {'uri': %s}}", uri);
    colo_refused(p->primary, text, "{'execute': 'migrate', 'arguments': {"
                 "'uri': %s}}", uri);
    colo_wait_status(p->secondary, "inmigrate");
    state = colo_state(p->secondary);
    g_assert_null(state);
}

static void check_mirror_refused(QTestState *qts)
{
    colo_refused(qts, BUSY, "{'execute': 'blockdev-mirror', 'arguments': {"
                 "'job-id': 'm', 'device': 'disk0', 'target': 'target',"
                 "'sync': 'none'}}");
    colo_refused(qts, BUSY, "{'execute': 'drive-mirror', 'arguments': {"
                 "'job-id': 'm', 'device': 'disk0', 'format': 'raw',"
                 "'target': '/nonexistent/m', 'sync': 'none'}}");
}

/* The backend of the guest's disk becomes @node */
#define SET_DRIVE(node) \
    "{'execute': 'qom-set', 'arguments': {'property': 'drive', 'value': '" \
    node "', 'path': '/machine/peripheral/disk9/virtio-backend'}}"

static void test_refused(const void *mode)
{
    Bypass *b = bypass_new(mode);
    QTestState *qts = b->pair->primary;
    static const char *const nodes[] = { "disk0", "repl" };

    add_target(qts);
    add_overlay(b);
    colo_pair_protect(b->pair);
    for (int i = 0; i < G_N_ELEMENTS(nodes); i++) {
        colo_refused(qts, BUSY, "{'execute': 'blockdev-snapshot', 'arguments':"
                     "{'node': %s, 'overlay': 'over'}}", nodes[i]);
        colo_refused(qts, BUSY, "{'execute': 'blockdev-snapshot-sync',"
                     "'arguments': {'node-name': %s, 'mode': 'existing',"
                     "'snapshot-node-name': 'snap', 'snapshot-file': %s}}",
                     nodes[i], b->snapshot);
        colo_refused(qts, BUSY, "{'execute': 'transaction', 'arguments': {"
                     "'actions': [{'type': 'blockdev-snapshot', 'data': {"
                     "'node': %s, 'overlay': 'over'}}]}}", nodes[i]);
    }
    check_mirror_refused(qts);
    /* The node that it has already */
    qtest_qmp_assert_success(qts, SET_DRIVE("disk0"));
    g_assert_true(is_protected(qts));

    /* What is on the image comes from above */
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-snapshot',"
                             "'arguments': {'node': 'local0',"
                             "'overlay': 'over'}}");
    colo_wait_statistic(qts, "checkpoints",
                        colo_statistic(qts, "checkpoints") + 3);
    g_assert_true(is_protected(qts));
    bypass_free(b);
}

/* The one disk problem, if there is any; the caller frees it */
static char *disk_problem(QTestState *qts)
{
    QDict *status = colo_status(qts);
    char *message = NULL;
    const QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(status, "problems"), e) {
        QDict *p = qobject_to(QDict, qlist_entry_obj(e));

        if (!strcmp(qdict_get_str(p, "kind"), "disk")) {
            g_assert_null(message);
            message = g_strdup(qdict_get_str(p, "message"));
        }
    }
    qobject_unref(status);
    return message;
}

static void wait_disk_error(QTestState *qts, const char *text)
{
    QDict *event = colo_wait_event(qts, "COLO_DISK_ERROR");
    const char *said = qdict_get_str(qdict_get_qdict(event, "data"),
                                     "message");

    g_test_message("%s", said);
    g_assert_nonnull(strstr(said, text));
    qobject_unref(event);
}

static void test_before(const void *mode)
{
    Bypass *b = bypass_new(mode);
    QTestState *qts = b->pair->primary;
    g_autofree char *problem = NULL;

    set_capability(qts);
    g_assert_null(disk_problem(qts));
    take_snapshot(b);
    problem = disk_problem(qts);
    g_assert_nonnull(problem);
    g_test_message("%s", problem);
    g_assert_nonnull(strstr(problem, "node 'over' (qcow2)"));

    check_migrate_refused(b, "node 'over' (qcow2)");
    bypass_free(b);
}

static void test_meanwhile(const void *mode)
{
    Bypass *b = bypass_new(mode);
    QTestState *qts = b->pair->primary;

    colo_pair_hold(b->pair, "mig", "mig", 10, LONG_MS);
    take_snapshot(b);
    colo_pair_release(b->pair);
    wait_disk_error(qts, "node 'over' (qcow2)");
    colo_wait_state(qts, "alone");
    colo_wait_status(qts, "running");
    bypass_free(b);
}

/* A mirror that begins before the session, and ends in it */
static void test_pivot(const void *mode)
{
    Bypass *b = bypass_new(mode);
    QTestState *qts = b->pair->primary;

    add_target(qts);
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-mirror',"
                             "'arguments': {'job-id': 'm', 'device': 'disk0',"
                             "'target': 'target', 'sync': 'none'}}");
    qobject_unref(colo_wait_event(qts, "BLOCK_JOB_READY"));
    begin(b);
    g_assert_true(is_protected(qts));
    qtest_qmp_assert_success(qts, "{'execute': 'block-job-complete',"
                             "'arguments': {'device': 'm'}}");
    qobject_unref(colo_wait_event(qts, "BLOCK_JOB_COMPLETED"));
    g_assert_false(is_protected(qts));
    qtest_qmp_assert_success(qts, "{'execute': 'x-colo-checkpoint'}");
    wait_disk_error(qts, "does not reach node 'repl'");
    colo_wait_state(qts, "alone");
    colo_wait_status(qts, "running");
    colo_wait_state(b->pair->secondary, "ended");
    bypass_free(b);
}

/* blockdev-add was typed, x-blockdev-change was not */
static void test_unused(const void *mode)
{
    Bypass *b = bypass_new(mode);
    QTestState *qts = b->pair->primary;

    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'replication',"
        "'node-name': 'idle', 'mode': 'primary', 'file': {"
        "'driver': 'null-co', 'size': %d}}}", (int)DISK);
    set_capability(qts);
    check_migrate_refused(b, "node 'idle' is below no disk of the guest: add "
                          "it to one with x-blockdev-change");
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-del', 'arguments': {"
                             "'node-name': 'idle'}}");
    bypass_free(b);
}

/* @backing: a node or NULL */
static void check_reopen_refused(QTestState *qts, const char *node,
                                 const char *file, const char *backing)
{
    colo_refused(qts, BUSY, "{'execute': 'blockdev-reopen', 'arguments': {"
                 "'options': [{'driver': 'qcow2', 'node-name': %s, 'file': %s,"
                 "'backing': %p}]}}", node, file,
                 backing ? QOBJECT(qstring_from_str(backing))
                         : QOBJECT(qnull()));
}

/* The secondary's disk cannot be taken apart, and is whole after a failover */
static void test_secondary(const void *mode)
{
    Bypass *b = bypass_new(mode);
    QTestState *qts = b->pair->secondary;

    add_target(qts);
    colo_pair_protect(b->pair);
    check_reopen_refused(qts, "active0", "active-file0", NULL);
    check_reopen_refused(qts, "active0", "active-file0", "image0");
    check_reopen_refused(qts, "hidden0", "hidden-file0", NULL);
    check_reopen_refused(qts, "hidden0", "hidden-file0", "target");
    /* What the primary's guest writes would be somewhere else in the image */
    colo_refused(qts, BUSY, "{'execute': 'blockdev-reopen', 'arguments': {"
                 "'options': [{'driver': 'raw', 'node-name': 'image0',"
                 "'offset': 4096, 'file': {'driver': 'file',"
                 "'filename': %s}}]}}", b->image);
    disk_add_child(qts, "disk0", "target");
    colo_refused(qts, BUSY, "{'execute': 'x-blockdev-change',"
                 "'arguments': {'parent': 'disk0', 'child': 'children.0'}}");
    disk_del_child(qts, "disk0", "children.1");
    colo_refused(qts, BUSY, SET_DRIVE("image0"));
    colo_refused(qts, BUSY, SET_DRIVE("active0"));
    /* The quorum would be in its way as soon as the disk is used */
    colo_refused(qts, BUSY, SET_DRIVE("follower0"));
    qtest_qmp_assert_success(qts, "{'execute': 'object-add', 'arguments': {"
                             "'qom-type': 'throttle-group', 'id': 'tg'}}");
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-add', 'arguments': {"
                             "'driver': 'throttle', 'node-name': 'above',"
                             "'throttle-group': 'tg', 'file': 'disk0',"
                             "'active': %i}}", !strcmp(mode, "hybrid"));
    qtest_qmp_assert_success(qts, SET_DRIVE("above"));
    qtest_qmp_assert_success(qts, SET_DRIVE("disk0"));
    qtest_qmp_assert_success(qts, SET_DRIVE("above"));
    g_assert_true(is_protected(qts));

    colo_kill(&b->pair->primary);
    colo_wait_state(qts, "lost");
    colo_failover(qts);
    colo_wait_state(qts, "live");
    colo_wait_status(qts, "running");
    disk_wait_no_job(qts);
    bypass_free(b);
}

#define ALONE "only replication writes to it"

/* The monitor does not write to @node, for the reason @text; it reads */
static void check_write_refused(QTestState *qts, const char *node,
                                const char *text)
{
    g_autofree char *said = qtest_hmp(qts, "qemu-io %s \"write 0 4k\"", node);
    g_autofree char *read = qtest_hmp(qts, "qemu-io %s \"read 0 4k\"", node);

    g_test_message("%s", said);
    g_assert_nonnull(strstr(said, text));
    g_assert_cmpstr(read, ==, "");
}

/* What the primary's writes are sent to is its own */
static void test_peer(const void *mode)
{
    Bypass *b = bypass_new(mode);
    QTestState *qts = b->pair->primary;

    for (int session = 0; session < 2; session++) {
        check_write_refused(qts, "peer0", ALONE);
        colo_refused(qts, session ? "while a COLO session runs" :
                     "Permission conflict on node 'peer0'",
                     "{'execute': 'blockdev-add', 'arguments': {"
                     "'driver': 'replication', 'node-name': 'other',"
                     "'mode': 'primary', 'file': 'peer0'}}");
        if (!session) {
            colo_pair_protect(b->pair);
        }
    }
    colo_wait_statistic(qts, "checkpoints",
                        colo_statistic(qts, "checkpoints") + 2);
    g_assert_true(is_protected(qts));
    bypass_free(b);
}

/* The end of the job 'c' */
static void wait_create_refused(QTestState *qts, const char *text)
{
    const char *status = NULL;
    QDict *answer = NULL, *job;

    do {
        qobject_unref(answer);
        answer = qtest_qmp(qts, "{'execute': 'query-jobs'}");
        job = qobject_to(QDict, qlist_peek(qdict_get_qlist(answer, "return")));
        status = qdict_get_str(job, "status");
    } while (strcmp(status, "concluded"));
    g_test_message("%s", qdict_get_str(job, "error"));
    g_assert_nonnull(strstr(qdict_get_str(job, "error"), text));
    qobject_unref(answer);
    qtest_qmp_assert_success(qts, "{'execute': 'job-dismiss', 'arguments': {"
                             "'id': 'c'}}");
}

static void check_all_writes_refused(Bypass *b, bool folded)
{
    QTestState *qts = b->pair->secondary;
    static const char *const nodes[] = {
        "image0", "drive0", "sink0", "active0", "hidden0"
    };

    for (int i = 0; i < (folded ? 3 : G_N_ELEMENTS(nodes)); i++) {
        check_write_refused(qts, nodes[i], ALONE);
    }
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-create',"
                             "'arguments': {'job-id': 'c', 'options': {"
                             "'driver': 'qcow2', 'file': 'sink0',"
                             "'size': %d}}}", (int)DISK);
    /* As long as it is exported, the export is in the way as well */
    wait_create_refused(qts, folded ? "keeps its length and format"
                                    : "'resize'");
    if (!folded) {
        colo_refused(qts, BUSY, "{'execute': 'blockdev-snapshot-sync',"
                     "'arguments': {'node-name': 'sink0', 'mode': 'existing',"
                     "'snapshot-node-name': 'snap', 'snapshot-file': %s}}",
                     b->snapshot);
    }
}

/* Nobody but replication writes below the secondary's disk, ever */
static void test_below(const void *mode)
{
    Bypass *b = bypass_new_with(mode, true);
    QTestState *qts = b->pair->secondary;
    g_autofree char *nbd = g_strdup_printf("%s/nbd", b->pair->dir);

    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-add', 'arguments': {"
                             "'driver': 'replication-sink', 'node-name': "
                             "'sink0', 'file': 'image0'}}");
    qtest_qmp_assert_success(qts, "{'execute': 'nbd-server-start',"
                             "'arguments': {'addr': {'type': 'unix', 'data': {"
                             "'path': %s}}}}", nbd);
    qtest_qmp_assert_success(qts, "{'execute': 'nbd-server-add', 'arguments': {"
                             "'device': 'sink0', 'writable': true}}");
    check_write_refused(qts, "sink0", ALONE);
    check_write_refused(qts, "drive0", ALONE);
    colo_pair_protect(b->pair);
    check_all_writes_refused(b, false);
    g_assert_true(is_protected(qts));

    colo_kill(&b->pair->primary);
    colo_wait_state(qts, "lost");
    colo_failover(qts);
    colo_wait_state(qts, "live");
    disk_wait_no_job(qts);
    check_all_writes_refused(b, true);
    bypass_free(b);
}

/* The node that replicates is only in the disk, and is taken out of it */
static void test_lost(const void *mode)
{
    Bypass *b = bypass_new(mode);
    QTestState *qts = b->pair->primary;

    begin(b);
    disk_del_child(qts, "disk0", "children.1");
    wait_disk_error(qts, "does not reach node 'repl'");
    colo_wait_state(qts, "alone");
    colo_wait_status(qts, "running");
    colo_wait_state(b->pair->secondary, "ended");
    bypass_free(b);
}

/* @header: of the encrypted disk; false if this QEMU has no such thing */
static bool make_header(const char *header)
{
    const char *img = getenv("QTEST_QEMU_IMG");
    g_autofree char *command = g_strdup_printf("'%s' create -q -f luks "
        "--object secret,id=s,data=abc -o key-secret=s,iter-time=10,"
        "detached-header=true '%s' %dM", img, header, DISK_MB);
    int status;

    return g_spawn_command_line_sync(command, NULL, NULL, &status, NULL) &&
           status == 0;
}

static void encrypt(QTestState *qts, const char *header)
{
    qtest_qmp_assert_success(qts, "{'execute': 'object-add', 'arguments': {"
                             "'qom-type': 'secret', 'id': 's',"
                             "'data': 'abc'}}");
    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'luks',"
        "'node-name': 'crypt', 'key-secret': 's', 'file': 'disk0', 'header': {"
        "'driver': 'file', 'filename': %s, 'locking': 'off'}}}", header);
    qtest_qmp_assert_success(qts, SET_DRIVE("crypt"));
}

/* An encrypted disk: all that is written to it is, but otherwise */
static void test_luks(const void *mode)
{
    Bypass *b = bypass_new(mode);
    ColoPair *p = b->pair;
    g_autofree char *header = g_strdup_printf("%s/header", p->dir);
    g_autofree char *problem = NULL;

    if (!make_header(header)) {
        g_test_skip("no luks");
        bypass_free(b);
        return;
    }
    encrypt(p->primary, header);
    encrypt(p->secondary, header);
    set_capability(p->primary);
    problem = disk_problem(p->primary);
    g_assert_null(problem);
    colo_pair_protect(p);
    g_assert_true(is_protected(p->primary));
    g_assert_true(is_protected(p->secondary));
    bypass_free(b);
}

/*
 * A node that cannot be there together with the guest's disk, while none of
 * them is in use: the survivor says so, and goes on when it is gone
 */
static void test_in_the_way(void)
{
    /* A quorum that nobody uses is in nobody's way: this one is used */
    Bypass *b = bypass_new("periodic");
    QTestState *qts = b->pair->secondary;
    QDict *status;

    colo_pair_protect(b->pair);
    qtest_qmp_assert_success(qts,
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'quorum',"
        "'node-name': 'aside', 'read-pattern': 'fifo', 'vote-threshold': 1,"
        "'active': false, 'children': [{'driver': 'quorum', 'active': false,"
        "'read-pattern': 'fifo', 'vote-threshold': 1,"
        "'children': ['follower0']}]}}");
    colo_kill(&b->pair->primary);
    colo_wait_state(qts, "lost");
    colo_failover(qts);
    colo_wait_state(qts, "live");
    colo_wait_status(qts, "paused");
    status = qtest_qmp_assert_success_ref(qts,
                                          "{'execute': 'query-colo-status'}");
    g_assert_nonnull(strstr(qdict_get_str(status, "message"),
                            "the guest is paused: Permission conflict"));
    qobject_unref(status);
    disk_wait_no_job(qts);
    qtest_qmp_assert_success(qts, "{'execute': 'blockdev-del', 'arguments': {"
                             "'node-name': 'aside'}}");
    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
    colo_wait_status(qts, "running");
    bypass_free(b);
}

/* A node that has been in a session */
static void test_used(const void *mode)
{
    Bypass *b = bypass_new(mode);
    ColoPair *p = b->pair;
    g_autofree char *problem = NULL;

    begin(b);
    qtest_qmp_assert_success(p->primary, "{'execute': 'migrate_cancel'}");
    colo_wait_state(p->primary, "alone");
    colo_wait_state(p->secondary, "ended");
    problem = disk_problem(p->secondary);
    g_assert_null(problem);
    problem = disk_problem(p->primary);
    g_assert_nonnull(problem);
    g_assert_nonnull(strstr(problem, "node 'repl' is stopped and cannot start: "
                            "remove it and add a new one"));

    colo_quit(&p->secondary);
    colo_pair_new_secondary(p);
    pair_disk_add_secondary(p->secondary, b->image, b->active, b->hidden);
    check_migrate_refused(b, "node 'repl' is stopped and cannot start: remove "
                          "it and add a new one");
    disk_del_child(p->primary, "disk0", "children.1");
    g_clear_pointer(&problem, g_free);
    problem = disk_problem(p->primary);
    g_assert_nonnull(problem);
    g_assert_nonnull(strstr(problem, "'disk9' is writable and not replicated"));
    bypass_free(b);
}

/* Nothing can be read from what only forwards */
static void test_no_image(const void *mode)
{
    Bypass *b = bypass_new(mode);

    set_capability(b->pair->primary);
    disk_del_child(b->pair->primary, "disk0", "children.0");
    check_migrate_refused(b, "has no image on this side");
    bypass_free(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!have_qemu_img()) {
        g_test_message("no qemu-img, no tests");
        return 0;
    }
    colo_add("/colo/bypass", "refused", test_refused);
    colo_add("/colo/bypass", "before", test_before);
    colo_add("/colo/bypass", "meanwhile", test_meanwhile);
    colo_add("/colo/bypass", "pivot", test_pivot);
    colo_add("/colo/bypass", "unused", test_unused);
    colo_add("/colo/bypass", "used", test_used);
    colo_add("/colo/bypass", "secondary", test_secondary);
    qtest_add_func("/colo/bypass/in-the-way", test_in_the_way);
    colo_add("/colo/bypass", "peer", test_peer);
    colo_add("/colo/bypass", "below", test_below);
    colo_add("/colo/bypass", "lost", test_lost);
    colo_add("/colo/bypass", "luks", test_luks);
    colo_add("/colo/bypass", "no-image", test_no_image);
    return g_test_run();
}
