/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Scripts that test the rules of matching: how they are carried out.
 */

#include "qemu/osdep.h"
#include "colo-test-packet.h"
#include "colo-match-script.h"

#define MAX_SEGMENT     8192

const ColoMatchConfig bench_default_config = {
    .timeout_ms = 100,
    .max_packets = 64,
    .max_bytes = 1024 * 1024,
    .max_flows = 16,
    .idle_ms = 10000,
};

static const struct {
    char letter;
    uint8_t flag;
} flag_letters[] = {
    { 'S', COLO_TCP_SYN },
    { 'F', COLO_TCP_FIN },
    { 'R', COLO_TCP_RST },
    { 'U', COLO_TCP_URG },
    { 'P', COLO_TCP_PSH },
};

/* Packets, from and to text */

static uint8_t stream_byte(uint32_t seq)
{
    return seq * 7 + (seq >> 8) * 3;
}

static uint32_t number(const char **text)
{
    char *end;
    uint32_t n = g_ascii_strtoull(*text, &end, 10);

    g_assert_true(end != *text);
    *text = end;
    return n;
}

static ColoPacket *tcp_from_text(const char *text)
{
    uint8_t data[MAX_SEGMENT];
    ColoTestTcp t = { .window = 100, .data = data };
    bool none = false;

    for (; g_ascii_isalpha(*text); text++) {
        none |= *text == 'N';
        for (int i = 0; i < ARRAY_SIZE(flag_letters); i++) {
            if (flag_letters[i].letter == *text) {
                t.flags |= flag_letters[i].flag;
            }
        }
    }
    t.seq = number(&text);
    g_assert_cmpint(*text++, ==, '+');
    t.len = number(&text);
    g_assert_cmpint(t.len, <=, MAX_SEGMENT);
    for (int i = 0; i < t.len; i++) {
        data[i] = stream_byte(t.seq + i);
    }
    while (*text) {
        char what = *text++;
        uint32_t n = number(&text);

        switch (what) {
        case 'a':
            t.ack = n;
            t.flags |= none ? 0 : COLO_TCP_ACK;
            break;
        case 'w':
            t.window = n;
            break;
        case 'o':
            t.option = n;
            break;
        case 'v':
            t.tsval = n;
            break;
        case 'x':
            data[n] ^= 1;
            break;
        case '@':
            t.flow = n;
            break;
        default:
            g_assert_not_reached();
        }
    }
    return colo_test_tcp(&t);
}

static ColoPacket *packet_from_text(const char *text)
{
    char data[DATAGRAM_LEN] = "";
    char what = *text;
    uint32_t id, i = 0, n = 0, flow = 0;

    if (!strchr("dfir", what)) {
        return tcp_from_text(text);
    }
    text++;
    id = number(&text);
    if (what == 'f') {
        text++;
        i = number(&text);
        text++;
        n = number(&text);
    }
    if (*text == '@') {
        text++;
        flow = number(&text);
    }
    g_assert_cmpint(*text, ==, 0);
    memset(data, 0x55, sizeof(data));
    snprintf(data, sizeof(data), "%u", id);
    switch (what) {
    case 'd':
        return colo_test_udp(flow, data, sizeof(data));
    case 'i':
        return colo_test_igmp(data, sizeof(data));
    case 'f':
        return colo_test_fragment(flow, data, sizeof(data), id, i, n);
    default:
        return colo_test_raw(data, sizeof(data));
    }
}

static void tcp_to_text(const ColoPacket *p, GString *out)
{
    const uint8_t *data = p->data + p->payload;

    g_assert_true(colo_test_tcp_checksum_ok(p));
    for (int i = 0; i < ARRAY_SIZE(flag_letters); i++) {
        if (p->tcp_flags & flag_letters[i].flag) {
            g_string_append_c(out, flag_letters[i].letter);
        }
    }
    if (!(p->tcp_flags & COLO_TCP_ACK) && p->ack) {
        g_string_append_c(out, 'N');
    }
    g_string_append_printf(out, "%u+%u", p->seq, p->payload_len);
    if (p->ack) {
        g_string_append_printf(out, "a%u", p->ack);
    }
    if (p->window != 100) {
        g_string_append_printf(out, "w%u", p->window);
    }
    if (p->ts_off) {
        g_string_append_printf(out, "v%u", colo_packet_tsval(p));
    }
    if (p->bound != COLO_TCP_FREE) {
        g_string_append_printf(out, "o%u", p->data[p->payload - 18]);
    }
    for (uint32_t i = 0; i < p->payload_len; i++) {
        if (data[i] != stream_byte(p->seq + i)) {
            g_string_append_printf(out, "x%u", i);
        }
    }
}

static void packet_to_text(const ColoPacket *p, GString *out)
{
    const char *data = (const char *)p->data + p->payload;

    switch (p->kind) {
    case COLO_PACKET_TCP:
        tcp_to_text(p, out);
        break;
    case COLO_PACKET_DATAGRAM:
        if (colo_packet_is_membership(p)) {
            g_string_append_printf(out, "i%s", data + COLO_TEST_UDP_LEN);
            return;
        }
        g_string_append_printf(out, "d%s", data);
        break;
    case COLO_PACKET_FRAGMENT:
        g_string_append_printf(out, "f%u.%u", p->frag_id, p->frag_offset);
        return;
    default:
        g_string_append_printf(out, "r%s", (const char *)p->data + p->l3);
        return;
    }
    if (colo_test_flow(p)) {
        g_string_append_printf(out, "@%u", colo_test_flow(p));
    }
}

/* The engine */

static void on_release(void *opaque, ColoPacket *p)
{
    Bench *b = opaque;

    g_string_append_c(b->events, ' ');
    packet_to_text(p, b->events);
    colo_packet_free(p);
}

static void need_to_text(Bench *b, char sign, ColoMatchNeed why)
{
    static const char letters[] = {
        [COLO_MATCH_NEED_MISMATCH] = 'M',
        [COLO_MATCH_NEED_TIMEOUT] = 'T',
        [COLO_MATCH_NEED_ROOM] = 'R',
    };

    g_string_append_printf(b->events, " %c%c", sign, letters[why]);
}

static void on_need(void *opaque, ColoMatchNeed why, uint64_t epoch)
{
    need_to_text(opaque, '!', why);
}

static void on_withdraw(void *opaque, ColoMatchNeed why, uint64_t epoch)
{
    need_to_text(opaque, '-', why);
}

static const ColoMatchOps bench_ops = {
    .release = on_release,
    .need = on_need,
    .withdraw = on_withdraw,
};

void bench_init(Bench *b, const ColoMatchConfig *config)
{
    b->m = colo_match_new(config ?: &bench_default_config, &bench_ops, b);
    b->events = g_string_new(NULL);
    b->now_ms = 0;
}

void bench_cleanup(Bench *b)
{
    colo_match_free(b->m);
    g_string_free(b->events, true);
}

static void bench_command(Bench *b, const char *what, const char *arg)
{
    uint64_t n = arg ? g_ascii_strtoull(arg, NULL, 10) : 0;
    ColoPacket *p;

    if (g_str_equal(what, "full") || g_str_equal(what, "room")) {
        g_assert_cmpint(colo_match_full(b->m), ==, *what == 'f');
        return;
    }
    switch (*what) {
    case 'A':
        colo_match_arm(b->m);
        break;
    case 'O':
        colo_match_open(b->m);
        break;
    case 'L':
        colo_match_secondary_lost(b->m);
        break;
    case 'B':
        colo_match_secondary_opened(b->m);
        break;
    case '[':
        colo_match_begin_read(b->m);
        break;
    case ']':
        colo_match_end_read(b->m);
        break;
    case 'P':
        colo_match_primary_cut(b->m, n, b->now_ms);
        break;
    case 'S':
        colo_match_secondary_cut(b->m, n, b->now_ms);
        break;
    case 'C':
        colo_match_commit(b->m, n, b->now_ms);
        break;
    case 't':
        b->now_ms += n;
        break;
    case 'T':
        b->now_ms += n;
        colo_match_tick(b->m, b->now_ms);
        break;
    case 'p':
        p = packet_from_text(arg);
        p->arrived_ms = b->now_ms;
        colo_match_primary(b->m, p);
        break;
    case 's':
        p = packet_from_text(arg);
        p->arrived_ms = b->now_ms;
        colo_match_secondary(b->m, p);
        break;
    default:
        g_assert_not_reached();
    }
}

/* One line: a command and what has to happen */
void bench_line(Bench *b, const char *script, unsigned line,
                const char *text)
{
    g_auto(GStrv) sides = g_strsplit(text, ">", 2);
    g_auto(GStrv) words = NULL;
    const char *want = "";

    words = g_strsplit(g_strstrip(sides[0]), " ", 2);
    if (sides[1]) {
        want = g_strstrip(sides[1]);
    }
    g_string_truncate(b->events, 0);
    bench_command(b, words[0], words[1]);
    if (strcmp(b->events->str + (b->events->len > 0), want)) {
        g_error("%s, line %u '%s': want '%s', got '%s'", script, line, text,
                want, b->events->str);
    }
}

void bench_run_script(const void *opaque)
{
    const Script *s = opaque;
    g_auto(GStrv) lines = g_strsplit(s->lines, "\n", -1);
    const ColoMatchStats *stats;
    Bench b;

    bench_init(&b, s->config);
    for (unsigned i = 0; lines[i]; i++) {
        if (*lines[i]) {
            bench_line(&b, s->name, i + 1, lines[i]);
        }
    }
    /* The end of all sessions: nothing is left behind */
    colo_match_open(b.m);
    stats = colo_match_stats(b.m);
    g_assert_cmpint(stats->queued_packets, ==, 0);
    g_assert_cmpint(stats->queued_bytes, ==, 0);
    g_assert_cmpint(stats->secondary_queued_bytes, ==, 0);
    g_assert_cmpint(stats->flows, ==, 0);
    g_assert_cmpint(colo_match_deadline_ms(b.m), ==, INT64_MAX);
    bench_cleanup(&b);
}

void bench_add_scripts(const Script *scripts, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        g_autofree char *path = g_strdup_printf("/colo/match/%s",
                                                scripts[i].name);

        g_test_add_data_func(path, &scripts[i], bench_run_script);
    }
}
