# SPDX-License-Identifier: GPL-2.0-or-later
"""The models that a QEMU binary has: devices, CPUs, machines.

The binary is asked; no model is named here.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / 'e2e'))
# pylint: disable=wrong-import-position
from colo.qmp import Monitor                                # noqa: E402

HELP_SECONDS = 60

_DEVICE = re.compile(r'name "(?P<name>[^"]+)"(?:, bus (?P<bus>[^,\n]+))?')
_SECTION = re.compile(r'(?P<name>.+) devices:$')
_MACHINE = re.compile(r'(?P<name>\S+)\s+(?P<text>\S.*)$')


@dataclass(frozen=True)
class Model:
    """One model."""
    kind: str           # device, cpu or machine
    name: str
    bus: str = ''       # of a device: the type of bus it sits on
    section: str = ''   # of `-device help`

    @property
    def key(self) -> str:
        return f'{self.kind}/{self.name}'


def _help(binary: Path, option: str) -> list[str]:
    done = subprocess.run([str(binary), option, 'help'], check=True,
                          stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=HELP_SECONDS)
    return done.stdout.splitlines()


def devices(binary: Path) -> list[Model]:
    """What `-device help` lists, each once; CPUs have a kind of their own."""
    found: dict[str, Model] = {}
    section = ''
    for line in _help(binary, '-device'):
        head = _SECTION.match(line)
        item = _DEVICE.match(line)
        if head:
            section = head['name']
        elif item:
            kind = 'cpu' if section == 'CPU' else 'device'
            found.setdefault(item['name'],
                             Model(kind, item['name'], item['bus'] or '',
                                   section))
    return sorted(found.values(), key=lambda model: model.name)


def machines(binary: Path) -> list[Model]:
    """What `-machine help` lists, the aliases too."""
    found = []
    for line in _help(binary, '-machine')[1:]:
        item = _MACHINE.match(line)
        if item:
            found.append(Model('machine', item['name']))
    return sorted(found, key=lambda model: model.name)


def models(binary: Path) -> list[Model]:
    found = devices(binary) + machines(binary)
    if len(found) < 50:
        raise RuntimeError(f'{binary.name} lists only {len(found)} models')
    return found


def properties(binary: Path, found: list[Model]) -> dict[str, set[str]]:
    """The names of the properties of each device."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / 'qmp'
        process = subprocess.Popen(
            [str(binary), '-M', 'none', '-nodefaults', '-display', 'none',
             '-qmp', f'unix:{path},server=on,wait=off'],
            stdin=subprocess.DEVNULL)
        try:
            monitor = Monitor(path)
            return {model.name: {item['name'] for item in monitor.execute(
                'device-list-properties', {'typename': model.name})}
                    for model in found if model.kind != 'machine'}
        finally:
            process.kill()
            process.wait()
