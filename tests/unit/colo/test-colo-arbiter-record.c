/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the record of colo-arbiter-file, on its own.
 *
 * Proves: of many processes that ask at once for either side exactly one side
 * wins, in each of thousands of sessions, and the same question has the same
 * answer for ever; without locks no two win, either; a session before the one
 * that has begun is lost; what is damaged, foreign or of an older disk is not
 * known and is left alone; a claim that was withdrawn is none; who dies
 * between the write and the answer has won.
 */

#include "qemu/osdep.h"
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include "qapi/error.h"
#include "migration/colo/arbiter-record.h"
#include "colo-arbiter-util.h"

#define RACERS      8
#define SESSIONS    3000
#define LAWLESS     300     /* sessions without a lock */
#define ON_DISK     100     /* sessions where it takes time */

#define P COLO_MODE_PRIMARY
#define S COLO_MODE_SECONDARY

/* What the functions below do in this process */
static int fsyncs_left = -1;    /* it dies in the one after these; < 0: none */
static bool has_no_locks;

/* In place of the C library's */
int fsync(int fd)
{
    if (!fsyncs_left--) {
        raise(SIGKILL);
    }
    return syscall(SYS_fsync, fd);
}

int fcntl(int fd, int cmd, ...)
{
    va_list ap;
    void *arg;

    va_start(ap, cmd);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (cmd == F_OFD_SETLK && has_no_locks) {
        return 0;
    }
    return syscall(SYS_fcntl, fd, cmd, arg);
}

static bool wait_yield(void *opaque, int ms)
{
    sched_yield();
    return true;
}

/* Dawdle between reading and writing, so that others may come between */
static bool wait_dawdle(void *opaque, int ms)
{
    if (ms) {
        sched_yield();
    } else {
        g_usleep(g_random_int_range(0, 300));
    }
    return true;
}

/* Three times, and not before something is written */
static bool wait_thrice(void *opaque, int ms)
{
    unsigned *n = opaque;

    return ms && ++*n <= 3;
}

/* Stand still between reading and writing, until somebody says SIGCONT */
static bool wait_stopped(void *opaque, int ms)
{
    raise(SIGSTOP);
    return true;
}

static ColoVerdict ask(const char *path, ColoRequest request, unsigned n,
                       COLOMode side, Error **errp)
{
    ColoQuestion q = util_question(n, side);

    return colo_record_ask(path, request, &q, wait_yield, NULL, errp);
}

static void begin(const char *path, unsigned n)
{
    g_assert_cmpint(ask(path, COLO_REQUEST_BEGIN, n, P, &error_abort), ==,
                    COLO_VERDICT_WON);
}

static void check(const char *path, unsigned n, COLOMode side,
                  ColoVerdict verdict)
{
    ColoVerdict got = ask(path, COLO_REQUEST_DECIDE, n, side, &error_abort);

    g_assert_cmpstr(ColoVerdict_str(got), ==, ColoVerdict_str(verdict));
}

static void check_fails(const char *path, ColoRequest request, unsigned n,
                        COLOMode side, const char *text)
{
    g_autoptr(Error) err = NULL;

    g_assert_cmpint(ask(path, request, n, side, &err), ==,
                    COLO_VERDICT_NOT_KNOWN);
    g_assert_nonnull(err);
    if (!strstr(error_get_pretty(err), text)) {
        g_error("'%s' instead of '%s'", error_get_pretty(err), text);
    }
}

static char *new_path(void)
{
    char *path = util_path("record");

    unlink(path);
    return path;
}

static char *content(const char *path)
{
    char *data;
    gsize n;

    g_assert_true(g_file_get_contents(path, &data, &n, NULL));
    g_assert_cmpuint(n, ==, COLO_RECORD_BYTES);
    return data;
}

static void put_content(const char *path, const char *data, size_t n)
{
    unlink(path);
    g_assert_true(g_file_set_contents_full(path, data, n, 0, 0600, NULL));
}

/* Racing processes; all of it is shared by them */
typedef struct Race {
    const char *path;
    unsigned session;           /* 0: end */
    sem_t go[RACERS];
    sem_t done;
    ColoVerdict verdicts[RACERS];
} Race;

static COLOMode racer_side(int i)
{
    return i % 2 ? S : P;
}

static void run_racer(Race *r, int i)
{
    for (;;) {
        ColoQuestion q;

        sem_wait(&r->go[i]);
        if (!r->session) {
            _exit(0);
        }
        q = util_question(r->session, racer_side(i));
        r->verdicts[i] = colo_record_ask(r->path, COLO_REQUEST_DECIDE, &q,
                                         wait_dawdle, NULL, NULL);
        sem_post(&r->done);
    }
}

static Race *race_new(const char *path, pid_t *pids)
{
    Race *r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    g_assert_true(r != MAP_FAILED);
    r->path = path;
    sem_init(&r->done, 1, 0);
    for (int i = 0; i < RACERS; i++) {
        sem_init(&r->go[i], 1, 0);
        pids[i] = fork();
        g_assert_cmpint(pids[i], >=, 0);
        if (!pids[i]) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            run_racer(r, i);
        }
    }
    return r;
}

static void race_run(Race *r, unsigned session)
{
    unsigned first = g_test_rand_int_range(0, RACERS);

    r->session = session;
    for (int i = 0; i < RACERS; i++) {
        sem_post(&r->go[(first + i) % RACERS]);
    }
    for (int i = 0; session && i < RACERS; i++) {
        sem_wait(&r->done);
    }
}

static void race_free(Race *r, const pid_t *pids)
{
    race_run(r, 0);
    for (int i = 0; i < RACERS; i++) {
        int status;

        g_assert_cmpint(waitpid(pids[i], &status, 0), ==, pids[i]);
        g_assert_cmpint(status, ==, 0);
    }
    munmap(r, sizeof(*r));
}

static int winners(const Race *r, COLOMode side, ColoVerdict verdict)
{
    int n = 0;

    for (int i = 0; i < RACERS; i++) {
        n += racer_side(i) == side && r->verdicts[i] == verdict;
    }
    return n;
}

static void check_race(const char *path, unsigned sessions)
{
    pid_t pids[RACERS];
    Race *r = race_new(path, pids);
    unsigned won[COLO_MODE__MAX] = { 0 };

    for (unsigned n = 1; n <= sessions; n++) {
        COLOMode winner, loser;

        begin(path, n);
        race_run(r, n);
        winner = winners(r, P, COLO_VERDICT_WON) ? P : S;
        loser = winner == P ? S : P;
        g_assert_cmpint(winners(r, winner, COLO_VERDICT_WON), ==, RACERS / 2);
        g_assert_cmpint(winners(r, loser, COLO_VERDICT_LOST), ==, RACERS / 2);
        won[winner]++;
        check(path, n, winner, COLO_VERDICT_WON);
        check(path, n, loser, COLO_VERDICT_LOST);
    }
    race_free(r, pids);
    g_test_message("%u sessions for the primary, %u for the secondary", won[P],
                   won[S]);
    /* Else they did not race */
    g_assert_cmpuint(won[P], >, 0);
    g_assert_cmpuint(won[S], >, 0);
}

static void test_race(void)
{
    g_autofree char *path = new_path();

    check_race(path, SESSIONS);
}

/* Where O_DIRECT wants all to be aligned, most likely */
static void test_race_on_disk(void)
{
    g_autofree char *dir = g_dir_make_tmp("colo-arbiter-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "record", NULL);
    int fd = open(dir, O_RDONLY | O_DIRECTORY);
    struct statfs fs;

    g_assert_cmpint(fstatfs(fd, &fs), ==, 0);
    close(fd);
    g_test_message("the file system is of type 0x%lx", (long)fs.f_type);
    check_race(path, ON_DISK);
    unlink(path);
    rmdir(dir);
}

static void test_race_without_locks(void)
{
    g_autofree char *path = new_path();
    pid_t pids[RACERS];
    unsigned disputed = 0, none = 0;
    Race *r;

    has_no_locks = true;
    r = race_new(path, pids);
    for (unsigned n = 1; n <= LAWLESS; n++) {
        bool primary, secondary;

        begin(path, n);
        race_run(r, n);
        primary = winners(r, P, COLO_VERDICT_WON);
        secondary = winners(r, S, COLO_VERDICT_WON);
        g_assert_false(primary && secondary);
        none += !primary && !secondary;
        disputed += winners(r, P, COLO_VERDICT_NOT_KNOWN) ||
                    winners(r, S, COLO_VERDICT_NOT_KNOWN);
    }
    race_free(r, pids);
    has_no_locks = false;
    g_test_message("%u of %u sessions were disputed, nobody has won %u",
                   disputed, LAWLESS, none);
    /* Else they did not race */
    g_assert_cmpuint(disputed, >, 0);
}

static void test_sessions(void)
{
    g_autofree char *path = new_path();

    check_fails(path, COLO_REQUEST_DECIDE, 1, S, "No such file");
    check_fails(path, COLO_REQUEST_CHECK, 1, S, "No such file");
    begin(path, 1);
    begin(path, 1);
    for (int i = 0; i < 2; i++) {
        g_assert_cmpint(ask(path, COLO_REQUEST_CHECK, 1, S, &error_abort), ==,
                        COLO_VERDICT_WON);
    }
    check_fails(path, COLO_REQUEST_CHECK, 2, S, "both sides need the same");
    begin(path, 2);
    check_fails(path, COLO_REQUEST_CHECK, 1, S, "both sides need the same");
    check(path, 1, P, COLO_VERDICT_LOST);
    check(path, 1, S, COLO_VERDICT_LOST);
    check(path, 2, S, COLO_VERDICT_WON);
    check(path, 2, P, COLO_VERDICT_LOST);
    check_fails(path, COLO_REQUEST_BEGIN, 2, P, "has been decided");
    check_fails(path, COLO_REQUEST_CHECK, 2, S, "has been decided");
    begin(path, 3);
    check(path, 2, S, COLO_VERDICT_LOST);
    check(path, 2, P, COLO_VERDICT_LOST);
    check(path, 3, P, COLO_VERDICT_WON);
    check(path, 3, P, COLO_VERDICT_WON);
    check(path, 3, S, COLO_VERDICT_LOST);
}

static void test_generation(void)
{
    g_autofree char *path = new_path();
    ColoQuestion q = util_question(100, P);

    begin(path, 9);
    check_fails(path, COLO_REQUEST_BEGIN, 8, P, "generation 9");
    check(path, 9, S, COLO_VERDICT_WON);
    /* Without disks, or those of a survivor that has no session yet */
    q.generation = 0;
    g_assert_cmpint(colo_record_ask(path, COLO_REQUEST_BEGIN, &q, wait_yield,
                                    NULL, &error_abort), ==, COLO_VERDICT_WON);
    begin(path, 9);
    begin(path, 10);
}

/* One byte is other than it was written */
static void check_damage(const char *path, const char *data, size_t at,
                         bool can_begin)
{
    g_autofree char *bad = g_memdup2(data, COLO_RECORD_BYTES);
    g_autofree char *after = NULL;

    bad[at] ^= 1;
    put_content(path, bad, COLO_RECORD_BYTES);
    check_fails(path, COLO_REQUEST_DECIDE, 5, P, "damaged");
    check_fails(path, COLO_REQUEST_DECIDE, 5, S, "damaged");
    check_fails(path, COLO_REQUEST_CHECK, 5, S, "damaged");
    after = content(path);
    g_assert_false(memcmp(after, bad, COLO_RECORD_BYTES));
    if (can_begin) {
        begin(path, 6);
        check(path, 6, P, COLO_VERDICT_WON);
        check(path, 6, S, COLO_VERDICT_LOST);
    } else {
        check_fails(path, COLO_REQUEST_BEGIN, 6, P, "not touched");
        g_free(after);
        after = content(path);
        g_assert_false(memcmp(after, bad, COLO_RECORD_BYTES));
    }
}

static void test_damaged(void)
{
    g_autofree char *path = new_path();
    g_autofree char *data = NULL;
    const size_t version = strlen("colo-arbiter 1 ");

    begin(path, 5);
    check(path, 5, S, COLO_VERDICT_WON);
    data = content(path);
    g_test_message("%.*s", 100, data);
    g_test_message("%.*s", 100, data + 2 * COLO_RECORD_BLOCK);
    for (size_t i = 0; i < 512; i++) {
        check_damage(path, data, i, i >= version);
    }
    check_damage(path, data, COLO_RECORD_BLOCK - 1, true);
    for (size_t i = 0; i < 512; i += 7) {
        check_damage(path, data, COLO_RECORD_BLOCK + i, true);
        check_damage(path, data, 2 * COLO_RECORD_BLOCK + i, true);
    }
}

/* The halves of two states, each of which is whole */
static void test_torn(void)
{
    g_autofree char *path = new_path();
    g_autofree char *before = NULL;
    g_autofree char *after = NULL;

    begin(path, 5);
    before = content(path);
    begin(path, 0x70000006);
    after = content(path);
    for (size_t i = 20; i < 80; i++) {
        g_autofree char *torn = g_memdup2(before, COLO_RECORD_BYTES);

        memcpy(torn, after, i);
        if (memcmp(torn, before, COLO_RECORD_BLOCK) &&
            memcmp(torn, after, COLO_RECORD_BLOCK)) {
            put_content(path, torn, COLO_RECORD_BYTES);
            check_fails(path, COLO_REQUEST_DECIDE, 5, P, "damaged");
        }
    }
    /* A claim in the block of the other side */
    begin(path, 0x70000007);
    check(path, 0x70000007, P, COLO_VERDICT_WON);
    g_free(after);
    after = content(path);
    memcpy(after + 2 * COLO_RECORD_BLOCK, after + COLO_RECORD_BLOCK,
           COLO_RECORD_BLOCK);
    put_content(path, after, COLO_RECORD_BYTES);
    check_fails(path, COLO_REQUEST_DECIDE, 0x70000007, S, "damaged");
}

/* Locks that have failed, and both have written */
static void test_both(void)
{
    g_autofree char *path = new_path();
    g_autofree char *primary = NULL;
    g_autofree char *secondary = NULL;
    g_autofree char *empty = NULL;

    begin(path, 5);
    empty = content(path);
    check(path, 5, P, COLO_VERDICT_WON);
    primary = content(path);
    put_content(path, empty, COLO_RECORD_BYTES);
    check(path, 5, S, COLO_VERDICT_WON);
    secondary = content(path);
    memcpy(secondary + COLO_RECORD_BLOCK, primary + COLO_RECORD_BLOCK,
           COLO_RECORD_BLOCK);
    put_content(path, secondary, COLO_RECORD_BYTES);
    check_fails(path, COLO_REQUEST_DECIDE, 5, P, "locks do not work");
    check_fails(path, COLO_REQUEST_DECIDE, 5, S, "locks do not work");
}

static void test_foreign(void)
{
    g_autofree char *path = new_path();
    g_autofree char *big = g_malloc0(COLO_RECORD_BYTES + 1);
    g_autofree char *after = NULL;
    const char *const texts[] = {
        "root:x:0:0:root:/root:/bin/sh\n", "colo-arbiter 2 session\n",
    };
    const ColoRequest all[] = {
        COLO_REQUEST_DECIDE, COLO_REQUEST_CHECK, COLO_REQUEST_BEGIN,
    };

    for (int i = 0; i < ARRAY_SIZE(texts); i++) {
        put_content(path, texts[i], strlen(texts[i]));
        check_fails(path, COLO_REQUEST_DECIDE, 5, P, "damaged, or not");
        check_fails(path, COLO_REQUEST_BEGIN, 5, P, "not touched");
        g_assert_true(g_file_get_contents(path, &after, NULL, NULL));
        g_assert_cmpstr(after, ==, texts[i]);
        g_clear_pointer(&after, g_free);
    }
    put_content(path, big, COLO_RECORD_BYTES + 1);
    for (int i = 0; i < ARRAY_SIZE(all); i++) {
        check_fails(path, all[i], 5, P, "is not the record");
        check_fails("/dev/null", all[i], 5, P, "is not the record");
        check_fails(util_folder(), all[i], 5, P, "Could not open");
    }
    unlink(path);
    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    check_fails(path, COLO_REQUEST_DECIDE, 5, P, "is not the record");

    /* Nothing, or as far as one came that died */
    unlink(path);
    for (size_t n = 0; n <= COLO_RECORD_BYTES; n += COLO_RECORD_BLOCK) {
        put_content(path, big, n);
        check_fails(path, COLO_REQUEST_DECIDE, 5, P, "no session has begun");
        begin(path, 5);
        check(path, 5, P, COLO_VERDICT_WON);
    }
}

/* True if a process that asks dies in its fsync() after @n others */
static bool dies(const char *path, ColoRequest request, unsigned session,
                 COLOMode side, int n)
{
    pid_t pid = fork();
    int status;

    g_assert_cmpint(pid, >=, 0);
    if (!pid) {
        fsyncs_left = n;
        ask(path, request, session, side, &error_abort);
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static void test_dies(void)
{
    g_autofree char *path = new_path();
    int n;

    for (n = 0; dies(path, COLO_REQUEST_BEGIN, 5, P, n); n++) {
        begin(path, 5);
        check(path, 5, S, COLO_VERDICT_WON);
        unlink(path);
    }
    /* Claims, session, folder */
    g_assert_cmpint(n, ==, 3);

    begin(path, 6);
    g_assert_true(dies(path, COLO_REQUEST_DECIDE, 6, S, 0));
    check(path, 6, P, COLO_VERDICT_LOST);
    check(path, 6, S, COLO_VERDICT_WON);
    g_assert_false(dies(path, COLO_REQUEST_DECIDE, 6, S, 1));
}

/*
 * The primary has read, and stands still before it writes: for so long that the
 * storage takes it for dead, and gives the lock to the secondary, which wins.
 * In the end a next session begins, or not; then the write arrives.  Returns
 * what the primary believes.
 */
static ColoVerdict late_write(bool next)
{
    g_autofree char *path = new_path();
    int status;
    pid_t pid;

    begin(path, 5);
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (!pid) {
        ColoQuestion q = util_question(5, P);

        has_no_locks = true;
        _exit(colo_record_ask(path, COLO_REQUEST_DECIDE, &q, wait_stopped,
                              NULL, NULL));
    }
    g_assert_cmpint(waitpid(pid, &status, WUNTRACED), ==, pid);
    g_assert_true(WIFSTOPPED(status));
    check(path, 5, S, COLO_VERDICT_WON);
    if (next) {
        begin(path, 6);
    }
    kill(pid, SIGCONT);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFEXITED(status));
    if (next) {
        check(path, 6, S, COLO_VERDICT_WON);
    } else {
        check_fails(path, COLO_REQUEST_DECIDE, 5, P, "locks do not work");
    }
    return WEXITSTATUS(status);
}

static void test_late_write(void)
{
    g_assert_cmpint(late_write(false), ==, COLO_VERDICT_NOT_KNOWN);
    g_assert_cmpint(late_write(true), ==, COLO_VERDICT_LOST);
}

static void test_locked(void)
{
    g_autofree char *path = new_path();
    ColoQuestion q = util_question(5, P);
    struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    g_autoptr(Error) err = NULL;
    unsigned waits = 0;
    int fd;

    begin(path, 5);
    fd = open(path, O_RDWR);
    g_assert_cmpint(fcntl(fd, F_OFD_SETLK, &l), ==, 0);
    g_assert_cmpint(colo_record_ask(path, COLO_REQUEST_DECIDE, &q, wait_thrice,
                                    &waits, &err), ==, COLO_VERDICT_NOT_KNOWN);
    g_assert_nonnull(strstr(error_get_pretty(err), "locked"));
    g_assert_cmpuint(waits, ==, 4);
    close(fd);
    check(path, 5, P, COLO_VERDICT_WON);
}

/* Nobody wants to know any more: nobody wins */
static void test_given_up(void)
{
    g_autofree char *path = new_path();
    ColoQuestion q = util_question(5, P);
    unsigned waits = 0;

    begin(path, 5);
    g_assert_cmpint(colo_record_ask(path, COLO_REQUEST_DECIDE, &q, wait_thrice,
                                    &waits, NULL), ==, COLO_VERDICT_NOT_KNOWN);
    q.session.data[1]++;
    g_assert_cmpint(colo_record_ask(path, COLO_REQUEST_BEGIN, &q, wait_thrice,
                                    &waits, NULL), ==, COLO_VERDICT_NOT_KNOWN);
    check(path, 5, S, COLO_VERDICT_WON);
}

static void check_round(const char *path, unsigned n, COLOMode side,
                        unsigned round, unsigned peer_round,
                        ColoVerdict verdict)
{
    ColoQuestion q = util_question(n, side);
    ColoVerdict got;

    q.round = round;
    q.peer_round = peer_round;
    got = colo_record_ask(path, COLO_REQUEST_DECIDE, &q, wait_yield, NULL,
                          &error_abort);
    g_assert_cmpstr(ColoVerdict_str(got), ==, ColoVerdict_str(verdict));
}

/* What a side has withdrawn counts until the other one has heard of that */
static void test_withdrawn(void)
{
    g_autofree char *path = new_path();

    for (int i = 0; i < 2; i++) {
        COLOMode side = i ? P : S, other = i ? S : P;

        /* It has won, and does not know */
        begin(path, 2 * i + 1);
        check(path, 2 * i + 1, side, COLO_VERDICT_WON);
        check_round(path, 2 * i + 1, other, 0, 0, COLO_VERDICT_LOST);
        check_round(path, 2 * i + 1, other, 0, 1, COLO_VERDICT_WON);
        check_round(path, 2 * i + 1, side, 1, 0, COLO_VERDICT_LOST);
        check_round(path, 2 * i + 1, other, 0, 1, COLO_VERDICT_WON);

        /* It asks anew, before the other one does */
        begin(path, 2 * i + 2);
        check(path, 2 * i + 2, side, COLO_VERDICT_WON);
        check_round(path, 2 * i + 2, side, 1, 0, COLO_VERDICT_WON);
        check_round(path, 2 * i + 2, other, 0, 1, COLO_VERDICT_LOST);
        check_round(path, 2 * i + 2, other, 7, 0, COLO_VERDICT_LOST);
        /* Then that has been withdrawn, too, and both have been once */
        check_round(path, 2 * i + 2, other, 1, 2, COLO_VERDICT_WON);
        check_round(path, 2 * i + 2, side, 2, 1, COLO_VERDICT_LOST);
        check_round(path, 2 * i + 2, side, 2, 2, COLO_VERDICT_WON);
        check_round(path, 2 * i + 2, other, 2, 2, COLO_VERDICT_LOST);
    }
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/colo/arbiter/record/race", test_race);
    g_test_add_func("/colo/arbiter/record/race-on-disk", test_race_on_disk);
    g_test_add_func("/colo/arbiter/record/race-without-locks",
                    test_race_without_locks);
    g_test_add_func("/colo/arbiter/record/sessions", test_sessions);
    g_test_add_func("/colo/arbiter/record/generation", test_generation);
    g_test_add_func("/colo/arbiter/record/damaged", test_damaged);
    g_test_add_func("/colo/arbiter/record/torn", test_torn);
    g_test_add_func("/colo/arbiter/record/both", test_both);
    g_test_add_func("/colo/arbiter/record/foreign", test_foreign);
    g_test_add_func("/colo/arbiter/record/dies", test_dies);
    g_test_add_func("/colo/arbiter/record/late-write", test_late_write);
    g_test_add_func("/colo/arbiter/record/locked", test_locked);
    g_test_add_func("/colo/arbiter/record/given-up", test_given_up);
    g_test_add_func("/colo/arbiter/record/withdrawn", test_withdrawn);
    ret = g_test_run();
    util_exit();
    return ret;
}
