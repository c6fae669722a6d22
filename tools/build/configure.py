#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Get the base QEMU, lay the tree, configure the build.

./configure is this program, after it has seen to the packages. Running it
again does only what changed.
"""

import argparse
import platform
import sys
from typing import List

import base
import dirs
from common import build_lock, say


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='configure', allow_abbrev=False, description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Options it does not know, and all after `--`, go to QEMU's "
               'own configure\n(build/src/configure --help lists them).')
    parser.add_argument('--base', metavar='PATH',
                        help=f'a QEMU {base.VERSION}.x source tree or tarball '
                             f"to build on, in place of Debian {base.SUITE}'s "
                             'source package')
    parser.add_argument('--update-base', action='store_true',
                        help='fetch the newest source package again')
    parser.add_argument('--with-stock', action='store_true',
                        help='build/stock too: the base with its own COLO, '
                             'for make bench')
    parser.add_argument('--debug', action='store_true',
                        help='no optimisation, more assertions')
    parser.add_argument('--sanitize', action='store_true',
                        help='build/sanitize too: address and undefined-'
                             'behaviour sanitizers')
    parser.add_argument('--faults', action='store_true',
                        help='build/check too: with fault points, for tests '
                             '(make check sees to it by itself)')
    parser.add_argument('--skip-packages', action='store_true',
                        help='do not look for missing Debian packages')
    argv = sys.argv[1:]
    rest: List[str] = []
    if '--' in argv:
        cut = argv.index('--')
        argv, rest = argv[:cut], argv[cut + 1:]
    args, unknown = parser.parse_known_args(argv)
    args.extra = unknown + rest
    return args


def main() -> None:
    args = arguments()
    if platform.machine() != 'x86_64':
        say(f'configure: this is {platform.machine()}: not tested there')
    names = ['qemu'] + [name for name, wanted in (
        ('check', args.faults), ('sanitize', args.sanitize),
        ('stock', args.with_stock)) if wanted]
    with build_lock():
        base.get(args.base, args.update_base)
        dirs.set_config({'debug': args.debug, 'extra': args.extra,
                         'dirs': names})
        for name in names:
            which = dirs.DIRS[name]
            dirs.source_tree(which).lay()
            dirs.configure(which)
    say('configured; `make` builds ' + ', '.join(
        f'build/{name}' for name in names))


if __name__ == '__main__':
    main()
