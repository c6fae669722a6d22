/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: SipHash-1-3, a keyed hash (Jean-Philippe Aumasson and Daniel J.
 * Bernstein, "SipHash: a fast short-input PRF", 2012).
 *
 * For tables whose keys others choose: without the key nobody can find inputs
 * that collide, however many of them he sends.  Pure, any thread.
 */

#ifndef QEMU_NET_COLO_SIPHASH_H
#define QEMU_NET_COLO_SIPHASH_H

#include "qemu/bitops.h"
#include "qemu/bswap.h"

typedef struct ColoSipKey {
    uint64_t k[2];
} ColoSipKey;

static inline void colo_sip_rounds(uint64_t v[4], unsigned rounds)
{
    while (rounds--) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rol64(v[1], 13) ^ v[0];
        v[3] = rol64(v[3], 16) ^ v[2];
        v[0] = rol64(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rol64(v[1], 17) ^ v[2];
        v[3] = rol64(v[3], 21) ^ v[0];
        v[2] = rol64(v[2], 32);
    }
}

static inline void colo_sip_word(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    colo_sip_rounds(v, 1);
    v[0] ^= word;
}

static inline uint64_t colo_siphash(const ColoSipKey *key, const void *data,
                                    size_t len)
{
    uint64_t v[4] = {
        key->k[0] ^ 0x736f6d6570736575ull, key->k[1] ^ 0x646f72616e646f6dull,
        key->k[0] ^ 0x6c7967656e657261ull, key->k[1] ^ 0x7465646279746573ull,
    };
    uint64_t last = (uint64_t)len << 56;
    const uint8_t *p = data;

    for (; len >= 8; p += 8, len -= 8) {
        colo_sip_word(v, ldq_le_p(p));
    }
    while (len--) {
        last |= (uint64_t)p[len] << (8 * len);
    }
    colo_sip_word(v, last);
    v[2] ^= 0xff;
    colo_sip_rounds(v, 3);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
