/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: a client of NBD that can stop in the middle.
 */

#ifndef TESTS_QTEST_COLO_NBD_H
#define TESTS_QTEST_COLO_NBD_H

/* Connect to the export with this name (NBD_OPT_EXPORT_NAME) */
int colo_nbd_client(const char *path, char name);

/*
 * Add the beginning of a request to @to, or send it; for a write (1) what is
 * written follows.  0 is a read.
 */
void colo_nbd_pack(GByteArray *to, int type, uint64_t offset, uint32_t bytes);
void colo_nbd_request(int fd, int type, uint64_t offset, uint32_t bytes);

/* All of what was written has been read at the other end */
void colo_nbd_wait_taken(int fd);

/* Bytes as they are */
void colo_nbd_read(int fd, void *buf, size_t len);
void colo_nbd_write(int fd, const void *buf, size_t len);

/* The answer: 0, after which come the bytes of a read, or an errno */
int colo_nbd_answer(int fd);

/* A whole request, and the answer to it */
int colo_nbd_pread(int fd, void *buf, uint64_t offset, uint32_t bytes);
int colo_nbd_pwrite(int fd, const void *buf, uint64_t offset, uint32_t bytes);

#endif
