/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * filter-rewriter in a QEMU without a session.
 *
 * Two sockets of the test are joined by a hub in QEMU, the filter sits on the
 * one to the network, the other one is in the place of the guest:
 *
 *   network --- netdev net0, rewriter --- hub --- netdev guest0 --- guest
 *
 * Proves: options that are wrong are refused with a text that names them; the
 * filter comes and goes, and is switched off and on; what it has no business
 * with passes as it is; what it changes goes on where it should, through the
 * filters behind it.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "qemu/bswap.h"
#include "qemu/sockets.h"
#include "qobject/qdict.h"
#include "colo-rewrite-util.h"
#include "libqtest.h"

#define DEADLINE_MS 60000
#define PATH        "/objects/rew0"

typedef struct Wire {
    QTestState *qts;
    int network;
    int guest;
} Wire;

static void wire_start(Wire *w, const char *more)
{
    int net[2], guest[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, net), ==, 0);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, guest), ==, 0);
    w->network = net[0];
    w->guest = guest[0];
    w->qts = qtest_initf("-machine none -nodefaults "
                         "-netdev socket,id=net0,fd=%d "
                         "-netdev socket,id=guest0,fd=%d "
                         "-netdev hubport,id=hub0,hubid=0,netdev=net0 "
                         "-netdev hubport,id=hub1,hubid=0,netdev=guest0 %s",
                         net[1], guest[1], more);
    close(net[1]);
    close(guest[1]);
}

static void wire_end(Wire *w)
{
    close(w->network);
    close(w->guest);
    qtest_quit(w->qts);
}

/* One frame, as netdev socket writes it: the length, then the bytes */
static void put(int fd, const GByteArray *frame)
{
    uint32_t len = cpu_to_be32(frame->len);

    g_assert_cmpint(qemu_write_full(fd, &len, sizeof(len)), ==, sizeof(len));
    g_assert_cmpint(qemu_write_full(fd, frame->data, frame->len), ==,
                    frame->len);
}

static void get_bytes(int fd, void *buf, size_t len)
{
    while (len) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        ssize_t n;

        g_assert_cmpint(poll(&p, 1, DEADLINE_MS), ==, 1);
        n = read(fd, buf, len);
        g_assert_cmpint(n, >, 0);
        buf = (char *)buf + n;
        len -= n;
    }
}

static void get_equal(int fd, const GByteArray *expected)
{
    g_autofree uint8_t *frame = NULL;
    uint32_t len;

    get_bytes(fd, &len, sizeof(len));
    len = be32_to_cpu(len);
    g_assert_cmpuint(len, ==, expected->len);
    frame = g_malloc(len);
    get_bytes(fd, frame, len);
    g_assert_cmpmem(frame, len, expected->data, expected->len);
}

static void travel(Wire *w, const Test *t, bool from_guest, Seg in, Seg out)
{
    g_autoptr(GByteArray) sent = build_bytes(t, from_guest, &in);
    g_autoptr(GByteArray) expected = build_bytes(t, from_guest, &out);

    put(from_guest ? w->guest : w->network, sent);
    get_equal(from_guest ? w->network : w->guest, expected);
}

static void guest_says(Wire *w, const Test *t, Seg in, uint32_t seq)
{
    Seg out = in;

    out.seq = seq;
    travel(w, t, true, in, out);
}

static void guest_gets(Wire *w, const Test *t, Seg in, uint32_t ack)
{
    Seg out = in;

    out.ack = ack;
    travel(w, t, false, in, out);
}

static void handshake(Wire *w, const Test *t)
{
    guest_gets(w, t, seg(SYN, t->c, 0, 0), 0);
    guest_says(w, t, seg(SYN | ACK, t->s, t->c + 1, 0), t->s);
    guest_gets(w, t, seg(ACK, t->c + 1, t->p + 1, 0), t->s + 1);
}

static uint64_t counter(Wire *w, const char *name)
{
    QDict *r = qtest_qmp(w->qts, "{'execute': 'qom-get', 'arguments': {"
                         "'path': %s, 'property': %s}}", PATH, name);
    uint64_t value;

    g_assert_true(qdict_haskey(r, "return"));
    value = qdict_get_int(r, "return");
    qobject_unref(r);
    return value;
}

static void set_status(Wire *w, const char *status)
{
    qtest_qmp_assert_success(w->qts, "{'execute': 'qom-set', 'arguments': {"
                             "'path': %s, 'property': 'status', "
                             "'value': %s}}", PATH, status);
}

/* The answer has to be an error that has @text in it */
static void refused(QDict *response, const char *text)
{
    const char *desc;

    g_assert_true(qdict_haskey(response, "error"));
    desc = qdict_get_str(qdict_get_qdict(response, "error"), "desc");
    if (!strstr(desc, text)) {
        g_test_message("'%s' does not say '%s'", desc, text);
        g_test_fail();
    }
    qobject_unref(response);
}

static void add(Wire *w)
{
    qtest_qmp_assert_success(w->qts, "{'execute': 'object-add', 'arguments': {"
                             "'qom-type': 'filter-rewriter', 'id': 'rew0', "
                             "'netdev': 'net0'}}");
}

static void del(Wire *w)
{
    qtest_qmp_assert_success(w->qts, "{'execute': 'object-del', "
                             "'arguments': {'id': 'rew0'}}");
}

#define ADD_WITH(options) \
    "{'execute': 'object-add', 'arguments': {" \
    "'qom-type': 'filter-rewriter', 'id': 'rew0', " options "}}"

static void test_options(void)
{
    static const char *const counters[] = {
        "flows", "open-flows", "rewritten-packets", "rewritten-seqs",
        "rewritten-acks", "rewritten-tsvals", "rewritten-tsecrs",
        "rewritten-ports", "learned-offsets", "loads", "evicted-flows",
        "expired-flows", "told-connects", "unused-connects",
        "paired-connects", "moved-connects", "dropped-packets-foreign",
    };
    Wire w;

    wire_start(&w, "");
    refused(qtest_qmp(w.qts, ADD_WITH("'netdev': 'net0', 'colour': 'red'")),
            "colour");
    refused(qtest_qmp(w.qts, ADD_WITH("'queue': 'all'")), "netdev");
    refused(qtest_qmp(w.qts, ADD_WITH("'netdev': 'net7'")), "netdev");
    refused(qtest_qmp(w.qts, ADD_WITH("'netdev': 'net0', 'queue': 'rx'")),
            "'queue' is 'rx'");
    refused(qtest_qmp(w.qts, ADD_WITH("'netdev': 'net0', 'queue': 'tx'")),
            "'queue' is 'tx'");
    refused(qtest_qmp(w.qts, ADD_WITH("'netdev': 'net0', "
                                      "'vnet_hdr_support': 'perhaps'")),
            "vnet_hdr_support");
    refused(qtest_qmp(w.qts, ADD_WITH("'netdev': 'net0', "
                                      "'max_connections': 0")),
            "'max_connections' is 0, it has to be between 1 and 16777216");
    refused(qtest_qmp(w.qts, ADD_WITH("'netdev': 'net0', "
                                      "'max_connections': 16777217")),
            "'max_connections' is 16777217, it has to be");
    /* What was refused left nothing behind */
    add(&w);
    refused(qtest_qmp(w.qts, ADD_WITH("'netdev': 'net0'")), "rew0");
    for (size_t i = 0; i < ARRAY_SIZE(counters); i++) {
        g_assert_cmpuint(counter(&w, counters[i]), ==, 0);
    }
    refused(qtest_qmp(w.qts, "{'execute': 'qom-set', 'arguments': {"
                      "'path': %s, 'property': 'vnet_hdr_support', "
                      "'value': true}}", PATH), "vnet_hdr_support");
    refused(qtest_qmp(w.qts, "{'execute': 'qom-set', 'arguments': {"
                      "'path': %s, 'property': 'flows', 'value': 3}}", PATH),
            "flows");
    g_assert_cmpuint(counter(&w, "max_connections"), ==, 65536);
    refused(qtest_qmp(w.qts, "{'execute': 'qom-set', 'arguments': {"
                      "'path': %s, 'property': 'max_connections',"
                      "'value': 3}}", PATH), "while the filter is in use");
    refused(qtest_qmp(w.qts, "{'execute': 'qom-set', 'arguments': {"
                      "'path': %s, 'property': 'status', "
                      "'value': 'open'}}", PATH), "status");
    del(&w);
    for (int i = 0; i < 3; i++) {
        add(&w);
        del(&w);
    }
    wire_end(&w);
}

static void test_pass(void)
{
    static const uint8_t bytes[100] = { 1, 2, 3, 4 };
    Test *t = test_new(1);
    Wire w;

    wire_start(&w, "-object filter-rewriter,id=rew0,netdev=net0,queue=all,"
               "vnet_hdr_support=off");
    /* Not TCP, in all lengths */
    for (size_t len = 1; len <= sizeof(bytes); len++) {
        g_autoptr(GByteArray) frame = g_byte_array_new();

        g_byte_array_append(frame, bytes, len);
        put(w.network, frame);
        get_equal(w.guest, frame);
        put(w.guest, frame);
        get_equal(w.network, frame);
    }
    /* A connection that nobody knows */
    guest_says(&w, t, seg(ACK, 1, 2, 3), 1);
    guest_gets(&w, t, seg(ACK, 1, 2, 3), 2);
    g_assert_cmpuint(counter(&w, "flows"), ==, 0);
    /* One whose guest is the only one that there is */
    t->p = t->s;
    handshake(&w, t);
    guest_says(&w, t, seg(ACK, t->s + 1, t->c + 1, 3), t->s + 1);
    guest_gets(&w, t, seg(ACK, t->c + 1, t->s + 4, 3), t->s + 4);
    g_assert_cmpuint(counter(&w, "flows"), ==, 1);
    g_assert_cmpuint(counter(&w, "learned-offsets"), ==, 1);
    g_assert_cmpuint(counter(&w, "rewritten-packets"), ==, 0);
    test_free(t);
    wire_end(&w);
}

static void test_rewrite(void)
{
    Test *t = test_new(1);
    Wire w;

    wire_start(&w, "-object filter-rewriter,id=rew0,netdev=net0");
    handshake(&w, t);
    guest_says(&w, t, seg(ACK, t->s + 1, t->c + 1, 300), t->p + 1);
    guest_gets(&w, t, seg(ACK, t->c + 1, t->p + 301, 9000), t->s + 301);
    g_assert_cmpuint(counter(&w, "rewritten-packets"), ==, 3);
    g_assert_cmpuint(counter(&w, "open-flows"), ==, 1);

    set_status(&w, "off");
    guest_says(&w, t, seg(ACK, t->s + 1, t->c + 1, 300), t->s + 1);
    guest_gets(&w, t, seg(ACK, t->c + 1, t->p + 301, 30), t->p + 301);
    set_status(&w, "on");
    guest_says(&w, t, seg(ACK, t->s + 1, t->c + 1, 300), t->p + 1);
    guest_gets(&w, t, seg(ACK, t->c + 1, t->p + 301, 30), t->s + 301);

    /* Deleted: they pass, and a new one knows nothing of them */
    del(&w);
    guest_says(&w, t, seg(ACK, t->s + 1, t->c + 1, 300), t->s + 1);
    add(&w);
    guest_gets(&w, t, seg(ACK, t->c + 1, t->p + 301, 30), t->p + 301);
    g_assert_cmpuint(counter(&w, "flows"), ==, 0);
    test_free(t);
    wire_end(&w);
}

static void assert_in_file(const char *path, const Test *t, bool from_guest,
                           Seg s, bool is_there)
{
    g_autoptr(GByteArray) frame = build_bytes(t, from_guest, &s);
    g_autofree char *content = NULL;
    g_autoptr(GError) err = NULL;
    gsize len;

    g_file_get_contents(path, &content, &len, &err);
    g_assert_no_error(err);
    g_assert_cmpint(memmem(content, len, frame->data, frame->len) != NULL, ==,
                    is_there);
}

/*
 * Filters on both sides of it: the inner one is nearer to the guest.  What
 * they have written is what passed them.
 */
static void test_chain(void)
{
    g_autofree char *dir = g_dir_make_tmp("colo-rewriter-XXXXXX", NULL);
    g_autofree char *outer = g_build_filename(dir, "outer", NULL);
    g_autofree char *inner = g_build_filename(dir, "inner", NULL);
    g_autofree char *more = g_strdup_printf(
        "-object filter-dump,id=outer,netdev=net0,file=%s "
        "-object filter-rewriter,id=rew0,netdev=net0 "
        "-object filter-dump,id=inner,netdev=net0,file=%s", outer, inner);
    Test *t = test_new(1);
    Seg said, got;
    Wire w;

    wire_start(&w, more);
    handshake(&w, t);
    said = seg(ACK, t->s + 1, t->c + 1, 30);
    guest_says(&w, t, said, t->p + 1);
    got = seg(ACK, t->c + 1, t->p + 31, 40);
    guest_gets(&w, t, got, t->s + 31);

    assert_in_file(inner, t, true, said, true);
    assert_in_file(outer, t, true, said, false);
    assert_in_file(inner, t, false, got, false);
    assert_in_file(outer, t, false, got, true);
    said.seq = t->p + 1;
    got.ack = t->s + 31;
    assert_in_file(inner, t, true, said, false);
    assert_in_file(outer, t, true, said, true);
    assert_in_file(inner, t, false, got, true);
    assert_in_file(outer, t, false, got, false);

    test_free(t);
    wire_end(&w);
    unlink(outer);
    unlink(inner);
    rmdir(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/rewriter/options", test_options);
    qtest_add_func("/colo/rewriter/pass", test_pass);
    qtest_add_func("/colo/rewriter/rewrite", test_rewrite);
    qtest_add_func("/colo/rewriter/chain", test_chain);
    return g_test_run();
}
