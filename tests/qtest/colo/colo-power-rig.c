/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: files that lose what was not flushed when the power is cut.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "colo-power-rig.h"

#define SECTOR 512

/* The log: docs/admin-guide/device-mapper/log-writes.rst of Linux */
#define LOG_FLUSH   1
#define LOG_FUA     2
#define LOG_DISCARD 4
#define LOG_MARK    8
#define LOG_ALL     (LOG_FLUSH | LOG_FUA | LOG_DISCARD | LOG_MARK)

typedef struct LogEntry {
    uint64_t sector;
    uint64_t sectors;
    uint64_t flags;
    const char *data;           /* NULL for a discard */
} LogEntry;

PowerFile *power_file_new(char *path, const char *node)
{
    PowerFile *f = g_new0(PowerFile, 1);

    f->path = path;
    f->node = g_strdup(node);
    f->log = g_strdup_printf("%s-log", path);
    f->cut = g_strdup_printf("%s-cut", path);
    g_assert_true(g_file_get_contents(path, &f->was, &f->length, NULL));
    g_assert_true(g_file_set_contents(f->log, "", 0, NULL));
    return f;
}

void power_file_free(PowerFile *f)
{
    unlink(f->path);
    unlink(f->log);
    unlink(f->cut);
    g_free(f->path);
    g_free(f->node);
    g_free(f->log);
    g_free(f->cut);
    g_free(f->was);
    g_free(f);
}

char *power_file_option(PowerFile *f)
{
    return g_strdup_printf(
        "-blockdev driver=blklogwrites,node-name=%s,"
        "log-super-update-interval=1,file.driver=file,file.filename=%s,"
        "log.driver=file,log.filename=%s", f->node, f->path, f->log);
}

static uint64_t number_at(const char *log, gsize offset)
{
    return ldq_le_p(log + offset);
}

/* The entries in the order in which they were done */
static GArray *read_log(const char *log, gsize length)
{
    GArray *entries = g_array_new(false, false, sizeof(LogEntry));
    uint64_t n = length ? number_at(log, 16) : 0;
    gsize at = SECTOR;

    for (uint64_t i = 0; i < n && at + SECTOR <= length; i++) {
        LogEntry e = {
            .sector = number_at(log, at),
            .sectors = number_at(log, at + 8),
            .flags = number_at(log, at + 16),
        };

        at += SECTOR;
        if (e.flags & ~LOG_ALL) {
            break; /* QEMU was killed before it was written */
        }
        if (!(e.flags & LOG_DISCARD)) {
            if (e.sectors > (length - at) / SECTOR) {
                break;
            }
            e.data = log + at;
            at += e.sectors * SECTOR;
        }
        g_array_append_val(entries, e);
    }
    return entries;
}

static unsigned flushed_entries(GArray *entries)
{
    unsigned n = 0;

    for (unsigned i = 0; i < entries->len; i++) {
        if (g_array_index(entries, LogEntry, i).flags & LOG_FLUSH) {
            n = i;
        }
    }
    return n;
}

static void apply_sector(GByteArray *file, const LogEntry *e, uint64_t i)
{
    gsize offset = (e->sector + i) * SECTOR;

    if (file->len < offset + SECTOR) {
        gsize old = file->len;

        g_byte_array_set_size(file, offset + SECTOR);
        memset(file->data + old, 0, file->len - old);
    }
    if (e->data) {
        memcpy(file->data + offset, e->data + i * SECTOR, SECTOR);
    } else {
        memset(file->data + offset, 0, SECTOR);
    }
}

void power_cut(PowerFile *f, PowerLoss loss)
{
    g_autofree char *log = NULL;
    g_autoptr(GByteArray) file = g_byte_array_new();
    g_autoptr(GArray) entries = NULL;
    unsigned flushed;
    gsize length;

    g_assert_true(g_file_get_contents(f->log, &log, &length, NULL));
    entries = read_log(log, length);
    flushed = flushed_entries(entries);
    g_byte_array_append(file, (guint8 *)f->was, f->length);
    for (unsigned i = 0; i < entries->len; i++) {
        LogEntry *e = &g_array_index(entries, LogEntry, i);
        bool stays = i < flushed || e->flags & LOG_FUA;

        for (uint64_t sector = 0; sector < e->sectors; sector++) {
            if (stays || (loss == POWER_LOSS_SOME && g_test_rand_bit())) {
                apply_sector(file, e, sector);
            }
        }
    }
    g_assert_true(g_file_set_contents(f->cut, (char *)file->data, file->len,
                                      NULL));
}
