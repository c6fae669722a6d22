/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * colo-compare in a QEMU without a guest: sockets, records, packets.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <sys/un.h>
#include "qemu/bswap.h"
#include "qemu/sockets.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "net/net.h"
#include "colo-compare-rig.h"

const char *const chardevs[PORTS] = { "pri", "sec", "out", "not" };

/* Sockets */

static struct sockaddr_un address(const Rig *r, Port port)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    g_assert_cmpint(snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s",
                             r->dir, chardevs[port]), <,
                    sizeof(addr.sun_path));
    return addr;
}

static void wait_fd(int fd, int events)
{
    struct pollfd p = { .fd = fd, .events = events };

    g_assert_cmpint(poll(&p, 1, DEADLINE_MS), ==, 1);
}

/* Has QEMU made the connection its own? */
static bool is_connected(Rig *r, Port port)
{
    QDict *answer = qtest_qmp(r->qts, "{'execute': 'query-chardev'}");
    const QListEntry *e;
    bool connected = false;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(answer, "return"), e) {
        QDict *chr = qobject_to(QDict, qlist_entry_obj(e));

        connected |= !strcmp(qdict_get_str(chr, "label"), chardevs[port]) &&
                     !g_str_has_prefix(qdict_get_str(chr, "filename"),
                                       "disconnected");
    }
    qobject_unref(answer);
    return connected;
}

/*
 * QEMU connects: wait until it has done so.  A chardev that is read in an
 * iothread does not survive it when its peer goes just then (a fault of the
 * base: update_ioc_handlers() uses what the iothread has thrown away).
 */
static void wait_connected(Rig *r, Port port)
{
    int64_t end = g_get_monotonic_time() + DEADLINE_MS * (int64_t)1000;

    while (!is_connected(r, port)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
    }
}

void plug(Rig *r, Port port)
{
    struct sockaddr_un addr = address(r, port);

    g_assert_cmpint(r->fds[port], ==, -1);
    if (r->clients) {
        wait_fd(r->listeners[port], POLLIN);
        r->fds[port] = accept(r->listeners[port], NULL, NULL);
        g_assert_cmpint(r->fds[port], >=, 0);
        wait_connected(r, port);
        return;
    }
    r->fds[port] = socket(AF_UNIX, SOCK_STREAM, 0);
    g_assert_cmpint(connect(r->fds[port], (struct sockaddr *)&addr,
                            sizeof(addr)), ==, 0);
}

void plug_all(Rig *r)
{
    for (int i = 0; i < PORTS; i++) {
        plug(r, i);
    }
}

void unplug(Rig *r, Port port)
{
    close(r->fds[port]);
    r->fds[port] = -1;
}

void unplug_all(Rig *r)
{
    for (int i = 0; i < PORTS; i++) {
        unplug(r, i);
    }
}

/* A new connection, after QEMU has seen the end of the old one */
void replug(Rig *r, Port port)
{
    char byte;

    shutdown(r->fds[port], SHUT_WR);
    do {
        wait_fd(r->fds[port], POLLIN);
    } while (recv(r->fds[port], &byte, 1, 0) > 0);
    unplug(r, port);
    plug(r, port);
}

void get_bytes(int fd, void *buf, size_t len)
{
    while (len) {
        ssize_t n;

        wait_fd(fd, POLLIN);
        n = read(fd, buf, len);
        g_assert_cmpint(n, >, 0);
        buf = (char *)buf + n;
        len -= n;
    }
}

void put_bytes(int fd, const void *buf, size_t len)
{
    while (len) {
        ssize_t n;

        wait_fd(fd, POLLOUT);
        n = send(fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            continue;
        }
        g_assert_cmpint(n, >, 0);
        buf = (char *)buf + n;
        len -= n;
    }
}

/* As much as is taken now */
void put_some(int fd, const GByteArray *stream)
{
    send(fd, stream->data, stream->len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void assert_silent(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };

    g_assert_cmpint(poll(&p, 1, 0), ==, 0);
}

/* Records */

void append_word(GByteArray *stream, uint32_t word)
{
    word = cpu_to_be32(word);
    g_byte_array_append(stream, (uint8_t *)&word, sizeof(word));
}

void append_packet(const Rig *r, GByteArray *stream, const uint8_t *data,
                   uint32_t size, uint32_t vnet_len)
{
    append_word(stream, size);
    if (r->vnet) {
        append_word(stream, vnet_len);
    }
    g_byte_array_append(stream, data, size);
}

/* A packet that no other @seed or @size gives; it is no IP */
void append_bytes(const Rig *r, GByteArray *stream, uint32_t size,
                  uint32_t seed)
{
    g_autofree uint8_t *data = g_malloc(size);

    for (uint32_t i = 0; i < size; i++) {
        data[i] = i * 7 + (seed >> (i % 4 * 8));
    }
    append_packet(r, stream, data, size,
                  r->vnet ? MIN(size, seed % 2 ? 12 : 0) : 0);
}

void put(Rig *r, Port port, const GByteArray *stream)
{
    put_bytes(r->fds[port], stream->data, stream->len);
}

void get_equal(Rig *r, const GByteArray *expected)
{
    g_autofree uint8_t *buf = g_malloc(expected->len);

    get_bytes(r->fds[OUT], buf, expected->len);
    g_assert_cmpmem(buf, expected->len, expected->data, expected->len);
}

void pass(Rig *r, const GByteArray *stream)
{
    put(r, PRIMARY, stream);
    get_equal(r, stream);
}

static GByteArray *get_packet(Rig *r)
{
    GByteArray *frame = g_byte_array_new();
    uint32_t header[2];
    size_t len = r->vnet ? 8 : 4;

    get_bytes(r->fds[OUT], header, len);
    g_assert_cmpuint(be32_to_cpu(header[0]), <=, NET_BUFSIZE);
    g_byte_array_append(frame, (uint8_t *)header, len);
    g_byte_array_set_size(frame, len + be32_to_cpu(header[0]));
    get_bytes(r->fds[OUT], frame->data + len, frame->len - len);
    return frame;
}

/*
 * Who connects to outdev gets what is said from then on: say something until
 * it comes.  Everything that was said before has come or never will.
 */
void probe(Rig *r)
{
    g_autoptr(GByteArray) said = g_byte_array_new();
    struct pollfd p = { .fd = r->fds[OUT], .events = POLLIN };
    int64_t end = g_get_monotonic_time() + DEADLINE_MS * 1000LL;
    size_t len = 0;

    do {
        g_autoptr(GByteArray) stream = g_byte_array_new();

        g_assert_cmpint(g_get_monotonic_time(), <, end);
        append_bytes(r, stream, 24, ++r->probes);
        put(r, PRIMARY, stream);
        g_byte_array_append(said, stream->data, stream->len);
        len = stream->len;
    } while (poll(&p, 1, 20) == 0);
    while (said->len) {
        g_autoptr(GByteArray) got = get_packet(r);
        uint8_t *at = memmem(said->data, said->len, got->data, got->len);

        if (!at && got->len != len) {
            continue;           /* something that was said before */
        }
        g_assert_nonnull(at);
        g_byte_array_remove_range(said, 0, at - said->data + len);
    }
    assert_silent(r->fds[OUT]);
}

/* QEMU */

void refused(QDict *response, const char *text)
{
    const char *desc;

    g_assert_true(qdict_haskey(response, "error"));
    desc = qdict_get_str(qdict_get_qdict(response, "error"), "desc");
    if (!strstr(desc, text)) {
        g_test_message("'%s' does not say '%s'", desc, text);
        g_test_fail();
    }
    qobject_unref(response);
}

/* Its scan must not be what finds a timeout */
void add(Rig *r)
{
    qtest_qmp_assert_success(r->qts, OBJECT_ADD(FOUR ", 'notify_dev': 'not', "
                             "'compare_timeout': %d, "
                             "'expired_scan_cycle': 3600000, "
                             "'vnet_hdr_support': %i"), r->timeout_ms, r->vnet);
}

void del(Rig *r, const char *id)
{
    qtest_qmp_assert_success(r->qts, "{'execute': 'object-del', "
                             "'arguments': {'id': %s}}", id);
}

void still_there(Rig *r)
{
    g_autofree char *info = NULL;

    qtest_qmp_assert_success(r->qts, "{'execute': 'query-colo-status'}");
    info = qtest_hmp(r->qts, "info colo");
    g_assert_nonnull(strstr(info, "none"));
}

void rig_boot(Rig *r, const char *more)
{
    g_autoptr(GString) args = g_string_new("-machine none -nodefaults "
                                           "-object iothread,id=iot0 ");

    for (int i = 0; i < PORTS; i++) {
        g_string_append_printf(args, "-chardev socket,id=%s,path=%s/%s,%s ",
                               chardevs[i], r->dir, chardevs[i],
                               r->clients ? "reconnect-ms=10"
                                          : "server=on,wait=off");
    }
    g_string_append(args, more);
    r->qts = qtest_init(args->str);
}

Rig *rig_new(bool vnet, bool clients)
{
    Rig *r = g_new0(Rig, 1);

    r->vnet = vnet;
    r->clients = clients;
    r->timeout_ms = NEVER_MS;
    r->dir = g_dir_make_tmp("colo-compare-XXXXXX", NULL);
    for (int i = 0; i < PORTS; i++) {
        struct sockaddr_un addr = address(r, i);

        r->fds[i] = -1;
        r->listeners[i] = -1;
        if (clients) {
            r->listeners[i] = socket(AF_UNIX, SOCK_STREAM, 0);
            g_assert_cmpint(bind(r->listeners[i], (struct sockaddr *)&addr,
                                 sizeof(addr)), ==, 0);
            g_assert_cmpint(listen(r->listeners[i], 4), ==, 0);
        }
    }
    return r;
}

/* Add the object and connect all */
void rig_set_up(Rig *r)
{
    add(r);
    plug_all(r);
    probe(r);
}

Rig *rig_start(bool vnet)
{
    Rig *r = rig_new(vnet, false);

    rig_boot(r, "");
    rig_set_up(r);
    return r;
}

void rig_end(Rig *r)
{
    qtest_quit(r->qts);
    for (int i = 0; i < PORTS; i++) {
        struct sockaddr_un addr = address(r, i);

        if (r->fds[i] >= 0) {
            close(r->fds[i]);
        }
        if (r->listeners[i] >= 0) {
            close(r->listeners[i]);
        }
        unlink(addr.sun_path);
    }
    g_assert_cmpint(rmdir(r->dir), ==, 0);
    g_free(r->dir);
    g_free(r);
}

/* Streams that are none, and their ends */

void append_bad(const Rig *r, GByteArray *stream, int which)
{
    switch (which) {
    case 0:
        append_word(stream, 0);
        break;
    case 1:
        append_word(stream, NET_BUFSIZE + 1);
        break;
    case 2:
        append_word(stream, INT32_MAX);
        break;
    case 3:
        append_word(stream, CUT_RECORD + 1);
        break;
    case 4:
        append_word(stream, UINT32_MAX);
        break;
    case 5:
        /* With vnet headers: one that is longer than the packet */
        append_word(stream, r->vnet ? 60 : 0);
        append_word(stream, 61);
        break;
    }
    /* What looks right again is not believed */
    append_bytes(r, stream, 77, which);
}

/* Packets */

GByteArray *made(const Rig *r, Make m)
{
    GByteArray *stream = g_byte_array_new();
    Made what;

    m.vnet = r->vnet ? 12 : 0;
    m.ttl = 64;
    m.sport = 4000;
    m.dport = 5000;
    make(&m, &what);
    append_packet(r, stream, what.data, what.size, m.vnet);
    g_free(what.data);
    return stream;
}

GByteArray *udp(const Rig *r, uint8_t seed)
{
    return made(r, (Make) { .proto = MAKE_UDP, .payload_len = 100,
                            .payload_seed = seed });
}

/* The payload goes with @seq, so that segments of one stream fit together */
GByteArray *tcp(const Rig *r, uint32_t seq, unsigned len, uint8_t seed)
{
    return made(r, (Make) { .seq = seq, .ack = 7000, .window = 8192,
                            .flags = COLO_TCP_ACK | COLO_TCP_PSH,
                            .payload_len = len, .payload_seed = seed });
}

/* What Xen's toolstack says */

void tell(Rig *r, const char *message)
{
    g_autoptr(GByteArray) stream = g_byte_array_new();

    append_word(stream, strlen(message));
    g_byte_array_append(stream, (const uint8_t *)message, strlen(message));
    put(r, NOTIFY, stream);
}

char *hear_any(Rig *r)
{
    uint32_t len;
    char *text;

    get_bytes(r->fds[NOTIFY], &len, sizeof(len));
    len = be32_to_cpu(len);
    g_assert_cmpuint(len, <, 64);
    text = g_malloc0(len + 1);
    get_bytes(r->fds[NOTIFY], text, len);
    return text;
}

void hear(Rig *r, const char *message)
{
    g_autofree char *text = hear_any(r);

    g_assert_cmpstr(text, ==, message);
}

/* A session begins.  What was asked for in an earlier one is void. */
void begin(Rig *r)
{
    bool begun = false;

    tell(r, XEN_INIT);
    while (!begun) {
        g_autofree char *text = hear_any(r);

        begun = g_str_equal(text, XEN_INIT);
        if (!begun) {
            g_assert_cmpstr(text, ==, XEN_REQUEST);
        }
    }
}

Rig *xen_start(bool vnet, int timeout_ms)
{
    Rig *r = rig_new(vnet, false);

    r->timeout_ms = timeout_ms;
    rig_boot(r, "");
    rig_set_up(r);
    begin(r);
    return r;
}

void add_both(const char *name, void (*func)(const void *))
{
    g_autofree char *plain = g_strdup_printf("/colo/compare/%s/plain", name);
    g_autofree char *vnet = g_strdup_printf("/colo/compare/%s/vnet", name);

    qtest_add_data_func(plain, GINT_TO_POINTER(false), func);
    qtest_add_data_func(vnet, GINT_TO_POINTER(true), func);
}
