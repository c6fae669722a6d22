# SPDX-License-Identifier: GPL-2.0-or-later
"""The end-to-end tests; importing the package registers them."""

from . import (diskfault, disks, ends, fault, first,        # noqa: F401
               generation, hybrid, inputs, kill, life, loss, monitor, nics,
               ram, selfcheck, soak)
