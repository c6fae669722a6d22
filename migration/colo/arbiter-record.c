/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: the record of colo-arbiter-file, a file that both sides reach.
 *
 * Theory of operation
 *
 *      +-----------------+-------------------+---------------------+
 *      | the session     | the primary's     | the secondary's     |
 *      | to be decided   | claim             | claim               |
 *      +-----------------+-------------------+---------------------+
 *
 * A side that asks locks the file, reads all of it, and has lost if the
 * session is another one, or the other side has a claim to it.  (A side may
 * withdraw its claims, by a promise to the other one that it will not act on
 * those of rounds before one that it names.  Who knows of that takes them for
 * none.)  Else it writes its own claim, makes it durable and reads all of it
 * once more.  If nothing else has changed it has won.
 *
 * The lock keeps one side's reading and writing together.  That exactly one
 * side wins needs the lock.  That no two do does not: each has written its
 * claim before it looks for the other's for the last time, and writes nothing
 * but its own, so one of the two sees the other's, however late a write
 * arrives.  So whoever loses the lock in the midst, since the storage gave it
 * up for dead, does no harm; if both have claims then neither knows any more.
 *
 * What a block says fits into one sector, so it is never half old and half new.
 * One that is damaged all the same is an error, and nobody wins.
 *
 * Everything may hang.  The session's thread is not here, see decider.c.
 */

#include "qemu/osdep.h"
#include "qemu/crc32c.h"
#include "qemu/cutils.h"
#include "qemu/memalign.h"
#include "qapi/error.h"
#include "arbiter-record.h"

#define MAGIC           "colo-arbiter "
#define FORMAT          MAGIC "1 "

/* Between two attempts to get the lock */
#define LOCK_MIN_MS     1
#define LOCK_MAX_MS     50

/* What a block says */
typedef enum BlockState {
    BLOCK_EMPTY,            /* nothing */
    BLOCK_VALID,
    BLOCK_DAMAGED,          /* it is ours, and nobody wrote it like this */
    BLOCK_FOREIGN,          /* it is not */
} BlockState;

typedef struct Block {
    BlockState state;
    QemuUUID session;
    uint64_t number;        /* generation, or the epoch of who claims */
    uint16_t round;         /* of who claims */
} Block;

/* The blocks, by number; a claim has that of its side */
enum {
    BLOCK_SESSION,
    BLOCK_PRIMARY,
    BLOCK_SECONDARY,
    BLOCKS,
};

static const struct {
    const char *name;
    const char *number;
} block_words[] = {
    [BLOCK_SESSION] = { "session", "generation" },
    [BLOCK_PRIMARY] = { "primary", "epoch" },
    [BLOCK_SECONDARY] = { "secondary", "epoch" },
};

QEMU_BUILD_BUG_ON(ARRAY_SIZE(block_words) * COLO_RECORD_BLOCK !=
                  COLO_RECORD_BYTES);

typedef struct Record {
    int fd;
    const char *path;
    uint8_t *data;              /* COLO_RECORD_BYTES, as they were read */
    int64_t size;               /* of the file */
    Block blocks[BLOCKS];
} Record;

static int own_block(const ColoQuestion *q)
{
    return q->side == COLO_MODE_PRIMARY ? BLOCK_PRIMARY : BLOCK_SECONDARY;
}

static int other_block(const ColoQuestion *q)
{
    return q->side == COLO_MODE_PRIMARY ? BLOCK_SECONDARY : BLOCK_PRIMARY;
}

/* One line of text, so that people can read it; @data is the whole block */
static void block_encode(uint8_t *data, int index, const Block *b)
{
    g_autofree char *session = qemu_uuid_unparse_strdup(&b->session);
    g_autofree char *round = b->round ? g_strdup_printf("round %u ", b->round)
                                      : g_strdup("");
    g_autofree char *text = g_strdup_printf(FORMAT "%s %s %s %" PRIu64 " %s",
                                            block_words[index].name, session,
                                            block_words[index].number,
                                            b->number, round);

    memset(data, 0, COLO_RECORD_BLOCK);
    snprintf((char *)data, COLO_RECORD_BLOCK, "%s%08" PRIx32 "\n", text,
             crc32c(0xffffffff, (uint8_t *)text, strlen(text)));
}

/* Only what block_encode() makes is valid, to the last byte */
static void block_decode(const uint8_t *data, int index, Block *b)
{
    g_autofree char *text = g_strndup((const char *)data, COLO_RECORD_BLOCK);
    g_auto(GStrv) words = g_strsplit(text, " ", 10);
    unsigned n = g_strv_length(words);
    unsigned round = 0;
    g_autofree uint8_t *again = g_malloc(COLO_RECORD_BLOCK);

    *b = (Block) { .state = BLOCK_DAMAGED };
    if (buffer_is_zero(data, COLO_RECORD_BLOCK)) {
        b->state = BLOCK_EMPTY;
    } else if (!g_str_has_prefix(text, FORMAT)) {
        b->state = BLOCK_FOREIGN;
    } else if ((n == 7 || (n == 9 && !qemu_strtoui(words[7], NULL, 10,
                                                   &round))) &&
               round <= UINT16_MAX &&
               !qemu_uuid_parse(words[3], &b->session) &&
               !qemu_strtou64(words[5], NULL, 10, &b->number)) {
        b->round = round;
        block_encode(again, index, b);
        if (!memcmp(again, data, COLO_RECORD_BLOCK)) {
            b->state = BLOCK_VALID;
        }
    }
}

static bool record_read(Record *r, Error **errp)
{
    struct stat st;
    ssize_t n;

    memset(r->data, 0, COLO_RECORD_BYTES);
    if (fstat(r->fd, &st) < 0) {
        error_setg_errno(errp, errno, "no state of '%s'", r->path);
        return false;
    }
    r->size = st.st_size;
    if (!S_ISREG(st.st_mode) || st.st_size > COLO_RECORD_BYTES) {
        error_setg(errp, "'%s' is not the record of an arbiter", r->path);
        return false;
    }
    n = RETRY_ON_EINTR(pread(r->fd, r->data, COLO_RECORD_BYTES, 0));
    if (n < 0) {
        error_setg_errno(errp, errno, "could not read '%s'", r->path);
        return false;
    }
    for (int i = 0; i < BLOCKS; i++) {
        block_decode(r->data + i * COLO_RECORD_BLOCK, i, &r->blocks[i]);
    }
    return true;
}

/* Complete and durable */
static bool record_write(Record *r, int first, int n, const uint8_t *data,
                         Error **errp)
{
    size_t bytes = n * COLO_RECORD_BLOCK;
    ssize_t written = RETRY_ON_EINTR(pwrite(r->fd, data, bytes,
                                            first * COLO_RECORD_BLOCK));

    if (written < 0 || fsync(r->fd) < 0) {
        error_setg_errno(errp, errno, "could not write '%s'", r->path);
        return false;
    }
    if (written != bytes) {
        error_setg(errp, "could not write all of '%s'", r->path);
        return false;
    }
    return true;
}

static bool record_write_block(Record *r, int index, const ColoQuestion *q,
                               uint64_t number, Error **errp)
{
    Block b = {
        .session = q->session,
        .number = number,
        .round = index == BLOCK_SESSION ? 0 : q->round,
    };
    uint8_t *data = qemu_memalign(COLO_RECORD_BLOCK, COLO_RECORD_BLOCK);
    bool ok;

    block_encode(data, index, &b);
    ok = record_write(r, index, 1, data, errp);
    qemu_vfree(data);
    return ok;
}

static bool record_clear_blocks(Record *r, int first, int n, Error **errp)
{
    uint8_t *data = qemu_memalign(COLO_RECORD_BLOCK, n * COLO_RECORD_BLOCK);
    bool ok;

    memset(data, 0, n * COLO_RECORD_BLOCK);
    ok = record_write(r, first, n, data, errp);
    qemu_vfree(data);
    return ok;
}

static bool is_of(const Block *b, const QemuUUID *session)
{
    return b->state == BLOCK_VALID && qemu_uuid_is_equal(&b->session, session);
}

/* A claim to that session, of @round or a later one: others were withdrawn */
static bool is_claim(const Block *b, const QemuUUID *session, uint16_t round)
{
    return is_of(b, session) && b->round >= round;
}

/* @r is a record that nobody but a begin may change */
static bool is_damaged(Record *r, int index, Error **errp)
{
    if (r->blocks[index].state == BLOCK_DAMAGED ||
        r->blocks[index].state == BLOCK_FOREIGN) {
        error_setg(errp, "'%s' is damaged, or not the record of an arbiter",
                   r->path);
        return true;
    }
    return false;
}

/*
 * True if @verdict is what the record says of @q; else this side has not
 * claimed the session, and nor has the other one.
 */
static bool is_decided(Record *r, const ColoQuestion *q, ColoVerdict *verdict,
                       Error **errp)
{
    bool own = is_claim(&r->blocks[own_block(q)], &q->session, q->round);
    bool other = is_claim(&r->blocks[other_block(q)], &q->session,
                          q->peer_round);

    *verdict = COLO_VERDICT_NOT_KNOWN;
    if (is_damaged(r, BLOCK_SESSION, errp)) {
        return true;
    }
    if (r->blocks[BLOCK_SESSION].state == BLOCK_EMPTY) {
        error_setg(errp, "no session has begun with '%s'", r->path);
        return true;
    }
    if (!is_of(&r->blocks[BLOCK_SESSION], &q->session)) {
        *verdict = COLO_VERDICT_LOST;
        return true;
    }
    if (is_damaged(r, own_block(q), errp) ||
        is_damaged(r, other_block(q), errp)) {
        return true;
    }
    if (own && other) {
        error_setg(errp, "both sides have claimed the session in '%s': its "
                   "locks do not work between the hosts", r->path);
        return true;
    }
    if (other) {
        *verdict = COLO_VERDICT_LOST;
    } else if (own) {
        *verdict = COLO_VERDICT_WON;
    }
    return own || other;
}

static ColoVerdict record_decide(Record *r, const ColoQuestion *q,
                                 ColoRecordWait *wait, void *opaque,
                                 Error **errp)
{
    ColoVerdict verdict;

    if (!record_read(r, errp)) {
        return COLO_VERDICT_NOT_KNOWN;
    }
    if (is_decided(r, q, &verdict, errp) && verdict != COLO_VERDICT_WON) {
        return verdict;
    }
    if (!wait(opaque, 0)) {
        error_setg(errp, "nobody waits for the answer");
        return COLO_VERDICT_NOT_KNOWN;
    }
    /* A claim that is there may not be durable, so it is written once more */
    if (!record_write_block(r, own_block(q), q, q->epoch, errp) ||
        !record_read(r, errp)) {
        return COLO_VERDICT_NOT_KNOWN;
    }
    if (!is_decided(r, q, &verdict, errp)) {
        error_setg(errp, "what was written to '%s' is not there", r->path);
    }
    return verdict;
}

/* May a session begin with what is in the file? */
static bool may_begin(Record *r, const ColoQuestion *q, Error **errp)
{
    Block *b = &r->blocks[BLOCK_SESSION];

    if (b->state == BLOCK_FOREIGN) {
        error_setg(errp, "'%s' is not the record of an arbiter, or one of "
                   "another version; it is not touched", r->path);
        return false;
    }
    if (is_of(b, &q->session) &&
        (is_of(&r->blocks[BLOCK_PRIMARY], &q->session) ||
         is_of(&r->blocks[BLOCK_SECONDARY], &q->session))) {
        error_setg(errp, "the session in '%s' has been decided", r->path);
        return false;
    }
    if (b->state == BLOCK_VALID && q->generation && q->generation < b->number) {
        error_setg(errp, "the disks are of generation %" PRIu64 ", and those "
                   "of the last session in '%s' of generation %" PRIu64
                   ": the guest has gone on elsewhere.  If it has not, and "
                   "these disks are new, remove that file",
                   q->generation, r->path, b->number);
        return false;
    }
    return true;
}

/* A new name in a folder is for good when the folder is */
static bool sync_folder(const char *path, Error **errp)
{
    g_autofree char *folder = g_path_get_dirname(path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && (!fsync(fd) || errno == EINVAL);

    if (!ok) {
        error_setg_errno(errp, errno, "could not write '%s'", folder);
    }
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

static ColoVerdict record_begin(Record *r, const ColoQuestion *q,
                                ColoRecordWait *wait, void *opaque,
                                Error **errp)
{
    if (!record_read(r, errp) || !may_begin(r, q, errp)) {
        return COLO_VERDICT_NOT_KNOWN;
    }
    if (!wait(opaque, 0)) {
        error_setg(errp, "nobody waits for the answer");
        return COLO_VERDICT_NOT_KNOWN;
    }
    /*
     * Claims to earlier sessions stay, so that these have lost.  A claim must
     * not fail for want of space.
     */
    if (r->size < COLO_RECORD_BYTES &&
        !record_clear_blocks(r, BLOCK_PRIMARY, BLOCKS - BLOCK_PRIMARY, errp)) {
        return COLO_VERDICT_NOT_KNOWN;
    }
    if (!record_write_block(r, BLOCK_SESSION, q, q->generation, errp)) {
        return COLO_VERDICT_NOT_KNOWN;
    }
    for (int i = BLOCK_PRIMARY; i < BLOCKS; i++) {
        if ((r->blocks[i].state == BLOCK_DAMAGED ||
             r->blocks[i].state == BLOCK_FOREIGN) &&
            !record_clear_blocks(r, i, 1, errp)) {
            return COLO_VERDICT_NOT_KNOWN;
        }
    }
    if (!sync_folder(r->path, errp) || !record_read(r, errp)) {
        return COLO_VERDICT_NOT_KNOWN;
    }
    if (!is_of(&r->blocks[BLOCK_SESSION], &q->session)) {
        error_setg(errp, "what was written to '%s' is not there", r->path);
        return COLO_VERDICT_NOT_KNOWN;
    }
    return COLO_VERDICT_WON;
}

/* Is it the record that the primary has begun the session with? */
static ColoVerdict record_check(Record *r, const ColoQuestion *q, Error **errp)
{
    ColoVerdict verdict;

    if (!record_read(r, errp)) {
        return COLO_VERDICT_NOT_KNOWN;
    }
    if (!is_decided(r, q, &verdict, errp)) {
        return COLO_VERDICT_WON;
    }
    if (verdict != COLO_VERDICT_NOT_KNOWN) {
        error_setg(errp, "the session has not begun with '%s' as it is here, "
                   "or has been decided: both sides need the same file",
                   r->path);
    }
    return COLO_VERDICT_NOT_KNOWN;
}

static ColoVerdict record_answer(Record *r, ColoRequest request,
                                 const ColoQuestion *q, ColoRecordWait *wait,
                                 void *opaque, Error **errp)
{
    switch (request) {
    case COLO_REQUEST_BEGIN:
        return record_begin(r, q, wait, opaque, errp);
    case COLO_REQUEST_CHECK:
        return record_check(r, q, errp);
    case COLO_REQUEST_DECIDE:
        return record_decide(r, q, wait, opaque, errp);
    default:
        g_assert_not_reached();
    }
}

/*
 * O_DIRECT, so that what other hosts have written is seen, and written.  Where
 * that cannot be, a lock makes the page cache current.
 */
static int record_open(const char *path, bool create, Error **errp)
{
    int flags = O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_DSYNC |
                (create ? O_CREAT : 0);
    int fd = RETRY_ON_EINTR(open(path, flags | O_DIRECT, 0600));

    if (fd < 0 && errno == EINVAL) {
        fd = RETRY_ON_EINTR(open(path, flags, 0600));
    }
    if (fd < 0) {
        error_setg_file_open(errp, errno, path);
    }
    return fd;
}

/* Closing the file lets go of it */
static bool record_lock(Record *r, ColoRecordWait *wait, void *opaque,
                        Error **errp)
{
    int ms = LOCK_MIN_MS;
    int ret;

    while ((ret = qemu_lock_fd(r->fd, 0, 0, true)) == -EAGAIN ||
           ret == -EACCES) {
        if (!wait(opaque, ms)) {
            error_setg(errp, "another process has '%s' locked", r->path);
            return false;
        }
        ms = MIN(ms * 2, LOCK_MAX_MS);
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "could not lock '%s'", r->path);
        return false;
    }
    return true;
}

ColoVerdict colo_record_ask(const char *path, ColoRequest request,
                            const ColoQuestion *q, ColoRecordWait *wait,
                            void *opaque, Error **errp)
{
    ColoVerdict verdict = COLO_VERDICT_NOT_KNOWN;
    Record r = { .path = path };

    r.fd = record_open(path, request == COLO_REQUEST_BEGIN, errp);
    if (r.fd < 0) {
        return COLO_VERDICT_NOT_KNOWN;
    }
    r.data = qemu_memalign(COLO_RECORD_BLOCK, COLO_RECORD_BYTES);
    if (record_lock(&r, wait, opaque, errp)) {
        verdict = record_answer(&r, request, q, wait, opaque, errp);
    }
    qemu_vfree(r.data);
    close(r.fd);
    return verdict;
}
