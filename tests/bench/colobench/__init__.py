# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of the benchmark.

variants  what is compared: the guest alone, stock COLO, stock COLO with one
          fault mended, ours; and how each is started
control   commands to the guest
disk      cells of the disk tables
measure   one cell of the tables: start a pair, load it, read what came out
report    the tables as text
plot      the same as SVG

The hosts, guests and clients are those of the end-to-end tests (../../e2e).
"""
