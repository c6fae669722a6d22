/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the disks of a host keep when its power fails: a log of what a program
 * writes to its images and flushes.  Loaded into QEMU by LD_PRELOAD;
 * ../colo/power.py makes of the log what is left.
 *
 *   COLO_POWER_DIR   the files *.img, *.qcow2 and *.intent in this folder are
 *                    images; of *.generation the names count
 *   COLO_POWER_LOG   the log; several programs may append to it at a time
 *
 * An entry is written when its request is done.  A flush has two, of which the
 * first says when it began: what was done before that is for good when the
 * second one is there.  An image that two hosts have open has one order of its
 * entries, and a flush of either makes good what both have written.
 *
 * A new name in the folder, by rename(), is for good when the folder has been
 * flushed.
 *
 * Requests by libaio, io_uring or mmap() are not seen.  Whoever uses these with
 * an image must not use this.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAGIC 0x52574f504f4c4f43ULL     /* COLOPOWR */
#define MAX_OLD_BYTES 4096              /* of a file that is replaced */

typedef enum Kind {
    KIND_WRITE = 1,     /* @length bytes at @offset: they follow */
    KIND_ZERO,          /* @length bytes at @offset are zero */
    KIND_GROW,          /* the file has @length bytes at least */
    KIND_TRUNCATE,      /* the file has @length bytes */
    KIND_BEGIN,         /* a flush, @offset is its number */
    KIND_END,           /* of the same number */
    KIND_RENAME,        /* @length bytes that were there: they follow */
    KIND_NEW_NAME,      /* there was nothing */
    KIND_FUA,           /* as a write, and for good at once */
} Kind;

/* Then the path, without a 0, and the bytes, if any; power.py reads it */
typedef struct Entry {
    uint64_t magic;
    uint32_t kind;
    uint32_t path_bytes;
    uint64_t offset;
    uint64_t length;
} Entry;

_Static_assert(sizeof(Entry) == 32, "Entry");

static int log_fd = -1;
static char folder[256];
static size_t folder_bytes;
static atomic_uint n_flushes;

/* A write and its entry are one, so that overlapping ones have an order */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *next(const char *name)
{
    void *function = dlsym(RTLD_NEXT, name);

    if (!function) {
        fprintf(stderr, "colo-power: no %s\n", name);
        abort();
    }
    return function;
}

/* The function of the C library that comes after the one here */
#define NEXT(name) ({ \
    static typeof(&name) function; \
    if (!function) { \
        function = next(#name); \
    } \
    function; })

static void __attribute__((constructor)) power_start(void)
{
    const char *dir = getenv("COLO_POWER_DIR");
    const char *log = getenv("COLO_POWER_LOG");

    if (!dir || !log || strlen(dir) + 1 >= sizeof(folder)) {
        return;
    }
    folder_bytes = snprintf(folder, sizeof(folder), "%s/", dir);
    log_fd = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (log_fd < 0) {
        perror(log);
        abort();
    }
}

static bool ends_with(const char *path, const char *end)
{
    size_t a = strlen(path), b = strlen(end);

    return a > b && !strcmp(path + a - b, end);
}

static bool in_folder(const char *path)
{
    return log_fd >= 0 && !strncmp(path, folder, folder_bytes);
}

static bool path_of(int fd, char *path, size_t size)
{
    char link[32];
    ssize_t n;

    if (log_fd < 0) {
        return false;
    }
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, size - 1);
    if (n < 0) {
        return false;
    }
    path[n] = 0;
    return true;
}

static bool is_image(int fd, char *path, size_t size)
{
    return path_of(fd, path, size) && in_folder(path) &&
           (ends_with(path, ".img") || ends_with(path, ".qcow2") ||
            ends_with(path, ".intent"));
}

/* The first @n bytes of @iov, if any.  errno stays. */
static void append(Kind kind, const char *path, uint64_t offset,
                   uint64_t length, const struct iovec *iov, size_t n)
{
    Entry entry = { MAGIC, kind, strlen(path), offset, length };
    size_t size = sizeof(entry) + entry.path_bytes + n;
    char *buf = malloc(size), *at = buf;
    int saved = errno;

    if (!buf) {
        abort();
    }
    at = (char *)memcpy(at, &entry, sizeof(entry)) + sizeof(entry);
    at = (char *)memcpy(at, path, entry.path_bytes) + entry.path_bytes;
    for (; n; iov++) {
        size_t part = iov->iov_len < n ? iov->iov_len : n;

        memcpy(at, iov->iov_base, part);
        at += part;
        n -= part;
    }
    if (write(log_fd, buf, size) != (ssize_t)size) {
        perror("colo-power: log");
        abort();
    }
    free(buf);
    errno = saved;
}

/* A request to an image begins; end() follows */
static bool begin(int fd, char *path)
{
    bool ours = is_image(fd, path, PATH_MAX);

    if (ours) {
        pthread_mutex_lock(&lock);
    }
    return ours;
}

static void end(bool ours)
{
    if (ours) {
        pthread_mutex_unlock(&lock);
    }
}

/* Writes */

ssize_t pwrite(int fd, const void *buf, size_t n, off_t offset)
{
    struct iovec iov = { (void *)buf, n };
    char path[PATH_MAX];
    bool ours = begin(fd, path);
    ssize_t ret = NEXT(pwrite)(fd, buf, n, offset);

    if (ours && ret > 0) {
        append(KIND_WRITE, path, offset, ret, &iov, ret);
    }
    end(ours);
    return ret;
}

ssize_t pwrite64(int fd, const void *buf, size_t n, off64_t offset)
{
    return pwrite(fd, buf, n, offset);
}

ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
    char path[PATH_MAX];
    bool ours = begin(fd, path);
    ssize_t ret = NEXT(pwritev)(fd, iov, n, offset);

    if (ours && ret > 0) {
        append(KIND_WRITE, path, offset, ret, iov, ret);
    }
    end(ours);
    return ret;
}

ssize_t pwritev64(int fd, const struct iovec *iov, int n, off64_t offset)
{
    return pwritev(fd, iov, n, offset);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t offset,
                 int flags)
{
    Kind kind = flags & (RWF_DSYNC | RWF_SYNC) ? KIND_FUA : KIND_WRITE;
    char path[PATH_MAX];
    bool ours = begin(fd, path);
    ssize_t ret = NEXT(pwritev2)(fd, iov, n, offset, flags);

    if (ours && ret > 0) {
        append(kind, path, offset, ret, iov, ret);
    }
    end(ours);
    return ret;
}

ssize_t pwritev64v2(int fd, const struct iovec *iov, int n, off64_t offset,
                    int flags)
{
    return pwritev2(fd, iov, n, offset, flags);
}

ssize_t copy_file_range(int from, off64_t *from_offset, int to,
                        off64_t *to_offset, size_t n, unsigned flags)
{
    char path[PATH_MAX];

    if (is_image(to, path, sizeof(path))) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return NEXT(copy_file_range)(from, from_offset, to, to_offset, n, flags);
}

int fallocate(int fd, int mode, off_t offset, off_t n)
{
    const int known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE |
                      FALLOC_FL_ZERO_RANGE;
    char path[PATH_MAX];
    bool ours = begin(fd, path);
    int ret = -1;

    if (ours && mode & ~known) {
        errno = EOPNOTSUPP;
    } else {
        ret = NEXT(fallocate)(fd, mode, offset, n);
    }
    if (ours && !ret && !(mode & FALLOC_FL_KEEP_SIZE)) {
        append(KIND_GROW, path, 0, offset + n, NULL, 0);
    }
    if (ours && !ret && mode & ~FALLOC_FL_KEEP_SIZE) {
        append(KIND_ZERO, path, offset, n, NULL, 0);
    }
    end(ours);
    return ret;
}

int fallocate64(int fd, int mode, off64_t offset, off64_t n)
{
    return fallocate(fd, mode, offset, n);
}

int ftruncate(int fd, off_t n)
{
    char path[PATH_MAX];
    bool ours = begin(fd, path);
    int ret = NEXT(ftruncate)(fd, n);

    if (ours && !ret) {
        append(KIND_TRUNCATE, path, 0, n, NULL, 0);
    }
    end(ours);
    return ret;
}

int ftruncate64(int fd, off64_t n)
{
    return ftruncate(fd, n);
}

/* Flushes */

static int flush(int fd, int (*call)(int fd))
{
    char path[PATH_MAX], with_slash[PATH_MAX + 1];
    uint64_t number;
    int ret;

    if (!path_of(fd, path, sizeof(path))) {
        return call(fd);
    }
    snprintf(with_slash, sizeof(with_slash), "%s/", path);
    if (!in_folder(path) && strcmp(with_slash, folder)) {
        return call(fd);
    }
    number = (uint64_t)getpid() << 32 | ++n_flushes;
    append(KIND_BEGIN, path, number, 0, NULL, 0);
    ret = call(fd);
    if (!ret) {
        append(KIND_END, path, number, 0, NULL, 0);
    }
    return ret;
}

int fdatasync(int fd)
{
    return flush(fd, NEXT(fdatasync));
}

int fsync(int fd)
{
    return flush(fd, NEXT(fsync));
}

/* Names */

int rename(const char *from, const char *to)
{
    char old[MAX_OLD_BYTES];
    struct iovec iov = { old, 0 };
    ssize_t n = -1;
    int fd, ret;

    if (!in_folder(to) || !ends_with(to, ".generation")) {
        return NEXT(rename)(from, to);
    }
    fd = open(to, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        n = read(fd, old, sizeof(old));
        close(fd);
    }
    ret = NEXT(rename)(from, to);
    if (!ret) {
        iov.iov_len = n < 0 ? 0 : n;
        append(n < 0 ? KIND_NEW_NAME : KIND_RENAME, to, 0, iov.iov_len, &iov,
               iov.iov_len);
    }
    return ret;
}
