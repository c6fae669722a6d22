# SPDX-License-Identifier: GPL-2.0-or-later
"""Replicated disks when the power fails: both QEMUs are killed at once.

No guest is left to ask, so the images are read.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Callable

from colo import client, disks, product, qmp, vm
from colo import document as doc

from .disks import NEVER_MS, SPARE, start_writers
from .generation import MARK, expect, on_disk
from .registry import Context, check, test, wait_for

ROUNDS_QUICK = 1
ROUNDS_LONG = 30
MOMENT_SECONDS = (0.1, 1.5)     # after protection is there
LIVE_SECONDS = 0.3              # after the survivor has gone live, at most
CONNECT_SECONDS = 5.0
FOLDED = 'BLOCK_JOB_COMPLETED'
LAYOUT = disks.Disks(kind='qcow2')
COMMIT = 'commit-overlays'      # the block of the document
COMMIT_SECONDS = 60
CHECKPOINT_SECONDS = 30.0
PATTERN = 7
FOLD_BYTES = 64 << 10           # in a second: the whole takes minutes


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


# Commands of the document


def spare_arrived(secondary: vm.Vm) -> bool:
    try:
        disks.io(secondary, f'read -P {PATTERN} {SPARE} 512', 'parent0')
    except disks.DiskError:
        return False
    return True


def much_to_fold(pair: vm.Pair) -> None:
    """The primary dies, and the fold will not end before the survivor's guest
    has written.  What the survivor never saw is in its image, and what was
    there before is in the hidden overlay."""
    primary, secondary = pair.vm('primary'), pair.vm('secondary')
    primary.monitor.execute('migrate-set-parameters', {
        product.PARAMETER_DELAY: NEVER_MS})
    primary.monitor.execute('x-colo-checkpoint')
    pair.wait_checkpoints(1, CHECKPOINT_SECONDS)
    disks.io(primary, f'write -P {PATTERN} {SPARE} 512')
    wait_for('the spare sector', lambda: spare_arrived(secondary))
    if pair.machine.mode == 'periodic':
        disks.wait_fresh(primary, disks.SLOTS)
    pair.fence('primary')
    if pair.machine.mode == 'hybrid':
        disks.wait_fresh(secondary, disks.SLOTS)
    disks.limit_writes(secondary, FOLD_BYTES)


def progress(survivor: vm.Vm) -> None:
    """What the user sees of a fold that gets on."""
    def folded() -> int:
        jobs = survivor.monitor.execute('query-block-jobs')
        check(bool(jobs), 'the overlays are in the image already')
        shown, = survivor.status().raw['disks']
        check(shown['stage'] == 'folding', f'the disk is {shown}')
        check(shown['fold-bytes'] < shown['fold-total'], f'folded: {shown}')
        check(jobs[0]['len'] >= jobs[0]['offset'], f'the job is {jobs}')
        return int(shown['fold-bytes'])

    before = folded()
    wait_for('the fold to get on', lambda: folded() > before)


def dies_folding(pair: vm.Pair, writer: client.Client) -> int:
    """The survivor's guest has written each slot anew, and most of that is only
    in the overlays, when its power fails, too."""
    wait_for('blocks', lambda: int(writer.poll().get('acked', 0)) > 0)
    much_to_fold(pair)
    secondary = pair.vm('secondary')
    pair.failover('secondary')
    goal = int(writer.poll()['acked']) + 2 * disks.SLOTS
    wait_for('each slot', lambda: int(writer.poll()['acked']) >= goal)
    progress(secondary)
    kill(secondary)
    text = on_disk(pair, secondary.host)
    check(text == f'{MARK} 2 folding\n', f'on disk is {text!r}')
    return durable(writer)


def commit(pair: vm.Pair, host: str) -> None:
    """As the document says."""
    assert pair.machine.disks
    named = {f'/images/{name}0': path.with_suffix('') for name, path in (
        ('disk', disks.image(pair.run, host, 0)),
        *((name, disks.overlay(pair.run, host, 0, name))
          for name in disks.OVERLAYS))}
    script = doc.Document().block(COMMIT, {
        'raw': pair.machine.disks.kind,
        **{name: str(path) for name, path in named.items()}})
    path = f'{pair.machine.tools}:{os.environ["PATH"]}'
    done = subprocess.run(['sh', '-euc', script], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True,
                          env={**os.environ, 'PATH': path},
                          timeout=COMMIT_SECONDS, check=False)
    check(done.returncode == 0, f'{script}: {done.stdout}')


def is_whole(machine: vm.Machine, path: Path, acked: int) -> bool:
    try:
        disks.check_image(machine, path, acked=acked)
    except disks.DiskError:
        return False
    return True


def goes_on_from(pair: vm.Pair, host: str, state: Path) -> None:
    """A pair with that image, and the old one of the other host."""
    other = 'b' if host == 'a' else 'a'
    primary = pair.start_primary(host, state=state)
    disks.resync(primary, pair.start_secondary(other), 'hash')
    pair.protect()
    expect(pair, host, 3, 'primary')
    expect(pair, other, 3, 'secondary')


@test('/colo/e2e/document/folding')
def folding(ctx: Context) -> None:
    """Both hosts die, the survivor while its overlays are needed still: the
    document's commands make its image whole, which it is not without."""
    blocks = 0
    state = None
    for kind, mode in (('raw', 'periodic'), ('qcow2', 'hybrid')):
        layout = disks.Disks(kind=kind, generations=True, slow=True)
        machine = vm.replace(ctx.machine, memory='256', mode=mode,
                             disks=layout)
        state = state or vm.boot_once(ctx.hosts, machine, ctx.run)
        with vm.Pair(ctx.hosts, machine, ctx.run) as pair:
            pair.start_primary(state=state)
            host = pair.start_secondary().host
            writer = start_writers(pair, connect_seconds=CONNECT_SECONDS)[0]
            pair.protect()
            acked = dies_folding(pair, writer)
            path = disks.image(pair.run, host, 0)
            whole = disks.contents(machine, path,
                                   *(disks.overlay(pair.run, host, 0, name)
                                     for name in ('hidden', 'active')))
            check(not is_whole(machine, path, acked),
                  'the image has all without its overlays')
            for attempt in ('first', 'second'):
                commit(pair, host)
                check(disks.contents(machine, path) == whole,
                      f'{kind}: not the same after the {attempt} commit')
            check(is_whole(machine, path, acked), f'{kind}: blocks are missing')
            disks.check_metadata(machine, path, kind)
            expect(pair, host, 2, 'alone')
            goes_on_from(pair, host, state)
        blocks += acked
    ctx.note(f'{blocks} blocks')
