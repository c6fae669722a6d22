#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure COLO: the guest alone, QEMU's own COLO, ours, in one run.

What `make bench` runs.  Two hosts made of network namespaces, the guest and
the clients are those of tests/e2e.  For the comparison build QEMU's own COLO
first: `./configure --with-stock && make`; without it only the guest alone and
ours are measured.

  pause  a guest that rewrites 0, 16, 64, 256 MiB every 100 ms, checkpoints
         every 500 ms for all: length of the pauses, bytes per checkpoint,
         memory of the secondary.  Each cell has a pair of its own
  net    clients of an idle guest, checkpoints at each mode's own delay:
         request/response, bulk in both directions, HTTP, HTTPS of nginx.
         Beside the rates: CPU time per request or MB, and how much of the
         time checkpoints take
  disk   a guest that writes to a replicated disk, checkpoints likewise: random,
         sequential and durable writes, in bursts and without a rest; images in
         memory, on one disk, on a disk with the secondary's in memory, and
         on disks of 200 MB/s.  Measure several rounds: disks are not always
         as fast, and the tables show medians

Stock COLO is measured twice, as it is and with its 40 ms of Nagle's delay in
each checkpoint mended (stock-patches/0002, switched on by an environment
variable); without stock-patches/0001 it deadlocks under TCG.

The tables go to the terminal, and with the JSON of all cells and an SVG plot
to build/bench.  What hangs or fails is a row that says so; every wait has a
deadline.  Exit status 0 if all that was to be measured of ours was.

A full run takes more than an hour, --quick about ten minutes.  On a
machine that does something else the numbers are of little use.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'e2e'))

# pylint: disable=wrong-import-position
from colo import client, guest, net, qmp, vm            # noqa: E402
from colobench import (disk, measure, plot, report,     # noqa: E402
                       variants)

ROOT = HERE.parent.parent
QEMU = 'qemu-system-x86_64'
NIC = 'virtio-net-pci'
CLOUD_NICS = (NIC, 'vmxnet3')   # for which a small kernel will do
BUSY = 0.3      # load per core before the start that is worth a warning


class Results:
    """All cells so far, and the files they go to."""

    def __init__(self, out: Path, plan: measure.Plan,
                 shown: list[variants.Variant], about: dict[str, Any]):
        self.out = out
        self.plan = plan
        self.shown = shown
        self.about = about
        self.cells: list[measure.Cell] = []
        self.start = time.monotonic()

    def say(self, text: str) -> None:
        print(f'[{time.monotonic() - self.start:6.0f} s] {text}', flush=True)

    def add(self, cell: measure.Cell) -> None:
        """Keep it, say it in a line, and save all: a run may be cut short."""
        self.cells.append(cell)
        what = report.name(cell)
        self.say(f'{cell["variant"]}, {what}: {summary(cell)}')
        (self.out / 'bench.json').write_text(json.dumps(
            {'about': self.about, 'cells': self.cells}, indent=1) + '\n',
            encoding='utf-8')

    def text(self) -> str:
        lines = ['', *heading(self.about, self.shown)]
        if any(cell['kind'] == 'pause' for cell in self.cells):
            lines += ['', *report.pause(self.cells, self.shown,
                                        self.plan.dirty_mib,
                                        self.plan.pause_delay_ms),
                      *report.own(self.cells, self.plan.dirty_mib)]
        if any(cell['kind'] == 'net' for cell in self.cells):
            lines += ['', *report.network(self.cells, self.shown)]
        if any(cell['kind'] == 'disk' for cell in self.cells):
            lines += ['', *report.disk(self.cells, self.shown,
                                       self.about['places'])]
        lines += report.troubles(self.cells)
        return '\n'.join(lines) + '\n'

    def finish(self) -> None:
        text = self.text()
        print(text)
        (self.out / 'bench.txt').write_text(text, encoding='utf-8')
        about = self.about
        (self.out / 'bench.svg').write_text(plot.svg(
            self.cells, self.shown, self.plan.pause_delay_ms,
            self.plan.dirty_mib,
            f'stock is hybrid; {about["accel"]}, '
            f'{about["memory_mib"]} MiB guest, {about["cores"]} cores'),
            encoding='utf-8')


def summary(cell: measure.Cell) -> str:
    """A cell in a few words, for those who wait."""
    if cell['state'] != 'ok':
        return f'{cell["state"]}: {cell["why"]}'
    parts = []
    if 'per_second' in cell:
        parts.append(f'{cell["per_second"]:.0f}/s')
    if 'mb_per_s' in cell:
        parts.append(f'{cell["mb_per_s"]:.1f} MB/s')
    for key, name in (('latency_ms', 'latency'), ('pause_ms', 'pause')):
        if key in cell:
            parts.append(f'{name} p50 {report.number(cell[key]["p50"])}, '
                         f'p99 {report.number(cell[key]["p99"])} ms')
    if 'checkpoints' in cell:
        parts.append(f'{cell["checkpoints"]} checkpoints')
    if 'rounds_per_s' in cell:
        parts.append(f'{cell["rounds_per_s"]:.1f} rewrites/s')
    return ', '.join(parts) or 'ok'


def heading(about: dict[str, Any], shown: list[variants.Variant]) -> list[str]:
    """What was measured, and what must be known to read it."""
    lines = [f'{about["accel"]}, guest with {about["memory_mib"]} MiB '
             f'({about["filled_mib"]} of them used) and 1 vCPU, '
             f'{about["cores"]} cores, load before the start '
             f'{about["load_before"]:.1f}; {about["date"]}']
    kinds = {variant.kind for variant in shown}
    if 'ours' in kinds:
        lines.append('Periodic: the secondary stands still, output waits for '
                     'the next checkpoint.')
        lines.append('Hybrid: both guests run, equal output leaves at once.')
    if 'stock' in kinds:
        lines.append('Stock is hybrid.')
        if about['stock_patched']:
            lines.append('Stock deadlocks under TCG as it is: its bitmap sync '
                         'is put under the big lock here.')
    if any(variant.nodelay for variant in shown):
        lines.append('"no Nagle" is stock with the delay of small messages '
                     'on its migration channel taken out besides.')
    lines.append(f'All tap devices with vnet_hdr={about["vnet_hdr"]}: '
                 + ('the guest sends large segments.'
                    if about['vnet_hdr'] == 'on' else
                    'no checksum or segment offload.'))
    if about['nic'] != NIC:
        lines.append(f'The NIC of the guest is {about["nic"]}.')
    if about['cpu_lists']:
        lines.append('Each host has CPUs of its own: '
                     + ' and '.join(about['cpu_lists'])
                     + '; clients run on all.')
    if about['load_before'] > BUSY * about['cores']:
        lines.append('THE MACHINE WAS BUSY: take these numbers as a trial.')
    return lines


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(','))


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not 1 or more')
    return value


def positive(text: str) -> float:
    value = float(text)
    if value < 2:
        raise argparse.ArgumentTypeError('at least 2 seconds')
    return value


def chosen(parser: argparse.ArgumentParser, option: str, text: str | None,
           known: list[str]) -> tuple[str, ...]:
    """Those of @known that @text names, in their order; all without it."""
    wanted = text.split(',') if text else known
    for name in wanted:
        if name not in known:
            parser.error(f'{option}: {name} is none of {", ".join(known)}')
    return tuple(name for name in known if name in wanted)


def arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    keys = [variant.key for variant in variants.VARIANTS]
    tests = [name for name, _, _ in measure.NET_TESTS]
    parser.add_argument('--build', type=Path, default=ROOT / 'build',
                        help=f'directory with our {QEMU}')
    parser.add_argument('--stock', type=Path,
                        help=f'QEMU\'s own {QEMU} (default: stock/ below '
                             'that directory)')
    parser.add_argument('--out', type=Path,
                        help='directory for bench.json, bench.txt, bench.svg '
                             '(default: bench/ below the build directory)')
    parser.add_argument('--quick', action='store_true',
                        help='a few seconds each; proves that it works, not '
                             'how fast')
    parser.add_argument('--only', choices=('pause', 'net', 'disk'))
    parser.add_argument('--tests', metavar='NAME[,NAME]...',
                        help='only these clients, and no pause or disk, of '
                             f'{", ".join(tests)}')
    parser.add_argument('--without-stock', action='store_true')
    parser.add_argument('--variants', metavar='KEY[,KEY]...',
                        help=f'of {", ".join(keys)}')
    parser.add_argument('--seconds', type=positive,
                        help='of each pause measurement (default 60)')
    parser.add_argument('--net-seconds', type=positive,
                        help='of each client (default: half of --seconds)')
    parser.add_argument('--disk', type=int, metavar='MIB',
                        help='size of the disk, of which all is written to '
                             '(default 512)')
    parser.add_argument('--rounds', type=count, default=1, metavar='N',
                        help='of the disk measurements, all variants in turn; '
                             'the tables show medians, best of an odd number '
                             '(default 1)')
    parser.add_argument('--memory-dir', type=Path, default=Path('/dev/shm'),
                        help='a directory in memory, for images')
    parser.add_argument('--disk-dir', type=Path,
                        help='a directory on a disk, for images (default: '
                             'that of --out)')
    parser.add_argument('--dirty', type=numbers, metavar='MIB[,MIB]...',
                        help='sizes to rewrite (default 0,16,64,256)')
    parser.add_argument('--delay', type=int, default=500, metavar='MS',
                        help='between checkpoints of the pause measurements')
    parser.add_argument('--memory', type=int, default=1024, metavar='MIB',
                        help='of the guest')
    parser.add_argument('--vnet-hdr', choices=('on', 'off'), default='on',
                        help='of all tap devices; off takes the offloads '
                             'away from the guest (default on)')
    parser.add_argument('--nic', metavar='MODEL', default=NIC,
                        help='of the guest; for e1000, e1000e and rtl8139 the '
                             'guest gets a larger kernel (default '
                             f'{NIC})')
    parser.add_argument('--pin', choices=('on', 'off'), default='on',
                        help='give each host half of the CPUs, as if it were '
                             'a machine of its own (default on)')
    parser.add_argument('--accel', choices=('tcg', 'kvm'),
                        help='do not probe which one works')
    args = parser.parse_args()
    args.seconds = args.seconds or (5.0 if args.quick else 60.0)
    args.net_seconds = args.net_seconds or max(args.seconds / 2, 4.0)
    args.disk = args.disk or (64 if args.quick else 512)
    args.dirty = args.dirty or ((0, 64) if args.quick else (0, 16, 64, 256))
    args.wanted = chosen(parser, '--variants', args.variants, keys)
    if args.tests:
        if args.only in ('pause', 'disk'):
            parser.error(f'--tests: --only {args.only} has no clients')
        args.only = 'net'
    args.tests = chosen(parser, '--tests', args.tests, tests)
    args.build = args.build.resolve()
    args.stock = (args.stock or args.build / 'stock' / QEMU).resolve()
    args.out = (args.out or args.build / 'bench').resolve()
    args.disk_dir = args.disk_dir or args.out
    return args


def choose(args: argparse.Namespace) -> list[variants.Variant]:
    """The variants that can be measured here."""
    shown = [variant for variant in variants.VARIANTS
             if variant.key in args.wanted]
    if not any(variant.kind == 'stock' for variant in shown):
        return shown
    if not args.without_stock:
        if args.stock.exists():
            if variants.can_mend(args.stock):
                return shown
            print('bench: this stock QEMU is built without stock-patches: no '
                  'row with the mended delay, and under TCG it will hang',
                  flush=True)
            return [variant for variant in shown if not variant.nodelay]
        print('bench: QEMU\'s own COLO is not built (./configure --with-stock '
              '&& make): going on without it', flush=True)
    return [variant for variant in shown if variant.kind != 'stock']


def cpu_lists(args: argparse.Namespace) -> tuple[str, ...]:
    """Half of the CPUs for each host, which shares them with nobody but the
    clients; none if there is just one."""
    cores = os.cpu_count() or 1
    if args.pin == 'off' or cores < 2:
        return ()
    return (f'0-{cores // 2 - 1}', f'{cores // 2}-{cores - 1}')


def machines(args: argparse.Namespace, shown: list[variants.Variant],
             image: guest.Image, accel: str) -> dict[str, variants.Machine]:
    return {variant.key: variants.Machine(
        args.stock if variant.kind == 'stock' else args.build / QEMU,
        image, accel=accel, memory=str(args.memory),
        offload=args.vnet_hdr == 'on', cpu_lists=cpu_lists(args),
        nic_model=args.nic, tool_directory=args.build)
            for variant in shown}


def run_all(args: argparse.Namespace, results: Results,
            bench: measure.Bench) -> None:
    for variant in results.shown:
        if args.only in (None, 'pause'):
            for mib in args.dirty:
                results.add(bench.pause(variant, mib))
        if args.only in (None, 'net'):
            bench.network(variant, results.add)


def run_disk(args: argparse.Namespace, results: Results, hosts: net.Hosts,
             made: dict[str, variants.Machine]) -> None:
    """Variant by variant, each with images in all places.  Nagle's delay makes
    no difference here."""
    with contextlib.ExitStack() as stack:
        memory, on_disk = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(
                prefix='colo-', dir=directory)))
            for directory in (args.memory_dir, args.disk_dir))
        places = (disk.Place('memory', memory, memory, False),
                  disk.Place('disk', on_disk, on_disk, True),
                  disk.Place('apart', on_disk, memory, True),
                  disk.Place('limited', memory, memory, False,
                             disk.LIMIT_MB * 1000 * 1000))
        bench = disk.DiskBench(hosts, disk.Plan(args.net_seconds, args.disk,
                                                places), made)
        for number in range(args.rounds):
            if args.rounds > 1:
                results.say(f'round {number + 1} of {args.rounds}')
            for variant in results.shown:
                if not variant.nodelay:
                    bench.run(variant, results.add)


def measure_all(args: argparse.Namespace, image: guest.Image,
                web_image: guest.Image | None) -> bool:
    shown = choose(args)
    plan = measure.Plan(args.seconds, args.net_seconds, args.delay,
                        args.dirty, args.memory * 3 // 4, args.tests)
    load = os.getloadavg()[0]
    net.enter()
    with tempfile.TemporaryDirectory(prefix='colo-') as name:
        run = Path(name)
        probe = vm.Machine(args.build / QEMU, image)
        accel = args.accel or vm.pick_accel(probe, run, guest.cache_dir())[0]
        about = {
            'date': time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime()),
            'accel': accel, 'memory_mib': args.memory,
            'filled_mib': plan.fill_mib, 'cores': os.cpu_count() or 1,
            'kernel': platform.release(), 'load_before': load,
            'vnet_hdr': args.vnet_hdr, 'nic': args.nic,
            'cpu_lists': cpu_lists(args),
            'stock_patched': any(variant.kind == 'stock' for variant in shown)
                             and variants.can_mend(args.stock),
            'seconds': args.seconds, 'disk_mib': args.disk,
            'places': tuple(disk.PLACES),
            'net_seconds': args.net_seconds, 'delay_ms': args.delay,
            'variants': {variant.key: {
                'title': variant.title, 'mode': variant.mode,
                'default_delay': variant.default_delay}
                for variant in shown}}
        results = Results(args.out, plan, shown, about)
        try:
            with net.Hosts() as hosts:
                made = machines(args, shown, image, accel)
                run_all(args, results, measure.Bench(hosts, run, plan, made,
                                                     web_image))
                if args.only in (None, 'disk'):
                    run_disk(args, results, hosts, made)
        finally:
            if results.cells:
                results.finish()
    return all(cell['state'] == 'ok' for cell in results.cells
               if cell['variant'] in ('alone', 'hybrid', 'periodic'))


def make_image(kernel: str) -> guest.Image:
    if not guest.cached(kernel=kernel):
        print('making the guest image, once', flush=True)
    return guest.build(kernel=kernel)


def main() -> int:
    args = arguments()
    try:
        if not (args.build / QEMU).exists():
            raise vm.VmError(f'no {QEMU} in {args.build}')
        args.out.mkdir(parents=True, exist_ok=True)
        kernel = 'cloud' if args.nic in CLOUD_NICS else 'generic'
        web_image = None
        if args.only in (None, 'net') and measure.need_web(args.tests):
            web_image = make_image('web' if kernel == 'cloud'
                                   else 'web-generic')
        return 0 if measure_all(args, make_image(kernel), web_image) else 1
    except (client.ClientError, guest.GuestError, net.NetError, qmp.QmpError,
            qmp.QmpTimeout, qmp.QmpClosed, vm.VmError, OSError) as err:
        print(f'bench: {err}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('bench: stopped', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
