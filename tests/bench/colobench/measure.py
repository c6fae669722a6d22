# SPDX-License-Identifier: GPL-2.0-or-later
"""One cell of the tables: start a pair, load it, read what came out.

A pause is the time from the STOP event to the RESUME event of the primary's
monitor, by the timestamps that QEMU puts into them.  Both implementations emit
them at the same two places (system/cpus.c), so they are measured alike.

A cell never raises for what a QEMU or a guest did: it says 'hung' when
something did not come within its deadline, 'failed' when a QEMU ended or
refused.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterator

from colo import client, net, qmp, vm, web
from colo.guest import Image

from . import checkpoints, variants
from .control import Control

BOOT_DEADLINE = 240.0       # from the start of a pair until it is protected
QUIET_SECONDS = 20.0            # no checkpoint for so long: hung
WARM_CHECKPOINTS = 3            # before a measurement begins
FILL_DEADLINE = 60.0
CONNECT_SECONDS = 20.0
IDLE_SECONDS = 25.0             # a client without a byte for so long: hung
DRAIN_SECONDS = 45.0            # a client after the end of its run
POLL_SECONDS = 0.2
ASK_CLIENT = Path(__file__).resolve().parent.parent / 'ask_client.py'
HTTPS_CLIENT = Path(__file__).resolve().parent.parent / 'https_client.py'

# Name, mode of the client, its options
NET_TESTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ('echo', 'echo', {}),
    ('bulk-out', 'bulk-out', {}),
    ('bulk-in', 'bulk-in', {}),
    ('http-small', 'http', {'path': '/small', 'connections': 4}),
    ('http-64k', 'http', {'path': '/64k', 'connections': 4}),
    ('http-connect', 'http', {'path': '/small', 'connections': 4,
                              'requests': 1}),
    ('https-64k', 'https', {'path': '/64k', 'connections': 4}),
    ('https-connect', 'https', {'path': '/small', 'connections': 4,
                                'requests': 1}),
    ('ask', 'ask', {}),
)

Cell = dict[str, Any]


def need_web(tests: tuple[str, ...]) -> bool:
    """Whether the guest of @tests needs a web server."""
    return any(name in tests and mode == 'https'
               for name, mode, _ in NET_TESTS)


def cpu_seconds(pair: variants.BenchPair) -> float:
    """What the QEMUs of both hosts have used, guest included."""
    ticks = 0
    for side in (pair.primary, pair.secondary):
        if side:
            stat = Path(f'/proc/{side.pid}/stat').read_text(encoding='ascii')
            ticks += sum(map(int, stat.rpartition(')')[2].split()[11:13]))
    return ticks / os.sysconf('SC_CLK_TCK')


class Hung(Exception):
    """Something did not come within its deadline."""


@dataclass(frozen=True)
class Plan:
    """How long and how much; the same for all variants."""
    pause_seconds: float
    net_seconds: float
    pause_delay_ms: int
    dirty_mib: tuple[int, ...]
    fill_mib: int
    net_tests: tuple[str, ...]      # names of NET_TESTS


@contextlib.contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Whatever happens inside ends after @seconds, by Hung."""
    def on_alarm(_number: int, _frame: object) -> None:
        raise Hung(f'{what}: not done within {seconds:.0f} s')

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def guarded(cell: Cell, work: Callable[[], None]) -> bool:
    """Run @work; what went wrong goes into @cell.  False if something did."""
    try:
        work()
        cell.setdefault('state', 'ok')
    except (Hung, qmp.QmpTimeout, client.ClientError) as err:
        cell.update(state='hung', why=str(err))
    except (vm.VmError, qmp.QmpError, qmp.QmpClosed, OSError) as err:
        cell.update(state='failed', why=str(err))
    return bool(cell['state'] == 'ok')


def percentiles(values: list[float]) -> dict[str, float]:
    """As the client program counts them."""
    ordered = sorted(values)
    count = len(ordered)
    return {'p50': ordered[count // 2],
            'p99': ordered[count - 1 - count // 100],
            'max': ordered[-1]}


class Pauses:
    """The pauses of a primary, from its events, since this was made."""

    def __init__(self, pair: variants.BenchPair):
        self.pair = pair
        self.monitor = pair.vm('primary').monitor
        self.monitor.poll()
        self.monitor.events.clear()
        self.ms: list[float] = []
        self._stopped: float | None = None
        self._last = time.monotonic()

    def take(self) -> None:
        """Take in what has come; Hung if nothing has for too long."""
        self.monitor.poll()
        while self.monitor.events:
            event = self.monitor.events.popleft()
            stamp = event['timestamp']
            at = stamp['seconds'] * 1e3 + stamp['microseconds'] / 1e3
            if event['event'] == 'STOP':
                self._stopped = at
            elif event['event'] == 'RESUME' and self._stopped is not None:
                self.ms.append(at - self._stopped)
                self._stopped = None
                self._last = time.monotonic()
        for side in ('primary', 'secondary'):
            if not self.pair.vm(side).alive():
                raise vm.VmError(f'the {side} ended: '
                                 f'{self.pair.vm(side).last_words()}')

    def check(self) -> None:
        """Hung if no checkpoint came for too long."""
        quiet = time.monotonic() - self._last
        if quiet > QUIET_SECONDS:
            state = ('stands still' if self._stopped is not None
                     else 'runs, but without checkpoints')
            raise Hung(f'the guest {state} after {len(self.ms)} checkpoints')

    def watch(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))
            self.take()
            self.check()

    def wait(self, count: int) -> None:
        """Until there are so many."""
        while len(self.ms) < count:
            time.sleep(POLL_SECONDS)
            self.take()
            self.check()


def memory_kib(process: vm.Vm) -> dict[str, int]:
    """Resident now and at its highest, of one QEMU."""
    text = Path(f'/proc/{process.pid}/status').read_text(encoding='ascii')
    fields = dict(line.split(':', 1) for line in text.splitlines())
    return {name: int(fields[key].split()[0])
            for name, key in (('now', 'VmRSS'), ('peak', 'VmHWM'))}


def link_bytes(hosts: net.Hosts) -> int:
    """Sent and received so far by host a on the link between the hosts."""
    done = subprocess.run(
        ['ip', '-n', 'a', '-s', '-j', 'link', 'show', 'dev', 'colo0'],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True,
        timeout=net.COMMAND_SECONDS)
    stats = json.loads(done.stdout)[0]['stats64']
    return int(stats['tx']['bytes']) + int(stats['rx']['bytes'])


def fill(pair: variants.BenchPair, mib: int) -> None:
    """Have the guest write to so much of its memory once, so that the RAM of
    all variants is in use alike."""
    if not mib:
        return
    before = int(pair.control(f'dirty {mib}'))
    end = time.monotonic() + FILL_DEADLINE
    while int(pair.control(f'dirty {mib}')) <= before:
        if time.monotonic() > end:
            raise Hung(f'the guest did not write {mib} MiB within '
                       f'{FILL_DEADLINE:.0f} s')
        time.sleep(POLL_SECONDS)
    pair.control('dirty 0')


class Bench:
    """Makes cells."""

    def __init__(self, hosts: net.Hosts, run: Path, plan: Plan,
                 machines: dict[str, variants.Machine],
                 web_image: Image | None):
        """@machines has one for each variant, by its key; @web_image takes
        the place of theirs for all clients, if some need_web()."""
        self.hosts = hosts
        self.run = run
        self.plan = plan
        self.machines = machines
        self.web_image = web_image

    def _pair(self, variant: variants.Variant,
              image: Image | None = None) -> variants.BenchPair:
        machine = self.machines[variant.key]
        if image:
            machine = replace(machine, image=image)
        return variants.make_pair(self.hosts, variant, machine, self.run)

    def pause(self, variant: variants.Variant, mib: int) -> Cell:
        """How long checkpoints stop a guest that rewrites @mib."""
        cell: Cell = {'kind': 'pause', 'variant': variant.key,
                      'dirty_mib': mib}
        with self._pair(variant) as pair:
            guarded(cell, functools.partial(
                self._pause, variant, pair, mib, cell))
        return cell

    def _pause(self, variant: variants.Variant, pair: variants.BenchPair,
               mib: int, cell: Cell) -> None:
        with deadline(BOOT_DEADLINE, 'start of the pair'):
            primary = pair.start_primary()
            fill(pair, self.plan.fill_mib)
            cell['guest_kib'] = primary.rss_kib()
            pair.protect_at(self.plan.pause_delay_ms)
        seconds = self.plan.pause_seconds
        with deadline(seconds + 4 * QUIET_SECONDS, 'measurement'):
            if variant.protected:
                Pauses(pair).wait(1)
            with Control() as guest:
                guest(f'dirty {mib}')
                if variant.protected:
                    self._pause_window(variant, pair, guest, cell)
                else:
                    time.sleep(1)
                    self._rounds(guest, cell, lambda: time.sleep(seconds))

    @staticmethod
    def _rounds(guest: Control, cell: Cell, work: Callable[[], None]) -> None:
        """How often per second the guest got round during @work."""
        mib = cell['dirty_mib']
        before = int(guest(f'dirty {mib}'))
        start = time.monotonic()
        work()
        after = int(guest(f'dirty {mib}'))
        elapsed = time.monotonic() - start
        if mib:
            cell['rounds_per_s'] = (after - before) / elapsed

    def _pause_window(self, variant: variants.Variant,
                      pair: variants.BenchPair, guest: Control,
                      cell: Cell) -> None:
        Pauses(pair).wait(WARM_CHECKPOINTS)
        own_before = pair.own_statistics()
        sent = link_bytes(self.hosts)
        pauses = Pauses(pair)
        self._rounds(guest, cell,
                     lambda: pauses.watch(self.plan.pause_seconds))
        pauses.take()
        sent = link_bytes(self.hosts) - sent
        own = pair.own_statistics()
        if not pauses.ms:
            raise Hung('no checkpoint in the whole time')
        count = len(pauses.ms)
        cell['checkpoints'] = count
        cell['pause_ms'] = percentiles(pauses.ms)
        cell['link_bytes_per_checkpoint'] = sent / count
        cell['primary_kib'] = memory_kib(pair.vm('primary'))
        cell['secondary_kib'] = memory_kib(pair.vm('secondary'))
        if variant.kind == 'ours':
            self._own(own_before, own, cell)

    def _own(self, before: dict[str, Any], after: dict[str, Any],
             cell: Cell) -> None:
        """What query-colo-status says; its times are of the whole session."""
        count = after['checkpoints'] - before['checkpoints']
        if count:
            cell['own_bytes_per_checkpoint'] = (
                after['bytes-sent'] - before['bytes-sent']) / count
        equal, sent = (after[key] - before[key]
                       for key in ('equal-pages', 'pages'))
        cell['equal_share'] = equal / max(equal + sent, 1)
        for key in ('pause', 'commit'):
            cell[f'own_{key}_ms'] = {name: after[key][name] / 1000
                                     for name in ('p50', 'p99', 'max')}
        cell['staging_peak_bytes'] = after['staging-peak']
        cell['staging_overflows'] = after['staging-overflows']

    def network(self, variant: variants.Variant,
                done: Callable[[Cell], None]) -> None:
        """All that a client sees, at the mode's own delay; @done gets each
        cell.  After a hang the next test gets a new pair."""
        pair = self._pair(variant, self.web_image)
        try:
            for name, mode, options in NET_TESTS:
                if name not in self.plan.net_tests:
                    continue
                cell: Cell = {'kind': 'net', 'variant': variant.key,
                              'test': name}
                if not guarded(cell, functools.partial(
                        self._network, variant, pair, mode, options, cell)):
                    pair.close()
                done(cell)
        finally:
            pair.close()

    def _network(self, variant: variants.Variant, pair: variants.BenchPair,
                 mode: str, options: dict[str, Any], cell: Cell) -> None:
        if not pair.primary:
            with deadline(BOOT_DEADLINE, 'start of the pair'):
                pair.start_primary()
                if self.web_image:
                    self._start_web(pair)
                pair.protect_at(None)
                pair.control('ping')
        self._client(variant, pair, mode, options, cell)

    @staticmethod
    def _start_web(pair: variants.BenchPair) -> None:
        """Clients can connect when this returns."""
        answer = pair.control(web.START)
        if not answer.startswith(web.STARTED):
            raise vm.VmError(f'web server of the guest: {answer}')

    def _start_client(self, pair: variants.BenchPair, mode: str,
                      options: dict[str, Any]) -> client.Client:
        image = pair.machine.image
        program = image.client
        if mode == 'https':
            program = HTTPS_CLIENT
            options = {**options, 'certificate': image.certificate}
        elif mode == 'ask':
            program = ASK_CLIENT
            options = {**options, 'host': net.guest_address()}
        return client.Client(
            self.hosts, program, mode, seconds=self.plan.net_seconds,
            connect_seconds=CONNECT_SECONDS, idle_seconds=IDLE_SECONDS,
            **options)

    def _client(self, variant: variants.Variant, pair: variants.BenchPair,
                mode: str, options: dict[str, Any], cell: Cell) -> None:
        seconds = self.plan.net_seconds
        cpu = cpu_seconds(pair)
        pauses = Pauses(pair) if variant.protected else None
        watched = None
        running = self._start_client(pair, mode, options)
        try:
            with deadline(seconds + CONNECT_SECONDS + DRAIN_SECONDS, mode):
                running.wait_connected(CONNECT_SECONDS + 1)
                if variant.kind == 'ours':
                    watched = checkpoints.watch(pair)
                end = running.wait_end(seconds + DRAIN_SECONDS)
                if watched:
                    watched.stop()
        finally:
            running.kill()
        self._take_summary(end, cell)
        done = end.get('count') or end.get('bytes', 0) / 1e6
        if done:
            cell['cpu_us_each'] = (cpu_seconds(pair) - cpu) * 1e6 / done
        if variant.kind == 'ours':
            own = pair.own_statistics()
            cell['own_commit_ms'] = {name: own['commit'][name] / 1000
                                     for name in ('p50', 'p99', 'max')}
            cell['own_reasons'] = {item['reason']: item['count']
                                   for item in own['reasons']}
            cell['own_compare'] = pair.own_compare()
        if pauses:
            with deadline(QUIET_SECONDS, 'monitor'):
                pauses.take()
            cell['checkpoints'] = len(pauses.ms)
            if pauses.ms:
                cell['pause_ms'] = percentiles(pauses.ms)
        if watched:
            cell['in_checkpoints'] = watched.share()

    @staticmethod
    def _take_summary(end: dict[str, Any], cell: Cell) -> None:
        """The numbers of the client's last line."""
        if 'bytes' in end and end.get('seconds'):
            cell['mb_per_s'] = end['bytes'] / end['seconds'] / 1e6
        if 'per_second' in end:
            cell['per_second'] = end['per_second']
        if end.get('p50_us') is not None:
            cell['latency_ms'] = {name: end[f'{name}_us'] / 1000
                                  for name in ('p50', 'p99', 'max')}
        cell['longest_gap_ms'] = end.get('longest_gap_us', 0) / 1000
        if not end['intact']:
            nothing = not (end.get('bytes') or end.get('count'))
            if nothing or end['why'] in ('nothing for too long',
                                         'no end from the guest'):
                raise Hung(f'client: {end["why"]}')
            raise vm.VmError(f'client: {end["why"]}')
