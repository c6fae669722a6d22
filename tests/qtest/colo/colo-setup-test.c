/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO between two QEMUs: x-colo-protect and x-colo-unprotect.
 *
 * Proves: one command a side makes a pair, of a VM that has none of what it
 * needs, and whatever fails, the VM has nothing afterwards that it did not have
 * before; a survivor becomes a primary by the same command.
 */

#include "qemu/osdep.h"
#include <sys/socket.h>
#include <netinet/in.h>
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "colo-helpers.h"

/* A pair of this test has no more ports */
#define PORTS 6
/* More than any side has steps */
#define STEPS_MAX 100

typedef struct Rig {
    const char *mode;
    QTestState *primary;        /* NULL when it is gone */
    QTestState *secondary;
    uint16_t port;
    char *dir;                  /* of images; NULL: no disks */
    char *folder;               /* the secondary's, of overlays */
} Rig;

/* Of each of two disks: bytes, and what its first half is full of */
#define DISK_SIZE (4 * 1024 * 1024)
#define DISK_FIRST 0x51

static bool is_free(uint16_t port)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool ok = !bind(fd, (struct sockaddr *)&addr, sizeof(addr));

    close(fd);
    return ok;
}

static uint16_t free_ports(void)
{
    /* Tests that run at the same time begin at another place */
    for (uint16_t base = 20000 + getpid() % 600 * 16; base < 60000;
         base += 16) {
        int n = 0;

        while (n < PORTS && is_free(base + n)) {
            n++;
        }
        if (n == PORTS) {
            return base;
        }
    }
    g_assert_not_reached();
}

static QTestState *start_qemu(const char *extra)
{
    QTestState *qts = qtest_initf(
        "-accel tcg -machine pc -m 32 -nodefaults "
        "-netdev hubport,id=hn0,hubid=0 "
        "-device virtio-net-pci,netdev=hn0,romfile= "
        "-netdev hubport,id=hn1,hubid=1 "
        "-device virtio-net-pci,netdev=hn1,romfile= "
        "-global migration.x-colo-verify-ram=on %s", extra);

    qtest_qmp_assert_success(qts,
        "{'execute': 'migrate-set-parameters', 'arguments': {"
        "'x-checkpoint-delay': 20, 'x-colo-timeout': %u,"
        "'x-colo-max-pause': %u}}", COLO_TIMEOUT_MS, COLO_MAX_PAUSE_MS);
    return qts;
}

/* The image of disk @n of one side, which has bytes @first in its first half */
static void make_image(Rig *r, const char *side, int n, int first)
{
    g_autofree char *path = g_strdup_printf("%s/%s%d", r->dir, side, n);
    g_autofree char *data = g_malloc0(DISK_SIZE);

    memset(data, first, DISK_SIZE / 2);
    g_assert_true(g_file_set_contents(path, data, DISK_SIZE, NULL));
}

/* A QEMU with two disks, one of them without a name of its own */
static QTestState *start_with_disks(Rig *r, const char *side,
                                    const char *extra)
{
    g_autofree char *options = g_strdup_printf(
        "-drive if=none,id=disk0,format=raw,file=%s/%s0 "
        "-device virtio-blk-pci,id=d0,drive=disk0 "
        "-blockdev driver=raw,node-name=image1,file.driver=file,"
        "file.filename=%s/%s1 "
        "-device virtio-blk-pci,id=d1,drive=image1 %s",
        r->dir, side, r->dir, side, extra);

    return start_qemu(options);
}

/* As if on a host of its own: each has a folder for overlays */
static void start_secondary_with_disks(Rig *r, const char *side)
{
    r->secondary = start_with_disks(r, side, "-incoming defer");
    g_free(r->folder);
    r->folder = g_strdup_printf("%s/overlays-%s", r->dir, side);
    g_assert_cmpint(g_mkdir_with_parents(r->folder, 0700), ==, 0);
}

static void rig_begin_disks(Rig *r, const char *mode)
{
    *r = (Rig) { .mode = mode, .port = free_ports() };
    r->dir = g_dir_make_tmp("colo-setup-XXXXXX", NULL);
    for (int n = 0; n < 2; n++) {
        make_image(r, "a", n, DISK_FIRST + n);
        make_image(r, "b", n, 0);
    }
    r->primary = start_with_disks(r, "a", "");
    start_secondary_with_disks(r, "b");
}

static bool is_empty(const char *folder)
{
    GDir *dir = g_dir_open(folder, 0, NULL);
    bool is = !g_dir_read_name(dir);

    g_dir_close(dir);
    return is;
}

static void remove_all(const char *folder)
{
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        if (g_file_test(path, G_FILE_TEST_IS_DIR)) {
            remove_all(path);
        } else {
            unlink(path);
        }
    }
    g_dir_close(dir);
    rmdir(folder);
}

static void rig_begin(Rig *r, const char *mode)
{
    *r = (Rig) { .mode = mode, .port = free_ports() };
    r->primary = start_qemu("");
    r->secondary = start_qemu("-incoming defer");
}

static void rig_end(Rig *r)
{
    if (r->primary) {
        qtest_quit(r->primary);
    }
    if (r->secondary) {
        qtest_quit(r->secondary);
    }
    if (r->dir) {
        remove_all(r->dir);
        g_free(r->folder);
        g_free(r->dir);
    }
}

/* The firmware says, when it gets there, whether its disks have a cache */
static char *without_cache(const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text, "\"writeback\": true", -1);

    return g_strjoinv("\"writeback\": false", parts);
}

/* All that x-colo-protect could leave behind */
static char *snapshot(QTestState *qts)
{
    static const struct {
        const char *command;
        const char *arguments;
    } queries[] = {
        { "query-chardev", "{}" },
        { "qom-list", "{'path': '/objects'}" },
        { "query-named-block-nodes", "{}" },
        { "query-block", "{}" },
        { "query-block-exports", "{}" },
        { "query-jobs", "{}" },
        { "query-migrate-parameters", "{}" },
        { "query-migrate-capabilities", "{}" },
        { "human-monitor-command", "{'command-line': 'info network'}" },
    };
    g_autoptr(GString) all = g_string_new(NULL);

    for (int i = 0; i < G_N_ELEMENTS(queries); i++) {
        QObject *arguments = qobject_from_json(queries[i].arguments,
                                               &error_abort);
        QDict *answer = qtest_qmp(qts, "{'execute': %s, 'arguments': %p}",
                                  queries[i].command, arguments);
        GString *text = qobject_to_json_pretty(QOBJECT(answer), true);

        g_assert_true(qdict_haskey(answer, "return"));
        g_string_append_printf(all, "%s\n", text->str);
        g_string_free(text, true);
        qobject_unref(answer);
    }
    return without_cache(all->str);
}

static void check_same(QTestState *qts, const char *before)
{
    g_autofree char *now = snapshot(qts);

    g_assert_cmpstr(now, ==, before);
}

static QDict *protect(Rig *r, QTestState *qts, const char *role)
{
    return qtest_qmp(qts, "{'execute': 'x-colo-protect', 'arguments': {"
                     "'role': %s, 'host': '127.0.0.1', 'port': %u,"
                     "'mode': %s, 'folder': %s}}", role, r->port, r->mode,
                     r->folder ?: "/nowhere");
}

static void protect_ok(Rig *r, QTestState *qts, const char *role)
{
    QDict *answer = protect(r, qts, role);

    if (!qdict_haskey(answer, "return")) {
        g_error("%s", qdict_get_str(qdict_get_qdict(answer, "error"), "desc"));
    }
    qobject_unref(answer);
}

static QDict *query_setup(QTestState *qts)
{
    return qtest_qmp_assert_success_ref(qts,
                                        "{'execute': 'query-colo-setup'}");
}

static char *phase(QTestState *qts)
{
    QDict *info = query_setup(qts);
    char *phase = g_strdup(qdict_get_str(info, "phase"));

    qobject_unref(info);
    return phase;
}

static void wait_phase(QTestState *qts, const char *wanted)
{
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;

    for (;;) {
        g_autofree char *is = phase(qts);

        if (g_str_equal(is, wanted)) {
            return;
        }
        if (g_get_monotonic_time() > end) {
            g_error("phase is still '%s', not '%s'", is, wanted);
        }
        g_usleep(2000);
    }
}

static bool is_protected(QTestState *qts)
{
    QDict *status = colo_status(qts);
    bool is = qdict_get_bool(status, "protected");

    qobject_unref(status);
    return is;
}

static void wait_protected(QTestState *qts)
{
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;

    while (!is_protected(qts)) {
        if (g_get_monotonic_time() > end) {
            QDict *status = colo_status(qts);
            GString *text = qobject_to_json_pretty(QOBJECT(status), true);

            g_error("not protected: %s", text->str);
        }
        g_usleep(2000);
    }
}

static void make_pair(Rig *r)
{
    int64_t n;

    protect_ok(r, r->secondary, "secondary");
    protect_ok(r, r->primary, "primary");
    wait_protected(r->primary);
    wait_protected(r->secondary);
    wait_phase(r->primary, "pair");
    wait_phase(r->secondary, "pair");
    n = colo_statistic(r->secondary, "checkpoints-verified");
    colo_wait_statistic(r->secondary, "checkpoints-verified", n + 3);
    g_assert_cmpint(colo_statistic(r->secondary, "ram-mismatches"), ==, 0);
}

static void unprotect(QTestState *qts)
{
    qtest_qmp_assert_success(qts, "{'execute': 'x-colo-unprotect'}");
    wait_phase(qts, "none");
}

static void test_pair(const void *opaque)
{
    g_autofree char *before = NULL;
    Rig r;

    rig_begin(&r, opaque);
    before = snapshot(r.primary);
    make_pair(&r);
    colo_refused(r.secondary, "secondary of a COLO pair",
                 "{'execute': 'x-colo-unprotect'}");
    colo_refused(r.primary, "x-colo-unprotect first",
                 "{'execute': 'x-colo-protect', 'arguments': {"
                 "'role': 'primary', 'host': 'localhost'}}");
    unprotect(r.primary);
    check_same(r.primary, before);
    colo_wait_status(r.primary, "running");
    colo_wait_state(r.secondary, "ended");
    rig_end(&r);
}

/* The attempt that is about to be made has to fail at its step @n */
static void arm(QTestState *qts, unsigned n)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'x-colo-fault-inject', 'arguments': {"
        "'point': 'setup-step', 'action': 'error', 'skip': %u}}", n);
}

/* Returns the number of steps: each of them has failed once */
static unsigned fail_each_step(Rig *r, QTestState *qts, const char *role)
{
    g_autofree char *before = snapshot(qts);

    for (unsigned n = 0; n < STEPS_MAX; n++) {
        QDict *answer;
        bool ok;

        arm(qts, n);
        answer = protect(r, qts, role);
        ok = qdict_haskey(answer, "return");
        if (!ok) {
            const char *why = qdict_get_str(qdict_get_qdict(answer, "error"),
                                            "desc");

            if (!strstr(why, "injected fault")) {
                g_error("step %u: %s", n, why);
            }
        }
        qobject_unref(answer);
        if (ok) {
            /* In place of the one that is armed and was not reached */
            qtest_qmp_assert_success(qts,
                "{'execute': 'x-colo-fault-inject', 'arguments': {"
                "'point': 'staging-alloc', 'action': 'error',"
                "'skip': 4000000000}}");
            return n;
        }
        check_same(qts, before);
    }
    g_assert_not_reached();
}

static void test_fault_primary(const void *opaque)
{
    g_autofree char *before = NULL;
    Rig r;

    rig_begin(&r, opaque);
    before = snapshot(r.primary);
    /* The last attempt finds nobody, and is taken back as well */
    g_assert_cmpuint(fail_each_step(&r, r.primary, "primary"), >=, 4);
    wait_phase(r.primary, "none");
    check_same(r.primary, before);
    /* Nothing of all that is in the way */
    make_pair(&r);
    rig_end(&r);
}

static void test_fault_secondary(const void *opaque)
{
    Rig r;

    rig_begin(&r, opaque);
    g_assert_cmpuint(fail_each_step(&r, r.secondary, "secondary"), >=, 4);
    wait_phase(r.secondary, "waiting");
    protect_ok(&r, r.primary, "primary");
    wait_protected(r.primary);
    wait_protected(r.secondary);
    rig_end(&r);
}

static void test_nobody(const void *opaque)
{
    g_autofree char *before = NULL;
    QDict *event, *info;
    Rig r;

    rig_begin(&r, opaque);
    before = snapshot(r.primary);
    protect_ok(&r, r.primary, "primary");
    event = colo_wait_event(r.primary, "COLO_SETUP");
    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(event, "data"), "phase"),
                    ==, "connecting");
    qobject_unref(event);
    event = colo_wait_event(r.primary, "COLO_SETUP");
    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(event, "data"), "phase"),
                    ==, "none");
    g_assert_nonnull(strstr(qdict_get_str(qdict_get_qdict(event, "data"),
                                          "message"), "refused"));
    qobject_unref(event);
    info = query_setup(r.primary);
    g_assert_nonnull(strstr(qdict_get_str(info, "message"), "refused"));
    g_assert_true(qlist_empty(qdict_get_qlist(info, "made")));
    qobject_unref(info);
    check_same(r.primary, before);
    colo_wait_status(r.primary, "running");
    rig_end(&r);
}

/* Once: the secondary is killed.  The primary goes on, and gets another one. */
static void test_secondary_dies(const void *opaque)
{
    Rig r;

    rig_begin(&r, opaque);
    make_pair(&r);
    colo_kill(&r.secondary);
    colo_wait_state(r.primary, "lost");
    colo_refused(r.primary, "x-colo-lost-heartbeat",
                 "{'execute': 'x-colo-unprotect'}");
    colo_failover(r.primary);
    wait_phase(r.primary, "over");
    r.secondary = start_qemu("-incoming defer");
    make_pair(&r);
    rig_end(&r);
}

/* The secondary survives, becomes the primary of the next pair, and is freed */
static void test_turn(const void *opaque)
{
    g_autofree char *before = NULL;
    Rig r;

    rig_begin(&r, opaque);
    before = snapshot(r.secondary);
    make_pair(&r);
    colo_kill(&r.primary);
    colo_wait_state(r.secondary, "lost");
    colo_failover(r.secondary);
    wait_phase(r.secondary, "over");
    r.primary = g_steal_pointer(&r.secondary);
    r.port = free_ports();
    r.secondary = start_qemu("-incoming defer");
    make_pair(&r);
    unprotect(r.primary);
    check_same(r.primary, before);
    rig_end(&r);
}

static void test_check(void)
{
    QTestState *qts = start_qemu("-device adlib");
    g_autofree char *before = snapshot(qts);
    QDict *answer;
    QList *found;
    bool has_device = false, has_nic = false, has_state = false;
    QListEntry *entry;

    answer = qtest_qmp(qts, "{'execute': 'x-colo-protect', 'arguments': {"
                       "'role': 'secondary', 'host': 'localhost',"
                       "'nics': ['hn7'], 'check-only': true}}");
    found = qdict_get_qlist(answer, "return");
    g_assert_nonnull(found);
    QLIST_FOREACH_ENTRY(found, entry) {
        QDict *f = qobject_to(QDict, qlist_entry_obj(entry));
        const char *subject = qdict_get_str(f, "subject");

        g_assert_cmpstr(qdict_get_str(f, "cure"), !=, "");
        has_device |= g_str_equal(subject, "device");
        has_state |= g_str_equal(subject, "state");
        has_nic |= g_str_equal(subject, "nic") &&
                   g_str_equal(qdict_get_str(f, "name"), "hn7");
    }
    g_assert_true(has_device && has_nic && has_state);
    qobject_unref(answer);
    colo_refused(qts, "-incoming defer",
                 "{'execute': 'x-colo-protect', 'arguments': {"
                 "'role': 'secondary', 'host': 'localhost'}}");
    colo_refused(qts, "adlib",
                 "{'execute': 'x-colo-protect', 'arguments': {"
                 "'role': 'primary', 'host': 'localhost'}}");
    colo_refused(qts, "made nothing", "{'execute': 'x-colo-unprotect'}");
    check_same(qts, before);
    qtest_quit(qts);
}

/* As the guest of @qts would; what it did is seen in the images */
static void write_disks(QTestState *qts, int value)
{
    for (int n = 0; n < 2; n++) {
        g_autofree char *out = qtest_hmp(qts, "qemu-io -d "
            "/machine/peripheral/d%d/virtio-backend \"write -P %d 1M 64k\"",
            n, value + n);

        g_assert_cmpstr(out, ==, "");
    }
}

/* What was written, and what the first primary's disks had all the time */
static void check_images(Rig *r, const char *side, int value)
{
    for (int n = 0; n < 2; n++) {
        g_autofree char *path = g_strdup_printf("%s/%s%d", r->dir, side, n);
        g_autofree char *data = NULL;
        gsize size;

        g_assert_true(g_file_get_contents(path, &data, &size, NULL));
        g_assert_cmpuint(size, ==, DISK_SIZE);
        for (size_t i = 0; i < size; i++) {
            bool written = i >= 1024 * 1024 && i < 1024 * 1024 + 65536;

            g_assert_cmpint(data[i], ==, written ? value + n :
                            i < DISK_SIZE / 2 ? DISK_FIRST + n : 0);
        }
    }
}

/* All that was written by now has its checkpoint */
static void checkpoint(QTestState *qts)
{
    int64_t n = colo_statistic(qts, "checkpoints");

    qtest_qmp_assert_success(qts, "{'execute': 'x-colo-checkpoint'}");
    colo_wait_statistic(qts, "checkpoints", n + 2);
}

/* Until overlays are in the images nothing can be taken away */
static void wait_folded(QTestState *qts)
{
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;
    bool folded;

    do {
        QDict *status = colo_status(qts);
        QListEntry *entry;

        folded = true;
        QLIST_FOREACH_ENTRY(qdict_get_qlist(status, "disks"), entry) {
            QDict *d = qobject_to(QDict, qlist_entry_obj(entry));

            folded &= g_str_equal(qdict_get_str(d, "stage"), "folded");
        }
        qobject_unref(status);
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(2000);
    } while (!folded);
}

/* Disks that differ become equal, and hosts die one after the other */
static void test_disks(const void *opaque)
{
    Rig r;

    rig_begin_disks(&r, opaque);
    make_pair(&r);
    write_disks(r.primary, 0x21);
    checkpoint(r.primary);
    colo_kill(&r.primary);
    colo_wait_state(r.secondary, "lost");
    colo_failover(r.secondary);
    wait_phase(r.secondary, "over");
    wait_folded(r.secondary);
    check_images(&r, "b", 0x21);
    write_disks(r.secondary, 0x31);

    r.primary = g_steal_pointer(&r.secondary);
    r.port = free_ports();
    start_secondary_with_disks(&r, "a");
    make_pair(&r);
    check_images(&r, "b", 0x31);
    write_disks(r.primary, 0x41);
    checkpoint(r.primary);
    colo_kill(&r.primary);
    colo_wait_state(r.secondary, "lost");
    colo_failover(r.secondary);
    wait_phase(r.secondary, "over");
    wait_folded(r.secondary);
    check_images(&r, "a", 0x41);
    unprotect(r.secondary);
    write_disks(r.secondary, 0x51);
    check_images(&r, "a", 0x51);
    g_assert_true(is_empty(r.folder));
    rig_end(&r);
}

/* The primary is freed while it is protected, and its disks are its own */
static void test_disks_unprotect(const void *opaque)
{
    g_autofree char *before = NULL;
    Rig r;

    rig_begin_disks(&r, opaque);
    before = snapshot(r.primary);
    make_pair(&r);
    unprotect(r.primary);
    check_same(r.primary, before);
    write_disks(r.primary, 0x31);
    check_images(&r, "a", 0x31);
    rig_end(&r);
}

static void test_disks_fault(const void *opaque)
{
    Rig r;

    rig_begin_disks(&r, opaque);
    g_assert_cmpuint(fail_each_step(&r, r.secondary, "secondary"), >=, 20);
    g_assert_cmpuint(fail_each_step(&r, r.primary, "primary"), >=, 12);
    wait_protected(r.primary);
    wait_protected(r.secondary);
    write_disks(r.primary, 0x21);
    check_images(&r, "a", 0x21);
    rig_end(&r);
}

/* The secondary lacks a disk: its export is named, and nothing is left */
static void test_disk_missing(const void *opaque)
{
    g_autofree char *before = NULL;
    Rig r;

    rig_begin_disks(&r, opaque);
    before = snapshot(r.primary);
    qtest_qmp_assert_success(r.secondary,
        "{'execute': 'x-colo-protect', 'arguments': {"
        "'role': 'secondary', 'host': '127.0.0.1', 'port': %u,"
        "'mode': %s, 'folder': %s, 'disks': ['disk0']}}", r.port, r.mode,
        r.folder);
    colo_refused(r.primary, "disk 'd1'",
                 "{'execute': 'x-colo-protect', 'arguments': {"
                 "'role': 'primary', 'host': '127.0.0.1', 'port': %u,"
                 "'mode': %s}}", r.port, r.mode);
    check_same(r.primary, before);
    rig_end(&r);
}

/* The human monitor: what is found, errors, and a side that is made */
static void test_hmp(void)
{
    QTestState *qts = start_qemu("-incoming defer");
    uint16_t port = free_ports();
    static const struct {
        const char *line;
        const char *answer;
    } wrong[] = {
        { "colo_protect -c primary localhost", "take role secondary" },
        { "colo_protect primary localhost", "take role secondary" },
        { "colo_protect neither localhost", "neither" },
        { "colo_protect secondary localhost 70000", "no port 70000" },
        { "colo_protect secondary localhost 9998 often", "often" },
        { "colo_unprotect", "made nothing" },
    };
    g_autofree char *line = g_strdup_printf(
        "colo_protect secondary 127.0.0.1 %u periodic", port);
    g_autofree char *answer = NULL;

    for (int i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autofree char *said = qtest_hmp(qts, "%s", wrong[i].line);

        if (!strstr(said, wrong[i].answer)) {
            g_error("%s: %s", wrong[i].line, said);
        }
    }
    answer = qtest_hmp(qts, "%s", line);
    g_assert_cmpstr(answer, ==, "");
    wait_phase(qts, "waiting");
    qtest_quit(qts);
}

/* A filter of the published set-up is named, and stays */
static void test_in_the_way(void)
{
    QTestState *qts = start_qemu("-object filter-output-commit,id=oc0,"
                                 "netdev=hn1");
    g_autofree char *before = snapshot(qts);

    colo_refused(qts, "'oc0'",
                 "{'execute': 'x-colo-protect', 'arguments': {"
                 "'role': 'primary', 'host': 'localhost'}}");
    check_same(qts, before);
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    colo_add("/colo/setup", "pair", test_pair);
    colo_add("/colo/setup/fault", "primary", test_fault_primary);
    colo_add("/colo/setup/fault", "secondary", test_fault_secondary);
    colo_add("/colo/setup", "nobody", test_nobody);
    colo_add("/colo/setup", "secondary-dies", test_secondary_dies);
    colo_add("/colo/setup", "turn", test_turn);
    colo_add("/colo/setup/disks", "pair", test_disks);
    colo_add("/colo/setup/disks", "unprotect", test_disks_unprotect);
    colo_add("/colo/setup/disks", "fault", test_disks_fault);
    colo_add("/colo/setup/disks", "missing", test_disk_missing);
    qtest_add_func("/colo/setup/check", test_check);
    qtest_add_func("/colo/setup/hmp", test_hmp);
    qtest_add_func("/colo/setup/in-the-way", test_in_the_way);
    return g_test_run();
}
