/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * colo-compare with ten thousand connections that come and go.
 *
 * A pair without filters makes the session: the test says what both guests
 * say, and that their epochs begin.
 *
 * Proves: each connection is compared on its own, however many there are; what
 * both said leaves as it is and nothing else does; a connection that ended is
 * forgotten, with all that was kept of it; nothing is left in the queues, and
 * memory does not grow with the number of connections there have been.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "net/net.h"
#include "qobject/qlist.h"
#include "colo-compare-rig.h"
#include "colo-helpers.h"

#define OPEN        10000       /* connections at a time */
#define CHURN       2000        /* of them end in a round, and others begin */
#define ROUNDS      5           /* in a phase; after it all is forgotten */
#define WARM_UP     2           /* phases */
#define PERIODS     4           /* in which memory may come to rest */
#define DIFFER_EACH 50          /* one connection of so many */
#define PAIR_SECONDS 240
#define DELAY_MS    600000      /* no checkpoint that is not asked for */

/*
 * What may be kept for later.  How many connections that ended are known at
 * once is a matter of time, but in each phase they are at most as many.
 */
#define SLACK_KIB   2048

/* What the guest says in its life */
#define ISN         1000
#define PAYLOAD     32

typedef struct Many {
    ColoPair *pair;
    Rig *r;                     /* on its primary */
    uint32_t first;             /* the oldest connection that is open */
    uint32_t next;              /* the one that begins next */
    uint32_t seq[OPEN];         /* by number, which wraps */
} Many;

/* Streams */

static void append_segment(Many *m, GByteArray *stream, uint32_t n,
                           uint8_t flags, unsigned len, uint8_t seed)
{
    uint32_t *seq = &m->seq[n % OPEN];
    Make segment = {
        .ttl = 64,
        .sport = 1 + n % 60000,
        .dport = 80 + n / 60000,
        .seq = *seq,
        .ack = 7000,
        .window = 8192,
        .flags = flags | COLO_TCP_ACK,
        .payload_len = len,
        .payload_seed = seed,
    };
    Made what;

    make(&segment, &what);
    append_packet(m->r, stream, what.data, what.size, 0);
    g_free(what.data);
    *seq += len + !!(flags & (COLO_TCP_SYN | COLO_TCP_FIN));
}

static void append_begin(Many *m, GByteArray *stream)
{
    m->seq[m->next % OPEN] = ISN;
    append_segment(m, stream, m->next, COLO_TCP_SYN, 0, 0);
    m->next++;
}

/* Some are reset */
static void append_end(Many *m, GByteArray *stream)
{
    append_segment(m, stream, m->first,
                   m->first % 4 ? COLO_TCP_FIN : COLO_TCP_RST, 0, 0);
    m->first++;
}

/* The secondary's guest first, so that the primary's words need not wait */
static void both_say(Many *m, GByteArray *stream)
{
    put(m->r, SECONDARY, stream);
    put(m->r, PRIMARY, stream);
    get_equal(m->r, stream);
    g_byte_array_set_size(stream, 0);
}

/* QEMU */

static int64_t statistic(Many *m, const char *name)
{
    QDict *status = qtest_qmp_assert_success_ref(m->r->qts,
        "{'execute': 'query-colo-status'}");
    QList *list = qdict_get_qlist(status, "compare");
    int64_t value = qdict_get_int(qobject_to(QDict, qlist_peek(list)), name);

    qobject_unref(status);
    return value;
}

static void wait_flows(Many *m, int64_t flows)
{
    int64_t end = g_get_monotonic_time() + DEADLINE_MS * 1000LL;

    while (statistic(m, "flows") != flows) {
        if (g_get_monotonic_time() > end) {
            g_error("%" PRId64 " connections are known, not %" PRId64,
                    statistic(m, "flows"), flows);
        }
        g_usleep(1000);
    }
}

static void assert_empty(Many *m)
{
    g_assert_cmpint(statistic(m, "queued-packets"), ==, 0);
    g_assert_cmpint(statistic(m, "queued-bytes"), ==, 0);
    g_assert_cmpint(statistic(m, "secondary-dropped"), ==, 0);
    assert_silent(m->r->fds[OUT]);
}

static long rss_kib(Many *m)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status",
                                            (int)qtest_pid(m->r->qts));
    g_autofree char *text = NULL;
    const char *line;
    long kib;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    line = strstr(text, "VmRSS:");
    g_assert_nonnull(line);
    g_assert_cmpint(sscanf(line, "VmRSS: %ld", &kib), ==, 1);
    return kib;
}

/* Checkpoint n is done: tell both streams so */
static void say_cut(Many *m, uint64_t epoch)
{
    g_autoptr(GByteArray) record = g_byte_array_new();

    append_word(record, CUT_RECORD);
    append_word(record, epoch >> 32);
    append_word(record, epoch);
    put(m->r, SECONDARY, record);
    put(m->r, PRIMARY, record);
}

/* Its sockets, and the object: its scan is what forgets connections */
static Rig *rig_on(QTestState *qts)
{
    Rig *r = rig_new(false, false);

    r->qts = qts;
    qtest_qmp_assert_success(qts, "{'execute': 'object-add', 'arguments': {"
                             "'qom-type': 'iothread', 'id': 'iot0'}}");
    for (int i = 0; i < NOTIFY; i++) {
        g_autofree char *path = g_build_filename(r->dir, chardevs[i], NULL);

        qtest_qmp_assert_success(qts,
            "{'execute': 'chardev-add', 'arguments': {'id': %s, 'backend': {"
            "'type': 'socket', 'data': {'wait': false, 'addr': {"
            "'type': 'unix', 'data': {'path': %s}}}}}}", chardevs[i], path);
    }
    qtest_qmp_assert_success(qts, OBJECT_ADD(FOUR
                             ", 'compare_timeout': 3600000, "
                             "'expired_scan_cycle': 50"));
    for (Port port = 0; port < NOTIFY; port++) {
        plug(r, port);
    }
    probe(r);
    return r;
}

static uint64_t epoch(Many *m)
{
    QDict *status = qtest_qmp_assert_success_ref(m->r->qts,
        "{'execute': 'query-colo-status'}");
    uint64_t value = qdict_get_int(status, "epoch");

    qobject_unref(status);
    return value;
}

/* A pair that takes the checkpoints that it is asked for */
static Many *many_start(void)
{
    Many *m = g_new0(Many, 1);
    g_autoptr(GByteArray) stream = g_byte_array_new();

    m->pair = colo_pair_new("periodic");
    alarm(PAIR_SECONDS);        /* it lives longer than others */
    m->r = rig_on(m->pair->primary);
    colo_pair_migrate(m->pair, "mig", "mig", DELAY_MS, COLO_DEADLINE_MS);
    colo_wait_state(m->pair->secondary, "standing");
    colo_wait_state(m->pair->primary, "running");
    say_cut(m, 0);
    while (m->next < OPEN) {
        append_begin(m, stream);
    }
    both_say(m, stream);
    g_assert_cmpint(statistic(m, "flows"), ==, OPEN);
    return m;
}

static void many_end(Many *m)
{
    g_autoptr(GByteArray) stream = g_byte_array_new();

    while (m->first < m->next) {
        append_end(m, stream);
    }
    both_say(m, stream);
    wait_flows(m, 0);
    assert_empty(m);
    m->pair->primary = NULL;
    rig_end(m->r);
    colo_pair_free(m->pair);
    g_free(m);
}

/* All say something; then the oldest end, and as many begin */
static void churn(Many *m, uint8_t seed)
{
    g_autoptr(GByteArray) stream = g_byte_array_new();

    for (uint32_t n = m->first; n < m->next; n++) {
        append_segment(m, stream, n, COLO_TCP_PSH, PAYLOAD, seed + n);
    }
    both_say(m, stream);
    for (int i = 0; i < CHURN; i++) {
        append_end(m, stream);
        append_begin(m, stream);
    }
    both_say(m, stream);
}

/*
 * After WARM_UP phases @phases more do not cost memory. What malloc() keeps
 * may take longer to come to rest, what leaks does so in each period: one of
 * PERIODS must be flat.
 */
static void check_flat(Many *m, int phases, void (*round)(Many *, uint8_t))
{
    long before = 0, after, growth;
    int phase = -WARM_UP, period = 0;

    do {
        for (int end = period * phases; phase < end; phase++) {
            for (int i = 0; i < ROUNDS; i++) {
                round(m, (phase + WARM_UP) * ROUNDS + i);
            }
            wait_flows(m, OPEN);
        }
        after = rss_kib(m);
        growth = period ? after - before : SLACK_KIB;
        before = after;
#ifdef QEMU_SANITIZE_ADDRESS    /* it keeps what was freed */
        growth = period ? 0 : growth;
#endif
    } while (growth >= SLACK_KIB && period++ < PERIODS);
    assert_empty(m);
    g_test_message("RSS %ld KiB, %ld of them by %d connections; %" PRId64
                   " packets were equal, %" PRId64 " left by %" PRId64
                   " checkpoints", after, growth, phases * ROUNDS * CHURN,
                   statistic(m, "released-equal"),
                   statistic(m, "released-commit"),
                   colo_statistic(m->r->qts, "checkpoints"));
    g_assert_cmpint(growth, <, SLACK_KIB);
}

static void test_churn(void)
{
    Many *m = many_start();

    check_flat(m, 8, churn);
    g_assert_cmpint(statistic(m, "mismatches"), ==, 0);
    g_assert_cmpint(statistic(m, "released-commit"), ==, 0);
    g_assert_cmpint(colo_statistic(m->r->qts, "checkpoints"), ==, 0);
    many_end(m);
}

/* In any order: what a commit lets go leaves flow by flow */
static void get_all(Many *m, const GByteArray *expected)
{
    g_autofree uint8_t *buf = g_malloc(expected->len);
    g_autoptr(GHashTable) left = g_hash_table_new_full(g_bytes_hash,
        g_bytes_equal, (GDestroyNotify)g_bytes_unref, NULL);
    uint32_t at, len;

    get_bytes(m->r->fds[OUT], buf, expected->len);
    for (at = 0; at < expected->len; at += len) {
        len = sizeof(uint32_t) + ldl_be_p(expected->data + at);
        g_hash_table_add(left, g_bytes_new(expected->data + at, len));
    }
    for (at = 0; at < expected->len; at += len) {
        g_autoptr(GBytes) packet = NULL;

        len = sizeof(uint32_t) + ldl_be_p(buf + at);
        g_assert_cmpuint(len, <=, expected->len - at);
        packet = g_bytes_new(buf + at, len);
        g_assert_true(g_hash_table_remove(left, packet));
    }
    g_assert_cmpuint(g_hash_table_size(left), ==, 0);
}

/*
 * Some connections differ: all that the primary's guest said leaves once, what
 * differs by the checkpoint that is asked for.
 */
static void differ(Many *m, uint8_t seed)
{
    g_autoptr(GByteArray) primary = g_byte_array_new();
    g_autoptr(GByteArray) secondary = g_byte_array_new();
    int64_t mismatches = statistic(m, "mismatches");
    int64_t committed = statistic(m, "released-commit");

    for (uint32_t n = m->first; n < m->next; n++) {
        append_segment(m, secondary, n, COLO_TCP_PSH, PAYLOAD,
                       seed + (n % DIFFER_EACH == 0));
        m->seq[n % OPEN] -= PAYLOAD;
        append_segment(m, primary, n, COLO_TCP_PSH, PAYLOAD, seed);
    }
    put(m->r, SECONDARY, secondary);
    put(m->r, PRIMARY, primary);
    get_all(m, primary);
    g_assert_cmpint(statistic(m, "mismatches"), >, mismatches);
    g_assert_cmpint(statistic(m, "released-commit"), >, committed);
    colo_wait_state(m->r->qts, "running");
    say_cut(m, epoch(m));
    churn(m, seed + 100);
}

static void test_differ(void)
{
    Many *m = many_start();

    check_flat(m, 4, differ);
    many_end(m);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/compare/many/churn", test_churn);
    qtest_add_func("/colo/compare/many/differ", test_differ);
    return g_test_run();
}
