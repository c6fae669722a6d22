/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: questions to the arbiter and the fence.
 *
 * Both sides.  Theory of operation
 *
 * A file on storage that is gone, or a program that is, may hang for ever, and
 * in the kernel.  So each question gets a thread, and whoever asks waits for
 * that: until there is an answer, the time is over, or somebody cancels.  A
 * thread that is not waited for any more is told so (colo_ask_wait(),
 * colo_ask_fd()) and should give up; what hangs cannot, and goes on some day.
 * It keeps what it needs, and its answer is dropped.
 *
 * That is no harm.  An answer is a fact that others keep, and the same question
 * has the same answer again: if a thread that nobody waits for makes this side
 * the winner, asking again says so.
 *
 * An object answers one question at a time.  Who asks while an earlier thread
 * hangs waits for that first, so what it does late does not come between.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "qemu/event_notifier.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "qom/object_interfaces.h"
#include "decider.h"
#include "session.h"
#include "trace.h"

/* In which the thread may say itself that the time is over, and over what */
#define GRACE_MS        200

#define TIMEOUT_MIN_MS  100
#define TIMEOUT_MAX_MS  3600000

struct ColoAsk {
    /* Set once */
    ColoDecider *decider;       /* a reference */
    ColoRequest request;
    ColoQuestion question;
    int64_t deadline_ns;
    EventNotifier given_up_event;

    /* lock */
    bool given_up;              /* nobody waits; atomic for reading */
    bool done;
    ColoVerdict verdict;
    Error *err;
};

static QemuMutex lock;
static QemuCond changed;                        /* an answer, or a cancel */

/* lock; those that are there are for BQL, too */
static ColoDecider *the[COLO_DECIDER__MAX];
static unsigned asking;                         /* threads that ask */
static bool armed;
static bool cancelled;

static void __attribute__((constructor)) decider_init_lock(void)
{
    qemu_mutex_init(&lock);
    qemu_cond_init(&changed);
}

const char *colo_request_str(ColoRequest request)
{
    static const char *const names[] = {
        [COLO_REQUEST_BEGIN] = "begin",
        [COLO_REQUEST_CHECK] = "check",
        [COLO_REQUEST_DECIDE] = "decide",
        [COLO_REQUEST_FENCE] = "fence",
    };

    return names[request];
}

ColoRequest colo_ask_request(const ColoAsk *ask)
{
    return ask->request;
}

const ColoQuestion *colo_ask_question(const ColoAsk *ask)
{
    return &ask->question;
}

static int left_ms(int64_t deadline_ns)
{
    int64_t left = deadline_ns - get_clock();

    return left <= 0 ? 0 : DIV_ROUND_UP(left, SCALE_MS);
}

int colo_ask_left_ms(const ColoAsk *ask)
{
    return left_ms(ask->deadline_ns);
}

int colo_ask_fd(ColoAsk *ask)
{
    return event_notifier_get_fd(&ask->given_up_event);
}

bool colo_ask_wait(ColoAsk *ask, int ms)
{
    struct pollfd fd = { .fd = colo_ask_fd(ask), .events = POLLIN };

    ms = MIN(ms, colo_ask_left_ms(ask));
    if (ms) {
        RETRY_ON_EINTR(poll(&fd, 1, ms));
    }
    return !qatomic_read(&ask->given_up) && colo_ask_left_ms(ask);
}

/* lock */
static ColoAsk *ask_new(ColoDecider *d, ColoRequest request,
                        const ColoQuestion *q, int64_t deadline_ns,
                        Error **errp)
{
    ColoAsk *ask = g_new0(ColoAsk, 1);
    int ret = event_notifier_init(&ask->given_up_event, false);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "no question can be asked");
        g_free(ask);
        return NULL;
    }
    ask->decider = d;
    object_ref(OBJECT(d));
    ask->request = request;
    ask->question = *q;
    ask->deadline_ns = deadline_ns;
    return ask;
}

/* Both who asks and who answers are through with it.  No lock. */
static void ask_free(ColoAsk *ask)
{
    event_notifier_cleanup(&ask->given_up_event);
    error_free(ask->err);
    object_unref(OBJECT(ask->decider));
    g_free(ask);
}

static void *answer_thread(void *opaque)
{
    ColoAsk *ask = opaque;
    ColoDecider *d = ask->decider;
    Error *err = NULL;
    ColoVerdict verdict = COLO_DECIDER_GET_CLASS(d)->answer(d, ask, &err);
    bool given_up = false;

    WITH_QEMU_LOCK_GUARD(&lock) {
        ask->verdict = verdict;
        ask->err = err;
        ask->done = true;
        d->ask = NULL;
        given_up = ask->given_up;
        qemu_cond_broadcast(&changed);
    }
    if (given_up) {
        ask_free(ask);
    }
    return NULL;
}

/* Wait for a change.  False when there was a cancel, or time is over.  lock. */
static bool await_change(int64_t deadline_ns)
{
    int ms = left_ms(deadline_ns);

    if (cancelled || !ms) {
        return false;
    }
    qemu_cond_timedwait(&changed, &lock, ms);
    return true;
}

/* Why there is no answer.  lock. */
static void say_why(const ColoDecider *d, const char *what, Error **errp)
{
    if (cancelled) {
        error_setg(errp, "the question was cancelled");
    } else {
        error_setg(errp, "%s within %" PRIu32 " ms", what, d->timeout_ms);
    }
}

/*
 * lock.  *@ask is the question, which the caller frees, or NULL if there is no
 * answer yet.
 */
static ColoVerdict ask_locked(ColoDecider *d, ColoRequest request,
                              const ColoQuestion *q, ColoAsk **ask,
                              Error **errp)
{
    int64_t deadline_ns = get_clock() + d->timeout_ms * (int64_t)SCALE_MS;
    QemuThread thread;
    ColoAsk *a;

    while (d->ask && await_change(deadline_ns)) {
        /* What an earlier one does must not come between */
    }
    if (d->ask || cancelled) {
        say_why(d, "an earlier question has not come back", errp);
        return COLO_VERDICT_NOT_KNOWN;
    }
    a = ask_new(d, request, q, deadline_ns, errp);
    if (!a) {
        return COLO_VERDICT_NOT_KNOWN;
    }
    d->ask = a;
    qemu_thread_create(&thread, "colo/ask", answer_thread, a,
                       QEMU_THREAD_DETACHED);
    while (!a->done && await_change(deadline_ns + GRACE_MS * SCALE_MS)) {
        /* The answer is on its way */
    }
    if (!a->done) {
        qatomic_set(&a->given_up, true);
        event_notifier_set(&a->given_up_event);
        say_why(d, "no answer", errp);
        return COLO_VERDICT_NOT_KNOWN;
    }
    *ask = a;
    error_propagate(errp, g_steal_pointer(&a->err));
    return a->verdict;
}

/* What colo_decider_status() tells.  lock. */
static void note_answer(ColoDecider *d, ColoRequest request,
                        ColoVerdict verdict, const Error *err)
{
    d->asked++;
    if (request == COLO_REQUEST_DECIDE || request == COLO_REQUEST_FENCE) {
        d->has_verdict = true;
        d->verdict = verdict;
    }
    g_free(d->error);
    d->error = err ? g_strdup(error_get_pretty(err)) : NULL;
}

ColoVerdict colo_decider_ask(ColoDeciderKind kind, ColoRequest request,
                             const ColoQuestion *q, bool *was_cancelled,
                             Error **errp)
{
    ERRP_GUARD();
    g_autofree char *session = qemu_uuid_unparse_strdup(&q->session);
    ColoDecider *d = colo_decider_get(kind);
    ColoVerdict verdict = COLO_VERDICT_NOT_KNOWN;
    ColoAsk *ask = NULL;

    if (was_cancelled) {
        *was_cancelled = false;
    }
    if (!d) {
        error_setg(errp, "there is nobody to ask");
        return COLO_VERDICT_NOT_KNOWN;
    }
    WITH_QEMU_LOCK_GUARD(&lock) {
        trace_colo_ask(d->id, colo_request_str(request), session,
                       COLOMode_str(q->side), q->epoch);
        asking++;
        verdict = ask_locked(d, request, q, &ask, errp);
        if (was_cancelled) {
            *was_cancelled = cancelled;
        }
        if (!--asking) {
            armed = false;
            cancelled = false;
        }
        note_answer(d, request, verdict, *errp);
        trace_colo_answer(d->id, colo_request_str(request),
                          ColoVerdict_str(verdict),
                          *errp ? error_get_pretty(*errp) : "");
    }
    if (*errp) {
        error_prepend(errp, "%s '%s': ", COLO_DECIDER_GET_CLASS(d)->name,
                      d->id);
    }
    if (ask) {
        ask_free(ask);
    }
    object_unref(OBJECT(d));
    return verdict;
}

void colo_decider_arm(void)
{
    QEMU_LOCK_GUARD(&lock);

    if (!asking) {
        armed = true;
        cancelled = false;
    }
}

void colo_decider_cancel(void)
{
    QEMU_LOCK_GUARD(&lock);

    if (armed || asking) {
        cancelled = true;
        qemu_cond_broadcast(&changed);
    }
}

bool colo_decider_exists(ColoDeciderKind kind)
{
    QEMU_LOCK_GUARD(&lock);

    return the[kind];
}

ColoDecider *colo_decider_get(ColoDeciderKind kind)
{
    QEMU_LOCK_GUARD(&lock);

    if (the[kind]) {
        object_ref(OBJECT(the[kind]));
    }
    return the[kind];
}

ColoArbiterStatus *colo_decider_status(ColoDeciderKind kind)
{
    QEMU_LOCK_GUARD(&lock);
    ColoDecider *d = the[kind];
    ColoArbiterStatus *st;

    if (!d) {
        return NULL;
    }
    st = g_new0(ColoArbiterStatus, 1);
    st->id = g_strdup(d->id);
    st->type = g_strdup(object_get_typename(OBJECT(d)));
    st->asked = d->asked;
    st->has_verdict = d->has_verdict;
    st->verdict = d->verdict;
    st->error = g_strdup(d->error);
    return st;
}

/* True while a session runs here, of either side.  BQL. */
static bool session_runs(void)
{
    return colo_session_active(COLO_MODE_PRIMARY) ||
           colo_session_active(COLO_MODE_SECONDARY);
}

static void decider_complete(UserCreatable *uc, Error **errp)
{
    ColoDecider *d = COLO_DECIDER(uc);
    ColoDeciderClass *dc = COLO_DECIDER_GET_CLASS(d);

    if (session_runs()) {
        error_setg(errp, "no %s can be added while a COLO session runs, which "
                   "would not know of it", dc->name);
        return;
    }
    if (dc->check && !dc->check(d, errp)) {
        return;
    }

    QEMU_LOCK_GUARD(&lock);
    if (the[dc->kind]) {
        error_setg(errp, "there is one %s already, '%s'", dc->name,
                   the[dc->kind]->id);
        return;
    }
    d->id = g_strdup(object_get_canonical_path_component(OBJECT(d)));
    the[dc->kind] = d;
}

static bool decider_can_be_deleted(UserCreatable *uc)
{
    ColoDecider *d = COLO_DECIDER(uc);

    if (session_runs()) {
        return false;
    }

    QEMU_LOCK_GUARD(&lock);
    return !asking && !d->ask;
}

static void decider_get_timeout(Object *obj, Visitor *v, const char *name,
                                void *opaque, Error **errp)
{
    visit_type_uint32(v, name, &COLO_DECIDER(obj)->timeout_ms, errp);
}

static void decider_set_timeout(Object *obj, Visitor *v, const char *name,
                                void *opaque, Error **errp)
{
    ColoDecider *d = COLO_DECIDER(obj);
    uint32_t value;

    if (!visit_type_uint32(v, name, &value, errp)) {
        return;
    }
    if (d->id) {
        error_setg(errp, "Parameter '%s' cannot be changed any more", name);
        return;
    }
    if (value < TIMEOUT_MIN_MS || value > TIMEOUT_MAX_MS) {
        error_setg(errp, "Parameter '%s' is %" PRIu32 ", it has to be between "
                   "%d and %d", name, value, TIMEOUT_MIN_MS, TIMEOUT_MAX_MS);
        return;
    }
    d->timeout_ms = value;
}

static void decider_get_asked(Object *obj, Visitor *v, const char *name,
                              void *opaque, Error **errp)
{
    uint64_t value;

    WITH_QEMU_LOCK_GUARD(&lock) {
        value = COLO_DECIDER(obj)->asked;
    }
    visit_type_uint64(v, name, &value, errp);
}

static char *decider_get_verdict(Object *obj, Error **errp)
{
    QEMU_LOCK_GUARD(&lock);
    ColoDecider *d = COLO_DECIDER(obj);

    return g_strdup(d->has_verdict ? ColoVerdict_str(d->verdict) : "");
}

static char *decider_get_error(Object *obj, Error **errp)
{
    QEMU_LOCK_GUARD(&lock);
    ColoDecider *d = COLO_DECIDER(obj);

    return g_strdup(d->error ?: "");
}

static void decider_init(Object *obj)
{
    ColoDecider *d = COLO_DECIDER(obj);

    d->timeout_ms = COLO_DECIDER_GET_CLASS(d)->default_timeout_ms;
}

/*
 * The object is removed, or QEMU exits.  A thread may have a reference still,
 * and must not keep the next object from being made.  BQL.
 */
static void decider_unparent(Object *obj)
{
    ColoDecider *d = COLO_DECIDER(obj);
    ColoDeciderKind kind = COLO_DECIDER_GET_CLASS(d)->kind;

    QEMU_LOCK_GUARD(&lock);
    if (the[kind] == d) {
        the[kind] = NULL;
    }
}

/* Whoever asks or answers has a reference, so nobody does.  Any thread. */
static void decider_finalize(Object *obj)
{
    ColoDecider *d = COLO_DECIDER(obj);

    g_free(d->id);
    g_free(d->error);
}

static void decider_class_init(ObjectClass *oc, void *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    oc->unparent = decider_unparent;
    ucc->complete = decider_complete;
    ucc->can_be_deleted = decider_can_be_deleted;
    object_class_property_add(oc, "timeout", "uint32", decider_get_timeout,
                              decider_set_timeout, NULL, NULL);
    object_class_property_add(oc, "asked", "uint64", decider_get_asked, NULL,
                              NULL, NULL);
    object_class_property_add_str(oc, "verdict", decider_get_verdict, NULL);
    object_class_property_add_str(oc, "error", decider_get_error, NULL);
}

static const TypeInfo decider_info = {
    .name = TYPE_COLO_DECIDER,
    .parent = TYPE_OBJECT,
    .abstract = true,
    .class_size = sizeof(ColoDeciderClass),
    .class_init = decider_class_init,
    .instance_size = sizeof(ColoDecider),
    .instance_init = decider_init,
    .instance_finalize = decider_finalize,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_USER_CREATABLE },
        { }
    },
};

static void decider_register_types(void)
{
    type_register_static(&decider_info);
}

type_init(decider_register_types);
