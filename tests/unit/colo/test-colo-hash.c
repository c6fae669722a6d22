/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hash of the tables of flows: it is SipHash-1-3, and nobody can choose
 * addresses, or identifications of fragments, that share a hash.
 */

#include "qemu/osdep.h"
#include "qemu/xxhash.h"
#include "net/eth.h"
#include "net/colo/packet-int.h"
#include "net/colo/siphash.h"

#define CHOSEN      20000

/* Of the bytes 0, 1, 2, ... with a key of zeroes */
static void test_vectors(void)
{
    static const struct {
        size_t len;
        uint64_t hash;
    } vectors[] = {
        { 7, 0x2f098ab0c751325aull },
        { 8, 0xead411e67ebe2eeaull },
        { 44, 0xd857641079efd1fdull },
        { 48, 0xfe1f2445ba50237full },
    };
    ColoSipKey zero = { }, other = { .k[1] = 1 };
    uint8_t data[48];

    for (int i = 0; i < sizeof(data); i++) {
        data[i] = i;
    }
    for (int i = 0; i < ARRAY_SIZE(vectors); i++) {
        g_assert_cmphex(colo_siphash(&zero, data, vectors[i].len), ==,
                        vectors[i].hash);
        g_assert_cmphex(colo_siphash(&other, data, vectors[i].len), !=,
                        vectors[i].hash);
    }
}

static uint32_t inverse(uint32_t a)
{
    uint32_t x = a;

    for (int i = 0; i < 5; i++) {
        x *= 2 - a * x;
    }
    return x;
}

static uint32_t xx_step(uint32_t h, uint32_t word)
{
    return rol32(h + word * PRIME32_3, 17) * PRIME32_4;
}

static uint32_t xx_lane(uint32_t seed, uint32_t word, int rol)
{
    return rol32(rol32(seed + word * PRIME32_2, 13) * PRIME32_1, rol);
}

/*
 * Addresses of one /64 that are the same to qemu_xxhash8(): the last word makes
 * up for the one before it
 */
static void choose_address(ColoFlowKey *key, uint32_t n)
{
    uint32_t w[8], h;

    memcpy(w, key->src, 16);
    memcpy(w + 4, key->dst, 16);
    w[6] = n;
    h = xx_lane(QEMU_XXHASH_SEED + PRIME32_1 + PRIME32_2, w[0], 1) +
        xx_lane(QEMU_XXHASH_SEED + PRIME32_2, w[1], 7) +
        xx_lane(QEMU_XXHASH_SEED, w[2], 12) +
        xx_lane(QEMU_XXHASH_SEED - PRIME32_1, w[3], 18) + 28;
    h = xx_step(xx_step(xx_step(h, w[4]), w[5]), w[6]);
    w[7] = (12345 - h) * inverse(PRIME32_3);
    memcpy(key->dst, w + 4, 16);
}

static void test_chosen_addresses(void)
{
    g_autoptr(GHashTable) hashes = g_hash_table_new(NULL, NULL);
    ColoFlowKey key = {
        .vlan = { 0xffff, 0xffff },
        .ethertype = ETH_P_IPV6,
        .sport = 80,
        .dport = 4000,
        .proto = 6,
        .kind = COLO_PACKET_TCP,
    };

    memcpy(key.src, "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\1", 16);
    memcpy(key.dst, "\x20\x01\x0d\xb8\0\1\0\0", 8);
    for (uint32_t i = 0; i < CHOSEN; i++) {
        choose_address(&key, 0x10000 + i * 2654435761u);
        g_hash_table_add(hashes, GUINT_TO_POINTER(colo_flow_key_hash(&key)));
    }
    /* Two of them by chance are no surprise in 32 bits, ten are */
    g_assert_cmpuint(g_hash_table_size(hashes), >, CHOSEN - 10);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/hash/vectors", test_vectors);
    g_test_add_func("/colo/hash/chosen-addresses", test_chosen_addresses);
    return g_test_run();
}
