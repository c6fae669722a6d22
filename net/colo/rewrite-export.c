/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: the connections that the rewriter knows, as bytes.
 *
 * Secondary, pure.  They come from a peer: nothing in them is trusted.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "rewrite-int.h"

/* Flags */
#define EXPORT_FLOOR    1
#define EXPORT_SYN      2
#define EXPORT_SYN_ACK  4
#define EXPORT_TSVAL    8
#define EXPORT_FLAGS    15

static void encode_fin(const ColoRewriteFin *fin, uint8_t *out)
{
    stl_be_p(out, fin->state);
    stl_be_p(out + 4, fin->end);
}

static bool decode_fin(const uint8_t *in, ColoRewriteFin *fin)
{
    uint32_t state = ldl_be_p(in);

    fin->state = state;
    fin->end = ldl_be_p(in + 4);
    return state <= FIN_ACKED;
}

static void encode_flow(const ColoRewriteFlow *f,
                        uint8_t out[COLO_REWRITE_EXPORT_LEN])
{
    memcpy(out, f->key.src, 16);
    memcpy(out + 16, f->key.dst, 16);
    stw_be_p(out + 32, f->key.vlan[0]);
    stw_be_p(out + 34, f->key.vlan[1]);
    stw_be_p(out + 36, f->key.ethertype);
    stw_be_p(out + 38, f->key.sport);
    stw_be_p(out + 40, f->key.dport);
    out[42] = (f->floor_known ? EXPORT_FLOOR : 0) |
              (f->sent_syn ? EXPORT_SYN : 0) |
              (f->sent_syn_ack ? EXPORT_SYN_ACK : 0) |
              (f->tsval_known ? EXPORT_TSVAL : 0);
    out[43] = f->state;
    stl_be_p(out + 44, f->offset);
    stl_be_p(out + 48, f->ts_offset);
    stl_be_p(out + 52, f->floor);
    encode_fin(&f->guest_fin, out + 56);
    encode_fin(&f->peer_fin, out + 64);
    stw_be_p(out + 72, f->outer.sport);
    stw_be_p(out + 74, f->syn_window);
    stl_be_p(out + 76, f->isn);
    stl_be_p(out + 80, f->syn_payload);
    stl_be_p(out + 84, f->peer_next);
    stl_be_p(out + 88, f->tsval_first);
    stl_be_p(out + 92, f->tsval_latest);
}

/* Nothing is known yet, but what the guest has sent to begin it */
static bool is_handshake(const ColoRewriteFlow *f)
{
    return f->state == FLOW_HANDSHAKE && (f->sent_syn || f->sent_syn_ack) &&
           !f->offset && !f->ts_offset && !f->floor_known;
}

static bool decode_flow(const uint8_t in[COLO_REWRITE_EXPORT_LEN],
                        ColoRewriteFlow *f)
{
    memcpy(f->key.src, in, 16);
    memcpy(f->key.dst, in + 16, 16);
    f->key.vlan[0] = lduw_be_p(in + 32);
    f->key.vlan[1] = lduw_be_p(in + 34);
    f->key.ethertype = lduw_be_p(in + 36);
    f->key.sport = lduw_be_p(in + 38);
    f->key.dport = lduw_be_p(in + 40);
    f->key.proto = COLO_REWRITE_PROTO_TCP;
    f->key.kind = COLO_PACKET_TCP;
    f->outer = f->key;
    f->outer.sport = lduw_be_p(in + 72);
    f->floor_known = in[42] & EXPORT_FLOOR;
    f->sent_syn = in[42] & EXPORT_SYN;
    f->sent_syn_ack = in[42] & EXPORT_SYN_ACK;
    f->tsval_known = in[42] & EXPORT_TSVAL;
    f->state = in[43];
    f->offset = ldl_be_p(in + 44);
    f->ts_offset = ldl_be_p(in + 48);
    f->floor = ldl_be_p(in + 52);
    f->syn_window = lduw_be_p(in + 74);
    f->isn = ldl_be_p(in + 76);
    f->syn_payload = ldl_be_p(in + 80);
    f->peer_next = ldl_be_p(in + 84);
    f->tsval_first = ldl_be_p(in + 88);
    f->tsval_latest = ldl_be_p(in + 92);
    return !(in[42] & ~EXPORT_FLAGS) &&
           (f->state == FLOW_OPEN || f->state == FLOW_CLOSING ||
            is_handshake(f)) &&
           decode_fin(in + 56, &f->guest_fin) &&
           decode_fin(in + 64, &f->peer_fin);
}

/*
 * Is it anything else than what is not known, or may it become that?  What the
 * guest has begun while it was live has the numbers that clients know.
 */
static bool is_worth_export(const ColoRewrite *r, const ColoRewriteFlow *f)
{
    if (colo_rewrite_is_stale(r, f)) {
        return false;
    }
    if (!f->offset_known) {
        return !f->own && is_handshake(f);
    }
    return f->offset || f->ts_offset || colo_rewrite_is_mapped(f);
}

GByteArray *colo_rewrite_export(const ColoRewrite *r)
{
    GByteArray *out = g_byte_array_new();
    uint8_t buf[COLO_REWRITE_EXPORT_LEN];
    ColoRewriteFlow *f;

    if (!r->maps) {
        return out;
    }
    for (ColoRewriteState s = 0; s < FLOW__MAX; s++) {
        QTAILQ_FOREACH(f, &r->lists[s], next) {
            if (is_worth_export(r, f)) {
                encode_flow(f, buf);
                g_byte_array_append(out, buf, sizeof(buf));
            }
        }
    }
    return out;
}

static bool add_key(GHashTable *keys, const ColoFlowKey *key)
{
    return g_hash_table_add(keys, g_memdup2(key, sizeof(*key)));
}

static GHashTable *new_keys(void)
{
    return g_hash_table_new_full(colo_flow_key_hash, colo_flow_key_equal,
                                 g_free, NULL);
}

/* Are all of them connections, no two with the same inner or outer key? */
static bool is_export(const uint8_t *buf, size_t len)
{
    g_autoptr(GHashTable) inner = new_keys();
    g_autoptr(GHashTable) outer = new_keys();

    if (len % COLO_REWRITE_EXPORT_LEN) {
        return false;
    }
    for (size_t pos = 0; pos < len; pos += COLO_REWRITE_EXPORT_LEN) {
        ColoRewriteFlow f = { 0 };

        if (!decode_flow(buf + pos, &f) || !add_key(inner, &f.key) ||
            !add_key(outer, &f.outer)) {
            return false;
        }
    }
    return true;
}

/* What is here of the same socket or of the same connection is out of date */
static void make_room(ColoRewrite *r, const ColoRewriteFlow *in)
{
    ColoRewriteFlow *f = colo_rewrite_find_inner(r, &in->key);

    if (f) {
        colo_rewrite_forget(r, f);
    }
    /* A socket may have that port which has another outer one */
    f = colo_rewrite_find_outer(r, &in->outer);
    if (f) {
        colo_rewrite_forget(r, f);
    }
}

bool colo_rewrite_import(ColoRewrite *r, const uint8_t *buf, size_t len,
                         int64_t now_ms)
{
    if (!is_export(buf, len)) {
        return false;
    }
    colo_rewrite_advance_clock(r, now_ms);
    for (size_t pos = 0; pos < len; pos += COLO_REWRITE_EXPORT_LEN) {
        ColoRewriteFlow in = { 0 };
        ColoRewriteFlow *f;

        decode_flow(buf + pos, &in);
        make_room(r, &in);
        f = colo_rewrite_add(r, &in.key, in.outer.sport, in.state);
        r->maps = true;
        f->sent_syn = in.sent_syn;
        f->sent_syn_ack = in.sent_syn_ack;
        f->isn = in.isn;
        f->syn_payload = in.syn_payload;
        f->peer_next = in.peer_next;
        f->syn_window = in.syn_window;
        f->tsval_known = in.tsval_known;
        f->tsval_first = in.tsval_first;
        f->tsval_latest = in.tsval_latest;
        f->offset_known = in.state != FLOW_HANDSHAKE;
        f->offset = in.offset;
        f->ts_offset = in.ts_offset;
        colo_rewrite_set_floor_known(r, f, in.floor_known);
        f->floor = in.floor;
        f->guest_fin = in.guest_fin;
        f->peer_fin = in.peer_fin;
    }
    return true;
}
