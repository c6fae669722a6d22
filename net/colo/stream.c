/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: packets and cut records on a character device.
 *
 * Both sides.  Reader and writer belong to the thread that made them, see
 * net/colo/stream.h.
 *
 * The writer gathers what it is given in one buffer and hands that to the
 * device in one call, as soon as a burst of packets is over.  What the device
 * does not take now goes when it says that it can take more.  A record is
 * written whole or, when the connection ends in its middle, not at all: the
 * next connection begins with a record.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "chardev/char-socket.h"
#include "net/net.h"
#include "net/queue.h"
#include "stream.h"
#include "standard-headers/linux/virtio_net.h"

#define CUT_RECORD      0x80000001U
#define BEGIN_RECORD    0x80000002U
#define HELLO_RECORD    0x80000003U
#define CONTROL_BIT     0x80000000U
#define WORD            4
#define CUT_LEN         12
#define BEGIN_HDR_LEN   12
#define PACKET_HDR_MAX  8
#define HELLO_HDR_LEN   8
/*
 * Behind that: version (2), kind (1), flags (1), vnet header (4), name, session
 * (16), MAC
 */
#define HELLO_MIN       8
#define HELLO_MAX       (HELLO_MIN + 255)
#define HELLO_VERSION   1
#define HELLO_VNET_HDR  0x01
#define HELLO_MAC       0x02
#define HELLO_SESSION   0x04
/* An empty queue does not keep more memory than this */
#define IDLE_BYTES      (256 * KiB)
/* Of a burst more than this is not gathered */
#define BURST_BYTES     (64 * KiB)

struct ColoStreamReader {
    const ColoStreamReaderOps *ops;
    void *opaque;
    bool vnet_hdr;

    uint8_t hdr[CUT_LEN];
    size_t hdr_len;             /* bytes of it that are here */
    uint8_t *packet;            /* under way, behind ops->room; or NULL */
    uint32_t size;
    uint32_t filled;
    uint32_t vnet_hdr_len;
    uint32_t record;            /* first word of a control record, or 0 */
    bool refused;               /* by hello(), until the next reset */
    bool broken;                /* until the next reset */
    unsigned resets;
};

ColoStreamReader *colo_stream_reader_new(bool vnet_hdr,
                                         const ColoStreamReaderOps *ops,
                                         void *opaque)
{
    ColoStreamReader *r = g_new0(ColoStreamReader, 1);

    r->vnet_hdr = vnet_hdr;
    r->ops = ops;
    r->opaque = opaque;
    return r;
}

void colo_stream_reader_reset(ColoStreamReader *r)
{
    g_clear_pointer(&r->packet, g_free);
    r->hdr_len = 0;
    r->broken = false;
    r->refused = false;
    r->resets++;
}

void colo_stream_reader_free(ColoStreamReader *r)
{
    if (r) {
        g_free(r->packet);
        g_free(r);
    }
}

/*
 * Length of the header, as far as what is here tells.  0 with @errp set if it
 * is none: the first word shows that, nobody waits for the rest.
 */
static size_t header_len(ColoStreamReader *r, Error **errp)
{
    uint32_t word;

    if (r->hdr_len < WORD) {
        return WORD;
    }
    word = ldl_be_p(r->hdr);
    if (word == CUT_RECORD) {
        return CUT_LEN;
    }
    if (word == BEGIN_RECORD && r->ops->begin) {
        return BEGIN_HDR_LEN;
    }
    if (word == HELLO_RECORD && r->ops->hello) {
        return HELLO_HDR_LEN;
    }
    if (word & CONTROL_BIT) {
        error_setg(errp, "unknown control record 0x%08" PRIx32, word);
        return 0;
    }
    if (word == 0 || word > NET_BUFSIZE) {
        error_setg(errp, "packet of %" PRIu32 " bytes, 1 to %d are allowed",
                   word, NET_BUFSIZE);
        return 0;
    }
    return r->vnet_hdr ? PACKET_HDR_MAX : WORD;
}

/* A header is complete.  False with @errp set if there is no such record. */
static bool read_header(ColoStreamReader *r, Error **errp)
{
    uint32_t word = ldl_be_p(r->hdr);

    r->hdr_len = 0;
    if (word == CUT_RECORD) {
        r->ops->cut(r->opaque, ldq_be_p(r->hdr + WORD));
        return true;
    }
    r->record = word & CONTROL_BIT ? word : 0;
    if (word == BEGIN_RECORD) {
        r->size = ldl_be_p(r->hdr + WORD);
        r->vnet_hdr_len = ldl_be_p(r->hdr + 2 * WORD);
    } else if (word == HELLO_RECORD) {
        r->size = ldl_be_p(r->hdr + WORD);
        r->vnet_hdr_len = 0;
    } else {
        r->size = word;
        r->vnet_hdr_len = r->vnet_hdr ? ldl_be_p(r->hdr + WORD) : 0;
    }
    if (word == HELLO_RECORD &&
        (r->size < HELLO_MIN || r->size > HELLO_MAX)) {
        error_setg(errp, "hello record of %" PRIu32 " bytes, %d to %d are "
                   "allowed", r->size, HELLO_MIN, HELLO_MAX);
        return false;
    }
    if (word == BEGIN_RECORD && r->size > NET_BUFSIZE) {
        error_setg(errp, "begin record of %" PRIu32 " bytes, at most %d are "
                   "allowed", r->size, NET_BUFSIZE);
        return false;
    }
    if (word == BEGIN_RECORD && !r->size) {
        r->ops->begin(r->opaque, NULL, 0, 0);
        return true;
    }
    if (r->vnet_hdr_len > r->size) {
        error_setg(errp, "packet of %" PRIu32 " bytes with a vnet header of %"
                   PRIu32, r->size, r->vnet_hdr_len);
        return false;
    }
    r->packet = g_malloc(r->ops->room + r->size);
    r->filled = 0;
    return true;
}

/* Its length was checked.  False with @errp set if it is of another version. */
static bool read_hello(ColoStreamReader *r, const uint8_t *data, uint32_t size,
                       Error **errp)
{
    ColoStreamHello hello = {
        .kind = data[2] < COLO_STREAM__MAX ? data[2] : COLO_STREAM_UNKNOWN,
        .vnet_hdr = data[3] & HELLO_VNET_HDR,
        .vnet_hdr_len = ldl_be_p(data + 4),
    };

    if (lduw_be_p(data) != HELLO_VERSION) {
        error_setg(errp, "streams of version %d, this is %d: the other end is "
                   "a QEMU with another COLO", lduw_be_p(data), HELLO_VERSION);
        return false;
    }
    if (data[3] & HELLO_MAC) {
        if (size < HELLO_MIN + sizeof(hello.mac)) {
            error_setg(errp, "hello record of %" PRIu32 " bytes with a MAC "
                       "address", size);
            return false;
        }
        size -= sizeof(hello.mac);
        hello.has_mac = true;
        memcpy(&hello.mac, data + size, sizeof(hello.mac));
    }
    if (data[3] & HELLO_SESSION) {
        if (size < HELLO_MIN + sizeof(hello.session)) {
            error_setg(errp, "hello record that is too short for its session");
            return false;
        }
        size -= sizeof(hello.session);
        hello.has_session = true;
        memcpy(&hello.session, data + size, sizeof(hello.session));
    }
    for (uint32_t i = HELLO_MIN; i < size; i++) {
        hello.netdev[i - HELLO_MIN] = g_ascii_isprint(data[i]) ? data[i] : '?';
    }
    r->refused = !r->ops->hello(r->opaque, &hello);
    return true;
}

/* Each returns how many bytes it took; 0 with @errp set */
static size_t feed_packet(ColoStreamReader *r, const uint8_t *buf, size_t size,
                          Error **errp)
{
    size_t n = MIN(r->size - r->filled, size);

    memcpy(r->packet + r->ops->room + r->filled, buf, n);
    r->filled += n;
    if (r->filled < r->size) {
        return n;
    }
    if (r->record == HELLO_RECORD) {
        g_autofree uint8_t *hello = g_steal_pointer(&r->packet);

        return read_hello(r, hello + r->ops->room, r->size, errp) ? n : 0;
    }
    (r->record == BEGIN_RECORD ? r->ops->begin : r->ops->packet)(
        r->opaque, g_steal_pointer(&r->packet) + r->ops->room, r->size,
        r->vnet_hdr_len);
    return n;
}

static size_t feed_header(ColoStreamReader *r, const uint8_t *buf, size_t size,
                          Error **errp)
{
    size_t len = header_len(r, errp);
    size_t n = MIN(len - r->hdr_len, size);

    memcpy(r->hdr + r->hdr_len, buf, n);
    r->hdr_len += n;
    len = header_len(r, errp);
    if (!len || (r->hdr_len == len && !read_header(r, errp))) {
        return 0;
    }
    return n;
}

bool colo_stream_reader_feed(ColoStreamReader *r, const uint8_t *buf,
                             size_t size, Error **errp)
{
    unsigned resets = r->resets;

    if (r->broken) {
        error_setg(errp, "nothing can be read after what was wrong");
        return false;
    }
    while (size && r->resets == resets && !r->refused) {
        size_t n = r->packet ? feed_packet(r, buf, size, errp)
                             : feed_header(r, buf, size, errp);

        if (!n) {
            r->broken = true;
            return false;
        }
        buf += n;
        size -= n;
    }
    return true;
}

static const char *const kind_names[] = {
    [COLO_STREAM_UNKNOWN] = "something unknown",
    [COLO_STREAM_INPUT] = "the input of the primary's guest",
    [COLO_STREAM_PRIMARY_OUTPUT] = "the output of the primary's guest",
    [COLO_STREAM_SECONDARY_OUTPUT] = "the output of the secondary's guest",
};
QEMU_BUILD_BUG_ON(ARRAY_SIZE(kind_names) != COLO_STREAM__MAX);

bool colo_stream_hello_check(const ColoStreamHello *hello,
                             const ColoStreamExpected *expected, bool *fatal,
                             Error **errp)
{
    *fatal = true;
    if (expected->kind && hello->kind != expected->kind) {
        error_setg(errp, "%s of netdev '%s' comes here, not %s: the streams "
                   "are mixed up", kind_names[hello->kind], hello->netdev,
                   kind_names[expected->kind]);
        return false;
    }
    if (hello->vnet_hdr != expected->vnet_hdr) {
        error_setg(errp, "vnet_hdr_support is %s at the other end, at netdev "
                   "'%s', and %s here: it has to be the same",
                   hello->vnet_hdr ? "on" : "off", hello->netdev,
                   expected->vnet_hdr ? "on" : "off");
        return false;
    }
    *fatal = false;
    if (expected->parsed && hello->vnet_hdr_len && !hello->vnet_hdr) {
        error_setg(errp, "packets of netdev '%s' have a vnet header of %"
                   PRIu32 " bytes: vnet_hdr_support=on is needed at both ends",
                   hello->netdev, hello->vnet_hdr_len);
        return false;
    }
    if (expected->netdev &&
        !hello->vnet_hdr_len != !expected->netdev->vnet_hdr_len) {
        error_setg(errp, "packets of netdev '%s' have a vnet header of %"
                   PRIu32 " bytes at the other end, those of '%s' one of %d "
                   "here: the netdevs, and their vnet_hdr, have to be alike",
                   hello->netdev, hello->vnet_hdr_len, expected->netdev->name,
                   expected->netdev->vnet_hdr_len);
        return false;
    }
    if (hello->has_mac && expected->mac &&
        memcmp(&hello->mac, expected->mac, sizeof(hello->mac))) {
        error_setg(errp, "the MAC address of the NIC is " MAC_FMT " at the "
                   "other end, at netdev '%s', and " MAC_FMT " here: after a "
                   "failover the network would not find the guest; give both "
                   "sides the same mac", MAC_ARG(hello->mac.a), hello->netdev,
                   MAC_ARG(expected->mac->a));
        return false;
    }
    return true;
}

struct ColoStreamWriter {
    /* Set once */
    CharBackend *chr;
    GMainContext *context;
    bool vnet_hdr;
    uint64_t max_bytes;
    uint64_t hard_limit;
    void (*drained)(void *opaque);
    void *opaque;

    bool open;
    GByteArray *queue;          /* whole records, of which... */
    size_t sent;                /* ...so many bytes are gone */
    bool ends_with_cut;         /* none of its bytes is gone */
    guint watch;
    unsigned corked;
    QEMUBH *burst_bh;           /* or NULL: bursts are not gathered */
    bool in_burst;              /* a packet was written, the BH will come */
    bool flushing;
    bool was_full;
    bool has_epoch;
    uint64_t epoch;
    ColoStreamKind kind;        /* UNKNOWN: no hello record is written */
    const NetClientState *netdev;
    bool has_session;
    QemuUUID session;
    bool has_mac;
    MACAddr mac;                /* of the NIC there */
    bool introduced;            /* in this connection and session */
};

static void writer_flush(ColoStreamWriter *w);

bool colo_stream_take_chardev(CharBackend *be, const char *object,
                              const char *property, const char *id,
                              Error **errp)
{
    Chardev *chr = qemu_chr_find(id);

    if (!chr) {
        error_setg(errp, "%s: Parameter '%s': there is no chardev '%s'",
                   object, property, id);
        return false;
    }
    if (!qemu_chr_fe_init(be, chr, errp)) {
        error_prepend(errp, "%s: Parameter '%s': ", object, property);
        return false;
    }
    return true;
}

/*
 * Small records must not wait for the acknowledgement of earlier ones, whoever
 * made the socket.
 */
static void writer_set_no_delay(ColoStreamWriter *w)
{
    Object *chr = object_dynamic_cast(OBJECT(w->chr->chr),
                                      TYPE_CHARDEV_SOCKET);

    if (chr && SOCKET_CHARDEV(chr)->ioc) {
        qio_channel_set_delay(SOCKET_CHARDEV(chr)->ioc, false);
    }
}

ColoStreamWriter *colo_stream_writer_new(CharBackend *chr,
                                         GMainContext *context, bool vnet_hdr,
                                         uint64_t max_bytes,
                                         void (*drained)(void *opaque),
                                         void *opaque)
{
    ColoStreamWriter *w = g_new0(ColoStreamWriter, 1);

    w->chr = chr;
    w->context = context;
    w->vnet_hdr = vnet_hdr;
    w->max_bytes = max_bytes;
    w->hard_limit = max_bytes;
    w->drained = drained;
    w->opaque = opaque;
    w->queue = g_byte_array_new();
    w->open = qemu_chr_fe_backend_open(chr);
    writer_set_no_delay(w);
    return w;
}

static void writer_unwatch(ColoStreamWriter *w)
{
    GSource *source;

    if (!w->watch) {
        return;
    }
    source = g_main_context_find_source_by_id(w->context, w->watch);
    if (source) {
        g_source_destroy(source);
    }
    w->watch = 0;
}

void colo_stream_writer_free(ColoStreamWriter *w)
{
    if (w) {
        writer_unwatch(w);
        if (w->burst_bh) {
            qemu_bh_delete(w->burst_bh);
        }
        g_byte_array_unref(w->queue);
        g_free(w);
    }
}

void colo_stream_writer_set_hard_limit(ColoStreamWriter *w, uint64_t bytes)
{
    assert(bytes >= w->max_bytes);
    w->hard_limit = bytes;
}

static void writer_append_hello(ColoStreamWriter *w)
{
    const char *name = w->netdev->name;
    size_t mac_len = w->has_mac ? sizeof(w->mac) : 0;
    size_t id_len = w->has_session ? sizeof(w->session) : 0;
    size_t len = MIN(strlen(name), HELLO_MAX - HELLO_MIN - mac_len - id_len);
    uint8_t record[HELLO_HDR_LEN + HELLO_MIN];
    uint8_t *body = record + HELLO_HDR_LEN;

    stl_be_p(record, HELLO_RECORD);
    stl_be_p(record + WORD, HELLO_MIN + len + id_len + mac_len);
    stw_be_p(body, HELLO_VERSION);
    body[2] = w->kind;
    body[3] = (w->vnet_hdr ? HELLO_VNET_HDR : 0) |
              (w->has_mac ? HELLO_MAC : 0) |
              (w->has_session ? HELLO_SESSION : 0);
    stl_be_p(body + 4, w->netdev->vnet_hdr_len);
    g_byte_array_append(w->queue, record, sizeof(record));
    g_byte_array_append(w->queue, (const uint8_t *)name, len);
    g_byte_array_append(w->queue, w->session.data, id_len);
    g_byte_array_append(w->queue, w->mac.a, mac_len);
    w->ends_with_cut = false;
    w->introduced = true;
}

/*
 * A cut right behind one that waits takes its place: however long the peer does
 * not read, the queue does not grow.
 */
static void writer_append_cut(ColoStreamWriter *w)
{
    uint8_t record[CUT_LEN];

    if (w->kind && !w->introduced) {
        writer_append_hello(w);
    }
    stl_be_p(record, CUT_RECORD);
    stq_be_p(record + WORD, w->epoch);
    if (w->ends_with_cut) {
        g_byte_array_set_size(w->queue, w->queue->len - CUT_LEN);
    }
    g_byte_array_append(w->queue, record, sizeof(record));
    w->ends_with_cut = true;
}

static void writer_clear(ColoStreamWriter *w)
{
    if (w->queue->len > IDLE_BYTES) {
        g_byte_array_unref(w->queue);
        w->queue = g_byte_array_new();
    } else {
        g_byte_array_set_size(w->queue, 0);
    }
    w->sent = 0;
    w->ends_with_cut = false;
}

/* The queue got shorter: who was refused may go on */
static void writer_tell_drained(ColoStreamWriter *w)
{
    if (w->was_full && !colo_stream_writer_full(w)) {
        w->was_full = false;
        if (w->drained) {
            w->drained(w->opaque);
        }
    }
}

void colo_stream_writer_opened(ColoStreamWriter *w)
{
    writer_unwatch(w);
    writer_clear(w);
    w->open = true;
    w->introduced = false;
    writer_set_no_delay(w);
    if (w->has_epoch) {
        writer_append_cut(w);
    }
    writer_flush(w);
    writer_tell_drained(w);
}

void colo_stream_writer_closed(ColoStreamWriter *w)
{
    writer_unwatch(w);
    writer_clear(w);
    w->open = false;
    writer_tell_drained(w);
}

static gboolean writer_writable(void *do_not_use, GIOCondition condition,
                                void *opaque)
{
    ColoStreamWriter *w = opaque;

    w->watch = 0;
    writer_flush(w);
    writer_tell_drained(w);
    return G_SOURCE_REMOVE;
}

/*
 * Write as much as the device takes now.  False if it will never take the rest:
 * what is half written cannot be made up for, only a new stream helps.
 */
static bool writer_write(ColoStreamWriter *w)
{
    int n = 0;

    /* An error may close the device, which comes back to us */
    w->flushing = true;
    while (w->open && w->sent < w->queue->len) {
        n = qemu_chr_fe_write(w->chr, w->queue->data + w->sent,
                              w->queue->len - w->sent);
        if (n <= 0) {
            break;
        }
        w->sent += n;
    }
    w->flushing = false;
    return n >= 0 || errno == EAGAIN || !w->open;
}

/* Hand on what is queued, as far as the device takes it */
static void writer_flush(ColoStreamWriter *w)
{
    bool ok;

    if (w->corked || w->watch || !w->open || w->flushing) {
        return;
    }
    ok = writer_write(w);
    if (ok && w->sent == w->queue->len) {
        writer_clear(w);
        return;
    }
    if (ok && w->open) {
        if (w->queue->len - w->sent < CUT_LEN) {
            w->ends_with_cut = false;
        }
        if (w->sent > w->queue->len / 2) {
            g_byte_array_remove_range(w->queue, 0, w->sent);
            w->sent = 0;
        }
        w->watch = qemu_chr_fe_add_watch(w->chr, G_IO_OUT | G_IO_HUP,
                                         writer_writable, w);
    }
    if (!w->watch) {
        writer_clear(w);
        w->open = false;
    }
}

void colo_stream_writer_end_burst(ColoStreamWriter *w)
{
    w->in_burst = false;
    if (w->sent < w->queue->len) {
        writer_flush(w);
        writer_tell_drained(w);
    }
}

static void writer_burst_bh(void *opaque)
{
    colo_stream_writer_end_burst(opaque);
}

void colo_stream_writer_gather(ColoStreamWriter *w, AioContext *ctx)
{
    w->burst_bh = aio_bh_new(ctx, writer_burst_bh, w);
}

/* A packet was queued: it goes now, or with those that follow it */
static void writer_flush_packet(ColoStreamWriter *w)
{
    if (w->in_burst && w->queue->len - w->sent < BURST_BYTES) {
        return;
    }
    writer_flush(w);
    if (w->burst_bh && !w->in_burst && !w->corked) {
        w->in_burst = true;
        qemu_bh_schedule(w->burst_bh);
    }
}

ColoStreamResult colo_stream_writer_packet(ColoStreamWriter *w,
                                           const struct iovec *iov, int iovcnt,
                                           uint32_t vnet_hdr_len)
{
    size_t size = iov_size(iov, iovcnt);
    size_t hdr_len = w->vnet_hdr ? PACKET_HDR_MAX : WORD;
    size_t at = w->queue->len;

    if (!w->open) {
        return COLO_STREAM_CLOSED;
    }
    /* In this order: it notes that there was no room */
    if (colo_stream_writer_full(w) && at - w->sent >= w->hard_limit) {
        return COLO_STREAM_FULL;
    }
    g_byte_array_set_size(w->queue, at + hdr_len + size);
    stl_be_p(w->queue->data + at, size);
    if (w->vnet_hdr) {
        stl_be_p(w->queue->data + at + WORD, vnet_hdr_len);
    }
    iov_to_buf(iov, iovcnt, 0, w->queue->data + at + hdr_len, size);
    w->ends_with_cut = false;
    writer_flush_packet(w);
    return COLO_STREAM_OK;
}

bool colo_stream_takes(const NetClientState *netdev, unsigned flags,
                       size_t size)
{
    uint32_t header = netdev->vnet_hdr_len;

    return size > 0 &&
           size + sizeof(struct virtio_net_hdr_v1_hash) <= NET_BUFSIZE &&
           ((flags & QEMU_NET_PACKET_FLAG_RAW) || size >= header);
}

ColoStreamResult colo_stream_writer_netfilter(ColoStreamWriter *w,
                                              const NetClientState *netdev,
                                              unsigned flags,
                                              const struct iovec *iov,
                                              int iovcnt)
{
    struct virtio_net_hdr_v1_hash no_offload = { };
    g_autofree struct iovec *with_hdr = NULL;
    uint32_t len = netdev->vnet_hdr_len;
    size_t size = iov_size(iov, iovcnt);

    if (!colo_stream_takes(netdev, flags, size)) {
        return COLO_STREAM_BAD;
    }
    if (!(flags & QEMU_NET_PACKET_FLAG_RAW) || !len) {
        return colo_stream_writer_packet(w, iov, iovcnt, len);
    }
    with_hdr = g_new(struct iovec, iovcnt + 1);
    with_hdr[0].iov_base = &no_offload;
    with_hdr[0].iov_len = MIN(len, sizeof(no_offload));
    memcpy(with_hdr + 1, iov, iovcnt * sizeof(*iov));
    return colo_stream_writer_packet(w, with_hdr, iovcnt + 1, len);
}

void colo_stream_writer_cut(ColoStreamWriter *w, uint64_t epoch)
{
    w->has_epoch = true;
    w->epoch = epoch;
    if (w->open) {
        writer_append_cut(w);
        writer_flush(w);
    }
}

void colo_stream_writer_begin(ColoStreamWriter *w, const uint8_t *data,
                              uint32_t size, uint32_t vnet_hdr_len)
{
    uint8_t header[BEGIN_HDR_LEN];

    if (!w->open || size > NET_BUFSIZE ||
        w->queue->len - w->sent >= w->max_bytes) {
        return;
    }
    stl_be_p(header, BEGIN_RECORD);
    stl_be_p(header + WORD, data ? size : 0);
    stl_be_p(header + 2 * WORD, data ? vnet_hdr_len : 0);
    g_byte_array_append(w->queue, header, sizeof(header));
    if (data) {
        g_byte_array_append(w->queue, data, size);
    }
    w->ends_with_cut = false;
    writer_flush(w);
}

void colo_stream_writer_forget_epoch(ColoStreamWriter *w)
{
    w->has_epoch = false;
    w->introduced = false;
}

void colo_stream_writer_introduce(ColoStreamWriter *w, ColoStreamKind kind,
                                  const NetClientState *netdev,
                                  const MACAddr *mac, const QemuUUID *session)
{
    w->kind = kind;
    w->netdev = netdev;
    w->has_mac = mac;
    if (mac) {
        w->mac = *mac;
    }
    w->has_session = session;
    if (session) {
        w->session = *session;
    }
}

void colo_stream_writer_cork(ColoStreamWriter *w)
{
    w->corked++;
}

void colo_stream_writer_uncork(ColoStreamWriter *w)
{
    assert(w->corked);
    if (--w->corked == 0) {
        writer_flush(w);
        writer_tell_drained(w);
    }
}

bool colo_stream_writer_full(ColoStreamWriter *w)
{
    bool full = w->queue->len - w->sent >= w->max_bytes;

    w->was_full |= full;
    return full;
}

bool colo_stream_writer_connected(const ColoStreamWriter *w)
{
    return w->open;
}

uint64_t colo_stream_writer_queued_bytes(const ColoStreamWriter *w)
{
    return w->queue->len - w->sent;
}
