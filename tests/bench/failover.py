#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure how long clients hear nothing when a host fails.

A pair with an arbiter (colo-arbiter-file), which nobody tells what to do.  In
each round one side fails, either is the victim in turn, and the survivor is
protected anew by a new QEMU in the victim's place:

  kill     its process is killed: the other one sees a closed connection
  silence  its process is stopped: the other one waits for x-colo-timeout

Each round has clients of its own, which are connected before the fault:

  ticker   the guest sends a line every 5 ms
  echo     64 bytes there and back, again and again: at the fault it is the
           client that waits, and may have to send again
  bulk-in  the client sends without end, the guest confirms each MiB

The table shows for each mode, fault, victim and client the time from the fault
to the first byte after it, as the client sees it.  Guest, hosts and clients are
those of tests/e2e; what a client gets is checked to the last byte.  Exit status
0 if all rounds were measured and all clients were content.

On a machine that does something else the numbers are of little use.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'e2e'))

# pylint: disable=wrong-import-position
from colo import client, guest, net, qmp, vm    # noqa: E402

ROOT = HERE.parent.parent
QEMU = 'qemu-system-x86_64'
MODES = ('periodic', 'hybrid')
FAULTS = ('kill', 'silence')
CLIENTS = ('ticker', 'echo', 'bulk-in')
SETTLE_SECONDS = 0.7        # of a pair and its clients before the fault
WAIT_SECONDS = 60.0         # for the first byte; then it is a failure
POLL_SECONDS = 0.05
GRACE_MS = 300              # goal for silence: the timeout and this


@dataclass
class Row:
    """What was measured of one client in one kind of round."""
    mode: str
    fault: str
    victim: str
    client: str
    ms: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """The smallest value that @share of all do not exceed."""
        values = sorted(self.ms)
        return values[max(0, -int(-share * len(values) // 1) - 1)]

    def text(self) -> str:
        return (f'{self.mode:9} {self.fault:8} {self.victim:10} '
                f'{self.client:8} {len(self.ms):4} {self.percentile(.5):9.0f}'
                f'{self.percentile(.99):9.0f}{max(self.ms):9.0f}')


class Failed(Exception):
    """A round in which a client lost something, or heard nothing."""


def first_byte(summary: dict[str, int], fault_ns: int) -> float:
    """Milliseconds from the fault to the first byte after it."""
    heard_ns = (summary['longest_gap_at_ns'] +
                summary['longest_gap_us'] * 1000)
    if heard_ns <= fault_ns:
        # The client has had a longer gap before: it was less than that
        return summary['longest_gap_us'] / 1000
    return (heard_ns - fault_ns) / 1e6


class Bench:
    """Rounds of one pair after the other."""

    def __init__(self, args: argparse.Namespace, hosts: net.Hosts,
                 machine: vm.Machine, run: Path) -> None:
        self.args = args
        self.hosts = hosts
        self.machine = machine
        self.run = run
        self.rows: dict[tuple[str, str, str, str], Row] = {}
        self.failures: list[str] = []

    def all_rounds(self) -> None:
        for mode in self.args.modes:
            machine = vm.replace(
                self.machine, mode=mode,
                extra=('-object', 'colo-arbiter-file,id=arb0,'
                       f'path={self.run}/arbiter-{mode}'))
            with vm.Pair(self.hosts, machine, self.run) as pair:
                pair.start_primary()
                host = 'b'
                for fault in self.args.faults:
                    for number in range(2 * self.args.rounds):
                        pair.start_secondary(host)
                        victim = ('primary', 'secondary')[number % 2]
                        self.one_round(pair, mode, fault, victim)
                        host = vm.retire(pair)

    def one_round(self, pair: vm.Pair, mode: str, fault: str,
                  victim: str) -> None:
        pair.protect(x_colo_timeout=self.args.timeout)
        clients = {name: pair.client(name) for name in self.args.clients}
        time.sleep(SETTLE_SECONDS)
        fault_ns = time.monotonic_ns()
        pair.vm(victim).signal(signal.SIGKILL if fault == 'kill' else
                               signal.SIGSTOP)
        pair.other(victim).monitor.wait_until(
            'to go on by itself', 'query-colo-status', 'mode', 'none',
            WAIT_SECONDS)
        for name, running in clients.items():
            try:
                took = self.finish(running, fault_ns)
            except (Failed, client.ClientError) as why:
                self.failures.append(f'{mode} {fault} {victim} {name}: {why}')
                continue
            key = (mode, fault, victim, name)
            self.rows.setdefault(key, Row(*key)).ms.append(took)
        pair.fence(victim)

    def finish(self, running: client.Client, fault_ns: int) -> float:
        """Wait until the client has heard something, and end it."""
        end = time.monotonic() + WAIT_SECONDS
        while True:
            seen = running.poll()
            if seen and first_byte(seen, fault_ns) and \
                    seen['longest_gap_at_ns'] + \
                    seen['longest_gap_us'] * 1000 > fault_ns:
                break
            if time.monotonic() > end:
                break
            time.sleep(POLL_SECONDS)
        summary = running.stop()
        if not summary['intact']:
            raise Failed(str(summary['why']))
        return first_byte(summary, fault_ns)

    def report(self) -> str:
        """The table."""
        lines = [f'x-colo-timeout {self.args.timeout} ms; goal for silence: '
                 f'{self.args.timeout + GRACE_MS} ms',
                 'mode      fault    victim     client      n   p50/ms   '
                 'p99/ms   max/ms']
        lines += [row.text() for row in self.rows.values() if row.ms]
        lines += [f'failed: {why}' for why in self.failures]
        return '\n'.join(lines)


def chosen(known: tuple[str, ...]):     # type: ignore[no-untyped-def]
    """A list of @known, for argparse."""
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(','))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f'{name} is none of {", ".join(known)}')
        return names
    return parse


def arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--build', type=Path, default=ROOT / 'build',
                        help=f'directory with {QEMU}')
    parser.add_argument('--rounds', type=int, default=10, metavar='N',
                        help='for each mode, fault and victim '
                             '(default %(default)s)')
    parser.add_argument('--timeout', type=int, default=1000, metavar='MS',
                        help='x-colo-timeout (default %(default)s)')
    parser.add_argument('--modes', type=chosen(MODES), default=MODES,
                        help=f'of {", ".join(MODES)}')
    parser.add_argument('--faults', type=chosen(FAULTS), default=FAULTS,
                        help=f'of {", ".join(FAULTS)}')
    parser.add_argument('--clients', type=chosen(CLIENTS),
                        default=('ticker', 'echo'),
                        help=f'of {", ".join(CLIENTS)} '
                             '(default ticker,echo)')
    parser.add_argument('--memory', type=int, default=256, metavar='MIB')
    parser.add_argument('--accel', choices=('tcg', 'kvm'),
                        help='do not probe which one works')
    parser.add_argument('--json', type=Path, metavar='FILE',
                        help='all values, too')
    return parser.parse_args()


def measure(args: argparse.Namespace) -> bool:
    machine = vm.Machine(args.build.resolve() / QEMU, guest.build(),
                         memory=str(args.memory))
    load = os.getloadavg()[0]
    net.enter()
    with tempfile.TemporaryDirectory(prefix='colo-') as name:
        run = Path(name)
        accel = args.accel or vm.pick_accel(machine, run,
                                            guest.cache_dir())[0]
        print(f'{accel}, load before {load:.1f}', flush=True)
        with net.Hosts() as hosts:
            bench = Bench(args, hosts, vm.replace(machine, accel=accel), run)
            try:
                bench.all_rounds()
            finally:
                print(bench.report(), flush=True)
                if args.json:
                    args.json.write_text(json.dumps(
                        [vars(row) for row in bench.rows.values()],
                        indent=1) + '\n', encoding='utf-8')
    return not bench.failures


def main() -> int:
    args = arguments()
    try:
        return 0 if measure(args) else 1
    except (client.ClientError, guest.GuestError, net.NetError, qmp.QmpError,
            qmp.QmpTimeout, qmp.QmpClosed, vm.VmError, OSError) as err:
        print(f'failover: {err}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
