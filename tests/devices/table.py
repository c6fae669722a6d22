# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual's table of models: written from verdicts, and read again."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog import Model

PATH = Path(__file__).resolve().parents[2] / 'docs/system/qemu-colo-devices.rst'
WIDTH = 80
RULE = '='

HEAD = '''\
.. SPDX-License-Identifier: GPL-2.0-or-later
.. Made by tests/devices/run.py --write-table; not written by hand.

COLO: what each model does
==========================

Each device, CPU and machine that ``qemu-system-x86_64`` of this tree lists with
``-device help`` and ``-machine help`` was tried in a pair, in both modes, with
firmware and no operating system, under TCG where nothing else is said.

works
    RAM of both sides was equal after each of hundreds of loads, both guests
    found their devices in the same places, memory of neither QEMU grew.  When
    the primary was killed the survivor went on, and its firmware came up again.
refused
    ``migrate`` says the message, the guest goes on without protection.
cannot work
    It cannot be in a pair, whatever the host has.
fails
    It cannot be in a pair today, and nobody refuses it.
not tried
    The host of the test lacked what it needs, which is said there, by QEMU or
    by the test.  Where nothing is said the run did not come to it.

``machine`` is where it was tried, with the backends of least effect: disks that
read as zeroes, networks without a peer, serial ports that lead nowhere.
'''

TITLES = {'device': 'Devices', 'cpu': 'CPUs', 'machine': 'Machines'}


@dataclass
class Verdict:
    """What was found about a model."""
    model: Model
    machine: str        # in which it was tried
    result: str         # works, refused, not tried, cannot work, fails
    why: str = ''

    def plain(self) -> dict[str, Any]:
        return {'kind': self.model.kind, 'name': self.model.name,
                'section': self.model.section, 'machine': self.machine,
                'result': self.result, 'why': self.why}

    @staticmethod
    def of(plain: dict[str, Any]) -> Verdict:
        return Verdict(Model(plain['kind'], plain['name'],
                             section=plain['section']),
                       plain['machine'], plain['result'], plain['why'])

    def text(self) -> str:
        why = ' '.join(self.why.split())
        return f'{self.result}: {why}' if why else self.result


def _rows(verdicts: list[Verdict]) -> list[str]:
    first = max(len(v.model.name) for v in verdicts) + 4
    second = max(len('machine'), *(len(v.machine) for v in verdicts))
    third = WIDTH - first - second - 2
    rule = f'{RULE * first} {RULE * second} {RULE * third}'
    lines = [rule, f'{"model":{first}} {"machine":{second}} result', rule]
    for verdict in verdicts:
        name, machine = f'``{verdict.model.name}``', verdict.machine
        # An asterisk or a backquote would be markup
        text = verdict.text().replace('`', "'").replace('*', '\\*')
        for part in textwrap.wrap(text, third, break_on_hyphens=False,
                                  break_long_words=False):
            lines.append(f'{name:{first}} {machine or "-":{second}} {part}'
                         if name else f'{"":{first}} {"":{second}} {part}')
            name = ''
    return lines + [rule]


def write(verdicts: list[Verdict], path: Path = PATH) -> None:
    """The last verdict of each model."""
    verdicts = list({v.model.key: v for v in verdicts}.values())
    lines = HEAD.splitlines()
    for kind, title in TITLES.items():
        mine = sorted((v for v in verdicts if v.model.kind == kind),
                      key=lambda v: v.model.name)
        if not mine:
            continue
        lines += ['', title, '-' * len(title)]
        sections = sorted({v.model.section for v in mine})
        for section in sections:
            if len(sections) > 1:
                lines += ['', section, '~' * len(section)]
            lines += ['', *_rows([v for v in mine
                                  if v.model.section == section])]
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def read(path: Path = PATH) -> dict[str, Verdict]:
    """The verdicts by the models' keys."""
    kinds = {title: kind for kind, title in TITLES.items()}
    found: dict[str, Verdict] = {}
    kind = section = ''
    columns: list[int] = []
    previous = ''
    last: Verdict | None = None
    for line in path.read_text(encoding='utf-8').splitlines():
        if set(line) == {'-'}:
            kind, section = kinds[previous], ''
        elif set(line) == {'~'}:
            section = previous
        elif kind and set(line) == {RULE, ' '}:
            columns = [0, line.index(' ') + 1, line.rindex(' ') + 1]
            last = None
        elif columns and line.startswith('``'):
            name, machine, text = (line[columns[0]:columns[1]].strip(' `'),
                                   line[columns[1]:columns[2]].strip(' -'),
                                   line[columns[2]:])
            last = Verdict(Model(kind, name, section=section), machine, text)
            found[last.model.key] = last
        elif columns and last and line.startswith(' '):
            last.result += ' ' + line.strip()
        previous = line
    for verdict in found.values():
        text = verdict.result.replace('\\*', '*')
        verdict.result, _, verdict.why = text.partition(': ')
    return found
