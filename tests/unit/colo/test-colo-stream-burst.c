/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: how many writes and allocations packets take.
 *
 * Proves: a packet that comes alone is written at once; those that follow it in
 * the same round of the main loop are written together at its end; what waits
 * is bounded; a record is not delayed and overtakes nothing; what was gathered
 * is not lost with the writer.  A reader leaves the room before a packet that
 * was asked for, so that it needs no second allocation.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qapi/error.h"
#include "chardev/char.h"
#include "chardev/char-fe.h"
#include "net/colo/stream.h"

#define MAX_BYTES       (1024 * 1024)
#define BURST_BYTES     65536
#define WORD            4
#define CUT             0x80000001U
#define CUT_LEN         12

/* A device that takes all, and counts how often it was asked to */
#define TYPE_COUNTING_CHARDEV "chardev-counting"
OBJECT_DECLARE_SIMPLE_TYPE(CountingChardev, COUNTING_CHARDEV)

struct CountingChardev {
    Chardev parent;
    GByteArray *out;
    unsigned writes;
};

static int counting_write(Chardev *chr, const uint8_t *buf, int len)
{
    CountingChardev *c = COUNTING_CHARDEV(chr);

    c->writes++;
    g_byte_array_append(c->out, buf, len);
    return len;
}

static void counting_class_init(ObjectClass *oc, void *data)
{
    CHARDEV_CLASS(oc)->chr_write = counting_write;
}

static const TypeInfo counting_info = {
    .name = TYPE_COUNTING_CHARDEV,
    .parent = TYPE_CHARDEV,
    .instance_size = sizeof(CountingChardev),
    .class_init = counting_class_init,
};

typedef struct Burst {
    CountingChardev *dev;
    CharBackend be;
    ColoStreamWriter *w;
} Burst;

static void burst_init(Burst *b)
{
    Chardev *chr = qemu_chardev_new(NULL, TYPE_COUNTING_CHARDEV, NULL, NULL,
                                    &error_abort);

    *b = (Burst) { .dev = COUNTING_CHARDEV(chr) };
    b->dev->out = g_byte_array_new();
    qemu_chr_fe_init(&b->be, chr, &error_abort);
    b->w = colo_stream_writer_new(&b->be, NULL, false, MAX_BYTES, NULL, NULL);
    colo_stream_writer_gather(b->w, qemu_get_aio_context());
}

static void burst_end(Burst *b)
{
    g_byte_array_unref(b->dev->out);
    colo_stream_writer_free(b->w);
    qemu_chr_fe_deinit(&b->be, true);
}

static void send_packet(Burst *b, uint8_t fill, size_t size)
{
    g_autofree uint8_t *data = g_malloc(size);
    struct iovec iov = { data, size };

    memset(data, fill, size);
    g_assert_cmpint(colo_stream_writer_packet(b->w, &iov, 1, 0), ==,
                    COLO_STREAM_OK);
}

/* Rounds of the main loop until all that is scheduled was done */
static void end_round(void)
{
    while (aio_poll(qemu_get_aio_context(), false)) {
        /* nothing */
    }
}

/* Are the packets @from to @to of @size bytes in the stream from @at on? */
static size_t check_packets(Burst *b, size_t at, uint8_t from, uint8_t to,
                            size_t size)
{
    const uint8_t *out = b->dev->out->data;

    for (unsigned n = from; n <= to; n++) {
        g_assert_cmpuint(at + WORD + size, <=, b->dev->out->len);
        g_assert_cmpuint(ldl_be_p(out + at), ==, size);
        g_assert_cmpuint(out[at + WORD], ==, n);
        g_assert_cmpuint(out[at + WORD + size - 1], ==, n);
        at += WORD + size;
    }
    return at;
}

static void test_alone(void)
{
    Burst b;

    burst_init(&b);
    for (int n = 1; n <= 3; n++) {
        send_packet(&b, n, 100);
        g_assert_cmpuint(b.dev->writes, ==, n);
        g_assert_cmpuint(check_packets(&b, 0, 1, n, 100), ==, b.dev->out->len);
        end_round();
        g_assert_cmpuint(b.dev->writes, ==, n);
    }
    burst_end(&b);
}

static void test_together(void)
{
    Burst b;

    burst_init(&b);
    for (int n = 1; n <= 40; n++) {
        send_packet(&b, n, 100);
    }
    g_assert_cmpuint(b.dev->writes, ==, 1);
    end_round();
    g_assert_cmpuint(b.dev->writes, ==, 2);
    g_assert_cmpuint(check_packets(&b, 0, 1, 40, 100), ==, b.dev->out->len);
    /* The burst is over */
    send_packet(&b, 41, 100);
    g_assert_cmpuint(b.dev->writes, ==, 3);
    burst_end(&b);
}

static void test_bounded(void)
{
    size_t all = 0;
    Burst b;

    burst_init(&b);
    for (int n = 1; n <= 200; n++) {
        send_packet(&b, n, 1500);
        all += WORD + 1500;
        g_assert_cmpuint(all - b.dev->out->len, <, BURST_BYTES);
    }
    g_assert_cmpuint(b.dev->writes, <=, 2 + all / BURST_BYTES);
    end_round();
    g_assert_cmpuint(check_packets(&b, 0, 1, 200, 1500), ==, b.dev->out->len);
    burst_end(&b);
}

static void test_record(void)
{
    Burst b;
    size_t at;

    burst_init(&b);
    send_packet(&b, 1, 100);
    send_packet(&b, 2, 100);
    colo_stream_writer_cut(b.w, 7);
    g_assert_cmpuint(b.dev->writes, ==, 2);
    at = check_packets(&b, 0, 1, 2, 100);
    g_assert_cmpuint(b.dev->out->len, ==, at + CUT_LEN);
    g_assert_cmphex((uint32_t)ldl_be_p(b.dev->out->data + at), ==, CUT);
    /* What comes behind it belongs to the burst still */
    send_packet(&b, 3, 100);
    g_assert_cmpuint(b.dev->writes, ==, 2);
    end_round();
    g_assert_cmpuint(b.dev->writes, ==, 3);
    check_packets(&b, at + CUT_LEN, 3, 3, 100);
    burst_end(&b);
}

static void test_corked(void)
{
    Burst b;

    burst_init(&b);
    colo_stream_writer_cork(b.w);
    send_packet(&b, 1, 100);
    send_packet(&b, 2, 100);
    g_assert_cmpuint(b.dev->writes, ==, 0);
    colo_stream_writer_uncork(b.w);
    g_assert_cmpuint(b.dev->writes, ==, 1);
    g_assert_cmpuint(check_packets(&b, 0, 1, 2, 100), ==, b.dev->out->len);
    burst_end(&b);
}

static void test_end(void)
{
    Burst b;

    burst_init(&b);
    send_packet(&b, 1, 100);
    send_packet(&b, 2, 100);
    g_assert_cmpuint(b.dev->writes, ==, 1);
    colo_stream_writer_end_burst(b.w);
    g_assert_cmpuint(b.dev->writes, ==, 2);
    g_assert_cmpuint(check_packets(&b, 0, 1, 2, 100), ==, b.dev->out->len);
    burst_end(&b);
    end_round();
}

/* What was gathered belonged to a connection that is gone */
static void test_closed(void)
{
    Burst b;

    burst_init(&b);
    send_packet(&b, 1, 100);
    send_packet(&b, 2, 100);
    colo_stream_writer_closed(b.w);
    end_round();
    g_assert_cmpuint(b.dev->writes, ==, 1);
    colo_stream_writer_opened(b.w);
    send_packet(&b, 3, 100);
    g_assert_cmpuint(b.dev->writes, ==, 2);
    check_packets(&b, WORD + 100, 3, 3, 100);
    burst_end(&b);
}

#define ROOM 40

/* The room may be written to, and is where the allocation begins */
static void room_packet(void *opaque, uint8_t *data, uint32_t size,
                        uint32_t vnet_hdr_len)
{
    GString *seen = opaque;

    memset(data - ROOM, 0xee, ROOM);
    g_string_append_len(seen, (char *)data, size);
    g_free(data - ROOM);
}

static void room_cut(void *opaque, uint64_t epoch)
{
    g_assert_not_reached();
}

static void test_room(void)
{
    static const ColoStreamReaderOps ops = {
        .room = ROOM,
        .packet = room_packet,
        .cut = room_cut,
    };
    static const uint8_t stream[] = "\0\0\0\3abc\0\0\0\2de\0\0\0\5fghij";
    g_autoptr(GString) seen = g_string_new(NULL);
    ColoStreamReader *r = colo_stream_reader_new(false, &ops, seen);

    /* All at once, and byte by byte */
    g_assert_true(colo_stream_reader_feed(r, stream, sizeof(stream) - 1,
                                          &error_abort));
    for (size_t i = 0; i < sizeof(stream) - 1; i++) {
        g_assert_true(colo_stream_reader_feed(r, stream + i, 1, &error_abort));
    }
    /* What is under way is freed as well */
    g_assert_true(colo_stream_reader_feed(r, stream, 5, &error_abort));
    colo_stream_reader_free(r);
    g_assert_cmpstr(seen->str, ==, "abcdefghijabcdefghij");
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_abort);
    module_call_init(MODULE_INIT_QOM);
    type_register_static(&counting_info);

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/stream/burst/alone", test_alone);
    g_test_add_func("/colo/stream/burst/together", test_together);
    g_test_add_func("/colo/stream/burst/bounded", test_bounded);
    g_test_add_func("/colo/stream/burst/record", test_record);
    g_test_add_func("/colo/stream/burst/corked", test_corked);
    g_test_add_func("/colo/stream/burst/end", test_end);
    g_test_add_func("/colo/stream/burst/closed", test_closed);
    g_test_add_func("/colo/stream/room", test_room);
    return g_test_run();
}
