/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: the file of an intent log, when the power is cut.
 *
 * Proves: whatever sectors of 512 bytes have become of what was not flushed, a
 * log that can be loaded has each bit that was flushed, and those of no other
 * log; one that was being made anew is the old one, the new one, or none.  A bit
 * that is flipped anywhere is noticed.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "block/replication/intent-file.h"

#define SECTOR 512
#define BITS_AT 8192
#define LENGTH (1000 * MiB)     /* several sectors of bits */
#define REGION (64 * KiB)
#define ROUNDS 300

typedef struct File {
    int fd;
    char *flushed;              /* what is there for good */
    gsize length;
    ReplicationIntentHead head;
    uint64_t *words;
    uint64_t n_words;
} File;

static char *contents(File *f, gsize *length)
{
    struct stat st;
    char *data;

    g_assert_cmpint(fstat(f->fd, &st), ==, 0);
    *length = st.st_size;
    data = g_malloc0(MAX(st.st_size, 1));
    g_assert_cmpint(pread(f->fd, data, st.st_size, 0), ==, st.st_size);
    return data;
}

static void flushed(File *f)
{
    g_free(f->flushed);
    f->flushed = contents(f, &f->length);
}

/* Of what was written since, sectors at random; the length has changed or not */
static void cut(File *f)
{
    gsize length;
    g_autofree char *data = contents(f, &length);

    for (gsize at = 0; at < length; at += SECTOR) {
        gsize bytes = MIN(SECTOR, length - at);
        gsize was = at < f->length ? MIN(bytes, f->length - at) : 0;

        if (g_test_rand_bit()) {
            memset(data + at, 0, bytes);
            memcpy(data + at, f->flushed + at, was);
        }
    }
    if (g_test_rand_bit() && f->length < length) {
        length = f->length;
    }
    g_assert_cmpint(ftruncate(f->fd, length), ==, 0);
    g_assert_cmpint(pwrite(f->fd, data, length, 0), ==, length);
}

static File *file_new(void)
{
    File *f = g_new0(File, 1);
    g_autofree char *path = NULL;

    f->fd = g_file_open_tmp("replication-intent-XXXXXX", &path, NULL);
    g_assert_cmpint(f->fd, >=, 0);
    unlink(path);
    f->head.length = LENGTH;
    f->head.region = REGION;
    f->head.common = 7;
    f->n_words = replication_intent_words(LENGTH, REGION);
    f->words = g_new0(uint64_t, f->n_words);
    flushed(f);
    return f;
}

static void file_free(File *f)
{
    close(f->fd);
    g_free(f->flushed);
    g_free(f->words);
    g_free(f);
}

static bool load(File *f, ReplicationIntentHead *head, uint64_t **words)
{
    g_autoptr(Error) err = NULL;
    bool ok = replication_intent_load(f->fd, head, words, &err);

    g_assert_cmpint(ok, ==, !err);
    return ok;
}

static void make(File *f)
{
    g_assert_cmpint(replication_intent_make(f->fd, &f->head, f->words), ==, 0);
}

static void test_new(void)
{
    File *f = file_new();
    ReplicationIntentHead head;
    uint64_t *words;

    g_assert_false(load(f, &head, &words));
    replication_intent_set(f->words, LENGTH / REGION - 1);
    make(f);
    g_assert_true(load(f, &head, &words));
    g_assert_cmpmem(words, f->n_words * 8, f->words, f->n_words * 8);
    g_assert_cmpuint(head.common, ==, 7);
    g_assert_cmpuint(head.instance, ==, f->head.instance);
    g_free(words);
    g_assert_cmpint(replication_intent_spoil(f->fd), ==, 0);
    g_assert_false(load(f, &head, &words));
    file_free(f);
}

/* Bits are set, flushed, cleared, and the power is cut */
static void test_bits(void)
{
    File *f = file_new();
    uint64_t n = LENGTH / REGION;

    make(f);
    for (int round = 0; round < ROUNDS; round++) {
        g_autofree uint64_t *must = g_memdup2(f->words, f->n_words * 8);
        ReplicationIntentHead head;
        uint64_t *words;

        flushed(f);
        /* As a clearing and the next writes do: not flushed yet */
        for (int i = 0; i < 20; i++) {
            uint64_t bit = g_test_rand_int_range(0, n);
            uint64_t sector = bit / 64 / REPLICATION_INTENT_WORDS;
            uint8_t buf[SECTOR];

            if (g_test_rand_bit()) {
                replication_intent_set(f->words, bit);
            } else {
                f->words[bit / 64] &= ~(1ULL << (bit % 64));
                must[bit / 64] &= ~(1ULL << (bit % 64));
            }
            replication_intent_pack(buf, &f->head, sector, f->words +
                                    sector * REPLICATION_INTENT_WORDS);
            g_assert_cmpint(replication_intent_store(f->fd, sector, buf), ==,
                            0);
        }
        if (g_test_rand_bit()) {
            f->head.number++;
            g_assert_cmpint(replication_intent_store_head(f->fd, &f->head), ==,
                            0);
        }
        cut(f);
        g_assert_true(load(f, &head, &words));
        for (uint64_t i = 0; i < f->n_words; i++) {
            g_assert_cmphex(words[i] & must[i], ==, must[i]);
        }
        g_assert_cmpuint(head.number, <=, f->head.number);
        f->head = head;
        g_free(f->words);
        f->words = words;
    }
    file_free(f);
}

/* The power is cut while all is made anew */
static void test_anew(void)
{
    int seen[3] = { 0 };

    for (int round = 0; round < ROUNDS; round++) {
        File *f = file_new();
        ReplicationIntentHead head, old;
        uint64_t *words;

        replication_intent_set(f->words, 5);
        make(f);
        flushed(f);
        old = f->head;
        f->head.common = 8;
        memset(f->words, 0, f->n_words * 8);
        make(f);
        cut(f);
        if (!load(f, &head, &words)) {
            seen[0]++;
        } else {
            bool is_old = head.common == 7;

            seen[1 + is_old]++;
            g_assert_cmpuint(head.instance, ==, is_old ? old.instance
                                                       : f->head.instance);
            g_assert_cmpint(replication_intent_test(words, 5), ==, is_old);
            g_free(words);
        }
        file_free(f);
    }
    g_assert_cmpint(seen[0], >, 0);
}

static void test_flipped(void)
{
    File *f = file_new();

    make(f);
    f->head.number = 3;
    g_assert_cmpint(replication_intent_store_head(f->fd, &f->head), ==, 0);
    flushed(f);
    for (int round = 0; round < ROUNDS; round++) {
        gsize at = g_test_rand_int_range(BITS_AT, f->length);
        char byte = f->flushed[at] ^ (1 << g_test_rand_int_range(0, 8));
        ReplicationIntentHead head;
        uint64_t *words;

        g_assert_cmpint(pwrite(f->fd, &byte, 1, at), ==, 1);
        g_assert_false(load(f, &head, &words));
        g_assert_cmpint(pwrite(f->fd, f->flushed + at, 1, at), ==, 1);
    }
    file_free(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/replication/intent/new", test_new);
    g_test_add_func("/replication/intent/bits", test_bits);
    g_test_add_func("/replication/intent/anew", test_anew);
    g_test_add_func("/replication/intent/flipped", test_flipped);
    return g_test_run();
}
