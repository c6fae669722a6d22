# SPDX-License-Identifier: GPL-2.0-or-later
"""Heartbeats over a link of their own: what breaks decides what follows.

Each of {only the heartbeat, only the session, both links, the primary stopped
for a second} is tried with an arbiter that both reach, and without.  Nobody
says anything but where it says so, the monitors answer throughout, and no client
loses anything.
"""

from __future__ import annotations

import signal
import time
from typing import Any

from colo import beat, client, net, product, vm

from .registry import Context, check, check_intact, test, wait_for, wait_lines

TIMEOUT_MS = 2000           # of heartbeats: the host has other work, too
SHORT_TIMEOUT_MS = 500      # where the peer is stopped for longer
STOP_SECONDS = 1.0
CHANNEL_MS = 3000           # of the session
MONITOR_SECONDS = 2.0       # for each answer; usually some milliseconds


class Matrix:
    """One guest, whose pair is built again when it was broken."""

    def __init__(self, ctx: Context, pair: vm.Pair, arbiter: bool) -> None:
        self.ctx, self.pair, self.arbiter = ctx, pair, arbiter
        self.slowest = 0.0
        pair.start_primary()
        self.ticker: client.Client = pair.client('ticker')

    def status(self, side: vm.Vm) -> product.Status:
        start = time.monotonic()
        answer = side.monitor.execute('query-colo-status',
                                      timeout=MONITOR_SECONDS)
        self.slowest = max(self.slowest, time.monotonic() - start)
        return product.Status(answer)

    def wait(self, side: vm.Vm, what: str, **wanted: Any) -> None:
        """Until query-colo-status has all of @wanted."""
        wait_for(f'{what} on {side.host}', lambda: all(
            self.status(side).raw.get(key) == value
            for key, value in wanted.items()))

    def wait_health(self, side: vm.Vm, health: str) -> None:
        wait_for(f'heartbeat {health} on {side.host}', lambda:
                 self.status(side).raw['heartbeat']['health'] == health)

    def sides(self) -> tuple[vm.Vm, vm.Vm]:
        return self.pair.vm('primary'), self.pair.vm('secondary')

    def protect(self, timeout_ms: int) -> None:
        """A pair that is well."""
        pair = self.pair
        if not pair.secondary:
            pair.start_secondary('b' if pair.vm('primary').host == 'a' else 'a')
        for side in self.sides():
            beat.attach(side, timeout=timeout_ms)
        pair.protect(x_colo_timeout=CHANNEL_MS)
        for side in self.sides():
            self.wait_health(side, 'well')
            self.wait(side, 'protection', protected=True)
        wait_lines(self.ticker)

    def end(self, gone: str) -> None:
        """That side has ended, and the other one goes on with the service."""
        side = self.pair.vm(gone)
        self.wait(side, 'its end', state='ended')
        self.pair.other(gone).wait_run_state('running', vm.FAILOVER_SECONDS)
        wait_lines(self.ticker)
        self.pair.fence(gone)
        vm.retire(self.pair)

    def beats_cut(self) -> None:
        """The session goes on; nobody is lost."""
        primary, secondary = self.sides()
        self.ctx.hosts.cut_link(net.BEAT_LINK)
        try:
            for side in (primary, secondary):
                self.wait_health(side, 'silent')
                self.wait(side, 'no protection', protected=False)
            self.pair.wait_checkpoints(3, vm.PROTECT_SECONDS)
            wait_lines(self.ticker)
            for side in (primary, secondary):
                check(self.status(side).state != 'lost', 'it is lost')
        finally:
            self.ctx.hosts.mend_link(net.BEAT_LINK)
        for side in (primary, secondary):
            self.wait(side, 'protection', protected=True)

    def session_cut(self) -> None:
        """The peer lives: it is the primary that goes on, by itself."""
        primary, _ = self.sides()
        self.ctx.hosts.cut_link()
        try:
            self.wait(primary, 'to go on alone', state='alone')
            self.end('secondary')
        finally:
            self.ctx.hosts.mend_link()

    def both_cut(self) -> None:
        """One of the two goes on; without an arbiter when somebody says so."""
        primary, secondary = self.sides()
        self.ctx.hosts.cut_link(net.BEAT_LINK)
        self.ctx.hosts.cut_link()
        try:
            if self.arbiter:
                wait_for('a decision', lambda: 'ended' in (
                    self.status(primary).state, self.status(secondary).state))
                self.end('primary' if self.status(primary).state == 'ended'
                         else 'secondary')
                return
            for side in (primary, secondary):
                self.wait(side, 'the loss', state='lost')
            self.pair.failover('primary')
            wait_lines(self.ticker)
            check(self.status(secondary).state == 'lost', 'it is not lost')
        finally:
            self.ctx.hosts.mend_link(net.BEAT_LINK)
            self.ctx.hosts.mend_link()
        self.end('secondary')

    def stopped(self) -> None:
        """Without an arbiter it finds its peer again; with one it is out."""
        primary, secondary = self.sides()
        primary.signal(signal.SIGSTOP)
        time.sleep(STOP_SECONDS)
        secondary.monitor.wait_event(product.EVENT_LOST, vm.FAILOVER_SECONDS)
        primary.signal(signal.SIGCONT)
        if self.arbiter:
            self.wait(secondary, 'to go live', state='live')
            self.end('primary')
            return
        secondary.monitor.wait_event('COLO_PEER_BACK', vm.FAILOVER_SECONDS)
        for side in (primary, secondary):
            self.wait(side, 'protection', protected=True)
        self.pair.wait_checkpoints(3, vm.PROTECT_SECONDS)
        wait_lines(self.ticker)

    def close(self) -> None:
        gap = check_intact(self.ticker)['longest_gap_us'] / 1000
        self.ctx.note(f'longest gap of the ticker {gap:.0f} ms; slowest answer '
                      f'of a monitor {self.slowest * 1000:.0f} ms')


def run_all(ctx: Context, arbiter: bool, mode: str) -> None:
    extra = ('-object', f'colo-arbiter-file,id=arb0,path={ctx.run}/arbiter')
    with ctx.pair(memory='256', mode=mode,
                  extra=extra if arbiter else ()) as pair:
        matrix = Matrix(ctx, pair, arbiter)
        matrix.protect(TIMEOUT_MS)
        matrix.beats_cut()
        matrix.session_cut()
        matrix.protect(TIMEOUT_MS)
        matrix.both_cut()
        matrix.protect(SHORT_TIMEOUT_MS)
        matrix.stopped()
        matrix.close()


@test('/colo/e2e/heartbeat/alone')
def alone(ctx: Context) -> None:
    run_all(ctx, False, 'periodic')


@test('/colo/e2e/heartbeat/arbiter')
def with_arbiter(ctx: Context) -> None:
    run_all(ctx, True, 'periodic')


@test('/colo/e2e/heartbeat/hybrid/alone', long_only=True)
def alone_hybrid(ctx: Context) -> None:
    run_all(ctx, False, 'hybrid')


@test('/colo/e2e/heartbeat/hybrid/arbiter', long_only=True)
def with_arbiter_hybrid(ctx: Context) -> None:
    run_all(ctx, True, 'hybrid')
