# SPDX-License-Identifier: GPL-2.0-or-later
"""For the tests of the tree: run functions as tests and print TAP."""

import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Callable, Dict, List, Tuple

ROOT = Path(__file__).resolve().parents[2]
SPDX = '# SPDX-License-Identifier: GPL-2.0-or-later\n'
LONG = bool(os.environ.get('CHECK_LONG'))


class Skip(Exception):
    """A test that cannot run here, and why."""


class Suite:
    """Tests in the order in which they are written down."""

    def __init__(self) -> None:
        self.tests: List[Tuple[str, Callable[[], None]]] = []

    def test(self, name: str) -> Callable[[Callable[[], None]],
                                          Callable[[], None]]:
        """Decorator: this function is the test of that name."""
        def add(function: Callable[[], None]) -> Callable[[], None]:
            self.tests.append((name, function))
            return function
        return add

    def main(self) -> None:
        failed = 0
        print(f'TAP version 13\n1..{len(self.tests)}', flush=True)
        for number, (name, function) in enumerate(self.tests, 1):
            try:
                function()
                print(f'ok {number} - {name}', flush=True)
            except Skip as why:
                print(f'ok {number} - {name} # SKIP {why}', flush=True)
            except Exception:       # pylint: disable=broad-except
                failed += 1
                print(f'not ok {number} - {name}')
                for line in traceback.format_exc().splitlines():
                    print(f'# {line}')
                sys.stdout.flush()
        sys.exit(bool(failed))


def run(*args: object, cwd: Path = ROOT,
        **env: str) -> 'subprocess.CompletedProcess[str]':
    """Run a program; what it prints, errors too, is in .stdout."""
    return subprocess.run([str(a) for a in args], cwd=cwd, check=False,
                          text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL,
                          env={**os.environ, **env})


def ran(*args: object, cwd: Path = ROOT) -> str:
    """The same, and it has to succeed."""
    done = run(*args, cwd=cwd)
    assert done.returncode == 0, f'{args}: {done.stdout}'
    return done.stdout


class Project:
    """A small project: our helpers, over a base of three files."""

    BASE: Dict[str, str] = {
        'VERSION': '10.0.99\n',
        'net/keep.c': 'int keep;\n',
        'net/colo.c': 'int old;\n',
        'migration/ram.c':
            'int a;\n\n/* Says hello. */\nstatic int\nhello(int b,\n'
            '      int c)\n{\n    if (b) {\n        return c;\n    }\n'
            '    return 0;\n}\n\nint d;\n',
    }

    def __init__(self) -> None:
        self.holder = tempfile.TemporaryDirectory(prefix='colo-tree-')
        self.top = Path(self.holder.name)
        shutil.copytree(ROOT / 'tools', self.top / 'tools',
                        ignore=shutil.ignore_patterns('__pycache__'))
        for name, text in self.BASE.items():
            self.write('origin/' + name, text)
            self.write('build/base/' + name, text)
        self.write('build/base.json',
                   '{"version": "10.0.99", "origin": "test", "id": "1"}')
        self.write('patches/removed', SPDX)
        ran('git', 'init', '-q', cwd=self.top)
        self.write('.gitignore', SPDX + '/build/\n/origin/\n__pycache__/\n')

    def write(self, name: str, text: str) -> None:
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def src(self, name: str) -> Path:
        return self.top / 'build' / 'src' / name

    def lay(self) -> 'subprocess.CompletedProcess[str]':
        return run(sys.executable, '-c',
                   'import sys; sys.path.insert(0, "tools/build")\n'
                   'import tree; tree.project_tree().lay()', cwd=self.top)

    def laid(self) -> None:
        done = self.lay()
        assert done.returncode == 0, done.stdout

    def configure(self, *args: str) -> 'subprocess.CompletedProcess[str]':
        return run(sys.executable, 'tools/build/configure.py', *args,
                   cwd=self.top)

    def close(self) -> None:
        self.holder.cleanup()
