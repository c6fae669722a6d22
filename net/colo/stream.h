/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: packets and cut records on a character device.
 *
 * Format, everything in network byte order:
 *
 *   packet       u32 length, with vnet_hdr_support a u32 length of the vnet
 *                header, then as many bytes as length says (vnet header
 *                included).  This is the published framing.
 *   cut record   u32 0x80000001, u64 epoch: what follows belongs to the epoch.
 *                No length of a packet has its top bit set.
 *   begin record u32 0x80000002, u32 length, u32 length of the vnet header,
 *                then as many bytes as length says: a packet with which the
 *                sender's guest began a connection.  Length 0: each of them
 *                will be told.  Only in the stream of the guest's input.
 *   hello record u32 0x80000003, u32 length, then so many bytes: who writes,
 *                see ColoStreamHello.  Before the first cut record that a
 *                session writes to a connection; never without a session.
 *
 * docs/interop/colo-wire.rst describes it for others.
 */

#ifndef QEMU_NET_COLO_STREAM_H
#define QEMU_NET_COLO_STREAM_H

#include "block/aio.h"
#include "chardev/char-fe.h"
#include "net/net.h"
#include "qemu/iov.h"
#include "qemu/uuid.h"

typedef enum ColoStreamKind {
    COLO_STREAM_UNKNOWN,
    COLO_STREAM_INPUT,              /* of the primary's guest */
    COLO_STREAM_PRIMARY_OUTPUT,
    COLO_STREAM_SECONDARY_OUTPUT,
    COLO_STREAM__MAX,
} ColoStreamKind;

/* What the other end says of itself */
typedef struct ColoStreamHello {
    ColoStreamKind kind;
    bool vnet_hdr;              /* packets come with the length of a header */
    uint32_t vnet_hdr_len;      /* of the netdev, at that time */
    char netdev[256];
    bool has_mac;
    MACAddr mac;                /* of the NIC, as it was configured */
    bool has_session;
    QemuUUID session;
} ColoStreamHello;

/* What this end has, to hold it against that */
typedef struct ColoStreamExpected {
    ColoStreamKind kind;        /* UNKNOWN: any */
    bool vnet_hdr;
    /* The packets are parsed, so the length of a header has to come along */
    bool parsed;
    const NetClientState *netdev;   /* that gets or sends the same; or NULL */
    const MACAddr *mac;         /* of the NIC on it; or NULL */
} ColoStreamExpected;

/*
 * colo_stream_hello_check: does @hello fit?
 *
 * Returns false with @errp set if it does not.  @fatal: then the packets cannot
 * be told from each other.
 */
bool colo_stream_hello_check(const ColoStreamHello *hello,
                             const ColoStreamExpected *expected, bool *fatal,
                             Error **errp);

/*
 * Reader: takes bytes as they come, tells packets and cuts.  Pure, no I/O;
 * belongs to one thread.
 */
typedef struct ColoStreamReader ColoStreamReader;

typedef struct ColoStreamReaderOps {
    size_t room;        /* bytes before @data, which the callee may use */
    /* @data - @room is the callee's to g_free() */
    void (*packet)(void *opaque, uint8_t *data, uint32_t size,
                   uint32_t vnet_hdr_len);
    void (*cut)(void *opaque, uint64_t epoch);
    /* The same for begin records, @data NULL for one without a packet.  If it
     * is NULL they are unknown. */
    void (*begin)(void *opaque, uint8_t *data, uint32_t size,
                  uint32_t vnet_hdr_len);
    /* False: nothing more is read, and the feed was no failure.  If it is NULL
     * hello records are unknown. */
    bool (*hello)(void *opaque, const ColoStreamHello *hello);
} ColoStreamReaderOps;

ColoStreamReader *colo_stream_reader_new(bool vnet_hdr,
                                         const ColoStreamReaderOps *ops,
                                         void *opaque);
void colo_stream_reader_free(ColoStreamReader *r);

/* The stream was closed: what is half here is thrown away */
void colo_stream_reader_reset(ColoStreamReader *r);

/*
 * colo_stream_reader_feed: false with @errp set if this is no such stream
 * (length 0, or over NET_BUFSIZE, vnet header longer than the packet, unknown
 * control record).  Nothing more can be read until a reset.
 *
 * The ops may not free the reader; they may reset it, which ends the feed.
 */
bool colo_stream_reader_feed(ColoStreamReader *r, const uint8_t *buf,
                             size_t size, Error **errp);

/*
 * colo_stream_take_chardev: @be gets the chardev @id
 *
 * @object, @property: for the message if there is none, or another has it
 */
bool colo_stream_take_chardev(CharBackend *be, const char *object,
                              const char *property, const char *id,
                              Error **errp);

/*
 * Writer: a bounded queue in front of a character device; never blocks.
 *
 * All calls in the thread of @context (NULL: main loop, or any thread with the
 * BQL).  Batches what it can.  While the device is not connected nothing is
 * queued and packets are counted as dropped.
 *
 * The packets of a burst are gathered (colo_stream_writer_gather()): the first
 * is written at once, so that one that comes alone is not delayed; what follows
 * it in the same round of the main loop is written together at the end of the
 * round, or when there is enough of it.
 */
typedef struct ColoStreamWriter ColoStreamWriter;

/*
 * @chr: stays the caller's; its handlers are the caller's too, who calls
 *       colo_stream_writer_opened() and _closed() on CHR_EVENT_*.  Open or not
 *       at the time of the call is found out here.
 * @max_bytes: bound of the queue
 * @drained: called (may be NULL) when the queue was full, a packet was refused
 *       or _full() was true, and there is room again
 */
ColoStreamWriter *colo_stream_writer_new(CharBackend *chr,
                                         GMainContext *context, bool vnet_hdr,
                                         uint64_t max_bytes,
                                         void (*drained)(void *opaque),
                                         void *opaque);
void colo_stream_writer_free(ColoStreamWriter *w);

/*
 * colo_stream_writer_opened: a stream begins; if an epoch is known (a cut was
 * written before, open or not), it begins with its record
 */
void colo_stream_writer_opened(ColoStreamWriter *w);
void colo_stream_writer_closed(ColoStreamWriter *w);

/*
 * colo_stream_writer_gather: from now on the packets of a burst are gathered
 *
 * @ctx: in whose thread the writer is used, or with whose lock
 */
void colo_stream_writer_gather(ColoStreamWriter *w, AioContext *ctx);

/*
 * colo_stream_writer_end_burst: write what was gathered, as far as the device
 * takes it now
 *
 * Before the device is given up; otherwise nobody has to call it.
 */
void colo_stream_writer_end_burst(ColoStreamWriter *w);

/*
 * colo_stream_writer_set_hard_limit: packets are taken up to so many bytes,
 * for senders that cannot wait; max_bytes, at which the queue is full, stays
 */
void colo_stream_writer_set_hard_limit(ColoStreamWriter *w, uint64_t bytes);

typedef enum ColoStreamResult {
    COLO_STREAM_OK,             /* queued or written */
    COLO_STREAM_FULL,           /* refused, the queue is full */
    COLO_STREAM_CLOSED,         /* refused, nobody is connected */
    COLO_STREAM_BAD,            /* refused, no reader would take it */
} ColoStreamResult;

/* @iov: 1 to NET_BUFSIZE bytes */
ColoStreamResult colo_stream_writer_packet(ColoStreamWriter *w,
                                           const struct iovec *iov, int iovcnt,
                                           uint32_t vnet_hdr_len);

/*
 * colo_stream_takes: may a packet of @size bytes be written to a stream?
 *
 * @flags: of the packet (QEMU_NET_PACKET_FLAG_RAW: without a vnet header)
 */
bool colo_stream_takes(const NetClientState *netdev, unsigned flags,
                       size_t size);

/*
 * colo_stream_writer_netfilter: a packet as a filter on @netdev gets it
 *
 * Writes the length of the vnet header of @netdev, and gives an empty one to a
 * packet that comes without.  Refuses what no reader takes: a packet without
 * bytes, one that is too long, one shorter than its vnet header.  A guest can
 * send all of these.
 */
ColoStreamResult colo_stream_writer_netfilter(ColoStreamWriter *w,
                                              const NetClientState *netdev,
                                              unsigned flags,
                                              const struct iovec *iov,
                                              int iovcnt);

/*
 * colo_stream_writer_introduce: from now on the first cut record in each
 * connection has a hello record before it
 *
 * @netdev: outlives the writer
 * @mac: of the NIC on it, or NULL
 * @session: what is begun, or NULL
 */
void colo_stream_writer_introduce(ColoStreamWriter *w, ColoStreamKind kind,
                                  const NetClientState *netdev,
                                  const MACAddr *mac, const QemuUUID *session);

/*
 * Written even if the queue is full; replaces a cut that waits at its end.
 * Later streams begin with it, too.
 */
void colo_stream_writer_cut(ColoStreamWriter *w, uint64_t epoch);

/*
 * colo_stream_writer_begin: a begin record, with the packet in @data or (NULL)
 * without one.  Dropped if the queue is full.
 */
void colo_stream_writer_begin(ColoStreamWriter *w, const uint8_t *data,
                              uint32_t size, uint32_t vnet_hdr_len);

/* No session any more: streams do not begin with a record */
void colo_stream_writer_forget_epoch(ColoStreamWriter *w);

/*
 * Gather packets until colo_stream_writer_uncork(), which writes; nests.
 * Without it each packet is tried at once.
 */
void colo_stream_writer_cork(ColoStreamWriter *w);
void colo_stream_writer_uncork(ColoStreamWriter *w);

bool colo_stream_writer_full(ColoStreamWriter *w);
bool colo_stream_writer_connected(const ColoStreamWriter *w);
uint64_t colo_stream_writer_queued_bytes(const ColoStreamWriter *w);

#endif
