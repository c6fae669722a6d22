/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: why the first migration failed.
 *
 * A migration goes one way.  If its destination cannot load it, the source sees
 * a connection that breaks, and the cause stands in a log on another host.  The
 * secondary of a pair that is to be tells its peer: an ERROR frame against the
 * stream, with the errors that were reported while it loaded.  The primary looks
 * for it as often as for errors of its own.  Only where nothing but a socket
 * carries the stream, so not with TLS.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/coroutine.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/sockets.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "io/channel-socket.h"
#include "migration/colo.h"
#include "first.h"
#include "frame.h"
#include "status.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "migration/savevm.h"
#include "system/runstate.h"

/* So long the secondary waits for a primary that goes on sending */
#define DRAIN_NS        (2 * NANOSECONDS_PER_SECOND)
#define DRAIN_LOOK_NS   (5 * SCALE_MS)
#define DRAIN_BYTES     (64 * KiB)

/* Secondary: errors since the migration began, NULL if none is under way */
static GString *reported;
static QemuMutex reported_lock;

/* Secondary, main loop: what has come, see section_key() */
static GHashTable *sections;

/* Any thread */
static void note_report(const char *text)
{
    QEMU_LOCK_GUARD(&reported_lock);

    if (!reported) {
        return;
    }
    g_string_append_printf(reported, "%s%s", reported->len ? "; " : "", text);
    /* What was reported last is why it failed */
    if (reported->len > COLO_TEXT_MAX) {
        g_string_erase(reported, 0, reported->len - COLO_TEXT_MAX);
    }
}

/* Destination: the source has no x-colo */
static bool source_is_plain;

/* Of one that x-colo was set for query-colo-status says why it has failed */
static int migration_event(NotifierWithReturn *n, MigrationEvent *e,
                           Error **errp)
{
    MigrationState *ms = migrate_get_current();
    g_autoptr(Error) err = NULL;

    if (e->type == MIG_EVENT_PRECOPY_SETUP) {
        colo_status_forget_old();
    }
    if (e->type != MIG_EVENT_PRECOPY_FAILED || !migrate_colo()) {
        return 0;
    }
    WITH_QEMU_LOCK_GUARD(&ms->error_mutex) {
        err = ms->error ? error_copy(ms->error) : NULL;
    }
    colo_status_say_first("the first migration %s%s",
                          err ? "failed: " : "was cancelled",
                          err ? error_get_pretty(err) : "");
    return 0;
}

static NotifierWithReturn event_notifier;

static void __attribute__((constructor)) first_init(void)
{
    qemu_mutex_init(&reported_lock);
    migration_add_notifier(&event_notifier, migration_event);
}

static void reported_clear(void)
{
    QEMU_LOCK_GUARD(&reported_lock);

    g_clear_pointer(&sections, g_hash_table_unref);
    error_report_listen(NULL);
    if (reported) {
        g_string_free(reported, true);
        reported = NULL;
    }
}

static void reported_begin(void)
{
    QEMU_LOCK_GUARD(&reported_lock);

    reported = g_string_new(NULL);
    error_report_listen(note_report);
}

void colo_first_listen(void)
{
    source_is_plain = false;
    reported_clear();
    if (migrate_colo() && runstate_check(RUN_STATE_INMIGRATE)) {
        reported_begin();
    }
}

void colo_first_begin(void)
{
    reported_clear();
    sections = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    reported_begin();
}

void colo_first_done(void)
{
    reported_clear();
}

static char *section_key(const char *name, uint32_t instance)
{
    return g_strdup_printf("%" PRIu32 "/%s", instance, name);
}

bool colo_first_check(const char *name, uint32_t instance)
{
    if (!migrate_colo() || !runstate_check(RUN_STATE_INMIGRATE)) {
        return true;
    }
    if (!sections) {
        source_is_plain = true;
        error_report("x-colo is set here and not at the source of the "
                     "migration: set it there, too, or clear it here");
        return false;
    }
    g_hash_table_add(sections, section_key(name, instance));
    return true;
}

static bool has_come(const char *name, uint32_t instance, void *opaque)
{
    g_autofree char *key = section_key(name, instance);

    return g_hash_table_contains(sections, key);
}

bool colo_first_complete(void)
{
    Error *err = NULL;

    if (sections &&
        !qemu_device_state_complete(has_come, NULL, &err)) {
        error_reportf_err(err, "the machines of the two sides differ: ");
        return false;
    }
    return true;
}

static int socket_of(QEMUFile *f)
{
    QIOChannel *ioc = qemu_file_get_ioc(f);

    return object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_SOCKET)
           ? QIO_CHANNEL_SOCKET(ioc)->fd : -1;
}

/*
 * What the primary has sent and still sends is read until it hangs up, for a
 * socket that is closed with unread data resets the connection.
 */
static void coroutine_fn drain(int fd)
{
    int64_t end_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + DRAIN_NS;
    g_autofree uint8_t *buf = g_malloc(DRAIN_BYTES);
    ssize_t n;

    do {
        n = RETRY_ON_EINTR(recv(fd, buf, DRAIN_BYTES, MSG_DONTWAIT));
        if (n < 0 && errno == EAGAIN) {
            /* The monitor answers meanwhile */
            qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, DRAIN_LOOK_NS);
            n = 1;
        }
    } while (n > 0 && qemu_clock_get_ns(QEMU_CLOCK_REALTIME) < end_ns);
}

void coroutine_fn colo_first_failed(QEMUFile *f)
{
    int fd = socket_of(f);
    uint8_t frame[COLO_FRAME_HDR_LEN + COLO_TEXT_MAX];
    ColoFrame head = { .type = COLO_FRAME_ERROR };

    WITH_QEMU_LOCK_GUARD(&reported_lock) {
        if (!reported) {
            return;
        }
        head.length = MIN(reported->len, COLO_TEXT_MAX);
        memcpy(frame + COLO_FRAME_HDR_LEN, reported->str, head.length);
    }
    reported_clear();
    if (migration_incoming_colo_enabled()) {
        migration_incoming_disable_colo();
    }
    /*
     * Without x-colo it looks for no answer.  Should all that it sends be taken
     * its migration would have succeeded, and nobody would run its guest.
     */
    if (fd < 0 || source_is_plain) {
        return;
    }
    colo_frame_encode(&head, frame);
    /* Nothing was sent before on this way, so there is room */
    if (send(fd, frame, COLO_FRAME_HDR_LEN + head.length,
             MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
        drain(fd);
    }
}

bool colo_first_refused(QEMUFile *f, Error **errp)
{
    int fd = migrate_colo() ? socket_of(f) : -1;
    uint8_t frame[COLO_FRAME_HDR_LEN + COLO_TEXT_MAX + 1];
    uint8_t *text = frame + COLO_FRAME_HDR_LEN;
    ColoFrame head;
    ssize_t n;

    /* Not taken: it may be the first frame of the session */
    n = fd < 0 ? -1 : recv(fd, frame, sizeof(frame) - 1,
                           MSG_PEEK | MSG_DONTWAIT);
    if (n < COLO_FRAME_HDR_LEN || !colo_frame_decode(frame, &head, NULL) ||
        head.type != COLO_FRAME_ERROR || n < COLO_FRAME_HDR_LEN + head.length) {
        return false;
    }
    for (uint64_t i = 0; i < head.length; i++) {
        text[i] = g_ascii_isprint(text[i]) ? text[i] : '?';
    }
    text[head.length] = '\0';
    error_setg(errp, "the secondary cannot load it: %s", text);
    return true;
}
