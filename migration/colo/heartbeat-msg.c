/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: what a heartbeat says, as bytes.
 *
 * Fields are big-endian; a checksum tells a message from what looks like one,
 * so that a reader finds its way back into a stream:
 *
 *   0 magic  4 version  6 length  8 sender  16 session  32 stamp  40 echo
 *   48 age of the echo  56 epoch  64 term  72 loop  80 vcpus  88 work
 *   96 timeout  100 flags  102 role  103 state  104 reserved  108 checksum
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "heartbeat-msg.h"

#define MAGIC           0x434f4842      /* "COHB" */
#define SUM_AT          (COLO_BEAT_LEN - 4)

static uint32_t checksum(const uint8_t *buf)
{
    return crc32c(0xffffffff, buf, SUM_AT);
}

void colo_beat_encode(const ColoBeat *b, uint8_t buf[COLO_BEAT_LEN])
{
    memset(buf, 0, COLO_BEAT_LEN);
    stl_be_p(buf, MAGIC);
    stw_be_p(buf + 4, COLO_BEAT_VERSION);
    stw_be_p(buf + 6, COLO_BEAT_LEN);
    stq_be_p(buf + 8, b->sender);
    memcpy(buf + 16, b->session.data, sizeof(b->session.data));
    stq_be_p(buf + 32, b->stamp_ns);
    stq_be_p(buf + 40, b->echo_ns);
    stq_be_p(buf + 48, b->echo_age_ns);
    stq_be_p(buf + 56, b->epoch);
    stq_be_p(buf + 64, b->term);
    stq_be_p(buf + 72, b->loop);
    stq_be_p(buf + 80, b->vcpus);
    stq_be_p(buf + 88, b->work);
    stl_be_p(buf + 96, b->timeout_ms);
    stw_be_p(buf + 100, b->flags);
    buf[102] = b->role;
    buf[103] = b->state;
    stl_be_p(buf + SUM_AT, checksum(buf));
}

bool colo_beat_decode(const uint8_t buf[COLO_BEAT_LEN], ColoBeat *b)
{
    if (ldl_be_p(buf) != MAGIC ||
        lduw_be_p(buf + 4) != COLO_BEAT_VERSION ||
        lduw_be_p(buf + 6) != COLO_BEAT_LEN ||
        ldl_be_p(buf + SUM_AT) != checksum(buf)) {
        return false;
    }
    b->sender = ldq_be_p(buf + 8);
    memcpy(b->session.data, buf + 16, sizeof(b->session.data));
    b->stamp_ns = ldq_be_p(buf + 32);
    b->echo_ns = ldq_be_p(buf + 40);
    b->echo_age_ns = ldq_be_p(buf + 48);
    b->epoch = ldq_be_p(buf + 56);
    b->term = ldq_be_p(buf + 64);
    b->loop = ldq_be_p(buf + 72);
    b->vcpus = ldq_be_p(buf + 80);
    b->work = ldq_be_p(buf + 88);
    b->timeout_ms = ldl_be_p(buf + 96);
    b->flags = lduw_be_p(buf + 100);
    b->role = buf[102];
    b->state = buf[103];
    return true;
}

void colo_beat_parser_reset(ColoBeatParser *p)
{
    p->len = 0;
    p->garbage = 0;
}

/* What is in the buffer is no message: the next may begin behind its start */
static void skip_garbage(ColoBeatParser *p)
{
    uint8_t first = MAGIC >> 24;
    uint8_t *next = memchr(p->buf + 1, first, p->len - 1);
    size_t skipped = next ? next - p->buf : p->len;

    p->bad += !p->garbage;
    p->garbage += skipped;
    p->len -= skipped;
    memmove(p->buf, p->buf + skipped, p->len);
}

bool colo_beat_parse(ColoBeatParser *p, const uint8_t *buf, size_t len,
                     void (*got)(void *opaque, const ColoBeat *b),
                     void *opaque)
{
    while (len) {
        size_t n = MIN(len, COLO_BEAT_LEN - p->len);
        ColoBeat b;

        memcpy(p->buf + p->len, buf, n);
        p->len += n;
        buf += n;
        len -= n;
        if (p->len < COLO_BEAT_LEN) {
            break;
        }
        if (colo_beat_decode(p->buf, &b)) {
            p->len = 0;
            p->garbage = 0;
            got(opaque, &b);
            continue;
        }
        skip_garbage(p);
        if (p->garbage > COLO_BEAT_GARBAGE) {
            return false;
        }
    }
    return true;
}
