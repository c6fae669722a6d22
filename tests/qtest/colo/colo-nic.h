/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * COLO qtests: the driver of a virtio-net-pci that sends.
 */

#ifndef TESTS_QTEST_COLO_NIC_H
#define TESTS_QTEST_COLO_NIC_H

#include "libqtest.h"

#define COLO_NIC_RING   256     /* packets */

typedef struct ColoNic ColoNic;

/* On a pc without firmware and processor; @slot: where the NIC is */
ColoNic *colo_nic_new(QTestState *qts, int slot);
void colo_nic_free(ColoNic *nic);

/* Give it @count packets of @bytes each */
void colo_nic_send(ColoNic *nic, size_t bytes, unsigned count);

/* How many it has done since it was asked last */
unsigned colo_nic_sent(ColoNic *nic);

void colo_nic_reset(ColoNic *nic);

#endif
