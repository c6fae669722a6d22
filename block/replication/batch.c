/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: batches, packed and checked.  See batch.h.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "batch.h"

#define INFO_MAGIC 0x434f4c4f53494e4bULL    /* COLOSINK */
#define BATCH_MAGIC 0x434f4c4f42415443ULL   /* COLOBATC */
#define GROW_MAGIC 0x434f4c4f47524f57ULL    /* COLOGROW */
#define VIEW_MAGIC 0x434f4c4f56494557ULL    /* COLOVIEW */
#define VERSION 3

/* Offsets of the fields */
enum {
    INFO_AT_MAGIC = 0,
    INFO_AT_VERSION = 8,        /* 32 bits */
    INFO_AT_WINDOW = 12,        /* 32 bits, bytes */
    INFO_AT_BEGIN = 16,         /* of the window */
    INFO_AT_NUMBER = 24,        /* of its generation */
    INFO_AT_ROLE = 32,          /* 32 bits, from 1; 0: it keeps none */
    INFO_AT_LENGTH = 40,        /* of the disk */

    GROW_AT_MAGIC = 0,
    GROW_AT_STATE = 8,          /* 32 bits; 32 more are 0 */
    GROW_AT_NUMBER = 16,
    GROW_AT_LENGTH = 24,
    GROW_AT_REASON = 32,

    HEAD_AT_MAGIC = 0,
    HEAD_AT_SESSION = 8,
    HEAD_AT_NUMBER = 16,
    HEAD_AT_ENTRIES = 24,       /* 32 bits; 32 more are 0 */

    ENTRY_AT_TYPE = 0,          /* 32 bits; 32 more are 0 */
    ENTRY_AT_OFFSET = 8,
    ENTRY_AT_BYTES = 16,
};

/* Roles are numbered from 1 on the wire */
static bool unpack_role(uint64_t value, ColoDiskRole *role)
{
    *role = value - 1;
    return value >= 1 && value <= COLO_DISK_ROLE__MAX;
}

void replication_sink_info_pack(uint8_t *buf, const ReplicationSinkInfo *info)
{
    memset(buf, 0, REPLICATION_SINK_INFO_SIZE);
    stq_be_p(buf + INFO_AT_MAGIC, INFO_MAGIC);
    stl_be_p(buf + INFO_AT_VERSION, VERSION);
    stl_be_p(buf + INFO_AT_WINDOW, REPLICATION_WINDOW);
    stq_be_p(buf + INFO_AT_BEGIN, info->window);
    stq_be_p(buf + INFO_AT_LENGTH, info->length);
    if (info->has_generation) {
        stq_be_p(buf + INFO_AT_NUMBER, info->generation.number);
        stl_be_p(buf + INFO_AT_ROLE, info->generation.role + 1);
    }
}

bool replication_sink_info_unpack(ReplicationSinkInfo *info,
                                  const uint8_t *buf, int64_t window,
                                  Error **errp)
{
    uint32_t role = ldl_be_p(buf + INFO_AT_ROLE);

    if (ldq_be_p(buf + INFO_AT_MAGIC) != INFO_MAGIC ||
        ldq_be_p(buf + INFO_AT_BEGIN) != window) {
        error_setg(errp, "it is no 'replication-sink'");
        return false;
    }
    if (ldl_be_p(buf + INFO_AT_VERSION) != VERSION ||
        ldl_be_p(buf + INFO_AT_WINDOW) != REPLICATION_WINDOW) {
        error_setg(errp, "it is a 'replication-sink' of version %" PRIu32
                   " with a window of %" PRIu32 " bytes, not %d and %" PRIu64,
                   ldl_be_p(buf + INFO_AT_VERSION),
                   ldl_be_p(buf + INFO_AT_WINDOW), VERSION,
                   (uint64_t)REPLICATION_WINDOW);
        return false;
    }
    info->window = window;
    info->length = ldq_be_p(buf + INFO_AT_LENGTH);
    if (info->length < window) {
        error_setg(errp, "its disk has %" PRId64 " bytes, and has lost some",
                   info->length);
        return false;
    }
    info->has_generation = role != 0;
    info->generation.number = ldq_be_p(buf + INFO_AT_NUMBER);
    if (role && !unpack_role(role, &info->generation.role)) {
        error_setg(errp, "its disk has a role that is not known here, number "
                   "%" PRIu32, role);
        return false;
    }
    return true;
}

void replication_grow_pack(uint8_t *buf, const ReplicationGrow *grow)
{
    QEMU_BUILD_BUG_ON(GROW_AT_REASON + sizeof(grow->reason) >
                      REPLICATION_GROW_SIZE);
    memset(buf, 0, REPLICATION_GROW_SIZE);
    stq_be_p(buf + GROW_AT_MAGIC, GROW_MAGIC);
    stl_be_p(buf + GROW_AT_STATE, grow->state);
    stq_be_p(buf + GROW_AT_NUMBER, grow->number);
    stq_be_p(buf + GROW_AT_LENGTH, grow->length);
    pstrcpy((char *)buf + GROW_AT_REASON, sizeof(grow->reason), grow->reason);
}

bool replication_grow_unpack(ReplicationGrow *grow, const uint8_t *buf)
{
    uint32_t state = ldl_be_p(buf + GROW_AT_STATE);

    grow->state = state;
    grow->number = ldq_be_p(buf + GROW_AT_NUMBER);
    grow->length = ldq_be_p(buf + GROW_AT_LENGTH);
    memcpy(grow->reason, buf + GROW_AT_REASON, sizeof(grow->reason));
    grow->reason[sizeof(grow->reason) - 1] = '\0';
    return ldq_be_p(buf + GROW_AT_MAGIC) == GROW_MAGIC &&
           state <= REPLICATION_GROW_LATER && grow->length >= 0;
}

void replication_view_pack(uint8_t *buf, const ReplicationView *view)
{
    memset(buf, 0, REPLICATION_VIEW_HEAD);
    stq_be_p(buf, VIEW_MAGIC);
    stq_be_p(buf + 8, view->offset);
    stq_be_p(buf + 16, view->bytes);
}

bool replication_view_unpack(ReplicationView *view, const uint8_t *buf)
{
    view->offset = ldq_be_p(buf + 8);
    view->bytes = ldq_be_p(buf + 16);
    return ldq_be_p(buf) == VIEW_MAGIC && view->offset >= 0 &&
           view->bytes >= 0 && view->bytes <= REPLICATION_VIEW_DATA &&
           view->offset <= INT64_MAX - view->bytes;
}

void replication_entry_set_generation(ReplicationEntry *entry,
                                      const ColoDiskGeneration *g)
{
    entry->offset = g ? g->number : 0;
    entry->bytes = g ? g->role + 1 : 0;
}

bool replication_entry_generation(const ReplicationEntry *entry,
                                  ColoDiskGeneration *g)
{
    g->number = entry->offset;
    return unpack_role(entry->bytes, &g->role);
}

size_t replication_batch_size(unsigned n_entries)
{
    return ROUND_UP(REPLICATION_BATCH_HEAD_SIZE +
                    n_entries * REPLICATION_BATCH_ENTRY_SIZE,
                    REPLICATION_BATCH_ALIGN);
}

int64_t replication_batch_data(const ReplicationBatch *batch)
{
    int64_t bytes = 0;

    for (unsigned i = 0; i < batch->n_entries; i++) {
        if (batch->entries[i].type == REPLICATION_ENTRY_WRITE) {
            bytes += batch->entries[i].bytes;
        }
    }
    return bytes;
}

void replication_batch_pack(const ReplicationBatch *batch, uint8_t *buf)
{
    memset(buf, 0, replication_batch_size(batch->n_entries));
    stq_be_p(buf + HEAD_AT_MAGIC, BATCH_MAGIC);
    stq_be_p(buf + HEAD_AT_SESSION, batch->session);
    stq_be_p(buf + HEAD_AT_NUMBER, batch->number);
    stl_be_p(buf + HEAD_AT_ENTRIES, batch->n_entries);
    buf += REPLICATION_BATCH_HEAD_SIZE;
    for (unsigned i = 0; i < batch->n_entries; i++) {
        stl_be_p(buf + ENTRY_AT_TYPE, batch->entries[i].type);
        stq_be_p(buf + ENTRY_AT_OFFSET, batch->entries[i].offset);
        stq_be_p(buf + ENTRY_AT_BYTES, batch->entries[i].bytes);
        buf += REPLICATION_BATCH_ENTRY_SIZE;
    }
}

static bool unpack_entry(ReplicationEntry *entry, const uint8_t *buf,
                         int64_t length)
{
    uint64_t offset = ldq_be_p(buf + ENTRY_AT_OFFSET);
    uint64_t bytes = ldq_be_p(buf + ENTRY_AT_BYTES);

    entry->type = ldl_be_p(buf + ENTRY_AT_TYPE);
    entry->offset = offset;
    entry->bytes = bytes;
    switch (entry->type) {
    case REPLICATION_ENTRY_WRITE:
    case REPLICATION_ENTRY_ZERO:
    case REPLICATION_ENTRY_ZERO_UNMAP:
    case REPLICATION_ENTRY_DISCARD:
        return bytes && bytes <= length && offset <= length - bytes;
    case REPLICATION_ENTRY_FLUSH:
        return !offset && !bytes;
    case REPLICATION_ENTRY_RESYNC_BEGIN:
    case REPLICATION_ENTRY_RESYNC_END:
        return bytes <= COLO_DISK_ROLE__MAX && (bytes || !offset);
    case REPLICATION_ENTRY_GROW:
        return offset && offset <= length && !bytes;
    case REPLICATION_ENTRY_COMMON:
        return offset && offset <= INT64_MAX && !bytes;
    case REPLICATION_ENTRY_MARK:
        return offset <= INT64_MAX && !bytes;
    }
    return false;
}

bool replication_batch_unpack(ReplicationBatch *batch, const uint8_t *buf,
                              size_t size, size_t bytes, int64_t length)
{
    uint64_t left;

    if (size < REPLICATION_BATCH_HEAD_SIZE ||
        ldq_be_p(buf + HEAD_AT_MAGIC) != BATCH_MAGIC) {
        return false;
    }
    batch->session = ldq_be_p(buf + HEAD_AT_SESSION);
    batch->number = ldq_be_p(buf + HEAD_AT_NUMBER);
    batch->n_entries = ldl_be_p(buf + HEAD_AT_ENTRIES);
    if (!batch->number || batch->n_entries > REPLICATION_BATCH_ENTRIES ||
        replication_batch_size(batch->n_entries) > size) {
        return false;
    }
    left = bytes - replication_batch_size(batch->n_entries);
    buf += REPLICATION_BATCH_HEAD_SIZE;
    for (unsigned i = 0; i < batch->n_entries; i++) {
        ReplicationEntry *entry = &batch->entries[i];

        if (!unpack_entry(entry, buf, length)) {
            return false;
        }
        if (entry->type == REPLICATION_ENTRY_WRITE) {
            if (entry->bytes > left) {
                return false;
            }
            left -= entry->bytes;
        }
        buf += REPLICATION_BATCH_ENTRY_SIZE;
    }
    return true;
}
