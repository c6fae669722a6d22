/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO, and a user who takes the published proxy of a protected primary apart.
 *
 * The test is the network, the primary's guest and the secondary's streams.
 *
 * Proves: in whatever order its objects are switched off and deleted, with
 * packets and a checkpoint under way, nothing hangs or crashes; a character
 * device that is in use is not removed; the session goes on, and a proxy that
 * is put together again works.
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "colo-net.h"

#define PACKETS 50

/* Objects in the order in which they are made */
static const struct {
    const char *id;
    bool filter;
    const char *chardevs[3];
} objects[] = {
    { "m0", true, { "mirror0" } },
    { "redire0", true, { "outc" } },
    { "redire1", true, { "pric" } },
    { "comp0", false, { "pris", "sec", "outs" } },
};

#define OBJECTS ((int)G_N_ELEMENTS(objects))

typedef struct Rig {
    ColoPair *pair;
    Net *net;
    int mirror;                 /* the secondary's ends */
    int sec;
} Rig;

static void add_client(Rig *r, const char *id, const char *server)
{
    g_autofree char *path = g_build_filename(r->net->dir, server, NULL);

    qtest_qmp_assert_success(r->net->qts,
        "{'execute': 'chardev-add', 'arguments': {'id': %s, 'backend': {"
        "'type': 'socket', 'data': {'server': false,"
        "'addr': {'type': 'unix', 'data': {'path': %s}}}}}}", id, path);
}

static void add_filter(Rig *r, const char *type, const char *id,
                       const char *queue, const char *dev, const char *chardev)
{
    qtest_qmp_assert_success(r->net->qts,
        "{'execute': 'object-add', 'arguments': {'qom-type': %s, 'id': %s,"
        "'netdev': 'n0', 'queue': %s, %s: %s}}", type, id, queue, dev,
        chardev);
}

static void build_proxy(Rig *r)
{
    static const char *const servers[] = { "mirror0", "sec", "pris", "outs" };

    for (int i = 0; i < G_N_ELEMENTS(servers); i++) {
        add_chardev(r->net, servers[i]);
    }
    add_client(r, "pric", "pris");
    add_client(r, "outc", "outs");
    add_filter(r, "filter-mirror", "m0", "tx", "outdev", "mirror0");
    add_filter(r, "filter-redirector", "redire0", "rx", "indev", "outc");
    add_filter(r, "filter-redirector", "redire1", "rx", "outdev", "pric");
    qtest_qmp_assert_success(r->net->qts,
        "{'execute': 'object-add', 'arguments': {'qom-type': 'colo-compare',"
        "'id': 'comp0', 'primary_in': 'pris', 'secondary_in': 'sec',"
        "'outdev': 'outs', 'iothread': 'iot0', 'compare_timeout': 20}}");
    r->mirror = open_chardev(r->net, "mirror0");
    r->sec = open_chardev(r->net, "sec");
}

/* The network and the guest take whatever comes */
static void take_all(Rig *r)
{
    int ends[] = { r->net->net, r->net->guest };
    char buf[4096];

    for (int i = 0; i < G_N_ELEMENTS(ends); i++) {
        while (recv(ends[i], buf, sizeof(buf), MSG_DONTWAIT) > 0) {
            continue;
        }
    }
}

static void say(Rig *r, unsigned packets)
{
    g_autofree char *text = g_strnfill(1000, 'x');

    for (unsigned i = 0; i < packets; i++) {
        write_str(r->net->guest, text);
        write_str(r->net->net, text);
    }
    take_all(r);
}

/* What the guest says now arrives, behind what it has said */
static void hear_the_end(Rig *r)
{
    static const char word[] = "the end";
    g_autofree char *last = g_malloc0(sizeof(word));

    write_str(r->net->guest, word);
    while (memcmp(last, word, strlen(word))) {
        memmove(last, last + 1, strlen(word));
        read_all(r->net->net, last + strlen(word) - 1, 1);
    }
}

static void remove_object(Rig *r, int i)
{
    QTestState *qts = r->net->qts;
    g_autofree char *path = g_strdup_printf("/objects/%s", objects[i].id);

    say(r, PACKETS);
    for (int c = 0; c < 3 && objects[i].chardevs[c]; c++) {
        colo_refused(qts, "is busy", "{'execute': 'chardev-remove',"
                     "'arguments': {'id': %s}}", objects[i].chardevs[c]);
    }
    if (objects[i].filter) {
        set_status(qts, path, "off");
        say(r, PACKETS);
    }
    del_object(qts, objects[i].id);
    for (int c = 0; c < 3 && objects[i].chardevs[c]; c++) {
        qtest_qmp_assert_success(qts, "{'execute': 'chardev-remove',"
                                 "'arguments': {'id': %s}}",
                                 objects[i].chardevs[c]);
    }
}

static void ask_for_checkpoint(Rig *r)
{
    qtest_qmp_assert_success(r->net->qts, "{'execute': 'x-colo-checkpoint'}");
}

/* Permutation @n of the objects */
static void take_apart(Rig *r, int n)
{
    int left[] = { 0, 1, 2, 3 };

    QEMU_BUILD_BUG_ON(G_N_ELEMENTS(left) != OBJECTS);
    for (int count = OBJECTS; count; count--) {
        int at = n % count;

        n /= count;
        ask_for_checkpoint(r);
        remove_object(r, left[at]);
        left[at] = left[count - 1];
    }
    close(r->mirror);
    close(r->sec);
}

static void rig_start(Rig *r)
{
    r->pair = colo_pair_new("hybrid");
    r->net = net_on(r->pair->primary);
    qtest_qmp_assert_success(r->net->qts, "{'execute': 'object-add',"
                             "'arguments': {'qom-type': 'iothread',"
                             "'id': 'iot0'}}");
    build_proxy(r);
    colo_pair_migrate(r->pair, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(r->pair->secondary, "running");
    colo_wait_state(r->pair->primary, "running");
}

static void rig_end(Rig *r)
{
    colo_pair_free(r->pair);
    net_gone(r->net);
}

static void test_orders(void)
{
    Rig r;

    rig_start(&r);
    for (int n = 0; n < 24; n++) {
        int64_t done;

        take_apart(&r, n);
        done = colo_statistic(r.net->qts, "checkpoints");
        ask_for_checkpoint(&r);
        colo_wait_statistic(r.net->qts, "checkpoints", done + 1);
        build_proxy(&r);
    }
    /* It compares: a checkpoint lets go what nobody else has said */
    hear_the_end(&r);
    colo_wait_state(r.pair->secondary, "running");
    g_assert_cmpint(colo_statistic(r.pair->secondary, "ram-mismatches"), ==,
                    0);
    close(r.mirror);
    close(r.sec);
    rig_end(&r);
}

/* The same while the primary does not know who goes on */
static void test_lost(void)
{
    Rig r;

    rig_start(&r);
    colo_kill(&r.pair->secondary);
    colo_wait_state(r.net->qts, "lost");
    for (int i = OBJECTS - 1; i >= 0; i--) {
        remove_object(&r, i);
    }
    close(r.mirror);
    close(r.sec);
    colo_failover(r.net->qts);
    colo_wait_state(r.net->qts, "alone");
    hear_the_end(&r);
    rig_end(&r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/remove/orders", test_orders);
    qtest_add_func("/colo/remove/lost", test_lost);
    return g_test_run();
}
