# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of the time the primary is in checkpoints.

query-colo-status has percentiles, and a share of the time needs sums.  So the
primary writes a line for each of its states, with the time, while a client is
measured: the trace event colo_state.  There are half a dozen in a checkpoint.
A checkpoint is from the state "requesting" until the secondary has loaded it.
"""

from __future__ import annotations

import re
import time
from typing import Iterator

from colo import product, qmp

from . import variants

STATES = ('requesting', 'cutting', 'sending', 'committing', 'loading')
EVENT = 'colo_state'
LINE = re.compile(rb'@([0-9]+\.[0-9]+):' + EVENT.encode('ascii') +
                  rb' \d+ primary: ([a-z]+) -> ([a-z]+):')


def spent(changes: list[tuple[float, str, str]], begin: float,
          end: float) -> float:
    """Seconds of @begin to @end in checkpoints; @changes are when, from, to,
    at least one."""
    total = 0.0
    since = begin
    for at, before, _ in changes:
        at = min(max(at, begin), end)
        total += at - since if before in STATES else 0
        since = at
    return total + (end - since if changes[-1][2] in STATES else 0)


class Checkpoints:
    """Those of a primary, from when this is made until it is stopped."""

    def __init__(self, pair: variants.BenchPair):
        self.primary = pair.vm('primary')
        self.offset = self.primary.log.stat().st_size
        self._trace(True)
        self.count = product.status(self.primary.monitor).checkpoints
        self.begin = self.end = time.time()

    def _trace(self, enable: bool) -> None:
        self.primary.monitor.execute('trace-event-set-state', {
            'name': EVENT, 'enable': enable})

    def stop(self) -> None:
        self.end = time.time()
        self._trace(False)

    def _changes(self) -> Iterator[tuple[float, str, str]]:
        with open(self.primary.log, 'rb') as log:
            log.seek(self.offset)
            for line in log:
                if match := LINE.search(line):
                    yield (float(match[1]), match[2].decode('ascii'),
                           match[3].decode('ascii'))

    def share(self) -> float | None:
        """After stop(); None if this QEMU writes its trace elsewhere."""
        changes = list(self._changes())
        if not changes:
            status = product.status(self.primary.monitor)
            if status.checkpoints > self.count:
                return None
            return 1.0 if status.state in STATES else 0.0
        return spent(changes, self.begin, self.end) / (self.end - self.begin)


def watch(pair: variants.BenchPair) -> Checkpoints | None:
    """None if this QEMU cannot say."""
    try:
        return Checkpoints(pair)
    except qmp.QmpError:
        return None
