# SPDX-License-Identifier: GPL-2.0-or-later
"""Cells of the disk tables: what a guest gets written.

The guest writes past its own cache, to a disk that has been written to once
before.  Each variant has a pair for each place of the images; the guest alone
has an ordinary disk there.

A burst is less than the log of a primary takes, and then the guest rests, so
that the log can get empty.  Its speed is that of the guest's clock, less the
share of time in which the guest stood for checkpoints.  All else goes on
without a rest and is counted by the host's clock.
"""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable

from colo import disks, net

from . import variants
from .control import Control
from .measure import (BOOT_DEADLINE, POLL_SECONDS, QUIET_SECONDS, Cell, Hung,
                      Pauses, deadline, guarded, percentiles)

LOG_MIB = 64            # the default of ours
# Of a disk that is slower than the CPUs.  What QEMU's limit lets through at
# once is a tenth of that, so bursts see little of it
LIMIT_MB = 200
WARM_SECONDS = 1.0
FILL_DEADLINE = 180.0
DEVICE = '/dev/vda'


@dataclass(frozen=True)
class Test:
    """A load, see ../../e2e/guest/colo-guest-diskload.c."""
    name: str
    title: str
    kind: str
    threads: int
    burst_mib: int = 0
    rest_ms: int = 0

    def command(self, set_mib: int) -> str:
        return (f'diskload {DEVICE} {self.kind} {set_mib} {self.threads} '
                f'{self.burst_mib} {self.rest_ms}')


TESTS = (
    Test('durable', '4 KiB at random, each made durable, one at a time',
         'durable', 1),
    Test('burst-random', '4 KiB at random, 4 at a time, bursts of 8 MiB',
         'random', 4, 8, 1000),
    Test('burst-sequential', '1 MiB in sequence, bursts of 32 MiB',
         'sequential', 1, 32, 1500),
    Test('random', '4 KiB at random, 4 at a time, without a rest',
         'random', 4),
    Test('sequential', '1 MiB in sequence, without a rest', 'sequential', 1),
)
TITLES = {test.name: test.title for test in TESTS}


@dataclass(frozen=True)
class Place:
    """Where the images are."""
    name: str
    primary: Path                   # directory of the images of host a
    secondary: Path                 # maybe the same, of those of host b
    direct: bool                    # O_DIRECT
    bytes_per_second: int | None = None     # the limit of each host's disk

    def prepare(self, layout: disks.Disks) -> None:
        """The images of host b are made where links lead to."""
        if self.secondary != self.primary:
            for path in disks.files(self.primary, 'b', layout):
                path.symlink_to(self.secondary / path.name)

    def clean(self) -> None:
        for directory in (self.primary, self.secondary):
            disks.remove_images(directory)


PLACES = {
    'memory': 'images in memory',
    'disk': 'images of both hosts on one disk',
    'apart': 'images on disk, those of the secondary in memory',
    'limited': f'images in memory, {LIMIT_MB} MB/s, {LIMIT_MB // 10} MB at once',
}


@dataclass(frozen=True)
class Plan:
    """How long and how much; the same for all variants."""
    seconds: float
    mib: int                        # of the disk, all of which is used
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Sample:
    """What the guest has done so far."""
    at: float
    writes: int
    bytes: int
    busy_ns: int
    longest_ns: int


def sample(guest: Control, command: str = 'diskload') -> Sample:
    numbers = [int(word) for word in guest(command).split()]
    return Sample(time.monotonic(), *numbers)


@dataclass(frozen=True)
class Work:
    """What this machine has done so far, both hosts and all else on it."""
    at: float
    idle: int                       # ticks of all CPUs
    ticks: int
    device_bytes: int | None        # written to what the images are on

    @staticmethod
    def of(place: Place) -> Work:
        words = Path('/proc/stat').read_text().split('\n')[0].split()[1:9]
        ticks = [int(word) for word in words]
        number = os.stat(place.primary).st_dev
        device = Path(f'/sys/dev/block/{os.major(number)}:'
                      f'{os.minor(number)}/stat')
        written = int(device.read_text().split()[6]) * 512 \
            if device.exists() else None
        # Idle, and idle while something waits for a disk
        return Work(time.monotonic(), ticks[3] + ticks[4], sum(ticks), written)

    def since(self, before: Work, cell: Cell) -> None:
        cell['idle'] = (self.idle - before.idle) / \
            max(self.ticks - before.ticks, 1)
        if self.device_bytes is not None and before.device_bytes is not None:
            cell['device_mb_per_s'] = (
                self.device_bytes - before.device_bytes) / \
                (self.at - before.at) / 1e6


def log_of(own: dict[str, Any]) -> dict[str, int]:
    return dict(own['disks'][0]['log'])


class DiskBench:
    """Makes cells."""

    def __init__(self, hosts: net.Hosts, plan: Plan,
                 machines: dict[str, variants.Machine]):
        """@machines has one for each variant, by its key."""
        self.hosts = hosts
        self.plan = plan
        self.machines = machines

    def run(self, variant: variants.Variant,
            done: Callable[[Cell], None]) -> None:
        """@done gets each cell.  After a hang the next test gets a new
        pair."""
        for place in self.plan.places:
            layout = disks.Disks(mib=self.plan.mib, direct=place.direct,
                                 bytes_per_second=place.bytes_per_second,
                                 plain=not variant.protected,
                                 batch=variant.kind == 'ours')
            machine = replace(self.machines[variant.key], disks=layout)
            pair = variants.make_pair(self.hosts, variant, machine,
                                      place.primary)
            place.prepare(layout)
            try:
                for test in TESTS:
                    cell: Cell = {'kind': 'disk', 'variant': variant.key,
                                  'place': place.name, 'test': test.name}
                    if not guarded(cell, functools.partial(
                            self._test, variant, pair, place, test, cell)):
                        pair.close()
                    done(cell)
            finally:
                pair.close()
                place.clean()

    def _start(self, pair: variants.BenchPair) -> None:
        with deadline(FILL_DEADLINE, 'first writes'):
            pair.start_primary()
            with Control() as guest:
                guest(f'diskload {DEVICE} sequential {self.plan.mib} 1 0 0')
                while sample(guest).bytes < self.plan.mib << 20:
                    time.sleep(POLL_SECONDS)
                guest('diskload off')
        with deadline(BOOT_DEADLINE, 'start of the pair'):
            pair.protect_at(None)
            pair.control('ping')

    def _test(self, variant: variants.Variant, pair: variants.BenchPair,
              place: Place, test: Test, cell: Cell) -> None:
        if not pair.primary:
            self._start(pair)
        limit = self.plan.seconds + WARM_SECONDS + 2 * QUIET_SECONDS
        with deadline(limit, test.name), Control() as guest:
            guest(test.command(self.plan.mib))
            time.sleep(WARM_SECONDS)
            before = Work.of(place)
            self._window(variant, pair, test, guest, cell)
            Work.of(place).since(before, cell)

    def _window(self, variant: variants.Variant, pair: variants.BenchPair,
                test: Test, guest: Control, cell: Cell) -> None:
        pauses = Pauses(pair) if variant.protected else None
        own = pair.own_statistics()
        before = sample(guest)
        end = before.at + self.plan.seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))
            if pauses:
                pauses.take()
        after = sample(guest, 'diskload off')
        elapsed = after.at - before.at
        written = after.bytes - before.bytes
        if not written:
            raise Hung('the guest got nothing written')
        cell['longest_ms'] = after.longest_ns / 1e6
        stood = 0.0
        if pauses:
            pauses.take()
            stood = sum(pauses.ms) / 1e3 / elapsed
            cell['checkpoints'] = len(pauses.ms)
            cell['mib_per_checkpoint'] = \
                written / (1 << 20) / max(len(pauses.ms), 1)
            cell['stood'] = stood
            if pauses.ms:
                cell['pause_ms'] = percentiles(pauses.ms)
        if test.burst_mib:
            busy = (after.busy_ns - before.busy_ns) / 1e9
            if busy <= 0:
                raise Hung('no burst ended in the whole time')
            elapsed = busy / max(1 - stood, 0.001)
        cell['per_second'] = (after.writes - before.writes) / elapsed
        cell['mb_per_s'] = written / elapsed / 1e6
        if variant.kind == 'ours':
            self._own(own, pair.own_statistics(), cell)

    @staticmethod
    def _own(before: dict[str, Any], after: dict[str, Any],
             cell: Cell) -> None:
        """What query-colo-status says; peaks are of the whole session."""
        log, then = log_of(after), log_of(before)
        cell['log_peak_mib'] = log['peak'] / (1 << 20)
        cell['log_limit_mib'] = log['limit'] / (1 << 20)
        cell['throttled_s'] = (log['throttled-ns'] -
                               then['throttled-ns']) / 1e9
        cell['own_commit_ms'] = {name: after['commit'][name] / 1000
                                 for name in ('p50', 'p99', 'max')}
