/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the sections of a checkpoint's device state.
 *
 * Both sides.  A stream of device state can only be read by loading it, and a
 * load cannot be taken back.  So the primary notes where each section ends
 * while it saves them, and the secondary walks that list before it commits: a
 * device that is missing here, or a version that this QEMU does not know, ends
 * the session before any output depends on this checkpoint.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qapi/error.h"
#include "migration/colo.h"
#include "migration/migration.h"
#include "migration/savevm.h"
#include "sections.h"

/* In the stream: type, id, length of the name; name; instance, version */
#define HEAD_LEN    6
#define NUMBERS_LEN 8
/* Type and id again, unless migration.send-section-footer is off */
#define FOOT_LEN    5

typedef struct Section {
    char *name;
    uint32_t instance;
    uint32_t version;
    uint64_t length;            /* head and foot included */
} Section;

/* Primary, session's thread */
static GArray *saved;           /* of Section */
static uint64_t saved_end;      /* of the last, as the file counts */

static void section_clear(void *opaque)
{
    g_free(((Section *)opaque)->name);
}

void colo_sections_begin(uint64_t begin)
{
    if (!saved) {
        saved = g_array_new(false, false, sizeof(Section));
        g_array_set_clear_func(saved, section_clear);
    }
    g_array_set_size(saved, 0);
    saved_end = begin;
}

void colo_section_saved(const char *name, uint32_t instance, uint32_t version,
                        uint64_t end)
{
    Section s = {
        .instance = instance,
        .version = version,
        .length = end - saved_end,
    };

    if (!saved || end == saved_end) {
        /* Not for a checkpoint; or the device has nothing to save */
        return;
    }
    s.name = g_strdup(name);
    saved_end = end;
    g_array_append_val(saved, s);
}

void colo_sections_encode(GByteArray *out)
{
    uint8_t num[COLO_SECTION_LEN];

    stl_be_p(num, saved->len);
    g_byte_array_append(out, num, COLO_SECTIONS_HDR_LEN);
    for (guint i = 0; i < saved->len; i++) {
        Section *s = &g_array_index(saved, Section, i);
        uint8_t len = strlen(s->name);

        stl_be_p(num, s->instance);
        stl_be_p(num + 4, s->version);
        stq_be_p(num + 8, s->length);
        g_byte_array_append(out, num, COLO_SECTION_LEN);
        g_byte_array_append(out, &len, 1);
        g_byte_array_append(out, (const uint8_t *)s->name, len);
    }
}

/* One entry of the list.  Returns its length, 0 if it is cut short. */
static size_t section_decode(const uint8_t *in, size_t len, Section *s,
                             char name[256])
{
    uint8_t name_len;

    if (len < COLO_SECTION_LEN + 1) {
        return 0;
    }
    s->instance = ldl_be_p(in);
    s->version = ldl_be_p(in + 4);
    s->length = ldq_be_p(in + 8);
    name_len = in[COLO_SECTION_LEN];
    if (len < COLO_SECTION_LEN + 1 + name_len) {
        return 0;
    }
    memcpy(name, in + COLO_SECTION_LEN + 1, name_len);
    name[name_len] = '\0';
    s->name = name;
    return COLO_SECTION_LEN + 1 + name_len;
}

/* True if @at begins and ends as the section that the list names */
static bool section_is(const Section *s, const uint8_t *at, size_t left)
{
    bool has_foot = migrate_get_current()->send_section_footer;
    size_t name_len = strlen(s->name);
    const uint8_t *foot;

    if (s->length > left ||
        s->length < HEAD_LEN + name_len + NUMBERS_LEN +
                    (has_foot ? FOOT_LEN : 0) ||
        at[0] != QEMU_VM_SECTION_FULL || at[HEAD_LEN - 1] != name_len ||
        memcmp(at + HEAD_LEN, s->name, name_len) ||
        ldl_be_p(at + HEAD_LEN + name_len) != s->instance ||
        ldl_be_p(at + HEAD_LEN + name_len + 4) != s->version) {
        return false;
    }
    foot = at + s->length - FOOT_LEN;
    return !has_foot ||
           (foot[0] == QEMU_VM_SECTION_FOOTER &&
            !memcmp(foot + 1, at + 1, FOOT_LEN - 1));
}

bool colo_sections_fit(const uint8_t *list, size_t list_len,
                       const uint8_t *state, size_t state_len, Error **errp)
{
    size_t pos = COLO_SECTIONS_HDR_LEN, at = 0;
    uint32_t count = list_len < pos ? 0 : ldl_be_p(list);
    char name[256];
    Section s;

    for (uint32_t i = 0; i < count; i++) {
        size_t n = section_decode(list + pos, list_len - pos, &s, name);

        if (!n) {
            error_setg(errp, "'sections' is cut short");
            return false;
        }
        if (!section_is(&s, state + at, state_len - at)) {
            error_setg(errp, "the state of device '%s' is not where 'sections' "
                       "says", s.name);
            return false;
        }
        if (!qemu_device_state_known(s.name, s.instance, s.version, errp)) {
            return false;
        }
        pos += n;
        at += s.length;
    }
    if (!count || pos != list_len || at + 1 != state_len ||
        state[at] != QEMU_VM_EOF) {
        error_setg(errp, "'sections' names %zu of %zu bytes of device state",
                   at, state_len);
        return false;
    }
    return true;
}
