# SPDX-License-Identifier: GPL-2.0-or-later
"""The end-to-end tests; importing the package registers them."""

from . import (ends, fault, first, hybrid, kill, loss, monitor,  # noqa: F401
               ram, selfcheck, soak)
