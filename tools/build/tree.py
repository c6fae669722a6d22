# SPDX-License-Identifier: GPL-2.0-or-later
"""Lays a source tree: base - removed + patches + links to our files.

Every path of the tree has one wanted content, found by the first of: our
file (a symbolic link into this repository), the patched file, removed, the
base's file. A file is written only where it differs, so that what did not
change keeps its time and Ninja builds again only what has to be. Which paths
can differ from the base is kept in a stamp beside the tree; without a stamp
all paths are compared.
"""

import filecmp
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Set

import base
import cfunc
from common import (BASE, BUILD, PATCHES, ROOT, SRC, STOCK_PATCHES, STOCK_SRC,
                    die, digest, git_env, patch_list, read_json, remove, run,
                    say, write_json)

# Our files below these have their place in QEMU's tree.
LINKED = ('migration', 'net', 'block', 'qapi', 'include', 'replication.c',
          'hw', 'system', 'docs', 'tests/unit', 'tests/qtest', 'tests/fuzz')


@dataclass
class Removed:
    """What patches/removed says."""
    files: Set[str] = field(default_factory=set)
    functions: Dict[str, List[str]] = field(default_factory=dict)


def read_removed(path: Path) -> Removed:
    result = Removed()
    if not path.exists():
        return result
    for line in path.read_text().splitlines():
        entry = line.split('#')[0].strip()
        if not entry:
            continue
        name, _, function = entry.partition(':')
        if not (BASE / name).is_file():
            die(f'patches/removed: the base has no {name}')
        if function:
            result.functions.setdefault(name, []).append(function)
        else:
            result.files.add(name)
    both = result.files & set(result.functions)
    if both:
        die(f'patches/removed: {both.pop()} goes as a whole and in part')
    return result


def our_files() -> List[str]:
    """Our files that belong into QEMU's tree: what git tracks or would."""
    try:
        out = run('git', '-C', ROOT, '-c', f'safe.directory={ROOT}',
                  'ls-files', '-z', '-co', '--exclude-standard', '--',
                  *LINKED, capture_output=True).stdout
        names = [n for n in out.split('\0') if n]
    except (OSError, subprocess.CalledProcessError):
        # A copy without .git.
        names = [str(p.relative_to(ROOT)) for top in LINKED
                 for p in [ROOT / top, *(ROOT / top).rglob('*')]
                 if p.is_file() and '__pycache__' not in p.parts]
    return sorted(n for n in set(names) if (ROOT / n).is_file())


def patched_paths(patch: str) -> Set[str]:
    """The paths that a patch in git's format names."""
    found: Set[str] = set()
    for line in patch.splitlines():
        match = re.match(r'diff --git a/(\S+) b/(\S+)$', line)
        if match:
            found.update(match.groups())
    return found


def copy_base(name: str, target: Path) -> None:
    """Copy one file of the base, if it has it."""
    origin = BASE / name
    if origin.is_file() or origin.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(origin, target, follow_symlinks=False)


def take_functions_out(removed: Removed, tree: Path) -> None:
    for name, functions in removed.functions.items():
        path = tree / name
        text = path.read_text()
        for function in functions:
            try:
                text = cfunc.remove(text, function)
            except cfunc.NotFound:
                die(f'patches/removed: {name} has no function {function}')
        path.write_text(text)


def apply(patches: List[Path], tree: Path) -> None:
    """Apply the patches with no fuzz; the first that fails ends it all."""
    for patch in patches:
        result = run('git', 'apply', '--whitespace=nowarn', patch, cwd=tree,
                     env=git_env(), check=False, capture_output=True)
        if result.returncode:
            die(f'{patch.relative_to(ROOT)} does not apply:\n'
                + result.stderr.rstrip())


def same(a: Path, b: Path) -> bool:
    """Whether b is what copying a would make it."""
    if a.is_symlink() or b.is_symlink():
        return a.is_symlink() and b.is_symlink() and \
            os.readlink(a) == os.readlink(b)
    return b.is_file() and filecmp.cmp(a, b, shallow=False) and \
        a.stat().st_mode == b.stat().st_mode


def all_paths(tree: Path) -> Set[str]:
    """Every file and link of a tree."""
    found: Set[str] = set()
    for here, dirs, files in os.walk(tree):
        for name in list(dirs):
            if name == '__pycache__':
                dirs.remove(name)
            elif os.path.islink(os.path.join(here, name)):
                files.append(name)
        rel = os.path.relpath(here, tree)
        found.update(os.path.normpath(os.path.join(rel, n)) for n in files)
    return found


class Tree:
    """One source tree below build/ and how it comes from the base."""

    def __init__(self, where: Path, removed: Path, patches: List[Path],
                 links: List[str]) -> None:
        self.where = where
        self.stamp = where.with_name(where.name + '.json')
        self.removed = read_removed(removed)
        self.patches = patches
        self.links = links
        self.changed = 0

    def key(self) -> str:
        """Changes whenever the tree may have to."""
        tools = Path(__file__).parent
        return digest([
            base.stamp().get('id'), sorted(self.removed.files),
            sorted(self.removed.functions.items()),
            *(p.name.encode() + p.read_bytes() for p in self.patches),
            *self.links, (tools / 'tree.py').read_bytes(),
            (tools / 'cfunc.py').read_bytes()])

    def check_links(self, patched: Set[str]) -> None:
        for name in self.links:
            if name in patched:
                die(f'{name} is ours, and a patch changes it too')
            if (BASE / name).exists() and name not in self.removed.files:
                die(f'{name} would hide a file of the base: put it into '
                    'patches/removed or give it another name')

    def set_link(self, name: str) -> None:
        """Link to our file."""
        path, ours = self.where / name, ROOT / name
        target = os.path.relpath(ours, path.parent)
        if path.is_symlink() and os.readlink(path) == target:
            return
        if path.exists() and not filecmp.cmp(path, ours, shallow=False):
            # Ninja goes by time: another file's content counts as an edit.
            os.utime(ours)
        remove(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
        self.changed += 1

    def set_file(self, name: str, origin: Optional[Path]) -> None:
        """Make a path of the tree equal to origin, or take it away."""
        path = self.where / name
        if origin is None or not (origin.is_file() or origin.is_symlink()):
            if path.is_symlink() or path.exists():
                remove(path)
                self.changed += 1
                self.drop_empty(path.parent)
        elif not same(origin, path):
            fresh = not path.exists()
            remove(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(origin, path, follow_symlinks=False)
            if not fresh and not path.is_symlink():
                os.utime(path)
            self.changed += 1

    def drop_empty(self, path: Path) -> None:
        while path != self.where and not any(path.iterdir()):
            path.rmdir()
            path = path.parent

    def lay(self) -> bool:
        """Bring the tree up to date; returns whether anything was to do."""
        key = self.key()
        old = read_json(self.stamp)
        if old.get('key') == key and self.where.is_dir():
            return False
        patched: Set[str] = set()
        for patch in self.patches:
            patched |= patched_paths(patch.read_text())
        self.check_links(patched)
        with tempfile.TemporaryDirectory(dir=BUILD, prefix='lay-') as work:
            new = Path(work)
            for name in patched | set(self.removed.functions):
                if name not in self.removed.files:
                    copy_base(name, new / name)
            take_functions_out(self.removed, new)
            apply(self.patches, new)
            special = patched | set(self.removed.functions) | \
                self.removed.files
            if old.get('base') == base.stamp().get('id') and \
                    self.where.is_dir():
                paths = special | set(old['special']) | set(old['links'])
            else:
                say(f'laying {self.where.relative_to(ROOT)}')
                self.where.mkdir(parents=True, exist_ok=True)
                paths = special | all_paths(BASE) | all_paths(self.where)
            remove(self.stamp)
            links = set(self.links)
            for name in sorted(paths - links):
                self.set_file(name, (new if name in special else BASE) / name)
            for name in self.links:
                self.set_link(name)
        write_json(self.stamp, {'key': key, 'base': base.stamp().get('id'),
                                'special': sorted(special),
                                'links': self.links})
        say(f'{self.where.relative_to(ROOT)}: {len(self.patches)} patches, '
            f'{len(self.links)} files of ours, {self.changed} paths changed')
        return True


def project_tree() -> Tree:
    return Tree(SRC, PATCHES / 'removed', patch_list(PATCHES), our_files())


def stock_tree() -> Tree:
    """The base with its own COLO, for measuring against."""
    return Tree(STOCK_SRC, Path('/nonexistent'), patch_list(STOCK_PATCHES),
                [])
