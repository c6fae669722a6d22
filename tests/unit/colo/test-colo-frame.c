/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO wire protocol, the frames as bytes.
 *
 * Proves: what is encoded is decoded as it was, and whatever is out of bounds
 * is refused: each wrong field of a header, each truncation of a payload.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qapi/error.h"
#include "migration/colo/frame.h"

static void test_header(void)
{
    uint8_t buf[COLO_FRAME_HDR_LEN];

    for (int type = 1; type < COLO_FRAME__MAX; type++) {
        uint64_t lengths[] = { 0, colo_frame_max_length(type) };

        for (int i = 0; i < 2; i++) {
            ColoFrame in = { type, 0x123456789abcdef0ULL, lengths[i] }, out;

            colo_frame_encode(&in, buf);
            g_assert_true(colo_frame_decode(buf, &out, &error_abort));
            g_assert_cmpint(out.type, ==, in.type);
            g_assert_cmpuint(out.epoch, ==, in.epoch);
            g_assert_cmpuint(out.length, ==, in.length);
        }
        g_assert_cmpstr(colo_frame_name(type), !=, "unknown");
    }
    g_assert_cmpstr(colo_frame_name(COLO_FRAME__MAX), ==, "unknown");
}

static void refuse_header(const uint8_t *buf, const char *why)
{
    Error *err = NULL;
    ColoFrame f;

    g_assert_false(colo_frame_decode(buf, &f, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), why));
    error_free(err);
}

static void test_bad_header(void)
{
    ColoFrame f = { COLO_FRAME_PAGES, 1, 100 };
    uint8_t good[COLO_FRAME_HDR_LEN], buf[COLO_FRAME_HDR_LEN];

    colo_frame_encode(&f, good);
    memcpy(buf, good, sizeof(buf));
    buf[3] ^= 1;
    refuse_header(buf, "magic");

    memcpy(buf, good, sizeof(buf));
    stw_be_p(buf + 4, COLO_FRAME_VERSION + 1);
    refuse_header(buf, "version");

    for (int type = 0; type < 65536; type++) {
        if (type >= 1 && type < COLO_FRAME__MAX) {
            continue;
        }
        memcpy(buf, good, sizeof(buf));
        stw_be_p(buf + 6, type);
        refuse_header(buf, "unknown frame type");
    }
    for (int type = 1; type < COLO_FRAME__MAX; type++) {
        memcpy(buf, good, sizeof(buf));
        stw_be_p(buf + 6, type);
        stq_be_p(buf + 16, colo_frame_max_length(type) + 1);
        refuse_header(buf, "at most");
        stq_be_p(buf + 16, UINT64_MAX);
        refuse_header(buf, "at most");
    }
}

static void test_ready(void)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    ColoBlockInfo blocks[3] = {
        { "pc.ram", 1ULL << 40 }, { "", 0 }, { .used_length = 4096 },
    };
    ColoReady in = { 4096, 3, .generation = 1ULL << 60, .blocks = blocks }, out;
    Error *err = NULL;

    memset(blocks[2].id, 'x', 255);
    colo_ready_encode(&in, bytes);
    g_assert_true(colo_ready_decode(bytes->data, bytes->len, &out,
                                    &error_abort));
    g_assert_cmpuint(out.page_size, ==, 4096);
    g_assert_cmpuint(out.nblocks, ==, 3);
    g_assert_cmpuint(out.generation, ==, 1ULL << 60);
    for (int i = 0; i < 3; i++) {
        g_assert_cmpstr(out.blocks[i].id, ==, blocks[i].id);
        g_assert_cmpuint(out.blocks[i].used_length, ==,
                         blocks[i].used_length);
    }
    colo_ready_clear(&out);

    for (size_t len = 0; len < bytes->len; len++) {
        g_assert_false(colo_ready_decode(bytes->data, len, &out, &err));
        error_free_or_abort(&err);
        g_assert_null(out.blocks);
    }
    g_byte_array_append(bytes, (const uint8_t *)"x", 1);
    g_assert_false(colo_ready_decode(bytes->data, bytes->len, &out, &err));
    error_free_or_abort(&err);
    stl_be_p(bytes->data + 4, COLO_BLOCKS_MAX + 1);
    g_assert_false(colo_ready_decode(bytes->data, bytes->len, &out, &err));
    error_free_or_abort(&err);
}

static void test_start(void)
{
    ColoStart in = { 1, 5000, COLO_START_VERIFY_RAM, 1ULL << 60 }, out;
    uint8_t buf[COLO_START_LEN + 1] = { 0 };
    Error *err = NULL;

    qemu_uuid_generate(&in.session);
    colo_start_encode(&in, buf);
    g_assert_true(colo_start_decode(buf, COLO_START_LEN, &out, &error_abort));
    g_assert_cmpuint(out.mode, ==, 1);
    g_assert_cmpuint(out.timeout_ms, ==, 5000);
    g_assert_cmpuint(out.flags, ==, COLO_START_VERIFY_RAM);
    g_assert_cmpuint(out.generation, ==, 1ULL << 60);
    g_assert_true(qemu_uuid_is_equal(&out.session, &in.session));

    for (size_t len = 0; len <= sizeof(buf); len++) {
        if (len != COLO_START_LEN) {
            g_assert_false(colo_start_decode(buf, len, &out, &err));
            error_free_or_abort(&err);
        }
    }
    for (uint32_t ms = 0; ms <= 600001; ms += 600001) {
        in.timeout_ms = ms;
        colo_start_encode(&in, buf);
        g_assert_false(colo_start_decode(buf, COLO_START_LEN, &out, &err));
        error_free_or_abort(&err);
    }
    in.timeout_ms = 600000;
    colo_start_encode(&in, buf);
    g_assert_true(colo_start_decode(buf, COLO_START_LEN, &out, &error_abort));
    in = (ColoStart) { 0, 5000, COLO_START_FLAGS + 1 };
    colo_start_encode(&in, buf);
    g_assert_false(colo_start_decode(buf, COLO_START_LEN, &out, &err));
    error_free_or_abort(&err);
}

static void test_run_and_page(void)
{
    ColoRun run = { 7, 0xffffffff, 0x1234567890ULL }, run_out;
    ColoPageEntry page = { 3, COLO_PAGE_ZERO, UINT64_MAX }, page_out;
    uint8_t buf[COLO_RUN_LEN];
    Error *err = NULL;

    colo_run_encode(&run, buf);
    colo_run_decode(buf, &run_out);
    g_assert_cmpuint(run_out.block, ==, run.block);
    g_assert_cmpuint(run_out.npages, ==, run.npages);
    g_assert_cmpuint(run_out.page, ==, run.page);

    colo_page_entry_encode(&page, buf);
    g_assert_true(colo_page_entry_decode(buf, &page_out, &error_abort));
    g_assert_cmpuint(page_out.block, ==, page.block);
    g_assert_cmpuint(page_out.flags, ==, page.flags);
    g_assert_cmpuint(page_out.page, ==, page.page);

    page.flags = 2;
    colo_page_entry_encode(&page, buf);
    g_assert_false(colo_page_entry_decode(buf, &page_out, &err));
    error_free_or_abort(&err);
}

static void test_pages_count(void)
{
    uint8_t hdr[COLO_PAGES_HDR_LEN] = { 0 };
    Error *err = NULL;

    for (uint32_t n = 1; n <= COLO_PAGES_PER_FRAME; n++) {
        uint64_t least = COLO_PAGES_HDR_LEN + n * COLO_PAGE_ENTRY_LEN;

        stl_be_p(hdr, n);
        g_assert_cmpuint(colo_pages_count(hdr, least, &error_abort), ==, n);
        g_assert_cmpuint(colo_pages_count(hdr, least - 1, &err), ==, 0);
        error_free_or_abort(&err);
    }
    for (uint32_t n = COLO_PAGES_PER_FRAME + 1; n; n *= 2) {
        stl_be_p(hdr, n);
        g_assert_cmpuint(colo_pages_count(hdr, UINT32_MAX, &err), ==, 0);
        error_free_or_abort(&err);
    }
    stl_be_p(hdr, 0);
    g_assert_cmpuint(colo_pages_count(hdr, 100, &err), ==, 0);
    error_free_or_abort(&err);
}

static void refuse_tail(ColoTail t, uint64_t length)
{
    uint8_t buf[COLO_TAIL_LEN];
    Error *err = NULL;
    ColoTail out;

    colo_tail_encode(&t, buf);
    g_assert_false(colo_tail_decode(buf, length, &out, &err));
    error_free_or_abort(&err);
}

static void test_tail(void)
{
    ColoTail in = { 1ULL << 40, UINT64_MAX, 60000, COLO_RUN_PAUSED,
                    COLO_TAIL_FLAGS, UINT32_MAX }, out;
    uint8_t buf[COLO_TAIL_LEN];

    colo_tail_encode(&in, buf);
    g_assert_true(colo_tail_decode(buf, COLO_TAIL_LEN + 60000, &out,
                                   &error_abort));
    g_assert_cmpuint(out.npages, ==, in.npages);
    g_assert_cmpuint(out.ram_hash, ==, in.ram_hash);
    g_assert_cmpuint(out.device_len, ==, in.device_len);
    g_assert_cmpuint(out.run_state, ==, in.run_state);
    g_assert_cmpuint(out.flags, ==, COLO_TAIL_FLAGS);
    g_assert_cmpuint(out.disk_hash, ==, in.disk_hash);

    refuse_tail(in, COLO_TAIL_LEN + 59999);
    refuse_tail(in, COLO_TAIL_LEN + 60001);
    refuse_tail((ColoTail) { 0 }, COLO_TAIL_LEN);
    refuse_tail((ColoTail) { .device_len = 1, .run_state = COLO_RUN__MAX },
                COLO_TAIL_LEN + 1);
    refuse_tail((ColoTail) { .device_len = 1, .flags = COLO_TAIL_FLAGS + 1 },
                COLO_TAIL_LEN + 1);
}

static void test_bye(void)
{
    uint8_t buf[COLO_BYE_LEN];
    ColoByeReason out;
    Error *err = NULL;

    for (int r = 0; r < COLO_BYE__MAX; r++) {
        colo_bye_encode(r, buf);
        g_assert_true(colo_bye_decode(buf, sizeof(buf), &out, &error_abort));
        g_assert_cmpint(out, ==, r);
        g_assert_cmpstr(colo_bye_reason_str(r), !=, "unknown");
    }
    g_assert_false(colo_bye_decode(buf, 3, &out, &err));
    error_free_or_abort(&err);
    colo_bye_encode(COLO_BYE__MAX, buf);
    g_assert_false(colo_bye_decode(buf, sizeof(buf), &out, &err));
    error_free_or_abort(&err);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/frame/header", test_header);
    g_test_add_func("/colo/frame/bad-header", test_bad_header);
    g_test_add_func("/colo/frame/ready", test_ready);
    g_test_add_func("/colo/frame/start", test_start);
    g_test_add_func("/colo/frame/run-and-page", test_run_and_page);
    g_test_add_func("/colo/frame/pages-count", test_pages_count);
    g_test_add_func("/colo/frame/tail", test_tail);
    g_test_add_func("/colo/frame/bye", test_bye);
    return g_test_run();
}
