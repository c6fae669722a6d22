/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * colo-compare in a session of Xen's, which says by notify_dev what to do.
 *
 * Proves: what notify_dev says is obeyed; packets that both guests have said
 * leave and ask for nothing, all others wait for a checkpoint that was asked
 * for; the end of a stream lets nothing go.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "net/net.h"
#include "qobject/qlist.h"
#include "colo-compare-rig.h"

/* Answer requests, one at least, until something leaves */
static void answer(Rig *r)
{
    struct pollfd p[] = {
        { .fd = r->fds[OUT], .events = POLLIN },
        { .fd = r->fds[NOTIFY], .events = POLLIN },
    };

    do {
        hear(r, XEN_REQUEST);
        assert_silent(r->fds[OUT]);
        tell(r, XEN_CHECKPOINT);
        g_assert_cmpint(poll(p, ARRAY_SIZE(p), DEADLINE_MS), >, 0);
    } while (!p[0].revents);
}

static void get_and_free(Rig *r, GByteArray *expected)
{
    get_equal(r, expected);
    g_byte_array_unref(expected);
}

static void put_and_free(Rig *r, Port port, GByteArray *stream)
{
    put(r, port, stream);
    g_byte_array_unref(stream);
}

/* Both say it, one before the other: it leaves, and nothing is asked for */
static void both(Rig *r, Port first, GByteArray *stream)
{
    put(r, first, stream);
    put(r, first == PRIMARY ? SECONDARY : PRIMARY, stream);
    get_and_free(r, stream);
}

static void test_xen_equal(const void *opaque)
{
    Rig *r = xen_start(GPOINTER_TO_INT(opaque), NEVER_MS);
    uint32_t seq = 100;

    for (uint8_t i = 0; i < 20; i++) {
        Port first = i % 2 ? PRIMARY : SECONDARY;

        both(r, first, udp(r, i));
        both(r, first, tcp(r, seq, 50 + i, 0));
        seq += 50 + i;
    }
    tell(r, XEN_CHECKPOINT);
    both(r, PRIMARY, udp(r, 99));
    assert_silent(r->fds[OUT]);
    assert_silent(r->fds[NOTIFY]);
    rig_end(r);
}

/*
 * They say different things: asked for at once, and not before the answer does
 * the primary's leave.
 */
static void differ(Rig *r, GByteArray *primary, GByteArray *secondary)
{
    put_and_free(r, SECONDARY, secondary);
    put(r, PRIMARY, primary);
    hear(r, XEN_REQUEST);
    assert_silent(r->fds[OUT]);
    tell(r, XEN_CHECKPOINT);
    get_and_free(r, primary);
}

static void test_xen_different(const void *opaque)
{
    Rig *r = xen_start(GPOINTER_TO_INT(opaque), NEVER_MS);
    uint32_t seq = 100;

    for (uint8_t i = 0; i < 5; i++) {
        differ(r, udp(r, i), udp(r, i + 100));
        differ(r, tcp(r, seq, 40, i), tcp(r, seq, 40, i + 100));
        seq += 40;
        /* From the checkpoint on they may agree again */
        both(r, SECONDARY, udp(r, i));
        both(r, SECONDARY, tcp(r, seq, 30, i));
        seq += 30;
    }
    rig_end(r);
}

/* One of them says nothing: asked for when the time is over */
static void test_xen_timeout(const void *opaque)
{
    Rig *r = xen_start(GPOINTER_TO_INT(opaque), TIMEOUT_MS);

    for (uint8_t i = 0; i < 6; i++) {
        g_autoptr(GByteArray) stream = i % 2 ? tcp(r, 100, 40, i) : udp(r, i);
        Port port = i < 4 ? PRIMARY : SECONDARY;
        int64_t since;

        begin(r);
        since = g_get_monotonic_time();
        put(r, port, stream);
        hear(r, XEN_REQUEST);
        /* QEMU counts in whole milliseconds */
        g_assert_cmpint(g_get_monotonic_time() - since, >,
                        (TIMEOUT_MS - 2) * 1000);
        assert_silent(r->fds[OUT]);
        tell(r, XEN_CHECKPOINT);
        if (port == PRIMARY) {
            get_equal(r, stream);
        }
    }
    rig_end(r);
}

/* A counter of query-colo-status, -1 if it has none of comp0 */
static int64_t counter(const Rig *r, const char *name)
{
    g_autoptr(QDict) status = qtest_qmp_assert_success_ref(r->qts,
        "{'execute': 'query-colo-status'}");
    QList *list = qdict_get_qlist(status, "compare");
    QDict *compare;

    if (!list) {
        return -1;
    }
    compare = qobject_to(QDict, qlist_peek(list));
    g_assert_cmpstr(qdict_get_str(compare, "id"), ==, "comp0");
    return qdict_get_int(compare, name);
}

/* A packet leaves a moment before it is counted */
static void wait_counter(const Rig *r, const char *name, int64_t value)
{
    int64_t end = g_get_monotonic_time() + DEADLINE_MS * 1000LL;

    while (counter(r, name) != value) {
        if (g_get_monotonic_time() > end) {
            g_error("'%s' is %" PRId64 ", not %" PRId64, name,
                    counter(r, name), value);
        }
        g_usleep(1000);
    }
}

/* All that was said so far has left, however often it was */
static void wait_open(const Rig *r)
{
    int64_t end = g_get_monotonic_time() + DEADLINE_MS * 1000LL;

    while (counter(r, "released-open") != counter(r, "primary-packets")) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(1000);
    }
}

/* What Xen's session did is seen, though it is none of QEMU's */
static void test_xen_statistics(void)
{
    Rig *r = rig_start(false);
    g_autoptr(GByteArray) packet = udp(r, 1);
    g_autofree char *info = NULL;

    pass(r, packet);
    wait_open(r);
    begin(r);
    both(r, PRIMARY, udp(r, 2));
    both(r, SECONDARY, tcp(r, 100, 40, 0));
    wait_counter(r, "released-equal", 2);
    wait_counter(r, "secondary-packets", 2);
    differ(r, udp(r, 3), udp(r, 4));
    wait_counter(r, "mismatches", 1);
    wait_counter(r, "released-commit", 1);
    info = qtest_hmp(r->qts, "info colo");
    g_assert_nonnull(strstr(info, "compare 'comp0': equal 2, by commit 1, "
                                  "mismatches 1"));
    g_assert_nonnull(strstr(info, ", packets without a place: 0, lost: 0"));
    del(r, "comp0");
    g_assert_cmpint(counter(r, "mismatches"), ==, -1);
    rig_end(r);
}

/* A full queue: asked for, and what follows waits to be read */
static void test_xen_full(void)
{
    Rig *r = xen_start(false, NEVER_MS);
    g_autoptr(GByteArray) stream = g_byte_array_new();
    g_autofree uint8_t *buf = NULL;

    del(r, "comp0");
    unplug_all(r);
    qtest_qmp_assert_success(r->qts, OBJECT_ADD(FOUR ", 'notify_dev': 'not', "
                             "'compare_timeout': 3600000, "
                             "'max_queue_size': 3"));
    plug_all(r);
    probe(r);
    begin(r);
    for (uint8_t i = 0; i < 3; i++) {
        g_autoptr(GByteArray) packet = udp(r, i);

        g_byte_array_append(stream, packet->data, packet->len);
    }
    for (int i = 0; i < 5; i++) {
        put(r, PRIMARY, stream);
        hear(r, XEN_REQUEST);
        assert_silent(r->fds[OUT]);
        tell(r, XEN_CHECKPOINT);
        get_equal(r, stream);
    }
    rig_end(r);
}

/* The secondary's stream ends or breaks: nothing leaves but by a checkpoint */
static void test_xen_secondary_lost(void)
{
    Rig *r = xen_start(false, TIMEOUT_MS);

    for (int i = 0; i < BAD_STREAMS; i++) {
        g_autoptr(GByteArray) bad = g_byte_array_new();
        g_autoptr(GByteArray) stream = udp(r, i);

        append_bad(r, bad, i);
        put(r, SECONDARY, stream);
        put(r, SECONDARY, bad);
        replug(r, SECONDARY);
        put(r, PRIMARY, stream);
        put(r, SECONDARY, stream);
        answer(r);
        get_equal(r, stream);
        begin(r);
        both(r, PRIMARY, udp(r, 50 + i));
    }
    rig_end(r);
}

/* Words that are none; a toolstack that comes again begins anew */
static void test_xen_messages(void)
{
    Rig *r = rig_start(false);
    g_autoptr(GByteArray) packet = udp(r, 1);
    g_autoptr(GByteArray) other = udp(r, 2);
    g_autoptr(GByteArray) cut = g_byte_array_new();

    /* Nothing is held before INIT */
    tell(r, XEN_CHECKPOINT);
    tell(r, XEN_CHECKPOINT "x");
    tell(r, "COLO");
    append_word(cut, CUT_RECORD);
    append_word(cut, 0);
    append_word(cut, 7);
    put(r, NOTIFY, cut);
    pass(r, packet);

    tell(r, XEN_INIT);
    hear(r, XEN_INIT);
    put(r, SECONDARY, other);
    put(r, PRIMARY, packet);
    hear(r, XEN_REQUEST);
    tell(r, XEN_REQUEST);
    tell(r, XEN_CHECKPOINT "x");
    assert_silent(r->fds[OUT]);
    replug(r, NOTIFY);
    assert_silent(r->fds[OUT]);
    tell(r, XEN_INIT);
    hear(r, XEN_INIT);
    get_equal(r, packet);
    both(r, SECONDARY, udp(r, 3));
    rig_end(r);
}

/* Deleted while packets are held, ten times */
static void test_xen_add_del(void)
{
    Rig *r = xen_start(false, NEVER_MS);

    for (int i = 0; i < 10; i++) {
        put_and_free(r, PRIMARY, udp(r, i));
        put_and_free(r, PRIMARY, tcp(r, 100, 40, i));
        put_and_free(r, SECONDARY, udp(r, i + 20));
        if (i % 2) {
            hear(r, XEN_REQUEST);
        }
        del(r, "comp0");
        unplug_all(r);
        rig_set_up(r);
        begin(r);
    }
    rig_end(r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_both("xen/equal", test_xen_equal);
    add_both("xen/different", test_xen_different);
    add_both("xen/timeout", test_xen_timeout);
    qtest_add_func("/colo/compare/xen/statistics", test_xen_statistics);
    qtest_add_func("/colo/compare/xen/full", test_xen_full);
    qtest_add_func("/colo/compare/xen/secondary-lost",
                   test_xen_secondary_lost);
    qtest_add_func("/colo/compare/xen/messages", test_xen_messages);
    qtest_add_func("/colo/compare/xen/add-del", test_xen_add_del);
    return g_test_run();
}
