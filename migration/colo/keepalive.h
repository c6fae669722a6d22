/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO: signs of life beside the session's thread.
 */

#ifndef QEMU_MIGRATION_COLO_KEEPALIVE_H
#define QEMU_MIGRATION_COLO_KEEPALIVE_H

#include "wire.h"

typedef struct ColoKeepalive ColoKeepalive;

/*
 * colo_keepalive_start: a thread sends 'alive' frames on @w
 *
 * Every quarter of the timeout of @w, and at least ten times a second, with the
 * value of colo_progress() at that time, until colo_keepalive_stop(), which waits
 * for the thread to end: no longer than one attempt to write to a socket that
 * does not block.  Any thread; @w has to live until then.
 */
ColoKeepalive *colo_keepalive_start(ColoWire *w);
void colo_keepalive_stop(ColoKeepalive *k);

#endif
