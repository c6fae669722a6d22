#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure what a checkpoint costs against the size of the guest.

Pairs of guests of each size write the same few pages again and again; the rest
of their memory is never touched, and not reserved on the host either.  The table shows the pauses and the time from a request to its
commit.  The first migration looks at all pages, so the largest sizes take
minutes.  What a checkpoint costs should not depend on the size.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'e2e'))

# pylint: disable=wrong-import-position
from colo import qmp    # noqa: E402

ROOT = HERE.parent.parent
QEMU = ROOT / 'build' / 'qemu-system-x86_64'
DELAY_MS = 100
TIMEOUT_MS = 600000
START_SECONDS = 3600.0
CHECKPOINT_SECONDS = 600.0

# What the guest does instead of a firmware:
#   cli; a: mov bx, 0x1000; b: mov es, bx; inc word [es:0]; add bx, 0x100;
#   cmp bx, 0x5000; jb b; mov cx, 0x2000; c: loop c; jmp a
# It rests, for a KVM that emulates it notes each write in the dirty ring.
CODE = bytes.fromhex('fabb00108ec326ff06000081c3000181fb005072efb90020e2fe'
                     'ebe5')
RESET = bytes.fromhex('e90d00')
PAGES = 64


class Side:
    """A QEMU with a monitor."""

    def __init__(self, folder: Path, name: str, args: list[str]):
        path = folder / f'{name}.qmp'
        self.process = subprocess.Popen(        # pylint: disable=R1732
            args + ['-qmp', f'unix:{path},server=on,wait=off'])
        self.monitor = qmp.Monitor(path, alive=self.check)

    def check(self) -> None:
        if self.process.poll() is not None:
            raise SystemExit(f'QEMU ended: {self.process.returncode}')

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.monitor.execute('query-colo-status')
        return answer

    def end(self) -> None:
        self.monitor.close()
        self.process.kill()
        self.process.wait()


def firmware(folder: Path) -> Path:
    image = folder / 'firmware'
    image.write_bytes(CODE.ljust(0xfff0, b'\0') + RESET.ljust(16, b'\0'))
    return image


def command(args: argparse.Namespace, folder: Path, gib: int) -> list[str]:
    ram = f'memory-backend-ram,id=ram,size={gib}G,reserve=off'
    return [str(args.qemu), '-accel', args.accel,
            '-machine', 'pc,memory-backend=ram', '-m', f'{gib}G',
            '-object', ram, '-nodefaults', '-display', 'none',
            '-bios', str(folder / 'firmware')]


def protect(args: argparse.Namespace, folder: Path, primary: Side,
            secondary: Side) -> None:
    parameters = {'x-colo-mode': args.mode, 'x-colo-timeout': TIMEOUT_MS,
                  'x-checkpoint-delay': DELAY_MS,
                  'max-bandwidth': 1 << 40, 'downtime-limit': 10000}
    if args.max_pause:
        parameters['x-colo-max-pause'] = args.max_pause
    for side in (primary, secondary):
        side.monitor.execute('migrate-set-capabilities', {'capabilities': [
            {'capability': 'x-colo', 'state': True}]})
        side.monitor.execute('migrate-set-parameters', parameters)
    uri = f'unix:{folder}/migration'
    secondary.monitor.execute('migrate-incoming', {'uri': uri})
    primary.monitor.execute('migrate', {'uri': uri})
    primary.monitor.wait_until('protection', 'query-colo-status', 'state',
                               'running', START_SECONDS, ('alone', 'lost'))


def wait_checkpoints(primary: Side, count: int) -> dict[str, Any]:
    end = time.monotonic() + CHECKPOINT_SECONDS
    while True:
        status = primary.status()
        statistics: dict[str, Any] = status['statistics']
        if statistics['checkpoints'] >= count:
            return statistics
        if status['state'] in ('alone', 'lost') or time.monotonic() > end:
            raise SystemExit(f'no checkpoints: the primary is '
                             f'{status["state"]}')
        time.sleep(0.05)


def measure(args: argparse.Namespace, gib: int) -> str:
    """A line of the table."""
    with tempfile.TemporaryDirectory(prefix='colo-size-') as name:
        folder = Path(name)
        firmware(folder)
        qemu = command(args, folder, gib)
        primary = Side(folder, 'primary', qemu)
        secondary = Side(folder, 'secondary', qemu + ['-incoming', 'defer'])
        try:
            begin = time.monotonic()
            protect(args, folder, primary, secondary)
            start = time.monotonic() - begin
            # The distributions are those of the latest 1024
            first = primary.status()['statistics']
            last = wait_checkpoints(primary,
                                    first['checkpoints'] + args.checkpoints)
            pages = ((last['pages'] - first['pages']) /
                     (last['checkpoints'] - first['checkpoints']))
            if pages < PAGES / 2:
                raise SystemExit(f'the guest wrote {pages:.0f} pages only')
            return (f'{gib:8} {start:10.1f} {pages:8.0f} '
                    f'{last["pause"]["p50"]:10} {last["pause"]["p99"]:10} '
                    f'{last["commit"]["p50"]:10} {last["commit"]["p99"]:10}')
        finally:
            primary.end()
            secondary.end()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--qemu', type=Path, default=QEMU)
    parser.add_argument('--accel', default='tcg',
                        help='tcg, kvm, or kvm,dirty-ring-size=4096 '
                             '(default: %(default)s)')
    parser.add_argument('--mode', choices=('periodic', 'hybrid'),
                        default='periodic')
    parser.add_argument('--checkpoints', type=int, default=200)
    parser.add_argument('--max-pause', type=int, default=60000, metavar='MS',
                        help='x-colo-max-pause; 0: a QEMU that has none '
                             '(default: %(default)s)')
    parser.add_argument('gib', type=int, nargs='*', metavar='GIB',
                        default=[1, 8, 64, 512],
                        help='sizes (default: 1 8 64 512)')
    args = parser.parse_args()
    print('size/GiB    start/s    pages  pause/us:p50        p99 '
          'commit/us:p50    p99')
    for gib in args.gib:
        print(measure(args, gib), flush=True)


if __name__ == '__main__':
    main()
