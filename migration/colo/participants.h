/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: calling those who take part in checkpoints (ColoParticipant).  Not for
 * base code.
 */

#ifndef QEMU_MIGRATION_COLO_PARTICIPANTS_H
#define QEMU_MIGRATION_COLO_PARTICIPANTS_H

/* Call the participants, in the order they came.  BQL. */
void colo_participants_arm(uint64_t epoch);
void colo_participants_cut(uint64_t epoch);
void colo_participants_commit(uint64_t cut);
void colo_participants_load(uint64_t epoch);
void colo_participants_open(void);
void colo_participants_stand(bool standby);

/*
 * colo_participants_exist: true if there is any
 * colo_participants_drained: true if none has anything left to let out
 *
 * BQL.
 */
bool colo_participants_exist(void);
bool colo_participants_drained(void);

#endif
