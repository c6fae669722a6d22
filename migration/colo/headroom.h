/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: how much memory may this process still take?
 */

#ifndef QEMU_MIGRATION_COLO_HEADROOM_H
#define QEMU_MIGRATION_COLO_HEADROOM_H

/*
 * colo_headroom: bytes until a limit of a memory cgroup of this process
 *
 * What the kernel can reclaim from the page cache counts as free.  UINT64_MAX
 * if there is no limit, or none that can be read.  Reads small files; any
 * thread.
 */
uint64_t colo_headroom(void);

/*
 * The same for the cgroups in @proc_file ("/proc/self/cgroup") of the
 * hierarchies that are mounted below @root ("/sys/fs/cgroup").
 */
uint64_t colo_headroom_of(const char *proc_file, const char *root);

#endif
