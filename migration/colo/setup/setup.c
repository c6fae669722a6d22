/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO setup: x-colo-protect, x-colo-unprotect, query-colo-setup.
 *
 * Both sides, main loop, BQL.
 *
 * What a side of a pair needs is made by the commands that the manual shows,
 * called one after the other, and each is noted with how it is taken back
 * (steps.c).  If one fails all are taken back, so the VM is as it was.  What
 * does not end at once, a resync or the first migration, goes on behind the
 * command, and is taken back as well when it fails:
 *
 *    secondary  none -> waiting -> pair -> over
 *    primary    none -> resync -> connecting -> pair -> over
 *                        |           |          |        |
 *               none <---+-----------+-- ending +--------+
 *
 * pair and over follow from the session and are not kept here.  A phase is left
 * from a bottom half, as what tells of its end (a job, a notifier of the
 * migration) is in the middle of it.
 *
 * What cannot be taken away, a filter-rewriter whose connections still need it,
 * stays in a list, and the next attempt takes it over.
 */

#include "qemu/osdep.h"
#include "qemu/job.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-colo.h"
#include "qapi/qapi-commands-migration.h"
#include "qapi/qapi-events-colo.h"
#include "qapi/util.h"
#include "migration/colo.h"
#include "migration/migration.h"
#include "../session.h"
#include "../trace.h"
#include "disks.h"
#include "nics.h"
#include "setup.h"

static ColoSetup *setup;        /* NULL in phase none */
static ColoSteps left = QTAILQ_HEAD_INITIALIZER(left);  /* see above */
static char *message;           /* why the last attempt failed, or NULL */

static void set_phase(ColoSetup *s, ColoSetupPhase phase)
{
    trace_colo_setup_phase(ColoSetupPhase_str(s->phase),
                           ColoSetupPhase_str(phase));
    s->phase = phase;
    qapi_event_send_colo_setup(phase, phase == COLO_SETUP_PHASE_NONE ? message
                                                                     : NULL);
}

/* Has a session begun since this was set up? */
static bool has_begun(ColoSetup *s)
{
    ColoSession *session = colo_session();

    return session && (!s->had_session ||
                       !qemu_uuid_is_equal(&session->id, &s->session));
}

static COLOMode side_of(ColoSetup *s)
{
    return s->role == REPLICATION_MODE_PRIMARY ? COLO_MODE_PRIMARY
                                               : COLO_MODE_SECONDARY;
}

static ColoSetupPhase phase_now(void)
{
    if (!setup) {
        return COLO_SETUP_PHASE_NONE;
    }
    if (setup->phase == COLO_SETUP_PHASE_ENDING || !has_begun(setup)) {
        return setup->phase;
    }
    return colo_session_active(side_of(setup)) ? COLO_SETUP_PHASE_PAIR
                                               : COLO_SETUP_PHASE_OVER;
}

/* A step that is taken back may go round in the event loop */
static void stop_listening(ColoSetup *s)
{
    if (s->listens_to_migration) {
        migration_remove_notifier(&s->migration);
    }
    JOB_LOCK_GUARD();
    g_clear_pointer(&s->bh, qemu_bh_delete);
}

static void free_setup(ColoSetup *s)
{
    colo_setup_free_jobs(s);
    g_free(s->folder);
    g_free(s->host);
    g_free(s);
}

/*
 * Take away all of @s, which is freed.  False with @errp set if something has to
 * stay; it is in the list of what is left then.
 */
static bool take_away(ColoSetup *s, Error **errp)
{
    bool ok;

    stop_listening(s);
    ok = colo_steps_undo(&s->steps, errp);
    colo_steps_move(&left, &s->steps);
    free_setup(s);
    return ok;
}

static void set_message(const char *text)
{
    g_free(message);
    message = g_strdup(text);
}

/* The attempt has come to nothing, or was given up: @why, or NULL */
static void go_back(const char *why)
{
    ColoSetup *s = g_steal_pointer(&setup);
    ColoSetupPhase from = s->phase;
    g_autoptr(Error) err = NULL;

    set_message(why);
    if (!take_away(s, &err) && !why) {
        set_message(error_get_pretty(err));
    }
    trace_colo_setup_phase(ColoSetupPhase_str(from), "none");
    qapi_event_send_colo_setup(COLO_SETUP_PHASE_NONE, message);
}

/* The migration is over, or was never begun */
static void migration_ended(ColoSetup *s)
{
    MigrationState *ms = migrate_get_current();
    g_autofree char *why = NULL;

    if (s->phase == COLO_SETUP_PHASE_ENDING) {
        go_back(NULL);
        return;
    }
    if (has_begun(s)) {
        /* The operator decides what follows */
        return;
    }
    WITH_QEMU_LOCK_GUARD(&ms->error_mutex) {
        why = g_strdup(ms->error ? error_get_pretty(ms->error)
                                 : "the migration was cancelled");
    }
    go_back(why);
}

static int migration_event(NotifierWithReturn *notifier, MigrationEvent *e,
                           Error **errp)
{
    ColoSetup *s = container_of(notifier, ColoSetup, migration);

    if (e->type != MIG_EVENT_PRECOPY_SETUP) {
        qemu_bh_schedule(s->bh);
    }
    return 0;
}

/* Of the migration: what "tcp:" needs */
static char *uri_of(ColoSetup *s)
{
    return g_strdup_printf(strchr(s->host, ':') ? "tcp:[%s]:%u" : "tcp:%s:%u",
                           s->host, s->first_port + COLO_SETUP_PORT_MIGRATION);
}

static bool connect_sides(ColoSetup *s, Error **errp)
{
    ERRP_GUARD();
    g_autofree char *uri = uri_of(s);

    if (!colo_step_may_begin(errp)) {
        return false;
    }
    if (s->role == REPLICATION_MODE_SECONDARY) {
        qmp_migrate_incoming(uri, false, NULL, false, false, errp);
        s->phase = COLO_SETUP_PHASE_WAITING;
        return !*errp;
    }
    migration_add_notifier(&s->migration, migration_event);
    s->listens_to_migration = true;
    qmp_migrate(uri, false, NULL, false, false, false, false, errp);
    s->phase = COLO_SETUP_PHASE_CONNECTING;
    return !*errp;
}

static void resync_ended(ColoSetup *s)
{
    g_autoptr(Error) err = NULL;
    g_autofree char *why = NULL;
    unsigned jobs_left;

    WITH_JOB_LOCK_GUARD() {
        jobs_left = s->jobs_left;
        why = g_strdup(s->job_error);
    }
    if (why) {
        g_autofree char *text = g_strdup_printf(
            "the secondary's disks could not be brought up to date: %s", why);

        go_back(text);
    } else if (!jobs_left && connect_sides(s, &err)) {
        set_phase(s, COLO_SETUP_PHASE_CONNECTING);
    } else if (!jobs_left) {
        go_back(error_get_pretty(err));
    }
}

static void phase_ends(void *opaque)
{
    ColoSetup *s = opaque;

    if (s->phase == COLO_SETUP_PHASE_RESYNC) {
        resync_ended(s);
    } else if (!migration_is_running()) {
        migration_ended(s);
    }
}

static bool make_all(ColoSetup *s, const GPtrArray *nics,
                     const GPtrArray *disks, Error **errp)
{
    if (!colo_step_capability(&s->steps, errp) ||
        !colo_step_mode(&s->steps, s->mode, errp) ||
        !colo_setup_make_nics(s, nics, errp) ||
        !colo_setup_make_disks(s, disks, errp)) {
        return false;
    }
    if (s->jobs) {
        s->phase = COLO_SETUP_PHASE_RESYNC;
        return true;
    }
    return connect_sides(s, errp);
}

static ColoSetup *new_setup(ReplicationMode role, const char *host,
                            uint16_t port, ColoSyncMode mode)
{
    static unsigned attempts;
    ColoSession *session = colo_session();
    ColoSetup *s = g_new0(ColoSetup, 1);

    s->role = role;
    s->host = g_strdup(host);
    s->first_port = port;
    s->mode = mode;
    s->had_session = session;
    if (session) {
        s->session = session->id;
    }
    s->attempt = ++attempts;
    s->bh = qemu_bh_new(phase_ends, s);
    QTAILQ_INIT(&s->steps);
    return s;
}

bool colo_setup_has_made(ColoSetupStepKind kind, const char *name)
{
    ColoStep *step;

    QTAILQ_FOREACH(step, setup ? &setup->steps : &left, next) {
        if (step->kind == kind && (!name || g_str_equal(step->name, name))) {
            return true;
        }
    }
    return false;
}

static uint32_t last_port(uint16_t first, ColoSyncMode mode, unsigned nics)
{
    /* The one of disks is there without any, so all others stay where they are */
    return first + COLO_SETUP_PORT_NICS - 1 +
           (mode == COLO_SYNC_MODE_HYBRID ? 2 * nics : 0);
}

static void look_at_ports(ColoSetupSearch *search, uint16_t first,
                          uint32_t last)
{
    if (!first || last > UINT16_MAX) {
        colo_setup_find(search, COLO_SETUP_SUBJECT_ARGUMENT, "port",
                        g_strdup_printf("the ports would be %u to %u", first,
                                        last),
                        g_strdup_printf("take 'port' from 1 to %u",
                                        UINT16_MAX - (last - first)));
    }
}

static void look_at_resync(ColoSetupSearch *search, bool has_resync,
                           ColoResyncMode resync)
{
    if (has_resync && resync == COLO_RESYNC_MODE_BITMAP) {
        colo_setup_find(search, COLO_SETUP_SUBJECT_ARGUMENT, "resync",
                        g_strdup("there is no bitmap to resync by"),
                        g_strdup("take hash or full"));
    }
}

/* What is there of the last pair, and is in the way */
static void look_at_setup(ColoSetupSearch *search)
{
    ColoSetupPhase phase = phase_now();
    Error *err = NULL;

    if (phase != COLO_SETUP_PHASE_NONE && phase != COLO_SETUP_PHASE_OVER) {
        colo_setup_find(search, COLO_SETUP_SUBJECT_STATE, "",
                        g_strdup_printf("x-colo-protect was given already, its "
                                        "phase is %s",
                                        ColoSetupPhase_str(phase)),
                        g_strdup("give x-colo-unprotect first"));
    } else if (!colo_setup_disks_settled(&err)) {
        colo_setup_find(search, COLO_SETUP_SUBJECT_DISK, "",
                        g_strdup(error_get_pretty(err)),
                        g_strdup("try again when the stage of the disk is "
                                 "folded"));
        error_free(err);
    }
}

/* All in one: the first thing is what an error says */
static void refuse(const ColoSetupFindingList *found, Error **errp)
{
    const ColoSetupFinding *first = found->value;
    unsigned more = 0;

    for (const ColoSetupFindingList *l = found->next; l; l = l->next) {
        more++;
    }
    error_setg(errp, "%s: %s", first->message, first->cure);
    if (more) {
        error_append_hint(errp, "There is more (%u): check-only shows it\n",
                          more);
    }
}

ColoSetupFindingList *
qmp_x_colo_protect(ReplicationMode role, const char *host, bool has_port,
                   uint16_t port, bool has_mode, ColoSyncMode mode,
                   bool has_nics, strList *nics, bool has_disks,
                   strList *disks, const char *folder, bool has_resync,
                   ColoResyncMode resync, bool has_skip_resync,
                   bool skip_resync, bool has_check_only, bool check_only,
                   Error **errp)
{
    ColoSetupSearch search = { .role = role };
    g_autoptr(ColoSetupFindingList) found = NULL;
    g_autoptr(GPtrArray) netdevs = NULL;
    g_autoptr(GPtrArray) roots = NULL;
    uint32_t last;
    ColoSetup *s;

    search.tail = &search.found;
    port = has_port ? port : COLO_SETUP_PORT_DEFAULT;
    mode = has_mode ? mode : COLO_SYNC_MODE_HYBRID;
    look_at_setup(&search);
    colo_setup_look(&search);
    netdevs = colo_setup_nics(&search, has_nics, nics);
    roots = colo_setup_disks(&search, has_disks, disks, folder);
    look_at_resync(&search, has_resync, resync);
    last = last_port(port, mode, netdevs->len);
    look_at_ports(&search, port, last);
    found = search.found;
    if (check_only) {
        return g_steal_pointer(&found);
    }
    if (found) {
        refuse(found, errp);
        return NULL;
    }

    if (setup) {
        /* Of the last pair; what has to stay is the next one's */
        g_clear_pointer(&roots, g_ptr_array_unref);
        take_away(g_steal_pointer(&setup), NULL);
        roots = colo_setup_disks(&search, has_disks, disks, folder);
    }
    s = new_setup(role, host, port, mode);
    s->last_port = last;
    s->folder = g_strdup(folder);
    s->resyncs = role == REPLICATION_MODE_PRIMARY && !skip_resync;
    s->resync = has_resync ? resync : COLO_RESYNC_MODE_HASH;
    set_message(NULL);
    if (!make_all(s, netdevs, roots, errp)) {
        take_away(s, NULL);
        return NULL;
    }
    setup = s;
    set_phase(s, s->phase);
    return NULL;
}

static void refuse_unprotect(Error **errp, const char *state,
                             const char *cure)
{
    error_setg(errp, "%s: %s", state, cure);
}

/* Of a migration, or the session that it has led to; the rest follows */
static void cancel(ColoSetup *s, Error **errp)
{
    ERRP_GUARD();

    qmp_migrate_cancel(errp);
    if (!*errp) {
        set_message(NULL);
        set_phase(s, COLO_SETUP_PHASE_ENDING);
    }
}

static void end_pair(ColoSetup *s, Error **errp)
{
    if (s->role == REPLICATION_MODE_SECONDARY) {
        refuse_unprotect(errp, "this is the secondary of a COLO pair",
                         "give x-colo-unprotect to the primary, or let this "
                         "side go on by x-colo-lost-heartbeat first");
    } else if (!colo_lost_refused("x-colo-unprotect", errp)) {
        cancel(s, errp);
    }
}

static void end_after_pair(ColoSetup *s, Error **errp)
{
    if (!colo_command_refused("x-colo-unprotect", errp) &&
        colo_setup_disks_settled(errp)) {
        go_back(NULL);
    }
}

void qmp_x_colo_unprotect(Error **errp)
{
    switch (phase_now()) {
    case COLO_SETUP_PHASE_NONE:
        if (QTAILQ_EMPTY(&left)) {
            refuse_unprotect(errp, "x-colo-protect has made nothing here",
                             "there is nothing to take away");
        } else {
            set_message(NULL);
            colo_steps_undo(&left, errp);
        }
        break;
    case COLO_SETUP_PHASE_WAITING:
        refuse_unprotect(errp, "this secondary waits for its primary",
                         "end this QEMU, it has no guest yet");
        break;
    case COLO_SETUP_PHASE_RESYNC:
        go_back(NULL);
        break;
    case COLO_SETUP_PHASE_CONNECTING:
        cancel(setup, errp);
        break;
    case COLO_SETUP_PHASE_PAIR:
        end_pair(setup, errp);
        break;
    case COLO_SETUP_PHASE_ENDING:
        refuse_unprotect(errp, "the pair is being ended",
                         "query-colo-setup says when that is done");
        break;
    case COLO_SETUP_PHASE_OVER:
        end_after_pair(setup, errp);
        break;
    default:
        g_assert_not_reached();
    }
}

ColoSetupInfo *qmp_query_colo_setup(Error **errp)
{
    ColoSetupInfo *info = g_new0(ColoSetupInfo, 1);

    info->phase = phase_now();
    info->message = g_strdup(message);
    info->made = colo_steps_query(setup ? &setup->steps : &left);
    if (setup) {
        info->has_role = true;
        info->role = setup->role;
        info->host = g_strdup(setup->host);
        info->has_first_port = true;
        info->first_port = setup->first_port;
        info->has_last_port = true;
        info->last_port = setup->last_port;
    }
    return info;
}
