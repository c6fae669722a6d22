# SPDX-License-Identifier: GPL-2.0-or-later
"""A session ends in order: nobody goes live who must not."""

from __future__ import annotations

from typing import Any

from colo import client, product, vm
from colo.qmp import QmpError

from .registry import (Context, check, check_intact, test, wait_for,
                       wait_lines)

ENDED_SECONDS = 45.0
POWER_OFF_SECONDS = 90.0
LAST_CONNECTIONS = 40
LAST_SECONDS = 60
LAST_PAUSE_MS = 1500
NEVER_MS = 600000
LATE_MS = 2000


def check_ended(secondary: vm.Vm) -> None:
    """The secondary knows, stands, and refuses to take over."""
    secondary.wait_run_state('shutdown', ENDED_SECONDS)
    event = secondary.monitor.wait_event(product.EVENT_EXIT, ENDED_SECONDS)
    check(event['data'] == {'mode': 'secondary', 'reason': 'request'},
          f'COLO_EXIT says {event["data"]}')
    check(secondary.status().state == 'ended', 'state of the secondary')
    try:
        secondary.monitor.execute(product.FAILOVER)
    except QmpError as err:
        check('no COLO session' in err.desc, err.desc)
    else:
        check(False, 'the secondary took a failover after an orderly end')
    check(secondary.run_state() == 'shutdown', 'the secondary went live')


@test('/colo/e2e/end/quit-primary')
def quit_primary(ctx: Context) -> None:
    with ctx.pair() as pair:
        ctx.protected(pair)
        pair.vm('primary').monitor.execute('quit')
        check(pair.vm('primary').wait_exit() == 0, 'exit status')
        check_ended(pair.vm('secondary'))


def power_off(ctx: Context, **changes: Any) -> None:
    """The guest ends itself: the pair ends, and nobody lives on."""
    with ctx.pair(**changes) as pair:
        ctx.protected(pair)
        # Its answer and its end race
        order = client.Client(pair.hosts, pair.machine.image.client, 'control',
                              command='poweroff', seconds=POWER_OFF_SECONDS)
        try:
            code = pair.vm('primary').wait_exit(POWER_OFF_SECONDS)
        finally:
            order.kill()
        check(code == 0, f'exit status {code}')
        check_ended(pair.vm('secondary'))


@test('/colo/e2e/end/guest-poweroff')
def poweroff(ctx: Context) -> None:
    power_off(ctx)


# Linux 6.1.192 breaks its queues when it powers off, and one that it still has
# much to take from is polled for ever then
NO_TX_NAPI = 'colo.virtio_net=napi_tx=0'


def last_words(ctx: Context, quits: bool = True, **changes: Any) -> None:
    """What the guest says right before it powers off arrives, and the end of
    each connection, although all of it is held until then.

    @quits: QEMU ends then, or it is told to later.
    """
    extra = () if quits else ('-no-shutdown',)
    with ctx.pair(memory='256', extra=extra, cmdline=NO_TX_NAPI,
                  compare=(('compare_timeout', NEVER_MS),),
                  **changes) as pair:
        ctx.protected(pair)
        primary = pair.vm('primary')
        said = pair.control('sh grep -qx N '
                            '/sys/module/virtio_net/parameters/napi_tx')
        check(said.startswith('0 '), f'napi_tx: {said}')
        last = pair.client('last', connections=LAST_CONNECTIONS,
                           seconds=LAST_SECONDS, interval=LAST_PAUSE_MS)
        if pair.machine.mode == 'periodic':
            primary.monitor.execute('migrate-set-parameters', {
                product.PARAMETER_DELAY: NEVER_MS if quits else LATE_MS})
        else:
            # What the primary's guest says finds no equal
            pair.vm('secondary').monitor.execute('yank', {'instances': [
                {'type': 'chardev', 'id': 'red1'}]})
        end = last.wait_end(2 * LAST_SECONDS)
        check(bool(end['intact']), f'{end["why"]}: {end}')
        if not quits:
            primary.wait_run_state('shutdown', ENDED_SECONDS)
            primary.monitor.execute('quit')
        check(primary.wait_exit(POWER_OFF_SECONDS) == 0, 'exit status')
        check_ended(pair.vm('secondary'))


@test('/colo/e2e/end/last-words')
def last_words_periodic(ctx: Context) -> None:
    last_words(ctx)


@test('/colo/e2e/end/last-words-no-shutdown')
def last_words_stopped(ctx: Context) -> None:
    """The VM is stopped, and QEMU stays."""
    last_words(ctx, quits=False)


@test('/colo/e2e/end/cancel')
def cancel(ctx: Context) -> None:
    with ctx.pair() as pair:
        ctx.protected(pair)
        ticker = pair.client('ticker')
        primary = pair.vm('primary')
        primary.monitor.execute('migrate_cancel')
        primary.monitor.wait_until('cancel', 'query-migrate', 'status',
                                   'cancelled', ENDED_SECONDS)
        check_ended(pair.vm('secondary'))
        wait_lines(ticker)
        # Another pair can be made of the survivor
        pair.fence('secondary')
        vm.rebuild(pair)
        pair.protect()
        pair.fence('primary')
        pair.failover('secondary')
        wait_lines(ticker)
        check_intact(ticker)


@test('/colo/e2e/end/quit-secondary')
def quit_secondary(ctx: Context) -> None:
    """The primary goes on at once, nobody has to say so."""
    with ctx.pair() as pair:
        ctx.protected(pair)
        ticker = pair.client('ticker')
        pair.vm('secondary').monitor.execute('quit')
        check(pair.vm('secondary').wait_exit() == 0, 'exit status')
        wait_for('the primary to be alone',
                 lambda: pair.vm('primary').status().state == 'alone')
        wait_lines(ticker)
        check_intact(ticker)
