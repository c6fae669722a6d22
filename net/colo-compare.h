/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * colo-compare: what QEMU's exit calls.  BQL.
 */

#ifndef QEMU_NET_COLO_COMPARE_H
#define QEMU_NET_COLO_COMPARE_H

/*
 * colo_compare_cleanup: all colo-compare objects stop to work
 *
 * Before the character devices go: an iothread works with them.
 */
void colo_compare_cleanup(void);

#endif
