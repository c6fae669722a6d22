# SPDX-License-Identifier: GPL-2.0-or-later
"""The end-to-end tests; importing the package registers them."""

from . import ends, fault, kill, loss, monitor, ram, soak  # noqa: F401
