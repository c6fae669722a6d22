# SPDX-License-Identifier: GPL-2.0-or-later
"""Which side has the newer disks: known also when both sides are dead."""

from __future__ import annotations

from colo import disks, qmp, vm

from .registry import Context, check, test, wait_for

MARK = 'colo-disk-generation'


def on_disk(pair: vm.Pair, host: str) -> str:
    """As people read it."""
    return disks.generation_file(pair.run, host, 0).read_text()


def expect(pair: vm.Pair, host: str, number: int, role: str) -> None:
    text = f'{MARK} {number} {role}\n'
    wait_for(f'{text!r} on host {host}, not {on_disk(pair, host)!r}',
             lambda: on_disk(pair, host) == text)


def go_on_alone(pair: vm.Pair, survivor: str, number: int) -> None:
    """The other side dies."""
    last = pair.vm(survivor)
    dead = pair.other(survivor)
    before = on_disk(pair, dead.host)
    pair.fence('primary' if survivor == 'secondary' else 'secondary')
    pair.failover(survivor)
    check(on_disk(pair, last.host).startswith(f'{MARK} {number} '),
          f'the guest runs, and on disk is {on_disk(pair, last.host)!r}')
    expect(pair, last.host, number, 'alone')
    check(on_disk(pair, dead.host) == before, 'that of the dead side changed')


def refused(pair: vm.Pair) -> str:
    """What the primary says of a session that it does not begin."""
    monitor = pair.vm('primary').monitor
    monitor.wait_until('the migration to fail', 'query-migrate', 'status',
                       'failed', 20, never=('completed',))
    check(pair.vm('primary').run_state() == 'running', 'its guest stands')
    return str(monitor.execute('query-migrate')['error-desc'])


def not_resynced(pair: vm.Pair, host: str) -> None:
    """The survivor gets a secondary with the image from before."""
    primary = pair.vm('primary')
    disks.attach(primary, pair.start_secondary(host), resync=False)
    pair.begin_protection()
    event = primary.monitor.wait_event('COLO_DISK_ERROR', 20)
    check('no resync' in event['data']['message'], str(event))
    check('no resync' in refused(pair), 'refused for another reason')
    pair.fence('secondary')


def wrong_way(pair: vm.Pair) -> None:
    """Host a has the older disk, and is started as the primary."""
    pair.start_primary('a')
    pair.start_secondary('b')
    try:
        pair.begin_protection(exit_on_error=False)
    except qmp.QmpError as error:
        check('newer' in str(error), f'refused with {error}')
    else:
        check(False, 'what the guest writes goes to the newer disk')


@test('/colo/e2e/disk/generation')
def generation(ctx: Context) -> None:
    layout = disks.Disks(generations=True)
    with ctx.pair(disks=layout, mode='hybrid') as pair:
        pair.start_primary('a')
        pair.start_secondary('b')
        pair.protect()
        expect(pair, 'a', 1, 'primary')
        expect(pair, 'b', 1, 'secondary')
        for side in ('primary', 'secondary'):
            shown = pair.vm(side).status().raw['disks'][0]['generation']
            check(shown == {'number': 1, 'role': side}, f'{side}: {shown}')

        go_on_alone(pair, 'secondary', 2)
        host = vm.retire(pair)
        not_resynced(pair, host)
        expect(pair, 'b', 2, 'alone')
        disks.resync(pair.vm('primary'), pair.start_secondary(host), 'hash')
        pair.protect()
        expect(pair, 'b', 3, 'primary')
        expect(pair, 'a', 3, 'secondary')

        go_on_alone(pair, 'primary', 4)
        pair.close()
        wrong_way(pair)
        expect(pair, 'a', 3, 'secondary')
        # All of it has been overwritten by then, in a way that is not refused
        expect(pair, 'b', 4, 'inconsistent')
