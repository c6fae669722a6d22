/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: an emulator of TPMs that computes nothing.
 *
 * Each QEMU that connects has a TPM of its own, served by threads.  The answer
 * to a command of the guest is FAKE_TPM_ANSWER, and may be late.  The state is
 * a few bytes that QEMU carries from one to the other.
 */

#ifndef TESTS_QTEST_COLO_FAKE_TPM_H
#define TESTS_QTEST_COLO_FAKE_TPM_H

#define FAKE_TPM_ANSWER "\x80\x01\0\0\0\x0e\0\0\0\0" "done"
#define FAKE_TPM_BYTES  14

typedef struct FakeTpm FakeTpm;

/* Listen on @path */
FakeTpm *fake_tpm_new(const char *path);

/* From now on answers come so late */
void fake_tpm_delay(FakeTpm *t, unsigned ms);

/* How many commands have arrived */
unsigned fake_tpm_commands(FakeTpm *t);

/* When all QEMUs have ended */
void fake_tpm_free(FakeTpm *t);

#endif
