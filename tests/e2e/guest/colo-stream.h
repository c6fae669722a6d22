/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The byte stream that the end-to-end tests send through a protected guest.
 *
 * Both the program in the guest and the client on the other side make the same
 * bytes from a seed, so every byte that arrives can be checked: one that is
 * lost, repeated or changed shifts or breaks the stream and shows at once.
 * The generator is xorshift64* (Vigna 2016): no period that a test could reach,
 * and cheap enough for a guest that runs under TCG.
 *
 * A stream belongs to one thread.
 */
#ifndef COLO_STREAM_H
#define COLO_STREAM_H

#include <stdint.h>
#include <stddef.h>
#include <string.h>

typedef struct ColoStream {
    uint64_t state;
    uint64_t word;      /* bytes made and not used yet, lowest first */
    unsigned left;      /* how many of them */
} ColoStream;

static inline void colo_stream_init(ColoStream *s, uint64_t seed)
{
    uint64_t z = seed + 0x9e3779b97f4a7c15ULL;

    /* One splitmix64 step: neighbouring seeds give unrelated streams */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    z ^= z >> 31;
    s->state = z ? z : 1;
    s->word = 0;
    s->left = 0;
}

static inline uint64_t colo_stream_word(ColoStream *s)
{
    uint64_t x = s->state;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    s->state = x;
    return x * 2685821657736338717ULL;
}

static inline uint8_t colo_stream_byte(ColoStream *s)
{
    uint8_t byte;

    if (!s->left) {
        s->word = colo_stream_word(s);
        s->left = 8;
    }
    byte = s->word;
    s->word >>= 8;
    s->left--;
    return byte;
}

/* The next @len bytes of the stream into @buf (little-endian hosts only) */
static inline void colo_stream_fill(ColoStream *s, uint8_t *buf, size_t len)
{
    size_t i = 0;

    while (i < len && s->left) {
        buf[i++] = colo_stream_byte(s);
    }
    for (; i + 8 <= len; i += 8) {
        uint64_t word = colo_stream_word(s);

        memcpy(buf + i, &word, 8);
    }
    while (i < len) {
        buf[i++] = colo_stream_byte(s);
    }
}

/* Compare @buf with the next @len bytes: how many are right, @len if all */
static inline size_t colo_stream_check(ColoStream *s, const uint8_t *buf,
                                       size_t len)
{
    size_t i = 0;

    while (i < len && s->left) {
        if (buf[i] != colo_stream_byte(s)) {
            return i;
        }
        i++;
    }
    for (; i + 8 <= len; i += 8) {
        uint64_t word = colo_stream_word(s);

        if (memcmp(buf + i, &word, 8)) {
            size_t j = 0;

            while (buf[i + j] == (uint8_t)(word >> (8 * j))) {
                j++;
            }
            return i + j;
        }
    }
    while (i < len) {
        if (buf[i] != colo_stream_byte(s)) {
            return i;
        }
        i++;
    }
    return len;
}

#endif /* COLO_STREAM_H */
