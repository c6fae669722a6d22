# SPDX-License-Identifier: GPL-2.0-or-later
"""What the build helpers share: paths, running programs, small files."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NoReturn, Optional

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / 'build'
BASE = BUILD / 'base'
SRC = BUILD / 'src'
PATCHES = ROOT / 'patches'
STOCK_SRC = BUILD / 'stock-src'
STOCK_PATCHES = ROOT / 'tests' / 'bench' / 'stock-patches'

# Not part of the base as we use it: packaging, and firmware sources, which
# are two thirds of the bytes and which nothing here builds.
NOT_BASE = ('.git', '.pc', 'debian', 'roms')


def die(message: str) -> NoReturn:
    """End the program with one line that names the program."""
    sys.exit(f'{Path(sys.argv[0]).name}: {message}')


def say(message: str) -> None:
    print(message, flush=True)


def run(*args: object, **kwargs: Any) -> 'subprocess.CompletedProcess[str]':
    """Run a program; its failure is an exception unless check=False."""
    kwargs.setdefault('check', True)
    kwargs.setdefault('text', True)
    return subprocess.run([str(a) for a in args], **kwargs)


def git_env() -> Dict[str, str]:
    """An environment in which git sees no repository above build/ and no
    configuration of the user's, so that its output is the same everywhere."""
    return {**os.environ, 'GIT_CEILING_DIRECTORIES': str(BUILD),
            'GIT_CONFIG_GLOBAL': '/dev/null', 'GIT_CONFIG_NOSYSTEM': '1',
            'GIT_AUTHOR_NAME': 'series', 'GIT_AUTHOR_EMAIL': 'series',
            'GIT_COMMITTER_NAME': 'series', 'GIT_COMMITTER_EMAIL': 'series',
            'LC_ALL': 'C', 'TZ': 'UTC'}


def digest(parts: Iterable[object]) -> str:
    """One hash over a list of things."""
    h = hashlib.sha256()
    for part in parts:
        h.update(part if isinstance(part, bytes) else str(part).encode())
        h.update(b'\0')
    return h.hexdigest()


def read_json(path: Path) -> Dict[str, Any]:
    """The object in a file; an empty one if there is no such file."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Dict[str, Any]) -> None:
    """Write all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + '.new')
    new.write_text(json.dumps(value, indent=1) + '\n')
    new.replace(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole directory, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or path.exists():
        path.unlink()


def patch_list(directory: Path) -> List[Path]:
    """The patches to apply, in order: those `series` names, else by name."""
    series = directory / 'series'
    if not series.exists():
        return sorted(directory.glob('*.patch'))
    names = (line.split('#')[0].strip()
             for line in series.read_text().splitlines())
    found = [directory / name for name in names if name]
    for path in found:
        if not path.exists():
            die(f'{series.relative_to(ROOT)} names {path.name}, '
                'which is not there')
    return found


@contextlib.contextmanager
def build_lock(directory: Path = BUILD) -> Iterator[None]:
    """Keep other invocations in this checkout out meanwhile."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / '.lock', 'w', encoding='ascii') as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('waiting for another build in this checkout')
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def which(*names: str) -> Optional[str]:
    """The first of these programs that is there."""
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    return None
