/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a kernel with vhost, for a QEMU that is started with this in
 * LD_PRELOAD.
 *
 * It accepts all requests on whatever file it is given and does nothing.
 */

#include <stdarg.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>

/* The log is what makes the device migratable */
#define FEATURES (1ULL << VIRTIO_F_VERSION_1 | 1ULL << VHOST_F_LOG_ALL)

int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (_IOC_TYPE(request) != VHOST_VIRTIO) {
        return syscall(SYS_ioctl, fd, request, arg);
    }
    switch (request) {
    case VHOST_GET_FEATURES:
        *(uint64_t *)arg = FEATURES;
        break;
    case VHOST_GET_BACKEND_FEATURES:
        *(uint64_t *)arg = 0;
        break;
    case VHOST_GET_VRING_BASE:
        ((struct vhost_vring_state *)arg)->num = 0;
        break;
    }
    return 0;
}
