/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's program: load on a disk, to be measured.
 *
 * The control command "diskload DEVICE KIND SET_MIB THREADS BURST_MIB REST_MS"
 * has that many threads write to the first SET_MIB of the device, past the
 * guest's cache, until another command comes.  KIND is one of
 *
 *   random      4 KiB anywhere
 *   sequential  1 MiB, one after the other
 *   durable     4 KiB anywhere, and each is made durable
 *
 * BURST_MIB 0 is without a rest.  Otherwise the threads write so much and then
 * rest for REST_MS.  "diskload" asks how it goes, "diskload off" ends it.  The
 * answer is "ok WRITES BYTES BUSY_NS LONGEST_NS" of the load since it began: the
 * time that bursts have taken, and the longest of single writes, by the guest's
 * clock, which stands while the guest does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "colo-guest.h"
#include "colo-stream.h"

#define MAX_THREADS         16
#define SMALL_BYTES         4096
#define LARGE_BYTES         (1 << 20)
#define NS_PER_MS           1000000LL

typedef enum Kind {
    KIND_RANDOM,
    KIND_SEQUENTIAL,
    KIND_DURABLE,
} Kind;

static const char *const kind_names[] = {
    [KIND_RANDOM] = "random",
    [KIND_SEQUENTIAL] = "sequential",
    [KIND_DURABLE] = "durable",
};

#define KINDS (sizeof(kind_names) / sizeof(kind_names[0]))

typedef struct Load {
    /* Set once, before the threads are there */
    char path[64];
    Kind kind;
    size_t unit;            /* bytes of a write */
    uint64_t units;         /* that fit into the set */
    int n_threads;
    uint64_t burst;         /* writes, 0 = without end */
    int64_t rest_ns;
    pthread_barrier_t barrier;

    /* The first thread writes, the others read after a barrier */
    bool more;

    /* Atomic */
    atomic_bool stop;
    atomic_bool failed;
    atomic_ullong taken;    /* writes of this burst that were begun */
    atomic_ullong position; /* sequential: the next unit */
    atomic_ullong writes;
    atomic_ullong busy_ns;  /* of bursts that have ended */
    atomic_ullong longest_ns;

    pthread_t threads[MAX_THREADS];
} Load;

typedef struct Worker {
    Load *load;
    int number;
    int fd;
    uint8_t *data;
    uint64_t random;
} Worker;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Load *current;       /* lock */

static void worker_free(Worker *w)
{
    if (w->fd >= 0) {
        close(w->fd);
    }
    free(w->data);
    free(w);
}

static bool write_unit(Worker *w)
{
    Load *load = w->load;
    int64_t begin = now_ns(), took;
    unsigned long long longest;
    uint64_t unit;

    if (load->kind == KIND_SEQUENTIAL) {
        unit = atomic_fetch_add(&load->position, 1);
    } else {
        w->random = w->random * 6364136223846793005ULL + 1442695040888963407ULL;
        unit = w->random >> 33;
    }
    memcpy(w->data, &begin, sizeof(begin));
    if (pwrite(w->fd, w->data, load->unit, unit % load->units * load->unit) !=
        (ssize_t)load->unit ||
        (load->kind == KIND_DURABLE && fdatasync(w->fd) < 0)) {
        say("%s: %s", load->path, strerror(errno));
        return false;
    }
    took = now_ns() - begin;
    longest = atomic_load(&load->longest_ns);
    while ((unsigned long long)took > longest &&
           !atomic_compare_exchange_weak(&load->longest_ns, &longest, took)) {
        /* Another thread's was longer than that */
    }
    atomic_fetch_add(&load->writes, 1);
    return true;
}

static bool goes_on(Load *load)
{
    return !atomic_load(&load->stop) && !atomic_load(&load->failed);
}

static void run_burst(Worker *w)
{
    Load *load = w->load;

    while (goes_on(load) &&
           (!load->burst ||
            atomic_fetch_add(&load->taken, 1) < load->burst)) {
        if (!write_unit(w)) {
            atomic_store(&load->failed, true);
        }
    }
}

/* All threads go round together */
static void *load_thread(void *opaque)
{
    Worker *w = opaque;
    Load *load = w->load;

    do {
        int64_t begin = now_ns();

        pthread_barrier_wait(&load->barrier);
        run_burst(w);
        pthread_barrier_wait(&load->barrier);
        if (!w->number) {
            atomic_fetch_add(&load->busy_ns, now_ns() - begin);
            atomic_store(&load->taken, 0);
            if (goes_on(load)) {
                sleep_until(now_ns() + load->rest_ns);
            }
            load->more = goes_on(load);
        }
        pthread_barrier_wait(&load->barrier);
    } while (load->more);
    worker_free(w);
    return NULL;
}

static Worker *worker_new(Load *load, int number)
{
    Worker *w = calloc(1, sizeof(*w));
    ColoStream stream;

    if (!w) {
        return NULL;
    }
    w->load = load;
    w->number = number;
    w->random = number;
    w->fd = open(load->path, O_WRONLY | O_DIRECT | O_CLOEXEC);
    w->data = aligned_alloc(SMALL_BYTES, load->unit);
    if (w->fd < 0 || !w->data) {
        worker_free(w);
        return NULL;
    }
    colo_stream_init(&stream, number);
    colo_stream_fill(&stream, w->data, load->unit);
    return w;
}

static void load_end_locked(void)
{
    Load *load = current;

    if (load) {
        atomic_store(&load->stop, true);
        for (int i = 0; i < load->n_threads; i++) {
            pthread_join(load->threads[i], NULL);
        }
        pthread_barrier_destroy(&load->barrier);
        free(load);
        current = NULL;
    }
}

/* Takes @load; false if it could not begin */
static bool load_begin_locked(Load *load)
{
    Worker *workers[MAX_THREADS];
    int i;

    for (i = 0; i < load->n_threads; i++) {
        workers[i] = worker_new(load, i);
        if (!workers[i]) {
            while (i--) {
                worker_free(workers[i]);
            }
            free(load);
            return false;
        }
    }
    pthread_barrier_init(&load->barrier, NULL, load->n_threads);
    current = load;
    for (i = 0; i < load->n_threads; i++) {
        if (pthread_create(&load->threads[i], NULL, load_thread, workers[i])) {
            say("no thread for a load");
            abort();    /* the others would wait for it */
        }
    }
    return true;
}

/* The load that @args ask for, or NULL */
static Load *load_parse(const char *args)
{
    unsigned long set_mib, burst_mib, rest_ms;
    char path[64], kind[16];
    Load *load;
    int threads;
    size_t i;

    if (sscanf(args, "%63s %15s %lu %d %lu %lu", path, kind, &set_mib,
               &threads, &burst_mib, &rest_ms) != 6 || !set_mib ||
        set_mib > 65536 || burst_mib > 65536 || threads < 1 ||
        threads > MAX_THREADS) {
        return NULL;
    }
    for (i = 0; i < KINDS && strcmp(kind, kind_names[i]); i++) {
        /* It may be the next one */
    }
    load = i < KINDS ? calloc(1, sizeof(*load)) : NULL;
    if (load) {
        strcpy(load->path, path);
        load->kind = i;
        load->unit = i == KIND_SEQUENTIAL ? LARGE_BYTES : SMALL_BYTES;
        load->units = ((uint64_t)set_mib << 20) / load->unit;
        load->n_threads = threads;
        load->burst = ((uint64_t)burst_mib << 20) / load->unit;
        load->rest_ns = burst_mib ? rest_ms * NS_PER_MS : 0;
    }
    return load;
}

static void answer_locked(int fd)
{
    const Load *load = current;
    unsigned long long writes;

    if (!load) {
        send_line(fd, "error there is no load\n");
    } else if (atomic_load(&load->failed)) {
        send_line(fd, "error %s: a write failed\n", load->path);
    } else {
        writes = atomic_load(&load->writes);
        send_line(fd, "ok %llu %llu %llu %llu\n", writes, writes * load->unit,
                  atomic_load(&load->busy_ns),
                  atomic_load(&load->longest_ns));
    }
}

void control_diskload(int fd, const char *args)
{
    Load *load;

    pthread_mutex_lock(&lock);
    if (!*args || !strcmp(args, "off")) {
        answer_locked(fd);
        if (*args) {
            load_end_locked();
        }
    } else {
        load = load_parse(args);
        if (load) {
            load_end_locked();
        }
        if (!load || !load_begin_locked(load)) {
            send_line(fd, "error diskload DEVICE random|sequential|durable "
                      "SET_MIB THREADS BURST_MIB REST_MS\n");
        } else {
            answer_locked(fd);
        }
    }
    pthread_mutex_unlock(&lock);
}
