/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's program as process 1: what there is before it serves.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "colo-guest.h"

#define NIC_WAIT_MS         10000
#define MAX_NICS            4

/* The value of colo.@key on the kernel's command line */
static bool boot_option(const char *key, char *value, size_t size)
{
    char line[4096], want[64];
    FILE *f = fopen("/proc/cmdline", "r");
    char *word, *save;
    bool found = false;

    if (!f) {
        return false;
    }
    snprintf(want, sizeof(want), "colo.%s=", key);
    if (fgets(line, sizeof(line), f)) {
        for (word = strtok_r(line, " \n", &save); word;
             word = strtok_r(NULL, " \n", &save)) {
            if (!strncmp(word, want, strlen(want))) {
                snprintf(value, size, "%s", word + strlen(want));
                found = true;
            }
        }
    }
    fclose(f);
    return found;
}

/* colo.@module on the command line: what the module in @path is told */
static void module_options(const char *path, char *options, size_t size)
{
    const char *slash = strrchr(path, '/');
    char name[64];

    snprintf(name, sizeof(name), "%s", slash ? slash + 1 : path);
    name[strcspn(name, ".")] = 0;
    *options = 0;
    boot_option(name, options, size);
}

bool load_modules(const char *set)
{
    char list[128], path[256], options[64];
    bool ok = true;
    FILE *f;

    snprintf(list, sizeof(list), "/lib/modules/%s", set);
    f = fopen(list, "r");
    if (!f) {
        return false;
    }
    while (fgets(path, sizeof(path), f)) {
        int fd;

        path[strcspn(path, "\n")] = 0;
        module_options(path, options, sizeof(options));
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, options, 0) < 0 &&
                       errno != EEXIST)) {
            say("module %s: %s", path, strerror(errno));
            ok = false;
        }
        if (fd >= 0) {
            close(fd);
        }
    }
    fclose(f);
    return ok;
}

static bool set_switch(const char *path, const char *name, const char *value)
{
    char file[128];
    bool ok;
    int fd;

    snprintf(file, sizeof(file), path, name);
    fd = open(file, O_WRONLY | O_CLOEXEC);
    ok = fd >= 0 && write(fd, value, strlen(value)) > 0;
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

/* The drivers look for their devices while we are here */
static bool wait_nic(int fd, const char *name)
{
    struct ifreq request = { };
    int64_t deadline = now_ns() + NIC_WAIT_MS * 1000000LL;

    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    while (ioctl(fd, SIOCGIFFLAGS, &request) < 0) {
        if (now_ns() > deadline) {
            return false;
        }
        sleep_until(now_ns() + TICK_NS);
    }
    return true;
}

static bool set_address4(int fd, const char *name, const char *address,
                         int prefix)
{
    struct ifreq request = { };
    struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;

    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    in->sin_family = AF_INET;
    if (inet_pton(AF_INET, address, &in->sin_addr) != 1 ||
        ioctl(fd, SIOCSIFADDR, &request) < 0) {
        return false;
    }
    in->sin_addr.s_addr = htonl(prefix ? ~0U << (32 - prefix) : 0);
    return ioctl(fd, SIOCSIFNETMASK, &request) == 0;
}

/* As the kernel has it; its header goes ill with the C library's */
struct Address6 {
    struct in6_addr address;
    uint32_t prefix;
    int index;
};

static bool set_address6(const char *name, const char *address, int prefix)
{
    struct Address6 request = {
        .prefix = prefix,
        .index = if_nametoindex(name),
    };
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool ok = fd >= 0 &&
              inet_pton(AF_INET6, address, &request.address) == 1 &&
              ioctl(fd, SIOCSIFADDR, &request) == 0;

    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

static bool set_up(int fd, const char *name)
{
    struct ifreq request = { };

    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    if (ioctl(fd, SIOCGIFFLAGS, &request) < 0) {
        return false;
    }
    request.ifr_flags |= IFF_UP | IFF_RUNNING;
    return ioctl(fd, SIOCSIFFLAGS, &request) == 0;
}

/* "ADDRESS/PREFIX" without the latter, and that */
static int cut_prefix(char *text, int otherwise)
{
    char *slash = strchr(text, '/');

    if (!slash) {
        return otherwise;
    }
    *slash = 0;
    return atoi(slash + 1);
}

/* NIC @n: colo.ip and colo.ip6 are of the first, colo.ip1... of others */
static bool set_up_nic(int fd, int n)
{
    char key[16], name[16], ip[64] = "", ip6[64] = "";
    int prefix, prefix6;

    snprintf(name, sizeof(name), "eth%d", n);
    snprintf(key, sizeof(key), n ? "ip%d" : "ip", n);
    if (!boot_option(key, ip, sizeof(ip)) && n) {
        return true;
    }
    snprintf(key, sizeof(key), n ? "ip6-%d" : "ip6", n);
    boot_option(key, ip6, sizeof(ip6));
    prefix = cut_prefix(ip, 24);
    prefix6 = cut_prefix(ip6, 64);
    if (!wait_nic(fd, name)) {
        return false;
    }
    /* An address can be used at once */
    set_switch("/proc/sys/net/ipv6/conf/%s/accept_dad", name, "0");
    return set_address4(fd, name, *ip ? ip : "10.77.0.10", prefix) &&
           set_up(fd, name) &&
           (!*ip6 || set_address6(name, ip6, prefix6));
}

void set_up_guest(void)
{
    int fd;

    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/dev", 0755);
    mkdir("/tmp", 0777);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    setenv("PATH", "/bin", 1);
    if (open("/dev/console", O_RDWR) >= 0) {
        /* The initramfs has no device nodes: these are 0, 1 and 2 */
        dup2(0, 1);
        dup2(0, 2);
    }
    load_modules("boot");
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    set_up(fd, "lo");
    for (int n = 0; n < MAX_NICS; n++) {
        if (!set_up_nic(fd, n)) {
            say("no address on eth%d: %s", n, strerror(errno));
        }
    }
    close(fd);
}
