/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: are the processors of both sides alike?
 *
 * No device state says which model a CPU is or what it can do, so a guest that
 * has found AVX, say, goes on after a failover on one without, and crashes.  The
 * primary sends the models along with the first migration, and the secondary
 * refuses others.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "qobject/qjson.h"
#include "qobject/qobject.h"
#include "qom/qom-qobject.h"
#include <xxhash.h>
#include "hw/core/cpu.h"
#include "migration/colo.h"
#include "migration/vmstate.h"
#include "system/runstate.h"
#include "system/system.h"

/* Longer than that of 4096 CPUs, each another one */
#define TEXT_MAX    (1024 * 1024)

/* BQL */
typedef struct ColoMachine {
    uint32_t len;
    char *cpus;     /* describe_cpus(), without an end */
} ColoMachine;

static ColoMachine machine;

/* Not one of the feature words, but the guest relies on it all the same */
static bool is_feature(const char *name)
{
    return !strcmp(name, "pmu") || !strcmp(name, "kvm") ||
           !strcmp(name, "phys-bits") ||
           g_str_has_prefix(name, "hv-");
}

/* Properties come in any order */
static uint64_t hash_properties(Object *cpu)
{
    ObjectPropertyIterator iter;
    ObjectProperty *prop;
    uint64_t sum = 0;

    object_property_iter_init(&iter, cpu);
    while ((prop = object_property_iter_next(&iter))) {
        if (is_feature(prop->name)) {
            g_autofree char *value = object_property_print(cpu, prop->name,
                                                           false, NULL);
            g_autofree char *text = g_strdup_printf("%s=%s", prop->name,
                                                    value ?: "");

            sum += XXH3_64bits(text, strlen(text));
        }
    }
    return sum;
}

/* What it tells the guest that it can do, as far as its target says so */
static uint64_t features_of(CPUState *cpu)
{
    uint64_t sum = hash_properties(OBJECT(cpu));
    g_autoptr(GString) json = NULL;
    QObject *words;

    if (!object_property_find(OBJECT(cpu), "feature-words")) {
        return sum;
    }
    words = object_property_get_qobject(OBJECT(cpu), "feature-words",
                                        &error_abort);
    json = qobject_to_json(words);
    qobject_unref(words);
    return sum + XXH3_64bits(json->str, json->len);
}

static unsigned count_cpus(void)
{
    unsigned count = 0;
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        count++;
    }
    return count;
}

/*
 * How many there are, on a line, then "MODEL FEATURES\n" for each, those that
 * are alike in a row once
 */
static GString *describe_cpus(void)
{
    GString *out = g_string_new(NULL);
    g_autofree char *last = NULL;
    CPUState *cpu;

    g_string_printf(out, "%u\n", count_cpus());

    CPU_FOREACH(cpu) {
        char *line = g_strdup_printf("%s %016" PRIx64 "\n",
                                     object_get_typename(OBJECT(cpu)),
                                     features_of(cpu));

        if (!last || strcmp(line, last)) {
            g_string_append(out, line);
        }
        g_free(last);
        last = line;
    }
    return out;
}

static int machine_pre_save(void *opaque)
{
    ColoMachine *m = opaque;

    /* In a session they stay what they were */
    if (!m->cpus || !migration_in_colo_state()) {
        GString *cpus = describe_cpus();

        g_free(m->cpus);
        m->len = cpus->len;
        m->cpus = g_string_free(cpus, false);
    }
    return 0;
}

static int machine_pre_load(void *opaque)
{
    ColoMachine *m = opaque;

    g_clear_pointer(&m->cpus, g_free);
    m->len = 0;
    return 0;
}

static bool text_is_bounded(void *opaque, int version_id)
{
    ColoMachine *m = opaque;

    return m->len <= TEXT_MAX;
}

/* @there and @here: "MODEL FEATURES", or empty if a side has no more CPUs */
static void report_difference(const char *there, const char *here)
{
    g_auto(GStrv) peer = g_strsplit(there, " ", 2);
    g_auto(GStrv) own = g_strsplit(here, " ", 2);

    if (!g_strcmp0(*peer, *own)) {
        error_report("the machines of the two sides differ: a CPU of model "
                     "'%s' has other features at the primary", *own);
    } else {
        error_report("the machines of the two sides differ: a CPU is of model "
                     "'%s' at the primary, and of '%s' here", *peer ?: "none",
                     *own ?: "none");
    }
}

static bool check_cpus(const char *there, const char *here)
{
    g_auto(GStrv) peer = g_strsplit(there, "\n", -1);
    g_auto(GStrv) own = g_strsplit(here, "\n", -1);

    /* How many there are is one of the features, too */
    if (*peer && strcmp(*peer, *own)) {
        error_report("the machines of the two sides differ: the primary has %s "
                     "CPUs, this side has %s: both need the same", *peer, *own);
        return false;
    }
    for (unsigned i = 1; *peer && peer[i] && own[i]; i++) {
        if (strcmp(peer[i], own[i])) {
            report_difference(peer[i], own[i]);
            return false;
        }
    }
    return true;
}

static int machine_post_load(void *opaque, int version_id)
{
    ColoMachine *m = opaque;
    g_autofree char *there = g_strndup(m->cpus ?: "", m->len);
    g_autoptr(GString) here = NULL;

    /* In a session this has been looked at, and nothing may fail any more */
    if (!runstate_check(RUN_STATE_INMIGRATE)) {
        return 0;
    }
    here = describe_cpus();
    return check_cpus(there, here->str) ? 0 : -EINVAL;
}

static const VMStateDescription vmstate_machine = {
    .name = "colo-machine",
    .version_id = 2,
    .minimum_version_id = 2,
    .needed = colo_vmstate_needed,
    .pre_save = machine_pre_save,
    .pre_load = machine_pre_load,
    .post_load = machine_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(len, ColoMachine),
        VMSTATE_VALIDATE("len is bounded", text_is_bounded),
        VMSTATE_VBUFFER_ALLOC_UINT32(cpus, ColoMachine, 1, NULL, len),
        VMSTATE_END_OF_LIST()
    },
};

static void machine_done(Notifier *n, void *data)
{
    vmstate_register(NULL, 0, &vmstate_machine, &machine);
}

static Notifier done_notifier = { .notify = machine_done };

static void __attribute__((constructor)) machine_init(void)
{
    qemu_add_machine_init_done_notifier(&done_notifier);
}
