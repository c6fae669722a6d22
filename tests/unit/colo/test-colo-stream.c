/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: packets and cut records on a character device.
 *
 * Proves: records arrive whole however the stream is cut up, what is no such
 * stream is named and read no further; a writer never waits, is bounded, loses
 * nothing that it accepted, and a new connection begins with a record.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/config-file.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/option.h"
#include "qemu/sockets.h"
#include "qapi/error.h"
#include "chardev/char.h"
#include "chardev/char-fe.h"
#include "net/net.h"
#include "net/queue.h"
#include "net/colo/stream.h"
#include "system/system.h"

#define CUT             0x80000001U
#define BEGIN           0x80000002U
#define MAX_BYTES       65536
#define DEADLINE_US     (20 * G_USEC_PER_SEC)

/*
 * What a reader has said: "p3:2=abc" for a packet, "c7" for a cut, "b3:2=abc" for
 * a begin record
 */
typedef struct Seen {
    ColoStreamReader *r;
    GString *log;
    const char *reset_at;       /* reset inside the callback that says this */
    unsigned packets;
    uint64_t bytes;
    uint64_t epoch;
} Seen;

static void seen_reset(Seen *s, size_t from)
{
    if (s->reset_at && !strcmp(s->log->str + from, s->reset_at)) {
        colo_stream_reader_reset(s->r);
    }
}

static void seen_packet(void *opaque, uint8_t *data, uint32_t size,
                        uint32_t vnet_hdr_len)
{
    Seen *s = opaque;
    size_t from = s->log->len;

    if (size < 16) {
        g_string_append_printf(s->log, "p%u:%u=%.*s ", size, vnet_hdr_len,
                               (int)size, data);
    }
    s->packets++;
    s->bytes += size;
    g_free(data);
    seen_reset(s, from);
}

static void seen_cut(void *opaque, uint64_t epoch)
{
    Seen *s = opaque;
    size_t from = s->log->len;

    g_string_append_printf(s->log, "c%" PRIu64 " ", epoch);
    s->epoch = epoch;
    seen_reset(s, from);
}

static void seen_begin(void *opaque, uint8_t *data, uint32_t size,
                       uint32_t vnet_hdr_len)
{
    Seen *s = opaque;
    size_t from = s->log->len;

    g_string_append_printf(s->log, "b%u:%u=%.*s ", size, vnet_hdr_len,
                           (int)size, data ? (char *)data : "");
    g_assert_true(!data == !size);
    g_free(data);
    seen_reset(s, from);
}

static const ColoStreamReaderOps seen_ops = {
    .packet = seen_packet,
    .cut = seen_cut,
};

static const ColoStreamReaderOps seen_begin_ops = {
    .packet = seen_packet,
    .cut = seen_cut,
    .begin = seen_begin,
};

static void seen_init_ops(Seen *s, bool vnet_hdr,
                          const ColoStreamReaderOps *ops)
{
    *s = (Seen) { .log = g_string_new(NULL) };
    s->r = colo_stream_reader_new(vnet_hdr, ops, s);
}

static void seen_init(Seen *s, bool vnet_hdr)
{
    seen_init_ops(s, vnet_hdr, &seen_ops);
}

static void seen_end(Seen *s)
{
    colo_stream_reader_free(s->r);
    g_string_free(s->log, true);
}

/* Builds a stream: numbers as 32 bits, then bytes */
static void add_word(GByteArray *a, uint32_t word)
{
    uint8_t buf[4];

    stl_be_p(buf, word);
    g_byte_array_append(a, buf, sizeof(buf));
}

static void add_packet(GByteArray *a, bool vnet_hdr, const char *data,
                       uint32_t vnet_hdr_len)
{
    add_word(a, strlen(data));
    if (vnet_hdr) {
        add_word(a, vnet_hdr_len);
    }
    g_byte_array_append(a, (const uint8_t *)data, strlen(data));
}

static void add_cut(GByteArray *a, uint64_t epoch)
{
    add_word(a, CUT);
    add_word(a, epoch >> 32);
    add_word(a, epoch);
}

static void add_begin(GByteArray *a, const char *data, uint32_t vnet_hdr_len)
{
    add_word(a, BEGIN);
    add_word(a, strlen(data));
    add_word(a, vnet_hdr_len);
    g_byte_array_append(a, (const uint8_t *)data, strlen(data));
}

static void feed_in_parts(Seen *s, GByteArray *a, size_t first, size_t second)
{
    colo_stream_reader_feed(s->r, a->data, first, &error_abort);
    colo_stream_reader_feed(s->r, a->data + first, second - first,
                            &error_abort);
    colo_stream_reader_feed(s->r, a->data + second, a->len - second,
                            &error_abort);
}

static void test_splits(const void *opaque)
{
    bool vnet_hdr = GPOINTER_TO_INT(opaque);
    g_autoptr(GByteArray) a = g_byte_array_new();
    const char *want = vnet_hdr
        ? "c7 p1:0=a p5:5=bcdef c4294967298 c3 p2:1=gh "
        : "c7 p1:0=a p5:0=bcdef c4294967298 c3 p2:0=gh ";
    Seen s;

    add_cut(a, 7);
    add_packet(a, vnet_hdr, "a", 0);
    add_packet(a, vnet_hdr, "bcdef", 5);
    add_cut(a, 4294967298);
    add_cut(a, 3);
    add_packet(a, vnet_hdr, "gh", 1);
    for (size_t i = 0; i <= a->len; i++) {
        for (size_t j = i; j <= a->len; j++) {
            seen_init(&s, vnet_hdr);
            feed_in_parts(&s, a, i, j);
            g_assert_cmpstr(s.log->str, ==, want);
            seen_end(&s);
        }
    }
    seen_init(&s, vnet_hdr);
    for (size_t i = 0; i < a->len; i++) {
        colo_stream_reader_feed(s.r, a->data + i, 1, &error_abort);
    }
    g_assert_cmpstr(s.log->str, ==, want);
    seen_end(&s);
}

/* Begin records have the length of the vnet header in any stream */
static void test_begin(const void *opaque)
{
    bool vnet_hdr = GPOINTER_TO_INT(opaque);
    g_autoptr(GByteArray) a = g_byte_array_new();
    Seen s;

    add_begin(a, "", 0);
    add_begin(a, "abc", 2);
    add_packet(a, vnet_hdr, "d", 0);
    add_cut(a, 1);
    add_begin(a, "e", 0);
    for (size_t i = 0; i <= a->len; i++) {
        for (size_t j = i; j <= a->len; j++) {
            seen_init_ops(&s, vnet_hdr, &seen_begin_ops);
            feed_in_parts(&s, a, i, j);
            g_assert_cmpstr(s.log->str, ==,
                            "b0:0= b3:2=abc p1:0=d c1 b1:0=e ");
            seen_end(&s);
        }
    }
}

static void test_begin_bad(void)
{
    static const struct {
        uint32_t words[3];
        const char *message;
    } bad[] = {
        { { BEGIN, NET_BUFSIZE + 1, 0 }, "begin record of 69633 bytes" },
        { { BEGIN, 0xffffffff, 0 }, "begin record of 4294967295 bytes" },
        { { BEGIN, 4, 5 }, "4 bytes with a vnet header of 5" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autoptr(GByteArray) a = g_byte_array_new();
        g_autoptr(Error) err = NULL;
        Seen s;

        for (size_t j = 0; j < ARRAY_SIZE(bad[i].words); j++) {
            add_word(a, bad[i].words[j]);
        }
        seen_init_ops(&s, false, &seen_begin_ops);
        g_assert_false(colo_stream_reader_feed(s.r, a->data, a->len, &err));
        g_assert_nonnull(strstr(error_get_pretty(err), bad[i].message));
        g_assert_cmpstr(s.log->str, ==, "");
        seen_end(&s);
    }
}

/* The largest packet there is, and one after it */
static void test_largest(void)
{
    g_autoptr(GByteArray) a = g_byte_array_new();
    Seen s;

    add_word(a, NET_BUFSIZE);
    g_byte_array_set_size(a, 4 + NET_BUFSIZE);
    memset(a->data + 4, 0xff, NET_BUFSIZE);
    add_packet(a, false, "x", 0);
    seen_init(&s, false);
    feed_in_parts(&s, a, 5, 65536);
    g_assert_cmpuint(s.packets, ==, 2);
    g_assert_cmpuint(s.bytes, ==, NET_BUFSIZE + 1);
    g_assert_cmpstr(s.log->str, ==, "p1:0=x ");
    seen_end(&s);
}

typedef struct Bad {
    const char *name;
    bool vnet_hdr;
    uint32_t words[2];
    unsigned count;             /* so many words show it */
    const char *message;
} Bad;

static const Bad bad_streams[] = {
    { "length-0", false, { 0 }, 1, "packet of 0 bytes" },
    { "length-0-vnet", true, { 0 }, 1, "packet of 0 bytes" },
    { "length-over", false, { NET_BUFSIZE + 1 }, 1, "packet of 69633 bytes" },
    { "length-huge", false, { 0x7fffffff }, 1, "packet of 2147483647 bytes" },
    { "control-0", false, { 0x80000000 }, 1, "control record 0x80000000" },
    { "control-2", true, { 0x80000002 }, 1, "control record 0x80000002" },
    { "control-all", false, { 0xffffffff }, 1, "control record 0xffffffff" },
    { "vnet-over", true, { 4, 5 }, 2, "4 bytes with a vnet header of 5" },
    { "vnet-huge", true, { 4, 0xffffffff }, 2, "header of 4294967295" },
};

static void test_bad(const void *opaque)
{
    const Bad *bad = opaque;
    g_autoptr(GByteArray) a = g_byte_array_new();
    g_autoptr(Error) again = NULL;
    Error *err = NULL;
    Seen s;

    add_packet(a, bad->vnet_hdr, "a", 0);
    for (unsigned i = 0; i < bad->count; i++) {
        add_word(a, bad->words[i]);
    }
    seen_init(&s, bad->vnet_hdr);
    /* All but the last byte show nothing yet */
    g_assert_true(colo_stream_reader_feed(s.r, a->data, a->len - 1, &err));
    g_assert_false(colo_stream_reader_feed(s.r, a->data + a->len - 1, 1,
                                           &err));
    g_assert_nonnull(strstr(error_get_pretty(err), bad->message));
    error_free(err);
    g_assert_cmpstr(s.log->str, ==, "p1:0=a ");

    /* Nothing more until a reset, everything after it */
    g_byte_array_set_size(a, 0);
    add_packet(a, bad->vnet_hdr, "b", 0);
    g_assert_false(colo_stream_reader_feed(s.r, a->data, a->len, &again));
    g_assert_nonnull(again);
    g_assert_cmpstr(s.log->str, ==, "p1:0=a ");
    colo_stream_reader_reset(s.r);
    colo_stream_reader_feed(s.r, a->data, a->len, &error_abort);
    g_assert_cmpstr(s.log->str, ==, "p1:0=a p1:0=b ");
    seen_end(&s);
}

static void test_reset_half(void)
{
    g_autoptr(GByteArray) a = g_byte_array_new();
    Seen s;

    add_cut(a, 1);
    add_packet(a, false, "abc", 0);
    for (size_t n = 0; n < a->len; n++) {
        seen_init(&s, false);
        colo_stream_reader_feed(s.r, a->data, n, &error_abort);
        colo_stream_reader_reset(s.r);
        g_string_truncate(s.log, 0);
        colo_stream_reader_feed(s.r, a->data, a->len, &error_abort);
        g_assert_cmpstr(s.log->str, ==, "c1 p3:0=abc ");
        seen_end(&s);
    }
}

/* The rest of the buffer belongs to the stream that is over */
static void test_reset_inside(void)
{
    static const char * const at[] = { "c1 ", "p3:0=abc " };
    g_autoptr(GByteArray) a = g_byte_array_new();

    add_cut(a, 1);
    add_packet(a, false, "abc", 0);
    add_cut(a, 2);
    for (int i = 0; i < ARRAY_SIZE(at); i++) {
        Seen s;

        seen_init(&s, false);
        s.reset_at = at[i];
        colo_stream_reader_feed(s.r, a->data, a->len, &error_abort);
        g_assert_true(g_str_has_suffix(s.log->str, at[i]));
        s.reset_at = NULL;
        g_string_truncate(s.log, 0);
        colo_stream_reader_feed(s.r, a->data, a->len, &error_abort);
        g_assert_cmpstr(s.log->str, ==, "c1 p3:0=abc c2 ");
        seen_end(&s);
    }
}

/*
 * A device that takes at most @step bytes at once, @budget in all, and then
 * fails for good or until there is more budget.
 */
#define TYPE_SLOW_CHARDEV "chardev-test-slow"
OBJECT_DECLARE_SIMPLE_TYPE(SlowChardev, SLOW_CHARDEV)

struct SlowChardev {
    Chardev parent_obj;
    GByteArray *out;
    size_t step;
    size_t budget;
    int error;                  /* errno of a write without budget */
    bool no_watch;
    unsigned writes;
};

static int slow_write(Chardev *chr, const uint8_t *buf, int len)
{
    SlowChardev *d = SLOW_CHARDEV(chr);
    size_t n = MIN(MIN(d->step, d->budget), len);

    d->writes++;
    if (!n) {
        errno = d->error;
        return -1;
    }
    d->budget -= n;
    g_byte_array_append(d->out, buf, n);
    return n;
}

static GSource *slow_add_watch(Chardev *chr, GIOCondition cond)
{
    return SLOW_CHARDEV(chr)->no_watch ? NULL : g_idle_source_new();
}

static void slow_class_init(ObjectClass *oc, void *data)
{
    ChardevClass *cc = CHARDEV_CLASS(oc);

    cc->chr_write = slow_write;
    cc->chr_add_watch = slow_add_watch;
}

static const TypeInfo slow_info = {
    .name = TYPE_SLOW_CHARDEV,
    .parent = TYPE_CHARDEV,
    .instance_size = sizeof(SlowChardev),
    .class_init = slow_class_init,
};

/* A writer on such a device */
typedef struct Slow {
    SlowChardev *dev;
    CharBackend be;
    ColoStreamWriter *w;
    unsigned drained;
} Slow;

static void slow_drained(void *opaque)
{
    Slow *s = opaque;

    s->drained++;
}

static void slow_init(Slow *s, bool vnet_hdr, size_t step, size_t budget)
{
    Chardev *chr = qemu_chardev_new(NULL, TYPE_SLOW_CHARDEV, NULL, NULL,
                                    &error_abort);

    *s = (Slow) { .dev = SLOW_CHARDEV(chr) };
    s->dev->out = g_byte_array_new();
    s->dev->step = step;
    s->dev->budget = budget;
    s->dev->error = EAGAIN;
    qemu_chr_fe_init(&s->be, chr, &error_abort);
    s->w = colo_stream_writer_new(&s->be, NULL, vnet_hdr, MAX_BYTES,
                                  slow_drained, s);
}

static void slow_end(Slow *s)
{
    g_byte_array_unref(s->dev->out);
    colo_stream_writer_free(s->w);
    qemu_chr_fe_deinit(&s->be, true);
}

static ColoStreamResult send_data(ColoStreamWriter *w, const void *data,
                                  size_t size)
{
    /* In two pieces: it is an iovec */
    struct iovec iov[2] = {
        { (void *)data, size / 2 },
        { (uint8_t *)data + size / 2, size - size / 2 },
    };

    return colo_stream_writer_packet(w, iov, 2, 0);
}

static ColoStreamResult send_str(ColoStreamWriter *w, const char *data)
{
    return send_data(w, data, strlen(data));
}

#define wait_for(condition) do {                                            \
        int64_t deadline = g_get_monotonic_time() + DEADLINE_US;            \
        while (!(condition)) {                                              \
            g_assert_cmpint(g_get_monotonic_time(), <, deadline);           \
            main_loop_wait(true);                                           \
        }                                                                   \
    } while (0)

static void test_format(const void *opaque)
{
    bool vnet_hdr = GPOINTER_TO_INT(opaque);
    struct iovec iov = { (void *)"abcd", 4 };
    g_autoptr(GByteArray) want = g_byte_array_new();
    Slow s;

    slow_init(&s, vnet_hdr, SIZE_MAX, SIZE_MAX);
    colo_stream_writer_packet(s.w, &iov, 1, 3);
    add_packet(want, vnet_hdr, "abcd", 3);
    colo_stream_writer_cut(s.w, 4294967298);
    add_cut(want, 4294967298);
    g_assert_cmpmem(s.dev->out->data, s.dev->out->len, want->data, want->len);
    g_assert_cmpuint(colo_stream_writer_queued_bytes(s.w), ==, 0);
    slow_end(&s);
}

/* A begin record is written as it is read, and not when the queue is full */
static void test_write_begin(void)
{
    g_autoptr(GByteArray) want = g_byte_array_new();
    g_autofree uint8_t *big = g_malloc0(MAX_BYTES);
    Slow s;

    slow_init(&s, true, SIZE_MAX, SIZE_MAX);
    colo_stream_writer_begin(s.w, NULL, 0, 0);
    colo_stream_writer_begin(s.w, (const uint8_t *)"abc", 3, 2);
    add_begin(want, "", 0);
    add_begin(want, "abc", 2);
    g_assert_cmpmem(s.dev->out->data, s.dev->out->len, want->data, want->len);

    s.dev->budget = 0;
    send_data(s.w, big, MAX_BYTES);
    g_assert_true(colo_stream_writer_full(s.w));
    colo_stream_writer_begin(s.w, (const uint8_t *)"abc", 3, 2);
    g_assert_cmpuint(colo_stream_writer_queued_bytes(s.w), ==, MAX_BYTES + 8);
    slow_end(&s);
}

/* A packet without the vnet header that its netdev has gets an empty one */
static void test_raw(void)
{
    static const uint8_t zero[12];
    NetClientState netdev = { .vnet_hdr_len = sizeof(zero) };
    struct iovec iov[2] = { { (void *)"ab", 2 }, { (void *)"cd", 2 } };
    g_autoptr(GByteArray) want = g_byte_array_new();
    g_autofree uint8_t *big = g_malloc0(NET_BUFSIZE + 1);
    Slow s;

    slow_init(&s, true, SIZE_MAX, SIZE_MAX);
    colo_stream_writer_netfilter(s.w, &netdev, QEMU_NET_PACKET_FLAG_RAW, iov,
                                 2);
    add_word(want, 16);
    add_word(want, 12);
    g_byte_array_append(want, zero, sizeof(zero));
    g_byte_array_append(want, (const uint8_t *)"abcd", 4);
    netdev.vnet_hdr_len = 2;
    colo_stream_writer_netfilter(s.w, &netdev, 0, iov, 2);
    add_packet(want, true, "abcd", 2);
    netdev.vnet_hdr_len = 0;
    colo_stream_writer_netfilter(s.w, &netdev, QEMU_NET_PACKET_FLAG_RAW, iov,
                                 2);
    add_packet(want, true, "abcd", 0);
    g_assert_cmpmem(s.dev->out->data, s.dev->out->len, want->data, want->len);

    /* Neither of these would be read */
    iov[0].iov_base = big;
    iov[0].iov_len = NET_BUFSIZE + 1;
    g_assert_cmpint(colo_stream_writer_netfilter(s.w, &netdev, 0, iov, 1), ==,
                    COLO_STREAM_BAD);
    g_assert_cmpint(colo_stream_writer_netfilter(s.w, &netdev, 0, iov, 0), ==,
                    COLO_STREAM_BAD);
    netdev.vnet_hdr_len = 12;
    iov[0].iov_len = 11;
    g_assert_cmpint(colo_stream_writer_netfilter(s.w, &netdev, 0, iov, 1), ==,
                    COLO_STREAM_BAD);
    g_assert_cmpuint(s.dev->out->len, ==, want->len);
    slow_end(&s);
}

/* Records arrive whole, however little the device takes at once */
static void test_partial(void)
{
    for (size_t step = 1; step < 40; step++) {
        g_autoptr(GByteArray) want = g_byte_array_new();
        Slow s;

        slow_init(&s, false, step, 1);
        colo_stream_writer_cut(s.w, 5);
        add_cut(want, 5);
        for (int i = 0; i < 20; i++) {
            g_autofree char *text = g_strdup_printf("packet %d", i);

            g_assert_cmpint(send_str(s.w, text), ==, COLO_STREAM_OK);
            add_packet(want, false, text, 0);
            s.dev->budget += step;
            main_loop_wait(true);
        }
        s.dev->budget = SIZE_MAX;
        wait_for(!colo_stream_writer_queued_bytes(s.w));
        g_assert_cmpmem(s.dev->out->data, s.dev->out->len, want->data,
                        want->len);
        g_assert_cmpuint(s.drained, ==, 0);
        slow_end(&s);
    }
}

static void test_cork(void)
{
    Slow s;

    slow_init(&s, false, SIZE_MAX, SIZE_MAX);
    colo_stream_writer_cork(s.w);
    colo_stream_writer_cork(s.w);
    for (int i = 0; i < 100; i++) {
        send_str(s.w, "abc");
    }
    colo_stream_writer_uncork(s.w);
    g_assert_cmpuint(s.dev->writes, ==, 0);
    g_assert_cmpuint(colo_stream_writer_queued_bytes(s.w), ==, 700);
    colo_stream_writer_uncork(s.w);
    g_assert_cmpuint(s.dev->writes, ==, 1);
    g_assert_cmpuint(s.dev->out->len, ==, 700);
    send_str(s.w, "abc");
    g_assert_cmpuint(s.dev->writes, ==, 2);
    slow_end(&s);
}

/* A full writer that fills while it is corked says so when it is uncorked */
static void test_cork_full(void)
{
    g_autofree uint8_t *data = g_malloc0(1000);
    unsigned n = 0;
    Slow s;

    slow_init(&s, false, SIZE_MAX, SIZE_MAX);
    colo_stream_writer_cork(s.w);
    while (send_data(s.w, data, 1000) == COLO_STREAM_OK) {
        n++;
    }
    g_assert_cmpuint(n, ==, DIV_ROUND_UP(MAX_BYTES, 1004));
    g_assert_cmpuint(s.drained, ==, 0);
    colo_stream_writer_uncork(s.w);
    g_assert_cmpuint(s.drained, ==, 1);
    g_assert_false(colo_stream_writer_full(s.w));
    slow_end(&s);
}

static void test_hard_limit(void)
{
    g_autofree uint8_t *data = g_malloc0(1020);
    unsigned n = 0;
    Slow s;

    slow_init(&s, false, SIZE_MAX, 0);
    colo_stream_writer_set_hard_limit(s.w, 4 * MAX_BYTES);
    while (send_data(s.w, data, 1020) == COLO_STREAM_OK) {
        n++;
        g_assert(colo_stream_writer_full(s.w) == (n * 1024 >= MAX_BYTES));
    }
    g_assert_cmpuint(n * 1024, ==, 4 * MAX_BYTES);
    /* Room is when it is full no more, not when it takes a packet */
    s.dev->budget = 3 * MAX_BYTES;
    wait_for(colo_stream_writer_queued_bytes(s.w) == MAX_BYTES);
    g_assert_cmpuint(s.drained, ==, 0);
    s.dev->budget = 1;
    wait_for(s.drained);
    g_assert_cmpuint(s.drained, ==, 1);
    slow_end(&s);
}

/* Cuts are written even then, but take the place of each other */
static void test_cuts_do_not_pile_up(void)
{
    g_autofree uint8_t *data = g_malloc0(1000);
    uint64_t full;
    unsigned n = 0;
    Seen seen;
    Slow s;

    slow_init(&s, false, SIZE_MAX, 0);
    while (send_data(s.w, data, 1000) == COLO_STREAM_OK) {
        n++;
    }
    full = colo_stream_writer_queued_bytes(s.w);
    for (uint64_t epoch = 1; epoch <= 1000; epoch++) {
        colo_stream_writer_cut(s.w, epoch);
    }
    g_assert_cmpuint(colo_stream_writer_queued_bytes(s.w), ==, full + 12);

    /* Not one that the device has half of */
    s.dev->budget = full + 5;
    wait_for(s.dev->out->len == full + 5);
    colo_stream_writer_cut(s.w, 1001);
    s.dev->budget = SIZE_MAX;
    wait_for(!colo_stream_writer_queued_bytes(s.w));
    /* Nor one with a packet behind it, or that is gone */
    s.dev->budget = 0;
    colo_stream_writer_cut(s.w, 1002);
    send_str(s.w, "x");
    colo_stream_writer_cut(s.w, 1003);
    s.dev->budget = SIZE_MAX;
    wait_for(!colo_stream_writer_queued_bytes(s.w));

    seen_init(&seen, false);
    colo_stream_reader_feed(seen.r, s.dev->out->data, s.dev->out->len,
                            &error_abort);
    g_assert_cmpuint(seen.packets, ==, n + 1);
    g_assert_cmpstr(seen.log->str, ==, "c1000 c1001 c1002 p1:0=x c1003 ");
    seen_end(&seen);
    slow_end(&s);
}

/* A device that fails without saying that it closes is as good as closed */
static void test_error(const void *opaque)
{
    bool no_watch = GPOINTER_TO_INT(opaque);
    unsigned writes;
    Slow s;

    slow_init(&s, false, SIZE_MAX, 3);
    s.dev->error = no_watch ? EAGAIN : EIO;
    s.dev->no_watch = no_watch;
    colo_stream_writer_cut(s.w, 9);
    g_assert_false(colo_stream_writer_connected(s.w));
    g_assert_cmpuint(colo_stream_writer_queued_bytes(s.w), ==, 0);
    writes = s.dev->writes;
    g_assert_cmpint(send_str(s.w, "abc"), ==, COLO_STREAM_CLOSED);
    for (int i = 0; i < 10; i++) {
        main_loop_wait(true);
    }
    g_assert_cmpuint(s.dev->writes, ==, writes);

    s.dev->budget = SIZE_MAX;
    g_byte_array_set_size(s.dev->out, 0);
    colo_stream_writer_opened(s.w);
    g_assert_cmpuint(s.dev->out->len, ==, 12);
    g_assert_cmpint(send_str(s.w, "abc"), ==, COLO_STREAM_OK);
    slow_end(&s);
}

/* A writer on a socket on which this test listens at the other end */
typedef struct Sock {
    Chardev *chr;
    CharBackend be;
    ColoStreamWriter *w;
    char *dir;
    char *path;
    int fd;
    unsigned opened;
    unsigned closed;
    unsigned drained;
    Seen seen;
} Sock;

static int sock_can_read(void *opaque)
{
    return 4096;
}

static void sock_read(void *opaque, const uint8_t *buf, int size)
{
}

static void sock_event(void *opaque, QEMUChrEvent event)
{
    Sock *s = opaque;

    if (event == CHR_EVENT_OPENED) {
        s->opened++;
        colo_stream_writer_opened(s->w);
    } else if (event == CHR_EVENT_CLOSED) {
        s->closed++;
        colo_stream_writer_closed(s->w);
    }
}

static void sock_drained(void *opaque)
{
    Sock *s = opaque;

    s->drained++;
}

static void sock_connect(Sock *s)
{
    unsigned opened = s->opened;

    s->fd = unix_connect(s->path, &error_abort);
    qemu_socket_set_nonblock(s->fd);
    wait_for(s->opened > opened);
}

static void sock_disconnect(Sock *s)
{
    unsigned closed = s->closed;

    close(s->fd);
    s->fd = -1;
    wait_for(s->closed > closed);
    colo_stream_reader_reset(s->seen.r);
    g_string_truncate(s->seen.log, 0);
    s->seen.packets = 0;
}

/* Read and decode what is there.  False if there was nothing. */
static bool sock_drain(Sock *s)
{
    uint8_t buf[4096];
    ssize_t n = recv(s->fd, buf, sizeof(buf), 0);

    if (n < 0) {
        g_assert_cmpint(errno, ==, EAGAIN);
        return false;
    }
    g_assert_cmpint(n, >, 0);
    colo_stream_reader_feed(s->seen.r, buf, n, &error_abort);
    return true;
}

static void sock_init(Sock *s)
{
    g_autofree char *name = NULL;

    *s = (Sock) { .fd = -1 };
    s->dir = g_dir_make_tmp("colo-stream-XXXXXX", NULL);
    g_assert_nonnull(s->dir);
    s->path = g_build_filename(s->dir, "sock", NULL);
    name = g_strdup_printf("unix:%s,server=on,wait=off", s->path);
    s->chr = qemu_chr_new("sock0", name, NULL);
    g_assert_nonnull(s->chr);
    g_assert_true(colo_stream_take_chardev(&s->be, "filter-test", "outdev",
                                           "sock0", &error_abort));
    s->w = colo_stream_writer_new(&s->be, NULL, false, MAX_BYTES,
                                  sock_drained, s);
    qemu_chr_fe_set_handlers(&s->be, sock_can_read, sock_read, sock_event,
                             NULL, s, NULL, true);
    seen_init(&s->seen, false);
}

static void sock_end(Sock *s)
{
    if (s->fd >= 0) {
        close(s->fd);
    }
    qemu_chr_fe_deinit(&s->be, false);
    colo_stream_writer_free(s->w);
    object_unparent(OBJECT(s->chr));
    seen_end(&s->seen);
    unlink(s->path);
    rmdir(s->dir);
    g_free(s->path);
    g_free(s->dir);
}

/* Fill it with packets of no special size.  Returns how many it took. */
static unsigned sock_fill(Sock *s)
{
    g_autofree uint8_t *data = g_malloc0(1500);
    unsigned n = 0;

    while (send_data(s->w, data, 1400 + n % 100) == COLO_STREAM_OK) {
        n++;
    }
    return n;
}

static void test_full_and_drain(void)
{
    unsigned n;
    Sock s;

    sock_init(&s);
    g_assert_false(colo_stream_writer_connected(s.w));
    sock_connect(&s);
    g_assert_true(colo_stream_writer_connected(s.w));
    for (int round = 1; round <= 3; round++) {
        s.seen.packets = 0;
        n = sock_fill(&s);
        g_assert_true(colo_stream_writer_full(s.w));
        g_assert_cmpuint(colo_stream_writer_queued_bytes(s.w), >=, MAX_BYTES);
        g_assert_cmpuint(colo_stream_writer_queued_bytes(s.w), <,
                         MAX_BYTES + 1504);
        g_assert_cmpuint(s.drained, ==, round - 1);
        wait_for((sock_drain(&s), s.seen.packets == n));
        g_assert_cmpuint(s.drained, ==, round);
        g_assert_cmpuint(colo_stream_writer_queued_bytes(s.w), ==, 0);
    }
    sock_end(&s);
}

/* What is queued and half written goes with the connection */
static void test_reopen(void)
{
    Sock s;

    sock_init(&s);
    g_assert_cmpint(send_str(s.w, "lost"), ==, COLO_STREAM_CLOSED);
    colo_stream_writer_cut(s.w, 41);
    sock_connect(&s);
    wait_for(sock_drain(&s));
    g_assert_cmpstr(s.seen.log->str, ==, "c41 ");

    sock_fill(&s);
    colo_stream_writer_cut(s.w, 42);
    sock_disconnect(&s);
    g_assert_cmpuint(s.drained, ==, 1);
    g_assert_cmpuint(colo_stream_writer_queued_bytes(s.w), ==, 0);
    g_assert_cmpint(send_str(s.w, "lost"), ==, COLO_STREAM_CLOSED);

    sock_connect(&s);
    send_str(s.w, "new");
    wait_for((sock_drain(&s), s.seen.packets));
    g_assert_cmpstr(s.seen.log->str, ==, "c42 p3:0=new ");

    colo_stream_writer_forget_epoch(s.w);
    sock_disconnect(&s);
    sock_connect(&s);
    send_str(s.w, "plain");
    wait_for((sock_drain(&s), s.seen.packets));
    g_assert_cmpstr(s.seen.log->str, ==, "p5:0=plain ");
    sock_end(&s);
}

/* The end of a writer with a full queue and a watch */
static void test_free_full(void)
{
    Sock s;

    sock_init(&s);
    sock_connect(&s);
    sock_fill(&s);
    sock_end(&s);
    for (int i = 0; i < 10; i++) {
        main_loop_wait(true);
    }
}

static void test_take_chardev(void)
{
    CharBackend other = { };
    Error *err = NULL;
    Sock s;

    g_assert_false(colo_stream_take_chardev(&other, "filter-test", "outdev",
                                            "nosuch", &err));
    g_assert_cmpstr(error_get_pretty(err), ==, "filter-test: Parameter "
                    "'outdev': there is no chardev 'nosuch'");
    error_free(err);
    err = NULL;
    sock_init(&s);
    g_assert_false(colo_stream_take_chardev(&other, "filter-test", "indev",
                                            "sock0", &err));
    g_assert_cmpstr(error_get_pretty(err), ==, "filter-test: Parameter "
                    "'indev': chardev 'sock0' is already in use");
    error_free(err);
    sock_end(&s);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    qemu_init_main_loop(&error_abort);
    socket_init();
    module_call_init(MODULE_INIT_QOM);
    type_register_static(&slow_info);
    qemu_add_opts(&qemu_chardev_opts);
    g_test_init(&argc, &argv, NULL);

    g_test_add_data_func("/colo/stream/reader/splits", GINT_TO_POINTER(false),
                         test_splits);
    g_test_add_data_func("/colo/stream/reader/splits-vnet",
                         GINT_TO_POINTER(true), test_splits);
    g_test_add_data_func("/colo/stream/reader/begin", GINT_TO_POINTER(false),
                         test_begin);
    g_test_add_data_func("/colo/stream/reader/begin-vnet",
                         GINT_TO_POINTER(true), test_begin);
    g_test_add_func("/colo/stream/reader/begin-bad", test_begin_bad);
    g_test_add_func("/colo/stream/reader/largest", test_largest);
    for (int i = 0; i < ARRAY_SIZE(bad_streams); i++) {
        g_autofree char *name = g_strdup_printf("/colo/stream/reader/bad/%s",
                                                bad_streams[i].name);

        g_test_add_data_func(name, &bad_streams[i], test_bad);
    }
    g_test_add_func("/colo/stream/reader/reset-half", test_reset_half);
    g_test_add_func("/colo/stream/reader/reset-inside", test_reset_inside);
    g_test_add_data_func("/colo/stream/writer/format", GINT_TO_POINTER(false),
                         test_format);
    g_test_add_data_func("/colo/stream/writer/format-vnet",
                         GINT_TO_POINTER(true), test_format);
    g_test_add_func("/colo/stream/writer/begin", test_write_begin);
    g_test_add_func("/colo/stream/writer/raw", test_raw);
    g_test_add_func("/colo/stream/writer/partial", test_partial);
    g_test_add_func("/colo/stream/writer/cork", test_cork);
    g_test_add_func("/colo/stream/writer/cork-full", test_cork_full);
    g_test_add_func("/colo/stream/writer/hard-limit", test_hard_limit);
    g_test_add_func("/colo/stream/writer/cuts-do-not-pile-up",
                    test_cuts_do_not_pile_up);
    g_test_add_data_func("/colo/stream/writer/error", GINT_TO_POINTER(false),
                         test_error);
    g_test_add_data_func("/colo/stream/writer/error-no-watch",
                         GINT_TO_POINTER(true), test_error);
    g_test_add_func("/colo/stream/writer/full-and-drain",
                    test_full_and_drain);
    g_test_add_func("/colo/stream/writer/reopen", test_reopen);
    g_test_add_func("/colo/stream/writer/free-full", test_free_full);
    g_test_add_func("/colo/stream/take-chardev", test_take_chardev);
    return g_test_run();
}
