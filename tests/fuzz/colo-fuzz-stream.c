/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: the streams of packets, reader and writer.
 *
 * The first byte of the input says which of the two is looked at.
 *
 * Reader: the rest is a stream.  It is read whole, and once more in pieces
 * whose lengths follow from the input.  What comes out must be the same, the
 * error included, and there is one if the format says so.  Nothing that is
 * handed out is larger than a packet may be, and what a hello record says is
 * held against what is expected here.
 *
 * Writer: the rest is a list of operations on a writer in front of a device
 * that takes as much as the input says, or fails, or is closed.  A reader gets
 * what the device has taken: it must find all that was accepted, in its order,
 * and nothing else.  Only a cut that another one followed at once may be
 * missing.
 *
 * The character device, and the bottom half in which a burst ends, are models
 * in this file.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qapi/error.h"
#include "chardev/char-socket.h"
#include "net/colo/stream.h"
#include "colo-fuzz.h"

#define MAX_QUEUE       2048
#define HARD_LIMIT      (2 * MAX_QUEUE)
#define MAX_PACKET      1500

enum {
    MODE_WRITER = 1,
    MODE_VNET_HDR = 2,
    MODE_BEGIN = 4,
    MODE_HELLO = 8,
    MODE_REFUSE = 16,           /* reader: hello() refuses the second record */
    MODE_RESET = 32,            /* reader: packet() resets it, now and then */
    MODE_GATHER = 32,           /* writer */
    MODE_HARD_LIMIT = 64,       /* writer */
    MODE_MAC = 128,             /* writer */
};

#define CHECK(cond) do {        \
        if (!(cond)) {          \
            abort();            \
        }                       \
    } while (0)

typedef struct Input {
    const uint8_t *data;
    size_t size;
} Input;

static uint32_t take(Input *in, unsigned bytes)
{
    uint32_t n = 0;

    while (bytes--) {
        n = n << 8 | (in->size ? *in->data : 0);
        in->data += !!in->size;
        in->size -= !!in->size;
    }
    return n;
}

/* What is read, as bytes: a letter and all that was handed out */

typedef struct Seen {
    unsigned mode;
    ColoStreamReader *r;
    GByteArray *log;
    unsigned hellos, packets;
    bool refused;
} Seen;

static void log_number(GByteArray *log, uint64_t n)
{
    g_byte_array_append(log, (const uint8_t *)&n, sizeof(n));
}

static void log_packet(GByteArray *log, char what, const uint8_t *data,
                       uint32_t size, uint32_t vnet_hdr_len)
{
    log_number(log, what);
    log_number(log, size);
    log_number(log, vnet_hdr_len);
    if (size) {
        g_byte_array_append(log, data, size);
    }
}

static void log_cut(GByteArray *log, uint64_t epoch)
{
    log_number(log, 'c');
    log_number(log, epoch);
}

static void log_hello(GByteArray *log, const ColoStreamHello *hello)
{
    log_number(log, 'h');
    log_number(log, hello->kind);
    log_number(log, hello->vnet_hdr);
    log_number(log, hello->vnet_hdr_len);
    log_number(log, hello->has_mac);
    g_byte_array_append(log, (const uint8_t *)hello->netdev,
                        strlen(hello->netdev) + 1);
    if (hello->has_mac) {
        g_byte_array_append(log, hello->mac.a, sizeof(hello->mac.a));
    }
    log_number(log, hello->has_session);
    if (hello->has_session) {
        g_byte_array_append(log, hello->session.data,
                            sizeof(hello->session.data));
    }
}

static void seen_packet(void *opaque, uint8_t *data, uint32_t size,
                        uint32_t vnet_hdr_len)
{
    Seen *s = opaque;

    CHECK(!s->refused);
    CHECK(size > 0 && size <= NET_BUFSIZE && vnet_hdr_len <= size);
    CHECK((s->mode & MODE_VNET_HDR) || vnet_hdr_len == 0);
    log_packet(s->log, 'p', data, size, vnet_hdr_len);
    g_free(data);
    if (!(s->mode & MODE_WRITER) && (s->mode & MODE_RESET) &&
        ++s->packets % 3 == 0) {
        colo_stream_reader_reset(s->r);
    }
}

static void seen_cut(void *opaque, uint64_t epoch)
{
    Seen *s = opaque;

    CHECK(!s->refused);
    log_cut(s->log, epoch);
}

static void seen_begin(void *opaque, uint8_t *data, uint32_t size,
                       uint32_t vnet_hdr_len)
{
    Seen *s = opaque;

    CHECK(!s->refused);
    CHECK(size <= NET_BUFSIZE && vnet_hdr_len <= size);
    CHECK(!data == !size);
    log_packet(s->log, 'b', data, size, vnet_hdr_len);
    g_free(data);
}

/* Whatever @hello says, the answer is the one that follows from the rules */
static void check_expected(const ColoStreamHello *hello,
                           const ColoStreamExpected *expected)
{
    const NetClientState *netdev = expected->netdev;
    bool same_stream =
        (!expected->kind || hello->kind == expected->kind) &&
        hello->vnet_hdr == expected->vnet_hdr;
    bool fits = same_stream &&
        !(expected->parsed && hello->vnet_hdr_len && !hello->vnet_hdr) &&
        !(netdev && !hello->vnet_hdr_len != !netdev->vnet_hdr_len) &&
        !(expected->mac && hello->has_mac &&
          memcmp(&hello->mac, expected->mac, sizeof(hello->mac)));
    bool fatal = false;
    Error *err = NULL;

    CHECK(colo_stream_hello_check(hello, expected, &fatal, &err) == fits);
    CHECK(!err == fits);
    CHECK(fits || fatal == !same_stream);
    error_free(err);
}

static void check_hello(const ColoStreamHello *hello, unsigned mode)
{
    static const MACAddr macs[] = {
        { { 0x52, 0x54, 0, 0x12, 0x34, 0x56 } }, { { 0 } },
    };
    static NetClientState with_header = {
        .name = (char *)"here", .vnet_hdr_len = 12,
    };
    static NetClientState without_header = { .name = (char *)"plain" };
    ColoStreamExpected expected = { .vnet_hdr = mode & MODE_VNET_HDR };

    for (int i = 0; i < COLO_STREAM__MAX * 18; i++) {
        expected.kind = i % COLO_STREAM__MAX;
        expected.netdev = i / 4 % 3 == 0 ? NULL :
                          i / 4 % 3 == 1 ? &with_header : &without_header;
        expected.mac = i / 12 % 3 ? &macs[i / 12 % 3 - 1] : NULL;
        expected.parsed = i / 36;
        check_expected(hello, &expected);
    }
}

static bool seen_hello(void *opaque, const ColoStreamHello *hello)
{
    Seen *s = opaque;

    CHECK(hello->kind < COLO_STREAM__MAX);
    CHECK(memchr(hello->netdev, 0, sizeof(hello->netdev)));
    for (const char *c = hello->netdev; *c; c++) {
        CHECK(g_ascii_isprint(*c));
    }
    check_hello(hello, s->mode);
    log_hello(s->log, hello);
    /* Nothing is read behind what was refused */
    CHECK(!s->refused);
    s->refused = !(s->mode & MODE_WRITER) && (s->mode & MODE_REFUSE) &&
                 ++s->hellos == 2;
    return !s->refused;
}

static const ColoStreamReaderOps seen_ops[] = {
    { .packet = seen_packet, .cut = seen_cut },
    { .packet = seen_packet, .cut = seen_cut, .begin = seen_begin },
    { .packet = seen_packet, .cut = seen_cut, .hello = seen_hello },
    { .packet = seen_packet, .cut = seen_cut, .begin = seen_begin,
      .hello = seen_hello },
};

static void seen_init(Seen *s, unsigned mode)
{
    *s = (Seen) { .mode = mode, .log = g_byte_array_new() };
    s->r = colo_stream_reader_new(mode & MODE_VNET_HDR,
                                  &seen_ops[mode / MODE_BEGIN & 3], s);
}

static void seen_cleanup(Seen *s)
{
    colo_stream_reader_free(s->r);
    g_byte_array_unref(s->log);
}

/* Reader */

/* Is it the body of a hello record that a reader takes? */
static bool is_hello(const uint8_t *body, uint32_t len)
{
    uint32_t more = (body[3] & 2 ? 6 : 0) + (body[3] & 4 ? 16 : 0);

    return lduw_be_p(body) == 1 && len >= 8 + more;
}

/*
 * Is there something wrong in the stream, as far as it goes?  The format, once
 * more, for a whole stream in memory.
 */
static bool is_wrong(unsigned mode, const uint8_t *data, size_t size)
{
    unsigned hellos = 0;

    while (size >= 4) {
        uint32_t word = ldl_be_p(data);
        bool begin = word == 0x80000002 && (mode & MODE_BEGIN);
        bool hello = word == 0x80000003 && (mode & MODE_HELLO);
        size_t header = begin || word == 0x80000001 ? 12 :
                        hello || (mode & MODE_VNET_HDR) ? 8 : 4;
        uint32_t len = 0, vnet = 0;

        if (!begin && !hello && word != 0x80000001 &&
            (word == 0 || word > NET_BUFSIZE)) {
            return true;
        }
        if (size < header) {
            return false;
        }
        if (word != 0x80000001) {
            len = begin || hello ? ldl_be_p(data + 4) : word;
            vnet = hello || header < 8 || (begin && !len) ? 0 :
                   ldl_be_p(data + header - 4);
        }
        if (vnet > len || (begin && len > NET_BUFSIZE) ||
            (hello && (len < 8 || len > 263))) {
            return true;
        }
        if (size - header < len) {
            return false;
        }
        if (hello && !is_hello(data + header, len)) {
            return true;
        }
        if (hello && (mode & MODE_REFUSE) && ++hellos == 2) {
            return false;
        }
        data += header + len;
        size -= header + len;
    }
    return false;
}

/*
 * False if something is wrong.  @pieces: where the lengths of the pieces come
 * from; NULL: all at once.
 */
static bool read_all(Seen *s, const uint8_t *data, size_t size,
                     const uint8_t *pieces)
{
    Error *err = NULL;
    size_t n, at;

    for (at = 0; at < size; at += n) {
        n = pieces ? pieces[at] % 61 : size;
        n = n % 7 == 0 ? MIN(n, size - at) : MIN(1 + n % 7, size - at);
        if (!pieces) {
            n = size;
        }
        if (n == 0) {
            CHECK(colo_stream_reader_feed(s->r, data + at, 0, &err));
            n = 1;
        }
        if (!colo_stream_reader_feed(s->r, data + at, n, &err)) {
            const char *text = error_get_pretty(err);

            g_byte_array_append(s->log, (const uint8_t *)text, strlen(text));
            error_free(err);
            err = NULL;
            /* And it stays so */
            CHECK(!colo_stream_reader_feed(s->r, data, 1, &err));
            error_free(err);
            colo_stream_reader_reset(s->r);
            CHECK(colo_stream_reader_feed(s->r, data, MIN(size, 3),
                                          &error_abort));
            return false;
        }
        CHECK(!err);
    }
    return true;
}

static void fuzz_reader(unsigned mode, const uint8_t *data, size_t size)
{
    Seen whole, parts;
    bool good;

    seen_init(&whole, mode);
    good = read_all(&whole, data, size, NULL);
    seen_init(&parts, mode);
    read_all(&parts, data, size, data);
    /* After a reset the rest of a piece is not read, so pieces count */
    CHECK((mode & MODE_RESET) || good == !is_wrong(mode, data, size));
    CHECK((mode & MODE_RESET) ||
          (whole.log->len == parts.log->len &&
           (!whole.log->len ||
            !memcmp(whole.log->data, parts.log->data, whole.log->len))));
    seen_cleanup(&whole);
    seen_cleanup(&parts);
}

/* Writer: the device */

typedef struct Expected {
    bool cut;
    GByteArray *log;
} Expected;

typedef struct World {
    Input in;
    unsigned mode;
    CharBackend be;
    ColoStreamWriter *w;
    bool connected, fails;
    size_t room;                /* bytes that the device takes now */
    GSource *watch;
    FEWatchFunc watch_func;
    void *watch_opaque;
    Seen seen;
    GQueue expected;            /* what was accepted and not read yet */
    GByteArray *read_cut;       /* if that was read last, or NULL */

    /* What the writer has been told */
    bool has_epoch;
    uint64_t epoch;
    ColoStreamKind kind;
    bool introduced;
    NetClientState netdev;
    MACAddr mac;
    bool has_session;
    QemuUUID session;
} World;

static World *world;
static QEMUBHFunc *bh_func;
static void *bh_opaque;
static bool bh_scheduled;

Chardev *qemu_chr_find(const char *name)
{
    return NULL;
}

bool qemu_chr_fe_init(CharBackend *be, Chardev *chr, Error **errp)
{
    return true;
}

bool qemu_chr_fe_backend_open(CharBackend *be)
{
    return world->connected;
}

Object *object_dynamic_cast(Object *obj, const char *type)
{
    return NULL;
}

Object *object_dynamic_cast_assert(Object *obj, const char *type,
                                   const char *file, int line,
                                   const char *func)
{
    return obj;
}

void qio_channel_set_delay(QIOChannel *ioc, bool enabled)
{
}

QEMUBH *aio_bh_new_full(AioContext *ctx, QEMUBHFunc *cb, void *opaque,
                        const char *name, MemReentrancyGuard *guard)
{
    bh_func = cb;
    bh_opaque = opaque;
    return (QEMUBH *)&bh_func;
}

void qemu_bh_schedule(QEMUBH *bh)
{
    CHECK(bh == (QEMUBH *)&bh_func);
    bh_scheduled = true;
}

void qemu_bh_delete(QEMUBH *bh)
{
    bh_scheduled = false;
    bh_func = NULL;
}

/*
 * May it be missing?  A cut, if another one follows it, or is what was read in
 * its place.
 */
static bool may_be_missing(World *w, const Expected *e)
{
    Expected *next = g_queue_peek_head(&w->expected);

    return e->cut &&
           ((next && next->cut) ||
            (w->read_cut && !memcmp(e->log->data, w->read_cut->data,
                                    e->log->len)));
}

static void expected_free(Expected *e)
{
    g_byte_array_unref(e->log);
    g_free(e);
}

static void set_read_cut(World *w, GByteArray *log)
{
    g_clear_pointer(&w->read_cut, g_byte_array_unref);
    w->read_cut = log ? g_byte_array_ref(log) : NULL;
}

/* The head of what is expected must be what was read */
static void expect_seen(World *w)
{
    GByteArray *log = w->seen.log;
    guint at = 0;

    while (at < log->len) {
        Expected *e = g_queue_pop_head(&w->expected);

        CHECK(e);
        if (log->len - at >= e->log->len &&
            !memcmp(log->data + at, e->log->data, e->log->len)) {
            at += e->log->len;
            set_read_cut(w, e->cut ? e->log : NULL);
        } else {
            CHECK(may_be_missing(w, e));
        }
        expected_free(e);
    }
    g_byte_array_set_size(log, 0);
}

int qemu_chr_fe_write(CharBackend *be, const uint8_t *buf, int len)
{
    World *w = world;
    int n = MIN(w->room, len);

    CHECK(len > 0 && w->connected);
    if (n == 0) {
        errno = w->fails ? EPIPE : EAGAIN;
        return -1;
    }
    w->room -= n;
    CHECK(colo_stream_reader_feed(w->seen.r, buf, n, &error_abort));
    expect_seen(w);
    return n;
}

static void world_unwatch(World *w)
{
    if (w->watch) {
        g_source_destroy(w->watch);
        g_source_unref(w->watch);
        w->watch = NULL;
    }
}

/* The writer may have destroyed it */
static bool world_is_watched(World *w)
{
    if (w->watch && g_source_is_destroyed(w->watch)) {
        world_unwatch(w);
    }
    return w->watch;
}

guint qemu_chr_fe_add_watch(CharBackend *be, GIOCondition cond,
                            FEWatchFunc func, void *opaque)
{
    World *w = world;

    CHECK(!world_is_watched(w));
    w->watch_func = func;
    w->watch_opaque = opaque;
    w->watch = g_idle_source_new();
    return g_source_attach(w->watch, NULL);
}

/* The device takes @room bytes more, and says so */
static void world_writable(World *w, size_t room)
{
    FEWatchFunc func = w->watch_func;

    w->room = room;
    if (world_is_watched(w)) {
        world_unwatch(w);
        func(NULL, G_IO_OUT, w->watch_opaque);
    }
}

/* Writer: what has to come out */

static void expect(World *w, bool cut, GByteArray *log)
{
    Expected *e = g_new(Expected, 1);

    *e = (Expected) { .cut = cut, .log = log };
    g_queue_push_tail(&w->expected, e);
}

static void expect_nothing(World *w)
{
    Expected *e;

    while ((e = g_queue_pop_head(&w->expected))) {
        expected_free(e);
    }
    set_read_cut(w, NULL);
    colo_stream_reader_reset(w->seen.r);
}

static void expect_cut(World *w)
{
    GByteArray *log;

    if (w->kind && !w->introduced) {
        ColoStreamHello hello = {
            .kind = w->kind,
            .vnet_hdr = w->mode & MODE_VNET_HDR,
            .vnet_hdr_len = w->netdev.vnet_hdr_len,
            .has_mac = w->mode & MODE_MAC,
            .mac = w->mac,
            .has_session = w->has_session,
            .session = w->session,
        };
        size_t room = 255 - (hello.has_mac ? sizeof(hello.mac) : 0) -
                      (hello.has_session ? sizeof(hello.session) : 0);

        w->introduced = true;
        memcpy(hello.netdev, w->netdev.name,
               MIN(strlen(w->netdev.name), room));
        log = g_byte_array_new();
        log_hello(log, &hello);
        expect(w, false, log);
    }
    log = g_byte_array_new();
    log_cut(log, w->epoch);
    expect(w, true, log);
}

static void expect_packet(World *w, char what, const uint8_t *data,
                          uint32_t size, uint32_t vnet_hdr_len)
{
    GByteArray *log = g_byte_array_new();

    log_packet(log, what, data, size,
               w->mode & MODE_VNET_HDR || what == 'b' ? vnet_hdr_len : 0);
    expect(w, false, log);
}

static void world_drained(void *opaque)
{
    World *w = opaque;

    CHECK(colo_stream_writer_queued_bytes(w->w) < MAX_QUEUE);
}

/* Writer: operations */

static uint8_t *some_packet(World *w, uint32_t *size)
{
    uint8_t *data;
    uint8_t fill = take(&w->in, 1);

    *size = take(&w->in, 2);
    /* Some are of a length that no reader takes */
    if (*size > MAX_PACKET && (*size & 0xff)) {
        *size %= MAX_PACKET + 1;
    } else if (*size > MAX_PACKET) {
        *size += *size / 8;
    }
    data = g_malloc(*size + 1);
    for (uint32_t i = 0; i < *size; i++) {
        data[i] = fill + i * 7;
    }
    return data;
}

/*
 * What is accepted may be written at once, so it is expected before.  Returns
 * with the last one taken back if it was refused.
 */
static void check_result(World *w, ColoStreamResult result, size_t before,
                         bool good)
{
    bool over = before >= (w->mode & MODE_HARD_LIMIT ? HARD_LIMIT : MAX_QUEUE);

    if (result != COLO_STREAM_OK) {
        expected_free(g_queue_pop_tail(&w->expected));
    }
    switch (result) {
    case COLO_STREAM_OK:
        CHECK(good && !over);
        break;
    case COLO_STREAM_FULL:
        CHECK(good && over);
        break;
    case COLO_STREAM_BAD:
        CHECK(!good);
        break;
    case COLO_STREAM_CLOSED:
        break;
    }
}

static void do_packet(World *w)
{
    uint32_t size;
    g_autofree uint8_t *data = some_packet(w, &size);
    uint32_t cut = size ? take(&w->in, 1) % size : 0;
    uint32_t vnet = take(&w->in, 1);
    struct iovec iov[] = {
        { data, cut }, { data + cut, size - cut },
    };
    size_t before = colo_stream_writer_queued_bytes(w->w);

    if (!size || size > NET_BUFSIZE) {
        return;
    }
    vnet = MIN(vnet, size);
    expect_packet(w, 'p', data, size, vnet);
    check_result(w, colo_stream_writer_packet(w->w, iov, 2, vnet), before,
                 true);
}

static void do_netfilter(World *w)
{
    static const uint32_t lens[] = { 0, 10, 12, 20 };
    uint32_t size;
    g_autofree uint8_t *data = some_packet(w, &size);
    g_autofree uint8_t *with_hdr = NULL;
    uint8_t how = take(&w->in, 1);
    unsigned flags = how & 4 ? QEMU_NET_PACKET_FLAG_RAW : 0;
    struct iovec iov = { data, size };
    size_t before = colo_stream_writer_queued_bytes(w->w);
    uint32_t len;
    bool good;

    w->netdev.vnet_hdr_len = len = lens[how & 3];
    good = size && size + 20 <= NET_BUFSIZE && (flags || size >= len);
    if (flags && len) {
        with_hdr = g_malloc0(len + size);
        memcpy(with_hdr + len, data, size);
        expect_packet(w, 'p', with_hdr, len + size, len);
    } else {
        expect_packet(w, 'p', data, size, len);
    }
    CHECK(colo_stream_takes(&w->netdev, flags, size) == good);
    check_result(w, colo_stream_writer_netfilter(w->w, &w->netdev, flags,
                                                 &iov, 1), before, good);
}

static void do_begin(World *w)
{
    bool bare = take(&w->in, 1) & 1;
    uint32_t size;
    g_autofree uint8_t *data = some_packet(w, &size);
    size_t before = colo_stream_writer_queued_bytes(w->w);

    if (!(w->mode & MODE_BEGIN) || !size) {
        return;
    }
    if (colo_stream_writer_connected(w->w) && size <= NET_BUFSIZE &&
        before < MAX_QUEUE) {
        expect_packet(w, 'b', data, bare ? 0 : size, bare ? 0 : size / 2);
    }
    colo_stream_writer_begin(w->w, bare ? NULL : data, size, size / 2);
}

static void do_cut(World *w)
{
    uint64_t epoch = (uint64_t)take(&w->in, 1) << 56 | take(&w->in, 1);

    w->has_epoch = true;
    w->epoch = epoch;
    if (colo_stream_writer_connected(w->w)) {
        expect_cut(w);
    }
    colo_stream_writer_cut(w->w, epoch);
}

static void do_opened(World *w)
{
    expect_nothing(w);
    w->connected = true;
    w->fails = false;
    w->introduced = false;
    w->room = take(&w->in, 2);
    if (w->has_epoch) {
        expect_cut(w);
    }
    colo_stream_writer_opened(w->w);
}

static void do_closed(World *w)
{
    expect_nothing(w);
    w->connected = false;
    colo_stream_writer_closed(w->w);
    CHECK(!colo_stream_writer_queued_bytes(w->w));
}

static void do_introduce(World *w)
{
    static char longest[300];
    uint8_t how = take(&w->in, 1);

    if (!(w->mode & MODE_HELLO)) {
        return;
    }
    memset(longest, 'n', sizeof(longest) - 1);
    w->netdev.name = how & 4 ? longest : (char *)"net0";
    w->kind = 1 + how % (COLO_STREAM__MAX - 1);
    w->has_session = how & 8;
    w->session = (QemuUUID) { .data = { how, [15] = ~how } };
    colo_stream_writer_introduce(w->w, w->kind, &w->netdev,
                                 w->mode & MODE_MAC ? &w->mac : NULL,
                                 w->has_session ? &w->session : NULL);
}

static void run_bh(World *w)
{
    if (bh_scheduled) {
        bh_scheduled = false;
        bh_func(bh_opaque);
    }
}

static void step(World *w, unsigned *corked)
{
    uint8_t op = take(&w->in, 1);

    switch (op & 15) {
    case 0 ... 3:
        do_packet(w);
        break;
    case 4:
        do_netfilter(w);
        break;
    case 5:
        do_begin(w);
        break;
    case 6:
    case 7:
        do_cut(w);
        break;
    case 8:
    case 9:
        world_writable(w, take(&w->in, op & 16 ? 1 : 2));
        break;
    case 10:
        run_bh(w);
        break;
    case 11:
        (*corked)++;
        colo_stream_writer_cork(w->w);
        break;
    case 12:
        if (*corked) {
            (*corked)--;
            colo_stream_writer_uncork(w->w);
        }
        break;
    case 13:
        do_introduce(w);
        break;
    case 14:
        if (op & 16) {
            w->has_epoch = w->introduced = false;
            colo_stream_writer_forget_epoch(w->w);
        } else {
            w->fails = true;
        }
        break;
    default:
        if (op & 16) {
            do_closed(w);
        } else {
            do_opened(w);
        }
        break;
    }
    /* A device that fails ends the connection, without an event of ours */
    if (!colo_stream_writer_connected(w->w)) {
        expect_nothing(w);
        CHECK(!colo_stream_writer_queued_bytes(w->w));
    }
}

static void world_end(World *w, unsigned corked)
{
    Expected *e;

    while (corked--) {
        colo_stream_writer_uncork(w->w);
    }
    run_bh(w);
    for (int i = 0; i < 3 && colo_stream_writer_connected(w->w); i++) {
        w->fails = false;
        world_writable(w, SIZE_MAX / 2);
    }
    if (colo_stream_writer_connected(w->w)) {
        CHECK(!colo_stream_writer_queued_bytes(w->w));
        while ((e = g_queue_pop_head(&w->expected))) {
            CHECK(may_be_missing(w, e));
            expected_free(e);
        }
    }
}

static void fuzz_writer(unsigned mode, const uint8_t *data, size_t size)
{
    World w = {
        .in = { data, size }, .mode = mode, .connected = true,
        .netdev = { .name = (char *)"net0" },
        .mac = { { 0x52, 0x54, 0, 0x12, 0x34, 0x56 } },
    };
    unsigned corked = 0;

    world = &w;
    bh_scheduled = false;
    g_queue_init(&w.expected);
    seen_init(&w.seen, mode);
    w.w = colo_stream_writer_new(&w.be, NULL, mode & MODE_VNET_HDR, MAX_QUEUE,
                                 world_drained, &w);
    if (mode & MODE_HARD_LIMIT) {
        colo_stream_writer_set_hard_limit(w.w, HARD_LIMIT);
    }
    if (mode & MODE_GATHER) {
        colo_stream_writer_gather(w.w, NULL);
    }
    while (w.in.size) {
        step(&w, &corked);
    }
    world_end(&w, corked);
    colo_stream_writer_free(w.w);
    world_unwatch(&w);
    expect_nothing(&w);
    seen_cleanup(&w.seen);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned mode = size ? data[0] : 0;

    if (size < 2) {
        return 0;
    }
    if (mode & MODE_WRITER) {
        fuzz_writer(mode, data + 1, size - 1);
    } else {
        fuzz_reader(mode, data + 1, size - 1);
    }
    return 0;
}
