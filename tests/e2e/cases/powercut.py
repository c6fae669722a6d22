# SPDX-License-Identifier: GPL-2.0-or-later
"""Replicated disks when the power fails: both QEMUs are killed at once.

No guest is left to ask, so the images are read.
"""

from __future__ import annotations

import random
import signal
import time
from typing import Callable

from colo import client, disks, qmp, vm

from .disks import start_writers
from .registry import Context, check, test, wait_for

ROUNDS_QUICK = 1
ROUNDS_LONG = 30
MOMENT_SECONDS = (0.1, 1.5)     # after protection is there
LIVE_SECONDS = 0.3              # after the survivor has gone live, at most
CONNECT_SECONDS = 5.0
FOLDED = 'BLOCK_JOB_COMPLETED'
LAYOUT = disks.Disks(kind='qcow2')


def kill(*sides: vm.Vm) -> None:
    for side in sides:
        side.signal(signal.SIGKILL)
    for side in sides:
        side.wait_exit()


def durable(writer: client.Client) -> int:
    """What the guest has told its client, in blocks."""
    end = writer.stop()
    check('no connection' in end['why'], f'{end["why"]}: {end}')
    return int(end['acked'])


def check_metadata(pair: vm.Pair, live: bool) -> None:
    """@live: the secondary has gone live, its overlays are not emptied."""
    for host in 'ab':
        path = disks.image(pair.run, host, 0)
        disks.check_metadata(pair.machine, path, LAYOUT.kind)
    for name in disks.OVERLAYS:
        path = disks.overlay(pair.run, pair.vm('secondary').host, 0, name)
        if not live:
            disks.repair_emptied(pair.machine, path)
        disks.check_metadata(pair.machine, path, 'qcow2')


def both(pair: vm.Pair, writer: client.Client) -> int:
    """The power of both hosts fails; the primary's image has all."""
    kill(pair.vm('primary'), pair.vm('secondary'))
    acked = durable(writer)
    check_metadata(pair, False)
    disks.check_image(pair.machine, disks.image(pair.run, 'a', 0), acked=acked)
    return acked


def survivor(pair: vm.Pair, writer: client.Client, rng: random.Random) -> int:
    """First that of the primary, then that of the survivor: until the overlays
    are in its image they are part of the disk."""
    secondary = pair.vm('secondary')
    pair.fence('primary')
    pair.failover('secondary')
    time.sleep(rng.uniform(0, LIVE_SECONDS))
    kill(secondary)
    acked = durable(writer)
    try:
        while True:
            secondary.monitor.poll()
            time.sleep(0.01)
    except qmp.QmpClosed:
        pass
    check_metadata(pair, True)
    overlays = [] if secondary.monitor.find_event(FOLDED) else [
        disks.overlay(pair.run, secondary.host, 0, name)
        for name in ('hidden', 'active')]
    disks.check_image(pair.machine, disks.image(pair.run, secondary.host, 0),
                      *overlays, acked=acked)
    return acked


def rounds(ctx: Context, mode: str,
           cut: Callable[[vm.Pair, client.Client], int]) -> None:
    count = ROUNDS_LONG if ctx.long else ROUNDS_QUICK
    rng = ctx.rng(f'powercut/{mode}')
    blocks = 0
    machine = vm.replace(ctx.machine, memory='256', mode=mode, disks=LAYOUT)
    state = vm.boot_once(ctx.hosts, machine, ctx.run)
    for _ in range(count):
        with vm.Pair(ctx.hosts, machine, ctx.run) as pair:
            pair.start_primary(state=state)
            pair.start_secondary()
            writer = start_writers(pair, connect_seconds=CONNECT_SECONDS)[0]
            pair.protect()
            before = int(writer.poll().get('acked', 0))
            time.sleep(rng.uniform(*MOMENT_SECONDS))
            wait_for('blocks', lambda: writer.poll().get('acked', 0) > before)
            blocks += cut(pair, writer)
    ctx.note(f'{count} power cuts, {blocks} blocks')


@test('/colo/e2e/disk/power-cut')
def periodic(ctx: Context) -> None:
    rounds(ctx, 'periodic', both)


@test('/colo/e2e/disk/hybrid/power-cut')
def hybrid(ctx: Context) -> None:
    rounds(ctx, 'hybrid', both)


@test('/colo/e2e/disk/power-cut/survivor')
def survivor_periodic(ctx: Context) -> None:
    rng = ctx.rng('powercut/survivor')
    rounds(ctx, 'periodic', lambda pair, writer: survivor(pair, writer, rng))


@test('/colo/e2e/disk/hybrid/power-cut/survivor', long_only=True)
def survivor_hybrid(ctx: Context) -> None:
    rng = ctx.rng('powercut/survivor')
    rounds(ctx, 'hybrid', lambda pair, writer: survivor(pair, writer, rng))
