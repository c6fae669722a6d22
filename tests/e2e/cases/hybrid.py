# SPDX-License-Identifier: GPL-2.0-or-later
"""Hybrid mode: both guests run, and clients notice nothing all the same."""

from __future__ import annotations

import functools
import time
from typing import Any, Sequence

from colo import product, qmp, vm

from .ends import last_words, power_off
from .kill import (CHECKPOINTS_SECONDS, DATAGRAMS, KILLS_LONG, KILLS_QUICK,
                   Mode, kill_rounds)
from .ram import reset_guest
from .registry import (WAIT_SECONDS, Context, check, check_intact,
                       check_verified, test, wait_for, wait_lines, wait_more)

MOMENT_SECONDS = (0.2, 1.5)     # after protection is there
CHECKPOINTS_QUICK = 40
CHECKPOINTS_LONG = 500
SERVED_SECONDS = 4.0
SERVED_BYTES = 10 << 20
SERVED_PACKETS = 2000
# No checkpoint but for a difference, and a secondary that is slow because its
# host is busy is none
EQUAL: dict[str, Any] = {'compare': (('compare_timeout', 10000),)}
EQUAL_DELAY_MS = 600000


def hybrid(ctx: Context, **changes: Any) -> vm.Pair:
    return ctx.pair(mode='hybrid', **{'memory': '256', **changes})


def survivor_of(victim: str) -> str:
    return 'primary' if victim == 'secondary' else 'secondary'


CLIENTS: Sequence[Mode] = (
    ('ticker', {}), ('http', {'path': '/64k', 'connections': 2}),
    ('echo', {'interval': 5}), *DATAGRAMS)


@test('/colo/e2e/hybrid/kill/primary')
def kill_primary(ctx: Context) -> None:
    kill_rounds(ctx, 'primary', CLIENTS, mode='hybrid')


@test('/colo/e2e/hybrid/kill/secondary')
def kill_secondary(ctx: Context) -> None:
    kill_rounds(ctx, 'secondary', CLIENTS, mode='hybrid')


def kill_either(ctx: Context, **changes: Any) -> None:
    """Now the one, now the other: rewritten connections change sides."""
    rounds = 2 * (KILLS_LONG if ctx.long else KILLS_QUICK)
    rng = ctx.rng('hybrid any')
    with hybrid(ctx, **changes) as pair:
        pair.start_primary()
        running = pair.client('http', path='/64k', connections=2)
        ticker = pair.client('ticker')
        pair.start_secondary()
        for _ in range(rounds):
            pair.protect()
            # Connections that begin, and so get numbers of two guests, in
            # this epoch
            late = pair.client('echo', interval=5)
            time.sleep(rng.uniform(*MOMENT_SECONDS))
            victim = rng.choice(('primary', 'secondary'))
            pair.fence(victim)
            pair.failover(survivor_of(victim))
            wait_lines(ticker)
            check_intact(late)
            vm.rebuild(pair)
        check_intact(ticker)
        check_intact(running)
    ctx.note(f'{rounds} kills')


@test('/colo/e2e/hybrid/kill/any', long_only=True)
def kill_any(ctx: Context) -> None:
    """With filter-compare."""
    kill_either(ctx)


@test('/colo/e2e/hybrid/kill/any-published')
def kill_any_published(ctx: Context) -> None:
    """With colo-compare, two filter-redirectors and an iothread."""
    kill_either(ctx, published=True)


@test('/colo/e2e/hybrid/kill/bulk-in')
def kill_bulk_in(ctx: Context) -> None:
    """What the client sent and the guest acknowledged is there afterwards."""
    with hybrid(ctx) as pair:
        ctx.protected(pair)
        running = pair.client('bulk-in')
        time.sleep(SERVED_SECONDS)
        pair.fence('primary')
        pair.failover('secondary')
        wait_more(running)
        end = check_intact(running)
    check(end['bytes'] > 0, 'nothing arrived')


def much(pair: vm.Pair) -> bool:
    done = pair.compared()
    return (done['bytes-compared'] > SERVED_BYTES and
            done['released-equal'] > SERVED_PACKETS)


def served_equally(ctx: Context, **changes: Any) -> None:
    """Guests that say the same need no checkpoints."""
    with hybrid(ctx, **EQUAL, **changes) as pair:
        ctx.protected(pair, x_checkpoint_delay=EQUAL_DELAY_MS)
        clients = [pair.client('http', path='/64k', connections=2),
                   pair.client('echo'), pair.client('bulk-out')]
        time.sleep(SERVED_SECONDS)
        wait_for('much to be compared', functools.partial(much, pair),
                 CHECKPOINTS_SECONDS)
        for running in clients:
            check_intact(running)
        status = pair.vm('primary').status()
        compared = pair.compared()
    check(compared['released-equal'] > 100 * compared['released-commit'],
          f'few packets left because they were equal: {compared}')
    ctx.note(f'{compared["released-equal"]} packets were equal, '
             f'{compared["released-commit"]} left by one of '
             f'{status.checkpoints} checkpoints')


@test('/colo/e2e/hybrid/equal')
def equal(ctx: Context) -> None:
    """With filter-compare."""
    served_equally(ctx)


@test('/colo/e2e/hybrid/equal-published')
def equal_published(ctx: Context) -> None:
    """With colo-compare, two filter-redirectors and an iothread."""
    served_equally(ctx, published=True)


@test('/colo/e2e/hybrid/different')
def different(ctx: Context) -> None:
    """Guests that never say the same still get on."""
    with hybrid(ctx) as pair:
        ctx.protected(pair)
        ticker = pair.client('ticker')
        wait_lines(ticker, 500)
        reasons = {item['reason']: item['count'] for item in
                   pair.vm('primary').status().statistics['reasons']}
        end = check_intact(ticker)
    check(reasons['mismatch'] + reasons['timeout'] > 0,
          f'no checkpoint for a difference: {reasons}')
    ctx.note(f'longest gap {end["longest_gap_us"] / 1000:.0f} ms, {reasons}')


def busy_checkpoints(ctx: Context, **changes: Any) -> None:
    """After each load the RAM of both sides is equal, byte for byte, however
    far the two guests were apart."""
    count = CHECKPOINTS_LONG if ctx.long else CHECKPOINTS_QUICK
    with hybrid(ctx, verify=True, **changes) as pair:
        ctx.protected(pair, x_checkpoint_delay=50)
        running = pair.client('echo', interval=2)
        pair.control('dirty 16')
        pair.wait_checkpoints(count, CHECKPOINTS_SECONDS + 2 * count)
        wait_for('comparisons', lambda: pair.vm('secondary').status().verified
                 >= count)
        verified = check_verified(pair.vm('secondary').status(), count)
        statistics = pair.vm('primary').status().statistics
        pair.fence('primary')
        pair.failover('secondary')
        pair.control('ping')
        check_intact(running)
    same = statistics['equal-pages']
    ctx.note(f'RAM equal at {verified} checkpoints; {same} of '
             f'{same + statistics["pages"]} pages stayed home')


@test('/colo/e2e/hybrid/ram/plain')
def ram(ctx: Context) -> None:
    busy_checkpoints(ctx)


@test('/colo/e2e/hybrid/ram/smp')
def ram_smp(ctx: Context) -> None:
    busy_checkpoints(ctx, cpus=2)


@test('/colo/e2e/hybrid/ram/no-filters')
def ram_alone(ctx: Context) -> None:
    """Without any filter both run side by side, with timed checkpoints."""
    with hybrid(ctx, verify=True, gate=False) as pair:
        ctx.protected(pair, x_checkpoint_delay=50)
        pair.control('dirty 16')
        pair.wait_checkpoints(CHECKPOINTS_QUICK, CHECKPOINTS_SECONDS)
        check_verified(pair.vm('secondary').status(), CHECKPOINTS_QUICK - 1)
        for side in ('primary', 'secondary'):
            for event in ('STOP', 'RESUME'):
                pair.vm(side).monitor.wait_event(event, 10)
        pair.fence('primary')
        pair.failover('secondary')
        pair.control('ping')


def stands(secondary: vm.Vm) -> bool:
    """It has loaded a guest that stands, and nothing has come since."""
    before, run_state, after = (secondary.status(), secondary.run_state(),
                                secondary.status())
    return (before.state == after.state == 'running' and
            before.epoch == after.epoch and run_state == 'colo')


@test('/colo/e2e/hybrid/paused')
def paused(ctx: Context) -> None:
    """When the user pauses the one guest the other one does not run on."""
    with hybrid(ctx) as pair:
        ctx.protected(pair)
        primary, secondary = pair.vm('primary'), pair.vm('secondary')
        primary.monitor.execute('stop')
        wait_for('the secondary to stand', lambda: stands(secondary))
        primary.monitor.execute('cont')
        secondary.wait_run_state('running', WAIT_SECONDS)
        primary.monitor.execute('stop')
        wait_for('the secondary to stand again', lambda: stands(secondary))
        pair.fence('primary')
        secondary.monitor.execute(product.FAILOVER, timeout=3)
        secondary.wait_run_state('paused', vm.FAILOVER_SECONDS)
        secondary.monitor.execute('cont')
        pair.control('ping')


@test('/colo/e2e/hybrid/guest-poweroff')
def poweroff(ctx: Context) -> None:
    """Both guests power off; it ends in order, and nobody lives on."""
    power_off(ctx, mode='hybrid', memory='256')


@test('/colo/e2e/hybrid/last-words')
def last_words_hybrid(ctx: Context) -> None:
    last_words(ctx, mode='hybrid')


@test('/colo/e2e/hybrid/last-words-published')
def last_words_published(ctx: Context) -> None:
    """The way out leads through an iothread, sockets and the main loop."""
    last_words(ctx, mode='hybrid', published=True)


@test('/colo/e2e/hybrid/last-words-no-shutdown')
def last_words_stopped(ctx: Context) -> None:
    last_words(ctx, quits=False, mode='hybrid')


@test('/colo/e2e/hybrid/reset')
def reset(ctx: Context) -> None:
    """The guest boots again under protection."""
    reset_guest(ctx, 10, mode='hybrid', x_checkpoint_delay=200)


@test('/colo/e2e/hybrid/stream-lost')
def stream_lost(ctx: Context) -> None:
    """The streams of the proxy break, the channel of the checkpoints does not:
    the service goes on by checkpoints."""
    with hybrid(ctx) as pair:
        ctx.protected(pair)
        running = pair.client('echo', interval=5)
        wait_more(running, 50)
        secondary = pair.vm('secondary')
        for name in ('f1', 'f2'):
            try:
                secondary.monitor.execute('object-del', {'id': name})
            except qmp.QmpError as err:
                check('in use' in str(err), str(err))
            else:
                check(False, f'{name} of a secondary was deleted')
        secondary.monitor.execute('yank', {'instances': [
            {'type': 'chardev', 'id': name} for name in ('red0', 'red1')]})
        wait_more(running, 4)       # by checkpoints
        pair.fence('secondary')
        pair.failover('primary')
        wait_more(running, 50)
        check_intact(running)
