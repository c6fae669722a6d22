/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * colo-compare in a QEMU without a guest, and the test at its four sockets.
 *
 *   primary_in, secondary_in -->  colo-compare (iothread) --> outdev
 *                                       ^ |
 *                                   notify_dev
 *
 * Without a session it passes on what the primary says.  A session of Xen's
 * begins and goes on by messages of the test through notify_dev.
 */

#ifndef TESTS_QTEST_COLO_COMPARE_RIG_H
#define TESTS_QTEST_COLO_COMPARE_RIG_H

#include "qobject/qdict.h"
#include "colo-packet-maker.h"
#include "libqtest.h"

#define DEADLINE_MS     60000
#define TIMEOUT_MS      300         /* of the object, where it matters */
#define NEVER_MS        3600000
#define PATH            "/objects/comp0"

#define XEN_INIT        "COLO_USERSPACE_PROXY_INIT"
#define XEN_CHECKPOINT  "COLO_CHECKPOINT"
#define XEN_REQUEST     "DO_CHECKPOINT"

#define CUT_RECORD      0x80000001U

typedef enum Port {
    PRIMARY,
    SECONDARY,
    OUT,
    NOTIFY,
    PORTS,
} Port;

/* Their names, which are those of the sockets as well */
extern const char *const chardevs[PORTS];

typedef struct Rig {
    QTestState *qts;
    char *dir;
    bool vnet;
    bool clients;               /* QEMU connects, not the test */
    int timeout_ms;
    int listeners[PORTS];
    int fds[PORTS];
    uint32_t probes;
} Rig;

#define OBJECT_ADD(options) \
    "{'execute': 'object-add', 'arguments': {" \
    "'qom-type': 'colo-compare', 'id': 'comp0', " options "}}"
#define FOUR "'primary_in': 'pri', 'secondary_in': 'sec', 'outdev': 'out', " \
             "'iothread': 'iot0'"

/* QEMU */

/* A rig without QEMU, QEMU with four chardevs, object and connections */
Rig *rig_new(bool vnet, bool clients);
void rig_boot(Rig *r, const char *more);
void rig_set_up(Rig *r);

/* All three */
Rig *rig_start(bool vnet);
void rig_end(Rig *r);

/* The object, as the rig says; another object or it */
void add(Rig *r);
void del(Rig *r, const char *id);

void still_there(Rig *r);
void refused(QDict *response, const char *text);

/* Sockets: all waits end in time */

void plug(Rig *r, Port port);
void plug_all(Rig *r);
void unplug(Rig *r, Port port);
void unplug_all(Rig *r);

/* A new connection, after QEMU has seen the end of the old one */
void replug(Rig *r, Port port);

void get_bytes(int fd, void *buf, size_t len);
void put_bytes(int fd, const void *buf, size_t len);

/* As much as is taken now */
void put_some(int fd, const GByteArray *stream);

void assert_silent(int fd);

/* Records */

void append_word(GByteArray *stream, uint32_t word);
void append_packet(const Rig *r, GByteArray *stream, const uint8_t *data,
                   uint32_t size, uint32_t vnet_len);

/* A packet that no other @seed or @size gives; it is no IP */
void append_bytes(const Rig *r, GByteArray *stream, uint32_t size,
                  uint32_t seed);

/* One of BAD_STREAMS streams that are none */
#define BAD_STREAMS 6
void append_bad(const Rig *r, GByteArray *stream, int which);

void put(Rig *r, Port port, const GByteArray *stream);
void get_equal(Rig *r, const GByteArray *expected);

/* It leaves as it came */
void pass(Rig *r, const GByteArray *stream);

/* Without a session: everything that was said before has come or never will */
void probe(Rig *r);

/* Packets: a record each, which the caller unrefs */

GByteArray *made(const Rig *r, Make m);
GByteArray *udp(const Rig *r, uint8_t seed);

/* The payload goes with @seq, so that segments of one stream fit together */
GByteArray *tcp(const Rig *r, uint32_t seq, unsigned len, uint8_t seed);

/* What Xen's toolstack says and hears */

void tell(Rig *r, const char *message);
char *hear_any(Rig *r);
void hear(Rig *r, const char *message);

/* A session begins.  What was asked for in an earlier one is void. */
void begin(Rig *r);

/* A rig with a session */
Rig *xen_start(bool vnet, int timeout_ms);

/* Register @func as NAME/plain and NAME/vnet */
void add_both(const char *name, void (*func)(const void *));

#endif
