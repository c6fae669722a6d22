/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: what the tests of replicated and of shared disks have in
 * common.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "libqos/libqos.h"
#include "colo-disk-rig.h"
#include "colo-helpers.h"
#include "colo-nbd.h"

#define DISK_DEADLINE_S 240
#define COMMAND_MS 30000

static void test_is_late(int sig)
{
    static const char text[] = "# the time of this test is over\n";

    if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) {
        /* The abort says it, too */
    }
    abort();
}

void disk_deadline_begin(void)
{
    struct sigaction late = { .sa_handler = test_is_late };

    sigaction(SIGALRM, &late, NULL);
    alarm(DISK_DEADLINE_S);
}

void disk_deadline_end(void)
{
    alarm(0);
}

char *disk_new_file(const char *dir, const char *name, bool qcow2)
{
    char *path = g_build_filename(dir, name, NULL);

    if (qcow2) {
        mkqcow2(path, DISK_MB);
    } else {
        int fd = open(path, O_RDWR | O_CREAT, 0600);

        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(ftruncate(fd, DISK), ==, 0);
        close(fd);
    }
    return path;
}

void disk_free_file(char *path)
{
    unlink(path);
    g_free(path);
}

void disk_serve(QTestState *qts, const char *path)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'nbd-server-start', 'arguments': {'addr': {"
        "'type': 'unix', 'data': {'path': %s}}}}", path);
}

void disk_export(QTestState *qts, const char *node, const char *name,
                 bool writable)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'block-export-add', 'arguments': {'type': 'nbd', "
        "'id': %s, 'node-name': %s, 'name': %s, 'writable': %i}}",
        name, node, name, writable);
}

void disk_export_top(QTestState *qts, const char *path)
{
    disk_serve(qts, path);
    disk_export(qts, "topnode", "t", false);
}

void disk_add_client(QTestState *qts, const char *node, const char *path,
                     const char *name, const char *more)
{
    g_autofree char *json = g_strdup_printf(
        "{'execute': 'blockdev-add', 'arguments': {'driver': 'nbd', "
        "'node-name': %%s, 'export': %%s%s, "
        "'server': {'type': 'unix', 'path': %%s}}}", more);

    qtest_qmp_assert_success(qts, json, node, name, path);
}

void disk_add_child(QTestState *qts, const char *parent, const char *node)
{
    qtest_qmp_assert_success(qts, "{'execute': 'x-blockdev-change', "
                             "'arguments': {'parent': %s, 'node': %s}}",
                             parent, node);
}

void disk_del_child(QTestState *qts, const char *parent, const char *child)
{
    qtest_qmp_assert_success(qts, "{'execute': 'x-blockdev-change', "
                             "'arguments': {'parent': %s, 'child': %s}}",
                             parent, child);
}

void disk_read(const char *path, int byte, int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    g_autofree uint8_t *want = g_malloc(bytes);
    int fd = colo_nbd_client(path, 't');

    g_assert_cmpint(colo_nbd_pread(fd, buf, offset, bytes), ==, 0);
    close(fd);
    memset(want, byte, bytes);
    g_assert_cmpmem(buf, bytes, want, bytes);
}

/* Commands */

void disk_replicate(QTestState *qts, bool enable, bool primary)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'xen-set-replication', 'arguments': {"
        "'enable': %i, 'primary': %i}}", enable, primary);
}

void disk_failover(QTestState *qts, bool primary)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'xen-set-replication', 'arguments': {"
        "'enable': false, 'primary': %i, 'failover': true}}", primary);
}

void disk_checkpoint(QTestState *primary, QTestState *secondary)
{
    qtest_qmp_assert_success(primary, "{'execute': 'xen-colo-do-checkpoint'}");
    qtest_qmp_assert_success(secondary,
                             "{'execute': 'xen-colo-do-checkpoint'}");
}

bool disk_has_error(QTestState *qts)
{
    QDict *answer = qtest_qmp_assert_success_ref(qts,
        "{'execute': 'query-xen-replication-status'}");
    bool error = qdict_get_bool(answer, "error");

    qobject_unref(answer);
    return error;
}

void disk_start_refused(QTestState *qts, bool primary, const char *text)
{
    colo_refused(qts, text, "{'execute': 'xen-set-replication', 'arguments': {"
                 "'enable': true, 'primary': %i}}", primary);
}

void disk_check_time(int64_t begin)
{
    g_assert_cmpint(g_get_monotonic_time() - begin, <, COMMAND_MS * 1000LL);
}

static void G_GNUC_PRINTF(3, 0) qemu_io(QTestState *qts, const char *where,
                                        const char *fmt, va_list ap)
{
    g_autofree char *command = g_strdup_vprintf(fmt, ap);

    g_autofree char *answer = qtest_hmp(qts, "qemu-io %s \"%s\"", where,
                                        command);

    g_assert_cmpstr(answer, ==, ""); /* there is such a disk */
}

void disk_io(QTestState *qts, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    qemu_io(qts, "top", fmt, ap);
    va_end(ap);
}

void disk_io_at(QTestState *qts, const char *where, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    qemu_io(qts, where, fmt, ap);
    va_end(ap);
}

void disk_write(QTestState *qts, int byte, int64_t offset, int64_t bytes)
{
    disk_io(qts, "write -P %d %" PRId64 " %" PRId64, byte, offset, bytes);
}

/* What is in a file */

bool disk_file_has(const char *path, int byte, int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    g_autofree uint8_t *want = g_malloc(bytes);
    int fd = open(path, O_RDONLY);

    memset(want, byte, bytes);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pread(fd, buf, bytes, offset), ==, bytes);
    close(fd);
    return !memcmp(buf, want, bytes);
}

static int64_t end_time(void)
{
    return g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;
}

void disk_wait_file(const char *path, int byte, int64_t offset, int64_t bytes)
{
    int64_t end = end_time();

    while (!disk_file_has(path, byte, offset, bytes)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(2000);
    }
}

bool disk_same(const char *a, const char *b)
{
    g_autofree char *data_a = NULL, *data_b = NULL;
    gsize len_a, len_b;

    g_assert_true(g_file_get_contents(a, &data_a, &len_a, NULL));
    g_assert_true(g_file_get_contents(b, &data_b, &len_b, NULL));
    return len_a == len_b && !memcmp(data_a, data_b, len_a);
}

void disk_wait_same(const char *a, const char *b)
{
    int64_t end = end_time();

    while (!disk_same(a, b)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(2000);
    }
}

/* What QEMU says */

void disk_wait_no_job(QTestState *qts)
{
    int64_t end = end_time();
    bool none;

    do {
        QList *jobs = NULL;
        QDict *answer = qtest_qmp(qts, "{'execute': 'query-block-jobs'}");

        jobs = qdict_get_qlist(answer, "return");
        none = qlist_empty(jobs);
        qobject_unref(answer);
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(none ? 0 : 2000);
    } while (!none);
}

QDict *disk_query(QTestState *qts)
{
    QDict *answer = qtest_qmp_assert_success_ref(qts,
        "{'execute': 'query-colo-status'}");
    QList *disks = qdict_get_qlist(answer, "disks");
    QDict *found = NULL;
    QListEntry *e;

    g_assert_nonnull(disks);
    QLIST_FOREACH_ENTRY(disks, e) {
        QDict *disk = qobject_to(QDict, qlist_entry_obj(e));

        if (g_str_equal(qdict_get_str(disk, "node-name"), "repl")) {
            found = qobject_ref(disk);
        }
    }
    qobject_unref(answer);
    g_assert_nonnull(found);
    return found;
}

void disk_check_stage(QTestState *qts, const char *stage)
{
    QDict *disk = disk_query(qts);

    g_assert_cmpstr(qdict_get_str(disk, "stage"), ==, stage);
    qobject_unref(disk);
}

int64_t disk_log_number(QTestState *qts, const char *key)
{
    QDict *disk = disk_query(qts);
    int64_t number = qdict_get_int(qdict_get_qdict(disk, "log"), key);

    qobject_unref(disk);
    return number;
}
