/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO wire protocol: frames over a channel, with deadlines.
 *
 * One thread of the session (the wire's owner) sends and receives; any thread
 * may wake or cancel it, and send 'alive' frames.  No call goes on waiting when
 * the timeout brings little or no progress, unless the owner wants to
 * (ColoSilenceOps).
 */

#ifndef QEMU_MIGRATION_COLO_WIRE_H
#define QEMU_MIGRATION_COLO_WIRE_H

#include "io/channel-socket.h"
#include "qapi/qapi-types-migration.h"
#include "frame.h"

typedef struct ColoWire ColoWire;

typedef enum ColoWaitResult {
    COLO_WAIT_READABLE,     /* the peer said something, or hung up */
    COLO_WAIT_DEADLINE,
    COLO_WAIT_WOKEN,        /* colo_wire_wake() or colo_wire_cancel() */
} ColoWaitResult;

/*
 * colo_wire_new: take @ioc into use
 *
 * Sets it non-blocking and without Nagle's delay; keeps a reference.
 * @side: for messages, traces and fault points
 */
ColoWire *colo_wire_new(QIOChannel *ioc, COLOMode side, uint32_t timeout_ms);
void colo_wire_free(ColoWire *w);

/*
 * What the owner does about a peer that is silent.  Called in his thread, by a
 * function that sends or receives.
 */
typedef struct ColoSilenceOps {
    /* @why: in words.  True: go on waiting, for as long as it takes */
    bool (*lost)(void *opaque, const char *why);
    /*
     * The two hear each other again; the wait goes on as if nothing had been.
     * False: it has been decided meanwhile that it does not.
     */
    bool (*back)(void *opaque);
} ColoSilenceOps;

/* Owner, before the wire is used; without these silence is an error */
void colo_wire_on_silence(ColoWire *w, const ColoSilenceOps *ops,
                          void *opaque);

/*
 * colo_wire_lose: the owner has found out by himself that the peer is silent
 * colo_wire_find: the same, that it is not any more
 * colo_wire_is_lost: between the two, whoever has found out
 *
 * Owner; any thread the last.  The first two are false with @errp set if nobody
 * wants to go on waiting.
 */
bool colo_wire_lose(ColoWire *w, const char *why, Error **errp);
bool colo_wire_find(ColoWire *w, Error **errp);
bool colo_wire_is_lost(ColoWire *w);

/*
 * colo_wire_listen: the peer is lost for good, and only its last word is waited
 * for: from now on it may be silent, or say the same, for as long as it likes.
 * Owner.
 */
void colo_wire_listen(ColoWire *w);

/* How often the peer has come back.  Owner. */
unsigned colo_wire_returns(ColoWire *w);

/*
 * True once after this process did not run for a while, so that the time that
 * has passed says nothing about the peer.  Owner.
 */
bool colo_wire_take_stall(ColoWire *w);

/* Owner; any thread.  Longest silence of the peer, in milliseconds */
void colo_wire_set_timeout(ColoWire *w, uint32_t timeout_ms);
uint32_t colo_wire_timeout(ColoWire *w);

/*
 * colo_wire_set_heartbeat: somebody else listens for the peer, too, and may say
 * that it is dead when it was silent for @timeout_ms.  Before the wire is used.
 *
 * colo_wire_beat_timeout: the shorter one of both timeouts, in milliseconds.
 * By it leases are given, and signs of life sent.  Any thread.
 */
void colo_wire_set_heartbeat(ColoWire *w, uint32_t timeout_ms);
uint32_t colo_wire_beat_timeout(ColoWire *w);

/*
 * colo_wire_declare_silent: the peer is said to be silent, as @why says, by
 * somebody who listens elsewhere.  Any thread, no lock of the caller's needed.
 *
 * The owner loses it (colo_wire_lose()) when he waits, or next does, and the
 * wire has brought nothing for @after_ms either: it is one more way to hear
 * the peer.  0: at once, and 'alive' frames do not bring it back: the peer is
 * there, but does not get on.  What else it says does.  Nothing happens while
 * the owner could not go on waiting; his own timeout holds then.
 *
 * colo_wire_declare_heard: it is not silent any more, and hears this side.  An
 * owner who lost it for that reason finds it.
 */
void colo_wire_declare_silent(ColoWire *w, const char *why,
                              uint32_t after_ms);
void colo_wire_declare_heard(ColoWire *w);

/* When bytes have last come (QEMU_CLOCK_REALTIME, ns), or it was made.  Owner */
int64_t colo_wire_heard_ns(ColoWire *w);

/*
 * So many timeouts a peer is waited for that is there, but does not get on: it
 * sends 'alive' frames without progress, or speaks of something else.  Longer
 * than disks may take.
 */
#define COLO_STALL_TIMEOUTS 16

/* Any thread: make colo_wire_wait() return.  Is not lost if it comes early. */
void colo_wire_wake(ColoWire *w);

/* Any thread: every call from now on, and the one under way, fails at once */
void colo_wire_cancel(ColoWire *w);
bool colo_wire_cancelled(ColoWire *w);

/*
 * colo_wire_hurry: somebody waits for the end.  Any thread.
 *
 * From now on a peer of which nothing is heard for COLO_HURRY_MS is silent.
 * Those who live say something more often (keepalive.h).
 */
#define COLO_HURRY_MS 500
void colo_wire_hurry(ColoWire *w);

/*
 * colo_wire_last_word: one frame without payload but @buf, even on a wire that
 * was cancelled, and without waiting.  Owner.
 *
 * False if the channel does not take it now, or a frame is half written.
 */
bool colo_wire_last_word(ColoWire *w, ColoFrameType type, uint64_t epoch,
                         const void *buf, size_t len);

/* The channel, which belongs to the wire.  Any thread. */
QIOChannel *colo_wire_channel(ColoWire *w);

/*
 * colo_wire_wait: until the peer speaks, @deadline_ns (QEMU_CLOCK_REALTIME)
 * is reached or somebody wakes us.  Owner.
 */
ColoWaitResult colo_wire_wait(ColoWire *w, int64_t deadline_ns);

/*
 * colo_wire_set_alarm: call @ring(@opaque) when @at_ns (QEMU_CLOCK_REALTIME)
 * has passed while frames are sent.  Owner.
 *
 * A frame that is half written then is completed afterwards, no other one is
 * begun before colo_wire_clear_alarm(), and one timeout is left for all that is
 * still said on this wire.  The lock that orders frames is held in @ring, which
 * may take the BQL.
 */
void colo_wire_set_alarm(ColoWire *w, int64_t at_ns,
                         void (*ring)(void *opaque), void *opaque);
void colo_wire_clear_alarm(ColoWire *w);

/* Owner.  Is every frame complete that was begun?  Then others may come. */
bool colo_wire_is_whole(ColoWire *w);

/*
 * colo_wire_send: send one frame whose payload is @iov.  Owner.
 *
 * Returns false with @errp set, naming the frame and the epoch, when the
 * channel fails, is cancelled, or takes next to nothing in a whole timeout, or
 * if the alarm has rung.
 */
bool colo_wire_send(ColoWire *w, ColoFrameType type, uint64_t epoch,
                    const struct iovec *iov, size_t niov, Error **errp);

/* The same for a payload in one piece (NULL, 0: none) */
bool colo_wire_send_buf(ColoWire *w, ColoFrameType type, uint64_t epoch,
                        const void *buf, size_t len, Error **errp);

/*
 * colo_wire_send_alive: tell the peer that this side is there, and what it has
 * heard.  Any thread.
 *
 * Does not wait: nothing is sent while another frame is, or while the channel
 * takes nothing.  Errors are left to the owner.
 */
void colo_wire_send_alive(ColoWire *w);

/*
 * colo_wire_begin_wait: from now on the peer is waited for.  Owner.
 * colo_wire_next: as colo_wire_recv(), but returns after each 'alive', too
 *
 * For those who have other things to do as well while they wait.  An 'alive'
 * has been read as a whole; it is an error if the peer has sent nothing else,
 * and has not got on, for COLO_STALL_TIMEOUTS.
 */
void colo_wire_begin_wait(ColoWire *w);
bool colo_wire_next(ColoWire *w, const char *stage, ColoFrame *f,
                    Error **errp);

/*
 * colo_wire_recv: receive the header of the next frame but 'alive'.  Owner.
 * @stage says what is waited for, for the message.
 *
 * What is left of the payload of the frame before is skipped: whoever gave up
 * on it may still wait for the peer's last word.
 */
bool colo_wire_recv(ColoWire *w, const char *stage, ColoFrame *f,
                    Error **errp);
bool colo_wire_recv_iov(ColoWire *w, const struct iovec *iov, size_t niov,
                        Error **errp);
bool colo_wire_recv_buf(ColoWire *w, void *buf, size_t len, Error **errp);
bool colo_wire_skip(ColoWire *w, uint64_t len, Error **errp);

/* Owner.  Bytes since colo_wire_new(), headers included */
uint64_t colo_wire_bytes_sent(ColoWire *w);
uint64_t colo_wire_bytes_received(ColoWire *w);

/* The socket at the lower end of @ioc, or NULL if it has none.  Any thread. */
QIOChannelSocket *colo_channel_socket(QIOChannel *ioc);

#endif
