# SPDX-License-Identifier: GPL-2.0-or-later
"""A pair is built again on the images that are there, while the guest writes.

The writer overwrites a block in each MiB all the time.  Besides there are
areas which nobody writes to again: an area that a resync leaves out is found
by what is in it at the end, on the side that the resync was for.
"""

from __future__ import annotations

from typing import Any

from colo import client, disks, vm

from .disks import check_images, verify_all
from .registry import Context, check, test, wait_for, wait_lines

MIB = 64
AREA = 64 << 10
BOTH, SHARED, ALONE, LOST = 0x11, 0x22, 0x33, 0xee
SHUTDOWN_SECONDS = 60.0
CHECKPOINT_SECONDS = 60.0


def offset(area: int) -> int:
    """One in each MiB, away from the writer's block."""
    return (area << 20) + (512 << 10)


def write(side: vm.Vm, areas: range, byte: int) -> None:
    """As the guest would."""
    for area in areas:
        disks.io(side, f'write -P {byte} {offset(area)} {AREA}')


def damage(pair: vm.Pair, host: str, areas: range) -> None:
    """What the dead side has written and the survivor never saw."""
    with open(disks.image(pair.run, host, 0), 'r+b') as file:
        for area in areas:
            file.seek(offset(area))
            file.write(bytes([LOST]) * AREA)


def check_areas(pair: vm.Pair, host: str, wanted: dict[range, int]) -> None:
    data = disks.image(pair.run, host, 0).read_bytes()
    for areas, byte in wanted.items():
        for area in areas:
            here = data[offset(area):offset(area) + AREA]
            check(here == bytes([byte]) * AREA,
                  f'area {area} on {host} is not {byte:#x}: {here[:4]!r}')


def begin(pair: vm.Pair) -> tuple[client.Client, list[client.Client]]:
    """A protected pair, built by a full resync, and what it serves."""
    primary = pair.start_primary()
    ticker = pair.client('ticker')
    writers = [pair.client('disk', device=disks.Disks().device(0), seed=1,
                           slots=MIB)]
    write(primary, range(0, 10), BOTH)
    disks.resync(primary, pair.start_secondary(), 'full')
    protect(pair, ticker)
    write(primary, range(10, 13), SHARED)
    pair.wait_checkpoints(2, CHECKPOINT_SECONDS)
    return ticker, writers


def protect(pair: vm.Pair, ticker: client.Client) -> None:
    pair.protect()
    wait_lines(ticker)
    disks.wait_fresh(pair.vm('primary'))


def finish(pair: vm.Pair, ticker: client.Client,
           writers: list[client.Client]) -> None:
    """The primary dies; its secondary, which has been resynced, goes on."""
    host = pair.vm('secondary').host
    protect(pair, ticker)
    pair.fence('primary')
    pair.failover('secondary')
    wait_lines(ticker)
    verify_all(writers)
    check_images(pair, 'secondary', writers, MIB)
    check_areas(pair, host, {
        range(0, 2): ALONE, range(2, 10): BOTH, range(10, 13): SHARED,
        range(20, 22): ALONE, range(30, 33): 0})


def again(ctx: Context, how: str, mode: str = 'periodic',
          **changes: Any) -> None:
    """The primary dies, and what was its disk becomes the secondary's."""
    layout = disks.Disks(mib=MIB, **changes)
    with ctx.pair(memory='256', mode=mode, disks=layout) as pair:
        ticker, writers = begin(pair)
        pair.fence('primary')
        pair.failover('secondary')
        wait_lines(ticker)
        host = vm.retire(pair)
        write(pair.vm('primary'), range(0, 2), ALONE)
        write(pair.vm('primary'), range(20, 22), ALONE)
        damage(pair, host, range(2, 4))
        damage(pair, host, range(30, 33))
        numbers = disks.resync(pair.vm('primary'), pair.start_secondary(host),
                               how)[0]
        sent = numbers.get('sent-bytes', 0)
        if how == 'hash':
            check(sent < MIB << 18, f'{sent} bytes sent, too much differs')
        ctx.note(f'{sent >> 10} KiB of {MIB} MiB sent')
        finish(pair, ticker, writers)


@test('/colo/e2e/disk/resync/hash')
def by_hash(ctx: Context) -> None:
    again(ctx, 'hash')


@test('/colo/e2e/disk/hybrid/resync/hash')
def by_hash_hybrid(ctx: Context) -> None:
    again(ctx, 'hash', 'hybrid')


@test('/colo/e2e/disk/resync/hash-iothread')
def by_hash_iothread(ctx: Context) -> None:
    again(ctx, 'hash', iothread=True)


@test('/colo/e2e/disk/resync/full')
def by_full(ctx: Context) -> None:
    again(ctx, 'full')


@test('/colo/e2e/disk/resync/bitmap')
def by_bitmap(ctx: Context) -> None:
    """Protection ends in order, as documented; then only what has been
    written since is sent."""
    with ctx.pair(memory='256', disks=disks.Disks(mib=MIB)) as pair:
        ticker, writers = begin(pair)
        primary, secondary = pair.vm('primary'), pair.vm('secondary')
        primary.monitor.execute('block-dirty-bitmap-add', {
            'node': 'image0', 'name': 'since', 'granularity': AREA})
        pair.wait_checkpoints(2, CHECKPOINT_SECONDS)
        primary.monitor.execute('migrate_cancel')
        wait_for('the primary to be alone',
                 lambda: primary.status().state == 'alone')
        secondary.wait_run_state('shutdown', SHUTDOWN_SECONDS)
        secondary.monitor.execute('quit')
        secondary.wait_exit()
        host = vm.retire(pair)
        write(primary, range(0, 2), ALONE)
        write(primary, range(20, 22), ALONE)
        numbers = disks.resync(primary, pair.start_secondary(host), 'bitmap',
                               bitmap='since')[0]
        ctx.note(f'{numbers.get("len", 0) >> 10} KiB of {MIB} MiB')
        check(numbers.get('len', 0) < MIB << 18, f'{numbers}: too much')
        primary.monitor.execute('block-dirty-bitmap-remove', {
            'node': 'image0', 'name': 'since'})
        finish(pair, ticker, writers)
