# SPDX-License-Identifier: GPL-2.0-or-later
"""The end-to-end tests; importing the package registers them."""

from . import (disks, ends, fault, first, hybrid, inputs,  # noqa: F401
               kill, life, loss, monitor, nics, ram, selfcheck, soak)
