/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what a wire knows of the primary's lease, and of questions to the arbiter.
 * Not for base code.
 */

#ifndef QEMU_MIGRATION_COLO_WIRE_LEASE_H
#define QEMU_MIGRATION_COLO_WIRE_LEASE_H

#include "wire.h"

/* A part of a wire; atomic */
typedef struct ColoWireLease {
    int64_t read_ns;            /* something that may lengthen a lease */
    bool closed;                /* the peer has ended what it says */
    uint16_t peer_round;
    uint16_t round;
    bool asks;                  /* who goes on */
} ColoWireLease;

/* Parts of a wire that are set once, or for whoever knows what they are */
ColoWireLease *colo_wire_lease(ColoWire *w);
COLOMode colo_wire_side(ColoWire *w);

/*
 * colo_wire_set_round: from now on tell the peer that this side does not act on
 * answers to questions of earlier rounds (decision.c)
 * colo_wire_peer_round: what the peer has said of its own
 *
 * Any thread.
 */
void colo_wire_set_round(ColoWire *w, uint16_t round);
uint16_t colo_wire_peer_round(ColoWire *w);

/*
 * colo_wire_set_asks: this side asks who goes on, or does so no longer.  A
 * secondary that asks lengthens no lease of the primary.  Any thread.
 */
void colo_wire_set_asks(ColoWire *w, bool asks);

/*
 * colo_wire_lease_end: when a primary that was not heard since cannot let out
 * anything any more (lease.h), in QEMU_CLOCK_REALTIME, ns; 0 if its kernel has
 * closed the connection: then its process has ended, or knows of it.  Secondary,
 * any thread.
 */
int64_t colo_wire_lease_end(ColoWire *w);

/*
 * colo_wire_note_lease: what is read now may lengthen the lease of a primary
 * colo_wire_gives_lease: may this side's signs of life do so?
 *
 * For the wire.  Any thread.
 */
void colo_wire_note_lease(ColoWire *w);
bool colo_wire_gives_lease(ColoWire *w);

#endif
