/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO fuzz targets: what libFuzzer calls.
 */

#ifndef TESTS_FUZZ_COLO_FUZZ_H
#define TESTS_FUZZ_COLO_FUZZ_H

/* One input; returns 0, or aborts when something does not hold */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
