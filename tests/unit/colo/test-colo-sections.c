/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the list of sections that comes with a checkpoint's device state.
 *
 * Proves: what the primary notes while it saves is what the secondary accepts,
 * and nothing else is: no other order, version, name or length, no gap, no rest,
 * no device that is not there.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qapi/error.h"
#include "migration/colo.h"
#include "migration/migration.h"
#include "migration/savevm.h"
#include "migration/colo/sections.h"

/* What sections.c asks the rest of migration */
static MigrationState migration = { .send_section_footer = true };

MigrationState *migrate_get_current(void)
{
    return &migration;
}

bool qemu_device_state_known(const char *idstr, uint32_t instance_id,
                             uint32_t version_id, Error **errp)
{
    if (strcmp(idstr, "timer") && strcmp(idstr, "0000:00:03.0/nic")) {
        error_setg(errp, "there is no device '%s'", idstr);
        return false;
    }
    return true;
}

/* The file has had other checkpoints */
#define FILE_BEGIN  1234567

static void put32(GByteArray *out, uint32_t v)
{
    uint8_t buf[4];

    stl_be_p(buf, v);
    g_byte_array_append(out, buf, sizeof(buf));
}

static void put8(GByteArray *out, uint8_t v)
{
    g_byte_array_append(out, &v, 1);
}

/* As the base saves it, with some bytes inside */
static void put_section(GByteArray *state, const char *name, uint32_t id,
                        uint32_t instance, uint32_t version, size_t inside)
{
    put8(state, QEMU_VM_SECTION_FULL);
    put32(state, id);
    put8(state, strlen(name));
    g_byte_array_append(state, (const uint8_t *)name, strlen(name));
    put32(state, instance);
    put32(state, version);
    for (size_t i = 0; i < inside; i++) {
        put8(state, i);
    }
    if (migration.send_section_footer) {
        put8(state, QEMU_VM_SECTION_FOOTER);
        put32(state, id);
    }
    colo_section_saved(name, instance, version, FILE_BEGIN + state->len);
}

typedef struct Saved {
    GByteArray *list;
    GByteArray *state;
} Saved;

static Saved save(const char *last)
{
    Saved s = { g_byte_array_new(), g_byte_array_new() };

    colo_sections_begin(FILE_BEGIN);
    put_section(s.state, "timer", 1, 0, 2, 24);
    /* One that has nothing to save */
    colo_section_saved("idle", 0, 1, FILE_BEGIN + s.state->len);
    put_section(s.state, last, 7, 3, 11, 0);
    put8(s.state, QEMU_VM_EOF);
    colo_sections_encode(s.list);
    return s;
}

static bool fit(Saved *s, Error **errp)
{
    bool ok = colo_sections_fit(s->list->data, s->list->len, s->state->data,
                                s->state->len, errp);

    g_byte_array_unref(s->list);
    g_byte_array_unref(s->state);
    return ok;
}

static void refuse(Saved s, const char *text)
{
    g_autoptr(Error) err = NULL;

    g_assert_false(fit(&s, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), text));
}

static void test_saved(void)
{
    Saved s = save("0000:00:03.0/nic");

    g_assert_true(fit(&s, &error_abort));
    /* Once more: the list begins anew */
    s = save("timer");
    g_assert_true(fit(&s, &error_abort));
}

static void test_no_footer(void)
{
    Saved s;

    migration.send_section_footer = false;
    s = save("timer");
    g_assert_true(fit(&s, &error_abort));
    migration.send_section_footer = true;
}

static void test_missing(void)
{
    refuse(save("virtio-nothing"), "there is no device 'virtio-nothing'");
}

/* Each byte of the list and of what frames a section counts */
static void test_list_altered(void)
{
    size_t len;
    Saved s = save("timer");

    len = s.list->len;
    fit(&s, &error_abort);
    for (size_t i = 0; i < len; i++) {
        g_autoptr(Error) err = NULL;

        s = save("timer");
        s.list->data[i] ^= 1;
        g_assert_false(fit(&s, &err));
    }
    for (size_t i = 0; i < len; i++) {
        g_autoptr(Error) err = NULL;

        s = save("timer");
        g_byte_array_set_size(s.list, i);
        g_assert_false(fit(&s, &err));
    }
}

static void test_state_altered(void)
{
    /* Type, length of the name, name, instance, version, footer of the first */
    static const size_t places[] = { 0, 5, 6, 11, 15, 19 + 24, 20 + 24 };

    for (int i = 0; i < G_N_ELEMENTS(places); i++) {
        Saved s = save("timer");

        s.state->data[places[i]] ^= 1;
        refuse(s, "is not where");
    }
}

static void test_rest(void)
{
    Saved s = save("timer");

    put8(s.state, 0);
    refuse(s, "bytes of device state");
    s = save("timer");
    g_byte_array_set_size(s.state, s.state->len - 1);
    refuse(s, "bytes of device state");
    s = save("timer");
    g_byte_array_set_size(s.state, s.state->len - 2);
    refuse(s, "is not where");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/sections/saved", test_saved);
    g_test_add_func("/colo/sections/no-footer", test_no_footer);
    g_test_add_func("/colo/sections/missing", test_missing);
    g_test_add_func("/colo/sections/list-altered", test_list_altered);
    g_test_add_func("/colo/sections/state-altered", test_state_altered);
    g_test_add_func("/colo/sections/rest", test_rest);
    return g_test_run();
}
