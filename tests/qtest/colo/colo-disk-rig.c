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

#define DISK_DEADLINE_S 60

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

void disk_export_top(QTestState *qts, const char *path)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'nbd-server-start', 'arguments': {'addr': {"
        "'type': 'unix', 'data': {'path': %s}}}}", path);
    qtest_qmp_assert_success(qts,
        "{'execute': 'block-export-add', 'arguments': {'type': 'nbd', "
        "'id': 'e1', 'node-name': 'topnode', 'name': 't'}}");
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

bool disk_has_error(QTestState *qts)
{
    QDict *answer = qtest_qmp_assert_success_ref(qts,
        "{'execute': 'query-xen-replication-status'}");
    bool error = qdict_get_bool(answer, "error");

    qobject_unref(answer);
    return error;
}

void disk_io(QTestState *qts, const char *fmt, ...)
{
    g_autofree char *command = NULL;
    va_list ap;

    va_start(ap, fmt);
    command = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_free(qtest_hmp(qts, "qemu-io top \"%s\"", command));
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

static bool are_same(const char *a, const char *b)
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

    while (!are_same(a, b)) {
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
