/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Parts of a real machine that are at work: UEFI variables, TPM, display,
 * sound, and the guest agent.
 *
 * "parts start" begins, "parts" says how far each has got: "efi=3 tpm=7:HEX
 * vga=9 hda=20".  Each part is a thread that does the same small thing again
 * and again and counts.  Before it does it once more it looks at the device:
 * that must be as the thread has left it.  So a device that is older or newer
 * than the memory of the guest is noticed, and "parts" is an error from then
 * on.
 *
 *   efi   writes the count to a variable that outlives the machine; reads it
 *   tpm   extends PCR 16 by the count; reads the PCR, which "parts" shows
 *   vga   paints the last rows of the screen in the colour of the count
 *   hda   plays 4096 bytes of silence
 *
 * The one lock protects what "parts" shows.  The other one keeps the firmware
 * from writing while the TPM is at work: a CPU does nothing else until it has
 * written, and the kernel would give up a TPM that it cannot look at for so
 * long.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fb.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/types.h>
#include <unistd.h>

#include "colo-guest.h"

#define EFIVARS         "/sys/firmware/efi/efivars"
#define EFI_GUID        "2a1b6b4e-5a0f-4d7e-9c55-3f0a6d0c7700"
#define EFI_NAME        EFIVARS "/ColoCount-" EFI_GUID
#define EFI_ATTRIBUTES  7       /* not volatile, at boot, at run time */
#define EFI_PAUSE_NS    2000000000LL    /* the store is not endless */
#define TPM_PAUSE_NS    200000000LL
#define TPM_PCR         16
#define TPM_HEAD        10
#define DIGEST          32
#define VGA_PAUSE_NS    200000000LL
#define VGA_ROWS        8
#define HDA_BYTES       4096
#define AGENT           "/bin/qemu-ga"
#define AGENT_PORT      "org.qemu.guest_agent.0"

typedef struct Part {
    const char *name;
    void *(*thread)(void *);
    /* Protected by the lock */
    uint64_t count;
    char more[2 * DIGEST + 2];
    char error[128];
} Part;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t firmware = PTHREAD_MUTEX_INITIALIZER;

static void done(Part *part, uint64_t count, const char *more)
{
    pthread_mutex_lock(&lock);
    part->count = count;
    snprintf(part->more, sizeof(part->more), "%s", more);
    pthread_mutex_unlock(&lock);
}

static void *wrong(Part *part, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* The thread ends with this */
static void *wrong(Part *part, const char *fmt, ...)
{
    va_list ap;

    pthread_mutex_lock(&lock);
    va_start(ap, fmt);
    vsnprintf(part->error, sizeof(part->error), fmt, ap);
    va_end(ap);
    say("%s: %s", part->name, part->error);
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* UEFI variables */

typedef struct __attribute__((packed)) Variable {
    uint32_t attributes;
    uint64_t count;
} Variable;

/* 0 if there is none; -1 */
static int64_t efi_read(void)
{
    Variable variable;
    ssize_t n;
    int fd = open(EFI_NAME, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        return errno == ENOENT ? 0 : -1;
    }
    do {
        n = read(fd, &variable, sizeof(variable));
    } while (n < 0 && errno == EINTR);
    close(fd);
    return n == sizeof(variable) ? (int64_t)variable.count : -1;
}

/* The kernel protects variables that it does not know */
static void efi_unprotect(void)
{
    int fd = open(EFI_NAME, O_RDONLY | O_CLOEXEC), flags = 0;

    if (fd >= 0) {
        ioctl(fd, FS_IOC_SETFLAGS, &flags);
        close(fd);
    }
}

static bool efi_write(uint64_t count)
{
    Variable variable = { EFI_ATTRIBUTES, count };
    bool ok;
    int fd;

    efi_unprotect();
    fd = open(EFI_NAME, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    ok = fd >= 0 && write(fd, &variable, sizeof(variable)) ==
                    sizeof(variable);
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

static void *efi_thread(void *opaque)
{
    Part *part = opaque;
    int64_t count;

    if (mount("efivarfs", EFIVARS, "efivarfs", 0, NULL) && errno != EBUSY) {
        return wrong(part, "mount: %s", strerror(errno));
    }
    count = efi_read();
    while (true) {
        int64_t is;
        bool written;

        pthread_mutex_lock(&firmware);
        is = efi_read();
        written = is == count && efi_write(count + 1);
        pthread_mutex_unlock(&firmware);
        if (count < 0 || is != count) {
            return wrong(part, "is %lld, was %lld", (long long)is,
                         (long long)count);
        }
        if (!written) {
            return wrong(part, "write %lld: %s", (long long)count + 1,
                         strerror(errno));
        }
        done(part, ++count, "");
        sleep_until(now_ns() + EFI_PAUSE_NS);
    }
}

/* TPM */

typedef struct Tpm {
    int fd;
    uint8_t buf[512];
    size_t len;
} Tpm;

static void tpm_put(Tpm *tpm, uint64_t value, int bytes)
{
    while (bytes--) {
        tpm->buf[tpm->len++] = value >> 8 * bytes;
    }
}

static uint32_t tpm_u32(const Tpm *tpm, size_t at)
{
    uint32_t value;

    memcpy(&value, tpm->buf + at, sizeof(value));
    return be32toh(value);
}

static void tpm_begin(Tpm *tpm, unsigned tag, uint32_t code)
{
    tpm->len = 0;
    tpm_put(tpm, tag, 2);
    tpm_put(tpm, 0, 4);
    tpm_put(tpm, code, 4);
}

/* The answer's code; with errno if there is none */
static int64_t tpm_run(Tpm *tpm)
{
    uint32_t size = htobe32(tpm->len);
    ssize_t n;

    memcpy(tpm->buf + 2, &size, sizeof(size));
    if (write(tpm->fd, tpm->buf, tpm->len) != (ssize_t)tpm->len) {
        return -1;
    }
    n = read(tpm->fd, tpm->buf, sizeof(tpm->buf));
    if (n < TPM_HEAD) {
        return -1;
    }
    tpm->len = n;
    return tpm_u32(tpm, 6);
}

static int64_t tpm_read(Tpm *tpm, uint8_t *digest)
{
    int64_t code;

    tpm_begin(tpm, 0x8001, 0x17e);      /* PCR_Read: */
    tpm_put(tpm, 1, 4);                 /* one selection, */
    tpm_put(tpm, 0xb, 2);               /* of SHA-256, */
    tpm_put(tpm, 3, 1);                 /* in three bytes */
    tpm_put(tpm, 0, 2);
    tpm_put(tpm, 1 << (TPM_PCR - 16), 1);
    code = tpm_run(tpm);
    if (!code) {
        if (tpm->len < DIGEST) {
            errno = EBADMSG;
            return -1;
        }
        memcpy(digest, tpm->buf + tpm->len - DIGEST, DIGEST);
    }
    return code;
}

static int64_t tpm_extend(Tpm *tpm, uint64_t count)
{
    tpm_begin(tpm, 0x8002, 0x182);      /* PCR_Extend */
    tpm_put(tpm, TPM_PCR, 4);
    tpm_put(tpm, 9, 4);                 /* a password, which is empty */
    tpm_put(tpm, 0x40000009, 4);
    tpm_put(tpm, 0, 2);
    tpm_put(tpm, 0, 1);
    tpm_put(tpm, 0, 2);
    tpm_put(tpm, 1, 4);                 /* one digest, of SHA-256 */
    tpm_put(tpm, 0xb, 2);
    tpm_put(tpm, count, 8);
    for (int i = 0; i < DIGEST - 8; i += 8) {
        tpm_put(tpm, 0, 8);
    }
    return tpm_run(tpm);
}

static void hex(char *text, const uint8_t *digest)
{
    *text++ = ':';
    for (int i = 0; i < DIGEST; i++) {
        text += sprintf(text, "%02x", digest[i]);
    }
}

/* One more: the PCR has to be @is and becomes that */
static int64_t tpm_step(Tpm *tpm, uint64_t count, uint8_t *is, bool *same)
{
    uint8_t was[DIGEST];
    int64_t code;

    memcpy(was, is, DIGEST);
    pthread_mutex_lock(&firmware);
    code = tpm_read(tpm, is);
    *same = code || !memcmp(is, was, DIGEST);
    if (!code && *same) {
        code = tpm_extend(tpm, count) ?: tpm_read(tpm, is);
    }
    pthread_mutex_unlock(&firmware);
    return code;
}

static void *tpm_thread(void *opaque)
{
    Part *part = opaque;
    Tpm tpm = { .fd = open("/dev/tpm0", O_RDWR | O_CLOEXEC) };
    char text[2 * DIGEST + 2];
    uint8_t is[DIGEST];
    int64_t code;

    if (tpm.fd < 0) {
        return wrong(part, "open: %s", strerror(errno));
    }
    code = tpm_read(&tpm, is);
    for (uint64_t count = 1; !code; count++) {
        bool same;

        code = tpm_step(&tpm, count, is, &same);
        if (!code) {
            hex(text, is);
            if (!same) {
                return wrong(part, "after %llu the PCR is %s",
                             (unsigned long long)count - 1, text);
            }
            done(part, count, text);
            sleep_until(now_ns() + TPM_PAUSE_NS);
        }
    }
    return wrong(part, "code 0x%llx (%s)", (unsigned long long)code,
                 strerror(errno));
}

/* Display */

static uint32_t colour(uint64_t count)
{
    return (count * 0x9e3779b9U >> 8) & 0xffffff;
}

static void *vga_thread(void *opaque)
{
    Part *part = opaque;
    struct fb_var_screeninfo var;
    struct fb_fix_screeninfo fix;
    int fd = open("/dev/fb0", O_RDWR | O_CLOEXEC);
    volatile uint32_t *rows;    /* volatile: memory of a device */
    size_t size, words;
    uint8_t *screen;

    if (fd < 0 || ioctl(fd, FBIOGET_VSCREENINFO, &var) ||
        ioctl(fd, FBIOGET_FSCREENINFO, &fix)) {
        return wrong(part, "open: %s", strerror(errno));
    }
    size = (size_t)fix.line_length * var.yres;
    words = fix.line_length / 4 * VGA_ROWS;
    screen = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (screen == MAP_FAILED || var.bits_per_pixel != 32 ||
        var.yres <= VGA_ROWS) {
        return wrong(part, "%u bits a pixel: %s", var.bits_per_pixel,
                     strerror(errno));
    }
    /* volatile: as above */
    rows = (volatile uint32_t *)(screen + size - words * 4);
    for (uint64_t count = 1; ; count++) {
        for (size_t i = 0; count > 1 && i < words; i++) {
            if ((rows[i] & 0xffffff) != colour(count - 1)) {
                return wrong(part, "word %zu is %x, not %x", i, rows[i],
                             colour(count - 1));
            }
        }
        for (size_t i = 0; i < words; i++) {
            rows[i] = colour(count);
        }
        done(part, count, "");
        sleep_until(now_ns() + VGA_PAUSE_NS);
    }
}

/* Sound */

static void *hda_thread(void *opaque)
{
    static const uint8_t silence[HDA_BYTES];
    Part *part = opaque;
    int fd = open("/dev/dsp", O_WRONLY | O_CLOEXEC);

    if (fd < 0) {
        return wrong(part, "open: %s", strerror(errno));
    }
    for (uint64_t count = 1; ; count++) {
        ssize_t n = write(fd, silence, sizeof(silence));

        if (n != sizeof(silence)) {
            return wrong(part, "write %llu: %zd, %s",
                         (unsigned long long)count, n, strerror(errno));
        }
        done(part, count, "");
    }
}

/* The guest agent */

/* The device file of the port of that name, without a udev */
static bool find_port(const char *name, char *device, size_t size)
{
    static const char dir[] = "/sys/class/virtio-ports";
    DIR *ports = opendir(dir);
    struct dirent *entry;
    bool found = false;

    while (ports && !found && (entry = readdir(ports))) {
        char path[512], line[64] = "";
        FILE *f;

        snprintf(path, sizeof(path), "%s/%s/name", dir, entry->d_name);
        f = fopen(path, "r");
        if (f) {
            found = fgets(line, sizeof(line), f) &&
                    !strncmp(line, name, strlen(name));
            fclose(f);
        }
        snprintf(device, size, "/dev/%.64s", entry->d_name);
    }
    if (ports) {
        closedir(ports);
    }
    return found;
}

static bool start_agent(void)
{
    char device[80];
    pid_t pid;

    if (access(AGENT, X_OK) || !find_port(AGENT_PORT, device, sizeof(device))) {
        return false;
    }
    pid = fork();
    if (!pid) {
        execl(AGENT, AGENT, "-m", "virtio-serial", "-p", device, "-t", "/tmp",
              NULL);
        _exit(127);
    }
    return pid > 0;
}

/* Control */

static Part parts[] = {
    { .name = "efi", .thread = efi_thread },
    { .name = "tpm", .thread = tpm_thread },
    { .name = "vga", .thread = vga_thread },
    { .name = "hda", .thread = hda_thread },
};

#define PARTS   (sizeof(parts) / sizeof(parts[0]))

static void start_parts(int fd)
{
    if (!start_agent()) {
        send_line(fd, "error no guest agent, or no port for it\n");
        return;
    }
    for (size_t i = 0; i < PARTS; i++) {
        pthread_t thread;

        if (pthread_create(&thread, NULL, parts[i].thread, &parts[i])) {
            send_line(fd, "error no thread\n");
            return;
        }
        pthread_detach(thread);
    }
    send_line(fd, "ok\n");
}

void control_parts(int fd, const char *args)
{
    char reply[512] = "ok";

    if (!strcmp(args, "start")) {
        start_parts(fd);
        return;
    }
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < PARTS; i++) {
        size_t len = strlen(reply);

        if (*parts[i].error) {
            snprintf(reply, sizeof(reply), "error %s: %s", parts[i].name,
                     parts[i].error);
            break;
        }
        snprintf(reply + len, sizeof(reply) - len, " %s=%llu%s",
                 parts[i].name, (unsigned long long)parts[i].count,
                 parts[i].more);
    }
    pthread_mutex_unlock(&lock);
    send_line(fd, "%s\n", reply);
}
