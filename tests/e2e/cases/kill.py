# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts die by kill -9 at random moments; clients notice nothing."""

from __future__ import annotations

import time
from typing import Any, Sequence

from colo import product, vm

from .registry import (Context, check, check_intact, check_verified, test,
                       wait_for, wait_lines, wait_more)

KILLS_QUICK = 3
KILLS_LONG = 30
MOMENT_SECONDS = (0.2, 1.2)     # after protection is there
CHECKPOINTS_SECONDS = 120.0     # longer than some take anywhere


Mode = tuple[str, dict[str, Any]]       # of a client, and its options


def checked(mode: str, end: dict[str, Any]) -> str:
    """How much a client has seen, in words."""
    if 'bytes' in end:
        return f'{end["bytes"]} bytes of {mode}'
    lost = f' ({end["lost"]} lost)' if 'lost' in end else ''
    return f'{end["count"]} answers of {mode}{lost}'


def kill_rounds(ctx: Context, victim: str, modes: Sequence[Mode],
                quick: int = KILLS_QUICK, **changes: Any) -> None:
    """Kill @victim, fail over, build the pair again, and so on; one guest
    and the same connections all along.  The first of @modes is the ticker.
    @quick: so many rounds, if not many."""
    rounds = KILLS_LONG if ctx.long else quick
    rng = ctx.rng(victim)
    verified = 0
    with ctx.pair(verify=True, memory='256', **changes) as pair:
        pair.start_primary()
        clients = [pair.client(mode, **options) for mode, options in modes]
        pair.start_secondary()
        for done in range(1, rounds + 1):
            pair.protect()
            time.sleep(rng.uniform(*MOMENT_SECONDS))
            if done == rounds and not verified:
                # The moments were too early for it, with checkpoints this slow
                wait_for('RAM to be compared',
                         lambda: pair.vm('secondary').status().verified > 0)
            verified += check_verified(pair.vm('secondary').status(), 0)
            pair.fence(victim)
            survivor = 'primary' if victim == 'secondary' else 'secondary'
            pair.failover(survivor)
            wait_lines(clients[0])
            for running in clients[1:]:
                wait_more(running)
            vm.rebuild(pair)
        ends = [check_intact(running) for running in clients]
    check(verified > 0, 'RAM was never compared')
    done = ', '.join(checked(mode, end)
                     for (mode, _), end in list(zip(modes, ends))[1:])
    ctx.note(f'{rounds} kills of the {victim}, RAM equal at {verified} '
             f'checkpoints, longest gap of the ticker '
             f'{ends[0]["longest_gap_us"] / 1000:.0f} ms; checked: {done}')


DATAGRAMS: Sequence[Mode] = (('udp', {}), ('ping6', {}))
PERIODIC: Sequence[Mode] = (('ticker', {}), ('bulk-out', {}), *DATAGRAMS)


@test('/colo/e2e/kill/primary')
def kill_primary(ctx: Context) -> None:
    kill_rounds(ctx, 'primary', PERIODIC)


@test('/colo/e2e/kill/secondary')
def kill_secondary(ctx: Context) -> None:
    kill_rounds(ctx, 'secondary', PERIODIC)


@test('/colo/e2e/kill/bulk-in')
def kill_bulk_in(ctx: Context) -> None:
    """What the client sent and the guest acknowledged is there afterwards."""
    with ctx.pair() as pair:
        ctx.protected(pair)
        running = pair.client('bulk-in')
        pair.wait_checkpoints(30, CHECKPOINTS_SECONDS)
        pair.fence('primary')
        pair.failover('secondary')
        wait_more(running)
        end = check_intact(running)
    check(end['bytes'] > 0, 'nothing arrived')


@test('/colo/e2e/kill/paused')
def kill_paused(ctx: Context) -> None:
    """A guest that is paused stays paused through cuts and failover."""
    with ctx.pair() as pair:
        ctx.protected(pair)
        pair.vm('primary').monitor.execute('stop')
        pair.wait_checkpoints(5, CHECKPOINTS_SECONDS)
        check(pair.vm('primary').run_state() == 'paused',
              'a checkpoint started a paused guest')
        pair.fence('primary')
        survivor = pair.vm('secondary')
        survivor.monitor.execute(product.FAILOVER, timeout=3)
        survivor.wait_run_state('paused', vm.FAILOVER_SECONDS)
        survivor.monitor.execute('cont')
        check(survivor.run_state() == 'running', 'cont after the failover')
        pair.control('ping')
