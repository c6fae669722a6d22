/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * colo-compare in a QEMU without a session.
 *
 * Proves: options that are wrong are refused with a text that names them;
 * without a session what comes from the primary leaves as it is and nothing
 * else does; no stream, end of one or slow reader does harm; the object can be
 * deleted, and QEMU ended, at any time.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "qemu/units.h"
#include "net/net.h"
#include "colo-compare-rig.h"

/* Options */

static void refuse_number(Rig *r, const char *name, int64_t max)
{
    const int64_t wrong[] = { 0, max + 1, UINT32_MAX };
    const int64_t right[] = { 1, max };

    for (int i = 0; i < ARRAY_SIZE(wrong); i++) {
        g_autofree char *text = g_strdup_printf("'%s' is %" PRId64 ", it has "
                                                "to be between 1 and %" PRId64,
                                                name, wrong[i], max);

        refused(qtest_qmp(r->qts, OBJECT_ADD(FOUR ", %s: %" PRId64), name,
                          wrong[i]), text);
    }
    refused(qtest_qmp(r->qts, OBJECT_ADD(FOUR ", %s: -1"), name), name);
    refused(qtest_qmp(r->qts, OBJECT_ADD(FOUR ", %s: 'many'"), name), name);
    for (int i = 0; i < ARRAY_SIZE(right); i++) {
        qtest_qmp_assert_success(r->qts, OBJECT_ADD(FOUR ", %s: %" PRId64),
                                 name, right[i]);
        del(r, "comp0");
    }
}

static void refuse_missing(Rig *r)
{
    refused(qtest_qmp(r->qts, OBJECT_ADD("'secondary_in': 'sec', "
                      "'outdev': 'out', 'iothread': 'iot0'")), "primary_in");
    refused(qtest_qmp(r->qts, OBJECT_ADD("'primary_in': 'pri', "
                      "'outdev': 'out', 'iothread': 'iot0'")),
            "secondary_in");
    refused(qtest_qmp(r->qts, OBJECT_ADD("'primary_in': 'pri', "
                      "'secondary_in': 'sec', 'iothread': 'iot0'")), "outdev");
    refused(qtest_qmp(r->qts, OBJECT_ADD("'primary_in': 'pri', "
                      "'secondary_in': 'sec', 'outdev': 'out'")), "iothread");
}

static void refuse_chardevs(Rig *r, const char *type, const char *text)
{
    g_autofree char *id = g_strdup(type);
    const char *good[PORTS] = { "pri", "sec", "out", "not" };
    static const char *const names[PORTS] = {
        "primary_in", "secondary_in", "outdev", "notify_dev"
    };

    for (int i = 0; i < PORTS; i++) {
        g_autofree char *start = g_strdup_printf("'%s'", names[i]);
        const char *c[PORTS];
        QDict *response;

        memcpy(c, good, sizeof(c));
        c[i] = id;
        response = qtest_qmp(r->qts, OBJECT_ADD("'primary_in': %s, "
                             "'secondary_in': %s, 'outdev': %s, "
                             "'notify_dev': %s, 'iothread': 'iot0'"),
                             c[0], c[1], c[2], c[3]);
        refused(qobject_ref(response), start);
        refused(response, text);
    }
}

/* Each pair of two options that name one chardev */
static void refuse_twice(Rig *r)
{
    for (int i = 0; i < PORTS; i++) {
        for (int j = 0; j < i; j++) {
            const char *c[PORTS];

            memcpy(c, chardevs, sizeof(c));
            c[i] = c[j];
            refused(qtest_qmp(r->qts, OBJECT_ADD("'primary_in': %s, "
                              "'secondary_in': %s, 'outdev': %s, "
                              "'notify_dev': %s, 'iothread': 'iot0'"),
                              c[0], c[1], c[2], c[3]),
                    "they need a chardev each");
        }
    }
}

static void refuse_changes(Rig *r)
{
    static const struct {
        const char *name;
        const char *value;
    } strings[] = {
        { "primary_in", "spare" }, { "secondary_in", "spare" },
        { "outdev", "spare" }, { "notify_dev", "spare" },
        { "iothread", "/objects/iot1" },
    };
    static const char *const numbers[] = {
        "compare_timeout", "expired_scan_cycle", "max_queue_size",
        "max_connections",
    };

    for (int i = 0; i < ARRAY_SIZE(strings); i++) {
        refused(qtest_qmp(r->qts, "{'execute': 'qom-set', 'arguments': {"
                          "'path': %s, 'property': %s, 'value': %s}}", PATH,
                          strings[i].name, strings[i].value),
                "cannot be changed");
    }
    for (int i = 0; i < ARRAY_SIZE(numbers); i++) {
        refused(qtest_qmp(r->qts, "{'execute': 'qom-set', 'arguments': {"
                          "'path': %s, 'property': %s, 'value': 77}}", PATH,
                          numbers[i]), "cannot be changed");
    }
    refused(qtest_qmp(r->qts, "{'execute': 'qom-set', 'arguments': {"
                      "'path': %s, 'property': 'vnet_hdr_support', "
                      "'value': true}}", PATH), "cannot be changed");
}

static void test_options(void)
{
    Rig *r = rig_new(false, false);

    rig_boot(r, "-object iothread,id=iot1 -object rng-builtin,id=rng0 "
             "-chardev null,id=spare -chardev ringbuf,id=ring");
    refused(qtest_qmp(r->qts, OBJECT_ADD(FOUR ", 'colour': 'red'")), "colour");
    refuse_missing(r);
    refused(qtest_qmp(r->qts, OBJECT_ADD("'primary_in': 'pri', "
                      "'secondary_in': 'sec', 'outdev': 'out', "
                      "'iothread': 'iot7'")), "iot7");
    refused(qtest_qmp(r->qts, OBJECT_ADD("'primary_in': 'pri', "
                      "'secondary_in': 'sec', 'outdev': 'out', "
                      "'iothread': 'rng0'")), "iothread");
    refuse_chardevs(r, "nowhere", "there is no chardev 'nowhere'");
    refuse_chardevs(r, "", "there is no chardev ''");
    refuse_chardevs(r, "spare", "cannot work in an iothread");
    refuse_chardevs(r, "ring", "cannot work in an iothread");
    refuse_twice(r);
    refused(qtest_qmp(r->qts, OBJECT_ADD(FOUR ", 'vnet_hdr_support': 'yes'")),
            "vnet_hdr_support");
    refuse_number(r, "compare_timeout", 3600000);
    refuse_number(r, "expired_scan_cycle", 3600000);
    refuse_number(r, "max_queue_size", 1 << 20);
    refuse_number(r, "max_connections", 1 << 24);

    /* What was refused left nothing behind */
    add(r);
    refuse_changes(r);
    refused(qtest_qmp(r->qts, OBJECT_ADD(FOUR)), "comp0");
    refused(qtest_qmp(r->qts, "{'execute': 'object-add', 'arguments': {"
                      "'qom-type': 'colo-compare', 'id': 'comp1', " FOUR
                      "}}"), "in use");
    for (int i = 0; i < PORTS; i++) {
        refused(qtest_qmp(r->qts, "{'execute': 'chardev-remove', "
                          "'arguments': {'id': %s}}", chardevs[i]), "busy");
    }
    still_there(r);
    rig_end(r);
}

/* Without a session */

static void test_pass(const void *opaque)
{
    Rig *r = rig_start(GPOINTER_TO_INT(opaque));
    g_autoptr(GByteArray) stream = g_byte_array_new();
    g_autoptr(GByteArray) secondary = g_byte_array_new();
    uint32_t seed = 1000;

    for (uint32_t size = 1; size < 200; size++) {
        append_bytes(r, stream, size, seed++);
    }
    pass(r, stream);
    for (uint32_t size = 200; size < NET_BUFSIZE; size += size / 3 + 1) {
        g_byte_array_set_size(stream, 0);
        append_bytes(r, stream, size, seed++);
        pass(r, stream);
    }
    g_byte_array_set_size(stream, 0);
    append_bytes(r, stream, NET_BUFSIZE, seed++);
    append_bytes(r, stream, 14, seed++);
    pass(r, stream);

    /* More than its socket holds, so it was read */
    while (secondary->len < 4 * MiB) {
        append_bytes(r, secondary, 9000, seed++);
    }
    put(r, SECONDARY, secondary);
    pass(r, stream);
    assert_silent(r->fds[OUT]);
    rig_end(r);
}

static void test_split(const void *opaque)
{
    static const size_t steps[] = { 1, 2, 3, 5, 7, 11, 13, 64, 4096, 4099 };
    Rig *r = rig_start(GPOINTER_TO_INT(opaque));

    for (int i = 0; i < ARRAY_SIZE(steps); i++) {
        g_autoptr(GByteArray) stream = g_byte_array_new();

        for (uint32_t seed = 0; seed < 10; seed++) {
            append_bytes(r, stream, 14 + seed * steps[i], seed);
        }
        for (size_t at = 0; at < stream->len; at += steps[i]) {
            put_bytes(r->fds[PRIMARY], stream->data + at,
                      MIN(steps[i], stream->len - at));
        }
        get_equal(r, stream);
    }
    rig_end(r);
}

/* Records of a session that is not there have no effect */
static void test_cuts(void)
{
    Rig *r = rig_start(false);
    g_autoptr(GByteArray) stream = g_byte_array_new();
    g_autoptr(GByteArray) expected = g_byte_array_new();

    for (uint32_t i = 0; i < 5; i++) {
        append_word(stream, CUT_RECORD);
        append_word(stream, i == 3 ? UINT32_MAX : 0);
        append_word(stream, i == 3 ? UINT32_MAX : i);
        append_bytes(r, stream, 60 + i, i);
        append_bytes(r, expected, 60 + i, i);
    }
    put(r, SECONDARY, stream);
    put(r, PRIMARY, stream);
    get_equal(r, expected);
    rig_end(r);
}

/* Streams that are none, and their ends */

static void test_bad(const void *opaque)
{
    Rig *r = rig_start(GPOINTER_TO_INT(opaque));

    for (int i = 0; i < BAD_STREAMS; i++) {
        for (Port port = 0; port < PORTS; port++) {
            g_autoptr(GByteArray) stream = g_byte_array_new();

            append_bad(r, stream, i);
            put(r, port, stream);
            still_there(r);
            if (port != PRIMARY) {
                probe(r);
            }
            replug(r, port);
            probe(r);
        }
    }
    rig_end(r);
}

/* Streams that end, above all in the middle of a packet */
static void test_reconnect(void)
{
    Rig *r = rig_start(false);
    g_autoptr(GByteArray) stream = g_byte_array_new();

    append_bytes(r, stream, 100, 1);
    for (size_t part = 0; part < stream->len; part += 3) {
        for (Port port = 0; port < PORTS; port++) {
            put_bytes(r->fds[port], stream->data, part);
            replug(r, port);
        }
        probe(r);
    }
    /* All at once, and nobody says goodbye */
    for (int i = 0; i < 10; i++) {
        put_some(r->fds[PRIMARY], stream);
        unplug_all(r);
        plug_all(r);
        probe(r);
    }
    rig_end(r);
}

/* Nobody at outdev: packets are lost, those that follow are not */
static void test_nobody(void)
{
    Rig *r = rig_start(false);
    g_autoptr(GByteArray) stream = g_byte_array_new();

    while (stream->len < 4 * MiB) {
        append_bytes(r, stream, 1500, stream->len);
    }
    unplug(r, OUT);
    put(r, PRIMARY, stream);
    still_there(r);
    plug(r, OUT);
    probe(r);
    rig_end(r);
}

/*
 * Write until nothing is taken any more: that has to happen.  If this gives up
 * early, it is only less that waits.
 */
static size_t put_until_stuck(int fd, const GByteArray *stream)
{
    struct pollfd p = { .fd = fd, .events = POLLOUT };
    size_t at = 0;

    while (poll(&p, 1, 500) == 1) {
        ssize_t n = send(fd, stream->data + at, stream->len - at,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno == EAGAIN) {
            continue;
        }
        g_assert_cmpint(n, >, 0);
        at += n;
        g_assert_cmpuint(at, <, stream->len);
    }
    return at;
}

/* outdev has room for 4 MiB; the sockets for some more */
static GByteArray *much(const Rig *r)
{
    GByteArray *stream = g_byte_array_new();

    for (uint32_t seed = 0; stream->len < 12 * MiB; seed++) {
        append_bytes(r, stream, seed % 5 ? 60000 : 60, seed);
    }
    return stream;
}

static void test_slow_reader(void)
{
    Rig *r = rig_start(false);
    g_autoptr(GByteArray) stream = much(r);
    g_autofree uint8_t *buf = g_malloc(stream->len);
    size_t put = 0, got = 0;

    put = put_until_stuck(r->fds[PRIMARY], stream);
    still_there(r);
    while (got < stream->len) {
        struct pollfd p[] = {
            { .fd = r->fds[OUT], .events = POLLIN },
            { .fd = r->fds[PRIMARY],
              .events = put < stream->len ? POLLOUT : 0 },
        };
        ssize_t n;

        g_assert_cmpint(poll(p, ARRAY_SIZE(p), DEADLINE_MS), >, 0);
        if (p[0].revents) {
            n = read(r->fds[OUT], buf + got, stream->len - got);
            g_assert_cmpint(n, >, 0);
            got += n;
        }
        if (p[1].revents) {
            n = send(r->fds[PRIMARY], stream->data + put, stream->len - put,
                     MSG_DONTWAIT | MSG_NOSIGNAL);
            g_assert_true(n > 0 || errno == EAGAIN);
            put += MAX(n, 0);
        }
    }
    g_assert_cmpmem(buf, got, stream->data, stream->len);

    /* One that goes away in place of reading: the rest is lost */
    put = put_until_stuck(r->fds[PRIMARY], stream);
    unplug(r, OUT);
    put_bytes(r->fds[PRIMARY], stream->data + put, stream->len - put);
    plug(r, OUT);
    probe(r);
    rig_end(r);
}

/* The object comes and goes */

static void test_add_del(void)
{
    Rig *r = rig_start(true);
    g_autoptr(GByteArray) stream = much(r);

    for (int i = 0; i < 10; i++) {
        /* Packets are on their way through it, every other time they wait */
        put_some(r->fds[SECONDARY], stream);
        if (i % 2) {
            put_until_stuck(r->fds[PRIMARY], stream);
        } else {
            put_some(r->fds[PRIMARY], stream);
        }
        del(r, "comp0");
        unplug_all(r);
        rig_set_up(r);
    }
    for (int i = 0; i < 10; i++) {
        del(r, "comp0");
        add(r);
    }
    probe(r);
    unplug_all(r);
    for (int i = 0; i < 10; i++) {
        del(r, "comp0");
        add(r);
    }

    /* The iothread's name goes, the thread stays for as long as it is needed */
    del(r, "iot0");
    plug_all(r);
    probe(r);
    del(r, "comp0");
    for (int i = 0; i < PORTS; i++) {
        qtest_qmp_assert_success(r->qts, "{'execute': 'chardev-remove', "
                                 "'arguments': {'id': %s}}", chardevs[i]);
    }
    rig_end(r);
}

/* QEMU ends while packets are on their way */
static void test_quit(void)
{
    for (int i = 0; i < 4; i++) {
        Rig *r = rig_start(false);
        g_autoptr(GByteArray) stream = much(r);

        put_some(r->fds[SECONDARY], stream);
        if (i % 2) {
            put_until_stuck(r->fds[PRIMARY], stream);
        } else {
            put_some(r->fds[PRIMARY], stream);
        }
        rig_end(r);
    }
}

/* QEMU connects, and does so again and again */
static void test_clients(void)
{
    for (int i = 0; i < 5; i++) {
        Rig *r = rig_new(false, true);
        g_autoptr(GByteArray) stream = g_byte_array_new();

        append_bytes(r, stream, 14 + i, i);
        rig_boot(r, "-object colo-compare,id=comp0,primary_in=pri,"
                 "secondary_in=sec,outdev=out,notify_dev=not,iothread=iot0");
        plug_all(r);
        probe(r);
        for (Port port = 0; port < PORTS; port++) {
            replug(r, port);
            probe(r);
        }
        del(r, "comp0");
        add(r);
        probe(r);
        rig_end(r);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/compare/options", test_options);
    add_both("pass", test_pass);
    add_both("split", test_split);
    qtest_add_func("/colo/compare/cuts", test_cuts);
    add_both("bad", test_bad);
    qtest_add_func("/colo/compare/reconnect", test_reconnect);
    qtest_add_func("/colo/compare/nobody", test_nobody);
    qtest_add_func("/colo/compare/slow-reader", test_slow_reader);
    qtest_add_func("/colo/compare/add-del", test_add_del);
    qtest_add_func("/colo/compare/quit", test_quit);
    qtest_add_func("/colo/compare/clients", test_clients);
    return g_test_run();
}
