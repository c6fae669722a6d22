/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO setup: one command makes a side of a pair.  Not for other folders.
 *
 * Main loop, BQL.
 */

#ifndef QEMU_MIGRATION_COLO_SETUP_H
#define QEMU_MIGRATION_COLO_SETUP_H

#include "qapi/qapi-types-colo.h"
#include "migration/misc.h"
#include "qemu/uuid.h"
#include "steps.h"

/* The secondary's ports, from the first one on */
#define COLO_SETUP_PORT_MIGRATION 0
#define COLO_SETUP_PORT_DISKS 1
#define COLO_SETUP_PORT_NICS 2

#define COLO_SETUP_PORT_DEFAULT 9998

/* What was asked for, and what has been made of it */
typedef struct ColoSetup {
    /* Set once */
    ReplicationMode role;
    char *host;
    uint16_t first_port, last_port;
    ColoSyncMode mode;
    bool had_session;           /* the one before, of that ID */
    QemuUUID session;
    unsigned attempt;           /* number of this one in this QEMU */
    char *folder;               /* secondary: for overlays; or NULL */
    bool resyncs;               /* primary: before the migration... */
    ColoResyncMode resync;      /* ...like this */

    ColoSetupPhase phase;       /* pair and over are found out when asked */
    ColoSteps steps;
    NotifierWithReturn migration;
    bool listens_to_migration;
    QEMUBH *bh;                 /* the phase may have come to its end; NULL:
                                 * that is of no interest any more */
    GSList *jobs;               /* ColoSetupJob, see disks.c */

    /* Lock of jobs */
    unsigned jobs_left;         /* that have not ended */
    char *job_error;            /* of one that has failed, or NULL */
} ColoSetup;

/* A look for what keeps a side from being set up */
typedef struct ColoSetupSearch {
    ReplicationMode role;
    ColoSetupFindingList *found, **tail;
} ColoSetupSearch;

/* Add one; @message and @cure are taken over */
void colo_setup_find(ColoSetupSearch *search, ColoSetupSubject subject,
                     const char *name, char *message, char *cure);

/*
 * colo_setup_has_made: is there something of that name, or of any (NULL), that
 * was made here, for a pair that is over?  It will be taken away before anything
 * is made.
 */
bool colo_setup_has_made(ColoSetupStepKind kind, const char *name);

/* colo_setup_look: what this QEMU is, and does, see checks.c */
void colo_setup_look(ColoSetupSearch *search);

#endif
