/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * colo-compare: the object, for its own files.
 *
 * colo-compare.c has the object, what is said to it and what leaves it;
 * compare-input.c reads the streams that come in.
 */

#ifndef QEMU_NET_COLO_COMPARE_OBJECT_H
#define QEMU_NET_COLO_COMPARE_OBJECT_H

#include "qemu/timer.h"
#include "qemu/units.h"
#include "chardev/char-fe.h"
#include "compare-options.h"
#include "match.h"
#include "net/colo.h"
#include "qom/object.h"
#include "stream.h"
#include "stream-end.h"
#include "system/iothread.h"

#define TYPE_COLO_COMPARE "colo-compare"
OBJECT_DECLARE_SIMPLE_TYPE(ColoCompare, COLO_COMPARE)

/* What is read of a stream at a time */
#define COLO_COMPARE_READ_BYTES (256 * KiB)

typedef enum CompareCommand {
    COMPARE_ARM,
    COMPARE_HOLD,
    COMPARE_COMMIT,
    COMPARE_OPEN,
    COMPARE_LEASE,
    COMPARE_OUT_OPENED,
    COMPARE_NOTIFY_OPENED,
    COMPARE_SECONDARY_OPENED,
} CompareCommand;

typedef struct Command {
    QSIMPLEQ_ENTRY(Command) next;
    CompareCommand what;
    uint64_t cut;               /* COMPARE_HOLD, COMPARE_COMMIT */
} Command;

/* One of the two streams that come in */
typedef struct CompareInput {
    ColoCompare *c;
    const char *name;
    CharBackend chr;
    ColoStreamReader *reader;
    ColoStreamEnd end;
    bool told;                  /* in this connection: what follows */
    ColoStreamHello hello;
} CompareInput;

struct ColoCompare {
    Object parent;

    /* Set once */
    char *primary_in;
    char *secondary_in;
    char *outdev;
    char *notify_dev;
    IOThread *iothread;
    ColoCompareOptions options;
    AioContext *ctx;
    ColoParticipant participant;

    /* BQL */
    bool attached;              /* to chardevs and sessions */
    QTAILQ_ENTRY(ColoCompare) next;

    QemuMutex lock;
    /* lock */
    QSIMPLEQ_HEAD(, Command) commands;
    ColoMatchStats stats;       /* as they were a moment ago */
    uint64_t dropped_closed;

    /* iothread */
    bool begun;                 /* all chardevs have their handlers */
    CompareInput primary;
    CompareInput secondary;
    CompareInput notify;
    CharBackend out_chr;
    ColoStreamEnd out_end;
    ColoStreamWriter *out;
    ColoStreamWriter *notify_out;
    ColoMatch *match;
    QEMUBH *bh;                 /* carries commands out */
    QEMUTimer *timer;
    QSIMPLEQ_HEAD(, ColoPacket) pending;    /* released, outdev is full */
    uint64_t out_closed;        /* packets lost: nobody was connected */
    uint64_t xen_epoch;
    bool moved;                 /* primary_in, since drained() was asked */
};

static inline int64_t colo_compare_now_ms(void)
{
    return qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
}

/*
 * All in the iothread.
 *
 * colo_compare_obey: carry out what has been said so far
 * colo_compare_publish: the statistics, for those who ask
 * colo_compare_set_timer: what was fed may have changed when to look again
 * colo_compare_tell_opened: leave word that a chardev has been opened
 * colo_compare_say_to_xen: a message to notify_dev, if there is one
 */
void colo_compare_obey(ColoCompare *c);
void colo_compare_publish(ColoCompare *c);
void colo_compare_set_timer(ColoCompare *c);
void colo_compare_tell_opened(ColoCompare *c, CompareCommand what);
void colo_compare_say_to_xen(ColoCompare *c, const char *message);

/* Read from the streams that come in, or no more.  In the iothread. */
void colo_compare_inputs_begin(ColoCompare *c);
void colo_compare_inputs_end(ColoCompare *c);

/* What is said on notify_dev: the framing of the streams has it as a packet */
#define COLO_COMPARE_XEN_REQUEST "DO_CHECKPOINT"

#endif
