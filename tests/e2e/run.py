#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the end-to-end tests: real guests on hosts that are network namespaces.

Prints TAP. The seed of all random moments is printed and can be given.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
# pylint: disable=wrong-import-position
from colo import cluster, guest, net, vm                         # noqa: E402
import cases                                            # noqa: E402,F401
from cases import registry                              # noqa: E402


def selected(args: argparse.Namespace) -> list[str]:
    return [name for name in registry.TESTS
            if args.pattern in name
            and (args.long or name not in registry.LONG_ONLY)][
                args.part[0] - 1::args.part[1]]


def part(text: str) -> tuple[int, int]:
    number, _, count = text.partition('/')
    if not 1 <= int(number) <= int(count):
        raise ValueError
    return int(number), int(count)


def logs(run: Path) -> str:
    """The last words of both QEMUs, and how those were that lived."""
    text = ''
    for host in ('a', 'b'):
        for name, count in ((f'qemu-{host}.log', 8), (f'state-{host}.txt', 199)):
            if (run / name).exists():
                lines = (run / name).read_text(errors='replace').splitlines()
                text += ''.join(f'# QEMU on {host}: {line}\n'
                                for line in lines[-count:])
    return text


def run_one(number: int, name: str, ctx: registry.Context) -> bool:
    start = time.monotonic()
    ctx.notes.clear()
    for pattern in ('qemu-*.log', 'state-*.txt'):
        for log in ctx.run.glob(pattern):
            log.unlink()
    try:
        registry.TESTS[name](ctx)
        verdict = ''
    except registry.Skip as err:
        print(f'ok {number} - {name} # SKIP {err}', flush=True)
        return True
    except Exception as err:    # noqa: B902  whatever it is, the test failed
        verdict = f'{type(err).__name__}: {err}'
        if not isinstance(err, registry.Failed):
            verdict += '\n' + traceback.format_exc()
    seconds = time.monotonic() - start
    print(f'{"not ok" if verdict else "ok"} {number} - {name}')
    for line in [*ctx.notes, *verdict.splitlines(), f'{seconds:.1f} s']:
        print(f'# {line}')
    if verdict:
        print(logs(ctx.run), end='')
    sys.stdout.flush()
    return not verdict


def fetch(names: list[str]) -> None:
    """Build the guests with other kernels, and get the cluster; a test without
    what it needs is skipped."""
    if registry.CLUSTER & set(names):
        try:
            cluster.fetch()
        except guest.GuestError as err:
            print(f'# {err}', flush=True)
    for kernel in sorted({registry.KERNELS[name] for name in names
                          if name in registry.KERNELS}):
        try:
            guest.build(kernel=kernel)
            if kernel == 'machine':
                guest.firmware()
        except guest.GuestError as err:
            print(f'# {err}', flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--build', type=Path, default=Path('build/check'),
                        help='directory with qemu-system-x86_64')
    parser.add_argument('--quick', action='store_true',
                        help='few rounds (the default)')
    parser.add_argument('--long', action='store_true', help='all rounds')
    parser.add_argument('--kills', type=int, metavar='N',
                        help='so many in each test of machine/')
    parser.add_argument('-k', dest='pattern', default='',
                        help='only tests whose path contains this')
    parser.add_argument('--part', type=part, default=(1, 1), metavar='N/M',
                        help='the tests N, N + M, ... of them')
    parser.add_argument('--list', action='store_true', help='print the paths')
    parser.add_argument('--accel', choices=('tcg', 'kvm'),
                        help='do not probe which one works')
    parser.add_argument('--seed', type=int, default=random.randrange(10**6))
    args = parser.parse_args()
    names = selected(args)
    if args.list:
        print('\n'.join(names))
        return 0

    try:
        image = guest.build()
        fetch(names)
        net.enter()
    except guest.GuestError as err:
        print(f'Bail out! {err}')
        return 1
    except net.NetError as err:
        print(f'1..0 # SKIP {err}')
        return 0
    print(f'1..{len(names)}\n# seed {args.seed}', flush=True)
    good = True
    with tempfile.TemporaryDirectory(prefix='colo-') as run:
        machine = vm.Machine(args.build.resolve() / 'qemu-system-x86_64',
                             image)
        accel, why = vm.pick_accel(machine, Path(run), guest.cache_dir())
        print(f'# accelerator {args.accel or accel}: {why}', flush=True)
        machine = vm.replace(machine, accel=args.accel or accel)
        for number, name in enumerate(names, 1):
            with net.Hosts() as hosts:
                ctx = registry.Context(hosts, machine, Path(run), args.long,
                                       args.seed, args.kills)
                good &= run_one(number, name, ctx)
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
