/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's program: a writer of numbered blocks, and who reads them back.
 *
 *   7007  disk       "DEVICE SEED SLOTS PAUSE_US\n" in; the device is divided
 *                    into that many slots, and block n goes to slot n % SLOTS.
 *                    Blocks are written in groups of 1 to 8; when the device
 *                    has said that a group is durable, "FIRST LAST\n" goes out
 *                    and the next group is begun PAUSE_US later.  Another seed
 *                    starts at 0, the same goes on
 *
 * The control command "verify DEVICE" stops the writer between two groups and
 * reads all slots: each has to have the latest block that belongs there, every
 * byte of it, and one that none was written to has no block of that seed.  The
 * answer is "ok NEXT SLOTS": NEXT is the number that comes after the last one
 * that is durable.
 *
 * What the guest remembers is in its memory, so disk and memory have to be of
 * the same instant, whatever has happened to the host.
 *
 * A thread for each connection, as for other services.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-guest.h"
#include "colo-stream.h"

#define MAX_DISKS           4
#define SEND_BUFFER         (4 << 20)
#define MAX_SLOTS           (1ULL << 20)
#define MAX_GROUP           8
#define BLOCK_BYTES         4096
#define MAGIC               0x4b5349444f4c4f43ULL   /* COLODISK */

typedef struct Block {
    uint64_t magic;
    uint64_t seed;
    uint64_t number;
    uint32_t sum;           /* CRC-32 of the data */
    uint32_t zero;
    uint8_t data[BLOCK_BYTES - 32];
} Block;

_Static_assert(sizeof(Block) == BLOCK_BYTES, "Block");

typedef struct Disk {
    pthread_mutex_t lock;   /* of all below; held while a group is written */
    char path[64];          /* "" = unused */
    int fd;
    bool has_writer;
    uint64_t seed;
    uint64_t slots;
    uint64_t stride;
    uint64_t next;          /* the first number that is not durable */
    Block *block;           /* for I/O */
} Disk;

static pthread_mutex_t disks_lock = PTHREAD_MUTEX_INITIALIZER;
static Disk disks[MAX_DISKS];   /* disks_lock: path goes from "" to a name */

static uint32_t crc32_of(const uint8_t *p, size_t len)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190,
        0x6b6b51f4, 0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344,
        0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278,
        0xbdbdf21c,
    };
    uint32_t crc = ~0U;

    while (len--) {
        crc ^= *p++;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

static void fill_block(Block *block, uint64_t seed, uint64_t number)
{
    ColoStream stream;

    block->magic = MAGIC;
    block->seed = seed;
    block->number = number;
    block->zero = 0;
    colo_stream_init(&stream, seed ^ number << 20);
    colo_stream_fill(&stream, block->data, sizeof(block->data));
    block->sum = crc32_of(block->data, sizeof(block->data));
}

/* The disk of that path, opened at its first use; NULL with errno */
static Disk *get_disk(const char *path)
{
    Disk *disk = NULL;
    int i;

    pthread_mutex_lock(&disks_lock);
    for (i = 0; i < MAX_DISKS && !disk; i++) {
        if (!strcmp(disks[i].path, path)) {
            disk = &disks[i];
        } else if (!*disks[i].path) {
            break;
        }
    }
    errno = ENOSPC;
    if (!disk && i < MAX_DISKS && strlen(path) < sizeof(disk->path)) {
        int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);

        if (fd < 0 && errno == EINVAL) {
            fd = open(path, O_RDWR | O_CLOEXEC);    /* not a device */
        }
        if (fd >= 0) {
            disk = &disks[i];
            disk->block = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
            disk->fd = fd;
            pthread_mutex_init(&disk->lock, NULL);
            strcpy(disk->path, path);
        }
    }
    pthread_mutex_unlock(&disks_lock);
    return disk;
}

static bool begin_writing(Disk *disk, uint64_t seed, uint64_t slots)
{
    off_t size = lseek(disk->fd, 0, SEEK_END);
    bool ok = false;

    pthread_mutex_lock(&disk->lock);
    if (!disk->has_writer && disk->block && slots && slots <= MAX_SLOTS &&
        size / BLOCK_BYTES >= (off_t)slots) {
        if (disk->seed != seed || disk->slots != slots) {
            disk->seed = seed;
            disk->slots = slots;
            disk->next = 0;
        }
        disk->stride = size / slots / BLOCK_BYTES * BLOCK_BYTES;
        disk->has_writer = true;
        ok = true;
    }
    pthread_mutex_unlock(&disk->lock);
    return ok;
}

static void end_writing(Disk *disk)
{
    pthread_mutex_lock(&disk->lock);
    disk->has_writer = false;
    pthread_mutex_unlock(&disk->lock);
}

static bool write_block(Disk *disk, uint64_t number)
{
    uint64_t slot = number % disk->slots;

    fill_block(disk->block, disk->seed, number);
    if (fault && slot == FAULT_TICK) {
        if (fault == FAULT_LOSE) {
            return true;
        } else if (fault == FAULT_CHANGE) {
            disk->block->data[1000] ^= 1;
        } else if (fault == FAULT_REPLAY) {
            fill_block(disk->block, disk->seed, number + disk->slots);
        }
    }
    return pwrite(disk->fd, disk->block, BLOCK_BYTES, slot * disk->stride) ==
           BLOCK_BYTES;
}

/* The next blocks, until they are durable */
static bool write_group(Disk *disk, uint64_t *first, uint64_t *last)
{
    bool ok = true;

    pthread_mutex_lock(&disk->lock);
    *first = disk->next;
    *last = *first + (*first * 2654435761U >> 16) % MAX_GROUP;
    for (uint64_t number = *first; ok && number <= *last; number++) {
        ok = write_block(disk, number);
    }
    ok = ok && fdatasync(disk->fd) == 0;
    if (ok) {
        disk->next = *last + 1;
    }
    pthread_mutex_unlock(&disk->lock);
    return ok;
}

void serve_disk(int fd)
{
    unsigned long long seed, slots, pause_us;
    int bytes = SEND_BUFFER;
    uint64_t first, last;
    char line[128], path[64];
    Disk *disk;

    if (!recv_line(fd, line, sizeof(line)) ||
        sscanf(line, "%63s %llu %llu %llu", path, &seed, &slots,
               &pause_us) != 4) {
        return;
    }
    disk = get_disk(path);
    if (!disk || !begin_writing(disk, seed, slots)) {
        send_line(fd, "error %s: %s\n", path,
                  disk ? "busy, or not for so many slots" : strerror(errno));
        return;
    }
    /* Go on writing for long while nothing is acknowledged */
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes));
    while (write_group(disk, &first, &last)) {
        int times = fault == FAULT_REPEAT && first <= FAULT_TICK &&
                    last >= FAULT_TICK ? 2 : 1;

        for (int i = 0; i < times; i++) {
            if (!send_line(fd, "%llu %llu\n", (unsigned long long)first,
                           (unsigned long long)last)) {
                end_writing(disk);
                return;
            }
        }
        sleep_until(now_ns() + (int64_t)pause_us * 1000);
    }
    send_line(fd, "error %s: %s\n", path, strerror(errno));
    end_writing(disk);
}

/* What is wrong with a slot, or NULL */
static const char *check_slot(const Disk *disk, uint64_t slot, Block *want)
{
    const Block *block = disk->block;
    bool ours = block->magic == MAGIC && block->seed == disk->seed;
    uint64_t number;

    if (slot >= disk->next) {
        return ours ? "nothing was written" : NULL;
    }
    number = disk->next - 1 - (disk->next - 1 - slot) % disk->slots;
    if (!ours) {
        return "there is no block";
    }
    if (block->number != number) {
        return block->number < number ? "an old block" : "a block to come";
    }
    fill_block(want, disk->seed, number);
    return memcmp(want, block, BLOCK_BYTES) ? "wrong bytes" : NULL;
}

/* Under the lock */
static void verify(int fd, Disk *disk)
{
    static Block want;      /* verify_lock */
    static pthread_mutex_t verify_lock = PTHREAD_MUTEX_INITIALIZER;
    const char *wrong = NULL;
    uint64_t slot;

    pthread_mutex_lock(&verify_lock);
    for (slot = 0; !wrong && slot < disk->slots; slot++) {
        if (pread(disk->fd, disk->block, BLOCK_BYTES, slot * disk->stride) !=
            BLOCK_BYTES) {
            wrong = strerror(errno);
        } else {
            wrong = check_slot(disk, slot, &want);
        }
    }
    pthread_mutex_unlock(&verify_lock);
    if (wrong) {
        send_line(fd, "error %s slot %llu of %llu, next is %llu: %s, "
                  "number %llu\n", disk->path, (unsigned long long)slot - 1,
                  (unsigned long long)disk->slots,
                  (unsigned long long)disk->next, wrong,
                  (unsigned long long)disk->block->number);
    } else {
        send_line(fd, "ok %llu %llu\n", (unsigned long long)disk->next,
                  (unsigned long long)disk->slots);
    }
}

void control_verify(int fd, const char *args)
{
    Disk *disk = NULL;

    pthread_mutex_lock(&disks_lock);
    for (int i = 0; i < MAX_DISKS && *args; i++) {
        if (!strcmp(disks[i].path, args)) {
            disk = &disks[i];
        }
    }
    pthread_mutex_unlock(&disks_lock);
    if (!disk) {
        send_line(fd, "error nobody has written there\n");
        return;
    }
    pthread_mutex_lock(&disk->lock);
    verify(fd, disk);
    pthread_mutex_unlock(&disk->lock);
}
