/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a kernel with vhost and taps, for a QEMU that is started with
 * this in LD_PRELOAD.
 *
 * It accepts all requests on whatever file it is given and does nothing.
 */

#include <stdarg.h>
#include <stdint.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/if_tun.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>

/* The log is what makes the device migratable */
#define FEATURES (1ULL << VIRTIO_F_VERSION_1 | 1ULL << VHOST_F_LOG_ALL)

/* Requests of terminals have the same type, and smaller numbers */
#define TUN_TYPE    'T'
#define TUN_FIRST   200

int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (_IOC_TYPE(request) == TUN_TYPE && _IOC_NR(request) >= TUN_FIRST) {
        if (request == TUNGETIFF) {
            ((struct ifreq *)arg)->ifr_flags = IFF_TAP | IFF_NO_PI |
                                               IFF_VNET_HDR;
        }
        return 0;
    }
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
