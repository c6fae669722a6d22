/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * colo-compare in the primary of a pair.
 *
 * The test is the other end of its sockets, and says in place of the filters
 * what epoch it is: a later one than the pair will ever reach.
 *
 * Proves: the object comes to a session under way, holds from the start, and
 * leaves at any time; its counters are shown; a packet that waits asks for one
 * checkpoint after the other, as long as none lets it go; the end of the
 * session does.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <sys/un.h>
#include "qemu/bswap.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "colo-helpers.h"

#define CUT_RECORD  0x80000001U
#define FAR_EPOCH   1000000000U

static const char *const chardevs[] = { "pri", "sec", "out" };

typedef struct Rig {
    ColoPair *pair;
    int pri;
    int out;
} Rig;

static struct sockaddr_un address(const Rig *r, const char *chardev)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    g_assert_cmpint(snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s",
                             r->pair->dir, chardev), <, sizeof(addr.sun_path));
    return addr;
}

static int plug(const Rig *r, const char *chardev)
{
    struct sockaddr_un addr = address(r, chardev);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==,
                    0);
    return fd;
}

/* A pair, and chardevs for an object in its primary */
static void rig_start(Rig *r)
{
    r->pair = colo_pair_new("periodic");
    colo_pair_protect(r->pair);
    qtest_qmp_assert_success(r->pair->primary, "{'execute': 'object-add', "
                             "'arguments': {'qom-type': 'iothread', "
                             "'id': 'iot0'}}");
    for (int i = 0; i < ARRAY_SIZE(chardevs); i++) {
        struct sockaddr_un addr = address(r, chardevs[i]);

        qtest_qmp_assert_success(r->pair->primary,
            "{'execute': 'chardev-add', 'arguments': {'id': %s, 'backend': {"
            "'type': 'socket', 'data': {'wait': false, 'addr': {"
            "'type': 'unix', 'data': {'path': %s}}}}}}", chardevs[i],
            addr.sun_path);
    }
}

static void rig_end(Rig *r)
{
    colo_quit(&r->pair->primary);
    for (int i = 0; i < ARRAY_SIZE(chardevs); i++) {
        struct sockaddr_un addr = address(r, chardevs[i]);

        unlink(addr.sun_path);
    }
    colo_pair_free(r->pair);
}

/* Its scan must not be what finds a timeout */
static void add(const Rig *r)
{
    qtest_qmp_assert_success(r->pair->primary, "{'execute': 'object-add', "
                             "'arguments': {'qom-type': 'colo-compare', "
                             "'id': 'comp0', 'primary_in': 'pri', "
                             "'secondary_in': 'sec', 'outdev': 'out', "
                             "'iothread': 'iot0', 'compare_timeout': 20, "
                             "'expired_scan_cycle': 3600000}}");
}

static void del(const Rig *r)
{
    qtest_qmp_assert_success(r->pair->primary, "{'execute': 'object-del', "
                             "'arguments': {'id': 'comp0'}}");
}

/* A counter of the object; -1 if there is none of that name */
static int64_t counter(const Rig *r, const char *name)
{
    QDict *status = qtest_qmp_assert_success_ref(r->pair->primary,
        "{'execute': 'query-colo-status'}");
    QList *list = qdict_get_qlist(status, "compare");
    int64_t value = -1;

    if (list) {
        QDict *compare = qobject_to(QDict, qlist_peek(list));

        g_assert_cmpstr(qdict_get_str(compare, "id"), ==, "comp0");
        value = qdict_get_int(compare, name);
    }
    qobject_unref(status);
    return value;
}

static void wait_counter(const Rig *r, const char *name, int64_t at_least)
{
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;

    while (counter(r, name) < at_least) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
    }
}

static void put_packet(int fd)
{
    uint32_t packet[16] = { cpu_to_be32(60), 0x01020304 };

    g_assert_cmpint(write(fd, packet, sizeof(packet)), ==, sizeof(packet));
}

static void get_packet(int fd)
{
    uint32_t packet[16];
    size_t got = 0;

    while (got < sizeof(packet)) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        ssize_t n;

        g_assert_cmpint(poll(&p, 1, COLO_DEADLINE_MS), ==, 1);
        n = read(fd, (char *)packet + got, sizeof(packet) - got);
        g_assert_cmpint(n, >, 0);
        got += n;
    }
    g_assert_cmpuint(be32_to_cpu(packet[0]), ==, 60);
    g_assert_cmphex(packet[1], ==, 0x01020304);
}

static void put_cut(int fd, uint64_t epoch)
{
    uint32_t record[3] = { cpu_to_be32(CUT_RECORD), cpu_to_be32(epoch >> 32),
                           cpu_to_be32(epoch) };

    g_assert_cmpint(write(fd, record, sizeof(record)), ==, sizeof(record));
}

/* Connect; what follows on the one comes out of the other */
static void plug_both(Rig *r)
{
    struct pollfd p = { .events = POLLIN };
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;
    int64_t said = 0;

    r->pri = plug(r, "pri");
    r->out = plug(r, "out");
    p.fd = r->out;
    do {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        put_packet(r->pri);
        said++;
    } while (poll(&p, 1, 20) == 0);
    wait_counter(r, "released-commit", said);
    /* It has never been open, although no record says so */
    g_assert_cmpint(counter(r, "released-open"), ==, 0);
    for (said -= counter(r, "dropped-closed"); said; said--) {
        get_packet(r->out);
    }
}

static void assert_silent(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };

    g_assert_cmpint(poll(&p, 1, 0), ==, 0);
}

static void test_add_del(void)
{
    Rig r;

    rig_start(&r);
    for (int i = 0; i < 30; i++) {
        g_autofree char *info = NULL;

        add(&r);
        g_assert_cmpint(counter(&r, "queued-packets"), ==, 0);
        info = qtest_hmp(r.pair->primary, "info colo");
        g_assert_nonnull(strstr(info, "comp0"));
        del(&r);
        g_assert_cmpint(counter(&r, "queued-packets"), ==, -1);
    }
    rig_end(&r);
}

static void test_hold(void)
{
    Rig r;

    rig_start(&r);
    add(&r);
    plug_both(&r);
    put_cut(r.pri, FAR_EPOCH);
    put_packet(r.pri);
    wait_counter(&r, "queued-packets", 1);
    wait_counter(&r, "timeouts", 1);
    assert_silent(r.out);

    /* Gone with the packet; another one holds what comes to it */
    del(&r);
    close(r.pri);
    close(r.out);
    add(&r);
    plug_both(&r);
    put_cut(r.pri, FAR_EPOCH);
    put_packet(r.pri);
    /* One before it may have waited for its commit for too long */
    wait_counter(&r, "queued-packets", 1);
    wait_counter(&r, "timeouts", 1);
    g_assert_cmpint(counter(&r, "queued-packets"), ==, 1);
    assert_silent(r.out);

    colo_kill(&r.pair->secondary);
    colo_failover(r.pair->primary);
    get_packet(r.out);
    put_packet(r.pri);
    get_packet(r.out);
    g_assert_cmpint(counter(&r, "queued-packets"), ==, 0);
    close(r.pri);
    close(r.out);
    rig_end(&r);
}

static bool is_plugged(const Rig *r, const char *chardev)
{
    QDict *answer = qtest_qmp(r->pair->primary, "{'execute': 'query-chardev'}");
    const QListEntry *e;
    bool plugged = false;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(answer, "return"), e) {
        QDict *chr = qobject_to(QDict, qlist_entry_obj(e));

        plugged |= !strcmp(qdict_get_str(chr, "label"), chardev) &&
                   !g_str_has_prefix(qdict_get_str(chr, "filename"),
                                     "disconnected");
    }
    qobject_unref(answer);
    return plugged;
}

/* All have connected before there is an object: its streams are in a session */
static void test_plugged(void)
{
    uint32_t garbage[2] = { cpu_to_be32(0x7fffffff) };
    int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;
    int fds[ARRAY_SIZE(chardevs)];
    Rig r;

    rig_start(&r);
    for (int i = 0; i < ARRAY_SIZE(chardevs); i++) {
        fds[i] = plug(&r, chardevs[i]);
        while (!is_plugged(&r, chardevs[i])) {
            g_assert_cmpint(g_get_monotonic_time(), <, end);
        }
    }
    add(&r);
    for (int i = 0; i < 2; i++) {
        struct pollfd p = { .fd = fds[i], .events = POLLIN };

        /* What is no stream is closed, so that it begins anew */
        g_assert_cmpint(write(fds[i], garbage, sizeof(garbage)), ==,
                        sizeof(garbage));
        g_assert_cmpint(poll(&p, 1, COLO_DEADLINE_MS), ==, 1);
    }
    for (int i = 0; i < ARRAY_SIZE(chardevs); i++) {
        close(fds[i]);
    }
    rig_end(&r);
}

/* QEMU ends with a session and packets that wait */
static void test_quit(void)
{
    Rig r;

    rig_start(&r);
    add(&r);
    plug_both(&r);
    put_cut(r.pri, FAR_EPOCH);
    put_packet(r.pri);
    wait_counter(&r, "queued-packets", 1);
    rig_end(&r);
    close(r.pri);
    close(r.out);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/compare-session/add-del", test_add_del);
    qtest_add_func("/colo/compare-session/hold", test_hold);
    qtest_add_func("/colo/compare-session/plugged", test_plugged);
    qtest_add_func("/colo/compare-session/quit", test_quit);
    return g_test_run();
}
