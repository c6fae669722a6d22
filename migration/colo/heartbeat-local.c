/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: does this QEMU itself get on?
 *
 * Main loop, BQL, but for colo_local_progress().
 *
 * A timer of the main loop counts that it goes round.  Once a second it asks
 * each vCPU to do something, if all have done so since it asked last, and
 * counts that.  A guest that hangs does not matter, a vCPU thread that does:
 * in its host's kernel, or for a lock that nobody gives back.
 *
 * A vCPU that is unplugged answers no more, and the next one may have its
 * address.  So who has not answered for long is asked again.
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/timer.h"
#include "hw/core/cpu.h"
#include "system/runstate.h"
#include "heartbeat-local.h"

#define LOOK_MS             250
#define LOOKS_PER_QUESTION  4
#define ASK_AGAIN_MS        10000

/* BQL */
static QEMUTimer *timer;
static GHashTable *asked;   /* CPUState: since then, in ms; not answered yet */
static unsigned looks;

/* Atomic; only the main loop writes */
static unsigned long loop_count;
static unsigned long vcpus_count;

static void answer(CPUState *cpu, run_on_cpu_data data)
{
    if (asked) {
        g_hash_table_remove(asked, cpu);
    }
}

static void ask(CPUState *cpu, int64_t now_ms)
{
    g_hash_table_replace(asked, cpu, GSIZE_TO_POINTER(now_ms));
    async_run_on_cpu(cpu, answer, RUN_ON_CPU_NULL);
}

static gboolean is_gone(gpointer key, gpointer value, gpointer opaque)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        if (cpu == key) {
            return false;
        }
    }
    return true;
}

static void look_at_vcpus(int64_t now_ms)
{
    bool all;
    CPUState *cpu;

    g_hash_table_foreach_remove(asked, is_gone, NULL);
    all = !g_hash_table_size(asked);
    if (all) {
        qatomic_inc(&vcpus_count);
    }
    CPU_FOREACH(cpu) {
        gpointer since;

        if (all ||
            (g_hash_table_lookup_extended(asked, cpu, NULL, &since) &&
             now_ms - (int64_t)GPOINTER_TO_SIZE(since) > ASK_AGAIN_MS)) {
            ask(cpu, now_ms);
        }
    }
}

static void look(void *opaque)
{
    int64_t now_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

    qatomic_inc(&loop_count);
    if (runstate_is_running() && ++looks % LOOKS_PER_QUESTION == 0) {
        look_at_vcpus(now_ms);
    }
    timer_mod(timer, now_ms + LOOK_MS);
}

void colo_local_progress_start(void)
{
    asked = g_hash_table_new(NULL, NULL);
    timer = timer_new_ms(QEMU_CLOCK_REALTIME, look, NULL);
    look(NULL);
}

void colo_local_progress_stop(void)
{
    timer_free(timer);
    timer = NULL;
    g_clear_pointer(&asked, g_hash_table_unref);
}

ColoLocalProgress colo_local_progress(void)
{
    return (ColoLocalProgress) {
        .loop = qatomic_read(&loop_count),
        .vcpus = qatomic_read(&vcpus_count),
        /* The main loop may have to wait, and cannot tell */
        .stands = !runstate_is_running(),
    };
}
