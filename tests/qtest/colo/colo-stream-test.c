/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: streams that come and go while a session is under way.
 *
 * Proves: a stream that ends is told by COLO_PROTECTION, also without a
 * checkpoint or a query; it is connected anew by QEMU alone, whoever listens
 * and whether or not its socket has "reconnect-ms", after a peer that left, a
 * yank, and also if it ended before the session; after the session a socket
 * does what its user has said.  A stream that cannot be read is told and begins
 * anew.  Ends that do not fit to each other are told, and stay connected, also
 * if both write; one that goes on and on with that does not fill the log.  An
 * end that is in another session is told and closed, and nothing of it is used;
 * so is the secondary of a session that is over, when the next one begins, and
 * so is what says nothing at all, or is in an epoch in which it cannot be.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "qemu/sockets.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "colo-net.h"

typedef struct Rig {
    ColoPair *p;
    Net net;                    /* its chardevs only */
    int listener;
} Rig;

static void expect_protection(QTestState *qts, bool yes, const char *text)
{
    QDict *event = colo_wait_event(qts, "COLO_PROTECTION");
    QDict *data = qdict_get_qdict(event, "data");

    g_assert_cmpint(qdict_get_bool(data, "protected"), ==, yes);
    if (text) {
        g_assert_nonnull(strstr(qdict_get_str(data, "message"), text));
    }
    qobject_unref(event);
}

static bool is_protected(QTestState *qts)
{
    QDict *status = colo_status(qts);
    bool yes = qdict_get_bool(status, "protected");

    qobject_unref(status);
    return yes;
}

/* The message of the only problem, if there is one; the caller frees it */
static char *problem(QTestState *qts)
{
    QDict *status = colo_status(qts);
    QList *problems = qdict_get_qlist(status, "problems");
    char *message = NULL;

    g_assert_cmpint(qlist_size(problems), <=, 1);
    if (!qlist_empty(problems)) {
        QDict *first = qobject_to(QDict, qlist_peek(problems));

        g_assert_cmpstr(qdict_get_str(first, "kind"), ==, "stream");
        message = g_strdup(qdict_get_str(first, "message"));
    }
    qobject_unref(status);
    return message;
}

static int accept_one(Rig *r)
{
    struct pollfd pfd = { .fd = r->listener, .events = POLLIN };
    int fd;

    g_assert_cmpint(poll(&pfd, 1, COLO_DEADLINE_MS), ==, 1);
    fd = accept(r->listener, NULL, NULL);
    g_assert_cmpint(fd, >=, 0);
    set_deadline(fd);
    return fd;
}

static bool is_closed(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static void begin_session(Rig *r)
{
    colo_pair_migrate(r->p, "mig", "mig", 600000, COLO_TIMEOUT_MS);
    colo_wait_state(r->p->secondary, colo_state_ready(r->p));
    colo_wait_state(r->p->primary, "running");
}

/*
 * The mirror connects to us, from c0, nothing else has a stream yet, and nothing
 * compares
 */
static int rig_begin(Rig *r)
{
    g_autofree char *path = NULL;

    r->p = colo_pair_new("hybrid");
    del_object(r->p->primary, "oc0");
    r->net = (Net) { .qts = r->p->primary, .dir = r->p->dir };
    path = g_build_filename(r->p->dir, "listener", NULL);
    r->listener = unix_listen(path, &error_abort);
    qtest_qmp_assert_success(r->p->primary,
        "{'execute': 'chardev-add', 'arguments': {'id': 'c0', 'backend': {"
        "'type': 'socket', 'data': {'server': false,"
        "'addr': {'type': 'unix', 'data': {'path': %s}}}}}}", path);
    qtest_qmp_assert_success(r->p->primary,
        "{'execute': 'object-add', 'arguments': {'qom-type': 'filter-mirror',"
        "'id': 'm0', 'netdev': 'hn0', 'queue': 'tx', 'outdev': 'c0'}}");
    return accept_one(r);
}

static void rig_end(Rig *r)
{
    close(r->listener);
    colo_pair_free(r->p);
}

/* A comparison that reads from chardev c1; returns the other end of that */
static int add_compare_on(Rig *r)
{
    add_chardev(&r->net, "c1");
    qtest_qmp_assert_success(r->p->primary,
        "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'filter-compare', 'id': 'comp0', 'netdev': 'hn0',"
        "'queue': 'rx', 'secondary-in': 'c1'}}");
    return open_chardev(&r->net, "c1");
}

/* To a chardev that is connected already: QEMU takes it when that is over */
static int unix_connect_to(Net *n, const char *id)
{
    g_autofree char *path = g_build_filename(n->dir, id, NULL);
    int fd = unix_connect(path, &error_abort);

    set_deadline(fd);
    return fd;
}

static void test_server(void)
{
    Rig r;
    int mirror = rig_begin(&r), compare;

    compare = add_compare_on(&r);
    begin_session(&r);
    expect_protection(r.p->primary, true, NULL);

    close(compare);
    expect_protection(r.p->primary, false, "secondary-in of filter-compare");
    compare = open_chardev(&r.net, "c1");
    expect_protection(r.p->primary, true, NULL);
    close(compare);
    close(mirror);
    rig_end(&r);
}

static void test_client(void)
{
    Rig r;
    int fd = rig_begin(&r), compare = add_compare_on(&r);

    begin_session(&r);
    expect_cut(fd, 0);
    expect_protection(r.p->primary, true, NULL);
    close(fd);
    expect_protection(r.p->primary, false, "outdev of filter-mirror 'm0'");
    fd = accept_one(&r);
    expect_cut(fd, 0);
    expect_protection(r.p->primary, true, NULL);

    qtest_qmp_assert_success(r.p->primary,
        "{'execute': 'yank', 'arguments': {'instances': ["
        "{'type': 'chardev', 'id': 'c0'}]}}");
    wait_for(is_closed(fd));
    close(fd);
    expect_protection(r.p->primary, false, "outdev of filter-mirror 'm0'");
    fd = accept_one(&r);
    expect_cut(fd, 0);
    expect_protection(r.p->primary, true, NULL);

    colo_failover(r.p->primary);
    colo_wait_mode(r.p->primary, "none");
    close_chardev(&r.net, "c0", fd);
    /* Longer than it takes to connect in a session */
    g_assert_cmpint(poll(&(struct pollfd) { r.listener, POLLIN }, 1, 2000),
                    ==, 0);
    close(compare);
    rig_end(&r);
}

static void test_closed_before(void)
{
    Rig r;
    int fd = rig_begin(&r), compare = add_compare_on(&r);

    close_chardev(&r.net, "c0", fd);
    begin_session(&r);
    fd = accept_one(&r);
    expect_cut(fd, 0);
    wait_for(is_protected(r.p->primary));
    close(fd);
    close(compare);
    rig_end(&r);
}

/* TLS, to an end that has none; at first while there is no session */
static void test_garbage(void)
{
    static const uint8_t hello[] = { 22, 3, 1, 0, 200, 1, 0, 0, 196 };
    g_autofree char *message = NULL;
    g_autofree char *later = NULL;
    Rig r;
    int mirror = rig_begin(&r), compare;

    compare = add_compare_on(&r);
    write_all(compare, hello, sizeof(hello));
    begin_session(&r);
    wait_for(is_closed(compare));
    close(compare);
    message = problem(r.p->primary);
    g_assert_nonnull(strstr(message, "secondary-in 'c1': packet of "));

    compare = open_chardev(&r.net, "c1");
    write_cut(compare, 0);
    expect_protection(r.p->primary, true, NULL);
    write_all(compare, hello, sizeof(hello));
    expect_protection(r.p->primary, false, "secondary-in 'c1': packet of ");
    wait_for(is_closed(compare));
    close(compare);
    compare = open_chardev(&r.net, "c1");
    write_cut(compare, 0);
    expect_protection(r.p->primary, true, NULL);
    later = problem(r.p->primary);
    g_assert_null(later);
    close(compare);
    close(mirror);
    rig_end(&r);
}

/* A packet of the other end, which has no vnet header here */
static void write_hello(int fd, uint8_t kind, uint8_t flags, uint32_t header)
{
    const uint8_t who[] = { 0, 1, kind, flags };

    write_word(fd, HELLO);
    write_word(fd, 12);
    write_all(fd, who, sizeof(who));
    write_word(fd, header);
    write_all(fd, "far0", 4);
}

static void write_hello_mac(int fd, uint8_t kind, uint8_t last)
{
    const uint8_t who[] = { 0, 1, kind, 2 };
    const uint8_t mac[] = { 0x52, 0x54, 0, 0x12, 0x34, last };

    write_word(fd, HELLO);
    write_word(fd, 18);
    write_all(fd, who, sizeof(who));
    write_word(fd, 0);
    write_all(fd, "far0", 4);
    write_all(fd, mac, sizeof(mac));
}

static void test_hello(void)
{
    static const struct {
        uint8_t kind, flags;
        uint32_t header;
        const char *text;       /* NULL: it fits */
    } cases[] = {
        { 1, 0, 0, "the input of the primary's guest of netdev 'far0' comes" },
        { 3, 1, 12, "vnet_hdr_support is on at the other end" },
        { 3, 0, 12, "vnet_hdr_support=on is needed at both ends" },
        { 3, 0, 0, NULL },
    };
    Rig r;
    int mirror = rig_begin(&r), compare;

    compare = add_compare_on(&r);
    begin_session(&r);
    wait_for(is_protected(r.p->primary));
    for (int i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *message = NULL;

        write_hello(compare, cases[i].kind, cases[i].flags, cases[i].header);
        wait_for(is_protected(r.p->primary) == !cases[i].text);
        message = problem(r.p->primary);
        g_test_message("%s", message);
        g_assert_true(!message == !cases[i].text);
        g_assert_true(!message || strstr(message, cases[i].text));
        g_assert_true(nothing_to_read(compare));
        close_chardev(&r.net, "c1", compare);
        compare = open_chardev(&r.net, "c1");
    }
    close(compare);
    close(mirror);
    rig_end(&r);
}

static unsigned count_lines(const char *path, const char *with)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    unsigned count = 0;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    lines = g_strsplit(text, "\n", 0);
    for (char **line = lines; *line; line++) {
        count += !!strstr(*line, with);
    }
    return count;
}

/* However often the other end changes its mind, the log does not fill */
static void test_many_faults(void)
{
    g_autofree char *dir = g_dir_make_tmp("colo-stream-XXXXXX", NULL);
    g_autofree char *log = g_build_filename(dir, "log", NULL);
    Net *n = net_on(qtest_initf("-machine pc -nodefaults 2>%s", log));
    int fd;

    add_redirector(n, "in", "tx", "indev", "c1");
    fd = open_chardev(n, "c1");
    for (int i = 1; i <= 1000; i++) {
        write_hello(fd, 1, 0, i);
    }
    write_str(fd, "all was read");
    expect_str(n->guest, "all was read");
    g_assert_cmpuint(count_lines(log, "vnet header of 1 bytes"), ==, 1);
    g_assert_cmpuint(count_lines(log, "vnet header of"), <=, 10);
    close(fd);
    net_free(n);
    remove_dir(g_steal_pointer(&dir));
}

static void add_client(QTestState *qts, const char *id, const char *path)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'chardev-add', 'arguments': {'id': %s, 'backend': {"
        "'type': 'socket', 'data': {'server': false,"
        "'addr': {'type': 'unix', 'data': {'path': %s}}}}}}", id, path);
}

static void add_filter(QTestState *qts, const char *type, const char *id,
                       const char *queue, const char *end, const char *chr)
{
    qtest_qmp_assert_success(qts,
        "{'execute': 'object-add', 'arguments': {'qom-type': %s, 'id': %s,"
        "'netdev': 'hn0', 'queue': %s, %s: %s}}", type, id, queue, end, chr);
}

/*
 * A pair whose streams all are there; @f1, @f2: whereto those connect; @extra:
 * for the secondary only
 */
static ColoPair *proxy_new(const char *f1, const char *f2, const char *extra)
{
    ColoPair *p = colo_pair_new("hybrid");
    Net n = { .qts = p->primary, .dir = p->dir };
    g_autofree char *in = g_build_filename(p->dir, f1, NULL);
    g_autofree char *out = g_build_filename(p->dir, f2, NULL);

    if (*extra) {
        colo_quit(&p->secondary);
        g_free(p->extra);
        p->extra = g_strdup(extra);
        colo_pair_new_secondary(p);
    }
    del_object(p->primary, "oc0");
    del_object(p->secondary, "oc0");
    add_chardev(&n, "mirror0");
    add_chardev(&n, "compare1");
    add_filter(p->primary, "filter-mirror", "m0", "tx", "outdev", "mirror0");
    add_filter(p->primary, "filter-compare", "comp0", "rx", "secondary-in",
               "compare1");
    add_client(p->secondary, "red0", in);
    add_client(p->secondary, "red1", out);
    add_filter(p->secondary, "filter-redirector", "f1", "tx", "indev", "red0");
    add_filter(p->secondary, "filter-redirector", "f2", "rx", "outdev", "red1");
    qtest_qmp_assert_success(p->secondary,
        "{'execute': 'object-add', 'arguments': {'qom-type': 'filter-rewriter',"
        "'id': 'rew0', 'netdev': 'hn0'}}");
    return p;
}

static void wait_problem(QTestState *qts, const char *text)
{
    g_autofree char *message = NULL;

    wait_for((g_free(message), message = problem(qts)));
    g_test_message("%s", message);
    g_assert_nonnull(strstr(message, text));
    g_assert_false(is_protected(qts));
}

/* The two ends that write are connected, and the two that read */
static void test_swapped(void)
{
    Rig r = { .p = proxy_new("compare1", "mirror0", "") };

    begin_session(&r);
    wait_problem(r.p->secondary, "chardev 'red1' is connected to the mirror of "
                 "the primary, of netdev 'hn0', and should be connected to the "
                 "primary's comparison: are the ports swapped?");
    wait_problem(r.p->primary, "chardev 'mirror0' is connected to the output "
                 "of the secondary, of netdev 'hn0', and should be connected "
                 "to the secondary's input: are the ports swapped?");
    colo_pair_free(r.p);
}

/* The secondary's NIC has another one */
static void test_mac(void)
{
    Rig r = { .p = proxy_new("mirror0", "compare1",
                             "-global virtio-net-pci.mac=52:54:00:12:34:99") };

    begin_session(&r);
    wait_problem(r.p->secondary, "filter-redirector: indev 'red0': the MAC "
                 "address of the NIC is 52:54:00:12:34:56 at the other end, at "
                 "netdev 'hn0', and 52:54:00:12:34:99 here");
    wait_problem(r.p->primary, "filter-compare: secondary-in 'compare1': the "
                 "MAC address of the NIC is 52:54:00:12:34:99 at the other end");
    colo_pair_free(r.p);
}

/* colo-compare knows no NIC, but is told of both */
static void test_mac_compare(void)
{
    static const char *const streams[] = { "pri", "sec", "out" };
    Rig r;
    int mirror = rig_begin(&r), fds[3];

    /* There and back, to nowhere */
    add_chardev(&r.net, "c2");
    add_chardev(&r.net, "c3");
    add_filter(r.p->primary, "filter-redirector", "redire0", "rx", "indev",
               "c2");
    add_filter(r.p->primary, "filter-redirector", "redire1", "rx", "outdev",
               "c3");

    for (int i = 0; i < G_N_ELEMENTS(streams); i++) {
        add_chardev(&r.net, streams[i]);
    }
    qtest_qmp_assert_success(r.p->primary,
        "{'execute': 'object-add', 'arguments': {'qom-type': 'iothread',"
        "'id': 'iothread1'}}");
    qtest_qmp_assert_success(r.p->primary,
        "{'execute': 'object-add', 'arguments': {'qom-type': 'colo-compare',"
        "'id': 'comp0', 'iothread': 'iothread1', 'primary_in': 'pri',"
        "'secondary_in': 'sec', 'outdev': 'out'}}");
    for (int i = 0; i < G_N_ELEMENTS(streams); i++) {
        fds[i] = open_chardev(&r.net, streams[i]);
    }
    begin_session(&r);
    write_hello_mac(fds[0], 2, 0x56);
    write_cut(fds[0], 0);
    write_hello_mac(fds[1], 3, 0x56);
    write_cut(fds[1], 0);
    wait_for(is_protected(r.p->primary));
    close_chardev(&r.net, "sec", fds[1]);
    fds[1] = open_chardev(&r.net, "sec");
    write_hello_mac(fds[1], 3, 0x99);
    wait_problem(r.p->primary, "colo-compare: secondary_in: the MAC address of "
                 "the NIC is 52:54:00:12:34:99, that of primary_in is "
                 "52:54:00:12:34:56");
    for (int i = 0; i < G_N_ELEMENTS(streams); i++) {
        close(fds[i]);
    }
    close(mirror);
    rig_end(&r);
}

static void test_right(void)
{
    Rig r = { .p = proxy_new("mirror0", "compare1", "") };

    begin_session(&r);
    wait_for(is_protected(r.p->primary));
    wait_for(is_protected(r.p->secondary));
    qtest_qmp_assert_success(r.p->primary, "{'execute': 'x-colo-checkpoint'}");
    colo_wait_statistic(r.p->secondary, "checkpoints-verified", 1);
    g_assert_true(is_protected(r.p->primary));
    g_assert_true(is_protected(r.p->secondary));
    colo_pair_free(r.p);
}

/* Filters that may go in a session, or be off, are missed without a query */
static void test_object_deleted(void)
{
    Rig r = { .p = proxy_new("mirror0", "compare1", "") };

    begin_session(&r);
    expect_protection(r.p->primary, true, NULL);
    expect_protection(r.p->secondary, true, NULL);
    set_status(r.p->primary, "m0", "off");
    expect_protection(r.p->primary, false, "filter-mirror");
    set_status(r.p->primary, "m0", "on");
    expect_protection(r.p->primary, true, NULL);
    del_object(r.p->primary, "m0");
    expect_protection(r.p->primary, false, "filter-mirror");
    set_status(r.p->secondary, "rew0", "off");
    expect_protection(r.p->secondary, false, "filter-rewriter");
    set_status(r.p->secondary, "rew0", "on");
    expect_protection(r.p->secondary, true, NULL);
    del_object(r.p->secondary, "rew0");
    expect_protection(r.p->secondary, false, "filter-rewriter");
    colo_pair_free(r.p);
}

/* Of the primary's output, or of its input, in a session called @id over */
static void write_hello_session(int fd, uint8_t kind, const uint8_t id[16])
{
    const uint8_t who[] = { 0, 1, kind, 4 };

    write_word(fd, HELLO);
    write_word(fd, 28);
    write_all(fd, who, sizeof(who));
    write_word(fd, 0);
    write_all(fd, "far0", 4);
    write_all(fd, id, 16);
}

/* What the mirror says of itself ends with its session and the MAC address */
static void read_session(int fd, uint8_t id[16])
{
    uint8_t hello[256];
    uint32_t size;

    g_assert_cmphex(read_word(fd), ==, HELLO);
    size = read_word(fd);
    g_assert_cmpuint(size, >=, 8 + 16 + 6);
    g_assert_cmpuint(size, <=, sizeof(hello));
    read_all(fd, hello, size);
    g_assert_cmphex(hello[3], ==, 2 | 4);
    memcpy(id, hello + size - 6 - 16, 16);
}

/* The primary's comparison is connected to the secondary of another pair */
static void test_stray_output(void)
{
    uint8_t id[16];
    g_autofree char *later = NULL;
    Rig r;
    int mirror = rig_begin(&r), compare;

    compare = add_compare_on(&r);
    begin_session(&r);
    read_session(mirror, id);
    expect_protection(r.p->primary, true, NULL);
    id[15] ^= 1;
    write_hello_session(compare, 3, id);
    expect_protection(r.p->primary, false, "chardev 'c1' is connected to a QEMU "
                      "that is in another session");
    wait_for(is_closed(compare));
    close(compare);

    id[15] ^= 1;
    compare = open_chardev(&r.net, "c1");
    write_hello_session(compare, 3, id);
    write_cut(compare, 0);
    expect_protection(r.p->primary, true, NULL);
    later = problem(r.p->primary);
    g_assert_null(later);
    close(compare);
    close(mirror);
    rig_end(&r);
}

static bool has_problem(QTestState *qts, const char *text)
{
    QDict *status = colo_status(qts);
    const QListEntry *entry;
    bool found = false;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(status, "problems"), entry) {
        QDict *one = qobject_to(QDict, qlist_entry_obj(entry));

        found |= !!strstr(qdict_get_str(one, "message"), text);
    }
    qobject_unref(status);
    return found;
}

/*
 * The secondary's input is connected to the primary of another pair, before
 * either session: nothing of it gets to the guest
 */
static void test_stray_input(void)
{
    static const char text[] = "is connected to a QEMU that is in another "
                               "session";
    const uint8_t stray[16] = { 7 };
    uint8_t id[16];
    Rig r;
    int mirror = rig_begin(&r), compare, input;
    Net net = { .qts = r.p->secondary, .dir = r.p->dir };

    compare = add_compare_on(&r);
    add_chardev(&net, "red0");
    add_filter(r.p->secondary, "filter-redirector", "f1", "tx", "indev",
               "red0");
    input = open_chardev(&net, "red0");
    write_hello_session(input, 1, stray);
    write_cut(input, 0);
    write_str(input, "of another guest");
    /* No session is known yet, so it is read */
    wait_for(counter(r.p->secondary, "f1", "kept-bytes"));
    g_assert_false(has_problem(r.p->secondary, text));
    begin_session(&r);
    wait_for(is_closed(input));
    close(input);
    g_assert_true(has_problem(r.p->secondary, text));
    g_assert_cmpuint(counter(r.p->secondary, "f1", "kept-bytes"), ==, 0);
    g_assert_cmpuint(counter(r.p->secondary, "f1", "in-packets"), ==, 0);

    read_session(mirror, id);
    input = open_chardev(&net, "red0");
    write_hello_session(input, 1, id);
    write_cut(input, 0);
    wait_for(!has_problem(r.p->secondary, text));
    close(input);
    close(compare);
    close(mirror);
    rig_end(&r);
}

/*
 * The host of the secondary goes without a word, so its stream stays, and has
 * the place of that of the next secondary
 */
static void test_old_output(void)
{
    uint8_t id[16];
    Rig r;
    int mirror = rig_begin(&r), compare;

    compare = add_compare_on(&r);
    begin_session(&r);
    read_session(mirror, id);
    write_hello_session(compare, 3, id);
    write_cut(compare, 0);
    expect_protection(r.p->primary, true, NULL);
    colo_kill(&r.p->secondary);
    colo_wait_state(r.p->primary, "lost");
    colo_failover(r.p->primary);
    colo_wait_mode(r.p->primary, "none");
    g_assert_false(is_closed(compare));

    colo_pair_new_secondary(r.p);
    begin_session(&r);
    wait_for(is_closed(compare));
    close(compare);
    compare = open_chardev(&r.net, "c1");
    write_cut(compare, 0);
    wait_for(!has_problem(r.p->primary, "session that is over"));
    close(compare);
    close(mirror);
    rig_end(&r);
}

/* Records without end cost the primary time, each of them */
static void test_records(void)
{
    static const uint64_t wrong[] = { 0, 7 };
    Rig r;
    int mirror = rig_begin(&r), compare;

    compare = add_compare_on(&r);
    begin_session(&r);
    expect_protection(r.p->primary, true, NULL);
    for (int i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autofree char *text = g_strdup_printf("it is in epoch %" PRIu64 ", "
                                                "and cannot be", wrong[i]);

        write_cut(compare, 0);
        write_cut(compare, wrong[i]);
        expect_protection(r.p->primary, false, text);
        wait_for(is_closed(compare));
        close(compare);
        compare = open_chardev(&r.net, "c1");
        write_cut(compare, 0);
        expect_protection(r.p->primary, true, NULL);
        close_chardev(&r.net, "c1", compare);
        expect_protection(r.p->primary, false, "secondary-in of filter-compare");
        compare = open_chardev(&r.net, "c1");
        expect_protection(r.p->primary, true, NULL);
    }
    close(compare);
    close(mirror);
    rig_end(&r);
}

/*
 * Something that only connects, before the session and in it, has the place of
 * the right peer: after a while it has to go.  What has said a record may then
 * be silent for as long as it likes.
 */
static void test_silent(void)
{
    static const char text[] = "something that has said nothing for 10 s";
    Rig r;
    int mirror = rig_begin(&r), compare, input, right;
    Net net = { .qts = r.p->secondary, .dir = r.p->dir };

    compare = add_compare_on(&r);
    add_chardev(&net, "red0");
    add_filter(r.p->secondary, "filter-redirector", "f1", "tx", "indev",
               "red0");
    input = open_chardev(&net, "red0");
    write_cut(input, 0);
    begin_session(&r);
    expect_protection(r.p->primary, true, NULL);
    /* The right peer's connection waits behind it */
    right = unix_connect_to(&r.net, "c1");
    write_cut(right, 0);

    expect_protection(r.p->primary, false, text);
    wait_for(is_closed(compare));
    close(compare);
    expect_protection(r.p->primary, true, NULL);
    g_assert_false(is_closed(input));
    g_assert_false(has_problem(r.p->secondary, text));

    close_chardev(&net, "red0", input);
    input = open_chardev(&net, "red0");
    wait_for(is_closed(input));
    close(input);
    g_assert_true(has_problem(r.p->secondary, text));
    /* As long as that took */
    g_assert_false(is_closed(right));
    g_assert_true(is_protected(r.p->primary));
    close(right);
    close(mirror);
    rig_end(&r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/colo/stream/server", test_server);
    qtest_add_func("/colo/stream/client", test_client);
    qtest_add_func("/colo/stream/closed-before", test_closed_before);
    qtest_add_func("/colo/stream/garbage", test_garbage);
    qtest_add_func("/colo/stream/hello", test_hello);
    qtest_add_func("/colo/stream/many-faults", test_many_faults);
    qtest_add_func("/colo/stream/swapped", test_swapped);
    qtest_add_func("/colo/stream/right", test_right);
    qtest_add_func("/colo/stream/object-deleted", test_object_deleted);
    qtest_add_func("/colo/stream/stray-output", test_stray_output);
    qtest_add_func("/colo/stream/stray-input", test_stray_input);
    qtest_add_func("/colo/stream/mac", test_mac);
    qtest_add_func("/colo/stream/mac-compare", test_mac_compare);
    qtest_add_func("/colo/stream/old-output", test_old_output);
    qtest_add_func("/colo/stream/records", test_records);
    qtest_add_func("/colo/stream/silent", test_silent);
    return g_test_run();
}
