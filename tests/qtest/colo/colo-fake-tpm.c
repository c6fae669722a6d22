/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: an emulator of TPMs that computes nothing.
 *
 * A thread accepts; one for each control channel, and one for the commands of
 * each.  They end when QEMU closes its end.  Counters are atomic.
 */

#include "qemu/osdep.h"
#include <sys/un.h>
#include "qemu/atomic.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "backends/tpm/tpm_ioctl.h"
#include "colo-fake-tpm.h"

#define CAPABILITIES    0x3fff
#define STATE           "state"
#define BACKLOG         8
#define HEAD_BYTES      10
#define MAX_BYTES       4096

struct FakeTpm {
    int listener;
    GThread *acceptor;
    unsigned delay_ms;
    unsigned commands;
    FakeTpm *next;
};

/* Threads of a connection may still look at one that is not used any more */
static FakeTpm *unused;

typedef struct Channel {
    FakeTpm *t;
    int fd;
} Channel;

static bool read_all(int fd, void *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = RETRY_ON_EINTR(read(fd, (char *)data + done, len - done));

        if (n <= 0) {
            return false;
        }
        done += n;
    }
    return true;
}

static void write_all(int fd, const void *data, size_t len)
{
    /* It fits into the socket's buffer; QEMU may be gone */
    if (send(fd, data, len, MSG_NOSIGNAL) < 0) {
        g_test_message("fake TPM: %s", g_strerror(errno));
    }
}

/* Commands of the guest, and the one that QEMU asks for the version with */
static void *data_thread(void *opaque)
{
    g_autofree Channel *c = opaque;
    uint8_t command[MAX_BYTES];

    while (read_all(c->fd, command, HEAD_BYTES)) {
        uint32_t len = ldl_be_p(command + 2);

        g_assert_cmpint(len, >=, HEAD_BYTES);
        g_assert_cmpint(len, <=, MAX_BYTES);
        if (!read_all(c->fd, command + HEAD_BYTES, len - HEAD_BYTES)) {
            break;
        }
        qatomic_inc(&c->t->commands);
        g_usleep(qatomic_read(&c->t->delay_ms) * 1000UL);
        write_all(c->fd, FAKE_TPM_ANSWER, FAKE_TPM_BYTES);
    }
    close(c->fd);
    return NULL;
}

/* The number of the next control command; false at the end */
static bool read_number(int fd, uint32_t *number, int *passed)
{
    struct iovec iov = { number, sizeof(*number) };
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1,
        .msg_control = &control, .msg_controllen = sizeof(control),
    };
    struct cmsghdr *cmsg;

    if (RETRY_ON_EINTR(recvmsg(fd, &msg, MSG_WAITALL)) != sizeof(*number)) {
        return false;
    }
    cmsg = CMSG_FIRSTHDR(&msg);
    if (cmsg && cmsg->cmsg_type == SCM_RIGHTS) {
        memcpy(passed, CMSG_DATA(cmsg), sizeof(*passed));
    }
    *number = be32_to_cpu(*number);
    return true;
}

static void get_state(int fd)
{
    ptm_getstate state;
    size_t len = strlen(STATE);

    read_all(fd, &state.u.req, sizeof(state.u.req));
    state.u.resp.tpm_result = 0;
    state.u.resp.state_flags = 0;
    state.u.resp.totlength = cpu_to_be32(len);
    state.u.resp.length = cpu_to_be32(len);
    write_all(fd, &state, offsetof(ptm_getstate, u.resp.data));
    write_all(fd, STATE, len);
}

static void set_state(int fd)
{
    ptm_setstate state;
    char data[sizeof(STATE)] = "";

    read_all(fd, &state, offsetof(ptm_setstate, u.req.data));
    g_assert_cmpint(be32_to_cpu(state.u.req.length), ==, strlen(STATE));
    read_all(fd, data, strlen(STATE));
    g_assert_cmpstr(data, ==, STATE);
    state.u.resp.tpm_result = 0;
    write_all(fd, &state, sizeof(state.u.resp));
}

static void set_buffer_size(int fd)
{
    ptm_setbuffersize size;

    read_all(fd, &size, sizeof(size.u.req));
    size.u.resp.tpm_result = 0;
    size.u.resp.buffersize = cpu_to_be32(MAX_BYTES);
    size.u.resp.minsize = cpu_to_be32(MAX_BYTES);
    size.u.resp.maxsize = cpu_to_be32(MAX_BYTES);
    write_all(fd, &size, sizeof(size));
}

/* A request of @request bytes, of which the answer are @answer zeroes */
static void succeed(int fd, size_t request, size_t answer)
{
    uint8_t buf[64] = { 0 };

    g_assert_cmpint(MAX(request, answer), <=, sizeof(buf));
    read_all(fd, buf, request);
    memset(buf, 0, sizeof(buf));
    write_all(fd, buf, answer);
}

static void *control_thread(void *opaque)
{
    g_autofree Channel *c = opaque;
    uint32_t number;
    int passed = -1;

    while (read_number(c->fd, &number, &passed)) {
        switch (number) {
        case CMD_SET_DATAFD: {
            Channel *data = g_new(Channel, 1);

            *data = (Channel) { c->t, passed };
            g_thread_unref(g_thread_new("fake-tpm-data", data_thread, data));
            succeed(c->fd, 0, sizeof(ptm_res));
            break;
        }
        case CMD_GET_CAPABILITY: {
            ptm_cap_n cap = { };

            cap.u.resp.caps = cpu_to_be32(CAPABILITIES);
            write_all(c->fd, &cap, sizeof(cap));
            break;
        }
        case CMD_INIT:
            succeed(c->fd, sizeof(ptm_init), sizeof(ptm_res));
            break;
        case CMD_SET_LOCALITY:
            succeed(c->fd, sizeof(ptm_loc), sizeof(ptm_loc));
            break;
        case CMD_GET_TPMESTABLISHED:
            succeed(c->fd, 0, sizeof(ptm_est));
            break;
        case CMD_STOP:
        case CMD_SHUTDOWN:
            succeed(c->fd, 0, sizeof(ptm_res));
            break;
        case CMD_SET_BUFFERSIZE:
            set_buffer_size(c->fd);
            break;
        case CMD_GET_STATEBLOB:
            get_state(c->fd);
            break;
        case CMD_SET_STATEBLOB:
            set_state(c->fd);
            break;
        default:
            g_error("fake TPM: control command %u", number);
        }
    }
    close(c->fd);
    return NULL;
}

static void *accept_thread(void *opaque)
{
    FakeTpm *t = opaque;

    while (true) {
        int fd = RETRY_ON_EINTR(accept(t->listener, NULL, NULL));
        Channel *c;

        if (fd < 0) {
            return NULL;
        }
        c = g_new(Channel, 1);
        *c = (Channel) { t, fd };
        g_thread_unref(g_thread_new("fake-tpm", control_thread, c));
    }
}

FakeTpm *fake_tpm_new(const char *path)
{
    FakeTpm *t = g_new0(FakeTpm, 1);
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    pstrcpy(address.sun_path, sizeof(address.sun_path), path);
    t->listener = socket(AF_UNIX, SOCK_STREAM, 0);
    g_assert_cmpint(bind(t->listener, (struct sockaddr *)&address,
                         sizeof(address)), ==, 0);
    g_assert_cmpint(listen(t->listener, BACKLOG), ==, 0);
    t->acceptor = g_thread_new("fake-tpm-accept", accept_thread, t);
    return t;
}

void fake_tpm_delay(FakeTpm *t, unsigned ms)
{
    qatomic_set(&t->delay_ms, ms);
}

unsigned fake_tpm_commands(FakeTpm *t)
{
    return qatomic_read(&t->commands);
}

void fake_tpm_free(FakeTpm *t)
{
    shutdown(t->listener, SHUT_RDWR);
    g_thread_join(t->acceptor);
    close(t->listener);
    t->next = unused;
    unused = t;
}
