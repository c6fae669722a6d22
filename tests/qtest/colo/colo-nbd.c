/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a client of NBD that can stop in the middle.
 */

#include "qemu/osdep.h"
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "qemu/bswap.h"
#include "colo-nbd.h"

void colo_nbd_read(int fd, void *buf, size_t len)
{
    while (len) {
        ssize_t n = RETRY_ON_EINTR(read(fd, buf, len));

        g_assert_cmpint(n, >, 0);
        buf += n;
        len -= n;
    }
}

void colo_nbd_write(int fd, const void *buf, size_t len)
{
    g_assert_cmpint(send(fd, buf, len, MSG_NOSIGNAL), ==, len);
}

void colo_nbd_wait_taken(int fd)
{
    int unread;

    do {
        g_assert_cmpint(ioctl(fd, SIOCOUTQ, &unread), ==, 0);
        g_thread_yield();
    } while (unread);
}

int colo_nbd_client(const char *path, char name)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct {
        uint32_t flags;
        uint64_t magic;
        uint32_t option;
        uint32_t len;
        char name;
    } QEMU_PACKED hello = {
        .flags = cpu_to_be32(3), /* fixed newstyle, no zeroes */
        .magic = cpu_to_be64(0x49484156454f5054ULL),
        .option = cpu_to_be32(1),
        .len = cpu_to_be32(1),
        .name = name,
    };
    char greeting[18];
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    g_assert_cmpint(fd, >=, 0);
    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==,
                    0);
    colo_nbd_read(fd, greeting, 18);
    colo_nbd_write(fd, &hello, sizeof(hello));
    colo_nbd_read(fd, greeting, 10);
    return fd;
}

void colo_nbd_pack(GByteArray *to, int type, uint64_t offset, uint32_t bytes)
{
    struct {
        uint32_t magic;
        uint16_t flags;
        uint16_t type;
        uint64_t cookie;
        uint64_t offset;
        uint32_t len;
    } QEMU_PACKED request = {
        .magic = cpu_to_be32(0x25609513),
        .type = cpu_to_be16(type),
        .cookie = 1,
        .offset = cpu_to_be64(offset),
        .len = cpu_to_be32(bytes),
    };

    g_byte_array_append(to, (void *)&request, sizeof(request));
}

void colo_nbd_request(int fd, int type, uint64_t offset, uint32_t bytes)
{
    g_autoptr(GByteArray) request = g_byte_array_new();

    colo_nbd_pack(request, type, offset, bytes);
    colo_nbd_write(fd, request->data, request->len);
}

int colo_nbd_answer(int fd)
{
    struct {
        uint32_t magic;
        uint32_t error;
        uint64_t cookie;
    } QEMU_PACKED reply;

    colo_nbd_read(fd, &reply, sizeof(reply));
    g_assert_cmphex(be32_to_cpu(reply.magic), ==, 0x67446698);
    return be32_to_cpu(reply.error);
}

int colo_nbd_pread(int fd, void *buf, uint64_t offset, uint32_t bytes)
{
    int error;

    colo_nbd_request(fd, 0, offset, bytes);
    error = colo_nbd_answer(fd);
    if (!error) {
        colo_nbd_read(fd, buf, bytes);
    }
    return error;
}

int colo_nbd_pwrite(int fd, const void *buf, uint64_t offset, uint32_t bytes)
{
    colo_nbd_request(fd, 1, offset, bytes);
    colo_nbd_write(fd, buf, bytes);
    return colo_nbd_answer(fd);
}
