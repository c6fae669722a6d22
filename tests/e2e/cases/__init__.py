# SPDX-License-Identifier: GPL-2.0-or-later
"""The end-to-end tests; importing the package registers them."""

from . import (calls, decision, diskbus, diskerror,         # noqa: F401
               diskfault, disks, diskthread, document, ends, fault,
               faultdisks, faultresync, first, folding, generation, grow,
               heartbeat, hybrid, inputs, kill, life, loss, machine, monitor,
               network, nics, pacemaker, powercut, ram, resync, selfcheck,
               setup, shared, soak, switchover, tls, verify)
