# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands out of docs/system/qemu-colo.rst, run as they stand there.

A literal block of the document that a test runs is named by a comment before
it, which a reader does not see:

    .. colo-test: export

    When the secondary waits, on its monitor::

        { "execute": "nbd-server-start", ... }

The next literal block after the comment is the one.  It has commands of the
monitor, or lines of a shell; lines that begin with "-" are options of a QEMU,
and those before them give variables their values.  Nothing is changed in them
but the names in a table that the test gives: hosts, paths, sizes.
"""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

from . import net, vm

PATH = Path(__file__).resolve().parents[3] / 'docs/system/qemu-colo.rst'
MARK = re.compile(r'\.\. colo-test: (\S+)$')
ASSIGNMENT = re.compile(r'\w+=\S*$')
NAME = re.compile(r'[\w/]+')

Table = dict[str, str]
Command = dict[str, Any]


class DocumentError(Exception):
    """The document is not as it has to be; the text says where."""


def literal_blocks(text: str) -> list[tuple[int, str]]:
    """All of them, each with the number of the line that it begins in."""
    lines = text.splitlines()
    blocks = []
    number = 0
    while number < len(lines):
        opens = (lines[number].rstrip().endswith('::') and
                 not lines[number].lstrip().startswith('..'))
        indent = len(lines[number]) - len(lines[number].lstrip())
        number += 1
        if not opens:
            continue
        first, body = number, []
        while number < len(lines) and (
                not lines[number].strip() or
                len(lines[number]) - len(lines[number].lstrip()) > indent):
            body.append(lines[number])
            number += 1
        blocks.append((first + 1,
                       textwrap.dedent('\n'.join(body)).strip('\n')))
    return blocks


def parse_commands(block: str) -> list[Command]:
    """The commands of the monitor that a block consists of."""
    decoder = json.JSONDecoder()
    commands, at = [], 0
    while at < len(block):
        if block[at].isspace():
            at += 1
            continue
        command, at = decoder.raw_decode(block, at)
        commands.append(command)
    return commands


def substitute(text: str, table: Table) -> str:
    """Put in what @table has for whole names, or for a path's first part."""
    def put(match: re.Match[str]) -> str:
        word = match.group()
        for name, value in table.items():
            if word == name or (name.startswith('/') and
                                word.startswith(name + '/')):
                return value + word[len(name):]
        return word
    return NAME.sub(put, text)


class Document:
    """The document, and which of its named blocks have been used."""

    def __init__(self, path: Path = PATH):
        self.path = path
        self.text = path.read_text(encoding='utf-8')
        self.blocks: dict[str, str] = {}
        self.used: set[str] = set()
        at = literal_blocks(self.text)
        for number, line in enumerate(self.text.splitlines(), 1):
            mark = MARK.match(line.strip())
            if not mark:
                continue
            name = mark.group(1)
            follow = [block for first, block in at if first > number]
            if name in self.blocks or not follow:
                raise DocumentError(f'{path.name}:{number}: block "{name}" is '
                                    'there twice, or not at all')
            self.blocks[name] = follow[0]

    def block(self, name: str, table: Table) -> str:
        if name not in self.blocks:
            raise DocumentError(f'{self.path.name} has no block "{name}"')
        self.used.add(name)
        return substitute(self.blocks[name], table)

    def unused(self) -> set[str]:
        return set(self.blocks) - self.used

    def commands(self, name: str, table: Table) -> list[Command]:
        """The block as commands of the monitor."""
        try:
            return parse_commands(self.block(name, table))
        except json.JSONDecodeError as err:
            raise DocumentError(f'block "{name}": {err}') from None

    def options(self, names: list[str], table: Table,
                without: str | None = None) -> tuple[list[str], list[str]]:
        """Assignments and options of a command line made of blocks.

        @without: leave out the option that has this text.
        """
        assignments: list[str] = []
        options: list[str] = []
        for name in names:
            for line in self.block(name, table).splitlines():
                if ASSIGNMENT.match(line) and not line.startswith('-'):
                    assignments.append(line)
                elif line.startswith('-'):
                    options.append(line.removesuffix('\\').rstrip())
                elif line:
                    raise DocumentError(f'block "{name}": "{line}" is neither '
                                        'an option nor an assignment')
        return assignments, [option for option in options
                             if not without or without not in option]


class DocumentVm(vm.Vm):
    """A QEMU whose command line is a line of a shell, as in the document."""

    def __init__(self, hosts: net.Hosts, host: str, machine: vm.Machine,
                 run: Path, lines: tuple[list[str], list[str]]):
        self._lines = lines
        super().__init__(hosts, host, machine, run)

    def _command(self, args: list[str]) -> list[str]:
        assignments, options = self._lines
        script = [*assignments, ' \\\n    '.join(
            ['exec ' + shlex.join(args), *options])]
        return ['sh', '-euc', '\n'.join(script)]


def run(side: vm.Vm, commands: list[Command]) -> None:
    """Give them to the monitor of @side."""
    for command in commands:
        side.monitor.execute(command['execute'], command.get('arguments'))
