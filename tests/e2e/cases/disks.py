# SPDX-License-Identifier: GPL-2.0-or-later
"""Replicated disks: nothing that a guest was told is durable is ever lost."""

from __future__ import annotations

import time
from typing import Any

from colo import client, disks, product, vm

from .registry import (WAIT_SECONDS, Context, check, check_intact,
                       check_verified, test, wait_for, wait_lines)

KILLS_QUICK = 3
KILLS_LONG = 30
EQUAL_QUICK = 4
EQUAL_LONG = 40
VERIFIED_QUICK = 5
VERIFIED_LONG = 200
MOMENT_SECONDS = (0.2, 1.5)     # after protection is there
NEVER_MS = 1000000              # checkpoints only when asked for
NORMAL_MS = 100
VERIFY_SECONDS = 240.0
SPARE = (16 << 20) - 512        # no block of the writers is there


def start_writers(pair: vm.Pair, seed: int = 1,
                  **options: Any) -> list[client.Client]:
    """One on each disk: the first as fast as it can, others slower."""
    layout = pair.machine.disks
    assert layout
    disks.load_drivers(pair)
    return [pair.client('disk', device=disks.guest_device(pair, n),
                        seed=seed + n, interval=20 * n, **options)
            for n in range(layout.count)]


def verify_all(writers: list[client.Client]) -> None:
    for writer in writers:
        writer.verify()


def check_images(pair: vm.Pair, side: str, writers: list[client.Client],
                 slots: int = disks.SLOTS, seed: int = 1) -> int:
    """The guest writes no more: all is in the images when its QEMU has ended.

    How many blocks that were.
    """
    last, layout = pair.vm(side), pair.machine.disks
    assert layout
    acked = [int(check_intact(writer)['acked']) for writer in writers]
    disks.detach(last)
    last.monitor.execute('quit')
    last.wait_exit()
    for n, count in enumerate(acked):
        path = disks.image_of(last, pair.run, n)
        disks.check_metadata(pair.machine, path, layout.kind)
        disks.check_image(pair.machine, path, acked=count, seed=seed + n,
                          slots=slots)
    return sum(acked)


def kill_rounds(ctx: Context, victim: str, layout: disks.Disks,
                rounds: int | None = None, **changes: Any) -> None:
    """Kill @victim, fail over, build the pair again, and so on."""
    rounds = rounds or (KILLS_LONG if ctx.long else KILLS_QUICK)
    survivor = 'primary' if victim == 'secondary' else 'secondary'
    rng = ctx.rng(f'disks/{victim}')
    verified = 0
    with ctx.pair(verify=True, memory='256', disks=layout, **changes) as pair:
        pair.start_primary()
        ticker = pair.client('ticker')
        writers = start_writers(pair)
        host = 'b'
        for done in range(1, rounds + 1):
            pair.start_secondary(host)
            pair.protect()
            pair.vm('primary').monitor.execute('x-colo-checkpoint')
            wait_for('RAM to be compared',
                     lambda: pair.vm('secondary').status().verified > 0)
            time.sleep(rng.uniform(*MOMENT_SECONDS))
            verified += check_verified(pair.vm('secondary').status(), 1)
            pair.fence(victim)
            pair.failover(survivor)
            wait_lines(ticker)
            verify_all(writers)
            if done < rounds:
                host = vm.retire(pair)
        check_intact(ticker)
        blocks = check_images(pair, survivor, writers)
    ctx.note(f'{rounds} kills of the {victim}, {blocks} blocks, RAM and disks '
             f'equal at {verified} checkpoints')


@test('/colo/e2e/disk/kill/primary')
def kill_primary(ctx: Context) -> None:
    kill_rounds(ctx, 'primary', disks.Disks())


@test('/colo/e2e/disk/kill/secondary')
def kill_secondary(ctx: Context) -> None:
    kill_rounds(ctx, 'secondary', disks.Disks())


@test('/colo/e2e/disk/hybrid/kill/primary')
def kill_primary_hybrid(ctx: Context) -> None:
    kill_rounds(ctx, 'primary', disks.Disks(), mode='hybrid')


@test('/colo/e2e/disk/hybrid/kill/secondary')
def kill_secondary_hybrid(ctx: Context) -> None:
    kill_rounds(ctx, 'secondary', disks.Disks(), mode='hybrid')


def both_victims(ctx: Context, layout: disks.Disks) -> None:
    for mode in ('periodic', 'hybrid'):
        for victim in ('primary', 'secondary'):
            kill_rounds(ctx, victim, layout, 5 if ctx.long else 1, mode=mode)


@test('/colo/e2e/disk/several')
def several(ctx: Context) -> None:
    both_victims(ctx, disks.Disks(count=2))


@test('/colo/e2e/disk/iothread')
def iothread(ctx: Context) -> None:
    both_victims(ctx, disks.Disks(count=2, iothread=True))


@test('/colo/e2e/disk/first-start')
def first_start(ctx: Context) -> None:
    """Disks that are equal need no copy: the guest boots when both sides are
    there, and its writes go to both from the first one."""
    with ctx.pair(memory='256', disks=disks.Disks()) as pair:
        primary = pair.start_primary()
        disks.attach(primary, pair.start_secondary(), resync=False)
        writers = start_writers(pair)
        disks.wait_fresh(primary)
        pair.protect()
        wait_for('blocks', lambda: writers[0].poll().get('count', 0) > 0)
        pair.fence('primary')
        pair.failover('secondary')
        verify_all(writers)
        check_images(pair, 'secondary', writers)


def checkpoint(pair: vm.Pair) -> None:
    """Take one that both sides stand at, and wait until it is loaded."""
    primary, secondary = pair.vm('primary'), pair.vm('secondary')
    primary.monitor.execute('stop')
    # If this is the middle of another one, the guest goes on once more
    primary.wait_run_state('paused', WAIT_SECONDS)
    goal = primary.status().epoch + 1
    primary.monitor.execute('x-colo-checkpoint')
    wait_for('the checkpoint',
             lambda: (primary.status().epoch >= goal and
                      primary.status().state == 'running' and
                      secondary.status().epoch >= goal and
                      secondary.status().state in ('standing', 'running')))


def equal(ctx: Context, mode: str, layout: disks.Disks) -> None:
    """At each checkpoint both guests see the same disk, and it is what is
    below the secondary's overlays.  Between two of them the guest of a
    periodic secondary sees no change, though there it changes."""
    count = EQUAL_LONG if ctx.long else EQUAL_QUICK
    seen = set()
    with ctx.pair(memory='256', mode=mode, disks=layout) as pair:
        pair.start_primary()
        pair.start_secondary()
        writers = start_writers(pair)
        pair.protect()
        primary, secondary = pair.vm('primary'), pair.vm('secondary')
        if mode == 'periodic':
            primary.monitor.execute('migrate-set-parameters', {
                product.PARAMETER_DELAY: NEVER_MS})
        disks.export_views(primary, secondary, ctx.run)
        for _ in range(count):
            checkpoint(pair)
            views = [disks.view(side, ctx.run)
                     for side in (primary, secondary)]
            check(views[0] == views[1], 'the guests see different disks')
            check(disks.arrived(secondary, ctx.run) == views[0],
                  'not all has arrived at the checkpoint')
            seen.add(views[0])
            primary.monitor.execute('cont')
            disks.wait_fresh(primary)
            if mode == 'periodic':
                wait_for('what is written after the checkpoint to arrive',
                         lambda: disks.arrived(secondary,
                                               ctx.run) != views[0])
                check(disks.view(secondary, ctx.run) == views[0],
                      'the secondary sees what is newer than the checkpoint')
        primary.monitor.execute('migrate-set-parameters', {
            product.PARAMETER_DELAY: NORMAL_MS})
        for writer in writers:
            check_intact(writer)
    check(len(seen) == count, f'{len(seen)} different disks, not {count}')


@test('/colo/e2e/disk/equal')
def equal_periodic(ctx: Context) -> None:
    equal(ctx, 'periodic', disks.Disks())


@test('/colo/e2e/disk/hybrid/equal')
def equal_hybrid(ctx: Context) -> None:
    equal(ctx, 'hybrid', disks.Disks())


def verified(ctx: Context, mode: str) -> None:
    """While guests write: what the one saw at the cut is what the other finds
    after the load.  A write that only one side has is noticed."""
    count = VERIFIED_LONG if ctx.long else VERIFIED_QUICK
    with ctx.pair(memory='256', mode=mode, verify=True,
                  disks=disks.Disks(count=2)) as pair:
        pair.start_primary()
        pair.start_secondary()
        writers = start_writers(pair)
        pair.protect(x_checkpoint_delay=NORMAL_MS)
        primary, secondary = pair.vm('primary'), pair.vm('secondary')
        if mode == 'hybrid':
            wait_for('blocks', lambda: writers[0].poll().get('count', 0) > 0)
        wait_for(f'{count} checkpoints',
                 lambda: secondary.status().verified >= count, VERIFY_SECONDS)
        done = check_verified(secondary.status(), count)
        verify_all(writers)
        with disks.image_of(secondary, pair.run, 0).open('r+b') as image:
            image.seek(SPARE)
            image.write(b'\x09' * 512)
        wait_for('the difference to be noticed',
                 lambda: secondary.status().disk_mismatches > 0)
        check(secondary.status().mismatches == 0, 'RAM differs')
        for writer in writers:
            check_intact(writer)
        # It may stand at the moment, for a checkpoint
        primary.wait_run_state('running', WAIT_SECONDS)
    ctx.note(f'RAM and disks equal at {done} checkpoints')


@test('/colo/e2e/disk/verify')
def verified_periodic(ctx: Context) -> None:
    verified(ctx, 'periodic')


@test('/colo/e2e/disk/hybrid/verify')
def verified_hybrid(ctx: Context) -> None:
    verified(ctx, 'hybrid')
