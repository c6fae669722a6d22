# SPDX-License-Identifier: GPL-2.0-or-later
"""Walk the fault points: kill, stall or fail a side at each step.

Whatever happens there, the other side lives, the client's stream is intact
and no wait exceeds its deadline.  The harness is the fence: it kills the
faulty side before the other one is told to go on.
"""

from __future__ import annotations

from colo import client, product, vm
from colo.qmp import QmpError

from .registry import (WAIT_SECONDS, Context, Failed, Skip, check,
                       check_intact, test, wait_for, wait_lines)

TIMEOUT_MS = 3000
FIRES_SECONDS = 90.0        # checkpoints may be slow, and the fourth be meant
NOTICE_SECONDS = 15.0       # after two timeouts
DECIDED = ('lost', 'alone', 'live', 'ended')
SAMPLES_QUICK = 12

# A side gets there only when the other one is gone already, or never: there
# is no survivor to look at
WITHOUT_SURVIVOR = ('none', 'lost', 'ending', 'alone', 'live', 'ended')

# Ends of the points that a mode does not have, or only a switchover
ELSEWHERE = {
    'periodic': ('secondary-state-running', '-hashes', '-wanted', '-handover'),
    'hybrid': ('secondary-state-standing', '-handover'),
}


ACTIONS = ('kill', 'stall', 'error')


def cases(points: list[str], mode: str,
          actions: tuple[str, ...] = ACTIONS) -> list[tuple[str, str]]:
    """(point, action) of all that can be walked."""
    found = []
    for point in points:
        if not point.startswith(('primary-', 'secondary-')) or \
                point.endswith(ELSEWHERE[mode]):
            continue
        is_state = '-state-' in point
        if is_state and point.rsplit('-', 1)[1] in WITHOUT_SURVIVOR:
            continue
        found += [(point, action) for action in actions
                  if not (is_state and action == 'error')]
    return found


def fired(faulty: vm.Vm, action: str) -> bool:
    if action == 'kill':
        return not faulty.alive()
    if action == 'stall':
        return faulty.state() == 'T'
    faulty.monitor.poll()
    return any(event['event'] in (product.EVENT_LOST, product.EVENT_EXIT)
               for event in faulty.monitor.events)


def happens_once(point: str) -> bool:
    """Is it passed only at the start of a session?"""
    return point.endswith(('-starting', '-checkpoint-ready', '-start'))


def strike(pair: vm.Pair, point: str, action: str, skip: int,
           timeout_ms: int = TIMEOUT_MS) -> str:
    """Protection begins, and comes to @point; the side that is at fault."""
    side = point.split('-')[0]
    faulty = pair.vm(side)
    faulty.monitor.poll()
    faulty.monitor.events.clear()
    faulty.monitor.execute(product.FAULT_INJECT, {
        'point': point, 'action': action,
        'skip': 0 if happens_once(point) else skip})
    pair.begin_protection(exit_on_error=False, x_colo_timeout=timeout_ms)
    wait_for(f'{point} to {action}', lambda: fired(faulty, action),
             FIRES_SECONDS)
    return side


def decided(side: vm.Vm) -> bool:
    """Has its session come to an end, or lost its peer, or could none begin?
    The state of an earlier session stays until this one begins, after the first
    migration."""
    migration = side.monitor.execute('query-migrate').get('status')
    status = side.status()
    return status.state == 'lost' or (
        status.state in ('', *DECIDED) and status.mode == 'none' and
        migration in ('completed', 'failed', 'cancelled'))


def one_case(ctx: Context, pair: vm.Pair, ticker: client.Client, point: str,
             action: str, skip: int) -> None:
    side = strike(pair, point, action, skip)
    other = 'secondary' if side == 'primary' else 'primary'
    faulty = pair.vm(side)
    if action == 'error' and side == 'primary' and \
            faulty.status().state == 'alone':
        # It failed before it was protected: nobody else may go on
        pair.fence(other)
        wait_lines(ticker)
        vm.rebuild(pair)
        return
    pair.fence(side)

    survivor = pair.vm(other)
    wait_for('the survivor to notice', lambda: decided(survivor),
             2 * TIMEOUT_MS / 1000 + NOTICE_SECONDS)
    check(survivor.status().state in ('lost', 'alone'),
          f'the survivor is in state {survivor.status().state}')
    try:
        pair.failover(other)
    except QmpError:
        # A primary that was never protected goes on without being told; a
        # secondary that was never told to start does not
        if survivor.status().state != 'alone':
            check(other == 'secondary' and happens_once(point),
                  'failover refused')
            pair.failover(other, force=True)
    check(survivor.run_state() == 'running', 'the survivor does not run')
    wait_lines(ticker)
    vm.rebuild(pair)


def walk_all(ctx: Context, mode: str) -> None:
    with ctx.pair(memory='256', mode=mode) as pair:
        pair.start_primary()
        pair.start_secondary()
        ticker = pair.client('ticker')
        points = product.fault_points(pair.vm('primary').monitor)
        if not points:
            raise Skip('QEMU was built without fault points')
        todo = cases(points, mode)
        rng = ctx.rng('fault')
        if not ctx.long:
            todo = rng.sample(todo, SAMPLES_QUICK)
        for point, action in todo:
            skip = rng.randrange(4)
            try:
                one_case(ctx, pair, ticker, point, action, skip)
            except Exception as err:
                raise Failed(f'{point} {action} skip {skip}: {err}') from err
        check_intact(ticker)
    ctx.note(f'{len(todo)} faults')


@test('/colo/e2e/fault/walk')
def walk(ctx: Context) -> None:
    walk_all(ctx, 'periodic')


@test('/colo/e2e/hybrid/fault/walk')
def walk_hybrid(ctx: Context) -> None:
    """The ticker never says the same twice: that makes the checkpoints."""
    walk_all(ctx, 'hybrid')


@test('/colo/e2e/fault/no-memory')
def no_memory(ctx: Context) -> None:
    """Staging memory runs out on either side: protection ends before the
    commit, in order, and the primary goes on at once."""
    for side in ('primary', 'secondary'):
        with ctx.pair(memory='256') as pair:
            pair.start_primary()
            pair.start_secondary()
            ticker = pair.client('ticker')
            if not product.fault_points(pair.vm('primary').monitor):
                raise Skip('QEMU was built without fault points')
            pair.vm(side).monitor.execute(product.FAULT_INJECT, {
                'point': 'staging-alloc', 'action': 'error'})
            pair.begin_protection()
            wait_for(f'the end after the {side} ran out of memory',
                     lambda: pair.vm('primary').status().state == 'alone')
            pair.vm('secondary').wait_run_state('shutdown', WAIT_SECONDS)
            pair.vm('primary').wait_run_state('running', WAIT_SECONDS)
            wait_lines(ticker)
            check_intact(ticker)
