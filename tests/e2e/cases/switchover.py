# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest changes places while both hosts are well, and back."""

from __future__ import annotations

import signal
from typing import Any

from colo import disks, product, vm

from .disks import check_images, start_writers, verify_all
from .registry import (Context, check, check_intact, test, wait_for,
                       wait_lines)

ROUNDS_QUICK = 2
ROUNDS_LONG = 30


def rounds(ctx: Context, layout: disks.Disks, **changes: Any) -> None:
    """Each round the secondary takes over from a primary that is well."""
    count = ROUNDS_LONG if ctx.long else ROUNDS_QUICK
    with ctx.pair(verify=True, memory='256', disks=layout, **changes) as pair:
        pair.start_primary()
        ticker = pair.client('ticker')
        writers = start_writers(pair)
        host = 'b'
        for done in range(1, count + 1):
            pair.start_secondary(host)
            pair.protect()
            wait_lines(ticker)
            primary, secondary = pair.vm('primary'), pair.vm('secondary')
            pair.failover('secondary')
            primary.wait_run_state('shutdown', vm.FAILOVER_SECONDS)
            check(primary.status().state == 'ended',
                  f'the old primary is {primary.status().state}')
            check(secondary.status().state == 'live',
                  f'the new one is {secondary.status().state}')
            count_of = {reason['reason']: reason['count'] for reason in
                        primary.status().statistics['reasons']}
            check(count_of['switchover'] == 1, f'not in order: {count_of}')
            wait_lines(ticker)
            verify_all(writers)
            primary.monitor.execute('quit')
            primary.wait_exit()
            if done < count:
                host = vm.retire(pair)
        gap = check_intact(ticker)['longest_gap_us'] / 1000
        check_images(pair, 'secondary', writers)
    ctx.note(f'{count} times; longest gap of the ticker {gap:.0f} ms')


@test('/colo/e2e/switchover/disk')
def disk(ctx: Context) -> None:
    rounds(ctx, disks.Disks())


@test('/colo/e2e/switchover/hybrid/disk')
def disk_hybrid(ctx: Context) -> None:
    rounds(ctx, disks.Disks(), mode='hybrid')


@test('/colo/e2e/switchover/shared')
def shared(ctx: Context) -> None:
    rounds(ctx, disks.Disks(shared=True))


@test('/colo/e2e/switchover/hybrid/shared')
def shared_hybrid(ctx: Context) -> None:
    rounds(ctx, disks.Disks(shared=True), mode='hybrid')


def stopped(ctx: Context, mode: str) -> None:
    """The primary's processes are stopped for longer than the timeout, and go
    on before anybody has decided: protected as before, and no client has lost
    anything."""
    with ctx.pair(memory='256', disks=disks.Disks(), mode=mode) as pair:
        pair.start_primary()
        ticker = pair.client('ticker')
        writers = start_writers(pair)
        pair.start_secondary('b')
        pair.protect(x_colo_timeout=1000)
        primary, secondary = pair.vm('primary'), pair.vm('secondary')
        for _ in range(ROUNDS_LONG if ctx.long else ROUNDS_QUICK):
            wait_lines(ticker)
            before = secondary.status().checkpoints
            primary.signal(signal.SIGSTOP)
            secondary.monitor.wait_event(product.EVENT_LOST,
                                         vm.FAILOVER_SECONDS)
            primary.signal(signal.SIGCONT)
            secondary.monitor.wait_event('COLO_PEER_BACK',
                                         vm.FAILOVER_SECONDS)
            wait_for('a checkpoint', lambda old=before:
                     secondary.status().checkpoints > old)
            check(primary.status().raw['protected'], 'not protected')
        wait_lines(ticker)
        pair.failover('secondary')
        wait_lines(ticker)
        verify_all(writers)
        check_intact(ticker)
        check_images(pair, 'secondary', writers)


@test('/colo/e2e/switchover/stopped')
def stopped_periodic(ctx: Context) -> None:
    stopped(ctx, 'periodic')


@test('/colo/e2e/switchover/hybrid/stopped')
def stopped_hybrid(ctx: Context) -> None:
    stopped(ctx, 'hybrid')
