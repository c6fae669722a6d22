#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Show what the product does: a guest on two hosts, clients, a dead primary.

Two hosts (network namespaces) protect one guest.  A browser of a kind loads
pages of 64 KiB from its web server and checks each byte; another client reads a
line with the guest's clock every 5 ms.  At a random moment the primary is
killed; this program plays the cluster manager and tells the secondary to take
over.  It ends with status 0 only if the clients got every page and every line,
each once and in order, as one guest that never stopped would have sent them.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from colo import client, guest, net, product, qmp, vm

PICTURE = """
                       client  10.77.0.1
                         |
                       switch
                      /      \\
       host a: primary        host b: secondary
             the guest        its twin, ready to go on
             10.77.0.10       10.77.0.10
                      \\______/
         checkpoints  10.78.0.1 -> 10.78.0.2
"""
PROTECTED = {
    'hybrid': 'protected: both guests run; what they say alike leaves at once, '
              'what differs with the next checkpoint',
    'periodic': 'protected: the guest of host b stands still, and what the '
                'other one says waits until host b could go on from it',
}
BEFORE_SECONDS = (2.0, 5.0)     # the kill comes at a random moment in between
AFTER_SECONDS = 5.0
LINES_SECONDS = 60.0            # for the first line from the survivor


class Log:
    """Lines with the time since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f'[{time.monotonic() - self.start:7.3f} s] {text}', flush=True)


@dataclass
class Clients:
    """Those who must not notice anything."""
    browser: client.Client
    ticker: client.Client


def show(log: Log, pair: vm.Pair, clients: Clients, side: str) -> None:
    """One status line."""
    status = pair.vm(side).status()
    text = (f'{clients.browser.poll().get("count", 0):6} pages, '
            f'{clients.ticker.poll().get("received", 0):5} lines')
    if status.mode == 'primary':
        text += (f'; {status.checkpoints} checkpoints, pause '
                 f'p50 {status.pause_us["p50"] / 1000:.1f} ms')
        if pair.machine.mode == 'hybrid':
            compared = pair.compared()
            text += (f'; packets: {compared["released-equal"]} equal, '
                     f'{compared["released-commit"]} by checkpoint')
    else:
        text += f'; {side}: COLO mode {status.mode}, guest running'
    log(text)


def watch(log: Log, pair: vm.Pair, clients: Clients, side: str,
          seconds: float) -> None:
    """A status line each second."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))
        show(log, pair, clients, side)


def wait_more(running: client.Client, key: str, more: int) -> None:
    """Until the client has got so many more."""
    goal = running.poll().get(key, 0) + more
    deadline = time.monotonic() + LINES_SECONDS
    while running.poll().get(key, 0) < goal and not running.end:
        if time.monotonic() > deadline:
            raise vm.VmError(f'the client gets no more ({running.mode})')
        time.sleep(0.05)


def take_over(log: Log, pair: vm.Pair) -> float:
    """Be the cluster manager: see the primary die, tell the secondary."""
    primary = pair.vm('primary')
    start = time.monotonic()
    primary.process.kill()
    log(f'kill -9 {primary.pid}: the primary')
    primary.wait_exit()
    log('cluster manager: the primary is dead, host b takes over')
    pair.failover('secondary')
    return time.monotonic() - start


def demonstrate(args: argparse.Namespace, image: guest.Image, run: Path,
                hosts: net.Hosts) -> bool:
    log = Log()
    rng = random.Random(args.seed)
    machine = vm.Machine(args.build / 'qemu-system-x86_64', image,
                         mode=args.mode)
    accel, why = vm.pick_accel(machine, run, guest.cache_dir())
    machine = vm.replace(machine, accel=args.accel or accel)
    log(f'accelerator: {machine.accel} ({args.accel and "as asked" or why})')
    with vm.Pair(hosts, machine, run) as pair:
        log('booting the guest on host a: 512 MiB, 1 vCPU')
        primary = pair.start_primary()
        if not product.available(primary.monitor):
            raise vm.VmError('this QEMU is built without COLO')
        log('the guest is up; starting an empty QEMU on host b')
        pair.start_secondary()
        clients = Clients(pair.client('http', path='/64k', connections=2),
                          pair.client('ticker'))
        log('a browser loads pages of 64 KiB over two connections that it '
            'keeps; the ticker sends a line with its clock every 5 ms')
        pair.protect()
        log(PROTECTED[args.mode])
        watch(log, pair, clients, 'primary', rng.uniform(*BEFORE_SECONDS))
        show(log, pair, clients, 'primary')
        seconds = take_over(log, pair)
        log(f'host b is the service, {seconds * 1000:.0f} ms after the kill')
        wait_more(clients.ticker, 'received', 1)
        watch(log, pair, clients, 'secondary', AFTER_SECONDS)
        wait_more(clients.ticker, 'received', 100)
        wait_more(clients.browser, 'count', 10)
        lines, pages = clients.ticker.stop(), clients.browser.stop()
    log('the clients hang up')
    print(f'\npages checked   {pages["count"]}, longest gap '
          f'{pages["longest_gap_us"] / 1000:.1f} ms\n'
          f'lines received  {lines["received"]}, longest gap '
          f'{lines["longest_gap_us"] / 1000:.1f} ms\n'
          f'lost            {lines["lost"]}\n'
          f'repeated        {lines["repeated"]}\n'
          f'out of line     {lines["forked"] + lines["garbled"]}')
    for name, end in ('browser', pages), ('ticker', lines):
        print(f'{name:15} ' + ('the same connections all along'
                               if end['intact'] else end['why']))
    return bool(lines['intact'] and pages['intact'])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--build', type=Path, default=Path('build'),
                        help='directory with qemu-system-x86_64')
    parser.add_argument('--seed', type=int, default=random.randrange(10**6),
                        help='of the moment of the kill')
    parser.add_argument('--mode', choices=('hybrid', 'periodic'),
                        default='hybrid')
    parser.add_argument('--accel', choices=('tcg', 'kvm'),
                        help='do not probe which one works')
    parser.add_argument('--may-run', action='store_true',
                        help='only see whether the hosts can be made here')
    args = parser.parse_args()
    args.build = args.build.resolve()
    try:
        if args.may_run:
            net.enter()
            with net.Hosts():
                return 0
        if not (args.build / 'qemu-system-x86_64').exists():
            raise vm.VmError(f'no qemu-system-x86_64 in {args.build}')
        if not guest.cached():
            print('making the guest image, once', flush=True)
        image = guest.build()
        net.enter()
        print(PICTURE, flush=True)
        with tempfile.TemporaryDirectory(prefix='colo-') as run:
            with net.Hosts() as hosts:
                intact = demonstrate(args, image, Path(run), hosts)
    except (client.ClientError, guest.GuestError, net.NetError, qmp.QmpError,
            qmp.QmpTimeout, qmp.QmpClosed, vm.VmError) as err:
        print(f'demo: {err}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('demo: stopped', file=sys.stderr)
        return 130
    print('\nINTACT' if intact else '\nNOT INTACT')
    return 0 if intact else 1


if __name__ == '__main__':
    sys.exit(main())
