/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: files that lose what was not flushed when the power is cut.
 *
 * QEMU's driver blklogwrites keeps a log of what is written to a file and of
 * the flushes.  So what the file may be after a power cut can be made of what
 * it was before and of that log.
 */

#ifndef TESTS_QTEST_COLO_POWER_RIG_H
#define TESTS_QTEST_COLO_POWER_RIG_H

#include "qemu/osdep.h"

typedef struct PowerFile {
    char *path;
    char *node;                 /* the node to put in the place of a file */
    char *log;
    char *cut;                  /* what power_cut() makes */
    char *was;                  /* what was in it before */
    gsize length;
} PowerFile;

typedef enum PowerLoss {
    POWER_LOSS_ALL,             /* all that was not flushed */
    POWER_LOSS_SOME,            /* sectors of it, at random */
    POWER_LOSS__MAX,
} PowerLoss;

/* The file at @path, which it takes and frees */
PowerFile *power_file_new(char *path, const char *node);
/* Remove all */
void power_file_free(PowerFile *f);

/* The option -blockdev that makes the node; the caller frees it */
char *power_file_option(PowerFile *f);

/* QEMU has been killed: write what is left to the file @cut */
void power_cut(PowerFile *f, PowerLoss loss);

#endif
