# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of the product's monitor interface, in one place."""

from __future__ import annotations

from typing import Any

from .qmp import Monitor, QmpError

CAPABILITY = 'x-colo'
FAILOVER = 'x-colo-lost-heartbeat'
EVENT_LOST = 'COLO_PEER_LOST'
EVENT_EXIT = 'COLO_EXIT'
EVENT_DISK = 'COLO_DISK_ERROR'
STATUS = 'query-colo-status'
FAULT_POINTS = 'query-colo-fault-points'
FAULT_INJECT = 'x-colo-fault-inject'
GATE_TYPE = 'filter-output-commit'
VERIFY_RAM = 'migration.x-colo-verify-ram=on'
PARAMETER_DELAY = 'x-checkpoint-delay'          # ms
PARAMETER_MODE = 'x-colo-mode'
PARAMETER_TIMEOUT = 'x-colo-timeout'            # ms
PARAMETER_STAGING = 'x-colo-staging-limit'      # bytes


class Status:
    """The answer of query-colo-status."""

    def __init__(self, raw: dict[str, Any]):
        self.raw = raw
        self.mode = str(raw.get('mode', 'none'))
        self.last_mode = str(raw.get('last-mode', 'none'))
        self.reason = str(raw.get('reason', 'none'))
        self.state = str(raw.get('state', ''))
        self.epoch = int(raw.get('epoch', 0))
        self.statistics: dict[str, Any] = raw.get('statistics') or {}

    def _number(self, *keys: str) -> int:
        """The first of @keys that is there; a test that needs none fails."""
        for key in keys:
            if key in self.statistics:
                return int(self.statistics[key])
        raise KeyError(f'query-colo-status has none of {", ".join(keys)}')

    @property
    def checkpoints(self) -> int:
        return self._number('checkpoints')

    @property
    def verified(self) -> int:
        return self._number('checkpoints-verified')

    @property
    def mismatches(self) -> int:
        return self._number('ram-mismatches')

    @property
    def disk_mismatches(self) -> int:
        return self._number('disk-mismatches')

    @property
    def pause_us(self) -> dict[str, int]:
        """The guest's pauses: p50, p99, max in microseconds."""
        nested = self.statistics.get('pause')
        if isinstance(nested, dict):
            return {key: int(nested[key]) for key in ('p50', 'p99', 'max')}
        return {key: self._number(f'pause-{key}', f'pause-{key}-us')
                for key in ('p50', 'p99', 'max')}


def status(monitor: Monitor) -> Status:
    return Status(monitor.execute(STATUS))


def available(monitor: Monitor) -> bool:
    """Whether this QEMU has the product at all."""
    commands = {item['name'] for item in monitor.execute('query-commands')}
    return {STATUS, FAILOVER} <= commands


def fault_points(monitor: Monitor) -> list[str]:
    """The names of the fault points, none if they are compiled out."""
    try:
        answer = monitor.execute(FAULT_POINTS)
    except QmpError:
        return []
    return [item if isinstance(item, str) else str(item['name'])
            for item in answer]
