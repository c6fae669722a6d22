# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared disks: one image that both hosts reach, and one writer at a time."""

from __future__ import annotations

from colo import disks, product, vm

from .disks import (check_images, equal, kill_rounds, start_writers,
                    verify_all)
from .registry import (Context, check, check_intact, test, wait_for,
                       wait_lines)

SHARED = disks.Disks(shared=True)
NOTICE_SECONDS = 45.0
NEVER_BYTES = 65536
TIMEOUT_MS = 5000           # of the primary, which hears nothing any more


@test('/colo/e2e/shared/kill/primary')
def kill_primary(ctx: Context) -> None:
    kill_rounds(ctx, 'primary', SHARED)


@test('/colo/e2e/shared/kill/secondary')
def kill_secondary(ctx: Context) -> None:
    kill_rounds(ctx, 'secondary', SHARED)


@test('/colo/e2e/shared/hybrid/kill/primary')
def kill_primary_hybrid(ctx: Context) -> None:
    kill_rounds(ctx, 'primary', SHARED, mode='hybrid')


@test('/colo/e2e/shared/hybrid/kill/secondary')
def kill_secondary_hybrid(ctx: Context) -> None:
    kill_rounds(ctx, 'secondary', SHARED, mode='hybrid')


@test('/colo/e2e/shared/several')
def several(ctx: Context) -> None:
    """Two disks, each with an iothread."""
    for mode in ('periodic', 'hybrid') if ctx.long else ('hybrid',):
        kill_rounds(ctx, 'primary', disks.Disks(shared=True, count=2,
                                                iothread=True), 2, mode=mode)


@test('/colo/e2e/shared/equal')
def equal_periodic(ctx: Context) -> None:
    equal(ctx, 'periodic', SHARED)


@test('/colo/e2e/shared/hybrid/equal')
def equal_hybrid(ctx: Context) -> None:
    equal(ctx, 'hybrid', SHARED)


def refused(ctx: Context, mode: str) -> None:
    """The secondary is told to go on, and not to ask the primary, which
    lives and has the lock: it does not,
    and nobody writes to the image, until the primary is dead indeed."""
    with ctx.pair(memory='256', mode=mode, disks=SHARED) as pair:
        primary = pair.start_primary()
        ticker = pair.client('ticker')
        secondary = pair.start_secondary()
        writers = start_writers(pair)
        pair.protect(x_colo_timeout=TIMEOUT_MS)
        wait_lines(ticker)
        disks.wait_fresh(primary)
        for _ in range(2):
            secondary.monitor.execute(product.FAILOVER, {'force': True},
                                      timeout=3)
            event = secondary.monitor.wait_event(product.EVENT_LOST,
                                                 NOTICE_SECONDS)
            check('"write" lock' in str(event), f'not the reason: {event}')
            wait_for('both to be lost',
                     lambda: (primary.status().state == 'lost' and
                              secondary.status().state == 'lost'))
        disks.io(primary, 'write -P 9 0 64k')
        held = primary.monitor.execute('query-colo-status')['disks']
        ctx.note(f'{held[0]["log"]["bytes"]} bytes held')
        check(held[0]['log']['bytes'] > NEVER_BYTES, f'not held: {held}')
        data = disks.image_of(primary, ctx.run, 0).read_bytes()
        check(data[:NEVER_BYTES] != b'\x09' * NEVER_BYTES,
              'the lost primary has written')
        pair.fence('primary')
        pair.failover('secondary')
        wait_lines(ticker)
        verify_all(writers)
        check_intact(ticker)
        check_images(pair, 'secondary', writers)


@test('/colo/e2e/shared/refused')
def refused_periodic(ctx: Context) -> None:
    refused(ctx, 'periodic')


@test('/colo/e2e/shared/hybrid/refused')
def refused_hybrid(ctx: Context) -> None:
    refused(ctx, 'hybrid')


@test('/colo/e2e/shared/end')
def end(ctx: Context) -> None:
    """Protection ends in order: all is in the image, and protection begins
    again with a new secondary."""
    with ctx.pair(memory='256', disks=SHARED) as pair:
        primary = pair.start_primary()
        writers = start_writers(pair)
        for how in ('migrate_cancel', 'quit'):
            secondary = pair.start_secondary()
            pair.protect()
            side = primary if how == 'migrate_cancel' else secondary
            disks.wait_fresh(primary)
            side.monitor.execute(how)
            wait_for('the primary to be alone',
                     lambda: primary.status().state == 'alone')
            disks.wait_fresh(primary)
            verify_all(writers)
            pair.fence('secondary')
            vm.retire(pair)
        check_images(pair, 'primary', writers)
