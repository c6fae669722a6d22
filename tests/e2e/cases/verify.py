# SPDX-License-Identifier: GPL-2.0-or-later
"""Both disks are compared in a session while the guest writes."""

from __future__ import annotations

from typing import Any

from colo import disks, vm

from .disks import SPARE, check_images, start_writers, verify_all
from .registry import Context, check, test, wait_for

MIB = 64
ROUNDS_QUICK = 3
ROUNDS_LONG = 40
# So that there are checkpoints in the middle of it
SPEED = 16 << 20


def problems(side: vm.Vm) -> list[dict[str, Any]]:
    return list(side.monitor.execute('query-colo-status')['problems'])


def is_protected(side: vm.Vm) -> bool:
    return bool(side.monitor.execute('query-colo-status')['protected'])


def compare(ctx: Context, mode: str, **changes: Any) -> None:
    """What the guest writes is no difference; one byte that somebody else has
    changed is one, until the guest overwrites it.  The disk that is equal is
    what a failover goes on with."""
    rounds = ROUNDS_LONG if ctx.long else ROUNDS_QUICK
    with ctx.pair(memory='256', mode=mode,
                  disks=disks.Disks(mib=MIB, **changes)) as pair:
        primary, secondary = pair.start_primary(), pair.start_secondary()
        writers = start_writers(pair, slots=MIB)
        pair.protect()
        disks.wait_fresh(primary)
        check('assumed to be equal' in problems(primary)[0]['message'],
              f'{problems(primary)}: nothing is assumed')
        node = disks.hashes(primary, secondary, 0)
        for done in range(rounds):
            before = primary.status().epoch
            primary.monitor.execute('x-colo-checkpoint')
            error = disks.verify(primary, None if done % 2 else node,
                                 speed=SPEED)
            check(error is None, f'round {done}: {error}')
            wait_for('a checkpoint',
                     lambda: primary.status().epoch > before)
            check(not problems(primary), f'{problems(primary)}')
        check(is_protected(primary), 'not protected')

        with open(disks.image_of(secondary, pair.run, 0), 'r+b') as image:
            image.seek(SPARE + 100)
            byte = image.read(1)
            image.seek(SPARE + 100)
            image.write(bytes([byte[0] ^ 1]))
        error = disks.verify(primary, node)
        check(error is not None and
              f'in 1 bytes, the first at offset {SPARE + 100}' in error,
              f'the difference is not found: {error}')
        check(not is_protected(primary), 'protected with a difference')
        disks.io(primary, f'write -P 3 {SPARE} 512')
        error = disks.verify(primary, node)
        check(error is None, f'after it was overwritten: {error}')
        wait_for('the guest to be protected', lambda: is_protected(primary))

        pair.fence('primary')
        pair.failover('secondary')
        verify_all(writers)
        blocks = check_images(pair, 'secondary', writers, MIB)
    ctx.note(f'compared {rounds + 2} times, {blocks} blocks written')


@test('/colo/e2e/disk/compare')
def periodic(ctx: Context) -> None:
    compare(ctx, 'periodic')


@test('/colo/e2e/disk/hybrid/compare')
def hybrid(ctx: Context) -> None:
    compare(ctx, 'hybrid')


@test('/colo/e2e/disk/hybrid/compare-iothread')
def iothread(ctx: Context) -> None:
    compare(ctx, 'hybrid', iothread=True)
