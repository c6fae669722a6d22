# SPDX-License-Identifier: GPL-2.0-or-later
"""Pacemaker runs the pair: two nodes with corosync, a fencing device, and the
resource agent of tools/ocf.

Whatever fails, nobody types anything.  A client of the guest, and the disks,
say whether it was one machine all the time.
"""

from __future__ import annotations

import time
from pathlib import Path

from colo import client, cluster, disks, vm

from .registry import (Context, Skip, check, check_intact, test,
                       wait_for, wait_lines)

OTHER = {'a': 'b', 'b': 'a'}
BOOT_SECONDS = 240.0
PROMOTED, UNPROMOTED = 'Promoted', 'Unpromoted'
AGENT = '/usr/lib/ocf/resource.d/qemu/colo'
BLOCKS = 16
GAP_US = 3000000        # when the guest changes places in order
STEADY_SECONDS = 8.0    # two monitors of both instances


class World:
    """A cluster, and clients of its guest."""

    def __init__(self, ctx: Context, mode: str = 'periodic'):
        why = cluster.why_not()
        if why:
            raise Skip(why)
        self.ctx = ctx
        self.machine = vm.replace(ctx.machine, memory='256', mode=mode,
                                  disks=disks.Disks(generations=True))
        self.cluster = cluster.Cluster(ctx.hosts, self.machine, ctx.run)

    def __enter__(self) -> World:
        self.cluster.__enter__()
        return self

    def __exit__(self, failure: object, *rest: object) -> None:
        self.cluster.__exit__(failure, *rest)

    def client(self, mode: str, **options: object) -> client.Client:
        program = self.machine.image.client
        return client.Client(self.ctx.hosts, program, mode,
                             **options).wait_connected(BOOT_SECONDS)

    def writer(self, seed: int = 1) -> client.Client:
        """One that has been told of blocks that are durable."""
        writer = self.client('disk', device='/dev/vda', seed=seed)
        wait_for('durable blocks', lambda:
                 int(writer.poll().get('acked', 0)) >= BLOCKS)
        return writer

    def begin(self) -> None:
        """Both nodes, and a guest that is protected."""
        self.cluster.start('a', 'b')
        self.cluster.configure()
        self.cluster.wait_protected('a', 'b')

    def live(self) -> list[str]:
        """Where a guest runs that its clients could hear."""
        return [host for host, node in self.cluster.nodes.items()
                if node.state() in ('live', 'protected')]

    def generation(self, host: str) -> str:
        return disks.generation_file(self.ctx.run, host, 0).read_text(
            encoding='ascii').strip()

    def image(self, host: str) -> Path:
        return disks.image(self.ctx.run, host, 0)


@test('/colo/e2e/pacemaker/ocf-tester', long_only=True, cluster=True)
def ocf_tester(ctx: Context) -> None:
    """The agent alone does what OCF demands of any."""
    with World(ctx) as world:
        node = world.cluster.nodes['a']
        node.start(bare=True)
        said = node.run('ocf-tester', '-n', cluster.RESOURCE, '-o',
                        f'config={cluster.CONFIG}', '-o',
                        'shutdown_timeout=1', AGENT, check=False)
        check('passed all tests' in said and '* rc=' not in said, said)
        check('not support the demote' not in said, said)


def death(world: World) -> None:
    """The promoted node loses its power, and comes back later; then the other
    one does."""
    ctx, pair = world.ctx, world.cluster
    ticker = world.client('ticker')
    writer = world.writer()
    for primary in ('a', 'b'):
        secondary = OTHER[primary]
        wait_lines(ticker)
        start = time.monotonic()
        pair.nodes[primary].kill()
        pair.wait_state(secondary, 'live')
        seconds = time.monotonic() - start
        check(pair.power.done[-1:] == [primary],
              f'fenced are {pair.power.done}')
        pair.wait_roles(**{secondary: PROMOTED})
        wait_lines(ticker)
        writer.verify()
        ctx.note(f'{primary} has died: {secondary} is live after '
                 f'{seconds:.1f} s')
        pair.start(primary)
        pair.wait_protected(secondary, primary)
    # The secondary's
    before = world.generation('a')
    start = time.monotonic()
    pair.nodes['b'].kill()
    wait_for('a to go on', lambda: pair.nodes['a'].state() == 'live' and
             world.generation('a') != before)
    check(pair.power.done[-1:] == ['b'], f'fenced are {pair.power.done}')
    wait_lines(ticker)
    writer.verify()
    ctx.note(f'b has died, the secondary: a is alone after '
             f'{time.monotonic() - start:.1f} s')
    pair.start('b')
    pair.wait_protected('a', 'b')
    check(pair.power.done == ['a', 'b', 'b'], f'fenced are {pair.power.done}')
    gap = check_intact(ticker)['longest_gap_us'] / 1000
    check_intact(writer)
    ctx.note(f'longest gap of the ticker {gap:.0f} ms')


@test('/colo/e2e/pacemaker/death', long_only=True, cluster=True)
def death_periodic(ctx: Context) -> None:
    with World(ctx) as world:
        world.begin()
        death(world)


@test('/colo/e2e/pacemaker/hybrid/death', long_only=True, cluster=True)
def death_hybrid(ctx: Context) -> None:
    with World(ctx, 'hybrid') as world:
        world.begin()
        death(world)


@test('/colo/e2e/pacemaker/standby', long_only=True, cluster=True)
def standby(ctx: Context) -> None:
    """The promoted node is to be empty: the guest changes places, and nobody
    is fenced.  Then back again by stopping the other node in order."""
    with World(ctx) as world:
        pair = world.cluster
        world.begin()
        ticker = world.client('ticker')
        writer = world.writer()
        wait_lines(ticker)
        pair.standby('a', True)
        pair.wait_roles(b=PROMOTED)
        check(pair.nodes['a'].state() == 'stopped', 'a runs something')
        wait_lines(ticker)
        check(ticker.poll()['longest_gap_us'] < GAP_US,
              f'clients have waited: {ticker.last}')
        pair.standby('a', False)
        pair.wait_protected('b', 'a')

        pair.nodes['b'].stop()
        pair.wait_roles(a=PROMOTED)
        pair.wait_state('a', 'live')
        wait_lines(ticker)
        writer.verify()
        pair.start('b')
        pair.wait_protected('a', 'b')
        check(not pair.power.done, f'fenced are {pair.power.done}')
        gap = check_intact(ticker)['longest_gap_us']
        check(gap < GAP_US, f'clients have waited for {gap} us')
        check_intact(writer)
        ctx.note(f'longest gap of the ticker {gap / 1000:.0f} ms')


@test('/colo/e2e/pacemaker/process', long_only=True, cluster=True)
def process(ctx: Context) -> None:
    """A QEMU dies and its node lives: the other side goes on, nobody is fenced,
    and the pair is whole again soon."""
    with World(ctx) as world:
        pair = world.cluster
        world.begin()
        ticker = world.client('ticker')
        writer = world.writer()
        primary = 'a'
        for victim in ('primary', 'secondary'):
            other = OTHER[primary]
            wait_lines(ticker)
            before = world.generation(primary)
            if victim == 'primary':
                pair.nodes[primary].kill_qemu()
                pair.wait_state(other, 'live', 'protected')
                primary, other = other, primary
            else:
                pair.nodes[other].kill_qemu()
            wait_for(f'another generation than {before}',
                     lambda was=before, host=primary:
                     world.generation(host) != was)
            wait_lines(ticker)
            ctx.note(f'{victim} has died: longest gap so far '
                     f'{ticker.poll()["longest_gap_us"] / 1000:.0f} ms')
            pair.wait_protected(primary, other)
            writer.verify()
        check(not pair.power.done, f'fenced are {pair.power.done}')
        gap = check_intact(ticker)['longest_gap_us'] / 1000
        check_intact(writer)
        ctx.note(f'longest gap of the ticker {gap:.0f} ms')


@test('/colo/e2e/pacemaker/split', long_only=True, cluster=True)
def split(ctx: Context) -> None:
    """The hosts do not reach each other, and both reach their clients: one of
    them is fenced, and the other one goes on from what clients have seen."""
    with World(ctx) as world:
        pair = world.cluster
        world.begin()
        ticker = world.client('ticker')
        writer = world.writer()
        wait_lines(ticker)
        ctx.hosts.cut_link()
        ctx.hosts.cut_ring()
        wait_for('one node to be fenced', lambda: bool(pair.power.done))
        dead = pair.power.done[0]
        left = OTHER[dead]
        pair.wait_state(left, 'live')
        wait_lines(ticker)
        check(pair.power.done == [dead], f'fenced are {pair.power.done}')
        ctx.hosts.mend_link()
        ctx.hosts.mend_ring()
        pair.start(dead)
        pair.wait_protected(left, dead)
        writer.verify()
        check_intact(ticker)
        check_intact(writer)
        ctx.note(f'{dead} was fenced')


@test('/colo/e2e/pacemaker/link', long_only=True, cluster=True)
def link(ctx: Context) -> None:
    """Only the pair has lost its connection, and the cluster has not: the
    secondary is started anew, and the primary goes on, both without fencing."""
    with World(ctx) as world:
        pair = world.cluster
        world.begin()
        ticker = world.client('ticker')
        wait_lines(ticker)
        before = world.generation('a')
        ctx.hosts.cut_link()
        pair.wait_state('a', 'live')
        wait_lines(ticker)
        check(world.generation('a') != before, 'a does not say that it is alone')
        check(pair.nodes['b'].state() != 'lost', 'b could still go on')
        ctx.hosts.mend_link()
        pair.wait_protected('a', 'b')
        check(not pair.power.done, f'fenced are {pair.power.done}')
        check_intact(ticker)


@test('/colo/e2e/pacemaker/restart', long_only=True, cluster=True)
def restart(ctx: Context) -> None:
    """The cluster stops in order and begins again; then with one disk that is
    out of date, whose host is the only one at first."""
    with World(ctx) as world:
        pair = world.cluster
        world.begin()
        writer = world.writer()
        writer.verify()
        acked = int(check_intact(writer)['acked'])
        pair.stop_all(True)
        pair.wait_roles()
        check([node.state() for node in pair.nodes.values()] ==
              ['stopped'] * 2, 'a QEMU is left')
        check(world.generation('a').endswith('alone'),
              f'a is {world.generation("a")}')
        disks.check_image(world.machine, world.image('a'), acked=acked)
        for node in pair.nodes.values():
            node.stop()
        pair.start('a', 'b')
        pair.stop_all(False)
        pair.wait_protected('a', 'b')
        check(not pair.power.done, f'fenced are {pair.power.done}')

        # b goes on without a, and has what a has not
        pair.nodes['a'].kill()
        pair.wait_state('b', 'live')
        writer = world.writer(2)
        writer.verify()
        acked = int(check_intact(writer)['acked'])
        check(world.generation('b').endswith('alone'),
              f'b is {world.generation("b")}')
        pair.nodes['b'].kill()
        pair.start('a')
        pair.wait_roles(a=UNPROMOTED)
        # Nothing happens, which takes a while to see
        time.sleep(STEADY_SECONDS)
        check(pair.roles() == {'a': UNPROMOTED} and
              pair.nodes['a'].state() == 'waiting' and
              pair.score('a') is None,
              f'a is {pair.roles()}, {pair.nodes["a"].state()}, '
              f'score {pair.score("a")}')
        pair.start('b')
        pair.wait_protected('b', 'a')
        pair.stop_all(True)
        pair.wait_roles()
        disks.check_image(world.machine, world.image('b'), acked=acked,
                          seed=2)
