# SPDX-License-Identifier: GPL-2.0-or-later
"""What the images of a host are when its power has failed.

A killed QEMU leaves all that it has written: the kernel has it.  A host that
loses its power leaves what was flushed, and of the rest nothing or a part.  So
../host/colo-power.c, in each QEMU, keeps a log of what is written and flushed,
and cut() makes of an image what may be left of it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

SOURCE = Path(__file__).resolve().parent.parent / 'host' / 'colo-power.c'
LIBRARY = 'colo-power.so'
LOG = 'power.log'
BASES = 'power'             # folder of what images were, and since when
COMPILE_SECONDS = 60
UNIT = 4096                 # is written as a whole or not at all

# As in colo-power.c
ENTRY = struct.Struct('<8sLLQQ')
MAGIC = b'COLOPOWR'
WRITE, ZERO, GROW, TRUNCATE, BEGIN, END, RENAME, NEW_NAME, FUA = range(1, 10)
WITH_DATA = (WRITE, RENAME, FUA)
FLUSHES = (BEGIN, END)


class PowerError(Exception):
    """The power cannot be cut here."""


@dataclass
class Entry:
    kind: int
    path: str
    offset: int
    length: int
    data: bytes


@dataclass
class Left:
    """What came of some images."""
    flushed: int = 0        # writes and the like that were
    kept: int = 0           # and that were not, in whole or in part
    lost: int = 0


def _build(run: Path) -> None:
    compiler = os.environ.get('CC', 'gcc').split()
    try:
        subprocess.run([*compiler, '-O2', '-Wall', '-shared', '-fPIC', '-o',
                        run / LIBRARY, SOURCE], check=True,
                       stdin=subprocess.DEVNULL, timeout=COMPILE_SECONDS)
    except (OSError, subprocess.SubprocessError) as err:
        raise PowerError(f'{SOURCE.name}: {err}') from None


def command(run: Path, args: list[str]) -> list[str]:
    """@args, of a QEMU with images in @run."""
    if not (run / LIBRARY).exists():
        _build(run)
    return ['env', f'LD_PRELOAD={run / LIBRARY}', f'COLO_POWER_DIR={run}',
            f'COLO_POWER_LOG={run / LOG}', *args]


def forget(run: Path) -> None:
    """No QEMU runs, and there are no images."""
    (run / LOG).unlink(missing_ok=True)
    shutil.rmtree(run / BASES, ignore_errors=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _since(run: Path, path: Path) -> Path:
    return run / BASES / f'{path.name}.since'


def begin(run: Path, path: Path, anew: bool = False) -> None:
    """The image @path is on its disk for good as it is now.  Only the first
    time counts, if not @anew: then no QEMU has it open."""
    base = run / BASES / path.name
    if base.exists() and not anew:
        return
    base.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, base)
    _since(run, path).write_text(json.dumps(_size(run / LOG)))


def _parse(log: bytes, at: int) -> Iterator[tuple[int, Entry]]:
    """Entries, and where each begins.  One that was cut short, as its QEMU was
    killed, is none: the next one, of another QEMU, begins within it."""
    while at >= 0 and at < len(log):
        if len(log) - at < ENTRY.size:
            return
        magic, kind, path_bytes, offset, length = ENTRY.unpack_from(log, at)
        data = at + ENTRY.size + path_bytes
        end = data + (length if kind in WITH_DATA else 0)
        if magic != MAGIC or end > len(log) or \
                not MAGIC.startswith(log[end:end + len(MAGIC)]):
            at = log.find(MAGIC, at + 1)
            continue
        yield at, Entry(kind, log[at + ENTRY.size:data].decode(), offset,
                        length, log[data:end])
        at = end


def _flushed(entries: list[Entry], path: str) -> int:
    """How many of @entries were done before a flush of @path that has
    ended."""
    begun = {}
    count = 0
    for n, entry in enumerate(entries):
        if entry.path == path and entry.kind == BEGIN:
            begun[entry.offset] = n
        elif entry.path == path and entry.kind == END:
            count = max(count, begun.get(entry.offset, 0))
    return count


def _write(image: bytearray, offset: int, data: bytes) -> None:
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    image[offset:offset + len(data)] = data


def _apply(image: bytearray, entry: Entry) -> None:
    if entry.kind in (WRITE, FUA):
        _write(image, entry.offset, entry.data)
    elif entry.kind == ZERO:
        end = min(entry.offset + entry.length, len(image))
        _write(image, entry.offset, bytes(max(end - entry.offset, 0)))
    elif entry.kind in (GROW, TRUNCATE):
        if len(image) < entry.length:
            image.extend(bytes(entry.length - len(image)))
        elif entry.kind == TRUNCATE:
            del image[entry.length:]


def _apply_part(image: bytearray, entry: Entry, rng: random.Random) -> None:
    """Units at random; what is no write happens or does not."""
    if entry.kind != WRITE:
        if rng.random() < 0.5:
            _apply(image, entry)
        return
    at = 0
    while at < entry.length:
        end = min(entry.length, at + UNIT - (entry.offset + at) % UNIT)
        if rng.random() < 0.5:
            _write(image, entry.offset + at, entry.data[at:end])
        at = end


def _cut_image(path: Path, base: bytes, entries: list[Entry],
               rng: random.Random | None, left: Left) -> None:
    image = bytearray(base)
    flushed = _flushed(entries, str(path))
    for n, entry in enumerate(entries):
        if entry.path != str(path) or entry.kind in FLUSHES:
            continue
        if n < flushed or entry.kind == FUA:
            left.flushed += 1
            _apply(image, entry)
        elif rng:
            left.kept += 1
            _apply_part(image, entry, rng)
        else:
            left.lost += 1
    path.write_bytes(image)


def _cut_name(path: Path, entries: list[Entry],
              rng: random.Random | None) -> None:
    """The last of its contents whose name was not for good may be gone."""
    flushed = _flushed(entries, str(path.parent))
    undone = [entry for n, entry in enumerate(entries)
              if n >= flushed and entry.path == str(path) and
              entry.kind in (RENAME, NEW_NAME)]
    if rng and undone:
        undone = undone[rng.randrange(len(undone) + 1):]
    if not undone:
        return
    if undone[0].kind == NEW_NAME:
        path.unlink()
    else:
        path.write_bytes(undone[0].data)


def cut(run: Path, paths: list[Path], rng: random.Random) -> Left:
    """The power of what has the images @paths has failed, and no QEMU has
    them open: all that was not flushed is lost, or parts of it.  *.generation
    are names that may be lost."""
    log = (run / LOG).read_bytes()
    since = {}
    for path in paths:
        at = _since(run, path)
        since[path] = json.loads(at.read_text()) if at.exists() else 0
    found = list(_parse(log, min(since.values())))
    some = rng if rng.random() < 0.5 else None
    left = Left()
    for path in paths:
        entries = [entry for at, entry in found if at >= since[path]]
        if path.suffix == '.generation':
            _cut_name(path, entries, some)
            _since(run, path).write_text(json.dumps(len(log)))
            continue
        _cut_image(path, (run / BASES / path.name).read_bytes(), entries, some,
                   left)
        begin(run, path, anew=True)
    return left


def restart(run: Path) -> None:
    """All have been cut, and no QEMU runs: what was is of no more use."""
    (run / LOG).unlink()
    for at in (run / BASES).glob('*.since'):
        at.write_text('0')
