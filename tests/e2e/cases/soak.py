# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing grows over many checkpoints."""

from __future__ import annotations

import os
import time
from pathlib import Path

from colo import vm

from .registry import Context, check, check_intact, test, wait_for

WARM_UP = 200
CHECKPOINTS_QUICK = 4000
CHECKPOINTS_LONG = 16000
LEAST_OF = 200              # checkpoints
# Checkpoints that follow each other closely: what two loads leave until it is
# freed takes up to 12 MiB.  With so many of them that is 4 KiB for each
SLACK_CLOSE_KIB = 16384
SLACK_KIB = 4096
SLACK_QUICK_KIB = 8192      # half a minute is hardly more than warming up
SOAK_QUICK = 30.0
SOAK_LONG = 2 * 3600.0      # seconds; COLO_SOAK_SECONDS says otherwise
SAMPLES = 24                # of the memory; the first quarter warms up
MONITOR_SECONDS = 1.0
SIDES = ('primary', 'secondary')
FLOWS = 64                  # the clients have a handful of connections


def soak_seconds(ctx: Context) -> float:
    return float(os.environ.get('COLO_SOAK_SECONDS') or
                 (SOAK_LONG if ctx.long else SOAK_QUICK))


class Resident:
    """What a QEMU has in memory now, in KiB."""

    def __init__(self, side: vm.Vm):
        self.total = 0
        # All mappings but guest RAM, which its guest touches bit by bit and a
        # fork does not copy, and what is executable: translated code
        self.heap = 0
        code = False
        resident = 0
        text = Path(f'/proc/{side.pid}/smaps').read_text(encoding='ascii')
        for line in text.splitlines():
            words = line.split()
            if not words[0].endswith(':'):
                code = 'x' in words[1]
            elif words[0] == 'Rss:':
                resident = int(words[1])
                self.total += resident
            elif words[0] == 'VmFlags:' and not code and 'dc' not in words:
                self.heap += resident


def least(pair: vm.Pair) -> dict[str, tuple[int, int]]:
    """The least of all and of the heap of each side.  What a load has replaced
    is freed later (RCU), much of it at a time, so both go up and down; what
    leaks stays."""
    seen: dict[str, list[Resident]] = {side: [] for side in SIDES}
    for _ in range(LEAST_OF):
        pair.wait_checkpoints(1, 60)
        for side in SIDES:
            seen[side].append(Resident(pair.vm(side)))
    return {side: (min(sample.total for sample in samples),
                   min(sample.heap for sample in samples))
            for side, samples in seen.items()}


@test('/colo/e2e/soak/memory', long_only=True)
def memory(ctx: Context) -> None:
    """The memory of both QEMUs is flat over many checkpoints."""
    count = CHECKPOINTS_LONG if ctx.long else CHECKPOINTS_QUICK
    with ctx.pair(memory='256') as pair:
        ctx.protected(pair, x_checkpoint_delay=2)
        ticker = pair.client('ticker')
        pair.wait_checkpoints(WARM_UP, 60)
        before = least(pair)
        pair.wait_checkpoints(count, count / 8)
        after = least(pair)
        check_intact(ticker)
    for side in SIDES:
        (total, heap), (total_now, heap_now) = before[side], after[side]
        ctx.note(f'{side}, resident KiB: {total} -> {total_now}, beside RAM '
                 f'and code {heap} -> {heap_now}')
    for side in SIDES:
        check(after[side][1] - before[side][1] < SLACK_CLOSE_KIB,
              f'{side}: it grew from {before[side][1]} to {after[side][1]} KiB')


def queued(pair: vm.Pair) -> int:
    return pair.compared()['queued-packets']


def shown(sizes: list[int]) -> str:
    return ' '.join(f'{size / 1024:.1f}' for size in sizes)


def check_level(side: str, sizes: list[int], slack: int) -> None:
    """In the last quarter it is not larger than in the second: the least of
    each, see least()."""
    quarter = len(sizes) // 4
    old = min(sizes[quarter:2 * quarter])
    new = min(sizes[-quarter:])
    check(new - old < slack, f'{side}: it grew from {old} to {new} KiB')


@test('/colo/e2e/soak/hybrid')
def hybrid(ctx: Context) -> None:
    """Hybrid mode under mixed clients, connections that come and go among
    them: no growth of memory, connections or queues."""
    seconds = soak_seconds(ctx)
    sizes: dict[str, list[int]] = {side: [] for side in SIDES}
    with ctx.pair(mode='hybrid', memory='256') as pair:
        ctx.protected(pair)
        clients = [pair.client('ticker'), pair.client('echo', interval=5),
                   pair.client('http', path='/64k', connections=2)]

        def serve(until: float) -> None:
            asked = 0.0
            while (now := time.monotonic()) < until:
                if now - asked > MONITOR_SECONDS:
                    for side in SIDES:          # or its events pile up in QEMU
                        pair.vm(side).status()
                    asked = now
                pair.control('ping')        # a connection of its own
                for running in clients:
                    running.poll()          # or it stands, its pipe full
                    check(not running.end, 'a client ended')
                time.sleep(0.05)

        start = pair.vm('primary').status().checkpoints
        for _ in range(SAMPLES):
            serve(time.monotonic() + seconds / SAMPLES)
            for side in SIDES:
                sizes[side].append(Resident(pair.vm(side)).heap)
            compared = pair.compared()
            check(compared['flows'] < FLOWS, f'{compared["flows"]} flows')
        status = pair.vm('primary').status()
        for running in clients:
            check_intact(running)
        wait_for('empty queues', lambda: queued(pair) == 0)
    ctx.note(f'{seconds:.0f} s, {status.checkpoints - start} checkpoints, '
             f'{compared["released-equal"]} packets equal')
    for side in SIDES:
        ctx.note(f'{side}, MiB beside RAM and code: {shown(sizes[side])}')
    for side in SIDES:
        check_level(side, sizes[side],
                    SLACK_KIB if ctx.long else SLACK_QUICK_KIB)
