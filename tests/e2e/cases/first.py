# SPDX-License-Identifier: GPL-2.0-or-later
"""A side goes away while the first migration is under way.

Until that one is complete the secondary has half a guest: it must never run
it, whatever it is told, and it has to end.  The primary loses nothing.
"""

from __future__ import annotations

import signal
import time
from typing import Any

from colo import product, vm
from colo.qmp import QmpClosed, QmpError

from .registry import (Context, Failed, check, check_intact, test, wait_for,
                       wait_lines)

# Slow enough to be met halfway: the guest's RAM holds more than 30 MB
BYTES_PER_SECOND = 16 << 20
CRAWL = 64 << 10                # from then on: the end is far
PARTS_QUICK = (0.0, 0.5)        # of that RAM that has been sent
PARTS_LONG = (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9)
SENT_GOAL = 24 << 20
ENDED_SECONDS = 45.0
QUIT_SECONDS = 20.0


def begin(pair: vm.Pair, part: float, **options: Any) -> None:
    """Begin the first migration and return while it is under way."""
    pair.begin_protection(max_bandwidth=BYTES_PER_SECOND, **options)
    primary = pair.vm('primary').monitor

    def halfway() -> bool:
        info = primary.execute('query-migrate')
        if info['status'] not in ('none', 'setup', 'active'):
            raise Failed(f'the first migration is {info["status"]} already')
        return (info['status'] == 'active' and
                info['ram']['transferred'] >= part * SENT_GOAL)
    wait_for('the first migration', halfway)
    primary.execute('migrate-set-parameters', {'max-bandwidth': CRAWL})
    halfway()


def check_half(secondary: vm.Vm) -> None:
    """It has half a guest and nobody can make it run that."""
    monitor = secondary.monitor
    try:
        monitor.execute(product.FAILOVER)
    except QmpError as err:
        check('no COLO session' in err.desc, err.desc)
    else:
        raise Failed('the secondary took over with half a guest')
    check(secondary.run_state() == 'inmigrate', 'half a guest runs')


def check_never_ran(secondary: vm.Vm) -> None:
    """Alive or gone by itself: it has not told of a start."""
    try:
        secondary.monitor.poll()
    except QmpClosed:
        pass
    seen = [event['event'] for event in secondary.monitor.events]
    check('RESUME' not in seen, f'half a guest ran: {seen}')


@test('/colo/e2e/kill/first-migration')
def kill_primary(ctx: Context) -> None:
    """The secondary ends by itself and says why."""
    said = ''
    state = vm.boot_once(ctx.hosts, vm.replace(ctx.machine, memory='256'),
                         ctx.run)
    for part in PARTS_LONG if ctx.long else PARTS_QUICK:
        with ctx.pair(memory='256') as pair:
            pair.start_primary(state=state)
            secondary = pair.start_secondary()
            begin(pair, part)
            check_half(secondary)
            pair.fence('primary')
            code = secondary.wait_exit(ENDED_SECONDS)
            said = secondary.last_words()
            check(code == 1, said)
            check('load of migration failed' in said, said)
            check_never_ran(secondary)
    ctx.note(said)


@test('/colo/e2e/kill/first-migration-kept')
def kill_primary_kept(ctx: Context) -> None:
    """A secondary that is asked to stay (exit-on-error=false) stands, and
    cannot be talked into running what it has."""
    with ctx.pair(memory='256') as pair:
        pair.start_primary()
        secondary = pair.start_secondary()
        begin(pair, 0.5, exit_on_error=False)
        pair.fence('primary')
        info = secondary.monitor.wait_until('the end', 'query-migrate',
                                            'status', 'failed', ENDED_SECONDS)
        check(bool(info.get('error-desc')), 'it does not say why')
        check_half(secondary)
        secondary.monitor.execute('cont')
        check(secondary.run_state() == 'inmigrate', 'cont ran half a guest')
        check_never_ran(secondary)
        secondary.monitor.execute('quit')
        check(secondary.wait_exit() == 0, secondary.last_words())
    ctx.note(info['error-desc'])


@test('/colo/e2e/kill/first-migration-secondary')
def kill_secondary(ctx: Context) -> None:
    """The primary runs on as if nothing had been asked of it, and can be
    protected by the next one."""
    with ctx.pair(memory='256') as pair:
        pair.start_primary()
        clients = [pair.client('ticker'), pair.client('bulk-out')]
        pair.start_secondary()
        begin(pair, 0.5)
        primary = pair.vm('primary')
        pair.fence('secondary')
        primary.monitor.wait_until('the end', 'query-migrate', 'status',
                                   'failed', ENDED_SECONDS)
        check(primary.run_state() == 'running', 'the primary does not run')
        wait_lines(clients[0])
        vm.rebuild(pair)
        pair.protect(max_bandwidth=0)
        pair.fence('primary')
        pair.failover('secondary')
        wait_lines(clients[0])
        for running in clients:
            check_intact(running)


@test('/colo/e2e/loss/first-migration-stalled')
def stalled_primary(ctx: Context) -> None:
    """A primary that hangs leaves the secondary waiting, as in any
    migration; its monitor answers all the while, and it can be ended."""
    with ctx.pair(memory='256') as pair:
        pair.start_primary()
        secondary = pair.start_secondary()
        begin(pair, 0.5)
        pair.vm('primary').signal(signal.SIGSTOP)
        check_half(secondary)
        start = time.monotonic()
        secondary.monitor.execute('quit', timeout=QUIT_SECONDS)
        check(secondary.wait_exit() == 0, secondary.last_words())
        took = time.monotonic() - start
        check(took < QUIT_SECONDS, f'quit took {took:.1f} s')
        check_never_ran(secondary)
