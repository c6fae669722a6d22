/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: for tests of arbiters and fences.
 */

#ifndef TESTS_UNIT_COLO_ARBITER_UTIL_H
#define TESTS_UNIT_COLO_ARBITER_UTIL_H

#include "migration/colo/arbiter.h"

/* What colo_session_active() says, of both sides */
extern bool util_session_runs;

/* The question of @side about session @n, of generation @n, at epoch 7 */
ColoQuestion util_question(unsigned n, COLOMode side);

/* A folder for files, with "/" at its end; removed by util_exit() */
const char *util_folder(void);
char *util_path(const char *name);
void util_exit(void);

/* QOM, before all else */
void util_init(void);

/*
 * util_add: make an object 'obj0' with properties by name and value, up to a
 * NULL, as object-add does
 * util_not_added: it has to fail with a message that contains @text
 * util_del: remove the object 'obj0'; false if that is refused
 */
void util_add(const char *type, ...) G_GNUC_NULL_TERMINATED;
void util_not_added(const char *text, const char *type,
                    ...) G_GNUC_NULL_TERMINATED;
bool util_del(void);

/* colo_arbiter_decide() has to say @verdict, and if not known why: @text */
void util_decide(const ColoQuestion *q, ColoVerdict verdict, const char *text);

/* colo_arbiter_begin(), or _check(), has to succeed, or to fail with @text */
void util_begin(const ColoQuestion *q, const char *text);
void util_check(const ColoQuestion *q, const char *text);

/* Wait until @condition, a deadline apart */
#define util_wait(condition) \
    do { \
        gint64 util_end = g_get_monotonic_time() + 30 * G_USEC_PER_SEC; \
        while (!(condition)) { \
            g_assert_cmpint(g_get_monotonic_time(), <, util_end); \
            g_usleep(1000); \
        } \
    } while (0)

#endif
