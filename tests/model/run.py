#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Check the model of a session (colo.pml) with SPIN. Prints TAP.

Each search visits all states that its configuration can reach, and says how
many these are. Faults are put back into the model one by one, and each has to
be found. The states and transitions that the searches have seen are compared
with those of the code.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Set, Tuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODEL = ('colo.pml', 'primary.pml', 'secondary.pml', 'world.pml')
SIDES = {'P': 'Primary', 'S': 'Secondary'}
MIB = 950               # memory of a search, of a long one
MIB_LONG = 6000
SECONDS = 300           # and its time, if the machine is slow
SECONDS_LONG = 4 * 3600
DEPTH = 100000

# Side, from, to
Transition = Tuple[str, str, str]


@dataclass
class Search:
    """All states of one configuration."""
    name: str
    defines: str
    long: bool = False


@dataclass
class Fault:
    """A fault that is put back, and the rule that it has to break."""
    name: str
    defines: str
    rule: str
    why: str


# Without SKEW the clocks agree; then a timeout of two ticks is enough
ARBITER = '-DARBITER -DSKEW=0'
NONE = '-DSKEW=0'
CLOCKS = '-DARBITER -DTIMEOUT=3'

SEARCHES = (
    Search('no-fault', f'{ARBITER} -DCUTS=2 -DFAULTS=0 -DWORDS=0'),
    Search('no-fault-hybrid',
           f'{ARBITER} -DHYBRID -DCUTS=2 -DFAULTS=0 -DWORDS=0'),
    Search('operator', f'{NONE} -DFAULTS=2 -DWORDS=1'),
    Search('operator-hybrid', f'{NONE} -DHYBRID -DFAULTS=2 -DWORDS=0'),
    Search('arbiter', f'{ARBITER} -DFAULTS=2 -DWORDS=1'),
    Search('arbiter-hybrid', f'{ARBITER} -DHYBRID -DFAULTS=2 -DWORDS=0'),
    Search('arbiter-hybrid-word', f'{ARBITER} -DHYBRID -DFAULTS=1 -DWORDS=1'),
    Search('arbiter-two-words', f'{ARBITER} -DFAULTS=1 -DWORDS=2'),
    Search('arbiter-clocks', f'{CLOCKS} -DFAULTS=1 -DWORDS=1'),
    Search('fence', f'{ARBITER} -DFENCE -DFAULTS=2 -DWORDS=0'),
    Search('whole-gate', f'{ARBITER} -DWHOLE_GATE -DFAULTS=2 -DWORDS=0'),
    Search('operator-long', f'{NONE} -DFAULTS=3 -DWORDS=2', True),
    Search('operator-hybrid-long',
           f'{NONE} -DHYBRID -DFAULTS=3 -DWORDS=0', True),
    Search('operator-cuts-long', f'{NONE} -DCUTS=2 -DFAULTS=2 -DWORDS=2',
           True),
    Search('operator-clocks-long',
           '-DTIMEOUT=3 -DFAULTS=2 -DWORDS=1', True),
    Search('arbiter-long', f'{ARBITER} -DFAULTS=3 -DWORDS=1', True),
    Search('arbiter-hybrid-long',
           f'{ARBITER} -DHYBRID -DFAULTS=3 -DWORDS=0', True),
    Search('arbiter-cuts-long', f'{ARBITER} -DCUTS=2 -DFAULTS=2 -DWORDS=2',
           True),
    Search('arbiter-clocks-long', f'{CLOCKS} -DFAULTS=2 -DWORDS=1', True),
    Search('fence-long', f'{ARBITER} -DFENCE -DFAULTS=3 -DWORDS=0', True),
    Search('fence-hybrid-long', f'{ARBITER} -DFENCE -DHYBRID -DFAULTS=2 '
           '-DWORDS=1', True),
    Search('whole-gate-hybrid-long', f'{ARBITER} -DWHOLE_GATE -DHYBRID '
           '-DFAULTS=2 -DWORDS=1', True),
)

FAULTS = (
    Fault('release-early', f'{ARBITER} -DFAULTS=1 -DWORDS=0', 'behind',
          'output is released at the cut, not at the commit'),
    Fault('ack-early', f'{ARBITER} -DFAULTS=2 -DWORDS=0', 'behind',
          'the commit is confirmed before all of it is there'),
    Fault('old-words', f'{ARBITER} -DHYBRID -DFAULTS=1 -DWORDS=0', 'behind',
          'what the secondary said in another epoch counts as the same'),
    Fault('time-alone', f'{NONE} -DFAULTS=1 -DWORDS=0', 'two_live',
          'whoever has waited for long enough goes on'),
    Fault('lease-expires', f'{ARBITER} -DFAULTS=1 -DWORDS=0', 'two_live',
          'the arbiter forgets who has won'),
    Fault('back-after-ask', f'{ARBITER} -DFAULTS=2 -DWORDS=0', 'stuck',
          'who has asked goes back when it hears the peer; when it dies, '
          'later, the other side has lost'),
    Fault('no-takeover', f'{NONE} -DFAULTS=1 -DWORDS=2', 'two_live',
          'whoever goes on does not say so'),
    Fault('read-last', f'{NONE} -DFAULTS=2 -DWORDS=2', 'two_live',
          'the secondary looks at its clock before it reads what is there'),
    Fault('no-gate', f'{ARBITER} -DFAULTS=2 -DWORDS=0', 'late_write',
          'the primary writes without a look at its clock'),
    Fault('heard-when-read', f'{ARBITER} -DCALM=9 -DFAULTS=2 -DWORDS=0',
          'late_write',
          'the gate goes by when a frame was read, not by when the ping was '
          'sent that it answers'),
    Fault('no-margin', f'{CLOCKS} -DMARGIN=0 -DFAULTS=2 -DWORDS=0',
          'late_write', 'both go by the same time, on different clocks'),
    Fault('clock-stops', f'{ARBITER} -DFAULTS=2 -DWORDS=0', 'late_write',
          'the clock of a host stands while the host does'),
    Fault('eof-decides', f'{ARBITER} -DFAULTS=1 -DWORDS=0', 'late_write',
          'the secondary asks as soon as the connection ends'),
    Fault('bye-goes-on', f'{ARBITER} -DFAULTS=1 -DWORDS=1', 'two_live',
          'a primary that was told to go on does so without the arbiter when '
          'its bye is not answered'),
    Fault('bye-live', f'{ARBITER} -DFAULTS=2 -DWORDS=0', 'two_live',
          'a secondary whose bye is not answered may go live'),
    Fault('live-unstarted', f'{ARBITER} -DFAULTS=1 -DWORDS=0', 'two_live',
          'a secondary may go live that was never told to start'),
    Fault('handover-ends', f'{ARBITER} -DFAULTS=1 -DWORDS=1', 'stuck',
          'the primary is out when it has sent handover, and the secondary '
          'dies before it has got that'),
    Fault('handover-unasked', f'{ARBITER} -DFAULTS=1 -DWORDS=1', 'two_live',
          'the secondary goes live on handover without the arbiter, which the '
          'primary asks when it gets no answer'),
    Fault('handover-open',
          f'{ARBITER} -DHYBRID -DWHOLE_GATE -DFAULTS=1 -DWORDS=1', 'late_write',
          'the primary goes on writing after it has handed over'),
    Fault('lost-silent', f'{NONE} -DFAULTS=1 -DWORDS=0', 'protection',
          'who is lost falls silent, so that both stay lost'),
    Fault('lost-runs', f'{ARBITER} -DHYBRID -DFAULTS=1 -DWORDS=0', 'behind',
          'a secondary that is lost in a checkpoint lets its guest run, and '
          'goes back'),
    Fault('drop-committed', f'{ARBITER} -DFAULTS=2 -DWORDS=0', 'unloaded',
          'the secondary can be lost when it has committed'),
    Fault('live-in-load', f'{ARBITER} -DFAULTS=2 -DWORDS=0', 'half',
          'and in the middle of a load'),
    Fault('no-pings', f'{NONE} -DFAULTS=0 -DWORDS=0', 'healthy',
          'nobody speaks when there is nothing to do'),
    Fault('bye-stands', f'{ARBITER} -DFAULTS=0 -DWORDS=2', 'unexpected',
          'a primary that is about to hand over, and is told to go on, takes '
          'the answer to its bye for one to handover'),
    Fault('untold', f'{NONE} -DBUG_NO_TAKEOVER -DFAULTS=1 -DWORDS=1',
          'unended', 'as no-takeover: the other side waits for good'),
    Fault('two-words', f'{NONE} -DFAULTS=1 -DWORDS=2', 'two_live',
          'the operator tells both sides to go on while they cannot talk: no '
          'fault of ours, the assumption is needed'),
)

# States that the model has and the code has not yet, and transitions.  The
# entry goes when the code has it.
NEW_STATES: Set[Tuple[str, str]] = set()
NEW: Set[Transition] = {
    # The code gives up there; in the model silence is silence
    ('P', 'lost', 'starting'),
}

# Transitions that the code allows and the model does not make
DISK = 'a fault of this side while it has frames to send; as from running'
NEXT = 'the model reads nothing then; it goes on or is lost, and ends there'
DIRECT = 'goes by way of lost: the word waits for the timeout and the margin'
MORE: Dict[Transition, str] = {
    ('P', 'starting', 'ending'): 'an error before start; as bye of the other',
    **{('P', place, 'ending'): DISK for place in
       ('requesting', 'cutting', 'sending', 'committing', 'loading')},
    **{('P', place, 'alone'): NEXT for place in ('cutting', 'sending')},
    **{('P', place, 'ended'): NEXT for place in
       ('cutting', 'sending', 'loading')},
    ('S', 'lost', 'ending'): 'a fault of this side while it is lost',
    ('P', 'loading', 'alone'): 'the secondary says bye after vmstate-loaded',
    ('S', 'starting', 'lost'): 'before start it must not go live: it is ended',
    ('S', 'starting', 'live'): 'the same',
    ('S', 'replied', 'live'): DIRECT,
    ('S', 'receiving', 'live'): DIRECT,
    ('S', 'loading', 'lost'): 'after the load it is standing or running first',
    ('S', 'loading', 'ending'): 'a load that fails: no single fault',
    ('S', 'loading', 'live'): 'after the load it is standing or running first',
    ('S', 'loading', 'ended'): 'the same',
    ('S', 'ending', 'lost'): 'who has said bye is out for good, heard or not',
    ('S', 'ending', 'live'): 'the same',
}


class Failure(Exception):
    """A test that failed, and why."""


def numbers(side: str) -> Dict[int, str]:
    """The states of a side in the model."""
    text = (HERE / 'colo.pml').read_text()
    return {int(number): name.lower() for name, number in
            re.findall(rf'^#define {side}_([A-Z]+) +(\d+)$', text, re.M)}


def frames() -> List[str]:
    found = re.search(r'^mtype = \{(.*?)\}', (HERE / 'colo.pml').read_text(),
                      re.M | re.S)
    assert found
    return [name.strip() for name in found.group(1).split(',')]


def states_of_code(side: str) -> List[str]:
    """The states of a side in the schema."""
    text = (ROOT / 'qapi' / 'colo.json').read_text()
    found = re.search(rf"'enum': 'Colo{SIDES[side]}State',\s*'data': \[(.*?)\]",
                      text, re.S)
    if not found:
        raise Failure(f'qapi/colo.json has no Colo{SIDES[side]}State')
    return re.findall(r"'([\w-]+)'", found.group(1))


def transitions_of_code(side: str) -> Set[Transition]:
    """What the table of migration/colo/state.c allows."""
    text = (ROOT / 'migration' / 'colo' / 'state.c').read_text()
    macros = {name: re.sub(r'\\\n', '', value) for name, value in
              re.findall(r'^#define (\w+) \(((?:.|\\\n)*?)\)$', text, re.M)}
    table = re.findall(rf'\[COLO_{SIDES[side].upper()}_STATE_(\w+)\]\s*='
                       r'([^,]*),', text)
    found: Set[Transition] = set()
    for name, value in table:
        for macro, meaning in macros.items():
            value = re.sub(rf'\b{macro}\b', meaning, value)
        rest = re.sub(rf'\b{side}\(\w+\)', '', value)
        if rest.strip(' |()\n') not in ('', '0'):
            raise Failure(f'state.c: what does {value.strip()} mean?')
        found |= {(side, name.lower(), to.lower())
                  for to in re.findall(rf'\b{side}\((\w+)\)', value)}
    if not found:
        raise Failure('migration/colo/state.c has no table that is understood')
    return found


@dataclass
class Outcome:
    """Of a search."""
    broken: str             # the rule that does not hold, '' if all do
    complete: bool
    stored: int
    depth: int
    seconds: float
    mib: float
    transitions: Set[Transition]

    def __str__(self) -> str:
        return (f'{self.stored} states, depth {self.depth}, '
                f'{self.seconds:.1f} s, {self.mib:.0f} MiB, '
                + ('complete' if self.complete else 'not complete'))


def run(directory: Path, seconds: float, *command: str) -> str:
    done = subprocess.run(command, cwd=directory, check=False, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=seconds)
    return done.stdout


def number_in(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    if not found:
        raise Failure(f'the search was cut short: {text[-2000:]}')
    return float(found.group(1))


def note_transitions(text: str) -> Set[Transition]:
    names = {side: numbers(side) for side in SIDES}
    return {(side, names[side][int(a)], names[side][int(b)])
            for number, a, b in
            re.findall(r'^transition (\d) (\d+) (\d+)$', text, re.M)
            for side in (list(SIDES)[int(number)],)}


def search(directory: Path, defines: str, shortest: bool,
           long: bool) -> Outcome:
    """Build the verifier and run it. @shortest: go breadth first.

    To optimize takes longer than it saves, except in a long search.
    """
    for name in MODEL:
        shutil.copy(HERE / name, directory)
    said = run(directory, 60, 'spin', '-a', *defines.split(), 'colo.pml')
    if not (directory / 'pan.c').exists() or 'rror' in said:
        raise Failure(f'spin: {said}')
    said = run(directory, 300, os.environ.get('CC', 'gcc'),
               '-O2' if long else '-O0' if shortest else '-O1', '-w',
               '-DSAFETY', '-DNOREDUCE', '-DCOLLAPSE',
               f'-DMEMLIM={MIB_LONG if long else MIB}',
               *(['-DBFS'] if shortest else []), '-o', 'pan', 'pan.c')
    if not (directory / 'pan').exists():
        raise Failure(f'the verifier does not compile: {said}')
    begin = time.monotonic()
    text = run(directory, SECONDS_LONG if long else SECONDS, './pan',
               f'-m{DEPTH}', '-w20')
    took = time.monotonic() - begin
    violated = re.search(r'^pan:\d+: (.*?) \(at depth', text, re.M)
    rule = violated.group(1) if violated else ''
    tag = re.match(r'assertion violated +!\((\w+)\)', rule)
    complete = ('Search not completed' not in text and
                'too small' not in text and 'reached -DMEMLIM' not in text)
    return Outcome(tag.group(1) if tag else rule, complete,
                   int(number_in(text, r'([\de.+]+) states, stored')),
                   int(number_in(text, r'depth reached (\d+)')), took,
                   number_in(text, r'([\d.]+)\ttotal actual memory'),
                   note_transitions(text))


def trail(directory: Path) -> List[str]:
    """The way to what the search has found, in words."""
    names = {side: numbers(side) for side in SIDES}
    kinds = frames()
    lines = []
    for line in run(directory, 60, './pan', '-r').splitlines():
        moved = re.match(r'([PS]) (\d+) (\d+)$', line)
        frame = re.match(r'([PS]) (sends|reads) (\d+)$', line)
        if line.startswith(('pan:', 'spin:', '#')):
            break
        if moved:
            side = names[moved.group(1)]
            lines.append(f'    {moved.group(1)} {side[int(moved.group(2))]}'
                         f' -> {side[int(moved.group(3))]}')
        elif frame:
            # SPIN counts them from the last one
            lines.append(f'    {frame.group(1)} {frame.group(2)} '
                         f'{kinds[len(kinds) - int(frame.group(3))]}')
        elif not re.match(r' *\d+:', line):
            lines.append(line)
    return lines


class Tests:
    """The tests in their order; each prints its remarks, or fails."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.seen: Set[Transition] = set()
        self.unsearched: List[str] = []
        self.list: List[Tuple[str, Callable[[], None]]] = []
        if args.only != 'faults':
            self.add('states', self.states)
            for one in SEARCHES:
                if args.long or not one.long:
                    self.add(f'search/{one.name}',
                             lambda one=one: self.search(one))
            self.add('transitions', self.transitions)
        if args.only != 'searches':
            for bad in FAULTS:
                self.add(f'fault/{bad.name}',
                         lambda bad=bad: self.fault(bad))

    def add(self, name: str, test: Callable[[], None]) -> None:
        self.list.append((f'/colo/model/{name}', test))

    def explore(self, defines: str, shortest: bool, long: bool) -> Outcome:
        with tempfile.TemporaryDirectory(prefix='colo-model-') as work:
            found = search(Path(work), defines, shortest, long)
            print(f'# {found}', flush=True)
            if found.broken and (self.args.trail or not shortest):
                for line in trail(Path(work)):
                    print(f'#   {line}')
            return found

    def states(self) -> None:
        """The model has the states of the code, by the same names."""
        for side in SIDES:
            model = set(numbers(side).values())
            code = set(states_of_code(side))
            new = {name for s, name in NEW_STATES if s == side}
            if new & code:
                raise Failure(f'the code has {sorted(new & code)} now: take '
                              'that out of NEW_STATES')
            if model != code | new:
                raise Failure(f'{SIDES[side]}: only the model has '
                              f'{sorted(model - code - new)}, only the code '
                              f'{sorted(code - model)}')

    def search(self, one: Search) -> None:
        """All rules hold, in all states of a configuration."""
        self.unsearched.append(one.name)
        found = self.explore(one.defines, False, one.long)
        if found.broken:
            raise Failure(f'{found.broken} does not hold')
        if not found.complete:
            raise Failure('there are states that were not visited')
        self.seen |= found.transitions
        self.unsearched.remove(one.name)

    def transitions(self) -> None:
        """Each side goes from state to state as the code allows."""
        if self.unsearched:
            raise Failure(f'not all was seen: {self.unsearched}')
        code = transitions_of_code('P') | transitions_of_code('S')
        for what, wrong in (
                ('the code does not allow', self.seen - code - NEW),
                ('the model never does, without a reason in MORE',
                 code - self.seen - set(MORE)),
                ('the model never does, of NEW', NEW - self.seen),
                ('the model does, of MORE', set(MORE) & self.seen),
                ('the code does not allow, of MORE', set(MORE) - code),
                ('the code allows now, of NEW', NEW & code)):
            if wrong:
                raise Failure(f'{what}: ' + ', '.join(
                    f'{side} {a} -> {b}' for side, a, b in sorted(wrong)))
        print(f'# {len(self.seen)} transitions, {len(NEW)} of them new, '
              f'{len(MORE)} of the code with a reason why not')

    def fault(self, bad: Fault) -> None:
        """A fault that is put back is found."""
        print(f'# {bad.why}')
        define = '-DBUG_' + bad.name.upper().replace('-', '_')
        found = self.explore(f'{bad.defines} {define}', True, False)
        if found.broken != bad.rule:
            raise Failure(f'{bad.rule} should not hold, but '
                          f'{found.broken or "nothing"} was found')

    def main(self) -> bool:
        pattern: Optional[str] = self.args.k
        chosen = [(name, test) for name, test in self.list
                  if not pattern or re.search(pattern, name)]
        print(f'TAP version 13\n1..{len(chosen)}', flush=True)
        failed = False
        for number, (name, test) in enumerate(chosen, 1):
            try:
                test()
                print(f'ok {number} - {name}', flush=True)
            except (Failure, subprocess.TimeoutExpired) as why:
                failed = True
                print(f'not ok {number} - {name}')
                for line in str(why).splitlines():
                    print(f'# {line}')
                sys.stdout.flush()
        return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--long', action='store_true',
                        help='larger state spaces too: hours, some GiB')
    parser.add_argument('--only', choices=('searches', 'faults'),
                        help='this half alone')
    parser.add_argument('-k', metavar='REGEX', help='tests with such names')
    parser.add_argument('--trail', action='store_true',
                        help='show how each fault does its harm')
    args = parser.parse_args()
    if not shutil.which('spin'):
        print('TAP version 13\n1..0 # SKIP spin is not installed: run '
              './configure')
        return
    sys.exit(Tests(args).main())


if __name__ == '__main__':
    main()
