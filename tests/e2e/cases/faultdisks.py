# SPDX-License-Identifier: GPL-2.0-or-later
"""Walk the fault points with disks, replicated or shared.

At each step of a session a side is killed, stands still or fails, the link is
cut, or the power of both fails.  Then one side goes on, and never can both:
what a client was told is durable is on its disk, and with generations it is
the one that they say is newer.  The other one is started again, gets what it
lacks, and the pair is protected once more.

Before a secondary was ready for the first time it cannot go on.  If the primary
dies then, its guest is booted again, from the image.
"""

from __future__ import annotations

import contextlib
import functools
import random
import signal
from pathlib import Path

from colo import client, disks, product, vm
from colo.qmp import QmpClosed

from .disks import check_images, start_writers, verify_all
from .fault import cases, decided, happens_once, strike
from .registry import (Context, Failed, Skip, check, check_intact, test,
                       wait_for, wait_lines)

ACTIONS = ('kill', 'stall', 'error', 'cut')
BOTH = 'both'               # the power of both hosts fails
SAMPLES_QUICK = 1           # of the beginning, and of the rest
TIMEOUT_MS = 2000
NOTICE_SECONDS = 90.0       # twelve timeouts for disks, and the peer's word

# From the primary's first word on the secondary is ready
NEVER_READY = ('primary-state-starting', 'primary-recv-checkpoint-ready',
               'primary-send-start')
# Told to go on alone, a side has not written that down yet
TAKEOVERS = ('primary-state-alone', 'secondary-state-live')

SHARED = disks.Disks(shared=True)
GENERATIONS = disks.Disks(generations=True)


def last_acked(writer: client.Client) -> int:
    """What the guest, which is dead, has told it."""
    last = writer.poll()
    wait_for('the next report of the writer',
             lambda: writer.poll() is not last)
    check(not writer.end, f'the writer ended: {writer.end}')
    return int(writer.poll()['acked'])


class Life:
    """A guest, from its boot to the crash of all that could run it."""

    def __init__(self, pair: vm.Pair, host: str, state: Path, seed: int):
        pair.start_primary(host, state)
        self.pair = pair
        self.seed = seed
        self.ticker = pair.client('ticker')
        self.writers = start_writers(pair, seed)

    def served(self) -> None:
        wait_lines(self.ticker)
        disks.wait_fresh(self.pair.vm('primary'))
        verify_all(self.writers)

    def end(self) -> None:
        check_intact(self.ticker)
        check_images(self.pair, 'primary', self.writers, seed=self.seed)

    def crashed(self, host: str) -> None:
        """Nothing runs any more; on @host is all that clients were told."""
        self.ticker.poll()
        check(not self.ticker.end, f'the ticker ended: {self.ticker.end}')
        self.ticker.kill()
        for n, writer in enumerate(self.writers):
            acked = last_acked(writer)
            writer.kill()
            layout = self.pair.machine.disks
            assert layout
            shown = disks.SHARED_HOST if layout.shared else host
            disks.check_image(self.pair.machine,
                              disks.image(self.pair.run, shown, n),
                              acked=acked, seed=self.seed + n)


def newer(pair: vm.Pair) -> str | None:
    """The host that the document says to start from; None if both are new."""
    found = []
    for host in 'ab':
        path = disks.generation_file(pair.run, host, 0)
        words = path.read_text().split() if path.exists() else ['', '0', 'new']
        found.append((int(words[1]), words[2], host))
    if found[0][0] == found[1][0]:
        owners = [host for _, role, host in found if role == 'primary']
        check(len(owners) < 2, f'two primaries: {found}')
        return owners[0] if owners else None
    return max(found)[2]


class Walk:
    """A pair whose sides fail again and again."""

    def __init__(self, ctx: Context, pair: vm.Pair, state: Path):
        self.ctx, self.pair, self.state = ctx, pair, state
        self.rng = ctx.rng('fault/disks')
        self.lives = 1
        self.life = Life(pair, 'a', state, 1)
        layout = pair.machine.disks
        assert layout
        self.layout = layout

    def other_host(self) -> str:
        return 'b' if self.pair.vm('primary').host == 'a' else 'a'

    def new_secondary(self) -> None:
        """As documented: with what was its disk, which is brought up to
        date.  A shared one needs nothing."""
        secondary = self.pair.start_secondary(self.other_host())
        if not self.layout.shared:
            disks.resync(self.pair.vm('primary'), secondary, 'hash')

    def states(self) -> dict[str, str]:
        return {side: self.pair.vm(side).status().state
                for side in ('primary', 'secondary')
                if not self.pair.vm(side).fenced}

    def wait_decided(self, sides: tuple[str, ...]) -> None:
        for side in sides:
            wait_for(f'the {side} to notice',
                     functools.partial(decided, self.pair.vm(side)),
                     NOTICE_SECONDS)

    def choose(self) -> str:
        """Who goes on: the operator sees what both are."""
        states = self.states()
        alone = states.get('primary') == 'alone'
        able = [side for side, state in states.items() if state == 'lost']
        check(not (alone and able), f'both could go on: {states}')
        check(alone or bool(able), f'neither can go on: {states}')
        return 'primary' if alone else self.rng.choice(able)

    def go_on(self, winner: str) -> None:
        """The other side is dead."""
        side = self.pair.vm(winner)
        if side.status().state != 'alone':
            self.pair.failover(winner)
        wait_for('the end of the session',
                 lambda: side.status().mode == 'none')
        check(side.run_state() == 'running', f'the {winner} does not run')
        vm.retire(self.pair)
        self.life.served()
        self.check_newer(side.host)

    def check_newer(self, host: str) -> None:
        if self.layout.generations:
            said = newer(self.pair)
            check(said in (host, None), f'not host {host} is newer')

    def boot_again(self, host: str) -> None:
        """There is no guest any more, but on @host its disk."""
        self.check_newer(host)
        self.pair.close()
        self.life.crashed(host)
        self.lives += 1
        self.life = Life(self.pair, host, self.state, self.lives)

    def both_live(self, point: str, action: str, skip: int) -> None:
        """They do not hear each other."""
        side = strike(self.pair, point,
                      'stall' if action == 'cut' else action, skip,
                      TIMEOUT_MS)
        if action == 'cut':
            self.ctx.hosts.cut_link()
            self.pair.vm(side).signal(signal.SIGCONT)
        self.wait_decided(('primary', 'secondary'))
        winner = self.choose()
        self.pair.fence('secondary' if winner == 'primary' else 'primary')
        if action == 'cut':
            self.ctx.hosts.mend_link()
            self.forget_connections(winner)
        self.go_on(winner)

    def forget_connections(self, winner: str) -> None:
        """Nobody has closed them."""
        primary = self.pair.vm('primary')
        if winner == 'primary' and 'mirror0' in primary.proxy:
            primary.monitor.execute('yank', {'instances': [
                {'type': 'chardev', 'id': name}
                for name in ('mirror0', 'compare1')]})

    def one_lives(self, point: str, action: str, skip: int) -> None:
        host = self.pair.vm('primary').host
        side = strike(self.pair, point, action, skip, TIMEOUT_MS)
        other = 'secondary' if side == 'primary' else 'primary'
        if action == 'kill':
            self.pair.fence(side)
        self.wait_decided((other,))
        self.pair.fence(side)
        if point in NEVER_READY:
            state = self.states()[other]
            # In the first one the migration may not have arrived in full
            check(state == 'ended' or
                  (state == '' and point == NEVER_READY[0]),
                  f'it was never ready, and is {state}')
            self.boot_again(host)
            return
        check(self.states()[other] != 'ended', 'it does not take over')
        self.go_on(other)

    def none_lives(self, point: str, skip: int) -> None:
        """Whatever has arrived, it is the primary's disk that counts."""
        host = self.pair.vm('primary').host
        strike(self.pair, point, 'stall', skip, TIMEOUT_MS)
        self.boot_again(host)

    def takeover_fails(self, point: str) -> None:
        """The one that is to go on dies before its guest does."""
        side = point.split('-')[0]
        host = self.pair.vm('primary').host
        last = self.pair.vm(side)
        self.pair.protect()
        self.pair.fence('secondary' if side == 'primary' else 'primary')
        self.wait_decided((side,))
        last.monitor.execute(product.FAULT_INJECT, {'point': point,
                                                    'action': 'kill'})
        with contextlib.suppress(QmpClosed):    # maybe it never answers
            last.monitor.execute(product.FAILOVER)
        wait_for(f'{point} to kill', lambda: not last.alive())
        self.boot_again(host)

    def one_case(self, point: str, action: str, skip: int) -> None:
        self.new_secondary()
        if point in TAKEOVERS:
            self.takeover_fails(point)
        elif action == BOTH:
            self.none_lives(point, skip)
        elif action in ('kill', 'stall'):
            self.one_lives(point, action, skip)
        else:
            self.both_live(point, action, skip)

    def end(self) -> None:
        """As at any time: the guest is protected, and lives on."""
        self.new_secondary()
        self.pair.protect()
        self.life.served()
        self.pair.fence('primary')
        self.pair.failover('secondary')
        vm.retire(self.pair)
        self.life.served()
        self.life.end()


def choose_cases(points: list[str], mode: str, rng: random.Random | None
                 ) -> list[tuple[str, str]]:
    """All, or with @rng a few: of the beginning and of what follows it."""
    todo = cases(points, mode, ACTIONS)
    todo += [(point, BOTH) for point, _ in cases(points, mode, ('kill',))]
    todo += [(point, 'kill') for point in TAKEOVERS]
    if not rng:
        return todo
    parts = ([case for case in todo if happens_once(case[0])],
             [case for case in todo if not happens_once(case[0])])
    return [case for part in parts
            for case in rng.sample(part, SAMPLES_QUICK)]


def walk(ctx: Context, mode: str, layout: disks.Disks) -> None:
    machine = vm.replace(ctx.machine, memory='256', mode=mode, disks=layout)
    state = vm.boot_once(ctx.hosts, machine, ctx.run)
    with vm.Pair(ctx.hosts, machine, ctx.run) as pair:
        going = Walk(ctx, pair, state)
        points = product.fault_points(pair.vm('primary').monitor)
        if not points:
            raise Skip('QEMU was built without fault points')
        todo = choose_cases(points, mode, None if ctx.long else going.rng)
        for point, action in todo:
            skip = going.rng.randrange(4)
            try:
                going.one_case(point, action, skip)
            except Exception as err:
                raise Failed(f'{point} {action} skip {skip}: '
                             f'{type(err).__name__}: {err}') from err
        going.end()
    ctx.note(f'{len(todo)} faults, {going.lives} lives')


@test('/colo/e2e/disk/fault/walk')
def walk_periodic(ctx: Context) -> None:
    walk(ctx, 'periodic', GENERATIONS)


@test('/colo/e2e/disk/hybrid/fault/walk', long_only=True)
def walk_hybrid(ctx: Context) -> None:
    walk(ctx, 'hybrid', GENERATIONS)


@test('/colo/e2e/shared/fault/walk', long_only=True)
def walk_shared(ctx: Context) -> None:
    walk(ctx, 'periodic', SHARED)


@test('/colo/e2e/shared/hybrid/fault/walk')
def walk_shared_hybrid(ctx: Context) -> None:
    walk(ctx, 'hybrid', SHARED)
