/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: the end of a stream, as a session sees it.
 *
 * An object that reads or writes a stream has one for each of its chardevs.  In
 * a session it keeps the stream connected, and tells (query-colo-status) what
 * is wrong with it.
 *
 * Fields belong to the thread of the chardev, but for @fault.
 */

#ifndef QEMU_NET_COLO_STREAM_END_H
#define QEMU_NET_COLO_STREAM_END_H

#include "block/aio.h"
#include "chardev/char-fe.h"
#include "qemu/queue.h"
#include "stream.h"

/* The session that this QEMU is in */
typedef struct ColoStreamSession {
    bool known;
    QemuUUID id;
    ColoSyncMode mode;          /* valid if known */
    unsigned ended;             /* how many have been */
} ColoStreamSession;

/* Any thread; colo_net_set_session() sets it */
ColoStreamSession colo_stream_session(void);

typedef struct ColoStreamEnd ColoStreamEnd;
struct ColoStreamEnd {
    /* Set once */
    CharBackend *be;            /* NULL: there is no stream */
    QEMUBH *disconnect_bh;
    QEMUTimer *silence;         /* of an end that gets records; or NULL */
    ColoStreamReader *back;     /* of an end that writes; or NULL */
    const char *partner;        /* what an end that writes belongs to */

    bool in_session;
    bool made_to_reconnect;     /* its user did not ask for that */
    bool broken;                /* nothing is read until it is opened again */
    bool heard_record;          /* since it was opened */
    bool heard_session;         /* the other end has said one... */
    QemuUUID session;
    ColoStreamKind heard_kind;
    unsigned sessions_ended;    /* ...after so many of this side */
    unsigned reports;           /* faults that were, since then */
    int64_t reports_since_ms;

    /* lock of stream-end.c */
    char *fault;                /* what is wrong with what comes; or NULL */
    bool fault_ends_with_record;
    QTAILQ_ENTRY(ColoStreamEnd) next;
};

/*
 * @be: has its chardev, and outlives the end
 * @ctx: in which the chardev works
 */
void colo_stream_end_init(ColoStreamEnd *e, CharBackend *be, AioContext *ctx);

/*
 * colo_stream_end_expect_records: whoever is at the other end says in which
 * epoch it is, as soon as it is connected and there is a session in hybrid mode
 *
 * In @ctx, that of the init.  One that says nothing for COLO_STREAM_SILENCE_MS
 * has the place of the right peer: that is told, and the stream is closed.
 */
#define COLO_STREAM_SILENCE_MS  10000
void colo_stream_end_expect_records(ColoStreamEnd *e, AioContext *ctx);

/*
 * colo_stream_end_init_writer: the same for an end that only writes
 *
 * @partner: what has to be at the other end.  If that writes, too, and says so
 * in a hello record, that is a fault until the stream is closed.
 */
void colo_stream_end_init_writer(ColoStreamEnd *e, CharBackend *be,
                                 AioContext *ctx, bool vnet_hdr,
                                 const char *partner);

/*
 * colo_stream_end_heard: something came from the other end of what is only
 * written
 */
void colo_stream_end_heard(ColoStreamEnd *e, const uint8_t *buf, size_t size);

/* In the thread of the chardev; may be called twice, or without an init */
void colo_stream_end_cleanup(ColoStreamEnd *e);

/*
 * colo_stream_end_session: a session begins, or goes on (@on), or is over
 *
 * Meanwhile a client socket connects again and again, whether or not it has
 * "reconnect-ms".  A stream on which nothing could be read begins anew.
 */
void colo_stream_end_session(ColoStreamEnd *e, bool on);

/*
 * colo_stream_introduce: what @w writes in this session begins with a hello
 * record, see colo_stream_writer_introduce()
 */
void colo_stream_introduce(ColoStreamWriter *w, ColoStreamKind kind,
                           const NetClientState *netdev);

/* Is something at the other end, and does it make sense?  False before init. */
bool colo_stream_end_is_open(ColoStreamEnd *e);

/* The chardev was opened or closed */
void colo_stream_end_event(ColoStreamEnd *e, QEMUChrEvent event);

/*
 * colo_stream_end_broken: what comes is no stream, and is not read any more
 *
 * @err: why; taken over, and reported unless it has been already, or many were
 *
 * In a session the stream is closed, so that it begins anew.
 */
void colo_stream_end_broken(ColoStreamEnd *e, Error *err);

/*
 * colo_stream_end_wrong_epoch: a record says that the other end is in @epoch,
 * and it cannot be; as colo_stream_end_broken()
 */
void colo_stream_end_wrong_epoch(ColoStreamEnd *e, uint64_t epoch);

/*
 * colo_stream_end_told: the other end has said what it is
 *
 * @err: what does not fit; taken over, and reported likewise; NULL: all fits
 * @fatal: nothing more can be read from this stream
 */
void colo_stream_end_told(ColoStreamEnd *e, Error *err, bool fatal);

/*
 * colo_stream_end_belongs: is the other end in the session that this one is in?
 *
 * False: it is in another one, which is a fault, and the stream is broken.  A
 * secondary hears it before it knows its session: then this is looked at when
 * that begins.  So is whether it is still the secondary of an earlier session,
 * the host of which may have gone without a word.
 */
bool colo_stream_end_belongs(ColoStreamEnd *e, const ColoStreamHello *hello);

/* A record came as it has to be */
void colo_stream_end_sound(ColoStreamEnd *e);

/* What is wrong with the stream of that chardev; the caller frees it.  BQL. */
char *colo_stream_end_fault(const char *chardev);

#endif
