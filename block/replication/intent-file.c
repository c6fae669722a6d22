/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the file of an intent log, both sides.  See intent-file.h.
 */

#include "qemu/osdep.h"
#define XXH_INLINE_ALL
#include <xxhash.h>
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/guest-random.h"
#include "qemu/host-utils.h"
#include "qemu/units.h"
#include "intent-file.h"

#define MAGIC 0x434f4c4f494e5431ULL     /* COLOINT1 */
#define SECTOR 512
#define HEAD_STEP 4096
#define N_HEADS 2
#define BITS_AT (N_HEADS * HEAD_STEP)

/* Offsets of the fields, big-endian */
enum {
    HEAD_AT_MAGIC = 0,
    HEAD_AT_COUNT = 8,
    HEAD_AT_INSTANCE = 16,
    HEAD_AT_LENGTH = 24,
    HEAD_AT_REGION = 32,
    HEAD_AT_NUMBER = 40,
    HEAD_AT_NUMBER_BEFORE = 48,
    HEAD_AT_COMMON = 56,
    HEAD_AT_COMMON_NEXT = 64,
    HEAD_AT_IMAGE = 72,
    AT_HASH = SECTOR - 8,       /* of all before it, of sectors, too */

    SECTOR_AT_INSTANCE = REPLICATION_INTENT_WORDS * 8,
    SECTOR_AT_INDEX = SECTOR_AT_INSTANCE + 8,
};

QEMU_BUILD_BUG_ON(SECTOR_AT_INDEX + 8 != AT_HASH);

uint64_t replication_intent_sectors(int64_t length, uint64_t region)
{
    return DIV_ROUND_UP(DIV_ROUND_UP(length, region),
                        REPLICATION_INTENT_WORDS * 64);
}

uint64_t replication_intent_words(int64_t length, uint64_t region)
{
    return replication_intent_sectors(length, region) *
           REPLICATION_INTENT_WORDS;
}

static int write_at(int fd, const void *buf, size_t bytes, off_t at)
{
    while (bytes) {
        ssize_t n = RETRY_ON_EINTR(pwrite(fd, buf, bytes, at));

        if (n <= 0) {
            return n < 0 ? -errno : -EIO;
        }
        buf = (const uint8_t *)buf + n;
        bytes -= n;
        at += n;
    }
    return 0;
}

/* 0 if there are so many bytes */
static int read_at(int fd, void *buf, size_t bytes, off_t at)
{
    while (bytes) {
        ssize_t n = RETRY_ON_EINTR(pread(fd, buf, bytes, at));

        if (n <= 0) {
            return n < 0 ? -errno : -EIO;
        }
        buf = (uint8_t *)buf + n;
        bytes -= n;
        at += n;
    }
    return 0;
}

static void seal(uint8_t *buf)
{
    stq_be_p(buf + AT_HASH, XXH3_64bits(buf, AT_HASH));
}

static bool is_sealed(const uint8_t *buf)
{
    return ldq_be_p(buf + AT_HASH) == XXH3_64bits(buf, AT_HASH);
}

/* Heads */

static void pack_head(uint8_t *buf, const ReplicationIntentHead *head)
{
    memset(buf, 0, SECTOR);
    stq_be_p(buf + HEAD_AT_MAGIC, MAGIC);
    stq_be_p(buf + HEAD_AT_COUNT, head->count);
    stq_be_p(buf + HEAD_AT_INSTANCE, head->instance);
    stq_be_p(buf + HEAD_AT_LENGTH, head->length);
    stq_be_p(buf + HEAD_AT_REGION, head->region);
    stq_be_p(buf + HEAD_AT_NUMBER, head->number);
    stq_be_p(buf + HEAD_AT_NUMBER_BEFORE, head->number_before);
    stq_be_p(buf + HEAD_AT_COMMON, head->common);
    stq_be_p(buf + HEAD_AT_COMMON_NEXT, head->common_next);
    memcpy(buf + HEAD_AT_IMAGE, head->image, sizeof(head->image));
    seal(buf);
}

static bool unpack_head(ReplicationIntentHead *head, const uint8_t *buf)
{
    if (ldq_be_p(buf + HEAD_AT_MAGIC) != MAGIC || !is_sealed(buf)) {
        return false;
    }
    head->count = ldq_be_p(buf + HEAD_AT_COUNT);
    head->instance = ldq_be_p(buf + HEAD_AT_INSTANCE);
    head->length = ldq_be_p(buf + HEAD_AT_LENGTH);
    head->region = ldq_be_p(buf + HEAD_AT_REGION);
    head->number = ldq_be_p(buf + HEAD_AT_NUMBER);
    head->number_before = ldq_be_p(buf + HEAD_AT_NUMBER_BEFORE);
    head->common = ldq_be_p(buf + HEAD_AT_COMMON);
    head->common_next = ldq_be_p(buf + HEAD_AT_COMMON_NEXT);
    memcpy(head->image, buf + HEAD_AT_IMAGE, sizeof(head->image));
    return head->length > 0 && is_power_of_2(head->region) &&
           head->region >= REPLICATION_INTENT_REGION_MIN &&
           head->region <= REPLICATION_INTENT_REGION_MAX;
}

/* The newest; false with @errp set if there is none */
static bool load_head(int fd, ReplicationIntentHead *head, Error **errp)
{
    uint8_t buf[SECTOR];
    bool found = false;

    for (int i = 0; i < N_HEADS; i++) {
        ReplicationIntentHead one;

        if (read_at(fd, buf, sizeof(buf), i * HEAD_STEP) < 0 ||
            !unpack_head(&one, buf) || one.count % N_HEADS != i) {
            continue;
        }
        if (!found || one.count > head->count) {
            *head = one;
        }
        found = true;
    }
    if (!found) {
        error_setg(errp, "it is new, or has no valid head");
    }
    return found;
}

int replication_intent_store_head(int fd, ReplicationIntentHead *head)
{
    uint8_t buf[SECTOR];
    int ret;

    /* In the place of the older one */
    head->count++;
    pack_head(buf, head);
    ret = write_at(fd, buf, sizeof(buf), head->count % N_HEADS * HEAD_STEP);
    return ret < 0 ? ret : replication_intent_sync(fd);
}

/* Sectors */

void replication_intent_pack(uint8_t *buf, const ReplicationIntentHead *head,
                             uint64_t i, const uint64_t *words)
{
    for (int k = 0; k < REPLICATION_INTENT_WORDS; k++) {
        stq_be_p(buf + k * 8, words[k]);
    }
    stq_be_p(buf + SECTOR_AT_INSTANCE, head->instance);
    stq_be_p(buf + SECTOR_AT_INDEX, i);
    seal(buf);
}

int replication_intent_store(int fd, uint64_t i, const uint8_t *buf)
{
    return write_at(fd, buf, SECTOR, BITS_AT + i * SECTOR);
}

int replication_intent_sync(int fd)
{
    return qemu_fdatasync(fd) < 0 ? -errno : 0;
}

bool replication_intent_load(int fd, ReplicationIntentHead *head,
                             uint64_t **words, Error **errp)
{
    g_autofree uint64_t *all = NULL;
    uint64_t sectors;
    struct stat st;

    if (!load_head(fd, head, errp)) {
        return false;
    }
    sectors = replication_intent_sectors(head->length, head->region);
    if (fstat(fd, &st) < 0 || st.st_size < BITS_AT + sectors * SECTOR) {
        error_setg(errp, "it has been cut short");
        return false;
    }
    all = g_new(uint64_t, sectors * REPLICATION_INTENT_WORDS);
    for (uint64_t i = 0; i < sectors; i++) {
        uint64_t *p = all + i * REPLICATION_INTENT_WORDS;
        uint8_t buf[SECTOR];

        if (read_at(fd, buf, SECTOR, BITS_AT + i * SECTOR) < 0 ||
            !is_sealed(buf) ||
            ldq_be_p(buf + SECTOR_AT_INSTANCE) != head->instance ||
            ldq_be_p(buf + SECTOR_AT_INDEX) != i) {
            error_setg(errp, "its sector %" PRIu64 " is damaged", i);
            return false;
        }
        for (int k = 0; k < REPLICATION_INTENT_WORDS; k++) {
            p[k] = ldq_be_p(buf + k * 8);
        }
    }
    *words = g_steal_pointer(&all);
    return true;
}

int replication_intent_make(int fd, ReplicationIntentHead *head,
                            const uint64_t *words)
{
    uint64_t sectors = replication_intent_sectors(head->length, head->region);
    ReplicationIntentHead old;
    int ret = 0;

    /* Whatever heads are there, this one will be newer */
    head->count = load_head(fd, &old, NULL) ? old.count : 0;
    /* With another instance no sector suits the old head any more */
    qemu_guest_getrandom_nofail(&head->instance, sizeof(head->instance));
    if (ftruncate(fd, BITS_AT + sectors * SECTOR) < 0) {
        return -errno;
    }
    for (uint64_t i = 0; i < sectors && ret >= 0; i++) {
        uint8_t buf[SECTOR];

        replication_intent_pack(buf, head, i,
                                words + i * REPLICATION_INTENT_WORDS);
        ret = replication_intent_store(fd, i, buf);
    }
    if (ret >= 0) {
        ret = replication_intent_sync(fd);
    }
    return ret < 0 ? ret : replication_intent_store_head(fd, head);
}

int replication_intent_spoil(int fd)
{
    uint8_t buf[SECTOR] = { 0 };
    int ret = 0;

    for (int i = 0; i < N_HEADS && ret >= 0; i++) {
        ret = write_at(fd, buf, sizeof(buf), i * HEAD_STEP);
    }
    if (ret >= 0) {
        ret = replication_intent_sync(fd);
    }
    /* Without heads there is nothing either */
    if (ret < 0 && ftruncate(fd, 0) >= 0 && fsync(fd) >= 0) {
        ret = 0;
    }
    return ret;
}
