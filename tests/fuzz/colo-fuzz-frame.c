/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: the decoders of COLO frames.
 *
 * The input is a stream as a peer would send it: headers, each followed by
 * its payload.  Whatever is decoded is looked at the way the sides do, and
 * encoded again: what a decoder accepts has to survive that unchanged.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "migration/colo/frame.h"
#include "colo-fuzz.h"

static void try_ready(const uint8_t *buf, size_t len)
{
    g_autoptr(GByteArray) again = NULL;
    ColoReady r;

    if (!colo_ready_decode(buf, len, &r, NULL)) {
        return;
    }
    for (uint32_t i = 0; i < r.nblocks; i++) {
        if (memchr(r.blocks[i].id, 0, sizeof(r.blocks[i].id)) == NULL) {
            abort();
        }
        /* An id with a NUL inside is cut there: it cannot come back equal */
        if (strlen(r.blocks[i].id) == 0) {
            colo_ready_clear(&r);
            return;
        }
    }
    again = g_byte_array_new();
    colo_ready_encode(&r, again);
    if (again->len > len) {
        abort();
    }
    colo_ready_clear(&r);
}

static void try_pages(const uint8_t *buf, size_t len)
{
    uint32_t n;

    if (len < COLO_PAGES_HDR_LEN) {
        return;
    }
    n = colo_pages_count(buf, len, NULL);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *in = buf + COLO_PAGES_HDR_LEN +
                            i * COLO_PAGE_ENTRY_LEN;
        uint8_t again[COLO_PAGE_ENTRY_LEN];
        ColoPageEntry e;

        if (colo_page_entry_decode(in, &e, NULL)) {
            colo_page_entry_encode(&e, again);
            if (memcmp(in, again, sizeof(again))) {
                abort();
            }
        }
    }
}

static void try_payload(const ColoFrame *f, const uint8_t *buf)
{
    ColoStart start;
    ColoTail tail;
    ColoRun run;
    ColoByeReason reason;

    switch (f->type) {
    case COLO_FRAME_CHECKPOINT_READY:
        try_ready(buf, f->length);
        break;
    case COLO_FRAME_START:
        colo_start_decode(buf, f->length, &start, NULL);
        break;
    case COLO_FRAME_CHECKPOINT_REPLY:
        for (size_t i = 0; i + COLO_RUN_LEN <= f->length; i += COLO_RUN_LEN) {
            colo_run_decode(buf + i, &run);
        }
        break;
    case COLO_FRAME_PAGES:
        try_pages(buf, f->length);
        break;
    case COLO_FRAME_VMSTATE_SIZE:
        if (f->length >= COLO_TAIL_LEN &&
            colo_tail_decode(buf, f->length, &tail, NULL) &&
            tail.device_len != f->length - COLO_TAIL_LEN) {
            abort();
        }
        break;
    case COLO_FRAME_BYE:
        if (colo_bye_decode(buf, f->length, &reason, NULL)) {
            colo_bye_reason_str(reason);
        }
        break;
    default:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ColoFrame f;

    while (size >= COLO_FRAME_HDR_LEN && colo_frame_decode(data, &f, NULL)) {
        uint8_t again[COLO_FRAME_HDR_LEN];
        g_autofree uint8_t *payload = NULL;

        colo_frame_encode(&f, again);
        if (memcmp(data, again, sizeof(again))) {
            abort();
        }
        data += COLO_FRAME_HDR_LEN;
        size -= COLO_FRAME_HDR_LEN;
        if (f.length > size) {
            /* The stream is cut short: a truncated payload */
            f.length = size;
        }
        /* A copy of just that size, so that a read beyond it is seen */
        payload = g_memdup2(data, f.length);
        try_payload(&f, payload);
        data += f.length;
        size -= f.length;
    }
    return 0;
}
