# SPDX-License-Identifier: GPL-2.0-or-later
"""Monitor commands while the guest is protected."""

from __future__ import annotations

import functools
from typing import Any

from colo import disks, vm
from colo.qmp import QmpError, QmpTimeout

from .calls import committed
from .disks import NEVER_MS, checkpoint
from .kill import CHECKPOINTS_SECONDS
from .registry import (WAIT_SECONDS, Context, check, check_intact,
                       check_verified, test, wait_for, wait_lines)

TIMEOUT_MS = 2000

REFUSED_ON_BOTH: tuple[tuple[str, dict[str, Any]], ...] = (
    ('device_add', {'driver': 'virtio-rng-pci', 'id': 'rng0'}),
    ('migrate', {'uri': 'tcp:127.0.0.1:1'}),
    ('migrate-set-capabilities', {'capabilities': [
        {'capability': 'x-colo', 'state': False}]}),
    ('snapshot-load', {'job-id': 'j0', 'tag': 't', 'vmstate': 'd',
                       'devices': ['d']}),
)
REFUSED_ON_SECONDARY: tuple[tuple[str, dict[str, Any]], ...] = (
    ('stop', {}), ('cont', {}), ('system_reset', {}),
)


@test('/colo/e2e/monitor/refused')
def refused(ctx: Context) -> None:
    with ctx.pair() as pair:
        ctx.protected(pair)
        ticker = pair.client('ticker')
        for side, commands in (
                ('primary', REFUSED_ON_BOTH),
                ('secondary', REFUSED_ON_BOTH + REFUSED_ON_SECONDARY)):
            for command, arguments in commands:
                try:
                    pair.vm(side).monitor.execute(command, arguments)
                except QmpError:
                    continue
                check(False, f'{command} was accepted on the {side}')
        for command in ('savevm x', 'loadvm x'):
            for side in ('primary', 'secondary'):
                answer = pair.vm(side).monitor.execute(
                    'human-monitor-command', {'command-line': command})
                check('rror' in answer, f'{command} on the {side}: {answer}')
        pair.wait_checkpoints(5, CHECKPOINTS_SECONDS)
        wait_lines(ticker)
        check_intact(ticker)


@test('/colo/e2e/monitor/stop-cont')
def stop_cont(ctx: Context) -> None:
    """stop and cont as fast as the monitor takes them, checkpoints beside."""
    with ctx.pair(verify=True) as pair:
        ctx.protected(pair, x_checkpoint_delay=1)
        ticker = pair.client('ticker')
        monitor = pair.vm('primary').monitor
        for _ in range(200):
            monitor.execute('stop')
            monitor.execute('cont')
        check(pair.vm('primary').run_state() in ('running', 'colo'),
              'the last word was cont')
        wait_lines(ticker)
        for _ in range(200):
            monitor.execute('cont')
            monitor.execute('stop')
        pair.vm('primary').wait_run_state('paused', WAIT_SECONDS)
        pair.wait_checkpoints(5, CHECKPOINTS_SECONDS)
        check(pair.vm('primary').run_state() == 'paused',
              'the last word was stop')
        monitor.execute('cont')
        wait_lines(ticker)
        check_intact(ticker)
        wait_for('comparisons',
                 lambda: pair.vm('secondary').status().verified >= 10)
        check_verified(pair.vm('secondary').status(), 10)


@test('/colo/e2e/monitor/checkpoint-on-request')
def on_request(ctx: Context) -> None:
    """With a long delay only what is asked for happens."""
    with ctx.pair() as pair:
        pair.start_primary()
        pair.start_secondary()
        pair.begin_protection(x_checkpoint_delay=NEVER_MS,
                              x_colo_timeout=TIMEOUT_MS)
        primary = pair.vm('primary').monitor
        primary.wait_until('protection', 'query-colo-status', 'state',
                           'running', vm.PROTECT_SECONDS)
        for n in range(1, 4):
            primary.execute('x-colo-checkpoint')
            wait_for(f'checkpoint {n}',
                     functools.partial(committed, pair.vm('primary'), n))
            primary.wait_until('end of it', 'query-colo-status', 'state',
                               'running', WAIT_SECONDS)
        # Longer than the timeout: the sides hear of each other in between
        try:
            primary.wait_until('loss', 'query-colo-status', 'state', 'lost',
                               2.5 * TIMEOUT_MS / 1000)
        except QmpTimeout:
            pass        # the wait is to end in vain
        status = pair.vm('primary').status()
        check(status.state == 'running', f'state {status.state} when idle')
        check(status.checkpoints == 3, f'{status.checkpoints} checkpoints')


def taken_out(ctx: Context, back: bool) -> None:
    """@back: put in its place again before the checkpoint."""
    with ctx.pair(memory='256', disks=disks.Disks()) as pair:
        ctx.protected(pair)
        primary, secondary = pair.vm('primary'), pair.vm('secondary')
        primary.monitor.execute('migrate-set-parameters', {
            'x-checkpoint-delay': NEVER_MS})
        checkpoint(pair)
        primary.monitor.execute('cont')
        committed = primary.status().checkpoints
        primary.monitor.execute('x-blockdev-change', {
            'parent': 'disk0', 'child': disks.PEER_CHILD})
        disks.io(primary, 'write -P 9 0 64k')
        if back:
            primary.monitor.execute('x-blockdev-change', {
                'parent': 'disk0', 'node': 'replication0'})
        primary.monitor.execute('x-colo-checkpoint')
        event = primary.monitor.wait_event('COLO_DISK_ERROR', WAIT_SECONDS)
        check('replication0' in event['data']['message'], str(event))
        event = primary.monitor.wait_event('COLO_EXIT', WAIT_SECONDS)
        check(event['data']['reason'] == 'error', str(event))
        secondary.monitor.wait_event('COLO_EXIT', WAIT_SECONDS)
        check(primary.status().checkpoints == committed,
              'a checkpoint was committed')
        check(primary.run_state() == 'running', 'the guest was stopped')
        check(secondary.run_state() == 'shutdown', 'it would go on')
        pair.control('ping')


@test('/colo/e2e/monitor/disk-taken-out')
def disk_taken_out(ctx: Context) -> None:
    """A disk that the secondary does not get any more is found out before a
    checkpoint is committed without it."""
    taken_out(ctx, False)


@test('/colo/e2e/monitor/disk-taken-out-and-back')
def disk_taken_out_and_back(ctx: Context) -> None:
    """Also if it does get what is written later."""
    taken_out(ctx, True)
