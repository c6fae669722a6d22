# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual's table of block commands: written from results, and read."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

PATH = (Path(__file__).resolve().parents[2] /
        'docs/system/qemu-colo-block-commands.rst')
WIDTH = 80
FIRST = WIDTH - 5 * 8       # of the column of names, and a space
COLUMNS = {
    'before/primary': 'P1', 'hybrid/primary': 'P2',
    'periodic/primary': 'P3', 'before/secondary': 'S1',
    'hybrid/secondary': 'S2', 'periodic/secondary': 'S3',
    'folding/secondary': 'S4', 'folded/secondary': 'S5',
}
HEAD = '''\
.. SPDX-License-Identifier: GPL-2.0-or-later
.. Made by tests/blockcommands/run.py --write-table; not written by hand.

COLO: what each block command does
==================================

Each block command of both monitors was tried on either side of a pair with one
replicated disk, as in ``docs/system/qemu-colo.rst``, by the names of its nodes:
``disk0`` is the guest's disk, ``image0`` the primary's image, ``nbd0`` the NBD
client, ``parent0`` the secondary's image, ``sink0`` what is exported.

Each line has the results on the primary before a session (P1), in one of hybrid
(P2) and of periodic mode (P3), then those on the secondary in the same three
(S1 to S3), while the overlays are being folded into the image after a failover
(S4), and when that is done (S5):

``+``
    It works: the next checkpoint came, the disks were equal, and after a
    failover all that the guest had written was there.
a number
    It is refused, or its job fails, with that message; see the end.
``m`` and a number
    It works, and ``migrate`` is refused, or no session begins, with that
    message.
``e`` and a number
    It ends the session with that message; the primary goes on alone.
``-``
    There is nothing to apply it to: what it needs is refused, see the lines of
    those commands, or the side has no such node.
``!``
    Something is lost, and nobody says so.  Do not do that.
'''
MARKS = {'refused': '', 'then migrate': 'm', 'ends the session': 'e'}


@dataclass(frozen=True)
class Column:
    """A state and a side."""
    state: str
    side: str

    def __str__(self) -> str:
        return f'{self.state}/{self.side}'

    @property
    def in_session(self) -> bool:
        """A session runs."""
        return self.state in ('hybrid', 'periodic')

    @property
    def follows(self) -> bool:
        """The guest of this side is not there yet, or not this side's."""
        return self.side == 'secondary' and \
            self.state in ('before', 'hybrid', 'periodic')


@dataclass
class Cell:
    """What a command does to something in a column."""
    name: str
    label: str
    target: str
    column: str
    result: str
    human: bool

    @property
    def row(self) -> tuple[str, str]:
        label = f' ({self.label})' if self.label else ''
        return ('Human monitor' if self.human else 'QMP', self.name + label)

    @property
    def text(self) -> str:
        return f'{self.column}: {" ".join(self.row)} {self.target}'.strip()

    @property
    def key(self) -> str:
        return self.text


def kind(result: str) -> str:
    return result.split(':')[0]


def said(result: str) -> str:
    """@result as the table has it."""
    what, _, message = result.partition(': ')
    return f'{what}: {neutral(message)}' if what in MARKS else what


def neutral(message: str) -> str:
    """@message without the names that it has for each node."""
    message = ' '.join(message.removeprefix('Error: ').split())
    message = re.sub(r"(?<=[Nn]ode )'[^']+'|(?<![-\w])'?(quorum|disk|image|"
                     r"replication|nbd|childs|active|hidden|parent|sink)0'?"
                     r"(?![-\w])", 'NODE', message)
    # Which of two nodes is in the way of the other is not always the same
    message = re.sub(r"Permission conflict.*permissions? '([^']+)'.*",
                     r"Permission conflict: '\1' is not allowed beside other "
                     'users of the node', message)
    return message.replace('`', "'")


Row = tuple[str, list[str], list[str]]


class Marks:
    """Short forms of results; messages get numbers."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def mark(self, result: str) -> str:
        what, _, message = result.partition(': ')
        if what not in MARKS:
            return {'works': '+', 'FAULT': '!'}.get(what, '-')
        message = neutral(message)
        if message not in self.messages:
            self.messages.append(message)
        return f'{MARKS[what]}{self.messages.index(message) + 1}'


def write(cells: list[Cell], path: Path = PATH) -> None:
    marks = Marks()
    rows: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for cell in cells:
        rows.setdefault(cell.row, {}).setdefault(cell.target, {})[
            cell.column] = marks.mark(cell.result)
    lines = HEAD.splitlines()
    for monitor in ('QMP', 'Human monitor'):
        lines += ['', monitor, '-' * len(monitor), '']
        body: list[Row] = []
        for (there, name), by_target in sorted(rows.items()):
            if there != monitor:
                continue
            alike: dict[tuple[str, ...], list[str]] = {}
            for target, found in by_target.items():
                alike.setdefault(tuple(found.get(c, '-') for c in COLUMNS),
                                 []).append(target or '-')
            body += [(name, targets, list(line))
                     for line, targets in alike.items()]
        lines += grid(body)
    lines += ['', 'Messages', '--------', '']
    for number, message in enumerate(marks.messages, 1):
        message = message.replace('*', '\\*')
        lines += textwrap.wrap(f'{number}. {message}', WIDTH,
                               subsequent_indent=' ' * len(f'{number}. '),
                               break_long_words=False, break_on_hyphens=False)
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def grid(body: list[Row]) -> list[str]:
    """Simple tables of reStructuredText; below each name what it is for."""
    titles = ['command: applied to', *COLUMNS.values()]
    widths = [FIRST - 1, *[4] * len(COLUMNS)]
    rule = ' '.join('=' * width for width in widths)

    def line(*fields: str) -> str:
        return ' '.join(f'{text:{width}}' for text, width in zip(
            fields, widths)).rstrip()

    lines = [rule, line(*titles), rule]
    for name, targets, marks in body:
        text = f'{name}: {", ".join(targets)}'
        for at, part in enumerate(textwrap.wrap(text, widths[0],
                                                break_on_hyphens=False)):
            lines.append(line(part, *marks) if not at else part)
    return lines + [rule]


def read_messages(text: str) -> list[str]:
    """Those at the end of the table, in their order."""
    found: list[str] = []
    for line in text.partition('\nMessages\n')[2].splitlines()[2:]:
        first = re.match(r'\d+\. (.*)', line)
        if first:
            found.append(first.group(1))
        elif found:
            found[-1] += f' {line.strip()}'
    return [message.replace('\\*', '*') for message in found]


def read(path: Path = PATH) -> dict[str, str]:
    """What is said of each cell, by its key, as said() has it."""
    kinds = {'+': 'works', '!': 'FAULT', '-': 'n/a'}
    whole = path.read_text(encoding='utf-8')
    messages = read_messages(whole)
    found: dict[str, str] = {}
    monitor = text = ''
    marks: list[str] = []

    def meaning(mark: str) -> str:
        if mark in kinds:
            return kinds[mark]
        kind_of = {short: name for name, short in MARKS.items()}
        short = mark.rstrip('0123456789')
        number = int(mark.removeprefix(short))
        return f'{kind_of[short]}: {messages[number - 1]}'

    def keep() -> None:
        name, _, targets = text.rpartition(': ')
        for target in targets.split(', ') if marks else ():
            for column, mark in zip(COLUMNS, marks):
                key = f'{column}: {monitor} {name} '
                found[(key + target.removeprefix('-')).strip()] = meaning(mark)

    for line in whole.splitlines():
        first, *rest = line[:FIRST].strip(), *line[FIRST:].split()
        if line in ('QMP', 'Human monitor', 'Messages'):
            monitor = line
        if not monitor or monitor == 'Messages' or \
                line.startswith(('===', 'command: ')):
            keep()
            marks = []
        elif len(rest) == len(COLUMNS):
            keep()
            text, marks = first, rest
        elif marks and first:
            text += ' ' + first
        elif marks:
            keep()
            marks = []
    return found
