/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the list of those who take part in checkpoints (ColoParticipant).
 *
 * Both sides, BQL.
 */

#include "qemu/osdep.h"
#include "participants.h"
#include "session.h"

static QTAILQ_HEAD(, ColoParticipant) participants =
    QTAILQ_HEAD_INITIALIZER(participants);

void colo_participant_register(ColoParticipant *p)
{
    ColoSession *s = colo_session();

    QTAILQ_INSERT_TAIL(&participants, p, next);
    if (colo_session_active(COLO_MODE_PRIMARY) &&
        s->primary.state != COLO_PRIMARY_STATE_ALONE) {
        if (p->prepare) {
            p->prepare(p);
        }
        if (p->arm) {
            p->arm(p, s->epoch);
        }
    }
    if (colo_session_active(COLO_MODE_SECONDARY)) {
        if (p->stand) {
            p->stand(p, true);
        }
        if (p->load && s->mode == COLO_SYNC_MODE_HYBRID &&
            s->was_ready) {
            p->load(p, s->epoch);
        }
    }
}

void colo_participant_unregister(ColoParticipant *p)
{
    QTAILQ_REMOVE(&participants, p, next);
}

void colo_participants_arm(uint64_t epoch)
{
    ColoParticipant *p;

    QTAILQ_FOREACH(p, &participants, next) {
        if (p->prepare) {
            p->prepare(p);
        }
    }
    QTAILQ_FOREACH(p, &participants, next) {
        if (p->arm) {
            p->arm(p, epoch);
        }
    }
}

void colo_participants_cut(uint64_t epoch)
{
    ColoParticipant *p;

    QTAILQ_FOREACH(p, &participants, next) {
        if (p->cut) {
            p->cut(p, epoch);
        }
    }
}

void colo_participants_commit(uint64_t cut)
{
    ColoParticipant *p;

    QTAILQ_FOREACH(p, &participants, next) {
        if (p->commit) {
            p->commit(p, cut);
        }
    }
}

void colo_participants_load(uint64_t epoch)
{
    ColoParticipant *p;

    QTAILQ_FOREACH(p, &participants, next) {
        if (p->load) {
            p->load(p, epoch);
        }
    }
}

void colo_participants_open(void)
{
    ColoParticipant *p;

    QTAILQ_FOREACH(p, &participants, next) {
        if (p->open) {
            p->open(p);
        }
    }
}

void colo_participants_stand(bool standby)
{
    ColoParticipant *p;

    QTAILQ_FOREACH(p, &participants, next) {
        if (p->stand) {
            p->stand(p, standby);
        }
    }
}

bool colo_participants_exist(void)
{
    return !QTAILQ_EMPTY(&participants);
}

bool colo_participants_drained(void)
{
    bool drained = true;
    ColoParticipant *p;

    QTAILQ_FOREACH(p, &participants, next) {
        drained &= !p->drained || p->drained(p);
    }
    return drained;
}
