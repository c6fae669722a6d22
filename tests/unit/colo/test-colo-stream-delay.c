/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO proxy: the socket below a stream.
 *
 * Proves: a small record does not wait for the acknowledgement of an earlier one
 * (TCP_NODELAY), although whoever made the socket did not ask for that.
 */

#include "qemu/osdep.h"
#include <netinet/tcp.h>
#include "qemu/config-file.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/sockets.h"
#include "qapi/error.h"
#include "chardev/char.h"
#include "chardev/char-fe.h"
#include "chardev/char-socket.h"
#include "net/colo/stream.h"
#include "system/system.h"

#define MAX_BYTES 65536

/* A socket of TCP between us and a chardev, of which neither says nodelay */
static void tcp_pair(int fd[2])
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t len = sizeof(addr);
    int listener = socket(AF_INET, SOCK_STREAM, 0);

    g_assert_cmpint(bind(listener, (struct sockaddr *)&addr, len), ==, 0);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    g_assert_cmpint(getsockname(listener, (struct sockaddr *)&addr, &len), ==,
                    0);
    fd[0] = socket(AF_INET, SOCK_STREAM, 0);
    g_assert_cmpint(connect(fd[0], (struct sockaddr *)&addr, len), ==, 0);
    fd[1] = accept(listener, NULL, NULL);
    g_assert_cmpint(fd[1], >=, 0);
    close(listener);
}

/* @opaque: the socket is there when the writer is made */
static void test_no_delay(const void *opaque)
{
    bool before = opaque != NULL;
    CharBackend be;
    ColoStreamWriter *w = NULL;
    Chardev *chr;
    socklen_t len = sizeof(int);
    int fd[2], no_delay = 0;

    tcp_pair(fd);
    chr = qemu_chardev_new("tcp0", TYPE_CHARDEV_SOCKET,
                           &(ChardevBackend) {
                               .type = CHARDEV_BACKEND_KIND_SOCKET,
                               .u.socket.data = &(ChardevSocket) {
                                   .addr = &(SocketAddressLegacy) {
                                       .type = SOCKET_ADDRESS_TYPE_INET,
                                       .u.inet.data = &(InetSocketAddress) {
                                           .host = (char *)"127.0.0.1",
                                           .port = (char *)"0",
                                       },
                                   },
                                   .has_server = true,
                                   .server = true,
                                   .has_wait = true,
                                   .wait = false,
                               },
                           }, NULL, &error_abort);
    qemu_chr_fe_init(&be, chr, &error_abort);
    if (!before) {
        w = colo_stream_writer_new(&be, NULL, false, MAX_BYTES, NULL, NULL);
    }
    g_assert_cmpint(qemu_chr_add_client(chr, fd[1]), ==, 0);
    if (before) {
        w = colo_stream_writer_new(&be, NULL, false, MAX_BYTES, NULL, NULL);
    } else {
        colo_stream_writer_opened(w);
    }
    g_assert_cmpint(getsockopt(fd[1], IPPROTO_TCP, TCP_NODELAY, &no_delay,
                               &len), ==, 0);
    g_assert_cmpint(no_delay, !=, 0);
    qemu_chr_fe_deinit(&be, false);
    colo_stream_writer_free(w);
    object_unparent(OBJECT(chr));
    close(fd[0]);
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_abort);
    socket_init();
    module_call_init(MODULE_INIT_QOM);
    qemu_add_opts(&qemu_chardev_opts);

    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/colo/stream/no-delay/opened", NULL, test_no_delay);
    g_test_add_data_func("/colo/stream/no-delay/open", GINT_TO_POINTER(true),
                         test_no_delay);
    return g_test_run();
}
