/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a network of sockets, and the streams of the filters.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/sockets.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "colo-net.h"

/* Sockets: every read and write ends in time */

void set_deadline(int fd)
{
    struct timeval tv = { .tv_sec = COLO_DEADLINE_MS / 1000 };

    g_assert_cmpint(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)),
                    ==, 0);
    g_assert_cmpint(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)),
                    ==, 0);
}

/* Two ends: this one is returned, the other for QEMU */
int socket_pair(int *other)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    set_deadline(fds[0]);
    *other = fds[1];
    return fds[0];
}

void write_all(int fd, const void *data, size_t size)
{
    while (size) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);

        g_assert_cmpint(n, >, 0);
        data = (const uint8_t *)data + n;
        size -= n;
    }
}

void read_all(int fd, void *data, size_t size)
{
    g_assert_cmpint(recv(fd, data, size, MSG_WAITALL), ==, size);
}

void write_word(int fd, uint32_t word)
{
    word = cpu_to_be32(word);
    write_all(fd, &word, sizeof(word));
}

uint32_t read_word(int fd)
{
    uint32_t word;

    read_all(fd, &word, sizeof(word));
    return be32_to_cpu(word);
}

void write_packet(int fd, const void *data, size_t size)
{
    write_word(fd, size);
    write_all(fd, data, size);
}

void write_str(int fd, const char *text)
{
    write_packet(fd, text, strlen(text));
}

void write_cut(int fd, uint64_t epoch)
{
    write_word(fd, CUT);
    write_word(fd, epoch >> 32);
    write_word(fd, epoch);
}

/* One packet; the caller frees it.  A NUL is put behind it. */
char *read_packet(int fd, uint32_t *size)
{
    uint32_t len = read_word(fd);
    char *data;

    g_assert_cmpuint(len, >, 0);
    g_assert_cmpuint(len, <=, MAX_FRAME);
    data = g_malloc(len + 1);
    read_all(fd, data, len);
    data[len] = '\0';
    if (size) {
        *size = len;
    }
    return data;
}

void expect_str(int fd, const char *text)
{
    g_autofree char *data = read_packet(fd, NULL);

    g_assert_cmpstr(data, ==, text);
}

void expect_cut(int fd, uint64_t epoch)
{
    uint32_t word = read_word(fd);

    if (word == HELLO) {
        uint32_t size = read_word(fd);
        g_autofree uint8_t *hello = g_malloc(size);

        read_all(fd, hello, size);
        word = read_word(fd);
    }
    g_assert_cmphex(word, ==, CUT);
    g_assert_cmpuint(read_word(fd), ==, epoch >> 32);
    g_assert_cmpuint(read_word(fd), ==, epoch & UINT32_MAX);
}

void expect_begin(int fd, const void *data, size_t size)
{
    g_autofree char *told = g_malloc(size);

    g_assert_cmphex(read_word(fd), ==, BEGIN);
    g_assert_cmpuint(read_word(fd), ==, size);
    g_assert_cmpuint(read_word(fd), ==, 0);
    if (size) {
        read_all(fd, told, size);
    }
    g_assert_cmpmem(told, size, data, size);
}

bool nothing_to_read(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

/* QEMU */

uint64_t counter(QTestState *qts, const char *id, const char *name)
{
    QDict *answer = qtest_qmp(qts, "{'execute': 'qom-get', 'arguments': {"
                              "'path': %s, 'property': %s}}", id, name);
    uint64_t value;

    g_assert_true(qdict_haskey(answer, "return"));
    value = qdict_get_int(answer, "return");
    qobject_unref(answer);
    return value;
}

void set_status(QTestState *qts, const char *id, const char *status)
{
    qtest_qmp_assert_success(qts, "{'execute': 'qom-set', 'arguments': {"
                             "'path': %s, 'property': 'status', 'value': %s}}",
                             id, status);
}

/* Is somebody connected to the chardev? */
static bool connected(QTestState *qts, const char *id)
{
    QDict *answer = qtest_qmp(qts, "{'execute': 'query-chardev'}");
    QListEntry *e;
    bool found = false;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(answer, "return"), e) {
        QDict *c = qobject_to(QDict, qlist_entry_obj(e));

        if (!strcmp(qdict_get_str(c, "label"), id)) {
            found = !g_str_has_prefix(qdict_get_str(c, "filename"),
                                      "disconnected:");
        }
    }
    qobject_unref(answer);
    return found;
}

void add_chardev(Net *n, const char *id)
{
    g_autofree char *path = g_build_filename(n->dir, id, NULL);

    qtest_qmp_assert_success(n->qts,
        "{'execute': 'chardev-add', 'arguments': {'id': %s, 'backend': {"
        "'type': 'socket', 'data': {'server': true, 'wait': false,"
        "'addr': {'type': 'unix', 'data': {'path': %s}}}}}}", id, path);
}

int open_chardev(Net *n, const char *id)
{
    g_autofree char *path = g_build_filename(n->dir, id, NULL);
    int fd = unix_connect(path, &error_abort);

    set_deadline(fd);
    wait_for(connected(n->qts, id));
    return fd;
}

void close_chardev(Net *n, const char *id, int fd)
{
    close(fd);
    wait_for(!connected(n->qts, id));
}

static int add_netdev(Net *n, const char *id, const char *port)
{
    int other, fd = socket_pair(&other);

    qtest_qmp_fds_assert_success(n->qts, &other, 1,
        "{'execute': 'getfd', 'arguments': {'fdname': %s}}", id);
    close(other);
    qtest_qmp_assert_success(n->qts,
        "{'execute': 'netdev_add', 'arguments': {'type': 'socket', 'id': %s,"
        "'fd': %s}}", id, id);
    qtest_qmp_assert_success(n->qts,
        "{'execute': 'netdev_add', 'arguments': {'type': 'hubport', 'id': %s,"
        "'hubid': 7, 'netdev': %s}}", port, id);
    return fd;
}

Net *net_on(QTestState *qts)
{
    Net *n = g_new0(Net, 1);

    n->qts = qts;
    n->dir = g_dir_make_tmp("colo-filter-XXXXXX", NULL);
    g_assert_nonnull(n->dir);
    n->net = add_netdev(n, "n0", "p0");
    n->guest = add_netdev(n, "n1", "p1");
    return n;
}

Net *net_new(void)
{
    return net_on(qtest_init("-machine pc -nodefaults"));
}

void remove_dir(char *path)
{
    const char *name;
    GDir *dir = g_dir_open(path, 0, NULL);

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);

        unlink(file);
    }
    g_dir_close(dir);
    rmdir(path);
    g_free(path);
}

/* Whoever made QEMU ends it */
void net_gone(Net *n)
{
    close(n->net);
    close(n->guest);
    remove_dir(n->dir);
    g_free(n);
}

void net_free(Net *n)
{
    qtest_quit(n->qts);
    net_gone(n);
}

void add_mirror(Net *n, const char *id, const char *queue)
{
    add_chardev(n, "c0");
    qtest_qmp_assert_success(n->qts,
        "{'execute': 'object-add', 'arguments': {'qom-type': 'filter-mirror',"
        "'id': %s, 'netdev': 'n0', 'queue': %s, 'outdev': 'c0'}}", id, queue);
}

/* @dev: "indev" or "outdev" */
void add_redirector(Net *n, const char *id, const char *queue,
                           const char *dev, const char *chardev)
{
    add_chardev(n, chardev);
    qtest_qmp_assert_success(n->qts,
        "{'execute': 'object-add', 'arguments': {"
        "'qom-type': 'filter-redirector', 'id': %s, 'netdev': 'n0',"
        "'queue': %s, %s: %s}}", id, queue, dev, chardev);
}

void del_object(QTestState *qts, const char *id)
{
    qtest_qmp_assert_success(qts, "{'execute': 'object-del', 'arguments': {"
                             "'id': %s}}", id);
}
