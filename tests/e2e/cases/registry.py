# SPDX-License-Identifier: GPL-2.0-or-later
"""What a test is, and what it gets to work with."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from colo import client, guest, net, product, vm

# On a slow machine that has other work, too; but less than a minute, which is
# the timeout of the sessions that must not have to wait for it
WAIT_SECONDS = 45.0


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
    kills: int | None = None    # how many, if somebody has said so
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
CLUSTER: set[str] = set()       # tests that need Pacemaker


def test(path: str, long_only: bool = False,
         kernel: str | None = None,
         cluster: bool = False) -> Callable[[Test], Test]:
    """Register a test by its path, e.g. /colo/e2e/kill.

    @kernel: the guest needs that one (see guest.py).  @cluster: Pacemaker is
    needed (see cluster.py).  They are fetched while there is a network.
    """
    def register(function: Test) -> Test:
        assert path not in TESTS
        TESTS[path] = function
        if long_only:
            LONG_ONLY.add(path)
        if kernel:
            KERNELS[path] = kernel
        if cluster:
            CLUSTER.add(path)
        return function
    return register


def check(holds: bool, text: str) -> None:
    if not holds:
        raise Failed(text)


def wait_for(what: str, condition: Callable[[], bool],
             timeout: float = WAIT_SECONDS) -> None:
    """Until @condition holds; a failure if it does not in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f'{what}: not within {timeout} s')
        time.sleep(0.01)


def report(running: client.Client) -> dict[str, Any]:
    """What the client says from now on.  Its last report may be older than
    what was just done."""
    now = time.monotonic_ns()

    def is_new() -> bool:
        last = running.poll()
        check(not running.end, f'{running.mode} has ended: {last}')
        return int(last.get('at_ns', 0)) > now
    wait_for(f'a report of {running.mode}', is_new)
    return running.last


def wait_more(running: client.Client, more: int = 1) -> None:
    """The client gets so much more from now on: the service is there."""
    first = report(running)
    key = next(key for key in ('received', 'bytes', 'count') if key in first)

    def is_there() -> bool:
        last = running.poll()
        check(not running.end, f'{running.mode} has ended: {last}')
        return int(last[key]) >= int(first[key]) + more
    wait_for(f'{more} more {key} for {running.mode}', is_there)


def wait_lines(ticker: client.Client, more: int = 50) -> None:
    """The client gets so many lines more."""
    wait_more(ticker, more)


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
           'check_intact', 'check_verified', 'guest', 'report', 'test',
           'wait_for', 'wait_lines', 'wait_more']
