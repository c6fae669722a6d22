/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: files that lose what was not flushed, for LD_PRELOAD.
 *
 * After each fdatasync() of a file in the folder COLO_LOSSY_DIR whose name begins
 * with "log" there is a copy of it, "NAME-flushed": what a host would have after
 * a loss of power, if nothing else has got to the disk.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void copy(int fd, const char *path)
{
    char to[PATH_MAX + 16], tmp[PATH_MAX + 16];
    char buf[4096];
    off_t at = 0;
    ssize_t n;
    int out;

    snprintf(to, sizeof(to), "%s-flushed", path);
    snprintf(tmp, sizeof(tmp), "%s-flushing", path);
    out = open(tmp, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    while ((n = pread(fd, buf, sizeof(buf), at)) > 0) {
        if (write(out, buf, n) != n) {
            abort();
        }
        at += n;
    }
    if (out < 0 || close(out) < 0 || rename(tmp, to) < 0) {
        abort();
    }
}

int fdatasync(int fd)
{
    const char *dir = getenv("COLO_LOSSY_DIR");
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    char link[32], path[PATH_MAX];
    int ret = next(fd);
    ssize_t n;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof(path) - 1);
    if (!ret && dir && n > 0) {
        path[n] = 0;
        if (!strncmp(path, dir, strlen(dir)) &&
            !strncmp(path + strlen(dir), "/log", 4)) {
            copy(fd, path);
        }
    }
    return ret;
}
