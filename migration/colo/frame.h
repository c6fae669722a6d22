/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO wire protocol: the frames, as bytes.
 *
 * Pure functions without I/O and without state; any thread.  Everything that
 * is decoded comes from the peer and is checked here: a frame that these
 * functions accept needs no further check of its own shape.  The layout is
 * described in docs/interop/colo-wire.rst.
 */

#ifndef QEMU_MIGRATION_COLO_FRAME_H
#define QEMU_MIGRATION_COLO_FRAME_H

#include "qemu/uuid.h"

#define COLO_FRAME_MAGIC    0x434f4c4fU     /* "COLO" */
#define COLO_FRAME_VERSION  4
#define COLO_FRAME_HDR_LEN  24

/* Bounds of what a frame may carry; a sender splits, a receiver refuses */
#define COLO_PAGES_PER_FRAME    256
#define COLO_RUNS_MAX           (1 << 20)
#define COLO_BLOCKS_MAX         1024
#define COLO_DEVICE_STATE_MAX   (1024 * 1024 * 1024)
#define COLO_SECTIONS_MAX       8192
#define COLO_TEXT_MAX           1024
/* Largest page that the protocol knows, bytes */
#define COLO_PAGE_SIZE_MAX      65536
/* Longest timeout that the user can ask for */
#define COLO_TIMEOUT_MAX_MS     600000

typedef enum ColoFrameType {
    COLO_FRAME_CHECKPOINT_READY = 1,    /* S: here is my RAM, I can begin */
    COLO_FRAME_START,                   /* P: parameters of the session */
    COLO_FRAME_CHECKPOINT_REQUEST,      /* P: stop, tell me what you dirtied */
    COLO_FRAME_CHECKPOINT_REPLY,        /* S: runs of pages */
    COLO_FRAME_VMSTATE_SEND,            /* P: a checkpoint begins to arrive */
    COLO_FRAME_PAGES,                   /* P: up to COLO_PAGES_PER_FRAME */
    COLO_FRAME_VMSTATE_SIZE,            /* P: device state; the last part */
    COLO_FRAME_VMSTATE_RECEIVED,        /* S: commit */
    COLO_FRAME_VMSTATE_LOADED,          /* S: done, next one please */
    COLO_FRAME_PING,                    /* P: nothing to do, still here */
    COLO_FRAME_PONG,                    /* S: answer to a ping */
    COLO_FRAME_BYE,                     /* both: I end this in order */
    COLO_FRAME_BYE_ACK,                 /* both: understood */
    COLO_FRAME_ERROR,                   /* both: I end this, here is why */
    COLO_FRAME_HASHES,                  /* P: up to COLO_PAGES_PER_FRAME */
    COLO_FRAME_WANTED,                  /* S: those of them that differ here */
    COLO_FRAME_ALIVE,                   /* both: how far the work has got */
    COLO_FRAME_SECTIONS,                /* P: what vmstate-size consists of */
    COLO_FRAME_HANDOVER_REQUEST,        /* S: I am to take over, in order */
    COLO_FRAME_HANDOVER,                /* P: you have all, go live */
    COLO_FRAME_TAKEOVER,                /* S: I go on, you are out */
    COLO_FRAME__MAX,
} ColoFrameType;

typedef struct ColoFrame {
    ColoFrameType type;
    uint64_t epoch;                     /* the cut that the frame is about */
    uint64_t length;                    /* of the payload, bytes */
} ColoFrame;

/* Name as in the published protocol, for messages and traces */
const char *colo_frame_name(ColoFrameType type);

/* Longest payload that a frame of @type may have, bytes */
uint64_t colo_frame_max_length(ColoFrameType type);

void colo_frame_encode(const ColoFrame *f, uint8_t out[COLO_FRAME_HDR_LEN]);

/*
 * colo_frame_decode: check and read a header
 *
 * Returns false with @errp set for a wrong magic or version, an unknown type
 * or a length over the bound of the type.
 */
bool colo_frame_decode(const uint8_t in[COLO_FRAME_HDR_LEN], ColoFrame *f,
                       Error **errp);

/* CHECKPOINT_READY: the RAM of the secondary */
typedef struct ColoBlockInfo {
    char id[256];
    uint64_t used_length;               /* bytes */
} ColoBlockInfo;

typedef struct ColoReady {
    uint32_t page_size;                 /* bytes */
    uint32_t nblocks;
    uint64_t generation;                /* of its disks; 0: not known */
    ColoBlockInfo *blocks;
} ColoReady;

void colo_ready_encode(const ColoReady *r, GByteArray *out);
bool colo_ready_decode(const uint8_t *buf, size_t len, ColoReady *r,
                       Error **errp);
void colo_ready_clear(ColoReady *r);

/* START: what the primary chose for both */
#define COLO_START_LEN 40
typedef struct ColoStart {
    uint32_t mode;                      /* ColoSyncMode */
    uint32_t timeout_ms;                /* longest silence inside a step */
    uint32_t flags;                     /* COLO_START_* */
    uint64_t generation;                /* of the disks; 0: not known */
    QemuUUID session;                   /* which no other session has */
} ColoStart;
#define COLO_START_VERIFY_RAM   1
#define COLO_START_ARBITER      2       /* somebody decides who goes on */
#define COLO_START_FLAGS        (COLO_START_VERIFY_RAM | COLO_START_ARBITER)

void colo_start_encode(const ColoStart *s, uint8_t out[COLO_START_LEN]);
bool colo_start_decode(const uint8_t *buf, size_t len, ColoStart *s,
                       Error **errp);

/* CHECKPOINT_REPLY: runs of pages of one block */
#define COLO_RUN_LEN 16
typedef struct ColoRun {
    uint32_t block;                     /* index in CHECKPOINT_READY */
    uint32_t npages;
    uint64_t page;                      /* first, within the block */
} ColoRun;

void colo_run_encode(const ColoRun *r, uint8_t out[COLO_RUN_LEN]);
/* Only the shape; the caller checks the range against its own blocks */
void colo_run_decode(const uint8_t in[COLO_RUN_LEN], ColoRun *r);

/* PAGES: count, then an entry a page, then the data of those not zero */
#define COLO_PAGES_HDR_LEN  8
#define COLO_PAGE_ENTRY_LEN 16
#define COLO_PAGE_ZERO      1
typedef struct ColoPageEntry {
    uint32_t block;
    uint32_t flags;                     /* COLO_PAGE_* */
    uint64_t page;
} ColoPageEntry;

void colo_page_entry_encode(const ColoPageEntry *e,
                            uint8_t out[COLO_PAGE_ENTRY_LEN]);
bool colo_page_entry_decode(const uint8_t in[COLO_PAGE_ENTRY_LEN],
                            ColoPageEntry *e, Error **errp);
/*
 * colo_pages_count: how many entries a PAGES frame of @length bytes has
 *
 * @hdr: the first COLO_PAGES_HDR_LEN bytes of its payload
 * Returns 0 with @errp set if the count is out of bounds.
 */
uint32_t colo_pages_count(const uint8_t hdr[COLO_PAGES_HDR_LEN],
                          uint64_t length, Error **errp);

/*
 * HASHES: count, then an entry and a hash a page.  The hash of a zero page is
 * not looked at: the flag says it all.
 *
 * WANTED answers one HASHES frame: a bit a page of it, the first page is the
 * lowest bit of the first byte.  Pages that are wanted follow in a PAGES frame.
 */
#define COLO_HASH_LEN       16
#define COLO_HASH_ENTRY_LEN (COLO_PAGE_ENTRY_LEN + COLO_HASH_LEN)
#define COLO_WANTED_LEN     (COLO_PAGES_PER_FRAME / 8)

/* The same as colo_pages_count(), for a HASHES frame of exactly @length */
uint32_t colo_hashes_count(const uint8_t hdr[COLO_PAGES_HDR_LEN],
                           uint64_t length, Error **errp);

/* VMSTATE_SIZE: the tail of a checkpoint, then the device state itself */
#define COLO_TAIL_LEN 32
typedef struct ColoTail {
    uint64_t npages;                    /* in PAGES frames, and zero in HASHES */
    uint64_t ram_hash;                  /* 0 unless COLO_START_VERIFY_RAM */
    uint32_t device_len;                /* bytes that follow */
    uint32_t run_state;                 /* ColoRunState */
    uint32_t flags;                     /* COLO_TAIL_* */
    uint32_t disk_hash;                 /* 0 unless COLO_START_VERIFY_RAM */
} ColoTail;
#define COLO_TAIL_HASHES    1           /* ram_hash and disk_hash are there */
#define COLO_TAIL_SUSPENDED 2           /* when it runs, the guest sleeps (S3) */
#define COLO_TAIL_FLAGS     (COLO_TAIL_HASHES | COLO_TAIL_SUSPENDED)

/* What the guest does if the secondary goes on from a checkpoint */
typedef enum ColoRunState {
    COLO_RUN_RUNNING,
    COLO_RUN_PAUSED,
    COLO_RUN_SHUTDOWN,
    COLO_RUN__MAX,
} ColoRunState;

void colo_tail_encode(const ColoTail *t, uint8_t out[COLO_TAIL_LEN]);
bool colo_tail_decode(const uint8_t in[COLO_TAIL_LEN], uint64_t length,
                      ColoTail *t, Error **errp);

/*
 * SECTIONS: count, then for each section of the device state, in their order:
 * instance (4), version (4), length in bytes with head and foot (8), length of
 * the name (1), name
 */
#define COLO_SECTIONS_HDR_LEN   4
#define COLO_SECTION_LEN        16

/*
 * ALIVE: what a side says of itself, and that it hears the other one.  Clocks
 * are of their owner, in nanoseconds, and only he compares them.
 */
#define COLO_ALIVE_LEN 28
typedef struct ColoAlive {
    uint64_t progress;                  /* grows while the work gets on */
    uint64_t stamp;                     /* the sender's clock */
    uint64_t echo;                      /* the peer's latest stamp; 0: none */
    uint16_t flags;                     /* COLO_ALIVE_* */
    uint16_t round;                     /* of the sender's questions */
} ColoAlive;
#define COLO_ALIVE_LOST     1           /* the sender has lost the peer */
#define COLO_ALIVE_FLAGS    COLO_ALIVE_LOST

void colo_alive_encode(const ColoAlive *a, uint8_t out[COLO_ALIVE_LEN]);
bool colo_alive_decode(const uint8_t *buf, size_t len, ColoAlive *a,
                       Error **errp);

/* BYE: why */
typedef enum ColoByeReason {
    COLO_BYE_QUIT,
    COLO_BYE_GUEST_SHUTDOWN,
    COLO_BYE_CANCEL,
    COLO_BYE_INCOMPATIBLE,
    COLO_BYE_DISK,
    COLO_BYE_PAUSE,
    COLO_BYE_FAILOVER,
    COLO_BYE__MAX,
} ColoByeReason;

#define COLO_BYE_LEN 4
const char *colo_bye_reason_str(ColoByeReason r);
/* False for a fault, in which case the peer keeps to the order of an end */
bool colo_bye_is_request(ColoByeReason r);
void colo_bye_encode(ColoByeReason r, uint8_t out[COLO_BYE_LEN]);
bool colo_bye_decode(const uint8_t *buf, size_t len, ColoByeReason *r,
                     Error **errp);

#endif
