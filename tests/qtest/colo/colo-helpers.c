/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: pairs of QEMUs.
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <linux/kvm.h>
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "colo-helpers.h"

#define POLL_US 2000

static QTestState *start_qemu(ColoPair *p, const char *extra)
{
    return qtest_initf("-accel %s -machine pc -m 32 -nodefaults "
                       "-netdev hubport,id=hn0,hubid=0 "
                       "-device virtio-net-pci,netdev=hn0,romfile= "
                       "-object filter-output-commit,id=oc0,netdev=hn0 "
                       "-global migration.x-colo-verify-ram=on %s %s",
                       p->accel, p->extra, extra);
}

/*
 * libqtest waits for the answers of QMP without a deadline.  Its handler of
 * SIGABRT ends the QEMUs.
 */
static void pair_is_late(int sig)
{
    static const char text[] = "# the time of this pair is over\n";

    if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) {
        /* The abort says it, too */
    }
    abort();
}

ColoPair *colo_pair_new(const char *mode)
{
    return colo_pair_new_with(mode, "tcg", "");
}

ColoPair *colo_pair_new_with(const char *mode, const char *accel,
                             const char *extra)
{
    ColoPair *p = g_new0(ColoPair, 1);
    struct sigaction late = { .sa_handler = pair_is_late };

    sigaction(SIGALRM, &late, NULL);
    alarm(COLO_PAIR_DEADLINE_S);
    p->dir = g_dir_make_tmp("colo-qtest-XXXXXX", NULL);
    g_assert_nonnull(p->dir);
    p->mode = mode;
    p->accel = accel;
    p->extra = g_strdup(extra);
    p->primary = start_qemu(p, "");
    colo_pair_new_secondary(p);
    return p;
}

bool colo_is_hybrid(ColoPair *p)
{
    return !strcmp(p->mode, "hybrid");
}

const char *colo_state_ready(ColoPair *p)
{
    return colo_is_hybrid(p) ? "running" : "standing";
}

void colo_side_unplug_net(QTestState *qts)
{
    qtest_qmp_assert_success(qts, "{'execute': 'netdev_del',"
                             "'arguments': {'id': 'hn0'}}");
}

void colo_pair_unplug_net(ColoPair *p)
{
    colo_side_unplug_net(p->primary);
    colo_side_unplug_net(p->secondary);
}

void colo_pair_new_secondary(ColoPair *p)
{
    g_assert_null(p->secondary);
    p->secondary = start_qemu(p, "-incoming defer");
}

void colo_cut(ColoPair *p)
{
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'yank', 'arguments': {"
        "'instances': [{'type': 'migration'}]}}");
}

/*
 * libqtest aborts when a QEMU that it knows has died of a signal, so it must
 * not look at this one again.
 */
void colo_kill(QTestState **qts)
{
    static GSList *killed;      /* keeps them reachable for leak checkers */
    QTestState *dead = g_steal_pointer(qts);
    pid_t pid = qtest_pid(dead);

    /* -1, of one that has ended already, would mean all that there are */
    g_assert_cmpint(pid, >, 0);
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    g_assert_cmpint(RETRY_ON_EINTR(waitpid(pid, NULL, 0)), ==, pid);
    qtest_remove_abrt_handler(dead);
    killed = g_slist_prepend(killed, dead);
}

void colo_quit(QTestState **qts)
{
    qtest_qmp_assert_success(*qts, "{'execute': 'quit'}");
    qtest_wait_qemu(*qts);
    qtest_quit(g_steal_pointer(qts));
}

void colo_stop_process(QTestState *qts)
{
    g_assert_cmpint(kill(qtest_pid(qts), SIGSTOP), ==, 0);
}

void colo_continue_process(QTestState *qts)
{
    g_assert_cmpint(kill(qtest_pid(qts), SIGCONT), ==, 0);
}

void colo_failover(QTestState *qts)
{
    qtest_qmp_assert_success(qts, "{'execute': 'x-colo-lost-heartbeat'}");
}

void colo_force(QTestState *qts)
{
    qtest_qmp_assert_success(qts, "{'execute': 'x-colo-lost-heartbeat',"
                             "'arguments': {'force': true}}");
}

void colo_pair_free(ColoPair *p)
{
    const char *name;
    GDir *dir;

    if (p->primary) {
        qtest_quit(p->primary);
    }
    if (p->secondary) {
        qtest_quit(p->secondary);
    }
    dir = g_dir_open(p->dir, 0, NULL);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(p->dir, name, NULL);

        unlink(path);
    }
    g_dir_close(dir);
    rmdir(p->dir);
    g_free(p->dir);
    g_free(p->extra);
    g_free(p);
    alarm(0);
}

static void set_up_side(QTestState *qts, const char *mode, unsigned delay_ms,
                        unsigned timeout_ms, unsigned max_pause_ms)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'migrate-set-capabilities', 'arguments': {"
        "'capabilities': [{'capability': 'x-colo', 'state': true}]}}");
    qtest_qmp_assert_success(qts,
        "{'execute': 'migrate-set-parameters', 'arguments': {"
        "'x-colo-mode': %s, 'x-checkpoint-delay': %u,"
        "'x-colo-timeout': %u, 'x-colo-max-pause': %u}}", mode, delay_ms,
        timeout_ms, max_pause_ms ?: COLO_MAX_PAUSE_MS);
}

void colo_pair_migrate(ColoPair *p, const char *listen, const char *connect,
                       unsigned delay_ms, unsigned timeout_ms)
{
    set_up_side(p->primary, p->mode, delay_ms, timeout_ms,
                p->primary_max_pause_ms);
    set_up_side(p->secondary, p->mode, delay_ms, timeout_ms,
                p->secondary_max_pause_ms);
    if (listen) {
        g_autofree char *in = g_strdup_printf("unix:%s/%s", p->dir, listen);

        qtest_qmp_assert_success(p->secondary,
            "{'execute': 'migrate-incoming', 'arguments': {'uri': %s}}", in);
    }
    if (connect) {
        g_autofree char *out = g_strdup_printf("unix:%s/%s", p->dir, connect);

        qtest_qmp_assert_success(p->primary,
            "{'execute': 'migrate', 'arguments': {'uri': %s}}", out);
    }
}

static void set_bandwidth(ColoPair *p, int64_t bytes_a_second)
{
    qtest_qmp_assert_success(p->primary,
        "{'execute': 'migrate-set-parameters', 'arguments': {"
        "'max-bandwidth': %" PRId64 "}}", bytes_a_second);
}

void colo_pair_hold(ColoPair *p, const char *listen, const char *connect,
                    unsigned delay_ms, unsigned timeout_ms)
{
    set_bandwidth(p, 1000);
    colo_pair_migrate(p, listen, connect, delay_ms, timeout_ms);
    colo_wait_migrate(p->primary, "active");
}

void colo_pair_release(ColoPair *p)
{
    set_bandwidth(p, 1 << 30);
}

void colo_pair_protect(ColoPair *p)
{
    colo_pair_migrate(p, "mig", "mig", 10, COLO_TIMEOUT_MS);
    /* The primary may show an earlier session until this one begins */
    colo_wait_statistic(p->secondary, "checkpoints", 3);
    colo_wait_statistic(p->primary, "checkpoints", 3);
}

/* QEMU ends when it may not use KVM, or has no ring of @ring bytes */
static const char *why_no_kvm(int ring)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm = fd < 0 ? -1 : ioctl(fd, KVM_CREATE_VM, 0);
    int has = vm < 0 ? -1 : ioctl(vm, KVM_CHECK_EXTENSION,
                                  KVM_CAP_DIRTY_LOG_RING);

    if (vm >= 0) {
        close(vm);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (vm < 0) {
        return "/dev/kvm cannot be opened, or makes no VM";
    }
    return has < ring ? "/dev/kvm has no such dirty ring" : NULL;
}

const char *colo_why_no_accel(const char *accel)
{
    const char *ring = strstr(accel, COLO_DIRTY_RING);
    g_autofree char *name = g_strndup(accel, strcspn(accel, ","));

    if (!qtest_has_accel(name)) {
        return "this QEMU has no such accelerator";
    }
    if (!strcmp(name, "kvm")) {
        return why_no_kvm(ring ? atoi(ring + strlen(COLO_DIRTY_RING)) *
                                 sizeof(struct kvm_dirty_gfn) : 0);
    }
    return NULL;
}

static QDict *query(QTestState *qts, const char *command)
{
    return qtest_qmp_assert_success_ref(qts, "{'execute': %s}", command);
}

QDict *colo_status(QTestState *qts)
{
    return query(qts, "query-colo-status");
}

char *colo_state(QTestState *qts)
{
    QDict *status = colo_status(qts);
    char *state = g_strdup(qdict_get_try_str(status, "state"));

    qobject_unref(status);
    return state;
}

int64_t colo_statistic(QTestState *qts, const char *name)
{
    QDict *status = colo_status(qts);
    QDict *stats = qdict_get_qdict(status, "statistics");
    int64_t value = stats ? qdict_get_int(stats, name) : -1;

    qobject_unref(status);
    return value;
}

static int64_t deadline(void)
{
    return g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;
}

static void check_deadline(int64_t end, const char *what, const char *is)
{
    if (g_get_monotonic_time() > end) {
        g_error("%s is still '%s' after %d ms", what, is ?: "(none)",
                COLO_DEADLINE_MS);
    }
    g_usleep(POLL_US);
}

static void wait_string(QTestState *qts, const char *command, const char *key,
                        const char *wanted)
{
    int64_t end = deadline();

    for (;;) {
        QDict *answer = query(qts, command);
        g_autofree char *is = g_strdup(qdict_get_try_str(answer, key));

        qobject_unref(answer);
        if (!g_strcmp0(is, wanted)) {
            return;
        }
        check_deadline(end, command, is);
    }
}

void colo_wait_state(QTestState *qts, const char *state)
{
    wait_string(qts, "query-colo-status", "state", state);
}

void colo_wait_mode(QTestState *qts, const char *mode)
{
    wait_string(qts, "query-colo-status", "mode", mode);
}

void colo_wait_status(QTestState *qts, const char *status)
{
    wait_string(qts, "query-status", "status", status);
}

void colo_wait_migrate(QTestState *qts, const char *status)
{
    wait_string(qts, "query-migrate", "status", status);
}

void colo_wait_statistic(QTestState *qts, const char *name, int64_t at_least)
{
    int64_t end = deadline();

    while (colo_statistic(qts, name) < at_least) {
        check_deadline(end, name, "too low");
    }
}

void colo_check_live(QTestState *qts)
{
    colo_wait_state(qts, "live");
    colo_wait_status(qts, "running");
}

void colo_check_alone(QTestState *qts)
{
    colo_wait_state(qts, "alone");
    colo_wait_status(qts, "running");
}

void colo_check_ended(QTestState *qts)
{
    colo_wait_state(qts, "ended");
    colo_wait_status(qts, "shutdown");
    colo_refused(qts, "out of date", "{'execute': 'cont'}");
    colo_refused(qts, "out of date", "{'execute': 'system_reset'}");
    colo_refused(qts, "", "{'execute': 'x-colo-lost-heartbeat'}");
    colo_refused(qts, "", "{'execute': 'x-colo-lost-heartbeat',"
                 "'arguments': {'force': true}}");
    colo_refused(qts, "", "{'execute': 'migrate',"
                 "'arguments': {'uri': 'tcp:127.0.0.1:1'}}");
    colo_wait_state(qts, "ended");
    colo_wait_status(qts, "shutdown");
}

void colo_check_one(ColoPair *p)
{
    int64_t end = deadline();

    while (true) {
        g_autofree char *state = colo_state(p->primary);

        if (!strcmp(state, "alone")) {
            colo_check_ended(p->secondary);
            colo_check_alone(p->primary);
            return;
        }
        if (!strcmp(state, "ended")) {
            colo_check_live(p->secondary);
            colo_check_ended(p->primary);
            return;
        }
        check_deadline(end, "the primary", state);
    }
}

QDict *colo_wait_event(QTestState *qts, const char *name)
{
    int64_t end = deadline();
    QDict *event;

    while (!(event = qtest_qmp_event_ref(qts, name))) {
        check_deadline(end, name, "not there");
        /* Events arrive along with answers */
        qobject_unref(query(qts, "query-status"));
    }
    return event;
}

void colo_add(const char *prefix, const char *name,
              void (*test)(const void *))
{
    static const char *const modes[] = { "hybrid", "periodic" };

    for (int i = 0; i < G_N_ELEMENTS(modes); i++) {
        g_autofree char *path = g_strdup_printf("%s/%s/%s", prefix, name,
                                                modes[i]);

        qtest_add_data_func(path, modes[i], test);
    }
}

void colo_fault(QTestState *qts, const char *point, const char *action)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'x-colo-fault-inject', 'arguments': {"
        "'point': %s, 'action': %s}}", point, action);
}

static bool hangs(QTestState *qts, const char *point)
{
    QDict *answer = qtest_qmp(qts, "{'execute': 'query-colo-fault-points'}");
    QListEntry *entry;
    bool found = false;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(answer, "return"), entry) {
        QDict *p = qobject_to(QDict, qlist_entry_obj(entry));

        found |= g_str_equal(qdict_get_str(p, "name"), point) &&
                 qdict_get_bool(p, "hangs");
    }
    qobject_unref(answer);
    return found;
}

void colo_wait_hang(QTestState *qts, const char *point)
{
    int64_t end = deadline();

    while (!hangs(qts, point)) {
        check_deadline(end, point, "passed, or not reached");
    }
}

void colo_refused(QTestState *qts, const char *text, const char *fmt, ...)
{
    QDict *error;
    va_list ap;

    va_start(ap, fmt);
    error = qtest_vqmp_assert_failure_ref(qts, fmt, ap);
    va_end(ap);
    if (!strstr(qdict_get_str(error, "desc"), text)) {
        g_error("'%s' does not contain '%s'", qdict_get_str(error, "desc"),
                text);
    }
    qobject_unref(error);
}
