/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: how much memory a cgroup leaves.
 *
 * Proves: limits of both versions of cgroups are found, those of ancestors too,
 * page cache counts as free, and what is not there or is no limit is none.
 * Where this process may make a cgroup, a staging area that would exceed its
 * limit is an error, and the process lives.
 */

#include "qemu/osdep.h"
#include <sys/wait.h>
#include "qemu/units.h"
#include "qapi/error.h"
#include "migration/colo/headroom.h"
#include "migration/colo/staging.h"

/* A tree of files like those of the kernel */
static char *root;

static void put(const char *dir, const char *name, const char *text)
{
    g_autofree char *where = g_build_filename(root, dir, NULL);
    g_autofree char *path = g_build_filename(where, name, NULL);

    g_assert_cmpint(g_mkdir_with_parents(where, 0700), ==, 0);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static uint64_t headroom(const char *self)
{
    g_autofree char *proc = g_build_filename(root, "self", NULL);

    put("", "self", self);
    return colo_headroom_of(proc, root);
}

static void remove_tree(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *child = g_build_filename(path, name, NULL);

        remove_tree(child);
    }
    if (dir) {
        g_dir_close(dir);
    }
    remove(path);
}

static void set_up(void)
{
    root = g_dir_make_tmp("colo-cgroup-XXXXXX", NULL);
    g_assert_nonnull(root);
}

static void tear_down(void)
{
    remove_tree(root);
    g_clear_pointer(&root, g_free);
}

static void test_none(void)
{
    set_up();
    g_assert_cmpuint(colo_headroom_of("/nowhere", root), ==, UINT64_MAX);
    g_assert_cmpuint(headroom("0::/a\n"), ==, UINT64_MAX);
    put("a", "memory.max", "max\n");
    put("a", "memory.current", "4096\n");
    g_assert_cmpuint(headroom("0::/a\n"), ==, UINT64_MAX);
    g_assert_cmpuint(headroom("nonsense\n\n::\n"), ==, UINT64_MAX);
    tear_down();
}

static void test_v2(void)
{
    set_up();
    put("a/b", "memory.max", "max\n");
    put("a/b", "memory.current", "1000\n");
    put("a", "memory.max", "5000\n");
    put("a", "memory.current", "3000\n");
    g_assert_cmpuint(headroom("0::/a/b\n"), ==, 2000);
    put("a", "memory.stat", "anon 7\ninactive_file 100\nactive_file 30\n"
        "workingset_active_file 1\n");
    g_assert_cmpuint(headroom("0::/a/b\n"), ==, 2130);
    put("a/b", "memory.max", "1500\n");
    g_assert_cmpuint(headroom("0::/a/b\n"), ==, 500);
    put("a/b", "memory.current", "1600\n");
    g_assert_cmpuint(headroom("0::/a/b\n"), ==, 0);
    tear_down();
}

static void test_v1(void)
{
    set_up();
    put("memory/a", "memory.limit_in_bytes", "5000\n");
    put("memory/a", "memory.usage_in_bytes", "3000\n");
    put("memory/a", "memory.stat", "inactive_file 9\ntotal_inactive_file 100\n"
        "total_active_file 30\n");
    g_assert_cmpuint(headroom("9:cpu:/\n4:memory:/a\n0::/\n"), ==, 2130);
    g_assert_cmpuint(headroom("4:cpu,memory:/a/gone\n"), ==, 2130);
    /* The cgroup of a container is mounted as the root */
    put("memory", "memory.limit_in_bytes", "4000\n");
    put("memory", "memory.usage_in_bytes", "3900\n");
    g_assert_cmpuint(headroom("4:memory:/elsewhere\n"), ==, 100);
    tear_down();
}

/* Kernel's own: a child in a cgroup of its own */

#define LIMIT   (64 * MiB)

static bool put_value(const char *dir, const char *name, const char *value)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    int fd = open(path, O_WRONLY);
    bool ok = fd >= 0 && write(fd, value, strlen(value)) == strlen(value);

    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

/* A cgroup below that of the hierarchy's root, NULL if it cannot be made */
static char *make_cgroup(void)
{
    static const struct {
        const char *top, *limit;
    } kinds[] = {
        { "/sys/fs/cgroup/memory", "memory.limit_in_bytes" },
        { "/sys/fs/cgroup", "memory.max" },
    };
    g_autofree char *name = g_strdup_printf("colo-test-%d", getpid());
    g_autofree char *limit = g_strdup_printf("%" PRIu64, LIMIT);

    for (int i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *dir = g_build_filename(kinds[i].top, name, NULL);

        if (mkdir(dir, 0700) == 0) {
            if (put_value(dir, kinds[i].limit, limit)) {
                return g_steal_pointer(&dir);
            }
            rmdir(dir);
        }
    }
    return NULL;
}

/* In the cgroup: more than it allows has to be refused, little has not */
static void child(const char *dir)
{
    g_autofree char *pid = g_strdup_printf("%d", getpid());
    ColoStaging *st;

    if (!put_value(dir, "cgroup.procs", pid) || colo_headroom() > LIMIT) {
        /* The child cannot enter, or does not see where it is */
        _exit(77);
    }
    st = colo_staging_new(4096, 4 * LIMIT / 4096, 4 * LIMIT / 4096);
    if (!colo_staging_reserve(st, 1000, 1000, NULL)) {
        _exit(1);
    }
    _exit(colo_staging_reserve(st, 4 * LIMIT / 4096, 4 * LIMIT / 4096, NULL)
          ? 2 : 0);
}

static void test_limited(void)
{
    g_autofree char *dir = make_cgroup();
    int status;
    pid_t pid;

    if (!dir) {
        g_test_skip("this process may not make a memory cgroup");
        return;
    }
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (!pid) {
        child(dir);
    }
    g_assert_cmpint(RETRY_ON_EINTR(waitpid(pid, &status, 0)), ==, pid);
    rmdir(dir);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        g_test_skip("a process in a cgroup does not see its limit here");
        return;
    }
    g_assert_false(WIFSIGNALED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/headroom/none", test_none);
    g_test_add_func("/colo/headroom/v2", test_v2);
    g_test_add_func("/colo/headroom/v1", test_v1);
    g_test_add_func("/colo/headroom/limited", test_limited);
    return g_test_run();
}
