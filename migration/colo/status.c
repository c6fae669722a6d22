/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: is the guest protected, since when, by whom, and if not, why?
 *
 * Both sides, under the BQL.
 *
 * The guest is protected while the session is in a state in which the other
 * side could take over, or be taken over from, and while nothing of the guest
 * is left out (problems.h).  The state tells of each change, and so do streams.
 * Nobody tells of other problems that come and go, so they are looked for when
 * the session begins, in each query, and after checkpoints, but not more often
 * than PROBLEMS_NS: many checkpoints a second must not pay for that.
 */

#include "qemu/osdep.h"
#include "qemu/sockets.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "qapi/qapi-events-colo.h"
#include "system/runstate.h"
#include "arbiter.h"
#include "fence.h"
#include "params.h"
#include "problems.h"
#include "status.h"
#include "migration/options.h"

#define PROBLEMS_NS NANOSECONDS_PER_SECOND

/* BQL */
static bool protected;
static int64_t since_s;         /* Unix time of the last change; 0: none */
static char *message;
static bool message_is_old;     /* it is of the attempt before */
static char *peer;              /* of the running or the last session */
static bool was_ready;          /* at the last change of a state */
static int64_t problems_ns;     /* when problems were looked for */

/*
 * Whoever accepts a connection by a socket with a path learns no address of
 * the other end; both ends have the same path then.
 */
static char *address_of_peer(QIOChannel *ioc)
{
    g_autoptr(SocketAddress) addr = NULL;
    QIOChannelSocket *socket = colo_channel_socket(ioc);

    if (!socket) {
        return NULL;
    }
    addr = qio_channel_socket_get_remote_address(socket, NULL);
    if (addr && addr->type == SOCKET_ADDRESS_TYPE_UNIX &&
        !addr->u.q_unix.path[0]) {
        qapi_free_SocketAddress(addr);
        addr = qio_channel_socket_get_local_address(socket, NULL);
    }
    return addr ? socket_uri(addr) : NULL;
}

void colo_status_begin(QIOChannel *ioc)
{
    g_clear_pointer(&message, g_free);
    message_is_old = false;
    g_free(peer);
    peer = address_of_peer(ioc);
}

void colo_status_say(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_free(message);
    message = g_strdup_vprintf(fmt, ap);
    message_is_old = false;
    va_end(ap);
}

void colo_status_say_first(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    if (!message || message_is_old) {
        g_free(message);
        message = g_strdup_vprintf(fmt, ap);
        message_is_old = false;
    }
    va_end(ap);
}

void colo_status_try_again(void)
{
    message_is_old = true;
}

void colo_status_forget_old(void)
{
    if (message_is_old) {
        g_clear_pointer(&message, g_free);
        message_is_old = false;
    }
}

void colo_status_forget(void)
{
    g_clear_pointer(&message, g_free);
    message_is_old = false;
}

void colo_status_add(const char *text)
{
    char *before = message;

    message = before ? g_strdup_printf("%s; %s", before, text)
                     : g_strdup(text);
    g_free(before);
}

static bool session_is_on(ColoSession *s)
{
    return s && !s->thread_done;
}

/* True if the secondary could take over, as far as this side knows */
static bool secondary_is_ready(ColoSession *s)
{
    if (!session_is_on(s)) {
        return false;
    }
    if (s->side == COLO_MODE_PRIMARY) {
        return s->primary.state >= COLO_PRIMARY_STATE_RUNNING &&
               s->primary.state <= COLO_PRIMARY_STATE_LOADING;
    }
    return s->secondary.state >= COLO_SECONDARY_STATE_STANDING &&
           s->secondary.state <= COLO_SECONDARY_STATE_LOADING;
}

/* No guest stands still for a checkpoint now */
static bool is_between_checkpoints(ColoSession *s)
{
    return s->side == COLO_MODE_PRIMARY
           ? s->primary.state == COLO_PRIMARY_STATE_RUNNING
           : s->secondary.state == COLO_SECONDARY_STATE_STANDING ||
             s->secondary.state == COLO_SECONDARY_STATE_RUNNING;
}

/*
 * Of this side, in the session or in one that would begin now.  A secondary
 * that has not heard from the primary does not know the mode, and is taken for
 * one of periodic mode.
 */
static ColoProblemList *find_problems(ColoSession *s)
{
    problems_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    if (secondary_is_ready(s) ||
        (session_is_on(s) && s->side == COLO_MODE_PRIMARY)) {
        return colo_problems(s->side, s->mode);
    }
    if (!session_is_on(s) && !migrate_colo()) {
        return NULL;
    }
    if (session_is_on(s) || runstate_check(RUN_STATE_INMIGRATE)) {
        return colo_problems(COLO_MODE_SECONDARY, COLO_SYNC_MODE_PERIODIC);
    }
    return colo_problems(COLO_MODE_PRIMARY, migrate_colo_mode());
}

/* @why: what is told to the user, or NULL */
static void set_protected(ColoSession *s, bool now, const char *why)
{
    if (now == protected) {
        return;
    }
    protected = now;
    since_s = g_get_real_time() / G_USEC_PER_SEC;
    qapi_event_send_colo_protection(now, COLOMode_str(s->side), why);
}

static void evaluate(ColoSession *s, const ColoProblemList *problems)
{
    if (!secondary_is_ready(s)) {
        set_protected(s, false, message);
    } else if (problems) {
        set_protected(s, false, problems->value->message);
    } else {
        set_protected(s, true, NULL);
    }
}

void colo_status_update(ColoSession *s)
{
    bool ready = secondary_is_ready(s);
    bool look = ready && (!was_ready ||
                          (is_between_checkpoints(s) &&
                           qemu_clock_get_ns(QEMU_CLOCK_REALTIME) >=
                           problems_ns + PROBLEMS_NS));

    was_ready = ready;
    if (!ready) {
        set_protected(s, false, message);
    } else if (look) {
        g_autoptr(ColoProblemList) problems = find_problems(s);

        evaluate(s, problems);
    }
}

void colo_status_look(ColoSession *s)
{
    if (secondary_is_ready(s)) {
        g_autoptr(ColoProblemList) problems = find_problems(s);

        evaluate(s, problems);
    }
}

void colo_status_fill(ColoSession *s, COLOStatus *status)
{
    status->problems = find_problems(s);
    evaluate(s, status->problems);
    status->q_protected = protected;
    if (secondary_is_ready(s)) {
        colo_add_assumptions(s->side, &status->problems);
    }
    status->has_since = since_s;
    status->since = since_s;
    status->message = g_strdup(message);
    status->arbiter = colo_arbiter_status();
    status->fence = colo_fence_status();
    if (session_is_on(s)) {
        status->peer = g_strdup(peer);
    }
}
