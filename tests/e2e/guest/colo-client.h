/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the modes of the client (colo-client.c) share: options, the clock, what
 * is measured, and the lines that are printed.
 *
 * One thread does everything.
 */
#ifndef COLO_CLIENT_H
#define COLO_CLIENT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define NS_PER_S            1000000000LL
#define NS_PER_MS           1000000LL
#define PROGRESS_NS         (500 * NS_PER_MS)

typedef struct Options {
    const char *host;           /* NULL = that of the mode */
    int port;                   /* 0 = that of the mode */
    double seconds;             /* 0 = until a signal */
    double connect_seconds;     /* longest wait for the guest to answer */
    double idle_seconds;        /* longest silence, 0 = no limit */
    unsigned long long seed;
    unsigned long long rate;    /* bytes a second, 0 = as fast as it goes */
    double interval_ms;         /* echo: pause between two requests;
                                   datagrams: from one to the next;
                                   disk: pause of the writer;
                                   last: before the command */
    int connections;            /* http, last */
    int requests;               /* http: of a connection, 0 = no limit */
    const char *path;           /* http */
    const char *command;        /* control */
    const char *device;         /* disk */
    int slots;                  /* disk */
} Options;

extern Options opt;
extern volatile sig_atomic_t stopped;

/* The longest time without progress, and when it began */
typedef struct Gap {
    int64_t last;
    int64_t longest;
    int64_t longest_at;
} Gap;

/* Latencies, in microseconds */
typedef struct Samples {
    uint32_t *us;
    size_t count;
    size_t size;
} Samples;

int64_t now_ns(void);
void sleep_ns(int64_t ns);
void on_signal(int sig);

void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

void gap_start(Gap *gap);
void gap_progress(Gap *gap, int64_t now);
void print_gap(const Gap *gap);

void samples_add(Samples *samples, int64_t ns);
void samples_print(Samples *samples);

/* A connected TCP socket that does not block, or -1 after connect_seconds */
int connect_guest(int port);

/*
 * Wait until @fd is ready, for as long as progress or the end of the run
 * allows.  The caller looks at the clock itself.
 */
short wait_for(int fd, short events, int timeout_ms);

bool too_long_idle(const Gap *gap, int64_t now);
int64_t end_of_run(void);

/* About errno, and about what recv() said */
bool blocked(void);
const char *connection_lost(ssize_t n);

/* The lines "connected" and "end"; the exit status of the program */
void connected(void);
int not_connected(void);
int finish(bool intact, const char *why);

/* Modes of colo-client-datagram.c */
int run_udp(void);
int run_ping6(void);

/* Mode of colo-client-disk.c */
int run_disk(void);

/* Mode of colo-client-last.c */
int run_last(void);

/* Mode of colo-client-call.c */
int run_call(void);

#endif /* COLO_CLIENT_H */
