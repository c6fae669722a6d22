# SPDX-License-Identifier: GPL-2.0-or-later
"""One command a side makes a pair of a VM that runs, writes and talks.

The VM has an ordinary disk and NIC and nothing for COLO.  Hosts die in turn, and
each survivor gets a new secondary by the same command; at the end all is taken
away again.  No line and no block is lost.
"""

from __future__ import annotations

from colo import disks, net, product, vm

from .disks import check_images, start_writers, verify_all
from .registry import (Context, check, check_intact, check_verified, test,
                       wait_for, wait_lines)

PORT = 7800
READY_SECONDS = 120.0


def phase(side: vm.Vm) -> str:
    return str(side.monitor.execute('query-colo-setup')['phase'])


def describe(side: vm.Vm) -> str:
    return str(side.monitor.execute('query-colo-setup'))


def protect(pair: vm.Pair, mode: str) -> None:
    """Both sides, and wait until the guest is protected."""
    host = net.LINK_ADDRESS[pair.vm('secondary').host]
    for role in ('secondary', 'primary'):
        execute = pair.vm(role).monitor.execute
        execute('migrate-set-parameters', {
            product.PARAMETER_TIMEOUT: vm.TIMEOUT_MS, 'max-bandwidth': 0})
        arguments = {'role': role, 'host': host, 'port': PORT, 'mode': mode}
        if role == 'secondary':
            folder = pair.run / f'overlays-{pair.vm(role).host}'
            folder.mkdir(exist_ok=True)
            arguments['folder'] = str(folder)
        execute('x-colo-protect', arguments)
    for role in ('primary', 'secondary'):
        side = pair.vm(role)
        wait_for(f'the {role} to be protected ({describe(side)})',
                 lambda: bool(side.monitor.execute(         # noqa: B023
                     'query-colo-status')['protected']), READY_SECONDS)
        check(phase(side) == 'pair', describe(side))


def rounds(ctx: Context, mode: str) -> None:
    with ctx.pair(mode=mode, gate=False, verify=True, memory='256',
                  disks=disks.Disks(plain=True, kind='qcow2')) as pair:
        pair.start_primary()
        ticker = pair.client('ticker')
        writers = start_writers(pair)
        host = 'b'
        for victim, survivor in (('primary', 'secondary'),
                                 ('secondary', 'primary'),
                                 ('primary', 'secondary')):
            pair.start_secondary(host)
            protect(pair, mode)
            wait_lines(ticker)
            pair.vm('primary').monitor.execute('x-colo-checkpoint')
            wait_for('RAM to be compared',
                     lambda: pair.vm('secondary').status().verified > 0)
            check_verified(pair.vm('secondary').status(), 1)
            pair.fence(victim)
            pair.failover(survivor)
            wait_lines(ticker)
            verify_all(writers)
            disks.wait_folded(pair.vm(survivor))
            host = pair.vm(victim).host
            if survivor == 'secondary':
                pair.primary, pair.secondary = pair.secondary, None
        last = pair.vm('primary')
        last.monitor.execute('x-colo-unprotect')
        wait_for('all to be taken away', lambda: phase(last) == 'none')
        wait_lines(ticker)
        verify_all(writers)
        check_intact(ticker)
        blocks = check_images(pair, 'primary', writers)
    ctx.note(f'three pairs, {blocks} blocks')


@test('/colo/e2e/setup/periodic')
def periodic(ctx: Context) -> None:
    rounds(ctx, 'periodic')


@test('/colo/e2e/setup/hybrid')
def hybrid(ctx: Context) -> None:
    rounds(ctx, 'hybrid')
