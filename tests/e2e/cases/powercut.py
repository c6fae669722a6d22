# SPDX-License-Identifier: GPL-2.0-or-later
"""Replicated and shared disks when the power fails, of a host or of both.

Each QEMU's images are on disks that lose what was not flushed, see power.py.
The guest writes and flushes, and its client on another host records what it
was told.  After each cut nothing of that is missing, and a pair begins again
from what is left: on a host that has lost its power, with the image that the
document says is newer.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from colo import client, disks, power, qmp, vm
from colo import document as doc

from .disks import start_writers
from .generation import on_disk
from .registry import Context, Failed, check, test, wait_for, wait_more

ROUNDS_QUICK = 2
ROUNDS_INTENT = 6               # the first resync makes the logs begin
ROUNDS_LONG = 50
MOMENT_SECONDS = (0.0, 1.0)     # after protection is there
LIVE_SECONDS = 0.5              # after the survivor's first flush, at most
CONNECT_SECONDS = 2.0
BLOCKS = 16                     # so that the guest has flushed
FOLDED = 'BLOCK_JOB_COMPLETED'
COMMIT = 'commit-overlays'      # the block of the document
COMMIT_SECONDS = 60
REPLICATED = disks.Disks(kind='qcow2', generations=True, lossy=True)
INTENT = replace(REPLICATED, intent=True)
SHARED = disks.Disks(shared=True, lossy=True)
VICTIMS = ('both', 'primary', 'secondary')
QUICK = {('hybrid', REPLICATED, 'both'), ('periodic', REPLICATED, 'primary'),
         ('hybrid', SHARED, 'both'), ('periodic', SHARED, 'secondary'),
         ('hybrid', INTENT, 'primary'), ('periodic', INTENT, 'any')}


def kill(*sides: vm.Vm) -> None:
    for side in sides:
        side.signal(signal.SIGKILL)
    for side in sides:
        side.wait_exit()


def durable(writer: client.Client) -> int:
    """What the guest has told its client, in blocks."""
    end = writer.stop()
    check('no connection' in end['why'], f'{end["why"]}: {end}')
    return int(end['acked'])


def commit(pair: vm.Pair, host: str) -> None:
    """As the document says."""
    assert pair.machine.disks
    named = {f'/images/{name}0': path.with_suffix('') for name, path in (
        ('disk', disks.image(pair.run, host, 0)),
        *((name, disks.overlay(pair.run, host, 0, name))
          for name in disks.OVERLAYS))}
    script = doc.Document().block(COMMIT, {
        'raw': pair.machine.disks.kind,
        **{name: str(path) for name, path in named.items()}})
    path = f'{pair.machine.tools}:{os.environ["PATH"]}'
    done = subprocess.run(['sh', '-euc', script], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True,
                          env={**os.environ, 'PATH': path},
                          timeout=COMMIT_SECONDS, check=False)
    check(done.returncode == 0, f'{script}: {done.stdout}')


def newer(pair: vm.Pair) -> str:
    """The host whose image the document says to start from."""
    def key(host: str) -> tuple[int, bool]:
        _, number, role = on_disk(pair, host).split()
        check(role != 'inconsistent', f'host {host} has a mixture')
        return int(number), role != 'secondary'

    check(key('a') != key('b'), f'both are {key("a")}')
    return max('ab', key=key)


@dataclass
class Cuts:
    """A pair whose power fails again and again."""
    pair: vm.Pair
    state: Path                     # of a guest that has booted
    rng: random.Random
    writer: client.Client | None = None
    seed: int = 0                   # of the writer
    blocks: int = 0
    flushed: int = 0
    not_flushed: int = 0
    restarted: int = 0
    by_log: int = 0

    @property
    def layout(self) -> disks.Disks:
        assert self.pair.machine.disks
        return self.pair.machine.disks

    def image(self, host: str) -> Path:
        return disks.image(self.pair.run, disks.SHARED_HOST
                           if self.layout.shared else host, 0)

    def overlays(self, host: str) -> list[Path]:
        return [disks.overlay(self.pair.run, host, 0, name)
                for name in ('hidden', 'active')]

    def _cut(self, *hosts: str) -> None:
        """The power of @hosts has failed.  The storage of a shared image fails
        with the last host."""
        paths: list[Path] = []
        for host in hosts:
            paths += self.overlays(host)
            if not self.layout.shared:
                paths.append(self.image(host))
                paths.append(disks.generation_file(self.pair.run, host, 0))
            if self.layout.intent:
                paths.append(disks.intent_log(self.pair.run, host, 0))
        if self.layout.shared and len(hosts) == 2:
            paths.append(self.image(''))
        paths = [path for path in paths if path.exists()]
        if not paths:
            return              # the primary of a shared image has no other
        left = power.cut(self.pair.run, paths, self.rng)
        self.flushed += left.flushed
        self.not_flushed += left.kept + left.lost

    def write(self) -> None:
        """A guest that has just been started writes, and the pair is there."""
        self.seed += 1
        self.writer = start_writers(self.pair, self.seed,
                                    connect_seconds=CONNECT_SECONDS)[0]
        self.pair.protect()

    def acked(self) -> int:
        assert self.writer
        return int(self.writer.poll().get('acked', 0))

    def moment(self) -> None:
        before = self.acked()
        time.sleep(self.rng.uniform(*MOMENT_SECONDS))
        wait_for('blocks', lambda: self.acked() > before)

    def end(self, folding: str = '') -> None:
        """No QEMU runs.  @folding: a host whose overlays are part of the disk,
        if there are no generations to say so."""
        assert self.writer
        acked = durable(self.writer)
        self._cut('a', 'b')
        power.restart(self.pair.run)
        self.pair.close()
        if self.layout.shared:
            host = folding or self.rng.choice('ab')
        else:
            host = newer(self.pair)
            folding = host if ' folding' in on_disk(self.pair, host) else ''
        if folding:
            self._fold(folding)
        for each in 'ab':
            disks.check_metadata(self.pair.machine, self.image(each),
                                 self.layout.kind)
        disks.check_image(self.pair.machine, self.image(host), acked=acked,
                          seed=self.seed)
        self.blocks += acked
        self._start_again(host)

    def _fold(self, host: str) -> None:
        for path in self.overlays(host):
            disks.check_metadata(self.pair.machine, path, 'qcow2')
        if self.layout.shared:
            disks.commit(self.pair.machine, self.image(host),
                         *self.overlays(host))
        else:
            commit(self.pair, host)
        power.begin(self.pair.run, self.image(host), anew=True)

    def _start_again(self, host: str) -> None:
        other = 'b' if host == 'a' else 'a'
        primary = self.pair.start_primary(host, state=self.state)
        secondary = self.pair.start_secondary(other)
        self._resync(primary, secondary)
        self.write()
        self._verify()
        self.restarted += 1

    def _resync(self, primary: vm.Vm, secondary: vm.Vm) -> None:
        if self.layout.intent:
            done = disks.resync(primary, secondary, 'auto')
            self.by_log += sum(each.get('by-log', 0) for each in done)
        elif not self.layout.shared:
            disks.resync(primary, secondary, 'hash')

    def _verify(self) -> None:
        """What the logs have left out is equal, byte by byte."""
        if self.layout.intent:
            error = disks.verify(self.pair.vm('primary'), None)
            check(error is None, f'after a resync by the logs: {error}')

    # A round: cuts, and then there is a pair again

    def both(self) -> None:
        """The primary's image has all."""
        host = self.pair.vm('primary').host
        kill(self.pair.vm('primary'), self.pair.vm('secondary'))
        if not self.layout.shared:
            check(newer(self.pair) == host, 'the secondary has the newer disk')
        self.end()

    def one(self, victim: str) -> None:
        """The other side goes on.  Then its power fails, too, or the pair is
        built again with what is left of the image."""
        assert self.writer
        survivor = self.pair.other(victim)
        dead = self.pair.vm(victim).host
        self.pair.fence(victim)
        self._cut(dead)
        self.pair.failover('secondary' if victim == 'primary' else 'primary')
        wait_more(self.writer, BLOCKS)
        time.sleep(self.rng.uniform(0, LIVE_SECONDS))
        if self.rng.random() < 0.5:
            self._cut_survivor(survivor, victim == 'primary')
            return
        self.writer.verify()
        vm.retire(self.pair)
        secondary = self.pair.start_secondary(dead)
        self._resync(self.pair.vm('primary'), secondary)
        self.pair.protect()
        self._verify()

    def _cut_survivor(self, survivor: vm.Vm, had_overlays: bool) -> None:
        kill(survivor)
        try:
            while True:
                survivor.monitor.poll()
                time.sleep(0.01)
        except qmp.QmpClosed:
            pass
        folded = not had_overlays or survivor.monitor.find_event(FOLDED)
        self.end('' if folded or not self.layout.shared else survivor.host)


def begin(ctx: Context, mode: str, layout: disks.Disks,
          pair: vm.Pair, state: Path, salt: str) -> Cuts:
    cuts = Cuts(pair, state, ctx.rng(f'powercut/{salt}/{mode}'))
    pair.start_primary(state=state)
    pair.start_secondary()
    cuts.write()
    return cuts


def rounds(ctx: Context, mode: str, layout: disks.Disks, victim: str) -> None:
    # Shared disks have their number in both modes together
    count = ROUNDS_LONG // (1 + layout.shared) if ctx.long else (
        ROUNDS_INTENT if layout.intent else ROUNDS_QUICK)
    machine = replace(ctx.machine, memory='256', mode=mode, disks=layout)
    state = vm.boot_once(ctx.hosts, machine, ctx.run)
    done = 0
    with vm.Pair(ctx.hosts, machine, ctx.run) as pair:
        cuts = begin(ctx, mode, layout, pair, state, victim)
        try:
            for done in range(count):
                cuts.moment()
                which = cuts.rng.choice(VICTIMS) if victim == 'any' else victim
                if which == 'both':
                    cuts.both()
                else:
                    cuts.one(which)
        finally:
            ctx.note(f'round {done + 1} of {count}, {cuts.blocks} blocks were '
                     f'read from images; of {cuts.flushed + cuts.not_flushed} '
                     f'writes {cuts.not_flushed} were not flushed; '
                     f'{cuts.restarted} times both were started again; '
                     f'{cuts.by_log} resyncs by the logs')
    check(cuts.flushed > 0, 'nothing was flushed')
    check(cuts.by_log > 0 or not layout.intent, 'no resync was by the logs')


def add_test(mode: str, layout: disks.Disks, victim: str) -> None:
    kind = ('shared' if layout.shared else
            'disk/intent' if layout.intent else 'disk')
    middle = '/hybrid' if mode == 'hybrid' else ''

    @test(f'/colo/e2e/{kind}{middle}/power-cut/{victim}',
          long_only=(mode, layout, victim) not in QUICK)
    def run(ctx: Context) -> None:
        rounds(ctx, mode, layout, victim)


for _layout in (REPLICATED, SHARED):
    for _mode in ('periodic', 'hybrid'):
        for _victim in VICTIMS:
            add_test(_mode, _layout, _victim)
for _mode in ('periodic', 'hybrid'):
    for _victim in ('primary', 'any'):
        add_test(_mode, INTENT, _victim)


@test('/colo/e2e/disk/power-cut/lost')
def lost(ctx: Context) -> None:
    """Where flushes do nothing blocks are missing: so the others can fail."""
    layout = replace(REPLICATED, no_flush=True)
    machine = replace(ctx.machine, memory='256', mode='hybrid', disks=layout)
    state = vm.boot_once(ctx.hosts, machine, ctx.run)
    with vm.Pair(ctx.hosts, machine, ctx.run) as pair:
        cuts = begin(ctx, 'hybrid', layout, pair, state, 'lost')
        cuts.moment()
        try:
            cuts.both()
        except disks.DiskError as err:
            ctx.note(str(err))
            return
    raise Failed('nothing is missing')
