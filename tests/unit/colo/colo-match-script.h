/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Scripts that test the rules by which output of the primary may leave.
 *
 * Each is a script: what comes, and after '>' all that happens because of
 * it, in order.  A script proves that what is written there happens, and that
 * nothing else does.
 *
 *   P n, S n, C n    cut record of the primary, of the secondary; commit
 *   A, O, L, B       arm, open, the secondary is lost, it is back
 *   T ms             time goes on, and the engine is told
 *   t ms             time goes on
 *   p ..., s ...     packets of the primary, of the secondary
 *   [, ]             all in between was read at once
 *   full, room       the engine has to say that it is full, or not
 *
 * A packet is one of
 *
 *   [SFRUPN]seq+len[aACK][wWINDOW][vTSVAL][oOPTION][xOFFSET][@FLOW]
 *                    TCP; flags first.  ACK is set if there is an a, or with N
 *                    (no flag else) not.  The payload depends on the sequence
 *                    number; x changes the byte at the offset.
 *   dID[@FLOW]       UDP with a payload of ID
 *   fID.I/N[@FLOW]   fragment I of N of such a datagram
 *   iID              IGMP
 *   rID              unknown EtherType
 *
 * From @20000 on flows are to the same server, each from the port @FLOW.
 *
 * What happens is written alike; !M, !T, !R are calls for a checkpoint:
 * mismatch, timeout, room.  -M, -T, -R withdraw them.
 */

#ifndef TESTS_UNIT_COLO_MATCH_SCRIPT_H
#define TESTS_UNIT_COLO_MATCH_SCRIPT_H

#include "net/colo/match.h"

#define BEGIN   "A\nP 0\nS 0\n"

/* A connection in its middle: 1000 is said next, all up to 50 acknowledged */
#define MIDDLE  BEGIN "p 999+1a50\ns 999+1a50 > 999+1a50\n"

/* Payload of the datagrams, bytes */
#define DATAGRAM_LEN    240

typedef struct Bench {
    ColoMatch *m;
    GString *events;
    int64_t now_ms;
} Bench;

typedef struct Script {
    const char *name;
    const ColoMatchConfig *config;      /* NULL: bench_default_config */
    const char *lines;
} Script;

extern const ColoMatchConfig bench_default_config;

void bench_init(Bench *b, const ColoMatchConfig *config);
void bench_cleanup(Bench *b);

/* One line: a command and what has to happen */
void bench_line(Bench *b, const char *script, unsigned line,
                const char *text);

/* A test function: @opaque is a Script */
void bench_run_script(const void *opaque);

/* Tests of @scripts, which stay, by their names */
void bench_add_scripts(const Script *scripts, size_t count);

#endif
