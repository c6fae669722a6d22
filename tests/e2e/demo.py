#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Show what the product does: a guest on two hosts, a client, a dead primary.

Two hosts (network namespaces) protect one guest.  A client reads a line every
5 ms from it.  At a random moment the primary is killed; this program plays the
cluster manager and tells the secondary to take over.  It ends with status 0
only if the client got every line, each once and in order, as one guest that
never stopped would have sent them.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from colo import client, guest, net, product, qmp, vm

PICTURE = """
                       client  10.77.0.1
                         |
                       switch
                      /      \\
       host a: primary        host b: secondary
             the guest        its copy, ready to go on
             10.77.0.10       10.77.0.10
                      \\______/
         checkpoints  10.78.0.1 -> 10.78.0.2
"""
BEFORE_SECONDS = (2.0, 5.0)     # the kill comes at a random moment in between
AFTER_SECONDS = 5.0
LINES_SECONDS = 20.0            # for the first line from the survivor


class Log:
    """Lines with the time since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f'[{time.monotonic() - self.start:7.3f} s] {text}', flush=True)


def show(log: Log, pair: vm.Pair, ticker: client.Client, side: str) -> None:
    """One status line."""
    status = pair.vm(side).status()
    progress = ticker.poll()
    text = f'{progress.get("received", 0):6} lines at the client'
    if status.mode == 'primary':
        pause = status.pause_us
        text += (f'; {status.checkpoints} checkpoints, pause '
                 f'p50 {pause["p50"] / 1000:.1f} ms')
    else:
        text += f'; {side}: COLO mode {status.mode}, guest running'
    log(text)


def watch(log: Log, pair: vm.Pair, ticker: client.Client, side: str,
          seconds: float) -> None:
    """A status line each second."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))
        show(log, pair, ticker, side)


def wait_lines(ticker: client.Client, more: int) -> None:
    """Until so many lines more have come."""
    goal = ticker.poll().get('received', 0) + more
    deadline = time.monotonic() + LINES_SECONDS
    while ticker.poll().get('received', 0) < goal and not ticker.end:
        if time.monotonic() > deadline:
            raise vm.VmError('the client gets no more lines')
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
    machine = vm.Machine(args.build / 'qemu-system-x86_64', image)
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
        ticker = pair.client('ticker')
        log('the client reads the ticker: a line every 5 ms')
        pair.protect()
        log('protected: every line waits until host b could go on from it')
        watch(log, pair, ticker, 'primary', rng.uniform(*BEFORE_SECONDS))
        seconds = take_over(log, pair)
        log(f'the guest runs on host b, {seconds * 1000:.0f} ms after the kill')
        wait_lines(ticker, 1)
        watch(log, pair, ticker, 'secondary', AFTER_SECONDS)
        wait_lines(ticker, 100)
        end = ticker.stop()
    log('the client hangs up')
    print(f'\nlines received  {end["received"]}\n'
          f'lost            {end["lost"]}\n'
          f'repeated        {end["repeated"]}\n'
          f'out of line     {end["forked"] + end["garbled"]}\n'
          f'longest gap     {end["longest_gap_us"] / 1000:.1f} ms\n'
          f'connection      {"the same all along" if end["intact"] else end["why"]}')
    return bool(end['intact'])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--build', type=Path, default=Path('build'),
                        help='directory with qemu-system-x86_64')
    parser.add_argument('--seed', type=int, default=random.randrange(10**6),
                        help='of the moment of the kill')
    parser.add_argument('--accel', choices=('tcg', 'kvm'),
                        help='do not probe which one works')
    args = parser.parse_args()
    args.build = args.build.resolve()
    try:
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
