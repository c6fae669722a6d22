/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: how much memory may this process still take?
 *
 * Both sides, any thread.
 *
 * Memory that is populated over the limit of a memory cgroup is no error: the
 * kernel kills the process, guest and all.  So who is about to populate much
 * looks first.  Both versions of cgroups are known, and the limits of all
 * ancestors count.  In a container the cgroup of the process may be mounted as
 * the root of the hierarchy: ancestors that are not there are passed over.
 */

#include "qemu/osdep.h"
#include "headroom.h"

/* What the files of a version are called */
typedef struct Version {
    const char *mount;          /* below the root */
    const char *limit;
    const char *usage;
    const char *inactive_file;  /* lines of memory.stat: reclaimable */
    const char *active_file;
} Version;

static const Version v1 = {
    "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
    "total_inactive_file ", "total_active_file ",
};

/* The only hierarchy, or one beside those of version 1 */
static const Version v2[] = {
    { "", "memory.max", "memory.current", "inactive_file ", "active_file " },
    { "unified", "memory.max", "memory.current", "inactive_file ",
      "active_file " },
};

static bool read_number(const char *dir, const char *name, uint64_t *number)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autofree char *text = NULL;
    char *end;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return false;
    }
    /* "max" is no number, and no limit */
    *number = g_ascii_strtoull(text, &end, 10);
    return end != text;
}

/* A line of memory.stat, 0 if it is not there */
static uint64_t stat_line(const char *stat, const char *name)
{
    const char *line = stat;

    while (line && !g_str_has_prefix(line, name)) {
        line = strchr(line, '\n');
        line += line != NULL;
    }
    return line ? g_ascii_strtoull(line + strlen(name), NULL, 10) : 0;
}

static uint64_t headroom_of_dir(const Version *v, const char *dir)
{
    g_autofree char *path = g_build_filename(dir, "memory.stat", NULL);
    g_autofree char *stat = NULL;
    uint64_t limit, usage;

    if (!read_number(dir, v->limit, &limit) ||
        !read_number(dir, v->usage, &usage)) {
        return UINT64_MAX;
    }
    if (g_file_get_contents(path, &stat, NULL, NULL)) {
        uint64_t cache = stat_line(stat, v->inactive_file) +
                         stat_line(stat, v->active_file);

        usage -= MIN(usage, cache);
    }
    return limit - MIN(limit, usage);
}

/* The cgroup @path of a hierarchy, and all its ancestors */
static uint64_t headroom_of_path(const Version *v, const char *root,
                                 const char *path)
{
    g_autofree char *top = g_build_filename(root, v->mount, NULL);
    g_autofree char *rest = g_strdup(path);
    uint64_t headroom = UINT64_MAX;
    char *slash;

    do {
        g_autofree char *dir = g_build_filename(top, rest, NULL);

        headroom = MIN(headroom, headroom_of_dir(v, dir));
        slash = strrchr(rest, '/');
        if (slash) {
            *slash = '\0';
        }
    } while (slash);
    return headroom;
}

/* True if "memory" is a controller of a line "id:controllers:path" */
static bool has_memory(const char *controllers)
{
    g_auto(GStrv) names = g_strsplit(controllers, ",", -1);

    return g_strv_contains((const char *const *)names, "memory");
}

uint64_t colo_headroom_of(const char *proc_file, const char *root)
{
    uint64_t headroom = UINT64_MAX;
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents(proc_file, &text, NULL, NULL)) {
        return UINT64_MAX;
    }
    lines = g_strsplit(text, "\n", -1);
    for (int i = 0; lines[i]; i++) {
        g_auto(GStrv) field = g_strsplit(lines[i], ":", 3);

        if (g_strv_length(field) != 3) {
            continue;
        }
        if (has_memory(field[1])) {
            headroom = MIN(headroom, headroom_of_path(&v1, root, field[2]));
        } else if (!*field[1]) {
            for (int k = 0; k < G_N_ELEMENTS(v2); k++) {
                headroom = MIN(headroom,
                               headroom_of_path(&v2[k], root, field[2]));
            }
        }
    }
    return headroom;
}

uint64_t colo_headroom(void)
{
    return colo_headroom_of("/proc/self/cgroup", "/sys/fs/cgroup");
}
