#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every block command of the monitors, on either side of a pair with a
replicated disk, before a session, in one and after a failover.

Each works or is refused with a reason.  QEMU lives and answers, the next
checkpoint comes and both disks are equal, or the session ends and says so; the
guest's disk is what it has written, and no more, after a failover.  A
survivor's guest goes on, and its overlays get into its disk.

Commands share a pair.  What goes wrong in it is nobody's fault until it has
gone wrong again with a single command in a pair of its own.

Prints TAP.  The table of the manual is made by --write-table; without that a
run fails if the table does not say what was found, and why.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commands
import table
from commands import EXPORT, JOB, MEDIUM, NODES, ONCE, PEER, TOP, Command
from pair import ROOT, STATES, Fault, Over, Pair, QmpError, Side, until
from table import Cell, Column

GROUP = 60              # commands that work, in a pair
SHARE = 40              # of the cells --quick tries one in so many, and these:
HARM = re.compile(
    r'qemu-io \(write\) (image|nbd|active|parent|sink)0|'
    r'blockdev-snapshot-sync (disk|sink)0|'
    r'blockdev-create \(onto a node\) sink0|'
    r'blockdev-backup \(onto a node\) (active|parent)0|'
    r'blockdev-add \(replication\) nbd0')
COLUMNS = [Column(state, side) for state in STATES
           for side in ('primary', 'secondary')
           if side == 'secondary' or state not in ('folding', 'folded')]

NODES_OF = {
    'primary': ['disk0', 'image0', 'replication0', 'nbd0'],
    'secondary': ['disk0', 'childs0', 'active0', 'hidden0', 'parent0',
                  'sink0'],
}
# By which nodes the guest writes
GUEST_OF = {column: {'primary': ['disk0'], 'secondary': [
    'disk0', 'childs0'] if column.state in ('folding', 'folded') else []}[
        column.side] for column in COLUMNS}
SAME: dict[str, dict[str, Any]] = {
    'image0': {'driver': 'raw', 'file': 'file0'},
    'replication0': {'driver': 'replication', 'mode': 'primary',
                     'batch': True, 'file': 'nbd0'},
    'hidden0': {'driver': 'qcow2', 'backing': 'parent0'},
    'active0': {'driver': 'qcow2', 'backing': 'hidden0'},
    'childs0': {'driver': 'replication', 'mode': 'secondary',
                'top-id': 'disk0', 'file': 'active0'},
    'parent0': {'driver': 'raw'},
    'sink0': {'driver': 'replication-sink', 'file': 'parent0'},
}


def targets(command: Command, column: Column) -> list[str]:
    """To what it is applied there."""
    at = command.entry.at
    if at == NODES:
        return NODES_OF[column.side]
    if at == TOP:
        return ['disk0']
    if at == EXPORT:
        return ['sink0' if column.side == 'secondary' else 'e1']
    if at == JOB:
        return ['job', 'fold'] if column.state == 'folding' else ['job']
    if at == PEER:
        return (['children.0', 'children.1'] if column.side == 'primary'
                else ['children.0'])
    return ['CD-ROM' if at == MEDIUM else '']


@dataclass
class Try:
    """A command, applied to something."""
    command: Command
    target: str
    result: str = ''
    worked: bool = False

    @property
    def key(self) -> str:
        return f'{self.command.title} {self.target}'.strip()

    def cell(self, column: Column) -> Cell:
        """Its place in the table."""
        command = self.command
        return Cell(command.name, command.entry.label, self.target,
                    str(column), self.result, command.human)


class Undone(Fault):
    """A command was fine, and the way back from it is not."""


class Trial:
    """The commands of one column."""

    def __init__(self, column: Column, run: Path, binary: Path,
                 fresh: bool) -> None:
        self.column, self.run, self.binary = column, run, binary
        self.fresh = fresh              # the table is of no interest
        self.pair: Pair | None = None
        self.since: list[Try] = []      # worked on this pair
        self.tries = 0                  # of any result
        self.strange: list[str] = []    # of pairs in which all was refused
        self.note: Any = lambda text: None
        self.known: dict[str, str] = {}     # what the table says, as said()
        self.files = 0

    # One command

    def fill(self, value: Any, target: str, pair: Pair) -> Any:
        """@value with names in place of those that begin with $."""
        if isinstance(value, dict):
            return {k: self.fill(v, target, pair) for k, v in value.items()}
        if isinstance(value, list):
            return [self.fill(v, target, pair) for v in value]
        if not isinstance(value, str) or '$' not in value:
            return value
        if value in ('$SAME', '$READ-ONLY'):
            return self.options(target, value == '$READ-ONLY')
        side = pair.sides[self.column.side]
        if '$F' in value or '$Q' in value:
            self.files += 1
            path = side.run / f'new{self.files}'
            if '$Q' in value:
                pair.new_qcow2(path)
            value = value.replace('$F', str(path)).replace('$Q', str(path))
        node = target if target in NODES_OF[self.column.side] else 'disk0'
        job = pair.fold_job() if target == 'fold' else 'j1'
        for name, text in (('$T', target or 'disk0'), ('$D', str(side.run)),
                           ('$N', 'quorum0' if node == 'disk0' else node),
                           ('$J', job)):
            value = value.replace(name, text)
        return value

    def options(self, target: str, read_only: bool) -> dict[str, Any]:
        """Of blockdev-reopen."""
        primary = self.column.side == 'primary'
        top = {'driver': 'quorum', 'read-pattern': 'fifo',
               'vote-threshold': 1, 'children':
               ['image0', 'replication0'] if primary else ['childs0']}
        options = {**(top if target == 'disk0' else SAME.get(target, {})),
                   'node-name': 'quorum0' if target == 'disk0' else target}
        if target == 'nbd0':
            assert self.pair
            options.update({'driver': 'nbd', 'export': 'sink0', 'server': {
                'type': 'unix', 'path': f'{self.pair.run}/nbd'}})
        if target in ('active0', 'hidden0', 'parent0'):
            options['file'] = target.replace('0', '-file')
        if read_only:
            options['read-only'] = True
        return options

    def step(self, side: Side, step: commands.Step, target: str,
             expect: str = '') -> str:
        """Do it; the reason if it is refused.  @expect: what HMP answers."""
        assert self.pair
        name, arguments = self.fill(list(step), target, self.pair)
        try:
            if name == 'human-monitor-command':
                answer, printed = side.human(arguments['command-line'])
                if not re.fullmatch(expect, answer, re.S) and \
                        not re.search('^' + expect, answer + printed, re.M):
                    return answer or printed or 'without a word'
                return '' if expect else answer
            side.execute(name, arguments)
        except QmpError as error:
            if not error.desc:
                raise Fault('refused without a reason') from error
            return error.desc
        return ''

    def settle(self, side: Side, endless: bool) -> str:
        """Wait for what our job becomes; what is wrong with it.  @endless: a
        backup may go on."""
        def quiet() -> bool:
            return all(j['status'] not in ('created', 'running', 'waiting')
                       or (endless and j['type'] == 'backup') or
                       j['id'].startswith('replication-')
                       for j in side.execute('query-jobs'))

        until('an end of a job', quiet, side)
        wrong = ''
        for job in side.execute('query-jobs'):
            if job['id'] == 'j1' and job.get('error'):
                wrong = job['error']
        for event in list(side.monitor.events):
            if event['event'] == 'BLOCK_JOB_COMPLETED' and \
                    event['data'].get('error') and \
                    event['data']['device'] == 'j1':
                wrong = event['data']['error']
        side.monitor.events.clear()
        return wrong

    def attempt(self, one: Try, undo: bool = True) -> None:
        """Set @one.result.  Fault or Over as far as is known at once."""
        pair = self.begin()
        side = pair.sides[self.column.side]
        entry = one.command.entry
        side.monitor.poll()
        side.monitor.events.clear()
        one.worked = False
        setup = ''
        if one.target not in ('fold', 'sink0') or entry.at not in (JOB, EXPORT):
            for step in entry.setup:
                said = self.step(side, step, one.target)
                if said and step is not commands.SERVER:
                    setup = said
                    break
                if not said and not self.reach(side, step):
                    setup = 'its job has failed'
                    break
        if setup:
            one.result = 'n/a'
        else:
            self.execute(one, pair, side)
        if not side.runs() and not self.column.follows:
            raise Fault('the guest stands')
        if one.worked and not self.takes(one):
            # From here on an undo may hide what it did
            pair.look()
        if one.worked and (entry.undo is None or not undo):
            return
        self.undo(side, one)
        if not setup and not self.takes(one):
            self.look_again(pair, one)

    def reach(self, side: Side, step: commands.Step) -> bool:
        """Wait until the job of @step is where it is of use; False if it is
        gone."""
        jobs: dict[str, str] = {}

        def come() -> bool:
            jobs.clear()
            jobs.update((job['id'], job['status'])
                        for job in side.execute('query-jobs'))
            return jobs.get('j1') in (None, wanted_status, 'concluded')

        for what, wanted_status in commands.REACHED:
            if step is what:
                until(f'a job that is {wanted_status}', come, side)
                return 'j1' in jobs
        return True

    def execute(self, one: Try, pair: Pair, side: Side) -> None:
        """The command itself."""
        entry = one.command.entry
        said = self.step(side, one.command.step, one.target, entry.answer)
        if not said:
            said = self.settle(side, entry.at == JOB)
            said = f'its job fails: {said}' if said else ''
            one.worked = True
        one.result = f'refused: {said}' if said else 'works'
        if one.worked and entry.writes is not None and \
                one.target in GUEST_OF[self.column]:
            pair.put(entry.writes, *commands.WRITTEN)
        if one.worked and one.target == 'fold':
            pair.may_stay = True

    def takes(self, one: Try) -> bool:
        """The guest has no disk any more, or one that cannot be read, as it
        was told to."""
        entry = one.command.entry
        return one.worked and not self.column.in_session and (
            entry.takes and one.target == 'disk0' or
            entry.at == PEER and one.target == 'children.0')

    def look_again(self, pair: Pair, one: Try) -> None:
        """After an undo, or what was refused: all is as it was before."""
        try:
            if one.worked:
                pair.look()
            elif pair.in_session and pair.primary.status()['mode'] == 'none':
                raise Over('the session has ended')
        except (Fault, Over, QmpError) as error:
            raise Undone(f'afterwards: {error}') from error

    def undo(self, side: Side, one: Try) -> None:
        """Back to what it was before @one, as far as that is possible."""
        entry = one.command.entry
        back = entry.undo if entry.undo is not None else ()
        for step in back if one.worked or entry.setup else ():
            self.step(side, step, one.target)
        names = {n['node-name'] for n in
                 side.execute('query-named-block-nodes')}
        for job in side.execute('query-jobs'):
            if job['id'] == 'j1' or not job['id'].startswith('replication-'):
                for name, key in (('job-cancel', 'id'),
                                  ('job-dismiss', 'id')):
                    self.step(side, (name, {key: job['id']}), '')

        def no_jobs() -> bool:
            jobs = [j for j in side.execute('query-jobs')
                    if not j['id'].startswith('replication-')]
            for job in jobs:
                if job['status'] == 'concluded':
                    self.step(side, ('job-dismiss', {'id': job['id']}), '')
            return not jobs

        until('an end of jobs', no_jobs, side)
        if entry.at == EXPORT or one.worked or entry.setup:
            self.step(side, ('block-export-del',
                             {'id': 'e1', 'mode': 'hard'}), '')
        for name in ('n1', 'n2', 'n3'):
            if name in names and name in {
                    n['node-name'] for n in
                    side.execute('query-named-block-nodes')}:
                said = self.step(side, ('blockdev-del',
                                        {'node-name': name}), '')
                if said:
                    one.worked = True       # no way back: look at it apart
        if self.column.side == 'primary' and self.column.state != 'folded':
            self.step(side, ('nbd-server-stop', {}), '')

    # Pairs

    def begin(self) -> Pair:
        if self.pair and self.column.state == 'folding' and \
                not self.pair.fold_job():
            self.finish()
        if not self.pair:
            self.pair = Pair(self.run, self.binary, self.column.state)
            self.since = []
            self.tries = 0
        self.tries += 1
        return self.pair

    def drop(self) -> None:
        if self.pair:
            self.pair.end()
            self.pair = None

    def finish(self) -> None:
        """End the pair; if it is not as it should be find out who did it."""
        if not self.pair:
            return
        worked, self.since = self.since, []
        try:
            self.pair.finish()
            self.drop()
        except (Fault, Over, QmpError) as error:
            self.drop()
            if not worked:
                self.strange.append(' '.join(str(error).split()))
            else:
                self.apart(worked)

    def apart(self, worked: list[Try]) -> None:
        """One of them, or several together, did something to a pair."""
        if len(worked) == 1:
            self.alone(worked[0])
            return
        half = len(worked) // 2
        for part in (worked[:half], worked[half:]):
            for one in part:
                self.single(one)
            self.finish()

    def alone(self, one: Try) -> None:
        """With a pair of its own, and no way back: what is said counts."""
        self.drop()
        self.since = []
        try:
            self.attempt(one, False)
            if self.pair and (not self.takes(one) or
                              one.command.entry.at == PEER):
                self.pair.finish()
        except (Fault, Over, QmpError) as error:
            self.judge(one, error)
        finally:
            self.drop()

    def judge(self, one: Try, error: Exception) -> None:
        said = ' '.join(str(error).split())
        if isinstance(error, Over):
            then = 'then migrate' if self.column.state == 'before' else \
                'ends the session'
            one.result = f'{then}: {said.removeprefix("migrate: ")}'
        else:
            one.result = f'FAULT: {said}'

    def single(self, one: Try) -> None:
        """Try @one in the pair that there is."""
        others = self.since
        try:
            self.attempt(one)
        except (Fault, Over, QmpError) as error:
            self.note(f'{one.key}: not alone: {error}')
            self.alone(one)
            # What else this pair held is to be looked at again
            for other in others:
                self.single(other)
            if others:
                self.finish()
            return
        known = self.known.get(one.cell(self.column).key)
        if known and self.tries > 1 and \
                known != table.said(clean(one.result, self.run.parent)):
            # What was done before may have changed it
            self.note(f'{one.key}: not alone: {one.result}')
            if one.worked:
                self.since.append(one)
            self.finish()
            self.alone(one)
        elif one.worked and self.takes(one):
            self.drop()
            for other in others:
                self.single(other)
        elif one.worked:
            self.since.append(one)
            if one.command.entry.undo is None or len(self.since) >= GROUP:
                self.finish()

    def run_all(self, tries: list[Try], known: dict[str, str],
                say: Any) -> None:
        # Those without a way back, or that do harm, last, each by itself
        begin = time.monotonic()
        self.note = lambda text: say(f'{self.column}: {text}')
        self.known = {} if self.fresh else known

        def by_itself(one: Try) -> bool:
            kind = table.kind(known.get(one.cell(self.column).key, ''))
            return one.command.entry.undo is None and kind != 'refused' or \
                kind in ('then migrate', 'ends the session', 'FAULT')

        for one in sorted(tries, key=by_itself):
            if by_itself(one):
                self.finish()
                self.alone(one)
            else:
                self.single(one)
            self.note(f'{one.key}: {one.result[:200]}')
        self.finish()
        self.drop()
        self.note(f'{time.monotonic() - begin:.0f} s')


def wanted(tries: list[Try], args: argparse.Namespace,
           number: int) -> list[Try]:
    found = [one for one in tries if re.search(args.pattern, one.key)]
    if args.quick:
        found = [one for at, one in enumerate(found)
                 if HARM.match(one.key) or at % SHARE == number % SHARE and
                 one.command.entry.undo is not None]
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--build', type=Path, default=ROOT / 'build/check')
    parser.add_argument('-k', dest='pattern', default='',
                        help='commands and nodes that match')
    parser.add_argument('--column', action='append', default=[],
                        help='STATE/SIDE (may be repeated)')
    parser.add_argument('--quick', action='store_true', help='a part of it')
    parser.add_argument('--long', action='store_true', help='all (default)')
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--raw', type=Path, help='write results as JSON')
    parser.add_argument('--write-table', type=Path, nargs='*', metavar='RAW',
                        help='make the table of the manual from such files, '
                        'or from this run')
    parser.add_argument('--fresh', action='store_true',
                        help='do not try again what the table has otherwise')
    parser.add_argument('-v', '--verbose', action='store_true')
    return parser.parse_args()


def schema_of(binary: Path, run: Path) -> list[dict[str, Any]]:
    side = Side(run, 'schema', binary, [
        '-drive', 'if=none,id=disk0,driver=null-co'])
    try:
        side.start([])
        schema: list[dict[str, Any]] = side.execute('query-qmp-schema')
        return schema
    finally:
        side.end()


def load(paths: list[Path]) -> list[Cell]:
    return [Cell(**item) for path in paths
            for item in json.loads(path.read_text(encoding='utf-8'))]


def run_columns(args: argparse.Namespace, run: Path,
                told: dict[str, str]) -> list[Cell]:
    binary = args.build.resolve() / 'qemu-system-x86_64'
    known = commands.all_commands(ROOT / 'build' / 'base',
                                  schema_of(binary, run))

    def column(number: int) -> list[Cell]:
        where = COLUMNS[number]
        tries = wanted([Try(c, t) for c in known for t in targets(c, where)],
                       args, number)
        trial = Trial(where, run / str(where).replace('/', '-'), binary,
                      args.fresh)
        try:
            trial.run_all(tries, told, lambda text: print(
                f'# {text}', flush=True) if args.verbose else None)
        finally:
            trial.drop()
        cells = [one.cell(where) for one in tries] + [
            Cell('what is refused', '', '', str(where), f'FAULT: {problem}',
                 False) for problem in trial.strange]
        for cell in cells:
            cell.result = clean(cell.result, run)
        return cells

    numbers = [n for n, c in enumerate(COLUMNS)
               if not args.column or str(c) in args.column]
    with ThreadPoolExecutor(args.jobs) as pool:
        return [cell for cells in pool.map(column, numbers) for cell in cells]


def clean(text: str, run: Path) -> str:
    """Without names that are others in each run."""
    text = re.sub(re.escape(str(run)) + r'/[\w-]+/(primary|secondary)/', '',
                  text)
    text = re.sub(re.escape(str(run)) + r'/[\w-]+', '', text)
    return re.sub(r'\bnew\d+\b', 'new', re.sub(r'#block\d+', '#block', text))


def report(cells: list[Cell], told: dict[str, str]) -> None:
    """One test for each; what the table marks as lost is known."""
    failed = 0
    for number, cell in enumerate(cells, 1):
        found, known = table.said(cell.result), told.get(cell.key, 'nothing')
        problem = '' if found == known else \
            f'{cell.result}, but the table says {known}'
        failed += bool(problem)
        todo = ' # TODO known' if found == known == 'FAULT' else ''
        print(f'{"not ok" if problem or todo else "ok"} {number} - '
              f'{cell.text}{todo}')
        if problem or todo:
            print(f'# {cell.result if todo else problem}')
    print(f'1..{len(cells)}')
    sys.exit(bool(failed))


def main() -> None:
    args = arguments()
    if args.write_table:
        table.write(load(args.write_table))
        return
    told = table.read()
    scratch = Path(tempfile.mkdtemp(prefix='colo-block-'))
    try:
        cells = run_columns(args, scratch, told)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if args.raw:
        args.raw.write_text(json.dumps([vars(cell) for cell in cells],
                                       indent=1), encoding='utf-8')
    if args.write_table is not None:
        table.write(cells)
        told = table.read()
    report(cells, told)


if __name__ == '__main__':
    main()
