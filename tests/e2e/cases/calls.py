# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest is the client: the connections that it begins survive, too."""

from __future__ import annotations

import functools
from typing import Any, Sequence

from colo import vm

from .kill import Mode, kill_rounds
from .registry import Context, check, check_intact, test, wait_for

CLIENTS: Sequence[Mode] = (('ticker', {}), ('call', {}), ('call', {'seed': 2}))
CHECKPOINTS = 5
CALLS = 20
CALLS_PER_DIFFERENCE = 5        # before ports were mapped it was 2


@test('/colo/e2e/call/kill/primary')
def kill_primary(ctx: Context) -> None:
    kill_rounds(ctx, 'primary', CLIENTS)


@test('/colo/e2e/call/kill/secondary')
def kill_secondary(ctx: Context) -> None:
    kill_rounds(ctx, 'secondary', CLIENTS)


@test('/colo/e2e/hybrid/call/kill/primary')
def hybrid_kill_primary(ctx: Context) -> None:
    kill_rounds(ctx, 'primary', CLIENTS, mode='hybrid')


@test('/colo/e2e/hybrid/call/kill/secondary')
def hybrid_kill_secondary(ctx: Context) -> None:
    kill_rounds(ctx, 'secondary', CLIENTS, mode='hybrid')


def committed(primary: vm.Vm, count: int) -> bool:
    return primary.status().checkpoints >= count


def served(ctx: Context, **machine: Any) -> None:
    """Calls that began before a checkpoint go on after it, and new ones are
    made."""
    with ctx.pair(mode='hybrid', memory='256', **machine) as pair:
        ctx.protected(pair)
        primary = pair.vm('primary')
        running = pair.client('call')
        for _ in range(CHECKPOINTS):
            before = running.poll().get('calls', 0)
            wait_for('calls',
                     lambda: running.poll().get('calls', 0) >= before + CALLS)
            done = primary.status().checkpoints
            primary.monitor.execute('x-colo-checkpoint')
            wait_for('a checkpoint',
                     functools.partial(committed, primary, done + 1))
        status = primary.status()
        reasons = {item['reason']: item['count']
                   for item in status.statistics['reasons'] if item['count']}
        compared = pair.compared()
        end = check_intact(running)
        paired = pair.vm('secondary').monitor.execute('qom-get', {
            'path': '/objects/rew0', 'property': 'paired-connects'})
    check(status.checkpoints >= CHECKPOINTS, f'{status.checkpoints} '
          'checkpoints')
    asked = reasons.get('mismatch', 0) + reasons.get('timeout', 0)
    check(asked * CALLS_PER_DIFFERENCE <= end['calls'],
          f'{asked} of {end["calls"]} calls needed a checkpoint')
    check(paired > 0, 'no call got another port')
    ctx.note(f'{end["calls"]} calls, {paired} got another port; '
             f'{status.checkpoints} checkpoints ({reasons}); '
             f'{compared["released-equal"]} packets were equal, '
             f'{compared["released-commit"]} left by a checkpoint')


@test('/colo/e2e/hybrid/call/load')
def hybrid_load(ctx: Context) -> None:
    served(ctx)


@test('/colo/e2e/hybrid/call/load-published')
def hybrid_load_published(ctx: Context) -> None:
    """With colo-compare."""
    served(ctx, published=True)
