# SPDX-License-Identifier: GPL-2.0-or-later
"""A network between client and guest that loses frames, reorders them, or
sends those for the guest to both hosts, and one with somebody in it who means
harm."""

from __future__ import annotations

import time
from typing import Dict

from .registry import (Context, check, check_intact, test,
                       wait_more)

LOSS = 0.01
JITTER_MS = 20.0
SECONDS = 10.0
LONG_SECONDS = 600.0
HTTP_PORT = 80
FLOODED = 50                # answers


def gap_of(kind: str, end: Dict[str, int], killed: float) -> str:
    return (f'{kind} {end["longest_gap_us"] / 1000:.0f} ms at '
            f'{end["longest_gap_at_ns"] / 1e9 - killed:.1f} s')


def bad(ctx: Context, mode: str) -> None:
    """Each connection gets on, also after a failover, and what arrives is
    right."""
    seconds = LONG_SECONDS if ctx.long else SECONDS
    with (ctx.pair(mode=mode, memory='256') as pair,
          ctx.hosts.bad_network(LOSS, JITTER_MS, ctx.seed) as relayed):
        ctx.protected(pair)
        clients = [pair.client('ticker'), pair.client('echo', interval=5),
                   pair.client('http', path='/64k', connections=2),
                   pair.client('bulk-in')]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for running in clients:
                wait_more(running)
        state = pair.vm('primary').status().state
        check(state not in ('alone', 'lost'), f'the primary is {state}')
        # These get numbers of two guests, in this epoch
        clients += [pair.client('echo', interval=5), pair.client('bulk-in')]
        for running in clients[-2:]:
            wait_more(running)
        killed = time.monotonic()
        pair.fence('primary')
        pair.failover('secondary')
        for running in clients:
            wait_more(running)
        ends = [check_intact(running) for running in clients]
    check(relayed['lost'] > 0 and relayed['overtaken'] > 0,
          f'the network was not bad: {relayed}')
    ctx.note(f'{relayed["lost"]} of {relayed["frames"]} frames lost, '
             f'{relayed["overtaken"]} overtaken; longest gaps, and when they '
             f'began after the kill: '
             + ', '.join(gap_of(running.mode, end, killed)
                         for running, end in zip(clients, ends)))


@test('/colo/e2e/network/bad/hybrid')
def bad_hybrid(ctx: Context) -> None:
    bad(ctx, 'hybrid')


@test('/colo/e2e/network/bad/periodic', long_only=True)
def bad_periodic(ctx: Context) -> None:
    bad(ctx, 'periodic')


def hostile(ctx: Context, mode: str) -> None:
    """Whatever somebody sends to the guest, the connections of others get on,
    also over a failover, and the pair stays one."""
    seconds = LONG_SECONDS if ctx.long else SECONDS
    with ctx.pair(mode=mode, memory='256') as pair:
        ctx.protected(pair)
        clients = [pair.client('ticker'), pair.client('echo', interval=5),
                   pair.client('http', path='/64k', connections=2),
                   pair.client('bulk-in')]
        with ctx.hosts.hostile_client(HTTP_PORT, ctx.seed) as sent:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for running in clients:
                    wait_more(running)
            state = pair.vm('primary').status().state
            check(state not in ('alone', 'lost'), f'the primary is {state}')
            killed = time.monotonic()
            pair.fence('primary')
            pair.failover('secondary')
            for running in clients:
                wait_more(running)
        ends = [check_intact(running) for running in clients]
    ctx.note(f'{sent["frames"]} hostile frames, {sent["connections"]} '
             'connections; longest gaps, and when they began after the kill: '
             + ', '.join(gap_of(running.mode, end, killed)
                         for running, end in zip(clients, ends)))


@test('/colo/e2e/network/hostile/hybrid')
def hostile_hybrid(ctx: Context) -> None:
    hostile(ctx, 'hybrid')


@test('/colo/e2e/network/hostile/periodic', long_only=True)
def hostile_periodic(ctx: Context) -> None:
    hostile(ctx, 'periodic')


@test('/colo/e2e/network/flooded')
def flooded(ctx: Context) -> None:
    """What came to the host of the secondary while its guest stood still has
    been answered on the primary; nobody gets a second answer later."""
    with ctx.pair(memory='256') as pair, ctx.hosts.flooded():
        ctx.protected(pair)
        udp = pair.client('udp')
        wait_more(udp, FLOODED)
        pair.fence('primary')
        pair.failover('secondary')
        wait_more(udp, FLOODED)
        end = check_intact(udp)
    ctx.note(f'{end["count"]} answers, none of them twice')
