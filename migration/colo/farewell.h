/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: a connection that is over on this side and not on the other.  Not for
 * base code.
 */

#ifndef QEMU_MIGRATION_COLO_FAREWELL_H
#define QEMU_MIGRATION_COLO_FAREWELL_H

#include "io/channel.h"

/*
 * colo_farewell: keep the connection of @ioc open until the peer has closed it,
 * whatever becomes of @ioc
 *
 * What was written last can be read there as long as this process lives.  Any
 * thread.  Only for channels that are sockets at their lower end; others are
 * left alone.
 */
void colo_farewell(QIOChannel *ioc);

#endif
