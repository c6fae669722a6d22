/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packets for tests and fuzz targets of the COLO proxy.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "colo-test-packet.h"

#define ETH_LEN     14
#define IP_LEN      20
#define TCP_LEN     20
#define TS_LEN      12
#define OPTION_LEN  20
#define SACK_OK_LEN 4
#define SACK_LEN(n) ((n) ? 4 + 8 * (n) : 0)
#define UDP_LEN     COLO_TEST_UDP_LEN
#define L3          ETH_LEN
#define L4          (ETH_LEN + IP_LEN)
#define FLOW_PORT   1024
#define SERVER_PORT 53

static uint32_t sum(uint32_t start, const uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        start += i & 1 ? buf[i] : buf[i] << 8;
        start = (start & 0xffff) + (start >> 16);
    }
    return start;
}

static uint16_t l4_checksum(const uint8_t *frame, unsigned proto, size_t len)
{
    uint32_t s = sum(proto + len, frame + L3 + 12, 8);

    return ~sum(s, frame + L4, len);
}

/* Everything up to the transport header */
static uint8_t *frame_new(unsigned proto, uint16_t flow, size_t l4_len)
{
    uint8_t *frame = g_malloc0(L4 + l4_len);
    uint8_t *ip = frame + L3;

    memcpy(frame, "\x52\x54\0\0\0\1\x52\x54\0\0\0\2\x08\0", ETH_LEN);
    ip[0] = 0x45;
    stw_be_p(ip + 2, IP_LEN + l4_len);
    ip[8] = 64;
    ip[9] = proto;
    memcpy(ip + 12, "\x0a\0\0\1\x0a\0\0\2", 8);
    if (flow >= COLO_TEST_PICKED) {
        stw_be_p(frame + L4, flow);
        stw_be_p(frame + L4 + 2, SERVER_PORT);
    } else {
        stw_be_p(frame + L4, 80);
        stw_be_p(frame + L4 + 2, FLOW_PORT + flow);
    }
    return frame;
}

static ColoPacket *frame_packet(uint8_t *frame, size_t l4_len)
{
    stw_be_p(frame + L3 + 10, 0);
    stw_be_p(frame + L3 + 10, ~sum(0, frame + L3, IP_LEN));
    return colo_packet_new(frame, L4 + l4_len, 0);
}

static void swap(uint8_t *a, uint8_t *b, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        uint8_t byte = a[i];

        a[i] = b[i];
        b[i] = byte;
    }
}

/* Ports and direction; before the checksums */
static void frame_turn(uint8_t *frame, const ColoTestTcp *t)
{
    if (t->guest_port) {
        stw_be_p(frame + L4, t->guest_port);
        stw_be_p(frame + L4 + 2, t->peer_port);
    }
    if (t->to_guest) {
        swap(frame, frame + 6, 6);
        swap(frame + L3 + 12, frame + L3 + 16, 4);
        swap(frame + L4, frame + L4 + 2, 2);
    }
}

static void put_sack(uint8_t *at, const ColoTestTcp *t)
{
    if (t->sack_ok) {
        memcpy(at, "\1\1\4\2", SACK_OK_LEN);
        at += SACK_OK_LEN;
    }
    if (t->sacks) {
        memcpy(at, "\1\1\5", 3);
        at[3] = 2 + 8 * t->sacks;
        for (unsigned i = 0; i < 2 * t->sacks; i++) {
            stl_be_p(at + 4 + 4 * i, t->sack[i]);
        }
    }
}

ColoPacket *colo_test_tcp(const ColoTestTcp *t)
{
    bool ts = t->ts || t->tsval;
    size_t tcp_len = TCP_LEN + (t->option ? OPTION_LEN : 0) +
                     (ts ? TS_LEN : 0) + (t->sack_ok ? SACK_OK_LEN : 0) +
                     SACK_LEN(t->sacks);
    size_t l4_len = tcp_len + t->len;
    uint8_t *frame = frame_new(6, t->flow, l4_len);
    uint8_t *tcp = frame + L4;

    stl_be_p(tcp + 4, t->seq);
    stl_be_p(tcp + 8, t->ack);
    tcp[12] = tcp_len / 4 << 4;
    tcp[13] = t->flags;
    stw_be_p(tcp + 14, t->window);
    if (ts) {
        memcpy(tcp + TCP_LEN, "\1\1\10\12", 4);
        stl_be_p(tcp + TCP_LEN + 4, t->tsval);
        stl_be_p(tcp + TCP_LEN + 8, t->tsecr);
    }
    put_sack(tcp + TCP_LEN + (ts ? TS_LEN : 0), t);
    if (t->option) {
        uint8_t *option = tcp + tcp_len - OPTION_LEN;

        memcpy(option, "\1\1\0\22", 4);
        option[2] = t->option;
    }
    if (t->len) {
        memcpy(tcp + tcp_len, t->data, t->len);
    }
    frame_turn(frame, t);
    stw_be_p(tcp + 16, l4_checksum(frame, 6, l4_len));
    return frame_packet(frame, l4_len);
}

uint16_t colo_test_flow(const ColoPacket *p)
{
    return p->key.sport >= COLO_TEST_PICKED ? p->key.sport
                                            : p->key.dport - FLOW_PORT;
}

bool colo_test_tcp_checksum_ok(const ColoPacket *p)
{
    return l4_checksum(p->data, 6, p->payload - p->l4 + p->payload_len) == 0;
}

static uint8_t *udp_frame(uint16_t flow, const void *data, uint16_t len)
{
    size_t l4_len = UDP_LEN + len;
    uint8_t *frame = frame_new(17, flow, l4_len);

    stw_be_p(frame + L4 + 4, l4_len);
    memcpy(frame + L4 + UDP_LEN, data, len);
    stw_be_p(frame + L4 + 6, l4_checksum(frame, 17, l4_len));
    return frame;
}

ColoPacket *colo_test_udp(uint16_t flow, const void *data, uint16_t len)
{
    return frame_packet(udp_frame(flow, data, len), UDP_LEN + len);
}

ColoPacket *colo_test_igmp(const void *data, uint16_t len)
{
    uint8_t *frame = udp_frame(0, data, len);

    frame[L3 + 9] = 2;
    return frame_packet(frame, UDP_LEN + len);
}

ColoPacket *colo_test_fragment(uint16_t flow, const void *data, uint16_t len,
                               uint16_t id, unsigned i, unsigned n)
{
    g_autofree uint8_t *whole = udp_frame(flow, data, len);
    size_t part = len / n;
    size_t from = i ? UDP_LEN + i * part : 0;
    size_t to = UDP_LEN + (i + 1) * part;
    uint8_t *frame = g_malloc(L4 + to - from);

    memcpy(frame, whole, L4);
    memcpy(frame + L4, whole + L4 + from, to - from);
    stw_be_p(frame + L3 + 2, IP_LEN + to - from);
    stw_be_p(frame + L3 + 4, id);
    stw_be_p(frame + L3 + 6, from / 8 | (i + 1 < n ? 0x2000 : 0));
    return frame_packet(frame, to - from);
}

ColoPacket *colo_test_raw(const void *data, uint16_t len)
{
    uint8_t *frame = g_malloc(ETH_LEN + len);

    memcpy(frame, "\x52\x54\0\0\0\1\x52\x54\0\0\0\2\x88\xb5", ETH_LEN);
    memcpy(frame + ETH_LEN, data, len);
    return colo_packet_new(frame, ETH_LEN + len, 0);
}
