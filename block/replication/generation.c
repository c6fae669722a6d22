/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replication: which of two disks is newer, both sides.
 *
 * The file is one line of text, so that people and scripts can read it when no
 * QEMU runs: "colo-disk-generation 7 alone".
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/ctype.h"
#include "qemu/cutils.h"
#include "generation.h"

#define KEYWORD "colo-disk-generation"

/* Longer than any that was written here */
#define MAX_LENGTH 80

/* @text without its end of line: keyword, number, role */
static bool parse(char *text, ColoDiskGeneration *g)
{
    g_auto(GStrv) words = g_strsplit(text, " ", 4);
    int role;

    if (g_strv_length(words) != 3 || strcmp(words[0], KEYWORD) ||
        !qemu_isdigit(*words[1]) ||
        qemu_strtou64(words[1], NULL, 10, &g->number) < 0) {
        return false;
    }
    role = qapi_enum_parse(&ColoDiskRole_lookup, words[2], -1, NULL);
    g->role = role;
    return role >= 0;
}

bool replication_generation_load(const char *path, ColoDiskGeneration *g,
                                 Error **errp)
{
    char text[MAX_LENGTH + 1];
    FILE *file = fopen(path, "r");
    size_t length;
    int err;

    *g = (ColoDiskGeneration) { .number = 0, .role = COLO_DISK_ROLE_NEW };
    if (!file && errno == ENOENT) {
        return true;
    }
    if (!file) {
        error_setg_file_open(errp, errno, path);
        return false;
    }
    length = fread(text, 1, MAX_LENGTH, file);
    err = ferror(file) ? EIO : 0;
    fclose(file);
    if (err) {
        error_setg_errno(errp, err, "could not read '%s'", path);
        return false;
    }
    /* Without its end of line it may have been cut short, by a copy say */
    if (!length || text[length - 1] != '\n' || memchr(text, 0, length)) {
        length = 1;
        *text = 0;
    }
    text[length - 1] = 0;
    if (!parse(text, g)) {
        error_setg(errp, "'%s' is no generation of a replicated disk, "
                   "expected is the line '" KEYWORD " NUMBER ROLE'", path);
        return false;
    }
    return true;
}

/* A new name in a folder is for good when the folder is */
static bool sync_folder_of(const char *path, Error **errp)
{
    g_autofree char *folder = g_path_get_dirname(path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int ret = fd < 0 ? -1 : fsync(fd);

    if (ret < 0) {
        error_setg_errno(errp, errno, "could not write '%s'", folder);
    }
    if (fd >= 0) {
        close(fd);
    }
    return ret >= 0;
}

bool replication_generation_store(const char *path,
                                  const ColoDiskGeneration *g, Error **errp)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *text = g_strdup_printf(KEYWORD " %" PRIu64 " %s\n",
                                            g->number,
                                            ColoDiskRole_str(g->role));

    if (!g_file_set_contents_full(path, text, -1,
                                  G_FILE_SET_CONTENTS_CONSISTENT |
                                  G_FILE_SET_CONTENTS_DURABLE, 0644, &err)) {
        error_setg(errp, "%s", err->message);
        return false;
    }
    return sync_folder_of(path, errp);
}

bool replication_generation_is_newer(const ColoDiskGeneration *a,
                                     const ColoDiskGeneration *b)
{
    if (!b) {
        return a->role == COLO_DISK_ROLE_PRIMARY ||
               a->role == COLO_DISK_ROLE_FOLDING ||
               a->role == COLO_DISK_ROLE_ALONE;
    }
    return a->number > b->number ||
           (a->number == b->number && a->role == COLO_DISK_ROLE_PRIMARY &&
            b->role == COLO_DISK_ROLE_SECONDARY);
}
