/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the parts of the guest's program share (see colo-guest.c).
 */
#ifndef COLO_GUEST_H
#define COLO_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TICK_NS             5000000LL

/* What to do wrong once on each connection, after a while */
typedef enum Fault {
    FAULT_NONE,
    FAULT_LOSE,     /* a line or some bytes are left out */
    FAULT_REPEAT,   /* a line, some bytes or an answer come twice */
    FAULT_CHANGE,   /* a byte is another; a line follows another line */
    FAULT_REPLAY,   /* a datagram is answered and not counted */
    FAULT_FORK,     /* a datagram is said to follow another one */
} Fault;

extern Fault fault;

#define FAULT_TICK          20      /* the line, request or datagram */

/* Thread-safe */
int64_t now_ns(void);
void sleep_until(int64_t ns);
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A line to or from a connection; false if it has ended */
bool send_line(int fd, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Without its end; false if it is too long, too */
bool recv_line(int fd, char *line, size_t size);

/* Process 1 (colo-guest-init.c) */

/* Insert the modules that /lib/modules/@set lists; false if one failed */
bool load_modules(const char *set);

/* Mount, load modules, set addresses: before any thread is there */
void set_up_guest(void);

/* Datagrams (colo-guest-datagram.c): a thread each */

bool start_udp(void);

/*
 * Answer ICMPv6 echo requests in place of the kernel, to do it badly.  Without
 * a fault, or without the right to it, the kernel is left to it.
 */
bool start_ping6(void);

/* Disks (colo-guest-disk.c): a service and a command */
void serve_disk(int fd);
void control_verify(int fd, const char *args);

/* A load on a disk (colo-guest-diskload.c): a command */
void control_diskload(int fd, const char *args);

/* Last words (colo-guest-last.c): a service and a command */
void serve_last(int fd);
void control_last(int fd, const char *args);

/* Questions of the guest (colo-guest-ask.c): a command */
void control_ask(int fd, const char *args);

/* Parts of a real machine (colo-guest-parts.c): a command */
void control_parts(int fd, const char *args);

/* Calls of the guest (colo-guest-call.c): a service */
void serve_call(int fd);

#endif /* COLO_GUEST_H */
