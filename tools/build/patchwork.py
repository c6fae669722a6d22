# SPDX-License-Identifier: GPL-2.0-or-later
"""A git work tree in which the patches are commits: build/patchwork.

Its history: `untouched` is the base; `base` is that without what
patches/removed names; `series` has one commit more for each patch.
"""

import os
from pathlib import Path
from typing import List

import base
import tree
from common import (BASE, BUILD, PATCHES, die, digest, git_env, patch_list,
                    read_json, remove, run, write_json)

WORK = BUILD / 'patchwork'
STAMP = BUILD / 'patchwork.json'
DATE = '2025-01-01T00:00:00+00:00'
FORMAT = ('format-patch', '--zero-commit', '--no-signature', '--quiet')
REMOVE_MESSAGE = """\
Remove COLO and block replication

They are replaced as a whole by what the next patches bring. In between the
tree does not build.
"""


def git(*args: object, cwd: Path = WORK, check: bool = True) -> str:
    """Run git there, free of the user's configuration; returns stdout."""
    env = git_env()
    env.update(GIT_AUTHOR_DATE=DATE, GIT_COMMITTER_DATE=DATE)
    done = run('git', '-c', 'core.abbrev=12', '-c', 'gc.auto=0',
               '-c', 'advice.detachedHead=false', *args, cwd=cwd, env=env,
               check=False, capture_output=True)
    if done.returncode and check:
        die(f'git {args[0]}: {done.stderr.strip() or done.stdout.strip()}')
    return done.stdout


def base_key() -> str:
    removed = PATCHES / 'removed'
    return digest([base.stamp().get('id'),
                   removed.read_bytes() if removed.exists() else b'',
                   Path(tree.cfunc.__file__).read_bytes(),
                   Path(__file__).read_bytes()])


def make_repository(where: Path) -> None:
    """The base as a commit, on the branch `untouched`."""
    remove(where)
    where.mkdir(parents=True)
    run('cp', '-a', '--', f'{BASE}/.', where)
    git('init', '-q', '-b', 'untouched', cwd=where)
    git('add', '-A', '-f', cwd=where)
    version = base.stamp()['version']
    git('commit', '-q', '-m', f'QEMU {version}', cwd=where)


def commit(message: str, cwd: Path = WORK) -> None:
    """Commit all there is, if there is anything."""
    git('add', '-A', '-f', cwd=cwd)
    if git('status', '--porcelain', cwd=cwd):
        git('commit', '-q', '-m', message, cwd=cwd)


def take_out() -> None:
    """Commit the removals on the branch `base`."""
    removed = tree.read_removed(PATCHES / 'removed')
    git('checkout', '-q', '-B', 'base', 'untouched')
    for name in removed.files:
        (WORK / name).unlink()
    tree.take_functions_out(removed, WORK)
    commit(REMOVE_MESSAGE)


def am(patches: List[Path], cwd: Path = WORK) -> None:
    if patches:
        git('am', '-q', '--whitespace=nowarn', *patches, cwd=cwd)


def is_open() -> bool:
    return (WORK / '.git').exists()


def open_repository() -> None:
    """See to it that `untouched` and `base` are there and up to date."""
    if read_json(STAMP).get('key') == base_key() and is_open():
        return
    old = read_json(STAMP).get('id')
    remove(STAMP)
    if not is_open() or old != base.stamp().get('id'):
        make_repository(WORK)
    take_out()
    write_json(STAMP, {'key': base_key(), 'id': base.stamp().get('id')})


def check_out_series() -> None:
    """Lay patches/ as commits on the branch `series`."""
    open_repository()
    git('am', '--abort', check=False)
    git('checkout', '-q', '-f', '-B', 'series', 'base')
    git('clean', '-q', '-fdx')
    am(patch_list(PATCHES))


def format_series(out: Path, repo: Path = WORK) -> List[Path]:
    """Write the commits of `series` in the form that patches/ has."""
    git(*FORMAT, '-U1', '-N', '-o', out, 'base..series', cwd=repo)
    return sorted(out.glob('*.patch'))


def as_text(patches: List[Path]) -> List[str]:
    return [p.name + '\n' + p.read_text() for p in patches]


def dirty() -> str:
    """What in the work tree is in no commit, as git status has it."""
    if os.path.isdir(WORK / '.git' / 'rebase-apply') or \
            os.path.isdir(WORK / '.git' / 'rebase-merge'):
        return 'a rebase or am that is not finished'
    return git('status', '--porcelain')
