# SPDX-License-Identifier: GPL-2.0-or-later
"""The end-to-end tests; importing the package registers them."""

from . import (ends, fault, first, hybrid, inputs, kill, loss,  # noqa: F401
               monitor, nics, ram, selfcheck, soak)
