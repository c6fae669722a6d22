# SPDX-License-Identifier: GPL-2.0-or-later
"""What the document for operators says, done as it says it.

The commands come from docs/system/qemu-colo.rst (colo/document.py).  What is
code here is what the document has in words: wait for an event, copy an image,
start QEMU with these options.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from colo import disks, net, parts, product, tls, vm
from colo import document as doc

from . import powercut
from .registry import (Context, check, check_intact, test, wait_for,
                       wait_lines)

ROUNDS_QUICK = 1
ROUNDS_LONG = 10
IMAGE_MIB = 16
DISK = '/dev/vda'
TOOL_SECONDS = 60
COPY_SECONDS = 120.0
# The default is for hosts that have nothing else to do
PATIENCE = f'-global migration.{product.PARAMETER_TIMEOUT}={vm.TIMEOUT_MS}'
# What is between the network and the guest in the end, as documented
FILTERS = {
    'filter-compare': ['m0', 'comp0', 'rew0'],
    'colo-compare': ['m0', 'redire0', 'redire1', 'rew0'],
}


class Life:
    """A pair whose every command is one of the document."""

    def __init__(self, ctx: Context, pair: vm.Pair, compare: str | None):
        """@compare: the type of comp0, None in periodic mode."""
        self.ctx, self.pair, self.compare = ctx, pair, compare
        self.document = doc.Document()
        for host in net.LINK_ADDRESS:
            for path in (self.images(host), self.sockets(host)):
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir()

    def images(self, host: str) -> Path:
        return self.ctx.run / f'images-{host}'

    def sockets(self, host: str) -> Path:
        return self.ctx.run / f'vm-{host}'

    def image(self, host: str) -> Path:
        return self.images(host) / 'disk0.img'

    def table(self, here: str, hosta: str) -> doc.Table:
        """For commands on host @here, where the document's hosta is @hosta."""
        hostb = 'b' if hosta == 'a' else 'a'
        return {'hosta': net.LINK_ADDRESS[hosta],
                'hostb': net.LINK_ADDRESS[hostb],
                'tap0': net.tap(),
                '/images': str(self.images(here)),
                '/run/vm': str(self.sockets(here)),
                '64G': f'{IMAGE_MIB}M'}

    def shell(self, host: str, name: str) -> None:
        """A block for a shell."""
        script = self.document.block(name, self.table(host, host))
        path = f'{self.pair.machine.tools}:{os.environ["PATH"]}'
        subprocess.run(self.ctx.hosts.argv(host, 'sh', '-euc', script),
                       env={**os.environ, 'PATH': path}, check=True,
                       stdout=subprocess.DEVNULL, timeout=TOOL_SECONDS)

    def commands(self, side: str, name: str,
                 hosta: str | None = None) -> list[doc.Command]:
        here = self.pair.vm(side).host
        return self.document.commands(
            name, self.table(here, hosta or self.primary.host))

    def monitor(self, side: str, name: str, hosta: str | None = None) -> None:
        """A block for the monitor of @side; hosta is the primary's host, or
        another one."""
        doc.run(self.pair.vm(side), self.commands(side, name, hosta))

    @property
    def primary(self) -> vm.Vm:
        return self.pair.vm('primary')

    @property
    def secondary(self) -> vm.Vm:
        return self.pair.vm('secondary')

    def start(self, host: str, hosta: str, blocks: list[str],
              without: str | None = None,
              more: tuple[str, ...] = ()) -> doc.DocumentVm:
        """A QEMU with these blocks on its command line."""
        assignments, options = self.document.options(
            ['nic', *blocks], self.table(host, hosta), without)
        return doc.DocumentVm(self.ctx.hosts, host, self.pair.machine,
                              self.ctx.run,
                              (assignments, [*options, *more, PATIENCE]))

    def new_image(self, host: str) -> None:
        with open(self.image(host), 'wb') as file:
            file.truncate(IMAGE_MIB << 20)

    def start_primary(self) -> None:
        self.new_image('a')
        blocks, without = {
            None: (['gate'], None),
            'filter-compare': (['proxy-primary'], None),
            # "In place of comp0"
            'colo-compare': (['proxy-primary', 'compare-primary'],
                             'filter-compare,id=comp0'),
        }[self.compare]
        self.pair.primary = self.start('a', 'a', [*blocks, 'disk-primary'],
                                       without)
        self.pair.primary.wait_boot()

    def start_secondary(self, host: str) -> None:
        self.shell(host, 'overlays')
        blocks = ['gate'] if not self.compare else ['proxy-secondary']
        # The block of the proxy has it, in periodic mode words do
        more = () if self.compare else ('-incoming defer',)
        self.pair.secondary = self.start(host, self.primary.host,
                                         [*blocks, 'disk-secondary'],
                                         more=more)
        self.monitor('secondary', 'export')

    def protect(self) -> None:
        self.monitor('secondary', 'protect-secondary')
        for command in self.commands('primary', 'protect-primary'):
            if (self.compare and
                    command['execute'] == 'migrate-set-parameters'):
                continue        # hybrid mode: "or without"
            doc.run(self.primary, [command])
        self.pair.wait_protected()

    def job_ends(self, side: vm.Vm) -> None:
        event = side.monitor.wait_event('BLOCK_JOB_COMPLETED', COPY_SECONDS)
        check('error' not in event['data'], str(event))

    def protection_is_over(self, side: vm.Vm) -> None:
        """The guest may run all along, so that says nothing."""
        side.monitor.wait_event('COLO_EXIT', vm.FAILOVER_SECONDS)
        side.wait_run_state('running', vm.FAILOVER_SECONDS)

    def primary_goes_on(self) -> None:
        """The secondary's host is dead."""
        self.primary.monitor.wait_event('COLO_PEER_LOST', COPY_SECONDS)
        self.monitor('primary', 'failover')
        self.protection_is_over(self.primary)
        self.monitor('primary', 'primary-survived-disk')
        if self.compare:
            self.monitor('primary', 'yank')
        self.pair.secondary = None

    def secondary_goes_on(self) -> None:
        """The primary's host is dead; its guest lives on as a primary."""
        self.secondary.monitor.wait_event('COLO_PEER_LOST', COPY_SECONDS)
        self.monitor('secondary', 'failover')
        self.secondary_is_primary()

    def change_places(self) -> None:
        """Nobody is dead: the primary stops, and is ended."""
        old = self.primary
        self.monitor('secondary', 'switchover')
        old.monitor.wait_event('COLO_EXIT', vm.FAILOVER_SECONDS)
        old.wait_run_state('shutdown', vm.FAILOVER_SECONDS)
        state = old.status().raw['state']
        check(state == 'ended', f'the old primary is {state}')
        self.secondary_is_primary()
        old.monitor.execute('quit')
        old.wait_exit()

    def secondary_is_primary(self) -> None:
        self.protection_is_over(self.secondary)
        if self.compare:
            self.job_ends(self.secondary)
        else:
            wait_for('the disk to be folded', lambda: all(
                disk['stage'] == 'folded'
                for disk in self.secondary.status().raw['disks']))
        self.monitor('secondary', 'secondary-survived-disk')
        if self.compare:
            self.be_primary()
        self.pair.primary, self.pair.secondary = self.secondary, None

    def be_primary(self) -> None:
        """The filters of a secondary that survived."""
        dead = self.primary.host
        self.monitor('secondary', 'secondary-survived-proxy', dead)
        for command in self.commands('secondary', 'new-primary-proxy', dead):
            kind = command['arguments'].get('qom-type')
            if (kind, self.compare) == ('filter-compare', 'colo-compare'):
                self.monitor('secondary', 'new-primary-compare', dead)
                continue
            doc.run(self.secondary, [command])
        info = str(self.secondary.monitor.execute(
            'human-monitor-command', {'command-line': 'info network'}))
        assert self.compare
        names = [line.split()[1].rstrip(':') for line in info.splitlines()
                 if line.strip().startswith('- ')]
        check(names == FILTERS[self.compare], f'the filters are {names}')

    def rebuild(self, host: str, new_image: bool) -> None:
        """A new secondary on @host, as "Building the pair again" says."""
        if new_image:
            self.new_image(host)
        self.start_secondary(host)
        self.monitor('primary', 'replicate')
        if new_image:
            self.monitor('primary', 'resync-full')
            self.job_ends(self.primary)
        else:
            self.monitor('secondary', 'hash-secondary')
            self.monitor('primary', 'hash-primary', host)
            self.job_ends(self.primary)
            hashes = {'node-name': 'hash0'}
            self.primary.monitor.execute('blockdev-del', hashes)
            self.secondary.monitor.execute('nbd-server-remove',
                                           {'name': 'hash0'})
            self.secondary.monitor.execute('blockdev-del', hashes)
        self.protect()


class Clients:
    """What has to go on through it all."""

    def __init__(self, pair: vm.Pair):
        self.ticker = pair.client('ticker')
        self.web = pair.client('http', path='/64k', connections=2)
        self.writer = pair.client('disk', device=DISK, seed=1)

    def served(self, pair: vm.Pair) -> None:
        wait_lines(self.ticker)
        disks.wait_fresh(pair.vm('primary'))
        self.writer.verify()

    def end(self) -> int:
        """The guest writes no more: how many blocks are durable."""
        for running in (self.ticker, self.web):
            check_intact(running)
        return int(check_intact(self.writer)['acked'])


def first_life(life: Life) -> Clients:
    """Start and protect: both images are equal, for they are empty."""
    life.start_primary()
    shutil.copyfile(life.image('a'), life.image('b'))
    life.start_secondary('b')
    life.monitor('primary', 'replicate')
    life.protect()
    return Clients(life.pair)


def whole_life(ctx: Context, compare: str | None, rounds: int) -> set[str]:
    """Start, protect, lose a secondary, replace it, lose the primary, go on
    with the roles changed, and so on; the blocks that were of no use."""
    mode = 'hybrid' if compare else 'periodic'
    with ctx.pair(nics=0, mode=mode, memory='256') as pair:
        life = Life(ctx, pair, compare)
        running = first_life(life)
        for _ in range(rounds):
            running.served(pair)
            host = life.primary.host
            life.change_places()
            running.served(pair)
            life.rebuild(host, new_image=False)
            for victim, goes_on in (('secondary', life.primary_goes_on),
                                    ('primary', life.secondary_goes_on)):
                running.served(pair)
                host = pair.vm(victim).host
                pair.fence(victim)
                goes_on()
                running.served(pair)
                life.rebuild(host, new_image=victim == 'primary')
        running.served(pair)
        blocks = running.end()
        last = life.primary
        last.monitor.execute('quit')
        last.wait_exit()
        disks.check_image(vm.replace(pair.machine, disks=disks.Disks()),
                          life.image(last.host), acked=blocks)
    ctx.note(f'{rounds} rounds of a switchover and two failovers, {blocks} blocks')
    return life.document.unused()


def rounds_of(ctx: Context) -> int:
    return ROUNDS_LONG if ctx.long else ROUNDS_QUICK


@test('/colo/e2e/document/hybrid')
def hybrid(ctx: Context) -> None:
    """With filter-compare."""
    unused = whole_life(ctx, 'filter-compare', rounds_of(ctx))
    check(unused == {'gate', 'compare-primary', 'new-primary-compare',
                     powercut.COMMIT, *parts.BLOCKS, *tls.BLOCKS},
          f'blocks that were not run: {unused}')


@test('/colo/e2e/document/published')
def published(ctx: Context) -> None:
    """With colo-compare."""
    unused = whole_life(ctx, 'colo-compare', rounds_of(ctx))
    check(unused == {'gate', powercut.COMMIT, *parts.BLOCKS, *tls.BLOCKS},
          f'blocks that were not run: {unused}')


@test('/colo/e2e/document/periodic', long_only=True)
def periodic(ctx: Context) -> None:
    unused = whole_life(ctx, None, rounds_of(ctx))
    check('gate' not in unused, 'there was no gate')


@test('/colo/e2e/document/commands')
def commands(ctx: Context) -> None:
    """All commands that the document shows are there, and take arguments of
    these names."""
    document = doc.Document()
    pair = ctx.pair(nics=0, memory='32')
    with pair:
        pair.primary = vm.Vm(ctx.hosts, 'a', pair.machine, ctx.run)
        schema = {item['name']: item for item in
                  pair.primary.monitor.execute('query-qmp-schema')}
    found = 0
    for number, block in doc.literal_blocks(document.text):
        if not block.startswith('{ "execute"'):
            continue
        try:
            said = doc.parse_commands(block)
        except json.JSONDecodeError as err:
            check(False, f'line {number}: {err}')
        for command in said:
            check_command(schema, command, f'line {number}')
            found += 1
    check(found > 0, 'there are none')
    ctx.note(f'{found} commands')


def check_command(schema: dict[str, doc.Command], command: doc.Command,
                  where: str) -> None:
    name = command['execute']
    check(schema.get(name, {}).get('meta-type') == 'command',
          f'{where}: there is no command {name}')
    takes = schema[schema[name]['arg-type']]
    known = {member['name'] for member in takes['members']}
    if 'tag' not in takes:
        check(set(command.get('arguments', {})) <= known,
              f'{where}: {name} takes {known}')
