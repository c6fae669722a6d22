# SPDX-License-Identifier: GPL-2.0-or-later
"""The build directories below build/: how each is configured and built.

    qemu      what users run; its programs are linked to from build/ itself
    check     the same with the fault points compiled in, and the tests
    sanitize  as check, with the address and undefined-behaviour sanitizers
    stock     the base with its own COLO, to measure against
    no-colo-proxy, no-replication
              what others build who do not want COLO; for tests
"""

import json
import os
import re
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import base
import tree
from common import (BUILD, ROOT, SRC, STOCK_SRC, die, digest, read_json,
                    remove, run, say, write_json)

CONFIG = BUILD / 'config.json'

# Where `make` puts a link below build/, and where Ninja builds it.
PROGRAMS = {
    'qemu-system-x86_64': 'qemu-system-x86_64',
    'qemu-img': 'qemu-img',
    'qemu-io': 'qemu-io',
    'qemu-nbd': 'qemu-nbd',
    'qemu-storage-daemon': 'storage-daemon/qemu-storage-daemon',
}

FIRMWARE = ('/usr/share/seabios', '/usr/share/qemu', '/usr/lib/ipxe/qemu')

OPTIONS = f"""
--target-list=x86_64-softmmu --firmwarepath={':'.join(FIRMWARE)}
--disable-download --disable-install-blobs --disable-docs
--enable-replication --enable-colo-proxy --enable-slirp --enable-tools
--enable-linux-aio --enable-gnutls --enable-vnc --enable-vnc-jpeg
--enable-vnc-sasl --enable-png --enable-seccomp --enable-numa --enable-zstd
--enable-l2tpv3 --audio-drv-list=
""".split()

# What neither COLO nor published command lines need, or what costs a library
# that Debian's own QEMU comes without, whether or not it is installed: the
# build is the same everywhere, and shorter.
WITHOUT = """
af-xdp auth-pam blkio bpf brlapi bzip2 canokey cap-ng capstone curl curses
dbus-display fuse gcrypt gettext glusterfs gtk guest-agent libcbor libdaxctl
libdw libiscsi libkeyutils libnfs libpmem libssh libudev libusb
linux-io-uring lzfse lzo mpath multiprocess netmap nettle opengl plugins
qatzip qpl rbd rdma rutabaga-gfx sdl sdl-image selinux smartcard snappy
spice spice-protocol u2f uadk usb-redir user vde virglrenderer vte xen
""".split()


@dataclass
class Dir:
    """One build directory."""
    name: str
    src: Path = SRC
    faults: bool = False
    sanitize: bool = False
    extra: Tuple[str, ...] = ()     # for QEMU's configure

    @property
    def path(self) -> Path:
        return BUILD / self.name


DIRS = {d.name: d for d in (Dir('qemu'), Dir('check', faults=True),
                            Dir('sanitize', faults=True, sanitize=True),
                            Dir('stock', src=STOCK_SRC),
                            Dir('no-colo-proxy',
                                extra=('--disable-colo-proxy',)),
                            Dir('no-replication',
                                extra=('--disable-replication',)))}


def config() -> Dict[str, Any]:
    """What ./configure was told: debug, extra, dirs."""
    return {'debug': False, 'extra': [], 'dirs': ['qemu'],
            **read_json(CONFIG)}


def set_config(value: Dict[str, Any]) -> None:
    write_json(CONFIG, value)


def environment() -> Dict[str, str]:
    """For QEMU's configure and for Ninja: with a Meson new enough, and so
    that ccache shares objects between the build directories."""
    env = dict(os.environ)
    modules = base.meson_path()
    if modules:
        env['PYTHONPATH'] = os.pathsep.join(
            [str(modules)] + env.get('PYTHONPATH', '').split(os.pathsep)
        ).rstrip(os.pathsep)
    env.setdefault('CCACHE_NOHASHDIR', '1')
    env.setdefault('CCACHE_BASEDIR', str(BUILD))
    return env


def options(which: Dir) -> List[str]:
    """The command line for QEMU's configure."""
    cfg = config()
    found = ['--python=/usr/bin/python3', *OPTIONS,
             *(f'--disable-{name}' for name in WITHOUT)]
    if shutil.which('ccache'):
        found.append('--cc=ccache gcc')
    if cfg['debug']:
        found.append('--enable-debug')
    if which.sanitize:
        found += ['--enable-asan', '--enable-ubsan']
    if which.faults:
        meson_options = (which.src / 'meson_options.txt').read_text()
        if re.search(r"option\('colo_faults'", meson_options):
            found.append('-Dcolo_faults=true')
    return found + list(cfg['extra']) + list(which.extra)


def source_tree(which: Dir) -> tree.Tree:
    return tree.stock_tree() if which.name == 'stock' else tree.project_tree()


def configure(which: Dir) -> None:
    """Run QEMU's configure if its options are not the last ones."""
    args = options(which)
    env = environment()
    key = digest([*args, base.stamp().get('version')])
    stamp = which.path / 'colo-configured.json'
    if read_json(stamp).get('key') == key and \
            (which.path / 'build.ninja').exists():
        return
    remove(stamp)
    which.path.mkdir(parents=True, exist_ok=True)
    log = BUILD / 'log' / f'configure-{which.name.replace("/", "-")}.log'
    log.parent.mkdir(exist_ok=True)
    shown = log.relative_to(ROOT)
    say(f'configuring build/{which.name} ({shown})')
    script = os.path.relpath(which.src / 'configure', which.path)
    with open(log, 'w', encoding='utf-8') as out:
        out.write(shlex.join([script, *args]) + '\n')
        out.flush()
        done = run(script, *args, cwd=which.path, env=env, check=False,
                   stdout=out, stderr=out)
    if done.returncode:
        print('\n'.join(log.read_text(errors='replace').splitlines()[-15:]))
        die(f"QEMU's configure failed; all of it is in {shown}")
    link_firmware(which)
    # So that Ninja finds the same Meson when it is run by hand.
    modules = base.meson_path()
    if modules:
        for site in which.path.glob('pyvenv/lib/python3*/site-packages'):
            (site / 'colo-meson.pth').write_text(f'{modules}\n')
    write_json(stamp, {'key': key, 'options': args})


def link_firmware(which: Dir) -> None:
    """A QEMU that runs from its build directory looks for everything below
    qemu-bundle: show it the system's firmware there."""
    for name in FIRMWARE:
        link = which.path / 'qemu-bundle' / name.lstrip('/')
        if not link.is_symlink() and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(name)


def introspect(which: Dir, what: str) -> List[Dict[str, Any]]:
    """A list of Meson's: 'tests' or 'targets'."""
    path = which.path / 'meson-info' / f'intro-{what}.json'
    try:
        return json.loads(path.read_text())
    except OSError:
        return []


def in_suite(test: Dict[str, Any], suite: str) -> bool:
    """Meson writes a suite as `project:suite`."""
    return any(s.split(':')[-1] == suite for s in test['suite'])


def conformance() -> List[Tuple[str, List[str]]]:
    """The base's own tests that have to pass: name, arguments."""
    path = ROOT / 'tests' / 'conformance.list'
    if not path.exists():
        return []
    lines = (shlex.split(line, comments=True)
             for line in path.read_text().splitlines())
    return [(words[0], words[1:]) for words in lines if words]


def test_targets(which: Dir) -> List[str]:
    """The files that Ninja has to build for the tests."""
    names = {name for name, _ in conformance()}
    wanted, needed = set(), set()
    for test in introspect(which, 'tests'):
        if in_suite(test, 'colo') or in_suite(test, 'colo-qtest'):
            wanted.add(test['cmd'][0])
            needed.update(test['depends'])
        elif test['name'].split('/')[-1] in names:
            wanted.add(test['cmd'][0])
    for target in introspect(which, 'targets'):
        if target['id'] in needed or target['name'].startswith('colo-fuzz-'):
            wanted.update(target['filename'])
    prefix = str(which.path) + os.sep
    return sorted(w[len(prefix):] for w in wanted if w.startswith(prefix))


def ninja(which: Dir, targets: List[str], jobs: Optional[int]) -> None:
    env = environment()
    program = shutil.which('ninja') or shutil.which('ninja-build')
    if not program:
        die('ninja is missing: run ./configure')
    done = run(program, '-C', which.path, f'-j{jobs or os.cpu_count() or 1}',
               *targets, env=env, check=False)
    if done.returncode:
        die(f'building build/{which.name} failed')


def link_programs(which: Dir) -> None:
    """Put the programs where people and tests look for them."""
    where = BUILD if which.name == 'qemu' else which.path
    for name, place in PROGRAMS.items():
        link = where / name
        target = os.path.relpath(which.path / place, where)
        if target != name and not link.is_symlink():
            remove(link)
            link.symlink_to(target)


def build(which: Dir, targets: List[str], tests: bool,
          jobs: Optional[int]) -> None:
    """Lay, configure and build as far as needed."""
    begin = time.monotonic()
    source_tree(which).lay()
    configure(which)
    programs = list(PROGRAMS.values())
    if tests:
        # Meson's list of tests has to be that of the tree as it is now.
        ninja(which, ['build.ninja'], jobs)
        targets = targets + programs + test_targets(which)
    ninja(which, targets or programs, jobs)
    link_programs(which)
    say(f'build/{which.name} is up to date '
        f'({time.monotonic() - begin:.0f} s)')


def build_foreign(src: Path, jobs: Optional[int]) -> None:
    """Build a tree that somebody else laid, in `qemu` beside it."""
    which = Dir(str(src.parent.relative_to(BUILD) / 'qemu'), src=src)
    configure(which)
    ninja(which, list(PROGRAMS.values()), jobs)
