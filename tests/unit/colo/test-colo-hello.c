/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: hello records of streams.
 *
 * Proves: a writer says who it is before its first cut record in each
 * connection and each session, in which session it is, and never without one; a
 * reader hears the same
 * however the stream is cut up, names what is no such record, and reads no
 * further where it refuses; what does not fit is named.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/config-file.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/option.h"
#include "qapi/error.h"
#include "chardev/char.h"
#include "net/net.h"
#include "net/colo/stream.h"
#include "system/system.h"

#define HELLO   0x80000003U

typedef struct Seen {
    ColoStreamReader *r;
    GString *log;
} Seen;

static void seen_packet(void *opaque, uint8_t *data, uint32_t size,
                        uint32_t vnet_hdr_len)
{
    Seen *s = opaque;

    g_string_append_printf(s->log, "p%u ", size);
    g_free(data);
}

static void seen_cut(void *opaque, uint64_t epoch)
{
    Seen *s = opaque;

    g_string_append_printf(s->log, "c%" PRIu64 " ", epoch);
}

/* Who says nothing of itself is refused */
static bool seen_hello(void *opaque, const ColoStreamHello *hello)
{
    Seen *s = opaque;

    g_string_append_printf(s->log, "h%d:%d:%u=%s ", hello->kind,
                           hello->vnet_hdr, hello->vnet_hdr_len,
                           hello->netdev);
    if (hello->has_mac) {
        g_string_append_printf(s->log, MAC_FMT " ", MAC_ARG(hello->mac.a));
    }
    if (hello->has_session) {
        g_string_append_printf(s->log, "s%02x%02x ", hello->session.data[0],
                               hello->session.data[15]);
    }
    return hello->kind != COLO_STREAM_UNKNOWN;
}

static const ColoStreamReaderOps seen_ops = {
    .packet = seen_packet,
    .cut = seen_cut,
    .hello = seen_hello,
};

static const ColoStreamReaderOps deaf_ops = {
    .packet = seen_packet,
    .cut = seen_cut,
};

/* What a reader makes of it in two parts; "!" and why if it is no stream */
static char *read_stream(const ColoStreamReaderOps *ops, bool vnet_hdr,
                         const uint8_t *data, size_t size, size_t first)
{
    Seen s = { .log = g_string_new(NULL) };
    g_autoptr(Error) err = NULL;

    s.r = colo_stream_reader_new(vnet_hdr, ops, &s);
    if (!colo_stream_reader_feed(s.r, data, first, &err) ||
        !colo_stream_reader_feed(s.r, data + first, size - first, &err)) {
        g_string_append_printf(s.log, "!%s", error_get_pretty(err));
    }
    colo_stream_reader_free(s.r);
    return g_string_free(s.log, false);
}

typedef struct Out {
    char *path;
    CharBackend be;
    ColoStreamWriter *w;
} Out;

static void out_begin(Out *o, bool vnet_hdr)
{
    g_autofree char *name = NULL;
    int fd = g_file_open_tmp("colo-hello-XXXXXX", &o->path, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    name = g_strdup_printf("file:%s", o->path);
    qemu_chr_fe_init(&o->be, qemu_chr_new("out", name, NULL), &error_abort);
    o->w = colo_stream_writer_new(&o->be, NULL, vnet_hdr, 65536, NULL, NULL);
}

/* A reader has to make @want of all that was written */
static void out_expect(Out *o, bool vnet_hdr, const char *want)
{
    g_autofree char *data = NULL;
    gsize size;

    g_assert_true(g_file_get_contents(o->path, &data, &size, NULL));
    for (gsize i = 0; i <= size; i++) {
        g_autofree char *seen = read_stream(&seen_ops, vnet_hdr,
                                            (uint8_t *)data, size, i);

        g_assert_cmpstr(seen, ==, want);
    }
}

static void out_end(Out *o)
{
    colo_stream_writer_free(o->w);
    qemu_chr_fe_deinit(&o->be, true);
    unlink(o->path);
    g_free(o->path);
}

static void test_write(const void *opaque)
{
    bool vnet_hdr = GPOINTER_TO_INT(opaque);
    NetClientState netdev = { .vnet_hdr_len = 12, .name = (char *)"net0" };
    const MACAddr mac = { { 0x52, 0x54, 0, 0x12, 0x34, 0xff } };
    struct iovec iov = { (void *)"abcdefghijklm", 13 };
    g_autofree char *want = g_strdup_printf(
        "p13 h3:%d:12=net0 c0 p13 c1 "
        "h3:%d:0=net0 52:54:00:12:34:FF c1 h3:%d:0=net0 52:54:00:12:34:FF c0 ",
        vnet_hdr, vnet_hdr, vnet_hdr);
    Out o;

    out_begin(&o, vnet_hdr);
    colo_stream_writer_packet(o.w, &iov, 1, 12);
    colo_stream_writer_introduce(o.w, COLO_STREAM_SECONDARY_OUTPUT, &netdev,
                                 NULL, NULL);
    colo_stream_writer_cut(o.w, 0);
    colo_stream_writer_packet(o.w, &iov, 1, 12);
    colo_stream_writer_introduce(o.w, COLO_STREAM_SECONDARY_OUTPUT, &netdev,
                                 &mac, NULL);
    colo_stream_writer_cut(o.w, 1);
    /* Another connection, another session */
    netdev.vnet_hdr_len = 0;
    colo_stream_writer_closed(o.w);
    colo_stream_writer_opened(o.w);
    colo_stream_writer_forget_epoch(o.w);
    colo_stream_writer_cut(o.w, 0);
    out_expect(&o, vnet_hdr, want);
    out_end(&o);
}

static void test_session(void)
{
    const QemuUUID id = { .data = { 1, [15] = 0x10 } };
    const MACAddr mac = { { 0x52, 0x54, 0, 0x12, 0x34, 0xff } };
    g_autofree char *name = g_strnfill(300, 'n');
    NetClientState netdev = { .name = (char *)"net0" };
    g_autofree char *want = NULL;
    Out o;

    out_begin(&o, false);
    colo_stream_writer_introduce(o.w, COLO_STREAM_INPUT, &netdev, NULL, &id);
    colo_stream_writer_cut(o.w, 0);
    colo_stream_writer_forget_epoch(o.w);
    colo_stream_writer_introduce(o.w, COLO_STREAM_INPUT, &netdev, &mac, &id);
    colo_stream_writer_cut(o.w, 0);
    colo_stream_writer_forget_epoch(o.w);
    netdev.name = name;
    colo_stream_writer_cut(o.w, 0);
    want = g_strdup_printf("h1:0:0=net0 s0110 c0 "
                           "h1:0:0=net0 52:54:00:12:34:FF s0110 c0 "
                           "h1:0:0=%.233s 52:54:00:12:34:FF s0110 c0 ", name);
    out_expect(&o, false, want);
    out_end(&o);
}

static void test_no_session(void)
{
    NetClientState netdev = { .vnet_hdr_len = 12, .name = (char *)"net0" };
    struct iovec iov = { (void *)"abcdefghijklm", 13 };
    Out o;

    out_begin(&o, false);
    colo_stream_writer_introduce(o.w, COLO_STREAM_INPUT, &netdev, NULL,
                                 NULL);
    colo_stream_writer_closed(o.w);
    colo_stream_writer_opened(o.w);
    colo_stream_writer_packet(o.w, &iov, 1, 12);
    out_expect(&o, false, "p13 ");
    out_end(&o);
}

typedef struct Bad {
    uint32_t length;
    uint16_t version;
    uint8_t kind;
    const char *seen;
    uint8_t flags;
} Bad;

static void test_read(void)
{
    static const Bad records[] = {
        { 8, 1, 1, "h1:1:12= c7 " },
        { 11, 1, 2, "h2:1:12=a?c c7 " },
        { 17, 1, 2, "h2:1:12=a?c 01:02:03:04:05:06 c7 ", 2 },
        { 14, 1, 2, "h2:1:12= 61:0A:63:01:02:03 c7 ", 2 },
        { 13, 1, 2, "!hello record of 13 bytes with a MAC address", 2 },
        { 24, 1, 2, "h2:1:12= s6100 c7 ", 4 },
        { 27, 1, 2, "h2:1:12=a?c s0100 c7 ", 4 },
        { 30, 1, 2, "h2:1:12= 00:00:00:00:00:00 s6100 c7 ", 6 },
        { 23, 1, 2, "!hello record that is too short for its session", 4 },
        { 29, 1, 2, "!hello record that is too short for its session", 6 },
        /* Of what is to come */
        { 11, 1, 2, "h2:1:12=a?c c7 ", 0xf8 },
        { 8, 1, 0, "h0:1:12= " },
        { 8, 1, 200, "h0:1:12= " },
        { 7, 1, 1, "!hello record of 7 bytes, 8 to 263 are allowed" },
        { 264, 1, 1, "!hello record of 264 bytes, 8 to 263 are allowed" },
        { 0xffffffff, 1, 1, "!hello record of 4294967295 bytes, 8 to 263 are "
          "allowed" },
        { 8, 2, 1, "!streams of version 2, this is 1: the other end is a QEMU "
          "with another COLO" },
    };

    for (int i = 0; i < ARRAY_SIZE(records); i++) {
        const Bad *b = &records[i];
        uint8_t stream[60] = { 0 };
        size_t size = 8 + MAX(MIN(b->length, 40), 8);
        g_autofree char *deaf = NULL;

        stl_be_p(stream, HELLO);
        stl_be_p(stream + 4, b->length);
        stw_be_p(stream + 8, b->version);
        stream[10] = b->kind;
        stream[11] = 1 | b->flags;
        stl_be_p(stream + 12, 12);
        memcpy(stream + 16, "a\nc\1\2\3\4\5\6", 9);
        stl_be_p(stream + size, 0x80000001U);
        stq_be_p(stream + size + 4, 7);
        size += 12;
        for (size_t first = 0; first <= size; first++) {
            g_autofree char *seen = read_stream(&seen_ops, false, stream, size,
                                                first);

            g_assert_cmpstr(seen, ==, b->seen);
        }
        deaf = read_stream(&deaf_ops, false, stream, size, 0);
        g_assert_cmpstr(deaf, ==, "!unknown control record 0x80000003");
    }
}

static void test_check(void)
{
    NetClientState with = { .vnet_hdr_len = 12, .name = (char *)"here" };
    NetClientState without = { .name = (char *)"here" };
    const MACAddr mac = { { 1, 2, 3, 4, 5, 6 } };
    const struct {
        ColoStreamHello hello;
        ColoStreamExpected expected;
        bool fatal;
        const char *text;       /* NULL: it fits */
    } cases[] = {
        { { COLO_STREAM_INPUT, true, 10, "n" },
          { COLO_STREAM_INPUT, true, true, &with } },
        { { COLO_STREAM_INPUT, false, 12, "n" },
          { COLO_STREAM_UNKNOWN, false, false, &with } },
        { { COLO_STREAM_INPUT, true, 0, "n" },
          { COLO_STREAM_INPUT, true, true, &without } },
        { { COLO_STREAM_INPUT, true, 12, "n" },
          { COLO_STREAM_INPUT, true, true, NULL } },
        { { COLO_STREAM_INPUT, true, 12, "n", true, mac },
          { COLO_STREAM_INPUT, true, true, &with, &mac } },
        { { COLO_STREAM_INPUT, true, 12, "n" },
          { COLO_STREAM_INPUT, true, true, &with, &mac } },
        { { COLO_STREAM_INPUT, true, 12, "n", true },
          { COLO_STREAM_INPUT, true, true, &with, NULL } },
        { { COLO_STREAM_INPUT, true, 12, "n", true, { { 1, 2, 3, 4, 5, 7 } } },
          { COLO_STREAM_INPUT, true, true, &with, &mac }, false,
          "the MAC address of the NIC is 01:02:03:04:05:07 at the other end, at "
          "netdev 'n', and 01:02:03:04:05:06 here" },
        { { COLO_STREAM_INPUT, true, 12, "n" },
          { COLO_STREAM_SECONDARY_OUTPUT, true, true, NULL }, true,
          "the input of the primary's guest of netdev 'n' comes here, not the "
          "output of the secondary's" },
        { { COLO_STREAM_INPUT, true, 12, "n" },
          { COLO_STREAM_INPUT, false, false, &with }, true,
          "vnet_hdr_support is on at the other end, at netdev 'n', and off "
          "here" },
        { { COLO_STREAM_INPUT, false, 12, "n" },
          { COLO_STREAM_INPUT, false, true, &with }, false,
          "vnet_hdr_support=on is needed at both ends" },
        { { COLO_STREAM_INPUT, true, 12, "n" },
          { COLO_STREAM_INPUT, true, true, &without }, false,
          "'n' have a vnet header of 12 bytes at the other end, those of "
          "'here' one of 0" },
        { { COLO_STREAM_INPUT, false, 0, "n" },
          { COLO_STREAM_INPUT, false, false, &with }, false,
          "'n' have a vnet header of 0 bytes at the other end, those of 'here' "
          "one of 12" },
    };

    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autoptr(Error) err = NULL;
        bool fatal;

        g_assert_cmpint(colo_stream_hello_check(&cases[i].hello,
                                                &cases[i].expected, &fatal,
                                                &err), ==, !cases[i].text);
        if (cases[i].text) {
            g_assert_nonnull(strstr(error_get_pretty(err), cases[i].text));
            g_assert_cmpint(fatal, ==, cases[i].fatal);
        }
    }
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_abort);
    module_call_init(MODULE_INIT_QOM);
    qemu_add_opts(&qemu_chardev_opts);
    g_test_init(&argc, &argv, NULL);

    g_test_add_data_func("/colo/hello/write", GINT_TO_POINTER(false),
                         test_write);
    g_test_add_data_func("/colo/hello/write-vnet", GINT_TO_POINTER(true),
                         test_write);
    g_test_add_func("/colo/hello/session", test_session);
    g_test_add_func("/colo/hello/no-session", test_no_session);
    g_test_add_func("/colo/hello/read", test_read);
    g_test_add_func("/colo/hello/check", test_check);
    return g_test_run();
}
