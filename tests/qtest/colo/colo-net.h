/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a network of sockets, and the streams of the filters.
 *
 * Two netdevs are linked by a hub.  The filters are on n0, whose socket stands
 * for the network; that of n1 for the guest.
 */

#ifndef TESTS_QTEST_COLO_NET_H
#define TESTS_QTEST_COLO_NET_H

#include "colo-helpers.h"

/* The first words of records; the largest packet */
#define CUT             0x80000001U
#define BEGIN           0x80000002U
#define HELLO           0x80000003U
#define MAX_FRAME       (4096 + 65536)

#define wait_for(condition) do {                                            \
        int64_t end = g_get_monotonic_time() + COLO_DEADLINE_MS * 1000LL;   \
        while (!(condition)) {                                              \
            if (g_get_monotonic_time() > end) {                             \
                g_error("late: " #condition);                               \
            }                                                               \
            g_usleep(1000);                                                 \
        }                                                                   \
    } while (0)

typedef struct Net {
    QTestState *qts;
    char *dir;
    int net;                    /* the other end of n0 */
    int guest;                  /* the other end of n1 */
} Net;

/* Sockets: every read and write ends in time */

void set_deadline(int fd);

/* Two ends: this one is returned, the other for QEMU */
int socket_pair(int *other);

void write_all(int fd, const void *data, size_t size);
void read_all(int fd, void *data, size_t size);
void write_word(int fd, uint32_t word);
uint32_t read_word(int fd);

void write_packet(int fd, const void *data, size_t size);
void write_str(int fd, const char *text);
void write_cut(int fd, uint64_t epoch);

/* One packet; the caller frees it.  A NUL is put behind it. */
char *read_packet(int fd, uint32_t *size);

void expect_str(int fd, const char *text);
/* Passes over a hello record before it */
void expect_cut(int fd, uint64_t epoch);
/* The record of a SYN of @size bytes without a vnet header; 0: that they come */
void expect_begin(int fd, const void *data, size_t size);
bool nothing_to_read(int fd);

/* QEMU */

uint64_t counter(QTestState *qts, const char *id, const char *name);
void set_status(QTestState *qts, const char *id, const char *status);
void del_object(QTestState *qts, const char *id);

/* Open: connected, and QEMU knows it */
void add_chardev(Net *n, const char *id);
int open_chardev(Net *n, const char *id);
void close_chardev(Net *n, const char *id, int fd);

/* On a QEMU that is there, or on a new one */
Net *net_on(QTestState *qts);
Net *net_new(void);

/* Whoever made QEMU ends it */
void net_gone(Net *n);

void net_free(Net *n);
void remove_dir(char *path);

void add_mirror(Net *n, const char *id, const char *queue);

/* @dev: "indev" or "outdev" */
void add_redirector(Net *n, const char *id, const char *queue,
                           const char *dev, const char *chardev);

#endif
