# SPDX-License-Identifier: GPL-2.0-or-later
"""What a test is, and what it gets to work with."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from colo import client, guest, net, product, vm

LINES_SECONDS = 20.0


class Failed(Exception):
    """What the test proves does not hold."""


class Skip(Exception):
    """The test cannot be run here; the text says why."""


@dataclass
class Context:
    """One run of the tests."""
    hosts: net.Hosts
    machine: vm.Machine
    run: Path
    long: bool
    seed: int
    notes: list[str] = field(default_factory=list)

    def rng(self, salt: str) -> random.Random:
        return random.Random(f'{self.seed}/{salt}')

    def note(self, text: str) -> None:
        """A line that is printed with the result."""
        self.notes.append(text)

    def pair(self, **changes: Any) -> vm.Pair:
        """A pair of machines like ours, but for @changes."""
        machine = vm.replace(self.machine, **changes)
        while self.hosts.networks < machine.nics:
            self.hosts.add_network()
        return vm.Pair(self.hosts, machine, self.run)

    def protected(self, pair: vm.Pair, **parameters: Any) -> vm.Pair:
        """Boot the guest and protect it."""
        pair.start_primary()
        pair.start_secondary()
        pair.protect(**parameters)
        return pair


Test = Callable[[Context], None]
TESTS: dict[str, Test] = {}
LONG_ONLY: set[str] = set()
KERNELS: dict[str, str] = {}    # of tests that need another one


def test(path: str, long_only: bool = False,
         kernel: str | None = None) -> Callable[[Test], Test]:
    """Register a test by its path, e.g. /colo/e2e/kill.

    @kernel: the guest needs that one (see guest.py); it is fetched while there
    is a network.
    """
    def register(function: Test) -> Test:
        assert path not in TESTS
        TESTS[path] = function
        if long_only:
            LONG_ONLY.add(path)
        if kernel:
            KERNELS[path] = kernel
        return function
    return register


def check(holds: bool, text: str) -> None:
    if not holds:
        raise Failed(text)


def wait_for(what: str, condition: Callable[[], bool],
             timeout: float = 20.0) -> None:
    """Until @condition holds; a failure if it does not in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f'{what}: not within {timeout} s')
        time.sleep(0.01)


def wait_lines(ticker: client.Client, more: int = 50) -> None:
    """The client gets so many lines more: the service is there."""
    goal = ticker.poll().get('received', 0) + more
    wait_for(f'{more} more lines of the ticker',
             lambda: ticker.poll().get('received', 0) >= goal, LINES_SECONDS)


def wait_served(running: client.Client) -> None:
    """The client gets something more: it has not been left out."""
    def count() -> int:
        last = running.poll()
        return int(last.get('received') or last.get('bytes') or
                   last.get('count') or 0)
    before = count()
    wait_for(f'more for {running.mode}', lambda: count() > before,
             LINES_SECONDS)


def check_intact(running: client.Client) -> dict[str, Any]:
    end = running.stop()
    check(bool(end['intact']), f'{running.mode}: {end["why"]}: {end}')
    return end


def check_verified(status: product.Status, at_least: int) -> int:
    """RAM, and the disks, were compared that often and never differed."""
    check(status.mismatches == 0, f'{status.mismatches} RAM mismatches')
    check(status.disk_mismatches == 0,
          f'{status.disk_mismatches} mismatches of disks')
    check(status.verified >= at_least,
          f'RAM was compared {status.verified} times, not {at_least}')
    return status.verified


__all__ = ['Context', 'Failed', 'LONG_ONLY', 'Skip', 'TESTS', 'check',
           'check_intact', 'check_verified', 'guest', 'test', 'wait_for',
           'wait_lines', 'wait_served']
