/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO wire protocol: the frames, as bytes.
 *
 * Both sides, any thread: encoders write into the caller's buffer, decoders
 * check whatever they read.  All integers are big endian.
 */

#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "qemu/bswap.h"
#include "qapi/error.h"
#include "frame.h"

/* CHECKPOINT_READY begins with page size, count of blocks, generation */
#define READY_HDR_LEN 16

/* What each type of frame is called and how much it may carry */
static const struct {
    const char *name;
    uint64_t max_length;
} frame_types[] = {
    [COLO_FRAME_CHECKPOINT_READY] = {
        "checkpoint-ready",
        READY_HDR_LEN + COLO_BLOCKS_MAX * (1 + 255 + 8) },
    [COLO_FRAME_START] = { "start", COLO_START_LEN },
    [COLO_FRAME_CHECKPOINT_REQUEST] = { "checkpoint-request", 0 },
    [COLO_FRAME_CHECKPOINT_REPLY] = {
        "checkpoint-reply", (uint64_t)COLO_RUNS_MAX * COLO_RUN_LEN },
    [COLO_FRAME_VMSTATE_SEND] = { "vmstate-send", 0 },
    [COLO_FRAME_PAGES] = {
        "pages", COLO_PAGES_HDR_LEN + COLO_PAGES_PER_FRAME *
                 (uint64_t)(COLO_PAGE_ENTRY_LEN + COLO_PAGE_SIZE_MAX) },
    [COLO_FRAME_VMSTATE_SIZE] = {
        "vmstate-size", COLO_TAIL_LEN + COLO_DEVICE_STATE_MAX },
    [COLO_FRAME_VMSTATE_RECEIVED] = { "vmstate-received", 0 },
    [COLO_FRAME_VMSTATE_LOADED] = { "vmstate-loaded", 0 },
    [COLO_FRAME_PING] = { "ping", 0 },
    [COLO_FRAME_PONG] = { "pong", 0 },
    [COLO_FRAME_BYE] = { "bye", COLO_BYE_LEN },
    [COLO_FRAME_BYE_ACK] = { "bye-ack", 0 },
    [COLO_FRAME_ERROR] = { "error", COLO_TEXT_MAX },
    [COLO_FRAME_HASHES] = {
        "hashes", COLO_PAGES_HDR_LEN + COLO_PAGES_PER_FRAME *
                  COLO_HASH_ENTRY_LEN },
    [COLO_FRAME_WANTED] = { "wanted", COLO_WANTED_LEN },
    [COLO_FRAME_ALIVE] = { "alive", COLO_ALIVE_LEN },
    [COLO_FRAME_SECTIONS] = {
        "sections", COLO_SECTIONS_HDR_LEN + COLO_SECTIONS_MAX *
                    (uint64_t)(COLO_SECTION_LEN + 1 + 255) },
    [COLO_FRAME_HANDOVER_REQUEST] = { "handover-request", 0 },
    [COLO_FRAME_HANDOVER] = { "handover", 0 },
    [COLO_FRAME_TAKEOVER] = { "takeover", 0 },
};

QEMU_BUILD_BUG_ON(ARRAY_SIZE(frame_types) != COLO_FRAME__MAX);

static const char *const bye_reasons[] = {
    [COLO_BYE_QUIT] = "quit",
    [COLO_BYE_GUEST_SHUTDOWN] = "guest shutdown",
    [COLO_BYE_CANCEL] = "cancelled",
    [COLO_BYE_INCOMPATIBLE] = "the configuration of the VM changed",
    [COLO_BYE_DISK] = "a disk could not be replicated",
    [COLO_BYE_PAUSE] = "a checkpoint took too long",
    [COLO_BYE_FAILOVER] = "the primary was told to go on alone",
};

QEMU_BUILD_BUG_ON(ARRAY_SIZE(bye_reasons) != COLO_BYE__MAX);

static bool frame_type_known(unsigned type)
{
    return type < COLO_FRAME__MAX && frame_types[type].name;
}

const char *colo_frame_name(ColoFrameType type)
{
    return frame_type_known(type) ? frame_types[type].name : "unknown";
}

uint64_t colo_frame_max_length(ColoFrameType type)
{
    return frame_type_known(type) ? frame_types[type].max_length : 0;
}

void colo_frame_encode(const ColoFrame *f, uint8_t out[COLO_FRAME_HDR_LEN])
{
    assert(f->length <= colo_frame_max_length(f->type));
    stl_be_p(out, COLO_FRAME_MAGIC);
    stw_be_p(out + 4, COLO_FRAME_VERSION);
    stw_be_p(out + 6, f->type);
    stq_be_p(out + 8, f->epoch);
    stq_be_p(out + 16, f->length);
}

bool colo_frame_decode(const uint8_t in[COLO_FRAME_HDR_LEN], ColoFrame *f,
                       Error **errp)
{
    uint32_t magic = ldl_be_p(in);
    uint16_t version = lduw_be_p(in + 4);
    uint16_t type = lduw_be_p(in + 6);
    uint64_t length = ldq_be_p(in + 16);

    if (magic != COLO_FRAME_MAGIC) {
        error_setg(errp, "wrong magic 0x%08" PRIx32 ", expected 0x%08x",
                   magic, COLO_FRAME_MAGIC);
        return false;
    }
    if (version != COLO_FRAME_VERSION) {
        error_setg(errp, "the peer speaks version %u of the protocol, "
                   "this side version %u", version, COLO_FRAME_VERSION);
        return false;
    }
    if (!frame_type_known(type)) {
        error_setg(errp, "unknown frame type %u", type);
        return false;
    }
    if (length > frame_types[type].max_length) {
        error_setg(errp, "frame '%s' of %" PRIu64 " bytes, at most %" PRIu64
                   " allowed", frame_types[type].name, length,
                   frame_types[type].max_length);
        return false;
    }

    *f = (ColoFrame) {
        .type = type,
        .epoch = ldq_be_p(in + 8),
        .length = length,
    };
    return true;
}

/* CHECKPOINT_READY: the header, then (id length, id, bytes) a block */
void colo_ready_encode(const ColoReady *r, GByteArray *out)
{
    uint8_t num[READY_HDR_LEN];

    assert(r->nblocks <= COLO_BLOCKS_MAX);
    stl_be_p(num, r->page_size);
    stl_be_p(num + 4, r->nblocks);
    stq_be_p(num + 8, r->generation);
    g_byte_array_append(out, num, READY_HDR_LEN);

    for (uint32_t i = 0; i < r->nblocks; i++) {
        uint8_t len = strlen(r->blocks[i].id);

        g_byte_array_append(out, &len, 1);
        g_byte_array_append(out, (const uint8_t *)r->blocks[i].id, len);
        stq_be_p(num, r->blocks[i].used_length);
        g_byte_array_append(out, num, 8);
    }
}

bool colo_ready_decode(const uint8_t *buf, size_t len, ColoReady *r,
                       Error **errp)
{
    size_t pos = READY_HDR_LEN;

    memset(r, 0, sizeof(*r));
    if (len < pos) {
        error_setg(errp, "'checkpoint-ready' is cut short");
        return false;
    }
    r->page_size = ldl_be_p(buf);
    r->nblocks = ldl_be_p(buf + 4);
    r->generation = ldq_be_p(buf + 8);
    if (r->nblocks > COLO_BLOCKS_MAX) {
        error_setg(errp, "%" PRIu32 " RAM blocks, at most %u allowed",
                   r->nblocks, COLO_BLOCKS_MAX);
        return false;
    }

    r->blocks = g_new0(ColoBlockInfo, r->nblocks);
    for (uint32_t i = 0; i < r->nblocks; i++) {
        size_t idlen = pos < len ? buf[pos] : 0;

        if (len - pos < 1 + idlen + 8) {
            error_setg(errp, "'checkpoint-ready' is cut short at RAM block "
                       "%" PRIu32, i);
            colo_ready_clear(r);
            return false;
        }
        memcpy(r->blocks[i].id, buf + pos + 1, idlen);
        r->blocks[i].used_length = ldq_be_p(buf + pos + 1 + idlen);
        pos += 1 + idlen + 8;
    }
    if (pos != len) {
        error_setg(errp, "'checkpoint-ready' has %zu bytes too many",
                   len - pos);
        colo_ready_clear(r);
        return false;
    }
    return true;
}

void colo_ready_clear(ColoReady *r)
{
    g_clear_pointer(&r->blocks, g_free);
    r->nblocks = 0;
}

void colo_start_encode(const ColoStart *s, uint8_t out[COLO_START_LEN])
{
    stl_be_p(out, s->mode);
    stl_be_p(out + 4, s->timeout_ms);
    stl_be_p(out + 8, s->flags);
    stl_be_p(out + 12, 0);
    stq_be_p(out + 16, s->generation);
    memcpy(out + 24, &s->session, sizeof(s->session));
}

bool colo_start_decode(const uint8_t *buf, size_t len, ColoStart *s,
                       Error **errp)
{
    if (len != COLO_START_LEN) {
        error_setg(errp, "'start' of %zu bytes, expected %u", len,
                   COLO_START_LEN);
        return false;
    }
    s->mode = ldl_be_p(buf);
    s->timeout_ms = ldl_be_p(buf + 4);
    s->flags = ldl_be_p(buf + 8);
    s->generation = ldq_be_p(buf + 16);
    memcpy(&s->session, buf + 24, sizeof(s->session));
    if (s->timeout_ms == 0 || s->timeout_ms > COLO_TIMEOUT_MAX_MS) {
        error_setg(errp, "'start' with a timeout of %" PRIu32 " ms, 1 to %u "
                   "are allowed", s->timeout_ms, COLO_TIMEOUT_MAX_MS);
        return false;
    }
    if (s->flags & ~COLO_START_FLAGS) {
        error_setg(errp, "'start' asks for unknown features 0x%" PRIx32,
                   s->flags & ~COLO_START_FLAGS);
        return false;
    }
    return true;
}

void colo_run_encode(const ColoRun *r, uint8_t out[COLO_RUN_LEN])
{
    stl_be_p(out, r->block);
    stl_be_p(out + 4, r->npages);
    stq_be_p(out + 8, r->page);
}

void colo_run_decode(const uint8_t in[COLO_RUN_LEN], ColoRun *r)
{
    r->block = ldl_be_p(in);
    r->npages = ldl_be_p(in + 4);
    r->page = ldq_be_p(in + 8);
}

void colo_page_entry_encode(const ColoPageEntry *e,
                            uint8_t out[COLO_PAGE_ENTRY_LEN])
{
    stl_be_p(out, e->block);
    stl_be_p(out + 4, e->flags);
    stq_be_p(out + 8, e->page);
}

bool colo_page_entry_decode(const uint8_t in[COLO_PAGE_ENTRY_LEN],
                            ColoPageEntry *e, Error **errp)
{
    e->block = ldl_be_p(in);
    e->flags = ldl_be_p(in + 4);
    e->page = ldq_be_p(in + 8);
    if (e->flags & ~COLO_PAGE_ZERO) {
        error_setg(errp, "page with unknown flags 0x%" PRIx32, e->flags);
        return false;
    }
    return true;
}

uint32_t colo_pages_count(const uint8_t hdr[COLO_PAGES_HDR_LEN],
                          uint64_t length, Error **errp)
{
    uint32_t count = ldl_be_p(hdr);

    if (count == 0 || count > COLO_PAGES_PER_FRAME ||
        length < COLO_PAGES_HDR_LEN + (uint64_t)count * COLO_PAGE_ENTRY_LEN) {
        error_setg(errp, "'pages' announces %" PRIu32 " pages in %" PRIu64
                   " bytes", count, length);
        return 0;
    }
    return count;
}

uint32_t colo_hashes_count(const uint8_t hdr[COLO_PAGES_HDR_LEN],
                           uint64_t length, Error **errp)
{
    uint32_t count = ldl_be_p(hdr);

    if (count == 0 || count > COLO_PAGES_PER_FRAME ||
        length != COLO_PAGES_HDR_LEN + (uint64_t)count * COLO_HASH_ENTRY_LEN) {
        error_setg(errp, "'hashes' announces %" PRIu32 " pages in %" PRIu64
                   " bytes", count, length);
        return 0;
    }
    return count;
}

void colo_tail_encode(const ColoTail *t, uint8_t out[COLO_TAIL_LEN])
{
    stq_be_p(out, t->npages);
    stq_be_p(out + 8, t->ram_hash);
    stl_be_p(out + 16, t->device_len);
    stl_be_p(out + 20, t->run_state);
    stl_be_p(out + 24, t->flags);
    stl_be_p(out + 28, t->disk_hash);
}

bool colo_tail_decode(const uint8_t in[COLO_TAIL_LEN], uint64_t length,
                      ColoTail *t, Error **errp)
{
    t->npages = ldq_be_p(in);
    t->ram_hash = ldq_be_p(in + 8);
    t->device_len = ldl_be_p(in + 16);
    t->run_state = ldl_be_p(in + 20);
    t->flags = ldl_be_p(in + 24);
    t->disk_hash = ldl_be_p(in + 28);

    if (t->device_len == 0 || length != COLO_TAIL_LEN + t->device_len) {
        error_setg(errp, "'vmstate-size' announces %" PRIu32 " bytes of "
                   "device state in %" PRIu64, t->device_len, length);
        return false;
    }
    if (t->run_state >= COLO_RUN__MAX || t->flags & ~COLO_TAIL_FLAGS) {
        error_setg(errp, "'vmstate-size' with run state %" PRIu32
                   " and flags %" PRIx32, t->run_state, t->flags);
        return false;
    }
    return true;
}

void colo_alive_encode(const ColoAlive *a, uint8_t out[COLO_ALIVE_LEN])
{
    stq_be_p(out, a->progress);
    stq_be_p(out + 8, a->stamp);
    stq_be_p(out + 16, a->echo);
    stw_be_p(out + 24, a->round);
    stw_be_p(out + 26, a->flags);
}

bool colo_alive_decode(const uint8_t *buf, size_t len, ColoAlive *a,
                       Error **errp)
{
    if (len != COLO_ALIVE_LEN) {
        error_setg(errp, "'alive' of %zu bytes, expected %u", len,
                   COLO_ALIVE_LEN);
        return false;
    }
    a->progress = ldq_be_p(buf);
    a->stamp = ldq_be_p(buf + 8);
    a->echo = ldq_be_p(buf + 16);
    a->round = lduw_be_p(buf + 24);
    a->flags = lduw_be_p(buf + 26);
    if (a->flags & ~COLO_ALIVE_FLAGS) {
        error_setg(errp, "'alive' with flags %x", a->flags);
        return false;
    }
    return true;
}

const char *colo_bye_reason_str(ColoByeReason r)
{
    return r < COLO_BYE__MAX ? bye_reasons[r] : "unknown";
}

bool colo_bye_is_request(ColoByeReason r)
{
    return r == COLO_BYE_QUIT || r == COLO_BYE_GUEST_SHUTDOWN ||
           r == COLO_BYE_CANCEL || r == COLO_BYE_FAILOVER;
}

void colo_bye_encode(ColoByeReason r, uint8_t out[COLO_BYE_LEN])
{
    stl_be_p(out, r);
}

bool colo_bye_decode(const uint8_t *buf, size_t len, ColoByeReason *r,
                     Error **errp)
{
    uint32_t v = len == COLO_BYE_LEN ? ldl_be_p(buf) : COLO_BYE__MAX;

    if (v >= COLO_BYE__MAX) {
        error_setg(errp, "'bye' without a reason that is known here");
        return false;
    }
    *r = v;
    return true;
}
