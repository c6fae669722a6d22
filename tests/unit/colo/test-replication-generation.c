/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file that says which of two disks is newer.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/replication/generation.h"

static char *folder;
static char *path;

static void write_text(const char *text, size_t length)
{
    g_assert_true(g_file_set_contents(path, text, length, NULL));
}

static void test_new(void)
{
    ColoDiskGeneration g = { .number = 5, .role = COLO_DISK_ROLE_ALONE };

    unlink(path);
    g_assert_true(replication_generation_load(path, &g, &error_abort));
    g_assert_cmpuint(g.number, ==, 0);
    g_assert_cmpint(g.role, ==, COLO_DISK_ROLE_NEW);
}

static void test_again(void)
{
    static const uint64_t numbers[] = { 0, 1, UINT64_MAX };
    ColoDiskGeneration g;

    for (int i = 0; i < G_N_ELEMENTS(numbers); i++) {
        for (int role = 0; role < COLO_DISK_ROLE__MAX; role++) {
            g = (ColoDiskGeneration) { .number = numbers[i], .role = role };
            g_assert_true(replication_generation_store(path, &g,
                                                       &error_abort));
            g = (ColoDiskGeneration) { 0 };
            g_assert_true(replication_generation_load(path, &g,
                                                      &error_abort));
            g_assert_cmpuint(g.number, ==, numbers[i]);
            g_assert_cmpint(g.role, ==, role);
        }
    }
}

static bool is_newer(uint64_t a, ColoDiskRole of_a, uint64_t b,
                     ColoDiskRole of_b)
{
    return replication_generation_is_newer(
        &(ColoDiskGeneration) { .number = a, .role = of_a },
        &(ColoDiskGeneration) { .number = b, .role = of_b });
}

static void test_newer(void)
{
    g_assert_true(is_newer(2, COLO_DISK_ROLE_SECONDARY,
                           1, COLO_DISK_ROLE_PRIMARY));
    g_assert_false(is_newer(1, COLO_DISK_ROLE_PRIMARY,
                            2, COLO_DISK_ROLE_SECONDARY));
    /* Of both hosts that died in a session */
    g_assert_true(is_newer(2, COLO_DISK_ROLE_PRIMARY,
                           2, COLO_DISK_ROLE_SECONDARY));
    g_assert_false(is_newer(2, COLO_DISK_ROLE_SECONDARY,
                            2, COLO_DISK_ROLE_PRIMARY));
    g_assert_false(is_newer(0, COLO_DISK_ROLE_NEW, 0, COLO_DISK_ROLE_NEW));
    /* Than one of which nothing is known */
    for (int role = 0; role < COLO_DISK_ROLE__MAX; role++) {
        ColoDiskGeneration g = { .number = 3, .role = role };

        g_assert_cmpint(replication_generation_is_newer(&g, NULL), ==,
                        role == COLO_DISK_ROLE_PRIMARY ||
                        role == COLO_DISK_ROLE_FOLDING ||
                        role == COLO_DISK_ROLE_ALONE);
    }
}

/* What people and scripts may rely on */
static void test_text(void)
{
    ColoDiskGeneration g = { .number = 7, .role = COLO_DISK_ROLE_FOLDING };
    g_autofree char *text = NULL;

    g_assert_true(replication_generation_store(path, &g, &error_abort));
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "colo-disk-generation 7 folding\n");
}

static void test_garbage(void)
{
    static const char *const texts[] = {
        "", "\n", " " "\n", "colo-disk-generation\n", "colo-disk-generation 7\n",
        "colo-disk-generation 7 alone", "colo-disk-generation 7 alon\n",
        "colo-disk-generation  7 alone\n", "colo-disk-generation 7 alone " "\n",
        "colo-disk-generation 7 alone\n\n", "colo-disk-generation -7 alone\n",
        "colo-disk-generation +7 alone\n", "colo-disk-generation 0x7 alone\n",
        "colo-disk-generation 18446744073709551616 alone\n",
        "colo-disk-generation 7x alone\n", "colo-disk-generatio 7 alone\n",
        "colo-disk-generation 7 alone more\n",
        "colo-disk-generation 7 alone                                        "
        "                                 " "\n",
    };
    static const char with_zero[] = "colo-disk-generation 7 alone\0\n";
    ColoDiskGeneration g;
    Error *err = NULL;

    for (int i = 0; i < G_N_ELEMENTS(texts); i++) {
        write_text(texts[i], strlen(texts[i]));
        g_assert_false(replication_generation_load(path, &g, &err));
        error_free_or_abort(&err);
    }
    write_text(with_zero, sizeof(with_zero) - 1);
    g_assert_false(replication_generation_load(path, &g, &err));
    error_free_or_abort(&err);
}

static void test_errors(void)
{
    g_autofree char *missing = g_build_filename(folder, "no", "file", NULL);
    ColoDiskGeneration g = { .number = 1 };
    Error *err = NULL;

    /* A folder can be neither read nor replaced */
    g_assert_false(replication_generation_load(folder, &g, &err));
    error_free_or_abort(&err);
    g_assert_false(replication_generation_store(folder, &g, &err));
    error_free_or_abort(&err);
    g_assert_false(replication_generation_store(missing, &g, &err));
    error_free_or_abort(&err);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    folder = g_dir_make_tmp("colo-generation-XXXXXX", NULL);
    g_assert_nonnull(folder);
    path = g_build_filename(folder, "disk0.generation", NULL);

    g_test_add_func("/colo/generation/new", test_new);
    g_test_add_func("/colo/generation/again", test_again);
    g_test_add_func("/colo/generation/newer", test_newer);
    g_test_add_func("/colo/generation/text", test_text);
    g_test_add_func("/colo/generation/garbage", test_garbage);
    g_test_add_func("/colo/generation/errors", test_errors);
    ret = g_test_run();

    unlink(path);
    rmdir(folder);
    g_free(path);
    g_free(folder);
    return ret;
}
