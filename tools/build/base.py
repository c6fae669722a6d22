# SPDX-License-Identifier: GPL-2.0-or-later
"""Gets the base QEMU into build/base, and a Meson that can build it.

The base is the newest 10.0.x source package of Debian trixie. It comes by
apt's own source download, in a private apt state below build/apt, so that
nothing of the system's changes and no root is needed; apt checks the
signatures. Or it is a tree or a tarball that the user names.
"""

import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from common import (BASE, BUILD, NOT_BASE, die, digest, read_json, remove,
                    run, say, write_json)

VERSION = '10.0'
SUITE = 'trixie'
KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
MESON_WANTED = (1, 5)
APT = BUILD / 'apt'
STAMP = BUILD / 'base.json'
HINT = f'name a QEMU {VERSION}.x tree or tarball with --base=PATH'


def stamp() -> Dict[str, str]:
    """What lies in build/base: version, source and an id; empty if nothing."""
    return read_json(STAMP) if (BASE / 'VERSION').exists() else {}


def os_release() -> Dict[str, str]:
    try:
        text = Path('/etc/os-release').read_text()
    except OSError:
        return {}
    pairs = (line.split('=', 1) for line in text.splitlines() if '=' in line)
    return {key: value.strip('"') for key, value in pairs}


def mirror() -> str:
    """The mirror that the system's own main suite comes from."""
    if not shutil.which('apt-get'):
        die(f'no apt-get here: {HINT}')
    out = run('apt-get', 'indextargets', '--format',
              '$(SITE)|$(LABEL)|$(COMPONENT)|$(CODENAME)',
              'Created-By: Packages', capture_output=True, check=False).stdout
    rows = [line.split('|') for line in out.splitlines()]
    mains = [(row[0], row[3]) for row in rows
             if len(row) == 4 and row[1:3] == ['Debian', 'main']
             and '-' not in row[3]]
    if not mains:
        # Before the first update apt knows no labels: go by the suite alone.
        mains = [(row[0], row[3]) for row in rows
                 if len(row) == 4 and row[2] == 'main'
                 and '-' not in row[3] and 'security' not in row[0]]
    codename = os_release().get('VERSION_CODENAME')
    if os_release().get('ID') != 'debian' or not mains:
        die(f'apt here knows no Debian archive: {HINT}')
    return next((site for site, name in mains if name == codename),
                mains[0][0])


def apt(*args: str, cwd: Optional[Path] = None) -> str:
    """Run apt-get in the private state; its failure ends the program."""
    options = [f'-o=Dir::Etc::sourcelist={APT}/{SUITE}.sources',
               '-o=Dir::Etc::sourceparts=/dev/null',
               f'-o=Dir::State::Lists={APT}/lists',
               f'-o=Dir::Cache={APT}/cache',
               '-o=Debug::NoLocking=1', '-o=Acquire::Retries=2']
    if os.geteuid() == 0:
        options.append('-o=APT::Sandbox::User=root')
    result = run('apt-get', *options, *args, cwd=cwd or APT, check=False,
                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                 stdin=subprocess.DEVNULL)
    if result.returncode:
        print(result.stdout)
        die(f'apt-get {args[0]} failed (no network?): {HINT}')
    return result.stdout


def apt_update() -> None:
    """Fetch trixie's package lists, once a program run."""
    if (APT / 'updated').exists():
        return
    for name in ('lists/partial', 'cache/archives/partial'):
        (APT / name).mkdir(parents=True, exist_ok=True)
    (APT / f'{SUITE}.sources').write_text(
        f'Types: deb deb-src\nURIs: {mirror()}\nSuites: {SUITE}\n'
        f'Components: main\nSigned-By: {KEYRING}\n')
    say(f'fetching the package lists of {SUITE}')
    apt('update')
    (APT / 'updated').touch()


def check_version(tree: Path, origin: str) -> str:
    try:
        version = (tree / 'VERSION').read_text().strip()
    except OSError:
        die(f'{origin} is no QEMU source tree: it has no file VERSION')
    if not re.fullmatch(re.escape(VERSION) + r'\.\d+', version):
        die(f'{origin} is QEMU {version}, but the patches want {VERSION}.x')
    return version


def install(tree: Path, origin: str, ident: str, move: bool) -> None:
    """Make `tree` the content of build/base."""
    version = check_version(tree, origin)
    remove(STAMP)
    remove(BASE)
    if move:
        for name in NOT_BASE:
            remove(tree / name)
        tree.rename(BASE)
    else:
        shutil.copytree(
            tree, BASE, symlinks=True,
            ignore=lambda path, names:
                [n for n in names if n == '__pycache__' or n in NOT_BASE
                 and Path(path) == tree])
    write_json(STAMP, {'version': version, 'origin': origin, 'id': ident})
    say(f'base: QEMU {version} from {origin}')


def from_debian() -> None:
    """Download and unpack the newest source package."""
    apt_update()
    say(f'fetching the source package of QEMU from {SUITE}')
    down = APT / 'source'
    remove(down)
    down.mkdir()
    apt('source', '--download-only', 'qemu', cwd=down)
    dsc = next(iter(down.glob('qemu_*.dsc')), None)
    if not dsc:
        die(f'apt-get source brought no .dsc: {HINT}')
    release = dsc.stem.split('_', 1)[1]
    if not release.split(':')[-1].startswith(VERSION + '.'):
        die(f'{SUITE} has QEMU {release}, but the patches want {VERSION}.x: '
            + HINT)
    say(f'unpacking {dsc.name}')
    new = down / 'tree'
    # apt has checked the hashes against the signed index.
    run('dpkg-source', '--no-check', '-x', dsc, new,
        cwd=down, stdout=subprocess.DEVNULL)
    install(new, f'Debian {SUITE}, {release}', digest([dsc.read_bytes()]),
            move=True)
    remove(down)


def tree_id(tree: Path) -> str:
    """Changes when a file of the tree does, judged by size and time."""
    rows: List[Tuple[str, int, int]] = []
    for here, dirs, files in os.walk(tree):
        if Path(here) == tree:
            dirs[:] = [d for d in dirs if d not in NOT_BASE]
        dirs[:] = sorted(d for d in dirs if d != '__pycache__')
        for name in files:
            st = os.lstat(os.path.join(here, name))
            rows.append((os.path.join(here, name), st.st_size,
                         st.st_mtime_ns))
    return digest(sorted(rows))


def from_tree(tree: Path) -> None:
    ident = tree_id(tree)
    if stamp().get('id') != ident:
        install(tree, str(tree), ident, move=False)


def from_tarball(path: Path) -> None:
    ident = digest([path.read_bytes()])
    if stamp().get('id') == ident:
        return
    with tempfile.TemporaryDirectory(dir=BUILD) as work:
        say(f'unpacking {path.name}')
        try:
            with tarfile.open(path) as tar:
                safe = {'filter': 'tar'} if hasattr(tarfile,
                                                    'tar_filter') else {}
                tar.extractall(work, **safe)    # type: ignore[arg-type]
        except tarfile.TarError:
            die(f'{path} is no tarball that Python can read')
        roots = [p for p in Path(work).iterdir() if (p / 'VERSION').exists()]
        if len(roots) != 1:
            die(f'{path} holds no QEMU source tree')
        install(roots[0], str(path), ident, move=True)


def get(wanted: Optional[str], update: bool) -> Dict[str, str]:
    """See to it that build/base is there; returns its stamp."""
    BUILD.mkdir(exist_ok=True)
    if wanted:
        path = Path(wanted).expanduser().resolve()
        if path.is_dir():
            from_tree(path)
        elif path.is_file():
            from_tarball(path)
        else:
            die(f'--base: there is no {wanted}')
    elif update or not stamp():
        remove(APT / 'updated')
        from_debian()
    return stamp()


def meson_version(env: Optional[Dict[str, str]] = None) -> Tuple[int, ...]:
    """The version of the Meson that the system's Python can load."""
    result = run('/usr/bin/python3', '-c',
                 'from mesonbuild import coredata; print(coredata.version)',
                 capture_output=True, check=False, env=env, cwd='/')
    return tuple(int(n) for n in re.findall(r'\d+', result.stdout)[:2])


def meson_path() -> Optional[Path]:
    """A directory for PYTHONPATH that has a Meson new enough; None if the
    system's own is. Fetches one from trixie when needed."""
    if meson_version() >= MESON_WANTED:
        return None
    home = BUILD / 'meson'
    modules = home / 'usr' / 'lib' / 'python3' / 'dist-packages'
    env = {**os.environ, 'PYTHONPATH': str(modules)}
    if meson_version(env) >= MESON_WANTED:
        return modules
    apt_update()
    say(f'fetching Meson from {SUITE}')
    down = APT / 'meson'
    remove(down)
    remove(home)
    down.mkdir()
    apt('download', 'meson', cwd=down)
    for deb in down.glob('*.deb'):
        run('dpkg', '-x', deb, home)
    remove(down)
    if meson_version(env) < MESON_WANTED:
        die('Meson 1.5 or newer is needed; the one from '
            f'{SUITE} does not run here')
    return modules
