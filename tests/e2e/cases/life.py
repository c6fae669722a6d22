# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of a pair with a replicated disk, command by command as documented.

Hosts die in turn; each time the survivor gets a new secondary, whose disk is
copied anew, and the roles change whenever it was the primary that died.
"""

from __future__ import annotations

from typing import Any

from colo import disks, net, vm

from .disks import check_images, start_writers, verify_all
from .registry import (Context, check, check_intact, test, wait_for,
                       wait_lines)

ROUNDS_QUICK = 2
ROUNDS_LONG = 10
DISK = 'disk0'
EXPORT = 'parent0'
READY_SECONDS = 60.0


def hmp(side: vm.Vm, line: str) -> str:
    return str(side.monitor.execute('human-monitor-command',
                                    {'command-line': line})).strip()


def block_jobs(side: vm.Vm) -> list[dict[str, Any]]:
    return list(side.monitor.execute('query-block-jobs'))


def new_secondary(pair: vm.Pair, host: str) -> None:
    """A new QEMU with empty overlays; its disk may have anything on it."""
    secondary = pair.start_secondary(host)
    secondary.monitor.execute('nbd-server-start', {
        'addr': {'type': 'inet', 'data': {
            'host': net.LINK_ADDRESS[host], 'port': str(disks.NBD_PORT)}}})
    secondary.monitor.execute('nbd-server-add', {'device': EXPORT,
                                                 'writable': True})
    secondary.disks.add('nbd-server')


def resync(pair: vm.Pair) -> None:
    """Copy the disk while the guest runs; at the end it stands."""
    execute = pair.vm('primary').monitor.execute
    link = net.LINK_ADDRESS[pair.vm('secondary').host]
    execute('drive-mirror', {
        'device': DISK, 'job-id': 'resync', 'sync': 'full',
        'target': f'nbd://{link}:{disks.NBD_PORT}/{EXPORT}',
        'mode': 'existing', 'format': 'raw'})
    wait_for('the copy', lambda: [job['ready'] for job in
                                  block_jobs(pair.vm('primary'))] == [True],
             READY_SECONDS)
    execute('stop')
    execute('block-job-cancel', {'device': 'resync'})
    wait_for('the end of the copy',
             lambda: not block_jobs(pair.vm('primary')))


def replicate(pair: vm.Pair) -> None:
    primary = pair.vm('primary')
    link = net.LINK_ADDRESS[pair.vm('secondary').host]
    said = hmp(primary, 'drive_add -n buddy driver=replication,mode=primary,'
               f'file.driver=nbd,file.host={link},'
               f'file.port={disks.NBD_PORT},file.export={EXPORT},'
               'node-name=replication0')
    check(said == '', said)
    primary.monitor.execute('x-blockdev-change', {'parent': DISK,
                                                  'node': 'replication0'})
    primary.disks.add('replication0')


def protect(pair: vm.Pair, host: str, cont_first: bool) -> None:
    """The survivor, or the first one, gets a secondary on @host."""
    new_secondary(pair, host)
    resync(pair)
    replicate(pair)
    primary = pair.vm('primary')
    if cont_first:
        primary.monitor.execute('cont')
    pair.begin_protection()
    if not cont_first:
        # The guest stays paused, on both sides, until it is told to go on
        pair.wait_protected()
        check(primary.run_state() == 'paused', 'the guest was paused')
        primary.monitor.execute('cont')
    pair.wait_protected()


def primary_goes_on(pair: vm.Pair, early: bool) -> None:
    """The secondary is dead.  @early: the child is removed before the
    failover, as published; after it is as good."""
    primary = pair.vm('primary')

    def remove() -> None:
        primary.monitor.execute('x-blockdev-change', {
            'parent': DISK, 'child': disks.PEER_CHILD})
        said = hmp(primary, 'drive_del replication0')
        check(said == '', said)

    if early:
        remove()
    pair.failover('primary')
    if not early:
        remove()
    primary.disks.clear()


def files_in_use(side: vm.Vm) -> str:
    return ' '.join(str(node['file']) for node in
                    side.monitor.execute('query-named-block-nodes'))


def secondary_goes_on(pair: vm.Pair, early: bool) -> None:
    """The primary is dead.  @early: the NBD server is stopped before the
    failover, as published; after it is as good."""
    secondary = pair.vm('secondary')
    if early:
        secondary.monitor.execute('nbd-server-stop')
    pair.failover('secondary')
    wait_for('the overlays to be folded into the disk',
             lambda: not block_jobs(secondary))
    if not early:
        secondary.monitor.execute('nbd-server-stop')
    left = files_in_use(secondary)
    check('.qcow2' not in left, f'overlays are still in use: {left}')
    check(str(disks.image(pair.run, secondary.host, 0)) in left,
          f'the disk is not in use: {left}')
    secondary.disks.clear()


def life(ctx: Context, mode: str) -> None:
    rounds = ROUNDS_LONG if ctx.long else ROUNDS_QUICK
    rng = ctx.rng(f'life/{mode}')
    with ctx.pair(mode=mode, memory='256', disks=disks.Disks(batch=False)) as pair:
        pair.start_primary()
        ticker = pair.client('ticker')
        writers = start_writers(pair)
        host = 'b'
        for _ in range(rounds):
            for victim, survivor, goes_on in (
                    ('secondary', 'primary', primary_goes_on),
                    ('primary', 'secondary', secondary_goes_on)):
                protect(pair, host, rng.random() < 0.5)
                wait_lines(ticker)
                disks.wait_fresh(pair.vm('primary'))
                pair.fence(victim)
                goes_on(pair, rng.random() < 0.5)
                wait_lines(ticker)
                verify_all(writers)
                host = pair.vm(victim).host
                if survivor == 'secondary':
                    pair.primary, pair.secondary = pair.secondary, None
        check_intact(ticker)
        blocks = check_images(pair, 'primary', writers)
    ctx.note(f'{rounds} rounds of two failovers, {blocks} blocks')


@test('/colo/e2e/disk/life')
def life_periodic(ctx: Context) -> None:
    life(ctx, 'periodic')


@test('/colo/e2e/disk/hybrid/life')
def life_hybrid(ctx: Context) -> None:
    life(ctx, 'hybrid')


@test('/colo/e2e/disk/end')
def end(ctx: Context) -> None:
    """Protection ends in order: the guest keeps its disk, which is made the
    same on another host whenever that is wanted."""
    with ctx.pair(memory='256', disks=disks.Disks(batch=False)) as pair:
        primary = pair.start_primary()
        writers = start_writers(pair)
        for how in ('migrate_cancel', 'quit'):
            secondary = pair.start_secondary()
            pair.protect()
            side = primary if how == 'migrate_cancel' else secondary
            side.monitor.execute(how)
            wait_for('the primary to be alone',
                     lambda: primary.status().state == 'alone')
            if side is primary:
                secondary.wait_run_state('shutdown', READY_SECONDS)
            disks.wait_fresh(primary)
            verify_all(writers)
            pair.fence('secondary')
            vm.retire(pair)
        check_images(pair, 'primary', writers)
