/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest that writes into the log of replication.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/aio.h"
#include "qemu/coroutine.h"
#include "qemu/main-loop.h"
#include "colo-log-guest.h"

#define DEADLINE_MS 20000

static void coroutine_fn guest_entry(void *opaque)
{
    LogGuest *g = opaque;
    ReplicationLog *log = g->log;
    g_autofree uint8_t *buf = NULL;
    QEMUIOVector qiov;

    switch (g->type) {
    case 'w':
        buf = g_malloc(g->bytes);
        memset(buf, g->byte, g->bytes);
        qemu_iovec_init_buf(&qiov, buf, g->bytes);
        replication_log_write(log, g->offset, g->bytes, &qiov, 0);
        break;
    case 'z':
    case 'u':
        replication_log_zero(log, g->offset, g->bytes, g->type == 'u');
        break;
    case 'd':
        replication_log_discard(log, g->offset, g->bytes);
        break;
    case 'f':
        replication_log_flush(log);
        break;
    case 'c':
        buf = g_malloc(g->bytes);
        memset(buf, g->byte, g->bytes);
        replication_log_copy(log, g->offset, g->bytes, g->byte ? buf : NULL);
        break;
    case 'e':
        replication_log_wait_empty(log);
        break;
    }
    g->done = true;
}

void log_guest_begin(LogGuest *g)
{
    qemu_coroutine_enter(qemu_coroutine_create(guest_entry, g));
}

void log_guest_wait_for(const bool *done)
{
    int64_t end = g_get_monotonic_time() + DEADLINE_MS * 1000;

    while (!*done) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        if (!aio_poll(qemu_get_aio_context(), false)) {
            g_usleep(100);
        }
    }
}

void log_guest_wait(LogGuest *g)
{
    log_guest_wait_for(&g->done);
}

void log_guest(ReplicationLog *log, char type, int64_t offset, int64_t bytes,
               int byte)
{
    LogGuest g = { .log = log, .type = type, .offset = offset, .bytes = bytes,
                   .byte = byte };

    log_guest_begin(&g);
    if (type == 'w' && bytes >= REPLICATION_LOG_BESIDE) {
        log_guest_wait(&g);
    }
    g_assert_true(g.done);
}

void log_guest_settle(ReplicationLog *log, uint64_t epoch, uint64_t timeout_ms)
{
    replication_log_cut(log, epoch);
    g_assert_true(replication_log_settle(log, timeout_ms, &error_abort));
}
