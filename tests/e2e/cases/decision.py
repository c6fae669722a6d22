# SPDX-License-Identifier: GPL-2.0-or-later
"""With an arbiter nobody types anything when a host fails."""

from __future__ import annotations

import signal
from typing import Any

from colo import disks, vm

from .disks import check_images, start_writers, verify_all
from .registry import Context, check, check_intact, test, wait_lines

ROUNDS_QUICK = 2
ROUNDS_LONG = 50
TIMEOUT_MS = 1000


def pair_of(ctx: Context, **changes: Any) -> vm.Pair:
    """The arbiter is a file that both hosts reach."""
    return ctx.pair(memory='256', disks=disks.Disks(),
                    extra=('-object', 'colo-arbiter-file,id=arb0,'
                           f'path={ctx.run}/arbiter'), **changes)


def wait_gone_on(side: vm.Vm) -> None:
    side.monitor.wait_until('to go on by itself', 'query-colo-status', 'mode',
                            'none', vm.FAILOVER_SECONDS)
    side.wait_run_state('running', vm.FAILOVER_SECONDS)


def kills(ctx: Context, mode: str) -> None:
    """kill -9 of either side, again and again."""
    rounds = ROUNDS_LONG if ctx.long else ROUNDS_QUICK
    with pair_of(ctx, mode=mode, verify=True) as pair:
        pair.start_primary()
        ticker = pair.client('ticker')
        writers = start_writers(pair)
        host, survivor = 'b', 'primary'
        for done in range(1, rounds + 1):
            pair.start_secondary(host)
            pair.protect()
            wait_lines(ticker)
            victim, survivor = (('primary', 'secondary') if done % 2 else
                                ('secondary', 'primary'))
            pair.fence(victim)
            wait_gone_on(pair.vm(survivor))
            wait_lines(ticker)
            verify_all(writers)
            if done < rounds:
                host = vm.retire(pair)
        gap = check_intact(ticker)['longest_gap_us'] / 1000
        check_images(pair, survivor, writers)
    ctx.note(f'{rounds} kills; longest gap of the ticker {gap:.0f} ms')


@test('/colo/e2e/decision/kill')
def kills_periodic(ctx: Context) -> None:
    kills(ctx, 'periodic')


@test('/colo/e2e/decision/hybrid/kill')
def kills_hybrid(ctx: Context) -> None:
    kills(ctx, 'hybrid')


def stopped(ctx: Context, mode: str) -> None:
    """The primary's process is stopped in the middle of its work; the secondary
    goes on by itself, and then the primary wakes up: it is ended, and no client
    has heard of it."""
    with pair_of(ctx, mode=mode) as pair:
        pair.start_primary()
        ticker = pair.client('ticker')
        web = pair.client('http', path='/64k', connections=2)
        writers = start_writers(pair)
        pair.start_secondary('b')
        pair.protect(x_colo_timeout=TIMEOUT_MS)
        wait_lines(ticker)
        primary, secondary = pair.vm('primary'), pair.vm('secondary')
        primary.signal(signal.SIGSTOP)
        wait_gone_on(secondary)
        primary.signal(signal.SIGCONT)
        primary.wait_run_state('shutdown', vm.FAILOVER_SECONDS)
        check(primary.status().state == 'ended',
              f'the old primary is {primary.status().state}')
        wait_lines(ticker)
        verify_all(writers)
        check_intact(web)
        gap = check_intact(ticker)['longest_gap_us'] / 1000
        check_images(pair, 'secondary', writers)
    ctx.note(f'timeout {TIMEOUT_MS} ms; longest gap of the ticker {gap:.0f} ms')


@test('/colo/e2e/decision/stopped')
def stopped_periodic(ctx: Context) -> None:
    stopped(ctx, 'periodic')


@test('/colo/e2e/decision/hybrid/stopped')
def stopped_hybrid(ctx: Context) -> None:
    stopped(ctx, 'hybrid')
