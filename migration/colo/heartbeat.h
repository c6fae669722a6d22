/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: a heartbeat on links of its own, object colo-heartbeat.  Not for base
 * code.
 *
 * At most one of these objects exists.  Without one nothing here does anything.
 */

#ifndef QEMU_MIGRATION_COLO_HEARTBEAT_H
#define QEMU_MIGRATION_COLO_HEARTBEAT_H

#include "qapi/qapi-types-migration.h"
#include "heartbeat-msg.h"
#include "wire.h"

#define TYPE_COLO_HEARTBEAT "colo-heartbeat"

/*
 * The session tells what messages say about it, and is told by its wire
 * (colo_wire_declare_silent()) when the peer is silent on all links.  BQL.
 *
 * colo_heartbeat_begin: a session of that side has @w as its channel
 * colo_heartbeat_set_session: its ID is known
 * colo_heartbeat_tell: its state (ColoPrimaryState or ColoSecondaryState) has
 *     changed; @flags: those of COLO_BEAT_LOST, _SERVICE and _OUT that follow
 * colo_heartbeat_claim: the flag COLO_BEAT_CLAIM is said, or not any more
 * colo_heartbeat_end: @w is about to be freed.  What has been told is said
 *     further on, until the next session begins.
 */
void colo_heartbeat_begin(ColoWire *w, COLOMode side);
void colo_heartbeat_set_session(const QemuUUID *id);
void colo_heartbeat_tell(uint8_t state, uint16_t flags, uint64_t epoch);
void colo_heartbeat_claim(bool on);
void colo_heartbeat_end(void);

/*
 * colo_heartbeat_on_news: @fn is called when the health of the peer has changed,
 * a link was closed, and whenever the peer says one of the flags _SERVICE, _OUT
 * and _CLAIM in this session.  In a thread of the heartbeat's, without locks.
 * Once, before there are sessions.
 *
 * colo_heartbeat_peer_flags: what the peer has said last in session @id; 0 if
 * nothing was heard.  BQL.
 */
void colo_heartbeat_on_news(void (*fn)(void));
uint16_t colo_heartbeat_peer_flags(const QemuUUID *id);

/*
 * Is there one with on-loss=decide; with on-loss=event?  Both are false without
 * a heartbeat.  BQL.
 */
bool colo_heartbeat_decides(void);
bool colo_heartbeat_awaits_word(void);

/*
 * Have both heard each other within the timeout, in this session, is a link open,
 * and does the peer get on?  BQL.
 */
bool colo_heartbeat_is_well(void);

/* Was the peer heard in this session, and is no link open now?  BQL. */
bool colo_heartbeat_is_closed(void);

/*
 * colo_heartbeat_stop_leases: secondary, this side is about to go on
 *
 * From now on no message lets the primary send.  Returns when all leases have
 * ended that were given (QEMU_CLOCK_REALTIME, ns).  @heard_ns: when the wire
 * has brought something last.  0 if the primary has no heartbeat: then nothing
 * is known.  BQL.
 */
int64_t colo_heartbeat_stop_leases(int64_t heard_ns);

/* QEMU exits.  Main thread, BQL. */
void colo_heartbeat_shutdown(void);

/* For query-colo-status; NULL if there is no such object.  BQL. */
ColoHeartbeatStatus *colo_heartbeat_status(void);

/*
 * colo_heartbeat_look: call @found for each link that is down, and for a peer
 * that does not get on
 *
 * @fatal: only for what leaves the guest without protection: no link is up, or
 * the peer is stuck; else only for the rest.  BQL.
 */
void colo_heartbeat_look(bool fatal,
                         void (*found)(void *opaque, ColoProblemKind kind,
                                       const char *name, const char *message),
                         void *opaque);

#endif
